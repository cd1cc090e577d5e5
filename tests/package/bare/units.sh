#!/bin/bash
# units.sh - run by test_bare.sh in a booted Debian 12 where the packages are installed: the units do what
# workqueue-deploy(7) says of them, by its own lines.
#
#   units.sh PAGE      workqueue-deploy.7.md
set -u
page=$1
url=http://127.0.0.1:8080
failed=0
cd /root || exit 1

# check TEXT COMMAND... - until the command succeeds, for at most 30 s.
check() {
    local text=$1 n
    shift
    for n in $(seq 150); do
        "$@" >/tmp/said 2>&1 && echo "ok      $text" && return
        sleep .2
    done
    echo "FAILED  $text, after $n tries: $*"
    cat /tmp/said
    failed=1
}

# example N - the Nth example in shell of the page's section on systemd.
example() {
    awk -v n="$1" '/^# /{ in_section = $2 == "SYSTEMD" } !in_section { next }
        /^```/ { shown = !shown && /^```sh/ ? ++k : 0; next }
        shown == n' "$page" >/tmp/example
    [ -s /tmp/example ] || echo "FAILED  there is no example $1"
    sh -eu /tmp/example
}

# property NAME [UNIT]
property() {
    systemctl show -P "$1" "${2-workqueue@hello}"
}

is() {
    [ "$("${@:2}")" = "$1" ]
}

# generate DOCUMENT_SET [URL] - the last record of a job.
generate() {
    curl -sS -N -m 60 -u token:x-auth-token -d server=http://o.example -d "documentSetId=$1" \
        "${2-$url}/generate"
}

succeeds() {
    generate "$@" | grep -q '"returncode": 0\|^\[\]'
}

printf '#!/bin/sh\nfor i in 1 2 3; do echo $i/3; sleep 1; done\ndate >"$4"\n' >hello

# ---- as the page says -----------------------------------------------------------------------------------
example 1 || failed=1
check 'it is started when it listens' is active property ActiveState
check 'somebody runs the program' example 2
check 'and has what it made' test -s made
check 'it is not root' test "$(stat -c %U "/proc/$(property MainPID)")" != root
check 'outputs are in the state directory' \
    sh -c 'find /var/lib/workqueue/hello/ | grep -E "/[0-9a-f]{64}$"'
check 'the journal is there' sh -c 'find /var/lib/workqueue/hello/ -name "*.sqlite*" | grep -q .'
check 'its file may be for root only' \
    sh -c 'chmod 600 /etc/workqueue/hello.conf; systemctl restart workqueue@hello; systemctl is-active workqueue@hello'
check 'nothing is complained of' sh -c '! journalctl -u workqueue@hello -p warning -q | grep .'

# ---- a job of its own group; a restart in the middle of it -----------------------------------------------
printf '#!/bin/sh\necho 0.1\nwhile [ ! -e /run/workqueue/hello/go ]; do sleep .1; done\necho ran >"$4"\n' \
    >/usr/local/bin/hello
start() {
    curl -sS -m 30 -o /dev/null -w '%header{location}' -u token:x-auth-token -d server=http://o.example \
        -d "documentSetId=$1" $url/start_work | sed -E 's|/work/([^/]*).*|\1|'
}
state() {
    curl -sS -m 30 "$url/jobs/$1" | sed -E 's/.*"state": *"([a-z]*)".*/\1/'
}
id=$(start restart)
check 'it runs' is running state "$id"
if [ -n "$(cat "/sys/fs/cgroup$(property ControlGroup)/cgroup.controllers" 2>/dev/null)" ]; then
    check 'in a group of its own' sh -c \
        "find /sys/fs/cgroup$(property ControlGroup) -mindepth 2 -name cgroup.procs -exec cat {} + | grep -q ."
fi
systemctl restart workqueue@hello
check 'after a restart it runs again, under the same id' is running state "$id"
kill -9 "$(property MainPID)"
check 'after a crash systemd starts it, and the job runs again' is running state "$id"
check 'which systemd has counted' is 1 property NRestarts
touch "/run/workqueue/hello/go"
check 'and succeeds' is succeeded state "$id"

printf '#!/bin/sh\necho 0.5\ndate >"$4"\n' >/usr/local/bin/hello

# ---- the watchdog ----------------------------------------------------------------------------------------
mkdir -p /run/systemd/system/workqueue@hello.service.d
printf '[Service]\nWatchdogSec=2\n' >/run/systemd/system/workqueue@hello.service.d/watchdog.conf
systemctl daemon-reload
systemctl restart workqueue@hello
pid=$(property MainPID)
sleep 5 # more than two periods: it says that it is alive
check 'a server that is well is left alone' is "$pid" property MainPID
kill -STOP "$pid"
check 'one that hangs is started anew' sh -c "systemctl show -P MainPID workqueue@hello | grep -vqx -e $pid -e 0"
check 'and serves' succeeds watchdog

# ---- sockets ---------------------------------------------------------------------------------------------
example 3 || failed=1
check 'the socket waits for a connection' is inactive property ActiveState
check 'which starts the server' succeeds socket http://127.0.0.1
# While it restarts, connections wait.
(for _ in $(seq 40); do curl -sS -m 30 -o /dev/null http://127.0.0.1/ || echo refused; sleep .05; done) \
    >/tmp/refused 2>&1 &
looking=$!
sleep .3
systemctl restart workqueue@hello
wait $looking
check 'no connection is refused by a restart' test ! -s /tmp/refused
systemctl stop workqueue@hello.socket workqueue@hello

# ---- the packager, as far as it goes without a broker -----------------------------------------------------
cat >/etc/workqueue/far.packager.conf <<'END'
broker = stomp://user:password@127.0.0.1:9
store = s3://bucket/far
s3-endpoint = http://127.0.0.1:9
program = /usr/local/bin/hello
END
cat >/etc/workqueue/far.packager.env <<'END'
AWS_ACCESS_KEY_ID=key
AWS_SECRET_ACCESS_KEY=anothersecret
END
systemctl start workqueue-packager@far
check 'a packager looks for its broker' sh -c \
    'journalctl -u workqueue-packager@far | grep -q 127.0.0.1:9 && systemctl is-active workqueue-packager@far'
check 'secrets are in no log' sh -c '! journalctl -u workqueue-packager@far | grep -e password -e anothersecret'
systemctl stop workqueue-packager@far
check 'and stops in good order' is success property Result workqueue-packager@far

# ---- gone ------------------------------------------------------------------------------------------------
apt-get -q purge -y workqueue >/dev/null 2>&1
check 'the package can be removed' test ! -e /usr/bin/workqueue
check 'outputs stay' test -e /var/lib/private/workqueue/hello
exit $failed

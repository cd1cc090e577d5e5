#!/bin/sh
# newcomer.sh - run by test_bare.sh in a bare Debian 12 where the packages are installed: what somebody new
# does first, from what is installed alone.
#
#   newcomer.sh
set -eu
cd /root
examples=/usr/share/doc/libworkqueue-dev/examples
server=
trap '[ -z "$server" ] || kill "$server"' EXIT

fail() {
    echo "FAILED  $*"
    exit 1
}

# serve TEXT COMMAND... - the server does a job for a client; it says its address in a line on stdout or stderr.
serve() {
    text=$1
    shift
    "$@" >said 2>&1 &
    server=$!
    port=
    for _ in $(seq 150); do
        port=$(sed -nE 's|.*(http://\|address=.?\|listening on )127.0.0.1:([0-9]+).*|\2|p' said | head -n 1)
        [ -z "$port" ] || break
        sleep .2
    done
    [ -n "$port" ] || fail "$text: $(cat said)"
    curl -sS -m 60 -u token:x-auth-token -d server=http://o.example -d documentSetId=1 \
        "http://127.0.0.1:$port/generate" >answer
    grep -q '"returncode": 0' answer || fail "$text: $(cat answer said)"
    kill "$server"
    wait "$server" || :
    server=
    echo "ok      $text"
}

printf '#!/bin/sh\nfor i in 1 2 3; do echo $i/3; sleep .1; done\ndate >"$4"\n' >hello
chmod +x hello
workqueue run ./hello >said 2>&1 || fail "workqueue run: $(cat said)"
echo "ok      workqueue run"
serve 'workqueue serve' workqueue serve --program ./hello --listen 127.0.0.1:0

# The twenty lines.
# shellcheck disable=SC2046
cc $examples/plugin.c -o plugin $(pkg-config --cflags --libs workqueue-h2o)
mkdir by-pkg-config
serve 'twenty lines, by pkg-config' ./plugin ./hello by-pkg-config 127.0.0.1:0
# shellcheck disable=SC2046
cc $examples/plugin.c -o static -Wl,-Bstatic -lworkqueue-h2o -lworkqueue-remote -lworkqueue -Wl,-Bdynamic \
    $(pkg-config --static --cflags --libs workqueue-h2o workqueue-remote)
! ldd static | grep workqueue || fail 'the archives were not used'
mkdir by-archive
serve 'twenty lines, by the archives' ./static ./hello by-archive 127.0.0.1:0
cmake -S $examples -B built >said 2>&1 && cmake --build built >>said 2>&1 || fail "CMake: $(cat said)"
mkdir by-cmake
serve 'twenty lines, by CMake' built/example-plugin ./hello by-cmake 127.0.0.1:0

# A Flask plugin as it was, but for one import.
cp /usr/share/doc/python3-workqueue/examples/flask_plugin.py .
PROGRAM=./hello STORAGE=by-flask serve 'a Flask plugin, by one import' flask --app flask_plugin run --port 0

for page in workqueue.1 workqueue-serve.1 workqueue-program.7 libworkqueue.3 demo-plugin.1; do
    find /usr/share/man -name "$page.gz" | grep -q . || fail "no page $page"
done
process=/usr/libexec/workqueue/process-docset
[ -x $process ] || fail "no $process"
mkdir documents
echo words >documents/one.txt
demo-plugin --sample documents --listen 127.0.0.1:0 >said 2>&1 &
server=$!
for _ in $(seq 150); do
    ! grep -q 'listening on' said || break
    sleep .2
done
address=$(sed -n 's/^listening on //p' said)
curl -sS -m 60 -u sample:x-auth-token -d "server=$address" -d documentSetId=1 "$address/generate" |
    grep -q '"returncode": 0' || fail "demo-plugin: $(cat said)"
echo "ok      the example plugin"

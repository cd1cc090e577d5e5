#!/bin/bash
# test_bare.sh - on a bare Debian 12: apt installs the packages, somebody new gets along with what is
# installed, and systemd runs the units. In a folder made by debootstrap, booted by systemd-nspawn without
# a network; the machine's own systemd is not needed.
#
#   test_bare.sh SOURCE
#
# Skipped (77), with a reason, where such a Debian cannot be made: without root, without debootstrap and
# systemd-nspawn, without Debian's archive within reach, or in a container that lets nobody mount.
# BARE_MIRROR names another mirror of the archive, BARE_PACKAGES a folder with packages that have been built.
set -u -o pipefail
source=$1
here=$(cd "$(dirname "$0")" && pwd)
mirror=${BARE_MIRROR:-http://deb.debian.org/debian}

skip() {
    echo "test_bare.sh: skipped: $*"
    exit 77
}

[ "$(id -u)" -eq 0 ] || skip "only root can make a system of its own"
for tool in debootstrap systemd-nspawn curl cpack pandoc; do
    command -v $tool >/dev/null || skip "$tool is not installed"
done
[ "$(dpkg --print-architecture)" = "$(dpkg-query -W -f='${Architecture}' libc6 2>/dev/null || echo amd64)" ] ||
    skip "the packages are for another architecture"
unshare -m mount -t tmpfs none /mnt 2>/dev/null || skip "nothing can be mounted here"
curl -sSf -m 20 -o /dev/null "$mirror/dists/bookworm/InRelease" 2>/dev/null || skip "$mirror is out of reach"

work=$(mktemp -d /var/tmp/wq-bare.XXXXXX)
root=$work/root
trap 'rm -rf --one-file-system "$work"' EXIT
trap 'exit 1' INT TERM

fail() {
    echo "test_bare.sh: $*"
    tail -n 40 "$work/log"
    exit 1
}

# inside COMMAND... - in that system, not booted, with the network of this one.
inside() {
    timeout 300 systemd-nspawn -q -D "$root" --register=no --keep-unit --pipe --resolv-conf=replace-host \
        --setenv=DEBIAN_FRONTEND=noninteractive "$@" </dev/null
}

timeout 400 debootstrap --variant=minbase --include=systemd-sysv,dbus bookworm "$root" "$mirror" \
    >"$work/log" 2>&1 || { tail -n 5 "$work/log"; skip "debootstrap cannot make a system here"; }
inside true >"$work/log" 2>&1 || { cat "$work/log"; skip "systemd-nspawn cannot run anything here"; }

build_packages() {
    local launcher=
    ! command -v ccache >/dev/null || launcher=-DCMAKE_C_COMPILER_LAUNCHER=ccache
    cmake -S "$source" -B "$work/build" -G Ninja $launcher -DCMAKE_INSTALL_PREFIX=/usr -DWQ_TESTS=OFF &&
        cmake --build "$work/build" -j "$(nproc)" && (cd "$work/build" && cpack -G DEB)
}
packages=${BARE_PACKAGES:-$work/build}
[ -n "${BARE_PACKAGES-}" ] || build_packages >"$work/log" 2>&1 || fail "the packages could not be built"
mkdir "$root/test"
cp "$packages"/*.deb "$here"/bare/* "$source/workqueue/doc/workqueue-deploy.7.md" "$root/test"

inside sh -c 'apt-get -q install -y --no-install-recommends /test/*.deb' >"$work/log" 2>&1 ||
    fail "apt does not install the packages"
echo "ok      apt installs the packages"
inside apt-get -q install -y --no-install-recommends gcc libc6-dev pkg-config cmake make curl python3-flask \
    >"$work/log" 2>&1 || fail "apt does not install what a newcomer uses"
inside sh /test/newcomer.sh 2>"$work/log" || fail "newcomer.sh"

# As process 1 of a container, which a signal ends in good order.
systemd-nspawn -q -D "$root" --register=no --keep-unit --pipe --kill-signal=SIGTERM --setenv=STATE_DIRECTORY=/root/state \
    workqueue serve --program /root/hello --listen 127.0.0.1:0 </dev/null >"$work/log" 2>&1 &
container=$!
trap 'kill -KILL "$container" 2>/dev/null; wait "$container" 2>/dev/null; rm -rf --one-file-system "$work"' EXIT
address=
for _ in $(seq 150); do
    address=$(sed -n 's/^listening on //p' "$work/log")
    [ -z "$address" ] || break
    sleep .2
done
curl -sS -N -m 60 -d 'server=http://o.example&documentSetId=1&apiToken=t' "$address/generate" |
    grep -q '"returncode": 0' || fail "no job ends in a container"
kill -TERM "$container"
for _ in $(seq 150); do
    kill -0 "$container" 2>/dev/null || break
    sleep .2
done
grep -q event=stopped "$work/log" || fail "the container does not stop in good order"
trap 'rm -rf --one-file-system "$work"' EXIT
echo "ok      process 1 of a container"

# Booted, with a unit that runs the test and switches off.
cat >"$root/etc/systemd/system/test.service" <<'UNIT'
[Unit]
Wants=dbus.service
After=dbus.service
SuccessAction=poweroff-force
FailureAction=poweroff-force
[Service]
Type=oneshot
StandardOutput=file:/test/said
StandardError=inherit
ExecStart=/bin/bash /test/units.sh /test/workqueue-deploy.7.md
ExecStopPost=/bin/sh -c 'echo "$EXIT_STATUS" >/test/status'
[Install]
WantedBy=multi-user.target
UNIT
ln -s /etc/systemd/system/test.service "$root/etc/systemd/system/multi-user.target.wants/"
SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 timeout 400 systemd-nspawn -D "$root" --register=no --keep-unit \
    --private-network --boot </dev/null >"$work/log" 2>&1
[ -e "$root/test/said" ] || { tail -n 20 "$work/log"; skip "systemd does not boot here"; }
cat "$root/test/said"
[ "$(cat "$root/test/status" 2>/dev/null)" = 0 ] || fail "units.sh"

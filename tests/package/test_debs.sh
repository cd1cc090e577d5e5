#!/bin/sh
# test_debs.sh - Debian's packages: lintian finds no error, each has what it is for, what they need is
# said, and systemd takes the units.
#
#   test_debs.sh SOURCE
set -eu
source=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
    echo "test_debs.sh: $*"
    [ ! -s "$work/log" ] || tail -n 40 "$work/log"
    exit 1
}

launcher=
! command -v ccache >/dev/null || launcher=-DCMAKE_C_COMPILER_LAUNCHER=ccache
cmake -S "$source" -B "$work/build" -G Ninja $launcher -DCMAKE_INSTALL_PREFIX=/usr -DWQ_TESTS=OFF \
    >"$work/log" 2>&1 || fail "cmake failed"
cmake --build "$work/build" -j "$(nproc)" >"$work/log" 2>&1 || fail "the build failed"
(cd "$work/build" && cpack -G DEB) >"$work/log" 2>&1 || fail "cpack failed"
lintian --tag-display-limit 0 "$work"/build/*.deb >"$work/log" 2>&1 || :
! grep '^E:' "$work/log" || fail "lintian finds errors"

for package in libworkqueue1 libworkqueue-dev python3-workqueue workqueue workqueue-example; do
    dpkg-deb -x "$work/build/${package}_"*.deb "$work/root"
    dpkg-deb -x "$work/build/${package}_"*.deb "$work/$package"
done

# has PACKAGE PATTERN - a file whose path matches.
has() {
    find "$work/$1" -path "$work/$1/$2" | grep -q . || fail "$1 lacks $2"
}

has libworkqueue1 'usr/lib/*/libworkqueue.so.1'
has libworkqueue-dev 'usr/lib/*/pkgconfig/workqueue-remote.pc'
has libworkqueue-dev 'usr/lib/*/cmake/workqueue/workqueue-config.cmake'
has libworkqueue-dev usr/include/workqueue/http.h
has libworkqueue-dev usr/share/man/man3/libworkqueue.3.gz
has workqueue usr/bin/workqueue
has workqueue usr/share/man/man1/workqueue.1.gz
has workqueue 'usr/share/bash-completion/completions/workqueue'
has workqueue 'usr/lib/systemd/system/workqueue@.service'
has workqueue-example usr/bin/demo-plugin
has workqueue-example usr/share/man/man1/demo-plugin.1.gz
has python3-workqueue usr/lib/python3/dist-packages/libworkqueue.py
dpkg-deb -f "$work"/build/libworkqueue1_*.deb Depends | grep -q libsqlite3-0 ||
    fail "libworkqueue1 does not say what it needs"

# As they would be installed: the units' command is there, and systemd has nothing to say.
mkdir -p "$work/units" "$work/etc"
for unit in workqueue workqueue-packager; do
    sed "s|/usr/bin/workqueue|$work/root/usr/bin/workqueue|" \
        "$work/root/usr/lib/systemd/system/$unit@.service" >"$work/units/$unit@hello.service"
done
systemd-analyze verify --man=no "$work"/units/*.service >"$work/log" 2>&1 || fail "systemd-analyze verify"
[ ! -s "$work/log" ] || fail "systemd-analyze verify has something to say"
# What the manual says of them is what systemd prints.
for unit in "$work"/units/*.service; do
    says=$(LC_ALL=C.UTF-8 systemd-analyze security --no-pager --offline=true "$unit" |
        grep -o 'Overall exposure level for [^ ]*: [0-9.]* [A-Z]*')
    [ -n "$says" ] || fail "systemd-analyze security says nothing of $unit"
    grep -qFx "$says" "$source/workqueue/doc/workqueue-deploy.7.md" || fail "workqueue-deploy(7) does not say: $says"
done
LD_LIBRARY_PATH=$(dirname "$(find "$work/root" -name libworkqueue.so.1)") \
    "$work/root/usr/bin/workqueue" --version >"$work/log" 2>&1 || fail "the command does not run"

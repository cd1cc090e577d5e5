#!/bin/sh
# test_headers.sh - what is installed can be used: each public header compiles alone as strict C11
# and as C++, the shared libraries show the functions of those headers and nothing else, and a
# program builds and runs against an installed copy by pkg-config.
#
#   test_headers.sh BUILD
set -eu
build=$1
source=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# strict COMPILER ARGUMENT... - the folder may have a blank in its name.
strict() {
    "$@" -Wall -Wextra -pedantic -Werror "-I$source/include" -fsyntax-only
}
for header in "$source"/include/workqueue/*.h; do
    printf '#include <workqueue/%s>\n' "${header##*/}" >"$work/alone.c"
    cp "$work/alone.c" "$work/alone.cc"
    for compiler in gcc clang; do
        command -v $compiler >/dev/null || continue
        strict $compiler -std=c11 "$work/alone.c"
    done
    for standard in c++98 c++11 c++17; do
        # long long is not in C++98, yet stdint.h has it.
        strict g++ -std=$standard -Wno-long-long "$work/alone.cc"
    done
done

# functions HEADER... - the names that the headers promise.
functions() {
    sed -nE 's/^WQ_API [^(]*\b(wq_[a-z0-9_]+)\(.*/\1/p' "$@" | sort
}
# same EXPECTED GOT WHAT
same() {
    diff -u "$1" "$2" || { echo "expected $3; the lines with + are what was got"; exit 1; }
}
cd "$source/include/workqueue"
functions workqueue.h extend.h >"$work/core.expected"
functions http.h >"$work/h2o.expected"
functions remote.h >"$work/remote.expected"
[ -s "$work/core.expected" ] && [ -s "$work/h2o.expected" ] && [ -s "$work/remote.expected" ]
for lib in core h2o remote; do
    file=$build/libworkqueue.so
    [ $lib = core ] || file=$build/libworkqueue-$lib.so
    nm -D --defined-only "$file" | awk '{print $NF}' | sort >"$work/$lib.got"
    same "$work/$lib.expected" "$work/$lib.got" "${file##*/} to show just its header's functions"
done

cmake --install "$build" --prefix "$work/installed" >"$work/install.log"
PKG_CONFIG_PATH=$(find "$work/installed" -name pkgconfig -type d)
LD_LIBRARY_PATH=$(dirname "$PKG_CONFIG_PATH")
export PKG_CONFIG_PATH LD_LIBRARY_PATH
cat >"$work/user.c" <<'C'
#include <stdio.h>
#include <workqueue/extend.h>
#include <workqueue/http.h>

int main(void)
{
    wq_options options;
    wq_serve_options serve;
    wq_error error;
    wq_queue *queue;
    int result;

    wq_options_init(&options, sizeof(options));
    wq_serve_options_init(&serve, sizeof(serve));
    result = wq_open(&queue, &options, &error);
    printf("%s %d %u %u\n", wq_version(), result, options.workers, serve.loops);
    return result == WQ_ERROR_INVALID_ARGUMENT && error.message[0] ? 0 : 1;
}
C
# The prefix of an installed .pc is the one configured, so it is told anew here.
flags="$(pkg-config --define-variable=prefix="$work/installed" --cflags --libs workqueue-h2o)"
gcc -std=c11 -Wall -Wextra -pedantic -Werror "$work/user.c" -o "$work/user" $flags
ldd "$work/user" | grep -q "$work/installed.*libworkqueue-h2o" ||
    { echo "expected the installed library to be used; got"; ldd "$work/user"; exit 1; }
got=$("$work/user") || { echo "expected the user's program to succeed; got $got"; exit 1; }
case $got in
[0-9]*.[0-9]*.[0-9]*' -1 2 2') ;;
*) echo "expected a version, -1 and the defaults 2 and 2; got $got"; exit 1 ;;
esac

# The core alone must not need h2o.
pkg-config --define-variable=prefix="$work/installed" --libs workqueue | grep -qv h2o
if ldd "$LD_LIBRARY_PATH/libworkqueue.so" | grep h2o; then
    echo "expected libworkqueue to need no h2o"
    exit 1
fi

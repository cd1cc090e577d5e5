#!/bin/sh
# test_cmake.sh - who builds with CMake or packages the library has nothing to patch: find_package()
# with components, shared and static, after the files were moved; add_subdirectory(); the queue alone;
# whole archives; a link-time optimised build; a unity build; the same bytes from two folders.
#
#   test_cmake.sh SOURCE BUILD
set -eu
source=$1
build=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
jobs=$(nproc)

fail() {
    echo "test_cmake.sh: $*"
    [ ! -s "$work/log" ] || cat "$work/log"
    exit 1
}

# quietly COMMAND... - its output is shown if it fails.
quietly() {
    "$@" >"$work/log" 2>&1 || fail "$* failed"
}

# configure FROM TO OPTION... - with a compiler's cache, where there is one.
configure() {
    from=$1
    to=$2
    shift 2
    launcher=
    ! command -v ccache >/dev/null || launcher=-DCMAKE_C_COMPILER_LAUNCHER=ccache
    quietly cmake -S "$from" -B "$to" -G Ninja $launcher "$@"
}

# ---- installed, and then moved ----------------------------------------------------------------------

quietly cmake --install "$build" --prefix "$work/a prefix"
mv "$work/a prefix" "$work/moved there"
mkdir "$work/user" "$work/parent"
cat >"$work/user/main.c" <<'C'
#include <stdio.h>
#include <workqueue/http.h>
#include <workqueue/remote.h>

int main(void)
{
    wq_serve_options options;
    wq_serve_options_init(&options, sizeof options);
    return puts(wq_version()) < 0 || options.loops == 0;
}
C
cat >"$work/user/CMakeLists.txt" <<'CMAKE'
cmake_minimum_required(VERSION 3.18)
project(user C)
find_package(workqueue 1.0 REQUIRED COMPONENTS h2o remote)
add_executable(shared main.c)
target_link_libraries(shared workqueue::h2o workqueue::remote)
add_executable(static main.c)
target_link_libraries(static workqueue::h2o_static workqueue::remote_static)
CMAKE
configure "$work/user" "$work/user-build" "-DCMAKE_PREFIX_PATH=$work/moved there"
quietly cmake --build "$work/user-build"
for kind in shared static; do
    "$work/user-build/$kind" >/dev/null || fail "$kind does not run"
done
! ldd "$work/user-build/static" | grep libworkqueue || fail "static uses a shared library"

# Every object of all archives: none is there twice, and none lacks what it needs.
lib=$(dirname "$(find "$work/moved there" -name libworkqueue.a)")
# shellcheck disable=SC2046
quietly gcc -pthread "-I$work/moved there/include" "$work/user/main.c" -o "$work/whole" -Wl,--whole-archive \
    "$lib/libworkqueue.a" "$lib/libworkqueue-h2o.a" "$lib/libworkqueue-remote.a" -Wl,--no-whole-archive \
    $(pkg-config --libs libh2o-evloop libssl libcrypto jansson sqlite3 libcurl) -lwslay -lm
"$work/whole" >/dev/null || fail "whole archives do not run"

sed -i 's/COMPONENTS h2o remote/COMPONENTS nonsense/' "$work/user/CMakeLists.txt"
! cmake -S "$work/user" -B "$work/no-build" "-DCMAKE_PREFIX_PATH=$work/moved there" >"$work/log" 2>&1 ||
    fail "a component that does not exist was found"

# ---- a part of somebody's project: only libraries, and no cmocka ------------------------------------------

cat >"$work/parent/CMakeLists.txt" <<CMAKE
cmake_minimum_required(VERSION 3.18)
project(parent C)
set(CMAKE_DISABLE_FIND_PACKAGE_cmocka ON)
add_subdirectory("$source" queue)
add_executable(parent ../user/main.c)
target_link_libraries(parent workqueue::h2o_static workqueue::remote_static)
CMAKE
configure "$work/parent" "$work/parent-build"
quietly cmake --build "$work/parent-build" --target parent -j "$jobs"
"$work/parent-build/parent" >/dev/null || fail "a subproject does not run"
! grep -q ^CMOCKA_ "$work/parent-build/CMakeCache.txt" || fail "a subproject looks for cmocka"

# ---- the queue alone ------------------------------------------------------------------------------------

configure "$source" "$work/alone" -DWQ_HTTP=OFF -DWQ_REMOTE=OFF -DWQ_MANUAL=OFF -DWQ_INSTALL=ON
quietly cmake --build "$work/alone" -j "$jobs"
DESTDIR=$work/dest quietly cmake --install "$work/alone"
[ -e "$work/dest/usr/local/include/workqueue/workqueue.h" ] || fail "DESTDIR is not kept to"
[ ! -e "$work/dest/usr/local/include/workqueue/http.h" ] || fail "a header of what was left out"
! ldd "$work/alone/libworkqueue.so" | grep -E 'h2o|curl|jansson|ssl\.' || fail "the queue needs more"

only="-DWQ_COMMAND=OFF -DWQ_DEMO=OFF -DWQ_TESTS=OFF -DWQ_MANUAL=OFF"

# ---- optimised when linked -------------------------------------------------------------------------------

# shellcheck disable=SC2086
configure "$source" "$work/lto" $only -DCMAKE_INTERPROCEDURAL_OPTIMIZATION=ON \
    -DCMAKE_POLICY_DEFAULT_CMP0069=NEW -DCMAKE_C_FLAGS=-Werror
quietly cmake --build "$work/lto" -j "$jobs"

# ---- a unity build: each library, and the command, as one file ----------------------------------------------

# shellcheck disable=SC2086
configure "$source" "$work/unity" $only -DCMAKE_UNITY_BUILD=ON -DCMAKE_UNITY_BUILD_BATCH_SIZE=0 -DCMAKE_C_FLAGS=-Werror
quietly cmake --build "$work/unity" -j "$jobs"

# ---- the same bytes from two folders ----------------------------------------------------------------------

# In the source's folder and in another; without a compiler's cache, which would make them alike.
mkdir "$work/one" "$work/another, longer"
for folder in "$work/one" "$work/another, longer"; do
    cp -R "$source/CMakeLists.txt" "$source/include" "$source/workqueue" "$source/demo-plugin" "$folder"
done
build_in() {
    # shellcheck disable=SC2086
    quietly env CCACHE_DISABLE=1 cmake -S "$1" -B "$2" -G Ninja $only -DWQ_INSTALL=ON -DCMAKE_BUILD_TYPE=RelWithDebInfo
    quietly env CCACHE_DISABLE=1 cmake --build "$2" -j "$jobs"
    quietly cmake --install "$2" --prefix "$3"
}
build_in "$work/one" "$work/one/build" "$work/one.installed"
build_in "$work/another, longer" "$work/elsewhere" "$work/another.installed"
for name in workqueue workqueue-h2o workqueue-remote; do
    quietly cmp "$work/one/build/lib$name.so" "$work/elsewhere/lib$name.so"
done
quietly diff -r "$work/one.installed" "$work/another.installed"

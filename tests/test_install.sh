#!/bin/sh
# test_install.sh - a stranger's plugin: what `cmake --install` leaves is enough to build one in C
# and one in C++ by pkg-config, against the shared libraries and against the static ones, and it
# streams a job to its end.
#
#   test_install.sh BUILD
set -eu
build=$1
work=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null || :; rm -rf "$work"' EXIT

fail() {
    echo "test_install.sh: $*"
    exit 1
}

cat >"$work/plugin.c" <<'C'
#include <signal.h>
#include <stdio.h>
#include <workqueue/http.h>

int main(int argc, char **argv)
{
    wq_options options;
    wq_serve_options serve;
    wq_queue *queue;
    wq_server *server;
    wq_error error;
    sigset_t term;
    int number;

    if (argc != 3)
        return 2;
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    sigprocmask(SIG_BLOCK, &term, NULL);
    wq_options_init(&options, sizeof options);
    options.program = argv[1];
    options.storage_dir = argv[2];
    wq_serve_options_init(&serve, sizeof serve);
    serve.listen = "127.0.0.1:0";
    if (wq_open(&queue, &options, &error) < 0 || wq_serve(&server, queue, &serve, &error) < 0) {
        fprintf(stderr, "%s\n", error.message);
        return 1;
    }
    printf("%s\n", wq_server_address(server));
    fflush(stdout);
    sigwait(&term, &number);
    wq_server_stop(server);
    wq_close(queue);
    return 0;
}
C

cat >"$work/user.cc" <<'CC'
#include <cstdio>
#include <cstring>
#include <string>
#include <workqueue/extend.h>
#include <workqueue/http.h>
#include <workqueue/workqueue.h>

static void count(void *user)
{
    ++*static_cast<int *>(user);
}

int main(int argc, char **argv)
{
    wq_options options;
    wq_serve_options serve;
    wq_error error;
    wq_queue *queue = NULL;
    wq_job *job = NULL;
    wq_watch *watch = NULL;
    wq_snapshot snapshot;
    int news = 0;

    if (argc != 3)
        return 2;
    wq_serve_options_init(&serve, sizeof serve);
    wq_options_init(&options, sizeof options);
    options.program = argv[1];
    options.storage_dir = argv[2];
    wq_params params = {"a server", "17", "token"};
    if (wq_open(&queue, &options, &error) != WQ_OK ||
        wq_ensure_run(queue, &params, 0, &job, &error) != WQ_OK ||
        wq_job_watch(job, count, &news, &watch) != WQ_OK || wq_job_wait(job, 30000) != WQ_OK) {
        std::printf("%s\n", error.message);
        return 1;
    }
    wq_watch_cancel(watch);
    wq_job_snapshot(job, &snapshot);
    std::string json(wq_snapshot_json(&snapshot, NULL, 0) + 1, '\0');
    wq_snapshot_json(&snapshot, &json[0], json.size());
    std::printf("%s\n", json.c_str());
    wq_snapshot_clear(&snapshot);
    wq_job_unref(job);
    wq_close(queue);
    return 0;
}
CC

cat >"$work/program" <<'SH'
#!/bin/sh
printf '0.5\tworking on %s\n' "$2"
echo "output of $2" >"$4"
SH
chmod +x "$work/program"

# Installed twice: as it is, and without what a linker would prefer to the archives.
cmake --install "$build" --prefix "$work/shared" >"$work/log"
cmake --install "$build" --prefix "$work/static" >>"$work/log"
find "$work/static" -name 'libworkqueue*.so*' -delete

# flags KIND PACKAGE - what pkg-config says of the copy installed for KIND, wherever that is.
flags() {
    static=
    [ "$1" = shared ] || static=--static
    PKG_CONFIG_PATH=$(find "$work/$1" -name pkgconfig -type d) \
        pkg-config $static --cflags --libs "$2"
}

# The core alone and the faces, in C and C++, strictly.
build_all() {
    kind=$1
    warnings="-Wall -Wextra -pedantic -Werror"
    # shellcheck disable=SC2046,SC2086
    {
        gcc -std=c11 -D_POSIX_C_SOURCE=200809L $warnings "$work/plugin.c" -o "$work/plugin-$kind" \
            $(flags "$kind" workqueue-h2o)
        g++ -std=c++11 $warnings "$work/user.cc" -o "$work/user-$kind" \
            $(flags "$kind" workqueue-h2o) $(flags "$kind" workqueue)
    }
    sed -e '/http.h/d' -e '/wq_serve/d' "$work/user.cc" >"$work/core.cc"
    # shellcheck disable=SC2046,SC2086
    g++ -std=c++98 $warnings -Wno-long-long "$work/core.cc" -o "$work/core-$kind" \
        $(flags "$kind" workqueue)
}

expected='{"n_ahead_in_queue": 0, "fraction": 1.0, "message": "working on 17", "returncode": 0, "error": null}'

run_user() {
    mkdir "$work/storage-$1"
    got=$("$work/$1" "$work/program" "$work/storage-$1") || fail "$1 failed: $got"
    [ "$got" = "$expected" ] || fail "$1: expected $expected, got $got"
    rm -r "$work/storage-$1"
}

run_plugin() {
    mkdir "$work/storage"
    mkfifo "$work/address"
    "$work/plugin-$1" "$work/program" "$work/storage" >"$work/address" &
    pid=$!
    read -r address <"$work/address"
    got=$(curl -sS -N -m 30 -u token:x-auth-token -d server=http://localhost -d documentSetId=17 \
        "http://$address/generate")
    last=$(printf %s "$got" | tr -d '\n' | sed 's/.*}, *{/{/; s/^\[//; s/\]$//')
    [ "$last" = "$expected" ] || fail "plugin-$1: expected to end with $expected, got $got"
    kill -TERM "$pid"
    wait "$pid" || fail "plugin-$1: exit $?"
    pid=
    [ "$(cat "$work"/storage/????????????????????????????????????????????????????????????????)" = \
        "output of 17" ] || fail "plugin-$1: no output in $(ls "$work/storage")"
    rm -r "$work/storage" "$work/address"
}

# The demo finds the program that was installed with it.
run_demo() {
    mkdir "$work/storage" "$work/sample"
    echo words >"$work/sample/document.txt"
    mkfifo "$work/address"
    "$work/shared/bin/demo-plugin" --listen 127.0.0.1:0 --storage "$work/storage" --journal none \
        --sample "$work/sample" >"$work/address" 2>"$work/log" &
    pid=$!
    read -r address <"$work/address" || fail "demo-plugin: $(cat "$work/log")"
    address=${address#listening on }
    got=$(curl -sS -m 30 -u sample:x-auth-token -d "server=$address" -d documentSetId=1 \
        "$address/generate")
    case $got in
    *'"returncode": 0'*) ;;
    *) fail "demo-plugin: $got" ;;
    esac
    kill -TERM "$pid"
    wait "$pid" || fail "demo-plugin: exit $?"
    pid=
    rm -r "$work/storage" "$work/sample" "$work/address"
}

# The guard that was installed is the one that is started; without it, jobs run, and the log says so.
guard=$(find "$work/shared" -name workqueue-guard -type f)
[ -x "$guard" ] || fail "no workqueue-guard among what was installed"
run_demo
! grep -q "there is no guard process" "$work/log" || fail "demo-plugin: $(cat "$work/log")"
mv "$guard" "$guard.away"
run_demo
grep -q "there is no guard process.*workqueue-guard: find: No such file" "$work/log" ||
    fail "demo-plugin says nothing of a guard that is missing: $(cat "$work/log")"
mv "$guard.away" "$guard"
for kind in shared static; do
    build_all "$kind"
    [ "$kind" = static ] || {
        LD_LIBRARY_PATH=$(dirname "$(find "$work/shared" -name libworkqueue.so)")
        export LD_LIBRARY_PATH
    }
    run_user "user-$kind"
    run_user "core-$kind"
    run_plugin "$kind"
done
# hardened FILE - no executable stack, nothing to be resolved or written later, guarded stacks, and
# checked copies; a program can be anywhere in memory.
hardened() {
    readelf -lW "$1" | grep -qE 'GNU_STACK.* RW ' || fail "$1: its stack is executable"
    readelf -lW "$1" | grep -q GNU_RELRO || fail "$1: no RELRO"
    readelf -dW "$1" | grep -qE 'BIND_NOW|FLAGS_1.*NOW' || fail "$1: symbols are bound lazily"
    readelf -hW "$1" | grep -qE 'Type: +DYN' || fail "$1: not position-independent"
    readelf -sW --dyn-syms "$1" | grep -q __stack_chk_fail || fail "$1: no stack protector"
    readelf -sW --dyn-syms "$1" | grep -qE '__[a-z]+_chk' || fail "$1: no _FORTIFY_SOURCE"
}

grep -q '^CMAKE_BUILD_TYPE:[A-Z]*=Debug$' "$build/CMakeCache.txt" ||
    for file in $(find "$work/shared" -type f \( -name '*.so.*' -o -name demo-plugin -o \
        -name process-docset \)); do
        hardened "$file"
    done

ldd "$work/plugin-shared" | grep -q "$work/shared.*libworkqueue-h2o\.so\.[0-9]" ||
    fail "plugin-shared does not use the installed library"
! ldd "$work/plugin-static" | grep libworkqueue || fail "plugin-static uses a shared library"
! ldd "$work/core-static" | grep -E 'h2o|ssl|jansson' || fail "the core needs what is not its own"

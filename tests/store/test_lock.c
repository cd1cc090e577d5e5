/* test_lock.c - C12, C15: a folder has one owner, whatever becomes of its lock files, of those that
 * the owner has forked, and of the namespaces that they live in. */
#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "tests/support.h"
#include "workqueue/store/dir.h"
#include "workqueue/util/log.h"

enum { STOP_MS = 30000 };

typedef struct bed {
    char dir[FOLDER_SIZE];
    wq_store *store;
} bed;

static int open_in(const char *dir, wq_store **out, unsigned stop_ms, wq_error *error)
{
    static const wq_logger none;
    const wq_dir_options options = {.path = dir, .stop_ms = stop_ms};
    return wq_dir_open(out, &options, &none, error);
}

static int set_up(void **state)
{
    bed *b = calloc(1, sizeof *b);
    if (b == NULL || make_folder(b->dir, "lock") != 0)
        return -1;
    *state = b;
    return open_in(b->dir, &b->store, 0, NULL);
}

static int tear_down(void **state)
{
    bed *b = *state;
    if (b->store != NULL)
        b->store->close(b->store);
    const int result = remove_folder(b->dir);
    free(b);
    return result;
}

static void close_store(bed *b)
{
    b->store->close(b->store);
    b->store = NULL;
}

/* Another process tries to open the folder: what came of it. */
static int result_elsewhere(const char *dir, unsigned stop_ms)
{
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        wq_store *store;
        _exit(-open_in(dir, &store, stop_ms, NULL));
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return -WEXITSTATUS(status);
}

/* A process that opens the folder, and says so by a byte; `then` is what it does with it. */
static pid_t start_owner(const char *dir, void (*then)(wq_store *))
{
    int ready[2];
    char byte = 0;
    assert_int_equal(pipe(ready), 0);
    pid_t pid = fork();
    if (pid == 0) {
        wq_store *store = NULL;
        setpgid(0, 0);
        if (open_in(dir, &store, 0, NULL) != WQ_OK || write(ready[1], "x", 1) != 1)
            _exit(1);
        close(ready[1]);
        then(store);
        _exit(0);
    }
    close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    return pid;
}

static void wait_for_ever(wq_store *store)
{
    (void)store;
    for (;;)
        pause();
}

static void end_owner(pid_t pid)
{
    kill(-pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void remove_in(const char *dir, const char *name)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_int_equal(unlink(path), 0);
}

/* By what cleans /tmp. */
static void test_c12_a_lock_file_that_is_removed(void **state)
{
    static const char *const names[] = {".workqueue.lock", ".workqueue.process"};
    bed *b = *state;
    char *temp;
    assert_int_equal(b->store->begin(b->store->self, "key", &temp, NULL), WQ_OK);
    for (size_t i = 0; i < 2; i++) {
        remove_in(b->dir, names[i]);
        assert_int_equal(result_elsewhere(b->dir, 0), WQ_ERROR_LOCKED);
        wq_store *second;
        assert_int_equal(open_in(b->dir, &second, 0, NULL), WQ_ERROR_LOCKED);
    }
    assert_int_equal(access(temp, F_OK), 0);
    free(temp);
    close_store(b);
    assert_int_equal(result_elsewhere(b->dir, 0), WQ_OK);
}

static void stop_and_close(wq_store *store)
{
    usleep(300000);
    store->stop(store->self);
    usleep(1500000);
    store->close(store);
}

static void test_c12_an_owner_that_stops_is_waited_for(void **state)
{
    bed *b = *state;
    wq_error error;
    close_store(b);
    pid_t owner = start_owner(b->dir, stop_and_close);
    assert_int_equal(open_in(b->dir, &b->store, STOP_MS, &error), WQ_OK);
    assert_int_equal(waitpid(owner, NULL, 0), owner);
}

static void test_c12_one_that_does_not_stop_is_named_soon(void **state)
{
    bed *b = *state;
    wq_error error;
    char name[64];
    close_store(b);
    pid_t owner = start_owner(b->dir, wait_for_ever);
    const int64_t begin = now_ms();
    assert_int_equal(open_in(b->dir, &b->store, STOP_MS, &error), WQ_ERROR_LOCKED);
    assert_true(now_ms() - begin < STOP_MS / 2);
    snprintf(name, sizeof name, "by process %ld;", (long)owner);
    assert_non_null(strstr(error.message, name));
    end_owner(owner);
    assert_int_equal(open_in(b->dir, &b->store, STOP_MS, &error), WQ_OK);
}

/* In a container the server is process 1. */
static void test_c12_an_owner_of_another_namespace_is_not_named(void **state)
{
    bed *b = *state;
    wq_error error;
    int status;
    close_store(b);
    pid_t outer = fork();
    if (outer == 0) {
        if (unshare(CLONE_NEWUSER | CLONE_NEWPID) != 0 && unshare(CLONE_NEWPID) != 0)
            _exit(77);
        setpgid(0, 0);
        pid_t inner = start_owner(b->dir, wait_for_ever);
        if (open_in(b->dir, &b->store, 0, &error) != WQ_ERROR_LOCKED ||
            strstr(error.message, "cannot be seen from here") == NULL)
            _exit(1);
        kill(inner, SIGKILL);
        _exit(waitpid(inner, NULL, 0) == inner ? 0 : 2);
    }
    assert_int_equal(waitpid(outer, &status, 0), outer);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
        skip(); /* no namespaces here */
    assert_int_equal(status, 0);
}

/* C15: multiprocessing, daemon(). */
static void test_c15_a_fork_does_not_keep_the_lock_after_close(void **state)
{
    bed *b = *state;
    pid_t child = fork();
    if (child == 0)
        wait_for_ever(NULL);
    close_store(b);
    assert_int_equal(result_elsewhere(b->dir, 0), WQ_OK);
    assert_int_equal(open_in(b->dir, &b->store, 0, NULL), WQ_OK);
    kill(child, SIGKILL);
    assert_int_equal(waitpid(child, NULL, 0), child);
}

static void fork_and_wait(wq_store *store)
{
    if (fork() == 0)
        wait_for_ever(store);
    wait_for_ever(store);
}

static void test_c15_a_fork_does_not_keep_the_lock_of_a_killed_host(void **state)
{
    bed *b = *state;
    wq_error error = {0};
    close_store(b);
    pid_t owner = start_owner(b->dir, fork_and_wait);
    assert_int_equal(result_elsewhere(b->dir, 0), WQ_ERROR_LOCKED);
    kill(owner, SIGKILL);
    EVENTUALLY(process_state(owner) == 'Z');
    assert_int_equal(open_in(b->dir, &b->store, STOP_MS, &error), WQ_OK); /* nobody has reaped it */
    assert_int_equal(result_elsewhere(b->dir, 0), WQ_ERROR_LOCKED);
    end_owner(owner);
}

static void test_the_same_process_twice(void **state)
{
    bed *b = *state;
    wq_store *second = NULL;
    wq_error error;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(open_in(b->dir, &second, 0, &error), WQ_ERROR_LOCKED);
        assert_null(second);
        assert_int_equal(result_elsewhere(b->dir, 0), WQ_ERROR_LOCKED); /* that has undone nothing */
    }
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_c12_a_lock_file_that_is_removed),
        TEST(test_c12_an_owner_that_stops_is_waited_for),
        TEST(test_c12_one_that_does_not_stop_is_named_soon),
        TEST(test_c12_an_owner_of_another_namespace_is_not_named),
        TEST(test_c15_a_fork_does_not_keep_the_lock_after_close),
        TEST(test_c15_a_fork_does_not_keep_the_lock_of_a_killed_host),
        TEST(test_the_same_process_twice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

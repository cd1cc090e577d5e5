/* test_limits.c - a program cannot hurt the host: each limit, reached by a real program that does
 * the harm, ends the job with a sentence of its own; and what of the host a program is given.
 *
 * The programs are tests/programs/shell, whose first argument is the shell command that it does. */
#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "tests/support.h"
#include "workqueue/util/folders.h"

enum { GRACE_MS = 300 };

/* ---- a queue and what its jobs come to ------------------------------------------------------- */

typedef struct bed {
    char folder[FOLDER_SIZE];
    wq_options options;
    wq_queue *queue;
    logbook log;
    wq_snapshot last; /* of the latest job that was run to its end */
} bed;

static void make_bed(bed *b)
{
    memset(b, 0, sizeof *b);
    assert_int_equal(make_folder(b->folder, "limits"), 0);
    wq_options_init(&b->options, sizeof b->options);
    b->options.program = SHELL;
    b->options.storage_dir = b->folder;
    b->options.sync = 0;
    b->options.grace_ms = GRACE_MS;
    b->options.log = on_log;
    b->options.log_user = &b->log;
}

static void open_bed(bed *b)
{
    b->queue = open_with(&b->options);
}

static void close_bed(bed *b)
{
    wq_snapshot_clear(&b->last);
    wq_close(b->queue);
    assert_false(logged(&b->log, TOKEN));
    assert_int_equal(remove_folder(b->folder), 0);
}

static wq_job *ask(bed *b, const char *command)
{
    wq_params params = {command, "17", TOKEN};
    wq_job *job = NULL;
    assert_int_equal(wq_ensure_run(b->queue, &params, 0, &job, NULL), WQ_OK);
    return job;
}

static void end(bed *b, wq_job *job)
{
    assert_int_equal(wq_job_wait(job, DEADLINE_MS), WQ_OK);
    wq_snapshot_clear(&b->last);
    wq_job_snapshot(job, &b->last);
    wq_job_unref(job);
}

static void run(bed *b, const char *command)
{
    end(b, ask(b, command));
}

static void expect_failed(const bed *b, const char *error)
{
    assert_non_null(b->last.error);
    assert_string_equal(b->last.error, error);
    assert_int_equal(b->last.state, WQ_STATE_FAILED);
    assert_int_equal(b->last.returncode, -999);
    assert_true(logged(&b->log, error)); /* the operator is told as well */
}

static void expect_success(const bed *b, const char *message)
{
    assert_string_equal(b->last.error ? b->last.error : "", "");
    assert_int_equal(b->last.state, WQ_STATE_SUCCEEDED);
    if (message != NULL)
        assert_string_equal(b->last.message, message);
}

/* But for ".", ".." and the lock. */
static int count_files(const bed *b)
{
    return entries_of(b->folder) - 3;
}

/* ---- time ------------------------------------------------------------------------------------ */

static void test_run_timeout_ends_the_whole_group(void **state)
{
    (void)state;
    bed b;
    make_bed(&b);
    b.options.run_timeout_ms = 1000;
    open_bed(&b);
    int64_t begin = now_ms();
    run(&b, "sleep 1000 & printf '0.5\\t%s\\n' $!; echo half >\"$4\"; wait");
    expect_failed(&b, "timed out after 1000 ms");
    assert_true(now_ms() - begin >= 1000);
    EVENTUALLY(is_over(atol(b.last.message)));
    assert_int_equal(count_files(&b), 0);
    close_bed(&b);
}

static void test_run_timeout_kills_what_ignores_it(void **state)
{
    (void)state;
    bed b;
    make_bed(&b);
    b.options.run_timeout_ms = 800;
    open_bed(&b);
    run(&b, "trap '' TERM; sleep 1000 & printf '0.5\\t%s\\n' $!; wait; sleep 1000");
    expect_failed(&b, "timed out after 800 ms");
    assert_true(b.last.ran_ms >= 800 + GRACE_MS);
    EVENTUALLY(is_over(atol(b.last.message)));
    close_bed(&b);
}

static void test_who_keeps_to_the_limits_is_left_alone(void **state)
{
    (void)state;
    bed b;
    make_bed(&b);
    b.options.run_timeout_ms = b.options.progress_timeout_ms = b.options.queue_timeout_ms = 60000;
    b.options.max_output_bytes = 5;
    b.options.max_cpu_s = 60;
    b.options.max_memory_bytes = 1 << 30;
    b.options.max_open_files = 64;
    open_bed(&b);
    run(&b, "echo 0.5; echo done >\"$4\"");
    expect_success(&b, NULL);
    run(&b, "echo oh >&2; exit 3");
    assert_int_equal(b.last.returncode, 3);
    assert_string_equal(b.last.error, "Exited with code 3\nstderr:\noh\n");
    wq_job *job = ask(&b, "echo 0.5; exec sleep 1000");
    assert_int_equal(wq_job_cancel(job), WQ_OK);
    end(&b, job);
    assert_int_equal(b.last.state, WQ_STATE_CANCELLED);
    close_bed(&b);
}

static void test_an_output_may_be_as_long_as_can_be_said(void **state)
{
    (void)state;
    static const uint64_t limits[] = {INT64_MAX, (uint64_t)INT64_MAX + 1, UINT64_MAX - 2,
                                      UINT64_MAX};
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        bed b;
        make_bed(&b);
        b.options.max_output_bytes = limits[i];
        open_bed(&b);
        run(&b, "echo done >\"$4\"");
        expect_success(&b, NULL);
        close_bed(&b);
    }
}

static void test_silence_is_ended_and_progress_is_not(void **state)
{
    (void)state;
    bed b;
    make_bed(&b);
    b.options.progress_timeout_ms = 1500;
    open_bed(&b);
    run(&b, "for i in 1 2 3 4 5 6 7 8 9; do echo $i/9; sleep 0.25; done; echo done >\"$4\"");
    expect_success(&b, NULL);
    assert_true(b.last.ran_ms > 1500);
    run(&b, "echo 0.5; exec sleep 1000");
    expect_failed(&b, "no progress for 1500 ms");
    run(&b, "while :; do echo chatter; sleep 0.05; done");
    expect_failed(&b, "no progress for 1500 ms");
    close_bed(&b);
}

static void test_waiting_too_long_ends_the_queued_job_only(void **state)
{
    (void)state;
    bed b;
    make_bed(&b);
    b.options.workers = 1;
    b.options.queue_timeout_ms = 1000;
    open_bed(&b);
    wq_job *runs = ask(&b, "echo 0.5; exec sleep 1000");
    EVENTUALLY(look(runs).state == WQ_STATE_RUNNING);
    wq_job *first = ask(&b, "echo first >\"$4\""), *second = ask(&b, "echo second >\"$4\"");
    assert_int_equal(look(second).n_ahead_in_queue, 2);
    end(&b, second);
    expect_failed(&b, "waited longer than 1000 ms in the queue");
    assert_true(b.last.waited_ms >= 1000);
    assert_int_equal(b.last.started_at_ms, 0);
    end(&b, first);
    expect_failed(&b, "waited longer than 1000 ms in the queue");
    assert_int_equal(look(runs).state, WQ_STATE_RUNNING);
    wq_stats stats;
    wq_queue_stats(b.queue, &stats);
    assert_int_equal(stats.queued, 0);
    assert_int_equal(stats.failed, 2);
    assert_int_equal(wq_job_cancel(runs), WQ_OK);
    end(&b, runs);
    run(&b, "echo first >\"$4\""); /* asked for again, it has another chance */
    expect_success(&b, NULL);
    close_bed(&b);
}

static void test_who_asks_while_it_is_being_ended_gets_another_run(void **state)
{
    (void)state;
    bed b;
    char command[512];
    make_bed(&b);
    b.options.run_timeout_ms = 1000;
    b.options.grace_ms = DEADLINE_MS;
    open_bed(&b);
    /* the first run says when it has been told, and waits for the follower to be asked for */
    snprintf(command, sizeof command,
             "[ -e %s/told ] && exec cp /etc/passwd \"$4\"; "
             "trap 'touch %s/told; until [ -e %s/go ]; do sleep 0.01; done; exit 0' TERM; "
             "while :; do sleep 0.01; done",
             b.folder, b.folder, b.folder);
    wq_job *job = ask(&b, command);
    char told[96], go[96];
    snprintf(told, sizeof told, "%s/told", b.folder);
    snprintf(go, sizeof go, "%s/go", b.folder);
    EVENTUALLY(access(told, F_OK) == 0);
    wq_job *next = ask(&b, command);
    close(open(go, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    end(&b, job);
    expect_failed(&b, "timed out after 1000 ms");
    end(&b, next);
    expect_success(&b, NULL);
    close_bed(&b);
}

/* ---- output, processor, memory --------------------------------------------------------------- */

static void expect_no_output(bed *b, const char *command)
{
    wq_params params = {command, "17", TOKEN};
    assert_int_equal(wq_output_find(b->queue, &params, NULL), WQ_ERROR_NOT_FOUND);
}

static void test_too_long_an_output_is_a_failure_however_it_ends(void **state)
{
    (void)state;
    bed b;
    make_bed(&b);
    b.options.max_output_bytes = 10000;
    open_bed(&b);
    static const char *const commands[] = {
        "exec head -c 20000 /dev/zero >\"$4\"", "head -c 10001 /dev/zero >\"$4\"; exit 7",
        "head -c 20000 /dev/zero >\"$4\"; exit 0",               /* by a child that is killed */
        "trap '' XFSZ; head -c 20000 /dev/zero >\"$4\"; exit 0", /* cut, and no word about it */
    };
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        run(&b, commands[i]);
        expect_failed(&b, "wrote more than 10000 bytes to its output file");
        expect_no_output(&b, commands[i]);
    }
    run(&b, "head -c 10000 /dev/zero >\"$4\"");
    expect_success(&b, NULL);
    assert_int_equal(count_files(&b), 1);
    close_bed(&b);
}

static void test_an_output_that_was_not_written_here(void **state)
{
    (void)state;
    bed b;
    char command[128], big[96];
    make_bed(&b);
    b.options.max_output_bytes = 1000;
    open_bed(&b);
    snprintf(big, sizeof big, "%s/big", b.folder);
    int fd = open(big, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0 && ftruncate(fd, 1001) == 0 && close(fd) == 0);
    snprintf(command, sizeof command, "ln -f %s \"$4\"", big);
    run(&b, command);
    expect_failed(&b, "wrote more than 1000 bytes to its output file");
    close_bed(&b);
}

static void test_another_file_that_grows_too_long(void **state)
{
    (void)state;
    bed b;
    char command[128], other[96];
    struct stat st;
    make_bed(&b);
    b.options.max_output_bytes = 1000;
    open_bed(&b);
    snprintf(other, sizeof other, "%s/other", b.folder);
    snprintf(command, sizeof command, "exec head -c 1000000 /dev/zero >%s", other);
    run(&b, command);
    expect_failed(&b, "wrote more than 1000 bytes to a file");
    assert_int_equal(stat(other, &st), 0);
    assert_int_equal(st.st_size, 1001);
    close_bed(&b);
}

static void test_too_much_processor_time(void **state)
{
    (void)state;
    bed b;
    make_bed(&b);
    b.options.max_cpu_s = 1;
    b.options.workers = 3;
    open_bed(&b);
    static const char *const commands[] = {
        "while :; do :; done",
        "trap '' XCPU; while :; do :; done",
        "sh -c 'while :; do :; done'; exit $?",
    };
    wq_job *jobs[3];
    for (size_t i = 0; i < 3; i++)
        jobs[i] = ask(&b, commands[i]);
    for (size_t i = 0; i < 3; i++) {
        end(&b, jobs[i]);
        expect_failed(&b, "used more than 1 s of CPU");
    }
    run(&b, "exit 152"); /* as such a shell would, but it has used nothing */
    assert_int_equal(b.last.returncode, 152);
    close_bed(&b);
}

static void test_memory_ends_where_the_limit_is(void **state)
{
    (void)state;
    bed b;
    make_bed(&b);
    b.options.max_memory_bytes = 100 << 20;
    open_bed(&b);
    run(&b, "head -c 300000000 /dev/zero | LC_ALL=C tail -n 1 >\"$4\"");
    assert_int_equal(b.last.state, WQ_STATE_FAILED);
    assert_int_equal(b.last.returncode, 1);
    assert_non_null(strstr(b.last.error, "memory exhausted"));
    close_bed(&b);
}

static void test_descriptors_and_processes(void **state)
{
    (void)state;
    bed b;
    make_bed(&b);
    b.options.max_open_files = 20;
    b.options.max_processes = 1234;
    open_bed(&b);
    run(&b, "set -- \"$4\" $(grep -E 'open files|processes' /proc/self/limits | tr -dc ' \\n0-9'); "
            "printf '0.5\\t%s %s %s %s\\n' $2 $3 $4 $5; echo done >\"$1\"");
    expect_success(&b, "1234 1234 20 20");
    b.options.max_open_files = 3;
    wq_error error;
    wq_queue *other = NULL;
    assert_int_equal(wq_open(&other, &b.options, &error), WQ_ERROR_INVALID_ARGUMENT);
    assert_non_null(strstr(error.message, "max_open_files"));
    close_bed(&b);
}

/* ---- what a program is given ----------------------------------------------------------------- */

static void test_no_new_privileges(void **state)
{
    (void)state;
    const char *command = "printf '0.5\\t%s\\n' $(grep NoNewPrivs /proc/self/status | tr -dc 0-9); "
                          "echo done >\"$4\"";
    for (int allow = 0; allow <= 1; allow++) {
        bed b;
        make_bed(&b);
        b.options.allow_new_privileges = allow;
        open_bed(&b);
        run(&b, command);
        expect_success(&b, allow ? "0" : "1");
        close_bed(&b);
    }
}

static void test_umask_and_nice_are_as_new(void **state)
{
    (void)state;
    bed b;
    mode_t before = umask(0);
    int nice = getpriority(PRIO_PROCESS, 0);
    nice = nice < 16 ? nice + 3 : 19; /* the tests may run as nice as somebody likes */
    char shown[32];
    make_bed(&b);
    assert_int_equal(setpriority(PRIO_PROCESS, 0, nice), 0);
    open_bed(&b); /* its threads are as nice as this one is now */
    int may = setpriority(PRIO_PROCESS, 0, 0) == 0;
    run(&b, "printf '0.5\\t%s %s\\n' $(umask) $(nice); echo done >\"$4\"");
    umask(before);
    snprintf(shown, sizeof shown, "0077 %d", may ? 0 : nice);
    expect_success(&b, shown);
    close_bed(&b);
}

#define SHOW "printf '0.5\\t%s\\n' \"$(env | grep ^WQT | sort | tr '\\n' ' ')\"; echo done >\"$4\""

static void run_with_environment(const char *const *names, const char *shown)
{
    bed b;
    make_bed(&b);
    b.options.environment = names;
    open_bed(&b);
    run(&b, SHOW);
    if (*shown == '\0')
        expect_success(&b, NULL);
    else
        expect_success(&b, shown);
    assert_true(*shown != '\0' || b.last.message == NULL || *b.last.message == '\0');
    close_bed(&b);
}

static void test_the_environment_is_an_allow_list(void **state)
{
    (void)state;
    setenv("WQT_A", "1", 1);
    setenv("WQT_AB", "2", 1);
    setenv("WQT_C", "3", 1);
    run_with_environment(NULL, "");
    run_with_environment((const char *const[]){"PATH", "WQT_A", NULL}, "WQT_A=1 ");
    run_with_environment((const char *const[]){"PATH", "WQT_A*", NULL}, "WQT_A=1 WQT_AB=2 ");
    run_with_environment((const char *const[]){"PATH", "WQT_A*", "WQT_A=9", "WQT_N=", NULL},
                         "WQT_A=9 WQT_AB=2 WQT_N= ");
    run_with_environment((const char *const[]){"*", NULL}, "WQT_A=1 WQT_AB=2 WQT_C=3 ");
    unsetenv("WQT_A");
    unsetenv("WQT_AB");
    unsetenv("WQT_C");
}

static void test_paths_and_languages_are_in_the_default_environment(void **state)
{
    (void)state;
    bed b;
    setenv("LC_WQT", "x", 1);
    setenv("https_proxy", "http://127.0.0.1:1", 1);
    setenv("AWS_SECRET_ACCESS_KEY", "no", 1);
    make_bed(&b);
    open_bed(&b);
    unsetenv("LC_WQT"); /* as it was when the queue was opened */
    run(&b, "printf '0.5\\t%s\\n' \"$LC_WQT $https_proxy $AWS_SECRET_ACCESS_KEY ${PATH:+path}\"; "
            "echo done >\"$4\"");
    expect_success(&b, "x http://127.0.0.1:1  path");
    unsetenv("https_proxy");
    unsetenv("AWS_SECRET_ACCESS_KEY");
    close_bed(&b);
}

/* The arguments are what ps shows to everybody. */
static void test_the_token_in_the_environment_is_in_no_argument(void **state)
{
    (void)state;
    for (int on = 0; on <= 1; on++) {
        bed b;
        setenv("WORKQUEUE_API_TOKEN", "of the host", 1);
        make_bed(&b);
        b.options.token_in_environment = on;
        open_bed(&b);
        run(&b, "n=$(tr '\\0' '\\n' </proc/$$/cmdline | grep -c ^s3cret); "
                "[ \"$WORKQUEUE_API_TOKEN\" = " TOKEN " ] && e=there || "
                "e=\"${WORKQUEUE_API_TOKEN-none}\"; [ \"$3\" = - ] && n=\"$n dash\"; "
                "printf '0.5\\t%s\\n' \"$# $n $e\"; echo done >\"$4\"");
        expect_success(&b, on ? "4 0 dash there" : "4 1 none");
        unsetenv("WORKQUEUE_API_TOKEN");
        close_bed(&b);
    }
}

static void test_a_private_tmpdir_goes_with_the_job(void **state)
{
    (void)state;
    bed b;
    make_bed(&b);
    b.options.private_tmpdir = 1;
    open_bed(&b);
    const char *fill = "cd \"$TMPDIR\" && printf '0.5\\t%s %s\\n' $(stat -c %a .) $PWD && "
                       "mkdir -p a/b/c shut && touch a/b/c/f shut/f && ln -s /etc/passwd link && "
                       "chmod 0 shut && ";
    char command[512], folder[128];
    for (int ok = 1; ok >= 0; ok--) {
        snprintf(command, sizeof command, "%s%s", fill, ok ? "echo done >\"$4\"" : "exit 1");
        run(&b, command);
        assert_int_equal(b.last.state, ok ? WQ_STATE_SUCCEEDED : WQ_STATE_FAILED);
        snprintf(folder, sizeof folder, "700 %s/.workqueue.tmp/", b.folder);
        assert_memory_equal(b.last.message, folder, strlen(folder));
        assert_int_not_equal(access(b.last.message + 4, F_OK), 0);
        assert_int_equal(count_files(&b), 1);
    }
    assert_int_equal(access("/etc/passwd", F_OK), 0);
    wq_job *job = ask(&b, "printf '0.5\\tx\\n'; cd \"$TMPDIR\"; touch f; exec sleep 1000");
    EVENTUALLY(look(job).fraction == 0.5);
    assert_int_equal(wq_job_cancel(job), WQ_OK);
    end(&b, job);
    assert_int_equal(count_files(&b), 1);
    assert_false(logged(&b.log, "remove "));
    close_bed(&b);
}

static void test_a_tmpdir_left_by_a_crash_is_swept(void **state)
{
    (void)state;
    bed b;
    char path[128];
    make_bed(&b);
    snprintf(path, sizeof path, "%s/.workqueue.tmp", b.folder);
    assert_int_equal(mkdir(path, 0700), 0);
    strcat(path, "/k-0.tmp.tmp");
    assert_int_equal(mkdir(path, 0700), 0);
    strcat(path, "/d");
    assert_int_equal(mkdir(path, 0700), 0);
    open_bed(&b);
    assert_int_equal(count_files(&b), 0);
    close_bed(&b);
}

/* ---- removal --------------------------------------------------------------------------------- */

static void test_a_tree_of_any_depth_is_removed(void **state)
{
    (void)state;
    char path[FOLDER_SIZE];
    assert_int_equal(make_folder(path, "tree"), 0);
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (int i = 0; i < 600; i++) { /* longer than any path may be */
        assert_int_equal(mkdirat(fd, "d123456789", 0700), 0);
        close(openat(fd, "7", O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
        assert_int_equal(symlinkat("/etc", fd, "l"), 0);
        int next = openat(fd, "d123456789", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_true(next >= 0);
        close(fd);
        fd = next;
    }
    close(fd);
    assert_int_equal(wq_remove_tree(path), 0);
    assert_int_not_equal(access(path, F_OK), 0);
    assert_int_equal(access("/etc/passwd", F_OK), 0);
    assert_int_equal(wq_remove_tree(path), -1);
    assert_int_equal(errno, ENOENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_run_timeout_ends_the_whole_group),
        cmocka_unit_test(test_run_timeout_kills_what_ignores_it),
        cmocka_unit_test(test_who_keeps_to_the_limits_is_left_alone),
        cmocka_unit_test(test_silence_is_ended_and_progress_is_not),
        cmocka_unit_test(test_waiting_too_long_ends_the_queued_job_only),
        cmocka_unit_test(test_who_asks_while_it_is_being_ended_gets_another_run),
        cmocka_unit_test(test_an_output_may_be_as_long_as_can_be_said),
        cmocka_unit_test(test_too_long_an_output_is_a_failure_however_it_ends),
        cmocka_unit_test(test_an_output_that_was_not_written_here),
        cmocka_unit_test(test_another_file_that_grows_too_long),
        cmocka_unit_test(test_too_much_processor_time),
        cmocka_unit_test(test_memory_ends_where_the_limit_is),
        cmocka_unit_test(test_descriptors_and_processes),
        cmocka_unit_test(test_no_new_privileges),
        cmocka_unit_test(test_umask_and_nice_are_as_new),
        cmocka_unit_test(test_the_environment_is_an_allow_list),
        cmocka_unit_test(test_paths_and_languages_are_in_the_default_environment),
        cmocka_unit_test(test_the_token_in_the_environment_is_in_no_argument),
        cmocka_unit_test(test_a_private_tmpdir_goes_with_the_job),
        cmocka_unit_test(test_a_tmpdir_left_by_a_crash_is_swept),
        cmocka_unit_test(test_a_tree_of_any_depth_is_removed),
    };
    alarm(900); /* a job that never ends fails, too */
    return cmocka_run_group_tests(tests, NULL, NULL);
}

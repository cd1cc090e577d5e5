/* test_cgroup.c - what a job has started ends with it, although it has left the process group: by
 * control groups, where this machine lets us make some (if not, the tests are skipped).
 *
 * The programs are tests/programs/shell, whose first argument is the shell command that it does. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "tests/support.h"
#include "workqueue/process/cgroups.h"
#include "workqueue/util/log.h"

enum { GRACE_MS = 200 };

/* One that goes to a session of its own, tells its pid in the file "far" of the current folder and
 * stays. Its parent waits until it has done so. */
#define FAR_AWAY                                                                                   \
    "(setsid sh -c 'trap \"\" TERM HUP; echo $$ >far.new; mv far.new far; exec sleep 1000' "       \
    ">/dev/null 2>&1 &); until [ -s far ]; do sleep 0.01; done; "

typedef struct bed {
    char folder[FOLDER_SIZE];
    wq_options options;
    wq_queue *queue;
} bed;

/* Can there be control groups here? Else the test is over. */
static void need_groups(void)
{
    wq_cgroups groups;
    const wq_cgroup_limits limits = {0};
    const wq_logger quiet = {NULL, NULL};
    assert_int_equal(wq_cgroups_open(&groups, "auto", 1, &limits, &quiet, NULL), WQ_OK);
    const int possible = groups.dir != NULL;
    wq_cgroups_close(&groups);
    if (!possible) {
        print_message("no control group can be made here\n");
        skip();
    }
}

static void make_bed(bed *b)
{
    memset(b, 0, sizeof *b);
    assert_int_equal(make_folder(b->folder, "cgroup"), 0);
    assert_int_equal(chdir(b->folder), 0);
    wq_options_init(&b->options, sizeof b->options);
    b->options.program = SHELL;
    b->options.storage_dir = b->folder;
    b->options.sync = 0;
    b->options.workers = 1;
    b->options.grace_ms = GRACE_MS;
    b->options.drain_ms = 100;
    b->options.cgroup_dir = "auto";
}

static void open_bed(bed *b)
{
    b->queue = open_with(&b->options);
}

static void remove_bed(bed *b)
{
    assert_int_equal(chdir("/"), 0);
    assert_int_equal(remove_folder(b->folder), 0);
}

static wq_job *ask(bed *b, const char *command)
{
    wq_params params = {command, "17", TOKEN};
    wq_job *job = NULL;
    assert_int_equal(wq_ensure_run(b->queue, &params, 0, &job, NULL), WQ_OK);
    return job;
}

static void expect_end(wq_job *job, int state)
{
    wq_snapshot s = {0};
    assert_int_equal(wq_job_wait(job, DEADLINE_MS), WQ_OK);
    wq_job_snapshot(job, &s);
    if ((int)s.state != state)
        fail_msg("state %d: %s", s.state, s.error ? s.error : "no error");
    wq_snapshot_clear(&s);
    wq_job_unref(job);
}

/* The one that FAR_AWAY has started. */
static long far_away(void)
{
    char text[32];
    get_file("far", text, sizeof text);
    return atol(text);
}

/* ---- at the end of a job --------------------------------------------------------------------- */

static void test_who_left_the_group_ends_with_the_job(void **state)
{
    (void)state;
    need_groups();
    bed b;
    make_bed(&b);
    open_bed(&b);
    for (int i = 0; i < 3; i++) { /* in the same control group, one after the other */
        char command[512];
        snprintf(command, sizeof command, "%s echo %d >$4", FAR_AWAY, i);
        expect_end(ask(&b, command), WQ_STATE_SUCCEEDED);
        assert_true(far_away() > 1);
        assert_true(is_over(far_away())); /* not soon: when the job has ended */
        assert_int_equal(unlink("far"), 0);
    }
    wq_close(b.queue);
    remove_bed(&b);
}

static void test_cancel_reaches_who_left_the_group(void **state)
{
    (void)state;
    need_groups();
    bed b;
    make_bed(&b);
    open_bed(&b);
    wq_job *job = ask(&b, FAR_AWAY "trap '' TERM; while :; do sleep 1; done");
    EVENTUALLY(far_away() > 1);
    assert_int_equal(wq_job_cancel(job), WQ_OK);
    expect_end(job, WQ_STATE_CANCELLED);
    assert_true(is_over(far_away()));
    wq_close(b.queue);
    remove_bed(&b);
}

static uint64_t memory_of(wq_job *job)
{
    wq_snapshot s = {0};
    wq_job_snapshot(job, &s);
    uint64_t bytes = s.memory_bytes;
    wq_snapshot_clear(&s);
    return bytes;
}

/* Of all processes of the job together; and afterwards it is the most there was. */
static void test_memory_of_a_job_is_told(void **state)
{
    (void)state;
    need_groups();
    bed b;
    make_bed(&b);
    open_bed(&b);
    assert_int_equal(mkfifo("go", 0600), 0);
    wq_job *job = ask(&b, "sh -c 'x=$(head -c 40000000 /dev/zero | tr \"\\0\" a); read y <go; "
                          "echo ${#x} >$0' $4");
    EVENTUALLY(memory_of(job) > 40000000);
    FILE *go = fopen("go", "we");
    assert_non_null(go);
    assert_int_equal(fclose(go), 0);
    assert_int_equal(wq_job_wait(job, DEADLINE_MS), WQ_OK);
    assert_true(memory_of(job) > 40000000);
    wq_job_unref(job);
    job = ask(&b, "echo x >$4"); /* too short to be measured; not what the one before had */
    assert_int_equal(wq_job_wait(job, DEADLINE_MS), WQ_OK);
    assert_true(memory_of(job) < 40000000);
    wq_job_unref(job);
    wq_close(b.queue);
    remove_bed(&b);
}

/* A job that writes down which control group it is in, and the name of our folder from that. */
#define IN_GROUP "cat /proc/self/cgroup >group; echo x >$4"

static void run_in_group(bed *b)
{
    expect_end(ask(b, IN_GROUP), WQ_STATE_SUCCEEDED);
}

static void read_group(char *folder, size_t size)
{
    char text[1024];
    get_file("group", text, sizeof text);
    const char *at = strstr(text, "/workqueue-");
    assert_non_null(at);
    snprintf(folder, size, "%.*s", (int)strcspn(at + 1, "/"), at + 1);
}

static int exists(const char *folder)
{
    char command[256];
    snprintf(command, sizeof command, "find /sys/fs/cgroup -name %s 2>/dev/null | grep -q .",
             folder);
    return system(command) == 0;
}

/* Runs a host with a queue and one job, in a group of `outer` if that is not NULL, whose clone3()
 * fails with `forbidden` if that is not 0. What the job ended with, or -1. */
static int run_host(bed *b, const wq_cgroup *outer, int forbidden)
{
    int status;
    pid_t host = fork();
    if (host == 0) {
        if (outer != NULL && write(outer->procs, "0", 1) != 1)
            _exit(100);
        open_bed(b);
        if (forbidden != 0 && forbid_call(SYS_clone3, forbidden) != 0)
            _exit(101);
        wq_job *job = ask(b, IN_GROUP);
        wq_snapshot s = {0};
        wq_job_wait(job, DEADLINE_MS);
        wq_job_snapshot(job, &s);
        int end = (int)s.state;
        put_file("error", s.error != NULL ? s.error : "");
        wq_snapshot_clear(&s);
        wq_job_unref(job);
        wq_close(b->queue);
        _exit(end);
    }
    if (waitpid(host, &status, 0) != host || !WIFEXITED(status))
        return -1;
    return WEXITSTATUS(status);
}

/* Where no child can be born into a control group, it enters by itself. */
static void test_a_sandbox_without_clone3(void **state)
{
    (void)state;
    need_groups();
    bed b;
    char folder[64];
    make_bed(&b);
    assert_int_equal(run_host(&b, NULL, ENOSYS), WQ_STATE_SUCCEEDED);
    read_group(folder, sizeof folder);
    assert_false(exists(folder));
    remove_bed(&b);
}

/* But one too many is not let in by another way. */
static void test_one_too_many_is_refused(void **state)
{
    (void)state;
    need_groups();
    bed b;
    char error[256];
    make_bed(&b);
    assert_int_equal(run_host(&b, NULL, EAGAIN), WQ_STATE_FAILED);
    get_file("error", error, sizeof error);
    assert_non_null(strstr(error, strerror(EAGAIN)));
    remove_bed(&b);
}

/* As a service that was killed as a whole and then started again. Some kernels kill who is born
 * from there into another group. */
static void test_a_host_in_a_group_that_was_killed(void **state)
{
    (void)state;
    need_groups();
    bed b;
    char folder[64];
    wq_cgroups groups;
    const wq_cgroup_limits limits = {0};
    const wq_logger quiet = {NULL, NULL};
    make_bed(&b);
    assert_int_equal(wq_cgroups_open(&groups, "auto", 1, &limits, &quiet, NULL), WQ_OK);
    wq_cgroup_kill(wq_cgroup_of(&groups, 0));
    assert_int_equal(run_host(&b, wq_cgroup_of(&groups, 0), 0), WQ_STATE_SUCCEEDED);
    wq_cgroups_close(&groups);
    read_group(folder, sizeof folder);
    assert_false(exists(folder));
    remove_bed(&b);
}

static void test_nothing_is_left_at_close(void **state)
{
    (void)state;
    need_groups();
    bed b;
    char folder[64];
    make_bed(&b);
    open_bed(&b);
    run_in_group(&b);
    read_group(folder, sizeof folder);
    assert_true(exists(folder));
    wq_close(b.queue);
    assert_false(exists(folder));
    remove_bed(&b);
}

/* The folder of the job's own group. */
#define OWN_GROUP                                                                                  \
    "g=$(find /sys/fs/cgroup -path \"*$(sed -n 's/^0:://p' /proc/self/cgroup)\" -type d "          \
    "2>/dev/null | head -n 1); "

/* As a host may have; a sanitizer needs more. */
static void have_small_stacks(void)
{
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    assert_int_equal(pthread_attr_setstacksize(&attr, 128 * 1024), 0);
    assert_int_equal(pthread_setattr_default_np(&attr), 0);
    pthread_attr_destroy(&attr);
#endif
}

/* Who runs containers makes groups of its own, however deep. They go, and so do those who were in
 * them. */
static void test_groups_that_a_program_makes(void **state)
{
    (void)state;
    need_groups();
    bed b;
    char folder[64], command[512];
    have_small_stacks();
    make_bed(&b);
    open_bed(&b);
    for (int i = 0; i < 3; i++) {
        snprintf(command, sizeof command,
                 OWN_GROUP
                 "mkdir $g/a $g/a/b $g/c && echo 0 >$g/a/b/cgroup.procs && %s echo %d >$4",
                 i == 1 ? "" : FAR_AWAY, i);
        expect_end(ask(&b, command), WQ_STATE_SUCCEEDED);
        if (i != 1) {
            assert_true(is_over(far_away()));
            assert_int_equal(unlink("far"), 0);
        }
    }
    expect_end(ask(&b, OWN_GROUP "w=$PWD; cd $g; i=0; while [ $i -lt 1000 ]; do mkdir d && cd d; "
                                 "i=$((i+1)); done; cd $w; echo x >$4"),
               WQ_STATE_SUCCEEDED);
    run_in_group(&b);
    read_group(folder, sizeof folder);
    snprintf(command, sizeof command,
             "test 1 = $(find /sys/fs/cgroup -path '*/%s/*' -type d 2>/dev/null | wc -l)", folder);
    assert_int_equal(system(command), 0);
    wq_job_unref(ask(&b, OWN_GROUP "mkdir $g/a $g/a/b; touch made; exec sleep 1000"));
    EVENTUALLY(access("made", F_OK) == 0);
    wq_close(b.queue);
    assert_false(exists(folder));
    remove_bed(&b);
}

/* The next one would be frozen at its birth, out of reach of every limit and of wq_close(). */
static void test_a_program_that_freezes_its_group(void **state)
{
    (void)state;
    need_groups();
    bed b;
    make_bed(&b);
    b.options.run_timeout_ms = 3000;
    open_bed(&b);
    expect_end(ask(&b, OWN_GROUP "echo 1 >$g/cgroup.freeze; echo x >$4"), WQ_STATE_FAILED);
    expect_end(ask(&b, "echo x >$4"), WQ_STATE_SUCCEEDED);
    wq_close(b.queue);
    remove_bed(&b);
}

/* ---- a host that is killed ------------------------------------------------------------------- */

/* Forks a host with a queue, and kills it when its job's far away process is there. */
static void kill_host(bed *b)
{
    pid_t host = fork();
    if (host == 0) {
        open_bed(b);
        run_in_group(b);
        ask(b, FAR_AWAY "sleep 1000");
        pause();
        _exit(1);
    }
    assert_true(host > 0);
    EVENTUALLY(far_away() > 1);
    assert_int_equal(kill(host, SIGKILL), 0);
    assert_int_equal(waitpid(host, NULL, 0), host);
}

static void test_a_killed_host_leaves_nobody(void **state)
{
    (void)state;
    need_groups();
    bed b;
    char folder[64];
    make_bed(&b);
    kill_host(&b);
    EVENTUALLY(is_over(far_away()));
    read_group(folder, sizeof folder);
    EVENTUALLY(!exists(folder));
    remove_bed(&b);
}

/* Both the host and its guard: then the next one that opens there cleans up. */
static void test_what_was_left_behind_goes_at_open(void **state)
{
    (void)state;
    need_groups();
    const wq_cgroup_limits limits = {0};
    const wq_logger quiet = {NULL, NULL};
    int fds[2];
    struct {
        pid_t left;
        char dir[512];
    } told = {0};
    assert_int_equal(pipe(fds), 0);
    pid_t host = fork();
    if (host == 0) {
        wq_cgroups groups;
        if (wq_cgroups_open(&groups, "auto", 1, &limits, &quiet, NULL) != WQ_OK)
            _exit(1);
        snprintf(told.dir, sizeof told.dir, "%s", groups.dir);
        told.left = fork();
        if (told.left == 0) {
            if (write(wq_cgroup_of(&groups, 0)->procs, "0", 1) != 1)
                _exit(2);
            close(groups.lock);
            if (write(fds[1], "x", 1) != 1)
                _exit(3);
            pause();
        }
        char byte;
        _exit(read(fds[0], &byte, 1) == 1 && write(fds[1], &told, sizeof told) > 0 ? 0 : 4);
    }
    int status;
    assert_int_equal(waitpid(host, &status, 0), host);
    assert_int_equal(status, 0);
    assert_int_equal(read(fds[0], &told, sizeof told), sizeof told);
    close(fds[0]);
    close(fds[1]);
    assert_false(is_over(told.left));
    assert_int_equal(access(told.dir, F_OK), 0);

    wq_cgroups groups;
    assert_int_equal(wq_cgroups_open(&groups, "auto", 2, &limits, &quiet, NULL), WQ_OK);
    assert_true(is_over(told.left));
    assert_int_equal(access(told.dir, F_OK), -1);

    /* one that is in use is left alone */
    wq_cgroups others;
    assert_int_equal(wq_cgroups_open(&others, "auto", 1, &limits, &quiet, NULL), WQ_OK);
    assert_int_equal(access(groups.dir, F_OK), 0);
    wq_cgroups_close(&others);
    wq_cgroups_close(&groups);
}

/* ---- where there are none -------------------------------------------------------------------- */

static void test_a_folder_that_is_none_is_refused(void **state)
{
    (void)state;
    bed b;
    wq_error error = {0};
    make_bed(&b);
    b.options.cgroup_dir = b.folder;
    assert_int_equal(mkdir("workqueue-mine", 0700), 0); /* as ours are called, but it is not */
    assert_int_equal(wq_open(&b.queue, &b.options, &error), WQ_ERROR_SYSTEM);
    assert_non_null(strstr(error.message, b.folder));
    assert_int_equal(rmdir("workqueue-mine"), 0);
    assert_int_equal(system("ls -d workqueue-* >/dev/null 2>&1"), 512); /* ls found none */
    remove_bed(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_who_left_the_group_ends_with_the_job),
        cmocka_unit_test(test_cancel_reaches_who_left_the_group),
        cmocka_unit_test(test_memory_of_a_job_is_told),
        cmocka_unit_test(test_nothing_is_left_at_close),
        cmocka_unit_test(test_groups_that_a_program_makes),
        cmocka_unit_test(test_a_program_that_freezes_its_group),
        cmocka_unit_test(test_a_sandbox_without_clone3),
        cmocka_unit_test(test_one_too_many_is_refused),
        cmocka_unit_test(test_a_host_in_a_group_that_was_killed),
        cmocka_unit_test(test_a_killed_host_leaves_nobody),
        cmocka_unit_test(test_what_was_left_behind_goes_at_open),
        cmocka_unit_test(test_a_folder_that_is_none_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

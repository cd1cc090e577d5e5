/* test_memory.c - a job's memory limit, kept by a control group, ends nobody but the job: not the
 * host, whose memory a child borrows at its birth, and no later job that has used nothing (C1).
 *
 * With the memory controller of version 2, or of version 1 where the machine has that; the tests
 * are skipped where neither can be used. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "tests/support.h"
#include "workqueue/process/cgroups.h"
#include "workqueue/process/spawn.h"
#include "workqueue/util/log.h"

enum { LIMIT_BYTES = 8 << 20, BIRTHS = 40, ENVIRONMENT_BYTES = 64 * 1024 };

/* A control group with a memory limit, and what was left in a tmpfs from within. */
typedef struct full_group {
    char folder[128], left[64];
    wq_cgroup group;
} full_group;

static int open_in(const char *folder, const char *name, int flags)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return open(path, flags | O_CLOEXEC);
}

static int set_limit(const char *folder, const char *name)
{
    char text[32];
    int fd = open_in(folder, name, O_WRONLY);
    int n = snprintf(text, sizeof text, "%d", LIMIT_BYTES);
    int result = fd >= 0 && write(fd, text, (size_t)n) == n ? 0 : -1;
    if (fd >= 0)
        close(fd);
    return result;
}

/* 0, or -1 if this machine has no such place. */
static int make_group(full_group *f, const char *where, const char *limit)
{
    snprintf(f->folder, sizeof f->folder, "%s/wq-test-%ld", where, (long)getpid());
    if (mkdir(f->folder, 0700) != 0)
        return -1;
    if (set_limit(f->folder, limit) != 0) {
        rmdir(f->folder);
        return -1;
    }
    f->group = (wq_cgroup){.dir = -1,
                           .procs = open_in(f->folder, "cgroup.procs", O_WRONLY),
                           .events = -1,
                           .kill = -1,
                           .memory = -1,
                           .has_memory_limit = 1};
    return f->group.procs >= 0 ? 0 : -1;
}

/* Fills the group from within, as a job does that leaves a file in /dev/shm; whoever does it may be
 * killed for it. */
static void fill_group(full_group *f)
{
    static const char page[4096] = "x";
    snprintf(f->left, sizeof f->left, "/dev/shm/wq-test-%ld", (long)getpid());
    pid_t filler = fork();
    if (filler == 0) {
        int fd = open(f->left, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        if (write(f->group.procs, "0", 1) != 1)
            _exit(1);
        for (int i = 0; i < 2 * LIMIT_BYTES / (int)sizeof page; i++)
            if (write(fd, page, sizeof page) < 0)
                _exit(2);
        _exit(3);
    }
    assert_int_equal(waitpid(filler, NULL, 0), filler);
}

static void open_full_group(full_group *f)
{
    memset(f, 0, sizeof *f);
    if (make_group(f, "/sys/fs/cgroup", "memory.max") != 0 &&
        make_group(f, "/sys/fs/cgroup/memory", "memory.limit_in_bytes") != 0) {
        print_message("no control group with a memory limit can be made here\n");
        skip();
    }
    fill_group(f);
}

static void close_full_group(full_group *f)
{
    unlink(f->left);
    close(f->group.procs);
    EVENTUALLY(rmdir(f->folder) == 0);
}

/* Starts programs in the full group; 0 if all were started or refused. */
static int run_host(full_group *f)
{
    static char large[ENVIRONMENT_BYTES] = "LARGE=";
    char *argv[] = {(char *)SHELL, (char *)"true", NULL}, *envp[] = {large, NULL};
    int null_fd = fcntl(open("/dev/null", O_RDWR | O_CLOEXEC), F_DUPFD_CLOEXEC, 3);
    char *stack = wq_spawn_stack_new();
    memset(large + 6, 'x', sizeof large - 7);
    for (int i = 0; i < BIRTHS; i++) {
        wq_spawn_plan plan = {.program = SHELL,
                              .argv = argv,
                              .envp = envp,
                              .fds = {null_fd, null_fd, null_fd},
                              .group = &f->group};
        int pidfd;
        pid_t pid = wq_spawn(&plan, stack, &pidfd);
        if (pid > 0 && waitpid(pid, NULL, 0) != pid)
            return 1;
        if (pid > 0)
            close(pidfd);
    }
    return 0;
}

static void test_c1_a_full_group_does_not_kill_the_host(void **state)
{
    (void)state;
    full_group f;
    int status;
    open_full_group(&f);
    pid_t host = fork();
    if (host == 0)
        _exit(run_host(&f));
    assert_int_equal(waitpid(host, &status, 0), host);
    close_full_group(&f);
    assert_int_equal(status, 0);
}

/* ---- what an earlier job has left ------------------------------------------------------------ */

/* Where the controller is not ours to use, the number is written by the test. */
static void test_c1_a_group_that_holds_memory_is_not_used_again(void **state)
{
    (void)state;
    const wq_cgroup_limits limits = {.memory_bytes = LIMIT_BYTES};
    const wq_logger quiet = {NULL, NULL};
    char folder[FOLDER_SIZE], path[FOLDER_SIZE + 16];
    wq_cgroups groups;
    assert_int_equal(wq_cgroups_open(&groups, "auto", 1, &limits, &quiet, NULL), WQ_OK);
    if (groups.dir == NULL) {
        print_message("no control group can be made here\n");
        skip();
    }
    wq_cgroup *group = wq_cgroup_of(&groups, 0);
    unsigned made = group->made;
    wq_cgroup_refresh(group);
    assert_int_equal(group->made, made); /* nothing was left there */

    assert_int_equal(make_folder(folder, "memory"), 0);
    snprintf(path, sizeof path, "%s/current", folder);
    put_file(path, "4096\n");
    if (group->memory >= 0)
        close(group->memory);
    group->memory = open(path, O_RDONLY | O_CLOEXEC);
    wq_cgroup_refresh(group);
    assert_int_equal(group->made, made);
    put_file(path, "2000000\n");
    wq_cgroup_refresh(group);
    assert_int_equal(group->made, made + 1);
    assert_true(group->dir >= 0);
    wq_cgroups_close(&groups);
    assert_int_equal(remove_folder(folder), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_c1_a_full_group_does_not_kill_the_host),
        cmocka_unit_test(test_c1_a_group_that_holds_memory_is_not_used_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

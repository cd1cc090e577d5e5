/* guard.c - starts the guard and sends it away. */
#include "workqueue/process/guard.h"

#include "workqueue/process/fds.h"
#include "workqueue/util/clocks.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { NO_CLASH = 10, FAREWELL_MS = 1000, OTHERS_US = 1000 };

/* What the guard is given; none of the descriptors below NO_CLASH, -1: not there. */
typedef struct guard_gift {
    const char *path, *groups_dir;
    int null_fd, socket_fd, table_fd, host_fd;
} guard_gift;

/* 0, or an errno as posix_spawn() gives it. */
static int plan_files(posix_spawn_file_actions_t *files, const guard_gift *gift)
{
    const int fds[] = {gift->null_fd,   gift->null_fd,  gift->null_fd,
                       gift->socket_fd, gift->table_fd, gift->host_fd};
    int e = 0;
    for (int i = 0; i < (int)(sizeof fds / sizeof *fds) && e == 0; i++)
        if (fds[i] >= 0)
            e = posix_spawn_file_actions_adddup2(files, fds[i], i);
    if (e == 0)
        e = posix_spawn_file_actions_addclosefrom_np(files, gift->host_fd >= 0 ? WQ_GUARD_END_FD
                                                                               : WQ_GUARD_HOST_FD);
    return e;
}

/* A session of its own, so that no terminal's signals reach it; nothing of our masks and handlers.
 */
static void detach(posix_spawnattr_t *attr)
{
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_setsigmask(attr, &none);
    posix_spawnattr_setsigdefault(attr, &all);
    posix_spawnattr_setflags(
        attr, (short)(POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF));
}

static int spawn_guard(pid_t *pid, const guard_gift *gift)
{
    char host[16];
    char *argv[] = {(char *)"workqueue-guard", (char *)WQ_GUARD_VERSION, host,
                    (char *)gift->groups_dir, NULL};
    char *envp[] = {NULL};
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attr;
    snprintf(host, sizeof host, "%ld", (long)getpid());
    int e = posix_spawn_file_actions_init(&files);
    if (e != 0)
        return e;
    if ((e = posix_spawnattr_init(&attr)) != 0)
        goto out_files;
    detach(&attr);
    e = plan_files(&files, gift);
    if (e == 0)
        e = posix_spawn(pid, gift->path, &files, &attr, argv, envp);
    posix_spawnattr_destroy(&attr);
out_files:
    posix_spawn_file_actions_destroy(&files);
    return e;
}

/* Until the child is a zombie, and then for as long as anybody else in this process might take to
 * reap it: a handler of SIGCHLD, or a thread in wait(). */
static void let_others_reap(pid_t pid)
{
    struct pollfd ended = {.fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN};
    while (ended.fd >= 0 && poll(&ended, 1, -1) < 0 && errno == EINTR)
        ;
    usleep(OTHERS_US);
    wq_fd_close(&ended.fd);
}

/* Waits for the child, which has nothing to do but to leave the guard behind. That somebody else
 * has reaped it is no failure of the guard; but the programs of jobs will fare likewise. */
static const char *start_guard(wq_guard *guard, const guard_gift *gift)
{
    pid_t pid;
    int status = 0, e = spawn_guard(&pid, gift);
    if (e != 0) {
        errno = e;
        return "posix_spawn";
    }
    let_others_reap(pid);
    pid_t reaped;
    while ((reaped = waitpid(pid, &status, 0)) < 0 && errno == EINTR)
        ;
    guard->child_was_stolen = reaped < 0;
    errno = ENOEXEC;
    return reaped < 0 || status == 0 ? NULL : "of another version";
}

static const char *make_table(wq_guard *guard, unsigned slots, int *fd)
{
    guard->table_bytes = (size_t)slots * WQ_GUARD_LINE;
    *fd = wq_fd_move(memfd_create("workqueue-guard", MFD_CLOEXEC), NO_CLASH);
    if (*fd < 0)
        return "memfd_create";
    if (ftruncate(*fd, (off_t)guard->table_bytes) != 0)
        return "ftruncate";
    char *table = mmap(NULL, guard->table_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
    if (table == MAP_FAILED)
        return "mmap";
    memset(table, ' ', guard->table_bytes);
    for (unsigned i = 0; i < slots; i++) {
        table[i * WQ_GUARD_LINE] = '-';
        table[i * WQ_GUARD_LINE + WQ_GUARD_LINE - 1] = '\n';
    }
    guard->table = table;
    return NULL;
}

/* Also on Linux 5.2, which has no pidfd_open(): then the end of the socket must do. */
static int open_pidfd_of_host(void)
{
    return wq_fd_move((int)syscall(SYS_pidfd_open, getpid(), 0), NO_CLASH);
}

const char *wq_guard_open(wq_guard *guard, const char *path, unsigned slots, const char *groups_dir)
{
    guard_gift gift = {path, groups_dir, -1, -1, -1, -1};
    int pair[2] = {-1, -1};
    memset(guard, 0, sizeof *guard);
    guard->fd = -1;
    const char *failed = make_table(guard, slots, &gift.table_fd);
    if (failed != NULL)
        goto out;
    failed = "open /dev/null";
    if ((gift.null_fd = wq_fd_move(open("/dev/null", O_RDWR | O_CLOEXEC), NO_CLASH)) < 0)
        goto out;
    failed = "socketpair";
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
        goto out;
    guard->fd = wq_fd_move(pair[0], 3);
    gift.socket_fd = wq_fd_move(pair[1], NO_CLASH);
    if (guard->fd < 0 || gift.socket_fd < 0)
        goto out;
    gift.host_fd = open_pidfd_of_host();
    failed = start_guard(guard, &gift);
out:
    wq_fd_close(&gift.socket_fd);
    wq_fd_close(&gift.table_fd);
    wq_fd_close(&gift.null_fd);
    wq_fd_close(&gift.host_fd);
    if (failed != NULL) {
        int saved = errno;
        wq_guard_close(guard);
        errno = saved;
    }
    return failed;
}

void wq_guard_close(wq_guard *guard)
{
    if (guard->fd >= 0) {
        struct pollfd gone = {.fd = guard->fd};
        int64_t left = FAREWELL_MS, end = wq_monotonic_ms() + left;
        if (send(guard->fd, "\n", 1, MSG_NOSIGNAL) == 1)
            while (left > 0 && poll(&gone, 1, (int)left) < 0 && errno == EINTR)
                left = end - wq_monotonic_ms();
        close(guard->fd);
    }
    if (guard->table != NULL)
        munmap(guard->table, guard->table_bytes);
    memset(guard, 0, sizeof *guard);
    guard->fd = -1;
}

char *wq_guard_line(const wq_guard *guard, unsigned slot)
{
    return guard->table != NULL ? guard->table + (size_t)slot * WQ_GUARD_LINE : NULL;
}

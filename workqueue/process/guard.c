/* guard.c - starts the guard and sends it away. The guard itself is the script below. */
#include "workqueue/process/guard.h"

#include "workqueue/process/fds.h"
#include "workqueue/util/util.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* Descriptor 3 is the socket to us: a line on it means that all is well, its end that we are gone.
 * Descriptor 4 is the table. The outer shell ends at once, so that the guard is nobody's child. A
 * program that was being started at the very moment we died may come into the table late: hence
 * the second sweep, for which the table is opened anew to be read from its start. */
static const char script[] = "trap '' HUP INT QUIT TERM\n"
                             "cd /\n"
                             "sweep() {\n"
                             "    while read -r mark group; do\n"
                             "        [ \"$mark\" = K ] && kill -s KILL -- \"-$group\"\n"
                             "    done\n"
                             "    [ -d \"$1\" ] && echo 1 >\"$1/cgroup.kill\"\n"
                             "}\n"
                             "(\n"
                             "    read -r farewell <&3 && exit\n"
                             "    sweep \"$1\" <&4\n"
                             "    sleep 0.1\n"
                             "    sweep \"$1\" </proc/self/fd/4\n"
                             "    for i in 1 2 3 4 5 6 7 8 9; do\n"
                             "        [ -d \"$1\" ] || exit\n"
                             "        rmdir \"$1\"/*/ \"$1\" || sleep 0.1\n"
                             "    done\n"
                             ") &\n";

enum { SOCKET_AS = 3, TABLE_AS = 4, NO_CLASH = 10, FAREWELL_MS = 1000 };

/* 0, or an errno as posix_spawn() gives it. */
static int arrange(posix_spawn_file_actions_t *files, int null_fd, int socket_fd, int table_fd)
{
    int e = 0;
    for (int fd = 0; fd <= 2 && e == 0; fd++)
        e = posix_spawn_file_actions_adddup2(files, null_fd, fd);
    if (e == 0)
        e = posix_spawn_file_actions_adddup2(files, socket_fd, SOCKET_AS);
    if (e == 0)
        e = posix_spawn_file_actions_adddup2(files, table_fd, TABLE_AS);
    if (e == 0)
        e = posix_spawn_file_actions_addclosefrom_np(files, TABLE_AS + 1);
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

static int start_shell(pid_t *pid, int null_fd, int socket_fd, int table_fd, const char *groups_dir)
{
    char *argv[] = {(char *)"sh",       (char *)"-c", (char *)script, (char *)"workqueue-guard",
                    (char *)groups_dir, NULL};
    char *envp[] = {(char *)"PATH=/usr/bin:/bin", NULL};
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attr;
    int e = posix_spawn_file_actions_init(&files);
    if (e != 0)
        return e;
    if ((e = posix_spawnattr_init(&attr)) != 0)
        goto out_files;
    detach(&attr);
    e = arrange(&files, null_fd, socket_fd, table_fd);
    if (e == 0)
        e = posix_spawn(pid, "/bin/sh", &files, &attr, argv, envp);
    posix_spawnattr_destroy(&attr);
out_files:
    posix_spawn_file_actions_destroy(&files);
    return e;
}

/* Waits for the outer shell, which has nothing to do but to leave the guard behind. That another
 * part of the process may have reaped it is no failure. */
static const char *start(int null_fd, int socket_fd, int table_fd, const char *groups_dir)
{
    pid_t pid;
    int status = 0;
    int e = start_shell(&pid, null_fd, socket_fd, table_fd, groups_dir);
    if (e != 0) {
        errno = e;
        return "posix_spawn /bin/sh";
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    errno = ECANCELED;
    return status == 0 ? NULL : "/bin/sh";
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

const char *wq_guard_open(wq_guard *guard, unsigned slots, const char *groups_dir)
{
    int pair[2] = {-1, -1}, table_fd = -1, null_fd = -1;
    memset(guard, 0, sizeof *guard);
    guard->fd = -1;
    const char *failed = make_table(guard, slots, &table_fd);
    if (failed != NULL)
        goto out;
    failed = "open /dev/null";
    if ((null_fd = wq_fd_move(open("/dev/null", O_RDWR | O_CLOEXEC), NO_CLASH)) < 0)
        goto out;
    failed = "socketpair";
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0 ||
        (pair[0] = wq_fd_move(pair[0], 3)) < 0 || (pair[1] = wq_fd_move(pair[1], NO_CLASH)) < 0)
        goto out;
    failed = start(null_fd, pair[1], table_fd, groups_dir);
    if (failed == NULL) {
        guard->fd = pair[0];
        pair[0] = -1;
    }
out:;
    int saved = errno;
    int fds[] = {pair[0], pair[1], table_fd, null_fd};
    for (size_t i = 0; i < sizeof fds / sizeof *fds; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    if (failed != NULL)
        wq_guard_close(guard);
    errno = saved;
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

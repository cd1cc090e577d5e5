/* workqueue-guard.c - ends the programs of a host that was killed by SIGKILL.
 *
 *   workqueue-guard VERSION HOST [FOLDER]
 *
 * libworkqueue starts one for each queue that runs programs; nobody else needs it. HOST, the host's
 * pid, is for who reads `ps`. FOLDER holds the queue's control groups, if it has some. Descriptors:
 *
 *   3  a socket to the host: a line on it is a farewell, all is well; its end: the host is gone
 *   4  the table of process groups, see guard.h
 *   5  a pidfd of the host, which tells its end also if a fork of the host still holds the socket
 *
 * It is nobody's child, in a session of its own, holds no other file, and takes no memory that
 * grows. It cannot outlive the host by more than about a second.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "workqueue/process/guard.h"

enum { PAUSE_US = 100000, REMOVALS = 9 };

/* The group of a line of the table; 0: none. */
static pid_t group_in(const char line[WQ_GUARD_LINE])
{
    char digits[WQ_GUARD_DIGITS + 1] = "";
    memcpy(digits, line + 1, WQ_GUARD_DIGITS);
    long group = line[0] == 'K' ? strtol(digits, NULL, 10) : 0;
    return group > 1 ? (pid_t)group : 0;
}

static void kill_groups(void)
{
    char line[WQ_GUARD_LINE];
    for (off_t at = 0; pread(WQ_GUARD_TABLE_FD, line, sizeof line, at) == (ssize_t)sizeof line;
         at += (off_t)sizeof line) {
        pid_t group = group_in(line);
        if (group != 0)
            kill(-group, SIGKILL);
    }
}

static void kill_control_groups(int folder)
{
    int fd = folder >= 0 ? openat(folder, "cgroup.kill", O_WRONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    if (write(fd, "1", 1) < 0) {
        /* they are gone */
    }
    close(fd);
}

static void remove_control_groups(int folder, const char *path)
{
    int copy = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *entries = copy >= 0 ? fdopendir(copy) : NULL;
    struct dirent *e;
    while (entries != NULL && (e = readdir(entries)) != NULL)
        if (e->d_type == DT_DIR && e->d_name[0] != '.')
            unlinkat(folder, e->d_name, AT_REMOVEDIR);
    if (entries != NULL)
        closedir(entries);
    rmdir(path);
}

/* A program that was being started at the very moment the host died may come into the table late:
 * hence the second sweep. */
static void end_programs(const char *path)
{
    int folder = path != NULL ? open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    for (int i = 0; i < 2; i++) {
        if (i > 0)
            usleep(PAUSE_US);
        kill_groups();
        kill_control_groups(folder);
    }
    for (int i = 0; folder >= 0 && i < REMOVALS && access(path, F_OK) == 0; i++) {
        remove_control_groups(folder, path);
        usleep(PAUSE_US);
    }
}

/* Nonzero: the host has said farewell; zero: it is gone without one. */
static int wait_for_host(void)
{
    struct pollfd fds[] = {{.fd = WQ_GUARD_SOCKET_FD, .events = POLLIN},
                           {.fd = WQ_GUARD_HOST_FD, .events = POLLIN}};
    for (;;) {
        if (poll(fds, 2, -1) < 0)
            continue; /* EINTR, or no memory now */
        char c;
        ssize_t n = recv(WQ_GUARD_SOCKET_FD, &c, 1, MSG_DONTWAIT);
        if (n > 0)
            return 1;
        if (n == 0 || (errno != EAGAIN && errno != EINTR) || (fds[1].revents & POLLIN) != 0)
            return 0;
        if ((fds[1].revents & POLLNVAL) != 0)
            fds[1].fd = -1; /* this kernel gave none */
    }
}

int main(int argc, char **argv)
{
    static const int ignored[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGPIPE};
    if (argc < 3 || argc > 4 || strcmp(argv[1], WQ_GUARD_VERSION) != 0 ||
        fcntl(WQ_GUARD_SOCKET_FD, F_GETFD) < 0 || fcntl(WQ_GUARD_TABLE_FD, F_GETFD) < 0) {
        fprintf(stderr, "workqueue-guard: libworkqueue starts it, version " WQ_GUARD_VERSION
                        " of it; it is of no use by hand\n");
        return 64;
    }
    for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++)
        (void)signal(ignored[i], SIG_IGN);
    pid_t child = fork(); /* nobody's child: no host has to wait for it */
    if (child != 0)
        return child < 0;
    if (chdir("/") != 0)
        return 1;
    if (!wait_for_host())
        end_programs(argc > 3 ? argv[3] : NULL);
    return 0;
}

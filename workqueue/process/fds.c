/* fds.c - moves and closes descriptors. */
#include "workqueue/process/fds.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

int wq_fd_move(int fd, int lowest)
{
    if (fd < 0 || fd >= lowest)
        return fd;
    int moved = fcntl(fd, F_DUPFD_CLOEXEC, lowest);
    wq_fd_close(&fd);
    return moved;
}

void wq_fd_close(int *fd)
{
    int saved = errno;
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
    errno = saved;
}

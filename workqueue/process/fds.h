/* fds.h - descriptors that must not be in the way: of a child's 0, 1, 2, or of a fixed number. */
#ifndef WQ_PROCESS_FDS_H
#define WQ_PROCESS_FDS_H

/* Moves a descriptor that is below `lowest` to there or higher, close-on-exec. The new number, or
 * -1 with errno, and the old one is closed; -1 for a negative one. */
int wq_fd_move(int fd, int lowest);

/* Closes it, unless it is negative, and makes it -1. Keeps errno. */
void wq_fd_close(int *fd);

#endif

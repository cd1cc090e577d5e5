/* cost_job.c - a job of few system calls: N lines of progress, where the document set is called
 * SOMETHING-N, PAUSE_US apart so that each is news of its own, and a few bytes of output. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PAUSE_US = 8000 };

int main(int argc, char **argv)
{
    char line[32];
    const char *number = argc == 5 ? strrchr(argv[2], '-') : NULL;
    long n = number != NULL ? strtol(number + 1, NULL, 10) : -1;
    for (long i = 0; i < n; i++) {
        int length = snprintf(line, sizeof line, "%.6f\n", (double)(i + 1) / (double)(n + 1));
        if (write(STDOUT_FILENO, line, (size_t)length) != length)
            return 1;
        usleep(PAUSE_US);
    }
    int fd = n >= 0 ? open(argv[4], O_WRONLY) : -1;
    return fd >= 0 && write(fd, "done\n", 5) == 5 ? 0 : 1;
}

/* ticker.c - a job that tells the time: its messages are ts=<CLOCK_MONOTONIC in nanoseconds>.
 *
 * The document set id says how often: COUNTxMILLISECONDS, and anything after it, as in 60x100-a.
 */
#include <fcntl.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

static int tell(int i, int count) {
    struct timespec now;
    char line[80];
    clock_gettime(CLOCK_MONOTONIC, &now);
    int n = snprintf(line, sizeof(line), "%.4f\tts=%lld\n", (double)i / count,
                     (long long)now.tv_sec * 1000000000 + now.tv_nsec);
    return write(STDOUT_FILENO, line, (size_t)n) == n ? 0 : -1;
}

int main(int argc, char **argv) {
    int count, ms;
    if (argc != 5 || sscanf(argv[2], "%dx%d", &count, &ms) != 2 || count < 1)
        return 2;
    struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
    for (int i = 0; i < count; i++) {
        nanosleep(&pause, NULL);
        if (tell(i, count) != 0)
            return 1;
    }
    int fd = open(argv[4], O_WRONLY | O_TRUNC);
    return fd >= 0 && write(fd, "done\n", 5) == 5 ? 0 : 1;
}

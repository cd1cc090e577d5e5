/* job.c - the cheapest job there is: two lines of progress and a few bytes of output. Linked
 * statically, it costs little more than its exec.
 */
#include <fcntl.h>
#include <unistd.h>

static const char progress[] = "0.25\tstarted\n0.75\tnearly done\n";

int main(int argc, char **argv) {
    if (argc != 5)
        return 2;
    if (write(STDOUT_FILENO, progress, sizeof(progress) - 1) != sizeof(progress) - 1)
        return 1;
    int fd = open(argv[4], O_WRONLY | O_TRUNC | O_CREAT, 0600);
    return fd >= 0 && write(fd, "done\n", 5) == 5 ? 0 : 1;
}

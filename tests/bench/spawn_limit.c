/* spawn_limit.c - how many programs a second this machine can run at all.
 *
 *   spawn_limit THREADS SECONDS PROGRAM [ARGUMENT...]
 *
 * Each thread does the least that whoever runs a program and wants its output, its errors and its
 * exit status must do: two pipes, posix_spawn, read both to their end, waitpid; and again. Prints
 * programs a second.
 */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { THREADS_MAX = 64 };

struct limit {
    char **program;
    atomic_int stop;
    atomic_long ran;
};

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void drain(int out, int err) {
    char bytes[4096];
    struct pollfd fds[2] = {{.fd = out, .events = POLLIN}, {.fd = err, .events = POLLIN}};
    int open = 2;
    while (open > 0) {
        if (poll(fds, 2, -1) < 0)
            fail("poll");
        for (int i = 0; i < 2; i++) {
            if (!fds[i].revents || read(fds[i].fd, bytes, sizeof(bytes)) > 0)
                continue;
            close(fds[i].fd);
            fds[i].fd = -1;
            open--;
        }
    }
}

static void run_once(char **program) {
    int out[2], err[2], status;
    pid_t pid;
    posix_spawn_file_actions_t actions;
    if (pipe2(out, O_CLOEXEC) != 0 || pipe2(err, O_CLOEXEC) != 0)
        fail("pipe2");
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, err[1], STDERR_FILENO);
    if (posix_spawn(&pid, program[0], &actions, NULL, program, environ) != 0)
        fail("posix_spawn");
    posix_spawn_file_actions_destroy(&actions);
    close(out[1]);
    close(err[1]);
    drain(out[0], err[0]);
    if (waitpid(pid, &status, 0) != pid)
        fail("waitpid");
    if (status != 0) {
        fprintf(stderr, "%s failed: wait status %d\n", program[0], status);
        exit(1);
    }
}

static void *loop(void *arg) {
    struct limit *limit = arg;
    while (!limit->stop) {
        run_once(limit->program);
        limit->ran++;
    }
    return NULL;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int main(int argc, char **argv) {
    int n = argc > 3 ? atoi(argv[1]) : 0;
    if (n < 1 || n > THREADS_MAX) {
        fprintf(stderr, "usage: spawn_limit THREADS SECONDS PROGRAM [ARGUMENT...]\n");
        return 2;
    }
    struct limit limit = {.program = argv + 3};
    pthread_t threads[THREADS_MAX];
    double start = now();
    for (int i = 0; i < n; i++)
        if (pthread_create(&threads[i], NULL, loop, &limit) != 0)
            fail("pthread_create");
    usleep((useconds_t)(atof(argv[2]) * 1e6));
    limit.stop = 1;
    for (int i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
    printf("%.1f\n", (double)limit.ran / (now() - start));
    return 0;
}

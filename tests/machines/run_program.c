/* run_program.c - the local runner alone, for machines that this one can only emulate.
 *
 *   run_program PROGRAM COMMAND
 *
 * Runs PROGRAM COMMAND 17 token OUTPUT once, prints the lines that it reports and how it ended.
 * Made of workqueue/process and workqueue/util only, so that it can be compiled for another machine
 * without any library of that. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "workqueue/process/local.h"

static void on_log(void *user, int level, const char *message)
{
    (void)user;
    fprintf(stderr, "%d %s\n", level, message);
}

static void on_line(void *user, const char *line, size_t len)
{
    (void)user;
    printf("line %.*s\n", (int)len, line);
}

int main(int argc, char **argv)
{
    char output[] = "/tmp/wq-test-machine-XXXXXX";
    wq_error error = {0};
    wq_runner *runner;
    wq_outcome outcome = {0};
    int fd = mkstemp(output);
    const wq_local_options options = {.program = argv[1],
                                      .workers = 1,
                                      .grace_ms = 1000,
                                      .drain_ms = 100,
                                      .max_line_bytes = 1000,
                                      .stderr_tail_bytes = 1000,
                                      .cgroup_dir = argc > 3 ? "auto" : NULL,
                                      .logger = {on_log, NULL}};
    if (argc < 3 || fd < 0)
        return 2;
    close(fd);
    if (wq_local_open(&runner, &options, &error) != WQ_OK) {
        fprintf(stderr, "%s\n", error.message);
        return 2;
    }
    wq_params params = {argv[2], "17", "token"};
    wq_run run = {.params = &params,
                  .key = "k",
                  .output_path = output,
                  .cancel_fd = eventfd(0, EFD_CLOEXEC),
                  .report = on_line};
    runner->run(runner->self, &run, &outcome);
    runner->close(runner);
    printf("%d %s\n", outcome.returncode, outcome.error != NULL ? outcome.error : "");
    free(outcome.error);
    return unlink(output);
}

/* test_run.c - the local runner, with real programs: what they are given, how their ends are told,
 * and that nothing of them is left.
 *
 * Most run tests/programs/shell, whose first argument is the shell command that it does. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "tests/support.h"
#include "workqueue/process/local.h"
#include "workqueue/process/spawn.h"
#include "workqueue/util/clocks.h"

enum { GRACE_MS = 300, DRAIN_MS = 1000, TAIL_BYTES = 65536, LINE_BYTES = 8192, WORKERS = 4 };

/* A runner, one run of it and what came of that. */
typedef struct bed {
    wq_runner *runner;
    int cancel_fd;
    unsigned slot;
    char output[64];
    char lines[16384]; /* each followed by "|" */
    size_t lines_len, n_lines;
    logbook log;
    void (*on_line)(struct bed *bed, const char *line); /* while the program runs */
    int fd;                                             /* for on_line */
    wq_outcome outcome;
    int64_t ms; /* that the run took */
} bed;

static void on_report(void *user, const char *line, size_t len)
{
    bed *b = user;
    b->n_lines++;
    if (len + 2 > sizeof b->lines - b->lines_len)
        return;
    char *copy = b->lines + b->lines_len;
    memcpy(copy, line, len);
    copy[len] = '\0';
    if (b->on_line != NULL)
        b->on_line(b, copy);
    copy[len] = '|';
    copy[len + 1] = '\0';
    b->lines_len += len + 1;
}

static wq_local_options options_for(bed *b, const char *program)
{
    return (wq_local_options){.program = program,
                              .workers = WORKERS,
                              .grace_ms = GRACE_MS,
                              .drain_ms = DRAIN_MS,
                              .max_line_bytes = LINE_BYTES,
                              .stderr_tail_bytes = TAIL_BYTES,
                              .logger = {on_log, &b->log}};
}

/* 0, or -1: also used in forked hosts, where an assertion would be lost. */
static int try_open(bed *b, const char *program)
{
    memset(b, 0, sizeof *b);
    snprintf(b->output, sizeof b->output, "/tmp/wq-test-run-XXXXXX");
    int fd = mkstemp(b->output);
    b->cancel_fd = eventfd(0, EFD_CLOEXEC);
    if (fd < 0 || b->cancel_fd < 0 || write(fd, "output\n", 7) != 7)
        return -1;
    close(fd);
    wq_local_options options = options_for(b, program);
    return wq_local_open(&b->runner, &options, NULL);
}

static void open_bed(bed *b)
{
    assert_int_equal(try_open(b, SHELL), WQ_OK);
    assert_string_equal(b->log.text, "");
}

static void close_bed(bed *b)
{
    b->runner->close(b->runner);
    close(b->cancel_fd);
    unlink(b->output);
    free(b->outcome.error);
}

static void run(bed *b, const char *command)
{
    wq_params params = {command, "17", "s3cret"};
    wq_run job = {.params = &params,
                  .key = "k",
                  .output_path = b->output,
                  .slot = b->slot,
                  .cancel_fd = b->cancel_fd,
                  .report = on_report,
                  .user = b};
    free(b->outcome.error);
    b->lines[0] = '\0';
    b->lines_len = b->n_lines = 0;
    int64_t begin = wq_monotonic_ms();
    b->runner->run(b->runner->self, &job, &b->outcome);
    b->ms = wq_monotonic_ms() - begin;
}

/* As the contract has it; the others find an output, which most programs here do not write. */
static void run_empty(bed *b, const char *command)
{
    assert_int_equal(truncate(b->output, 0), 0);
    run(b, command);
}

static void cancel(bed *b, const char *line)
{
    uint64_t one = 1;
    (void)line;
    if (write(b->cancel_fd, &one, sizeof one) != sizeof one)
        abort();
}

/* Waits until a process is in one of `states`, or over if that is "". */
static int reaches(long pid, const char *states)
{
    int64_t deadline = wq_monotonic_ms() + DEADLINE_MS;
    while (*states != '\0' ? strchr(states, process_state(pid)) == NULL : !is_over(pid)) {
        if (wq_monotonic_ms() > deadline)
            return 0;
        usleep(2000);
    }
    return 1;
}

static int count_fds(void)
{
    int n = 0;
    for (int fd = 0; fd < 1024; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

static void expect(const bed *b, int returncode, const char *error)
{
    assert_int_equal(b->outcome.returncode, returncode);
    assert_int_equal(b->outcome.cancelled, 0);
    if (error == NULL)
        assert_null(b->outcome.error);
    else
        assert_string_equal(b->outcome.error, error);
}

static void expect_cancelled(const bed *b)
{
    assert_int_equal(b->outcome.cancelled, 1);
    assert_int_equal(b->outcome.returncode, -999);
    assert_string_equal(b->outcome.error, "Cancelled");
    assert_true(b->ms < DEADLINE_MS);
}

/* ---- what a program is given ----------------------------------------------------------------- */

static void test_arguments_are_exactly_the_contract(void **state)
{
    (void)state;
    bed b;
    open_bed(&b);
    run(&b, "printf '%s\\n' \"$#\" \"$0\" \"$2\" \"$3\" \"$4\"");
    expect(&b, 0, NULL);
    char expected[512];
    snprintf(expected, sizeof expected, "4|%s|17|s3cret|%s|", SHELL, b.output);
    assert_string_equal(b.lines, expected);
    close_bed(&b);
}

static void test_stdin_is_dev_null(void **state)
{
    (void)state;
    bed b;
    open_bed(&b);
    run(&b, "readlink /proc/self/fd/0; cat | wc -c");
    assert_string_equal(b.lines, "/dev/null|0|");
    close_bed(&b);
}

static void test_no_other_descriptor_is_inherited(void **state)
{
    (void)state;
    bed b;
    int low = dup(2), high = fcntl(2, F_DUPFD, 500);
    assert_true(low >= 0 && high >= 500);
    open_bed(&b);
    run(&b, "exec ls /proc/self/fd"); /* 3 is the folder itself */
    assert_string_equal(b.lines, "0|1|2|3|");
    close_bed(&b);
    close(low);
    close(high);
}

static void test_output_pipes_block(void **state)
{
    (void)state;
    bed b;
    open_bed(&b);
    run(&b, "grep -h flags /proc/self/fdinfo/1 /proc/self/fdinfo/2");
    assert_string_equal(b.lines, "flags:\t01|flags:\t01|");
    close_bed(&b);
}

static void test_own_process_group(void **state)
{
    (void)state;
    bed b;
    open_bed(&b);
    run(&b, "set -- $(cat /proc/$$/stat); [ $1 = $5 ] && echo leader");
    assert_string_equal(b.lines, "leader|");
    close_bed(&b);
}

static void on_signal(int number)
{
    (void)number;
}

static void test_signals_are_as_new(void **state)
{
    (void)state;
    bed b;
    sigset_t term, before;
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    sighandler_t pipe_before = signal(SIGPIPE, SIG_IGN), usr_before = signal(SIGUSR1, on_signal);
    pthread_sigmask(SIG_BLOCK, &term, &before);
    open_bed(&b);
    run(&b, "exec grep -E '^Sig(Blk|Ign)' /proc/self/status");
    close_bed(&b);
    sigset_t now;
    pthread_sigmask(SIG_SETMASK, &before, &now);
    assert_true(sigismember(&now, SIGTERM) && !sigismember(&now, SIGINT));
    assert_ptr_equal(signal(SIGPIPE, pipe_before), SIG_IGN);
    assert_ptr_equal(signal(SIGUSR1, usr_before), on_signal);
    assert_string_equal(b.lines, "SigBlk:\t0000000000000000|SigIgn:\t0000000000000000|");
}

/* ---- how its end is told --------------------------------------------------------------------- */

static void test_success_has_no_error(void **state)
{
    (void)state;
    bed b;
    open_bed(&b);
    run(&b, "echo 0.25; echo this is not kept >&2; printf '0.75\\tlast, without newline'");
    expect(&b, 0, NULL);
    assert_string_equal(b.lines, "0.25|0.75\tlast, without newline|");
    close_bed(&b);
}

static void test_exit_code_and_stderr(void **state)
{
    (void)state;
    bed b;
    open_bed(&b);
    run(&b, "echo oh >&2; echo no >&2; exit 7");
    expect(&b, 7, "Exited with code 7\nstderr:\noh\nno\n");
    run(&b, "exit 255");
    expect(&b, 255, "Exited with code 255\nstderr:\n");
    run(&b, "printf 'a\\000b' >&2; exit 1");
    expect(&b, 1, "Exited with code 1\nstderr:\na?b");
    close_bed(&b);
}

static void test_death_by_signal(void **state)
{
    (void)state;
    bed b;
    open_bed(&b);
    run(&b, "echo ow >&2; kill -KILL $$");
    expect(&b, -9, "Exited with code -9\nstderr:\now\n");
    run(&b, "ulimit -c 0; kill -SEGV $$");
    expect(&b, -11, "Exited with code -11\nstderr:\n");
    run(&b, "kill -TERM $$");
    expect(&b, -15, "Exited with code -15\nstderr:\n");
    close_bed(&b);
}

static void test_only_the_end_of_stderr_is_kept(void **state)
{
    (void)state;
    bed b;
    open_bed(&b);
    run(&b, "i=0; while [ $i -lt 9000 ]; do echo 12345678 $i; i=$((i+1)); done >&2; exit 1");
    const char *tail = b.outcome.error + strlen("Exited with code 1\nstderr:\n");
    assert_int_equal(strlen(tail), TAIL_BYTES);
    assert_string_equal(tail + TAIL_BYTES - 14, "12345678 8999\n");
    assert_non_null(strstr(tail, "\n12345678 8000\n12345678 8001\n"));
    close_bed(&b);
}

static void test_a_gigabyte_of_stderr_costs_little(void **state)
{
    (void)state;
    bed b;
    struct rusage before, after;
    open_bed(&b);
    getrusage(RUSAGE_SELF, &before);
    run(&b, "head -c 1000000000 /dev/zero >&2; echo end >&2; exit 3");
    getrusage(RUSAGE_SELF, &after);
    assert_int_equal(b.outcome.returncode, 3);
    size_t n = strlen(b.outcome.error);
    assert_int_equal(n, strlen("Exited with code 3\nstderr:\n") + TAIL_BYTES);
    assert_string_equal(b.outcome.error + n - 6, "??end\n");
    assert_true(after.ru_maxrss - before.ru_maxrss < 32 * 1024);
    close_bed(&b);
}

static void test_a_line_of_ten_megabytes_is_cut(void **state)
{
    (void)state;
    bed b;
    open_bed(&b);
    run(&b, "head -c 10000000 /dev/zero | tr '\\000' x; echo; echo 0.5");
    expect(&b, 0, NULL);
    assert_int_equal(b.n_lines, 2);
    assert_int_equal(b.lines_len, LINE_BYTES + 1 + 4);
    assert_string_equal(b.lines + LINE_BYTES, "|0.5|");
    close_bed(&b);
}

static void test_a_program_that_closes_its_output_is_waited_for(void **state)
{
    (void)state;
    bed b;
    open_bed(&b);
    run(&b, "echo a; exec >&-; sleep 0.1; echo late >&2; exit 5");
    expect(&b, 5, "Exited with code 5\nstderr:\nlate\n");
    run(&b, "exec >&- 2>&-; sleep 0.1; exit 6");
    expect(&b, 6, "Exited with code 6\nstderr:\n");
    close_bed(&b);
}

static void test_lines_come_while_the_program_runs(void **state)
{
    (void)state;
    bed b;
    open_bed(&b);
    b.on_line =
        cancel; /* were the line held back until the end, this would last a thousand seconds */
    run(&b, "echo 0.5; exec sleep 1000");
    expect_cancelled(&b);
    close_bed(&b);
}

/* ---- programs that do not start -------------------------------------------------------------- */

static void expect_refused(const char *program, const char *why)
{
    bed b;
    wq_error error;
    wq_runner *runner = NULL;
    memset(&b, 0, sizeof b);
    wq_local_options options = options_for(&b, program);
    assert_int_equal(wq_local_open(&runner, &options, &error), WQ_ERROR_INVALID_ARGUMENT);
    assert_int_equal(error.code, WQ_ERROR_INVALID_ARGUMENT);
    assert_null(runner);
    assert_non_null(strstr(error.message, program));
    assert_non_null(strstr(error.message, why));
}

static void test_open_refuses_what_cannot_run(void **state)
{
    (void)state;
    expect_refused("/no/such/program", "No such file or directory");
    expect_refused("/tmp", "not a regular file");
    expect_refused("/dev/null", "not a regular file");
    expect_refused(WQ_TEST_PROGRAMS "/not-executable", "Permission denied");
    expect_refused("", "No program");
}

static void expect_no_start(bed *b, const char *program, const char *why)
{
    char expected[512];
    run(b, "true");
    snprintf(expected, sizeof expected, "Failed to start %s: %s", program, why);
    expect(b, -999, expected);
    assert_int_equal(b->n_lines, 0);
}

static void test_a_file_that_is_no_program(void **state)
{
    (void)state;
    bed b;
    const char *program = WQ_TEST_PROGRAMS "/no-format";
    assert_int_equal(try_open(&b, program), WQ_OK);
    expect_no_start(
        &b, program,
        "Exec format error (it is no program for this machine; a script needs a #! line)");
    close_bed(&b);
    program = WQ_TEST_PROGRAMS "/no-interpreter";
    assert_int_equal(try_open(&b, program), WQ_OK);
    expect_no_start(&b, program,
                    "No such file or directory (its interpreter, as its #! line names it: "
                    "/no/such/interpreter)");
    close_bed(&b);
}

static void test_a_program_that_goes_away(void **state)
{
    (void)state;
    bed b;
    char program[] = "/tmp/wq-test-program-XXXXXX";
    int fd = mkstemp(program), fds = count_fds();
    assert_true(fd >= 0 && write(fd, "#!/bin/sh\n", 10) == 10);
    assert_int_equal(fchmod(fd, 0700), 0);
    close(fd);
    assert_int_equal(try_open(&b, program), WQ_OK);
    run(&b, "");
    expect(&b, 0, NULL);
    assert_int_equal(chmod(program, 0600), 0);
    expect_no_start(&b, program, "Permission denied");
    assert_int_equal(unlink(program), 0);
    expect_no_start(&b, program, "No such file or directory");
    close_bed(&b);
    assert_int_equal(count_fds(), fds - 1);
}

static void test_out_of_descriptors_is_said(void **state)
{
    (void)state;
    bed b;
    struct rlimit before, few;
    int refused = 0;
    open_bed(&b);
    int next = dup(2), fds = count_fds() - 1;
    close(next);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    for (int more = 0; more < 3; more++) { /* our ends of two pipes and the pidfd */
        few = before;
        few.rlim_cur = (rlim_t)(next + more);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
        run(&b, "true");
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
        if (b.outcome.returncode == -999)
            refused += strstr(b.outcome.error, "Failed to start " WQ_TEST_PROGRAMS "/shell: ") &&
                       strstr(b.outcome.error, ": Too many open files");
        assert_int_equal(count_fds(), fds);
    }
    assert_int_equal(refused, 3);
    run(&b, "true");
    expect(&b, 0, NULL);
    close_bed(&b);
}

/* ---- cancel ---------------------------------------------------------------------------------- */

static void cancel_when_closed(bed *b, const char *line)
{
    char path[64];
    int64_t deadline = wq_monotonic_ms() + DEADLINE_MS;
    snprintf(path, sizeof path, "/proc/%ld/fd/2", atol(line));
    while (access(path, F_OK) == 0) {
        if (wq_monotonic_ms() > deadline)
            abort();
        usleep(2000);
    }
    cancel(b, line);
}

/* The program is gone, so that a start would be told. */
static void test_cancel_before_the_start_starts_nothing(void **state)
{
    (void)state;
    bed b;
    char program[] = "/tmp/wq-test-program-XXXXXX";
    int fd = mkstemp(program);
    assert_true(fd >= 0 && fchmod(fd, 0700) == 0);
    close(fd);
    assert_int_equal(try_open(&b, program), WQ_OK);
    unlink(program);
    cancel(&b, "");
    run(&b, "");
    expect_cancelled(&b);
    close_bed(&b);
}

static void test_cancel_reaches_a_program_without_output(void **state)
{
    (void)state;
    bed b;
    open_bed(&b);
    b.on_line = cancel_when_closed;
    run(&b, "trap '' TERM; echo $$; exec >&- 2>&-; exec sleep 1000");
    expect_cancelled(&b);
    close_bed(&b);
}

static void test_cancel_gives_time_to_clean_up(void **state)
{
    (void)state;
    bed b;
    open_bed(&b);
    b.on_line = cancel;
    run(&b, "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.01; done");
    expect_cancelled(&b);
    assert_string_equal(b.lines, "ready|bye|");
    close_bed(&b);
}

static void test_cancel_kills_what_ignores_it(void **state)
{
    (void)state;
    bed b;
    open_bed(&b);
    b.on_line = cancel;
    run(&b, "trap '' TERM; exec 2>&-; sleep 1000 & echo $!; exec >&-; wait");
    expect_cancelled(&b);
    assert_true(b.ms >= GRACE_MS);
    assert_true(reaches(atol(b.lines), ""));
    close_bed(&b);
}

/* Then the group that it led is not where the program is. */
static void test_cancel_finds_a_program_in_another_group(void **state)
{
    (void)state;
    bed b;
    open_bed(&b);
    b.on_line = cancel;
    run(&b, "sleep 1000 & exec python3 -c '\n"
            "import os, signal, sys\n"
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "other = os.fork() or (os.setpgid(0, 0), signal.pause())\n"
            "while os.getpgid(other) != other: pass\n"
            "os.setpgid(0, other)\n"
            "print(other, flush=True)\n"
            "while True: signal.pause()\n'");
    kill((pid_t)atol(b.lines), SIGKILL);
    expect_cancelled(&b);
    close_bed(&b);
}

/* A kill() of a group that came too early for it, by as little as can be: it is there right after.
 */
static int group_is_late;

int kill(pid_t pid, int number)
{
    if (pid < -1 && group_is_late) {
        int64_t deadline = wq_monotonic_ms() + DEADLINE_MS;
        group_is_late = 0;
        while (getpgid(-pid) != -pid && wq_monotonic_ms() < deadline)
            usleep(500);
        errno = ESRCH;
        return -1;
    }
    return (int)syscall(SYS_kill, pid, number);
}

/* The grace would last longer than the test may. */
static void test_c4_cancel_of_a_program_that_has_no_group_yet(void **state)
{
    (void)state;
    bed b;
    wq_runner *runner;
    open_bed(&b);
    wq_local_options options = options_for(&b, SHELL);
    options.grace_ms = 10 * DEADLINE_MS;
    assert_int_equal(wq_local_open(&runner, &options, NULL), WQ_OK);
    b.runner->close(b.runner);
    b.runner = runner;
    b.on_line = cancel;
    group_is_late = 1;
    run(&b, "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.01; done");
    assert_int_equal(group_is_late, 0);
    expect_cancelled(&b);
    assert_string_equal(b.lines, "ready|bye|");
    close_bed(&b);
}

static void cancel_when_stopped(bed *b, const char *line)
{
    if (!reaches(atol(line), "T"))
        abort();
    cancel(b, line);
}

static void test_cancel_ends_a_stopped_program(void **state)
{
    (void)state;
    bed b;
    open_bed(&b);
    b.on_line = cancel_when_stopped;
    run(&b, "trap '' TERM; echo $$; kill -STOP $$; while :; do sleep 1; done");
    expect_cancelled(&b);
    close_bed(&b);
}

/* The program reads what is written to its output file, and ends; its grandchild keeps the pipes
 * open, so that the cancel comes while they are being drained. */
static void cancel_when_over(bed *b, const char *line)
{
    int fd = open(b->output, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "go\n", 3) != 3 || close(fd) != 0 || !reaches(atol(line), "Z"))
        abort();
    cancel(b, line);
}

static void test_cancel_after_the_end_is_too_late(void **state)
{
    (void)state;
    bed b;
    open_bed(&b);
    b.on_line = cancel_when_over;
    run_empty(&b, "sleep 1000 & echo $$; until [ -s \"$4\" ]; do sleep 0.01; done; exit 4");
    expect(&b, 4, "Exited with code 4\nstderr:\n");
    close_bed(&b);
}

/* ---- grandchildren --------------------------------------------------------------------------- */

static void test_a_grandchild_that_holds_the_pipes(void **state)
{
    (void)state;
    bed b;
    open_bed(&b);
    run(&b, "sleep 1000 & echo $!");
    expect(&b, 0, NULL);
    assert_true(b.ms >= DRAIN_MS && b.ms < DEADLINE_MS);
    assert_true(reaches(atol(b.lines), ""));
    close_bed(&b);
}

static void test_what_a_grandchild_writes_in_time_counts(void **state)
{
    (void)state;
    bed b;
    open_bed(&b);
    run(&b, "{ sleep 0.05; echo late; } &");
    expect(&b, 0, NULL);
    assert_string_equal(b.lines, "late|");
    run(&b, "{ sleep 0.05; echo late >&2; } >&- & exec >&-; exit 1");
    expect(&b, 1, "Exited with code 1\nstderr:\nlate\n");
    close_bed(&b);
}

static void test_a_grandchild_without_pipes_goes_too(void **state)
{
    (void)state;
    bed b;
    open_bed(&b);
    run(&b, "sleep 1000 >/dev/null 2>&1 & echo $!");
    expect(&b, 0, NULL);
    assert_true(reaches(atol(b.lines), ""));
    close_bed(&b);
}

/* It has left the group, so it is not ours to kill; but it cannot keep the run from ending. */
static void test_a_grandchild_in_another_session(void **state)
{
    (void)state;
    bed b;
    open_bed(&b);
    run_empty(&b, "setsid sh -c 'echo $$ >\"$1\"; exec yes' sh \"$4\" & "
                  "until [ -s \"$4\" ]; do sleep 0.01; done; exit 2");
    char text[32] = "";
    int fd = open(b.output, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0 && read(fd, text, sizeof text - 1) > 0);
    close(fd);
    kill((pid_t)atol(text), SIGKILL);
    expect(&b, 2, "Exited with code 2\nstderr:\n");
    assert_true(b.ms < DEADLINE_MS);
    close_bed(&b);
}

/* ---- the host -------------------------------------------------------------------------------- */

static void close_some(int mask)
{
    for (int fd = 0; fd <= 2; fd++)
        if ((mask & 1 << fd) != 0)
            close(fd);
}

/* `before` and `after` say which of 0, 1, 2 are closed before the open and after it. */
static int run_without_stdio(int before, int after)
{
    bed b;
    close_some(before);
    if (try_open(&b, SHELL) != WQ_OK)
        return 2;
    close_some(after);
    run(&b, "readlink /proc/self/fd/0; echo out; echo err >&2; ls /proc/self/fd; exit 3");
    if (strcmp(b.lines, "/dev/null|out|0|1|2|3|") != 0)
        return 3;
    if (b.outcome.returncode != 3 ||
        strcmp(b.outcome.error, "Exited with code 3\nstderr:\nerr\n") != 0)
        return 4;
    close_bed(&b);
    return 0;
}

static void test_a_host_without_stdio(void **state)
{
    (void)state;
    for (int mask = 0; mask < 16; mask++) {
        int status;
        pid_t pid = fork();
        if (pid == 0)
            _exit(run_without_stdio(mask < 8 ? mask : 0, mask < 8 ? 0 : mask - 8));
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
    }
}

/* The program gets its three descriptors and no other, also where close_range() is not known, and
 * the limit has been lowered below what is open. */
static int run_without_close_range(void)
{
    enum { FIRST = 600, END = 700 };
    const struct rlimit low = {FIRST / 2, FIRST / 2};
    for (int fd = FIRST; fd < END; fd++)
        if (dup2(2, fd) != fd)
            return 1;
    if (setrlimit(RLIMIT_NOFILE, &low) != 0 || forbid_call(SYS_close_range, ENOSYS) != 0)
        return 1;
    return run_without_stdio(0, 0);
}

static void test_a_sandbox_without_close_range(void **state)
{
    (void)state;
    int status;
    pid_t pid = fork();
    if (pid == 0)
        _exit(run_without_close_range());
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

/* The kernel takes a pidfd back when the rest fails, as with a limit of processes that is reached;
 * here it is that the folder is no control group. Its number may be another's then. */
static void test_a_child_that_failed_has_no_pidfd(void **state)
{
    (void)state;
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        wq_cgroup group = {.dir = open("/", O_RDONLY | O_DIRECTORY), .procs = -1};
        wq_spawn_plan plan = {.program = SHELL, .group = &group};
        int pidfd = -1;
        if (forbid_call(SYS_clone, ENOSYS) != 0)
            _exit(1);
        _exit(wq_spawn(&plan, wq_spawn_stack_new(), &pidfd) == -1 && pidfd == -1 ? 0 : 2);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

/* Many descriptors of the host: none is passed on, and none is lost. */
static void test_a_host_with_many_descriptors(void **state)
{
    (void)state;
    enum { MANY = 500 };
    int fds[MANY];
    bed b;
    open_bed(&b);
    for (int i = 0; i < MANY; i++)
        assert_true((fds[i] = dup(2)) > 2);
    int before = count_fds();
    run(&b, "ls /proc/self/fd");
    assert_string_equal(b.lines, "0|1|2|3|");
    assert_int_equal(count_fds(), before);
    for (int i = 0; i < MANY; i++)
        assert_int_equal(close(fds[i]), 0);
    close_bed(&b);
}

static void tell_parent(bed *b, const char *line)
{
    if (write(b->fd, line, strlen(line)) < 0)
        abort();
}

/* The limit that leaves room for `n` more descriptors. */
static rlim_t limit_for(int n)
{
    int fd = dup(2);
    rlim_t limit = n > 1 ? limit_for(n - 1) : (rlim_t)fd + 1;
    close(fd);
    return limit;
}

/* Opens a bed in which there is no guard, for want of descriptors: there is room for cancel_fd,
 * /dev/null and what the slots need. */
static int open_without_guard(bed *b)
{
    struct rlimit before, few;
    if (getrlimit(RLIMIT_NOFILE, &before) != 0)
        return -1;
    few = before;
    few.rlim_cur = limit_for(2 + 2 * WORKERS);
    setrlimit(RLIMIT_NOFILE, &few);
    int result = try_open(b, SHELL);
    setrlimit(RLIMIT_NOFILE, &before);
    return result;
}

/* Forks a host that runs `command`, kills it when a line has come, and says which line that was. */
static void kill_host_with(void (*on_line)(bed *, const char *), const char *command, int guarded,
                           char *line, size_t size)
{
    int fds[2];
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    pid_t host = fork();
    if (host == 0) {
        bed b;
        if ((guarded ? try_open(&b, SHELL) : open_without_guard(&b)) != WQ_OK)
            _exit(1);
        unlink(b.output); /* nobody will do so later */
        b.fd = fds[1];
        b.on_line = on_line;
        run(&b, command);
        _exit(2);
    }
    close(fds[1]);
    ssize_t n = read(fds[0], line, size - 1);
    assert_true(n > 0);
    line[n] = '\0';
    close(fds[0]);
    int status;
    assert_int_equal(kill(host, SIGKILL), 0);
    assert_int_equal(waitpid(host, &status, 0), host);
    assert_true(WIFSIGNALED(status));
}

static void kill_host_during(const char *command, int guarded, char *line, size_t size)
{
    kill_host_with(tell_parent, command, guarded, line, size);
}

static void test_a_killed_host_leaves_no_program(void **state)
{
    (void)state;
    char line[64];
    kill_host_during("echo $$; exec sleep 1000", 0, line, sizeof line);
    assert_true(reaches(atol(line), ""));
}

static void test_a_killed_host_leaves_no_grandchild(void **state)
{
    (void)state;
    char line[64], *second;
    kill_host_during("trap '' TERM; sh -c 'sleep 1000; true' & echo \"$$ $!\"; wait", 1, line,
                     sizeof line);
    long program = strtol(line, &second, 10), grandchild = strtol(second, NULL, 10);
    assert_true(program > 1 && grandchild > 1);
    assert_true(reaches(program, ""));
    assert_true(reaches(grandchild, ""));
}

static void fork_and_tell(bed *b, const char *line)
{
    char text[64];
    pid_t other = fork();
    if (other == 0) {
        close(b->fd);
        sleep(2 * DEADLINE_MS / 1000);
        _exit(0);
    }
    snprintf(text, sizeof text, "%.20s %ld", line, (long)other);
    tell_parent(b, text);
}

/* A host that forks without exec, as daemons and multiprocessing do: the fork has all that the host
 * has open, and lives on. */
static void test_c15_a_fork_of_a_killed_host_keeps_no_grandchild(void **state)
{
    (void)state;
    char line[64], *rest;
    kill_host_with(fork_and_tell, "sh -c 'trap \"\" TERM; sleep 1000; true' & echo $!; wait", 1,
                   line, sizeof line);
    long grandchild = strtol(line, &rest, 10);
    pid_t fork_of_host = (pid_t)strtol(rest, NULL, 10);
    assert_true(grandchild > 1 && fork_of_host > 1);
    assert_true(reaches(grandchild, ""));
    assert_int_equal(kill(fork_of_host, SIGKILL), 0);
}

/* As `ps` has it. */
static void test_the_guard_is_called_what_it_is(void **state)
{
    (void)state;
    bed b;
    char command[128];
    open_bed(&b);
    snprintf(command, sizeof command,
             "ps -A -o comm=,args= | grep -q '^workqueue-guard *"
             "workqueue-guard 1 %ld$'",
             (long)getpid());
    assert_int_equal(system(command), 0);
    close_bed(&b);
    EVENTUALLY(system(command) != 0);
}

static void test_a_guard_that_is_not_where_it_was_said_to_be(void **state)
{
    (void)state;
    wq_options options;
    wq_queue *queue;
    wq_error error = {0};
    char folder[FOLDER_SIZE];
    assert_int_equal(make_folder(folder, "guard"), 0);
    wq_options_init(&options, sizeof options);
    options.program = SHELL;
    options.storage_dir = folder;
    options.guard_path = "/no/such/guard";
    assert_int_equal(wq_open(&queue, &options, &error), WQ_ERROR_INVALID_ARGUMENT);
    assert_string_equal(error.message,
                        "options: guard_path /no/such/guard: No such file or directory");
    assert_int_equal(remove_folder(folder), 0);
}

static void test_without_a_guard_programs_run_and_it_is_said(void **state)
{
    (void)state;
    bed b;
    assert_int_equal(open_without_guard(&b), WQ_OK);
    assert_true(logged(&b.log, "Too many open files"));
    run(&b, "echo fine");
    expect(&b, 0, NULL);
    assert_string_equal(b.lines, "fine|");
    close_bed(&b);
}

/* A host may have been started by somebody who reads its output to the end. */
static void test_the_guard_holds_nothing_of_the_host(void **state)
{
    (void)state;
    bed b;
    int fds[2], stdio[3];
    char c;
    assert_int_equal(pipe(fds), 0);
    int high = fcntl(fds[1], F_DUPFD, 100);
    for (int fd = 0; fd <= 2; fd++) {
        stdio[fd] = fcntl(fd, F_DUPFD_CLOEXEC, 10);
        dup2(fds[1], fd);
    }
    int opened = try_open(&b, SHELL);
    for (int fd = 0; fd <= 2; fd++) {
        dup2(stdio[fd], fd);
        close(stdio[fd]);
    }
    assert_int_equal(opened, WQ_OK);
    close(high);
    close(fds[1]);
    assert_int_equal(read(fds[0], &c, 1),
                     0); /* would wait for ever if the guard had the other end */
    close(fds[0]);
    close_bed(&b);
}

/* As the one who inherits orphans, this process sees the guard when it has ended. */
static void test_close_sends_the_guard_away(void **state)
{
    (void)state;
    bed b;
    open_bed(&b);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* not a child of ours */
    close_bed(&b);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    open_bed(&b);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), 0);
    close_bed(&b);
    prctl(PR_SET_CHILD_SUBREAPER, 0);
    assert_true(waitpid(-1, NULL, 0) > 0);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
}

static void test_other_children_of_the_host_are_left_alone(void **state)
{
    (void)state;
    bed b;
    int status;
    open_bed(&b);
    pid_t other = fork();
    if (other == 0)
        _exit(9);
    assert_true(reaches(other, "Z"));
    run(&b, "exit 1");
    assert_int_equal(waitpid(other, &status, 0), other);
    assert_int_equal(WEXITSTATUS(status), 9);
    close_bed(&b);
}

static void expect_refused_host(const char *why)
{
    bed b;
    wq_error error = {0};
    wq_runner *runner = NULL;
    memset(&b, 0, sizeof b);
    wq_local_options options = options_for(&b, SHELL);
    if (wq_local_open(&runner, &options, &error) != WQ_ERROR_SYSTEM || runner != NULL ||
        strstr(error.message, why) == NULL) {
        fprintf(stderr, "opened, or: %s\n", error.message);
        _exit(1);
    }
    _exit(0);
}

static void reap_everybody(int number)
{
    int kept = errno;
    (void)number;
    while (waitpid(-1, NULL, WNOHANG) > 0)
        ;
    errno = kept;
}

static void *wait_for_everybody(void *unused)
{
    (void)unused;
    for (;;)
        if (waitpid(-1, NULL, 0) < 0)
            usleep(100);
    return NULL;
}

/* Every job of such a host would fail. */
static void test_c21_a_host_that_reaps_our_children_is_told_at_open(void **state)
{
    (void)state;
    for (int kind = 0; kind < 4; kind++) {
        int status;
        pid_t host = fork();
        if (host == 0) {
            struct sigaction action = {.sa_handler = kind == 0 ? SIG_IGN : reap_everybody,
                                       .sa_flags = kind == 1 ? SA_NOCLDWAIT : SA_RESTART};
            pthread_t thread;
            if (kind < 3)
                sigaction(SIGCHLD, &action, NULL);
            else if (pthread_create(&thread, NULL, wait_for_everybody, NULL) != 0)
                _exit(2);
            expect_refused_host(kind < 2 ? "ignores SIGCHLD" : "waits for children");
        }
        assert_int_equal(waitpid(host, &status, 0), host);
        assert_int_equal(status, 0);
    }
}

static void test_a_host_that_ignores_its_children(void **state)
{
    (void)state;
    bed b;
    open_bed(&b);
    sighandler_t before = signal(SIGCHLD, SIG_IGN);
    run(&b, "echo a");
    signal(SIGCHLD, before);
    assert_string_equal(b.lines, "a|");
    assert_int_equal(b.outcome.returncode, -999);
    assert_non_null(strstr(b.outcome.error, "SIGCHLD"));
    close_bed(&b);
}

/* What a host's debugger is told of children: which events, as it lets everybody run on. */
static void follow(pid_t host, int *forks, int *vforks, int *status)
{
    for (pid_t pid; (pid = waitpid(-1, status, __WALL)) > 0;) {
        if (pid == host && !WIFSTOPPED(*status))
            return;
        if (!WIFSTOPPED(*status))
            continue;
        int event = *status >> 16, number = event == 0 ? WSTOPSIG(*status) : 0;
        *forks += pid == host && (event == PTRACE_EVENT_FORK || event == PTRACE_EVENT_CLONE);
        *vforks += pid == host && event == PTRACE_EVENT_VFORK;
        ptrace(PTRACE_CONT, pid, NULL, number);
    }
}

/* It would take its breakpoints out of the memory of a child that it thinks has a copy. */
static void test_a_debugger_keeps_its_breakpoints(void **state)
{
    (void)state;
    int is_open[2], is_seized[2], forks = 0, vforks = 0, status = 0;
    char byte = 0;
    assert_int_equal(pipe(is_open) + pipe(is_seized), 0);
    pid_t host = fork();
    assert_true(host >= 0);
    if (host == 0) {
        bed b;
        if (try_open(&b, SHELL) != 0 || write(is_open[1], &byte, 1) != 1 ||
            read(is_seized[0], &byte, 1) != 1)
            _exit(99);
        run(&b, "echo x >$4");
        b.runner->close(b.runner);
        unlink(b.output);
        _exit(b.outcome.returncode);
    }
    long options = PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE;
    close(is_open[1]);
    assert_int_equal(read(is_open[0], &byte, 1), 1);
    assert_int_equal(ptrace(PTRACE_SEIZE, host, NULL, options), 0);
    assert_int_equal(write(is_seized[1], &byte, 1), 1);
    follow(host, &forks, &vforks, &status);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    assert_int_equal(vforks, 1);
    assert_int_equal(forks, 0);
    close(is_open[0]);
    close(is_seized[0]);
    close(is_seized[1]);
}

static void *run_many(void *arg)
{
    bed *b = arg;
    char command[64];
    snprintf(command, sizeof command, "echo %u; echo e%u >&2; exit %u", b->slot, b->slot, b->slot);
    for (int i = 0; i < 25; i++) {
        char line[8];
        run(b, command);
        snprintf(line, sizeof line, "%u|", b->slot);
        if (strcmp(b->lines, line) != 0 || b->outcome.returncode != (int)b->slot)
            return b;
    }
    return NULL;
}

static void test_slots_run_at_the_same_time(void **state)
{
    (void)state;
    static bed beds[4];
    pthread_t threads[4];
    open_bed(&beds[0]);
    for (unsigned i = 1; i < 4; i++) {
        beds[i] = beds[0];
        beds[i].slot = i;
    }
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, run_many, &beds[i]), 0);
    for (unsigned i = 0; i < 4; i++) {
        void *failed;
        pthread_join(threads[i], &failed);
        assert_null(failed);
    }
    for (unsigned i = 1; i < 4; i++)
        free(beds[i].outcome.error);
    close_bed(&beds[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arguments_are_exactly_the_contract),
        cmocka_unit_test(test_stdin_is_dev_null),
        cmocka_unit_test(test_no_other_descriptor_is_inherited),
        cmocka_unit_test(test_output_pipes_block),
        cmocka_unit_test(test_own_process_group),
        cmocka_unit_test(test_signals_are_as_new),
        cmocka_unit_test(test_success_has_no_error),
        cmocka_unit_test(test_exit_code_and_stderr),
        cmocka_unit_test(test_death_by_signal),
        cmocka_unit_test(test_only_the_end_of_stderr_is_kept),
        cmocka_unit_test(test_a_gigabyte_of_stderr_costs_little),
        cmocka_unit_test(test_a_line_of_ten_megabytes_is_cut),
        cmocka_unit_test(test_a_program_that_closes_its_output_is_waited_for),
        cmocka_unit_test(test_lines_come_while_the_program_runs),
        cmocka_unit_test(test_open_refuses_what_cannot_run),
        cmocka_unit_test(test_a_file_that_is_no_program),
        cmocka_unit_test(test_a_program_that_goes_away),
        cmocka_unit_test(test_out_of_descriptors_is_said),
        cmocka_unit_test(test_cancel_before_the_start_starts_nothing),
        cmocka_unit_test(test_cancel_reaches_a_program_without_output),
        cmocka_unit_test(test_cancel_gives_time_to_clean_up),
        cmocka_unit_test(test_cancel_kills_what_ignores_it),
        cmocka_unit_test(test_cancel_finds_a_program_in_another_group),
        cmocka_unit_test(test_c4_cancel_of_a_program_that_has_no_group_yet),
        cmocka_unit_test(test_cancel_ends_a_stopped_program),
        cmocka_unit_test(test_cancel_after_the_end_is_too_late),
        cmocka_unit_test(test_a_grandchild_that_holds_the_pipes),
        cmocka_unit_test(test_what_a_grandchild_writes_in_time_counts),
        cmocka_unit_test(test_a_grandchild_without_pipes_goes_too),
        cmocka_unit_test(test_a_grandchild_in_another_session),
        cmocka_unit_test(test_a_host_without_stdio),
        cmocka_unit_test(test_a_sandbox_without_close_range),
        cmocka_unit_test(test_a_child_that_failed_has_no_pidfd),
        cmocka_unit_test(test_a_host_with_many_descriptors),
        cmocka_unit_test(test_a_killed_host_leaves_no_program),
        cmocka_unit_test(test_a_killed_host_leaves_no_grandchild),
        cmocka_unit_test(test_c15_a_fork_of_a_killed_host_keeps_no_grandchild),
        cmocka_unit_test(test_the_guard_is_called_what_it_is),
        cmocka_unit_test(test_a_guard_that_is_not_where_it_was_said_to_be),
        cmocka_unit_test(test_without_a_guard_programs_run_and_it_is_said),
        cmocka_unit_test(test_the_guard_holds_nothing_of_the_host),
        cmocka_unit_test(test_close_sends_the_guard_away),
        cmocka_unit_test(test_other_children_of_the_host_are_left_alone),
        cmocka_unit_test(test_c21_a_host_that_reaps_our_children_is_told_at_open),
        cmocka_unit_test(test_a_host_that_ignores_its_children),
        cmocka_unit_test(test_a_debugger_keeps_its_breakpoints),
        cmocka_unit_test(test_slots_run_at_the_same_time),
    };
    alarm(900); /* a run that never returns fails, too */
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* test_ending.c - what a beginner did, and what is said: errors that help, seen by a queue (P2, P3,
 * P4, C17).
 *
 * The programs are tests/programs/shell, whose first argument is the shell command that it does, or
 * scripts that a test writes. */
#include <signal.h>
#include <sys/stat.h>

#include "tests/support.h"

typedef struct bed {
    char folder[FOLDER_SIZE];
    wq_options options;
    wq_queue *queue;
    logbook log;
    wq_snapshot last; /* of the latest job */
} bed;

static void make_bed(bed *b)
{
    memset(b, 0, sizeof *b);
    assert_int_equal(make_folder(b->folder, "ending"), 0);
    wq_options_init(&b->options, sizeof b->options);
    b->options.program = SHELL;
    b->options.storage_dir = b->folder;
    b->options.sync = 0;
    b->options.drain_ms = 100;
    b->options.log = on_log;
    b->options.log_user = &b->log;
}

static void open_bed(bed *b)
{
    make_bed(b);
    b->queue = open_with(&b->options);
}

static void close_bed(bed *b)
{
    wq_snapshot_clear(&b->last);
    wq_close(b->queue);
    assert_int_equal(remove_folder(b->folder), 0);
}

static void run(bed *b, const char *command)
{
    wq_params params = {command, "17", TOKEN};
    wq_job *job = NULL;
    assert_int_equal(wq_ensure_run(b->queue, &params, 0, &job, NULL), WQ_OK);
    assert_int_equal(wq_job_wait(job, DEADLINE_MS), WQ_OK);
    wq_snapshot_clear(&b->last);
    wq_job_snapshot(job, &b->last);
    wq_job_unref(job);
}

static void expect(const bed *b, int returncode, const char *error)
{
    assert_string_equal(b->last.error != NULL ? b->last.error : "", error);
    assert_int_equal(b->last.returncode, returncode);
}

#define NOTHING "invalid program: it should have written to its output file"

/* ---- its output ------------------------------------------------------------------------------ */

static void test_p3_an_output_that_is_no_file(void **state)
{
    (void)state;
    bed b;
    open_bed(&b);
    run(&b, "exit 0");
    expect(&b, -999, NOTHING);
    assert_int_equal(logged(&b.log, NOTHING), 1);
    run(&b, "rm \"$4\"");
    expect(&b, -999, "Failed to stat output file: No such file or directory");
    run(&b, "rm \"$4\"; mkdir \"$4\"");
    expect(&b, -999,
           "invalid program: its output is a folder: it must be one file (a tar or zip of the "
           "folder, say)");
    run(&b, "ln -sf /etc/passwd \"$4\"");
    expect(&b, -999,
           "invalid program: its output is a symbolic link, to /etc/passwd: it must be the file "
           "itself (cp, not ln -s)");
    run(&b, "rm \"$4\"; mkfifo \"$4\"");
    expect(&b, -999, "invalid program: its output is not a regular file");
    close_bed(&b);
}

/* As numpy does, which adds ".npy", and tools that replace what follows the last point. */
static void test_c17_an_output_of_another_name(void **state)
{
    (void)state;
    bed b;
    open_bed(&b);
    run(&b, "echo data >\"$4.npy\"");
    expect(&b, -999, NOTHING "; it wrote \"$4.npy\" instead, which is to be renamed to \"$4\"");
    run(&b, "echo data >\"${4%.tmp}.npy\"");
    expect(&b, -999,
           NOTHING "; it wrote \"${4%.tmp}.npy\" instead, which is to be renamed to \"$4\"");
    run(&b, ": >\"$4.lock\""); /* which is empty itself */
    expect(&b, -999, NOTHING);
    close_bed(&b);
}

/* With nohup and a log of its own nobody holds the pipes. */
static void test_p3_the_work_is_left_to_the_background(void **state)
{
    (void)state;
    static const char hint[] =
        NOTHING "; a process that it has started in the background still ran "
                "when it ended, and was killed: it must wait for it";
    bed b;
    open_bed(&b);
    run(&b, "{ sleep 1000; echo x >\"$4\"; } &");
    expect(&b, -999, hint);
    run(&b, "{ sleep 1000; echo x >\"$4\"; } >/dev/null 2>&1 & exit 0");
    expect(&b, -999, hint);
    run(&b, "sleep 1000 & echo x >\"$4\"");
    expect(&b, 0, "");
    assert_int_equal(logged(&b.log, "still ran when the program ended, and was killed"), 3);
    close_bed(&b);
}

static void test_p3_the_result_is_on_stdout(void **state)
{
    (void)state;
    bed b;
    open_bed(&b);
    run(&b, "echo '<html>'; echo '</html>'");
    expect(&b, -999,
           NOTHING
           "; 2 lines of its stdout were no progress: if they are the result, they belong in "
           "the file \"$4\"");
    close_bed(&b);
}

/* ---- scripts that do not start --------------------------------------------------------------- */

static void expect_script(const char *text, const char *error)
{
    bed b;
    char program[FOLDER_SIZE + 16], expected[1024];
    make_bed(&b);
    snprintf(program, sizeof program, "%s/program", b.folder);
    put_file(program, text);
    assert_int_equal(chmod(program, 0700), 0);
    b.options.program = program;
    b.queue = open_with(&b.options);
    run(&b, "-");
    snprintf(expected, sizeof expected, "Failed to start %s: %s", program, error);
    expect(&b, -999, expected);
    close_bed(&b);
}

static void test_p3_a_script_that_does_not_start(void **state)
{
    (void)state;
    expect_script(
        "#!/bin/sh\r\necho 1\r\n",
        "No such file or directory (its #! line asks for \"/bin/sh\\r\": the script has the "
        "line ends of Windows; save it with those of Unix)");
    expect_script("#! /no/such/python3 -u\n",
                  "No such file or directory (its interpreter, as its #! line names it: "
                  "/no/such/python3)");
    expect_script("echo 1\n",
                  "Exec format error (it is no program for this machine; a script needs a "
                  "#! line)");
}

/* ---- for people ------------------------------------------------------------------------------ */

static void expect_reason(int returncode, const char *error, const char *reason)
{
    char text[512];
    wq_snapshot s = {.has_returncode = 1, .returncode = returncode, .error = error};
    size_t n = wq_snapshot_reason(&s, text, sizeof text);
    assert_string_equal(text, reason);
    assert_int_equal(n, strlen(reason));
    assert_int_equal(wq_snapshot_reason(&s, text, 8), n);
    assert_int_equal(strncmp(text, reason, 7), 0);
}

static void test_p3_the_reason_comes_first(void **state)
{
    (void)state;
    expect_reason(0, NULL, "");
    expect_reason(-999, "Cancelled", "Cancelled");
    expect_reason(-999, "Exited with code -999\nstderr:\ntimed out after 1 ms",
                  "timed out after 1 ms");
    expect_reason(3, "Exited with code 3\nstderr:\n", "The program ended with exit code 3");
    expect_reason(1, "Exited with code 1\nstderr:\nloading\nno such file\n\n",
                  "no such file (the program ended with exit code 1)");
    expect_reason(-11, "Exited with code -11\nstderr:\n",
                  "The program was killed by signal 11 (SIGSEGV, Segmentation fault)");
    expect_reason(
        -9, "Exited with code -9\nstderr:\nthe last words\n",
        "The program was killed by signal 9 (SIGKILL, Killed; perhaps for its memory); it "
        "last wrote: the last words");
    expect_reason(
        139, "Exited with code 139\nstderr:\n",
        "The program ended with exit code 139, as one that signal 11 (SIGSEGV, Segmentation "
        "fault) has killed");
    expect_reason(
        127, "Exited with code 127\nstderr:\nenv: 'python3\r': No such file or directory\n",
        "env: 'python3\\r': No such file or directory (the program ended with exit code 127; "
        "the script has the line ends of Windows, save it with those of Unix)");
    expect_reason(
        1,
        "Exited with code 1\nstderr:\nTraceback (most recent call last):\n  File \"x.py\"\n"
        "ValueError: no\n\r 10%|#   | 1/10\r 20%|##  | 2/10",
        "ValueError: no (the program ended with exit code 1)");
    expect_reason(1,
                  "Exited with code 1\nstderr:\n 99%|#| 9/10\r\x1b[2K\x1b[1;31merror:\x1b[0m bad\n",
                  "error: bad (the program ended with exit code 1)");
}

/* ---- stdout that is held back ---------------------------------------------------------------- */

static void test_p2_progress_that_all_comes_at_the_end(void **state)
{
    (void)state;
    bed b;
    open_bed(&b);
    run(&b, "sleep 2.2; printf '0.5\\n0.75\\n'; echo x >\"$4\"");
    expect(&b, 0, "");
    assert_int_equal(logged(&b.log, ": all 2 lines of stdout came when the program ended, after "),
                     1);
    run(&b, "echo 0.1; sleep 2.2; printf '0.5\\n0.75\\n'; echo x >\"$4\"");
    run(&b, "sleep 2.2; echo 1; echo x >\"$4\"");
    assert_int_equal(logged(&b.log, " lines of stdout came when"), 1);
    close_bed(&b);
}

static void expect_python(const char *const *environment, const char *value)
{
    bed b;
    make_bed(&b);
    b.options.environment = environment;
    b.queue = open_with(&b.options);
    run(&b, "printf '0.5\\t%s\\n' \"${PYTHONUNBUFFERED-unset}\"; echo x >\"$4\"");
    assert_string_equal(b.last.message, value);
    close_bed(&b);
}

static void test_p2_python_is_unbuffered(void **state)
{
    (void)state;
    static const char *const none[] = {NULL}, *const all[] = {"*", NULL},
                             *const empty[] = {"PYTHONUNBUFFERED=", "PATH", NULL},
                             *const named[] = {"PYTHONUNBUFFERED", "PATH", NULL};
    unsetenv("PYTHONUNBUFFERED");
    expect_python(NULL, "1");
    expect_python(none, "1");
    expect_python(all, "1");
    expect_python(empty, "");
    expect_python(named, "unset");
    setenv("PYTHONUNBUFFERED", "x", 1);
    expect_python(NULL, "1");
    expect_python(all, "x");
    expect_python(named, "x");
    unsetenv("PYTHONUNBUFFERED");
}

/* ---- variables that are kept back ------------------------------------------------------------ */

#define KEPT_BACK "programs are not given these environment variables of this process"

static void test_p4_a_variable_that_is_kept_back(void **state)
{
    (void)state;
    bed b;
    setenv("WQ_TEST_API_KEY", "not-to-be-logged", 1);
    setenv("WQ_TEST_OTHER", "not-to-be-logged", 1);
    open_bed(&b);
    run(&b, "echo \"KeyError: 'WQ_TEST_API_KEY'\" >&2; exit 1");
    expect(&b, 1, "Exited with code 1\nstderr:\nKeyError: 'WQ_TEST_API_KEY'\n");
    assert_int_equal(logged(&b.log, KEPT_BACK ", unless its options say so: WQ_TEST_API_KEY"), 1);
    run(&b, "echo 'WQ_TEST_API_KEYS are fine, disk is full' >&2; exit 1");
    assert_int_equal(logged(&b.log, KEPT_BACK), 1);
    run(&b, "echo 'an environment variable is missing' >&2; exit 1");
    assert_int_equal(logged(&b.log, KEPT_BACK), 2);
    run(&b, "echo \"KeyError: 'WQ_TEST_API_KEY'\" >&2; echo x >\"$4\"");
    assert_int_equal(logged(&b.log, KEPT_BACK), 2);
    assert_false(logged(&b.log, "not-to-be-logged"));
    close_bed(&b);
    unsetenv("WQ_TEST_API_KEY");
    unsetenv("WQ_TEST_OTHER");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_p3_an_output_that_is_no_file),
        cmocka_unit_test(test_c17_an_output_of_another_name),
        cmocka_unit_test(test_p3_the_work_is_left_to_the_background),
        cmocka_unit_test(test_p3_the_result_is_on_stdout),
        cmocka_unit_test(test_p3_a_script_that_does_not_start),
        cmocka_unit_test(test_p3_the_reason_comes_first),
        cmocka_unit_test(test_p2_progress_that_all_comes_at_the_end),
        cmocka_unit_test(test_p2_python_is_unbuffered),
        cmocka_unit_test(test_p4_a_variable_that_is_kept_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

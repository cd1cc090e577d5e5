/* test_journal.c - an accepted job is never lost.
 *
 * Queues live in children of the test, the hosts, which are ended by SIGKILL in the middle of their
 * work; another host, or the test itself, then opens the same storage and journal. A host does what
 * its function says and tells the test lines through a pipe. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "tests/support.h"
#include <sqlite3.h>
#include <workqueue/workqueue.h>

typedef struct place {
    char folder[FOLDER_SIZE], storage[80], journal[96];
} place;

static int set_up(void **state)
{
    place *p = calloc(1, sizeof *p);
    assert_int_equal(make_folder(p->folder, "journal"), 0);
    snprintf(p->storage, sizeof p->storage, "%s/storage", p->folder);
    snprintf(p->journal, sizeof p->journal, "%s/journal", p->folder);
    assert_int_equal(mkdir(p->storage, 0700), 0);
    *state = p;
    return 0;
}

static int tear_down(void **state)
{
    place *p = *state;
    assert_int_equal(remove_folder(p->folder), 0);
    free(p);
    return 0;
}

/* ---- queues ---------------------------------------------------------------------------------- */

static wq_options options_of(const place *p)
{
    wq_options o;
    wq_options_init(&o, sizeof o);
    o.program = SHELL;
    o.storage_dir = p->storage;
    o.journal_path = p->journal;
    o.grace_ms = 2000;
    return o;
}

static wq_queue *open_queue(const place *p, unsigned workers)
{
    wq_queue *queue;
    wq_error error;
    wq_options o = options_of(p);
    o.workers = workers;
    if (wq_open(&queue, &o, &error) != WQ_OK) {
        fprintf(stderr, "wq_open: %s\n", error.message);
        abort();
    }
    return queue;
}

/* A job for a shell command; its id is written to `id`. */
static int begin(wq_queue *queue, const char *set, const char *command, unsigned flags,
                 char id[WQ_ID_SIZE], wq_error *error)
{
    wq_params params = {command, set, TOKEN};
    wq_job *job;
    int result = wq_ensure_run(queue, &params, flags, &job, error);
    if (result == WQ_OK || result == WQ_ATTACHED) {
        memcpy(id, wq_job_id(job), WQ_ID_SIZE);
        wq_job_unref(job);
    }
    return result;
}

/* The end of a job, by its id. */
static wq_snapshot wait_end(wq_queue *queue, const char *id)
{
    wq_job *job;
    wq_snapshot snapshot;
    assert_int_equal(wq_job_by_id(queue, id, &job), WQ_OK);
    assert_int_equal(wq_job_wait(job, DEADLINE_MS), WQ_OK);
    wq_job_snapshot(job, &snapshot);
    wq_job_unref(job);
    return snapshot;
}

static int state_in(wq_queue *queue, const char *id)
{
    wq_job *job;
    if (wq_job_by_id(queue, id, &job) != WQ_OK)
        return -1;
    const int state = state_of(job);
    wq_job_unref(job);
    return state;
}

/* ---- hosts ----------------------------------------------------------------------------------- */

typedef struct host {
    pid_t pid;
    FILE *said;
} host;

typedef void (*host_main)(const place *p, FILE *say);

static host start_host(const place *p, host_main body)
{
    int fds[2];
    host h;
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    fflush(NULL);
    h.pid = fork();
    if (h.pid == 0) {
        FILE *say = fdopen(fds[1], "w");
        setvbuf(say, NULL, _IOLBF, 0);
        body(p, say);
        for (;;)
            pause();
    }
    close(fds[1]);
    h.said = fdopen(fds[0], "r");
    return h;
}

static void hear(host *h, char *line, size_t size)
{
    if (fgets(line, (int)size, h->said) == NULL)
        fail_msg("the host has died");
    line[strcspn(line, "\n")] = '\0';
}

static void kill_host(host *h)
{
    kill(h->pid, SIGKILL);
    waitpid(h->pid, NULL, 0);
    fclose(h->said);
}

/* ---- the file -------------------------------------------------------------------------------- */

/* Whether the bytes are in the journal or in what SQLite has beside it. */
static int holds(const place *p, const char *bytes)
{
    static const char *const suffixes[] = {"", "-wal", "-shm", "-journal"};
    int found = 0;
    for (size_t i = 0; i < 4; i++) {
        char path[128];
        snprintf(path, sizeof path, "%s%s", p->journal, suffixes[i]);
        FILE *f = fopen(path, "r");
        if (f == NULL)
            continue;
        char *text = malloc(16 << 20);
        size_t n = fread(text, 1, 16 << 20, f);
        found |= memmem(text, n, bytes, strlen(bytes)) != NULL;
        free(text);
        fclose(f);
    }
    return found;
}

static void change_journal(const place *p, const char *sql)
{
    sqlite3 *db;
    assert_int_equal(sqlite3_open(p->journal, &db), SQLITE_OK);
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK)
        fail_msg("%s: %s", sql, sqlite3_errmsg(db));
    sqlite3_close(db);
}

/* wq_open() fails with this result, and its sentence has these words. */
static void refuses(const place *p, int result, const char *words)
{
    wq_queue *queue = NULL;
    wq_error error = {0};
    wq_options o = options_of(p);
    assert_int_equal(wq_open(&queue, &o, &error), result);
    assert_null(queue);
    if (strstr(error.message, words) == NULL || strstr(error.message, p->journal) == NULL)
        fail_msg("expected '%s' and the path; got '%s'", words, error.message);
    assert_null(strstr(error.message, TOKEN));
}

/* ---- SIGKILL --------------------------------------------------------------------------------- */

#define LOG_RUN "echo $2 >>\"${4%/*/*/*}/ran\"; "

/* Two workers whose programs wait, three jobs behind them. */
static void host_five(const place *p, FILE *say)
{
    wq_queue *queue = open_queue(p, 2);
    wq_error error;
    char id[WQ_ID_SIZE], set[2] = "1";
    for (; set[0] <= '5'; set[0]++) {
        if (begin(queue, set, LOG_RUN "[ -e \"${4%/*/*/*}/go\" ] || sleep 100; echo $2 >\"$4\"", 0,
                  id, &error) != WQ_OK)
            abort();
        fprintf(say, "%s\n", id);
    }
}

static size_t read_file(const place *p, const char *name, char *text, size_t size)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", p->folder, name);
    return get_file(path, text, size);
}

static void make_file(const place *p, const char *name)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", p->folder, name);
    put_file(path, "");
}

static void test_killed(void **state)
{
    place *p = *state;
    char ids[5][64], ran[64];
    host h = start_host(p, host_five);
    for (int i = 0; i < 5; i++)
        hear(&h, ids[i], sizeof ids[i]);
    EVENTUALLY(read_file(p, "ran", ran, sizeof ran) == 4);
    kill_host(&h);
    make_file(p, "go");
    wq_queue *queue = open_queue(p, 1);
    for (int i = 0; i < 5; i++) {
        wq_snapshot end = wait_end(queue, ids[i]);
        assert_int_equal(end.state, WQ_STATE_SUCCEEDED);
        wq_snapshot_clear(&end);
    }
    read_file(p, "ran", ran, sizeof ran);
    assert_string_equal(ran + 4, "1\n2\n3\n4\n5\n"); /* in the old order */
    wq_close(queue);
}

static void test_positions_are_as_before(void **state)
{
    place *p = *state;
    char ids[5][64];
    host h = start_host(p, host_five);
    for (int i = 0; i < 5; i++)
        hear(&h, ids[i], sizeof ids[i]);
    kill_host(&h);
    wq_queue *queue = open_queue(p, 2);
    EVENTUALLY(state_in(queue, ids[0]) == WQ_STATE_RUNNING);
    EVENTUALLY(state_in(queue, ids[1]) == WQ_STATE_RUNNING);
    for (int i = 2; i < 5; i++) {
        wq_job *job;
        wq_snapshot s;
        assert_int_equal(wq_job_by_id(queue, ids[i], &job), WQ_OK);
        wq_job_snapshot(job, &s);
        assert_int_equal(s.state, WQ_STATE_QUEUED);
        assert_int_equal(s.n_ahead_in_queue, i);
        wq_snapshot_clear(&s);
        wq_job_unref(job);
    }
    wq_close(queue);
}

/* A job that is accepted in the moment of the kill is there too: it was told. */
static void host_many(const place *p, FILE *say)
{
    wq_queue *queue = open_queue(p, 2);
    wq_error error;
    char id[WQ_ID_SIZE], set[16];
    for (int i = 0;; i++) {
        snprintf(set, sizeof set, "%d", i);
        if (begin(queue, set, "echo x >\"$4\"", 0, id, &error) != WQ_OK)
            abort();
        fprintf(say, "%s\n", id);
    }
}

static void test_killed_while_accepting(void **state)
{
    place *p = *state;
    for (int round = 0; round < 10; round++) {
        char line[64], *ids = calloc(10000, WQ_ID_SIZE);
        size_t n = 0;
        host h = start_host(p, host_many);
        while (n < 20 + 7 * (size_t)round) {
            hear(&h, line, sizeof line);
            memcpy(ids + n++ * WQ_ID_SIZE, line, WQ_ID_SIZE);
        }
        kill(h.pid, SIGKILL);
        while (n < 10000 && fgets(line, sizeof line, h.said) != NULL && strlen(line) == WQ_ID_SIZE)
            memcpy(ids + n++ * WQ_ID_SIZE, line, WQ_ID_SIZE - 1);
        kill_host(&h);
        wq_queue *queue = open_queue(p, 4);
        for (size_t i = 0; i < n; i++) {
            wq_snapshot end = wait_end(queue, ids + i * WQ_ID_SIZE);
            assert_int_equal(end.state, WQ_STATE_SUCCEEDED);
            wq_snapshot_clear(&end);
        }
        wq_close(queue);
        free(ids);
        assert_int_equal(tear_down(state), 0);
        assert_int_equal(set_up(state), 0);
        p = *state;
    }
}

/* ---- attempts -------------------------------------------------------------------------------- */

/* The program ends its server. */
static void host_deadly(const place *p, FILE *say)
{
    wq_error error;
    char id[WQ_ID_SIZE] = "";
    wq_queue *queue = open_queue(p, 1);
    (void)say;
    if (begin(queue, "deadly", LOG_RUN "kill -9 $PPID; sleep 100", 0, id, &error) < 0)
        abort();
}

static int take_id(void *id, int n, char **values, char **names)
{
    (void)n, (void)names;
    memcpy(id, values[0], WQ_ID_SIZE);
    return 0;
}

/* Of the only job; its server may have died before it could tell. */
static void read_id(const place *p, char id[WQ_ID_SIZE])
{
    sqlite3 *db;
    id[0] = '\0';
    assert_int_equal(sqlite3_open(p->journal, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "SELECT id FROM job", take_id, id, NULL), SQLITE_OK);
    sqlite3_close(db);
}

/* Says so when there is nothing more to run; but it may be killed first. */
static void host_until_over(const place *p, FILE *say)
{
    wq_stats stats;
    wq_queue *queue = open_queue(p, 1);
    do {
        usleep(500);
        wq_queue_stats(queue, &stats);
    } while (stats.queued + stats.running + stats.publishing > 0);
    fprintf(say, "over\n");
}

static void test_no_crash_loop(void **state)
{
    place *p = *state;
    char id[64], ran[256];
    int crashes = 0;
    host h = start_host(p, host_deadly);
    waitpid(h.pid, NULL, 0);
    fclose(h.said);
    for (int ended = 0; !ended; crashes++) {
        assert_in_range(crashes, 0, 4);
        h = start_host(p, host_until_over);
        char line[16];
        ended = fgets(line, sizeof line, h.said) != NULL; /* else the job has killed it again */
        kill_host(&h);
    }
    /* three by the book, and one more that was too quick to be counted */
    size_t runs = read_file(p, "ran", ran, sizeof ran) / strlen("deadly\n");
    assert_in_range(runs, 3, 4);
    read_id(p, id);
    wq_queue *queue = open_queue(p, 1);
    wq_snapshot end = wait_end(queue, id);
    assert_int_equal(end.state, WQ_STATE_FAILED);
    assert_int_equal(end.returncode, -999);
    assert_non_null(strstr(end.error, "3 times"));
    wq_snapshot_clear(&end);
    wq_close(queue);
}

/* ---- a stop in good order -------------------------------------------------------------------- */

static uint64_t version_in(wq_queue *queue, const char *id, double *fraction)
{
    wq_job *job;
    assert_int_equal(wq_job_by_id(queue, id, &job), WQ_OK);
    const wq_snapshot s = look(job);
    wq_job_unref(job);
    *fraction = s.fraction;
    return s.version;
}

/* Who has seen some of it must not take what comes for old. */
static void test_versions_go_on(void **state)
{
    place *p = *state;
    char id[WQ_ID_SIZE];
    uint64_t seen = 0;
    double fraction;
    wq_error error;
    for (int life = 0; life < 3; life++) {
        wq_queue *queue = open_queue(p, 1);
        if (life == 0)
            assert_int_equal(begin(queue, "a", "for i in 1 2 3 4 5; do echo 0.$i; done; sleep 100",
                                   0, id, &error),
                             WQ_OK);
        assert_true(version_in(queue, id, &fraction) > seen || life == 0);
        EVENTUALLY((seen = version_in(queue, id, &fraction), fraction == 0.5));
        wq_close(queue);
    }
}

static void test_stopped(void **state)
{
    place *p = *state;
    char ids[3][WQ_ID_SIZE];
    wq_error error;
    char ran[64], why[200];
    for (int round = 0; round < 5; round++) { /* more often than max_attempts */
        wq_queue *queue = open_queue(p, 1);
        for (char set[2] = "1"; set[0] <= '3' && round == 0; set[0]++)
            assert_int_equal(begin(queue, set,
                                   LOG_RUN "[ -e \"${4%/*/*/*}/go\" ] || sleep 100; echo $2 >\"$4\"",
                                   0, ids[set[0] - '1'], &error),
                             WQ_OK);
        EVENTUALLY(read_file(p, "ran", ran, sizeof ran) == 2 * (size_t)(round + 1));
        wq_stop(queue);
        for (int i = 0; i < 3; i++) {
            wq_snapshot end = wait_end(queue, ids[i]);
            assert_int_equal(end.state, WQ_STATE_CANCELLED);
            snprintf(why, sizeof why, "%s", end.error);
            assert_non_null(strstr(why, "stopping"));
            assert_non_null(strstr(why, "open again"));
            assert_true(end.resumes);
            wq_snapshot_clear(&end);
        }
        wq_close(queue);
    }
    make_file(p, "go");
    wq_queue *queue = open_queue(p, 1);
    for (int i = 0; i < 3; i++) {
        wq_snapshot end = wait_end(queue, ids[i]);
        assert_int_equal(end.state, WQ_STATE_SUCCEEDED);
        wq_snapshot_clear(&end);
    }
    wq_close(queue);
}

/* As a service manager stops a service: the programs get SIGTERM, too, and may be faster. */
static void test_w1_programs_that_a_stop_ends_go_on(void **state)
{
    static const char *const ways[] = {
        "kill -TERM $$; sleep 100",                                    /* before the queue stops */
        "exit 143",                                                    /* likewise */
        "trap 'exit 143' TERM; echo 0.5; while :; do sleep .01; done", /* by the queue's own */
        "trap 'exit 3' TERM; echo 0.5; while :; do sleep .01; done",
    };
    enum { WAYS = sizeof ways / sizeof *ways };
    place *p = *state;
    char ids[WAYS][WQ_ID_SIZE], command[300], set[2] = "0";
    wq_error error;
    wq_queue *queue = open_queue(p, WAYS);
    for (int i = 0; i < WAYS; i++, set[0]++) {
        snprintf(command, sizeof command,
                 "%s if [ -e \"${4%%/*/*/*}/go\" ]; then echo $2 >\"$4\"; exit; fi; %s", LOG_RUN,
                 ways[i]);
        assert_int_equal(begin(queue, set, command, 0, ids[i], &error), WQ_OK);
    }
    char ran[64];
    EVENTUALLY(read_file(p, "ran", ran, sizeof ran) == 2 * (size_t)WAYS);
    wq_stop(queue);
    for (int i = 0; i < WAYS; i++) {
        wq_snapshot end = wait_end(queue, ids[i]);
        assert_int_equal(end.state, WQ_STATE_CANCELLED);
        assert_true(end.resumes);
        wq_snapshot_clear(&end);
    }
    wq_close(queue);
    make_file(p, "go");
    queue = open_queue(p, 1);
    for (int i = 0; i < WAYS; i++) {
        wq_snapshot end = wait_end(queue, ids[i]);
        assert_int_equal(end.state, WQ_STATE_SUCCEEDED);
        assert_false(end.resumes);
        wq_snapshot_clear(&end);
    }
    wq_close(queue);
}

static void test_cancelled_stays_cancelled(void **state)
{
    place *p = *state;
    char ids[2][WQ_ID_SIZE];
    wq_error error;
    wq_job *job;
    wq_queue *queue = open_queue(p, 1);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(begin(queue, i ? "b" : "a", "sleep 100", 0, ids[i], &error), WQ_OK);
        assert_int_equal(wq_job_by_id(queue, ids[i], &job), WQ_OK);
        if (i == 0)
            EVENTUALLY(state_in(queue, ids[0]) == WQ_STATE_RUNNING);
        assert_int_equal(wq_job_cancel(job), WQ_OK);
        assert_int_equal(wq_job_wait(job, DEADLINE_MS), WQ_OK);
        wq_job_unref(job);
    }
    wq_close(queue);
    queue = open_queue(p, 1);
    for (int i = 0; i < 2; i++)
        assert_int_equal(state_in(queue, ids[i]), WQ_STATE_CANCELLED);
    wq_close(queue);
}

static void cancel_what_does_not_end(const place *p, FILE *say)
{
    char ids[2][WQ_ID_SIZE], command[300], ran[64];
    wq_error error;
    wq_job *job;
    wq_queue *queue = open_queue(p, 1);
    snprintf(command, sizeof command,
             "trap '' TERM; %s if [ -e \"${4%%/*/*/*}/go\" ]; then echo $2 >\"$4\"; exit; fi; "
             "while :; do sleep 1; done",
             LOG_RUN);
    begin(queue, "a", command, 0, ids[0], &error);
    while (read_file(p, "ran", ran, sizeof ran) == 0)
        usleep(1000);
    wq_job_by_id(queue, ids[0], &job);
    const int result = wq_job_cancel(job);
    /* what is accepted after it is in the journal, so it is, too */
    begin(queue, "b", "sleep 100", 0, ids[1], &error);
    fprintf(say, "%s%s\n", result == WQ_OK ? "" : "no", ids[0]);
}

/* Also if the server is killed while the program has its grace. */
static void test_c10_a_cancel_is_kept_when_the_server_is_killed(void **state)
{
    place *p = *state;
    char id[80];
    host h = start_host(p, cancel_what_does_not_end);
    hear(&h, id, sizeof id);
    kill_host(&h);
    make_file(p, "go");
    wq_queue *queue = open_queue(p, 1);
    wq_snapshot end = wait_end(queue, id);
    assert_int_equal(end.state, WQ_STATE_CANCELLED);
    assert_false(end.resumes);
    wq_snapshot_clear(&end);
    wq_close(queue);
    queue = open_queue(p, 1);
    assert_int_equal(state_in(queue, id), WQ_STATE_CANCELLED);
    wq_close(queue);
}

/* ---- ended jobs ------------------------------------------------------------------------------ */

static void test_ended_stay_known(void **state)
{
    place *p = *state;
    char ids[2][WQ_ID_SIZE], key[WQ_KEY_SIZE];
    wq_error error;
    wq_snapshot before[2], after;
    wq_queue *queue = open_queue(p, 2);
    assert_int_equal(begin(queue, "good", "echo x >\"$4\"", 0, ids[0], &error), WQ_OK);
    assert_int_equal(begin(queue, "bad", "echo why >&2; exit 7", 0, ids[1], &error), WQ_OK);
    for (int i = 0; i < 2; i++)
        before[i] = wait_end(queue, ids[i]);
    wq_params good = {"echo x >\"$4\"", "good", TOKEN};
    assert_int_equal(wq_params_key(&good, key), WQ_OK);
    wq_close(queue);
    queue = open_queue(p, 2);
    for (int i = 0; i < 2; i++) {
        after = wait_end(queue, ids[i]);
        assert_int_equal(after.state, before[i].state);
        assert_int_equal(after.returncode, before[i].returncode);
        assert_int_equal(after.version, before[i].version);
        assert_int_equal(after.ended_at_ms, before[i].ended_at_ms);
        assert_int_equal(after.error == NULL, before[i].error == NULL);
        if (after.error != NULL)
            assert_string_equal(after.error, before[i].error);
        wq_snapshot_clear(&after);
        wq_snapshot_clear(&before[i]);
    }
    wq_job *job;
    wq_output output;
    assert_int_equal(wq_job_by_id(queue, ids[0], &job), WQ_OK);
    assert_string_equal(wq_job_key(job), key);
    assert_int_equal(wq_job_output(job, &output, &error), WQ_OK);
    close(output.fd);
    wq_job_unref(job);
    wq_close(queue);
}

static void test_ended_are_forgotten(void **state)
{
    place *p = *state;
    char ids[4][WQ_ID_SIZE];
    wq_error error;
    wq_queue *queue = open_queue(p, 1);
    for (int i = 0; i < 4; i++) {
        char set[2] = {(char)('a' + i), '\0'};
        assert_int_equal(begin(queue, set, "echo x >\"$4\"", 0, ids[i], &error), WQ_OK);
        wq_snapshot end = wait_end(queue, ids[i]);
        wq_snapshot_clear(&end);
    }
    wq_close(queue);
    wq_options o = options_of(p);
    o.max_ended = 2;
    assert_int_equal(wq_open(&queue, &o, &error), WQ_OK);
    assert_int_equal(state_in(queue, ids[1]), -1);
    assert_int_equal(state_in(queue, ids[2]), WQ_STATE_SUCCEEDED);
    assert_int_equal(state_in(queue, ids[3]), WQ_STATE_SUCCEEDED);
    wq_close(queue);
    o = options_of(p);
    o.retain_ended_ms = 0;
    usleep(5000);
    assert_int_equal(wq_open(&queue, &o, &error), WQ_OK);
    assert_int_equal(state_in(queue, ids[3]), -1);
    wq_close(queue);
    assert_false(holds(p, ids[3]));
}

/* An end that was not written any more: its output is there, so the job does not run again. */
static void test_lost_end(void **state)
{
    place *p = *state;
    char id[WQ_ID_SIZE], ran[64], sql[300];
    wq_error error;
    wq_queue *queue = open_queue(p, 1);
    assert_int_equal(begin(queue, "a", LOG_RUN "echo x >\"$4\"", 0, id, &error), WQ_OK);
    wq_snapshot end = wait_end(queue, id);
    wq_snapshot_clear(&end);
    wq_close(queue);
    for (int started = 0; started < 2; started++) {
        snprintf(sql, sizeof sql,
                 "UPDATE token SET bytes = CAST('" TOKEN
                 "' AS BLOB) || zeroblob(231) WHERE slot = 1;"
                 "UPDATE job SET slot = 1, state = 0, started = %d",
                 started);
        change_journal(p, sql);
        queue = open_queue(p, 1);
        end = wait_end(queue, id);
        assert_int_equal(end.state, WQ_STATE_SUCCEEDED);
        wq_snapshot_clear(&end);
        wq_close(queue);
    }
    assert_int_equal(read_file(p, "ran", ran, sizeof ran), 2);
}

/* A rebuild that follows a run is there again behind it, and both end. */
static void host_rebuild(const place *p, FILE *say)
{
    wq_error error;
    char id[WQ_ID_SIZE];
    const char *command = LOG_RUN "[ -e \"${4%/*/*/*}/go\" ] || sleep 100; echo x >\"$4\"";
    wq_queue *queue = open_queue(p, 2);
    begin(queue, "a", command, 0, id, &error);
    fprintf(say, "%s\n", id);
    while (state_in(queue, id) != WQ_STATE_RUNNING)
        usleep(500);
    begin(queue, "a", command, WQ_ENSURE_REBUILD, id, &error);
    fprintf(say, "%s\n", id);
}

static void test_rebuild_behind_a_run(void **state)
{
    place *p = *state;
    char ids[2][64], ran[64];
    host h = start_host(p, host_rebuild);
    for (int i = 0; i < 2; i++)
        hear(&h, ids[i], sizeof ids[i]);
    EVENTUALLY(read_file(p, "ran", ran, sizeof ran) == 2);
    kill_host(&h);
    make_file(p, "go");
    wq_queue *queue = open_queue(p, 2);
    for (int i = 0; i < 2; i++) {
        wq_snapshot end = wait_end(queue, ids[i]);
        assert_int_equal(end.state, WQ_STATE_SUCCEEDED);
        wq_snapshot_clear(&end);
    }
    assert_int_equal(read_file(p, "ran", ran, sizeof ran), 6);
    wq_close(queue);
}

/* ---- secrets --------------------------------------------------------------------------------- */

static void test_tokens_go(void **state)
{
    place *p = *state;
    enum { N = 300 };
    char ids[N][WQ_ID_SIZE], token[64], set[16];
    wq_error error;
    wq_job *job;
    wq_queue *queue = open_queue(p, 4);
    for (int i = 0; i < N; i++) {
        snprintf(set, sizeof set, "%d", i);
        snprintf(token, sizeof token, "token%dof0many0users0x", i);
        wq_params params = {"echo x >\"$4\"", set, token};
        assert_int_equal(wq_ensure_run(queue, &params, 0, &job, &error), WQ_OK);
        memcpy(ids[i], wq_job_id(job), WQ_ID_SIZE);
        wq_job_unref(job);
    }
    for (int i = 0; i < N; i++) {
        wq_snapshot end = wait_end(queue, ids[i]);
        assert_int_equal(end.state, WQ_STATE_SUCCEEDED);
        wq_snapshot_clear(&end);
    }
    EVENTUALLY(!holds(p, "0many0users"));
    char id[WQ_ID_SIZE];
    assert_int_equal(begin(queue, "still", "sleep 100", 0, id, &error), WQ_OK);
    assert_true(holds(p, TOKEN)); /* else this test would see nothing */
    assert_int_equal(wq_job_by_id(queue, id, &job), WQ_OK);
    wq_job_cancel(job);
    wq_job_unref(job);
    EVENTUALLY(!holds(p, TOKEN));
    wq_close(queue);
}

static void test_mode(void **state)
{
    place *p = *state;
    char id[WQ_ID_SIZE], log[128];
    wq_error error;
    struct stat st;
    for (int round = 0; round < 2; round++) {
        mode_t before = umask(round == 0 ? 0 : 0777);
        wq_queue *queue = open_queue(p, 1);
        assert_int_equal(begin(queue, round ? "a" : "b", "sleep 100", 0, id, &error), WQ_OK);
        assert_int_equal(umask(before), round == 0 ? 0 : 0777);
        assert_int_equal(stat(p->journal, &st), 0);
        assert_int_equal(st.st_mode & 07777, 0600);
        snprintf(log, sizeof log, "%s-wal", p->journal);
        assert_int_equal(stat(log, &st), 0);
        assert_int_equal(st.st_mode & 07777, 0600);
        wq_close(queue);
        assert_int_equal(chmod(p->journal, 0644), 0);
    }
}

/* Durations of an earlier process are by the wall clock. */
static void test_a_clock_set_back_makes_no_endless_durations(void **state)
{
    place *p = *state;
    char id[WQ_ID_SIZE], sql[200];
    wq_error error;
    wq_queue *queue = open_queue(p, 1);
    assert_int_equal(begin(queue, "a", "echo x >\"$4\"", 0, id, &error), WQ_OK);
    wq_snapshot end = wait_end(queue, id);
    wq_snapshot_clear(&end);
    wq_close(queue);
    const char *const changes[] = {"started_at = queued_at - 500000",
                                   "ended_at = started_at - 500000"};
    for (size_t i = 0; i < 2; i++) {
        snprintf(sql, sizeof sql, "UPDATE job SET %s", changes[i]);
        change_journal(p, sql);
        queue = open_queue(p, 1);
        end = wait_end(queue, id);
        assert_in_range(end.waited_ms, 0, 10000000);
        assert_in_range(end.ran_ms, 0, 10000000);
        wq_snapshot_clear(&end);
        wq_close(queue);
    }
}

/* Its log has been much used, emptied and filled with zeros; some jobs are written over these. */
static void host_filled_log(const place *p, FILE *say)
{
    enum { N = 60, MORE = 5 };
    char log[128], set[16], id[WQ_ID_SIZE], first;
    struct stat st;
    wq_queue *queue = open_queue(p, 1);
    snprintf(log, sizeof log, "%s-wal", p->journal);
    for (int i = 0; i < N + MORE; i++) {
        snprintf(set, sizeof set, "%d", i);
        if (begin(queue, set, "sleep 100", 0, id, NULL) < 0)
            abort();
        fprintf(say, "%s\n", id);
        int64_t give_up = now_ms() + DEADLINE_MS;
        for (int filled = i + 1 < N; !filled && i < N; usleep(500)) {
            if (now_ms() > give_up)
                abort();
            FILE *f = fopen(log, "r");
            first = 1;
            filled = fread(&first, 1, 1, f) == 1 && first == 0 && fstat(fileno(f), &st) == 0 &&
                     st.st_size >= 256 * 1024;
            fclose(f);
        }
    }
    fprintf(say, "all\n");
}

static void test_killed_with_a_filled_log(void **state)
{
    enum { N = 65 };
    place *p = *state;
    char ids[N][64], line[64];
    host h = start_host(p, host_filled_log);
    for (int i = 0; i < N; i++)
        hear(&h, ids[i], sizeof ids[i]);
    hear(&h, line, sizeof line);
    kill_host(&h);
    wq_queue *queue = open_queue(p, 1);
    for (int i = 0; i < N; i++)
        assert_in_range(state_in(queue, ids[i]), WQ_STATE_QUEUED, WQ_STATE_RUNNING);
    wq_close(queue);
}

/* ---- journals that cannot be used ------------------------------------------------------------ */

static void test_corrupt(void **state)
{
    place *p = *state;
    char id[WQ_ID_SIZE], kept[256];
    wq_error error;
    wq_queue *queue = open_queue(p, 1);
    assert_int_equal(begin(queue, "a", "sleep 100", 0, id, &error), WQ_OK);
    wq_close(queue);
    snprintf(kept, sizeof kept, "cp %s %s.kept", p->journal, p->journal);
    assert_int_equal(system(kept), 0);

    static const char *const changes[] = {"key = 'x'", "state = 1", "state = 4", "state = -1",
                                          "id = replace(id, '-', '/')"};
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        char sql[80];
        snprintf(sql, sizeof sql, "UPDATE job SET %s", changes[i]);
        change_journal(p, sql);
        refuses(p, WQ_ERROR_SYSTEM, "corrupt");
        snprintf(kept, sizeof kept, "cp %s.kept %s", p->journal, p->journal);
        assert_int_equal(system(kept), 0);
    }

    FILE *f = fopen(p->journal, "r+");
    for (int i = 0; i < 4096; i++)
        putc('x', f);
    fclose(f);
    refuses(p, WQ_ERROR_SYSTEM, "not a database");

    snprintf(kept, sizeof kept, "cp %s.kept %s", p->journal, p->journal);
    assert_int_equal(system(kept), 0);
    f = fopen(p->journal, "r+");
    fseek(f, 4096, SEEK_SET);
    for (int i = 0; i < 4096; i++)
        putc('x', f);
    fclose(f);
    refuses(p, WQ_ERROR_SYSTEM, "journal");

    static const off_t cuts[] = {20000, 5000, 4096, 511, 100, 1};
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        assert_int_equal(truncate(p->journal, cuts[i]), 0);
        refuses(p, WQ_ERROR_SYSTEM, "journal");
    }

    assert_int_equal(system(kept), 0);
    queue = open_queue(p, 1);
    assert_int_not_equal(state_in(queue, id), -1);
    wq_close(queue);
}

static atomic_int calls_left; /* until one fails; negative: none does */
static ssize_t (*real_pread)(int fd, void *buf, size_t size, off_t offset);
static ssize_t (*real_pwrite)(int fd, const void *buf, size_t size, off_t offset);
static int reads_fail;

static int fails(int reads)
{
    if (reads != reads_fail || atomic_fetch_sub(&calls_left, 1) != 0)
        return 0;
    errno = EIO;
    return 1;
}

static ssize_t failing_pread(int fd, void *buf, size_t size, off_t offset)
{
    return fails(1) ? -1 : real_pread(fd, buf, size, offset);
}

static ssize_t failing_pwrite(int fd, const void *buf, size_t size, off_t offset)
{
    return fails(0) ? -1 : real_pwrite(fd, buf, size, offset);
}

static void replace_calls(sqlite3_vfs *vfs, sqlite3_syscall_ptr reads, sqlite3_syscall_ptr writes)
{
    static const char *const names[][2] = {{"pread", "pwrite"}, {"pread64", "pwrite64"}};
    for (size_t i = 0; i < 2; i++)
        if (vfs->xGetSystemCall(vfs, names[i][0]) != NULL) {
            if (reads != NULL) {
                real_pread = (void *)vfs->xGetSystemCall(vfs, names[i][0]);
                real_pwrite = (void *)vfs->xGetSystemCall(vfs, names[i][1]);
            }
            vfs->xSetSystemCall(vfs, names[i][0], reads);
            vfs->xSetSystemCall(vfs, names[i][1], writes);
        }
}

/* Each call in turn: whatever it is, nobody is told to move the journal away, or to look for
 * another server. */
static void fail_each(place *p, int reads, int is_new)
{
    wq_options o = options_of(p);
    for (int at = 0;; at++) {
        wq_queue *queue = NULL;
        wq_error error = {0};
        if (is_new)
            unlink(p->journal);
        reads_fail = reads;
        atomic_store(&calls_left, at);
        int result = wq_open(&queue, &o, &error);
        int is_past = atomic_exchange(&calls_left, -1) >= 0;
        if (result == WQ_OK)
            wq_close(queue);
        else if (result != WQ_ERROR_SYSTEM || strstr(error.message, "disk I/O error") == NULL)
            fail_msg("%s %d: %d %s", reads ? "read" : "write", at, result, error.message);
        if (is_past)
            return;
    }
}

static void test_a_disk_that_fails(void **state)
{
    place *p = *state;
    sqlite3_vfs *vfs = sqlite3_vfs_find(NULL);
    wq_close(open_queue(p, 1));
    atomic_store(&calls_left, -1);
    replace_calls(vfs, (sqlite3_syscall_ptr)failing_pread, (sqlite3_syscall_ptr)failing_pwrite);
    fail_each(p, 1, 0);
    fail_each(p, 1, 1);
    fail_each(p, 0, 1);
    replace_calls(vfs, NULL, NULL);
}

static void test_lost_beside_its_log(void **state)
{
    place *p = *state;
    char log[128], line[64];
    host h = start_host(p, host_five);
    hear(&h, line, sizeof line);
    kill_host(&h);
    snprintf(log, sizeof log, "%s-wal", p->journal);
    assert_int_equal(access(log, F_OK), 0);
    assert_int_equal(truncate(p->journal, 0), 0);
    refuses(p, WQ_ERROR_SYSTEM, "-wal");
    assert_int_equal(unlink(p->journal), 0);
    refuses(p, WQ_ERROR_SYSTEM, "-wal");
    assert_int_equal(access(log, F_OK), 0);
}

static void test_newer(void **state)
{
    place *p = *state;
    wq_close(open_queue(p, 1));
    change_journal(p, "PRAGMA user_version = 99");
    refuses(p, WQ_ERROR_SYSTEM, "newer version 99");
    refuses(p, WQ_ERROR_SYSTEM, "use the library that has written it");
    change_journal(p, "PRAGMA user_version = 2");
    wq_close(open_queue(p, 1));
}

/* Version 0, the only one before this: a database without anything in it takes every step. */
static void test_oldest(void **state)
{
    place *p = *state;
    char id[WQ_ID_SIZE];
    change_journal(p, "CREATE TABLE mine (x); DROP TABLE mine");
    wq_queue *queue = open_queue(p, 1);
    assert_int_equal(begin(queue, "a", "sleep 100", 0, id, NULL), WQ_OK);
    wq_close(queue);
    queue = open_queue(p, 1);
    assert_int_not_equal(state_in(queue, id), -1);
    wq_close(queue);
}

static void test_not_a_journal(void **state)
{
    place *p = *state;
    change_journal(p, "CREATE TABLE mine (x)");
    refuses(p, WQ_ERROR_SYSTEM, "no journal");
    assert_int_equal(unlink(p->journal), 0);
    assert_int_equal(mkdir(p->journal, 0700), 0);
    refuses(p, WQ_ERROR_SYSTEM, "not a regular file");
    assert_int_equal(rmdir(p->journal), 0);
    strcat(p->journal, "/journal");
    refuses(p, WQ_ERROR_SYSTEM, "No such file");
}

static void host_in_use(const place *p, FILE *say)
{
    place other = *p;
    snprintf(other.storage, sizeof other.storage, "%s/other", p->folder);
    mkdir(other.storage, 0700);
    open_queue(&other, 1);
    fprintf(say, "open\n");
}

static void test_in_use(void **state)
{
    place *p = *state;
    char line[16];
    host h = start_host(p, host_in_use);
    hear(&h, line, sizeof line);
    refuses(p, WQ_ERROR_LOCKED, "in use");
    kill_host(&h);
    wq_close(open_queue(p, 1));
}

/* In a child, because its mounts are its own: 0, or why this cannot be done here. */
static const char *make_read_only(const char *path, int is_root)
{
    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
        return "mount namespaces";
    if (mount(path, path, NULL, MS_BIND, NULL) != 0 ||
        mount(NULL, path, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL) != 0)
        return "bind mounts";
    return is_root ? NULL : "root";
}

/* What wq_open() says of a journal whose file, or folder, can only be read. */
static void host_read_only(const place *p, FILE *say)
{
    char folder[128], writable[128];
    wq_error error = {0};
    wq_queue *queue;
    wq_options o = options_of(p);
    snprintf(folder, sizeof folder, "%s/journals", p->folder);
    snprintf(writable, sizeof writable, "%s/journals/one", p->folder);
    const char *which = access(folder, F_OK) == 0 ? folder : p->journal;
    o.journal_path = which == folder ? writable : p->journal;
    const char *why = make_read_only(which, getuid() == 0);
    int result = why != NULL ? 1 : wq_open(&queue, &o, &error);
    fprintf(say, "%d %s\n", result, why != NULL ? why : error.message);
}

static void check_read_only(const place *p, const char *words)
{
    char line[600];
    host h = start_host(p, host_read_only);
    hear(&h, line, sizeof line);
    kill_host(&h);
    if (atoi(line) == 1) {
        print_message("skipped: there are no %s here\n", line + 2);
        skip();
    }
    assert_int_equal(atoi(line), WQ_ERROR_SYSTEM);
    if (strstr(line, words) == NULL || strstr(line, p->folder) == NULL)
        fail_msg("expected '%s' and the path; got '%s'", words, line);
}

static void test_a_file_to_be_read_only(void **state)
{
    place *p = *state;
    char id[WQ_ID_SIZE];
    wq_queue *queue = open_queue(p, 1);
    assert_int_equal(begin(queue, "a", "sleep 100", 0, id, NULL), WQ_OK);
    wq_close(queue);
    check_read_only(p, "cannot be written to");
    queue = open_queue(p, 1); /* nothing of it is lost */
    assert_int_not_equal(state_in(queue, id), -1);
    wq_close(queue);
}

/* One that is there already, and one that is to be made. */
static void test_a_folder_to_be_read_only(void **state)
{
    place *p = *state;
    char folder[96], journal[96];
    snprintf(folder, sizeof folder, "%s/journals", p->folder);
    snprintf(journal, sizeof journal, "%s/journals/one", p->folder);
    assert_int_equal(mkdir(folder, 0700), 0);
    check_read_only(p, "Read-only file system");
    memcpy(p->journal, journal, sizeof journal);
    wq_close(open_queue(p, 1));
    check_read_only(p, "cannot be written to");
}

/* A limit on the size of files stands for a full disk. */
static void host_full(const place *p, FILE *say)
{
    struct rlimit none = {0, RLIM_INFINITY}, unlimited = {RLIM_INFINITY, RLIM_INFINITY};
    wq_error error = {0};
    wq_stats stats;
    char id[WQ_ID_SIZE];
    signal(SIGXFSZ, SIG_IGN);
    wq_queue *queue = open_queue(p, 1);
    setrlimit(RLIMIT_FSIZE, &none);
    fprintf(say, "%d\n", begin(queue, "a", "echo x >\"$4\"", 0, id, &error));
    fprintf(say, "%s\n", error.message);
    wq_queue_stats(queue, &stats);
    fprintf(say, "%d %d\n", (int)stats.journal_errors, (int)stats.queued);
    setrlimit(RLIMIT_FSIZE, &unlimited);
    fprintf(say, "%d\n", begin(queue, "a", "echo x >\"$4\"", 0, id, &error));
    wq_snapshot end = wait_end(queue, id);
    fprintf(say, "%d\n", end.state);
}

static void test_full(void **state)
{
    place *p = *state;
    char line[600];
    host h = start_host(p, host_full);
    hear(&h, line, sizeof line);
    assert_int_equal(atoi(line), WQ_ERROR_SYSTEM);
    hear(&h, line, sizeof line);
    assert_non_null(strstr(line, p->journal));
    assert_null(strstr(line, TOKEN));
    hear(&h, line, sizeof line);
    assert_string_equal(line, "1 0");
    hear(&h, line, sizeof line);
    assert_int_equal(atoi(line), WQ_OK);
    hear(&h, line, sizeof line);
    assert_int_equal(atoi(line), WQ_STATE_SUCCEEDED);
    kill_host(&h);
}

static wq_job *begin_job(wq_queue *queue, const char *set, const char *command, unsigned flags)
{
    wq_params params = {command, set, TOKEN};
    wq_job *job;
    if (wq_ensure_run(queue, &params, flags, &job, NULL) != WQ_OK)
        abort();
    return job;
}

static void refuses_new_jobs(wq_queue *queue, const place *p)
{
    char id[WQ_ID_SIZE];
    wq_error error;
    assert_int_equal(begin(queue, "new", "echo x >\"$4\"", 0, id, &error), WQ_ERROR_SYSTEM);
    assert_non_null(strstr(error.message, p->journal));
    assert_non_null(strstr(error.message, "removed or replaced"));
}

/* What is written to a file that nobody finds again is lost. */
static void test_taken_away(void **state)
{
    place *p = *state;
    char away[128], id[WQ_ID_SIZE];
    wq_error error;
    snprintf(away, sizeof away, "%s/away", p->folder);
    wq_queue *queue = open_queue(p, 2);
    wq_job *running = begin_job(
        queue, "runs", "until [ -e \"${4%/*/*/*}/go\" ]; do sleep 0.01; done; echo x >\"$4\"", 0);
    assert_int_equal(rename(p->journal, away), 0);
    refuses_new_jobs(queue, p);
    put_file(p->journal, "another");
    refuses_new_jobs(queue, p);
    make_file(p, "go"); /* what runs ends, and is told so */
    assert_int_equal(wq_job_wait(running, DEADLINE_MS), WQ_OK);
    assert_int_equal(rename(away, p->journal), 0);
    assert_int_equal(begin(queue, "new", "echo x >\"$4\"", 0, id, &error), WQ_OK);
    wq_snapshot end = wait_end(queue, id);
    assert_int_equal(end.state, WQ_STATE_SUCCEEDED);
    wq_snapshot_clear(&end);
    wq_job_unref(running);
    wq_close(queue);
    wq_close(open_queue(p, 1));
}

/* A small disk of the journal's own, in `folder`. */
static int mount_disk(const place *p, char folder[96])
{
    snprintf(folder, 96, "%s/journals", p->folder);
    return mkdir(folder, 0700) != 0 || unshare(CLONE_NEWNS) != 0 ||
                   mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
                   mount("none", folder, "tmpfs", 0, "size=1m") != 0
               ? -1
               : 0;
}

/* The disk of the journal alone is full, then is not. */
static void host_full_disk(const place *p, FILE *say)
{
    char folder[96], path[128], filler[128], fill[192], id[WQ_ID_SIZE];
    wq_queue *queue;
    wq_error error = {0};
    wq_options o = options_of(p);
    snprintf(path, sizeof path, "%s/journals/journal", p->folder);
    o.journal_path = path;
    if (mount_disk(p, folder) != 0) {
        fprintf(say, "skip\n");
        return;
    }
    if (wq_open(&queue, &o, &error) != WQ_OK)
        abort();
    wq_job *running = begin_job(queue, "runs",
                                LOG_RUN "until [ -e \"${4%/*/*/*}/go\" ]; do sleep 0.01; "
                                        "done; echo x >\"$4\"",
                                0);
    snprintf(filler, sizeof filler, "%s/journals/filler", p->folder);
    snprintf(fill, sizeof fill, "head -c 2M /dev/zero >%s 2>/dev/null", filler);
    fprintf(say, "full\n");
    if (system(fill) == 0)
        abort();
    for (int i = 0; i < 3; i++) {
        fprintf(say, "%d\n", begin(queue, "a", "echo x >\"$4\"", 0, id, &error));
        fprintf(say, "%s\n", error.message);
    }
    make_file(p, "go"); /* what runs ends, and is told so */
    fprintf(say, "%d\n", wq_job_wait(running, DEADLINE_MS));
    unlink(filler);
    fprintf(say, "%d\n", begin(queue, "a", "echo x >\"$4\"", 0, id, &error));
    wq_snapshot end = wait_end(queue, id);
    fprintf(say, "%d\n", end.state);
    wq_snapshot_clear(&end);
    wq_job_unref(running);
    wq_close(queue);
}

static void test_a_disk_that_is_full_for_a_while(void **state)
{
    place *p = *state;
    char line[600];
    host h = start_host(p, host_full_disk);
    hear(&h, line, sizeof line);
    if (strcmp(line, "skip") == 0) {
        print_message("skipped: there are no mount namespaces here\n");
        kill_host(&h);
        skip();
    }
    for (int i = 0; i < 3; i++) {
        hear(&h, line, sizeof line);
        assert_int_equal(atoi(line), WQ_ERROR_SYSTEM);
        hear(&h, line, sizeof line);
        assert_non_null(strstr(line, "full"));
    }
    static const int then[] = {WQ_OK, WQ_OK, WQ_STATE_SUCCEEDED};
    for (int i = 0; i < 3; i++) {
        hear(&h, line, sizeof line);
        assert_int_equal(atoi(line), then[i]);
    }
    kill_host(&h);
}

/* It is the journal's own log that fills the disk, while ended jobs are to be forgotten, too. */
static void host_full_log(const place *p, FILE *say)
{
    char folder[96], path[128], log[128], fill[192], set[16], id[WQ_ID_SIZE];
    struct stat st;
    wq_queue *queue;
    wq_error error = {0};
    wq_options o = options_of(p);
    snprintf(path, sizeof path, "%s/journals/journal", p->folder);
    snprintf(log, sizeof log, "%s/journals/journal-wal", p->folder);
    snprintf(fill, sizeof fill, "cd %s/journals && head -c 2M /dev/zero >filler 2>/dev/null",
             p->folder);
    o.journal_path = path;
    o.max_ended = 1;
    if (mount_disk(p, folder) != 0) {
        fprintf(say, "skip\n");
        return;
    }
    if (wq_open(&queue, &o, &error) != WQ_OK)
        abort();
    for (int i = 0; error.code != WQ_ERROR_SYSTEM; i++) {
        snprintf(set, sizeof set, "%d", i);
        if (begin(queue, set, "echo x >\"$4\"", 0, id, &error) == WQ_OK)
            wait_end(queue, id);
        if (i == 20 && system(fill) == 0)
            abort();
    }
    fprintf(say, "%s\n", error.message);
    EVENTUALLY(stat(log, &st) == 0 && st.st_size == 0);
    fprintf(say, "%d\n", begin(queue, "a", "echo x >\"$4\"", 0, id, &error));
}

static void test_a_log_that_has_filled_the_disk(void **state)
{
    place *p = *state;
    char line[600];
    host h = start_host(p, host_full_log);
    hear(&h, line, sizeof line);
    if (strcmp(line, "skip") == 0) {
        kill_host(&h);
        skip();
    }
    assert_non_null(strstr(line, "full"));
    hear(&h, line, sizeof line);
    assert_int_equal(atoi(line), WQ_OK);
    kill_host(&h);
}

/* Between its cancel and the journal's word for it, a job is counted once, as ending. */
static void test_cancelled_ones_are_counted(void **state)
{
    enum { N = 40 };
    place *p = *state;
    wq_job *jobs[N];
    wq_stats s;
    char set[8];
    size_t ending = 0;
    wq_queue *queue = open_queue(p, 1);
    for (int i = 0; i < N; i++) {
        snprintf(set, sizeof set, "%d", i);
        jobs[i] = begin_job(queue, set, "sleep 100", 0);
    }
    for (int i = 0; i < N; i++) {
        assert_int_equal(wq_job_cancel(jobs[i]), WQ_OK);
        if (wq_job_cancel(jobs[i]) != WQ_OK) /* ... or its end has been told */
            assert_int_equal(state_of(jobs[i]), WQ_STATE_CANCELLED);
        wq_queue_stats(queue, &s);
        assert_int_equal(s.queued + s.running + s.publishing + s.ending + s.ended, N);
        ending += s.ending;
    }
    assert_true(ending > 0);
    for (int i = 0; i < N; i++) {
        assert_int_equal(wq_job_wait(jobs[i], DEADLINE_MS), WQ_OK);
        wq_job_unref(jobs[i]);
    }
    wq_queue_stats(queue, &s);
    assert_int_equal(s.ending, 0);
    assert_int_equal(s.cancelled, N);
    wq_close(queue);
}

/* ---- one end --------------------------------------------------------------------------------- */

/* It dies in the moment when it is told of the ends of its jobs. */
static void host_told(const place *p, FILE *say)
{
    wq_queue *queue = open_queue(p, 2);
    wq_job *jobs[4];
    jobs[0] = begin_job(queue, "fails", LOG_RUN "exit 3", 0);
    jobs[1] = begin_job(queue, "succeeds", LOG_RUN "echo x >\"$4\"", WQ_ENSURE_REBUILD);
    jobs[2] = begin_job(queue, "runs", LOG_RUN "sleep 100", 0);
    jobs[3] = begin_job(queue, "waits", LOG_RUN "echo x >\"$4\"", WQ_ENSURE_REBUILD);
    for (int i = 0; i < 4; i++)
        fprintf(say, "%s\n", wq_job_id(jobs[i]));
    fflush(say);
    while (state_in(queue, wq_job_id(jobs[2])) != WQ_STATE_RUNNING)
        usleep(500);
    wq_job_cancel(jobs[2]);
    wq_job_cancel(jobs[3]);
    for (int i = 0; i < 4; i++)
        if (wq_job_wait(jobs[i], DEADLINE_MS) != WQ_OK)
            abort();
    kill(getpid(), SIGKILL);
}

static void test_an_end_that_was_told_is_the_only_one(void **state)
{
    place *p = *state;
    char ids[4][64], before[128], after[128];
    static const int states[] = {WQ_STATE_FAILED, WQ_STATE_SUCCEEDED, WQ_STATE_CANCELLED, -1};
    host h = start_host(p, host_told);
    for (int i = 0; i < 4; i++)
        hear(&h, ids[i], sizeof ids[i]);
    waitpid(h.pid, NULL, 0);
    fclose(h.said);
    read_file(p, "ran", before, sizeof before);
    wq_queue *queue = open_queue(p, 2);
    for (int i = 0; i < 4; i++) {
        /* the last one may have been quicker than its cancel */
        assert_true(state_in(queue, ids[i]) >= WQ_STATE_SUCCEEDED);
        if (states[i] >= 0)
            assert_int_equal(state_in(queue, ids[i]), states[i]);
    }
    char again[WQ_ID_SIZE];
    assert_int_equal(begin(queue, "last", LOG_RUN "echo x >\"$4\"", 0, again, NULL), WQ_OK);
    wq_snapshot end = wait_end(queue, again);
    wq_snapshot_clear(&end);
    wq_close(queue);
    read_file(p, "ran", after, sizeof after);
    strcat(before, "last\n");
    assert_string_equal(after, before);
}

/* Whose end cannot be written is told it, and it is written later. */
static void host_full_at_the_end(const place *p, FILE *say)
{
    struct rlimit none = {0, RLIM_INFINITY}, unlimited = {RLIM_INFINITY, RLIM_INFINITY};
    wq_stats stats;
    char id[WQ_ID_SIZE];
    signal(SIGXFSZ, SIG_IGN);
    wq_queue *queue = open_queue(p, 1);
    wq_job *job =
        begin_job(queue, "a", "until [ -e \"${4%/*/*/*}/go\" ]; do sleep 0.01; done; exit 3", 0);
    fprintf(say, "%s\n", wq_job_id(job));
    while (state_in(queue, wq_job_id(job)) != WQ_STATE_RUNNING)
        usleep(500);
    setrlimit(RLIMIT_FSIZE, &none);
    make_file(p, "go");
    if (wq_job_wait(job, DEADLINE_MS) != WQ_OK)
        abort();
    wq_queue_stats(queue, &stats);
    fprintf(say, "%d %d\n", state_in(queue, wq_job_id(job)), stats.journal_errors > 0);
    setrlimit(RLIMIT_FSIZE, &unlimited);
    /* written along with the next one */
    while (begin(queue, "b", "sleep 100", 0, id, NULL) < 0)
        usleep(500);
    kill(getpid(), SIGKILL);
}

static void test_full_at_the_end(void **state)
{
    place *p = *state;
    char id[64], line[64];
    host h = start_host(p, host_full_at_the_end);
    hear(&h, id, sizeof id);
    hear(&h, line, sizeof line);
    assert_int_equal(atoi(line), WQ_STATE_FAILED);
    assert_string_equal(line + 2, "1");
    waitpid(h.pid, NULL, 0);
    fclose(h.said);
    wq_queue *queue = open_queue(p, 1);
    wq_snapshot end = wait_end(queue, id);
    assert_int_equal(end.state, WQ_STATE_FAILED);
    assert_int_equal(end.returncode, 3);
    wq_snapshot_clear(&end);
    wq_close(queue);
}

/* ---- without waiting ------------------------------------------------------------------------- */

typedef struct answer {
    _Atomic int told, result;
    char id[WQ_ID_SIZE];
} answer;

static void take_answer(void *user, int result, wq_job *job, int64_t made_at_ms,
                        const wq_error *error)
{
    answer *a = user;
    (void)made_at_ms;
    (void)error;
    a->result = result;
    if (job != NULL)
        memcpy(a->id, wq_job_id(job), WQ_ID_SIZE);
    wq_job_unref(job);
    a->told++;
}

static void test_async(void **state)
{
    place *p = *state;
    wq_params params = {"echo x >\"$4\"", "a", TOKEN};
    answer first = {0}, second = {0};
    wq_job *job = NULL, *other = NULL;
    wq_error error;
    wq_queue *queue = open_queue(p, 1);
    int a = wq_ensure_run_async(queue, &params, 0, &job, NULL, take_answer, &first, &error);
    assert_int_equal(a, WQ_PENDING);
    int b = wq_ensure_run_async(queue, &params, 0, &other, NULL, take_answer, &second, &error);
    EVENTUALLY(first.told);
    assert_int_equal(first.result, WQ_OK);
    if (b == WQ_PENDING) {
        EVENTUALLY(second.told);
        assert_int_equal(second.result, WQ_ATTACHED);
        assert_string_equal(first.id, second.id);
    }
    wq_job_unref(other);
    wq_snapshot end = wait_end(queue, first.id);
    wq_snapshot_clear(&end);
    wq_close(queue);
    assert_int_equal(first.told, 1);
}

/* Closed at once: each call is answered, and what was accepted runs later. */
static void test_closed_while_accepting(void **state)
{
    place *p = *state;
    enum { N = 50 };
    answer answers[N] = {0};
    char set[16];
    wq_queue *queue = open_queue(p, 1);
    for (int i = 0; i < N; i++) {
        wq_job *job = NULL;
        wq_error error;
        snprintf(set, sizeof set, "%d", i);
        wq_params params = {"echo x >\"$4\"", set, TOKEN};
        assert_int_equal(
            wq_ensure_run_async(queue, &params, 0, &job, NULL, take_answer, &answers[i], &error),
            WQ_PENDING);
        assert_null(job);
    }
    wq_close(queue);
    queue = open_queue(p, 2);
    for (int i = 0; i < N; i++) {
        assert_int_equal(answers[i].told, 1);
        assert_int_equal(answers[i].result, WQ_OK);
        wq_snapshot end = wait_end(queue, answers[i].id);
        assert_int_equal(end.state, WQ_STATE_SUCCEEDED);
        wq_snapshot_clear(&end);
    }
    wq_close(queue);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_killed),
        TEST(test_positions_are_as_before),
        TEST(test_killed_while_accepting),
        TEST(test_no_crash_loop),
        TEST(test_stopped),
        TEST(test_versions_go_on),
        TEST(test_w1_programs_that_a_stop_ends_go_on),
        TEST(test_cancelled_stays_cancelled),
        TEST(test_c10_a_cancel_is_kept_when_the_server_is_killed),
        TEST(test_ended_stay_known),
        TEST(test_ended_are_forgotten),
        TEST(test_lost_end),
        TEST(test_rebuild_behind_a_run),
        TEST(test_tokens_go),
        TEST(test_mode),
        TEST(test_a_clock_set_back_makes_no_endless_durations),
        TEST(test_killed_with_a_filled_log),
        TEST(test_corrupt),
        TEST(test_a_disk_that_fails),
        TEST(test_lost_beside_its_log),
        TEST(test_newer),
        TEST(test_oldest),
        TEST(test_not_a_journal),
        TEST(test_in_use),
        TEST(test_full),
        TEST(test_taken_away),
        TEST(test_a_disk_that_is_full_for_a_while),
        TEST(test_a_log_that_has_filled_the_disk),
        TEST(test_a_file_to_be_read_only),
        TEST(test_a_folder_to_be_read_only),
        TEST(test_cancelled_ones_are_counted),
        TEST(test_an_end_that_was_told_is_the_only_one),
        TEST(test_full_at_the_end),
        TEST(test_async),
        TEST(test_closed_while_accepting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

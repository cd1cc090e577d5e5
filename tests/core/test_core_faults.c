/* test_core_faults.c - faults of the core that were mended, each by its number: with a runner and a
 * store that stop where the fault lay, and a file of the journal that fails. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "tests/support.h"
#include <workqueue/extend.h>

/* ---- a disk that does not sync: these stand in front of libc's ------------------------------- */

static atomic_int fails_to_sync, holds_sync, n_held;

static void wait_for_disk(void)
{
    atomic_fetch_add(&n_held, 1);
    while (atomic_load(&holds_sync))
        usleep(1000);
    atomic_fetch_sub(&n_held, 1);
}

__attribute__((visibility("default"))) int fdatasync(int fd)
{
    wait_for_disk();
    if (atomic_load(&fails_to_sync)) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fdatasync, fd);
}

__attribute__((visibility("default"))) int fsync(int fd)
{
    wait_for_disk();
    if (atomic_load(&fails_to_sync)) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fsync, fd);
}

/* ---- a runner and a store -------------------------------------------------------------------- */

typedef struct rig {
    wq_options options;
    char folder[FOLDER_SIZE], journal[FOLDER_SIZE + 10];
    wq_runner runner;
    wq_store store;
    wq_queue *queue;
    /* how a run goes */
    sem_t begin, run; /* each `begin` of the store, or each run, waits, if that is asked for */
    atomic_int begin_waits, begin_fails, run_waits, dies, returncode, runs, rebuilds, begun;
    const char *lines[3]; /* of progress */
    const char *error;
    unsigned sleeps_ms;
    /* what the store has */
    atomic_int is_there, replaced;
} rig;

static void do_run(void *self, const wq_run *run, wq_outcome *outcome)
{
    rig *r = self;
    atomic_fetch_add(&r->runs, 1);
    atomic_fetch_add(&r->rebuilds, run->rebuild != 0);
    if (atomic_load(&r->dies))
        kill(getpid(), SIGKILL);
    for (int i = 0; i < 3 && r->lines[i] != NULL; i++) {
        usleep(20000);
        run->report(run->user, r->lines[i], strlen(r->lines[i]));
    }
    if (atomic_load(&r->run_waits))
        sem_wait(&r->run);
    usleep(r->sleeps_ms * 1000);
    outcome->returncode = atomic_load(&r->returncode);
    if (outcome->returncode != 0)
        outcome->error = strdup(r->error ? r->error : "Exited with code 1\nstderr:\n");
}

static void close_runner(wq_runner *runner)
{
    (void)runner;
}

static int find_output(void *self, const char *key, int64_t *made_at_ms, wq_error *error)
{
    (void)key, (void)error;
    if (made_at_ms != NULL)
        *made_at_ms = 1;
    return atomic_load(&((rig *)self)->is_there) ? WQ_OK : WQ_ERROR_NOT_FOUND;
}

static int open_output(void *self, const char *key, wq_output *out, wq_error *error)
{
    (void)self, (void)key, (void)error;
    *out = (wq_output){.fd = open("/dev/null", O_RDONLY | O_CLOEXEC), .size_bytes = 1};
    return WQ_OK;
}

static int begin_output(void *self, const char *key, char **path, wq_error *error)
{
    rig *r = self;
    (void)key;
    atomic_fetch_add(&r->begun, 1);
    if (atomic_load(&r->begin_waits))
        sem_wait(&r->begin);
    if (atomic_load(&r->begin_fails)) {
        snprintf(error->message, sizeof error->message, "no file can be made");
        return error->code = WQ_ERROR_SYSTEM;
    }
    *path = strdup("/nonexistent");
    return WQ_OK;
}

static void publish_outputs(void *self, wq_publish *items, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        atomic_fetch_add(&((rig *)self)->replaced, items[i].replace != 0);
        items[i].result = WQ_OK;
    }
}

static int remove_output(void *self, const char *key, wq_error *error)
{
    rig *r = self;
    (void)key, (void)error;
    return atomic_exchange(&r->is_there, 0) ? WQ_OK : WQ_ERROR_NOT_FOUND;
}

static int remove_set(void *self, const char *server, const char *document_set_id, size_t *n,
                      wq_error *error)
{
    (void)server, (void)document_set_id;
    *n = remove_output(self, NULL, error) == WQ_OK;
    return WQ_OK;
}

static void discard_output(void *self, const char *path)
{
    (void)self, (void)path;
}

static void close_store(wq_store *store)
{
    (void)store;
}

static int set_up(void **state)
{
    rig *r = calloc(1, sizeof *r);
    assert_int_equal(make_folder(r->folder, "faults"), 0);
    snprintf(r->journal, sizeof r->journal, "%s/journal", r->folder);
    r->runner = (wq_runner){.self = r, .run = do_run, .close = close_runner};
    r->store = (wq_store){.self = r,
                          .find = find_output,
                          .open = open_output,
                          .begin = begin_output,
                          .publish = publish_outputs,
                          .discard = discard_output,
                          .remove = remove_output,
                          .remove_set = remove_set,
                          .close = close_store};
    sem_init(&r->begin, 0, 0);
    sem_init(&r->run, 0, 0);
    wq_options_init(&r->options, sizeof r->options);
    r->options.runner = &r->runner;
    r->options.store = &r->store;
    r->options.workers = 1;
    *state = r;
    return 0;
}

static int tear_down(void **state)
{
    rig *r = *state;
    wq_close(r->queue);
    assert_int_equal(remove_folder(r->folder), 0);
    free(r);
    return 0;
}

static void open_rig(rig *r, int with_journal)
{
    r->options.journal_path = with_journal ? r->journal : NULL;
    r->queue = open_with(&r->options);
}

static void close_rig(rig *r)
{
    wq_close(r->queue);
    r->queue = NULL;
}

static int ask(rig *r, int set, unsigned flags, wq_job **job)
{
    char text[16];
    wq_params params = {"http://o.example", text, TOKEN};
    snprintf(text, sizeof text, "%d", set);
    return wq_ensure_run(r->queue, &params, flags, job, NULL);
}

static wq_job *begin(rig *r, int set)
{
    wq_job *job = NULL;
    assert_int_equal(ask(r, set, 0, &job), WQ_OK);
    return job;
}

static int end_of(wq_job *job)
{
    assert_int_equal(wq_job_wait(job, DEADLINE_MS), WQ_OK);
    return state_of(job);
}

/* ---- the journal ----------------------------------------------------------------------------- */

static double cpu_s(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static uint64_t journal_errors(rig *r)
{
    wq_stats stats;
    wq_queue_stats(r->queue, &stats);
    return stats.journal_errors;
}

static void test_c5_ends_that_cannot_be_written_cost_nothing(void **state)
{
    enum { MANY = 700 }; /* more than a batch */
    rig *r = *state;
    static wq_job *jobs[MANY];
    atomic_store(&r->run_waits, 1);
    atomic_store(&r->returncode, 1);
    r->options.sync = 0;
    open_rig(r, 1);
    for (int i = 0; i < MANY; i++)
        jobs[i] = begin(r, i);
    assert_int_equal(unlink(r->journal), 0);
    for (int i = 0; i < MANY; i++)
        sem_post(&r->run);
    for (int i = 0; i < MANY; i++) {
        assert_int_equal(end_of(jobs[i]), WQ_STATE_FAILED);
        wq_job_unref(jobs[i]);
    }
    double before = cpu_s();
    uint64_t errors = journal_errors(r);
    usleep(3000000);
    assert_true(cpu_s() - before < 0.5);
    assert_in_range(journal_errors(r) - errors, 0, 20);
}

static uint64_t n_failed(rig *r)
{
    wq_stats stats;
    wq_queue_stats(r->queue, &stats);
    return stats.failed;
}

static void test_c6_many_long_errors(void **state)
{
    enum { MANY = 4096, LATE = 500, BYTES = 64 * 1024 };
    rig *r = *state;
    static int64_t took[LATE];
    static char error[BYTES + 64];
    struct stat st;
    uint64_t kept = 0;
    wq_snapshot s;
    int n = sprintf(error, "Exited with code 1\nstderr:\n");
    memset(error + n, 'x', BYTES);
    r->error = error;
    r->options.workers = 4;
    atomic_store(&r->returncode, 1);
    open_rig(r, 1);
    static char ids[MANY + LATE][WQ_ID_SIZE];
    for (int i = 0; i < MANY + LATE; i++) {
        int64_t begun = now_ms();
        wq_job *job = begin(r, i);
        if (i >= MANY)
            took[i - MANY] = now_ms() - begun;
        memcpy(ids[i], wq_job_id(job), WQ_ID_SIZE);
        wq_job_unref(job);
    }
    int slow = 0;
    for (int i = 0; i < LATE; i++)
        slow += took[i] > 150; /* 20 on a machine that does nothing else */
    assert_in_range(slow, 0, LATE / 100);
    EVENTUALLY(n_failed(r) == MANY + LATE);
    close_rig(r);
    assert_int_equal(stat(r->journal, &st), 0);
    assert_in_range(st.st_size, 0, 64 << 20);
    int64_t begun = now_ms();
    open_rig(r, 1);
    assert_in_range(now_ms() - begun, 0, 3000); /* likewise 1000 */
    for (int i = 0; i < MANY + LATE; i++) {
        wq_job *job;
        if (wq_job_by_id(r->queue, ids[i], &job) != WQ_OK)
            continue;
        wq_job_snapshot(job, &s);
        kept += s.error != NULL ? strlen(s.error) : 0;
        if (i == MANY + LATE - 1)
            assert_string_equal(s.error, error); /* the latest is whole */
        wq_snapshot_clear(&s);
        wq_job_unref(job);
    }
    assert_in_range(kept, BYTES, r->options.max_error_bytes + 1024 * MANY);
}

/* Each time that the server dies while the job runs is counted, however much is to be written. */
/* In memory, too, where there is no journal. */
static void test_c6_long_errors_in_memory_are_bounded(void **state)
{
    enum { JOBS = 8, LONG = 65536, MOST = 200000 };
    rig *r = *state;
    static char text[LONG + 1];
    size_t total = 0;
    memset(text, 'x', LONG);
    r->error = text;
    atomic_store(&r->returncode, 1);
    r->options.max_error_bytes = MOST;
    open_rig(r, 0);
    wq_job *jobs[JOBS];
    for (int i = 0; i < JOBS; i++) {
        jobs[i] = begin(r, i);
        assert_int_equal(end_of(jobs[i]), WQ_STATE_FAILED);
    }
    journal_errors(r); /* looks at the queue, where the last end is done with by then */
    for (int i = 0; i < JOBS; i++) {
        wq_snapshot snapshot;
        wq_job_snapshot(jobs[i], &snapshot);
        total += strlen(snapshot.error);
        wq_snapshot_clear(&snapshot);
        wq_job_unref(jobs[i]);
    }
    assert_true(total <= MOST + JOBS * 512);
}

static void test_c14_a_start_is_in_the_journal_before_it_runs(void **state)
{
    enum { LIVES = 5, FLOOD = 1500 };
    rig *r = *state;
    char id[WQ_ID_SIZE];
    wq_job *job;
    r->options.max_attempts = 100;
    atomic_store(&r->run_waits, 1);
    open_rig(r, 1);
    job = begin(r, 0);
    memcpy(id, wq_job_id(job), WQ_ID_SIZE);
    wq_job_unref(job);
    EVENTUALLY(atomic_load(&r->runs) == 1);
    wq_stop(r->queue);
    sem_post(&r->run);
    atomic_store(&r->returncode, 1);
    close_rig(r);
    for (int life = 0; life < LIVES; life++) {
        pid_t pid = fork();
        if (pid == 0) {
            atomic_store(&r->dies, 1);
            open_rig(r, 1);
            for (int i = 0; i < FLOOD; i++)
                if (ask(r, 1 + life * FLOOD + i, 0, &job) >= 0)
                    wq_job_unref(job);
            pause();
        }
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status));
        atomic_store(&r->run_waits, 1);
        open_rig(r, 1);
        assert_int_equal(wq_job_by_id(r->queue, id, &job), WQ_OK);
        assert_true(look(job).attempt >= 2);
        const unsigned attempt = look(job).attempt;
        wq_job_unref(job);
        assert_int_equal(attempt, 2 + life);
        wq_stop(r->queue);
        for (int i = 0; i < 10; i++)
            sem_post(&r->run);
        close_rig(r);
        sem_init(&r->run, 0, 0);
    }
}

static void test_c19_a_commit_that_failed_revives_nobody(void **state)
{
    rig *r = *state;
    pid_t pid = fork();
    if (pid == 0) {
        wq_job *job;
        open_rig(r, 1);
        atomic_store(&fails_to_sync, 1);
        int result = ask(r, 1, 0, &job);
        if (result != WQ_ERROR_SYSTEM)
            _exit(1);
        kill(getpid(), SIGKILL);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    wq_job *jobs[4];
    size_t n = 4;
    open_rig(r, 1);
    assert_int_equal(wq_jobs(r->queue, NULL, NULL, jobs, 4, &n), WQ_OK);
    assert_int_equal(n, 0);
    usleep(100000);
    assert_int_equal(atomic_load(&r->runs), 0);
}

static void note_answer(void *user, int result, wq_job *job, int64_t made_at_ms,
                        const wq_error *error)
{
    (void)made_at_ms, (void)error;
    wq_job_unref(job);
    atomic_store((atomic_int *)user, result);
}

/* Who joins a job while the disk is at work for it: if that fails both are refused, and nothing of
 * it is written when the disk is well again. */
static void test_c19_who_joined_a_commit_that_failed_revives_nobody(void **state)
{
    rig *r = *state;
    const wq_params params = {"http://o.example", "1", TOKEN};
    atomic_int first = 0, second = 0;
    wq_job *job = NULL, *jobs[4];
    size_t n = 4;
    open_rig(r, 1);
    atomic_store(&fails_to_sync, 1);
    atomic_store(&holds_sync, 1);
    assert_int_equal(
        wq_ensure_run_async(r->queue, &params, 0, &job, NULL, note_answer, &first, NULL),
        WQ_PENDING);
    EVENTUALLY(atomic_load(&n_held) > 0);
    assert_int_equal(wq_ensure_run_async(r->queue, &params, WQ_ENSURE_REBUILD, &job, NULL,
                                         note_answer, &second, NULL),
                     WQ_PENDING);
    atomic_store(&holds_sync, 0);
    EVENTUALLY(atomic_load(&first) != 0 && atomic_load(&second) != 0);
    atomic_store(&fails_to_sync, 0);
    assert_int_equal(atomic_load(&first), WQ_ERROR_SYSTEM);
    assert_int_equal(atomic_load(&second), WQ_ERROR_SYSTEM);
    wq_job_unref(begin(r, 2)); /* it is well again */
    close_rig(r);
    atomic_store(&r->runs, 0);
    open_rig(r, 1);
    assert_int_equal(wq_jobs(r->queue, NULL, NULL, jobs, 4, &n), WQ_OK);
    for (size_t i = 0; i < n; i++) {
        assert_string_equal(wq_job_params(jobs[i])->document_set_id, "2");
        wq_job_unref(jobs[i]);
    }
}

static size_t n_ending(rig *r)
{
    wq_stats stats;
    wq_queue_stats(r->queue, &stats);
    return stats.ending;
}

/* While the end of the job that has made it is on its way to the disk: who asks after the delete
 * gets a run of his own. */
static void test_c7_who_asks_after_a_delete_gets_a_run(void **state)
{
    rig *r = *state;
    const wq_params params = {"http://o.example", "1", TOKEN};
    open_rig(r, 1);
    for (int way = 0; way < 4; way++) {
        wq_job *first, *second = NULL;
        atomic_int answer = 0;
        atomic_store(&r->runs, 0);
        atomic_store(&r->run_waits, 1);
        first = begin(r, 1);
        EVENTUALLY(atomic_load(&r->runs) == 1);
        usleep(100000); /* its start is written */
        atomic_store(&holds_sync, 1);
        sem_post(&r->run);
        atomic_store(&r->run_waits, 0);
        EVENTUALLY(n_ending(r) == 1);
        atomic_store(&r->is_there, 1);
        if (way == 0)
            assert_int_equal(wq_output_delete(r->queue, &params, NULL), WQ_OK);
        else if (way == 1)
            assert_int_equal(wq_output_delete_key(r->queue, wq_job_key(first), NULL), WQ_OK);
        else
            assert_int_equal(wq_outputs_delete(r->queue, params.server,
                                               way == 2 ? params.document_set_id : NULL, NULL,
                                               NULL),
                             WQ_OK);
        int result =
            wq_ensure_run_async(r->queue, &params, 0, &second, NULL, note_answer, &answer, NULL);
        atomic_store(&holds_sync, 0);
        assert_int_equal(result, WQ_PENDING);
        EVENTUALLY(atomic_load(&answer) != 0 || atomic_load(&r->runs) == 2);
        assert_int_equal(end_of(first), WQ_STATE_SUCCEEDED);
        wq_job_unref(first);
        EVENTUALLY(atomic_load(&r->runs) == 2);
        wq_stats stats;
        EVENTUALLY((wq_queue_stats(r->queue, &stats), stats.succeeded == 2 * ((size_t)way + 1)));
    }
}

/* ---- wishes ---------------------------------------------------------------------------------- */

static void test_c9_a_rebuild_that_joins_is_one(void **state)
{
    rig *r = *state;
    wq_job *first, *second;
    atomic_store(&r->run_waits, 1);
    open_rig(r, 1);
    wq_job_unref(begin(r, 1));
    EVENTUALLY(atomic_load(&r->runs) == 1);
    first = begin(r, 2); /* waits, and is no rebuild */
    atomic_store(&r->is_there, 1);
    assert_int_equal(ask(r, 2, WQ_ENSURE_REBUILD, &second), WQ_ATTACHED);
    assert_ptr_equal(first, second);
    char id[WQ_ID_SIZE];
    memcpy(id, wq_job_id(first), WQ_ID_SIZE);
    wq_job_unref(first);
    wq_job_unref(second);
    /* also over a restart, which finds an output in place */
    wq_stop(r->queue);
    atomic_store(&r->returncode, 1);
    sem_post(&r->run);
    close_rig(r);
    atomic_store(&r->returncode, 0);
    atomic_store(&r->run_waits, 0);
    atomic_store(&r->rebuilds, 0);
    open_rig(r, 1);
    assert_int_equal(wq_job_by_id(r->queue, id, &first), WQ_OK);
    assert_int_equal(end_of(first), WQ_STATE_SUCCEEDED);
    assert_int_equal(atomic_load(&r->rebuilds), 1);
    assert_int_equal(atomic_load(&r->replaced), 1);
    wq_job_unref(first);
}

/* One that the journal could not take was refused; so is the next one, until it can. */
static void test_c9_a_rebuild_is_promised_when_the_journal_has_it(void **state)
{
    rig *r = *state;
    wq_job *job;
    atomic_store(&r->run_waits, 1);
    open_rig(r, 1);
    wq_job_unref(begin(r, 1));
    EVENTUALLY(atomic_load(&r->runs) == 1);
    wq_job_unref(begin(r, 2)); /* waits, and is no rebuild */
    atomic_store(&fails_to_sync, 1);
    for (int i = 0; i < 3; i++)
        assert_int_equal(ask(r, 2, WQ_ENSURE_REBUILD, &job), WQ_ERROR_SYSTEM);
    atomic_store(&fails_to_sync, 0);
    EVENTUALLY(ask(r, 2, WQ_ENSURE_REBUILD, &job) == WQ_ATTACHED);
    atomic_store(&r->run_waits, 0);
    sem_post(&r->run);
    assert_int_equal(end_of(job), WQ_STATE_SUCCEEDED);
    assert_int_equal(atomic_load(&r->rebuilds), 1);
    wq_job_unref(job);
}

static void test_c10_a_cancel_that_was_granted_is_no_success(void **state)
{
    rig *r = *state;
    for (int way = 0; way < 4; way++) {
        atomic_store(&r->begin_waits, way < 2);
        atomic_store(&r->begin_fails, way == 1);
        atomic_store(&r->run_waits, way >= 2);
        atomic_store(&r->returncode, way == 3);
        atomic_store(&r->runs, 0);
        atomic_store(&r->begun, 0);
        open_rig(r, 0);
        wq_job *job = begin(r, way);
        EVENTUALLY(atomic_load(way < 2 ? &r->begun : &r->runs) == 1);
        assert_int_equal(wq_job_cancel(job), WQ_OK);
        sem_post(way < 2 ? &r->begin : &r->run);
        assert_int_equal(end_of(job), WQ_STATE_CANCELLED);
        assert_int_equal(wq_job_cancel(job), WQ_DONE);
        wq_job_unref(job);
        close_rig(r);
    }
}

static void test_c13_an_estimate_is_never_nothing(void **state)
{
    rig *r = *state;
    r->lines[0] = "1e-30";
    r->lines[1] = "2e-30";
    atomic_store(&r->run_waits, 1);
    open_rig(r, 0);
    wq_job *job = begin(r, 1);
    EVENTUALLY(fraction_of(job) == 2e-30);
    assert_in_range(wq_job_estimate_ms(job), 1, (uint64_t)1 << 53);
    sem_post(&r->run);
    end_of(job);
    wq_job_unref(job);
}

/* Who asks then runs it again, so this one has not succeeded. */
static void test_c19_a_limit_is_final(void **state)
{
    rig *r = *state;
    wq_snapshot s;
    r->options.run_timeout_ms = 50;
    r->sleeps_ms = 400; /* and then it ends well */
    open_rig(r, 0);
    wq_job *job = begin(r, 1);
    assert_int_equal(end_of(job), WQ_STATE_FAILED);
    wq_job_snapshot(job, &s);
    assert_non_null(strstr(s.error, "timed out after 50 ms"));
    assert_int_equal(s.returncode, WQ_RETURNCODE_OWN);
    wq_snapshot_clear(&s);
    wq_job_unref(job);
}

/* ---- other processes, other threads, nobody -------------------------------------------------- */

static int in_child(rig *r, wq_job *job)
{
    wq_job *other;
    wq_watch *watch;
    wq_output output;
    wq_error error = {0};
    wq_stats stats;
    wq_snapshot snapshot;
    const wq_params params = {"a", "b", "c"};
    alarm(20); /* who hangs, dies */
    int wrong = ask(r, 77, 0, &other) != WQ_ERROR_CLOSING;
    wrong |= wq_ensure_run(r->queue, &params, 0, &other, &error) != WQ_ERROR_CLOSING ||
             error.message[0] == '\0';
    wrong |= wq_job_by_id(r->queue, wq_job_id(job), &other) != WQ_ERROR_CLOSING;
    wrong |= wq_job_cancel(job) != WQ_ERROR_CLOSING;
    wrong |= wq_job_abandon(job) != WQ_ERROR_CLOSING;
    wrong |= wq_job_wait(job, -1) != WQ_ERROR_CLOSING;
    wrong |= wq_job_watch(job, free, NULL, &watch) != WQ_ERROR_CLOSING;
    wrong |= wq_queue_watch(r->queue, free, NULL, &watch) != WQ_ERROR_CLOSING;
    wrong |= wq_job_output(job, &output, NULL) != WQ_ERROR_CLOSING;
    wrong |= wq_output_find(r->queue, &params, NULL) != WQ_ERROR_CLOSING;
    wq_queue_stats(r->queue, &stats);
    wq_job_snapshot(job, &snapshot);
    wq_snapshot_clear(&snapshot);
    wq_job_estimate_ms(job);
    wq_job_unref(job);
    wq_stop(r->queue);
    wq_close(r->queue);
    return wrong;
}

static atomic_int holds_news, is_told;

static void take_news(void *user, wq_job *job)
{
    (void)user, (void)job;
    atomic_store(&is_told, 1);
    while (atomic_load(&holds_news))
        usleep(1000);
}

/* Also if another thread has just told of all jobs. */
static void test_c15_a_forked_child_watches_nothing(void **state)
{
    rig *r = *state;
    wq_jobs_watch *watch, *other;
    int status;
    open_rig(r, 1);
    atomic_store(&holds_news, 1);
    atomic_store(&is_told, 0);
    assert_int_equal(wq_jobs_watch_all(r->queue, take_news, NULL, &watch), WQ_OK);
    wq_job *job = NULL;
    atomic_int answer = 1;
    const wq_params params = {"http://o.example", "1", TOKEN};
    wq_ensure_run_async(r->queue, &params, 0, &job, NULL, note_answer, &answer, NULL);
    EVENTUALLY(atomic_load(&is_told));
    pid_t pid = fork();
    if (pid == 0) {
        alarm(20); /* who hangs, dies */
        int wrong = wq_jobs_watch_all(r->queue, take_news, NULL, &other) != WQ_ERROR_CLOSING;
        wq_jobs_watch_cancel(watch);
        _exit(wrong);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    atomic_store(&holds_news, 0);
    wq_jobs_watch_cancel(watch);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void test_c15_a_forked_child_touches_nothing(void **state)
{
    rig *r = *state;
    int status;
    atomic_store(&r->run_waits, 1);
    open_rig(r, 1);
    wq_job *job = begin(r, 1), *waits = begin(r, 2);
    EVENTUALLY(state_of(job) == WQ_STATE_RUNNING);
    pid_t pid = fork();
    if (pid == 0)
        _exit(in_child(r, job));
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    assert_int_equal(state_of(job), WQ_STATE_RUNNING);
    sem_post(&r->run);
    sem_post(&r->run);
    assert_int_equal(end_of(job), WQ_STATE_SUCCEEDED);
    assert_int_equal(end_of(waits), WQ_STATE_SUCCEEDED);
    wq_job_unref(job);
    wq_job_unref(waits);
}

typedef struct caller {
    wq_job *job;
    atomic_int stop;
} caller;

static void *call_again_and_again(void *user)
{
    caller *c = user;
    wq_output output;
    while (!atomic_load(&c->stop)) {
        if (wq_job_output(c->job, &output, NULL) == WQ_OK && output.fd >= 0)
            close(output.fd);
        wq_job_cancel(c->job);
        wq_job_estimate_ms(c->job);
    }
    return NULL;
}

static void test_c16_a_job_outlives_its_queue(void **state)
{
    rig *r = *state;
    wq_output output;
    for (int round = 0; round < 50; round++) {
        pthread_t thread;
        open_rig(r, round % 2);
        caller c = {.job = begin(r, round)};
        wq_job_unref(begin(r, 1000 + round));
        assert_int_equal(pthread_create(&thread, NULL, call_again_and_again, &c), 0);
        usleep((useconds_t)(round % 5) * 300);
        close_rig(r);
        usleep(500);
        atomic_store(&c.stop, 1);
        pthread_join(thread, NULL);
        assert_int_equal(wq_job_output(c.job, &output, NULL), WQ_ERROR_CLOSING);
        assert_int_equal(wq_job_cancel(c.job), WQ_DONE);
        wq_job_unref(c.job);
    }
}

static void test_c18_null_is_an_error(void **state)
{
    rig *r = *state;
    const int invalid = WQ_ERROR_INVALID_ARGUMENT;
    const wq_params right = {"a", "b", "c"}, wrong = {NULL, "b", "c"};
    char key[WQ_KEY_SIZE];
    wq_queue *queue = NULL;
    wq_job *job = NULL;
    wq_watch *watch;
    wq_error error;
    int fd;
    size_t n;
    open_rig(r, 0);
    assert_int_equal(wq_open(NULL, NULL, &error), invalid);
    assert_int_equal(wq_open(&queue, NULL, NULL), invalid);
    assert_int_equal(wq_params_check(NULL, &error), invalid);
    assert_int_equal(wq_params_key(NULL, key), invalid);
    assert_int_equal(wq_params_key(&right, NULL), invalid);
    assert_int_equal(wq_ensure_run(NULL, &right, 0, &job, &error), invalid);
    assert_int_equal(wq_ensure_run(r->queue, NULL, 0, &job, &error), invalid);
    assert_int_equal(wq_ensure_run(r->queue, &wrong, 0, &job, &error), invalid);
    assert_int_equal(wq_ensure_run(r->queue, &right, 0, NULL, &error), invalid);
    assert_int_equal(wq_ensure_run_async(r->queue, &right, 0, &job, NULL, NULL, NULL, &error),
                     invalid);
    assert_int_equal(wq_job_by_id(r->queue, NULL, &job), invalid);
    assert_int_equal(wq_job_by_id(NULL, "x", &job), invalid);
    assert_int_equal(wq_job_cancel(NULL), invalid);
    assert_int_equal(wq_job_abandon(NULL), invalid);
    assert_int_equal(wq_job_wait(NULL, 0), invalid);
    assert_int_equal(wq_job_watch(NULL, free, NULL, &watch), invalid);
    assert_int_equal(wq_queue_watch(r->queue, NULL, NULL, &watch), invalid);
    assert_int_equal(wq_job_output(NULL, NULL, &error), invalid);
    assert_int_equal(wq_output_open(r->queue, &right, NULL, &error), invalid);
    assert_int_equal(wq_output_open(NULL, &right, &fd, &error), invalid);
    assert_int_equal(wq_output_find(r->queue, NULL, &error), invalid);
    assert_int_equal(wq_output_delete(r->queue, NULL, &error), invalid);
    assert_int_equal(wq_outputs_delete(NULL, "a", NULL, &n, &error), invalid);
    assert_int_equal(wq_output_path(r->queue, &right, NULL, 0, &error), invalid);
    assert_int_equal(wq_jobs(NULL, NULL, NULL, &job, 1, &n), invalid);
    wq_stop(NULL);
    wq_close(NULL);
    wq_job_unref(NULL);
    wq_watch_cancel(NULL);
    wq_snapshot_clear(NULL);
    wq_job_snapshot(NULL, NULL);
    wq_queue_stats(NULL, NULL);
    wq_options_init(NULL, sizeof r->options);
    wq_queue_minutes(r->queue, NULL);
    assert_int_equal(wq_job_estimate_ms(NULL), 0);
}

static void test_c18_tables_with_holes_are_refused_at_once(void **state)
{
    rig *r = *state;
    wq_queue *queue;
    wq_error error;
    const wq_runner runner = r->runner;
    const wq_store store = r->store;
#define HOLE(table, member)                                                                        \
    r->table.member = NULL;                                                                        \
    assert_int_equal(wq_open(&queue, &r->options, &error), WQ_ERROR_INVALID_ARGUMENT);             \
    assert_non_null(strstr(error.message, #table));                                                \
    r->table = table
    HOLE(runner, run);
    HOLE(runner, close);
    HOLE(store, find);
    HOLE(store, begin);
    HOLE(store, publish);
    HOLE(store, discard);
    HOLE(store, close);
#undef HOLE
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_c5_ends_that_cannot_be_written_cost_nothing),
        TEST(test_c6_many_long_errors),
        TEST(test_c7_who_asks_after_a_delete_gets_a_run),
        TEST(test_c9_a_rebuild_that_joins_is_one),
        TEST(test_c9_a_rebuild_is_promised_when_the_journal_has_it),
        TEST(test_c10_a_cancel_that_was_granted_is_no_success),
        TEST(test_c13_an_estimate_is_never_nothing),
        TEST(test_c6_long_errors_in_memory_are_bounded),
        TEST(test_c14_a_start_is_in_the_journal_before_it_runs),
        TEST(test_c15_a_forked_child_watches_nothing),
        TEST(test_c15_a_forked_child_touches_nothing),
        TEST(test_c16_a_job_outlives_its_queue),
        TEST(test_c18_null_is_an_error),
        TEST(test_c18_tables_with_holes_are_refused_at_once),
        TEST(test_c19_a_commit_that_failed_revives_nobody),
        TEST(test_c19_who_joined_a_commit_that_failed_revives_nobody),
        TEST(test_c19_a_limit_is_final),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

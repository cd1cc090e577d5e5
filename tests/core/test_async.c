/* test_async.c - asynchronous runners, as who writes one and who waits for jobs see them.
 *
 * "The far" is a runner that does nothing by itself: it keeps the runs it was given, and the test
 * says what becomes of each, in any order and from any thread. "The shelf" is a store that says
 * what the test wants. */
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include <workqueue/extend.h>

#include "tests/support.h"

#include "workqueue/util/log.h"

enum { MAX_RUNS = 4096 };

/* ---- the far: a runner that does what the test says ------------------------------------------ */

typedef struct far_run {
    const wq_run *run; /* until it has ended */
    char set[32], id[WQ_ID_SIZE];
    int resumed, rebuild;
    atomic_int cancels;
} far_run;

typedef struct far {
    wq_runner runner;
    pthread_mutex_t lock;
    far_run runs[MAX_RUNS];
    atomic_size_t n;
    const char *refusal; /* start fails with it */
    atomic_int yields;   /* a cancel ends the run at once */
    atomic_int interests, closed;
} far;

static int far_start(void *self, const wq_run *run, wq_error *error)
{
    far *f = self;
    if (f->refusal != NULL)
        return wq_fail(error, WQ_ERROR_SYSTEM, "%s", f->refusal);
    pthread_mutex_lock(&f->lock);
    far_run *r = &f->runs[atomic_load(&f->n)];
    r->run = run;
    r->resumed = run->resumed;
    r->rebuild = run->rebuild;
    snprintf(r->set, sizeof r->set, "%s", run->params->document_set_id);
    snprintf(r->id, sizeof r->id, "%s", run->id);
    atomic_fetch_add(&f->n, 1);
    pthread_mutex_unlock(&f->lock);
    return WQ_OK;
}

/* The run is over; whether nobody has said so before. */
static int end_run(far *f, far_run *r, int returncode, int cancelled, const char *error)
{
    pthread_mutex_lock(&f->lock);
    const wq_run *run = r->run;
    r->run = NULL;
    pthread_mutex_unlock(&f->lock);
    if (run == NULL)
        return 0;
    run->ended(run->user, &(wq_outcome){returncode, cancelled, error ? strdup(error) : NULL});
    return 1;
}

static void far_cancel(void *self, const wq_run *run)
{
    far *f = self;
    far_run *r = NULL;
    pthread_mutex_lock(&f->lock);
    for (size_t i = 0; i < f->n && r == NULL; i++)
        if (f->runs[i].run == run)
            r = &f->runs[i];
    pthread_mutex_unlock(&f->lock);
    if (r == NULL)
        return;
    atomic_fetch_add(&r->cancels, 1);
    if (f->yields)
        end_run(f, r, -999, 1, NULL);
}

static void far_interest(void *self, const wq_run *run)
{
    far *f = self;
    (void)run->watched(run->user);
    atomic_fetch_add(&f->interests, 1);
}

static void far_close(wq_runner *runner)
{
    far *f = runner->self;
    atomic_fetch_add(&f->closed, 1);
}

static void far_init(far *f)
{
    memset(f, 0, sizeof *f);
    pthread_mutex_init(&f->lock, NULL);
    f->runner = (wq_runner){.self = f,
                            .close = far_close,
                            .start = far_start,
                            .cancel = far_cancel,
                            .interest = far_interest};
}

/* The latest run for this document set, once it has been started. */
static far_run *out(far *f, const char *set)
{
    far_run *found = NULL;
    int64_t give_up = now_ms() + DEADLINE_MS;
    while (found == NULL && now_ms() < give_up) {
        pthread_mutex_lock(&f->lock);
        for (size_t i = 0; i < f->n; i++)
            if (strcmp(f->runs[i].set, set) == 0)
                found = &f->runs[i];
        pthread_mutex_unlock(&f->lock);
        if (found == NULL)
            usleep(500);
    }
    if (found == NULL)
        fail_msg("set %s was not started", set);
    return found;
}

static void say(const far_run *r, const char *line)
{
    r->run->report(r->run->user, line, strlen(line));
}

static void begin(const far_run *r, uint64_t estimate_ms)
{
    r->run->begun(r->run->user, estimate_ms);
}

static void write_output(const far_run *r, const char *text)
{
    const char *path, *again;
    wq_error error;
    assert_int_equal(r->run->output(r->run->user, &path, &error), WQ_OK);
    assert_int_equal(r->run->output(r->run->user, &again, &error), WQ_OK);
    assert_string_equal(path, again);
    FILE *f = fopen(path, "r+e");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

/* Asks where the output goes, and writes nothing there. */
static void place_output(const far_run *r)
{
    const char *path;
    assert_int_equal(r->run->output(r->run->user, &path, NULL), WQ_OK);
}

/* ---- the shelf: a store that does what the test says ----------------------------------------- */

typedef struct shelf {
    wq_store store;
    pthread_mutex_t lock;
    char keys[64][WQ_KEY_SIZE];
    size_t n_keys;
    atomic_int find_result, publish_result; /* where they should fail */
    atomic_int finds, publishes, begun, discarded, closed;
    pthread_mutex_t hold; /* find waits while it is held */
    wq_job *ends[20];     /* each find cancels one, from the end on */
    size_t n_ends;
} shelf;

static int shelf_find(void *self, const char *key, int64_t *made_at_ms, wq_error *error)
{
    shelf *s = self;
    int result = atomic_load(&s->find_result);
    if (made_at_ms != NULL)
        *made_at_ms = 1234567;
    atomic_fetch_add(&s->finds, 1);
    pthread_mutex_lock(&s->hold);
    pthread_mutex_unlock(&s->hold);
    if (s->n_ends > 0)
        wq_job_cancel(s->ends[--s->n_ends]);
    if (result != 0)
        return wq_fail(error, result, "the shelf is out of reach");
    result = WQ_ERROR_NOT_FOUND;
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < s->n_keys; i++)
        if (strcmp(s->keys[i], key) == 0)
            result = WQ_OK;
    pthread_mutex_unlock(&s->lock);
    return result == WQ_OK ? WQ_OK : wq_fail(error, result, "not on the shelf");
}

static void shelf_put(shelf *s, const char *key)
{
    pthread_mutex_lock(&s->lock);
    memcpy(s->keys[s->n_keys++], key, WQ_KEY_SIZE);
    pthread_mutex_unlock(&s->lock);
}

static int shelf_begin(void *self, const char *key, char **temp_path, wq_error *error)
{
    shelf *s = self;
    (void)key;
    (void)error;
    atomic_fetch_add(&s->begun, 1);
    *temp_path = strdup("/nowhere");
    return WQ_OK;
}

static void shelf_publish(void *self, wq_publish *items, size_t n)
{
    shelf *s = self;
    for (size_t i = 0; i < n; i++) {
        items[i].result = atomic_load(&s->publish_result);
        if (items[i].result == WQ_OK)
            shelf_put(s, items[i].key);
        else
            wq_fail(&items[i].error, items[i].result, "the shelf is out of reach");
    }
    atomic_fetch_add(&s->publishes, 1);
}

static void shelf_discard(void *self, const char *temp_path)
{
    shelf *s = self;
    (void)temp_path;
    atomic_fetch_add(&s->discarded, 1);
}

static void shelf_close(wq_store *store)
{
    shelf *s = store->self;
    atomic_fetch_add(&s->closed, 1);
}

static void shelf_init(shelf *s)
{
    memset(s, 0, sizeof *s);
    pthread_mutex_init(&s->lock, NULL);
    pthread_mutex_init(&s->hold, NULL);
    s->store = (wq_store){.self = s,
                          .find = shelf_find,
                          .begin = shelf_begin,
                          .publish = shelf_publish,
                          .discard = shelf_discard,
                          .waits = 1,
                          .close = shelf_close};
}

/* ---- a place for files, and queues ----------------------------------------------------------- */

typedef struct place {
    char dir[FOLDER_SIZE], storage[80], journal[80];
    far far;
    shelf shelf;
} place;

static int set_up(void **state)
{
    place *p = calloc(1, sizeof *p);
    if (p == NULL)
        return -1;
    if (make_folder(p->dir, "async") != 0)
        return -1;
    snprintf(p->storage, sizeof p->storage, "%s/outputs", p->dir);
    snprintf(p->journal, sizeof p->journal, "%s/journal", p->dir);
    mkdir(p->storage, 0700);
    far_init(&p->far);
    shelf_init(&p->shelf);
    *state = p;
    return 0;
}

static int tear_down(void **state)
{
    place *p = *state;
    const int result = remove_folder(p->dir);
    free(p);
    return result;
}

static wq_options options_of(place *p)
{
    wq_options options;
    wq_options_init(&options, sizeof options);
    options.runner = &p->far.runner;
    options.storage_dir = p->storage;
    options.sync = 0;
    return options;
}

static wq_queue *open_plain(place *p)
{
    wq_options options = options_of(p);
    return open_with(&options);
}

static wq_queue *open_shelf(place *p)
{
    wq_options options = options_of(p);
    options.store = &p->shelf.store;
    return open_with(&options);
}

static wq_queue *open_journal(place *p)
{
    wq_options options = options_of(p);
    options.journal_path = p->journal;
    return open_with(&options);
}

static wq_job *ask(wq_queue *queue, const char *set)
{
    wq_params params = {"http://server", set, TOKEN};
    wq_job *job = NULL;
    wq_error error = {0};
    int result = wq_ensure_run(queue, &params, 0, &job, &error);
    if (result != WQ_OK)
        fail_msg("%d: %s", result, error.message);
    return job;
}

/* Waits for the end, which is this one, with these words in its error, and lets go of the job. */
static void ends(wq_job *job, int state, const char *words)
{
    wq_snapshot snapshot;
    assert_int_equal(wq_job_wait(job, DEADLINE_MS), WQ_OK);
    wq_job_snapshot(job, &snapshot);
    if (snapshot.state != state)
        fail_msg("ended in state %d: %s", snapshot.state, snapshot.error ? snapshot.error : "");
    if (words == NULL)
        assert_null(snapshot.error);
    else if (snapshot.error == NULL || strstr(snapshot.error, words) == NULL)
        fail_msg("'%s' lacks '%s'", snapshot.error ? snapshot.error : "(null)", words);
    wq_snapshot_clear(&snapshot);
    wq_job_unref(job);
}

static void holds(wq_queue *queue, const char *set, const char *text)
{
    wq_params params = {"http://server", set, TOKEN};
    char buf[64] = "";
    int fd;
    wq_error error = {0};
    if (wq_output_open(queue, &params, &fd, &error) != WQ_OK)
        fail_msg("%s", error.message);
    assert_true(read(fd, buf, sizeof buf - 1) >= 0);
    close(fd);
    assert_string_equal(buf, text);
}

/* A queue with one job, whose run has written half of its output. */
typedef struct half {
    wq_queue *queue;
    wq_job *job;
    far_run *run;
    int before; /* entries of the storage without that output */
} half;

static half open_half(place *p)
{
    half h = {.queue = open_plain(p)};
    h.before = entries_of(p->storage);
    h.job = ask(h.queue, "1");
    h.run = out(&p->far, "1");
    write_output(h.run, "half of i");
    assert_true(entries_of(p->storage) > h.before);
    return h;
}

/* ---- the life of a run ----------------------------------------------------------------------- */

static void test_a_job_from_start_to_end(void **state)
{
    place *p = *state;
    wq_queue *queue = open_plain(p);
    wq_job *job = ask(queue, "1");
    far_run *r = out(&p->far, "1");
    assert_string_equal(r->id, wq_job_id(job));
    assert_string_equal(r->run->key, wq_job_key(job));
    assert_string_equal(r->run->params->api_token, TOKEN);
    assert_false(r->resumed || r->rebuild);
    assert_int_equal(state_of(job), WQ_STATE_QUEUED);
    begin(r, 60000);
    assert_int_equal(state_of(job), WQ_STATE_RUNNING);
    assert_in_range(wq_job_estimate_ms(job), 1000, 60000);
    say(r, "0.25\tindexing");
    assert_true(fraction_of(job) == 0.25);
    write_output(r, "all of it");
    assert_true(end_run(&p->far, r, 0, 0, NULL));
    ends(job, WQ_STATE_SUCCEEDED, NULL);
    holds(queue, "1", "all of it");
    wq_close(queue);
    assert_int_equal(p->far.closed, 1);
}

static void test_ended_before_it_began(void **state)
{
    place *p = *state;
    wq_queue *queue = open_plain(p);
    wq_job *good = ask(queue, "1"), *bad = ask(queue, "2");
    write_output(out(&p->far, "1"), "x");
    end_run(&p->far, out(&p->far, "1"), 0, 0, NULL);
    end_run(&p->far, out(&p->far, "2"), 3, 0, "no such page; the token was " TOKEN);
    ends(good, WQ_STATE_SUCCEEDED, NULL);
    wq_snapshot snapshot;
    assert_int_equal(wq_job_wait(bad, DEADLINE_MS), WQ_OK);
    wq_job_snapshot(bad, &snapshot);
    assert_int_equal(snapshot.returncode, 3);
    assert_non_null(strstr(snapshot.error, "no such page"));
    assert_null(strstr(snapshot.error, TOKEN));
    wq_snapshot_clear(&snapshot);
    ends(bad, WQ_STATE_FAILED, "no such page");
    wq_close(queue);
}

static void test_a_report_says_that_it_began(void **state)
{
    place *p = *state;
    wq_queue *queue = open_plain(p);
    wq_job *job = ask(queue, "1");
    say(out(&p->far, "1"), "0.5");
    assert_int_equal(state_of(job), WQ_STATE_RUNNING);
    begin(out(&p->far, "1"), 5000); /* late, and nothing starts anew */
    assert_true(fraction_of(job) == 0.5);
    end_run(&p->far, out(&p->far, "1"), 1, 0, "enough");
    ends(job, WQ_STATE_FAILED, "enough");
    wq_close(queue);
}

static void test_a_start_that_fails(void **state)
{
    place *p = *state;
    p->far.refusal = "the message is too long";
    wq_queue *queue = open_plain(p);
    ends(ask(queue, "1"), WQ_STATE_FAILED, "the message is too long");
    wq_close(queue);
}

static void test_progress_never_goes_backwards(void **state)
{
    place *p = *state;
    wq_queue *queue = open_plain(p);
    wq_snapshot snapshot;
    wq_job *job = ask(queue, "1");
    far_run *r = out(&p->far, "1");
    say(r, "6/12\tsix");
    say(r, "3/12\tthree again");
    wq_job_snapshot(job, &snapshot);
    assert_true(snapshot.fraction == 0.5);
    assert_int_equal(snapshot.items_done, 6);
    assert_string_equal(snapshot.message, "three again");
    wq_snapshot_clear(&snapshot);
    say(r, "0.75");
    assert_true(fraction_of(job) == 0.75);
    end_run(&p->far, r, 1, 0, "enough");
    ends(job, WQ_STATE_FAILED, "enough");
    wq_close(queue);
}

/* ---- outputs --------------------------------------------------------------------------------- */

static void test_an_output_that_is_in_the_store(void **state)
{
    place *p = *state;
    wq_queue *queue = open_shelf(p);
    wq_job *there = ask(queue, "1"), *missing = ask(queue, "2");
    shelf_put(&p->shelf, wq_job_key(there));
    end_run(&p->far, out(&p->far, "1"), 0, 0, NULL);
    end_run(&p->far, out(&p->far, "2"), 0, 0, NULL);
    ends(there, WQ_STATE_SUCCEEDED, NULL);
    ends(missing, WQ_STATE_FAILED, "not in the store");
    wq_close(queue);
    assert_int_equal(p->shelf.begun, 0);
    assert_int_equal(p->shelf.closed, 1);
}

static void test_outputs_of_failed_runs_are_removed(void **state)
{
    place *p = *state;
    half h = open_half(p);
    end_run(&p->far, h.run, 1, 0, "cut");
    ends(h.job, WQ_STATE_FAILED, "cut");
    assert_int_equal(entries_of(p->storage), h.before);
    wq_close(h.queue);
}

static void test_too_long_an_output(void **state)
{
    place *p = *state;
    wq_options options = options_of(p);
    options.max_output_bytes = 4;
    wq_queue *queue = open_with(&options);
    wq_job *job = ask(queue, "1");
    write_output(out(&p->far, "1"), "12345");
    end_run(&p->far, out(&p->far, "1"), 0, 0, NULL);
    ends(job, WQ_STATE_FAILED, "more than 4 bytes");
    wq_close(queue);
}

static void test_a_rebuild_says_so(void **state)
{
    place *p = *state;
    wq_params params = {"http://server", "1", TOKEN};
    wq_job *job;
    wq_queue *queue = open_plain(p);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(wq_ensure_run(queue, &params, i ? WQ_ENSURE_REBUILD : 0, &job, NULL),
                         WQ_OK);
        EVENTUALLY(p->far.n == (size_t)i + 1);
        assert_int_equal(p->far.runs[i].rebuild, i);
        write_output(&p->far.runs[i], i ? "new" : "old");
        end_run(&p->far, &p->far.runs[i], 0, 0, NULL);
        ends(job, WQ_STATE_SUCCEEDED, NULL);
        holds(queue, "1", i ? "new" : "old");
    }
    wq_close(queue);
}

/* ---- the row --------------------------------------------------------------------------------- */

static void ask_many(wq_queue *queue, wq_job **jobs, int n)
{
    for (int i = 0; i < n; i++) {
        char set[16];
        snprintf(set, sizeof set, "%d", i);
        jobs[i] = ask(queue, set);
    }
}

static void test_so_many_are_out(void **state)
{
    place *p = *state;
    wq_job *jobs[6];
    p->far.runner.max_in_flight = 2;
    wq_queue *queue = open_plain(p);
    ask_many(queue, jobs, 6);
    for (int i = 0; i < 6; i++) {
        char set[16];
        snprintf(set, sizeof set, "%d", i);
        far_run *r = out(&p->far, set);
        assert_ptr_equal(r, &p->far.runs[i]); /* in the queue's order */
        begin(r, 0);
        EVENTUALLY(p->far.n == (i < 4 ? (size_t)i + 2 : 6));
        end_run(&p->far, r, 1, 0, "enough");
        ends(jobs[i], WQ_STATE_FAILED, "enough");
    }
    wq_close(queue);
}

static void test_positions_count_what_was_started(void **state)
{
    place *p = *state;
    wq_job *jobs[5];
    wq_queue *queue = open_plain(p);
    ask_many(queue, jobs, 5);
    EVENTUALLY(p->far.n == 5);
    for (int i = 0; i < 5; i++)
        assert_int_equal(ahead_of(jobs[i]), i);
    begin(out(&p->far, "2"), 0); /* out of order: those in front have one more ahead */
    static const uint64_t with_two[] = {1, 2, 0, 3, 4};
    for (int i = 0; i < 5; i++)
        assert_int_equal(ahead_of(jobs[i]), with_two[i]);
    assert_int_equal(wq_job_cancel(jobs[1]), WQ_OK);
    static const uint64_t without_one[] = {1, 0, 0, 2, 3};
    for (int i = 0; i < 5; i++)
        assert_int_equal(ahead_of(jobs[i]), without_one[i]);
    p->far.yields = 1;
    EVENTUALLY(p->far.runs[1].cancels == 1);
    end_run(&p->far, &p->far.runs[1], -999, 1, NULL);
    for (int i = 0; i < 5; i++)
        wq_job_unref(jobs[i]);
    wq_close(queue);
}

static void mark(void *user)
{
    atomic_fetch_add((atomic_int *)user, 1);
}

static void test_a_begin_out_of_order_is_news_of_positions(void **state)
{
    place *p = *state;
    wq_job *jobs[2];
    wq_watch *watch;
    atomic_int told = 0;
    p->far.yields = 1;
    wq_queue *queue = open_plain(p);
    ask_many(queue, jobs, 2);
    far_run *second = out(&p->far, "1");
    assert_int_equal(wq_queue_watch(queue, mark, &told, &watch), WQ_OK);
    begin(second, 0);
    assert_true(told > 0);
    wq_watch_cancel(watch);
    wq_job_unref(jobs[0]);
    wq_job_unref(jobs[1]);
    wq_close(queue);
}

/* ---- cancels --------------------------------------------------------------------------------- */

static void test_cancel_of_one_not_started(void **state)
{
    place *p = *state;
    p->far.runner.max_in_flight = 1;
    wq_queue *queue = open_plain(p);
    wq_job *first = ask(queue, "1"), *second = ask(queue, "2");
    far_run *r = out(&p->far, "1");
    assert_int_equal(wq_job_cancel(second), WQ_OK);
    ends(second, WQ_STATE_CANCELLED, "cancelled");
    end_run(&p->far, r, 1, 0, "enough");
    ends(first, WQ_STATE_FAILED, "enough");
    wq_close(queue);
    assert_int_equal(p->far.n, 1);
}

static void test_cancel_of_one_started(void **state)
{
    place *p = *state;
    half h = open_half(p);
    assert_int_equal(wq_job_cancel(h.job), WQ_OK);
    assert_int_equal(state_of(h.job), WQ_STATE_CANCELLED); /* at once */
    EVENTUALLY(h.run->cancels == 1);
    assert_int_equal(wq_job_cancel(h.job), WQ_DONE);

    wq_job *again = ask(h.queue, "1"); /* while the first run is out still */
    EVENTUALLY(p->far.n == 2);
    say(h.run, "0.9\tlate");
    begin(h.run, 1000);
    assert_true(fraction_of(h.job) == 1);
    assert_true(fraction_of(again) == 0);
    end_run(&p->far, h.run, 0, 0, NULL); /* it has succeeded all the same: too late */
    ends(h.job, WQ_STATE_CANCELLED, "cancelled");
    assert_int_equal(state_of(again), WQ_STATE_QUEUED);
    EVENTUALLY(entries_of(p->storage) == h.before);
    end_run(&p->far, &p->far.runs[1], 1, 0, "enough");
    ends(again, WQ_STATE_FAILED, "enough");
    wq_close(h.queue);
    assert_int_equal(h.run->cancels, 1);
}

static void test_cancel_of_one_that_runs(void **state)
{
    place *p = *state;
    wq_queue *queue = open_plain(p);
    wq_job *job = ask(queue, "1");
    far_run *r = out(&p->far, "1");
    begin(r, 0);
    assert_int_equal(wq_job_cancel(job), WQ_OK);
    assert_int_equal(wq_job_cancel(job), WQ_OK);
    EVENTUALLY(r->cancels == 1);
    assert_int_equal(state_of(job), WQ_STATE_RUNNING); /* until the runner says so */
    end_run(&p->far, r, -999, 1, NULL);
    ends(job, WQ_STATE_CANCELLED, "cancelled");
    wq_close(queue);
    assert_int_equal(r->cancels, 1);
}

/* Who cancelled has been told that this was in time. */
static void test_a_run_that_succeeds_all_the_same(void **state)
{
    place *p = *state;
    half h = open_half(p);
    begin(h.run, 0);
    assert_int_equal(wq_job_cancel(h.job), WQ_OK);
    EVENTUALLY(h.run->cancels == 1);
    end_run(&p->far, h.run, 0, 0, NULL);
    ends(h.job, WQ_STATE_CANCELLED, "cancelled");
    EVENTUALLY(entries_of(p->storage) == h.before);
    wq_close(h.queue);
}

/* ... and who was too late is told that. */
static void test_cancel_of_one_that_has_timed_out(void **state)
{
    place *p = *state;
    wq_options options = options_of(p);
    options.run_timeout_ms = 50;
    wq_queue *queue = open_with(&options);
    wq_job *job = ask(queue, "1");
    far_run *r = out(&p->far, "1");
    begin(r, 0);
    EVENTUALLY(r->cancels == 1);
    assert_int_equal(wq_job_cancel(job), WQ_DONE);
    end_run(&p->far, r, -999, 1, NULL);
    ends(job, WQ_STATE_FAILED, "timed out after 50 ms");
    wq_close(queue);
}

static void test_a_run_that_is_cancelled_elsewhere(void **state)
{
    place *p = *state;
    wq_queue *queue = open_plain(p);
    wq_job *job = ask(queue, "1");
    end_run(&p->far, out(&p->far, "1"), -999, 1, "cancelled by its operator");
    ends(job, WQ_STATE_CANCELLED, "by its operator");
    wq_close(queue);
}

/* ---- limits ---------------------------------------------------------------------------------- */

static void test_time_limits(void **state)
{
    place *p = *state;
    p->far.yields = 1;
    wq_options options = options_of(p);
    options.run_timeout_ms = 50;
    options.queue_timeout_ms = 1000;
    wq_queue *queue = open_with(&options);
    wq_job *runs = ask(queue, "1");
    begin(out(&p->far, "1"), 0);
    ends(runs, WQ_STATE_FAILED, "timed out after 50 ms");
    wq_job *waits = ask(queue, "2");
    far_run *r = out(&p->far, "2");
    ends(waits, WQ_STATE_FAILED, "waited longer than 1000 ms");
    EVENTUALLY(r->cancels == 1);
    wq_close(queue);
}

/* ---- the store is away ----------------------------------------------------------------------- */

static void test_the_store_is_away_for_a_while(void **state)
{
    place *p = *state;
    wq_queue *queue = open_shelf(p);
    wq_job *file = ask(queue, "1"), *no_file = ask(queue, "2"), *bad = ask(queue, "3");
    EVENTUALLY(p->far.n == 3);
    place_output(&p->far.runs[0]);
    atomic_store(&p->shelf.publish_result, WQ_ERROR_AWAY);
    atomic_store(&p->shelf.find_result, WQ_ERROR_AWAY);
    shelf_put(&p->shelf, wq_job_key(no_file));
    int finds = p->shelf.finds;
    end_run(&p->far, &p->far.runs[0], 0, 0, NULL);
    end_run(&p->far, &p->far.runs[1], 0, 0, NULL);
    EVENTUALLY(p->shelf.publishes >= 2 && p->shelf.finds >= finds + 2); /* tried again */
    assert_int_equal(state_of(file), WQ_STATE_PUBLISHING);
    assert_int_equal(state_of(no_file), WQ_STATE_PUBLISHING);
    end_run(&p->far, &p->far.runs[2], 1, 0, "others go on");
    ends(bad, WQ_STATE_FAILED, "others go on");
    atomic_store(&p->shelf.publish_result, WQ_OK);
    atomic_store(&p->shelf.find_result, WQ_OK);
    ends(file, WQ_STATE_SUCCEEDED, NULL);
    ends(no_file, WQ_STATE_SUCCEEDED, NULL);
    wq_close(queue);
    assert_int_equal(p->shelf.discarded, 0);
}

static void test_what_waits_for_the_store_is_bounded(void **state)
{
    place *p = *state;
    wq_params params = {"http://server", "more", TOKEN};
    wq_job *jobs[3], *more;
    p->far.runner.max_in_flight = 1;
    wq_options options = options_of(p);
    options.store = &p->shelf.store;
    options.max_queue = 2;
    wq_queue *queue = open_with(&options);
    ask_many(queue, jobs, 3);
    atomic_store(&p->shelf.publish_result, WQ_ERROR_AWAY);
    for (size_t i = 0; i < 3; i++) {
        EVENTUALLY(p->far.n == i + 1);
        place_output(&p->far.runs[i]);
        end_run(&p->far, &p->far.runs[i], 0, 0, NULL);
    }
    /* a job that is being tried waits for nobody at that moment */
    EVENTUALLY(wq_ensure_run(queue, &params, 0, &more, NULL) == WQ_ERROR_FULL ||
               (wq_job_cancel(more), wq_job_unref(more), 0));
    wq_stop(queue);
    for (int i = 0; i < 3; i++)
        ends(jobs[i], WQ_STATE_CANCELLED, "the queue is stopping");
    for (size_t i = 3; i < p->far.n; i++)
        end_run(&p->far, &p->far.runs[i], -999, 1, NULL);
    wq_close(queue);
    assert_int_equal(p->shelf.discarded, 3);
}

/* A runner of the other kind, which is done at once. */
static void quick_run(void *self, const wq_run *run, wq_outcome *outcome)
{
    (void)self;
    (void)run;
    *outcome = (wq_outcome){0};
}

static void test_jobs_that_run_here_wait_for_the_store_too(void **state)
{
    place *p = *state;
    p->far.runner = (wq_runner){.self = &p->far, .run = quick_run, .close = far_close};
    atomic_store(&p->shelf.publish_result, WQ_ERROR_AWAY);
    wq_queue *queue = open_shelf(p);
    wq_job *jobs[5];
    ask_many(queue, jobs, 5); /* more than there are workers */
    for (int i = 0; i < 5; i++)
        EVENTUALLY(state_of(jobs[i]) == WQ_STATE_PUBLISHING);
    atomic_store(&p->shelf.publish_result, WQ_OK);
    for (int i = 0; i < 5; i++)
        ends(jobs[i], WQ_STATE_SUCCEEDED, NULL);
    wq_close(queue);
    assert_int_equal(p->far.closed, 1);
}

static void test_a_store_that_blocks(void **state)
{
    place *p = *state;
    p->shelf.store.blocks = 1;
    p->shelf.store.waits = 0;
    wq_queue *queue = open_shelf(p);
    wq_job *jobs[20];
    ask_many(queue, jobs, 20);
    EVENTUALLY(p->far.n == 20);
    for (size_t i = 0; i < 20; i++) {
        place_output(&p->far.runs[i]);
        end_run(&p->far, &p->far.runs[i], 0, 0, NULL);
    }
    for (int i = 0; i < 20; i++)
        ends(jobs[i], WQ_STATE_SUCCEEDED, NULL);
    wq_close(queue);
    assert_int_equal(p->shelf.publishes, 20); /* one each */
}

/* ---- asking without waiting ------------------------------------------------------------------ */

typedef struct answer {
    atomic_int told;
    int result;
    wq_job *job;
    int64_t made_at_ms;
    char message[200];
} answer;

static void take_answer(void *user, int result, wq_job *job, int64_t made_at_ms,
                        const wq_error *error)
{
    answer *a = user;
    a->result = result;
    a->job = job;
    a->made_at_ms = made_at_ms;
    if (error != NULL)
        snprintf(a->message, sizeof a->message, "%.199s", error->message);
    atomic_fetch_add(&a->told, 1);
}

static int ask_async(wq_queue *queue, const char *set, unsigned flags, wq_job **job, answer *a)
{
    wq_params params = {"http://server", set, TOKEN};
    int64_t made_at_ms;
    memset(a, 0, sizeof *a);
    return wq_ensure_run_async(queue, &params, flags, job, &made_at_ms, take_answer, a, NULL);
}

static void expect(answer *a, int result, int has_job)
{
    EVENTUALLY(a->told == 1);
    assert_int_equal(a->result, result);
    assert_int_equal(a->job != NULL, has_job);
    assert_int_equal(a->made_at_ms, result == WQ_DONE ? 1234567 : 0);
    assert_int_equal(a->message[0] != 0, result < 0);
    wq_job_unref(a->job);
}

static void asks_without_waiting(place *p, const char *journal)
{
    answer a, b;
    wq_job *job = NULL, *running;
    p->shelf.store.blocks = 1;
    p->far.yields = 1;
    wq_options options = options_of(p);
    options.store = &p->shelf.store;
    options.journal_path = journal;
    wq_queue *queue = open_with(&options);
    pthread_mutex_lock(&p->shelf.hold);
    assert_int_equal(ask_async(queue, "1", 0, &job, &a), WQ_PENDING);
    assert_int_equal(ask_async(queue, "1", 0, &job, &b), WQ_PENDING);
    EVENTUALLY(p->shelf.finds == 2);
    assert_int_equal(a.told + b.told, 0);
    pthread_mutex_unlock(&p->shelf.hold);
    EVENTUALLY(a.told && b.told);
    assert_true(a.result == WQ_OK || b.result == WQ_OK); /* one begins, one joins */
    expect(&a, b.result == WQ_OK ? WQ_ATTACHED : WQ_OK, 1);
    expect(&b, a.result == WQ_OK ? WQ_ATTACHED : WQ_OK, 1);
    assert_int_equal(ask_async(queue, "1", 0, &running, &a), WQ_ATTACHED); /* at once */
    assert_int_equal(p->shelf.finds, 2);
    shelf_put(&p->shelf, wq_job_key(running));
    end_run(&p->far, out(&p->far, "1"), 0, 0, NULL);
    ends(running, WQ_STATE_SUCCEEDED, NULL);
    assert_int_equal(ask_async(queue, "1", 0, &job, &a), WQ_PENDING);
    expect(&a, WQ_DONE, 0);
    assert_int_equal(ask_async(queue, "1", WQ_ENSURE_JOB, &job, &a), WQ_PENDING);
    expect(&a, WQ_DONE, 1);
    atomic_store(&p->shelf.find_result, WQ_ERROR_AWAY);
    assert_int_equal(ask_async(queue, "2", 0, &job, &a), WQ_PENDING);
    expect(&a, WQ_ERROR_AWAY, 0);
    assert_int_equal(ask_async(queue, "", 0, &job, &a), WQ_ERROR_INVALID_ARGUMENT);
    assert_null(job);
    wq_close(queue);
}

static void test_asking_a_store_that_blocks(void **state)
{
    asks_without_waiting(*state, NULL);
}

static void test_asking_a_store_that_blocks_with_a_journal(void **state)
{
    place *p = *state;
    asks_without_waiting(p, p->journal);
}

static void *close_it(void *queue)
{
    wq_close(queue);
    return NULL;
}

static void test_closed_while_asking(void **state)
{
    enum { N = 10 };
    place *p = *state;
    answer answers[N], more;
    wq_job *job;
    pthread_t closer;
    p->shelf.store.blocks = 1;
    p->far.yields = 1;
    wq_options options = options_of(p);
    options.store = &p->shelf.store;
    options.max_queue = N - 4; /* those that the threads have do not wait */
    wq_queue *queue = open_with(&options);
    pthread_mutex_lock(&p->shelf.hold);
    for (int i = 0; i < N; i++) {
        char set[16];
        snprintf(set, sizeof set, "%d", i);
        assert_int_equal(ask_async(queue, set, 0, &job, &answers[i]), WQ_PENDING);
        EVENTUALLY(p->shelf.finds == (i < 4 ? i + 1 : 4));
    }
    assert_int_equal(ask_async(queue, "more", 0, &job, &more), WQ_ERROR_FULL);
    wq_stop(queue);
    atomic_store(&p->shelf.find_result, WQ_ERROR_AWAY); /* as stores say when they are stopped */
    pthread_create(&closer, NULL, close_it, queue);
    pthread_mutex_unlock(&p->shelf.hold);
    pthread_join(closer, NULL);
    for (int i = 0; i < N; i++)
        expect(&answers[i], WQ_ERROR_CLOSING, 0);
}

/* Whoever asks for a key is told although others end all the time. */
static void test_others_that_end_do_not_keep_one_from_asking(void **state)
{
    place *p = *state;
    p->far.yields = 1;
    wq_queue *queue = open_shelf(p);
    wq_job *jobs[20];
    ask_many(queue, jobs, 20);
    memcpy(p->shelf.ends, jobs, sizeof jobs);
    p->shelf.n_ends = 20;
    int before = p->shelf.finds;
    wq_job_unref(ask(queue, "slow"));
    assert_in_range(p->shelf.finds - before, 1, 3); /* not one for each that has ended */
    p->shelf.n_ends = 0;
    for (int i = 0; i < 20; i++) {
        wq_job_cancel(jobs[i]);
        ends(jobs[i], WQ_STATE_CANCELLED, "cancelled");
    }
    wq_stop(queue);
    wq_close(queue);
}

static void test_asking_where_nothing_may_wait(void **state)
{
    place *p = *state;
    answer a;
    wq_job *job;
    p->shelf.store.blocks = 1;
    p->far.yields = 1;
    wq_options options = options_of(p);
    options.store = &p->shelf.store;
    options.max_queue = 0;
    wq_queue *queue = open_with(&options);
    assert_int_equal(ask_async(queue, "1", 0, &job, &a), WQ_PENDING);
    expect(&a, WQ_OK, 1);
    wq_close(queue);
}

static void test_bounds_beyond_all_numbers(void **state)
{
    place *p = *state;
    wq_job *jobs[5];
    p->far.yields = 1;
    p->far.runner.max_in_flight = 2;
    wq_options options = options_of(p);
    options.journal_path = p->journal;
    options.max_queue = options.max_ended = SIZE_MAX;
    wq_queue *queue = open_with(&options);
    ask_many(queue, jobs, 5);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(wq_job_cancel(jobs[i]), WQ_OK);
        ends(jobs[i], WQ_STATE_CANCELLED, "cancelled");
    }
    wq_close(queue);
}

/* Runs that end faster than outputs are published do not gather without bound. */
static void test_what_is_to_be_published_is_bounded(void **state)
{
    enum { MAX = 5 };
    place *p = *state;
    wq_params params = {"http://server", NULL, TOKEN};
    char set[16];
    int result = WQ_OK, n = 0;
    p->far.runner.max_in_flight = 1;
    wq_options options = options_of(p);
    options.store = &p->shelf.store;
    options.max_queue = MAX;
    wq_queue *queue = open_with(&options);
    pthread_mutex_lock(&p->shelf.hold);
    for (; n < 4 * MAX && result == WQ_OK; n++) {
        wq_job *job = NULL;
        snprintf(set, sizeof set, "%d", n);
        params.document_set_id = set;
        /* which does not look for it */
        result = wq_ensure_run(queue, &params, WQ_ENSURE_REBUILD, &job, NULL);
        if (result == WQ_OK) {
            shelf_put(&p->shelf, wq_job_key(job));
            end_run(&p->far, out(&p->far, set), 0, 0, NULL);
        }
        wq_job_unref(job);
    }
    assert_int_equal(result, WQ_ERROR_FULL);
    assert_int_equal(n, MAX + 2); /* one runs, and this one is too many */
    pthread_mutex_unlock(&p->shelf.hold);
    wq_close(queue);
}

/* With an id that can be asked for. */
static void test_a_job_for_an_output_stays_known_for_a_while(void **state)
{
    place *p = *state;
    wq_params params = {"http://server", "1", TOKEN};
    char key[WQ_KEY_SIZE];
    wq_job *first, *again, *later, *found;
    wq_options options = options_of(p);
    options.store = &p->shelf.store;
    options.retain_ended_ms = 2000;
    wq_queue *queue = open_with(&options);
    assert_int_equal(wq_params_key(&params, key), WQ_OK);
    shelf_put(&p->shelf, key);
    assert_int_equal(wq_ensure_run(queue, &params, WQ_ENSURE_JOB, &first, NULL), WQ_DONE);
    assert_int_equal(wq_ensure_run(queue, &params, WQ_ENSURE_JOB, &again, NULL), WQ_DONE);
    assert_ptr_equal(first, again);
    EVENTUALLY(wq_job_by_id(queue, wq_job_id(first), &found) == WQ_ERROR_NOT_FOUND ||
               (wq_job_unref(found), 0));
    assert_int_equal(wq_ensure_run(queue, &params, WQ_ENSURE_JOB, &later, NULL), WQ_DONE);
    assert_int_equal(wq_job_by_id(queue, wq_job_id(later), &found), WQ_OK);
    wq_job_unref(found);
    wq_job_unref(later);
    wq_job_unref(again);
    wq_job_unref(first);
    wq_close(queue);
}

static void test_abandoned(void **state)
{
    place *p = *state;
    wq_params params = {"http://server", "1", TOKEN};
    wq_job *job, *again, *other;
    p->far.yields = 1;
    wq_queue *queue = open_plain(p);
    assert_int_equal(wq_ensure_run(queue, &params, WQ_ENSURE_TENTATIVE, &job, NULL), WQ_OK);
    assert_int_equal(wq_ensure_run(queue, &params, 0, &again, NULL), WQ_ATTACHED);
    assert_int_equal(wq_job_abandon(job), WQ_DONE); /* somebody insists */
    assert_int_equal(wq_job_cancel(job), WQ_OK);
    wq_job_unref(again);
    ends(job, WQ_STATE_CANCELLED, "cancelled");
    assert_int_equal(wq_ensure_run(queue, &params, WQ_ENSURE_TENTATIVE, &job, NULL), WQ_OK);
    assert_int_equal(wq_job_abandon(job), WQ_OK);
    assert_int_equal(wq_ensure_run(queue, &params, 0, &other, NULL), WQ_OK);
    ends(job, WQ_STATE_CANCELLED, "cancelled");
    assert_int_equal(wq_job_cancel(other), WQ_OK);
    ends(other, WQ_STATE_CANCELLED, "cancelled");
    wq_close(queue);
}

/* ---- stop and close -------------------------------------------------------------------------- */

static void test_without_a_journal_what_is_out_is_cancelled(void **state)
{
    place *p = *state;
    pthread_t closer;
    wq_queue *queue = open_plain(p);
    wq_job *waits = ask(queue, "1"), *runs = ask(queue, "2");
    begin(out(&p->far, "2"), 0);
    pthread_create(&closer, NULL, close_it, queue);
    ends(waits, WQ_STATE_CANCELLED, "the queue is stopping");
    EVENTUALLY(p->far.runs[0].cancels == 1 && p->far.runs[1].cancels == 1);
    assert_int_equal(p->far.closed, 0);
    end_run(&p->far, &p->far.runs[0], -999, 1, NULL);
    end_run(&p->far, &p->far.runs[1], -999, 1, NULL);
    ends(runs, WQ_STATE_CANCELLED, "the queue is stopping");
    pthread_join(closer, NULL);
    assert_int_equal(p->far.closed, 1);
}

static void test_with_a_journal_what_is_out_goes_on(void **state)
{
    place *p = *state;
    char ids[3][WQ_ID_SIZE];
    wq_job *jobs[4];
    wq_queue *queue = open_journal(p);
    ask_many(queue, jobs, 4);
    for (int i = 0; i < 3; i++)
        memcpy(ids[i], wq_job_id(jobs[i]), WQ_ID_SIZE);
    begin(out(&p->far, "1"), 0);
    say(out(&p->far, "1"), "0.5");
    write_output(out(&p->far, "1"), "half");
    begin(out(&p->far, "3"), 0);
    assert_int_equal(wq_job_cancel(jobs[3]), WQ_OK);
    EVENTUALLY(p->far.runs[3].cancels == 1);
    wq_close(queue); /* does not wait for those that are out */
    for (int i = 0; i < 3; i++)
        ends(jobs[i], WQ_STATE_CANCELLED, "runs when it is open again");
    ends(jobs[3], WQ_STATE_CANCELLED, "cancelled");
    for (int i = 0; i < 3; i++)
        assert_int_equal(p->far.runs[i].cancels, 0);
    assert_int_equal(p->far.closed, 1);

    far_init(&p->far);
    queue = open_journal(p);
    EVENTUALLY(p->far.n == 3);
    for (int i = 0; i < 3; i++) {
        assert_true(p->far.runs[i].resumed);
        assert_string_equal(p->far.runs[i].id, ids[i]);
        assert_int_equal(wq_job_by_id(queue, ids[i], &jobs[i]), WQ_OK);
        write_output(&p->far.runs[i], "whole");
        end_run(&p->far, &p->far.runs[i], 0, 0, NULL);
        ends(jobs[i], WQ_STATE_SUCCEEDED, NULL);
    }
    wq_close(queue);
}

static void test_with_a_journal_what_waits_for_the_store_is_kept(void **state)
{
    place *p = *state;
    char id[WQ_ID_SIZE];
    wq_options options = options_of(p);
    options.store = &p->shelf.store;
    options.journal_path = p->journal;
    wq_queue *queue = open_with(&options);
    wq_job *job = ask(queue, "1");
    memcpy(id, wq_job_id(job), sizeof id);
    far_run *r = out(&p->far, "1");
    atomic_store(&p->shelf.publish_result, WQ_ERROR_AWAY);
    place_output(r);
    end_run(&p->far, r, 0, 0, NULL);
    EVENTUALLY(p->shelf.publishes > 0);
    wq_close(queue);
    ends(job, WQ_STATE_CANCELLED, "runs when it is open again");
    assert_int_equal(p->shelf.discarded, 1);

    far_init(&p->far);
    shelf_init(&p->shelf);
    queue = open_with(&options);
    assert_string_equal(out(&p->far, "1")->id, id);
    assert_int_equal(wq_job_by_id(queue, id, &job), WQ_OK);
    shelf_put(&p->shelf, wq_job_key(job));
    end_run(&p->far, out(&p->far, "1"), 0, 0, NULL);
    ends(job, WQ_STATE_SUCCEEDED, NULL);
    wq_close(queue);
}

/* ---- who looks ------------------------------------------------------------------------------- */

static void *wait_for(void *job)
{
    wq_job_wait(job, DEADLINE_MS);
    return NULL;
}

static void test_the_runner_knows_who_looks(void **state)
{
    place *p = *state;
    wq_watch *watch;
    pthread_t waiter;
    atomic_int told = 0;
    wq_queue *queue = open_plain(p);
    wq_job *job = ask(queue, "1");
    far_run *r = out(&p->far, "1");
    assert_false(r->run->watched(r->run->user));
    assert_int_equal(p->far.interests, 0);
    assert_int_equal(state_of(job), WQ_STATE_QUEUED); /* a look */
    assert_int_equal(p->far.interests, 1);
    state_of(job); /* soon again: said already */
    assert_true(p->far.interests <= 2);
    assert_int_equal(wq_job_watch(job, mark, &told, &watch), WQ_OK);
    assert_true(r->run->watched(r->run->user));
    wq_watch_cancel(watch);
    assert_false(r->run->watched(r->run->user));
    pthread_create(&waiter, NULL, wait_for, job);
    EVENTUALLY(r->run->watched(r->run->user));
    end_run(&p->far, r, 1, 0, "enough");
    pthread_join(waiter, NULL);
    ends(job, WQ_STATE_FAILED, "enough");
    wq_close(queue);
}

/* ---- all at once ----------------------------------------------------------------------------- */

enum { CROWD = 600, ACTORS = 3 };

typedef struct actor {
    far *far;
    unsigned seed;
    atomic_int *stop;
} actor;

/* Does to whatever is out whatever may be done to it. */
static void *act(void *arg)
{
    actor *a = arg;
    far *f = a->far;
    while (!atomic_load(a->stop)) {
        size_t n = atomic_load(&f->n), i = n ? (unsigned)rand_r(&a->seed) % n : 0;
        const char *path;
        pthread_mutex_lock(&f->lock); /* as long as it is held the run has not ended */
        const wq_run *run = f->runs[i].run;
        int what = rand_r(&a->seed) % 5;
        if (run != NULL && what == 0)
            run->begun(run->user, 10);
        if (run != NULL && what == 1)
            run->report(run->user, "0.5\thalf", 8);
        if (run != NULL && what == 2)
            run->output(run->user, &path, NULL);
        pthread_mutex_unlock(&f->lock);
        if (n > 0 && what > 2)
            end_run(f, &f->runs[i], what - 3, 0, what == 4 ? "failed" : NULL);
    }
    return NULL;
}

static void crowd(place *p, wq_queue *queue)
{
    wq_job *jobs[CROWD];
    pthread_t threads[ACTORS];
    actor actors[ACTORS];
    atomic_int stop = 0;
    for (unsigned i = 0; i < ACTORS; i++) {
        actors[i] = (actor){&p->far, i + 1, &stop};
        pthread_create(&threads[i], NULL, act, &actors[i]);
    }
    for (int i = 0; i < CROWD; i++) {
        char set[16];
        snprintf(set, sizeof set, "%d", i);
        jobs[i] = ask(queue, set);
        if (i % 7 == 3)
            wq_job_cancel(jobs[i]);
        state_of(jobs[i / 2]);
    }
    for (int i = 0; i < CROWD - 20; i++)
        assert_int_equal(wq_job_wait(jobs[i], DEADLINE_MS), WQ_OK);
    wq_stop(queue);
    for (int i = 0; i < CROWD; i++)
        assert_int_equal(wq_job_wait(jobs[i], DEADLINE_MS), WQ_OK);
    wq_stats stats;
    wq_queue_stats(queue, &stats);
    assert_int_equal(stats.succeeded + stats.failed + stats.cancelled, CROWD);
    assert_int_equal(stats.queued + stats.running + stats.publishing, 0);
    EVENTUALLY(({
        size_t still = 0;
        for (size_t i = 0; i < p->far.n; i++) {
            pthread_mutex_lock(&p->far.lock);
            still += p->far.runs[i].run != NULL;
            pthread_mutex_unlock(&p->far.lock);
        }
        still == 0;
    }));
    atomic_store(&stop, 1);
    for (unsigned i = 0; i < ACTORS; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < CROWD; i++)
        wq_job_unref(jobs[i]);
    wq_close(queue);
}

static void test_all_at_once(void **state)
{
    place *p = *state;
    p->far.yields = 1;
    p->far.runner.max_in_flight = 50;
    crowd(p, open_plain(p));
}

static void test_all_at_once_with_a_journal(void **state)
{
    place *p = *state;
    p->far.yields = 1;
    crowd(p, open_journal(p));
}

/* ---- ends beside a stop ---------------------------------------------------------------------- */

enum { ENDERS = 3, RUNS = 100, ROUNDS = 5 };

static _Thread_local int dawdles;

/* A thread that dawdles is slow to come to a lock, so that others get in between. ThreadSanitizer
 * would not know the locks any more. */
#ifndef __SANITIZE_THREAD__
__attribute__((visibility("default"))) int pthread_mutex_lock(pthread_mutex_t *mutex)
{
    static int (*_Atomic lock)(pthread_mutex_t *);
    if (lock == NULL)
        lock = (int (*)(pthread_mutex_t *))dlsym(RTLD_NEXT, "pthread_mutex_lock");
    if (dawdles)
        usleep(200);
    return lock(mutex);
}
#endif

typedef struct ender {
    far *far;
    atomic_int *go; /* so many runs may be ended */
    int first;
} ender;

static void *end_some(void *arg)
{
    const ender *e = arg;
    dawdles = 1;
    for (int i = e->first; i < RUNS; i += ENDERS) {
        while (atomic_load(e->go) <= i)
            ;
        end_run(e->far, &e->far->runs[i], 0, 0, NULL);
    }
    return NULL;
}

static void let_next_end(void *user)
{
    atomic_fetch_add((atomic_int *)user, 1);
}

/* Runs end just when a stop comes to them. What has succeeded is published, or runs again: its end
 * comes once. */
static void stop_while_runs_end(place *p, int store_away)
{
    wq_job *jobs[RUNS];
    wq_watch *watches[RUNS];
    for (int round = 0; round < ROUNDS; round++) {
        wq_options options = options_of(p);
        atomic_int go = ENDERS;
        ender enders[ENDERS];
        pthread_t threads[ENDERS];
        char set[32];
        options.journal_path = p->journal;
        options.store = &p->shelf.store;
        p->far.n = 0;
        atomic_store(&p->shelf.find_result, 0);
        wq_queue *queue = open_with(&options);
        for (int i = 0; i < RUNS; i++) {
            snprintf(set, sizeof set, "%d", i);
            jobs[i] = ask(queue, set);
        }
        EVENTUALLY(atomic_load(&p->far.n) >= RUNS);
        for (int i = 0; i < RUNS; i++) {
            begin(&p->far.runs[i], 0);
            assert_int_equal(wq_job_watch(jobs[i], let_next_end, &go, &watches[i]), WQ_OK);
        }
        atomic_store(&p->shelf.find_result, store_away ? WQ_ERROR_AWAY : 0);
        for (int i = 0; i < ENDERS; i++) {
            enders[i] = (ender){&p->far, &go, i};
            pthread_create(&threads[i], NULL, end_some, &enders[i]);
        }
        dawdles = 1;
        wq_stop(queue);
        dawdles = 0;
        atomic_store(&go, RUNS);
        for (int i = 0; i < ENDERS; i++)
            pthread_join(threads[i], NULL);
        for (int i = 0; i < RUNS; i++)
            wq_watch_cancel(watches[i]);
        wq_close(queue);
        for (int i = 0; i < RUNS; i++) {
            assert_int_equal(wq_job_wait(jobs[i], 0), WQ_OK);
            wq_job_unref(jobs[i]);
        }
        unlink(p->journal);
    }
}

static void test_runs_end_while_the_queue_stops(void **state)
{
    stop_while_runs_end(*state, 0);
}

static void test_runs_end_while_the_queue_stops_and_the_store_is_away(void **state)
{
    stop_while_runs_end(*state, 1);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_a_job_from_start_to_end),
        TEST(test_ended_before_it_began),
        TEST(test_a_report_says_that_it_began),
        TEST(test_a_start_that_fails),
        TEST(test_progress_never_goes_backwards),
        TEST(test_an_output_that_is_in_the_store),
        TEST(test_outputs_of_failed_runs_are_removed),
        TEST(test_too_long_an_output),
        TEST(test_a_rebuild_says_so),
        TEST(test_so_many_are_out),
        TEST(test_positions_count_what_was_started),
        TEST(test_a_begin_out_of_order_is_news_of_positions),
        TEST(test_cancel_of_one_not_started),
        TEST(test_cancel_of_one_started),
        TEST(test_cancel_of_one_that_runs),
        TEST(test_a_run_that_succeeds_all_the_same),
        TEST(test_cancel_of_one_that_has_timed_out),
        TEST(test_a_run_that_is_cancelled_elsewhere),
        TEST(test_time_limits),
        TEST(test_the_store_is_away_for_a_while),
        TEST(test_what_waits_for_the_store_is_bounded),
        TEST(test_jobs_that_run_here_wait_for_the_store_too),
        TEST(test_a_store_that_blocks),
        TEST(test_asking_a_store_that_blocks),
        TEST(test_asking_a_store_that_blocks_with_a_journal),
        TEST(test_closed_while_asking),
        TEST(test_others_that_end_do_not_keep_one_from_asking),
        TEST(test_asking_where_nothing_may_wait),
        TEST(test_bounds_beyond_all_numbers),
        TEST(test_what_is_to_be_published_is_bounded),
        TEST(test_a_job_for_an_output_stays_known_for_a_while),
        TEST(test_abandoned),
        TEST(test_without_a_journal_what_is_out_is_cancelled),
        TEST(test_with_a_journal_what_is_out_goes_on),
        TEST(test_with_a_journal_what_waits_for_the_store_is_kept),
        TEST(test_the_runner_knows_who_looks),
        TEST(test_all_at_once),
        TEST(test_all_at_once_with_a_journal),
        TEST(test_runs_end_while_the_queue_stops),
        TEST(test_runs_end_while_the_queue_stops_and_the_store_is_away),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

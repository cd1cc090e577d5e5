/* test_life.c - the life of jobs against random events: one thread, a journal and a publisher that
 * only remember, and after each event everything recounted. The laws:
 *
 *   - a cancel that was answered with yes never ends as a success;
 *   - a rebuild that was promised began after it was asked for;
 *   - every admitted job ends exactly once;
 *   - nothing is told before the journal has it.
 *
 * WQ_LIFE_STEPS in the environment says how many events there are in all.
 */
#include "tests/support.h"
#include "workqueue/core/admit.h"
#include "workqueue/core/life.h"
#include "workqueue/core/wishes.h"

enum { KEYS = 5, ASKS = 4000, RUNS = 3, JOBS = 4096 };

/* What the test knows of a job. */
typedef struct seen {
    wq_job *job; /* counted */
    unsigned ends;
    int admitted, was_cancelled, is_rebuild;
    int journal_has_end;
    uint64_t asked, began; /* when, in steps */
} seen;

typedef struct asked {
    wq_ask ask;
    struct world *world;
    int used, rebuild;
    uint64_t at;
} asked;

typedef struct world {
    wq_queue *queue;
    uint64_t random, step;
    int has_journal, is_async;
    seen jobs[JOBS];
    size_t n_jobs;
    wq_entry *entries[JOBS]; /* that the journal is to write */
    size_t n_entries;
    wq_run_state runs[RUNS];
    wq_job *handed[JOBS]; /* counted: with the publisher */
    size_t n_handed;
    asked questions[ASKS];
    unsigned long n_ended, n_refused;
} world;

static world *the_world; /* of this one thread: the recorder is handed no more than a journal */

static uint64_t draw(world *w, uint64_t below)
{
    w->random = w->random * 6364136223846793005U + 1442695040888963407U;
    return (w->random >> 33) % below;
}

static seen *seen_of(world *w, const wq_job *job)
{
    for (size_t i = 0; i < w->n_jobs; i++)
        if (w->jobs[i].job == job)
            return &w->jobs[i];
    seen *s = &w->jobs[w->n_jobs++];
    assert_true(w->n_jobs <= JOBS);
    *s = (seen){.job = wq_job_ref((wq_job *)job)};
    return s;
}

/* ---- a journal that only remembers ----------------------------------------------------------- */

static int remember_entry(struct wq_journal *self, wq_entry *entry, wq_want want, int rebuild,
                          const wq_entry_end *end, wq_company company)
{
    world *w = the_world;
    (void)self, (void)company;
    entry->want = want;
    entry->want_rebuild = rebuild;
    if (end != NULL)
        wq_text_unref(end->error);
    if (entry->listed)
        return 0;
    entry->listed = WQ_LISTED_SOON;
    w->entries[w->n_entries++] = entry;
    return 1;
}

static void remember_flush(struct wq_journal *self)
{
    (void)self;
}

static void write_entry(world *w, size_t at, int fails)
{
    static const wq_error full = {WQ_ERROR_SYSTEM, "the disk is full"};
    wq_entry *entry = w->entries[at];
    wq_job *job = (wq_job *)((char *)entry - offsetof(wq_job, entry));
    wq_written told = {.what = WQ_WRITTEN_OTHER,
                       .result = fails ? WQ_ERROR_SYSTEM : WQ_OK,
                       .rebuild = entry->want_rebuild,
                       .is_last = 1,
                       .error = fails ? &full : NULL};
    seen *s = seen_of(w, job);
    if (entry->have == WQ_WANT_NOTHING)
        told.what = WQ_WRITTEN_ADDED;
    else if (entry->want == WQ_WANT_ENDED)
        told.what = WQ_WRITTEN_END;
    if (told.what == WQ_WRITTEN_END)
        s->journal_has_end = 1; /* or never will, which it says */
    if (!fails)
        entry->have = entry->want;
    w->entries[at] = w->entries[--w->n_entries];
    entry->listed = WQ_UNLISTED;
    wq_life_written(w->queue, entry, &told);
}

/* ---- the laws -------------------------------------------------------------------------------- */

/* Called at each change of a job: an end is told once, and only when the journal has it. */
static void on_news(void *user)
{
    world *w = the_world;
    seen *s = user;
    if (s->job->state < WQ_STATE_SUCCEEDED)
        return;
    s->ends++;
    w->n_ended++;
    assert_int_equal(s->ends, 1);
    assert_false(s->was_cancelled && s->job->state == WQ_STATE_SUCCEEDED);
    if (w->has_journal && !s->job->resumes)
        assert_true(s->journal_has_end);
}

static int is_waiting(wq_phase phase)
{
    return phase == WQ_PHASE_BLOCKED || phase == WQ_PHASE_WAITING || phase == WQ_PHASE_SENT;
}

/* Everything that is counted or listed is counted and looked for anew. */
static void check_everything(world *w)
{
    wq_queue *q = w->queue;
    size_t n[WQ_PHASES] = {0}, in_order = 0, ready = 0, ended = 0, in_lines = 0, listed = 0;
    for (size_t i = 0; i < w->n_jobs; i++) {
        wq_job *job = w->jobs[i].job;
        n[job->phase]++;
        in_order += (size_t)is_waiting(job->phase);
        ready += job->phase == WQ_PHASE_WAITING;
        ended += job->phase == WQ_PHASE_ENDED;
        in_lines += job->phase > WQ_PHASE_NEW && job->phase < WQ_PHASE_ENDED;
        assert_true((job->run != NULL) ==
                    (job->phase == WQ_PHASE_SENT || job->phase == WQ_PHASE_STARTING ||
                     job->phase == WQ_PHASE_RUNNING));
        if (job->run != NULL)
            assert_ptr_equal(job->run->job, job);
        assert_true(job->phase == WQ_PHASE_ENDED || job->phase == WQ_PHASE_GONE ||
                    job->state < WQ_STATE_SUCCEEDED);
        if (job->phase != WQ_PHASE_NEW && job->phase != WQ_PHASE_GONE)
            assert_ptr_equal(wq_known_by_id(&q->known, job->id), job);
    }
    for (int phase = WQ_PHASE_ADMITTING; phase <= WQ_PHASE_ENDED; phase++)
        assert_int_equal(q->n[phase], n[phase]);
    assert_int_equal(wq_order_n_ready(&q->order), ready);
    assert_int_equal(q->n_ready, ready);
    assert_int_equal(q->order.root != NULL ? q->order.root->size : 0, in_order);
    assert_int_equal(q->known.n_ended, ended);
    wq_job *job;
    TAILQ_FOREACH(job, &q->by_age, by_age)
    listed++;
    assert_int_equal(listed, in_order);
    /* only the head of a line waits or runs */
    for (unsigned key = 0; key < KEYS; key++) {
        char set[8], hex[WQ_KEY_SIZE];
        snprintf(set, sizeof set, "%u", key);
        assert_int_equal(wq_params_key(&(wq_params){"http://s", set, "t"}, hex), WQ_OK);
        job = (wq_job *)wq_table_find(&q->by_key, hex);
        for (int is_head = 1; job != NULL; job = job->behind, is_head = 0) {
            in_lines--;
            assert_true(is_head || job->phase == WQ_PHASE_BLOCKED ||
                        job->phase == WQ_PHASE_ADMITTING || job->phase == WQ_PHASE_SETTLING);
            assert_false(is_head && job->phase == WQ_PHASE_BLOCKED);
        }
    }
    assert_int_equal(in_lines, 0);
}

/* ---- events ---------------------------------------------------------------------------------- */

static void promise(world *w, wq_job *job, const asked *question)
{
    seen *s = seen_of(w, job);
    if (question->rebuild && s->ends == 0 && s->began > question->at)
        return; /* it began meanwhile, after it was asked for */
    if (question->rebuild && job->phase < WQ_PHASE_ENDED) {
        assert_true(job->rebuild);
        assert_true(s->began == 0 || s->began > question->at);
    }
}

static void on_answer(void *user, int result, wq_job *job, int64_t made_at_ms,
                      const wq_error *error)
{
    asked *question = user;
    (void)made_at_ms;
    question->used = 0;
    question->world->n_refused += result < 0;
    assert_true((result < 0) == (error != NULL));
    if (result >= 0)
        promise(question->world, job, question);
    wq_job_unref(job);
}

static asked *free_question(world *w)
{
    for (size_t i = 0; i < ASKS; i++)
        if (!w->questions[i].used)
            return &w->questions[i];
    return NULL;
}

static void watch(world *w, wq_job *job)
{
    seen *s = seen_of(w, job);
    wq_watch *watch;
    if (s->admitted)
        return;
    s->admitted = 1;
    assert_int_equal(wq_job_watch(job, on_news, s, &watch), WQ_OK);
}

static void ask_for_job(world *w)
{
    asked *question = free_question(w);
    char set[8], key[WQ_KEY_SIZE];
    wq_error error = {0};
    wq_job *given = NULL, *new;
    wq_effects effects;
    if (question == NULL || w->n_jobs + 2 > JOBS)
        return;
    snprintf(set, sizeof set, "%u", (unsigned)draw(w, KEYS));
    const wq_params params = {"http://s", set, "t"};
    assert_int_equal(wq_params_key(&params, key), WQ_OK);
    unsigned flags = draw(w, 3) == 0 ? WQ_ENSURE_REBUILD : 0;
    *question = (asked){.ask = {.cb = on_answer, .user = question},
                        .world = w,
                        .used = 1,
                        .rebuild = flags != 0,
                        .at = w->step};
    new = wq_job_new(w->queue, &params, key);
    wq_effects_init(&effects);
    pthread_mutex_lock(&w->queue->lock);
    wq_job *job = wq_life_joinable_locked(w->queue, key, flags);
    int result;
    if (job != NULL) {
        result = wq_life_join_locked(w->queue, job, flags, &question->ask, WQ_ATTACHED, &given);
    } else {
        new->rebuild = flags != 0;
        result = wq_life_admit_locked(w->queue, new, &question->ask, &effects, &error);
        if (result >= 0)
            seen_of(w, new);
        if (result == WQ_OK)
            given = wq_job_ref(new);
    }
    pthread_mutex_unlock(&w->queue->lock);
    if (result >= 0 && job == NULL)
        watch(w, new);
    wq_effects_carry_out(w->queue, &effects);
    if (result != WQ_PENDING)
        question->used = 0;
    if (given != NULL)
        promise(w, given, question);
    wq_job_unref(given);
    wq_job_unref(new);
}

static void note_stop(wq_run_state *run)
{
    assert_true(run->stop_requested);
}

static void take(world *w)
{
    for (size_t i = 0; i < RUNS; i++) {
        wq_run_state *run = &w->runs[i];
        if (run->job != NULL)
            continue;
        run->request_stop = note_stop;
        wq_job *job = NULL;
        if (!w->is_async) {
            job = wq_life_take(w->queue, run, 0);
        } else {
            pthread_mutex_lock(&w->queue->lock);
            if (wq_life_has_ready_locked(w->queue) && !w->queue->stopping)
                job = wq_life_send_locked(w->queue, run);
            pthread_mutex_unlock(&w->queue->lock);
        }
        wq_job_unref(job); /* the core has it */
        return;
    }
}

static void begin(world *w, wq_run_state *run)
{
    wq_job *job = run->job;
    if (job != NULL && wq_life_begin(w->queue, run, 0))
        seen_of(w, job)->began = w->step;
}

static void end_run(world *w, wq_run_state *run)
{
    if (run->job == NULL)
        return;
    wq_job *job = wq_job_ref(run->job);
    int succeeds = draw(w, 2) == 0;
    if (succeeds && job->phase == WQ_PHASE_RUNNING) {
        if (wq_life_hand(w->queue, job))
            w->handed[w->n_handed++] = wq_job_ref(job);
    } else if (job->phase == WQ_PHASE_STARTING && succeeds && !job->rebuild) {
        wq_life_end(w->queue, job, WQ_STATE_SUCCEEDED, 0, NULL); /* its output was in place */
    } else if (job->phase != WQ_PHASE_SENT) {
        wq_life_end(w->queue, job, WQ_STATE_FAILED, 1, "Exited with code 1\nstderr:\n");
    }
    wq_job_unref(job);
}

static void publish(world *w)
{
    if (w->n_handed == 0)
        return;
    size_t at = draw(w, w->n_handed);
    wq_job *job = w->handed[at];
    uint64_t what = draw(w, 4);
    if (what == 0) {
        wq_life_put_off(w->queue, job);
        return;
    }
    w->handed[at] = w->handed[--w->n_handed];
    if (what == 1)
        wq_life_end(w->queue, job, WQ_STATE_FAILED, WQ_RETURNCODE_OWN, "no space left on device");
    else if (what == 2 && w->queue->stopping)
        wq_life_interrupt(w->queue, job);
    else
        wq_life_end(w->queue, job, WQ_STATE_SUCCEEDED, 0, NULL);
    wq_job_unref(job);
}

static wq_job *any_job(world *w)
{
    return w->n_jobs > 0 ? w->jobs[draw(w, w->n_jobs)].job : NULL;
}

static void cancel(world *w)
{
    wq_job *job = any_job(w);
    if (job == NULL || job->phase == WQ_PHASE_NEW)
        return;
    seen *s = seen_of(w, job);
    unsigned before = s->ends;
    int was_cancelled = s->was_cancelled;
    s->was_cancelled = before == 0; /* it may end within the call */
    if (wq_life_cancel(w->queue, job) != WQ_OK)
        s->was_cancelled = was_cancelled;
}

static void limit(world *w)
{
    wq_job *job = any_job(w);
    wq_effects effects;
    if (job == NULL)
        return;
    wq_effects_init(&effects);
    pthread_mutex_lock(&w->queue->lock);
    wq_life_limit_locked(w->queue, job, "timed out", &effects);
    pthread_mutex_unlock(&w->queue->lock);
    wq_effects_carry_out(w->queue, &effects);
}

static void write_some(world *w)
{
    if (w->n_entries > 0)
        write_entry(w, draw(w, w->n_entries), draw(w, 10) == 0);
}

/* What is gone for good is let go of, so that the world stays small. */
static void forget_gone(world *w)
{
    for (size_t i = w->n_jobs; i-- > 0;) {
        seen *s = &w->jobs[i];
        if (s->job->phase != WQ_PHASE_GONE || s->job->entry.listed)
            continue;
        wq_watch *watch;
        while ((watch = LIST_FIRST(&s->job->watchers.list)) != NULL)
            wq_watch_cancel(watch);
        wq_job_unref(s->job);
        *s = w->jobs[--w->n_jobs];
        if (i < w->n_jobs && (watch = LIST_FIRST(&s->job->watchers.list)) != NULL)
            watch->user = s; /* it has moved */
    }
}

static void do_something(world *w)
{
    uint64_t what = draw(w, 100);
    wq_run_state *run = &w->runs[draw(w, RUNS)];
    if (what < 25)
        ask_for_job(w);
    else if (what < 40)
        take(w);
    else if (what < 50)
        begin(w, run);
    else if (what < 60)
        end_run(w, run);
    else if (what < 68)
        publish(w);
    else if (what < 73)
        cancel(w);
    else if (what < 75)
        limit(w);
    else
        write_some(w);
}

/* ---- a world and its end --------------------------------------------------------------------- */

static void free_queue(wq_queue *queue)
{
    wq_life_dispose(queue);
    free(queue);
}

static world *new_world(uint64_t seed, int has_journal, int is_async, int fair)
{
    wq_options options;
    world *w = calloc(1, sizeof *w);
    assert_non_null(w);
    wq_options_init(&options, sizeof options);
    options.workers = RUNS;
    options.max_queue = 40;
    options.max_ended = 20;
    options.max_error_bytes = 1000;
    options.fair = fair;
    w->queue = calloc(1, sizeof *w->queue);
    assert_int_equal(wq_owner_init(w->queue, free_queue), 0);
    assert_int_equal(wq_life_init(w->queue, &options), 0);
    w->queue->asynchronous = w->is_async = is_async;
    w->has_journal = has_journal;
    w->random = seed;
    if (has_journal)
        w->queue->recorder = (wq_recorder){(struct wq_journal *)w, remember_entry, remember_flush};
    the_world = w;
    return w;
}

/* The queue stops: everything that was admitted ends, and is forgotten. */
static void end_world(world *w)
{
    wq_life_stop(w->queue);
    check_everything(w);
    for (size_t i = 0; i < RUNS; i++) {
        pthread_mutex_lock(&w->queue->lock);
        wq_life_stop_run_locked(&w->runs[i]);
        pthread_mutex_unlock(&w->queue->lock);
    }
    for (size_t i = 0; i < RUNS; i++)
        if (w->runs[i].job != NULL)
            wq_life_interrupt(w->queue, w->runs[i].job);
    while (w->n_handed > 0)
        publish(w);
    while (w->n_entries > 0)
        write_entry(w, 0, 0);
    check_everything(w);
    for (size_t i = 0; i < w->n_jobs; i++)
        assert_true(w->jobs[i].ends == 1 || w->jobs[i].job->phase == WQ_PHASE_GONE);
    wq_life_forget_all(w->queue);
    while (w->n_entries > 0)
        write_entry(w, 0, 0);
    forget_gone(w);
    assert_int_equal(w->n_jobs, 0);
    for (size_t i = 0; i < ASKS; i++)
        assert_false(w->questions[i].used);
    wq_owner_unref(w->queue);
    free(w);
}

static unsigned long steps = 400000;

static void live(int has_journal, int is_async, int fair)
{
    const unsigned long each = 2000;
    unsigned long ended = 0;
    for (unsigned long done = 0, seed = 1; done < steps / 8; done += each, seed++) {
        world *w = new_world(seed * 7919, has_journal, is_async, fair);
        for (w->step = 1; w->step <= each; w->step++) {
            do_something(w);
            check_everything(w);
            if (w->step % 64 == 0)
                forget_gone(w);
        }
        ended += w->n_ended;
        end_world(w);
    }
    assert_true(ended > steps / 200);
}

static void test_laws_without_a_journal(void **state)
{
    (void)state;
    live(0, 0, 0);
    live(0, 0, 1);
}

static void test_laws_with_a_journal(void **state)
{
    (void)state;
    live(1, 0, 0);
    live(1, 0, 1);
}

static void test_laws_of_what_runs_elsewhere(void **state)
{
    (void)state;
    live(0, 1, 0);
    live(1, 1, 0);
    live(1, 1, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_laws_without_a_journal),
        cmocka_unit_test(test_laws_with_a_journal),
        cmocka_unit_test(test_laws_of_what_runs_elsewhere),
    };
    if (getenv("WQ_LIFE_STEPS") != NULL)
        steps = strtoul(getenv("WQ_LIFE_STEPS"), NULL, 10);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* journal.c - the journal's thread: which entries share a transaction, and what is tried again. */
#include "workqueue/journal/journal.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "workqueue/journal/restore.h"
#include "workqueue/journal/writer.h"
#include "workqueue/util/threads.h"

enum {
    WRITE_BATCH = 512,
    RETRY_PAUSE_MS = 4, /* between commits, while every worker is busy: they cost less together */
    STOP_MS = 20,       /* a job that was stopped waits so long for company, */
    START_MS = 50,      /* and a start; the end of a short job overtakes it, which saves a write */
    RETRY_MS = 1000,    /* after a failure, for what nobody waits for */
};

TAILQ_HEAD(entry_list, wq_entry);

struct wq_journal {
    wq_logger logger;
    void *user;
    void (*written)(void *user, wq_entry *entry, const wq_written *written);
    pthread_t thread;
    int has_thread;
    atomic_ullong errors;

    /* the thread's, and before that the opener's */
    wq_writer writer;
    wq_change batch[WRITE_BATCH];
    atomic_int is_failing; /* logged once; the thread's to write */

    pthread_mutex_t lock;
    /* under the lock */
    pthread_cond_t due, settled; /* due: on CLOCK_MONOTONIC */
    struct entry_list soon;      /* new jobs and ends */
    struct entry_list later;     /* starts, oldest first */
    struct entry_list failed;    /* what could not be written, and nobody waits for any more */
    int64_t begun;               /* when it last took a batch */
    int64_t wake_at;             /* of soon and later; 0: nothing to do */
    int64_t retry_at;            /* of the failed ones; 0: there are none */
    int closing;
};

/* ---- lists ----------------------------------------------------------------------------------- */

static int64_t sooner_of(int64_t a, int64_t b)
{
    return a == 0 || (b != 0 && b < a) ? b : a;
}

static struct entry_list *list_of(wq_journal *j, int listed)
{
    return listed == WQ_LISTED_SOON ? &j->soon : listed == WQ_LISTED_LATER ? &j->later : &j->failed;
}

static void unlist_locked(wq_journal *j, wq_entry *entry)
{
    if (entry->listed != WQ_UNLISTED)
        TAILQ_REMOVE(list_of(j, entry->listed), entry, link);
    entry->listed = WQ_UNLISTED;
}

static void list_locked(wq_journal *j, wq_entry *entry, int listed)
{
    unlist_locked(j, entry);
    entry->since = wq_monotonic_ms();
    entry->listed = listed;
    TAILQ_INSERT_TAIL(list_of(j, listed), entry, link);
}

static void wake_locked(wq_journal *j, int64_t at)
{
    int64_t before = j->wake_at;
    j->wake_at = sooner_of(before, at);
    if (j->wake_at != before)
        pthread_cond_signal(&j->due);
}

static int64_t due_at_locked(const wq_journal *j, wq_company company)
{
    int64_t now = wq_monotonic_ms();
    if (company == WQ_COMPANY_STARTED)
        return now + START_MS;
    if (company == WQ_COMPANY_STOPPED)
        return now + STOP_MS;
    if (company == WQ_COMPANY_SHORT && j->begun + RETRY_PAUSE_MS > now)
        return j->begun + RETRY_PAUSE_MS;
    return now;
}

int wq_journal_write(wq_journal *j, wq_entry *entry, wq_want want, int rebuild,
                     const wq_entry_end *end, wq_company company)
{
    pthread_mutex_lock(&j->lock);
    int is_new = entry->listed == WQ_UNLISTED && !entry->in_batch;
    entry->want = want;
    entry->want_rebuild = rebuild;
    if (end != NULL)
        entry->end = *end;
    if (company == WQ_COMPANY_STARTED) {
        if (entry->listed == WQ_UNLISTED)
            list_locked(j, entry, WQ_LISTED_LATER);
    } else if (entry->listed != WQ_LISTED_SOON) {
        list_locked(j, entry, WQ_LISTED_SOON);
    }
    wake_locked(j, due_at_locked(j, company));
    pthread_mutex_unlock(&j->lock);
    return is_new;
}

void wq_journal_flush_soon(wq_journal *j)
{
    pthread_mutex_lock(&j->lock);
    if (!TAILQ_EMPTY(&j->soon))
        wake_locked(j, wq_monotonic_ms());
    pthread_mutex_unlock(&j->lock);
}

void wq_journal_wait_started(wq_journal *j, wq_entry *entry)
{
    pthread_mutex_lock(&j->lock);
    if (entry->listed == WQ_LISTED_LATER)
        list_locked(j, entry, WQ_LISTED_SOON);
    wake_locked(j, wq_monotonic_ms());
    while (entry->in_batch || entry->listed == WQ_LISTED_SOON || entry->listed == WQ_LISTED_LATER)
        pthread_cond_wait(&j->settled, &j->lock);
    pthread_mutex_unlock(&j->lock);
}

int wq_journal_is_failing(const wq_journal *j)
{
    return atomic_load(&j->is_failing);
}

uint64_t wq_journal_errors(const wq_journal *j)
{
    return atomic_load(&j->errors);
}

/* ---- batches --------------------------------------------------------------------------------- */

static wq_entry *next_entry_locked(wq_journal *j, int64_t now)
{
    wq_entry *entry = TAILQ_FIRST(&j->soon);
    if (entry == NULL)
        entry = TAILQ_FIRST(&j->later);
    if (entry != NULL && entry->listed == WQ_LISTED_LATER && entry->since + START_MS > now &&
        !j->closing)
        entry = NULL;
    if (entry == NULL && j->retry_at != 0 && (j->retry_at <= now || j->closing))
        entry = TAILQ_FIRST(&j->failed);
    return entry;
}

/* Takes what is due, and says when the next will be. */
static size_t take_batch_locked(wq_journal *j, int64_t now)
{
    size_t n = 0;
    wq_entry *entry;
    while (n < WRITE_BATCH && (entry = next_entry_locked(j, now)) != NULL) {
        unlist_locked(j, entry);
        entry->in_batch = 1;
        j->batch[n++] = (wq_change){.entry = entry,
                                    .have = entry->have,
                                    .want = entry->want,
                                    .rebuild = entry->want_rebuild,
                                    .end = entry->end};
        j->batch[n - 1].end.error = wq_text_ref(entry->end.error);
    }
    entry = TAILQ_FIRST(&j->later);
    j->wake_at = !TAILQ_EMPTY(&j->soon) ? now : entry != NULL ? entry->since + START_MS : 0;
    if (TAILQ_EMPTY(&j->failed))
        j->retry_at = 0;
    else if (n > 0 && j->retry_at <= now)
        j->retry_at =
            now + RETRY_MS; /* of those that did not fit; it is sooner if this goes well */
    return n;
}

/* The file has it. */
static void note_written(wq_journal *j, const wq_change *c)
{
    wq_entry *entry = c->entry;
    entry->have = c->want;
    entry->have_rebuild = c->rebuild;
    if (c->want == WQ_WANT_ENDED || c->want == WQ_WANT_ABSENT) {
        wq_slots_give(j->writer.slots, entry->slot);
        entry->slot = 0;
    }
}

/* What is not in the file, or not with certainty, is written later, as far as it matters. A new job
 * is refused, also to those who have joined it meanwhile. One that was done before it was asked for
 * only loses its id by a restart. */
static void keep_failed_locked(wq_journal *j, const wq_change *c)
{
    wq_entry *entry = c->entry;
    const int is_new = c->have == WQ_WANT_NOTHING, was_done = is_new && c->want == WQ_WANT_ENDED;
    if (is_new && !was_done)
        entry->want = WQ_WANT_ABSENT;
    if (j->closing || entry->listed != WQ_UNLISTED || was_done)
        return;
    list_locked(j, entry, WQ_LISTED_FAILED);
    if (j->retry_at == 0)
        j->retry_at = wq_monotonic_ms() + RETRY_MS;
}

static void settle_change(wq_journal *j, wq_change *c, int result, const wq_error *error)
{
    wq_entry *entry = c->entry;
    wq_written told = {.what = WQ_WRITTEN_OTHER,
                       .result = result,
                       .rebuild = result == WQ_OK ? c->rebuild : entry->have_rebuild,
                       .error = result == WQ_OK ? NULL : error};
    if (c->have == WQ_WANT_NOTHING && c->want != WQ_WANT_ABSENT)
        told.what = WQ_WRITTEN_ADDED;
    else if (c->want == WQ_WANT_ENDED)
        told.what = WQ_WRITTEN_END;
    if (result == WQ_OK)
        note_written(j, c);
    pthread_mutex_lock(&j->lock);
    entry->in_batch = 0;
    if (result != WQ_OK)
        keep_failed_locked(j, c);
    told.is_last = entry->listed == WQ_UNLISTED;
    wq_text *unneeded = NULL;
    if (told.is_last || (c->want == WQ_WANT_ENDED && result == WQ_OK)) {
        unneeded = entry->end.error;
        entry->end.error = NULL;
    }
    pthread_mutex_unlock(&j->lock);
    wq_text_unref(unneeded);
    wq_text_unref(c->end.error);
    j->written(j->user, entry, &told);
}

static void count_failure(wq_journal *j, const wq_error *error)
{
    atomic_fetch_add(&j->errors, 1);
    if (!atomic_load(&j->is_failing))
        wq_log(&j->logger, WQ_LOG_ERROR, "%s", error->message);
    atomic_store(&j->is_failing, 1);
}

/* While the file cannot be written, only new jobs have it tried again before the time: an end is
 * told, and waits with the others. */
static int is_worth_trying(const wq_journal *j, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!atomic_load(&j->is_failing) || j->batch[i].have == WQ_WANT_NOTHING)
            return 1;
    return 0;
}

static int do_batch(wq_journal *j, size_t n, int is_retry)
{
    static const wq_error still = {WQ_ERROR_SYSTEM, "the journal cannot be written"};
    wq_error error = still;
    int result = WQ_ERROR_SYSTEM;
    if (is_retry || is_worth_trying(j, n)) {
        result = wq_writer_commit(&j->writer, j->batch, n, &error);
        if (result != WQ_OK)
            count_failure(j, &error);
    }
    if (result == WQ_OK && atomic_load(&j->is_failing)) {
        atomic_store(&j->is_failing, 0);
        pthread_mutex_lock(&j->lock);
        j->retry_at = TAILQ_EMPTY(&j->failed) ? 0 : wq_monotonic_ms();
        pthread_mutex_unlock(&j->lock);
    }
    for (size_t i = 0; i < n; i++)
        settle_change(j, &j->batch[i], result, &error);
    return result;
}

/* ---- the thread ------------------------------------------------------------------------------ */

static void tidy_if_due(wq_journal *j)
{
    wq_error error;
    int64_t at = wq_writer_tidy_at(&j->writer);
    if (at != 0 && at <= wq_monotonic_ms() && wq_writer_tidy(&j->writer, &error) != WQ_OK)
        count_failure(j, &error);
}

/* Until there is something to do. */
static void wait_due_locked(wq_journal *j)
{
    for (;;) {
        int64_t at = sooner_of(sooner_of(j->wake_at, j->retry_at), wq_writer_tidy_at(&j->writer));
        if (j->closing || (at != 0 && at <= wq_monotonic_ms()))
            return;
        struct timespec until = {at / 1000, at % 1000 * 1000000};
        if (at == 0)
            pthread_cond_wait(&j->due, &j->lock);
        else
            pthread_cond_timedwait(&j->due, &j->lock, &until);
    }
}

/* New jobs are refused one batch after the other while the file cannot be written; no faster than
 * this, so that it costs nothing. */
static void pace_failures_locked(wq_journal *j)
{
    struct timespec until;
    int64_t at = wq_monotonic_ms() + STOP_MS;
    until = (struct timespec){at / 1000, at % 1000 * 1000000};
    while (!j->closing && wq_monotonic_ms() < at)
        pthread_cond_timedwait(&j->due, &j->lock, &until);
}

static void *journal_main(void *arg)
{
    wq_journal *j = arg;
    pthread_mutex_lock(&j->lock);
    for (;;) {
        wait_due_locked(j);
        int64_t now = wq_monotonic_ms();
        int is_retry = j->retry_at != 0 && j->retry_at <= now;
        j->begun = now;
        size_t n = take_batch_locked(j, now);
        if (n == 0 && j->closing)
            break;
        pthread_mutex_unlock(&j->lock);
        int result = n > 0 ? do_batch(j, n, is_retry) : WQ_OK;
        tidy_if_due(j);
        pthread_mutex_lock(&j->lock);
        pthread_cond_broadcast(&j->settled);
        if (result != WQ_OK)
            pace_failures_locked(j);
    }
    pthread_mutex_unlock(&j->lock);
    return NULL;
}

/* ---- open and close -------------------------------------------------------------------------- */

static wq_journal *new_journal(const wq_journal_options *o)
{
    wq_journal *j = calloc(1, sizeof *j);
    if (j == NULL)
        return NULL;
    pthread_mutex_init(&j->lock, NULL);
    wq_cond_init(&j->due);
    pthread_cond_init(&j->settled, NULL);
    TAILQ_INIT(&j->soon);
    TAILQ_INIT(&j->later);
    TAILQ_INIT(&j->failed);
    j->logger = o->logger;
    j->user = o->user;
    j->written = o->written;
    return j;
}

/* What restoring has ended is written before the queue is open; and what is left when a queue that
 * could not be opened is closed is let go of. */
static void flush_batches(wq_journal *j)
{
    size_t n;
    int result = WQ_OK;
    do {
        pthread_mutex_lock(&j->lock);
        n = take_batch_locked(j, wq_monotonic_ms());
        pthread_mutex_unlock(&j->lock);
        if (n > 0)
            result = do_batch(j, n, 1);
    } while (n > 0 && result == WQ_OK);
}

void wq_journal_close(wq_journal *j)
{
    wq_error error;
    pthread_mutex_lock(&j->lock);
    j->closing = 1;
    pthread_cond_signal(&j->due);
    pthread_mutex_unlock(&j->lock);
    if (j->has_thread)
        pthread_join(j->thread, NULL);
    else if (j->writer.db.sqlite != NULL)
        flush_batches(j);
    if (j->has_thread && j->writer.is_untidy && wq_writer_tidy(&j->writer, &error) != WQ_OK)
        count_failure(j, &error);
    wq_writer_close(&j->writer);
    pthread_cond_destroy(&j->due);
    pthread_cond_destroy(&j->settled);
    pthread_mutex_destroy(&j->lock);
    free(j);
}

int wq_journal_open(wq_journal **out, const wq_journal_options *options, int64_t *next_seq,
                    wq_error *error)
{
    wq_error own;
    wq_journal *j = new_journal(options);
    if (j == NULL)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    if (error == NULL)
        error = &own;
    *out = j; /* ends of jobs that are restored are written */
    int result = wq_writer_open(&j->writer, options, error);
    if (result == WQ_OK)
        result = wq_journal_restore(&j->writer, options, next_seq, error);
    if (result == WQ_OK) {
        flush_batches(j);
        int r = wq_thread_start(&j->thread, "wq-journal", journal_main, j);
        j->has_thread = r == 0;
        if (r != 0)
            result =
                wq_fail(error, WQ_ERROR_SYSTEM, "pthread_create for the journal: %s", strerror(r));
    }
    if (result == WQ_OK)
        return WQ_OK;
    *out = NULL;
    wq_journal_close(j);
    return result;
}

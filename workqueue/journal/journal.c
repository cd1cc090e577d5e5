/* journal.c - a journal while it runs: what there is to write, group commit, the life of the log.
 *
 * A token is in no job's row but in a slot of the table `token`, whose rows are all of one size and
 * are overwritten in place. So nothing of it is left anywhere in the file when its job has ended:
 * SQLite would zero deleted rows, but not the copies it leaves when it moves rows between pages.
 * The write-ahead log, which holds old pages, is emptied at most TIDY_MS later.
 *
 * A log that grows costs each commit the sync of a new length, too. So one that is much used is
 * filled with zeros when it has been emptied: SQLite takes that for an empty log, and overwrites
 * it.
 */
#include "workqueue/journal/journal.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "workqueue/journal/database.h"
#include "workqueue/util/clocks.h"
#include "workqueue/util/log.h"
#include "workqueue/util/threads.h"

enum {
    BATCH = 512,
    PAUSE_MS = 4,    /* between commits, while every worker is busy: they cost less together */
    STOP_MS = 20,    /* a job that was stopped waits so long for company, */
    START_MS = 50,   /* and a start; the end of a short job overtakes it, which saves a write */
    TIDY_MS = 1000,  /* the log is emptied, and what is too old is forgotten, at most so often */
    RETRY_MS = 1000, /* after a failure, for what nobody waits for */
    PAGE_BYTES = 4096 + 24,            /* of the log */
    FILL_BYTES = 256 * 1024,           /* a log of less is not much used */
    FILL_MAX_BYTES = 16 * 1024 * 1024, /* no more zeros than that */
};

enum statement { BEGIN, COMMIT, PUT_TOKEN, WIPE_TOKEN, ADD, START, END, STATEMENTS };

static const char *const statements[STATEMENTS] = {
    [BEGIN] = "BEGIN IMMEDIATE",
    [COMMIT] = "COMMIT",
    [PUT_TOKEN] = "INSERT INTO token VALUES (?1, ?2)"
                  " ON CONFLICT (slot) DO UPDATE SET bytes = excluded.bytes",
    [WIPE_TOKEN] = "UPDATE token SET bytes = zeroblob(256) WHERE slot = ?1",
    [ADD] = "INSERT INTO job (seq, id, key, server, document_set_id, slot, rebuild, queued_at)"
            " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    [START] = "UPDATE job SET started = ?2 WHERE seq = ?1",
    [END] = "UPDATE job SET slot = NULL, started = 0, state = ?2, returncode = ?3, error = ?4,"
            " version = ?5, started_at = ?6, ended_at = ?7 WHERE seq = ?1",
};

/* What a batch does for one job. */
typedef struct record {
    wq_job *job; /* counted */
    enum { NOTHING, IS_NEW, IS_DONE, HAS_STARTED, HAS_STOPPED, HAS_ENDED } what;
    wq_end end;
    uint64_t version;
    int64_t started_at;
    int is_awaited; /* its end is told after that */
} record;

struct wq_journal {
    wq_queue *queue;
    size_t max_ended;
    int64_t retain_ms;
    unsigned max_attempts;
    int syncs;
    pthread_t thread;
    int has_thread;

    /* the thread's, and before that the opener's */
    wq_db db;
    sqlite3_stmt *prepared[STATEMENTS];
    int64_t *free_slots, n_slots;
    size_t n_free, slots_size;
    record batch[BATCH];
    int is_untidy;
    int64_t tidied; /* when last */
    wq_wall wall;
    int is_failing; /* logged once */

    pthread_mutex_t lock;
    /* under the lock */
    pthread_cond_t due, settled; /* due: on CLOCK_MONOTONIC */
    struct wq_job_notes soon;    /* new jobs and ends */
    struct wq_job_notes later;   /* starts, oldest first */
    int64_t begun;               /* when it last took a batch */
    int64_t wake_at;             /* 0: nothing to do */
    uint64_t n_batches;
    int closing;
};

/* ---- slots ----------------------------------------------------------------------------------- */

/* Room for every slot there is and one more, so that giving one back cannot fail. */
static int reserve_slots(wq_journal *j)
{
    if ((size_t)j->n_slots + 1 <= j->slots_size)
        return 0;
    size_t size = j->slots_size ? 2 * j->slots_size : 256;
    while (size < (size_t)j->n_slots + 1)
        size *= 2;
    int64_t *grown = realloc(j->free_slots, size * sizeof *grown);
    if (grown == NULL)
        return -1;
    j->free_slots = grown;
    j->slots_size = size;
    return 0;
}

/* 0: no memory. */
static int64_t take_slot(wq_journal *j)
{
    if (j->n_free > 0)
        return j->free_slots[--j->n_free];
    return reserve_slots(j) == 0 ? ++j->n_slots : 0;
}

static void give_slot(wq_journal *j, wq_note *note)
{
    if (note->slot != 0)
        j->free_slots[j->n_free++] = note->slot;
    note->slot = 0;
}

static int read_free_slots(wq_journal *j, wq_error *error)
{
    sqlite3_stmt *s;
    int result =
        wq_db_ask(&j->db, "SELECT ifnull(max(slot), 0) FROM token", &j->n_slots, NULL, 0, error);
    if (result == WQ_OK && reserve_slots(j) != 0)
        result = wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    if (result != WQ_OK)
        return result;
    if (sqlite3_prepare_v2(j->db.sqlite,
                           "SELECT slot FROM token WHERE slot NOT IN"
                           " (SELECT slot FROM job WHERE slot IS NOT NULL) ORDER BY slot DESC",
                           -1, &s, NULL) != SQLITE_OK)
        return wq_db_fail(&j->db, error);
    int r;
    while ((r = sqlite3_step(s)) == SQLITE_ROW)
        j->free_slots[j->n_free++] = sqlite3_column_int64(s, 0);
    if (r != SQLITE_DONE)
        result = wq_db_fail(&j->db, error);
    sqlite3_finalize(s);
    return result;
}

/* ---- writing --------------------------------------------------------------------------------- */

static int run(wq_journal *j, enum statement which)
{
    sqlite3_stmt *s = j->prepared[which];
    int r = sqlite3_step(s);
    sqlite3_reset(s);
    return r == SQLITE_DONE ? 0 : -1;
}

static int put_token(wq_journal *j, const wq_job *job)
{
    sqlite3_stmt *t = j->prepared[PUT_TOKEN];
    char bytes[WQ_SLOT_BYTES] = "";
    memcpy(bytes, job->params.api_token, strlen(job->params.api_token));
    sqlite3_bind_int64(t, 1, job->note.slot);
    sqlite3_bind_blob(t, 2, bytes, sizeof bytes, SQLITE_STATIC);
    int r = run(j, PUT_TOKEN);
    sqlite3_clear_bindings(t);
    explicit_bzero(bytes, sizeof bytes);
    return r;
}

static int add_job(wq_journal *j, const wq_job *job)
{
    sqlite3_stmt *s = j->prepared[ADD];
    sqlite3_bind_int64(s, 1, job->note.seq);
    sqlite3_bind_text(s, 2, job->id, -1, SQLITE_STATIC);
    sqlite3_bind_text(s, 3, job->key, -1, SQLITE_STATIC);
    sqlite3_bind_text(s, 4, job->params.server, -1, SQLITE_STATIC);
    sqlite3_bind_text(s, 5, job->params.document_set_id, -1, SQLITE_STATIC);
    sqlite3_bind_int64(s, 6, job->note.slot);
    sqlite3_bind_int(s, 7, job->rebuild);
    sqlite3_bind_int64(s, 8, job->queued_at_ms);
    return run(j, ADD);
}

static int set_started(wq_journal *j, const wq_job *job, int started)
{
    sqlite3_bind_int64(j->prepared[START], 1, job->note.seq);
    sqlite3_bind_int(j->prepared[START], 2, started);
    return run(j, START);
}

static int end_job(wq_journal *j, const record *r)
{
    sqlite3_stmt *s = j->prepared[END];
    sqlite3_bind_int64(s, 1, r->job->note.seq);
    sqlite3_bind_int(s, 2, r->end.state);
    sqlite3_bind_int(s, 3, r->end.returncode);
    if (r->end.error != NULL)
        sqlite3_bind_text(s, 4, r->end.error->bytes, -1, SQLITE_STATIC);
    else
        sqlite3_bind_null(s, 4);
    sqlite3_bind_int64(s, 5, (int64_t)r->version);
    sqlite3_bind_int64(s, 6, r->started_at);
    sqlite3_bind_int64(s, 7, r->end.at_ms);
    sqlite3_bind_int64(j->prepared[WIPE_TOKEN], 1, r->job->note.slot);
    return run(j, END) == 0 ? run(j, WIPE_TOKEN) : -1;
}

static int write_record(wq_journal *j, const record *r)
{
    switch (r->what) {
    case IS_NEW:
        return put_token(j, r->job) == 0 ? add_job(j, r->job) : -1;
    case IS_DONE: /* its slot is 0, where no token is */
        return add_job(j, r->job) == 0 ? end_job(j, r) : -1;
    case HAS_STARTED:
        return set_started(j, r->job, 1);
    case HAS_STOPPED:
        return set_started(j, r->job, 0);
    case HAS_ENDED:
        return end_job(j, r);
    default:
        return 0;
    }
}

/* One transaction: all of it or nothing. */
static int write_batch(wq_journal *j, const record *records, size_t n, wq_error *error)
{
    int r = 0;
    size_t writes = 0;
    for (size_t i = 0; i < n; i++) {
        writes += records[i].what != NOTHING;
        if (records[i].what == IS_NEW && records[i].job->note.slot == 0)
            return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    }
    if (writes == 0)
        return WQ_OK;
    int result = wq_db_check_there(&j->db, error);
    if (result != WQ_OK)
        return result;
    r = run(j, BEGIN);
    for (size_t i = 0; i < n && r == 0; i++)
        r = write_record(j, &records[i]);
    if (r == 0)
        r = run(j, COMMIT);
    j->is_untidy = 1;
    if (r == 0)
        return WQ_OK;
    result = wq_db_fail(&j->db, error);
    if (!sqlite3_get_autocommit(j->db.sqlite))
        sqlite3_exec(j->db.sqlite, "ROLLBACK", NULL, NULL, NULL);
    return result;
}

/* ---- the thread ------------------------------------------------------------------------------ */

/* What has become of a job since it was last written. The queue's lock is held. */
static void read_record_locked(wq_journal *j, record *r)
{
    wq_job *job = r->job;
    pthread_mutex_lock(&job->lock);
    int ended = job->decided || (job->state >= WQ_STATE_SUCCEEDED && !job->kept);
    int runs = job->state == WQ_STATE_RUNNING || job->state == WQ_STATE_PUBLISHING;
    int done = job->state >= WQ_STATE_SUCCEEDED;
    r->what = job->note.written == WQ_UNWRITTEN                  ? (done ? IS_DONE : IS_NEW)
              : ended                                            ? HAS_ENDED
              : runs && job->note.written == WQ_WRITTEN          ? HAS_STARTED
              : !runs && job->note.written == WQ_WRITTEN_STARTED ? HAS_STOPPED
                                                                 : NOTHING;
    if (job->note.written == WQ_WRITTEN_END)
        r->what = NOTHING;
    r->is_awaited = job->decided;
    r->end = job->decided ? job->end
                          : (wq_end){job->state, job->returncode, job->error, job->ended_at_ms, 0};
    r->end.error = wq_text_ref(r->end.error);
    r->version = job->version + (job->decided ? 1 : 0);
    r->started_at = job->started_at_ms;
    pthread_mutex_unlock(&job->lock);
    if (r->what == IS_NEW && job->note.slot == 0)
        job->note.slot = take_slot(j);
}

static void set_written(wq_journal *j, const record *r)
{
    wq_note *note = &r->job->note;
    if (r->what == IS_NEW || r->what == HAS_STOPPED)
        note->written = WQ_WRITTEN;
    else if (r->what == HAS_STARTED)
        note->written = WQ_WRITTEN_STARTED;
    else if (r->what == HAS_ENDED || r->what == IS_DONE)
        note->written = WQ_WRITTEN_END;
    if (r->what == HAS_ENDED)
        give_slot(j, note);
}

static int64_t earlier(int64_t a, int64_t b)
{
    return a == 0 || (b != 0 && b < a) ? b : a;
}

/* Adds to a list unless it is in one; an end leaves the row of the starts. */
static void list_locked(wq_journal *j, wq_job *job, int later)
{
    wq_note *note = &job->note;
    if (note->listed == WQ_LISTED_SOON || (note->listed == WQ_LISTED_LATER && later))
        return;
    if (note->listed == WQ_LISTED_LATER)
        TAILQ_REMOVE(&j->later, job, note.link);
    else
        wq_job_ref(job);
    note->since = wq_monotonic_ms();
    note->listed = later ? WQ_LISTED_LATER : WQ_LISTED_SOON;
    if (later)
        TAILQ_INSERT_TAIL(&j->later, job, note.link);
    else
        TAILQ_INSERT_TAIL(&j->soon, job, note.link);
}

static void wake_locked(wq_journal *j, int64_t at)
{
    int64_t before = j->wake_at;
    j->wake_at = earlier(before, at);
    if (j->wake_at != before)
        pthread_cond_signal(&j->due);
}

void wq_journal_note_locked(wq_journal *j, wq_job *job)
{
    int64_t now = wq_monotonic_ms(), at = now;
    pthread_mutex_lock(&j->lock);
    int starts =
        !job->decided && (job->state == WQ_STATE_RUNNING || job->state == WQ_STATE_PUBLISHING);
    list_locked(j, job, starts);
    if (starts)
        at = now + START_MS;
    else if (job->state >= WQ_STATE_SUCCEEDED && !job->pending)
        at = now + STOP_MS;
    else if (!wq_queue_is_hungry(j->queue) && j->begun + PAUSE_MS > now)
        at = j->begun + PAUSE_MS;
    wake_locked(j, at);
    pthread_mutex_unlock(&j->lock);
}

void wq_journal_hurry_locked(wq_journal *j)
{
    pthread_mutex_lock(&j->lock);
    wake_locked(j, wq_monotonic_ms());
    pthread_mutex_unlock(&j->lock);
}

void wq_journal_started(wq_journal *j, wq_job *job)
{
    pthread_mutex_lock(&j->lock);
    list_locked(j, job, 0);
    wake_locked(j, wq_monotonic_ms());
    /* one batch may be under way without it */
    uint64_t until = j->n_batches + 2;
    while (j->n_batches < until && (job->note.listed != WQ_UNLISTED || job->note.in_batch))
        pthread_cond_wait(&j->settled, &j->lock);
    pthread_mutex_unlock(&j->lock);
}

static wq_job *next_note_locked(wq_journal *j, int64_t now)
{
    wq_job *job = TAILQ_FIRST(&j->soon);
    if (job != NULL) {
        TAILQ_REMOVE(&j->soon, job, note.link);
        return job;
    }
    job = TAILQ_FIRST(&j->later);
    if (job == NULL || (job->note.since + START_MS > now && !j->closing))
        return NULL;
    TAILQ_REMOVE(&j->later, job, note.link);
    return job;
}

/* Takes what is due, and says when the next will be. */
static size_t take_batch_locked(wq_journal *j, int64_t now)
{
    size_t n = 0;
    wq_job *job;
    while (n < BATCH && (job = next_note_locked(j, now)) != NULL) {
        job->note.listed = WQ_UNLISTED;
        job->note.in_batch = 1;
        j->batch[n++] = (record){.job = job};
    }
    job = TAILQ_FIRST(&j->later);
    j->wake_at = !TAILQ_EMPTY(&j->soon) ? now : job != NULL ? job->note.since + START_MS : 0;
    return n;
}

/* Others keep for a later try. A new job that was refused is no more. */
static void put_off(wq_journal *j, record *r)
{
    pthread_mutex_lock(&j->lock);
    if (!j->closing) {
        list_locked(j, r->job, 0);
        wake_locked(j, wq_monotonic_ms() + RETRY_MS);
    }
    pthread_mutex_unlock(&j->lock);
}

static void count_failure(wq_journal *j, const wq_error *error)
{
    atomic_fetch_add(&j->queue->journal_errors, 1);
    if (!j->is_failing)
        wq_log(&j->queue->logger, WQ_LOG_ERROR, "%s", error->message);
    j->is_failing = 1;
}

static void settle(wq_journal *j, record *r, int result, const wq_error *error)
{
    if (result == WQ_OK)
        set_written(j, r);
    else if (r->what == IS_NEW)
        give_slot(j, &r->job->note);
    pthread_mutex_lock(&j->lock);
    r->job->note.in_batch = 0;
    pthread_mutex_unlock(&j->lock);
    if (r->what == IS_NEW && result == WQ_OK)
        wq_queue_accepted(j->queue, r->job);
    else if (r->what == IS_NEW)
        wq_queue_refused(j->queue, r->job, error);
    else if (result != WQ_OK && r->what != NOTHING)
        put_off(j, r);
    /* also if it could not be written, for nothing can be done about that */
    if (r->is_awaited)
        wq_queue_ended(j->queue, r->job);
    else if (r->what == IS_DONE)
        wq_queue_known(j->queue, r->job);
    wq_text_unref(r->end.error);
    wq_job_unref(r->job);
}

static int do_batch(wq_journal *j, size_t n)
{
    wq_error error = {0};
    pthread_mutex_lock(&j->queue->lock);
    for (size_t i = 0; i < n; i++)
        read_record_locked(j, &j->batch[i]);
    pthread_mutex_unlock(&j->queue->lock);
    int result = write_batch(j, j->batch, n, &error);
    if (result != WQ_OK)
        count_failure(j, &error);
    else
        j->is_failing = 0;
    for (size_t i = 0; i < n; i++)
        settle(j, &j->batch[i], result, &error);
    return result;
}

/* Before there is a thread: those that are given up have ended when the queue is open. */
static void flush(wq_journal *j)
{
    size_t n;
    do {
        pthread_mutex_lock(&j->lock);
        n = take_batch_locked(j, wq_monotonic_ms());
        pthread_mutex_unlock(&j->lock);
    } while (n > 0 && do_batch(j, n) == WQ_OK);
}

/* That it cannot be filled is no failure. Never over what it holds: SQLite calls it a success, too,
 * when it could not empty it, since somebody reads from it. */
static void fill_log(sqlite3_file *log, int64_t size)
{
    static const char zeros[64 * 1024];
    sqlite3_int64 left = -1;
    int64_t at = 0;
    int r = log->pMethods->xFileSize(log, &left);
    if (r != SQLITE_OK || left != 0)
        return;
    size = size < FILL_MAX_BYTES ? size : FILL_MAX_BYTES;
    for (; r == SQLITE_OK && at < size; at += (int64_t)sizeof zeros)
        r = log->pMethods->xWrite(log, zeros, sizeof zeros, at);
    if (r == SQLITE_OK)
        r = log->pMethods->xSync(log, SQLITE_SYNC_NORMAL);
    if (r != SQLITE_OK)
        log->pMethods->xTruncate(log, 0);
}

static int empty_log(wq_journal *j, wq_error *error)
{
    sqlite3_file *log = wq_db_log(&j->db);
    int64_t used = (int64_t)j->db.log_pages * PAGE_BYTES;
    int result = wq_db_exec(&j->db, "PRAGMA wal_checkpoint(TRUNCATE)", error);
    if (result != WQ_OK)
        return result;
    j->db.log_pages = 0;
    j->is_untidy = log != NULL && j->syncs && used >= FILL_BYTES; /* filled, until it is quiet */
    if (j->is_untidy)
        fill_log(log, used);
    return WQ_OK;
}

/* Forgets what is too old, and empties the log, which holds tokens of ended jobs; also if nothing
 * can be forgotten, for want of the room that the log has.
 */
static int tidy(wq_journal *j, wq_error *error)
{
    char sql[300];
    /* SQLite's numbers have a sign */
    size_t max_ended = j->max_ended < INT64_MAX ? j->max_ended : INT64_MAX;
    j->tidied = wq_monotonic_ms();
    wq_wall_look(&j->wall);
    snprintf(sql, sizeof sql,
             "DELETE FROM job WHERE state > 0 AND (ended_at < %lld OR"
             " seq IN (SELECT seq FROM job WHERE state > 0"
             " ORDER BY ended_at DESC, seq DESC LIMIT -1 OFFSET %llu))",
             (long long)(j->wall.early - j->retain_ms), (unsigned long long)max_ended);
    int result = wq_db_exec(&j->db, sql, error),
        emptied = empty_log(j, result == WQ_OK ? error : NULL);
    if (result != WQ_OK || emptied != WQ_OK)
        j->is_untidy = 1;
    return result != WQ_OK ? result : emptied;
}

static void tidy_if_due(wq_journal *j)
{
    wq_error error;
    if (j->is_untidy && j->tidied + TIDY_MS <= wq_monotonic_ms() && tidy(j, &error) != WQ_OK)
        count_failure(j, &error);
}

/* Until there is something to do. */
static void wait_locked(wq_journal *j)
{
    for (;;) {
        int64_t at = earlier(j->wake_at, j->is_untidy ? j->tidied + TIDY_MS : 0);
        if (j->closing || (at != 0 && at <= wq_monotonic_ms()))
            return;
        struct timespec until = {at / 1000, at % 1000 * 1000000};
        if (at == 0)
            pthread_cond_wait(&j->due, &j->lock);
        else
            pthread_cond_timedwait(&j->due, &j->lock, &until);
    }
}

static void *journal_main(void *arg)
{
    wq_journal *j = arg;
    pthread_mutex_lock(&j->lock);
    for (;;) {
        wait_locked(j);
        int64_t now = wq_monotonic_ms();
        j->begun = now;
        size_t n = take_batch_locked(j, now);
        if (n == 0 && j->closing)
            break;
        pthread_mutex_unlock(&j->lock);
        if (n > 0)
            do_batch(j, n);
        tidy_if_due(j);
        pthread_mutex_lock(&j->lock);
        j->n_batches++;
        pthread_cond_broadcast(&j->settled);
    }
    pthread_mutex_unlock(&j->lock);
    return NULL;
}

/* ---- life ------------------------------------------------------------------------------------ */

static wq_journal *new_journal(wq_queue *queue, const wq_options *o)
{
    wq_journal *j = calloc(1, sizeof *j);
    if (j == NULL)
        return NULL;
    pthread_mutex_init(&j->lock, NULL);
    wq_cond_init(&j->due);
    pthread_cond_init(&j->settled, NULL);
    TAILQ_INIT(&j->soon);
    TAILQ_INIT(&j->later);
    j->queue = queue;
    j->max_ended = o->max_ended;
    j->retain_ms = o->retain_ended_ms;
    wq_wall_start(&j->wall, j->retain_ms);
    j->max_attempts = o->max_attempts;
    j->syncs = o->sync;
    return j;
}

/* What is still listed was put back and then not needed, because opening failed. */
static void free_notes(struct wq_job_notes *notes)
{
    wq_job *job;
    while ((job = TAILQ_FIRST(notes)) != NULL) {
        TAILQ_REMOVE(notes, job, note.link);
        if (job->decided)
            wq_queue_ended(job->queue, job);
        wq_job_unref(job);
    }
}

void wq_journal_close(wq_journal *j)
{
    wq_error error;
    if (j->has_thread) {
        pthread_mutex_lock(&j->lock);
        j->closing = 1;
        pthread_cond_signal(&j->due);
        pthread_mutex_unlock(&j->lock);
        pthread_join(j->thread, NULL);
        if (j->is_untidy && tidy(j, &error) != WQ_OK)
            count_failure(j, &error);
    }
    free_notes(&j->soon);
    free_notes(&j->later);
    for (int i = 0; i < STATEMENTS; i++)
        sqlite3_finalize(j->prepared[i]);
    wq_db_close(&j->db);
    pthread_cond_destroy(&j->due);
    pthread_cond_destroy(&j->settled);
    pthread_mutex_destroy(&j->lock);
    free(j->free_slots);
    free(j);
}

static int prepare(wq_journal *j, wq_error *error)
{
    for (int i = 0; i < STATEMENTS; i++)
        if (sqlite3_prepare_v3(j->db.sqlite, statements[i], -1, SQLITE_PREPARE_PERSISTENT,
                               &j->prepared[i], NULL) != SQLITE_OK)
            return wq_db_fail(&j->db, error);
    return WQ_OK;
}

/* What was running when the server died has used up an attempt, which is durable before anything
 * runs. */
static int restore(wq_journal *j, wq_error *error)
{
    int64_t last = 0;
    wq_error own;
    if (error == NULL)
        error = &own;
    int result = wq_db_exec(&j->db,
                            "UPDATE job SET attempts = attempts + 1, started = 0"
                            " WHERE state = 0 AND started = 1",
                            error);
    if (result == WQ_OK)
        result = tidy(j, error);
    if (result == WQ_OK)
        result = wq_db_ask(&j->db, "SELECT ifnull(max(seq), 0) FROM job", &last, NULL, 0, error);
    if (result == WQ_OK)
        result = read_free_slots(j, error);
    j->queue->next_rank = (uint64_t)last + 1;
    if (result == WQ_OK)
        result = wq_db_put_back(&j->db, j->queue, j->max_attempts, error);
    return result;
}

int wq_journal_open(wq_journal **out, wq_queue *queue, const wq_options *options, wq_error *error)
{
    wq_journal *j = new_journal(queue, options);
    int result = WQ_ERROR_NO_MEMORY;
    if (j == NULL) {
        wq_fail(error, result, "out of memory");
        goto failed;
    }
    queue->journal = j; /* ends of jobs that are put back are noted */
    if ((result = wq_db_open(&j->db, options->journal_path, options->sync, error)) != WQ_OK ||
        (result = prepare(j, error)) != WQ_OK || (result = restore(j, error)) != WQ_OK)
        goto failed;
    flush(j);
    int r = wq_thread_start(&j->thread, "wq-journal", journal_main, j);
    if (r != 0) {
        result = wq_fail(error, WQ_ERROR_SYSTEM, "pthread_create for the journal: %s", strerror(r));
        goto failed;
    }
    j->has_thread = 1;
    *out = j;
    return WQ_OK;
failed:
    queue->journal = NULL;
    if (j != NULL)
        wq_journal_close(j);
    return result;
}

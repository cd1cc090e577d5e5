/* writer.c - what a journal writes.
 *
 * Of an error its beginning is in the job's row, and all of it, where it is longer, in a table of
 * its own: so the rows stay small, which are read when the journal is opened, and the errors
 * together are bounded by dropping the oldest.
 *
 * A write-ahead log that grows costs each commit the sync of a new length, too. So one that is much
 * used is filled with zeros when it has been emptied: SQLite takes that for an empty log, and
 * overwrites it.
 */
#include "workqueue/journal/writer.h"

#include <stdio.h>
#include <string.h>

enum {
    TIDY_MS = 1000,                    /* the log is emptied, and age looked at, at most so often */
    PAGE_BYTES = 4096 + 24,            /* of the log */
    FILL_BYTES = 256 * 1024,           /* a log of less is not much used */
    FILL_MAX_BYTES = 16 * 1024 * 1024, /* no more zeros than that */
};

#define OLDEST_ENDED "(SELECT seq FROM job WHERE state > 0 ORDER BY ended_at, seq LIMIT ?1)"

static const char *const statements[WQ_STATEMENTS] = {
    [WQ_BEGIN] = "BEGIN IMMEDIATE",
    [WQ_COMMIT] = "COMMIT",
    [WQ_PUT_TOKEN] = "INSERT INTO token VALUES (?1, ?2)"
                     " ON CONFLICT (slot) DO UPDATE SET bytes = excluded.bytes",
    [WQ_PUT_LONG_TOKEN] = "INSERT INTO long_token VALUES (?1, ?2)"
                          " ON CONFLICT (slot) DO UPDATE SET bytes = excluded.bytes",
    [WQ_WIPE_TOKEN] = "UPDATE token SET bytes = zeroblob(256) WHERE slot = ?1",
    [WQ_WIPE_LONG_TOKEN] = "UPDATE long_token SET bytes = zeroblob(4096) WHERE slot = ?1",
    [WQ_ADD] = "INSERT OR REPLACE INTO job"
               " (seq, id, key, server, document_set_id, slot, rebuild, queued_at)"
               " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    [WQ_SET_REBUILD] = "UPDATE job SET rebuild = ?2 WHERE seq = ?1",
    [WQ_SET_STARTED] = "UPDATE job SET started = ?2 WHERE seq = ?1",
    [WQ_END] = "UPDATE job SET slot = NULL, started = 0, state = ?2, returncode = ?3, error = ?4,"
               " version = ?5, started_at = ?6, ended_at = ?7 WHERE seq = ?1",
    [WQ_REMOVE] = "DELETE FROM job WHERE seq = ?1",
    [WQ_ADD_ERROR] = "INSERT OR REPLACE INTO error VALUES (?1, ?2, ?3)",
    [WQ_DROP_ERROR] = "DELETE FROM error WHERE seq = (SELECT min(seq) FROM error) RETURNING size",
    [WQ_TRIM_ERRORS] = "DELETE FROM error WHERE seq IN " OLDEST_ENDED " RETURNING size",
    [WQ_TRIM] = "DELETE FROM job WHERE seq IN " OLDEST_ENDED,
};

static int run_statement(wq_writer *w, enum wq_statement which)
{
    sqlite3_stmt *s = w->prepared[which];
    int r = sqlite3_step(s);
    sqlite3_reset(s);
    return r == SQLITE_DONE ? 0 : -1;
}

/* One whose rows are sizes of errors that are gone. */
static int run_returning_sizes(wq_writer *w, enum wq_statement which)
{
    sqlite3_stmt *s = w->prepared[which];
    int r, rows = 0;
    while ((r = sqlite3_step(s)) == SQLITE_ROW) {
        w->error_bytes -= sqlite3_column_int64(s, 0);
        rows++;
    }
    sqlite3_reset(s);
    return r == SQLITE_DONE ? rows : -1;
}

/* ---- changes --------------------------------------------------------------------------------- */

static int put_token(wq_writer *w, const wq_entry *entry)
{
    const int is_long = entry->slot < 0;
    sqlite3_stmt *t = w->prepared[is_long ? WQ_PUT_LONG_TOKEN : WQ_PUT_TOKEN];
    char bytes[WQ_LONG_SLOT_BYTES] = "";
    memcpy(bytes, entry->params->api_token, strlen(entry->params->api_token));
    sqlite3_bind_int64(t, 1, is_long ? -entry->slot : entry->slot);
    sqlite3_bind_blob(t, 2, bytes, is_long ? WQ_LONG_SLOT_BYTES : WQ_SHORT_SLOT_BYTES,
                      SQLITE_STATIC);
    int r = run_statement(w, is_long ? WQ_PUT_LONG_TOKEN : WQ_PUT_TOKEN);
    sqlite3_clear_bindings(t);
    explicit_bzero(bytes, sizeof bytes);
    return r;
}

static int wipe_token(wq_writer *w, int64_t slot)
{
    const enum wq_statement which = slot < 0 ? WQ_WIPE_LONG_TOKEN : WQ_WIPE_TOKEN;
    if (slot == 0)
        return 0;
    sqlite3_bind_int64(w->prepared[which], 1, slot < 0 ? -slot : slot);
    return run_statement(w, which);
}

static int add_job(wq_writer *w, const wq_change *c)
{
    const wq_entry *entry = c->entry;
    sqlite3_stmt *s = w->prepared[WQ_ADD];
    sqlite3_bind_int64(s, 1, entry->seq);
    sqlite3_bind_text(s, 2, entry->id, -1, SQLITE_STATIC);
    sqlite3_bind_text(s, 3, entry->key, -1, SQLITE_STATIC);
    sqlite3_bind_text(s, 4, entry->params->server, -1, SQLITE_STATIC);
    sqlite3_bind_text(s, 5, entry->params->document_set_id, -1, SQLITE_STATIC);
    sqlite3_bind_int64(s, 6, entry->slot);
    sqlite3_bind_int(s, 7, c->rebuild);
    sqlite3_bind_int64(s, 8, entry->queued_at_ms);
    return run_statement(w, WQ_ADD);
}

static int set_number(wq_writer *w, enum wq_statement which, int64_t seq, int number)
{
    sqlite3_bind_int64(w->prepared[which], 1, seq);
    sqlite3_bind_int(w->prepared[which], 2, number);
    return run_statement(w, which);
}

static int add_error(wq_writer *w, int64_t seq, const char *text, size_t n)
{
    sqlite3_stmt *s = w->prepared[WQ_ADD_ERROR];
    sqlite3_bind_int64(s, 1, seq);
    sqlite3_bind_int64(s, 2, (int64_t)n);
    sqlite3_bind_text(s, 3, text, (int)n, SQLITE_STATIC);
    int r = run_statement(w, WQ_ADD_ERROR);
    sqlite3_clear_bindings(s);
    w->error_bytes += (int64_t)n;
    while (r == 0 && w->error_bytes > 0 && (uint64_t)w->error_bytes > w->max_error_bytes) {
        int dropped = run_returning_sizes(w, WQ_DROP_ERROR);
        if (dropped <= 0)
            return dropped;
    }
    return r;
}

/* Where a text of UTF-8 may be cut, at `max` bytes at most. */
static size_t cut_at(const char *text, size_t n, size_t max)
{
    if (n <= max)
        return n;
    for (n = max; n > 0 && ((unsigned char)text[n] & 0xc0) == 0x80;)
        n--;
    return n;
}

static int write_end(wq_writer *w, const wq_change *c)
{
    const wq_entry_end *end = &c->end;
    const char *text = end->error != NULL ? end->error->bytes : NULL;
    const size_t n = text != NULL ? strlen(text) : 0;
    sqlite3_stmt *s = w->prepared[WQ_END];
    sqlite3_bind_int64(s, 1, c->entry->seq);
    sqlite3_bind_int(s, 2, end->state);
    sqlite3_bind_int(s, 3, end->returncode);
    if (text != NULL)
        sqlite3_bind_text(s, 4, text, (int)cut_at(text, n, WQ_SHORT_ERROR_BYTES), SQLITE_STATIC);
    else
        sqlite3_bind_null(s, 4);
    sqlite3_bind_int64(s, 5, (int64_t)end->version);
    sqlite3_bind_int64(s, 6, end->started_at_ms);
    sqlite3_bind_int64(s, 7, end->ended_at_ms);
    int r = run_statement(w, WQ_END);
    sqlite3_clear_bindings(s);
    w->n_ended++;
    if (r == 0)
        r = wipe_token(w, c->entry->slot);
    return r == 0 && n > WQ_SHORT_ERROR_BYTES ? add_error(w, c->entry->seq, text, n) : r;
}

static int remove_job(wq_writer *w, const wq_change *c)
{
    sqlite3_bind_int64(w->prepared[WQ_REMOVE], 1, c->entry->seq);
    return run_statement(w, WQ_REMOVE) == 0 ? wipe_token(w, c->entry->slot) : -1;
}

static int row_of(wq_want want)
{
    return want == WQ_WANT_STARTED     ? WQ_ROW_STARTED
           : want == WQ_WANT_CANCELLED ? WQ_ROW_CANCELLED
                                       : WQ_ROW_WAITS;
}

static int write_change(wq_writer *w, const wq_change *c)
{
    const int64_t seq = c->entry->seq;
    if (c->want == WQ_WANT_ABSENT)
        return remove_job(w, c);
    if (c->have == WQ_WANT_NOTHING) {
        /* one that is done already has no slot, so no token */
        if ((c->want != WQ_WANT_ENDED && put_token(w, c->entry) != 0) || add_job(w, c) != 0)
            return -1;
    } else if (c->rebuild != c->entry->have_rebuild &&
               set_number(w, WQ_SET_REBUILD, seq, c->rebuild) != 0) {
        return -1;
    }
    if (c->want == WQ_WANT_ENDED)
        return c->have != WQ_WANT_ENDED ? write_end(w, c) : 0;
    if (row_of(c->have) != row_of(c->want))
        return set_number(w, WQ_SET_STARTED, seq, row_of(c->want));
    return 0;
}

/* Keeps the number of ended jobs. */
static int trim_ended(wq_writer *w)
{
    int64_t surplus = w->n_ended - (int64_t)(w->max_ended < INT64_MAX ? w->max_ended : INT64_MAX);
    if (surplus <= 0)
        return 0;
    sqlite3_bind_int64(w->prepared[WQ_TRIM_ERRORS], 1, surplus);
    sqlite3_bind_int64(w->prepared[WQ_TRIM], 1, surplus);
    if (run_returning_sizes(w, WQ_TRIM_ERRORS) < 0 || run_statement(w, WQ_TRIM) != 0)
        return -1;
    w->n_ended -= surplus;
    return 0;
}

static int is_change(const wq_change *c)
{
    return c->want == WQ_WANT_ABSENT || c->have != c->want ||
           (c->rebuild != c->entry->have_rebuild && c->want != WQ_WANT_ENDED);
}

int wq_writer_commit(wq_writer *w, wq_change *changes, size_t n, wq_error *error)
{
    const int64_t n_ended = w->n_ended, error_bytes = w->error_bytes;
    size_t writes = 0;
    for (size_t i = 0; i < n; i++) {
        wq_entry *entry = changes[i].entry;
        writes += (size_t)is_change(&changes[i]);
        if (changes[i].have != WQ_WANT_NOTHING || entry->slot != 0 ||
            changes[i].want == WQ_WANT_ENDED || changes[i].want == WQ_WANT_ABSENT)
            continue;
        entry->slot = wq_slots_take(w->slots, strlen(entry->params->api_token));
        if (entry->slot == 0)
            return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    }
    if (writes == 0)
        return WQ_OK;
    int result = wq_db_check_there(&w->db, error);
    if (result != WQ_OK)
        return result;
    int r = run_statement(w, WQ_BEGIN);
    for (size_t i = 0; i < n && r == 0; i++)
        if (is_change(&changes[i]))
            r = write_change(w, &changes[i]);
    if (r == 0)
        r = trim_ended(w);
    if (r == 0)
        r = run_statement(w, WQ_COMMIT);
    w->is_untidy = 1;
    if (r == 0)
        return WQ_OK;
    w->n_ended = n_ended;
    w->error_bytes = error_bytes;
    result = wq_db_fail(&w->db, error);
    if (!sqlite3_get_autocommit(w->db.sqlite))
        sqlite3_exec(w->db.sqlite, "ROLLBACK", NULL, NULL, NULL);
    return result;
}

/* ---- tidying up ------------------------------------------------------------------------------ */

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

static int empty_log(wq_writer *w, wq_error *error)
{
    sqlite3_file *log = wq_db_log(&w->db);
    int64_t used = (int64_t)w->db.log_pages * PAGE_BYTES;
    int result = wq_db_exec(&w->db, "PRAGMA wal_checkpoint(TRUNCATE)", error);
    if (result != WQ_OK)
        return result;
    w->db.log_pages = 0;
    w->is_untidy = log != NULL && w->syncs && used >= FILL_BYTES; /* filled, until it is quiet */
    if (w->is_untidy)
        fill_log(log, used);
    return WQ_OK;
}

static int count_rows(wq_writer *w, wq_error *error)
{
    int result =
        wq_db_ask(&w->db, "SELECT count(*) FROM job WHERE state > 0", &w->n_ended, NULL, 0, error);
    if (result == WQ_OK)
        result = wq_db_ask(&w->db, "SELECT ifnull(sum(size), 0) FROM error", &w->error_bytes, NULL,
                           0, error);
    return result;
}

/* The index tells whether anything is, so that mostly nothing is written. */
static int forget_old(wq_writer *w, wq_error *error)
{
    char sql[300];
    int64_t oldest = 0;
    wq_wall_look(&w->wall);
    const long long limit = (long long)(w->wall.early - w->retain_ms);
    if (w->n_ended == 0)
        return WQ_OK;
    int result = wq_db_ask(&w->db, "SELECT ifnull(min(ended_at), 0) FROM job WHERE state > 0",
                           &oldest, NULL, 0, error);
    if (result != WQ_OK || oldest >= limit)
        return result;
    snprintf(sql, sizeof sql,
             "BEGIN IMMEDIATE;"
             "DELETE FROM error WHERE seq IN"
             " (SELECT seq FROM job WHERE state > 0 AND ended_at < %lld);"
             "DELETE FROM job WHERE state > 0 AND ended_at < %lld; COMMIT",
             limit, limit);
    result = wq_db_exec(&w->db, sql, error);
    if (!sqlite3_get_autocommit(w->db.sqlite))
        sqlite3_exec(w->db.sqlite, "ROLLBACK", NULL, NULL, NULL);
    return result == WQ_OK ? count_rows(w, error) : result;
}

int wq_writer_tidy(wq_writer *w, wq_error *error)
{
    w->tidied = wq_monotonic_ms();
    /* the log also if nothing can be forgotten, for want of the room that it has */
    int result = forget_old(w, error), emptied = empty_log(w, result == WQ_OK ? error : NULL);
    if (result != WQ_OK || emptied != WQ_OK)
        w->is_untidy = 1;
    return result != WQ_OK ? result : emptied;
}

int64_t wq_writer_tidy_at(const wq_writer *w)
{
    return w->is_untidy ? w->tidied + TIDY_MS : 0;
}

/* ---- open and close -------------------------------------------------------------------------- */

static int read_slots(wq_writer *w, int is_long, wq_error *error)
{
    static const char *const most[] = {"SELECT ifnull(max(slot), 0) FROM token",
                                       "SELECT ifnull(max(slot), 0) FROM long_token"};
    static const char *const unused[] = {
        "SELECT slot FROM token WHERE slot NOT IN"
        " (SELECT slot FROM job WHERE slot > 0) ORDER BY slot DESC",
        "SELECT slot FROM long_token WHERE -slot NOT IN"
        " (SELECT slot FROM job WHERE slot < 0) ORDER BY slot DESC"};
    wq_slots *slots = &w->slots[is_long];
    sqlite3_stmt *s;
    int64_t n;
    int r, result = wq_db_ask(&w->db, most[is_long], &n, NULL, 0, error);
    if (result == WQ_OK && wq_slots_restore(slots, n) != 0)
        result = wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    if (result != WQ_OK)
        return result;
    if (sqlite3_prepare_v2(w->db.sqlite, unused[is_long], -1, &s, NULL) != SQLITE_OK)
        return wq_db_fail(&w->db, error);
    while ((r = sqlite3_step(s)) == SQLITE_ROW)
        slots->free_slots[slots->n_free++] = sqlite3_column_int64(s, 0);
    if (r != SQLITE_DONE)
        result = wq_db_fail(&w->db, error);
    sqlite3_finalize(s);
    return result;
}

static int prepare_statements(wq_writer *w, wq_error *error)
{
    for (int i = 0; i < WQ_STATEMENTS; i++)
        if (sqlite3_prepare_v3(w->db.sqlite, statements[i], -1, SQLITE_PREPARE_PERSISTENT,
                               &w->prepared[i], NULL) != SQLITE_OK)
            return wq_db_fail(&w->db, error);
    return WQ_OK;
}

int wq_writer_open(wq_writer *w, const wq_journal_options *o, wq_error *error)
{
    w->syncs = o->sync;
    w->max_ended = o->max_ended;
    w->retain_ms = o->retain_ms;
    w->max_error_bytes = o->max_error_bytes;
    wq_wall_start(&w->wall, w->retain_ms);
    int result = wq_db_open(&w->db, o->path, o->sync, error);
    if (result == WQ_OK)
        result = prepare_statements(w, error);
    if (result == WQ_OK)
        result = count_rows(w, error);
    if (result == WQ_OK && w->error_bytes > 0 && (uint64_t)w->error_bytes > w->max_error_bytes) {
        /* of a journal that was upgraded, or whose bound is lower now */
        if (run_statement(w, WQ_BEGIN) != 0)
            result = wq_db_fail(&w->db, error);
        while (result == WQ_OK && (uint64_t)w->error_bytes > w->max_error_bytes)
            if (run_returning_sizes(w, WQ_DROP_ERROR) <= 0)
                result = wq_db_fail(&w->db, error);
        if (result == WQ_OK && run_statement(w, WQ_COMMIT) != 0)
            result = wq_db_fail(&w->db, error);
    }
    if (result == WQ_OK && trim_ended(w) != 0)
        result = wq_db_fail(&w->db, error);
    if (result == WQ_OK)
        result = read_slots(w, 0, error);
    return result == WQ_OK ? read_slots(w, 1, error) : result;
}

void wq_writer_close(wq_writer *w)
{
    for (int i = 0; i < WQ_STATEMENTS; i++)
        sqlite3_finalize(w->prepared[i]);
    wq_db_close(&w->db);
    wq_slots_dispose(w->slots);
}

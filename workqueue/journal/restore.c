/* restore.c - a journal's jobs, as an earlier process left them.
 *
 * A row that makes no sense is an error that says so, never a job that is left out: that would lose
 * it without a word.
 */
#include "workqueue/journal/restore.h"

#include <stdio.h>
#include <string.h>

enum column {
    SEQ,
    ID,
    KEY,
    SERVER,
    DOCUMENT_SET_ID,
    TOKEN,
    REBUILD,
    QUEUED_AT,
    ATTEMPTS,
    SLOT,
    STATE,
    RETURNCODE,
    ERROR,
    JOB_VERSION,
    STARTED_AT,
    ENDED_AT,
    STARTED
};

#define COLUMNS                                                                                    \
    "SELECT job.seq, id, key, server, document_set_id, %s, rebuild, queued_at, attempts,"          \
    " job.slot, state, returncode, %s, version, started_at, ended_at, started FROM job "

static const char *text_of(sqlite3_stmt *s, int column)
{
    const char *text = (const char *)sqlite3_column_text(s, column);
    return text != NULL ? text : "";
}

static int is_id(const char *text)
{
    return strlen(text) == WQ_ID_SIZE - 1 && strspn(text, "0123456789abcdef-") == WQ_ID_SIZE - 1;
}

static int is_end(sqlite3_stmt *s)
{
    const int state = sqlite3_column_int(s, STATE);
    return state >= WQ_STATE_SUCCEEDED && state <= WQ_STATE_CANCELLED &&
           sqlite3_column_type(s, SLOT) == SQLITE_NULL;
}

static int is_whole(sqlite3_stmt *s, const wq_journal_row *row)
{
    char key[WQ_KEY_SIZE];
    if (!is_id(row->id) || strlen(row->key) != WQ_KEY_SIZE - 1)
        return 0;
    if (row->has_ended)
        return is_end(s);
    return wq_params_key(&row->params, key) == WQ_OK && strcmp(key, row->key) == 0;
}

static int restore_row(wq_writer *w, sqlite3_stmt *s, const wq_journal_options *o, wq_error *error)
{
    char token[WQ_LONG_SLOT_BYTES + 1] = "";
    const int has_ended = sqlite3_column_int(s, STATE) != 0;
    const void *bytes = sqlite3_column_blob(s, TOKEN);
    size_t n = (size_t)sqlite3_column_bytes(s, TOKEN);
    if (!has_ended && bytes != NULL && n <= WQ_LONG_SLOT_BYTES)
        memcpy(token, bytes, n);
    wq_journal_row row = {
        .seq = sqlite3_column_int64(s, SEQ),
        .slot = sqlite3_column_int64(s, SLOT),
        .id = text_of(s, ID),
        .key = text_of(s, KEY),
        .params = {text_of(s, SERVER), text_of(s, DOCUMENT_SET_ID), token},
        .rebuild = sqlite3_column_int(s, REBUILD) != 0,
        .attempts = sqlite3_column_int(s, ATTEMPTS),
        .has_ended = has_ended,
        .is_cancelled = sqlite3_column_int(s, STARTED) == WQ_ROW_CANCELLED,
        .queued_at_ms = sqlite3_column_int64(s, QUEUED_AT),
        .end = {.state = sqlite3_column_int(s, STATE),
                .returncode = sqlite3_column_int(s, RETURNCODE),
                .version = (uint64_t)sqlite3_column_int64(s, JOB_VERSION),
                .started_at_ms = sqlite3_column_int64(s, STARTED_AT),
                .ended_at_ms = sqlite3_column_int64(s, ENDED_AT)},
    };
    int result;
    if (!is_whole(s, &row)) {
        result = wq_fail(error, WQ_ERROR_SYSTEM,
                         "the journal %s is corrupt (a job in it makes no sense); move it away to "
                         "begin without its jobs",
                         w->db.path);
    } else {
        if (has_ended && sqlite3_column_type(s, ERROR) != SQLITE_NULL)
            row.end.error = wq_text_new(text_of(s, ERROR), strlen(text_of(s, ERROR)));
        result = o->restore(o->user, &row, error);
    }
    explicit_bzero(token, sizeof token);
    return result;
}

static int restore_rows(wq_writer *w, const char *sql, const wq_journal_options *o, wq_error *error)
{
    sqlite3_stmt *s;
    int result = WQ_OK, r = SQLITE_DONE;
    if (sqlite3_prepare_v2(w->db.sqlite, sql, -1, &s, NULL) != SQLITE_OK)
        return wq_db_fail(&w->db, error);
    while (result == WQ_OK && (r = sqlite3_step(s)) == SQLITE_ROW)
        result = restore_row(w, s, o, error);
    if (result == WQ_OK && r != SQLITE_DONE)
        result = wq_db_fail(&w->db, error);
    sqlite3_finalize(s);
    return result;
}

int wq_journal_restore(wq_writer *w, const wq_journal_options *o, int64_t *next_seq,
                       wq_error *error)
{
    char ended[600], waiting[600];
    snprintf(ended, sizeof ended,
             COLUMNS "LEFT JOIN error ON error.seq = job.seq"
                     " WHERE state <> 0 ORDER BY ended_at, job.seq",
             "NULL", "ifnull(error.bytes, job.error)");
    snprintf(waiting, sizeof waiting,
             COLUMNS "LEFT JOIN token ON token.slot = job.slot"
                     " LEFT JOIN long_token ON long_token.slot = -job.slot"
                     " WHERE state = 0 ORDER BY job.seq",
             "ifnull(token.bytes, long_token.bytes)", "NULL");
    /* What was running when the server died has used up an attempt, which is durable before
     * anything runs. */
    int result = wq_db_exec(&w->db,
                            "UPDATE job SET attempts = attempts + 1, started = 0"
                            " WHERE state = 0 AND started = 1",
                            error);
    if (result == WQ_OK)
        result = wq_writer_tidy(w, error);
    if (result == WQ_OK)
        result =
            wq_db_ask(&w->db, "SELECT ifnull(max(seq), 0) + 1 FROM job", next_seq, NULL, 0, error);
    if (result == WQ_OK)
        result = restore_rows(w, ended, o, error);
    return result == WQ_OK ? restore_rows(w, waiting, o, error) : result;
}

/* writer.h - what a journal writes: changes of entries, a transaction a batch, and what is too old
 * or too much forgotten. For one thread. */
#ifndef WQ_JOURNAL_WRITER_H
#define WQ_JOURNAL_WRITER_H

#include "workqueue/journal/database.h"
#include "workqueue/journal/entry.h"
#include "workqueue/journal/slots.h"
#include "workqueue/util/clocks.h"

/* From what the file has of an entry to what it is to have. */
typedef struct wq_change {
    wq_entry *entry;
    wq_want have, want;
    int rebuild;
    wq_entry_end end; /* counted error; with ENDED */
} wq_change;

enum wq_statement {
    WQ_BEGIN,
    WQ_COMMIT,
    WQ_PUT_TOKEN,
    WQ_PUT_LONG_TOKEN,
    WQ_WIPE_TOKEN,
    WQ_WIPE_LONG_TOKEN,
    WQ_ADD,
    WQ_SET_REBUILD,
    WQ_SET_STARTED,
    WQ_END,
    WQ_REMOVE,
    WQ_ADD_ERROR,
    WQ_DROP_ERROR,
    WQ_TRIM_ERRORS,
    WQ_TRIM,
    WQ_STATEMENTS
};

/* What a job's row says in `started`. */
enum { WQ_ROW_WAITS, WQ_ROW_STARTED, WQ_ROW_CANCELLED };

typedef struct wq_writer {
    wq_db db;
    sqlite3_stmt *prepared[WQ_STATEMENTS];
    wq_slots slots[2];
    int syncs;
    size_t max_ended;
    int64_t retain_ms;
    uint64_t max_error_bytes;
    int64_t n_ended, error_bytes; /* in the file */
    int is_untidy;                /* the log holds something, or something is too old */
    int64_t tidied;               /* when last, monotonic */
    wq_wall wall;
} wq_writer;

/* `writer` is all zeros; wq_writer_close() also after a failure. */
int wq_writer_open(wq_writer *writer, const wq_journal_options *options, wq_error *error);
void wq_writer_close(wq_writer *writer);

/* All changes or none, durable. A new entry without a slot is given one. After a failure nobody
 * knows what the file has, as a sync that fails may yet reach the disk: every change is to be
 * written once more, and one that was to add an entry which is refused now, to remove it. */
int wq_writer_commit(wq_writer *writer, wq_change *changes, size_t n, wq_error *error);

/* Forgets what is too old, and empties the log, which holds tokens of ended jobs. */
int wq_writer_tidy(wq_writer *writer, wq_error *error);

/* When that is due, monotonic; 0: not at all. */
int64_t wq_writer_tidy_at(const wq_writer *writer);

#endif

/* entry.h - what a journal keeps of a job, and what its user has to do with it. */
#ifndef WQ_JOURNAL_ENTRY_H
#define WQ_JOURNAL_ENTRY_H

#include <sys/queue.h>
#include <workqueue/workqueue.h>

#include "workqueue/util/log.h"
#include "workqueue/util/text.h"

enum { WQ_SHORT_ERROR_BYTES = 512 }; /* what is kept of an error when there are too many */

typedef enum wq_want {
    WQ_WANT_NOTHING,
    WQ_WANT_WAITING,
    WQ_WANT_STARTED,
    WQ_WANT_CANCELLED, /* likewise, and somebody was told that it ends as cancelled */
    WQ_WANT_ENDED,
    WQ_WANT_ABSENT /* the journal's own: it was refused, and must not come back */
} wq_want;

typedef struct wq_entry_end {
    int state, returncode;
    wq_text *error; /* counted; NULL: none */
    uint64_t version;
    int64_t started_at_ms, ended_at_ms;
} wq_entry_end;

enum { WQ_UNLISTED, WQ_LISTED_SOON, WQ_LISTED_LATER, WQ_LISTED_FAILED };

typedef struct wq_entry {
    /* set before the entry is first written, and then never again; borrowed */
    int64_t seq; /* its place in the order, for ever */
    const char *id, *key;
    const wq_params *params;
    int64_t queued_at_ms;
    /* under the journal's lock */
    wq_want want;
    int want_rebuild;
    wq_entry_end end; /* while ENDED is wanted and not written */
    int listed;       /* one of WQ_UNLISTED and so on */
    int in_batch;
    int64_t since;
    TAILQ_ENTRY(wq_entry) link;
    /* the journal's thread's */
    wq_want have;
    int have_rebuild;
    int64_t slot; /* where its token is: 0 nowhere, negative among the long ones */
} wq_entry;

/* What came of an entry. */
typedef struct wq_written {
    enum { WQ_WRITTEN_ADDED, WQ_WRITTEN_END, WQ_WRITTEN_OTHER } what;
    int result;            /* WQ_OK, or why it could not be written */
    int rebuild;           /* what the file has of that */
    int is_last;           /* the journal has let go of the entry, until it is written again */
    const wq_error *error; /* when result is negative */
} wq_written;

/* A job of an earlier process. Borrowed for the call. */
typedef struct wq_journal_row {
    int64_t seq, slot;
    const char *id, *key;
    wq_params params; /* without token if it has ended */
    int rebuild, attempts, has_ended, is_cancelled;
    int64_t queued_at_ms;
    wq_entry_end end; /* if it has ended */
} wq_journal_row;

typedef struct wq_journal_options {
    const char *path;
    int sync;
    size_t max_ended;
    int64_t retain_ms;
    uint64_t max_error_bytes; /* of all kept errors together */
    wq_logger logger;
    void *user; /* handed to each of these */
    /* During wq_journal_open(): those that have ended first, oldest first, then the others in their
     * order. A negative result ends it. */
    int (*restore)(void *user, const wq_journal_row *row, wq_error *error);
    /* From the journal's thread, with no lock held. */
    void (*written)(void *user, wq_entry *entry, const wq_written *written);
} wq_journal_options;

#endif

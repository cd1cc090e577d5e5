/* look.h - asks the store, on a thread of its own, what became of a job; marks what is cancelled.
 */
#ifndef WQ_REMOTE_LOOK_H
#define WQ_REMOTE_LOOK_H

#include <sys/queue.h>

#include "workqueue/remote/record.h"

typedef enum wq_sight {
    WQ_SEEN_NOTHING, /* no end, nothing that runs */
    WQ_SEEN_AWAY,    /* the store does not say */
    WQ_SEEN_RUNNING,
    WQ_SEEN_DONE,
    WQ_SEEN_FAILED,
    WQ_SEEN_MARKED /* it was to be marked as cancelled, and is */
} wq_sight;

/* One question, borrowed until `done`. */
typedef struct wq_look {
    STAILQ_ENTRY(wq_look) link; /* the looker's */
    int marks;                  /* nonzero: it is to be marked as cancelled */
    const char *key, *id;
    int rebuild;
    uint64_t epoch;        /* it was accepted in; 0: it was not */
    char tag[WQ_TAG_SIZE]; /* in and out: of the record that was seen last */
    /* what came of it */
    wq_sight seen;
    int has_changed; /* the record, since the last look */
    int returncode;
    char *why;                /* owned; of a failure */
    void (*done)(void *user); /* from the looker's thread */
    void *user;
} wq_look;

typedef struct wq_looker wq_looker;

int wq_looker_open(wq_looker **out, const wq_store *store, wq_error *error);
void wq_looker_add(wq_looker *looker, wq_look *look);
void wq_looker_close(wq_looker *looker); /* what has not begun is done, unseen; NULL: nothing */

#endif

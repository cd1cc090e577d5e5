/* known.h - the jobs that can be found: by their ids, by their keys once they have succeeded, and
 * the ended ones by age, of which the oldest are forgotten.
 *
 * Callers hold the core's lock. */
#ifndef WQ_CORE_KNOWN_H
#define WQ_CORE_KNOWN_H

#include "workqueue/core/job.h"
#include "workqueue/util/tables.h"

typedef struct wq_known {
    size_t max_ended;
    int64_t retain_ms;
    uint64_t max_error_bytes; /* of all ended jobs together */
    wq_table by_id;       /* those that have not ended, and the ended ones that are still known */
    wq_table by_done_key; /* of those, the latest for each key that succeeded */
    struct wq_job_list ended; /* oldest first; counted */
    size_t n_ended;
    wq_job *oldest_long; /* in front of it every error has been shortened; NULL: all */
    uint64_t error_bytes;
} wq_known;

void wq_known_init(wq_known *known, const wq_options *options, uint64_t secret);
void wq_known_dispose(wq_known *known);

/* Makes a job that has not ended findable by its id. 0, or -1 without memory. */
int wq_known_add(wq_known *known, wq_job *job);
void wq_known_remove(wq_known *known, wq_job *job);

/* A job that is known has ended. The caller's reference becomes ours. */
void wq_known_end(wq_known *known, wq_job *job);

/* Takes out the oldest of the ended jobs if they are too many or it is too old (`all`: whatever),
 * to be unreferenced once the lock is free; NULL if there is none. */
wq_job *wq_known_evict(wq_known *known, int all);

/* The job with this id, or NULL if there is none any more; borrowed. */
wq_job *wq_known_by_id(const wq_known *known, const char *id);

/* The job for this key that succeeded and stays known for a while, or NULL; borrowed. */
wq_job *wq_known_done(const wq_known *known, const char *key);

#endif

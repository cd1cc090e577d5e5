/* elsewhere.h - jobs that other machines run for other servers, as the operator sees them. */
#ifndef WQ_HTTP_FACES_ELSEWHERE_H
#define WQ_HTTP_FACES_ELSEWHERE_H

#include <stdio.h>
#include <workqueue/extend.h>

#include "workqueue/http/http.h"

/* One of them. All strings are in `id`'s memory. */
typedef struct wq_far_job {
    char *id;
    const char *server, *document_set_id, *packager, *host, *key;
    uint64_t epoch;
    unsigned attempt;
    int64_t began_at_ms;
} wq_far_job;

/* All of them, by id. */
typedef struct wq_far_jobs {
    wq_far_job *jobs;
    size_t n;
    int64_t seen_at_ms; /* when the store said so */
} wq_far_jobs;

/* Asks the store, so on a thread. A wq_result; free it also after a failure. */
int wq_far_jobs_get(wq_http *http, wq_far_jobs *out, wq_error *error);
void wq_far_jobs_free(wq_far_jobs *jobs);

/* What runs there can be cancelled like what runs here; WQ_OK: it will be. */
int wq_far_job_cancel(wq_http *http, const wq_far_job *job);

/* Writes the same form as wq_job_record(), with who runs it. */
void wq_far_job_write(FILE *out, const wq_far_job *job, int64_t seen_at_ms);

/* Writes as events what has begun, or begun anew, and what is gone, since `before`. */
void wq_far_jobs_write_news(FILE *out, const wq_far_jobs *before, const wq_far_jobs *now);

#endif

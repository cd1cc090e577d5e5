/* job_record.h - a job as a resource: one JSON object with all that may be known of it, and never a
 * token. */
#ifndef WQ_HTTP_FACES_JOB_RECORD_H
#define WQ_HTTP_FACES_JOB_RECORD_H

#include <stdio.h>

#include "workqueue/http/http.h"

/* The job as `snapshot` has it, in memory of libh2o's that is counted (h2o_mem_release_shared()); its
 * links begin with `prefix`, which is wq_prefix() of who reads it. */
h2o_iovec_t wq_job_record(wq_http *http, h2o_iovec_t prefix, wq_job *job,
                          const wq_snapshot *snapshot);

/* The same, as it is now. */
h2o_iovec_t wq_job_record_now(wq_http *http, h2o_iovec_t prefix, wq_job *job);

/* Writes `, "name": "text"`, or null if the text is empty; of a time in RFC 3339, null if it is 0.
 */
void wq_write_text(FILE *out, const char *name, const char *text);
void wq_write_time(FILE *out, const char *name, int64_t ms);

#endif

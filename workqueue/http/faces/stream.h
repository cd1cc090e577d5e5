/* stream.h - one job's records as one long response, in any of the stream formats. */
#ifndef WQ_STREAM_H
#define WQ_STREAM_H

#include "workqueue/http/http.h"

typedef struct wq_format {
    const char *media_type;
    h2o_iovec_t first, next; /* before the first record, before each later one */
    h2o_iovec_t after;       /* behind each record */
    h2o_iovec_t end;         /* behind the last one */
    h2o_iovec_t cut, cut_none; /* instead, where the job goes on after a restart: behind a record, and
                                  where there was none */
    h2o_iovec_t none;        /* the whole body when the output is there already */
    h2o_iovec_t heartbeat;   /* NULL: the latest record once more */
    int has_ids; /* each record is preceded by "id: JOB.VERSION" */
    int is_resource; /* the records are those of GET /jobs/{id}; a change of the state is news, too */
} wq_format;

extern const wq_format wq_format_array, wq_format_ndjson, wq_format_sse, wq_format_job_events;

/* Streams the job's records to the end; takes over the reference to `job`. If `seen` is not 0, the
 * client has seen that version already and does not get it again; if that was the last one, the
 * answer is 204, which is what stops an EventSource. Returns 0. */
int wq_stream(wq_http *http, h2o_req_t *req, const wq_format *format, wq_job *job, uint64_t seen);

/* The job that the request's Last-Event-ID is of, with a reference, and the version seen; NULL if
 * there is none, or none that is still known. */
wq_job *wq_last_seen(wq_http *http, h2o_req_t *req, uint64_t *seen);

/* Answers that the output is there already. Returns 0. */
int wq_stream_none(h2o_req_t *req, const wq_format *format);

#endif

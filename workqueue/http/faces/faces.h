/* faces.h - the faces: one file each, one function each, listed in routes.c. */
#ifndef WQ_HTTP_FACES_FACES_H
#define WQ_HTTP_FACES_FACES_H

#include "workqueue/http/hold/ask.h"

/* `rest` is the path below the route, where the route ends in '/'. Returns 0, as handlers do. */
typedef int (*wq_face_fn)(wq_http *http, h2o_req_t *req, h2o_iovec_t rest);

int wq_face_generate(wq_http *http, h2o_req_t *req, h2o_iovec_t rest);   /* POST /generate */
int wq_face_start_work(wq_http *http, h2o_req_t *req, h2o_iovec_t rest); /* POST /start_work */
int wq_face_work(wq_http *http, h2o_req_t *req, h2o_iovec_t rest);       /* /work/{id} */
int wq_face_run(wq_http *http, h2o_req_t *req, h2o_iovec_t rest);        /* POST /run */
int wq_face_lunkwill(wq_http *http, h2o_req_t *req, h2o_iovec_t rest);   /* /api/lunkwill/... */
int wq_face_tasks(wq_http *http, h2o_req_t *req, h2o_iovec_t rest);      /* the task API */
int wq_face_stats(wq_http *http, h2o_req_t *req, h2o_iovec_t rest);      /* GET /stats */
int wq_face_outputs(wq_http *http, h2o_req_t *req, h2o_iovec_t rest);    /* /outputs, /outputs/{key} */
int wq_face_metrics(wq_http *http, h2o_req_t *req, h2o_iovec_t rest);    /* GET /metrics */
int wq_face_health(wq_http *http, h2o_req_t *req, h2o_iovec_t rest);     /* GET /health */
int wq_face_jobs(wq_http *http, h2o_req_t *req, h2o_iovec_t rest);       /* /jobs, /jobs/{id} */
int wq_face_output(wq_http *http, h2o_req_t *req, h2o_iovec_t rest);     /* DELETE /output */

/* State that some faces need beyond the job's; made by mount, freed with it. NULL: no memory. */
struct wq_lunkwill *wq_lunkwill_new(wq_http *http);
void wq_lunkwill_free(struct wq_lunkwill *lunkwill); /* NULL is allowed */

struct wq_tasks *wq_tasks_new(wq_queue *queue);
void wq_tasks_free(struct wq_tasks *tasks); /* NULL is allowed */

/* ---- what faces share ---- */

/* Reads the parameters and asks for the job. `then` goes on where there is one (or an output), with
 * result WQ_OK, WQ_ATTACHED or WQ_DONE; any failure is answered here. `flags` are wq_ensure_flags
 * besides what the request asks for (rebuild). The answer's X-Workqueue and, for an output that was
 * there, Age are in the response's headers already. Returns 0. */
int wq_begin(wq_http *http, h2o_req_t *req, unsigned flags, wq_then then);

/* The same for parameters that have been read already, and live as long as the request; `then` gets
 * the failures, too. */
int wq_ask(wq_http *http, h2o_req_t *req, const wq_params *params, unsigned flags, wq_then then);

/* What wq_ask() does before and after, for who asks the queue otherwise. 0, or -1 and
 * `answer->error`: the server stops, and takes no new jobs. */
int wq_refuse_stopping(wq_http *http, wq_answer *answer);
void wq_tell_answer(h2o_req_t *req, const wq_answer *answer);

/* Says where an answer comes from, in the response's headers; `result` is that of wq_begin(),
 * which has done this. */
void wq_tell_how(h2o_req_t *req, int result);

/* Names the job in the response's headers. */
void wq_tell_job(h2o_req_t *req, const wq_job *job);

/* The job with the id in `text`; NULL and a 404 problem if it is unknown. */
wq_job *wq_find_job(wq_http *http, h2o_req_t *req, h2o_iovec_t text);

/* What clients are told of where a job is, a wq_state: of one that ends here, but goes on after a
 * restart, that it goes on. And the same of a job at this moment. */
int wq_told_state(const wq_snapshot *snapshot);
int wq_state_of(wq_job *job);

/* Answers for a job that wq_job_cancel() or wq_job_abandon() has been called for; takes over the
 * reference. It has ended once the journal has its end: whoever asks after this answer is to see
 * that, also after a crash. A program that takes long to end is not waited for. */
int wq_answer_cancelled(wq_http *http, h2o_req_t *req, wq_job *job);

/* Cancels the job and says what came of it; takes over the reference. */
int wq_answer_delete(wq_http *http, h2o_req_t *req, wq_job *job);

/* Writes what is wrong, as a JSON array of sentences. Returns how many. */
int wq_put_problems(wq_http *http, FILE *out);

/* Does the request carry the operator's secret? 1: yes; 0: the request has been answered. */
int wq_is_operator(wq_http *http, h2o_req_t *req);

/* A link to a path of ours, for a Location or a body: with the prefix below which the client sees
 * us, in the request's pool. */
char *wq_link(wq_http *http, h2o_req_t *req, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* That prefix by itself; it lives as long as the request, or for ever. */
h2o_iovec_t wq_prefix(wq_http *http, h2o_req_t *req);

/* Is it this method? */
int wq_is_method(h2o_req_t *req, const char *method);

/* Seconds until a place in a full queue should be free. */
unsigned wq_retry_after_s(wq_queue *queue);

/* Seconds until it is worth asking for `params` again, after this failure. */
unsigned wq_result_retry_s(wq_queue *queue, int result, const wq_params *params);

#endif

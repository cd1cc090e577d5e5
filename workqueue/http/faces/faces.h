/* faces.h - the faces: one file each, one function each, listed in routes.c. */
#ifndef WQ_FACES_H
#define WQ_FACES_H

#include "workqueue/http/hold/loop.h"

/* `rest` is the path below the route, where the route ends in '/'. Returns 0, as handlers do. */
typedef int (*wq_face_fn)(wq_http *http, h2o_req_t *req, h2o_iovec_t rest);

int wq_face_generate(wq_http *http, h2o_req_t *req, h2o_iovec_t rest);   /* POST /generate */
int wq_face_start_work(wq_http *http, h2o_req_t *req, h2o_iovec_t rest); /* POST /start_work */
int wq_face_work(wq_http *http, h2o_req_t *req, h2o_iovec_t rest);       /* /work/{id} */
int wq_face_run(wq_http *http, h2o_req_t *req, h2o_iovec_t rest);        /* POST /run */
int wq_face_lunkwill(wq_http *http, h2o_req_t *req, h2o_iovec_t rest);   /* /api/lunkwill/... */
int wq_face_tasks(wq_http *http, h2o_req_t *req, h2o_iovec_t rest);      /* the task API */
int wq_face_metrics(wq_http *http, h2o_req_t *req, h2o_iovec_t rest);    /* GET /metrics */
int wq_face_health(wq_http *http, h2o_req_t *req, h2o_iovec_t rest);     /* GET /health */
int wq_face_jobs(wq_http *http, h2o_req_t *req, h2o_iovec_t rest);       /* /jobs, /jobs/{id} */
int wq_face_output(wq_http *http, h2o_req_t *req, h2o_iovec_t rest);     /* DELETE /output */

/* State that some faces need beyond the job's; made by mount, freed with it. NULL: no memory. */
struct wq_lunkwill *wq_lunkwill_new(wq_http *http);
void wq_lunkwill_free(struct wq_lunkwill *lunkwill); /* NULL is allowed */

/* Cancels the requests whose clients have stopped asking by `now` (wq_loop_now()). Returns when to
 * come again, 0: not before another request has been taken. Any loop may sweep for all. */
int64_t wq_lunkwill_sweep(struct wq_lunkwill *lunkwill, int64_t now);
struct wq_tasks *wq_tasks_new(void);
void wq_tasks_free(struct wq_tasks *tasks); /* NULL is allowed */
struct wq_parking *wq_parking_new(void);
void wq_parking_free(struct wq_parking *parking); /* waits for the queue; NULL is allowed */

/* ---- what faces share ---- */

/* Reads the parameters and asks for the job; WQ_OK, WQ_ATTACHED or WQ_DONE as wq_ensure_run() and
 * `*job` a reference if there is one; or negative, and the request has been answered. `flags` are
 * wq_ensure_flags besides what the request asks for (rebuild). The answer's X-Workqueue and, for an
 * output that was there, Age are in the response's headers already.
 *
 * Negative is also what it says of a request that has to wait for the journal or the store: the
 * face returns, and is called again for the same request later. So nothing lasting may be done
 * before. */
int wq_begin(wq_http *http, h2o_req_t *req, unsigned flags, wq_params *params, wq_job **job);

/* Who wants to know of the answer when the request may have ended. */
typedef struct wq_told {
    /* `job`: NULL if there is none; borrowed. From a thread of the queue's, before the face is
     * called again; not called if wq_ask() has the answer at once. */
    void (*tell)(wq_http *http, void *user, wq_job *job);
    void *user;
} wq_told;

/* The same as wq_begin() for parameters that have been read already; on failure nothing is
 * answered, and `error` says why. WQ_PENDING: the request has to wait, the face returns and is
 * called again. `told` may be NULL. */
int wq_ask(wq_http *http, h2o_req_t *req, unsigned flags, const wq_params *params,
           const wq_told *told, wq_job **job, wq_error *error);

/* ---- requests that wait: parking.c ---- */

typedef struct wq_parked wq_parked;

/* wq_ensure_run_aged() for a request, on its loop. WQ_PENDING: its face will be called again. */
int wq_park_for(wq_http *http, h2o_req_t *req, unsigned flags, const wq_params *params,
                const wq_told *told, wq_job **job, int64_t *made_at_ms, wq_error *error);

/* Is the face called again because there is an answer for wq_ask() to find? */
int wq_is_resumed(wq_http *http, const h2o_req_t *req);

/* Parks the request in front of others that wait for the same; NULL: no memory. */
wq_parked *wq_park(wq_http *http, h2o_req_t *req, wq_parked *next);

/* The faces of all these are called again; whoever parked them forgets them. Any thread, and no
 * lock is held. NULL is allowed. */
void wq_unpark(wq_parked *chain);

/* A question to the queue on behalf of a client of a loop, for whoever is no request any more. */
typedef struct wq_question {
    wq_post post; /* loop and arrive are set; called with the answer */
    void (*lost)(struct wq_question *question); /* instead: the loop has ended; on any thread */
    void (*told)(struct wq_question *question); /* before; on any thread; may be NULL */
    wq_http *http;
    /* the answer, as of wq_ensure_run_async() */
    int result;
    wq_job *job; /* counted */
    int64_t made_at_ms;
    wq_error error;
} wq_question;

/* On the loop. WQ_PENDING: it will arrive. Else the answer is there, and nothing will. */
int wq_question_ask(wq_question *question, unsigned flags, const wq_params *params);

/* ---- what faces share, too ---- */

/* Says where an answer comes from, in the response's headers; `result` is what wq_begin() returned,
 * which has done this. */
void wq_tell_how(h2o_req_t *req, int result);

/* The job with the id in `text`; NULL and a 404 problem if it is unknown. */
wq_job *wq_find_job(wq_http *http, h2o_req_t *req, h2o_iovec_t text);

/* Where a job is at this moment: a wq_state. */
int wq_state_of(wq_job *job);

/* Answers for a job that wq_job_cancel() or wq_job_abandon() has been called for; takes over the
 * reference. It has ended once the journal has its end: whoever asks after this answer is to see
 * that, also after a crash. A program that takes long to end is not waited for. */
int wq_answer_cancelled(wq_http *http, h2o_req_t *req, wq_job *job);

/* Cancels the job and says what came of it; takes over the reference. */
int wq_answer_delete(wq_http *http, h2o_req_t *req, wq_job *job);

/* Does the request carry the operator's secret? 1: yes; 0: the request has been answered. */
int wq_is_operator(wq_http *http, h2o_req_t *req);

/* Is it this method? */
int wq_is_method(h2o_req_t *req, const char *method);

/* Seconds until a place in a full queue should be free. */
unsigned wq_retry_after_s(wq_queue *queue);

/* Seconds until it is worth asking for `params` again, after this failure. */
unsigned wq_result_retry_s(wq_queue *queue, int result, const wq_params *params);

#endif

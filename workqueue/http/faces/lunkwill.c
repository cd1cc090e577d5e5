/* lunkwill.c - POST /run, held until its job ends; and the lunkwill conversation about it, for
 * clients that would rather ask now and then.
 *
 * Such a client is told when to ask next, and one that stops asking has its request cancelled. So
 * each request is known here by an id of its own, with the time of the last question. What becomes
 * of it is read from the job each time; nothing of that is kept.
 */
#include "workqueue/http/faces/faces.h"
#include "workqueue/http/faces/lunkwill_requests.h"
#include "workqueue/http/faces/result.h"
#include "workqueue/http/hold/held.h"
#include "workqueue/http/request/client.h"
#include "workqueue/http/request/problem.h"

enum { RETRY_MS = 2000 };

/* ---- the plain form -------------------------------------------------------------------------- */

static void answer_held(wq_held *held)
{
    wq_http *http = held->http;
    h2o_req_t *req = held->req;
    int ended = wq_told_state(&held->job->snapshot) >= WQ_STATE_SUCCEEDED;
    int stopping = held->job->snapshot.resumes || atomic_load(&http->stopping);
    if (!ended && !stopping)
        return;
    wq_job *job = wq_job_ref(held->job->job);
    wq_release(held);
    if (stopping)
        req->http1_is_persistent = 0;
    if (ended) {
        wq_answer_result(http, req, job);
    } else {
        wq_job_unref(job);
        wq_problem_result(req, WQ_ERROR_CLOSING, NULL, wq_retry_after_s(http->queue));
    }
}

static void on_run_timeout(wq_held *held)
{
    (void)held; /* there is no deadline */
}

static void on_run_gone(wq_held *held)
{
    h2o_req_t *req = held->req;
    wq_release(held);
    req->http1_is_persistent = 0;
    wq_problem(req, 408, "The client has closed its side of the connection; the job goes on.");
}

static int hold(wq_http *http, h2o_req_t *req, wq_job *job)
{
    wq_held *held = h2o_mem_alloc_pool(&req->pool, sizeof *held);
    *held = (wq_held){.http = http,
                      .face = WQ_FACE_RUN,
                      .req = req,
                      .news = answer_held,
                      .timeout = on_run_timeout,
                      .gone = on_run_gone};
    if (wq_hold(held, job) == 0)
        answer_held(held); /* it may have ended before it was watched */
    return 0;
}

/* ---- the conversation ------------------------------------------------------------------------ */

static int has_ended(wq_job *job)
{
    return wq_state_of(job) >= WQ_STATE_SUCCEEDED;
}

/* With nothing in front of it a job is about to run: clients that know only "processing" are not to
 * be told anything else by an idle server. */
static int state_of(wq_job *job)
{
    wq_snapshot now;
    wq_job_snapshot(job, &now);
    int state = wq_told_state(&now);
    if (state == WQ_STATE_QUEUED && now.n_ahead_in_queue == 0)
        state = WQ_STATE_RUNNING;
    wq_snapshot_clear(&now);
    return state;
}

/* What the protocol calls it. A failed program has an answer too; only an output that has been
 * deleted since, or a job that has been forgotten, has none. A store across a network is not asked
 * about each summary: there, the response tells. */
static const char *summary_status(wq_queue *queue, wq_job *job)
{
    static const char *const words[] = {"spooled", "processing", "buffering",
                                        "ready",   "ready",      "cancelled"};
    int state = job ? state_of(job) : WQ_STATE_SUCCEEDED;
    if (job == NULL || (state == WQ_STATE_SUCCEEDED && !wq_outputs_block(queue) &&
                        wq_output_find(queue, wq_job_params(job), NULL) == WQ_ERROR_NOT_FOUND))
        return "failed";
    return words[state];
}

enum { PLAIN, SUGGEST, REQUIRE, UNKNOWN };

static int form_of(h2o_req_t *req)
{
    h2o_iovec_t value = wq_request_header(req, "x-lunkwill");
    if (value.base == NULL)
        return PLAIN;
    for (; value.len > 0 && strchr(" \t", value.base[0]) != NULL; value.base++, value.len--)
        ;
    for (; value.len > 0 && strchr(" \t", value.base[value.len - 1]) != NULL; value.len--)
        ;
    if (h2o_lcstris(value.base, value.len, H2O_STRLIT("suggest")))
        return SUGGEST;
    return h2o_lcstris(value.base, value.len, H2O_STRLIT("require")) ? REQUIRE : UNKNOWN;
}

/* Takes over the reference to `job`. */
static int send_summary(wq_http *http, h2o_req_t *req, int status, const lunkwill_request *r,
                        wq_job *job)
{
    char text[256];
    int n = snprintf(text, sizeof text,
                     "{\"id\": \"%s\", \"status\": \"%s\", \"delay_ms\": %d, \"retry_ms\": %d}\n",
                     r->id, summary_status(http->queue, job), (int)r->delay_ms, RETRY_MS);
    wq_lunkwill_follow(http->lunkwill, req, r, job);
    wq_job_unref(job);
    h2o_add_header(&req->pool, &req->res.headers, H2O_TOKEN_CACHE_CONTROL, NULL,
                   H2O_STRLIT("no-store"));
    return wq_send_bytes(req, status,
                         "application/vnd.lunkwill.request-summary+json; charset=utf-8", text,
                         (size_t)n);
}

static int refuse_peer(wq_http *http, h2o_req_t *req)
{
    wq_error full = {0};
    snprintf(full.message, sizeof full.message,
             "%zu requests of this address are under way, as many as may; try again later",
             wq_peers_share(wq_lunkwill_peers(http->lunkwill)));
    return wq_problem_result(req, WQ_ERROR_USER_FULL, &full, wq_retry_after_s(http->queue));
}

static int on_intercepted(wq_http *http, h2o_req_t *req, const wq_answer *answer)
{
    lunkwill_request r;
    wq_peer *peer;
    wq_job *job = answer->job;
    if (answer->result == WQ_DONE && form_of(req) != REQUIRE)
        return wq_answer_result(http, req, job);
    int result = wq_peer_take(wq_lunkwill_peers(http->lunkwill),
                              wq_request_client(http->proxies, req), &peer);
    if (result == WQ_ERROR_FULL) {
        wq_job_abandon(job);
        wq_job_unref(job);
        return refuse_peer(http, req);
    }
    if (result != WQ_OK ||
        wq_lunkwill_enter(http->lunkwill, job, answer->result, wq_loop_now(), peer, &r) != 0) {
        wq_job_abandon(job);
        wq_job_unref(job);
        return wq_problem_result(req, WQ_ERROR_NO_MEMORY, NULL, 0);
    }
    return send_summary(http, req, 201, &r, job);
}

/* The job is asked for tentatively: only we may give it up again. */
static int intercept(wq_http *http, h2o_req_t *req)
{
    if (!wq_lunkwill_make_room(http->lunkwill, wq_loop_now())) {
        wq_error full = {.message = "as many requests are under way as may; try again later"};
        return wq_problem_result(req, WQ_ERROR_FULL, &full, wq_retry_after_s(http->queue));
    }
    if (!wq_peer_has_room(wq_lunkwill_peers(http->lunkwill), wq_request_client(http->proxies, req)))
        return refuse_peer(http, req); /* before a job begins */
    return wq_begin(http, req, WQ_ENSURE_JOB | WQ_ENSURE_TENTATIVE, on_intercepted);
}

/* A request of before a restart, of which only the job is left. */
static int adopt(wq_http *http, const char *id, lunkwill_request *r, wq_job **job)
{
    int64_t now = wq_loop_now();
    if (wq_job_by_id(http->queue, id, job) != WQ_OK)
        return 0;
    if (wq_lunkwill_make_room(http->lunkwill, now) &&
        wq_lunkwill_enter(http->lunkwill, *job, WQ_ATTACHED, now, NULL, r) == 0)
        return 1;
    wq_job_unref(*job);
    *job = NULL;
    return 0;
}

/* The request that is asked for, and its job, NULL if that is forgotten; 0 and a 404 if there is no
 * such request. */
static int find(wq_http *http, h2o_req_t *req, const char *id, lunkwill_request *r, wq_job **job)
{
    *job = NULL;
    if (!wq_lunkwill_note(http->lunkwill, id, wq_loop_now(), r)) {
        if (adopt(http, id, r, job))
            return 1;
        wq_problem(req, 404, "There is no request with this id, or it was long ago.");
        return 0;
    }
    wq_job_by_id(http->queue, r->job_id, job);
    return 1;
}

static int answer_summary(wq_http *http, h2o_req_t *req, const char *id)
{
    lunkwill_request r;
    wq_job *job;
    if (wq_method(req, "GET, HEAD, OPTIONS") || !find(http, req, id, &r, &job))
        return 0;
    return send_summary(http, req, 200, &r, job);
}

/* As the plain form would have answered, down to what it says of where the answer comes from. */
static int answer_response(wq_http *http, h2o_req_t *req, const char *id)
{
    lunkwill_request r;
    wq_job *job;
    if (wq_method(req, "GET, HEAD, OPTIONS") || !find(http, req, id, &r, &job))
        return 0;
    wq_lunkwill_follow(http->lunkwill, req, &r, job);
    if (job == NULL)
        return wq_problem(req, 410, "The response is not kept any more; ask for it again.");
    if (!has_ended(job)) {
        wq_job_unref(job);
        return wq_problem(req, 409,
                          "There is no response yet. Ask for the summary until its status is "
                          "\"ready\".");
    }
    wq_tell_how(req, r.how); /* an output tells its age itself */
    return wq_answer_result(http, req, job);
}

/* The client says that it will not ask again. */
static int answer_delete(wq_http *http, h2o_req_t *req, const char *id)
{
    lunkwill_request r;
    wq_job *job;
    if (wq_method(req, "DELETE, OPTIONS") || !find(http, req, id, &r, &job))
        return 0;
    wq_lunkwill_leave(http->lunkwill, id);
    if (wq_lunkwill_abandon(http->lunkwill, r.job_id) == WQ_OK && job != NULL)
        return wq_answer_cancelled(http, req, job);
    wq_job_unref(job);
    return wq_send_bytes(req, 204, NULL, NULL, 0);
}

int wq_face_lunkwill(wq_http *http, h2o_req_t *req, h2o_iovec_t rest)
{
    static const struct {
        const char *path;
        int (*answer)(wq_http *http, h2o_req_t *req, const char *id);
    } parts[] = {{"/summary", answer_summary}, {"/response", answer_response}, {"", answer_delete}};
    const size_t n = WQ_ID_SIZE - 1;
    char id[WQ_ID_SIZE] = "";
    for (size_t i = 0; i < sizeof parts / sizeof parts[0] && rest.len >= n; i++) {
        if (h2o_memis(rest.base + n, rest.len - n, parts[i].path, strlen(parts[i].path))) {
            memcpy(id, rest.base, n);
            return parts[i].answer(http, req, id);
        }
    }
    if (wq_is_method(req, "OPTIONS"))
        return wq_method(req, "OPTIONS"), 0;
    return wq_problem(req, 404, "There is nothing at this path.");
}

/* ---- POST /run ------------------------------------------------------------------------------- */

static int on_plain(wq_http *http, h2o_req_t *req, const wq_answer *answer)
{
    return answer->result == WQ_DONE ? wq_answer_result(http, req, answer->job)
                                     : hold(http, req, answer->job);
}

int wq_face_run(wq_http *http, h2o_req_t *req, h2o_iovec_t rest)
{
    (void)rest;
    if (wq_method(req, "POST, OPTIONS"))
        return 0;
    int form = form_of(req);
    if (form == UNKNOWN)
        return wq_problem(req, 400, "The header X-Lunkwill takes \"suggest\" or \"require\".");
    if (form != PLAIN)
        return intercept(http, req);
    return wq_begin(http, req, WQ_ENSURE_JOB, on_plain);
}

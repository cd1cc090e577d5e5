/* jobs.c - a job as a resource: POST /jobs, and GET and DELETE /jobs/{id}, which is for whoever
 * knows the id. */
#include "workqueue/http/faces/faces.h"
#include "workqueue/http/faces/handshake.h"
#include "workqueue/http/faces/job_list.h"
#include "workqueue/http/faces/job_log.h"
#include "workqueue/http/faces/job_record.h"
#include "workqueue/http/faces/stream.h"
#include "workqueue/http/faces/websocket.h"
#include "workqueue/http/request/fields.h"
#include "workqueue/http/request/media_types.h"
#include "workqueue/http/request/problem.h"

/* `record` is given up. */
static int send_record(h2o_req_t *req, int status, h2o_iovec_t record)
{
    h2o_add_header(&req->pool, &req->res.headers, H2O_TOKEN_CACHE_CONTROL, NULL,
                   H2O_STRLIT("no-store"));
    wq_send_bytes(req, status, "application/json", record.base, record.len);
    h2o_mem_release_shared(record.base);
    return 0;
}

/* Takes over the reference to `job`. */
static int answer_job(wq_http *http, h2o_req_t *req, int status, wq_job *job)
{
    h2o_iovec_t record = wq_job_record_now(http, wq_prefix(http, req), job);
    wq_job_unref(job);
    return send_record(req, status, record);
}

/* Does the client want events rather than JSON? */
static int wants_job_events(h2o_req_t *req)
{
    static const char *const offers[] = {"application/json", "text/event-stream"};
    h2o_iovec_t accept = wq_request_header_list(req, "accept");
    return accept.len > 0 && wq_accept(accept.base, accept.len, offers, 2) == 1;
}

/* POST /jobs, or to one of them: a job begins, is joined, or was there. */
static int answer_begun(wq_http *http, h2o_req_t *req, const wq_answer *answer)
{
    wq_job *job = answer->job;
    if (answer->result < 0)
        return wq_problem_result(req, answer->result, &answer->error,
                                 wq_retry_after_s(http->queue));
    const char *location = wq_link(http, req, "/jobs/%s", wq_job_id(job));
    h2o_add_header(&req->pool, &req->res.headers, H2O_TOKEN_LOCATION, NULL, location,
                   strlen(location));
    return answer_job(http, req, answer->result == WQ_OK ? 201 : 200, job);
}

static int create_job(wq_http *http, h2o_req_t *req)
{
    return wq_begin(http, req, WQ_ENSURE_JOB, answer_begun);
}

static void unref_job(void *job)
{
    wq_job_unref(*(wq_job **)job);
}

/* The operator has a job run again, which has the token that nobody else has any more. */
static int repeat_job(wq_http *http, h2o_req_t *req, h2o_iovec_t id)
{
    wq_job *old;
    if (!wq_is_operator(http, req) || (old = wq_find_job(http, req, id)) == NULL)
        return 0;
    /* its parameters are asked with, so it lives as long as the request */
    *(wq_job **)h2o_mem_alloc_shared(&req->pool, sizeof old, unref_job) = old;
    unsigned flags = WQ_ENSURE_JOB;
    if (wq_state_of(old) == WQ_STATE_SUCCEEDED)
        flags |= WQ_ENSURE_REBUILD;
    return wq_ask(http, req, wq_job_params(old), flags, answer_begun);
}

static int answer_log(wq_http *http, h2o_req_t *req, h2o_iovec_t id)
{
    static const char *const offers[] = {"text/plain", "text/event-stream"};
    h2o_iovec_t accept = wq_request_header(req, "accept");
    wq_job *job =
        wq_is_method(req, "GET") || wq_is_method(req, "HEAD") ? wq_find_job(http, req, id) : NULL;
    if (job == NULL)
        return wq_is_method(req, "GET") || wq_is_method(req, "HEAD")
                   ? 0
                   : wq_method(req, "GET, HEAD, OPTIONS");
    if (accept.len > 0 && wq_accept(accept.base, accept.len, offers, 2) == 1)
        return wq_answer_log_events(http, req, job);
    return wq_answer_log_text(req, job);
}

/* "ID/log"; cuts it to the id. */
static int is_log(h2o_iovec_t *rest)
{
    if (rest->len < 4 || memcmp(rest->base + rest->len - 4, "/log", 4) != 0)
        return 0;
    rest->len -= 4;
    return 1;
}

static int answer_resource(wq_http *http, h2o_req_t *req, h2o_iovec_t id)
{
    uint64_t seen = 0;
    wq_job *job = wq_find_job(http, req, id), *last;
    if (job == NULL)
        return 0;
    if (wq_is_method(req, "DELETE"))
        return wq_answer_delete(http, req, job);
    if (wq_handshake_wanted(req))
        return wq_websocket_resource(http, req, job);
    if (!wants_job_events(req))
        return answer_job(http, req, 200, job);
    last = wq_last_seen(http, req, &seen);
    wq_job_unref(last);
    return wq_stream(http, req, &wq_format_job_events, job, last == job ? seen : 0);
}

/* All of them are the operator's; one may be begun by anybody. */
static int answer_list(wq_http *http, h2o_req_t *req)
{
    if (wq_is_method(req, "POST"))
        return create_job(http, req);
    if (!wq_is_operator(http, req))
        return 0;
    if (wq_is_method(req, "DELETE"))
        return wq_answer_cancel_all(http, req);
    return wants_job_events(req) ? wq_answer_job_events(http, req) : wq_answer_job_list(http, req);
}

/* Also of the request that a browser asks about by a preflight. */
static int is_for_operator(h2o_req_t *req, int is_list)
{
    h2o_iovec_t method = req->method;
    if (wq_is_method(req, "OPTIONS"))
        method = wq_request_header(req, "access-control-request-method");
    const int is_post = h2o_memis(method.base, method.len, H2O_STRLIT("POST"));
    return method.len > 0 && is_list != is_post;
}

int wq_face_jobs(wq_http *http, h2o_req_t *req, h2o_iovec_t rest)
{
    const wq_http_options *options = &http->options;
    int is_list = rest.len == 0;
    h2o_set_header(&req->pool, &req->res.headers, H2O_TOKEN_VARY, H2O_STRLIT("Accept"), 1);
    if (is_for_operator(req, is_list))
        wq_own_origin_only(req);
    if (options->page != NULL && options->page(options->page_user, req) == 0)
        return 0;
    if (wq_method(req, "GET, HEAD, POST, DELETE, OPTIONS"))
        return 0;
    if (is_list)
        return answer_list(http, req);
    if (is_log(&rest))
        return answer_log(http, req, rest);
    if (wq_is_method(req, "POST"))
        return repeat_job(http, req, rest);
    return answer_resource(http, req, rest);
}

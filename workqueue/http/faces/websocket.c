/* websocket.c - see websocket.h. */
#include "workqueue/http/faces/websocket.h"

#include "workqueue/http/faces/faces.h"
#include "workqueue/http/faces/handshake.h"
#include "workqueue/http/faces/websocket_input.h"
#include "workqueue/http/request/client.h"
#include "workqueue/http/request/problem.h"

static int refuse_upgrade(h2o_req_t *req)
{
    return wq_problem_result(req, WQ_ERROR_NO_MEMORY, NULL, 5);
}

static int follow_job(wq_http *http, h2o_req_t *req, wq_job *job, const h2o_iovec_t *prefix)
{
    if (!wq_handshake_check(req)) {
        wq_job_unref(job);
        return 0;
    }
    websocket *ws = wq_websocket_new(http, req, &wq_websocket_callbacks);
    if (ws != NULL && prefix != NULL &&
        (ws->prefix = strndup(prefix->len > 0 ? prefix->base : "", prefix->len)) == NULL) {
        wq_websocket_free(ws);
        ws = NULL;
    }
    if (ws != NULL)
        return wq_websocket_begin(ws, req, job);
    wq_job_unref(job);
    return refuse_upgrade(req);
}

int wq_websocket(wq_http *http, h2o_req_t *req, wq_job *job)
{
    return follow_job(http, req, job, NULL);
}

int wq_websocket_resource(wq_http *http, h2o_req_t *req, wq_job *job)
{
    const h2o_iovec_t prefix = wq_prefix(http, req);
    return follow_job(http, req, job, &prefix);
}

static int begin_without_token(wq_http *http, h2o_req_t *req, const wq_params *params,
                               unsigned flags)
{
    wq_from from;
    if (atomic_load(&http->stopping) || req->conn->ctx->shutdown_requested)
        return wq_problem_result(req, WQ_ERROR_CLOSING, NULL, wq_retry_after_s(http->queue));
    websocket *ws = wq_websocket_new(http, req, &wq_websocket_callbacks);
    if (ws == NULL)
        return refuse_upgrade(req);
    wq_request_from(&from, http->proxies, req);
    if ((ws->token = wq_late_token_new(params, &from, flags)) != NULL)
        return wq_websocket_begin(ws, req, NULL);
    wq_websocket_free(ws);
    return refuse_upgrade(req);
}

static int begin_done(wq_http *http, h2o_req_t *req)
{
    websocket *ws = wq_websocket_new(http, req, &wq_websocket_callbacks);
    if (ws == NULL)
        return refuse_upgrade(req);
    wq_websocket_say_goodbye(ws, WSLAY_CODE_NORMAL_CLOSURE, "The output is there already.");
    return wq_websocket_begin(ws, req, NULL);
}

static int on_websocket_answer(wq_http *http, h2o_req_t *req, const wq_answer *answer)
{
    if (answer->result < 0)
        return wq_problem_result(req, answer->result, &answer->error,
                                 wq_result_retry_s(http->queue, answer->result, answer->params));
    return answer->job != NULL ? wq_websocket(http, req, answer->job) : begin_done(http, req);
}

int wq_websocket_generate(wq_http *http, h2o_req_t *req)
{
    wq_params params;
    int rebuild;
    if (!wq_handshake_check(req) || wq_request_target(&http->limits, req, &params, &rebuild) != 0)
        return 0;
    unsigned flags = rebuild ? WQ_ENSURE_REBUILD : 0;
    if (params.api_token == NULL)
        return begin_without_token(http, req, &params, flags);
    return wq_ask(http, req, &params, flags, on_websocket_answer);
}

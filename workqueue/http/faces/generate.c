/* generate.c - POST /generate: the stream of a job's records, begun or joined. */
#include <openssl/crypto.h>

#include "workqueue/http/faces/faces.h"
#include "workqueue/http/faces/handshake.h"
#include "workqueue/http/faces/stream.h"
#include "workqueue/http/faces/websocket.h"
#include "workqueue/http/request/fields.h"
#include "workqueue/http/request/media_types.h"
#include "workqueue/http/request/problem.h"

/* NDJSON goes by several names; each client gets the one that it asks for. */
static const struct {
    const char *media_type;
    const wq_format *format;
} offers[] = {
    {"application/json", &wq_format_array},         {"application/x-ndjson", &wq_format_ndjson},
    {"application/ndjson", &wq_format_ndjson},      {"application/jsonl", &wq_format_ndjson},
    {"application/x-jsonl", &wq_format_ndjson},     {"application/jsonlines", &wq_format_ndjson},
    {"application/x-jsonlines", &wq_format_ndjson}, {"text/event-stream", &wq_format_sse},
};
enum { N_OFFERS = sizeof offers / sizeof offers[0] };

static const wq_format *negotiate(h2o_req_t *req)
{
    const char *names[N_OFFERS];
    h2o_iovec_t accept = wq_request_header_list(req, "accept");
    for (size_t i = 0; i < N_OFFERS; i++)
        names[i] = offers[i].media_type;
    int chosen = wq_accept(accept.base, accept.len, names, N_OFFERS);
    if (chosen < 0)
        return NULL;
    const wq_format *format = offers[chosen].format;
    if (strcmp(format->media_type, names[chosen]) == 0)
        return format;
    wq_format *renamed = h2o_mem_alloc_pool(&req->pool, sizeof *renamed);
    *renamed = *format;
    renamed->media_type = names[chosen];
    return renamed;
}

/* What an EventSource that connects again has seen, if that is a job of these parameters. A job
 * that has ended must not run again only because somebody's connection did. 1: answered. */
static int resume(wq_http *http, h2o_req_t *req)
{
    char key[WQ_KEY_SIZE];
    wq_params params;
    uint64_t seen = 0;
    wq_job *job = wq_last_seen(http, req, &seen);
    if (job == NULL)
        return 0;
    if (wq_request_params(&http->limits, req, &params, NULL) != 0) {
        wq_job_unref(job);
        return 1;
    }
    if (wq_params_key(&params, key) != WQ_OK ||
        CRYPTO_memcmp(key, wq_job_key(job), sizeof key) != 0) {
        wq_job_unref(job);
        return 0;
    }
    wq_stream(http, req, &wq_format_sse, job, seen);
    return 1;
}

static int on_generate_answer(wq_http *http, h2o_req_t *req, const wq_answer *answer)
{
    const wq_format *format = negotiate(req);
    if (answer->job != NULL)
        return wq_stream(http, req, format, answer->job, 0);
    if (format == &wq_format_sse && wq_request_last_event_id(req).len > 0)
        return wq_send_bytes(req, 204, NULL, NULL, 0); /* it has seen the end */
    return wq_stream_none(req, format);
}

int wq_face_generate(wq_http *http, h2o_req_t *req, h2o_iovec_t rest)
{
    (void)rest;
    if (wq_method(req, "GET, POST, OPTIONS"))
        return 0;
    if (wq_handshake_wanted(req))
        return wq_websocket_generate(http, req);
    const wq_format *format = negotiate(req);
    if (format == NULL)
        return wq_problem(req, 406,
                          "This comes as application/json, application/x-ndjson or "
                          "text/event-stream.");
    if (wq_is_method(req, "GET") && format != &wq_format_sse) {
        h2o_add_header(&req->pool, &req->res.headers, H2O_TOKEN_ALLOW, NULL,
                       H2O_STRLIT("POST, OPTIONS"));
        return wq_problem(req, 405,
                          "Use POST; GET is for EventSource, which sends "
                          "\"Accept: text/event-stream\".");
    }
    if (format == &wq_format_sse && resume(http, req))
        return 0;
    return wq_begin(http, req, 0, on_generate_answer);
}

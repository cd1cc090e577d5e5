/* generate.c - POST /generate: the stream of a job's records, begun or joined. */
#include "workqueue/http/faces.h"
#include "workqueue/http/fields.h"
#include "workqueue/http/problem.h"
#include "workqueue/http/stream.h"

static const wq_format *const formats[] = {&wq_format_array, &wq_format_ndjson, &wq_format_sse};

static const wq_format *negotiate(h2o_req_t *req)
{
    const char *offers[3];
    h2o_iovec_t accept = wq_request_header(req, "accept");
    for (size_t i = 0; i < 3; i++)
        offers[i] = formats[i]->media_type;
    int chosen = wq_accept(accept.base, accept.len, offers, 3);
    return chosen < 0 ? NULL : formats[chosen];
}

/* What an EventSource that connects again has seen: "JOB.VERSION". The job, with a reference, if
 * that is one of these parameters; else NULL. A job that has ended must not run again only because
 * somebody's connection did. */
static wq_job *resume(wq_http *http, h2o_req_t *req, const wq_params *params, uint64_t *seen)
{
    char id[WQ_ID_SIZE] = "", key[WQ_KEY_SIZE];
    wq_job *job;
    h2o_iovec_t last = wq_request_header(req, "last-event-id");
    if (last.len <= WQ_ID_SIZE || last.base[WQ_ID_SIZE - 1] != '.')
        return NULL;
    memcpy(id, last.base, WQ_ID_SIZE - 1);
    size_t version = h2o_strtosize(last.base + WQ_ID_SIZE, last.len - WQ_ID_SIZE);
    if (version == SIZE_MAX || wq_job_by_id(http->queue, id, &job) != WQ_OK)
        return NULL;
    if (wq_params_key(params, key) != WQ_OK || strcmp(key, wq_job_key(job)) != 0) {
        wq_job_unref(job);
        return NULL;
    }
    *seen = version;
    return job;
}

static int has_seen_end(wq_job *job, uint64_t seen)
{
    wq_snapshot snapshot;
    wq_job_snapshot(job, &snapshot);
    int end = snapshot.has_returncode && seen >= snapshot.version;
    wq_snapshot_clear(&snapshot);
    return end;
}

static int answer_events(wq_http *http, h2o_req_t *req, const wq_params *params)
{
    uint64_t seen = 0;
    wq_error error;
    h2o_iovec_t last = wq_request_header(req, "last-event-id");
    wq_job *job = resume(http, req, params, &seen);
    if (job != NULL && has_seen_end(job, seen)) {
        wq_job_unref(job);
        return wq_send_bytes(req, 204, NULL, NULL, 0);
    }
    int result = job ? WQ_OK : wq_ensure_run(http->queue, params, 0, &job, &error);
    if (result == WQ_OK)
        return wq_stream(http, req, &wq_format_sse, job, seen);
    if (result == WQ_DONE && last.len > 0)
        return wq_send_bytes(req, 204, NULL, NULL, 0);
    if (result == WQ_DONE)
        return wq_stream_none(req, &wq_format_sse);
    return wq_problem_result(req, result, &error, wq_retry_after_s(http->queue));
}

int wq_face_generate(wq_http *http, h2o_req_t *req)
{
    wq_params params;
    wq_job *job;
    wq_error error;
    if (wq_method(req, "GET, POST, OPTIONS"))
        return 0;
    const wq_format *format = negotiate(req);
    if (format == NULL)
        return wq_problem(req, 406,
                          "this resource comes as application/json, "
                          "application/x-ndjson or text/event-stream");
    if (h2o_memis(req->method.base, req->method.len, H2O_STRLIT("GET")) &&
        format != &wq_format_sse) {
        h2o_add_header(&req->pool, &req->res.headers, H2O_TOKEN_ALLOW, NULL,
                       H2O_STRLIT("POST, OPTIONS"));
        return wq_problem(req, 405,
                          "use POST; GET is for EventSource, which sends "
                          "\"Accept: text/event-stream\"");
    }
    if (wq_request_params(&http->limits, req, &params) != 0)
        return 0;
    if (format == &wq_format_sse)
        return answer_events(http, req, &params);
    int result = wq_ensure_run(http->queue, &params, 0, &job, &error);
    if (result == WQ_OK)
        return wq_stream(http, req, format, job, 0);
    if (result == WQ_DONE)
        return wq_stream_none(req, format);
    return wq_problem_result(req, result, &error, wq_retry_after_s(http->queue));
}

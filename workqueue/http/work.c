/* work.c - polling: POST /start_work, GET, HEAD and DELETE /work/{id}.
 *
 * A poll is held until the job changes state or hold_ms have passed, so that a client that ignores
 * Retry-After cannot spin; and Retry-After is an estimate of the time left, so that one that obeys
 * it asks seldom.
 */
#include "workqueue/http/faces.h"
#include "workqueue/http/fields.h"
#include "workqueue/http/problem.h"
#include "workqueue/http/result.h"
#include "workqueue/http/stream.h"
#include "workqueue/http/websocket.h"

enum { MAX_WAIT_S = 60, MAX_RETRY_S = 86400 };

typedef struct poll {
    wq_held held;
    int state;   /* when it began to wait */
    long wait_s; /* what Prefer has asked for; -1: nothing */
} poll;

/* ---- the answer that it is not ready
 * -------------------------------------------------------------- */

static void add_number(h2o_req_t *req, const h2o_token_t *name, uint64_t value)
{
    char *text = h2o_mem_alloc_pool(&req->pool, 24);
    int n = snprintf(text, 24, "%llu", (unsigned long long)value);
    h2o_add_header(&req->pool, &req->res.headers, name, NULL, text, (size_t)n);
}

static int see_other(h2o_req_t *req, wq_job *job)
{
    char *path = h2o_mem_alloc_pool(&req->pool, 6 + WQ_ID_SIZE);
    int n = snprintf(path, 6 + WQ_ID_SIZE, "/work/%s", wq_job_id(job));
    uint64_t s = (wq_job_estimate_ms(job) + 999) / 1000;
    h2o_add_header(&req->pool, &req->res.headers, H2O_TOKEN_LOCATION, NULL, path, (size_t)n);
    add_number(req, H2O_TOKEN_RETRY_AFTER, s < MAX_RETRY_S ? s : MAX_RETRY_S);
    h2o_add_header(&req->pool, &req->res.headers, H2O_TOKEN_CACHE_CONTROL, NULL,
                   H2O_STRLIT("no-store"));
    wq_job_unref(job);
    return wq_send_bytes(req, 303, NULL, NULL, 0);
}

int wq_face_start_work(wq_http *http, h2o_req_t *req, h2o_iovec_t rest)
{
    wq_params params;
    wq_job *job;
    (void)rest;
    if (wq_method(req, "POST, OPTIONS"))
        return 0;
    if (wq_begin(http, req, WQ_ENSURE_JOB, &params, &job) < 0)
        return 0;
    return see_other(req, job);
}

/* ---- Prefer: wait=N (RFC 7240)
 * -------------------------------------------------------------------- */

static size_t skip_space(h2o_iovec_t s, size_t i)
{
    while (i < s.len && (s.base[i] == ' ' || s.base[i] == '\t'))
        i++;
    return i;
}

/* The seconds of one preference, as in `wait=10` or `wait="10"`; -1 if it is another. */
static long read_wait(h2o_iovec_t s)
{
    long seconds = 0;
    size_t i = skip_space(s, 0), digits = 0;
    if (s.len - i < 4 || !h2o_lcstris(s.base + i, 4, H2O_STRLIT("wait")))
        return -1;
    i = skip_space(s, i + 4);
    if (i == s.len || s.base[i] != '=')
        return -1;
    i = skip_space(s, i + 1);
    if (i < s.len && s.base[i] == '"')
        i++;
    for (; i < s.len && s.base[i] >= '0' && s.base[i] <= '9'; i++, digits++)
        seconds = seconds < 100000 ? seconds * 10 + (s.base[i] - '0') : seconds;
    if (i < s.len && s.base[i] == '"')
        i++;
    i = skip_space(s, i);
    return digits > 0 && (i == s.len || s.base[i] == ';') ? seconds : -1;
}

static long preferred_wait_s(h2o_req_t *req)
{
    h2o_iovec_t rest = wq_request_header(req, "prefer");
    while (rest.len > 0) {
        const char *comma = memchr(rest.base, ',', rest.len);
        size_t n = comma ? (size_t)(comma - rest.base) : rest.len;
        long seconds = read_wait(h2o_iovec_init(rest.base, n));
        if (seconds >= 0)
            return seconds;
        n += comma != NULL;
        rest = h2o_iovec_init(rest.base + n, rest.len - n);
    }
    return -1;
}

static void tell_preference(h2o_req_t *req, long wait_s)
{
    static const char name[] = "preference-applied";
    if (wait_s < 0)
        return;
    char *text = h2o_mem_alloc_pool(&req->pool, 32);
    int n = snprintf(text, 32, "wait=%ld", wait_s);
    h2o_add_header_by_str(&req->pool, &req->res.headers, name, sizeof name - 1, 0,
                          "Preference-Applied", text, (size_t)n);
}

/* ---- the held poll
 * -------------------------------------------------------------------------------- */

static void answer_poll(wq_held *held)
{
    poll *p = H2O_STRUCT_FROM_MEMBER(poll, held, held);
    wq_job *job = wq_job_ref(held->job->job);
    int ended = held->job->snapshot.has_returncode;
    h2o_req_t *req = held->req;
    wq_release(held);
    tell_preference(req, p->wait_s);
    if (ended)
        wq_answer_result(held->http, req, job);
    else
        see_other(req, job);
}

static void on_news(wq_held *held)
{
    poll *p = H2O_STRUCT_FROM_MEMBER(poll, held, held);
    if (held->job->snapshot.state != p->state || atomic_load(&held->http->stopping))
        answer_poll(held);
}

/* Answered all the same: the connection ends when the answer cannot be written. */
static void on_gone(wq_held *held)
{
    held->req->http1_is_persistent = 0;
    answer_poll(held);
}

static int64_t hold_ms(const wq_http *http, long wait_s)
{
    int64_t most = http->options.hold_ms, asked = wait_s * 1000;
    if (wait_s < 0)
        return most;
    if (most < MAX_WAIT_S * 1000)
        most = MAX_WAIT_S * 1000;
    return asked < most ? asked : most;
}

static int get_work(wq_http *http, h2o_req_t *req, wq_job *job)
{
    poll *p = h2o_mem_alloc_pool(&req->pool, sizeof *p);
    *p = (poll){.held = {.http = http,
                         .face = WQ_FACE_POLL,
                         .req = req,
                         .news = on_news,
                         .timeout = answer_poll,
                         .gone = on_gone},
                .wait_s = preferred_wait_s(req)};
    if (wq_hold(&p->held, job) != 0)
        return 0;
    int64_t ms = hold_ms(http, p->wait_s);
    if (p->wait_s >= 0)
        p->wait_s = ms / 1000;
    p->state = p->held.job->snapshot.state;
    if (p->held.job->snapshot.has_returncode || ms == 0 || atomic_load(&http->stopping) ||
        wq_is_method(req, "HEAD"))
        answer_poll(&p->held);
    else
        wq_held_deadline(&p->held, wq_loop_now() + ms);
    return 0;
}

/* ---- /work/{id}
 * ----------------------------------------------------------------------------------- */

static int stream_work(wq_http *http, h2o_req_t *req, wq_job *job)
{
    uint64_t seen = 0;
    wq_job *last = wq_last_seen(http, req, &seen);
    if (last != job)
        seen = 0;
    wq_job_unref(last);
    return wq_stream(http, req, &wq_format_sse, job, seen);
}

static int wants_events(wq_http *http, h2o_req_t *req)
{
    const char *offers[] = {http->options.result_type, wq_format_sse.media_type};
    h2o_iovec_t accept = wq_request_header(req, "accept");
    return wq_is_method(req, "GET") && wq_accept(accept.base, accept.len, offers, 2) == 1;
}

static int delete_work(h2o_req_t *req, wq_job *job)
{
    wq_snapshot snapshot;
    int cancelled = wq_job_cancel(job) == WQ_OK;
    if (!cancelled) {
        wq_job_snapshot(job, &snapshot);
        cancelled = snapshot.state == WQ_STATE_CANCELLED;
        wq_snapshot_clear(&snapshot);
    }
    wq_job_unref(job);
    if (cancelled)
        return wq_send_bytes(req, 204, NULL, NULL, 0);
    return wq_problem(req, 409, "It is too late to cancel this job: its program has ended.");
}

int wq_face_work(wq_http *http, h2o_req_t *req, h2o_iovec_t rest)
{
    if (wq_method(req, "GET, HEAD, DELETE, OPTIONS"))
        return 0;
    wq_job *job = wq_find_job(http, req, rest);
    if (job == NULL)
        return 0;
    if (wq_is_method(req, "DELETE"))
        return delete_work(req, job);
    if (wq_websocket_wanted(req))
        return wq_websocket(http, req, job);
    if (wants_events(http, req))
        return stream_work(http, req, job);
    return get_work(http, req, job);
}

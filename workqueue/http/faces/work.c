/* work.c - polling: POST /start_work, GET, HEAD and DELETE /work/{id} and /work/{id}/{n}.
 *
 * Clients that follow redirects by themselves count them, and some how often one URL comes: so the
 * n-th poll is sent to a path of its own, which is the same resource, and is held the longer the
 * larger n is. It is a path without a query, as there are clients that replace their path by it.
 *
 * A poll is answered when there is something to tell that a redirect can tell: the job has begun to
 * run, or has ended. Until then it is held, for a time, so that a client that ignores Retry-After
 * asks no more often than that. HEAD is never held: whoever asks so wants to know how it is now.
 */
#include "workqueue/http/faces/faces.h"
#include "workqueue/http/faces/handshake.h"
#include "workqueue/http/faces/result.h"
#include "workqueue/http/faces/stream.h"
#include "workqueue/http/faces/websocket.h"
#include "workqueue/http/hold/held.h"
#include "workqueue/http/request/fields.h"
#include "workqueue/http/request/media_types.h"
#include "workqueue/http/request/problem.h"

enum {
    WAIT_MS = 55000,     /* at most, or hold_ms if that is more: proxies wait 60 s for an answer */
    MAX_WAIT_S = 86400,  /* what is read of a preference; it is applied as above */
    GROWTH_PERCENT = 60, /* of hold_ms, with each poll of a client that follows redirects */
    LEAST_RETRY_MS = 4000, /* who obeys Retry-After may be late by so much, */
    RETRY_PART = 12,       /* or by that part of the time that the job has taken so far */
    MAX_DIGITS = 6,        /* of n */
};

typedef struct poll {
    wq_held held;
    int phase;  /* of the job, when the poll came */
    unsigned n; /* how many came before, by the client's own path */
} poll;

/* ---- Prefer: wait=N (RFC 7240) --------------------------------------------------------------- */

static const char *after_blanks(const char *at, const char *end)
{
    while (at < end && (*at == ' ' || *at == '\t'))
        at++;
    return at;
}

/* To the comma behind a preference; one inside a quoted string is none. */
static const char *find_comma(const char *at, const char *end)
{
    int quoted = 0;
    for (; at < end && (quoted || *at != ','); at++) {
        if (*at == '"')
            quoted = !quoted;
        else if (quoted && *at == '\\' && at + 1 < end)
            at++;
    }
    return at;
}

/* The seconds of one preference, if that is `wait`; else -1. */
static int64_t read_wait(const char *at, const char *end)
{
    int64_t s = 0;
    at = after_blanks(at, end);
    if (end - at < 4 || !h2o_lcstris(at, 4, H2O_STRLIT("wait")))
        return -1;
    at = after_blanks(at + 4, end);
    if (at == end || *at != '=')
        return -1;
    at = after_blanks(at + 1, end);
    int quoted = at < end && *at == '"';
    at += quoted;
    const char *digits = at;
    for (; at < end && *at >= '0' && *at <= '9'; at++)
        s = s > MAX_WAIT_S ? s : s * 10 + (*at - '0');
    if (at == digits || (quoted && (at == end || *at++ != '"')))
        return -1;
    at = after_blanks(at, end);
    return at == end || *at == ';' ? s : -1;
}

/* How long the client would like to wait, in seconds; -1: it does not say. */
static int64_t preferred_wait(h2o_req_t *req)
{
    for (ssize_t i = -1;
         (i = h2o_find_header_by_str(&req->headers, H2O_STRLIT("prefer"), i)) != -1;) {
        h2o_iovec_t value = req->headers.entries[i].value;
        const char *at = value.base, *end = value.base + value.len;
        while (at < end) {
            const char *comma = find_comma(at, end);
            int64_t s = read_wait(at, comma);
            if (s >= 0)
                return s;
            at = comma + 1;
        }
    }
    return -1;
}

/* How long this poll may be held; `*applied` is the preference as it is honoured, or -1. */
static int64_t hold_for(wq_http *http, h2o_req_t *req, unsigned n, int64_t *applied)
{
    int64_t hold_ms = http->options.hold_ms, s = preferred_wait(req);
    int64_t most = hold_ms > WAIT_MS ? hold_ms : WAIT_MS;
    int64_t grown = hold_ms + hold_ms * GROWTH_PERCENT * n / 100;
    *applied = s > most / 1000 ? most / 1000 : s;
    if (s >= 0)
        return *applied * 1000;
    return grown < most ? grown : most;
}

static void tell_applied(h2o_req_t *req, int64_t applied)
{
    char *text;
    if (applied < 0)
        return;
    text = h2o_mem_alloc_pool(&req->pool, 32);
    int n = snprintf(text, 32, "wait=%d", (int)applied);
    h2o_add_header_by_str(&req->pool, &req->res.headers, H2O_STRLIT("preference-applied"), 0,
                          "Preference-Applied", text, (size_t)n);
}

/* ---- answers --------------------------------------------------------------------------------- */

/* 303 to the job, for the poll after the n-th; takes over the reference. Who follows seed 001 needs
 * a Retry-After on each, also where there is nothing to wait for. */
static int redirect_poll(wq_http *http, h2o_req_t *req, wq_job *job, unsigned n, unsigned retry_s)
{
    char *location = n > 0 ? wq_link(http, req, "/work/%s/%u", wq_job_id(job), n)
                           : wq_link(http, req, "/work/%s", wq_job_id(job));
    char *seconds = h2o_mem_alloc_pool(&req->pool, 16);
    int digits = snprintf(seconds, 16, "%u", retry_s);
    wq_job_unref(job);
    h2o_add_header(&req->pool, &req->res.headers, H2O_TOKEN_LOCATION, NULL, location,
                   strlen(location));
    h2o_add_header(&req->pool, &req->res.headers, H2O_TOKEN_RETRY_AFTER, NULL, seconds,
                   (size_t)digits);
    h2o_add_header(&req->pool, &req->res.headers, H2O_TOKEN_CACHE_CONTROL, NULL,
                   H2O_STRLIT("no-store"));
    return wq_send_bytes(req, 303, NULL, NULL, 0);
}

/* When to ask again: when the job should have ended, but never so late that its end would be known
 * much later than it was. That each poll is held keeps their number small. */
static unsigned retry_after(wq_job *job, uint64_t estimate_ms)
{
    wq_snapshot now;
    wq_job_snapshot(job, &now);
    uint64_t age = now.waited_ms + now.ran_ms, most = age / RETRY_PART;
    wq_snapshot_clear(&now);
    most = most > LEAST_RETRY_MS ? most : LEAST_RETRY_MS;
    uint64_t s = (estimate_ms < most ? estimate_ms : most) / 1000;
    return s < 1 ? 1 : (unsigned)s;
}

/* Does the job go on after a restart, though it has ended here? Or do only these faces end? */
static int has_more_to_wait(wq_http *http, wq_job *job)
{
    wq_snapshot now;
    wq_job_snapshot(job, &now);
    int goes = now.resumes || (!now.has_returncode && atomic_load(&http->stopping));
    wq_snapshot_clear(&now);
    return goes;
}

/* What there is to tell now; takes over the reference. */
static int answer_or_hold(wq_http *http, h2o_req_t *req, wq_job *job, unsigned n)
{
    if (has_more_to_wait(http, job)) {
        req->http1_is_persistent = 0;
        return redirect_poll(http, req, job, n + 1, WQ_RESTART_S);
    }
    /* asked once: with many queued, its place among them is what a poll costs us most */
    uint64_t estimate_ms = wq_job_estimate_ms(job);
    if (estimate_ms == 0)
        return wq_answer_result(http, req, job);
    return redirect_poll(http, req, job, n + 1, retry_after(job, estimate_ms));
}

/* ---- held polls ------------------------------------------------------------------------------ */

/* What a poll tells apart. Publishing is short, so no reason for another round trip. */
static int phase_of(int state)
{
    return state == WQ_STATE_QUEUED ? 0 : state < WQ_STATE_SUCCEEDED ? 1 : 2;
}

static void on_poll_timeout(wq_held *held)
{
    wq_job *job = wq_job_ref(held->job->job);
    wq_release(held);
    answer_or_hold(held->http, held->req, job, H2O_STRUCT_FROM_MEMBER(poll, held, held)->n);
}

static void on_poll_news(wq_held *held)
{
    poll *p = H2O_STRUCT_FROM_MEMBER(poll, held, held);
    if (phase_of(held->job->snapshot.state) != p->phase || held->job->snapshot.resumes ||
        atomic_load(&held->http->stopping))
        on_poll_timeout(held);
}

static void on_poll_gone(wq_held *held)
{
    h2o_req_t *req = held->req;
    wq_release(held);
    req->http1_is_persistent = 0;
    wq_problem(req, 408, "The client has closed its side of the connection; the job goes on.");
}

/* Takes over the reference to `job`. */
static int hold_poll(wq_http *http, h2o_req_t *req, wq_job *job, unsigned n, int64_t ms,
                     int64_t applied)
{
    poll *p = h2o_mem_alloc_pool(&req->pool, sizeof *p);
    p->held = (wq_held){.http = http,
                        .face = WQ_FACE_POLL,
                        .req = req,
                        .news = on_poll_news,
                        .timeout = on_poll_timeout,
                        .gone = on_poll_gone};
    if (wq_hold(&p->held, job) != 0)
        return 0;
    tell_applied(req, applied);
    p->n = n;
    p->phase = phase_of(p->held.job->snapshot.state);
    wq_held_deadline(&p->held, wq_loop_now() + ms);
    if (p->phase == 2 || atomic_load(&http->stopping))
        on_poll_timeout(&p->held); /* since it was looked at */
    return 0;
}

/* Takes over the reference to `job`. */
static int answer_poll(wq_http *http, h2o_req_t *req, wq_job *job, unsigned n)
{
    int64_t applied, ms = hold_for(http, req, n, &applied);
    if (ms > 0 && wq_state_of(job) < WQ_STATE_SUCCEEDED && !atomic_load(&http->stopping))
        return hold_poll(http, req, job, n, ms, applied);
    tell_applied(req, applied);
    return answer_or_hold(http, req, job, n);
}

/* ---- the other things a client may want of a job --------------------------------------------- */

/* Would the client rather have events than an output? */
static int wants_events(wq_http *http, h2o_req_t *req)
{
    const char *type = http->options.result_type;
    size_t n = strcspn(type, "; \t");
    h2o_iovec_t accept = wq_request_header_list(req, "accept");
    if (accept.len == 0)
        return 0;
    h2o_iovec_t bare = h2o_strdup(&req->pool, type, n);
    h2o_strtolower(bare.base, bare.len);
    const char *offers[] = {bare.base, wq_format_sse.media_type};
    return wq_accept(accept.base, accept.len, offers, 2) == 1;
}

/* Takes over the reference to `job`. An id of another job is no reason not to tell of this one. */
static int answer_events(wq_http *http, h2o_req_t *req, wq_job *job)
{
    uint64_t seen = 0;
    wq_job *last = wq_last_seen(http, req, &seen);
    if (last != job)
        seen = 0;
    wq_job_unref(last);
    return wq_stream(http, req, &wq_format_sse, job, seen);
}

/* Who asks, for the log: an address, without its port. */
static void write_peer(h2o_req_t *req, char out[64])
{
    struct sockaddr_storage ss;
    socklen_t len = req->conn->callbacks->get_peername(req->conn, (void *)&ss);
    size_t n = len > 0 ? h2o_socket_getnumerichost((void *)&ss, len, out) : SIZE_MAX;
    snprintf(out + (n < 60 ? n : 0), 4, "%s", n < 60 ? "" : "?");
}

int wq_answer_delete(wq_http *http, h2o_req_t *req, wq_job *job)
{
    char by[64];
    write_peer(req, by);
    if (wq_job_cancel_by(job, by) == WQ_OK)
        return wq_answer_cancelled(http, req, job);
    int state = wq_state_of(job);
    wq_job_unref(job);
    if (state == WQ_STATE_CANCELLED)
        return wq_send_bytes(req, 204, NULL, NULL, 0);
    return wq_problem(req, 409, "It is too late to cancel this job: %s.",
                      state == WQ_STATE_FAILED      ? "it has failed"
                      : state < WQ_STATE_PUBLISHING ? "it is ending"
                                                    : "its program has succeeded");
}

/* ---- the faces ------------------------------------------------------------------------------- */

static int on_begun(wq_http *http, h2o_req_t *req, const wq_answer *answer_or_hold)
{
    uint64_t estimate_ms = wq_job_estimate_ms(answer_or_hold->job);
    return redirect_poll(http, req, answer_or_hold->job, 0,
                         estimate_ms == 0 ? 0 : retry_after(answer_or_hold->job, estimate_ms));
}

int wq_face_start_work(wq_http *http, h2o_req_t *req, h2o_iovec_t rest)
{
    (void)rest;
    if (wq_method(req, "POST, OPTIONS"))
        return 0;
    return wq_begin(http, req, WQ_ENSURE_JOB, on_begun);
}

/* Takes "/{n}" off the end; n, 0 if there is none. -1: it is no number. */
static int take_count(h2o_iovec_t *rest)
{
    const char *slash = memchr(rest->base, '/', rest->len);
    if (slash == NULL)
        return 0;
    size_t digits = (size_t)(rest->base + rest->len - slash - 1);
    size_t n = digits >= 1 && digits <= MAX_DIGITS ? h2o_strtosize(slash + 1, digits) : SIZE_MAX;
    rest->len = (size_t)(slash - rest->base);
    return n == SIZE_MAX ? -1 : (int)n;
}

/* "curl -X POST -L" asks with POST all along. */
static int is_bodiless_post(h2o_req_t *req)
{
    return wq_is_method(req, "POST") && req->entity.len == 0;
}

int wq_face_work(wq_http *http, h2o_req_t *req, h2o_iovec_t rest)
{
    wq_job *job;
    int n = rest.len > 0 ? take_count(&rest) : 0;
    if (!is_bodiless_post(req) && wq_method(req, "GET, HEAD, DELETE, OPTIONS"))
        return 0;
    if (n < 0)
        return wq_problem(req, 404, "There is nothing at this path.");
    if ((job = wq_find_job(http, req, rest)) == NULL)
        return 0;
    if (wq_is_method(req, "DELETE"))
        return wq_answer_delete(http, req, job);
    h2o_add_header(&req->pool, &req->res.headers, H2O_TOKEN_VARY, NULL, H2O_STRLIT("Accept"));
    if (wq_is_method(req, "HEAD"))
        return answer_or_hold(http, req, job, (unsigned)n);
    if (wq_handshake_wanted(req))
        return wq_websocket(http, req, job);
    if (wants_events(http, req))
        return answer_events(http, req, job);
    return answer_poll(http, req, job, (unsigned)n);
}

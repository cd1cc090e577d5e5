/* faces.c - what the faces share: from a request to a job. */
#include "workqueue/http/faces/faces.h"

#include <stdarg.h>
#include <time.h>

#include "workqueue/http/hold/held.h"
#include "workqueue/http/request/problem.h"
#include "workqueue/http/request/url.h"

int wq_is_method(h2o_req_t *req, const char *method)
{
    return h2o_memis(req->method.base, req->method.len, method, strlen(method));
}

h2o_iovec_t wq_prefix(wq_http *http, h2o_req_t *req)
{
    const char *own = http->options.path_prefix;
    h2o_iovec_t given = http->options.trust_forwarded_prefix
                            ? wq_request_header(req, "x-forwarded-prefix")
                            : h2o_iovec_init(NULL, 0);
    while (given.len > 0 && given.base[given.len - 1] == '/')
        given.len--;
    if (given.len > 0 && wq_is_prefix(given.base, given.len))
        return given;
    return own ? h2o_iovec_init(own, strlen(own)) : h2o_iovec_init(NULL, 0);
}

char *wq_link(wq_http *http, h2o_req_t *req, const char *format, ...)
{
    enum { PATH_BYTES = 128 }; /* of a path of ours */
    h2o_iovec_t prefix = wq_prefix(http, req);
    const size_t mount = http->mount_len;
    char *link = h2o_mem_alloc_pool(&req->pool, prefix.len + mount + PATH_BYTES);
    va_list args;
    if (prefix.len > 0)
        memcpy(link, prefix.base, prefix.len);
    if (mount > 0)
        memcpy(link + prefix.len, http->options.mount_path, mount);
    va_start(args, format);
    vsnprintf(link + prefix.len + mount, PATH_BYTES, format, args);
    va_end(args);
    return link;
}

static unsigned whole_seconds(uint64_t ms)
{
    uint64_t s = ms / 1000 + (ms % 1000 > 0);
    return s < 1 ? 1 : s > 3600 ? 3600 : (unsigned)s;
}

unsigned wq_retry_after_s(wq_queue *queue)
{
    wq_stats stats;
    wq_queue_stats(queue, &stats);
    return whole_seconds(stats.mean_run_ms / stats.workers);
}

unsigned wq_result_retry_s(wq_queue *queue, int result, const wq_params *params)
{
    if (result == WQ_ERROR_CLOSING)
        return WQ_RESTART_S;
    const uint64_t ms = result == WQ_ERROR_USER_FULL ? wq_user_estimate_ms(queue, params) : 0;
    return ms != 0 ? whole_seconds(ms) : wq_retry_after_s(queue);
}

static void tell_age(h2o_req_t *req, int64_t made_at_ms)
{
    struct timespec now;
    char *text = h2o_mem_alloc_pool(&req->pool, 24);
    clock_gettime(CLOCK_REALTIME, &now);
    int64_t age_ms = (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000 - made_at_ms;
    int n = snprintf(text, 24, "%lld", (long long)(age_ms > 0 ? age_ms / 1000 : 0));
    h2o_add_header(&req->pool, &req->res.headers, H2O_TOKEN_AGE, NULL, text, (size_t)n);
}

void wq_tell_how(h2o_req_t *req, int result)
{
    static const char name[] = "x-workqueue";
    const char *how = result == WQ_DONE ? "hit" : result == WQ_ATTACHED ? "attached" : "started";
    h2o_add_header_by_str(&req->pool, &req->res.headers, name, sizeof name - 1, 0, "X-Workqueue",
                          how, strlen(how));
}

void wq_tell_job(h2o_req_t *req, const wq_job *job)
{
    static const char name[] = "x-workqueue-job";
    const char *id = h2o_strdup(&req->pool, wq_job_id(job), SIZE_MAX).base;
    h2o_add_header_by_str(&req->pool, &req->res.headers, name, sizeof name - 1, 0, "X-Workqueue-Job",
                          id, WQ_ID_SIZE - 1);
}

void wq_tell_answer(h2o_req_t *req, const wq_answer *answer)
{
    if (answer->result >= 0)
        wq_tell_how(req, answer->result);
    if (answer->result == WQ_DONE)
        tell_age(req, answer->made_at_ms);
}

int wq_refuse_stopping(wq_http *http, wq_answer *answer)
{
    if (atomic_load(&http->stopping)) {
        answer->result = answer->error.code = WQ_ERROR_CLOSING;
        snprintf(answer->error.message, sizeof answer->error.message, "%s",
                 wq_strerror(WQ_ERROR_CLOSING));
        return -1;
    }
    return 0;
}

/* What a face goes on with, in the request's pool. */
typedef struct ask {
    wq_then then;
    wq_params params;
    int takes_failures;
} ask;

static int on_answer(wq_http *http, h2o_req_t *req, const wq_answer *answer)
{
    const ask *a = answer->context;
    wq_tell_answer(req, answer);
    if (answer->result >= 0 || a->takes_failures)
        return a->then(http, req, answer);
    return wq_problem_result(req, answer->result, &answer->error,
                             wq_result_retry_s(http->queue, answer->result, answer->params));
}

static int ask_queue(wq_http *http, h2o_req_t *req, unsigned flags, ask *a)
{
    wq_answer refusal = {.params = &a->params, .context = a};
    if (wq_refuse_stopping(http, &refusal) != 0)
        return on_answer(http, req, &refusal);
    return wq_ask_queue(http, req, &a->params, flags, on_answer, a);
}

int wq_ask(wq_http *http, h2o_req_t *req, const wq_params *params, unsigned flags, wq_then then)
{
    ask *a = h2o_mem_alloc_pool(&req->pool, sizeof *a);
    *a = (ask){.then = then, .params = *params, .takes_failures = 1};
    return ask_queue(http, req, flags, a);
}

int wq_begin(wq_http *http, h2o_req_t *req, unsigned flags, wq_then then)
{
    int rebuild;
    ask *a = h2o_mem_alloc_pool(&req->pool, sizeof *a);
    *a = (ask){.then = then};
    if (wq_request_params(&http->limits, req, &a->params, &rebuild) != 0)
        return 0;
    return ask_queue(http, req, rebuild ? flags | WQ_ENSURE_REBUILD : flags, a);
}

wq_job *wq_find_job(wq_http *http, h2o_req_t *req, h2o_iovec_t text)
{
    char id[WQ_ID_SIZE];
    wq_job *job = NULL;
    if (text.len == WQ_ID_SIZE - 1) {
        memcpy(id, text.base, text.len);
        id[text.len] = '\0';
        wq_job_by_id(http->queue, id, &job);
    }
    if (job == NULL)
        wq_problem(req, 404, "There is no job with this id, or it ended too long ago.");
    return job;
}

/* ---- a cancelled job ------------------------------------------------------------------------- */

enum { CANCEL_MS = 5000 };

static void answer_cancelled(wq_held *held)
{
    wq_release(held);
    wq_send_bytes(held->req, 204, NULL, NULL, 0);
}

static void on_cancel_news(wq_held *held)
{
    if (held->job->snapshot.has_returncode || held->job->snapshot.resumes || atomic_load(&held->http->stopping))
        answer_cancelled(held);
}

int wq_told_state(const wq_snapshot *snapshot)
{
    if (!snapshot->resumes)
        return snapshot->state;
    return snapshot->started_at_ms != 0 ? WQ_STATE_RUNNING : WQ_STATE_QUEUED;
}

int wq_state_of(wq_job *job)
{
    wq_snapshot snapshot;
    wq_job_snapshot(job, &snapshot);
    int state = wq_told_state(&snapshot);
    wq_snapshot_clear(&snapshot);
    return state;
}

/* Without a journal one that runs cannot come back, however long it takes to end. */
static int may_come_back(wq_http *http, wq_job *job)
{
    wq_stats stats;
    int queued = wq_state_of(job) == WQ_STATE_QUEUED;
    wq_queue_stats(http->queue, &stats);
    return queued || stats.has_journal;
}

int wq_answer_cancelled(wq_http *http, h2o_req_t *req, wq_job *job)
{
    if (!may_come_back(http, job)) {
        wq_job_unref(job);
        return wq_send_bytes(req, 204, NULL, NULL, 0);
    }
    wq_held *held = h2o_mem_alloc_pool(&req->pool, sizeof *held);
    *held = (wq_held){.http = http,
                      .face = WQ_FACE_DELETION,
                      .req = req,
                      .news = on_cancel_news,
                      .timeout = answer_cancelled,
                      .gone = answer_cancelled};
    if (wq_hold(held, job) != 0)
        return 0;
    wq_held_deadline(held, wq_loop_now() + CANCEL_MS);
    on_cancel_news(held); /* it may have ended meanwhile */
    return 0;
}

/* result.c - the answer that a job has come to: its output, or what went wrong.
 *
 * A small output goes out in one send, as every answer does. A larger one is read in chunks, each
 * when the kernel has taken the one before, so that it costs the memory of one chunk, however large
 * it is and however slow the client. Reading blocks the loop only if the page cache has to be
 * filled. The empty last send says that the kernel has all, so that the client is watched to the
 * end.
 *
 * An output across a network is opened, and read chunk by chunk, by threads (see fetch). The
 * request may end while one is at it, so what a thread writes to is not in the request's memory.
 */
#include "workqueue/http/faces/result.h"

#include <errno.h>
#include <sys/socket.h>
#include <time.h>

#include "workqueue/http/faces/conditions.h"
#include "workqueue/http/faces/faces.h"
#include "workqueue/http/hold/held.h"
#include "workqueue/http/hold/work.h"
#include "workqueue/http/request/problem.h"

enum {
    INLINE_BYTES = 16384,
    CHUNK_BYTES = 65536,
    FETCH_BYTES = 131072, /* a chunk from across a network costs a round trip */
    CHUNKS_AT_ONCE = 16,  /* then the loop's other clients have their turn */
};

typedef struct fetch fetch;

typedef struct result {
    h2o_generator_t generator; /* first: h2o hands it back */
    wq_held held;
    wq_output output; /* its fd is ours, to the request's end */
    fetch *fetch;     /* NULL: it has a descriptor */
    wq_part left;     /* what remains to be sent of it */
    char *buffer;     /* a chunk; NULL while there is none */
    unsigned chunks;  /* sent so far */
    int in_flight;    /* else it waits for its turn */
    uint64_t acked;   /* bytes that the client's machine had taken when last looked at */
    time_t modified;
    int is_dated; /* the second in which it was published is over: no other has the same date */
    char etag[sizeof(((wq_output *)0)->tag) + 2];
    char modified_text[H2O_TIMESTR_RFC1123_LEN + 1];
    char age[24];
    char content_range[72];
} result;

/* What threads do for a result: open the output, then read a chunk of it, again and again. The
 * loop's, but while work is under way: then only `result` and `is_under_way` are. */
struct fetch {
    wq_http *http;
    result *result; /* NULL: the request has ended */
    int is_under_way;
    wq_job *job; /* counted */
    wq_output output;
    uint64_t at;
    size_t size;
    int64_t n; /* how many bytes have been read, or what opening has come to */
    wq_error error;
    char buffer[];
};

static void free_fetch(fetch *f)
{
    wq_job_unref(f->job);
    free(f);
}

/* At the request's end, however it came. */
static void dispose(void *p)
{
    result *r = p;
    wq_release(&r->held);
    if (r->output.fd >= 0)
        close(r->output.fd);
    if (r->fetch == NULL)
        return;
    r->fetch->result = NULL;
    if (!r->fetch->is_under_way)
        free_fetch(r->fetch);
}

/* ---- headers --------------------------------------------------------------------------------- */

static void describe(result *r)
{
    struct timespec now;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &now);
    r->modified = (time_t)(r->output.made_at_ms / 1000);
    r->is_dated = now.tv_sec > r->modified;
    snprintf(r->etag, sizeof r->etag, "\"%s\"", r->output.tag);
    snprintf(r->age, sizeof r->age, "%lld",
             now.tv_sec > r->modified ? (long long)(now.tv_sec - r->modified) : 0);
    gmtime_r(&r->modified, &tm);
    if (now.tv_sec > r->modified) /* else another version may come to have the same: conditions.c */
        h2o_time2str_rfc1123(r->modified_text, &tm);
    else
        r->modified_text[0] = '\0';
}

static void add_text(h2o_req_t *req, const h2o_token_t *name, const char *text)
{
    h2o_set_header(&req->pool, &req->res.headers, name, text, strlen(text), 1);
}

/* What is true of the output, whichever part of it is sent. A face may have said already where the
 * answer comes from, and how old it is. */
static void add_validators(h2o_req_t *req, const result *r)
{
    h2o_headers_t *headers = &req->res.headers;
    static const char how[] = "x-workqueue";
    add_text(req, H2O_TOKEN_ETAG, r->etag);
    if (r->is_dated)
        add_text(req, H2O_TOKEN_LAST_MODIFIED, r->modified_text);
    add_text(req, H2O_TOKEN_CACHE_CONTROL, "private, no-cache");
    h2o_set_header(&req->pool, headers, H2O_TOKEN_AGE, r->age, strlen(r->age), 0);
    if (h2o_find_header_by_str(headers, how, sizeof how - 1, -1) == -1)
        h2o_add_header_by_str(&req->pool, headers, how, sizeof how - 1, 0, "X-Workqueue",
                              H2O_STRLIT("hit"));
}

static void add_result_headers(wq_http *http, h2o_req_t *req, int status, result *r)
{
    add_validators(req, r);
    add_text(req, H2O_TOKEN_CONTENT_TYPE, http->options.result_type);
    add_text(req, H2O_TOKEN_ACCEPT_RANGES, "bytes");
    h2o_add_header_by_str(&req->pool, &req->res.headers, H2O_STRLIT("x-content-type-options"), 0,
                          "X-Content-Type-Options", H2O_STRLIT("nosniff"));
    /* what a program has written must not run as a page of ours */
    h2o_add_header_by_str(&req->pool, &req->res.headers, H2O_STRLIT("content-security-policy"), 0,
                          "Content-Security-Policy",
                          H2O_STRLIT("sandbox; default-src 'none'; style-src 'unsafe-inline'; "
                                     "img-src data:"));
    if (status == 206) {
        snprintf(r->content_range, sizeof r->content_range, "bytes %llu-%llu/%llu",
                 (unsigned long long)r->left.at,
                 (unsigned long long)(r->left.at + r->left.bytes - 1),
                 (unsigned long long)r->output.size_bytes);
        add_text(req, H2O_TOKEN_CONTENT_RANGE, r->content_range);
    }
    wq_cors(req);
    req->res.status = status;
    req->res.reason = wq_reason(status);
    req->res.content_length = r->left.bytes;
}

static int answer_unsatisfiable(h2o_req_t *req, result *r)
{
    snprintf(r->content_range, sizeof r->content_range, "bytes */%llu",
             (unsigned long long)r->output.size_bytes);
    add_text(req, H2O_TOKEN_CONTENT_RANGE, r->content_range);
    add_text(req, H2O_TOKEN_ACCEPT_RANGES, "bytes");
    return wq_problem(req, 416, "The output has %llu bytes; no part of the range is in it.",
                      (unsigned long long)r->output.size_bytes);
}

/* ---- sending --------------------------------------------------------------------------------- */

/* Reads up to `size` bytes of what is left; how many, or -1 and errno; ENODATA: there are none, so
 * the file has become shorter. */
static ssize_t read_some(result *r, size_t size)
{
    ssize_t n;
    size = size < r->left.bytes ? size : (size_t)r->left.bytes;
    do
        n = pread(r->output.fd, r->buffer, size, (off_t)r->left.at);
    while (n < 0 && errno == EINTR);
    if (n == 0)
        errno = ENODATA;
    if (n <= 0)
        return -1;
    r->left.at += (uint64_t)n;
    r->left.bytes -= (uint64_t)n;
    return n;
}

static void finish_result(result *r, h2o_send_state_t state)
{
    h2o_req_t *req = r->held.req;
    if (atomic_load(&r->held.http->stopping))
        req->http1_is_persistent = 0;
    wq_release(&r->held);
    h2o_send(req, NULL, 0, state);
}

/* `n` bytes in the buffer; 0: that was all, negative: there is no more to be had. */
static void send_read(result *r, ssize_t n)
{
    wq_http *http = r->held.http;
    if (n <= 0) {
        finish_result(r, n == 0 ? H2O_SEND_STATE_FINAL : H2O_SEND_STATE_ERROR);
        return;
    }
    h2o_iovec_t chunk = h2o_iovec_init(r->buffer, (size_t)n);
    r->chunks++;
    r->in_flight = 1;
    r->acked = wq_client_bytes_taken(r->held.fd);
    atomic_fetch_add(&http->bytes_sent, (unsigned long long)n);
    wq_held_deadline(&r->held, wq_loop_now() + http->options.stall_timeout_ms);
    h2o_send(r->held.req, &chunk, 1, H2O_SEND_STATE_IN_PROGRESS);
}

static int start_fetch(fetch *f, wq_http_work_fn work, wq_http_done_fn done)
{
    int started = wq_work_start(f->http, f->result->held.req, work, done, f);
    f->is_under_way = started == WQ_OK;
    return started;
}

static void read_chunk(void *user, wq_http_task *task)
{
    fetch *f = user;
    (void)task;
    f->n = wq_output_read(f->job, &f->output, f->at, f->buffer, f->size, &f->error);
}

/* The result it was for; NULL: it has ended, and the fetch with it, or is about to. */
static result *arrived(fetch *f)
{
    f->is_under_way = 0;
    if (f->result == NULL)
        free_fetch(f);
    else if (f->result->held.fd < 0) /* released: it is about to end */
        return NULL;
    else
        return f->result;
    return NULL;
}

static void on_result_chunk(void *user, h2o_req_t *req)
{
    fetch *f = user;
    result *r = arrived(f);
    (void)req;
    if (r == NULL)
        return;
    ssize_t n = f->n <= 0 || (uint64_t)f->n > r->left.bytes ? -1 : (ssize_t)f->n;
    if (n > 0) {
        r->left.at += (uint64_t)n;
        r->left.bytes -= (uint64_t)n;
    }
    send_read(r, n);
}

static void send_chunk(result *r)
{
    fetch *f = r->fetch;
    if (r->left.bytes == 0 || f == NULL) {
        send_read(r, r->left.bytes > 0 ? read_some(r, CHUNK_BYTES) : 0);
        return;
    }
    f->at = r->left.at;
    f->size = r->left.bytes < FETCH_BYTES ? (size_t)r->left.bytes : FETCH_BYTES;
    r->buffer = f->buffer;
    r->in_flight = 0;
    if (start_fetch(f, read_chunk, on_result_chunk) != WQ_OK)
        finish_result(r, H2O_SEND_STATE_ERROR);
}

/* While the kernel takes one chunk after the other, libh2o looks at nothing else. */
static void on_result_proceed(h2o_generator_t *generator, h2o_req_t *req)
{
    result *r = (result *)generator;
    (void)req;
    r->in_flight = 0;
    if (r->left.bytes > 0 && r->chunks % CHUNKS_AT_ONCE == 0)
        wq_held_deadline(&r->held, wq_loop_now());
    else
        send_chunk(r);
}

/* A slow client may take longer for a chunk; one that takes nothing is dropped. */
static void on_result_timeout(wq_held *held)
{
    result *r = H2O_STRUCT_FROM_MEMBER(result, held, held);
    uint64_t acked = wq_client_bytes_taken(held->fd);
    if (r->fetch != NULL && r->fetch->is_under_way) {
        wq_held_deadline(held, wq_loop_now() + held->http->options.stall_timeout_ms);
    } else if (!r->in_flight) {
        send_chunk(r);
    } else if (acked != r->acked) {
        r->acked = acked;
        wq_held_deadline(held, wq_loop_now() + held->http->options.stall_timeout_ms);
    } else {
        atomic_fetch_add(&held->http->clients_stalled, 1);
        shutdown(held->fd, SHUT_RDWR); /* the send fails, `stop` follows */
    }
}

/* It may have closed its side only, and still read. If not, the send under way fails. */
static void on_result_gone(wq_held *held)
{
    (void)held;
}

static void on_result_stop(h2o_generator_t *generator, h2o_req_t *req)
{
    (void)req;
    wq_release(&((result *)generator)->held);
}

static int send_large(wq_http *http, h2o_req_t *req, int status, result *r)
{
    r->held = (wq_held){.http = http,
                        .face = WQ_FACE_RESULT,
                        .req = req,
                        .news = on_result_gone, /* it has no job */
                        .timeout = on_result_timeout,
                        .gone = on_result_gone};
    if (wq_hold(&r->held, NULL) != 0)
        return 0;
    r->generator = (h2o_generator_t){on_result_proceed, on_result_stop};
    if (r->fetch == NULL)
        r->buffer = h2o_mem_alloc_pool(&req->pool, CHUNK_BYTES);
    add_result_headers(http, req, status, r);
    h2o_start_response(req, &r->generator);
    send_chunk(r);
    return 0;
}

static int send_small(wq_http *http, h2o_req_t *req, int status, result *r)
{
    size_t size = (size_t)r->left.bytes, n = 0;
    char *body = h2o_mem_alloc_pool(&req->pool, size + 1);
    for (ssize_t more = 0; n < size; n += (size_t)more) {
        r->buffer = body + n;
        if ((more = read_some(r, size - n)) < 0)
            return wq_problem(req, 500, "The output cannot be read in full: %s.", strerror(errno));
    }
    r->left.at -= size;
    r->left.bytes = size;
    add_result_headers(http, req, status, r);
    atomic_fetch_add(&http->bytes_sent, size);
    h2o_iovec_t buf = h2o_iovec_init(body, size);
    h2o_start_response(req, &r->generator);
    h2o_send(req, &buf, size > 0, H2O_SEND_STATE_FINAL);
    return 0;
}

/* Without a body. */
static int send_head(wq_http *http, h2o_req_t *req, int status, result *r)
{
    add_result_headers(http, req, status, r);
    h2o_start_response(req, &r->generator);
    h2o_send(req, NULL, 0, H2O_SEND_STATE_FINAL);
    return 0;
}

/* ---- answers --------------------------------------------------------------------------------- */

static int send_output(wq_http *http, h2o_req_t *req, result *r)
{
    const wq_output_version version = {r->etag, r->modified, r->is_dated ? r->modified_text : NULL,
                                       r->output.size_bytes};
    int status = wq_check_conditions(req, &version, &r->left);
    switch (status) {
    case 304:
        add_validators(req, r);
        return wq_send_bytes(req, status, NULL, NULL, 0);
    case 412:
        add_validators(req, r);
        return wq_problem(req, status, "The output is not the one that the request is about.");
    case 416:
        return answer_unsatisfiable(req, r);
    default:
        if (wq_is_method(req, "HEAD"))
            return send_head(http, req, status, r);
        if (r->left.bytes > INLINE_BYTES || r->fetch != NULL)
            return send_large(http, req, status, r);
        return send_small(http, req, status, r);
    }
}

static int answer_unopened(wq_http *http, h2o_req_t *req, int opened, const wq_error *error)
{
    if (opened == WQ_ERROR_NOT_FOUND)
        return wq_problem(req, 410, "The output has been deleted; ask for the job again.");
    return wq_problem_result(req, opened, error, wq_retry_after_s(http->queue));
}

static int answer_opened(wq_http *http, h2o_req_t *req, const wq_output *output, result *r)
{
    r->output = *output;
    r->left.bytes = output->size_bytes;
    describe(r);
    return send_output(http, req, r);
}

static int answer_output(wq_http *http, h2o_req_t *req, wq_job *job)
{
    wq_error error;
    wq_output output;
    int opened = wq_job_output(job, &output, &error);
    if (opened != WQ_OK)
        return answer_unopened(http, req, opened, &error);
    result *r = h2o_mem_alloc_shared(&req->pool, sizeof *r, dispose);
    *r = (result){.held = {.fd = -1}};
    return answer_opened(http, req, &output, r);
}

/* ---- outputs across a network ---------------------------------------------------------------- */

/* Clients fetch it themselves: with a GET, whatever they asked with. */
static int redirect_to_store(h2o_req_t *req, const char *url)
{
    add_text(req, H2O_TOKEN_LOCATION, h2o_strdup(&req->pool, url, SIZE_MAX).base);
    add_text(req, H2O_TOKEN_CACHE_CONTROL, "no-store");
    return wq_send_bytes(req, wq_is_method(req, "GET") || wq_is_method(req, "HEAD") ? 302 : 303,
                         NULL, NULL, 0);
}

static void open_output(void *user, wq_http_task *task)
{
    fetch *f = user;
    (void)task;
    f->n = wq_job_output(f->job, &f->output, &f->error);
}

/* The client may have left; it is answered in any case, as what is held has to be. */
static void on_opened(void *user, h2o_req_t *req)
{
    fetch *f = user;
    result *r = arrived(f);
    if (r == NULL)
        return;
    wq_release(&r->held);
    if (f->n == WQ_OK)
        answer_opened(f->http, req, &f->output, r);
    else
        answer_unopened(f->http, req, (int)f->n, &f->error);
}

/* Takes a reference of its own. */
static int answer_from_afar(wq_http *http, h2o_req_t *req, wq_job *job)
{
    char url[4096];
    if (wq_output_url(job, url, sizeof url, NULL) == WQ_OK)
        return redirect_to_store(req, url);
    fetch *f = calloc(1, sizeof *f + FETCH_BYTES);
    if (f == NULL)
        return wq_problem_result(req, WQ_ERROR_NO_MEMORY, NULL, 5);
    f->http = http;
    f->job = wq_job_ref(job);
    result *r = f->result = h2o_mem_alloc_shared(&req->pool, sizeof *r, dispose);
    *r =
        (result){.held = {.http = http, .face = WQ_FACE_RESULT, .req = req, .gone = on_result_gone},
                 .output = {.fd = -1},
                 .fetch = f};
    if (wq_hold(&r->held, NULL) != 0)
        return 0;
    if (start_fetch(f, open_output, on_opened) == WQ_OK)
        return 0;
    wq_release(&r->held);
    return wq_problem_result(req, WQ_ERROR_FULL, NULL, 5);
}

/* For a person: the reason in front, and below it what programs get, with the end of stderr. */
static int answer_failure(h2o_req_t *req, const wq_snapshot *snapshot)
{
    char reason[1024];
    const char *error = snapshot->error != NULL ? snapshot->error : "failed";
    wq_snapshot_reason(snapshot, reason, sizeof reason);
    if (strchr(error, '\n') == NULL)
        return wq_http_problem(req, 500, error); /* it is the sentence itself, of any length */
    size_t size = strlen(reason) + strlen(error) + sizeof "\n\n";
    char *detail = h2o_mem_alloc_pool(&req->pool, size);
    snprintf(detail, size, "%s\n\n%s", reason, error);
    return wq_http_problem(req, 500, detail);
}

int wq_answer_result(wq_http *http, h2o_req_t *req, wq_job *job)
{
    wq_snapshot snapshot;
    wq_job_snapshot(job, &snapshot);
    const char *error = snapshot.error ? snapshot.error : "cancelled";
    if (snapshot.resumes)
        wq_problem_result(req, WQ_ERROR_CLOSING, NULL, WQ_RESTART_S);
    else if (snapshot.state == WQ_STATE_SUCCEEDED && wq_outputs_block(http->queue))
        answer_from_afar(http, req, job);
    else if (snapshot.state == WQ_STATE_SUCCEEDED)
        answer_output(http, req, job);
    else if (snapshot.state == WQ_STATE_CANCELLED)
        wq_problem(req, 410, "The job has been %s.", error);
    else
        answer_failure(req, &snapshot);
    wq_snapshot_clear(&snapshot);
    wq_job_unref(job);
    return 0;
}

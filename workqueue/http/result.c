/* result.c - the answer that a job has come to: its output, or what went wrong.
 *
 * An output is sent from its file in chunks, each read when the one before has been taken, so that
 * its size costs no memory; a client that takes nothing for stall_timeout_ms is dropped.
 */
#include "workqueue/http/result.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "workqueue/http/faces.h"
#include "workqueue/http/problem.h"

enum { CHUNK_BYTES = 128 * 1024 };

typedef struct sending {
    h2o_generator_t generator; /* first: h2o hands it back */
    wq_held held;
    int fd;
    uint64_t at, end; /* what of the file is still to be sent */
    char *chunk;
    int in_flight;
} sending;

/* ---- sending
 * -------------------------------------------------------------------------------------- */

/* At the end of the request, whatever that is. */
static void dispose(void *memory)
{
    sending *s = memory;
    wq_release(&s->held);
    if (s->fd >= 0)
        close(s->fd);
    free(s->chunk);
}

static size_t read_chunk(sending *s)
{
    uint64_t left = s->end - s->at;
    size_t want = left < CHUNK_BYTES ? (size_t)left : CHUNK_BYTES, got = 0;
    while (got < want) {
        ssize_t n = pread(s->fd, s->chunk + got, want - got, (off_t)(s->at + got));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        got += (size_t)n;
    }
    return got;
}

static void send_chunk(sending *s)
{
    h2o_req_t *req = s->held.req;
    size_t n = read_chunk(s);
    h2o_iovec_t body = {s->chunk, n};
    s->at += n;
    atomic_fetch_add(&s->held.http->bytes_sent, n);
    if (n == 0 || s->at == s->end) { /* a file that has been cut short cannot be mended here */
        wq_release(&s->held);
        h2o_send(req, &body, n > 0, n > 0 ? H2O_SEND_STATE_FINAL : H2O_SEND_STATE_ERROR);
        return;
    }
    s->in_flight = 1;
    wq_held_deadline(&s->held, wq_loop_now() + s->held.http->options.stall_timeout_ms);
    h2o_send(req, &body, 1, H2O_SEND_STATE_IN_PROGRESS);
}

static void on_proceed(h2o_generator_t *generator, h2o_req_t *req)
{
    sending *s = (sending *)generator;
    (void)req;
    s->in_flight = 0;
    send_chunk(s);
}

static void on_stop(h2o_generator_t *generator, h2o_req_t *req)
{
    (void)req;
    wq_release(&((sending *)generator)->held);
}

/* A chunk is in flight at all times but within our own calls: the send fails, and `stop` follows.
 */
static void on_gone(wq_held *held)
{
    shutdown(held->fd, SHUT_RDWR);
}

static void on_timeout(wq_held *held)
{
    atomic_fetch_add(&held->http->clients_stalled, 1);
    shutdown(held->fd, SHUT_RDWR);
}

static void ignore_news(wq_held *held)
{
    (void)held;
}

/* ---- ranges and conditions (RFC 9110)
 * ------------------------------------------------------------- */

typedef struct range {
    uint64_t begin, end; /* the bytes [begin, end) */
} range;

static int read_number(h2o_iovec_t *s, uint64_t *out)
{
    size_t i = 0;
    *out = 0;
    for (; i < s->len && s->base[i] >= '0' && s->base[i] <= '9'; i++)
        *out = *out < UINT64_MAX / 100 ? *out * 10 + (uint64_t)(s->base[i] - '0') : *out;
    *s = h2o_iovec_init(s->base + i, s->len - i);
    return i > 0;
}

/* 1 and a range, 0 if the whole is to be sent, -1 if it cannot be satisfied. One range only: a
 * server may ignore others. */
static int read_range(h2o_iovec_t s, uint64_t size, range *out)
{
    uint64_t first, last;
    if (s.len < 6 || !h2o_lcstris(s.base, 6, H2O_STRLIT("bytes=")))
        return 0;
    s = h2o_iovec_init(s.base + 6, s.len - 6);
    int has_first = read_number(&s, &first);
    if (s.len == 0 || *s.base != '-')
        return 0;
    s = h2o_iovec_init(s.base + 1, s.len - 1);
    int has_last = read_number(&s, &last);
    if (s.len != 0 || (!has_first && !has_last) || (has_first && has_last && last < first))
        return 0;
    if (!has_first) { /* the last so many */
        *out = (range){last < size ? size - last : 0, size};
        return last > 0 ? 1 : -1;
    }
    if (first >= size)
        return -1;
    *out = (range){first, has_last && last < size - 1 ? last + 1 : size};
    return 1;
}

/* Is the tag in the list? `weak`: W/ makes no difference. */
static int has_tag(h2o_iovec_t list, const char *tag, int weak)
{
    size_t n = strlen(tag);
    while (list.len > 0) {
        const char *comma = memchr(list.base, ',', list.len);
        size_t len = comma ? (size_t)(comma - list.base) : list.len;
        h2o_iovec_t one = h2o_str_stripws(list.base, len);
        if (weak && one.len > 2 && memcmp(one.base, "W/", 2) == 0)
            one = h2o_iovec_init(one.base + 2, one.len - 2);
        if ((one.len == 1 && *one.base == '*') || h2o_memis(one.base, one.len, tag, n))
            return 1;
        len += comma != NULL;
        list = h2o_iovec_init(list.base + len, list.len - len);
    }
    return 0;
}

static int is_newer(h2o_iovec_t date, int64_t made_at_ms)
{
    struct tm tm;
    if (date.base == NULL || h2o_time_parse_rfc1123(date.base, date.len, &tm) != 0)
        return 1;
    return made_at_ms / 1000 > timegm(&tm);
}

static int is_not_modified(h2o_req_t *req, const char *tag, int64_t made_at_ms)
{
    h2o_iovec_t match = wq_request_header(req, "if-none-match");
    if (match.base != NULL)
        return has_tag(match, tag, 1);
    return !is_newer(wq_request_header(req, "if-modified-since"), made_at_ms);
}

/* If-Range: the range is wanted only of the output that the client has the rest of. */
static int range_applies(h2o_req_t *req, const char *tag)
{
    h2o_iovec_t condition = wq_request_header(req, "if-range");
    return condition.base == NULL || h2o_memis(condition.base, condition.len, tag, strlen(tag));
}

/* ---- the output
 * ----------------------------------------------------------------------------------- */

static void add(h2o_req_t *req, const h2o_token_t *name, const char *value)
{
    h2o_iovec_t copy = h2o_strdup(&req->pool, value, SIZE_MAX);
    h2o_set_header(&req->pool, &req->res.headers, name, copy.base, copy.len, 1);
}

static void add_headers(wq_http *http, h2o_req_t *req, const wq_output *output, const char *tag)
{
    char text[64];
    struct tm tm;
    time_t made = output->made_at_ms / 1000;
    add(req, H2O_TOKEN_CONTENT_TYPE, http->options.result_type);
    add(req, H2O_TOKEN_ETAG, tag);
    h2o_time2str_rfc1123(text, gmtime_r(&made, &tm));
    add(req, H2O_TOKEN_LAST_MODIFIED, text);
    add(req, H2O_TOKEN_ACCEPT_RANGES, "bytes");
    add(req, H2O_TOKEN_CACHE_CONTROL, "private, no-cache");
    h2o_add_header_by_str(&req->pool, &req->res.headers, H2O_STRLIT("x-content-type-options"), 0,
                          "X-Content-Type-Options", H2O_STRLIT("nosniff"));
    wq_cors(req);
}

static void add_range(h2o_req_t *req, const range *r, uint64_t size)
{
    char text[80];
    if (r != NULL)
        snprintf(text, sizeof text, "bytes %llu-%llu/%llu", (unsigned long long)r->begin,
                 (unsigned long long)r->end - 1, (unsigned long long)size);
    else
        snprintf(text, sizeof text, "bytes */%llu", (unsigned long long)size);
    add(req, H2O_TOKEN_CONTENT_RANGE, text);
}

static int send_output(wq_http *http, h2o_req_t *req, const wq_output *output, const char *tag,
                       int status, const range *r)
{
    sending *s = h2o_mem_alloc_shared(&req->pool, sizeof *s, dispose);
    *s = (sending){.generator = {on_proceed, on_stop},
                   .held = {.http = http,
                            .face = WQ_FACE_RESULT,
                            .req = req,
                            .fd = -1,
                            .news = ignore_news,
                            .timeout = on_timeout,
                            .gone = on_gone},
                   .fd = output->fd,
                   .at = r->begin,
                   .end = r->end};
    int is_head = wq_is_method(req, "HEAD") || r->begin == r->end;
    if (!is_head && (s->chunk = malloc(r->end - r->begin < CHUNK_BYTES ? r->end - r->begin
                                                                       : CHUNK_BYTES)) == NULL)
        return wq_problem_result(req, WQ_ERROR_NO_MEMORY, NULL, 5);
    if (!is_head && wq_hold(&s->held, NULL) != 0)
        return 0;
    add_headers(http, req, output, tag);
    if (status == 206)
        add_range(req, r, output->size_bytes);
    req->res.status = status;
    req->res.reason = wq_reason(status);
    req->res.content_length = r->end - r->begin;
    h2o_start_response(req, &s->generator);
    if (is_head)
        h2o_send(req, NULL, 0, H2O_SEND_STATE_FINAL);
    else
        send_chunk(s);
    return 0;
}

static int answer_output(wq_http *http, h2o_req_t *req, const wq_output *output)
{
    char tag[sizeof output->tag + 2];
    range r = {0, output->size_bytes}, part;
    int is_post = wq_is_method(req, "POST"), ranged = 0;
    snprintf(tag, sizeof tag, "\"%s\"", output->tag);
    if (!is_post && is_not_modified(req, tag, output->made_at_ms)) {
        add_headers(http, req, output, tag);
        close(output->fd);
        return wq_send_bytes(req, 304, NULL, NULL, 0);
    }
    if (wq_is_method(req, "GET") && range_applies(req, tag))
        ranged = read_range(wq_request_header(req, "range"), output->size_bytes, &part);
    if (ranged < 0) {
        add_range(req, NULL, output->size_bytes);
        close(output->fd);
        return wq_problem(req, 416, "The output has %llu bytes.",
                          (unsigned long long)output->size_bytes);
    }
    return send_output(http, req, output, tag, ranged ? 206 : 200, ranged ? &part : &r);
}

/* ---- any end
 * -------------------------------------------------------------------------------------- */

static int answer_success(wq_http *http, h2o_req_t *req, wq_job *job)
{
    wq_output output;
    wq_error error;
    int result = wq_job_output(job, &output, &error);
    if (result == WQ_OK)
        return answer_output(http, req, &output);
    if (result == WQ_ERROR_NOT_FOUND)
        return wq_problem(req, 410, "The output of this job has been deleted; ask for it anew.");
    return wq_problem_result(req, result, &error, 5);
}

int wq_answer_result(wq_http *http, h2o_req_t *req, wq_job *job)
{
    wq_snapshot snapshot;
    wq_job_snapshot(job, &snapshot);
    const char *error = snapshot.error ? snapshot.error : "The job failed.";
    if (snapshot.state == WQ_STATE_SUCCEEDED)
        answer_success(http, req, job);
    else if (snapshot.state == WQ_STATE_CANCELLED)
        wq_problem(req, 410, "The job was ended before it was done: %s.", error);
    else
        wq_http_problem(req, 500, error);
    wq_snapshot_clear(&snapshot);
    wq_job_unref(job);
    return 0;
}

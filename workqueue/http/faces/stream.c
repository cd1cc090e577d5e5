/* stream.c - one job's records as one long response, in any of the stream formats.
 *
 * libh2o takes one send at a time and says by `proceed` when the kernel has it. Latest-only falls
 * out of that: what becomes news during a send is not queued; when the send is done, the stream
 * compares the serial number of what it sent with that of the job's record, and sends the record if
 * they differ.
 */
#include "workqueue/http/faces/stream.h"

#include <sys/socket.h>

#include "workqueue/http/faces/faces.h"
#include "workqueue/http/faces/job_record.h"
#include "workqueue/http/hold/held.h"
#include "workqueue/http/request/problem.h"

#define TEXT(s)                                                                                    \
    {                                                                                              \
        H2O_STRLIT(s)                                                                              \
    }

const wq_format wq_format_array = {
    .media_type = "application/json",
    .first = TEXT("["),
    .next = TEXT(","),
    .after = TEXT("\n"),
    .end = TEXT("]"),
    .cut = TEXT("]"),
    .cut_none = TEXT("[]"),
    .none = TEXT("[]"),
    .heartbeat = TEXT("\n"),
};

/* An empty line is no JSON: so a sign of life is a record. */
const wq_format wq_format_ndjson = {
    .media_type = "application/x-ndjson",
    .after = TEXT("\n"),
};

/* EventSource connects again when a stream ends, and stops only at a 204; the id tells us that it
 * has seen the end. `end` is an event of its own, so that a page need not guess. */
const wq_format wq_format_sse = {
    .media_type = "text/event-stream",
    .first = TEXT("data: "),
    .next = TEXT("data: "),
    .after = TEXT("\n\n"),
    .end = TEXT("event: end\ndata: {}\n\n"),
    .none = TEXT("id: done\nevent: end\ndata: {}\n\n"),
    .heartbeat = TEXT(":\n\n"),
    .has_ids = 1,
};

const wq_format wq_format_job_events = {
    .media_type = "text/event-stream",
    .first = TEXT("data: "),
    .next = TEXT("data: "),
    .after = TEXT("\n\n"),
    .end = TEXT("event: end\ndata: {}\n\n"),
    .heartbeat = TEXT(":\n\n"),
    .has_ids = 1,
    .is_resource = 1,
};

typedef struct stream {
    h2o_generator_t generator; /* first: h2o hands it back */
    wq_held held;
    const wq_format *format;
    uint64_t sent;  /* serial number of the last record sent; 0: none */
    int sent_state; /* its state */
    int in_flight;
    h2o_iovec_t record; /* counted, while it is in flight */
    char id[WQ_ID_SIZE + 32];
} stream;

static stream *stream_of(wq_held *held)
{
    return H2O_STRUCT_FROM_MEMBER(stream, held, held);
}

/* ---- sending --------------------------------------------------------------------------------- */

static void begin_send(stream *s)
{
    s->in_flight = 1;
    wq_held_deadline(&s->held, wq_loop_now() + s->held.http->options.stall_timeout_ms);
}

static int is_over(const stream *s)
{
    const wq_loop_job *job = s->held.job;
    return job->snapshot.has_returncode || job->snapshot.resumes ||
           atomic_load(&s->held.http->stopping);
}

/* It is over for this server only: the client is not told an end, and comes again. */
static int goes_on(const stream *s)
{
    const wq_snapshot *snapshot = &s->held.job->snapshot;
    return snapshot->resumes || !snapshot->has_returncode;
}

/* Has this client not what there is? */
static int has_news(const stream *s)
{
    const wq_loop_job *job = s->held.job;
    if (job->snapshot.resumes)
        return 0;
    return s->sent != job->serial ||
           (s->format->is_resource && s->sent_state != job->snapshot.state);
}

/* The record that is sent next, counted. */
static void take_record(stream *s)
{
    wq_loop_job *job = s->held.job;
    if (s->format->is_resource) {
        s->record = wq_job_record(s->held.http, wq_prefix(s->held.http, s->held.req), job->job,
                                  &job->snapshot);
        return;
    }
    s->record = job->record;
    h2o_mem_addref_shared(s->record.base);
}

static void drop_record(stream *s)
{
    if (s->record.base != NULL)
        h2o_mem_release_shared(s->record.base);
    s->record.base = NULL;
}

static h2o_iovec_t write_id(stream *s)
{
    wq_loop_job *job = s->held.job;
    int n = snprintf(s->id, sizeof s->id, "id: %s.%llu\n", wq_job_id(job->job),
                     (unsigned long long)job->snapshot.version);
    return h2o_iovec_init(s->id, (size_t)n);
}

/* Fills in what is to be sent: the record, unless this client has it, and the end, if it is that.
 * The buffers outlive the send: static, in the stream, or the counted record. */
static size_t compose(stream *s, h2o_iovec_t *bufs, int over)
{
    wq_loop_job *job = s->held.job;
    const wq_format *f = s->format;
    size_t n = 0;
    if (has_news(s)) {
        take_record(s);
        if (f->has_ids)
            bufs[n++] = write_id(s);
        bufs[n++] = s->sent == 0 ? f->first : f->next;
        bufs[n++] = s->record;
        bufs[n++] = f->after;
        s->sent = job->serial;
        s->sent_state = job->snapshot.state;
    }
    if (over)
        bufs[n++] = !goes_on(s) ? f->end : s->sent != 0 ? f->cut : f->cut_none;
    return n;
}

static void send_news(stream *s)
{
    h2o_iovec_t bufs[5];
    h2o_req_t *req = s->held.req;
    int over = is_over(s);
    size_t n = compose(s, bufs, over), bytes = 0;
    for (size_t i = 0; i < n; i++)
        bytes += bufs[i].len;
    atomic_fetch_add(&s->held.http->bytes_sent, bytes);
    if (over) {
        /* nobody calls back after the last send: the request's pool keeps the record */
        if (s->record.base != NULL)
            h2o_mem_link_shared(&req->pool, s->record.base);
        drop_record(s);
        if (atomic_load(&s->held.http->stopping))
            req->http1_is_persistent = 0;
        wq_release(&s->held);
        h2o_send(req, bufs, n, H2O_SEND_STATE_FINAL);
        return;
    }
    begin_send(s);
    h2o_send(req, bufs, n, H2O_SEND_STATE_IN_PROGRESS);
}

static void send_heartbeat(stream *s)
{
    h2o_iovec_t bufs[2] = {s->format->heartbeat};
    size_t n = 1;
    begin_send(s);
    if (bufs[0].base == NULL) {
        take_record(s);
        bufs[0] = s->record;
        bufs[n++] = s->format->after;
    }
    h2o_send(s->held.req, bufs, n, H2O_SEND_STATE_IN_PROGRESS);
}

static void end_send(stream *s)
{
    s->in_flight = 0;
    drop_record(s);
}

/* ---- what happens to a stream ---------------------------------------------------------------- */

static void on_stream_news(wq_held *held)
{
    stream *s = stream_of(held);
    if (!s->in_flight && (has_news(s) || is_over(s)))
        send_news(s);
}

static void on_stream_proceed(h2o_generator_t *generator, h2o_req_t *req)
{
    stream *s = (stream *)generator;
    unsigned heartbeat = s->held.http->options.heartbeat_ms;
    (void)req;
    end_send(s);
    if (has_news(s) || is_over(s))
        send_news(s);
    else
        wq_held_deadline(&s->held, heartbeat ? wq_loop_now() + heartbeat : INT64_MAX);
}

static void on_stream_timeout(wq_held *held)
{
    stream *s = stream_of(held);
    if (s->in_flight) {
        atomic_fetch_add(&held->http->clients_stalled, 1);
        shutdown(held->fd, SHUT_RDWR); /* it takes nothing: the send fails, `stop` follows */
    } else {
        send_heartbeat(s);
    }
}

static void on_stream_gone(wq_held *held)
{
    stream *s = stream_of(held);
    if (s->in_flight) {
        shutdown(held->fd, SHUT_RDWR);
        return;
    }
    wq_release(held);
    h2o_send(held->req, NULL, 0, H2O_SEND_STATE_ERROR);
}

static void on_stream_stop(h2o_generator_t *generator, h2o_req_t *req)
{
    stream *s = (stream *)generator;
    (void)req;
    end_send(s);
    wq_release(&s->held);
}

/* ---- beginning ------------------------------------------------------------------------------- */

static void add_headers(h2o_req_t *req, const wq_format *format)
{
    req->res.status = 200;
    req->res.reason = "OK";
    h2o_add_header(&req->pool, &req->res.headers, H2O_TOKEN_CONTENT_TYPE, NULL, format->media_type,
                   strlen(format->media_type));
    h2o_add_header(&req->pool, &req->res.headers, H2O_TOKEN_CACHE_CONTROL, NULL,
                   H2O_STRLIT("no-store, no-transform"));
    h2o_add_header_by_str(&req->pool, &req->res.headers, H2O_STRLIT("x-accel-buffering"), 0,
                          "X-Accel-Buffering", H2O_STRLIT("no"));
    h2o_add_header_by_str(&req->pool, &req->res.headers, H2O_STRLIT("x-content-type-options"), 0,
                          "X-Content-Type-Options", H2O_STRLIT("nosniff"));
    wq_cors(req);
}

wq_job *wq_last_seen(wq_http *http, h2o_req_t *req, uint64_t *seen)
{
    char id[WQ_ID_SIZE] = "";
    wq_job *job;
    h2o_iovec_t last = wq_request_last_event_id(req);
    if (last.len <= WQ_ID_SIZE || last.base[WQ_ID_SIZE - 1] != '.')
        return NULL;
    memcpy(id, last.base, WQ_ID_SIZE - 1);
    size_t version = h2o_strtosize(last.base + WQ_ID_SIZE, last.len - WQ_ID_SIZE);
    if (version == SIZE_MAX || wq_job_by_id(http->queue, id, &job) != WQ_OK)
        return NULL;
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

int wq_stream(wq_http *http, h2o_req_t *req, const wq_format *format, wq_job *job, uint64_t seen)
{
    if (seen != 0 && has_seen_end(job, seen)) {
        wq_job_unref(job);
        return wq_send_bytes(req, 204, NULL, NULL, 0);
    }
    stream *s = h2o_mem_alloc_pool(&req->pool, sizeof *s);
    *s = (stream){
        .generator = {on_stream_proceed, on_stream_stop},
        .held = {.http = http,
                 .face = WQ_FACE_STREAM,
                 .req = req,
                 .news = on_stream_news,
                 .timeout = on_stream_timeout,
                 .gone = on_stream_gone},
        .format = format,
    };
    if (wq_hold(&s->held, job) != 0)
        return 0;
    if (seen != 0 && seen >= s->held.job->snapshot.version)
        s->sent = s->held.job->serial, s->sent_state = s->held.job->snapshot.state;
    add_headers(req, format);
    wq_tell_job(req, s->held.job->job);
    if (req->version < 0x101)
        req->http1_is_persistent = 0; /* without chunks, only the close tells the end */
    h2o_start_response(req, &s->generator);
    if (s->sent == 0 || is_over(s))
        send_news(s);
    else
        send_heartbeat(s); /* something must carry the headers */
    return 0;
}

int wq_stream_none(h2o_req_t *req, const wq_format *format)
{
    static h2o_generator_t generator;
    h2o_iovec_t body = format->none;
    add_headers(req, format);
    req->res.content_length = body.len;
    h2o_start_response(req, &generator);
    h2o_send(req, &body, 1, H2O_SEND_STATE_FINAL);
    return 0;
}

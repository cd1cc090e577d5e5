/* job_log.c - GET /jobs/{id}/log: the kept end of what the program has written to stderr; as an
 * event stream also what follows, until the job has ended. */
#include <stdlib.h>
#include <sys/socket.h>

#include "workqueue/http/faces/job_log.h"
#include "workqueue/http/hold/held.h"
#include "workqueue/http/request/problem.h"

enum {
    PIECE_BYTES = 16384,
    SEND_LOG_EVERY_MS = 100, /* a program that writes much is told in pieces */
};

typedef struct log_stream {
    h2o_generator_t generator; /* first: h2o hands it back */
    wq_held held;
    wq_post post;
    wq_job *job; /* counted */
    wq_watch *watch;
    atomic_int refs;      /* the request's, and that of a post on its way */
    atomic_int is_posted; /* nobody needs to post */
    /* the loop's */
    int in_flight, over;
    uint64_t at; /* what has been read */
    int64_t sent_at;
    char *text; /* in flight, from malloc */
} log_stream;

/* ---- text ------------------------------------------------------------------------------------ */

int wq_answer_log_text(h2o_req_t *req, wq_job *job)
{
    char *text = NULL, piece[PIECE_BYTES];
    size_t size, n;
    uint64_t at = 0, begin;
    FILE *out = open_memstream(&text, &size);
    while (out != NULL && (n = wq_job_stderr(job, at, piece, sizeof piece, &begin)) > 0) {
        (void)fwrite(piece, 1, n, out); /* fclose() tells */
        at = begin + n;
    }
    wq_job_unref(job);
    if (out == NULL || fclose(out) != 0)
        return wq_problem(req, 500, "There is no memory for the answer.");
    h2o_add_header(&req->pool, &req->res.headers, H2O_TOKEN_CACHE_CONTROL, NULL,
                   H2O_STRLIT("no-store"));
    h2o_add_header_by_str(&req->pool, &req->res.headers, H2O_STRLIT("x-content-type-options"), 0,
                          "X-Content-Type-Options", H2O_STRLIT("nosniff"));
    wq_send_bytes(req, 200, "text/plain; charset=utf-8", text, size);
    free(text);
    return 0;
}

/* ---- events ---------------------------------------------------------------------------------- */

static void unref_log_stream(log_stream *s)
{
    if (atomic_fetch_sub(&s->refs, 1) > 1)
        return;
    wq_job_unref(s->job);
    free(s->text);
    free(s);
}

/* From any thread. */
static void on_more(void *user)
{
    log_stream *s = user;
    if (atomic_exchange(&s->is_posted, 1))
        return;
    atomic_fetch_add(&s->refs, 1);
    if (wq_post_send(&s->held.http->inboxes, &s->post) != 0)
        unref_log_stream(s);
}

static void end_log_stream(log_stream *s, h2o_send_state_t how, const char *text, size_t n)
{
    h2o_iovec_t buf = h2o_iovec_init(text, n);
    if (s->over)
        return;
    s->over = 1;
    wq_watch_cancel(s->watch);
    wq_release(&s->held);
    if (how != H2O_SEND_STATE_IN_PROGRESS)
        h2o_send(s->held.req, &buf, n > 0, how);
}

/* Lines as events; a piece that ends within a line has it go on in the next event. */
static void put_lines(FILE *out, const char *piece, size_t n)
{
    fputs("data: ", out);
    for (size_t i = 0; i < n; i++) {
        if (piece[i] == '\n' && i + 1 < n)
            fputs("\ndata: ", out);
        else if (piece[i] != '\n' && piece[i] != '\r')
            fputc(piece[i], out);
    }
    fputs("\n\n", out);
}

static void send_log_text(log_stream *s, const char *text, size_t n)
{
    h2o_iovec_t buf = h2o_iovec_init(text, n);
    s->in_flight = 1;
    s->sent_at = wq_loop_now();
    wq_held_deadline(&s->held, s->sent_at + s->held.http->options.stall_timeout_ms);
    h2o_send(s->held.req, &buf, 1, H2O_SEND_STATE_IN_PROGRESS);
}

/* Nonzero if there was something to send. A piece ends with a line, if it has one. */
static int send_more(log_stream *s, int is_end)
{
    char piece[PIECE_BYTES];
    uint64_t begin;
    size_t size, n = wq_job_stderr(s->job, s->at, piece, sizeof piece, &begin);
    const char *newline = n > 0 ? memrchr(piece, '\n', n) : NULL;
    if (newline != NULL)
        n = (size_t)(newline - piece) + 1;
    else if (n < sizeof piece && !is_end)
        n = 0; /* the rest of the line is to come */
    if (n == 0)
        return 0;
    s->at = begin + n;
    FILE *out = open_memstream(&s->text, &size);
    if (out == NULL)
        return 0;
    put_lines(out, piece, n);
    fclose(out);
    send_log_text(s, s->text, size);
    return 1;
}

static int log_has_ended(wq_job *job)
{
    wq_snapshot now;
    wq_job_snapshot(job, &now);
    int ended = now.has_returncode && !now.resumes;
    wq_snapshot_clear(&now);
    return ended;
}

static void go_on_with_log(log_stream *s)
{
    static const char end[] = "event: end\ndata: {}\n\n";
    int64_t now = wq_loop_now();
    unsigned beat_ms = s->held.http->options.heartbeat_ms;
    if (atomic_load(&s->held.http->stopping) || s->held.req->conn->ctx->shutdown_requested) {
        end_log_stream(s, H2O_SEND_STATE_FINAL, NULL, 0);
        return;
    }
    if (now < s->sent_at + SEND_LOG_EVERY_MS) {
        wq_held_deadline(&s->held, s->sent_at + SEND_LOG_EVERY_MS);
        return;
    }
    atomic_store(&s->is_posted, 0);
    int is_end = log_has_ended(s->job);
    if (send_more(s, is_end))
        return;
    if (is_end)
        end_log_stream(s, H2O_SEND_STATE_FINAL, end, sizeof end - 1);
    else if (beat_ms != 0 && now >= s->sent_at + beat_ms)
        send_log_text(s, ":\n\n", 3);
    else
        wq_held_deadline(&s->held, now + 1000); /* it looks for the job's end, too */
}

static void on_log_post(wq_post *post)
{
    log_stream *s = H2O_STRUCT_FROM_MEMBER(log_stream, post, post);
    if (!s->over && !s->in_flight)
        go_on_with_log(s);
    unref_log_stream(s);
}

static void on_log_timeout(wq_held *held)
{
    log_stream *s = H2O_STRUCT_FROM_MEMBER(log_stream, held, held);
    if (!s->in_flight) {
        go_on_with_log(s);
        return;
    }
    atomic_fetch_add(&held->http->clients_stalled, 1);
    shutdown(held->fd, SHUT_RDWR); /* it takes nothing: the send fails, `stop` follows */
}

static void on_log_gone(wq_held *held)
{
    log_stream *s = H2O_STRUCT_FROM_MEMBER(log_stream, held, held);
    if (s->in_flight)
        shutdown(held->fd, SHUT_RDWR);
    else
        end_log_stream(s, H2O_SEND_STATE_ERROR, NULL, 0);
}

static void on_log_proceed(h2o_generator_t *generator, h2o_req_t *req)
{
    log_stream *s = (log_stream *)generator;
    (void)req;
    s->in_flight = 0;
    free(s->text);
    s->text = NULL;
    go_on_with_log(s);
}

static void on_log_stop(h2o_generator_t *generator, h2o_req_t *req)
{
    (void)req;
    end_log_stream((log_stream *)generator, H2O_SEND_STATE_IN_PROGRESS, NULL, 0);
}

static void on_log_request_end(void *arg)
{
    unref_log_stream(*(log_stream **)arg);
}

int wq_answer_log_events(wq_http *http, h2o_req_t *req, wq_job *job)
{
    log_stream *s = calloc(1, sizeof *s);
    if (s == NULL) {
        wq_job_unref(job);
        return wq_problem(req, 500, "There is no memory for a stream.");
    }
    s->generator = (h2o_generator_t){on_log_proceed, on_log_stop};
    s->held = (wq_held){.http = http,
                        .face = WQ_FACE_LIST,
                        .req = req,
                        .timeout = on_log_timeout,
                        .gone = on_log_gone};
    s->post = (wq_post){.inbox = &wq_loop_of(http, req)->inbox, .arrive = on_log_post};
    s->job = job;
    atomic_store(&s->refs, 1);
    *(log_stream **)h2o_mem_alloc_shared(&req->pool, sizeof s, on_log_request_end) = s;
    if (wq_hold(&s->held, NULL) != 0)
        return 0;
    if (wq_job_watch_stderr(job, on_more, s, &s->watch) != WQ_OK) {
        wq_release(&s->held);
        return wq_problem(req, 500, "There is no memory for a stream.");
    }
    req->res.status = 200;
    req->res.reason = "OK";
    h2o_add_header(&req->pool, &req->res.headers, H2O_TOKEN_CONTENT_TYPE, NULL,
                   H2O_STRLIT("text/event-stream"));
    h2o_add_header(&req->pool, &req->res.headers, H2O_TOKEN_CACHE_CONTROL, NULL,
                   H2O_STRLIT("no-store, no-transform"));
    h2o_add_header_by_str(&req->pool, &req->res.headers, H2O_STRLIT("x-accel-buffering"), 0,
                          "X-Accel-Buffering", H2O_STRLIT("no"));
    wq_cors(req);
    if (req->version < 0x101)
        req->http1_is_persistent = 0; /* without chunks, only the close tells the end */
    h2o_start_response(req, &s->generator);
    send_log_text(s, ":\n\n", 3); /* something must carry the headers */
    s->sent_at = 0;
    return 0;
}

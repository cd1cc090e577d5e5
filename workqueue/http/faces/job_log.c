/* job_log.c - GET /jobs/{id}/log: the kept end of what the program has written to stderr; as an
 * event stream also what follows, until the job has ended. */
#include "workqueue/http/faces/job_log.h"

#include <stdlib.h>

#include "workqueue/http/faces/event_stream.h"
#include "workqueue/http/request/problem.h"

enum {
    PIECE_BYTES = 16384,
    SEND_LOG_EVERY_MS = 100, /* a program that writes much is told in pieces */
};

typedef struct log_stream {
    wq_event_stream base; /* first */
    wq_job *job;          /* counted */
    wq_watch *watch;
    atomic_int is_posted; /* nobody needs to post */
    uint64_t at;          /* the loop's: what has been read */
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

/* From any thread. */
static void on_more(void *user)
{
    log_stream *s = user;
    if (!atomic_exchange(&s->is_posted, 1))
        wq_event_stream_post(&s->base);
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
    FILE *out = open_memstream(&s->base.text, &size);
    if (out == NULL)
        return 0;
    s->at = begin + n;
    put_lines(out, piece, n);
    if (fclose(out) != 0)
        return 0;
    wq_event_stream_send(&s->base, s->base.text, size);
    return 1;
}

static int log_is_over(wq_job *job)
{
    wq_snapshot now;
    wq_job_snapshot(job, &now);
    int ended = now.has_returncode && !now.resumes;
    wq_snapshot_clear(&now);
    return ended;
}

static void go_on_with_log(wq_event_stream *base)
{
    static const char end[] = "event: end\ndata: {}\n\n";
    log_stream *s = (log_stream *)base;
    int64_t now = wq_loop_now();
    unsigned beat_ms = base->held.http->options.heartbeat_ms;
    if (wq_event_stream_must_stop(base)) {
        wq_event_stream_end(base, H2O_SEND_STATE_FINAL, NULL, 0);
        return;
    }
    if (now < base->sent_at + SEND_LOG_EVERY_MS) {
        wq_held_deadline(&base->held, base->sent_at + SEND_LOG_EVERY_MS);
        return;
    }
    atomic_store(&s->is_posted, 0);
    int is_end = log_is_over(s->job);
    if (send_more(s, is_end))
        return;
    if (is_end)
        wq_event_stream_end(base, H2O_SEND_STATE_FINAL, end, sizeof end - 1);
    else if (beat_ms != 0 && now >= base->sent_at + beat_ms)
        wq_event_stream_send(base, ":\n\n", 3);
    else
        wq_held_deadline(&base->held, now + 1000); /* it looks for the job's end, too */
}

static void end_watching_log(wq_event_stream *base)
{
    wq_watch_cancel(((log_stream *)base)->watch);
}

static void dispose_log_stream(wq_event_stream *base)
{
    log_stream *s = (log_stream *)base;
    wq_job_unref(s->job);
    free(s);
}

int wq_answer_log_events(wq_http *http, h2o_req_t *req, wq_job *job)
{
    log_stream *s = calloc(1, sizeof *s);
    if (s == NULL) {
        wq_job_unref(job);
        return wq_problem(req, 500, "There is no memory for a stream.");
    }
    *s = (log_stream){.base = {.go_on = go_on_with_log,
                               .ending = end_watching_log,
                               .dispose = dispose_log_stream},
                      .job = job};
    if (wq_event_stream_open(&s->base, http, req) != 0)
        return 0;
    if (wq_job_watch_stderr(job, on_more, s, &s->watch) != WQ_OK)
        return wq_event_stream_refuse(&s->base);
    wq_cors(req);
    wq_event_stream_start(&s->base);
    s->base.sent_at = 0;
    return 0;
}

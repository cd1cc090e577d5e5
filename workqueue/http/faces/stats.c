/* stats.c - GET /stats: the operator's numbers; and for everybody how long a new job would wait. */
#include <math.h>
#include <time.h>
#include <unistd.h>

#include "workqueue/http/faces/faces.h"
#include "workqueue/http/faces/off_loop.h"
#include "workqueue/http/request/problem.h"

enum { HOST_BYTES = 64 };

/* From what runs and waits now, and how long such jobs took: an estimate, in the long run right. */
static uint64_t expected_wait_ms(const wq_stats *s)
{
    if (s->running + s->queued < s->workers || s->workers == 0)
        return 0;
    uint64_t rounds = (s->queued + s->workers) / s->workers;
    return rounds * s->mean_run_ms;
}

static void put_minutes(wq_http *http, FILE *out)
{
    wq_minute minutes[WQ_MINUTES];
    wq_queue_minutes(http->queue, minutes);
    fputs("\"minutes\": [", out);
    for (int i = 0; i < WQ_MINUTES; i++) {
        const wq_minute *m = &minutes[i];
        fprintf(out,
                "%s\n{\"succeeded\": %llu, \"failed\": %llu, \"cancelled\": %llu, \"queued\": %zu, "
                "\"wait_p50_ms\": %llu, \"wait_p95_ms\": %llu, \"run_p50_ms\": %llu, "
                "\"run_p95_ms\": %llu}",
                i > 0 ? "," : "", (unsigned long long)m->succeeded, (unsigned long long)m->failed,
                (unsigned long long)m->cancelled, m->waiting, (unsigned long long)m->start_p50_ms,
                (unsigned long long)m->start_p95_ms, (unsigned long long)m->run_p50_ms,
                (unsigned long long)m->run_p95_ms);
    }
    fputs("\n]", out);
}

/* A text in quotes, or null. */
static void put_json_text(FILE *out, const char *name, const char *text)
{
    char escaped[6 * 512 + 1];
    fprintf(out, "\"%s\": ", name);
    if (text == NULL || strlen(text) > 511) {
        fputs("null, ", out);
        return;
    }
    char *end = wq_put_escaped(escaped, text);
    fprintf(out, "\"%.*s\", ", (int)(end - escaped), escaped);
}

static int make_stats(wq_http *http, const void *unused, FILE *out)
{
    char host[HOST_BYTES] = "";
    struct timespec now;
    wq_stats s;
    (void)unused;
    clock_gettime(CLOCK_MONOTONIC, &now);
    wq_queue_stats(http->queue, &s);
    gethostname(host, sizeof host - 1);
    fputc('{', out);
    put_json_text(out, "program", http->options.program_name);
    put_json_text(out, "host", host);
    put_json_text(out, "version", wq_version());
    fprintf(out,
            "\"uptime_s\": %lld, \"workers\": %zu, \"running\": %zu, \"queued\": %zu, "
            "\"publishing\": %zu, \"wait_ms\": %llu, \"problems\": ",
            (long long)(now.tv_sec - http->mounted_s), s.workers, s.running, s.queued, s.publishing,
            (unsigned long long)expected_wait_ms(&s));
    wq_put_problems(http, out);
    fputs(", ", out);
    put_minutes(http, out);
    fputs("}\n", out);
    return 200;
}

/* Without a secret there is only what a start page needs; a wrong one is refused. */
int wq_face_stats(wq_http *http, h2o_req_t *req, h2o_iovec_t rest)
{
    char text[64];
    wq_stats s;
    (void)rest;
    if (!wq_is_method(req, "GET") || wq_request_header(req, "authorization").len > 0)
        wq_own_origin_only(req);
    if (wq_method(req, "GET, HEAD, OPTIONS"))
        return 0;
    if (wq_request_header(req, "authorization").len > 0)
        return wq_is_operator(http, req) ? wq_answer_off_loop(http, req, make_stats, NULL, 0) : 0;
    wq_queue_stats(http->queue, &s);
    int n = snprintf(text, sizeof text, "{\"wait_ms\": %llu}\n",
                     (unsigned long long)expected_wait_ms(&s));
    h2o_add_header(&req->pool, &req->res.headers, H2O_TOKEN_CACHE_CONTROL, NULL,
                   H2O_STRLIT("no-store"));
    return wq_send_bytes(req, 200, "application/json", text, (size_t)n);
}

/* job_record.c - the JSON of GET /jobs/{id}, its event stream and the list: one form for all. */
#include "workqueue/http/faces/job_record.h"

#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "workqueue/http/request/problem.h"

enum {
    FIXED_BYTES = 1200, /* all names, numbers and times */
    ESCAPED = 6,        /* bytes that one of a text may become */
};

static const char *state_name(int state)
{
    static const char *const names[] = {"queued",    "running", "publishing",
                                        "succeeded", "failed",  "cancelled"};
    return state >= WQ_STATE_QUEUED && state <= WQ_STATE_CANCELLED ? names[state] : "unknown";
}

static size_t length_of(const char *text)
{
    return text ? strlen(text) : 0;
}

static char *put_text(char *at, const char *name, const char *text)
{
    at += sprintf(at, ", \"%s\": ", name);
    if (text == NULL)
        return at + sprintf(at, "null");
    *at++ = '"';
    at = wq_put_escaped(at, text);
    *at++ = '"';
    return at;
}

/* RFC 3339, in UTC; 0 is null. */
static char *put_time(char *at, const char *name, int64_t ms)
{
    struct tm utc;
    time_t s = (time_t)(ms / 1000);
    char text[32];
    if (ms == 0 || gmtime_r(&s, &utc) == NULL)
        return at + sprintf(at, ", \"%s\": null", name);
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &utc);
    return at + sprintf(at, ", \"%s\": \"%s.%03dZ\"", name, text, (int)(ms % 1000));
}

/* Not by %g, which would write a comma where the host's locale says so. */
static char *put_fraction(char *at, double fraction)
{
    unsigned long long millionths = (unsigned long long)(fraction * 1e6 + 0.5);
    if (millionths >= 1000000)
        return at + sprintf(at, ", \"fraction\": 1.0");
    at += sprintf(at, ", \"fraction\": 0.%06llu", millionths);
    while (at[-1] == '0' && at[-2] != '.')
        at--;
    return at;
}

static const char *waits_for_name(int waits_for)
{
    static const char *const names[] = {[WQ_WAITS_FOR_WORKER] = "worker",
                                        [WQ_WAITS_FOR_JOB] = "job",
                                        [WQ_WAITS_FOR_STORE] = "store"};
    return names[waits_for];
}

static char *put_items(char *at, const wq_snapshot *s)
{
    if (!s->has_items)
        return at + sprintf(at, ", \"items_done\": null, \"items_total\": null");
    return at + sprintf(at, ", \"items_done\": %llu, \"items_total\": %llu",
                        (unsigned long long)s->items_done, (unsigned long long)s->items_total);
}

static char *put_href(char *at, const wq_http *http, h2o_iovec_t prefix, wq_job *job)
{
    return at + sprintf(at, ", \"href\": \"%.*s%s/work/%s\"}", (int)prefix.len, prefix.base,
                        http->options.mount_path ? http->options.mount_path : "", wq_job_id(job));
}

/* Its size is told where that asks nobody across a network. */
static char *put_output(char *at, wq_http *http, h2o_iovec_t prefix, wq_job *job,
                        const wq_snapshot *s)
{
    wq_output output;
    at += sprintf(at, ", \"output\": ");
    if (s->state != WQ_STATE_SUCCEEDED)
        return at + sprintf(at, "null");
    if (wq_outputs_block(http->queue))
        return put_href(at + sprintf(at, "{\"bytes\": null"), http, prefix, job);
    if (wq_job_output(job, &output, NULL) != WQ_OK)
        return at + sprintf(at, "null"); /* deleted since */
    if (output.fd >= 0)
        close(output.fd);
    at += sprintf(at, "{\"bytes\": %llu", (unsigned long long)output.size_bytes);
    return put_href(at, http, prefix, job);
}

h2o_iovec_t wq_job_record(wq_http *http, h2o_iovec_t prefix, wq_job *job, const wq_snapshot *s)
{
    const wq_params *params = wq_job_params(job);
    size_t texts = length_of(params->server) + length_of(params->document_set_id) +
                   length_of(s->message) + length_of(s->error) + http->mount_len + prefix.len;
    char *text = h2o_mem_alloc_shared(NULL, FIXED_BYTES + ESCAPED * texts, NULL), *at = text;
    /* Here it is what the program has reached, also after a failure. */
    double fraction = s->state == WQ_STATE_SUCCEEDED ? 1 : s->reached;
    at += sprintf(at, "{\"id\": \"%s\", \"state\": \"%s\"", wq_job_id(job), state_name(s->state));
    at = put_text(at, "server", params->server);
    at = put_text(at, "document_set_id", params->document_set_id);
    at += sprintf(at, ", \"n_ahead_in_queue\": %llu", (unsigned long long)s->n_ahead_in_queue);
    at = put_text(at, "waits_for", waits_for_name(s->waits_for));
    at = put_fraction(at, fraction);
    at = put_text(at, "message", s->message);
    at = put_items(at, s);
    at += s->has_returncode ? sprintf(at, ", \"returncode\": %d", s->returncode)
                            : sprintf(at, ", \"returncode\": null");
    at = put_text(at, "error", s->error);
    at = put_time(at, "accepted_at", s->queued_at_ms);
    at = put_time(at, "started_at", s->started_at_ms);
    at = put_time(at, "published_at", s->state == WQ_STATE_SUCCEEDED ? s->ended_at_ms : 0);
    at = put_time(at, "ended_at", s->ended_at_ms);
    at = put_time(at, "heard_at", s->heard_at_ms);
    at += sprintf(at, ", \"estimate_ms\": %llu", (unsigned long long)wq_job_estimate_ms(job));
    at += sprintf(at, ", \"watching\": %zu, \"memory_bytes\": ", s->watching);
    at += s->memory_bytes > 0 ? sprintf(at, "%llu", (unsigned long long)s->memory_bytes)
                              : sprintf(at, "null");
    at += sprintf(at, ", \"attempt\": %u", s->attempt);
    at = put_output(at, http, prefix, job, s);
    at += sprintf(at, "}");
    return h2o_iovec_init(text, (size_t)(at - text));
}

h2o_iovec_t wq_job_record_now(wq_http *http, h2o_iovec_t prefix, wq_job *job)
{
    wq_snapshot now;
    wq_job_snapshot(job, &now);
    h2o_iovec_t record = wq_job_record(http, prefix, job, &now);
    wq_snapshot_clear(&now);
    return record;
}

void wq_write_text(FILE *out, const char *name, const char *text)
{
    char *escaped = *text ? malloc(ESCAPED * strlen(text) + 1) : NULL;
    if (escaped == NULL) {
        fprintf(out, ", \"%s\": null", name);
        return;
    }
    fprintf(out, ", \"%s\": \"%.*s\"", name, (int)(wq_put_escaped(escaped, text) - escaped),
            escaped);
    free(escaped);
}

void wq_write_time(FILE *out, const char *name, int64_t ms)
{
    char text[128] = "";
    (void)fwrite(text, 1, (size_t)(put_time(text, name, ms) - text), out);
}

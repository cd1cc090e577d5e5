/* event_log.c - what a host's log gets of each job: accepted, started, ended (how, how long, the
 * last line of stderr), refused. Never a token. */
#include "workqueue/core/event_log.h"

#include <stdio.h>
#include <string.h>

#include "workqueue/core/job.h"

enum { QUOTED_BYTES = 300, TARGET_BYTES = 2 * QUOTED_BYTES + 100 };

/* `n` bytes in quotes, cut at the size of buf; what is not printable is the log's to escape. */
static const char *quote(char buf[QUOTED_BYTES], const char *text, size_t n)
{
    size_t at = 0;
    buf[at++] = '"';
    for (size_t i = 0; i < n && at + 3 < QUOTED_BYTES; i++) {
        if (text[i] == '"' || text[i] == '\\')
            buf[at++] = '\\';
        buf[at++] = text[i] < ' ' && text[i] >= 0 ? ' ' : text[i] < 0 ? '?' : text[i];
    }
    buf[at++] = '"';
    buf[at] = '\0';
    return buf;
}

static const char *quote_text(char buf[QUOTED_BYTES], const char *text)
{
    return quote(buf, text, strlen(text));
}

/* The last line of an error that says something. */
static const char *quote_last_line(char buf[QUOTED_BYTES], const char *error)
{
    const char *end = error + strlen(error);
    while (end > error && (end[-1] == '\n' || end[-1] == '\r' || end[-1] == ' '))
        end--;
    const char *begin = end;
    while (begin > error && begin[-1] != '\n' && begin[-1] != '\r')
        begin--;
    return quote(buf, begin, (size_t)(end - begin));
}

/* `server="..." set="..."`, and what it began with, if that is traced. */
static const char *quote_target(char buf[TARGET_BYTES], const wq_job *job)
{
    char server[QUOTED_BYTES], set[QUOTED_BYTES];
    snprintf(buf, TARGET_BYTES, "server=%s set=%s%s%s", quote_text(server, job->params.server),
             quote_text(set, job->params.document_set_id), *job->trace ? " traceparent=" : "",
             job->trace);
    return buf;
}

void wq_event_accepted(const wq_logger *logger, wq_job *job)
{
    char target[TARGET_BYTES];
    wq_log(logger, WQ_LOG_INFO, "event=accepted job=%s %s", job->id, quote_target(target, job));
}

void wq_event_started(const wq_logger *logger, wq_job *job, const wq_snapshot *now)
{
    char target[TARGET_BYTES];
    wq_log(logger, WQ_LOG_INFO, "event=started job=%s %s waited_ms=%llu", job->id,
           quote_target(target, job), (unsigned long long)now->waited_ms);
}

static void log_success(const wq_logger *logger, wq_job *job, const wq_snapshot *end)
{
    char target[TARGET_BYTES];
    wq_log(logger, WQ_LOG_INFO,
           "event=ended job=%s %s state=succeeded returncode=0 ms=%llu bytes=%llu", job->id,
           quote_target(target, job), (unsigned long long)end->ran_ms,
           (unsigned long long)job->output_bytes);
}

void wq_event_ended(const wq_logger *logger, wq_job *job, const wq_snapshot *end)
{
    char target[TARGET_BYTES], last[QUOTED_BYTES];
    if (end->state == WQ_STATE_SUCCEEDED) {
        log_success(logger, job, end);
        return;
    }
    wq_log(logger, WQ_LOG_INFO, "event=%s job=%s %s state=%s returncode=%d ms=%llu%s%s last=%s",
           end->resumes ? "put_off" : "ended", job->id, quote_target(target, job),
           end->state == WQ_STATE_CANCELLED ? "cancelled" : "failed", end->returncode,
           (unsigned long long)end->ran_ms, *job->cancelled_by ? " by=" : "", job->cancelled_by,
           quote_last_line(last, end->error ? end->error : ""));
}

void wq_event_refused(const wq_logger *logger, const wq_params *params, const char *why)
{
    char server[QUOTED_BYTES], set[QUOTED_BYTES], reason[QUOTED_BYTES];
    if (logger->cb != NULL && params->server != NULL && params->document_set_id != NULL)
        wq_log(logger, WQ_LOG_INFO, "event=refused server=%s set=%s why=%s",
               quote_text(server, params->server), quote_text(set, params->document_set_id),
               quote_text(reason, why));
}

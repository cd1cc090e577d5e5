/* elsewhere.c - jobs that other machines run for other servers: kept for the time of an answer, or
 * from one look of an event stream to the next. */
#include "workqueue/http/faces/elsewhere.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "workqueue/http/faces/job_record.h"

enum { MOST_FAR = 10000 };

/* ---- getting them ---------------------------------------------------------------------------- */

static const char *keep(char **at, const char *text)
{
    char *kept = *at;
    *at = stpcpy(kept, text != NULL ? text : "") + 1;
    return kept;
}

static size_t size_of(const char *text)
{
    return (text != NULL ? strlen(text) : 0) + 1;
}

/* Nonzero: no memory, or enough. */
static int keep_job(void *user, const wq_elsewhere *job)
{
    wq_far_jobs *all = user;
    if (all->n == MOST_FAR)
        return 1;
    if ((all->n & (all->n - 1)) == 0) { /* 0, 1, 2, 4, ...: it is full */
        size_t most = all->n > 0 ? 2 * all->n : 1;
        wq_far_job *grown = realloc(all->jobs, most * sizeof *grown);
        if (grown == NULL)
            return 1;
        all->jobs = grown;
    }
    char *at = malloc(size_of(job->id) + size_of(job->server) + size_of(job->document_set_id) +
                      size_of(job->packager) + size_of(job->host) + size_of(job->key));
    if (at == NULL)
        return 1;
    wq_far_job *kept = &all->jobs[all->n++];
    kept->id = at;
    keep(&at, job->id);
    kept->server = keep(&at, job->server);
    kept->document_set_id = keep(&at, job->document_set_id);
    kept->packager = keep(&at, job->packager);
    kept->host = keep(&at, job->host);
    kept->key = keep(&at, job->key);
    kept->epoch = job->epoch;
    kept->attempt = job->attempt;
    kept->began_at_ms = job->began_at_ms;
    return 0;
}

static int compare_far(const void *a, const void *b)
{
    return strcmp(((const wq_far_job *)a)->id, ((const wq_far_job *)b)->id);
}

int wq_far_jobs_get(wq_http *http, wq_far_jobs *out, wq_error *error)
{
    struct timespec now;
    *out = (wq_far_jobs){0};
    int result = wq_jobs_elsewhere(http->queue, keep_job, out, error);
    clock_gettime(CLOCK_REALTIME, &now);
    out->seen_at_ms = now.tv_sec * 1000 + now.tv_nsec / 1000000;
    if (out->n > 1)
        qsort(out->jobs, out->n, sizeof *out->jobs, compare_far);
    return result;
}

void wq_far_jobs_free(wq_far_jobs *jobs)
{
    for (size_t i = 0; i < jobs->n; i++)
        free(jobs->jobs[i].id);
    free(jobs->jobs);
    *jobs = (wq_far_jobs){0};
}

int wq_far_job_cancel(wq_http *http, const wq_far_job *job)
{
    const wq_elsewhere far = {.key = job->key, .id = job->id, .packager = job->packager};
    return wq_cancel_elsewhere(http->queue, &far, NULL);
}

/* ---- writing them ---------------------------------------------------------------------------- */

void wq_far_job_write(FILE *out, const wq_far_job *job, int64_t seen_at_ms)
{
    fputs("{\"state\": \"running\"", out);
    wq_write_text(out, "id", job->id);
    wq_write_text(out, "server", job->server);
    wq_write_text(out, "document_set_id", job->document_set_id);
    fputs(", \"n_ahead_in_queue\": 0, \"waits_for\": null, \"fraction\": 0.0, \"message\": null"
          ", \"items_done\": null, \"items_total\": null, \"returncode\": null, \"error\": null",
          out);
    wq_write_time(out, "accepted_at", 0);
    wq_write_time(out, "started_at", job->began_at_ms);
    wq_write_time(out, "published_at", 0);
    wq_write_time(out, "ended_at", 0);
    wq_write_time(out, "heard_at", seen_at_ms);
    fprintf(out,
            ", \"estimate_ms\": 0, \"watching\": 0, \"memory_bytes\": null, \"attempt\": %u"
            ", \"output\": null",
            job->attempt);
    wq_write_text(out, "packager", job->packager);
    wq_write_text(out, "host", job->host);
    fputs("}", out);
}

/* Both are in order. */
void wq_far_jobs_write_news(FILE *out, const wq_far_jobs *before, const wq_far_jobs *now)
{
    size_t i = 0, j = 0;
    while (i < before->n || j < now->n) {
        int order = i == before->n ? 1
                    : j == now->n  ? -1
                                   : strcmp(before->jobs[i].id, now->jobs[j].id);
        if (order < 0) {
            fputs("event: gone\ndata: {\"state\": \"gone\"", out);
            wq_write_text(out, "id", before->jobs[i++].id);
            fputs("}\n\n", out);
            continue;
        }
        /* what is still there is told again, as it is still heard of */
        fputs("data: ", out);
        wq_far_job_write(out, &now->jobs[j++], now->seen_at_ms);
        fputs("\n\n", out);
        i += order == 0;
    }
}

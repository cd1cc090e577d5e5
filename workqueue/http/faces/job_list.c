/* job_list.c - GET and DELETE /jobs: what the operator sees of all jobs, and ends of them.
 *
 * A page of the list may look at a thousand jobs, so a thread makes it. */
#include "workqueue/http/faces/job_list.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "workqueue/http/faces/elsewhere.h"
#include "workqueue/http/faces/faces.h"
#include "workqueue/http/faces/job_record.h"
#include "workqueue/http/faces/off_loop.h"
#include "workqueue/http/request/problem.h"

enum {
    DEFAULT_ROWS = 100,
    MOST_JOBS = 1000,
    SERVER_BYTES = 2049,
    SET_BYTES = 257,
    AFTER_BYTES = 257,
    PREFIX_BYTES = 257
};

typedef struct list_ask {
    unsigned states;
    size_t limit;
    int has_server, has_set, has_after;
    char server[SERVER_BYTES], set[SET_BYTES], after[AFTER_BYTES];
    char prefix[PREFIX_BYTES]; /* of links */
} list_ask;

/* ---- reading the question -------------------------------------------------------------------- */

/* "running,queued" to a sum of states; 0: one of them is none. */
static unsigned read_states(const char *text)
{
    static const char *const names[] = {"queued",    "running", "publishing",
                                        "succeeded", "failed",  "cancelled"};
    unsigned states = 0;
    while (*text != '\0') {
        size_t n = strcspn(text, ","), i = 0;
        while (i < 6 && (strlen(names[i]) != n || memcmp(names[i], text, n) != 0))
            i++;
        if (i == 6)
            return 0;
        states |= 1u << i;
        text += n + (text[n] == ',');
    }
    return states;
}

static int copy_field(h2o_req_t *req, const char *name, char *out, size_t size, int *has)
{
    const char *value = wq_http_query(req, name);
    *has = value != NULL && *value != '\0';
    if (!*has)
        return 0;
    return snprintf(out, size, "%s", value) < (int)size ? 0 : -1;
}

/* 0, or -1 and it has been answered. */
static int read_list_ask(h2o_req_t *req, list_ask *ask)
{
    const char *states = wq_http_query(req, "state"), *limit = wq_http_query(req, "limit");
    *ask = (list_ask){.limit = DEFAULT_ROWS};
    if (states != NULL && *states != '\0' && (ask->states = read_states(states)) == 0)
        return wq_problem(req, 400,
                          "The state is one of queued, running, publishing, succeeded, "
                          "failed and cancelled, or several with commas between."),
               -1;
    if (limit != NULL) {
        ask->limit = h2o_strtosize(limit, strlen(limit));
        if (ask->limit == 0 || ask->limit > MOST_JOBS)
            return wq_problem(req, 400, "The limit is a number from 1 to 1000."), -1;
    }
    if (copy_field(req, "server", ask->server, sizeof ask->server, &ask->has_server) != 0 ||
        copy_field(req, "document_set_id", ask->set, sizeof ask->set, &ask->has_set) != 0 ||
        copy_field(req, "after", ask->after, sizeof ask->after, &ask->has_after) != 0)
        return wq_problem(req, 400, "A field of the query is too long."), -1;
    return 0;
}

static wq_jobs_filter filter_of(const list_ask *ask)
{
    return (wq_jobs_filter){.states = ask->states,
                            .server = ask->has_server ? ask->server : NULL,
                            .document_set_id = ask->has_set ? ask->set : NULL};
}

/* ---- the list -------------------------------------------------------------------------------- */

/* Is it one of those that are asked for? All of them run. */
static int is_wanted(const list_ask *ask, const wq_far_job *job)
{
    return (ask->states == 0 || (ask->states & 1u << WQ_STATE_RUNNING)) &&
           (!ask->has_server || strcmp(ask->server, job->server) == 0) &&
           (!ask->has_set || strcmp(ask->set, job->document_set_id) == 0) &&
           (!ask->has_after || strcmp(job->id, ask->after) > 0);
}

static void write_near(wq_http *http, const list_ask *ask, FILE *out, wq_job *job)
{
    const h2o_iovec_t prefix = h2o_iovec_init(ask->prefix, strlen(ask->prefix));
    h2o_iovec_t record = wq_job_record_now(http, prefix, job);
    fprintf(out, "%.*s", (int)record.len, record.base);
    h2o_mem_release_shared(record.base);
}

/* Those of this server and those elsewhere, both in order, by their ids. */
static void write_list(wq_http *http, const list_ask *ask, FILE *out, wq_job *const *near,
                       size_t n_near, const wq_far_jobs *far)
{
    size_t i = 0, j = 0, n = 0;
    const char *last = NULL;
    fputs("{\"jobs\": [", out);
    for (; n < ask->limit; n++) {
        while (j < far->n && !is_wanted(ask, &far->jobs[j]))
            j++;
        if (i == n_near && j == far->n)
            break;
        fputs(n > 0 ? ",\n" : "\n", out);
        if (j == far->n || (i < n_near && strcmp(wq_job_id(near[i]), far->jobs[j].id) <= 0)) {
            last = wq_job_id(near[i]);
            write_near(http, ask, out, near[i++]);
        } else {
            last = far->jobs[j].id;
            wq_far_job_write(out, &far->jobs[j++], far->seen_at_ms);
        }
    }
    fputs("\n]", out);
    if (n == ask->limit)
        wq_write_text(out, "next", last);
    else
        fputs(", \"next\": null", out);
    fputs("}\n", out);
}

/* What runs elsewhere is left out while the store does not say, as the rest is the more wanted
 * then. */
static int make_list(wq_http *http, const void *asked, FILE *out)
{
    const list_ask *ask = asked;
    const wq_jobs_filter filter = filter_of(ask);
    size_t n = 0;
    wq_far_jobs far;
    wq_job **jobs = malloc(ask->limit * sizeof *jobs);
    if (jobs == NULL)
        return 500;
    wq_jobs(http->queue, &filter, ask->has_after ? ask->after : NULL, jobs, ask->limit, &n);
    wq_far_jobs_get(http, &far, NULL);
    write_list(http, ask, out, jobs, n, &far);
    wq_far_jobs_free(&far);
    for (size_t i = 0; i < n; i++)
        wq_job_unref(jobs[i]);
    free(jobs);
    return 200;
}

int wq_answer_job_list(wq_http *http, h2o_req_t *req)
{
    list_ask ask;
    const h2o_iovec_t prefix = wq_prefix(http, req);
    if (read_list_ask(req, &ask) != 0)
        return 0;
    snprintf(ask.prefix, sizeof ask.prefix, "%.*s", (int)prefix.len, prefix.base);
    return wq_answer_off_loop(http, req, make_list, &ask, sizeof ask);
}

/* ---- cancelling ------------------------------------------------------------------------------ */

static size_t cancel_elsewhere(wq_http *http, const list_ask *ask)
{
    wq_far_jobs far;
    size_t cancelled = 0;
    wq_far_jobs_get(http, &far, NULL);
    for (size_t i = 0; i < far.n; i++)
        if (is_wanted(ask, &far.jobs[i]))
            cancelled += wq_far_job_cancel(http, &far.jobs[i]) == WQ_OK;
    wq_far_jobs_free(&far);
    return cancelled;
}

/* Those that have not ended, piece by piece. */
static int cancel_matching(wq_http *http, const void *asked, FILE *out)
{
    const list_ask *ask = asked;
    wq_jobs_filter filter = filter_of(ask);
    const unsigned alive = 1u << WQ_STATE_QUEUED | 1u << WQ_STATE_RUNNING;
    char after[WQ_ID_SIZE] = "";
    wq_job *jobs[DEFAULT_ROWS];
    size_t n, cancelled = 0;
    filter.states = filter.states ? filter.states & alive : alive;
    do {
        n = 0;
        if (filter.states != 0)
            wq_jobs(http->queue, &filter, *after ? after : NULL, jobs, DEFAULT_ROWS, &n);
        for (size_t i = 0; i < n; i++) {
            snprintf(after, sizeof after, "%s", wq_job_id(jobs[i]));
            cancelled += wq_job_cancel_by(jobs[i], "operator") == WQ_OK;
            wq_job_unref(jobs[i]);
        }
    } while (n > 0);
    cancelled += cancel_elsewhere(http, ask);
    fprintf(out, "{\"cancelled\": %zu}\n", cancelled);
    return 200;
}

int wq_answer_cancel_all(wq_http *http, h2o_req_t *req)
{
    list_ask ask;
    if (read_list_ask(req, &ask) != 0)
        return 0;
    if (ask.states == 0 && !ask.has_server && !ask.has_set)
        return wq_problem(req, 400, "Say which jobs: state, server or document_set_id.");
    return wq_answer_off_loop(http, req, cancel_matching, &ask, sizeof ask);
}

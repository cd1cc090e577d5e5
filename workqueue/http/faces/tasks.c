/* tasks.c - the task-status API: POST begins a task, GET {id} tells how far it is.
 *
 * A task is a job, and its id is the job's. What the protocol has besides is that a user, which is
 * whoever has the token, has one active request at a time; so there is a table of each user's
 * latest task. A POST claims its user's entry, asks the queue with no lock held, and settles the
 * entry. Others of the same user wait in between, as pending asks, so that of many at once one
 * begins a task and the rest are told of it.
 *
 * The table's lock goes before those of the queue and the job; the queue's answer, which takes it,
 * comes without any. */
#include "workqueue/http/faces/faces.h"

#include <inttypes.h>
#include <openssl/evp.h>
#include <search.h>
#include <stdlib.h>

#include "workqueue/http/hold/timers.h"
#include "workqueue/http/request/problem.h"

enum { HASH_SIZE = 32, SWEEP = 4 };

typedef struct wq_user {
    unsigned char
        hash[HASH_SIZE]; /* SHA-256 of the token; first: the tree compares pointers to it */
    TAILQ_ENTRY(wq_user) link;
    char id[WQ_ID_SIZE];     /* of the latest task, unless claimed */
    int64_t since;           /* CLOCK_MONOTONIC ms: when that was asked for */
    int is_claimed;          /* a POST is under way: the entry is its own, */
    wq_request_ask *waiting; /* and these wait for it to be settled */
} wq_user;

/* What a POST asks for; in its request's memory. */
typedef struct task_ask {
    wq_params params;
    int rebuild;
    wq_user *user; /* claimed for it */
} task_ask;

struct wq_tasks {
    pthread_mutex_t lock;
    /* under the lock */
    void *by_hash; /* tsearch */
    TAILQ_HEAD(, wq_user) users;
    wq_user *sweep; /* the next to be looked at; NULL: the first */
};

/* ---- the table of users --------------------------------------------------------------------- */

void wq_tasks_free(struct wq_tasks *tasks)
{
    if (tasks == NULL)
        return;
    tdestroy(tasks->by_hash, free);
    pthread_mutex_destroy(&tasks->lock);
    free(tasks);
}

static int compare_hashes(const void *a, const void *b)
{
    return memcmp(a, b, HASH_SIZE);
}

static wq_user *add_user_locked(struct wq_tasks *tasks, const unsigned char *hash)
{
    wq_user *user = calloc(1, sizeof *user);
    if (user == NULL)
        return NULL;
    memcpy(user->hash, hash, HASH_SIZE);
    if (tsearch(user, &tasks->by_hash, compare_hashes) == NULL) {
        free(user);
        return NULL;
    }
    TAILQ_INSERT_TAIL(&tasks->users, user, link);
    return user;
}

/* The active request of a user from before a restart: the latest that has not ended. */
static void restore_user(struct wq_tasks *tasks, wq_job *job)
{
    unsigned char hash[EVP_MAX_MD_SIZE];
    const char *token = wq_job_params(job)->api_token;
    wq_snapshot now;
    if (!EVP_Digest(token, strlen(token), hash, NULL, EVP_sha256(), NULL))
        return;
    wq_job_snapshot(job, &now);
    int64_t since = wq_loop_now() - (int64_t)(now.waited_ms + now.ran_ms);
    wq_snapshot_clear(&now);
    wq_user **found = tfind(hash, &tasks->by_hash, compare_hashes);
    wq_user *user = found != NULL ? *found : add_user_locked(tasks, hash);
    if (user == NULL || (found != NULL && user->since >= since))
        return;
    memcpy(user->id, wq_job_id(job), WQ_ID_SIZE);
    user->since = since;
}

/* Nobody else knows the table yet. */
static void restore_users(struct wq_tasks *tasks, wq_queue *queue)
{
    enum { PIECE = 256 };
    const wq_jobs_filter active = {.states = 1u << WQ_STATE_QUEUED | 1u << WQ_STATE_RUNNING |
                                             1u << WQ_STATE_PUBLISHING};
    wq_job *jobs[PIECE];
    char after[WQ_ID_SIZE] = "";
    size_t n = PIECE;
    while (n == PIECE && wq_jobs(queue, &active, *after ? after : NULL, jobs, PIECE, &n) == WQ_OK &&
           n > 0) {
        memcpy(after, wq_job_id(jobs[n - 1]), WQ_ID_SIZE);
        for (size_t i = 0; i < n; i++) {
            restore_user(tasks, jobs[i]);
            wq_job_unref(jobs[i]);
        }
    }
}

struct wq_tasks *wq_tasks_new(wq_queue *queue)
{
    struct wq_tasks *tasks = calloc(1, sizeof *tasks);
    if (tasks == NULL)
        return NULL;
    pthread_mutex_init(&tasks->lock, NULL);
    TAILQ_INIT(&tasks->users);
    restore_users(tasks, queue);
    return tasks;
}

static void remove_user_locked(struct wq_tasks *tasks, wq_user *user)
{
    if (tasks->sweep == user)
        tasks->sweep = TAILQ_NEXT(user, link);
    tdelete(user, &tasks->by_hash, compare_hashes);
    TAILQ_REMOVE(&tasks->users, user, link);
    free(user);
}

/* Whether the user's latest task goes on, and began within the window. */
static int is_active_locked(wq_http *http, const wq_user *user)
{
    wq_job *job;
    if (wq_loop_now() - user->since >= http->options.tasks_window_ms ||
        wq_job_by_id(http->queue, user->id, &job) != WQ_OK)
        return 0;
    int state = wq_state_of(job);
    wq_job_unref(job);
    return state < WQ_STATE_SUCCEEDED;
}

/* Entries go some time after their task has: as each task that begins looks at several, there are
 * never more than about twice as many as the queue has had jobs. */
static void sweep_locked(wq_http *http)
{
    struct wq_tasks *tasks = http->tasks;
    for (int i = 0; i < SWEEP; i++) {
        wq_user *user = tasks->sweep != NULL ? tasks->sweep : TAILQ_FIRST(&tasks->users);
        if (user == NULL)
            return;
        tasks->sweep = TAILQ_NEXT(user, link);
        if (!user->is_claimed && !is_active_locked(http, user))
            remove_user_locked(tasks, user);
    }
}

static int wait_locked(wq_http *http, h2o_req_t *req, wq_user *user, wq_then then, task_ask *ask)
{
    wq_request_ask *waiting = wq_ask_wait(http, req, user->waiting, then, &ask->params, ask);
    if (waiting == NULL)
        return WQ_ERROR_NO_MEMORY;
    user->waiting = waiting;
    return WQ_PENDING;
}

static int claim_locked(wq_http *http, h2o_req_t *req, const unsigned char *hash, wq_then then,
                        task_ask *ask, char active[WQ_ID_SIZE])
{
    wq_user **found = tfind(hash, &http->tasks->by_hash, compare_hashes);
    wq_user *user = found != NULL ? *found : add_user_locked(http->tasks, hash);
    if (user == NULL)
        return WQ_ERROR_NO_MEMORY;
    if (user->is_claimed)
        return wait_locked(http, req, user, then, ask);
    if (found != NULL && is_active_locked(http, user)) {
        memcpy(active, user->id, WQ_ID_SIZE);
        return WQ_ATTACHED;
    }
    user->is_claimed = 1;
    ask->user = user;
    return WQ_OK;
}

/* WQ_OK: the user's entry, ask->user, is claimed. WQ_ATTACHED: `active` is the id of the active
 * task. WQ_PENDING: `then` follows when another request of this user has settled. Or
 * WQ_ERROR_NO_MEMORY. */
static int claim_user(wq_http *http, h2o_req_t *req, wq_then then, task_ask *ask,
                      char active[WQ_ID_SIZE])
{
    unsigned char hash[EVP_MAX_MD_SIZE];
    const char *token = ask->params.api_token;
    if (!EVP_Digest(token, strlen(token), hash, NULL, EVP_sha256(), NULL))
        return WQ_ERROR_NO_MEMORY;
    pthread_mutex_lock(&http->tasks->lock);
    int result = claim_locked(http, req, hash, then, ask, active);
    pthread_mutex_unlock(&http->tasks->lock);
    return result;
}

/* `id` is of the task that has begun; NULL: none has. */
static void settle_user(wq_http *http, wq_user *user, const char *id)
{
    struct wq_tasks *tasks = http->tasks;
    pthread_mutex_lock(&tasks->lock);
    wq_request_ask *waiting = user->waiting;
    user->waiting = NULL;
    if (id != NULL) {
        memcpy(user->id, id, WQ_ID_SIZE);
        user->since = wq_loop_now();
        user->is_claimed = 0;
        sweep_locked(http);
    } else {
        remove_user_locked(tasks, user);
    }
    pthread_mutex_unlock(&tasks->lock);
    wq_ask_resume(waiting);
}

/* An output that is there is no task: nobody has to wait for it. */
static void settle_by_job(wq_http *http, void *user, wq_job *job)
{
    settle_user(http, user,
                job != NULL && wq_state_of(job) < WQ_STATE_SUCCEEDED ? wq_job_id(job) : NULL);
}

/* ---- bodies --------------------------------------------------------------------------------- */

static int send_json(h2o_req_t *req, int status, const char *body, size_t len)
{
    h2o_set_header(&req->pool, &req->res.headers, H2O_TOKEN_CACHE_CONTROL, H2O_STRLIT("no-store"),
                   1);
    return wq_send_bytes(req, status, "application/json", body, len);
}

static int send_message(h2o_req_t *req, int status, const char *message)
{
    char *body = h2o_mem_alloc_pool(&req->pool, 64 + 6 * strlen(message));
    char *at = stpcpy(body, "{\"success\": false, \"message\": \"");
    at = stpcpy(wq_put_escaped(at, message), "\"}");
    return send_json(req, status, body, (size_t)(at - body));
}

/* The errors of a form, as Django tells them: of each field, and of none in particular. */
static int send_fields(h2o_req_t *req, const wq_request_fault *fault)
{
    static const char *const none[] = {"non_field_errors", NULL};
    const char *text = fault->is_missing ? "This field is required." : fault->detail;
    char *body = h2o_mem_alloc_pool(&req->pool, 64 + 3 * (32 + 6 * strlen(text)));
    char *at = stpcpy(body, "{\"success\": false, \"message\": {");
    for (const char *const *field = fault->fields[0] ? fault->fields : none; *field; field++) {
        at += sprintf(at, "\"%s\": [\"", *field);
        at = stpcpy(wq_put_escaped(at, text), field[1] ? "\"], " : "\"]}}");
    }
    return send_json(req, fault->status, body, (size_t)(at - body));
}

static int send_fault(h2o_req_t *req, const wq_request_fault *fault)
{
    if (fault->status == 400 || fault->status == 401)
        return send_fields(req, fault);
    return send_message(req, fault->status, fault->detail);
}

static int send_failure(wq_http *http, h2o_req_t *req, int result, const wq_params *params,
                        const char *sentence)
{
    if (!wq_is_for_later(result))
        return send_message(req, 500, sentence);
    char *seconds = h2o_mem_alloc_pool(&req->pool, 16);
    int n = snprintf(seconds, 16, "%u", wq_result_retry_s(http->queue, result, params));
    h2o_set_header(&req->pool, &req->res.headers, H2O_TOKEN_RETRY_AFTER, seconds, (size_t)n, 1);
    return send_message(req, result == WQ_ERROR_USER_FULL ? 429 : 503, sentence);
}

static int no_memory(wq_http *http, h2o_req_t *req)
{
    return send_failure(http, req, WQ_ERROR_NO_MEMORY, NULL, wq_strerror(WQ_ERROR_NO_MEMORY));
}

static const char *status_text(int state)
{
    switch (state) {
    case WQ_STATE_QUEUED:
        return "QUEUED";
    case WQ_STATE_SUCCEEDED:
        return "SUCCESS";
    case WQ_STATE_FAILED:
        return "FAILURE";
    case WQ_STATE_CANCELLED:
        return "REVOKED";
    default:
        return "PROCESSING";
    }
}

/* ---- POST ----------------------------------------------------------------------------------- */

static int send_active(h2o_req_t *req, const char *id)
{
    char body[160];
    int n = snprintf(body, sizeof body,
                     "{\"success\": true, \"message\": \"There is an active request\", "
                     "\"data\": {\"task_id\": \"%s\"}}",
                     id);
    return send_json(req, 201, body, (size_t)n);
}

static int send_begun(h2o_req_t *req, wq_job *job)
{
    char body[160];
    int n =
        snprintf(body, sizeof body,
                 "{\"success\": true, \"data\": {\"task_id\": \"%s\", \"task_status\": \"%s\"}}",
                 wq_job_id(job), status_text(wq_state_of(job)));
    wq_job_unref(job);
    return send_json(req, 200, body, (size_t)n);
}

static int on_task_answer(wq_http *http, h2o_req_t *req, const wq_answer *answer)
{
    wq_tell_answer(req, answer);
    return answer->result < 0
               ? send_failure(http, req, answer->result, answer->params, answer->error.message)
               : send_begun(req, answer->job);
}

static int ask_for_task(wq_http *http, h2o_req_t *req, task_ask *ask)
{
    unsigned flags = WQ_ENSURE_JOB | (ask->rebuild ? WQ_ENSURE_REBUILD : 0);
    wq_answer refusal = {.params = &ask->params};
    if (wq_refuse_stopping(http, &refusal) == 0)
        return wq_ask_queue_observed(http, req, &ask->params, flags, settle_by_job, on_task_answer,
                                     ask->user);
    settle_user(http, ask->user, NULL);
    return on_task_answer(http, req, &refusal);
}

/* Claims the user's entry first; also when another request of that user has settled. */
static int begin_task(wq_http *http, h2o_req_t *req, const wq_answer *settled)
{
    char active[WQ_ID_SIZE];
    task_ask *ask = settled->context;
    switch (claim_user(http, req, begin_task, ask, active)) {
    case WQ_OK:
        return ask_for_task(http, req, ask);
    case WQ_ATTACHED:
        return send_active(req, active);
    case WQ_PENDING:
        return 0;
    default:
        return no_memory(http, req);
    }
}

static int begin_or_refuse(wq_http *http, h2o_req_t *req)
{
    wq_request_fault fault;
    task_ask *ask = h2o_mem_alloc_pool(&req->pool, sizeof *ask);
    if (wq_request_read(&http->limits, req, &ask->params, &ask->rebuild, &fault) != 0)
        return send_fault(req, &fault);
    return begin_task(http, req, &(wq_answer){.context = ask});
}

/* ---- GET ------------------------------------------------------------------------------------ */

/* Whole percents, rounded down; all of it is done only when the output is in place. */
static unsigned percentage(const wq_snapshot *snapshot)
{
    uint64_t done = snapshot->items_done, total = snapshot->items_total, percent = 0;
    if (snapshot->state == WQ_STATE_SUCCEEDED)
        return 100;
    if (snapshot->has_items && total > 0) /* 18 digits by 100 would not fit */
        /* cppcheck-suppress zerodivcond - total is large there */
        percent = total > UINT64_MAX / 100 ? done / (total / 100) : done * 100 / total;
    else
        percent = (uint64_t)(snapshot->reached * 100 + 1e-9); /* 0.29 is 29, though not in binary */
    return percent > 99 ? 99 : (unsigned)percent;
}

static size_t render(const wq_job *job, const wq_snapshot *snapshot, char *body, size_t size)
{
    char items[96] = "\"count_done_items\": null, \"number_of_items\": null";
    if (snapshot->has_items)
        snprintf(items, sizeof items,
                 "\"count_done_items\": %" PRIu64 ", \"number_of_items\": %" PRIu64,
                 snapshot->items_done, snapshot->items_total);
    return (size_t)snprintf(body, size,
                            "{\"success\": true, \"data\": {\"task_id\": \"%s\", "
                            "\"task_status\": \"%s\", \"done_percentage\": %u, %s}}",
                            wq_job_id(job), status_text(wq_told_state(snapshot)),
                            percentage(snapshot), items);
}

static int tell(wq_http *http, h2o_req_t *req, h2o_iovec_t name)
{
    char body[320], id[WQ_ID_SIZE] = "";
    wq_snapshot snapshot;
    wq_job *job;
    if (name.len > 0 && name.base[name.len - 1] == '/')
        name.len--;
    if (name.len == sizeof id - 1)
        memcpy(id, name.base, name.len);
    if (wq_job_by_id(http->queue, id, &job) != WQ_OK)
        return send_message(req, 404, "Task not found");
    wq_job_snapshot(job, &snapshot);
    size_t n = render(job, &snapshot, body, sizeof body);
    wq_snapshot_clear(&snapshot);
    wq_job_unref(job);
    return send_json(req, 200, body, n);
}

int wq_face_tasks(wq_http *http, h2o_req_t *req, h2o_iovec_t rest)
{
    if (wq_method(req, rest.len == 0 ? "POST, OPTIONS" : "GET, HEAD, OPTIONS"))
        return 0;
    return rest.len == 0 ? begin_or_refuse(http, req) : tell(http, req, rest);
}

/* loop.c - what a face needs of an event loop: news of jobs, deadlines, and clients that leave.
 *
 * Each h2o context gets a wq_loop with
 * - a receiver: the messages of jobs with news, at most one for a job at a time;
 * - an epoll of its own, itself watched by the loop: libh2o has stopped reading a held connection,
 *   so only this sees that its client has left. What has been held for a while goes in there, and
 *   what ends sooner never does;
 * - a heap of deadlines on one timerfd, because h2o's own timers follow the wall clock.
 */
#include "workqueue/http/hold/loop.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <netinet/tcp.h>
#include <search.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>

#include "workqueue/http/faces/faces.h"
#include "workqueue/http/request/problem.h"

enum {
    POSITIONS_MS = 100,    /* positions are news at most so often, */
    POSITIONS_PER_MS = 10, /* and a loop tells at most so many in a millisecond */
    WATCH_AFTER_MS = 250,  /* a client that has left is noticed within a second */
    END_ROUNDS = 100,      /* of 10 ms, for connections that have been cut */
    UNSENT_BYTES = 16384,  /* what the kernel may queue for a client: it should get the latest */
    KERNEL_LATER_MS =
        1000, /* the kernel drops a client that takes nothing, too, but we count them */
};

typedef struct deadline {
    int64_t at;
    wq_held *held;
} deadline;

struct wq_loop {
    wq_http *http;
    h2o_context_t *ctx;
    LIST_ENTRY(wq_loop) link;
    h2o_multithread_receiver_t receiver, posts;
    void *by_job; /* tsearch: wq_loop_job by wq_job */
    LIST_HEAD(, wq_loop_job) jobs;
    LIST_HEAD(, wq_held) detached, unwatched;

    int gone_fd;
    h2o_socket_t *gone, *timer;
    int timer_fd;
    int64_t armed;  /* when the timer fires; 0: it does not */
    deadline *heap; /* from 1 */
    size_t n_heap, heap_size;
    int64_t watch_at; /* when to watch the unwatched; 0: there are none */
    int64_t sweep_at; /* when to look for clients that stopped asking; 0: never */

    wq_watch *positions;
    h2o_multithread_message_t positions_message, stop_message;
    atomic_int positions_marked;
    int64_t positions_at, positions_told; /* when to tell, 0 not; when last told */
    LIST_HEAD(, wq_loop_job) waiting;
    size_t n_waiting;
};

int64_t wq_loop_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ---- deadlines ------------------------------------------------------------------------------- */

/* Entries may be early, never late: a deadline that was moved later stays where it is in the heap
 * and is looked at again when its old time comes. A send then costs no more than an assignment. */

static void heap_place(wq_loop *loop, size_t i, deadline d)
{
    loop->heap[i] = d;
    d.held->heap = i;
}

static void heap_up(wq_loop *loop, size_t i, deadline d)
{
    for (; i > 1 && loop->heap[i / 2].at > d.at; i /= 2)
        heap_place(loop, i, loop->heap[i / 2]);
    heap_place(loop, i, d);
}

static void heap_down(wq_loop *loop, size_t i, deadline d)
{
    for (size_t child; (child = 2 * i) <= loop->n_heap; i = child) {
        if (child < loop->n_heap && loop->heap[child + 1].at < loop->heap[child].at)
            child++;
        if (loop->heap[child].at >= d.at)
            break;
        heap_place(loop, i, loop->heap[child]);
    }
    heap_place(loop, i, d);
}

static void heap_remove(wq_loop *loop, wq_held *held)
{
    size_t i = held->heap;
    held->heap = 0;
    deadline last = loop->heap[loop->n_heap--];
    if (i > loop->n_heap)
        return;
    if (i > 1 && loop->heap[i / 2].at > last.at)
        heap_up(loop, i, last);
    else
        heap_down(loop, i, last);
}

/* The earlier of two times, of which 0 is none. */
static int64_t earlier(int64_t a, int64_t b)
{
    return a == 0 || (b != 0 && b < a) ? b : a;
}

static void arm(wq_loop *loop)
{
    int64_t at = loop->n_heap > 0 ? loop->heap[1].at : 0;
    at = earlier(earlier(at, loop->positions_at), earlier(loop->watch_at, loop->sweep_at));
    if (at == 0 || (loop->armed != 0 && loop->armed <= at))
        return;
    struct itimerspec spec = {.it_value = {at / 1000, at % 1000 * 1000000}};
    timerfd_settime(loop->timer_fd, TFD_TIMER_ABSTIME, &spec, NULL);
    loop->armed = at;
}

void wq_held_deadline(wq_held *held, int64_t at)
{
    wq_loop *loop = held->loop;
    held->deadline = at;
    if (held->heap == 0)
        heap_up(loop, ++loop->n_heap, (deadline){at, held});
    else if (at < loop->heap[held->heap].at)
        heap_up(loop, held->heap, (deadline){at, held});
    arm(loop);
}

void wq_loop_sweep(wq_http *http, h2o_req_t *req, int64_t at)
{
    wq_loop *loop = h2o_context_get_handler_context(req->conn->ctx, http->anchor);
    loop->sweep_at = earlier(loop->sweep_at, at);
    arm(loop);
}

/* Room for one more deadline than there are, so that setting one cannot fail. */
static int heap_reserve(wq_loop *loop)
{
    if (loop->n_heap + 1 < loop->heap_size)
        return 0;
    size_t size = loop->heap_size ? loop->heap_size * 2 : 64;
    deadline *heap = realloc(loop->heap, size * sizeof *heap);
    if (heap == NULL)
        return -1;
    loop->heap = heap;
    loop->heap_size = size;
    return 0;
}

static void run_deadlines(wq_loop *loop, int64_t now)
{
    while (loop->n_heap > 0 && loop->heap[1].at <= now) {
        wq_held *held = loop->heap[1].held;
        if (held->deadline > now) {
            heap_down(loop, 1, (deadline){held->deadline, held});
            continue;
        }
        heap_remove(loop, held);
        held->timeout(held);
    }
}

/* ---- news ------------------------------------------------------------------------------------ */

static void set_waiting(wq_loop_job *lj, int waiting)
{
    wq_loop *loop = lj->loop;
    if (atomic_exchange(&lj->is_waiting, waiting) == waiting)
        return;
    if (waiting) {
        LIST_INSERT_HEAD(&loop->waiting, lj, waiting);
        loop->n_waiting++;
    } else {
        LIST_REMOVE(lj, waiting);
        loop->n_waiting--;
    }
}

/* Takes a snapshot and renders it; 1 if that gave another record, or another state: the first in
 * the row that begins to run has the same record as before. */
static int refresh(wq_loop_job *lj)
{
    char small[512];
    const int before = lj->snapshot.state;
    wq_snapshot_clear(&lj->snapshot);
    wq_job_snapshot(lj->job, &lj->snapshot);
    set_waiting(lj, lj->snapshot.state == WQ_STATE_QUEUED);
    size_t n = wq_snapshot_json(&lj->snapshot, small, sizeof small);
    if (n < sizeof small && n == lj->record.len && memcmp(small, lj->record.base, n) == 0)
        return lj->snapshot.state != before;
    if (lj->record.base != NULL)
        h2o_mem_release_shared(lj->record.base);
    lj->record = h2o_iovec_init(h2o_mem_alloc_shared(NULL, n + 1, NULL), n);
    if (n < sizeof small)
        memcpy(lj->record.base, small, n);
    else
        wq_snapshot_json(&lj->snapshot, lj->record.base, n + 1);
    lj->serial++;
    return 1;
}

static void free_job(wq_loop_job *lj)
{
    if (lj->record.base != NULL)
        h2o_mem_release_shared(lj->record.base);
    wq_snapshot_clear(&lj->snapshot);
    wq_job_unref(lj->job);
    free(lj);
}

static int compare_jobs(const void *a, const void *b)
{
    const wq_job *x = ((const wq_loop_job *)a)->job, *y = ((const wq_loop_job *)b)->job;
    return x < y ? -1 : x > y;
}

/* The last one has let go. A message under way still points here: then it frees. */
static void drop_job(wq_loop_job *lj)
{
    wq_watch_cancel(lj->watch);
    lj->watch = NULL;
    tdelete(lj, &lj->loop->by_job, compare_jobs);
    LIST_REMOVE(lj, link);
    set_waiting(lj, 0);
    if (!atomic_load(&lj->marked))
        free_job(lj);
}

static void tell_held(wq_loop_job *lj)
{
    /* A face may release itself, and with it the job, in its callback. */
    wq_held *held = LIST_FIRST(&lj->held), *next;
    for (; held != NULL; held = next) {
        next = LIST_NEXT(held, link);
        held->news(held);
    }
}

static void on_job_news(wq_loop_job *lj)
{
    /* Cleared before the snapshot: news after it sends another message. */
    atomic_store(&lj->marked, 0);
    if (LIST_EMPTY(&lj->held))
        free_job(lj);
    else if (refresh(lj))
        tell_held(lj);
}

static void mark_positions(void *user);

/* That it has left the row is news of its position, no more: told with those of the others, or with
 * the program's first line, whichever comes first. Saves waking the loop, and a send, for each
 * short job. */
static int has_only_started(wq_loop_job *lj)
{
    wq_snapshot now;
    if (!atomic_load(&lj->is_waiting))
        return 0;
    wq_job_snapshot(lj->job, &now);
    int only = now.state == WQ_STATE_RUNNING && now.message == NULL && now.reached == 0;
    wq_snapshot_clear(&now);
    return only;
}

/* From a worker: never blocks, and costs little when the loop has not caught up. */
static void mark_job(void *user)
{
    wq_loop_job *lj = user;
    if (has_only_started(lj))
        mark_positions(lj->loop);
    else if (!atomic_exchange(&lj->marked, 1))
        h2o_multithread_send_message(&lj->loop->receiver, &lj->message);
}

/* ---- positions ------------------------------------------------------------------------------- */

/* Every start or end of a job moves all that wait behind it, so this news is told at a bounded
 * rate: at once after a quiet time, then as often as the loop can bear. The mark stays set between,
 * so that nobody sends messages meanwhile. */

static void mark_positions(void *user)
{
    wq_loop *loop = user;
    if (!atomic_exchange(&loop->positions_marked, 1))
        h2o_multithread_send_message(&loop->receiver, &loop->positions_message);
}

static void tell_positions(wq_loop *loop, int64_t now)
{
    wq_loop_job *lj = LIST_FIRST(&loop->waiting), *next;
    loop->positions_at = 0;
    loop->positions_told = now;
    atomic_store(&loop->positions_marked, 0);
    for (; lj != NULL; lj = next) {
        next = LIST_NEXT(lj, waiting);
        if (refresh(lj))
            tell_held(lj);
    }
}

static void on_positions(wq_loop *loop)
{
    int64_t now = wq_loop_now();
    int64_t at = loop->positions_told + POSITIONS_MS + (int64_t)loop->n_waiting / POSITIONS_PER_MS;
    if (at <= now) {
        tell_positions(loop, now);
    } else {
        loop->positions_at = at;
        arm(loop);
    }
}

/* ---- detached ones --------------------------------------------------------------------------- */

static void stop_detached(wq_loop *loop)
{
    wq_held *held = LIST_FIRST(&loop->detached), *next;
    for (; held != NULL; held = next) {
        next = LIST_NEXT(held, apart);
        if (held->job == NULL)
            held->news(held);
    }
}

static void cut_detached(wq_loop *loop)
{
    wq_held *held;
    LIST_FOREACH(held, &loop->detached, apart)
    held->gone(held);
}

/* The loop has stopped with some left, on somebody's own server: it runs on until they have ended.
 */
static void end_detached(wq_loop *loop)
{
    cut_detached(loop);
    for (int i = 0; i < END_ROUNDS && !LIST_EMPTY(&loop->detached); i++)
        h2o_evloop_run(loop->ctx->loop, 10);
    while (!LIST_EMPTY(&loop->detached)) /* lost, but let go of the jobs */
        wq_release(LIST_FIRST(&loop->detached));
}

void wq_loop_stop(wq_http *http, h2o_context_t *ctx)
{
    stop_detached(h2o_context_get_handler_context(ctx, http->anchor));
}

void wq_loop_cut(wq_http *http, h2o_context_t *ctx)
{
    cut_detached(h2o_context_get_handler_context(ctx, http->anchor));
}

/* ---- clients that leave ---------------------------------------------------------------------- */

/* Most responses end before, and cost nothing then. */
static void watch_soon(wq_loop *loop, wq_held *held)
{
    LIST_INSERT_HEAD(&loop->unwatched, held, apart);
    if (loop->watch_at != 0)
        return;
    loop->watch_at = wq_loop_now() + WATCH_AFTER_MS;
    arm(loop);
}

/* Harmless where the connection is no TCP socket. */
static void limit_stalling(const wq_held *held)
{
    const unsigned stall = held->http->options.stall_timeout_ms;
    int keep = stall < INT_MAX - KERNEL_LATER_MS ? (int)stall + KERNEL_LATER_MS : INT_MAX;
    setsockopt(held->fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &keep, sizeof keep);
}

/* Whoever has left already is told of at once. Without memory, again later. */
static void watch_clients(wq_loop *loop, int64_t now)
{
    wq_held *held;
    loop->watch_at = 0;
    while ((held = LIST_FIRST(&loop->unwatched)) != NULL) {
        struct epoll_event event = {.events = EPOLLRDHUP | EPOLLET, .data.ptr = held};
        if (epoll_ctl(loop->gone_fd, EPOLL_CTL_ADD, held->fd, &event) != 0) {
            loop->watch_at = now + WATCH_AFTER_MS;
            return;
        }
        limit_stalling(held);
        held->is_watched = 1;
        LIST_REMOVE(held, apart);
    }
}

/* ---- the loop's events ----------------------------------------------------------------------- */

static void on_timer(h2o_socket_t *sock, const char *err)
{
    wq_loop *loop = sock->data;
    uint64_t count;
    (void)err;
    if (read(loop->timer_fd, &count, sizeof count) < 0)
        return;
    loop->armed = 0;
    int64_t now = wq_loop_now();
    if (loop->positions_at != 0 && loop->positions_at <= now)
        tell_positions(loop, now);
    run_deadlines(loop, now);
    if (loop->watch_at != 0 && loop->watch_at <= now)
        watch_clients(loop, now);
    if (loop->sweep_at != 0 && loop->sweep_at <= now)
        loop->sweep_at = wq_lunkwill_sweep(loop->http->lunkwill, now);
    arm(loop);
}

static void on_gone(h2o_socket_t *sock, const char *err)
{
    wq_loop *loop = sock->data;
    struct epoll_event events[64];
    (void)err;
    /* A callback can release only its own response, so no later event here is stale. */
    int n = epoll_wait(loop->gone_fd, events, 64, 0);
    for (int i = 0; i < n; i++) {
        wq_held *held = events[i].data.ptr;
        if (events[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) {
            atomic_fetch_add(&loop->http->clients_left, 1);
            held->gone(held);
        }
    }
}

static void on_stop(wq_loop *loop)
{
    wq_loop_job *lj = LIST_FIRST(&loop->jobs), *next;
    for (; lj != NULL; lj = next) {
        next = LIST_NEXT(lj, link);
        tell_held(lj);
    }
    stop_detached(loop);
}

static void on_messages(h2o_multithread_receiver_t *receiver, h2o_linklist_t *messages)
{
    wq_loop *loop = H2O_STRUCT_FROM_MEMBER(wq_loop, receiver, receiver);
    while (!h2o_linklist_is_empty(messages)) {
        h2o_multithread_message_t *m =
            H2O_STRUCT_FROM_MEMBER(h2o_multithread_message_t, link, messages->next);
        h2o_linklist_unlink(&m->link);
        assert(messages->next != &m->link);
        if (m == &loop->positions_message)
            on_positions(loop);
        else if (m == &loop->stop_message)
            on_stop(loop);
        else
            on_job_news(H2O_STRUCT_FROM_MEMBER(wq_loop_job, message, m));
    }
}

/* ---- posts ----------------------------------------------------------------------------------- */

static void on_posts(h2o_multithread_receiver_t *receiver, h2o_linklist_t *messages)
{
    (void)receiver;
    while (!h2o_linklist_is_empty(messages)) {
        wq_post *post = H2O_STRUCT_FROM_MEMBER(wq_post, message.link, messages->next);
        h2o_linklist_unlink(&post->message.link);
        assert(messages->next != &post->message.link);
        post->arrive(post);
    }
}

wq_loop *wq_loop_of(wq_http *http, h2o_req_t *req)
{
    return h2o_context_get_handler_context(req->conn->ctx, http->anchor);
}

int wq_post_send(wq_http *http, wq_post *post)
{
    wq_loop *loop;
    /* under the lock, so that the loop cannot end meanwhile */
    pthread_mutex_lock(&http->lock);
    LIST_FOREACH(loop, &http->loops, link)
    if (loop == post->loop)
        break;
    if (loop != NULL)
        h2o_multithread_send_message(&loop->posts, &post->message);
    pthread_mutex_unlock(&http->lock);
    return loop != NULL ? 0 : -1;
}

/* ---- hold and release ------------------------------------------------------------------------ */

/* Takes over the reference to `job`. */
static wq_loop_job *join_job(wq_loop *loop, wq_job *job)
{
    wq_loop_job probe = {.job = job};
    wq_loop_job **found = tfind(&probe, &loop->by_job, compare_jobs);
    if (found != NULL) {
        wq_job_unref(job);
        return *found;
    }
    wq_loop_job *lj = calloc(1, sizeof *lj);
    if (lj == NULL)
        goto failed;
    lj->loop = loop;
    lj->job = job;
    LIST_INIT(&lj->held);
    if (tsearch(lj, &loop->by_job, compare_jobs) == NULL)
        goto failed;
    if (wq_job_watch(job, mark_job, lj, &lj->watch) != WQ_OK) {
        tdelete(lj, &loop->by_job, compare_jobs);
        goto failed;
    }
    LIST_INSERT_HEAD(&loop->jobs, lj, link);
    refresh(lj);
    return lj;
failed:
    wq_job_unref(job);
    free(lj);
    return NULL;
}

static void attend_to_client(wq_loop *loop, wq_held *held)
{
    int unsent = UNSENT_BYTES;
    held->fd = h2o_socket_get_fd(held->req->conn->callbacks->get_socket(held->req->conn));
    if (held->is_detached) {
        LIST_INSERT_HEAD(&loop->detached, held, apart);
        limit_stalling(held);
    } else {
        watch_soon(loop, held);
    }
    /* Harmless, too, and not put off: a client that reads nothing would have the kernel queue as
     * much as it likes meanwhile. */
    setsockopt(held->fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof unsent);
}

static int has_room(wq_http *http, wq_held *held)
{
    wq_error full = {0};
    if (atomic_fetch_add(&http->n_held, 1) < http->options.max_streams)
        return 1;
    atomic_fetch_sub(&http->n_held, 1);
    snprintf(full.message, sizeof full.message,
             "%zu responses are being held, as many as may; try again later",
             http->options.max_streams);
    wq_problem_result(held->req, WQ_ERROR_FULL, &full, 5);
    return 0;
}

int wq_hold(wq_held *held, wq_job *job)
{
    wq_http *http = held->http;
    wq_loop *loop = h2o_context_get_handler_context(held->req->conn->ctx, http->anchor);
    wq_loop_job *lj = NULL;
    held->loop = loop;
    held->job = NULL;
    held->heap = 0;
    held->is_watched = 0;
    held->fd = -1;
    if (!has_room(http, held)) {
        wq_job_unref(job);
        return -1;
    }
    int failed = heap_reserve(loop) != 0;
    if (failed)
        wq_job_unref(job);
    else if (job != NULL)
        failed = (lj = join_job(loop, job)) == NULL;
    if (failed) {
        atomic_fetch_sub(&http->n_held, 1);
        wq_problem_result(held->req, WQ_ERROR_NO_MEMORY, NULL, 5);
        return -1;
    }
    attend_to_client(loop, held);
    held->job = lj;
    if (lj != NULL)
        LIST_INSERT_HEAD(&lj->held, held, link);
    atomic_fetch_add(&http->held[held->face], 1);
    atomic_fetch_add(&http->requests[held->face], 1);
    return 0;
}

int wq_hold_join(wq_held *held, wq_job *job)
{
    wq_loop_job *lj = join_job(held->loop, job);
    if (lj == NULL)
        return -1;
    held->job = lj;
    LIST_INSERT_HEAD(&lj->held, held, link);
    return 0;
}

void wq_hold_leave(wq_held *held)
{
    wq_loop_job *lj = held->job;
    if (lj == NULL)
        return;
    held->job = NULL;
    LIST_REMOVE(held, link);
    if (LIST_EMPTY(&lj->held))
        drop_job(lj);
}

void wq_release(wq_held *held)
{
    if (held->fd < 0)
        return;
    if (held->heap != 0)
        heap_remove(held->loop, held);
    if (held->is_watched)
        epoll_ctl(held->loop->gone_fd, EPOLL_CTL_DEL, held->fd, NULL);
    else
        LIST_REMOVE(held, apart);
    held->fd = -1;
    atomic_fetch_sub(&held->http->n_held, 1);
    atomic_fetch_sub(&held->http->held[held->face], 1);
    wq_hold_leave(held);
}

/* ---- contexts -------------------------------------------------------------------------------- */

static h2o_socket_t *watch_fd(wq_loop *loop, int fd, h2o_socket_cb cb)
{
    h2o_socket_t *sock = h2o_evloop_socket_create(loop->ctx->loop, fd, H2O_SOCKET_FLAG_DONT_READ);
    sock->data = loop;
    h2o_socket_read_start(sock, cb);
    return sock;
}

/* libh2o lets a context's start not fail; it aborts without memory or descriptors, and so do we. */
static void on_context_init(h2o_handler_t *anchor, h2o_context_t *ctx)
{
    wq_http *http = ((wq_route *)anchor)->http;
    wq_loop *loop = h2o_mem_alloc(sizeof *loop);
    memset(loop, 0, sizeof *loop);
    loop->http = http;
    loop->ctx = ctx;
    LIST_INIT(&loop->jobs);
    LIST_INIT(&loop->detached);
    LIST_INIT(&loop->unwatched);
    LIST_INIT(&loop->waiting);
    h2o_multithread_register_receiver(ctx->queue, &loop->receiver, on_messages);
    h2o_multithread_register_receiver(ctx->queue, &loop->posts, on_posts);
    loop->gone_fd = epoll_create1(EPOLL_CLOEXEC);
    loop->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (loop->gone_fd < 0 || loop->timer_fd < 0)
        h2o_fatal("workqueue: no file descriptors left for an event loop");
    loop->gone = watch_fd(loop, loop->gone_fd, on_gone);
    loop->timer = watch_fd(loop, loop->timer_fd, on_timer);
    if (wq_queue_watch(http->queue, mark_positions, loop, &loop->positions) != WQ_OK)
        h2o_fatal("workqueue: out of memory");
    pthread_mutex_lock(&http->lock);
    LIST_INSERT_HEAD(&http->loops, loop, link);
    pthread_mutex_unlock(&http->lock);
    h2o_context_set_handler_context(ctx, anchor, loop);
}

static void on_context_dispose(h2o_handler_t *anchor, h2o_context_t *ctx)
{
    wq_loop *loop = h2o_context_get_handler_context(ctx, anchor);
    wq_http *http = loop->http;
    end_detached(loop); /* before: a post that is lost must find nobody who refers to it */
    pthread_mutex_lock(&http->lock);
    LIST_REMOVE(loop, link);
    pthread_mutex_unlock(&http->lock);
    wq_watch_cancel(loop->positions);
    /* Nobody sends any more; what has been sent is taken in and let go. */
    on_messages(&loop->receiver, &loop->receiver._messages);
    on_posts(&loop->posts, &loop->posts._messages);
    h2o_multithread_unregister_receiver(ctx->queue, &loop->receiver);
    h2o_multithread_unregister_receiver(ctx->queue, &loop->posts);
    h2o_socket_close(loop->gone);
    h2o_socket_close(loop->timer);
    free(loop->heap);
    free(loop);
}

void wq_loops_attach(wq_http *http, wq_route *anchor)
{
    anchor->super.on_context_init = on_context_init;
    anchor->super.on_context_dispose = on_context_dispose;
    http->anchor = &anchor->super;
}

void wq_http_stop(wq_http *http)
{
    wq_loop *loop;
    if (atomic_exchange(&http->stopping, 1))
        return;
    pthread_mutex_lock(&http->lock);
    LIST_FOREACH(loop, &http->loops, link)
    h2o_multithread_send_message(&loop->receiver, &loop->stop_message);
    pthread_mutex_unlock(&http->lock);
}

/* publish.c - puts outputs in place, several together.
 *
 * The publisher takes all parcels that have gathered and publishes them together, which costs the
 * disk little more than one alone. It begins when as many have gathered as there still wait for a
 * worker, so that batches are large and the workers have something to do meanwhile; or PAUSE_NS
 * after the batch before began; or when a worker is idle. At most MAX_HAND gather, then workers
 * wait. A store that blocks is across a network: there some threads publish one output each.
 *
 * What finds the store away is tried again by its own clock, and others go on. */
#include "workqueue/core/publish.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "workqueue/util/threads.h"

enum {
    MAX_HAND = 256,
    MAX_THREADS = 4,
    PAUSE_NS = 20000000,
    FIRST_RETRY_MS = 500,
    LAST_RETRY_MS = 30000
};

TAILQ_HEAD(parcel_list, wq_parcel);

struct wq_publisher {
    wq_publisher_options options;
    pthread_t threads[MAX_THREADS];
    unsigned n_threads;
    size_t batch;      /* parcels that a thread takes at once */
    wq_publish *items; /* of the one thread, if that is more than one: too much for a small stack */

    pthread_mutex_t lock;
    /* under the lock */
    pthread_cond_t ready, room;
    pthread_cond_t flush; /* a worker is idle; like `ready` on CLOCK_MONOTONIC */
    struct parcel_list hand;
    size_t n_hand;
    struct parcel_list later; /* by the time of the next try */
    int stopping, closing;
};

/* ---- while the store is away ----------------------------------------------------------------- */

static void insert_later_locked(wq_publisher *p, wq_parcel *parcel)
{
    wq_parcel *before = TAILQ_LAST(&p->later, parcel_list);
    while (before != NULL && before->try_at > parcel->try_at)
        before = TAILQ_PREV(before, parcel_list, link);
    if (before != NULL)
        TAILQ_INSERT_AFTER(&p->later, before, parcel, link);
    else
        TAILQ_INSERT_HEAD(&p->later, parcel, link);
}

static void give_back(wq_publisher *p, wq_parcel *parcel, const wq_error *error)
{
    if (parcel->temp_path != NULL)
        p->options.store->discard(p->options.store->self, parcel->temp_path);
    parcel->is_put_off = 0;
    p->options.published(p->options.user, parcel, WQ_ERROR_AWAY, error);
}

/* The owner is told before it is listed, as another thread may publish it at once then. */
static void retry_later(wq_publisher *p, wq_parcel *parcel, const wq_error *error)
{
    unsigned after_ms = parcel->retry_ms ? 2 * parcel->retry_ms : FIRST_RETRY_MS;
    parcel->retry_ms = after_ms < LAST_RETRY_MS ? after_ms : LAST_RETRY_MS;
    parcel->try_at = wq_monotonic_ms() + parcel->retry_ms;
    if (!parcel->is_put_off) {
        parcel->is_put_off = 1;
        p->options.published(p->options.user, parcel, WQ_ERROR_AWAY, error);
    }
    pthread_mutex_lock(&p->lock);
    int stopping = p->stopping, is_first = TAILQ_EMPTY(&p->later);
    if (!stopping) {
        insert_later_locked(p, parcel);
        pthread_cond_signal(&p->ready);
    }
    pthread_mutex_unlock(&p->lock);
    if (stopping)
        give_back(p, parcel, error);
    else if (is_first)
        wq_log(&p->options.logger, WQ_LOG_WARNING,
               "the store is away, outputs are kept until it is back: %s", error->message);
}

static wq_parcel *take_later_locked(wq_publisher *p, int64_t until)
{
    wq_parcel *parcel = TAILQ_FIRST(&p->later);
    if (parcel == NULL || parcel->try_at > until)
        return NULL;
    TAILQ_REMOVE(&p->later, parcel, link);
    return parcel;
}

/* ---- publishing ------------------------------------------------------------------------------ */

static void settle_parcel(wq_publisher *p, wq_parcel *parcel, const wq_publish *item)
{
    parcel->size_bytes = item->size_bytes;
    if (item->result == WQ_ERROR_AWAY && p->n_threads > 0)
        retry_later(p, parcel, &item->error);
    else
        p->options.published(p->options.user, parcel, item->result, &item->error);
}

/* Somebody else has published it. */
static void look_for_output(wq_publisher *p, wq_parcel *parcel)
{
    wq_store *store = p->options.store;
    wq_publish item = {.key = parcel->key};
    item.result = store->find(store->self, parcel->key, NULL, &item.error);
    if (item.result == WQ_ERROR_NOT_FOUND)
        item.result = wq_fail(&item.error, WQ_ERROR_SYSTEM,
                              "the run is said to have succeeded, but its output is not in the "
                              "store");
    settle_parcel(p, parcel, &item);
}

static void publish_batch(wq_publisher *p, wq_publish *items, wq_parcel **parcels, size_t n)
{
    size_t with_file = 0;
    for (size_t i = 0; i < n; i++) {
        wq_parcel *parcel = parcels[i];
        if (parcel->temp_path == NULL) {
            look_for_output(p, parcel);
            continue;
        }
        items[with_file] = (wq_publish){.key = parcel->key,
                                        .params = parcel->params,
                                        .replace = parcel->replace,
                                        .temp_path = parcel->temp_path,
                                        .job_id = parcel->job_id,
                                        .ran_ms = parcel->ran_ms};
        parcels[with_file++] = parcel;
    }
    if (with_file > 0)
        p->options.store->publish(p->options.store->self, items, with_file);
    for (size_t i = 0; i < with_file; i++)
        settle_parcel(p, parcels[i], &items[i]);
}

/* ---- the threads ----------------------------------------------------------------------------- */

static void add_ns(struct timespec *t, long ns)
{
    t->tv_nsec += ns;
    t->tv_sec += t->tv_nsec / 1000000000;
    t->tv_nsec %= 1000000000;
}

/* Waits until there is something to do; 0: never again. */
static int wait_parcel_locked(wq_publisher *p)
{
    for (;;) {
        wq_parcel *later = TAILQ_FIRST(&p->later);
        if (p->n_hand > 0 || (later != NULL && later->try_at <= wq_monotonic_ms()))
            return 1;
        if (p->closing)
            return 0;
        if (later == NULL) {
            pthread_cond_wait(&p->ready, &p->lock);
            continue;
        }
        struct timespec until = {later->try_at / 1000, later->try_at % 1000 * 1000000};
        pthread_cond_timedwait(&p->ready, &p->lock, &until);
    }
}

/* New ones first: those that wait already may wait a little longer. */
static size_t take_parcels_locked(wq_publisher *p, wq_parcel **parcels)
{
    size_t n = 0;
    wq_parcel *parcel;
    for (; n < p->batch && (parcel = TAILQ_FIRST(&p->hand)) != NULL; p->n_hand--) {
        TAILQ_REMOVE(&p->hand, parcel, link);
        parcels[n++] = parcel;
    }
    while (n < p->batch && (parcel = take_later_locked(p, wq_monotonic_ms())) != NULL)
        parcels[n++] = parcel;
    return n;
}

static int are_enough_locked(wq_publisher *p)
{
    return p->n_hand >= MAX_HAND || p->n_hand >= atomic_load(p->options.n_ready);
}

static int may_gather_locked(wq_publisher *p)
{
    return p->batch > 1 && p->n_hand > 0 && atomic_load(p->options.n_ready) >= p->options.workers &&
           !are_enough_locked(p);
}

static void *publisher_main(void *arg)
{
    wq_publisher *p = arg;
    wq_parcel *parcels[MAX_HAND];
    wq_publish one = {0}, *items = p->batch > 1 ? p->items : &one;
    struct timespec next = {0};
    pthread_mutex_lock(&p->lock);
    while (wait_parcel_locked(p)) {
        while (may_gather_locked(p) && pthread_cond_timedwait(&p->flush, &p->lock, &next) == 0)
            ;
        clock_gettime(CLOCK_MONOTONIC, &next);
        add_ns(&next, PAUSE_NS);
        size_t n = take_parcels_locked(p, parcels);
        pthread_cond_broadcast(&p->room);
        pthread_mutex_unlock(&p->lock);
        publish_batch(p, items, parcels, n);
        pthread_mutex_lock(&p->lock);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

void wq_publisher_add(wq_publisher *p, wq_parcel *parcel)
{
    if (p->n_threads == 0) {
        wq_publish item;
        publish_batch(p, &item, &parcel, 1);
        return;
    }
    pthread_mutex_lock(&p->lock);
    while (p->n_hand >= MAX_HAND && !p->options.asynchronous)
        pthread_cond_wait(&p->room, &p->lock);
    TAILQ_INSERT_TAIL(&p->hand, parcel, link);
    if (p->n_hand++ == 0 || p->n_threads > 1)
        pthread_cond_signal(&p->ready);
    else if (are_enough_locked(p))
        pthread_cond_signal(&p->flush);
    pthread_mutex_unlock(&p->lock);
}

void wq_publisher_flush_soon(wq_publisher *p)
{
    pthread_mutex_lock(&p->lock);
    pthread_cond_signal(&p->flush);
    pthread_mutex_unlock(&p->lock);
}

/* ---- open and close -------------------------------------------------------------------------- */

int wq_publisher_open(wq_publisher **out, const wq_publisher_options *options, wq_error *error)
{
    wq_publisher *p = calloc(1, sizeof *p);
    if (p == NULL)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    const wq_store *store = options->store;
    unsigned n = store->blocks ? MAX_THREADS : store->waits || options->asynchronous;
    p->options = *options;
    p->batch = store->blocks ? 1 : MAX_HAND;
    p->items = calloc(p->batch, sizeof *p->items);
    if (p->items == NULL) {
        free(p);
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    }
    TAILQ_INIT(&p->hand);
    TAILQ_INIT(&p->later);
    pthread_mutex_init(&p->lock, NULL);
    wq_cond_init(&p->ready);
    wq_cond_init(&p->flush);
    pthread_cond_init(&p->room, NULL);
    while (p->n_threads < n) {
        int r = wq_thread_start(&p->threads[p->n_threads], "wq-publisher", publisher_main, p);
        if (r != 0) {
            wq_publisher_close(p);
            return wq_fail(error, WQ_ERROR_SYSTEM, "pthread_create: %s", strerror(r));
        }
        p->n_threads++;
    }
    *out = p;
    return WQ_OK;
}

void wq_publisher_stop(wq_publisher *p)
{
    static const wq_error stops = {WQ_ERROR_AWAY, "the store is away, and the queue stops"};
    wq_parcel *parcel;
    pthread_mutex_lock(&p->lock);
    p->stopping = 1;
    while ((parcel = take_later_locked(p, INT64_MAX)) != NULL) {
        pthread_mutex_unlock(&p->lock);
        give_back(p, parcel, &stops);
        pthread_mutex_lock(&p->lock);
    }
    pthread_mutex_unlock(&p->lock);
}

void wq_publisher_close(wq_publisher *p)
{
    if (p == NULL)
        return;
    pthread_mutex_lock(&p->lock);
    p->stopping = p->closing = 1;
    pthread_cond_broadcast(&p->ready);
    pthread_mutex_unlock(&p->lock);
    for (unsigned i = 0; i < p->n_threads; i++)
        pthread_join(p->threads[i], NULL);
    pthread_cond_destroy(&p->ready);
    pthread_cond_destroy(&p->flush);
    pthread_cond_destroy(&p->room);
    pthread_mutex_destroy(&p->lock);
    free(p->items);
    free(p);
}

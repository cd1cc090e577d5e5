/* watch.c - a thread that interrupts connections at their deadlines. */
#include "watch.h"

#include <pthread.h>
#include <stdlib.h>

#include "clock.h"

/* An interrupt ends what runs at that moment; what begins a moment later needs another one. */
enum { AGAIN_MS = 5, LOOK_EVERY_MS = 50 };

struct watch {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct watched *all;
    int closing;
};

/* Interrupts what is due; returns when to look again, 0: when something changes. watch->lock is
 * held. */
static int64_t interrupt_due_locked(struct watch *watch)
{
    int64_t now = clock_ms(), next = 0;
    for (struct watched *w = watch->all; w != NULL; w = w->next) {
        if (!*w->stop && w->is_gone(w->user))
            *w->stop = 1;
        int is_due = now >= w->deadline_ms || *w->stop;
        if (is_due)
            sqlite3_interrupt(w->db);
        int64_t again = now + (is_due ? AGAIN_MS : LOOK_EVERY_MS);
        if (!is_due && w->deadline_ms < again)
            again = w->deadline_ms;
        if (next == 0 || again < next)
            next = again;
    }
    return next;
}

static void *thread_main(void *user)
{
    struct watch *watch = user;
    pthread_mutex_lock(&watch->lock);
    while (!watch->closing) {
        int64_t next = interrupt_due_locked(watch);
        const struct timespec until = {next / 1000, next % 1000 * 1000000};
        if (next == 0)
            pthread_cond_wait(&watch->changed, &watch->lock);
        else
            pthread_cond_timedwait(&watch->changed, &watch->lock, &until);
    }
    pthread_mutex_unlock(&watch->lock);
    return NULL;
}

struct watch *watch_open(void)
{
    pthread_condattr_t monotonic;
    struct watch *watch = calloc(1, sizeof *watch);
    if (watch == NULL)
        return NULL;
    pthread_mutex_init(&watch->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&watch->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    if (pthread_create(&watch->thread, NULL, thread_main, watch) == 0)
        return watch;
    pthread_cond_destroy(&watch->changed);
    pthread_mutex_destroy(&watch->lock);
    free(watch);
    return NULL;
}

void watch_close(struct watch *watch)
{
    if (watch == NULL)
        return;
    pthread_mutex_lock(&watch->lock);
    watch->closing = 1;
    pthread_cond_signal(&watch->changed);
    pthread_mutex_unlock(&watch->lock);
    pthread_join(watch->thread, NULL);
    pthread_cond_destroy(&watch->changed);
    pthread_mutex_destroy(&watch->lock);
    free(watch);
}

static struct watched **find_locked(struct watch *watch, const struct watched *watched)
{
    struct watched **at = &watch->all;
    while (*at != NULL && *at != watched)
        at = &(*at)->next;
    return at;
}

void watch_add(struct watch *watch, struct watched *watched, int64_t deadline_ms)
{
    pthread_mutex_lock(&watch->lock);
    watched->deadline_ms = deadline_ms;
    if (*find_locked(watch, watched) == NULL) {
        watched->next = watch->all;
        watch->all = watched;
    }
    pthread_cond_signal(&watch->changed);
    pthread_mutex_unlock(&watch->lock);
}

void watch_remove(struct watch *watch, struct watched *watched)
{
    pthread_mutex_lock(&watch->lock);
    struct watched **at = find_locked(watch, watched);
    if (*at != NULL)
        *at = watched->next;
    pthread_mutex_unlock(&watch->lock);
}

void watch_wake(struct watch *watch)
{
    pthread_mutex_lock(&watch->lock);
    pthread_cond_signal(&watch->changed);
    pthread_mutex_unlock(&watch->lock);
}

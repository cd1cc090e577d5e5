/* look.c - asks the store, on a thread of its own, what became of a job. */
#include "workqueue/remote/look.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "workqueue/util/log.h"
#include "workqueue/util/threads.h"

struct wq_looker {
    const wq_store *store;
    pthread_t thread;
    int has_thread;

    pthread_mutex_t lock;
    /* under the lock */
    pthread_cond_t news;
    STAILQ_HEAD(, wq_look) waiting;
    int closing;
};

/* An end is this job's if it is of the run that it was accepted in, or of a later one, or was
 * written for this very request. */
static int is_its_end(const wq_look *look, const wq_record *record)
{
    return (look->epoch != 0 && record->epoch >= look->epoch) || strcmp(record->id, look->id) == 0;
}

static wq_sight judge_record(wq_looker *looker, wq_look *look, const wq_record *record)
{
    char name[WQ_KEY_SIZE + 8];
    wq_error ignored;
    if (record->state == WQ_RUNNING)
        return WQ_SEEN_RUNNING;
    if (record->state == WQ_DONE_WELL && is_its_end(look, record))
        return WQ_SEEN_DONE;
    if (record->state != WQ_FAILED || !is_its_end(look, record))
        return WQ_SEEN_NOTHING;
    snprintf(name, sizeof name, ".run/%s", look->key);
    look->returncode = record->returncode;
    return looker->store->shared->more(looker->store->self, name, &look->why, &ignored) == WQ_OK
               ? WQ_SEEN_FAILED
               : WQ_SEEN_AWAY;
}

static wq_sight look_at_store(wq_looker *looker, wq_look *look)
{
    const wq_store *store = looker->store;
    char tag[WQ_TAG_SIZE];
    uint64_t epoch, bytes;
    wq_record record;
    wq_error ignored;
    int there = store->shared->output(store->self, look->key, &epoch, &bytes, tag, &ignored);
    if (there == WQ_OK && !look->rebuild)
        return WQ_SEEN_DONE;
    if (there != WQ_OK && there != WQ_ERROR_NOT_FOUND)
        return WQ_SEEN_AWAY;
    int result = wq_record_read(store, look->key, &record, tag, &ignored);
    if (result == WQ_ERROR_NOT_FOUND)
        return WQ_SEEN_NOTHING;
    if (result != WQ_OK)
        return WQ_SEEN_AWAY;
    look->has_changed = strcmp(tag, look->tag) != 0;
    memcpy(look->tag, tag, sizeof look->tag);
    wq_sight seen = judge_record(looker, look, &record);
    return seen == WQ_SEEN_DONE && there != WQ_OK ? WQ_SEEN_NOTHING : seen;
}

static void *look_main(void *arg)
{
    wq_looker *looker = arg;
    wq_error ignored;
    pthread_mutex_lock(&looker->lock);
    while (!looker->closing) {
        wq_look *look = STAILQ_FIRST(&looker->waiting);
        if (look == NULL) {
            pthread_cond_wait(&looker->news, &looker->lock);
            continue;
        }
        STAILQ_REMOVE_HEAD(&looker->waiting, link);
        pthread_mutex_unlock(&looker->lock);
        look->has_changed = 0;
        if (!look->marks)
            look->seen = look_at_store(looker, look);
        else
            look->seen = wq_cancel_mark(looker->store, look->id, &ignored) == WQ_OK ? WQ_SEEN_MARKED
                                                                                    : WQ_SEEN_AWAY;
        look->done(look->user);
        pthread_mutex_lock(&looker->lock);
    }
    pthread_mutex_unlock(&looker->lock);
    return NULL;
}

int wq_looker_open(wq_looker **out, const wq_store *store, wq_error *error)
{
    wq_looker *looker = calloc(1, sizeof *looker);
    if (looker == NULL)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    looker->store = store;
    pthread_mutex_init(&looker->lock, NULL);
    pthread_cond_init(&looker->news, NULL);
    STAILQ_INIT(&looker->waiting);
    looker->has_thread = wq_thread_start(&looker->thread, "wq-look", look_main, looker) == 0;
    if (!looker->has_thread) {
        wq_looker_close(looker);
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "cannot start a thread");
    }
    *out = looker;
    return WQ_OK;
}

void wq_looker_add(wq_looker *looker, wq_look *look)
{
    pthread_mutex_lock(&looker->lock);
    STAILQ_INSERT_TAIL(&looker->waiting, look, link);
    pthread_cond_signal(&looker->news);
    pthread_mutex_unlock(&looker->lock);
}

void wq_looker_close(wq_looker *looker)
{
    if (looker == NULL)
        return;
    pthread_mutex_lock(&looker->lock);
    looker->closing = 1;
    pthread_cond_signal(&looker->news);
    pthread_mutex_unlock(&looker->lock);
    if (looker->has_thread)
        pthread_join(looker->thread, NULL);
    wq_look *look;
    while ((look = STAILQ_FIRST(&looker->waiting)) != NULL) {
        STAILQ_REMOVE_HEAD(&looker->waiting, link);
        look->seen = WQ_SEEN_AWAY;
        look->done(look->user);
    }
    pthread_cond_destroy(&looker->news);
    pthread_mutex_destroy(&looker->lock);
    free(looker);
}

/* outputs.c - what was made: finding, opening, reading and deleting outputs.
 *
 * A job may outlive its queue, and be asked for its output while that is closed: what it asks the
 * store is counted, and the store is closed when nobody asks any more. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "workqueue/core/life.h"
#include "workqueue/core/line.h"

/* The store, in use until leave_store(); NULL and an error if the queue is closed. */
static wq_store *enter_store(wq_queue *queue, wq_error *error)
{
    wq_store *store = NULL;
    if (!wq_owner_is_forked(queue)) {
        pthread_mutex_lock(&queue->lock);
        store = queue->closed ? NULL : queue->store;
        queue->store_users += store != NULL;
        pthread_mutex_unlock(&queue->lock);
    }
    if (store == NULL)
        wq_fail(error, WQ_ERROR_CLOSING, "the queue is closed, or another process's");
    return store;
}

static void leave_store(wq_queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    if (--queue->store_users == 0)
        pthread_cond_broadcast(&queue->unused);
    pthread_mutex_unlock(&queue->lock);
}

/* The key of a question to the store about these parameters, which is in use then. */
static int enter_by_params(wq_queue *queue, const wq_params *params, char key[WQ_KEY_SIZE],
                           wq_store **store, wq_error *error)
{
    if (queue == NULL)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "the queue is NULL");
    int result = wq_params_check(params, error);
    if (result == WQ_OK && wq_params_key(params, key) != WQ_OK)
        result = wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    if (result == WQ_OK && (*store = enter_store(queue, error)) == NULL)
        result = WQ_ERROR_CLOSING;
    return result;
}

int wq_output_find(wq_queue *queue, const wq_params *params, wq_error *error)
{
    char key[WQ_KEY_SIZE];
    wq_store *store;
    int result = enter_by_params(queue, params, key, &store, error);
    if (result != WQ_OK)
        return result;
    result = wq_life_count_store_result(queue, store->find(store->self, key, NULL, error));
    leave_store(queue);
    return result;
}

/* For who needs a descriptor where the store has none. The copy stays long enough to be opened. */
static int open_copy(wq_store *store, const char *key, int *fd, wq_error *error)
{
    char path[PATH_MAX];
    if (store->path == NULL)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "this store has no files");
    int result = store->path(store->self, key, path, sizeof path, error);
    if (result != WQ_OK)
        return result;
    int opened = open(path, O_RDONLY | O_CLOEXEC);
    if (opened < 0)
        return wq_fail(error, WQ_ERROR_SYSTEM, "open %s: %s", path, strerror(errno));
    *fd = opened;
    return WQ_OK;
}

int wq_output_open(wq_queue *queue, const wq_params *params, int *fd, wq_error *error)
{
    char key[WQ_KEY_SIZE];
    wq_output output;
    wq_store *store;
    if (fd == NULL)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "fd is NULL");
    int result = enter_by_params(queue, params, key, &store, error);
    if (result != WQ_OK)
        return result;
    output.fd = -1;
    result = store->open != NULL ? store->open(store->self, key, &output, error) : WQ_OK;
    if (result == WQ_OK && output.fd < 0)
        result = open_copy(store, key, &output.fd, error);
    if (result == WQ_OK)
        *fd = output.fd;
    leave_store(queue);
    return wq_life_count_store_result(queue, result);
}

/* The store, for a question about a job's output. */
static wq_store *enter_by_job(wq_job *job, const void *out, wq_error *error)
{
    if (job != NULL && out != NULL)
        return enter_store(job->queue, error);
    wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "the job or where to write to is NULL");
    return NULL;
}

static int code_of(const wq_job *job, const void *out)
{
    return job != NULL && out != NULL ? WQ_ERROR_CLOSING : WQ_ERROR_INVALID_ARGUMENT;
}

int wq_job_output(wq_job *job, wq_output *out, wq_error *error)
{
    wq_store *store = enter_by_job(job, out, error);
    if (store == NULL)
        return code_of(job, out);
    int result = store->open != NULL
                     ? store->open(store->self, job->key, out, error)
                     : wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "this store opens nothing");
    leave_store(job->queue);
    return wq_life_count_store_result(job->queue, result);
}

int wq_outputs_block(const wq_queue *queue)
{
    return queue != NULL && !wq_owner_is_forked(queue) && queue->store->blocks;
}

static int64_t read_file(int fd, uint64_t offset, char *buf, size_t size, wq_error *error)
{
    size_t n = 0;
    while (n < size) {
        ssize_t got = pread(fd, buf + n, size - n, (off_t)(offset + n));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return wq_fail(error, WQ_ERROR_SYSTEM, "read an output: %s", strerror(errno));
        if (got == 0)
            break;
        n += (size_t)got;
    }
    return (int64_t)n;
}

int64_t wq_output_read(wq_job *job, const wq_output *output, uint64_t offset, void *buf,
                       size_t size, wq_error *error)
{
    if (job == NULL || output == NULL || buf == NULL)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "the job, output or buffer is NULL");
    if (offset >= output->size_bytes)
        return 0;
    if (size > output->size_bytes - offset)
        size = (size_t)(output->size_bytes - offset);
    if (output->fd >= 0)
        return read_file(output->fd, offset, buf, size, error);
    wq_store *store = enter_store(job->queue, error);
    if (store == NULL)
        return WQ_ERROR_CLOSING;
    int64_t n = store->read(store->self, job->key, output, offset, buf, size, error);
    leave_store(job->queue);
    if (n < 0)
        wq_life_count_store_result(job->queue, (int)n);
    return n;
}

int wq_output_url(wq_job *job, char *url, size_t size, wq_error *error)
{
    wq_store *store = enter_by_job(job, url, error);
    if (store == NULL)
        return code_of(job, url);
    int result = store->url != NULL
                     ? store->url(store->self, job->key, url, size, error)
                     : wq_fail(error, WQ_ERROR_NOT_FOUND, "the store has no URLs for clients");
    leave_store(job->queue);
    return result;
}

/* ---- deleting --------------------------------------------------------------------------------
 *
 * A job whose program is over may have made what is deleted, though its end is not told yet. Who
 * asks from now on must not be answered with it. */

static void note_deleted_locked(wq_job *job)
{
    if (job->phase >= WQ_PHASE_HANDED && job->phase <= WQ_PHASE_SETTLING)
        job->output_deleted = 1;
}

static void note_deleted(wq_queue *q, const char *key)
{
    pthread_mutex_lock(&q->lock);
    wq_job *job = wq_line_head_locked(q, key);
    if (job != NULL)
        note_deleted_locked(job);
    pthread_mutex_unlock(&q->lock);
}

static void note_set_deleted(wq_queue *q, const char *server, const char *document_set_id)
{
    size_t at = 0;
    const char *id = NULL;
    pthread_mutex_lock(&q->lock);
    const int any = q->n[WQ_PHASE_HANDED] + q->n[WQ_PHASE_PUT_OFF] + q->n[WQ_PHASE_SETTLING] > 0;
    while (any && (id = wq_table_next(&q->known.by_id, &at)) != NULL) {
        wq_job *job = (wq_job *)(id - offsetof(wq_job, id));
        if (strcmp(job->params.server, server) == 0 &&
            (document_set_id == NULL || strcmp(job->params.document_set_id, document_set_id) == 0))
            note_deleted_locked(job);
    }
    pthread_mutex_unlock(&q->lock);
}

int wq_output_delete(wq_queue *queue, const wq_params *params, wq_error *error)
{
    char key[WQ_KEY_SIZE];
    wq_store *store;
    int result = enter_by_params(queue, params, key, &store, error);
    if (result != WQ_OK)
        return result;
    result = store->remove != NULL
                 ? store->remove(store->self, key, error)
                 : wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "this store deletes nothing");
    note_deleted(queue, key);
    if (queue->runner->removed != NULL)
        queue->runner->removed(queue->runner->self, params, key);
    leave_store(queue);
    return wq_life_count_store_result(queue, result);
}

int wq_output_delete_key(wq_queue *queue, const char *key, wq_error *error)
{
    if (queue == NULL || key == NULL || strspn(key, "0123456789abcdef") != WQ_KEY_SIZE - 1 ||
        key[WQ_KEY_SIZE - 1] != '\0')
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "a key is 64 hexadecimal digits");
    wq_store *store = enter_store(queue, error);
    if (store == NULL)
        return WQ_ERROR_CLOSING;
    int result = store->remove != NULL
                     ? store->remove(store->self, key, error)
                     : wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "this store deletes nothing");
    note_deleted(queue, key);
    leave_store(queue);
    return wq_life_count_store_result(queue, result);
}

int wq_outputs_list(wq_queue *queue, const char *server, const char *document_set_id,
                    char *position, wq_output_info *out, size_t max, size_t *n, wq_error *error)
{
    if (queue == NULL || position == NULL || n == NULL || out == NULL || max == 0)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT,
                       "queue, position, out, max or n is missing");
    if (document_set_id != NULL && server == NULL)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT,
                       "a document set is one of a server: name that, too");
    if (memchr(position, '\0', WQ_POSITION_SIZE) == NULL)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT,
                       "position: take what the call before has given, or an empty text");
    wq_store *store = enter_store(queue, error);
    if (store == NULL)
        return WQ_ERROR_CLOSING;
    int result =
        store->list != NULL
            ? store->list(store->self, server, document_set_id, position, out, max, n, error)
            : wq_fail(error, WQ_ERROR_NOT_FOUND, "this store cannot list its outputs");
    leave_store(queue);
    return result;
}

int wq_outputs_delete(wq_queue *queue, const char *server, const char *document_set_id, size_t *n,
                      wq_error *error)
{
    size_t own;
    if (n == NULL)
        n = &own;
    *n = 0;
    if (queue == NULL || server == NULL || *server == '\0')
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "the queue or server is missing");
    wq_store *store = enter_store(queue, error);
    if (store == NULL)
        return WQ_ERROR_CLOSING;
    int result = store->remove_set != NULL
                     ? store->remove_set(store->self, server, document_set_id, n, error)
                     : wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "this store deletes no sets");
    note_set_deleted(queue, server, document_set_id);
    leave_store(queue);
    return wq_life_count_store_result(queue, result);
}

int wq_output_path(wq_queue *queue, const wq_params *params, char *path, size_t size,
                   wq_error *error)
{
    char key[WQ_KEY_SIZE];
    wq_store *store;
    if (path == NULL)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "path is NULL");
    int result = enter_by_params(queue, params, key, &store, error);
    if (result != WQ_OK)
        return result;
    result = store->path != NULL
                 ? store->path(store->self, key, path, size, error)
                 : wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "this store has no paths");
    leave_store(queue);
    return result;
}

/* afar.c - a store for the tests that behaves as one across a network: it blocks, and gives no
 * descriptors. While there is a file .away in its folder it cannot be reached; while there is .slow
 * it answers nothing, and makes .asked when it has been asked; .url holds where clients may fetch
 * outputs themselves. */
#include "tests/faces/afar.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "workqueue/store/dir.h"
#include "workqueue/util/log.h"

typedef struct afar {
    wq_store store;
    wq_store *dir;
    char *folder;
    atomic_int stopping;
} afar;

static int is_there(const afar *a, const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", a->folder, name);
    return access(path, F_OK) == 0;
}

static void wait_while_slow(const afar *a)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/.asked", a->folder);
    if (is_there(a, ".slow"))
        close(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    while (is_there(a, ".slow") && !atomic_load(&a->stopping))
        usleep(1000);
}

static int check(const afar *a, wq_error *error)
{
    wait_while_slow(a);
    if (atomic_load(&a->stopping) && is_there(a, ".slow"))
        return wq_fail(error, WQ_ERROR_AWAY, "the queue is stopping");
    return is_there(a, ".away") ? wq_fail(error, WQ_ERROR_AWAY, "the store is away") : WQ_OK;
}

static int afar_find(void *self, const char *key, int64_t *made_at_ms, wq_error *error)
{
    afar *a = self;
    int result = check(a, error);
    return result == WQ_OK ? a->dir->find(a->dir->self, key, made_at_ms, error) : result;
}

static int afar_open(void *self, const char *key, wq_output *out, wq_error *error)
{
    afar *a = self;
    int result = check(a, error);
    if (result == WQ_OK)
        result = a->dir->open(a->dir->self, key, out, error);
    if (result != WQ_OK)
        return result;
    close(out->fd);
    out->fd = -1;
    return WQ_OK;
}

static int64_t afar_read(void *self, const char *key, const wq_output *output, uint64_t offset,
                         void *buf, size_t size, wq_error *error)
{
    afar *a = self;
    wq_output now;
    int result = check(a, error);
    if (result == WQ_OK)
        result = a->dir->open(a->dir->self, key, &now, error);
    if (result != WQ_OK)
        return result;
    ssize_t n = WQ_ERROR_NOT_FOUND;
    if (strcmp(now.tag, output->tag) == 0)
        n = pread(now.fd, buf, size, (off_t)offset);
    close(now.fd);
    return n;
}

static int afar_url(void *self, const char *key, char *url, size_t size, wq_error *error)
{
    afar *a = self;
    char path[4096], base[1024] = "";
    snprintf(path, sizeof path, "%s/.url", a->folder);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return wq_fail(error, WQ_ERROR_NOT_FOUND, "there are no URLs");
    int read = fscanf(file, "%1023s", base);
    fclose(file);
    if (read != 1 || snprintf(url, size, "%s/%s", base, key) >= (int)size)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "the URL is too long");
    return WQ_OK;
}

static int afar_path(void *self, const char *key, char *path, size_t size, wq_error *error)
{
    afar *a = self;
    return a->dir->path(a->dir->self, key, path, size, error);
}

static int afar_begin(void *self, const char *key, char **temp_path, wq_error *error)
{
    afar *a = self;
    return a->dir->begin(a->dir->self, key, temp_path, error);
}

static void afar_publish(void *self, wq_publish *items, size_t n)
{
    afar *a = self;
    wait_while_slow(a);
    if (!is_there(a, ".away")) {
        a->dir->publish(a->dir->self, items, n);
        return;
    }
    for (size_t i = 0; i < n; i++)
        items[i].result = check(a, &items[i].error);
}

static void afar_discard(void *self, const char *temp_path)
{
    afar *a = self;
    a->dir->discard(a->dir->self, temp_path);
}

static int afar_remove(void *self, const char *key, wq_error *error)
{
    afar *a = self;
    int result = check(a, error);
    return result == WQ_OK ? a->dir->remove(a->dir->self, key, error) : result;
}

static int afar_remove_set(void *self, const char *server, const char *document_set_id, size_t *n,
                           wq_error *error)
{
    afar *a = self;
    int result = check(a, error);
    return result == WQ_OK ? a->dir->remove_set(a->dir->self, server, document_set_id, n, error)
                           : result;
}

static void afar_stop(void *self)
{
    afar *a = self;
    atomic_store(&a->stopping, 1);
}

static void afar_close(wq_store *store)
{
    afar *a = (afar *)store;
    a->dir->close(a->dir);
    free(a->folder);
    free(a);
}

wq_store *afar_store(const char *folder, wq_error *error)
{
    const wq_logger none = {0};
    const wq_dir_options dir = {.path = folder};
    afar *a = calloc(1, sizeof *a);
    if (a == NULL || (a->folder = strdup(folder)) == NULL ||
        wq_dir_open(&a->dir, &dir, &none, error) != WQ_OK)
        return NULL;
    a->store = (wq_store){
        .self = a,
        .blocks = 1,
        .find = afar_find,
        .open = afar_open,
        .read = afar_read,
        .url = afar_url,
        .path = afar_path,
        .begin = afar_begin,
        .publish = afar_publish,
        .discard = afar_discard,
        .remove = afar_remove,
        .remove_set = afar_remove_set,
        .waits = 1,
        .stop = afar_stop,
        .close = afar_close,
    };
    return &a->store;
}

/* brokers.c - several brokers at once: a runner that has one for each broker, and sends each job by
 * the one that its key chooses. So all servers send the requests of a key by the same broker, if
 * they have the same list; that it runs once does not depend on it, which is the store's matter. */
#include "workqueue/remote/brokers.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "workqueue/util/log.h"

int wq_brokers_split(char *all[WQ_MAX_BROKERS], size_t *n, const char *urls, wq_error *error)
{
    char *rest = urls != NULL ? strdup(urls) : NULL, *kept = NULL;
    *n = 0;
    if (rest == NULL)
        return urls == NULL ? wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "options: urls is missing")
                            : wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    all[0] = rest;
    for (char *at = strtok_r(rest, ";", &kept); at != NULL; at = strtok_r(NULL, ";", &kept)) {
        if (*n == WQ_MAX_BROKERS) {
            free(rest);
            *n = 0;
            return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "options: more than %d brokers",
                           WQ_MAX_BROKERS);
        }
        all[(*n)++] = at;
    }
    if (*n > 0 && all[0] == rest)
        return WQ_OK;
    free(rest);
    *n = 0;
    return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT,
                   "options: urls begins with a semicolon or is empty");
}

/* FNV-1a, and then mixed, as the last letters of keys have to count for all bits. */
static uint64_t score(const char *url, const char *key)
{
    const char *at = strchr(url, '@'), *const parts[] = {at != NULL ? at + 1 : url, key};
    uint64_t hash = 14695981039346656037ULL;
    for (int i = 0; i < 2; i++)
        for (const char *c = parts[i]; *c != '\0'; c++)
            hash = (hash ^ (unsigned char)*c) * 1099511628211ULL;
    hash = (hash ^ (hash >> 33)) * 0xff51afd7ed558ccdULL;
    hash = (hash ^ (hash >> 33)) * 0xc4ceb9fe1a85ec53ULL;
    return hash ^ (hash >> 33);
}

size_t wq_brokers_choose(char *const *all, size_t n, const char *key)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (score(all[i], key) > score(all[best], key))
            best = i;
    return best;
}

/* ---- the runner of runners ------------------------------------------------------------------- */

typedef struct many {
    wq_runner runner;
    size_t n;
    char *urls[WQ_MAX_BROKERS];
    wq_runner *runners[WQ_MAX_BROKERS];
} many;

static wq_runner *runner_of(many *m, const char *key)
{
    return m->runners[wq_brokers_choose(m->urls, m->n, key)];
}

static int many_start(void *self, const wq_run *run, wq_error *error)
{
    wq_runner *one = runner_of(self, run->key);
    return one->start(one->self, run, error);
}

static void many_cancel(void *self, const wq_run *run)
{
    wq_runner *one = runner_of(self, run->key);
    one->cancel(one->self, run);
}

static void many_interest(void *self, const wq_run *run)
{
    wq_runner *one = runner_of(self, run->key);
    one->interest(one->self, run);
}

static void many_removed(void *self, const wq_params *params, const char *key)
{
    wq_runner *one = runner_of(self, key);
    one->removed(one->self, params, key);
}

static int many_list(void *self, int (*each)(void *user, const wq_elsewhere *job), void *user,
                     wq_error *error)
{
    wq_runner *one = ((many *)self)->runners[0]; /* all have the same store */
    return one->list(one->self, each, user, error);
}

static int many_cancel_elsewhere(void *self, const wq_elsewhere *job, wq_error *error)
{
    wq_runner *one = runner_of(self, job->key);
    return one->cancel_elsewhere(one->self, job, error);
}

/* The first that is away; the jobs of the others run. */
static int many_trouble(void *self, char *buf, size_t size)
{
    const many *m = self;
    for (size_t i = 0; i < m->n; i++)
        if (m->runners[i]->trouble(m->runners[i]->self, buf, size))
            return 1;
    return 0;
}

static void many_close(wq_runner *runner)
{
    many *m = runner->self;
    for (size_t i = 0; i < m->n; i++)
        if (m->runners[i] != NULL)
            m->runners[i]->close(m->runners[i]);
    free(m->urls[0]);
    free(m);
}

static int open_many(wq_runner **out, many *m, const wq_stomp_options *options, wq_error *error)
{
    wq_stomp_options one = *options;
    int result = WQ_OK;
    for (size_t i = 0; result == WQ_OK && i < m->n; i++) {
        one.urls = m->urls[i];
        result = wq_remote_open_one(&m->runners[i], &one, error);
    }
    m->runner = (wq_runner){.self = m,
                            .close = many_close,
                            .start = many_start,
                            .cancel = many_cancel,
                            .interest = many_interest,
                            .removed = many_removed,
                            .trouble = many_trouble,
                            .max_in_flight = options->max_in_flight};
    if (result != WQ_OK) {
        many_close(&m->runner);
        return result;
    }
    if (m->runners[0]->list != NULL) {
        m->runner.list = many_list;
        m->runner.cancel_elsewhere = many_cancel_elsewhere;
    }
    *out = &m->runner;
    return WQ_OK;
}

int wq_stomp_runner_open(struct wq_runner **out, const wq_stomp_options *options, wq_error *error)
{
    if (options->size != sizeof *options || options->urls == NULL ||
        strchr(options->urls, ';') == NULL)
        return wq_remote_open_one(out, options, error);
    many *m = calloc(1, sizeof *m);
    if (m == NULL)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    int result = wq_brokers_split(m->urls, &m->n, options->urls, error);
    if (result == WQ_OK)
        return open_many(out, m, options, error);
    free(m);
    return result;
}

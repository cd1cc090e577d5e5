/* fetch.c - files from http and https URLs, by libcurl, in constant memory, on a few threads.
 *
 * The threads are started as they are needed, and stay. The lock guards the queue of what is to be
 * fetched and the threads; nothing is called with it held. */
#include "workqueue/remote/fetch.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "workqueue/util/log.h"
#include "workqueue/util/threads.h"

struct wq_fetcher {
    uint64_t max_bytes;
    atomic_int closing;
    pthread_mutex_t lock;
    /* under the lock */
    pthread_cond_t work;
    STAILQ_HEAD(, wq_fetch) waiting;
    size_t n_waiting, n_idle, n_threads, max_threads;
    pthread_t threads[];
};

/* ---- one file -------------------------------------------------------------------------------- */

enum {
    CONNECT_MS = 10000,
    STALL_S = 30,
    REDIRECTS = 5,
    FETCH_RETRY_MS = 200, /* before another try, twice as long before each next */
    RETRIES = 6,
};

typedef struct fetch_url {
    int fd, write_error, too_long;
    uint64_t bytes, max_bytes;
    const atomic_int *stop, *closing;
} fetch_url;

static size_t on_bytes(char *bytes, size_t size, size_t n, void *user)
{
    fetch_url *d = user;
    size_t len = size * n;
    d->bytes += len;
    if (d->max_bytes > 0 && d->bytes > d->max_bytes) {
        d->too_long = 1;
        return 0;
    }
    for (size_t at = 0; at < len;) {
        ssize_t wrote = write(d->fd, bytes + at, len - at);
        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote <= 0) {
            d->write_error = errno;
            return 0;
        }
        at += (size_t)wrote;
    }
    return len;
}

static int on_fetch_progress(void *user, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t e)
{
    const fetch_url *d = user;
    (void)a, (void)b, (void)c, (void)e;
    return atomic_load(d->stop) || atomic_load(d->closing);
}

static void set_options(CURL *curl, const char *url, fetch_url *d, char *why)
{
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 1L);
    curl_easy_setopt(curl, CURLOPT_MAXREDIRS, (long)REDIRECTS);
    curl_easy_setopt(curl, CURLOPT_FAILONERROR, 1L);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_MS);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, (long)STALL_S);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_bytes);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, d);
    curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_fetch_progress);
    curl_easy_setopt(curl, CURLOPT_XFERINFODATA, d);
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, why);
}

/* What may go better in a moment: a server that is busy or comes up, a connection that broke. */
static int is_transient_fetch(CURL *curl, CURLcode code)
{
    long status = 0;
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    if (code == CURLE_HTTP_RETURNED_ERROR)
        return status >= 500 || status == 429 || status == 408;
    return code == CURLE_COULDNT_CONNECT || code == CURLE_COULDNT_RESOLVE_HOST ||
           code == CURLE_PARTIAL_FILE || code == CURLE_RECV_ERROR || code == CURLE_SEND_ERROR ||
           code == CURLE_GOT_NOTHING || code == CURLE_OPERATION_TIMEDOUT;
}

/* What has become of it. */
static int judge(CURLcode code, const fetch_url *d, uint64_t size_bytes, const char *why,
                 wq_error *error)
{
    if (d->too_long)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "the output has more than %llu bytes",
                       (unsigned long long)d->max_bytes);
    if (d->write_error != 0)
        return wq_fail(error, WQ_ERROR_SYSTEM, "write the output: %s", strerror(d->write_error));
    if (code != CURLE_OK)
        return wq_fail(error, WQ_ERROR_AWAY, "the output cannot be fetched: %s",
                       *why ? why : curl_easy_strerror(code));
    if (size_bytes != UINT64_MAX && size_bytes != d->bytes)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT,
                       "the output has %llu bytes where the packager said %llu",
                       (unsigned long long)d->bytes, (unsigned long long)size_bytes);
    return WQ_OK;
}

static int fetch_to(const wq_fetcher *f, const wq_fetch *fetch, const char *path, int *again,
                    wq_error *error)
{
    char why[CURL_ERROR_SIZE] = "";
    fetch_url d = {.max_bytes = f->max_bytes, .stop = &fetch->stop, .closing = &f->closing};
    d.fd = open(path, O_WRONLY | O_TRUNC | O_NOFOLLOW | O_CLOEXEC);
    if (d.fd < 0)
        return wq_fail(error, WQ_ERROR_SYSTEM, "open the output: %s", strerror(errno));
    CURL *curl = curl_easy_init();
    int result;
    if (curl != NULL) {
        set_options(curl, fetch->url, &d, why);
        CURLcode code = curl_easy_perform(curl);
        *again = is_transient_fetch(curl, code);
        result = judge(code, &d, fetch->size_bytes, why, error);
    } else {
        result = wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    }
    curl_easy_cleanup(curl);
    if (close(d.fd) != 0 && result == WQ_OK)
        result = wq_fail(error, WQ_ERROR_SYSTEM, "write the output: %s", strerror(errno));
    return result;
}

/* ---- the threads ----------------------------------------------------------------------------- */

/* Doubling; nonzero if it is still wanted then. */
static int pause_before_fetch(const wq_fetcher *f, const wq_fetch *fetch, unsigned tries)
{
    const struct timespec step = {.tv_nsec = FETCH_RETRY_MS * 1000000L};
    for (unsigned i = 0; i < 1U << tries; i++) {
        if (atomic_load(&fetch->stop) || atomic_load(&f->closing))
            return 0;
        nanosleep(&step, NULL);
    }
    return 1;
}

static void do_fetch(const wq_fetcher *f, wq_fetch *fetch)
{
    const char *path;
    wq_error error = {0};
    int result = fetch->path(fetch->user, &path, &error);
    int again = result >= 0;
    for (unsigned tries = 0; again; tries++) {
        again = 0;
        result = fetch_to(f, fetch, path, &again, &error);
        again = again && tries < RETRIES && pause_before_fetch(f, fetch, tries);
    }
    fetch->done(fetch->user, result, &error);
}

static void *fetch_main(void *arg)
{
    wq_fetcher *f = arg;
    wq_fetch *fetch;
    pthread_mutex_lock(&f->lock);
    while (!atomic_load(&f->closing)) {
        if ((fetch = STAILQ_FIRST(&f->waiting)) == NULL) {
            f->n_idle++;
            pthread_cond_wait(&f->work, &f->lock);
            f->n_idle--;
            continue;
        }
        STAILQ_REMOVE_HEAD(&f->waiting, link);
        f->n_waiting--;
        pthread_mutex_unlock(&f->lock);
        do_fetch(f, fetch);
        pthread_mutex_lock(&f->lock);
    }
    pthread_mutex_unlock(&f->lock);
    return NULL;
}

/* One more thread, if it has something to do. */
static void start_thread_locked(wq_fetcher *f)
{
    if (f->n_waiting < f->n_idle || f->n_threads == f->max_threads)
        return;
    if (wq_thread_start(&f->threads[f->n_threads], "wq-fetch", fetch_main, f) == 0)
        f->n_threads++;
}

int wq_fetcher_add(wq_fetcher *f, wq_fetch *fetch, wq_error *error)
{
    pthread_mutex_lock(&f->lock);
    start_thread_locked(f);
    int started = f->n_threads > 0;
    if (started) {
        STAILQ_INSERT_TAIL(&f->waiting, fetch, link);
        f->n_waiting++;
        pthread_cond_signal(&f->work);
    }
    pthread_mutex_unlock(&f->lock);
    return started ? WQ_OK : wq_fail(error, WQ_ERROR_NO_MEMORY, "cannot start a thread");
}

int wq_fetcher_open(wq_fetcher **out, size_t max_threads, uint64_t max_bytes, wq_error *error)
{
    wq_fetcher *f = calloc(1, sizeof *f + max_threads * sizeof *f->threads);
    if (f == NULL || curl_global_init(CURL_GLOBAL_DEFAULT) != 0) {
        free(f);
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    }
    f->max_bytes = max_bytes;
    f->max_threads = max_threads;
    atomic_init(&f->closing, 0);
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->work, NULL);
    STAILQ_INIT(&f->waiting);
    *out = f;
    return WQ_OK;
}

void wq_fetcher_close(wq_fetcher *f)
{
    pthread_mutex_lock(&f->lock);
    atomic_store(&f->closing, 1);
    pthread_cond_broadcast(&f->work);
    pthread_mutex_unlock(&f->lock);
    for (size_t i = 0; i < f->n_threads; i++)
        pthread_join(f->threads[i], NULL);
    pthread_cond_destroy(&f->work);
    pthread_mutex_destroy(&f->lock);
    free(f);
}

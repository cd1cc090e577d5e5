/* fetch.c - a file from an http or https URL, by libcurl, in constant memory. */
#include "workqueue/remote/fetch.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "workqueue/util/util.h"

enum { CONNECT_MS = 10000, STALL_S = 30, REDIRECTS = 5 };

typedef struct download {
    int fd, write_error, too_long;
    uint64_t bytes, max_bytes;
    const atomic_int *stop;
} download;

static size_t on_bytes(char *bytes, size_t size, size_t n, void *user)
{
    download *d = user;
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

static int on_progress(void *user, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t e)
{
    const download *d = user;
    (void)a, (void)b, (void)c, (void)e;
    return atomic_load(d->stop);
}

static void set_options(CURL *curl, const char *url, download *d, char *why)
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
    curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(curl, CURLOPT_XFERINFODATA, d);
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, why);
}

/* What has become of it. */
static int judge(CURLcode code, const download *d, uint64_t size_bytes, const char *why,
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

int wq_fetch(const char *url, const char *path, uint64_t max_bytes, uint64_t size_bytes,
             const atomic_int *stop, wq_error *error)
{
    char why[CURL_ERROR_SIZE] = "";
    download d = {.max_bytes = max_bytes, .stop = stop};
    d.fd = open(path, O_WRONLY | O_TRUNC | O_NOFOLLOW | O_CLOEXEC);
    if (d.fd < 0)
        return wq_fail(error, WQ_ERROR_SYSTEM, "open the output: %s", strerror(errno));
    CURL *curl = curl_easy_init();
    int result;
    if (curl != NULL) {
        set_options(curl, url, &d, why);
        result = judge(curl_easy_perform(curl), &d, size_bytes, why, error);
    } else {
        result = wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    }
    curl_easy_cleanup(curl);
    if (close(d.fd) != 0 && result == WQ_OK)
        result = wq_fail(error, WQ_ERROR_SYSTEM, "write the output: %s", strerror(errno));
    return result;
}

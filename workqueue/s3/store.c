/* s3.c - the store that keeps outputs in a bucket of an S3-compatible store.
 *
 * The output of KEY is the object PREFIX/KEY: its name follows from the key alone, which is all
 * that `find` knows. Which document set it is of is in its metadata, as a hash of the server and
 * one of server and set, so that the object and its label are one thing that comes and goes at
 * once; deleting a set therefore looks at each object, which is slow and rare, while publishing is
 * one request. Names and metadata are made without the token.
 *
 * Below the cache folder is an ordinary folder store (dir.c): outputs are made there, and local
 * copies are kept there for those who need a file, each under a hash of key and ETag, so that
 * versions never mix. Its rules of retention keep it small. What we have published is moved there
 * rather than removed.
 *
 * No lock is held during a request. Conditional requests are given up for good at the first 501.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "workqueue/s3/store.h"
#include "workqueue/s3/text.h"
#include "workqueue/store/dir.h"
#include "workqueue/util/log.h"

#define COPIES "s3-copies"

enum {
    PIECE = 16 << 20,     /* of a download: what is lost if the connection breaks */
    LOCK_WAIT_MS = 30000, /* while a server that has the cache folder stops */
};

static int no_memory(wq_error *error)
{
    return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
}

int wq_s3_is_fine(const wq_s3_answer *answer)
{
    return answer->status / 100 == 2;
}

/* Writes the encoded path of `key` to `path` and begins a request for it. */
wq_s3_request wq_s3_for_object(s3 *s, const char *method, const char *key, char path[WQ_S3_PATH])
{
    snprintf(path, WQ_S3_PATH, "%s%s", s->encoded_prefix, key);
    return (wq_s3_request){.method = method, .path = path, .fd = -1, .out_fd = -1};
}

int wq_s3_hash(char hex[WQ_KEY_SIZE], const char *a, const char *b)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    int ok = ctx != NULL && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) &&
             EVP_DigestUpdate(ctx, a, strlen(a) + 1) && EVP_DigestUpdate(ctx, b, strlen(b)) &&
             EVP_DigestFinal_ex(ctx, digest, NULL);
    EVP_MD_CTX_free(ctx);
    for (size_t i = 0; ok && i < (WQ_KEY_SIZE - 1) / 2; i++)
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    return ok ? 0 : -1;
}

int wq_s3_label(char label[WQ_S3_LABEL + 1], const char *server, const char *set)
{
    char server_hash[WQ_KEY_SIZE], set_hash[WQ_KEY_SIZE];
    if (wq_s3_hash(server_hash, server, "") != 0 || wq_s3_hash(set_hash, server, set) != 0)
        return -1;
    memcpy(label, server_hash, WQ_S3_LABEL / 2);
    memcpy(label + WQ_S3_LABEL / 2, set_hash, WQ_S3_LABEL / 2);
    label[WQ_S3_LABEL] = '\0';
    return 0;
}

/* ---- reading --------------------------------------------------------------------------------- */

/* WQ_OK and the answer filled in, WQ_ERROR_NOT_FOUND, or another failure. */
int wq_s3_head(s3 *s, const char *key, wq_s3_answer *answer, wq_error *error)
{
    char path[WQ_S3_PATH];
    wq_s3_request request = wq_s3_for_object(s, "HEAD", key, path);
    int result = wq_s3_ask(s->client, &request, answer, error);
    wq_s3_answer_dispose(answer);
    if (result != WQ_OK || wq_s3_is_fine(answer))
        return result;
    if (answer->status == 404)
        return wq_fail(error, WQ_ERROR_NOT_FOUND, "there is no output for this yet");
    return wq_s3_refused(s->client, &request, answer, error);
}

static int find(void *self, const char *key, int64_t *made_at_ms, wq_error *error)
{
    wq_s3_answer answer;
    int result = wq_s3_head(self, key, &answer, error);
    if (result == WQ_OK && made_at_ms != NULL)
        *made_at_ms = answer.made_at_ms;
    return result;
}

static int open_output(void *self, const char *key, wq_output *out, wq_error *error)
{
    wq_s3_answer answer;
    int result = wq_s3_head(self, key, &answer, error);
    if (result != WQ_OK)
        return result;
    if (*answer.tag == '\0')
        return wq_fail(error, WQ_ERROR_SYSTEM, "the S3 store gives no ETag that can be used");
    *out = (wq_output){.fd = -1, .size_bytes = answer.bytes, .made_at_ms = answer.made_at_ms};
    memcpy(out->tag, answer.tag, sizeof out->tag);
    return WQ_OK;
}

/* Fetches `n` bytes from `offset` of the version `tag` to `buf`, or to the same place in `fd`. */
static int fetch(s3 *s, const char *key, const char *tag, uint64_t offset, uint64_t n, void *buf,
                 int fd, wq_error *error)
{
    char path[WQ_S3_PATH], match[80];
    wq_s3_answer answer;
    wq_s3_request request = wq_s3_for_object(s, "GET", key, path);
    snprintf(match, sizeof match, "If-Match: \"%s\"", tag);
    request.headers[0] = match;
    request.offset = offset;
    request.bytes = n;
    request.buf = buf;
    request.out_fd = fd;
    int result = wq_s3_ask(s->client, &request, &answer, error);
    if (result == WQ_OK && (answer.status == 404 || answer.status == 412 || answer.status == 416))
        result = wq_fail(error, WQ_ERROR_NOT_FOUND, "the output has been deleted or replaced");
    else if (result == WQ_OK && !wq_s3_is_fine(&answer))
        result = wq_s3_refused(s->client, &request, &answer, error);
    wq_s3_answer_dispose(&answer);
    return result;
}

static int64_t read_output(void *self, const char *key, const wq_output *output, uint64_t offset,
                           void *buf, size_t size, wq_error *error)
{
    if (offset >= output->size_bytes || size == 0)
        return 0;
    if (size > output->size_bytes - offset)
        size = (size_t)(output->size_bytes - offset);
    int result = fetch(self, key, output->tag, offset, size, buf, -1, error);
    return result == WQ_OK ? (int64_t)size : result;
}

static int url_of(void *self, const char *key, char *url, size_t size, wq_error *error)
{
    s3 *s = self;
    if (s->public_base == NULL)
        return wq_fail(error, WQ_ERROR_NOT_FOUND, "the store has no URLs for clients");
    const char *slash = s->public_base[strlen(s->public_base) - 1] == '/' ? "" : "/";
    int n = snprintf(url, size, "%s%s%s%s", s->public_base, slash, s->encoded_prefix, key);
    if (n < 0 || (size_t)n >= size)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "the URL does not fit in %zu bytes", size);
    return WQ_OK;
}

/* ---- local copies ---------------------------------------------------------------------------- */

/* Moves a whole file to where copies are; it is gone afterwards, whatever the result. */
int wq_s3_keep_copy(s3 *s, const char *name, const char *temp, wq_error *error)
{
    static const wq_params nobody = {"-", "-", "-"};
    wq_publish item = {.key = name, .params = &nobody, .temp_path = temp};
    s->local->publish(s->local->self, &item, 1);
    return item.result == WQ_OK ? WQ_OK : wq_fail(error, item.result, "%s", item.error.message);
}

static int download_to(s3 *s, const char *key, const wq_output *output, const char *temp,
                       wq_error *error)
{
    int result = WQ_OK, fd = open(temp, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return wq_fail(error, WQ_ERROR_SYSTEM, "open %s: %s", temp, strerror(errno));
    for (uint64_t at = 0; result == WQ_OK && at < output->size_bytes; at += PIECE) {
        uint64_t left = output->size_bytes - at;
        result = fetch(s, key, output->tag, at, left < PIECE ? left : PIECE, NULL, fd, error);
    }
    if (close(fd) != 0 && result == WQ_OK)
        result = wq_fail(error, WQ_ERROR_SYSTEM, "write %s: %s", temp, strerror(errno));
    return result;
}

static int download(s3 *s, const char *key, const wq_output *output, const char *name,
                    wq_error *error)
{
    char *temp;
    int result = s->local->begin(s->local->self, name, &temp, error);
    if (result != WQ_OK)
        return result;
    result = download_to(s, key, output, temp, error);
    if (result == WQ_OK)
        result = wq_s3_keep_copy(s, name, temp, error);
    else
        s->local->discard(s->local->self, temp);
    free(temp);
    return result;
}

/* Is the copy there, and not about to be removed? From now on it is not for a minute: who removes
 * looks at its time with a lock, which we wait for. */
static int renew_copy(const char *path)
{
    const struct timespec now[2] = {{.tv_nsec = UTIME_NOW}, {.tv_nsec = UTIME_OMIT}};
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    int there = fd >= 0 && flock(fd, LOCK_SH) == 0 && fstat(fd, &st) == 0 && st.st_nlink > 0 &&
                futimens(fd, now) == 0;
    if (fd >= 0)
        close(fd);
    return there;
}

static int path_of(void *self, const char *key, char *path, size_t size, wq_error *error)
{
    s3 *s = self;
    wq_output output;
    char name[WQ_KEY_SIZE];
    for (int tries = 0; tries < 8; tries++) {
        int result = open_output(s, key, &output, error);
        if (result != WQ_OK)
            return result;
        if (wq_s3_hash(name, key, output.tag) != 0)
            return no_memory(error);
        if ((result = s->local->path(s->local->self, name, path, size, error)) != WQ_OK)
            return result;
        if (renew_copy(path))
            return WQ_OK;
        result = download(s, key, &output, name, error);
        if (result != WQ_OK && result != WQ_ERROR_NOT_FOUND) /* that may be a newer version */
            return result;
        if (result == WQ_OK && renew_copy(path))
            return WQ_OK;
    }
    return wq_fail(error, WQ_ERROR_SYSTEM, "the output changes faster than it can be copied");
}

/* ---- publishing ------------------------------------------------------------------------------ */

static int begin_object(void *self, const char *key, char **temp_path, wq_error *error)
{
    s3 *s = self;
    return s->local->begin(s->local->self, key, temp_path, error);
}

static void discard(void *self, const char *temp_path)
{
    s3 *s = self;
    s->local->discard(s->local->self, temp_path);
}

/* ---- removing -------------------------------------------------------------------------------- */

int wq_s3_delete(s3 *s, const char *key, wq_error *error)
{
    char path[WQ_S3_PATH];
    wq_s3_answer answer;
    wq_s3_request request = wq_s3_for_object(s, "DELETE", key, path);
    int result = wq_s3_ask(s->client, &request, &answer, error);
    if (result == WQ_OK && !wq_s3_is_fine(&answer) && answer.status != 404)
        result = wq_s3_refused(s->client, &request, &answer, error);
    wq_s3_answer_dispose(&answer);
    return result;
}

static int remove_one(void *self, const char *key, wq_error *error)
{
    wq_s3_answer answer;
    int result =
        wq_s3_head(self, key, &answer, error); /* a DELETE does not tell whether it was there */
    return result == WQ_OK ? wq_s3_delete(self, key, error) : result;
}

/* ---- open and close -------------------------------------------------------------------------- */

static void stop(void *self)
{
    s3 *s = self;
    wq_s3_client_stop(s->client);
}

static void close_s3(wq_store *store)
{
    s3 *s = store->self;
    if (s->local != NULL)
        s->local->close(s->local);
    wq_s3_client_close(s->client);
    free(s->public_base);
    free(s->content_type);
    free(s->access_key);
    free(s->secret_key);
    free(s->session_token);
    free(s->credentials_file);
    while (!LIST_EMPTY(&s->fences)) {
        s3_fence *fence = LIST_FIRST(&s->fences);
        LIST_REMOVE(fence, link);
        free(fence);
    }
    pthread_mutex_destroy(&s->lock);
    free(s);
}

static int open_local(s3 *s, const wq_s3_options *o, wq_error *error)
{
    char path[PATH_MAX];
    int n = snprintf(path, sizeof path, "%s/" COPIES, o->cache_dir);
    if (n < 0 || (size_t)n >= sizeof path)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "S3 options: cache_dir is too long");
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return wq_fail(error, WQ_ERROR_SYSTEM, "create the folder %s: %s", path, strerror(errno));
    const wq_dir_options local = {.path = path, .stop_ms = LOCK_WAIT_MS};
    int result = wq_dir_open(&s->local, &local, &s->logger, error);
    if (result == WQ_OK && o->cache_bytes > 0)
        result = wq_dir_retain(s->local, 0, o->cache_bytes, error);
    return result;
}

static wq_store table_of(s3 *s)
{
    return (wq_store){.self = s,
                      .blocks = 1,
                      .find = find,
                      .open = open_output,
                      .read = read_output,
                      .url = url_of,
                      .path = path_of,
                      .begin = begin_object,
                      .publish = wq_s3_publish,
                      .discard = discard,
                      .remove = remove_one,
                      .remove_set = wq_s3_remove_set,
                      .list = wq_s3_list_outputs,
                      .waits = 1,
                      .stop = stop,
                      .close = close_s3,
                      .shared = &wq_s3_shared};
}

int wq_s3_store_open(wq_store **out, const wq_s3_options *options, wq_error *error)
{
    s3 *s = calloc(1, sizeof *s);
    if (s == NULL)
        return no_memory(error);
    pthread_mutex_init(&s->lock, NULL);
    s->store = table_of(s);
    int result = wq_s3_configure(s, options, error);
    if (result != WQ_OK || (result = open_local(s, options, error)) != WQ_OK) {
        close_s3(&s->store);
        return result;
    }
    *out = &s->store;
    return WQ_OK;
}

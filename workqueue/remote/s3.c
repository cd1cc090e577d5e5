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
#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/evp.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <workqueue/remote.h>

#include "workqueue/remote/s3_request.h"
#include "workqueue/remote/s3_text.h"
#include "workqueue/store/dir.h"

#define LABEL_HEADER "x-amz-meta-workqueue-set: "
#define IF_NONE "If-None-Match: *"
#define COPIES "s3-copies"

enum {
    PREFIX_BYTES = 512,
    PATH_BYTES = 3 * PREFIX_BYTES + WQ_KEY_SIZE, /* of an object, encoded */
    BUCKET_BYTES = 256,
    MIN_PART = 5 << 20,
    MAX_PARTS = 10000,
    PIECE = 16 << 20, /* of a download: what is lost if the connection breaks */
    AT_ONCE = 8,      /* uploads of one publish() */
};

typedef struct s3 {
    wq_store store;
    wq_s3_client *client;
    wq_store *local; /* outputs in the making, and copies */
    char prefix[PREFIX_BYTES], encoded_prefix[3 * PREFIX_BYTES];
    char *public_base, *content_type; /* NULL: none; a whole header */
    uint64_t part_bytes;
    atomic_int unconditional; /* the store does not know If-None-Match on a PUT */
    wq_logger logger;
} s3;

static int no_memory(wq_error *error)
{
    return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
}

static int is_fine(const wq_s3_answer *answer)
{
    return answer->status / 100 == 2;
}

/* Writes the encoded path of `key` to `path` and begins a request for it. */
static wq_s3_request for_object(s3 *s, const char *method, const char *key, char path[PATH_BYTES])
{
    snprintf(path, PATH_BYTES, "%s%s", s->encoded_prefix, key);
    return (wq_s3_request){.method = method, .path = path, .fd = -1, .out_fd = -1};
}

static void hash(char hex[WQ_KEY_SIZE], const char *a, const char *b)
{
    unsigned char digest[EVP_MAX_MD_SIZE] = {0};
    char text[4096];
    int n = snprintf(text, sizeof text, "%s%c%s", a, '\0', b);
    EVP_Digest(text, (size_t)n, digest, NULL, EVP_sha256(), NULL);
    for (size_t i = 0; i < (WQ_KEY_SIZE - 1) / 2; i++)
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
}

/* ---- reading --------------------------------------------------------------------------------- */

/* WQ_OK and the answer filled in, WQ_ERROR_NOT_FOUND, or another failure. */
static int head(s3 *s, const char *key, wq_s3_answer *answer, wq_error *error)
{
    char path[PATH_BYTES];
    wq_s3_request request = for_object(s, "HEAD", key, path);
    int result = wq_s3_ask(s->client, &request, answer, error);
    wq_s3_answer_dispose(answer);
    if (result != WQ_OK || is_fine(answer))
        return result;
    if (answer->status == 404)
        return wq_fail(error, WQ_ERROR_NOT_FOUND, "there is no output for this yet");
    return wq_s3_refused(s->client, &request, answer, error);
}

static int find(void *self, const char *key, int64_t *made_at_ms, wq_error *error)
{
    wq_s3_answer answer;
    int result = head(self, key, &answer, error);
    if (result == WQ_OK && made_at_ms != NULL)
        *made_at_ms = answer.made_at_ms;
    return result;
}

static int open_output(void *self, const char *key, wq_output *out, wq_error *error)
{
    wq_s3_answer answer;
    int result = head(self, key, &answer, error);
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
    char path[PATH_BYTES], match[80];
    wq_s3_answer answer;
    wq_s3_request request = for_object(s, "GET", key, path);
    snprintf(match, sizeof match, "If-Match: \"%s\"", tag);
    request.headers[0] = match;
    request.offset = offset;
    request.bytes = n;
    request.buf = buf;
    request.out_fd = fd;
    int result = wq_s3_ask(s->client, &request, &answer, error);
    if (result == WQ_OK && (answer.status == 404 || answer.status == 412 || answer.status == 416))
        result = wq_fail(error, WQ_ERROR_NOT_FOUND, "the output has been deleted or replaced");
    else if (result == WQ_OK && !is_fine(&answer))
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
static int keep_copy(s3 *s, const char *name, const char *temp, wq_error *error)
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
        result = keep_copy(s, name, temp, error);
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
        hash(name, key, output.tag);
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

static int begin(void *self, const char *key, char **temp_path, wq_error *error)
{
    s3 *s = self;
    return s->local->begin(s->local->self, key, temp_path, error);
}

static void discard(void *self, const char *temp_path)
{
    s3 *s = self;
    s->local->discard(s->local->self, temp_path);
}

/* One output on its way; of what a request needs, what all of its requests have in common. */
typedef struct upload {
    s3 *s;
    const wq_publish *item;
    char path[PATH_BYTES];
    char label[sizeof LABEL_HEADER + WQ_S3_LABEL];
    int fd;
    uint64_t bytes;
    char tag[48]; /* out: of what is in place; "" if another's is */
} upload;

static void label_of(char label[WQ_S3_LABEL + 1], const char *server, const char *set)
{
    char server_hash[WQ_KEY_SIZE], set_hash[WQ_KEY_SIZE];
    hash(server_hash, server, "");
    hash(set_hash, server, set);
    snprintf(label, WQ_S3_LABEL + 1, "%.*s%.*s", WQ_S3_LABEL / 2, server_hash, WQ_S3_LABEL / 2,
             set_hash);
}

/* Nonzero: put only if there is none. */
static int is_conditional(const upload *u)
{
    return !u->item->replace && !u->s->unconditional;
}

static wq_s3_request for_upload(upload *u, const char *method)
{
    return (wq_s3_request){.method = method, .path = u->path, .fd = -1, .out_fd = -1};
}

/* 501 to a conditional request: what such a store is asked from now on has no condition. */
static int gives_up_condition(upload *u, const wq_s3_answer *answer, const char *condition)
{
    if (condition == NULL || answer->status != 501)
        return 0;
    if (!atomic_exchange(&u->s->unconditional, 1))
        wq_log(&u->s->logger, WQ_LOG_INFO,
               "the S3 store knows no If-None-Match: of two that publish the same at the same "
               "moment the later one wins");
    return 1;
}

/* WQ_DONE if one is in place that stays. */
static int look_first(upload *u, wq_error *error)
{
    wq_s3_answer answer;
    if (u->item->replace)
        return WQ_OK;
    int result = head(u->s, u->item->key, &answer, error);
    return result == WQ_OK ? WQ_DONE : result == WQ_ERROR_NOT_FOUND ? WQ_OK : result;
}

static int put_whole(upload *u, wq_error *error)
{
    wq_s3_answer answer;
    int again, result;
    do {
        const char *condition = is_conditional(u) ? IF_NONE : NULL;
        wq_s3_request request = for_upload(u, "PUT");
        if (condition == NULL && (result = look_first(u, error)) != WQ_OK)
            return result;
        request.headers[0] = u->label;
        request.headers[1] = u->s->content_type;
        request.headers[2] = condition;
        request.fd = u->fd;
        request.bytes = u->bytes;
        again = 0;
        if ((result = wq_s3_ask(u->s->client, &request, &answer, error)) == WQ_OK) {
            if (is_fine(&answer))
                memcpy(u->tag, answer.tag, sizeof u->tag);
            else if (condition != NULL && answer.status == 412)
                result = WQ_DONE;
            else if (!(again = gives_up_condition(u, &answer, condition)))
                result = wq_s3_refused(u->s->client, &request, &answer, error);
        }
        wq_s3_answer_dispose(&answer);
    } while (again);
    return result;
}

/* ---- in parts -------------------------------------------------------------------------------- */

static int begin_parts(upload *u, char *id, size_t size, wq_error *error)
{
    char raw[1024];
    wq_s3_answer answer;
    wq_s3_request request = for_upload(u, "POST");
    request.query = "uploads=";
    request.headers[0] = u->label;
    request.headers[1] = u->s->content_type;
    int result = wq_s3_ask(u->s->client, &request, &answer, error);
    if (result == WQ_OK && !is_fine(&answer))
        result = wq_s3_refused(u->s->client, &request, &answer, error);
    else if (result == WQ_OK && (wq_s3_xml_next(answer.text, "UploadId", raw, sizeof raw) == NULL ||
                                 wq_s3_encode(id, size, raw, "") != 0))
        result = wq_fail(error, WQ_ERROR_SYSTEM, "the S3 store gives no UploadId to %s", u->path);
    wq_s3_answer_dispose(&answer);
    return result;
}

static int put_part(upload *u, unsigned number, uint64_t offset, uint64_t bytes, const char *id,
                    char tag[48], wq_error *error)
{
    char query[4096];
    wq_s3_answer answer;
    wq_s3_request request = for_upload(u, "PUT");
    snprintf(query, sizeof query, "partNumber=%u&uploadId=%s", number, id);
    request.query = query;
    request.fd = u->fd;
    request.offset = offset;
    request.bytes = bytes;
    int result = wq_s3_ask(u->s->client, &request, &answer, error);
    if (result == WQ_OK && !is_fine(&answer))
        result = wq_s3_refused(u->s->client, &request, &answer, error);
    else if (result == WQ_OK && *answer.tag == '\0')
        result = wq_fail(error, WQ_ERROR_SYSTEM, "the S3 store gives no ETag for a part");
    if (result == WQ_OK)
        memcpy(tag, answer.tag, sizeof answer.tag);
    wq_s3_answer_dispose(&answer);
    return result;
}

/* Uploads the parts, and writes the list of them that ends the upload to `list`. */
static int put_parts(upload *u, const char *id, FILE *list, wq_error *error)
{
    uint64_t part = u->s->part_bytes;
    if (u->bytes / part >= MAX_PARTS)
        part = u->bytes / MAX_PARTS + 1;
    fputs("<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">", list);
    unsigned number = 1;
    for (uint64_t at = 0; at < u->bytes; at += part, number++) {
        char tag[48];
        uint64_t left = u->bytes - at;
        int result = put_part(u, number, at, left < part ? left : part, id, tag, error);
        if (result != WQ_OK)
            return result;
        fprintf(list, "<Part><PartNumber>%u</PartNumber><ETag>&quot;%s&quot;</ETag></Part>", number,
                tag);
    }
    fputs("</CompleteMultipartUpload>", list);
    return WQ_OK;
}

/* What the end of an upload came to. It may tell a failure in an answer of 200, since it begins to
 * answer before it is done; and one that is asked again may have been done before. */
static int judge_end(upload *u, const wq_s3_request *request, wq_s3_answer *answer,
                     const char *condition, wq_error *error)
{
    char text[256];
    wq_s3_answer there;
    if (is_fine(answer) && wq_s3_xml_next(answer->text, "ETag", text, sizeof text) != NULL)
        return head(u->s, u->item->key, &there, NULL) == WQ_OK
                   ? (memcpy(u->tag, there.tag, sizeof u->tag), WQ_OK)
                   : WQ_OK;
    if (condition != NULL && answer->status == 412)
        return WQ_DONE;
    if (answer->status == 404 && answer->tries > 1 &&
        head(u->s, u->item->key, &there, NULL) == WQ_OK && there.bytes == u->bytes)
        return WQ_OK;
    if (is_fine(answer) && wq_s3_xml_next(answer->text, "Code", text, sizeof text) != NULL)
        return wq_fail(error, WQ_ERROR_AWAY, "the S3 store could not end the upload of %s: %.64s",
                       u->path, text);
    return wq_s3_refused(u->s->client, request, answer, error);
}

static int end_parts(upload *u, const char *id, const char *list, wq_error *error)
{
    char query[4096];
    wq_s3_answer answer;
    int again, result;
    snprintf(query, sizeof query, "uploadId=%s", id);
    do {
        const char *condition = is_conditional(u) ? IF_NONE : NULL;
        wq_s3_request request = for_upload(u, "POST");
        request.query = query;
        request.headers[0] = "Content-Type: text/xml";
        request.headers[1] = condition;
        request.body = list;
        again = 0;
        /* many stores ignore the condition here */
        if ((result = look_first(u, error)) != WQ_OK)
            return result;
        if ((result = wq_s3_ask(u->s->client, &request, &answer, error)) == WQ_OK &&
            !(again = gives_up_condition(u, &answer, condition)))
            result = judge_end(u, &request, &answer, condition, error);
        wq_s3_answer_dispose(&answer);
    } while (again);
    return result;
}

/* What has been uploaded costs space until it is told that it is not wanted. */
static void abort_parts(upload *u, const char *id)
{
    char query[4096];
    wq_s3_answer answer;
    wq_error error;
    wq_s3_request request = for_upload(u, "DELETE");
    snprintf(query, sizeof query, "uploadId=%s", id);
    request.query = query;
    if (wq_s3_ask(u->s->client, &request, &answer, &error) != WQ_OK)
        wq_log(&u->s->logger, WQ_LOG_WARNING, "parts of an upload stay in the bucket: %s",
               error.message);
    wq_s3_answer_dispose(&answer);
}

static int put_in_parts(upload *u, wq_error *error)
{
    char id[3072], *list = NULL;
    size_t list_bytes;
    int result = look_first(u, error);
    if (result != WQ_OK || (result = begin_parts(u, id, sizeof id, error)) != WQ_OK)
        return result;
    FILE *stream = open_memstream(&list, &list_bytes);
    result = stream != NULL ? put_parts(u, id, stream, error) : no_memory(error);
    if (stream != NULL && fclose(stream) != 0 && result == WQ_OK)
        result = no_memory(error);
    if (result == WQ_OK)
        result = end_parts(u, id, list, error);
    if (result != WQ_OK)
        abort_parts(u, id);
    free(list);
    return result;
}

/* ---- many at once ---------------------------------------------------------------------------- */

/* Opens what the program has left; is it an output at all? */
static int open_temp(upload *u, wq_error *error)
{
    struct stat st;
    u->fd = open(u->item->temp_path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (u->fd < 0 && errno != ENOENT && errno != ELOOP && errno != ENXIO)
        return wq_fail(error, WQ_ERROR_SYSTEM, "Failed to open output file: %s", strerror(errno));
    if (u->fd < 0 || fstat(u->fd, &st) != 0)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "Failed to stat output file: %s",
                       strerror(errno));
    if (!S_ISREG(st.st_mode))
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT,
                       "invalid program: its output is not a regular file");
    if (st.st_size == 0)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT,
                       "invalid program: it should have written to its output file");
    u->bytes = (uint64_t)st.st_size;
    return WQ_OK;
}

/* The temporary file becomes the copy, or goes; unless it is needed again. */
static void dispose_temp(upload *u, int result)
{
    char name[WQ_KEY_SIZE];
    if (result == WQ_ERROR_AWAY)
        return;
    if (result != WQ_OK || *u->tag == '\0') {
        discard(u->s, u->item->temp_path);
        return;
    }
    hash(name, u->item->key, u->tag);
    keep_copy(u->s, name, u->item->temp_path, NULL);
}

static void publish_one(s3 *s, wq_publish *item)
{
    upload u = {.s = s, .item = item, .label = LABEL_HEADER};
    label_of(u.label + sizeof LABEL_HEADER - 1, item->params->server,
             item->params->document_set_id);
    snprintf(u.path, sizeof u.path, "%s%s", s->encoded_prefix, item->key);
    int result = open_temp(&u, &item->error);
    if (result == WQ_OK && u.bytes <= s->part_bytes)
        result = put_whole(&u, &item->error);
    else if (result == WQ_OK)
        result = put_in_parts(&u, &item->error);
    if (u.fd >= 0)
        close(u.fd);
    dispose_temp(&u, result);
    item->result = result < 0 ? result : WQ_OK;
}

typedef struct batch {
    s3 *s;
    wq_publish *items;
    size_t n;
    atomic_size_t next;
} batch;

static void *publish_some(void *arg)
{
    batch *b = arg;
    for (size_t i; (i = atomic_fetch_add(&b->next, 1)) < b->n;)
        publish_one(b->s, &b->items[i]);
    return NULL;
}

/* A request is mostly waiting, so several are under way, each by a thread that goes with the batch;
 * where one cannot be started, the others do its share. */
static void publish(void *self, wq_publish *items, size_t n)
{
    batch b = {.s = self, .items = items, .n = n};
    pthread_t threads[AT_ONCE - 1];
    size_t started = 0;
    while (started + 1 < n && started < AT_ONCE - 1 &&
           wq_thread_start(&threads[started], "wq-upload", publish_some, &b) == 0)
        started++;
    publish_some(&b);
    for (size_t i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
}

/* ---- removing -------------------------------------------------------------------------------- */

static int delete_object(s3 *s, const char *key, wq_error *error)
{
    char path[PATH_BYTES];
    wq_s3_answer answer;
    wq_s3_request request = for_object(s, "DELETE", key, path);
    int result = wq_s3_ask(s->client, &request, &answer, error);
    if (result == WQ_OK && !is_fine(&answer) && answer.status != 404)
        result = wq_s3_refused(s->client, &request, &answer, error);
    wq_s3_answer_dispose(&answer);
    return result;
}

static int remove_one(void *self, const char *key, wq_error *error)
{
    wq_s3_answer answer;
    int result = head(self, key, &answer, error); /* a DELETE does not tell whether it was there */
    return result == WQ_OK ? delete_object(self, key, error) : result;
}

static int is_key(const char *name)
{
    return strlen(name) == WQ_KEY_SIZE - 1 && strspn(name, "0123456789abcdef") == WQ_KEY_SIZE - 1;
}

/* The half of a label to compare; the rest is any. */
typedef struct wanted {
    char label[WQ_S3_LABEL + 1];
    size_t from;
} wanted;

static int remove_if_wanted(s3 *s, const char *key, const wanted *want, size_t *n, wq_error *error)
{
    wq_s3_answer answer;
    int result = head(s, key, &answer, error);
    if (result == WQ_ERROR_NOT_FOUND)
        return WQ_OK; /* gone meanwhile */
    if (result != WQ_OK || strlen(answer.label) != WQ_S3_LABEL ||
        memcmp(answer.label + want->from, want->label + want->from, WQ_S3_LABEL / 2) != 0)
        return result;
    if ((result = delete_object(s, key, error)) == WQ_OK)
        ++*n;
    return result;
}

/* One page of the list; `token` is where it begins and then where the next one does, "" at the end.
 */
static int remove_page(s3 *s, const wanted *want, char *token, size_t size, size_t *n,
                       wq_error *error)
{
    char *query, name[2 * PREFIX_BYTES], encoded[3072] = "", truncated[8] = "";
    wq_s3_answer answer;
    wq_s3_request request = {.method = "GET", .path = "", .fd = -1, .out_fd = -1};
    char prefix[3 * PREFIX_BYTES];
    if (wq_s3_encode(prefix, sizeof prefix, s->prefix, "") != 0 ||
        wq_s3_encode(encoded, sizeof encoded, token, "") != 0 ||
        asprintf(&query, "%s%s%sdelimiter=%%2F&list-type=2&max-keys=1000&prefix=%s",
                 *token ? "continuation-token=" : "", encoded, *token ? "&" : "", prefix) < 0)
        return no_memory(error);
    request.query = query;
    int result = wq_s3_ask(s->client, &request, &answer, error);
    if (result == WQ_OK && !is_fine(&answer))
        result = wq_s3_refused(s->client, &request, &answer, error);
    const char *at = answer.text;
    size_t skip = strlen(s->prefix);
    while (result == WQ_OK && (at = wq_s3_xml_next(at, "Key", name, sizeof name)) != NULL)
        if (strncmp(name, s->prefix, skip) == 0 && is_key(name + skip))
            result = remove_if_wanted(s, name + skip, want, n, error);
    *token = '\0';
    if (result == WQ_OK &&
        wq_s3_xml_next(answer.text, "IsTruncated", truncated, sizeof truncated) != NULL &&
        strcmp(truncated, "true") == 0 &&
        wq_s3_xml_next(answer.text, "NextContinuationToken", token, size) == NULL)
        result = wq_fail(error, WQ_ERROR_SYSTEM, "the S3 store does not say how its list goes on");
    wq_s3_answer_dispose(&answer);
    free(query);
    return result;
}

static int remove_set(void *self, const char *server, const char *document_set_id, size_t *n,
                      wq_error *error)
{
    char token[1024] = "";
    wanted want = {.from = document_set_id != NULL ? WQ_S3_LABEL / 2 : 0};
    int result;
    label_of(want.label, server, document_set_id != NULL ? document_set_id : "");
    do
        result = remove_page(self, &want, token, sizeof token, n, error);
    while (result == WQ_OK && *token != '\0');
    return result;
}

/* ---- options --------------------------------------------------------------------------------- */

void wq_s3_options_init(wq_s3_options *options, size_t size)
{
    memset(options, 0, size);
    if (size != sizeof *options)
        return;
    *options = (wq_s3_options){
        .size = size,
        .path_style = 1,
        .content_type = "application/octet-stream",
        .cache_bytes = 1ULL << 30,
        .part_bytes = 64 << 20,
        .max_connections = 16,
        .connect_timeout_ms = 5000,
        .stall_timeout_ms = 30000,
        .retries = 4,
        .backoff_ms = 100,
        .backoff_max_ms = 3000,
    };
}

static int is_text(const char *text)
{
    for (; *text != '\0'; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f)
            return 0;
    return 1;
}

static int check_options(const wq_s3_options *o, wq_error *error)
{
    const char *wrong = NULL;
    if (o->size != sizeof *o)
        wrong = "size is unknown to this library; fill them with wq_s3_options_init()";
    else if (o->cache_dir == NULL || *o->cache_dir == '\0')
        wrong = "cache_dir is missing";
    else if (o->part_bytes < MIN_PART)
        wrong = "part_bytes must be at least 5242880";
    else if (o->max_connections < 1 || o->max_connections > 64)
        wrong = "max_connections must be from 1 to 64";
    else if (o->connect_timeout_ms == 0 || o->stall_timeout_ms == 0)
        wrong = "connect_timeout_ms and stall_timeout_ms must not be 0";
    else if (o->retries > 100)
        wrong = "retries must be at most 100";
    else if (o->content_type == NULL || *o->content_type == '\0' || !is_text(o->content_type))
        wrong = "content_type must be a media type";
    else if (o->public_base != NULL && (*o->public_base == '\0' || !is_text(o->public_base)))
        wrong = "public_base must be a URL";
    if (wrong != NULL)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "S3 options: %s", wrong);
    return WQ_OK;
}

/* Takes "s3://bucket/prefix" apart. */
static int take_url(s3 *s, char bucket[BUCKET_BYTES], const char *url, wq_error *error)
{
    static const char scheme[] = "s3://";
    static const char letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_";
    if (url == NULL || strncmp(url, scheme, sizeof scheme - 1) != 0)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT,
                       "S3 options: url must be like s3://bucket/prefix");
    url += sizeof scheme - 1;
    size_t n = strcspn(url, "/");
    if (n < 3 || n >= BUCKET_BYTES || strspn(url, letters) < n || *url == '.')
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT,
                       "S3 options: the bucket in url must be 3 to 255 of A-Z a-z 0-9 . - _");
    memcpy(bucket, url, n);
    bucket[n] = '\0';
    url += n;
    url += strspn(url, "/");
    size_t length = strlen(url);
    if (length + 2 > sizeof s->prefix || !is_text(url))
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT,
                       "S3 options: the prefix in url is too long, or has control characters");
    snprintf(s->prefix, sizeof s->prefix, "%s%s", url,
             length > 0 && url[length - 1] != '/' ? "/" : "");
    return wq_s3_encode(s->encoded_prefix, sizeof s->encoded_prefix, s->prefix, "/");
}

static const char *or_environment(const char *value, const char *name, const char *other)
{
    if (value == NULL)
        value = getenv(name);
    if ((value == NULL || *value == '\0') && other != NULL)
        value = getenv(other);
    return value != NULL && *value != '\0' ? value : NULL;
}

static int take_credentials(wq_s3_config *config, const wq_s3_options *o, wq_error *error)
{
    int given = o->access_key != NULL;
    config->access_key = or_environment(o->access_key, "AWS_ACCESS_KEY_ID", NULL);
    config->secret_key =
        given ? o->secret_key : or_environment(o->secret_key, "AWS_SECRET_ACCESS_KEY", NULL);
    config->session_token =
        given ? o->session_token : or_environment(o->session_token, "AWS_SESSION_TOKEN", NULL);
    if (config->access_key == NULL || config->secret_key == NULL)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT,
                       "S3 options: there are no credentials; set AWS_ACCESS_KEY_ID and "
                       "AWS_SECRET_ACCESS_KEY");
    if (!is_text(config->access_key) || !is_text(config->secret_key) ||
        (config->session_token != NULL && !is_text(config->session_token)))
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT,
                       "S3 options: credentials have control characters");
    return WQ_OK;
}

/* Puts the bucket in front of the host. */
static int add_to_host(CURLU *parsed, const char *bucket)
{
    char *host, *longer = NULL;
    if (curl_url_get(parsed, CURLUPART_HOST, &host, 0) != CURLUE_OK)
        return -1;
    int ok = asprintf(&longer, "%s.%s", bucket, host) >= 0 &&
             curl_url_set(parsed, CURLUPART_HOST, longer, 0) == CURLUE_OK;
    free(longer);
    curl_free(host);
    return ok ? 0 : -1;
}

static int has_part(CURLU *parsed, CURLUPart what)
{
    char *text;
    if (curl_url_get(parsed, what, &text, 0) != CURLUE_OK)
        return 0;
    curl_free(text);
    return 1;
}

/* The URL of the bucket, with a "/" at its end; NULL if `endpoint` is none for a store. */
static char *bucket_url(const char *endpoint, const char *bucket, int path_style)
{
    char *text = NULL, *url = NULL;
    CURLU *parsed = curl_url();
    if (parsed != NULL && curl_url_set(parsed, CURLUPART_URL, endpoint, 0) == CURLUE_OK &&
        (strncmp(endpoint, "http://", 7) == 0 || strncmp(endpoint, "https://", 8) == 0) &&
        !has_part(parsed, CURLUPART_USER) && !has_part(parsed, CURLUPART_QUERY) &&
        !has_part(parsed, CURLUPART_FRAGMENT) && (path_style || add_to_host(parsed, bucket) == 0) &&
        curl_url_get(parsed, CURLUPART_URL, &text, 0) == CURLUE_OK) {
        size_t n = strlen(text);
        while (n > 0 && text[n - 1] == '/')
            n--;
        if (asprintf(&url, "%.*s/%s%s", (int)n, text, path_style ? bucket : "",
                     path_style ? "/" : "") < 0)
            url = NULL;
    }
    curl_free(text);
    curl_url_cleanup(parsed);
    return url;
}

static int open_client(s3 *s, const wq_s3_options *o, wq_error *error)
{
    char bucket[BUCKET_BYTES], amazon[256];
    wq_s3_config config = {
        .max_connections = o->max_connections,
        .connect_timeout_ms = o->connect_timeout_ms,
        .stall_timeout_ms = o->stall_timeout_ms,
        .retries = o->retries,
        .backoff_ms = o->backoff_ms,
        .backoff_max_ms = o->backoff_max_ms,
        .logger = s->logger,
    };
    int result = take_url(s, bucket, o->url, error);
    if (result != WQ_OK || (result = take_credentials(&config, o, error)) != WQ_OK)
        return result;
    config.region = or_environment(o->region, "AWS_REGION", "AWS_DEFAULT_REGION");
    if (config.region == NULL)
        config.region = "us-east-1";
    size_t n = strlen(config.region);
    if (n > 64 || strspn(config.region, "abcdefghijklmnopqrstuvwxyz0123456789-_") != n)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "S3 options: region is malformed");
    config.ca_file = or_environment(o->ca_file, "AWS_CA_BUNDLE", NULL);
    const char *endpoint = or_environment(o->endpoint, "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL");
    snprintf(amazon, sizeof amazon, "https://s3.%s.amazonaws.com", config.region);
    char *base = bucket_url(endpoint ? endpoint : amazon, bucket, o->path_style);
    if (base == NULL)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT,
                       "S3 options: endpoint must be like http://host:port, without credentials");
    config.base = base;
    result = wq_s3_client_open(&s->client, &config, error);
    free(base);
    return result;
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
    int result = wq_dir_open(&s->local, path, 0, &s->logger, error);
    if (result == WQ_OK && o->cache_bytes > 0)
        result = wq_dir_retain(s->local, 0, o->cache_bytes, error);
    return result;
}

static int copy_strings(s3 *s, const wq_s3_options *o, wq_error *error)
{
    if (o->public_base != NULL && (s->public_base = strdup(o->public_base)) == NULL)
        return no_memory(error);
    if (asprintf(&s->content_type, "Content-Type: %s", o->content_type) < 0) {
        s->content_type = NULL;
        return no_memory(error);
    }
    return WQ_OK;
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
                      .begin = begin,
                      .publish = publish,
                      .discard = discard,
                      .remove = remove_one,
                      .remove_set = remove_set,
                      .waits = 1,
                      .stop = stop,
                      .close = close_s3};
}

int wq_s3_store_open(wq_store **out, const wq_s3_options *options, wq_error *error)
{
    int result = check_options(options, error);
    if (result != WQ_OK)
        return result;
    s3 *s = calloc(1, sizeof *s);
    if (s == NULL)
        return no_memory(error);
    s->store = table_of(s);
    s->logger = (wq_logger){options->log, options->log_user};
    s->part_bytes = options->part_bytes;
    if ((result = copy_strings(s, options, error)) != WQ_OK ||
        (result = open_client(s, options, error)) != WQ_OK ||
        (result = open_local(s, options, error)) != WQ_OK) {
        close_s3(&s->store);
        return result;
    }
    *out = &s->store;
    return WQ_OK;
}

/* shared.c - what machines share in a bucket: texts written on condition, fences of outputs, and a
 * probe whether the store keeps to conditions at all.
 *
 * A text is in an object's metadata, so that a HEAD reads it, and once more in its body, so that no
 * two versions have the same ETag if no two texts are alike.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "workqueue/s3/store.h"
#include "workqueue/s3/text.h"
#include "workqueue/util/log.h"

#define TEXT_HEADER "x-amz-meta-workqueue-text: "

enum { READ_BACK_MS = 150 }; /* where there are no conditions */

void wq_s3_condition(const s3 *s, char *header, size_t size, const char *tag)
{
    const char *quote = s->bare_tags ? "" : "\"";
    if (*tag == '\0')
        snprintf(header, size, "If-None-Match: *");
    else
        snprintf(header, size, "If-Match: %s%s%s", quote, tag, quote);
}

/* ---- fences ---------------------------------------------------------------------------------- */

static s3_fence *find_fence_locked(s3 *s, const char *key)
{
    s3_fence *fence;
    LIST_FOREACH(fence, &s->fences, link)
    if (strcmp(fence->key, key) == 0)
        return fence;
    return NULL;
}

s3_fence wq_s3_fence_of(s3 *s, const char *key)
{
    s3_fence copy = {0};
    pthread_mutex_lock(&s->lock);
    const s3_fence *fence = find_fence_locked(s, key);
    if (fence != NULL)
        copy = *fence;
    pthread_mutex_unlock(&s->lock);
    return copy;
}

static int set_fence(void *self, const char *key, uint64_t epoch, const char *tag)
{
    s3 *s = self;
    pthread_mutex_lock(&s->lock);
    s3_fence *fence = find_fence_locked(s, key);
    if (epoch == 0) {
        if (fence != NULL)
            LIST_REMOVE(fence, link);
        free(fence);
        fence = NULL;
    } else if (fence == NULL && (fence = calloc(1, sizeof *fence)) != NULL) {
        snprintf(fence->key, sizeof fence->key, "%s", key);
        LIST_INSERT_HEAD(&s->fences, fence, link);
    }
    if (fence != NULL) {
        fence->epoch = epoch;
        snprintf(fence->tag, sizeof fence->tag, "%s", tag);
    }
    pthread_mutex_unlock(&s->lock);
    return epoch == 0 || fence != NULL ? WQ_OK : WQ_ERROR_NO_MEMORY;
}

/* ---- texts ----------------------------------------------------------------------------------- */

static int get_text(void *self, const char *name, char text[WQ_SHARED_TEXT_SIZE],
                    char tag[WQ_TAG_SIZE], wq_error *error)
{
    wq_s3_answer answer;
    int result = wq_s3_head(self, name, &answer, error);
    if (result != WQ_OK)
        return result;
    memcpy(text, answer.short_text, sizeof answer.short_text);
    memcpy(tag, answer.tag, sizeof answer.tag);
    return WQ_OK;
}

/* A PUT under `condition` (NULL: none); out: the status of HTTP, and the tag. */
static int put_object(s3 *s, const char *name, const char *condition, const char *text,
                      const char *more, long *status, char tag[WQ_TAG_SIZE], wq_error *error)
{
    char path[WQ_S3_PATH], header[sizeof TEXT_HEADER + WQ_SHARED_TEXT_SIZE], *body;
    wq_s3_answer answer;
    wq_s3_request request = wq_s3_for_object(s, "PUT", name, path);
    if (asprintf(&body, "%s\n%s", text, more != NULL ? more : "") < 0)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    snprintf(header, sizeof header, TEXT_HEADER "%s", text);
    request.headers[0] = "Content-Type: text/plain";
    request.headers[1] = condition;
    request.headers[2] = *text != '\0' ? header : NULL;
    request.body = body;
    request.bytes = strlen(body);
    int result = wq_s3_ask(s->client, &request, &answer, error);
    *status = answer.status;
    memcpy(tag, answer.tag, sizeof answer.tag);
    int is_known = wq_s3_is_fine(&answer) || answer.status == 412 || answer.status == 409 ||
                   answer.status == 501 || (answer.status == 404 && *answer.code != 'N') ||
                   strcmp(answer.code, "NoSuchKey") == 0;
    if (result == WQ_OK && !is_known)
        result = wq_s3_refused(s->client, &request, &answer, error);
    wq_s3_answer_dispose(&answer);
    free(body);
    return result;
}

static void pause_between_ms(long ms)
{
    const struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

/* Without conditions: look, write, wait, and read back who was the last. */
static int put_and_read_back(s3 *s, const char *name, const char *tag, const char *text,
                             const char *more, char new_tag[WQ_TAG_SIZE], wq_error *error)
{
    char there[WQ_SHARED_TEXT_SIZE], there_tag[WQ_TAG_SIZE] = "";
    long status;
    int result = get_text(s, name, there, there_tag, error);
    if (result != WQ_OK && result != WQ_ERROR_NOT_FOUND)
        return result;
    if (strcmp(there_tag, tag) != 0)
        return wq_fail(error, WQ_ERROR_LOCKED, "somebody else was first");
    if ((result = put_object(s, name, NULL, text, more, &status, new_tag, error)) != WQ_OK)
        return result;
    pause_between_ms(READ_BACK_MS);
    if ((result = get_text(s, name, there, new_tag, error)) != WQ_OK)
        return result == WQ_ERROR_NOT_FOUND ? WQ_ERROR_LOCKED : result;
    return strcmp(there, text) == 0 ? WQ_OK
                                    : wq_fail(error, WQ_ERROR_LOCKED, "somebody else was later");
}

static int put_text(void *self, const char *name, const char *tag, const char *text,
                    const char *more, char new_tag[WQ_TAG_SIZE], wq_error *error)
{
    s3 *s = self;
    char condition[96];
    long status = 0;
    if (tag != NULL && s->unconditional)
        return put_and_read_back(s, name, tag, text, more, new_tag, error);
    if (tag != NULL)
        wq_s3_condition(s, condition, sizeof condition, tag);
    int result =
        put_object(s, name, tag != NULL ? condition : NULL, text, more, &status, new_tag, error);
    if (result != WQ_OK || status / 100 == 2)
        return result;
    if (status == 501)
        return wq_fail(error, WQ_ERROR_SYSTEM, "the S3 store knows no conditions of a PUT (501)");
    return wq_fail(error, WQ_ERROR_LOCKED, "somebody else was first");
}

static int get_more(void *self, const char *name, char **more, wq_error *error)
{
    char path[WQ_S3_PATH];
    wq_s3_answer answer;
    wq_s3_request request = wq_s3_for_object(self, "GET", name, path);
    int result = wq_s3_ask(((s3 *)self)->client, &request, &answer, error);
    if (result == WQ_OK && answer.status == 404)
        result = wq_fail(error, WQ_ERROR_NOT_FOUND, "there is no such text");
    else if (result == WQ_OK && !wq_s3_is_fine(&answer))
        result = wq_s3_refused(((s3 *)self)->client, &request, &answer, error);
    const char *line = result == WQ_OK ? strchr(answer.text, '\n') : NULL;
    if (result == WQ_OK && (*more = strdup(line != NULL ? line + 1 : "")) == NULL)
        result = wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    wq_s3_answer_dispose(&answer);
    return result;
}

static int remove_text(void *self, const char *name, wq_error *error)
{
    return wq_s3_delete(self, name, error);
}

static int list_texts(void *self, const char *folder, unsigned recent_s,
                      int (*each)(void *user, const char *name), void *user, wq_error *error)
{
    char within[64];
    snprintf(within, sizeof within, "%s/", folder);
    return wq_s3_list_names(self, within, "", recent_s, each, user, error);
}

static int describe_output(void *self, const char *key, uint64_t *epoch, uint64_t *bytes,
                           char tag[WQ_TAG_SIZE], wq_error *error)
{
    wq_s3_answer answer;
    int result = wq_s3_head(self, key, &answer, error);
    if (result != WQ_OK)
        return result;
    *epoch = answer.epoch;
    *bytes = answer.bytes;
    memcpy(tag, answer.tag, sizeof answer.tag);
    return WQ_OK;
}

/* ---- the probe ------------------------------------------------------------------------------- */

static int ignores(wq_error *error, const char *what)
{
    return wq_fail(error, WQ_ERROR_SYSTEM,
                   "the S3 store ignores %s of a PUT, so that a job could run twice: use a store "
                   "or a version that keeps to it (AWS, Ceph from 16 on, MinIO from 2025 on)",
                   what);
}

/* If-Match with the tag in quotes, as it should be, or else without. */
static int probe_match(s3 *s, const char *name, char tag[WQ_TAG_SIZE], wq_error *error)
{
    long status;
    char condition[96];
    for (int bare = 0; bare < 2; bare++) {
        s->bare_tags = bare;
        wq_s3_condition(s, condition, sizeof condition, tag);
        char text[40];
        snprintf(text, sizeof text, "matched %d", bare);
        int result = put_object(s, name, condition, text, NULL, &status, tag, error);
        if (result != WQ_OK)
            return result;
        if (status / 100 == 2)
            return WQ_OK;
        char there[WQ_SHARED_TEXT_SIZE];
        if ((result = get_text(s, name, there, tag, error)) != WQ_OK)
            return result;
    }
    return wq_fail(error, WQ_ERROR_SYSTEM,
                   "the S3 store takes no If-Match of a PUT: use a store or a version that does");
}

/* The end of an upload in parts over what is there, on condition that nothing is. */
static int probe_parts(s3 *s, const char *name, wq_error *error)
{
    char path[WQ_S3_PATH], id[1024] = "", encoded[3072], query[3200], list[256], tag[WQ_TAG_SIZE];
    wq_s3_answer answer;
    wq_s3_request request = wq_s3_for_object(s, "POST", name, path);
    request.query = "uploads=";
    int result = wq_s3_ask(s->client, &request, &answer, error);
    if (result == WQ_OK && wq_s3_is_fine(&answer))
        wq_s3_xml_next(answer.text, "UploadId", id, sizeof id);
    wq_s3_answer_dispose(&answer);
    if (result != WQ_OK || *id == '\0' || wq_s3_encode(encoded, sizeof encoded, id, "") != 0)
        return result;
    request = wq_s3_for_object(s, "PUT", name, path);
    snprintf(query, sizeof query, "partNumber=1&uploadId=%s", encoded);
    request.query = query;
    request.body = "in parts";
    request.bytes = strlen(request.body);
    result = wq_s3_ask(s->client, &request, &answer, error);
    snprintf(tag, sizeof tag, "%s", answer.tag);
    wq_s3_answer_dispose(&answer);
    if (result != WQ_OK)
        return result;
    snprintf(list, sizeof list,
             "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>&quot;%s&quot;</ETag>"
             "</Part></CompleteMultipartUpload>",
             tag);
    request = wq_s3_for_object(s, "POST", name, path);
    snprintf(query, sizeof query, "uploadId=%s", encoded);
    request.query = query;
    request.headers[0] = "Content-Type: text/xml";
    request.headers[1] = "If-None-Match: *";
    request.body = list;
    result = wq_s3_ask(s->client, &request, &answer, error);
    s->parts_obey = result == WQ_OK && answer.status == 412;
    wq_s3_answer_dispose(&answer);
    if (result == WQ_OK && s->parts_obey) {
        request = wq_s3_for_object(s, "DELETE", name, path);
        request.query = query;
        wq_s3_ask(s->client, &request, &answer, NULL);
        wq_s3_answer_dispose(&answer);
    }
    return result;
}

static int probe_conditions(s3 *s, const char *name, wq_error *error)
{
    char tag[WQ_TAG_SIZE], other[WQ_TAG_SIZE];
    long status;
    int result = put_object(s, name, "If-None-Match: *", "first", NULL, &status, tag, error);
    if (result == WQ_OK && status == 501) {
        s->unconditional = 1;
        wq_log(&s->logger, WQ_LOG_WARNING,
               "the S3 store knows no conditions (it answers 501): records are written, waited for "
               "and read back; that a job runs once is not proven there");
        return WQ_OK;
    }
    if (result == WQ_OK && status / 100 != 2)
        result = wq_fail(error, WQ_ERROR_AWAY, "the S3 store answers %ld to a first PUT", status);
    if (result == WQ_OK)
        result = put_object(s, name, "If-None-Match: *", "second", NULL, &status, other, error);
    if (result == WQ_OK && status / 100 == 2)
        result = ignores(error, "If-None-Match");
    if (result == WQ_OK)
        result = probe_match(s, name, tag, error);
    if (result == WQ_OK)
        result = put_object(s, name,
                            s->bare_tags ? "If-Match: 00000000000000000000000000000000"
                                         : "If-Match: \"00000000000000000000000000000000\"",
                            "third", NULL, &status, other, error);
    if (result == WQ_OK && status / 100 == 2)
        result = ignores(error, "If-Match");
    return result == WQ_OK ? probe_parts(s, name, error) : result;
}

static int probe(void *self, wq_error *error)
{
    s3 *s = self;
    char name[40];
    uint64_t random = 0;
    if (getrandom(&random, sizeof random, 0) < 0)
        random = (uint64_t)time(NULL);
    snprintf(name, sizeof name, ".probe/%016" PRIx64, random);
    int result = probe_conditions(s, name, error);
    wq_s3_delete(s, name, NULL);
    if (result == WQ_OK && !s->unconditional)
        wq_log(&s->logger, WQ_LOG_INFO,
               "the S3 store keeps to conditions (tags %s quotes; uploads in parts %s)",
               s->bare_tags ? "without" : "in", s->parts_obey ? "as well" : "do not: not used");
    return result;
}

const wq_shared wq_s3_shared = {
    .probe = probe,
    .get = get_text,
    .put = put_text,
    .more = get_more,
    .remove = remove_text,
    .list = list_texts,
    .output = describe_output,
    .fence = set_fence,
};

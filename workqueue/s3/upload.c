/* s3_upload.c - puts outputs in a bucket, whole or in parts.
 *
 * "Only if there is none" is a condition of the request, so that of many that publish the same one
 * wins. Stores that do not know it answer 501; from the first of those on we look before we put.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "workqueue/s3/store.h"
#include "workqueue/s3/text.h"
#include "workqueue/util/log.h"
#include "workqueue/util/threads.h"

#define LABEL_HEADER "x-amz-meta-workqueue-set: "
#define MOST_AT_ONCE (5ULL << 30) /* what a single PUT may have, by S3's rules */

enum {
    MAX_PARTS = 10000,
    AT_ONCE = 8, /* uploads of one publish() */
    TRIES = 8,   /* of one output that others replace meanwhile */
};

/* One output on its way; of what a request needs, what all of its requests have in common. */
typedef struct upload {
    s3 *s;
    const wq_publish *item;
    s3_fence fence; /* epoch 0: none */
    char path[WQ_S3_PATH];
    char label[sizeof LABEL_HEADER + WQ_S3_LABEL], epoch[64], condition[96]; /* headers, or empty */
    char about[WQ_S3_TEXT];                                                  /* likewise */
    int fd;
    uint64_t bytes;
    char tag[48]; /* out: of what is in place; "" if another's is */
} upload;

static wq_s3_request for_upload(upload *u, const char *method)
{
    return (wq_s3_request){.method = method, .path = u->path, .fd = -1, .out_fd = -1};
}

static const char *given(const char *header)
{
    return *header != '\0' ? header : NULL;
}

/* Under what condition it is put: where there is a fence, what was seen when the run began must
 * still be there; else only what is no rebuild has one. */
static void choose_condition(upload *u)
{
    *u->condition = '\0';
    if (u->s->unconditional || (u->item->replace && u->fence.epoch == 0))
        return;
    wq_s3_condition(u->s, u->condition, sizeof u->condition, u->item->replace ? u->fence.tag : "");
}

/* 501 to a conditional request: what such a store is asked from now on has no condition. */
static int gives_up_condition(upload *u, const wq_s3_answer *answer)
{
    if (*u->condition == '\0' || answer->status != 501)
        return 0;
    if (!atomic_exchange(&u->s->unconditional, 1))
        wq_log(&u->s->logger, WQ_LOG_INFO,
               "the S3 store knows no If-None-Match: of two that publish the same at the same "
               "moment the later one wins");
    return 1;
}

/* Whether what is in place stays: WQ_DONE, or WQ_OK, and then it is what may be replaced. Ours of
 * an answer that was lost counts as put. */
static int look_first(upload *u, wq_error *error)
{
    wq_s3_answer answer;
    if (u->item->replace && u->fence.epoch == 0)
        return WQ_OK;
    int result = wq_s3_head(u->s, u->item->key, &answer, error);
    if (result == WQ_ERROR_NOT_FOUND) {
        *u->fence.tag = '\0';
        return WQ_OK;
    }
    if (result != WQ_OK)
        return result;
    if (!u->item->replace || answer.epoch >= u->fence.epoch)
        return WQ_DONE;
    snprintf(u->fence.tag, sizeof u->fence.tag, "%s", answer.tag);
    return WQ_OK;
}

/* 404 is the answer of some to If-Match where there is nothing any more. */
static int is_broken_condition(const wq_s3_answer *answer)
{
    return answer->status == 412 ||
           (answer->status == 404 && strcmp(answer->code, "NoSuchBucket") != 0);
}

/* One try under one condition; WQ_PENDING: there is to be another. */
static int put_once(upload *u, wq_error *error)
{
    wq_s3_answer answer;
    wq_s3_request request = for_upload(u, "PUT");
    choose_condition(u);
    int result = *u->condition == '\0' ? look_first(u, error) : WQ_OK;
    if (result != WQ_OK)
        return result;
    request.headers[0] = u->label;
    request.headers[1] = u->s->content_type;
    request.headers[2] = given(u->condition);
    request.headers[3] = given(u->epoch);
    request.headers[4] = given(u->about);
    request.fd = u->fd;
    request.bytes = u->bytes;
    if ((result = wq_s3_ask(u->s->client, &request, &answer, error)) == WQ_OK) {
        if (wq_s3_is_fine(&answer))
            memcpy(u->tag, answer.tag, sizeof u->tag);
        else if (*u->condition != '\0' && answer.status == 412 && !u->item->replace)
            result = WQ_DONE;
        else if (*u->condition != '\0' && is_broken_condition(&answer))
            result = (result = look_first(u, error)) == WQ_OK ? WQ_PENDING : result;
        else if (gives_up_condition(u, &answer))
            result = WQ_PENDING;
        else
            result = wq_s3_refused(u->s->client, &request, &answer, error);
    }
    wq_s3_answer_dispose(&answer);
    return result;
}

static int put_whole(upload *u, wq_error *error)
{
    for (int tries = 0; tries < TRIES; tries++) {
        int result = put_once(u, error);
        if (result != WQ_PENDING)
            return result;
    }
    return wq_fail(error, WQ_ERROR_AWAY, "the output changes all the time while it is published");
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
    request.headers[2] = given(u->epoch);
    request.headers[3] = given(u->about);
    int result = wq_s3_ask(u->s->client, &request, &answer, error);
    if (result == WQ_OK && !wq_s3_is_fine(&answer))
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
    if (result == WQ_OK && !wq_s3_is_fine(&answer))
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
static int judge_end(upload *u, const wq_s3_request *request, wq_s3_answer *answer, wq_error *error)
{
    char text[256];
    wq_s3_answer there;
    if (wq_s3_is_fine(answer) && wq_s3_xml_next(answer->text, "ETag", text, sizeof text) != NULL)
        return wq_s3_head(u->s, u->item->key, &there, NULL) == WQ_OK
                   ? (memcpy(u->tag, there.tag, sizeof u->tag), WQ_OK)
                   : WQ_OK;
    if (*u->condition != '\0' && answer->status == 412) {
        int result = look_first(u, error);
        return result == WQ_OK ? WQ_PENDING : result;
    }
    if (answer->status == 404 && answer->tries > 1 &&
        wq_s3_head(u->s, u->item->key, &there, NULL) == WQ_OK && there.bytes == u->bytes)
        return WQ_OK;
    if (gives_up_condition(u, answer))
        return WQ_PENDING;
    if (wq_s3_is_fine(answer) && wq_s3_xml_next(answer->text, "Code", text, sizeof text) != NULL)
        return wq_fail(error, WQ_ERROR_AWAY, "the S3 store could not end the upload of %s: %.64s",
                       u->path, text);
    return wq_s3_refused(u->s->client, request, answer, error);
}

static int end_once(upload *u, const char *query, const char *list, wq_error *error)
{
    wq_s3_answer answer;
    wq_s3_request request = for_upload(u, "POST");
    /* many stores ignore the condition here */
    int result = look_first(u, error);
    if (result != WQ_OK)
        return result;
    choose_condition(u);
    request.query = query;
    request.headers[0] = "Content-Type: text/xml";
    request.headers[1] = given(u->condition);
    request.body = list;
    if ((result = wq_s3_ask(u->s->client, &request, &answer, error)) == WQ_OK)
        result = judge_end(u, &request, &answer, error);
    wq_s3_answer_dispose(&answer);
    return result;
}

static int end_parts(upload *u, const char *id, const char *list, wq_error *error)
{
    char query[4096];
    snprintf(query, sizeof query, "uploadId=%s", id);
    for (int tries = 0; tries < TRIES; tries++) {
        int result = end_once(u, query, list, error);
        if (result != WQ_PENDING)
            return result;
    }
    return wq_fail(error, WQ_ERROR_AWAY, "the output changes all the time while it is published");
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
    result = stream != NULL ? put_parts(u, id, stream, error)
                            : wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    if (stream != NULL && fclose(stream) != 0 && result == WQ_OK)
        result = wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
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
    if (result == WQ_OK && *u->tag != '\0' && wq_s3_hash(name, u->item->key, u->tag) == 0)
        wq_s3_keep_copy(u->s, name, u->item->temp_path, NULL);
    else
        u->s->local->discard(u->s->local->self, u->item->temp_path);
}

static void publish_one(s3 *s, wq_publish *item)
{
    upload u = {.s = s, .item = item, .label = LABEL_HEADER, .fence = wq_s3_fence_of(s, item->key)};
    if (u.fence.epoch != 0)
        snprintf(u.epoch, sizeof u.epoch, "x-amz-meta-workqueue-epoch: %" PRIu64, u.fence.epoch);
    char *label = u.label + sizeof LABEL_HEADER - 1;
    wq_s3_describe(u.about, sizeof u.about, item);
    snprintf(u.path, sizeof u.path, "%s%s", s->encoded_prefix, item->key);
    int result = open_temp(&u, &item->error);
    if (wq_s3_label(label, item->params->server, item->params->document_set_id) != 0)
        result = wq_fail(&item->error, WQ_ERROR_NO_MEMORY, "out of memory");
    /* In parts only where that keeps to conditions, or has to be. */
    int is_small = u.bytes <= s->part_bytes ||
                   (u.fence.epoch != 0 && !s->parts_obey && u.bytes <= MOST_AT_ONCE);
    if (result == WQ_OK && is_small)
        result = put_whole(&u, &item->error);
    else if (result == WQ_OK)
        result = put_in_parts(&u, &item->error);
    if (u.fd >= 0)
        close(u.fd);
    dispose_temp(&u, result);
    item->result = result < 0 ? result : WQ_OK;
    item->size_bytes = u.bytes;
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
void wq_s3_publish(void *self, wq_publish *items, size_t n)
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

/* list.c - what a bucket holds: names, outputs with what they tell of themselves, and those of a
 * server or document set, to be removed. Beyond the names each object is asked, which is slow. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "workqueue/s3/store.h"
#include "workqueue/s3/text.h"

#define ABOUT_HEADER "x-amz-meta-workqueue-text: "

enum { NAME_BYTES = 2 * WQ_S3_PREFIX, SPELLED_SERVER = 1200, SPELLED_SET = 260 };

/* ---- names ----------------------------------------------------------------------------------- */

/* One listing, from page to page. */
typedef struct names {
    s3 *s;
    char whole[WQ_S3_PREFIX + 64]; /* what a name begins with */
    char last[NAME_BYTES];         /* the list goes on behind this one; "": it begins */
    int64_t recent_ms;
    int (*each)(void *user, const char *name);
    void *user;
    int is_over;
} names;

/* "2026-12-01T03:04:05.678Z" in Unix time; 0: it is none. */
static int64_t parse_time(const char *text)
{
    struct tm utc = {0};
    return strptime(text, "%Y-%m-%dT%H:%M:%S", &utc) != NULL ? (int64_t)timegm(&utc) * 1000 : 0;
}

/* The time of an object is behind its name, and in front of the next. */
static int is_old(const names *l, const wq_s3_answer *answer, const char *behind_key)
{
    char text[64];
    if (l->recent_ms == 0 || answer->now_ms <= 0 ||
        wq_s3_xml_next(behind_key, "LastModified", text, sizeof text) == NULL)
        return 0;
    int64_t written = parse_time(text);
    return written != 0 && answer->now_ms - written > l->recent_ms;
}

static void take_page(names *l, const wq_s3_answer *answer)
{
    char name[NAME_BYTES], truncated[8] = "";
    size_t skip = strlen(l->whole);
    for (const char *at = answer->text;
         !l->is_over && (at = wq_s3_xml_next(at, "Key", name, sizeof name)) != NULL;) {
        memcpy(l->last, name, sizeof name);
        if (strncmp(name, l->whole, skip) == 0 && name[skip] != '\0' && !is_old(l, answer, at))
            l->is_over = l->each(l->user, name + skip);
    }
    wq_s3_xml_next(answer->text, "IsTruncated", truncated, sizeof truncated);
    l->is_over |= strcmp(truncated, "true") != 0;
}

static int list_page(names *l, wq_error *error)
{
    char *query, prefix[3 * sizeof l->whole], last[3 * NAME_BYTES], before[NAME_BYTES];
    wq_s3_answer answer;
    wq_s3_request request = {.method = "GET", .path = "", .fd = -1, .out_fd = -1};
    if (wq_s3_encode(prefix, sizeof prefix, l->whole, "") != 0 ||
        wq_s3_encode(last, sizeof last, l->last, "") != 0 ||
        asprintf(&query, "delimiter=%%2F&list-type=2&max-keys=1000&prefix=%s%s%s", prefix,
                 *last ? "&start-after=" : "", last) < 0)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    memcpy(before, l->last, sizeof before);
    request.query = query;
    int result = wq_s3_ask(l->s->client, &request, &answer, error);
    if (result == WQ_OK && !wq_s3_is_fine(&answer))
        result = wq_s3_refused(l->s->client, &request, &answer, error);
    if (result == WQ_OK)
        take_page(l, &answer);
    if (result == WQ_OK && !l->is_over && strcmp(before, l->last) == 0)
        result = wq_fail(error, WQ_ERROR_SYSTEM, "the S3 store does not say how its list goes on");
    wq_s3_answer_dispose(&answer);
    free(query);
    return result;
}

int wq_s3_list_names(s3 *s, const char *folder, const char *after, unsigned recent_s,
                     int (*each)(void *user, const char *name), void *user, wq_error *error)
{
    names l = {.s = s, .each = each, .user = user, .recent_ms = (int64_t)recent_s * 1000};
    int result = WQ_OK;
    snprintf(l.whole, sizeof l.whole, "%s%s", s->prefix, folder);
    if (*after != '\0')
        snprintf(l.last, sizeof l.last, "%s%s", l.whole, after);
    while (result == WQ_OK && !l.is_over)
        result = list_page(&l, error);
    return result;
}

/* ---- outputs --------------------------------------------------------------------------------- */

/* A walk through the outputs, all or those of a server or set. */
typedef struct walk {
    s3 *s;
    int is_any;
    char label[WQ_S3_LABEL + 1]; /* the half from `from` on is compared */
    size_t from;
    /* of a removal */
    size_t n_removed;
    /* of a list */
    wq_output_info *out;
    size_t n, max;
    int result;
    wq_error *error;
} walk;

static int is_key_name(const char *name)
{
    return strlen(name) == WQ_KEY_SIZE - 1 && strspn(name, "0123456789abcdef") == WQ_KEY_SIZE - 1;
}

static int begin_walk(walk *w, const char *server, const char *document_set_id)
{
    w->is_any = server == NULL;
    w->from = document_set_id != NULL ? WQ_S3_LABEL / 2 : 0;
    if (w->is_any ||
        wq_s3_label(w->label, server, document_set_id != NULL ? document_set_id : "") == 0)
        return WQ_OK;
    return wq_fail(w->error, WQ_ERROR_NO_MEMORY, "out of memory");
}

/* Nonzero if it is one of those that are wanted: then `answer` tells of it. */
static int ask_object(walk *w, const char *name, wq_s3_answer *answer)
{
    if (!is_key_name(name))
        return 0;
    int result = wq_s3_head(w->s, name, answer, w->error);
    if (result != WQ_OK && result != WQ_ERROR_NOT_FOUND) /* that has gone meanwhile */
        w->result = result;
    return result == WQ_OK && (w->is_any || (strlen(answer->label) == WQ_S3_LABEL &&
                                             memcmp(answer->label + w->from, w->label + w->from,
                                                    WQ_S3_LABEL / 2) == 0));
}

static int remove_wanted(void *user, const char *name)
{
    walk *w = user;
    wq_s3_answer answer;
    if (ask_object(w, name, &answer) && (w->result = wq_s3_delete(w->s, name, w->error)) == WQ_OK)
        w->n_removed++;
    return w->result != WQ_OK;
}

int wq_s3_remove_set(void *self, const char *server, const char *document_set_id, size_t *n,
                     wq_error *error)
{
    walk w = {.s = self, .error = error};
    int result = begin_walk(&w, server, document_set_id);
    if (result == WQ_OK)
        result = wq_s3_list_names(self, "", "", 0, remove_wanted, &w, error);
    *n += w.n_removed;
    return w.result != WQ_OK ? w.result : result;
}

/* ---- what an output tells of itself ---------------------------------------------------------- */

void wq_s3_describe(char *header, size_t size, const wq_publish *item)
{
    char server[SPELLED_SERVER], set[SPELLED_SET];
    *header = '\0';
    if (wq_s3_encode(server, sizeof server, item->params->server, ":/") == 0 &&
        wq_s3_encode(set, sizeof set, item->params->document_set_id, "") == 0)
        snprintf(header, size, ABOUT_HEADER "%s %s %s %" PRIu64, server, set,
                 item->job_id != NULL ? item->job_id : "-", item->ran_ms);
}

/* Undoes percent-encoding; what does not fit is cut. */
static void decode_entity(char *out, size_t size, const char *in)
{
    size_t n = 0;
    for (unsigned byte; *in != '\0' && n + 1 < size; n++) {
        int is_code = *in == '%' && sscanf(in + 1, "%2x", &byte) == 1;
        out[n] = is_code ? (char)byte : *in;
        in += is_code ? 3 : 1;
    }
    out[n] = '\0';
}

static void read_description(wq_output_info *info, const char *text)
{
    char server[SPELLED_SERVER], set[SPELLED_SET], job[WQ_ID_SIZE];
    if (sscanf(text, "%1199s %259s %36s %" SCNu64, server, set, job, &info->ran_ms) != 4)
        return; /* of an older version, or another program's */
    decode_entity(info->server, sizeof info->server, server);
    decode_entity(info->document_set_id, sizeof info->document_set_id, set);
    if (strcmp(job, "-") != 0)
        snprintf(info->job_id, sizeof info->job_id, "%s", job);
}

static int list_wanted(void *user, const char *name)
{
    walk *w = user;
    wq_s3_answer answer;
    if (w->n == w->max || !ask_object(w, name, &answer))
        return w->n == w->max || w->result != WQ_OK;
    wq_output_info *info = &w->out[w->n++];
    *info = (wq_output_info){.size_bytes = answer.bytes, .made_at_ms = answer.made_at_ms};
    memcpy(info->key, name, sizeof info->key);
    memcpy(info->tag, answer.tag, sizeof info->tag);
    read_description(info, answer.short_text);
    return 0;
}

/* In the order of keys, so that the last of them is a position. */
int wq_s3_list_outputs(void *self, const char *server, const char *document_set_id, char *position,
                       wq_output_info *out, size_t max, size_t *n, wq_error *error)
{
    walk w = {.s = self, .out = out, .max = max, .error = error};
    int result = begin_walk(&w, server, document_set_id);
    if (result == WQ_OK)
        result = wq_s3_list_names(self, "", position, 0, list_wanted, &w, error);
    result = w.result != WQ_OK ? w.result : result;
    if (result != WQ_OK)
        return result;
    snprintf(position, WQ_POSITION_SIZE, "%s", w.n == max ? out[max - 1].key : "");
    *n = w.n;
    return WQ_OK;
}

/* sample.c - the sample Overview server.
 *
 * The list of files is read once, at the start; their texts never are, but go from the file to the
 * client in pieces, a piece each time the client has taken the last one. So a large folder costs
 * neither memory nor the time of the event loop, which others' streams share. */
#include "sample.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "folder.h"
#include "generate.h"
#include "plugin.h"
#include "text.h"

enum {
    PIECE_BYTES = 65536,  /* about as much is sent at a time */
    FILES_PER_PIECE = 16, /* at most so many files are opened for it */
    MAX_WITH_TEXT = 20,   /* Overview's limits of a page */
    MAX_WITHOUT_TEXT = 1000,
    NO_LIMIT = 2147483647
};

/* What a document may be asked for; the order in which it is told. */
enum field {
    FIELD_ID = 1,
    FIELD_DOCUMENT_SET_ID = 2,
    FIELD_TITLE = 4,
    FIELD_SUPPLIED_ID = 8,
    FIELD_PAGE_NUMBER = 16,
    FIELD_URL = 32,
    FIELD_IS_FROM_OCR = 64,
    FIELD_METADATA = 128,
    FIELD_TEXT = 256
};

static const struct {
    const char *name;
    unsigned field;
} fields_by_name[] = {{"id", FIELD_ID},
                      {"documentSetId", FIELD_DOCUMENT_SET_ID},
                      {"title", FIELD_TITLE},
                      {"suppliedId", FIELD_SUPPLIED_ID},
                      {"pageNumber", FIELD_PAGE_NUMBER},
                      {"url", FIELD_URL},
                      {"isFromOcr", FIELD_IS_FROM_OCR},
                      {"metadata", FIELD_METADATA},
                      {"text", FIELD_TEXT}};

struct sample {
    char *folder; /* NULL: the documents are made up */
    struct folder files;
    size_t n;
    char selection_id[37];
    char created_at[32];
};

/* One answer that is being sent. It lives in the request's pool. */
struct listing {
    h2o_generator_t super;
    h2o_req_t *req;
    const struct sample *sample;
    unsigned fields;
    int bare; /* fields=id alone: a list of numbers and nothing around it */
    size_t first, next, end;
    int fd; /* the file whose text is being sent, or -1 */
    size_t carried;
    char
        raw[PIECE_BYTES]; /* what was read; its first `carried` bytes are an unfinished character */
    struct text out;
};

/* ---- the documents ---- */

static int refuse(wq_error *error, const char *folder, const char *why)
{
    error->code = WQ_ERROR_INVALID_ARGUMENT;
    snprintf(error->message, sizeof error->message, "cannot use %s as sample documents: %s", folder,
             why);
    return -1;
}

static void name_selection(struct sample *sample)
{
    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    strftime(sample->created_at, sizeof sample->created_at, "%Y-%m-%dT%H:%M:%SZ", &utc);
    snprintf(sample->selection_id, sizeof sample->selection_id, "%08lx-0000-4000-8000-%012lx",
             (unsigned long)now.tv_nsec, (unsigned long)now.tv_sec & 0xffffffffffff);
}

static void tell_opened(const struct sample *sample, wq_log_cb log)
{
    char line[256];
    snprintf(line, sizeof line,
             "sample documents: %zu %s (%zu others skipped), as document set 1 with API "
             "token \"" SAMPLE_TOKEN "\"",
             sample->n, sample->folder == NULL ? "that are made up" : "text files",
             sample->files.n_skipped);
    log(NULL, WQ_LOG_INFO, line);
}

static int open_made_up(struct sample **out, size_t n, wq_log_cb log, wq_error *error)
{
    struct sample *sample = calloc(1, sizeof *sample);
    if (sample == NULL)
        return refuse(error, "made-up documents", strerror(errno));
    sample->n = n;
    name_selection(sample);
    tell_opened(sample, log);
    *out = sample;
    return 0;
}

int sample_open(struct sample **out, const char *folder, wq_log_cb log, wq_error *error)
{
    struct stat status;
    size_t digits = strspn(folder, "0123456789");
    if (digits > 0 && digits < 10 && folder[digits] == '\0')
        return open_made_up(out, strtoul(folder, NULL, 10), log, error);
    if (stat(folder, &status) != 0)
        return refuse(error, folder, strerror(errno));
    if (!S_ISDIR(status.st_mode))
        return refuse(error, folder, "it is not a folder");
    if (access(folder, R_OK | X_OK) != 0)
        return refuse(error, folder, strerror(errno));
    struct sample *sample = calloc(1, sizeof *sample);
    if (sample == NULL || (sample->folder = strdup(folder)) == NULL ||
        folder_list(&sample->files, folder) != 0) {
        sample_close(sample);
        return refuse(error, folder, strerror(errno));
    }
    sample->n = sample->files.n;
    name_selection(sample);
    tell_opened(sample, log);
    *out = sample;
    return 0;
}

void sample_close(struct sample *sample)
{
    if (sample == NULL)
        return;
    folder_dispose(&sample->files);
    free(sample->folder);
    free(sample);
}

/* ---- small answers ---- */

static int say(h2o_req_t *req, int status, const char *message)
{
    char body[256];
    int n = snprintf(body, sizeof body, "{\"message\":\"%s\"}", message);
    return wq_http_send(req, status, "application/json", body, (size_t)n);
}

/* Whether the Authorization header is the one of our token, as Overview wants it. */
static int is_authorized(h2o_req_t *req)
{
    static const char expected[] = SAMPLE_TOKEN ":x-auth-token";
    char encoded[4 * ((sizeof expected + 1) / 3) + 1];
    int n = EVP_EncodeBlock((unsigned char *)encoded, (const unsigned char *)expected,
                            sizeof expected - 1);
    ssize_t i = h2o_find_header(&req->headers, H2O_TOKEN_AUTHORIZATION, -1);
    if (i == -1)
        return 0;
    h2o_iovec_t value = req->headers.entries[i].value;
    return value.len == 6 + (size_t)n && strncasecmp(value.base, "Basic ", 6) == 0 &&
           memcmp(value.base + 6, encoded, (size_t)n) == 0;
}

static int tell_token(const struct sample *sample, h2o_req_t *req)
{
    char body[256];
    int n = snprintf(body, sizeof body,
                     "{\"token\":\"" SAMPLE_TOKEN "\",\"description\":\"sample documents\","
                     "\"createdAt\":\"%s\",\"userEmail\":\"sample@example.org\","
                     "\"documentSetId\":1}",
                     sample->created_at);
    return wq_http_send(req, 200, "application/json", body, (size_t)n);
}

/* ---- documents, in pieces ---- */

/* Overview's ids have the document set in their upper half. */
static unsigned long long id_of(size_t index)
{
    return (1ull << 32) + index + 1;
}

static void add_text(struct text *out, const char *key, const char *value)
{
    text_addf(out, ",\"%s\":", key);
    text_json_string(out, value, strlen(value));
}

/* All of a document but its text, which is the last field and left open. */
static void begin_document(struct listing *listing)
{
    struct text *out = &listing->out;
    char made_up[32];
    const char *name = made_up;
    if (listing->sample->folder == NULL)
        snprintf(made_up, sizeof made_up, "Document %zu", listing->next + 1);
    else
        name = listing->sample->files.names[listing->next];
    if (listing->next > listing->first)
        text_add(out, ",", 1);
    if (listing->bare) {
        text_addf(out, "%llu", id_of(listing->next));
        return;
    }
    text_add(out, "{", 1);
    size_t begin = out->len;
    if (listing->fields & FIELD_ID)
        text_addf(out, ",\"id\":%llu", id_of(listing->next));
    if (listing->fields & FIELD_DOCUMENT_SET_ID)
        text_addf(out, ",\"documentSetId\":1");
    if (listing->fields & FIELD_TITLE)
        add_text(out, "title", name);
    if (listing->fields & FIELD_SUPPLIED_ID)
        add_text(out, "suppliedId", name);
    if (listing->fields & FIELD_PAGE_NUMBER)
        text_addf(out, ",\"pageNumber\":null");
    if (listing->fields & FIELD_URL)
        text_addf(out, ",\"url\":null");
    if (listing->fields & FIELD_IS_FROM_OCR)
        text_addf(out, ",\"isFromOcr\":false");
    if (listing->fields & FIELD_METADATA)
        text_addf(out, ",\"metadata\":{}");
    if (listing->fields & FIELD_TEXT)
        text_addf(out, ",\"text\":\"");
    if (out->len > begin && !out->failed)
        out->data[begin] = ' '; /* no comma before the first */
}

static void end_document(struct listing *listing)
{
    if (listing->fd != -1)
        close(listing->fd);
    listing->fd = -1;
    listing->carried = 0;
    if (listing->fields & FIELD_TEXT)
        text_add(&listing->out, "\"", 1);
    if (!listing->bare)
        text_add(&listing->out, "}", 1);
    listing->next++;
}

/* A file that has gone since the list was made is a document without text. */
static void open_text(struct listing *listing)
{
    char *path;
    if (listing->sample->folder == NULL) {
        struct text text = {0};
        generate_text(&text, listing->next);
        text_json(&listing->out, text.data, text.len, 1);
        text_dispose(&text);
        return;
    }
    if (asprintf(&path, "%s/%s", listing->sample->folder,
                 listing->sample->files.names[listing->next]) < 0)
        return;
    listing->fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    free(path);
}

/* Adds the next bytes of the text at hand; the document ends with its file. */
static void continue_text(struct listing *listing)
{
    ssize_t n =
        read(listing->fd, listing->raw + listing->carried, sizeof listing->raw - listing->carried);
    int last = n <= 0;
    size_t len = listing->carried + (last ? 0 : (size_t)n);
    size_t taken = text_json(&listing->out, listing->raw, len, last);
    listing->carried = len - taken;
    memmove(listing->raw, listing->raw + taken, listing->carried);
    if (last)
        end_document(listing);
}

/* Fills the next piece; nonzero if it is the last. */
static int fill(struct listing *listing)
{
    for (int files = 0; listing->out.len < PIECE_BYTES && files < FILES_PER_PIECE;) {
        if (listing->fd != -1) {
            continue_text(listing);
            continue;
        }
        if (listing->next == listing->end) {
            text_addf(&listing->out, listing->bare ? "]" : "]}");
            return 1;
        }
        begin_document(listing);
        if (listing->fields & FIELD_TEXT) {
            open_text(listing);
            files++;
        }
        if (listing->fd == -1)
            end_document(listing);
    }
    return 0;
}

static void on_proceed(h2o_generator_t *generator, h2o_req_t *req)
{
    struct listing *listing = (struct listing *)generator;
    int last = fill(listing);
    if (listing->out.failed) {
        h2o_send(req, NULL, 0, H2O_SEND_STATE_ERROR);
        return;
    }
    /* The bytes stay where they are until the next proceed, or until the pool is cleared. */
    h2o_iovec_t piece = h2o_iovec_init(listing->out.data, listing->out.len);
    listing->out.len = 0;
    h2o_send(req, &piece, 1, last ? H2O_SEND_STATE_FINAL : H2O_SEND_STATE_IN_PROGRESS);
}

static void dispose_listing(void *pointer)
{
    struct listing *listing = pointer;
    if (listing->fd != -1)
        close(listing->fd);
    text_dispose(&listing->out);
}

static void begin_listing(struct listing *listing, size_t offset, size_t limit)
{
    if (listing->bare) {
        text_add(&listing->out, "[", 1);
        return;
    }
    text_addf(&listing->out,
              "{\"selectionId\":\"%s\",\"pagination\":{\"offset\":%zu,\"limit\":%zu,\"total\":%zu},"
              "\"items\":[",
              listing->sample->selection_id, offset, limit, listing->sample->n);
}

static int send_listing(const struct sample *sample, h2o_req_t *req, unsigned fields, size_t offset,
                        size_t limit)
{
    struct listing *listing = h2o_mem_alloc_shared(&req->pool, sizeof *listing, dispose_listing);
    memset(listing, 0, offsetof(struct listing, raw));
    memset(&listing->out, 0, sizeof listing->out);
    listing->super.proceed = on_proceed;
    listing->req = req;
    listing->sample = sample;
    listing->fields = fields;
    listing->bare = fields == FIELD_ID;
    listing->fd = -1;
    listing->first = listing->next = offset < sample->n ? offset : sample->n;
    listing->end = limit < sample->n - listing->next ? listing->next + limit : sample->n;
    begin_listing(listing, offset, limit);
    req->res.status = 200;
    req->res.reason = "OK";
    plugin_header(req, "content-type", "application/json");
    plugin_header(req, "cache-control", "no-store");
    h2o_start_response(req, &listing->super);
    on_proceed(&listing->super, req);
    return 0;
}

/* ---- requests ---- */

static unsigned field_by_name(const char *name, size_t len)
{
    for (size_t i = 0; i < sizeof fields_by_name / sizeof *fields_by_name; i++)
        if (strlen(fields_by_name[i].name) == len && memcmp(fields_by_name[i].name, name, len) == 0)
            return fields_by_name[i].field;
    return 0;
}

/* The fields of "id,title,..."; those that we do not have are left out. */
static unsigned parse_fields(const char *list)
{
    if (list == NULL)
        return FIELD_ID | FIELD_TITLE | FIELD_SUPPLIED_ID | FIELD_PAGE_NUMBER | FIELD_URL;
    unsigned fields = 0;
    while (*list != '\0') {
        size_t len = strcspn(list, ",");
        fields |= field_by_name(list, len);
        list += len + (list[len] == ',');
    }
    return fields;
}

/* A number of the query; 0 and *out (fallback if there is none), or -1. */
static int parse_number(h2o_req_t *req, const char *name, size_t fallback, size_t *out)
{
    const char *value = wq_http_query(req, name);
    *out = fallback;
    if (value == NULL)
        return 0;
    size_t len = strlen(value);
    if (len == 0 || len > 9 || strspn(value, "0123456789") != len)
        return -1;
    *out = strtoul(value, NULL, 10);
    return 0;
}

/* Overview's limits: none for a stream, 20 for texts, 1000 for the rest. An offset into a stream
 * without a limit gives nothing there (their sum overflows), so it does here. */
static size_t effective_limit(int stream, unsigned fields, size_t offset, size_t asked)
{
    if (stream)
        return asked == NO_LIMIT && offset > 0 ? 0 : asked;
    size_t most = fields & FIELD_TEXT ? MAX_WITH_TEXT : MAX_WITHOUT_TEXT;
    return asked < most ? asked : most;
}

static int list_documents(const struct sample *sample, h2o_req_t *req)
{
    const char *streamed = wq_http_query(req, "stream");
    const char *selection = wq_http_query(req, "selectionId");
    unsigned fields = parse_fields(wq_http_query(req, "fields"));
    size_t offset, limit;
    if (selection != NULL && strcmp(selection, sample->selection_id) != 0)
        return say(req, 404, "This selection has expired");
    if (parse_number(req, "offset", 0, &offset) != 0 ||
        parse_number(req, "limit", NO_LIMIT, &limit) != 0)
        return say(req, 400, "offset and limit must be numbers");
    limit =
        effective_limit(streamed != NULL && strcmp(streamed, "true") == 0, fields, offset, limit);
    if (fields == FIELD_ID) /* ids come all at once */
        return send_listing(sample, req, fields, 0, sample->n);
    return send_listing(sample, req, fields, offset, limit);
}

/* Whether the path is `prefix`, then one segment, then `suffix`; *segment is what is between. */
static int match(h2o_iovec_t path, const char *prefix, const char *suffix, h2o_iovec_t *segment)
{
    size_t n = strlen(prefix), m = strlen(suffix);
    if (path.len <= n + m || memcmp(path.base, prefix, n) != 0 ||
        memcmp(path.base + path.len - m, suffix, m) != 0)
        return 0;
    *segment = h2o_iovec_init(path.base + n, path.len - n - m);
    return memchr(segment->base, '/', segment->len) == NULL;
}

int sample_handle(struct plugin *plugin, h2o_req_t *req)
{
    h2o_iovec_t path = req->path_normalized, id;
    if (wq_http_method(req, "GET, HEAD, OPTIONS"))
        return 0;
    if (!is_authorized(req))
        return say(req, 401, "Invalid API token");
    if (h2o_memis(path.base, path.len, H2O_STRLIT("/api/v1/api-token")))
        return tell_token(plugin->sample, req);
    if (!match(path, "/api/v1/document-sets/", "/documents", &id))
        return say(req, 404, "Not found");
    if (!h2o_memis(id.base, id.len, H2O_STRLIT("1")))
        return say(req, 403, "This API token is for another document set");
    if (h2o_memis(req->method.base, req->method.len, H2O_STRLIT("HEAD")))
        return wq_http_send(req, 200, "application/json", "", 0);
    return list_documents(plugin->sample, req);
}

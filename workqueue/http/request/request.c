/* request.c - from an h2o request to parameters, within limits.
 *
 * This is on the path of every request, so nothing is copied but the three values, and memory comes
 * from the request's pool only.
 */
#include "workqueue/http/request/request.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "workqueue/http/request/fields.h"
#include "workqueue/http/request/media_types.h"
#include "workqueue/http/request/problem.h"
#include "workqueue/http/request/url.h"

#define BODY_TYPES "application/x-www-form-urlencoded, multipart/form-data and application/json"

static void *pool_alloc(void *pool, size_t size)
{
    return h2o_mem_alloc_pool(pool, size);
}

static wq_arena arena_of(h2o_req_t *req)
{
    return (wq_arena){pool_alloc, &req->pool};
}

static h2o_iovec_t query_of(const h2o_req_t *req)
{
    if (req->query_at >= req->path.len) /* SIZE_MAX: there is none */
        return h2o_iovec_init(NULL, 0);
    return h2o_iovec_init(req->path.base + req->query_at + 1, req->path.len - req->query_at - 1);
}

static h2o_iovec_t token_header(const h2o_req_t *req, const h2o_token_t *token)
{
    const ssize_t i = h2o_find_header(&req->headers, token, -1);

    return i == -1 ? h2o_iovec_init(NULL, 0) : req->headers.entries[i].value;
}

static int is_length_header(const char *line, size_t n)
{
    static const char *const names[] = {"content-length:", "transfer-encoding:"};

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (n >= strlen(names[i]) && strncasecmp(line, names[i], strlen(names[i])) == 0)
            return 1;
    return 0;
}

/* libh2o takes the first one, or the chunks, and keeps all of them to itself; but what has arrived
 * stays as it came until the request is answered. */
int wq_request_is_ambiguous(h2o_req_t *req)
{
    const h2o_buffer_t *input = req->conn->callbacks->get_socket(req->conn)->input;
    const char *at = input->bytes, *end = input->bytes + input->size, *newline;
    unsigned n_lines = 0, n_lengths = 0;

    if (req->version >= 0x200)
        return 0;
    for (; (newline = memchr(at, '\n', (size_t)(end - at))) != NULL; at = newline + 1) {
        const int is_empty = newline == at || (newline == at + 1 && *at == '\r');

        if (is_empty && n_lines > 0) /* one in front of the request means nothing */
            break;
        n_lines += (unsigned)!is_empty;
        n_lengths += (unsigned)is_length_header(at, (size_t)(newline - at));
    }
    return n_lengths > 1;
}

const char *wq_http_query(h2o_req_t *req, const char *name)
{
    const h2o_iovec_t query = query_of(req);

    return wq_query_field(arena_of(req), query.base, query.len, name);
}

h2o_iovec_t wq_request_subprotocol(h2o_req_t *req, const char *name)
{
    const size_t n = strlen(name);
    const int is_prefix = name[n - 1] == '.';
    h2o_headers_t *headers = &req->headers;

    for (ssize_t i = -1;
         (i = h2o_find_header_by_str(headers, H2O_STRLIT("sec-websocket-protocol"), i)) != -1;) {
        h2o_iovec_t rest = headers->entries[i].value;
        const char *item;
        size_t len;

        while ((item = h2o_next_token(&rest, ',', &len, NULL)) != NULL)
            if ((len == n || (is_prefix && len > n)) && memcmp(item, name, n) == 0)
                return h2o_iovec_init(item, len);
    }
    return h2o_iovec_init(NULL, 0);
}

/* Once; not from the request's pool, which keeps what is long for as long as the answer lasts. */
static void *brief_alloc(void *memory, size_t size)
{
    return *(void **)memory = malloc(size);
}

h2o_iovec_t wq_request_last_event_id(h2o_req_t *req)
{
    enum { MAX_BYTES = 128 };
    const h2o_iovec_t header = wq_request_header(req, "last-event-id"), query = query_of(req);
    h2o_iovec_t id = {NULL, 0};
    void *memory = NULL;
    const char *field;

    if (header.len > 0)
        return header;
    field = wq_query_field((wq_arena){brief_alloc, &memory}, query.base, query.len, "lastEventId");
    if (field != NULL && strlen(field) <= MAX_BYTES)
        id = h2o_strdup(&req->pool, field, SIZE_MAX);
    free(memory);
    return id;
}

/* ---- the sources, the one with precedence first; -1: *fault says why ------------------------ */

__attribute__((format(printf, 4, 5))) static int faulty(h2o_req_t *req, wq_request_fault *fault,
                                                        int status, const char *format, ...)
{
    enum { SIZE = 640 }; /* a wq_error's sentence and a little */
    char *detail = h2o_mem_alloc_pool(&req->pool, SIZE);
    va_list args;

    va_start(args, format);
    vsnprintf(detail, SIZE, format, args);
    va_end(args);
    fault->status = status;
    fault->detail = detail;
    return -1;
}

static int unauthorized(h2o_req_t *req, wq_request_fault *fault, const char *why)
{
    h2o_set_header(&req->pool, &req->res.headers, H2O_TOKEN_WWW_AUTHENTICATE,
                   H2O_STRLIT("Basic realm=\"workqueue\""), 1);
    fault->fields[0] = "apiToken";
    return faulty(req, fault, 401, "%s.", why);
}

static int is_missing(const char *text)
{
    return text == NULL || *text == '\0';
}

/* "token." and the token, percent-encoded. */
static int read_subprotocol(h2o_req_t *req, wq_fields *fields, wq_request_fault *fault)
{
    static const char prefix[] = "token.";
    const h2o_iovec_t item = wq_request_subprotocol(req, prefix);

    if (item.base == NULL)
        return 0;
    fields->api_token = wq_percent_decoded(arena_of(req), item.base + sizeof prefix - 1,
                                           item.len - (sizeof prefix - 1));
    return fields->api_token != NULL
               ? 0
               : unauthorized(req, fault,
                              "The token in the subprotocol is not percent-encoded correctly");
}

/* A field wins: what is in the header may be the login of a proxy in front. */
static int read_authorization(h2o_req_t *req, wq_fields *fields, wq_request_fault *fault)
{
    const h2o_iovec_t value = token_header(req, H2O_TOKEN_AUTHORIZATION);
    const char *why;

    if (!is_missing(fields->api_token))
        return 0;
    if (value.base == NULL)
        return read_subprotocol(req, fields, fault);
    fields->api_token = wq_basic_token(arena_of(req), value.base, value.len, &why);
    return fields->api_token != NULL ? 0 : unauthorized(req, fault, why);
}

static int malformed(h2o_req_t *req, wq_request_fault *fault, const char *what, const char *why)
{
    return faulty(req, fault, 400, "The %s is malformed: %s.", what, why);
}

static int read_multipart(h2o_req_t *req, wq_fields *fields, const char *boundary,
                          wq_request_fault *fault)
{
    const char *why;

    if (boundary == NULL)
        return malformed(req, fault, "Content-Type", "multipart/form-data needs a boundary");
    if (wq_fields_multipart(fields, arena_of(req), boundary, strlen(boundary), req->entity.base,
                            req->entity.len, &why) != 0)
        return malformed(req, fault, "multipart/form-data body", why);
    return 0;
}

static int read_body_as(h2o_req_t *req, wq_fields *fields, const char *type, const char *boundary,
                        wq_request_fault *fault)
{
    const h2o_iovec_t body = req->entity;
    const wq_arena arena = arena_of(req);
    const char *why;

    if (strcmp(type, "application/x-www-form-urlencoded") == 0) {
        if (wq_fields_urlencoded(fields, arena, body.base, body.len, &why) != 0)
            return malformed(req, fault, "application/x-www-form-urlencoded body", why);
        return 0;
    }
    if (strcmp(type, "application/json") == 0) {
        int result = wq_fields_json(fields, arena, body.base, body.len, &why);
        if (result == WQ_FIELDS_NO_MEMORY)
            return faulty(req, fault, 500, "Out of memory: the body could not be read.");
        return result == 0 ? 0 : malformed(req, fault, "application/json body", why);
    }
    if (strcmp(type, "multipart/form-data") == 0)
        return read_multipart(req, fields, boundary, fault);
    return faulty(req, fault, 415,
                  "A body of this Content-Type cannot be read here; " BODY_TYPES " can.");
}

/* Is there a Content-Encoding that is more than "identity"? */
static int is_encoded(h2o_req_t *req)
{
    for (ssize_t i = -1;
         (i = h2o_find_header(&req->headers, H2O_TOKEN_CONTENT_ENCODING, i)) != -1;) {
        const h2o_iovec_t coding = req->headers.entries[i].value;

        if (coding.len > 0 && !h2o_lcstris(coding.base, coding.len, H2O_STRLIT("identity")))
            return 1;
    }
    return 0;
}

static int read_body(const wq_request_limits *limits, h2o_req_t *req, wq_fields *fields,
                     wq_request_fault *fault)
{
    const h2o_iovec_t value = token_header(req, H2O_TOKEN_CONTENT_TYPE);
    const char *type, *boundary;

    if (req->entity.base == NULL || req->entity.len == 0)
        return 0;
    if (req->entity.len > limits->max_body_bytes)
        return faulty(req, fault, 413, "The body has %zu bytes; at most %zu are taken here.",
                      req->entity.len, limits->max_body_bytes);
    if (is_encoded(req))
        return faulty(req, fault, 415, "A body with a Content-Encoding cannot be read here.");
    if (wq_content_type(arena_of(req), value.base, value.len, &type, &boundary) != 0)
        return faulty(req, fault, 415,
                      "The body needs a Content-Type that can be read here: " BODY_TYPES ".");
    return read_body_as(req, fields, type, boundary, fault);
}

static int read_query(h2o_req_t *req, wq_fields *fields, wq_request_fault *fault)
{
    const h2o_iovec_t query = query_of(req);
    const char *why;

    if (wq_fields_urlencoded(fields, arena_of(req), query.base, query.len, &why) != 0)
        return malformed(req, fault, "query string", why);
    return 0;
}

/* ---- what was read, held against the rules; -1: *fault says why ----------------------------- */

static int check_present(h2o_req_t *req, const wq_fields *fields, wq_request_fault *fault)
{
    const int no_token = is_missing(fields->api_token);
    size_t n = 0;

    if (is_missing(fields->server))
        fault->fields[n++] = "server";
    if (is_missing(fields->document_set_id))
        fault->fields[n++] = "documentSetId";
    if (n == 0 && !no_token)
        return 0;
    fault->is_missing = 1;
    if (n == 0)
        return unauthorized(req, fault,
                            "An API token is needed, as Authorization: Basic "
                            "base64(token:x-auth-token) or in the field apiToken");
    if (no_token)
        fault->fields[n] = "apiToken";
    return faulty(req, fault, 400, "The field %s is missing.", fault->fields[0]);
}

static int check_params(h2o_req_t *req, const wq_params *params, wq_request_fault *fault)
{
    wq_error error;

    if (wq_params_check(params, &error) == WQ_OK)
        return 0;
    /* the sentence begins with the field's name in the library */
    fault->fields[0] = error.message[0] == 's'   ? "server"
                       : error.message[0] == 'd' ? "documentSetId"
                                                 : "apiToken";
    return faulty(req, fault, 400, "%s.", error.message);
}

/* What `server` is for the key, the limits, deletion and the program alike; -1: it is no URL. */
static int take_server(const wq_request_limits *limits, h2o_req_t *req, wq_fields *fields,
                       wq_request_fault *fault)
{
    char url[WQ_URL_SIZE];
    const char *why;

    if (is_missing(fields->server) || limits->any_server)
        return 0;
    if ((why = wq_url_canonical(url, sizeof url, fields->server)) != NULL) {
        fault->fields[0] = "server";
        return faulty(req, fault, 400,
                      "The field server must be the http or https URL of a server, such as "
                      "https://www.example.org: %s.",
                      why);
    }
    if (strcmp(url, fields->server) != 0)
        fields->server = h2o_strdup(&req->pool, url, SIZE_MAX).base;
    return 0;
}

/* A program could take for an option what begins so. */
static int check_dashes(h2o_req_t *req, const wq_fields *fields, wq_request_fault *fault)
{
    for (size_t i = 0; i < WQ_FIELD_NAMES; i++) {
        const char *value = *wq_field_slot((wq_fields *)fields, i);

        if (value == NULL || *value != '-')
            continue;
        fault->fields[0] = wq_field_names[i].name;
        return faulty(req, fault, 400,
                      "The field %s begins with \"-\", which a program could take for an option.",
                      fault->fields[0]);
    }
    return 0;
}

/* The fields of body and query; `fault` is what is wrong with them by themselves. */
static int read_fields(const wq_request_limits *limits, h2o_req_t *req, wq_fields *fields,
                       wq_request_fault *fault)
{
    return read_body(limits, req, fields, fault) != 0 || read_query(req, fields, fault) != 0 ||
                   check_dashes(req, fields, fault) != 0 ||
                   take_server(limits, req, fields, fault) != 0
               ? -1
               : 0;
}

static int read_rebuild(h2o_req_t *req, const wq_fields *fields, int *rebuild,
                        wq_request_fault *fault)
{
    const int yes = wq_field_yes(fields->rebuild);

    if (rebuild != NULL)
        *rebuild = yes > 0;
    if (yes >= 0)
        return 0;
    fault->fields[0] = "rebuild";
    return faulty(req, fault, 400,
                  "The field rebuild takes 1, true, yes, on, or 0, false, no, off.");
}

/* `token_later`: it need not be there. */
static int read_all(const wq_request_limits *limits, h2o_req_t *req, int token_later,
                    wq_params *out, int *rebuild, wq_request_fault *fault)
{
    wq_fields fields = {0};
    wq_params params;
    int no_token;

    *fault = (wq_request_fault){0};
    if (read_fields(limits, req, &fields, fault) != 0 ||
        read_authorization(req, &fields, fault) != 0 || check_dashes(req, &fields, fault) != 0 ||
        read_rebuild(req, &fields, rebuild, fault) != 0)
        return -1;
    no_token = token_later && is_missing(fields.api_token);
    if (no_token)
        fields.api_token = "later"; /* the rest is held against the rules now */
    if (check_present(req, &fields, fault) != 0)
        return -1;
    params = (wq_params){fields.server, fields.document_set_id, fields.api_token};
    if (check_params(req, &params, fault) != 0)
        return -1;
    if (!wq_allow_has(limits->allow, params.server))
        return faulty(req, fault, 403,
                      "The server named in the field server is not on the allow-list here.");
    *out = params;
    if (no_token)
        out->api_token = NULL;
    return 0;
}

int wq_request_read(const wq_request_limits *limits, h2o_req_t *req, wq_params *out, int *rebuild,
                    wq_request_fault *fault)
{
    return read_all(limits, req, 0, out, rebuild, fault);
}

static int answer(h2o_req_t *req, const wq_request_fault *fault)
{
    wq_problem(req, fault->status, "%s", fault->detail);
    return -1;
}

int wq_request_params(const wq_request_limits *limits, h2o_req_t *req, wq_params *out, int *rebuild)
{
    wq_request_fault fault;

    return read_all(limits, req, 0, out, rebuild, &fault) == 0 ? 0 : answer(req, &fault);
}

int wq_request_target(const wq_request_limits *limits, h2o_req_t *req, wq_params *out, int *rebuild)
{
    wq_request_fault fault;

    return read_all(limits, req, 1, out, rebuild, &fault) == 0 ? 0 : answer(req, &fault);
}

int wq_request_fields(const wq_request_limits *limits, h2o_req_t *req, wq_fields *out)
{
    wq_request_fault fault = {0};

    *out = (wq_fields){0};
    if (read_fields(limits, req, out, &fault) == 0)
        return 0;
    wq_problem(req, fault.status, "%s", fault.detail);
    return -1;
}

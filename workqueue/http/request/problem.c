/* problem.c - answers that are not streams: problem documents, small bodies, CORS, methods.
 *
 * What h2o 2.2.5 leaves to its user is done in one place, send_body(): h2o sets no Content-Length,
 * and writes the bytes it is given also after a 204 and, from a generator, after HEAD. A status
 * other than 200 without a length would close the connection.
 */
#include "workqueue/http/request/problem.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "workqueue/http/request/headers.h"

static const struct {
    int status;
    const char *reason;
} REASONS[] = {
    {200, "OK"},
    {201, "Created"},
    {202, "Accepted"},
    {204, "No Content"},
    {206, "Partial Content"},
    {302, "Found"},
    {303, "See Other"},
    {304, "Not Modified"},
    {307, "Temporary Redirect"},
    {308, "Permanent Redirect"},
    {400, "Bad Request"},
    {401, "Unauthorized"},
    {403, "Forbidden"},
    {404, "Not Found"},
    {405, "Method Not Allowed"},
    {406, "Not Acceptable"},
    {408, "Request Timeout"},
    {409, "Conflict"},
    {410, "Gone"},
    {412, "Precondition Failed"},
    {413, "Content Too Large"},
    {415, "Unsupported Media Type"},
    {416, "Range Not Satisfiable"},
    {417, "Expectation Failed"},
    {422, "Unprocessable Content"},
    {426, "Upgrade Required"},
    {429, "Too Many Requests"},
    {500, "Internal Server Error"},
    {501, "Not Implemented"},
    {502, "Bad Gateway"},
    {503, "Service Unavailable"},
    {504, "Gateway Timeout"},
};

const char *wq_reason(int status)
{
    for (size_t i = 0; i < sizeof(REASONS) / sizeof(REASONS[0]); i++)
        if (REASONS[i].status == status)
            return REASONS[i].reason;
    return "Other";
}

static int is_method(const h2o_req_t *req, const char *method)
{
    return h2o_memis(req->input.method.base, req->input.method.len, method, strlen(method));
}

/* ---- sending -------------------------------------------------------------------------------- */

static const char RESOURCE_POLICY[] = "cross-origin-resource-policy";

static int is_own_origin_only(const h2o_req_t *req)
{
    return h2o_find_header_by_str(&req->res.headers, RESOURCE_POLICY, sizeof RESOURCE_POLICY - 1,
                                  -1) != -1;
}

void wq_own_origin_only(h2o_req_t *req)
{
    if (!is_own_origin_only(req))
        h2o_add_header_by_str(&req->pool, &req->res.headers, RESOURCE_POLICY,
                              sizeof RESOURCE_POLICY - 1, 0, NULL, H2O_STRLIT("same-origin"));
}

void wq_cors(h2o_req_t *req)
{
    h2o_headers_t *headers = &req->res.headers;

    /* Twice would make browsers refuse the answer. */
    if (h2o_find_header(headers, H2O_TOKEN_ACCESS_CONTROL_ALLOW_ORIGIN, -1) != -1 ||
        is_own_origin_only(req))
        return;
    h2o_add_header(&req->pool, headers, H2O_TOKEN_ACCESS_CONTROL_ALLOW_ORIGIN, NULL,
                   H2O_STRLIT("*"));
    h2o_add_header_by_str(&req->pool, headers, H2O_STRLIT("access-control-expose-headers"), 0, NULL,
                          H2O_STRLIT("Location, Retry-After, ETag, Age, Preference-Applied, "
                                     "X-Workqueue, X-Workqueue-Job, Content-Range, Accept-Ranges"));
}

/* h2o asserts on some that are no status, and 1xx is no answer. */
static int real_status(int status)
{
    return status >= 200 && status <= 599 ? status : 500;
}

/* Sends `body`, which lives in the pool or for ever. `req` is dead afterwards. */
static int send_body(h2o_req_t *req, int status, h2o_iovec_t body)
{
    static h2o_generator_t nothing_to_tell; /* zeroed, and h2o never writes to it */
    const int bodiless = status == 204 || status == 304;

    req->res.status = status;
    req->res.reason = wq_reason(status);
    req->res.content_length = bodiless ? SIZE_MAX : body.len;
    wq_cors(req);
    h2o_start_response(req, &nothing_to_tell);
    h2o_send(req, &body, bodiless || is_method(req, "HEAD") || body.len == 0 ? 0 : 1,
             H2O_SEND_STATE_FINAL);
    return 0;
}

int wq_send_bytes(h2o_req_t *req, int status, const char *content_type, const char *body,
                  size_t len)
{
    h2o_iovec_t copy = {NULL, 0};

    if (content_type != NULL) {
        h2o_iovec_t type = h2o_strdup(&req->pool, content_type, SIZE_MAX);
        h2o_set_header(&req->pool, &req->res.headers, H2O_TOKEN_CONTENT_TYPE, type.base, type.len,
                       1);
    }
    if (len > 0)
        copy = h2o_strdup(&req->pool, body, len);
    return send_body(req, real_status(status), copy);
}

int wq_http_send(h2o_req_t *req, int status, const char *content_type, const char *body,
                 size_t body_bytes)
{
    return wq_send_bytes(req, status, content_type, body, body_bytes);
}

/* ---- problem documents ---------------------------------------------------------------------- */

/* Takes one character of UTF-8; what is none is taken byte by byte as U+FFFD. */
static uint32_t take_utf8(const char **at)
{
    const unsigned char *s = (const unsigned char *)*at;
    const unsigned more = s[0] >= 0xf0 ? 3 : s[0] >= 0xe0 ? 2 : s[0] >= 0xc0 ? 1 : 0;
    static const uint32_t least[] = {0, 0x80, 0x800, 0x10000};
    uint32_t c = s[0] & (0x7fu >> (more > 0 ? more + 1 : 0));

    ++*at;
    if (s[0] >= 0x80 && more == 0)
        return 0xfffd;
    for (unsigned i = 1; i <= more; i++) {
        if ((s[i] & 0xc0) != 0x80) /* the final NUL is none either */
            return 0xfffd;
        c = c << 6 | (s[i] & 0x3f);
    }
    if (c < least[more] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
        return 0xfffd;
    *at += more;
    return c;
}

char *wq_put_escaped(char *out, const char *text)
{
    while (*text != '\0') {
        const uint32_t c = take_utf8(&text);

        if (c == '"' || c == '\\')
            out += sprintf(out, "\\%c", (char)c);
        else if (c >= 0x20 && c < 0x7f)
            *out++ = (char)c;
        else if (c < 0x10000)
            out += sprintf(out, "\\u%04x", c);
        else
            out += sprintf(out, "\\u%04x\\u%04x", 0xd800 + ((c - 0x10000) >> 10),
                           0xdc00 + ((c - 0x10000) & 0x3ff));
    }
    return out;
}

/* The lunkwill face has a shape of its own for errors, which its clients read, wherever it is
 * mounted. */
static int is_lunkwill(const h2o_req_t *req)
{
    static const char *const paths[] = {"/run", "/api/lunkwill"};

    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        const size_t n = strlen(paths[i]), len = req->pathconf->path.len;

        if (len >= n && memcmp(req->pathconf->path.base + len - n, paths[i], n) == 0)
            return 1;
    }
    return 0;
}

/* `message` is the first line of the detail; `exception` the status in words without blanks. */
static h2o_iovec_t make_lunkwill_error(h2o_req_t *req, int status, const char *detail)
{
    const char *reason = wq_reason(status);
    const h2o_iovec_t message = h2o_strdup(&req->pool, detail, strcspn(detail, "\r\n"));
    char *json = h2o_mem_alloc_pool(&req->pool, 160 + 2 * strlen(reason) + 12 * strlen(detail));
    char *at = json;

    at += sprintf(at, "{\"title\":\"%s\",\"message\":\"", reason);
    at = wq_put_escaped(at, message.base);
    at = wq_put_escaped(stpcpy(at, "\",\"detail\":\""), detail);
    at = stpcpy(at, "\",\"exception\":\"");
    for (const char *c = reason; *c != '\0'; c++)
        if (*c != ' ')
            *at++ = *c;
    at += sprintf(at, "\",\"status_code\":%d}\n", status);
    h2o_set_header(&req->pool, &req->res.headers, H2O_TOKEN_CONTENT_TYPE,
                   H2O_STRLIT("application/json"), 1);
    return h2o_iovec_init(json, (size_t)(at - json));
}

/* Makes the document in the pool and sets the headers that go with it. */
static h2o_iovec_t make_problem(h2o_req_t *req, int status, const char *detail)
{
    h2o_set_header(&req->pool, &req->res.headers, H2O_TOKEN_CACHE_CONTROL, H2O_STRLIT("no-store"),
                   1);
    if (is_lunkwill(req))
        return make_lunkwill_error(req, status, detail);

    const char *reason = wq_reason(status);
    char *json = h2o_mem_alloc_pool(&req->pool, 128 + strlen(reason) + 6 * strlen(detail));
    char *at = json;

    at += sprintf(at, "{\"type\":\"about:blank\",\"title\":\"%s\",\"status\":%d,\"detail\":\"",
                  reason, status);
    at = wq_put_escaped(at, detail);
    at += sprintf(at, "\"}\n");
    h2o_set_header(&req->pool, &req->res.headers, H2O_TOKEN_CONTENT_TYPE,
                   H2O_STRLIT("application/problem+json"), 1);
    return h2o_iovec_init(json, (size_t)(at - json));
}

static int send_problem(h2o_req_t *req, int status, const char *detail)
{
    status = real_status(status);
    return send_body(req, status, make_problem(req, status, detail));
}

h2o_iovec_t wq_problem_instead(h2o_req_t *req)
{
    const char *detail = req->res.status == 413   ? "The body is larger than is taken here."
                         : req->res.status == 417 ? "Only \"Expect: 100-continue\" is understood."
                         : req->res.status == 404 ? "There is nothing at this path."
                                                  : "The request cannot be understood.";
    h2o_iovec_t body = make_problem(req, req->res.status, detail);
    req->res.content_length = body.len;
    wq_cors(req);
    return is_method(req, "HEAD") ? h2o_iovec_init(NULL, 0) : body;
}

int wq_problem(h2o_req_t *req, int status, const char *format, ...)
{
    char detail[1024];
    va_list args;

    va_start(args, format);
    vsnprintf(detail, sizeof(detail), format, args);
    va_end(args);
    return send_problem(req, status, detail);
}

int wq_http_problem(h2o_req_t *req, int status, const char *detail)
{
    return send_problem(req, status, detail);
}

int wq_is_for_later(int result)
{
    return result == WQ_ERROR_FULL || result == WQ_ERROR_USER_FULL || result == WQ_ERROR_CLOSING ||
           result == WQ_ERROR_AWAY;
}

int wq_problem_result(h2o_req_t *req, int result, const wq_error *error, unsigned retry_after_s)
{
    const char *detail = error != NULL ? error->message : wq_strerror(result);

    if (wq_is_for_later(result)) {
        char *seconds = h2o_mem_alloc_pool(&req->pool, 16);
        const int n =
            snprintf(seconds, 16, "%u", result == WQ_ERROR_CLOSING ? WQ_RESTART_S : retry_after_s);

        h2o_set_header(&req->pool, &req->res.headers, H2O_TOKEN_RETRY_AFTER, seconds, (size_t)n, 1);
        return send_problem(req, result == WQ_ERROR_USER_FULL ? 429 : 503, detail);
    }
    return send_problem(req, result == WQ_ERROR_INVALID_ARGUMENT ? 400 : 500, detail);
}

/* ---- methods -------------------------------------------------------------------------------- */

static void add_allow(h2o_req_t *req, const char *allow)
{
    const h2o_iovec_t copy = h2o_strdup(&req->pool, allow, SIZE_MAX);

    h2o_set_header(&req->pool, &req->res.headers, H2O_TOKEN_ALLOW, copy.base, copy.len, 1);
}

static void preflight(h2o_req_t *req, const char *allow)
{
    h2o_headers_t *headers = &req->res.headers;

    const h2o_iovec_t asked = wq_request_header_list(req, "access-control-request-headers");
    add_allow(req, allow);
    if (is_own_origin_only(req)) {
        send_body(req, 204, (h2o_iovec_t){NULL, 0});
        return;
    }
    h2o_add_header_by_str(&req->pool, headers, H2O_STRLIT("access-control-allow-methods"), 0, NULL,
                          H2O_STRLIT("GET, POST, DELETE, OPTIONS"));
    /* Whatever a page's scripts add to its requests: those that trace have headers of their own. */
    if (asked.len > 0)
        h2o_add_header_by_str(&req->pool, headers, H2O_STRLIT("access-control-allow-headers"), 0,
                              NULL, asked.base, asked.len);
    h2o_set_header(&req->pool, headers, H2O_TOKEN_VARY,
                   H2O_STRLIT("Access-Control-Request-Headers"), 1);
    h2o_add_header_by_str(&req->pool, headers, H2O_STRLIT("access-control-max-age"), 0, NULL,
                          H2O_STRLIT("86400"));
    send_body(req, 204, (h2o_iovec_t){NULL, 0});
}

/* Whether the method is one of "GET, HEAD, OPTIONS". Methods are case-sensitive. */
static int is_allowed(h2o_iovec_t method, const char *allow)
{
    while (*allow != '\0') {
        const size_t n = strcspn(allow, ", ");

        if (n == method.len && n > 0 && memcmp(allow, method.base, n) == 0)
            return 1;
        allow += n;
        allow += strspn(allow, ", ");
    }
    return 0;
}

int wq_method(h2o_req_t *req, const char *allow)
{
    if (is_method(req, "OPTIONS")) {
        preflight(req, allow);
        return 1;
    }
    if (is_allowed(req->input.method, allow))
        return 0;
    add_allow(req, allow);
    wq_problem(req, 405, "The method %.*s is not for this path; it takes %s.",
               (int)(req->input.method.len < 32 ? req->input.method.len : 32),
               req->input.method.base, allow);
    return 1;
}

int wq_http_method(h2o_req_t *req, const char *allow)
{
    return wq_method(req, allow);
}

/* conditions.c - see conditions.h. */
#include "workqueue/http/faces/conditions.h"

#include <string.h>
#include <time.h>

#include "workqueue/http/request/request.h"

/* ---- tags and dates -------------------------------------------------------------------------- */

static const char *after_commas(const char *at, const char *end)
{
    while (at < end && (*at == ' ' || *at == '\t' || *at == ','))
        at++;
    return at;
}

/* Is our tag in one header's list? Its tags may be weak; `*` stands alone. What is no list of tags
 * has none from there on. */
static int lists_tag(h2o_iovec_t list, const char *etag, int weak_too)
{
    const char *end = list.base + list.len, *at = after_commas(list.base, end), *close_quote;
    if (at < end && *at == '*')
        return after_commas(at + 1, end) == end;
    for (; at < end; at = after_commas(close_quote + 1, end)) {
        int weak = end - at > 2 && at[0] == 'W' && at[1] == '/';
        at += weak ? 2 : 0;
        if (*at != '"' || (close_quote = memchr(at + 1, '"', (size_t)(end - at - 1))) == NULL)
            return 0;
        size_t n = (size_t)(close_quote + 1 - at);
        if ((!weak || weak_too) && h2o_memis(at, n, etag, strlen(etag)))
            return 1;
    }
    return 0;
}

/* 1: the header has it; 0: it has not; -1: there is no such header. */
static int has_tag(h2o_req_t *req, const h2o_token_t *name, const wq_output_version *v,
                   int weak_too)
{
    int has = -1;
    for (ssize_t i = -1; has != 1 && (i = h2o_find_header(&req->headers, name, i)) != -1;)
        has = lists_tag(req->headers.entries[i].value, v->etag, weak_too);
    return has;
}

/* 1: the output has been modified since the header's date; 0: it has not; -1: there is no date. */
static int modified_since(h2o_req_t *req, const h2o_token_t *name, const wq_output_version *v)
{
    struct tm tm = {0};
    ssize_t i = h2o_find_header(&req->headers, name, -1);
    if (i == -1)
        return -1;
    h2o_iovec_t value = req->headers.entries[i].value;
    if (h2o_time_parse_rfc1123(value.base, value.len, &tm) != 0)
        return -1;
    return v->modified_text == NULL || v->modified > timegm(&tm);
}

/* 200, 304 or 412. */
static int check_preconditions(h2o_req_t *req, const wq_output_version *v)
{
    int has = has_tag(req, H2O_TOKEN_IF_MATCH, v, 0);
    if (has == 0 || (has < 0 && modified_since(req, H2O_TOKEN_IF_UNMODIFIED_SINCE, v) == 1))
        return 412;
    has = has_tag(req, H2O_TOKEN_IF_NONE_MATCH, v, 1);
    if (has == 1 || (has < 0 && modified_since(req, H2O_TOKEN_IF_MODIFIED_SINCE, v) == 0))
        return 304;
    return 200;
}

/* ---- ranges ---------------------------------------------------------------------------------- */

/* 0, or -1 if there is no number; one too large for any file stays too large. */
static int read_number(const char **at, const char *end, uint64_t *out)
{
    const char *begin = *at;
    for (*out = 0; *at < end && **at >= '0' && **at <= '9'; ++*at)
        *out = *out > UINT64_MAX / 10 - 1 ? *out : *out * 10 + (uint64_t)(**at - '0');
    return *at > begin ? 0 : -1;
}

/* "bytes=FIRST-LAST", "bytes=FIRST-" or "bytes=-LENGTH": one range. The status it leads to; 200
 * also if it cannot be understood, or asks for several. */
static int read_range(h2o_iovec_t value, uint64_t size, wq_part *part)
{
    const char *at = value.base, *end = at + value.len;
    uint64_t first = 0, last = UINT64_MAX;
    if (value.len < 6 || !h2o_lcstris(at, 6, H2O_STRLIT("bytes=")))
        return 200;
    at += 6;
    int has_first = read_number(&at, end, &first) == 0;
    if (at == end || *at++ != '-')
        return 200;
    int has_last = read_number(&at, end, &last) == 0;
    if (!has_last)
        last = UINT64_MAX;
    if (at != end || (!has_first && !has_last) || (has_first && first > last))
        return 200;
    if (!has_first) { /* so many at the end */
        first = last < size ? size - last : 0;
        first = last > 0 ? first : size;
        last = UINT64_MAX;
    }
    if (first >= size)
        return 416;
    part->at = first;
    part->bytes = (last < size ? last + 1 : size) - first;
    return 206;
}

/* May a part be sent? Not if the client has the rest of another version. */
static int same_version(h2o_req_t *req, const wq_output_version *v)
{
    h2o_iovec_t value = wq_request_header(req, "if-range");
    return value.base == NULL || h2o_memis(value.base, value.len, v->etag, strlen(v->etag)) ||
           (v->modified_text != NULL &&
            h2o_memis(value.base, value.len, v->modified_text, strlen(v->modified_text)));
}

int wq_check_conditions(h2o_req_t *req, const wq_output_version *version, wq_part *part)
{
    h2o_iovec_t range = wq_request_header(req, "range");
    int get = h2o_memis(req->method.base, req->method.len, H2O_STRLIT("GET"));
    int head = h2o_memis(req->method.base, req->method.len, H2O_STRLIT("HEAD"));
    int status = get || head ? check_preconditions(req, version) : 200;
    *part = (wq_part){0, version->size_bytes};
    if (status != 200 || !get || range.base == NULL || !same_version(req, version))
        return status;
    return read_range(range, version->size_bytes, part);
}

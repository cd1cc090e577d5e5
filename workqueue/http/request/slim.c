/* slim.c - see slim.h.
 *
 * libh2o keeps head and body in the connection's buffer until the answer is out, and takes that
 * many bytes off it then. So the buffer stays as long as it is, but its pages go back to the
 * kernel, but for the first and the last one of the request, which others may share. */
#include "workqueue/http/request/slim.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    PATH_BYTES = 1024,   /* of path and query */
    HEADER_BYTES = 4096, /* of all headers that are kept, with their names */
    TOKEN_BYTES = 6144,  /* of Authorization, and a WebSocket's subprotocol, besides */
    LARGE_HEAD = 6144,   /* that is worth a pool of its own */
    MAX_HEADERS = 128,
    SMALL_BYTES = 256, /* of one that nothing here depends on */
};

/* What the connection has received of this request. */
typedef struct region {
    char *from, *to;
} region;

static int is_inside(const region *r, const char *at)
{
    return at >= r->from && at < r->to;
}

static void keep_text(h2o_req_t *req, const region *r, h2o_iovec_t *text)
{
    if (is_inside(r, text->base))
        *text = h2o_strdup(&req->pool, text->base, text->len);
}

/* ---- headers --------------------------------------------------------------------------------- */

/* What answers depend on that come later: If-Range stands in front of Range, see keep_headers(). */
static const char *const needed[] = {
    "if-range",
    "range",
    "content-type",
    "x-lunkwill",
    "last-event-id",
    "accept",
    "prefer",
    "content-encoding",
    "if-match",
    "if-none-match",
    "if-modified-since",
    "if-unmodified-since",
    "x-forwarded-prefix",
    "x-forwarded-for",
    "forwarded",
    "connection",
    "accept-encoding",
    "user-agent",
    "referer",
};
enum { NEEDED = sizeof needed / sizeof needed[0] };

static int rank_of(const h2o_header_t *header)
{
    for (int i = 0; i < NEEDED; i++)
        if (h2o_memis(header->name->base, header->name->len, needed[i], strlen(needed[i])))
            return i;
    return NEEDED;
}

/* Which of the headers are kept: those of the least rank first. A Range without its If-Range would
 * be another question. */
static void choose_headers(const h2o_headers_t *headers, unsigned char keeps[MAX_HEADERS])
{
    unsigned char ranks[MAX_HEADERS];
    size_t left = HEADER_BYTES;
    int lost_if_range = 0;
    for (size_t i = 0; i < headers->size; i++)
        ranks[i] = (unsigned char)rank_of(&headers->entries[i]);
    for (int rank = 0; rank <= NEEDED; rank++) {
        for (size_t i = 0; i < headers->size; i++) {
            if (ranks[i] != rank)
                continue;
            const h2o_header_t *header = &headers->entries[i];
            const size_t bytes = header->name->len + header->value.len;
            if ((rank == NEEDED && bytes > SMALL_BYTES) || (rank == 1 && lost_if_range))
                continue;
            keeps[i] = bytes <= left;
            left -= keeps[i] ? bytes : 0;
            lost_if_range |= rank == 0 && !keeps[i];
        }
    }
}

static void copy_header(h2o_req_t *req, const region *r, h2o_header_t *header)
{
    if (is_inside(r, header->name->base))
        *header->name = h2o_strdup(&req->pool, header->name->base, header->name->len);
    if (is_inside(r, header->orig_name))
        header->orig_name = NULL;
    keep_text(req, r, &header->value);
}

/* In their order. */
static void keep_headers(h2o_req_t *req, const region *r)
{
    h2o_headers_t *headers = &req->headers;
    unsigned char keeps[MAX_HEADERS] = {0};
    size_t n = 0;
    if (headers->size > MAX_HEADERS)
        headers->size = MAX_HEADERS;
    choose_headers(headers, keeps);
    for (size_t i = 0; i < headers->size; i++)
        if (keeps[i]) {
            headers->entries[n] = headers->entries[i];
            copy_header(req, r, &headers->entries[n++]);
        }
    headers->size = n;
}

/* ---- the rest -------------------------------------------------------------------------------- */

static void keep_path(h2o_req_t *req, const region *r)
{
    if (req->path.len > PATH_BYTES) {
        req->path.len = req->query_at;
        req->query_at = SIZE_MAX;
    }
    keep_text(req, r, &req->path);
    keep_text(req, r, &req->path_normalized);
    req->input.path = req->path;
    req->input.query_at = req->query_at;
}

static void forget_authority(const region *r, h2o_iovec_t *authority)
{
    if (is_inside(r, authority->base))
        *authority = h2o_iovec_init(H2O_STRLIT(""));
}

/* Only pages that are the region's alone. */
static void give_back(const region *r)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    const uintptr_t from = ((uintptr_t)r->from + page - 1) / page * page;
    const uintptr_t to = (uintptr_t)r->to / page * page;
    if (from < to)
        madvise((void *)from, to - from, MADV_DONTNEED); /* NOLINT(performance-no-int-to-ptr) */
}

/* From the first byte to the last that the request is seen to have: what is behind may be the next
 * one. 0, or -1: the request is not in the connection's buffer. */
static int find_region(h2o_req_t *req, region *r)
{
    const h2o_buffer_t *input = req->conn->callbacks->get_socket(req->conn)->input;
    const region all = {input->bytes, input->bytes + input->size};
    *r = (region){input->bytes, input->bytes};
    if (is_inside(&all, req->input.path.base))
        r->to = req->input.path.base + req->input.path.len;
    for (size_t i = 0; i < req->headers.size; i++) {
        const h2o_iovec_t *value = &req->headers.entries[i].value;
        if (is_inside(&all, value->base) && value->base + value->len > r->to)
            r->to = value->base + value->len;
    }
    if (is_inside(&all, req->entity.base))
        r->to = req->entity.base + req->entity.len;
    return r->to > r->from ? 0 : -1;
}

void wq_request_slim(h2o_req_t *req)
{
    region r;
    const size_t path = req->query_at < req->path.len ? req->query_at : req->path.len;
    if (req->version >= 0x200 || path > PATH_BYTES || find_region(req, &r) != 0)
        return;
    keep_text(req, &r, &req->method);
    req->input.method = req->method;
    keep_path(req, &r);
    keep_headers(req, &r);
    forget_authority(&r, &req->authority);
    forget_authority(&r, &req->input.authority);
    if (is_inside(&r, req->upgrade.base))
        req->upgrade = h2o_iovec_init(NULL, 0);
    if (is_inside(&r, req->entity.base))
        req->entity = h2o_iovec_init(NULL, 0);
    give_back(&r);
}

/* ---- a head that libh2o has copied ----------------------------------------------------------- */

static size_t bytes_of_head(const h2o_req_t *req)
{
    size_t bytes = req->input.path.len + req->input.authority.len;
    for (size_t i = 0; i < req->headers.size; i++)
        bytes += req->headers.entries[i].name->len + req->headers.entries[i].value.len;
    return bytes;
}

/* Nobody but libh2o's parser has had to do with it. */
static int is_fresh(const h2o_req_t *req)
{
    return req->prefilters == NULL && req->filereq == NULL && req->overrides == NULL &&
           req->env.size == 0 && req->error_logs.size == 0 && req->num_reprocessed == 0 &&
           req->num_delegated == 0 && req->res.headers.size == 0;
}

/* Tokens may be longer than all else together. */
static int is_token(const h2o_header_t *header)
{
    return header->name == &H2O_TOKEN_AUTHORIZATION->buf && header->value.len <= TOKEN_BYTES;
}

static void take_headers(h2o_req_t *req)
{
    const h2o_headers_t all = req->headers;
    unsigned char keeps[MAX_HEADERS] = {0};
    size_t n = 0;
    choose_headers(&all, keeps);
    for (size_t i = 0; i < all.size; i++)
        n += keeps[i] |= (unsigned char)is_token(&all.entries[i]);
    req->headers = (h2o_headers_t){NULL, 0, 0};
    h2o_vector_reserve(&req->pool, &req->headers, n);
    for (size_t i = 0; i < all.size; i++) {
        if (!keeps[i])
            continue;
        h2o_header_t *header = &req->headers.entries[req->headers.size++];
        *header = all.entries[i];
        header->orig_name = NULL;
        header->value = h2o_strdup(&req->pool, header->value.base, header->value.len);
        if (h2o_iovec_is_token(header->name))
            continue;
        header->name = h2o_mem_alloc_pool(&req->pool, sizeof *header->name);
        *header->name = h2o_strdup(&req->pool, all.entries[i].name->base, all.entries[i].name->len);
    }
}

/* A long query is not copied again: it stands where the request has arrived. */
static void take_path(h2o_req_t *req)
{
    const h2o_buffer_t *input = req->conn->callbacks->get_socket(req->conn)->input;
    size_t at = 0;
    while (at < input->size && (input->bytes[at] == '\r' || input->bytes[at] == '\n'))
        at++;
    at += req->input.method.len + 1;
    if (at < input->size && input->size - at >= req->path.len &&
        memcmp(input->bytes + at, req->path.base, req->path.len) == 0)
        req->path.base = input->bytes + at;
    else
        req->path = h2o_strdup(&req->pool, req->path.base, req->path.len);
    req->input.path = req->path;
}

static void take_text(h2o_req_t *req, h2o_iovec_t *text)
{
    *text = h2o_strdup(&req->pool, text->base, text->len);
}

void wq_request_slim_head(h2o_req_t *req)
{
    if (req->entity.base == NULL || req->version >= 0x200 || req->headers.size > MAX_HEADERS ||
        !is_fresh(req) || bytes_of_head(req) < LARGE_HEAD)
        return;
    h2o_mem_pool_t old = req->pool;
    h2o_mem_init_pool(&req->pool);
    h2o_get_timestamp(req->conn->ctx, &req->pool, &req->processed_at);
    take_path(req);
    take_text(req, &req->method);
    take_text(req, &req->path_normalized);
    if (req->authority.len > PATH_BYTES)
        req->authority.len = 0;
    take_text(req, &req->authority);
    req->input.method = req->method;
    req->input.authority = req->authority;
    req->norm_indexes = NULL;
    req->upgrade = h2o_iovec_init(NULL, 0);
    take_headers(req);
    h2o_mem_clear_pool(&old);
}

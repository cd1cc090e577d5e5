/* headers.c - see headers.h. */
#include "workqueue/http/request/headers.h"

#include <string.h>

enum { MAX_LINES = 32, MAX_BYTES = 1024 }; /* of a list in several lines; the last ones count */

h2o_iovec_t wq_request_header(h2o_req_t *req, const char *name)
{
    const size_t len = strlen(name);
    const h2o_token_t *token = h2o_lookup_token(name, len);
    ssize_t i;

    i = token != NULL ? h2o_find_header(&req->headers, token, -1)
                      : h2o_find_header_by_str(&req->headers, name, len, -1);
    return i == -1 ? h2o_iovec_init(NULL, 0) : req->headers.entries[i].value;
}

h2o_iovec_t wq_request_header_list(h2o_req_t *req, const char *name)
{
    const size_t len = strlen(name);
    h2o_iovec_t all = {NULL, 0}, parts[2 * MAX_LINES];
    size_t n = 2 * MAX_LINES, bytes = 0;

    for (size_t i = req->headers.size; i-- > 0;) {
        const h2o_header_t *header = &req->headers.entries[i];

        if (!h2o_memis(header->name->base, header->name->len, name, len))
            continue;
        if (all.base != NULL && (n < 2 || bytes + header->value.len > MAX_BYTES))
            break;
        all = header->value;
        bytes += all.len + 2;
        parts[--n] = h2o_iovec_init(H2O_STRLIT(", "));
        parts[--n] = all;
    }
    if (n + 2 >= 2 * MAX_LINES) /* one line is as good as it is */
        return all;
    return h2o_concat_list(&req->pool, parts + n, 2 * MAX_LINES - n - 1);
}

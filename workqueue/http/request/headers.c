/* headers.c - see headers.h. */
#include "workqueue/http/request/headers.h"

#include <string.h>

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
    h2o_iovec_t all = {NULL, 0};

    for (size_t i = 0; i < req->headers.size; i++) {
        const h2o_header_t *header = &req->headers.entries[i];

        if (!h2o_memis(header->name->base, header->name->len, name, len))
            continue;
        all = all.base == NULL
                  ? header->value
                  : h2o_concat(&req->pool, all, h2o_iovec_init(H2O_STRLIT(", ")), header->value);
    }
    return all;
}

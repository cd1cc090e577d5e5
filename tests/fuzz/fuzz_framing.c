/* fuzz_framing.c - libFuzzer on the guard of framing: where a request ends must not depend on the
 * pieces in which it comes, and what is taken must be one request for whoever reads strictly. The
 * first byte is the size of the pieces. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "workqueue/http/server/framing.h"

typedef struct end {
    wq_framing_result head, body;
    size_t head_bytes, used;
    int status;
} end;

/* The request as it comes in pieces of that size, in memory of exactly its size at each of them. */
static end read_in_pieces(const uint8_t *data, size_t size, size_t piece)
{
    wq_framing f = {0};
    end e = {.head = WQ_FRAMING_MORE, .body = WQ_FRAMING_MORE};
    size_t have = 0, used;
    char *request = NULL;
    while (e.head == WQ_FRAMING_MORE && have < size) {
        size_t more = size - have < piece ? size - have : piece;
        request = realloc(request, have + more);
        assert(request != NULL);
        memcpy(request + have, data + have, more);
        have += more;
        e.head = wq_framing_head(&f, request, have);
    }
    e.status = f.status;
    e.head_bytes = f.head_bytes;
    if (e.head == WQ_FRAMING_DONE) {
        size_t method = 0, origin = wq_framing_origin(request, have, &method);
        assert(origin + method < have);
        assert(origin == 0 || request[method + origin] == '/');
        assert(f.head_bytes > 0 && f.head_bytes <= have && f.head_bytes <= WQ_MAX_HEAD_BYTES);
        assert(request[f.head_bytes - 1] == '\n');
        assert(!f.is_chunked || f.body_bytes == 0);
    }
    free(request);
    if (e.head != WQ_FRAMING_DONE || !f.is_chunked)
        return e;
    for (size_t at = f.head_bytes; at < size && e.body == WQ_FRAMING_MORE; at += used) {
        size_t more = size - at < piece ? size - at : piece;
        char *exact = malloc(more);
        assert(exact != NULL);
        memcpy(exact, data + at, more);
        e.body = wq_framing_chunks(&f, exact, more, &used);
        assert(used <= more && (used == more || e.body != WQ_FRAMING_MORE));
        e.used += used;
        free(exact);
    }
    e.status = f.status;
    return e;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    const end whole = read_in_pieces(data + 1, size - 1, size);
    const end pieces = read_in_pieces(data + 1, size - 1, (size_t)data[0] % 40 + 1);
    /* a head that is too long is told as soon as it is seen, wherever its end may be */
    assert(whole.head == pieces.head && whole.body == pieces.body);
    assert(whole.head != WQ_FRAMING_DONE || whole.head_bytes == pieces.head_bytes);
    assert(whole.body != WQ_FRAMING_DONE || whole.used == pieces.used);
    assert(whole.head != WQ_FRAMING_REFUSED || whole.status == 400 || whole.status == 431);
    return 0;
}

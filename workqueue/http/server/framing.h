/* framing.h - where an HTTP/1 request ends, by RFC 9112, strictly: what another server might read
 * otherwise is refused, so that no request can hide in another one's body.
 *
 * It looks at the bytes as they come, before libh2o does, which takes more than this and keeps to
 * itself what it has seen. No libh2o here, no I/O: a small state machine, for one request. */
#ifndef WQ_HTTP_SERVER_FRAMING_H
#define WQ_HTTP_SERVER_FRAMING_H

#include <stddef.h>
#include <stdint.h>

enum {
    WQ_MAX_HEAD_BYTES = 32768, /* request line and headers; more gets 431 */
    WQ_MAX_HEADERS = 100,      /* what libh2o can take */
};

/* All zero before a request. */
typedef struct wq_framing {
    /* once the head is complete */
    size_t head_bytes;
    uint64_t body_bytes; /* by Content-Length */
    int is_chunked;
    /* if it is refused */
    int status; /* 400 or 431 */
    const char *why;
    /* private */
    size_t looked_at, line_at;
    int state;
    uint64_t left;
    size_t overhead; /* bytes of chunk lines and trailers */
} wq_framing;

typedef enum wq_framing_result {
    WQ_FRAMING_MORE,
    WQ_FRAMING_DONE,
    WQ_FRAMING_REFUSED
} wq_framing_result;

/* The request from its start, as far as it has come: is its head complete? Blanks behind a header's
 * value are moved in front of it, where they mean nothing to libh2o either. */
wq_framing_result wq_framing_head(wq_framing *framing, char *request, size_t size);

/* The next bytes of a chunked body: is it complete? `*used` is how many of them belong to it. */
wq_framing_result wq_framing_chunks(wq_framing *framing, const char *data, size_t size,
                                    size_t *used);

/* If the target is in absolute form (RFC 9112, 3.2.2), of http or https: how many bytes stand
 * between the method with its blank and the path, which begins with a slash by then. Else 0. */
size_t wq_framing_origin(char *request, size_t size, size_t *method_bytes);

#endif

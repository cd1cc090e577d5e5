/* client.h - what the two load clients share: time, a socket, and an HTTP/1.1 response as it comes.
 */
#ifndef BENCH_CLIENT_H
#define BENCH_CLIENT_H

#include <stddef.h>
#include <stdint.h>

/** CLOCK_MONOTONIC in nanoseconds; ticker.c writes the same clock. */
int64_t now_ns(void);

/** Opens a connection to 127.0.0.1:port: blocking while it connects, non-blocking afterwards. */
int dial(int port);

/** Writes a whole request, which fits a socket buffer. 0, or -1 if the other side is gone. */
int send_all(int fd, const char *bytes, size_t n);

/** Sorts `values` and returns the one below which `share` (0 to 1) of them are; 0 if n is 0. */
double percentile(double *values, size_t n, double share);

/** Puts `number` in the place of "{}" in `pattern`, and a whole POST request around it, in `out`; a
 * GET request if `pattern` is NULL.
 */
size_t render_request(char *out, size_t size, const char *path, const char *pattern, long number);

/* ---- a response, fed as it arrives -------------------------------------------------------------
 */

enum reply_stage {
    REPLY_STATUS,     /* in the status line */
    REPLY_HEADER,     /* in a header line */
    REPLY_LENGTH,     /* in a body of known length */
    REPLY_CLOSE,      /* in a body that ends with the connection */
    REPLY_CHUNK_SIZE, /* in the line that opens a chunk */
    REPLY_CHUNK,      /* in the bytes of a chunk */
    REPLY_CHUNK_END,  /* in the line end after them */
    REPLY_TRAILER,    /* after the last chunk */
    REPLY_ENDED,      /* whole */
    REPLY_BAD         /* cut off, or not HTTP */
};

struct reply {
    enum reply_stage stage;
    int status;
    int chunked;
    int keep_alive;  /* the connection may be used again */
    uint64_t left;   /* bytes missing of the body or chunk */
    size_t line_len; /* bytes held of the line under way; longer lines are cut */
    size_t tail_len;
    char line[120];
    char tail[120]; /* the end of the body so far */
};

/** Hands over body bytes. */
typedef void (*reply_body)(void *user, const char *bytes, size_t n);

void reply_init(struct reply *r);

/** Takes what arrived; `body` may be NULL. Bytes after the response's end make it REPLY_BAD. */
void reply_feed(struct reply *r, const char *bytes, size_t n, reply_body body, void *user);

/** The other side has closed. */
void reply_eof(struct reply *r);

/** Nonzero if `text` is somewhere in the end of the body that is kept. */
int reply_tail_has(const struct reply *r, const char *text);

/** Nonzero if the body's last byte, line ends aside, is `c`. */
int reply_ends_with(const struct reply *r, char c);

#endif

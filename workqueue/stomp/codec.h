/* stomp.h - STOMP 1.2 frames from bytes and to bytes; no I/O, no trust in the other end. */
#ifndef WQ_STOMP_H
#define WQ_STOMP_H

#include <stddef.h>
#include <stdint.h>

/* One header, its value as it is meant: nothing is escaped here. */
typedef struct wq_stomp_header {
    const char *name, *value;
} wq_stomp_header;

typedef struct wq_stomp_frame {
    const char *command;
    const wq_stomp_header *headers; /* as they came; of a repeated one the first is meant */
    size_t n_headers;
    const char *body; /* any bytes */
    size_t body_len;
    uint64_t dropped_bytes; /* of a body above the limit, which was cut to the limit */
} wq_stomp_frame;

/* What the other end may make us keep. */
typedef struct wq_stomp_limits {
    size_t line_bytes; /* of a command or a header, escaped */
    size_t headers;    /* of a frame */
    size_t body_bytes; /* what is beyond is dropped: a broker would send that message for ever */
} wq_stomp_limits;

typedef struct wq_stomp_parser {
    wq_stomp_limits limits;
    int state;
    const char *why;                  /* set once the input is refused */
    char *text;                       /* command and headers, decoded, each with a NUL */
    size_t text_len, text_size, line; /* line: where in text the present one begins */
    size_t *starts;                   /* of names and values in text, in pairs */
    wq_stomp_header *headers;
    size_t n_headers, headers_size;
    char *body;
    size_t body_len, body_size;
    int counted; /* there is a content-length */
    uint64_t left, dropped_bytes;
} wq_stomp_parser;

void wq_stomp_init(wq_stomp_parser *parser, const wq_stomp_limits *limits);
void wq_stomp_dispose(wq_stomp_parser *parser);

/* Takes bytes off `*data`, `*n` until a frame is whole: 1, and `*out` is valid until the next call.
 * 0: all were taken, more are needed. -1: this is not STOMP 1.2, parser->why is the end of a
 * sentence, and nothing more is taken: the connection is to be closed. */
int wq_stomp_next(wq_stomp_parser *parser, const char **data, size_t *n, wq_stomp_frame *out);

/* The first value of that name, or NULL. */
const char *wq_stomp_get(const wq_stomp_frame *frame, const char *name);

/* Writes `frame` to `*out`, from malloc, with a content-length if such a frame may have a body. 0,
 * or -1 and the end of a sentence in `*why`. */
int wq_stomp_write(char **out, size_t *len, const wq_stomp_frame *frame, const char **why);

#endif

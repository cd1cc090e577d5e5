/* fields.h - decoding of what requests carry; knows bytes and limits, neither h2o nor queues.
 *
 * Every decoder is strict about framing, lenient about order, and bounded: it writes only to memory
 * from the allocator it is given, and never more than the input's length and a little. */
#ifndef WQ_HTTP_REQUEST_FIELDS_H
#define WQ_HTTP_REQUEST_FIELDS_H

#include <stddef.h>

/* Allocates from the request's pool; never fails, never freed one by one. */
typedef struct wq_arena {
    void *(*alloc)(void *user, size_t size);
    void *user;
} wq_arena;

/* The fields that we look for; others are skipped. A value is NUL-terminated text without NUL
 * inside; NULL: not there. A field given twice keeps its first value. */
typedef struct wq_fields {
    const char *server;
    const char *document_set_id; /* documentSetId or document_set_id */
    const char *api_token;       /* apiToken or api_token */
    const char *rebuild;         /* build again: see wq_field_yes() */
} wq_fields;

/* Decoders return 0, or -1 and in *why, static or from the arena, what is malformed: part of a
 * sentence that never repeats the input. They fill in only fields that are still NULL, so call the
 * one with precedence first. In JSON a member given twice has its last value, and null is as good
 * as absent; parsing takes memory of its own, freed before the return: it may also fail with
 * WQ_FIELDS_NO_MEMORY. */
enum { WQ_FIELDS_NO_MEMORY = -2 };
int wq_fields_urlencoded(wq_fields *fields, wq_arena arena, const char *data, size_t len,
                         const char **why);
int wq_fields_json(wq_fields *fields, wq_arena arena, const char *data, size_t len,
                   const char **why);
int wq_fields_multipart(wq_fields *fields, wq_arena arena, const char *boundary,
                        size_t boundary_len, const char *data, size_t len, const char **why);

/* A yes or a no, in any case: 1, true, yes, on; 0, false, no, off, or nothing. 1 or 0; -1: neither.
 */
int wq_field_yes(const char *value);

/* One field of a query string by name, decoded; NULL if not there or malformed. */
const char *wq_query_field(wq_arena arena, const char *query, size_t len, const char *name);

/* Percent-encoded text, in which '+' is itself; NULL if malformed. */
const char *wq_percent_decoded(wq_arena arena, const char *data, size_t len);

/* The token of "Basic base64(token:anything)": its part before the first colon. NULL and *why if
 * the header is anything else. */
const char *wq_basic_token(wq_arena arena, const char *value, size_t len, const char **why);

/* ---- for the decoders ---- */

enum { WQ_FIELD_NAMES = 6 };
typedef struct wq_field_name {
    const char *name; /* as clients spell it */
    size_t offset;    /* in wq_fields */
} wq_field_name;
extern const wq_field_name wq_field_names[WQ_FIELD_NAMES];

/* Where the value of the i-th name goes. */
const char **wq_field_slot(wq_fields *fields, size_t i);

/* Say why; -1. */
int wq_malformed(const char **why, const char *sentence);
int wq_malformedf(wq_arena arena, const char **why, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

const char *wq_copy_text(wq_arena arena, const char *data, size_t len);

#endif

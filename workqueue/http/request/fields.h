/* fields.h - decoding of what requests carry; knows bytes and limits, neither h2o nor queues.
 *
 * Every decoder is strict about framing, lenient about order, and bounded: it writes only to memory
 * from the allocator it is given, and never more than the input's length and a little. */
#ifndef WQ_FIELDS_H
#define WQ_FIELDS_H

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
    const char *rebuild;         /* "1" or "true": build again */
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

/* One field of a query string by name, decoded; NULL if not there or malformed. */
const char *wq_query_field(wq_arena arena, const char *query, size_t len, const char *name);

/* Percent-encoded text, in which '+' is itself; NULL if malformed. */
const char *wq_percent_decoded(wq_arena arena, const char *data, size_t len);

/* The token of "Basic base64(token:anything)": its part before the first colon. NULL and *why if
 * the header is anything else. */
const char *wq_basic_token(wq_arena arena, const char *value, size_t len, const char **why);

/* Splits a Content-Type: writes the lower-case "type/subtype" to `type` and, if there is one, the
 * unquoted parameter `boundary`. 0 or -1 if malformed. */
int wq_content_type(wq_arena arena, const char *value, size_t len, const char **type,
                    const char **boundary);

/* Picks the media type of `offers` (n of them, lower-case, most wanted by us first) that an Accept
 * header likes best (RFC 9110: q, wildcards, specificity; a tie goes to the earlier offer). -1 if
 * it accepts none. Malformed elements are skipped; with none left, as with value NULL: 0. */
int wq_accept(const char *value, size_t len, const char *const *offers, size_t n);

#endif

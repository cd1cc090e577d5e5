/* media_types.h - media types and their parameters, as in Content-Type, Accept and
 * Content-Disposition. */
#ifndef WQ_HTTP_REQUEST_MEDIA_TYPES_H
#define WQ_HTTP_REQUEST_MEDIA_TYPES_H

#include "workqueue/http/request/fields.h"

typedef struct wq_param {
    const char *name, *value;
    size_t name_len, value_len;
    int quoted; /* value is what was between the quotes, its backslashes still there */
} wq_param;

/* Takes `; name=value`. 1 if there was one, 0 at the end, -1 if malformed. */
int wq_next_param(const char **at, const char *end, wq_param *out);

/* Splits a Content-Type: writes the lower-case "type/subtype" to `type` and, if there is one, the
 * unquoted parameter `boundary`. 0 or -1 if malformed. */
int wq_content_type(wq_arena arena, const char *value, size_t len, const char **type,
                    const char **boundary);

/* Picks the media type of `offers` (n of them, lower-case, most wanted by us first) that an Accept
 * header likes best (RFC 9110: q, wildcards, specificity; a tie goes to the earlier offer). -1 if
 * it accepts none. Malformed elements are skipped; with none left, as with value NULL: 0. */
int wq_accept(const char *value, size_t len, const char *const *offers, size_t n);

#endif

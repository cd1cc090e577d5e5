/* conditions.h - what a request asks of an output besides the output: conditions (RFC 9110, 13) and
 * a range (14). */
#ifndef WQ_HTTP_FACES_CONDITIONS_H
#define WQ_HTTP_FACES_CONDITIONS_H

#include <h2o.h>
#include <stdint.h>

/* The output, as it is told apart from what was there before or will be later. */
typedef struct wq_output_version {
    const char *etag; /* with its quotes */
    time_t modified;
    const char *modified_text; /* NULL while its second goes on, in which there may be another yet */
    uint64_t size_bytes;
} wq_output_version;

/* The bytes of it that are sent. */
typedef struct wq_part {
    uint64_t at, bytes;
} wq_part;

/* What the request leads to: 200, 206 and `*part`, 304, 412 or 416. Only a GET can ask for a part,
 * and only GET and HEAD for conditions that we know. */
int wq_check_conditions(h2o_req_t *req, const wq_output_version *version, wq_part *part);

#endif

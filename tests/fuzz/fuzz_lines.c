/* fuzz_lines.c - libFuzzer on what a program writes to stdout: lines, progress, the record that is
 * made of it, and the complaint about what is none. The first byte is the size of the pieces in which it comes. */
#include <assert.h>
#include <jansson.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <workqueue/workqueue.h>

#include "workqueue/core/progress.h"
#include "workqueue/util/lines.h"
#include "workqueue/util/text.h"

enum { MAX_LINE = 300 };

typedef struct sum {
    size_t n_lines, n_bytes;
    uint64_t hash;
} sum;

/* One that a client cannot read would break its stream. */
static void check_record(const wq_progress *progress)
{
    char json[16 * MAX_LINE + 512], small[64];
    json_error_t why;
    wq_text *text =
        progress->message ? wq_text_new(progress->message, progress->message_len) : NULL;
    const wq_snapshot snapshot = {.state = WQ_STATE_RUNNING,
                                  .fraction = progress->fraction,
                                  .message = text ? text->bytes : NULL};
    const size_t n = wq_snapshot_json(&snapshot, json, sizeof json);
    assert(n < sizeof json && strlen(json) == n);
    assert(wq_snapshot_json(&snapshot, small, sizeof small) == n && strlen(small) < sizeof small);
    for (const char *at = json; *at != '\0'; at++)
        assert(*at >= ' ' && *at <= '~');
    json_t *root = json_loads(json, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &why);
    assert(root != NULL && json_object_size(root) == 5);
    assert(text == NULL ||
           strcmp(json_string_value(json_object_get(root, "message")), text->bytes) == 0);
    json_decref(root);
    wq_text_unref(text);
}

static void on_line(void *user, const char *line, size_t len)
{
    sum *s = user;
    wq_progress progress;
    char complaint[WQ_COMPLAINT_BYTES];
    char *exact = malloc(len > 0 ? len : 1); /* not a byte more, for the sanitizer */
    assert(exact != NULL && len <= MAX_LINE);
    memcpy(exact, line, len);
    assert(memchr(exact, '\n', len) == NULL && memchr(exact, '\r', len) == NULL);
    if (wq_progress_parse(&progress, exact, len) == 0) {
        assert(isfinite(progress.fraction) && progress.fraction >= 0 && progress.fraction <= 1);
        check_record(&progress);
    } else {
        wq_progress_complain(complaint, exact, len);
        assert(strlen(complaint) < WQ_COMPLAINT_BYTES - 1);
        for (const char *at = complaint; *at != '\0'; at++)
            assert(*at >= ' ' && *at <= '~');
    }
    for (size_t i = 0; i < len; i++)
        s->hash = (s->hash ^ (unsigned char)line[i]) * 1099511628211u;
    s->n_lines++;
    s->n_bytes += len;
    free(exact);
}

static sum feed(const char *data, size_t size, size_t piece)
{
    sum s = {0};
    wq_lines lines;
    wq_lines_init(&lines, MAX_LINE);
    for (size_t at = 0; at < size; at += piece)
        assert(wq_lines_feed(&lines, data + at, size - at < piece ? size - at : piece, on_line,
                             &s) == 0);
    wq_lines_finish(&lines, on_line, &s);
    wq_lines_dispose(&lines);
    return s;
}

/* However it comes in, it is the same lines. */
__attribute__((no_sanitize("unsigned-integer-overflow"))) int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    const char *text = (const char *)data + 1;
    sum a = feed(text, size - 1, data[0] + 1u), b = feed(text, size - 1, size);
    assert(a.n_lines == b.n_lines && a.n_bytes == b.n_bytes && a.hash == b.hash);
    return 0;
}

/* fuzz_stomp.c - libFuzzer on the STOMP codec: the same frames wherever the input is cut, and what
 * was read can be written and read again. The first byte says where to cut.
 *
 * clang -fsanitize=fuzzer,address,undefined -I. tests/fuzz/fuzz_stomp.c workqueue/stomp/codec.c
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "workqueue/stomp/codec.h"

static const wq_stomp_limits limits = {.line_bytes = 64, .headers = 8, .body_bytes = 64};

/* What a whole input came to, so that two readings can be compared. */
typedef struct reading {
    uint64_t hash;
    size_t frames;
    int result;
} reading;

static void mix(reading *r, const char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        r->hash = (r->hash ^ (unsigned char)bytes[i]) * 0x100000001b3u;
    r->hash = (r->hash ^ n) * 0x100000001b3u;
}

static void mix_frame(reading *r, const wq_stomp_frame *frame)
{
    mix(r, frame->command, strlen(frame->command));
    for (size_t i = 0; i < frame->n_headers; i++) {
        mix(r, frame->headers[i].name, strlen(frame->headers[i].name));
        mix(r, frame->headers[i].value, strlen(frame->headers[i].value));
    }
    mix(r, frame->body, frame->body_len);
    r->hash += frame->dropped_bytes;
    r->frames++;
}

static void check_limits(const wq_stomp_frame *frame)
{
    assert(frame->n_headers <= limits.headers && frame->body_len <= limits.body_bytes);
    assert(frame->dropped_bytes == 0 || frame->body_len == limits.body_bytes);
    for (size_t i = 0; i < frame->n_headers; i++)
        assert(strlen(frame->headers[i].name) + strlen(frame->headers[i].value) < 64);
}

static void same(const wq_stomp_frame *a, const wq_stomp_frame *b)
{
    size_t n = 0;
    assert(strcmp(a->command, b->command) == 0 && a->body_len == b->body_len);
    assert(memcmp(a->body, b->body, a->body_len) == 0);
    for (size_t i = 0; i < b->n_headers; i++) {
        if (strcmp(b->headers[i].name, "content-length") == 0)
            continue;
        assert(n < a->n_headers && strcmp(a->headers[n].name, b->headers[i].name) == 0);
        assert(strcmp(a->headers[n++].value, b->headers[i].value) == 0);
    }
    assert(n == a->n_headers);
}

/* Reads what was written; escapes make lines longer, and a content-length is one header more. */
static void write_and_read(const wq_stomp_frame *frame)
{
    static const wq_stomp_limits wider = {.line_bytes = 200, .headers = 9, .body_bytes = 64};
    wq_stomp_header headers[8];
    wq_stomp_frame copy = *frame, again;
    wq_stomp_parser parser;
    char *bytes = NULL;
    const char *why, *at;
    size_t n, left;
    copy.headers = headers, copy.n_headers = 0;
    for (size_t i = 0; i < frame->n_headers; i++)
        if (strcmp(frame->headers[i].name, "content-length") != 0)
            headers[copy.n_headers++] = frame->headers[i];
    if (wq_stomp_write(&bytes, &n, &copy, &why) != 0) {
        assert(frame->body_len >
               0); /* a body where there should be none is all that can be wrong */
        return;
    }
    wq_stomp_init(&parser, &wider);
    at = bytes, left = n;
    assert(wq_stomp_next(&parser, &at, &left, &again) == 1 && left == 0);
    same(&copy, &again);
    wq_stomp_dispose(&parser);
    free(bytes);
}

static int feed(wq_stomp_parser *parser, reading *r, const char *bytes, size_t n, int rewrite)
{
    char *block = malloc(n + (n == 0)); /* not a byte more, for the sanitizer */
    const char *at = block;
    wq_stomp_frame frame;
    assert(block != NULL);
    if (n > 0)
        memcpy(block, bytes, n);
    while ((r->result = wq_stomp_next(parser, &at, &n, &frame)) == 1) {
        check_limits(&frame);
        mix_frame(r, &frame);
        if (rewrite)
            write_and_read(&frame);
    }
    assert(r->result == -1 ? parser->why != NULL : n == 0);
    free(block);
    return r->result;
}

/* In pieces of `step` bytes. */
static reading read_in(const char *bytes, size_t n, size_t step, int rewrite)
{
    wq_stomp_parser parser;
    reading r = {0};
    wq_stomp_init(&parser, &limits);
    for (size_t at = 0; at < n && r.result == 0; at += step)
        feed(&parser, &r, bytes + at, n - at < step ? n - at : step, rewrite);
    wq_stomp_dispose(&parser);
    return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    const char *bytes = (const char *)data + 1;
    const reading whole = read_in(bytes, size - 1, size, 1);
    const reading cut = read_in(bytes, size - 1, data[0] % 32u + 1, 0);
    assert(whole.hash == cut.hash && whole.frames == cut.frames && whole.result == cut.result);
    return 0;
}

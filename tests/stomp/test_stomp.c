/* test_stomp.c - STOMP frames: every edge, and the same result wherever the input is cut in two. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "workqueue/stomp/codec.h"

static const wq_stomp_limits limits = {.line_bytes = 40, .headers = 4, .body_bytes = 12};

/* What came out, as text: COMMAND{name=value,...}[body+dropped] or !why. */
typedef struct seen {
    char text[2048];
    size_t len;
} seen;

static void add(seen *s, const char *bytes, size_t n)
{
    assert_true(s->len + n < sizeof s->text);
    memcpy(s->text + s->len, bytes, n);
    s->len += n;
}

static void add_text(seen *s, const char *text)
{
    add(s, text, strlen(text));
}

static void see(seen *s, const wq_stomp_frame *frame)
{
    add_text(s, frame->command);
    add_text(s, "{");
    for (size_t i = 0; i < frame->n_headers; i++) {
        add_text(s, i > 0 ? "," : "");
        add_text(s, frame->headers[i].name);
        add_text(s, "=");
        add_text(s, frame->headers[i].value);
    }
    add_text(s, "}[");
    add(s, frame->body, frame->body_len);
    if (frame->dropped_bytes > 0) {
        char dropped[32];
        snprintf(dropped, sizeof dropped, "+%d", (int)frame->dropped_bytes);
        add_text(s, dropped);
    }
    add_text(s, "]");
}

/* Feeds a piece from a block of its own, so that a sanitizer sees a read beyond it. */
static int feed(wq_stomp_parser *parser, const char *bytes, size_t n, seen *s)
{
    char *block = malloc(n + (n == 0));
    const char *at = block;
    wq_stomp_frame frame;
    int result;
    assert_non_null(block);
    memcpy(block, bytes, n);
    while ((result = wq_stomp_next(parser, &at, &n, &frame)) == 1)
        see(s, &frame);
    assert_true(result == -1 || n == 0);
    free(block);
    return result;
}

static void check_cut(const char *bytes, size_t n, size_t cut, const char *wanted,
                      size_t wanted_len)
{
    wq_stomp_parser parser;
    seen s = {.len = 0};
    wq_stomp_init(&parser, &limits);
    if (feed(&parser, bytes, cut, &s) == -1 || feed(&parser, bytes + cut, n - cut, &s) == -1) {
        add_text(&s, "!");
        add_text(&s, parser.why);
        assert_int_equal(feed(&parser, "\n", 1, &s), -1); /* it stays refused */
    }
    wq_stomp_dispose(&parser);
    if (s.len != wanted_len || memcmp(s.text, wanted, wanted_len) != 0)
        fail_msg("cut at %zu: expected %.*s; got %.*s", cut, (int)wanted_len, wanted, (int)s.len,
                 s.text);
}

static void check_bytes(const char *bytes, size_t n, const char *wanted, size_t wanted_len)
{
    for (size_t cut = 0; cut <= n; cut++)
        check_cut(bytes, n, cut, wanted, wanted_len);
}

/* Literals, as there are NULs in them. */
#define CHECK(bytes, wanted) check_bytes(bytes, sizeof(bytes) - 1, wanted, sizeof(wanted) - 1)

static void test_frames(void **state)
{
    (void)state;
    CHECK("", "");
    CHECK("MESSAGE\n\n\0", "MESSAGE{}[]");
    CHECK("MESSAGE\na:1\nb:2\n\nbody\0", "MESSAGE{a=1,b=2}[body]");
    CHECK("RECEIPT\nreceipt-id:7\n\n\0MESSAGE\n\nx\0", "RECEIPT{receipt-id=7}[]MESSAGE{}[x]");
    CHECK("MESSAGE\nempty:\n\n\0", "MESSAGE{empty=}[]");
    CHECK("MESSAGE\n a : b \n\n\0", "MESSAGE{ a = b }[]"); /* spaces are meant */
    CHECK("MESSAGE\na:1\n\nunfinished", "");
    CHECK("MESSAGE\na:1\n", "");
}

static void test_ends_of_lines(void **state)
{
    (void)state;
    CHECK("MESSAGE\r\na:1\r\n\r\nx\r\n\0", "MESSAGE{a=1}[x\r\n]");
    CHECK("\n\r\n\nMESSAGE\n\n\0\n\n\r\n\nRECEIPT\n\n\0\n", "MESSAGE{}[]RECEIPT{}[]");
    CHECK("MESSAGE\n\n\0\r\r\n", "MESSAGE{}[]!there is a CR without LF before it");
    CHECK("\rMESSAGE\n\n\0", "!there is a CR without LF before it");
    CHECK("MESSAGE\ra:1\n\n\0", "!a line has a CR without LF");
    CHECK("MESSAGE\na:1\r2\n\n\0", "!a line has a CR without LF");
    CHECK("MESSAGE\na:1\r\r\n\n\0", "!a line has a CR without LF");
}

static void test_escapes(void **state)
{
    (void)state;
    CHECK("MESSAGE\na\\cb:\\r\\n\\c\\\\\n\n\0", "MESSAGE{a:b=\r\n:\\}[]");
    CHECK("MESSAGE\na:\\\\n\n\n\0", "MESSAGE{a=\\n}[]");
    CHECK("MESSAGE\na:b:c\n\n\0", "MESSAGE{a=b:c}[]");
    CHECK("MESSAGE\na:\\t\n\n\0", "!a header has an escape that there is not");
    CHECK("MESSAGE\na\\x:1\n\n\0", "!a header has an escape that there is not");
    CHECK("MESSAGE\na:1\\\n\n\0", "!a header has an escape that there is not");
    CHECK("MESSAGE\na\\:1\n\n\0", "!a header has an escape that there is not");
    CHECK("CONNECTED\na:\\t\\n\n\n\0", "CONNECTED{a=\\t\\n}[]");
    CHECK("CONNECT\na:\\\n\n\0", "CONNECT{a=\\}[]");
    CHECK("MESSAGE\n\xff\x01:\x80\n\n\0", "MESSAGE{\xff\x01=\x80}[]"); /* what people send */
}

static void test_bodies(void **state)
{
    (void)state;
    CHECK("MESSAGE\ncontent-length:5\n\na\0b\0c\0", "MESSAGE{content-length=5}[a\0b\0c]");
    CHECK("MESSAGE\ncontent-length:0\n\n\0", "MESSAGE{content-length=0}[]");
    CHECK("MESSAGE\ncontent-length:1\ncontent-length:5\n\nx\0",
          "MESSAGE{content-length=1,content-length=5}[x]"); /* the first counts */
    CHECK("MESSAGE\ncontent-length:1\n\nxy\0", "!its body is longer than its content-length");
    CHECK("MESSAGE\ncontent-length:0\n\nx\0", "!its body is longer than its content-length");
    CHECK("MESSAGE\ncontent-length:3\n\nab\0", "");
    CHECK("MESSAGE\ncontent-length:\n\n\0", "!its content-length is no number");
    CHECK("MESSAGE\ncontent-length: 1\n\nx\0", "!its content-length is no number");
    CHECK("MESSAGE\ncontent-length:-1\n\nx\0", "!its content-length is no number");
    CHECK("MESSAGE\ncontent-length:1x\n\nx\0", "!its content-length is no number");
    CHECK("MESSAGE\ncontent-length:9999999999999999999\n\n\0", "!its content-length is no number");
    CHECK("RECEIPT\n\nwhy not\0", "RECEIPT{}[why not]");
}

static void test_shapes(void **state)
{
    (void)state;
    CHECK("message\n\n\0", "!it has no command of STOMP");
    CHECK("HTTP/1.1 400 Bad Request\r\n\r\n", "!it has no command of STOMP");
    CHECK("MESSAGE \n\n\0", "!it has no command of STOMP");
    CHECK(" MESSAGE\n\n\0", "!it has no command of STOMP");
    CHECK("\0", "!there is a NUL before its body");
    CHECK("MESS\0", "!there is a NUL before its body");
    CHECK("MESSAGE\na:\0\n\n\0", "!there is a NUL before its body");
    CHECK("MESSAGE\na\n\n\0", "!a header has no colon");
    CHECK("MESSAGE\n:1\n\n\0", "!a header has no name");
    CHECK("RECEIPT\n\n\0\0", "RECEIPT{}[]!there is a NUL before its body");
}

static void test_limits(void **state)
{
    (void)state;
    CHECK("MESSAGE\na:1\nb:2\nc:3\nd:4\n\n\0", "MESSAGE{a=1,b=2,c=3,d=4}[]");
    CHECK("MESSAGE\na:1\nb:2\nc:3\nd:4\ne:5\n\n\0", "!it has too many headers");
    CHECK("MESSAGE\na:34567890123456789012345678901234567890\n\n\0",
          "MESSAGE{a=34567890123456789012345678901234567890}[]");
    CHECK("MESSAGE\na:345678901234567890123456789012345678901", "!a header is too long");
    CHECK("MESSAGEMESSAGEMESSAGE", "!it has no command of STOMP");
    CHECK("MESSAGE\n\n123456789012\0", "MESSAGE{}[123456789012]");
    CHECK("MESSAGE\n\n1234567890123\0RECEIPT\n\n\0", "MESSAGE{}[123456789012+1]RECEIPT{}[]");
    CHECK("MESSAGE\ncontent-length:15\n\n123456789012\0\0\0\0RECEIPT\n\n\0",
          "MESSAGE{content-length=15}[123456789012+3]RECEIPT{}[]");
}

static void test_first_header_wins(void **state)
{
    const wq_stomp_header headers[] = {{"a", "1"}, {"b", "2"}, {"a", "3"}};
    const wq_stomp_frame frame = {.command = "MESSAGE", .headers = headers, .n_headers = 3};
    (void)state;
    assert_string_equal(wq_stomp_get(&frame, "a"), "1");
    assert_string_equal(wq_stomp_get(&frame, "b"), "2");
    assert_null(wq_stomp_get(&frame, "c"));
}

/* Large frames in small pieces; the memory of one is not kept for ever. */
static void test_a_large_body(void **state)
{
    static const wq_stomp_limits large = {.line_bytes = 100, .headers = 4, .body_bytes = 1 << 20};
    wq_stomp_parser parser;
    wq_stomp_frame frame;
    char piece[1000];
    const char *at = "MESSAGE\ncontent-length:1000000\n\n";
    size_t n = strlen(at);
    (void)state;
    memset(piece, 'x', sizeof piece);
    wq_stomp_init(&parser, &large);
    assert_int_equal(wq_stomp_next(&parser, &at, &n, &frame), 0);
    for (int i = 0; i < 1000; i++) {
        at = piece, n = sizeof piece;
        assert_int_equal(wq_stomp_next(&parser, &at, &n, &frame), 0);
    }
    at = "", n = 1;
    assert_int_equal(wq_stomp_next(&parser, &at, &n, &frame), 1);
    assert_int_equal(frame.body_len, 1000000);
    at = "MESSAGE", n = 7;
    assert_int_equal(wq_stomp_next(&parser, &at, &n, &frame), 0);
    assert_null(parser.body);
    wq_stomp_dispose(&parser);
}

/* ---- writing --------------------------------------------------------------------------------- */

static void check_written(const wq_stomp_frame *frame, const char *wanted, size_t wanted_len)
{
    char *bytes;
    const char *why;
    size_t n;
    assert_int_equal(wq_stomp_write(&bytes, &n, frame, &why), 0);
    assert_int_equal(n, wanted_len);
    assert_memory_equal(bytes, wanted, n);
    free(bytes);
}

#define WRITTEN(frame, wanted) check_written(frame, wanted, sizeof(wanted) - 1)

static void check_refused(const wq_stomp_frame *frame, const char *wanted)
{
    char *bytes;
    const char *why;
    size_t n;
    assert_int_equal(wq_stomp_write(&bytes, &n, frame, &why), -1);
    assert_string_equal(why, wanted);
}

static void test_writing(void **state)
{
    const wq_stomp_header odd = {"a:\n", "\r\n:\\x"}, plain = {"a", "b:c\\d"};
    (void)state;
    WRITTEN((&(wq_stomp_frame){"SEND", &odd, 1, "x\0y", 3, 0}),
            "SEND\na\\c\\n:\\r\\n\\c\\\\x\ncontent-length:3\n\nx\0y\0");
    WRITTEN((&(wq_stomp_frame){.command = "SEND"}), "SEND\ncontent-length:0\n\n\0");
    WRITTEN((&(wq_stomp_frame){.command = "BEGIN", .headers = &plain, .n_headers = 1}),
            "BEGIN\na:b\\cc\\\\d\n\n\0");
    WRITTEN((&(wq_stomp_frame){.command = "CONNECT", .headers = &plain, .n_headers = 1}),
            "CONNECT\na:b:c\\d\n\n\0");
}

static void test_what_cannot_be_written(void **state)
{
    static const char ends[] =
        "a header of such a frame cannot have an end of line, nor its name a colon";
    const wq_stomp_header none = {"", "1"}, null = {"a", NULL}, length = {"content-length", "1"},
                          line = {"a", "\n"}, colon = {"a:", "1"};
    (void)state;
    check_refused(&(wq_stomp_frame){.command = "HELLO"}, "there is no such command");
    check_refused(&(wq_stomp_frame){"ACK", NULL, 0, "x", 1, 0}, "such a frame has no body");
    check_refused(&(wq_stomp_frame){"SEND", &none, 1, "", 0, 0},
                  "a header has no name or no value");
    check_refused(&(wq_stomp_frame){"SEND", &null, 1, "", 0, 0},
                  "a header has no name or no value");
    check_refused(&(wq_stomp_frame){"SEND", &length, 1, "", 0, 0},
                  "content-length is not for the caller to say");
    check_refused(&(wq_stomp_frame){"CONNECT", &line, 1, "", 0, 0}, ends);
    check_refused(&(wq_stomp_frame){"CONNECT", &colon, 1, "", 0, 0}, ends);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frames),
        cmocka_unit_test(test_ends_of_lines),
        cmocka_unit_test(test_escapes),
        cmocka_unit_test(test_bodies),
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_first_header_wins),
        cmocka_unit_test(test_a_large_body),
        cmocka_unit_test(test_writing),
        cmocka_unit_test(test_what_cannot_be_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

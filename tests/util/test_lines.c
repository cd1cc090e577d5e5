/* test_lines.c - bytes in, bounded lines out: the same lines however the bytes are cut up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "workqueue/util/lines.h"

/* What came out, each line in brackets. */
typedef struct seen {
    char text[4096];
    size_t len, lines, longest;
} seen;

static void see(void *user, const char *line, size_t len) {
    seen *s = user;
    s->lines++;
    s->longest = len > s->longest ? len : s->longest;
    if (s->len + len + 2 > sizeof s->text)
        return;
    s->text[s->len++] = '[';
    memcpy(s->text + s->len, line, len);
    s->len += len;
    s->text[s->len++] = ']';
}

/* Feeds `text` in pieces of `step` bytes, each from a block of its own so that a sanitizer sees a
 * read beyond it. */
static void feed(wq_lines *lines, const char *text, size_t n, size_t step, seen *s) {
    for (size_t at = 0; at < n; at += step) {
        size_t part = n - at < step ? n - at : step;
        char *piece = malloc(part);
        assert_non_null(piece);
        memcpy(piece, text + at, part);
        assert_int_equal(wq_lines_feed(lines, piece, part, see, s), 0);
        free(piece);
    }
}

static void check_bytes(size_t max, const char *text, size_t n, const char *expected, size_t len) {
    for (size_t step = 1; step <= n + 1; step++) {
        wq_lines lines;
        seen s = {.len = 0};
        wq_lines_init(&lines, max);
        feed(&lines, text, n, step, &s);
        wq_lines_finish(&lines, see, &s);
        wq_lines_dispose(&lines);
        assert_int_equal(s.len, len);
        assert_memory_equal(s.text, expected, len);
    }
}

static void check(size_t max, const char *text, const char *expected) {
    check_bytes(max, text, strlen(text), expected, strlen(expected));
}

static void test_lines_are_cut_at_newlines(void **state) {
    (void)state;
    check(80, "", "");
    check(80, "0.25\n", "[0.25]");
    check(80, "0.25\tone\n0.75\ttwo\n", "[0.25\tone][0.75\ttwo]");
    check(80, "\n\na\n", "[][][a]");
}

static void test_last_line_needs_no_newline(void **state) {
    (void)state;
    check(80, "a\nb", "[a][b]");
    check(80, "b", "[b]");
}

/* P1: a bar that is drawn again and again is one line after the other. */
static void test_p1_a_carriage_return_ends_a_line(void **state) {
    (void)state;
    check(80, "a\r\n\r\nb\r\n", "[a][][b]");
    check(80, "a\rb\n", "[a][b]");
    check(80, "a\r\r\n", "[a][]");
    check(80, "\r10%\r20%\r30%", "[][10%][20%][30%]");
    check(80, "a\n\rb", "[a][][b]");
    check(80, "a\r", "[a]");
    check(4, "abcd\r\nx\n", "[abcd][x]");
    check(4, "abcde\r\nx\r", "[abcd][x]");
}

/* It is told when it is there, not when the next one begins. */
static void test_p1_a_carriage_return_is_not_waited_behind(void **state) {
    (void)state;
    wq_lines lines;
    seen s = {.len = 0};
    wq_lines_init(&lines, 80);
    feed(&lines, "0.5\r", 4, 4, &s);
    assert_int_equal(s.lines, 1);
    feed(&lines, "\n", 1, 1, &s);
    assert_int_equal(s.lines, 1);
    wq_lines_dispose(&lines);
}

static void test_long_lines_are_cut_and_handed_out_once(void **state) {
    (void)state;
    check(4, "abcd\nx\n", "[abcd][x]");
    check(4, "abcde\nx\n", "[abcd][x]");
    check(4, "abcdef\nx\n", "[abcd][x]");
    check(4, "abcdefghijklmnopq\nx\nabcdefghi\ny", "[abcd][x][abcd][y]");
    check(4, "abcdefghi", "[abcd]");
    check(4, "abcd\re\nx\n", "[abcd][e][x]");
    check(0, "ab\n\n", "[][]");
}

static void test_nul_bytes_pass(void **state) {
    (void)state;
    check_bytes(80, "a\0b\n\0\n", 6, "[a\0b][\0]", 8);
}

static void test_ten_megabytes_cost_one_line(void **state) {
    (void)state;
    size_t n = 10 * 1024 * 1024;
    char *text = malloc(n);
    assert_non_null(text);
    memset(text, 'x', n);
    text[n - 1] = '\n';
    wq_lines lines;
    seen s = {.len = 0};
    wq_lines_init(&lines, 8192);
    feed(&lines, text, n, 65536, &s);
    assert_int_equal(s.lines, 1);
    assert_int_equal(s.longest, 8192);
    assert_true(lines.capacity <= 8193);
    feed(&lines, "0.5\n", 4, 4, &s);
    assert_int_equal(s.lines, 2);
    wq_lines_dispose(&lines);
    free(text);
}

static void test_no_limit_is_no_overflow(void **state) {
    (void)state;
    check(SIZE_MAX, "abc\nde\n", "[abc][de]");
}

static void test_used_again_after_the_end(void **state) {
    (void)state;
    wq_lines lines;
    seen s = {.len = 0};
    wq_lines_init(&lines, 4);
    feed(&lines, "abcdefgh", 8, 8, &s);
    wq_lines_finish(&lines, see, &s);
    feed(&lines, "x\ny", 3, 3, &s);
    wq_lines_finish(&lines, see, &s);
    wq_lines_finish(&lines, see, &s);
    wq_lines_dispose(&lines);
    assert_int_equal(s.len, 12);
    assert_memory_equal(s.text, "[abcd][x][y]", 12);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines_are_cut_at_newlines),
        cmocka_unit_test(test_last_line_needs_no_newline),
        cmocka_unit_test(test_p1_a_carriage_return_ends_a_line),
        cmocka_unit_test(test_p1_a_carriage_return_is_not_waited_behind),
        cmocka_unit_test(test_long_lines_are_cut_and_handed_out_once),
        cmocka_unit_test(test_nul_bytes_pass),
        cmocka_unit_test(test_ten_megabytes_cost_one_line),
        cmocka_unit_test(test_no_limit_is_no_overflow),
        cmocka_unit_test(test_used_again_after_the_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

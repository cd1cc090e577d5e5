/* test_progress.c - a program's line of progress is understood, or refused; the record that clients
 * see is right to the byte. */
#include <float.h>
#include <locale.h>
#include <math.h>

#include "tests/support.h"
#include "workqueue/core/progress.h"

/* Parses a copy of just these bytes, so that a sanitizer sees a read beyond them. */
static int parse(wq_progress *out, const char *line, size_t len, char **copy)
{
    *copy = malloc(len ? len : 1);
    assert_non_null(*copy);
    memcpy(*copy, line, len);
    return wq_progress_parse(out, *copy, len);
}

/* ---- lines ----------------------------------------------------------------------------------- */

typedef struct good_line {
    const char *line;
    double fraction;
    const char *message; /* NULL: none */
    int has_items;
    uint64_t done, total;
} good_line;

static const good_line good[] = {
    {"0.25", 0.25, NULL, 0, 0, 0},
    {"0.25\tindexing page 7", 0.25, "indexing page 7", 0, 0, 0},
    {"3/12\tindexing page 3", 0.25, "indexing page 3", 1, 3, 12},
    {"3/12", 0.25, NULL, 1, 3, 12},
    /* the ends, as languages print them */
    {"0", 0, NULL, 0, 0, 0},
    {"1", 1, NULL, 0, 0, 0},
    {"0.0", 0, NULL, 0, 0, 0},
    {"1.0", 1, NULL, 0, 0, 0},
    {"00.50", 0.5, NULL, 0, 0, 0},
    {"1.0000000000000000000000000000", 1, NULL, 0, 0, 0},
    {"0.1", 0.1, NULL, 0, 0, 0},
    {"0.3333333333333333", 0.3333333333333333, NULL, 0, 0, 0},
    {"0.000001", 0.000001, NULL, 0, 0, 0},
    /* exponents, as Python prints small numbers */
    {"1e-05", 1e-05, NULL, 0, 0, 0},
    {"1.5E-3", 0.0015, NULL, 0, 0, 0},
    {"25e-2\tm", 0.25, "m", 0, 0, 0},
    {"0.001e+3", 1, NULL, 0, 0, 0},
    {"0.05e1", 0.5, NULL, 0, 0, 0},
    {"1e-400", 0, NULL, 0, 0, 0},
    {"1e-999999999999999999", 0, NULL, 0, 0, 0},
    {"0e999999999999999999", 0, NULL, 0, 0, 0},
    /* messages: whatever follows the first tab */
    {"0.5\t", 0.5, "", 0, 0, 0},
    {"0.5\t\ttwo\ttabs", 0.5, "\ttwo\ttabs", 0, 0, 0},
    {"0.5\t 0.75", 0.5, " 0.75", 0, 0, 0},
    {"0.5\t3/12", 0.5, "3/12", 0, 0, 0},
    {"1/2\t\xc3\xa9\xff", 0.5, "\xc3\xa9\xff", 1, 1, 2},
    /* items */
    {"0/12", 0, NULL, 1, 0, 12},
    {"12/12", 1, NULL, 1, 12, 12},
    {"0/0", 0, NULL, 1, 0, 0},
    {"007/010", 0.7, NULL, 1, 7, 10},
    {"999999999999999999/999999999999999999", 1, NULL, 1, 999999999999999999, 999999999999999999},
    /* P1, S6: what can only mean one thing */
    {" 0.25", 0.25, NULL, 0, 0, 0},
    {"0.25 ", 0.25, NULL, 0, 0, 0},
    {"+0.25", 0.25, NULL, 0, 0, 0},
    {"  +0.25  \tm", 0.25, "m", 0, 0, 0},
    {"-0.0", 0, NULL, 0, 0, 0},
    {"-1e-17", 0, NULL, 0, 0, 0},
    {"1.0000000000000002", 1, NULL, 0, 0, 0},
    {"1.00001\tm", 1, "m", 0, 0, 0},
    {"25%", 0.25, NULL, 0, 0, 0},
    {" 25 % ", 0.25, NULL, 0, 0, 0},
    {"12.5%\tm", 0.125, "m", 0, 0, 0},
    {"0%", 0, NULL, 0, 0, 0},
    {"100%", 1, NULL, 0, 0, 0},
    {"100.0001%", 1, NULL, 0, 0, 0},
    {"3 of 12", 0.25, NULL, 1, 3, 12},
    {"3 of 12\tpages", 0.25, "pages", 1, 3, 12},
    {"3 / 12 ", 0.25, NULL, 1, 3, 12},
    {"3/ 12", 0.25, NULL, 1, 3, 12},
    {" 3/12\tm", 0.25, "m", 1, 3, 12},
    /* bars, as tqdm and curl draw them */
    {" 25%|\xe2\x96\x88\xe2\x96\x88\xe2\x96\x8c       | 3/12 [00:00<00:01, 8.5it/s]", 0.25, NULL, 0,
     0, 0},
    {"100%|##########| 12/12 [00:01<00:00,  8.55it/s]", 1, NULL, 0, 0, 0},
    {"pages:   8%|8         | 1/12 [00:00<?, ?it/s]", 0.08, "pages", 0, 0, 0},
    {"##############                  25.0%", 0.25, NULL, 0, 0, 0},
    {"[=====>              ] 25%", 0.25, NULL, 0, 0, 0},
};

static void check_good(const good_line *g)
{
    wq_progress p;
    char *copy;
    if (parse(&p, g->line, strlen(g->line), &copy) != 0)
        fail_msg("refused: %s", g->line);
    if (fabs(p.fraction - g->fraction) > DBL_EPSILON * g->fraction)
        fail_msg("%s: fraction is %.17g", g->line, p.fraction);
    if ((p.message == NULL) != (g->message == NULL))
        fail_msg("%s: a message, or none", g->line);
    if (g->message != NULL) {
        assert_int_equal(p.message_len, strlen(g->message));
        assert_memory_equal(p.message, g->message, p.message_len);
    }
    assert_int_equal(p.has_items, g->has_items);
    assert_int_equal(p.items_done, g->done);
    assert_int_equal(p.items_total, g->total);
    free(copy);
}

static void test_what_a_program_may_say(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        check_good(&good[i]);
}

static const char *const bad[] = {
    "",
    " ",
    "\t",
    "\tmessage",
    "hello",
    "hello\t0.5",
    "0.25 indexing",
    "0.5\r",
    /* beyond 0 to 1 */
    "-0.25",
    "1.01",
    "2",
    "1.5\tm",
    "1e1",
    "1e400",
    "1e999999999999999999",
    "50",
    "99999999999999999999999999999999999999999999999999999999999",
    /* what strtod would take */
    "nan",
    "NaN",
    "inf",
    "-inf",
    "infinity",
    "0x1p-2",
    "0x0",
    "0.5f",
    "0.5L",
    /* not quite numbers */
    ".",
    "-",
    "e",
    "e5",
    ".e1",
    "1e",
    "1e+",
    "1e-",
    "1e-5.0",
    "0.5e",
    "0..5",
    "0.5.5",
    "0,25",
    "1_0",
    "1'000",
    "0.5e1e-1",
    "\xd9\xa0.\xd9\xa5",
    /* not quite items */
    "/",
    "3/",
    "/12",
    "3//12",
    "3/12/",
    "3/12/24",
    "-3/12",
    "3/-12",
    "13/12",
    "3.0/12",
    "3/12.0",
    "3e0/12",
    "0x3/12",
    "1/0",
    "3/12 pages",
    "10000000000000000000000/20000000000000000000000",
    /* what may mean something else */
    "1.01",
    "-0.01",
    "101%",
    "25%%",
    "%",
    "25% done",
    "5% of 12|",
    "3of12",
    "3 of",
    "of 12",
    "++0.5",
    "- 0.5",
    "- 25%",
    "[] 25%",
    "a25%|#| 1/4",
    "=======",
    "======= done 25%",
};

/* What the log says of a line, and what was meant by it. */
static const struct {
    const char *line, *complaint;
} complaints[] = {
    {"hello", "got 'hello'; what is no progress belongs on stderr"},
    {"25", "got '25'; 25 is more than 1: 0.25, or 25%?"},
    {"50\tm", "got '50\\tm'; 50 is more than 1: 0.5, or 50%?"},
    {"7", "got '7'; 7 is more than 1: 0.07, or 7%?"},
    {"100", "got '100'; 100 is more than 1: 1, or 100%?"},
    {"1.5", "got '1.5'; 1.5 is more than 1: a fraction from 0 to 1, or 1.5%?"},
    {"250", "got '250'; 250 is more than 1: a fraction goes from 0 to 1"},
    {"150%", "got '150%'; 150% is more than 100%"},
    {"0,25\tm", "got '0,25\\tm'; a decimal comma? It must be a point"},
    {"-0.25", "got '-0.25'; -0.25 is less than 0"},
    {"{\"fraction\": 0.25}",
     "got '{\"fraction\": 0.25}'; JSON? It must be a number, a tab and the message, as text"},
    {"[0.25, \"m\"]",
     "got '[0.25, \"m\"]'; JSON? It must be a number, a tab and the message, as text"},
    {"0.25\\tm",
     "got '0.25\\\\tm'; it has a backslash and a t, where there should be a tab: try printf"},
    {"0.25 m", "got '0.25 m'; a tab must stand between 0.25 and the message, not a blank"},
    {"25% m", "got '25% m'; a tab must stand between 25% and the message"},
    {"3/12 pages", "got '3/12 pages'; a tab must stand between 3/12 and the message, not a blank"},
    {"3 of 12 pages",
     "got '3 of 12 pages'; a tab must stand between 3/12 and the message, not a blank"},
    {"13/12", "got '13/12'; items done, at most all, and items in all: 3/12"},
    {"nan", "got 'nan'; nan is no number from 0 to 1"},
    {"\x1b[31m\xff'", "got '\\x1b[31m\\xff''"},
};

static void test_p1_what_was_meant(void **state)
{
    (void)state;
    char complaint[WQ_COMPLAINT_BYTES], expected[WQ_COMPLAINT_BYTES];
    for (size_t i = 0; i < sizeof complaints / sizeof *complaints; i++) {
        wq_progress p;
        const char *line = complaints[i].line;
        assert_int_equal(wq_progress_parse(&p, line, strlen(line)), -1);
        wq_progress_complain(complaint, line, strlen(line));
        snprintf(expected, sizeof expected, "stdout must look like '0.25<TAB>message'; %s",
                 complaints[i].complaint);
        assert_string_equal(complaint, expected);
    }
}

/* Of any bytes, and of a megabyte. */
static void test_p1_a_complaint_is_bounded(void **state)
{
    (void)state;
    char complaint[WQ_COMPLAINT_BYTES], *line = malloc(1 << 20);
    assert_non_null(line);
    for (int c = 0; c < 256; c++) {
        memset(line, c, 1 << 20);
        for (size_t n = 0; n <= 1 << 20; n = n < 300 ? n + 1 : n * 8) {
            wq_progress_complain(complaint, line, n);
            assert_true(strlen(complaint) < WQ_COMPLAINT_BYTES - 1);
            for (const char *at = complaint; *at != '\0'; at++)
                assert_true(*at >= ' ' && *at <= '~');
        }
    }
    assert_non_null(strstr(complaint, "...'"));
    free(line);
}

static void test_what_it_may_not(void **state)
{
    (void)state;
    wq_progress p;
    char *copy;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (parse(&p, bad[i], strlen(bad[i]), &copy) == 0)
            fail_msg("accepted: %s", bad[i]);
        free(copy);
    }
    assert_int_equal(parse(&p, "0.5\0", 4, &copy), -1);
    free(copy);
    assert_int_equal(parse(&p, "\0", 1, &copy), -1);
    free(copy);
}

static void test_a_message_may_hold_nul_bytes(void **state)
{
    (void)state;
    wq_progress p;
    char *copy;
    assert_int_equal(parse(&p, "0.5\ta\0b", 7, &copy), 0);
    assert_int_equal(p.message_len, 3);
    assert_memory_equal(p.message, "a\0b", 3);
    free(copy);
}

/* A megabyte of digits or of message is as well refused or taken as ten bytes are. */
static void test_long_lines(void **state)
{
    (void)state;
    wq_progress p;
    size_t n = 1 << 20;
    char *line = malloc(n), *copy;
    assert_non_null(line);
    memset(line, '9', n);
    assert_int_equal(parse(&p, line, n, &copy), -1);
    free(copy);
    memcpy(line, "0.5\t", 4);
    assert_int_equal(parse(&p, line, n, &copy), 0);
    assert_int_equal(p.message_len, n - 4);
    free(copy);
    free(line);
}

/* What Python's repr() and JavaScript print, too. */
static void expect_shortest(double value)
{
    char digits[40], expected[64], json[512];
    for (int precision = 1; precision <= 17; precision++) {
        snprintf(digits, sizeof digits, "%.*g", precision, value);
        if (strtod(digits, NULL) == value)
            break;
    }
    snprintf(expected, sizeof expected, "\"fraction\": %s%s, ", digits,
             strspn(digits, "0123456789") == strlen(digits) ? ".0" : "");
    wq_snapshot s = {.fraction = value};
    wq_snapshot_json(&s, json, sizeof json);
    if (strstr(json, expected) == NULL)
        fail_msg("%s is not %s", json, expected);
}

static void test_a_fraction_has_the_shortest_digits(void **state)
{
    (void)state;
    for (int i = 0; i <= 10000; i++) {
        expect_shortest(i / 10000.0);
        expect_shortest(i / 1000000.0);
        expect_shortest((i + 0.5) / 10001.0);
    }
    for (int total = 1; total < 150; total++)
        for (int done = 0; done <= total; done++)
            expect_shortest((double)done / total);
    for (double tiny = 1; tiny > 1e-300; tiny /= 7)
        expect_shortest(tiny);
}

/* A fraction that a program prints in full is the one it meant: there and back again. */
static void test_fractions_survive(void **state)
{
    (void)state;
    char line[64], json[256], expected[64];
    for (int i = 0; i <= 1000; i++) {
        wq_progress p;
        wq_snapshot s;
        snprintf(line, sizeof line, "%g", i / 1000.0);
        assert_int_equal(wq_progress_parse(&p, line, strlen(line)), 0);
        memset(&s, 0, sizeof s);
        s.fraction = p.fraction;
        wq_snapshot_json(&s, json, sizeof json);
        snprintf(expected, sizeof expected, "\"fraction\": %s%s, ", line,
                 strpbrk(line, ".e") ? "" : ".0");
        if (strstr(json, expected) == NULL)
            fail_msg("%s became %s", line, json);
    }
}

/* ---- the record ------------------------------------------------------------------------------ */

static void expect_json(const wq_snapshot *s, const char *expected)
{
    char json[1024];
    assert_int_equal(wq_snapshot_json(s, json, sizeof json), strlen(expected));
    assert_string_equal(json, expected);
}

static void test_records(void **state)
{
    (void)state;
    wq_snapshot s;
    memset(&s, 0, sizeof s);
    s.n_ahead_in_queue = 3;
    expect_json(&s, "{\"n_ahead_in_queue\": 3, \"fraction\": 0.0, \"message\": null, "
                    "\"returncode\": null, \"error\": null}");
    s.n_ahead_in_queue = 0;
    s.fraction = 0.25;
    s.message = "indexing";
    expect_json(&s, "{\"n_ahead_in_queue\": 0, \"fraction\": 0.25, \"message\": \"indexing\", "
                    "\"returncode\": null, \"error\": null}");
    s.fraction = 1;
    s.has_returncode = 1;
    expect_json(&s, "{\"n_ahead_in_queue\": 0, \"fraction\": 1.0, \"message\": \"indexing\", "
                    "\"returncode\": 0, \"error\": null}");
    s.message = NULL;
    s.returncode = 7;
    s.error = "Exited with code 7\nstderr:\noh \"no\"\n";
    expect_json(&s, "{\"n_ahead_in_queue\": 0, \"fraction\": 1.0, \"message\": null, "
                    "\"returncode\": 7, \"error\": \"Exited with code 7\\nstderr:\\n"
                    "oh \\\"no\\\"\\n\"}");
    /* S5: also where the program is not to blame */
    s.returncode = -999;
    s.error = "timed out";
    expect_json(&s, "{\"n_ahead_in_queue\": 0, \"fraction\": 1.0, \"message\": null, "
                    "\"returncode\": -999, \"error\": \"Exited with code -999\\nstderr:\\n"
                    "timed out\"}");
    s.n_ahead_in_queue = UINT64_MAX;
    s.fraction = 1e-05;
    s.returncode = INT32_MIN;
    s.error = "";
    expect_json(&s, "{\"n_ahead_in_queue\": 18446744073709551615, \"fraction\": 1e-05, "
                    "\"message\": null, \"returncode\": -2147483648, \"error\": "
                    "\"Exited with code -2147483648\\nstderr:\\n\"}");
}

typedef struct escaped {
    const char *message, *json;
} escaped;

static const escaped escapes[] = {
    {"", ""},
    {" ~!/", " ~!/"},
    {"\"\\", "\\\"\\\\"},
    {"a\nb\rc\td\be\ff", "a\\nb\\rc\\td\\be\\ff"},
    {"\x01\x1f\x7f", "\\u0001\\u001f\\u007f"},
    {"\xc2\x80\xc3\xa9", "\\u0080\\u00e9"},
    {"\xe2\x82\xac\xef\xbf\xbf", "\\u20ac\\uffff"},
    {"\xf0\x90\x80\x80", "\\ud800\\udc00"},
    {"\xf0\x9f\x98\x80!", "\\ud83d\\ude00!"},
    {"\xf4\x8f\xbf\xbf", "\\udbff\\udfff"},
    /* no UTF-8: a lone byte, a cut character, overlong, a surrogate, beyond the last */
    {"a\xff"
     "b",
     "a\\ufffdb"},
    {"\x80", "\\ufffd"},
    {"\xe2\x82", "\\ufffd\\ufffd"},
    {"\xc3", "\\ufffd"},
    {"\xc0\xaf", "\\ufffd\\ufffd"},
    {"\xe0\x80\xaf", "\\ufffd\\ufffd\\ufffd"},
    {"\xed\xa0\x80", "\\ufffd\\ufffd\\ufffd"},
    {"\xf4\x90\x80\x80", "\\ufffd\\ufffd\\ufffd\\ufffd"},
    {"\xf0\x9f\x98", "\\ufffd\\ufffd\\ufffd"},
};

static void test_escapes(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof escapes / sizeof *escapes; i++) {
        wq_snapshot s;
        char expected[320];
        memset(&s, 0, sizeof s);
        s.message = s.error = escapes[i].message;
        snprintf(expected, sizeof expected,
                 "{\"n_ahead_in_queue\": 0, \"fraction\": 0.0, \"message\": \"%s\", "
                 "\"returncode\": null, \"error\": \"Exited with code 0\\nstderr:\\n%s\"}",
                 escapes[i].json, escapes[i].json);
        expect_json(&s, expected);
    }
}

static void test_nothing_but_printable_ascii(void **state)
{
    (void)state;
    wq_snapshot s;
    char text[256], json[2048];
    for (int i = 0; i < 255; i++)
        text[i] = (char)(i + 1);
    text[255] = '\0';
    memset(&s, 0, sizeof s);
    s.message = text;
    size_t n = wq_snapshot_json(&s, json, sizeof json);
    assert_int_equal(strlen(json), n);
    for (size_t i = 0; i < n; i++)
        assert_in_range(json[i], 0x20, 0x7e);
}

static void test_small_buffers_are_as_with_snprintf(void **state)
{
    (void)state;
    wq_snapshot s;
    char full[256];
    memset(&s, 0, sizeof s);
    s.message = "caf\xc3\xa9 \xf0\x9f\x98\x80";
    s.fraction = 0.5;
    size_t n = wq_snapshot_json(&s, full, sizeof full);
    assert_int_equal(wq_snapshot_json(&s, NULL, 0), n);
    for (size_t size = 0; size <= n + 1; size++) {
        char *part = malloc(size + 1); /* the byte behind must stay */
        assert_non_null(part);
        memset(part, '#', size + 1);
        assert_int_equal(wq_snapshot_json(&s, part, size), n);
        assert_int_equal(part[size], '#');
        if (size > 0) {
            assert_memory_equal(part, full, size - 1);
            assert_int_equal(part[size - 1], '\0');
        }
        free(part);
    }
}

/* ---- the host's locale ----------------------------------------------------------------------- */

/* Makes a locale with a decimal comma and switches to it; 0 if this machine cannot. */
static int speak_german(const char *dir)
{
    char command[256];
    snprintf(command, sizeof command,
             "mkdir -p %s && localedef -i de_DE -f UTF-8 %s/de_DE.UTF-8 >%s/log 2>&1", dir, dir,
             dir);
    if (system(command) != 0)
        return 0;
    setenv("LOCPATH", dir, 1);
    return setlocale(LC_ALL, "de_DE.UTF-8") != NULL && *localeconv()->decimal_point == ',';
}

static void test_locale_makes_no_difference(void **state)
{
    (void)state;
    char dir[FOLDER_SIZE];
    assert_int_equal(make_folder(dir, "locale"), 0);
    int german = speak_german(dir);
    assert_int_equal(remove_folder(dir), 0);
    if (!german) {
        print_message("no locale with a decimal comma can be made here\n");
        skip();
    }
    char comma[8];
    snprintf(comma, sizeof comma, "%.1f", 0.5);
    assert_string_equal(comma, "0,5");
    test_what_a_program_may_say(state);
    test_what_it_may_not(state);
    test_p1_what_was_meant(state);
    test_records(state);
    wq_snapshot s;
    memset(&s, 0, sizeof s);
    s.fraction = 0.3333333333333333;
    expect_json(&s, "{\"n_ahead_in_queue\": 0, \"fraction\": 0.3333333333333333, "
                    "\"message\": null, \"returncode\": null, \"error\": null}");
    setlocale(LC_ALL, "C");
    unsetenv("LOCPATH");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_a_program_may_say),
        cmocka_unit_test(test_what_it_may_not),
        cmocka_unit_test(test_p1_what_was_meant),
        cmocka_unit_test(test_p1_a_complaint_is_bounded),
        cmocka_unit_test(test_a_message_may_hold_nul_bytes),
        cmocka_unit_test(test_long_lines),
        cmocka_unit_test(test_fractions_survive),
        cmocka_unit_test(test_a_fraction_has_the_shortest_digits),
        cmocka_unit_test(test_records),
        cmocka_unit_test(test_escapes),
        cmocka_unit_test(test_nothing_but_printable_ascii),
        cmocka_unit_test(test_small_buffers_are_as_with_snprintf),
        cmocka_unit_test(test_locale_makes_no_difference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* test_allow.c - which servers the allow-list lets in: what is the same URL to everybody, and
 * nothing that only looks like it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "workqueue/http/request/url.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static int has(const char *entry, const char *server)
{
    wq_allow *allow;
    wq_error error = {0};
    if (wq_allow_new(&allow, &entry, 1, &error) != WQ_OK)
        fail_msg("%s: %s", entry, error.message);
    int result = wq_allow_has(allow, server);
    wq_allow_free(allow);
    return result;
}

static void let_in(const char *entry, const char *const *servers, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!has(entry, servers[i]))
            fail_msg("%s should let in '%s'", entry, servers[i]);
}

static void keep_out(const char *entry, const char *const *servers, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (has(entry, servers[i]))
            fail_msg("%s should keep out '%s'", entry, servers[i]);
}

static void test_the_same_server_in_other_words(void **state)
{
    (void)state;
    static const char *const servers[] = {
        "http://good.example",           "http://good.example/",
        "HTTP://GOOD.Example",           "http://good.example:80",
        "http://good.example:",          "http://good.example:0080/",
        "http://good.example.",          "http://good.example.:80/a/b",
        "http://good.example/a@b:c",     "http://good.example/a/../../b",
        "http://good.example/caf%C3%A9", "http://good.example/\xc3\xa9",
    };
    let_in("http://good.example", servers, COUNT(servers));
    let_in("http://good.example/", servers, COUNT(servers));
    let_in("Http://Good.Example.:80", servers, COUNT(servers));
}

static void test_hosts_that_only_look_alike(void **state)
{
    (void)state;
    static const char *const servers[] = {
        "http://good.example.evil",
        "http://good.exampleevil",
        "http://evil.good.example",
        "http://evilgood.example",
        "http://good.example..",
        "http://.good.example",
        "http://good..example",
        "http://good.example@evil",
        "http://good.example:80@evil",
        "http://good.example:x@evil",
        "http://good.example%40evil",
        "http://good.example%2eevil",
        "http://good%2eexample",
        "http://user@good.example",
        "http://user:secret@good.example",
        "http://@good.example",
        "http://:@good.example",
        "http://evil#@good.example",
        "http://evil?@good.example",
        "http://evil/@good.example",
        "http://evil\\@good.example",
        "http://good.example\\@evil",
        "http://good.example\\.evil",
        "http://good.example#.evil",
        "http://good.example?.evil",
        "http://good.example,evil",
        "http://good.example evil",
        "http://good.example;evil",
        "http://good.example&evil",
        "http://good.example:80:evil",
        "http://good.example[evil]",
        "http://[good.example]",
        "http://good.example/?x",
        "http://good.example/#x",
        /* an ideographic full stop: some make a dot of it */
        "http://good\343\200\202example",
        "http://good.exampl\xef\xbd\x85",
    };
    keep_out("http://good.example", servers, COUNT(servers));
}

static void test_what_parsers_repair_or_skip(void **state)
{
    (void)state;
    static const char *const servers[] = {
        "",
        "good.example",
        "//good.example",
        "/good.example",
        "http:",
        "http:/",
        "http://",
        "http:///good.example",
        "http:/good.example",
        "http:good.example",
        "http:\\\\good.example",
        "http:/\\good.example",
        "http//good.example",
        "://good.example",
        "https://good.example:80",
        "ftp://good.example",
        "httpx://good.example",
        "javascript:http://good.example",
        " http://good.example",
        "http://good.example ",
        "http:// good.example",
        "http://good.example\n",
        "http://good.example\r\nHost: evil",
        "\thttp://good.example",
        "ht\ttp://good.example",
        "http://good\t.example",
        "http://good.example\t",
        "http://good.example\x01",
        "http://good.example\x7f",
        "http://good.example/\x1b[2J",
        "http://good.example:0",
        "http://good.example:65616", /* 80 and 65536 */
        "http://good.example:4294967376",
        "http://good.example:18446744073709551696",
        "http://good.example:+80",
        "http://good.example:-80",
        "http://good.example: 80",
        "http://good.example:80a",
        "http://good.example:0x50",
        "http://good.example:\xd9\xa8\xd9\xa0",
        "http://good.example:8080",
        "http://good.example:443",
        "http://good.example/%",
        "http://good.example/%4",
        "http://good.example/%4x",
        "http://good.example/%00",
        "http://good.example/%0d%0aHost:",
        "http://good.example/a//b",
        "http://good.example//",
        "http://good.example/<b>",
        "http://good.example/\"",
        "http://good.example/a b",
    };
    keep_out("http://good.example", servers, COUNT(servers));
}

static void test_a_port_is_a_number(void **state)
{
    (void)state;
    static const char *const in[] = {"https://h:443", "https://h", "https://h:0443/x"};
    static const char *const out[] = {"http://h:443", "http://h", "https://h:80", "https://h:4433",
                                      "https://h:44"};
    let_in("https://h", in, COUNT(in));
    keep_out("https://h", out, COUNT(out));
    assert_true(has("http://h:8080", "http://h:8080/x"));
    assert_true(has("http://h:65535", "http://h:65535"));
    assert_false(has("http://h:8080", "http://h:808"));
    assert_false(has("http://h:8080", "http://h:80800"));
    assert_false(has("http://h:8080", "http://h"));
}

static void test_paths_by_whole_segments(void **state)
{
    (void)state;
    static const char *const in[] = {
        "http://h/a/b",     "http://h/a/b/",       "http://h/a/b/c",        "http://h/a/./b",
        "http://h/a/b/.",   "http://h/a/x/../b",   "http://h/../a/b",       "http://h/a/b/c/..",
        "http://h/%61/b",   "http://h/a/%62/",     "http://h/a/%2e/b",      "http://h/a/b/...",
        "http://h/a/b/..c", "http://h/a/b/%C3%A9", "http://h/x/%2E%2e/a/b", "http://h/a/b/c;d",
    };
    static const char *const out[] = {
        "http://h",
        "http://h/",
        "http://h/a",
        "http://h/a/",
        "http://h/a/bc",
        "http://h/a/b.",
        "http://h/a/b;c",
        "http://h/A/b",
        "http://h/a/B",
        "http://h/x/a/b",
        "http://h//a/b",
        "http://h/a//b",
        "http://h/a/b//..", /* /a/b/ to some, /a/ to others */
        "http://h/a/b//../..",
        "http://h/a/b/..",
        "http://h/a/b/../",
        "http://h/a/b/../c",
        "http://h/a/b/../../a",
        "http://h/a/b/%2e%2e",
        "http://h/a/b/%2E./c",
        "http://h/a/b/.%2e/c",
        "http://h/a/b/..;/c",
        "http://h/a/b/.;/c",
        "http://h/a/b/..;x=y/c",
        "http://h/a/b/..%3b/c",
        "http://h/a/b/%2e%2e;/c",
        "http://h/a/b/%252e%252e/c", /* decoded twice */
        "http://h/a/b/..%2f",
        "http://h/a/b/..%2Fc",
        "http://h/a/b/..%5c",
        "http://h/a/b/..\\c",
        "http://h/a/b/..%00/c",
        "http://h/a%2fb",
        "http://h/a/b?",
        "http://h/a/b#",
        "http://h/c?/a/b",
        "http://h/c#/a/b",
        "http://evil/a/b",
        "https://h/a/b",
    };
    static const char *const entries[] = {"http://h/a/b", "http://h/a/b/", "http://h:80/a/./b",
                                          "http://h/a/x/../%62"};
    for (size_t i = 0; i < COUNT(entries); i++) {
        let_in(entries[i], in, COUNT(in));
        keep_out(entries[i], out, COUNT(out));
    }
    assert_true(has("http://h/a%20b", "http://h/a%20b/c"));
    assert_true(has("http://h/%c3%a9", "http://h/%C3%A9"));
    assert_true(has("http://h/a/..", "http://h/b"));
}

static void test_addresses(void **state)
{
    (void)state;
    static const char *const in[] = {"http://[::1]", "http://[0:0:0:0:0:0:0:1]:80/a",
                                     "http://[0000::0001]/", "http://[::0.0.0.1]"};
    static const char *const out[] = {
        "http://[::1",       "http://::1",        "http://[::1]]",           "http://[[::1]",
        "http://[::1]evil",  "http://[::1].evil", "http://[::1]@evil",       "http://evil@[::1]",
        "http://[::1%25lo]", "http://[::1%lo]",   "http://[::11]",           "http://[::1]:81",
        "http://[]",         "http://[:::1]",     "http://[1::1::1]",        "http://[v1.x]",
        "http://127.0.0.1",  "http://localhost",  "http://[::ffff:0.0.0.1]", "http://[::1]:x",
        "http://[ ::1]",     "http://[::1]\\",    "http://[::00001]",
    };
    let_in("http://[::1]", in, COUNT(in));
    keep_out("http://[::1]", out, COUNT(out));
    assert_true(has("http://[::1]", "http://[::1]:"));
    assert_true(has("http://[2001:DB8::a]:8443", "http://[2001:db8:0::A]:8443"));
    /* other spellings of an IPv4 address are other names: refused, not guessed at */
    static const char *const four[] = {
        "http://127.1",      "http://0177.0.0.1", "http://0x7f.0.0.1",        "http://2130706433",
        "http://127.0.0.01", "http://0",          "http://[::ffff:127.0.0.1]"};
    keep_out("http://127.0.0.1", four, COUNT(four));
    assert_true(has("http://127.0.0.1", "http://127.0.0.1/x"));
}

static void test_names_outside_ascii_are_not_converted(void **state)
{
    (void)state;
    assert_true(has("http://b\xc3\xbc"
                    "cher.example",
                    "http://B\xc3\xbc"
                    "cher.example/a"));
    assert_false(has("http://b\xc3\xbc"
                     "cher.example",
                     "http://xn--bcher-kva.example"));
    assert_false(has("http://b\xc3\xbc"
                     "cher.example",
                     "http://b\xc3\x9c"
                     "cher.example"));
}

static void test_any_of_several_or_all(void **state)
{
    (void)state;
    static const char *const entries[] = {"http://a.example", "https://b.example/x"};
    wq_allow *allow;
    assert_int_equal(wq_allow_new(&allow, entries, 2, NULL), WQ_OK);
    assert_true(wq_allow_has(allow, "http://a.example"));
    assert_true(wq_allow_has(allow, "https://b.example/x/y"));
    assert_false(wq_allow_has(allow, "https://a.example"));
    assert_false(wq_allow_has(allow, "http://a.example.b.example/x"));
    wq_allow_free(allow);
    assert_int_equal(wq_allow_new(&allow, NULL, 0, NULL), WQ_OK);
    assert_true(wq_allow_has(allow, "whatever it is"));
    wq_allow_free(allow);
    wq_allow_free(NULL);
}

static void test_entries_that_are_no_urls(void **state)
{
    (void)state;
    static const char *const wrong[] = {
        "",         "good.example",   "ftp://good.example", "http://",    "http://h:99999",
        "http://*", "http://h/a//b",  "http://h/%2e%2",     "http://h?x", "http://h#x",
        "http://[", "http://a b",     "http://h\n",         "http://h\\", "http://u:secret@h",
        "*",        "http://h\x1b[m",
    };
    for (size_t i = 0; i < COUNT(wrong); i++) {
        const char *const entries[] = {"http://good.example", wrong[i]};
        wq_allow *allow = NULL;
        wq_error error = {0};
        assert_int_equal(wq_allow_new(&allow, entries, 2, &error), WQ_ERROR_INVALID_ARGUMENT);
        assert_int_equal(error.code, WQ_ERROR_INVALID_ARGUMENT);
        assert_null(allow);
        assert_non_null(strstr(error.message, "entry 2"));
        assert_null(strstr(error.message, "secret")); /* it may end in a log */
        for (const char *c = error.message; *c; c++)
            assert_in_range(*c, ' ', '~');
        assert_int_equal(wq_allow_new(&allow, entries, 2, NULL), WQ_ERROR_INVALID_ARGUMENT);
    }
    const char *const null[] = {NULL};
    wq_allow *allow;
    assert_int_equal(wq_allow_new(&allow, null, 1, NULL), WQ_ERROR_INVALID_ARGUMENT);
    assert_int_equal(wq_allow_new(&allow, NULL, 1, NULL), WQ_ERROR_INVALID_ARGUMENT);
}

static void test_long_ones(void **state)
{
    (void)state;
    char *text = malloc(70000);
    assert_non_null(text);
    for (size_t n = 1; n < 69000; n = n < 4200 ? n + 1 : n * 2) {
        memcpy(text, "http://h/", 9);
        memset(text + 9, 'a', n);
        text[9 + n] = '\0';
        assert_int_equal(has("http://h", text), 9 + n < 2050);
        memset(text + 7, 'a', n + 2);
        assert_false(has("http://a", text));
    }
    memset(text + 7, 'a', 255);
    text[7 + 255] = '\0';
    assert_true(has(text, text));
    text[7 + 255] = 'a';
    text[7 + 256] = '\0';
    assert_false(has("http://a", text));
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_same_server_in_other_words),
        cmocka_unit_test(test_hosts_that_only_look_alike),
        cmocka_unit_test(test_what_parsers_repair_or_skip),
        cmocka_unit_test(test_a_port_is_a_number),
        cmocka_unit_test(test_paths_by_whole_segments),
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_names_outside_ascii_are_not_converted),
        cmocka_unit_test(test_any_of_several_or_all),
        cmocka_unit_test(test_entries_that_are_no_urls),
        cmocka_unit_test(test_long_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

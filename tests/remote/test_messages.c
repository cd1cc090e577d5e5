/* test_messages.c - what servers and packagers say to each other is written and read the same way,
 * also when others than ours speak. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "workqueue/remote/brokers.h"
#include "workqueue/remote/messages.h"

/* ---- jobs ------------------------------------------------------------------------------------ */

static void test_a_job_comes_back_as_it_was(void **state)
{
    const wq_params params = {"https://täst.example:9/ä?b=c", "5: x", " tok en"};
    wq_job_message message;
    (void)state;
    for (int rebuild = 0; rebuild < 2; rebuild++) {
        char *text = wq_job_message_text("0b1c", &params, rebuild);
        assert_non_null(text);
        assert_int_equal(wq_job_message_read(&message, text, strlen(text), NULL), WQ_OK);
        assert_string_equal(message.id, "0b1c");
        assert_string_equal(message.params.server, params.server);
        assert_string_equal(message.params.document_set_id, params.document_set_id);
        assert_string_equal(message.params.api_token, params.api_token);
        assert_int_equal(message.rebuild, rebuild);
        assert_int_equal(message.plain, 0);
        wq_job_message_clear(&message);
        free(text);
    }
}

static void test_a_url_alone_is_a_job(void **state)
{
    static const char *const urls[][2] = {
        {" http://server/api/docsets/5?fmt=meta,txt\n", "http://server/api/docsets/5?fmt=meta,txt"},
        {"http://server/api/docsets/5", "http://server/api/docsets/5"},
        {"https://server/docsets/5/#part\r\n", "https://server/docsets/5/#part"},
        {"http://server/5/", "http://server/5/"},
    };
    wq_job_message message;
    (void)state;
    for (size_t i = 0; i < sizeof urls / sizeof *urls; i++) {
        assert_int_equal(wq_job_message_read(&message, urls[i][0], strlen(urls[i][0]), NULL),
                         WQ_OK);
        assert_string_equal(message.id, "5");
        assert_string_equal(message.params.server, urls[i][1]);
        assert_string_equal(message.params.document_set_id, "5");
        assert_string_equal(message.params.api_token, "-");
        assert_int_equal(message.plain, 1);
        wq_job_message_clear(&message);
    }
}

static void refuse(const char *text, size_t len, const char *why)
{
    wq_job_message message;
    wq_error error = {0};
    assert_int_equal(wq_job_message_read(&message, text, len, &error), WQ_ERROR_INVALID_ARGUMENT);
    assert_non_null(strstr(error.message, why));
    assert_null(message.held);
}

static void test_what_is_no_job_is_refused(void **state)
{
    static char huge[WQ_MESSAGE_BYTES + 1];
    static const char nul[] = "Package: 1\nServer: http://a\0b\nDocument-Set: 2\nToken: t\n";
    (void)state;
    refuse("", 0, "package id");
    refuse("hello", 5, "package id");
    refuse("http://server", 13, "package id");
    refuse("http://server/", 14, "package id");
    refuse("http://a/b http://c/d", 21, "package id");
    refuse("Package: 1\nServer: http://a\nToken: t\n", 37, "lacks");
    refuse("Package: 1\nServer: \nDocument-Set: 2\nToken: t\n", 45, "server is missing");
    refuse(nul, sizeof nul - 1, "NUL");
    memset(huge, 'x', sizeof huge);
    refuse(huge, sizeof huge, "longer");
}

/* ---- answers --------------------------------------------------------------------------------- */

static wq_reply read_reply(const char *text)
{
    wq_reply reply;
    memset(&reply, 0xa5, sizeof reply);
    wq_reply_read(&reply, text, strlen(text));
    return reply;
}

static void test_accepted(void **state)
{
    static const struct {
        const char *text;
        uint64_t ms;
    } cases[] = {
        {"Accepted. 45 seconds", 45000},
        {"Accepted. 45 seconds\n", 45000},
        {"Accepted", 0},
        {"accepted. 2 minutes", 120000},
        {"Accepted. About 1.5 hours", 5400000},
        {"Accepted. 250 ms", 250},
        {"Accepted. 0 seconds", 0},
    };
    char text[64];
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        wq_reply reply = read_reply(cases[i].text);
        assert_int_equal(reply.kind, WQ_REPLY_ACCEPTED);
        assert_int_equal(reply.estimate_ms, cases[i].ms);
    }
    wq_reply_accepted(text, sizeof text, 44001);
    assert_string_equal(text, "Accepted. 45 seconds\n");
}

static void test_progress_in_every_dialect(void **state)
{
    static const char *const cases[][2] = {
        {"0.25\tindexing page 7", "0.25\tindexing page 7"},
        {"3/12\tindexing\n", "3/12\tindexing"},
        {"Progress: 0.5", "0.5"},
        {"progress: 3/4\tm", "3/4\tm"},
        {"25%", "0.250000000"},
        {"25 % complete", "0.250000000\tcomplete"},
        {"12.5%: reading", "0.125000000\treading"},
        {"100%", "1.000000000"},
        {"{\"n_ahead_in_queue\": 0, \"fraction\": 0.5, \"message\": \"ho\", \"error\": null}",
         "0.500000000\tho"},
        {"{\"fraction\": 1, \"message\": null}", "1.000000000"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        wq_reply reply = read_reply(cases[i][0]);
        assert_int_equal(reply.kind, WQ_REPLY_PROGRESS);
        assert_int_equal(reply.line_len, strlen(cases[i][1]));
        assert_memory_equal(reply.line, cases[i][1], reply.line_len);
    }
}

static void test_complete(void **state)
{
    char text[128];
    (void)state;
    wq_reply_complete(text, sizeof text, "https://foobar.s3.aws.com/package/5", 345345);
    assert_string_equal(text, "Complete: https://foobar.s3.aws.com/package/5\nSize: 345345\n");
    wq_reply reply;
    wq_reply_read(&reply, text, strlen(text));
    assert_int_equal(reply.kind, WQ_REPLY_COMPLETE);
    assert_int_equal(reply.url_len, 35);
    assert_memory_equal(reply.url, "https://foobar.s3.aws.com/package/5", 35);
    assert_true(reply.has_size);
    assert_int_equal(reply.size_bytes, 345345);
    reply = read_reply("Complete: u");
    assert_false(reply.has_size);
}

static void test_failed_and_cancelled(void **state)
{
    char text[64];
    (void)state;
    wq_reply_failed(text, sizeof text, "Exited with code 3\nstderr:\nno\n");
    wq_reply reply;
    wq_reply_read(&reply, text, strlen(text));
    assert_int_equal(reply.kind, WQ_REPLY_FAILED);
    assert_int_equal(reply.reason_len, strlen("Exited with code 3\nstderr:\nno\n"));
    assert_memory_equal(reply.reason, "Exited with code 3", 18);
    assert_int_equal(read_reply("Failed").reason_len, 0);
    assert_int_equal(read_reply("Cancelled\n").kind, WQ_REPLY_CANCELLED);
}

static void test_what_is_no_answer(void **state)
{
    static const char *const cases[] = {"",    "hello",     "150%", "%",
                                        "-3%", "{\"a\":1}", "{",    "Progress: x"};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(read_reply(cases[i]).kind, WQ_REPLY_OTHER);
}

/* ---- hints ----------------------------------------------------------------------------------- */

#define KEY "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static void test_hints_come_back_as_they_were(void **state)
{
    static const wq_hint hints[] = {
        {.kind = WQ_HINT_JOIN, .key = KEY, .id = "7", .reply_to = "/queue/a%2F7"},
        {.kind = WQ_HINT_CANCEL, .id = "7"},
    };
    char text[2048];
    wq_hint hint;
    (void)state;
    for (size_t i = 0; i < sizeof hints / sizeof *hints; i++) {
        size_t len = wq_hint_text(text, sizeof text, &hints[i]);
        assert_true(len < sizeof text);
        wq_hint_read(&hint, text, len);
        assert_memory_equal(&hint, &hints[i], sizeof hint);
    }
}

static void test_what_is_no_hint(void **state)
{
    static const char *const cases[] = {
        "",
        "Join: abc\nPackage: 1\nReply-To: /queue/a\n",
        "Join: " KEY "\nPackage: 1\n",
        "Join: " KEY "\nReply-To: /queue/a\n",
        "Cancel: \n",
        "Cancelled\n",
        "0.5\tCancel: 7",
    };
    wq_hint hint;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        wq_hint_read(&hint, cases[i], strlen(cases[i]));
        assert_int_equal(hint.kind, WQ_HINT_OTHER);
    }
}

/* ---- destinations ---------------------------------------------------------------------------- */

static void test_destinations(void **state)
{
    char text[32];
    (void)state;
    assert_int_equal(wq_destination(text, sizeof text, "/queue/package%2F{id}", "5"), WQ_OK);
    assert_string_equal(text, "/queue/package%2F5");
    assert_int_equal(wq_destination(text, sizeof text, "/queue/package/", "a b/c"), WQ_OK);
    assert_string_equal(text, "/queue/package/a%20b%2Fc");
    assert_int_equal(wq_destination(text, sizeof text, "/q/{id}.x", "5"), WQ_OK);
    assert_string_equal(text, "/q/5.x");
    for (size_t size = 0; size < sizeof "/q/%20.x"; size++)
        assert_int_equal(wq_destination(text, size, "/q/{id}.x", " "), WQ_ERROR_INVALID_ARGUMENT);
    assert_int_equal(wq_destination(text, sizeof "/q/%20.x", "/q/{id}.x", " "), WQ_OK);
}

/* ---- several brokers ------------------------------------------------------------------------- */

static void test_a_key_chooses_a_broker(void **state)
{
    char *all[] = {"stomp://a:b@one", "stomp://two", "stomp://three"}, key[WQ_KEY_SIZE];
    char *other_login[] = {"stomp://c:d@one", "stomp://two", "stomp://three"};
    int of[3] = {0};
    (void)state;
    for (int i = 0; i < 3000; i++) {
        snprintf(key, sizeof key, "%064x", i);
        size_t chosen = wq_brokers_choose(all, 3, key), of_two = wq_brokers_choose(all, 2, key);
        of[chosen]++;
        if (chosen < 2) /* without the third only its own keys move */
            assert_int_equal(of_two, chosen);
        assert_int_equal(wq_brokers_choose(other_login, 3, key), chosen);
    }
    for (int i = 0; i < 3; i++)
        assert_in_range(of[i], 850, 1150);
}

static void test_lists_of_brokers(void **state)
{
    char *all[WQ_MAX_BROKERS];
    size_t n;
    (void)state;
    assert_int_equal(wq_brokers_split(all, &n, "a,b;c", NULL), WQ_OK);
    assert_int_equal(n, 2);
    assert_string_equal(all[0], "a,b");
    assert_string_equal(all[1], "c");
    free(all[0]);
    assert_int_equal(wq_brokers_split(all, &n, ";a", NULL), WQ_ERROR_INVALID_ARGUMENT);
    assert_int_equal(wq_brokers_split(all, &n, "", NULL), WQ_ERROR_INVALID_ARGUMENT);
    assert_int_equal(wq_brokers_split(all, &n, NULL, NULL), WQ_ERROR_INVALID_ARGUMENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_job_comes_back_as_it_was),
        cmocka_unit_test(test_a_url_alone_is_a_job),
        cmocka_unit_test(test_what_is_no_job_is_refused),
        cmocka_unit_test(test_accepted),
        cmocka_unit_test(test_progress_in_every_dialect),
        cmocka_unit_test(test_complete),
        cmocka_unit_test(test_failed_and_cancelled),
        cmocka_unit_test(test_what_is_no_answer),
        cmocka_unit_test(test_hints_come_back_as_they_were),
        cmocka_unit_test(test_what_is_no_hint),
        cmocka_unit_test(test_a_key_chooses_a_broker),
        cmocka_unit_test(test_lists_of_brokers),
        cmocka_unit_test(test_destinations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

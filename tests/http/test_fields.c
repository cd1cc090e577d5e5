/* test_fields.c - what the decoders of requests make of good and bad input. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "workqueue/http/request/fields.h"
#include "workqueue/http/request/media_types.h"

/* Blocks of their own, so that a sanitizer sees a write beyond any of them. */
struct block {
    struct block *next;
    char bytes[];
};

static void *take(void *user, size_t size)
{
    struct block **list = user, *block = malloc(sizeof(*block) + size);

    assert_non_null(block);
    block->next = *list;
    *list = block;
    return block->bytes;
}

static struct block *blocks;
static const wq_arena arena = {take, &blocks};

static int give_back(void **state)
{
    (void)state;
    while (blocks != NULL) {
        struct block *next = blocks->next;
        free(blocks);
        blocks = next;
    }
    return 0;
}

#define TEXT(literal) (literal), sizeof(literal) - 1

static void assert_fields(const wq_fields *fields, const char *server, const char *id,
                          const char *token)
{
    const char *const got[] = {fields->server, fields->document_set_id, fields->api_token};
    const char *const expected[] = {server, id, token};

    for (size_t i = 0; i < 3; i++) {
        if (expected[i] == NULL)
            assert_null(got[i]);
        else
            assert_string_equal(got[i] != NULL ? got[i] : "(none)", expected[i]);
    }
}

/* ---- urlencoded ----------------------------------------------------------------------------- */

static wq_fields form(const char *data)
{
    wq_fields fields = {0};
    const char *why = NULL;

    assert_int_equal(wq_fields_urlencoded(&fields, arena, data, strlen(data), &why), 0);
    assert_null(why);
    return fields;
}

static void form_is_decoded(void **state)
{
    wq_fields f;

    (void)state;
    f = form("server=http%3A%2f%2Fa+b&documentSetId=1%2B2&apiToken=t");
    assert_fields(&f, "http://a b", "1+2", "t");
    f = form("api_token=t&&x&=y&document_set_id=%C3%A9&");
    assert_fields(&f, NULL, "\xc3\xa9", "t");
    f = form("server&documentSetId=&apiToken=a=b");
    assert_fields(&f, "", "", "a=b");
    f = form("%73erver=s&Server=no&serve=no&serverr=no");
    assert_fields(&f, "s", NULL, NULL);
    f = form("");
    assert_fields(&f, NULL, NULL, NULL);
}

static void first_of_two_stays(void **state)
{
    wq_fields f = form("server=1&server=2&document_set_id=3&documentSetId=4");
    const char *why;

    (void)state;
    assert_fields(&f, "1", "3", NULL);
    assert_int_equal(wq_fields_urlencoded(&f, arena, TEXT("server=5&apiToken=6"), &why), 0);
    assert_fields(&f, "1", "3", "6");
}

static void bad_forms_are_refused(void **state)
{
    static const char *const bad[] = {"server=%",    "server=%4",    "server=%4&x=1", "server=%zz",
                                      "other=%g0",   "%=1",          "server=a%00b",  "x=%00",
                                      "server=%-1a", "server=1&%00", "server=% 41"};

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        wq_fields f = {0};
        const char *why = NULL;
        assert_int_equal(wq_fields_urlencoded(&f, arena, bad[i], strlen(bad[i]), &why), -1);
        assert_non_null(why);
    }
    wq_fields f = {0};
    const char *why = NULL;
    assert_int_equal(wq_fields_urlencoded(&f, arena, TEXT("server=a\0b"), &why), -1);
    assert_non_null(why);
    assert_int_equal(wq_fields_urlencoded(&f, arena, NULL, 0, &why), 0);
}

static void query_field_by_name(void **state)
{
    static const char query[] = "q=a%26b+c&empty=&q=second&bad=%x";
    const size_t n = sizeof(query) - 1;

    (void)state;
    assert_string_equal(wq_query_field(arena, query, n, "q"), "a&b c");
    assert_string_equal(wq_query_field(arena, query, n, "empty"), "");
    assert_null(wq_query_field(arena, query, n, "bad"));
    assert_null(wq_query_field(arena, query, n, "other"));
    assert_null(wq_query_field(arena, query, n, ""));
    assert_null(wq_query_field(arena, NULL, 0, "q"));
}

/* ---- JSON ----------------------------------------------------------------------------------- */

static void json_is_read(void **state)
{
    wq_fields f = {0};
    const char *why = NULL;

    (void)state;
    assert_int_equal(wq_fields_json(&f, arena,
                                    TEXT("{\"server\": \"http://\\u00e9\", \"documentSetId\": 12,"
                                         " \"apiToken\": \"t\", \"x\": [1, {\"server\": 2}]}"),
                                    &why),
                     0);
    assert_fields(&f, "http://\xc3\xa9", "12", "t");
    f = (wq_fields){.server = "kept"};
    assert_int_equal(wq_fields_json(&f, arena,
                                    TEXT("{\"server\":1,\"document_set_id\":9223372036854775807,"
                                         "\"api_token\":null}"),
                                    &why),
                     0);
    assert_fields(&f, "kept", "9223372036854775807", NULL);
    assert_null(f.rebuild);
    assert_int_equal(wq_fields_json(&f, arena, TEXT("{\"rebuild\": true}"), &why), 0);
    assert_string_equal(f.rebuild, "true");
    f = (wq_fields){0};
    assert_int_equal(wq_fields_json(&f, arena, TEXT("{\"rebuild\": false}"), &why), 0);
    assert_string_equal(f.rebuild, "false");
}

static void bad_json_is_refused_with_a_reason(void **state)
{
    static const struct {
        const char *json, *why;
    } bad[] = {
        {"", "not valid JSON"},
        {"{\"apiToken\": \"secret\"", "line 1"},
        {"{} {}", "not valid JSON"},
        {"[]", "a JSON object"},
        {"\"server\"", "a JSON object"},
        {"{\"server\": 1}", "server must be a string"},
        {"{\"apiToken\": [\"secret\"]}", "apiToken must be a string"},
        {"{\"documentSetId\": 1.5}", "documentSetId must be a string or a whole number"},
        {"{\"documentSetId\": true}", "documentSetId must be"},
        {"{\"rebuild\": 1}", "rebuild must be a string, true or false"},
        {"{\"server\": \"a\\u0000b\"}", "not valid JSON"},
        {"{\"server\": \"\xff\"}", "not valid JSON"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        wq_fields f = {0};
        const char *why = "";
        assert_int_equal(wq_fields_json(&f, arena, bad[i].json, strlen(bad[i].json), &why), -1);
        assert_non_null(strstr(why, bad[i].why));
        assert_null(strstr(why, "secret"));
    }
}

static void deep_json_is_refused(void **state)
{
    enum { DEPTH = 1 << 20 };
    char *deep = malloc(DEPTH);
    wq_fields f = {0};
    const char *why = NULL;

    (void)state;
    memset(deep, '[', DEPTH);
    assert_int_equal(wq_fields_json(&f, arena, deep, DEPTH, &why), -1);
    free(deep);
}

/* ---- multipart ------------------------------------------------------------------------------ */

static int multipart(wq_fields *fields, const char *data, size_t len, const char **why)
{
    return wq_fields_multipart(fields, arena, "b", 1, data, len, why);
}

static void multipart_is_read(void **state)
{
    wq_fields f = {0};
    const char *why = NULL;

    (void)state;
    assert_int_equal(
        multipart(&f,
                  TEXT("preamble\r\n--b\r\n"
                       "Content-Type: text/plain\r\n"
                       "CONTENT-disposition:form-data; filename=\"a;name=x\"; name=\"server\"\r\n"
                       "\r\nhttp://a\r\n--bb\r\n--b \t\r\n"
                       "Content-Disposition: form-data; name=documentSetId\r\n\r\n12\r\n"
                       "--b\r\nContent-Disposition: form-data; name=\"other\"\r\n\r\nx\0y\r\n"
                       "--b\r\nContent-Disposition: form-data; name=\"apiToken\"\r\n\r\n\r\n"
                       "--b--\r\nepilogue"),
                  &why),
        0);
    assert_fields(&f, "http://a\r\n--bb", "12", "");
}

static void first_part_stays(void **state)
{
    wq_fields f = {0};
    const char *why = NULL;

    (void)state;
    assert_int_equal(
        multipart(&f,
                  TEXT("--b\r\nContent-Disposition: form-data; name=\"server\"\r\n\r\n1\r\n"
                       "--b\r\nContent-Disposition: form-data; name=\"server\"\r\n\r\n2\r\n--b--"),
                  &why),
        0);
    assert_fields(&f, "1", NULL, NULL);
    assert_int_equal(multipart(&f, TEXT("--b--"), &why), 0);
}

static void bad_multipart_is_refused(void **state)
{
#define PART "--b\r\nContent-Disposition: form-data; name=\"server\"\r\n\r\n"
    static const struct {
        const char *data;
        size_t len;
    } bad[] = {
        {TEXT("")},
        {TEXT("no boundary at all")},
        {TEXT("--c\r\n\r\nx\r\n--c--")},
        {TEXT(PART "x")},
        {TEXT(PART "x\r\n--b")},
        {TEXT(PART "x\r\n--b-")},
        {TEXT(PART "x\r\n--b\r\n")},
        {TEXT(PART "x\n--b--")},
        {TEXT(PART "x\0y\r\n--b--")},
        {TEXT("--b\r\n\r\nx\r\n--b--")},
        {TEXT("--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--")},
        {TEXT("--b\r\nContent-Disposition: form-data; name=\"server\r\n\r\nx\r\n--b--")},
        {TEXT("--b\r\nContent-Disposition: form-data; name=\"server\"\r\n--b--")},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        wq_fields f = {0};
        const char *why = NULL;
        assert_int_equal(multipart(&f, bad[i].data, bad[i].len, &why), -1);
        assert_non_null(why);
    }
#undef PART
}

static void boundary_has_1_to_70_characters(void **state)
{
    char boundary[71], body[80];
    wq_fields f = {0};
    const char *why = NULL;

    (void)state;
    memset(boundary, 'x', sizeof(boundary));
    memcpy(body, "--", 2);
    memcpy(body + 2, boundary, 70);
    memcpy(body + 72, "--", 2);
    assert_int_equal(wq_fields_multipart(&f, arena, boundary, 70, body, 74, &why), 0);
    assert_int_equal(wq_fields_multipart(&f, arena, boundary, 71, body, 74, &why), -1);
    assert_int_equal(wq_fields_multipart(&f, arena, "", 0, TEXT("----"), &why), -1);
}

/* ---- headers -------------------------------------------------------------------------------- */

static const char *basic(const char *value)
{
    const char *why = NULL, *token = wq_basic_token(arena, value, strlen(value), &why);

    if (token == NULL)
        assert_string_equal(why, "Authorization must be \"Basic base64(token:x-auth-token)\"");
    return token;
}

static void basic_gives_the_token(void **state)
{
    (void)state;
    assert_string_equal(basic("Basic dG9rZW46eC1hdXRoLXRva2Vu"), "token");
    assert_string_equal(basic("bAsIc   dDp4  "), "t");    /* t:x */
    assert_string_equal(basic("Basic dDp4Og=="), "t");    /* t:x: */
    assert_string_equal(basic("Basic dDp4Og"), "t");      /* without padding */
    assert_string_equal(basic("Basic dDo="), "t");        /* t: */
    assert_string_equal(basic("Basic OnB3"), "");         /* :pw */
    assert_string_equal(basic("Basic dDoAAA=="), "t");    /* NUL in the password */
    assert_string_equal(basic("Basic Pj8/Pzo="), ">???"); /* a slash in the base64 */
}

static void other_authorization_is_refused(void **state)
{
    static const char *const bad[] = {"",
                                      "Basic",
                                      "Basic ",
                                      "Basicdog=",
                                      "Bearer dDp4",
                                      "Basic dG9rZW4=",  /* no colon */
                                      "Basic dDp4=",     /* too much padding */
                                      "Basic dDp4Og=",   /* too little */
                                      "Basic dDp4Og===", /* too much */
                                      "Basic d",
                                      "Basic ====",
                                      "Basic dDp4 dDp4",
                                      "Basic d!p4",
                                      "Basic dAB0Og==", /* NUL in the token */
                                      "Basic t:x"};

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_null(basic(bad[i]));
}

static void assert_type(const char *value, const char *type, const char *boundary)
{
    const char *got_type, *got_boundary;

    assert_int_equal(wq_content_type(arena, value, strlen(value), &got_type, &got_boundary), 0);
    assert_string_equal(got_type, type);
    if (boundary == NULL)
        assert_null(got_boundary);
    else
        assert_string_equal(got_boundary, boundary);
}

static void content_type_is_split(void **state)
{
    (void)state;
    assert_type("Application/JSON", "application/json", NULL);
    assert_type(" text/plain ; charset=utf-8;", "text/plain", NULL);
    assert_type("multipart/form-data; boundary=abc", "multipart/form-data", "abc");
    assert_type("multipart/form-data;x=\"a;b\"; BOUNDARY=\"a \\\"b\"", "multipart/form-data",
                "a \"b");
    assert_type("multipart/form-data; boundary=----=_Part_1/2", "multipart/form-data",
                "----=_Part_1/2");
    assert_type("multipart/form-data; boundary=", "multipart/form-data", "");
}

static void bad_content_types_are_refused(void **state)
{
    static const char *const bad[] = {"",           "json",       "a/",           "/b",
                                      "a/b c",      "a/b;=x",     "a b/",         "a/b; c",
                                      "a/b; c = d", "a/b; c=\"d", "a/b; c=\"d\\", "a/b, c/d",
                                      ";",          "a/b; c=\"",  "a/b;c=d\"e"};
    const char *type, *boundary;

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(wq_content_type(arena, bad[i], strlen(bad[i]), &type, &boundary), -1);
    assert_int_equal(wq_content_type(arena, NULL, 0, &type, &boundary), -1);
}

static void accept_chooses(void **state)
{
    static const char *const offers[] = {"application/json", "application/x-ndjson",
                                         "text/event-stream"};
    static const struct {
        const char *accept;
        int choice;
    } cases[] = {
        {"", 0},
        {"*/*", 0},
        {"text/event-stream", 2},
        {"Text/Event-Stream", 2},
        {"text/html", -1},
        {"text/*", 2},
        {"text/*, application/*", 0},
        {"application/json;q=0.5, application/x-ndjson", 1},
        {"application/json;q=0.5,*/*;q=0.6", 1},
        {"application/*;q=0.1, */*;q=0.2", 2},
        {"*/*, application/json;q=0", 1},
        {"*/*;q=0", -1},
        {"*/*;q=0.001", 0},
        {"application/json;q=0.000", -1},
        {"text/event-stream;q=1.000, application/json;q=0.999", 2},
        {"application/json; charset=utf-8", 0},
        {"text/event-stream;q=2, application/x-ndjson;q=0.1", 1},
        {"text/event-stream;q=x, application/x-ndjson;q=0.1", 1},
        {"text/event-stream;q=0.1234, application/x-ndjson;q=0.1", 1},
        {"*;q=.2, text/event-stream;q=.2", 2},
        {"text/event-stream;x=\"a,application/json\"", 2},
        {"text/html, image/gif, *; q=.2, */*; q=.2", 0},
        {"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8", 0},
        {",, ,text/event-stream,", 2},
        {"garbage", 0},
        {",", 0},
        {"text/event-strea, text/event-streams", -1},
        {"application/x-ndjson;Q=0.3, application/json;q=0.2", 1},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const int got = wq_accept(cases[i].accept, strlen(cases[i].accept), offers, 3);
        if (got != cases[i].choice)
            fail_msg("Accept: %s chose %d, not %d", cases[i].accept, got, cases[i].choice);
    }
    assert_int_equal(wq_accept(NULL, 0, offers, 3), 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_teardown(name, give_back)
    const struct CMUnitTest tests[] = {
        TEST(form_is_decoded),
        TEST(first_of_two_stays),
        TEST(bad_forms_are_refused),
        TEST(query_field_by_name),
        TEST(json_is_read),
        TEST(bad_json_is_refused_with_a_reason),
        TEST(deep_json_is_refused),
        TEST(multipart_is_read),
        TEST(first_part_stays),
        TEST(bad_multipart_is_refused),
        TEST(boundary_has_1_to_70_characters),
        TEST(basic_gives_the_token),
        TEST(other_authorization_is_refused),
        TEST(content_type_is_split),
        TEST(bad_content_types_are_refused),
        TEST(accept_chooses),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

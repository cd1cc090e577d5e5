/* test_s3.c - the S3 store against a server that says what the test tells it to: failures that come
 * and go, connections that are cut, answers that are none. tests/remote has real stores. */
#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <strings.h>
#include <sys/socket.h>

#include <workqueue/remote.h>

#include "tests/support.h"
#include "workqueue/s3/text.h"

#define KEY "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define OTHER "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
#define SECRET "very/secret+key"
#define TAG "ETag: \"0123abcd\"\r\n"
#define CUT "cut" /* the connection ends instead of an answer */
#define EMPTY "Content-Length: 0\r\nConnection: close\r\n\r\n"
#define ANSWER(status) "HTTP/1.1 " status " Said\r\n" TAG EMPTY
#define SIZED(n) "HTTP/1.1 200 OK\r\n" TAG "Content-Length: " n "\r\nConnection: close\r\n\r\n"
#define PART(range)                                                                                \
    "HTTP/1.1 206 Partial\r\n" TAG "Content-Range: bytes " range                                   \
    "\r\nContent-Length: 5\r\nConnection: close\r\n\r\n"
#define TEXT(status, text) "HTTP/1.1 " status " Said\r\nConnection: close\r\n\r\n" text

enum { MANY = 16, REQUEST_BYTES = 8192 };

typedef struct bed {
    char dir[FOLDER_SIZE], endpoint[64];
    logbook log;
    wq_s3_options options;
    wq_store *store;
    wq_error error;

    int listener;
    pthread_t server;
    pthread_mutex_t lock;
    /* under the lock */
    const char *script[MANY]; /* what is answered, in turn; the last one again and again */
    size_t n_script, n_requests;
    char requests[MANY][REQUEST_BYTES]; /* heads */
} bed;

static const wq_params params = {"http://overview.example", "17", TOKEN};

/* ---- the server that is told what to say ------------------------------------------------------
 */

static size_t length_of_body(const char *head)
{
    const char *field = strcasestr(head, "\r\nContent-Length:");
    return field != NULL ? (size_t)atol(field + strlen("\r\nContent-Length:")) : 0;
}

static void read_request(int fd, char head[REQUEST_BYTES])
{
    static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
    char body[1 << 16];
    size_t n = 0;
    head[0] = '\0';
    while (strstr(head, "\r\n\r\n") == NULL && n < REQUEST_BYTES - 1 &&
           recv(fd, head + n, 1, 0) == 1)
        head[++n] = '\0';
    if (strcasestr(head, "\r\nExpect:") != NULL)
        send(fd, go_on, sizeof go_on - 1, MSG_NOSIGNAL);
    for (size_t left = length_of_body(head); left > 0;) {
        ssize_t got = recv(fd, body, left < sizeof body ? left : sizeof body, 0);
        if (got <= 0)
            break;
        left -= (size_t)got;
    }
}

static const char *next_answer(bed *b, const char *head)
{
    pthread_mutex_lock(&b->lock);
    size_t at = b->n_requests < b->n_script ? b->n_requests : b->n_script - 1;
    const char *answer = b->script[at];
    if (b->n_requests < MANY)
        strcpy(b->requests[b->n_requests], head);
    b->n_requests++;
    pthread_mutex_unlock(&b->lock);
    return answer;
}

static void *serve(void *arg)
{
    bed *b = arg;
    char head[REQUEST_BYTES];
    for (int fd; (fd = accept(b->listener, NULL, NULL)) >= 0; close(fd)) {
        read_request(fd, head);
        if (head[0] == '\0')
            continue;
        const char *answer = next_answer(b, head);
        if (strcmp(answer, CUT) != 0)
            send(fd, answer, strlen(answer), MSG_NOSIGNAL);
        shutdown(fd, SHUT_WR);
    }
    return NULL;
}

static void say(bed *b, size_t n, const char *const *answers)
{
    pthread_mutex_lock(&b->lock);
    assert_true(n <= MANY);
    memcpy(b->script, answers, n * sizeof *answers);
    b->n_script = n;
    b->n_requests = 0;
    pthread_mutex_unlock(&b->lock);
}

#define SAY(b, ...)                                                                                \
    say(b, sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *), (const char *[]){__VA_ARGS__})

static size_t asked(bed *b)
{
    pthread_mutex_lock(&b->lock);
    size_t n = b->n_requests;
    pthread_mutex_unlock(&b->lock);
    return n;
}

static void expect_asked(bed *b, size_t i, const char *begin)
{
    if (strncmp(b->requests[i], begin, strlen(begin)) != 0)
        fail_msg("request %zu should begin with '%s', but is '%.200s'", i, begin, b->requests[i]);
}

static int has(bed *b, size_t i, const char *text)
{
    return strcasestr(b->requests[i], text) != NULL;
}

/* ---- a store of it ----------------------------------------------------------------------------
 */

static void open_store(bed *b)
{
    int result = wq_s3_store_open(&b->store, &b->options, &b->error);
    if (result != WQ_OK)
        fail_msg("%s", b->error.message);
}

static int set_up(void **state)
{
    bed *b = calloc(1, sizeof *b);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    b->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (make_folder(b->dir, "s3") != 0 ||
        bind(b->listener, (struct sockaddr *)&address, size) != 0 || listen(b->listener, 64) != 0 ||
        getsockname(b->listener, (struct sockaddr *)&address, &size) != 0)
        return -1;
    snprintf(b->endpoint, sizeof b->endpoint, "http://127.0.0.1:%d", ntohs(address.sin_port));
    pthread_mutex_init(&b->lock, NULL);
    wq_s3_options_init(&b->options, sizeof b->options);
    b->options.url = "s3://bucket/pre";
    b->options.endpoint = b->endpoint;
    b->options.access_key = "access:key";
    b->options.secret_key = SECRET;
    b->options.cache_dir = b->dir;
    b->options.backoff_ms = 1;
    b->options.log = on_log;
    b->options.log_user = &b->log;
    *state = b;
    return pthread_create(&b->server, NULL, serve, b);
}

static int tear_down(void **state)
{
    bed *b = *state;
    if (b->store != NULL)
        b->store->close(b->store);
    shutdown(b->listener, SHUT_RDWR);
    pthread_join(b->server, NULL);
    close(b->listener);
    assert_null(strstr(b->log.text, SECRET));
    assert_null(strstr(b->error.message, SECRET));
    const int result = remove_folder(b->dir);
    free(b);
    return result;
}

static int find(bed *b)
{
    return b->store->find(b->store->self, KEY, NULL, &b->error);
}

/* A temporary file of `n` bytes, from malloc. */
static char *make_temp(bed *b, size_t n)
{
    char *temp;
    assert_int_equal(b->store->begin(b->store->self, KEY, &temp, &b->error), WQ_OK);
    assert_int_equal(truncate(temp, (off_t)n), 0);
    return temp;
}

static int publish(bed *b, const char *temp, int replace)
{
    wq_publish item = {.key = KEY, .params = &params, .replace = replace, .temp_path = temp};
    b->store->publish(b->store->self, &item, 1);
    b->error = item.error;
    return item.result;
}

/* How many files there are in the folder of copies, but for the lock. */
static int count_files(bed *b)
{
    char path[128];
    snprintf(path, sizeof path, "%s/s3-copies", b->dir);
    return entries_of(path) - 3;
}

/* ---- text -------------------------------------------------------------------------------------
 */

static void test_percent_encoding(void **state)
{
    char out[16];
    (void)state;
    assert_int_equal(wq_s3_encode(out, sizeof out, "a/b c~\xc3\xbc", "/"), 0);
    assert_string_equal(out, "a/b%20c~%C3%BC");
    assert_int_equal(wq_s3_encode(out, sizeof out, "a/b", ""), 0);
    assert_string_equal(out, "a%2Fb");
    assert_int_equal(wq_s3_encode(out, 4, "abc", ""), 0);
    assert_int_equal(wq_s3_encode(out, 3, "abc", ""), -1);
    assert_int_equal(wq_s3_encode(out, 3, "+", ""), -1);
    assert_int_equal(wq_s3_encode(out, 0, "", ""), -1);
}

static void expect_xml(const char *xml, const char *expected)
{
    char out[16] = "";
    const char *next = wq_s3_xml_next(xml, "Key", out, sizeof out);
    if (expected == NULL) {
        assert_null(next);
        return;
    }
    assert_non_null(next);
    assert_string_equal(out, expected);
}

static void test_elements_of_xml(void **state)
{
    char out[16];
    (void)state;
    expect_xml("<A><Key>x</Key></A>", "x");
    expect_xml("<Key></Key>", "");
    expect_xml("<Key>&lt;&amp;&gt;&quot;&apos;</Key>", "<&>\"'");
    expect_xml("<Key>&#65;&#xfc;&#x1F600;</Key>", "A\xc3\xbc\xf0\x9f\x98\x80");
    expect_xml("<Key>123456789012345</Key>", "123456789012345");
    static const char *const bad[] = {"",
                                      "<Key>",
                                      "<Key",
                                      "</Key>",
                                      "</Key><Key>",
                                      "<Key>x</Ke",
                                      "<Keys>x</Keys>",
                                      "<Key>1234567890123456</Key>",
                                      "<Key><b>x</b></Key>",
                                      "<Key>&none;</Key>",
                                      "<Key>&amp</Key>",
                                      "<Key>&#0;</Key>",
                                      "<Key>&#xd800;</Key>",
                                      "<Key>&#x110000;</Key>",
                                      "<Key>&#99999999999999999999;</Key>"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        expect_xml(bad[i], NULL);
    const char *next = wq_s3_xml_next("<Key>a</Key><Key>b</Key>", "Key", out, sizeof out);
    assert_non_null(wq_s3_xml_next(next, "Key", out, sizeof out));
    assert_string_equal(out, "b");
}

/* ---- options ----------------------------------------------------------------------------------
 */

static void expect_refused(bed *b, const char *word)
{
    wq_store *store = NULL;
    assert_int_equal(wq_s3_store_open(&store, &b->options, &b->error), WQ_ERROR_INVALID_ARGUMENT);
    if (strstr(b->error.message, word) == NULL)
        fail_msg("expected '%s' in '%s'", word, b->error.message);
    assert_null(store);
}

static void test_options_that_are_wrong(void **state)
{
    bed *b = *state;
    const wq_s3_options good = b->options;
    static const char *const urls[] = {NULL,         "bucket",         "http://bucket/x",
                                       "s3://",      "s3://ab/x",      "s3://bu cket/x",
                                       "s3:///x",    "s3://.../x",     "s3://bucket/a\nb",
                                       "s3://a?b=c", "s3://u:p@bucket"};
    for (size_t i = 0; i < sizeof urls / sizeof *urls; i++) {
        b->options.url = urls[i];
        expect_refused(b, "url");
    }
    b->options = good;
    static const char *const endpoints[] = {"127.0.0.1",    "ftp://x",      "http://",
                                            "http://u:p@x", "http://x?y=z", "http://x#y"};
    for (size_t i = 0; i < sizeof endpoints / sizeof *endpoints; i++) {
        b->options.endpoint = endpoints[i];
        expect_refused(b, "endpoint");
    }
    b->options = good;
    b->options.secret_key = NULL;
    expect_refused(b, "AWS_SECRET_ACCESS_KEY");
    b->options.secret_key = "a\r\nb";
    expect_refused(b, "control");
    b->options = good;
    b->options.region = "a:b";
    expect_refused(b, "region");
    b->options = good;
    b->options.part_bytes = 1 << 20;
    expect_refused(b, "part_bytes");
    b->options = good;
    b->options.cache_dir = NULL;
    expect_refused(b, "cache_dir");
    wq_s3_options_init(&b->options, 8);
    expect_refused(b, "size");
    b->options = good;
    b->options.cache_dir = "/nowhere";
    assert_int_equal(wq_s3_store_open(&b->store, &b->options, &b->error), WQ_ERROR_SYSTEM);
}

static void test_one_process_a_cache(void **state)
{
    bed *b = *state;
    wq_store *second;
    open_store(b);
    assert_int_equal(wq_s3_store_open(&second, &b->options, &b->error), WQ_ERROR_LOCKED);
}

static void test_the_environment(void **state)
{
    bed *b = *state;
    b->options.endpoint = b->options.access_key = b->options.secret_key = NULL;
    setenv("AWS_ENDPOINT_URL_S3", b->endpoint, 1);
    setenv("AWS_ACCESS_KEY_ID", "of-the-environment", 1);
    setenv("AWS_SECRET_ACCESS_KEY", "its-secret", 1);
    setenv("AWS_SESSION_TOKEN", "its-session", 1);
    setenv("AWS_REGION", "mars-1", 1);
    open_store(b);
    static const char *const names[] = {"AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID",
                                        "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        unsetenv(names[i]);
    SAY(b, SIZED("7"));
    assert_int_equal(find(b), WQ_OK);
    assert_true(has(b, 0, "Credential=of-the-environment/"));
    assert_true(has(b, 0, "/mars-1/s3/aws4_request"));
    assert_true(has(b, 0, "x-amz-security-token: its-session"));
    assert_false(has(b, 0, "its-secret"));
}

/* ---- reading ----------------------------------------------------------------------------------
 */

static void test_answers_to_find(void **state)
{
    bed *b = *state;
    open_store(b);
    SAY(b, SIZED("7"), ANSWER("404"), ANSWER("403"), ANSWER("301"));
    assert_int_equal(find(b), WQ_OK);
    expect_asked(b, 0, "HEAD /bucket/pre/" KEY " HTTP/1.1\r\n");
    assert_int_equal(find(b), WQ_ERROR_NOT_FOUND);
    assert_int_equal(find(b), WQ_ERROR_AWAY); /* with others they may do it later */
    assert_non_null(strstr(b->error.message, "credentials"));
    assert_non_null(strstr(b->error.message, b->endpoint));
    assert_int_equal(find(b), WQ_ERROR_SYSTEM);
    assert_non_null(strstr(b->error.message, "region"));
    assert_int_equal(asked(b), 4);
}

static void test_failures_that_pass(void **state)
{
    bed *b = *state;
    open_store(b);
    SAY(b, ANSWER("500"), ANSWER("503"), ANSWER("429"), CUT, SIZED("7"));
    assert_int_equal(find(b), WQ_OK);
    assert_int_equal(asked(b), 5);
}

static void test_failures_that_do_not_pass(void **state)
{
    bed *b = *state;
    static const char *const answers[][2] = {
        {ANSWER("500"), "500"}, {ANSWER("429"), "429"}, {CUT, "reply"}};
    open_store(b);
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
        SAY(b, answers[i][0]);
        assert_int_equal(find(b), WQ_ERROR_AWAY);
        assert_int_equal(asked(b), b->options.retries + 1);
        assert_non_null(strstr(b->error.message, "cannot be reached now"));
        if (strstr(b->error.message, answers[i][1]) == NULL)
            fail_msg("expected '%s' in '%s'", answers[i][1], b->error.message);
    }
}

static void test_who_speaks_no_http_is_no_store(void **state)
{
    bed *b = *state;
    open_store(b);
    SAY(b, "220 mail.example\r\n");
    assert_int_equal(find(b), WQ_ERROR_SYSTEM);
    assert_non_null(strstr(b->error.message, "HTTP"));
    assert_int_equal(asked(b), 1);
}

static void test_nobody_listens(void **state)
{
    bed *b = *state;
    b->options.endpoint = "http://127.0.0.1:1";
    open_store(b);
    assert_int_equal(find(b), WQ_ERROR_AWAY);
    assert_non_null(strstr(b->error.message, "127.0.0.1"));
}

static void test_a_tag_that_is_of_no_use(void **state)
{
    bed *b = *state;
    wq_output out;
    open_store(b);
    SAY(b, "HTTP/1.1 200 OK\r\n" EMPTY, "HTTP/1.1 200 OK\r\nETag: W/\"a\"\r\n" EMPTY,
        "HTTP/1.1 200 OK\r\nETag: \"../../etc\"\r\n" EMPTY,
        "HTTP/1.1 200 OK\r\nETag: "
        "\"0123456789012345678901234567890123456789012345678901234567890\"\r\n" EMPTY);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(b->store->open(b->store->self, KEY, &out, &b->error), WQ_ERROR_SYSTEM);
        assert_non_null(strstr(b->error.message, "ETag"));
    }
}

static int64_t read_five(bed *b, char buf[8])
{
    const wq_output output = {.fd = -1, .size_bytes = 100, .tag = "0123abcd"};
    memset(buf, 0, 8);
    return b->store->read(b->store->self, KEY, &output, 10, buf, 5, &b->error);
}

static void test_ranges(void **state)
{
    bed *b = *state;
    char buf[8];
    open_store(b);
    SAY(b, PART("10-14/100") "right");
    assert_int_equal(read_five(b, buf), 5);
    assert_string_equal(buf, "right");
    assert_true(has(b, 0, "\r\nRange: bytes=10-14\r\n"));
    assert_true(has(b, 0, "\r\nIf-Match: \"0123abcd\"\r\n"));
    /* another part, a part that is cut, the whole object: none of them is taken for it */
    SAY(b, PART("0-4/100") "wrong", PART("10-14/100") "ri", SIZED("100") "wrong and more",
        PART("10-14/100") "right");
    assert_int_equal(read_five(b, buf), 5);
    assert_string_equal(buf, "right");
    assert_int_equal(asked(b), 4);
    SAY(b, ANSWER("412"), ANSWER("404"), ANSWER("416"));
    for (int i = 0; i < 3; i++)
        assert_int_equal(read_five(b, buf), WQ_ERROR_NOT_FOUND);
    SAY(b, SIZED("5") "wrong"); /* a store that knows no ranges */
    assert_int_equal(read_five(b, buf), WQ_ERROR_AWAY);
}

static void test_a_copy(void **state)
{
    bed *b = *state;
    char path[PATH_MAX], buf[8] = "";
    open_store(b);
    SAY(b, SIZED("5"),
        "HTTP/1.1 206 Partial\r\n" TAG
        "Content-Range: bytes 0-4/5\r\nContent-Length: 5\r\n\r\nright",
        SIZED("5"));
    assert_int_equal(b->store->path(b->store->self, KEY, path, sizeof path, &b->error), WQ_OK);
    assert_int_equal(get_file(path, buf, sizeof buf), 5);
    assert_string_equal(buf, "right");
    assert_int_equal(b->store->path(b->store->self, KEY, path, sizeof path, &b->error), WQ_OK);
    assert_int_equal(asked(b), 3); /* the second time it was there */
    SAY(b, SIZED("5"));
    assert_int_equal(b->store->path(b->store->self, KEY, path, 10, &b->error),
                     WQ_ERROR_INVALID_ARGUMENT);
}

static void test_urls_for_clients(void **state)
{
    bed *b = *state;
    char url[128];
    b->options.public_base = "https://cdn.example/b/";
    b->options.url = "s3://bucket/pre fix";
    open_store(b);
    assert_int_equal(b->store->url(b->store->self, KEY, url, sizeof url, &b->error), WQ_OK);
    assert_string_equal(url, "https://cdn.example/b/pre%20fix/" KEY);
    assert_int_equal(b->store->url(b->store->self, KEY, url, 20, &b->error),
                     WQ_ERROR_INVALID_ARGUMENT);
    assert_int_equal(asked(b), 0);
}

/* ---- publishing -------------------------------------------------------------------------------
 */

static void test_what_a_put_carries(void **state)
{
    bed *b = *state;
    open_store(b);
    SAY(b, ANSWER("200"));
    char *temp = make_temp(b, 3);
    assert_int_equal(publish(b, temp, 0), WQ_OK);
    expect_asked(b, 0, "PUT /bucket/pre/" KEY " HTTP/1.1\r\n");
    assert_true(has(b, 0, "\r\nIf-None-Match: *\r\n"));
    assert_true(has(b, 0, "\r\nContent-Length: 3\r\n"));
    assert_true(has(b, 0, "\r\nContent-Type: application/octet-stream\r\n"));
    assert_true(has(b, 0,
                    "\r\nx-amz-content-sha256: 709e80c88487a2411e1ee4dfb9f22a86"
                    "1492d20c4765150c0c794abd70f8147c\r\n")); /* of three NULs */
    assert_true(has(b, 0, "\r\nx-amz-meta-workqueue-set: "));
    assert_true(has(b, 0, "\r\nx-amz-meta-workqueue-text: ")); /* for people, and lists */
    assert_true(has(b, 0, "overview.example"));
    assert_true(has(b, 0, "SignedHeaders="));
    assert_false(has(b, 0, TOKEN));
    assert_int_equal(access(temp, F_OK), -1);
    assert_int_equal(count_files(b), 1); /* it has become the copy */
    free(temp);
    temp = make_temp(b, 3);
    SAY(b, ANSWER("200"));
    assert_int_equal(publish(b, temp, 1), WQ_OK);
    assert_false(has(b, 0, "If-None-Match"));
    free(temp);
}

static void test_another_was_first(void **state)
{
    bed *b = *state;
    open_store(b);
    SAY(b, ANSWER("412"));
    char *temp = make_temp(b, 3);
    assert_int_equal(publish(b, temp, 0), WQ_OK);
    assert_int_equal(asked(b), 1);
    assert_int_equal(count_files(b), 0);
    free(temp);
}

static void test_a_store_without_conditions(void **state)
{
    bed *b = *state;
    open_store(b);
    SAY(b, ANSWER("501"), ANSWER("404"), ANSWER("200"));
    char *temp = make_temp(b, 3);
    assert_int_equal(publish(b, temp, 0), WQ_OK);
    assert_int_equal(asked(b), 3);
    expect_asked(b, 1, "HEAD ");
    expect_asked(b, 2, "PUT ");
    assert_false(has(b, 2, "If-None-Match"));
    assert_non_null(strstr(b->log.text, "If-None-Match"));
    free(temp);
    SAY(b, SIZED("9"));
    temp = make_temp(b, 3);
    assert_int_equal(publish(b, temp, 0), WQ_OK); /* one is in place */
    assert_int_equal(asked(b), 1);
    expect_asked(b, 0, "HEAD ");
    free(temp);
}

static void test_away_and_back(void **state)
{
    bed *b = *state;
    b->options.retries = 0;
    open_store(b);
    SAY(b, TEXT("503", "<Error><Code>SlowDown</Code></Error>"), CUT, ANSWER("200"));
    char *temp = make_temp(b, 3);
    assert_int_equal(publish(b, temp, 0), WQ_ERROR_AWAY);
    assert_non_null(strstr(b->error.message, "503 SlowDown"));
    assert_int_equal(access(temp, F_OK), 0);
    assert_int_equal(publish(b, temp, 0), WQ_ERROR_AWAY);
    assert_int_equal(access(temp, F_OK), 0);
    assert_int_equal(publish(b, temp, 0), WQ_OK);
    assert_int_equal(access(temp, F_OK), -1);
    free(temp);
}

static void test_refusals(void **state)
{
    bed *b = *state;
    open_store(b);
    static const char *const refusals[][2] = {
        /* these are no fault of the output, which is kept */
        {TEXT("403", "<Error><Code>ExpiredToken</Code></Error>"), "expired"},
        {TEXT("403", "<Error><Code>SignatureDoesNotMatch</Code></Error>"), "secret key"},
        {TEXT("403", "<Error><Code>RequestTimeTooSkewed</Code></Error>"), "clock"},
        {TEXT("400", "<Error><Code>" SECRET "\n</Code></Error>"), "400"},
        {TEXT("400", "<html>"), "400"}};
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        SAY(b, refusals[i][0]);
        char *temp = make_temp(b, 3);
        int is_away = i < 3;
        assert_int_equal(publish(b, temp, 0), is_away ? WQ_ERROR_AWAY : WQ_ERROR_SYSTEM);
        assert_int_equal(asked(b), 1);
        if (strstr(b->error.message, refusals[i][1]) == NULL)
            fail_msg("expected '%s' in '%s'", refusals[i][1], b->error.message);
        assert_null(strchr(b->error.message, '\n'));
        assert_int_equal(count_files(b), is_away);
        unlink(temp);
        free(temp);
    }
}

/* Swift says so, too, while it is coming up. */
static void test_no_bucket_keeps_the_output(void **state)
{
    bed *b = *state;
    open_store(b);
    SAY(b, TEXT("404", "<Error><Code>NoSuchBucket</Code></Error>"), ANSWER("200"));
    char *temp = make_temp(b, 3);
    assert_int_equal(publish(b, temp, 0), WQ_ERROR_AWAY);
    assert_non_null(strstr(b->error.message, "no such bucket"));
    assert_int_equal(asked(b), 1);
    assert_int_equal(publish(b, temp, 0), WQ_OK);
    free(temp);
}

static void test_what_is_no_output(void **state)
{
    bed *b = *state;
    open_store(b);
    SAY(b, ANSWER("200"));
    char *temp = make_temp(b, 0);
    assert_int_equal(publish(b, temp, 0), WQ_ERROR_INVALID_ARGUMENT);
    assert_int_equal(publish(b, temp, 0), WQ_ERROR_INVALID_ARGUMENT); /* it is gone */
    assert_int_equal(symlink("/etc/passwd", temp), 0);
    assert_int_equal(publish(b, temp, 0), WQ_ERROR_INVALID_ARGUMENT);
    assert_int_equal(asked(b), 0);
    assert_int_equal(count_files(b), 0);
    free(temp);
}

static void test_several_at_once(void **state)
{
    bed *b = *state;
    enum { N = 20 };
    wq_publish items[N];
    char *temps[N], keys[N][WQ_KEY_SIZE];
    open_store(b);
    SAY(b, ANSWER("200"));
    for (int i = 0; i < N; i++) {
        snprintf(keys[i], sizeof keys[i], "%064d", i);
        temps[i] = make_temp(b, 3);
        items[i] = (wq_publish){.key = keys[i], .params = &params, .temp_path = temps[i]};
    }
    assert_int_equal(truncate(temps[7], 0), 0);
    b->store->publish(b->store->self, items, N);
    for (int i = 0; i < N; i++) {
        assert_int_equal(items[i].result, i == 7 ? WQ_ERROR_INVALID_ARGUMENT : WQ_OK);
        free(temps[i]);
    }
    assert_int_equal(asked(b), N - 1);
}

static void test_parts_whose_end_fails(void **state)
{
    bed *b = *state;
    b->options.part_bytes = 5 << 20;
    open_store(b);
    SAY(b, ANSWER("404"), TEXT("200", "<R><UploadId>a&amp;b/c</UploadId></R>"), ANSWER("200"),
        ANSWER("200"), ANSWER("404"), TEXT("200", " \n<Error><Code>InternalError</Code></Error>"),
        ANSWER("204"));
    char *temp = make_temp(b, (5 << 20) + 1);
    assert_int_equal(publish(b, temp, 0), WQ_ERROR_AWAY);
    assert_non_null(strstr(b->error.message, "InternalError"));
    assert_int_equal(asked(b), 7);
    expect_asked(b, 1, "POST /bucket/pre/" KEY "?uploads= ");
    assert_true(has(b, 1, "x-amz-meta-workqueue-set: "));
    expect_asked(b, 2, "PUT /bucket/pre/" KEY "?partNumber=1&uploadId=a%26b%2Fc ");
    assert_true(has(b, 2, "\r\nContent-Length: 5242880\r\n"));
    expect_asked(b, 3, "PUT /bucket/pre/" KEY "?partNumber=2&uploadId=a%26b%2Fc ");
    assert_true(has(b, 3, "\r\nContent-Length: 1\r\n"));
    expect_asked(b, 5, "POST /bucket/pre/" KEY "?uploadId=a%26b%2Fc ");
    assert_true(has(b, 5, "If-None-Match: *"));
    expect_asked(b, 6, "DELETE /bucket/pre/" KEY "?uploadId=a%26b%2Fc ");
    assert_int_equal(access(temp, F_OK), 0);
    free(temp);
}

/* The answer to the end of an upload was lost, and the upload is over when it is asked again. */
static void test_parts_whose_end_is_told_twice(void **state)
{
    bed *b = *state;
    b->options.part_bytes = 5 << 20;
    open_store(b);
    SAY(b, TEXT("200", "<R><UploadId>id</UploadId></R>"), ANSWER("200"), ANSWER("200"), CUT,
        TEXT("404", "<Error><Code>NoSuchUpload</Code></Error>"), SIZED("5242881"));
    char *temp = make_temp(b, (5 << 20) + 1);
    assert_int_equal(publish(b, temp, 1), WQ_OK);
    assert_int_equal(asked(b), 6);
    free(temp);
}

typedef struct publishing {
    bed *b;
    char *temp;
    int result;
} publishing;

static void *publish_in_thread(void *arg)
{
    publishing *p = arg;
    p->result = publish(p->b, p->temp, 0);
    return NULL;
}

static void test_a_stop_ends_the_waiting(void **state)
{
    bed *b = *state;
    pthread_t thread;
    b->options.retries = 100;
    b->options.backoff_ms = b->options.backoff_max_ms = 600000;
    open_store(b);
    SAY(b, ANSWER("503"));
    publishing p = {.b = b, .temp = make_temp(b, 3)};
    pthread_create(&thread, NULL, publish_in_thread, &p);
    while (asked(b) == 0)
        usleep(1000);
    b->store->stop(b->store->self);
    pthread_join(thread, NULL);
    assert_int_equal(p.result, WQ_ERROR_AWAY);
    assert_int_equal(asked(b), 1);
    free(p.temp);
}

/* ---- removing ---------------------------------------------------------------------------------
 */

static void test_remove(void **state)
{
    bed *b = *state;
    open_store(b);
    SAY(b, ANSWER("404"), SIZED("7"), ANSWER("204"));
    assert_int_equal(b->store->remove(b->store->self, KEY, &b->error), WQ_ERROR_NOT_FOUND);
    assert_int_equal(b->store->remove(b->store->self, KEY, &b->error), WQ_OK);
    expect_asked(b, 2, "DELETE /bucket/pre/" KEY " ");
}

/* The label of an object, as the store itself has put it. */
static void learn_label(bed *b, char label[128])
{
    SAY(b, ANSWER("200"));
    char *temp = make_temp(b, 3);
    assert_int_equal(publish(b, temp, 0), WQ_OK);
    const char *at = strcasestr(b->requests[0], "x-amz-meta-workqueue-set: ");
    snprintf(label, 128, "%.*s", (int)strcspn(at, "\r"), at);
    free(temp);
}

static void test_remove_a_set_over_pages(void **state)
{
    bed *b = *state;
    char label[128], labelled[512];
    size_t n = 0;
    b->options.url = "s3://bucket/a&b";
    open_store(b);
    learn_label(b, label);
    snprintf(labelled, sizeof labelled, "HTTP/1.1 200 OK\r\n%s\r\n" EMPTY, label);
    SAY(b,
        TEXT("200", "<L><IsTruncated>true</IsTruncated><NextContinuationToken>x/y="
                    "</NextContinuationToken><Contents><Key>a&amp;b/" KEY "</Key></Contents>"
                    "<Contents><Key>a&amp;b/notes.txt</Key></Contents></L>"),
        labelled, ANSWER("204"),
        TEXT("200", "<L><Contents><Key>a&amp;b/" OTHER "</Key></Contents></L>"),
        SIZED("7") /* without a label */);
    assert_int_equal(b->store->remove_set(b->store->self, params.server, "17", &n, &b->error),
                     WQ_OK);
    assert_int_equal(n, 1);
    assert_int_equal(asked(b), 5);
    expect_asked(b, 0, "GET /bucket/?delimiter=%2F&list-type=2&max-keys=1000&prefix=a%26b%2F ");
    expect_asked(b, 2, "DELETE /bucket/a%26b/" KEY " ");
    expect_asked(b, 3,
                 "GET /bucket/?delimiter=%2F&list-type=2&max-keys=1000&prefix=a%26b%2F&start-after="
                 "a%26b%2Fnotes.txt ");
    SAY(b, TEXT("200", "<L><IsTruncated>true</IsTruncated></L>"));
    assert_int_equal(b->store->remove_set(b->store->self, params.server, NULL, &n, &b->error),
                     WQ_ERROR_SYSTEM);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_percent_encoding),
        cmocka_unit_test(test_elements_of_xml),
        TEST(test_options_that_are_wrong),
        TEST(test_one_process_a_cache),
        TEST(test_the_environment),
        TEST(test_answers_to_find),
        TEST(test_failures_that_pass),
        TEST(test_failures_that_do_not_pass),
        TEST(test_who_speaks_no_http_is_no_store),
        TEST(test_nobody_listens),
        TEST(test_a_tag_that_is_of_no_use),
        TEST(test_ranges),
        TEST(test_a_copy),
        TEST(test_urls_for_clients),
        TEST(test_what_a_put_carries),
        TEST(test_another_was_first),
        TEST(test_a_store_without_conditions),
        TEST(test_away_and_back),
        TEST(test_refusals),
        TEST(test_no_bucket_keeps_the_output),
        TEST(test_what_is_no_output),
        TEST(test_several_at_once),
        TEST(test_parts_whose_end_fails),
        TEST(test_parts_whose_end_is_told_twice),
        TEST(test_a_stop_ends_the_waiting),
        TEST(test_remove),
        TEST(test_remove_a_set_over_pages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

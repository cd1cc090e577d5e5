/* s3_request.c - requests to an S3 store: signed, tried again, over connections that are kept.
 *
 * libcurl signs (AWS Signature 4). It signs each header that it is given, so none may be
 * suppressed, and it does not hash bodies, so we send x-amz-content-sha256 ourselves: a hash of
 * what is in the file, by which the store also notices what has been damaged on the way.
 *
 * Each request has a handle, and so a connection, of its own; there are `max_connections` of them.
 * The lock guards the idle ones and the stop, and is never held during a request.
 */
#include "workqueue/s3/request.h"

#include <curl/curl.h>
#include <errno.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "workqueue/s3/text.h"
#include "workqueue/util/clocks.h"

enum {
    MAX_CONNECTIONS = 64,
    MAX_TEXT_BYTES = 4 << 20, /* of an answer that is not an object */
    STOPPED_STALL_MS = 2000,  /* how long a request may stand still after a stop */
    HEX_SHA256 = 65,
};

struct wq_s3_client {
    char *base, *region, *ca_file;
    char signature[128]; /* how libcurl is to sign */
    unsigned max_connections, connect_timeout_ms, stall_timeout_ms;
    unsigned retries, backoff_ms, backoff_max_ms;
    wq_logger logger;
    int (*renew)(void *user);
    void *user;
    atomic_int stopped;

    pthread_mutex_t lock;
    /* under the lock */
    pthread_cond_t idle;     /* there is an idle handle */
    pthread_cond_t stopping; /* on CLOCK_MONOTONIC */
    CURL *handles[MAX_CONNECTIONS];
    unsigned n_idle, n_made;
    char *access_key, *secret_key, *session_token;
};

/* A copy for one request. */
typedef struct credentials {
    char *access_key, *secret_key, *session_token;
} credentials;

/* One try. */
typedef struct attempt {
    wq_s3_client *client;
    const wq_s3_request *request;
    wq_s3_answer *answer;
    const credentials *credentials;
    CURL *curl;
    uint64_t sent, received;
    int file_errno; /* of our own file, where that failed */
    int out_of_memory;
    curl_off_t moved; /* bytes either way, and when that last changed */
    int64_t moved_ms;
    char why[CURL_ERROR_SIZE + 32]; /* why it has to be tried again */
    unsigned retry_after_ms;
} attempt;

enum { ANSWERED, AGAIN, FAILED };

/* ---- handles --------------------------------------------------------------------------------- */

static CURL *take_handle(wq_s3_client *client)
{
    CURL *curl = NULL;
    pthread_mutex_lock(&client->lock);
    while (client->n_idle == 0 && client->n_made == client->max_connections)
        pthread_cond_wait(&client->idle, &client->lock);
    if (client->n_idle > 0)
        curl = client->handles[--client->n_idle];
    else
        client->n_made++;
    pthread_mutex_unlock(&client->lock);
    return curl != NULL ? curl : curl_easy_init();
}

static void give_handle(wq_s3_client *client, CURL *curl)
{
    if (curl != NULL)
        curl_easy_reset(curl); /* keeps the connection */
    pthread_mutex_lock(&client->lock);
    if (curl != NULL)
        client->handles[client->n_idle++] = curl;
    else
        client->n_made--;
    pthread_cond_signal(&client->idle);
    pthread_mutex_unlock(&client->lock);
}

/* ---- what libcurl calls ---------------------------------------------------------------------- */

static size_t on_read(char *buf, size_t size, size_t n, void *user)
{
    attempt *a = user;
    uint64_t left = a->request->bytes - a->sent;
    size_t want = size * n < left ? size * n : (size_t)left;
    ssize_t got;
    if (a->request->body != NULL) {
        memcpy(buf, a->request->body + a->sent, want);
        a->sent += want;
        return want;
    }
    do
        got = pread(a->request->fd, buf, want, (off_t)(a->request->offset + a->sent));
    while (got < 0 && errno == EINTR);
    if (got < 0 || (got == 0 && want > 0)) {
        a->file_errno = got < 0 ? errno : EIO; /* it has become shorter */
        return CURL_READFUNC_ABORT;
    }
    a->sent += (uint64_t)got;
    return (size_t)got;
}

static int on_seek(void *user, curl_off_t offset, int origin)
{
    attempt *a = user;
    if (origin != SEEK_SET || offset < 0)
        return CURL_SEEKFUNC_FAIL;
    a->sent = (uint64_t)offset;
    return CURL_SEEKFUNC_OK;
}

static int keep_text(attempt *a, const char *data, size_t n)
{
    wq_s3_answer *answer = a->answer;
    if (answer->text_bytes + n > MAX_TEXT_BYTES)
        return -1;
    char *text = realloc(answer->text, answer->text_bytes + n + 1);
    if (text == NULL) {
        a->out_of_memory = 1;
        return -1;
    }
    memcpy(text + answer->text_bytes, data, n);
    answer->text = text;
    answer->text_bytes += n;
    text[answer->text_bytes] = '\0';
    return 0;
}

static int write_out(attempt *a, const char *data, size_t n)
{
    uint64_t at = a->request->offset + a->received;
    while (n > 0) {
        ssize_t put = pwrite(a->request->out_fd, data, n, (off_t)at);
        if (put < 0 && errno != EINTR) {
            a->file_errno = errno;
            return -1;
        }
        if (put > 0) {
            data += put;
            n -= (size_t)put;
            at += (uint64_t)put;
        }
    }
    return 0;
}

static int has_sink(const wq_s3_request *request)
{
    return request->buf != NULL || request->out_fd >= 0;
}

static size_t on_write(char *data, size_t size, size_t n, void *user)
{
    attempt *a = user;
    const wq_s3_request *request = a->request;
    long status = 0;
    n *= size;
    curl_easy_getinfo(a->curl, CURLINFO_RESPONSE_CODE, &status);
    if (!has_sink(request) || status / 100 != 2)
        return keep_text(a, data, n) == 0 ? n : 0;
    if (n > request->bytes - a->received) /* more than was asked for: ranges are not its way */
        return 0;
    if (request->buf != NULL)
        memcpy((char *)request->buf + a->received, data, n);
    else if (write_out(a, data, n) != 0)
        return 0;
    a->received += n;
    return n;
}

static int on_progress(void *user, curl_off_t d_total, curl_off_t down, curl_off_t u_total,
                       curl_off_t up)
{
    attempt *a = user;
    int64_t now = wq_monotonic_ms();
    int64_t limit = a->client->stall_timeout_ms;
    (void)d_total;
    (void)u_total;
    if (down + up != a->moved) {
        a->moved = down + up;
        a->moved_ms = now;
    }
    if (a->client->stopped && limit > STOPPED_STALL_MS)
        limit = STOPPED_STALL_MS;
    return now - a->moved_ms > limit;
}

/* ---- one try --------------------------------------------------------------------------------- */

static void set_up(attempt *a, struct curl_slist *headers, const char *url, char *error)
{
    const wq_s3_request *request = a->request;
    const wq_s3_client *client = a->client;
    CURL *c = a->curl;
    curl_easy_setopt(c, CURLOPT_URL, url);
    curl_easy_setopt(c, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(c, CURLOPT_AWS_SIGV4, client->signature);
    curl_easy_setopt(c, CURLOPT_USERNAME, a->credentials->access_key);
    curl_easy_setopt(c, CURLOPT_PASSWORD, a->credentials->secret_key);
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(c, CURLOPT_FILETIME, 1L);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_ERRORBUFFER, error);
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS, (long)client->connect_timeout_ms);
    curl_easy_setopt(c, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(c, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(c, CURLOPT_XFERINFODATA, a);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_write);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, a);
    if (client->ca_file != NULL)
        curl_easy_setopt(c, CURLOPT_CAINFO, client->ca_file);
    if (strcmp(request->method, "HEAD") == 0) {
        curl_easy_setopt(c, CURLOPT_NOBODY, 1L);
    } else if (strcmp(request->method, "POST") == 0) {
        const char *body = request->body != NULL ? request->body : "";
        curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)strlen(body));
        curl_easy_setopt(c, CURLOPT_POSTFIELDS, body);
    } else if (strcmp(request->method, "PUT") == 0) {
        curl_easy_setopt(c, CURLOPT_UPLOAD, 1L);
        curl_easy_setopt(c, CURLOPT_INFILESIZE_LARGE, (curl_off_t)request->bytes);
        curl_easy_setopt(c, CURLOPT_READFUNCTION, on_read);
        curl_easy_setopt(c, CURLOPT_READDATA, a);
        curl_easy_setopt(c, CURLOPT_SEEKFUNCTION, on_seek);
        curl_easy_setopt(c, CURLOPT_SEEKDATA, a);
        curl_easy_setopt(c, CURLOPT_UPLOAD_BUFFERSIZE, 256L << 10);
    } else {
        curl_easy_setopt(c, CURLOPT_CUSTOMREQUEST, request->method);
    }
    if (has_sink(request)) {
        char range[64];
        snprintf(range, sizeof range, "%llu-%llu", (unsigned long long)request->offset,
                 (unsigned long long)(request->offset + request->bytes - 1));
        curl_easy_setopt(c, CURLOPT_RANGE, range);
    }
}

/* OpenSSL writes without MSG_NOSIGNAL. A SIGPIPE that comes of it, to this thread, is ours to take;
 * the disposition is the host's. */
static CURLcode perform(CURL *curl)
{
    const struct timespec now = {0};
    sigset_t pipe, before, pending;
    sigemptyset(&pipe);
    sigaddset(&pipe, SIGPIPE);
    sigpending(&pending);
    int was_pending = sigismember(&pending, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe, &before);
    CURLcode result = curl_easy_perform(curl);
    sigpending(&pending);
    if (!was_pending && sigismember(&pending, SIGPIPE))
        while (sigtimedwait(&pipe, NULL, &now) < 0 && errno == EINTR)
            ;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return result;
}

static const char *header(CURL *curl, const char *name)
{
    struct curl_header *h;
    return curl_easy_header(curl, name, 0, CURLH_HEADER, -1, &h) == CURLHE_OK ? h->value : "";
}

/* What goes into names of files and into headers must be harmless. */
static void take_word(char *out, size_t size, const char *word)
{
    static const char harmless[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.";
    size_t n = strlen(word);
    out[0] = '\0';
    if (n < size && strspn(word, harmless) == n)
        memcpy(out, word, n + 1);
}

static void take_text(char *out, size_t size, const char *text)
{
    size_t n = strlen(text);
    out[0] = '\0';
    if (n < size)
        memcpy(out, text, n + 1);
}

static void take_tag(wq_s3_answer *answer, const char *value)
{
    char tag[sizeof answer->tag];
    size_t n = strlen(value);
    if (n > 2 && n < sizeof tag + 2 && value[0] == '"' && value[n - 1] == '"') {
        memcpy(tag, value + 1, n - 2);
        tag[n - 2] = '\0';
        take_word(answer->tag, sizeof answer->tag, tag);
    } else {
        take_word(answer->tag, sizeof answer->tag, value);
    }
}

static int is_transient(const wq_s3_answer *answer)
{
    static const char *const codes[] = {"RequestTimeout", "SlowDown", "OperationAborted",
                                        "ConditionalRequestConflict", "ConcurrentModification"};
    if (answer->status == 429 || (answer->status / 100 == 5 && answer->status != 501))
        return 1;
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        if (answer->status >= 400 && strcmp(answer->code, codes[i]) == 0)
            return 1;
    return 0;
}

/* Is what came all of what a range was asked for? */
static int is_whole(const attempt *a)
{
    const wq_s3_request *request = a->request;
    unsigned long long from;
    if (!has_sink(request))
        return 1;
    if (a->answer->status == 206 &&
        (sscanf(header(a->curl, "content-range"), "bytes %llu-", &from) != 1 ||
         from != request->offset))
        return 0;
    return a->received == request->bytes && (a->answer->status == 206 || request->offset == 0);
}

static int take_answer(attempt *a)
{
    wq_s3_answer *answer = a->answer;
    curl_off_t number = -1;
    char code[256] = "";
    curl_easy_getinfo(a->curl, CURLINFO_RESPONSE_CODE, &answer->status);
    if (curl_easy_getinfo(a->curl, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &number) == CURLE_OK)
        answer->bytes = number > 0 ? (uint64_t)number : 0;
    if (curl_easy_getinfo(a->curl, CURLINFO_FILETIME_T, &number) == CURLE_OK && number > 0)
        answer->made_at_ms = (int64_t)number * 1000;
    take_tag(answer, header(a->curl, "etag"));
    take_word(answer->label, sizeof answer->label, header(a->curl, "x-amz-meta-workqueue-set"));
    take_text(answer->short_text, sizeof answer->short_text,
              header(a->curl, "x-amz-meta-workqueue-text"));
    answer->epoch = strtoull(header(a->curl, "x-amz-meta-workqueue-epoch"), NULL, 10);
    if (answer->text == NULL && keep_text(a, "", 0) != 0)
        return FAILED;
    if (answer->status >= 400 && wq_s3_xml_next(answer->text, "Code", code, sizeof code) != NULL)
        take_word(answer->code, sizeof answer->code, code);
    if (is_transient(answer)) {
        curl_easy_getinfo(a->curl, CURLINFO_RETRY_AFTER, &number);
        a->retry_after_ms = number > 0 && number < 3600 ? (unsigned)number * 1000 : 0;
        snprintf(a->why, sizeof a->why, "it answers %ld%s%s", answer->status,
                 *answer->code ? " " : "", answer->code);
        return AGAIN;
    }
    if (answer->status / 100 == 2 && !is_whole(a)) {
        snprintf(a->why, sizeof a->why, "it sent something else than was asked for");
        return AGAIN;
    }
    return ANSWERED;
}

static int is_final(const attempt *a, CURLcode result)
{
    return a->file_errno != 0 || a->out_of_memory || result == CURLE_OUT_OF_MEMORY ||
           result == CURLE_PEER_FAILED_VERIFICATION || result == CURLE_SSL_CACERT_BADFILE ||
           result == CURLE_URL_MALFORMAT || result == CURLE_UNSUPPORTED_PROTOCOL;
}

static int try_once(attempt *a, struct curl_slist *headers, const char *url)
{
    char error[CURL_ERROR_SIZE] = "";
    free(a->answer->text);
    *a->answer = (wq_s3_answer){.tries = a->answer->tries + 1};
    a->sent = a->received = 0;
    a->moved = 0;
    a->moved_ms = wq_monotonic_ms();
    a->retry_after_ms = 0;
    if ((a->curl = take_handle(a->client)) == NULL) {
        give_handle(a->client, NULL);
        a->out_of_memory = 1;
        return FAILED;
    }
    set_up(a, headers, url, error);
    CURLcode result = perform(a->curl);
    int outcome = result == CURLE_OK ? take_answer(a) : is_final(a, result) ? FAILED : AGAIN;
    if (result == CURLE_ABORTED_BY_CALLBACK)
        snprintf(a->why, sizeof a->why, "nothing came for %u ms", a->client->stall_timeout_ms);
    else if (result != CURLE_OK)
        snprintf(a->why, sizeof a->why, "%s", *error ? error : curl_easy_strerror(result));
    give_handle(a->client, a->curl);
    return outcome;
}

/* ---- a request ------------------------------------------------------------------------------- */

/* Waits before another try; 0: there must be none. */
static int pause_before(wq_s3_client *client, unsigned tries, unsigned at_least_ms)
{
    uint32_t random = 0;
    uint64_t ms = client->backoff_ms;
    for (unsigned i = 1; i < tries && ms < client->backoff_max_ms; i++)
        ms *= 2;
    ms = ms > at_least_ms ? ms : at_least_ms;
    ms = ms < client->backoff_max_ms ? ms : client->backoff_max_ms;
    if (getrandom(&random, sizeof random, 0) == (ssize_t)sizeof random)
        ms -= ms / 2 * random / UINT32_MAX; /* not all of them at once */
    int64_t until = wq_monotonic_ms() + (int64_t)ms;
    const struct timespec t = {until / 1000, until % 1000 * 1000000};
    pthread_mutex_lock(&client->lock);
    while (!client->stopped &&
           pthread_cond_timedwait(&client->stopping, &client->lock, &t) != ETIMEDOUT)
        ;
    pthread_mutex_unlock(&client->lock);
    return !client->stopped;
}

static int hash_file(EVP_MD_CTX *ctx, const wq_s3_request *request, int *file_errno)
{
    char buf[1 << 16];
    for (uint64_t at = 0; at < request->bytes;) {
        uint64_t left = request->bytes - at;
        ssize_t n = pread(request->fd, buf, left < sizeof buf ? (size_t)left : sizeof buf,
                          (off_t)(request->offset + at));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            *file_errno = n < 0 ? errno : EIO;
            return -1;
        }
        if (!EVP_DigestUpdate(ctx, buf, (size_t)n))
            return -1;
        at += (uint64_t)n;
    }
    return 0;
}

static int hash_body(char hex[HEX_SHA256], const wq_s3_request *request, int *file_errno)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    int ok = ctx != NULL && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL);
    if (ok && request->body != NULL)
        ok = EVP_DigestUpdate(ctx, request->body, strlen(request->body));
    else if (ok && strcmp(request->method, "PUT") == 0)
        ok = hash_file(ctx, request, file_errno) == 0;
    ok = ok && EVP_DigestFinal_ex(ctx, digest, NULL);
    EVP_MD_CTX_free(ctx);
    for (size_t i = 0; ok && i < (HEX_SHA256 - 1) / 2; i++)
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    return ok ? 0 : -1;
}

static int add(struct curl_slist **list, const char *name, const char *value)
{
    char *text;
    if (asprintf(&text, "%s%s", name, value) < 0)
        return -1;
    struct curl_slist *longer = curl_slist_append(*list, text);
    free(text);
    if (longer == NULL)
        return -1;
    *list = longer;
    return 0;
}

static int add_headers(struct curl_slist **list, const credentials *as,
                       const wq_s3_request *request, const char *hash)
{
    if (add(list, "x-amz-content-sha256: ", hash) != 0 ||
        (as->session_token != NULL &&
         add(list, "x-amz-security-token: ", as->session_token) != 0))
        return -1;
    for (int i = 0; i < WQ_S3_HEADERS; i++)
        if (request->headers[i] != NULL && add(list, request->headers[i], "") != 0)
            return -1;
    return 0;
}

static int say_failed(const attempt *a, wq_error *error)
{
    const wq_s3_request *request = a->request;
    if (a->file_errno != 0)
        return wq_fail(error, WQ_ERROR_SYSTEM, "%s a file for the S3 store: %s",
                       strcmp(request->method, "PUT") == 0 ? "read" : "write",
                       strerror(a->file_errno));
    if (a->out_of_memory)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    return wq_fail(error, WQ_ERROR_SYSTEM, "S3 store: %s %s%s: %s", request->method,
                   a->client->base, request->path, a->why);
}

static void free_credentials(credentials *as)
{
    free(as->access_key);
    free(as->secret_key);
    free(as->session_token);
}

static int copy_text(char **out, const char *text)
{
    *out = text != NULL ? strdup(text) : NULL;
    return text == NULL || *out != NULL;
}

static int copy_credentials(wq_s3_client *client, credentials *as)
{
    pthread_mutex_lock(&client->lock);
    int ok = copy_text(&as->access_key, client->access_key) &
             copy_text(&as->secret_key, client->secret_key) &
             copy_text(&as->session_token, client->session_token);
    pthread_mutex_unlock(&client->lock);
    return ok ? 0 : -1;
}

/* Asks by the present credentials, again and again. */
static int ask_as(attempt *a, const char *hash, const char *url)
{
    wq_s3_client *client = a->client;
    struct curl_slist *headers = NULL;
    credentials as = {0};
    int outcome = FAILED;
    a->credentials = &as;
    a->out_of_memory = copy_credentials(client, &as) != 0 ||
                       add_headers(&headers, &as, a->request, hash) != 0;
    while (!a->out_of_memory && (outcome = try_once(a, headers, url)) == AGAIN &&
           a->answer->tries <= client->retries) {
        wq_log(&client->logger, WQ_LOG_INFO, "S3 store: %s %s%s is tried again: %s",
               a->request->method, client->base, a->request->path, a->why);
        if (!pause_before(client, a->answer->tries, a->retry_after_ms))
            break;
    }
    curl_slist_free_all(headers);
    free_credentials(&as);
    return outcome;
}

static int is_refused_to_us(const wq_s3_answer *answer)
{
    static const char *const codes[] = {"InvalidAccessKeyId", "SignatureDoesNotMatch",
                                        "AccessDenied",       "ExpiredToken",
                                        "InvalidToken",       "TokenRefreshRequired",
                                        "InvalidClientTokenId", "RequestTimeTooSkewed"};
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        if (strcmp(answer->code, codes[i]) == 0)
            return 1;
    return answer->status == 401 || answer->status == 403;
}

int wq_s3_ask(wq_s3_client *client, const wq_s3_request *request, wq_s3_answer *answer,
              wq_error *error)
{
    char hash[HEX_SHA256], *url = NULL;
    attempt a = {.client = client, .request = request, .answer = answer};
    int outcome = FAILED;
    *answer = (wq_s3_answer){0};
    if (hash_body(hash, request, &a.file_errno) != 0 ||
        asprintf(&url, "%s%s%s%s", client->base, request->path, request->query ? "?" : "",
                 request->query ? request->query : "") < 0) {
        a.out_of_memory = 1;
        url = NULL;
    } else {
        outcome = ask_as(&a, hash, url);
        if (outcome == ANSWERED && is_refused_to_us(answer) && client->renew != NULL &&
            client->renew(client->user))
            outcome = ask_as(&a, hash, url);
    }
    free(url);
    if (outcome == AGAIN)
        return wq_fail(error, WQ_ERROR_AWAY,
                       "the S3 store cannot be reached now: %s %s%s: %s (tried %u times)",
                       request->method, client->base, request->path, a.why, answer->tries);
    return outcome == ANSWERED ? WQ_OK : say_failed(&a, error);
}

static const char *advice(const wq_s3_answer *answer)
{
    static const char *const known[][2] = {
        {"SignatureDoesNotMatch", "; is the secret key right?"},
        {"InvalidAccessKeyId", "; it does not know the access key"},
        {"AccessDenied", "; these credentials may not do that"},
        {"NoSuchBucket", "; there is no such bucket"},
        {"RequestTimeTooSkewed", "; this machine's clock differs from the store's"},
        {"ExpiredToken", "; the temporary credentials have expired"},
        {"AuthorizationHeaderMalformed", "; is the region right?"},
        {"PermanentRedirect", "; are endpoint and region right?"},
        {"QuotaExceeded", "; the store is full"},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(answer->code, known[i][0]) == 0)
            return known[i][1];
    if (answer->status == 403 && *answer->code == '\0')
        return "; the credentials are wrong, or may not do that";
    return answer->status / 100 == 3 ? "; are endpoint and region right?" : "";
}

int wq_s3_refused(wq_s3_client *client, const wq_s3_request *request, const wq_s3_answer *answer,
                  wq_error *error)
{
    int is_away = strcmp(answer->code, "NoSuchBucket") == 0 || is_refused_to_us(answer);
    int result = is_away ? WQ_ERROR_AWAY : WQ_ERROR_SYSTEM;
    return wq_fail(error, result, "the S3 store refuses %s %s%s: %ld%s%s%s", request->method,
                   client->base, request->path, answer->status, *answer->code ? " " : "",
                   answer->code, advice(answer));
}

void wq_s3_answer_dispose(wq_s3_answer *answer)
{
    free(answer->text);
    answer->text = NULL;
}

/* ---- open and close -------------------------------------------------------------------------- */

static void init_curl(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

int wq_s3_client_credentials(wq_s3_client *client, const char *access_key, const char *secret_key,
                             const char *session_token)
{
    credentials old, as = {0};
    if (!copy_text(&as.access_key, access_key) || !copy_text(&as.secret_key, secret_key) ||
        !copy_text(&as.session_token, session_token)) {
        free_credentials(&as);
        return -1;
    }
    pthread_mutex_lock(&client->lock);
    old = (credentials){client->access_key, client->secret_key, client->session_token};
    client->access_key = as.access_key;
    client->secret_key = as.secret_key;
    client->session_token = as.session_token;
    pthread_mutex_unlock(&client->lock);
    free_credentials(&old);
    return 0;
}

int wq_s3_client_open(wq_s3_client **out, const wq_s3_config *config, wq_error *error)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, init_curl);
    wq_s3_client *c = calloc(1, sizeof *c);
    if (c == NULL)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->idle, NULL);
    wq_cond_init(&c->stopping);
    c->max_connections = config->max_connections;
    c->connect_timeout_ms = config->connect_timeout_ms;
    c->stall_timeout_ms = config->stall_timeout_ms;
    c->retries = config->retries;
    c->backoff_ms = config->backoff_ms;
    c->backoff_max_ms = config->backoff_max_ms;
    c->logger = config->logger;
    c->renew = config->renew;
    c->user = config->user;
    snprintf(c->signature, sizeof c->signature, "aws:amz:%s:s3", config->region);
    if (!copy_text(&c->base, config->base) || !copy_text(&c->region, config->region) ||
        wq_s3_client_credentials(c, config->access_key, config->secret_key,
                                 config->session_token) != 0 ||
        !copy_text(&c->ca_file, config->ca_file)) {
        wq_s3_client_close(c);
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    }
    *out = c;
    return WQ_OK;
}

void wq_s3_client_stop(wq_s3_client *client)
{
    pthread_mutex_lock(&client->lock);
    client->stopped = 1;
    pthread_cond_broadcast(&client->stopping);
    pthread_mutex_unlock(&client->lock);
}

void wq_s3_client_close(wq_s3_client *client)
{
    if (client == NULL)
        return;
    for (unsigned i = 0; i < client->n_idle; i++)
        curl_easy_cleanup(client->handles[i]);
    pthread_cond_destroy(&client->stopping);
    pthread_cond_destroy(&client->idle);
    pthread_mutex_destroy(&client->lock);
    free(client->base);
    free(client->region);
    free(client->access_key);
    free(client->secret_key);
    free(client->session_token);
    free(client->ca_file);
    free(client);
}

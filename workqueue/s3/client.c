/* client.c - requests to an S3 store: signed, tried again, over connections that are kept.
 *
 * libcurl signs (AWS Signature 4). It signs each header that it is given, so none may be
 * suppressed, and it does not hash bodies, so we send x-amz-content-sha256 ourselves: a hash of
 * what is in the file, by which the store also notices what has been damaged on the way.
 *
 * Each request has a handle, and so a connection, of its own; there are `max_connections` of them.
 * The lock guards the idle ones and the stop, and is never held during a request.
 */
#include "workqueue/s3/attempt.h"

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

static int add_s3_headers(struct curl_slist **list, const credentials *as,
                          const wq_s3_request *request, const char *hash)
{
    if (add(list, "x-amz-content-sha256: ", hash) != 0 ||
        (as->session_token != NULL && add(list, "x-amz-security-token: ", as->session_token) != 0))
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
    /* cppcheck-suppress autoVariables ; for this call only */
    a->credentials = &as;
    a->out_of_memory =
        copy_credentials(client, &as) != 0 || add_s3_headers(&headers, &as, a->request, hash) != 0;
    while (!a->out_of_memory && (outcome = wq_s3_try_once(a, headers, url)) == AGAIN &&
           a->answer->tries <= client->retries) {
        wq_log(&client->logger, WQ_LOG_INFO, "S3 store: %s %s%s is tried again: %s",
               a->request->method, client->base, a->request->path, a->why);
        if (!pause_before(client, a->answer->tries, a->retry_after_ms))
            break;
    }
    curl_slist_free_all(headers);
    free_credentials(&as);
    a->credentials = NULL;
    return outcome;
}

static int is_refused_to_us(const wq_s3_answer *answer)
{
    static const char *const codes[] = {"InvalidAccessKeyId",   "SignatureDoesNotMatch",
                                        "AccessDenied",         "ExpiredToken",
                                        "InvalidToken",         "TokenRefreshRequired",
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

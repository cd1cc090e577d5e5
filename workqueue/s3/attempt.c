/* attempt.c - one try of a request, by libcurl: what goes out, what comes back, and whether it is
 * to be tried again. */
#include "workqueue/s3/attempt.h"

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
    answer->now_ms = (int64_t)curl_getdate(header(a->curl, "date"), NULL) * 1000;
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

int wq_s3_try_once(attempt *a, struct curl_slist *headers, const char *url)
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

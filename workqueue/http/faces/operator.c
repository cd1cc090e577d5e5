/* operator.c - for whoever runs the server: metrics, health, and the deletion of outputs.
 *
 * Deleting all outputs of a server or document set reads the whole storage, so a thread does it,
 * one at a time; and so it does whatever asks a store across a network.
 */
#include <math.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdarg.h>

#include "workqueue/http/faces/faces.h"
#include "workqueue/http/request/fields.h"
#include "workqueue/http/request/problem.h"

static int send_plain(h2o_req_t *req, int status, const char *type, const char *text)
{
    h2o_add_header(&req->pool, &req->res.headers, H2O_TOKEN_CACHE_CONTROL, NULL,
                   H2O_STRLIT("no-store"));
    return wq_send_bytes(req, status, type, text, strlen(text));
}

/* ---- GET /metrics ---------------------------------------------------------------------------- */

enum { PAGE_BYTES = 16384 }; /* three times what there is to say */

typedef struct page {
    char *text;
    size_t n;
} page;

__attribute__((format(printf, 2, 3))) static void put_page(page *p, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(p->text + p->n, PAGE_BYTES - p->n, format, args);
    va_end(args);
    if (n > 0 && (size_t)n < PAGE_BYTES - p->n)
        p->n += (size_t)n;
    p->text[p->n] = '\0';
}

/* Not by %f, which would write a comma where the host's locale says so. */
static void put_seconds(page *p, double s)
{
    unsigned long long ms = (unsigned long long)(s * 1000 + 0.5);
    put_page(p, "%llu", ms / 1000);
    if (ms % 1000 == 0)
        return;
    put_page(p, ".%03llu", ms % 1000);
    while (p->text[p->n - 1] == '0')
        p->text[--p->n] = '\0';
}

static void put_about(page *p, const char *name, const char *type, const char *help)
{
    put_page(p, "# HELP workqueue_%s %s\n# TYPE workqueue_%s %s\n", name, help, name, type);
}

static void put_gauge(page *p, const char *name, size_t value, const char *help)
{
    put_about(p, name, "gauge", help);
    put_page(p, "workqueue_%s %zu\n", name, value);
}

static void put_counter(page *p, const char *name, unsigned long long value, const char *help)
{
    put_about(p, name, "counter", help);
    put_page(p, "workqueue_%s %llu\n", name, value);
}

static void put_labelled(page *p, const char *name, const char *label, const char *is,
                         unsigned long long value)
{
    put_page(p, "workqueue_%s{%s=\"%s\"} %llu\n", name, label, is, value);
}

static void put_histogram(page *p, const char *name, const wq_histogram *h, const char *help)
{
    unsigned long long count = 0;
    put_about(p, name, "histogram", help);
    for (unsigned i = 0; i < WQ_HISTOGRAM_BUCKETS; i++) {
        double bound = wq_histogram_bound_s(i);
        count += h->counts[i];
        put_page(p, "workqueue_%s_bucket{le=\"", name);
        if (isinf(bound))
            put_page(p, "+Inf");
        else
            put_seconds(p, bound);
        put_page(p, "\"} %llu\n", count);
    }
    put_page(p, "workqueue_%s_sum ", name);
    put_seconds(p, h->sum_s);
    put_page(p, "\nworkqueue_%s_count %llu\n", name, count);
}

static void put_queue(page *p, const wq_stats *s)
{
    put_gauge(p, "queued_jobs", s->queued, "Jobs that wait.");
    put_gauge(p, "running_jobs", s->running, "Jobs whose program runs.");
    put_gauge(p, "publishing_jobs", s->publishing, "Jobs whose output is being made durable.");
    put_gauge(p, "ending_jobs", s->ending, "Jobs whose end is being written to the journal.");
    put_gauge(p, "known_ended_jobs", s->ended, "Ended jobs that are still known by their id.");
    put_gauge(p, "workers", s->workers, "Jobs that may run at the same time.");
    put_gauge(p, "max_queued_jobs", s->max_queue, "Jobs that may wait.");
    put_about(p, "ended_jobs_total", "counter", "Jobs that have ended, by how.");
    put_labelled(p, "ended_jobs_total", "end", "succeeded", s->succeeded);
    put_labelled(p, "ended_jobs_total", "end", "failed", s->failed);
    put_labelled(p, "ended_jobs_total", "end", "cancelled", s->cancelled);
    put_histogram(p, "run_duration_seconds", &s->ran, "How long programs ran.");
    put_histogram(p, "wait_duration_seconds", &s->waited,
                  "How long jobs waited before their program started.");
    put_counter(p, "store_errors_total", s->store_errors, "Failures of the store of outputs.");
    put_counter(p, "journal_errors_total", s->journal_errors, "Failures of the journal.");
}

static void put_faces(page *p, wq_http *http)
{
    static const char *const names[WQ_FACES] = {
        [WQ_FACE_STREAM] = "stream", [WQ_FACE_WEBSOCKET] = "websocket",
        [WQ_FACE_POLL] = "poll",     [WQ_FACE_RUN] = "run",
        [WQ_FACE_RESULT] = "result", [WQ_FACE_DELETION] = "deletion",
        [WQ_FACE_WORK] = "work",     [WQ_FACE_LIST] = "list",
    };
    put_about(p, "held_responses", "gauge", "Responses that wait for a job or their client.");
    for (int i = 0; i < WQ_FACES; i++)
        put_labelled(p, "held_responses", "face", names[i], atomic_load(&http->held[i]));
    put_about(p, "held_requests_total", "counter", "Requests whose response has been held.");
    for (int i = 0; i < WQ_FACES; i++)
        put_labelled(p, "held_requests_total", "face", names[i], atomic_load(&http->requests[i]));
    put_counter(p, "sent_bytes_total", atomic_load(&http->bytes_sent),
                "Bytes of the bodies of held responses.");
    put_counter(p, "clients_left_total", atomic_load(&http->clients_left),
                "Clients that left before the end of a held response.");
    put_counter(p, "clients_stalled_total", atomic_load(&http->clients_stalled),
                "Clients that were dropped because they took nothing.");
}

int wq_face_metrics(wq_http *http, h2o_req_t *req, h2o_iovec_t rest)
{
    wq_stats stats;
    page p = {0};
    (void)rest;
    wq_own_origin_only(req);
    if (wq_method(req, "GET, HEAD, OPTIONS"))
        return 0;
    if (http->options.guard_metrics && !wq_is_operator(http, req))
        return 0;
    p.text = h2o_mem_alloc_pool(&req->pool, PAGE_BYTES);
    wq_queue_stats(http->queue, &stats);
    put_about(&p, "build_info", "gauge", "Always 1; the label tells the version.");
    put_labelled(&p, "build_info", "version", wq_version(), 1);
    put_queue(&p, &stats);
    put_faces(&p, http);
    return send_plain(req, 200, "text/plain; version=0.0.4; charset=utf-8", p.text);
}

/* ---- GET /health ----------------------------------------------------------------------------- */

static int is_stopping(wq_http *http, wq_stats *stats)
{
    wq_queue_stats(http->queue, stats);
    return stats->stopping || atomic_load(&http->stopping);
}

/* One that may follow others. */
static void put_problem(FILE *out, const char *sentence, size_t n, int is_first)
{
    char text[512], escaped[6 * sizeof text];
    snprintf(text, sizeof text, "%.*s", (int)n, sentence);
    fprintf(out, "%s\"%.*s\"", is_first ? "" : ", ", (int)(wq_put_escaped(escaped, text) - escaped),
            escaped);
}

int wq_put_problems(wq_http *http, FILE *out)
{
    const wq_http_options *options = &http->options;
    char of_host[400], of_queue[2000], *at = of_queue, *end;
    int n = 0;
    const char *trouble = options->trouble != NULL
                              ? options->trouble(options->trouble_user, of_host, sizeof of_host)
                              : NULL;
    wq_queue_troubles(http->queue, of_queue, sizeof of_queue);
    fputc('[', out);
    if (trouble != NULL)
        put_problem(out, trouble, strlen(trouble), n++ == 0);
    for (; *at != '\0'; at = *end != '\0' ? end + 1 : end) {
        end = at + strcspn(at, "\n");
        put_problem(out, at, (size_t)(end - at), n++ == 0);
    }
    fputc(']', out);
    return n;
}

/* The status is 200 also when something is wrong: a server that lost its disk still tells its jobs'
 * progress, and nobody gains by its being ended for that. */
int wq_face_health(wq_http *http, h2o_req_t *req, h2o_iovec_t rest)
{
    char *text = NULL, *problems = NULL;
    size_t size;
    wq_stats stats;
    (void)rest;
    if (wq_method(req, "GET, HEAD, OPTIONS"))
        return 0;
    if (is_stopping(http, &stats))
        return send_plain(req, 503, "application/json", "{\"status\":\"stopping\"}\n");
    FILE *out = open_memstream(&problems, &size);
    const int n = out != NULL ? wq_put_problems(http, out) : 0;
    const int is_told = n > 0 || http->options.trouble != NULL;
    if (out == NULL || fclose(out) != 0 ||
        asprintf(&text, "{\"status\":\"%s\",\"queued\":%zu,\"running\":%zu%s%s}\n",
                 n > 0 ? "troubled" : "ok", stats.queued, stats.running,
                 is_told ? ",\"problems\":" : "", is_told ? problems : "") < 0) {
        free(problems);
        return wq_problem(req, 500, "There is no memory for the answer.");
    }
    free(problems);
    send_plain(req, 200, "application/json", text);
    free(text);
    return 0;
}

/* ---- DELETE /output: who may ----------------------------------------------------------------- */

/* The token of "Bearer TOKEN", and nothing if the header is anything else. */
static h2o_iovec_t bearer(h2o_req_t *req)
{
    static const char scheme[] = "bearer ";
    const size_t n = sizeof scheme - 1;
    h2o_iovec_t value = wq_request_header(req, "authorization");
    if (value.len <= n || !h2o_lcstris(value.base, n, scheme, n))
        return h2o_iovec_init(NULL, 0);
    value = h2o_iovec_init(value.base + n, value.len - n);
    for (; value.len > 0 && *value.base == ' '; value.len--)
        value.base++;
    return value;
}

/* The password of "Basic BASE64" for the user operator, as of curl --user, in the request's pool.
 */
static h2o_iovec_t basic_password(h2o_req_t *req)
{
    static const char scheme[] = "basic ", user[] = "operator:";
    enum { MOST = 2048 };
    const size_t n = sizeof scheme - 1, n_user = sizeof user - 1;
    h2o_iovec_t value = wq_request_header(req, "authorization");
    if (value.len <= n || value.len > MOST || !h2o_lcstris(value.base, n, scheme, n))
        return h2o_iovec_init(NULL, 0);
    unsigned char *text = h2o_mem_alloc_pool(&req->pool, MOST);
    const int decoded =
        EVP_DecodeBlock(text, (unsigned char *)value.base + n, (int)(value.len - n));
    size_t len = decoded > 0 ? (size_t)decoded : 0; /* what fills it up is counted */
    for (const char *end = value.base + value.len; len > 0 && *--end == '=';)
        len--;
    if (len <= n_user || memcmp(text, user, n_user) != 0)
        return h2o_iovec_init(NULL, 0);
    return h2o_iovec_init((char *)text + n_user, len - n_user);
}

/* By their hashes, so that the time it takes tells nothing of where, or in what length, they
 * differ. */
static int is_secret(const char *secret, h2o_iovec_t given)
{
    unsigned char a[EVP_MAX_MD_SIZE], b[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    return EVP_Digest(secret, strlen(secret), a, &n, EVP_sha256(), NULL) &&
           EVP_Digest(given.base, given.len, b, &n, EVP_sha256(), NULL) &&
           CRYPTO_memcmp(a, b, n) == 0;
}

int wq_is_operator(wq_http *http, h2o_req_t *req)
{
    const char *secret = http->options.operator_secret;
    wq_own_origin_only(req);
    if (secret == NULL || *secret == '\0') {
        wq_problem(
            req, 403,
            "Outputs cannot be deleted here, nor jobs listed, for no operator's secret is "
            "configured: set "
            "operator_secret of wq_http_options, or start the server with --operator-secret-file.");
        return 0;
    }
    h2o_iovec_t given = bearer(req);
    if (given.len == 0)
        given = basic_password(req);
    if (given.len > 0 && is_secret(secret, given))
        return 1;
    h2o_add_header(&req->pool, &req->res.headers, H2O_TOKEN_WWW_AUTHENTICATE, NULL,
                   H2O_STRLIT("Bearer realm=\"workqueue operator\""));
    wq_problem(req, 401,
               given.len > 0
                   ? "This is not the operator's secret."
                   : "This takes the operator's secret, as Authorization: Bearer SECRET.");
    return 0;
}

/* ---- DELETE /output: on a thread ------------------------------------------------------------- */

typedef struct deletion {
    wq_http *http;
    char *server, *document_set_id, *api_token; /* that is NULL: all of the others */
    int result;
    size_t n;
    wq_error error;
} deletion;

static void free_deletion(deletion *d)
{
    free(d->server);
    free(d->document_set_id);
    free(d->api_token);
    free(d);
}

static int answer_one(h2o_req_t *req, int result, const wq_error *error)
{
    if (result == WQ_ERROR_NOT_FOUND)
        return wq_problem(req, 404, "There is no output for these parameters.");
    if (result != WQ_OK)
        return wq_problem_result(req, result, error, 5);
    return wq_send_bytes(req, 204, NULL, NULL, 0);
}

static int answer_deletion(h2o_req_t *req, const deletion *d)
{
    char text[48];
    if (d->api_token != NULL)
        return answer_one(req, d->result, &d->error);
    if (d->result < 0)
        return wq_problem(req, 500, "%zu outputs have been deleted, and then: %s.", d->n,
                          d->error.message);
    snprintf(text, sizeof text, "{\"deleted\":%zu}\n", d->n);
    return send_plain(req, 200, "application/json", text);
}

static void delete_them(void *user, wq_http_task *task)
{
    deletion *d = user;
    const wq_params params = {d->server, d->document_set_id, d->api_token};
    (void)task; /* what has been begun is brought to its end, also when nobody waits */
    if (d->api_token != NULL)
        d->result = wq_output_delete(d->http->queue, &params, &d->error);
    else
        d->result =
            wq_outputs_delete(d->http->queue, d->server, d->document_set_id, &d->n, &d->error);
}

static void on_deleted(void *user, h2o_req_t *req)
{
    deletion *d = user;
    if (d->api_token == NULL)
        atomic_store(&d->http->is_deleting, 0); /* who reads the answer may ask for the next */
    if (req != NULL)
        answer_deletion(req, d);
    free_deletion(d);
}

static char *copy_or_null(const char *text, int *failed)
{
    char *copy = text != NULL ? strdup(text) : NULL;
    *failed |= text != NULL && copy == NULL;
    return copy;
}

/* NULL: no memory. */
static deletion *new_deletion(wq_http *http, const wq_fields *fields)
{
    int failed = 0;
    deletion *d = calloc(1, sizeof *d);
    if (d == NULL)
        return NULL;
    d->http = http;
    d->server = copy_or_null(fields->server, &failed);
    d->document_set_id = copy_or_null(fields->document_set_id, &failed);
    d->api_token = copy_or_null(fields->api_token, &failed);
    if (!failed)
        return d;
    free_deletion(d);
    return NULL;
}

static int begin_deletion(wq_http *http, h2o_req_t *req, const wq_fields *fields)
{
    static const wq_error busy = {
        WQ_ERROR_FULL, "other outputs are being deleted now, which is done one after the other"};
    wq_stats stats;
    int idle = 0;
    if (is_stopping(http, &stats))
        return wq_problem_result(req, WQ_ERROR_CLOSING, NULL, 5);
    if (fields->api_token == NULL && !atomic_compare_exchange_strong(&http->is_deleting, &idle, 1))
        return wq_problem_result(req, WQ_ERROR_FULL, &busy, 1);
    deletion *d = new_deletion(http, fields);
    if (d == NULL) {
        if (fields->api_token == NULL)
            atomic_store(&http->is_deleting, 0);
        return wq_problem_result(req, WQ_ERROR_NO_MEMORY, NULL, 5);
    }
    if (wq_http_work(http, req, delete_them, on_deleted, d) == WQ_OK)
        return 0;
    if (d->api_token == NULL)
        atomic_store(&http->is_deleting, 0);
    free_deletion(d);
    return 0;
}

/* ---- DELETE /output -------------------------------------------------------------------------- */

static int delete_one(wq_http *http, h2o_req_t *req, const wq_params *params)
{
    wq_error error;
    int result = wq_output_delete(http->queue, params, &error);
    return answer_one(req, result, &error);
}

/* What is not named is meant as all of it. A field that is there but empty is checked as it is, and
 * refused: it is more likely a mistake than a wish for more to be deleted. */
int wq_face_output(wq_http *http, h2o_req_t *req, h2o_iovec_t rest)
{
    wq_fields fields;
    wq_error error;
    (void)rest;
    wq_own_origin_only(req);
    if (wq_method(req, "DELETE, OPTIONS") || !wq_is_operator(http, req) ||
        wq_request_fields(&http->limits, req, &fields) != 0)
        return 0;
    if (fields.server == NULL)
        return wq_problem(req, 400, "The field server is missing.");
    if (fields.api_token != NULL && fields.document_set_id == NULL)
        return wq_problem(req, 400, "The field documentSetId is missing.");
    wq_params params = {fields.server, fields.document_set_id ? fields.document_set_id : "all",
                        fields.api_token ? fields.api_token : "all"};
    if (wq_params_check(&params, &error) != WQ_OK)
        return wq_problem(req, 400, "%s.", error.message);
    if (fields.api_token != NULL && !wq_outputs_block(http->queue))
        return delete_one(http, req, &params);
    return begin_deletion(http, req, &fields);
}

/* process-docset.c - downloads a document set from Overview and makes a search database of it.
 *
 *     process-docset SERVER DOCUMENT_SET_ID API_TOKEN OUTPUT_FILENAME
 *
 * It is what workqueue runs, and an ordinary command as well. If API_TOKEN is "-", it is taken from
 * WORKQUEUE_API_TOKEN in the environment, which others cannot see. Progress goes to stdout, as in
 * "3/12<TAB>indexing page 3". Whatever goes wrong ends in one sentence on stderr and exit 1 (2 for
 * wrong arguments). The API token is never in either. PROCESS_DOCSET_PAUSE_MS in the environment is
 * a pause after each document, for a server that has other things to do, or somebody who looks on.
 */
#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "database.h"
#include "items.h"

enum {
    BURST_LINES = 32,        /* so many lines of progress come as fast as they can, */
    LINE_EVERY_MS = 50,      /* then one in so many milliseconds */
    MAX_TITLE_BYTES = 200,   /* of a title in a line of progress */
    MAX_ANSWER_BYTES = 4096, /* of an answer that is no success */
    SECRET_BYTES = 8,        /* shorter tokens are words that could stand anywhere */
    CONNECT_TIMEOUT_S = 30,
    SILENCE_TIMEOUT_S = 300 /* Overview may think for long before a big set, but not for ever */
};

struct job {
    const char *server, *document_set_id, *api_token, *output;
    CURL *curl;
    struct database database;
    items items;
    uint64_t n_documents;
    uint64_t n_lines;
    int64_t last_line_ms;
    char refusal[MAX_ANSWER_BYTES + 1]; /* what the server says when it does not give documents */
    size_t refusal_len;
    char sentence[1024]; /* why it failed */
};

/* ---- failures ---- */

/* What servers say may hold anything, the token too. (Our own words are spared a short one, which
 * may be one of them.) */
static void redact(char *sentence, const char *token)
{
    size_t len = strlen(token);
    if (len == 0)
        return;
    for (char *p = sentence; (p = strstr(p, token)) != NULL; p += len)
        memset(p, '*', len);
}

/* Keeps the first sentence, which is the cause of later ones. Returns -1. */
static int __attribute__((format(printf, 2, 3))) fail(struct job *job, const char *format, ...)
{
    if (job->sentence[0] != '\0')
        return -1;
    va_list args;
    va_start(args, format);
    vsnprintf(job->sentence, sizeof job->sentence, format, args);
    va_end(args);
    for (char *p = job->sentence; *p != '\0'; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = ' ';
    if (strlen(job->api_token) >= SECRET_BYTES)
        redact(job->sentence, job->api_token);
    return -1;
}

static int fail_database(struct job *job)
{
    return fail(job, "Cannot write the database %s: %s.", job->output,
                database_problem(&job->database));
}

/* ---- progress ---- */

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Writes how far it is: items of items if the server has said how many there are. */
static void report(struct job *job, uint64_t done, const char *message)
{
    if (job->items.has_total && job->items.total > 0) {
        uint64_t total = done > job->items.total ? done : job->items.total;
        printf("%llu/%llu\t%s\n", (unsigned long long)done, (unsigned long long)total, message);
    } else {
        printf("0\t%s\n", message);
    }
    fflush(stdout);
    job->n_lines++;
    job->last_line_ms = now_ms();
}

/* Copies a title so that it stays on its line, cut between characters. */
static void copy_title(char *out, size_t size, const char *title, size_t len)
{
    if (len > size - 1) {
        len = size - 1;
        while (len > 0 && ((unsigned char)title[len] & 0xc0) == 0x80)
            len--;
    }
    for (size_t i = 0; i < len; i++)
        out[i] = (unsigned char)title[i] < 0x20 || title[i] == 0x7f ? ' ' : title[i];
    out[len] = '\0';
}

static void report_document(struct job *job, database_text title)
{
    if (job->n_lines > BURST_LINES && now_ms() - job->last_line_ms < LINE_EVERY_MS)
        return;
    char message[MAX_TITLE_BYTES + 16] = "indexing ";
    size_t used = strlen(message);
    if (title.len > 0)
        copy_title(message + used, MAX_TITLE_BYTES, title.data, title.len);
    else
        snprintf(message + used, MAX_TITLE_BYTES, "document %llu",
                 (unsigned long long)job->n_documents);
    report(job, job->n_documents, message);
}

/* ---- documents ---- */

static void pause_after_document(void)
{
    const char *text = getenv("PROCESS_DOCSET_PAUSE_MS");
    long ms = text == NULL ? 0 : strtol(text, NULL, 10);
    const struct timespec pause = {ms / 1000, ms % 1000 * 1000000};
    if (ms > 0)
        nanosleep(&pause, NULL);
}

/* A field that may be null or not there. */
static database_text text_of(json_t *item, const char *name)
{
    json_t *value = json_object_get(item, name);
    if (!json_is_string(value))
        return (database_text){NULL, 0};
    return (database_text){json_string_value(value), json_string_length(value)};
}

static int on_item(void *user, json_t *item)
{
    struct job *job = user;
    json_t *id = json_object_get(item, "id");
    if (!json_is_integer(id))
        return fail(job, "%s sent a document without an id.", job->server);
    database_text title = text_of(item, "title");
    int added;
    const database_document document = {
        .id = json_integer_value(id),
        .title = title,
        .url = text_of(item, "url"),
        .text = text_of(item, "text"),
        .page = json_integer_value(json_object_get(item, "pageNumber"))};
    if (database_add(&job->database, &document, &added) != 0)
        return fail_database(job);
    if (added) {
        job->n_documents++;
        report_document(job, title);
        pause_after_document();
    }
    return 0;
}

/* ---- the download ---- */

static long status_of(struct job *job)
{
    long status = 0;
    curl_easy_getinfo(job->curl, CURLINFO_RESPONSE_CODE, &status);
    return status;
}

static void keep_refusal(struct job *job, const char *data, size_t n)
{
    size_t room = MAX_ANSWER_BYTES - job->refusal_len;
    if (n > room)
        n = room;
    memcpy(job->refusal + job->refusal_len, data, n);
    job->refusal_len += n;
}

static size_t on_data(char *data, size_t size, size_t count, void *user)
{
    struct job *job = user;
    size_t n = size * count;
    if (status_of(job) != 200) {
        keep_refusal(job, data, n);
        return job->refusal_len == MAX_ANSWER_BYTES ? CURL_WRITEFUNC_ERROR : n; /* or endless */
    }
    if (items_feed(&job->items, data, n) == 0)
        return n;
    if (job->items.problem != NULL)
        fail(job, "%s did not answer with a document set: %s, at byte %llu of its JSON.",
             job->server, job->items.problem, (unsigned long long)job->items.offset);
    return CURL_WRITEFUNC_ERROR;
}

/* The parameters come from whoever asked the web server: only the web is fetched from, and what is
 * put into the address stays in its place. */
static int check_server(struct job *job)
{
    char *user = NULL, *scheme = NULL, *host = NULL;
    CURLU *url = curl_url();
    int bad = url == NULL || curl_url_set(url, CURLUPART_URL, job->server, 0) != CURLUE_OK ||
              curl_url_get(url, CURLUPART_SCHEME, &scheme, 0) != CURLUE_OK ||
              curl_url_get(url, CURLUPART_HOST, &host, 0) != CURLUE_OK ||
              (strcmp(scheme, "http") != 0 && strcmp(scheme, "https") != 0) ||
              curl_url_get(url, CURLUPART_USER, &user, 0) == CURLUE_OK ||
              strpbrk(job->server, "?#") != NULL;
    curl_free(user);
    curl_free(scheme);
    curl_free(host);
    curl_url_cleanup(url);
    return bad ? fail(job, "SERVER must be an address as in https://www.overviewdocs.com.") : 0;
}

static char *make_address(struct job *job)
{
    char *id = curl_easy_escape(job->curl, job->document_set_id, 0);
    if (id == NULL)
        return NULL;
    size_t len = strlen(job->server);
    while (len > 0 && job->server[len - 1] == '/')
        len--;
    char *address;
    if (asprintf(&address,
                 "%.*s/api/v1/document-sets/%s/"
                 "documents?fields=id,title,text,url,pageNumber&stream=true",
                 (int)len, job->server, id) < 0)
        address = NULL;
    curl_free(id);
    return address;
}

/* The reason in the body of a refusal, as in {"message": "..."}; "" if there is none. */
static const char *refusal_message(struct job *job, char *out, size_t size)
{
    json_t *body = json_loadb(job->refusal, job->refusal_len, 0, NULL);
    const char *message = json_string_value(json_object_get(body, "message"));
    snprintf(out, size, "%s%.200s", message == NULL ? "" : ": ", message == NULL ? "" : message);
    redact(out, job->api_token);
    json_decref(body);
    return out;
}

static int fail_status(struct job *job, long status)
{
    char why[256];
    refusal_message(job, why, sizeof why);
    if (status == 401)
        return fail(job, "%s does not know the API token, or has revoked it (401%s).", job->server,
                    why);
    if (status == 403)
        return fail(job, "The API token is not for document set %s on %s (403%s).",
                    job->document_set_id, job->server, why);
    if (status == 404)
        return fail(job, "There is no document set %s on %s (404%s).", job->document_set_id,
                    job->server, why);
    return fail(job, "%s answered with status %ld instead of documents%s.", job->server, status,
                why);
}

static int fail_broken(struct job *job, const char *why)
{
    char total[32] = "an unknown number of";
    if (job->items.has_total)
        snprintf(total, sizeof total, "%llu", (unsigned long long)job->items.total);
    return fail(job, "The stream from %s broke off after %llu of %s documents: %s.", job->server,
                (unsigned long long)job->n_documents, total, why);
}

/* What a transfer came to. An answer that is whole is good, however the connection ended. */
static int judge(struct job *job, CURLcode code, const char *detail)
{
    if (job->sentence[0] != '\0')
        return -1;
    const char *why = detail[0] != '\0' ? detail : curl_easy_strerror(code);
    long status = status_of(job);
    if (status == 0)
        return fail(job, "Cannot get an answer from %s: %s.", job->server, why);
    if (status != 200)
        return fail_status(job, status);
    if (items_complete(&job->items))
        return 0;
    return fail_broken(job, code == CURLE_OK ? "its end is missing" : why);
}

static void set_options(struct job *job, const char *address, char *detail)
{
    CURL *curl = job->curl;
    detail[0] = '\0';
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, detail);
    curl_easy_setopt(curl, CURLOPT_URL, address);
    curl_easy_setopt(curl, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_HTTPAUTH, CURLAUTH_BASIC);
    curl_easy_setopt(curl, CURLOPT_USERNAME, job->api_token);
    curl_easy_setopt(curl, CURLOPT_PASSWORD, "x-auth-token");
    curl_easy_setopt(curl, CURLOPT_USERAGENT, "workqueue process-docset");
    curl_easy_setopt(curl, CURLOPT_ACCEPT_ENCODING, "");
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_TIMEOUT_S);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, (long)SILENCE_TIMEOUT_S);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_data);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, job);
}

static int download(struct job *job)
{
    char detail[CURL_ERROR_SIZE];
    if (check_server(job) != 0)
        return -1;
    job->curl = curl_easy_init();
    char *address = job->curl == NULL ? NULL : make_address(job);
    if (address == NULL)
        return fail(job, "There is no memory for the download.");
    set_options(job, address, detail);
    CURLcode code = curl_easy_perform(job->curl);
    free(address);
    return judge(job, code, detail);
}

/* ---- the whole ---- */

/* The output is there and empty when workqueue runs us; from a shell it may be neither. */
static int prepare_output(struct job *job)
{
    int fd = open(job->output, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd == -1)
        return fail(job, "Cannot write %s: %s.", job->output, strerror(errno));
    close(fd);
    return 0;
}

static int process(struct job *job)
{
    if (prepare_output(job) != 0)
        return -1;
    report(job, 0, "asking for the documents");
    if (database_create(&job->database, job->output) != 0)
        return fail_database(job);
    if (download(job) != 0)
        return -1;
    char message[64];
    report(job, job->n_documents, "saving the database");
    if (database_finish(&job->database) != 0)
        return fail_database(job);
    snprintf(message, sizeof message, "indexed %llu documents",
             (unsigned long long)job->n_documents);
    job->items.total = job->n_documents; /* what was announced does not matter any more */
    report(job, job->n_documents, message);
    return 0;
}

static int usage(void)
{
    fputs("usage: process-docset SERVER DOCUMENT_SET_ID API_TOKEN OUTPUT_FILENAME"
          " (or - and WORKQUEUE_API_TOKEN in the environment for API_TOKEN)\n",
          stderr);
    return 2;
}

int main(int argc, char **argv)
{
    const char *token = argc == 5 ? argv[3] : NULL;
    if (token != NULL && strcmp(token, "-") == 0)
        token = getenv("WORKQUEUE_API_TOKEN");
    if (token == NULL)
        return usage();
    struct job job = {
        .server = argv[1], .document_set_id = argv[2], .api_token = token, .output = argv[4]};
    /* a file that may not grow is an error to report, not a death */
    (void)signal(SIGXFSZ, SIG_IGN);
    curl_global_init(CURL_GLOBAL_DEFAULT);
    items_init(&job.items, on_item, &job);
    int failed = process(&job);
    if (failed)
        fprintf(stderr, "%s\n", job.sentence);
    database_dispose(&job.database);
    items_dispose(&job.items);
    curl_easy_cleanup(job.curl);
    curl_global_cleanup();
    return failed ? 1 : 0;
}

/* client.c - libcurl for the commands that ask a server. */
#include "workqueue/command/client.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    MAX_ANSWER = 256 << 20, /* of a list */
    MAX_EVENT = 4 << 20,
    PAGE = 1000, /* of a list: the most that a server gives at once */
    CONNECT_MS = 10000,
    SILENCE_S = 60,   /* a stream has a sign of life every 15 s */
    MOST_WAIT_S = 60, /* between two tries */
};

static const option_row client_rows[] = {
    {"ca", "FILE", OPTION_TEXT, 0, offsetof(client_settings, ca_file), 0, 0,
     "This file says who may sign for https servers (the system's)."},
};
const option_group client_group = {"Connection", client_rows, 1};

static const option_row secret_rows[] = {
    {"operator-secret-file", "FILE", OPTION_SECRET, 0, offsetof(client_settings, secret), 0, 0,
     "The file holds the operator's secret (WORKQUEUE_OPERATOR_SECRET)."},
};
const option_group secret_group = {"Operator", secret_rows, 1};

typedef struct text_buffer {
    char *text; /* NUL-terminated */
    size_t n, most;
} text_buffer;

void client_settings_free(client_settings *c)
{
    if (c->secret != NULL)
        explicit_bzero(c->secret, strlen(c->secret));
    free(c->secret);
}

const char *client_text(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    return text ? text : "";
}

int client_base(const option_set *set, const char *url, char **base)
{
    if (strncmp(url, "http://", 7) != 0 && strncmp(url, "https://", 8) != 0)
        return options_wrong(set, "'%s' is no URL of a server, as in http://127.0.0.1:8080/", url);
    size_t n = strlen(url);
    while (n > 0 && url[n - 1] == '/')
        n--;
    *base = strndup(url, n);
    return *base ? COMMAND_OK : options_wrong(set, "there is no memory for a URL");
}

char *client_add_field(char *form, const char *name, const char *value)
{
    char *grown = NULL, *escaped = curl_easy_escape(NULL, value, 0);
    if (escaped == NULL ||
        asprintf(&grown, "%s%s%s=%s", form ? form : "",
                 form && *form && form[strlen(form) - 1] != '?' ? "&" : "", name, escaped) < 0)
        grown = NULL;
    curl_free(escaped);
    free(form);
    return grown;
}

/* ---- a request ------------------------------------------------------------------------------- */

static size_t take_body(char *bytes, size_t size, size_t n, void *user)
{
    text_buffer *buffer = user;
    n *= size;
    if (buffer->n + n > buffer->most)
        return 0;
    char *grown = realloc(buffer->text, buffer->n + n + 1);
    if (grown == NULL)
        return 0;
    memcpy(grown + buffer->n, bytes, n);
    buffer->text = grown;
    buffer->n += n;
    grown[buffer->n] = '\0';
    return n;
}

/* A handle for one request; `*headers` is freed with curl_slist_free_all(). */
static CURL *open_request(const client_settings *c, const char *method, const char *url,
                          const char *accept, struct curl_slist **headers)
{
    const char *secret = c->secret ? c->secret : getenv("WORKQUEUE_OPERATOR_SECRET");
    char line[1200];
    CURL *curl = curl_easy_init();
    *headers = NULL;
    if (curl == NULL)
        return NULL;
    snprintf(line, sizeof line, "Accept: %s", accept);
    *headers = curl_slist_append(NULL, line);
    if (secret != NULL && *secret != '\0') {
        snprintf(line, sizeof line, "Authorization: Bearer %s", secret);
        *headers = curl_slist_append(*headers, line);
        explicit_bzero(line, sizeof line);
    }
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, *headers);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_MS);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_USERAGENT, "workqueue");
    if (c->ca_file != NULL)
        curl_easy_setopt(curl, CURLOPT_CAINFO, c->ca_file);
    return curl;
}

/* A problem document's sentence, or what there is instead, on stderr. */
static int tell_problem(long status, const char *body)
{
    json_t *problem = body ? json_loads(body, 0, NULL) : NULL;
    const char *detail = client_text(problem, "detail");
    if (*detail != '\0')
        fprintf(stderr, "workqueue: %s\n", detail);
    else
        fprintf(stderr, "workqueue: the server answered with status %ld.\n", status);
    if (status == 401)
        fputs("(Give the operator's secret by --operator-secret-file or in "
              "WORKQUEUE_OPERATOR_SECRET.)\n",
              stderr);
    json_decref(problem);
    return COMMAND_FAILED;
}

static int tell_failure(const char *url, CURLcode code)
{
    fprintf(stderr, "workqueue: %s: %s\n", url, curl_easy_strerror(code));
    return COMMAND_FAILED;
}

static int read_answer(const char *url, const text_buffer *body, json_t **answer)
{
    json_error_t error;
    *answer = json_loads(body->text ? body->text : "", 0, &error);
    if (*answer != NULL)
        return COMMAND_OK;
    fprintf(stderr, "workqueue: %s is no server of ours: its answer is no JSON.\n", url);
    return COMMAND_FAILED;
}

int client_ask(const client_settings *c, const char *method, const char *url, const char *form,
               json_t **answer)
{
    text_buffer body = {.most = MAX_ANSWER};
    struct curl_slist *headers;
    long status = 0;
    CURL *curl = open_request(c, method, url, "application/json", &headers);
    if (curl == NULL)
        return tell_failure(url, CURLE_OUT_OF_MEMORY);
    if (form != NULL)
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, form);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_body);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &body);
    CURLcode code = curl_easy_perform(curl);
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    int r = code != CURLE_OK               ? tell_failure(url, code)
            : status < 200 || status > 299 ? tell_problem(status, body.text)
            : answer != NULL               ? read_answer(url, &body, answer)
                                           : COMMAND_OK;
    curl_easy_cleanup(curl);
    curl_slist_free_all(headers);
    free(body.text);
    return r;
}

static int ask_for_page(const client_settings *c, const char *url, size_t n, const char *after,
                        json_t **page)
{
    char limit[24], *whole = strdup(url);
    int r = COMMAND_FAILED;
    snprintf(limit, sizeof limit, "%zu", n < PAGE ? n : PAGE);
    whole = whole ? client_add_field(whole, "limit", limit) : NULL;
    if (whole != NULL && *after != '\0')
        whole = client_add_field(whole, "after", after);
    if (whole != NULL)
        r = client_ask(c, "GET", whole, NULL, page);
    free(whole);
    return r;
}

int client_list(const client_settings *c, const char *url, const char *member, json_t **answer)
{
    json_t *page = NULL;
    int r = ask_for_page(c, url, c->limit, "", answer);
    json_t *all = json_object_get(*answer, member);
    while (r == COMMAND_OK && json_array_size(all) < c->limit &&
           *client_text(*answer, "next") != '\0') {
        r = ask_for_page(c, url, c->limit - json_array_size(all), client_text(*answer, "next"),
                         &page);
        if (r == COMMAND_OK &&
            (json_array_extend(all, json_object_get(page, member)) != 0 ||
             json_object_set(*answer, "next", json_object_get(page, "next")) != 0))
            r = COMMAND_FAILED;
        json_decref(page);
        page = NULL;
    }
    return r;
}

/* ---- a download ------------------------------------------------------------------------------ */

static int fetch_into(const client_settings *c, const char *url, FILE *file)
{
    struct curl_slist *headers;
    CURL *curl = open_request(c, "GET", url, "*/*", &headers);
    if (curl == NULL)
        return tell_failure(url, CURLE_OUT_OF_MEMORY);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, file);
    curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 1L);
    curl_easy_setopt(curl, CURLOPT_FAILONERROR, 1L);
    CURLcode code = curl_easy_perform(curl);
    curl_easy_cleanup(curl);
    curl_slist_free_all(headers);
    return code == CURLE_OK ? COMMAND_OK : tell_failure(url, code);
}

int client_download(const client_settings *c, const char *url, const char *path)
{
    char *temporary = NULL;
    if (strcmp(path, "-") == 0)
        return fetch_into(c, url, stdout);
    mode_t mask = umask(0);
    umask(mask);
    int fd = asprintf(&temporary, "%s.XXXXXX", path) < 0 ? -1 : mkostemp(temporary, O_CLOEXEC);
    FILE *file = fd < 0 ? NULL : fdopen(fd, "w");
    int r = file == NULL ? COMMAND_FAILED : fetch_into(c, url, file);
    if (file != NULL && r == COMMAND_OK)
        r = fchmod(fd, 0666 & ~mask) != 0 || fflush(file) != 0 || rename(temporary, path) != 0
                ? COMMAND_FAILED
                : COMMAND_OK;
    if (file == NULL || (r != COMMAND_OK && errno != 0))
        fprintf(stderr, "workqueue: write %s: %s\n", path, strerror(errno));
    if (file != NULL)
        fclose(file);
    if (fd >= 0 && r != COMMAND_OK)
        unlink(temporary);
    free(temporary);
    return r;
}

/* ---- a stream of events ---------------------------------------------------------------------- */

typedef struct event_reader {
    text_buffer line, data, refusal;
    CURL *curl;
    int (*on_event)(void *user, const json_t *data);
    void *user;
    int over;  /* on_event has said so */
    int alive; /* something has come on this connection */
} event_reader;

static void end_event(event_reader *r)
{
    json_t *data = r->data.n > 0 ? json_loads(r->data.text, 0, NULL) : NULL;
    if (data != NULL && r->on_event(r->user, data))
        r->over = 1;
    json_decref(data);
    r->data.n = 0;
}

/* The form of an event stream: "data: ..." lines, and an empty one that ends the event. */
static int end_line(event_reader *r)
{
    char *line = r->line.text ? r->line.text : "";
    size_t n = r->line.n;
    r->line.n = 0;
    if (n > 0 && line[n - 1] == '\r')
        n--;
    if (n == 0)
        return end_event(r), 1;
    if (n < 5 || strncmp(line, "data:", 5) != 0)
        return 1;
    size_t skip = n > 5 && line[5] == ' ' ? 6 : 5;
    return take_body(line + skip, 1, n - skip, &r->data) == n - skip;
}

static size_t take_events(char *bytes, size_t size, size_t n, void *user)
{
    event_reader *r = user;
    long status = 0;
    curl_easy_getinfo(r->curl, CURLINFO_RESPONSE_CODE, &status);
    n *= size;
    if (status != 200)
        return take_body(bytes, 1, n, &r->refusal);
    r->alive = 1;
    for (size_t i = 0; i < n && !r->over; i++)
        if (bytes[i] == '\n' ? !end_line(r) : take_body(bytes + i, 1, 1, &r->line) != 1)
            return 0;
    return r->over ? 0 : n;
}

/* One connection to its end. The answer's status; 0: there was none. */
static long read_events(const client_settings *c, const char *url, event_reader *r)
{
    struct curl_slist *headers;
    long status = 0;
    r->line.n = r->data.n = r->refusal.n = 0;
    r->alive = 0;
    r->curl = open_request(c, "GET", url, "text/event-stream", &headers);
    if (r->curl == NULL)
        return 0;
    curl_easy_setopt(r->curl, CURLOPT_WRITEFUNCTION, take_events);
    curl_easy_setopt(r->curl, CURLOPT_WRITEDATA, r);
    curl_easy_setopt(r->curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(r->curl, CURLOPT_LOW_SPEED_TIME, (long)SILENCE_S);
    curl_easy_perform(r->curl);
    curl_easy_getinfo(r->curl, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_cleanup(r->curl);
    curl_slist_free_all(headers);
    return status;
}

int client_follow(const client_settings *c, const char *url,
                  int (*on_event)(void *user, const json_t *data), void *user)
{
    event_reader r = {.on_event = on_event, .user = user};
    r.line.most = r.data.most = r.refusal.most = MAX_EVENT;
    int result = COMMAND_OK;
    unsigned wait_s = 1;
    while (!r.over) {
        long status = read_events(c, url, &r);
        if (r.over)
            break;
        if (status >= 400 && status < 500 && status != 429) {
            result = tell_problem(status, r.refusal.n > 0 ? r.refusal.text : NULL);
            break;
        }
        wait_s = r.alive ? 1 : wait_s;
        fprintf(stderr, "The connection is lost; the run goes on. Trying again in %u s.\n", wait_s);
        sleep(wait_s);
        wait_s = wait_s * 2 < MOST_WAIT_S ? wait_s * 2 : MOST_WAIT_S;
    }
    free(r.line.text);
    free(r.data.text);
    free(r.refusal.text);
    return result;
}

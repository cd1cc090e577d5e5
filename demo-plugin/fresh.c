/* fresh.c - asks Overview how many documents it has. */
#include "fresh.h"

#include <curl/curl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "facts.h"

enum { CONNECT_TIMEOUT_MS = 2000, TIMEOUT_MS = 5000, MAX_ANSWER_BYTES = 64 << 10 };

/* Who waits for the answer. */
struct asker {
    const atomic_int *stop;
};

static size_t on_data(char *data, size_t size, size_t count, void *user)
{
    struct text *answer = user;
    if (answer->len + size * count > MAX_ANSWER_BYTES)
        return CURL_WRITEFUNC_ERROR;
    text_add(answer, data, size * count);
    return size * count;
}

static int on_progress(void *user, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
    const struct asker *asker = user;
    (void)a;
    (void)b;
    (void)c;
    (void)d;
    return *asker->stop;
}

static char *make_address(CURL *curl, const wq_params *params)
{
    char *address = NULL, *id = curl_easy_escape(curl, params->document_set_id, 0);
    size_t len = strlen(params->server);
    while (len > 0 && params->server[len - 1] == '/')
        len--;
    if (id == NULL ||
        asprintf(&address, "%.*s/api/v1/document-sets/%s/documents?fields=id,title&limit=1",
                 (int)len, params->server, id) < 0)
        address = NULL;
    curl_free(id);
    return address;
}

/* Fetches one document, with which comes how many there are. Nonzero: there is no answer. */
static int fetch(struct text *answer, const wq_params *params, const atomic_int *stop)
{
    long status = 0;
    struct asker asker = {stop};
    CURL *curl = curl_easy_init();
    char *address = curl == NULL ? NULL : make_address(curl, params);
    int r = address == NULL ? CURLE_OUT_OF_MEMORY : CURLE_OK;
    if (r == CURLE_OK) {
        curl_easy_setopt(curl, CURLOPT_URL, address);
        curl_easy_setopt(curl, CURLOPT_PATH_AS_IS, 1L);
        curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
        curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
        curl_easy_setopt(curl, CURLOPT_HTTPAUTH, CURLAUTH_BASIC);
        curl_easy_setopt(curl, CURLOPT_USERNAME, params->api_token);
        curl_easy_setopt(curl, CURLOPT_PASSWORD, "x-auth-token");
        curl_easy_setopt(curl, CURLOPT_USERAGENT, "workqueue demo-plugin");
        curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_TIMEOUT_MS);
        curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, (long)TIMEOUT_MS);
        curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_data);
        curl_easy_setopt(curl, CURLOPT_WRITEDATA, answer);
        curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
        curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_progress);
        curl_easy_setopt(curl, CURLOPT_XFERINFODATA, &asker);
        r = (int)curl_easy_perform(curl);
        curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    }
    free(address);
    curl_easy_cleanup(curl);
    return r != CURLE_OK || status != 200 || answer->failed;
}

/* How many documents Overview has; -1: it does not say. */
static json_int_t count_documents(const wq_params *params, const atomic_int *stop)
{
    struct text answer = {0};
    json_t *body = NULL;
    json_int_t n = -1;
    if (fetch(&answer, params, stop) == 0)
        body = json_loadb(answer.data == NULL ? "" : answer.data, answer.len, 0, NULL);
    json_t *total = json_object_get(json_object_get(body, "pagination"), "total");
    if (json_is_integer(total) && json_integer_value(total) >= 0)
        n = json_integer_value(total);
    json_decref(body);
    text_dispose(&answer);
    return n;
}

int fresh_look(struct text *body, const char *path, const wq_params *params, const atomic_int *stop)
{
    sqlite3 *db;
    int r = facts_open(&db, path);
    text_addf(body, "{\"index\":");
    if (r == SQLITE_OK)
        r = facts_add(body, db);
    sqlite3_close(db);
    if (r != SQLITE_OK)
        return r == SQLITE_NOTADB || r == SQLITE_ERROR ? 422 : 500;
    json_int_t n = count_documents(params, stop);
    if (n >= 0)
        text_addf(body, ",\"overview\":{\"documents\":%lld}}\n", (long long)n);
    else
        text_addf(body, ",\"overview\":{\"documents\":null}}\n");
    return body->failed ? 500 : 200;
}

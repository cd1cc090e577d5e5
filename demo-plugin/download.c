/* download.c - the download, by libcurl. */
#include "download.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    CONNECT_TIMEOUT_S = 30,
    SILENCE_TIMEOUT_S = 300 /* Overview may think for long before a big set, but not for ever */
};

static long status_of(struct download *download)
{
    long status = 0;
    curl_easy_getinfo(download->curl, CURLINFO_RESPONSE_CODE, &status);
    return status;
}

static size_t on_data(char *data, size_t size, size_t count, void *user)
{
    struct download *download = user;
    size_t n = size * count;
    /* Who asks for a run may not be allowed to read what the server says, but we are: its words
     * stay with us. */
    if (status_of(download) != 200)
        return CURL_WRITEFUNC_ERROR;
    if (items_feed(&download->items, data, n) == 0)
        return n;
    if (download->items.problem != NULL)
        failure_set(download->failure,
                    "%s did not answer with a document set: %s, at byte %llu of its JSON.",
                    download->server, download->items.problem,
                    (unsigned long long)download->items.offset);
    return CURL_WRITEFUNC_ERROR;
}

/* The parameters come from whoever asked the web server: only the web is fetched from, and what is
 * put into the address stays in its place. */
static int check_server(struct download *download)
{
    char *user = NULL, *scheme = NULL, *host = NULL;
    CURLU *url = curl_url();
    int bad = url == NULL || curl_url_set(url, CURLUPART_URL, download->server, 0) != CURLUE_OK ||
              curl_url_get(url, CURLUPART_SCHEME, &scheme, 0) != CURLUE_OK ||
              curl_url_get(url, CURLUPART_HOST, &host, 0) != CURLUE_OK ||
              (strcmp(scheme, "http") != 0 && strcmp(scheme, "https") != 0) ||
              curl_url_get(url, CURLUPART_USER, &user, 0) == CURLUE_OK ||
              strpbrk(download->server, "?#") != NULL;
    curl_free(user);
    curl_free(scheme);
    curl_free(host);
    curl_url_cleanup(url);
    return bad ? failure_set(download->failure,
                             "SERVER must be an address as in https://www.overviewdocs.com.")
               : 0;
}

static char *make_address(struct download *download)
{
    char *id = curl_easy_escape(download->curl, download->document_set_id, 0);
    if (id == NULL)
        return NULL;
    size_t len = strlen(download->server);
    while (len > 0 && download->server[len - 1] == '/')
        len--;
    char *address;
    if (asprintf(&address,
                 "%.*s/api/v1/document-sets/%s/"
                 "documents?fields=id,title,text,url,pageNumber&stream=true",
                 (int)len, download->server, id) < 0)
        address = NULL;
    curl_free(id);
    return address;
}

static int fail_status(struct download *download, long status)
{
    if (status == 401)
        return failure_set(download->failure,
                           "%s does not know the API token, or has revoked it (401).",
                           download->server);
    if (status == 403)
        return failure_set(download->failure,
                           "The API token is not for document set %s on %s (403).",
                           download->document_set_id, download->server);
    if (status == 404)
        return failure_set(download->failure, "There is no document set %s on %s (404).",
                           download->document_set_id, download->server);
    return failure_set(download->failure, "%s answered with status %ld instead of documents.",
                       download->server, status);
}

static int fail_broken(struct download *download, const char *why)
{
    char total[32] = "an unknown number of";
    if (download->items.has_total)
        snprintf(total, sizeof total, "%llu", (unsigned long long)download->items.total);
    return failure_set(download->failure,
                       "The stream from %s broke off after %llu of %s documents: %s.",
                       download->server, (unsigned long long)download->n_read, total, why);
}

/* What a transfer came to. An answer that is whole is good, however the connection ended. */
static int judge(struct download *download, CURLcode code, const char *detail)
{
    if (failure_is_set(download->failure))
        return -1;
    const char *why = detail[0] != '\0' ? detail : curl_easy_strerror(code);
    long status = status_of(download);
    if (status == 0)
        return failure_set(download->failure, "Cannot get an answer from %s: %s.", download->server,
                           why);
    if (status != 200)
        return fail_status(download, status);
    if (items_complete(&download->items))
        return 0;
    return fail_broken(download, code == CURLE_OK ? "its end is missing" : why);
}

static void set_options(struct download *download, const char *address, char *detail)
{
    CURL *curl = download->curl;
    detail[0] = '\0';
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, detail);
    curl_easy_setopt(curl, CURLOPT_URL, address);
    curl_easy_setopt(curl, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_HTTPAUTH, CURLAUTH_BASIC);
    curl_easy_setopt(curl, CURLOPT_USERNAME, download->api_token);
    curl_easy_setopt(curl, CURLOPT_PASSWORD, "x-auth-token");
    curl_easy_setopt(curl, CURLOPT_USERAGENT, "workqueue process-docset");
    curl_easy_setopt(curl, CURLOPT_ACCEPT_ENCODING, "");
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_TIMEOUT_S);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, (long)SILENCE_TIMEOUT_S);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_data);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, download);
}

int download_run(struct download *download)
{
    char detail[CURL_ERROR_SIZE], *address = NULL;
    if (check_server(download) != 0)
        return -1;
    download->curl = curl_easy_init();
    address = download->curl == NULL ? NULL : make_address(download);
    int r = address == NULL ? failure_set(download->failure, "There is no memory for the download.")
                            : 0;
    if (r == 0) {
        set_options(download, address, detail);
        r = judge(download, curl_easy_perform(download->curl), detail);
    }
    free(address);
    curl_easy_cleanup(download->curl);
    return r;
}

/* s3_options.c - the options of the S3 store, and what the environment adds to them. */
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "workqueue/s3/store.h"
#include "workqueue/s3/text.h"
#include "workqueue/util/log.h"

enum { BUCKET_BYTES = 256, MIN_PART = 5 << 20 };

void wq_s3_options_init(wq_s3_options *options, size_t size)
{
    memset(options, 0, size);
    if (size != sizeof *options)
        return;
    *options = (wq_s3_options){
        .size = size,
        .path_style = 1,
        .content_type = "application/octet-stream",
        .cache_bytes = 1ULL << 30,
        .part_bytes = 64 << 20,
        .max_connections = 16,
        .connect_timeout_ms = 5000,
        .stall_timeout_ms = 30000,
        .retries = 4,
        .backoff_ms = 100,
        .backoff_max_ms = 3000,
    };
}

static int is_text(const char *text)
{
    for (; *text != '\0'; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f)
            return 0;
    return 1;
}

static int check_s3_options(const wq_s3_options *o, wq_error *error)
{
    const char *wrong = NULL;
    if (o->size != sizeof *o)
        wrong = "size is unknown to this library; fill them with wq_s3_options_init()";
    else if (o->cache_dir == NULL || *o->cache_dir == '\0')
        wrong = "cache_dir is missing";
    else if (o->part_bytes < MIN_PART)
        wrong = "part_bytes must be at least 5242880";
    else if (o->max_connections < 1 || o->max_connections > 64)
        wrong = "max_connections must be from 1 to 64";
    else if (o->connect_timeout_ms == 0 || o->stall_timeout_ms == 0)
        wrong = "connect_timeout_ms and stall_timeout_ms must not be 0";
    else if (o->retries > 100)
        wrong = "retries must be at most 100";
    else if (o->content_type == NULL || *o->content_type == '\0' || !is_text(o->content_type))
        wrong = "content_type must be a media type";
    else if (o->public_base != NULL && (*o->public_base == '\0' || !is_text(o->public_base)))
        wrong = "public_base must be a URL";
    if (wrong != NULL)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "S3 options: %s", wrong);
    return WQ_OK;
}

/* Takes "s3://bucket/prefix" apart. */
static int take_url(s3 *s, char bucket[BUCKET_BYTES], const char *url, wq_error *error)
{
    static const char scheme[] = "s3://";
    static const char letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_";
    if (url == NULL || strncmp(url, scheme, sizeof scheme - 1) != 0)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT,
                       "S3 options: url must be like s3://bucket/prefix");
    url += sizeof scheme - 1;
    size_t n = strcspn(url, "/");
    if (n < 3 || n >= BUCKET_BYTES || strspn(url, letters) < n || *url == '.')
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT,
                       "S3 options: the bucket in url must be 3 to 255 of A-Z a-z 0-9 . - _");
    memcpy(bucket, url, n);
    bucket[n] = '\0';
    url += n;
    url += strspn(url, "/");
    size_t length = strlen(url);
    if (length + 2 > sizeof s->prefix || !is_text(url))
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT,
                       "S3 options: the prefix in url is too long, or has control characters");
    snprintf(s->prefix, sizeof s->prefix, "%s%s", url,
             length > 0 && url[length - 1] != '/' ? "/" : "");
    return wq_s3_encode(s->encoded_prefix, sizeof s->encoded_prefix, s->prefix, "/");
}

static const char *or_environment(const char *value, const char *name, const char *other)
{
    if (value == NULL)
        value = getenv(name);
    if ((value == NULL || *value == '\0') && other != NULL)
        value = getenv(other);
    return value != NULL && *value != '\0' ? value : NULL;
}

static int take_file(s3 *s, wq_s3_config *config, const wq_s3_options *o, wq_error *error)
{
    s->credentials_file = strdup(o->credentials_file);
    if (s->credentials_file == NULL)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    if (wq_s3_read_credentials(s) != 0)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT,
                       "S3 options: there are no credentials in %s; it should have lines like "
                       "AWS_ACCESS_KEY_ID=... and AWS_SECRET_ACCESS_KEY=...",
                       o->credentials_file);
    config->access_key = s->access_key;
    config->secret_key = s->secret_key;
    config->session_token = *s->session_token != '\0' ? s->session_token : NULL;
    config->renew = wq_s3_renew_credentials;
    config->user = s;
    return WQ_OK;
}

static int take_credentials(s3 *s, wq_s3_config *config, const wq_s3_options *o, wq_error *error)
{
    int given = o->access_key != NULL;
    if (o->credentials_file != NULL)
        return take_file(s, config, o, error);
    config->access_key = or_environment(o->access_key, "AWS_ACCESS_KEY_ID", NULL);
    config->secret_key =
        given ? o->secret_key : or_environment(o->secret_key, "AWS_SECRET_ACCESS_KEY", NULL);
    config->session_token =
        given ? o->session_token : or_environment(o->session_token, "AWS_SESSION_TOKEN", NULL);
    if (config->access_key == NULL || config->secret_key == NULL)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT,
                       "S3 options: there are no credentials; set AWS_ACCESS_KEY_ID and "
                       "AWS_SECRET_ACCESS_KEY");
    if (!is_text(config->access_key) || !is_text(config->secret_key) ||
        (config->session_token != NULL && !is_text(config->session_token)))
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT,
                       "S3 options: credentials have control characters");
    return WQ_OK;
}

/* Puts the bucket in front of the host. */
static int add_to_host(CURLU *parsed, const char *bucket)
{
    char *host, *longer = NULL;
    if (curl_url_get(parsed, CURLUPART_HOST, &host, 0) != CURLUE_OK)
        return -1;
    int ok = asprintf(&longer, "%s.%s", bucket, host) >= 0 &&
             curl_url_set(parsed, CURLUPART_HOST, longer, 0) == CURLUE_OK;
    free(longer);
    curl_free(host);
    return ok ? 0 : -1;
}

static int has_part(CURLU *parsed, CURLUPart what)
{
    char *text;
    if (curl_url_get(parsed, what, &text, 0) != CURLUE_OK)
        return 0;
    curl_free(text);
    return 1;
}

/* The URL of the bucket, with a "/" at its end; NULL if `endpoint` is none for a store. */
static char *bucket_url(const char *endpoint, const char *bucket, int path_style)
{
    char *text = NULL, *url = NULL;
    CURLU *parsed = curl_url();
    if (parsed != NULL && curl_url_set(parsed, CURLUPART_URL, endpoint, 0) == CURLUE_OK &&
        (strncmp(endpoint, "http://", 7) == 0 || strncmp(endpoint, "https://", 8) == 0) &&
        !has_part(parsed, CURLUPART_USER) && !has_part(parsed, CURLUPART_QUERY) &&
        !has_part(parsed, CURLUPART_FRAGMENT) && (path_style || add_to_host(parsed, bucket) == 0) &&
        curl_url_get(parsed, CURLUPART_URL, &text, 0) == CURLUE_OK) {
        size_t n = strlen(text);
        while (n > 0 && text[n - 1] == '/')
            n--;
        if (asprintf(&url, "%.*s/%s%s", (int)n, text, path_style ? bucket : "",
                     path_style ? "/" : "") < 0)
            url = NULL;
    }
    curl_free(text);
    curl_url_cleanup(parsed);
    return url;
}

static int copy_strings(s3 *s, const wq_s3_options *o, wq_error *error)
{
    if (o->public_base != NULL && (s->public_base = strdup(o->public_base)) == NULL)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    if (asprintf(&s->content_type, "Content-Type: %s", o->content_type) < 0) {
        s->content_type = NULL;
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    }
    return WQ_OK;
}

static int open_client(s3 *s, const wq_s3_options *o, wq_error *error)
{
    char bucket[BUCKET_BYTES], amazon[256];
    wq_s3_config config = {
        .max_connections = o->max_connections,
        .connect_timeout_ms = o->connect_timeout_ms,
        .stall_timeout_ms = o->stall_timeout_ms,
        .retries = o->retries,
        .backoff_ms = o->backoff_ms,
        .backoff_max_ms = o->backoff_max_ms,
        .logger = s->logger,
    };
    int result = take_url(s, bucket, o->url, error);
    if (result != WQ_OK || (result = take_credentials(s, &config, o, error)) != WQ_OK)
        return result;
    config.region = or_environment(o->region, "AWS_REGION", "AWS_DEFAULT_REGION");
    if (config.region == NULL)
        config.region = "us-east-1";
    size_t n = strlen(config.region);
    if (n > 64 || strspn(config.region, "abcdefghijklmnopqrstuvwxyz0123456789-_") != n)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "S3 options: region is malformed");
    config.ca_file = or_environment(o->ca_file, "AWS_CA_BUNDLE", NULL);
    const char *endpoint = or_environment(o->endpoint, "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL");
    snprintf(amazon, sizeof amazon, "https://s3.%s.amazonaws.com", config.region);
    char *base = bucket_url(endpoint ? endpoint : amazon, bucket, o->path_style);
    if (base == NULL)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT,
                       "S3 options: endpoint must be like http://host:port, without credentials");
    config.base = base;
    result = wq_s3_client_open(&s->client, &config, error);
    free(base);
    return result;
}

int wq_s3_configure(s3 *s, const wq_s3_options *o, wq_error *error)
{
    int result = check_s3_options(o, error);
    if (result != WQ_OK)
        return result;
    s->logger = (wq_logger){o->log, o->log_user};
    s->part_bytes = o->part_bytes;
    if ((result = copy_strings(s, o, error)) != WQ_OK)
        return result;
    return open_client(s, o, error);
}

/* params.c - the triple that names a job: its validation and its key.
 *
 * The key is made for every request, so it uses OpenSSL's plain SHA-256, which is deprecated since
 * EVP fetches its algorithm anew at each use, under a lock, for more time than the hashing takes.
 */
#define OPENSSL_API_COMPAT 0x10100000L
#include "workqueue/core/params.h"

#include <openssl/sha.h>
#include <string.h>

#include "workqueue/util/log.h"
#include "workqueue/util/text.h"

static int check_field(const char *name, const char *value, size_t max, wq_error *error)
{
    if (value == NULL || *value == '\0')
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "%s is missing", name);
    size_t len = strnlen(value, max + 1);
    if (len > max)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "%s is longer than %zu bytes", name, max);
    for (size_t i = 0; i < len;) {
        size_t n = wq_utf8_length(value + i, len - i);
        if (n == 0)
            return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "%s is not valid UTF-8", name);
        if ((unsigned char)value[i] < 0x20 || value[i] == 0x7f)
            return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "%s holds a control character", name);
        i += n;
    }
    return WQ_OK;
}

int wq_params_check(const wq_params *params, wq_error *error)
{
    if (params == NULL)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "the parameters are NULL");
    int r = check_field("server", params->server, WQ_SERVER_MAX_BYTES, error);
    if (r == WQ_OK)
        r = check_field("document_set_id", params->document_set_id, WQ_DOCUMENT_SET_ID_MAX_BYTES,
                        error);
    if (r == WQ_OK)
        r = check_field("api_token", params->api_token, WQ_API_TOKEN_MAX_BYTES, error);
    return r;
}

/* Appends a string preceded by its length, so that no two triples give the same bytes. */
static size_t append(unsigned char *to, const char *value)
{
    size_t len = strlen(value);
    for (int i = 0; i < 8; i++)
        to[i] = (unsigned char)((uint64_t)len >> (56 - 8 * i));
    memcpy(to + 8, value, len); /* NOLINT(bugprone-not-null-terminated-result): bytes to hash */
    return 8 + len;
}

int wq_params_key(const wq_params *params, char key[WQ_KEY_SIZE])
{
    static const char hex[] = "0123456789abcdef";
    unsigned char
        bytes[3 * 8 + WQ_SERVER_MAX_BYTES + WQ_DOCUMENT_SET_ID_MAX_BYTES + WQ_API_TOKEN_MAX_BYTES];
    unsigned char digest[SHA256_DIGEST_LENGTH];
    SHA256_CTX sha;
    if (key == NULL || wq_params_check(params, NULL) != WQ_OK)
        return WQ_ERROR_INVALID_ARGUMENT;
    size_t n = append(bytes, params->server);
    n += append(bytes + n, params->document_set_id);
    n += append(bytes + n, params->api_token);
    if (!SHA256_Init(&sha) || !SHA256_Update(&sha, bytes, n) || !SHA256_Final(digest, &sha))
        return WQ_ERROR_NO_MEMORY;
    for (size_t i = 0; i < 32; i++) {
        key[2 * i] = hex[digest[i] >> 4];
        key[2 * i + 1] = hex[digest[i] & 15];
    }
    key[64] = '\0';
    return WQ_OK;
}

size_t wq_params_bytes(const wq_params *params)
{
    return strlen(params->server) + strlen(params->document_set_id) + strlen(params->api_token) + 3;
}

void wq_params_copy(wq_params *out, char *storage, const wq_params *params)
{
    out->server = storage;
    storage = stpcpy(storage, params->server) + 1;
    out->document_set_id = storage;
    storage = stpcpy(storage, params->document_set_id) + 1;
    out->api_token = storage;
    memcpy(storage, params->api_token, strlen(params->api_token) + 1);
}

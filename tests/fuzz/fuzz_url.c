/* fuzz_url.c - libFuzzer on the one form of a server's URL: it is its own form, it is what the two
 * spellings of a host have in common, and there is nothing in it that a program could take for more than
 * a URL. */
#include <assert.h>
#include <ctype.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "workqueue/http/request/url.h"

static char *copy_text(const uint8_t *bytes, size_t n)
{
    char *text = malloc(n + 1); /* not a byte more, for the sanitizer */
    assert(text != NULL);
    memcpy(text, bytes, n);
    text[n] = '\0';
    return text;
}

static void check_form(const char *url)
{
    char again[WQ_URL_SIZE];
    assert(strncmp(url, "http://", 7) == 0 || strncmp(url, "https://", 8) == 0);
    assert(strstr(url, "/../") == NULL && strstr(url + 8, "/./") == NULL);
    for (const char *c = strstr(url, "://") + 3; *c != '\0' && *c != '/' && *c != '?'; c++)
        assert(!isupper((unsigned char)*c));
    for (const char *c = url; *c != '\0'; c++)
        assert((unsigned char)*c > ' ' && *c != 0x7f);
    assert(wq_url_canonical(again, sizeof again, url) == NULL);
    assert(strcmp(again, url) == 0);
}

/* The same host and scheme in capitals are the same server. */
static void check_spelling(char *text, const char *url)
{
    char other[WQ_URL_SIZE];
    char *end = strstr(text, "://");
    for (char *c = text; end != NULL && c < end + 3 + strcspn(end + 3, "/?#%"); c++)
        *c = (char)toupper((unsigned char)*c);
    assert(wq_url_canonical(other, sizeof other, text) == NULL);
    assert(strcmp(other, url) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char url[WQ_URL_SIZE];
    char *text = copy_text(data, size);
    if (wq_url_canonical(url, sizeof url, text) == NULL) {
        check_form(url);
        check_spelling(text, url);
    }
    free(text);
    return 0;
}

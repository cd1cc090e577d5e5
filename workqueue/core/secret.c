/* secret.c - a program may print the token it was given; what we keep and log must not show it. */
#include "workqueue/core/secret.h"

#include <string.h>

enum { SECRET_BYTES = 8 };

void wq_hide_secret(char *text, size_t len, const char *token)
{
    size_t n = strlen(token);
    if (n < SECRET_BYTES)
        return;
    char *end = text + len;
    for (char *p = text; (p = memmem(p, (size_t)(end - p), token, n)) != NULL; p += n)
        memset(p, '*', n);
}

/* The end of stderr may begin in the middle of a token. */
void wq_hide_secret_in_error(char *error, const char *token)
{
    static const char head[] = "\nstderr:\n";
    size_t n = strlen(token);
    wq_hide_secret(error, strlen(error), token);
    char *tail = strstr(error, head);
    if (n < SECRET_BYTES || tail == NULL)
        return;
    tail += sizeof head - 1;
    for (size_t k = n - 1; k >= SECRET_BYTES / 2; k--)
        if (strncmp(tail, token + n - k, k) == 0) {
            memset(tail, '*', k);
            return;
        }
}

size_t wq_secret_begun(const char *text, size_t len, const char *token)
{
    size_t n = strlen(token), k = len < n ? len : n - 1;
    if (n < SECRET_BYTES)
        return 0;
    for (; k > 0; k--)
        if (memcmp(text + len - k, token, k) == 0)
            return k;
    return 0;
}

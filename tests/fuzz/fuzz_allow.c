/* fuzz_allow.c - libFuzzer on the allow-list of servers: an entry, a newline, and a server. What is
 * let in must be spelt without any of the tricks. */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "workqueue/http/request/url.h"

static char *copy(const void *bytes, size_t n)
{
    char *text = malloc(n + 1); /* not a byte more, for the sanitizer */
    assert(text != NULL);
    memcpy(text, bytes, n);
    text[n] = '\0';
    return text;
}

static void check_innocent(const char *server)
{
    const char *host = strstr(server, "://") + 3;
    const size_t n = strcspn(host, "/");
    assert(strncasecmp(server, "http", 4) == 0);
    assert(memchr(host, '@', n) == NULL && memchr(host, '%', n) == NULL);
    assert(strpbrk(server, "\\?# \t\r\n") == NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *newline = size > 0 ? memchr(data, '\n', size) : NULL;
    const size_t n = newline != NULL ? (size_t)(newline - data) : size;
    char *entry = copy(data, n);
    char *server = newline != NULL ? copy(newline + 1, size - n - 1) : copy(data, n);
    const char *const entries[] = {entry, "http://good.example/a"};
    wq_allow *allow;
    wq_error error = {0};

    if (wq_allow_new(&allow, entries, 2, &error) == WQ_OK) {
        assert(wq_allow_has(allow, entry));
        if (wq_allow_has(allow, server))
            check_innocent(server);
        wq_allow_free(allow);
    } else {
        assert(error.message[0] != '\0');
    }
    free(entry);
    free(server);
    return 0;
}

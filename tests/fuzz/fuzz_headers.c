/* fuzz_headers.c - libFuzzer on single headers and on paths: the first byte chooses where in a
 * request that is otherwise good the rest is put. What is answered about ranges must be true. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mounted.h"

#define PARAMS "server=http://o&documentSetId=d&apiToken=secret-token"
#define JOB "GET /work/{id} HTTP/1.1\r\nhost: a\r\n"
#define RUN "POST /run?" PARAMS " HTTP/1.1\r\nhost: a\r\n"

static const char *const places[] = {
    JOB "range: ",
    JOB "accept: ",
    JOB "prefer: wait=0\r\nprefer: ",
    JOB "if-none-match: ",
    JOB "if-match: ",
    JOB "if-modified-since: ",
    JOB "range: bytes=1-2\r\nif-range: ",
    JOB "accept: text/event-stream\r\nlast-event-id: ",
    RUN "accept: ",
    RUN "x-lunkwill: ",
    RUN "cache-control: ",
    RUN "content-length: 1\r\ncontent-type: ",
    "POST /generate?server=http://o&documentSetId=d HTTP/1.1\r\nhost: a\r\nauthorization: ",
    "DELETE /output?server=http://o HTTP/1.1\r\nhost: a\r\nauthorization: ",
    "GET /generate?server=http://o&documentSetId=d HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\n"
    "connection: upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: "
    "dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: ",
    "GET /",
    "GET /work/",
    "GET /api/lunkwill/",
    "GET /api/tasks/",
    "POST /generate?",
};

enum { N_PLACES = sizeof places / sizeof places[0], FIRST_PATH = 15 };

/* A 206 is the part of the output that it says it is. */
static void check_range(const char *answer, size_t len)
{
    unsigned long long first, last, total;
    const char *body = strstr(answer, "\r\n\r\n");
    const char *range = strcasestr(answer, "\r\ncontent-range: bytes ");
    if (strncmp(answer, "HTTP/1.1 206", 12) != 0)
        return;
    assert(body != NULL && range != NULL && range < body);
    assert(sscanf(range + 23, "%llu-%llu/%llu", &first, &last, &total) == 3);
    assert(first <= last && last < total && total == MOUNTED_SMALL);
    body += 4;
    assert(len - (size_t)(body - answer) == last - first + 1);
    for (unsigned long long i = first; i <= last; i++)
        assert(body[i - first] == mounted_byte(i));
}

static size_t put(uint8_t *out, size_t n, const void *bytes, size_t size)
{
    memcpy(out + n, bytes, size);
    return n + size;
}

static void talk(const char *before, const uint8_t *data, size_t size, const char *after)
{
    uint8_t *request = malloc(strlen(before) + size + strlen(after));
    size_t n = 0, len;
    assert(request != NULL);
    n = put(request, n, before, strlen(before));
    n = put(request, n, data, size);
    n = put(request, n, after, strlen(after));
    const char *answer = mounted_talk(request, n, &len);
    check_range(answer, len);
    free(request);
}

static void have_output(void)
{
    static int runs; /* outputs are removed once in a while, and jobs forgotten */
    if (runs++ % 40 == 0)
        talk("POST /start_work?" PARAMS "&rebuild=1 HTTP/1.1\r\n", (const uint8_t *)"host: a\r\n",
             9, "\r\n");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0 || memchr(data + 1, '\n', size - 1) != NULL ||
        memchr(data + 1, MOUNTED_PAUSE, size - 1) != NULL)
        return -1; /* one header, and one only */
    const unsigned place = (unsigned char)(data[0] - 'a') % N_PLACES;
    have_output();
    talk(places[place], data + 1, size - 1,
         place < FIRST_PATH ? "\r\n\r\n" : " HTTP/1.1\r\nhost: a\r\n\r\n");
    return 0;
}

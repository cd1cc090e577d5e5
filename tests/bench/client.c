/* client.c - what the two load clients share: time, a socket, and an HTTP/1.1 response as it comes.
 *
 * The reader takes a response apart by its framing and never guesses an end from the bytes that
 * happen to be last, so a cut response or one with something after it is counted as bad.
 */
#include "client.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int dial(int port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to)) != 0) {
        perror("connect");
        exit(1);
    }
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    /* Closing resets the connection: thousands in TIME_WAIT would use up the ports of a next run.
     */
    struct linger hard = {.l_onoff = 1, .l_linger = 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

int send_all(int fd, const char *bytes, size_t n) {
    return send(fd, bytes, n, MSG_NOSIGNAL) == (ssize_t)n ? 0 : -1;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double percentile(double *values, size_t n, double share) {
    if (n == 0)
        return 0;
    qsort(values, n, sizeof(*values), by_value);
    return values[(size_t)(share * (double)(n - 1))];
}

/* Copies `pattern` with each "{}" replaced; returns the length, or `size` if it does not fit. */
static size_t fill_in(char *out, size_t size, const char *pattern, long number) {
    size_t n = 0;
    while (*pattern && n < size) {
        if (strncmp(pattern, "{}", 2) == 0) {
            n += (size_t)snprintf(out + n, size - n, "%ld", number);
            pattern += 2;
        } else {
            out[n++] = *pattern++;
        }
    }
    if (n >= size)
        return size;
    out[n] = '\0';
    return n;
}

size_t render_request(char *out, size_t size, const char *path, const char *pattern, long number) {
    char body[1024];
    if (!pattern)
        return (size_t)snprintf(out, size, "GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", path);
    size_t n = fill_in(body, sizeof(body), pattern, number);
    /* The token is "token", the password "x-auth-token", as Overview sends them. */
    int m = snprintf(out, size,
                     "POST %s HTTP/1.1\r\n"
                     "Host: 127.0.0.1\r\n"
                     "Authorization: Basic dG9rZW46eC1hdXRoLXRva2Vu\r\n"
                     "Content-Type: application/x-www-form-urlencoded\r\n"
                     "Content-Length: %zu\r\n"
                     "\r\n"
                     "%s",
                     path, n, body);
    if (n == sizeof(body) || m >= (int)size) {
        fprintf(stderr, "the request is too long\n");
        exit(2);
    }
    return (size_t)m;
}

/* ---- a response, fed as it arrives ----------------------------------------------------------- */

void reply_init(struct reply *r) {
    memset(r, 0, sizeof(*r));
    r->stage = REPLY_STATUS;
    r->keep_alive = 1;
}

static void take_status(struct reply *r) {
    int minor;
    if (sscanf(r->line, "HTTP/1.%d %d", &minor, &r->status) != 2) {
        r->stage = REPLY_BAD;
        return;
    }
    if (minor == 0)
        r->keep_alive = 0;
    r->left = UINT64_MAX; /* no length said yet */
    r->stage = REPLY_HEADER;
}

static const char *header_value(const struct reply *r, const char *name) {
    size_t n = strlen(name);
    if (strncasecmp(r->line, name, n) != 0 || r->line[n] != ':')
        return NULL;
    return r->line + n + 1 + strspn(r->line + n + 1, " \t");
}

static void take_header(struct reply *r) {
    const char *value;
    if (r->line_len > 0) {
        if ((value = header_value(r, "content-length")))
            r->left = strtoull(value, NULL, 10);
        else if ((value = header_value(r, "transfer-encoding")))
            r->chunked = strcasestr(value, "chunked") != NULL;
        else if ((value = header_value(r, "connection")))
            r->keep_alive = strcasestr(value, "close") == NULL;
        return;
    }
    if (r->status / 100 == 1)
        r->stage = REPLY_STATUS;
    else if (r->chunked)
        r->stage = REPLY_CHUNK_SIZE;
    else if (r->left == UINT64_MAX)
        r->stage = REPLY_CLOSE;
    else
        r->stage = r->left > 0 ? REPLY_LENGTH : REPLY_ENDED;
}

static void take_chunk_size(struct reply *r) {
    char *end;
    r->left = strtoull(r->line, &end, 16);
    if (end == r->line)
        r->stage = REPLY_BAD;
    else
        r->stage = r->left > 0 ? REPLY_CHUNK : REPLY_TRAILER;
}

static void take_line(struct reply *r) {
    if (r->line_len > 0 && r->line[r->line_len - 1] == '\r')
        r->line_len--;
    r->line[r->line_len] = '\0';
    if (r->stage == REPLY_STATUS)
        take_status(r);
    else if (r->stage == REPLY_HEADER)
        take_header(r);
    else if (r->stage == REPLY_CHUNK_SIZE)
        take_chunk_size(r);
    else if (r->stage == REPLY_CHUNK_END)
        r->stage = r->line_len == 0 ? REPLY_CHUNK_SIZE : REPLY_BAD;
    else if (r->stage == REPLY_TRAILER && r->line_len == 0)
        r->stage = REPLY_ENDED;
    r->line_len = 0;
}

static size_t feed_line(struct reply *r, const char *bytes, size_t n) {
    const char *newline = memchr(bytes, '\n', n);
    size_t len = newline ? (size_t)(newline - bytes) : n;
    size_t room = sizeof(r->line) - 1 - r->line_len;
    memcpy(r->line + r->line_len, bytes, len < room ? len : room);
    r->line_len += len < room ? len : room;
    if (newline)
        take_line(r);
    return newline ? len + 1 : len;
}

static void keep_tail(struct reply *r, const char *bytes, size_t n) {
    size_t size = sizeof(r->tail);
    if (n >= size) {
        memcpy(r->tail, bytes + n - size, size);
        r->tail_len = size;
        return;
    }
    size_t keep = r->tail_len + n > size ? size - n : r->tail_len;
    memmove(r->tail, r->tail + r->tail_len - keep, keep);
    memcpy(r->tail + keep, bytes, n);
    r->tail_len = keep + n;
}

static size_t feed_body(struct reply *r, const char *bytes, size_t n, reply_body body, void *user) {
    if (r->stage != REPLY_CLOSE && n > r->left)
        n = (size_t)r->left;
    keep_tail(r, bytes, n);
    if (body)
        body(user, bytes, n);
    if (r->stage == REPLY_CLOSE)
        return n;
    r->left -= n;
    if (r->left == 0)
        r->stage = r->stage == REPLY_CHUNK ? REPLY_CHUNK_END : REPLY_ENDED;
    return n;
}

void reply_feed(struct reply *r, const char *bytes, size_t n, reply_body body, void *user) {
    while (n > 0) {
        size_t used = n;
        if (r->stage == REPLY_ENDED)
            r->stage = REPLY_BAD;
        else if (r->stage == REPLY_LENGTH || r->stage == REPLY_CLOSE || r->stage == REPLY_CHUNK)
            used = feed_body(r, bytes, n, body, user);
        else if (r->stage != REPLY_BAD)
            used = feed_line(r, bytes, n);
        bytes += used;
        n -= used;
    }
}

void reply_eof(struct reply *r) {
    r->keep_alive = 0;
    if (r->stage != REPLY_ENDED)
        r->stage = r->stage == REPLY_CLOSE ? REPLY_ENDED : REPLY_BAD;
}

int reply_tail_has(const struct reply *r, const char *text) {
    return memmem(r->tail, r->tail_len, text, strlen(text)) != NULL;
}

int reply_ends_with(const struct reply *r, char c) {
    size_t n = r->tail_len;
    while (n > 0 && (r->tail[n - 1] == '\n' || r->tail[n - 1] == '\r'))
        n--;
    return n > 0 && r->tail[n - 1] == c;
}

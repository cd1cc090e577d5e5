/* load.c - a closed loop of POST requests from one epoll thread: each connection asks, reads the
 * answer to its end, and asks again.
 *
 *   load PORT PATH BODY EXPECT CONNECTIONS SECONDS
 *
 * Each "{}" in BODY becomes a number, another one for each request. An answer is good if its status
 * is 200, its framing is whole and the end of its body holds EXPECT. Connections are kept alive
 * where the server allows. Prints "RATE p50 p99 max" (good answers a second, milliseconds); exits
 * with 1 if any answer was bad.
 */
#include "client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

struct connection {
    int fd;
    int64_t asked;
    struct reply reply;
};

struct load {
    int port;
    const char *path, *body, *expect;
    int epoll;
    long serial; /* of the next request */
    long open;   /* requests without their answer */
    long bad;
    double *latencies; /* of good answers, in ms */
    size_t n_latencies, room;
    int64_t deadline;
};

static void connect_again(struct load *l, struct connection *c) {
    c->fd = dial(l->port);
    struct epoll_event want = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(l->epoll, EPOLL_CTL_ADD, c->fd, &want);
}

static void ask(struct load *l, struct connection *c) {
    char request[2048];
    size_t n = render_request(request, sizeof(request), l->path, l->body, l->serial++);
    reply_init(&c->reply);
    c->asked = now_ns();
    l->open++;
    if (send_all(c->fd, request, n) == 0)
        return;
    perror("send");
    exit(1);
}

static void note_good(struct load *l, int64_t ns) {
    if (l->n_latencies == l->room) {
        l->room = l->room ? 2 * l->room : 4096;
        l->latencies = realloc(l->latencies, l->room * sizeof(*l->latencies));
        if (!l->latencies)
            abort();
    }
    l->latencies[l->n_latencies++] = (double)ns / 1e6;
}

/* Judges an answer that has come to its end, and asks again while there is time. */
static void answered(struct load *l, struct connection *c) {
    struct reply *r = &c->reply;
    int64_t now = now_ns();
    l->open--;
    if (r->stage != REPLY_ENDED || r->status != 200 || !reply_tail_has(r, l->expect)) {
        if (l->bad++ == 0)
            fprintf(stderr, "bad answer: status %d, %s, ends with: %.*s\n", r->status,
                    r->stage == REPLY_ENDED ? "whole" : "not whole", (int)r->tail_len, r->tail);
        r->keep_alive = 0;
    } else if (now <= l->deadline) {
        note_good(l, now - c->asked);
    }
    if (!r->keep_alive) {
        close(c->fd);
        c->fd = -1;
    }
    if (now > l->deadline)
        return;
    if (c->fd < 0)
        connect_again(l, c);
    ask(l, c);
}

static void readable(struct load *l, struct connection *c) {
    char bytes[65536];
    ssize_t n = read(c->fd, bytes, sizeof(bytes));
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n > 0)
        reply_feed(&c->reply, bytes, (size_t)n, NULL, NULL);
    else
        reply_eof(&c->reply);
    if (c->reply.stage >= REPLY_ENDED)
        answered(l, c);
}

static int run(struct load *l, int n_connections, double seconds) {
    struct connection *connections = calloc((size_t)n_connections, sizeof(*connections));
    struct epoll_event events[64];
    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    for (int i = 0; i < n_connections; i++)
        connect_again(l, &connections[i]);
    int64_t start = now_ns();
    l->deadline = start + (int64_t)(seconds * 1e9);
    for (int i = 0; i < n_connections; i++)
        ask(l, &connections[i]);
    while (l->open > 0) {
        int n = epoll_wait(l->epoll, events, 64, 30000);
        if (n == 0) {
            fprintf(stderr, "stalled: %ld requests have no answer\n", l->open);
            return 1;
        }
        for (int i = 0; i < n; i++)
            readable(l, events[i].data.ptr);
    }
    double p50 = percentile(l->latencies, l->n_latencies, .5);
    double p99 = percentile(l->latencies, l->n_latencies, .99);
    printf("%.1f %.3f %.3f %.3f\n", (double)l->n_latencies / seconds, p50, p99,
           percentile(l->latencies, l->n_latencies, 1));
    if (l->bad)
        fprintf(stderr, "%ld bad answers\n", l->bad);
    free(connections);
    free(l->latencies);
    return l->bad != 0;
}

int main(int argc, char **argv) {
    if (argc != 7) {
        fprintf(stderr, "usage: load PORT PATH BODY EXPECT CONNECTIONS SECONDS\n");
        return 2;
    }
    struct load l = {.port = atoi(argv[1]), .path = argv[2], .body = argv[3], .expect = argv[4]};
    /* Every run's requests are new jobs, also to a server that an earlier run has asked. */
    l.serial = (long)(now_ns() / 1000);
    return run(&l, atoi(argv[5]), atof(argv[6]));
}

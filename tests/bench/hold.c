/* hold.c - holds N responses to the same request open, and times what comes on them.
 *
 *   hold PORT STREAMS BODY PID
 *
 * The records that come are ticker.c's: their message is ts=<CLOCK_MONOTONIC in ns>. Once every
 * stream has had its first bytes, the latency of each record on each stream is the time of reading
 * less its ts. Reads all streams to their end, and prints "p50 p99 max KIB": milliseconds, and the
 * growth of PID's resident memory for each stream, at its highest while all were open. Exits with 1
 * unless every stream ended whole, with "]".
 */
#include "client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { UNANSWERED_MAX = 256 }; /* below any listener's backlog */

struct hold;

struct stream {
    struct hold *hold;
    int fd;
    int answered;
    int marker; /* how much of "ts=" was just seen; 3: in the digits */
    int64_t ts; /* the digits so far */
    struct reply reply;
};

struct hold {
    int port, epoll, pid;
    int n, opened, answered, ended, whole;
    const char *body;
    int64_t all_answered; /* when; 0 before */
    int64_t read_at;      /* of the bytes at hand */
    long rss_before, rss_top;
    double *latencies;
    size_t n_latencies, room;
    struct stream *streams;
};

static long rss_kib(int pid) {
    char path[64], line[256];
    long kib = 0;
    snprintf(path, sizeof(path), "/proc/%d/status", pid);
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof(line), f))
        if (sscanf(line, "VmRSS: %ld", &kib) == 1)
            break;
    if (f)
        fclose(f);
    return kib;
}

static void note(struct hold *h, int64_t ts) {
    if (!h->all_answered || ts < h->all_answered)
        return;
    if (h->n_latencies == h->room) {
        h->room = h->room ? 2 * h->room : 4096;
        h->latencies = realloc(h->latencies, h->room * sizeof(*h->latencies));
        if (!h->latencies)
            abort();
    }
    h->latencies[h->n_latencies++] = (double)(h->read_at - ts) / 1e6;
}

/* Finds ts=NUMBER in a body that may be cut anywhere. */
static void scan(void *user, const char *bytes, size_t n) {
    struct stream *s = user;
    for (size_t i = 0; i < n; i++) {
        char c = bytes[i];
        if (s->marker == 3 && c >= '0' && c <= '9') {
            s->ts = s->ts * 10 + (c - '0');
            continue;
        }
        if (s->marker == 3 && s->ts)
            note(s->hold, s->ts);
        if (s->marker == 3)
            s->marker = 0;
        s->marker = c == "ts="[s->marker] ? s->marker + 1 : c == 't';
        s->ts = 0;
    }
}

static void open_one(struct hold *h) {
    struct stream *s = &h->streams[h->opened++];
    char request[2048];
    size_t n = render_request(request, sizeof(request), "/generate", h->body, 0);
    s->hold = h;
    s->fd = dial(h->port);
    reply_init(&s->reply);
    struct epoll_event want = {.events = EPOLLIN, .data.ptr = s};
    epoll_ctl(h->epoll, EPOLL_CTL_ADD, s->fd, &want);
    if (send_all(s->fd, request, n) != 0)
        perror("send");
}

static void sample_memory(struct hold *h) {
    if (h->answered < h->n || h->ended > 0)
        return;
    long rss = rss_kib(h->pid);
    if (rss > h->rss_top)
        h->rss_top = rss;
}

static void readable(struct hold *h, struct stream *s) {
    char bytes[16384];
    ssize_t n = read(s->fd, bytes, sizeof(bytes));
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    h->read_at = now_ns();
    if (n > 0)
        reply_feed(&s->reply, bytes, (size_t)n, scan, s);
    else
        reply_eof(&s->reply);
    if (!s->answered && ++s->answered && ++h->answered == h->n)
        h->all_answered = now_ns();
    if (s->reply.stage < REPLY_ENDED)
        return;
    h->whole +=
        s->reply.stage == REPLY_ENDED && s->reply.status == 200 && reply_ends_with(&s->reply, ']');
    h->ended++;
    close(s->fd);
}

static int run(struct hold *h) {
    struct epoll_event events[1024];
    int64_t sampled = 0;
    h->epoll = epoll_create1(EPOLL_CLOEXEC);
    h->streams = calloc((size_t)h->n, sizeof(*h->streams));
    h->rss_before = h->rss_top = rss_kib(h->pid);
    while (h->ended < h->n) {
        while (h->opened < h->n && h->opened - h->answered < UNANSWERED_MAX)
            open_one(h);
        int k = epoll_wait(h->epoll, events, 1024, 30000);
        if (k == 0) {
            fprintf(stderr, "stalled: %d streams have not ended\n", h->n - h->ended);
            return 1;
        }
        for (int i = 0; i < k; i++)
            readable(h, events[i].data.ptr);
        /* Reading /proc takes time that is seen as latency: rarely. */
        if (h->read_at - sampled > 50000000) {
            sampled = h->read_at;
            sample_memory(h);
        }
    }
    if (h->whole < h->n)
        fprintf(stderr, "%d of %d streams did not end whole\n", h->n - h->whole, h->n);
    printf("%.4f %.4f %.4f %.2f\n", percentile(h->latencies, h->n_latencies, .5),
           percentile(h->latencies, h->n_latencies, .99),
           percentile(h->latencies, h->n_latencies, 1),
           (double)(h->rss_top - h->rss_before) / h->n);
    return h->whole < h->n || h->n_latencies == 0;
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: hold PORT STREAMS BODY PID\n");
        return 2;
    }
    struct hold h = {
        .port = atoi(argv[1]), .n = atoi(argv[2]), .body = argv[3], .pid = atoi(argv[4])};
    return run(&h);
}

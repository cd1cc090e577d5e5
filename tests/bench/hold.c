/* hold.c - holds N responses to the same request open, and times what comes on them.
 *
 *   hold PORT STREAMS BODY PID   holds streams, by POST of BODY to /generate
 *   hold PORT POLLS /PATH PID    holds polls, by GET of /PATH
 *
 * The records that come are ticker.c's: their message is ts=<CLOCK_MONOTONIC in ns>. Once every
 * stream has had its first bytes, the latency of each record on each stream is the time of reading
 * less its ts. Reads all streams to their end, and prints "p50 p99 max KIB": milliseconds, and the
 * growth of PID's resident memory for each stream, at its highest while all were open. Exits with 1
 * unless every stream ended whole, with "]".
 *
 * A poll that is held has said nothing yet: the job it waits for must run on for a second and more
 * after the last was asked, so that all are known to have been held at once, and then answer each
 * with ticker.c's output. There are no latencies then.
 */
#include "client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum {
    UNANSWERED_MAX = 256,  /* below any listener's backlog */
    PACE_MS = 20,          /* polls show no answer to wait for: between so many and the next */
    STALLED_MS = 30000,
    HELD_MS = 1000,
};

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
    const char *path, *body; /* body NULL: polls */
    int64_t all_asked;
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
    size_t n = render_request(request, sizeof(request), h->path, h->body, 0);
    s->hold = h;
    s->fd = dial(h->port);
    reply_init(&s->reply);
    struct epoll_event want = {.events = EPOLLIN, .data.ptr = s};
    epoll_ctl(h->epoll, EPOLL_CTL_ADD, s->fd, &want);
    if (send_all(s->fd, request, n) != 0)
        perror("send");
    if (h->opened == h->n)
        h->all_asked = now_ns();
}

/* As many as may be without an answer, or, of polls, a few at a time. */
static void open_some(struct hold *h) {
    int most = h->body ? h->answered + UNANSWERED_MAX : h->opened + UNANSWERED_MAX;
    while (h->opened < h->n && h->opened < most)
        open_one(h);
}

static void sample_memory(struct hold *h) {
    if ((h->body ? h->answered : h->opened) < h->n || h->ended > 0)
        return;
    long rss = rss_kib(h->pid);
    if (rss > h->rss_top)
        h->rss_top = rss;
}

static int is_whole(const struct hold *h, const struct reply *r) {
    if (r->stage != REPLY_ENDED || r->status != 200)
        return 0;
    if (h->body)
        return reply_ends_with(r, ']');
    return h->all_asked && h->read_at - h->all_asked > HELD_MS * 1000000LL &&
           reply_tail_has(r, "done\n");
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
    h->whole += is_whole(h, &s->reply);
    h->ended++;
    close(s->fd);
}

static int run(struct hold *h) {
    struct epoll_event events[1024];
    int64_t sampled = 0, now;
    h->epoll = epoll_create1(EPOLL_CLOEXEC);
    h->streams = calloc((size_t)h->n, sizeof(*h->streams));
    h->rss_before = h->rss_top = rss_kib(h->pid);
    h->read_at = now_ns();
    while (h->ended < h->n) {
        open_some(h);
        int k = epoll_wait(h->epoll, events, 1024, h->body ? STALLED_MS : PACE_MS);
        now = now_ns();
        if (k == 0 && now - h->read_at >= STALLED_MS * 1000000LL) {
            fprintf(stderr, "stalled: %d streams have not ended\n", h->n - h->ended);
            return 1;
        }
        for (int i = 0; i < k; i++)
            readable(h, events[i].data.ptr);
        /* Reading /proc takes time that is seen as latency: rarely. */
        if (now - sampled > 50000000) {
            sampled = now;
            sample_memory(h);
        }
    }
    if (h->whole < h->n)
        fprintf(stderr, "%d of %d did not end whole\n", h->n - h->whole, h->n);
    printf("%.4f %.4f %.4f %.2f\n", percentile(h->latencies, h->n_latencies, .5),
           percentile(h->latencies, h->n_latencies, .99),
           percentile(h->latencies, h->n_latencies, 1),
           (double)(h->rss_top - h->rss_before) / h->n);
    return h->whole < h->n || (h->body && h->n_latencies == 0);
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: hold PORT STREAMS BODY|/PATH PID\n");
        return 2;
    }
    struct hold h = {
        .port = atoi(argv[1]), .n = atoi(argv[2]), .path = argv[3], .pid = atoi(argv[4])};
    if (h.path[0] != '/') {
        h.body = h.path;
        h.path = "/generate";
    }
    return run(&h);
}

/* guard.c - see guard.h.
 *
 * libh2o 2.2.5 has no hook between a socket and its parser, and decodes chunks in place. So the
 * socket's two callbacks are exchanged, again and again, as libh2o sets them:
 *
 *     kernel ─► sock->input ─► on_guarded_read(): framing ─► libh2o's callback ─► handlers
 *                                 │ refused: a plain answer, and no more is read
 *     handlers ─► watch_answer() (last in the chain of filters) ─► kernel
 *                                 └► on_write(): the answer is out; what the client has sent behind
 *                                    it is looked at, and libh2o goes on with it, now or next turn
 *
 * A connection that has become something else (a WebSocket) has another sock->data: it is let be.
 */
#include "workqueue/http/server/guard.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "workqueue/http/hold/clients.h"
#include "workqueue/http/request/problem.h"
#include "workqueue/http/server/framing.h"

enum {
    TURN = 16,               /* requests of one connection until others have their turn */
    TURN_US = 2000,          /* for all connections, until the loop looks at what else there is */
    LEAST_BYTES_PER_S = 256, /* of an answer; who takes less is dropped */
    KEEP_BEHIND = 16384,     /* bytes of further requests, while one is not answered yet */
    LINGER_MS = 2000,        /* for a client to read why it was refused */
};

enum state { IDLE, HEAD, BODY, CHUNKS, ANSWERING, REFUSED };

struct wq_guarded {
    wq_guards *guards;
    h2o_socket_t *sock;
    void *h2o_data; /* sock->data while it is an HTTP connection */
    h2o_socket_cb h2o_read, h2o_write;
    void (*on_close)(void *data);
    void *close_data;
    int *is_closed; /* set when it is closed, while one of its callbacks runs */
    enum state state;
    wq_framing framing;
    size_t seen;    /* bytes of sock->input that libh2o has had */
    int has_cut;    /* what the client has sent behind it is gone, so the connection ends with it */
    int is_last;    /* the answer that is being sent is the request's last send, */
    int is_ending;  /* and that of the connection */
    unsigned turn;  /* requests answered in this one */
    int is_waiting; /* for its next turn, */
    int is_unread;  /* in which libh2o is given the request; else it goes on behind an answer */
    TAILQ_ENTRY(wq_guarded) link;
    wq_timer timer;
    uint64_t acked; /* bytes that the client's machine had taken when last looked at */
    int is_measured;
};

static void on_guarded_read(h2o_socket_t *sock, const char *err);
static void on_write(h2o_socket_t *sock, const char *err);
static void on_closed(void *data);

static wq_guarded *guarded_of(h2o_socket_t *sock)
{
    return sock->on_close.cb == on_closed ? sock->on_close.data : NULL;
}

static void set_deadline(wq_guarded *g, unsigned ms)
{
    wq_timer_set(g->guards->timers, &g->timer, wq_monotonic_ms() + ms);
}

/* ---- libh2o's callbacks ---------------------------------------------------------------------- */

static void exchange_callbacks(wq_guarded *g)
{
    h2o_socket_t *sock = g->sock;
    if (sock->data != g->h2o_data) { /* it is no HTTP connection any more */
        wq_timer_clear(g->guards->timers, &g->timer);
        return;
    }
    if (sock->_cb.read != NULL && sock->_cb.read != on_guarded_read) {
        g->h2o_read = sock->_cb.read;
        sock->_cb.read = on_guarded_read;
    }
    if (sock->_cb.write != NULL && sock->_cb.write != on_write) {
        g->h2o_write = sock->_cb.write;
        sock->_cb.write = on_write;
    }
}

/* libh2o may close the socket in its callback: then -1, and it is gone. */
static int call_h2o(wq_guarded *g, h2o_socket_cb cb, const char *err)
{
    int is_closed = 0;
    /* cppcheck-suppress autoVariables ; for this call only */
    g->is_closed = &is_closed;
    cb(g->sock, err);
    if (is_closed)
        return -1;
    g->is_closed = NULL;
    g->seen = g->sock->input->size;
    exchange_callbacks(g);
    return 0;
}

static void on_closed(void *data)
{
    wq_guarded *g = data;
    if (g->is_closed != NULL)
        *g->is_closed = 1;
    if (g->is_waiting)
        TAILQ_REMOVE(&g->guards->waiting[g->is_unread], g, link);
    wq_timer_clear(g->guards->timers, &g->timer);
    g->on_close(g->close_data);
    free(g);
}

/* ---- refusals -------------------------------------------------------------------------------- */

/* libh2o has not seen the request, and has nothing to say: the socket is ours. */
static void send_refusal(wq_guarded *g)
{
    char body[256], text[512];
    const char *title = wq_reason(g->framing.status);
    int n = snprintf(
        body, sizeof body,
        "{\"type\": \"about:blank\", \"title\": \"%s\", \"status\": %d, \"detail\": \"%s\"}\n",
        title, g->framing.status, g->framing.why);
    n = snprintf(
        text, sizeof text,
        "HTTP/1.1 %d %s\r\nConnection: close\r\nContent-Length: %d\r\n"
        "Content-Type: application/problem+json\r\nAccess-Control-Allow-Origin: *\r\n\r\n%s",
        g->framing.status, title, n, body);
    int fd = h2o_socket_get_fd(g->sock);
    if (send(fd, text, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
        return;
    shutdown(fd, SHUT_WR);
}

/* Bytes that were not read would make the kernel reset the connection, and the client lose our
 * answer: so it is read on for a while. */
static void refuse_reading(wq_guarded *g)
{
    send_refusal(g);
    g->state = REFUSED;
    h2o_buffer_consume(&g->sock->input, g->sock->input->size);
    set_deadline(g, LINGER_MS);
}

/* ---- what comes in --------------------------------------------------------------------------- */

/* To a path in origin form, as libh2o wants it: the method moves next to it, and what was in front
 * is gone. */
static void rewrite_target(wq_guarded *g, size_t at)
{
    h2o_buffer_t **input = &g->sock->input;
    size_t method, origin = wq_framing_origin((*input)->bytes + at, (*input)->size - at, &method);
    if (origin == 0)
        return;
    memmove((*input)->bytes + origin, (*input)->bytes, at + method);
    h2o_buffer_consume(input, origin);
    g->framing.head_bytes -= origin;
}

/* What there is of the request that begins at `at`. 0, or -1: it is refused. */
static int look_at_request(wq_guarded *g, size_t at)
{
    h2o_buffer_t *input = g->sock->input;
    wq_framing *f = &g->framing;
    const size_t size = input->size - at;
    size_t used;
    if (size == 0)
        return 0;
    if (g->state == IDLE) {
        g->state = HEAD;
        set_deadline(g, g->guards->request_timeout_ms);
    }
    wq_framing_result result = wq_framing_head(f, input->bytes + at, size);
    if (result != WQ_FRAMING_DONE)
        return result == WQ_FRAMING_MORE ? 0 : -1;
    rewrite_target(g, at);
    input = g->sock->input;
    g->state = f->is_chunked ? CHUNKS : BODY;
    g->seen = at + f->head_bytes;
    if (!f->is_chunked) {
        g->state = input->size - at >= f->head_bytes + f->body_bytes ? ANSWERING : BODY;
        return 0;
    }
    result = wq_framing_chunks(f, input->bytes + g->seen, input->size - g->seen, &used);
    g->state = result == WQ_FRAMING_DONE ? ANSWERING : CHUNKS;
    return result == WQ_FRAMING_REFUSED ? -1 : 0;
}

static int look_at_body(wq_guarded *g)
{
    const h2o_buffer_t *input = g->sock->input;
    size_t used;
    if (g->state == BODY) {
        if (input->size >= g->framing.head_bytes + g->framing.body_bytes)
            g->state = ANSWERING;
        return 0;
    }
    wq_framing_result result =
        wq_framing_chunks(&g->framing, input->bytes + g->seen, input->size - g->seen, &used);
    if (result == WQ_FRAMING_DONE)
        g->state = ANSWERING;
    return result == WQ_FRAMING_REFUSED ? -1 : 0;
}

/* A request that waits for its answer keeps what was sent behind it in memory: no more than a
 * little. The rest is forgotten, and its pages are given back, which nobody looks at any more. */
static void cut_behind(wq_guarded *g)
{
    h2o_buffer_t *input = g->sock->input;
    const size_t end = g->framing.head_bytes + (size_t)g->framing.body_bytes;
    if (g->state != ANSWERING || g->is_last || g->framing.is_chunked ||
        input->size < end + KEEP_BEHIND)
        return;
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    const uintptr_t from = ((uintptr_t)(input->bytes + end) + page - 1) / page * page;
    const uintptr_t to = (uintptr_t)(input->bytes + input->size) / page * page;
    if (from < to)
        madvise((void *)from, to - from, MADV_DONTNEED); /* NOLINT(performance-no-int-to-ptr) */
    input->size = g->seen = end;
    g->has_cut = 1;
}

/* ---- turns ----------------------------------------------------------------------------------- */

/* Have this round's connections had as much of the loop's time as they may? Many connections with many
 * requests each would have others, and new ones, wait for all of them. */
static int is_turn_over(wq_guards *guards, h2o_socket_t *sock)
{
    struct timespec now;
    const uint64_t round = h2o_now(h2o_socket_get_loop(sock));
    clock_gettime(CLOCK_MONOTONIC, &now);
    const int64_t us = (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
    if (round != guards->turn_at) {
        guards->turn_at = round;
        guards->turn_began_us = us;
    }
    return us - guards->turn_began_us > TURN_US;
}

static void wait_for_turn(wq_guarded *g, int is_unread)
{
    wq_guards *guards = g->guards;
    g->is_waiting = 1;
    g->is_unread = is_unread;
    if (is_unread)
        h2o_socket_read_stop(g->sock); /* or it would be read whatever the client sends meanwhile */
    TAILQ_INSERT_TAIL(&guards->waiting[is_unread], g, link);
    if (!guards->turn.is_set)
        wq_timer_set(guards->timers, &guards->turn, wq_monotonic_ms());
}

static void give_request(wq_guarded *g, const char *err)
{
    if (call_h2o(g, g->h2o_read, err) == 0)
        cut_behind(g);
}

static void on_guarded_read(h2o_socket_t *sock, const char *err)
{
    wq_guarded *g = guarded_of(sock);
    int refused = 0;
    if (err == NULL && g->state == REFUSED) {
        h2o_buffer_consume(&sock->input, sock->input->size);
        return;
    }
    if (err == NULL && (g->state == IDLE || g->state == HEAD))
        refused = look_at_request(g, 0);
    else if (err == NULL && (g->state == BODY || g->state == CHUNKS))
        refused = look_at_body(g);
    if (refused) {
        refuse_reading(g);
        return;
    }
    g->turn = 0;
    if (g->state == ANSWERING) /* not cleared: that would cost more */
        wq_timer_set(g->guards->timers, &g->timer, WQ_NEVER);
    if (err == NULL && g->state == ANSWERING && !g->is_waiting && is_turn_over(g->guards, sock))
        wait_for_turn(g, 1);
    else
        give_request(g, err);
}

/* ---- what goes out --------------------------------------------------------------------------- */

/* The answer is out, and libh2o would go on with what was sent behind the request. */
static void begin_next_request(wq_guarded *g)
{
    const size_t behind = g->framing.head_bytes + (size_t)g->framing.body_bytes;
    g->is_last = 0;
    if (!g->is_ending) {
        g->framing = (wq_framing){0};
        g->state = IDLE;
        set_deadline(g, g->guards->idle_timeout_ms);
        if (behind < g->sock->input->size && look_at_request(g, behind) != 0) {
            send_refusal(g);
            call_h2o(g, g->h2o_write, "refused");
            return;
        }
    }
    call_h2o(g, g->h2o_write, NULL);
}

/* Of the one or the other kind, as far as there is one. */
static wq_guarded *first_waiting(wq_guards *guards, int is_unread)
{
    wq_guarded *g = TAILQ_FIRST(&guards->waiting[is_unread]);
    return g != NULL ? g : TAILQ_FIRST(&guards->waiting[!is_unread]);
}

static void end_wait(wq_guarded *g)
{
    TAILQ_REMOVE(&g->guards->waiting[g->is_unread], g, link);
    g->is_waiting = 0;
    g->turn = 0;
    if (!g->is_unread) {
        begin_next_request(g);
        return;
    }
    h2o_socket_read_start(g->sock, on_guarded_read);
    give_request(g, NULL);
}

static void on_turn(wq_timer *timer)
{
    wq_guards *guards = H2O_STRUCT_FROM_MEMBER(wq_guards, turn, timer);
    wq_guarded *g;
    for (int i = 1; (g = first_waiting(guards, i)) != NULL && !is_turn_over(guards, g->sock); i = !i)
        end_wait(g);
    if (g != NULL && !guards->turn.is_set)
        wq_timer_set(guards->timers, &guards->turn, wq_monotonic_ms());
}

/* While others wait, one request each. */
static unsigned turn_of(const wq_guards *guards)
{
    return TAILQ_EMPTY(&guards->waiting[0]) && TAILQ_EMPTY(&guards->waiting[1]) ? TURN : 1;
}

/* Nobody takes the answer. libh2o would go on all the same with everything that was sent behind the
 * request, and its loop would do nothing else meanwhile. */
static void forget_behind(wq_guarded *g)
{
    const size_t end = g->framing.head_bytes + (size_t)g->framing.body_bytes;
    if (!g->framing.is_chunked && g->sock->input->size > end)
        g->sock->input->size = end;
}

static void on_write(h2o_socket_t *sock, const char *err)
{
    wq_guarded *g = guarded_of(sock);
    if (err != NULL && g->is_last)
        forget_behind(g);
    if (err != NULL || !g->is_last)
        call_h2o(g, g->h2o_write, err);
    else if (!g->is_ending && (++g->turn >= turn_of(g->guards) || is_turn_over(g->guards, sock)))
        wait_for_turn(g, 0);
    else
        begin_next_request(g);
}

/* Later than those who hold the response, and count the client themselves. */
static unsigned stall_ms(const wq_guarded *g)
{
    const unsigned ms = g->guards->http->options.stall_timeout_ms;
    return ms < UINT32_MAX / 2 ? ms + ms / 4 : ms;
}

/* Called once per stall timeout while an answer is being sent. */
static void measure_client(wq_guarded *g)
{
    const unsigned ms = stall_ms(g);
    const int fd = h2o_socket_get_fd(g->sock);
    const uint64_t taken = wq_client_bytes_taken(fd), least = (uint64_t)ms * LEAST_BYTES_PER_S / 1000;
    if (!h2o_socket_is_writing(g->sock) || g->is_waiting)
        return;
    if (g->is_measured && taken - g->acked < (least > 0 ? least : 1)) {
        atomic_fetch_add(&g->guards->http->clients_stalled, 1);
        shutdown(fd, SHUT_RDWR); /* the send fails */
        return;
    }
    g->is_measured = 1;
    g->acked = taken;
    set_deadline(g, ms);
}

static void on_deadline(wq_timer *timer)
{
    wq_guarded *g = H2O_STRUCT_FROM_MEMBER(wq_guarded, timer, timer);
    if (g->sock->data != g->h2o_data)
        return;
    if (g->state == ANSWERING)
        measure_client(g);
    else if (h2o_socket_is_reading(g->sock))
        call_h2o(g, g->h2o_read, "timeout");
}

/* ---- the filter ------------------------------------------------------------------------------ */

static void watch_answer(h2o_ostream_t *self, h2o_req_t *req, h2o_iovec_t *bufs, size_t n,
                         h2o_send_state_t state)
{
    wq_guarded *g = guarded_of(req->conn->callbacks->get_socket(req->conn));
    if (g != NULL) {
        if (g->has_cut)
            req->http1_is_persistent = 0;
        g->is_last = state != H2O_SEND_STATE_IN_PROGRESS;
        g->is_ending = !req->http1_is_persistent || state == H2O_SEND_STATE_ERROR;
        g->is_measured = 0;
        set_deadline(g, stall_ms(g));
    }
    int is_closed = 0;
    if (g != NULL && g->is_closed == NULL)
        g->is_closed = &is_closed;
    else
        is_closed = g == NULL;
    int *outer = g != NULL ? g->is_closed : NULL;
    h2o_ostream_send_next(self, req, bufs, n, state);
    if (outer != NULL && *outer == 0) {
        if (outer == &is_closed)
            g->is_closed = NULL;
        exchange_callbacks(g);
    }
}

static void on_guarded_ostream(h2o_filter_t *filter, h2o_req_t *req, h2o_ostream_t **slot)
{
    wq_guarded *g = guarded_of(req->conn->callbacks->get_socket(req->conn));
    (void)filter;
    if (g != NULL) {
        if (g->framing.is_chunked || g->has_cut)
            req->http1_is_persistent = 0;
        h2o_ostream_t *stream = h2o_add_ostream(req, sizeof *stream, slot);
        stream->do_send = watch_answer;
        slot = &stream->next;
    }
    h2o_setup_next_ostream(req, slot);
}

void wq_guard_host(h2o_hostconf_t *host)
{
    for (size_t i = 0; i < host->paths.size; i++)
        h2o_create_filter(&host->paths.entries[i], sizeof(h2o_filter_t))->on_setup_ostream =
            on_guarded_ostream;
    h2o_create_filter(&host->fallback_path, sizeof(h2o_filter_t))->on_setup_ostream =
        on_guarded_ostream;
}

/* ---- connections ----------------------------------------------------------------------------- */

void wq_guards_init(wq_guards *guards, wq_http *http, wq_timers *timers,
                    unsigned request_timeout_ms, unsigned idle_timeout_ms)
{
    *guards = (wq_guards){.http = http,
                          .timers = timers,
                          .request_timeout_ms = request_timeout_ms,
                          .idle_timeout_ms = idle_timeout_ms,
                          .turn = {.fire = on_turn}};
    TAILQ_INIT(&guards->waiting[0]);
    TAILQ_INIT(&guards->waiting[1]);
}

int wq_guard(wq_guards *guards, h2o_socket_t *sock, void (*on_close)(void *data), void *data)
{
    wq_guarded *g = calloc(1, sizeof *g);
    if (g == NULL)
        return -1;
    g->guards = guards;
    g->sock = sock;
    g->h2o_data = sock->data;
    g->on_close = on_close;
    g->close_data = data;
    g->timer.fire = on_deadline;
    sock->on_close.cb = on_closed;
    sock->on_close.data = g;
    set_deadline(g, guards->request_timeout_ms);
    exchange_callbacks(g);
    return 0;
}

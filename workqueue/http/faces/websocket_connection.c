/* websocket_connection.c - see websocket_connection.h. */
#include "workqueue/http/faces/websocket_connection.h"

#include <h2o/http1.h>
#include <sys/socket.h>

#include "workqueue/http/faces/handshake.h"
#include "workqueue/http/faces/job_record.h"
#include "workqueue/http/request/problem.h"

enum {
    TOKEN_MS = 10000,      /* for the first message, if it is to bring the token */
    CLOSE_MS = 2000,       /* for the client to answer our close */
    ANSWERS = 16,          /* pongs that wait; a client that wants more has to read first */
    REASON_BYTES = 123,    /* of a close, RFC 6455 */
    SERVICE_RESTART = 1012 /* registered after wslay was written */
};

static websocket *websocket_of(wq_held *held)
{
    return H2O_STRUCT_FROM_MEMBER(websocket, held, held);
}

int wq_websocket_wants_token(const websocket *ws)
{
    return ws->token != NULL && !wq_late_token_is_asked(ws->token);
}

/* ---- the end --------------------------------------------------------------------------------- */

static void end_write(websocket *ws)
{
    ws->in_flight = 0;
    if (ws->record != NULL)
        h2o_mem_release_shared(ws->record);
    ws->record = NULL;
    free(ws->out);
    ws->out = NULL;
    ws->n_out = 0;
}

void wq_websocket_forget_token(websocket *ws)
{
    wq_late_token_free(ws->token);
    ws->token = NULL;
}

void wq_websocket_free(websocket *ws)
{
    end_write(ws);
    wq_websocket_forget_token(ws);
    wslay_event_context_free(ws->wslay);
    free(ws->prefix);
    free(ws);
}

/* Closes the connection as it is. */
static void end(websocket *ws)
{
    if (!ws->closing)
        atomic_fetch_add(&ws->held.http->clients_left, 1);
    wq_release(&ws->held);
    if (ws->sock != NULL)
        h2o_socket_close(ws->sock);
    wq_websocket_free(ws);
}

/* No record will follow. */
static void begin_close(websocket *ws)
{
    ws->closing = 1;
    wq_websocket_forget_token(ws);
    wq_hold_leave(&ws->held);
}

void wq_websocket_say_goodbye(websocket *ws, unsigned code, const char *reason)
{
    size_t n = strlen(reason);
    if (ws->closing)
        return;
    if (wslay_event_queue_close(ws->wslay, (uint16_t)code, (const uint8_t *)reason,
                                n < REASON_BYTES ? n : REASON_BYTES) != 0)
        ws->lost = 1;
    begin_close(ws);
}

unsigned wq_websocket_stop_code(const websocket *ws)
{
    return ws->held.http->has_journal ? SERVICE_RESTART : WSLAY_CODE_GOING_AWAY;
}

int wq_websocket_is_congested(const websocket *ws)
{
    return wslay_event_want_write(ws->wslay) &&
           wslay_event_get_queued_msg_count(ws->wslay) >= ANSWERS;
}

int wq_websocket_put(websocket *ws, const void *data, size_t len)
{
    char *out = realloc(ws->out, ws->n_out + len);
    if (out == NULL) {
        ws->lost = 1;
        return -1;
    }
    ws->out = out;
    memcpy(out + ws->n_out, data, len);
    ws->n_out += len;
    return 0;
}

/* ---- pump ------------------------------------------------------------------------------------ */

static void on_written(h2o_socket_t *sock, const char *err);
static void on_websocket_read(h2o_socket_t *sock, const char *err);

static void take_in(websocket *ws)
{
    h2o_buffer_t **input = &ws->sock->input;
    if ((*input)->size != 0)
        ws->pinged = 0;
    while ((*input)->size != 0 && wslay_event_want_read(ws->wslay) &&
           !wq_websocket_is_congested(ws)) {
        if (wslay_event_recv(ws->wslay) == 0)
            continue;
        /* no frame at all; wslay would close without a code */
        if (!ws->closing) {
            ws->broken = 1;
            wslay_event_shutdown_write(ws->wslay);
        }
        wslay_event_shutdown_read(ws->wslay);
    }
    if (wslay_event_want_read(ws->wslay))
        return;
    /* The client has closed, or wslay has told it to go: what comes now means nothing. */
    h2o_buffer_consume(input, (*input)->size);
    if (!ws->closing && wslay_event_get_close_received(ws->wslay))
        atomic_fetch_add(&ws->held.http->clients_left, 1);
    begin_close(ws);
}

/* The head of a text frame that is a whole message. */
static h2o_iovec_t write_head(uint8_t head[10], size_t len)
{
    const unsigned more = len < 126 ? 0 : len < 65536 ? 2 : 8;
    head[0] = 0x80 | WSLAY_TEXT_FRAME;
    head[1] = (uint8_t)(more == 0 ? len : more == 2 ? 126 : 127);
    for (unsigned i = 0; i < more; i++)
        head[2 + i] = (uint8_t)((uint64_t)len >> (8 * (more - 1 - i)));
    return h2o_iovec_init(head, 2 + more);
}

/* Has this client not what there is? */
static int has_record_to_send(const websocket *ws)
{
    const wq_loop_job *job = ws->held.job;
    return !job->snapshot.resumes &&
           (job->serial != ws->sent ||
            (ws->prefix != NULL && job->snapshot.state != ws->sent_state));
}

/* The record that is sent next, counted. */
static h2o_iovec_t take_message(const websocket *ws)
{
    wq_loop_job *job = ws->held.job;
    if (ws->prefix != NULL)
        return wq_job_record(ws->held.http, h2o_iovec_init(ws->prefix, strlen(ws->prefix)),
                             job->job, &job->snapshot);
    h2o_mem_addref_shared(job->record.base);
    return job->record;
}

static size_t compose_frames(websocket *ws, h2o_iovec_t bufs[3])
{
    static const uint8_t protocol_error[] = {0x80 | WSLAY_CONNECTION_CLOSE, 2,
                                             WSLAY_CODE_PROTOCOL_ERROR >> 8,
                                             WSLAY_CODE_PROTOCOL_ERROR & 0xff};
    wq_loop_job *job = ws->held.job;
    size_t n = 0;
    if (job != NULL && has_record_to_send(ws)) {
        const h2o_iovec_t record = take_message(ws);
        bufs[n++] = write_head(ws->head, record.len);
        bufs[n++] = record;
        ws->record = record.base;
        ws->sent = job->serial;
        ws->sent_state = job->snapshot.state;
    }
    if (job != NULL && job->snapshot.has_returncode)
        wq_websocket_say_goodbye(ws, WSLAY_CODE_NORMAL_CLOSURE, "");
    else if (job != NULL && (job->snapshot.resumes || atomic_load(&ws->held.http->stopping)))
        wq_websocket_say_goodbye(ws, wq_websocket_stop_code(ws), "");
    wslay_event_send(ws->wslay);
    if (ws->broken == 1) {
        wq_websocket_put(ws, protocol_error, sizeof protocol_error);
        ws->broken = 2;
    }
    if (ws->n_out > 0)
        bufs[n++] = h2o_iovec_init(ws->out, ws->n_out);
    return n;
}

static void give_out(websocket *ws)
{
    h2o_iovec_t bufs[3];
    size_t n = compose_frames(ws, bufs), bytes = 0;
    if (n == 0)
        return;
    for (size_t i = 0; i < n; i++)
        bytes += bufs[i].len;
    atomic_fetch_add(&ws->held.http->bytes_sent, bytes);
    ws->in_flight = 1;
    ws->since = wq_loop_now();
    h2o_socket_write(ws->sock, bufs, n, on_written);
}

static int64_t next_deadline(const websocket *ws)
{
    const wq_http_options *options = &ws->held.http->options;
    if (ws->sock == NULL || ws->in_flight)
        return ws->since + options->stall_timeout_ms;
    if (ws->closed != 0)
        return ws->closed + CLOSE_MS;
    if (wq_websocket_wants_token(ws))
        return ws->token_by;
    return options->heartbeat_ms ? ws->since + options->heartbeat_ms : INT64_MAX;
}

/* The close is out: the client, if it has not closed first, is to answer it, and then it is ours to
 * end the connection. One that is no longer understood sees the end of our side at once, and we
 * read on to its end, because unread bytes would make the kernel reset the connection and the
 * client lose our close. Returns 1 if it has ended. */
static int finish_frame(websocket *ws)
{
    if (wslay_event_get_close_received(ws->wslay)) {
        end(ws);
        return 1;
    }
    if (ws->closed != 0)
        return 0;
    ws->closed = wq_loop_now();
    if (!wslay_event_want_read(ws->wslay))
        shutdown(ws->held.fd, SHUT_WR);
    return 0;
}

void wq_websocket_pump(websocket *ws)
{
    if (ws->sock == NULL)
        return;
    take_in(ws);
    if (!ws->in_flight)
        give_out(ws);
    if (!ws->in_flight && ws->lost) {
        end(ws);
        return;
    }
    if (!ws->in_flight && ws->closing && finish_frame(ws))
        return;
    if (ws->sock->input->size != 0)
        h2o_socket_read_stop(ws->sock); /* until the client has read, too */
    else if (!h2o_socket_is_reading(ws->sock))
        h2o_socket_read_start(ws->sock, on_websocket_read);
    wq_held_deadline(&ws->held, next_deadline(ws));
}

/* ---- what happens to a websocket ------------------------------------------------------------- */

static void on_websocket_read(h2o_socket_t *sock, const char *err)
{
    websocket *ws = sock->data;
    if (err != NULL)
        end(ws);
    else
        wq_websocket_pump(ws);
}

static void on_written(h2o_socket_t *sock, const char *err)
{
    websocket *ws = sock->data;
    end_write(ws);
    ws->since = wq_loop_now();
    if (err != NULL)
        end(ws);
    else
        wq_websocket_pump(ws);
}

static void on_websocket_news(wq_held *held)
{
    websocket *ws = websocket_of(held);
    if (held->job == NULL) /* there is none: the server stops */
        wq_websocket_say_goodbye(ws, wq_websocket_stop_code(ws), "");
    wq_websocket_pump(ws);
}

static void drop(websocket *ws)
{
    atomic_fetch_add(&ws->held.http->clients_stalled, 1);
    begin_close(ws);
    if (ws->sock == NULL)
        shutdown(ws->held.fd, SHUT_RDWR); /* the 101 fails, and on_upgraded() follows */
    else
        end(ws);
}

static void ping(websocket *ws)
{
    const struct wslay_event_msg message = {.opcode = WSLAY_PING};
    const int64_t now = wq_loop_now();
    if (ws->pinged != 0 && now - ws->pinged >= ws->held.http->options.stall_timeout_ms) {
        drop(ws);
        return;
    }
    if (ws->pinged == 0)
        ws->pinged = now;
    wslay_event_queue_msg(ws->wslay, &message);
    wq_websocket_pump(ws);
}

static void on_websocket_timeout(wq_held *held)
{
    websocket *ws = websocket_of(held);
    if (ws->sock == NULL || ws->in_flight) {
        drop(ws);
    } else if (ws->closed != 0) {
        end(ws);
    } else if (wq_websocket_wants_token(ws)) {
        wq_websocket_say_goodbye(ws, WSLAY_CODE_POLICY_VIOLATION, "No token has come in time.");
        wq_websocket_pump(ws);
    } else {
        ping(ws);
    }
}

/* The loop has no more time. The socket is not closed here, outside of the loop's run: libh2o would
 * free it while it is still listed as just written. Its end comes from the loop, at once. */
static void on_websocket_gone(wq_held *held)
{
    websocket *ws = websocket_of(held);
    wq_websocket_say_goodbye(ws, wq_websocket_stop_code(ws), "");
    if (ws->sock != NULL && !ws->in_flight)
        give_out(ws);
    shutdown(held->fd, SHUT_RDWR);
}

static void on_upgraded(void *user, h2o_socket_t *sock, size_t request_bytes)
{
    websocket *ws = user;
    ws->sock = sock; /* NULL: the 101 could not be written, and the connection is closed */
    if (sock == NULL) {
        end(ws);
        return;
    }
    sock->data = ws;
    h2o_buffer_consume(&sock->input, request_bytes);
    ws->since = wq_loop_now();
    wq_websocket_pump(ws);
}

/* ---- beginning ------------------------------------------------------------------------------- */

static void switch_protocols(websocket *ws, h2o_req_t *req)
{
    wq_handshake_accept(req);
    ws->since = wq_loop_now();
    ws->token_by = ws->since + (ws->held.http->options.stall_timeout_ms < TOKEN_MS
                                    ? ws->held.http->options.stall_timeout_ms
                                    : TOKEN_MS);
    wq_held_deadline(&ws->held, next_deadline(ws));
    h2o_http1_upgrade(req, NULL, 0, on_upgraded, ws);
}

websocket *wq_websocket_new(wq_http *http, h2o_req_t *req,
                            const struct wslay_event_callbacks *callbacks)
{
    websocket *ws = calloc(1, sizeof *ws);
    if (ws == NULL)
        return NULL;
    if (wslay_event_context_server_init(&ws->wslay, callbacks, ws) != 0) {
        free(ws);
        return NULL;
    }
    wslay_event_config_set_no_buffering(ws->wslay, 1);
    wslay_event_config_set_max_recv_msg_length(ws->wslay, WQ_WEBSOCKET_MESSAGE_BYTES);
    ws->held = (wq_held){.http = http,
                         .face = WQ_FACE_WEBSOCKET,
                         .req = req,
                         .is_detached = 1,
                         .news = on_websocket_news,
                         .timeout = on_websocket_timeout,
                         .gone = on_websocket_gone};
    return ws;
}

int wq_websocket_begin(websocket *ws, h2o_req_t *req, wq_job *job)
{
    if (wq_hold(&ws->held, job) != 0)
        wq_websocket_free(ws);
    else
        switch_protocols(ws, req);
    return 0;
}

/* websocket.c - one job's records as WebSocket messages.
 *
 * libh2o upgrades the connection, and knows nothing of it from then on: no request, no generator,
 * no `proceed`. Its own websocket.c does not tell when a message has been written, without which
 * there is no latest-only; so the socket is read and written here, and wslay is asked what the
 * bytes mean and for the frames that answer them (pong, close).
 *
 * Everything happens in pump(): what has come is taken in, and if no write is under way, all there
 * is to say goes out in one: the record, if the client does not have it, pongs, the close. Only
 * pump() and its callers may free a websocket; what wslay calls back only notes things.
 */
#include "workqueue/http/faces/websocket.h"

#include <h2o/http1.h>
#include <sys/socket.h>
#include <wslay/wslay.h>

#include "workqueue/http/faces/faces.h"
#include "workqueue/http/faces/handshake.h"
#include "workqueue/http/faces/late_token.h"
#include "workqueue/http/hold/held.h"
#include "workqueue/http/request/client.h"
#include "workqueue/http/request/problem.h"

enum {
    MESSAGE_BYTES = 65536,  /* of one message from a client, all its fragments together */
    TOKEN_MS = 10000,       /* for the first message, if it is to bring the token */
    CLOSE_MS = 2000,        /* for the client to answer our close */
    ANSWERS = 16,           /* pongs that wait; a client that wants more has to read first */
    REASON_BYTES = 123,     /* of a close, RFC 6455 */
    SERVICE_RESTART = 1012, /* registered, as the next, */
    TRY_AGAIN_LATER = 1013  /* after wslay was written */
};

typedef struct websocket {
    wq_held held;                  /* its req is dead once the upgrade has begun */
    h2o_socket_t *sock;            /* NULL until the 101 is out */
    wslay_event_context_ptr wslay; /* reads, and makes control frames */
    uint64_t sent;                 /* serial number of the last record sent; 0: none */
    int in_flight;                 /* a write is under way */
    int closing;                   /* a close is, or will be, the last that is sent */
    int lost;                      /* there was no memory for what is to be said: end it */
    int broken;                    /* 1: 1002 is to be said without wslay, 2: it has been */
    int64_t since;                 /* when the write began, or the quiet */
    int64_t pinged;                /* when, if nothing has come from the client since; else 0 */
    int64_t closed;                /* when the close had been written; 0: not yet */

    /* in flight */
    uint8_t head[10]; /* of the record's frame */
    void *record;     /* counted */
    char *out;        /* control frames */
    size_t n_out;

    wq_late_token *token; /* NULL: the job is known */
    int64_t token_by;     /* when its message has to be there */

    /* the message that is coming in */
    size_t n_message;
    int is_control; /* the frame that is coming in */
} websocket;

static websocket *websocket_of(wq_held *held)
{
    return H2O_STRUCT_FROM_MEMBER(websocket, held, held);
}

static int wants_token(const websocket *ws)
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

static void forget_token(websocket *ws)
{
    wq_late_token_free(ws->token);
    ws->token = NULL;
}

static void free_websocket(websocket *ws)
{
    end_write(ws);
    forget_token(ws);
    wslay_event_context_free(ws->wslay);
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
    free_websocket(ws);
}

/* No record will follow. */
static void begin_close(websocket *ws)
{
    ws->closing = 1;
    forget_token(ws);
    wq_hold_leave(&ws->held);
}

/* `reason` is ASCII, and cut where it is too long. */
static void say_goodbye(websocket *ws, unsigned code, const char *reason)
{
    size_t n = strlen(reason);
    if (ws->closing)
        return;
    if (wslay_event_queue_close(ws->wslay, (uint16_t)code, (const uint8_t *)reason,
                                n < REASON_BYTES ? n : REASON_BYTES) != 0)
        ws->lost = 1;
    begin_close(ws);
}

/* With a journal the job goes on after the restart, and its clients come again. */
static unsigned stop_code(const websocket *ws)
{
    return ws->held.http->has_journal ? SERVICE_RESTART : WSLAY_CODE_GOING_AWAY;
}

static void refuse(websocket *ws, int result, const char *reason)
{
    unsigned code = result == WQ_ERROR_INVALID_ARGUMENT ? WSLAY_CODE_POLICY_VIOLATION
                    : result == WQ_ERROR_CLOSING        ? stop_code(ws)
                    : wq_is_for_later(result)           ? TRY_AGAIN_LATER
                                                        : WSLAY_CODE_INTERNAL_SERVER_ERROR;
    say_goodbye(ws, code, reason);
}

/* ---- messages from the client, called by wslay ----------------------------------------------- */

static void pump(websocket *ws);

static void on_token_answer(void *user, int result, wq_job *job, const char *reason, int later)
{
    websocket *ws = user;
    if (result == WQ_DONE)
        say_goodbye(ws, WSLAY_CODE_NORMAL_CLOSURE, "The output is there already.");
    else if (result < 0)
        refuse(ws, result, reason);
    else if (wq_hold_join(&ws->held, job) != 0)
        refuse(ws, WQ_ERROR_NO_MEMORY, wq_strerror(WQ_ERROR_NO_MEMORY));
    else
        forget_token(ws);
    if (later)
        pump(ws);
}

static void on_frame(wslay_event_context_ptr wslay,
                     const struct wslay_event_on_frame_recv_start_arg *frame, void *user)
{
    websocket *ws = user;
    (void)wslay;
    ws->is_control = wslay_is_ctrl_frame(frame->opcode);
}

/* wslay bounds only what a frame claims to be long. */
static void on_chunk(wslay_event_context_ptr wslay,
                     const struct wslay_event_on_frame_recv_chunk_arg *chunk, void *user)
{
    websocket *ws = user;
    (void)wslay;
    if (ws->is_control || ws->closing)
        return;
    if (chunk->data_length > MESSAGE_BYTES - ws->n_message) {
        say_goodbye(ws, WSLAY_CODE_MESSAGE_TOO_BIG, "");
        return;
    }
    if (wants_token(ws) && wq_late_token_add(ws->token, chunk->data, chunk->data_length) != 0) {
        refuse(ws, WQ_ERROR_NO_MEMORY, wq_strerror(WQ_ERROR_NO_MEMORY));
        return;
    }
    ws->n_message += chunk->data_length;
}

static void on_message(wslay_event_context_ptr wslay,
                       const struct wslay_event_on_msg_recv_arg *message, void *user)
{
    websocket *ws = user;
    (void)wslay;
    if (ws->closing || wslay_is_ctrl_frame(message->opcode))
        return;
    if (message->opcode == WSLAY_BINARY_FRAME)
        say_goodbye(ws, WSLAY_CODE_UNSUPPORTED_DATA, "Text only.");
    else if (wants_token(ws))
        wq_late_token_ask(ws->token, ws->held.loop, on_token_answer, ws);
    ws->n_message = 0;
}

/* ---- bytes in and out for wslay -------------------------------------------------------------- */

/* Answers wait, and so must the client's bytes. */
static int is_congested(const websocket *ws)
{
    return wslay_event_want_write(ws->wslay) &&
           wslay_event_get_queued_msg_count(ws->wslay) >= ANSWERS;
}

static ssize_t on_want_bytes(wslay_event_context_ptr wslay, uint8_t *buf, size_t len, int flags,
                             void *user)
{
    websocket *ws = user;
    h2o_buffer_t **input = &ws->sock->input;
    (void)flags;
    if ((*input)->size == 0 || is_congested(ws)) {
        wslay_event_set_error(wslay, WSLAY_ERR_WOULDBLOCK);
        return -1;
    }
    if (len > (*input)->size)
        len = (*input)->size;
    memcpy(buf, (*input)->bytes, len);
    h2o_buffer_consume(input, len);
    return (ssize_t)len;
}

static int put(websocket *ws, const void *data, size_t len)
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

static ssize_t on_have_bytes(wslay_event_context_ptr wslay, const uint8_t *data, size_t len,
                             int flags, void *user)
{
    (void)flags;
    if (put(user, data, len) == 0)
        return (ssize_t)len;
    wslay_event_set_error(wslay, WSLAY_ERR_CALLBACK_FAILURE);
    return -1;
}

/* ---- pump ------------------------------------------------------------------------------------ */

static void on_written(h2o_socket_t *sock, const char *err);
static void on_websocket_read(h2o_socket_t *sock, const char *err);

static void take_in(websocket *ws)
{
    h2o_buffer_t **input = &ws->sock->input;
    if ((*input)->size != 0)
        ws->pinged = 0;
    while ((*input)->size != 0 && wslay_event_want_read(ws->wslay) && !is_congested(ws)) {
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

static size_t compose_frames(websocket *ws, h2o_iovec_t bufs[3])
{
    static const uint8_t protocol_error[] = {0x80 | WSLAY_CONNECTION_CLOSE, 2,
                                             WSLAY_CODE_PROTOCOL_ERROR >> 8,
                                             WSLAY_CODE_PROTOCOL_ERROR & 0xff};
    wq_loop_job *job = ws->held.job;
    size_t n = 0;
    if (job != NULL && job->serial != ws->sent && !job->snapshot.resumes) {
        bufs[n++] = write_head(ws->head, job->record.len);
        bufs[n++] = job->record;
        ws->record = job->record.base;
        h2o_mem_addref_shared(ws->record);
        ws->sent = job->serial;
    }
    if (job != NULL && job->snapshot.has_returncode)
        say_goodbye(ws, WSLAY_CODE_NORMAL_CLOSURE, "");
    else if (job != NULL && (job->snapshot.resumes || atomic_load(&ws->held.http->stopping)))
        say_goodbye(ws, stop_code(ws), "");
    wslay_event_send(ws->wslay);
    if (ws->broken == 1) {
        put(ws, protocol_error, sizeof protocol_error);
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
    if (wants_token(ws))
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

static void pump(websocket *ws)
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
        pump(ws);
}

static void on_written(h2o_socket_t *sock, const char *err)
{
    websocket *ws = sock->data;
    end_write(ws);
    ws->since = wq_loop_now();
    if (err != NULL)
        end(ws);
    else
        pump(ws);
}

static void on_websocket_news(wq_held *held)
{
    websocket *ws = websocket_of(held);
    if (held->job == NULL) /* there is none: the server stops */
        say_goodbye(ws, stop_code(ws), "");
    pump(ws);
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
    pump(ws);
}

static void on_websocket_timeout(wq_held *held)
{
    websocket *ws = websocket_of(held);
    if (ws->sock == NULL || ws->in_flight) {
        drop(ws);
    } else if (ws->closed != 0) {
        end(ws);
    } else if (wants_token(ws)) {
        say_goodbye(ws, WSLAY_CODE_POLICY_VIOLATION, "No token has come in time.");
        pump(ws);
    } else {
        ping(ws);
    }
}

/* The loop has no more time. The socket is not closed here, outside of the loop's run: libh2o would
 * free it while it is still listed as just written. Its end comes from the loop, at once. */
static void on_websocket_gone(wq_held *held)
{
    websocket *ws = websocket_of(held);
    say_goodbye(ws, stop_code(ws), "");
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
    pump(ws);
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

static websocket *new_websocket(wq_http *http, h2o_req_t *req)
{
    static const struct wslay_event_callbacks callbacks = {
        .recv_callback = on_want_bytes,
        .send_callback = on_have_bytes,
        .on_frame_recv_start_callback = on_frame,
        .on_frame_recv_chunk_callback = on_chunk,
        .on_msg_recv_callback = on_message,
    };
    websocket *ws = calloc(1, sizeof *ws);
    if (ws == NULL)
        return NULL;
    if (wslay_event_context_server_init(&ws->wslay, &callbacks, ws) != 0) {
        free(ws);
        return NULL;
    }
    wslay_event_config_set_no_buffering(ws->wslay, 1);
    wslay_event_config_set_max_recv_msg_length(ws->wslay, MESSAGE_BYTES);
    ws->held = (wq_held){.http = http,
                         .face = WQ_FACE_WEBSOCKET,
                         .req = req,
                         .is_detached = 1,
                         .news = on_websocket_news,
                         .timeout = on_websocket_timeout,
                         .gone = on_websocket_gone};
    return ws;
}

/* `job` is a reference, taken over, or NULL. */
static int begin_websocket(websocket *ws, h2o_req_t *req, wq_job *job)
{
    if (wq_hold(&ws->held, job) != 0)
        free_websocket(ws);
    else
        switch_protocols(ws, req);
    return 0;
}

static int refuse_upgrade(h2o_req_t *req)
{
    return wq_problem_result(req, WQ_ERROR_NO_MEMORY, NULL, 5);
}

int wq_websocket(wq_http *http, h2o_req_t *req, wq_job *job)
{
    if (!wq_handshake_check(req)) {
        wq_job_unref(job);
        return 0;
    }
    websocket *ws = new_websocket(http, req);
    if (ws != NULL)
        return begin_websocket(ws, req, job);
    wq_job_unref(job);
    return refuse_upgrade(req);
}

static int begin_without_token(wq_http *http, h2o_req_t *req, const wq_params *params,
                               unsigned flags)
{
    char peer[WQ_ADDRESS_SIZE];
    if (atomic_load(&http->stopping) || req->conn->ctx->shutdown_requested)
        return wq_problem_result(req, WQ_ERROR_CLOSING, NULL, wq_retry_after_s(http->queue));
    websocket *ws = new_websocket(http, req);
    if (ws == NULL)
        return refuse_upgrade(req);
    wq_request_peer(peer, http->proxies, req);
    if ((ws->token = wq_late_token_new(params, peer, flags)) != NULL)
        return begin_websocket(ws, req, NULL);
    free_websocket(ws);
    return refuse_upgrade(req);
}

static int begin_done(wq_http *http, h2o_req_t *req)
{
    websocket *ws = new_websocket(http, req);
    if (ws == NULL)
        return refuse_upgrade(req);
    say_goodbye(ws, WSLAY_CODE_NORMAL_CLOSURE, "The output is there already.");
    return begin_websocket(ws, req, NULL);
}

static int on_websocket_answer(wq_http *http, h2o_req_t *req, const wq_answer *answer)
{
    if (answer->result < 0)
        return wq_problem_result(req, answer->result, &answer->error,
                                 wq_result_retry_s(http->queue, answer->result, answer->params));
    return answer->job != NULL ? wq_websocket(http, req, answer->job) : begin_done(http, req);
}

int wq_websocket_generate(wq_http *http, h2o_req_t *req)
{
    wq_params params;
    int rebuild;
    if (!wq_handshake_check(req) || wq_request_target(&http->limits, req, &params, &rebuild) != 0)
        return 0;
    unsigned flags = rebuild ? WQ_ENSURE_REBUILD : 0;
    if (params.api_token == NULL)
        return begin_without_token(http, req, &params, flags);
    return wq_ask(http, req, &params, flags, on_websocket_answer);
}

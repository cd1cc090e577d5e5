/* websocket_input.c - what wslay calls back: bytes for it, and the client's frames and messages.
 * Only notes are taken here; see websocket_connection.h. */
#include "workqueue/http/faces/websocket_input.h"

#include "workqueue/http/request/problem.h"

enum { TRY_AGAIN_LATER = 1013 }; /* registered after wslay was written */

static void refuse(websocket *ws, int result, const char *reason)
{
    unsigned code = result == WQ_ERROR_INVALID_ARGUMENT ? WSLAY_CODE_POLICY_VIOLATION
                    : result == WQ_ERROR_CLOSING        ? wq_websocket_stop_code(ws)
                    : wq_is_for_later(result)           ? TRY_AGAIN_LATER
                                                        : WSLAY_CODE_INTERNAL_SERVER_ERROR;
    wq_websocket_say_goodbye(ws, code, reason);
}

/* ---- messages from the client ---------------------------------------------------------------- */

static void on_token_answer(void *user, int result, wq_job *job, const char *reason, int later)
{
    websocket *ws = user;
    if (result == WQ_DONE)
        wq_websocket_say_goodbye(ws, WSLAY_CODE_NORMAL_CLOSURE, "The output is there already.");
    else if (result < 0)
        refuse(ws, result, reason);
    else if (wq_hold_join(&ws->held, job) != 0)
        refuse(ws, WQ_ERROR_NO_MEMORY, wq_strerror(WQ_ERROR_NO_MEMORY));
    else
        wq_websocket_forget_token(ws);
    if (later)
        wq_websocket_pump(ws);
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
    if (chunk->data_length > WQ_WEBSOCKET_MESSAGE_BYTES - ws->n_message) {
        wq_websocket_say_goodbye(ws, WSLAY_CODE_MESSAGE_TOO_BIG, "");
        return;
    }
    if (wq_websocket_wants_token(ws) &&
        wq_late_token_add(ws->token, chunk->data, chunk->data_length) != 0) {
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
        wq_websocket_say_goodbye(ws, WSLAY_CODE_UNSUPPORTED_DATA, "Text only.");
    else if (wq_websocket_wants_token(ws))
        wq_late_token_ask(ws->token, ws->held.loop, on_token_answer, ws);
    ws->n_message = 0;
}

/* ---- bytes ----------------------------------------------------------------------------------- */

static ssize_t on_want_bytes(wslay_event_context_ptr wslay, uint8_t *buf, size_t len, int flags,
                             void *user)
{
    websocket *ws = user;
    h2o_buffer_t **input = &ws->sock->input;
    (void)flags;
    if ((*input)->size == 0 || wq_websocket_is_congested(ws)) {
        wslay_event_set_error(wslay, WSLAY_ERR_WOULDBLOCK);
        return -1;
    }
    if (len > (*input)->size)
        len = (*input)->size;
    memcpy(buf, (*input)->bytes, len);
    h2o_buffer_consume(input, len);
    return (ssize_t)len;
}

static ssize_t on_have_bytes(wslay_event_context_ptr wslay, const uint8_t *data, size_t len,
                             int flags, void *user)
{
    (void)flags;
    if (wq_websocket_put(user, data, len) == 0)
        return (ssize_t)len;
    wslay_event_set_error(wslay, WSLAY_ERR_CALLBACK_FAILURE);
    return -1;
}

const struct wslay_event_callbacks wq_websocket_callbacks = {
    .recv_callback = on_want_bytes,
    .send_callback = on_have_bytes,
    .on_frame_recv_start_callback = on_frame,
    .on_frame_recv_chunk_callback = on_chunk,
    .on_msg_recv_callback = on_message,
};

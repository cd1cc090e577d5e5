/* websocket_connection.h - the connection of a WebSocket: its bytes in and out, its deadlines, its
 * end.
 *
 * libh2o upgrades the connection, and knows nothing of it from then on: no request, no generator,
 * no `proceed`. Its own websocket.c does not tell when a message has been written, without which
 * there is no latest-only; so the socket is read and written here, and wslay is asked what the
 * bytes mean and for the frames that answer them (pong, close).
 *
 * Everything happens in wq_websocket_pump(): what has come is taken in, and if no write is under
 * way, all there is to say goes out in one: the record, if the client does not have it, pongs, the
 * close. Only it and its callers may free a websocket; what wslay calls back (websocket_input.c)
 * only notes things. */
#ifndef WQ_HTTP_FACES_WEBSOCKET_CONNECTION_H
#define WQ_HTTP_FACES_WEBSOCKET_CONNECTION_H

#include <wslay/wslay.h>

#include "workqueue/http/faces/late_token.h"
#include "workqueue/http/hold/held.h"

enum { WQ_WEBSOCKET_MESSAGE_BYTES = 65536 }; /* of one from a client, all its fragments together */

typedef struct websocket {
    wq_held held;                  /* its req is dead once the upgrade has begun */
    h2o_socket_t *sock;            /* NULL until the 101 is out */
    wslay_event_context_ptr wslay; /* reads, and makes control frames */
    uint64_t sent;                 /* serial number of the last record sent; 0: none */
    int sent_state;                /* its state */
    char *prefix;   /* owned: the records are those of GET /jobs/{id}, and their links begin so; or
                       NULL */
    int in_flight;  /* a write is under way */
    int closing;    /* a close is, or will be, the last that is sent */
    int lost;       /* there was no memory for what is to be said: end it */
    int broken;     /* 1: 1002 is to be said without wslay, 2: it has been */
    int64_t since;  /* when the write began, or the quiet */
    int64_t pinged; /* when, if nothing has come from the client since; else 0 */
    int64_t closed; /* when the close had been written; 0: not yet */

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

/* NULL without memory. It is the caller's until wq_websocket_begin(). */
websocket *wq_websocket_new(wq_http *http, h2o_req_t *req,
                            const struct wslay_event_callbacks *callbacks);
void wq_websocket_free(websocket *ws);

/* Upgrades the request; `job` is a reference, taken over, or NULL: then the token is awaited, or a
 * goodbye has been said. Returns 0, as handlers do. */
int wq_websocket_begin(websocket *ws, h2o_req_t *req, wq_job *job);

/* May free it. */
void wq_websocket_pump(websocket *ws);

/* Notes that a close is the last that is sent; `reason` is ASCII, and cut where it is too long. */
void wq_websocket_say_goodbye(websocket *ws, unsigned code, const char *reason);

/* With a journal the job goes on after the restart, and its clients come again. */
unsigned wq_websocket_stop_code(const websocket *ws);

int wq_websocket_wants_token(const websocket *ws);
void wq_websocket_forget_token(websocket *ws);

/* Answers wait, and so must the client's bytes. */
int wq_websocket_is_congested(const websocket *ws);

/* Adds to what goes out next. 0, or -1 without memory: the connection ends. */
int wq_websocket_put(websocket *ws, const void *data, size_t len);

#endif

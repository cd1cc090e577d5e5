/* session.h - one connection to a STOMP broker after the other: opened, greeted, read by frames.
 *
 * Of what is written only CONNECT is its own. All of it belongs to one thread. */
#ifndef WQ_SESSION_H
#define WQ_SESSION_H

#include "workqueue/stomp/codec.h"
#include "workqueue/stomp/connection.h"

typedef struct wq_session_options {
    SSL_CTX *tls; /* the caller's; NULL if no URL asks for it */
    int stop_fd;  /* readable: the connection is not wanted any more */
    unsigned connect_ms, heartbeat_ms;
    size_t max_frame_bytes; /* of a body; one that comes longer is cut */
} wq_session_options;

typedef struct wq_session {
    wq_session_options options;
    const wq_broker_url *url; /* that it was opened with */
    wq_link link;
    wq_stomp_parser parser;
    char *buffer;
    int answered;                /* CONNECT, by CONNECTED */
    char server[64];             /* what the broker calls itself; empty if it does not say */
    int64_t read_at, written_at; /* monotonic, when last */
    int64_t beat_ms, silence_ms; /* as agreed: to write, and to hear, so often; 0: no heart-beats */
} wq_session;

/* 0, or -1 if memory ran out; dispose of it in both cases. */
int wq_session_init(wq_session *session, const wq_session_options *options);
void wq_session_dispose(wq_session *session);

/* Connects and greets, within connect_ms. 0 or -1. */
int wq_session_open(wq_session *session, const wq_broker_url *url, wq_error *error);
void wq_session_close(wq_session *session);

/* What a frame is handed to, until the next is read; not 0: the connection is to be closed. */
typedef int (*wq_frame_cb)(void *user, const wq_stomp_frame *frame, wq_error *error);

/* Reads what there is, but not for ever: 1 if there may be more. -1: the connection has ended. */
int wq_session_read(wq_session *session, wq_frame_cb on, void *user, wq_error *error);

/* How many bytes were written; 0: none for now; -1: the connection has ended. */
long wq_session_write(wq_session *session, const char *bytes, size_t n, wq_error *error);

#endif

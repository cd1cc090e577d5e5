/* late_token.h - the token of a WebSocket that brings it as its first message, for browsers, which
 * can set no header there: {"apiToken": "..."} or the bare token. */
#ifndef WQ_HTTP_FACES_LATE_TOKEN_H
#define WQ_HTTP_FACES_LATE_TOKEN_H

#include "workqueue/http/hold/loop.h"
#include "workqueue/http/request/client.h"

typedef struct wq_late_token wq_late_token;

/* `job` is a counted reference, or NULL; `reason`, if `result` is negative, a sentence in ASCII.
 * `later`: it is called by the loop, not by wq_late_token_ask(). The token may be freed then. */
typedef void (*wq_late_then)(void *user, int result, wq_job *job, const char *reason, int later);

/* For a server and document set, asked for by `peer`; all are copied. NULL: no memory. */
wq_late_token *wq_late_token_new(const wq_params *target, const wq_from *from, unsigned flags);

/* An answer that is to come is for nobody. NULL is allowed. */
void wq_late_token_free(wq_late_token *token);

/* A part of the message has come. 0, or -1: no memory. */
int wq_late_token_add(wq_late_token *token, const void *data, size_t n);

/* The message is complete: asks the queue. `then` is called once, at once or later, unless the token
 * is freed before. */
void wq_late_token_ask(wq_late_token *token, wq_loop *loop, wq_late_then then, void *user);

/* Has the message been asked with? Then its answer is waited for, and no more messages. */
int wq_late_token_is_asked(const wq_late_token *token);

#endif

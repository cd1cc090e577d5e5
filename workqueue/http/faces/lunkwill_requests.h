/* lunkwill_requests.h - the requests of lunkwill clients: who they are, when each was asked for
 * last, and what becomes of those that nobody asks for any more. */
#ifndef WQ_HTTP_FACES_LUNKWILL_REQUESTS_H
#define WQ_HTTP_FACES_LUNKWILL_REQUESTS_H

#include "workqueue/http/hold/loop.h"
#include "workqueue/http/hold/peers.h"

typedef struct wq_lunkwill wq_lunkwill;

/* An intercepted request. */
typedef struct lunkwill_request {
    char id[WQ_ID_SIZE]; /* first: the table compares pointers to it */
    char job_id[WQ_ID_SIZE];
    int how;                /* what wq_begin() returned */
    int64_t created, asked; /* by wq_loop_now() */
    int64_t delay_ms;       /* what the client was told last */
    wq_watch *watch;        /* NULL: the job has ended, or the client is silent */
    wq_peer *peer;          /* whose share it is of, until then; NULL: nobody's */
    TAILQ_ENTRY(lunkwill_request) link;
} lunkwill_request;

/* Drops what nobody asks for any more; and if as many requests are known as may be, one that is
 * idle. 0 if there is none: all are being asked for. */
int wq_lunkwill_make_room(wq_lunkwill *lunkwill, int64_t now);

/* Makes a new request known, and copies it. The first of a job goes by the job's own id, by which
 * it is found again when the server has been restarted: see find(). Takes over `peer`. */
int wq_lunkwill_enter(wq_lunkwill *lunkwill, const wq_job *job, int how, int64_t now, wq_peer *peer,
                      lunkwill_request *copy);

/* Notes that the client has asked, and copies the request; 0 if there is none with this id. */
int wq_lunkwill_note(wq_lunkwill *lunkwill, const char *id, int64_t now, lunkwill_request *copy);

/* Its client has asked: it watches, unless the job has ended (NULL: and is forgotten). Without
 * memory it does not, and is not cancelled for its silence. */
void wq_lunkwill_follow(wq_lunkwill *lunkwill, h2o_req_t *req, const lunkwill_request *request,
                        wq_job *job);

/* Its client will not ask again. */
void wq_lunkwill_leave(wq_lunkwill *lunkwill, const char *id);

/* Gives the job up, if nobody else wants it; the result of wq_job_abandon(). Those who watch it are
 * called. */
int wq_lunkwill_abandon(wq_lunkwill *lunkwill, const char *job_id);

/* How many requests are under way for each client. */
wq_peers *wq_lunkwill_peers(wq_lunkwill *lunkwill);

#endif

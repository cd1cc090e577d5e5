/* s3_request.h - requests to an S3 store: signed, tried again, over connections that are kept. */
#ifndef WQ_S3_REQUEST_H
#define WQ_S3_REQUEST_H

#include "workqueue/util/log.h"

typedef struct wq_s3_client wq_s3_client;

/* Copied by wq_s3_client_open(); all strings but those that say so are there. */
typedef struct wq_s3_config {
    const char *base; /* URL of the bucket, with a "/" at its end */
    const char *region, *access_key, *secret_key;
    const char *session_token; /* or NULL */
    const char *ca_file;       /* or NULL */
    unsigned max_connections, connect_timeout_ms, stall_timeout_ms;
    unsigned retries, backoff_ms, backoff_max_ms;
    wq_logger logger;
    /* Asked when the store refuses the credentials: nonzero if it has given the client others, by
     * wq_s3_client_credentials(). NULL: there are no others. */
    int (*renew)(void *user);
    void *user;
} wq_s3_config;

/* Others from now on; `session_token` may be NULL. 0, or -1 if memory ran out. Any thread. */
int wq_s3_client_credentials(wq_s3_client *client, const char *access_key, const char *secret_key,
                             const char *session_token);

int wq_s3_client_open(wq_s3_client **out, const wq_s3_config *config, wq_error *error);

/* From now on nothing is tried again, and what stands still is ended soon. Any thread. */
void wq_s3_client_stop(wq_s3_client *client);

void wq_s3_client_close(wq_s3_client *client); /* no request is under way; NULL is allowed */

enum { WQ_S3_HEADERS = 5, WQ_S3_LABEL = 64, WQ_S3_TEXT = 1800 };

typedef struct wq_s3_request {
    const char *method;                 /* "GET", "HEAD", "PUT", "POST" or "DELETE" */
    const char *path;                   /* of the object, encoded; "" for the bucket */
    const char *query;                  /* encoded, sorted, a "=" in each; or NULL */
    const char *headers[WQ_S3_HEADERS]; /* "Name: value"; NULL where there is none */
    const char *body;                   /* of a POST; NULL: empty. Of a PUT: instead of the file */
    int fd;                 /* of a PUT without body: it is `bytes` from `offset` of this */
    uint64_t offset, bytes; /* of a GET with a sink: what part of the object is asked for, not 0 */
    void *buf;              /* sink of a GET: `bytes` long; or NULL */
    int out_fd;             /* sink of a GET where buf is NULL: written from `offset` on; or -1 */
} wq_s3_request;

/* What came back. Dispose of it, also after a failure. */
typedef struct wq_s3_answer {
    long status;                 /* of HTTP; not one that is tried again */
    unsigned tries;              /* how often it was asked */
    char code[64];               /* the store's name for a failure; "" where it told none */
    char tag[48];                /* ETag without quotes; "" if there is none, or none of use */
    char label[WQ_S3_LABEL + 1]; /* the metadata "workqueue-set", or "" */
    char short_text[WQ_S3_TEXT]; /* the metadata "workqueue-text", or "" */
    uint64_t epoch;              /* the metadata "workqueue-epoch", or 0 */
    uint64_t bytes;              /* length of the object */
    int64_t made_at_ms;          /* Last-Modified */
    int64_t now_ms;              /* Date: the store's clock; -1000 if it does not say */
    char *text;                  /* the body, NUL-terminated, never NULL after WQ_OK, unless it
                                    went to a sink */
    size_t text_bytes;
} wq_s3_answer;

/* Asks until there is an answer. WQ_OK, whatever its status; WQ_ERROR_AWAY if there is none, after
 * the last try or because of a stop; WQ_ERROR_SYSTEM (a file, a certificate) or
 * WQ_ERROR_NO_MEMORY. */
int wq_s3_ask(wq_s3_client *client, const wq_s3_request *request, wq_s3_answer *answer,
              wq_error *error);

/* Says that the store has refused, with the reason if it is a common one; returns WQ_ERROR_SYSTEM,
 * or WQ_ERROR_AWAY where that is no fault of the output: there is no such bucket (Swift says so too
 * while it cannot look it up), the credentials are not taken or have expired, a clock is wrong. */
int wq_s3_refused(wq_s3_client *client, const wq_s3_request *request, const wq_s3_answer *answer,
                  wq_error *error);

void wq_s3_answer_dispose(wq_s3_answer *answer);

#endif

/* attempt.h - one try of a request, and the client that makes it. */
#ifndef WQ_S3_ATTEMPT_H
#define WQ_S3_ATTEMPT_H

#include "workqueue/s3/request.h"
#include "workqueue/s3/text.h"
#include "workqueue/util/clocks.h"
#include <curl/curl.h>
#include <errno.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

enum {
    MAX_CONNECTIONS = 64,
    MAX_TEXT_BYTES = 4 << 20, /* of an answer that is not an object */
    STOPPED_STALL_MS = 2000,  /* how long a request may stand still after a stop */
    HEX_SHA256 = 65,
};

struct wq_s3_client {
    char *base, *region, *ca_file;
    char signature[128]; /* how libcurl is to sign */
    unsigned max_connections, connect_timeout_ms, stall_timeout_ms;
    unsigned retries, backoff_ms, backoff_max_ms;
    wq_logger logger;
    int (*renew)(void *user);
    void *user;
    atomic_int stopped;

    pthread_mutex_t lock;
    /* under the lock */
    pthread_cond_t idle;     /* there is an idle handle */
    pthread_cond_t stopping; /* on CLOCK_MONOTONIC */
    CURL *handles[MAX_CONNECTIONS];
    unsigned n_idle, n_made;
    char *access_key, *secret_key, *session_token;
};

/* A copy for one request. */
typedef struct credentials {
    char *access_key, *secret_key, *session_token;
} credentials;

/* One try. */
typedef struct attempt {
    wq_s3_client *client;
    const wq_s3_request *request;
    wq_s3_answer *answer;
    const credentials *credentials;
    CURL *curl;
    uint64_t sent, received;
    int file_errno; /* of our own file, where that failed */
    int out_of_memory;
    curl_off_t moved; /* bytes either way, and when that last changed */
    int64_t moved_ms;
    char why[CURL_ERROR_SIZE + 32]; /* why it has to be tried again */
    unsigned retry_after_ms;
} attempt;

enum { ANSWERED, AGAIN, FAILED };

/* ---- attempt.c ---- */

int wq_s3_try_once(attempt *a, struct curl_slist *headers, const char *url);

#endif

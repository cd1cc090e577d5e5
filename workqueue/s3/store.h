/* s3.h - what the files of the S3 store share. */
#ifndef WQ_S3_H
#define WQ_S3_H

#include <stdatomic.h>
#include <workqueue/remote.h>

#include "workqueue/s3/request.h"
#include "workqueue/store/dir.h"
#include "workqueue/util/log.h"

enum {
    WQ_S3_PREFIX = 512,
    WQ_S3_PATH = 3 * WQ_S3_PREFIX + WQ_KEY_SIZE, /* of an object, encoded */
};

typedef struct s3 {
    wq_store store;
    wq_s3_client *client;
    wq_store *local; /* outputs in the making, and copies */
    char prefix[WQ_S3_PREFIX], encoded_prefix[3 * WQ_S3_PREFIX];
    char *public_base, *content_type; /* NULL: none; a whole header */
    uint64_t part_bytes;
    atomic_int unconditional; /* the store does not know If-None-Match on a PUT */
    wq_logger logger;
} s3;

/* Checks the options, keeps what is needed of them and opens the client. Closing is the caller's,
 * also after a failure. */
int wq_s3_configure(s3 *s, const wq_s3_options *options, wq_error *error);

/* The store's `publish`. */
void wq_s3_publish(void *self, wq_publish *items, size_t n);

/* Asks for the object of `key`, of which `answer` then tells; there is nothing to dispose of.
 * WQ_OK, WQ_ERROR_NOT_FOUND, or another failure. */
int wq_s3_head(s3 *s, const char *key, wq_s3_answer *answer, wq_error *error);

/* Moves a whole file to where local copies are; it is gone afterwards, whatever the result. */
int wq_s3_keep_copy(s3 *s, const char *name, const char *temp, wq_error *error);

/* SHA-256 of two texts, in hex. 0, or -1 if memory ran out. */
int wq_s3_hash(char hex[WQ_KEY_SIZE], const char *a, const char *b);

/* What an object carries of its server, in the first half, and of server and set, in the second.
 * 0, or -1 if memory ran out. */
int wq_s3_label(char label[WQ_S3_LABEL + 1], const char *server, const char *set);

int wq_s3_is_fine(const wq_s3_answer *answer);

#endif

/* s3.h - what the files of the S3 store share. */
#ifndef WQ_S3_H
#define WQ_S3_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>
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
    atomic_int unconditional; /* the store does not know conditions of a PUT: it answers 501 */
    atomic_int bare_tags;     /* If-Match must be without quotes */
    atomic_int parts_obey;    /* the end of an upload in parts keeps to conditions */
    wq_logger logger;

    char *access_key, *secret_key, *session_token, *credentials_file; /* as last read; or NULL */
    pthread_mutex_t lock;
    /* under the lock */
    LIST_HEAD(, s3_fence) fences;
} s3;

/* The epoch of an output that is being made; see wq_shared. */
typedef struct s3_fence {
    LIST_ENTRY(s3_fence) link;
    char key[WQ_KEY_SIZE];
    uint64_t epoch;
    char tag[WQ_TAG_SIZE];
} s3_fence;

/* shared.c: what machines share. */
extern const wq_shared wq_s3_shared;

/* Reads access_key and the two after it from credentials_file: 0, or -1 if it has none. */
int wq_s3_read_credentials(s3 *s);

/* The client's `renew`: nonzero if the file has other ones by now. */
int wq_s3_renew_credentials(void *s3);

/* The fence of a key; epoch 0: none. */
s3_fence wq_s3_fence_of(s3 *s, const char *key);

/* "If-Match: TAG" as the store wants it, or "If-None-Match: *" if `tag` is empty. */
void wq_s3_condition(const s3 *s, char *header, size_t size, const char *tag);

/* Checks the options, keeps what is needed of them and opens the client. Closing is the caller's,
 * also after a failure. */
int wq_s3_configure(s3 *s, const wq_s3_options *options, wq_error *error);

/* The store's `publish`. */
void wq_s3_publish(void *self, wq_publish *items, size_t n);

/* Begins a request for the object of `key`, or another below the prefix; writes its encoded path to
 * `path`. */
wq_s3_request wq_s3_for_object(s3 *s, const char *method, const char *key, char path[WQ_S3_PATH]);

/* ---- list.c ---- */

/* The names that begin with `folder` ("" for outputs), no deeper, without the prefix and the
 * folder, behind the name `after`, until `each` returns nonzero; `recent_s`, unless it is 0: only
 * what was written in the last so many seconds, by the store's own clock. */
int wq_s3_list_names(s3 *s, const char *folder, const char *after, unsigned recent_s,
                     int (*each)(void *user, const char *name), void *user, wq_error *error);

/* The store's `remove_set` and `list`. */
int wq_s3_remove_set(void *self, const char *server, const char *document_set_id, size_t *n,
                     wq_error *error);
int wq_s3_list_outputs(void *self, const char *server, const char *document_set_id, char *position,
                       wq_output_info *out, size_t max, size_t *n, wq_error *error);

/* The header by which an output tells who it is of; "" if there is no room for that. */
void wq_s3_describe(char *header, size_t size, const wq_publish *item);

/* ---- store.c ---- */

int wq_s3_delete(s3 *s, const char *key, wq_error *error);

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

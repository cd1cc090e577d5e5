/* record.h - a key's record: as text, which is JSON on one line of printable ASCII, and in the
 * store. */
#ifndef WQ_REMOTE_RECORD_H
#define WQ_REMOTE_RECORD_H

#include <workqueue/extend.h>

#include "workqueue/remote/messages.h"

enum { WQ_HOST_SIZE = 65, WQ_PLACE_SIZE = 257 };

typedef enum wq_record_state { WQ_FREE, WQ_RUNNING, WQ_DONE_WELL, WQ_FAILED } wq_record_state;

/* What is known of a key. */
typedef struct wq_record {
    uint64_t epoch; /* 0: there is no record */
    wq_record_state state;
    char owner[WQ_NAME_SIZE], host[WQ_HOST_SIZE];
    char id[WQ_REQUEST_ID_SIZE]; /* of the request that it was taken for */
    unsigned attempts;           /* to run this, as owners died at it */
    int returncode;
    uint64_t size_bytes;
    int64_t began_ms;                               /* Unix time, for people */
    char server[WQ_PLACE_SIZE], set[WQ_PLACE_SIZE]; /* of the job, for people; may be cut */
    char nonce[33];
} wq_record;

/* Reads the record of a key, and its version; WQ_ERROR_NOT_FOUND: there is none. */
int wq_record_read(const wq_store *store, const char *key, wq_record *out, char tag[WQ_TAG_SIZE],
                   wq_error *error);

/* Calls `each` for all keys that run, until that returns nonzero. */
int wq_record_list_running(const wq_store *store, int (*each)(void *user, const wq_elsewhere *job),
                           void *user, wq_error *error);

/* A request is not wanted any more: whoever has it, or gets it, finds the mark. */
int wq_cancel_mark(const wq_store *store, const char *id, wq_error *error);
int wq_cancel_is_marked(const wq_store *store, const char *id); /* 0 also if that is not known */

/* 0, or -1 if it does not fit or memory ran out. */
int wq_record_text(char text[WQ_SHARED_TEXT_SIZE], const wq_record *record);

/* 0, or -1 if it is none; what it lacks is zero. */
int wq_record_parse(wq_record *out, const char *text);

/* The name of a key's record in the store. */
void wq_record_name(char name[WQ_KEY_SIZE + 8], const char *key);

/* Writes it under a new nonce if `tag` is still its version, which is filled in anew. WQ_OK;
 * WQ_ERROR_LOCKED: somebody else has it; WQ_ERROR_AWAY: it may have been written or not. */
int wq_record_write(const wq_store *store, const char *key, wq_record *record,
                    char tag[WQ_TAG_SIZE], const char *more, wq_error *error);

#endif

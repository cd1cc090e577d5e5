/* records.c - records in the store: read, listed, written on condition; marks of what is cancelled.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "workqueue/remote/record.h"
#include "workqueue/util/clocks.h"
#include "workqueue/util/log.h"

enum { RECENT_S = 300 /* what runs is written much more often */ };

/* ---- records --------------------------------------------------------------------------------- */

static void make_nonce(wq_record *record)
{
    uint64_t random[2] = {0};
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
        random[0] = (uint64_t)wq_unix_ms();
    snprintf(record->nonce, sizeof record->nonce, "%016" PRIx64 "%016" PRIx64, random[0],
             random[1]);
}

void wq_record_name(char name[WQ_KEY_SIZE + 8], const char *key)
{
    snprintf(name, WQ_KEY_SIZE + 8, ".run/%s", key);
}

/* Writes a record under a new nonce if `tag` is still its version. A refusal, or no answer, may be
 * that of a second try after a first that was done: the nonce tells. */
int wq_record_write(const wq_store *store, const char *key, wq_record *record,
                    char tag[WQ_TAG_SIZE], const char *more, wq_error *error)
{
    char name[WQ_KEY_SIZE + 8], text[WQ_SHARED_TEXT_SIZE], there_tag[WQ_TAG_SIZE];
    wq_record there;
    wq_error ignored;
    make_nonce(record);
    wq_record_name(name, key);
    if (wq_record_text(text, record) != 0)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    int result = store->shared->put(store->self, name, tag, text, more, there_tag, error);
    if (result == WQ_OK) {
        memcpy(tag, there_tag, WQ_TAG_SIZE);
        return WQ_OK;
    }
    if (result != WQ_ERROR_LOCKED && result != WQ_ERROR_AWAY)
        return result;
    int looked = wq_record_read(store, key, &there, there_tag, &ignored);
    if (looked == WQ_OK && strcmp(there.nonce, record->nonce) == 0) {
        memcpy(tag, there_tag, WQ_TAG_SIZE);
        return WQ_OK;
    }
    if (looked == WQ_OK || (looked == WQ_ERROR_NOT_FOUND && result == WQ_ERROR_LOCKED))
        return strcmp(there_tag, tag) == 0 && looked == WQ_OK
                   ? WQ_ERROR_AWAY
                   : wq_fail(error, WQ_ERROR_LOCKED, "somebody else has the record");
    return WQ_ERROR_AWAY;
}

int wq_record_read(const wq_store *store, const char *key, wq_record *out, char tag[WQ_TAG_SIZE],
                   wq_error *error)
{
    char name[WQ_KEY_SIZE + 8], text[WQ_SHARED_TEXT_SIZE];
    memset(out, 0, sizeof *out);
    *tag = '\0';
    wq_record_name(name, key);
    int result = store->shared->get(store->self, name, text, tag, error);
    if (result == WQ_OK && wq_record_parse(out, text) != 0)
        return wq_fail(error, WQ_ERROR_SYSTEM, "the record of %.8s is none of ours", key);
    return result;
}

typedef struct listing {
    const wq_store *store;
    int (*each)(void *user, const wq_elsewhere *job);
    void *user;
    int result;
    wq_error *error;
} listing;

static int list_one(void *user, const char *name)
{
    listing *l = user;
    wq_record r;
    char tag[WQ_TAG_SIZE];
    if (strlen(name) != WQ_KEY_SIZE - 1)
        return 0;
    int result = wq_record_read(l->store, name, &r, tag, l->error);
    if (result == WQ_ERROR_AWAY)
        l->result = result;
    if (result != WQ_OK || r.state != WQ_RUNNING)
        return l->result != WQ_OK;
    const wq_elsewhere job = {.key = name,
                              .id = r.id,
                              .server = r.server,
                              .document_set_id = r.set,
                              .packager = r.owner,
                              .host = r.host,
                              .epoch = r.epoch,
                              .attempt = r.attempts,
                              .began_at_ms = r.began_ms};
    return l->each(l->user, &job);
}

int wq_record_list_running(const wq_store *store, int (*each)(void *user, const wq_elsewhere *job),
                           void *user, wq_error *error)
{
    listing l = {store, each, user, WQ_OK, error};
    int result = store->shared->list(store->self, ".run", RECENT_S, list_one, &l, error);
    return result != WQ_OK ? result : l.result;
}

/* ---- cancelled requests ---------------------------------------------------------------------- */

/* Ids of strangers may hold anything. */
static int mark_name(char *name, size_t size, const char *id)
{
    char plain[WQ_DESTINATION_SIZE];
    if (wq_destination(plain, sizeof plain, "{id}", id) != WQ_OK)
        return -1;
    for (char *c = plain; *c != '\0'; c++)
        *c = *c == '%' ? '.' : *c;
    return snprintf(name, size, ".cancel/%s", plain) < (int)size ? 0 : -1;
}

int wq_cancel_mark(const wq_store *store, const char *id, wq_error *error)
{
    char name[400], tag[WQ_TAG_SIZE];
    if (mark_name(name, sizeof name, id) != 0)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "the id is too long");
    return store->shared->put(store->self, name, NULL, "cancelled", NULL, tag, error);
}

int wq_cancel_is_marked(const wq_store *store, const char *id)
{
    char name[400], tag[WQ_TAG_SIZE], text[WQ_SHARED_TEXT_SIZE];
    wq_error ignored;
    return mark_name(name, sizeof name, id) == 0 &&
           store->shared->get(store->self, name, text, tag, &ignored) == WQ_OK;
}

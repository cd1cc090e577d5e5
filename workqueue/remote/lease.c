/* lease.c - takes, renews and releases; see lease.h for the states.
 *
 * One thread renews all leases. A lease's lock is held while its record is written, so that a
 * renewal and a release do not cross; the table's lock is never held during a request.
 */
#include "workqueue/remote/lease.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "workqueue/remote/record.h"
#include "workqueue/util/clocks.h"
#include "workqueue/util/threads.h"

enum { OBSERVED = 4096 /* records of others that are watched for a change */ };

/* How long this packager has seen this version of another's record. Time between two looks counts
 * for a half of the whole at most: while the store is away for all its owner could not renew it
 * either, and has to have its chance afterwards. */
typedef struct observed {
    char key[WQ_KEY_SIZE], tag[WQ_TAG_SIZE];
    int64_t looked_at, age_ms; /* monotonic */
} observed;

struct wq_leases {
    wq_leases_options o;
    char host[WQ_HOST_SIZE];
    pthread_t thread;
    int has_thread;

    pthread_mutex_t lock;
    /* under the lock */
    pthread_cond_t news;
    int closing, is_hurried;
    LIST_HEAD(, wq_lease) held;
    observed *observed;
    unsigned next_observed;
};

struct wq_lease {
    LIST_ENTRY(wq_lease) link; /* under the table's lock */
    atomic_uint refs;
    wq_leases *leases;
    char key[WQ_KEY_SIZE];
    void (*renewed)(void *user);
    void (*lost)(void *user);
    void *user;
    atomic_int is_lost, is_over;
    _Atomic int64_t renewed_at; /* boottime: start of the last good renewal */
    int64_t tried_at;           /* the renewing thread's */

    pthread_mutex_t lock;
    /* under the lock */
    wq_record record;
    char tag[WQ_TAG_SIZE];
};

static int64_t boottime_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_BOOTTIME, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ---- taking ---------------------------------------------------------------------------------- */

static observed *find_observed_locked(wq_leases *leases, const char *key)
{
    for (unsigned i = 0; i < OBSERVED; i++)
        if (strcmp(leases->observed[i].key, key) == 0)
            return &leases->observed[i];
    return &leases->observed[leases->next_observed++ % OBSERVED];
}

/* How long another's record has been as it is. */
static int64_t unchanged_ms(wq_leases *leases, const char *key, const char *tag)
{
    int64_t now = wq_monotonic_ms(), most = leases->o.takeover_ms / 2;
    pthread_mutex_lock(&leases->lock);
    observed *seen = find_observed_locked(leases, key);
    if (strcmp(seen->key, key) == 0 && strcmp(seen->tag, tag) == 0) {
        int64_t gap = now - seen->looked_at;
        seen->age_ms += gap < most ? gap : most;
    } else {
        snprintf(seen->key, sizeof seen->key, "%s", key);
        snprintf(seen->tag, sizeof seen->tag, "%s", tag);
        seen->age_ms = 0;
    }
    seen->looked_at = now;
    int64_t age = seen->age_ms;
    pthread_mutex_unlock(&leases->lock);
    return age;
}

static void unref_lease(wq_lease *lease)
{
    if (atomic_fetch_sub(&lease->refs, 1) != 1)
        return;
    pthread_mutex_destroy(&lease->lock);
    free(lease);
}

static wq_lease *new_lease(wq_leases *leases, const wq_claim *claim)
{
    wq_lease *lease = calloc(1, sizeof *lease);
    if (lease == NULL)
        return NULL;
    pthread_mutex_init(&lease->lock, NULL);
    atomic_init(&lease->refs, 1);
    lease->leases = leases;
    lease->renewed = claim->renewed;
    lease->lost = claim->lost;
    lease->user = claim->user;
    snprintf(lease->key, sizeof lease->key, "%s", claim->key);
    return lease;
}

/* What is there before it is taken. */
typedef struct sight {
    wq_record record;
    char tag[WQ_TAG_SIZE];
    int has_output;
    uint64_t output_epoch, output_bytes;
    char output_tag[WQ_TAG_SIZE];
} sight;

static void fill_in(const wq_leases *leases, const wq_claim *claim, const sight *seen,
                    wq_record *record)
{
    uint64_t last = seen->record.epoch;
    if (seen->has_output && seen->output_epoch > last)
        last = seen->output_epoch;
    *record = (wq_record){.epoch = last + 1, .state = WQ_RUNNING, .began_ms = wq_unix_ms()};
    record->attempts = seen->record.state == WQ_RUNNING ? seen->record.attempts + 1 : 1;
    snprintf(record->owner, sizeof record->owner, "%s", leases->o.owner);
    snprintf(record->host, sizeof record->host, "%s", leases->host);
    snprintf(record->id, sizeof record->id, "%s", claim->id);
    snprintf(record->server, sizeof record->server, "%s", claim->params->server);
    snprintf(record->set, sizeof record->set, "%s", claim->params->document_set_id);
}

/* One that ends each packager that runs it is not run for ever. */
static wq_claimed give_up(wq_leases *leases, const wq_claim *claim, sight *seen, wq_record *record,
                          char **why, wq_error *error)
{
    if (asprintf(why, "given up: %u packagers have ended while they ran it",
                 seen->record.attempts) < 0)
        *why = NULL;
    fill_in(leases, claim, seen, record);
    record->state = WQ_FAILED;
    record->attempts = seen->record.attempts;
    record->returncode = WQ_RETURNCODE_OURS;
    int result = wq_record_write(leases->o.store, claim->key, record, seen->tag, *why, error);
    if (result == WQ_OK)
        return WQ_CLAIM_ANSWERED;
    free(*why);
    *why = NULL;
    return result == WQ_ERROR_LOCKED ? WQ_CLAIM_ELSEWHERE : WQ_CLAIM_AWAY;
}

static wq_claimed take_over(wq_leases *leases, const wq_claim *claim, sight *seen, wq_lease **out,
                            wq_record *record, wq_error *error)
{
    const wq_store *store = leases->o.store;
    int64_t started = boottime_ms();
    wq_lease *lease = new_lease(leases, claim);
    if (lease == NULL)
        return WQ_CLAIM_AWAY;
    fill_in(leases, claim, seen, &lease->record);
    memcpy(lease->tag, seen->tag, sizeof lease->tag);
    int result = wq_record_write(store, claim->key, &lease->record, lease->tag, NULL, error);
    if (result == WQ_OK)
        result = store->shared->fence(store->self, claim->key, lease->record.epoch,
                                      seen->has_output ? seen->output_tag : "");
    if (result != WQ_OK) {
        unref_lease(lease);
        return result == WQ_ERROR_LOCKED ? WQ_CLAIM_ELSEWHERE : WQ_CLAIM_AWAY;
    }
    *record = lease->record;
    lease->renewed_at = lease->tried_at = started;
    pthread_mutex_lock(&leases->lock);
    LIST_INSERT_HEAD(&leases->held, lease, link);
    pthread_cond_signal(&leases->news);
    pthread_mutex_unlock(&leases->lock);
    *out = lease;
    return WQ_CLAIMED;
}

/* Nonzero if the end that the record tells is one that answers the claim: it is of a run that the
 * claim may have, or of this very request, which has come again. */
static int is_answered(const wq_claim *claim, const sight *seen)
{
    const wq_record *r = &seen->record;
    int is_same = *r->id != '\0' && strcmp(r->id, claim->id) == 0;
    if (r->state != WQ_FAILED && !(r->state == WQ_DONE_WELL && seen->has_output))
        return 0;
    return claim->need == 0 ? is_same : r->epoch >= claim->need;
}

static int look_for_output(wq_leases *leases, const wq_claim *claim, sight *seen, wq_error *error)
{
    const wq_store *store = leases->o.store;
    int result = store->shared->output(store->self, claim->key, &seen->output_epoch,
                                       &seen->output_bytes, seen->output_tag, error);
    seen->has_output = result == WQ_OK;
    return result == WQ_ERROR_NOT_FOUND ? WQ_OK : result;
}

static int look(wq_leases *leases, const wq_claim *claim, sight *seen, wq_error *error)
{
    const wq_store *store = leases->o.store;
    memset(seen, 0, sizeof *seen);
    int result = look_for_output(leases, claim, seen, error);
    if (result != WQ_OK)
        return result;
    if (seen->has_output && !claim->rebuild)
        return WQ_OK;
    result = wq_record_read(store, claim->key, &seen->record, seen->tag, error);
    if (result == WQ_ERROR_NOT_FOUND)
        return WQ_OK;
    if (result == WQ_OK && seen->record.state == WQ_DONE_WELL && !seen->has_output) {
        /* it may have been made since the first look, by who wrote this */
        result = look_for_output(leases, claim, seen, error);
    }
    return result;
}

static wq_claimed answer(wq_leases *leases, const wq_claim *claim, sight *seen, wq_record *record,
                         char **why, wq_error *error)
{
    char name[WQ_KEY_SIZE + 8];
    wq_record_name(name, claim->key);
    *record = seen->record;
    if (record->state != WQ_FAILED) {
        record->state = WQ_DONE_WELL;
        record->size_bytes = seen->output_bytes;
        return WQ_CLAIM_ANSWERED;
    }
    const wq_store *store = leases->o.store;
    return store->shared->more(store->self, name, why, error) == WQ_OK ? WQ_CLAIM_ANSWERED
                                                                       : WQ_CLAIM_AWAY;
}

wq_claimed wq_lease_take(wq_leases *leases, wq_claim *claim, wq_lease **lease, wq_record *record,
                         char **why, wq_error *error)
{
    sight seen;
    *lease = NULL;
    *why = NULL;
    if (look(leases, claim, &seen, error) != WQ_OK)
        return WQ_CLAIM_AWAY;
    if (seen.has_output && !claim->rebuild)
        seen.record.state = WQ_DONE_WELL;
    if ((seen.has_output && !claim->rebuild) || is_answered(claim, &seen))
        return answer(leases, claim, &seen, record, why, error);
    int runs = seen.record.state == WQ_RUNNING;
    if (claim->need == 0)
        claim->need = runs && !claim->rebuild ? seen.record.epoch : seen.record.epoch + 1;
    if (runs && unchanged_ms(leases, claim->key, seen.tag) < (int64_t)leases->o.takeover_ms) {
        *record = seen.record;
        return WQ_CLAIM_ELSEWHERE;
    }
    if (runs)
        wq_log(
            &leases->o.logger, WQ_LOG_WARNING,
            "%s: %.8s is taken over from %s, of which nothing was heard for %u ms (epoch %" PRIu64
            ", attempt %u)",
            claim->id, claim->key, seen.record.owner, leases->o.takeover_ms, seen.record.epoch + 1,
            seen.record.attempts + 1);
    if (runs && leases->o.max_attempts > 0 && seen.record.attempts >= leases->o.max_attempts)
        return give_up(leases, claim, &seen, record, why, error);
    *record = seen.record;
    return take_over(leases, claim, &seen, lease, record, error);
}

/* ---- holding --------------------------------------------------------------------------------- */

uint64_t wq_lease_epoch(const wq_lease *lease)
{
    return lease->record.epoch;
}

unsigned wq_lease_attempts(const wq_lease *lease)
{
    return lease->record.attempts;
}

/* What is strict counts as lost before others may take it, so that the program has time to end. */
int wq_lease_is_lost(wq_lease *lease)
{
    const wq_leases_options *o = &lease->leases->o;
    return lease->is_lost ||
           (o->strict && boottime_ms() - lease->renewed_at >= (int64_t)o->takeover_ms * 3 / 4);
}

static void forget_lease(wq_lease *lease)
{
    wq_leases *leases = lease->leases;
    const wq_store *store = leases->o.store;
    lease->is_over = 1;
    pthread_mutex_lock(&leases->lock);
    LIST_REMOVE(lease, link);
    pthread_mutex_unlock(&leases->lock);
    store->shared->fence(store->self, lease->key, 0, "");
    unref_lease(lease);
}

void wq_lease_drop(wq_lease *lease)
{
    forget_lease(lease);
}

int wq_lease_release(wq_lease *lease, wq_record_state state, int returncode, uint64_t size_bytes,
                     const char *why, wq_error *error)
{
    pthread_mutex_lock(&lease->lock);
    wq_record record = lease->record;
    record.state = state;
    record.returncode = returncode;
    record.size_bytes = size_bytes;
    int result = lease->is_lost ? WQ_ERROR_LOCKED
                                : wq_record_write(lease->leases->o.store, lease->key, &record,
                                                  lease->tag, why, error);
    lease->is_over = result != WQ_ERROR_AWAY;
    pthread_mutex_unlock(&lease->lock);
    if (result != WQ_ERROR_AWAY)
        forget_lease(lease);
    return result;
}

/* ---- renewing -------------------------------------------------------------------------------- */

static void renew_lease(wq_leases *leases, wq_lease *lease)
{
    wq_error error;
    int64_t started = boottime_ms();
    int lost = 0, renewed = 0;
    pthread_mutex_lock(&lease->lock);
    lease->tried_at = started;
    if (!lease->is_over && !lease->is_lost) {
        int result =
            wq_record_write(leases->o.store, lease->key, &lease->record, lease->tag, NULL, &error);
        renewed = result == WQ_OK;
        if (renewed)
            lease->renewed_at = started;
        lost = result == WQ_ERROR_LOCKED;
        lease->is_lost = lost;
    }
    pthread_mutex_unlock(&lease->lock);
    if (renewed && lease->renewed != NULL)
        lease->renewed(lease->user);
    if (!lost)
        return;
    wq_log(&leases->o.logger, WQ_LOG_WARNING,
           "%s: %.8s was taken over by another packager (epoch %" PRIu64 " is lost)",
           lease->record.id, lease->key, lease->record.epoch);
    if (lease->lost != NULL)
        lease->lost(lease->user);
}

/* The one to renew next, and when. */
static wq_lease *next_due_locked(wq_leases *leases, int64_t *at)
{
    wq_lease *lease, *first = NULL;
    LIST_FOREACH(lease, &leases->held, link)
    if (!lease->is_lost && (first == NULL || lease->tried_at < first->tried_at))
        first = lease;
    if (first != NULL)
        *at = first->tried_at + leases->o.renew_ms;
    return first;
}

static void hurry_locked(wq_leases *leases)
{
    wq_lease *lease;
    LIST_FOREACH(lease, &leases->held, link)
    lease->tried_at = 0;
    leases->is_hurried = 0;
}

void wq_leases_hurry(wq_leases *leases)
{
    pthread_mutex_lock(&leases->lock);
    leases->is_hurried = 1;
    pthread_cond_signal(&leases->news);
    pthread_mutex_unlock(&leases->lock);
}

static void *renew_main(void *arg)
{
    wq_leases *leases = arg;
    pthread_mutex_lock(&leases->lock);
    while (!leases->closing) {
        if (leases->is_hurried)
            hurry_locked(leases);
        int64_t at = 0, now = boottime_ms();
        wq_lease *lease = next_due_locked(leases, &at);
        if (lease == NULL) {
            pthread_cond_wait(&leases->news, &leases->lock);
        } else if (at > now) {
            wq_cond_wait_ms(&leases->news, &leases->lock, at - now < 1000 ? at - now : 1000);
        } else {
            atomic_fetch_add(&lease->refs, 1);
            pthread_mutex_unlock(&leases->lock);
            renew_lease(leases, lease);
            unref_lease(lease);
            pthread_mutex_lock(&leases->lock);
        }
    }
    pthread_mutex_unlock(&leases->lock);
    return NULL;
}

int64_t wq_leases_age_ms(wq_leases *leases)
{
    const wq_lease *lease;
    int64_t age = 0, now = boottime_ms();
    pthread_mutex_lock(&leases->lock);
    LIST_FOREACH(lease, &leases->held, link)
    if (now - lease->renewed_at > age)
        age = now - lease->renewed_at;
    pthread_mutex_unlock(&leases->lock);
    return age;
}

/* ---- opening and closing --------------------------------------------------------------------- */

int wq_owner_name(char out[WQ_NAME_SIZE], const char *name)
{
    char host[64] = "packager";
    uint32_t random = 0;
    if (gethostname(host, sizeof host - 1) != 0 ||
        getrandom(&random, sizeof random, 0) != (ssize_t)sizeof random)
        random ^= (uint32_t)wq_unix_ms();
    int n = snprintf(out, WQ_NAME_SIZE, "%s-%08" PRIx32, name != NULL ? name : host, random);
    return n < WQ_NAME_SIZE ? 0 : -1;
}

int wq_leases_open(wq_leases **out, const wq_leases_options *options, wq_error *error)
{
    wq_leases *leases = calloc(1, sizeof *leases);
    if (leases == NULL)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    leases->o = *options;
    gethostname(leases->host, sizeof leases->host - 1);
    pthread_mutex_init(&leases->lock, NULL);
    wq_cond_init(&leases->news);
    LIST_INIT(&leases->held);
    leases->observed = calloc(OBSERVED, sizeof *leases->observed);
    leases->has_thread = leases->observed != NULL &&
                         wq_thread_start(&leases->thread, "wq-lease", renew_main, leases) == 0;
    if (!leases->has_thread) {
        wq_leases_close(leases);
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "cannot start a thread");
    }
    *out = leases;
    return WQ_OK;
}

void wq_leases_close(wq_leases *leases)
{
    if (leases == NULL)
        return;
    pthread_mutex_lock(&leases->lock);
    leases->closing = 1;
    pthread_cond_signal(&leases->news);
    pthread_mutex_unlock(&leases->lock);
    if (leases->has_thread)
        pthread_join(leases->thread, NULL);
    while (!LIST_EMPTY(&leases->held))
        forget_lease(LIST_FIRST(&leases->held)); /* NOLINT(clang-analyzer-unix.Malloc) */
    pthread_cond_destroy(&leases->news);
    pthread_mutex_destroy(&leases->lock);
    free(leases->observed);
    free(leases);
}

/* lease.h - who runs a key, by the store's own word: a record per key, written on condition.
 *
 *     absent | free | done | failed (e)  --take-->     running (e+1, me, attempts 1)
 *     running (e, me)                    --renew-->    running (e, me), another nonce
 *     running (e, me)                    --release-->  done | failed | free (e)
 *     running (e, other)                 --take-->     running (e+1, me, attempts + 1), or, beyond
 *                                                      max_attempts, failed (e+1)
 *
 * Renewed each renew_ms; another's is taken once it was unchanged for takeover_ms.
 *
 * No wall clocks are compared. An owner counts its time from the start of its last good renewal, by
 * CLOCK_BOOTTIME, which goes on while a machine sleeps; who observes another's record counts by its
 * own CLOCK_MONOTONIC since it first saw this nonce. A lease keeps nobody from writing an output
 * late: that is what the output's own epoch is for (`fence` of wq_shared).
 */
#ifndef WQ_REMOTE_LEASE_H
#define WQ_REMOTE_LEASE_H

#include <workqueue/extend.h>

#include "workqueue/remote/record.h"
#include "workqueue/util/log.h"

/* ---- leases ---------------------------------------------------------------------------------- */

typedef struct wq_leases wq_leases;
typedef struct wq_lease wq_lease;

typedef struct wq_leases_options {
    const wq_store *store; /* borrowed; it has `shared` */
    const char *owner;     /* borrowed; no two have the same */
    unsigned renew_ms, takeover_ms;
    unsigned max_attempts; /* 0: any */
    int strict;            /* a lease that cannot be renewed is lost before others may take it */
    wq_logger logger;
} wq_leases_options;

/* A name for an owner: `name` (NULL: the host's) and a random end, which keeps apart those that
 * were given the same. 0, or -1 if it is too long. */
int wq_owner_name(char out[WQ_NAME_SIZE], const char *name);

/* Starts the thread that renews. */
int wq_leases_open(wq_leases **out, const wq_leases_options *options, wq_error *error);
void wq_leases_close(wq_leases *leases); /* all are released; NULL is allowed */

/* All are renewed soon. */
void wq_leases_hurry(wq_leases *leases);

/* The oldest of the last good renewals is so long ago; 0 if nothing is held. */
int64_t wq_leases_age_ms(wq_leases *leases);

/* Who asks for a key. */
typedef struct wq_claim {
    const char *key, *id;
    const wq_params *params;
    int rebuild;
    uint64_t
        need; /* the first epoch whose end answers it; 0: it has just come, and it is found out */
    /* From the thread that renews. It may ask the store, which who follows the program must not: a
     * lease that is lost by time is to be seen whatever the store does. */
    void (*renewed)(void *user); /* after each good renewal; NULL: nothing */
    void (*lost)(void *user);    /* at most once: see wq_lease_is_lost() */
    void *user;
} wq_claim;

typedef enum wq_claimed {
    WQ_CLAIMED,         /* it is to be run: *lease */
    WQ_CLAIM_ELSEWHERE, /* it runs: record.owner */
    WQ_CLAIM_ANSWERED,  /* it has ended: record.state, size_bytes, returncode, and *why if it failed
                         */
    WQ_CLAIM_AWAY       /* the store does not say */
} wq_claimed;

/* Looks who has the key, and takes it if nobody does. `record` is what there is then; `*why` is
 * from malloc, or NULL. */
wq_claimed wq_lease_take(wq_leases *leases, wq_claim *claim, wq_lease **lease, wq_record *record,
                         char **why, wq_error *error);

/* Nonzero: others may have it. The program is to be ended, and nobody to be told. */
int wq_lease_is_lost(wq_lease *lease);

uint64_t wq_lease_epoch(const wq_lease *lease);
unsigned wq_lease_attempts(const wq_lease *lease);

/* Writes how it ended (WQ_FREE: it did not) and frees the lease. WQ_OK; WQ_ERROR_LOCKED: it was
 * lost. WQ_ERROR_AWAY: try again, the lease is still there. */
int wq_lease_release(wq_lease *lease, wq_record_state state, int returncode, uint64_t size_bytes,
                     const char *why, wq_error *error);
void wq_lease_drop(wq_lease *lease); /* only forgets it: others take it after a while */

#endif

/* fairness.h - who has how many jobs, and whose turn it is. A user is an API token, known by its
 * hash; or, in other tables, a server, as it is spelt, or a peer: a client address.
 *
 * Only for a queue that asks for it (max_per_user, fair; max_per_server; max_per_peer). Callers
 * hold the queue's lock. */
#ifndef WQ_CORE_FAIRNESS_H
#define WQ_CORE_FAIRNESS_H

#include <sys/queue.h>
#include <workqueue/workqueue.h>

enum { WQ_USER_SIZE = 32, WQ_PEER_SIZE = 64, WQ_TRACE_SIZE = 56 };

/* A job among those of one user, of one server, or of one peer. */
typedef struct wq_member {
    struct wq_user *user; /* NULL: it is not counted, or has ended */
    TAILQ_ENTRY(wq_member) link;
    wq_job *job;
    uint64_t rank; /* of the job in the queue order */
} wq_member;

TAILQ_HEAD(wq_member_list, wq_member);

/* One who has a job that has not ended; freed with the last of them. */
typedef struct wq_user {
    unsigned char hash[WQ_USER_SIZE]; /* first: the table compares pointers to it */
    struct wq_users *table;           /* that has it */
    struct wq_member_list jobs;       /* those that have not ended, as they came */
    size_t n_jobs;
    struct wq_user *peer; /* of an API token: whence its first job came; NULL: nobody knows */
    size_t n_sharers;     /* of a peer: API tokens that came from there */
} wq_user;

typedef struct wq_users {
    void *tree;   /* tsearch */
    uint64_t now; /* the greatest rank that has been taken: the time by which turns are counted */
} wq_users;

/* Who goes by this name (a token, a server, a peer); NULL if he has no job. */
wq_user *wq_users_find(wq_users *users, const char *name);

/* Counts a job in that has no user yet; with `peer`, from which it came. 0, or -1 without memory.
 */
int wq_users_add(wq_users *users, wq_member *member, const char *name, wq_user *peer);

/* Counts a job out that has ended; nothing if it was never in. */
void wq_users_remove(wq_member *member);

/* The rank by which the next job of `user` (NULL: one who has none), which comes from `peer` (NULL:
 * nobody knows), comes in its turn. */
uint64_t wq_users_rank(const wq_users *users, const wq_user *user, const wq_user *peer);

/* A job of this rank has been taken: time goes on. */
void wq_users_taken(wq_users *users, uint64_t rank);

#endif

/* fairness.c - who has how many jobs, and whose turn it is.
 *
 * Turns are start-time fair queueing with every job counted alike. Time is the greatest rank taken
 * so far; a job's rank is one more than time and than its user's latest job, so a user's n-th job
 * waits for the n-th round, and of a round the earlier comers are first. A newcomer joins the round
 * that is next, behind those who wait in it already: neither can a thousand jobs of one user keep
 * him waiting, nor can newcomers without end keep those of the one waiting. As ranks are given once
 * and never change, the tree that counts positions needs to know nothing of this.
 *
 * An API token costs nothing to make up. So those that come from one peer share a turn between
 * them: of n tokens, a job of each waits for n - 1 rounds more, not for one. However many a peer
 * makes up, each with a job, one of them comes in a round; and two people behind one address lose
 * nothing.
 */
#define OPENSSL_API_COMPAT 0x10100000L /* as in params.c */
#include "workqueue/core/fairness.h"

#include <openssl/sha.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>

static int compare_users(const void *a, const void *b)
{
    return memcmp(a, b, WQ_USER_SIZE);
}

/* By hash, so that neither the table nor the time it takes tells anything of a token. */
static void hash_user(unsigned char out[WQ_USER_SIZE], const char *name)
{
    SHA256_CTX sha;
    SHA256_Init(&sha);
    SHA256_Update(&sha, name, strlen(name));
    SHA256_Final(out, &sha);
}

static wq_user *find_user(wq_users *users, const unsigned char *by)
{
    wq_user **found = tfind(by, &users->tree, compare_users);
    return found ? *found : NULL;
}

wq_user *wq_users_find(wq_users *users, const char *name)
{
    unsigned char by[WQ_USER_SIZE];
    hash_user(by, name);
    return find_user(users, by);
}

static wq_user *new_user(wq_users *users, const unsigned char *by)
{
    wq_user *user = calloc(1, sizeof *user);
    if (user == NULL)
        return NULL;
    memcpy(user->hash, by, WQ_USER_SIZE);
    TAILQ_INIT(&user->jobs);
    user->table = users;
    if (tsearch(user, &users->tree, compare_users) != NULL)
        return user;
    free(user);
    return NULL;
}

int wq_users_add(wq_users *users, wq_member *member, const char *name, wq_user *peer)
{
    unsigned char by[WQ_USER_SIZE];
    hash_user(by, name);
    wq_user *user = find_user(users, by);
    if (user == NULL) {
        if ((user = new_user(users, by)) == NULL)
            return -1;
        if ((user->peer = peer) != NULL)
            peer->n_sharers++;
    }
    member->user = user;
    TAILQ_INSERT_TAIL(&user->jobs, member, link);
    user->n_jobs++;
    return 0;
}

/* A peer's tokens may have jobs yet that came from elsewhere. */
static void drop_user(wq_user *user)
{
    if (user->n_jobs > 0 || user->n_sharers > 0)
        return;
    tdelete(user, &user->table->tree, compare_users);
    free(user);
}

void wq_users_remove(wq_member *member)
{
    wq_user *user = member->user, *peer;
    if (user == NULL)
        return;
    member->user = NULL;
    TAILQ_REMOVE(&user->jobs, member, link);
    if (--user->n_jobs == 0 && (peer = user->peer) != NULL) {
        peer->n_sharers--;
        drop_user(peer);
    }
    drop_user(user);
}

/* How many rounds a job of this user waits for. */
static uint64_t rounds_of(const wq_user *user, const wq_user *peer)
{
    const wq_user *from = user != NULL ? user->peer : peer;
    const size_t n = from == NULL ? 1 : from->n_sharers + (user == NULL);
    return n > 2 ? n - 1 : 1;
}

uint64_t wq_users_rank(const wq_users *users, const wq_user *user, const wq_user *peer)
{
    /* one that has been taken keeps its rank, and time is at least that; one that was cancelled is
     * in the list no more, so nobody waits for turns that he has given up */
    const uint64_t latest = user ? TAILQ_LAST(&user->jobs, wq_member_list)->rank : 0;
    return (latest > users->now ? latest : users->now) + rounds_of(user, peer);
}

void wq_users_taken(wq_users *users, uint64_t rank)
{
    if (rank > users->now)
        users->now = rank;
}

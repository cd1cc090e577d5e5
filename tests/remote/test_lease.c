/* test_lease.c - who runs a key, in a shared folder: the contract that every store has to keep. */
#include <pthread.h>
#include <setjmp.h>
#include <stdatomic.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include <workqueue/remote.h>
#include "workqueue/remote/lease.h"
#include "workqueue/util/clocks.h"
#include "workqueue/util/folders.h"

#define KEY "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

enum { CLAIMERS = 24, ROUNDS = 100, RENEW_MS = 50, TAKEOVER_MS = 300 };

static const wq_params params = {"http://o.example", "1", "tok3nofthetest"};

typedef struct fixture {
    char path[64];
    wq_store *store;
    wq_store table; /* the store, with answers that get lost */
    wq_shared shared;
} fixture;

static wq_store *broken_of; /* for the functions below, which have one store at a time */
static atomic_int lose_answers, is_away;

static int losing_put(void *self, const char *name, const char *tag, const char *text,
                      const char *more, char new_tag[WQ_TAG_SIZE], wq_error *error)
{
    if (is_away)
        return WQ_ERROR_AWAY;
    int result = broken_of->shared->put(self, name, tag, text, more, new_tag, error);
    if (result != WQ_OK || lose_answers == 0)
        return result;
    /* done, but who asked hears 500, or is told that its own second try came too late */
    return atomic_fetch_sub(&lose_answers, 1) % 2 ? WQ_ERROR_LOCKED : WQ_ERROR_AWAY;
}

static int set_up(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    snprintf(f->path, sizeof f->path, "/tmp/wq-test-lease-XXXXXX");
    assert_non_null(mkdtemp(f->path));
    assert_int_equal(wq_shared_folder_open(&f->store, f->path, NULL), WQ_OK);
    f->table = *f->store;
    f->shared = *f->store->shared;
    f->shared.put = losing_put;
    f->table.shared = &f->shared;
    broken_of = f->store;
    lose_answers = is_away = 0;
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    fixture *f = *state;
    f->store->close(f->store);
    wq_remove_tree(f->path);
    free(f);
    return 0;
}

static wq_leases *open_leases(const wq_store *store, const char *owner, unsigned max_attempts,
                              int strict)
{
    wq_leases *leases;
    const wq_leases_options o = {.store = store,
                                 .owner = owner,
                                 .renew_ms = RENEW_MS,
                                 .takeover_ms = TAKEOVER_MS,
                                 .max_attempts = max_attempts,
                                 .strict = strict};
    assert_int_equal(wq_leases_open(&leases, &o, NULL), WQ_OK);
    return leases;
}

/* One look of one who asks. */
typedef struct asked {
    wq_claim claim;
    wq_lease *lease;
    wq_record record;
    char *why;
    wq_error error;
} asked;

static wq_claimed ask(wq_leases *leases, asked *a, const char *id, int rebuild)
{
    free(a->why);
    a->claim.key = KEY;
    a->claim.id = id;
    a->claim.params = &params;
    a->claim.rebuild = rebuild;
    return wq_lease_take(leases, &a->claim, &a->lease, &a->record, &a->why, &a->error);
}

/* ---- one owner ------------------------------------------------------------------------------- */

typedef struct claimer {
    pthread_t thread;
    wq_leases *leases;
    pthread_barrier_t *start;
    int won;
    uint64_t epoch;
} claimer;

static void *claim_at_once(void *arg)
{
    claimer *c = arg;
    asked a = {0};
    pthread_barrier_wait(c->start);
    c->won = ask(c->leases, &a, "id", 1) == WQ_CLAIMED;
    c->epoch = a.record.epoch;
    if (c->won)
        assert_int_equal(wq_lease_release(a.lease, WQ_FREE, 0, 0, NULL, &a.error), WQ_OK);
    free(a.why);
    return NULL;
}

/* Those who come while the first has it do not get it, and those who come after get a later epoch:
 * no epoch has two owners. */
static void test_of_many_who_claim_at_once_each_epoch_has_one_owner(void **state)
{
    fixture *f = *state;
    claimer claimers[CLAIMERS];
    char names[CLAIMERS][16];
    pthread_barrier_t start;
    uint64_t last = 0;
    for (int i = 0; i < CLAIMERS; i++) {
        snprintf(names[i], sizeof names[i], "p%d", i);
        claimers[i] = (claimer){.leases = open_leases(f->store, names[i], 0, 0), .start = &start};
    }
    for (int round = 0; round < ROUNDS; round++) {
        pthread_barrier_init(&start, NULL, CLAIMERS);
        for (int i = 0; i < CLAIMERS; i++)
            pthread_create(&claimers[i].thread, NULL, claim_at_once, &claimers[i]);
        int n = 0;
        uint64_t highest = last;
        for (int i = 0; i < CLAIMERS; i++) {
            pthread_join(claimers[i].thread, NULL);
            if (!claimers[i].won)
                continue;
            n++;
            assert_true(claimers[i].epoch > last);
            for (int j = 0; j < i; j++)
                assert_false(claimers[j].won && claimers[j].epoch == claimers[i].epoch);
            if (claimers[i].epoch > highest)
                highest = claimers[i].epoch;
        }
        assert_true(n >= 1);
        assert_int_equal(highest - last, n);
        last = highest;
        pthread_barrier_destroy(&start);
    }
    for (int i = 0; i < CLAIMERS; i++)
        wq_leases_close(claimers[i].leases);
}

static void test_an_owner_that_renews_keeps_it(void **state)
{
    fixture *f = *state;
    wq_leases *one = open_leases(f->store, "one", 0, 0), *two = open_leases(f->store, "two", 0, 0);
    asked a = {0}, b = {0};
    assert_int_equal(ask(one, &a, "1", 0), WQ_CLAIMED);
    assert_int_equal(a.record.epoch, 1);
    int64_t until = wq_monotonic_ms() + 4 * TAKEOVER_MS;
    while (wq_monotonic_ms() < until) {
        assert_int_equal(ask(two, &b, "2", 0), WQ_CLAIM_ELSEWHERE);
        assert_string_equal(b.record.owner, "one");
        usleep(20000);
    }
    assert_false(wq_lease_is_lost(a.lease));
    assert_int_equal(wq_lease_release(a.lease, WQ_FAILED, 7, 0, "because", &a.error), WQ_OK);
    /* who asked while it ran has that end for an answer; who comes now does not */
    assert_int_equal(ask(two, &b, "2", 0), WQ_CLAIM_ANSWERED);
    assert_int_equal(b.record.returncode, 7);
    assert_string_equal(b.why, "because");
    asked again = {0}, fresh = {0};
    assert_int_equal(ask(two, &again, "1", 0), WQ_CLAIM_ANSWERED); /* H: it has come twice */
    assert_int_equal(ask(two, &fresh, "3", 0), WQ_CLAIMED);
    assert_int_equal(fresh.record.epoch, 2);
    wq_lease_drop(fresh.lease);
    free(b.why);
    free(again.why);
    wq_leases_close(one);
    wq_leases_close(two);
}

/* As after SIGSTOP: the owner does nothing for longer than others wait. */
static void test_a_frozen_owner_is_taken_over_and_finds_out(void **state)
{
    fixture *f = *state;
    wq_leases *one = open_leases(&f->table, "one", 0, 0), *two = open_leases(f->store, "two", 0, 0);
    asked a = {0}, b = {0};
    assert_int_equal(ask(one, &a, "1", 0), WQ_CLAIMED);
    is_away = 1;
    int64_t begun = wq_monotonic_ms();
    wq_claimed claimed;
    while ((claimed = ask(two, &b, "2", 0)) == WQ_CLAIM_ELSEWHERE)
        usleep(10000);
    assert_int_equal(claimed, WQ_CLAIMED);
    assert_true(wq_monotonic_ms() - begun >= TAKEOVER_MS);
    assert_int_equal(b.record.epoch, 2);
    assert_int_equal(b.record.attempts, 2);
    is_away = 0;
    for (int i = 0; i < 500 && !wq_lease_is_lost(a.lease); i++)
        usleep(10000);
    assert_true(wq_lease_is_lost(a.lease));
    assert_int_equal(wq_lease_release(a.lease, WQ_DONE_WELL, 0, 1, NULL, &a.error),
                     WQ_ERROR_LOCKED);
    assert_int_equal(wq_lease_release(b.lease, WQ_FREE, 0, 0, NULL, &b.error), WQ_OK);
    wq_leases_close(one);
    wq_leases_close(two);
}

static void test_a_strict_owner_gives_up_before_others_may_take_it(void **state)
{
    fixture *f = *state;
    wq_leases *one = open_leases(&f->table, "one", 0, 1), *two = open_leases(f->store, "two", 0, 0);
    asked a = {0}, b = {0};
    assert_int_equal(ask(one, &a, "1", 0), WQ_CLAIMED);
    is_away = 1;
    while (ask(two, &b, "2", 0) == WQ_CLAIM_ELSEWHERE)
        usleep(1000);
    assert_true(wq_lease_is_lost(a.lease));
    wq_lease_drop(a.lease);
    wq_lease_drop(b.lease);
    wq_leases_close(one);
    wq_leases_close(two);
}

/* The store was away for all: its owner gets its chance before it is taken over. */
static void test_time_without_a_look_counts_by_half(void **state)
{
    fixture *f = *state;
    wq_leases *one = open_leases(&f->table, "one", 0, 0), *two = open_leases(f->store, "two", 0, 0);
    asked a = {0}, b = {0};
    assert_int_equal(ask(one, &a, "1", 0), WQ_CLAIMED);
    is_away = 1;
    usleep(2 * RENEW_MS * 1000); /* no renewal is under way any more */
    assert_int_equal(ask(two, &b, "2", 0), WQ_CLAIM_ELSEWHERE);
    usleep(3 * TAKEOVER_MS * 1000);
    assert_int_equal(ask(two, &b, "2", 0), WQ_CLAIM_ELSEWHERE);
    is_away = 0;
    usleep(TAKEOVER_MS * 1000);
    assert_int_equal(ask(two, &b, "2", 0), WQ_CLAIM_ELSEWHERE);
    assert_false(wq_lease_is_lost(a.lease));
    wq_lease_drop(a.lease);
    wq_leases_close(one);
    wq_leases_close(two);
}

/* I: each of its packagers ends at it. */
static void test_i_a_job_that_ends_its_packagers_fails_at_last(void **state)
{
    fixture *f = *state;
    asked last = {0};
    for (unsigned i = 1; i <= 3; i++) {
        asked a = {0};
        char name[16];
        snprintf(name, sizeof name, "p%u", i);
        wq_leases *leases = open_leases(f->store, name, 3, 0);
        while (ask(leases, &a, "1", 0) == WQ_CLAIM_ELSEWHERE)
            usleep(10000);
        assert_non_null(a.lease);
        assert_int_equal(wq_lease_attempts(a.lease), i);
        wq_lease_drop(a.lease); /* the record stays as it is, as if we were killed */
        wq_leases_close(leases);
    }
    wq_leases *leases = open_leases(f->store, "last", 3, 0);
    while (ask(leases, &last, "1", 0) == WQ_CLAIM_ELSEWHERE)
        usleep(10000);
    assert_int_equal(last.record.state, WQ_FAILED);
    assert_int_equal(last.record.returncode, WQ_RETURNCODE_OURS);
    assert_string_equal(last.why, "given up: 3 packagers have ended while they ran it");
    free(last.why);
    wq_leases_close(leases);
}

/* A PUT is done, and its answer lost, or it is asked again and refused: the nonce tells. */
static void test_answers_that_get_lost_change_nothing(void **state)
{
    fixture *f = *state;
    wq_leases *leases = open_leases(&f->table, "one", 0, 0);
    for (uint64_t epoch = 1; epoch <= 10; epoch++) {
        asked a = {0};
        lose_answers = 6; /* the claim's, some renewals', perhaps the release's */
        assert_int_equal(ask(leases, &a, "1", 1), WQ_CLAIMED);
        assert_int_equal(a.record.epoch, epoch);
        usleep(3 * RENEW_MS * 1000);
        assert_false(wq_lease_is_lost(a.lease));
        assert_int_equal(wq_lease_release(a.lease, WQ_FREE, 0, 0, NULL, &a.error), WQ_OK);
    }
    wq_leases_close(leases);
}

static void test_a_rebuild_is_answered_by_a_run_that_began_after_it(void **state)
{
    fixture *f = *state;
    wq_leases *one = open_leases(f->store, "one", 0, 0), *two = open_leases(f->store, "two", 0, 0);
    asked a = {0}, b = {0};
    assert_int_equal(ask(one, &a, "1", 1), WQ_CLAIMED);
    assert_int_equal(ask(two, &b, "2", 1), WQ_CLAIM_ELSEWHERE);
    assert_int_equal(wq_lease_release(a.lease, WQ_FAILED, 1, 0, "x", &a.error), WQ_OK);
    assert_int_equal(ask(two, &b, "2", 1), WQ_CLAIMED); /* that run had begun before */
    wq_lease_drop(b.lease);
    wq_leases_close(one);
    wq_leases_close(two);
}

/* ---- outputs --------------------------------------------------------------------------------- */

static void publish_text(wq_store *store, const char *text)
{
    wq_publish item = {.key = KEY, .params = &params, .replace = 1};
    char *temp;
    assert_int_equal(store->begin(store->self, KEY, &temp, NULL), WQ_OK);
    FILE *file = fopen(temp, "w");
    fputs(text, file);
    fclose(file);
    item.temp_path = temp;
    store->publish(store->self, &item, 1);
    assert_int_equal(item.result, WQ_OK);
    free(temp);
}

static void assert_output(const fixture *f, const char *expected)
{
    char path[200], text[64] = "";
    snprintf(path, sizeof path, "%s/%s", f->path, KEY);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    assert_non_null(fgets(text, sizeof text, file));
    fclose(file);
    assert_string_equal(text, expected);
}

/* D: v2 was frozen while others made v3; it comes too late. */
static void test_d_an_older_epoch_replaces_nothing(void **state)
{
    fixture *f = *state;
    wq_store *other;
    assert_int_equal(wq_shared_folder_open(&other, f->path, NULL), WQ_OK);
    f->store->shared->fence(f->store->self, KEY, 2, "");
    other->shared->fence(other->self, KEY, 3, "");
    publish_text(other, "v3");
    publish_text(f->store, "v2");
    assert_output(f, "v3");
    other->shared->fence(other->self, KEY, 4, "");
    publish_text(other, "v4");
    assert_output(f, "v4");
    other->close(other);
}

static void test_g_a_cancel_is_a_mark_in_the_store(void **state)
{
    fixture *f = *state;
    assert_false(wq_cancel_is_marked(f->store, "a/b c"));
    assert_int_equal(wq_cancel_mark(f->store, "a/b c", NULL), WQ_OK);
    assert_true(wq_cancel_is_marked(f->store, "a/b c"));
    assert_false(wq_cancel_is_marked(f->store, "a/b d"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(test_of_many_who_claim_at_once_each_epoch_has_one_owner),
        TEST(test_an_owner_that_renews_keeps_it),
        TEST(test_a_frozen_owner_is_taken_over_and_finds_out),
        TEST(test_a_strict_owner_gives_up_before_others_may_take_it),
        TEST(test_time_without_a_look_counts_by_half),
        TEST(test_i_a_job_that_ends_its_packagers_fails_at_last),
        TEST(test_answers_that_get_lost_change_nothing),
        TEST(test_a_rebuild_is_answered_by_a_run_that_began_after_it),
        TEST(test_d_an_older_epoch_replaces_nothing),
        TEST(test_g_a_cancel_is_a_mark_in_the_store),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

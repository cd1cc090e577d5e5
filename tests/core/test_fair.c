/* test_fair.c - turns between users, and how many jobs one may have: the queue without threads,
 * against a model that is a plain array. */

#include "tests/support.h"
#include "workqueue/core/admit.h"
#include "workqueue/core/wishes.h"
#include "workqueue/core/life.h"

enum { WORKERS = 3, USERS = 7, MANY = 1000, STEPS = 30000, MODEL_MAX = 300 };

static void free_queue(wq_queue *queue)
{
    wq_life_dispose(queue);
    free(queue);
}

static wq_queue *new_queue(int fair, size_t max_per_user)
{
    wq_options options;
    wq_queue *queue = calloc(1, sizeof *queue);
    assert_non_null(queue);
    assert_int_equal(wq_owner_init(queue, free_queue), 0);
    wq_options_init(&options, sizeof options);
    options.workers = WORKERS;
    options.max_queue = 100000;
    options.max_ended = 10;
    options.fair = fair;
    options.max_per_user = max_per_user;
    assert_int_equal(wq_life_init(queue, &options), 0);
    return queue;
}

/* Asks for a new job, which stands behind one of the same user and set. The caller's reference. */
static int try_admit_from(wq_queue *queue, const char *peer, unsigned user, unsigned set,
                          wq_job **out)
{
    char token[32], document_set_id[32], key[WQ_KEY_SIZE];
    snprintf(token, sizeof token, "user-%u", user);
    snprintf(document_set_id, sizeof document_set_id, "%u", set);
    wq_params params = {"http://server", document_set_id, token};
    assert_int_equal(wq_params_key(&params, key), WQ_OK);
    wq_job *job = wq_job_new(queue, &params, key);
    assert_non_null(job);
    snprintf(job->peer, sizeof job->peer, "%s", peer);
    wq_effects effects;
    wq_effects_init(&effects);
    pthread_mutex_lock(&queue->lock);
    int result = wq_life_admit_locked(queue, job, NULL, &effects, NULL);
    pthread_mutex_unlock(&queue->lock);
    wq_effects_carry_out(queue, &effects);
    if (result == WQ_OK)
        *out = job;
    else
        wq_job_unref(job);
    return result;
}

static int try_admit(wq_queue *queue, unsigned user, unsigned set, wq_job **out)
{
    return try_admit_from(queue, "", user, set, out);
}

static wq_job *admit(wq_queue *queue, unsigned user, unsigned set)
{
    wq_job *job = NULL;
    assert_int_equal(try_admit(queue, user, set, &job), WQ_OK);
    return job;
}

static void end(wq_queue *queue, wq_job *job)
{
    wq_life_end(queue, job, WQ_STATE_FAILED, 1, "ended");
}

/* The next job, borrowed; NULL if there is none. */
static wq_job *take_job(wq_queue *queue)
{
    static wq_run_state runs[2 * MANY];
    wq_run_state *run = runs;
    while (run->job != NULL)
        run++;
    wq_job *job = wq_life_take(queue, run, 0);
    wq_job_unref(job);
    return job;
}

static void publish(wq_queue *queue, wq_job *job)
{
    assert_true(wq_life_begin(queue, job->run, 0));
    assert_true(wq_life_hand(queue, job));
}

/* Runs whatever waits, and frees the queue, which must have forgotten everybody. */
static void drain(wq_queue *queue)
{
    wq_job *job;
    while ((job = take_job(queue)) != NULL)
        end(queue, job);
    assert_null(TAILQ_FIRST(&queue->by_age));
    assert_null(queue->users.tree);
    assert_null(queue->servers.tree);
    assert_null(queue->peers.tree);
    wq_life_forget_all(queue);
    wq_owner_unref(queue);
}

/* ---- against a model ------------------------------------------------------------------------- */

typedef struct entry {
    wq_job *job;
    unsigned user;
    uint64_t turn, came;
    int runs;
    size_t follows; /* came of the one it waits for, plus one; 0: none */
} entry;

typedef struct model {
    wq_queue *queue;
    entry entries[MODEL_MAX];
    size_t n, n_running;
    uint64_t now, came, random;
    int fair;
} model;

static uint64_t draw(model *m, uint64_t below)
{
    m->random = m->random * 6364136223846793005U + 1442695040888963407U;
    return (m->random >> 33) % below;
}

/* The turn after the latest of this user's, or after the present one. */
static uint64_t turn_of(const model *m, unsigned user)
{
    uint64_t turn = m->now;
    for (size_t i = 0; i < m->n; i++)
        if (m->entries[i].user == user && m->entries[i].turn > turn)
            turn = m->entries[i].turn;
    return turn + 1;
}

static int is_before(const entry *a, const entry *b)
{
    return a->turn != b->turn ? a->turn < b->turn : a->came < b->came;
}

static void check(const model *m)
{
    for (size_t i = 0; i < m->n; i++) {
        uint64_t n = m->n_running;
        for (size_t k = 0; k < m->n; k++)
            n += !m->entries[k].runs && is_before(&m->entries[k], &m->entries[i]);
        assert_int_equal(ahead_of(m->entries[i].job), m->entries[i].runs ? 0 : n);
    }
}

static void come(model *m)
{
    /* some users have more than others */
    unsigned user = (unsigned)draw(m, 1 + draw(m, USERS));
    entry *e = &m->entries[m->n], *before = NULL;
    for (size_t i = 0; i < m->n && before == NULL; i++)
        if (m->entries[i].runs && m->entries[i].job->behind == NULL && draw(m, 4) == 0)
            before = &m->entries[i];
    *e = (entry){.user = before ? before->user : user, .came = m->came++};
    e->turn = m->fair ? turn_of(m, e->user) : 0;
    if (before != NULL) {
        unsigned set = (unsigned)strtoul(wq_job_params(before->job)->document_set_id, NULL, 10);
        e->follows = before->came + 1;
        e->job = admit(m->queue, e->user, set);
    } else {
        e->job = admit(m->queue, e->user, (unsigned)m->came + MANY);
    }
    m->n++;
}

static void forget(model *m, size_t at)
{
    uint64_t came = m->entries[at].came;
    wq_job_unref(m->entries[at].job);
    m->entries[at] = m->entries[--m->n];
    for (size_t i = 0; i < m->n; i++)
        if (m->entries[i].follows == came + 1)
            m->entries[i].follows = 0;
}

static void take(model *m)
{
    entry *first = NULL;
    for (size_t i = 0; i < m->n; i++) {
        entry *e = &m->entries[i];
        if (!e->runs && !e->follows && (first == NULL || is_before(e, first)))
            first = e;
    }
    wq_job *job = take_job(m->queue);
    assert_ptr_equal(job, first ? first->job : NULL);
    if (first == NULL)
        return;
    first->runs = 1;
    m->n_running++;
    if (first->turn > m->now)
        m->now = first->turn;
}

static void leave(model *m, int runs)
{
    size_t at = draw(m, m->n), tried = 0;
    while (tried++ < m->n && m->entries[at].runs != runs)
        at = (at + 1) % m->n;
    if (m->entries[at].runs != runs)
        return;
    if (runs) {
        end(m->queue, m->entries[at].job);
        m->n_running--;
    } else {
        assert_int_equal(wq_life_cancel(m->queue, m->entries[at].job), WQ_OK);
    }
    forget(m, at);
}

static void run_model(int fair, uint64_t seed)
{
    model *m = calloc(1, sizeof *m);
    assert_non_null(m);
    m->queue = new_queue(fair, 0);
    m->fair = fair;
    m->random = seed;
    for (int step = 0; step < STEPS; step++) {
        uint64_t likely = step / 500 % 2 ? 20 : 50, what = draw(m, 100);
        if (m->n == 0 || (what < likely && m->n < MODEL_MAX))
            come(m);
        else if (what < 90 && m->n_running < WORKERS)
            take(m);
        else
            leave(m, what % 4 != 0);
        if (step % 16 == 0)
            check(m);
    }
    while (m->n > 0) {
        take(m);
        leave(m, 1);
        check(m);
    }
    drain(m->queue);
    free(m);
}

static void test_positions_are_exact(void **state)
{
    (void)state;
    run_model(1, 12345);
    run_model(1, 88172645463325252U);
    run_model(0, 4711);
}

/* ---- what fairness is for -------------------------------------------------------------------- */

static void add_many(wq_queue *queue, unsigned user, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        wq_job_unref(admit(queue, user, i));
}

static wq_job *take_next(wq_queue *queue)
{
    wq_job *job = take_job(queue);
    assert_non_null(job);
    return job;
}

static void test_a_single_job_does_not_wait_for_a_thousand(void **state)
{
    (void)state;
    wq_queue *queue = new_queue(1, 0);
    add_many(queue, 1, MANY);
    for (int i = 0; i < 10; i++)
        end(queue, take_next(queue));
    wq_job *job = admit(queue, 2, 0), *later = admit(queue, 3, 0);
    assert_in_range(ahead_of(job), 0, 1);
    assert_int_equal(ahead_of(later), ahead_of(job) + 1);
    end(queue, take_next(queue));
    assert_int_equal(ahead_of(job), 0);
    assert_ptr_equal(take_next(queue), job);
    end(queue, job);
    wq_job_unref(job);
    wq_job_unref(later);
    drain(queue);
}

static void test_first_come_first_served_without_it(void **state)
{
    (void)state;
    wq_queue *queue = new_queue(0, 0);
    add_many(queue, 1, MANY);
    wq_job *job = admit(queue, 2, 0);
    assert_int_equal(ahead_of(job), MANY);
    wq_job_unref(job);
    drain(queue);
}

/* Everybody asks for all of his jobs at once, one after the other: they go round. */
static void test_users_take_turns(void **state)
{
    (void)state;
    wq_queue *queue = new_queue(1, 0);
    for (unsigned user = 0; user < USERS; user++)
        add_many(queue, user, 20);
    for (unsigned i = 0; i < 20 * USERS; i++) {
        wq_job *job = take_next(queue);
        char token[32];
        snprintf(token, sizeof token, "user-%u", i % USERS);
        assert_string_equal(wq_job_params(job)->api_token, token);
        end(queue, job);
    }
    drain(queue);
}

/* Nor do newcomers without end, each with a single job, starve one who has many. */
static void test_newcomers_do_not_starve_who_has_many(void **state)
{
    (void)state;
    wq_queue *queue = new_queue(1, 0);
    unsigned mine = 0, rounds = 300;
    add_many(queue, 0, MANY);
    for (unsigned i = 0; i < 2 * rounds; i++) {
        if (i % 2 == 0)
            wq_job_unref(admit(queue, 1 + i, 0));
        wq_job *job = take_next(queue);
        mine += strcmp(wq_job_params(job)->api_token, "user-0") == 0;
        end(queue, job);
    }
    assert_in_range(mine, rounds - 2, rounds + 2);
    drain(queue);
}

/* Who cancels what he asked for last does not wait for those turns. */
static void test_cancelled_turns_are_given_back(void **state)
{
    (void)state;
    wq_queue *queue = new_queue(1, 0);
    wq_job *jobs[50];
    for (unsigned i = 0; i < 50; i++)
        jobs[i] = admit(queue, 1, i);
    add_many(queue, 2, 50);
    for (unsigned i = 49; i > 0; i--)
        assert_int_equal(wq_life_cancel(queue, jobs[i]), WQ_OK);
    wq_job *next = admit(queue, 1, MANY);
    assert_int_equal(ahead_of(next), 3); /* one of his own, two of the other's */
    wq_job_unref(next);
    for (unsigned i = 0; i < 50; i++)
        wq_job_unref(jobs[i]);
    drain(queue);
}

/* ---- how many one may have ------------------------------------------------------------------- */

static void test_no_more_than_so_many_each(void **state)
{
    (void)state;
    for (int fair = 0; fair < 2; fair++) {
        wq_queue *queue = new_queue(fair, 3);
        wq_job *jobs[3], *job;
        for (unsigned i = 0; i < 3; i++)
            jobs[i] = admit(queue, 1, i);
        assert_int_equal(try_admit(queue, 1, 9, &job), WQ_ERROR_USER_FULL);
        job = admit(queue, 2, 9); /* another user */
        wq_job_unref(job);
        assert_ptr_equal(take_next(queue), jobs[0]); /* one that runs counts */
        assert_int_equal(try_admit(queue, 1, 9, &job), WQ_ERROR_USER_FULL);
        assert_int_equal(try_admit(queue, 1, 0, &job), WQ_ERROR_USER_FULL);
        publish(queue, jobs[0]); /* and one that is not quite there */
        assert_int_equal(try_admit(queue, 1, 9, &job), WQ_ERROR_USER_FULL);
        end(queue, jobs[0]);
        job = admit(queue, 1, 9);
        wq_job_unref(job);
        assert_int_equal(wq_life_cancel(queue, jobs[1]), WQ_OK);
        job = admit(queue, 1, 10);
        wq_job_unref(job);
        assert_int_equal(try_admit(queue, 1, 11, &job), WQ_ERROR_USER_FULL);
        for (unsigned i = 0; i < 3; i++)
            wq_job_unref(jobs[i]);
        drain(queue);
    }
}

/* All jobs here are of one server, whoever asks. */
static void test_no_more_than_so_many_of_a_server(void **state)
{
    (void)state;
    const wq_params nobody = {"http://server", "x", "user-9"}, elsewhere = {"x", "x", "user-9"};
    for (int fair = 0; fair < 2; fair++) {
        wq_queue *queue = new_queue(fair, 2);
        queue->max_per_server = 3;
        wq_job *jobs[3], *job;
        for (unsigned i = 0; i < 3; i++)
            jobs[i] = admit(queue, i, i);
        assert_int_equal(try_admit(queue, 8, 8, &job), WQ_ERROR_USER_FULL);
        assert_ptr_equal(take_next(queue), jobs[0]); /* one that runs counts */
        assert_int_equal(try_admit(queue, 8, 8, &job), WQ_ERROR_USER_FULL);
        pthread_mutex_lock(&queue->lock);
        queue->counters.mean_run_ms = 60000;
        pthread_mutex_unlock(&queue->lock);
        assert_in_range(wq_user_estimate_ms(queue, &nobody), 50000, 60000);
        assert_int_equal(wq_user_estimate_ms(queue, &elsewhere), 0);
        end(queue, jobs[0]);
        assert_int_equal(wq_user_estimate_ms(queue, &nobody), 0); /* there is room */
        job = admit(queue, 1, 9);
        wq_job_unref(job);
        assert_int_equal(try_admit(queue, 8, 8, &job), WQ_ERROR_USER_FULL);
        assert_int_equal(wq_life_cancel(queue, jobs[1]), WQ_OK);
        job = admit(queue, 8, 8);
        wq_job_unref(job);
        for (unsigned i = 0; i < 3; i++)
            wq_job_unref(jobs[i]);
        drain(queue);
    }
}

static void test_when_to_try_again(void **state)
{
    (void)state;
    wq_queue *queue = new_queue(0, 2);
    const wq_params user = {"x", "x", "user-1"}, nobody = {"x", "x", "user-2"};
    assert_int_equal(wq_user_estimate_ms(queue, &user), 0);
    wq_job *a = admit(queue, 1, 0), *b = admit(queue, 1, 1);
    assert_ptr_equal(take_next(queue), a);
    assert_ptr_equal(take_next(queue), b);
    pthread_mutex_lock(&queue->lock);
    queue->counters.mean_run_ms = 60000;
    pthread_mutex_unlock(&queue->lock);
    uint64_t ms = wq_user_estimate_ms(queue, &user);
    assert_in_range(ms, 50000, 60000);
    assert_true(ms <= wq_job_estimate_ms(a) + 1000);
    publish(queue, b); /* the nearest counts */
    assert_int_equal(wq_user_estimate_ms(queue, &user), 1);
    assert_int_equal(wq_user_estimate_ms(queue, &nobody), 0);
    end(queue, a);
    end(queue, b);
    assert_int_equal(wq_user_estimate_ms(queue, &user), 0);
    wq_job_unref(a);
    wq_job_unref(b);
    drain(queue);
}

/* A crowd in which everybody has one job must cost no more than its jobs. */
static void test_users_are_forgotten(void **state)
{
    (void)state;
    wq_queue *queue = new_queue(1, 1);
    for (unsigned i = 0; i < 5000; i++) {
        wq_job *job = admit(queue, i, 0);
        if (i % 2) {
            end(queue, take_next(queue));
        } else {
            assert_int_equal(wq_life_cancel(queue, job), WQ_OK);
        }
        wq_job_unref(job);
        assert_null(queue->users.tree);
    }
    drain(queue);
}

/* ---- peers ----------------------------------------------------------------------------------- */

/* One job is asked for, and goes its way. */
static void send(wq_queue *queue, const char *peer, unsigned user, unsigned set)
{
    wq_job *job = NULL;
    assert_int_equal(try_admit_from(queue, peer, user, set, &job), WQ_OK);
    wq_job_unref(job);
}

/* Takes and ends jobs until `n` of this peer have been taken; how many others there were. */
static size_t others_until(wq_queue *queue, const char *peer, size_t n)
{
    size_t others = 0;
    while (n > 0) {
        wq_job *job = take_job(queue);
        assert_non_null(job);
        if (strcmp(job->peer, peer) == 0)
            n--;
        else
            others++;
        end(queue, job);
    }
    return others;
}

static void test_m6_made_up_tokens_share_a_turn(void **state)
{
    (void)state;
    enum { HONEST = 2 * MANY, TOKENS = 40, EACH = 20 };
    wq_queue *queue = new_queue(1, 0);
    for (unsigned i = 0; i < MANY; i++) /* one job each */
        send(queue, "192.0.2.1", i, 0);
    for (unsigned i = 0; i < 10; i++)
        send(queue, "192.0.2.2", HONEST, i);
    assert_true(others_until(queue, "192.0.2.2", 1) <= 2);
    assert_true(others_until(queue, "192.0.2.2", 9) <= 10);
    drain(queue);

    queue = new_queue(1, 0);
    for (unsigned i = 0; i < TOKENS; i++)
        for (unsigned k = 0; k < EACH; k++)
            send(queue, "192.0.2.1", i, k);
    send(queue, "192.0.2.2", HONEST, 0);
    assert_true(others_until(queue, "192.0.2.2", 1) <= 6); /* it would be 40 */
    drain(queue);
}

/* Without end: each that is taken is followed by another one with a new token. */
static void test_m6_made_up_tokens_without_end(void **state)
{
    (void)state;
    wq_queue *queue = new_queue(1, 0);
    unsigned token = 0;
    for (; token < 100; token++)
        send(queue, "192.0.2.1", token, 0);
    for (unsigned round = 0; round < 50; round++) {
        send(queue, "192.0.2.2", 5 * MANY, round);
        size_t others = others_until(queue, "192.0.2.2", 1);
        assert_true(others <= 3);
        while (others-- > 0)
            send(queue, "192.0.2.1", token++, 0);
    }
    drain(queue);
}

/* A few people behind one address are still served in turns. */
static void test_m6_people_of_one_address(void **state)
{
    (void)state;
    wq_queue *queue = new_queue(1, 0);
    wq_job *jobs[4];
    for (unsigned i = 0; i < 100; i++)
        send(queue, "192.0.2.1", 1, i);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(try_admit_from(queue, "192.0.2.1", 2 + i, 0, &jobs[i]), WQ_OK);
    assert_int_equal(ahead_of(jobs[0]), 1); /* as with no peer */
    for (unsigned i = 0; i < 4; i++)
        assert_true(ahead_of(jobs[i]) <= 2 * USERS);
    for (unsigned i = 0; i < 4; i++)
        wq_job_unref(jobs[i]);
    drain(queue);
}

static void test_m6_no_more_than_so_many_of_a_peer(void **state)
{
    (void)state;
    wq_job *job;
    wq_queue *queue = new_queue(0, 0);
    queue->max_per_peer = 3;
    queue->counts_local = 0;
    for (unsigned i = 0; i < 3; i++)
        send(queue, "192.0.2.1", i, 0);
    assert_int_equal(try_admit_from(queue, "192.0.2.1", 3, 0, &job), WQ_ERROR_USER_FULL);
    send(queue, "192.0.2.2", 3, 0);
    for (unsigned i = 0; i < 5; i++)
        send(queue, "127.0.0.1", 10 + i, 0); /* a proxy's, perhaps */
    end(queue, take_job(queue));
    send(queue, "192.0.2.1", 4, 0);
    queue->counts_local = 1;
    for (unsigned i = 0; i < 3; i++)
        send(queue, "127.0.0.1", 20 + i, 0);
    assert_int_equal(try_admit_from(queue, "127.0.0.1", 23, 0, &job), WQ_ERROR_USER_FULL);
    drain(queue);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_positions_are_exact),
        cmocka_unit_test(test_a_single_job_does_not_wait_for_a_thousand),
        cmocka_unit_test(test_first_come_first_served_without_it),
        cmocka_unit_test(test_users_take_turns),
        cmocka_unit_test(test_newcomers_do_not_starve_who_has_many),
        cmocka_unit_test(test_cancelled_turns_are_given_back),
        cmocka_unit_test(test_no_more_than_so_many_each),
        cmocka_unit_test(test_no_more_than_so_many_of_a_server),
        cmocka_unit_test(test_when_to_try_again),
        cmocka_unit_test(test_users_are_forgotten),
        cmocka_unit_test(test_m6_made_up_tokens_share_a_turn),
        cmocka_unit_test(test_m6_made_up_tokens_without_end),
        cmocka_unit_test(test_m6_people_of_one_address),
        cmocka_unit_test(test_m6_no_more_than_so_many_of_a_peer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

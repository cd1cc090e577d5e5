/* test_list.c - all jobs at once: the list in pieces, news of every job, its life in the log. */
#include <pthread.h>
#include <stdatomic.h>

#include "tests/support.h"

enum { N_JOBS = 60 };

typedef struct events {
    pthread_mutex_t lock;
    char text[65536];
} events;

static void on_event(void *user, int level, const char *message)
{
    events *e = user;
    if (strncmp(message, "event=", 6) != 0)
        return;
    assert_int_equal(level, WQ_LOG_INFO);
    pthread_mutex_lock(&e->lock);
    size_t n = strlen(e->text);
    snprintf(e->text + n, sizeof e->text - n, "%s\n", message);
    pthread_mutex_unlock(&e->lock);
}

static int seen(events *e, const char *text)
{
    pthread_mutex_lock(&e->lock);
    int is = strstr(e->text, text) != NULL;
    pthread_mutex_unlock(&e->lock);
    return is;
}

static void on_news(void *user, wq_job *job)
{
    wq_snapshot now;
    wq_job_snapshot(job, &now);
    atomic_fetch_add((atomic_int *)user + now.state, 1);
    wq_snapshot_clear(&now);
}

static wq_options small_options(const char *folder, events *e)
{
    wq_options options;
    wq_options_init(&options, sizeof options);
    options.program = SHELL;
    options.storage_dir = folder;
    options.workers = 1;
    options.sync = 0;
    options.log = on_event;
    options.log_user = e;
    return options;
}

static wq_job *ask(wq_queue *queue, const char *server, const char *set)
{
    wq_params params = {server, set, "tok3nofthetest"};
    wq_job *job;
    assert_int_equal(wq_ensure_run(queue, &params, 0, &job, NULL), WQ_OK);
    return job;
}

/* Pieces of seven: each job once, in order, though some end meanwhile. */
static void test_every_job_is_listed_once(void **state)
{
    static events e = {.lock = PTHREAD_MUTEX_INITIALIZER};
    wq_job *jobs[N_JOBS], *piece[7];
    char folder[] = "/tmp/wq-test-list-XXXXXX", last[WQ_ID_SIZE] = "", set[16];
    size_t n, total = 0;
    (void)state;
    assert_non_null(mkdtemp(folder));
    wq_options options = small_options(folder, &e);
    wq_queue *queue = open_with(&options);
    for (int i = 0; i < N_JOBS; i++) {
        snprintf(set, sizeof set, "%d", i);
        jobs[i] = ask(queue, i % 2 ? "sleep 60" : "sleep 61", set);
    }
    do {
        assert_int_equal(wq_jobs(queue, NULL, *last ? last : NULL, piece, 7, &n), WQ_OK);
        for (size_t i = 0; i < n; i++) {
            assert_true(strcmp(wq_job_id(piece[i]), last) > 0);
            snprintf(last, sizeof last, "%s", wq_job_id(piece[i]));
            if (total == 20)
                wq_job_cancel(piece[i]);
            wq_job_unref(piece[i]);
            total++;
        }
    } while (n > 0);
    assert_int_equal(total, N_JOBS);
    wq_jobs_filter filter = {.states = 1u << WQ_STATE_RUNNING};
    n = 0;
    for (int i = 0; i < 3000 && n == 0; i++, usleep(10000)) /* the one that ran may be cancelled */
        assert_int_equal(wq_jobs(queue, &filter, NULL, piece, 7, &n), WQ_OK);
    assert_int_equal(n, 1);
    wq_job_unref(piece[0]);
    filter = (wq_jobs_filter){.server = "sleep 60", .document_set_id = "3"};
    assert_int_equal(wq_jobs(queue, &filter, NULL, piece, 7, &n), WQ_OK);
    assert_int_equal(n, 1);
    assert_string_equal(wq_job_params(piece[0])->document_set_id, "3");
    wq_job_unref(piece[0]);
    assert_int_equal(wq_jobs(queue, NULL, NULL, piece, 0, &n), WQ_ERROR_INVALID_ARGUMENT);
    for (int i = 0; i < N_JOBS; i++)
        wq_job_unref(jobs[i]);
    wq_close(queue);
    assert_int_equal(remove_folder(folder), 0);
}

static void test_news_of_every_job_and_its_life_in_the_log(void **state)
{
    static events e = {.lock = PTHREAD_MUTEX_INITIALIZER};
    atomic_int counts[6] = {0};
    char folder[] = "/tmp/wq-test-list-XXXXXX";
    wq_jobs_watch *watch;
    (void)state;
    assert_non_null(mkdtemp(folder));
    wq_options options = small_options(folder, &e);
    wq_queue *queue = open_with(&options);
    assert_int_equal(wq_jobs_watch_all(queue, on_news, counts, &watch), WQ_OK);
    wq_job *good = ask(queue, "echo 0.5; echo x >\"$4\"", "good");
    wq_job *bad = ask(queue, "echo the disk is on fire >&2; exit 3", "bad");
    wq_job *long_one = ask(queue, "sleep 60", "long");
    assert_int_equal(wq_job_wait(bad, 30000), WQ_OK);
    assert_int_equal(wq_job_cancel_by(long_one, "operator"), WQ_OK);
    assert_int_equal(wq_job_wait(long_one, 30000), WQ_OK);
    for (int i = 0; i < 3000 && (counts[WQ_STATE_CANCELLED] == 0 || counts[WQ_STATE_FAILED] == 0 ||
                                 counts[WQ_STATE_SUCCEEDED] == 0);
         i++)
        usleep(10000); /* the end is there before it is told */
    wq_jobs_watch_cancel(watch);
    wq_close(queue);
    assert_true(counts[WQ_STATE_SUCCEEDED] >= 1 && counts[WQ_STATE_FAILED] >= 1);
    assert_true(seen(&e, "event=accepted job="));
    assert_true(seen(&e, "event=started job="));
    assert_true(seen(&e, "set=\"good\" state=succeeded returncode=0 ms="));
    assert_true(seen(&e, " bytes=2\n"));
    assert_true(seen(&e, "set=\"bad\" state=failed returncode=3 ms="));
    assert_true(seen(&e, " last=\"the disk is on fire\"\n"));
    assert_true(seen(&e, " by=operator last="));
    assert_false(seen(&e, "tok3nofthetest"));
    wq_job_unref(good);
    wq_job_unref(bad);
    wq_job_unref(long_one);
    assert_int_equal(remove_folder(folder), 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_job_is_listed_once),
        cmocka_unit_test(test_news_of_every_job_and_its_life_in_the_log),
    };
    (void)argc;
    (void)argv;
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* test_looking.c - what people see of a queue and of a job: the last minutes, what a job waits for,
 * what its program says. */
#include <stdatomic.h>
#include <unistd.h>
#include <workqueue/workqueue.h>

#include "tests/support.h"
#include "workqueue/core/minutes.h"
#include "workqueue/core/stderr_log.h"

typedef struct place {
    char folder[FOLDER_SIZE];
    wq_options options;
    wq_queue *queue;
} place;

static int set_up(void **state)
{
    place *p = calloc(1, sizeof *p);
    assert_int_equal(make_folder(p->folder, "looking"), 0);
    wq_options_init(&p->options, sizeof p->options);
    p->options.program = SHELL;
    p->options.storage_dir = p->folder;
    p->options.workers = 1;
    p->options.sync = 0;
    *state = p;
    return 0;
}

static int tear_down(void **state)
{
    place *p = *state;
    wq_close(p->queue);
    assert_int_equal(remove_folder(p->folder), 0);
    free(p);
    return 0;
}

static wq_job *begin(place *p, const char *command, unsigned flags)
{
    wq_params params = {command, "1", TOKEN};
    wq_job *job = NULL;
    if (p->queue == NULL)
        p->queue = open_with(&p->options);
    assert_in_range(wq_ensure_run(p->queue, &params, flags, &job, NULL), WQ_OK, WQ_ATTACHED);
    return job;
}

/* ---- minutes --------------------------------------------------------------------------------- */

static void test_minutes(void **state)
{
    place *p = *state;
    wq_minute minutes[WQ_MINUTES];
    wq_job *good = begin(p, "sleep 0.1; echo x >\"$4\"", 0), *bad = begin(p, "exit 1", 0);
    assert_int_equal(wq_job_wait(good, DEADLINE_MS), WQ_OK);
    assert_int_equal(wq_job_wait(bad, DEADLINE_MS), WQ_OK);
    wq_queue_minutes(p->queue, minutes);
    wq_minute all = {0};
    for (int i = 0; i < WQ_MINUTES; i++) {
        assert_true(i == 0 || minutes[i].begin_ms == minutes[i - 1].begin_ms + 60000);
        all.succeeded += minutes[i].succeeded;
        all.failed += minutes[i].failed;
        all.started += minutes[i].started;
        all.ran += minutes[i].ran;
        if (minutes[i].run_p95_ms > all.run_p95_ms)
            all.run_p95_ms = minutes[i].run_p95_ms;
    }
    assert_int_equal(all.succeeded, 1);
    assert_int_equal(all.failed, 1);
    assert_int_equal(all.started, 2);
    assert_int_equal(all.ran, 2);
    assert_in_range(all.run_p95_ms, 80, DEADLINE_MS);
    assert_in_range(minutes[WQ_MINUTES - 1].waiting, 0, 2);
    wq_job_unref(good);
    wq_job_unref(bad);
}

static void test_minutes_pass(void **state)
{
    (void)state;
    wq_minutes *m = calloc(1, sizeof *m);
    wq_minute out[WQ_MINUTES];
    const int64_t open = 5000;
    wq_minutes_waiting(m, open, 7);
    for (int i = 1; i <= 100; i++)
        wq_minutes_ran(m, open + 10, i * 10);
    wq_minutes_ended(m, open + 59999, WQ_STATE_FAILED);
    wq_minutes_ended(m, open + 60000, WQ_STATE_SUCCEEDED);
    wq_minutes_read(m, open + 150000, 1000000, out);
    assert_int_equal(out[59].begin_ms, 1000000 - 30000);
    assert_int_equal(out[57].failed, 1);
    assert_int_equal(out[57].succeeded, 0);
    assert_int_equal(out[58].succeeded, 1);
    assert_int_equal(out[57].ran, 100);
    assert_in_range(out[57].run_p50_ms, 450, 550);
    assert_in_range(out[57].run_p95_ms, 855, 1045);
    assert_int_equal(out[56].ran, 0);
    for (int i = 57; i < WQ_MINUTES; i++)
        assert_int_equal(out[i].waiting, 7); /* they wait still */
    wq_minutes_waiting(m, open + 3600000, 0);
    wq_minutes_read(m, open + 3600000 + 59000, 1000000, out);
    assert_int_equal(out[0].succeeded, 1); /* the first minute is gone */
    assert_int_equal(out[0].failed, 0);
    wq_minutes_read(m, open + (int64_t)1000 * 3600000, 1000000, out);
    for (int i = 0; i < WQ_MINUTES; i++)
        assert_int_equal(out[i].succeeded + out[i].failed + out[i].waiting, 0);
    free(m);
}

/* ---- a job ----------------------------------------------------------------------------------- */

static void test_what_a_job_waits_for(void **state)
{
    place *p = *state;
    wq_job *first = begin(p, "sleep 100", 0);
    EVENTUALLY(state_of(first) == WQ_STATE_RUNNING);
    wq_job *rebuild = begin(p, "sleep 100", WQ_ENSURE_REBUILD), *other = begin(p, "sleep 99", 0);
    assert_int_equal(look(first).waits_for, WQ_WAITS_FOR_NOTHING);
    assert_int_equal(look(first).attempt, 1);
    assert_int_equal(look(rebuild).waits_for, WQ_WAITS_FOR_JOB);
    assert_int_equal(look(other).waits_for, WQ_WAITS_FOR_WORKER);
    assert_int_equal(wq_job_cancel(first), WQ_OK);
    EVENTUALLY(look(rebuild).waits_for != WQ_WAITS_FOR_JOB);
    wq_job_unref(first);
    wq_job_unref(rebuild);
    wq_job_unref(other);
}

static void test_messages(void **state)
{
    place *p = *state;
    wq_message said[WQ_MESSAGES];
    wq_job *job = begin(p,
                        "printf '0.1\\ta\\n0.2\\ta\\n0.3\\n'; for i in $(seq 1 20); do "
                        "printf \"0.5\\t$i %0500d\\n\" 0; done",
                        0);
    assert_int_equal(wq_job_messages(job, said) <= WQ_MESSAGES, 1);
    assert_int_equal(wq_job_wait(job, DEADLINE_MS), WQ_OK);
    assert_int_equal(wq_job_messages(job, said), WQ_MESSAGES);
    for (int i = 0; i < WQ_MESSAGES; i++) {
        assert_int_equal(atoi(said[i].text), 5 + i);
        assert_int_equal(strlen(said[i].text), sizeof said[i].text - 1);
        assert_true(said[i].fraction == 0.5);
        assert_true(i == 0 || said[i].at_ms >= said[i - 1].at_ms);
    }
    wq_job_unref(job);
    job = begin(p, "printf '0.1\\ta\\n0.2\\ta\\n0.3\\n0.4\\tb\\n'", 0);
    assert_int_equal(wq_job_wait(job, DEADLINE_MS), WQ_OK);
    assert_int_equal(wq_job_messages(job, said), 2);
    assert_string_equal(said[0].text, "a");
    assert_string_equal(said[1].text, "b");
    wq_job_unref(job);
}

/* ---- stderr ---------------------------------------------------------------------------------- */

static void count_call(void *user)
{
    atomic_fetch_add((atomic_int *)user, 1);
}

static void test_stderr_is_followed(void **state)
{
    place *p = *state;
    char path[FOLDER_SIZE + 8], command[200], buf[65536];
    uint64_t at = 0, begin_at;
    atomic_int calls = 0;
    wq_watch *watch;
    size_t n;
    snprintf(path, sizeof path, "%s/go", p->folder);
    snprintf(command, sizeof command,
             "printf 'one\\n' >&2; while [ ! -e %s ]; do sleep .01; done; "
             "echo \"two $3\" >&2; echo x >\"$4\"",
             path);
    wq_job *job = begin(p, command, 0);
    assert_int_equal(wq_job_watch_stderr(job, count_call, &calls, &watch), WQ_OK);
    EVENTUALLY(wq_job_stderr(job, 0, buf, sizeof buf, &begin_at) == 4);
    assert_memory_equal(buf, "one\n", 4);
    at = begin_at + 4;
    assert_int_equal(wq_job_stderr(job, at, buf, sizeof buf, &begin_at), 0);
    int before = atomic_load(&calls);
    put_file(path, "");
    EVENTUALLY(atomic_load(&calls) > before);
    assert_int_equal(wq_job_wait(job, DEADLINE_MS), WQ_OK);
    n = wq_job_stderr(job, at, buf, sizeof buf, &begin_at);
    buf[n] = '\0';
    assert_int_equal(begin_at, 4);
    assert_null(strstr(buf, TOKEN)); /* also of a job that has succeeded */
    assert_int_equal(strncmp(buf, "two ****", 8), 0);
    wq_watch_cancel(watch);
    wq_job_unref(job);
}

static void test_stderr_is_bounded(void **state)
{
    place *p = *state;
    static char buf[1 << 20];
    uint64_t begin_at;
    p->options.stderr_tail_bytes = 1000;
    wq_job *job = begin(p, "head -c 300000 /dev/zero | tr '\\0' x >&2; echo end >&2; sleep 100", 0);
    EVENTUALLY(wq_job_stderr(job, 300000, buf, sizeof buf, &begin_at) == 4);
    size_t n = wq_job_stderr(job, 0, buf, sizeof buf, &begin_at);
    assert_in_range(n, 1000, 2000);
    assert_int_equal(begin_at + n, 300004);
    assert_memory_equal(buf + n - 5, "xend\n", 5);
    wq_job_unref(job);
}

/* However the bytes come, nobody ever reads a token, nor the greater part of one. */
static void test_stderr_hides_tokens(void **state)
{
    (void)state;
    static const char token[] = "abcdefghijklmnop", text[] = "-abcdefghijklmnop-abcdefgh-";
    for (size_t piece = 1; piece < sizeof text; piece++) {
        wq_stderr_log log = {0};
        char all[100] = "", buf[100];
        uint64_t at = 0, begin_at;
        for (size_t i = 0; i < sizeof text - 1; i += piece) {
            size_t n = sizeof text - 1 - i < piece ? sizeof text - 1 - i : piece;
            wq_stderr_log_add(&log, 64, token, text + i, n);
            n = wq_stderr_log_read(&log, at, buf, sizeof buf, &begin_at, 0);
            assert_int_equal(begin_at, at);
            strncat(all, buf, n);
            at += n;
        }
        assert_string_equal(all, "-****************-abcdefgh-");
        wq_stderr_log_dispose(&log);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_minutes),
        cmocka_unit_test(test_minutes_pass),
        TEST(test_messages),
        TEST(test_what_a_job_waits_for),
        TEST(test_stderr_is_followed),
        TEST(test_stderr_is_bounded),
        cmocka_unit_test(test_stderr_hides_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* test_retain.c - the disk is finite: what goes by itself and what stays, with real files; and a
 * disk that is full for a while. */
#include <errno.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>

#include "tests/support.h"
#include "workqueue/store/dir.h"
#include "workqueue/util/log.h"

enum { DEADLINE_S = 120, LONG_AGO_S = 100000 };

typedef struct bed {
    char dir[FOLDER_SIZE];
    wq_store *store;
} bed;

static int set_up(void **state)
{
    bed *b = calloc(1, sizeof *b);
    if (b == NULL)
        return -1;
    *state = b;
    return make_folder(b->dir, "retain");
}

static int tear_down(void **state)
{
    bed *b = *state;
    if (b->store != NULL)
        b->store->close(b->store);
    const int r = remove_folder(b->dir);
    free(b);
    return r;
}

/* ---- files and outputs ----------------------------------------------------------------------- */

static const char *key_of(unsigned i)
{
    static char keys[4][WQ_KEY_SIZE];
    static unsigned next;
    char *key = keys[next++ % 4];
    snprintf(key, WQ_KEY_SIZE, "%064x", i);
    return key;
}

static const char *path_of(const bed *b, const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", b->dir, name);
    return path;
}

static void used_ago(const bed *b, const char *name, time_t s)
{
    struct timespec times[2] = {{.tv_sec = time(NULL) - s}, {.tv_nsec = UTIME_OMIT}};
    assert_int_equal(utimensat(AT_FDCWD, path_of(b, name), times, 0), 0);
}

/* A file that was last used so long ago. */
static void put(const bed *b, const char *name, off_t size, time_t ago_s)
{
    int fd = open(path_of(b, name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, size), 0);
    close(fd);
    used_ago(b, name, ago_s);
}

static int is_there(const bed *b, const char *name)
{
    return access(path_of(b, name), F_OK) == 0;
}

static void until_gone(const bed *b, const char *name)
{
    const struct timespec moment = {.tv_nsec = 2000000};
    time_t end = time(NULL) + DEADLINE_S;
    while (is_there(b, name)) {
        if (time(NULL) > end)
            fail_msg("%s should have gone", name);
        nanosleep(&moment, NULL);
    }
}

static void open_store(bed *b)
{
    const wq_logger logger = {0};
    const wq_dir_options options = {.path = b->dir};
    assert_int_equal(wq_dir_open(&b->store, &options, &logger, NULL), WQ_OK);
}

static void retain(bed *b, unsigned age_s, uint64_t bytes)
{
    if (b->store == NULL)
        open_store(b);
    assert_int_equal(wq_dir_retain(b->store, age_s, bytes, NULL), WQ_OK);
}

static void publish(bed *b, unsigned i, size_t size)
{
    const wq_params params = {"http://server", "1", "token"};
    wq_publish item = {.key = key_of(i), .params = &params, .replace = 1};
    char *temp;
    assert_int_equal(b->store->begin(b->store->self, item.key, &temp, NULL), WQ_OK);
    assert_int_equal(truncate(temp, (off_t)size), 0);
    item.temp_path = temp;
    b->store->publish(b->store->self, &item, 1);
    assert_int_equal(item.result, WQ_OK);
    free(temp);
}

/* ---- by age ---------------------------------------------------------------------------------- */

static void test_what_was_not_used_for_long_goes(void **state)
{
    bed *b = *state;
    put(b, key_of(1), 10, 2 * LONG_AGO_S);
    put(b, key_of(2), 10, LONG_AGO_S / 2);
    put(b, "notes.txt", 10, 2 * LONG_AGO_S); /* not ours */
    retain(b, LONG_AGO_S, 0);
    until_gone(b, key_of(1));
    assert_true(is_there(b, key_of(2)));
    assert_true(is_there(b, "notes.txt"));
}

static void test_use_keeps_it(void **state)
{
    bed *b = *state;
    struct stat before, after;
    wq_output output;
    for (unsigned i = 1; i <= 4; i++)
        put(b, key_of(i), 10, 900);
    assert_int_equal(stat(path_of(b, key_of(1)), &before), 0);
    retain(b, 1000, 0);
    assert_int_equal(b->store->find(b->store->self, key_of(1), NULL, NULL), WQ_OK);
    assert_int_equal(b->store->open(b->store->self, key_of(2), &output, NULL), WQ_OK);
    close(output.fd);
    publish(b, 3, 10);
    for (unsigned i = 1; i <= 3; i++) {
        assert_int_equal(stat(path_of(b, key_of(i)), &after), 0);
        assert_in_range(after.st_atim.tv_sec, time(NULL) - 20, time(NULL) + 1);
    }
    assert_int_equal(stat(path_of(b, key_of(4)), &after), 0);
    assert_in_range(after.st_atim.tv_sec, time(NULL) - 950, time(NULL) - 850);
    assert_int_equal(stat(path_of(b, key_of(1)), &after), 0); /* when it was made stays */
    assert_memory_equal(&before.st_mtim, &after.st_mtim, sizeof before.st_mtim);
}

/* Also one whose program took long, or gave its file an old date. */
static void test_a_new_output_is_new(void **state)
{
    bed *b = *state;
    const wq_params params = {"http://server", "1", "token"};
    const struct timespec old[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};
    wq_publish item = {.key = key_of(1), .params = &params};
    char *temp;
    retain(b, LONG_AGO_S, 1000);
    assert_int_equal(b->store->begin(b->store->self, item.key, &temp, NULL), WQ_OK);
    assert_int_equal(truncate(temp, 10), 0);
    assert_int_equal(utimensat(AT_FDCWD, temp, old, 0), 0);
    item.temp_path = temp;
    put(b, key_of(2), 10, 2 * LONG_AGO_S);
    b->store->publish(b->store->self, &item, 1);
    free(temp);
    publish(b, 3, 2000); /* is too much, and has it look again */
    until_gone(b, key_of(2));
    assert_true(is_there(b, key_of(1)));
}

static void test_unused_for_a_second(void **state)
{
    bed *b = *state;
    retain(b, 1, 0);
    publish(b, 1, 10);
    until_gone(b, key_of(1));
}

static void test_nothing_goes_while_it_is_read(void **state)
{
    bed *b = *state;
    wq_output output;
    retain(b, 1, 0);
    do /* on a slow machine it may have gone already */
        publish(b, 1, 10);
    while (b->store->open(b->store->self, key_of(1), &output, NULL) != WQ_OK);
    used_ago(b, key_of(1), LONG_AGO_S);
    put(b, key_of(2), 10, LONG_AGO_S);
    until_gone(b, key_of(2));
    put(b, key_of(2), 10, LONG_AGO_S);
    until_gone(b, key_of(2)); /* so the whole folder has been looked at */
    assert_true(is_there(b, key_of(1)));
    close(output.fd);
    until_gone(b, key_of(1));
}

/* C11: a use is noted once a minute, or less often, so that the last one may have been a second ago. */
static void test_c11_a_use_that_was_not_noted(void **state)
{
    bed *b = *state;
    put(b, key_of(1), 10, 90);  /* noted 90 s ago, used up to 30 s ago */
    put(b, key_of(2), 10, 130); /* noted 130 s ago, used at least 70 s ago */
    retain(b, 0, 1);
    until_gone(b, key_of(2));
    assert_true(is_there(b, key_of(1)));
    b->store->close(b->store);
    open_store(b);
    put(b, key_of(3), 10, 8);
    put(b, key_of(4), 10, 10);
    retain(b, 8, 0);
    until_gone(b, key_of(4));
    assert_true(is_there(b, key_of(3)));
}

static void test_a_job_at_work_is_left_alone(void **state)
{
    bed *b = *state;
    char *temp;
    retain(b, 1, 1);
    assert_int_equal(b->store->begin(b->store->self, key_of(1), &temp, NULL), WQ_OK);
    used_ago(b, temp + strlen(b->dir) + 1, LONG_AGO_S);
    for (unsigned i = 2; i < 4; i++) {
        put(b, key_of(i), 10, LONG_AGO_S);
        until_gone(b, key_of(i));
    }
    assert_int_equal(access(temp, F_OK), 0);
    b->store->discard(b->store->self, temp);
    free(temp);
}

/* ---- by bytes -------------------------------------------------------------------------------- */

static void test_the_least_recently_used_go_first(void **state)
{
    bed *b = *state;
    for (unsigned i = 0; i < 20; i++) /* in no order */
        put(b, key_of(i), 100, 1000 + i * 7 % 20 * 100);
    retain(b, 0, 1000);
    for (unsigned i = 0; i < 20; i++)
        if (i * 7 % 20 >= 10)
            until_gone(b, key_of(i));
    for (unsigned i = 0; i < 20; i++)
        assert_int_equal(is_there(b, key_of(i)), i * 7 % 20 < 10);
}

static void test_publishing_makes_room(void **state)
{
    bed *b = *state;
    put(b, key_of(1), 400, 3000);
    put(b, key_of(2), 400, 2000);
    retain(b, 0, 1000);
    publish(b, 3, 500);
    until_gone(b, key_of(1));
    assert_true(is_there(b, key_of(2)));
    publish(b, 4, 500);
    until_gone(b, key_of(2));
    assert_true(is_there(b, key_of(3)));
    assert_true(is_there(b, key_of(4)));
}

/* Else nobody could ever fetch it. */
static void test_one_that_is_larger_than_all_may_be_stays_for_now(void **state)
{
    bed *b = *state;
    retain(b, 0, 100);
    publish(b, 1, 1000);
    put(b, key_of(2), 50, 2000);
    publish(b, 3, 1000);
    until_gone(b, key_of(2));
    assert_true(is_there(b, key_of(1)));
    assert_true(is_there(b, key_of(3)));
}

static void test_more_than_are_remembered(void **state)
{
    bed *b = *state;
    enum { N = 13000 };
    for (unsigned i = 0; i < N; i++)
        put(b, key_of(i), 1, 1000 + N - i);
    retain(b, 0, 10);
    until_gone(b, key_of(N - 11));
    for (unsigned i = N - 10; i < N; i++)
        assert_true(is_there(b, key_of(i)));
    for (unsigned i = 0; i < N - 10; i++)
        assert_false(is_there(b, key_of(i)));
}

/* ---- a disk that is full for a while --------------------------------------------------------- */

/* A queue on a small disk of its own, mounted at b->dir. */
static wq_queue *open_small(bed *b, const char *size)
{
    wq_options options;
    wq_queue *queue;
    if (mount("wq-test", b->dir, "tmpfs", 0, size) != 0) {
        print_message("not allowed to mount a small disk (%s)\n", strerror(errno));
        return NULL;
    }
    wq_options_init(&options, sizeof options);
    options.program = WQ_TEST_PROGRAMS "/shell";
    options.storage_dir = b->dir;
    assert_int_equal(wq_open(&queue, &options, NULL), WQ_OK);
    return queue;
}

static void close_small(bed *b, wq_queue *queue)
{
    wq_close(queue);
    assert_int_equal(umount(b->dir), 0);
}

static void run(wq_queue *queue, const char *script, wq_snapshot *snapshot)
{
    const wq_params params = {script, "1", "token"};
    wq_job *job = NULL;
    wq_error error = {0};
    if (wq_ensure_run(queue, &params, 0, &job, &error) != WQ_OK)
        fail_msg("%s", error.message);
    assert_int_equal(wq_job_wait(job, DEADLINE_S * 1000), WQ_OK);
    memset(snapshot, 0, sizeof *snapshot);
    wq_job_snapshot(job, snapshot);
    wq_job_unref(job);
}

static void expect_success(wq_queue *queue, const char *script)
{
    wq_snapshot snapshot;
    run(queue, script, &snapshot);
    assert_int_equal(snapshot.state, WQ_STATE_SUCCEEDED);
    wq_snapshot_clear(&snapshot);
}

static void expect_no_space(wq_queue *queue, const char *script)
{
    wq_snapshot snapshot;
    run(queue, script, &snapshot);
    assert_int_equal(snapshot.state, WQ_STATE_FAILED);
    assert_non_null(strstr(snapshot.error, "No space left on device"));
    wq_snapshot_clear(&snapshot);
}

static void test_a_program_that_fills_the_disk_fails_alone(void **state)
{
    bed *b = *state;
    wq_queue *queue = open_small(b, "size=256k");
    if (queue == NULL)
        return skip();
    expect_success(queue, "echo before >\"$4\"");
    expect_no_space(queue, "export LC_ALL=C; head -c 1000000 /dev/zero >\"$4\"");
    /* what it had written is gone with it */
    expect_success(queue, "head -c 150000 /dev/zero >\"$4\"");
    close_small(b, queue);
}

static void test_a_disk_without_room_for_a_job(void **state)
{
    bed *b = *state;
    wq_queue *queue = open_small(b, "size=1m,nr_inodes=8");
    char name[2][32];
    if (queue == NULL)
        return skip();
    int n = 0;
    do
        snprintf(name[n % 2], sizeof name[0], "filler-%d", n);
    while (mknod(path_of(b, name[n++ % 2]), S_IFREG | 0600, 0) == 0);
    assert_int_equal(errno, ENOSPC);
    expect_no_space(queue, "echo x >\"$4\"");
    expect_no_space(queue, "echo y >\"$4\"");
    assert_int_equal(unlink(path_of(b, name[n % 2])), 0);
    expect_success(queue, "echo x >\"$4\"");
    close_small(b, queue);
}

/* What a program has written is in place, or its job has failed; what was there before stays. */
static void test_a_disk_that_is_full_when_outputs_are_published(void **state)
{
    bed *b = *state;
    const char *fill = "echo again >\"$4\"; f=${4%/*/*}/filler; [ -e \"$f\" ] || "
                       "cat /dev/zero >\"$f\" 2>/dev/null; exit 0";
    const wq_params params = {fill, "1", "token"};
    wq_queue *queue = open_small(b, "size=256k");
    wq_snapshot snapshot;
    if (queue == NULL)
        return skip();
    run(queue, fill, &snapshot);
    assert_true(is_there(b, "filler"));
    if (snapshot.state == WQ_STATE_FAILED)
        assert_non_null(strstr(snapshot.error, "No space left on device"));
    else
        assert_int_equal(snapshot.state, WQ_STATE_SUCCEEDED);
    int fd, result = wq_output_open(queue, &params, &fd, NULL);
    assert_int_equal(result == WQ_OK, snapshot.state == WQ_STATE_SUCCEEDED);
    if (result == WQ_OK) {
        char text[16] = "";
        assert_int_equal(read(fd, text, sizeof text), 6);
        assert_string_equal(text, "again\n");
        close(fd);
    }
    wq_snapshot_clear(&snapshot);
    expect_no_space(queue, "export LC_ALL=C; head -c 100000 /dev/zero >\"$4\"");
    assert_int_equal(unlink(path_of(b, "filler")), 0);
    expect_success(queue, "head -c 100000 /dev/zero >\"$4\"");
    close_small(b, queue);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_what_was_not_used_for_long_goes),
        TEST(test_use_keeps_it),
        TEST(test_a_new_output_is_new),
        TEST(test_unused_for_a_second),
        TEST(test_nothing_goes_while_it_is_read),
        TEST(test_c11_a_use_that_was_not_noted),
        TEST(test_a_job_at_work_is_left_alone),
        TEST(test_the_least_recently_used_go_first),
        TEST(test_publishing_makes_room),
        TEST(test_one_that_is_larger_than_all_may_be_stays_for_now),
        TEST(test_more_than_are_remembered),
        TEST(test_a_program_that_fills_the_disk_fails_alone),
        TEST(test_a_disk_without_room_for_a_job),
        TEST(test_a_disk_that_is_full_when_outputs_are_published),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

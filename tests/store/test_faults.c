/* test_faults.c - what disks, programs and filesystems do to a folder of outputs; each test is
 * named by the number of the fault that it was. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "tests/support.h"
#include "workqueue/store/dir.h"
#include "workqueue/util/log.h"

#define KEY "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

typedef struct bed {
    char dir[FOLDER_SIZE];
    logbook log;
    wq_store *store;
} bed;

static const wq_params params = {"http://localhost", "17", TOKEN};

static void open_store(bed *b)
{
    const wq_logger logger = {on_log, &b->log};
    const wq_dir_options options = {.path = b->dir, .sync = 1};
    wq_error error = {0};
    int result = wq_dir_open(&b->store, &options, &logger, &error);
    if (result != WQ_OK)
        fail_msg("wq_dir_open: %d %s", result, error.message);
}

static int set_up(void **state)
{
    bed *b = calloc(1, sizeof *b);
    if (b == NULL || make_folder(b->dir, "faults") != 0)
        return -1;
    *state = b;
    open_store(b);
    return 0;
}

static int tear_down(void **state)
{
    bed *b = *state;
    b->store->close(b->store);
    const int result = remove_folder(b->dir);
    free(b);
    return result;
}

static const char *path_of(const bed *b, const char *name)
{
    static char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", b->dir, name);
    return path;
}

static char *begin(bed *b, const char *key)
{
    char *path = NULL;
    assert_int_equal(b->store->begin(b->store->self, key, &path, NULL), WQ_OK);
    return path;
}

static wq_publish publish(bed *b, const char *temp, int replace)
{
    wq_publish item = {.key = KEY, .params = &params, .temp_path = temp, .replace = replace};
    b->store->publish(b->store->self, &item, 1);
    return item;
}

static wq_publish put(bed *b, const char *text, int replace)
{
    char *temp = begin(b, KEY);
    put_file(temp, text);
    wq_publish item = publish(b, temp, replace);
    free(temp);
    return item;
}

static void expect_output(const bed *b, const char *text)
{
    char got[64];
    get_file(path_of(b, KEY), got, sizeof got);
    assert_string_equal(got, text);
}

/* In a process of its own, where calls can be forbidden. */
static void in_a_fork(bed *b, void (*what)(bed *))
{
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        what(b);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

/* ---- C3: the same file, by all that a filesystem tells ----------------------------------------
 */

static ino_t put_at(bed *b, const char *text, wq_output *out)
{
    const struct timespec times[2] = {{.tv_sec = 978307200}, {.tv_sec = 978307200}};
    struct stat st;
    char *temp = begin(b, KEY);
    put_file(temp, text);
    assert_int_equal(utimensat(AT_FDCWD, temp, times, 0), 0); /* as cp -p does */
    assert_int_equal(publish(b, temp, 0).result, WQ_OK);
    free(temp);
    assert_int_equal(b->store->open(b->store->self, KEY, out, NULL), WQ_OK);
    close(out->fd);
    assert_int_equal(stat(path_of(b, KEY), &st), 0);
    return st.st_ino;
}

static void test_c3_an_inode_that_is_used_again(void **state)
{
    bed *b = *state;
    wq_output first, second;
    int reused = 0;
    for (int i = 0; i < 20 && !reused; i++) {
        ino_t before = put_at(b, "one", &first);
        assert_int_equal(b->store->remove(b->store->self, KEY, NULL), WQ_OK);
        reused = put_at(b, "two", &second) == before;
        assert_string_not_equal(first.tag, second.tag);
        assert_int_equal(b->store->remove(b->store->self, KEY, NULL), WQ_OK);
    }
    if (!reused)
        print_message("no inode was used again here\n");
}

static void test_c3_the_time_is_that_of_publishing(void **state)
{
    bed *b = *state;
    wq_output out;
    int64_t found, before = (int64_t)time(NULL) * 1000;
    put_at(b, "x", &out);
    assert_int_equal(b->store->find(b->store->self, KEY, &found, NULL), WQ_OK);
    assert_true(out.made_at_ms >= before);
    assert_int_equal(found, out.made_at_ms);
}

/* ---- C7, C8: the folder itself is made durable, and what if it cannot be ----------------------
 */

static void delete_with_a_bad_disk(bed *b)
{
    wq_error error = {0};
    assert_int_equal(forbid_call(SYS_fsync, EIO), 0);
    assert_int_equal(b->store->remove(b->store->self, KEY, &error), WQ_ERROR_SYSTEM);
    assert_non_null(strstr(error.message, strerror(EIO)));
}

static void delete_set_with_a_bad_disk(bed *b)
{
    size_t n = 0;
    assert_int_equal(forbid_call(SYS_fsync, EIO), 0);
    assert_int_equal(b->store->remove_set(b->store->self, params.server, NULL, &n, NULL),
                     WQ_ERROR_SYSTEM);
}

static void test_c7_a_delete_is_durable_before_it_is_told(void **state)
{
    bed *b = *state;
    assert_int_equal(put(b, "x", 0).result, WQ_OK);
    in_a_fork(b, delete_with_a_bad_disk);
    assert_int_equal(put(b, "x", 0).result, WQ_OK);
    in_a_fork(b, delete_set_with_a_bad_disk);
}

static void rebuild_with_a_bad_disk(bed *b)
{
    assert_int_equal(forbid_call(SYS_fsync, EIO), 0);
    assert_int_equal(put(b, "bad", 1).result, WQ_ERROR_SYSTEM);
    expect_output(b, "good");
}

static void publish_with_a_bad_disk(bed *b)
{
    assert_int_equal(forbid_call(SYS_fsync, EIO), 0);
    assert_int_equal(put(b, "bad", 0).result, WQ_ERROR_SYSTEM);
    assert_int_equal(b->store->find(b->store->self, KEY, NULL, NULL), WQ_ERROR_NOT_FOUND);
}

static void test_c8_a_rebuild_that_fails_leaves_what_is_there(void **state)
{
    bed *b = *state;
    in_a_fork(b, publish_with_a_bad_disk);
    assert_int_equal(put(b, "good", 0).result, WQ_OK);
    in_a_fork(b, rebuild_with_a_bad_disk);
    expect_output(b, "good");
    assert_int_equal(entries_of(b->dir), 4); /* and nothing else */
    assert_int_equal(put(b, "better", 1).result, WQ_OK);
    expect_output(b, "better");
    assert_int_equal(entries_of(b->dir), 4);
}

/* ---- C17: beside the output -------------------------------------------------------------------
 */

static void put_beside(const char *temp, const char *end)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s%s", temp, end);
    put_file(path, "beside");
}

static void test_c17_what_lies_beside_goes_with_the_job(void **state)
{
    bed *b = *state;
    char folder[PATH_MAX], *one = begin(b, KEY), *other = begin(b, KEY);
    put_beside(other, "-wal");
    for (int published = 0; published < 2; published++) {
        char *temp = published ? one : begin(b, KEY);
        put_file(temp, "whole");
        put_beside(temp, "-wal");
        put_beside(temp, ".npy");
        snprintf(folder, sizeof folder, "%s.d", temp);
        assert_int_equal(mkdir(folder, 0700), 0);
        if (published)
            assert_int_equal(publish(b, temp, 0).result, WQ_OK);
        else
            b->store->discard(b->store->self, temp);
        free(temp);
        /* the lock, and the other's two files */
        assert_int_equal(entries_of(b->dir), 2 + 1 + 2 + 1);
        if (!published)
            continue;
        expect_output(b, "whole");
    }
    b->store->discard(b->store->self, other);
    assert_int_equal(entries_of(b->dir), 2 + 2);
    free(other);
}

/* Names that tools make of the given one: the last part replaced, or hidden while they write. */
static void test_c17_what_lies_beside_under_another_name_goes_too(void **state)
{
    static const char *const names[] = {"%.*s.csv", "%.*s_parts", "%.*s"};
    bed *b = *state;
    char path[PATH_MAX], *others[12];
    for (size_t i = 0; i < 12; i++) /* -1 and -10 are not the same */
        put_file(others[i] = begin(b, KEY), "other");
    for (int published = 0; published < 2; published++) {
        char *temp = others[published], *name = strrchr(temp, '/') + 1;
        for (size_t i = 0; i < 3; i++) {
            snprintf(path, sizeof path, names[i], (int)strlen(temp) - 4, temp);
            put_file(path, "beside");
        }
        snprintf(path, sizeof path, "%.*s.%s.Xy12", (int)(name - temp), temp, name);
        put_file(path, "beside");
        if (published)
            assert_int_equal(publish(b, temp, 0).result, WQ_OK);
        else
            b->store->discard(b->store->self, temp);
        assert_int_equal(entries_of(b->dir), 2 + 1 + 11);
    }
    for (size_t i = 2; i < 12; i++) {
        char text[16];
        get_file(others[i], text, sizeof text);
        assert_string_equal(text, "other");
        b->store->discard(b->store->self, others[i]);
    }
    assert_int_equal(entries_of(b->dir), 2 + 2);
    for (size_t i = 0; i < 12; i++)
        free(others[i]);
}

static void test_c17_an_empty_output_says_what_was_written_instead(void **state)
{
    bed *b = *state;
    char *temp = begin(b, KEY);
    put_beside(temp, ".npy");
    wq_publish item = publish(b, temp, 0);
    assert_int_equal(item.result, WQ_ERROR_INVALID_ARGUMENT);
    assert_non_null(strstr(item.error.message, "\".npy\" added to the name"));
    assert_int_equal(entries_of(b->dir), 3);
    free(temp);
}

/* ---- C20: a filesystem that knows little ------------------------------------------------------
 */

static void publish_by_looking(bed *b)
{
    assert_int_equal(forbid_call(SYS_renameat2, EINVAL), 0);
    assert_int_equal(forbid_call(SYS_linkat, EPERM), 0);
    assert_int_equal(put(b, "one", 0).result, WQ_OK);
    assert_int_equal(put(b, "two", 0).result, WQ_OK);
    expect_output(b, "one"); /* what is in place stays */
    assert_int_equal(put(b, "three", 1).result, WQ_OK);
    expect_output(b, "three");
}

static void test_c20_neither_links_nor_renames_that_look(void **state)
{
    bed *b = *state;
    in_a_fork(b, publish_by_looking);
    assert_int_equal(entries_of(b->dir), 4);
}

static void use_a_folder_without_fsync(bed *b)
{
    assert_int_equal(forbid_call(SYS_fsync, EINVAL), 0);
    open_store(b);
    assert_int_equal(logged(&b->log, "cannot sync a folder"), 1);
    assert_int_equal(put(b, "one", 0).result, WQ_OK);
    assert_int_equal(put(b, "two", 1).result, WQ_OK);
    expect_output(b, "two");
    assert_int_equal(b->store->remove(b->store->self, KEY, NULL), WQ_OK);
    assert_int_equal(logged(&b->log, "cannot sync a folder"), 1);
    b->store->close(b->store);
}

static void test_c20_a_folder_that_cannot_be_synced(void **state)
{
    bed *b = *state;
    b->store->close(b->store);
    in_a_fork(b, use_a_folder_without_fsync);
    open_store(b);
}

/* ---- C2: a disk that could not take it all ----------------------------------------------------
 */

enum { BATCH = 4, BIG = 40 << 20 };

/* An ext4 in a file that cannot grow beyond 24 MiB; it goes with the process. */
static int mount_small_disk(const char *folder)
{
    char command[1024];
    snprintf(command, sizeof command,
             "mount -t tmpfs -o size=24m none '%s' && cd '%s' && truncate -s 128m disk && "
             "mkfs.ext4 -q -F -O ^has_journal -E lazy_itable_init=1 disk && mkdir d && "
             "mount -o loop disk d && head -c 8m /dev/zero >ballast",
             folder, folder);
    return unshare(CLONE_NEWNS) == 0 && mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
                   system(command) == 0
               ? 0
               : -1;
}

static void fill_file(const char *path, size_t n)
{
    static char block[1 << 20];
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    memset(block, 'x', sizeof block);
    for (size_t i = 0; i < n; i += sizeof block)
        assert_int_equal(write(fd, block, sizeof block), sizeof block);
    close(fd);
}

static void begin_batch(bed *b, wq_publish items[BATCH], char keys[BATCH][WQ_KEY_SIZE],
                        unsigned from)
{
    for (unsigned i = 0; i < BATCH; i++) {
        snprintf(keys[i], WQ_KEY_SIZE, "%064x", from + i);
        char *temp = begin(b, keys[i]);
        put_file(temp, "small");
        items[i] = (wq_publish){.key = keys[i], .params = &params, .temp_path = temp};
    }
}

static void publish_on_a_small_disk(bed *b)
{
    wq_publish first[BATCH], second[BATCH];
    char keys[2 * BATCH][WQ_KEY_SIZE], ballast[PATH_MAX];
    if (mount_small_disk(b->dir) != 0)
        _exit(77);
    strcat(b->dir, "/d");
    open_store(b);
    begin_batch(b, second, keys + BATCH, BATCH);
    fill_file(second[1].temp_path, BIG); /* in memory now, and never to be on the disk */
    begin_batch(b, first, keys, 0);
    b->store->publish(b->store->self, first, BATCH); /* is told of the error, too */
    strcpy(ballast, b->dir);
    strcpy(strrchr(ballast, '/'), "/ballast");
    assert_int_equal(unlink(ballast), 0); /* from here on the disk is well */
    b->store->publish(b->store->self, second, BATCH);
    assert_true(second[1].result < 0);
    assert_int_equal(b->store->find(b->store->self, keys[BATCH + 1], NULL, NULL),
                     WQ_ERROR_NOT_FOUND);
    b->store->close(b->store);
}

static void test_c2_write_error_of_another_batch(void **state)
{
    bed *b = *state;
    int status;
    if (geteuid() != 0 || access("/dev/loop-control", W_OK) != 0)
        skip();
    b->store->close(b->store);
    pid_t pid = fork();
    if (pid == 0) {
        publish_on_a_small_disk(b);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    open_store(b);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
        skip(); /* no mounts here */
    assert_int_equal(status, 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_c2_write_error_of_another_batch),
        TEST(test_c3_an_inode_that_is_used_again),
        TEST(test_c3_the_time_is_that_of_publishing),
        TEST(test_c7_a_delete_is_durable_before_it_is_told),
        TEST(test_c8_a_rebuild_that_fails_leaves_what_is_there),
        TEST(test_c17_what_lies_beside_goes_with_the_job),
        TEST(test_c17_what_lies_beside_under_another_name_goes_too),
        TEST(test_c17_an_empty_output_says_what_was_written_instead),
        TEST(test_c20_neither_links_nor_renames_that_look),
        TEST(test_c20_a_folder_that_cannot_be_synced),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

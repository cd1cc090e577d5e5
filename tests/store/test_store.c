/* test_store.c - the folder store: what is begun is private and empty, what is published is whole,
 * what a crash left is swept, and the folder has one owner. Everything once with sync and once
 * without. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#include "tests/support.h"
#include "workqueue/store/dir.h"
#include "workqueue/util/log.h"

#define KEY_A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define KEY_B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
#define OWN ".workqueue."
#define LOCK OWN "lock"
#define PROCESS OWN "process"
#define TEMPS OWN "tmp"
#define LABELS OWN "labels"

/* An open store in a folder of its own. */
typedef struct bed {
    char dir[PATH_MAX];
    logbook log;
    wq_store *store;
    int sync;
} bed;

static int try_open(bed *b, const char *dir, wq_store **out, wq_error *error)
{
    wq_logger logger = {on_log, &b->log};
    const wq_dir_options options = {.path = dir, .program = "/usr/bin/make", .sync = b->sync};
    return wq_dir_open(out, &options, &logger, error);
}

static void open_store(bed *b)
{
    assert_int_equal(try_open(b, b->dir, &b->store, NULL), WQ_OK);
}

static void close_store(bed *b)
{
    b->store->close(b->store);
    b->store = NULL;
}

static int make_bed(void **state, int sync)
{
    bed *b = calloc(1, sizeof *b);
    char dir[FOLDER_SIZE];
    if (b == NULL || make_folder(dir, "store") != 0 || realpath(dir, b->dir) == NULL)
        return -1;
    b->sync = sync;
    *state = b;
    open_store(b);
    return 0;
}

static int set_up_sync(void **state)
{
    return make_bed(state, 1);
}

static int set_up_no_sync(void **state)
{
    return make_bed(state, 0);
}

static int tear_down(void **state)
{
    bed *b = *state;
    if (b->store != NULL)
        close_store(b);
    const int r = remove_folder(b->dir);
    free(b);
    return r;
}

/* ---- files ----------------------------------------------------------------------------------- */

static const char *in_dir(const bed *b, const char *name)
{
    static char path[2 * PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", b->dir, name);
    return path;
}

static void expect_file(const char *path, const char *text)
{
    char got[256];
    assert_int_equal(access(path, F_OK), 0);
    get_file(path, got, sizeof got);
    assert_string_equal(got, text);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

enum { MAX_NAMES = 64 };

static size_t read_names(const char *dir, char **names, size_t n)
{
    DIR *d = opendir(dir);
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 &&
            strncmp(e->d_name, OWN, strlen(OWN)) != 0 && n < MAX_NAMES)
            names[n++] = strdup(e->d_name);
    if (d != NULL)
        closedir(d);
    return n;
}

/* The names in the folder and of what programs have begun, but for the store's own files, sorted,
 * each followed by a space. */
static void expect_names(const bed *b, const char *expected)
{
    char *names[MAX_NAMES], got[8192] = "";
    size_t n = read_names(b->dir, names, 0);
    n = read_names(in_dir(b, TEMPS), names, n);
    qsort(names, n, sizeof *names, by_name);
    for (size_t i = 0; i < n; i++) {
        strcat(strcat(got, names[i]), " ");
        free(names[i]);
    }
    assert_string_equal(got, expected);
}

static mode_t mode_of(const char *path)
{
    struct stat st;
    assert_int_equal(lstat(path, &st), 0);
    return st.st_mode;
}

static char *begin(bed *b, const char *key)
{
    char *path = NULL;
    assert_int_equal(b->store->begin(b->store->self, key, &path, NULL), WQ_OK);
    return path;
}

static const wq_params params = {"http://localhost", "17", "s3cret0token"};

static wq_publish publish(bed *b, const char *key, const char *temp)
{
    wq_publish item = {.key = key, .params = &params, .temp_path = temp, .result = 12345};
    b->store->publish(b->store->self, &item, 1);
    return item;
}

static int find(bed *b, const char *key)
{
    wq_error error;
    return b->store->find(b->store->self, key, NULL, &error);
}

/* Publishes `text` under `key`, by way of a temporary file. */
static int put(bed *b, const char *key, const char *text)
{
    char *temp = begin(b, key);
    put_file(temp, text);
    int result = publish(b, key, temp).result;
    assert_int_equal(access(temp, F_OK), -1);
    free(temp);
    return result;
}

/* ---- the good way ---------------------------------------------------------------------------- */

static void test_what_is_begun_is_empty_and_private(void **state)
{
    bed *b = *state;
    mode_t before = umask(0);
    char *one = begin(b, KEY_A), *two = begin(b, KEY_A);
    umask(before);
    assert_string_not_equal(one, two);
    assert_int_equal(mode_of(one), S_IFREG | 0600);
    expect_file(one, "");
    expect_file(two, "");
    assert_memory_equal(one, b->dir, strlen(b->dir));
    assert_int_equal(find(b, KEY_A), WQ_ERROR_NOT_FOUND);
    b->store->discard(b->store->self, one);
    b->store->discard(b->store->self, two);
    expect_names(b, "");
    b->store->discard(b->store->self, one); /* a program may have removed it */
    assert_string_equal(b->log.text, "");
    free(one);
    free(two);
}

static void test_a_sandbox_without_mknod(void **state)
{
    bed *b = *state;
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        char *temp = NULL;
        if (forbid_call(SYS_mknodat, b->sync ? EPERM : ENOSYS) != 0 ||
            b->store->begin(b->store->self, KEY_A, &temp, NULL) != WQ_OK)
            _exit(1);
        _exit(mode_of(temp) == (S_IFREG | 0600) ? 0 : 2);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void expect_made_at(bed *b, const char *key, time_t s, unsigned ms)
{
    const struct timespec at[2] = {{.tv_nsec = UTIME_OMIT}, {s, (long)ms * 1000000}};
    int64_t made_at_ms;
    assert_int_equal(utimensat(AT_FDCWD, in_dir(b, key), at, 0), 0);
    assert_int_equal(b->store->find(b->store->self, key, &made_at_ms, NULL), WQ_OK);
    assert_int_equal(made_at_ms, (int64_t)s * 1000 + ms);
}

static void test_what_is_published_is_found(void **state)
{
    bed *b = *state;
    wq_error error;
    char got[8] = "";
    wq_output out = {.fd = -7};
    assert_int_equal(b->store->find(b->store->self, KEY_A, NULL, &error), WQ_ERROR_NOT_FOUND);
    assert_int_equal(error.code, WQ_ERROR_NOT_FOUND);
    assert_true(strlen(error.message) > 10);
    assert_int_equal(b->store->open(b->store->self, KEY_A, &out, &error), WQ_ERROR_NOT_FOUND);
    assert_int_equal(out.fd, -7);
    assert_int_equal(put(b, KEY_A, "hello"), WQ_OK);
    assert_int_equal(find(b, KEY_A), WQ_OK);
    assert_int_equal(find(b, KEY_B), WQ_ERROR_NOT_FOUND);
    expect_names(b, KEY_A " ");
    expect_made_at(b, KEY_A, 86400, 123);
    assert_int_equal(mode_of(in_dir(b, KEY_A)), S_IFREG | 0600);
    assert_int_equal(b->store->open(b->store->self, KEY_A, &out, NULL), WQ_OK);
    assert_int_equal(fcntl(out.fd, F_GETFD), FD_CLOEXEC);
    assert_int_equal(fcntl(out.fd, F_GETFL) & O_ACCMODE, O_RDONLY);
    assert_int_equal(out.size_bytes, 5);
    assert_int_equal(read(out.fd, got, sizeof got), 5);
    assert_string_equal(got, "hello");
    close(out.fd);
    assert_string_equal(b->log.text, "");
}

static void test_paths(void **state)
{
    bed *b = *state;
    wq_error error = {0};
    char path[PATH_MAX] = "", *expected = strdup(in_dir(b, KEY_A));
    size_t n = strlen(expected) + 1;
    assert_int_equal(b->store->path(b->store->self, KEY_A, path, n, NULL), WQ_OK);
    assert_string_equal(path, expected);
    assert_int_equal(b->store->path(b->store->self, KEY_A, path, n - 1, &error),
                     WQ_ERROR_INVALID_ARGUMENT);
    assert_int_equal(error.code, WQ_ERROR_INVALID_ARGUMENT);
    assert_true(error.message[0] != '\0');
    assert_int_equal(b->store->path(b->store->self, KEY_A, NULL, 0, NULL),
                     WQ_ERROR_INVALID_ARGUMENT);
    free(expected);
}

static void test_one_in_place_stays(void **state)
{
    bed *b = *state;
    assert_int_equal(put(b, KEY_A, "first"), WQ_OK);
    assert_int_equal(put(b, KEY_A, "second"), WQ_OK);
    expect_file(in_dir(b, KEY_A), "first");
    expect_names(b, KEY_A " ");
}

static void test_a_rebuild_replaces(void **state)
{
    bed *b = *state;
    wq_output before, after;
    char got[8] = "";
    assert_int_equal(put(b, KEY_A, "first"), WQ_OK);
    assert_int_equal(b->store->open(b->store->self, KEY_A, &before, NULL), WQ_OK);
    wq_publish item = {.key = KEY_A, .params = &params, .replace = 1};
    char *temp = begin(b, KEY_A);
    item.temp_path = temp; /* empty: no output, so the first stays */
    b->store->publish(b->store->self, &item, 1);
    assert_true(item.result < 0);
    free(temp);
    expect_file(in_dir(b, KEY_A), "first");
    item.temp_path = temp = begin(b, KEY_A);
    put_file(temp, "other");
    b->store->publish(b->store->self, &item, 1);
    assert_int_equal(item.result, WQ_OK);
    free(temp);
    expect_file(in_dir(b, KEY_A), "other");
    expect_names(b, KEY_A " ");
    assert_int_equal(b->store->open(b->store->self, KEY_A, &after, NULL), WQ_OK);
    assert_string_not_equal(before.tag, after.tag);
    assert_int_equal(read(before.fd, got, sizeof got), 5); /* who reads the old one may go on */
    assert_string_equal(got, "first");
    close(before.fd);
    close(after.fd);
}

static void test_what_waits_says_so(void **state)
{
    bed *b = *state;
    assert_int_equal(b->store->waits != 0, b->sync != 0);
}

static void test_outputs_outlive_the_store(void **state)
{
    bed *b = *state;
    assert_int_equal(put(b, KEY_A, "kept"), WQ_OK);
    close_store(b);
    open_store(b);
    assert_int_equal(find(b, KEY_A), WQ_OK);
    expect_file(in_dir(b, KEY_A), "kept");
    assert_string_equal(b->log.text, "");
}

static void test_a_relative_folder_stays_the_same(void **state)
{
    bed *b = *state;
    char here[PATH_MAX];
    assert_non_null(getcwd(here, sizeof here));
    close_store(b);
    assert_int_equal(chdir(b->dir), 0);
    assert_int_equal(try_open(b, ".", &b->store, NULL), WQ_OK);
    assert_int_equal(chdir(here), 0);
    assert_int_equal(put(b, KEY_A, "x"), WQ_OK);
    expect_names(b, KEY_A " ");
}

/* ---- whole or not at all --------------------------------------------------------------------- */

/* What programs do to the file they should write to. */
static void leave_empty(const char *path)
{
    (void)path;
}

static void remove_it(const char *path)
{
    assert_int_equal(unlink(path), 0);
}

static void make_symlink(const char *path)
{
    remove_it(path);
    assert_int_equal(symlink("/etc/passwd", path), 0);
}

static void make_fifo(const char *path)
{
    remove_it(path);
    assert_int_equal(mkfifo(path, 0600), 0);
}

static void make_directory(const char *path)
{
    remove_it(path);
    assert_int_equal(mkdir(path, 0700), 0);
}

static void expect_refused(bed *b, void (*spoil)(const char *), const char *why)
{
    char *temp = begin(b, KEY_A);
    spoil(temp);
    wq_publish item = publish(b, KEY_A, temp);
    assert_true(item.result < 0);
    assert_int_equal(item.error.code, item.result);
    if (strncmp(item.error.message, why, strlen(why)) != 0)
        fail_msg("expected '%s', got '%s'", why, item.error.message);
    assert_int_equal(find(b, KEY_A), WQ_ERROR_NOT_FOUND);
    rmdir(temp); /* a directory is the one thing that may be left */
    expect_names(b, "");
    free(temp);
}

static void test_what_is_no_output(void **state)
{
    bed *b = *state;
    expect_refused(b, leave_empty, "invalid program: it should have written to its output file");
    expect_refused(b, remove_it, "Failed to stat output file: ");
    expect_refused(b, make_symlink, "invalid program: ");
    expect_refused(b, make_fifo, "invalid program: ");
    expect_refused(b, make_directory, "invalid program: ");
    assert_int_equal(access("/etc/passwd", F_OK), 0);
}

/* A batch: each has an end of its own, and one that fails harms no other. */
static void test_many_at_once(void **state)
{
    enum { N = 600 };
    bed *b = *state;
    static wq_publish items[N];
    for (int i = 0; i < N; i++) {
        char *key = NULL;
        assert_true(asprintf(&key, "%064x", (unsigned)i) > 0);
        char *temp = begin(b, key);
        items[i] = (wq_publish){.key = key, .params = &params, .temp_path = temp, .result = 12345};
        if (i % 3 == 0)
            put_file(temp, key);
        else if (i % 3 == 1)
            remove_it(temp);
    }
    b->store->publish(b->store->self, items, N);
    for (int i = 0; i < N; i++) {
        assert_int_equal(items[i].result == WQ_OK, i % 3 == 0);
        assert_int_equal(find(b, items[i].key), i % 3 == 0 ? WQ_OK : WQ_ERROR_NOT_FOUND);
        if (i % 3 == 0)
            expect_file(in_dir(b, items[i].key), items[i].key);
        assert_int_equal(access(items[i].temp_path, F_OK), -1);
        free((char *)items[i].temp_path);
        free((char *)items[i].key);
    }
    b->store->publish(b->store->self, NULL, 0);
}

/* A program that is killed cannot remove it. */
static void test_a_database_that_was_not_closed(void **state)
{
    bed *b = *state;
    static const char *const ends[] = {"-journal", "-wal", "-shm"};
    char beside[2 * PATH_MAX], *temp = begin(b, KEY_A);
    for (size_t i = 0; i < 3; i++) {
        snprintf(beside, sizeof beside, "%s%s", temp, ends[i]);
        put_file(beside, "x");
    }
    b->store->discard(b->store->self, temp);
    expect_names(b, "");
    free(temp);
}

/* We read it and label it, as a user who is not root, too. */
static void test_an_output_without_permissions(void **state)
{
    static const mode_t modes[] = {0, 0440, 0640}, made[] = {0600, 0640, 0640};
    bed *b = *state;
    for (size_t i = 0; i < 3; i++) {
        char *temp = begin(b, KEY_A);
        put_file(temp, "whole");
        assert_int_equal(chmod(temp, modes[i]), 0);
        assert_int_equal(publish(b, KEY_A, temp).result, WQ_OK);
        assert_int_equal(mode_of(in_dir(b, KEY_A)), S_IFREG | made[i]);
        assert_int_equal(b->store->remove(b->store->self, KEY_A, NULL), WQ_OK);
        free(temp);
    }
}

/* ---- opening --------------------------------------------------------------------------------- */

static void test_leftovers_are_swept(void **state)
{
    bed *b = *state;
    char beside[2 * PATH_MAX];
    assert_int_equal(put(b, KEY_A, "kept"), WQ_OK);
    char *temp = begin(b, KEY_A);
    put_file(temp, "half of it"); /* and never published: a crash */
    snprintf(beside, sizeof beside, "%s.part", temp);
    put_file(beside, "which the program has put beside it");
    free(temp);
    free(begin(b, KEY_B));
    put_file(in_dir(b, "notes.txt"), "somebody else's");
    put_file(in_dir(b, "x.tmp"), "somebody else's");
    close_store(b);
    open_store(b);
    expect_names(b, KEY_A " notes.txt x.tmp ");
    expect_file(in_dir(b, KEY_A), "kept");
    assert_non_null(strstr(b->log.text, "removed 3 "));
    assert_non_null(strstr(b->log.text, b->dir));
}

static void test_the_folder_has_one_owner(void **state)
{
    bed *b = *state;
    wq_error error = {0};
    wq_store *second = NULL;
    char pid[32], *temp = begin(b, KEY_A);
    snprintf(pid, sizeof pid, "%ld", (long)getpid());
    assert_int_equal(try_open(b, b->dir, &second, &error), WQ_ERROR_LOCKED);
    assert_int_equal(error.code, WQ_ERROR_LOCKED);
    assert_null(second);
    assert_non_null(strstr(error.message, b->dir));
    assert_non_null(strstr(error.message, pid));
    expect_file(temp, ""); /* and has swept nothing of the owner's */
    free(temp);
    assert_int_equal(mode_of(in_dir(b, LOCK)), S_IFREG | 0600);
    close_store(b);
    open_store(b);
}

static void expect_unusable(bed *b, const char *dir, const char *why)
{
    wq_error error = {0};
    wq_store *store = NULL;
    assert_int_equal(try_open(b, dir, &store, &error), WQ_ERROR_SYSTEM);
    assert_int_equal(error.code, WQ_ERROR_SYSTEM);
    assert_null(store);
    if (strstr(error.message, dir) == NULL || strstr(error.message, why) == NULL)
        fail_msg("expected %s and %s, got '%s'", dir, why, error.message);
}

static void test_unusable_folders(void **state)
{
    bed *b = *state;
    put_file(in_dir(b, "file"), "x");
    char *file = strdup(in_dir(b, "file"));
    expect_unusable(b, "/no/such/folder", "No such file or directory");
    expect_unusable(b, file, "Not a directory");
    expect_unusable(b, "/proc", ""); /* nothing can be created there */
    free(file);
    assert_int_equal(symlink("file", in_dir(b, "link")), 0);
    char *link = strdup(in_dir(b, "link"));
    expect_unusable(b, link, "Not a directory");
    free(link);
}

/* A lock file that is a link would be a way to have a file of ours overwritten. */
static void test_no_link_for_a_lock(void **state)
{
    bed *b = *state;
    wq_error error;
    close_store(b);
    put_file(in_dir(b, "precious"), "untouched");
    assert_int_equal(unlink(in_dir(b, LOCK)), 0);
    assert_int_equal(symlink("precious", in_dir(b, LOCK)), 0);
    assert_int_equal(try_open(b, b->dir, &b->store, &error), WQ_ERROR_SYSTEM);
    expect_file(in_dir(b, "precious"), "untouched");
    b->store = NULL;
}

static void test_the_folder_goes_away(void **state)
{
    bed *b = *state;
    wq_error error = {0};
    char *temp = NULL;
    assert_int_equal(remove_folder(b->dir), 0);
    assert_int_equal(b->store->begin(b->store->self, KEY_A, &temp, &error), WQ_ERROR_SYSTEM);
    assert_null(temp);
    assert_non_null(strstr(error.message, "No such file or directory"));
    assert_int_equal(find(b, KEY_A), WQ_ERROR_NOT_FOUND);
}

/* As an operator does who moves a full disk away: programs write to the new folder, and it is not
 * for them to be blamed. Once the old one is back, all goes on. */
static void test_the_folder_is_replaced(void **state)
{
    static const char why[] = "has been replaced by another; put it back";
    bed *b = *state;
    wq_error error = {0};
    char away[PATH_MAX + 8], *none = NULL, *temp = begin(b, KEY_A);
    snprintf(away, sizeof away, "%s.away", b->dir);
    assert_int_equal(rename(b->dir, away), 0);
    assert_int_equal(mkdir(b->dir, 0700), 0);
    assert_int_equal(mkdir(in_dir(b, TEMPS), 0700), 0);
    put_file(temp, "made");
    wq_publish item = publish(b, KEY_A, temp);
    assert_int_equal(item.result, WQ_ERROR_SYSTEM);
    assert_non_null(strstr(item.error.message, why));
    assert_int_equal(b->store->begin(b->store->self, KEY_A, &none, &error), WQ_ERROR_SYSTEM);
    assert_non_null(strstr(error.message, why));
    assert_non_null(strstr(error.message, b->dir));
    assert_null(none);
    expect_names(b, "");
    assert_int_equal(remove_folder(b->dir), 0);
    assert_int_equal(rename(away, b->dir), 0);
    assert_int_equal(put(b, KEY_B, "made"), WQ_OK);
    free(temp);
}

static void test_out_of_descriptors_is_said(void **state)
{
    bed *b = *state;
    struct rlimit before, few;
    wq_error error = {0};
    wq_output out;
    char *temp = begin(b, KEY_A), *second = NULL;
    assert_int_equal(put(b, KEY_B, "there"), WQ_OK);
    put_file(temp, "x");
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    few = before;
    few.rlim_cur = 3;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    int begun = b->store->begin(b->store->self, KEY_A, &second, NULL);
    int opened = b->store->open(b->store->self, KEY_B, &out, &error);
    wq_publish item = publish(b, KEY_A, temp);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_int_equal(begun, WQ_OK); /* which needs none */
    b->store->discard(b->store->self, second);
    free(second);
    assert_int_equal(opened, WQ_ERROR_SYSTEM);
    assert_non_null(strstr(error.message, "Too many open files"));
    if (b->sync) { /* what cannot be made durable is not told as published */
        assert_int_equal(item.result, WQ_ERROR_SYSTEM);
        assert_int_equal(find(b, KEY_A), WQ_ERROR_NOT_FOUND);
    } else {
        assert_int_equal(item.result, WQ_OK);
    }
    assert_int_equal(access(temp, F_OK), -1);
    free(temp);
}

#define BOTH(f)                                                                                    \
    {#f " (sync)", f, set_up_sync, tear_down, NULL},                                               \
    {                                                                                              \
#f " (no sync)", f, set_up_no_sync, tear_down, NULL                                        \
    }

/* ---- a document set's outputs ---------------------------------------------------------------- */

/* What cannot be removed is not passed over in silence. */
static void test_a_set_that_cannot_be_removed_whole(void **state)
{
    bed *b = *state;
    char label[4096];
    size_t n = 0;
    wq_error error = {0};
    char *temp = begin(b, KEY_A);
    put_file(temp, "whole");
    assert_int_equal(publish(b, KEY_A, temp).result, WQ_OK);
    free(temp);
    ssize_t size = getxattr(in_dir(b, KEY_A), "user.workqueue", label, sizeof label);
    if (size < 0)
        skip(); /* not on this filesystem */
    assert_int_equal(mkdir(in_dir(b, KEY_B), 0700), 0);
    assert_int_equal(setxattr(in_dir(b, KEY_B), "user.workqueue", label, (size_t)size, 0), 0);
    assert_int_equal(
        b->store->remove_set(b->store->self, params.server, params.document_set_id, &n, &error),
        WQ_ERROR_SYSTEM);
    assert_non_null(strstr(error.message, "Is a directory"));
    assert_int_equal(n, 1);
    expect_names(b, KEY_B " ");
    assert_int_equal(rmdir(in_dir(b, KEY_B)), 0);
    assert_int_equal(b->store->remove_set(b->store->self, params.server, NULL, &n, &error), WQ_OK);
}

/* ---- labels ---------------------------------------------------------------------------------- */

static void put_of(bed *b, const char *key, const char *server, const char *set)
{
    const wq_params of = {server, set, params.api_token};
    wq_publish item = {.key = key, .params = &of, .job_id = "the-job", .ran_ms = 1234};
    char *temp = begin(b, key);
    item.temp_path = temp;
    put_file(temp, "whole");
    b->store->publish(b->store->self, &item, 1);
    assert_int_equal(item.result, WQ_OK);
    free(temp);
}

static size_t list(bed *b, const char *server, const char *set, char *position, wq_output_info *out,
                   size_t max)
{
    size_t n = 12345;
    assert_int_equal(b->store->list(b->store->self, server, set, position, out, max, &n, NULL),
                     WQ_OK);
    return n;
}

static void expect_label(bed *b)
{
    char position[WQ_POSITION_SIZE] = "";
    static wq_output_info info[2];
    wq_output out;
    assert_int_equal(list(b, NULL, NULL, position, info, 2), 1);
    assert_string_equal(position, "");
    assert_string_equal(info->key, KEY_A);
    assert_string_equal(info->server, params.server);
    assert_string_equal(info->document_set_id, params.document_set_id);
    assert_string_equal(info->job_id, "the-job");
    assert_string_equal(info->program, "/usr/bin/make");
    assert_int_equal(info->ran_ms, 1234);
    assert_int_equal(info->size_bytes, 5);
    assert_int_equal(b->store->open(b->store->self, KEY_A, &out, NULL), WQ_OK);
    close(out.fd);
    assert_string_equal(info->tag, out.tag);
    assert_int_equal(info->made_at_ms, out.made_at_ms);
}

static void test_a_label_tells_what_an_output_is_of(void **state)
{
    bed *b = *state;
    char label[4096];
    put_of(b, KEY_A, params.server, params.document_set_id);
    expect_label(b);
    ssize_t n = getxattr(in_dir(b, KEY_A), "user.workqueue", label, sizeof label - 1);
    if (n < 0)
        skip(); /* not on this filesystem */
    label[n] = '\0';
    assert_non_null(strstr(label, "\nserver=http://localhost\n"));
    assert_null(strstr(label, params.api_token));
}

/* As an old tmpfs, or FAT: the label is in a file, which comes and goes with the output. */
static void test_labels_without_attributes(void **state)
{
    bed *b = *state;
    char label[4096];
    int status;
    close_store(b);
    pid_t pid = fork();
    if (pid == 0) {
        if (forbid_call(SYS_fsetxattr, ENOTSUP) != 0 || forbid_call(SYS_lsetxattr, ENOTSUP) != 0)
            _exit(1);
        open_store(b);
        put_of(b, KEY_A, params.server, params.document_set_id);
        put_of(b, KEY_B, "http://other", "2");
        size_t n = 0;
        assert_int_equal(b->store->remove_set(b->store->self, "http://other", NULL, &n, NULL),
                         WQ_OK);
        assert_int_equal(n, 1);
        expect_label(b);
        close_store(b);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    open_store(b);
    expect_label(b);
    assert_int_equal(access(in_dir(b, LABELS "/" KEY_B), F_OK), -1);
    assert_true(get_file(in_dir(b, LABELS "/" KEY_A), label, sizeof label) > 0);
    assert_null(strstr(label, params.api_token));
    assert_int_equal(b->store->remove(b->store->self, KEY_A, NULL), WQ_OK);
    assert_int_equal(access(in_dir(b, LABELS "/" KEY_A), F_OK), -1);
}

static void test_a_list_page_by_page(void **state)
{
    enum { N = 25, PAGE = 7 };
    bed *b = *state;
    static wq_output_info page[PAGE];
    char key[WQ_KEY_SIZE], position[WQ_POSITION_SIZE] = "", seen[N] = {0};
    size_t n, all = 0;
    int64_t last = INT64_MAX;
    for (unsigned i = 0; i < N; i++) {
        snprintf(key, sizeof key, "%064x", i);
        put_of(b, key, i % 5 ? "http://one" : "http://two", i % 2 ? "odd" : "even");
    }
    do {
        n = list(b, NULL, NULL, position, page, PAGE);
        for (size_t i = 0; i < n; i++, all++) {
            assert_int_equal(seen[strtoul(page[i].key, NULL, 16)]++, 0);
            assert_true(page[i].made_at_ms <= last);
            last = page[i].made_at_ms;
        }
    } while (*position != '\0');
    assert_int_equal(all, N);
    assert_int_equal(list(b, "http://two", NULL, position, page, PAGE), 5);
    assert_int_equal(list(b, "http://two", "odd", position, page, PAGE), 2);
    assert_string_equal(page[0].server, "http://two");
    assert_int_equal(list(b, "http://three", NULL, position, page, PAGE), 0);
    wq_error error = {0};
    assert_int_equal(
        b->store->list(b->store->self, NULL, NULL, (char[]){"nonsense"}, page, PAGE, &n, &error),
        WQ_ERROR_INVALID_ARGUMENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH(test_what_is_begun_is_empty_and_private),
        BOTH(test_a_sandbox_without_mknod),
        BOTH(test_what_is_published_is_found),
        BOTH(test_paths),
        BOTH(test_one_in_place_stays),
        BOTH(test_a_rebuild_replaces),
        BOTH(test_what_waits_says_so),
        BOTH(test_outputs_outlive_the_store),
        BOTH(test_a_relative_folder_stays_the_same),
        BOTH(test_what_is_no_output),
        BOTH(test_many_at_once),
        BOTH(test_a_database_that_was_not_closed),
        BOTH(test_an_output_without_permissions),
        BOTH(test_leftovers_are_swept),
        BOTH(test_the_folder_has_one_owner),
        BOTH(test_unusable_folders),
        BOTH(test_no_link_for_a_lock),
        BOTH(test_the_folder_goes_away),
        BOTH(test_the_folder_is_replaced),
        BOTH(test_out_of_descriptors_is_said),
        BOTH(test_a_set_that_cannot_be_removed_whole),
        BOTH(test_a_label_tells_what_an_output_is_of),
        BOTH(test_labels_without_attributes),
        BOTH(test_a_list_page_by_page),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* dir.c - the store that keeps outputs as files in a folder.
 *
 * An output is first `.workqueue-KEY-N.tmp`, which a program overwrites; publishing makes its
 * contents durable, renames it to KEY, and makes the name durable. What begins with `.workqueue-`
 * and ends with `.tmp` when the store is opened was left by a crash. `.workqueue.lock` is locked as
 * long as the store is open.
 *
 * Labels are made for every output by OpenSSL's plain SHA-256, deprecated as it is: see params.c.
 */
#define OPENSSL_API_COMPAT 0x10100000L
#include "workqueue/store/dir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <openssl/sha.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "workqueue/store/retain.h"
#include "workqueue/util/folders.h"

#define TEMP_PREFIX ".workqueue-"
#define TEMP_SUFFIX ".tmp"
#define LOCK_NAME ".workqueue.lock"

enum {
    BATCH = 256,  /* published at a time; bounds the stack */
    TOGETHER = 4, /* from so many on, one syncfs costs less than a flush of the disk for each */
};

typedef struct dir {
    wq_store store;
    char *path; /* absolute */
    int fd, lock_fd, sync, sync_together, has_labels;
    struct stat at_open; /* of the folder, which cannot end while we have it open */
    atomic_ullong next;
    wq_logger logger;
    wq_retain *retain; /* NULL: all is kept */
} dir;

/* ---- reading --------------------------------------------------------------------------------- */

static int64_t modified_ms(const struct stat *st)
{
    return (int64_t)st->st_mtim.tv_sec * 1000 + st->st_mtim.tv_nsec / 1000000;
}

static int find(void *self, const char *key, int64_t *made_at_ms, wq_error *error)
{
    dir *d = self;
    struct stat st;
    if (fstatat(d->fd, key, &st, AT_SYMLINK_NOFOLLOW) == 0) {
        if (!S_ISREG(st.st_mode))
            return wq_fail(error, WQ_ERROR_SYSTEM, "%s/%s is not a regular file; remove it",
                           d->path, key);
        wq_retain_used(d->retain, key, -1, &st);
        if (made_at_ms != NULL)
            *made_at_ms = modified_ms(&st);
        return WQ_OK;
    }
    if (errno == ENOENT)
        return wq_fail(error, WQ_ERROR_NOT_FOUND, "there is no output for this yet");
    return wq_fail(error, WQ_ERROR_SYSTEM, "stat %s/%s: %s", d->path, key, strerror(errno));
}

static int open_output(void *self, const char *key, wq_output *out, wq_error *error)
{
    dir *d = self;
    struct stat st;
    int fd = openat(d->fd, key, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && errno == ENOENT)
        return wq_fail(error, WQ_ERROR_NOT_FOUND, "there is no output for this yet");
    if (fd < 0 || fstat(fd, &st) != 0) {
        int r = wq_fail(error, WQ_ERROR_SYSTEM, "open %s/%s: %s", d->path, key, strerror(errno));
        if (fd >= 0)
            close(fd);
        return r;
    }
    wq_retain_used(d->retain, key, fd, &st);
    *out =
        (wq_output){.fd = fd, .size_bytes = (uint64_t)st.st_size, .made_at_ms = modified_ms(&st)};
    /* a rebuild is another file, whatever the clock says */
    snprintf(out->tag, sizeof out->tag, "%llx-%llx-%llx", (unsigned long long)st.st_ino,
             (unsigned long long)st.st_mtim.tv_sec * 1000000000ULL +
                 (unsigned long long)st.st_mtim.tv_nsec,
             (unsigned long long)st.st_size);
    return WQ_OK;
}

static int path_of(void *self, const char *key, char *path, size_t size, wq_error *error)
{
    dir *d = self;
    int n = snprintf(path, size, "%s/%s", d->path, key);
    if (n < 0 || (size_t)n >= size)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "the path does not fit in %zu bytes",
                       size);
    return WQ_OK;
}

/* ---- a temporary file's life ----------------------------------------------------------------- */

/* mknod costs less than open and close; a sandbox or a filesystem in user space may not have it. By
 * its path, as the program will write it: a folder that has been moved away is no place for it. */
static int create_empty(const char *path)
{
    if (mknodat(AT_FDCWD, path, S_IFREG | 0600, 0) == 0)
        return 0;
    if (errno != ENOSYS && errno != EPERM)
        return -1;
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    return fd < 0 ? -1 : close(fd);
}

/* A program writes to the folder that has the path, we publish from the one that we have locked. */
static int check_there(const dir *d, wq_error *error)
{
    struct stat now;
    if (stat(d->path, &now) != 0)
        return wq_fail(error, WQ_ERROR_SYSTEM, "stat the storage folder %s: %s", d->path,
                       strerror(errno));
    if (d->at_open.st_ino == now.st_ino && d->at_open.st_dev == now.st_dev)
        return WQ_OK;
    return wq_fail(error, WQ_ERROR_SYSTEM,
                   "the storage folder %s has been replaced by another; put it back, or start "
                   "again to use the new one",
                   d->path);
}

static int begin(void *self, const char *key, char **temp_path, wq_error *error)
{
    dir *d = self;
    char *path;
    int there = check_there(d, error);
    if (there != WQ_OK)
        return there;
    if (asprintf(&path, "%s/" TEMP_PREFIX "%s-%llu" TEMP_SUFFIX, d->path, key,
                 atomic_fetch_add(&d->next, 1)) < 0)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    if (create_empty(path) != 0) {
        int r =
            wq_fail(error, WQ_ERROR_SYSTEM, "create a file in %s: %s", d->path, strerror(errno));
        free(path);
        return r;
    }
    *temp_path = path;
    return WQ_OK;
}

static const char *base(const char *path)
{
    return strrchr(path, '/') + 1;
}

/* What SQLite leaves beside a database that it had no time to close. Other names are not known
 * before the sweep: a look through the folder would cost as much as there are outputs. */
static void remove_beside(const char *temp_path)
{
    static const char *const ends[] = {"-journal", "-wal", "-shm"};
    char path[PATH_MAX];
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++)
        if (snprintf(path, sizeof path, "%s%s", temp_path, ends[i]) < (int)sizeof path)
            unlink(path);
}

static void discard(void *self, const char *temp_path)
{
    dir *d = self;
    remove_beside(temp_path);
    /* a program may have put a folder where its output should be */
    if (wq_remove_tree(temp_path) != 0 && errno != ENOENT)
        wq_log(&d->logger, WQ_LOG_WARNING, "remove %s: %s", temp_path, strerror(errno));
}

/* ---- labels: which output is of which document set
 * ------------------------------------------------
 *
 * The name tells nothing, so each file carries, as an extended attribute, a hash of its server and
 * one of its server and document set. No token goes in, and nothing can be read out. Where the
 * filesystem has no attributes, outputs can be deleted one by one only.
 */

#define LABEL_NAME "user.workqueue"
enum { LABEL_PART = 16, LABEL_SIZE = 2 * LABEL_PART };

static int hash_part(unsigned char *out, const char *server, const char *document_set_id)
{
    unsigned char digest[SHA256_DIGEST_LENGTH];
    SHA256_CTX sha;
    if (!SHA256_Init(&sha) || !SHA256_Update(&sha, server, strlen(server) + 1) ||
        !SHA256_Update(&sha, document_set_id, strlen(document_set_id)) ||
        !SHA256_Final(digest, &sha))
        return -1;
    memcpy(out, digest, LABEL_PART);
    return 0;
}

static void label(dir *d, const wq_publish *item)
{
    unsigned char value[LABEL_SIZE];
    if (!d->has_labels || hash_part(value, item->params->server, "") != 0 ||
        hash_part(value + LABEL_PART, item->params->server, item->params->document_set_id) != 0)
        return;
    if (lsetxattr(item->temp_path, LABEL_NAME, value, sizeof value, 0) != 0)
        wq_log(&d->logger, WQ_LOG_WARNING, "label an output: %s", strerror(errno));
}

static int is_key(const char *name)
{
    return strlen(name) == WQ_KEY_SIZE - 1 && strspn(name, "0123456789abcdef") == WQ_KEY_SIZE - 1;
}

static int has_label(dir *d, const char *name, const unsigned char *want, size_t offset)
{
    char path[PATH_MAX];
    unsigned char value[LABEL_SIZE];
    if (snprintf(path, sizeof path, "%s/%s", d->path, name) >= (int)sizeof path)
        return 0;
    return lgetxattr(path, LABEL_NAME, value, sizeof value) == (ssize_t)sizeof value &&
           memcmp(value + offset, want, LABEL_PART) == 0;
}

static int remove_one(void *self, const char *key, wq_error *error)
{
    dir *d = self;
    if (unlinkat(d->fd, key, 0) == 0)
        return WQ_OK;
    if (errno == ENOENT)
        return wq_fail(error, WQ_ERROR_NOT_FOUND, "there is no output for this");
    return wq_fail(error, WQ_ERROR_SYSTEM, "remove %s/%s: %s", d->path, key, strerror(errno));
}

static int remove_set(void *self, const char *server, const char *document_set_id, size_t *n,
                      wq_error *error)
{
    dir *d = self;
    unsigned char want[LABEL_PART];
    if (!d->has_labels)
        return wq_fail(error, WQ_ERROR_SYSTEM,
                       "the filesystem of %s has no extended attributes, so outputs can only be "
                       "deleted one by one",
                       d->path);
    if (hash_part(want, server, document_set_id ? document_set_id : "") != 0)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    DIR *entries = opendir(d->path);
    if (entries == NULL)
        return wq_fail(error, WQ_ERROR_SYSTEM, "read %s: %s", d->path, strerror(errno));
    int failed = 0;
    struct dirent *e;
    while (errno = 0, (e = readdir(entries)) != NULL) {
        if (!is_key(e->d_name) || !has_label(d, e->d_name, want, document_set_id ? LABEL_PART : 0))
            continue;
        if (unlinkat(d->fd, e->d_name, 0) == 0)
            ++*n;
        else if (errno != ENOENT)
            failed = errno;
    }
    failed = errno != 0 ? errno : failed;
    closedir(entries);
    return failed == 0 ? WQ_OK
                       : wq_fail(error, WQ_ERROR_SYSTEM, "remove outputs from %s: %s", d->path,
                                 strerror(failed));
}

/* ---- publishing ------------------------------------------------------------------------------ */

static int item_fail(wq_publish *item, int result, const char *what)
{
    item->result = wq_fail(&item->error, result, "%s: %s", what, strerror(errno));
    return -1;
}

/* It is no output, if the folder is the one that its program has written to. */
static int refuse(const dir *d, wq_publish *item, const char *why)
{
    item->result = check_there(d, &item->error);
    if (item->result == WQ_OK)
        item->result = wq_fail(&item->error, WQ_ERROR_INVALID_ARGUMENT, "%s", why);
    return -1;
}

/* Is it an output at all? */
static int inspect(dir *d, wq_publish *item)
{
    struct stat st;
    item->result = WQ_OK;
    if (fstatat(d->fd, base(item->temp_path), &st, AT_SYMLINK_NOFOLLOW) != 0)
        /* one that the program has removed is its failure, not the disk's */
        return errno == ENOENT
                   ? refuse(d, item, "Failed to stat output file: No such file or directory")
                   : item_fail(item, WQ_ERROR_SYSTEM, "Failed to stat output file");
    if (!S_ISREG(st.st_mode))
        return refuse(d, item, "invalid program: its output is not a regular file");
    if (st.st_size == 0)
        return refuse(d, item, "invalid program: it should have written to its output file");
    /* it is ours to read, and to label, whatever else the program wants of its mode */
    if ((st.st_mode & 0600) != 0600 &&
        fchmodat(d->fd, base(item->temp_path), (st.st_mode & 07777) | 0600, 0) != 0)
        wq_log(&d->logger, WQ_LOG_WARNING, "change the mode of an output: %s", strerror(errno));
    return 0;
}

/* Makes one output's contents durable. */
static int sync_one(dir *d, wq_publish *item)
{
    int flags = O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;
    int fd = openat(d->fd, base(item->temp_path), flags);
    if (fd < 0)
        return item_fail(item, WQ_ERROR_SYSTEM, "Failed to open output file");
    int r = fdatasync(fd);
    if (r != 0)
        item_fail(item, WQ_ERROR_SYSTEM, "Failed to sync output file");
    close(fd);
    return r;
}

static int rename_temp(dir *d, wq_publish *item)
{
    const char *temp = base(item->temp_path);
    if (item->replace) {
        if (renameat(d->fd, temp, d->fd, item->key) == 0)
            return 1;
        item_fail(item, WQ_ERROR_SYSTEM, "Failed to publish output file");
        return 0;
    }
    int r = renameat2(d->fd, temp, d->fd, item->key, RENAME_NOREPLACE);
    if (r != 0 && (errno == EINVAL || errno == ENOSYS)) { /* not on this filesystem */
        r = linkat(d->fd, temp, d->fd, item->key, 0);
        if (r == 0)
            unlinkat(d->fd, temp, 0);
    }
    if (r == 0)
        return 1;
    if (errno == EEXIST)
        return 0; /* what is in place stays */
    item_fail(item, WQ_ERROR_SYSTEM, "Failed to publish output file");
    return 0;
}

static int put_in_place(dir *d, wq_publish *item)
{
    wq_retain_begin_place(d->retain, base(item->temp_path));
    int placed = rename_temp(d, item);
    wq_retain_end_place(d->retain, item->key);
    return placed;
}

/* The names are not durable: none of them may be told as published. */
static void take_back(dir *d, wq_publish *items, const unsigned char *placed, size_t n)
{
    int saved = errno;
    for (size_t i = 0; i < n; i++)
        if (placed[i]) {
            errno = saved;
            item_fail(&items[i], WQ_ERROR_SYSTEM, "Failed to sync the storage folder");
            unlinkat(d->fd, items[i].key, 0);
        }
}

static void sync_contents(dir *d, wq_publish *items, size_t n)
{
    if (d->sync_together && n >= TOGETHER && syncfs(d->fd) == 0)
        return;
    for (size_t i = 0; i < n; i++) /* also to learn whose sync it was that failed */
        if (items[i].result == WQ_OK && sync_one(d, &items[i]) != 0)
            discard(d, items[i].temp_path);
}

static void publish_batch(dir *d, wq_publish *items, size_t n)
{
    unsigned char placed[BATCH] = {0}, any = 0;
    for (size_t i = 0; i < n; i++)
        if (inspect(d, &items[i]) == 0)
            label(d, &items[i]);
        else
            discard(d, items[i].temp_path);
    if (d->sync)
        sync_contents(d, items, n);
    for (size_t i = 0; i < n; i++)
        if (items[i].result == WQ_OK) {
            placed[i] = (unsigned char)put_in_place(d, &items[i]);
            any |= placed[i];
            if (!placed[i])
                discard(d, items[i].temp_path);
        }
    if (d->sync && any && fsync(d->fd) != 0)
        take_back(d, items, placed, n);
}

static void publish(void *self, wq_publish *items, size_t n)
{
    for (size_t i = 0; i < n; i += BATCH)
        publish_batch(self, items + i, n - i < BATCH ? n - i : BATCH);
}

/* ---- open and close -------------------------------------------------------------------------- */

/* A temporary file, or what a program has put beside it under a longer name. */
static int is_leftover(const char *name)
{
    return strncmp(name, TEMP_PREFIX, strlen(TEMP_PREFIX)) == 0 &&
           strstr(name, TEMP_SUFFIX) != NULL;
}

static int sweep(dir *d, wq_error *error)
{
    size_t swept = 0;
    int fd = openat(d->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *entries = fd < 0 ? NULL : fdopendir(fd);
    if (entries == NULL) {
        int r = wq_fail(error, WQ_ERROR_SYSTEM, "read %s: %s", d->path, strerror(errno));
        if (fd >= 0)
            close(fd);
        return r;
    }
    char path[PATH_MAX];
    for (struct dirent *e; (e = readdir(entries)) != NULL;)
        if (is_leftover(e->d_name) && path_of(d, e->d_name, path, sizeof path, NULL) == WQ_OK &&
            wq_remove_tree(path) == 0)
            swept++;
    closedir(entries);
    if (swept > 0)
        wq_log(&d->logger, WQ_LOG_INFO,
               "removed %zu files of unfinished outputs of an earlier run from %s", swept, d->path);
    return WQ_OK;
}

/* Where syncfs is known to wait for all data and metadata, and to report errors. It also writes
 * what others have left dirty there, so it is for batches: who has those has a busy disk of his
 * own. */
static int can_sync_together(int fd)
{
    struct statfs fs;
    return fstatfs(fd, &fs) == 0 && (fs.f_type == EXT4_SUPER_MAGIC || fs.f_type == XFS_SUPER_MAGIC);
}

/* Tried on the lock file, which is ours. */
static int can_label(dir *d)
{
    return fsetxattr(d->lock_fd, LABEL_NAME, "", 0, 0) == 0 || errno != ENOTSUP;
}

/* The process that the lock file names; 0 if it names none. */
static pid_t owner_of(int fd)
{
    char text[32];
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    text[n > 0 ? n : 0] = '\0';
    return (pid_t)strtol(text, NULL, 10);
}

/* A server that has just been killed may hold the lock a moment longer, by a child that was about
 * to execute its program. So a dead owner is waited for, a living one is not. */
static int take_lock(int fd)
{
    const struct timespec moment = {.tv_nsec = 10 * 1000000};
    for (int i = 0; flock(fd, LOCK_EX | LOCK_NB) != 0; i++) {
        if (errno != EWOULDBLOCK && errno != EINTR)
            return -1;
        pid_t owner = owner_of(fd);
        int alive = owner <= 0 || kill(owner, 0) == 0 || errno != ESRCH;
        if (alive || i == 200) {
            errno = EWOULDBLOCK;
            return -1;
        }
        nanosleep(&moment, NULL);
    }
    return 0;
}

static int lock(dir *d, wq_error *error)
{
    char owner[32];
    d->lock_fd = openat(d->fd, LOCK_NAME, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (d->lock_fd < 0)
        return wq_fail(error, WQ_ERROR_SYSTEM, "create %s/" LOCK_NAME ": %s", d->path,
                       strerror(errno));
    int taken = take_lock(d->lock_fd);
    if (taken != 0 && errno != EWOULDBLOCK)
        return wq_fail(error, WQ_ERROR_SYSTEM, "lock %s/" LOCK_NAME ": %s", d->path,
                       strerror(errno));
    if (taken != 0)
        return wq_fail(error, WQ_ERROR_LOCKED,
                       "the storage folder %s is in use by process %ld; give each server a "
                       "folder of its own",
                       d->path, (long)owner_of(d->lock_fd));
    int n = snprintf(owner, sizeof owner, "%ld\n", (long)getpid());
    if (ftruncate(d->lock_fd, 0) != 0 || pwrite(d->lock_fd, owner, (size_t)n, 0) != n)
        return wq_fail(error, WQ_ERROR_SYSTEM, "write %s/" LOCK_NAME ": %s", d->path,
                       strerror(errno));
    return WQ_OK;
}

static void close_dir(wq_store *store)
{
    dir *d = store->self;
    wq_retain_stop(d->retain);
    if (d->lock_fd >= 0)
        close(d->lock_fd);
    if (d->fd >= 0)
        close(d->fd);
    free(d->path);
    free(d);
}

int wq_dir_open(wq_store **out, const char *path, int sync, const wq_logger *logger,
                wq_error *error)
{
    int result;
    dir *d = calloc(1, sizeof *d);
    if (d == NULL)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    d->store = (wq_store){.self = d,
                          .find = find,
                          .open = open_output,
                          .path = path_of,
                          .begin = begin,
                          .publish = publish,
                          .discard = discard,
                          .remove = remove_one,
                          .remove_set = remove_set,
                          .waits = sync,
                          .close = close_dir};
    d->fd = d->lock_fd = -1;
    d->sync = sync;
    d->logger = *logger;
    d->path = realpath(path, NULL);
    if (d->path != NULL)
        d->fd = open(d->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (d->fd < 0 || fstat(d->fd, &d->at_open) != 0) {
        result = wq_fail(error, WQ_ERROR_SYSTEM, "open the storage folder %s: %s", path,
                         strerror(errno));
        goto failed;
    }
    d->sync_together = can_sync_together(d->fd);
    if ((result = lock(d, error)) != WQ_OK || (result = sweep(d, error)) != WQ_OK)
        goto failed;
    d->has_labels = can_label(d);
    *out = &d->store;
    return WQ_OK;
failed:
    close_dir(&d->store);
    return result;
}

int wq_dir_retain(wq_store *store, unsigned age_s, uint64_t bytes, wq_error *error)
{
    dir *d = store->self;
    return wq_retain_start(&d->retain, d->fd, d->path, age_s, bytes, &d->logger, error);
}

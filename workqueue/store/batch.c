/* batch.c - puts outputs in place, many at a time.
 *
 *   inspect ─► label, time of publishing ─► contents to the disk ─► name ─► names to the disk
 *
 * Whatever fails on the way concerns one item, but for the last step: if the names cannot be made
 * durable, none of the batch may be told as published, and each is taken back. An output that a
 * rebuild replaces therefore stays at hand, under the temporary name, until the end. */
#include "workqueue/store/batch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "workqueue/store/temps.h"

enum {
    BATCH = 256,  /* published at a time; bounds the stack */
    TOGETHER = 4, /* from so many on, one syncfs costs less than a flush of the disk for each */
    RECENT_NS = 100000000, /* a file that was written so lately keeps its time */
};

/* What became of one item's name. */
typedef enum place {
    NOT_PLACED,
    PLACED,    /* where none was */
    EXCHANGED, /* the one before has the temporary name now */
    REPLACED,  /* the one before has gone */
} place;

static int item_fail(wq_publish *item, int result, const char *what)
{
    item->result = wq_fail(&item->error, result, "%s: %s", what, strerror(errno));
    return -1;
}

/* ---- is it an output at all? ----------------------------------------------------------------- */

/* It is none, if the folder is the one that its program has written to. */
static int refuse_item(const wq_folder *folder, wq_publish *item, const char *why)
{
    item->result = wq_temps_check_folder(folder, &item->error);
    if (item->result == WQ_OK)
        item->result = wq_fail(&item->error, WQ_ERROR_INVALID_ARGUMENT, "%s", why);
    return -1;
}

/* Libraries like to add an extension to the name that they are given. */
static int refuse_empty(const wq_folder *folder, wq_publish *item)
{
    char end[64], why[256];
    if (!wq_temp_find_beside(folder, item->temp_path, end, sizeof end))
        return refuse_item(folder, item,
                           "invalid program: it should have written to its output file");
    snprintf(why, sizeof why,
             "invalid program: its output file is empty, but it has written to one with \"%s\" "
             "added to the name; it should write to the name as it is given",
             end);
    return refuse_item(folder, item, why);
}

static int inspect_item(const wq_folder *folder, wq_publish *item, struct stat *st)
{
    const char *name = wq_temp_name(item->temp_path);
    item->result = WQ_OK;
    if (fstatat(folder->fd, name, st, AT_SYMLINK_NOFOLLOW) != 0)
        /* one that the program has removed is its failure, not the disk's */
        return errno == ENOENT
                   ? refuse_item(folder, item,
                                 "Failed to stat output file: No such file or directory")
                   : item_fail(item, WQ_ERROR_SYSTEM, "Failed to stat output file");
    if (!S_ISREG(st->st_mode))
        return refuse_item(folder, item, "invalid program: its output is not a regular file");
    if (st->st_size == 0)
        return refuse_empty(folder, item);
    item->size_bytes = (uint64_t)st->st_size;
    /* it is ours to read, and to label, whatever else the program wants of its mode */
    if ((st->st_mode & 0600) != 0600 &&
        fchmodat(folder->fd, name, (st->st_mode & 07777) | 0600, 0) != 0)
        wq_log(&folder->logger, WQ_LOG_WARNING, "change the mode of an output: %s",
               strerror(errno));
    return 0;
}

/* The time of the contents becomes that of publishing, which is told to clients; a program may have
 * set another, or have written long ago. That of access is when it was last used. */
static void set_mtime(const wq_folder *folder, const wq_publish *item, struct stat *st)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    const int64_t age_ns =
        (now.tv_sec - st->st_mtim.tv_sec) * (int64_t)1000000000 + now.tv_nsec - st->st_mtim.tv_nsec;
    if (folder->retain == NULL && age_ns >= 0 && age_ns < RECENT_NS)
        return;
    const struct timespec both[2] = {now, now};
    if (utimensat(folder->fd, wq_temp_name(item->temp_path), both, AT_SYMLINK_NOFOLLOW) == 0)
        st->st_mtim = now;
    else
        wq_log(&folder->logger, WQ_LOG_WARNING, "set the time of an output: %s", strerror(errno));
}

static void prepare_item(wq_folder *folder, wq_publish *item)
{
    struct stat st;
    if (inspect_item(folder, item, &st) != 0) {
        wq_temp_discard(folder, item->temp_path);
        return;
    }
    set_mtime(folder, item, &st);
    wq_label_write(&folder->labels, item, &st);
}

/* ---- contents to the disk -------------------------------------------------------------------- */

static int open_item(const wq_folder *folder, wq_publish *item)
{
    int fd = openat(folder->fd, wq_temp_name(item->temp_path),
                    O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        item_fail(item, WQ_ERROR_SYSTEM, "Failed to open output file");
    return fd;
}

/* After a syncfs() all is on the disk that could be written; whether this file could, only a
 * descriptor of it tells: syncfs() may have told of it when another batch was synced. */
static int check_written(int fd)
{
    int result = sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WAIT_BEFORE);
    return result != 0 && (errno == ENOSYS || errno == ESPIPE) ? fdatasync(fd) : result;
}

static void sync_item(const wq_folder *folder, wq_publish *item, int (*sync_fd)(int))
{
    int fd = open_item(folder, item);
    if (fd < 0)
        return;
    if (sync_fd(fd) != 0)
        item_fail(item, WQ_ERROR_SYSTEM, "Failed to sync output file");
    close(fd);
}

static void sync_contents(wq_folder *folder, wq_publish *items, size_t n)
{
    const int together = folder->sync_together && n >= TOGETHER && syncfs(folder->fd) == 0;
    for (size_t i = 0; i < n; i++) {
        if (items[i].result != WQ_OK)
            continue;
        sync_item(folder, &items[i], together ? check_written : fdatasync);
        if (items[i].result != WQ_OK)
            wq_temp_discard(folder, items[i].temp_path);
    }
}

/* ---- names ----------------------------------------------------------------------------------- */

/* Not on this filesystem, or not by this kernel. */
static int is_unsupported(void)
{
    return errno == EINVAL || errno == ENOSYS || errno == EOPNOTSUPP || errno == EPERM;
}

/* Renames where nothing has the name. By a link where the kernel cannot see to that, and where
 * there are none by looking: nobody else publishes into a folder that we have locked, and one key
 * is published by one job at a time. */
static int rename_new(const wq_folder *folder, const char *temp, const char *key)
{
    struct stat st;
    if (renameat2(folder->fd, temp, folder->fd, key, RENAME_NOREPLACE) == 0)
        return 0;
    if (!is_unsupported())
        return -1;
    if (linkat(folder->fd, temp, folder->fd, key, 0) == 0) {
        unlinkat(folder->fd, temp, 0);
        return 0;
    }
    if (!is_unsupported())
        return -1;
    if (fstatat(folder->fd, key, &st, AT_SYMLINK_NOFOLLOW) == 0) {
        errno = EEXIST;
        return -1;
    }
    return errno == ENOENT ? renameat(folder->fd, temp, folder->fd, key) : -1;
}

static place replace_name(const wq_folder *folder, wq_publish *item)
{
    const char *temp = wq_temp_name(item->temp_path);
    if (renameat2(folder->fd, temp, folder->fd, item->key, RENAME_EXCHANGE) == 0)
        return EXCHANGED;
    const int is_first = errno == ENOENT;
    if ((is_first || is_unsupported()) && renameat(folder->fd, temp, folder->fd, item->key) == 0)
        return is_first ? PLACED : REPLACED;
    item_fail(item, WQ_ERROR_SYSTEM, "Failed to publish output file");
    return NOT_PLACED;
}

static place place_item(wq_folder *folder, wq_publish *item)
{
    place placed = NOT_PLACED;
    wq_retain_begin_place(folder->retain);
    if (item->replace)
        placed = replace_name(folder, item);
    else if (rename_new(folder, wq_temp_name(item->temp_path), item->key) == 0)
        placed = PLACED;
    else if (errno != EEXIST) /* what is in place stays */
        item_fail(item, WQ_ERROR_SYSTEM, "Failed to publish output file");
    wq_retain_end_place(folder->retain, item->key);
    return placed;
}

/* The names are not durable: none of them may be told as published. */
static void take_back(wq_folder *folder, wq_publish *items, const place *placed, size_t n)
{
    const int saved = errno;
    for (size_t i = 0; i < n; i++) {
        if (placed[i] == NOT_PLACED)
            continue;
        errno = saved;
        item_fail(&items[i], WQ_ERROR_SYSTEM, "Failed to sync the storage folder");
        if (placed[i] == PLACED)
            unlinkat(folder->fd, items[i].key, 0);
        else if (placed[i] == EXCHANGED)
            renameat(folder->fd, wq_temp_name(items[i].temp_path), folder->fd, items[i].key);
    }
}

static void publish_files(wq_folder *folder, wq_publish *items, size_t n)
{
    place placed[BATCH] = {NOT_PLACED};
    int any = 0;
    for (size_t i = 0; i < n; i++)
        prepare_item(folder, &items[i]);
    if (folder->sync)
        sync_contents(folder, items, n);
    for (size_t i = 0; i < n; i++)
        if (items[i].result == WQ_OK) {
            placed[i] = place_item(folder, &items[i]);
            any |= placed[i] != NOT_PLACED;
        }
    if (any && folder->syncs_names && fsync(folder->fd) != 0)
        take_back(folder, items, placed, n);
    for (size_t i = 0; i < n; i++)
        if (placed[i] == NOT_PLACED || placed[i] == EXCHANGED)
            unlinkat(folder->fd, wq_temp_name(items[i].temp_path), 0);
    wq_temps_tidy(folder, items, n);
}

void wq_batch_publish(void *self, wq_publish *items, size_t n)
{
    for (size_t i = 0; i < n; i += BATCH)
        publish_files(self, items + i, n - i < BATCH ? n - i : BATCH);
}

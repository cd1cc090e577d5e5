/* dir.c - the store that keeps outputs as files in a folder: finding and opening them, and the
 * folder's own life. What else there is to it: temps.h, batch.h, label.h, listing.h, retain.h,
 * lock.h. What lies in the folder: folder.h. */
#include "workqueue/store/dir.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "workqueue/store/batch.h"
#include "workqueue/store/folder.h"
#include "workqueue/store/listing.h"
#include "workqueue/store/temps.h"

/* ---- reading --------------------------------------------------------------------------------- */

static int find_stored(void *self, const char *key, int64_t *made_at_ms, wq_error *error)
{
    wq_folder *folder = self;
    struct stat st;
    if (fstatat(folder->fd, key, &st, AT_SYMLINK_NOFOLLOW) == 0) {
        if (!S_ISREG(st.st_mode))
            return wq_fail(error, WQ_ERROR_SYSTEM, "%s/%s is not a regular file; remove it",
                           folder->path, key);
        wq_retain_used(folder->retain, &folder->labels, key, -1, &st);
        if (made_at_ms != NULL)
            *made_at_ms = wq_modified_ms(&st);
        return WQ_OK;
    }
    if (errno == ENOENT)
        return wq_fail(error, WQ_ERROR_NOT_FOUND, "there is no output for this yet");
    return wq_fail(error, WQ_ERROR_SYSTEM, "stat %s/%s: %s", folder->path, key, strerror(errno));
}

static int open_output(void *self, const char *key, wq_output *out, wq_error *error)
{
    wq_folder *folder = self;
    struct stat st;
    int fd = openat(folder->fd, key, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && errno == ENOENT)
        return wq_fail(error, WQ_ERROR_NOT_FOUND, "there is no output for this yet");
    if (fd < 0 || fstat(fd, &st) != 0) {
        int r =
            wq_fail(error, WQ_ERROR_SYSTEM, "open %s/%s: %s", folder->path, key, strerror(errno));
        if (fd >= 0)
            close(fd);
        return r;
    }
    wq_retain_used(folder->retain, &folder->labels, key, fd, &st);
    *out = (wq_output){
        .fd = fd, .size_bytes = (uint64_t)st.st_size, .made_at_ms = wq_modified_ms(&st)};
    wq_label_tag(&folder->labels, key, fd, &st, out->tag, sizeof out->tag);
    return WQ_OK;
}

static int path_of(void *self, const char *key, char *path, size_t size, wq_error *error)
{
    wq_folder *folder = self;
    int n = snprintf(path, size, "%s/%s", folder->path, key);
    if (n < 0 || (size_t)n >= size)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "the path does not fit in %zu bytes",
                       size);
    return WQ_OK;
}

/* Durable before it is told: else a crash brings the output back, and the job that was asked for
 * meanwhile would be answered with it. */
static int remove_stored(void *self, const char *key, wq_error *error)
{
    wq_folder *folder = self;
    if (unlinkat(folder->fd, key, 0) != 0)
        return errno == ENOENT ? wq_fail(error, WQ_ERROR_NOT_FOUND, "there is no output for this")
                               : wq_fail(error, WQ_ERROR_SYSTEM, "remove %s/%s: %s", folder->path,
                                         key, strerror(errno));
    wq_label_remove(&folder->labels, key);
    if (folder->syncs_names && fsync(folder->fd) != 0)
        return wq_fail(error, WQ_ERROR_SYSTEM, "sync the storage folder %s: %s", folder->path,
                       strerror(errno));
    return WQ_OK;
}

/* ---- open and close -------------------------------------------------------------------------- */

/* Where syncfs is known to wait for all data and metadata, and to report errors. It also writes
 * what others have left dirty there, so it is for batches: who has those has a busy disk of his
 * own. */
static int can_sync_together(int fd)
{
    struct statfs fs;
    return fstatfs(fd, &fs) == 0 && (fs.f_type == EXT4_SUPER_MAGIC || fs.f_type == XFS_SUPER_MAGIC);
}

/* What was published or deleted last before a crash is made durable, whichever it was. */
static int sync_at_open(wq_folder *folder, wq_error *error)
{
    if (!folder->sync)
        return WQ_OK;
    folder->syncs_names = fsync(folder->fd) == 0;
    if (folder->syncs_names)
        return WQ_OK;
    if (errno != EINVAL && errno != EBADF && errno != ENOSYS && errno != EOPNOTSUPP)
        return wq_fail(error, WQ_ERROR_SYSTEM, "sync the storage folder %s: %s", folder->path,
                       strerror(errno));
    wq_log(&folder->logger, WQ_LOG_WARNING,
           "the filesystem of %s cannot sync a folder (%s): after a loss of power the last outputs "
           "may be missing, or deleted ones be there again",
           folder->path, strerror(errno));
    return WQ_OK;
}

static void close_dir_store(wq_store *store)
{
    wq_folder *folder = store->self;
    wq_retain_stop(folder->retain);
    if (folder->fd >= 0) {
        wq_folder_lock_release(&folder->lock);
        close(folder->fd);
    }
    wq_labels_close(&folder->labels);
    free(folder->path);
    free(folder);
}

static void stop_folder(void *self)
{
    const wq_folder *folder = self;
    wq_folder_lock_stopping(&folder->lock);
}

static int open_path(wq_folder *folder, const char *path, wq_error *error)
{
    folder->path = realpath(path, NULL);
    if (folder->path != NULL)
        folder->fd = open(folder->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder->fd >= 0 && fstat(folder->fd, &folder->at_open) == 0)
        return WQ_OK;
    return wq_fail(error, WQ_ERROR_SYSTEM, "open the storage folder %s: %s", path, strerror(errno));
}

static int take_folder(wq_folder *folder, const wq_dir_options *o, wq_error *error)
{
    int result = open_path(folder, o->path, error);
    if (result == WQ_OK)
        result = wq_folder_lock_take(&folder->lock, folder->fd, folder->path, o->stop_ms, error);
    if (result == WQ_OK)
        result = wq_temps_sweep(folder, error);
    if (result != WQ_OK)
        return result;
    folder->labels.folder_fd = folder->fd;
    folder->labels.path = folder->path;
    folder->labels.sync = folder->sync;
    folder->labels.logger = &folder->logger;
    if ((result = wq_labels_open(&folder->labels, folder->lock.file_fd, o->program, error)) !=
        WQ_OK)
        return result;
    wq_labels_sweep(&folder->labels);
    return sync_at_open(folder, error);
}

int wq_dir_open(wq_store **out, const wq_dir_options *options, const wq_logger *logger,
                wq_error *error)
{
    wq_folder *folder = calloc(1, sizeof *folder);
    if (folder == NULL)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    folder->store = (wq_store){.self = folder,
                               .find = find_stored,
                               .open = open_output,
                               .path = path_of,
                               .begin = wq_temp_begin,
                               .publish = wq_batch_publish,
                               .discard = wq_temp_discard,
                               .remove = remove_stored,
                               .remove_set = wq_folder_remove_set,
                               .list = wq_folder_list,
                               .waits = options->sync,
                               .stop = stop_folder,
                               .close = close_dir_store};
    folder->fd = -1;
    folder->lock = (wq_folder_lock){.folder_fd = -1, .file_fd = -1, .process_fd = -1};
    folder->sync = options->sync;
    folder->logger = *logger;
    int result = take_folder(folder, options, error);
    if (result != WQ_OK) {
        close_dir_store(&folder->store);
        return result;
    }
    folder->sync_together = can_sync_together(folder->fd);
    *out = &folder->store;
    return WQ_OK;
}

int wq_dir_retain(wq_store *store, unsigned age_s, uint64_t bytes, wq_error *error)
{
    wq_folder *folder = store->self;
    return wq_retain_start(&folder->retain, &folder->labels, age_s, bytes, &folder->logger, error);
}

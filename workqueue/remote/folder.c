/* folder.c - outputs in a folder that several machines share: flock and rename.
 *
 * An output is the file KEY, as in a folder of one machine. It is made below .making, and moved to
 * its place while the lock of the folder is held, if its epoch (.epoch/KEY) allows it.
 *
 * A text is the file FOLDER/NAME below the path: its first line is the text, the rest the longer
 * part. It is written beside and renamed while the lock is held, so that readers need none. Its
 * version is a hash of it, as no two texts of ours are alike.
 */
#include <workqueue/remote.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/queue.h>
#include <sys/stat.h>
#include <unistd.h>

#include "workqueue/util/log.h"

#define LOCK_FILE ".lock"

typedef struct fence {
    LIST_ENTRY(fence) link;
    char key[WQ_KEY_SIZE];
    uint64_t epoch;
} fence;

typedef struct folder {
    wq_store store;
    int fd;
    char path[PATH_MAX];
    pthread_mutex_t lock;
    LIST_HEAD(, fence) fences; /* under the lock */
} folder;

static int fail_by_errno(wq_error *error, const char *what, const char *name)
{
    return wq_fail(error, WQ_ERROR_AWAY, "%s %s in the shared folder: %s", what, name,
                   strerror(errno));
}

/* FNV-1a. */
static void hash_text(char tag[WQ_TAG_SIZE], const char *text)
{
    uint64_t hash = 14695981039346656037ULL;
    size_t n = strlen(text);
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ (unsigned char)text[i]) * 1099511628211ULL;
    snprintf(tag, WQ_TAG_SIZE, "%016" PRIx64 "-%zu", hash, n);
}

/* The whole file, from malloc; NULL with errno. */
static char *read_file(const folder *f, const char *name)
{
    struct stat st;
    int fd = openat(f->fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    char *text = fd >= 0 && fstat(fd, &st) == 0 ? malloc((size_t)st.st_size + 1) : NULL;
    ssize_t n = text != NULL ? read(fd, text, (size_t)st.st_size) : -1;
    int saved = errno;
    if (fd >= 0)
        close(fd);
    if (n >= 0)
        text[n] = '\0';
    else
        free(text);
    errno = saved;
    return n >= 0 ? text : NULL;
}

static int get_file_text(void *self, const char *name, char text[WQ_SHARED_TEXT_SIZE],
                         char tag[WQ_TAG_SIZE], wq_error *error)
{
    char *whole = read_file(self, name);
    if (whole == NULL)
        return errno == ENOENT || errno == ENOTDIR
                   ? wq_fail(error, WQ_ERROR_NOT_FOUND, "there is no %s", name)
                   : fail_by_errno(error, "read", name);
    snprintf(text, WQ_SHARED_TEXT_SIZE, "%.*s", (int)strcspn(whole, "\n"), whole);
    hash_text(tag, text);
    free(whole);
    return WQ_OK;
}

/* Beside it first. */
static int write_file(const folder *f, const char *name, const char *text, const char *more)
{
    char temp[400];
    snprintf(temp, sizeof temp, "%s.%d", name, (int)getpid());
    int fd = openat(f->fd, temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return -1;
    int ok = dprintf(fd, "%s\n%s", text, more != NULL ? more : "") >= 0 && fsync(fd) == 0;
    ok = close(fd) == 0 && ok && renameat(f->fd, temp, f->fd, name) == 0;
    if (!ok)
        unlinkat(f->fd, temp, 0);
    return ok ? 0 : -1;
}

/* A descriptor of its own for each, so that threads exclude each other too. */
static int lock_folder(const folder *f)
{
    int fd = openat(f->fd, ".run/" LOCK_FILE, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    while (fd >= 0 && flock(fd, LOCK_EX) != 0)
        if (errno != EINTR) {
            close(fd);
            return -1;
        }
    return fd;
}

static int put_file_text(void *self, const char *name, const char *tag, const char *text,
                         const char *more, char new_tag[WQ_TAG_SIZE], wq_error *error)
{
    folder *f = self;
    char there[WQ_SHARED_TEXT_SIZE], there_tag[WQ_TAG_SIZE] = "";
    int result = WQ_OK, lock = lock_folder(f);
    if (lock < 0)
        return fail_by_errno(error, "lock", name);
    if (tag != NULL)
        result = get_file_text(self, name, there, there_tag, error);
    if (tag != NULL && (result == WQ_OK || result == WQ_ERROR_NOT_FOUND))
        result = strcmp(tag, there_tag) == 0
                     ? WQ_OK
                     : wq_fail(error, WQ_ERROR_LOCKED, "somebody else was first");
    if (result == WQ_OK && write_file(f, name, text, more) != 0)
        result = fail_by_errno(error, "write", name);
    if (result == WQ_OK)
        hash_text(new_tag, text);
    close(lock);
    return result;
}

static int get_file_more(void *self, const char *name, char **more, wq_error *error)
{
    char *whole = read_file(self, name);
    if (whole == NULL)
        return fail_by_errno(error, "read", name);
    const char *line = strchr(whole, '\n');
    *more = strdup(line != NULL ? line + 1 : "");
    free(whole);
    return *more != NULL ? WQ_OK : wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
}

static int remove_file_text(void *self, const char *name, wq_error *error)
{
    if (unlinkat(((folder *)self)->fd, name, 0) == 0 || errno == ENOENT)
        return WQ_OK;
    return fail_by_errno(error, "remove", name);
}

/* All of them, as to read one costs little. */
static int list_file_texts(void *self, const char *within, unsigned recent_s,
                           int (*each)(void *user, const char *name), void *user, wq_error *error)
{
    (void)recent_s;
    int fd = openat(((folder *)self)->fd, within, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    const struct dirent *entry;
    if (dir == NULL)
        return fail_by_errno(error, "list", within);
    while ((entry = readdir(dir)) != NULL)
        if (strchr(entry->d_name, '.') == NULL && each(user, entry->d_name))
            break;
    closedir(dir);
    return WQ_OK;
}

/* ---- outputs --------------------------------------------------------------------------------- */

static int open_file(void *self, const char *key, wq_output *out, wq_error *error)
{
    struct stat st;
    int fd = openat(((folder *)self)->fd, key, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || fstat(fd, &st) != 0) {
        int result = errno == ENOENT
                         ? wq_fail(error, WQ_ERROR_NOT_FOUND, "there is no output for this yet")
                         : fail_by_errno(error, "open", key);
        if (fd >= 0)
            close(fd);
        return result;
    }
    *out = (wq_output){.fd = fd,
                       .size_bytes = (uint64_t)st.st_size,
                       .made_at_ms = st.st_mtim.tv_sec * 1000 + st.st_mtim.tv_nsec / 1000000};
    snprintf(out->tag, sizeof out->tag, "%" PRIx64 "-%" PRIx64 "-%" PRIx64, (uint64_t)st.st_ino,
             (uint64_t)st.st_ctim.tv_sec, (uint64_t)st.st_ctim.tv_nsec);
    return WQ_OK;
}

static int find_file(void *self, const char *key, int64_t *made_at_ms, wq_error *error)
{
    wq_output output;
    int result = open_file(self, key, &output, error);
    if (result != WQ_OK)
        return result;
    close(output.fd);
    if (made_at_ms != NULL)
        *made_at_ms = output.made_at_ms;
    return WQ_OK;
}

static int path_of_file(void *self, const char *key, char *path, size_t size, wq_error *error)
{
    int n = snprintf(path, size, "%s/%s", ((folder *)self)->path, key);
    if (n < 0 || (size_t)n >= size)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "the path is too long");
    return WQ_OK;
}

static uint64_t epoch_of(const folder *f, const char *key)
{
    char name[WQ_KEY_SIZE + 8];
    snprintf(name, sizeof name, ".epoch/%s", key);
    char *text = read_file(f, name);
    uint64_t epoch = text != NULL ? strtoull(text, NULL, 10) : 0;
    free(text);
    return epoch;
}

static int describe_file(void *self, const char *key, uint64_t *epoch, uint64_t *bytes,
                         char tag[WQ_TAG_SIZE], wq_error *error)
{
    wq_output output;
    int result = open_file(self, key, &output, error);
    if (result != WQ_OK)
        return result;
    close(output.fd);
    *bytes = output.size_bytes;
    *epoch = epoch_of(self, key);
    snprintf(tag, WQ_TAG_SIZE, "%s", output.tag);
    return WQ_OK;
}

/* ---- fences ---------------------------------------------------------------------------------- */

static fence *find_file_fence_locked(folder *f, const char *key)
{
    fence *each;
    LIST_FOREACH(each, &f->fences, link)
    if (strcmp(each->key, key) == 0)
        return each;
    return NULL;
}

static uint64_t fence_of(folder *f, const char *key)
{
    pthread_mutex_lock(&f->lock);
    const fence *found = find_file_fence_locked(f, key);
    uint64_t epoch = found != NULL ? found->epoch : 0;
    pthread_mutex_unlock(&f->lock);
    return epoch;
}

static int set_file_fence(void *self, const char *key, uint64_t epoch, const char *tag)
{
    folder *f = self;
    (void)tag; /* the lock is held from the look to the rename, so the epoch is enough */
    pthread_mutex_lock(&f->lock);
    fence *found = find_file_fence_locked(f, key);
    if (epoch == 0 && found != NULL) {
        LIST_REMOVE(found, link);
        free(found);
        found = NULL;
    } else if (epoch != 0 && found == NULL && (found = calloc(1, sizeof *found)) != NULL) {
        snprintf(found->key, sizeof found->key, "%s", key);
        LIST_INSERT_HEAD(&f->fences, found, link);
    }
    if (found != NULL)
        found->epoch = epoch;
    pthread_mutex_unlock(&f->lock);
    return epoch == 0 || found != NULL ? WQ_OK : WQ_ERROR_NO_MEMORY;
}

static int probe_folder(void *self, wq_error *error)
{
    int lock = lock_folder(self);
    if (lock < 0)
        return fail_by_errno(error, "lock", ".run");
    close(lock);
    return WQ_OK;
}

static const wq_shared folder_shared = {.probe = probe_folder,
                                        .get = get_file_text,
                                        .put = put_file_text,
                                        .more = get_file_more,
                                        .remove = remove_file_text,
                                        .list = list_file_texts,
                                        .output = describe_file,
                                        .fence = set_file_fence};

/* ---- publishing ------------------------------------------------------------------------------ */

static int begin_output(void *self, const char *key, char **temp_path, wq_error *error)
{
    const folder *f = self;
    if (asprintf(temp_path, "%s/.making/%.16s-XXXXXX", f->path, key) < 0)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    int fd = mkostemp(*temp_path, O_CLOEXEC);
    if (fd < 0) {
        free(*temp_path);
        return fail_by_errno(error, "make a file for", key);
    }
    close(fd);
    return WQ_OK;
}

static void discard_output(void *self, const char *temp_path)
{
    (void)self;
    unlink(temp_path);
}

/* Is it an output at all? Then it is on the disk. */
static int check_output(const char *path, wq_error *error)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK), result = WQ_OK;
    if (fd < 0 || fstat(fd, &st) != 0)
        result = wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "Failed to stat output file: %s",
                         strerror(errno));
    else if (!S_ISREG(st.st_mode))
        result = wq_fail(error, WQ_ERROR_INVALID_ARGUMENT,
                         "invalid program: its output is not a regular file");
    else if (st.st_size == 0)
        result = wq_fail(error, WQ_ERROR_INVALID_ARGUMENT,
                         "invalid program: it should have written to its output file");
    else if (fsync(fd) != 0 && errno != EINVAL)
        result = fail_by_errno(error, "sync", path);
    if (fd >= 0)
        close(fd);
    return result;
}

/* What is in place stays unless it is to be replaced by a later epoch. */
static int stays_locked(folder *f, const wq_publish *item, uint64_t epoch)
{
    if (faccessat(f->fd, item->key, F_OK, AT_SYMLINK_NOFOLLOW) != 0)
        return 0;
    return !item->replace || (epoch != 0 && epoch_of(f, item->key) >= epoch);
}

static int put_locked(folder *f, const wq_publish *item, wq_error *error)
{
    char name[WQ_KEY_SIZE + 8], text[24];
    uint64_t epoch = fence_of(f, item->key);
    if (stays_locked(f, item, epoch)) {
        unlink(item->temp_path);
        return WQ_OK;
    }
    snprintf(name, sizeof name, ".epoch/%s", item->key);
    snprintf(text, sizeof text, "%" PRIu64, epoch);
    if (epoch != 0 && write_file(f, name, text, NULL) != 0)
        return fail_by_errno(error, "write", name);
    if (fchmodat(AT_FDCWD, item->temp_path, 0644, 0) != 0 ||
        renameat(AT_FDCWD, item->temp_path, f->fd, item->key) != 0)
        return fail_by_errno(error, "publish", item->key);
    if (fsync(f->fd) != 0 && errno != EINVAL)
        return fail_by_errno(error, "sync", item->key);
    return WQ_OK;
}

static void publish(void *self, wq_publish *items, size_t n)
{
    folder *f = self;
    for (size_t i = 0; i < n; i++) {
        wq_publish *item = &items[i];
        item->result = check_output(item->temp_path, &item->error);
        int lock = item->result == WQ_OK ? lock_folder(f) : -1;
        if (lock >= 0)
            item->result = put_locked(f, item, &item->error);
        else if (item->result == WQ_OK)
            item->result = fail_by_errno(&item->error, "lock", item->key);
        if (lock >= 0)
            close(lock);
        if (item->result != WQ_OK && item->result != WQ_ERROR_AWAY)
            unlink(item->temp_path);
    }
}

static int remove_output(void *self, const char *key, wq_error *error)
{
    if (unlinkat(((folder *)self)->fd, key, 0) == 0)
        return WQ_OK;
    return errno == ENOENT ? wq_fail(error, WQ_ERROR_NOT_FOUND, "there is no output")
                           : fail_by_errno(error, "remove", key);
}

static int remove_set(void *self, const char *server, const char *set, size_t *n, wq_error *error)
{
    (void)self, (void)server, (void)set, (void)n;
    return wq_fail(error, WQ_ERROR_SYSTEM,
                   "a folder that machines share does not know whose outputs are whose");
}

/* ---- opening and closing --------------------------------------------------------------------- */

static void close_folder(wq_store *store)
{
    folder *f = store->self;
    while (!LIST_EMPTY(&f->fences)) {
        fence *first = LIST_FIRST(&f->fences);
        LIST_REMOVE(first, link);
        free(first);
    }
    if (f->fd >= 0)
        close(f->fd);
    pthread_mutex_destroy(&f->lock);
    free(f);
}

static wq_store folder_table(folder *f)
{
    return (wq_store){.self = f,
                      .find = find_file,
                      .open = open_file,
                      .path = path_of_file,
                      .begin = begin_output,
                      .publish = publish,
                      .discard = discard_output,
                      .remove = remove_output,
                      .remove_set = remove_set,
                      .waits = 1,
                      .close = close_folder,
                      .shared = &folder_shared};
}

int wq_shared_folder_open(wq_store **out, const char *path, wq_error *error)
{
    static const char *const folders[] = {".run", ".cancel", ".probe", ".epoch", ".making"};
    folder *f = calloc(1, sizeof *f);
    if (f == NULL)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    pthread_mutex_init(&f->lock, NULL);
    f->store = folder_table(f);
    f->fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int ok = f->fd >= 0 && realpath(path, f->path) != NULL;
    for (size_t i = 0; ok && i < sizeof folders / sizeof *folders; i++)
        ok = mkdirat(f->fd, folders[i], 0700) == 0 || errno == EEXIST;
    if (!ok) {
        int result = wq_fail(error, WQ_ERROR_SYSTEM, "the folder %s cannot be used: %s", path,
                             strerror(errno));
        close_folder(&f->store);
        return result;
    }
    *out = &f->store;
    return WQ_OK;
}

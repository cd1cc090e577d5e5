/* retain.c - a folder's outputs are kept for so long, and so many bytes of them.
 *
 * When one was last used is its access time, which we set ourselves, at publishing and at each use,
 * though not more often than once in `fine_ms`: what the filesystem does about it depends on how it
 * is mounted, and the modification time is told to clients. Who reads by a descriptor of ours holds
 * a shared lock on the file, and a file that cannot be locked exclusively is left alone. What was
 * used within the last RECENT_MS goes only by age, so that the one who has waited for an output can
 * fetch it, however small the limit of bytes.
 *
 * The wall clock may jump; see clocks.h. What lies in the future is not old, but not recent either,
 * once it lies a minute ahead.
 *
 * The thread reads the folder a CHUNK at a time and then pauses for longer than that took, so that
 * a million files cost jobs nothing, and remembers at most 2 * OLDEST of them.
 */
#include "workqueue/store/retain.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "workqueue/util/clocks.h"
#include "workqueue/util/threads.h"

enum {
    CHUNK = 256,
    OLDEST = 4096,
    RECENT_MS = 60000,
    PERIOD_MS = 60000, /* between scans, at most */
    GAP_MS = 1000,     /* and at least */
};

typedef struct output {
    char name[WQ_KEY_SIZE];
    int64_t used_ms;
    uint64_t size;
} output;

struct wq_retain {
    const wq_labels *labels; /* with the folder's descriptor and path */
    int64_t age_ms, fine_ms, period_ms;
    uint64_t bytes;
    wq_logger logger;
    pthread_t thread;
    /* the thread's */
    wq_wall for_age, for_bytes;
    output *oldest; /* 2 * OLDEST, those of this scan that may have to go */
    size_t n_oldest;

    pthread_mutex_t names; /* held while a name changes its file */

    pthread_mutex_t lock;
    /* under the lock */
    pthread_cond_t changed; /* on CLOCK_MONOTONIC */
    uint64_t total;         /* bytes there are, at least */
    int closing;
};

static int64_t used_ms(const struct stat *st)
{
    return (int64_t)st->st_atim.tv_sec * 1000 + st->st_atim.tv_nsec / 1000000;
}

/* ---- what others tell ------------------------------------------------------------------------ */

void wq_retain_used(const wq_retain *retain, const wq_labels *labels, const char *name, int fd,
                    const struct stat *st)
{
    const struct timespec now[2] = {{.tv_nsec = UTIME_NOW}, {.tv_nsec = UTIME_OMIT}};
    if (retain != NULL &&
        fd >= 0) /* fails only while it is being removed, and then it stays readable */
        flock(fd, LOCK_SH | LOCK_NB);
    int64_t age_ms = wq_unix_ms() - used_ms(st);
    if (age_ms >= 0 && age_ms < (retain != NULL ? retain->fine_ms : RECENT_MS))
        return;
    /* one that cannot be touched goes too early, which is no reason not to serve it */
    if (fd >= 0)
        futimens(fd, now);
    else
        utimensat(labels->folder_fd, name, now, AT_SYMLINK_NOFOLLOW);
}

int64_t wq_retain_used_at_ms(const struct stat *st)
{
    int64_t made = (int64_t)st->st_mtim.tv_sec * 1000 + st->st_mtim.tv_nsec / 1000000;
    return used_ms(st) > made ? used_ms(st) : made;
}

void wq_retain_begin_place(wq_retain *retain)
{
    if (retain != NULL)
        pthread_mutex_lock(&retain->names);
}

void wq_retain_end_place(wq_retain *retain, const char *name)
{
    struct stat st;
    if (retain == NULL)
        return;
    pthread_mutex_unlock(&retain->names);
    if (retain->bytes == 0 ||
        fstatat(retain->labels->folder_fd, name, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return;
    pthread_mutex_lock(&retain->lock);
    retain->total += (uint64_t)st.st_size;
    if (retain->total > retain->bytes)
        pthread_cond_signal(&retain->changed);
    pthread_mutex_unlock(&retain->lock);
}

/* ---- what is old -----------------------------------------------------------------------------
 *
 * The last use may have been up to fine_ms later than what is noted. */

static int is_older(const wq_retain *r, int64_t used)
{
    return r->age_ms > 0 && r->for_age.early - used >= r->age_ms + r->fine_ms;
}

static int is_recent(const wq_retain *r, int64_t used)
{
    return used > r->for_bytes.early - RECENT_MS - r->fine_ms &&
           used < r->for_bytes.late + RECENT_MS;
}

/* ---- one scan -------------------------------------------------------------------------------- */

/* Waits until `until`, or until there is too much; nonzero: it is time to end. */
static int wait_until(wq_retain *r, int64_t until_ms, int also_for_bytes)
{
    const struct timespec t = {until_ms / 1000, until_ms % 1000 * 1000000};
    pthread_mutex_lock(&r->lock);
    while (!r->closing && !(also_for_bytes && r->bytes > 0 && r->total > r->bytes) &&
           pthread_cond_timedwait(&r->changed, &r->lock, &t) != ETIMEDOUT)
        ;
    int closing = r->closing;
    pthread_mutex_unlock(&r->lock);
    return closing;
}

/* Removes it if it is still the file that was looked at, and nobody reads it. Its space is freed by
 * the last close(), without the lock. */
static int retire_output(wq_retain *r, const output *o)
{
    struct stat st;
    int removed = 0;
    pthread_mutex_lock(&r->names);
    int fd = openat(r->labels->folder_fd, o->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    /* the lock first: who uses it by name holds one while setting the time */
    if (fd >= 0 && (flock(fd, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) &&
        fstat(fd, &st) == 0 && used_ms(&st) == o->used_ms)
        removed = unlinkat(r->labels->folder_fd, o->name, 0) == 0;
    if (removed && !r->labels->has_attributes)
        wq_label_remove(r->labels, o->name);
    pthread_mutex_unlock(&r->names);
    if (fd >= 0)
        close(fd);
    return removed;
}

static int by_use(const void *a, const void *b)
{
    const output *x = a, *y = b;
    return x->used_ms < y->used_ms ? -1 : x->used_ms > y->used_ms;
}

static void remember(wq_retain *r, const output *o)
{
    if (r->n_oldest == 2 * OLDEST) {
        qsort(r->oldest, r->n_oldest, sizeof *r->oldest, by_use);
        r->n_oldest = OLDEST;
    }
    r->oldest[r->n_oldest++] = *o;
}

/* Looks at one file; how many bytes stay. */
static uint64_t look_at(wq_retain *r, const char *name, size_t *n_removed)
{
    struct stat st;
    output o;
    if (!wq_is_key(name) || fstatat(r->labels->folder_fd, name, &st, AT_SYMLINK_NOFOLLOW) != 0 ||
        !S_ISREG(st.st_mode))
        return 0;
    memcpy(o.name, name, sizeof o.name);
    o.used_ms = used_ms(&st);
    o.size = (uint64_t)st.st_size;
    if (is_older(r, o.used_ms) && retire_output(r, &o)) {
        ++*n_removed;
        return 0;
    }
    if (r->bytes > 0 && !is_recent(r, o.used_ms))
        remember(r, &o);
    return o.size;
}

/* Reads the folder; -1: it cannot be read, or it is time to end. */
static int read_folder(wq_retain *r, uint64_t *total, size_t *n_removed)
{
    int fd = openat(r->labels->folder_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), result = 0;
    DIR *entries = fd < 0 ? NULL : fdopendir(fd);
    int64_t began = wq_monotonic_ms();
    if (entries == NULL) {
        wq_log(&r->logger, WQ_LOG_WARNING, "read %s: %s", r->labels->path, strerror(errno));
        if (fd >= 0)
            close(fd);
        return -1;
    }
    wq_wall_look(&r->for_age);
    wq_wall_look(&r->for_bytes);
    struct dirent *e;
    for (unsigned i = 1; result == 0 && (e = readdir(entries)) != NULL; i++) {
        *total += look_at(r, e->d_name, n_removed);
        if (i % CHUNK == 0) {
            int64_t took = wq_monotonic_ms() - began;
            result = wait_until(r, wq_monotonic_ms() + 4 * took + 1, 0) ? -1 : 0;
            began = wq_monotonic_ms();
        }
    }
    closedir(entries);
    return result;
}

/* Removes the least recently used until `total` is within the limit; how many have gone. */
static size_t remove_oldest(wq_retain *r, uint64_t *total)
{
    size_t n = 0;
    qsort(r->oldest, r->n_oldest, sizeof *r->oldest, by_use);
    for (size_t i = 0; i<r->n_oldest && * total> r->bytes; i++)
        if (retire_output(r, &r->oldest[i])) {
            *total -= r->oldest[i].size;
            n++;
            if (n % CHUNK == 0 && wait_until(r, wq_monotonic_ms() + 1, 0))
                break;
        }
    return n;
}

/* Nonzero: there is more to be removed than could be remembered. */
static int scan(wq_retain *r)
{
    uint64_t total = 0, published;
    size_t n_removed = 0, n_oldest = 0;
    r->n_oldest = 0;
    pthread_mutex_lock(&r->lock);
    r->total = 0; /* from here on what is published meanwhile, some of which we see too */
    pthread_mutex_unlock(&r->lock);
    if (read_folder(r, &total, &n_removed) != 0)
        return 0;
    if (r->bytes > 0 && total > r->bytes)
        n_oldest = remove_oldest(r, &total);
    pthread_mutex_lock(&r->lock);
    published = r->total;
    /* what stays although it is too much is no reason to come again before others are published */
    r->total = published + (total < r->bytes ? total : r->bytes);
    pthread_mutex_unlock(&r->lock);
    if (n_removed + n_oldest > 0)
        wq_log(&r->logger, WQ_LOG_INFO,
               "removed %zu outputs of a certain age and %zu to save space from %s", n_removed,
               n_oldest, r->labels->path);
    return r->bytes > 0 && n_oldest >= OLDEST && total > r->bytes;
}

static void *retain_main(void *arg)
{
    wq_retain *r = arg;
    int closing = 0;
    while (!closing) {
        int more = scan(r);
        int64_t now = wq_monotonic_ms();
        closing = wait_until(r, now + (r->period_ms < GAP_MS ? r->period_ms : GAP_MS), 0);
        if (!closing && !more)
            closing = wait_until(r, now + r->period_ms, 1);
    }
    return NULL;
}

/* ---- start and stop -------------------------------------------------------------------------- */

static void set_retain_times(wq_retain *r, unsigned age_s)
{
    r->age_ms = (int64_t)age_s * 1000;
    r->fine_ms = age_s > 0 && r->age_ms / 8 < RECENT_MS ? r->age_ms / 8 : RECENT_MS;
    r->period_ms = age_s > 0 && r->age_ms / 8 < PERIOD_MS ? r->age_ms / 8 : PERIOD_MS;
}

int wq_retain_start(wq_retain **out, const wq_labels *labels, unsigned age_s, uint64_t bytes,
                    const wq_logger *logger, wq_error *error)
{
    wq_retain *r = calloc(1, sizeof *r);
    if (r == NULL || (r->oldest = calloc(2 * OLDEST, sizeof *r->oldest)) == NULL) {
        free(r);
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    }
    r->labels = labels;
    r->bytes = bytes;
    r->logger = *logger;
    set_retain_times(r, age_s);
    wq_wall_start(&r->for_age, r->age_ms);
    wq_wall_start(&r->for_bytes, RECENT_MS);
    pthread_mutex_init(&r->names, NULL);
    pthread_mutex_init(&r->lock, NULL);
    wq_cond_init(&r->changed);
    int failed = wq_thread_start(&r->thread, "wq-retain", retain_main, r);
    if (failed == 0) {
        *out = r;
        return WQ_OK;
    }
    pthread_cond_destroy(&r->changed);
    pthread_mutex_destroy(&r->lock);
    pthread_mutex_destroy(&r->names);
    free(r->oldest);
    free(r);
    return wq_fail(error, WQ_ERROR_SYSTEM, "pthread_create: %s", strerror(failed));
}

void wq_retain_stop(wq_retain *retain)
{
    if (retain == NULL)
        return;
    pthread_mutex_lock(&retain->lock);
    retain->closing = 1;
    pthread_cond_signal(&retain->changed);
    pthread_mutex_unlock(&retain->lock);
    pthread_join(retain->thread, NULL);
    pthread_cond_destroy(&retain->changed);
    pthread_mutex_destroy(&retain->lock);
    pthread_mutex_destroy(&retain->names);
    free(retain->oldest);
    free(retain);
}

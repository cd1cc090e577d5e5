/* lock.c - a storage folder belongs to one open store.
 *
 * Three locks, as each fails in a way of its own:
 *
 *   LOCK_NAME      flock(), and it names the owner. Void once the file is removed, by what cleans
 *                  /tmp, say.
 *   the folder     flock(). Not everywhere: NFS has none of a folder.
 *   PROCESS_NAME   fcntl(). A process that the host has forked does not inherit it, but does
 * inherit the other two, and keeps them after the host was killed.
 *
 * So the first two are taken, or their owner is proven to be dead; and the third always. An owner
 * is dead if its process has gone from our own namespace of process ids; one of another namespace
 * is never taken for dead. What locks a file system does not know are done without.
 */
#include "workqueue/store/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "workqueue/util/clocks.h"

#define LOCK_NAME ".workqueue.lock"
#define PROCESS_NAME ".workqueue.process"
#define STOPPING "stopping"

enum {
    NOTICE_MS = 1000, /* for so long an owner that has just got its signal may not have said so */
    LOOK_PAUSE_MS = 20
};

/* What LOCK_NAME says: "PID START NAMESPACE [stopping]". Older versions wrote the PID only. */
typedef struct owner {
    long pid;                 /* 0: it names none */
    unsigned long long start; /* in clock ticks after the system's; 0: not known */
    unsigned long long space; /* the namespace of its id; 0: not known */
    int is_stopping;
} owner;

/* ---- who is the owner? ----------------------------------------------------------------------- */

static unsigned long long own_space(void)
{
    struct stat st;
    return stat("/proc/self/ns/pid", &st) == 0 ? st.st_ino : 0;
}

/* When a process began; 0 if it has gone, though perhaps nobody has waited for it, or if there is
 * no /proc. */
static unsigned long long start_of(long pid)
{
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%ld/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    text[n > 0 ? n : 0] = '\0';
    const char *at = strrchr(text, ')'); /* the name before it may have blanks */
    if (at != NULL && (strncmp(at, ") Z", 3) == 0 || strncmp(at, ") X", 3) == 0))
        return 0;
    for (int field = 2; at != NULL && field < 22; field++)
        at = strchr(at + 1, ' ');
    return at != NULL ? strtoull(at, NULL, 10) : 0;
}

static owner read_owner(int fd)
{
    char text[128];
    owner o = {0};
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    text[n > 0 ? n : 0] = '\0';
    if (sscanf(text, "%ld %llu %llu", &o.pid, &o.start, &o.space) < 1 || o.pid < 0)
        o.pid = 0;
    o.is_stopping = strstr(text, STOPPING) != NULL;
    return o;
}

static int write_owner(int fd)
{
    char text[128];
    const long pid = (long)getpid();
    int n = snprintf(text, sizeof text, "%ld %llu %llu\n", pid, start_of(pid), own_space());
    return ftruncate(fd, 0) == 0 && pwrite(fd, text, (size_t)n, 0) == n ? 0 : -1;
}

static int is_visible(const owner *o)
{
    return o->pid > 0 && (o->space == 0 || o->space == own_space());
}

/* Its id may be another process's by now. */
static int is_dead(const owner *o)
{
    return o->pid > 0 && o->start != 0 && o->space != 0 && o->space == own_space() &&
           start_of(o->pid) != o->start;
}

/* ---- taking it ------------------------------------------------------------------------------- */

static int is_unknown(int error)
{
    return error == ENOLCK || error == ENOSYS || error == EOPNOTSUPP || error == EBADF ||
           error == EINVAL;
}

/* 1: locked, or this filesystem cannot; 0: somebody else has it; -1: failed. */
static int try_flock(int fd)
{
    while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno == EWOULDBLOCK)
            return 0;
        if (errno != EINTR)
            return is_unknown(errno) && errno != ENOLCK ? 1 : -1;
    }
    return 1;
}

static int try_process_lock(int fd)
{
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(fd, F_SETLK, &whole) == 0 || is_unknown(errno))
        return 1;
    return errno == EAGAIN || errno == EACCES ? 0 : -1;
}

static int is_still(int folder_fd, int fd, const char *name)
{
    struct stat open_one, named;
    return fstat(fd, &open_one) == 0 &&
           fstatat(folder_fd, name, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
           open_one.st_ino == named.st_ino && open_one.st_dev == named.st_dev;
}

static void close_both(wq_folder_lock *lock)
{
    if (lock->process_fd >= 0)
        close(lock->process_fd);
    if (lock->file_fd >= 0)
        close(lock->file_fd);
    lock->file_fd = lock->process_fd = -1;
}

static int open_in(const wq_folder_lock *lock, const char *name)
{
    return openat(lock->folder_fd, name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
}

/* As try_flock(); if somebody else has it, `*o` is what is known of it. */
static int try_take(wq_folder_lock *lock, owner *o)
{
    if ((lock->file_fd = open_in(lock, LOCK_NAME)) < 0)
        return -1;
    int file = try_flock(lock->file_fd), folder = try_flock(lock->folder_fd);
    if (file < 0 || folder < 0)
        return -1;
    *o = read_owner(lock->file_fd);
    /* that of this process is a lock of another store of ours: closing it would undo that one's */
    if ((file == 0 || folder == 0) && !is_dead(o))
        return 0;
    if ((lock->process_fd = open_in(lock, PROCESS_NAME)) < 0)
        return -1;
    int process = try_process_lock(lock->process_fd);
    if (process != 1)
        return process;
    /* one that was removed meanwhile protects nothing */
    return is_still(lock->folder_fd, lock->file_fd, LOCK_NAME) &&
           is_still(lock->folder_fd, lock->process_fd, PROCESS_NAME);
}

static int say_owner(const owner *o, const char *path, wq_error *error)
{
    if (is_visible(o))
        return wq_fail(error, WQ_ERROR_LOCKED,
                       "the storage folder %s is in use by process %ld; give each server a folder "
                       "of its own",
                       path, o->pid);
    return wq_fail(error, WQ_ERROR_LOCKED,
                   "the storage folder %s is in use by a process that cannot be seen from here, as "
                   "of another container; give each server a folder of its own",
                   path);
}

int wq_folder_lock_take(wq_folder_lock *lock, int folder_fd, const char *path, unsigned stop_ms,
                        wq_error *error)
{
    const struct timespec pause = {.tv_nsec = LOOK_PAUSE_MS * 1000000};
    const int64_t begin = wq_monotonic_ms();
    owner o = {0};
    *lock = (wq_folder_lock){.folder_fd = folder_fd, .file_fd = -1, .process_fd = -1};
    for (;;) {
        int taken = try_take(lock, &o);
        if (taken > 0 && write_owner(lock->file_fd) == 0)
            return WQ_OK;
        if (taken != 0)
            return wq_fail(error, WQ_ERROR_SYSTEM, "lock the storage folder %s: %s", path,
                           strerror(errno));
        int64_t waited = wq_monotonic_ms() - begin;
        wq_folder_lock_release(lock);
        if (waited >= stop_ms || (waited >= NOTICE_MS && !o.is_stopping))
            return say_owner(&o, path, error);
        nanosleep(&pause, NULL);
    }
}

void wq_folder_lock_stopping(const wq_folder_lock *lock)
{
    struct stat st;
    owner o = read_owner(lock->file_fd);
    if (o.pid != (long)getpid() || o.is_stopping || fstat(lock->file_fd, &st) != 0)
        return;
    if (pwrite(lock->file_fd, STOPPING "\n", sizeof STOPPING, st.st_size) < 0) {
        /* then nobody waits for us */
    }
}

/* By LOCK_UN, as close() leaves the lock with a copy that a fork has. That of the folder is undone
 * only if it is ours: another store's would be on another descriptor. */
void wq_folder_lock_release(wq_folder_lock *lock)
{
    if (lock->file_fd >= 0) {
        flock(lock->folder_fd, LOCK_UN);
        flock(lock->file_fd, LOCK_UN);
    }
    close_both(lock);
}

/* inject.c - see inject.h.
 *
 * Whose call it is, the stack tells: frames of libc, the loader and this file are passed over, and
 * the object of the first other one decides. So what strdup() or opendir() allocate counts for who
 * called them. Below h2o_context_init() nothing counts, since libh2o lets no handler fail there.
 */
#include "inject.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>
#include <unwind.h>

static inject_control own;
inject_control *inject = &own;

const char *const inject_names[INJECT_KINDS] = {
    "nothing", "alloc", "open", "write", "read",   "sync",   "rename", "stat",   "label", "lock",
    "map",     "spawn", "fds",  "poll",  "socket", "accept", "thread", "random", "sqlite",
    "folder", "links", "unlocked", "inode"};

const int inject_errors[INJECT_KINDS] = {0,          ENOMEM, EMFILE, ENOSPC, EIO,    EIO,    EACCES,
                                         EIO,        ENOSPC, ENOLCK, ENOMEM, EAGAIN, EMFILE, ENOMEM,
                                         EADDRINUSE, EMFILE, EAGAIN, EAGAIN, 10 /* SQLITE_IOERR */,
                                         EINVAL,     EPERM,  0,      0};

/* ---- whose call is it? ----------------------------------------------------------------------- */

enum { PASS = 1, OURS = 2, H2O = 3, MAX_OBJECTS = 16, MAX_FRAMES = 64 };

static struct {
    uintptr_t from, to;
    int what;
} objects[MAX_OBJECTS];
static unsigned n_objects;
static void *context_init;
static __thread int inside __attribute__((tls_model("initial-exec")));

static int what_is(const char *path, int has_this_file)
{
    static const struct {
        const char *name;
        int what;
    } known[] = {{"/libc.", PASS},        {"/ld-linux", PASS},   {"/libasan", PASS},
                 {"/libworkqueue", OURS}, {"/libsqlite3", OURS}, {"/libjansson", OURS},
                 {"/libwslay", OURS},     {"/libh2o", H2O}};
    if (has_this_file)
        return PASS;
    if (*path == '\0')
        return OURS; /* the program that this was preloaded into */
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strstr(path, known[i].name) != NULL)
            return known[i].what;
    return 0;
}

static int note_object(struct dl_phdr_info *info, size_t size, void *unused)
{
    uintptr_t from = UINTPTR_MAX, to = 0, here = (uintptr_t)&note_object;
    (void)size;
    (void)unused;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        if (p->p_type != PT_LOAD)
            continue;
        uintptr_t start = info->dlpi_addr + p->p_vaddr;
        from = start < from ? start : from;
        to = start + p->p_memsz > to ? start + p->p_memsz : to;
    }
    int what = what_is(info->dlpi_name, here >= from && here < to);
    if (what != 0 && n_objects < MAX_OBJECTS) {
        objects[n_objects].from = from;
        objects[n_objects].to = to;
        objects[n_objects++].what = what;
    }
    return 0;
}

static int object_of(uintptr_t pc)
{
    for (unsigned i = 0; i < n_objects; i++)
        if (pc >= objects[i].from && pc < objects[i].to)
            return objects[i].what;
    return 0;
}

typedef struct walk {
    int frames, what;
    int at_start; /* below h2o_context_init() */
} walk;

static _Unwind_Reason_Code step(struct _Unwind_Context *context, void *arg)
{
    walk *w = arg;
    uintptr_t pc = _Unwind_GetIP(context);
    int what = object_of(pc);
    if (w->what == 0 && what != PASS)
        w->what = what != 0 ? what : -1;
    if (what == H2O && context_init != NULL &&
        _Unwind_FindEnclosingFunction((void *)(pc - 1)) == context_init)
        w->at_start = 1;
    return ++w->frames < MAX_FRAMES ? _URC_NO_REASON : _URC_END_OF_STACK;
}

static int is_counted(int kind)
{
    walk w = {0};
    _Unwind_Backtrace(step, &w);
    return (w.what == OURS && !w.at_start) || (kind == INJECT_ACCEPT && w.what == H2O);
}

/* Shall this call fail? Then errno is set. */
static int fails(int kind)
{
    inject_control *c = inject;
    if (__atomic_load_n(&c->kind, __ATOMIC_RELAXED) != kind || inside)
        return 0;
    inside = 1;
    int counted = is_counted(kind);
    inside = 0;
    if (!counted)
        return 0;
    unsigned hit = __atomic_add_fetch(&c->hits, 1, __ATOMIC_RELAXED);
    if (c->at == 0 || hit < c->at || (c->n != 0 && hit - c->at >= c->n))
        return 0;
    errno = inject_errors[kind];
    return 1;
}

__attribute__((constructor)) static void prepare(void)
{
    const char *path = getenv("WQ_INJECT");
    context_init = dlsym(RTLD_DEFAULT, "h2o_context_init");
    dl_iterate_phdr(note_object, NULL);
    int fd = path != NULL ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *control = mmap(NULL, sizeof *inject, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (control != MAP_FAILED)
        inject = control;
    unsetenv("LD_PRELOAD"); /* not for the programs that it runs */
    unsetenv("WQ_INJECT");
}

/* ---- memory ---------------------------------------------------------------------------------- */

/* For what is asked for while the real ones are being looked up. */
static _Alignas(16) char early[8192];
static size_t early_used;

static void *early_alloc(size_t size)
{
    size_t at = early_used;
    early_used += (size + 15) & ~(size_t)15;
    return early_used <= sizeof early ? early + at : NULL;
}

static int is_early(const void *p)
{
    return (const char *)p >= early && (const char *)p < early + sizeof early;
}

static void *(*real_malloc)(size_t);
static void *(*real_calloc)(size_t, size_t);
static void *(*real_realloc)(void *, size_t);
static void (*real_free)(void *);

static int has_real(void)
{
    static __thread int looking __attribute__((tls_model("initial-exec")));
    if (real_free != NULL)
        return 1;
    if (looking)
        return 0;
    looking = 1;
    *(void **)&real_malloc = dlsym(RTLD_NEXT, "malloc");
    *(void **)&real_calloc = dlsym(RTLD_NEXT, "calloc");
    *(void **)&real_realloc = dlsym(RTLD_NEXT, "realloc");
    *(void **)&real_free = dlsym(RTLD_NEXT, "free");
    looking = 0;
    return 1;
}

void *malloc(size_t size)
{
    if (!has_real())
        return early_alloc(size);
    return fails(INJECT_ALLOC) ? NULL : real_malloc(size);
}

void *calloc(size_t n, size_t size)
{
    if (!has_real())
        return early_alloc(n * size); /* all zero, as it is given once only */
    return fails(INJECT_ALLOC) ? NULL : real_calloc(n, size);
}

void *realloc(void *p, size_t size)
{
    if (!has_real() || is_early(p))
        return NULL;
    return fails(INJECT_ALLOC) ? NULL : real_realloc(p, size);
}

void free(void *p)
{
    if (p != NULL && !is_early(p) && has_real())
        real_free(p);
}

/* ---- calls that are passed on as they are ---------------------------------------------------- */

#define REAL(name)                                                                                 \
    static __typeof__(&name) real;                                                                 \
    if (real == NULL)                                                                              \
        *(void **)&real = dlsym(RTLD_NEXT, #name);

#define WRAP(kind, type, failure, name, parameters, arguments)                                     \
    type name parameters                                                                           \
    {                                                                                              \
        REAL(name)                                                                                 \
        return fails(INJECT_##kind) ? failure : real arguments;                                    \
    }

#define WRAP_OPEN(name, before, before_names)                                                      \
    int name(before const char *path, int flags, ...)                                              \
    {                                                                                              \
        va_list more;                                                                              \
        REAL(name)                                                                                 \
        va_start(more, flags);                                                                     \
        mode_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(more, mode_t) : 0;             \
        va_end(more);                                                                              \
        return fails(INJECT_OPEN) ? -1 : real(before_names path, flags, mode);                     \
    }

#define AT int at,
#define AT_NAME at,
#define NONE
WRAP_OPEN(open, NONE, NONE)
WRAP_OPEN(open64, NONE, NONE)
WRAP_OPEN(openat, AT, AT_NAME)
WRAP_OPEN(openat64, AT, AT_NAME)
WRAP(OPEN, DIR *, NULL, opendir, (const char *path), (path))
WRAP(OPEN, int, -1, mkdir, (const char *path, mode_t mode), (path, mode))
WRAP(OPEN, int, -1, mknodat, (int at, const char *path, mode_t mode, dev_t device),
     (at, path, mode, device))

WRAP(WRITE, ssize_t, -1, write, (int fd, const void *buf, size_t n), (fd, buf, n))
WRAP(WRITE, ssize_t, -1, pwrite, (int fd, const void *buf, size_t n, off_t at), (fd, buf, n, at))
WRAP(WRITE, ssize_t, -1, pwrite64, (int fd, const void *buf, size_t n, off64_t at),
     (fd, buf, n, at))
WRAP(WRITE, int, -1, ftruncate, (int fd, off_t size), (fd, size))
WRAP(WRITE, int, -1, ftruncate64, (int fd, off64_t size), (fd, size))
WRAP(WRITE, int, inject_errors[INJECT_WRITE], posix_fallocate, (int fd, off_t at, off_t n),
     (fd, at, n))
WRAP(READ, ssize_t, -1, pread, (int fd, void *buf, size_t n, off_t at), (fd, buf, n, at))
WRAP(READ, ssize_t, -1, pread64, (int fd, void *buf, size_t n, off64_t at), (fd, buf, n, at))

static int is_folder(int fd)
{
    struct statx st;
    REAL(statx)
    return real(fd, "", AT_EMPTY_PATH, STATX_TYPE, &st) == 0 && S_ISDIR(st.stx_mode);
}

int fsync(int fd)
{
    REAL(fsync)
    return fails(INJECT_SYNC) || (is_folder(fd) && fails(INJECT_FOLDER)) ? -1 : real(fd);
}

WRAP(SYNC, int, -1, fdatasync, (int fd), (fd))
WRAP(SYNC, int, -1, syncfs, (int fd), (fd))
WRAP(SYNC, int, -1, sync_file_range, (int fd, off64_t at, off64_t n, unsigned flags),
     (fd, at, n, flags))
WRAP(RENAME, int, -1, rename, (const char *old, const char *new), (old, new))
WRAP(RENAME, int, -1, renameat, (int a, const char *old, int b, const char *new), (a, old, b, new))

int renameat2(int a, const char *old, int b, const char *new, unsigned flags)
{
    REAL(renameat2)
    return fails(INJECT_RENAME) || (flags != 0 && fails(INJECT_LINKS))
               ? -1
               : real(a, old, b, new, flags);
}

WRAP(LINKS, int, -1, linkat, (int a, const char *old, int b, const char *new, int flags),
     (a, old, b, new, flags))

/* As if the inode of every file were that of another before. */
static int same_inode(int result, struct stat *st)
{
    if (result == 0 && S_ISREG(st->st_mode) && fails(INJECT_INODE)) {
        st->st_ino = 12;
        st->st_mtim = st->st_ctim = (struct timespec){.tv_sec = 978307200};
    }
    return result;
}

#define WRAP_STAT(name, parameters, arguments)                                                     \
    int name parameters                                                                            \
    {                                                                                              \
        REAL(name)                                                                                 \
        return fails(INJECT_STAT) ? -1 : same_inode(real arguments, st);                           \
    }

WRAP_STAT(stat, (const char *path, struct stat *st), (path, st))
WRAP_STAT(lstat, (const char *path, struct stat *st), (path, st))
WRAP_STAT(fstat, (int fd, struct stat *st), (fd, st))
WRAP_STAT(fstatat, (int at, const char *path, struct stat *st, int flags), (at, path, st, flags))
WRAP(STAT, int, -1, stat64, (const char *path, struct stat64 *st), (path, st))
WRAP(STAT, int, -1, lstat64, (const char *path, struct stat64 *st), (path, st))
WRAP(STAT, int, -1, fstat64, (int fd, struct stat64 *st), (fd, st))

ssize_t getxattr(const char *path, const char *name, void *value, size_t n);
int lsetxattr(const char *path, const char *name, const void *value, size_t n, int flags);
int fsetxattr(int fd, const char *name, const void *value, size_t n, int flags);
WRAP(LABEL, int, -1, lsetxattr,
     (const char *path, const char *name, const void *value, size_t n, int flags),
     (path, name, value, n, flags))
WRAP(LABEL, int, -1, fsetxattr, (int fd, const char *name, const void *value, size_t n, int flags),
     (fd, name, value, n, flags))

static void remove_open_file(int fd)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    path[n > 0 ? n : 0] = '\0';
    if (n > 0 && !is_folder(fd))
        unlink(path);
}

int flock(int fd, int operation)
{
    REAL(flock)
    int result = fails(INJECT_LOCK) ? -1 : real(fd, operation);
    if (result == 0 && (operation & LOCK_EX) != 0 && fails(INJECT_UNLOCKED)) {
        remove_open_file(fd);
        errno = 0;
    }
    return result;
}

WRAP(MAP, void *, MAP_FAILED, mmap, (void *at, size_t n, int prot, int flags, int fd, off_t from),
     (at, n, prot, flags, fd, from))
WRAP(MAP, void *, MAP_FAILED, mmap64,
     (void *at, size_t n, int prot, int flags, int fd, off64_t from),
     (at, n, prot, flags, fd, from))
WRAP(MAP, int, -1, mprotect, (void *at, size_t n, int prot), (at, n, prot))

WRAP(FDS, int, -1, pipe, (int fds[2]), (fds))
WRAP(FDS, int, -1, pipe2, (int fds[2], int flags), (fds, flags))
int eventfd(unsigned value, int flags);
WRAP(FDS, int, -1, eventfd, (unsigned value, int flags), (value, flags))
int timerfd_create(clockid_t clock, int flags);
WRAP(FDS, int, -1, timerfd_create, (clockid_t clock, int flags), (clock, flags))
WRAP(FDS, int, -1, epoll_create1, (int flags), (flags))
WRAP(FDS, int, -1, memfd_create, (const char *name, unsigned flags), (name, flags))
WRAP(FDS, int, -1, socketpair, (int domain, int type, int protocol, int fds[2]),
     (domain, type, protocol, fds))
WRAP(FDS, int, -1, socket, (int domain, int type, int protocol), (domain, type, protocol))

int fcntl(int fd, int command, ...)
{
    va_list more;
    REAL(fcntl)
    va_start(more, command);
    void *argument = va_arg(more, void *);
    va_end(more);
    int makes_one = command == F_DUPFD || command == F_DUPFD_CLOEXEC;
    return makes_one && fails(INJECT_FDS) ? -1 : real(fd, command, argument);
}

WRAP(POLL, int, -1, poll, (struct pollfd * fds, nfds_t n, int timeout), (fds, n, timeout))
WRAP(POLL, int, -1, epoll_ctl, (int fd, int operation, int of, struct epoll_event *event),
     (fd, operation, of, event))
WRAP(SOCKET, int, -1, bind, (int fd, const struct sockaddr *address, socklen_t n), (fd, address, n))
WRAP(SOCKET, int, -1, listen, (int fd, int backlog), (fd, backlog))
WRAP(ACCEPT, int, -1, accept, (int fd, struct sockaddr *address, socklen_t *n), (fd, address, n))
WRAP(ACCEPT, int, -1, accept4, (int fd, struct sockaddr *address, socklen_t *n, int flags),
     (fd, address, n, flags))

WRAP(THREAD, int, inject_errors[INJECT_THREAD], pthread_create,
     (pthread_t * thread, const pthread_attr_t *attr, void *(*main)(void *), void *arg),
     (thread, attr, main, arg))
WRAP(SPAWN, int, inject_errors[INJECT_SPAWN], posix_spawn,
     (pid_t * pid, const char *path, const posix_spawn_file_actions_t *files,
      const posix_spawnattr_t *attr, char *const argv[], char *const envp[]),
     (pid, path, files, attr, argv, envp))

int clone(int (*fn)(void *), void *stack, int flags, void *arg, ...)
{
    va_list more;
    REAL(clone)
    va_start(more, arg);
    void *parent_tid = va_arg(more, void *);
    va_end(more);
    return fails(INJECT_SPAWN) ? -1 : real(fn, stack, flags, arg, parent_tid);
}

ssize_t getrandom(void *buf, size_t n, unsigned flags);
WRAP(RANDOM, ssize_t, -1, getrandom, (void *buf, size_t n, unsigned flags), (buf, n, flags))

int sqlite3_step(void *statement);
WRAP(SQLITE, int, inject_errors[INJECT_SQLITE], sqlite3_step, (void *statement), (statement))

/* ---- a wall clock that is wrong -------------------------------------------------------------- */

int clock_gettime(clockid_t clock, struct timespec *t)
{
    REAL(clock_gettime)
    int result = real(clock, t);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        t->tv_sec += inject->offset_s;
    return result;
}

int gettimeofday(struct timeval *restrict t, void *restrict zone)
{
    REAL(gettimeofday)
    int result = real(t, zone);
    if (result == 0)
        t->tv_sec += inject->offset_s;
    return result;
}

time_t time(time_t *out)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out != NULL)
        *out = now.tv_sec;
    return now.tv_sec;
}

/* The kernel's "now" is the right one, and must be as wrong as ours. */
static const struct timespec *wrong_times(const struct timespec given[2], struct timespec out[2])
{
    for (int i = 0; i < 2; i++) {
        if (given != NULL)
            out[i] = given[i];
        if (given == NULL || out[i].tv_nsec == UTIME_NOW)
            clock_gettime(CLOCK_REALTIME, &out[i]);
    }
    return out;
}

int utimensat(int at, const char *path, const struct timespec times[2], int flags)
{
    struct timespec wrong[2];
    REAL(utimensat)
    return real(at, path, wrong_times(times, wrong), flags);
}

int futimens(int fd, const struct timespec times[2])
{
    struct timespec wrong[2];
    REAL(futimens)
    return real(fd, wrong_times(times, wrong));
}

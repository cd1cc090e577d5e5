/* spawn.c - starts a program: what happens between the clone and the execve.
 *
 * A child that borrows our memory, on a stack of its own. By hand and not by posix_spawn(), because
 * it must also set the group, the parent-death signal and the guard's entry, because the pidfd
 * comes with it for nothing, and for three things that cost much otherwise:
 *
 * - The child is born into its control group. To move there later, even by itself, takes a lock
 *   that every fork, exec and exit on the machine has to pass.
 * - It borrows our descriptors, too, and takes a copy of the lowest only. To copy and close all
 *   that a server with ten thousand clients has would take longer than the rest. So what the child
 *   needs should have low numbers.
 * - Nobody waits for the execve, as vfork() would have it: the thread that made the child goes on
 *   and hears of a failure with its end. With two workers on two processors that gave eight jobs in
 *   a hundred more. So all that the child needs must stay as it is, and it must not touch what
 *   is the thread's: not even errno.
 *
 * Where the memory of the control group may be limited the thread does wait, by CLONE_VFORK. The
 * child's memory is ours until the execve: if the group is full then, the kernel ends all who share
 * that memory, which is us, unless the vfork mark tells it that the child is not the one to end.
 */
#include "workqueue/process/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "workqueue/process/guard.h"

enum {
    STACK_BYTES = 64 * 1024,
    STACK_GUARD_BYTES = 64 * 1024, /* a page, whatever its size is on this machine */
    UMASK = 077
};

/* ThreadSanitizer's own clone() takes every child for a fork with memory of its own. */
#if defined(__SANITIZE_THREAD__)
#define WQ_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define WQ_TSAN 1
#endif
#endif
#ifdef WQ_TSAN
extern int __clone(int (*fn)(void *), void *stack, int flags, void *arg, ...);
#define clone __clone
#endif

/* ---- in the child, before it executes the program ----------------------------------------------
 *
 * It shares our memory, and where calls can be made without errno, it runs beside us: nothing here
 * may allocate, lock or be instrumented. */

#if defined(__x86_64__) && defined(__LP64__)
#define WQ_BARE_CALLS 1

/* The result, or the error as a negative number. On each machine. */
WQ_IN_CHILD static inline long bare_call(long number, long a, long b, long c, long d, long e)
{
    long result;
    register long fourth __asm__("r10") = d, fifth __asm__("r8") = e;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "0"(number), "D"(a), "S"(b), "d"(c), "r"(fourth), "r"(fifth)
                     : "rcx", "r11", "memory");
    return result;
}
#elif defined(__aarch64__) && defined(__LP64__)
#define WQ_BARE_CALLS 1

WQ_IN_CHILD static inline long bare_call(long number, long a, long b, long c, long d, long e)
{
    register long result __asm__("x0") = a, second __asm__("x1") = b, third __asm__("x2") = c,
                         fourth __asm__("x3") = d, fifth __asm__("x4") = e,
                         call __asm__("x8") = number;
    __asm__ volatile("svc #0"
                     : "+r"(result)
                     : "r"(call), "r"(second), "r"(third), "r"(fourth), "r"(fifth)
                     : "cc", "memory");
    return result;
}
#else
#define WQ_BARE_CALLS 0

WQ_IN_CHILD static inline long bare_call(long number, long a, long b, long c, long d, long e)
{
    long result = syscall(number, a, b, c, d, e);
    return result < 0 ? -errno : result;
}
#endif

/* Of up to five arguments; the others are 0. */
#define PAD_CALL(number, a, b, c, d, e, ...)                                                       \
    bare_call((number), (long)(a), (long)(b), (long)(c), (long)(d), (long)(e))
#define CALL(...) PAD_CALL(__VA_ARGS__, 0, 0, 0, 0, 0, 0)

WQ_IN_CHILD static inline const char *note_failure(wq_spawn_plan *p, const char *call, long result)
{
    p->error = (int)-result;
    return call;
}

/* The kernel's struct sigaction, on any machine at most this long, all of it zero: SIG_DFL. */
static const unsigned long default_action[8];
static const uint64_t no_signals;
enum { KERNEL_SIGSET_BYTES = 8, FIRST_REALTIME_SIGNAL = 32, LAST_SIGNAL = 64 };

/* What the host ignores would stay ignored; what it handles must not be handled in here. */
WQ_IN_CHILD static inline void reset_signals(const wq_spawn_plan *p)
{
    int end = p->handles_none && !p->ignores_realtime ? FIRST_REALTIME_SIGNAL : LAST_SIGNAL + 1;
    for (int i = 1; i < end; i++)
        CALL(SYS_rt_sigaction, i, default_action, NULL, KERNEL_SIGSET_BYTES);
}

/* The kernel's struct linux_dirent64, at the start of what getdents64() gives. */
typedef struct fd_entry {
    uint64_t inode, next;
    unsigned short bytes;
    unsigned char type;
    char name[];
} fd_entry;

/* Those above the limit, opened before the host lowered it, are in /proc only. (By a call with
 * errno: without close_range() the thread waits for us.) */
WQ_IN_CHILD static inline void close_listed(int dir)
{
    _Alignas(fd_entry) char buf[2048];
    long n;
    while ((n = syscall(SYS_getdents64, dir, buf, sizeof buf)) > 0)
        for (long at = 0; at < n; at += ((fd_entry *)(void *)(buf + at))->bytes) {
            int fd = 0;
            for (const char *c = ((fd_entry *)(void *)(buf + at))->name; *c >= '0' && *c <= '9';
                 c++)
                fd = 10 * fd + *c - '0';
            if (fd > 2 && fd != dir)
                CALL(SYS_close, fd);
        }
}

/* For kernels, or sandboxes, without close_range(). */
WQ_IN_CHILD static inline void close_one_by_one(void)
{
    struct rlimit limit = {.rlim_cur = 1024};
    CALL(SYS_prlimit64, 0, RLIMIT_NOFILE, NULL, &limit);
    for (rlim_t fd = 3; fd < limit.rlim_cur && fd < 1U << 20; fd++)
        CALL(SYS_close, fd);
    int dir = (int)CALL(SYS_openat, AT_FDCWD, "/proc/self/fd", O_RDONLY | O_DIRECTORY);
    if (dir >= 0) {
        close_listed(dir);
        CALL(SYS_close, dir);
    }
}

/* A copy of those up to the highest that we need, instead of what we share. */
WQ_IN_CHILD static inline long unshare_files(const wq_spawn_plan *p)
{
    int top = 2;
    for (int i = 0; i < 3; i++)
        top = p->fds[i] > top ? p->fds[i] : top;
    return CALL(SYS_close_range, top + 1, ~0U, CLOSE_RANGE_UNSHARE);
}

WQ_IN_CHILD static inline const char *take_files(wq_spawn_plan *p)
{
    long r;
    if (p->shares_files && (r = unshare_files(p)) != 0)
        return note_failure(p, "close_range", r);
    for (int i = 0; i < 3; i++)
        if ((r = CALL(SYS_dup3, p->fds[i], i, 0)) < 0)
            return note_failure(p, "dup3", r);
    if (CALL(SYS_close_range, 3, ~0U, 0) != 0)
        close_one_by_one();
    return NULL;
}

/* What the host itself may not exceed stays the bound: to raise that is not allowed to all. */
WQ_IN_CHILD static inline long set_limit(int resource, struct rlimit64 want)
{
    struct rlimit64 now = {0};
    long result = CALL(SYS_prlimit64, 0, resource, NULL, &now);
    if (want.rlim_max > now.rlim_max)
        want.rlim_max = now.rlim_max;
    if (want.rlim_cur > want.rlim_max)
        want.rlim_cur = want.rlim_max;
    return result != 0 ? result : CALL(SYS_prlimit64, 0, resource, &want, NULL);
}

WQ_IN_CHILD static inline const char *restrict_self(wq_spawn_plan *p)
{
    long r;
    for (unsigned i = 0; i < p->n_limits; i++)
        if ((r = set_limit(p->limits[i].resource, p->limits[i].limit)) != 0)
            return note_failure(p, "prlimit", r);
    if (!p->allow_new_privileges && (r = CALL(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1)) != 0)
        return note_failure(p, "prctl", r);
    CALL(SYS_umask, UMASK);
    CALL(SYS_setpriority, PRIO_PROCESS, 0, 0); /* not everybody may become less nice */
    return NULL;
}

WQ_IN_CHILD static inline const char *become_program(wq_spawn_plan *p)
{
    long r;
    reset_signals(p);
    if ((r = CALL(SYS_setpgid)) != 0)
        return note_failure(p, "setpgid", r);
    if (p->guard_line != NULL)
        wq_guard_set(p->guard_line, (pid_t)CALL(SYS_getpid));
    if (p->enter >= 0 && (r = CALL(SYS_write, p->enter, "0", 1)) != 1)
        return note_failure(p, "cgroup.procs", r);
    if ((r = CALL(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL)) != 0)
        return note_failure(p, "prctl", r);
    /* If the host died before that, nobody would kill us. */
    if (CALL(SYS_getppid) != p->host)
        return note_failure(p, "getppid", -ESRCH);
    const char *failed = take_files(p);
    if (failed == NULL)
        failed = restrict_self(p);
    if (failed != NULL)
        return failed;
    CALL(SYS_rt_sigprocmask, SIG_SETMASK, &no_signals, NULL, KERNEL_SIGSET_BYTES);
    return note_failure(p, "execve", CALL(SYS_execve, p->program, p->argv, p->envp));
}

WQ_IN_CHILD static int child_main(void *arg)
{
    wq_spawn_plan *p = arg;
    p->has_begun = 1;
    p->failed = become_program(p);
    CALL(SYS_exit_group, 127);
    return 127;
}

/* ---- in the parent --------------------------------------------------------------------------- */

char *wq_spawn_stack_new(void)
{
    char *stack = mmap(NULL, STACK_GUARD_BYTES + STACK_BYTES, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED)
        return NULL;
    if (mprotect(stack, STACK_GUARD_BYTES, PROT_NONE) == 0)
        return stack;
    wq_spawn_stack_free(stack);
    return NULL;
}

void wq_spawn_stack_free(char *stack)
{
    if (stack != NULL)
        munmap(stack, STACK_GUARD_BYTES + STACK_BYTES);
}

static unsigned flags_of(const wq_spawn_plan *p)
{
    return CLONE_VM | CLONE_PIDFD | (unsigned)(p->shares_files ? CLONE_FILES : 0) |
           (unsigned)(p->waits ? CLONE_VFORK : 0);
}

/* clone3(), and in the child child_main(), which does not return: it must not go on where the
 * parent does, whose stack it has not. The pid, or the error as a negative number. */
#if WQ_BARE_CALLS && defined(__x86_64__)
static long bare_clone3(struct clone_args *args, wq_spawn_plan *p)
{
    long result;
    __asm__ volatile("syscall\n\t"
                     "test %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "mov %[plan], %%rdi\n\t"
                     "call *%[main]\n\t"
                     "hlt\n"
                     "1:"
                     : "=a"(result)
                     : "0"((long)SYS_clone3), "D"(args),
                       "S"(sizeof *args), [main] "r"(child_main), [plan] "r"(p)
                     : "rcx", "r11", "cc", "memory");
    return result;
}
#elif WQ_BARE_CALLS && defined(__aarch64__)
static long bare_clone3(struct clone_args *args, wq_spawn_plan *p)
{
    register long result __asm__("x0") = (long)args, size __asm__("x1") = sizeof *args,
                         call __asm__("x8") = SYS_clone3;
    __asm__ volatile("svc #0\n\t"
                     "cbnz x0, 1f\n\t"
                     "mov x0, %[plan]\n\t"
                     "blr %[main]\n\t"
                     "brk #1\n"
                     "1:"
                     : "+r"(result)
                     : "r"(call), "r"(size), [main] "r"(child_main), [plan] "r"(p)
                     : "cc", "memory");
    return result;
}
#endif

/* Like clone(), but into the control group, for which the C library has no call. -1 with errno,
 * ENOSYS also where this is not written for the machine. */
static pid_t clone_into(wq_spawn_plan *p, char *stack, int *pidfd)
{
#if WQ_BARE_CALLS && defined(SYS_clone3) && defined(CLONE_INTO_CGROUP)
    struct clone_args args = {.flags = flags_of(p) | CLONE_INTO_CGROUP | CLONE_CLEAR_SIGHAND,
                              .pidfd = (uintptr_t)pidfd,
                              .exit_signal = SIGCHLD,
                              .stack = (uintptr_t)stack,
                              .stack_size = STACK_GUARD_BYTES + STACK_BYTES,
                              .cgroup = (unsigned)p->group->dir};
    p->handles_none = 1;
    long result = bare_clone3(&args, p);
    if (result >= 0)
        return (pid_t)result;
    errno = (int)-result;
#else
    (void)p, (void)stack, (void)pidfd;
    errno = ENOSYS;
#endif
    return -1;
}

/* With clone() itself; where no pidfd comes with it, as in an emulator of another machine, the
 * child gets one right after, as nobody else may reap it. */
static pid_t clone_plainly(wq_spawn_plan *p, char *stack, int *pidfd)
{
    char *top = stack + STACK_GUARD_BYTES + STACK_BYTES;
    int flags = (int)flags_of(p) | SIGCHLD;
    pid_t pid = clone(child_main, top, flags, p, pidfd);
    if (pid >= 0 || errno != EINVAL)
        return pid;
    pid = clone(child_main, top, flags & ~CLONE_PIDFD, p);
    *pidfd = pid >= 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
    if (pid < 0 || *pidfd >= 0)
        return pid;
    int saved = errno;
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    errno = saved;
    return -1;
}

/* A sandbox may not know clone3(), or the kernel not let it in there: then clone(), and the child
 * tries by itself and tells why it failed. Not after EAGAIN: there is one too many, and the limit
 * that says so would not stop one that enters. */
static pid_t clone_child(wq_spawn_plan *p, char *stack, int *pidfd)
{
    p->enter = -1;
    if (p->group != NULL && p->group->dir >= 0) {
        pid_t pid = clone_into(p, stack, pidfd);
        if (pid > 0 || errno == EAGAIN)
            return pid;
    }
    p->enter = p->group != NULL ? p->group->procs : -1;
    p->handles_none = 0;
    return clone_plainly(p, stack, pidfd);
}

int wq_spawn_ignores_realtime(void)
{
    struct sigaction action;
    for (int i = SIGRTMIN; i <= SIGRTMAX; i++)
        if (sigaction(i, NULL, &action) == 0 && action.sa_handler == SIG_IGN)
            return 1;
    return 0;
}

int wq_spawn_is_traced(void)
{
    static const char tracer[] = "\nTracerPid:\t";
    char text[1024]; /* it is among the first lines */
    int fd = open("/proc/thread-self/status", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, text, sizeof text - 1) : 0;
    if (fd >= 0)
        close(fd);
    text[n > 0 ? n : 0] = '\0';
    const char *found = strstr(text, tracer);
    return found != NULL && found[sizeof tracer - 1] != '0';
}

/* No signal may be handled in the child, where a handler would find our memory but not our thread.
 * But SIGCHLD stays open where it is, as nobody handles it then (see wq_thread_start()): were it
 * blocked when a child ends, the kernel would not drop it, but wake other threads with it. */
static void block_signals(uint64_t *before)
{
    const uint64_t child = UINT64_C(1) << (SIGCHLD - 1);
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, NULL, before, KERNEL_SIGSET_BYTES);
    uint64_t all = ~UINT64_C(0) & ~(child & ~*before);
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, NULL, KERNEL_SIGSET_BYTES);
}

/* Only where the sharing of descriptors can be ended. And valgrind, which does not know clone3(),
 * gives up when it sees a child of this kind. */
static int can_run_beside(void)
{
    return WQ_BARE_CALLS && syscall(SYS_close_range, ~0U, ~0U, 0) == 0 &&
           (syscall(SYS_clone3, NULL, 0) == 0 || errno != ENOSYS);
}

/* By the bare call, since pthread_sigmask() leaves out two. */
pid_t wq_spawn(wq_spawn_plan *p, char *stack, int *pidfd)
{
    uint64_t before;
    p->failed = NULL;
    p->has_begun = 0;
    p->host = getpid();
    p->shares_files = !p->is_traced && can_run_beside();
    p->waits = !p->shares_files || (p->group != NULL && p->group->has_memory_limit);
    block_signals(&before);
    pid_t pid = clone_child(p, stack, pidfd);
    int saved = errno;
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &before, NULL, KERNEL_SIGSET_BYTES);
    if (pid < 0)
        *pidfd = -1; /* the kernel may have written a number there that it took back */
    errno = saved;
    return pid;
}

int wq_spawn_died_at_birth(wq_spawn_plan *p)
{
    if (p->has_begun || p->enter >= 0 || p->group == NULL)
        return 0;
    wq_cgroup_bar_births(p->group);
    return 1;
}

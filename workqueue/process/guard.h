/* guard.h - sees to it that a SIGKILL of this process leaves no process of a job behind.
 *
 * PR_SET_PDEATHSIG does that for the program itself, but not for what the program has started. So
 * each runner has a guard: a small program of its own (guard/workqueue-guard.c), no child of ours,
 * that sleeps until we are gone and then kills the process groups of the jobs that ran, and their
 * control groups. It finds them in a table in shared memory, one line of text per slot,
 * "K      12345\n": the mark and the group.
 *
 *   host                                   workqueue-guard
 *    | posix_spawn: socket, table, pidfd ---> | forks, so that it is nobody's child
 *    | (child of a job enters the table)      | poll: socket, pidfd
 *    |                                        |
 *    | wq_guard_close: "\n" ----------------> | farewell: ends
 *    | SIGKILL ----------- pidfd, socket ---> | kills all that is in the table, ends
 */
#ifndef WQ_PROCESS_GUARD_H
#define WQ_PROCESS_GUARD_H

#include <stddef.h>
#include <sys/types.h>

/* For code that runs in a child which still shares our memory: a sanitizer's bookkeeping there
 * would be taken for the parent's (and a call that is entered but never left again adds up). */
#if defined(__clang__) && __has_attribute(disable_sanitizer_instrumentation)
#define WQ_IN_CHILD __attribute__((disable_sanitizer_instrumentation))
#else
#define WQ_IN_CHILD __attribute__((no_sanitize("address", "thread", "undefined")))
#endif

/* Of what is agreed on with the program: arguments, descriptors, table. */
#define WQ_GUARD_VERSION "1"

enum { WQ_GUARD_DIGITS = 11, WQ_GUARD_LINE = WQ_GUARD_DIGITS + 2 };
enum { WQ_GUARD_SOCKET_FD = 3, WQ_GUARD_TABLE_FD, WQ_GUARD_HOST_FD, WQ_GUARD_END_FD };

typedef struct wq_guard {
    char *table; /* NULL: there is no guard */
    size_t table_bytes;
    int fd;               /* a socket to the guard */
    int child_was_stolen; /* somebody else in this process has reaped a child of ours at the start
                           */
} wq_guard;

/* Starts a guard, the program at `path`, for `slots` slots, and for the control groups in
 * `groups_dir` (NULL: there are none). NULL, or the name of what failed, with errno. */
const char *wq_guard_open(wq_guard *guard, const char *path, unsigned slots,
                          const char *groups_dir);

/* Sends the guard away, and waits (at most a second) until it is gone. */
void wq_guard_close(wq_guard *guard);

/* The line of one slot; NULL if there is no guard. */
char *wq_guard_line(const wq_guard *guard, unsigned slot);

/* Enters a process group. Called by the child itself, before it can have children. The mark comes
 * last: we may be killed in the middle, and half a number must not be taken for a whole one. */
WQ_IN_CHILD static inline void wq_guard_set(char *line, pid_t group)
{
    volatile char *digit = line + WQ_GUARD_DIGITS;
    for (; digit > line; digit--, group /= 10)
        *digit = group > 0 ? (char)('0' + group % 10) : ' ';
    __atomic_store_n(line, 'K', __ATOMIC_RELEASE);
}

/* Takes it out again, before the group's number can become somebody else's. */
static inline void wq_guard_clear(char *line)
{
    __atomic_store_n(line, '-', __ATOMIC_RELEASE);
}

#endif

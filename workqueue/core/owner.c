/* owner.c - what a job and a queue must know of each other's memory, and of a fork. */
#include "workqueue/core/owner.h"

#include <sys/mman.h>
#include <unistd.h>

static wq_owner *owner_of(wq_queue *queue)
{
    return (wq_owner *)queue;
}

int wq_owner_init(wq_queue *queue, void (*free)(wq_queue *queue))
{
    wq_owner *owner = owner_of(queue);
    size_t size = (size_t)sysconf(_SC_PAGESIZE);
    atomic_init(&owner->refs, 1);
    owner->free = free;
    unsigned char *mark =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mark == MAP_FAILED)
        return -1;
    *mark = 1;
    madvise(mark, size, MADV_WIPEONFORK); /* since Linux 4.14; before, a fork is not noticed */
    owner->mark = mark;
    return 0;
}

void wq_owner_ref(wq_queue *queue)
{
    atomic_fetch_add_explicit(&owner_of(queue)->refs, 1, memory_order_relaxed);
}

void wq_owner_unref(wq_queue *queue)
{
    wq_owner *owner = owner_of(queue);
    if (atomic_fetch_sub_explicit(&owner->refs, 1, memory_order_acq_rel) != 1)
        return;
    if (owner->mark != NULL)
        munmap((void *)owner->mark, (size_t)sysconf(_SC_PAGESIZE));
    owner->free(queue);
}

int wq_owner_is_forked(const wq_queue *queue)
{
    return !*((const wq_owner *)queue)->mark;
}

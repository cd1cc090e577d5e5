/* slots.c - where tokens are in a journal's file. */
#include "workqueue/journal/slots.h"

#include <stdlib.h>

/* As many as there are slots may become free, and giving one back must not fail. */
static int reserve_slots(wq_slots *slots, size_t n)
{
    if (slots->size >= n)
        return 0;
    size_t size = n < 64 ? 64 : 2 * n;
    int64_t *grown = realloc(slots->free_slots, size * sizeof *grown);
    if (grown == NULL)
        return -1;
    slots->free_slots = grown;
    slots->size = size;
    return 0;
}

static int64_t take_of(wq_slots *slots)
{
    if (slots->n_free > 0)
        return slots->free_slots[--slots->n_free];
    return reserve_slots(slots, (size_t)slots->n_slots + 1) == 0 ? ++slots->n_slots : 0;
}

int64_t wq_slots_take(wq_slots slots[2], size_t token_bytes)
{
    int is_long = token_bytes > WQ_SHORT_SLOT_BYTES;
    int64_t slot = take_of(&slots[is_long]);
    return is_long ? -slot : slot;
}

void wq_slots_give(wq_slots slots[2], int64_t slot)
{
    wq_slots *of = &slots[slot < 0];
    if (slot != 0)
        of->free_slots[of->n_free++] = slot < 0 ? -slot : slot;
}

int wq_slots_restore(wq_slots *slots, int64_t n)
{
    slots->n_slots = n;
    return reserve_slots(slots, (size_t)n + 1);
}

void wq_slots_dispose(wq_slots slots[2])
{
    free(slots[0].free_slots);
    free(slots[1].free_slots);
}

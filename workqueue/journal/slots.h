/* slots.h - where tokens are in a journal's file.
 *
 * A token is in no job's row but in a slot, a row of a table whose rows are all of one size and are
 * overwritten in place. So nothing of it is left anywhere in the file when its job has ended:
 * SQLite would zero deleted rows, but not the copies it leaves when it moves rows between pages.
 * Most tokens are short, so that those of 256 bytes and the long ones have a table each. */
#ifndef WQ_JOURNAL_SLOTS_H
#define WQ_JOURNAL_SLOTS_H

#include <sqlite3.h>
#include <stdint.h>
#include <workqueue/workqueue.h>

enum { WQ_SHORT_SLOT_BYTES = 256, WQ_LONG_SLOT_BYTES = WQ_API_TOKEN_MAX_BYTES };

/* The slots of one table. */
typedef struct wq_slots {
    int64_t *free_slots, n_slots;
    size_t n_free, size;
} wq_slots;

/* A slot for a token of so many bytes: positive a short one, negative a long one; 0: no memory. */
int64_t wq_slots_take(wq_slots slots[2], size_t token_bytes);

/* It is free again. 0 is none. */
void wq_slots_give(wq_slots slots[2], int64_t slot);

/* Room for `n` slots of which one is known to be free. 0, or -1 without memory. */
int wq_slots_restore(wq_slots *slots, int64_t n);
void wq_slots_dispose(wq_slots slots[2]);

#endif

/* tables.h - things by the text that names them, where that is random in itself: ids, digests. */
#ifndef WQ_UTIL_TABLES_H
#define WQ_UTIL_TABLES_H

#include <stddef.h>
#include <stdint.h>

/* Zeroed but for `len` and `secret`, it is an empty one. */
typedef struct wq_table {
    size_t len;      /* of each text, at least 8 */
    uint64_t secret; /* so that nobody can choose texts that share a slot */
    struct wq_table_slot *slots;
    size_t size, n; /* size: a power of two, or 0 */
} wq_table;

/* Adds a text that is not in it, borrowed until it is removed. 0, or -1 without memory; never that
 * right after one has been removed. */
int wq_table_add(wq_table *table, const char *text);

/* Removes this very text, not another that is equal; 0, or -1 if it is not in it. */
int wq_table_remove(wq_table *table, const char *text);

/* The text in it that is equal, or NULL. */
const char *wq_table_find(const wq_table *table, const char *text);

/* The next text at or behind `*at`, which begins with 0 and is moved; NULL: there is none more. In no
 * order; nothing may be added or removed in between. */
const char *wq_table_next(const wq_table *table, size_t *at);

/* Frees what it has; texts may be in it still. */
void wq_table_clear(wq_table *table);

#endif

/* tables.c - a hash table with linear probing, between a quarter and a half full at most times.
 *
 * A search tree would cost as many cache misses as it is deep; here a look costs two: the slot, and
 * the text itself. What is removed leaves no mark: those behind it move up.
 */
#include "workqueue/util/tables.h"

#include <stdlib.h>
#include <string.h>

enum { SMALLEST = 16 };

struct wq_table_slot {
    const char *text; /* NULL: free */
    uint64_t hash;
};

/* One word more of a text. The upper half of a product depends on all bits: it is mixed in. */
static uint64_t mix_word(uint64_t hash, const char *word, uint64_t multiplier)
{
    uint64_t value;
    memcpy(&value, word, sizeof value);
    hash = (hash ^ value) * multiplier;
    return hash ^ hash >> 32;
}

/* Of all characters, as those who choose what a digest is of can make its first few alike; keyed, as
 * they could make whole hashes alike else. */
static uint64_t hash_of(const wq_table *table, const char *text)
{
    const uint64_t multiplier = table->secret * 0x9e3779b97f4a7c15U | 1;
    uint64_t hash = table->secret;
    size_t at = 0;
    for (; at + sizeof hash < table->len; at += sizeof hash)
        hash = mix_word(hash, text + at, multiplier);
    return mix_word(hash, text + table->len - sizeof hash, multiplier);
}

static size_t next(const wq_table *table, size_t at)
{
    return (at + 1) & (table->size - 1);
}

static void put(wq_table *table, struct wq_table_slot slot)
{
    size_t at = slot.hash & (table->size - 1);
    while (table->slots[at].text != NULL)
        at = next(table, at);
    table->slots[at] = slot;
}

static int resize(wq_table *table, size_t size)
{
    wq_table new = *table;
    new.size = size;
    new.slots = calloc(size, sizeof *new.slots);
    if (new.slots == NULL)
        return -1;
    for (size_t i = 0; i < table->size; i++)
        if (table->slots[i].text != NULL)
            put(&new, table->slots[i]);
    free(table->slots);
    *table = new;
    return 0;
}

/* The slot of the text that is equal, or the free one where the search ends. */
static size_t look(const wq_table *table, const char *text)
{
    const uint64_t hash = hash_of(table, text);
    size_t at = hash & (table->size - 1);
    for (const struct wq_table_slot *s; (s = &table->slots[at])->text != NULL; at = next(table, at))
        if (s->hash == hash && memcmp(s->text, text, table->len) == 0)
            break;
    return at;
}

const char *wq_table_find(const wq_table *table, const char *text)
{
    return table->n == 0 ? NULL : table->slots[look(table, text)].text;
}

int wq_table_add(wq_table *table, const char *text)
{
    size_t wanted = table->size == 0 ? SMALLEST : table->size * 2;
    /* a free slot must stay, for searches to end */
    if ((table->n + 1) * 2 > table->size && resize(table, wanted) != 0 &&
        table->n + 1 >= table->size)
        return -1;
    put(table, (struct wq_table_slot){text, hash_of(table, text)});
    table->n++;
    return 0;
}

/* Fills the free slot `at` with one behind it that would not be found across the gap. */
static void close_gap(wq_table *table, size_t at)
{
    struct wq_table_slot *slots = table->slots;
    for (size_t i = next(table, at); slots[i].text != NULL; i = next(table, i)) {
        size_t from_home = (i - slots[i].hash) & (table->size - 1);
        if (from_home < ((i - at) & (table->size - 1)))
            continue;
        slots[at] = slots[i];
        slots[i].text = NULL;
        at = i;
    }
}

int wq_table_remove(wq_table *table, const char *text)
{
    if (table->n == 0)
        return -1;
    size_t at = look(table, text);
    if (table->slots[at].text != text)
        return -1;
    table->slots[at].text = NULL;
    close_gap(table, at);
    table->n--;
    /* one that has got too large only wastes memory: no harm if there is none to make it smaller */
    if (table->size > SMALLEST && table->n * 8 < table->size)
        (void)resize(table, table->size / 2);
    return 0;
}

const char *wq_table_next(const wq_table *table, size_t *at)
{
    while (*at < table->size) {
        const char *text = table->slots[(*at)++].text;
        if (text != NULL)
            return text;
    }
    return NULL;
}

void wq_table_clear(wq_table *table)
{
    free(table->slots);
    table->slots = NULL;
    table->size = table->n = 0;
}

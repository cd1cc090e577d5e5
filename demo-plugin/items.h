/* items.h - reads Overview's answer as it arrives: bytes in, one document at a time out.
 *
 *     {"selectionId": "...", "pagination": {"offset": 0, "limit": 9, "total": 9}, "items": [{...}]}
 *
 * Keys may come in any order, and more of them than we know. Only the document at hand is in
 * memory. One that is too large, or broken, does not end the reading as long as its brackets close.
 */
#ifndef ITEMS_H
#define ITEMS_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

enum { ITEMS_MAX_BYTES = 64 << 20, ITEMS_MAX_SMALL = 64 << 10 };

enum items_field { ITEMS_ID, ITEMS_TITLE, ITEMS_URL, ITEMS_PAGE, ITEMS_TEXT, ITEMS_N_FIELDS };

/* A document: what there is of it. */
struct items_document {
    json_t *fields[ITEMS_N_FIELDS]; /* NULL: not there, or null */
    const char *wrong;              /* why it is not whole, as the end of a sentence; NULL: it is */
};

void items_document_clear(struct items_document *document);

typedef struct items {
    /* Called with each element of "items", whose fields it may take; nonzero stops the reading. */
    int (*on_document)(void *user, struct items_document *document);
    void *user;
    uint64_t total; /* of "pagination", once has_total is set */
    int has_total;
    const char *problem; /* why reading failed; NULL if on_document wanted to stop */
    uint64_t offset;     /* bytes taken so far */

    /* The rest is items.c's. */
    int place;                   /* where in the answer we are, enum place */
    char *buf;                   /* the value at hand, if it is kept */
    size_t len, capacity, limit; /* limit 0: the value is skipped */
    size_t depth;                /* open brackets of the value at hand */
    int in_string, escaped, scalar, has_items;
    int key; /* which key the value at hand belongs to, enum key or enum items_field */
    struct items_document document;
} items;

void items_init(items *reader, int (*on_document)(void *user, struct items_document *document),
                void *user);
void items_dispose(items *reader);

/* Takes `n` bytes more. 0, or -1: see `problem`. */
int items_feed(items *reader, const char *data, size_t n);

/* Nonzero once the closing brace of the answer has been read. */
int items_complete(const items *reader);

#endif

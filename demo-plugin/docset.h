/* docset.h - the run of process-docset, shared by its two threads.
 *
 *     download.c: curl ─► items.c: documents ─► indexer.c: queue ─► thread: database.c, progress.c
 *
 * The first thread downloads and parses; the second makes the index and tells how far it is. The
 * queue between them is bounded, so the server is read as fast as the index grows. */
#ifndef DOCSET_H
#define DOCSET_H

#include <pthread.h>
#include <stdint.h>

#include "indexer.h"
#include "items.h"

struct docset {
    const char *server, *document_set_id, *api_token, *output;
    items items;
    uint64_t n_read; /* documents that have come */
    struct indexer indexer;
    pthread_mutex_t lock;
    char sentence[1024]; /* why it failed; under lock while both threads run */
};

/* Keeps the first sentence, which is the cause of later ones; the API token is struck out of it.
 * Returns -1. */
int docset_fail(struct docset *docset, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

int docset_has_failed(struct docset *docset);

/* Downloads the documents into docset->items. 0, or -1 and the sentence. */
int docset_download(struct docset *docset);

#endif

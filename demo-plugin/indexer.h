/* indexer.h - the thread that makes the index, and the queue before it. */
#ifndef INDEXER_H
#define INDEXER_H

#include <pthread.h>

#include "database.h"
#include "failure.h"
#include "items.h"
#include "progress.h"

/* So many documents, and bytes of them, may wait; one that has more waits alone. */
enum { INDEXER_MAX_WAITING = 256, INDEXER_MAX_WAITING_BYTES = 4 << 20 };

struct indexer {
    const char *path; /* of the database */
    struct failure *failure;
    struct database database;
    struct progress progress;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct items_document waiting[INDEXER_MAX_WAITING]; /* a ring */
    size_t first, n, n_bytes;
    uint64_t total; /* as the server has said it; 0: it has not */
    int is_over;    /* no more will come, or the thread has failed */
};

/* Creates the database and starts the thread. 0, or -1 and the failure. */
int indexer_start(struct indexer *indexer, const char *path, struct failure *failure);

/* Hands a document over, its fields with it; waits for room. -1: the thread has failed. */
int indexer_add(struct indexer *indexer, struct items_document *document, uint64_t total);

/* Ends the thread, and the database with it: finished if the documents are whole, else good for
 * nothing. 0, or -1 and the failure. */
int indexer_end(struct indexer *indexer, int is_whole);

#endif

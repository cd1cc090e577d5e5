/* indexer.c - puts documents into the database, on a thread of its own. */
#include "indexer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_NAME_BYTES = 200 };

/* ---- one document ---- */

static database_text text_of(const json_t *value)
{
    if (!json_is_string(value))
        return (database_text){NULL, 0};
    return (database_text){json_string_value(value), json_string_length(value)};
}

/* What a document that is left out is called: its title, or its id, or its place. */
static void name_document(const struct indexer *indexer, const struct items_document *document,
                          char *name, size_t size)
{
    database_text title = text_of(document->fields[ITEMS_TITLE]);
    const json_t *id = document->fields[ITEMS_ID];
    if (title.len > 0)
        progress_copy_name(name, size, title.data, title.len);
    else if (json_is_integer(id))
        snprintf(name, size, "document %lld", (long long)json_integer_value(id));
    else
        snprintf(name, size, "the document after %lld others",
                 (long long)(indexer->database.n_documents + indexer->database.n_left_out));
}

static int leave_out(struct indexer *indexer, const struct items_document *document,
                     const char *why)
{
    char name[MAX_NAME_BYTES];
    name_document(indexer, document, name, sizeof name);
    progress_left_out(&indexer->progress, name, why);
    return database_leave_out(&indexer->database, name, why);
}

/* A server that has other things to do, or somebody who looks on, may want it slow. */
static void pause_after_document(void)
{
    const char *text = getenv("PROCESS_DOCSET_PAUSE_MS");
    long ms = text == NULL ? 0 : strtol(text, NULL, 10);
    const struct timespec pause = {ms / 1000, ms % 1000 * 1000000};
    if (ms > 0)
        nanosleep(&pause, NULL);
}

static int index_document(struct indexer *indexer, const struct items_document *document)
{
    json_t *const *fields = document->fields;
    int added;
    if (document->wrong != NULL)
        return leave_out(indexer, document, document->wrong);
    if (!json_is_integer(fields[ITEMS_ID]))
        return leave_out(indexer, document, "it has no id");
    const database_document row = {.id = json_integer_value(fields[ITEMS_ID]),
                                   .title = text_of(fields[ITEMS_TITLE]),
                                   .url = text_of(fields[ITEMS_URL]),
                                   .text = text_of(fields[ITEMS_TEXT]),
                                   .page = json_integer_value(fields[ITEMS_PAGE])};
    if (database_add(&indexer->database, &row, &added) != 0)
        return -1;
    if (added)
        pause_after_document();
    return 0;
}

/* ---- the queue ---- */

static size_t bytes_of(const struct items_document *document)
{
    return json_string_length(document->fields[ITEMS_TEXT]);
}

/* Takes the next document, and how many there are to be; 0: no more will come. */
static int take_document(struct indexer *indexer, struct items_document *document, uint64_t *total)
{
    pthread_mutex_lock(&indexer->lock);
    while (indexer->n == 0 && !indexer->is_over)
        pthread_cond_wait(&indexer->changed, &indexer->lock);
    int taken = indexer->n > 0;
    if (taken) {
        *document = indexer->waiting[indexer->first];
        indexer->first = (indexer->first + 1) % INDEXER_MAX_WAITING;
        indexer->n--;
        indexer->n_bytes -= bytes_of(document);
        *total = indexer->total;
        /* Not for each: threads that wake each other for every document do little else. */
        if (indexer->n <= INDEXER_MAX_WAITING / 2 &&
            indexer->n_bytes <= INDEXER_MAX_WAITING_BYTES / 2)
            pthread_cond_signal(&indexer->changed);
    }
    pthread_mutex_unlock(&indexer->lock);
    return taken;
}

static int has_room_locked(const struct indexer *indexer, size_t bytes)
{
    return indexer->n < INDEXER_MAX_WAITING &&
           (indexer->n == 0 || indexer->n_bytes + bytes <= INDEXER_MAX_WAITING_BYTES);
}

int indexer_add(struct indexer *indexer, struct items_document *document, uint64_t total)
{
    size_t bytes = bytes_of(document);
    pthread_mutex_lock(&indexer->lock);
    while (!has_room_locked(indexer, bytes) && !indexer->is_over)
        pthread_cond_wait(&indexer->changed, &indexer->lock);
    int over = indexer->is_over;
    if (!over) {
        indexer->waiting[(indexer->first + indexer->n++) % INDEXER_MAX_WAITING] = *document;
        memset(document, 0, sizeof *document);
        indexer->n_bytes += bytes;
        indexer->total = total;
        pthread_cond_signal(&indexer->changed);
    }
    pthread_mutex_unlock(&indexer->lock);
    return over ? -1 : 0;
}

/* ---- the thread ---- */

static int fail_database(struct indexer *indexer)
{
    return failure_set(indexer->failure, "Cannot write the database %s: %s.", indexer->path,
                       database_problem(&indexer->database));
}

static void fail_thread(struct indexer *indexer)
{
    fail_database(indexer);
    pthread_mutex_lock(&indexer->lock);
    indexer->is_over = 1;
    pthread_cond_broadcast(&indexer->changed);
    pthread_mutex_unlock(&indexer->lock);
}

static void *thread_main(void *user)
{
    struct indexer *indexer = user;
    struct items_document document;
    uint64_t total;
    while (take_document(indexer, &document, &total)) {
        int r = index_document(indexer, &document);
        items_document_clear(&document);
        if (r != 0) {
            fail_thread(indexer);
            break;
        }
        progress_tell(&indexer->progress, (uint64_t)indexer->database.n_documents, total);
    }
    return NULL;
}

int indexer_start(struct indexer *indexer, const char *path, struct failure *failure)
{
    memset(indexer, 0, sizeof *indexer);
    indexer->path = path;
    indexer->failure = failure;
    pthread_mutex_init(&indexer->lock, NULL);
    pthread_cond_init(&indexer->changed, NULL);
    progress_begin(&indexer->progress);
    if (database_create(&indexer->database, path) != 0) {
        fail_database(indexer);
    } else if (pthread_create(&indexer->thread, NULL, thread_main, indexer) != 0) {
        failure_set(failure, "Cannot start a thread.");
    } else {
        return 0;
    }
    database_dispose(&indexer->database);
    return -1;
}

static int finish(struct indexer *indexer)
{
    progress_say(&indexer->progress, "saving the database");
    if (database_finish(&indexer->database) != 0)
        return fail_database(indexer);
    progress_end(&indexer->progress, (uint64_t)indexer->database.n_documents);
    return 0;
}

int indexer_end(struct indexer *indexer, int is_whole)
{
    pthread_mutex_lock(&indexer->lock);
    int failed = indexer->is_over;
    indexer->is_over = 1;
    pthread_cond_broadcast(&indexer->changed);
    pthread_mutex_unlock(&indexer->lock);
    pthread_join(indexer->thread, NULL);
    failed |= failure_is_set(indexer->failure);
    int r = !failed && is_whole ? finish(indexer) : -1;
    for (; indexer->n > 0; indexer->n--, indexer->first++)
        items_document_clear(&indexer->waiting[indexer->first % INDEXER_MAX_WAITING]);
    database_dispose(&indexer->database);
    pthread_cond_destroy(&indexer->changed);
    pthread_mutex_destroy(&indexer->lock);
    return r;
}

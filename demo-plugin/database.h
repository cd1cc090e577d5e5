/* database.h - the search database of one document set, as process-docset writes it.
 *
 *     documents(id INTEGER PRIMARY KEY, title TEXT, page INTEGER, url TEXT, text TEXT)
 *     fts: FTS5 over title and text; its contents are in documents, its rowid is documents.id
 *     facts(name TEXT PRIMARY KEY, value INTEGER): made_at_ms, documents, left_out
 *     left_out(name TEXT, why TEXT): the documents that could not be indexed
 *
 * There is one file and never one beside it: no journal, no write-ahead log. A half-written file is
 * of no use, so whoever wants it whole throws it away unless database_finish() succeeded. */
#ifndef DATABASE_H
#define DATABASE_H

#include <sqlite3.h>
#include <stddef.h>

struct database {
    sqlite3 *db;
    sqlite3_stmt *add_document, *add_words, *leave_out;
    sqlite3_int64 n_documents, n_left_out;
};

typedef struct database_text {
    const char *data; /* UTF-8; NULL: none */
    size_t len;
} database_text;

typedef struct database_document {
    sqlite3_int64 id;
    database_text title, url, text;
    sqlite3_int64 page; /* 0: it is no page of anything */
} database_document;

/* Each returns 0, or -1: database_problem() says why, until the next call. */
int database_create(struct database *database, const char *path);
/* A document whose id has been added before is left out: *added is 0. */
int database_add(struct database *database, const database_document *document, int *added);
/* Names a document that was left out, and says why. */
int database_leave_out(struct database *database, const char *name, const char *why);
int database_finish(struct database *database);

const char *database_problem(struct database *database);
void database_dispose(struct database *database);

#endif

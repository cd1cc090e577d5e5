/* database.h - the search database of one document set, as process-docset writes it.
 *
 *     documents(id INTEGER PRIMARY KEY, title TEXT, url TEXT, text TEXT)
 *     fts: FTS5 over title and text; its contents are in documents, its rowid is documents.id
 *
 * There is one file and never one beside it: no journal, no write-ahead log. A half-written file is
 * of no use, so whoever wants it whole throws it away unless database_finish() succeeded. */
#ifndef DATABASE_H
#define DATABASE_H

#include <sqlite3.h>
#include <stddef.h>

struct database {
    sqlite3 *db;
    sqlite3_stmt *add_document, *add_words;
};

typedef struct database_text {
    const char *data; /* UTF-8; NULL: none */
    size_t len;
} database_text;

/* Each returns 0, or -1: database_problem() says why, until the next call. */
int database_create(struct database *database, const char *path);
/* A document whose id has been added before is left out: *added is 0. */
int database_add(struct database *database, sqlite3_int64 id, database_text title,
                 database_text url, database_text text, int *added);
int database_finish(struct database *database);

const char *database_problem(struct database *database);
void database_dispose(struct database *database);

#endif

/* database.h - the SQLite file of a journal: found or made, checked, upgraded.
 *
 * Who opens it may then run statements of its own on it; one thread at a time. */
#ifndef WQ_JOURNAL_DATABASE_H
#define WQ_JOURNAL_DATABASE_H

#include <sqlite3.h>
#include <sys/types.h>

#include "workqueue/util/log.h"

typedef struct wq_db {
    char *path;
    sqlite3 *sqlite;
    int is_ours;   /* locked until the end: nobody else has it in use */
    int log_pages; /* of the write-ahead log, as of the last commit */
    ino_t inode;
} wq_db;

/* `db` is all zeros. WQ_ERROR_LOCKED if another process uses the file; in one that is corrupt or
 * newer nothing is changed. Closing is the caller's, also after a failure. */
int wq_db_open(wq_db *db, const char *path, int syncs, wq_error *error);
void wq_db_close(wq_db *db);

/* Has somebody taken the file away? It can be written to all the same, but nobody would find what
 * is in it. */
int wq_db_check_there(const wq_db *db, wq_error *error);

int wq_db_exec(wq_db *db, const char *sql, wq_error *error);

/* The first column of the first row, as a number or, if `text` is not NULL, as text. */
int wq_db_ask(wq_db *db, const char *sql, int64_t *number, char *text, size_t size,
              wq_error *error);

/* Says why the last call of SQLite's failed, and returns that. */
int wq_db_fail(wq_db *db, wq_error *error);

/* The write-ahead log; NULL if it is not open. */
sqlite3_file *wq_db_log(wq_db *db);

#endif

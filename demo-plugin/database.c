/* database.c - writes the search database. */
#include "database.h"

#include <string.h>

/* The file is new and nobody else's, so nothing is locked, journalled or synced; whoever runs this
 * program syncs the file when it is whole. FTS5 keeps up to `hashsize` bytes of the index before it
 * writes them, so memory stays the same however many documents come. */
static const char *const schema =
    "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA locking_mode=EXCLUSIVE;"
    "PRAGMA temp_store=MEMORY; PRAGMA cache_size=-4096;"
    "BEGIN;"
    "CREATE TABLE documents(id INTEGER PRIMARY KEY, title TEXT, url TEXT, text TEXT);"
    "CREATE VIRTUAL TABLE fts USING fts5(title, text, content='documents', content_rowid='id',"
    " tokenize='unicode61 remove_diacritics 2');"
    "INSERT INTO fts(fts, rank) VALUES('hashsize', 4194304);";

int database_create(struct database *database, const char *path)
{
    memset(database, 0, sizeof *database);
    const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
    if (sqlite3_open_v2(path, &database->db, flags, NULL) != SQLITE_OK)
        return -1;
    if (sqlite3_exec(database->db, schema, NULL, NULL, NULL) != SQLITE_OK)
        return -1;
    if (sqlite3_prepare_v2(database->db, "INSERT OR IGNORE INTO documents VALUES(?1, ?2, ?3, ?4)",
                           -1, &database->add_document, NULL) != SQLITE_OK)
        return -1;
    return sqlite3_prepare_v2(database->db,
                              "INSERT INTO fts(rowid, title, text) VALUES(?1, ?2, ?3)", -1,
                              &database->add_words, NULL) == SQLITE_OK
               ? 0
               : -1;
}

static void bind(sqlite3_stmt *statement, int index, database_text text)
{
    if (text.data == NULL)
        sqlite3_bind_null(statement, index);
    else
        sqlite3_bind_text64(statement, index, text.data, text.len, SQLITE_STATIC, SQLITE_UTF8);
}

static int run(sqlite3_stmt *statement)
{
    sqlite3_step(statement);
    return sqlite3_reset(statement) == SQLITE_OK ? 0 : -1;
}

int database_add(struct database *database, sqlite3_int64 id, database_text title,
                 database_text url, database_text text, int *added)
{
    sqlite3_bind_int64(database->add_document, 1, id);
    bind(database->add_document, 2, title);
    bind(database->add_document, 3, url);
    bind(database->add_document, 4, text);
    if (run(database->add_document) != 0)
        return -1;
    *added = sqlite3_changes(database->db) > 0;
    if (!*added)
        return 0;
    sqlite3_bind_int64(database->add_words, 1, id);
    bind(database->add_words, 2, title);
    bind(database->add_words, 3, text);
    return run(database->add_words);
}

int database_finish(struct database *database)
{
    return sqlite3_exec(database->db, "COMMIT", NULL, NULL, NULL) == SQLITE_OK ? 0 : -1;
}

const char *database_problem(struct database *database)
{
    return database->db == NULL ? "out of memory" : sqlite3_errmsg(database->db);
}

void database_dispose(struct database *database)
{
    sqlite3_finalize(database->add_document);
    sqlite3_finalize(database->add_words);
    sqlite3_close(database->db);
    memset(database, 0, sizeof *database);
}

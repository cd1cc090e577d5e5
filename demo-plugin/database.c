/* database.c - writes the search database. */
#include "database.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "words.h"

/* The file is new and nobody else's, so nothing is locked, journalled or synced; whoever runs this
 * program syncs the file when it is whole. FTS5 keeps up to `hashsize` bytes of the index before it
 * writes them, so memory stays the same however many documents come. */
static const char *const schema =
    "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA locking_mode=EXCLUSIVE;"
    "PRAGMA temp_store=MEMORY; PRAGMA cache_size=-4096;"
    "BEGIN;"
    "CREATE TABLE documents(id INTEGER PRIMARY KEY, title TEXT, page INTEGER, url TEXT, text TEXT);"
    "CREATE TABLE facts(name TEXT PRIMARY KEY, value INTEGER);"
    "CREATE TABLE left_out(name TEXT, why TEXT);"
    "CREATE VIRTUAL TABLE fts USING fts5(title, text, content='documents', content_rowid='id',"
    " tokenize='" WORDS_TOKENIZER "');"
    "INSERT INTO fts(fts, rank) VALUES('hashsize', 4194304);";

static int prepare(struct database *database, const char *sql, sqlite3_stmt **statement)
{
    return sqlite3_prepare_v2(database->db, sql, -1, statement, NULL) == SQLITE_OK ? 0 : -1;
}

int database_create(struct database *database, const char *path)
{
    memset(database, 0, sizeof *database);
    const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
    if (sqlite3_open_v2(path, &database->db, flags, NULL) != SQLITE_OK ||
        words_register(database->db) != SQLITE_OK ||
        sqlite3_exec(database->db, schema, NULL, NULL, NULL) != SQLITE_OK ||
        prepare(database, "INSERT OR IGNORE INTO documents VALUES(?1, ?2, ?3, ?4, ?5)",
                &database->add_document) != 0 ||
        prepare(database, "INSERT INTO fts(rowid, title, text) VALUES(?1, ?2, ?3)",
                &database->add_words) != 0)
        return -1;
    return prepare(database, "INSERT INTO left_out VALUES(?1, ?2)", &database->leave_out);
}

static void bind_text(sqlite3_stmt *statement, int index, database_text text)
{
    if (text.data == NULL)
        sqlite3_bind_null(statement, index);
    else
        sqlite3_bind_text64(statement, index, text.data, text.len, SQLITE_STATIC, SQLITE_UTF8);
}

static int run_statement(sqlite3_stmt *statement)
{
    sqlite3_step(statement);
    return sqlite3_reset(statement) == SQLITE_OK ? 0 : -1;
}

int database_add(struct database *database, const database_document *document, int *added)
{
    sqlite3_stmt *row = database->add_document, *words = database->add_words;
    sqlite3_bind_int64(row, 1, document->id);
    bind_text(row, 2, document->title);
    if (document->page > 0)
        sqlite3_bind_int64(row, 3, document->page);
    else
        sqlite3_bind_null(row, 3);
    bind_text(row, 4, document->url);
    bind_text(row, 5, document->text);
    if (run_statement(row) != 0)
        return -1;
    *added = sqlite3_changes(database->db) > 0;
    if (!*added)
        return 0;
    database->n_documents++;
    sqlite3_bind_int64(words, 1, document->id);
    bind_text(words, 2, document->title);
    bind_text(words, 3, document->text);
    return run_statement(words);
}

int database_leave_out(struct database *database, const char *name, const char *why)
{
    database->n_left_out++;
    sqlite3_bind_text(database->leave_out, 1, name, -1, SQLITE_STATIC);
    sqlite3_bind_text(database->leave_out, 2, why, -1, SQLITE_STATIC);
    return run_statement(database->leave_out);
}

static int64_t unix_time_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int database_finish(struct database *database)
{
    char sql[256];
    snprintf(
        sql, sizeof sql,
        "INSERT INTO facts VALUES('made_at_ms', %lld), ('documents', %lld), ('left_out', %lld);"
        "COMMIT",
        (long long)unix_time_ms(), (long long)database->n_documents,
        (long long)database->n_left_out);
    return sqlite3_exec(database->db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : -1;
}

const char *database_problem(struct database *database)
{
    return database->db == NULL ? "out of memory" : sqlite3_errmsg(database->db);
}

void database_dispose(struct database *database)
{
    sqlite3_finalize(database->add_document);
    sqlite3_finalize(database->add_words);
    sqlite3_finalize(database->leave_out);
    sqlite3_close(database->db);
    memset(database, 0, sizeof *database);
}

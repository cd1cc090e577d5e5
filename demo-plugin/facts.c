/* facts.c - reads what process-docset has written besides the documents. */
#include "facts.h"

#include <stdio.h>
#include <string.h>

enum { PATH_BYTES = 4096, LEFT_OUT_NAMED = 20 };

/* The path as an address, so that options can follow it. Published outputs never change: SQLite
 * need neither lock them nor look for a journal. */
static void make_address(char *out, const char *path)
{
    static const char options[] = "?mode=ro&immutable=1";
    out += sprintf(out, *path == '/' ? "file://" : "file:");
    for (; *path != '\0'; path++)
        out += strchr("%?#", *path) != NULL ? sprintf(out, "%%%02X", *path)
                                            : sprintf(out, "%c", *path);
    memcpy(out, options, sizeof options);
}

int facts_open(sqlite3 **db, const char *path)
{
    char address[3 * PATH_BYTES + 64];
    const int flags = SQLITE_OPEN_READONLY | SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX;
    *db = NULL;
    if (strlen(path) > PATH_BYTES)
        return SQLITE_CANTOPEN;
    make_address(address, path);
    return sqlite3_open_v2(address, db, flags, NULL);
}

static sqlite3_int64 read_fact(sqlite3 *db, const char *name)
{
    sqlite3_stmt *statement = NULL;
    sqlite3_int64 value = 0;
    if (sqlite3_prepare_v2(db, "SELECT value FROM facts WHERE name = ?1", -1, &statement, NULL) ==
        SQLITE_OK) {
        sqlite3_bind_text(statement, 1, name, -1, SQLITE_STATIC);
        if (sqlite3_step(statement) == SQLITE_ROW)
            value = sqlite3_column_int64(statement, 0);
    }
    sqlite3_finalize(statement);
    return value;
}

static int add_left_out(struct text *out, sqlite3 *db)
{
    sqlite3_stmt *statement;
    int r = sqlite3_prepare_v2(db, "SELECT name, why FROM left_out LIMIT ?1", -1, &statement, NULL);
    if (r != SQLITE_OK)
        return r;
    text_addf(out, ",\"leftOut\":[");
    sqlite3_bind_int(statement, 1, LEFT_OUT_NAMED);
    for (int n = 0; sqlite3_step(statement) == SQLITE_ROW; n++) {
        const char *name = (const char *)sqlite3_column_text(statement, 0);
        text_addf(out, "%s{\"name\":", n == 0 ? "" : ",");
        text_json_string(out, name, (size_t)sqlite3_column_bytes(statement, 0));
        const char *why = (const char *)sqlite3_column_text(statement, 1);
        text_addf(out, ",\"why\":");
        text_json_string(out, why, (size_t)sqlite3_column_bytes(statement, 1));
        text_addf(out, "}");
    }
    text_addf(out, "]");
    return sqlite3_finalize(statement);
}

int facts_add(struct text *out, sqlite3 *db)
{
    text_addf(out, "{\"madeAtMs\":%lld,\"documents\":%lld,\"nLeftOut\":%lld",
              (long long)read_fact(db, "made_at_ms"), (long long)read_fact(db, "documents"),
              (long long)read_fact(db, "left_out"));
    int r = add_left_out(out, db);
    text_addf(out, "}");
    return r;
}

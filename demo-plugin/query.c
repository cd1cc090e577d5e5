/* query.c - one search in the database. */
#include "query.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "excerpt.h"

enum {
    RANK_MS = 1500,          /* time for ranking, */
    EXCERPT_MS = 500,        /* and for excerpts */
    OPCODES_PER_LOOK = 2000, /* at the clock, of SQLite's machine */
    ROWS_PER_LOOK = 256
};

/* ---- what people write, as FTS5 wants it ---- */

/* One word or "phrase", quoted so that nothing in it has a meaning to FTS5; a star after it stays
 * what it is. Returns where the next begins. */
static const char *add_word(struct text *match, const char *p)
{
    int quoted = *p == '"';
    p += quoted;
    size_t len = strcspn(p, quoted ? "\"" : " \t\r\n\"");
    const char *next = p + len + (quoted && p[len] == '"');
    int prefix = quoted ? *next == '*' : len > 1 && p[len - 1] == '*';
    text_add(match, " \"", 2);
    text_add(match, p, len);
    text_add(match, "\"", 1);
    if (prefix)
        text_add(match, "*", 1);
    return next + (quoted && prefix);
}

/* All words must be there. NULL: too many words, or no memory. */
static char *make_match(const char *words)
{
    struct text match = {0};
    int n = 0;
    for (const char *p = words + strspn(words, " \t\r\n"); *p != '\0'; p += strspn(p, " \t\r\n")) {
        p = add_word(&match, p);
        n++;
    }
    if (n == 0)
        text_add(&match, "\"\"", 2); /* the phrase that is nowhere */
    text_add(&match, "", 1);
    if (n <= QUERY_MAX_WORDS && !match.failed)
        return match.data;
    text_dispose(&match);
    return NULL;
}

/* ---- the database ---- */

static int is_late(void *user)
{
    const struct query *query = user;
    return *query->stop || excerpt_now_ms() > query->deadline_ms;
}

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

static int open_database(struct query *query)
{
    char address[3 * QUERY_PATH_BYTES + 64];
    const int flags = SQLITE_OPEN_READONLY | SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX;
    make_address(address, query->path);
    int r = sqlite3_open_v2(address, &query->db, flags, NULL);
    if (r == SQLITE_OK)
        r = excerpt_register(query->db, &query->deadline_ms);
    if (r == SQLITE_OK)
        sqlite3_progress_handler(query->db, OPCODES_PER_LOOK, is_late, query);
    return r;
}

/* Puts a hit in its place, if it is among the best. */
static void add_hit(struct query *query, struct query_hit hit)
{
    size_t i = query->n_hits;
    query->total++;
    if (i == query->limit) {
        if (i == 0 || hit.rank >= query->hits[i - 1].rank)
            return;
        i--;
    } else {
        query->n_hits++;
    }
    for (; i > 0 && query->hits[i - 1].rank > hit.rank; i--)
        query->hits[i] = query->hits[i - 1];
    query->hits[i] = hit;
}

/* Ranks all matches, or as many as there is time for. A SQLite result code. */
static int rank(struct query *query)
{
    sqlite3_stmt *statement;
    int r = sqlite3_prepare_v2(query->db, "SELECT rowid, bm25(fts) FROM fts WHERE fts MATCH ?1", -1,
                               &statement, NULL);
    if (r != SQLITE_OK)
        return r;
    sqlite3_bind_text(statement, 1, query->match, -1, SQLITE_STATIC);
    while ((r = sqlite3_step(statement)) == SQLITE_ROW) {
        add_hit(query, (struct query_hit){sqlite3_column_int64(statement, 0),
                                          sqlite3_column_double(statement, 1)});
        if (query->total % ROWS_PER_LOOK == 0 && is_late(query))
            break;
    }
    query->complete = r == SQLITE_DONE;
    sqlite3_finalize(statement);
    return r == SQLITE_ROW || r == SQLITE_DONE || r == SQLITE_INTERRUPT ? SQLITE_OK : r;
}

static void add_column(struct text *out, const char *key, sqlite3_stmt *statement, int column)
{
    const char *value = (const char *)sqlite3_column_text(statement, column);
    text_addf(out, ",\"%s\":", key);
    text_json_string(out, value, (size_t)sqlite3_column_bytes(statement, column));
}

static void add_result(struct text *out, const struct query_hit *hit, sqlite3_stmt *statement)
{
    text_addf(out, "{\"id\":%lld", (long long)hit->id);
    add_column(out, "title", statement, 0);
    add_column(out, "url", statement, 1);
    add_column(out, "snippet", statement, 2);
    text_addf(out, ",\"rank\":%.6g}", hit->rank);
}

/* One hit, with its excerpt; or with its beginning, for when there is no time. */
static const char *const with_excerpt = "SELECT d.title, d.url, excerpt(fts, 1, ?3, ?4) FROM fts "
                                        "JOIN documents AS d ON d.id = fts.rowid"
                                        " WHERE fts MATCH ?2 AND fts.rowid = ?1";
static const char *const with_beginning =
    "SELECT title, url, substr(text, 1, 200) FROM documents WHERE id = ?1";

static int prepare_hits(struct query *query, const char *sql, sqlite3_stmt **statement)
{
    int r = sqlite3_prepare_v2(query->db, sql, -1, statement, NULL);
    if (r != SQLITE_OK || sql == with_beginning)
        return r;
    sqlite3_bind_text(*statement, 2, query->match, -1, SQLITE_STATIC);
    sqlite3_bind_text(*statement, 3, query->open, -1, SQLITE_STATIC);
    sqlite3_bind_text(*statement, 4, query->close, -1, SQLITE_STATIC);
    return SQLITE_OK;
}

static int add_results(struct query *query, struct text *out)
{
    sqlite3_stmt *best = NULL, *quick = NULL;
    int r = prepare_hits(query, with_excerpt, &best);
    if (r == SQLITE_OK)
        r = prepare_hits(query, with_beginning, &quick);
    query->deadline_ms = excerpt_now_ms() + EXCERPT_MS;
    sqlite3_progress_handler(query->db, 0, NULL, NULL); /* excerpt() looks at the clock itself */
    for (size_t i = 0; i < query->n_hits && r == SQLITE_OK; i++) {
        sqlite3_stmt *statement = is_late(query) ? quick : best;
        sqlite3_bind_int64(statement, 1, query->hits[i].id);
        if (i > 0)
            text_add(out, ",", 1);
        if (sqlite3_step(statement) == SQLITE_ROW)
            add_result(out, &query->hits[i], statement);
        r = sqlite3_reset(statement);
    }
    sqlite3_finalize(best);
    sqlite3_finalize(quick);
    return r;
}

/* ---- the answer ---- */

static void refuse(struct query *query, int status, const char *problem)
{
    query->status = status;
    query->problem = problem;
}

static void answer(struct query *query)
{
    struct text results = {0}, *body = &query->body;
    int r = rank(query);
    if (r == SQLITE_OK)
        r = add_results(query, &results);
    text_addf(body, "{\"query\":");
    text_json_string(body, query->words, strlen(query->words));
    text_addf(body, ",\"total\":%zu,\"complete\":%s,\"results\":[", query->total,
              query->complete ? "true" : "false");
    text_add(body, results.data, results.len);
    text_addf(body, "]}\n");
    if (r == SQLITE_NOTADB || r == SQLITE_ERROR)
        refuse(query, 422,
               "The output for this document set is not a database that can be "
               "searched; process-docset makes one.");
    else if (r != SQLITE_OK || results.failed || body->failed)
        refuse(query, 500, "The database of this document set cannot be read.");
    text_dispose(&results);
}

void query_run(struct query *query)
{
    query->status = 200;
    query->deadline_ms = excerpt_now_ms() + RANK_MS;
    query->match = make_match(query->words);
    if (*query->stop)
        refuse(query, 503, "The server is stopping.");
    else if (query->match == NULL)
        refuse(query, 400, "The field q has more than 32 words.");
    else if (open_database(query) != SQLITE_OK)
        refuse(query, 500, "The database of this document set cannot be opened.");
    else
        answer(query);
    sqlite3_close(query->db);
    query->db = NULL;
}

void query_dispose(struct query *query)
{
    free(query->match);
    text_dispose(&query->body);
}

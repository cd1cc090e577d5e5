/* query.c - one search in the database.
 *
 *     parse ─► match: all documents, each with its rank ─► the page of them that is wanted ─►
 * excerpts └─ used up its time on how words begin? the most common words that begin so
 */
#include "query.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "answer.h"
#include "beginnings.h"
#include "clock.h"

/* Until when, from the beginning on. All that is done besides takes no time to speak of. */
enum { MATCH_MS = 1000, WORDS_MS = 1250, MATCH_WORDS_MS = 1500 };

enum { MAX_HITS = 8 << 20, MATCH_STOPPED = SQLITE_INTERRUPT };

static void refuse(struct query *query, int status, const char *problem)
{
    query->status = status;
    query->problem = problem;
}

/* ---- the database ---- */

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
    query->watched = (struct watched){.db = query->db, .stop = query->stop};
    query->rank.parse = &query->parse;
    query->rank.match = &query->match;
    if (r == SQLITE_OK)
        r = words_register(query->db);
    return r == SQLITE_OK ? rank_register(query->db, &query->rank) : r;
}

/* ---- matches ---- */

static int add_hit(struct query *query, sqlite3_int64 id, double rank)
{
    if (query->n_hits == query->capacity) {
        size_t capacity = query->capacity == 0 ? 1024 : 2 * query->capacity;
        struct query_hit *hits =
            capacity > MAX_HITS ? NULL : realloc(query->hits, capacity * sizeof *hits);
        if (hits == NULL)
            return -1;
        query->hits = hits;
        query->capacity = capacity;
    }
    query->hits[query->n_hits++] = (struct query_hit){id, rank};
    return 0;
}

/* Collects what matches the expression until `deadline_ms`. SQLITE_OK: all of it, or
 * MATCH_STOPPED. */
static int collect(struct query *query, int64_t deadline_ms)
{
    sqlite3_stmt *statement;
    int r =
        sqlite3_prepare_v2(query->db, "SELECT rowid, relevance(fts) FROM fts WHERE fts MATCH ?1",
                           -1, &statement, NULL);
    if (r != SQLITE_OK)
        return r;
    sqlite3_bind_text(statement, 1, query->match.expression.data, -1, SQLITE_STATIC);
    watch_add(query->watch, &query->watched, deadline_ms);
    while ((r = sqlite3_step(statement)) == SQLITE_ROW &&
           add_hit(query, sqlite3_column_int64(statement, 0),
                   sqlite3_column_double(statement, 1)) == 0)
        continue;
    watch_remove(query->watch, &query->watched);
    sqlite3_finalize(statement);
    return r == SQLITE_DONE ? SQLITE_OK : r == SQLITE_ROW ? MATCH_STOPPED : r;
}

/* Replaces the hits, ascending by id, by all other documents; if there may be more hits, by those
 * up to the last. */
static int complement(struct query *query)
{
    struct query_hit *not_wanted = query->hits;
    size_t n = query->n_hits, i = 0;
    sqlite3_stmt *statement;
    int r = sqlite3_prepare_v2(query->db, "SELECT id FROM fts_docsize ORDER BY id", -1, &statement,
                               NULL);
    query->hits = NULL;
    query->n_hits = query->capacity = 0;
    while (r == SQLITE_OK && sqlite3_step(statement) == SQLITE_ROW) {
        sqlite3_int64 id = sqlite3_column_int64(statement, 0);
        while (i < n && not_wanted[i].id < id)
            i++;
        if (i == n && !query->complete)
            break;
        if ((i == n || not_wanted[i].id != id) && add_hit(query, id, 0) != 0) {
            query->complete = 0;
            break;
        }
    }
    sqlite3_finalize(statement);
    free(not_wanted);
    return r;
}

/* FTS5 has found nothing yet, as it was busy with beginnings: some of their words must do. */
static int collect_by_words(struct query *query)
{
    struct match_words words = {0};
    if (match_leaves_out_prefix(&query->parse)) {
        query->note = "What is to be left out begins too many words; longer beginnings do.";
        return SQLITE_OK;
    }
    watch_add(query->watch, &query->watched, query->begin_ms + WORDS_MS);
    beginnings_find(&words, query->db, &query->parse, query->begin_ms + WORDS_MS);
    watch_remove(query->watch, &query->watched);
    match_dispose(&query->match);
    match_write(&query->match, &query->parse, &words);
    query->rank.is_ready = 0;
    int r = collect(query, query->begin_ms + MATCH_WORDS_MS);
    text_dispose(&words.text);
    return r;
}

static int has_prefix(const struct parse *parse)
{
    for (size_t i = 0; i < parse->n_leaves; i++)
        if (parse->leaves[i].is_prefix)
            return 1;
    return 0;
}

static int find(struct query *query)
{
    match_write(&query->match, &query->parse, NULL);
    if (query->match.too_long || query->match.expression.failed)
        return SQLITE_TOOBIG;
    int r = collect(query, query->begin_ms + MATCH_MS);
    query->complete = r == SQLITE_OK;
    if (r == MATCH_STOPPED && query->n_hits == 0 && has_prefix(&query->parse) && !*query->stop)
        r = collect_by_words(query);
    if (r == MATCH_STOPPED)
        r = SQLITE_OK;
    if (r == SQLITE_OK && query->match.is_complement && (query->complete || query->n_hits > 0))
        r = complement(query);
    return r;
}

/* ---- the whole ---- */

/* An index of another version has other tables, or another tokenizer. */
static void refuse_failed(struct query *query, int r)
{
    if (r == SQLITE_NOTADB || r == SQLITE_ERROR)
        refuse(query, 422,
               "The output for this document set is no index that can be searched; process-docset "
               "makes one. Index the documents again.");
    else if (r == SQLITE_TOOBIG)
        refuse(query, 400, "This query is too long.");
    else
        refuse(query, 500, "The database of this document set cannot be read.");
}

static void search(struct query *query)
{
    int r = find(query);
    if (*query->stop) {
        refuse(query, 503, "The search was stopped.");
        return;
    }
    if (r == SQLITE_OK)
        r = answer_write(query);
    if (r != SQLITE_OK)
        refuse_failed(query, r);
}

void query_run(struct query *query)
{
    query->status = 200;
    query->begin_ms = clock_ms();
    query->words = words_open();
    if (*query->stop)
        refuse(query, 503, "The search was stopped.");
    else if (query->words == NULL)
        refuse(query, 503, "There is no memory for a search.");
    else if (parse_query(&query->parse, query->words, query->text) != 0)
        refuse(query, 400, query->parse.problem);
    else if (open_database(query) != SQLITE_OK)
        refuse(query, 500, "The database of this document set cannot be opened.");
    else
        search(query);
    sqlite3_close(query->db);
    query->db = NULL;
    words_close(query->words);
    query->words = NULL;
}

void query_dispose(struct query *query)
{
    match_dispose(&query->match);
    parse_dispose(&query->parse);
    text_dispose(&query->body);
    free(query->hits);
}

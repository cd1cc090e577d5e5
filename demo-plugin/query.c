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
#include "clock.h"
#include "facts.h"
#include "look.h"

/* Until when, from the beginning on. All that is done besides takes no time to speak of. */
enum { MATCH_MS = 1000, LOOK_MS = 1500 };

enum { MAX_HITS = 8 << 20, MATCH_STOPPED = SQLITE_INTERRUPT };

static void refuse(struct query *query, int status, const char *problem)
{
    query->status = status;
    query->problem = problem;
}

/* ---- the database ---- */

static int open_database(struct query *query)
{
    int r = facts_open(&query->db, query->path);
    query->watched = (struct watched){
        .db = query->db, .stop = query->stop, .is_gone = query->is_gone, .user = query->user};
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
    watch_add(query->watch, &query->watched, INT64_MAX);
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

static int matches(const struct parse *parse, int number, const double *counts)
{
    const struct parse_node *node = &parse->nodes[number];
    switch (node->kind) {
    case PARSE_LEAF:
        return counts[node->left] > 0;
    case PARSE_NOT:
        return !matches(parse, node->left, counts);
    case PARSE_AND:
        return matches(parse, node->left, counts) && matches(parse, node->right, counts);
    default:
        return matches(parse, node->left, counts) || matches(parse, node->right, counts);
    }
}

/* Looks through one document, until `deadline_ms`: nonzero if there is no time for more. */
static int look_at_document(struct query *query, struct look *look, sqlite3_stmt *row,
                            int64_t deadline_ms)
{
    const struct parse *parse = &query->parse;
    double counts[PARSE_MAX_LEAVES] = {0}, rank = 0;
    for (int column = 0; column < 2; column++) {
        enum parse_column other = column == 0 ? PARSE_TEXT : PARSE_TITLE;
        const char *text = (const char *)sqlite3_column_text(row, column);
        if (text != NULL &&
            look_through(look, query->words, text, (size_t)sqlite3_column_bytes(row, column), 0,
                         deadline_ms) != 0)
            return -1;
        for (size_t i = 0; text != NULL && i < parse->n_leaves; i++)
            if (parse->leaves[i].column != other)
                counts[i] += (double)look->n_of_leaf[i] * (column == 0 ? RANK_TITLE_WEIGHT : 1);
    }
    for (size_t i = 0; i < parse->n_leaves; i++)
        rank -= counts[i] / (counts[i] + 1);
    return matches(parse, parse->root, counts) ? add_hit(query, sqlite3_column_int64(row, 2), rank)
                                               : 0;
}

/* FTS5 was busy with how words begin, and has found nothing yet. What begins so many words is in so
 * many documents that some are found by looking at one after the other. */
static int collect_by_looking(struct query *query)
{
    const int64_t deadline_ms = query->begin_ms + LOOK_MS;
    unsigned char wanted[PARSE_MAX_LEAVES];
    struct look look;
    sqlite3_stmt *row;
    memset(wanted, 1, sizeof wanted);
    look_begin(&look, &query->parse, wanted);
    int r = sqlite3_prepare_v2(query->db, "SELECT title, text, id FROM documents", -1, &row, NULL);
    while (r == SQLITE_OK && clock_ms() < deadline_ms && !*query->stop &&
           sqlite3_step(row) == SQLITE_ROW && look_at_document(query, &look, row, deadline_ms) == 0)
        continue;
    sqlite3_finalize(row);
    return r;
}

static int find(struct query *query)
{
    match_write(&query->match, &query->parse);
    if (query->match.too_long || query->match.expression.failed)
        return SQLITE_TOOBIG;
    int r = collect(query, query->begin_ms + MATCH_MS);
    query->complete = r == SQLITE_OK;
    if (r == MATCH_STOPPED && query->n_hits == 0)
        return collect_by_looking(query);
    if (r == MATCH_STOPPED)
        r = SQLITE_OK;
    return r == SQLITE_OK && query->match.is_complement ? complement(query) : r;
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
    watch_remove(query->watch, &query->watched);
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

/* answer.c - puts the hits in order and writes the page of them that is wanted. */
#include "answer.h"

#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "excerpt.h"
#include "facts.h"
#include "query_state.h"

/* Until when, from the beginning of the search on. */
enum { EXCERPTS_MS = 1750, COUNTS_MS = 1850 };

enum { MAX_BITS_BYTES = 16 << 20 };

/* ---- order ---- */

/* The better first; those that are as good by their ids, so that pages fit together. */
static int compare_hits(const void *a, const void *b)
{
    const struct query_hit *x = a, *y = b;
    if (x->rank != y->rank)
        return x->rank < y->rank ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* Brings the first `n` hits to the front, in order: the rest need not be sorted. */
static void put_first(struct query_hit *hits, size_t n_hits, size_t n)
{
    size_t low = 0, high = n_hits;
    while (high - low > 1 && n < n_hits) { /* Hoare's selection of the n-th */
        struct query_hit pivot = hits[low + (high - 1 - low) / 2], swapped;
        size_t i = low, j = high - 1;
        for (;; i++, j--) {
            while (compare_hits(&hits[i], &pivot) < 0)
                i++;
            while (compare_hits(&hits[j], &pivot) > 0)
                j--;
            if (i >= j)
                break;
            swapped = hits[i];
            hits[i] = hits[j];
            hits[j] = swapped;
        }
        if (n <= j)
            high = j + 1;
        else
            low = j + 1;
        if (n == j + 1)
            break;
    }
    if (n_hits > 0)
        qsort(hits, n < n_hits ? n : n_hits, sizeof *hits, compare_hits);
}

/* ---- results ---- */

static void add_column(struct text *out, const char *key, sqlite3_stmt *statement, int column)
{
    const char *value = (const char *)sqlite3_column_text(statement, column);
    text_addf(out, ",\"%s\":", key);
    text_json_string(out, value, (size_t)sqlite3_column_bytes(statement, column));
}

static void add_snippet(struct query *query, sqlite3_stmt *statement, int column)
{
    struct text snippet = {0};
    const char *text = (const char *)sqlite3_column_text(statement, column);
    if (text != NULL)
        excerpt_add(&snippet, query->words, &query->parse, text,
                    (size_t)sqlite3_column_bytes(statement, column), query->open, query->close,
                    query->begin_ms + EXCERPTS_MS);
    text_add(&query->body, ",\"snippet\":", 11);
    text_json_string(&query->body, snippet.data == NULL ? "" : snippet.data, snippet.len);
    query->body.failed |= snippet.failed;
    text_dispose(&snippet);
}

static void add_result(struct query *query, const struct query_hit *hit, sqlite3_stmt *statement)
{
    struct text *out = &query->body;
    text_addf(out, "{\"id\":%lld", (long long)hit->id);
    add_column(out, "title", statement, 0);
    if (sqlite3_column_type(statement, 1) == SQLITE_INTEGER)
        text_addf(out, ",\"pageNumber\":%lld", (long long)sqlite3_column_int64(statement, 1));
    else
        text_addf(out, ",\"pageNumber\":null");
    add_column(out, "url", statement, 2);
    add_snippet(query, statement, 3);
    text_addf(out, ",\"rank\":%.6g}", hit->rank);
}

static int add_results(struct query *query)
{
    sqlite3_stmt *statement;
    size_t end = query->offset + query->limit;
    int r =
        sqlite3_prepare_v2(query->db, "SELECT title, page, url, text FROM documents WHERE id = ?1",
                           -1, &statement, NULL);
    put_first(query->hits, query->n_hits, end);
    text_addf(&query->body, ",\"offset\":%zu,\"results\":[", query->offset);
    for (size_t i = query->offset; i < query->n_hits && i < end && r == SQLITE_OK; i++) {
        sqlite3_bind_int64(statement, 1, query->hits[i].id);
        if (i > query->offset)
            text_add(&query->body, ",", 1);
        if (sqlite3_step(statement) == SQLITE_ROW)
            add_result(query, &query->hits[i], statement);
        r = sqlite3_reset(statement);
    }
    text_add(&query->body, "]", 1);
    sqlite3_finalize(statement);
    return r;
}

/* ---- words that are in no document together ---- */

/* The number of documents that a leaf matches; -1: it takes too long to tell. */
static sqlite3_int64 count_leaf(struct query *query, size_t leaf)
{
    sqlite3_stmt *statement = NULL;
    struct match match;
    sqlite3_int64 n = -1;
    match_write_leaf(&match, &query->parse, leaf);
    if (sqlite3_prepare_v2(query->db, "SELECT count(*) FROM fts WHERE fts MATCH ?1", -1, &statement,
                           NULL) == SQLITE_OK) {
        sqlite3_bind_text(statement, 1, match.expression.data, -1, SQLITE_STATIC);
        if (sqlite3_step(statement) == SQLITE_ROW)
            n = sqlite3_column_int64(statement, 0);
    }
    sqlite3_finalize(statement);
    match_dispose(&match);
    return n;
}

/* Where nothing was found, how many documents each word is in says what to do. */
static void add_counts(struct query *query)
{
    struct text *out = &query->body;
    if (query->n_hits > 0 || !query->complete || query->parse.n_leaves < 2)
        return;
    watch_add(query->watch, &query->watched, query->begin_ms + COUNTS_MS);
    text_addf(out, ",\"words\":[");
    for (size_t i = 0; i < query->parse.n_leaves; i++) {
        struct parse_piece shown = query->parse.leaves[i].shown;
        sqlite3_int64 n = count_leaf(query, i);
        text_addf(out, "%s{\"word\":", i == 0 ? "" : ",");
        text_json_string(out, query->text + shown.at, shown.len);
        if (n < 0)
            text_addf(out, ",\"documents\":null}");
        else
            text_addf(out, ",\"documents\":%lld}", (long long)n);
    }
    watch_add(query->watch, &query->watched, INT64_MAX);
    text_addf(out, "]");
}

/* ---- the documents that were found, for Overview ---- */

static void add_base64(struct text *out, const unsigned char *bytes, size_t n)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < n; i += 3) {
        unsigned long group = (unsigned long)bytes[i] << 16 |
                              (unsigned long)(i + 1 < n ? bytes[i + 1] : 0) << 8 |
                              (i + 2 < n ? bytes[i + 2] : 0);
        char four[4] = {digits[group >> 18], digits[group >> 12 & 63], digits[group >> 6 & 63],
                        digits[group & 63]};
        text_add(out, four, i + 2 < n ? 4 : i + 1 < n ? 3 : 2);
        text_add(out, "==", i + 2 < n ? 0 : i + 1 < n ? 1 : 2);
    }
}

/* Overview's way to name many documents: the lower halves of their ids as a set of bits, the first
 * bit the highest. */
static void add_bits(struct query *query)
{
    uint32_t most = 0;
    if (!query->wants_bits)
        return;
    for (size_t i = 0; i < query->n_hits; i++)
        most = (uint32_t)query->hits[i].id > most ? (uint32_t)query->hits[i].id : most;
    size_t n = query->n_hits == 0 ? 0 : most / 8 + 1;
    unsigned char *bits = n > MAX_BITS_BYTES ? NULL : calloc(n + 1, 1);
    text_addf(&query->body, ",\"documentIdsBitSetBase64\":%s", bits == NULL ? "null" : "\"");
    if (bits == NULL)
        return;
    for (size_t i = 0; i < query->n_hits; i++) {
        uint32_t id = (uint32_t)query->hits[i].id;
        bits[id / 8] = (unsigned char)(bits[id / 8] | 0x80 >> id % 8);
    }
    add_base64(&query->body, bits, n);
    text_add(&query->body, "\"", 1);
    free(bits);
}

static int add_index(struct query *query)
{
    text_addf(&query->body, ",\"index\":");
    int r = facts_add(&query->body, query->db);
    text_addf(&query->body, "}\n");
    return r;
}

int answer_write(struct query *query)
{
    struct text *out = &query->body;
    text_addf(out, "{\"query\":");
    text_json_string(out, query->text, strlen(query->text));
    text_addf(out, ",\"total\":%zu,\"complete\":%s", query->n_hits,
              query->complete ? "true" : "false");
    int r = add_results(query);
    add_counts(query);
    add_bits(query);
    if (r == SQLITE_OK)
        r = add_index(query);
    return out->failed ? SQLITE_NOMEM : r;
}

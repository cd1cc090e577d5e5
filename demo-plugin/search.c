/* search.c - GET /search: a query against the database that process-docset has made.
 *
 * It runs on the event loop, where it holds up the streams of everybody else, so it has a bounded
 * time: matches are ranked one by one until it is used up, and the answer then says, by
 * "complete": false, that it is the best of what was looked at. */
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

#include "excerpt.h"
#include "plugin.h"
#include "text.h"

enum {
    RANK_MS = 60,    /* time for ranking, */
    EXCERPT_MS = 40, /* and for excerpts */
    MAX_RESULTS = 100,
    DEFAULT_RESULTS = 20,
    MAX_QUERY_BYTES = 1000,
    MAX_WORDS = 32,
    MAX_MARK_BYTES = 16,
    OPCODES_PER_LOOK = 2000, /* at the clock, of SQLite's machine */
    PATH_BYTES = 4096
};

struct hit {
    sqlite3_int64 id;
    double rank; /* bm25: the lower, the better */
};

struct search {
    sqlite3 *db;
    const char *query, *open, *close; /* as asked */
    char *match;                      /* as FTS5 wants it */
    int64_t deadline_ms;
    size_t limit, n_hits, total;
    int complete;
    struct hit hits[MAX_RESULTS]; /* ascending by rank */
};

/* ---- what people write, as FTS5 wants it ---- */

/* One word or "phrase", quoted so that nothing in it has a meaning to FTS5; a star after it stays
 * what it is. Returns where the next begins. */
static const char *add_word(struct text *match, const char *p) {
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
static char *make_match(const char *query) {
    struct text match = {0};
    int words = 0;
    for (const char *p = query + strspn(query, " \t\r\n"); *p != '\0'; p += strspn(p, " \t\r\n")) {
        p = add_word(&match, p);
        words++;
    }
    text_add(&match, "", 1);
    if (words <= MAX_WORDS && !match.failed)
        return match.data;
    text_dispose(&match);
    return NULL;
}

/* ---- the database ---- */

static int on_progress(void *user) {
    const struct search *search = user;
    return excerpt_now_ms() > search->deadline_ms;
}

/* The path as an address, so that options can follow it. Published outputs never change: SQLite
 * need neither lock them nor look for a journal. */
static void make_address(char *out, const char *path) {
    out += sprintf(out, *path == '/' ? "file://" : "file:");
    for (; *path != '\0'; path++)
        out += strchr("%?#", *path) != NULL ? sprintf(out, "%%%02X", *path)
                                            : sprintf(out, "%c", *path);
    strcpy(out, "?mode=ro&immutable=1");
}

static int open_database(struct search *search, const char *path) {
    char address[3 * PATH_BYTES + 64];
    const int flags = SQLITE_OPEN_READONLY | SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX;
    make_address(address, path);
    int r = sqlite3_open_v2(address, &search->db, flags, NULL);
    if (r == SQLITE_OK)
        r = excerpt_register(search->db, &search->deadline_ms);
    if (r == SQLITE_OK)
        sqlite3_progress_handler(search->db, OPCODES_PER_LOOK, on_progress, search);
    return r;
}

/* Puts a hit in its place, if it is among the best. */
static void add_hit(struct search *search, struct hit hit) {
    size_t i = search->n_hits;
    search->total++;
    if (i == search->limit) {
        if (i == 0 || hit.rank >= search->hits[i - 1].rank)
            return;
        i--;
    } else {
        search->n_hits++;
    }
    for (; i > 0 && search->hits[i - 1].rank > hit.rank; i--)
        search->hits[i] = search->hits[i - 1];
    search->hits[i] = hit;
}

/* Ranks all matches, or as many as there is time for. A SQLite result code. */
static int rank(struct search *search) {
    sqlite3_stmt *statement;
    int r = sqlite3_prepare_v2(search->db, "SELECT rowid, bm25(fts) FROM fts WHERE fts MATCH ?1",
                               -1, &statement, NULL);
    if (r != SQLITE_OK)
        return r;
    search->deadline_ms = excerpt_now_ms() + RANK_MS;
    sqlite3_bind_text(statement, 1, search->match, -1, SQLITE_STATIC);
    while ((r = sqlite3_step(statement)) == SQLITE_ROW) {
        add_hit(search, (struct hit){sqlite3_column_int64(statement, 0),
                                     sqlite3_column_double(statement, 1)});
        if (search->total % 256 == 0 && on_progress(search))
            break;
    }
    search->complete = r == SQLITE_DONE;
    sqlite3_finalize(statement);
    return r == SQLITE_ROW || r == SQLITE_DONE || r == SQLITE_INTERRUPT ? SQLITE_OK : r;
}

static void add_column(struct text *out, const char *key, sqlite3_stmt *statement, int column) {
    const char *value = (const char *)sqlite3_column_text(statement, column);
    text_addf(out, ",\"%s\":", key);
    text_json_string(out, value, (size_t)sqlite3_column_bytes(statement, column));
}

static void add_result(struct text *out, const struct hit *hit, sqlite3_stmt *statement) {
    text_addf(out, "{\"id\":%lld", (long long)hit->id);
    add_column(out, "title", statement, 0);
    add_column(out, "url", statement, 1);
    add_column(out, "snippet", statement, 2);
    text_addf(out, ",\"rank\":%.6g}", hit->rank);
}

static int add_results(struct search *search, struct text *out) {
    sqlite3_stmt *statement;
    int r = sqlite3_prepare_v2(search->db,
                               "SELECT d.title, d.url, excerpt(fts, 1, ?3, ?4) FROM fts"
                               " JOIN documents AS d ON d.id = fts.rowid"
                               " WHERE fts MATCH ?1 AND fts.rowid = ?2",
                               -1, &statement, NULL);
    if (r != SQLITE_OK)
        return r;
    search->deadline_ms = excerpt_now_ms() + EXCERPT_MS;
    sqlite3_progress_handler(search->db, 0, NULL, NULL); /* excerpt() looks at the clock itself */
    sqlite3_bind_text(statement, 1, search->match, -1, SQLITE_STATIC);
    sqlite3_bind_text(statement, 3, search->open, -1, SQLITE_STATIC);
    sqlite3_bind_text(statement, 4, search->close, -1, SQLITE_STATIC);
    for (size_t i = 0; i < search->n_hits && r == SQLITE_OK; i++) {
        sqlite3_bind_int64(statement, 2, search->hits[i].id);
        if (i > 0)
            text_add(out, ",", 1);
        if (sqlite3_step(statement) == SQLITE_ROW)
            add_result(out, &search->hits[i], statement);
        r = sqlite3_reset(statement);
    }
    sqlite3_finalize(statement);
    return r;
}

/* ---- the answer ---- */

static int answer(struct search *search, h2o_req_t *req) {
    struct text results = {0}, body = {0};
    int r = rank(search);
    if (r == SQLITE_OK)
        r = add_results(search, &results);
    text_addf(&body, "{\"query\":");
    text_json_string(&body, search->query, strlen(search->query));
    text_addf(&body, ",\"total\":%zu,\"complete\":%s,\"results\":[", search->total,
              search->complete ? "true" : "false");
    text_add(&body, results.data, results.len);
    text_addf(&body, "]}\n");
    if (r == SQLITE_NOTADB || r == SQLITE_ERROR)
        wq_http_problem(req, 422,
                        "The output for this document set is not a database that can be searched; "
                        "process-docset makes one.");
    else if (r != SQLITE_OK || results.failed || body.failed)
        wq_http_problem(req, 500, "The database of this document set cannot be read.");
    else
        wq_http_send(req, 200, "application/json", body.data, body.len);
    text_dispose(&results);
    text_dispose(&body);
    return 0;
}

static int answer_from(struct search *search, h2o_req_t *req, const char *path) {
    int r = open_database(search, path);
    if (r == SQLITE_OK)
        answer(search, req);
    else
        wq_http_problem(req, 500, "The database of this document set cannot be opened.");
    sqlite3_close(search->db);
    return 0;
}

/* ---- the request ---- */

/* The path of the database; nonzero: there is none, and the request is answered. */
static int find_database(struct plugin *plugin, h2o_req_t *req, char *path) {
    wq_params params;
    wq_error error;
    if (wq_http_params(plugin->http, req, &params) != WQ_OK)
        return -1;
    int r = wq_output_find(plugin->queue, &params, &error);
    if (r == WQ_OK)
        r = wq_output_path(plugin->queue, &params, path, PATH_BYTES, &error);
    if (r == WQ_ERROR_NOT_FOUND)
        wq_http_problem(req, 404,
                        "There is no database for this document set yet: call POST /generate "
                        "first, and wait until it ends.");
    else if (r != WQ_OK)
        wq_http_problem(req, 500, error.message);
    return r;
}

/* One of the two marks; nonzero: it is too long. */
static int read_mark(h2o_req_t *req, const char *name, const char *fallback, const char **out) {
    const char *mark = wq_http_query(req, name);
    *out = mark == NULL ? fallback : mark;
    return strlen(*out) > MAX_MARK_BYTES;
}

static int read_limit(h2o_req_t *req, size_t *out) {
    const char *value = wq_http_query(req, "limit");
    size_t len = value == NULL ? 0 : strlen(value);
    *out = DEFAULT_RESULTS;
    if (value == NULL)
        return 0;
    if (len == 0 || len > 9 || strspn(value, "0123456789") != len)
        return -1;
    *out = strtoul(value, NULL, 10);
    if (*out > MAX_RESULTS)
        *out = MAX_RESULTS;
    return 0;
}

/* Reads what was asked for; NULL, or a sentence about what is wrong with it. */
static const char *read_query(struct search *search, h2o_req_t *req) {
    search->query = wq_http_query(req, "q");
    if (search->query == NULL)
        return "The field q, the words to search for, is missing or malformed.";
    if (strlen(search->query) > MAX_QUERY_BYTES)
        return "The field q is longer than 1000 bytes.";
    if (read_limit(req, &search->limit) != 0)
        return "The field limit must be a number.";
    if (read_mark(req, "open", "[", &search->open) || read_mark(req, "close", "]", &search->close))
        return "The fields open and close, the marks around a match, have at most 16 bytes.";
    search->match = make_match(search->query);
    return search->match == NULL ? "The field q has more than 32 words." : NULL;
}

int search_handle(struct plugin *plugin, h2o_req_t *req) {
    char path[PATH_BYTES];
    struct search search = {0};
    if (wq_http_method(req, "GET, HEAD, OPTIONS") || find_database(plugin, req, path) != WQ_OK)
        return 0;
    plugin_header(req, "cache-control", "no-store");
    const char *wrong = read_query(&search, req);
    if (wrong != NULL)
        wq_http_problem(req, 400, wrong);
    else
        answer_from(&search, req, path);
    free(search.match);
    return 0;
}

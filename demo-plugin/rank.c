/* rank.c - the ranking function: BM25 over the leaves of a query instead of FTS5's phrases, of
 * which a leaf may be several. */
#include "rank.h"

#include <math.h>

enum {
    ROWS_COUNTED = 20000,  /* from so many documents on, a word is a common one */
    WORSE_SPELLING = 1000, /* more than what all leaves can come to */
    TITLE_COLUMN = 0
};

/* How often the leaves of a query are in a document. */
struct counts {
    double any[PARSE_MAX_LEAVES], exact[PARSE_MAX_LEAVES], accented[PARSE_MAX_LEAVES];
    unsigned char asks_exact[PARSE_MAX_LEAVES];
};

static int on_counted_row(const Fts5ExtensionApi *api, Fts5Context *fts, void *user)
{
    sqlite3_int64 *n = user;
    (void)api;
    (void)fts;
    return ++*n >= ROWS_COUNTED ? SQLITE_DONE : SQLITE_OK;
}

/* Counts the documents of single words. Phrases are taken to be rare, and beginnings, which would
 * be worked out again, to be common. */
static int weigh_leaves(struct rank *rank, const Fts5ExtensionApi *api, Fts5Context *fts)
{
    sqlite3_int64 rows = 0, size = 0;
    int r = api->xRowCount(fts, &rows);
    if (r == SQLITE_OK)
        r = api->xColumnTotalSize(fts, -1, &size);
    rank->average_size = rows > 0 ? (double)size / (double)rows : 1;
    for (size_t i = 0; i < rank->match->n_phrases && r == SQLITE_OK; i++) {
        size_t leaf = rank->match->phrases[i].leaf;
        if (rank->match->phrases[i].role != MATCH_ANY || rank->weight[leaf] > 0)
            continue;
        sqlite3_int64 n = rank->parse->leaves[leaf].n > 1 ? 100 : ROWS_COUNTED;
        if (rank->parse->leaves[leaf].n == 1 && !rank->parse->leaves[leaf].is_prefix &&
            rank->parse->n_leaves > 1) {
            n = 0;
            r = api->xQueryPhrase(fts, (int)i, &n, on_counted_row);
        }
        rank->weight[leaf] = log(1 + ((double)rows + 1) / ((double)n + 1));
    }
    rank->is_ready = r == SQLITE_OK;
    return r;
}

static void count_phrase(const struct rank *rank, const Fts5ExtensionApi *api, Fts5Context *fts,
                         size_t i, struct counts *counts)
{
    Fts5PhraseIter iter;
    int column, offset;
    double n = 0;
    if (api->xPhraseFirst(fts, (int)i, &iter, &column, &offset) != SQLITE_OK)
        return;
    for (; column >= 0; api->xPhraseNext(fts, &iter, &column, &offset))
        n += column == TITLE_COLUMN ? RANK_TITLE_WEIGHT : 1;
    size_t leaf = rank->match->phrases[i].leaf;
    switch (rank->match->phrases[i].role) {
    case MATCH_EXACT:
        counts->asks_exact[leaf] = 1;
        counts->exact[leaf] += n;
        break;
    case MATCH_ACCENTED:
        counts->accented[leaf] += n;
        break;
    default:
        counts->any[leaf] += n;
    }
}

static double judge(const struct rank *rank, const struct counts *counts, double size)
{
    const double k = 1.2, b = 0.75, norm = k * (1 - b + b * size / rank->average_size);
    double points = 0;
    for (size_t l = 0; l < rank->parse->n_leaves; l++) {
        double n = counts->any[l];
        if (n <= 0)
            continue;
        int is_exact = counts->asks_exact[l] ? counts->exact[l] > 0
                                             : counts->accented[l] <= 0 || n > counts->accented[l];
        points -= rank->weight[l] * n * (k + 1) / (n + norm);
        points += is_exact ? 0 : WORSE_SPELLING;
    }
    return points;
}

static void relevance(const Fts5ExtensionApi *api, Fts5Context *fts, sqlite3_context *context,
                      int n, sqlite3_value **values)
{
    struct rank *rank = api->xUserData(fts);
    struct counts counts = {0};
    int size = 0, r = rank->is_ready ? SQLITE_OK : weigh_leaves(rank, api, fts);
    (void)n;
    (void)values;
    if (r == SQLITE_OK)
        r = api->xColumnSize(fts, -1, &size);
    if (r != SQLITE_OK) {
        sqlite3_result_error_code(context, r);
        return;
    }
    for (size_t i = 0; i < rank->match->n_phrases; i++)
        count_phrase(rank, api, fts, i, &counts);
    sqlite3_result_double(context, judge(rank, &counts, size));
}

int rank_register(sqlite3 *db, struct rank *rank)
{
    fts5_api *fts = words_fts5(db);
    return fts == NULL ? SQLITE_ERROR
                       : fts->xCreateFunction(fts, "relevance", rank, relevance, NULL);
}

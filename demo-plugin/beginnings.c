/* beginnings.c - looks words up in the index's own list of them. */
#include "beginnings.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"

/* So many words of all beginnings together; so many for one of them at most. */
enum { WORDS_IN_ALL = 160, WORDS_OF_ONE = 48 };

struct word {
    char *text;
    sqlite3_int64 documents;
};

struct best {
    struct word words[WORDS_OF_ONE];
    size_t n, limit;
};

/* Keeps the word if it is among the most frequent. */
static void offer_word(struct best *best, const char *text, sqlite3_int64 documents)
{
    size_t i = best->n;
    if (i == best->limit) {
        if (best->words[i - 1].documents >= documents)
            return;
        free(best->words[--i].text);
    } else {
        best->n++;
    }
    char *copy = strdup(text);
    if (copy == NULL) {
        best->n = i;
        return;
    }
    for (; i > 0 && best->words[i - 1].documents < documents; i--)
        best->words[i] = best->words[i - 1];
    best->words[i] = (struct word){copy, documents};
}

static void find_words(struct best *best, sqlite3_stmt *statement, const char *beginning,
                       size_t len, int64_t deadline_ms)
{
    char above[WORDS_MAX_TOKEN_BYTES + 4];
    snprintf(above, sizeof above, "%.*s\xf4\x8f\xbf\xbf", (int)len, beginning);
    sqlite3_bind_text(statement, 1, beginning, (int)len, SQLITE_STATIC);
    sqlite3_bind_text(statement, 2, above, -1, SQLITE_STATIC);
    while (sqlite3_step(statement) == SQLITE_ROW) {
        const char *word = (const char *)sqlite3_column_text(statement, 0);
        if (word != NULL && strchr(word, WORDS_EXACT_MARK) == NULL)
            offer_word(best, word, sqlite3_column_int64(statement, 1));
        if (clock_ms() > deadline_ms)
            break;
    }
    sqlite3_reset(statement);
}

static void take_words(struct match_words *words, size_t leaf, struct best *best)
{
    words->at[leaf] = words->text.len;
    words->n[leaf] = best->n;
    for (size_t i = 0; i < best->n; i++) {
        text_add(&words->text, best->words[i].text, strlen(best->words[i].text) + 1);
        free(best->words[i].text);
    }
    if (words->text.failed)
        words->n[leaf] = 0;
}

void beginnings_find(struct match_words *words, sqlite3 *db, const struct parse *parse,
                     int64_t deadline_ms)
{
    sqlite3_stmt *statement = NULL;
    size_t n = 0;
    for (size_t i = 0; i < parse->n_leaves; i++)
        n += (size_t)parse->leaves[i].is_prefix;
    if (n == 0 ||
        sqlite3_exec(
            db,
            "CREATE VIRTUAL TABLE IF NOT EXISTS temp.vocabulary USING fts5vocab(main, fts, row)",
            NULL, NULL, NULL) != SQLITE_OK ||
        sqlite3_prepare_v2(db,
                           "SELECT term, doc FROM temp.vocabulary WHERE term >= ?1 AND term < ?2",
                           -1, &statement, NULL) != SQLITE_OK)
        return;
    for (size_t i = 0, left = n; i < parse->n_leaves; i++) {
        const struct parse_leaf *leaf = &parse->leaves[i];
        struct best best = {.limit =
                                WORDS_IN_ALL / n < WORDS_OF_ONE ? WORDS_IN_ALL / n : WORDS_OF_ONE};
        if (!leaf->is_prefix || leaf->n != 1)
            continue;
        struct parse_piece piece = parse->tokens[leaf->first].folded;
        int64_t now = clock_ms(), share = (deadline_ms - now) / (int64_t)left--;
        find_words(&best, statement, parse->arena.data + piece.at, piece.len, now + share);
        take_words(words, i, &best);
    }
    sqlite3_finalize(statement);
}

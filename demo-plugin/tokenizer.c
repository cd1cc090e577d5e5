/* tokenizer.c - words.h as a tokenizer of FTS5.
 *
 * Built as a module of its own, it is an extension that SQLite's shell and Python can load to look
 * into a database: .load words */
#include <string.h>

#include "words.h"

struct tokenize {
    void *user;
    int (*add)(void *user, int flags, const char *token, int len, int start, int end);
};

static int on_word(void *user, enum words_kind kind, const char *token, size_t len, size_t start,
                   size_t end)
{
    const struct tokenize *to = user;
    return to->add(to->user, kind == WORDS_MAIN ? 0 : FTS5_TOKEN_COLOCATED, token, (int)len,
                   (int)start, (int)end);
}

static int tokenizer_create(void *user, const char **arguments, int n, Fts5Tokenizer **out)
{
    (void)user;
    (void)arguments;
    (void)n;
    *out = (Fts5Tokenizer *)words_open();
    return *out == NULL ? SQLITE_NOMEM : SQLITE_OK;
}

static void tokenizer_delete(Fts5Tokenizer *tokenizer)
{
    words_close((struct words *)tokenizer);
}

static int tokenizer_tokenize(Fts5Tokenizer *tokenizer, void *user, int flags, const char *text,
                              int len, int (*add)(void *, int, const char *, int, int, int))
{
    struct tokenize to = {user, add};
    if (flags & FTS5_TOKENIZE_QUERY && len > 0 && text[0] == WORDS_EXACT_MARK)
        return add(user, 0, text + 1, len - 1, 0, len);
    return words_scan((struct words *)tokenizer, text, len > 0 ? (size_t)len : 0, on_word, &to);
}

fts5_api *words_fts5(sqlite3 *db)
{
    fts5_api *fts = NULL;
    sqlite3_stmt *statement;
    if (sqlite3_prepare_v2(db, "SELECT fts5(?1)", -1, &statement, NULL) != SQLITE_OK)
        return NULL;
    sqlite3_bind_pointer(statement, 1, &fts, "fts5_api_ptr", NULL);
    sqlite3_step(statement);
    sqlite3_finalize(statement);
    return fts;
}

int words_register(sqlite3 *db)
{
    fts5_tokenizer methods = {tokenizer_create, tokenizer_delete, tokenizer_tokenize};
    fts5_api *fts = words_fts5(db);
    return fts == NULL ? SQLITE_ERROR
                       : fts->xCreateTokenizer(fts, WORDS_TOKENIZER, NULL, &methods, NULL);
}

/* What SQLite calls in an extension named words. We use SQLite's own functions, not the table of
 * them that it hands over, as who loads us has the same library. */
__attribute__((visibility("default"))) int sqlite3_words_init(sqlite3 *db, char **error,
                                                              const void *api);

int sqlite3_words_init(sqlite3 *db, char **error, const void *api)
{
    (void)error;
    (void)api;
    return words_register(db);
}

/* words.h - the words of a text by Unicode's rules: one definition for the index, the query and the
 * snippets.
 *
 * A word is a run of letters, digits and marks. Runs of Chinese, Japanese, Thai, Lao, Khmer and
 * Burmese are divided by ICU's dictionaries. Each word has two forms:
 *
 *     exact:  NFKC_Casefold: capitals, ligatures, widths, soft hyphens and joiners make no
 * difference folded: besides, accents, vowel points, the Arabic article, digits of other scripts
 * make none
 *
 * Tokens are the folded forms. If the exact form differs, a second token at the same position is
 * folded WORDS_EXACT_MARK exact, by which exact spellings are ranked first. */
#ifndef WORDS_H
#define WORDS_H

#include <sqlite3.h>
#include <stddef.h>

#define WORDS_EXACT_MARK '\x01'
#define WORDS_TOKENIZER "words"

enum { WORDS_MAX_TOKEN_BYTES = 1600 };

enum words_kind {
    WORDS_MAIN,     /* the next position: a word, or one character of Chinese or Japanese */
    WORDS_EXACT,    /* this and the following are at the position of the last WORDS_MAIN */
    WORDS_COMPOUND, /* a word of several characters of Chinese or Japanese, as the dictionary has it
                     */
    WORDS_PART,     /* of a compound, or the second half of a joined word */
    WORDS_JOINED    /* of the two halves of a word that a hyphen divides at a line's end */
};

/* One token, without NUL, and where in the text it is; nonzero stops. */
typedef int words_cb(void *user, enum words_kind kind, const char *token, size_t len, size_t start,
                     size_t end);

/* A scanner; for one thread at a time. NULL: no memory, or ICU has no data. */
struct words *words_open(void);
void words_close(struct words *words); /* NULL is allowed */

/* Calls `cb` for each token of a text in UTF-8; what is malformed separates words. 0, or what `cb`
 * returned to stop it. */
int words_scan(struct words *words, const char *text, size_t len, words_cb *cb, void *user);

/* Adds the tokenizer WORDS_TOKENIZER to a connection; for FTS5 tables made with it. In a query,
 * text that begins with WORDS_EXACT_MARK is one token, as it is after the mark. A SQLite result
 * code. */
int words_register(sqlite3 *db);

/* FTS5's functions of a connection; NULL: it has none. */
fts5_api *words_fts5(sqlite3 *db);

#endif

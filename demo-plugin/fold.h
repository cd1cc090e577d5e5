/* fold.h - the two forms of a word, see words.h. */
#ifndef FOLD_H
#define FOLD_H

#include <unicode/umachine.h>

enum { FOLD_MAX_UNITS = 512 };

struct fold_form {
    UChar units[FOLD_MAX_UNITS];
    int32_t len;
};

/* Appends a character in UTF-16: how many units. */
int32_t fold_append(UChar *out, UChar32 c);

/* The character at *at, which is before n and goes behind it. */
UChar32 fold_next(const UChar *units, int32_t *at, int32_t n);

/* The exact form of `n` UTF-16 units; 0 units if that is longer than it may be. */
void fold_exact(const UChar *units, int32_t n, struct fold_form *exact);

/* The folded form of an exact one; never empty unless that is. `article` is where in `folded` an
 * Arabic article ends, which is then no part of a word: 0 if there is none. */
void fold_loosely(const struct fold_form *exact, struct fold_form *folded, int32_t *article);

#endif

/* excerpt.h - the passage of a text that answers a query best, with its matches marked.
 *
 * In place of FTS5's snippet(), whose time grows with the square of the number of matches in a
 * document, and which knows words only as the index has them. */
#ifndef EXCERPT_H
#define EXCERPT_H

#include <stdint.h>

#include "parse.h"

/* Adds the passage to `out`: it begins and ends at words, blanks are single, and what matches is
 * between `open` and `close`. It looks for matches until `deadline_ms` (CLOCK_MONOTONIC); without
 * one it gives the text's beginning. */
void excerpt_add(struct text *out, struct words *words, const struct parse *parse, const char *text,
                 size_t len, const char *open, const char *close, int64_t deadline_ms);

#endif

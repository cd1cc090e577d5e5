/* excerpt.h - excerpt(fts, column, open, close): the passage of a text that matched best.
 *
 * In place of FTS5's snippet(), whose time grows with the square of the number of matches in a
 * document, so that one long document would hold up everybody on the event loop. */
#ifndef EXCERPT_H
#define EXCERPT_H

#include <sqlite3.h>
#include <stdint.h>

/* Adds the function to a connection. It looks at texts until `*deadline_ms` (CLOCK_MONOTONIC),
 * which outlives the connection; after that it gives their beginnings. A SQLite result code. */
int excerpt_register(sqlite3 *db, const int64_t *deadline_ms);

int64_t excerpt_now_ms(void);

#endif

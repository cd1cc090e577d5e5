/* beginnings.h - the words that begin as a query says. */
#ifndef BEGINNINGS_H
#define BEGINNINGS_H

#include <sqlite3.h>
#include <stdint.h>

#include "match.h"

/* For each beginning of the query: those words that are in the most documents, of as many as could
 * be looked at until `deadline_ms`. Whatever goes wrong only makes them fewer. words->text is to be
 * disposed of. */
void beginnings_find(struct match_words *words, sqlite3 *db, const struct parse *parse,
                     int64_t deadline_ms);

#endif

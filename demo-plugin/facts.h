/* facts.h - what an index says of itself. */
#ifndef FACTS_H
#define FACTS_H

#include <sqlite3.h>

#include "text.h"

/* Opens the database of a published output for reading; *db is to be closed, whatever is returned.
 * A SQLite result code. */
int facts_open(sqlite3 **db, const char *path);

/* Adds {"madeAtMs", "documents", "nLeftOut", "leftOut": [{"name", "why"}]}. A SQLite result code.
 */
int facts_add(struct text *out, sqlite3 *db);

#endif

/* generate.h - made-up documents: as many as are wanted, the same each time. */
#ifndef GENERATE_H
#define GENERATE_H

#include <stddef.h>

#include "text.h"

/* Adds the text of document `index`: some 150 words, of which, as in languages, a few are common
 * and most are rare; and one that no other document has, "only" and the index. */
void generate_text(struct text *out, size_t index);

#endif

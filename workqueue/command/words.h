/* words.h - what a server tells, in words for a person. */
#ifndef WQ_COMMAND_WORDS_H
#define WQ_COMMAND_WORDS_H

#include <stddef.h>
#include <stdint.h>

/* How long ago this was, "2026-11-30T23:30:00.123Z"; 0: it is no time, or lies in the future. */
uint64_t words_age_ms(const char *time);

/* The same for people, as in "3 d"; "-": it is no time. Returns `buf`. */
const char *words_age(char *buf, size_t size, const char *time);

/* Prints why a job has failed on stderr, the reason first, what was said before it below. `error`
 * is that of a progress record; NULL: there is none. */
void words_print_failure(int returncode, const char *error);

#endif

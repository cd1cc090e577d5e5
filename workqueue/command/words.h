/* words.h - an end of a job, in words for a person. */
#ifndef WQ_COMMAND_WORDS_H
#define WQ_COMMAND_WORDS_H

/* Prints why a job has failed on stderr, the reason first, what was said before it below. `error`
 * is that of a progress record; NULL: there is none. */
void words_print_failure(int returncode, const char *error);

#endif

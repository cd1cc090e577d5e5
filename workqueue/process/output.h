/* output.h - what a program that has ended well has left where its output should be. */
#ifndef WQ_PROCESS_OUTPUT_H
#define WQ_PROCESS_OUTPUT_H

/* NULL if it is a file that is not empty; else a sentence from malloc: what it is, and as far as
 * one can tell, what was done instead. NULL without memory, too: the store looks again. */
char *wq_output_complaint(const char *path);

#endif

/* progress.h - the lines of progress that process-docset prints. */
#ifndef PROGRESS_H
#define PROGRESS_H

#include <stddef.h>
#include <stdint.h>

struct progress {
    uint64_t done, total; /* as of the last line; total 0: it is not known */
    uint64_t n_lines;
    int64_t begin_ms, last_line_ms;
    int64_t rated_ms;    /* when the rate was worked out, */
    uint64_t rated_done; /* of so many documents */
    double rate;         /* documents a second, of late; 0: not known yet */
    uint64_t n_left_out;
    char first_left_out[256];
};

void progress_begin(struct progress *progress);

/* `done` of `total` documents are indexed (0: nobody knows how many there are). Not every call
 * prints a line. */
void progress_tell(struct progress *progress, uint64_t done, uint64_t total);

/* Says what is being done, at the same place. */
void progress_say(struct progress *progress, const char *message);

/* Remembers a document that was left out, for the last line. */
void progress_left_out(struct progress *progress, const char *name, const char *why);

/* All is done. */
void progress_end(struct progress *progress, uint64_t done);

/* Copies a name so that it stays on its line, cut between characters. */
void progress_copy_name(char *out, size_t size, const char *name, size_t len);

#endif

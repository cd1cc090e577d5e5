/* journal.h - what was accepted and has not ended, and what has ended not long ago, in a SQLite
 * file that outlives the process. It knows entries, and nothing of jobs.
 *
 *     core                                 journal's thread
 *     wq_journal_write(entry, want) ──►    takes a batch, one transaction
 *                                   ◄──    written(entry, what came of it)
 *
 * Whoever has an entry says what he wants the file to have of it; the thread writes the difference
 * to what it has. Entries that gather meanwhile share a transaction. What could not be written
 * waits in one list with one time for the next try; of these a new one is refused at once, and the
 * end of a job is told all the same, and written when that is possible again.
 *
 * Starts nobody waits for: they go with a later commit. A start that is lost costs an attempt that
 * is not counted, so jobs that have come from the journal, one of which may have been the end of
 * the server before, do wait for theirs: wq_journal_wait_started().
 *
 * The journal's lock is a leaf. */
#ifndef WQ_JOURNAL_JOURNAL_H
#define WQ_JOURNAL_JOURNAL_H

#include "workqueue/journal/entry.h"

typedef struct wq_journal wq_journal;

/* Opens or makes the file, restores the jobs in it and starts the thread. `*next_seq` is greater
 * than any that is in it. WQ_ERROR_LOCKED if another process uses it. */
int wq_journal_open(wq_journal **out, const wq_journal_options *options, int64_t *next_seq,
                    wq_error *error);

/* How long an entry may wait for others to be written with. */
typedef enum wq_company {
    WQ_COMPANY_NONE,    /* somebody waits who has nothing else to do */
    WQ_COMPANY_SHORT,   /* somebody waits */
    WQ_COMPANY_STOPPED, /* a job that was stopped waits again */
    WQ_COMPANY_STARTED
} wq_company;

/* The file is to have this of the entry. `end`, whose error becomes the journal's, is for ENDED.
 * Nonzero if the entry has become the journal's with this, which must not be freed until `written`
 * says is_last. Any lock of the core's may be held. */
int wq_journal_write(wq_journal *journal, wq_entry *entry, wq_want want, int rebuild,
                     const wq_entry_end *end, wq_company company);

/* What waits for company need not. */
void wq_journal_flush_soon(wq_journal *journal);

/* Waits until the start of this entry is in the file, or could not be written. No lock is held. */
void wq_journal_wait_started(wq_journal *journal, wq_entry *entry);

/* Did the last try to write the file fail? Any thread. */
int wq_journal_is_failing(const wq_journal *journal);

/* Failures of the file so far. */
uint64_t wq_journal_errors(const wq_journal *journal);

/* Writes what there is to write and closes the file; every entry has been told is_last. */
void wq_journal_close(wq_journal *journal);

#endif

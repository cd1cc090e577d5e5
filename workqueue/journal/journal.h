/* journal.h - what was accepted and has not ended, and what has ended not long ago, in a SQLite
 * file that outlives the process.
 *
 * One thread writes. It takes all that has gathered, new jobs, starts and ends, and commits them in
 * one transaction; after that a new job is let in (wq_queue_accepted()) or refused
 * (wq_queue_refused()), and who waits for the end of a job is told (wq_queue_ended()), so that an
 * end that was told stays the only one. An end that cannot be written is told all the same, and
 * written when that is possible again.
 *
 * Starts nobody waits for: they go with a later commit. A start that is lost costs an attempt that
 * is not counted, so jobs that have come from the journal, one of which may have been the end of
 * the server before, do wait for theirs.
 *
 * The journal's lock comes after the queue's and before a job's. */
#ifndef WQ_JOURNAL_H
#define WQ_JOURNAL_H

#include "workqueue/core/queue.h"

typedef struct wq_journal wq_journal;

/* Opens or makes the file, puts the jobs in it back into the queue, and starts the thread. The
 * queue has its store and no workers yet. WQ_ERROR_LOCKED if another process uses it. */
int wq_journal_open(wq_journal **out, wq_queue *queue, const wq_options *options, wq_error *error);

/* A new job is to be written, or one has started or ended. The queue's lock is held. */
void wq_journal_note_locked(wq_journal *journal, wq_job *job);

/* New jobs that wait for company need not. The queue's lock is held. */
void wq_journal_hurry_locked(wq_journal *journal);

/* Waits until the start of this job is in the file, or could not be written. No lock is held. */
void wq_journal_started(wq_journal *journal, wq_job *job);

/* Writes what there is to write and closes the file. No worker is left. */
void wq_journal_close(wq_journal *journal);

#endif

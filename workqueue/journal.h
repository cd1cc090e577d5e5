/* journal.h - what was accepted and has not ended, and what has ended not long ago, in a SQLite
 * file that outlives the process.
 *
 * One thread writes. It takes all that has gathered, new jobs, starts and ends, and commits them in
 * one transaction; a new job is let in (wq_queue_accepted()) or refused (wq_queue_refused()) after
 * that. Starts and ends nobody waits for: they go with the next commit, soon. A start that is lost
 * costs an attempt that is not counted, so jobs that have come from the journal, one of which may
 * have been the end of the server before, do wait for theirs. An end that is lost is made good at
 * the restart, which finds the output in place.
 *
 * The journal's lock comes after the queue's and before a job's. */
#ifndef WQ_JOURNAL_H
#define WQ_JOURNAL_H

#include "workqueue/queue.h"

typedef struct wq_journal wq_journal;

/* Opens or makes the file, puts the jobs in it back into the queue, and starts the thread. The
 * queue has its store and no workers yet. WQ_ERROR_LOCKED if another process uses it. */
int wq_journal_open(wq_journal **out, wq_queue *queue, const wq_options *options, wq_error *error);

/* A new job is to be written, or one has started or ended. The queue's lock is held. */
void wq_journal_note_locked(wq_journal *journal, wq_job *job);

/* Waits until the start of this job is in the file, or could not be written. No lock is held. */
void wq_journal_started(wq_journal *journal, wq_job *job);

/* Writes what there is to write and closes the file. No worker is left. */
void wq_journal_close(wq_journal *journal);

#endif

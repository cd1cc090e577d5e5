/* restore.h - a journal's jobs, as an earlier process left them. */
#ifndef WQ_JOURNAL_RESTORE_H
#define WQ_JOURNAL_RESTORE_H

#include "workqueue/journal/writer.h"

/* Counts an attempt of what was running when its server died, forgets what is too old, and hands up
 * what is there, by options->restore. */
int wq_journal_restore(wq_writer *writer, const wq_journal_options *options, int64_t *next_seq,
                       wq_error *error);

#endif

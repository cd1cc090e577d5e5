/* findings.h - what a program does wrong, gathered while it runs, told at the end in plain words.
 */
#ifndef WQ_COMMAND_FINDINGS_H
#define WQ_COMMAND_FINDINGS_H

#include <pthread.h>
#include <sys/types.h>
#include <workqueue/workqueue.h>

enum { MAX_FINDINGS = 32, MAX_NAMES = 4096 };

typedef struct name_list {
    char **names; /* sorted */
    size_t n;
} name_list;

typedef struct findings {
    pthread_mutex_t lock;
    /* under it */
    char *sentences[MAX_FINDINGS]; /* from malloc */
    size_t n;
    double reached; /* the last fraction that was reported */
    unsigned n_reports;
    uint64_t first_at_ms; /* how long the program ran until the first line of progress */
    int went_back;
    /* of the thread that waits for the job */
    name_list beside; /* what was in the current folder before */
    pid_t known[8];   /* children that are not the program's: of the library's */
    size_t n_known;
    int n_left; /* processes that the program has left behind */
} findings;

/* Remembers what is there before the run. From now on orphans of the program are ours, so that they
 * can be seen. */
void findings_begin(findings *f);
void findings_free(findings *f);

/* Children that are there before the job begins are none of its own. */
void findings_know_children(findings *f);

/* A line of the library's log; warnings about the program are findings. Any thread. */
void findings_log(findings *f, int level, const char *message);

/* A record of progress. Any thread. */
void findings_progress(findings *f, const wq_snapshot *now);

/* Takes the orphans that have ended; to be called again and again while the program runs. */
void findings_reap(findings *f);

/* The job is over: what it has left, and what can be told from the whole. */
void findings_look_for_processes(findings *f);
void findings_end(findings *f, const wq_snapshot *end);

/* Says why the job has failed, the reason first. */
void findings_failure(findings *f, const wq_snapshot *end);

/* Prints the findings; returns how many there are. */
int findings_tell(findings *f);

#endif

/* ending.h - how the program of a job has ended, in words. */
#ifndef WQ_PROCESS_ENDING_H
#define WQ_PROCESS_ENDING_H

#include <workqueue/extend.h>

#include "workqueue/process/config.h"
#include "workqueue/process/tail.h"

typedef struct wq_ending {
    const wq_child_config *config;
    const wq_run *run;
    const wq_tail *tail; /* of stderr */
    int code;            /* its exit status, or -N for signal N */
    int64_t ran_ms;
    int64_t silent_ms; /* until it first wrote to stdout */
    size_t lines;      /* that it wrote there */
    uint64_t cpu_ms;   /* what it has used, with all that it has waited for */
    char *complaint;   /* about its output, from malloc, taken over; NULL: none */
    int left_somebody; /* what it has started ran on when it ended */
} wq_ending;

/* A program that could not be started, because this call failed. */
void wq_ending_of_no_start(wq_outcome *outcome, const char *program, const char *call, int error);

/* A program that has ended by itself: fills in the outcome, and logs what its author may want to
 * know besides. */
void wq_ending_describe(const wq_ending *ending, wq_outcome *outcome);

#endif

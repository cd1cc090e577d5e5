/* meter.h - progress in a terminal: a bar that is drawn anew, or lines where there is none. */
#ifndef WQ_COMMAND_METER_H
#define WQ_COMMAND_METER_H

#include <pthread.h>
#include <stdint.h>
#include <workqueue/workqueue.h>

typedef struct meter {
    pthread_mutex_t lock;
    int on_terminal, wide_characters;
    /* under it */
    int drawn;         /* a bar stands in the last line */
    int percent;       /* of the last line, where there is no terminal */
    char message[256]; /* likewise */
} meter;

/* All goes to stderr, so that stdout is free for an output. */
void meter_begin(meter *m);

/* Shows where the job is. Any thread. */
void meter_show(meter *m, const wq_snapshot *now);

/* The same from a record of a server: `ahead` in front of it, `fraction` below 0: not known. */
void meter_show_values(meter *m, uint64_t ahead, double fraction, uint64_t elapsed_ms,
                       const char *message);

/* Leaves the bar as it is, on a line of its own. */
void meter_end(meter *m);

/* A line of text, not in the bar. */
void meter_say(meter *m, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif

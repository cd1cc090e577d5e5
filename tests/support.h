/* support.h - what the tests in C share: folders of their own, waiting with a deadline, what is
 * logged, processes, and looks at a job. Nothing here knows what a test is about. */
#ifndef WQ_TESTS_SUPPORT_H
#define WQ_TESTS_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <workqueue/workqueue.h>

#define TOKEN "s3cret0token0of0a0user25x"
#define SHELL WQ_TEST_PROGRAMS "/shell" /* does its first argument, a shell command */

enum { DEADLINE_MS = 30000, FOLDER_SIZE = 64 };

/* ---- time ------------------------------------------------------------------------------------ */

int64_t now_ms(void);

/* Waits for a condition that must come true. */
#define EVENTUALLY(condition)                                                                      \
    do {                                                                                           \
        int64_t give_up = now_ms() + DEADLINE_MS;                                                  \
        while (!(condition)) {                                                                     \
            if (now_ms() > give_up)                                                                \
                fail_msg("still not: %s", #condition);                                             \
            usleep(500);                                                                           \
        }                                                                                          \
    } while (0)

/* ---- files ----------------------------------------------------------------------------------- */

/* A new folder of the test `name`; 0 or -1. */
int make_folder(char folder[FOLDER_SIZE], const char *name);

/* With all that is in it, if it is there; 0 or -1. */
int remove_folder(const char *folder);

/* How many, with "." and ".."; of a storage folder the lock's, the outputs, and what programs have
 * begun or left. */
int entries_of(const char *folder);

/* From now on this call fails with `error` in this process and its children, as in a sandbox; with
 * ENOSYS as in one that does not know it. 0, or -1. */
int forbid_call(long call, int error);

void put_file(const char *path, const char *text);

/* The beginning of a file, "" if there is none; how many bytes. */
size_t get_file(const char *path, char *text, size_t size);

/* ---- processes ------------------------------------------------------------------------------- */

/* As in /proc: 'R', 'S', 'T', 'Z', ...; 0 if there is none. */
char process_state(long pid);

/* It has ended, whether or not somebody has waited for it. */
int is_over(long pid);

/* ---- what is logged -------------------------------------------------------------------------- */

/* A line a message, its level in front. */
typedef struct logbook {
    char text[65536];
} logbook;

/* For wq_options.log; its `user` is a logbook. */
void on_log(void *user, int level, const char *message);

/* How often `text` was logged. */
int logged(const logbook *log, const char *text);

/* ---- queues and jobs ------------------------------------------------------------------------- */

/* Opens it, or fails with the reason. */
wq_queue *open_with(const wq_options *options);

/* The numbers of a snapshot: its texts are NULL. */
wq_snapshot look(wq_job *job);

int state_of(wq_job *job);
uint64_t ahead_of(wq_job *job);
double fraction_of(wq_job *job);

#endif

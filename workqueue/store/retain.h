/* retain.h - a folder's outputs are kept for so long, and so many bytes of them: a thread removes
 * those that were not used for the longest time. */
#ifndef WQ_RETAIN_H
#define WQ_RETAIN_H

#include <sys/stat.h>

#include "workqueue/util/log.h"

typedef struct wq_retain wq_retain;

/* `age_s` and `bytes` are the limits, 0: none; `dir_fd` and `path` are of the folder and outlive
 * this. WQ_OK, WQ_ERROR_SYSTEM or WQ_ERROR_NO_MEMORY. */
int wq_retain_start(wq_retain **out, int dir_fd, const char *path, unsigned age_s, uint64_t bytes,
                    const wq_logger *logger, wq_error *error);
void wq_retain_stop(wq_retain *retain); /* joins the thread; NULL is allowed */

/* The functions below do nothing if `retain` is NULL. */

/* An output is used; `st` is of it. By `fd`, which keeps it from being removed until that is
 * closed, or, if that is -1, by name. */
void wq_retain_used(wq_retain *retain, const char *name, int fd, const struct stat *st);

/* Around putting a file in place: nothing is removed meanwhile, so that no name is taken for the
 * one it had before. `temp` is about to be an output. */
void wq_retain_begin_place(wq_retain *retain, const char *temp);
void wq_retain_end_place(wq_retain *retain, const char *name);

#endif

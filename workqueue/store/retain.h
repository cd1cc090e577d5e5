/* retain.h - a folder's outputs are kept for so long, and so many bytes of them: a thread removes
 * those that were not used for the longest time. */
#ifndef WQ_STORE_RETAIN_H
#define WQ_STORE_RETAIN_H

#include <sys/stat.h>

#include "workqueue/store/label.h"
#include "workqueue/util/log.h"

typedef struct wq_retain wq_retain;

/* `age_s` and `bytes` are the limits, 0: none; `labels` are the folder's and outlive this. WQ_OK,
 * WQ_ERROR_SYSTEM or WQ_ERROR_NO_MEMORY. */
int wq_retain_start(wq_retain **out, const wq_labels *labels, unsigned age_s, uint64_t bytes,
                    const wq_logger *logger, wq_error *error);
void wq_retain_stop(wq_retain *retain); /* joins the thread; NULL is allowed */

/* An output is used; `st` is of it. By `fd`, which keeps it from being removed until that is
 * closed, or, if that is -1, by name. If `retain` is NULL this is only noted, for lists. */
void wq_retain_used(const wq_retain *retain, const wq_labels *labels, const char *name, int fd,
                    const struct stat *st);

/* When that was last noted, Unix time; not before it was published. */
int64_t wq_retain_used_at_ms(const struct stat *st);

/* The functions below do nothing if `retain` is NULL. */

/* Around putting a file in place, whose time of access is the present: nothing is removed
 * meanwhile, so that no name is taken for the one it had before. */
void wq_retain_begin_place(wq_retain *retain);
void wq_retain_end_place(wq_retain *retain, const char *name);

#endif

/* fresh.h - whether the index still has what Overview has. */
#ifndef FRESH_H
#define FRESH_H

#include <stdatomic.h>
#include <workqueue/workqueue.h>

#include "text.h"

/* Adds {"index": {...}, "overview": {"documents": N}} to `body`, N null if Overview does not say
 * how many documents it has. It is asked for some seconds at most, and no longer once *stop is
 * nonzero; of its answer nobody learns more than that number. 200, or the status of a problem. */
int fresh_look(struct text *body, const char *path, const wq_params *params,
               const atomic_int *stop);

#endif

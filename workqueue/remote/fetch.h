/* fetch.h - a file from an http or https URL: outputs of packagers that keep them elsewhere. */
#ifndef WQ_FETCH_H
#define WQ_FETCH_H

#include <stdatomic.h>
#include <workqueue/workqueue.h>

/* Downloads `url` over the existing file at `path`. Fails with a sentence if it is longer than
 * `max_bytes` (0: no limit), if `size_bytes` (UINT64_MAX: not known) is not what came, or if
 * nothing comes for half a minute; and soon after `*stop` has become nonzero. Takes as long as it
 * takes. */
int wq_fetch(const char *url, const char *path, uint64_t max_bytes, uint64_t size_bytes,
             const atomic_int *stop, wq_error *error);

#endif

/* params.h - the triple that names a job: its validation and its key. The functions are public
 * (wq_params_check, wq_params_key); the copy is ours. */
#ifndef WQ_CORE_PARAMS_H
#define WQ_CORE_PARAMS_H

#include <workqueue/workqueue.h>

/* How many bytes wq_params_copy() needs for the strings of `params`. */
size_t wq_params_bytes(const wq_params *params);

/* Copies the strings to `storage` and points `out` at them. */
void wq_params_copy(wq_params *out, char *storage, const wq_params *params);

#endif

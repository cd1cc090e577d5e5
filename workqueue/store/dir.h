/* dir.h - the store that keeps outputs as files in a folder. */
#ifndef WQ_DIR_H
#define WQ_DIR_H

#include <workqueue/extend.h>

#include "workqueue/util/log.h"

/* Opens the store: locks the folder and sweeps what a crash left. `sync`: outputs and names are on
 * the disk before publish returns. */
int wq_dir_open(wq_store **out, const char *path, int sync, const wq_logger *logger,
                wq_error *error);

/* From now on outputs that were not used for `age_s` are removed, and the least recently used ones
 * while all together have more than `bytes`; 0: no such limit. Once, before others use it. */
int wq_dir_retain(wq_store *store, unsigned age_s, uint64_t bytes, wq_error *error);

#endif

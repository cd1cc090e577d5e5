/* batch.h - puts outputs in place, many at a time. */
#ifndef WQ_STORE_BATCH_H
#define WQ_STORE_BATCH_H

#include "workqueue/store/folder.h"

/* wq_store's `publish`. */
void wq_batch_publish(void *self, wq_publish *items, size_t n);

#endif

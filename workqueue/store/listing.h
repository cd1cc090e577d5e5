/* listing.h - outputs by what their labels say. */
#ifndef WQ_STORE_LISTING_H
#define WQ_STORE_LISTING_H

#include "workqueue/store/folder.h"

/* wq_store's `list` and `remove_set`. */
int wq_folder_list(void *self, const char *server, const char *document_set_id, char *position,
                   wq_output_info *out, size_t max, size_t *n, wq_error *error);
int wq_folder_remove_set(void *self, const char *server, const char *document_set_id, size_t *n,
                         wq_error *error);

#endif

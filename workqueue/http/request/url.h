/* allow.h - the servers that jobs may be asked for: URLs, compared as what they mean. */
#ifndef WQ_ALLOW_H
#define WQ_ALLOW_H

#include <workqueue/workqueue.h>

typedef struct wq_allow wq_allow;

/* Takes in `n` URLs; with none, every server is allowed. WQ_OK; WQ_ERROR_INVALID_ARGUMENT and a
 * sentence that names an entry which is no URL; or WQ_ERROR_NO_MEMORY. */
int wq_allow_new(wq_allow **out, const char *const *entries, size_t n, wq_error *error);
void wq_allow_free(wq_allow *allow); /* NULL is allowed */

/* Whether `server` is one of them, or below the path of one. Any thread. */
int wq_allow_has(const wq_allow *allow, const char *server);

#endif

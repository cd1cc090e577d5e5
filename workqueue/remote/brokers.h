/* brokers.h - several brokers at once: which are meant, and whose a key is. */
#ifndef WQ_REMOTE_BROKERS_H
#define WQ_REMOTE_BROKERS_H

#include <workqueue/remote.h>

/* One runner for one broker and its spares; see wq_stomp_runner_open(). */
int wq_remote_open_one(struct wq_runner **out, const wq_stomp_options *options, wq_error *error);

enum { WQ_MAX_BROKERS = 16 };

/* Takes "URL[,URL][;URL...]" apart at the semicolons: *n texts, in one piece of memory that is
 * owned and free()d with all[0]. WQ_OK, or a failure. */
int wq_brokers_split(char *all[WQ_MAX_BROKERS], size_t *n, const char *urls, wq_error *error);

/* Which of them a key goes to: by rendezvous hashing, so that one more or less moves only its own
 * keys. Users and passwords do not count. */
size_t wq_brokers_choose(char *const *all, size_t n, const char *key);

#endif

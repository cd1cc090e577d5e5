/* url.h - the servers that jobs are asked for: URLs, taken and compared as what they mean. */
#ifndef WQ_HTTP_REQUEST_URL_H
#define WQ_HTTP_REQUEST_URL_H

#include <workqueue/workqueue.h>

typedef struct wq_allow wq_allow;

/* Writes the http or https URL in `text` in the one form for all its spellings: scheme and host in
 * small letters, no default port, no final dot of the host, dot segments and needless escapes
 * resolved, no slash for an empty path. Never longer than the text and a little. NULL, or what is
 * wrong, as the end of a sentence: "it has ...". */
enum { WQ_URL_SIZE = 2400 };
const char *wq_url_canonical(char *out, size_t size, const char *text);

/* Is it the plain path of a prefix, such as "/queue/a", without a final slash? Or empty. */
int wq_is_prefix(const char *path, size_t n);

/* Takes in `n` URLs; with none, every server is allowed. WQ_OK; WQ_ERROR_INVALID_ARGUMENT and a
 * sentence that names an entry which is no URL; or WQ_ERROR_NO_MEMORY. */
int wq_allow_new(wq_allow **out, const char *const *entries, size_t n, wq_error *error);
void wq_allow_free(wq_allow *allow); /* NULL is allowed */

/* Whether `server` is one of them, or below the path of one. Any thread. */
int wq_allow_has(const wq_allow *allow, const char *server);

#endif

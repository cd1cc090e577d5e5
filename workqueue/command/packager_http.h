/* packager_http.h - GET /metrics and /health of a packager. */
#ifndef WQ_COMMAND_PACKAGER_HTTP_H
#define WQ_COMMAND_PACKAGER_HTTP_H

#include <workqueue/http.h>

#include "workqueue/remote/packager.h"

typedef struct packager_http packager_http;

/* Answers at `listen`, as in wq_serve_options; `sum` fills in what is told, from any thread. A
 * wq_result. */
int packager_http_open(packager_http **out, wq_queue *queue, const char *listen,
                       void (*sum)(void *user, wq_packager_stats *stats), void *user,
                       wq_error *error);

/* The first address it listens on. */
const char *packager_http_address(const packager_http *http);

void packager_http_close(packager_http *http); /* NULL is allowed */

#endif

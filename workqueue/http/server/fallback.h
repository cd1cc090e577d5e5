/* fallback.h - what is answered where there is no route, and where libh2o answers itself: problem
 * documents, as everywhere. */
#ifndef WQ_HTTP_SERVER_FALLBACK_H
#define WQ_HTTP_SERVER_FALLBACK_H

#include <h2o.h>

/* To the host's fallback path. */
void wq_fallback_add(h2o_hostconf_t *host);

#endif

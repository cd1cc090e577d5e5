/* faces.h - the faces: one file each, one function each, listed in routes.c. */
#ifndef WQ_FACES_H
#define WQ_FACES_H

#include "workqueue/http/loop.h"

/* POST /generate: the stream. */
int wq_face_generate(wq_http *http, h2o_req_t *req);

/* Seconds until a place in a full queue should be free. */
unsigned wq_retry_after_s(wq_queue *queue);

#endif

/* off_loop.h - an answer that a thread makes, as it takes longer than a loop may wait. */
#ifndef WQ_HTTP_FACES_OFF_LOOP_H
#define WQ_HTTP_FACES_OFF_LOOP_H

#include <stdio.h>

#include "workqueue/http/http.h"

/* The thread's: writes the body of the answer to `out`, or from 400 on a sentence, and returns the
 * status. `ask` is a copy of what the loop has given. */
typedef int (*wq_make_answer)(wq_http *http, const void *ask, FILE *out);

/* Has `make` called on a thread, and answers with what it has written, as JSON; or answers why not.
 * Returns 0. */
int wq_answer_off_loop(wq_http *http, h2o_req_t *req, wq_make_answer make, const void *ask,
                       size_t ask_size);

#endif

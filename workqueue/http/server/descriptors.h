/* descriptors.h - what the limit of open files leaves room for. */
#ifndef WQ_HTTP_SERVER_DESCRIPTORS_H
#define WQ_HTTP_SERVER_DESCRIPTORS_H

#include <workqueue/workqueue.h>

/* So many connections, beside what the queue's runs and the host need. */
size_t wq_room_for_connections(wq_queue *queue);

/* libh2o ends the process if it finds no descriptor for a loop: so that is seen to before. WQ_OK, or
 * an error. */
int wq_check_room_for_loops(unsigned n_loops, wq_error *error);

#endif

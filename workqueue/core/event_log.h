/* event_log.h - the life of a job in the log: a line an event, of key=value. */
#ifndef WQ_CORE_EVENT_LOG_H
#define WQ_CORE_EVENT_LOG_H

#include <workqueue/extend.h>

#include "workqueue/util/log.h"

/* Each begins with "event=" and names job, server and set; texts are in quotes, with \" and \\ in
 * them. Without any lock. */
void wq_event_accepted(const wq_logger *logger, wq_job *job);
void wq_event_started(const wq_logger *logger, wq_job *job, const wq_snapshot *now);
void wq_event_ended(const wq_logger *logger, wq_job *job, const wq_snapshot *end);
void wq_event_refused(const wq_logger *logger, const wq_params *params, const char *why);

#endif

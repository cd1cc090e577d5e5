/* watch.h - follows a job of a server in a terminal. */
#ifndef WQ_COMMAND_WATCH_H
#define WQ_COMMAND_WATCH_H

#include "workqueue/command/client.h"

/* Shows the job at URL until it has ended, and fetches its output if one was asked for. COMMAND_OK
 * if it has succeeded. */
int watch_job(const client_settings *c, const char *url);

#endif

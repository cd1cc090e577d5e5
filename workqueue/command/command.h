/* command.h - the subcommands: a file each. */
#ifndef WQ_COMMAND_COMMAND_H
#define WQ_COMMAND_COMMAND_H

#include <signal.h>

#include "workqueue/command/settings.h"

/* Each takes its own command line, argv[0] being its name, and gives the exit status. */
int run_main(int argc, char **argv);
int serve_main(int argc, char **argv);
int start_main(int argc, char **argv);
int watch_main(int argc, char **argv);
int cancel_main(int argc, char **argv);
int jobs_main(int argc, char **argv);
int outputs_main(int argc, char **argv);
int delete_main(int argc, char **argv);
int packager_main(int argc, char **argv);

/* Their options, for completion. */
extern const option_set run_set, serve_set, start_set, watch_set, cancel_set, jobs_set, outputs_set,
    delete_set, packager_set;

/* ---- host.c: what each process of ours does around the library --------------------------------
 */

/* Before any thread, and before any descriptor is opened: fills 0, 1 and 2 where they are closed,
 * blocks the signals that stop, so that host_wait() gets them, and SIGPIPE. */
void host_begin(void);

/* As many descriptors as we may have; programs begin with as many as we were given: `*given`, which
 * is 0 before the first call. */
void host_raise_open_files(wq_options *queue, unsigned *given);

/* Waits for SIGTERM or SIGINT; the same once more ends the process at once, by that signal. A
 * SIGHUP calls `on_hangup`, if there is one. Returns the signal. */
int host_wait(void (*on_hangup)(void *user), void *user);

#endif

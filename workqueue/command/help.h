/* help.h - what --help prints. */
#ifndef WQ_COMMAND_HELP_H
#define WQ_COMMAND_HELP_H

#include "workqueue/command/option_set.h"

/* Usage, purpose and options in groups, on stdout; through a pager where that is a terminal that
 * it does not fit. */
void help_show(const option_set *set);

#endif

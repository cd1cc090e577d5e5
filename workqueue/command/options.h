/* options.h - a command line, or a file of the same names, read by tables: an option more is a row
 * more. Subcommands share the tables, so that an option means the same everywhere. */
#ifndef WQ_COMMAND_OPTIONS_H
#define WQ_COMMAND_OPTIONS_H

#include "workqueue/command/option_set.h"

/* A sentence on stderr, "COMMAND: SENTENCE; see COMMAND --help."; returns COMMAND_WRONG. */
int options_wrong(const option_set *set, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Reads the command line; `*operands` points into argv, which is permuted. COMMAND_GO_ON, or what
 * the process is to exit with. Values are borrowed from argv, except lists and secrets. */
int options_parse(const option_set *set, int argc, char **argv, char ***operands, size_t *n);

/* One option by name, as a file gives it; a switch takes yes or no. `where` begins the error. */
int options_set(const option_set *set, const char *name, const char *value, const char *where);

/* The words that a shell may complete to: each option on a line, with "=" if it takes a value. */
void options_print_names(const option_set *set);

void text_list_free(text_list *list);

#endif

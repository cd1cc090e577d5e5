/* main.c - workqueue: serve a long-running program, run it, watch it. A subcommand is a row here
 * and a file of its own. */
#include <stdio.h>
#include <string.h>

#include "workqueue/command/command.h"

static const struct subcommand {
    const char *name;
    int (*main)(int argc, char **argv);
    const option_set *set;
    const char *group, *summary;
} subcommands[] = {
    {"run", run_main, &run_set, "Try a program",
     "runs a program by its contract, without a server, and says what it does wrong"},
    {"serve", serve_main, &serve_set, "Serve programs",
     "starts a server: people start a run in a browser or by HTTP, and watch it to the end"},
    {"packager", packager_main, &packager_set, "Serve programs",
     "takes the jobs of servers on other machines from a broker, and runs them here"},
    {"start", start_main, &start_set, "Ask a server", "starts a job, and shows its progress"},
    {"watch", watch_main, &watch_set, "Ask a server", "shows the progress of a job"},
    {"cancel", cancel_main, &cancel_set, "Ask a server", "ends jobs"},
    {"jobs", jobs_main, &jobs_set, "Ask a server, as its operator", "lists jobs"},
    {"outputs", outputs_main, &outputs_set, "Ask a server, as its operator", "lists outputs"},
    {"delete", delete_main, &delete_set, "Ask a server, as its operator", "deletes outputs"},
};

enum { N_SUBCOMMANDS = sizeof subcommands / sizeof *subcommands };

static int show_overview(void)
{
    const char *group = "";
    puts("usage: workqueue COMMAND [ARGUMENT]...\n\n"
         "A long-running program, started from the web and watched to its end.");
    for (size_t i = 0; i < N_SUBCOMMANDS; i++) {
        if (strcmp(group, subcommands[i].group) != 0)
            printf("\n%s\n", group = subcommands[i].group);
        printf("  %-9s %s\n", subcommands[i].name, subcommands[i].summary);
    }
    puts("\nTo begin with, a program of three lines:\n\n"
         "  printf '#!/bin/sh\\nfor i in 1 2 3; do echo $i/3; sleep 1; done\\ndate >\"$4\"\\n' "
         ">hello\n"
         "  chmod +x hello\n"
         "  workqueue run ./hello\n"
         "  workqueue serve --program ./hello      # then open http://127.0.0.1:8080/\n\n"
         "`workqueue COMMAND --help` tells each one's options.");
    return COMMAND_OK;
}

static const struct subcommand *find_subcommand(const char *name)
{
    for (size_t i = 0; i < N_SUBCOMMANDS; i++)
        if (strcmp(subcommands[i].name, name) == 0)
            return &subcommands[i];
    return NULL;
}

/* For the completion of a shell: the commands, or the options of one. */
static int list_words(const char *name)
{
    const struct subcommand *command = name == NULL ? NULL : find_subcommand(name);
    if (command != NULL && command->set != NULL)
        options_print_names(command->set);
    for (size_t i = 0; command == NULL && i < N_SUBCOMMANDS; i++)
        puts(subcommands[i].name);
    return COMMAND_OK;
}

int main(int argc, char **argv)
{
    wq_leave_process_1(); /* in a container */
    const char *name = argc > 1 ? argv[1] : "--help";
    char *help[] = {"", "--help", NULL};
    if (strcmp(name, "--version") == 0)
        return printf("workqueue %s\n", wq_version()) < 0;
    if (strcmp(name, "--list-words") == 0)
        return list_words(argc > 2 ? argv[2] : NULL);
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
        const struct subcommand *command = argc > 2 ? find_subcommand(argv[2]) : NULL;
        return command != NULL ? command->main(2, help) : show_overview();
    }
    const struct subcommand *command = find_subcommand(name);
    if (command != NULL)
        return command->main(argc - 1, argv + 1);
    fprintf(stderr, "workqueue: there is no command '%s'; see workqueue --help.\n", name);
    return COMMAND_WRONG;
}

/* settings.h - what options come to: the structures of the library, filled, and what is ours. */
#ifndef WQ_COMMAND_SETTINGS_H
#define WQ_COMMAND_SETTINGS_H

#include <workqueue/http.h>
#include <workqueue/remote.h>

#include "workqueue/command/log.h"
#include "workqueue/command/options.h"

/* One program that is served, and what is its own. */
typedef struct program_settings {
    const char *name; /* its paths are below /NAME/; "": at the root */
    wq_options queue;
    wq_http_options http;
    wq_stomp_options stomp;    /* urls NULL: programs run here */
    wq_s3_options s3;          /* url NULL: outputs are in the storage folder */
    const char *store;         /* as given; NULL: it was not */
    char *store_path;          /* owned; the same, for this program alone; NULL: there is none */
    const char *folder;        /* in the state folder, for outputs */
    const char *journal;       /* a file; "none"; NULL: beside the storage */
    text_list environment;     /* what queue.environment points to, if some was given */
    text_list allow;           /* what http.allow_servers points to */
    const char *title, *about; /* of the pages */
    const char *label[3];      /* what server, set and token are called on the pages */
    const char *hint[3];       /* a line below each field */
    const char *fields;        /* which of the three are asked for, as in "set,token" */
    const char *result_name;   /* what a download is called, "{set}" in it is the set */
    char *storage_dir, *journal_path, *mount_path; /* chosen by us, from malloc */
} program_settings;

typedef struct settings {
    program_settings all;       /* what holds for each program that says nothing else */
    program_settings *programs; /* those with a name */
    size_t n_programs;
    size_t current; /* 1 + index of the program that options are for; 0: all of them */
    wq_serve_options serve;
    text_list listen;
    text_list proxies; /* what http.trust_proxies points to */
    char *secret;       /* of the operator */
    const char *config; /* a file of options */
    log_settings log;
    text_list kept;     /* texts from the file of options, from malloc */
    const char *output; /* of `run`: where the output goes; NULL: nowhere */
    int verbose;
} settings;

void settings_init(settings *s);
void settings_free(settings *s);

/* Those of an option_set. */
void *settings_own(void *all, size_t i);
int settings_call(void *all, const option_row *row, const char *value);

/* Reads the file of --config, if the command line has one. COMMAND_GO_ON or COMMAND_WRONG. */
int settings_read_config(settings *s, const option_set *set, int argc, char **argv);

/* How many programs there are, and each: those with a name, or the one without. */
size_t settings_count(const settings *s);
program_settings *settings_program(settings *s, size_t i);

/* Fills in what follows from what was given: storage, journal, lists. COMMAND_GO_ON or
 * COMMAND_WRONG, and then has said why. */
int settings_finish(settings *s, const option_set *set);

/* The tables; see tables.c. */
extern const option_group program_group, listen_group, queue_group, limit_group, given_group,
    output_group, http_group, page_group, broker_group, sending_group, store_group, log_group,
    about_group;

#endif

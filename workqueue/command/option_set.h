/* option_set.h - what an option is, and which of them a subcommand takes. */
#ifndef WQ_COMMAND_OPTION_SET_H
#define WQ_COMMAND_OPTION_SET_H

#include <stddef.h>

enum {
    COMMAND_OK = 0,
    COMMAND_FAILED = 1, /* what was asked for went wrong */
    COMMAND_WRONG = 2,  /* the command line is wrong, or what it names cannot be used */
    COMMAND_GO_ON = -1, /* of the parser: there is more to do than to show help */
};

typedef enum option_kind {
    OPTION_HELP,
    OPTION_VERSION,
    OPTION_TEXT,     /* const char *, not empty */
    OPTION_MODE,     /* likewise, but "none" becomes NULL */
    OPTION_UNSIGNED, /* unsigned, from least to most */
    OPTION_SIZE,     /* size_t, likewise */
    OPTION_BYTES,    /* uint64_t, likewise */
    OPTION_OFF,      /* int, becomes 0 */
    OPTION_ON,       /* int, becomes 1 */
    OPTION_LIST,     /* one more of a text_list */
    OPTION_SECRET,   /* char *, from malloc: what is in the file that is named */
    OPTION_CALL,     /* the set's `call` is asked */
} option_kind;

/* What is given several times; `items` ends with NULL. */
typedef struct text_list {
    const char **items;
    size_t n;
} text_list;

typedef struct option_row {
    const char *name, *argument; /* argument NULL: it takes none */
    option_kind kind;
    int own;   /* nonzero: `at` is in what belongs to one program, see option_set.own */
    size_t at; /* where the value goes */
    unsigned long long least, most;
    const char *help; /* one sentence, with the default */
} option_row;

typedef struct option_group {
    const char *title;
    const option_row *rows;
    size_t n;
} option_group;

/* What a subcommand takes. */
typedef struct option_set {
    const char *command;               /* "workqueue serve" */
    const char *usage;                 /* lines of "usage: ..." */
    const char *about;                 /* what it is for, a paragraph */
    const option_group *const *groups; /* ends with NULL */
    const char *after;                 /* what help ends with, or NULL */
    void *all;                         /* values are written here, ... */
    void *(*own)(void *all, size_t i); /* ... those of rows with `own` to what this gives for
                                          i = 0, 1, ... until it gives NULL */
    int (*call)(void *all, const option_row *row, const char *value);
    size_t max_operands; /* arguments that are no options; more are refused */
} option_set;

#endif

/* options.c - reads options by their tables; what they mean is said in the tables. */
#include "workqueue/command/options.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <workqueue/workqueue.h>

#include "workqueue/command/help.h"

enum { SECRET_BYTES = 1024, MAX_ROWS = 200, FIRST_VALUE = 256 };

int options_wrong(const option_set *set, const char *format, ...)
{
    va_list args;
    fprintf(stderr, "%s: ", set->command);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "; see %s --help.\n", set->command);
    return COMMAND_WRONG;
}

/* ---- values ---------------------------------------------------------------------------------- */

static int parse_number(const option_set *set, const option_row *row, const char *text,
                        unsigned long long *out)
{
    char *end;
    errno = 0;
    *out = strtoull(text, &end, 10);
    if (text[0] >= '0' && text[0] <= '9' && *end == '\0' && errno == 0 && *out >= row->least &&
        *out <= row->most)
        return COMMAND_GO_ON;
    return options_wrong(set, "--%s takes a number from %llu to %llu, not '%s'", row->name,
                         row->least, row->most, text);
}

static int add_to_list(const option_set *set, const option_row *row, text_list *list,
                       const char *value)
{
    const char **grown = realloc(list->items, (list->n + 2) * sizeof *grown);
    if (grown == NULL)
        return options_wrong(set, "there is no memory for --%s", row->name);
    grown[list->n++] = value;
    grown[list->n] = NULL;
    list->items = grown;
    return COMMAND_GO_ON;
}

void text_list_free(text_list *list)
{
    free(list->items);
    *list = (text_list){0};
}

/* Reads to the end, or until there is more than a secret and its newline. -1 on failure. */
static ssize_t read_secret(int fd, char *buf, size_t size)
{
    size_t n = 0;
    ssize_t got;
    while (n < size && (got = read(fd, buf + n, size - n)) != 0) {
        if (got < 0 && errno != EINTR)
            return -1;
        n += got > 0 ? (size_t)got : 0;
    }
    return (ssize_t)n;
}

/* What is wrong with the secret, as the end of a sentence; NULL: nothing. A header carries nothing
 * but visible ASCII for sure, so anything else would be a secret that never fits. */
static const char *judge_secret(const char *secret, size_t n)
{
    if (n == 0)
        return "is empty";
    if (n > SECRET_BYTES)
        return "is longer than 1024 bytes";
    for (size_t i = 0; i < n; i++)
        if (secret[i] <= ' ' || secret[i] > '~')
            return "holds more than one word of visible ASCII";
    return NULL;
}

/* From a file, because a command line can be read by everybody; the same goes for such a file. */
static int take_secret(const option_set *set, const option_row *row, char **out, const char *path)
{
    char buf[SECRET_BYTES + 2]; /* its newline, and one byte too many */
    const char *why;
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 || fstat(fd, &st) != 0 ? -1 : read_secret(fd, buf, sizeof buf);
    why = n < 0 ? strerror(errno) : NULL;
    if (fd >= 0)
        close(fd);
    if (n < 0)
        return options_wrong(set, "cannot read the operator's secret from %s: %s", path, why);
    if (S_ISREG(st.st_mode) && st.st_mode & S_IROTH)
        return options_wrong(set, "everybody can read the operator's secret in %s (try chmod o-r)",
                             path);
    if (n > 0 && buf[n - 1] == '\n')
        n--;
    if ((why = judge_secret(buf, (size_t)n)) != NULL)
        return options_wrong(set, "the operator's secret in %s %s", path, why);
    free(*out);
    *out = strndup(buf, (size_t)n);
    explicit_bzero(buf, sizeof buf);
    return *out ? COMMAND_GO_ON : options_wrong(set, "there is no memory for --%s", row->name);
}

static int store_number(const option_set *set, const option_row *row, void *at, const char *value)
{
    unsigned long long number;
    int r = parse_number(set, row, value, &number);
    if (r != COMMAND_GO_ON)
        return r;
    if (row->kind == OPTION_UNSIGNED)
        *(unsigned *)at = (unsigned)number;
    else if (row->kind == OPTION_SIZE)
        *(size_t *)at = (size_t)number;
    else
        *(uint64_t *)at = number;
    return COMMAND_GO_ON;
}

static int store(const option_set *set, const option_row *row, char *at, const char *value)
{
    switch (row->kind) {
    case OPTION_HELP:
        help_show(set);
        return COMMAND_OK;
    case OPTION_VERSION:
        printf("%s %s\n", set->command, wq_version());
        return COMMAND_OK;
    case OPTION_TEXT:
    case OPTION_MODE:
        *(const char **)at = row->kind == OPTION_MODE && strcmp(value, "none") == 0 ? NULL : value;
        return COMMAND_GO_ON;
    case OPTION_UNSIGNED:
    case OPTION_SIZE:
    case OPTION_BYTES:
        return store_number(set, row, at, value);
    case OPTION_OFF:
    case OPTION_ON:
        *(int *)at = row->kind == OPTION_ON;
        return COMMAND_GO_ON;
    case OPTION_LIST:
        return add_to_list(set, row, (text_list *)at, value);
    case OPTION_SECRET:
        return take_secret(set, row, (char **)at, value);
    case OPTION_CALL:
        return set->call(set->all, row, value);
    }
    return COMMAND_GO_ON;
}

static int apply(const option_set *set, const option_row *row, const char *value)
{
    char *target;
    int r = COMMAND_GO_ON;
    if (row->argument != NULL && value[0] == '\0')
        return options_wrong(set, "--%s must not be empty", row->name);
    if (!row->own)
        return store(set, row, (char *)set->all + row->at, value);
    for (size_t i = 0; r == COMMAND_GO_ON && (target = set->own(set->all, i)) != NULL; i++)
        r = store(set, row, target + row->at, value);
    return r;
}

/* ---- the command line ------------------------------------------------------------------------ */

static size_t list_rows(const option_set *set, const option_row **rows)
{
    size_t n = 0;
    for (const option_group *const *group = set->groups; *group != NULL; group++)
        for (size_t i = 0; i < (*group)->n && n < MAX_ROWS; i++)
            rows[n++] = &(*group)->rows[i];
    return n;
}

static int say_what_is_wrong(const option_set *set, int c, const char *argument)
{
    return c == ':' ? options_wrong(set, "the option '%s' needs a value", argument)
                    : options_wrong(set, "there is no option '%s', or not in this form", argument);
}

int options_parse(const option_set *set, int argc, char **argv, char ***operands, size_t *n)
{
    const option_row *rows[MAX_ROWS];
    struct option table[MAX_ROWS + 1] = {{0}};
    size_t n_rows = list_rows(set, rows);
    int c, r = COMMAND_GO_ON;
    for (size_t i = 0; i < n_rows; i++)
        table[i] =
            (struct option){rows[i]->name, rows[i]->argument ? required_argument : no_argument,
                            NULL, FIRST_VALUE + (int)i};
    opterr = 0;
    optind = 0;
    while (r == COMMAND_GO_ON && (c = getopt_long(argc, argv, ":h", table, NULL)) != -1) {
        if (c == 'h')
            r = (help_show(set), COMMAND_OK);
        else
            r = c >= FIRST_VALUE ? apply(set, rows[c - FIRST_VALUE], optarg)
                                 : say_what_is_wrong(set, c, argv[optind - 1]);
    }
    *operands = argv + optind;
    *n = (size_t)(argc - optind);
    if (r == COMMAND_GO_ON && *n > set->max_operands)
        r = options_wrong(set, "'%s' is not an option", argv[optind + (int)set->max_operands]);
    return r;
}

/* ---- a file ---------------------------------------------------------------------------------- */

static int means_yes(const char *value)
{
    return strcasecmp(value, "yes") == 0 || strcasecmp(value, "true") == 0 ||
           strcasecmp(value, "on") == 0 || strcmp(value, "1") == 0;
}

static int means_no(const char *value)
{
    return strcasecmp(value, "no") == 0 || strcasecmp(value, "false") == 0 ||
           strcasecmp(value, "off") == 0 || strcmp(value, "0") == 0;
}

int options_set(const option_set *set, const char *name, const char *value, const char *where)
{
    const option_row *rows[MAX_ROWS];
    size_t n_rows = list_rows(set, rows);
    for (size_t i = 0; i < n_rows; i++) {
        if (strcmp(rows[i]->name, name) != 0 || rows[i]->kind == OPTION_HELP ||
            rows[i]->kind == OPTION_VERSION)
            continue;
        if (rows[i]->argument != NULL || means_yes(value))
            return apply(set, rows[i], value);
        return means_no(value)
                   ? COMMAND_GO_ON
                   : options_wrong(set, "%s: %s is yes or no, not '%s'", where, name, value);
    }
    return options_wrong(set, "%s: there is no option '%s'", where, name);
}

void options_print_names(const option_set *set)
{
    const option_row *rows[MAX_ROWS];
    size_t n_rows = list_rows(set, rows);
    for (size_t i = 0; i < n_rows; i++)
        printf("--%s%s\n", rows[i]->name, rows[i]->argument ? "=" : "");
}

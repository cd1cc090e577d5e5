/* help.c - --help: options in groups, a sentence each, wrapped to the terminal. */
#include "workqueue/command/help.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { INDENT = 6, MOST_COLUMNS = 100, NO_TERMINAL_COLUMNS = 80 };

/* Of the terminal on stdout; 0 rows: there is none. */
static void measure_terminal(int *columns, int *rows)
{
    struct winsize size;
    *columns = NO_TERMINAL_COLUMNS;
    *rows = 0;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || !isatty(STDOUT_FILENO))
        return;
    *rows = size.ws_row;
    if (size.ws_col >= 40)
        *columns = size.ws_col < MOST_COLUMNS ? size.ws_col : MOST_COLUMNS;
}

static void print_wrapped(FILE *out, const char *text, int indent, int columns)
{
    int at = 0;
    while (*text != '\0') {
        int n = (int)strcspn(text, " ");
        if (at != 0 && at + 1 + n > columns) {
            fputc('\n', out);
            at = 0;
        }
        at +=
            at == 0 ? fprintf(out, "%*s%.*s", indent, "", n, text) : fprintf(out, " %.*s", n, text);
        text += n;
        text += strspn(text, " ");
    }
    fputc('\n', out);
}

static void print_help(FILE *out, const option_set *set, int columns)
{
    fprintf(out, "usage: %s\n\n", set->usage);
    print_wrapped(out, set->about, 0, columns);
    for (const option_group *const *group = set->groups; *group != NULL; group++) {
        fprintf(out, "\n%s\n", (*group)->title);
        for (size_t i = 0; i < (*group)->n; i++) {
            const option_row *row = &(*group)->rows[i];
            fprintf(out, "  --%s%s%s\n", row->name, row->argument ? " " : "",
                    row->argument ? row->argument : "");
            print_wrapped(out, row->help, INDENT, columns);
        }
    }
    if (set->after != NULL) {
        fputc('\n', out);
        print_wrapped(out, set->after, 0, columns);
    }
}

static int count_lines(const char *text)
{
    int n = 0;
    for (; *text != '\0'; text++)
        n += *text == '\n';
    return n;
}

/* -F: where it fits the screen after all, it is only printed. */
static int page(const char *text)
{
    const char *pager = getenv("PAGER");
    setenv("LESS", "FRX", 0);
    /* NOLINTNEXTLINE(cert-env33-c): a pager is what the user says */
    FILE *out = popen(pager != NULL && *pager != '\0' ? pager : "less", "w");
    if (out == NULL)
        return -1;
    fputs(text, out);
    return pclose(out);
}

void help_show(const option_set *set)
{
    char *text = NULL;
    size_t size;
    int columns, rows;
    measure_terminal(&columns, &rows);
    FILE *out = open_memstream(&text, &size);
    if (out == NULL)
        return;
    print_help(out, set, columns);
    fclose(out);
    if (rows == 0 || count_lines(text) < rows || page(text) != 0)
        fputs(text, stdout);
    free(text);
}

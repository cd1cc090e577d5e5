/* environment.c - lets through of the host's environment what a program may have. It is copied
 * once: a host that changes its own while jobs start would be a race. */
#include "workqueue/process/environment.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What programs need to find things, to speak to people and to reach the web; no secrets. */
static const char *const by_default[] = {
    "PATH",          "HOME",         "USER",       "LOGNAME",     "SHELL",      "LANG",
    "LANGUAGE",      "LC_*",         "TZ",         "TMPDIR",      "http_proxy", "https_proxy",
    "all_proxy",     "no_proxy",     "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY",  "NO_PROXY",
    "SSL_CERT_FILE", "SSL_CERT_DIR", NULL,
};

static size_t name_length(const char *variable)
{
    return strcspn(variable, "=");
}

/* Does an entry of the list mean this variable? One that sets it does, too. */
static int entry_means(const char *entry, const char *variable)
{
    size_t n = name_length(entry), length = name_length(variable);
    if (entry[n] == '\0' && n > 0 && entry[n - 1] == '*')
        return strncmp(entry, variable, n - 1) == 0;
    return n == length && strncmp(entry, variable, n) == 0;
}

static int is_listed(const char *const *list, const char *variable)
{
    for (; *list != NULL; list++)
        if (entry_means(*list, variable))
            return 1;
    return 0;
}

/* Is it set by the list itself, so that the host's value does not count? */
static int is_replaced(const char *const *list, const char *variable)
{
    for (; *list != NULL; list++)
        if (strchr(*list, '=') != NULL && entry_means(*list, variable))
            return 1;
    return 0;
}

#define UNBUFFERED "PYTHONUNBUFFERED=1"

/* Is the variable named by itself, with a value or without, and not only by "*"? */
static int is_named(const char *const *list, const char *variable)
{
    for (; *list != NULL; list++)
        if (strchr(*list, '*') == NULL && entry_means(*list, variable))
            return 1;
    return 0;
}

static int is_inherited(const char *const *allow, const char *const *without, const char *variable)
{
    return is_listed(allow, variable) && !is_replaced(allow, variable) &&
           !is_listed(without, variable);
}

static void add_variable(const char **out, size_t max, size_t *n, const char *variable)
{
    if (out != NULL && *n < max)
        out[*n] = variable;
    ++*n;
}

/* Collects pointers, at most `max`; `out` NULL: only counts them. */
static size_t collect_given(const char **out, size_t max, const char *const *allow,
                            const char *const *without)
{
    size_t n = 0;
    int is_set = is_named(allow, UNBUFFERED);
    for (char **v = environ; v != NULL && *v != NULL; v++)
        if (is_inherited(allow, without, *v)) {
            add_variable(out, max, &n, *v);
            is_set |= entry_means(UNBUFFERED, *v);
        }
    for (const char *const *entry = allow; *entry != NULL; entry++)
        if (strchr(*entry, '=') != NULL && !is_listed(without, *entry))
            add_variable(out, max, &n, *entry);
    if (!is_set)
        add_variable(out, max, &n, UNBUFFERED);
    return n;
}

static size_t collect_kept_back(const char **out, size_t max, const char *const *allow,
                                const char *const *without)
{
    size_t n = 0;
    for (char **v = environ; v != NULL && *v != NULL; v++)
        if (!is_listed(allow, *v) && !is_listed(without, *v) && strchr(*v, '=') != NULL)
            add_variable(out, max, &n, *v);
    return n;
}

/* Copies what a function collects into one piece: of each the first bytes, as many as `length`
 * says. */
static char **copy_collected(size_t (*collect_all)(const char **, size_t, const char *const *,
                                                   const char *const *),
                             size_t (*length)(const char *), const char *const *allow,
                             const char *const *without)
{
    if (allow == NULL)
        allow = by_default;
    size_t n = collect_all(NULL, 0, allow, without), bytes = 0;
    const char **found = calloc(n + 1, sizeof *found);
    if (found == NULL)
        return NULL;
    size_t m = collect_all(found, n, allow, without); /* the host may change its own meanwhile */
    n = m < n ? m : n;
    for (size_t i = 0; i < n; i++)
        bytes += length(found[i]) + 1;
    char **copy = malloc((n + 1) * sizeof *copy + bytes);
    if (copy != NULL) {
        char *text = (char *)(copy + n + 1);
        for (size_t i = 0; i < n; i++) {
            size_t len = length(found[i]);
            copy[i] = memcpy(text, found[i], len);
            text[len] = '\0';
            text += len + 1;
        }
        copy[n] = NULL;
    }
    free(found);
    return copy;
}

char **wq_environment_new(const char *const *allow, const char *const *without)
{
    return copy_collected(collect_given, strlen, allow, without);
}

char **wq_environment_kept_back(const char *const *allow, const char *const *without)
{
    return copy_collected(collect_kept_back, name_length, allow, without);
}

size_t wq_environment_count(char *const *environment)
{
    size_t n = 0;
    while (environment[n] != NULL)
        n++;
    return n;
}

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
static int means(const char *entry, const char *variable)
{
    size_t n = name_length(entry), length = name_length(variable);
    if (entry[n] == '\0' && n > 0 && entry[n - 1] == '*')
        return strncmp(entry, variable, n - 1) == 0;
    return n == length && strncmp(entry, variable, n) == 0;
}

static int listed(const char *const *list, const char *variable)
{
    for (; *list != NULL; list++)
        if (means(*list, variable))
            return 1;
    return 0;
}

/* Is it set by the list itself, so that the host's value does not count? */
static int replaced(const char *const *list, const char *variable)
{
    for (; *list != NULL; list++)
        if (strchr(*list, '=') != NULL && means(*list, variable))
            return 1;
    return 0;
}

/* Collects pointers, at most `max`; `out` NULL: only counts them. */
static size_t collect(const char **out, size_t max, const char *const *allow,
                      const char *const *without)
{
    size_t n = 0;
    for (char **v = environ; v != NULL && *v != NULL; v++)
        if (listed(allow, *v) && !replaced(allow, *v) && !listed(without, *v)) {
            if (out != NULL && n < max)
                out[n] = *v;
            n++;
        }
    for (const char *const *entry = allow; *entry != NULL; entry++)
        if (strchr(*entry, '=') != NULL && !listed(without, *entry)) {
            if (out != NULL && n < max)
                out[n] = *entry;
            n++;
        }
    return n;
}

char **wq_environment_new(const char *const *allow, const char *const *without)
{
    if (allow == NULL)
        allow = by_default;
    size_t n = collect(NULL, 0, allow, without), bytes = 0;
    const char **found = calloc(n + 1, sizeof *found);
    if (found == NULL)
        return NULL;
    size_t m = collect(found, n, allow, without); /* the host may change its own meanwhile */
    n = m < n ? m : n;
    for (size_t i = 0; i < n; i++)
        bytes += strlen(found[i]) + 1;
    char **environment = malloc((n + 1) * sizeof *environment + bytes);
    if (environment != NULL) {
        char *text = (char *)(environment + n + 1);
        for (size_t i = 0; i < n; i++) {
            environment[i] = text;
            text = stpcpy(text, found[i]) + 1;
        }
        environment[n] = NULL;
    }
    free(found);
    return environment;
}

size_t wq_environment_count(char *const *environment)
{
    size_t n = 0;
    while (environment[n] != NULL)
        n++;
    return n;
}

/* pick.c - lets tests of a cmocka program be picked: `test_lines crlf` runs those whose name has
 * "crlf" in it, `test_lines -l` names them all. Linked into every test by -Wl,--wrap, so that a
 * test's main() need not know. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

int __real__cmocka_run_group_tests(const char *group, const struct CMUnitTest *tests, size_t n,
                                   CMFixtureFunction set_up, CMFixtureFunction tear_down);
int __wrap__cmocka_run_group_tests(const char *group, const struct CMUnitTest *tests, size_t n,
                                   CMFixtureFunction set_up, CMFixtureFunction tear_down);

static char **names; /* the program's arguments */
static int n_names;

/* glibc hands main's arguments to constructors, too. */
__attribute__((constructor)) static void note_arguments(int argc, char **argv)
{
    names = argv + 1;
    n_names = argc - 1;
}

static int is_picked(const char *test)
{
    for (int i = 0; i < n_names; i++)
        if (strstr(test, names[i]) != NULL)
            return 1;
    return n_names <= 0;
}

int __wrap__cmocka_run_group_tests(const char *group, const struct CMUnitTest *tests, size_t n,
                                   CMFixtureFunction set_up, CMFixtureFunction tear_down)
{
    const int only_list = n_names == 1 && strcmp(names[0], "-l") == 0;
    size_t n_picked = 0;
    struct CMUnitTest *picked = calloc(n, sizeof *picked);
    if (picked == NULL)
        return 1;
    for (size_t i = 0; i < n; i++)
        if (only_list)
            puts(tests[i].name);
        else if (is_picked(tests[i].name))
            picked[n_picked++] = tests[i];
    int result = 0;
    if (n_picked > 0)
        result = __real__cmocka_run_group_tests(group, picked, n_picked, set_up, tear_down);
    else if (!only_list) {
        fprintf(stderr, "no test has \"%s\" in its name; -l names them all\n", names[0]);
        result = 1;
    }
    free(picked);
    return result;
}

/* environment.h - the environment of a runner's programs: what an allow-list lets through. */
#ifndef WQ_PROCESS_ENVIRONMENT_H
#define WQ_PROCESS_ENVIRONMENT_H

#include <stddef.h>

/* Of this process's environment, what `allow` lets through, as in wq_options (NULL: the default
 * list), without the variables in `without`; and PYTHONUNBUFFERED=1, unless `allow` names it, so
 * that the progress of a program in Python is seen when it is made. Ends with NULL; in one piece,
 * to be freed by free(). NULL if there is no memory. */
char **wq_environment_new(const char *const *allow, const char *const *without);

/* The names of the variables of this process that `allow` keeps back, without those in `without`;
 * otherwise as above. */
char **wq_environment_kept_back(const char *const *allow, const char *const *without);

/* How many variables. */
size_t wq_environment_count(char *const *environment);

#endif

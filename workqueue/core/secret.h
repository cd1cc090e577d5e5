/* secret.h - a program may print the token it was given; what we keep and log must not show it. */
#ifndef WQ_CORE_SECRET_H
#define WQ_CORE_SECRET_H

#include <stddef.h>

/* Asterisks for a token, wherever it is. Short ones are words that could stand anywhere, and no
 * secrets. */
void wq_hide_secret(char *text, size_t len, const char *token);

/* Likewise in the error of a run: the end of stderr may begin in the middle of a token. */
void wq_hide_secret_in_error(char *error, const char *token);

/* How many bytes at the end may be the beginning of a token. */
size_t wq_secret_begun(const char *text, size_t len, const char *token);

#endif

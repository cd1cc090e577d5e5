/* failure.c - keeps why process-docset failed. */
#include "failure.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { SECRET_BYTES = 8 /* shorter tokens are words that could stand anywhere */ };

/* Addresses and the words of libraries may hold anything, the token too. */
static void redact(char *sentence, const char *token)
{
    size_t len = strlen(token);
    if (len == 0)
        return;
    for (char *p = sentence; (p = strstr(p, token)) != NULL; p += len)
        memset(p, '*', len);
}

int failure_set(struct failure *failure, const char *format, ...)
{
    va_list args;
    pthread_mutex_lock(&failure->lock);
    if (failure->sentence[0] == '\0') {
        va_start(args, format);
        vsnprintf(failure->sentence, sizeof failure->sentence, format, args);
        va_end(args);
        for (char *p = failure->sentence; *p != '\0'; p++)
            if ((unsigned char)*p < 0x20 || *p == 0x7f)
                *p = ' ';
        if (strlen(failure->secret) >= SECRET_BYTES)
            redact(failure->sentence, failure->secret);
    }
    pthread_mutex_unlock(&failure->lock);
    return -1;
}

int failure_is_set(struct failure *failure)
{
    pthread_mutex_lock(&failure->lock);
    int failed = failure->sentence[0] != '\0';
    pthread_mutex_unlock(&failure->lock);
    return failed;
}

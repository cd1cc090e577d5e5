/* failure.h - the one sentence that says why process-docset failed. */
#ifndef FAILURE_H
#define FAILURE_H

#include <pthread.h>

struct failure {
    const char *secret; /* the API token, which is struck out */
    pthread_mutex_t lock;
    char sentence[1024]; /* "": nothing has failed */
};

/* Keeps the first sentence, which is the cause of later ones. From any thread. Returns -1. */
int failure_set(struct failure *failure, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

int failure_is_set(struct failure *failure);

#endif

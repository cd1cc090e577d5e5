/* download.h - asks an Overview server for the documents of a set. */
#ifndef DOWNLOAD_H
#define DOWNLOAD_H

#include <stdint.h>

#include "failure.h"
#include "items.h"

struct download {
    const char *server, *document_set_id, *api_token;
    struct failure *failure;
    items items;     /* to which the documents go */
    uint64_t n_read; /* of them have come */

    void *curl; /* download.c's */
};

/* 0: all documents have come; or -1 and the failure. */
int download_run(struct download *download);

#endif

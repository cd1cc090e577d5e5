/* embedded.h - the files of pages/, as they were when this was built. */
#ifndef WQ_COMMAND_EMBEDDED_H
#define WQ_COMMAND_EMBEDDED_H

#include <stddef.h>

typedef struct embedded_file {
    const char *name, *type; /* of the file, and its media type */
    const char *text;        /* borrowed, static; not terminated */
    size_t size;
} embedded_file;

/* The i-th of them; NULL: there are no more. What is given stays until the thread's next call. */
const embedded_file *embedded_at(size_t i);

/* Likewise, by its name; NULL: there is none of this name. */
const embedded_file *embedded_find(const char *name, size_t n);

#endif

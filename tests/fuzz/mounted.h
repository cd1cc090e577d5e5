/* mounted.h - the faces on an h2o in this process, with a connection that bytes can be sent over:
 * for fuzz targets. One thread runs the loop and is the client, too. */
#ifndef WQ_FUZZ_MOUNTED_H
#define WQ_FUZZ_MOUNTED_H

#include <stddef.h>
#include <stdint.h>

enum {
    MOUNTED_PAUSE = 0x1e,   /* where the client waits for an answer before it goes on */
    MOUNTED_SMALL = 1000,   /* bytes of an output */
    MOUNTED_LARGE = 200000, /* of one whose document set begins with 'b' */
};

/* Made once, by whoever calls first; ends with the process. Its program fails where the document
 * set begins with 'f', and runs until it is cancelled, or for 20 ms, where it begins with 's'. */
void mounted_open(void);

/* Sends `data` over a new connection, the id of the latest job in place of each "{id}", waits until
 * no more happens, and leaves. Everything that came back, NUL-terminated; borrowed. Asserts what is
 * true of any connection: answers are HTTP, log lines are printable and bounded, connection and
 * jobs end. */
const char *mounted_talk(const uint8_t *data, size_t size, size_t *len);

/* The id of the latest job. */
const char *mounted_id(void);

/* The byte at `i` of every output. */
char mounted_byte(uint64_t i);

#endif

/* fuzz_http.c - libFuzzer on whole requests, one after the other on a connection, into the mounted
 * faces. "{id}" stands for the latest job, the byte 0x1e for a wait until the answer is there. */
#include "mounted.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t len;
    mounted_talk(data, size, &len);
    return 0;
}

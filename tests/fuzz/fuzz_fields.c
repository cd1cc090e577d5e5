/* fuzz_fields.c - libFuzzer on every decoder of requests; the first byte chooses which. */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "workqueue/http/request/fields.h"
#include "workqueue/http/request/media_types.h"

struct block {
    struct block *next;
    char bytes[];
};

struct arena {
    struct block *blocks;
    size_t total;
};

/* Blocks of their own, so that the sanitizer sees a write beyond any of them. */
static void *take(void *user, size_t size)
{
    struct arena *arena = user;
    struct block *block = malloc(sizeof(*block) + size);

    assert(block != NULL);
    block->next = arena->blocks;
    arena->blocks = block;
    arena->total += size;
    return block->bytes;
}

static void read_through(const char *text)
{
    volatile size_t n; /* the sanitizer is to see strlen() read it all */

    n = text != NULL ? strlen(text) : 0;
    (void)n;
}

static void decode(wq_arena arena, int which, const char *data, size_t len)
{
    static const char *const offers[] = {"application/json", "text/event-stream"};
    const size_t boundary_len = len > 0 ? (size_t)(unsigned char)data[0] % (len + 1) % 72 : 0;
    wq_fields fields = {0};
    const char *why = "", *boundary = NULL, *text = NULL;
    int result = 0;

    if (which == 0)
        result = wq_fields_urlencoded(&fields, arena, data, len, &why);
    else if (which == 1)
        result = wq_fields_json(&fields, arena, data, len, &why);
    else if (which == 2)
        result = wq_fields_multipart(&fields, arena, data, boundary_len, data + boundary_len,
                                     len - boundary_len, &why);
    else if (which == 3)
        result = wq_fields_multipart(&fields, arena, "b", 1, data, len, &why);
    else if (which == 4)
        text = wq_query_field(arena, data, len, "q");
    else if (which == 5)
        text = wq_basic_token(arena, data, len, &why);
    else if (which == 6)
        result = wq_content_type(arena, data, len, &text, &boundary);
    else if (which == 7)
        assert(wq_accept(data, len, offers, 2) < 2);
    else
        text = wq_percent_decoded(arena, data, len);
    assert(result == 0 || (result == -1 && why != NULL));
    read_through(fields.server);
    read_through(fields.document_set_id);
    read_through(fields.api_token);
    read_through(why);
    read_through(result == 0 ? boundary : NULL);
    read_through(result == 0 ? text : NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena memory = {0};
    char *exact;

    if (size == 0)
        return 0;
    exact = malloc(size > 1 ? size - 1 : 1); /* not a byte more, for the sanitizer */
    assert(exact != NULL);
    memcpy(exact, data + 1, size - 1);
    decode((wq_arena){take, &memory}, (unsigned char)(data[0] - '0') % 9, exact, size - 1);
    assert(memory.total <= size + 512);
    while (memory.blocks != NULL) {
        struct block *next = memory.blocks->next;
        free(memory.blocks);
        memory.blocks = next;
    }
    free(exact);
    return 0;
}

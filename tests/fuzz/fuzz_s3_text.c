/* fuzz_s3_text.c - libFuzzer on what S3 answers: elements are found within the answer, whole or not
 * at all, and any text comes back as it was written, in XML and percent-encoded. The first byte is
 * how much room there is for an element.
 *
 * clang -fsanitize=fuzzer,address,undefined -I. -Iinclude tests/fuzz/fuzz_s3_text.c
 *     workqueue/s3/text.c
 */
#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "workqueue/s3/text.h"

/* Room of exactly what it takes is enough, and of a byte less is not. */
static void check_room(const char *at, const char *name, const char *next, const char *found)
{
    const size_t n = strlen(found);
    char *exact = malloc(n + 1);
    assert(exact != NULL && wq_s3_xml_next(at, name, exact, n + 1) == next);
    assert(strcmp(exact, found) == 0 && wq_s3_xml_next(at, name, exact, n) == NULL);
    free(exact);
}

static void each_element(const char *xml, const char *name, size_t size)
{
    char *found = malloc(size), end[32];
    const char *at = xml, *next;
    assert(found != NULL);
    snprintf(end, sizeof end, "</%s>", name);
    while ((next = wq_s3_xml_next(at, name, found, size)) != NULL) {
        assert(next > at && next <= xml + strlen(xml) && strlen(found) < size);
        assert((size_t)(next - at) > 2 * strlen(end) - 2);
        assert(memcmp(next - strlen(end), end, strlen(end)) == 0);
        check_room(at, name, next, found);
        at = next;
    }
    free(found);
}

/* As a store writes it, some with a number in place of the character. */
static char *escape(const char *text)
{
    char *out = malloc(6 * strlen(text) + sizeof "<Key></Key>"), *to = out;
    assert(out != NULL);
    to += sprintf(to, "<Key>");
    for (const char *c = text; *c != '\0'; c++)
        if (*c == '<' || *c == '&')
            to += sprintf(to, "&#%s;", *c == '<' ? "60" : "x26");
        else if (*c == '>')
            to += sprintf(to, "&gt;");
        else
            *to++ = *c;
    sprintf(to, "</Key>");
    return out;
}

static void write_and_read(const char *text)
{
    char *xml = escape(text), *found = malloc(strlen(text) + 1);
    assert(found != NULL);
    const char *next = wq_s3_xml_next(xml, "Key", found, strlen(text) + 1);
    assert(next == xml + strlen(xml) && strcmp(found, text) == 0);
    free(found);
    free(xml);
}

static void encode_and_decode(const char *text)
{
    const size_t most = 3 * strlen(text) + 1;
    char *encoded = malloc(most);
    assert(encoded != NULL && wq_s3_encode(encoded, most, text, "/") == 0);
    const size_t n = strlen(encoded);
    assert(n == 0 || wq_s3_encode(encoded, n, text, "/") != 0);
    assert(wq_s3_encode(encoded, n + 1, text, "/") == 0 && strlen(encoded) == n);
    for (const char *at = encoded; *at != '\0'; text++) {
        unsigned is = (unsigned char)*at;
        assert(is > ' ' && is <= '~' && is != '&' && is != '?');
        if (is == '%')
            assert(sscanf(at, "%%%2X", &is) == 1);
        at += *at == '%' ? 3 : 1;
        assert(is == (unsigned char)*text);
    }
    assert(*text == '\0');
    free(encoded);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[] = {"Key", "Code", "ETag", "IsTruncated"};
    if (size == 0)
        return 0;
    char *text = malloc(size), *exact;
    assert(text != NULL);
    memcpy(text, data + 1, size - 1);
    text[size - 1] = '\0';
    exact = strdup(text); /* not a byte more than the text, for the sanitizer */
    assert(exact != NULL);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        each_element(exact, names[i], data[0] + 1u);
    write_and_read(exact);
    encode_and_decode(exact);
    free(exact);
    free(text);
    return 0;
}

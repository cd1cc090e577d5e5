/* s3_text.c - the text that S3 is spoken in: percent-encoding and the little XML there is.
 *
 * Answers have a handful of flat elements that we want, so there is no parser: an element is found
 * by its tags, which cannot be anywhere else, since a "<" in a text must be written "&lt;".
 */
#include "workqueue/s3/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int wq_s3_encode(char *out, size_t size, const char *in, const char *keep)
{
    static const char plain[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~";
    static const char hex[] = "0123456789ABCDEF";
    size_t n = 0;
    for (; *in != '\0'; in++) {
        unsigned char c = (unsigned char)*in;
        int as_is = strchr(plain, c) != NULL || strchr(keep, c) != NULL;
        if (n + (as_is ? 1 : 3) >= size)
            return -1;
        if (as_is) {
            out[n++] = (char)c;
        } else {
            out[n++] = '%';
            out[n++] = hex[c >> 4];
            out[n++] = hex[c & 15];
        }
    }
    if (n >= size)
        return -1;
    out[n] = '\0';
    return 0;
}

/* ---- XML ------------------------------------------------------------------------------------- */

/* Writes a code point as UTF-8; how many bytes, 0 if it is none. */
static size_t put_utf8(char out[4], unsigned long c)
{
    if (c == 0 || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
        return 0;
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--, c >>= 6)
        out[i] = (char)(0x80 | (c & 0x3f));
    out[0] = (char)((0xf00 >> n) | c);
    return n;
}

/* What the entity at `in`, an "&", stands for; how many bytes, 0 if it is none. `*used` is its
 * length. */
static size_t entity(const char *in, const char *end, char out[4], size_t *used)
{
    static const struct {
        const char *name;
        char is;
    } known[] = {{"&amp;", '&'}, {"&lt;", '<'}, {"&gt;", '>'}, {"&quot;", '"'}, {"&apos;", '\''}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strncmp(in, known[i].name, strlen(known[i].name)) == 0) {
            *used = strlen(known[i].name);
            out[0] = known[i].is;
            return 1;
        }
    const char *semicolon = memchr(in, ';', (size_t)(end - in));
    char *last;
    if (semicolon == NULL || in[1] != '#')
        return 0;
    int is_hex = in[2] == 'x';
    unsigned long c = strtoul(in + (is_hex ? 3 : 2), &last, is_hex ? 16 : 10);
    *used = (size_t)(semicolon - in) + 1;
    return last == semicolon ? put_utf8(out, c) : 0;
}

static int resolve(const char *in, const char *end, char *out, size_t size)
{
    size_t n = 0;
    while (in < end) {
        char bytes[4] = {*in};
        size_t used = 1, length = *in == '&' ? entity(in, end, bytes, &used) : 1;
        if (length == 0 || n + length >= size)
            return -1;
        memcpy(out + n, bytes, length);
        n += length;
        in += used;
    }
    out[n] = '\0';
    return 0;
}

const char *wq_s3_xml_next(const char *xml, const char *name, char *out, size_t size)
{
    char tag[64];
    int n = snprintf(tag, sizeof tag, "</%s>", name);
    if (n < 0 || (size_t)n >= sizeof tag || size == 0)
        return NULL;
    const char *end = strstr(xml, tag);
    if (end == NULL)
        return NULL;
    snprintf(tag, sizeof tag, "<%s>", name);
    const char *begin = strstr(xml, tag);
    if (begin == NULL || begin > end)
        return NULL;
    begin += n - 1;
    if (begin > end || memchr(begin, '<', (size_t)(end - begin)) != NULL)
        return NULL;
    return resolve(begin, end, out, size) == 0 ? end + n : NULL;
}

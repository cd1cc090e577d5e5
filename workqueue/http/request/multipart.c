/* multipart.c - reads the fields of a multipart/form-data body. */
#include "workqueue/http/request/fields.h"
#include "workqueue/http/request/media_types.h"
#include "workqueue/http/request/scan.h"

enum { MAX_BOUNDARY = 70 }; /* RFC 2046 */

struct multipart {
    const char *at, *end;
    char delimiter[4 + MAX_BOUNDARY]; /* "\r\n--" and the boundary */
    size_t delimiter_len;
};

/* What follows a delimiter: 1 a part, which begins at m->at; 0 the end of the parts; -1 it was
 * none, but text that begins like one. */
static int after_delimiter(struct multipart *m)
{
    const char *at = m->at;

    if (m->end - at >= 2 && memcmp(at, "--", 2) == 0)
        return 0;
    skip_blanks(&at, m->end);
    if (m->end - at < 2 || memcmp(at, "\r\n", 2) != 0)
        return -1;
    m->at = at + 2;
    return 1;
}

/* Moves behind the next delimiter and says what follows it, as above; -1 if there is none. *stop
 * gets where the text in front of it ends. */
static int next_delimiter(struct multipart *m, const char **stop)
{
    int follows = -1;

    while (follows < 0) {
        *stop = memmem(m->at, (size_t)(m->end - m->at), m->delimiter, m->delimiter_len);
        if (*stop == NULL)
            return -1;
        m->at = *stop + m->delimiter_len;
        follows = after_delimiter(m);
    }
    return follows;
}

/* The first delimiter may come without a newline in front. */
static int first_delimiter(struct multipart *m)
{
    const char *start = m->at, *stop;
    int follows;

    if ((size_t)(m->end - m->at) >= m->delimiter_len - 2 &&
        memcmp(m->at, m->delimiter + 2, m->delimiter_len - 2) == 0) {
        m->at += m->delimiter_len - 2;
        if ((follows = after_delimiter(m)) >= 0)
            return follows;
        m->at = start;
    }
    return next_delimiter(m, &stop);
}

/* The name in a header line, if that is Content-Disposition. */
static int disposition_name(const char *at, const char *end, wq_param *out)
{
    const char *line = at;
    const size_t n = skip_token(&at, end);

    if (!is_word(line, n, "content-disposition", 19) || at == end || *at++ != ':')
        return -1;
    skip_blanks(&at, end);
    skip_token(&at, end); /* "form-data" */
    while (wq_next_param(&at, end, out) == 1)
        if (is_word(out->name, out->name_len, "name", 4))
            return 0;
    return -1;
}

/* Reads the headers of a part. 0, and *name is the field's name and *at is behind the headers. */
static int part_headers(const char **at, const char *end, wq_param *name)
{
    int found = -1;

    for (;;) {
        const char *line = *at, *stop = memmem(line, (size_t)(end - line), "\r\n", 2);

        if (stop == NULL)
            return -1;
        *at = stop + 2;
        if (stop == line)
            return found;
        if (found != 0)
            found = disposition_name(line, stop, name);
    }
}

static int take_part(wq_fields *fields, wq_arena arena, const char *at, const char *end,
                     const char **why)
{
    wq_param name;

    if (part_headers(&at, end, &name) != 0)
        return wq_malformed(
            why, "a part has no Content-Disposition with a name, or no end of its headers");
    for (size_t i = 0; i < WQ_FIELD_NAMES; i++) {
        const char **to = wq_field_slot(fields, i);
        const size_t n = strlen(wq_field_names[i].name);

        if (*to != NULL || name.value_len != n ||
            memcmp(name.value, wq_field_names[i].name, n) != 0)
            continue;
        if (memchr(at, '\0', (size_t)(end - at)) != NULL)
            return wq_malformed(why, "a NUL character is not allowed");
        *to = wq_copy_text(arena, at, (size_t)(end - at));
    }
    return 0;
}

int wq_fields_multipart(wq_fields *fields, wq_arena arena, const char *boundary,
                        size_t boundary_len, const char *data, size_t len, const char **why)
{
    struct multipart m = {.at = data, .end = len > 0 ? data + len : data};
    const char *part, *stop;
    int follows;

    if (boundary_len < 1 || boundary_len > MAX_BOUNDARY)
        return wq_malformed(why, "its boundary must have 1 to 70 characters");
    if (len == 0)
        return wq_malformed(why, "it has no boundary line");
    memcpy(m.delimiter, "\r\n--", 4);
    memcpy(m.delimiter + 4, boundary, boundary_len);
    m.delimiter_len = 4 + boundary_len;
    if ((follows = first_delimiter(&m)) < 0)
        return wq_malformed(why, "it has no boundary line");
    while (follows == 1) {
        part = m.at;
        if ((follows = next_delimiter(&m, &stop)) < 0)
            return wq_malformed(why, "its closing boundary is missing");
        if (take_part(fields, arena, part, stop, why) != 0)
            return -1;
    }
    return 0;
}

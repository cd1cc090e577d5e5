/* framing.c - see framing.h. */
#include "workqueue/http/server/framing.h"

#include <string.h>
#include <strings.h>

#include "workqueue/http/request/scan.h"

enum { MAX_OVERHEAD = 16384, MAX_CHUNK_DIGITS = 12 };

static wq_framing_result refuse_request(wq_framing *f, int status, const char *why)
{
    f->status = status;
    f->why = why;
    return WQ_FRAMING_REFUSED;
}

static int is_control(char c)
{
    return ((unsigned char)c < 0x20 && c != '\t') || c == 0x7f;
}

/* ---- the request line ------------------------------------------------------------------------ */

/* What the headers say of host and length. */
typedef struct head {
    int minor; /* of the version */
    unsigned n_lines, n_hosts, n_lengths, n_encodings;
    int has_bare_lf;
} head;

/* How long "http://" or "https://" is that the target begins with; 0: it does not. */
static size_t scheme_of(const char *target, size_t n)
{
    if (n >= 7 && strncasecmp(target, "http://", 7) == 0)
        return 7;
    return n >= 8 && strncasecmp(target, "https://", 8) == 0 ? 8 : 0;
}

static const char *check_request_line(const char *line, size_t n, head *h)
{
    const char *end = line + n, *at = line;
    while (at < end && is_token_char(*at))
        at++;
    if (at == line || at == end || *at != ' ')
        return "The request line does not begin with a method and a blank.";
    const char *target = ++at;
    while (at < end && *at != ' ' && !is_control(*at) && *at != '\t')
        at++;
    if (at == target || at == end || *at != ' ')
        return "The request line has no target, or no version behind it.";
    if (*target != '/' && (*target != '*' || at != target + 1) &&
        scheme_of(target, (size_t)(at - target)) == 0)
        return "The target of a request is a path, or a URL of http or https.";
    at++;
    if (end - at != 8 || memcmp(at, "HTTP/1.", 7) != 0 || (at[7] != '0' && at[7] != '1'))
        return "This server speaks HTTP/1.1 and HTTP/1.0.";
    h->minor = at[7] - '0';
    return NULL;
}

/* ---- headers --------------------------------------------------------------------------------- */

static int is_name(const char *line, size_t n, const char *name)
{
    return n == strlen(name) && strncasecmp(line, name, n) == 0;
}

static const char *check_length(wq_framing *f, head *h, const char *value, size_t n)
{
    if (h->n_lengths++ > 0)
        return "The request says more than once how long its body is.";
    if (n == 0 || n > 18)
        return "Content-Length must be a number of at most 18 digits.";
    for (size_t i = 0; i < n; i++) {
        if (!is_digit(value[i]))
            return "Content-Length must be a number of at most 18 digits.";
        f->body_bytes = f->body_bytes * 10 + (uint64_t)(value[i] - '0');
    }
    return NULL;
}

static const char *check_encoding(wq_framing *f, head *h, const char *value, size_t n)
{
    if (h->n_encodings++ > 0)
        return "The request has more than one Transfer-Encoding.";
    if (n != 7 || strncasecmp(value, "chunked", 7) != 0)
        return "The only Transfer-Encoding here is chunked.";
    f->is_chunked = 1;
    return NULL;
}

/* Blanks behind the value go in front of it. */
static void rotate_blanks(char **value, size_t *n)
{
    size_t blanks = 0;
    while (blanks < *n && is_blank((*value)[*n - 1 - blanks]))
        blanks++;
    if (blanks == 0)
        return;
    *n -= blanks;
    memmove(*value + blanks, *value, *n);
    memset(*value, ' ', blanks);
    *value += blanks;
}

static const char *check_header(wq_framing *f, head *h, char *line, size_t n)
{
    size_t name = 0;
    if (is_blank(line[0]))
        return "A header may not go on in the next line.";
    while (name < n && is_token_char(line[name]))
        name++;
    if (name == 0 || name == n || line[name] != ':')
        return "A header must be a name, a colon and a value, without a blank in front of the "
               "colon.";
    char *value = line + name + 1;
    size_t len = n - name - 1;
    for (size_t i = 0; i < len; i++)
        if (is_control(value[i]))
            return "There is a control byte in a header.";
    rotate_blanks(&value, &len);
    for (; len > 0 && is_blank(*value); len--)
        value++;
    if (is_name(line, name, "host")) {
        h->n_hosts++;
        if (memchr(value, ' ', len) != NULL || memchr(value, '\t', len) != NULL)
            return "The header Host names no host.";
    }
    if (is_name(line, name, "content-length"))
        return check_length(f, h, value, len);
    return is_name(line, name, "transfer-encoding") ? check_encoding(f, h, value, len) : NULL;
}

static const char *check_whole(const wq_framing *f, const head *h)
{
    if (h->n_hosts > 1 || (h->n_hosts == 0 && h->minor == 1))
        return "A request by HTTP/1.1 has exactly one header Host.";
    if (h->n_encodings > 0 && h->n_lengths > 0)
        return "The request has both a Content-Length and a Transfer-Encoding.";
    if (h->n_encodings > 0 && h->minor == 0)
        return "HTTP/1.0 knows no Transfer-Encoding.";
    if (h->has_bare_lf && (f->is_chunked || f->body_bytes > 0))
        return "The lines of a request that has a body must end in CR and LF.";
    return NULL;
}

/* The lines up to and with the empty one, which is there. */
static wq_framing_result check_head(wq_framing *f, char *request)
{
    head h = {0};
    char *at = request, *end = request + f->head_bytes, *newline;
    for (; at < end && (newline = memchr(at, '\n', (size_t)(end - at))) != NULL; at = newline + 1) {
        const int has_cr = newline > at && newline[-1] == '\r';
        const size_t n = (size_t)(newline - at) - (size_t)has_cr;
        h.has_bare_lf |= !has_cr;
        if (n == 0)
            continue; /* in front of the request, or at its end */
        const char *why =
            h.n_lines == 0 ? check_request_line(at, n, &h) : check_header(f, &h, at, n);
        if (why != NULL)
            return refuse_request(f, 400, why);
        if (h.n_lines++ > WQ_MAX_HEADERS)
            return refuse_request(f, 431, "The request has too many headers.");
    }
    const char *why = h.n_lines > 0 ? check_whole(f, &h) : "There are only empty lines.";
    return why != NULL ? refuse_request(f, 400, why) : WQ_FRAMING_DONE;
}

/* An empty line in front of the request means nothing, but more of them are none. */
wq_framing_result wq_framing_head(wq_framing *f, char *request, size_t size)
{
    while (f->looked_at < size) {
        const char *newline = memchr(request + f->looked_at, '\n', size - f->looked_at);
        if (newline == NULL) {
            f->looked_at = size;
            break;
        }
        const size_t at = (size_t)(newline - request), n = at - f->line_at;
        const int is_empty = n == 0 || (n == 1 && request[f->line_at] == '\r');
        const int is_first = f->line_at == 0;
        f->looked_at = f->line_at = at + 1;
        if (is_empty && !is_first) {
            f->head_bytes = at + 1;
            break;
        }
    }
    if ((f->head_bytes > 0 ? f->head_bytes : size) > WQ_MAX_HEAD_BYTES)
        return refuse_request(f, 431, "The head of a request may have 32768 bytes.");
    return f->head_bytes > 0 ? check_head(f, request) : WQ_FRAMING_MORE;
}

/* ---- chunked bodies -------------------------------------------------------------------------- */

enum {
    SIZE, /* of a chunk: its first digit is to come */
    SIZE_MORE,
    EXTENSION,
    SIZE_LF, /* behind the CR of a chunk's line */
    DATA,
    DATA_CR,
    DATA_LF,
    TRAILER, /* at the beginning of a line */
    TRAILER_MORE,
    TRAILER_LF,
    LAST_LF,
};

/* Any byte of a line but its end; the next state, or -1. */
static int next_in_line(int state, char c, int after_cr)
{
    return c == '\r' ? after_cr : is_control(c) ? -1 : state;
}

static int next_of_size(wq_framing *f, char c)
{
    const int digit = hex_digit(c);
    if (digit >= 0) {
        if (f->state == SIZE)
            f->left = 0;
        if (f->left >> (4 * (MAX_CHUNK_DIGITS - 1)) != 0)
            return -1;
        f->left = f->left * 16 + (unsigned)digit;
        return SIZE_MORE;
    }
    if (f->state == SIZE)
        return -1;
    return c == ';' || is_blank(c) ? EXTENSION : c == '\r' ? SIZE_LF : -1;
}

/* The state behind this byte, which is none of a chunk's data; -1: it may not be there. LAST_LF
 * with its LF is the end. */
static int next_state(wq_framing *f, char c)
{
    switch (f->state) {
    case SIZE:
    case SIZE_MORE:
        return next_of_size(f, c);
    case EXTENSION:
        return next_in_line(EXTENSION, c, SIZE_LF);
    case SIZE_LF:
        return c != '\n' ? -1 : f->left > 0 ? DATA : TRAILER;
    case DATA_CR:
        return c == '\r' ? DATA_LF : -1;
    case DATA_LF:
        return c == '\n' ? SIZE : -1;
    case TRAILER:
        return c == '\r' ? LAST_LF : is_token_char(c) ? TRAILER_MORE : -1;
    case TRAILER_MORE:
        return next_in_line(TRAILER_MORE, c, TRAILER_LF);
    case TRAILER_LF:
        return c == '\n' ? TRAILER : -1;
    default:
        return c == '\n' ? LAST_LF : -1;
    }
}

wq_framing_result wq_framing_chunks(wq_framing *f, const char *data, size_t size, size_t *used)
{
    for (*used = 0; *used < size;) {
        if (f->state == DATA) {
            const size_t n = size - *used < f->left ? size - *used : (size_t)f->left;
            *used += n;
            f->left -= n;
            if (f->left == 0)
                f->state = DATA_CR;
            continue;
        }
        const int was = f->state, next = next_state(f, data[(*used)++]);
        if (next < 0)
            return refuse_request(f, 400, "The chunks of the body are not as RFC 9112 has them.");
        if (was == LAST_LF)
            return WQ_FRAMING_DONE;
        f->state = next;
        /* what a chunk needs is free, however small it is */
        f->overhead +=
            was == EXTENSION || was >= TRAILER || (was == SIZE_MORE && next == SIZE_MORE);
        if (f->overhead > MAX_OVERHEAD)
            return refuse_request(f, 431, "The chunks' extensions and trailers are too long.");
    }
    return WQ_FRAMING_MORE;
}

/* ---- absolute form --------------------------------------------------------------------------- */

size_t wq_framing_origin(char *request, size_t size, size_t *method_bytes)
{
    char *end = memchr(request, '\n', size), *blank = NULL, *target, *path;
    for (; end != NULL && (end == request || (end == request + 1 && request[0] == '\r'));)
        end = memchr(end + 1, '\n', size - (size_t)(end + 1 - request));
    if (end != NULL)
        blank = memchr(request, ' ', (size_t)(end - request));
    if (blank == NULL)
        return 0;
    target = blank + 1;
    const size_t scheme = scheme_of(target, (size_t)(end - target));
    if (scheme == 0 || target[scheme] == '/' || target[scheme] == ' ' || target[scheme] == '?')
        return 0;
    /* no string: it ends with its line */
    path = target + scheme;
    while (path < end && *path != '/' && *path != '?' && *path != ' ' && *path != '\r')
        path++;
    if (*path != '/')
        *--path = '/'; /* the authority is not needed */
    *method_bytes = (size_t)(target - request);
    return (size_t)(path - target);
}

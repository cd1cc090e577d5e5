/* url.c - the servers that jobs are asked for: URLs in one form for all their spellings, and the
 * list of those that are allowed.
 *
 * Whoever is let in here is contacted by a program with somebody's token, and that program reads
 * the URL with a parser of its own. So only what every parser reads alike is taken, and whatever
 * some repair, skip or guess at (a user name, a backslash, an escaped slash, an address in octal)
 * is refused. libh2o's h2o_url_parse() takes any bytes for a host, user name and all, and libcurl's
 * parser repairs; what either leaves to check would be as long as this.
 *
 * What is taken: http or https, a name, IPv4 or [IPv6], a port, a path. Names are compared without
 * case and final dot, bytes outside ASCII as they are; paths by whole segments, dots resolved.
 */
#include "workqueue/http/request/url.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "workqueue/http/request/scan.h"

enum { HOST_SIZE = 256, PATH_SIZE = 2050 }; /* a server has at most 2048 bytes */

typedef struct url {
    int is_https;
    unsigned port;
    char host[HOST_SIZE]; /* lower case, without a final dot; an IPv6 address begins with '[' */
    char path[PATH_SIZE]; /* "" or "/a/b", without a final slash */
    int has_final_slash;  /* it had one, after a path that is not empty */
} url;

struct wq_allow {
    size_t n;
    url urls[];
};

static int is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* ---- the parts; each returns what is wrong, as the end of a sentence, or NULL ---------------- */

static const char *parse_ip6(url *out, const char *host, size_t n)
{
    char text[INET6_ADDRSTRLEN];
    struct in6_addr address;
    if (n < 2 || host[n - 1] != ']' || n - 2 >= sizeof text)
        return "its IPv6 address is malformed";
    memcpy(text, host + 1, n - 2);
    text[n - 2] = '\0';
    if (inet_pton(AF_INET6, text, &address) != 1)
        return "its IPv6 address is malformed";
    out->host[0] = '[';
    inet_ntop(AF_INET6, &address, out->host + 1, sizeof out->host - 1);
    return NULL;
}

static const char *parse_name(url *out, const char *host, size_t n)
{
    if (n > 1 && host[n - 1] == '.')
        n--;
    if (n == 0 || n >= sizeof out->host)
        return n == 0 ? "it has no host" : "its host is too long";
    for (size_t i = 0; i < n; i++) {
        const char c = host[i];
        if (c == '.' && (i == 0 || i == n - 1 || host[i - 1] == '.'))
            return "its host has an empty part";
        if (!is_letter(c) && !is_digit(c) && strchr(".-_", c) == NULL && (unsigned char)c < 0x80)
            return "its host has a character that no host has";
        out->host[i] = lower(c);
    }
    out->host[n] = '\0';
    return NULL;
}

/* `text` is from the colon on, or empty. */
static const char *parse_port(url *out, const char *text, size_t n)
{
    unsigned port = 0;
    for (size_t i = 1; i < n; i++) {
        if (!is_digit(text[i]) || n > 6)
            return "its port is no number from 1 to 65535";
        port = port * 10 + (unsigned)(text[i] - '0');
    }
    if (n <= 1) /* RFC 3986 allows a colon with nothing after it */
        port = out->is_https ? 443 : 80;
    out->port = port;
    return port >= 1 && port <= 65535 ? NULL : "its port is no number from 1 to 65535";
}

static const char *parse_authority(url *out, const char *text, size_t n)
{
    const char *end = memchr(text, ']', n), *colon, *why;
    if (memchr(text, '@', n) != NULL)
        return "it has a user name, which is not taken";
    if (n > 0 && text[0] == '[')
        end = end != NULL ? end + 1 : text + n;
    else
        end = (colon = memchr(text, ':', n)) != NULL ? colon : text + n;
    why = text[0] == '[' ? parse_ip6(out, text, (size_t)(end - text))
                         : parse_name(out, text, (size_t)(end - text));
    if (why == NULL && end < text + n && *end != ':')
        why = "its IPv6 address is malformed";
    return why != NULL ? why : parse_port(out, end, (size_t)(text + n - end));
}

static int hex(char c)
{
    return is_digit(c) ? c - '0' : lower(c) >= 'a' && lower(c) <= 'f' ? lower(c) - 'a' + 10 : -1;
}

/* Writes one character of a path as everybody spells it, and says how many bytes it was; 0: it
 * might be read as something else. */
static size_t take_character(char **out, const char *text)
{
    static const char digits[] = "0123456789ABCDEF";
    if (*text != '%') {
        *(*out)++ = *text;
        return 1;
    }
    const int high = hex(text[1]), low = high < 0 ? -1 : hex(text[2]);
    const int c = high * 16 + low;
    /* %25 could be decoded twice */
    if (low < 0 || c < 0x20 || c == 0x7f || c == '/' || c == '\\' || c == ';' || c == '%')
        return 0;
    if (is_letter((char)c) || is_digit((char)c) || (c < 0x80 && strchr("-._~", c) != NULL)) {
        *(*out)++ = (char)c;
        return 3;
    }
    *(*out)++ = '%';
    *(*out)++ = digits[high];
    *(*out)++ = digits[low];
    return 3;
}

/* Takes a segment that has just been written, from its slash on, back if it is "." or "..", the
 * latter with the one before it. -1: some would see dots there, and some would not. */
static int resolve_dots(const char *path, char *segment, char **end)
{
    const size_t n = strcspn(segment + 1, ";"), dots = strspn(segment + 1, ".");
    if (n != dots || dots < 1 || dots > 2)
        return 0;
    if (segment[1 + n] == ';')
        return -1;
    *end = segment;
    if (dots == 2)
        while (*end > path && *--*end != '/')
            ;
    **end = '\0';
    return 0;
}

/* `text` begins with a slash, or is empty. */
static const char *parse_path(url *out, const char *text)
{
    static const char odd[] = "its path can be read in more than one way";
    char *end = out->path;
    out->has_final_slash = 1;
    while (*text != '\0') {
        char *segment = end;
        *end++ = *text++;
        if (*text == '/') /* "//" is "/" to some, and ".." then another one */
            return odd;
        while (*text != '\0' && *text != '/') {
            const size_t n = take_character(&end, text);
            if (n == 0)
                return odd;
            text += n;
        }
        *end = '\0';
        if (resolve_dots(out->path, segment, &end) != 0)
            return odd;
    }
    if (end > out->path && end[-1] == '/')
        end--;
    else
        out->has_final_slash = 0;
    *end = '\0';
    out->has_final_slash &= *out->path != '\0';
    return NULL;
}

static const char *parse(url *out, const char *text)
{
    const size_t n = strlen(text);
    if (n >= PATH_SIZE)
        return "it is too long";
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)text[i] <= ' ' || strchr("\"\\^`{|}<>\x7f", text[i]) != NULL)
            return "it has a character that no URL has";
    out->is_https = strncasecmp(text, "https://", 8) == 0;
    if (!out->is_https && strncasecmp(text, "http://", 7) != 0)
        return "it does not begin with http:// or https://";
    if (strpbrk(text, "?#") != NULL)
        return "it has a query or a fragment";
    text += out->is_https ? 8 : 7;
    const size_t authority = strcspn(text, "/");
    const char *why = parse_authority(out, text, authority);
    return why != NULL ? why : parse_path(out, text + authority);
}

const char *wq_url_canonical(char *out, size_t size, const char *text)
{
    url u;
    const char *why = parse(&u, text);
    if (why != NULL)
        return why;
    char port[8] = "";
    if (u.port != (u.is_https ? 443u : 80u))
        snprintf(port, sizeof port, ":%u", u.port);
    const int n = snprintf(out, size, "http%s://%s%s%s%s%s", u.is_https ? "s" : "", u.host,
                           u.host[0] == '[' ? "]" : "", port, u.path, u.has_final_slash ? "/" : "");
    return n > 0 && (size_t)n < size ? NULL : "it is too long";
}

/* Only what means the same wherever it is put: no dots, no escapes, nothing that a browser takes
 * for a host ("//"). */
int wq_is_prefix(const char *path, size_t n)
{
    enum { MAX_PREFIX = 256 };
    if (n == 0)
        return 1;
    if (n > MAX_PREFIX || path[0] != '/' || path[n - 1] == '/')
        return 0;
    for (size_t i = 0; i < n; i++) {
        const char c = path[i];
        if (!is_letter(c) && !is_digit(c) && (c == '\0' || strchr("/-_.~", c) == NULL))
            return 0;
        if (i > 0 && path[i - 1] == '/' && (c == '/' || c == '.'))
            return 0;
    }
    return 1;
}

/* ---- the list -------------------------------------------------------------------------------- */

static int fail_url(wq_error *error, int code, size_t i, const char *entry, const char *why)
{
    const char *shown = entry;
    for (const char *c = entry; *c != '\0'; c++)
        if (*c <= ' ' || *c > '~' || *c == '@') /* what is before an @ may be a password */
            shown = "";
    if (error == NULL)
        return code;
    error->code = code;
    snprintf(error->message, sizeof error->message,
             "the allow-list of servers: entry %zu%s%.200s is no URL of a server: %s", i + 1,
             *shown ? ", " : "", shown, why);
    return code;
}

int wq_allow_new(wq_allow **out, const char *const *entries, size_t n, wq_error *error)
{
    wq_allow *allow = calloc(1, sizeof *allow + n * sizeof allow->urls[0]);
    if (allow == NULL) {
        if (error != NULL)
            *error = (wq_error){WQ_ERROR_NO_MEMORY, "out of memory"};
        return WQ_ERROR_NO_MEMORY;
    }
    for (; allow->n < n; allow->n++) {
        const char *entry = entries != NULL ? entries[allow->n] : NULL;
        const char *why = entry ? parse(&allow->urls[allow->n], entry) : "it is NULL";
        if (why != NULL) {
            int result =
                fail_url(error, WQ_ERROR_INVALID_ARGUMENT, allow->n, entry ? entry : "", why);
            free(allow);
            return result;
        }
    }
    *out = allow;
    return WQ_OK;
}

void wq_allow_free(wq_allow *allow)
{
    free(allow);
}

static int is_below(const url *server, const url *entry)
{
    const size_t n = strlen(entry->path);
    return server->is_https == entry->is_https && server->port == entry->port &&
           strcmp(server->host, entry->host) == 0 && strncmp(server->path, entry->path, n) == 0 &&
           (server->path[n] == '\0' || server->path[n] == '/');
}

int wq_allow_has(const wq_allow *allow, const char *server)
{
    url parsed;
    if (allow->n == 0)
        return 1;
    if (parse(&parsed, server) != NULL)
        return 0;
    for (size_t i = 0; i < allow->n; i++)
        if (is_below(&parsed, &allow->urls[i]))
            return 1;
    return 0;
}

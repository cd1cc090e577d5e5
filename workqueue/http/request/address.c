/* address.c - see address.h. */
#include "workqueue/http/request/address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "workqueue/util/log.h"

enum { FOUR_AT = 12, MAX_HOPS = 32 };

static const unsigned char four_prefix[FOUR_AT] = {[10] = 0xff, [11] = 0xff};

typedef struct net {
    wq_address address;
    unsigned bits;
} net;

struct wq_proxies {
    int has_unix;
    size_t n;
    net nets[];
};

static int is_four(const wq_address *address)
{
    return memcmp(address->bytes, four_prefix, FOUR_AT) == 0;
}

static wq_address from_four(const void *four)
{
    wq_address address;
    memcpy(address.bytes, four_prefix, FOUR_AT);
    memcpy(address.bytes + FOUR_AT, four, 4);
    return address;
}

wq_address wq_address_of(const struct sockaddr *from)
{
    wq_address address = {{0}};
    if (from->sa_family == AF_INET)
        return from_four(&((const struct sockaddr_in *)from)->sin_addr);
    if (from->sa_family == AF_INET6)
        memcpy(address.bytes, &((const struct sockaddr_in6 *)from)->sin6_addr, 16);
    return address;
}

/* Without quotes, brackets and port. */
static int strip_address(char out[INET6_ADDRSTRLEN], const char *text, size_t n)
{
    const char *end;
    if (n >= 2 && text[0] == '"' && text[n - 1] == '"')
        text++, n -= 2;
    if (n > 0 && text[0] == '[') {
        if ((end = memchr(text, ']', n)) == NULL)
            return -1;
        text++, n = (size_t)(end - text);
    } else if ((end = memchr(text, ':', n)) != NULL &&
               memchr(end + 1, ':', n - (size_t)(end + 1 - text)) == NULL) {
        n = (size_t)(end - text); /* one colon: a port */
    }
    if (n == 0 || n >= INET6_ADDRSTRLEN || memchr(text, '\0', n) != NULL)
        return -1;
    memcpy(out, text, n);
    out[n] = '\0';
    return 0;
}

int wq_address_read(wq_address *out, const char *text, size_t n)
{
    char plain[INET6_ADDRSTRLEN];
    unsigned char four[4];
    if (strip_address(plain, text, n) != 0)
        return -1;
    if (inet_pton(AF_INET, plain, four) == 1)
        *out = from_four(four);
    else if (inet_pton(AF_INET6, plain, out->bytes) != 1)
        return -1;
    return 0;
}

wq_address wq_address_of_peer(wq_address address)
{
    if (!is_four(&address))
        memset(address.bytes + 8, 0, 8);
    return address;
}

static int is_nobody(const wq_address *address)
{
    static const wq_address nobody = {{0}};
    return memcmp(address, &nobody, sizeof nobody) == 0;
}

void wq_address_write(char out[WQ_ADDRESS_SIZE], const wq_address *address)
{
    const int four = is_four(address);
    *out = '\0';
    if (!is_nobody(address))
        inet_ntop(four ? AF_INET : AF_INET6, address->bytes + (four ? FOUR_AT : 0), out,
                  WQ_ADDRESS_SIZE);
}

int wq_address_is_local(const wq_address *address)
{
    static const unsigned char own[4] = {127, 0, 0, 1};
    const wq_address four = from_four(own);
    wq_address six = {{0}};
    six.bytes[15] = 1;
    return is_nobody(address) || memcmp(address, &four, sizeof four) == 0 ||
           memcmp(address, &six, sizeof six) == 0;
}

/* ---- proxies --------------------------------------------------------------------------------- */

/* 0, or -1: it is no net. */
static int read_net(net *out, const char *entry)
{
    const char *slash = strchr(entry, '/');
    const size_t n = slash != NULL ? (size_t)(slash - entry) : strlen(entry);
    char *end;
    if (wq_address_read(&out->address, entry, n) != 0)
        return -1;
    const unsigned long most = is_four(&out->address) ? 32 : 128;
    unsigned long bits = most;
    if (slash != NULL) {
        bits = strtoul(slash + 1, &end, 10);
        if (slash[1] < '0' || slash[1] > '9' || *end != '\0' || bits > most)
            return -1;
    }
    out->bits = (unsigned)(bits + 128 - most);
    return 0;
}

int wq_proxies_new(wq_proxies **out, const char *const *entries, size_t n, wq_error *error)
{
    wq_proxies *proxies = calloc(1, sizeof *proxies + n * sizeof proxies->nets[0]);
    if (proxies == NULL)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    for (size_t i = 0; i < n; i++) {
        if (strcmp(entries[i], "unix") == 0) {
            proxies->has_unix = 1;
        } else if (read_net(&proxies->nets[proxies->n++], entries[i]) != 0) {
            free(proxies);
            return wq_fail(
                error, WQ_ERROR_INVALID_ARGUMENT,
                "trusted proxies: \"%.100s\" is no address such as 10.0.0.1, no net such "
                "as 10.0.0.0/8, and not unix",
                entries[i]);
        }
    }
    *out = proxies;
    return WQ_OK;
}

void wq_proxies_free(wq_proxies *proxies)
{
    free(proxies);
}

static int is_in_net(const net *in, const wq_address *address)
{
    const unsigned bytes = in->bits / 8, rest = in->bits % 8;
    if (memcmp(in->address.bytes, address->bytes, bytes) != 0)
        return 0;
    return rest == 0 || (in->address.bytes[bytes] ^ address->bytes[bytes]) >> (8 - rest) == 0;
}

int wq_proxies_have(const wq_proxies *proxies, const wq_address *address)
{
    if (is_nobody(address))
        return proxies->has_unix;
    for (size_t i = 0; i < proxies->n; i++)
        if (is_in_net(&proxies->nets[i], address))
            return 1;
    return 0;
}

/* The value of `for` in an element of Forwarded: for=192.0.2.1;proto=https */
static int read_for(wq_address *out, const char *text, size_t n)
{
    while (n > 0) {
        const char *semicolon = memchr(text, ';', n);
        const size_t len = semicolon != NULL ? (size_t)(semicolon - text) : n;
        size_t at = 0, end = len;
        while (at < len && (text[at] == ' ' || text[at] == '\t'))
            at++;
        while (end > at && (text[end - 1] == ' ' || text[end - 1] == '\t'))
            end--;
        if (end - at > 4 && strncasecmp(text + at, "for=", 4) == 0)
            return wq_address_read(out, text + at + 4, end - at - 4);
        text += len + (semicolon != NULL);
        n -= len + (semicolon != NULL);
    }
    return -1;
}

static int read_hop(wq_address *out, const char *text, size_t n, int is_forwarded)
{
    for (; n > 0 && (*text == ' ' || *text == '\t'); n--)
        text++;
    while (n > 0 && (text[n - 1] == ' ' || text[n - 1] == '\t'))
        n--;
    return is_forwarded ? read_for(out, text, n) : wq_address_read(out, text, n);
}

int wq_proxies_client(const wq_proxies *proxies, const char *value, size_t n, int is_forwarded,
                      wq_address *out)
{
    wq_address hop;
    int result = -1;
    for (int i = 0; i < MAX_HOPS && n > 0; i++) {
        const char *comma = memrchr(value, ',', n);
        const char *begin = comma != NULL ? comma + 1 : value;
        if (read_hop(&hop, begin, n - (size_t)(begin - value), is_forwarded) != 0)
            break; /* a proxy of ours that does not tell: the hop before is as far as we see */
        *out = hop;
        result = 0;
        if (!wq_proxies_have(proxies, &hop))
            break;
        n = comma != NULL ? (size_t)(comma - value) : 0;
    }
    return result;
}

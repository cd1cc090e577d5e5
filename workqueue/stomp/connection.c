/* link.c - where a broker is, and bytes to it and from it. */
#include "workqueue/stomp/connection.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "workqueue/util/clocks.h"
#include "workqueue/util/log.h"

/* ---- URLs ------------------------------------------------------------------------------------ */

enum { URLS = 16, URL_BYTES = 1024 }; /* as many as anybody needs, tried in turn */

static int hex(char c)
{
    static const char digits[] = "0123456789abcdef0123456789ABCDEF";
    const char *at = c != '\0' ? strchr(digits, c) : NULL;
    return at != NULL ? (int)((at - digits) % 16) : -1;
}

/* A copy of `text`, percent-decoded; NULL: not decodable, or with bytes that no frame can have. */
static char *decode(const char *text, size_t n)
{
    char *copy = malloc(n + 1), *out = copy;
    for (size_t i = 0; copy != NULL && i < n; i++, out++) {
        *out = text[i];
        if (text[i] == '%') {
            const int high = i + 2 < n ? hex(text[i + 1]) : -1;
            const int low = high >= 0 ? hex(text[i + 2]) : -1;
            *out = (char)(low >= 0 ? high * 16 + low : 0);
            i += 2;
        }
        if (*out == '\0' || *out == '\r' || *out == '\n') {
            free(copy);
            return NULL;
        }
    }
    if (copy != NULL)
        *out = '\0';
    return copy;
}

static const char *parse_user(wq_broker_url *url, const char *text, size_t n)
{
    const char *colon = memchr(text, ':', n);
    const size_t user = colon != NULL ? (size_t)(colon - text) : n;
    url->user = decode(text, user);
    url->password = colon != NULL ? decode(colon + 1, n - user - 1) : strdup("");
    return url->user != NULL && url->password != NULL
               ? NULL
               : "its user or password is not percent-encoded as it should be";
}

static const char *parse_host(wq_broker_url *url, const char *text, size_t n)
{
    const char *end = memchr(text, ']', n);
    const int ip6 = n > 0 && text[0] == '[';
    if (ip6 && end == NULL)
        return "its IPv6 address is malformed";
    if (!ip6 && (end = memchr(text, ':', n)) == NULL)
        end = text + n;
    const char *port = ip6 ? end + 1 : end;
    const size_t host_len = (size_t)(end - text) - (size_t)ip6, left = n - (size_t)(port - text);
    if (host_len == 0 || (left > 0 && *port != ':'))
        return "it has no host";
    url->host = strndup(text + ip6, host_len);
    url->port = left > 1 ? strndup(port + 1, left - 1) : strdup(url->tls ? "61614" : "61613");
    if (url->host == NULL || url->port == NULL)
        return "there is no memory for it";
    if (strspn(url->host, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-._:%") <
        host_len)
        return "its host has a character that no host has";
    const size_t digits = strspn(url->port, "0123456789");
    if (url->port[digits] != '\0' || digits > 5 || atoi(url->port) < 1 || atoi(url->port) > 65535)
        return "its port is no number from 1 to 65535";
    if (asprintf(&url->shown, "%s://%s%s%s:%s", url->tls ? "stomps" : "stomp", ip6 ? "[" : "",
                 url->host, ip6 ? "]" : "", url->port) < 0)
        url->shown = NULL;
    return url->shown != NULL ? NULL : "there is no memory for it";
}

/* Returns what is wrong, as the end of a sentence, or NULL. */
static const char *parse_url(wq_broker_url *url, const char *text, size_t n)
{
    const char *slash, *at, *why = NULL;
    url->tls = n >= 9 && strncmp(text, "stomps://", 9) == 0;
    if (n > URL_BYTES)
        return "it is too long";
    if (!url->tls && (n < 8 || strncmp(text, "stomp://", 8) != 0))
        return "it does not begin with stomp:// or stomps://";
    text += url->tls ? 9 : 8;
    n -= url->tls ? 9 : 8;
    slash = memchr(text, '/', n);
    const size_t authority = slash != NULL ? (size_t)(slash - text) : n;
    at = memchr(text, '@', authority);
    const size_t user = at != NULL ? (size_t)(at - text) + 1 : 0;
    const size_t path = slash != NULL ? n - authority - 1 : 0;
    url->vhost = path > 0 ? decode(slash + 1, path) : strdup("/");
    if (url->vhost == NULL || memchr(text, '?', n) != NULL || memchr(text, '#', n) != NULL)
        return "its virtual host is not percent-encoded as it should be";
    if (at != NULL)
        why = parse_user(url, text, user - 1);
    return why != NULL ? why : parse_host(url, text + user, authority - user);
}

void wq_broker_urls_free(wq_broker_url *urls, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        free(urls[i].host);
        free(urls[i].port);
        free(urls[i].user);
        free(urls[i].password);
        free(urls[i].vhost);
        free(urls[i].shown);
    }
    free(urls);
}

int wq_broker_urls_parse(wq_broker_url **out, size_t *n, const char *text, wq_error *error)
{
    wq_broker_url *urls = calloc(URLS, sizeof *urls);
    size_t i = 0;
    if (urls == NULL)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    for (;; i++) {
        const size_t len = strcspn(text, ",");
        const char *why = i < URLS ? parse_url(&urls[i], text, len) : "there are too many";
        if (why != NULL) {
            wq_broker_urls_free(urls, URLS);
            return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "URL %zu of the broker: %s", i + 1,
                           why);
        }
        if (text[len] == '\0')
            break;
        text += len + 1;
    }
    *out = urls;
    *n = i + 1;
    return WQ_OK;
}

/* ---- TLS ------------------------------------------------------------------------------------- */

/* The first thing that OpenSSL has to say on this thread. */
static const char *tls_reason(void)
{
    const char *reason = ERR_reason_error_string(ERR_peek_error());
    ERR_clear_error();
    return reason != NULL ? reason : "no reason is given";
}

static int use_certificate(SSL_CTX *tls, const char *cert_file, const char *key_file,
                           wq_error *error)
{
    if (SSL_CTX_use_certificate_chain_file(tls, cert_file) == 1 &&
        SSL_CTX_use_PrivateKey_file(tls, key_file != NULL ? key_file : cert_file,
                                    SSL_FILETYPE_PEM) == 1 &&
        SSL_CTX_check_private_key(tls) == 1)
        return WQ_OK;
    return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT,
                   "the certificate %.300s and its key cannot be used: %s", cert_file,
                   tls_reason());
}

int wq_link_tls(SSL_CTX **out, const char *ca_file, const char *cert_file, const char *key_file,
                wq_error *error)
{
    SSL_CTX *tls = SSL_CTX_new(TLS_client_method());
    if (tls == NULL)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "TLS: %s", tls_reason());
    SSL_CTX_set_min_proto_version(tls, TLS1_2_VERSION);
    SSL_CTX_set_options(tls, SSL_OP_NO_RENEGOTIATION);
    SSL_CTX_set_mode(tls, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_verify(tls, SSL_VERIFY_PEER, NULL);
    const int trusted = ca_file != NULL ? SSL_CTX_load_verify_locations(tls, ca_file, NULL)
                                        : SSL_CTX_set_default_verify_paths(tls);
    if (trusted != 1) {
        SSL_CTX_free(tls);
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "certificates of authorities, %.300s: %s",
                       ca_file != NULL ? ca_file : "the system's", tls_reason());
    }
    if (cert_file != NULL && use_certificate(tls, cert_file, key_file, error) != WQ_OK) {
        SSL_CTX_free(tls);
        return WQ_ERROR_INVALID_ARGUMENT;
    }
    *out = tls;
    return WQ_OK;
}

/* What a call of OpenSSL came to: 0 to be tried again once link->events are there, or -1. */
static int tls_outcome(wq_link *link, int result, wq_error *error)
{
    const int saved = errno, kind = SSL_get_error(link->ssl, result);
    const long verified = SSL_get_verify_result(link->ssl);
    link->events = kind == SSL_ERROR_WANT_WRITE ? POLLOUT : 0;
    if (kind == SSL_ERROR_WANT_READ || kind == SSL_ERROR_WANT_WRITE)
        return 0;
    if (kind == SSL_ERROR_ZERO_RETURN || (kind == SSL_ERROR_SYSCALL && saved == 0))
        return wq_fail(error, -1, "the broker has closed the connection");
    if (kind == SSL_ERROR_SYSCALL)
        return wq_fail(error, -1, "%s", strerror(saved));
    if (verified != X509_V_OK)
        return wq_fail(error, -1, "its certificate is refused: %s",
                       X509_verify_cert_error_string(verified));
    return wq_fail(error, -1, "TLS: %s", tls_reason());
}

/* ---- connecting ------------------------------------------------------------------------------ */

/* Waits until the link can go on. -1: the deadline has passed, or the broker is being closed. */
static int wait_for(const wq_link *link, short events, int stop_fd, int64_t deadline,
                    wq_error *error)
{
    struct pollfd fds[] = {{.fd = link->fd, .events = events}, {.fd = stop_fd, .events = POLLIN}};
    for (;;) {
        const int64_t left = deadline - wq_monotonic_ms();
        if (left <= 0)
            return wq_fail(error, -1, "it did not answer in time");
        const int r = poll(fds, 2, left > INT_MAX ? INT_MAX : (int)left);
        if (r < 0 && errno != EINTR)
            return wq_fail(error, -1, "poll: %s", strerror(errno));
        if (r > 0 && fds[1].revents != 0)
            return wq_fail(error, -1, "the connection was no longer wanted");
        if (r > 0)
            return 0;
    }
}

static int connect_address(wq_link *link, const struct addrinfo *to, int stop_fd, int64_t deadline,
                           wq_error *error)
{
    int failure = 0, one = 1;
    socklen_t size = sizeof failure;
    link->fd = socket(to->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (link->fd < 0)
        return wq_fail(error, -1, "socket: %s", strerror(errno));
    setsockopt(link->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(link->fd, to->ai_addr, to->ai_addrlen) == 0)
        return 0;
    if (errno != EINPROGRESS)
        return wq_fail(error, -1, "%s", strerror(errno));
    if (wait_for(link, POLLOUT, stop_fd, deadline, error) != 0)
        return -1;
    getsockopt(link->fd, SOL_SOCKET, SO_ERROR, &failure, &size);
    return failure == 0 ? 0 : wq_fail(error, -1, "%s", strerror(failure));
}

/* The certificate must be for the host as the URL has it. */
static int expect_host(SSL *ssl, const char *host)
{
    unsigned char address[16];
    if (inet_pton(AF_INET, host, address) == 1 || inet_pton(AF_INET6, host, address) == 1)
        return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), host);
    return SSL_set1_host(ssl, host) == 1 && SSL_set_tlsext_host_name(ssl, host) == 1;
}

static int shake_hands(wq_link *link, const wq_broker_url *url, SSL_CTX *tls, int stop_fd,
                       int64_t deadline, wq_error *error)
{
    ERR_clear_error();
    link->ssl = SSL_new(tls);
    if (link->ssl == NULL || SSL_set_fd(link->ssl, link->fd) != 1 ||
        expect_host(link->ssl, url->host) != 1)
        return wq_fail(error, -1, "TLS: %s", tls_reason());
    for (;;) {
        ERR_clear_error();
        errno = 0;
        const int r = SSL_connect(link->ssl);
        if (r == 1)
            return 0;
        if (tls_outcome(link, r, error) != 0 ||
            wait_for(link, link->events ? link->events : POLLIN, stop_fd, deadline, error) != 0)
            return -1;
    }
}

int wq_link_open(wq_link *link, const wq_broker_url *url, SSL_CTX *tls, int stop_fd,
                 int64_t deadline, wq_error *error)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};
    struct addrinfo *addresses;
    *link = (wq_link){.fd = -1};
    const int r = getaddrinfo(url->host, url->port, &hints, &addresses);
    if (r != 0)
        return wq_fail(error, -1, "the name of its host is not known: %s", gai_strerror(r));
    int result = -1, left = 0;
    for (const struct addrinfo *to = addresses; to != NULL; to = to->ai_next)
        left++;
    for (const struct addrinfo *to = addresses; to != NULL && result != 0; to = to->ai_next) {
        const int64_t now = wq_monotonic_ms(); /* each address has its share of the time left */
        wq_link_close(link);
        result = connect_address(link, to, stop_fd, now + (deadline - now) / left--, error);
    }
    freeaddrinfo(addresses);
    if (result == 0 && url->tls)
        result = shake_hands(link, url, tls, stop_fd, deadline, error);
    if (result != 0)
        wq_link_close(link);
    return result;
}

void wq_link_close(wq_link *link)
{
    SSL_free(link->ssl);
    if (link->fd >= 0)
        close(link->fd);
    *link = (wq_link){.fd = -1};
}

/* ---- bytes ----------------------------------------------------------------------------------- */

static long plain_outcome(wq_link *link, ssize_t r, short events, wq_error *error)
{
    link->events = 0;
    if (r > 0)
        return (long)r;
    if (r == 0)
        return wq_fail(error, -1, "the broker has closed the connection");
    if (errno != EAGAIN && errno != EINTR)
        return wq_fail(error, -1, "%s", strerror(errno));
    link->events = events;
    return 0;
}

long wq_link_read(wq_link *link, char *buffer, size_t n, wq_error *error)
{
    if (link->ssl == NULL) {
        const short before = link->events; /* what a write waits for is not a read's to forget */
        const long r = plain_outcome(link, recv(link->fd, buffer, n, 0), 0, error);
        link->events = before;
        return r;
    }
    ERR_clear_error();
    errno = 0;
    const short before = link->events;
    const int r = SSL_read(link->ssl, buffer, n > INT_MAX ? INT_MAX : (int)n);
    const int outcome = r > 0 ? r : tls_outcome(link, r, error);
    link->events |= before;
    return outcome;
}

/* A SIGPIPE of OpenSSL's stays with this thread, which blocks it. */
long wq_link_write(wq_link *link, const char *bytes, size_t n, wq_error *error)
{
    if (link->ssl == NULL)
        return plain_outcome(link, send(link->fd, bytes, n, MSG_NOSIGNAL), POLLOUT, error);
    ERR_clear_error();
    errno = 0;
    link->events = 0;
    const int r = SSL_write(link->ssl, bytes, n > INT_MAX ? INT_MAX : (int)n);
    return r > 0 ? r : tls_outcome(link, r, error);
}

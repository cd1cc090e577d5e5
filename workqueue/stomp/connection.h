/* link.h - where a broker is, and bytes to it and from it: TCP or TLS, without blocking. */
#ifndef WQ_LINK_H
#define WQ_LINK_H

#include <workqueue/workqueue.h>

#include <openssl/ssl.h>
#include <stddef.h>
#include <stdint.h>

/* stomp://user:password@host:port/vhost or stomps://, percent-decoded. */
typedef struct wq_broker_url {
    int tls;
    char *host, *port;
    char *user, *password; /* NULL: none is sent */
    char *vhost;           /* "/" if the URL has none */
    char *shown;           /* for logs and errors: without user and password */
} wq_broker_url;

/* Reads URLs separated by commas. WQ_OK or a failure, whose sentence has no part of a URL. */
int wq_broker_urls_parse(wq_broker_url **out, size_t *n, const char *text, wq_error *error);
void wq_broker_urls_free(wq_broker_url *urls, size_t n);

/* What TLS is spoken by: `ca_file` (NULL: the system's) must have signed the other end; `cert_file`
 * and `key_file` say who we are (NULL: nobody). */
int wq_link_tls(SSL_CTX **out, const char *ca_file, const char *cert_file, const char *key_file,
                wq_error *error);

/* An open connection, of one thread. */
typedef struct wq_link {
    int fd;
    SSL *ssl;     /* NULL: plain */
    short events; /* what to poll for, beside input, before it can go on */
} wq_link;

/* Connects by one address after the other, until the deadline (wq_monotonic_ms()), or until
 * `stop_fd` is readable. The name is looked up by getaddrinfo(), which may block as long as the
 * resolver's settings say. */
int wq_link_open(wq_link *link, const wq_broker_url *url, SSL_CTX *tls, int stop_fd,
                 int64_t deadline, wq_error *error);
void wq_link_close(wq_link *link);

/* How many bytes were read or written; 0: none for now; -1: the connection has ended. */
long wq_link_read(wq_link *link, char *buffer, size_t n, wq_error *error);
long wq_link_write(wq_link *link, const char *bytes, size_t n, wq_error *error);

#endif

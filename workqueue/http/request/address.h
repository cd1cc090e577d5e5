/* address.h - the address of a client, and which of them are proxies of ours.
 *
 * A client is known by the address of its connection; or, if that is a proxy's which the options
 * name, by what the proxy says of it. No libh2o here, no I/O. */
#ifndef WQ_HTTP_REQUEST_ADDRESS_H
#define WQ_HTTP_REQUEST_ADDRESS_H

#include <sys/socket.h>
#include <workqueue/workqueue.h>

/* IPv4 in IPv6's form; all zero: of a Unix socket, or of nobody known. */
typedef struct wq_address {
    unsigned char bytes[16];
} wq_address;

enum { WQ_ADDRESS_SIZE = 48 }; /* a buffer for its text */

/* Of a connection's other side. */
wq_address wq_address_of(const struct sockaddr *from);

/* From "192.0.2.1", "2001:db8::1", with a port ("192.0.2.1:80", "[2001:db8::1]:80") or in quotes.
 * 0, or -1: it is none. */
int wq_address_read(wq_address *out, const char *text, size_t n);

/* What one client has: an IPv6 address counts by its first 64 bits, as a host has all below. */
wq_address wq_address_of_peer(wq_address address);

/* Writes it as in "192.0.2.1"; "" if nobody is known. */
void wq_address_write(char out[WQ_ADDRESS_SIZE], const wq_address *address);

/* Is it where a proxy on this machine comes from: 127.0.0.1, ::1, or a Unix socket? */
int wq_address_is_local(const wq_address *address);

/* The proxies that are trusted. */
typedef struct wq_proxies wq_proxies;

/* Takes in `n` entries: an address, a net ("10.0.0.0/8") or "unix". WQ_OK;
 * WQ_ERROR_INVALID_ARGUMENT and a sentence that names the entry; or WQ_ERROR_NO_MEMORY. */
int wq_proxies_new(wq_proxies **out, const char *const *entries, size_t n, wq_error *error);
void wq_proxies_free(wq_proxies *proxies); /* NULL is allowed */

/* Is it one of them? */
int wq_proxies_have(const wq_proxies *proxies, const wq_address *address);

/* Whom a proxy of ours speaks for, by X-Forwarded-For, or by Forwarded (RFC 7239): each proxy has
 * added at the end whence its request came. So the last that is no proxy of ours is the client;
 * what stands in front of it may be made up. 0, or -1: it says nothing of use. */
int wq_proxies_client(const wq_proxies *proxies, const char *value, size_t n, int is_forwarded,
                      wq_address *out);

#endif

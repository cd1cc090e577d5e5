/* listen.c - see listen.h. */
#include "workqueue/http/server/listen.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "workqueue/util/log.h"

enum { BACKLOG = 1024, SYSTEMD_FIRST_FD = 3 };

/* ---- addresses ------------------------------------------------------------------------------- */

static void name_socket(wq_listening *l, int fd)
{
    struct sockaddr_storage ss = {0};
    socklen_t len = sizeof ss;
    char host[64] = "?", port[16] = "?";
    if (l->address[0] != '\0')
        return;
    if (getsockname(fd, (struct sockaddr *)&ss, &len) != 0)
        return;
    if (ss.ss_family == AF_UNIX) {
        snprintf(l->address, sizeof l->address, "unix:%s", ((struct sockaddr_un *)&ss)->sun_path);
        return;
    }
    getnameinfo((struct sockaddr *)&ss, len, host, sizeof host, port, sizeof port,
                NI_NUMERICHOST | NI_NUMERICSERV);
    snprintf(l->address, sizeof l->address, ss.ss_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host,
             port);
}

static int add_socket(wq_listening *l, int fd, const char *address, wq_error *error)
{
    if (l->n == WQ_MAX_SOCKETS) {
        close(fd);
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT,
                       "listen on %s: there are at most %d sockets to listen on", address,
                       WQ_MAX_SOCKETS);
    }
    l->fds[l->n++] = fd;
    name_socket(l, fd);
    return WQ_OK;
}

/* "HOST:PORT", "[HOST]:PORT" or ":PORT" to its two parts, in a copy. */
static int split_address(char *copy, const char **host, const char **port)
{
    char *colon = strrchr(copy, ':');
    if (colon == NULL || colon[1] == '\0' || strspn(colon + 1, "0123456789") != strlen(colon + 1))
        return -1;
    *colon = '\0';
    *port = colon + 1;
    size_t n = strlen(copy);
    if (copy[0] == '[' && copy[n - 1] == ']') {
        copy[n - 1] = '\0';
        copy++;
    } else if (strchr(copy, ':') != NULL) {
        return -1;
    }
    *host = *copy != '\0' ? copy : NULL;
    return strtol(*port, NULL, 10) <= 65535 ? 0 : -1;
}

static int bind_and_listen(int family, const struct sockaddr *address, socklen_t len)
{
    int on = 1;
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    if (family != AF_UNIX)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (family == AF_INET6) /* the other family has a socket of its own */
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
    if (bind(fd, address, len) == 0 && listen(fd, BACKLOG) == 0)
        return fd;
    int saved = errno;
    close(fd);
    errno = saved;
    return -1;
}

/* The port that the first socket has got, where any free one was asked for. */
static void set_port(struct sockaddr *address, int like)
{
    struct sockaddr_storage ss = {0};
    socklen_t len = sizeof ss;
    if (getsockname(like, (struct sockaddr *)&ss, &len) != 0)
        return;
    /* of both families it is in the same place */
    in_port_t port = ((const struct sockaddr_in *)&ss)->sin_port; /* NOLINT(clang-analyzer-*) */
    if (address->sa_family == AF_INET6)
        ((struct sockaddr_in6 *)address)->sin6_port = port;
    else if (address->sa_family == AF_INET)
        ((struct sockaddr_in *)address)->sin_port = port;
}

/* All addresses of the name; a family that this machine has not got does not count. */
static int listen_on_found(wq_listening *l, const char *address, struct addrinfo *found,
                           wq_error *error)
{
    int first = -1, code = 0;
    for (struct addrinfo *ai = found; ai != NULL; ai = ai->ai_next) {
        if (first >= 0)
            set_port(ai->ai_addr, first);
        int fd = bind_and_listen(ai->ai_family, ai->ai_addr, ai->ai_addrlen);
        if (fd < 0 && (errno == EAFNOSUPPORT || errno == EADDRNOTAVAIL)) {
            code = code == 0 ? errno : code;
            continue;
        }
        if (fd < 0)
            return wq_fail(error, WQ_ERROR_SYSTEM, "listen on %s: %s", address, strerror(errno));
        int result = add_socket(l, fd, address, error);
        if (result != WQ_OK)
            return result;
        first = fd;
    }
    return first >= 0
               ? WQ_OK
               : wq_fail(error, WQ_ERROR_SYSTEM, "listen on %s: %s", address, strerror(code));
}

static int listen_on_name(wq_listening *l, const char *address, wq_error *error)
{
    const char *host, *port;
    struct addrinfo hints = {.ai_family = AF_UNSPEC,
                             .ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_PASSIVE | AI_NUMERICSERV},
                    *found = NULL;
    char *copy = strdup(address);
    if (copy == NULL)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    int result, r = 0;
    if (split_address(copy, &host, &port) != 0)
        result = wq_fail(error, WQ_ERROR_INVALID_ARGUMENT,
                         "listen address \"%s\" must look like 127.0.0.1:8080, [::1]:8080, :8080, "
                         "unix:/run/plugin.sock, fd:3 or systemd",
                         address);
    else if ((r = getaddrinfo(host, port, &hints, &found)) != 0)
        result = wq_fail(error, r == EAI_MEMORY ? WQ_ERROR_NO_MEMORY : WQ_ERROR_INVALID_ARGUMENT,
                         "listen address \"%s\": %s", address,
                         r == EAI_SYSTEM ? strerror(errno) : gai_strerror(r));
    else
        result = listen_on_found(l, address, found, error);
    if (found != NULL)
        freeaddrinfo(found);
    free(copy);
    return result;
}

/* ---- Unix sockets ---------------------------------------------------------------------------- */

/* Is it a socket that nobody listens on any more, left by a process that was killed? */
static int is_stale_socket(const struct sockaddr_un *address)
{
    struct stat st;
    if (lstat(address->sun_path, &st) != 0 || !S_ISSOCK(st.st_mode))
        return 0;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return 0;
    int stale = connect(fd, (const struct sockaddr *)address, sizeof *address) != 0 &&
                errno == ECONNREFUSED;
    close(fd);
    return stale;
}

/* "PATH" or "PATH,MODE"; *mode stays if there is none. */
static int split_mode(char *path, mode_t *mode)
{
    char *comma = strrchr(path, ','), *end;
    if (comma == NULL)
        return 0;
    unsigned long value = strtoul(comma + 1, &end, 8);
    if (comma[1] == '\0' || *end != '\0' || value > 0777)
        return -1;
    *comma = '\0';
    *mode = (mode_t)value;
    return 0;
}

/* Its mode is set once it is there, as the umask is the whole process's. */
static int listen_on_path(wq_listening *l, const char *address, wq_error *error)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    mode_t mode = 0666;
    size_t n = strlen(address);
    if (n == 0 || n >= sizeof un.sun_path)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT,
                       "listen address \"unix:%s\": the path must have from 1 to %zu bytes",
                       address, sizeof un.sun_path - 1);
    memcpy(un.sun_path, address, n + 1);
    if (split_mode(un.sun_path, &mode) != 0)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT,
                       "listen address \"unix:%s\": the mode behind the comma must be octal, as in "
                       "unix:/run/plugin.sock,660",
                       address);
    int fd = bind_and_listen(AF_UNIX, (struct sockaddr *)&un, sizeof un);
    if (fd < 0 && errno == EADDRINUSE && is_stale_socket(&un) && unlink(un.sun_path) == 0)
        fd = bind_and_listen(AF_UNIX, (struct sockaddr *)&un, sizeof un);
    if (fd < 0)
        return wq_fail(error, WQ_ERROR_SYSTEM, "listen on unix:%s: %s", un.sun_path,
                       strerror(errno));
    if (chmod(un.sun_path, mode) != 0) {
        int code = errno;
        unlink(un.sun_path);
        close(fd);
        return wq_fail(error, WQ_ERROR_SYSTEM, "chmod %s: %s", un.sun_path, strerror(code));
    }
    memcpy(l->unix_paths[l->n_unix_paths++ % WQ_MAX_SOCKETS], un.sun_path, sizeof un.sun_path);
    return add_socket(l, fd, address, error);
}

/* ---- sockets that somebody else has opened --------------------------------------------------- */

static int take_descriptor(wq_listening *l, int fd, const char *address, wq_error *error)
{
    int listens = 0;
    socklen_t len = sizeof listens;
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len) != 0 || !listens)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT,
                       "listen address \"%s\": descriptor %d is no socket that listens", address,
                       fd);
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (own < 0 || fcntl(own, F_SETFL, fcntl(own, F_GETFL) | O_NONBLOCK) != 0)
        return wq_fail(error, WQ_ERROR_SYSTEM, "listen on %s: %s", address, strerror(errno));
    return add_socket(l, own, address, error);
}

/* By sd_listen_fds(3): LISTEN_FDS sockets from descriptor 3 on, for the process LISTEN_PID. */
static int listen_on_activated(wq_listening *l, wq_error *error)
{
    const char *pid = getenv("LISTEN_PID"), *n = getenv("LISTEN_FDS");
    int result = WQ_OK;
    if (pid == NULL || n == NULL || strtol(pid, NULL, 10) != (long)getpid() ||
        strtol(n, NULL, 10) < 1)
        return wq_fail(
            error, WQ_ERROR_INVALID_ARGUMENT,
            "listen address \"systemd\": this process was given no sockets: LISTEN_PID and "
            "LISTEN_FDS are not set for it. Start it by a .socket unit");
    for (int i = 0; i < strtol(n, NULL, 10) && result == WQ_OK; i++)
        result = take_descriptor(l, SYSTEMD_FIRST_FD + i, "systemd", error);
    return result;
}

int wq_listen(wq_listening *l, const char *address, wq_error *error)
{
    char *end;
    if (strncmp(address, "unix:", 5) == 0)
        return listen_on_path(l, address + 5, error);
    if (strcmp(address, "systemd") == 0)
        return listen_on_activated(l, error);
    if (strncmp(address, "fd:", 3) == 0) {
        long fd = strtol(address + 3, &end, 10);
        if (address[3] == '\0' || *end != '\0' || fd < 0 || fd > 1 << 20)
            return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT,
                           "listen address \"%s\" must look like fd:3", address);
        return take_descriptor(l, (int)fd, address, error);
    }
    return listen_on_name(l, address, error);
}

void wq_listening_leave(wq_listening *l)
{
    for (unsigned i = 0; i < l->n; i++)
        close(l->fds[i]);
    l->n = 0;
}

void wq_listening_close(wq_listening *l)
{
    wq_listening_leave(l);
    for (unsigned i = 0; i < l->n_unix_paths; i++)
        unlink(l->unix_paths[i]);
    l->n_unix_paths = 0;
}

/* listen.h - from what the operator says to sockets that listen. */
#ifndef WQ_HTTP_SERVER_LISTEN_H
#define WQ_HTTP_SERVER_LISTEN_H

#include <workqueue/workqueue.h>

enum { WQ_MAX_SOCKETS = 16 };

typedef struct wq_listening {
    int fds[WQ_MAX_SOCKETS];
    unsigned n;
    char address[160];                    /* the first, with its real port */
    char unix_paths[WQ_MAX_SOCKETS][108]; /* those we have made */
    unsigned n_unix_paths;
} wq_listening;

/* Opens one more: "HOST:PORT", "[HOST]:PORT", ":PORT", "unix:PATH", "unix:PATH,MODE", "fd:N" or
 * "systemd". WQ_OK, or an error; what has been opened before stays. */
int wq_listen(wq_listening *listening, const char *address, wq_error *error);

/* Closes the sockets: others have copies. */
void wq_listening_leave(wq_listening *listening);

/* Closes all, and removes the paths of Unix sockets that are still ours. */
void wq_listening_close(wq_listening *listening);

#endif

/* http.h - the queue's faces over HTTP, on libh2o.
 *
 * Two ways to use it: wq_serve() runs a whole plugin server (listener, event loops, limits, graceful
 * stop), or wq_http_mount() puts the faces on a host of an h2o server of your own. Both answer as
 * README.md's table of faces says.
 *
 * The conventions are those of workqueue.h. This header names libh2o's structures without including
 * <h2o.h>, which compiles neither as strict C11 nor as C++; include that yourself where you write
 * handlers (with -DH2O_USE_LIBUV=0).
 */
#ifndef WORKQUEUE_HTTP_H
#define WORKQUEUE_HTTP_H

#include <workqueue/workqueue.h>

#ifdef __cplusplus
extern "C" {
#endif

struct st_h2o_hostconf_t;
struct st_h2o_req_t;

typedef struct wq_http wq_http;     /**< the faces of one queue */
typedef struct wq_server wq_server; /**< a running server */

/** How the faces behave. Fill it with wq_http_options_init(). Borrowed during the call only. */
typedef struct wq_http_options {
    size_t size;               /**< sizeof(wq_http_options) of the caller */
    unsigned heartbeat_ms;     /**< a stream without news gets a newline; default 15000, 0 never */
    unsigned stall_timeout_ms; /**< a client that takes nothing for so long is dropped; default 30000 */
    size_t max_streams;        /**< held responses at a time; default 100000; one more gets 503 */
    size_t max_body_bytes;     /**< of a request; default 65536; more gets 413 */
    unsigned hold_ms;          /**< a poll is held at most so long; default 25000 */
    /** A lunkwill client that does not ask for so long has its request cancelled; default 180000, as a
     * browser asks for a hidden page once a minute. */
    unsigned lunkwill_patience_ms;
    unsigned tasks_window_ms;  /**< one active task per user within it; default 300000 */
    const char *result_type;   /**< media type of outputs; default "application/octet-stream" */
    const char *tasks_path;    /**< where the task API is mounted; default "/api/tasks" */
    const char *operator_secret; /**< guards DELETE /output; NULL, the default: that is refused */
    const char *const *allow_servers; /**< URLs; `server` must be one or below one */
    size_t n_allow_servers;    /**< how many; 0, the default: any */
    /**
     * The paths are registered below this one, such as "/scans": several sets of faces, each of a
     * queue of its own, on one host. NULL, the default: at the root.
     */
    const char *mount_path;
    const char *program_name; /**< what GET /stats calls the program; NULL, the default: nothing */
    /**
     * Says what is wrong with the host, for GET /health and the operator's page: a sentence, in `buf`
     * of `size` bytes, or NULL: nothing. On any loop or thread of the faces; it must return at once.
     * NULL, the default: nothing ever is.
     */
    const char *(*trouble)(void *user, char *buf, size_t size);
    void *trouble_user;       /**< handed to trouble */
    /**
     * A page for who comes with a browser to /jobs or /jobs/{id}: asked before the face answers, on
     * the loop of the request. Answers as a handler does and returns 0, or returns -1 and has done
     * nothing. NULL, the default: there are no pages.
     */
    int (*page)(void *user, struct st_h2o_req_t *req);
    void *page_user;           /**< handed to page */
    /**
     * Nonzero: `server` may be any text, and is taken as it is. 0, the default: it is an http or https
     * URL, and is taken in one form for all its spellings (scheme and host in small letters, no default
     * port, no final dot, ...), for the key of the job, the limits, deletion and the program alike.
     */
    int any_server;
    /**
     * Below which path clients see these faces, behind a proxy that takes it away, such as "/queue":
     * every Location and link begins with it. NULL, the default: at the root.
     */
    const char *path_prefix;
    /**
     * Nonzero: a request's X-Forwarded-Prefix is taken instead, if it is a plain path. Only where
     * every request comes through a proxy that sets it. Default 0.
     */
    int trust_forwarded_prefix;
    /**
     * Proxies in front, as addresses ("10.0.0.1"), nets ("10.0.0.0/8") or "unix": a client whose
     * request comes from one is known by the address that the proxy tells in X-Forwarded-For, or, where
     * there is none, in Forwarded, for all that is bounded by address (`max_streams_per_peer`, and
     * `max_per_peer` and `fair` of the queue); their connections are not. Name only proxies that
     * set one of these headers and take away the other. NULL, the default: none is trusted.
     */
    const char *const *trust_proxies;
    size_t n_trust_proxies; /**< how many */
    /**
     * Responses held for one client address, an IPv6 one by its first 64 bits, and likewise lunkwill
     * requests under way; one more gets 429. Default 0: half of `max_streams`, but any number for
     * 127.0.0.1, ::1 and a Unix socket, where a proxy's are everybody's.
     */
    size_t max_streams_per_peer;
    /** Nonzero: GET /metrics, too, is only for who has `operator_secret`. Default 0. */
    int guard_metrics;
} wq_http_options;

/** Fills `options` with the defaults; `size` as in wq_options_init(). */
WQ_API void wq_http_options_init(wq_http_options *options, size_t size);

/**
 * Registers the faces' paths on `host`, before any context of its h2o_globalconf_t exists, and
 * before a "/" of yours. `*out` is owned: wq_http_free(). Set `max_request_entity_size` of your
 * h2o_globalconf_t yourself; `http1.upgrade_to_http2` should be 0. Create each context on the
 * thread that runs its loop. Not thread-safe. Fails with WQ_ERROR_INVALID_ARGUMENT (an
 * option, or an entry of `allow_servers` that is no http or https URL of a server) or
 * WQ_ERROR_NO_MEMORY.
 */
WQ_API int wq_http_mount(wq_http **out, struct st_h2o_hostconf_t *host, wq_queue *queue,
                         const wq_http_options *options, wq_error *error);

/**
 * Ends every held response in an orderly way: its last record so far, and the end of its format.
 * Later requests get 503. Returns at once; the loops must go on running until the responses are
 * out. To let clients see how their jobs end, wq_stop() the queue first and wait.
 */
WQ_API void wq_http_stop(wq_http *http);

/**
 * Frees the faces, after the last context of the h2o_globalconf_t is disposed and before
 * h2o_config_dispose() and wq_close(). NULL is allowed.
 */
WQ_API void wq_http_free(wq_http *http);

/* ---- for handlers of your own ------------------------------------------------------------------ */

/**
 * Reads server, documentSetId and the token from a request as every face does: query, urlencoded,
 * multipart or JSON body, Authorization. WQ_OK, and `*out` points into the request's pool; or
 * another result, and the request has been answered with a problem document.
 */
WQ_API int wq_http_params(wq_http *http, struct st_h2o_req_t *req, wq_params *out);

/**
 * The value of the field `name` in the query string, percent-decoded, in the request's pool; NULL
 * if it is not there or is malformed.
 */
WQ_API const char *wq_http_query(struct st_h2o_req_t *req, const char *name);

/**
 * Answers with a problem document (RFC 9457): `status`, its usual title, and `detail`, a sentence
 * for a person, copied. Adds the CORS headers. Always returns 0, so a handler may return it.
 */
WQ_API int wq_http_problem(struct st_h2o_req_t *req, int status, const char *detail);

/**
 * Answers `status` with a body, copied, and the CORS headers; for HEAD without the body. Always
 * returns 0.
 */
WQ_API int wq_http_send(struct st_h2o_req_t *req, int status, const char *content_type,
                        const char *body, size_t body_bytes);

/**
 * Answers what every route of yours should answer alike: OPTIONS gets its preflight answer, and a
 * method that is not in `allow` (as in "GET, HEAD, OPTIONS") gets 405. Returns 1 if it has answered,
 * 0 if the request is yours to handle.
 */
WQ_API int wq_http_method(struct st_h2o_req_t *req, const char *allow);

typedef struct wq_http_task wq_http_task; /**< work under way for a request */

/** Does the work, on a thread; sees by wq_http_gone(task) that nobody waits for it any more. */
typedef void (*wq_http_work_fn)(void *user, wq_http_task *task);

/**
 * Answers the request, on its loop; or `req` is NULL: it has gone, and this may be any thread. What
 * `user` points to is not used any more once this has been called.
 */
typedef void (*wq_http_done_fn)(void *user, struct st_h2o_req_t *req);

/**
 * Has a thread of the faces' do what would hold up the loop of `req`, and with it everybody's
 * streams: reading a file, asking another machine. `work` is called on that thread, and must not
 * touch `req`; then `done`. Read the request before: while it waits, its body, a long query and what is
 * large of its headers are not kept. If the client leaves meanwhile, or the server has no more time, the
 * request is over at once: `work` is not begun, or can see it, and `done` is called without it. There
 * are at most 16 such threads and 4096 tasks that wait, and each counts as a response that is held
 * (`max_streams`). Call it on the loop, for a request that has not been answered. WQ_OK, or
 * WQ_ERROR_FULL or WQ_ERROR_NO_MEMORY: the request has been answered, with 503 and Retry-After, and
 * neither is called.
 */
WQ_API int wq_http_work(wq_http *http, struct st_h2o_req_t *req, wq_http_work_fn work,
                        wq_http_done_fn done, void *user);

/** Nonzero: the request has gone, and what is being done for it is for nobody. From any thread,
 * while the work is under way. */
WQ_API int wq_http_gone(const wq_http_task *task);

/* ---- a whole server ---------------------------------------------------------------------------- */

/** One more queue of a server. */
typedef struct wq_serve_more {
    wq_queue *queue;      /**< borrowed until wq_server_stop() has returned */
    wq_http_options http; /**< of its faces */
} wq_serve_more;

/** How a server behaves. Fill it with wq_serve_options_init(). Borrowed during wq_serve() only. */
typedef struct wq_serve_options {
    size_t size;               /**< sizeof(wq_serve_options) of the caller */
    /** Where to listen. "127.0.0.1:8080", "[::1]:8080"; ":8080" is every address of both families,
     * and a name all its addresses; port 0: any free one. "unix:PATH" or "unix:PATH,MODE" (octal;
     * 666 by default) is a Unix socket, which replaces one that nobody listens on and is removed at
     * stop; "fd:N" a socket that listens already, which stays the caller's; "systemd" all that a
     * .socket unit has given the process. At most 16 sockets in all. */
    const char *listen;
    const char *const *listen_also; /**< more of the same */
    size_t n_listen_also;           /**< how many; 0, the default: none */
    unsigned loops;            /**< event loops, each on a thread; default 2, at most 64 */
    size_t max_connections;    /**< default 0: what the limit of open files leaves room for */
    /** Of one client address, an IPv6 one by its first 64 bits; more are closed at once. Default 0:
     * half of all, but any number from 127.0.0.1, ::1 and by a Unix socket, where a proxy's are
     * everybody's. Those of `http.trust_proxies` are not counted. */
    size_t max_connections_per_peer;
    unsigned request_timeout_ms; /**< for a whole request to arrive; default 10000 */
    unsigned idle_timeout_ms;    /**< between requests; default 75000, as proxies keep connections */
    unsigned linger_ms;        /**< at stop, how long clients may take to read their end; default 5000 */
    wq_http_options http;      /**< of the faces */
    /** More queues, each with faces of its own, whose `mount_path` tells them apart; they are stopped
     * with the first one, and yours to close, too. */
    const struct wq_serve_more *more;
    size_t n_more;             /**< how many; default 0 */
    /** Adds routes of your own to `host`, before the faces' fallback; NULL: none. */
    void (*routes)(void *user, wq_http *http, struct st_h2o_hostconf_t *host);
    void *user;                /**< handed to routes */
    /** Nonzero: tells systemd when it is ready and stops, how many jobs run and wait, and its watchdog
     * that all loops are at work, as the environment's NOTIFY_SOCKET and WATCHDOG_USEC say. Default
     * 0: the process is its host's, and so is what the service manager hears. */
    int notify_systemd;
    wq_log_cb log;             /**< NULL: no log */
    void *log_user;            /**< handed to log */
} wq_serve_options;

/** Fills `options`, its `http` included, with the defaults; `size` as in wq_options_init(). */
WQ_API void wq_serve_options_init(wq_serve_options *options, size_t size);

/**
 * Starts a server for `queue` and returns while it runs on threads of its own. `*out` is owned:
 * wq_server_stop(). Fails with WQ_ERROR_INVALID_ARGUMENT, WQ_ERROR_SYSTEM (the address is in use,
 * ...) or WQ_ERROR_NO_MEMORY.
 */
WQ_API int wq_serve(wq_server **out, wq_queue *queue, const wq_serve_options *options,
                    wq_error *error);

/** The first address it listens on, as in "127.0.0.1:8080" with the real port, or "unix:PATH";
 * borrowed. */
WQ_API const char *wq_server_address(const wq_server *server);

/**
 * Stops in good order: no new connections, wq_stop() on the queue, every stream gets its last record
 * and its end, at most `linger_ms` more for clients that are slow, threads joined, all freed. The
 * queue is yours to wq_close() afterwards. NULL is allowed. Call it once, from a thread that is not
 * one of the server's.
 */
WQ_API void wq_server_stop(wq_server *server);

#ifdef __cplusplus
}
#endif

#endif

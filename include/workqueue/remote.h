/* remote.h - the queue across machines: jobs over a STOMP broker, outputs in an S3-compatible store.
 *
 * In a library of its own, libworkqueue-remote, on libcurl and OpenSSL. The conventions are those of
 * workqueue.h.
 */
#ifndef WORKQUEUE_REMOTE_H
#define WORKQUEUE_REMOTE_H

#include <workqueue/extend.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- outputs in S3 --------------------------------------------------------------------------- */

/**
 * Where outputs are, and how that store is spoken to. Fill it with wq_s3_options_init(). Strings
 * are borrowed during wq_s3_store_open() only. "NULL: $NAME" is taken from the environment there.
 */
typedef struct wq_s3_options {
    size_t size;            /**< sizeof(wq_s3_options) of the caller */
    const char *url;        /**< "s3://bucket/prefix" or "s3://bucket": where outputs are */
    const char *endpoint;   /**< "http://host:port"; NULL: $AWS_ENDPOINT_URL_S3, $AWS_ENDPOINT_URL,
                                 else Amazon's for the region */
    const char *region;     /**< NULL: $AWS_REGION, $AWS_DEFAULT_REGION, else "us-east-1" */
    const char *access_key; /**< NULL: it, the next and the one after from
                                 $AWS_ACCESS_KEY_ID, $AWS_SECRET_ACCESS_KEY, $AWS_SESSION_TOKEN */
    const char *secret_key; /**< never logged, never part of an error */
    const char *session_token; /**< of temporary credentials; NULL: none */
    const char *credentials_file; /**< where the three are instead: lines NAME=VALUE with the names
                                       above, or as in ~/.aws/credentials; read again whenever the
                                       store refuses what it said. NULL: none */
    int path_style;      /**< nonzero, the default: the bucket is in the path; 0: in the host */
    const char *ca_file; /**< PEM, for https; NULL: $AWS_CA_BUNDLE, else the system's */
    const char *content_type; /**< stored with outputs; default "application/octet-stream" */
    const char *public_base;  /**< URL of the bucket for clients, for wq_output_url(); NULL: none */
    const char *cache_dir;    /**< existing folder; below it, in "s3-copies", are outputs in the
                                   making and local copies. Locked as long as the store is open */
    uint64_t cache_bytes;     /**< of local copies; the least recently used ones go, but none used
                                   within a minute; default 1 GiB; 0: no limit */
    uint64_t part_bytes; /**< a longer output is uploaded in parts of that size; default 64 MiB,
                              at least 5 MiB */
    unsigned max_connections;    /**< at a time, 1 to 64; who comes then waits; default 16 */
    unsigned connect_timeout_ms; /**< default 5000 */
    unsigned stall_timeout_ms;   /**< a request without a byte either way is ended; default 30000 */
    unsigned retries;            /**< after answers 5xx and 429 and broken connections; default 4,
                                      at most 100; after the last WQ_ERROR_AWAY */
    unsigned backoff_ms;         /**< before the first one, twice as long before each next, a random
                                      part of it less; default 100 */
    unsigned backoff_max_ms;     /**< but no longer than this; default 3000 */
    wq_log_cb log;               /**< NULL: no log */
    void *log_user;              /**< handed to log */
} wq_s3_options;

/** Fills `options` with the defaults; `size` as in wq_options_init(). */
WQ_API void wq_s3_options_init(wq_s3_options *options, size_t size);

/**
 * Opens a store for the `store` of wq_options, which owns it from then on; else call its `close`.
 * Asks the store nothing, which may be away. Fails with WQ_ERROR_INVALID_ARGUMENT (an option),
 * WQ_ERROR_LOCKED (another process uses cache_dir), WQ_ERROR_SYSTEM or WQ_ERROR_NO_MEMORY. Calls
 * curl_global_init() once a process, which is safe with others that do and with threads as libcurl
 * is built on Debian.
 *
 * An output is the object PREFIX/KEY. It is uploaded at once, or in parts, and so is there whole or
 * not at all. One that is in place stays, by `If-None-Match: *`; where the store does not know that
 * (it answers 501) by looking first, so that of two that publish the same at the same moment
 * the later one may win. The same holds for outputs in parts where the store ignores the header. An
 * output that a packager has made carries the epoch of its lease, and one of an earlier epoch
 * replaces none of a later one; up to 5 GiB it is in one piece where the store ignores the header for
 * parts. Refused credentials and a wrong clock count as away, too: outputs wait until they are right.
 * A bucket that is not there counts as away (WQ_ERROR_AWAY), so that outputs wait until it is.
 * Parts of an upload that was cut off by a crash stay in the bucket: give it a lifecycle rule
 * (AbortIncompleteMultipartUpload).
 */
WQ_API int wq_s3_store_open(wq_store **out, const wq_s3_options *options, wq_error *error);

/* ---- outputs in a folder that machines share ------------------------------------------------- */

/**
 * Opens a store for the `store` of wq_options, which owns it from then on; else call its `close`.
 * Outputs are files in `path` with their key as name; beside them are folders of the store's own.
 * Any number of processes on any machines may use it at the same time: one lock of the folder
 * (flock, which NFS has too) is held while one of them looks at something and replaces it. It does
 * not know whose outputs are whose, so it lists none and deletes no document set. WQ_OK,
 * WQ_ERROR_SYSTEM or WQ_ERROR_NO_MEMORY.
 */
WQ_API int wq_shared_folder_open(wq_store **out, const char *path, wq_error *error);

/** How servers share a store without a broker. Fill it with wq_sharing_options_init(). */
typedef struct wq_sharing_options {
    size_t size;           /**< sizeof(wq_sharing_options) of the caller */
    const wq_store *store; /**< the queue's; one that machines share; borrowed */
    unsigned renew_ms;     /**< a lease is renewed so often; default 5000 */
    unsigned takeover_ms;  /**< one that was not renewed for so long is taken over, by the clock of who
                                sees it; default 20000, at least twice renew_ms */
    unsigned max_attempts; /**< a job that has ended so many servers fails; default 5; 0: any */
    wq_log_cb log;         /**< as in wq_options */
    void *log_user;
} wq_sharing_options;

/** Fills in the defaults; `size` is sizeof(wq_sharing_options). */
WQ_API void wq_sharing_options_init(wq_sharing_options *options, size_t size);

/**
 * Opens a runner for the `runner` of wq_options, which owns it from then on; else call its `close`.
 * The queue makes its own runner by its other options, and this one stands before it: of all
 * servers that share the store, one at a time runs a key. Who asks another server meanwhile waits
 * there for the same end, without its progress, and a worker of that server with it. WQ_OK;
 * WQ_ERROR_INVALID_ARGUMENT; WQ_ERROR_SYSTEM: the store does not keep to conditions;
 * WQ_ERROR_AWAY: it cannot be reached; WQ_ERROR_NO_MEMORY.
 */
WQ_API int wq_sharing_runner_open(struct wq_runner **out, const wq_sharing_options *options,
                                  wq_error *error);

/* ---- jobs over a broker ---------------------------------------------------------------------- */

/**
 * How jobs are sent to packagers. Fill it with wq_stomp_options_init(). Strings are borrowed during
 * wq_stomp_runner_open() only. Destinations are sent to the broker as they are; the defaults suit
 * RabbitMQ, where a slash within a name is "%2F".
 */
typedef struct wq_stomp_options {
    size_t size;         /**< sizeof(wq_stomp_options) of the caller */
    const char *urls;    /**< "stomp[s]://[user:password@]host[:port][/vhost]", percent-encoded; several
                              with commas between are tried in turn; several such lists with
                              semicolons between are used at once, each for the keys that choose it,
                              as all servers and packagers with the same lists do */
    const char *ca_file; /**< PEM, for stomps; NULL: the system's */
    const char *queue_package; /**< where jobs go; default "/queue/docsets%2Fpackage" */
    const char *queue_reply;   /**< where a job's answers come, with "{id}" in it, or else the id is
                                    put behind it; default "/queue/package%2F{id}" */
    const char *queue_delete;  /**< where deletions are told; default "/queue/docsets%2Fdelete" */
    const struct wq_store *store; /**< of the same queue, borrowed until that is closed: if machines
                                       share it, ends are found there also without a broker, and
                                       cancels are left there; NULL: all goes by the broker */
    const char *cert_file; /**< PEM, our certificate for stomps brokers that ask for one; NULL: none */
    const char *key_file;  /**< PEM, its key; NULL: in cert_file */
    const char *plain_request; /**< for packagers of others: a job is sent as a URL and nothing else,
                                    made from this by putting the job's server in place of "{server}" and
                                    its document set in place of "{id}", such as
                                    "{server}/api/docsets/{id}?fmt=meta,txt"; its answers are read at
                                    queue_reply with the document set as the id, as the queue there
                                    is. Tokens are not sent. NULL: our own form */
    unsigned heartbeat_ms;     /**< asked of the broker, and promised; default 10000; 0: none */
    unsigned reply_expires_ms; /**< a queue of answers that nobody reads goes after this long (on
                                    RabbitMQ; elsewhere by configuration); default 1800000 */
    unsigned linger_ms;      /**< answers are read so long after somebody has last looked; 10000 */
    unsigned check_ms;       /**< and for a moment so often while nobody does; default 60000 */
    unsigned resend_ms;      /**< a job that nobody has accepted for so long is sent again, then after
                                  twice as long, and so on; default 600000 */
    unsigned quiet_ms;       /**< likewise one that was accepted by a packager that promises no signs
                                  of life, or four times as long as it said, if that is longer;
                                  default 60000. Those that do promise: three of them missed */
    unsigned cancel_wait_ms; /**< a cancelled job's packager has so long to answer; default 10000 */
    uint64_t max_fetch_bytes; /**< of outputs that a packager keeps elsewhere; default 0: any size */
    size_t max_in_flight;     /**< jobs that are at the broker at a time; default 1000 */
    wq_log_cb log;            /**< NULL: no log */
    void *log_user;           /**< handed to log */
} wq_stomp_options;

/** Fills `options` with the defaults; `size` as in wq_options_init(). */
WQ_API void wq_stomp_options_init(wq_stomp_options *options, size_t size);

/**
 * Opens a runner for the `runner` of wq_options, which owns it from then on; else call its `close`.
 * Waits for no connection: jobs wait while there is none. Fails with WQ_ERROR_INVALID_ARGUMENT,
 * WQ_ERROR_SYSTEM or WQ_ERROR_NO_MEMORY.
 *
 * Jobs are sent in the queue's order, and wait (in the sense of WQ_STATE_QUEUED) until a packager has
 * accepted them; n_ahead_in_queue counts the jobs of this queue, not those of other servers at
 * the same broker. The store must be the packagers' too; of a packager that is not one of ours, the
 * output is downloaded from where it says it is.
 */
WQ_API int wq_stomp_runner_open(struct wq_runner **out, const wq_stomp_options *options,
                                wq_error *error);

#ifdef __cplusplus
}
#endif

#endif

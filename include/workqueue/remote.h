/* remote.h - the queue across machines: outputs in an S3-compatible store.
 *
 * In a library of its own, libworkqueue-remote, on libcurl. The conventions are those of
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
 * the later one may win. The same holds for outputs in parts where the store ignores the header.
 * A bucket that is not there counts as away (WQ_ERROR_AWAY), so that outputs wait until it is.
 * Parts of an upload that was cut off by a crash stay in the bucket: give it a lifecycle rule
 * (AbortIncompleteMultipartUpload).
 */
WQ_API int wq_s3_store_open(wq_store **out, const wq_s3_options *options, wq_error *error);

#ifdef __cplusplus
}
#endif

#endif

/* extend.h - bring your own way to run a job, or your own place for outputs.
 *
 * Most users need none of this: wq_open() runs programs on this machine and keeps outputs in a
 * folder. The two structures below are tables of functions with a `self` that is handed to each;
 * put one into wq_options and the queue takes it over and calls `close` when it is done with it.
 */
#ifndef WORKQUEUE_EXTEND_H
#define WORKQUEUE_EXTEND_H

#include <workqueue/workqueue.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- a runner: how a job is run --------------------------------------------------------------- */

/** One run, as a runner sees it. Everything is borrowed for the call of `run`. */
typedef struct wq_run {
    const wq_params *params; /**< what to run for */
    const char *key;         /**< the key of params, in hex */
    const char *output_path; /**< an existing empty file, to be overwritten */
    unsigned slot;           /**< 0 .. workers-1; no two runs at the same time have the same */
    int cancel_fd;           /**< becomes readable when the run is to end early; do not read it */
    /** Hands up one line of progress, `len` bytes without newline; call it from within `run`. */
    void (*report)(void *user, const char *line, size_t len);
    void *user; /**< handed to report */
} wq_run;

/** How a run ended. */
typedef struct wq_outcome {
    int returncode; /**< 0, the exit status, -N for signal N, or -999 for a failure to run */
    int cancelled;  /**< nonzero if it was ended because cancel_fd was readable */
    char *error;    /**< from malloc, given to the caller; NULL if returncode is 0 */
} wq_outcome;

typedef struct wq_runner {
    void *self;
    /** Runs to the end and fills `*outcome`. Called from several threads at once. */
    void (*run)(void *self, const wq_run *run, wq_outcome *outcome);
    /** Frees self and the table; no run is under way. */
    void (*close)(struct wq_runner *runner);
} wq_runner;

/* ---- a store: where outputs are --------------------------------------------------------------- */

/** One output to publish. */
typedef struct wq_publish {
    const char *key;       /**< in hex */
    const wq_params *params; /**< what it is of; the token must not be kept */
    int replace;           /**< nonzero: one that is in place is replaced, else it stays */
    const char *temp_path; /**< what `begin` gave */
    int result;            /**< out: WQ_OK, or a negative wq_result */
    wq_error error;        /**< out: the sentence, when result is negative */
} wq_publish;

typedef struct wq_store {
    void *self;
    /** Nonzero if find, open, read and path may take long, so that event loops leave them to
     * threads. */
    int blocks;
    /** WQ_OK if the output is there, WQ_ERROR_NOT_FOUND, or another failure. Called often.
     * `*made_at_ms`, unless it is NULL, is when it was published, Unix time in ms. */
    int (*find)(void *self, const char *key, int64_t *made_at_ms, wq_error *error);
    /**
     * Opens the output for reading, and describes it; out->fd is given to the caller, or -1 where
     * outputs have no descriptors, and then there is a `read`.
     */
    int (*open)(void *self, const char *key, wq_output *out, wq_error *error);
    /**
     * Reads at most `size` bytes from `offset` of the version that `output` describes: how many, 0
     * at its end, or a negative wq_result; WQ_ERROR_NOT_FOUND if that version is there no more.
     * NULL where `open` gives descriptors.
     */
    int64_t (*read)(void *self, const char *key, const wq_output *output, uint64_t offset,
                    void *buf, size_t size, wq_error *error);
    /** A URL where clients may fetch the output themselves; NULL where there are none. */
    int (*url)(void *self, const char *key, char *url, size_t size, wq_error *error);
    /**
     * The path of the output, present or not; NULL where there are no paths. A store without
     * descriptors gives that of a local copy, which it makes if need be and which stays for a
     * minute at least, or WQ_ERROR_NOT_FOUND.
     */
    int (*path)(void *self, const char *key, char *path, size_t size, wq_error *error);
    /** Makes an empty file for a program to overwrite; `*temp_path` is from malloc, the caller's. */
    int (*begin)(void *self, const char *key, char **temp_path, wq_error *error);
    /**
     * Puts `n` outputs in place, each whole or not at all, and fills in each one's result; they are
     * visible, and durable if asked for, when it returns. One that is in place already and stays
     * counts as WQ_OK. The temporary files are gone afterwards, whatever the result, but for those
     * with WQ_ERROR_AWAY: they are kept, to be published again or discarded.
     */
    void (*publish)(void *self, wq_publish *items, size_t n);
    /** Removes a temporary file of `begin` that will not be published. */
    void (*discard)(void *self, const char *temp_path);
    /** Deletes an output; WQ_OK or WQ_ERROR_NOT_FOUND or another failure. */
    int (*remove)(void *self, const char *key, wq_error *error);
    /** Deletes all of a server, or of one document set of it if that is not NULL. */
    int (*remove_set)(void *self, const char *server, const char *document_set_id, size_t *n,
                      wq_error *error);
    /** Nonzero if publish waits for the disk, so that it is worth a thread and batches. */
    int waits;
    /**
     * The queue stops: from now on, and in calls under way, nothing is waited for that may not come
     * soon. NULL where nothing ever is. Any thread, more than once.
     */
    void (*stop)(void *self);
    /** Frees self and the table; no call is under way. */
    void (*close)(struct wq_store *store);
} wq_store;

#ifdef __cplusplus
}
#endif

#endif

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

/** How a run ended. */
typedef struct wq_outcome {
    int returncode; /**< 0, the exit status, -N for signal N, or -999 for a failure to run */
    int cancelled;  /**< nonzero if it was ended before its time, because the queue had asked for it */
    char *error;    /**< from malloc, given to the queue; NULL if returncode is 0 */
} wq_outcome;

/**
 * One run, as a runner sees it. For `run` everything is borrowed for the call. For `start` it stays
 * as it is until `ended` has returned, and the functions may be called from any thread, also before
 * `start` has returned; but with no lock held that the runner's own functions take.
 */
typedef struct wq_run {
    const wq_params *params; /**< what to run for */
    const char *key;         /**< the key of params, in hex */
    const char *id;          /**< the job's id, which it keeps over restarts if there is a journal */
    int rebuild;             /**< nonzero: the output replaces one that may be there */
    int resumed;             /**< nonzero: it comes from the journal, and may have been run before */
    const char *output_path; /**< an existing empty file, to be overwritten; NULL for `start` */
    unsigned slot;           /**< for `run`: 0 .. workers-1; no two at the same time have the same */
    int cancel_fd;           /**< for `run`: becomes readable when the run is to end early; do not
                                  read it. -1 for `start` */
    const char *traceparent; /**< of the request that the job began with, for the program's variable
                                  TRACEPARENT; NULL: there is none */
    void *user;              /**< handed to each of these */

    /** Hands up one line of progress, `len` bytes without newline. Of a run that `start` began,
     * progress never goes backwards: a smaller fraction than the last counts as the last. */
    void (*report)(void *user, const char *line, size_t len);

    /** Hands up bytes that the program has written to stderr, for those who follow the job. Optional.
     * NULL for `start`. */
    void (*told_stderr)(void *user, const char *bytes, size_t len);

    /* The rest is NULL for `run`. */

    /** The program runs now (until then the job waits); it will take about so long, 0: not known.
     * A report, and an end, say so too. */
    void (*begun)(void *user, uint64_t estimate_ms);
    /** Makes an empty file for the output and gives its path, borrowed until `ended`: the queue
     * publishes it if the run succeeds, and removes it. Called again: the same. Touches the disk. */
    int (*output)(void *user, const char **path, wq_error *error);
    /** Nonzero if somebody watches the job or waits for it now. Cheap; under any lock. */
    int (*watched)(void *user);
    /**
     * The run is over. Called once, and nothing of the run may be touched afterwards. If it has
     * succeeded, the output is in what `output` gave, or in the store already: else the job fails.
     */
    void (*ended)(void *user, const wq_outcome *outcome);

    /** Hands up how many bytes of memory the program and all that it has started have now. Optional,
     * from the thread of `run`. NULL for `start`. */
    void (*told_memory)(void *user, uint64_t bytes);
} wq_run;

/** A job that runs on some machine; all is borrowed for the call. */
typedef struct wq_elsewhere {
    const char *key;             /**< in hex */
    const char *id;              /**< of the request that it was begun for */
    const char *server;          /**< may be cut, if long */
    const char *document_set_id; /**< may be cut, if long */
    const char *packager, *host; /**< who runs it */
    uint64_t epoch;              /**< grows with each run of the key */
    unsigned attempt;            /**< 1, or more if packagers have gone while they ran it */
    int64_t began_at_ms;         /**< Unix time, by its packager's clock */
} wq_elsewhere;

/**
 * A runner has either `run`, or `start` and `cancel`: it is asynchronous then, and holds as many
 * runs as it likes without a thread for each. `workers` of the options is for `run`.
 */
typedef struct wq_runner {
    void *self;
    /** Runs to the end and fills `*outcome`. Called from several threads at once. */
    void (*run)(void *self, const wq_run *run, wq_outcome *outcome);
    /**
     * Frees self and the table. With `run`, no run is under way. With `start` and a journal there
     * may be some that have not ended: they are to be left to themselves, wherever they are, as they
     * are started again when the queue is open again. No function of theirs may be called any more
     * when this returns.
     */
    void (*close)(struct wq_runner *runner);

    /** Begins a run and returns at once; always from the same thread, in the queue's order. Negative:
     * the job fails with the error, and `ended` is not called. */
    int (*start)(void *self, const wq_run *run, wq_error *error);
    /** The run is to end early: `ended` must follow soon. From the thread that starts, at most once
     * for each; it may come when `ended` has been called already, and then there is nothing to do. */
    void (*cancel)(void *self, const wq_run *run);
    /** Somebody looks at the job: watches, waits, or takes a snapshot. At most once a second for
     * each job, from any thread, any lock of the host's held: it must return at once and call
     * nothing of the queue but `watched`. NULL if it makes no difference. */
    void (*interest)(void *self, const wq_run *run);
    /** How many runs are out at the same time at most; 0: 1000. */
    size_t max_in_flight;
    /** wq_output_delete() has been called, for a runner that knows of more places where the output
     * may be; must return at once. NULL: there are none. */
    void (*removed)(void *self, const wq_params *params, const char *key);
    /** Calls `each` for every job that runs on any machine, as the store knows it, until that returns
     * nonzero. May take long. WQ_OK, WQ_ERROR_AWAY or another failure. NULL: there are no others. */
    int (*list)(void *self, int (*each)(void *user, const wq_elsewhere *job), void *user,
                wq_error *error);
    /** Whoever runs or gets the request of this id, on any machine, is to end or drop it, soon. May
     * take long. WQ_OK, WQ_ERROR_AWAY or another failure. NULL: it cannot. */
    int (*cancel_elsewhere)(void *self, const wq_elsewhere *job, wq_error *error);
    /** For a runner that stands before the queue's own, which runs the program: wq_open() makes that
     * by the other options and puts it here, `run` may call its `run`, and `close` calls its
     * `close`. NULL: it runs jobs itself. */
    struct wq_runner **own;
    /** Nonzero, and a sentence in `buf` of `size` bytes: what keeps it from running jobs now, such as a
     * broker that is away. At once, from any thread. NULL: nothing ever does. */
    int (*trouble)(void *self, char *buf, size_t size);
} wq_runner;

/**
 * Calls `each` for every job that runs on another machine for another server's request, as the store
 * knows it, until that returns nonzero; what this queue has itself is left out. `each` may call
 * nothing of the queue but wq_cancel_elsewhere(). Asks the store, so not for an event loop.
 * WQ_OK, also where there are no other machines; WQ_ERROR_AWAY, WQ_ERROR_CLOSING,
 * WQ_ERROR_INVALID_ARGUMENT or another failure. Any thread.
 */
WQ_API int wq_jobs_elsewhere(wq_queue *queue, int (*each)(void *user, const wq_elsewhere *job),
                             void *user, wq_error *error);

/** Has the request ended for which another machine runs `job`; the run goes on if others want it.
 * Returns as wq_jobs_elsewhere() does; its server says when it has ended. Any thread. */
WQ_API int wq_cancel_elsewhere(wq_queue *queue, const wq_elsewhere *job, wq_error *error);

/** Nonzero if jobs may run on other machines, so that it is worth to ask. */
WQ_API int wq_has_elsewhere(const wq_queue *queue);

/* ---- what machines share ---------------------------------------------------------------------- */

enum {
    WQ_TAG_SIZE = 64,        /**< of a version of something in a store, with its NUL */
    WQ_SHARED_TEXT_SIZE = 1800 /**< of a short text in a store, with its NUL */
};

/**
 * Small texts that a store keeps beside the outputs, written on condition, so that of several
 * machines one is sure to be the one that has. `self` is the store's. Names are of letters, digits,
 * "-", "." and at most one "/" ("folder/name"). Any thread; all may take long.
 */
typedef struct wq_shared {
    /** Tries whether the store keeps to conditions. WQ_OK; WQ_ERROR_AWAY: not known yet; another
     * failure: it does not, and the sentence says what to do. */
    int (*probe)(void *self, wq_error *error);
    /** The text of that name and its version. WQ_OK, WQ_ERROR_NOT_FOUND or another failure. */
    int (*get)(void *self, const char *name, char text[WQ_SHARED_TEXT_SIZE], char tag[WQ_TAG_SIZE],
               wq_error *error);
    /**
     * Puts a text (printable ASCII), with a longer part if `more` is not NULL, if the version is
     * still `tag` ("": there is none; NULL: whatever is there); fills in `new_tag`. WQ_ERROR_LOCKED:
     * somebody else was first, or this very call, asked again after a lost answer: look. After
     * WQ_ERROR_AWAY it may have been done.
     */
    int (*put)(void *self, const char *name, const char *tag, const char *text, const char *more,
               char new_tag[WQ_TAG_SIZE], wq_error *error);
    /** The longer part, from malloc, "" if there is none. */
    int (*more)(void *self, const char *name, char **more, wq_error *error);
    /** Removes it; not there is as well. */
    int (*remove)(void *self, const char *name, wq_error *error);
    /** Calls `each` with the names in a folder, without the folder, until that returns nonzero.
     * `recent_s`, unless it is 0: what was not written for longer, by the store's own clock, may be
     * left out. */
    int (*list)(void *self, const char *folder, unsigned recent_s,
                int (*each)(void *user, const char *name), void *user, wq_error *error);
    /** What there is of an output: the epoch it was published in (0: none), its bytes and version.
     * WQ_OK, WQ_ERROR_NOT_FOUND or another failure. */
    int (*output)(void *self, const char *key, uint64_t *epoch, uint64_t *bytes,
                  char tag[WQ_TAG_SIZE], wq_error *error);
    /**
     * From now on `publish` of that key belongs to `epoch`, which the output carries: it replaces
     * only the version `tag` ("": none), or one of an earlier epoch; one of a later epoch stays. An
     * epoch of 0 ends this. WQ_OK or WQ_ERROR_NO_MEMORY.
     */
    int (*fence)(void *self, const char *key, uint64_t epoch, const char *tag);
} wq_shared;

/* ---- a store: where outputs are --------------------------------------------------------------- */

/** One output to publish. */
typedef struct wq_publish {
    const char *key;       /**< in hex */
    const wq_params *params; /**< what it is of; the token must not be kept */
    int replace;           /**< nonzero: one that is in place is replaced, else it stays */
    const char *temp_path; /**< what `begin` gave */
    const char *job_id;    /**< whose output it is, for its label; NULL: nobody's */
    uint64_t ran_ms;       /**< how long that took; 0: not known */
    int result;            /**< out: WQ_OK, or a negative wq_result */
    uint64_t size_bytes;   /**< out: how long what was published is, for the log; 0: not told */
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
     * with WQ_ERROR_AWAY: they are kept, to be published again or discarded. (The queue tries again,
     * after half a second at first and half a minute at last, if the store `waits` or `blocks`.)
     */
    void (*publish)(void *self, wq_publish *items, size_t n);
    /** Removes a temporary file of `begin` that will not be published. */
    void (*discard)(void *self, const char *temp_path);
    /** Deletes an output; WQ_OK or WQ_ERROR_NOT_FOUND or another failure. */
    int (*remove)(void *self, const char *key, wq_error *error);
    /** Deletes all of a server, or of one document set of it if that is not NULL. */
    int (*remove_set)(void *self, const char *server, const char *document_set_id, size_t *n,
                      wq_error *error);
    /** Lists outputs: see wq_outputs_list(), whose arguments are checked. NULL: it cannot. */
    int (*list)(void *self, const char *server, const char *document_set_id, char *position,
                wq_output_info *out, size_t max, size_t *n, wq_error *error);
    /** Nonzero if publish waits for the disk, so that it is worth a thread and batches. */
    int waits;
    /**
     * The queue stops: from now on, and in calls under way, nothing is waited for that may not come
     * soon. NULL where nothing ever is. Any thread, more than once.
     */
    void (*stop)(void *self);
    /** Frees self and the table; no call is under way. */
    void (*close)(struct wq_store *store);
    /** What several machines share; NULL: the store is one machine's. */
    const wq_shared *shared;
} wq_store;

#ifdef __cplusplus
}
#endif

#endif

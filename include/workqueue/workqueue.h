/* workqueue.h - a web request starts a long-running program, and people watch it to the end.
 *
 * A queue runs PROGRAM SERVER DOCUMENT_SET_ID API_TOKEN OUTPUT_FILENAME on a pool of threads, one
 * job at a time per triple of parameters, and publishes the program's output whole or not at all.
 *
 * Conventions of this header
 * - A function that can fail returns an int: WQ_OK (0) or another non-negative wq_result on
 *   success, a negative wq_result on failure. Every `wq_error *` may be NULL; when it is not, a
 *   failing call writes a sentence that a person can use.
 * - Out-parameters come first in name (`*out`) and are untouched on failure unless said otherwise.
 * - "Borrowed" pointers belong to the library and live as long as the text says; "owned" ones are
 *   yours to release with the function named.
 * - Every function may be called from any thread at any time, unless its text says otherwise.
 * - Durations are milliseconds (`_ms`), sizes are bytes (`_bytes`).
 * - Structures of options carry their size and may grow in any version. The others (wq_stats,
 *   wq_snapshot, ..., and those of extend.h) have none: when one of them changes, the library's
 *   soname does, so that a program finds at run time only a library that it was built for.
 * - Nothing here changes the process around it: no signal dispositions, no chdir, no umask, no
 *   waitpid for children that are not ours, no output except through the log callback. A host that
 *   waits for children of its own by signalfd() or sigwait() blocks SIGCHLD before wq_open(). One
 *   that ignores SIGCHLD, or waits for children it has not started, cannot have programs run:
 *   wq_open() refuses, where it can see that.
 *
 * No macro is needed to use it, so it can be called through a foreign-function interface.
 */
#ifndef WORKQUEUE_WORKQUEUE_H
#define WORKQUEUE_WORKQUEUE_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define WQ_API __attribute__((visibility("default")))
#else
#define WQ_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- results and errors ---------------------------------------------------------------------- */

/** What a call came to. Negative values are failures. */
typedef enum wq_result {
    WQ_OK = 0,                      /**< done as asked */
    WQ_DONE = 1,                    /**< the output is there already; nothing had to run */
    WQ_ATTACHED = 2,                /**< the job was there already, and has been joined */
    WQ_PENDING = 3,                 /**< the answer comes later; see wq_ensure_run_async() */
    WQ_ERROR_INVALID_ARGUMENT = -1, /**< an option or parameter is missing or malformed */
    WQ_ERROR_NO_MEMORY = -2,        /**< an allocation failed */
    WQ_ERROR_SYSTEM = -3,           /**< the operating system refused; the message names the call */
    WQ_ERROR_LOCKED = -4,    /**< another queue, here or in another process, owns the storage or
                                  the journal */
    WQ_ERROR_FULL = -5,      /**< as many jobs are queued as the options allow */
    WQ_ERROR_CLOSING = -6,   /**< the queue is stopping and takes no new jobs */
    WQ_ERROR_NOT_FOUND = -7, /**< there is no such job or output */
    WQ_ERROR_TIMEOUT = -8,   /**< the time given ran out first */
    WQ_ERROR_USER_FULL = -9, /**< this API token, or this server, has as many jobs as the options allow */
    WQ_ERROR_AWAY = -10      /**< the store cannot be reached now; later it may be */
} wq_result;

/** A failure in words. `message` is NUL-terminated, one sentence, never holds an API token. */
typedef struct wq_error {
    int code;          /**< the wq_result that was returned */
    char message[508]; /**< the sentence */
} wq_error;

/** The sentence for a wq_result; borrowed, static, never NULL, also for unknown values. */
WQ_API const char *wq_strerror(int result);

/** The library's version, as in "1.0.0"; borrowed, static. */
WQ_API const char *wq_version(void);

/* ---- options --------------------------------------------------------------------------------- */

/** Severity of a log line. */
typedef enum wq_log_level { WQ_LOG_ERROR = 0, WQ_LOG_WARNING = 1, WQ_LOG_INFO = 2 } wq_log_level;

/**
 * Receives a log line: one line, printable ASCII, bounded, without newline; without API token, also
 * where a program printed its own (one of 8 bytes or more). `message`
 * is borrowed for the call. Called from any thread, several at once; must not call the queue.
 */
typedef void (*wq_log_cb)(void *user, int level, const char *message);

struct wq_runner; /* extend.h */
struct wq_store;  /* extend.h */

/**
 * How a queue behaves. Fill it with wq_options_init(), then change what you like. Strings and the
 * structure itself are borrowed during wq_open() only.
 */
typedef struct wq_options {
    size_t size;             /**< sizeof(wq_options) of the caller; set by wq_options_init() */
    const char *program;     /**< path of the executable; relative ones are resolved at wq_open() */
    const char *storage_dir; /**< existing folder for the outputs; locked while the queue is open */
    unsigned workers;        /**< jobs that run at the same time; default 2, at most 1024 */
    size_t max_queue;        /**< jobs that may wait for their turn, or for a store that is away or,
                                  with an asynchronous runner, slow; default 10000; one more gets
                                  WQ_ERROR_FULL */
    size_t max_per_user;     /**< jobs of one API token that may wait or run; one more gets
                                  WQ_ERROR_USER_FULL; default 0: no limit */
    size_t max_per_server;   /**< likewise, jobs of one `server`, as it is spelt */
    int fair;                /**< nonzero: users (API tokens) take turns, a job each, so that one who
                                  has many jobs keeps nobody waiting, and those of one peer, from the
                                  third on, share a turn; 0, the default: first come, first served */
    int sync;                /**< nonzero: fsync output and folder before success, and the journal
                                  before a job is accepted; default 1 */
    unsigned grace_ms;       /**< SIGTERM to SIGKILL, at cancel and at close; default 5000 */
    unsigned drain_ms;       /**< after exit, how long held-open pipes are read; default 500 */
    size_t max_line_bytes;   /**< longest stdout line, the rest of it is dropped; default 8192 */
    size_t stderr_tail_bytes; /**< end of stderr that is kept for the error; default 65536 */
    size_t max_ended;        /**< ended jobs that stay known by id; default 4096 */
    unsigned retain_ended_ms; /**< how long an ended job stays known by id; default 3600000 */
    /** SQLite file that keeps the jobs when this process ends, whatever its end; made (mode 0600) if
     * it is missing. NULL, the default: none, and they are lost. See wq_open() and wq_stop(). */
    const char *journal_path;
    /** So often a job may be running when its process dies (not: is stopped) until it fails and is
     * not tried again; with a journal. Default 3, from 1 to 1000 */
    unsigned max_attempts;

    /* Limits; 0: none, the default. A job that reaches one ends as failed with returncode -999 and a
     * sentence of its own, the program and its process group by SIGTERM, `grace_ms`, SIGKILL. */
    unsigned run_timeout_ms;      /**< how long a program may run */
    unsigned progress_timeout_ms; /**< how long it may go without a line of progress that parses */
    unsigned queue_timeout_ms;    /**< how long a job may wait for its turn */
    uint64_t max_output_bytes;    /**< size of the output, and of each other file that is written */

    /* Limits that the kernel keeps, for `program` run here; each counts per process, so a program
     * that starts others has as much again for each. 0: none beyond the host's own. */
    unsigned max_cpu_s;        /**< processor time; then SIGXCPU, and after `grace_ms` SIGKILL */
    uint64_t max_memory_bytes; /**< address space; allocations fail, and the error is the program's */
    unsigned max_open_files;   /**< open descriptors, at least 16; the error is the program's */
    unsigned soft_open_files;  /**< for a host that has raised its own soft limit of descriptors:
                                    the one that programs begin with, below the hard one */
    unsigned max_processes;    /**< processes of this *user*, others' included, and root is exempt:
                                    for a server with a user of its own; the error is the program's */

    /* What `program`, run here, is given. Of the host it gets no descriptor, signal mask, ignored
     * signal or umask (its own is 077), and nice 0 if that is allowed. */

    /**
     * What it gets of the host's environment as it is at wq_open(): an array that ends with NULL, of
     * "NAME", "START*" for all that begin so ("*": everything), or "NAME=VALUE" to set one. NULL,
     * the default: PATH, HOME, USER, LOGNAME, SHELL, LANG, LANGUAGE, LC_*, TZ, TMPDIR, SSL_CERT_FILE,
     * SSL_CERT_DIR, and http_proxy, https_proxy, all_proxy and no_proxy, also in capitals. Besides,
     * PYTHONUNBUFFERED=1 is set, so that the progress of a program in Python is seen at once, unless
     * an entry names that variable: "PYTHONUNBUFFERED=" turns it off.
     */
    const char *const *environment;
    int token_in_environment; /**< nonzero: the token comes in WORKQUEUE_API_TOKEN, which only the
                                   same user can read, and "-" in its place among the arguments,
                                   which everybody can; default 0 */
    int private_tmpdir; /**< nonzero: TMPDIR is a new folder beside the output, removed afterwards;
                             which costs each job 0.05 to 0.4 ms on ext4; default 0 */
    int allow_new_privileges; /**< nonzero: setuid programs work in a job; default 0 */

    /**
     * Where control groups (version 2) for jobs are made, one a worker, so that at a job's end also
     * those of its processes end that have left its process group: a folder that was delegated to
     * us, "auto" for our own control group, as far as we may write there, or NULL, the default:
     * none. `max_memory_bytes` and `max_processes` then count for all processes of a job together,
     * too, where that folder has the controllers. What killed processes left in it is ended at
     * wq_open(). (A program that runs as our user, or as root, may write there too, and so move
     * itself out.)
     */
    const char *cgroup_dir;

    /* What goes from storage_dir by itself, by a thread; nothing is removed while a descriptor of
     * wq_output_open() or wq_job_output() is open. Used is what was published, found or opened. A clock
     * that is set ahead makes nothing old that was in use before, unless the queue is opened anew
     * within `retain_age_s`. */
    unsigned retain_age_s;   /**< outputs that were not used for so long; default 0: none */
    uint64_t retain_bytes;   /**< the least recently used ones, while all together have more bytes
                                  than that, but none used within a minute; default 0: none */

    wq_log_cb log;           /**< NULL: no log */
    void *log_user;          /**< handed to log */
    struct wq_runner *runner; /**< NULL: run `program` here; else see extend.h, taken over */
    struct wq_store *store;   /**< NULL: files in storage_dir; else see extend.h, taken over */

    /**
     * The program `workqueue-guard`, which is installed with the library: it waits for the end of
     * this process, and kills what the programs of jobs have started, should that end be SIGKILL.
     * NULL, the default: it is looked for beside the library (or beside the executable, where the
     * library is linked into that), then where it was to be installed; if there is none, a warning
     * is logged and jobs run without. Given and not to be run: WQ_ERROR_INVALID_ARGUMENT.
     */
    const char *guard_path;

    /** All errors of ended jobs that are kept, together, in memory as in the journal: of the oldest
     * ones only the first 512 bytes are kept beyond that. Default 16777216 (16 MiB). */
    uint64_t max_error_bytes;

    /** For so long wq_open() waits for another queue that has storage_dir to close it, once that
     * stops (wq_stop()); if it has not begun to within a second: WQ_ERROR_LOCKED. Default 30000. */
    unsigned storage_wait_ms;

    /** Jobs of one peer, a client address, that may wait or run (see wq_ensure_run_from()); one more
     * gets WQ_ERROR_USER_FULL. API tokens can be made up, so this is what bounds a client. Default 0:
     * `workers` and half of `max_queue`, if that is 256 or more, or ten times `max_per_user`, if that
     * is set and less; but any number for 127.0.0.1 and ::1, where a proxy's are everybody's. */
    size_t max_per_peer;
} wq_options;

/**
 * Fills `options` with the defaults. `size` is sizeof(wq_options) as the caller knows it, so that
 * a program built against an older header keeps working with a newer library. A size that this
 * library does not know leaves everything zero, which wq_open() refuses.
 */
WQ_API void wq_options_init(wq_options *options, size_t size);

/* ---- commands that may be process 1 ------------------------------------------------------------ */

/**
 * For commands that may be started as process 1 of a container, where every process that a program
 * has left behind becomes theirs and stays a zombie: if this process is process 1, forks, and returns
 * in the child, which goes on as the command. The parent stays process 1: it waits for every orphan,
 * passes signals on to the child, and ends with its exit status, or 128 and the number of the signal
 * that killed it. Otherwise, or if there can be no other process, it does nothing.
 *
 * To be called at the beginning of main(), before there are threads, files or a queue. A host that
 * has an init of its own (`docker run --init`, a service manager) does not need it.
 */
WQ_API void wq_leave_process_1(void);

/* ---- the queue ------------------------------------------------------------------------------- */

typedef struct wq_queue wq_queue; /**< a queue, its threads and its storage folder */
typedef struct wq_job wq_job;     /**< a counted reference to one job */
typedef struct wq_watch wq_watch; /**< one registration for news */

/**
 * Opens a queue: locks the storage folder, removes what a crash left there, starts the workers.
 *
 * `*out` is owned: wq_close(). Fails with WQ_ERROR_INVALID_ARGUMENT (an option, or a program that
 * is not an executable file), WQ_ERROR_LOCKED, WQ_ERROR_SYSTEM or WQ_ERROR_NO_MEMORY. `runner` and
 * `store` of the options are closed on failure too.
 *
 * With a journal, jobs of earlier processes that have not ended are queued again, with their ids and
 * in their order, and those that ended not too long ago are known by their ids. A journal that
 * cannot be read or written, is corrupt, of a newer version or not a journal gives WQ_ERROR_SYSTEM,
 * one that another queue uses WQ_ERROR_LOCKED; it is left as it is.
 */
WQ_API int wq_open(wq_queue **out, const wq_options *options, wq_error *error);

/**
 * Begins to stop, and returns at once: new jobs are refused with WQ_ERROR_CLOSING, queued ones end
 * as WQ_STATE_CANCELLED, running ones are told to end (SIGTERM, `grace_ms`, SIGKILL). Each job's
 * watchers are told as it ends. May be called more than once.
 *
 * With a journal these jobs end as WQ_STATE_CANCELLED for this process only, with an error that says
 * so, and `resumes` set in their snapshots: they stay in the journal, and run when the queue is
 * opened again. This counts no attempt. So does a job whose program fails while the queue stops, as
 * a service manager may send SIGTERM to the programs, too; also shortly before wq_stop() is called,
 * if it died of SIGTERM, SIGINT or SIGHUP or exited with 128 and that signal's number. A job that was
 * cancelled, or that a time limit has ended, has ended for good.
 */
WQ_API void wq_stop(wq_queue *queue);

/**
 * wq_stop(), then waits until every job has ended, no child is left and every thread is joined,
 * and frees the queue. NULL is allowed. Jobs still referenced stay readable until wq_job_unref().
 * Call it once, and no other function with this queue at the same time or later; watches of it
 * must be cancelled before.
 */
WQ_API void wq_close(wq_queue *queue);

enum { WQ_HISTOGRAM_BUCKETS = 14 };

/** Durations, counted by size. */
typedef struct wq_histogram {
    uint64_t counts[WQ_HISTOGRAM_BUCKETS]; /**< each: how many took at most that bound, and more
                                                than the one before; the last: all longer ones */
    double sum_s;                          /**< all durations together, in seconds */
} wq_histogram;

/** The upper bound of bucket `i` in seconds, 0.01 to 14400; infinity for the last. */
WQ_API double wq_histogram_bound_s(unsigned i);

/** Numbers about a queue at one moment. */
typedef struct wq_stats {
    size_t queued;            /**< jobs that wait */
    size_t running;           /**< jobs whose program runs */
    size_t publishing;        /**< jobs whose output is being made durable */
    size_t ended;             /**< ended jobs still known by id */
    size_t workers;           /**< as in the options */
    size_t max_queue;         /**< as in the options */
    uint64_t succeeded;       /**< jobs that succeeded since wq_open() */
    uint64_t failed;          /**< jobs that failed since wq_open() */
    uint64_t cancelled;       /**< jobs that were cancelled since wq_open() */
    uint64_t store_errors;    /**< how often the store failed, since wq_open() */
    uint64_t journal_errors;  /**< how often the journal failed, since wq_open() */
    int stopping;             /**< nonzero after wq_stop() */
    uint64_t mean_run_ms;     /**< moving mean of how long a program runs; 0 while none has ended */
    wq_histogram ran;         /**< how long programs ran */
    wq_histogram waited;      /**< how long jobs waited before their program started */
    int has_journal;          /**< nonzero if there is one */
    size_t ending;            /**< jobs whose end is being written to the journal: in none of the
                                   numbers above, and their state is still the one before */
} wq_stats;

/** Writes the numbers to `*out`. */
WQ_API void wq_queue_stats(wq_queue *queue, wq_stats *out);

/**
 * Writes to `text`, of `size` bytes, what is wrong with the queue now, a sentence a line: its storage
 * or its journal is on a disk that is full or read-only, or cannot be written; its store or its broker
 * is away. Returns how many there are; what finds no room is only counted. Cheap enough for a health
 * check: it looks at the disks, and asks nobody across a network. Thread-safe.
 */
WQ_API size_t wq_queue_troubles(wq_queue *queue, char *text, size_t size);

enum { WQ_MINUTES = 60 };

/** What happened in one minute. Percentiles are exact to a tenth; 0 where nothing was counted. */
typedef struct wq_minute {
    int64_t begin_ms;      /**< its beginning, Unix time; it may lie before wq_open() */
    uint64_t succeeded;    /**< jobs that ended so in it */
    uint64_t failed;       /**< likewise */
    uint64_t cancelled;    /**< likewise */
    size_t waiting;        /**< jobs that waited, as many as at any one time */
    uint64_t started;      /**< jobs whose program began in it */
    uint64_t start_p50_ms; /**< how long half of those waited at most */
    uint64_t start_p95_ms; /**< likewise, 95 of 100 */
    uint64_t ran;          /**< programs that ended in it */
    uint64_t run_p50_ms;   /**< how long half of those ran at most */
    uint64_t run_p95_ms;   /**< likewise, 95 of 100 */
} wq_minute;

/** Writes the last 60 minutes to `out`, the present one last. They are kept in memory only. All zeros
 * if `queue` is NULL, or in a forked process. */
WQ_API void wq_queue_minutes(wq_queue *queue, wq_minute out[WQ_MINUTES]);

/* ---- parameters ------------------------------------------------------------------------------ */

/** What names a job. All three are NUL-terminated, UTF-8 without control characters, not empty. */
typedef struct wq_params {
    const char *server;          /**< at most 2048 bytes */
    const char *document_set_id; /**< at most 256 bytes */
    const char *api_token;       /**< at most 4096 bytes; never logged, never part of a path */
} wq_params;

/** The most bytes that each of them may have. */
enum { WQ_SERVER_MAX_BYTES = 2048, WQ_DOCUMENT_SET_ID_MAX_BYTES = 256, WQ_API_TOKEN_MAX_BYTES = 4096 };

enum { WQ_KEY_SIZE = 65, WQ_ID_SIZE = 37 }; /**< buffers for a key or an id, with their NUL */

/**
 * Checks the three strings. WQ_OK, or WQ_ERROR_INVALID_ARGUMENT and a sentence that names the
 * field ("server", "document_set_id" or "api_token").
 */
WQ_API int wq_params_check(const wq_params *params, wq_error *error);

/**
 * Writes the key of `params`, 64 lower-case hex digits and NUL, to `key`: SHA-256 over the three
 * strings, each preceded by its length as 8 bytes, most significant first. WQ_OK,
 * WQ_ERROR_INVALID_ARGUMENT if wq_params_check() refuses them, or WQ_ERROR_NO_MEMORY.
 */
WQ_API int wq_params_key(const wq_params *params, char key[WQ_KEY_SIZE]);

/* ---- jobs ------------------------------------------------------------------------------------ */

/** The life of a job. The last three are the ends. */
typedef enum wq_state {
    WQ_STATE_QUEUED = 0,
    WQ_STATE_RUNNING = 1,
    WQ_STATE_PUBLISHING = 2, /**< the program has succeeded; its output is being put in place */
    WQ_STATE_SUCCEEDED = 3,
    WQ_STATE_FAILED = 4,
    WQ_STATE_CANCELLED = 5
} wq_state;

/** The returncode of a job that failed or ended for no fault of its program: it could not be started,
 * its output could not be published, it reached a limit, it was cancelled. */
enum { WQ_RETURNCODE_OWN = -999 };

/** What wq_ensure_run() may be asked besides; a sum of these. */
typedef enum wq_ensure_flags {
    /** Build again although the output is there; it is replaced only when the new one is whole. A
     * job that waits is joined; if one runs, one more run follows it, however many ask. */
    WQ_ENSURE_REBUILD = 1,
    /** Give a job also when the output is there already: one that has succeeded, with an id. */
    WQ_ENSURE_JOB = 2,
    /** The caller may give up, see wq_job_abandon(). */
    WQ_ENSURE_TENTATIVE = 4
} wq_ensure_flags;

/**
 * Asks for the output of `params`.
 *
 * WQ_OK: a job begins with this call. WQ_ATTACHED: it was there before. Either way `*out` is the
 * job; owned, wq_job_unref(). WQ_DONE: the output is there, and `*out` is NULL, or with
 * WQ_ENSURE_JOB an ended job. However many ask at once, one job runs. `flags` is 0 or a sum of
 * wq_ensure_flags. Fails with WQ_ERROR_INVALID_ARGUMENT, WQ_ERROR_FULL, WQ_ERROR_USER_FULL,
 * WQ_ERROR_CLOSING, WQ_ERROR_AWAY, WQ_ERROR_SYSTEM or WQ_ERROR_NO_MEMORY, and then has started
 * nothing.
 *
 * With a journal it waits until that has the job, in memory that survives a loss of power: about as
 * long as an fsync takes. If the journal's disk is full, the answer is WQ_ERROR_SYSTEM.
 */
WQ_API int wq_ensure_run(wq_queue *queue, const wq_params *params, unsigned flags, wq_job **out,
                         wq_error *error);

/**
 * wq_ensure_run() that also says, with WQ_DONE, when the output was published: Unix time in ms, in
 * `*made_at_ms`. It is the same look at the store, so that costs nothing.
 */
WQ_API int wq_ensure_run_aged(wq_queue *queue, const wq_params *params, unsigned flags,
                              wq_job **out, int64_t *made_at_ms, wq_error *error);

/**
 * Is told what came of a call of wq_ensure_run_async() that returned WQ_PENDING, as wq_ensure_run()
 * would have told it: `job` is owned (wq_job_unref()), and NULL where there is none; `made_at_ms` is
 * 0 except with WQ_DONE; `error` says why if `result` is negative, borrowed for the call. Called
 * once, from a thread of the queue, so it must return at once. It must not close the queue.
 */
typedef void (*wq_accepted_cb)(void *user, int result, wq_job *job, int64_t made_at_ms,
                               const wq_error *error);

/**
 * wq_ensure_run_aged() for event loops: waits neither for the journal nor for a store that blocks.
 * WQ_PENDING: `cb` is told, or has been told already; `*out` is untouched. Any other result is that of
 * wq_ensure_run(), and `cb` is not called; with neither a journal nor such a store there is no
 * WQ_PENDING. wq_close() does not return before `cb` has.
 */
WQ_API int wq_ensure_run_async(wq_queue *queue, const wq_params *params, unsigned flags,
                               wq_job **out, int64_t *made_at_ms, wq_accepted_cb cb, void *user,
                               wq_error *error);

/** Who asks, and why; either may be NULL. */
typedef struct wq_asker {
    const char *peer; /**< the client by its address, as in "203.0.113.7"; at most 63 bytes. A job that
                           begins counts for its peer until it has ended here (`max_per_peer`), and
                           `fair` has the users of one peer share its turn. One that goes on after a
                           restart counts for none */
    const char *traceparent; /**< W3C Trace Context of the request: a job that begins has it in its log
                                  lines, and its program in the variable TRACEPARENT, on whatever
                                  machine that runs; not after a restart. Malformed is as NULL */
} wq_asker;

/**
 * wq_ensure_run_async() for servers, which know who asks; `asker` NULL: nobody is named, as by the
 * other functions. Without a `cb` it waits, as wq_ensure_run_aged() does.
 */
WQ_API int wq_ensure_run_from(wq_queue *queue, const wq_asker *asker, const wq_params *params,
                              unsigned flags, wq_job **out, int64_t *made_at_ms, wq_accepted_cb cb,
                              void *user, wq_error *error);

/**
 * The job with this id, if it waits, runs, or ended not too long ago (`max_ended`,
 * `retain_ended_ms`). `*out` is owned: wq_job_unref(). WQ_OK or WQ_ERROR_NOT_FOUND.
 */
WQ_API int wq_job_by_id(wq_queue *queue, const char *id, wq_job **out);

/** Adds a reference; returns `job`. */
WQ_API wq_job *wq_job_ref(wq_job *job);

/** Drops a reference. NULL is allowed. The job itself goes on. */
WQ_API void wq_job_unref(wq_job *job);

/** The job's random id (UUIDv4); borrowed, as long as the reference. */
WQ_API const char *wq_job_id(const wq_job *job);

/** The job's key as in wq_params_key(); borrowed, as long as the reference. */
WQ_API const char *wq_job_key(const wq_job *job);

/** The job's parameters, token included; borrowed, as long as the reference. */
WQ_API const wq_params *wq_job_params(const wq_job *job);

/** What a job waits for. */
typedef enum wq_waits_for {
    WQ_WAITS_FOR_NOTHING = 0, /**< it runs, or has ended */
    WQ_WAITS_FOR_WORKER = 1,  /**< for its turn */
    WQ_WAITS_FOR_JOB = 2,     /**< for another job of the same parameters, whose rebuild it is */
    WQ_WAITS_FOR_STORE = 3    /**< its output is ready, but the store is away */
} wq_waits_for;

/** A job at one moment. Fill it with wq_job_snapshot(), empty it with wq_snapshot_clear(). */
typedef struct wq_snapshot {
    int state;                 /**< a wq_state */
    uint64_t version;          /**< grows with each change, except of n_ahead_in_queue */
    uint64_t n_ahead_in_queue; /**< running jobs and the queued ones in front; 0 once running */
    double fraction;           /**< 0 to 1; 1 once ended, whatever the end */
    double reached;            /**< the fraction that the program last reported, also once ended */
    int has_items;             /**< nonzero if the program reports items, as in "3/12" */
    uint64_t items_done;       /**< items done, when has_items */
    uint64_t items_total;      /**< items in all, when has_items */
    int has_returncode;        /**< nonzero once the job has ended */
    int returncode;            /**< exit status, -N for signal N, -999 for a failure of ours */
    const char *message;       /**< UTF-8 or what the program wrote; NULL if none; part of the snapshot */
    const char *error;         /**< why the job ended badly; NULL otherwise; part of the snapshot */
    int64_t queued_at_ms;      /**< Unix time */
    int64_t heard_at_ms;       /**< when the program last reported progress, Unix time; 0: never */
    size_t watching;           /**< watches of it, and calls that wait for its end */
    int64_t started_at_ms;     /**< Unix time; 0 if never started */
    int64_t ended_at_ms;       /**< Unix time; 0 until ended */
    /** Nonzero: that is no end. The queue stops, and this job, which is seen as WQ_STATE_CANCELLED
     * in this process, is in the journal and runs again when the queue is opened anew, under the
     * same id. Do not tell clients an end (no last record, no error): have them come back. */
    int resumes;
    int waits_for;             /**< a wq_waits_for */
    unsigned attempt;          /**< 1, and one more for each time that a server died while it ran */
    uint64_t waited_ms;        /**< time in the queue so far, by a clock that does not jump */
    uint64_t ran_ms;           /**< run time so far, likewise */
    uint64_t memory_bytes;     /**< of the program and all that it has started: now, measured once a
                                    second, or the most there was, once the job has ended. 0: not
                                    known, as there is no control group, or it did not last */
    void *held[2];             /**< private */
} wq_snapshot;

/** Writes the job's present state to `*out`, whatever was in it before. wq_snapshot_clear() it. */
WQ_API void wq_job_snapshot(wq_job *job, wq_snapshot *out);

/** Releases what the snapshot holds, and zeroes it. */
WQ_API void wq_snapshot_clear(wq_snapshot *snapshot);

/**
 * Renders the progress record, one JSON object in ASCII, like snprintf: writes at most `size` bytes
 * with NUL to `buf` (which may be NULL if size is 0) and returns the length it has in full without
 * NUL.
 */
WQ_API size_t wq_snapshot_json(const wq_snapshot *snapshot, char *buf, size_t size);

/**
 * Writes for people why the job ended badly, like snprintf: one sentence, bounded. `error` of the
 * snapshot is for programs, in a form that clients read; this names the signal, has the last line of
 * stderr in front (without the colours and progress bars of terminals), or our own sentence. UTF-8
 * or what the program wrote. "" for a job that has no error. Thread-safe; returns the length it has
 * in full without NUL.
 */
WQ_API size_t wq_snapshot_reason(const wq_snapshot *snapshot, char *buf, size_t size);

/**
 * Ends the job: a queued one at once, a running one by SIGTERM, grace, SIGKILL. One whose output is
 * being published, or that has ended, is left as it is. Returns at once; WQ_OK, or WQ_DONE if it
 * was too late.
 *
 * With a journal the end shows, and watchers are told, once that has it: for about as long as an
 * fsync takes, a queued job that will not run any more is seen as WQ_STATE_QUEUED, with 0 ahead.
 * The wish is in the journal as soon: if this process is killed while the program has its grace, the
 * job does not run again.
 */
WQ_API int wq_job_cancel(wq_job *job);

/**
 * Ends the job as wq_job_cancel() does, but only if everybody who asked for it did so with
 * WQ_ENSURE_TENTATIVE and nobody watches it or waits for its end now. WQ_OK, or WQ_DONE if it goes
 * on or has ended.
 */
WQ_API int wq_job_abandon(wq_job *job);

/**
 * How long the job will probably take to its end, in milliseconds: from its own rate of progress,
 * the jobs in front of it, and how long jobs ran before. At least 1; 0 if it has ended. It grows
 * while a job shows no progress, so that waiting for as long as it says, again and again, asks a
 * number of times that grows with the logarithm of the time only.
 */
WQ_API uint64_t wq_job_estimate_ms(wq_job *job);

/**
 * How long it will probably take until one of the jobs of this API token ends, in milliseconds, as
 * in wq_job_estimate_ms(), or one of its server, if that has too many: when to try again after
 * WQ_ERROR_USER_FULL. 0 if there is none, or if neither is counted (`max_per_user`, `fair`,
 * `max_per_server`).
 */
WQ_API uint64_t wq_user_estimate_ms(wq_queue *queue, const wq_params *params);

/**
 * Waits until the job has ended, at most `timeout_ms` (negative: for ever). WQ_OK or
 * WQ_ERROR_TIMEOUT. Not for event loops: watch there.
 */
WQ_API int wq_job_wait(wq_job *job, int64_t timeout_ms);

/**
 * wq_job_cancel(), and the log says who asked for it: `by`, a word such as an address, at most 63
 * characters of it.
 */
WQ_API int wq_job_cancel_by(wq_job *job, const char *by);

/** Which jobs are meant; zeroed: all. */
typedef struct wq_jobs_filter {
    unsigned states;             /**< a sum of 1 << wq_state; 0: any */
    const char *server;          /**< as it is spelt; NULL: any */
    const char *document_set_id; /**< NULL: any */
} wq_jobs_filter;

/**
 * Lists jobs that wait, run, or have ended and are still known, in the order of their ids: at most
 * `most` of them (no more than 1000 at a time), those behind the id `after`; NULL: from the first one.
 * The next piece begins behind the last id of this one. Writes to out[0] to out[*n - 1]; each is
 * owned, wq_job_unref(). `filter` may be NULL. It goes through all jobs that are known, for about a
 * millisecond in ten thousand. WQ_OK or WQ_ERROR_INVALID_ARGUMENT.
 */
WQ_API int wq_jobs(wq_queue *queue, const wq_jobs_filter *filter, const char *after, wq_job **out,
                   size_t most, size_t *n);

/* ---- news ------------------------------------------------------------------------------------ */

/**
 * Is told that there is news: take a snapshot. Called from a worker or whoever caused the news, so
 * it must return at once: mark something, wake something. It may read (wq_job_snapshot,
 * wq_snapshot_json), but must not watch, cancel a watch or a job, or close the queue.
 */
typedef void (*wq_watch_cb)(void *user);

/**
 * Calls `cb(user)` at each change of the job's record, its end included, from now on. News that came before
 * is not told: watch first, then take a snapshot. `*out` is owned: wq_watch_cancel(). WQ_OK or
 * WQ_ERROR_NO_MEMORY. The watch keeps a reference to the job.
 */
WQ_API int wq_job_watch(wq_job *job, wq_watch_cb cb, void *user, wq_watch **out);

/**
 * Calls `cb(user)` whenever the n_ahead_in_queue of queued jobs may have changed, which wq_job_watch()
 * does not tell. `*out` is owned: wq_watch_cancel(), before wq_close(). WQ_OK or
 * WQ_ERROR_NO_MEMORY.
 */
WQ_API int wq_queue_watch(wq_queue *queue, wq_watch_cb cb, void *user, wq_watch **out);

typedef struct wq_jobs_watch wq_jobs_watch; /**< one registration for news of all jobs */

/** As wq_watch_cb, but told which job the news is of, borrowed for the call. */
typedef void (*wq_job_news_cb)(void *user, wq_job *job);

/**
 * Calls `cb(user, job)` at each change of any job, also when it has just been accepted. `*out` is
 * owned: wq_jobs_watch_cancel(), before wq_close(). WQ_OK or WQ_ERROR_NO_MEMORY.
 */
WQ_API int wq_jobs_watch_all(wq_queue *queue, wq_job_news_cb cb, void *user, wq_jobs_watch **out);

/** Ends it. When it returns, the callback does not run and will not. NULL is allowed. */
WQ_API void wq_jobs_watch_cancel(wq_jobs_watch *watch);

/** Ends a watch. When it returns, the callback does not run and will not. NULL is allowed. */
WQ_API void wq_watch_cancel(wq_watch *watch);

/* ---- what a program says --------------------------------------------------------------------- */

/**
 * Reads what the job's program has written to stderr: at most `size` bytes from position `from` on
 * (0: from the first), or from the first that is kept, to `buf`; `*begin` is the position of what was
 * read, and `from` of the next call is that and what this one returns: how many, 0 if there is no
 * more by now. Of a running job the last `stderr_tail_bytes` are kept, of one that has ended here the
 * last 4096, of one that runs elsewhere nothing. Raw bytes, in which the API token is asterisks. 0
 * also for NULL, and in a forked process.
 */
WQ_API size_t wq_job_stderr(wq_job *job, uint64_t from, char *buf, size_t size, uint64_t *begin);

/**
 * Calls `cb(user)` when there is more for wq_job_stderr(). As wq_job_watch(), which tells the job's
 * end; this does not. `*out` is owned: wq_watch_cancel().
 */
WQ_API int wq_job_watch_stderr(wq_job *job, wq_watch_cb cb, void *user, wq_watch **out);

enum { WQ_MESSAGES = 16 };

/** A message that came with progress. */
typedef struct wq_message {
    int64_t at_ms;   /**< when it came first, Unix time */
    double fraction; /**< that came with it */
    char text[248];  /**< UTF-8, cut to fit; as the program wrote it */
} wq_message;

/** Writes the last messages of a job, each once however often it was repeated, the oldest first; how
 * many. They stay as long as the job is known, but not over a restart. */
WQ_API size_t wq_job_messages(wq_job *job, wq_message out[WQ_MESSAGES]);

/* ---- outputs --------------------------------------------------------------------------------- */

/** WQ_OK if the output of `params` is there, else WQ_ERROR_NOT_FOUND or, as from wq_output_open(),
 * another failure. */
WQ_API int wq_output_find(wq_queue *queue, const wq_params *params, wq_error *error);

/**
 * Opens the output of `params` for reading. `*fd` is owned (close-on-exec): close(). Where the
 * store has no descriptors it is of a local copy, for which the output may have to be downloaded
 * first. Fails with WQ_ERROR_NOT_FOUND, WQ_ERROR_INVALID_ARGUMENT, WQ_ERROR_AWAY, WQ_ERROR_SYSTEM
 * or WQ_ERROR_NO_MEMORY.
 */
WQ_API int wq_output_open(wq_queue *queue, const wq_params *params, int *fd, wq_error *error);

/** What is known of an output. */
typedef struct wq_output {
    int fd;               /**< open for reading, close-on-exec; owned: close(). -1 where the store
                               has no descriptors: wq_output_read() works for both */
    uint64_t size_bytes;  /**< its length */
    int64_t made_at_ms;   /**< when it was published, Unix time */
    char tag[48];         /**< differs whenever the contents may: for an ETag, without quotes */
} wq_output;

/**
 * Opens the output of a job, or of any job with its parameters, for reading, and tells its size and
 * age; out->fd, unless it is -1, is owned. Fails like wq_output_open(), and with WQ_ERROR_CLOSING
 * after wq_close() of its queue.
 */
WQ_API int wq_job_output(wq_job *job, wq_output *out, wq_error *error);

/**
 * Nonzero if looking for, opening and reading outputs may take long, because they are across a
 * network: not for event loops then. (Where it is 0 they take as long as a local disk.)
 */
WQ_API int wq_outputs_block(const wq_queue *queue);

/**
 * Reads at most `size` bytes from `offset` of an output of this job that wq_job_output() has
 * described: how many, less than `size` only at its end, 0 behind that. Fails with
 * WQ_ERROR_NOT_FOUND if it has been deleted or replaced since and has no descriptor,
 * WQ_ERROR_AWAY or WQ_ERROR_SYSTEM. Before wq_close() of the queue.
 */
WQ_API int64_t wq_output_read(wq_job *job, const wq_output *output, uint64_t offset, void *buf,
                              size_t size, wq_error *error);

/**
 * Writes a URL where clients may fetch the job's output without us to `url` (`size` bytes, NUL
 * included). Asks nobody. Fails with WQ_ERROR_NOT_FOUND if the store has none to give, or with
 * WQ_ERROR_INVALID_ARGUMENT if it does not fit.
 */
WQ_API int wq_output_url(wq_job *job, char *url, size_t size, wq_error *error);

/**
 * Deletes the output of `params`. One that is being read stays readable for who has it open. WQ_OK,
 * WQ_ERROR_NOT_FOUND, or another failure.
 */
WQ_API int wq_output_delete(wq_queue *queue, const wq_params *params, wq_error *error);

/**
 * Deletes the output with this key, as wq_outputs_list() tells it. WQ_OK, WQ_ERROR_NOT_FOUND, or
 * another failure. Packagers on other machines, which know outputs by their parameters, are not told.
 */
WQ_API int wq_output_delete_key(wq_queue *queue, const char *key, wq_error *error);

/** What is known of an output in the store, from its label: see wq_outputs_list(). */
typedef struct wq_output_info {
    char key[WQ_KEY_SIZE];      /**< as in wq_params_key() */
    char tag[48];               /**< as in wq_output */
    char job_id[WQ_ID_SIZE];    /**< the job that made it; "" if not known, like the texts below */
    char server[2049];          /**< the `server` it is of */
    char document_set_id[257];  /**< the document set it is of */
    char program[256];          /**< the program that made it; its end only if it is longer */
    uint64_t size_bytes;        /**< its length */
    int64_t made_at_ms;         /**< when it was published, Unix time */
    uint64_t ran_ms;            /**< how long the program ran; 0 if not known */
    int64_t used_at_ms;         /**< when somebody last asked for it or fetched it, to a minute; Unix
                                     time, 0 if not known */
} wq_output_info;

enum { WQ_POSITION_SIZE = 128 }; /**< a buffer for a position in a list, with its NUL */

/**
 * Lists outputs: at most `max` from `position` on, those of `server` and `document_set_id` only if
 * these are not NULL (a document set needs its server). They come in an order of the store, that of
 * a folder with the newest first. Begin with an empty text as `position` (a buffer of
 * WQ_POSITION_SIZE); it becomes that of the next call, or empty again if there are no more. What is
 * published or deleted between two calls may be missing or not; anything else is told once.
 *
 * `out` is an array of `max` of the caller's, `*n` how many have been filled in. Every output has a
 * label with what wq_output_info tells, but never the API token: an extended attribute of the file,
 * `user.workqueue`, or where the filesystem has none a file beside it. One that another program has
 * put there, or an older version of this library, may have none.
 *
 * Reads the whole storage, so not for an event loop. Fails with WQ_ERROR_INVALID_ARGUMENT,
 * WQ_ERROR_NOT_FOUND if the store cannot list, WQ_ERROR_AWAY, WQ_ERROR_SYSTEM or
 * WQ_ERROR_NO_MEMORY, and then `position` is as it was.
 */
WQ_API int wq_outputs_list(wq_queue *queue, const char *server, const char *document_set_id,
                           char *position, wq_output_info *out, size_t max, size_t *n,
                           wq_error *error);

/**
 * Deletes all outputs of `server`, or, if `document_set_id` is not NULL, those of that document set,
 * whatever their tokens. Reads the whole storage, so not for an event loop. `*n` is how many have
 * been deleted, also on failure.
 */
WQ_API int wq_outputs_delete(wq_queue *queue, const char *server, const char *document_set_id,
                             size_t *n, wq_error *error);

/**
 * Writes the path where the output of `params` is, or will be, to `path` (`size` bytes, NUL
 * included), for libraries that open by name. Where the store has no files it is that of a local
 * copy, which is made if need be and stays for a minute at least; so it may take long, and fail
 * like wq_output_open(). Fails with WQ_ERROR_INVALID_ARGUMENT if it does not fit or the store has
 * no paths.
 */
WQ_API int wq_output_path(wq_queue *queue, const wq_params *params, char *path, size_t size,
                          wq_error *error);

#ifdef __cplusplus
}
#endif

#endif

/* journal.c - jobs in a SQLite file: opening and upgrading it, putting jobs back, group commit.
 *
 * A token is in no job's row but in a slot of the table `token`, whose rows are all of one size and
 * are overwritten in place. So nothing of it is left anywhere in the file when its job has ended:
 * SQLite would zero deleted rows, but not the copies it leaves when it moves rows between pages.
 * The write-ahead log, which holds old pages, is emptied at most TIDY_MS later.
 *
 * A log that grows costs each commit the sync of a new length, too. So one that is much used is
 * filled with zeros when it has been emptied: SQLite takes that for an empty log, and overwrites
 * it.
 */
#include "workqueue/journal.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "workqueue/params.h"
#include "workqueue/util/wall.h"

enum {
    APPLICATION = 0x7771316a, /* "wq1j": PRAGMA application_id */
    BATCH = 512,
    SLOT_BYTES = WQ_MAX_FIELD_BYTES,
    PAUSE_MS = 4,    /* between commits, while every worker is busy: they cost less together */
    STOP_MS = 20,    /* a job that was stopped waits so long for company, */
    START_MS = 50,   /* and a start; the end of a short job overtakes it, which saves a write */
    TIDY_MS = 1000,  /* the log is emptied, and what is too old is forgotten, at most so often */
    RETRY_MS = 1000, /* after a failure, for what nobody waits for */
    PAGE_BYTES = 4096 + 24,            /* of the log */
    FILL_BYTES = 256 * 1024,           /* a log of less is not much used */
    FILL_MAX_BYTES = 16 * 1024 * 1024, /* no more zeros than that */
    IN_USE_MS = 1000, /* a server that has just been killed may hold the file a moment longer */
};

/* Step i makes version i + 1 of version i, in a transaction of its own: what is new is appended,
 * and a step that has been released never changes. Slots exist before there are tokens, so that the
 * table's first page is never split while it holds some. */
static const char *const upgrades[] = {
    "CREATE TABLE job (seq INTEGER PRIMARY KEY, id TEXT NOT NULL, key TEXT NOT NULL,"
    " server TEXT NOT NULL, document_set_id TEXT NOT NULL, slot INTEGER, rebuild INTEGER NOT NULL,"
    " queued_at INTEGER NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,"
    " started INTEGER NOT NULL DEFAULT 0, state INTEGER NOT NULL DEFAULT 0, returncode INTEGER,"
    " error TEXT, version INTEGER, started_at INTEGER, ended_at INTEGER);"
    "CREATE TABLE token (slot INTEGER PRIMARY KEY, bytes BLOB NOT NULL);"
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 64)"
    " INSERT INTO token SELECT i, zeroblob(256) FROM n;",
};

enum { VERSION = sizeof upgrades / sizeof *upgrades };

enum statement { BEGIN, COMMIT, PUT_TOKEN, WIPE_TOKEN, ADD, START, END, STATEMENTS };

static const char *const statements[STATEMENTS] = {
    [BEGIN] = "BEGIN IMMEDIATE",
    [COMMIT] = "COMMIT",
    [PUT_TOKEN] = "INSERT INTO token VALUES (?1, ?2)"
                  " ON CONFLICT (slot) DO UPDATE SET bytes = excluded.bytes",
    [WIPE_TOKEN] = "UPDATE token SET bytes = zeroblob(256) WHERE slot = ?1",
    [ADD] = "INSERT INTO job (seq, id, key, server, document_set_id, slot, rebuild, queued_at)"
            " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    [START] = "UPDATE job SET started = ?2 WHERE seq = ?1",
    [END] = "UPDATE job SET slot = NULL, started = 0, state = ?2, returncode = ?3, error = ?4,"
            " version = ?5, started_at = ?6, ended_at = ?7 WHERE seq = ?1",
};

/* What a batch does for one job. */
typedef struct record {
    wq_job *job; /* counted */
    enum { NOTHING, IS_NEW, IS_DONE, HAS_STARTED, HAS_STOPPED, HAS_ENDED } what;
    wq_end end;
    uint64_t version;
    int64_t started_at;
    int is_awaited; /* its end is told after that */
} record;

struct wq_journal {
    wq_queue *queue;
    char *path;
    size_t max_ended;
    int64_t retain_ms;
    unsigned max_attempts;
    int syncs;
    pthread_t thread;
    int has_thread;

    /* the thread's, and before that the opener's */
    sqlite3 *db;
    int has_file; /* locked until the end: nobody else has it in use */
    sqlite3_stmt *prepared[STATEMENTS];
    int64_t *free_slots, n_slots;
    size_t n_free, slots_size;
    record batch[BATCH];
    int is_untidy;
    int64_t tidied; /* when last */
    int log_pages;  /* since then */
    wq_wall wall;
    int is_failing; /* logged once */

    pthread_mutex_t lock;
    /* under the lock */
    pthread_cond_t due, settled; /* due: on CLOCK_MONOTONIC */
    struct wq_job_notes soon;    /* new jobs and ends */
    struct wq_job_notes later;   /* starts, oldest first */
    int64_t begun;               /* when it last took a batch */
    int64_t wake_at;             /* 0: nothing to do */
    uint64_t n_batches;
    int closing;
};

/* ---- errors ---------------------------------------------------------------------------------- */

/* The write-ahead log; NULL if it is not open. */
static sqlite3_file *log_of(wq_journal *j)
{
    sqlite3_file *log = NULL;
    int r = sqlite3_file_control(j->db, "main", SQLITE_FCNTL_JOURNAL_POINTER, &log);
    return r == SQLITE_OK && log != NULL && log->pMethods != NULL ? log : NULL;
}

/* Of the last call on one of our two files that failed; 0: none. SQLite itself says after some of
 * them that the file is locked or corrupt, which it is not. */
static int io_errno(wq_journal *j)
{
    int number = 0;
    sqlite3_file_control(j->db, "main", SQLITE_FCNTL_LAST_ERRNO, &number);
    sqlite3_file *log = number == 0 ? log_of(j) : NULL;
    if (log != NULL)
        log->pMethods->xFileControl(log, SQLITE_FCNTL_LAST_ERRNO, &number);
    return number;
}

static int fail_io(wq_journal *j, int number, wq_error *error)
{
    return wq_fail(error, WQ_ERROR_SYSTEM, "the journal %s: disk I/O error: %s", j->path,
                   strerror(number));
}

static int fail_db(wq_journal *j, wq_error *error)
{
    int code = sqlite3_errcode(j->db) & 0xff, number = io_errno(j);
    int is_locked = code == SQLITE_BUSY || code == SQLITE_LOCKED;
    int is_io = code == SQLITE_IOERR || code == SQLITE_CANTOPEN;
    if (number == 0 && is_io)
        number = sqlite3_system_errno(j->db);
    if (number != 0 && (is_locked || code == SQLITE_CORRUPT || code == SQLITE_IOERR))
        return fail_io(j, number, error);
    if (is_locked && j->has_file)
        return wq_fail(error, WQ_ERROR_SYSTEM, "the journal %s: disk I/O error", j->path);
    if (is_locked)
        return wq_fail(error, WQ_ERROR_LOCKED,
                       "the journal %s is in use by another server; give each one of its own",
                       j->path);
    return wq_fail(error, code == SQLITE_NOMEM ? WQ_ERROR_NO_MEMORY : WQ_ERROR_SYSTEM,
                   "the journal %s: %s%s%s", j->path, sqlite3_errmsg(j->db),
                   is_io && number != 0 ? ": " : "", is_io && number != 0 ? strerror(number) : "");
}

static int is_corrupt(wq_journal *j, const char *what, wq_error *error)
{
    return wq_fail(error, WQ_ERROR_SYSTEM,
                   "the journal %s is corrupt (%s); move it away to begin without its jobs",
                   j->path, what);
}

static int exec(wq_journal *j, const char *sql, wq_error *error)
{
    return sqlite3_exec(j->db, sql, NULL, NULL, NULL) == SQLITE_OK ? WQ_OK : fail_db(j, error);
}

/* ---- opening --------------------------------------------------------------------------------- */

static int sync_folder(wq_journal *j, wq_error *error)
{
    char copy[PATH_MAX];
    snprintf(copy, sizeof copy, "%s", j->path);
    int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int r = fd < 0 ? -1 : fsync(fd);
    if (r != 0)
        wq_fail(error, WQ_ERROR_SYSTEM, "sync the folder of the journal %s: %s", j->path,
                strerror(errno));
    if (fd >= 0)
        close(fd);
    return r == 0 ? WQ_OK : WQ_ERROR_SYSTEM;
}

/* Made by us, because SQLite would have the umask decide who may read it; what SQLite puts beside
 * it gets its mode. */
static int make_file(wq_journal *j, wq_error *error)
{
    int fd = open(j->path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return wq_fail(error, WQ_ERROR_SYSTEM, "create the journal %s: %s", j->path,
                       strerror(errno));
    int r = fchmod(fd, 0600);
    if (r != 0)
        wq_fail(error, WQ_ERROR_SYSTEM, "chmod the journal %s: %s", j->path, strerror(errno));
    close(fd);
    return r == 0 ? sync_folder(j, error) : WQ_ERROR_SYSTEM;
}

/* SQLite needs both, for its log, and would say something else of it. */
static int check_writable(wq_journal *j, wq_error *error)
{
    char copy[PATH_MAX];
    snprintf(copy, sizeof copy, "%s", j->path);
    if (faccessat(AT_FDCWD, j->path, R_OK | W_OK, AT_EACCESS) != 0)
        return wq_fail(error, WQ_ERROR_SYSTEM, "the journal %s cannot be written to: %s", j->path,
                       strerror(errno));
    if (faccessat(AT_FDCWD, dirname(copy), W_OK, AT_EACCESS) != 0)
        return wq_fail(error, WQ_ERROR_SYSTEM,
                       "the folder of the journal %s cannot be written to: %s", j->path,
                       strerror(errno));
    return WQ_OK;
}

/* An existing file is not opened by us: to close it would drop the locks that another queue of this
 * process may have on it. A log without its file is what is left of a journal that was lost, and
 * SQLite would delete it. */
static int prepare_file(wq_journal *j, wq_error *error)
{
    char log[PATH_MAX];
    struct stat st, log_st;
    if (snprintf(log, sizeof log, "%s-wal", j->path) >= (int)sizeof log)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "options: journal_path is too long");
    int there = lstat(j->path, &st) == 0;
    if (!there && errno != ENOENT)
        return wq_fail(error, WQ_ERROR_SYSTEM, "stat the journal %s: %s", j->path, strerror(errno));
    if (there && !S_ISREG(st.st_mode))
        return wq_fail(error, WQ_ERROR_SYSTEM, "the journal %s is not a regular file", j->path);
    if ((!there || st.st_size == 0) && stat(log, &log_st) == 0 && log_st.st_size > 0)
        return is_corrupt(j, "it is empty or missing, but its -wal file is there", error);
    if (there && st.st_size == 1) /* which SQLite takes for empty */
        return is_corrupt(j, "it is cut off", error);
    if (!there)
        return make_file(j, error);
    int result = check_writable(j, error);
    if (result == WQ_OK && (st.st_mode & 077) != 0 && chmod(j->path, 0600) != 0)
        result =
            wq_fail(error, WQ_ERROR_SYSTEM, "chmod the journal %s: %s", j->path, strerror(errno));
    return result;
}

/* The first column of the first row, as a number or, if `text` is not NULL, as text. */
static int ask(wq_journal *j, const char *sql, int64_t *number, char *text, size_t size,
               wq_error *error)
{
    sqlite3_stmt *s;
    int result = WQ_OK;
    if (sqlite3_prepare_v2(j->db, sql, -1, &s, NULL) != SQLITE_OK)
        return fail_db(j, error);
    if (sqlite3_step(s) != SQLITE_ROW)
        result = fail_db(j, error);
    else if (text != NULL)
        snprintf(text, size, "%s", (const char *)sqlite3_column_text(s, 0));
    else
        *number = sqlite3_column_int64(s, 0);
    sqlite3_finalize(s);
    return result;
}

/* What is locked once stays so, in the mode that is set. */
static int take_file(wq_journal *j, wq_error *error)
{
    int result = exec(j, "BEGIN EXCLUSIVE; COMMIT", error);
    j->has_file = result == WQ_OK;
    return result;
}

/* The hook of every commit. */
static int note_log(void *user, sqlite3 *db, const char *name, int pages)
{
    (void)db, (void)name;
    ((wq_journal *)user)->log_pages = pages;
    return SQLITE_OK;
}

static int set_up(wq_journal *j, wq_error *error)
{
    char mode[16];
    int result = exec(j, "PRAGMA secure_delete = ON", error);
    if (result == WQ_OK)
        result = ask(j, "PRAGMA journal_mode = WAL", NULL, mode, sizeof mode, error);
    if (result == WQ_OK && strcmp(mode, "wal") != 0)
        result = wq_fail(error, WQ_ERROR_SYSTEM,
                         "the journal %s: no write-ahead log is possible here", j->path);
    sqlite3_wal_hook(j->db, note_log, j); /* instead of SQLite's own, which would checkpoint */
    if (result == WQ_OK)
        result =
            exec(j, j->syncs ? "PRAGMA synchronous = FULL" : "PRAGMA synchronous = NORMAL", error);
    return result;
}

static int upgrade(wq_journal *j, int64_t version, wq_error *error)
{
    char sql[80];
    int result = WQ_OK;
    for (; version < VERSION && result == WQ_OK; version++) {
        snprintf(sql, sizeof sql, "PRAGMA application_id = %d; PRAGMA user_version = %d",
                 (int)APPLICATION, (int)version + 1);
        result = exec(j, "BEGIN EXCLUSIVE", error);
        if (result == WQ_OK)
            result = exec(j, upgrades[version], error);
        if (result == WQ_OK)
            result = exec(j, sql, error);
        if (result == WQ_OK)
            result = exec(j, "COMMIT", error);
    }
    return result;
}

/* A page that cannot be read is one that the check finds wrong. */
static int check_pages(wq_journal *j, wq_error *error)
{
    char said[120];
    int result = ask(j, "PRAGMA quick_check(1)", NULL, said, sizeof said, error);
    if (result != WQ_OK || strcmp(said, "ok") == 0)
        return result;
    if (io_errno(j) != 0)
        return fail_io(j, io_errno(j), error);
    for (char *c = said; (c = strchr(c, '\n')) != NULL;)
        *c = ' ';
    return is_corrupt(j, said, error);
}

/* Is it ours, whole, and of a version that we know? */
static int check_file(wq_journal *j, int64_t *version, wq_error *error)
{
    int64_t application = 0, tables = 0;
    int result = ask(j, "PRAGMA application_id", &application, NULL, 0, error);
    if (result == WQ_OK)
        result = ask(j, "PRAGMA user_version", version, NULL, 0, error);
    if (result == WQ_OK)
        result = ask(j, "SELECT count(*) FROM sqlite_master", &tables, NULL, 0, error);
    if (result != WQ_OK)
        return result;
    int is_new = application == 0 && *version == 0 && tables == 0;
    if (!is_new && (application != APPLICATION || *version < 1))
        return wq_fail(error, WQ_ERROR_SYSTEM, "%s is no journal of a queue", j->path);
    if (*version > VERSION)
        return wq_fail(error, WQ_ERROR_SYSTEM,
                       "the journal %s is of the newer version %lld, and this library knows those "
                       "up to %d; use the library that has written it, or one that is newer",
                       j->path, (long long)*version, (int)VERSION);
    if (sqlite3_db_readonly(j->db, "main"))
        return wq_fail(error, WQ_ERROR_SYSTEM, "the journal %s cannot be written to", j->path);
    return check_pages(j, error);
}

static int open_db(wq_journal *j, wq_error *error)
{
    int64_t version = 0;
    int result = prepare_file(j, error);
    if (result != WQ_OK)
        return result;
    int r = sqlite3_open_v2(j->path, &j->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
    if (j->db == NULL)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    if (r != SQLITE_OK)
        return fail_db(j, error);
    sqlite3_extended_result_codes(j->db, 1);
    sqlite3_busy_timeout(j->db, IN_USE_MS);
    if ((result = exec(j, "PRAGMA locking_mode = EXCLUSIVE", error)) != WQ_OK ||
        (result = check_file(j, &version, error)) != WQ_OK ||
        (result = take_file(j, error)) != WQ_OK || (result = set_up(j, error)) != WQ_OK ||
        (result = upgrade(j, version, error)) != WQ_OK)
        return result;
    for (int i = 0; i < STATEMENTS; i++)
        if (sqlite3_prepare_v3(j->db, statements[i], -1, SQLITE_PREPARE_PERSISTENT, &j->prepared[i],
                               NULL) != SQLITE_OK)
            return fail_db(j, error);
    return WQ_OK;
}

/* ---- slots ----------------------------------------------------------------------------------- */

/* Room for every slot there is and one more, so that giving one back cannot fail. */
static int reserve_slots(wq_journal *j)
{
    if ((size_t)j->n_slots + 1 <= j->slots_size)
        return 0;
    size_t size = j->slots_size ? 2 * j->slots_size : 256;
    while (size < (size_t)j->n_slots + 1)
        size *= 2;
    int64_t *grown = realloc(j->free_slots, size * sizeof *grown);
    if (grown == NULL)
        return -1;
    j->free_slots = grown;
    j->slots_size = size;
    return 0;
}

/* 0: no memory. */
static int64_t take_slot(wq_journal *j)
{
    if (j->n_free > 0)
        return j->free_slots[--j->n_free];
    return reserve_slots(j) == 0 ? ++j->n_slots : 0;
}

static void give_slot(wq_journal *j, wq_note *note)
{
    if (note->slot != 0)
        j->free_slots[j->n_free++] = note->slot;
    note->slot = 0;
}

static int read_free_slots(wq_journal *j, wq_error *error)
{
    sqlite3_stmt *s;
    int result = ask(j, "SELECT ifnull(max(slot), 0) FROM token", &j->n_slots, NULL, 0, error);
    if (result == WQ_OK && reserve_slots(j) != 0)
        result = wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    if (result != WQ_OK)
        return result;
    if (sqlite3_prepare_v2(j->db,
                           "SELECT slot FROM token WHERE slot NOT IN"
                           " (SELECT slot FROM job WHERE slot IS NOT NULL) ORDER BY slot DESC",
                           -1, &s, NULL) != SQLITE_OK)
        return fail_db(j, error);
    int r;
    while ((r = sqlite3_step(s)) == SQLITE_ROW)
        j->free_slots[j->n_free++] = sqlite3_column_int64(s, 0);
    if (r != SQLITE_DONE)
        result = fail_db(j, error);
    sqlite3_finalize(s);
    return result;
}

/* ---- putting jobs back ----------------------------------------------------------------------- */

enum column {
    SEQ,
    ID,
    KEY,
    SERVER,
    DOCUMENT_SET_ID,
    TOKEN,
    REBUILD,
    QUEUED_AT,
    ATTEMPTS,
    SLOT,
    STATE,
    RETURNCODE,
    ERROR,
    JOB_VERSION,
    STARTED_AT,
    ENDED_AT
};

#define COLUMNS                                                                                    \
    "SELECT seq, id, key, server, document_set_id, bytes, rebuild, queued_at, attempts, job.slot," \
    " state, returncode, error, version, started_at, ended_at"                                     \
    " FROM job LEFT JOIN token ON token.slot = job.slot "

static const char *text_of(sqlite3_stmt *s, int column)
{
    const char *text = (const char *)sqlite3_column_text(s, column);
    return text != NULL ? text : "";
}

/* How long ago a moment of an earlier process was; the clock may have been set since. */
static int64_t mono_of(int64_t unix_ms)
{
    int64_t ago = wq_unix_ms() - unix_ms;
    return wq_monotonic_ms() - (ago > 0 ? ago : 0);
}

static int is_id(const char *text)
{
    return strlen(text) == WQ_ID_SIZE - 1 && strspn(text, "0123456789abcdef-") == WQ_ID_SIZE - 1;
}

/* One that has not ended would be lost without a word. */
static int is_end(sqlite3_stmt *s)
{
    const int state = sqlite3_column_int(s, STATE);
    return state >= WQ_STATE_SUCCEEDED && state <= WQ_STATE_CANCELLED &&
           sqlite3_column_type(s, SLOT) == SQLITE_NULL;
}

/* A row as a job, or NULL. */
static wq_job *read_job(wq_journal *j, sqlite3_stmt *s, int unfinished, wq_error *error)
{
    char token[SLOT_BYTES + 1] = "", key[WQ_KEY_SIZE];
    const void *bytes = sqlite3_column_blob(s, TOKEN);
    size_t n = (size_t)sqlite3_column_bytes(s, TOKEN);
    if (unfinished && bytes != NULL && n <= SLOT_BYTES)
        memcpy(token, bytes, n);
    wq_params params = {text_of(s, SERVER), text_of(s, DOCUMENT_SET_ID), token};
    int is_whole = is_id(text_of(s, ID)) && strlen(text_of(s, KEY)) == WQ_KEY_SIZE - 1;
    if (is_whole && unfinished)
        is_whole = wq_params_key(&params, key) == WQ_OK && strcmp(key, text_of(s, KEY)) == 0;
    else if (is_whole)
        is_whole = is_end(s);
    if (!is_whole) {
        is_corrupt(j, "a job in it makes no sense", error);
        return NULL;
    }
    wq_job *job = wq_job_new(j->queue, &params, text_of(s, KEY));
    explicit_bzero(token, sizeof token);
    if (job == NULL) {
        wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
        return NULL;
    }
    memcpy(job->id, text_of(s, ID), WQ_ID_SIZE);
    job->queued_at_ms = sqlite3_column_int64(s, QUEUED_AT);
    /* one that waits again waits anew: the time without a server was not the queue's */
    job->queued_mono = unfinished ? wq_monotonic_ms() : mono_of(job->queued_at_ms);
    job->rebuild = sqlite3_column_int(s, REBUILD) != 0;
    job->note.seq = sqlite3_column_int64(s, SEQ);
    job->note.slot = sqlite3_column_int64(s, SLOT);
    job->note.written = unfinished ? WQ_WRITTEN : WQ_WRITTEN_END;
    return job;
}

/* It died with its server, so often that it may be why. */
static void give_up(wq_journal *j, wq_job *job, int attempts)
{
    char why[200];
    snprintf(why, sizeof why,
             "the server ended unexpectedly while this job ran, %d time%s; it is not tried again",
             attempts, attempts == 1 ? "" : "s");
    wq_log(&j->queue->logger, WQ_LOG_WARNING, "job %s: %s", job->id, why);
    wq_queue_finish(j->queue, job, WQ_STATE_FAILED, -999, why);
}

static int put_back(wq_journal *j, sqlite3_stmt *s, wq_error *error)
{
    wq_queue *queue = j->queue;
    wq_job *job = read_job(j, s, 1, error);
    if (job == NULL)
        return error ? error->code : WQ_ERROR_SYSTEM;
    int attempts = sqlite3_column_int(s, ATTEMPTS);
    job->was_journalled = 1;
    /* beyond what any watcher has seen of it */
    job->version = (uint64_t)attempts << 32;
    int result = wq_queue_put_back(queue, job, error);
    /* what runs elsewhere is not why a server died, and its runner knows what has become of it */
    int ran_here = attempts > 0 && !queue->asynchronous;
    if (result == WQ_OK && ran_here && wq_queue_is_in_place(queue, job))
        wq_queue_finish(queue, job, WQ_STATE_SUCCEEDED, 0, NULL);
    else if (result == WQ_OK && ran_here && attempts >= (int)j->max_attempts)
        give_up(j, job, attempts);
    wq_job_unref(job);
    return result;
}

static int put_back_ended(wq_journal *j, sqlite3_stmt *s, wq_error *error)
{
    wq_job *job = read_job(j, s, 0, error);
    if (job == NULL)
        return error ? error->code : WQ_ERROR_SYSTEM;
    const char *text = text_of(s, ERROR);
    job->state = sqlite3_column_int(s, STATE);
    job->returncode = sqlite3_column_int(s, RETURNCODE);
    job->version = (uint64_t)sqlite3_column_int64(s, JOB_VERSION);
    if (sqlite3_column_type(s, ERROR) != SQLITE_NULL)
        job->error = wq_text_new(text, strlen(text));
    job->started_at_ms = sqlite3_column_int64(s, STARTED_AT);
    job->ended_at_ms = sqlite3_column_int64(s, ENDED_AT);
    job->ended_mono = mono_of(job->ended_at_ms);
    if (job->started_at_ms != 0)
        job->started_mono = mono_of(job->started_at_ms);
    int result = wq_queue_put_back_ended(j->queue, job);
    wq_job_unref(job);
    return result == WQ_OK ? WQ_OK : wq_fail(error, result, "out of memory");
}

static int for_each(wq_journal *j, const char *sql, int64_t limit,
                    int (*each)(wq_journal *j, sqlite3_stmt *s, wq_error *error), wq_error *error)
{
    sqlite3_stmt *s;
    int result = WQ_OK, r = SQLITE_DONE;
    if (sqlite3_prepare_v2(j->db, sql, -1, &s, NULL) != SQLITE_OK)
        return fail_db(j, error);
    sqlite3_bind_int64(s, 1, limit);
    while (result == WQ_OK && (r = sqlite3_step(s)) == SQLITE_ROW)
        result = each(j, s, error);
    if (result == WQ_OK && r != SQLITE_DONE)
        result = fail_db(j, error);
    sqlite3_finalize(s);
    return result;
}

static int tidy(wq_journal *j, wq_error *error);

/* What was running when the server died has used up an attempt, which is durable before anything
 * runs. */
static int restore(wq_journal *j, wq_error *error)
{
    int64_t last = 0;
    wq_error own;
    if (error == NULL)
        error = &own;
    int result = exec(j,
                      "UPDATE job SET attempts = attempts + 1, started = 0"
                      " WHERE state = 0 AND started = 1",
                      error);
    if (result == WQ_OK)
        result = tidy(j, error);
    if (result == WQ_OK)
        result = ask(j, "SELECT ifnull(max(seq), 0) FROM job", &last, NULL, 0, error);
    if (result == WQ_OK)
        result = read_free_slots(j, error);
    j->queue->next_rank = (uint64_t)last + 1;
    if (result == WQ_OK)
        result = for_each(j, COLUMNS "WHERE state <> 0 ORDER BY ended_at, seq LIMIT ?1", -1,
                          put_back_ended, error);
    if (result == WQ_OK)
        result = for_each(j, COLUMNS "WHERE state = 0 ORDER BY seq LIMIT ?1", -1, put_back, error);
    return result;
}

/* ---- writing --------------------------------------------------------------------------------- */

static int run(wq_journal *j, enum statement which)
{
    sqlite3_stmt *s = j->prepared[which];
    int r = sqlite3_step(s);
    sqlite3_reset(s);
    return r == SQLITE_DONE ? 0 : -1;
}

static int put_token(wq_journal *j, const wq_job *job)
{
    sqlite3_stmt *t = j->prepared[PUT_TOKEN];
    char bytes[SLOT_BYTES] = "";
    memcpy(bytes, job->params.api_token, strlen(job->params.api_token));
    sqlite3_bind_int64(t, 1, job->note.slot);
    sqlite3_bind_blob(t, 2, bytes, sizeof bytes, SQLITE_STATIC);
    int r = run(j, PUT_TOKEN);
    sqlite3_clear_bindings(t);
    explicit_bzero(bytes, sizeof bytes);
    return r;
}

static int add_job(wq_journal *j, const wq_job *job)
{
    sqlite3_stmt *s = j->prepared[ADD];
    sqlite3_bind_int64(s, 1, job->note.seq);
    sqlite3_bind_text(s, 2, job->id, -1, SQLITE_STATIC);
    sqlite3_bind_text(s, 3, job->key, -1, SQLITE_STATIC);
    sqlite3_bind_text(s, 4, job->params.server, -1, SQLITE_STATIC);
    sqlite3_bind_text(s, 5, job->params.document_set_id, -1, SQLITE_STATIC);
    sqlite3_bind_int64(s, 6, job->note.slot);
    sqlite3_bind_int(s, 7, job->rebuild);
    sqlite3_bind_int64(s, 8, job->queued_at_ms);
    return run(j, ADD);
}

static int set_started(wq_journal *j, const wq_job *job, int started)
{
    sqlite3_bind_int64(j->prepared[START], 1, job->note.seq);
    sqlite3_bind_int(j->prepared[START], 2, started);
    return run(j, START);
}

static int end_job(wq_journal *j, const record *r)
{
    sqlite3_stmt *s = j->prepared[END];
    sqlite3_bind_int64(s, 1, r->job->note.seq);
    sqlite3_bind_int(s, 2, r->end.state);
    sqlite3_bind_int(s, 3, r->end.returncode);
    if (r->end.error != NULL)
        sqlite3_bind_text(s, 4, r->end.error->bytes, -1, SQLITE_STATIC);
    else
        sqlite3_bind_null(s, 4);
    sqlite3_bind_int64(s, 5, (int64_t)r->version);
    sqlite3_bind_int64(s, 6, r->started_at);
    sqlite3_bind_int64(s, 7, r->end.at_ms);
    sqlite3_bind_int64(j->prepared[WIPE_TOKEN], 1, r->job->note.slot);
    return run(j, END) == 0 ? run(j, WIPE_TOKEN) : -1;
}

static int write_record(wq_journal *j, const record *r)
{
    switch (r->what) {
    case IS_NEW:
        return put_token(j, r->job) == 0 ? add_job(j, r->job) : -1;
    case IS_DONE: /* its slot is 0, where no token is */
        return add_job(j, r->job) == 0 ? end_job(j, r) : -1;
    case HAS_STARTED:
        return set_started(j, r->job, 1);
    case HAS_STOPPED:
        return set_started(j, r->job, 0);
    case HAS_ENDED:
        return end_job(j, r);
    default:
        return 0;
    }
}

/* One transaction: all of it or nothing. */
static int write_batch(wq_journal *j, const record *records, size_t n, wq_error *error)
{
    int r = 0;
    size_t writes = 0;
    for (size_t i = 0; i < n; i++) {
        writes += records[i].what != NOTHING;
        if (records[i].what == IS_NEW && records[i].job->note.slot == 0)
            return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    }
    if (writes == 0)
        return WQ_OK;
    r = run(j, BEGIN);
    for (size_t i = 0; i < n && r == 0; i++)
        r = write_record(j, &records[i]);
    if (r == 0)
        r = run(j, COMMIT);
    j->is_untidy = 1;
    if (r == 0)
        return WQ_OK;
    int result = fail_db(j, error);
    if (!sqlite3_get_autocommit(j->db))
        sqlite3_exec(j->db, "ROLLBACK", NULL, NULL, NULL);
    return result;
}

/* ---- the thread ------------------------------------------------------------------------------ */

/* What has become of a job since it was last written. The queue's lock is held. */
static void read_record_locked(wq_journal *j, record *r)
{
    wq_job *job = r->job;
    pthread_mutex_lock(&job->lock);
    int ended = job->decided || (job->state >= WQ_STATE_SUCCEEDED && !job->kept);
    int runs = job->state == WQ_STATE_RUNNING || job->state == WQ_STATE_PUBLISHING;
    int done = job->state >= WQ_STATE_SUCCEEDED;
    r->what = job->note.written == WQ_UNWRITTEN                  ? (done ? IS_DONE : IS_NEW)
              : ended                                            ? HAS_ENDED
              : runs && job->note.written == WQ_WRITTEN          ? HAS_STARTED
              : !runs && job->note.written == WQ_WRITTEN_STARTED ? HAS_STOPPED
                                                                 : NOTHING;
    if (job->note.written == WQ_WRITTEN_END)
        r->what = NOTHING;
    r->is_awaited = job->decided;
    r->end = job->decided ? job->end
                          : (wq_end){job->state, job->returncode, job->error, job->ended_at_ms, 0};
    r->end.error = wq_text_ref(r->end.error);
    r->version = job->version + (job->decided ? 1 : 0);
    r->started_at = job->started_at_ms;
    pthread_mutex_unlock(&job->lock);
    if (r->what == IS_NEW && job->note.slot == 0)
        job->note.slot = take_slot(j);
}

static void set_written(wq_journal *j, const record *r)
{
    wq_note *note = &r->job->note;
    if (r->what == IS_NEW || r->what == HAS_STOPPED)
        note->written = WQ_WRITTEN;
    else if (r->what == HAS_STARTED)
        note->written = WQ_WRITTEN_STARTED;
    else if (r->what == HAS_ENDED || r->what == IS_DONE)
        note->written = WQ_WRITTEN_END;
    if (r->what == HAS_ENDED)
        give_slot(j, note);
}

static int64_t earlier(int64_t a, int64_t b)
{
    return a == 0 || (b != 0 && b < a) ? b : a;
}

/* Adds to a list unless it is in one; an end leaves the row of the starts. */
static void list_locked(wq_journal *j, wq_job *job, int later)
{
    wq_note *note = &job->note;
    if (note->listed == WQ_LISTED_SOON || (note->listed == WQ_LISTED_LATER && later))
        return;
    if (note->listed == WQ_LISTED_LATER)
        TAILQ_REMOVE(&j->later, job, note.link);
    else
        wq_job_ref(job);
    note->since = wq_monotonic_ms();
    note->listed = later ? WQ_LISTED_LATER : WQ_LISTED_SOON;
    if (later)
        TAILQ_INSERT_TAIL(&j->later, job, note.link);
    else
        TAILQ_INSERT_TAIL(&j->soon, job, note.link);
}

static void wake_locked(wq_journal *j, int64_t at)
{
    int64_t before = j->wake_at;
    j->wake_at = earlier(before, at);
    if (j->wake_at != before)
        pthread_cond_signal(&j->due);
}

void wq_journal_note_locked(wq_journal *j, wq_job *job)
{
    int64_t now = wq_monotonic_ms(), at = now;
    pthread_mutex_lock(&j->lock);
    int starts =
        !job->decided && (job->state == WQ_STATE_RUNNING || job->state == WQ_STATE_PUBLISHING);
    list_locked(j, job, starts);
    if (starts)
        at = now + START_MS;
    else if (job->state >= WQ_STATE_SUCCEEDED && !job->pending)
        at = now + STOP_MS;
    else if (j->queue->n_idle == 0 && j->begun + PAUSE_MS > now)
        at = j->begun + PAUSE_MS;
    wake_locked(j, at);
    pthread_mutex_unlock(&j->lock);
}

void wq_journal_started(wq_journal *j, wq_job *job)
{
    pthread_mutex_lock(&j->lock);
    list_locked(j, job, 0);
    wake_locked(j, wq_monotonic_ms());
    /* one batch may be under way without it */
    uint64_t until = j->n_batches + 2;
    while (j->n_batches < until && (job->note.listed != WQ_UNLISTED || job->note.in_batch))
        pthread_cond_wait(&j->settled, &j->lock);
    pthread_mutex_unlock(&j->lock);
}

static wq_job *next_note_locked(wq_journal *j, int64_t now)
{
    wq_job *job = TAILQ_FIRST(&j->soon);
    if (job != NULL) {
        TAILQ_REMOVE(&j->soon, job, note.link);
        return job;
    }
    job = TAILQ_FIRST(&j->later);
    if (job == NULL || (job->note.since + START_MS > now && !j->closing))
        return NULL;
    TAILQ_REMOVE(&j->later, job, note.link);
    return job;
}

/* Takes what is due, and says when the next will be. */
static size_t take_batch_locked(wq_journal *j, int64_t now)
{
    size_t n = 0;
    wq_job *job;
    while (n < BATCH && (job = next_note_locked(j, now)) != NULL) {
        job->note.listed = WQ_UNLISTED;
        job->note.in_batch = 1;
        j->batch[n++] = (record){.job = job};
    }
    job = TAILQ_FIRST(&j->later);
    j->wake_at = !TAILQ_EMPTY(&j->soon) ? now : job != NULL ? job->note.since + START_MS : 0;
    return n;
}

/* Others keep for a later try. A new job that was refused is no more. */
static void put_off(wq_journal *j, record *r)
{
    pthread_mutex_lock(&j->lock);
    if (!j->closing) {
        list_locked(j, r->job, 0);
        wake_locked(j, wq_monotonic_ms() + RETRY_MS);
    }
    pthread_mutex_unlock(&j->lock);
}

static void count_failure(wq_journal *j, const wq_error *error)
{
    atomic_fetch_add(&j->queue->journal_errors, 1);
    if (!j->is_failing)
        wq_log(&j->queue->logger, WQ_LOG_ERROR, "%s", error->message);
    j->is_failing = 1;
}

static void settle(wq_journal *j, record *r, int result, const wq_error *error)
{
    if (result == WQ_OK)
        set_written(j, r);
    else if (r->what == IS_NEW)
        give_slot(j, &r->job->note);
    pthread_mutex_lock(&j->lock);
    r->job->note.in_batch = 0;
    pthread_mutex_unlock(&j->lock);
    if (r->what == IS_NEW && result == WQ_OK)
        wq_queue_accepted(j->queue, r->job);
    else if (r->what == IS_NEW)
        wq_queue_refused(j->queue, r->job, error);
    else if (result != WQ_OK && r->what != NOTHING)
        put_off(j, r);
    /* also if it could not be written, for nothing can be done about that */
    if (r->is_awaited)
        wq_queue_ended(j->queue, r->job);
    else if (r->what == IS_DONE)
        wq_queue_known(j->queue, r->job);
    wq_text_unref(r->end.error);
    wq_job_unref(r->job);
}

static int do_batch(wq_journal *j, size_t n)
{
    wq_error error = {0};
    pthread_mutex_lock(&j->queue->lock);
    for (size_t i = 0; i < n; i++)
        read_record_locked(j, &j->batch[i]);
    pthread_mutex_unlock(&j->queue->lock);
    int result = write_batch(j, j->batch, n, &error);
    if (result != WQ_OK)
        count_failure(j, &error);
    else
        j->is_failing = 0;
    for (size_t i = 0; i < n; i++)
        settle(j, &j->batch[i], result, &error);
    return result;
}

/* Before there is a thread: those that are given up have ended when the queue is open. */
static void flush(wq_journal *j)
{
    size_t n;
    do {
        pthread_mutex_lock(&j->lock);
        n = take_batch_locked(j, wq_monotonic_ms());
        pthread_mutex_unlock(&j->lock);
    } while (n > 0 && do_batch(j, n) == WQ_OK);
}

/* That it cannot be filled is no failure. Never over what it holds: SQLite calls it a success, too,
 * when it could not empty it, since somebody reads from it. */
static void fill_log(sqlite3_file *log, int64_t size)
{
    static const char zeros[64 * 1024];
    sqlite3_int64 left = -1;
    int64_t at = 0;
    int r = log->pMethods->xFileSize(log, &left);
    if (r != SQLITE_OK || left != 0)
        return;
    size = size < FILL_MAX_BYTES ? size : FILL_MAX_BYTES;
    for (; r == SQLITE_OK && at < size; at += (int64_t)sizeof zeros)
        r = log->pMethods->xWrite(log, zeros, sizeof zeros, at);
    if (r == SQLITE_OK)
        r = log->pMethods->xSync(log, SQLITE_SYNC_NORMAL);
    if (r != SQLITE_OK)
        log->pMethods->xTruncate(log, 0);
}

static int empty_log(wq_journal *j, wq_error *error)
{
    sqlite3_file *log = log_of(j);
    int64_t used = (int64_t)j->log_pages * PAGE_BYTES;
    int result = exec(j, "PRAGMA wal_checkpoint(TRUNCATE)", error);
    if (result != WQ_OK)
        return result;
    j->log_pages = 0;
    j->is_untidy = log != NULL && j->syncs && used >= FILL_BYTES; /* filled, until it is quiet */
    if (j->is_untidy)
        fill_log(log, used);
    return WQ_OK;
}

/* Forgets what is too old, and empties the log, which holds tokens of ended jobs; also if nothing
 * can be forgotten, for want of the room that the log has.
 */
static int tidy(wq_journal *j, wq_error *error)
{
    char sql[300];
    /* SQLite's numbers have a sign */
    size_t max_ended = j->max_ended < INT64_MAX ? j->max_ended : INT64_MAX;
    j->tidied = wq_monotonic_ms();
    wq_wall_look(&j->wall);
    snprintf(sql, sizeof sql,
             "DELETE FROM job WHERE state > 0 AND (ended_at < %lld OR"
             " seq IN (SELECT seq FROM job WHERE state > 0"
             " ORDER BY ended_at DESC, seq DESC LIMIT -1 OFFSET %llu))",
             (long long)(j->wall.early - j->retain_ms), (unsigned long long)max_ended);
    int result = exec(j, sql, error), emptied = empty_log(j, result == WQ_OK ? error : NULL);
    if (result != WQ_OK || emptied != WQ_OK)
        j->is_untidy = 1;
    return result != WQ_OK ? result : emptied;
}

static void tidy_if_due(wq_journal *j)
{
    wq_error error;
    if (j->is_untidy && j->tidied + TIDY_MS <= wq_monotonic_ms() && tidy(j, &error) != WQ_OK)
        count_failure(j, &error);
}

/* Until there is something to do. */
static void wait_locked(wq_journal *j)
{
    for (;;) {
        int64_t at = earlier(j->wake_at, j->is_untidy ? j->tidied + TIDY_MS : 0);
        if (j->closing || (at != 0 && at <= wq_monotonic_ms()))
            return;
        struct timespec until = {at / 1000, at % 1000 * 1000000};
        if (at == 0)
            pthread_cond_wait(&j->due, &j->lock);
        else
            pthread_cond_timedwait(&j->due, &j->lock, &until);
    }
}

static void *journal_main(void *arg)
{
    wq_journal *j = arg;
    pthread_mutex_lock(&j->lock);
    for (;;) {
        wait_locked(j);
        int64_t now = wq_monotonic_ms();
        j->begun = now;
        size_t n = take_batch_locked(j, now);
        if (n == 0 && j->closing)
            break;
        pthread_mutex_unlock(&j->lock);
        if (n > 0)
            do_batch(j, n);
        tidy_if_due(j);
        pthread_mutex_lock(&j->lock);
        j->n_batches++;
        pthread_cond_broadcast(&j->settled);
    }
    pthread_mutex_unlock(&j->lock);
    return NULL;
}

/* ---- life ------------------------------------------------------------------------------------ */

static wq_journal *new_journal(wq_queue *queue, const wq_options *o)
{
    wq_journal *j = calloc(1, sizeof *j);
    if (j == NULL)
        return NULL;
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&j->lock, NULL);
    pthread_cond_init(&j->due, &attr);
    pthread_cond_init(&j->settled, NULL);
    pthread_condattr_destroy(&attr);
    TAILQ_INIT(&j->soon);
    TAILQ_INIT(&j->later);
    j->queue = queue;
    j->max_ended = o->max_ended;
    j->retain_ms = o->retain_ended_ms;
    wq_wall_start(&j->wall, j->retain_ms);
    j->max_attempts = o->max_attempts;
    j->syncs = o->sync;
    j->path = strdup(o->journal_path);
    return j;
}

/* What is still listed was put back and then not needed, because opening failed. */
static void free_notes(struct wq_job_notes *notes)
{
    wq_job *job;
    while ((job = TAILQ_FIRST(notes)) != NULL) {
        TAILQ_REMOVE(notes, job, note.link);
        if (job->decided)
            wq_queue_ended(job->queue, job);
        wq_job_unref(job);
    }
}

void wq_journal_close(wq_journal *j)
{
    wq_error error;
    if (j->has_thread) {
        pthread_mutex_lock(&j->lock);
        j->closing = 1;
        pthread_cond_signal(&j->due);
        pthread_mutex_unlock(&j->lock);
        pthread_join(j->thread, NULL);
        if (j->is_untidy && tidy(j, &error) != WQ_OK)
            count_failure(j, &error);
    }
    free_notes(&j->soon);
    free_notes(&j->later);
    for (int i = 0; i < STATEMENTS; i++)
        sqlite3_finalize(j->prepared[i]);
    sqlite3_close(j->db);
    pthread_cond_destroy(&j->due);
    pthread_cond_destroy(&j->settled);
    pthread_mutex_destroy(&j->lock);
    free(j->free_slots);
    free(j->path);
    free(j);
}

int wq_journal_open(wq_journal **out, wq_queue *queue, const wq_options *options, wq_error *error)
{
    wq_journal *j = new_journal(queue, options);
    int result = WQ_ERROR_NO_MEMORY;
    if (j == NULL || j->path == NULL) {
        wq_fail(error, result, "out of memory");
        goto failed;
    }
    queue->journal = j; /* ends of jobs that are put back are noted */
    if ((result = open_db(j, error)) != WQ_OK || (result = restore(j, error)) != WQ_OK)
        goto failed;
    flush(j);
    int r = wq_thread_start(&j->thread, "wq-journal", journal_main, j);
    if (r != 0) {
        result = wq_fail(error, WQ_ERROR_SYSTEM, "pthread_create for the journal: %s", strerror(r));
        goto failed;
    }
    j->has_thread = 1;
    *out = j;
    return WQ_OK;
failed:
    queue->journal = NULL;
    if (j != NULL)
        wq_journal_close(j);
    return result;
}

/* journal_db.c - the SQLite file of a journal: opening and upgrading it, and putting its jobs back.
 *
 * A file that cannot be used is an error that says what is wrong with it, never an empty journal:
 * that would lose jobs without a word.
 */
#include "workqueue/journal/database.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "workqueue/util/clocks.h"
#include "workqueue/util/log.h"

enum {
    APPLICATION = 0x7771316a, /* "wq1j": PRAGMA application_id */
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

/* ---- statements, and why they fail ----------------------------------------------------------- */

sqlite3_file *wq_db_log(wq_db *db)
{
    sqlite3_file *log = NULL;
    int r = sqlite3_file_control(db->sqlite, "main", SQLITE_FCNTL_JOURNAL_POINTER, &log);
    return r == SQLITE_OK && log != NULL && log->pMethods != NULL ? log : NULL;
}

/* Of the last call on one of our two files that failed; 0: none. SQLite itself says after some of
 * them that the file is locked or corrupt, which it is not. */
static int io_errno(wq_db *db)
{
    int number = 0;
    sqlite3_file_control(db->sqlite, "main", SQLITE_FCNTL_LAST_ERRNO, &number);
    sqlite3_file *log = number == 0 ? wq_db_log(db) : NULL;
    if (log != NULL)
        log->pMethods->xFileControl(log, SQLITE_FCNTL_LAST_ERRNO, &number);
    return number;
}

static int fail_io(wq_db *db, int number, wq_error *error)
{
    return wq_fail(error, WQ_ERROR_SYSTEM, "the journal %s: disk I/O error: %s", db->path,
                   strerror(number));
}

int wq_db_fail(wq_db *db, wq_error *error)
{
    int code = sqlite3_errcode(db->sqlite) & 0xff, number = io_errno(db);
    int is_locked = code == SQLITE_BUSY || code == SQLITE_LOCKED;
    int is_io = code == SQLITE_IOERR || code == SQLITE_CANTOPEN;
    if (number == 0 && is_io)
        number = sqlite3_system_errno(db->sqlite);
    if (number != 0 && (is_locked || code == SQLITE_CORRUPT || code == SQLITE_IOERR))
        return fail_io(db, number, error);
    if (is_locked && db->is_ours)
        return wq_fail(error, WQ_ERROR_SYSTEM, "the journal %s: disk I/O error", db->path);
    if (is_locked)
        return wq_fail(error, WQ_ERROR_LOCKED,
                       "the journal %s is in use by another server; give each one of its own",
                       db->path);
    return wq_fail(error, code == SQLITE_NOMEM ? WQ_ERROR_NO_MEMORY : WQ_ERROR_SYSTEM,
                   "the journal %s: %s%s%s", db->path, sqlite3_errmsg(db->sqlite),
                   is_io && number != 0 ? ": " : "", is_io && number != 0 ? strerror(number) : "");
}

static int is_corrupt(wq_db *db, const char *what, wq_error *error)
{
    return wq_fail(error, WQ_ERROR_SYSTEM,
                   "the journal %s is corrupt (%s); move it away to begin without its jobs",
                   db->path, what);
}

int wq_db_exec(wq_db *db, const char *sql, wq_error *error)
{
    return sqlite3_exec(db->sqlite, sql, NULL, NULL, NULL) == SQLITE_OK ? WQ_OK
                                                                        : wq_db_fail(db, error);
}

int wq_db_ask(wq_db *db, const char *sql, int64_t *number, char *text, size_t size, wq_error *error)
{
    sqlite3_stmt *s;
    int result = WQ_OK;
    if (sqlite3_prepare_v2(db->sqlite, sql, -1, &s, NULL) != SQLITE_OK)
        return wq_db_fail(db, error);
    if (sqlite3_step(s) != SQLITE_ROW)
        result = wq_db_fail(db, error);
    else if (text != NULL)
        snprintf(text, size, "%s", (const char *)sqlite3_column_text(s, 0));
    else
        *number = sqlite3_column_int64(s, 0);
    sqlite3_finalize(s);
    return result;
}

/* ---- opening --------------------------------------------------------------------------------- */

static int sync_folder(wq_db *db, wq_error *error)
{
    char copy[PATH_MAX];
    snprintf(copy, sizeof copy, "%s", db->path);
    int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int r = fd < 0 ? -1 : fsync(fd);
    if (r != 0)
        wq_fail(error, WQ_ERROR_SYSTEM, "sync the folder of the journal %s: %s", db->path,
                strerror(errno));
    if (fd >= 0)
        close(fd);
    return r == 0 ? WQ_OK : WQ_ERROR_SYSTEM;
}

/* Made by us, because SQLite would have the umask decide who may read it; what SQLite puts beside
 * it gets its mode. */
static int make_file(wq_db *db, wq_error *error)
{
    int fd = open(db->path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return wq_fail(error, WQ_ERROR_SYSTEM, "create the journal %s: %s", db->path,
                       strerror(errno));
    int r = fchmod(fd, 0600);
    if (r != 0)
        wq_fail(error, WQ_ERROR_SYSTEM, "chmod the journal %s: %s", db->path, strerror(errno));
    close(fd);
    return r == 0 ? sync_folder(db, error) : WQ_ERROR_SYSTEM;
}

/* SQLite needs both, for its log, and would say something else of it. */
static int check_writable(wq_db *db, wq_error *error)
{
    char copy[PATH_MAX];
    snprintf(copy, sizeof copy, "%s", db->path);
    if (faccessat(AT_FDCWD, db->path, R_OK | W_OK, AT_EACCESS) != 0)
        return wq_fail(error, WQ_ERROR_SYSTEM, "the journal %s cannot be written to: %s", db->path,
                       strerror(errno));
    if (faccessat(AT_FDCWD, dirname(copy), W_OK, AT_EACCESS) != 0)
        return wq_fail(error, WQ_ERROR_SYSTEM,
                       "the folder of the journal %s cannot be written to: %s", db->path,
                       strerror(errno));
    return WQ_OK;
}

/* An existing file is not opened by us: to close it would drop the locks that another queue of this
 * process may have on it. A log without its file is what is left of a journal that was lost, and
 * SQLite would delete it. */
static int prepare_file(wq_db *db, wq_error *error)
{
    char log[PATH_MAX];
    struct stat st, log_st;
    if (snprintf(log, sizeof log, "%s-wal", db->path) >= (int)sizeof log)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "options: journal_path is too long");
    int there = lstat(db->path, &st) == 0;
    if (!there && errno != ENOENT)
        return wq_fail(error, WQ_ERROR_SYSTEM, "stat the journal %s: %s", db->path,
                       strerror(errno));
    if (there && !S_ISREG(st.st_mode))
        return wq_fail(error, WQ_ERROR_SYSTEM, "the journal %s is not a regular file", db->path);
    if ((!there || st.st_size == 0) && stat(log, &log_st) == 0 && log_st.st_size > 0)
        return is_corrupt(db, "it is empty or missing, but its -wal file is there", error);
    if (there && st.st_size == 1) /* which SQLite takes for empty */
        return is_corrupt(db, "it is cut off", error);
    if (!there)
        return make_file(db, error);
    int result = check_writable(db, error);
    if (result == WQ_OK && (st.st_mode & 077) != 0 && chmod(db->path, 0600) != 0)
        result =
            wq_fail(error, WQ_ERROR_SYSTEM, "chmod the journal %s: %s", db->path, strerror(errno));
    return result;
}

/* What is locked once stays so, in the mode that is set. */
static int take_file(wq_db *db, wq_error *error)
{
    int result = wq_db_exec(db, "BEGIN EXCLUSIVE; COMMIT", error);
    db->is_ours = result == WQ_OK;
    return result;
}

/* The hook of every commit. */
static int note_log(void *user, sqlite3 *sqlite, const char *name, int pages)
{
    (void)sqlite, (void)name;
    ((wq_db *)user)->log_pages = pages;
    return SQLITE_OK;
}

static int set_up(wq_db *db, int syncs, wq_error *error)
{
    char mode[16];
    int result = wq_db_exec(db, "PRAGMA secure_delete = ON", error);
    if (result == WQ_OK)
        result = wq_db_ask(db, "PRAGMA journal_mode = WAL", NULL, mode, sizeof mode, error);
    if (result == WQ_OK && strcmp(mode, "wal") != 0)
        result = wq_fail(error, WQ_ERROR_SYSTEM,
                         "the journal %s: no write-ahead log is possible here", db->path);
    /* instead of SQLite's own, which would checkpoint */
    sqlite3_wal_hook(db->sqlite, note_log, db);
    if (result == WQ_OK)
        result = wq_db_exec(db, syncs ? "PRAGMA synchronous = FULL" : "PRAGMA synchronous = NORMAL",
                            error);
    return result;
}

static int upgrade(wq_db *db, int64_t version, wq_error *error)
{
    char sql[80];
    int result = WQ_OK;
    for (; version < VERSION && result == WQ_OK; version++) {
        snprintf(sql, sizeof sql, "PRAGMA application_id = %d; PRAGMA user_version = %d",
                 (int)APPLICATION, (int)version + 1);
        result = wq_db_exec(db, "BEGIN EXCLUSIVE", error);
        if (result == WQ_OK)
            result = wq_db_exec(db, upgrades[version], error);
        if (result == WQ_OK)
            result = wq_db_exec(db, sql, error);
        if (result == WQ_OK)
            result = wq_db_exec(db, "COMMIT", error);
    }
    return result;
}

/* A page that cannot be read is one that the check finds wrong. */
static int check_pages(wq_db *db, wq_error *error)
{
    char said[120];
    int result = wq_db_ask(db, "PRAGMA quick_check(1)", NULL, said, sizeof said, error);
    if (result != WQ_OK || strcmp(said, "ok") == 0)
        return result;
    if (io_errno(db) != 0)
        return fail_io(db, io_errno(db), error);
    for (char *c = said; (c = strchr(c, '\n')) != NULL;)
        *c = ' ';
    return is_corrupt(db, said, error);
}

/* Is it ours, whole, and of a version that we know? */
static int check_file(wq_db *db, int64_t *version, wq_error *error)
{
    int64_t application = 0, tables = 0;
    int result = wq_db_ask(db, "PRAGMA application_id", &application, NULL, 0, error);
    if (result == WQ_OK)
        result = wq_db_ask(db, "PRAGMA user_version", version, NULL, 0, error);
    if (result == WQ_OK)
        result = wq_db_ask(db, "SELECT count(*) FROM sqlite_master", &tables, NULL, 0, error);
    if (result != WQ_OK)
        return result;
    int is_new = application == 0 && *version == 0 && tables == 0;
    if (!is_new && (application != APPLICATION || *version < 1))
        return wq_fail(error, WQ_ERROR_SYSTEM, "%s is no journal of a queue", db->path);
    if (*version > VERSION)
        return wq_fail(error, WQ_ERROR_SYSTEM,
                       "the journal %s is of the newer version %lld, and this library knows those "
                       "up to %d; use the library that has written it, or one that is newer",
                       db->path, (long long)*version, (int)VERSION);
    if (sqlite3_db_readonly(db->sqlite, "main"))
        return wq_fail(error, WQ_ERROR_SYSTEM, "the journal %s cannot be written to", db->path);
    return check_pages(db, error);
}

/* SQLite knows its whole path, whatever folder the host works in by now. One that we only may not
 * look for any more is there. */
static ino_t inode_of(const wq_db *db)
{
    struct stat st;
    if (stat(sqlite3_db_filename(db->sqlite, "main"), &st) == 0)
        return st.st_ino;
    return errno == ENOENT || errno == ENOTDIR ? 0 : db->inode;
}

int wq_db_open(wq_db *db, const char *path, int syncs, wq_error *error)
{
    int64_t version = 0;
    db->path = strdup(path);
    if (db->path == NULL)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    int result = prepare_file(db, error);
    if (result != WQ_OK)
        return result;
    int r =
        sqlite3_open_v2(db->path, &db->sqlite, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
    if (db->sqlite == NULL)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    if (r != SQLITE_OK)
        return wq_db_fail(db, error);
    sqlite3_extended_result_codes(db->sqlite, 1);
    sqlite3_busy_timeout(db->sqlite, IN_USE_MS);
    result = wq_db_exec(db, "PRAGMA locking_mode = EXCLUSIVE", error);
    if (result == WQ_OK)
        result = check_file(db, &version, error);
    if (result == WQ_OK)
        result = take_file(db, error);
    if (result == WQ_OK)
        result = set_up(db, syncs, error);
    db->inode = inode_of(db);
    return result == WQ_OK ? upgrade(db, version, error) : result;
}

int wq_db_check_there(const wq_db *db, wq_error *error)
{
    if (inode_of(db) == db->inode)
        return WQ_OK;
    return wq_fail(error, WQ_ERROR_SYSTEM,
                   "the journal %s has been removed or replaced; put it back, or start again to "
                   "begin without its jobs",
                   db->path);
}

void wq_db_close(wq_db *db)
{
    sqlite3_close(db->sqlite);
    free(db->path);
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

/* Where the rows go. */
typedef struct target {
    wq_db *db;
    wq_queue *queue;
    unsigned max_attempts;
} target;

/* A row as a job, or NULL. */
static wq_job *read_job(const target *to, sqlite3_stmt *s, int unfinished, wq_error *error)
{
    char token[WQ_SLOT_BYTES + 1] = "", key[WQ_KEY_SIZE];
    const void *bytes = sqlite3_column_blob(s, TOKEN);
    size_t n = (size_t)sqlite3_column_bytes(s, TOKEN);
    if (unfinished && bytes != NULL && n <= WQ_SLOT_BYTES)
        memcpy(token, bytes, n);
    wq_params params = {text_of(s, SERVER), text_of(s, DOCUMENT_SET_ID), token};
    int is_whole = is_id(text_of(s, ID)) && strlen(text_of(s, KEY)) == WQ_KEY_SIZE - 1;
    if (is_whole && unfinished)
        is_whole = wq_params_key(&params, key) == WQ_OK && strcmp(key, text_of(s, KEY)) == 0;
    else if (is_whole)
        is_whole = is_end(s);
    if (!is_whole) {
        is_corrupt(to->db, "a job in it makes no sense", error);
        return NULL;
    }
    wq_job *job = wq_job_new(to->queue, &params, text_of(s, KEY));
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
static void give_up(const target *to, wq_job *job, int attempts)
{
    char why[200];
    snprintf(why, sizeof why,
             "the server ended unexpectedly while this job ran, %d time%s; it is not tried again",
             attempts, attempts == 1 ? "" : "s");
    wq_log(&to->queue->logger, WQ_LOG_WARNING, "job %s: %s", job->id, why);
    wq_queue_finish(to->queue, job, WQ_STATE_FAILED, -999, why);
}

/* Beyond what any watcher has seen of it, also of a run that was stopped or whose start was not
 * noted any more, and so is no attempt: of no job are there as many changes as microseconds. */
static uint64_t version_beyond(int attempts, int64_t queued_at_ms)
{
    int64_t age_ms = wq_unix_ms() - queued_at_ms;
    return ((uint64_t)attempts << 48) + (age_ms > 0 ? (uint64_t)age_ms << 10 : 0);
}

static int put_back(const target *to, sqlite3_stmt *s, wq_error *error)
{
    wq_queue *queue = to->queue;
    wq_job *job = read_job(to, s, 1, error);
    if (job == NULL)
        return error ? error->code : WQ_ERROR_SYSTEM;
    int attempts = sqlite3_column_int(s, ATTEMPTS);
    job->was_journalled = 1;
    job->version = version_beyond(attempts, job->queued_at_ms);
    int result = wq_queue_put_back(queue, job, error);
    /* what runs elsewhere is not why a server died, and its runner knows what has become of it */
    int ran_here = attempts > 0 && !queue->asynchronous;
    if (result == WQ_OK && ran_here && wq_queue_is_in_place(queue, job))
        wq_queue_finish(queue, job, WQ_STATE_SUCCEEDED, 0, NULL);
    else if (result == WQ_OK && ran_here && attempts >= (int)to->max_attempts)
        give_up(to, job, attempts);
    wq_job_unref(job);
    return result;
}

static int put_back_ended(const target *to, sqlite3_stmt *s, wq_error *error)
{
    wq_job *job = read_job(to, s, 0, error);
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
    int result = wq_queue_put_back_ended(to->queue, job);
    wq_job_unref(job);
    return result == WQ_OK ? WQ_OK : wq_fail(error, result, "out of memory");
}

static int for_each(const target *to, const char *sql, int64_t limit,
                    int (*each)(const target *to, sqlite3_stmt *s, wq_error *error),
                    wq_error *error)
{
    sqlite3_stmt *s;
    int result = WQ_OK, r = SQLITE_DONE;
    if (sqlite3_prepare_v2(to->db->sqlite, sql, -1, &s, NULL) != SQLITE_OK)
        return wq_db_fail(to->db, error);
    sqlite3_bind_int64(s, 1, limit);
    while (result == WQ_OK && (r = sqlite3_step(s)) == SQLITE_ROW)
        result = each(to, s, error);
    if (result == WQ_OK && r != SQLITE_DONE)
        result = wq_db_fail(to->db, error);
    sqlite3_finalize(s);
    return result;
}

int wq_db_put_back(wq_db *db, wq_queue *queue, unsigned max_attempts, wq_error *error)
{
    const target to = {db, queue, max_attempts};
    int result = for_each(&to, COLUMNS "WHERE state <> 0 ORDER BY ended_at, seq LIMIT ?1", -1,
                          put_back_ended, error);
    if (result == WQ_OK)
        result =
            for_each(&to, COLUMNS "WHERE state = 0 ORDER BY seq LIMIT ?1", -1, put_back, error);
    return result;
}

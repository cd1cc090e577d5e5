/* database.c - the SQLite file of a journal: opening, checking and upgrading it.
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
    /* long errors apart, an index by age, and room for long tokens */
    "CREATE TABLE error (seq INTEGER PRIMARY KEY, size INTEGER NOT NULL, bytes TEXT NOT NULL);"
    "INSERT INTO error SELECT seq, length(CAST(error AS BLOB)), error FROM job"
    " WHERE length(error) > 512;"
    "UPDATE job SET error = substr(error, 1, 512) WHERE length(error) > 512;"
    "CREATE INDEX job_ended ON job (ended_at, seq) WHERE state > 0;"
    "CREATE TABLE long_token (slot INTEGER PRIMARY KEY, bytes BLOB NOT NULL);"
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 16)"
    " INSERT INTO long_token SELECT i, zeroblob(4096) FROM n;",
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

/* log.c - a ring of bytes between those who have something to say and the thread that writes it.
 *
 *   log_write(), any thread          writer thread
 *   lock; copy into the ring,        lock; wait until used > 0; unlock
 *   or count it as dropped; unlock   write(2) of a piece, which may block for ever
 *                                    lock; used -= piece; unlock
 *
 * Only the writer moves the beginning of the ring, so it may write from it without the lock. */
#include "workqueue/command/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <workqueue/workqueue.h>

enum {
    RING_BYTES = 256 << 10,
    LINE_BYTES = 4096,      /* a line is cut there */
    STANDS_STILL_MS = 5000, /* a write that lasts so long */
    CLOSE_WAIT_MS = 1000,
};

struct event_log {
    log_settings settings;
    int to_journal;
    pthread_t writer;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* under it */
    size_t begin, used;
    uint64_t dropped, dropped_told;
    int64_t writing_since_ms; /* 0: no write is under way */
    int closing, writer_gone;
    char ring[RING_BYTES];
};

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* ---- a line ---------------------------------------------------------------------------------- */

const char *log_quote(char *buf, size_t size, const char *text)
{
    size_t n = 0;
    if (size < 8)
        return "";
    buf[n++] = '"';
    for (; *text != '\0' && n + 4 < size; text++) {
        if (*text == '"' || *text == '\\')
            buf[n++] = '\\';
        buf[n++] = *text >= ' ' && *text <= '~' ? *text : '?';
    }
    buf[n++] = '"';
    buf[n] = '\0';
    return buf;
}

/* Reads one KEY=VALUE from `*text`; the value is with its quotes. 0: there is none. */
static int next_field(const char **text, const char **key, size_t *n_key, const char **value,
                      size_t *n_value)
{
    const char *s = *text + strspn(*text, " ");
    *key = s;
    *n_key = strspn(s, "abcdefghijklmnopqrstuvwxyz_");
    if (*n_key == 0 || s[*n_key] != '=')
        return 0;
    s += *n_key + 1;
    *value = s;
    if (*s == '"')
        for (s++; *s != '\0' && *s != '"'; s++)
            s += *s == '\\' && s[1] != '\0';
    else
        s += strcspn(s, " ");
    s += *s == '"';
    *n_value = (size_t)(s - *value);
    *text = s;
    return 1;
}

static int is_number(const char *value, size_t n)
{
    size_t i = n > 1 && value[0] == '-';
    if (i == n || n > 15 || (value[i] == '0' && n > i + 1))
        return 0;
    for (; i < n; i++)
        if (value[i] < '0' || value[i] > '9')
            return 0;
    return 1;
}

/* Escapes of a quoted value are JSON's own; what stands bare has neither quote nor backslash. */
static void print_json(FILE *out, const char *time, const char *level, const char *fields)
{
    const char *key, *value;
    size_t n_key, n_value;
    fprintf(out, "{\"time\":\"%s\",\"level\":\"%s\"", time, level);
    while (next_field(&fields, &key, &n_key, &value, &n_value)) {
        int bare = n_value > 0 && (value[0] == '"' || is_number(value, n_value));
        fprintf(out, bare ? ",\"%.*s\":%.*s" : ",\"%.*s\":\"%.*s\"", (int)n_key, key, (int)n_value,
                value);
    }
    fputs("}\n", out);
}

/* `fields` is key=value; the priorities are syslog's, in the form that journald reads. */
static size_t format_line(const event_log *log, char *buf, size_t size, int level,
                          const char *fields)
{
    static const char *const names[] = {"error", "warning", "info"};
    static const int priorities[] = {3, 4, 6};
    struct timespec now;
    struct tm utc;
    char time[40], day[24];
    FILE *out = fmemopen(buf, size, "w");
    if (out == NULL)
        return 0;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", &utc);
    snprintf(time, sizeof time, "%s.%03ldZ", day, now.tv_nsec / 1000000);
    if (log->to_journal)
        fprintf(out, "<%d>", priorities[level]);
    if (log->settings.json)
        print_json(out, time, names[level], fields);
    else if (log->to_journal)
        fprintf(out, "%s\n", fields);
    else
        fprintf(out, "%s level=%s %s\n", time, names[level], fields);
    fflush(out);
    long n = ftell(out);
    fclose(out);
    return n > 0 ? (size_t)n : 0;
}

/* ---- into the ring --------------------------------------------------------------------------- */

static void put_bytes(event_log *log, const char *bytes, size_t n) /* under the lock */
{
    size_t at = (log->begin + log->used) % RING_BYTES;
    size_t first = n < RING_BYTES - at ? n : RING_BYTES - at;
    memcpy(log->ring + at, bytes, first);
    memcpy(log->ring, bytes + first, n - first);
    log->used += n;
}

static void put_line(event_log *log, int level, const char *fields)
{
    char line[LINE_BYTES + 64], lost[LINE_BYTES], text[64];
    size_t n = format_line(log, line, sizeof line, level, fields), n_lost = 0;
    pthread_mutex_lock(&log->lock);
    if (log->dropped != log->dropped_told) {
        snprintf(text, sizeof text, "event=log_dropped lines=%llu",
                 (unsigned long long)(log->dropped - log->dropped_told));
        n_lost = format_line(log, lost, sizeof lost, WQ_LOG_WARNING, text);
    }
    if (n + n_lost <= RING_BYTES - log->used) {
        put_bytes(log, lost, n_lost);
        put_bytes(log, line, n);
        log->dropped_told = log->dropped;
        pthread_cond_broadcast(&log->changed);
    } else {
        log->dropped++;
    }
    pthread_mutex_unlock(&log->lock);
}

void log_write(void *user, int level, const char *message)
{
    event_log *log = user;
    char quoted[LINE_BYTES - 256], fields[LINE_BYTES - 128];
    level = level < WQ_LOG_ERROR || level > WQ_LOG_INFO ? WQ_LOG_INFO : level;
    if (log == NULL || level > log->settings.level)
        return;
    if (strncmp(message, "event=", 6) == 0)
        snprintf(fields, sizeof fields, "%s", message);
    else
        snprintf(fields, sizeof fields, "event=message msg=%s",
                 log_quote(quoted, sizeof quoted, message));
    put_line(log, level, fields);
}

void log_event(event_log *log, int level, const char *format, ...)
{
    char fields[LINE_BYTES - 128];
    va_list args;
    if (log == NULL || level > log->settings.level)
        return;
    va_start(args, format);
    vsnprintf(fields, sizeof fields, format, args);
    va_end(args);
    put_line(log, level, fields);
}

/* ---- the writer ------------------------------------------------------------------------------ */

static void *write_lines(void *arg)
{
    event_log *log = arg;
    pthread_mutex_lock(&log->lock);
    for (;;) {
        while (log->used == 0 && !log->closing)
            pthread_cond_wait(&log->changed, &log->lock);
        if (log->used == 0)
            break;
        size_t n = log->used < RING_BYTES - log->begin ? log->used : RING_BYTES - log->begin;
        n = n < LINE_BYTES ? n : LINE_BYTES; /* a pipe takes that at once */
        log->writing_since_ms = now_ms();
        pthread_mutex_unlock(&log->lock);
        ssize_t written = write(STDERR_FILENO, log->ring + log->begin, n);
        int gone = written < 0 && errno != EINTR && errno != EAGAIN;
        pthread_mutex_lock(&log->lock);
        log->writing_since_ms = 0;
        /* Where nobody can read it any more there is nothing to wait for. */
        size_t done = gone ? n : written > 0 ? (size_t)written : 0;
        log->begin = (log->begin + done) % RING_BYTES;
        log->used -= done;
    }
    log->writer_gone = 1;
    pthread_cond_broadcast(&log->changed);
    pthread_mutex_unlock(&log->lock);
    return NULL;
}

const char *log_trouble(event_log *log, char *buf, size_t size)
{
    const char *trouble = NULL;
    pthread_mutex_lock(&log->lock);
    if (log->writing_since_ms != 0 && now_ms() - log->writing_since_ms > STANDS_STILL_MS)
        snprintf(buf, size, "Nobody reads the log (stderr); %llu lines were dropped.",
                 (unsigned long long)log->dropped),
            trouble = buf;
    pthread_mutex_unlock(&log->lock);
    return trouble;
}

/* ---- open and close -------------------------------------------------------------------------- */

/* systemd says which socket is the journal, and that may be another than our stderr. */
static int stderr_is_journal(void)
{
    unsigned long long device, inode;
    struct stat st;
    const char *stream = getenv("JOURNAL_STREAM");
    return stream != NULL && sscanf(stream, "%llu:%llu", &device, &inode) == 2 &&
           fstat(STDERR_FILENO, &st) == 0 && (unsigned long long)st.st_dev == device &&
           (unsigned long long)st.st_ino == inode;
}

event_log *log_open(const log_settings *settings)
{
    event_log *log = calloc(1, sizeof *log);
    pthread_condattr_t attr;
    if (log == NULL)
        return NULL;
    log->settings = *settings;
    log->to_journal = stderr_is_journal();
    pthread_mutex_init(&log->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&log->changed, &attr);
    pthread_condattr_destroy(&attr);
    if (pthread_create(&log->writer, NULL, write_lines, log) == 0)
        return log;
    free(log);
    return NULL;
}

void log_close(event_log *log)
{
    struct timespec until;
    if (log == NULL)
        return;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += CLOSE_WAIT_MS / 1000;
    pthread_mutex_lock(&log->lock);
    log->closing = 1;
    pthread_cond_broadcast(&log->changed);
    while (!log->writer_gone &&
           pthread_cond_timedwait(&log->changed, &log->lock, &until) != ETIMEDOUT)
        continue;
    int gone = log->writer_gone;
    pthread_mutex_unlock(&log->lock);
    if (!gone) {
        pthread_detach(log->writer); /* stuck in write(2): it ends with the process, log and all */
        return;
    }
    pthread_join(log->writer, NULL);
    pthread_cond_destroy(&log->changed);
    pthread_mutex_destroy(&log->lock);
    free(log);
}

/* log.h - the log of a command: lines of key=value on stderr, or JSON, or journald's form. Nobody
 * waits for it: lines go into a bounded buffer, a thread writes them, and what finds no room is
 * counted. */
#ifndef WQ_COMMAND_LOG_H
#define WQ_COMMAND_LOG_H

#include <stddef.h>
#include <stdint.h>

typedef struct log_settings {
    int level; /* a wq_log_level: what is told, and what is worse */
    int json;
} log_settings;

typedef struct event_log event_log;

/* Starts the thread; NULL if it cannot. Close it with log_close(). */
event_log *log_open(const log_settings *settings);

/* Writes what is buffered, for a second at most if nobody reads it, and frees the log. */
void log_close(event_log *log);

/* A wq_log_cb, `user` being the log: a line of the library. One that begins with "event=" is
 * key=value already; any other is a sentence, and becomes the value of msg. */
void log_write(void *user, int level, const char *message);

/* A line of ours: `format` gives its key=value. */
void log_event(event_log *log, int level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* `text` in quotes, where a value needs them, in `buf`; cut where it is too long. Returns buf. */
const char *log_quote(char *buf, size_t size, const char *text);

/* What is wrong with the log, a sentence in `buf`, or NULL: nothing. Lines that were dropped since
 * the start, and whether it stands still now. */
const char *log_trouble(event_log *log, char *buf, size_t size);

#endif

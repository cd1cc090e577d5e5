/* meter.c - a bar on a terminal, lines elsewhere. */
#include "workqueue/command/meter.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { BAR_CELLS = 24, LEAST_COLUMNS = 40, MOST_METER_COLUMNS = 160 };

static int is_utf8(void)
{
    static const char *const names[] = {"LC_ALL", "LC_CTYPE", "LANG"};
    for (int i = 0; i < 3; i++) {
        const char *value = getenv(names[i]);
        if (value != NULL && *value != '\0')
            return strcasestr(value, "utf-8") != NULL || strcasestr(value, "utf8") != NULL;
    }
    return 0;
}

void meter_begin(meter *m)
{
    const char *term = getenv("TERM");
    memset(m, 0, sizeof *m);
    pthread_mutex_init(&m->lock, NULL);
    m->on_terminal = isatty(STDERR_FILENO) && (term == NULL || strcmp(term, "dumb") != 0);
    m->wide_characters = is_utf8();
    m->percent = -1;
}

static int terminal_columns(void)
{
    struct winsize size;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col < LEAST_COLUMNS)
        return LEAST_COLUMNS * 2;
    return size.ws_col < MOST_METER_COLUMNS ? size.ws_col : MOST_METER_COLUMNS;
}

/* At most `columns` characters of `text`, with nothing in it that moves a cursor. */
static void put_plain(const char *text, int columns)
{
    for (; *text != '\0' && columns > 0; text++) {
        unsigned char c = (unsigned char)*text;
        fputc(c < ' ' || c == 127 ? ' ' : c, stderr);
        columns -= (text[1] & 0xc0) != 0x80; /* the next byte begins a character */
    }
}

static void format_elapsed(char *buf, size_t size, uint64_t ms)
{
    unsigned long long s = ms / 1000;
    if (s >= 3600)
        snprintf(buf, size, "%llu:%02llu:%02llu", s / 3600, s / 60 % 60, s % 60);
    else
        snprintf(buf, size, "%llu:%02llu", s / 60, s % 60);
}

static void draw_bar(meter *m, uint64_t ahead, double fraction, uint64_t elapsed_ms,
                     const char *message)
{
    const char *full = m->wide_characters ? "█" : "#", *rest = m->wide_characters ? "░" : "-";
    char elapsed[32], percent[16] = "  ...";
    int filled = fraction > 0 ? (int)(fraction * BAR_CELLS) : 0;
    format_elapsed(elapsed, sizeof elapsed, elapsed_ms);
    if (fraction >= 0)
        snprintf(percent, sizeof percent, "%3d %%", (int)(fraction * 100));
    fputc('\r', stderr);
    for (int i = 0; i < BAR_CELLS; i++)
        fputs(i < filled ? full : rest, stderr);
    int n = fprintf(stderr, " %s  %s  ", percent, elapsed);
    if (ahead > 0)
        fprintf(stderr, "%llu ahead in the queue", (unsigned long long)ahead);
    else
        put_plain(message, terminal_columns() - BAR_CELLS - n - 1);
    fputs("\033[K", stderr);
    fflush(stderr);
    m->drawn = 1;
}

/* A line where there is news of it: the percentage or the message. */
static void print_line(meter *m, uint64_t ahead, double fraction, const char *message)
{
    int percent = fraction >= 0 ? (int)(fraction * 100) : -1;
    char text[sizeof m->message];
    if (ahead > 0)
        snprintf(text, sizeof text, "%llu ahead in the queue", (unsigned long long)ahead);
    else
        snprintf(text, sizeof text, "%s", message);
    if (percent == m->percent && strcmp(text, m->message) == 0)
        return;
    m->percent = percent;
    memcpy(m->message, text, sizeof text);
    if (percent >= 0 && ahead == 0)
        fprintf(stderr, "%3d %%%s", percent, *text ? "  " : "");
    put_plain(text, (int)sizeof text);
    fputc('\n', stderr);
}

void meter_show_values(meter *m, uint64_t ahead, double fraction, uint64_t elapsed_ms,
                       const char *message)
{
    pthread_mutex_lock(&m->lock);
    if (m->on_terminal)
        draw_bar(m, ahead, fraction, elapsed_ms, message ? message : "");
    else if (fraction >= 0 || ahead > 0 || (message != NULL && *message != '\0'))
        print_line(m, ahead, fraction, message ? message : "");
    pthread_mutex_unlock(&m->lock);
}

void meter_show(meter *m, const wq_snapshot *now)
{
    int silent = now->version == 0 || (now->reached <= 0 && now->message == NULL);
    int failed = now->state == WQ_STATE_FAILED || now->state == WQ_STATE_CANCELLED;
    double fraction = failed ? now->reached : now->fraction;
    meter_show_values(m, now->n_ahead_in_queue, silent && fraction <= 0 ? -1 : fraction,
                      now->ran_ms, now->message);
}

void meter_end(meter *m)
{
    pthread_mutex_lock(&m->lock);
    if (m->drawn)
        fputc('\n', stderr);
    m->drawn = 0;
    pthread_mutex_unlock(&m->lock);
}

void meter_say(meter *m, const char *format, ...)
{
    va_list args;
    meter_end(m);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
}

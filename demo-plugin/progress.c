/* progress.c - "4485/11204<TAB>4,485 of 11,204 documents, 215 a second, about 32 s left" */
#include "progress.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "clock.h"

enum {
    BURST_LINES = 32,     /* so many lines come as fast as they can, */
    LINE_EVERY_MS = 50,   /* then one in so many milliseconds */
    RATE_EVERY_MS = 1000, /* the rate is worked out so often, */
    RATE_OF_LATE_S = 8    /* and forgets what was long before */
};

void progress_begin(struct progress *progress)
{
    memset(progress, 0, sizeof *progress);
    progress->begin_ms = progress->rated_ms = clock_ms();
    progress_say(progress, "asking for the documents");
}

static void print_line(struct progress *progress, const char *message)
{
    if (progress->total > 0)
        printf("%llu/%llu\t%s\n", (unsigned long long)progress->done,
               (unsigned long long)progress->total, message);
    else
        printf("0\t%s\n", message);
    fflush(stdout);
    progress->n_lines++;
    progress->last_line_ms = clock_ms();
}

void progress_say(struct progress *progress, const char *message)
{
    print_line(progress, message);
}

/* "12,345" */
static const char *group_digits(char *out, uint64_t number)
{
    char digits[24];
    int n = snprintf(digits, sizeof digits, "%llu", (unsigned long long)number), at = 0;
    for (int i = 0; i < n; i++) {
        if (i > 0 && (n - i) % 3 == 0)
            out[at++] = ',';
        out[at++] = digits[i];
    }
    out[at] = '\0';
    return out;
}

static void work_out_rate(struct progress *progress, uint64_t done)
{
    int64_t now = clock_ms();
    double seconds = (double)(now - progress->rated_ms) / 1000;
    if (now - progress->rated_ms < RATE_EVERY_MS)
        return;
    double rate = (double)(done - progress->rated_done) / seconds;
    double keep = progress->rate > 0 ? exp(-seconds / RATE_OF_LATE_S) : 0;
    progress->rate = keep * progress->rate + (1 - keep) * rate;
    progress->rated_ms = now;
    progress->rated_done = done;
}

/* Rounded up, and no more exact than it can be. */
static int describe_rest(char *out, size_t size, double seconds)
{
    if (seconds < 90)
        return snprintf(out, size, ", about %.0f s left", ceil(seconds));
    if (seconds < 5400)
        return snprintf(out, size, ", about %.0f min left", ceil(seconds / 60));
    return snprintf(out, size, ", about %.0f h left", ceil(seconds / 3600));
}

void progress_tell(struct progress *progress, uint64_t done, uint64_t total)
{
    char message[192], a[32], b[32], rate[32];
    if (progress->n_lines > BURST_LINES && clock_ms() - progress->last_line_ms < LINE_EVERY_MS)
        return;
    progress->done = done;
    progress->total = total > 0 && done > total ? done : total;
    work_out_rate(progress, done);
    size_t n =
        (size_t)(total > 0
                     ? snprintf(message, sizeof message, "%s of %s documents",
                                group_digits(a, done), group_digits(b, progress->total))
                     : snprintf(message, sizeof message, "%s documents", group_digits(a, done)));
    if (progress->rate >= 1)
        n += (size_t)snprintf(message + n, sizeof message - n, ", %s a second",
                              group_digits(rate, (uint64_t)progress->rate));
    if (progress->rate > 0 && total > done)
        describe_rest(message + n, sizeof message - n, (double)(total - done) / progress->rate);
    print_line(progress, message);
}

void progress_left_out(struct progress *progress, const char *name, const char *why)
{
    if (progress->n_left_out++ == 0)
        snprintf(progress->first_left_out, sizeof progress->first_left_out, "%.160s, as %.80s",
                 name, why);
}

void progress_end(struct progress *progress, uint64_t done)
{
    char message[384], a[32], b[32];
    int n = snprintf(message, sizeof message, "indexed %s documents", group_digits(a, done));
    if (progress->n_left_out == 1)
        snprintf(message + n, sizeof message - (size_t)n, "; left out: %s",
                 progress->first_left_out);
    else if (progress->n_left_out > 1)
        snprintf(message + n, sizeof message - (size_t)n, "; left out %s, the first: %s",
                 group_digits(b, progress->n_left_out), progress->first_left_out);
    progress->done = progress->total = done; /* what was announced does not matter any more */
    print_line(progress, message);
}

void progress_copy_name(char *out, size_t size, const char *name, size_t len)
{
    if (len > size - 1) {
        len = size - 1;
        while (len > 0 && ((unsigned char)name[len] & 0xc0) == 0x80)
            len--;
    }
    for (size_t i = 0; i < len; i++)
        out[i] = (unsigned char)name[i] < 0x20 || name[i] == 0x7f ? ' ' : name[i];
    out[len] = '\0';
}

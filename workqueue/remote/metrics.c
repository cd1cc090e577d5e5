/* metrics.c - what a packager does, as a text for Prometheus. */
#include "workqueue/remote/metrics.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void write_row(FILE *file, const char *name, const char *type, const char *help,
                      uint64_t value)
{
    fprintf(file, "# HELP workqueue_packager_%s %s\n# TYPE workqueue_packager_%s %s\n", name, help,
            name, type);
    fprintf(file, "workqueue_packager_%s %" PRIu64 "\n", name, value);
}

void wq_packager_write_rows(FILE *file, const wq_packager_stats *s)
{
    write_row(file, "connected", "gauge", "1 while the broker is there", s->is_connected != 0);
    write_row(file, "store_usable", "gauge", "0 while no jobs are taken as the store is away",
              s->is_away == 0);
    write_row(file, "running", "gauge", "jobs that run", s->running);
    write_row(file, "renewal_age_milliseconds", "gauge",
              "since the oldest of the last good renewals of leases", s->renewal_age_ms);
    write_row(file, "claimed_total", "counter", "leases taken", s->claimed);
    write_row(file, "taken_over_total", "counter", "of them from packagers that had gone",
              s->taken_over);
    write_row(file, "put_off_total", "counter", "requests that come again later", s->put_off);
    write_row(file, "fenced_total", "counter", "runs whose lease was lost", s->fenced);
    write_row(file, "succeeded_total", "counter", "runs that succeeded", s->succeeded);
    write_row(file, "failed_total", "counter", "runs that failed", s->failed);
    write_row(file, "cancelled_total", "counter", "requests that were cancelled", s->cancelled);
    write_row(file, "dead_letters_total", "counter", "messages that were no jobs", s->dead_letters);
    write_row(file, "connections_total", "counter", "connections to the broker so far",
              s->connections);
}

int wq_packager_write_metrics(const wq_packager_stats *stats, const char *path)
{
    char *temp = NULL;
    if (asprintf(&temp, "%s.%d", path, (int)getpid()) < 0)
        return -1;
    FILE *file = fopen(temp, "we");
    int ok = file != NULL;
    if (ok)
        wq_packager_write_rows(file, stats);
    ok = ok && fclose(file) == 0 && rename(temp, path) == 0;
    if (!ok)
        unlink(temp);
    free(temp);
    return ok ? 0 : -1;
}

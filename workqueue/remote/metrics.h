/* metrics.h - what a packager does, as a text for Prometheus. */
#ifndef WQ_REMOTE_METRICS_H
#define WQ_REMOTE_METRICS_H

#include <stdio.h>

#include "workqueue/remote/packager.h"

void wq_packager_write_rows(FILE *out, const wq_packager_stats *stats);

/* Writes it to a file, for a collector of text files: it is whole at any time. 0, or -1 with errno.
 */
int wq_packager_write_metrics(const wq_packager_stats *stats, const char *path);

#endif

/* sample.h - a folder of text files, told as an Overview server would tell a document set.
 *
 * So that the demo needs nothing else: the document set is "1", its API token SAMPLE_TOKEN. It is
 * served by the plugin itself under /api/v1, so SERVER is the plugin's own address. */
#ifndef SAMPLE_H
#define SAMPLE_H

#include <workqueue/workqueue.h>

#define SAMPLE_TOKEN "sample"

struct sample;

/* Lists the text files under `folder`: regular files, no links, neither binary nor compressed nor
 * above 16 MiB. 0, or -1 and a sentence. A line to `log` says how many there are. If `folder` is a
 * number, so many documents are made up. */
int sample_open(struct sample **out, const char *folder, wq_log_cb log, wq_error *error);

void sample_close(struct sample *sample);

#endif

/* label.h - what an output is of, in words that people can read: the name, a digest, tells nothing.
 *
 * A label is lines of NAME=VALUE in the extended attribute `user.workqueue` of the output, or in a
 * file of its own below `.workqueue.labels`, where the filesystem has no attributes or the label is
 * too long for one. It never has the API token. */
#ifndef WQ_STORE_LABEL_H
#define WQ_STORE_LABEL_H

#include <stdatomic.h>
#include <stdint.h>
#include <sys/stat.h>
#include <workqueue/extend.h>

#include "workqueue/util/log.h"

/* Whether a file of this name can be an output. */
int wq_is_key(const char *name);

typedef struct wq_labels {
    int folder_fd;
    const char *path; /* of the folder */
    char *program;    /* owned; NULL: not known */
    int sync, has_attributes;
    unsigned long long random; /* of this opening: with `next` no two outputs have the same tag */
    atomic_ullong next;
    const wq_logger *logger;
} wq_labels;

static inline int64_t wq_modified_ms(const struct stat *st)
{
    return (int64_t)st->st_mtim.tv_sec * 1000 + st->st_mtim.tv_nsec / 1000000;
}

/* What is set before: folder_fd, path, sync and logger, borrowed. `probe_fd` is a file in the
 * folder on which attributes can be tried. */
int wq_labels_open(wq_labels *labels, int probe_fd, const char *program, wq_error *error);
void wq_labels_close(wq_labels *labels); /* also a zeroed one */

/* Labels what is about to be the output of `item`: the file `name` in the folder `at_fd`, whose
 * path is item->temp_path. A failure is logged, and the output has no label then. */
void wq_label_write(wq_labels *labels, const wq_publish *item, const struct stat *st);

/* Fills in `out`, all but when it was used, for the output `key`; where there is no label, the tag is made of what the
 * file system tells, and the texts are empty. `fd` is of it, or -1; `st` is of it. */
void wq_label_read(const wq_labels *labels, const char *key, int fd, const struct stat *st,
                   wq_output_info *out);

/* Likewise, the tag alone. */
void wq_label_tag(const wq_labels *labels, const char *key, int fd, const struct stat *st,
                  char *tag, size_t size);

/* Removes labels of outputs that are not there. */
void wq_labels_sweep(const wq_labels *labels);

/* The output is gone. */
void wq_label_remove(const wq_labels *labels, const char *key);

/* Nonzero if the output `key` is of the server, and of the document set if that is not NULL, also
 * by a label as older versions wrote it; `info` is what wq_label_read() has found. */
int wq_label_matches(const wq_labels *labels, const char *key, const wq_output_info *info,
                     const char *server, const char *document_set_id);

#endif

/* listing.c - outputs by what their labels say.
 *
 * The folder's order is the filesystem's, which no position could be told in. So each call reads
 * all of it, and keeps those `max` that come first in ours: the newest first, and of those that
 * were published in the same millisecond, by key. */
#include "workqueue/store/listing.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef struct folder_listing {
    const wq_folder *folder;
    const char *server, *document_set_id;
    int has_start;
    int64_t start_ms; /* after this one */
    char start_key[WQ_KEY_SIZE];
    wq_output_info *out;
    size_t max, n, left_out;
} folder_listing;

static DIR *open_listed(const wq_folder *folder, wq_error *error)
{
    int fd = openat(folder->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *entries = fd < 0 ? NULL : fdopendir(fd);
    if (entries == NULL) {
        wq_fail(error, WQ_ERROR_SYSTEM, "read %s: %s", folder->path, strerror(errno));
        if (fd >= 0)
            close(fd);
    }
    return entries;
}

/* Whether a comes before b. */
static int is_before(int64_t a_ms, const char *a_key, int64_t b_ms, const char *b_key)
{
    return a_ms != b_ms ? a_ms > b_ms : strcmp(a_key, b_key) < 0;
}

static size_t place_of(const folder_listing *l, int64_t made_at_ms, const char *key)
{
    size_t low = 0, high = l->n;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (is_before(l->out[mid].made_at_ms, l->out[mid].key, made_at_ms, key))
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static void list_output(folder_listing *l, const char *key)
{
    struct stat st;
    if (fstatat(l->folder->fd, key, &st, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(st.st_mode))
        return;
    int64_t made_at_ms = (int64_t)st.st_mtim.tv_sec * 1000 + st.st_mtim.tv_nsec / 1000000;
    if (l->has_start && !is_before(l->start_ms, l->start_key, made_at_ms, key))
        return;
    size_t at = place_of(l, made_at_ms, key);
    if (at == l->max && l->left_out > 0)
        return; /* there is more, and this comes later still */
    wq_output_info info;
    wq_label_read(&l->folder->labels, key, -1, &st, &info);
    if (l->server != NULL &&
        !wq_label_matches(&l->folder->labels, key, &info, l->server, l->document_set_id))
        return;
    info.used_at_ms = wq_retain_used_at_ms(&st);
    if (l->n == l->max)
        l->left_out++;
    else
        l->n++;
    if (at == l->max)
        return;
    memmove(&l->out[at + 1], &l->out[at], (l->n - at - 1) * sizeof *l->out);
    l->out[at] = info;
}

static int parse_position(folder_listing *l, const char *position)
{
    int end = 0;
    l->has_start = *position != '\0';
    return !l->has_start || (sscanf(position, "%" SCNd64 "-%64[0-9a-f]%n", &l->start_ms,
                                    l->start_key, &end) == 2 &&
                             position[end] == '\0' && wq_is_key(l->start_key))
               ? 0
               : -1;
}

int wq_folder_list(void *self, const char *server, const char *document_set_id, char *position,
                   wq_output_info *out, size_t max, size_t *n, wq_error *error)
{
    folder_listing l = {.folder = self,
                        .server = server,
                        .document_set_id = document_set_id,
                        .out = out,
                        .max = max};
    if (parse_position(&l, position) != 0)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT,
                       "position: take what the call before has given, or an empty text");
    DIR *entries = open_listed(l.folder, error);
    if (entries == NULL)
        return WQ_ERROR_SYSTEM;
    for (struct dirent *e; errno = 0, (e = readdir(entries)) != NULL;)
        if (wq_is_key(e->d_name))
            list_output(&l, e->d_name);
    const int failed = errno;
    closedir(entries);
    if (failed != 0)
        return wq_fail(error, WQ_ERROR_SYSTEM, "read %s: %s", l.folder->path, strerror(failed));
    if (l.left_out > 0)
        snprintf(position, WQ_POSITION_SIZE, "%" PRId64 "-%s", out[l.n - 1].made_at_ms,
                 out[l.n - 1].key);
    else
        *position = '\0';
    *n = l.n;
    return WQ_OK;
}

/* ---- deleting -------------------------------------------------------------------------------- */

/* 1: deleted, 0: it is of another, or has gone already, -1: failed. */
static int remove_matching(wq_folder *folder, const char *key, const char *server,
                           const char *document_set_id)
{
    struct stat st;
    wq_output_info info;
    if (fstatat(folder->fd, key, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return errno == ENOENT ? 0 : -1;
    wq_label_read(&folder->labels, key, -1, &st, &info);
    if (!wq_label_matches(&folder->labels, key, &info, server, document_set_id))
        return 0;
    if (unlinkat(folder->fd, key, 0) != 0)
        return errno == ENOENT ? 0 : -1;
    wq_label_remove(&folder->labels, key);
    return 1;
}

int wq_folder_remove_set(void *self, const char *server, const char *document_set_id, size_t *n,
                         wq_error *error)
{
    wq_folder *folder = self;
    DIR *entries = open_listed(folder, error);
    if (entries == NULL)
        return WQ_ERROR_SYSTEM;
    int failed = 0;
    for (struct dirent *e; errno = 0, (e = readdir(entries)) != NULL;) {
        int removed =
            wq_is_key(e->d_name) ? remove_matching(folder, e->d_name, server, document_set_id) : 0;
        if (removed > 0)
            ++*n;
        else if (removed < 0)
            failed = errno;
    }
    failed = errno != 0 ? errno : failed;
    closedir(entries);
    if (*n > 0 && folder->syncs_names && fsync(folder->fd) != 0)
        failed = errno;
    return failed == 0 ? WQ_OK
                       : wq_fail(error, WQ_ERROR_SYSTEM, "remove outputs from %s: %s", folder->path,
                                 strerror(failed));
}

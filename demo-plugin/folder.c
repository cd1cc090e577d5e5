/* folder.c - finds the text files of a folder. */
#include "folder.h"

#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    MAX_FILE_BYTES = 16 << 20,
    PROBE_BYTES = 4096 /* so much of a file tells whether it is text */
};

static int has_suffix(const char *name, const char *suffix)
{
    size_t n = strlen(name), m = strlen(suffix);
    return n >= m && strcmp(name + n - m, suffix) == 0;
}

/* Whether the file is text, by its name and its first bytes. */
static int is_text(const char *path)
{
    static const char *const packed[] = {".gz", ".xz", ".bz2", ".zst", ".zip", ".pdf"};
    for (size_t i = 0; i < sizeof packed / sizeof *packed; i++)
        if (has_suffix(path, packed[i]))
            return 0;
    char probe[PROBE_BYTES];
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd == -1)
        return 0;
    ssize_t n = read(fd, probe, sizeof probe);
    close(fd);
    return n >= 0 && memchr(probe, '\0', (size_t)n) == NULL;
}

static int add_name(struct folder *folder, const char *name)
{
    if (folder->n == folder->capacity) {
        size_t capacity = folder->capacity == 0 ? 64 : 2 * folder->capacity;
        char **names = realloc(folder->names, capacity * sizeof *names);
        if (names == NULL)
            return -1;
        folder->names = names;
        folder->capacity = capacity;
    }
    folder->names[folder->n] = strdup(name);
    return folder->names[folder->n] == NULL ? -1 : (folder->n++, 0);
}

static int by_name(const FTSENT **a, const FTSENT **b)
{
    return strcmp((*a)->fts_name, (*b)->fts_name);
}

static int add_entry(struct folder *folder, const FTSENT *entry, size_t folder_len)
{
    if (entry->fts_info == FTS_D || entry->fts_info == FTS_DP || entry->fts_info == FTS_SL)
        return 0;
    if (entry->fts_info != FTS_F || entry->fts_statp->st_size > MAX_FILE_BYTES ||
        !is_text(entry->fts_accpath)) {
        folder->n_skipped++;
        return 0;
    }
    const char *name = entry->fts_path + folder_len;
    return add_name(folder, name + strspn(name, "/"));
}

int folder_list(struct folder *folder, const char *path)
{
    char *copy = strdup(path), *paths[] = {copy, NULL};
    if (copy == NULL)
        return -1;
    FTS *tree = fts_open(paths, FTS_PHYSICAL | FTS_NOCHDIR | FTS_COMFOLLOW, by_name);
    int failed = tree == NULL ? -1 : 0;
    const FTSENT *entry;
    while (!failed && (entry = fts_read(tree)) != NULL)
        failed = add_entry(folder, entry, strlen(path));
    int saved = errno;
    if (tree != NULL)
        fts_close(tree);
    free(copy);
    errno = saved;
    return failed;
}

void folder_dispose(struct folder *folder)
{
    for (size_t i = 0; i < folder->n; i++)
        free(folder->names[i]);
    free(folder->names);
}

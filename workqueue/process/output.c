/* output.c - looks at an output before it is published, to say what is wrong while it is there. */
#include "workqueue/process/output.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_ENTRIES = 1000000, SHOWN_NAME_BYTES = 64 };

#define INVALID "invalid program: "

/* A file that was written under a name of its own, as tools do that add what they think is missing
 * ("$4.npy"), or replace the last part. What follows the common part of its name, or NULL. */
static const char *end_of_other(const char *name, const char *base, size_t common)
{
    const char *end = name + common;
    if (strncmp(name, base, common) != 0 || strcmp(name, base) == 0 || *end == '\0' ||
        strchr("0123456789", *end) != NULL)
        return NULL;
    return end;
}

/* "$4.npy", or "${4%.tmp}.npy" where the last part was replaced; 0, or -1 if there is none. */
static int find_other(const char *path, char shown[SHOWN_NAME_BYTES])
{
    const char *base = strrchr(path, '/') + 1, *last = strrchr(base, '.');
    size_t common = last != NULL && last > base ? (size_t)(last - base) : strlen(base);
    int found = -1, fd = -1;
    char *folder = strndup(path, (size_t)(base - path));
    DIR *entries = folder != NULL ? opendir(folder) : NULL;
    struct dirent *e;
    struct stat st;
    if (entries != NULL)
        fd = dirfd(entries);
    for (int i = 0; found != 0 && fd >= 0 && i < MAX_ENTRIES && (e = readdir(entries)) != NULL;
         i++) {
        const char *end = end_of_other(e->d_name, base, common);
        if (end == NULL || fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0 ||
            !S_ISREG(st.st_mode) || st.st_size == 0)
            continue;
        size_t kept = strlen(base) - common;
        if (strncmp(end, base + common, kept) == 0)
            snprintf(shown, SHOWN_NAME_BYTES, "$4%s", end + kept);
        else
            snprintf(shown, SHOWN_NAME_BYTES, "${4%%%s}%s", base + common, end);
        found = 0;
    }
    if (entries != NULL)
        closedir(entries);
    free(folder);
    return found;
}

static char *complain_of_nothing(const char *path)
{
    static const char sentence[] = INVALID "it should have written to its output file";
    char shown[SHOWN_NAME_BYTES], *text = NULL;
    if (strchr(path, '/') == NULL || find_other(path, shown) != 0)
        return strdup(sentence);
    if (asprintf(&text, "%s; it wrote \"%s\" instead, which is to be renamed to \"$4\"", sentence,
                 shown) < 0)
        return NULL;
    return text;
}

/* Not followed: it may lead out of the storage, to a file that is no output of ours. */
static char *complain_of_link(const char *path)
{
    char target[256], *text = NULL;
    ssize_t n = readlink(path, target, sizeof target - 1);
    target[n > 0 ? n : 0] = '\0';
    if (asprintf(&text,
                 INVALID
                 "its output is a symbolic link, to %s: it must be the file itself (cp, not "
                 "ln -s)",
                 target) < 0)
        return NULL;
    return text;
}

char *wq_output_complaint(const char *path)
{
    struct stat st;
    char text[128], *sentence = NULL;
    if (lstat(path, &st) != 0) {
        if (asprintf(&sentence, "Failed to stat output file: %s",
                     strerror_r(errno, text, sizeof text)) < 0)
            sentence = NULL;
        return sentence;
    }
    if (S_ISREG(st.st_mode))
        return st.st_size > 0 ? NULL : complain_of_nothing(path);
    if (S_ISDIR(st.st_mode))
        return strdup(INVALID "its output is a folder: it must be one file (a tar or zip of the "
                              "folder, say)");
    return S_ISLNK(st.st_mode) ? complain_of_link(path)
                               : strdup(INVALID "its output is not a regular file");
}

/* label.c - what an output is of, in words.
 *
 * A label beside its output says which file it is of, by inode and size: it is written before the
 * output is put in place, so that the one of a rebuild must not be taken for that of the output
 * which is still there. */
#include "workqueue/store/label.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define ATTRIBUTE "user.workqueue"
#define BESIDE ".workqueue.labels"

enum { LABEL_SIZE = 4096 };

int wq_is_key(const char *name)
{
    return strlen(name) == WQ_KEY_SIZE - 1 && strspn(name, "0123456789abcdef") == WQ_KEY_SIZE - 1;
}

/* ---- its text -------------------------------------------------------------------------------- */

typedef struct text {
    char bytes[LABEL_SIZE];
    size_t n;
} text;

static void add_line(text *t, const char *name, const char *value)
{
    const size_t n_name = strlen(name), n = strlen(value);
    if (n == 0 || t->n + n_name + n + 2 > sizeof t->bytes)
        return;
    char *at = mempcpy(t->bytes + t->n, name, n_name);
    *at++ = '=';
    for (size_t i = 0; i < n; i++)
        *at++ = value[i] != '\n' ? value[i] : ' '; /* as in a program's path */
    *at++ = '\n';
    t->n = (size_t)(at - t->bytes);
}

/* Unix time in ms as people read it. */
static void format_time(char out[40], int64_t ms)
{
    char seconds[32];
    struct tm tm;
    const time_t s = (time_t)(ms / 1000);
    gmtime_r(&s, &tm);
    strftime(seconds, sizeof seconds, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(out, 40, "%s.%03dZ", seconds, (int)(ms % 1000));
}

static const char *end_of_path(const char *path, size_t size)
{
    const size_t n = strlen(path);
    return n < size ? path : path + (n - size + 1);
}

static void compose_label(wq_labels *labels, const wq_publish *item, const struct stat *st, text *t)
{
    static const wq_output_info sizes;
    char when[40], tag[40], ran_ms[24];
    format_time(when, wq_modified_ms(st));
    snprintf(tag, sizeof tag, "%016llx-%llx", labels->random, atomic_fetch_add(&labels->next, 1));
    snprintf(ran_ms, sizeof ran_ms, "%llu", (unsigned long long)item->ran_ms);
    t->n = 0;
    add_line(t, "tag", tag);
    add_line(t, "published", when);
    add_line(t, "job", item->job_id != NULL ? item->job_id : "");
    add_line(t, "ran_ms", item->ran_ms > 0 ? ran_ms : "");
    add_line(t, "document_set_id", item->params->document_set_id);
    add_line(t, "server", item->params->server);
    if (labels->program != NULL)
        add_line(t, "program", end_of_path(labels->program, sizeof sizes.program));
}

/* Where the value of `name` begins, in a text that ends with NUL; NULL: it has none. */
static const char *value_of(const char *label, const char *name, size_t *n)
{
    const size_t len = strlen(name);
    for (const char *line = label; *line != '\0';) {
        const char *end = strchrnul(line, '\n');
        if (strncmp(line, name, len) == 0 && line[len] == '=') {
            *n = (size_t)(end - line) - len - 1;
            return line + len + 1;
        }
        line = *end == '\0' ? end : end + 1;
    }
    return NULL;
}

static void copy_value(const char *label, const char *name, char *out, size_t size)
{
    size_t n = 0;
    const char *value = value_of(label, name, &n);
    if (value == NULL || n >= size)
        n = 0;
    if (n > 0)
        memcpy(out, value, n);
    out[n] = '\0';
}

static void parse_label(const char *label, wq_output_info *out)
{
    char number[32];
    copy_value(label, "tag", out->tag, sizeof out->tag);
    copy_value(label, "job", out->job_id, sizeof out->job_id);
    copy_value(label, "server", out->server, sizeof out->server);
    copy_value(label, "document_set_id", out->document_set_id, sizeof out->document_set_id);
    copy_value(label, "program", out->program, sizeof out->program);
    copy_value(label, "ran_ms", number, sizeof number);
    out->ran_ms = strtoull(number, NULL, 10);
}

/* ---- beside the output ----------------------------------------------------------------------- */

static void name_beside(char path[PATH_MAX], const char *key, const char *end)
{
    snprintf(path, PATH_MAX, BESIDE "/%s%s", key, end);
}

static int write_all(int fd, const char *bytes, size_t n)
{
    while (n > 0) {
        ssize_t written = write(fd, bytes, n);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return -1;
        bytes += written;
        n -= (size_t)written;
    }
    return 0;
}

static int sync_names(const wq_labels *labels)
{
    int fd = openat(labels->folder_fd, BESIDE, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int result = fd < 0 || (fsync(fd) != 0 && errno != EINVAL) ? -1 : 0;
    if (fd >= 0)
        close(fd);
    return result;
}

static int write_beside(const wq_labels *labels, const char *key, const struct stat *st,
                        const text *label)
{
    char path[PATH_MAX], temp[PATH_MAX], file[64];
    name_beside(path, key, "");
    name_beside(temp, key, ".tmp");
    if (mkdirat(labels->folder_fd, BESIDE, 0700) != 0 && errno != EEXIST)
        return -1;
    int fd = openat(labels->folder_fd, temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW,
                    0600);
    if (fd < 0)
        return -1;
    int n = snprintf(file, sizeof file, "file=%llx-%llx\n", (unsigned long long)st->st_ino,
                     (unsigned long long)st->st_size);
    int failed = write_all(fd, file, (size_t)n) != 0 ||
                 write_all(fd, label->bytes, label->n) != 0 || (labels->sync && fdatasync(fd) != 0);
    failed =
        close(fd) != 0 || failed || renameat(labels->folder_fd, temp, labels->folder_fd, path) != 0;
    return failed || (labels->sync && sync_names(labels) != 0) ? -1 : 0;
}

/* Nonzero: read; its tag is of another file, which had the key before or will have it. */
static int read_beside(const wq_labels *labels, const char *key, const struct stat *st,
                       wq_output_info *out)
{
    char path[PATH_MAX], label[LABEL_SIZE + 64], file[40], expected[40];
    name_beside(path, key, "");
    int fd = openat(labels->folder_fd, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    ssize_t n = fd < 0 ? -1 : read(fd, label, sizeof label - 1);
    if (fd >= 0)
        close(fd);
    if (n <= 0)
        return 0;
    label[n] = '\0';
    parse_label(label, out);
    copy_value(label, "file", file, sizeof file);
    snprintf(expected, sizeof expected, "%llx-%llx", (unsigned long long)st->st_ino,
             (unsigned long long)st->st_size);
    if (strcmp(file, expected) != 0) {
        out->tag[0] = out->job_id[0] = '\0';
        out->ran_ms = 0;
    }
    return 1;
}

void wq_labels_sweep(const wq_labels *labels)
{
    char path[PATH_MAX];
    struct stat st;
    int fd = openat(labels->folder_fd, BESIDE, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *entries = fd < 0 ? NULL : fdopendir(fd);
    if (entries == NULL) {
        if (fd >= 0)
            close(fd);
        return;
    }
    for (struct dirent *e; (e = readdir(entries)) != NULL;) {
        name_beside(path, e->d_name, "");
        if (e->d_name[0] != '.' &&
            fstatat(labels->folder_fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0 && errno == ENOENT)
            unlinkat(labels->folder_fd, path, 0);
    }
    closedir(entries);
}

/* ---- what others call ------------------------------------------------------------------------ */

int wq_labels_open(wq_labels *labels, int probe_fd, const char *program, wq_error *error)
{
    if (program != NULL && (labels->program = strdup(program)) == NULL)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    labels->has_attributes =
        fsetxattr(probe_fd, ATTRIBUTE, "", 0, 0) == 0 || (errno != ENOTSUP && errno != ENOSYS);
    atomic_init(&labels->next, 0);
    if (getrandom(&labels->random, sizeof labels->random, 0) != sizeof labels->random)
        return wq_fail(error, WQ_ERROR_SYSTEM, "getrandom: %s", strerror(errno));
    return WQ_OK;
}

void wq_labels_close(wq_labels *labels)
{
    free(labels->program);
    labels->program = NULL;
}

void wq_label_write(wq_labels *labels, const wq_publish *item, const struct stat *st)
{
    text label;
    compose_label(labels, item, st, &label);
    if (labels->has_attributes) {
        if (lsetxattr(item->temp_path, ATTRIBUTE, label.bytes, label.n, 0) == 0)
            return;
        if (errno != ENOTSUP && errno != ENOSPC && errno != E2BIG && errno != ERANGE) {
            wq_log(labels->logger, WQ_LOG_WARNING, "label an output: %s", strerror(errno));
            return;
        }
    }
    if (write_beside(labels, item->key, st, &label) != 0)
        wq_log(labels->logger, WQ_LOG_WARNING, "label an output: %s", strerror(errno));
}

static ssize_t get_attribute(const wq_labels *labels, const char *key, int fd, char *value,
                             size_t size)
{
    char path[PATH_MAX];
    if (!labels->has_attributes)
        return -1;
    if (fd >= 0)
        return fgetxattr(fd, ATTRIBUTE, value, size);
    if (snprintf(path, sizeof path, "%s/%s", labels->path, key) >= (int)sizeof path)
        return -1;
    return lgetxattr(path, ATTRIBUTE, value, size);
}

/* By the time of the last change, which no program can set, unlike that of the contents. */
static void make_tag(const struct stat *st, char *tag, size_t size)
{
    snprintf(tag, size, "%llx-%llx-%llx", (unsigned long long)st->st_ino,
             (unsigned long long)st->st_ctim.tv_sec * 1000000000ULL +
                 (unsigned long long)st->st_ctim.tv_nsec,
             (unsigned long long)st->st_size);
}

void wq_label_read(const wq_labels *labels, const char *key, int fd, const struct stat *st,
                   wq_output_info *out)
{
    char label[LABEL_SIZE + 1];
    memset(out, 0, sizeof *out);
    snprintf(out->key, sizeof out->key, "%s", key);
    out->size_bytes = (uint64_t)st->st_size;
    out->made_at_ms = wq_modified_ms(st);
    ssize_t n = get_attribute(labels, key, fd, label, sizeof label - 1);
    if (n > 0) {
        label[n] = '\0';
        parse_label(label, out);
    }
    if (out->tag[0] == '\0')
        read_beside(labels, key, st, out);
    if (out->tag[0] == '\0')
        make_tag(st, out->tag, sizeof out->tag);
}

void wq_label_tag(const wq_labels *labels, const char *key, int fd, const struct stat *st,
                  char *tag, size_t size)
{
    char label[LABEL_SIZE + 1];
    ssize_t n = get_attribute(labels, key, fd, label, sizeof label - 1);
    label[n > 0 ? n : 0] = '\0';
    copy_value(label, "tag", tag, size);
    if (*tag == '\0') {
        wq_output_info info;
        wq_label_read(labels, key, fd, st, &info);
        snprintf(tag, size, "%s", info.tag);
    }
}

void wq_label_remove(const wq_labels *labels, const char *key)
{
    char path[PATH_MAX];
    name_beside(path, key, "");
    unlinkat(labels->folder_fd, path, 0);
}

/* ---- labels of before ------------------------------------------------------------------------
 *
 * Version 1.0 wrote 32 bytes: the first half of a digest of the server, and of server and set. */

enum { OLD_PART = 16 };

static int digest_old(unsigned char out[OLD_PART], const char *server, const char *document_set_id)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    int ok = ctx != NULL && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) &&
             EVP_DigestUpdate(ctx, server, strlen(server) + 1) &&
             EVP_DigestUpdate(ctx, document_set_id, strlen(document_set_id)) &&
             EVP_DigestFinal_ex(ctx, digest, NULL);
    EVP_MD_CTX_free(ctx);
    if (ok)
        memcpy(out, digest, OLD_PART);
    return ok ? 0 : -1;
}

static int matches_old(const wq_labels *labels, const char *key, const char *server,
                       const char *document_set_id)
{
    char value[LABEL_SIZE];
    unsigned char want[OLD_PART];
    return get_attribute(labels, key, -1, value, sizeof value) == 2 * OLD_PART &&
           digest_old(want, server, document_set_id != NULL ? document_set_id : "") == 0 &&
           memcmp(value + (document_set_id != NULL ? OLD_PART : 0), want, OLD_PART) == 0;
}

int wq_label_matches(const wq_labels *labels, const char *key, const wq_output_info *info,
                     const char *server, const char *document_set_id)
{
    if (info->server[0] == '\0')
        return matches_old(labels, key, server, document_set_id);
    return strcmp(info->server, server) == 0 &&
           (document_set_id == NULL || strcmp(info->document_set_id, document_set_id) == 0);
}

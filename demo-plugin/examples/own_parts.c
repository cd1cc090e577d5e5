/* own_parts.c - a runner and a store of one's own.
 *
 *   own_parts FOLDER SERVER DOCUMENT_SET TOKEN
 *
 * The runner starts no program: it does the work itself, in the worker's thread. The store keeps each
 * output as FOLDER/KEY.txt. Both are as small as they can be; what a store for production has to do
 * besides, durability above all, is said in <workqueue/extend.h>.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <workqueue/extend.h>

/* ---- the runner ------------------------------------------------------------------------------------ */

/* Waits for so long; nonzero if the run is to end early. */
static int is_cancelled(const wq_run *run, int ms)
{
    struct pollfd cancel = {.fd = run->cancel_fd, .events = POLLIN};
    return poll(&cancel, 1, ms) > 0;
}

static void run_here(void *self, const wq_run *run, wq_outcome *outcome)
{
    (void)self;
    FILE *output = fopen(run->output_path, "w");
    for (int step = 1; step <= 5 && output != NULL; step++) {
        char line[64];
        int n = snprintf(line, sizeof line, "%d/5\tstep %d", step, step);
        if (is_cancelled(run, 50)) {
            outcome->cancelled = 1;
            break;
        }
        fprintf(output, "line %d for document set %s\n", step, run->params->document_set_id);
        run->report(run->user, line, (size_t)n);
    }
    if (output != NULL && fclose(output) == 0 && !outcome->cancelled)
        outcome->returncode = 0;
    else if (!outcome->cancelled)
        outcome->error = strdup("the output file could not be written");
}

static void close_runner(wq_runner *runner)
{
    free(runner);
}

/* ---- the store ------------------------------------------------------------------------------------- */

static int fail(wq_error *error, const char *what)
{
    if (error != NULL) {
        error->code = WQ_ERROR_SYSTEM;
        snprintf(error->message, sizeof error->message, "%.300s: %.150s", what, strerror(errno));
    }
    return WQ_ERROR_SYSTEM;
}

static void place_of(const char *folder, const char *key, char path[4096])
{
    snprintf(path, 4096, "%s/%s.txt", folder, key);
}

static int find(void *self, const char *key, int64_t *made_at_ms, wq_error *error)
{
    char path[4096];
    struct stat st;
    place_of(self, key, path);
    if (stat(path, &st) != 0)
        return errno == ENOENT ? WQ_ERROR_NOT_FOUND : fail(error, path);
    if (made_at_ms != NULL)
        *made_at_ms = (int64_t)st.st_mtime * 1000;
    return WQ_OK;
}

static int open_output(void *self, const char *key, wq_output *out, wq_error *error)
{
    char path[4096];
    struct stat st;
    place_of(self, key, path);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? WQ_ERROR_NOT_FOUND : fail(error, path);
    if (fstat(fd, &st) != 0) {
        close(fd);
        return fail(error, path);
    }
    memset(out, 0, sizeof *out);
    out->fd = fd;
    out->size_bytes = (uint64_t)st.st_size;
    out->made_at_ms = (int64_t)st.st_mtime * 1000;
    snprintf(out->tag, sizeof out->tag, "%llx", (unsigned long long)st.st_ino);
    return WQ_OK;
}

static int begin(void *self, const char *key, char **temp_path, wq_error *error)
{
    char path[4096 + 16];
    snprintf(path, sizeof path, "%s/%.16s.XXXXXX", (const char *)self, key);
    int fd = mkstemp(path);
    if (fd < 0 || (*temp_path = strdup(path)) == NULL)
        return fail(error, path);
    close(fd);
    return WQ_OK;
}

/* Whole or not at all: a rename. */
static void publish(void *self, wq_publish *items, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char path[4096];
        place_of(self, items[i].key, path);
        int stays = !items[i].replace && access(path, F_OK) == 0;
        items[i].result = WQ_OK;
        if (stays)
            unlink(items[i].temp_path);
        else if (rename(items[i].temp_path, path) != 0)
            items[i].result = fail(&items[i].error, path);
    }
}

static void discard(void *self, const char *temp_path)
{
    (void)self;
    unlink(temp_path);
}

static int remove_output(void *self, const char *key, wq_error *error)
{
    char path[4096];
    place_of(self, key, path);
    if (unlink(path) == 0)
        return WQ_OK;
    return errno == ENOENT ? WQ_ERROR_NOT_FOUND : fail(error, path);
}

static void close_store(wq_store *store)
{
    free(store->self);
    free(store);
}

/* ---- both in use ----------------------------------------------------------------------------------- */

static void put_parts(wq_options *options, const char *folder)
{
    wq_runner *runner = calloc(1, sizeof *runner);
    wq_store *store = calloc(1, sizeof *store);
    if (runner == NULL || store == NULL)
        abort();
    runner->run = run_here;
    runner->close = close_runner;
    store->self = strdup(folder);
    store->find = find;
    store->open = open_output;
    store->begin = begin;
    store->publish = publish;
    store->discard = discard;
    store->remove = remove_output;
    store->close = close_store;
    options->runner = runner; /* the queue takes them over, */
    options->store = store;   /* also if it cannot be opened */
}

int main(int argc, char **argv)
{
    wq_options options;
    wq_queue *queue;
    wq_error error;
    wq_job *job = NULL;
    char text[4096];
    int fd = -1, status = 1;
    if (argc != 5)
        return fprintf(stderr, "usage: own_parts FOLDER SERVER DOCUMENT_SET TOKEN\n"), 2;
    wq_options_init(&options, sizeof options);
    put_parts(&options, argv[1]);
    if (wq_open(&queue, &options, &error) != WQ_OK)
        return fprintf(stderr, "%s\n", error.message), 2;
    wq_params params = {argv[2], argv[3], argv[4]};
    if (wq_ensure_run(queue, &params, 0, &job, &error) >= 0 &&
        (job == NULL || wq_job_wait(job, -1) == WQ_OK) &&
        wq_output_open(queue, &params, &fd, &error) == WQ_OK) {
        ssize_t n = read(fd, text, sizeof text);
        status = n > 0 && fwrite(text, 1, (size_t)n, stdout) == (size_t)n ? 0 : 1;
        close(fd);
    } else {
        fprintf(stderr, "%s\n", error.message);
    }
    wq_job_unref(job);
    wq_close(queue);
    return status;
}

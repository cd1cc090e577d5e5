/* queue.c - the queue alone, without HTTP: asks for an output, watches until it is there, and reads it.
 *
 *   queue PROGRAM STORAGE SERVER DOCUMENT_SET TOKEN
 *
 * The callback of a watch may be called from any thread and must not wait, so it only posts a
 * semaphore; the main thread takes the snapshots.
 */
#include <errno.h>
#include <semaphore.h>
#include <stdio.h>
#include <unistd.h>
#include <workqueue/workqueue.h>

static void on_news(void *user)
{
    sem_post(user);
}

static void show(wq_job *job, int *ended, int *returncode)
{
    wq_snapshot now;
    char record[16384];
    wq_job_snapshot(job, &now);
    wq_snapshot_json(&now, record, sizeof record);
    puts(record);
    *ended = now.has_returncode;
    *returncode = now.returncode;
    wq_snapshot_clear(&now);
}

/* Watches first and looks then, so that no change falls between the two. */
static int watch_to_the_end(wq_job *job)
{
    sem_t news;
    wq_watch *watch;
    int ended = 0, returncode = 0;
    sem_init(&news, 0, 0);
    if (wq_job_watch(job, on_news, &news, &watch) != WQ_OK)
        return -1;
    for (show(job, &ended, &returncode); !ended; show(job, &ended, &returncode))
        while (sem_wait(&news) != 0 && errno == EINTR)
            ;
    wq_watch_cancel(watch);
    sem_destroy(&news);
    return returncode;
}

static int copy_output(wq_queue *queue, const wq_params *params, wq_error *error)
{
    char buf[65536];
    ssize_t n;
    int fd;
    if (wq_output_open(queue, params, &fd, error) != WQ_OK)
        return -1;
    while ((n = read(fd, buf, sizeof buf)) > 0)
        if (fwrite(buf, 1, (size_t)n, stdout) != (size_t)n)
            break;
    close(fd);
    return n != 0 ? -1 : 0;
}

int main(int argc, char **argv)
{
    wq_options options;
    wq_queue *queue;
    wq_error error;
    wq_job *job = NULL;
    int status = 1;
    if (argc != 6)
        return fprintf(stderr, "usage: queue PROGRAM STORAGE SERVER DOCUMENT_SET TOKEN\n"), 2;
    wq_options_init(&options, sizeof options);
    options.program = argv[1];
    options.storage_dir = argv[2];
    if (wq_open(&queue, &options, &error) != WQ_OK)
        return fprintf(stderr, "%s\n", error.message), 2;
    wq_params params = {argv[3], argv[4], argv[5]};
    int result = wq_ensure_run(queue, &params, 0, &job, &error);
    if (result < 0)
        fprintf(stderr, "%s\n", error.message);
    else if (result == WQ_DONE || watch_to_the_end(job) == 0)
        status = copy_output(queue, &params, &error) == 0 ? 0 : 1;
    wq_job_unref(job);
    wq_close(queue);
    return status;
}

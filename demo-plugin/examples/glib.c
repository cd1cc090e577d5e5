/* glib.c - watching a job from another event loop: here GLib's, the same with any that has a way to
 * be woken from other threads.
 *
 *   glib PROGRAM STORAGE SERVER DOCUMENT_SET TOKEN
 *
 * The callback of a watch comes from a thread of the queue; g_main_context_invoke() carries the news
 * to the loop. However many come before the loop looks, it looks once: the snapshot is the latest.
 */
#include <glib.h>
#include <stdatomic.h>
#include <stdio.h>
#include <workqueue/workqueue.h>

struct watcher {
    wq_job *job;
    GMainLoop *loop;
    atomic_int pending; /* a look is on its way to the loop */
    int returncode;
};

/* On the loop. */
static gboolean look(gpointer user)
{
    struct watcher *watcher = user;
    wq_snapshot now;
    atomic_store(&watcher->pending, 0); /* before the snapshot: later news brings another look */
    wq_job_snapshot(watcher->job, &now);
    printf("%3.0f %% %s\n", now.fraction * 100, now.message != NULL ? now.message : "");
    if (now.has_returncode) {
        watcher->returncode = now.returncode;
        g_main_loop_quit(watcher->loop);
    }
    wq_snapshot_clear(&now);
    return G_SOURCE_REMOVE;
}

/* On any thread. */
static void on_news(void *user)
{
    struct watcher *watcher = user;
    if (atomic_exchange(&watcher->pending, 1) == 0)
        g_main_context_invoke(g_main_loop_get_context(watcher->loop), look, watcher);
}

int main(int argc, char **argv)
{
    wq_options options;
    wq_queue *queue;
    wq_watch *watch = NULL;
    wq_error error;
    struct watcher watcher = {0};
    if (argc != 6)
        return fprintf(stderr, "usage: glib PROGRAM STORAGE SERVER DOCUMENT_SET TOKEN\n"), 2;
    wq_options_init(&options, sizeof options);
    options.program = argv[1];
    options.storage_dir = argv[2];
    if (wq_open(&queue, &options, &error) != WQ_OK)
        return fprintf(stderr, "%s\n", error.message), 2;
    wq_params params = {argv[3], argv[4], argv[5]};
    int result = wq_ensure_run(queue, &params, 0, &watcher.job, &error);
    if (result < 0) {
        fprintf(stderr, "%s\n", error.message);
        watcher.returncode = 1;
    } else if (result != WQ_DONE) {
        watcher.loop = g_main_loop_new(NULL, FALSE);
        wq_job_watch(watcher.job, on_news, &watcher, &watch);
        on_news(&watcher); /* how it stands now */
        g_main_loop_run(watcher.loop);
        wq_watch_cancel(watch);
        while (g_main_context_iteration(NULL, FALSE))
            ; /* a look that was still on its way */
        g_main_loop_unref(watcher.loop);
    }
    wq_job_unref(watcher.job);
    wq_close(queue);
    return watcher.returncode == 0 ? 0 : 1;
}

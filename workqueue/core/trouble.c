/* trouble.c - what is wrong with a queue now, for whoever watches over it: a disk that is full, a
 * folder that is gone, a journal or a store that fails, a broker that is away. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "workqueue/core/life.h"
#include "workqueue/journal/journal.h"

enum { FULL_BYTES = 65536, SENTENCE_BYTES = 512 };

/* Lines of text, as many as there is room for. */
typedef struct trouble_list {
    char *text;
    size_t size, used, n;
} trouble_list;

__attribute__((format(printf, 2, 3))) static void add_trouble(trouble_list *list,
                                                              const char *format, ...)
{
    char sentence[SENTENCE_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(sentence, sizeof sentence, format, args);
    va_end(args);
    for (char *c = sentence; *c != '\0'; c++)
        if (*c == '\n')
            *c = ' ';
    const size_t n = strlen(sentence) + (list->used > 0);
    list->n++;
    if (n >= list->size - list->used)
        return;
    list->used += (size_t)sprintf(list->text + list->used, "%s%s", list->used > 0 ? "\n" : "",
                                  sentence);
}

/* ---- what is on this machine ----------------------------------------------------------------- */

static void look_at_folder(trouble_list *list, const char *what, const char *path)
{
    struct statvfs fs;
    if (path == NULL)
        return;
    if (statvfs(path, &fs) != 0) {
        add_trouble(list, "%s cannot be reached: %s: %s", what, path, strerror(errno));
        return;
    }
    const unsigned long long blocks = geteuid() == 0 ? fs.f_bfree : fs.f_bavail;
    if (fs.f_flag & ST_RDONLY)
        add_trouble(list, "%s is on a filesystem that is read-only: %s", what, path);
    else if (faccessat(AT_FDCWD, path, W_OK, AT_EACCESS) != 0)
        add_trouble(list, "%s cannot be written: %s: %s", what, path, strerror(errno));
    else if (fs.f_blocks > 0 && blocks * fs.f_frsize < FULL_BYTES)
        add_trouble(list, "%s is on a disk that is full: %s", what, path);
    else if (fs.f_files > 0 && fs.f_ffree == 0)
        add_trouble(list, "%s is on a filesystem that has room for no more files: %s", what, path);
}

static void look_at_journal(trouble_list *list, const wq_queue *queue)
{
    if (queue->recorder.self != NULL && wq_journal_is_failing(queue->recorder.self))
        add_trouble(list, "the journal cannot be written: new jobs are refused, and ends are told that "
                          "a crash would lose");
}

/* ---- what is elsewhere ----------------------------------------------------------------------- */

static void look_at_store(trouble_list *list, wq_queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    const size_t waiting = queue->n[WQ_PHASE_PUT_OFF];
    pthread_mutex_unlock(&queue->lock);
    if (waiting > 0)
        add_trouble(list, "the store is away: %zu output%s for it", waiting,
                    waiting == 1 ? " waits" : "s wait");
    else if (atomic_load(&queue->store_fails))
        add_trouble(list, "the store could not be asked when it was last needed");
}

/* The runner is not closed while it is in use. */
static void look_at_runner(trouble_list *list, wq_queue *queue)
{
    char sentence[SENTENCE_BYTES];
    wq_runner *runner = queue->runner;
    if (runner->trouble == NULL)
        return;
    pthread_mutex_lock(&queue->lock);
    const int stops = queue->stopping;
    queue->runner_users += !stops;
    pthread_mutex_unlock(&queue->lock);
    if (stops)
        return;
    if (runner->trouble(runner->self, sentence, sizeof sentence))
        add_trouble(list, "%s", sentence);
    pthread_mutex_lock(&queue->lock);
    if (--queue->runner_users == 0)
        pthread_cond_broadcast(&queue->unused);
    pthread_mutex_unlock(&queue->lock);
}

size_t wq_queue_troubles(wq_queue *queue, char *text, size_t size)
{
    trouble_list list = {.text = text, .size = size};
    if (text == NULL || size == 0)
        return 0;
    *text = '\0';
    if (queue == NULL || wq_owner_is_forked(queue))
        return 0;
    look_at_folder(&list, "the storage folder", queue->folders[0]);
    look_at_folder(&list, "the journal's folder", queue->folders[1]);
    look_at_journal(&list, queue);
    look_at_store(&list, queue);
    look_at_runner(&list, queue);
    return list.n;
}

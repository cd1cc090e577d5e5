/* keeping.c - jobs that the broker has been relieved of, in files of the state folder.
 *
 * Brokers hold a delivery for so long only (RabbitMQ half an hour). A job that takes longer is
 * written to a file (KEY-NONCE.job: where it is answered to, then its message), and then settled.
 * The file goes when the job has ended; one that is found at the start is of a packager that died,
 * and its job goes to the broker again. It holds the job's token, so only we may read it.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "workqueue/remote/packaging.h"
#include "workqueue/util/log.h"

/* ---- files ----------------------------------------------------------------------------------- */

static int write_all(int fd, const char *bytes, size_t len)
{
    while (len > 0) {
        ssize_t n = write(fd, bytes, len);
        if (n < 0)
            return -1;
        bytes += n;
        len -= (size_t)n;
    }
    return 0;
}

static int write_job(int fd, const work *w)
{
    if (write_all(fd, w->reply_to, strlen(w->reply_to)) != 0 || write_all(fd, "\n", 1) != 0 ||
        write_all(fd, w->body, w->body_len) != 0)
        return -1;
    return fsync(fd);
}

int wq_keep(wq_packager *p, work *w)
{
    char *path = NULL;
    if (w->file != NULL)
        return 0;
    if (asprintf(&path, "%s/%s-%" PRIu64 ".job", p->o.state_dir, w->key, w->nonce) < 0)
        return -1;
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    int ok = fd >= 0 && write_job(fd, w) == 0 && fsync(p->state_fd) == 0, why = errno;
    if (fd >= 0)
        close(fd);
    if (ok) {
        w->file = path;
        return 0;
    }
    wq_log(&p->logger, WQ_LOG_ERROR, "a job cannot be kept in %s, it stays with the broker: %s",
           p->o.state_dir, strerror(why));
    if (fd >= 0)
        unlink(path);
    free(path);
    return -1;
}

void wq_unkeep(work *w)
{
    if (w->file != NULL)
        unlink(w->file);
    free(w->file);
    w->file = NULL;
}

void wq_relieve(wq_packager *p, work *w)
{
    slot *s = &p->slots[w->slot];
    if (w->file != NULL || s->subscription == NULL || !wq_work_is_held(p, w) || wq_keep(p, w) != 0)
        return;
    if (wq_broker_take_last(s->subscription, w->delivery, NULL, NULL, NULL) != WQ_OK) {
        wq_unkeep(w); /* the connection has ended; the broker delivers it again, and then again */
        return;
    }
    s->subscription = NULL;
    s->holder = w;
    free(w->delivery);
    w->delivery = NULL;
}

/* ---- back to the broker ---------------------------------------------------------------------- */

/* `path` is owned, or NULL if there is no file. */
static void on_sent_again(void *user, int result, const char *why)
{
    char *path = user;
    (void)why;
    if (result == WQ_OK && path != NULL)
        unlink(path);
    free(path);
}

/* `path` (NULL: none) goes when the broker has the job. */
static void send_again(wq_packager *p, const char *reply_to, const char *body, size_t len,
                       const char *path)
{
    const wq_stomp_header headers[] = {
        {"content-type", "text/plain"}, {"persistent", "true"}, {"reply-to", reply_to}};
    char *own = path != NULL ? strdup(path) : NULL;
    if (path != NULL && own == NULL)
        return;
    if (wq_broker_send(p->broker, p->o.queue_package, headers, *reply_to != '\0' ? 3 : 2, body, len,
                       on_sent_again, own, NULL) != WQ_OK)
        free(own);
}

static void recover(wq_packager *p, const char *path)
{
    const size_t size = WQ_MESSAGE_BYTES + WQ_DESTINATION_SIZE;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    char *text = malloc(size), *newline = NULL;
    ssize_t n = fd >= 0 && text != NULL ? read(fd, text, size) : -1;
    if (n > 0)
        newline = memchr(text, '\n', (size_t)n);
    if (newline != NULL) {
        *newline = '\0';
        send_again(p, text, newline + 1, (size_t)(text + n - newline - 1), path);
    } else {
        wq_log(&p->logger, WQ_LOG_WARNING, "%s holds no job", path);
    }
    if (fd >= 0)
        close(fd);
    free(text);
}

void wq_keeping_recover(wq_packager *p)
{
    DIR *folder = opendir(p->o.state_dir);
    const struct dirent *entry;
    if (folder == NULL)
        return;
    while ((entry = readdir(folder)) != NULL) {
        const char *dot = strrchr(entry->d_name, '.');
        char *path = NULL;
        if (dot == NULL || strcmp(dot, ".job") != 0 ||
            asprintf(&path, "%s/%s", p->o.state_dir, entry->d_name) < 0)
            continue;
        recover(p, path);
        free(path);
    }
    closedir(folder);
}

static void send_request_again(wq_packager *p, const work *w, const requester *r, const char *path)
{
    if (w->message.plain) {
        send_again(p, r->reply_to, w->body, w->body_len, path);
        return;
    }
    char *text = wq_job_message_text(r->id, &w->message.params, w->message.rebuild);
    if (text != NULL)
        send_again(p, r->reply_to, text, strlen(text), path);
    free(text);
}

void wq_hand_back(wq_packager *p, work *w)
{
    const requester *r;
    LIST_FOREACH(r, &w->requesters, link)
    {
        int is_own = strcmp(r->id, w->message.id) == 0;
        if (!is_own || w->file != NULL || !wq_work_is_held(p, w))
            send_request_again(p, w, r, is_own ? w->file : NULL);
    }
    wq_work_forget(p, w);
}

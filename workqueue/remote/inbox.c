/* inbox.c - hints of other packagers and of servers: who else asks, and what to look at. A hint
 * that gets lost costs time and nothing else. */
#include <string.h>

#include "workqueue/remote/packaging.h"

static void take_join_locked(wq_packager *p, const wq_hint *hint)
{
    for (unsigned i = 0; i < p->o.workers; i++)
        if (strcmp(p->slots[i].key, hint->key) == 0) {
            wq_requester_join_locked(&p->slots[i], hint->id, hint->reply_to);
            p->slots[i].has_news = 1;
            pthread_cond_signal(&p->slots[i].news);
        }
}

/* Nonzero if it is asked for here: then the mark is looked for. */
static int is_asked_locked(wq_packager *p, const wq_hint *hint)
{
    const requester *r;
    for (unsigned i = 0; i < p->o.workers; i++)
        LIST_FOREACH(r, &p->slots[i].askers, link)
    if (strcmp(r->id, hint->id) == 0)
        return 1;
    return 0;
}

static void on_hint(void *user, const wq_broker_message *message)
{
    wq_packager *p = user;
    wq_hint hint;
    wq_hint_read(&hint, message->frame->body, message->frame->body_len);
    pthread_mutex_lock(&p->lock);
    if (hint.kind == WQ_HINT_JOIN)
        take_join_locked(p, &hint);
    int is_asked = hint.kind == WQ_HINT_CANCEL && is_asked_locked(p, &hint);
    pthread_mutex_unlock(&p->lock);
    if (is_asked)
        wq_leases_hurry(p->leases);
}

void wq_inbox_subscribe(wq_packager *p)
{
    char inbox[WQ_DESTINATION_SIZE];
    static const wq_stomp_header headers[] = {
        {"durable", "false"}, {"auto-delete", "true"}, {"exclusive", "false"}};
    const wq_subscribe options = {.destination = inbox,
                                  .headers = headers,
                                  .n_headers = p->is_rabbitmq ? 3 : 0,
                                  .ack = WQ_ACK_AUTO,
                                  .message = on_hint,
                                  .user = p};
    if (wq_inbox(inbox, sizeof inbox, p->o.queue_reply, p->name) == 0)
        wq_broker_subscribe(&p->inbox, p->broker, &options, NULL);
}

/* posts.c - posts to loops, of which some may have ended. */
#include "workqueue/http/hold/posts.h"

#include <assert.h>

static void on_posts(h2o_multithread_receiver_t *receiver, h2o_linklist_t *messages)
{
    (void)receiver;
    while (!h2o_linklist_is_empty(messages)) {
        wq_post *post = H2O_STRUCT_FROM_MEMBER(wq_post, message.link, messages->next);
        h2o_linklist_unlink(&post->message.link);
        assert(messages->next != &post->message.link);
        post->arrive(post);
    }
}

void wq_inboxes_init(wq_inboxes *inboxes)
{
    pthread_mutex_init(&inboxes->lock, NULL);
    LIST_INIT(&inboxes->open);
}

void wq_inboxes_destroy(wq_inboxes *inboxes)
{
    pthread_mutex_destroy(&inboxes->lock);
}

void wq_inbox_open(wq_inboxes *inboxes, wq_inbox *inbox, h2o_multithread_queue_t *queue)
{
    h2o_multithread_register_receiver(queue, &inbox->receiver, on_posts);
    pthread_mutex_lock(&inboxes->lock);
    LIST_INSERT_HEAD(&inboxes->open, inbox, link);
    pthread_mutex_unlock(&inboxes->lock);
}

void wq_inbox_close(wq_inboxes *inboxes, wq_inbox *inbox, h2o_multithread_queue_t *queue)
{
    pthread_mutex_lock(&inboxes->lock);
    LIST_REMOVE(inbox, link);
    pthread_mutex_unlock(&inboxes->lock);
    on_posts(&inbox->receiver, &inbox->receiver._messages);
    h2o_multithread_unregister_receiver(queue, &inbox->receiver);
}

int wq_post_send(wq_inboxes *inboxes, wq_post *post)
{
    wq_inbox *inbox;
    /* under the lock, so that the loop cannot end meanwhile */
    pthread_mutex_lock(&inboxes->lock);
    LIST_FOREACH(inbox, &inboxes->open, link)
    if (inbox == post->inbox)
        break;
    if (inbox != NULL)
        h2o_multithread_send_message(&inbox->receiver, &post->message);
    pthread_mutex_unlock(&inboxes->lock);
    return inbox != NULL ? 0 : -1;
}

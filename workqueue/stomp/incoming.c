/* incoming.c - what the broker says, on its thread: receipts, messages, and ERROR, for which a
 * frame is to blame. */
#include "workqueue/stomp/frames.h"

/* ---- what the broker says -------------------------------------------------------------------- */

/* A number as we wrote it; 0: it is none. */
static uint64_t parse_id(const char *text)
{
    const size_t n = text != NULL ? strspn(text, "0123456789") : 0;
    return n > 0 && n < 20 && text[n] == '\0' ? strtoull(text, NULL, 10) : 0;
}

void wq_out_done(out *frame, int result, const char *why)
{
    if (frame->done != NULL)
        frame->done(frame->user, result, why);
    wq_out_free(frame);
}

static void on_receipt(wq_broker *broker, const wq_stomp_frame *frame)
{
    const uint64_t id = parse_id(wq_stomp_get(frame, "receipt-id"));
    wq_subscription *s;
    out *waiting;
    pthread_mutex_lock(&broker->lock);
    TAILQ_FOREACH(waiting, &broker->waiting, link)
    if (waiting->receipt == id)
        break;
    if (waiting != NULL) {
        wq_out_take_off(broker, &broker->waiting, waiting);
        s = waiting->subscription ? wq_subscription_find(broker, waiting->subscription) : NULL;
        if (s != NULL)
            s->refused = 0;
        broker->careful -= broker->careful > 0;
        broker->left |= id == broker->farewell;
    }
    pthread_mutex_unlock(&broker->lock);
    if (waiting != NULL)
        wq_out_done(waiting, WQ_OK, NULL);
}

/* For a subscription that has ended, but the broker did not know yet. */
static void on_stray(wq_broker *broker, const wq_stomp_frame *frame)
{
    if (wq_stomp_get(frame, "ack") != NULL)
        broker->anew = 1; /* else it would be stuck */
}

static void on_message(wq_broker *broker, const wq_stomp_frame *frame)
{
    const char *ack = wq_stomp_get(frame, "ack");
    pthread_mutex_lock(&broker->lock);
    wq_subscription *s =
        wq_subscription_find(broker, parse_id(wq_stomp_get(frame, "subscription")));
    const wq_delivery delivery = {broker->generation, s != NULL ? s->id : 0, ack};
    const int settles = s != NULL && s->settles && ack != NULL;
    if (s == NULL)
        on_stray(broker, frame);
    else
        s->open += (size_t)settles;
    broker->running = s;
    pthread_mutex_unlock(&broker->lock);
    if (s == NULL)
        return;
    s->on_message(s->user, &(wq_broker_message){frame, settles ? &delivery : NULL});
    pthread_mutex_lock(&broker->lock);
    broker->running = NULL;
    const int ended = s->ended;
    pthread_cond_broadcast(&broker->idle);
    pthread_mutex_unlock(&broker->lock);
    if (ended)
        wq_subscription_free(s);
}

/* The frame that an ERROR (NULL: there was none) is about: the one it names, or the only one under
 * way. The lock is held. */
static out *find_culprit(wq_broker *broker, const wq_stomp_frame *error)
{
    const uint64_t id = error != NULL ? parse_id(wq_stomp_get(error, "receipt-id")) : 0;
    out *frame, *only = TAILQ_FIRST(&broker->waiting);
    TAILQ_FOREACH(frame, &broker->waiting, link)
    if (id != 0 && frame->receipt == id)
        return frame;
    return broker->careful > 0 && only != NULL && TAILQ_NEXT(only, link) == NULL ? only : NULL;
}

/* Tells the subscription's owner if it is not to be had; the lock is held, and released for that.
 */
static void blame_subscription(wq_broker *broker, uint64_t id, int points, const char *why)
{
    wq_subscription *s = wq_subscription_find(broker, id);
    if (s == NULL || s->refused >= REFUSALS || (s->refused += points) < REFUSALS ||
        s->on_refused == NULL)
        return;
    broker->running = s;
    pthread_mutex_unlock(&broker->lock);
    s->on_refused(s->user, why);
    pthread_mutex_lock(&broker->lock);
    broker->running = NULL;
    const int ended = s->ended;
    pthread_cond_broadcast(&broker->idle);
    if (ended)
        wq_subscription_free(s);
}

void wq_broker_blame(wq_broker *broker, const wq_stomp_frame *error, const char *why)
{
    const int points = error != NULL ? BY_ERROR : BY_HANGING_UP;
    pthread_mutex_lock(&broker->lock);
    out *culprit = find_culprit(broker, error);
    if (culprit != NULL && culprit->subscription != 0)
        blame_subscription(broker, culprit->subscription, points, why);
    const int given_up =
        culprit != NULL && culprit->kept && (culprit->refused += points) >= REFUSALS;
    if (given_up)
        wq_out_take_off(broker, &broker->waiting, culprit);
    broker->was_refused |= error != NULL || !TAILQ_EMPTY(&broker->waiting);
    pthread_mutex_unlock(&broker->lock);
    if (given_up)
        wq_out_done(culprit, WQ_ERROR_INVALID_ARGUMENT, why);
}

/* Its `message`; the body may repeat what we sent, tokens and all, so that stays out of the log. */
static int on_error(wq_broker *broker, const wq_stomp_frame *frame, wq_error *error)
{
    const char *said = wq_stomp_get(frame, "message");
    wq_fail(error, -1, "the broker says ERROR: %.200s", said != NULL ? said : "without a reason");
    wq_broker_blame(broker, frame, error->message);
    broker->blamed = 1;
    return -1;
}

int wq_broker_on_frame(void *user, const wq_stomp_frame *frame, wq_error *error)
{
    wq_broker *broker = user;
    if (strcmp(frame->command, "MESSAGE") == 0)
        on_message(broker, frame);
    else if (strcmp(frame->command, "RECEIPT") == 0)
        on_receipt(broker, frame);
    else if (strcmp(frame->command, "ERROR") == 0)
        return on_error(broker, frame, error);
    else
        return wq_fail(error, -1, "the broker sent a %s out of turn", frame->command);
    return 0;
}

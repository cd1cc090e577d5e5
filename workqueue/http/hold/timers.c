/* timers.c - a pairing heap of timers on one timerfd.
 *
 * A place in the heap may be early, never late: a timer that is set later stays where it is, and is
 * looked at again when its old time comes. Most are set again and again (a send's deadline), and few
 * ever fire. */
#include "workqueue/http/hold/timers.h"

#include <sys/timerfd.h>
#include <unistd.h>

/* ---- the heap: no timer has one among its children, or theirs, that is earlier --------------- */

static wq_timer *meld(wq_timer *a, wq_timer *b)
{
    if (a == NULL || b == NULL)
        return a ? a : b;
    if (b->place < a->place) {
        wq_timer *later = a;
        a = b;
        b = later;
    }
    b->before = a;
    b->next = a->child;
    if (b->next != NULL)
        b->next->before = b;
    a->child = b;
    a->next = a->before = NULL;
    return a;
}

/* In two passes: pairs from left to right, then all of them from right to left. */
static wq_timer *meld_children(wq_timer *child)
{
    wq_timer *pairs = NULL, *root = NULL, *rest;
    for (; child != NULL; child = rest) {
        wq_timer *second = child->next;
        rest = second ? second->next : NULL;
        child->next = child->before = NULL;
        if (second != NULL)
            second->next = second->before = NULL;
        wq_timer *pair = meld(child, second);
        pair->next = pairs;
        pairs = pair;
    }
    for (; pairs != NULL; pairs = rest) {
        rest = pairs->next;
        pairs->next = NULL;
        root = meld(root, pairs);
    }
    return root;
}

static void insert_timer(wq_timers *timers, wq_timer *timer, int64_t at)
{
    timer->place = timer->at = at;
    timer->child = timer->next = timer->before = NULL;
    timer->is_set = 1;
    timers->first = meld(timers->first, timer);
}

static void remove_timer(wq_timers *timers, wq_timer *timer)
{
    timer->is_set = 0;
    if (timers->first == timer) {
        timers->first = meld_children(timer->child);
        return;
    }
    if (timer->before->child == timer)
        timer->before->child = timer->next;
    else
        timer->before->next = timer->next;
    if (timer->next != NULL)
        timer->next->before = timer->before;
    timers->first = meld(timers->first, meld_children(timer->child));
}

/* ---- the timerfd ----------------------------------------------------------------------------- */

static void arm_timerfd(wq_timers *timers)
{
    if (timers->first == NULL)
        return;
    int64_t at = timers->first->place;
    if (timers->armed != 0 && timers->armed <= at)
        return;
    /* a time of 0 would disarm it */
    struct itimerspec spec = {.it_value = {at / 1000, at > 0 ? at % 1000 * 1000000 : 1}};
    timerfd_settime(timers->fd, TFD_TIMER_ABSTIME, &spec, NULL);
    timers->armed = at;
}

static void fire_due(wq_timers *timers, int64_t now)
{
    wq_timer *timer;
    while ((timer = timers->first) != NULL && timer->place <= now) {
        remove_timer(timers, timer);
        if (timer->at <= now)
            timer->fire(timer);
        else if (timer->at != WQ_NEVER)
            insert_timer(timers, timer, timer->at);
    }
}

static void on_timerfd(h2o_socket_t *sock, const char *err)
{
    wq_timers *timers = sock->data;
    uint64_t count;
    (void)err;
    if (read(timers->fd, &count, sizeof count) < 0)
        return;
    timers->armed = 0;
    fire_due(timers, wq_monotonic_ms());
    arm_timerfd(timers);
}

/* ---- for their owners ------------------------------------------------------------------------ */

void wq_timer_set(wq_timers *timers, wq_timer *timer, int64_t at)
{
    if (timer->is_set && at >= timer->place) {
        timer->at = at;
        return;
    }
    if (timer->is_set)
        remove_timer(timers, timer);
    if (at == WQ_NEVER)
        return;
    insert_timer(timers, timer, at);
    arm_timerfd(timers);
}

void wq_timer_clear(wq_timers *timers, wq_timer *timer)
{
    if (timer->is_set)
        remove_timer(timers, timer);
}

void wq_timers_open(wq_timers *timers, h2o_loop_t *loop)
{
    timers->first = NULL;
    timers->armed = 0;
    timers->fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (timers->fd < 0)
        h2o_fatal("workqueue: no file descriptors left for an event loop");
    timers->sock = h2o_evloop_socket_create(loop, timers->fd, H2O_SOCKET_FLAG_DONT_READ);
    timers->sock->data = timers;
    h2o_socket_read_start(timers->sock, on_timerfd);
}

void wq_timers_close(wq_timers *timers)
{
    h2o_socket_close(timers->sock);
}

/* session.c - one connection to a STOMP broker: CONNECT and its answer, heart-beats, frames. */
#include "workqueue/stomp/session.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "workqueue/util/clocks.h"
#include "workqueue/util/log.h"

enum {
    READ_BYTES = 65536,
    READS = 16,   /* before writing has its turn */
    SILENCES = 3, /* of the agreed interval; ActiveMQ leaves out every other beat after a frame */
};

static const wq_stomp_limits read_limits = {.line_bytes = 65536, .headers = 1000};

/* ---- reading and writing --------------------------------------------------------------------- */

/* Hands what was read to `on`, frame by frame. -1: the connection is to be closed. */
static int parse(wq_session *session, const char *data, size_t n, wq_frame_cb on, void *user,
                 wq_error *error)
{
    wq_stomp_frame frame;
    int r;
    while ((r = wq_stomp_next(&session->parser, &data, &n, &frame)) == 1)
        if (on(user, &frame, error) != 0)
            return -1;
    if (r != 0)
        return wq_fail(error, -1, "the broker sent what is not STOMP 1.2: %s", session->parser.why);
    return 0;
}

int wq_session_read(wq_session *session, wq_frame_cb on, void *user, wq_error *error)
{
    for (int i = 0; i < READS; i++) {
        const long r = wq_link_read(&session->link, session->buffer, READ_BYTES, error);
        if (r <= 0)
            return (int)r;
        session->read_at = wq_monotonic_ms();
        if (parse(session, session->buffer, (size_t)r, on, user, error) != 0)
            return -1;
    }
    return 1;
}

long wq_session_write(wq_session *session, const char *bytes, size_t n, wq_error *error)
{
    const long r = wq_link_write(&session->link, bytes, n, error);
    if (r > 0)
        session->written_at = wq_monotonic_ms();
    return r;
}

/* ---- greeting -------------------------------------------------------------------------------- */

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* What was agreed on: `theirs` is "how often they will, how often they want us to". */
static int agree_heartbeats(wq_session *session, const char *theirs)
{
    const int64_t ours = session->options.heartbeat_ms;
    unsigned will = 0, want = 0;
    if (theirs != NULL && (strspn(theirs, "0123456789,") != strlen(theirs) || strlen(theirs) > 19 ||
                           sscanf(theirs, "%u,%u", &will, &want) != 2))
        return -1;
    session->beat_ms = ours > 0 && want > 0 ? larger(larger(ours, want) / 2, 1) : 0;
    session->silence_ms = ours > 0 && will > 0 ? larger(ours, will) * SILENCES : 0;
    return 0;
}

/* Why the broker refuses, in its own words: nothing of a job has been sent by then. A broker that
 * repeats the password is not repeated. */
static int refused(const wq_stomp_frame *frame, const wq_broker_url *url, wq_error *error)
{
    const char *said = wq_stomp_get(frame, "message");
    char body[160];
    const size_t n = frame->body_len < sizeof body ? frame->body_len : sizeof body - 1;
    memcpy(body, frame->body, n);
    body[n] = '\0';
    body[strcspn(body, "\r\n")] = '\0';
    wq_fail(error, -1, "the broker refuses the connection: %.150s: %s", said ? said : "ERROR",
            body);
    if (url->password != NULL && *url->password && strstr(error->message, url->password) != NULL)
        wq_fail(error, -1, "the broker refuses the connection");
    return -1;
}

static int on_answer(void *user, const wq_stomp_frame *frame, wq_error *error)
{
    wq_session *session = user;
    const char *version = wq_stomp_get(frame, "version"), *server = wq_stomp_get(frame, "server");
    if (strcmp(frame->command, "ERROR") == 0)
        return refused(frame, session->url, error);
    if (strcmp(frame->command, "CONNECTED") != 0 || session->answered)
        return wq_fail(error, -1, "the broker answers CONNECT by %s", frame->command);
    if (version == NULL || strcmp(version, "1.2") != 0)
        return wq_fail(error, -1, "the broker does not speak STOMP 1.2");
    if (agree_heartbeats(session, wq_stomp_get(frame, "heart-beat")) != 0)
        return wq_fail(error, -1, "the broker's heart-beat header is malformed");
    snprintf(session->server, sizeof session->server, "%s", server ? server : "");
    session->answered = 1;
    return 0;
}

static int encode_connect(char **bytes, size_t *len, const wq_session *session, wq_error *error)
{
    const wq_broker_url *url = session->url;
    const char *why;
    char beats[32];
    wq_stomp_header headers[5] = {
        {"accept-version", "1.2"}, {"host", url->vhost}, {"heart-beat", beats}};
    size_t n = 3;
    snprintf(beats, sizeof beats, "%u,%u", session->options.heartbeat_ms,
             session->options.heartbeat_ms);
    if (url->user != NULL) {
        headers[n++] = (wq_stomp_header){"login", url->user};
        headers[n++] = (wq_stomp_header){"passcode", url->password};
    }
    if (wq_stomp_write(bytes, len, &(wq_stomp_frame){"CONNECT", headers, n, "", 0, 0}, &why) != 0)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "a frame for the broker: %s", why);
    return WQ_OK;
}

/* Waits until the link can be read, or written if it asks for that. */
static int wait_link(wq_session *session, short events, int64_t deadline, wq_error *error)
{
    struct pollfd fds[] = {{.fd = session->link.fd, .events = events | session->link.events},
                           {.fd = session->options.stop_fd, .events = POLLIN}};
    const int64_t left = deadline - wq_monotonic_ms();
    if (left <= 0)
        return wq_fail(error, -1, "the broker does not answer CONNECT in time");
    if (poll(fds, 2, (int)left) < 0 && errno != EINTR)
        return wq_fail(error, -1, "poll: %s", strerror(errno));
    return fds[1].revents != 0 ? wq_fail(error, -1, "the connection was no longer wanted") : 0;
}

/* Sends CONNECT and reads the answer. */
static int greet(wq_session *session, int64_t deadline, wq_error *error)
{
    char *bytes;
    size_t len, at = 0;
    int r = encode_connect(&bytes, &len, session, error);
    if (r != WQ_OK)
        return -1;
    while (r == 0 && at < len) {
        const long n = wq_session_write(session, bytes + at, len - at, error);
        at += n > 0 ? (size_t)n : 0;
        r = n < 0 ? -1 : n == 0 ? wait_link(session, 0, deadline, error) : 0;
    }
    free(bytes);
    while (r >= 0 && !session->answered) {
        r = wq_session_read(session, on_answer, session, error);
        if (r == 0 && !session->answered)
            r = wait_link(session, POLLIN, deadline, error);
    }
    return r < 0 ? -1 : 0;
}

/* ---- life ------------------------------------------------------------------------------------ */

int wq_session_init(wq_session *session, const wq_session_options *options)
{
    *session = (wq_session){.options = *options, .link = {.fd = -1}};
    session->buffer = malloc(READ_BYTES);
    return session->buffer != NULL ? 0 : -1;
}

void wq_session_dispose(wq_session *session)
{
    wq_stomp_dispose(&session->parser);
    free(session->buffer);
}

static void reset(wq_session *session, const wq_broker_url *url)
{
    wq_stomp_limits limits = read_limits;
    limits.body_bytes = session->options.max_frame_bytes;
    wq_stomp_dispose(&session->parser);
    wq_stomp_init(&session->parser, &limits);
    session->url = url;
    session->answered = 0;
}

int wq_session_open(wq_session *session, const wq_broker_url *url, wq_error *error)
{
    const wq_session_options *o = &session->options;
    const int64_t deadline = wq_monotonic_ms() + o->connect_ms;
    reset(session, url);
    if (wq_link_open(&session->link, url, o->tls, o->stop_fd, deadline, error) != 0)
        return -1;
    if (greet(session, deadline, error) != 0) {
        wq_link_close(&session->link);
        return -1;
    }
    session->read_at = session->written_at = wq_monotonic_ms();
    return 0;
}

void wq_session_close(wq_session *session)
{
    wq_link_close(&session->link);
}

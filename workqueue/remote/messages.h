/* messages.h - what servers and packagers say to each other: the bodies of their messages.
 *
 * All are text. Lines of the form "Name: value" carry what has to be told apart; names are compared
 * without regard to case, unknown ones are passed over, the first of a name counts. Nothing here
 * does I/O, and nothing trusts what it reads: other people's servers and packagers speak too. */
#ifndef WQ_MESSAGES_H
#define WQ_MESSAGES_H

#include <stddef.h>
#include <stdint.h>
#include <workqueue/workqueue.h>

enum {
    WQ_MESSAGE_BYTES = 65536,   /* longest body that is read */
    WQ_REPLY_LINE_BYTES = 8192, /* longest line of progress */
    WQ_REQUEST_ID_SIZE = 257,   /* an id with its NUL; ours are UUIDs, others' are not */
    WQ_NAME_SIZE = 129,         /* a packager's name */
    WQ_DESTINATION_SIZE = 1025,
    WQ_RETURNCODE_OURS = -999, /* of a failure that is not the program's */
};

/* ---- jobs: on the permanent queues ----------------------------------------------------------- */

/* A job, or an output to be deleted. */
typedef struct wq_job_message {
    char id[WQ_REQUEST_ID_SIZE];
    wq_params params; /* checked; in `held` */
    int rebuild;
    int plain; /* it was only a URL */
    char *held;
} wq_job_message;

/* The text for a job of ours; from malloc, NULL: no memory. */
char *wq_job_message_text(const char *id, const wq_params *params, int rebuild);

/* The text for a job in the plain form, see `plain_request` of wq_stomp_options; likewise. */
char *wq_plain_message_text(const char *pattern, const wq_params *params);

/* Reads one, or the plain form: a body that is only a URL, whose last segment is the document set
 * and the id, with the whole URL as the server and "-" as the token. Anything else is
 * WQ_ERROR_INVALID_ARGUMENT and a sentence, and `id` is all that is left: to be answered by, or
 * empty. wq_job_message_clear() it after WQ_OK. */
int wq_job_message_read(wq_job_message *out, const char *body, size_t len, wq_error *error);
void wq_job_message_clear(wq_job_message *message);

/* ---- answers: on a job's transient queue ----------------------------------------------------- */

typedef enum wq_reply_kind {
    WQ_REPLY_OTHER, /* none of those below */
    WQ_REPLY_ACCEPTED,
    WQ_REPLY_PROGRESS,
    WQ_REPLY_COMPLETE,
    WQ_REPLY_FAILED,
    WQ_REPLY_CANCELLED
} wq_reply_kind;

typedef struct wq_reply {
    wq_reply_kind kind;
    uint64_t estimate_ms;           /* ACCEPTED: how long it will take; 0: it does not say */
    char line[WQ_REPLY_LINE_BYTES]; /* PROGRESS: as a program would have written it */
    size_t line_len;
    const char *url; /* COMPLETE: borrowed from the body, url_len bytes */
    size_t url_len;
    int has_size; /* COMPLETE */
    uint64_t size_bytes;
    const char *reason; /* FAILED: borrowed from the body, reason_len bytes */
    size_t reason_len;
} wq_reply;

/* Reads an answer; understands besides ours "Progress: 0.5", "25%", "25 % complete" and a progress
 * record in JSON. */
void wq_reply_read(wq_reply *out, const char *body, size_t len);

/* Like snprintf: the length in full, without the NUL. */
size_t wq_reply_accepted(char *buf, size_t size, uint64_t estimate_ms);
size_t wq_reply_complete(char *buf, size_t size, const char *url, uint64_t size_bytes);
size_t wq_reply_failed(char *buf, size_t size, const char *reason);

/* ---- hints: in a packager's inbox ------------------------------------------------------------ */

typedef enum wq_hint_kind {
    WQ_HINT_OTHER,
    WQ_HINT_JOIN,  /* key, id, reply_to: somebody else asks for what it runs */
    WQ_HINT_CANCEL /* id: look, it is marked as cancelled */
} wq_hint_kind;

/* What a kind does not have is empty. Nothing is lost but time if one gets lost. */
typedef struct wq_hint {
    wq_hint_kind kind;
    char key[WQ_KEY_SIZE];
    char id[WQ_REQUEST_ID_SIZE];
    char reply_to[WQ_DESTINATION_SIZE];
} wq_hint;

/* Reads one; WQ_HINT_OTHER if it is none, or lacks or garbles what its kind has. */
void wq_hint_read(wq_hint *out, const char *body, size_t len);

/* Like snprintf. */
size_t wq_hint_text(char *buf, size_t size, const wq_hint *hint);

/* ---- destinations ---------------------------------------------------------------------------- */

/* Puts `id`, percent-encoded where it is not plain, in place of "{id}" in `pattern`, or behind it.
 * WQ_OK, or WQ_ERROR_INVALID_ARGUMENT if it does not fit. */
int wq_destination(char *buf, size_t size, const char *pattern, const char *id);

/* Where others SEND to a queue that its reader has declared: RabbitMQ would declare a plain name
 * again, otherwise than the reader did, and refuse that; by this name it only looks it up. 0 or -1.
 */
int wq_destination_for_others(char *buf, size_t size, const char *plain, int is_rabbitmq);

/* Where a packager of that name is told something; 0 or -1. */
int wq_inbox(char *buf, size_t size, const char *queue_reply, const char *name);

#endif

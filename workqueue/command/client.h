/* client.h - talks to a server: one question and its answer, or a stream of events. */
#ifndef WQ_COMMAND_CLIENT_H
#define WQ_COMMAND_CLIENT_H

#include <jansson.h>
#include <stddef.h>

#include "workqueue/command/options.h"

/* What the commands that ask a server are told. */
typedef struct client_settings {
    char *secret;                             /* of the operator */
    const char *token_file;                   /* holds the API token; "-": stdin */
    const char *output;                       /* where the output goes */
    const char *state, *server, *set;         /* filters */
    size_t limit;                             /* of a list */
    const char *ca_file;
    int detach, rebuild, json, all;
} client_settings;

extern const option_group client_group, secret_group;

/* Each of these prints what has gone wrong, and gives COMMAND_OK or what to exit with. */

/* Makes `base` of the operand URL, without a slash at its end; from malloc. */
int client_base(const option_set *set, const char *url, char **base);

/* Asks METHOD URL; `form` is an urlencoded body or NULL. `*answer`, if that is not NULL, is the
 * JSON of an answer 2xx, owned: json_decref(). */
int client_ask(const client_settings *c, const char *method, const char *url, const char *form,
               json_t **answer);

/* Asks for a list at URL, which ends with "?" or a field, page by page, until there are `limit` in
 * the answer's array `member`, or all. `*answer` as in client_ask(); its "next" tells whether there
 * are more. */
int client_list(const client_settings *c, const char *url, const char *member, json_t **answer);

/* Writes the body of URL to a file, whole or not at all; "-" is stdout. */
int client_download(const client_settings *c, const char *url, const char *path);

/* Follows the event stream at URL, and takes it up again when it breaks, until on_event gives
 * nonzero. `data` is the JSON of an event. */
int client_follow(const client_settings *c, const char *url,
                  int (*on_event)(void *user, const json_t *data), void *user);

/* Adds NAME=VALUE to a form or a query that it grows, percent-encoded; from malloc. */
char *client_add_field(char *form, const char *name, const char *value);

/* The string at `name`, or "". */
const char *client_text(const json_t *object, const char *name);

/* Frees what options have allocated. */
void client_settings_free(client_settings *c);

#endif

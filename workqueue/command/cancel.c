/* cancel.c - workqueue cancel: ends jobs, each by its URL, or as the operator all that match. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "workqueue/command/client.h"
#include "workqueue/command/command.h"

static const option_row cancel_rows[] = {
    {"state", "STATE", OPTION_TEXT, 0, offsetof(client_settings, state), 0, 0,
     "All jobs in this state are cancelled, queued or running; URL is the server's then."},
    {"server", "URL", OPTION_TEXT, 0, offsetof(client_settings, server), 0, 0,
     "All jobs of this server are cancelled; URL is that of ours then."},
};
static const option_group cancel_group = {"Which", cancel_rows, 2};
static const option_group *const cancel_groups[] = {&cancel_group, &secret_group, &client_group,
                                                    &about_group, NULL};

const option_set cancel_set = {
    .command = "workqueue cancel",
    .usage =
        "workqueue cancel JOB_URL...\n       workqueue cancel --state STATE|--server SERVER URL",
    .about = "Cancels jobs, each by the URL of its page; or, as the operator, all that match.",
    .groups = cancel_groups,
    .max_operands = 1000,
};

static int cancel_all(const option_set *set, const client_settings *c, const char *url)
{
    char *base = NULL, *whole = NULL;
    json_t *answer = NULL;
    int r = client_base(set, url, &base);
    if (r == COMMAND_OK && asprintf(&whole, "%s/jobs?", base) < 0)
        r = COMMAND_FAILED;
    if (r == COMMAND_OK && c->state != NULL)
        whole = client_add_field(whole, "state", c->state);
    if (r == COMMAND_OK && c->server != NULL)
        whole = client_add_field(whole, "server", c->server);
    if (r == COMMAND_OK)
        r = whole ? client_ask(c, "DELETE", whole, NULL, &answer) : COMMAND_FAILED;
    if (r == COMMAND_OK)
        printf("%lld cancelled\n",
               (long long)json_integer_value(json_object_get(answer, "cancelled")));
    json_decref(answer);
    free(whole);
    free(base);
    return r;
}

static int cancel_one(const option_set *set, const client_settings *c, const char *operand)
{
    char *url = NULL;
    int r = client_base(set, operand, &url);
    if (r == COMMAND_OK)
        r = client_ask(c, "DELETE", url, NULL, NULL);
    free(url);
    return r;
}

/* All are tried; the first failure counts. */
static int cancel_each(const option_set *set, const client_settings *c, char **operands, size_t n)
{
    int result = COMMAND_OK;
    for (size_t i = 0; i < n; i++) {
        int r = cancel_one(set, c, operands[i]);
        result = result == COMMAND_OK ? r : result;
    }
    return result;
}

int cancel_main(int argc, char **argv)
{
    client_settings c = {0};
    option_set set = cancel_set;
    char **operands;
    size_t n;
    set.all = &c;
    int r = options_parse(&set, argc, argv, &operands, &n);
    if (r != COMMAND_GO_ON)
        return r;
    if (n == 0)
        r = options_wrong(&set, "a URL is missing");
    else if (c.state != NULL || c.server != NULL)
        r = n == 1 ? cancel_all(&set, &c, operands[0])
                   : options_wrong(&set, "one server at a time, please");
    else
        r = cancel_each(&set, &c, operands, n);
    client_settings_free(&c);
    return r;
}

/* outputs.c - workqueue outputs and workqueue delete: what is stored, and removing it. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "workqueue/command/client.h"
#include "workqueue/command/command.h"
#include "workqueue/command/words.h"

static const option_row outputs_rows[] = {
    {"server", "URL", OPTION_TEXT, 0, offsetof(client_settings, server), 0, 0,
     "Only outputs of this server are meant."},
    {"set", "ID", OPTION_TEXT, 0, offsetof(client_settings, set), 0, 0,
     "Only outputs of this document set are meant, with --server."},
};
static const option_row show_rows[] = {
    {"limit", "N", OPTION_SIZE, 0, offsetof(client_settings, limit), 1, SIZE_MAX,
     "So many are listed at most (1000)."},
    {"json", NULL, OPTION_ON, 0, offsetof(client_settings, json), 0, 0,
     "The list is printed as the server gives it."},
};
static const option_group outputs_group = {"Which", outputs_rows, 2};
static const option_group list_group = {"The list", show_rows, 2};
static const option_group *const outputs_groups[] = {&outputs_group, &list_group,  &secret_group,
                                                     &client_group,  &about_group, NULL};
static const option_group *const delete_groups[] = {&outputs_group, &secret_group, &client_group,
                                                    &about_group, NULL};

const option_set outputs_set = {
    .command = "workqueue outputs",
    .usage = "workqueue outputs [OPTION]... URL",
    .about =
        "Lists the outputs that the server at URL keeps, as its operator: how large each is, how "
        "long ago it was made, and how long ago somebody last asked for it.",
    .groups = outputs_groups,
    .max_operands = 1,
};
const option_set delete_set = {
    .command = "workqueue delete",
    .usage = "workqueue delete URL KEY...\n       workqueue delete --server SERVER [--set SET] URL",
    .about = "Deletes outputs of the server at URL, as its operator: those with the keys that "
             "workqueue outputs lists, or all of a server or of a document set.",
    .groups = delete_groups,
    .max_operands = 1000,
};

/* BASE/outputs with the filters, from malloc; NULL: no memory. */
static char *make_outputs_url(const client_settings *c, const char *base)
{
    char *url = NULL;
    if (asprintf(&url, "%s/outputs?", base) < 0)
        return NULL;
    if (c->server != NULL)
        url = client_add_field(url, "server", c->server);
    if (c->set != NULL)
        url = client_add_field(url, "document_set_id", c->set);
    return url;
}

static void print_outputs(const json_t *answer)
{
    const json_t *output;
    size_t i;
    char made[32], used[32];
    printf("%-64s  %12s  %7s  %7s  %-24s %s\n", "KEY", "BYTES", "AGE", "USED", "SET", "SERVER");
    json_array_foreach(json_object_get(answer, "outputs"), i, output)
    {
        printf("%-64s  %12lld  %7s  %7s  %-24s %s\n", client_text(output, "key"),
               (long long)json_integer_value(json_object_get(output, "bytes")),
               words_age(made, sizeof made, client_text(output, "made_at")),
               words_age(used, sizeof used, client_text(output, "used_at")),
               client_text(output, "document_set_id"), client_text(output, "server"));
    }
    if (*client_text(answer, "next") != '\0')
        puts("There are more: --limit N lists more of them.");
}

static int list_outputs(const option_set *set, const client_settings *c, const char *operand)
{
    char *base = NULL, *url = NULL;
    json_t *answer = NULL;
    int r = client_base(set, operand, &base);
    if (r == COMMAND_OK && (url = make_outputs_url(c, base)) == NULL)
        r = COMMAND_FAILED;
    if (r == COMMAND_OK)
        r = client_list(c, url, "outputs", &answer);
    if (r == COMMAND_OK && c->json)
        json_dumpf(answer, stdout, JSON_INDENT(2) | JSON_ENSURE_ASCII);
    else if (r == COMMAND_OK)
        print_outputs(answer);
    json_decref(answer);
    free(url);
    free(base);
    return r;
}

/* Those of a server or a set: one question, and how many there were. */
static int delete_matching(const client_settings *c, const char *base)
{
    char *url = make_outputs_url(c, base);
    json_t *answer = NULL;
    int r = url ? client_ask(c, "DELETE", url, NULL, &answer) : COMMAND_FAILED;
    if (r == COMMAND_OK)
        printf("%lld deleted\n", (long long)json_integer_value(json_object_get(answer, "deleted")));
    json_decref(answer);
    free(url);
    return r;
}

static int delete_keys(const client_settings *c, const char *base, char **keys, size_t n)
{
    int result = COMMAND_OK;
    for (size_t i = 0; i < n; i++) {
        char *url = NULL;
        int r = asprintf(&url, "%s/outputs/%s", base, keys[i]) < 0
                    ? COMMAND_FAILED
                    : client_ask(c, "DELETE", url, NULL, NULL);
        result = result == COMMAND_OK ? r : result;
        free(url);
    }
    return result;
}

int outputs_main(int argc, char **argv)
{
    client_settings c = {.limit = 1000};
    option_set set = outputs_set;
    char **operands;
    size_t n;
    set.all = &c;
    int r = options_parse(&set, argc, argv, &operands, &n);
    if (r == COMMAND_GO_ON)
        r = n == 1 ? list_outputs(&set, &c, operands[0])
                   : options_wrong(&set, "the URL of the server is missing");
    client_settings_free(&c);
    return r;
}

int delete_main(int argc, char **argv)
{
    client_settings c = {0};
    option_set set = delete_set;
    char **operands, *base = NULL;
    size_t n;
    set.all = &c;
    int r = options_parse(&set, argc, argv, &operands, &n);
    if (r != COMMAND_GO_ON)
        return client_settings_free(&c), r;
    if (n == 0)
        r = options_wrong(&set, "the URL of the server is missing");
    else if ((n == 1) == (c.server == NULL))
        r = options_wrong(&set, "say which: by KEYs, or by --server");
    else
        r = client_base(&set, operands[0], &base);
    if (r == COMMAND_OK)
        r = c.server ? delete_matching(&c, base) : delete_keys(&c, base, operands + 1, n - 1);
    free(base);
    client_settings_free(&c);
    return r;
}

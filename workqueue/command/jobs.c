/* jobs.c - workqueue jobs: the operator's list in a terminal. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "workqueue/command/client.h"
#include "workqueue/command/command.h"
#include "workqueue/command/words.h"

static const option_row jobs_rows[] = {
    {"state", "STATE", OPTION_TEXT, 0, offsetof(client_settings, state), 0, 0,
     "Only jobs in this state are listed: queued, running, publishing, succeeded, failed or "
     "cancelled."},
    {"server", "URL", OPTION_TEXT, 0, offsetof(client_settings, server), 0, 0,
     "Only jobs of this server are listed."},
    {"set", "ID", OPTION_TEXT, 0, offsetof(client_settings, set), 0, 0,
     "Only jobs of this document set are listed."},
    {"limit", "N", OPTION_SIZE, 0, offsetof(client_settings, limit), 1, SIZE_MAX,
     "So many are listed at most (100)."},
    {"json", NULL, OPTION_ON, 0, offsetof(client_settings, json), 0, 0,
     "The list is printed as the server gives it."},
};
static const option_group jobs_group = {"The list", jobs_rows,
                                        sizeof jobs_rows / sizeof *jobs_rows};
static const option_group *const jobs_groups[] = {&jobs_group, &secret_group, &client_group,
                                                  &about_group, NULL};

const option_set jobs_set = {
    .command = "workqueue jobs",
    .usage = "workqueue jobs [OPTION]... URL",
    .about = "Lists the jobs of the server at URL, as its operator.",
    .groups = jobs_groups,
    .max_operands = 1,
};

/* What stands in the last column: the message, or why it has ended. */
static void print_what(const json_t *job)
{
    const char *state = client_text(job, "state"), *text = client_text(job, "message");
    if (strcmp(state, "queued") == 0) {
        printf("%lld ahead",
               (long long)json_integer_value(json_object_get(job, "n_ahead_in_queue")));
        return;
    }
    if (strcmp(state, "failed") == 0) {
        const char *error = client_text(job, "error"), *end = error + strlen(error);
        while (end > error && end[-1] == '\n')
            end--;
        for (text = end; text > error && text[-1] != '\n'; text--)
            continue;
    }
    for (int i = 0; text[i] != '\0' && text[i] != '\n' && i < 100; i++)
        putchar((unsigned char)text[i] < ' ' ? ' ' : text[i]);
}

/* How long ago a running program was last heard of, which tells one that is stuck. */
static const char *heard_ago(const json_t *job, char *buf, size_t size)
{
    const char *heard = client_text(job, "heard_at");
    if (strcmp(client_text(job, "state"), "running") != 0)
        return "-";
    return words_age(buf, size, *heard != '\0' ? heard : client_text(job, "started_at"));
}

static void print_job(const json_t *job)
{
    char heard[32];
    printf("%-10s %3d %%  %-24s %-36s %7s  ", client_text(job, "state"),
           (int)(json_number_value(json_object_get(job, "fraction")) * 100),
           client_text(job, "document_set_id"), client_text(job, "id"),
           heard_ago(job, heard, sizeof heard));
    print_what(job);
    putchar('\n');
}

static void print_jobs(const json_t *answer)
{
    const json_t *jobs = json_object_get(answer, "jobs"), *job;
    size_t i;
    printf("%-10s %-6s %-24s %-36s %7s  %s\n", "STATE", "", "SET", "ID", "HEARD", "WHAT");
    json_array_foreach(jobs, i, job)
    {
        print_job(job);
    }
    if (*client_text(answer, "next") != '\0')
        puts("There are more: --limit N lists more of them.");
}

static int list_jobs(const option_set *set, const client_settings *c, const char *operand)
{
    char *base = NULL, *url = NULL;
    json_t *answer = NULL;
    int r = client_base(set, operand, &base);
    if (r == COMMAND_OK && asprintf(&url, "%s/jobs?", base) < 0)
        r = COMMAND_FAILED;
    if (r == COMMAND_OK && c->state != NULL)
        url = client_add_field(url, "state", c->state);
    if (r == COMMAND_OK && c->server != NULL)
        url = client_add_field(url, "server", c->server);
    if (r == COMMAND_OK && c->set != NULL)
        url = client_add_field(url, "document_set_id", c->set);
    if (r == COMMAND_OK)
        r = url ? client_list(c, url, "jobs", &answer) : COMMAND_FAILED;
    if (r == COMMAND_OK && c->json)
        json_dumpf(answer, stdout, JSON_INDENT(2) | JSON_ENSURE_ASCII);
    else if (r == COMMAND_OK)
        print_jobs(answer);
    json_decref(answer);
    free(url);
    free(base);
    return r;
}

int jobs_main(int argc, char **argv)
{
    client_settings c = {.limit = 100};
    option_set set = jobs_set;
    char **operands;
    size_t n;
    set.all = &c;
    int r = options_parse(&set, argc, argv, &operands, &n);
    if (r == COMMAND_GO_ON)
        r = n == 1 ? list_jobs(&set, &c, operands[0])
                   : options_wrong(&set, "the URL of the server is missing");
    client_settings_free(&c);
    return r;
}

/* start.c - workqueue start: asks a server for a job, and follows it. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "workqueue/command/command.h"
#include "workqueue/command/watch.h"

enum { TOKEN_BYTES = 4096 };

static const option_row start_rows[] = {
    {"token-file", "FILE", OPTION_TEXT, 0, offsetof(client_settings, token_file), 0, 0,
     "The file holds the API token, which a command line would show to everybody; - is stdin "
     "(WORKQUEUE_API_TOKEN, or else none)."},
    {"rebuild", NULL, OPTION_ON, 0, offsetof(client_settings, rebuild), 0, 0,
     "The program runs also if the output is there already."},
    {"detach", NULL, OPTION_ON, 0, offsetof(client_settings, detach), 0, 0,
     "Prints the job's URL and does not wait for its end."},
    {"output", "FILE", OPTION_TEXT, 0, offsetof(client_settings, output), 0, 0,
     "The output is put there when the job has succeeded; - is stdout."},
};
static const option_group start_group = {"The job", start_rows,
                                         sizeof start_rows / sizeof *start_rows};
static const option_group *const start_groups[] = {&start_group, &client_group, &about_group, NULL};

const option_set start_set = {
    .command = "workqueue start",
    .usage = "workqueue start [OPTION]... URL [SERVER [SET]]",
    .about = "Starts a job at the server at URL, as in http://127.0.0.1:8080/, and shows its "
             "progress. Without SERVER and SET these are http://localhost and 1. Ctrl-C only stops "
             "watching; workqueue cancel ends the job.",
    .groups = start_groups,
    .after = "The exit status tells: 0 it has succeeded, 1 it has failed or was refused.",
    .max_operands = 3,
};

/* Reads the token; returns COMMAND_OK. */
static int read_token(const option_set *set, const client_settings *c, char *token)
{
    const char *given = getenv("WORKQUEUE_API_TOKEN"), *path = c->token_file;
    if (path == NULL) {
        snprintf(token, TOKEN_BYTES + 2, "%s", given && *given ? given : "none");
        return COMMAND_OK;
    }
    int is_stdin = strcmp(path, "-") == 0;
    FILE *file = is_stdin ? stdin : fopen(path, "re");
    if (file == NULL)
        return options_wrong(set, "cannot read a token from %s: %s", path, strerror(errno));
    int is_empty = fgets(token, TOKEN_BYTES + 2, file) == NULL;
    if (!is_stdin)
        (void)fclose(file);
    if (is_empty)
        return options_wrong(set, "cannot read a token from %s: it is empty", path);
    token[strcspn(token, "\r\n")] = '\0';
    return COMMAND_OK;
}

static int ask_for_job(const client_settings *c, const char *base, const char *server,
                       const char *document_set, const char *token, char **job_url)
{
    char *url = NULL, *form = NULL;
    json_t *job = NULL;
    int r = COMMAND_FAILED;
    form = client_add_field(form, "server", server);
    form = client_add_field(form, "document_set_id", document_set);
    form = client_add_field(form, "api_token", token);
    if (c->rebuild)
        form = client_add_field(form, "rebuild", "1");
    if (form != NULL && asprintf(&url, "%s/jobs", base) >= 0)
        r = client_ask(c, "POST", url, form, &job);
    if (r == COMMAND_OK && asprintf(job_url, "%s/jobs/%s", base, client_text(job, "id")) < 0)
        r = COMMAND_FAILED;
    json_decref(job);
    if (form != NULL)
        explicit_bzero(form, strlen(form));
    free(form);
    free(url);
    return r;
}

static int start_job(const option_set *set, const client_settings *c, char **operands, size_t n)
{
    char token[TOKEN_BYTES + 2], *base = NULL, *job_url = NULL;
    int r = client_base(set, operands[0], &base);
    if (r == COMMAND_OK)
        r = read_token(set, c, token);
    if (r == COMMAND_OK)
        r = ask_for_job(c, base, n > 1 ? operands[1] : "http://localhost",
                        n > 2 ? operands[2] : "1", token, &job_url);
    explicit_bzero(token, sizeof token);
    if (r == COMMAND_OK && c->detach)
        puts(job_url);
    else if (r == COMMAND_OK) {
        fprintf(stderr, "%s\n", job_url);
        r = watch_job(c, job_url);
    }
    free(job_url);
    free(base);
    return r;
}

int start_main(int argc, char **argv)
{
    client_settings c = {0};
    option_set set = start_set;
    char **operands;
    size_t n;
    set.all = &c;
    int r = options_parse(&set, argc, argv, &operands, &n);
    if (r != COMMAND_GO_ON)
        return r;
    return n > 0 ? start_job(&set, &c, operands, n)
                 : options_wrong(&set, "the URL of the server is missing");
}

/* watch.c - workqueue watch: a job's progress, to its end. */
#include "workqueue/command/watch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "workqueue/command/command.h"
#include "workqueue/command/meter.h"
#include "workqueue/command/words.h"

static const option_row watch_rows[] = {
    {"output", "FILE", OPTION_TEXT, 0, offsetof(client_settings, output), 0, 0,
     "The output is put there when the job has succeeded; - is stdout."},
};
static const option_group watch_group = {"The job", watch_rows, 1};
static const option_group *const watch_groups[] = {&watch_group, &client_group, &about_group, NULL};

const option_set watch_set = {
    .command = "workqueue watch",
    .usage = "workqueue watch [OPTION]... JOB_URL",
    .about = "Shows the progress of a job until it has ended. JOB_URL is that of its page, as in "
             "http://127.0.0.1:8080/jobs/ID. Ctrl-C only stops watching.",
    .groups = watch_groups,
    .after = "The exit status tells: 0 it has succeeded, 1 it has failed or was cancelled, or the "
             "server refuses.",
    .max_operands = 1,
};

typedef struct watcher {
    meter meter;
    int result;
} watcher;

static int on_job_event(void *user, const json_t *job)
{
    watcher *w = user;
    const char *state = client_text(job, "state"), *message = client_text(job, "message");
    double fraction = json_number_value(json_object_get(job, "fraction"));
    int queued = strcmp(state, "queued") == 0;
    if (*state == '\0')
        return 0;
    meter_show_values(&w->meter,
                      (uint64_t)json_integer_value(json_object_get(job, "n_ahead_in_queue")),
                      queued || (fraction <= 0 && *message == '\0') ? -1 : fraction,
                      words_age_ms(client_text(job, "started_at")), message);
    if (strcmp(state, "succeeded") == 0) {
        w->result = COMMAND_OK;
        meter_say(&w->meter, "Done.");
        return 1;
    }
    if (strcmp(state, "failed") != 0 && strcmp(state, "cancelled") != 0)
        return 0;
    meter_end(&w->meter);
    if (strcmp(state, "cancelled") == 0)
        meter_say(&w->meter, "Cancelled.");
    else
        words_print_failure((int)json_integer_value(json_object_get(job, "returncode")),
                            client_text(job, "error"));
    return 1;
}

/* Where the output of the job at this URL is: the server's paths are beside each other. */
static char *output_url(const char *url)
{
    char *whole = NULL;
    const char *jobs = strstr(url, "/jobs/"), *next;
    while (jobs != NULL && (next = strstr(jobs + 1, "/jobs/")) != NULL)
        jobs = next;
    if (jobs == NULL || asprintf(&whole, "%.*s/work/%s", (int)(jobs - url), url, jobs + 6) < 0)
        return NULL;
    return whole;
}

int watch_job(const client_settings *c, const char *url)
{
    watcher w = {.result = COMMAND_FAILED};
    meter_begin(&w.meter);
    int r = client_follow(c, url, on_job_event, &w);
    meter_end(&w.meter);
    r = r == COMMAND_OK ? w.result : r;
    char *link = r == COMMAND_OK ? output_url(url) : NULL;
    if (link != NULL && c->output != NULL)
        r = client_download(c, link, c->output);
    else if (link != NULL)
        printf("%s\n", link);
    free(link);
    return r;
}

int watch_main(int argc, char **argv)
{
    client_settings c = {0};
    option_set set = watch_set;
    char **operands, *url = NULL;
    size_t n;
    set.all = &c;
    int r = options_parse(&set, argc, argv, &operands, &n);
    if (r != COMMAND_GO_ON)
        return r;
    if (n != 1)
        return options_wrong(&set, "the JOB_URL is missing");
    r = client_base(&set, operands[0], &url);
    if (r == COMMAND_OK && url != NULL)
        r = watch_job(&c, url);
    free(url);
    return r;
}

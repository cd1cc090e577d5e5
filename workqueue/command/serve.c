/* serve.c - workqueue serve: a general server for programs. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "workqueue/command/command.h"
#include "workqueue/command/pages.h"

static const option_group *const serve_groups[] = {
    &program_group, &listen_group, &page_group,  &queue_group,  &limit_group,
    &given_group,   &output_group, &http_group,  &broker_group, &sending_group,
    &store_group,   &log_group,    &about_group, NULL};

const option_set serve_set = {
    .command = "workqueue serve",
    .usage = "workqueue serve --program PATH [OPTION]...",
    .about = "Starts a server for programs that take long: people start a run in a browser or by "
             "HTTP, watch its progress as it comes, and fetch what it has made.",
    .groups = serve_groups,
    .after = "SIGTERM and SIGINT stop it in good order, the same once more at once. SIGHUP is only "
             "logged.",
    .own = settings_own,
    .call = settings_call,
    .max_operands = 0,
};

/* A program that is served. */
typedef struct served_program {
    program_settings *p;
    wq_queue *queue;
    page_site *site;
} served_program;

typedef struct serve_state {
    settings s;
    option_set set;
    event_log *log;
    served_program *programs; /* n of them */
    size_t n;
    wq_serve_more *more; /* all but the first */
    wq_server *server;
    unsigned open_files; /* as many as we were given */
} serve_state;

static int refuse(const wq_error *error)
{
    fprintf(stderr, "workqueue serve: %s\n", error->message);
    return COMMAND_WRONG;
}

/* ---- what is worth a warning ----------------------------------------------------------------- */

/* Nonzero if only this machine reaches the address. */
static int is_loopback(const char *address)
{
    return strncmp(address, "127.", 4) == 0 || strncmp(address, "[::1]", 5) == 0 ||
           strncmp(address, "localhost:", 10) == 0 || strncmp(address, "unix:", 5) == 0 ||
           address[0] == '/';
}

/* Nonzero if some program runs for any server. */
static int has_no_allow_list(serve_state *st)
{
    for (size_t i = 0; i < st->n; i++)
        if (st->programs[i].p->allow.n == 0)
            return 1;
    return 0;
}

static void warn_of_open_door(serve_state *st)
{
    char quoted[300];
    for (size_t i = 0; i < st->s.listen.n; i++)
        if (!is_loopback(st->s.listen.items[i]) && has_no_allow_list(st) && st->s.secret == NULL) {
            log_event(st->log, WQ_LOG_WARNING, "event=open_door address=%s msg=%s",
                      log_quote(quoted, sizeof quoted, st->s.listen.items[i]),
                      "\"whoever reaches the port may run the program, for any server: "
                      "--allow-server names those that are meant\"");
            return;
        }
}

/* ---- the life of the server ------------------------------------------------------------------ */

static void on_hangup(void *user)
{
    serve_state *st = user;
    log_event(st->log, WQ_LOG_INFO,
              "event=hangup msg=\"SIGHUP changes nothing: a restart reads "
              "the options anew\"");
}

static const char *on_trouble(void *user, char *buf, size_t size)
{
    return log_trouble(user, buf, size);
}

static int on_page(void *user, h2o_req_t *req)
{
    return pages_answer(user, req);
}

/* Where outputs are and where programs run, if that is not here. */
static int go_remote(serve_state *st, program_settings *p, wq_error *error)
{
    int r = WQ_OK;
    wq_sharing_options sharing;
    wq_sharing_options_init(&sharing, sizeof sharing);
    sharing.log = p->s3.log = p->stomp.log = log_write;
    sharing.log_user = p->s3.log_user = p->stomp.log_user = st->log;
    sharing.max_attempts = p->queue.max_attempts;
    p->s3.cache_dir = p->queue.storage_dir;
    if (p->s3.url != NULL)
        r = wq_s3_store_open(&p->queue.store, &p->s3, error);
    else if (p->store_path != NULL)
        r = wq_shared_folder_open(&p->queue.store, p->store_path, error);
    sharing.store = p->stomp.store = p->queue.store;
    if (r == WQ_OK && p->stomp.urls != NULL)
        r = wq_stomp_runner_open(&p->queue.runner, &p->stomp, error);
    else if (r == WQ_OK && p->store_path != NULL && p->s3.url == NULL)
        r = wq_sharing_runner_open(&p->queue.runner, &sharing, error);
    if (r != WQ_OK && p->queue.store != NULL)
        p->queue.store->close(p->queue.store);
    return r;
}

static int open_program(serve_state *st, served_program *served, wq_error *error)
{
    program_settings *p = served->p;
    p->queue.log = log_write;
    p->queue.log_user = st->log;
    if ((served->site = pages_open(p)) == NULL) {
        snprintf(error->message, sizeof error->message, "%s", wq_strerror(WQ_ERROR_NO_MEMORY));
        return WQ_ERROR_NO_MEMORY;
    }
    p->http.program_name = p->queue.program;
    p->http.trouble = on_trouble;
    p->http.trouble_user = st->log;
    p->http.page = on_page;
    p->http.page_user = served->site;
    p->http.mount_path = p->mount_path;
    int r = go_remote(st, p, error);
    return r == WQ_OK ? wq_open(&served->queue, &p->queue, error) : r;
}

static void tell_start(serve_state *st, const served_program *served)
{
    char program[600], storage[600], journal[600];
    const program_settings *p = served->p;
    wq_stats stats;
    wq_queue_stats(served->queue, &stats);
    log_event(
        st->log, WQ_LOG_INFO,
        "event=start version=%s address=%s path=%s/ program=%s storage=%s journal=%s resumed=%zu",
        wq_version(), wq_server_address(st->server), p->mount_path ? p->mount_path : "",
        log_quote(program, sizeof program, p->queue.program),
        log_quote(storage, sizeof storage, p->queue.storage_dir),
        log_quote(journal, sizeof journal, p->queue.journal_path ? p->queue.journal_path : "none"),
        stats.queued + stats.running);
}

static void add_pages(void *user, wq_http *http, h2o_hostconf_t *host)
{
    serve_state *st = user;
    (void)http;
    for (size_t i = 0; i < st->n; i++)
        pages_mount(st->programs[i].site, host);
    if (*st->programs[0].p->name != '\0')
        pages_mount_choice(&st->s, host);
}

/* Runs until it is told to stop; every queue is open. */
static int serve(serve_state *st)
{
    wq_error error;
    wq_serve_options *options = &st->s.serve;
    options->http = st->programs[0].p->http;
    for (size_t i = 1; i < st->n; i++)
        st->more[i - 1] = (wq_serve_more){st->programs[i].queue, st->programs[i].p->http};
    options->more = st->more;
    options->n_more = st->n - 1;
    options->listen = st->s.listen.items[0];
    options->listen_also = st->s.listen.items + 1;
    options->n_listen_also = st->s.listen.n - 1;
    options->notify_systemd = 1;
    options->routes = add_pages;
    options->user = st;
    options->log = log_write;
    options->log_user = st->log;
    if (wq_serve(&st->server, st->programs[0].queue, options, &error) != WQ_OK)
        return refuse(&error);
    for (size_t i = 0; i < st->n; i++)
        tell_start(st, &st->programs[i]);
    warn_of_open_door(st);
    printf("listening on %s%s\n",
           strncmp(wq_server_address(st->server), "unix:", 5) == 0 ? "" : "http://",
           wq_server_address(st->server));
    fflush(stdout);
    int number = host_wait(on_hangup, st);
    log_event(st->log, WQ_LOG_INFO, "event=stopping signal=%s",
              number == SIGINT ? "SIGINT" : "SIGTERM");
    wq_server_stop(st->server);
    return COMMAND_OK;
}

static int serve_programs(serve_state *st)
{
    wq_error error;
    int r = COMMAND_GO_ON;
    st->n = settings_count(&st->s);
    st->programs = calloc(st->n, sizeof *st->programs);
    st->more = calloc(st->n, sizeof *st->more);
    if (st->programs == NULL || st->more == NULL)
        return options_wrong(&st->set, "there is no memory for %zu programs", st->n);
    for (size_t i = 0; i < st->n; i++) {
        st->programs[i].p = settings_program(&st->s, i);
        host_raise_open_files(&st->programs[i].p->queue, &st->open_files);
    }
    for (size_t i = 0; i < st->n && r == COMMAND_GO_ON; i++)
        if (open_program(st, &st->programs[i], &error) != WQ_OK)
            r = refuse(&error);
    if (r == COMMAND_GO_ON)
        r = serve(st);
    for (size_t i = 0; i < st->n; i++) {
        wq_close(st->programs[i].queue);
        pages_close(st->programs[i].site);
    }
    if (r == COMMAND_OK)
        log_event(st->log, WQ_LOG_INFO, "event=stopped");
    free(st->programs);
    free(st->more);
    return r;
}

int serve_main(int argc, char **argv)
{
    static serve_state st;
    static const char *default_listen[] = {"127.0.0.1:8080", NULL};
    char **operands;
    size_t n;
    settings_init(&st.s);
    st.set = serve_set;
    st.set.all = &st.s;
    int r = settings_read_config(&st.s, &st.set, argc, argv);
    if (r == COMMAND_GO_ON)
        r = options_parse(&st.set, argc, argv, &operands, &n);
    if (r == COMMAND_GO_ON)
        r = settings_finish(&st.s, &st.set);
    if (r != COMMAND_GO_ON) {
        settings_free(&st.s);
        return r;
    }
    if (st.s.listen.n == 0)
        st.s.listen = (text_list){default_listen, 1};
    host_begin();
    st.log = log_open(&st.s.log);
    r = serve_programs(&st);
    log_close(st.log);
    if (st.s.listen.items == default_listen)
        st.s.listen = (text_list){0};
    settings_free(&st.s);
    return r;
}

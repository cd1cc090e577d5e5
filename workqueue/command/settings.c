/* settings.c - from options to the structures of the library: a file of options, defaults, folders.
 */
#include "workqueue/command/settings.h"

#include <errno.h>
#include <ini.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define JOURNAL_SUFFIX "-journal.sqlite" /* beside the storage, where no output can be */

static void program_init(program_settings *p)
{
    *p = (program_settings){
        .name = "", .folder = "outputs", .fields = "server,set,token", .result_name = "{set}"};
    p->label[0] = "Server";
    p->label[1] = "Document set";
    p->label[2] = "API token";
    p->hint[0] = p->hint[1] = p->hint[2] = "";
    p->about = "";
    wq_options_init(&p->queue, sizeof p->queue);
    p->queue.cgroup_dir = "auto";
    wq_http_options_init(&p->http, sizeof p->http);
    wq_stomp_options_init(&p->stomp, sizeof p->stomp);
    wq_s3_options_init(&p->s3, sizeof p->s3);
}

void settings_init(settings *s)
{
    memset(s, 0, sizeof *s);
    program_init(&s->all);
    wq_serve_options_init(&s->serve, sizeof s->serve);
    s->log.level = WQ_LOG_INFO;
}

static void program_free(program_settings *p)
{
    text_list_free(&p->environment);
    text_list_free(&p->allow);
    free(p->storage_dir);
    free(p->store_path);
    free(p->journal_path);
    free(p->mount_path);
}

void settings_free(settings *s)
{
    for (size_t i = 0; i < s->n_programs; i++)
        program_free(&s->programs[i]);
    free(s->programs);
    program_free(&s->all);
    for (size_t i = 0; i < s->kept.n; i++)
        free((char *)s->kept.items[i]);
    text_list_free(&s->kept);
    text_list_free(&s->listen);
    text_list_free(&s->proxies);
    if (s->secret != NULL)
        explicit_bzero(s->secret, strlen(s->secret));
    free(s->secret);
}

/* ---- programs -------------------------------------------------------------------------------- */

/* Options that come before any program are for all there are, and for those to come. */
void *settings_own(void *all, size_t i)
{
    settings *s = all;
    if (s->current != 0)
        return i == 0 ? &s->programs[s->current - 1] : NULL;
    if (i == 0)
        return &s->all;
    return i <= s->n_programs ? &s->programs[i - 1] : NULL;
}

size_t settings_count(const settings *s)
{
    return s->n_programs ? s->n_programs : 1;
}

program_settings *settings_program(settings *s, size_t i)
{
    return s->n_programs ? &s->programs[i] : &s->all;
}

/* A text of ours that lives as long as the settings; NULL: no memory. */
static const char *keep_text(settings *s, const char *text, size_t n)
{
    const char **grown = realloc(s->kept.items, (s->kept.n + 1) * sizeof *grown);
    if (grown == NULL)
        return NULL;
    s->kept.items = grown;
    char *copy = strndup(text, n);
    if (copy != NULL)
        grown[s->kept.n++] = copy;
    return copy;
}

static int copy_list(text_list *out, const text_list *list)
{
    *out = (text_list){0};
    if (list->n == 0)
        return 0;
    out->items = malloc((list->n + 1) * sizeof *out->items);
    if (out->items == NULL)
        return -1;
    memcpy(out->items, list->items, (list->n + 1) * sizeof *out->items);
    out->n = list->n;
    return 0;
}

/* The program of this name, which is made if there is none yet; 0, or -1: no memory. */
static int select_program(settings *s, const char *name, size_t n)
{
    for (size_t i = 0; i < s->n_programs; i++)
        if (strlen(s->programs[i].name) == n && memcmp(s->programs[i].name, name, n) == 0) {
            s->current = i + 1;
            return 0;
        }
    program_settings *grown = realloc(s->programs, (s->n_programs + 1) * sizeof *grown);
    if (grown == NULL)
        return -1;
    s->programs = grown;
    program_settings *p = &grown[s->n_programs];
    *p = s->all;
    p->name = keep_text(s, name, n);
    if (p->name == NULL || copy_list(&p->environment, &s->all.environment) != 0)
        return -1;
    if (copy_list(&p->allow, &s->all.allow) != 0) {
        text_list_free(&p->environment);
        return -1;
    }
    s->current = ++s->n_programs;
    return 0;
}

/* How long the name in "NAME=PATH" is; 0: there is none, and all is the path. */
static size_t name_length(const char *value)
{
    size_t n = strspn(value, "abcdefghijklmnopqrstuvwxyz0123456789-_");
    return value[n] == '=' ? n : 0;
}

static int take_program(settings *s, const char *value)
{
    size_t n = name_length(value);
    if (n != 0 && select_program(s, value, n) != 0)
        return -1;
    program_settings *p = s->current != 0 ? &s->programs[s->current - 1] : &s->all;
    p->queue.program = n != 0 ? value + n + 1 : value;
    return 0;
}

static int take_level(settings *s, const char *value)
{
    static const char *const names[] = {"error", "warning", "info"};
    for (int i = 0; i < 3; i++)
        if (strcmp(value, names[i]) == 0) {
            s->log.level = i;
            return 0;
        }
    return -1;
}

int settings_call(void *all, const option_row *row, const char *value)
{
    settings *s = all;
    const char *expected = NULL;
    if (strcmp(row->name, "program") == 0)
        expected = take_program(s, value) == 0 ? NULL : "memory";
    else if (strcmp(row->name, "log-level") == 0)
        expected = take_level(s, value) == 0 ? NULL : "error, warning or info";
    else if (strcmp(row->name, "log-format") == 0)
        expected = strcmp(value, "text") == 0 || strcmp(value, "json") == 0 ? NULL : "text or json";
    if (strcmp(row->name, "log-format") == 0)
        s->log.json = strcmp(value, "json") == 0;
    if (expected == NULL)
        return COMMAND_GO_ON;
    fprintf(stderr, "workqueue: --%s takes %s, not '%s'; see --help.\n", row->name, expected,
            value);
    return COMMAND_WRONG;
}

/* ---- a file of options ----------------------------------------------------------------------- */

typedef struct config_file {
    settings *s;
    const option_set *set;
    const char *path;
    FILE *file;
    unsigned line;
    int result, too_long;
} config_file;

/* Like fgets, but counts lines, and takes none that the library would cut in two. */
static char *read_config_line(char *buf, int size, void *user)
{
    config_file *c = user;
    if (c->result != COMMAND_GO_ON || fgets(buf, size, c->file) == NULL)
        return NULL;
    c->line++;
    size_t n = strlen(buf);
    if (n + 1 == (size_t)size && buf[n - 1] != '\n' && !feof(c->file)) {
        c->result = options_wrong(c->set,
                                  "%s:%u: a line has at most %d characters; the rest of a "
                                  "list goes on lines that begin with a blank",
                                  c->path, c->line, size - 2);
        return NULL;
    }
    return buf;
}

static int on_config_value(void *user, const char *section, const char *name, const char *value)
{
    config_file *c = user;
    char where[300];
    snprintf(where, sizeof where, "%s:%u", c->path, c->line);
    c->s->current = 0;
    const char *copy = keep_text(c->s, value, strlen(value));
    if (copy == NULL || (*section != '\0' && select_program(c->s, section, strlen(section)) != 0))
        c->result = options_wrong(c->set, "%s: there is no memory", where);
    else if (*section != '\0' &&
             strspn(section, "abcdefghijklmnopqrstuvwxyz0123456789-_") != strlen(section))
        c->result = options_wrong(
            c->set, "%s: the name of a program has small letters, digits, - and _, not '%s'", where,
            section);
    else if (strcmp(name, "config") == 0)
        c->result = options_wrong(c->set, "%s: one file is enough", where);
    else
        c->result = options_set(c->set, name, copy, where);
    return c->result == COMMAND_GO_ON;
}

static int read_config(settings *s, const option_set *set, const char *path)
{
    config_file c = {.s = s, .set = set, .path = path, .result = COMMAND_GO_ON};
    c.file = fopen(path, "re");
    if (c.file == NULL)
        return options_wrong(set, "cannot read %s: %s", path, strerror(errno));
    int wrong_line = ini_parse_stream(read_config_line, &c, on_config_value, &c);
    fclose(c.file);
    s->current = 0;
    if (c.result == COMMAND_GO_ON && wrong_line != 0)
        return options_wrong(set,
                             "%s:%d: a line is NAME = VALUE, [PROGRAM] or a comment behind # "
                             "or ;",
                             path, wrong_line);
    return c.result;
}

int settings_read_config(settings *s, const option_set *set, int argc, char **argv)
{
    const char *path = NULL;
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strncmp(argv[i], "--config=", 9) == 0)
            path = argv[i] + 9;
        else if (strcmp(argv[i], "--config") == 0 && i + 1 < argc)
            path = argv[i + 1];
    }
    return path != NULL && *path != '\0' ? read_config(s, set, path) : COMMAND_GO_ON;
}

/* ---- defaults -------------------------------------------------------------------------------- */

/* 0: it is a folder, and ours to write to; else -1 with errno. */
static int make_folders(const char *path)
{
    struct stat st;
    char *copy = strdup(path);
    int r = copy == NULL ? -1 : 0;
    for (char *slash = copy; r == 0 && slash != NULL;) {
        slash = strchr(slash + 1, '/');
        if (slash != NULL)
            *slash = '\0';
        if (mkdir(copy, 0700) != 0 && errno != EEXIST)
            r = -1;
        if (slash != NULL)
            *slash = '/';
    }
    free(copy);
    if (r == 0 && stat(path, &st) == 0 && !S_ISDIR(st.st_mode))
        errno = ENOTDIR, r = -1;
    return r == 0 ? access(path, W_OK | X_OK) : r;
}

/* FNV-1a: tells programs of the same name in different folders apart. */
static unsigned hash_of(const char *text)
{
    unsigned hash = 2166136261u;
    for (; *text != '\0'; text++)
        hash = (hash ^ (unsigned char)*text) * 16777619u;
    return hash;
}

/* The folder below which all of a program's is, if nothing was said: systemd's, or one in the home
 * folder that no other program has; from malloc, NULL: there is none. */
static char *state_folder(const program_settings *p)
{
    const char *given = getenv("STATE_DIRECTORY"), *xdg = getenv("XDG_STATE_HOME");
    const char *home = getenv("HOME"), *program = p->queue.program ? p->queue.program : "";
    char *real = realpath(program, NULL), *path = NULL;
    const char *base = strrchr(program, '/') ? strrchr(program, '/') + 1 : program;
    int n = -1;
    if (given != NULL && *given != '\0')
        n = asprintf(&path, "%.*s%s%s", (int)strcspn(given, ":"), given, *p->name ? "/" : "",
                     p->name);
    else if (xdg != NULL && *xdg == '/')
        n = asprintf(&path, "%s/workqueue/%s-%08x", xdg, base, hash_of(real ? real : program));
    else if (home != NULL && *home == '/')
        n = asprintf(&path, "%s/.local/state/workqueue/%s-%08x", home, base,
                     hash_of(real ? real : program));
    free(real);
    return n < 0 ? NULL : path;
}

static int choose_storage(settings *s, const option_set *set, program_settings *p)
{
    char *state = NULL;
    int n;
    if (p->queue.storage_dir == NULL) {
        if ((state = state_folder(p)) == NULL)
            return options_wrong(set, "there is no $HOME for outputs, give a folder by --storage");
        n = asprintf(&p->storage_dir, "%s/%s", state, p->folder);
        free(state);
    } else if (s->n_programs > 1 && p->queue.storage_dir == s->all.queue.storage_dir) {
        n = asprintf(&p->storage_dir, "%s/%s", p->queue.storage_dir, p->name);
    } else {
        n = asprintf(&p->storage_dir, "%s", p->queue.storage_dir);
    }
    if (n < 0) {
        p->storage_dir = NULL;
        return options_wrong(set, "there is no memory for a path");
    }
    p->queue.storage_dir = p->storage_dir;
    if (make_folders(p->storage_dir) != 0)
        return options_wrong(set, "cannot use the folder %s for outputs: %s", p->storage_dir,
                             strerror(errno));
    return COMMAND_GO_ON;
}

/* Programs that were given one store have a place of their own in it: their keys are the same. */
static int choose_store(const settings *s, const option_set *set, program_settings *p)
{
    int is_common = s->n_programs > 1 && p->store != NULL && p->store == s->all.store;
    if (p->store == NULL)
        return COMMAND_GO_ON;
    if (asprintf(&p->store_path, "%s%s%s", p->store, is_common ? "/" : "",
                 is_common ? p->name : "") < 0) {
        p->store_path = NULL;
        return options_wrong(set, "there is no memory for a path");
    }
    if (strncmp(p->store_path, "s3://", 5) == 0)
        p->s3.url = p->store_path;
    else if (make_folders(p->store_path) != 0)
        return options_wrong(set, "cannot use the folder %s for outputs: %s", p->store_path,
                             strerror(errno));
    return COMMAND_GO_ON;
}

/* By its real name: a journal is for one folder, however that is reached. */
static int choose_journal(settings *s, const option_set *set, program_settings *p)
{
    int n, shared = s->n_programs > 1 && p->journal != NULL && p->journal == s->all.journal;
    char *folder;
    if (p->journal != NULL && strcmp(p->journal, "none") == 0)
        return COMMAND_GO_ON;
    if (p->journal != NULL) {
        n = asprintf(&p->journal_path, shared ? "%s-%s" : "%s", p->journal, p->name);
    } else {
        if ((folder = realpath(p->storage_dir, NULL)) == NULL)
            return COMMAND_GO_ON; /* for wq_open() to complain of */
        n = asprintf(&p->journal_path, "%s" JOURNAL_SUFFIX, folder);
        free(folder);
    }
    if (n < 0) {
        p->journal_path = NULL;
        return options_wrong(set, "there is no memory for a path");
    }
    p->queue.journal_path = p->journal_path;
    return COMMAND_GO_ON;
}

static int finish_program(settings *s, const option_set *set, program_settings *p)
{
    if (p->queue.program == NULL && *p->name != '\0')
        return options_wrong(set, "the program of [%s] is missing", p->name);
    if (p->stomp.urls == NULL)
        p->stomp.urls = getenv("WORKQUEUE_BROKER"); /* as ps shows what is in --broker */
    if (p->environment.n > 0)
        p->queue.environment = p->environment.items;
    p->http.allow_servers = p->allow.items;
    p->http.n_allow_servers = p->allow.n;
    p->http.trust_proxies = s->proxies.items;
    p->http.n_trust_proxies = s->proxies.n;
    p->http.operator_secret = s->secret;
    p->stomp.max_fetch_bytes = p->queue.max_output_bytes;
    if (*p->name != '\0' && asprintf(&p->mount_path, "/%s", p->name) < 0) {
        p->mount_path = NULL;
        return options_wrong(set, "there is no memory for a path");
    }
    int r = choose_store(s, set, p);
    if (r == COMMAND_GO_ON)
        r = choose_storage(s, set, p);
    return r == COMMAND_GO_ON ? choose_journal(s, set, p) : r;
}

int settings_finish(settings *s, const option_set *set)
{
    int r = COMMAND_GO_ON;
    if (s->n_programs == 0 && s->all.queue.program == NULL)
        return options_wrong(set, "--program is missing");
    if (s->n_programs != 0 && s->all.queue.program != NULL)
        return options_wrong(set, "of several programs each has a name: --program NAME=%s",
                             s->all.queue.program);
    for (size_t i = 0; r == COMMAND_GO_ON && i < settings_count(s); i++)
        r = finish_program(s, set, settings_program(s, i));
    return r;
}

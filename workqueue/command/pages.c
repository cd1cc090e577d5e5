/* pages.c - which path is which page, and the words of options in it.
 *
 * In a page {{NAME}} stands for a value, escaped for HTML. {{base}} is how the browser comes from
 * the page's own path to where the server's paths begin: relative, so that a prefix that a proxy
 * puts in front, or takes away, changes nothing. */
#include "workqueue/command/pages.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "workqueue/command/embedded.h"

enum { STALL_MS = 60000 }; /* a silent run counts as stalled after this, or half its own limit */

struct page_site {
    const program_settings *p;
    char tag[20]; /* of what never changes while the binary is the same */
};

typedef struct page_handler {
    h2o_handler_t super;
    page_site *site;
} page_handler;

/* Nobody but us, and nothing inline: what a program writes is text, whatever it looks like. */
static const char policy[] =
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/* ---- words ----------------------------------------------------------------------------------- */

static void put_escaped(FILE *out, const char *text)
{
    for (; *text != '\0'; text++)
        switch (*text) {
        case '&':
            fputs("&amp;", out);
            break;
        case '<':
            fputs("&lt;", out);
            break;
        case '>':
            fputs("&gt;", out);
            break;
        case '"':
            fputs("&quot;", out);
            break;
        default:
            fputc(*text, out);
        }
}

static const char *title_of(const program_settings *p)
{
    const char *slash = p->queue.program ? strrchr(p->queue.program, '/') : NULL;
    if (p->title != NULL)
        return p->title;
    if (*p->name != '\0')
        return p->name;
    return slash ? slash + 1 : p->queue.program ? p->queue.program : "workqueue";
}

/* Nonzero if the start page asks for this field. */
static int asks_for(const program_settings *p, const char *field)
{
    size_t n = strlen(field);
    for (const char *s = p->fields; s != NULL; s = strchr(s, ',') ? strchr(s, ',') + 1 : NULL)
        if (strncmp(s, field, n) == 0 && (s[n] == ',' || s[n] == '\0'))
            return 1;
    return 0;
}

/* What a field of the form begins with, where it is not asked for. */
static const char *constant_of(const program_settings *p, const char *field)
{
    if (asks_for(p, field))
        return "";
    return strcmp(field, "server") == 0 ? "http://localhost"
           : strcmp(field, "set") == 0  ? "1"
                                        : "none";
}

static void put_number(FILE *out, unsigned long long n)
{
    if (n != 0)
        fprintf(out, "%llu", n);
}

/* "server-label" and the like; 1 if it was one of these. */
static int put_field_word(FILE *out, const program_settings *p, const char *name, size_t n)
{
    static const char *const fields[] = {"server", "set", "token"};
    for (int i = 0; i < 3; i++) {
        size_t m = strlen(fields[i]);
        if (n > 5 && memcmp(name, "hide-", 5) == 0 && n == 5 + m &&
            memcmp(name + 5, fields[i], m) == 0)
            return fputs(asks_for(p, fields[i]) ? "" : "hidden", out), 1;
        if (n != m + 6 || memcmp(name, fields[i], m) != 0)
            continue;
        if (memcmp(name + m, "-label", 6) == 0)
            return put_escaped(out, p->label[i]), 1;
        if (memcmp(name + m, "-value", 6) == 0)
            return put_escaped(out, constant_of(p, fields[i])), 1;
    }
    for (int i = 0; i < 3; i++)
        if (n == strlen(fields[i]) + 5 && memcmp(name, fields[i], n - 5) == 0 &&
            memcmp(name + n - 5, "-hint", 5) == 0)
            return put_escaped(out, p->hint[i]), 1;
    return 0;
}

static void put_word(FILE *out, const program_settings *p, const char *name, size_t n,
                     const char *base)
{
    unsigned limit = p->queue.progress_timeout_ms;
#define IS(word) (n == strlen(word) && memcmp(name, word, n) == 0)
    if (put_field_word(out, p, name, n))
        return;
    if (IS("base"))
        put_escaped(out, base);
    else if (IS("home"))
        put_escaped(out, *base ? base : "./");
    else if (IS("title"))
        put_escaped(out, title_of(p));
    else if (IS("about"))
        put_escaped(out, p->about);
    else if (IS("fields"))
        put_escaped(out, p->fields);
    else if (IS("result-name"))
        put_escaped(out, p->result_name);
    else if (IS("stall-ms"))
        put_number(out, limit != 0 && limit / 2 < STALL_MS ? limit / 2 : STALL_MS);
    else if (IS("silence-limit-ms"))
        put_number(out, limit);
    else if (IS("keep-s"))
        put_number(out, p->queue.retain_age_s);
#undef IS
}

static void put_page(FILE *out, const program_settings *p, const embedded_file *file,
                     const char *base)
{
    const char *at = file->text, *end = file->text + file->size;
    while (at < end) {
        const char *open = memmem(at, (size_t)(end - at), "{{", 2);
        const char *close = open ? memmem(open, (size_t)(end - open), "}}", 2) : NULL;
        if (close == NULL)
            break;
        (void)fwrite(at, 1, (size_t)(open - at), out);
        put_word(out, p, open + 2, (size_t)(close - open - 2), base);
        at = close + 2;
    }
    (void)fwrite(at, 1, (size_t)(end - at), out);
}

/* ---- answers --------------------------------------------------------------------------------- */

static void add_header(h2o_req_t *req, const char *name, const char *value)
{
    h2o_set_header_by_str(&req->pool, &req->res.headers, name, strlen(name), 1, value,
                          strlen(value), 1);
}

static int is_get(const h2o_req_t *req)
{
    return h2o_memis(req->method.base, req->method.len, H2O_STRLIT("GET")) ||
           h2o_memis(req->method.base, req->method.len, H2O_STRLIT("HEAD"));
}

static int wants_html(h2o_req_t *req)
{
    ssize_t i = h2o_find_header(&req->headers, H2O_TOKEN_ACCEPT, -1);
    if (i < 0)
        return 0;
    h2o_iovec_t value = req->headers.entries[i].value;
    return h2o_strstr(value.base, value.len, H2O_STRLIT("text/html")) != SIZE_MAX;
}

/* As many steps up as there are folders below `depth` in the path that the browser sees. */
static const char *make_base(h2o_req_t *req, h2o_iovec_t below)
{
    size_t n = 0;
    if (below.base == NULL) /* "/NAME": it begins one step further down */
        return h2o_concat(
                   &req->pool,
                   h2o_iovec_init(req->path_normalized.base + 1, req->path_normalized.len - 1),
                   h2o_iovec_init(H2O_STRLIT("/")))
            .base;
    for (size_t i = 0; i < below.len; i++)
        n += below.base[i] == '/';
    char *base = h2o_mem_alloc_pool(&req->pool, n * 3 + 1);
    for (size_t i = 0; i < n; i++)
        memcpy(base + i * 3, "../", 3);
    base[n * 3] = '\0';
    return base;
}

/* `text` is from malloc, and given up. */
static int send_html(h2o_req_t *req, char *text, size_t size)
{
    add_header(req, "cache-control", "no-cache");
    add_header(req, "content-security-policy", policy);
    add_header(req, "referrer-policy", "no-referrer");
    add_header(req, "x-content-type-options", "nosniff");
    add_header(req, "cross-origin-opener-policy", "same-origin");
    add_header(req, "vary", "accept");
    wq_http_send(req, 200, "text/html; charset=utf-8", text, size);
    free(text);
    return 0;
}

static int send_page(page_site *site, h2o_req_t *req, const char *name, h2o_iovec_t below)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    if (out == NULL)
        return wq_http_problem(req, 500, "There is no memory for the page.");
    put_page(out, site->p, embedded_find(name, strlen(name)), make_base(req, below));
    fclose(out);
    return send_html(req, text, size);
}

static int has_tag(h2o_req_t *req, const char *tag)
{
    ssize_t i = h2o_find_header(&req->headers, H2O_TOKEN_IF_NONE_MATCH, -1);
    return i >= 0 && h2o_memis(req->headers.entries[i].value.base,
                               req->headers.entries[i].value.len, tag, strlen(tag));
}

static int send_part(page_site *site, h2o_req_t *req, h2o_iovec_t name)
{
    const embedded_file *file = embedded_find(name.base, name.len);
    if (file == NULL || strstr(file->name, ".html") != NULL)
        return wq_http_problem(req, 404, "There is nothing at this path.");
    add_header(req, "cache-control", "no-cache");
    add_header(req, "etag", site->tag);
    add_header(req, "x-content-type-options", "nosniff");
    if (has_tag(req, site->tag))
        return wq_http_send(req, 304, file->type, "", 0);
    return wq_http_send(req, 200, file->type, file->text, file->size);
}

/* The path below where the program's paths begin, without its first slash. */
static h2o_iovec_t path_below(const page_site *site, const h2o_req_t *req)
{
    size_t skip = 1 + (*site->p->name ? strlen(site->p->name) + 1 : 0);
    h2o_iovec_t path = req->path_normalized;
    return path.len < skip ? h2o_iovec_init(NULL, 0)
                           : h2o_iovec_init(path.base + skip, path.len - skip);
}

static int starts_with(h2o_iovec_t text, const char *start)
{
    return text.len >= strlen(start) && memcmp(text.base, start, strlen(start)) == 0;
}

int pages_answer(page_site *site, h2o_req_t *req)
{
    h2o_iovec_t below = path_below(site, req), path = below;
    if (!is_get(req))
        return -1;
    while (path.len > 0 && path.base[path.len - 1] == '/')
        path.len--;
    if (path.len == 0)
        return send_page(site, req, "run.html", below);
    if (h2o_memis(path.base, path.len, H2O_STRLIT("login")))
        return send_page(site, req, "login.html", below);
    if (starts_with(path, "pages/"))
        return send_part(site, req, h2o_iovec_init(path.base + 6, path.len - 6));
    if (!wants_html(req))
        return -1;
    if (h2o_memis(path.base, path.len, H2O_STRLIT("jobs")))
        return send_page(site, req, "jobs.html", below);
    if (starts_with(path, "jobs/") && memchr(path.base + 5, '/', path.len - 5) == NULL)
        return send_page(site, req, "job.html", below);
    return -1;
}

/* ---- mounting -------------------------------------------------------------------------------- */

static int on_page_request(h2o_handler_t *handler, h2o_req_t *req)
{
    page_handler *own = (page_handler *)handler;
    if (pages_answer(own->site, req) == 0)
        return 0;
    if (wq_http_method(req, "GET, HEAD, OPTIONS"))
        return 0;
    return wq_http_problem(req, 404, "There is nothing at this path.");
}

void pages_mount(page_site *site, h2o_hostconf_t *host)
{
    char path[300];
    snprintf(path, sizeof path, "/%s", site->p->name);
    h2o_pathconf_t *conf = h2o_config_register_path(host, path, 0);
    page_handler *handler = (page_handler *)h2o_create_handler(conf, sizeof *handler);
    handler->super.on_req = on_page_request;
    handler->site = site;
}

typedef struct choice_handler {
    h2o_handler_t super;
    settings *s;
} choice_handler;

static void put_programs(FILE *out, settings *s)
{
    for (size_t i = 0; i < settings_count(s); i++) {
        const program_settings *p = settings_program(s, i);
        fprintf(out, "<li><a href=\"%s/\">", p->name);
        put_escaped(out, title_of(p));
        fputs("</a> <small class=\"end\">", out);
        put_escaped(out, p->about);
        fputs("</small></li>\n", out);
    }
}

/* The one word that is a list is put in here; the style is that of the first program. */
static void put_choice(FILE *out, settings *s)
{
    const embedded_file *file = embedded_find("programs.html", strlen("programs.html"));
    const char *mark = "{{programs}}", *at = file->text, *found;
    char base[300];
    while ((found = memmem(at, (size_t)(file->text + file->size - at), "{{", 2)) != NULL) {
        (void)fwrite(at, 1, (size_t)(found - at), out);
        if (strncmp(found, mark, strlen(mark)) == 0)
            put_programs(out, s);
        else
            put_escaped(out,
                        (snprintf(base, sizeof base, "%s/", settings_program(s, 0)->name), base));
        at = strstr(found, "}}") + 2;
    }
    (void)fwrite(at, 1, (size_t)(file->text + file->size - at), out);
}

static int on_choice_request(h2o_handler_t *handler, h2o_req_t *req)
{
    char *text = NULL;
    size_t size;
    if (wq_http_method(req, "GET, HEAD, OPTIONS"))
        return 0;
    if (req->path_normalized.len != 1)
        return wq_http_problem(req, 404, "There is nothing at this path.");
    FILE *out = open_memstream(&text, &size);
    if (out == NULL)
        return wq_http_problem(req, 500, "There is no memory for the page.");
    put_choice(out, ((choice_handler *)handler)->s);
    fclose(out);
    return send_html(req, text, size);
}

void pages_mount_choice(settings *s, h2o_hostconf_t *host)
{
    h2o_pathconf_t *conf = h2o_config_register_path(host, "/", 0);
    choice_handler *handler = (choice_handler *)h2o_create_handler(conf, sizeof *handler);
    handler->super.on_req = on_choice_request;
    handler->s = s;
}

page_site *pages_open(const program_settings *p)
{
    page_site *site = calloc(1, sizeof *site);
    unsigned long long hash = 14695981039346656037ull;
    const embedded_file *file;
    if (site == NULL)
        return NULL;
    site->p = p;
    for (size_t i = 0; (file = embedded_at(i)) != NULL; i++)
        for (size_t j = 0; j < file->size; j++)
            hash = (hash ^ (unsigned char)file->text[j]) * 1099511628211ull;
    snprintf(site->tag, sizeof site->tag, "\"%016llx\"", hash);
    return site;
}

void pages_close(page_site *site)
{
    free(site);
}

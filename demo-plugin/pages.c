/* pages.c - takes the files of pages/ in as they are, with those of the workqueue command that the
 * page is built of: its style, and a job's progress. */
#include "pages.h"

#include <string.h>

#define TAKE_IN(symbol, path)                                                                      \
    __asm__(".pushsection .rodata\n"                                                               \
            "page_" #symbol ":\n"                                                                  \
            ".incbin \"" path "\"\n"                                                               \
            "page_" #symbol "_end:\n"                                                              \
            ".byte 0\n"                                                                            \
            ".popsection\n");                                                                      \
    extern const char page_##symbol[] __attribute__((visibility("hidden")));                       \
    extern const char page_##symbol##_end[] __attribute__((visibility("hidden")))

TAKE_IN(show_html, PAGES_DIR "/show.html");
TAKE_IN(show_js, PAGES_DIR "/show.js");
TAKE_IN(results_js, PAGES_DIR "/results.js");
TAKE_IN(overview_js, PAGES_DIR "/overview.js");
TAKE_IN(base_css, SHARED_PAGES_DIR "/base.css");
TAKE_IN(page_js, SHARED_PAGES_DIR "/page.js");
TAKE_IN(view_js, SHARED_PAGES_DIR "/view.js");
TAKE_IN(workqueue_js, SHARED_PAGES_DIR "/workqueue.js");

static const char javascript[] = "text/javascript; charset=utf-8";

static const struct page_file {
    const char *name, *type, *begin, *end;
} files[] = {
    {"show.js", javascript, page_show_js, page_show_js_end},
    {"results.js", javascript, page_results_js, page_results_js_end},
    {"overview.js", javascript, page_overview_js, page_overview_js_end},
    {"base.css", "text/css; charset=utf-8", page_base_css, page_base_css_end},
    {"page.js", javascript, page_page_js, page_page_js_end},
    {"view.js", javascript, page_view_js, page_view_js_end},
    {"workqueue.js", javascript, page_workqueue_js, page_workqueue_js_end},
};

static int send_file(h2o_req_t *req, const char *type, const char *begin, const char *end)
{
    plugin_header(req, "cache-control", "no-cache");
    plugin_header(req, "x-content-type-options", "nosniff");
    /* cppcheck-suppress comparePointers - the ends of what .incbin put there */
    return wq_http_send(req, 200, type, begin, (size_t)(end - begin));
}

/* Overview opens the page in a frame, so nothing may forbid that. Its address holds the API token,
 * so it must not leave by a Referer, nor the page reach out to anybody but us. */
int pages_show(struct plugin *plugin, h2o_req_t *req)
{
    (void)plugin;
    if (wq_http_method(req, "GET, HEAD, OPTIONS"))
        return 0;
    plugin_header(req, "referrer-policy", "no-referrer");
    plugin_header(req, "content-security-policy",
                  "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; "
                  "connect-src 'self'; base-uri 'none'; form-action 'none'");
    return send_file(req, "text/html; charset=utf-8", page_show_html, page_show_html_end);
}

int pages_handle(struct plugin *plugin, h2o_req_t *req)
{
    const char *name = req->path_normalized.base + strlen(PAGES_PATH "/");
    size_t n = req->path_normalized.len - strlen(PAGES_PATH "/");
    (void)plugin;
    if (req->path_normalized.len <= strlen(PAGES_PATH "/"))
        return wq_http_problem(req, 404, "There is nothing at this path.");
    if (wq_http_method(req, "GET, HEAD, OPTIONS"))
        return 0;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        if (strlen(files[i].name) == n && memcmp(files[i].name, name, n) == 0)
            return send_file(req, files[i].type, files[i].begin, files[i].end);
    return wq_http_problem(req, 404, "There is nothing at this path.");
}

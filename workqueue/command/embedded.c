/* embedded.c - takes the files of pages/ in as they are; one more is a line in FILES. */
#include "workqueue/command/embedded.h"

#include <string.h>

#define HTML "text/html; charset=utf-8"
#define CSS "text/css; charset=utf-8"
#define JS "text/javascript; charset=utf-8"
#define SVG "image/svg+xml"

#define FILES(F)                                                                                   \
    F(run_html, "run.html", HTML)                                                                  \
    F(job_html, "job.html", HTML)                                                                  \
    F(jobs_html, "jobs.html", HTML)                                                                \
    F(login_html, "login.html", HTML)                                                              \
    F(programs_html, "programs.html", HTML)                                                        \
    F(base_css, "base.css", CSS)                                                                   \
    F(workqueue_js, "workqueue.js", JS)                                                            \
    F(page_js, "page.js", JS)                                                                      \
    F(view_js, "view.js", JS)                                                                      \
    F(run_js, "run.js", JS)                                                                        \
    F(job_js, "job.js", JS)                                                                        \
    F(jobs_js, "jobs.js", JS)                                                                      \
    F(drawer_js, "drawer.js", JS)                                                                  \
    F(charts_js, "charts.js", JS)                                                                  \
    F(outputs_js, "outputs.js", JS)                                                                \
    F(operator_js, "operator.js", JS)                                                              \
    F(health_js, "health.js", JS)                                                                  \
    F(login_js, "login.js", JS)                                                                    \
    F(icon_svg, "icon.svg", SVG)

#define TAKE_IN(symbol, name, type)                                                                \
    __asm__(".pushsection .rodata\n"                                                               \
            "page_" #symbol ":\n"                                                                  \
            ".incbin \"" PAGES_DIR "/" name "\"\n"                                                 \
            "page_" #symbol "_end:\n"                                                              \
            ".byte 0\n"                                                                            \
            ".popsection\n");                                                                      \
    extern const char page_##symbol[] __attribute__((visibility("hidden")));                       \
    extern const char page_##symbol##_end[] __attribute__((visibility("hidden")));
FILES(TAKE_IN)

const embedded_file *embedded_at(size_t i)
{
#define DESCRIBE(symbol, name, type) {name, type, page_##symbol, 0},
#define MEASURE(symbol, name, type) (size_t)(page_##symbol##_end - page_##symbol),
    static const embedded_file files[] = {FILES(DESCRIBE)};
    static _Thread_local embedded_file found;
    /* cppcheck-suppress comparePointers ; of one file, from its first byte to its end */
    const size_t sizes[] = {FILES(MEASURE)};
    if (i >= sizeof files / sizeof *files)
        return NULL;
    found = files[i];
    found.size = sizes[i];
    return &found;
}

const embedded_file *embedded_find(const char *name, size_t n)
{
    const embedded_file *file;
    for (size_t i = 0; (file = embedded_at(i)) != NULL; i++)
        if (strlen(file->name) == n && memcmp(file->name, name, n) == 0)
            return file;
    return NULL;
}

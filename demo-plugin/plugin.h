/* plugin.h - what the plugin's own routes share. */
#ifndef PLUGIN_H
#define PLUGIN_H

#include <h2o.h>
#include <workqueue/http.h>

struct sample;
struct search;

struct plugin {
    wq_queue *queue;
    wq_http *http;         /* set before the first request */
    struct sample *sample; /* NULL: no sample server */
    struct search *search;
};

/* Adds a response header; both strings are static. */
void plugin_header(h2o_req_t *req, const char *name, const char *value);

/* GET /api/v1/...: the sample server's answers. */
int sample_handle(struct plugin *plugin, h2o_req_t *req);

#endif

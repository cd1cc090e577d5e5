/* pages.h - the search page and what it is made of. */
#ifndef PAGES_H
#define PAGES_H

#include "plugin.h"

#define PAGES_PATH "/pages"

/* GET /show */
int pages_show(struct plugin *plugin, h2o_req_t *req);

/* GET /pages/NAME */
int pages_handle(struct plugin *plugin, h2o_req_t *req);

#endif

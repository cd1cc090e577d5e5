/* pages.h - the pages that the server shows: files that are part of the binary. */
#ifndef WQ_COMMAND_PAGES_H
#define WQ_COMMAND_PAGES_H

#include <h2o.h>

#include "workqueue/command/settings.h"

typedef struct page_site page_site; /* the pages of one program */

/* Makes the pages of a program; `p` is borrowed as long as they are. NULL: no memory. */
page_site *pages_open(const program_settings *p);
void pages_close(page_site *site);

/* Registers "/" on the host (below the program's prefix), and what is beneath it. */
void pages_mount(page_site *site, h2o_hostconf_t *host);

/* Registers "/" where each program has a name: a page that leads to all of them. */
void pages_mount_choice(settings *s, h2o_hostconf_t *host);

/* Answers a request for a page or a part of one; 0, or -1 if it is none of them. A path that a face
 * has, too, is a page only for who asks for text/html. */
int pages_answer(page_site *site, h2o_req_t *req);

#endif

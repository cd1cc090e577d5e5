/* options.h - the command line of demo-plugin. */
#ifndef OPTIONS_H
#define OPTIONS_H

#include <workqueue/http.h>
#include <workqueue/remote.h>

struct options {
    wq_options queue;         /* with the defaults where nothing is said */
    wq_serve_options serve;   /* likewise */
    wq_stomp_options stomp;   /* likewise; urls NULL: programs run here */
    wq_s3_options s3;         /* likewise; url NULL: outputs are in the storage folder */
    const char *store;        /* as given; NULL: it was not */
    const char *sample;       /* a folder; NULL: no sample server */
    const char *journal;      /* a file, "none", or NULL: beside the storage */
    char *journal_path;       /* what queue.journal_path points to, if it is beside the storage */
    char *program;            /* what queue.program points to, if it was found and not given */
    const char **listen_also; /* what serve.listen_also points to */
    const char **allow;       /* what serve.http.allow_servers points to */
    const char **proxies;     /* what serve.http.trust_proxies points to */
    const char **environment; /* what queue.environment points to, if some was given */
    size_t n_environment;
    char *secret; /* what serve.http.operator_secret points to */
};

enum { OPTIONS_RUN, OPTIONS_EXIT, OPTIONS_WRONG };

/* Reads the command line. OPTIONS_EXIT: --help or --version, and stdout has it; OPTIONS_WRONG: a
 * sentence is on stderr. */
int options_parse(struct options *options, int argc, char **argv);

void options_dispose(struct options *options);

#endif

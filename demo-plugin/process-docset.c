/* process-docset.c - downloads a document set from Overview and makes a search database of it.
 *
 *     process-docset SERVER DOCUMENT_SET_ID API_TOKEN OUTPUT_FILENAME
 *
 * It is what workqueue runs, and an ordinary command as well. If API_TOKEN is "-", it is taken from
 * WORKQUEUE_API_TOKEN in the environment, which others cannot see. Progress goes to stdout, as in
 * "3/12<TAB>3 of 12 documents". Whatever goes wrong ends in one sentence on stderr and exit 1 (2
 * for wrong arguments). A document that is too large or broken is left out, and named in the last
 * line of progress and in the database. The API token is never in any of these.
 * PROCESS_DOCSET_PAUSE_MS in the environment is a pause after each document, for a server that has
 * other things to do, or somebody who looks on. */
#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "download.h"
#include "indexer.h"

/* The two threads:
 *
 *     download.c: curl ─► items.c: documents ─► indexer.c: queue ─► thread: database.c, progress.c
 *
 * The queue is bounded, so the server is read as fast as the index grows. */
struct docset {
    const char *output;
    struct failure failure;
    struct download download;
    struct indexer indexer;
};

static int on_document(void *user, struct items_document *document)
{
    struct docset *docset = user;
    const items *reader = &docset->download.items;
    docset->download.n_read++;
    return indexer_add(&docset->indexer, document, reader->has_total ? reader->total : 0);
}

/* The output is there and empty when workqueue runs us; from a shell it may be neither. */
static int prepare_output(struct docset *docset)
{
    int fd = open(docset->output, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd == -1)
        return failure_set(&docset->failure, "Cannot write %s: %s.", docset->output,
                           strerror(errno));
    close(fd);
    return 0;
}

static int process(struct docset *docset)
{
    if (prepare_output(docset) != 0 ||
        indexer_start(&docset->indexer, docset->output, &docset->failure) != 0)
        return -1;
    int is_whole = download_run(&docset->download) == 0;
    return indexer_end(&docset->indexer, is_whole);
}

static int usage(void)
{
    fputs("usage: process-docset SERVER DOCUMENT_SET_ID API_TOKEN OUTPUT_FILENAME"
          " (or - and WORKQUEUE_API_TOKEN in the environment for API_TOKEN)\n",
          stderr);
    return 2;
}

int main(int argc, char **argv)
{
    const char *token = argc == 5 ? argv[3] : NULL;
    if (token != NULL && strcmp(token, "-") == 0)
        token = getenv("WORKQUEUE_API_TOKEN");
    if (token == NULL)
        return usage();
    static struct docset docset = {.failure = {.lock = PTHREAD_MUTEX_INITIALIZER}};
    items_init(&docset.download.items, on_document, &docset);
    docset.output = argv[4];
    docset.failure.secret = token;
    docset.download.server = argv[1];
    docset.download.document_set_id = argv[2];
    docset.download.api_token = token;
    docset.download.failure = &docset.failure;
    /* a file that may not grow is an error to report, not a death */
    (void)signal(SIGXFSZ, SIG_IGN);
    curl_global_init(CURL_GLOBAL_DEFAULT);
    int failed = process(&docset);
    if (failed)
        fprintf(stderr, "%s\n", docset.failure.sentence);
    items_dispose(&docset.download.items);
    curl_global_cleanup();
    return failed ? 1 : 0;
}

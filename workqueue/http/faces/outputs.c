/* outputs.c - GET /outputs: what is stored, for the operator; DELETE of one, or of all of a server
 * or document set. All of it reads the storage, so a thread does it. */
#include <stdlib.h>

#include "workqueue/http/faces/faces.h"
#include "workqueue/http/faces/job_record.h"
#include "workqueue/http/faces/off_loop.h"
#include "workqueue/http/request/problem.h"

enum { DEFAULT_LIMIT = 100, MOST_OUTPUTS = 1000 };

typedef struct outputs_ask {
    size_t limit;
    int has_server, has_set;
    char server[2049], set[257], position[WQ_POSITION_SIZE], key[WQ_KEY_SIZE];
} outputs_ask;

static int copy_query(h2o_req_t *req, const char *name, char *out, size_t size, int *has)
{
    const char *value = wq_http_query(req, name);
    *has = value != NULL && *value != '\0';
    return !*has || snprintf(out, size, "%s", value) < (int)size ? 0 : -1;
}

/* 0, or -1 and it has been answered. */
static int read_outputs_ask(h2o_req_t *req, outputs_ask *ask)
{
    const char *limit = wq_http_query(req, "limit");
    int has_position;
    *ask = (outputs_ask){.limit = DEFAULT_LIMIT};
    if (limit != NULL)
        ask->limit = h2o_strtosize(limit, strlen(limit));
    if (ask->limit == 0 || ask->limit > MOST_OUTPUTS)
        return wq_problem(req, 400, "The limit is a number from 1 to 1000."), -1;
    if (copy_query(req, "server", ask->server, sizeof ask->server, &ask->has_server) != 0 ||
        copy_query(req, "document_set_id", ask->set, sizeof ask->set, &ask->has_set) != 0 ||
        copy_query(req, "after", ask->position, sizeof ask->position, &has_position) != 0)
        return wq_problem(req, 400, "A field of the query is too long."), -1;
    if (ask->has_set && !ask->has_server)
        return wq_problem(req, 400, "The field server is missing."), -1;
    return 0;
}

/* ---- the list -------------------------------------------------------------------------------- */

static void put_output_row(FILE *out, const wq_output_info *o)
{
    fprintf(out, "\n{\"key\": \"%s\"", o->key);
    wq_write_text(out, "server", o->server);
    wq_write_text(out, "document_set_id", o->document_set_id);
    wq_write_text(out, "program", o->program);
    wq_write_text(out, "job", o->job_id);
    fprintf(out, ", \"bytes\": %llu", (unsigned long long)o->size_bytes);
    wq_write_time(out, "made_at", o->made_at_ms);
    wq_write_time(out, "used_at", o->used_at_ms);
    fprintf(out, ", \"run_ms\": %llu}", (unsigned long long)o->ran_ms);
}

static int make_output_list(wq_http *http, const void *asked, FILE *out)
{
    const outputs_ask *ask = asked;
    char position[WQ_POSITION_SIZE];
    size_t n = 0;
    wq_error error;
    wq_output_info *found = malloc(ask->limit * sizeof *found);
    if (found == NULL)
        return 500;
    snprintf(position, sizeof position, "%s", ask->position);
    int result =
        wq_outputs_list(http->queue, ask->has_server ? ask->server : NULL,
                        ask->has_set ? ask->set : NULL, position, found, ask->limit, &n, &error);
    if (result != WQ_OK) {
        free(found);
        fprintf(out, "%s.", error.message);
        return result == WQ_ERROR_AWAY ? 503 : result == WQ_ERROR_NOT_FOUND ? 404 : 500;
    }
    fputs("{\"outputs\": [", out);
    for (size_t i = 0; i < n; i++) {
        fputs(i > 0 ? "," : "", out);
        put_output_row(out, &found[i]);
    }
    fputs("\n], \"next\": ", out);
    if (*position != '\0')
        fprintf(out, "\"%.*s\"}\n", (int)sizeof position, position);
    else
        fputs("null}\n", out);
    free(found);
    return 200;
}

/* ---- deleting -------------------------------------------------------------------------------- */

static int delete_outputs(wq_http *http, const void *asked, FILE *out)
{
    const outputs_ask *ask = asked;
    size_t n = 0;
    wq_error error;
    int result = *ask->key ? wq_output_delete_key(http->queue, ask->key, &error)
                           : wq_outputs_delete(http->queue, ask->server,
                                               ask->has_set ? ask->set : NULL, &n, &error);
    if (result == WQ_ERROR_NOT_FOUND) {
        fputs("There is no output with this key.", out);
        return 404;
    }
    if (result != WQ_OK) {
        fprintf(out, "%zu outputs have been deleted, and then: %s.", n, error.message);
        return result == WQ_ERROR_AWAY ? 503 : 500;
    }
    fprintf(out, "{\"deleted\": %zu}\n", *ask->key ? (size_t)1 : n);
    return 200;
}

static int is_key(h2o_iovec_t text)
{
    if (text.len != WQ_KEY_SIZE - 1)
        return 0;
    for (size_t i = 0; i < text.len; i++)
        if (!strchr("0123456789abcdef", text.base[i]))
            return 0;
    return 1;
}

int wq_face_outputs(wq_http *http, h2o_req_t *req, h2o_iovec_t rest)
{
    outputs_ask ask;
    wq_own_origin_only(req);
    if (wq_method(req, rest.len == 0 ? "GET, HEAD, DELETE, OPTIONS" : "DELETE, OPTIONS") ||
        !wq_is_operator(http, req) || read_outputs_ask(req, &ask) != 0)
        return 0;
    if (rest.len > 0) {
        if (!is_key(rest))
            return wq_problem(req, 404, "There is no output with this key.");
        memcpy(ask.key, rest.base, rest.len);
    } else if (!wq_is_method(req, "DELETE")) {
        return wq_answer_off_loop(http, req, make_output_list, &ask, sizeof ask);
    } else if (!ask.has_server) {
        return wq_problem(req, 400, "Say which outputs: server, or server and document_set_id.");
    }
    return wq_answer_off_loop(http, req, delete_outputs, &ask, sizeof ask);
}

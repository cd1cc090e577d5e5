/* late_token.c - see late_token.h. The queue's answer may come when the WebSocket has ended. */
#include "workqueue/http/faces/late_token.h"

#include <stdlib.h>
#include <string.h>

#include "workqueue/http/hold/ask.h"
#include "workqueue/http/request/fields.h"

typedef struct late_ask {
    wq_pending_ask pending;
    wq_late_token *token; /* the loop's; NULL: nobody waits for the answer */
} late_ask;

struct wq_late_token {
    char *server, *document_set_id;
    wq_from from;
    unsigned flags; /* for wq_ensure_run() */
    char *message;
    size_t n_message;
    int is_asked;
    late_ask *ask; /* NULL: nothing is under way */
    wq_late_then then;
    void *user;
};

wq_late_token *wq_late_token_new(const wq_params *target, const wq_from *from, unsigned flags)
{
    wq_late_token *token = calloc(1, sizeof *token);
    if (token == NULL)
        return NULL;
    token->flags = flags;
    token->from = *from;
    token->server = strdup(target->server);
    token->document_set_id = strdup(target->document_set_id);
    if (token->server != NULL && token->document_set_id != NULL)
        return token;
    wq_late_token_free(token);
    return NULL;
}

static void forget_message(wq_late_token *token)
{
    if (token->message != NULL)
        explicit_bzero(token->message, token->n_message);
    free(token->message);
    token->message = NULL;
    token->n_message = 0;
}

void wq_late_token_free(wq_late_token *token)
{
    if (token == NULL)
        return;
    if (token->ask != NULL)
        token->ask->token = NULL;
    forget_message(token);
    free(token->server);
    free(token->document_set_id);
    free(token);
}

int wq_late_token_add(wq_late_token *token, const void *data, size_t n)
{
    if (n == 0 || token->is_asked)
        return 0;
    char *message = realloc(token->message, token->n_message + n);
    if (message == NULL)
        return -1;
    token->message = message;
    memcpy(message + token->n_message, data, n);
    token->n_message += n;
    return 0;
}

int wq_late_token_is_asked(const wq_late_token *token)
{
    return token->is_asked;
}

/* ---- the ask --------------------------------------------------------------------------------- */

/* The token may be freed in `then`. */
static void tell_answer(late_ask *ask, int later)
{
    wq_late_token *token = ask->token;
    const wq_answer *answer = &ask->pending.answer;
    const int result = answer->result;
    if (token != NULL) {
        token->ask = NULL;
        token->then(token->user, result, answer->job, wq_strerror(result), later);
    } else {
        wq_job_unref(answer->job);
    }
    free(ask);
}

static void on_late_answer(wq_post *post)
{
    tell_answer(H2O_STRUCT_FROM_MEMBER(late_ask, pending.post, post), 1);
}

static void on_late_lost(wq_pending_ask *pending)
{
    wq_job_unref(pending->answer.job);
    free(H2O_STRUCT_FROM_MEMBER(late_ask, pending, pending));
}

static void fail_late_ask(wq_late_token *token, int result, const char *reason)
{
    token->then(token->user, result, NULL, reason, 0);
}

static void ask_with_token(wq_late_token *token, wq_loop *loop, const char *text)
{
    const wq_params params = {token->server, token->document_set_id, text};
    wq_error error;
    int result = wq_params_check(&params, &error);
    late_ask *ask = result == WQ_OK ? calloc(1, sizeof *ask) : NULL;
    if (result == WQ_OK && (ask == NULL || atomic_load(&loop->http->stopping)))
        result = ask == NULL ? WQ_ERROR_NO_MEMORY : WQ_ERROR_CLOSING;
    if (result != WQ_OK) {
        free(ask);
        fail_late_ask(token, result,
                      result == WQ_ERROR_INVALID_ARGUMENT ? error.message : wq_strerror(result));
        return;
    }
    ask->pending = (wq_pending_ask){.post = {.inbox = &loop->inbox, .arrive = on_late_answer},
                                    .lost = on_late_lost,
                                    .http = loop->http};
    ask->pending.from = token->from;
    ask->token = token;
    token->ask = ask;
    if (wq_pending_ask_start(&ask->pending, &params, token->flags) != WQ_PENDING)
        tell_answer(ask, 0);
}

/* ---- the message ----------------------------------------------------------------------------- */

static void *alloc_from_pool(void *pool, size_t size)
{
    return h2o_mem_alloc_pool(pool, size);
}

/* {"apiToken": "..."} or the token itself; NULL and *why if it is neither. */
static const char *read_message(h2o_mem_pool_t *pool, const char *text, size_t n, const char **why)
{
    wq_fields fields = {0};
    *why = "it must be {\"apiToken\": \"...\"} or the token";
    if (n == 0 || memchr(text, '\0', n) != NULL)
        return NULL;
    if (*text != '{')
        return h2o_strdup(pool, text, n).base;
    if (wq_fields_json(&fields, (wq_arena){alloc_from_pool, pool}, text, n, why) != 0)
        return NULL;
    return fields.api_token;
}

void wq_late_token_ask(wq_late_token *token, wq_loop *loop, wq_late_then then, void *user)
{
    char reason[160];
    const char *why;
    h2o_mem_pool_t pool;
    h2o_mem_init_pool(&pool);
    const char *text = read_message(&pool, token->message, token->n_message, &why);
    token->then = then;
    token->user = user;
    token->is_asked = 1;
    forget_message(token);
    if (text != NULL) {
        ask_with_token(token, loop, text);
    } else {
        snprintf(reason, sizeof reason, "No token in the first message: %s.", why);
        fail_late_ask(token, WQ_ERROR_INVALID_ARGUMENT, reason);
    }
    h2o_mem_clear_pool(&pool);
}

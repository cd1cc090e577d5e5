/* fuzz_messages.c - libFuzzer on the bodies of messages; the first byte chooses which. What is read
 * and written again must be read as the same. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "workqueue/remote/messages.h"

static void check_job(const char *body, size_t len)
{
    wq_job_message message, again;
    wq_error error = {0};
    if (wq_job_message_read(&message, body, len, &error) != WQ_OK) {
        assert(error.message[0] != '\0' && message.held == NULL);
        return;
    }
    char *text = wq_job_message_text(message.id, &message.params, message.rebuild);
    assert(text != NULL);
    assert(wq_job_message_read(&again, text, strlen(text), NULL) == WQ_OK);
    assert(strcmp(message.id, again.id) == 0 && message.rebuild == again.rebuild);
    assert(strcmp(message.params.server, again.params.server) == 0);
    assert(strcmp(message.params.api_token, again.params.api_token) == 0);
    free(text);
    wq_job_message_clear(&message);
    wq_job_message_clear(&again);
}

static void check_reply(const char *body, size_t len)
{
    wq_reply reply, again;
    wq_reply_read(&reply, body, len);
    assert(reply.line_len <= sizeof reply.line);
    if (reply.kind != WQ_REPLY_PROGRESS || memchr(reply.line, '\n', reply.line_len) != NULL)
        return;
    wq_reply_read(&again, reply.line, reply.line_len);
    assert(again.kind == WQ_REPLY_PROGRESS);
}

static void check_hint(const char *body, size_t len)
{
    wq_hint hint, again;
    char text[4096];
    wq_hint_read(&hint, body, len);
    if (hint.kind == WQ_HINT_OTHER)
        return;
    size_t n = wq_hint_text(text, sizeof text, &hint);
    assert(n < sizeof text);
    wq_hint_read(&again, text, n);
    assert(again.kind == hint.kind && strcmp(again.key, hint.key) == 0);
    assert(strcmp(again.id, hint.id) == 0 && strcmp(again.reply_to, hint.reply_to) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const checks[])(const char *, size_t) = {check_job, check_reply, check_hint};
    if (size == 0)
        return 0;
    char *body = malloc(size); /* not a byte more, for the sanitizer */
    assert(body != NULL);
    memcpy(body, data + 1, size - 1);
    checks[data[0] % 3](body, size - 1);
    free(body);
    return 0;
}

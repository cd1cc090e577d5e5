/* record.c - a key's record as text, and back. Others' records are read too: nothing is trusted. */
#include "workqueue/remote/record.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "workqueue/util/text.h"

static const char *const states[] = {
    [WQ_FREE] = "free", [WQ_RUNNING] = "running", [WQ_DONE_WELL] = "done", [WQ_FAILED] = "failed"};

/* Text of any bytes, cut to `size`. */
static json_t *string_of(const char *bytes, size_t size)
{
    size_t n = strnlen(bytes, size), at = 0;
    while (at < n) {
        size_t length = wq_utf8_length(bytes + at, n - at);
        if (length == 0)
            break;
        at += length;
    }
    return json_stringn(bytes, at);
}

/* `place_bytes` of server and set; the first without them fits in any case. */
static char *dump(const wq_record *r, size_t place_bytes)
{
    json_t *json =
        json_pack("{s:i, s:I, s:s, s:o, s:o, s:o, s:i, s:i, s:I, s:I, s:o, s:o, s:s}", "v", 1,
                  "epoch", (json_int_t)r->epoch, "state", states[r->state], "owner",
                  string_of(r->owner, sizeof r->owner), "host", string_of(r->host, sizeof r->host),
                  "id", string_of(r->id, sizeof r->id), "attempts", (int)r->attempts, "returncode",
                  r->returncode, "size", (json_int_t)r->size_bytes, "began",
                  (json_int_t)r->began_ms, "server", string_of(r->server, place_bytes), "set",
                  string_of(r->set, place_bytes), "nonce", r->nonce);
    char *text = json != NULL ? json_dumps(json, JSON_COMPACT | JSON_ENSURE_ASCII) : NULL;
    json_decref(json);
    return text;
}

int wq_record_text(char text[WQ_SHARED_TEXT_SIZE], const wq_record *record)
{
    static const size_t places[] = {200, 40, 0};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        char *dumped = dump(record, places[i]);
        int fits = dumped != NULL && strlen(dumped) < WQ_SHARED_TEXT_SIZE;
        if (fits)
            memcpy(text, dumped, strlen(dumped) + 1);
        free(dumped);
        if (fits)
            return 0;
    }
    return -1;
}

static void read_string(const json_t *json, const char *name, char *out, size_t size)
{
    const char *value = json_string_value(json_object_get(json, name));
    snprintf(out, size, "%s", value != NULL ? value : "");
}

static int64_t read_number(const json_t *json, const char *name)
{
    return json_integer_value(json_object_get(json, name));
}

int wq_record_parse(wq_record *out, const char *text)
{
    json_t *json = json_loads(text, 0, NULL);
    const char *state = json_string_value(json_object_get(json, "state"));
    int known = 0;
    memset(out, 0, sizeof *out);
    for (int i = WQ_FREE; state != NULL && i <= WQ_FAILED; i++)
        if (strcmp(state, states[i]) == 0) {
            out->state = (wq_record_state)i;
            known = 1;
        }
    int64_t epoch = read_number(json, "epoch");
    out->epoch = epoch > 0 ? (uint64_t)epoch : 0;
    out->attempts = (unsigned)read_number(json, "attempts");
    out->returncode = (int)read_number(json, "returncode");
    out->size_bytes = (uint64_t)read_number(json, "size");
    out->began_ms = read_number(json, "began");
    read_string(json, "owner", out->owner, sizeof out->owner);
    read_string(json, "host", out->host, sizeof out->host);
    read_string(json, "id", out->id, sizeof out->id);
    read_string(json, "server", out->server, sizeof out->server);
    read_string(json, "set", out->set, sizeof out->set);
    read_string(json, "nonce", out->nonce, sizeof out->nonce);
    json_decref(json);
    return known && out->epoch > 0 ? 0 : -1;
}

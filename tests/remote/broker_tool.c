/* broker_tool.c - a connection to a broker in the hands of a test: commands on stdin, what happens
 * on stdout, a line each, of words with every odd byte as %XX ("" is "%").
 *
 *   broker_tool URLS CA|- HEARTBEAT_MS MAX_FRAME_BYTES MAX_OUTGOING_BYTES
 *
 *   subscribe NAME DESTINATION auto|client|individual PREFETCH [HEADER VALUE]...
 *   unsubscribe NAME           send TAG|- DESTINATION BODY [HEADER VALUE]...
 *   ack N      nack N REQUEUE      take NAME N      stat      (the end of stdin closes it)
 *
 *   connected GENERATION       disconnected WHY       log LEVEL TEXT     refused NAME WHY
 *   message NAME N|- DROPPED BODY [HEADER VALUE]...   sent TAG RESULT WHY
 *   done COMMAND RESULT WHY    stat CONNECTED GENERATION FRAMES BYTES      closed
 */
#include <ctype.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "workqueue/stomp/broker.h"

enum { WORDS = 64, NAMES = 64, DELIVERIES = 4096 };

static pthread_mutex_t output = PTHREAD_MUTEX_INITIALIZER;
static wq_broker *broker;
static char names[NAMES][32];
static wq_subscription *subscriptions[NAMES];
static wq_delivery *deliveries[DELIVERIES]; /* by number; under the lock of the output */
static int n_deliveries;

/* ---- words ----------------------------------------------------------------------------------- */

static void put_word(const char *bytes, size_t n)
{
    putchar(' ');
    if (n == 0)
        putchar('%');
    for (size_t i = 0; i < n; i++)
        if (isalnum((unsigned char)bytes[i]))
            putchar(bytes[i]);
        else
            printf("%%%02X", (unsigned char)bytes[i]);
}

static void begin_line(const char *word)
{
    pthread_mutex_lock(&output);
    fputs(word, stdout);
}

static void end_line(void)
{
    putchar('\n');
    fflush(stdout);
    pthread_mutex_unlock(&output);
}

typedef struct word {
    char *text;
    size_t len;
} word;

static int hex(char c)
{
    return c <= '9' ? c - '0' : c - 'A' + 10;
}

/* Decodes in place. */
static word get_word(char *text)
{
    char *out = text;
    for (const char *in = strcmp(text, "%") == 0 ? "" : text; *in != '\0'; in++, out++) {
        *out = *in;
        if (*in == '%' && in[1] != '\0' && in[2] != '\0') {
            *out = (char)(hex(in[1]) * 16 + hex(in[2]));
            in += 2;
        }
    }
    *out = '\0';
    return (word){text, (size_t)(out - text)};
}

static int take_words(char *line, word *words)
{
    int n = 0;
    char *save = NULL;
    for (char *w = strtok_r(line, " \n", &save); w != NULL && n < WORDS;
         w = strtok_r(NULL, " \n", &save))
        words[n++] = get_word(w);
    return n;
}

/* ---- what happens ---------------------------------------------------------------------------- */

static void on_connected(void *user, uint64_t generation, const char *server)
{
    (void)user, (void)server;
    begin_line("connected");
    printf(" %d", (int)generation);
    end_line();
}

static void say(const char *what, const char *name, int number, const char *text)
{
    begin_line(what);
    if (name != NULL)
        put_word(name, strlen(name));
    if (number != INT32_MIN)
        printf(" %d", number);
    put_word(text != NULL ? text : "", text != NULL ? strlen(text) : 0);
    end_line();
}

static void on_disconnected(void *user, const char *why)
{
    (void)user;
    say("disconnected", NULL, INT32_MIN, why);
}

static void on_log(void *user, int level, const char *text)
{
    (void)user;
    say("log", NULL, level, text);
}

static void on_sent(void *user, int result, const char *why)
{
    say("sent", user, result, why);
    free(user);
}

static void on_refused(void *user, const char *why)
{
    say("refused", user, INT32_MIN, why);
}

static void on_message(void *user, const wq_broker_message *message)
{
    const wq_stomp_frame *frame = message->frame;
    int n = -1;
    begin_line("message");
    if (message->delivery != NULL) {
        n = n_deliveries++ % DELIVERIES;
        free(deliveries[n]);
        deliveries[n] = wq_delivery_copy(message->delivery);
    }
    put_word(user, strlen(user));
    printf(" %d %d", n, (int)frame->dropped_bytes);
    put_word(frame->body, frame->body_len);
    for (size_t i = 0; i < frame->n_headers; i++) {
        put_word(frame->headers[i].name, strlen(frame->headers[i].name));
        put_word(frame->headers[i].value, strlen(frame->headers[i].value));
    }
    end_line();
}

/* ---- what is asked for ----------------------------------------------------------------------- */

static size_t find_name(const char *name)
{
    size_t i = 0;
    while (i < NAMES - 1 && names[i][0] != '\0' && strcmp(names[i], name) != 0)
        i++;
    if (names[i][0] == '\0') /* else the broker's thread may be reading it */
        snprintf(names[i], sizeof names[i], "%s", name);
    return i;
}

static size_t take_headers(wq_stomp_header *headers, const word *words, int from, int n)
{
    size_t count = 0;
    for (int i = from; i + 1 < n; i += 2)
        headers[count++] = (wq_stomp_header){words[i].text, words[i + 1].text};
    return count;
}

static int subscribe(const word *words, int n, wq_error *error)
{
    wq_stomp_header headers[WORDS];
    const size_t i = find_name(words[1].text);
    const char mode = words[3].text[0];
    const wq_subscribe options = {.destination = words[2].text,
                                  .headers = headers,
                                  .n_headers = take_headers(headers, words, 5, n),
                                  .ack = mode == 'a'   ? WQ_ACK_AUTO
                                         : mode == 'c' ? WQ_ACK_CLIENT
                                                       : WQ_ACK_INDIVIDUAL,
                                  .prefetch = (unsigned)atoi(words[4].text),
                                  .message = on_message,
                                  .refused = on_refused,
                                  .user = names[i]};
    return wq_broker_subscribe(&subscriptions[i], broker, &options, error);
}

static int send_one(const word *words, int n, wq_error *error)
{
    wq_stomp_header headers[WORDS];
    const size_t n_headers = take_headers(headers, words, 4, n);
    char *tag = strcmp(words[1].text, "-") != 0 ? strdup(words[1].text) : NULL;
    const int r = wq_broker_send(broker, words[2].text, headers, n_headers, words[3].text,
                                 words[3].len, tag != NULL ? on_sent : NULL, tag, error);
    if (r != WQ_OK)
        free(tag);
    return r;
}

static const wq_delivery *find_delivery(const char *number)
{
    pthread_mutex_lock(&output);
    const wq_delivery *delivery = deliveries[atoi(number) % DELIVERIES];
    pthread_mutex_unlock(&output);
    return delivery;
}

static int obey(const word *words, int n, wq_error *error)
{
    const char *verb = words[0].text;
    wq_broker_stats stats;
    if (strcmp(verb, "subscribe") == 0)
        return subscribe(words, n, error);
    if (strcmp(verb, "send") == 0)
        return send_one(words, n, error);
    if (strcmp(verb, "ack") == 0)
        return wq_broker_ack(broker, find_delivery(words[1].text), error);
    if (strcmp(verb, "nack") == 0)
        return wq_broker_nack(broker, find_delivery(words[1].text), atoi(words[2].text), error);
    if (strcmp(verb, "take") == 0)
        return wq_broker_take_last(subscriptions[find_name(words[1].text)],
                                   find_delivery(words[2].text), on_sent, strdup("take"), error);
    if (strcmp(verb, "unsubscribe") == 0) {
        wq_broker_unsubscribe(subscriptions[find_name(words[1].text)]);
        return WQ_OK;
    }
    wq_broker_stat(broker, &stats);
    begin_line("stat");
    printf(" %d %d %zu %zu", stats.connected, (int)stats.generation, stats.outgoing_frames,
           stats.outgoing_bytes);
    end_line();
    return WQ_OK;
}

int main(int argc, char **argv)
{
    wq_broker_options options;
    wq_error error = {0};
    char *line = NULL;
    size_t size = 0;
    word words[WORDS];
    if (argc != 6)
        return 2;
    wq_broker_options_init(&options);
    options.urls = argv[1];
    options.ca_file = strcmp(argv[2], "-") != 0 ? argv[2] : NULL;
    options.heartbeat_ms = (unsigned)atoi(argv[3]);
    options.max_frame_bytes = (size_t)atol(argv[4]);
    options.max_outgoing_bytes = (size_t)atol(argv[5]);
    options.reconnect_max_ms = 500;
    options.log.cb = on_log;
    options.connected = on_connected;
    options.disconnected = on_disconnected;
    if (wq_broker_open(&broker, &options, &error) != WQ_OK) {
        say("done", "open", error.code, error.message);
        return 1;
    }
    while (getline(&line, &size, stdin) > 0) {
        const int n = take_words(line, words);
        error = (wq_error){0};
        const int r = n > 0 ? obey(words, n, &error) : 0;
        say("done", n > 0 ? words[0].text : "", r, error.message);
    }
    wq_broker_close(broker);
    say("closed", NULL, INT32_MIN, "");
    for (int i = 0; i < DELIVERIES; i++)
        free(deliveries[i]);
    free(line);
    return 0;
}

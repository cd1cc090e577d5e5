/* s3_tool.c - does one thing with an S3 store, as the tests say, and tells on stdout as JSON how it
 * went. The store is told by S3_URL, S3_ENDPOINT, S3_CACHE and the AWS_* environment;
 * S3_HOST_STYLE, S3_PART_BYTES, S3_RETRIES, S3_STALL_MS, S3_CACHE_BYTES, S3_PUBLIC where they
 * matter.
 *
 *   s3-tool bucket
 *   s3-tool put SERVER SET TOKEN FILE|N [replace]    N: as many bytes of a pattern
 *   s3-tool race SERVER SET TOKEN N
 *   s3-tool find|open|path|remove|url SERVER SET TOKEN
 *   s3-tool read SERVER SET TOKEN OFFSET SIZE [TAG]
 *   s3-tool remove-set SERVER [SET]
 *   s3-tool again SERVER SET TOKEN FILE              put until it is not away, telling each try
 *   s3-tool job SERVER SET TOKEN PROGRAM             all of a queue with such a store, by its API
 */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include <workqueue/remote.h>

#include "workqueue/s3/request.h"

static wq_store *store;

static void tell(int result, const wq_error *error, json_t *more)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    json_t *o =
        json_pack("{s:i, s:s, s:I}", "result", result, "message", result < 0 ? error->message : "",
                  "peak_bytes", (json_int_t)usage.ru_maxrss * 1024);
    if (more != NULL)
        json_object_update(o, more);
    json_decref(more);
    json_dumpf(o, stdout, 0);
    putchar('\n');
    fflush(stdout);
    json_decref(o);
}

static void on_log(void *user, int level, const char *message)
{
    (void)user;
    fprintf(stderr, "%d %s\n", level, message);
}

static long number_of(const char *name, long otherwise)
{
    const char *value = getenv(name);
    return value != NULL ? atol(value) : otherwise;
}

static wq_s3_options options(void)
{
    wq_s3_options o;
    wq_s3_options_init(&o, sizeof o);
    o.url = getenv("S3_URL");
    o.endpoint = getenv("S3_ENDPOINT");
    o.cache_dir = getenv("S3_CACHE");
    o.public_base = getenv("S3_PUBLIC");
    o.path_style = getenv("S3_HOST_STYLE") == NULL;
    o.part_bytes = (uint64_t)number_of("S3_PART_BYTES", 64 << 20);
    o.cache_bytes = (uint64_t)number_of("S3_CACHE_BYTES", 1 << 30);
    o.retries = (unsigned)number_of("S3_RETRIES", 4);
    o.stall_timeout_ms = (unsigned)number_of("S3_STALL_MS", 30000);
    o.log = on_log;
    return o;
}

/* The library makes no buckets; the tests need one. */
static int make_bucket(void)
{
    char base[512];
    wq_error error = {0};
    wq_s3_client *client;
    wq_s3_answer answer;
    snprintf(base, sizeof base, "%s/%s", getenv("S3_ENDPOINT"), getenv("S3_URL") + strlen("s3://"));
    wq_s3_config config = {.base = base,
                           .region = "us-east-1",
                           .access_key = getenv("AWS_ACCESS_KEY_ID"),
                           .secret_key = getenv("AWS_SECRET_ACCESS_KEY"),
                           .max_connections = 1,
                           .connect_timeout_ms = 5000,
                           .stall_timeout_ms = 30000,
                           .retries = 20,
                           .backoff_ms = 100,
                           .backoff_max_ms = 500};
    wq_s3_request request = {.method = "PUT", .path = "", .fd = -1, .out_fd = -1};
    wq_s3_client_open(&client, &config, &error);
    int result = wq_s3_ask(client, &request, &answer, &error);
    if (result == WQ_OK && answer.status != 200)
        result = wq_s3_refused(client, &request, &answer, &error);
    wq_s3_answer_dispose(&answer);
    wq_s3_client_close(client);
    tell(result, &error, NULL);
    return 0;
}

/* What the output is to be: a copy of a file, or so many bytes. */
static void fill(const char *temp, const char *source)
{
    static char block[1 << 16];
    long n = atol(source);
    FILE *out = fopen(temp, "we"), *in = n > 0 ? NULL : fopen(source, "re");
    for (size_t i = 0; i < sizeof block; i++)
        block[i] = (char)(i * i >> 3);
    for (; n > 0; n -= (long)sizeof block)
        fwrite(block, 1, n < (long)sizeof block ? (size_t)n : sizeof block, out);
    for (size_t got; in != NULL && (got = fread(block, 1, sizeof block, in)) > 0;)
        fwrite(block, 1, got, out);
    if (in != NULL)
        fclose(in);
    fclose(out);
}

static wq_publish begin(const wq_params *params, const char *key, const char *source, int replace)
{
    char *temp;
    wq_error error;
    wq_publish item = {.key = key, .params = params, .replace = replace};
    if (store->begin(store->self, key, &temp, &error) != WQ_OK) {
        tell(error.code, &error, NULL);
        exit(0);
    }
    fill(temp, source);
    item.temp_path = temp;
    return item;
}

static json_t *kept(const wq_publish *item)
{
    return json_pack("{s:b}", "kept", access(item->temp_path, F_OK) == 0);
}

static void put(const wq_params *params, const char *key, const char *source, int replace)
{
    wq_publish item = begin(params, key, source, replace);
    store->publish(store->self, &item, 1);
    tell(item.result, &item.error, kept(&item));
    free((char *)item.temp_path);
}

static void put_again(const wq_params *params, const char *key, const char *source)
{
    wq_publish item = begin(params, key, source, 0);
    do {
        store->publish(store->self, &item, 1);
        tell(item.result, &item.error, kept(&item));
    } while (item.result == WQ_ERROR_AWAY && usleep(100000) == 0);
    free((char *)item.temp_path);
}

typedef struct racer {
    const wq_params *params;
    const char *key;
    pthread_barrier_t *start;
    int i;
    wq_publish item;
    wq_output seen;
} racer;

static void *race_one(void *arg)
{
    racer *r = arg;
    char source[16];
    snprintf(source, sizeof source, "%d", 1000 + r->i);
    r->item = begin(r->params, r->key, source, 0);
    pthread_barrier_wait(r->start);
    store->publish(store->self, &r->item, 1);
    if (r->item.result == WQ_OK)
        r->item.result = store->open(store->self, r->key, &r->seen, &r->item.error);
    return NULL;
}

/* Many publish different outputs of a key; what each sees once its own publish() has returned. */
static void race(const wq_params *params, const char *key, int n)
{
    pthread_t threads[64];
    racer racers[64];
    pthread_barrier_t start;
    pthread_barrier_init(&start, NULL, (unsigned)n);
    for (int i = 0; i < n; i++) {
        racers[i] = (racer){.params = params, .key = key, .start = &start, .i = i};
        pthread_create(&threads[i], NULL, race_one, &racers[i]);
    }
    json_t *tags = json_array();
    int result = WQ_OK;
    const wq_error *error = NULL;
    for (int i = 0; i < n; i++) {
        pthread_join(threads[i], NULL);
        free((char *)racers[i].item.temp_path);
        json_array_append_new(tags, json_string(racers[i].seen.tag));
        if (racers[i].item.result != WQ_OK) {
            result = racers[i].item.result;
            error = &racers[i].item.error;
        }
    }
    tell(result, error, json_pack("{s:o}", "tags", tags));
}

static json_t *described(const wq_output *out)
{
    return json_pack("{s:i, s:I, s:I, s:s}", "fd", out->fd, "size", (json_int_t)out->size_bytes,
                     "made_at_ms", (json_int_t)out->made_at_ms, "tag", out->tag);
}

static void do_open(const char *key)
{
    wq_output out;
    wq_error error;
    int result = store->open(store->self, key, &out, &error);
    tell(result, &error, result == WQ_OK ? described(&out) : NULL);
}

static void do_read(const char *key, uint64_t offset, size_t size, const char *tag)
{
    wq_output out;
    wq_error error;
    int64_t result = store->open(store->self, key, &out, &error);
    if (tag != NULL)
        snprintf(out.tag, sizeof out.tag, "%s", tag);
    char *buf = calloc(1, size + 1);
    if (result == WQ_OK)
        result = store->read(store->self, key, &out, offset, buf, size, &error);
    tell((int)result, &error, result > 0 ? json_pack("{s:s}", "text", buf) : NULL);
    free(buf);
}

static void do_text(int (*function)(void *, const char *, char *, size_t, wq_error *),
                    const char *key)
{
    char text[4096];
    wq_error error;
    int result = function(store->self, key, text, sizeof text, &error);
    tell(result, &error, result == WQ_OK ? json_pack("{s:s}", "text", text) : NULL);
}

static int open_queue(wq_queue **queue, const char *program, wq_error *error)
{
    wq_options o;
    wq_options_init(&o, sizeof o);
    o.program = program;
    o.store = store;
    o.log = on_log;
    store = NULL; /* the queue's from here on */
    return wq_open(queue, &o, error);
}

/* What is told of the output of a job that has ended. */
static int look_at_output(wq_queue *queue, wq_job *job, const wq_params *params, json_t *more,
                          wq_error *error)
{
    char text[256] = "", path[4096];
    wq_output output;
    int fd = -1, result = wq_job_output(job, &output, error);
    if (result != WQ_OK)
        return result;
    json_object_set_new(more, "blocks", json_boolean(wq_outputs_block(queue)));
    int64_t n = wq_output_read(job, &output, 1, text, sizeof text - 1, error);
    if (n < 0)
        return (int)n;
    json_object_set_new(more, "read", json_string(text));
    if ((result = wq_output_path(queue, params, path, sizeof path, error)) != WQ_OK ||
        (result = wq_output_open(queue, params, &fd, error)) != WQ_OK)
        return result;
    memset(text, 0, sizeof text);
    n = read(fd, text, sizeof text - 1);
    close(fd);
    json_object_set_new(more, "opened", json_string(text));
    json_object_set_new(more, "path", json_string(path));
    return wq_output_delete(queue, params, error);
}

static void do_job(const wq_params *params, const char *program)
{
    wq_queue *queue = NULL;
    wq_job *job = NULL;
    wq_error error;
    wq_snapshot s = {0};
    json_t *more = json_object();
    int result = open_queue(&queue, program, &error);
    if (result == WQ_OK)
        result = wq_ensure_run(queue, params, 0, &job, &error);
    if (result == WQ_OK)
        result = wq_job_wait(job, 60000);
    if (result == WQ_OK) {
        wq_job_snapshot(job, &s);
        json_object_set_new(more, "error", s.error ? json_string(s.error) : json_null());
        wq_snapshot_clear(&s);
        result = look_at_output(queue, job, params, more, &error);
    }
    wq_job_unref(job);
    wq_close(queue);
    tell(result, &error, more);
}

/* list MAX [AFTER [SERVER [SET]]] */
static void do_list(char **argv, int argc)
{
    char position[WQ_POSITION_SIZE] = "";
    wq_error error;
    size_t n = 0, max = strtoull(argv[0], NULL, 10);
    wq_output_info *found = calloc(max, sizeof *found);
    json_t *outputs = json_array();
    snprintf(position, sizeof position, "%s", argc > 1 ? argv[1] : "");
    int result = store->list(store->self, argc > 2 ? argv[2] : NULL, argc > 3 ? argv[3] : NULL,
                             position, found, max, &n, &error);
    for (size_t i = 0; i < n; i++)
        json_array_append_new(
            outputs, json_pack("{s:s, s:s, s:s, s:s, s:I, s:I}", "key", found[i].key, "server",
                               found[i].server, "set", found[i].document_set_id, "job",
                               found[i].job_id, "size", (json_int_t)found[i].size_bytes,
                               "made_at_ms", (json_int_t)found[i].made_at_ms));
    free(found);
    tell(result, &error, json_pack("{s:o, s:s}", "outputs", outputs, "position", position));
}

static void do_key(const char *what, char **argv, int argc)
{
    char key[WQ_KEY_SIZE];
    wq_error error;
    wq_params params = {argv[0], argv[1], argv[2]};
    wq_params_key(&params, key);
    if (strcmp(what, "put") == 0)
        put(&params, key, argv[3], argc > 4);
    else if (strcmp(what, "again") == 0)
        put_again(&params, key, argv[3]);
    else if (strcmp(what, "job") == 0)
        do_job(&params, argv[3]);
    else if (strcmp(what, "race") == 0)
        race(&params, key, atoi(argv[3]));
    else if (strcmp(what, "find") == 0)
        tell(store->find(store->self, key, NULL, &error), &error, json_pack("{s:s}", "key", key));
    else if (strcmp(what, "remove") == 0)
        tell(store->remove(store->self, key, &error), &error, NULL);
    else if (strcmp(what, "open") == 0)
        do_open(key);
    else if (strcmp(what, "read") == 0)
        do_read(key, strtoull(argv[3], NULL, 10), (size_t)atol(argv[4]), argc > 5 ? argv[5] : NULL);
    else if (strcmp(what, "path") == 0)
        do_text(store->path, key);
    else
        do_text(store->url, key);
}

int main(int argc, char **argv)
{
    wq_error error = {0};
    if (strcmp(argv[1], "bucket") == 0)
        return make_bucket();
    wq_s3_options o = options();
    int result = wq_s3_store_open(&store, &o, &error);
    if (result != WQ_OK) {
        tell(result, &error, NULL);
    } else if (strcmp(argv[1], "remove-set") == 0) {
        size_t n = 0;
        result = store->remove_set(store->self, argv[2], argc > 3 ? argv[3] : NULL, &n, &error);
        tell(result, &error, json_pack("{s:I}", "n", (json_int_t)n));
    } else if (strcmp(argv[1], "list") == 0) {
        do_list(argv + 2, argc - 2);
    } else {
        do_key(argv[1], argv + 2, argc - 2);
    }
    if (store != NULL)
        store->close(store);
    return 0;
}

/* mounted.c - the faces on an h2o in this process, for fuzz targets. */
#include "mounted.h"

#include <assert.h>
#include <dirent.h>
#include <fcntl.h>
#include <h2o.h>
#include <h2o/http1.h>
#include <openssl/crypto.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <workqueue/extend.h>
#include <workqueue/http.h>

enum { ANSWER_BYTES = 4 << 20, PIECE_BYTES = 1 << 17, KEEP_OUTPUTS = 200, ROUNDS = 3000 };

static struct {
    char folder[64];
    wq_queue *queue;
    wq_http *http;
    h2o_globalconf_t config;
    h2o_context_t context;
    h2o_accept_ctx_t accept;
    int is_open; /* the connection */
    char id[37]; /* of the latest job */
    char *answer;
    size_t len, n_published;
} m;

/* ---- the program ----------------------------------------------------------------------------- */

char mounted_byte(uint64_t i)
{
    return (char)('a' + i % 23);
}

static int write_output(const char *path, size_t n)
{
    static char bytes[MOUNTED_LARGE];
    static atomic_int filled;
    if (!atomic_load(&filled)) { /* by one worker: there is one */
        for (size_t i = 0; i < sizeof bytes; i++)
            bytes[i] = mounted_byte(i);
        atomic_store(&filled, 1);
    }
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    ssize_t written = fd < 0 ? -1 : write(fd, bytes, n);
    if (fd >= 0)
        close(fd);
    return written == (ssize_t)n ? 0 : -1;
}

static void run(void *self, const wq_run *run, wq_outcome *outcome)
{
    const char kind = run->params->document_set_id[0];
    struct pollfd cancel = {.fd = run->cancel_fd, .events = POLLIN};
    (void)self;
    *outcome = (wq_outcome){0};
    run->report(run->user, "1/2\thalf\xff of \xe2\x82\xac", 14);
    run->report(run->user, run->params->document_set_id, strlen(run->params->document_set_id));
    if (kind == 's' && poll(&cancel, 1, 20) == 1) {
        *outcome = (wq_outcome){-15, 1, strdup("cancelled")};
    } else if (kind == 'f') {
        *outcome = (wq_outcome){3, 0, strdup("Exited with code 3\nstderr:\n\x1b[31mno\xff")};
    } else if (write_output(run->output_path, kind == 'b' ? MOUNTED_LARGE : MOUNTED_SMALL) != 0) {
        *outcome = (wq_outcome){-999, 0, strdup("it could not be written")};
    }
}

static void close_runner(wq_runner *runner)
{
    free(runner);
}

/* ---- once ------------------------------------------------------------------------------------ */

static void check_log(void *user, int level, const char *line)
{
    (void)user;
    (void)level;
    assert(strlen(line) < 1024);
    for (; *line != '\0'; line++)
        assert(*line >= ' ' && *line <= '~');
}

static void open_queue(void)
{
    wq_options options;
    wq_error error;
    wq_runner *runner = calloc(1, sizeof *runner);
    const char *tmp = getenv("TMPDIR");
    assert(runner != NULL);
    *runner = (wq_runner){.run = run, .close = close_runner};
    snprintf(m.folder, sizeof m.folder, "%.40s/wq-fuzz-XXXXXX", tmp != NULL ? tmp : "/tmp");
    assert(mkdtemp(m.folder) != NULL);
    wq_options_init(&options, sizeof options);
    options.program = "none";
    options.storage_dir = m.folder;
    options.workers = 1;
    options.sync = 0;
    options.max_ended = 50;
    options.runner = runner;
    options.log = check_log;
    if (wq_open(&m.queue, &options, &error) != WQ_OK) {
        fprintf(stderr, "%s\n", error.message);
        abort();
    }
}

static void open_http(void)
{
    wq_http_options options;
    wq_error error;
    h2o_config_init(&m.config);
    m.config.http1.upgrade_to_http2 = 0;
    m.config.max_request_entity_size = 65536;
    h2o_hostconf_t *host =
        h2o_config_register_host(&m.config, h2o_iovec_init(H2O_STRLIT("default")), 65535);
    wq_http_options_init(&options, sizeof options);
    options.max_body_bytes = 16384;
    options.operator_secret = "the-operators-secret";
    options.stall_timeout_ms = 2000;
    if (wq_http_mount(&m.http, host, m.queue, &options, &error) != WQ_OK)
        abort();
    h2o_context_init(&m.context, h2o_evloop_create(), &m.config);
    m.accept = (h2o_accept_ctx_t){.ctx = &m.context, .hosts = m.config.hosts};
}

static void remove_outputs(int all)
{
    DIR *folder = opendir(m.folder);
    for (struct dirent *e; folder != NULL && (e = readdir(folder)) != NULL;)
        if (all || strlen(e->d_name) == 64) /* folders are not removed by this: "." is safe */
            unlinkat(dirfd(folder), e->d_name, 0);
    if (folder != NULL)
        closedir(folder);
}

/* libFuzzer leaves by exit(): what is lost then would be called a leak, and files would stay. */
static void close_all(void)
{
    h2o_evloop_t *loop = m.context.loop;
    wq_stop(m.queue);
    wq_http_stop(m.http);
    for (int i = 0; i < 10; i++)
        h2o_evloop_run(loop, 1);
    h2o_context_dispose(&m.context);
    h2o_evloop_run(loop, 0);
    h2o_evloop_destroy(loop);
    wq_http_free(m.http);
    h2o_config_dispose(&m.config);
    wq_close(m.queue);
    remove_outputs(1);
    rmdir(m.folder);
    free(m.answer);
}

void mounted_open(void)
{
    if (m.queue != NULL)
        return;
    signal(SIGPIPE, SIG_IGN);
    m.answer = malloc(ANSWER_BYTES + 1);
    assert(m.answer != NULL);
    strcpy(m.id, "00000000-0000-4000-8000-000000000000");
    open_queue();
    open_http();
    OPENSSL_init_crypto(OPENSSL_INIT_LOAD_CONFIG, NULL); /* its own cleanup comes after ours then */
    atexit(close_all);
}

/* ---- a connection ---------------------------------------------------------------------------- */

static void on_close(void *unused)
{
    (void)unused;
    m.is_open = 0;
}

/* The client's end. */
static int connect_here(void)
{
    int fds[2];
    assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) == 0);
    h2o_socket_t *sock = h2o_evloop_socket_create(m.context.loop, fds[0], 0);
    m.is_open = 1;
    sock->on_close.cb = on_close;
    h2o_accept(&m.accept, sock);
    return fds[1];
}

static int is_uuid(const char *text)
{
    for (int i = 0; i < 36; i++)
        if (i == 8 || i == 13 || i == 18 || i == 23 ? text[i] != '-'
                                                    : strchr("0123456789abcdef", text[i]) == NULL)
            return 0;
    return 1;
}

static void note_id(const char *from, const char *end)
{
    for (; end - from >= 36; from++)
        if (is_uuid(from)) {
            memcpy(m.id, from, 36);
            from += 35;
        }
}

/* Reads what has come; 1: something has. */
static int take_in(int fd)
{
    ssize_t n;
    size_t before = m.len;
    while (m.len < ANSWER_BYTES && (n = read(fd, m.answer + m.len, ANSWER_BYTES - m.len)) > 0)
        m.len += (size_t)n;
    m.answer[m.len] = '\0';
    note_id(m.answer + before, m.answer + m.len);
    return m.len > before;
}

static int is_busy(void)
{
    wq_stats stats;
    wq_queue_stats(m.queue, &stats);
    return stats.queued + stats.running + stats.publishing > 0;
}

/* Runs the loop until no job is left and nothing more comes. */
static void settle(int fd)
{
    int quiet = 0;
    for (int i = 0; i < ROUNDS && m.is_open && quiet < 3; i++) {
        int busy = is_busy();
        h2o_evloop_run(m.context.loop, busy);
        quiet = take_in(fd) || busy ? 0 : quiet + 1;
    }
}

static size_t fill_in(char *out, const uint8_t *data, size_t size)
{
    size_t n = 0;
    for (size_t i = 0; i < size && n + 64 < PIECE_BYTES;) {
        if (size - i >= 4 && memcmp(data + i, "{id}", 4) == 0) {
            memcpy(out + n, m.id, 36);
            n += 36;
            i += 4;
        } else {
            out[n++] = (char)data[i++];
        }
    }
    return n;
}

static void send_piece(int fd, const uint8_t *data, size_t size)
{
    static char piece[PIECE_BYTES];
    size_t n = fill_in(piece, data, size), sent = 0;
    for (int i = 0; i < ROUNDS && sent < n && m.is_open; i++) {
        ssize_t some = write(fd, piece + sent, n - sent);
        sent += some > 0 ? (size_t)some : 0;
        h2o_evloop_run(m.context.loop, 0);
        take_in(fd);
    }
    settle(fd);
}

static void leave(int fd)
{
    close(fd);
    for (int i = 0; i < ROUNDS && (m.is_open || is_busy()); i++)
        h2o_evloop_run(m.context.loop, 1);
    assert(!m.is_open && "a connection whose client has left does not end");
    assert(!is_busy() && "a job does not end");
    if (++m.n_published >= KEEP_OUTPUTS) {
        remove_outputs(0);
        m.n_published = 0;
    }
}

const char *mounted_talk(const uint8_t *data, size_t size, size_t *len)
{
    mounted_open();
    m.len = 0;
    m.answer[0] = '\0';
    int fd = connect_here();
    while (size > 0 && m.is_open) {
        const uint8_t *pause = memchr(data, MOUNTED_PAUSE, size);
        size_t n = pause != NULL ? (size_t)(pause - data) : size;
        send_piece(fd, data, n);
        n += pause != NULL;
        data += n;
        size -= n;
    }
    take_in(fd);
    leave(fd);
    assert(m.len == 0 || strncmp(m.answer, "HTTP/1.1 ", 9) == 0);
    *len = m.len;
    return m.answer;
}

const char *mounted_id(void)
{
    return m.id;
}

/* plugin.c - a plugin in twenty lines: PROGRAM runs for whoever posts to /generate.
 *
 *   plugin PROGRAM STORAGE ADDRESS      for example: plugin ./program.sh /var/lib/plugin 127.0.0.1:8080
 */
#include <signal.h>
#include <stdio.h>
#include <workqueue/http.h>

int main(int argc, char **argv)
{
    wq_queue *queue;
    wq_server *server;
    wq_error error;
    wq_options options;
    wq_serve_options serve;
    sigset_t stop;
    int signal;
    sigemptyset(&stop);
    sigaddset(&stop, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &stop, NULL);
    wq_options_init(&options, sizeof options);
    options.program = argc > 1 ? argv[1] : NULL;
    options.storage_dir = argc > 2 ? argv[2] : NULL;
    wq_serve_options_init(&serve, sizeof serve);
    serve.listen = argc > 3 ? argv[3] : "127.0.0.1:8080";
    if (wq_open(&queue, &options, &error) < 0 || wq_serve(&server, queue, &serve, &error) < 0)
        return fprintf(stderr, "%s\n", error.message), 2;
    printf("listening on %s\n", wq_server_address(server));
    fflush(stdout);
    sigwait(&stop, &signal);
    wq_server_stop(server);
    wq_close(queue);
    return 0;
}

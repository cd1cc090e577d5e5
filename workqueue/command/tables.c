/* tables.c - every option there is, in groups; a subcommand's set names the groups it takes. */
#include <stdint.h>

#include "workqueue/command/settings.h"

#define GROUP(name, title, rows)                                                                   \
    const option_group name = {title, (rows), sizeof(rows) / sizeof *(rows)}
#define OWN(member) 1, offsetof(program_settings, member)
#define ALL(member) 0, offsetof(settings, member)

static const option_row program_rows[] = {
    {"program", "[NAME=]PATH", OPTION_CALL, 0, 0, 0, 0,
     "The program to run for a job. With a NAME it has its paths below /NAME/, and may be one of "
     "several; options behind it are its own, those before the first one are for all."},
    {"config", "FILE", OPTION_TEXT, ALL(config), 0, 0,
     "A file with lines NAME = VALUE, the names being those of the options here; below a line "
     "[NAME] they are one program's. What the command line says counts more."},
    {"workers", "N", OPTION_UNSIGNED, OWN(queue.workers), 1, 1024,
     "So many jobs run at the same time (2)."},
};
GROUP(program_group, "Program", program_rows);

static const option_row listen_rows[] = {
    {"listen", "ADDRESS", OPTION_LIST, ALL(listen), 0, 0,
     "Listens on HOST:PORT, :PORT (both families), unix:PATH[,MODE], fd:N or systemd (a .socket unit's); "
     "127.0.0.1:8080 by default; may be given several times. Port 0 is any free one."},
    {"loops", "N", OPTION_UNSIGNED, ALL(serve.loops), 1, 64,
     "So many event loops, each a thread (2)."},
    {"max-connections", "N", OPTION_SIZE, ALL(serve.max_connections), 0, SIZE_MAX,
     "So many connections at the same time (0: as many as the limit of open files has room for)."},
    {"max-connections-per-peer", "N", OPTION_SIZE, ALL(serve.max_connections_per_peer), 0, SIZE_MAX,
     "Of them, so many from one address (0: half, but any number from this machine)."},
    {"request-timeout-ms", "N", OPTION_UNSIGNED, ALL(serve.request_timeout_ms), 1, UINT32_MAX,
     "A request may take so long to arrive (10000)."},
    {"linger-ms", "N", OPTION_UNSIGNED, ALL(serve.linger_ms), 0, UINT32_MAX,
     "At a stop, clients have so long to read their end (5000)."},
    {"operator-secret-file", "FILE", OPTION_SECRET, ALL(secret), 0, 0,
     "The file holds the secret by which the operator logs in at /jobs; without it nobody can."},
};
GROUP(listen_group, "Server", listen_rows);

static const option_row queue_rows[] = {
    {"max-queue", "N", OPTION_SIZE, OWN(queue.max_queue), 1, SIZE_MAX,
     "So many jobs may wait for their turn (10000); the next is told to come back later."},
    {"max-per-user", "N", OPTION_SIZE, OWN(queue.max_per_user), 0, SIZE_MAX,
     "So many jobs of one API token may wait or run (0: no limit)."},
    {"max-per-server", "N", OPTION_SIZE, OWN(queue.max_per_server), 0, SIZE_MAX,
     "So many jobs of one server may wait or run (0: no limit)."},
    {"max-per-peer", "N", OPTION_SIZE, OWN(queue.max_per_peer), 0, SIZE_MAX,
     "So many jobs from one address may wait or run (0: half of max-queue, or ten times "
     "max-per-user, but any number from this machine)."},
    {"fair", NULL, OPTION_ON, OWN(queue.fair), 0, 0,
     "Users take turns, a job each, so that one with many jobs keeps nobody waiting; those of one "
     "address, from the third on, share a turn."},
    {"queue-timeout-ms", "N", OPTION_UNSIGNED, OWN(queue.queue_timeout_ms), 0, UINT32_MAX,
     "A job may wait so long for its turn (0: for ever)."},
    {"max-attempts", "N", OPTION_UNSIGNED, OWN(queue.max_attempts), 1, 1000,
     "A job that was running so often when the server died is not tried again (3)."},
};
GROUP(queue_group, "Queue", queue_rows);

static const option_row limit_rows[] = {
    {"run-timeout-ms", "N", OPTION_UNSIGNED, OWN(queue.run_timeout_ms), 0, UINT32_MAX,
     "A program may run so long (0: for ever)."},
    {"stall-timeout-ms", "N", OPTION_UNSIGNED, OWN(queue.progress_timeout_ms), 0, UINT32_MAX,
     "A program may go so long without a line of progress (0: for ever)."},
    {"grace-ms", "N", OPTION_UNSIGNED, OWN(queue.grace_ms), 0, UINT32_MAX,
     "A program that is to end has so long from SIGTERM to SIGKILL (5000)."},
    {"max-output-bytes", "N", OPTION_BYTES, OWN(queue.max_output_bytes), 0, UINT64_MAX,
     "The output, and each file that a program writes, may have so many bytes (0: any)."},
    {"max-memory-bytes", "N", OPTION_BYTES, OWN(queue.max_memory_bytes), 0, UINT64_MAX,
     "Each process of a job may have so much address space (0: any)."},
    {"max-cpu-s", "N", OPTION_UNSIGNED, OWN(queue.max_cpu_s), 0, UINT32_MAX,
     "Each process of a job may use so much processor time (0: any)."},
    {"max-open-files", "N", OPTION_UNSIGNED, OWN(queue.max_open_files), 0, UINT32_MAX,
     "Each process of a job may have so many descriptors, at least 16 (0: as we were started "
     "with)."},
    {"max-processes", "N", OPTION_UNSIGNED, OWN(queue.max_processes), 0, UINT32_MAX,
     "Our user, root excepted, may have so many processes (0: as we)."},
};
GROUP(limit_group, "Limits of a run", limit_rows);

static const option_row given_rows[] = {
    {"environment", "NAME", OPTION_LIST, OWN(environment), 0, 0,
     "The program gets this variable of our environment, or those of START*, or one set by "
     "NAME=VALUE; may be given several times (PATH, HOME, LANG, TMPDIR, proxies and such)."},
    {"token-in-environment", NULL, OPTION_ON, OWN(queue.token_in_environment), 0, 0,
     "The program gets the token in WORKQUEUE_API_TOKEN, where ps does not show it."},
    {"private-tmpdir", NULL, OPTION_ON, OWN(queue.private_tmpdir), 0, 0,
     "Each job gets a TMPDIR of its own, which is removed afterwards."},
    {"cgroup", "DIR", OPTION_MODE, OWN(queue.cgroup_dir), 0, 0,
     "Jobs get control groups in this folder; auto, the default: below our own, if we may; none."},
};
GROUP(given_group, "What a program is given", given_rows);

static const option_row output_rows[] = {
    {"storage", "DIR", OPTION_TEXT, OWN(queue.storage_dir), 0, 0,
     "Outputs are in this folder, which is made if it is missing (below $STATE_DIRECTORY, or "
     "~/.local/state/workqueue)."},
    {"journal", "FILE", OPTION_TEXT, OWN(journal), 0, 0,
     "This file keeps accepted jobs over a stop or a crash (beside the storage); none: they are "
     "lost."},
    {"retain-age-s", "N", OPTION_UNSIGNED, OWN(queue.retain_age_s), 0, UINT32_MAX,
     "Outputs that were not used for so long are removed (0: never)."},
    {"retain-bytes", "N", OPTION_BYTES, OWN(queue.retain_bytes), 0, UINT64_MAX,
     "The least recently used are removed while all together have more bytes (0: never)."},
};
GROUP(output_group, "Outputs", output_rows);

static const option_row http_rows[] = {
    {"allow-server", "URL", OPTION_LIST, OWN(allow), 0, 0,
     "Any server that is not this one, or below it, is refused; may be given several times."},
    {"result-type", "TYPE", OPTION_TEXT, OWN(http.result_type), 0, 0,
     "Outputs are of this media type (application/octet-stream)."},
    {"tasks-path", "PATH", OPTION_TEXT, OWN(http.tasks_path), 0, 0,
     "The task API is at this path (/api/tasks)."},
    {"heartbeat-ms", "N", OPTION_UNSIGNED, OWN(http.heartbeat_ms), 0, UINT32_MAX,
     "A stream without news gets a sign of life so often (15000); 0: never."},
    {"hold-ms", "N", OPTION_UNSIGNED, OWN(http.hold_ms), 0, UINT32_MAX,
     "A poll is held at most so long for news (25000)."},
    {"lunkwill-patience-ms", "N", OPTION_UNSIGNED, OWN(http.lunkwill_patience_ms), 1, UINT32_MAX,
     "A lunkwill client that does not ask for so long is cancelled (180000)."},
    {"max-streams", "N", OPTION_SIZE, OWN(http.max_streams), 1, SIZE_MAX,
     "So many responses are held at the same time (100000)."},
    {"max-streams-per-peer", "N", OPTION_SIZE, OWN(http.max_streams_per_peer), 0, SIZE_MAX,
     "Of them, so many for one address (0: half, but any number for this machine)."},
    {"max-body-bytes", "N", OPTION_SIZE, OWN(http.max_body_bytes), 1, SIZE_MAX / 4,
     "The body of a request may have so many bytes (65536)."},
    {"guard-metrics", NULL, OPTION_ON, OWN(http.guard_metrics), 0, 0,
     "GET /metrics asks for the operator's secret, too."},
    {"any-server", NULL, OPTION_ON, OWN(http.any_server), 0, 0,
     "The server of a job may be any text, not only an http or https URL."},
    {"path-prefix", "PATH", OPTION_TEXT, OWN(http.path_prefix), 0, 0,
     "Clients see us below this path, behind a proxy that takes it away: every link begins with it."},
    {"trust-forwarded-prefix", NULL, OPTION_ON, OWN(http.trust_forwarded_prefix), 0, 0,
     "The proxy in front says so in X-Forwarded-Prefix, which it sets for every request."},
    {"trust-proxy", "ADDRESS[/BITS]", OPTION_LIST, ALL(proxies), 0, 0,
     "A proxy in front, or unix for all that come by a Unix socket: who is bounded by address is known "
     "by the one it tells in X-Forwarded-For, or in Forwarded; may be given several times."},
};
GROUP(http_group, "HTTP", http_rows);

static const option_row page_rows[] = {
    {"title", "TEXT", OPTION_TEXT, OWN(title), 0, 0,
     "The pages are headed by this (the program's name)."},
    {"about", "TEXT", OPTION_TEXT, OWN(about), 0, 0,
     "The start page says in this sentence what the program does."},
    {"server-label", "TEXT", OPTION_TEXT, OWN(label[0]), 0, 0,
     "What the server of a job is called on the pages (Server)."},
    {"set-label", "TEXT", OPTION_TEXT, OWN(label[1]), 0, 0,
     "What the document set is called (Document set)."},
    {"token-label", "TEXT", OPTION_TEXT, OWN(label[2]), 0, 0,
     "What the API token is called (API token)."},
    {"server-hint", "TEXT", OPTION_TEXT, OWN(hint[0]), 0, 0,
     "The start page says this below the field of the server."},
    {"set-hint", "TEXT", OPTION_TEXT, OWN(hint[1]), 0, 0, "Likewise below that of the set."},
    {"token-hint", "TEXT", OPTION_TEXT, OWN(hint[2]), 0, 0, "Likewise below that of the token."},
    {"fields", "LIST", OPTION_TEXT, OWN(fields), 0, 0,
     "The start page asks for these only (server,set,token); the others are given to the program "
     "as http://localhost, 1 and none."},
    {"result-name", "NAME", OPTION_TEXT, OWN(result_name), 0, 0,
     "A download has this name, {set} in it being the document set ({set})."},
};
GROUP(page_group, "Pages", page_rows);

static const option_row broker_rows[] = {
    {"broker", "URL[,URL][;URL]", OPTION_TEXT, OWN(stomp.urls), 0, 0,
     "Jobs go from servers to packagers over stomp[s]://user:password@host:port; spares of a broker "
     "follow behind commas, further ones, which share the jobs, behind semicolons "
     "(WORKQUEUE_BROKER, which ps does not show)."},
    {"broker-ca", "FILE", OPTION_TEXT, OWN(stomp.ca_file), 0, 0,
     "This file says who may sign for stomps brokers (the system's)."},
    {"broker-heartbeat-ms", "N", OPTION_UNSIGNED, OWN(stomp.heartbeat_ms), 0, 3600000,
     "We and the broker show so often that we are there (10000)."},
    {"broker-cert", "FILE", OPTION_TEXT, OWN(stomp.cert_file), 0, 0,
     "Our certificate for stomps brokers that ask for one."},
    {"broker-key", "FILE", OPTION_TEXT, OWN(stomp.key_file), 0, 0, "Its key (in the same file)."},
    {"queue-package", "DEST", OPTION_TEXT, OWN(stomp.queue_package), 0, 0,
     "Jobs go to this queue (/queue/docsets%2Fpackage)."},
    {"queue-reply", "DEST", OPTION_TEXT, OWN(stomp.queue_reply), 0, 0,
     "Their answers come by this one (/queue/package%2F{id})."},
    {"queue-delete", "DEST", OPTION_TEXT, OWN(stomp.queue_delete), 0, 0,
     "Deletions are told to this one (/queue/docsets%2Fdelete)."},
};
GROUP(broker_group, "Broker", broker_rows);

static const option_row sending_rows[] = {
    {"broker-jobs", "N", OPTION_SIZE, OWN(stomp.max_in_flight), 1, 100000,
     "So many jobs are at the broker at the same time (1000)."},
    {"reply-expires-ms", "N", OPTION_UNSIGNED, OWN(stomp.reply_expires_ms), 1000, INT32_MAX,
     "A queue of answers that nobody reads goes after so long (1800000)."},
    {"reply-linger-ms", "N", OPTION_UNSIGNED, OWN(stomp.linger_ms), 0, UINT32_MAX,
     "Answers are read so long after somebody has last looked (10000)."},
    {"reply-check-ms", "N", OPTION_UNSIGNED, OWN(stomp.check_ms), 1, UINT32_MAX,
     "While nobody looks, they are read for a moment so often (60000)."},
    {"resend-ms", "N", OPTION_UNSIGNED, OWN(stomp.resend_ms), 1, INT32_MAX,
     "A job that no packager accepts is sent again after so long (600000)."},
    {"quiet-ms", "N", OPTION_UNSIGNED, OWN(stomp.quiet_ms), 1, INT32_MAX,
     "One whose packager, not ours, is silent is sent again after so long (60000)."},
    {"cancel-wait-ms", "N", OPTION_UNSIGNED, OWN(stomp.cancel_wait_ms), 0, INT32_MAX,
     "A packager has so long to say that a job is cancelled (10000)."},
    {"plain-request", "URL", OPTION_TEXT, OWN(stomp.plain_request), 0, 0,
     "Each job is sent as this URL and nothing else, for packagers of others; see workqueue-deploy(7)."},
};
GROUP(sending_group, "Jobs at the broker", sending_rows);

static const option_row store_rows[] = {
    {"store", "DIR|s3://BUCKET/PREFIX", OPTION_TEXT, OWN(store), 0, 0,
     "Outputs are in this folder, which any number of servers and packagers may share, or in this S3 "
     "store; on this machine there are only copies then."},
    {"no-sync", NULL, OPTION_OFF, OWN(queue.sync), 0, 0,
     "Success does not wait for the disk: a loss of power may lose an output that was told."},
    {"s3-endpoint", "URL", OPTION_TEXT, OWN(s3.endpoint), 0, 0,
     "The store is at this address (AWS_ENDPOINT_URL)."},
    {"s3-region", "NAME", OPTION_TEXT, OWN(s3.region), 0, 0,
     "It is in this region (AWS_REGION, us-east-1)."},
    {"s3-credentials", "FILE", OPTION_TEXT, OWN(s3.credentials_file), 0, 0,
     "The file has lines AWS_ACCESS_KEY_ID=... and so on, and is read again when they are refused "
     "(the environment has these)."},
    {"s3-ca", "FILE", OPTION_TEXT, OWN(s3.ca_file), 0, 0,
     "This file says who may sign for it (AWS_CA_BUNDLE)."},
    {"s3-virtual-host", NULL, OPTION_OFF, OWN(s3.path_style), 0, 0,
     "The bucket is in the host's name, not in the path."},
    {"s3-public", "URL", OPTION_TEXT, OWN(s3.public_base), 0, 0,
     "Clients fetch outputs from here: a server sends them there, a packager tells it."},
};
GROUP(store_group, "Store", store_rows);

static const option_row log_rows[] = {
    {"log-level", "LEVEL", OPTION_CALL, 0, 0, 0, 0,
     "The log tells error, warning or info, and what is worse (info)."},
    {"log-format", "FORMAT", OPTION_CALL, 0, 0, 0, 0,
     "The log is text (key=value, the default) or json."},
};
GROUP(log_group, "Log", log_rows);

static const option_row about_rows[] = {
    {"help", NULL, OPTION_HELP, 0, 0, 0, 0, "Shows this and exits."},
    {"version", NULL, OPTION_VERSION, 0, 0, 0, 0, "Shows the version and exits."},
};
GROUP(about_group, "Other", about_rows);

/* descriptors.c - see descriptors.h. */
#include "workqueue/http/server/descriptors.h"

#include <dirent.h>
#include <sys/resource.h>

#include "workqueue/util/log.h"

enum {
    SPARE_FDS = 64, /* kept for the host, beside what runs need */
    FDS_PER_RUN = 10,
    FEW_PER_RUN = 5,  /* without which none can start, */
    FEW_PER_LOOP = 8, /* and no loop */
};

/* About how many are open. */
static size_t open_files(void)
{
    size_t n = 0;
    DIR *fds = opendir("/proc/self/fd");
    if (fds != NULL) {
        while (readdir(fds) != NULL)
            n++;
        closedir(fds);
    }
    return n;
}

size_t wq_room_for_connections(wq_queue *queue)
{
    struct rlimit limit;
    wq_stats stats;
    wq_queue_stats(queue, &stats);
    size_t used = open_files() + SPARE_FDS + FDS_PER_RUN * stats.workers;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
        return 100000;
    return limit.rlim_cur > used + 16 ? limit.rlim_cur - used : 16;
}

int wq_check_room_for_loops(unsigned n_loops, wq_error *error)
{
    struct rlimit limit;
    size_t used = open_files();
    size_t needed = FEW_PER_LOOP * n_loops + FEW_PER_RUN;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= used + needed)
        return WQ_OK;
    return wq_fail(
        error, WQ_ERROR_SYSTEM,
        "start %u event loops: too many open files: %zu, and %zu more are needed, but the "
        "limit is %llu",
        n_loops, used, needed, (unsigned long long)limit.rlim_cur);
}

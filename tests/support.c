/* support.c - see support.h. */
#include "tests/support.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>

#include "workqueue/util/folders.h"

int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ---- files ----------------------------------------------------------------------------------- */

enum { FOLDERS = 256 };
static char folders[FOLDERS][FOLDER_SIZE]; /* made by this process, */
static unsigned n_folders;
static pid_t maker; /* which is this one */

/* What a test that failed has left. */
static void remove_folders(void)
{
    for (unsigned i = 0; i < n_folders && getpid() == maker; i++)
        remove_folder(folders[i]);
}

int make_folder(char folder[FOLDER_SIZE], const char *name)
{
    snprintf(folder, FOLDER_SIZE, "/tmp/wq-test-%s-XXXXXX", name);
    if (mkdtemp(folder) == NULL)
        return -1;
    if (maker == 0) {
        maker = getpid();
        atexit(remove_folders);
    }
    if (getpid() == maker && n_folders < FOLDERS)
        snprintf(folders[n_folders++], FOLDER_SIZE, "%s", folder);
    return 0;
}

int remove_folder(const char *folder)
{
    return wq_remove_tree(folder) == 0 || errno == ENOENT ? 0 : -1;
}

int entries_of(const char *folder)
{
    static const char own[] = ".workqueue.", lock[] = ".workqueue.lock", temps[] = ".workqueue.tmp";
    char path[PATH_MAX];
    int n = 0;
    DIR *d = opendir(folder);
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        n += strncmp(e->d_name, own, strlen(own)) != 0 || strcmp(e->d_name, lock) == 0;
        if (strcmp(e->d_name, temps) == 0 &&
            snprintf(path, sizeof path, "%s/%s", folder, temps) < (int)sizeof path)
            n += entries_of(path) - 2;
    }
    if (d != NULL)
        closedir(d);
    return n;
}

void put_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "we");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

size_t get_file(const char *path, char *text, size_t size)
{
    FILE *f = fopen(path, "re");
    size_t n = f != NULL ? fread(text, 1, size - 1, f) : 0;
    text[n] = '\0';
    if (f != NULL)
        fclose(f);
    return n;
}

/* ---- processes ------------------------------------------------------------------------------- */

char process_state(long pid)
{
    char path[64], text[256];
    snprintf(path, sizeof path, "/proc/%ld/stat", pid);
    get_file(path, text, sizeof text);
    const char *name_end = strrchr(text, ')');
    return name_end != NULL ? name_end[2] : 0;
}

int is_over(long pid)
{
    const char state = process_state(pid);
    return state == 0 || state == 'Z' || state == 'X';
}

/* ---- what is logged -------------------------------------------------------------------------- */

static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER; /* of every logbook */

void on_log(void *user, int level, const char *message)
{
    logbook *log = user;
    if (strncmp(message, "event=", 6) == 0)
        return; /* the life of each job, which some of these hold their scripts in the server of */
    pthread_mutex_lock(&log_lock);
    const size_t n = strlen(log->text);
    snprintf(log->text + n, sizeof log->text - n, "%d %s\n", level, message);
    pthread_mutex_unlock(&log_lock);
}

int logged(const logbook *log, const char *text)
{
    int n = 0;
    pthread_mutex_lock(&log_lock);
    for (const char *p = log->text; (p = strstr(p, text)) != NULL; p += strlen(text))
        n++;
    pthread_mutex_unlock(&log_lock);
    return n;
}

/* ---- queues and jobs ------------------------------------------------------------------------- */

wq_queue *open_with(const wq_options *options)
{
    wq_queue *queue = NULL;
    wq_error error = {0};
    const int result = wq_open(&queue, options, &error);
    if (result != WQ_OK)
        fail_msg("wq_open: %d %s", result, error.message);
    return queue;
}

wq_snapshot look(wq_job *job)
{
    wq_snapshot s, numbers;
    wq_job_snapshot(job, &s);
    numbers = s;
    wq_snapshot_clear(&s);
    numbers.message = numbers.error = NULL;
    return numbers;
}

int state_of(wq_job *job)
{
    return (int)look(job).state;
}

uint64_t ahead_of(wq_job *job)
{
    return look(job).n_ahead_in_queue;
}

double fraction_of(wq_job *job)
{
    return look(job).fraction;
}

int forbid_call(long call, int error)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (__u32)call, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (__u32)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof code / sizeof *code, .filter = code};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
                   syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC,
                           &program) == 0
               ? 0
               : -1;
}

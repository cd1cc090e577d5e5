/* lock.h - a storage folder belongs to one open store: see lock.c. */
#ifndef WQ_STORE_LOCK_H
#define WQ_STORE_LOCK_H

#include "workqueue/util/log.h"

typedef struct wq_folder_lock {
    int folder_fd;  /* borrowed: the folder, which is locked too */
    int file_fd;    /* LOCK_NAME, which names the owner; -1: not open */
    int process_fd; /* PROCESS_NAME, whose lock a fork does not inherit; -1: not open */
} wq_folder_lock;

/* Locks the folder, and waits for `stop_ms` at most for an owner that stops. WQ_OK,
 * WQ_ERROR_LOCKED with the owner in words, or WQ_ERROR_SYSTEM. Either way it is to be released. */
int wq_folder_lock_take(wq_folder_lock *lock, int folder_fd, const char *path, unsigned stop_ms,
                        wq_error *error);

/* The owner is about to go: whoever wants the folder may wait for that. Any thread. */
void wq_folder_lock_stopping(const wq_folder_lock *lock);

/* Also of what a fork of this process has inherited. */
void wq_folder_lock_release(wq_folder_lock *lock);

#endif

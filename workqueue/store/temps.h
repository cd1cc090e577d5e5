/* temps.h - the files that programs write until they are published.
 *
 * Each is KEY-N.tmp in a folder of their own, so that what a program leaves beside it, a `-wal` of
 * a database or `$4.npy`, is found without a look through all outputs. All that has its name,
 * or one that was made of it, goes with it. */
#ifndef WQ_STORE_TEMPS_H
#define WQ_STORE_TEMPS_H

#include "workqueue/store/folder.h"

/* WQ_OK, or WQ_ERROR_SYSTEM if the folder at the path is not the one that is open. */
int wq_temps_check_folder(const wq_folder *folder, wq_error *error);

/* As in wq_store: `begin` and `discard`. */
int wq_temp_begin(void *self, const char *key, char **temp_path, wq_error *error);
void wq_temp_discard(void *self, const char *temp_path);

/* The path from the folder on, for calls that take a descriptor. */
const char *wq_temp_name(const char *temp_path);

/* Removes what lies beside those `n` items' files, whether or not they are there still. */
void wq_temps_tidy(wq_folder *folder, const wq_publish *items, size_t n);

/* Writes the end of a name that lies beside the file, as in ".npy", to `end`; 0: there is none. */
int wq_temp_find_beside(const wq_folder *folder, const char *temp_path, char *end, size_t size);

/* Removes what a crash has left. */
int wq_temps_sweep(wq_folder *folder, wq_error *error);

#endif

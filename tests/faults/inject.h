/* inject.h - makes calls of the library fail, by interposition.
 *
 * inject.c stands in front of libc: linked into a program, or by LD_PRELOAD, where WQ_INJECT names
 * a file that is mapped as the control, so that another process can hold the reins. Only calls are
 * counted that the library makes, or libc, SQLite, jansson or libwslay on its behalf: not those of
 * the test, nor of libh2o, which ends the process by design when it has no memory.
 */
#ifndef WQ_TESTS_INJECT_H
#define WQ_TESTS_INJECT_H

enum inject_kind {
    INJECT_NOTHING,
    INJECT_ALLOC,
    INJECT_OPEN,
    INJECT_WRITE,
    INJECT_READ,
    INJECT_SYNC,
    INJECT_RENAME,
    INJECT_STAT,
    INJECT_LABEL,
    INJECT_LOCK,
    INJECT_MAP,
    INJECT_SPAWN,
    INJECT_FDS,
    INJECT_POLL,
    INJECT_SOCKET,
    INJECT_ACCEPT,
    INJECT_THREAD,
    INJECT_RANDOM,
    INJECT_SQLITE,
    INJECT_FOLDER,    /* an fsync of a folder, which this filesystem cannot */
    INJECT_LINKS,     /* a link, or a rename that looks: likewise */
    INJECT_UNLOCKED,  /* a lock file is removed, as soon as it is locked; nothing fails */
    INJECT_INODE,     /* stat tells of the same inode and times for each file; nothing fails */
    INJECT_KINDS
};

/* The layout is known to tests/faces/test_faults.py, too. */
typedef struct inject_control {
    int kind;           /* whose calls are counted; each kind has an errno of its own */
    unsigned at;        /* the call that fails, from 1; 0: they are counted only */
    unsigned n;         /* as many fail from there on; 0: all */
    unsigned hits;      /* out: calls so far */
    long long offset_s; /* by how much the wall clock is wrong */
} inject_control;

extern inject_control *inject;
extern const char *const inject_names[INJECT_KINDS];
extern const int inject_errors[INJECT_KINDS];

#endif

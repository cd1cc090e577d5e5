/* afar.h - a store for the tests that behaves as one across a network. */
#ifndef AFAR_H
#define AFAR_H

#include <workqueue/extend.h>

/* On a folder; NULL and a sentence if it cannot be opened. */
wq_store *afar_store(const char *folder, wq_error *error);

#endif

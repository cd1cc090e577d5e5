/* util.h - the names of before; include what is used instead. */
#ifndef WQ_UTIL_UTIL_H
#define WQ_UTIL_UTIL_H

#include "workqueue/util/clocks.h"
#include "workqueue/util/log.h"
#include "workqueue/util/threads.h"

#endif

/* tree.h - the name of before. */
#include "workqueue/util/folders.h"

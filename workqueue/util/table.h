/* table.h - the name of before. */
#include "workqueue/util/tables.h"

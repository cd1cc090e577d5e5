/* record.h - a key's record as text: JSON on one line of printable ASCII. */
#ifndef WQ_REMOTE_RECORD_H
#define WQ_REMOTE_RECORD_H

#include "workqueue/remote/lease.h"

/* 0, or -1 if it does not fit or memory ran out. */
int wq_record_text(char text[WQ_SHARED_TEXT_SIZE], const wq_record *record);

/* 0, or -1 if it is none; what it lacks is zero. */
int wq_record_parse(wq_record *out, const char *text);

#endif

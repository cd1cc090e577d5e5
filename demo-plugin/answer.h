/* answer.h - what a search has found, as JSON. */
#ifndef ANSWER_H
#define ANSWER_H

struct query;

/* Writes query->body from its hits. A SQLite result code. */
int answer_write(struct query *query);

#endif

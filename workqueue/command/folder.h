/* folder.h - a temporary folder of our own. */
#ifndef WQ_COMMAND_FOLDER_H
#define WQ_COMMAND_FOLDER_H

/* Makes $TMPDIR/NAME-XXXXXX; from malloc, NULL on failure. */
char *folder_make(const char *name);

/* Removes it with all that is in it. */
void folder_remove(const char *path);

#endif

/* credentials.c - who asks: from the options, the environment, or a file that is read again when
 * the store refuses what it said before, as temporary credentials are renewed there by others.
 *
 * The file has lines NAME=VALUE, as a file of environment variables, or as in ~/.aws/credentials,
 * of which the section [default] counts.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "workqueue/s3/store.h"
#include "workqueue/util/log.h"

enum { LINE_BYTES = 8192 };

typedef struct found {
    char access_key[256], secret_key[512], session_token[LINE_BYTES];
} found;

static char *trim_blanks(char *text)
{
    text += strspn(text, " \t");
    for (size_t n = strlen(text); n > 0 && strchr(" \t\r\n", text[n - 1]) != NULL;)
        text[--n] = '\0';
    return text;
}

static void take_variable(found *f, char *line)
{
    char *equals = strchr(line, '=');
    if (equals == NULL)
        return;
    *equals = '\0';
    char *name = trim_blanks(line), *value = trim_blanks(equals + 1);
    size_t n = strlen(value);
    if (strncmp(name, "export ", 7) == 0)
        name = trim_blanks(name + 7);
    if (n >= 2 && (*value == '"' || *value == '\'') && value[n - 1] == *value) {
        value[n - 1] = '\0';
        value++;
    }
    if (strcasecmp(name, "aws_access_key_id") == 0)
        snprintf(f->access_key, sizeof f->access_key, "%s", value);
    else if (strcasecmp(name, "aws_secret_access_key") == 0)
        snprintf(f->secret_key, sizeof f->secret_key, "%s", value);
    else if (strcasecmp(name, "aws_session_token") == 0)
        snprintf(f->session_token, sizeof f->session_token, "%s", value);
}

/* 0, or -1 if it cannot be read or lacks a key. */
static int read_settings(found *f, const char *path)
{
    char line[LINE_BYTES];
    int counts = 1;
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return -1;
    while (fgets(line, sizeof line, file) != NULL) {
        const char *text = trim_blanks(line);
        if (*text == '[')
            counts = strcmp(text, "[default]") == 0;
        else if (*text != '#' && counts)
            take_variable(f, line);
    }
    fclose(file);
    return *f->access_key != '\0' && *f->secret_key != '\0' ? 0 : -1;
}

static int replace_text(char **at, const char *text)
{
    char *copy = strdup(text);
    if (copy == NULL)
        return -1;
    free(*at);
    *at = copy;
    return 0;
}

int wq_s3_read_credentials(s3 *s)
{
    int result = -1;
    found *f = calloc(1, sizeof *f); /* large, for a stack */
    if (f != NULL && read_settings(f, s->credentials_file) == 0 &&
        replace_text(&s->access_key, f->access_key) == 0 &&
        replace_text(&s->secret_key, f->secret_key) == 0 &&
        replace_text(&s->session_token, f->session_token) == 0)
        result = 0;
    if (f != NULL)
        explicit_bzero(f, sizeof *f);
    free(f);
    return result;
}

int wq_s3_renew_credentials(void *user)
{
    s3 *s = user;
    int has_changed = 0;
    pthread_mutex_lock(&s->lock);
    char *before = strdup(s->session_token != NULL ? s->session_token : ""),
         *key = strdup(s->access_key != NULL ? s->access_key : ""),
         *secret = strdup(s->secret_key != NULL ? s->secret_key : "");
    if (before != NULL && key != NULL && secret != NULL && wq_s3_read_credentials(s) == 0)
        has_changed = strcmp(before, s->session_token) != 0 || strcmp(key, s->access_key) != 0 ||
                      strcmp(secret, s->secret_key) != 0;
    if (has_changed &&
        wq_s3_client_credentials(s->client, s->access_key, s->secret_key,
                                 *s->session_token != '\0' ? s->session_token : NULL) != 0)
        has_changed = 0;
    pthread_mutex_unlock(&s->lock);
    if (secret != NULL)
        explicit_bzero(secret, strlen(secret));
    free(before);
    free(key);
    free(secret);
    if (has_changed)
        wq_log(&s->logger, WQ_LOG_INFO, "credentials of the S3 store were read again from %s",
               s->credentials_file);
    return has_changed;
}

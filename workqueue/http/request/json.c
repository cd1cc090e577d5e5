/* json.c - reads the fields of an application/json body. */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>

#include "workqueue/http/request/fields.h"

/* A document set id is a number in Overview's own API, so a client may well have it as one; and
 * whether to rebuild is a question of yes or no. */
static int json_member(const char **to, wq_arena arena, size_t i, const json_t *member,
                       const char **why)
{
    const int is_id = wq_field_names[i].offset == offsetof(wq_fields, document_set_id);
    const int is_flag = wq_field_names[i].offset == offsetof(wq_fields, rebuild);

    if (json_is_string(member)) {
        *to = wq_copy_text(arena, json_string_value(member), json_string_length(member));
    } else if (is_flag && json_is_boolean(member)) {
        *to = json_is_true(member) ? "true" : "false";
    } else if (is_id && json_is_integer(member)) {
        char text[24];
        const int n =
            snprintf(text, sizeof(text), "%" JSON_INTEGER_FORMAT, json_integer_value(member));
        *to = wq_copy_text(arena, text, (size_t)n);
    } else {
        return wq_malformedf(arena, why, "%s must be a string%s", wq_field_names[i].name,
                             is_id     ? " or a whole number"
                             : is_flag ? ", true or false"
                                       : "");
    }
    return 0;
}

static int json_members(wq_fields *fields, wq_arena arena, const json_t *object, const char **why)
{
    for (size_t i = 0; i < WQ_FIELD_NAMES; i++) {
        const json_t *member = json_object_get(object, wq_field_names[i].name);
        const char **to = wq_field_slot(fields, i);

        if (member == NULL || json_is_null(member) || *to != NULL)
            continue;
        if (json_member(to, arena, i, member, why) != 0)
            return -1;
    }
    return 0;
}

int wq_fields_json(wq_fields *fields, wq_arena arena, const char *data, size_t len,
                   const char **why)
{
    json_error_t error;
    int result;
    errno = 0;
    json_t *root = json_loadb(data != NULL ? data : "", len, JSON_DECODE_ANY, &error);
    /* which jansson may take for an error of syntax, or, worse, lose a character of a string to */
    if (errno == ENOMEM) {
        *why = "there is no memory to read it";
        result = WQ_FIELDS_NO_MEMORY;
    } else if (root == NULL) /* error.text would quote the input */
        result = wq_malformedf(arena, why, "it is not valid JSON, at line %d, column %d",
                               error.line, error.column);
    else if (json_is_object(root))
        result = json_members(fields, arena, root, why);
    else
        result = wq_malformed(why, "it must be a JSON object");
    json_decref(root);
    return result;
}

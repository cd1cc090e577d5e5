/* excerpt.c - an FTS5 auxiliary function that picks a passage and marks the matches in it. */
#include "excerpt.h"

#include <string.h>
#include <time.h>

#include "text.h"

enum {
    WINDOW = 28,     /* tokens in a passage; the marks are bits of a uint64_t */
    LEAD = 6,        /* so many of them before the first match */
    CANDIDATES = 32, /* matches of each phrase that a passage may begin at */
    MAX_PHRASES = 32,
    MAX_GAP_BYTES = 60,    /* between two tokens */
    MAX_TOKEN_BYTES = 120, /* of a token, as it is shown */
    TOKENS_PER_LOOK = 4096 /* at the clock */
};

/* What the tokenizer is walking for. */
struct walk {
    struct text out;
    const char *text, *open, *close;
    uint64_t marks; /* bit i: token first + i is a match */
    int64_t deadline_ms;
    int first, token; /* first of the passage, next to come */
    int end;          /* byte where the last token of the passage ended */
    int marked;       /* between open and close */
};

int64_t excerpt_now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ---- which passage ---- */

struct matches {
    int n_phrases;
    int n[MAX_PHRASES];
    int at[MAX_PHRASES][CANDIDATES]; /* token numbers, ascending */
};

static void find_matches(const Fts5ExtensionApi *api, Fts5Context *fts, int column,
                         struct matches *matches)
{
    int phrases = api->xPhraseCount(fts);
    matches->n_phrases = phrases < MAX_PHRASES ? phrases : MAX_PHRASES;
    for (int i = 0; i < matches->n_phrases; i++) {
        Fts5PhraseIter iter;
        int at_column, offset;
        matches->n[i] = 0;
        if (api->xPhraseFirst(fts, i, &iter, &at_column, &offset) != SQLITE_OK)
            continue;
        for (; at_column >= 0 && at_column <= column && matches->n[i] < CANDIDATES;
             api->xPhraseNext(fts, &iter, &at_column, &offset))
            if (at_column == column)
                matches->at[i][matches->n[i]++] = offset;
    }
}

/* How many phrases match in the window that begins at `token`. */
static int score(const struct matches *matches, int token)
{
    int sum = 0;
    for (int i = 0; i < matches->n_phrases; i++)
        for (int j = 0; j < matches->n[i]; j++)
            if (matches->at[i][j] >= token && matches->at[i][j] < token + WINDOW - LEAD) {
                sum++;
                break;
            }
    return sum;
}

/* The first token of the passage with the most phrases, the earliest of them. */
static int choose(const struct matches *matches)
{
    int best = 0, best_score = 0;
    for (int i = 0; i < matches->n_phrases; i++)
        for (int j = 0; j < matches->n[i]; j++) {
            int token = matches->at[i][j], points = score(matches, token);
            if (points > best_score || (points == best_score && token < best)) {
                best = token;
                best_score = points;
            }
        }
    return best > LEAD ? best - LEAD : 0;
}

static uint64_t mark(const Fts5ExtensionApi *api, Fts5Context *fts, const struct matches *matches,
                     int first)
{
    uint64_t marks = 0;
    for (int i = 0; i < matches->n_phrases; i++)
        for (int j = 0; j < matches->n[i]; j++)
            for (int k = 0; k < api->xPhraseSize(fts, i); k++) {
                int token = matches->at[i][j] + k - first;
                if (token >= 0 && token < WINDOW)
                    marks |= 1ull << token;
            }
    return marks;
}

/* ---- its text ---- */

/* Adds at most `most` bytes, cut between characters, each run of white space as one blank. */
static void add_clean(struct text *out, const char *text, int len, int most)
{
    int cut = len > most;
    if (cut)
        for (len = most; len > 0 && ((unsigned char)text[len] & 0xc0) == 0x80;)
            len--;
    for (int i = 0; i < len; i++) {
        char c = (unsigned char)text[i] <= 0x20 || text[i] == 0x7f ? ' ' : text[i];
        if (c != ' ' || (out->len > 0 && out->data[out->len - 1] != ' '))
            text_add(out, &c, 1);
    }
    if (cut)
        text_add(out, "\xe2\x80\xa6", 3);
}

static void switch_mark(struct walk *walk, int on)
{
    const char *mark = on ? walk->open : walk->close;
    if (on != walk->marked)
        text_add(&walk->out, mark, strlen(mark));
    walk->marked = on;
}

static int is_late(const struct walk *walk)
{
    return walk->token % TOKENS_PER_LOOK == 0 && excerpt_now_ms() > walk->deadline_ms;
}

static int on_token(void *user, int flags, const char *token, int len, int start, int end)
{
    struct walk *walk = user;
    (void)token;
    (void)len;
    if (flags & FTS5_TOKEN_COLOCATED)
        return SQLITE_OK;
    int place = walk->token++ - walk->first;
    if (place < 0)
        return is_late(walk) ? SQLITE_DONE : SQLITE_OK;
    if (place >= WINDOW)
        return SQLITE_DONE;
    int on = (int)(walk->marks >> place & 1);
    if (!on)
        switch_mark(walk, 0);
    if (place > 0)
        add_clean(&walk->out, walk->text + walk->end, start - walk->end, MAX_GAP_BYTES);
    if (on)
        switch_mark(walk, 1);
    add_clean(&walk->out, walk->text + start, end - start, MAX_TOKEN_BYTES);
    walk->end = end;
    return SQLITE_OK;
}

static void finish(struct walk *walk, int len)
{
    switch_mark(walk, 0);
    if (walk->out.len == 0) /* it got too late, or there are no words */
        add_clean(&walk->out, walk->text, len, 2 * MAX_TOKEN_BYTES);
    else if (walk->end < len && walk->token > walk->first + WINDOW)
        text_add(&walk->out, " \xe2\x80\xa6", 4);
}

static void excerpt(const Fts5ExtensionApi *api, Fts5Context *fts, sqlite3_context *context, int n,
                    sqlite3_value **values)
{
    if (n != 3) {
        sqlite3_result_error(context, "excerpt() takes a column and two marks", -1);
        return;
    }
    const char *text;
    int len, column = sqlite3_value_int(values[0]);
    if (api->xColumnText(fts, column, &text, &len) != SQLITE_OK || text == NULL) {
        sqlite3_result_null(context);
        return;
    }
    struct matches matches;
    find_matches(api, fts, column, &matches);
    struct walk walk = {.text = text,
                        .open = (const char *)sqlite3_value_text(values[1]),
                        .close = (const char *)sqlite3_value_text(values[2]),
                        .first = choose(&matches),
                        .deadline_ms = *(const int64_t *)api->xUserData(fts)};
    walk.marks = mark(api, fts, &matches, walk.first);
    if (walk.first > 0)
        text_add(&walk.out, "\xe2\x80\xa6 ", 4);
    size_t lead = walk.out.len;
    int r = api->xTokenize(fts, text, len, &walk, on_token);
    if (walk.out.len == lead)
        walk.out.len = 0;
    finish(&walk, len);
    if ((r != SQLITE_OK && r != SQLITE_DONE) || walk.out.failed)
        sqlite3_result_error_nomem(context);
    else
        sqlite3_result_text(context, walk.out.data == NULL ? "" : walk.out.data, (int)walk.out.len,
                            SQLITE_TRANSIENT);
    text_dispose(&walk.out);
}

int excerpt_register(sqlite3 *db, const int64_t *deadline_ms)
{
    fts5_api *fts = NULL;
    sqlite3_stmt *statement;
    int r = sqlite3_prepare_v2(db, "SELECT fts5(?1)", -1, &statement, NULL);
    if (r != SQLITE_OK)
        return r;
    sqlite3_bind_pointer(statement, 1, &fts, "fts5_api_ptr", NULL);
    sqlite3_step(statement);
    sqlite3_finalize(statement);
    return fts == NULL
               ? SQLITE_ERROR
               /* NOLINTNEXTLINE(performance-no-int-to-ptr): a number in the place of a context */
               : fts->xCreateFunction(fts, "excerpt", (void *)(intptr_t)deadline_ms, excerpt, NULL);
}

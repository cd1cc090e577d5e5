/* excerpt.c - picks a passage and marks the matches in it.
 *
 * The text is scanned once for matches, by the same scanner as the index; then once more around the
 * best of them, for where words begin and end. */
#include "excerpt.h"

#include <string.h>

#include "clock.h"
#include "look.h"

enum {
    WIDTH = 180, /* of a passage, in columns */
    LEAD = 50,   /* so many of them before the first match */
    REACH = 1024 /* bytes around a match that a passage can lie in */
};

/* Marked is what makes a document match, not what is left out, nor what is asked of titles only. */
static void want_leaves(unsigned char *wanted, const struct parse *parse, int number, int out)
{
    const struct parse_node *node = &parse->nodes[number];
    if (node->kind == PARSE_LEAF) {
        wanted[node->left] = !out && parse->leaves[node->left].column != PARSE_TITLE;
        return;
    }
    want_leaves(wanted, parse, node->left, out ^ (node->kind == PARSE_NOT));
    if (node->kind != PARSE_NOT)
        want_leaves(wanted, parse, node->right, out);
}

/* How many leaves match in the passage that begins at the hit. */
static int score(const struct look *look, size_t first)
{
    uint64_t seen = 0;
    for (size_t i = 0; i < look->n_hits; i++)
        if (look->hits[i].span.start >= look->hits[first].span.start &&
            look->hits[i].span.start < look->hits[first].span.start + WIDTH - LEAD)
            seen |= 1ull << look->hits[i].leaf;
    return __builtin_popcountll(seen);
}

/* The hit that the best passage begins with, the earliest of them; n_hits if there is none. */
static size_t choose(const struct look *look)
{
    size_t best = look->n_hits;
    int best_score = 0;
    for (size_t i = 0; i < look->n_hits; i++) {
        int points = score(look, i);
        if (points > best_score ||
            (points == best_score && look->hits[i].span.start < look->hits[best].span.start)) {
            best = i;
            best_score = points;
        }
    }
    return best;
}

/* ---- where the passage begins and ends ---- */

struct edges {
    const char *text;         /* of the whole document */
    size_t offset, until;     /* of the part that is scanned */
    size_t len;               /* of the whole document */
    size_t match;             /* where the first match is */
    struct look_span passage; /* end 0: nothing yet */
    size_t word_end;          /* of the longest word so far */
};

/* How wide it is on a screen, about. */
static size_t columns(const char *text, size_t start, size_t end)
{
    size_t n = 0;
    for (size_t i = start; i < end; i++) {
        unsigned char c = (unsigned char)text[i];
        n += (c & 0xc0) != 0x80;     /* a character begins */
        n += c >= 0xe3 && c <= 0xed; /* from U+3000 on: wide */
    }
    return n;
}

static int on_edge_token(void *user, enum words_kind kind, const char *token, size_t len,
                         size_t start, size_t end)
{
    struct edges *edges = user;
    (void)token;
    (void)len;
    start += edges->offset;
    end += edges->offset;
    if ((start == edges->offset && start > 0) || (end == edges->until && end < edges->len))
        return 0; /* it may be cut off */
    int begins = kind == WORDS_MAIN && start >= edges->word_end;
    if (kind == WORDS_MAIN || kind == WORDS_COMPOUND)
        edges->word_end = end > edges->word_end ? end : edges->word_end;
    if (edges->passage.end == 0) {
        if (!begins || (start < edges->match && columns(edges->text, start, edges->match) > LEAD))
            return 0;
        edges->passage.start = start;
    }
    if (edges->passage.end > 0 && columns(edges->text, edges->passage.start, end) > WIDTH)
        return 1;
    if (end >= edges->word_end)
        edges->passage.end = end;
    return 0;
}

/* The nearest place not behind `at` where a character begins. */
static size_t char_start(const char *text, size_t at)
{
    while (at > 0 && ((unsigned char)text[at] & 0xc0) == 0x80)
        at--;
    return at;
}

static struct look_span find_passage(struct words *words, const char *text, size_t len,
                                     size_t match)
{
    struct edges edges = {.text = text, .len = len, .match = match};
    edges.offset = match > REACH / 2 ? char_start(text, match - REACH / 2) : 0;
    edges.until = len - match > REACH ? char_start(text, match + REACH) : len;
    words_scan(words, text + edges.offset, edges.until - edges.offset, on_edge_token, &edges);
    if (edges.passage.end == 0) /* no words */
        edges.passage = (struct look_span){0, len > WIDTH ? char_start(text, WIDTH) : len};
    /* What stands before the first word and after the last belongs to the text, too. */
    if (columns(text, 0, edges.passage.start) < LEAD / 4)
        edges.passage.start = 0;
    if (columns(text, edges.passage.end,
                len < edges.passage.end + LEAD ? len : edges.passage.end + LEAD) < LEAD / 4 &&
        len < edges.passage.end + LEAD)
        edges.passage.end = len;
    return edges.passage;
}

/* ---- its text ---- */

/* Adds bytes, each run of white space as one blank; none at the beginning. */
static void add_clean(struct text *out, size_t begin, const char *text, size_t start, size_t end)
{
    for (size_t i = start; i < end; i++) {
        char c = (unsigned char)text[i] <= 0x20 || text[i] == 0x7f ? ' ' : text[i];
        if (c != ' ' || (out->len > begin && out->data[out->len - 1] != ' '))
            text_add(out, &c, 1);
    }
}

/* The first match at or behind `at` that is whole in the passage, with those that touch it. */
static int next_mark(const struct look *look, size_t at, size_t end, struct look_span *mark)
{
    *mark = (struct look_span){end, end};
    for (size_t i = 0; i < look->n_hits; i++) {
        struct look_span span = look->hits[i].span;
        if (span.start >= at && span.end <= end && span.start < mark->start)
            *mark = span;
    }
    for (size_t i = 0; i < look->n_hits; i++) {
        struct look_span span = look->hits[i].span;
        if (span.start >= mark->start && span.start < mark->end && span.end > mark->end &&
            span.end <= end)
            mark->end = span.end;
    }
    return mark->start < end;
}

static void add_passage(struct text *out, const struct look *look, const char *text, size_t len,
                        struct look_span passage, const char *open, const char *close)
{
    size_t begin = out->len, at = passage.start;
    struct look_span mark;
    if (passage.start > 0)
        text_add(out, "\xe2\x80\xa6 ", 4);
    while (next_mark(look, at, passage.end, &mark)) {
        add_clean(out, begin, text, at, mark.start);
        text_add(out, open, strlen(open));
        add_clean(out, begin, text, mark.start, mark.end);
        text_add(out, close, strlen(close));
        at = mark.end;
    }
    add_clean(out, begin, text, at, passage.end);
    while (out->len > begin && out->data[out->len - 1] == ' ')
        out->len--;
    if (passage.end < len)
        text_add(out, " \xe2\x80\xa6", 4);
}

void excerpt_add(struct text *out, struct words *words, const struct parse *parse, const char *text,
                 size_t len, const char *open, const char *close, int64_t deadline_ms)
{
    struct look look;
    unsigned char wanted[PARSE_MAX_LEAVES] = {0};
    want_leaves(wanted, parse, parse->root, 0);
    look_begin(&look, parse, wanted);
    if (clock_ms() < deadline_ms)
        look_through(&look, words, text, len, 1, deadline_ms);
    size_t best = choose(&look);
    struct look_span passage =
        find_passage(words, text, len, best < look.n_hits ? look.hits[best].span.start : 0);
    add_passage(out, &look, text, len, passage, open, close);
}

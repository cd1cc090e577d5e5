/* words.c - finds the words of a text, see words.h.
 *
 * Most scripts need no more than the class of each character: a word is a maximal run of letters,
 * digits and marks, which is what Unicode's rules come to once a word also ends at apostrophes,
 * full stops and low lines. Only runs with a script that sets no blanks go through ICU's break
 * iterator. */
#include "words.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unicode/ubrk.h>
#include <unicode/uchar.h>
#include <unicode/ustring.h>
#include <unicode/utf16.h>
#include <unicode/utf8.h>

#include "fold.h"

enum {
    WORD_CHARS = 128,  /* longer words are divided */
    RUN_UNITS = 1024,  /* of scripts without blanks, between two that are no letters */
    COMPOUND_UNITS = 8 /* in longer ones no parts are looked for */
};

/* What a character is to a word. */
enum class {
    CLASS_NONE,
    CLASS_LETTER,
    CLASS_DIGIT,
    CLASS_MARK,    /* belongs to what is before it */
    CLASS_IGNORED, /* as if it was not there, as soft hyphens and U+200B */
    CLASS_EMOJI,
    CLASS_IDEOGRAPH, /* Chinese and Japanese */
    CLASS_COMPLEX    /* Thai, Lao, Khmer, Burmese */
};

struct words {
    UBreakIterator *breaks, *part_breaks;
    const char *text;
    size_t len;
    words_cb *cb;
    void *user;
    int stopped; /* what cb said */
    struct fold_form exact, folded;
    int is_other_half; /* the next word is the second half of the last one */
    UChar units[RUN_UNITS];
    size_t starts[RUN_UNITS], ends[RUN_UNITS]; /* of each unit, in the text */
    int32_t n_units;
};

/* A run of characters that belong together. */
struct run {
    size_t start, end; /* in the text; end: behind the last that is not ignored */
    size_t next;       /* where to go on */
    int is_ascii, has_dictionary, ends_with_letter;
    int n_chars;
};

/* ---- characters ---- */

static unsigned char classes[0x10000];
static pthread_once_t classes_once = PTHREAD_ONCE_INIT;

static int is_ideograph(UChar32 c)
{
    return (c >= 0x2e80 && c <= 0x2fdf) || (c >= 0x3005 && c <= 0x3007) ||
           (c >= 0x3021 && c <= 0x3029) || (c >= 0x3041 && c <= 0x3096) ||
           (c >= 0x309d && c <= 0x309f) || (c >= 0x30a1 && c <= 0x30fa) ||
           (c >= 0x30fc && c <= 0x30ff) || (c >= 0x31f0 && c <= 0x31ff) ||
           (c >= 0x3400 && c <= 0x4dbf) || (c >= 0x4e00 && c <= 0x9fff) ||
           (c >= 0xf900 && c <= 0xfaff) || (c >= 0xff66 && c <= 0xff9d) ||
           (c >= 0x20000 && c <= 0x3ffff);
}

/* Letters that stand for an apostrophe or a glottal stop: people type an apostrophe. */
static int is_apostrophe(UChar32 c)
{
    return c == 0x2b9 || (c >= 0x2bb && c <= 0x2bf) || c == 0x2c8;
}

static enum class classify(UChar32 c) {
    uint32_t mask = 1u << u_charType(c); if (is_apostrophe(c)) return CLASS_NONE;
    if (c == 0xff9e || c == 0xff9f || (mask & U_GC_M_MASK) != 0) /* also halfwidth voice marks */
            return u_getIntPropertyValue(c, UCHAR_LINE_BREAK) == U_LB_COMPLEX_CONTEXT
        ? CLASS_COMPLEX
        : CLASS_MARK;
    if (mask & U_GC_CF_MASK) return CLASS_IGNORED;
    if (is_ideograph(c)) return CLASS_IDEOGRAPH;
    if (mask & (U_GC_ND_MASK | U_GC_NO_MASK)) return CLASS_DIGIT;
    if (mask & (U_GC_L_MASK | U_GC_NL_MASK) ||
        u_isUAlphabetic(c)) return u_getIntPropertyValue(c, UCHAR_LINE_BREAK) ==
            U_LB_COMPLEX_CONTEXT
        ? CLASS_COMPLEX
        : CLASS_LETTER;
    if (c >= 0x203c && (u_hasBinaryProperty(c, UCHAR_EXTENDED_PICTOGRAPHIC) ||
                        u_hasBinaryProperty(c, UCHAR_EMOJI_MODIFIER) ||
                        u_hasBinaryProperty(c, UCHAR_REGIONAL_INDICATOR))) return c == 0x2122 ||
            c == 0x2139
        ? CLASS_NONE
        : CLASS_EMOJI;
    return CLASS_NONE;
}

static void fill_classes(void)
{
    for (UChar32 c = 0; c < 0x10000; c++)
        classes[c] = (unsigned char)classify(c);
}

static enum class class_of(UChar32 c) {
    return c < 0         ? CLASS_NONE
           : c < 0x10000 ? (enum class)classes[c]
                         : classify(c);
}

/* The character at *at, which goes behind it; negative if it is malformed. */
static UChar32 next_char(const struct words *words, size_t *at)
{
    const uint8_t *text = (const uint8_t *)words->text;
    UChar32 c = text[*at];
    if (c < 0x80) {
        ++*at;
        return c;
    }
    size_t i = *at; /* not more of the text than a character, as ICU counts in 32 bits */
    int32_t n = words->len - i > 4 ? 4 : (int32_t)(words->len - i), used = 0;
    U8_NEXT(text + i, used, n, c);
    *at = i + (size_t)used;
    return c;
}

static enum class peek_class(const struct words *words, size_t at, UChar32 *c) {
        *c = at < words->len ? next_char(words, &at) : -1; return class_of(*c);
}

/* ---- tokens ---- */

static void emit(struct words *words, enum words_kind kind, const char *token, size_t len,
                 size_t start, size_t end)
{
    if (words->stopped == 0 && len > 0)
        words->stopped = words->cb(words->user, kind, token, len, start, end);
}

static size_t to_utf8(const UChar *units, int32_t n, char *out, size_t size)
{
    UErrorCode error = U_ZERO_ERROR;
    int32_t len = 0;
    u_strToUTF8WithSub(out, (int32_t)size, &len, units, n, 0xfffd, NULL, &error);
    return U_SUCCESS(error) && len > 0 ? (size_t)len : 0;
}

/* A word whose exact form is in words->exact: its folded form, and the exact one if it differs. */
static void emit_forms(struct words *words, enum words_kind kind, size_t start, size_t end)
{
    char token[2 * WORDS_MAX_TOKEN_BYTES + 1];
    int32_t article;
    const struct fold_form *exact = &words->exact, *folded = &words->folded;
    fold_loosely(exact, &words->folded, &article);
    size_t len =
        to_utf8(folded->units + article, folded->len - article, token, WORDS_MAX_TOKEN_BYTES);
    emit(words, kind, token, len, start, end);
    if (len == 0 || (folded->len == exact->len && article == 0 &&
                     u_memcmp(folded->units, exact->units, exact->len) == 0))
        return;
    token[len] = WORDS_EXACT_MARK;
    size_t more = to_utf8(exact->units, exact->len, token + len + 1, WORDS_MAX_TOKEN_BYTES);
    emit(words, WORDS_EXACT, token, len + 1 + more, start, end);
    if (article > 0) { /* so that how the word begins, article and all, is found as well */
        len = to_utf8(folded->units, folded->len, token, WORDS_MAX_TOKEN_BYTES);
        emit(words, WORDS_PART, token, len, start, end);
    }
}

static void emit_units(struct words *words, enum words_kind kind, int32_t from, int32_t to)
{
    fold_exact(words->units + from, to - from, &words->exact);
    emit_forms(words, kind, words->starts[from], words->ends[to - 1]);
}

/* ---- runs ---- */

/* Finds the run that begins at `at`. */
static struct run find_run(const struct words *words, size_t at)
{
    struct run run = {.start = at, .end = at, .next = at, .is_ascii = 1};
    enum class before = CLASS_NONE;
    UChar32 c;
    while (run.next < words->len &&
           run.n_chars < (run.has_dictionary ? RUN_UNITS / 2 : WORD_CHARS)) {
        size_t after = run.next;
        c = next_char(words, &after);
        enum class class = class_of(c);
        if (class == CLASS_NONE || class == CLASS_EMOJI || (c == 0x200b && before == CLASS_COMPLEX))
            break; /* where blanks are not written, U+200B is one */
        run.next = after;
        run.is_ascii &= c < 0x80;
        run.has_dictionary |= class >= CLASS_IDEOGRAPH;
        if (class == CLASS_IGNORED)
            continue;
        run.ends_with_letter =
            class == CLASS_LETTER || (class == CLASS_MARK && run.ends_with_letter);
        run.end = after;
        run.n_chars++;
        before = class == CLASS_MARK ? before : class;
    }
    return run;
}

/* Decodes a run, without what is ignored. */
static void take_units(struct words *words, const struct run *run)
{
    UChar32 c;
    int32_t n = 0;
    for (size_t at = run->start, before; at < run->end && n < RUN_UNITS - 1;) {
        before = at;
        c = next_char(words, &at);
        if (class_of(c) == CLASS_IGNORED)
            continue;
        int32_t first = n;
        n += fold_append(words->units + n, c);
        for (; first < n; first++) {
            words->starts[first] = before;
            words->ends[first] = at;
        }
    }
    words->n_units = n;
}

/* ---- Chinese and Japanese ---- */

/* The end of the character at `at`, its marks included. */
static int32_t unit_end(const struct words *words, int32_t at, int32_t end)
{
    fold_next(words->units, &at, end);
    while (at < end && class_of(words->units[at]) == CLASS_MARK)
        at++;
    return at;
}

static int is_han(const UChar *units, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        if (units[i] < 0x3400 || units[i] > 0x9fff)
            return 0;
    return 1;
}

/* Whether the dictionary takes all of it for one word. */
static int is_one_word(struct words *words, const UChar *units, int32_t n)
{
    UErrorCode error = U_ZERO_ERROR;
    if (n == 1)
        return 1;
    ubrk_setText(words->part_breaks, units, n, &error);
    ubrk_first(words->part_breaks);
    return U_SUCCESS(error) && ubrk_next(words->part_breaks) == n;
}

/* Whether the word from..to is divided into two words at `at`. */
static int is_seam(struct words *words, int32_t from, int32_t at, int32_t to)
{
    return is_one_word(words, words->units + from, at - from) &&
           is_one_word(words, words->units + at, to - at);
}

/* The words of a text that has 天安門事件 as one word are also 天安門 and 事件. */
static void emit_parts(struct words *words, int32_t at, int32_t from, int32_t to)
{
    for (int32_t seam = from + 1; seam < to; seam++) {
        if ((at == from && seam > from + 1 && is_seam(words, from, seam, to)))
            emit_units(words, WORDS_PART, from, seam);
        if (at == seam && to > seam + 1 && is_seam(words, from, seam, to))
            emit_units(words, WORDS_PART, seam, to);
    }
}

/* Characters are positions, so that what the dictionary divides in one way in the text and in
 * another in the query is found as a phrase; words come with their first character. */
static void emit_ideographs(struct words *words, int32_t from, int32_t to)
{
    int has_parts =
        to - from > 2 && to - from <= COMPOUND_UNITS && is_han(words->units + from, to - from);
    for (int32_t at = from, next; at < to && words->stopped == 0; at = next) {
        next = unit_end(words, at, to);
        emit_units(words, WORDS_MAIN, at, next);
        if (at == from && next < to)
            emit_units(words, WORDS_COMPOUND, from, to);
        if (has_parts)
            emit_parts(words, at, from, to);
    }
}

static void emit_dictionary_run(struct words *words, const struct run *run)
{
    UErrorCode error = U_ZERO_ERROR;
    take_units(words, run);
    ubrk_setText(words->breaks, words->units, words->n_units, &error);
    if (U_FAILURE(error))
        return;
    int32_t from = ubrk_first(words->breaks), to;
    while ((to = ubrk_next(words->breaks)) != UBRK_DONE && words->stopped == 0) {
        int32_t first = from;
        if (class_of(fold_next(words->units, &first, to)) == CLASS_IDEOGRAPH)
            emit_ideographs(words, from, to);
        else
            emit_units(words, WORDS_MAIN, from, to);
        from = to;
    }
}

/* ---- other scripts ---- */

static void emit_ascii(struct words *words, enum words_kind kind, const struct run *run)
{
    char token[WORD_CHARS];
    size_t len = run->end - run->start;
    for (size_t i = 0; i < len; i++) {
        char c = words->text[run->start + i];
        token[i] = c >= 'A' && c <= 'Z' ? (char)(c + 'a' - 'A') : c;
    }
    emit(words, kind, token, len, run->start, run->end);
}

static int is_blank(UChar32 c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == 0xa0;
}

/* Whether a hyphen at a line's end follows the run; *next is the other half of its word. */
static int find_other_half(const struct words *words, const struct run *run, struct run *next)
{
    size_t at = run->end;
    UChar32 c = -1;
    if (!run->ends_with_letter || at == words->len)
        return 0;
    c = next_char(words, &at);
    if (c != '-' && c != 0x2010 && c != 0xad)
        return 0;
    int lines = 0;
    size_t before = at;
    for (; at < words->len; before = at) {
        c = next_char(words, &at);
        if (c == '\n')
            lines++;
        else if (!is_blank(c))
            break;
    }
    if (lines != 1 || class_of(c) != CLASS_LETTER)
        return 0;
    *next = find_run(words, before);
    return !next->has_dictionary && run->n_chars + next->n_chars <= WORD_CHARS;
}

/* The word that has these halves, at the position of the first. */
static void emit_joined(struct words *words, const struct run *half, const struct run *other)
{
    UChar units[2 * FOLD_MAX_UNITS];
    take_units(words, half);
    int32_t n = words->n_units;
    u_memcpy(units, words->units, n);
    take_units(words, other);
    u_memcpy(units + n, words->units, words->n_units);
    fold_exact(units, n + words->n_units, &words->exact);
    emit_forms(words, WORDS_JOINED, half->start, other->end);
}

/* The second half of a word is at the position of the first, so that the words around it are its
 * neighbours in a phrase. */
static void emit_simple_run(struct words *words, const struct run *run)
{
    struct run next;
    enum words_kind kind = words->is_other_half ? WORDS_PART : WORDS_MAIN;
    if (run->is_ascii) {
        emit_ascii(words, kind, run);
    } else {
        take_units(words, run);
        emit_units(words, kind, 0, words->n_units);
    }
    words->is_other_half = find_other_half(words, run, &next);
    if (words->is_other_half)
        emit_joined(words, run, &next);
}

/* An emoji with what changes it: a colour, a joined one; or a flag, which is two letters. */
static size_t emit_emoji(struct words *words, size_t start)
{
    struct run run = {.start = start};
    size_t at = start;
    UChar32 c = next_char(words, &at), next;
    int is_flag = u_hasBinaryProperty(c, UCHAR_REGIONAL_INDICATOR), joins = 0;
    while (at < words->len) {
        enum class class = peek_class(words, at, &next);
        int belongs = class == CLASS_MARK || next == 0x200d ||
                      (class == CLASS_EMOJI &&
                       (joins || u_hasBinaryProperty(next, UCHAR_EMOJI_MODIFIER) ||
                        (is_flag && u_hasBinaryProperty(next, UCHAR_REGIONAL_INDICATOR))));
        if (!belongs || at - start > WORD_CHARS)
            break;
        is_flag = is_flag && class != CLASS_EMOJI;
        joins = next == 0x200d;
        next_char(words, &at);
    }
    run.end = at;
    take_units(words, &run);
    emit_units(words, WORDS_MAIN, 0, words->n_units);
    return at;
}

/* ---- the whole ---- */

int words_scan(struct words *words, const char *text, size_t len, words_cb *cb, void *user)
{
    words->text = text;
    words->len = len;
    words->cb = cb;
    words->user = user;
    words->stopped = words->is_other_half = 0;
    for (size_t at = 0; at < len && words->stopped == 0;) {
        size_t start = at;
        enum class class = class_of(next_char(words, &at));
        if (class == CLASS_EMOJI) {
            at = emit_emoji(words, start);
        } else if (class != CLASS_NONE && class != CLASS_IGNORED && class != CLASS_MARK) {
            struct run run = find_run(words, start);
            if (run.has_dictionary)
                emit_dictionary_run(words, &run);
            else
                emit_simple_run(words, &run);
            at = run.next;
        }
    }
    return words->stopped;
}

struct words *words_open(void)
{
    UErrorCode error = U_ZERO_ERROR;
    pthread_once(&classes_once, fill_classes);
    struct words *words = calloc(1, sizeof *words);
    if (words == NULL)
        return NULL;
    words->breaks = ubrk_open(UBRK_WORD, "", NULL, 0, &error);
    words->part_breaks = ubrk_open(UBRK_WORD, "", NULL, 0, &error);
    if (U_SUCCESS(error))
        return words;
    words_close(words);
    return NULL;
}

void words_close(struct words *words)
{
    if (words == NULL)
        return;
    ubrk_close(words->breaks);
    ubrk_close(words->part_breaks);
    free(words);
}

/* fold.c - the two forms of a word. ICU normalises; which marks and letters make no difference to a
 * reader who searches is said here. */
#include "fold.h"

#include <string.h>
#include <unicode/uchar.h>
#include <unicode/unorm2.h>
#include <unicode/ustring.h>
#include <unicode/utf16.h>

/* Letters that have no decomposition, but are typed as these. */
static const struct {
    UChar from;
    const char *to;
} letters[] = {{0xe6, "ae"}, {0xf0, "d"},  {0xf8, "o"},  {0xfe, "th"}, {0x111, "d"},
               {0x127, "h"}, {0x131, "i"}, {0x142, "l"}, {0x14b, "n"}, {0x153, "oe"},
               {0x167, "t"}, {0x180, "b"}, {0x192, "f"}, {0x197, "i"}, {0x19a, "l"},
               {0x1dd, "e"}, {0x237, "j"}, {0x253, "b"}, {0x256, "d"}, {0x257, "d"},
               {0x259, "e"}, {0x268, "i"}, {0x272, "n"}, {0x289, "u"}, {0x1e9e, "ss"}};

enum {
    ALEF = 0x627,
    TEH_MARBUTA = 0x629,
    HEH = 0x647,
    TATWEEL = 0x640,
    LAM = 0x644,
    ALEF_MAKSURA = 0x649,
    YEH = 0x64a,
    BREVE = 0x306,
    NUKTA_LOW_BYTES = 0x3c, /* of U+093C, U+09BC, ... */
    ANUSVARA = 0x902,
    VIRAMA = 0x94d,
    LEAST_AFTER_ARTICLE = 3
};

int32_t fold_append(UChar *out, UChar32 c)
{
    if (c < 0x10000) {
        out[0] = (UChar)c;
        return 1;
    }
    out[0] = U16_LEAD(c);
    out[1] = U16_TRAIL(c);
    return 2;
}

UChar32 fold_next(const UChar *units, int32_t *at, int32_t n)
{
    UChar unit = units[(*at)++];
    if (!U16_IS_LEAD(unit) || *at == n || !U16_IS_TRAIL(units[*at]))
        return unit;
    UChar trail = units[(*at)++];
    return (UChar32)(((unit - 0xd800u) << 10) + (trail - 0xdc00u) + 0x10000u);
}

static int is_between(UChar32 c, UChar32 first, UChar32 last)
{
    return c >= first && c <= last;
}

static int is_latin_mark(UChar32 c)
{
    return is_between(c, 0x300, 0x36f) || is_between(c, 0x1ab0, 0x1aff) ||
           is_between(c, 0x1dc0, 0x1dff) || is_between(c, 0x20d0, 0x20ff) ||
           is_between(c, 0xfe20, 0xfe2f);
}

/* Points and accents of Hebrew. */
static int is_hebrew_mark(UChar32 c)
{
    return is_between(c, 0x591, 0x5c7) && c != 0x5be && c != 0x5c0 && c != 0x5c3 && c != 0x5c6;
}

/* Vowel signs and marks of the Koran. Hamza and madda count only on other letters than alef. */
static int is_arabic_mark(UChar32 c, UChar32 base)
{
    if (is_between(c, 0x653, 0x655))
        return base == ALEF;
    return is_between(c, 0x610, 0x61a) || is_between(c, 0x64b, 0x65f) || c == 0x670 ||
           c == TATWEEL ||
           (is_between(c, 0x6d6, 0x6ed) && c != 0x6dd && c != 0x6de && c != 0x6e9) ||
           is_between(c, 0x8d3, 0x8ff);
}

/* The dot that makes a letter of Sanskrit one of Persian, and is often left out. */
static int is_nukta(UChar32 c)
{
    return (c & 0x7f) == NUKTA_LOW_BYTES && is_between(c, 0x900, 0xb7f);
}

static int is_skin_tone(UChar32 c)
{
    return is_between(c, 0x1f3fb, 0x1f3ff);
}

/* Whether `c` after the letter `base` makes no difference. The Cyrillic letters with a breve are
 * letters of their own. */
static int is_dropped(UChar32 c, UChar32 base)
{
    if (c == BREVE && is_between(base, 0x400, 0x4ff))
        return 0;
    return is_latin_mark(c) || is_hebrew_mark(c) || is_arabic_mark(c, base) || is_nukta(c) ||
           is_skin_tone(c);
}

static UChar32 fold_arabic(UChar32 c)
{
    switch (c) {
    case TEH_MARBUTA:
        return HEH;
    case ALEF_MAKSURA:
    case 0x6cc: /* the Persian yeh */
        return YEH;
    case 0x6a9: /* the Persian kaf */
        return 0x643;
    case 0x671: /* alef wasla */
        return ALEF;
    default:
        return c;
    }
}

/* Hindi writes a nasal before a consonant as a letter or as a dot: हिन्दी, हिंदी. Returns how many
 * units of `p` are such a letter. */
static int32_t nasal_length(const UChar *p, int32_t n)
{
    if (n < 3 || p[1] != VIRAMA || !is_between(p[2], 0x915, 0x939))
        return 0;
    int is_nasal = p[0] == 0x919 || p[0] == 0x91e || p[0] == 0x923 || p[0] == 0x928 ||
                   (p[0] == 0x92e && is_between(p[2], 0x92a, 0x92e));
    return is_nasal ? 2 : 0;
}

static int32_t add_letter(UChar *out, UChar32 c)
{
    if (c < 0x80) {
        out[0] = (UChar)c;
        return 1;
    }
    for (size_t i = 0; i < sizeof letters / sizeof *letters; i++)
        if (letters[i].from == c) {
            u_charsToUChars(letters[i].to, out, (int32_t)strlen(letters[i].to));
            return (int32_t)strlen(letters[i].to);
        }
    if (u_charType(c) == U_DECIMAL_DIGIT_NUMBER) {
        out[0] = (UChar)('0' + u_charDigitValue(c));
        return 1;
    }
    return fold_append(out, c == 0x901 ? ANUSVARA : fold_arabic(c));
}

/* Where the article ends: al-, and after and, with, then, like, for. A word of three letters at
 * least must remain. */
static int32_t article_length(const UChar *p, int32_t n)
{
    int32_t at = n > 0 && (p[0] == 0x648 || p[0] == 0x628 || p[0] == 0x641 || p[0] == 0x643);
    if (n >= at + 2 + LEAST_AFTER_ARTICLE && p[at] == ALEF && p[at + 1] == LAM)
        return at + 2;
    if (n >= 2 + LEAST_AFTER_ARTICLE && p[0] == LAM && p[1] == LAM)
        return 2;
    return 0;
}

void fold_exact(const UChar *units, int32_t n, struct fold_form *exact)
{
    UErrorCode error = U_ZERO_ERROR;
    const UNormalizer2 *casefold = unorm2_getNFKCCasefoldInstance(&error);
    exact->len = unorm2_normalize(casefold, units, n, exact->units, FOLD_MAX_UNITS, &error);
    if (U_FAILURE(error))
        exact->len = 0;
}

void fold_loosely(const struct fold_form *exact, struct fold_form *folded, int32_t *article)
{
    UChar apart[2 * FOLD_MAX_UNITS], loose[3 * FOLD_MAX_UNITS];
    UErrorCode error = U_ZERO_ERROR;
    int32_t len = 0, nasal;
    int32_t n = unorm2_normalize(unorm2_getNFDInstance(&error), exact->units, exact->len, apart,
                                 2 * FOLD_MAX_UNITS, &error);
    UChar32 c, base = 0;
    for (int32_t i = 0; i < n && U_SUCCESS(error) && len < 2 * FOLD_MAX_UNITS;) {
        if ((nasal = nasal_length(apart + i, n - i)) > 0) {
            base = ANUSVARA;
            loose[len++] = ANUSVARA;
            i += nasal;
            continue;
        }
        c = fold_next(apart, &i, n);
        if (is_dropped(c, base))
            continue;
        if (u_getCombiningClass(c) == 0)
            base = c;
        len += add_letter(loose + len, c);
    }
    folded->len = unorm2_normalize(unorm2_getNFCInstance(&error), loose, len, folded->units,
                                   FOLD_MAX_UNITS, &error);
    if (U_FAILURE(error) || folded->len == 0)
        *folded = *exact;
    *article = article_length(folded->units, folded->len);
}

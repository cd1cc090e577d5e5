/* generate.c - makes words of syllables, and documents of words. */
#include "generate.h"

#include <stdint.h>
#include <string.h>

enum { WORDS = 50000, LEAST_WORDS = 100, MORE_WORDS = 100 };

/* A number that looks random and depends on the seed only (SplitMix64). */
static uint64_t next_number(uint64_t *seed)
{
    uint64_t z = *seed += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* The word of a rank: the common ones are short. */
static void add_word(struct text *out, uint64_t rank)
{
    static const char *const begins[] = {"b", "d", "f", "g", "h", "k", "l", "m",
                                         "n", "p", "r", "s", "t", "v", "w", "st"};
    static const char *const ends[] = {"a", "e", "i", "o", "u", "an", "er", "in"};
    for (rank++; rank > 0; rank /= 128) {
        const char *begin = begins[rank % 16], *end = ends[rank / 16 % 8];
        text_add(out, begin, strlen(begin));
        text_add(out, end, strlen(end));
    }
}

void generate_text(struct text *out, size_t index)
{
    uint64_t seed = index;
    size_t n = LEAST_WORDS + next_number(&seed) % MORE_WORDS;
    for (size_t i = 0; i < n; i++) {
        /* The logarithm of its rank is spread evenly, so ranks are as Zipf's law has them. */
        unsigned bits = (unsigned)(next_number(&seed) % 16);
        uint64_t rank = ((1u << bits) | (next_number(&seed) & ((1u << bits) - 1))) - 1;
        add_word(out, rank % WORDS);
        text_add(out, i % 12 == 11 ? ".\n" : " ", i % 12 == 11 ? 2 : 1);
    }
    text_addf(out, "only%zu", index);
}

/* look.c - follows the leaves of a query through the tokens of a text. */
#include "look.h"

#include <string.h>

#include "clock.h"

enum { TOKENS_PER_LOOK = 4096 /* at the clock */ };

void look_begin(struct look *look, const struct parse *parse, const unsigned char *wanted)
{
    memset(look, 0, sizeof *look);
    look->parse = parse;
    for (size_t l = 0; l < parse->n_leaves; l++) {
        const struct parse_leaf *leaf = &parse->leaves[l];
        look->wanted[l] = wanted[l] && leaf->n <= LOOK_PHRASE_TOKENS;
        for (size_t i = 0; i < leaf->n; i++) {
            struct parse_piece token = parse->tokens[leaf->first + i].folded;
            look->first_bytes[(unsigned char)parse->arena.data[token.at]] = 1;
        }
    }
}

static int is_token(const struct parse *parse, const struct parse_leaf *leaf, size_t i,
                    const char *token, size_t len)
{
    struct parse_piece piece = parse->tokens[leaf->first + i].folded;
    int may_go_on = leaf->is_prefix && i + 1 == leaf->n;
    return (may_go_on ? len >= piece.len : len == piece.len) &&
           memcmp(parse->arena.data + piece.at, token, piece.len) == 0;
}

static void keep_hit(struct look *look, size_t l)
{
    size_t n = look->parse->leaves[l].n;
    if (!look->keeps_hits || look->n_hits == LOOK_MAX_HITS ||
        look->n_of_leaf[l] > LOOK_HITS_PER_LEAF)
        return;
    look->hits[look->n_hits++] =
        (struct look_hit){{look->spans[l][(look->position + 1 - n) % LOOK_PHRASE_TOKENS].start,
                           look->spans[l][look->position % LOOK_PHRASE_TOKENS].end},
                          (int)l};
}

/* The last position is complete: carries the phrases on. */
static void end_position(struct look *look)
{
    for (size_t l = 0; l < look->parse->n_leaves; l++) {
        if (look->here[l] == 0) {
            look->so_far[l] = 0;
            continue;
        }
        look->so_far[l] = ((look->so_far[l] << 1) | 1) & look->here[l];
        look->here[l] = 0;
        if ((look->so_far[l] >> (look->parse->leaves[l].n - 1) & 1) == 0)
            continue;
        look->n_of_leaf[l]++;
        keep_hit(look, l);
    }
}

static void look_at_token(struct look *look, const char *token, size_t len, struct look_span span)
{
    for (size_t l = 0; l < look->parse->n_leaves; l++) {
        const struct parse_leaf *leaf = &look->parse->leaves[l];
        for (size_t i = 0; look->wanted[l] && i < leaf->n; i++) {
            if (!is_token(look->parse, leaf, i, token, len))
                continue;
            look->here[l] |= 1ull << i;
            look->spans[l][look->position % LOOK_PHRASE_TOKENS] = span;
        }
    }
}

static int on_token(void *user, enum words_kind kind, const char *token, size_t len, size_t start,
                    size_t end)
{
    struct look *look = user;
    if (kind == WORDS_MAIN) {
        end_position(look);
        if (++look->position % TOKENS_PER_LOOK == 0 && clock_ms() > look->deadline_ms)
            return -1;
    }
    if (kind != WORDS_EXACT && look->first_bytes[(unsigned char)token[0]])
        look_at_token(look, token, len, (struct look_span){start, end});
    return look->n_hits == LOOK_MAX_HITS;
}

int look_through(struct look *look, struct words *words, const char *text, size_t len,
                 int keeps_hits, int64_t deadline_ms)
{
    look->n_hits = look->position = 0;
    look->keeps_hits = keeps_hits;
    look->deadline_ms = deadline_ms;
    memset(look->n_of_leaf, 0, sizeof look->n_of_leaf);
    memset(look->so_far, 0, sizeof look->so_far);
    memset(look->here, 0, sizeof look->here);
    int r = words_scan(words, text, len, on_token, look);
    end_position(look);
    return r < 0 ? -1 : 0;
}

/* test_order.c - who is next and how many are in front: the tree against a plain sorted array. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "workqueue/core/order.h"

enum { MODEL_MAX = 200, STEPS = 20000, MANY = 200000 };

/* What the tree should hold, in order. */
typedef struct model {
    wq_order order;
    wq_order_node *nodes[MODEL_MAX];
    size_t n;
    uint64_t random;
} model;

static void begin(model *m)
{
    memset(m, 0, sizeof *m);
    m->order.random = 88172645463325252U;
    m->random = 12345;
}

static uint64_t draw(model *m, uint64_t below)
{
    m->random = m->random * 6364136223846793005U + 1442695040888963407U;
    return (m->random >> 33) % below;
}

static void insert(model *m, uint64_t rank)
{
    size_t at = m->n;
    wq_order_node *node = malloc(sizeof *node);
    assert_non_null(node);
    memset(node, 0xa5, sizeof *node); /* what was in it before must not matter */
    wq_order_insert(&m->order, node, rank, (int)draw(m, 2));
    for (; at > 0 && m->nodes[at - 1]->rank > rank; at--)
        m->nodes[at] = m->nodes[at - 1];
    m->nodes[at] = node;
    m->n++;
}

static void take_out(model *m, size_t at)
{
    wq_order_node *node = m->nodes[at];
    wq_order_remove(&m->order, node);
    free(node);
    m->n--;
    memmove(m->nodes + at, m->nodes + at + 1, (m->n - at) * sizeof *m->nodes);
}

static void check(const model *m)
{
    size_t n_ready = 0;
    wq_order_node *first_ready = NULL;
    assert_ptr_equal(wq_order_first(&m->order), m->n ? m->nodes[0] : NULL);
    for (size_t i = 0; i < m->n; i++) {
        assert_int_equal(wq_order_position(m->nodes[i]), i);
        n_ready += (size_t)m->nodes[i]->ready;
        if (first_ready == NULL && m->nodes[i]->ready)
            first_ready = m->nodes[i];
    }
    assert_int_equal(wq_order_n_ready(&m->order), n_ready);
    assert_ptr_equal(wq_order_first_ready(&m->order), first_ready);
}

static void end(model *m)
{
    while (m->n > 0)
        take_out(m, draw(m, m->n));
    check(m);
}

static void test_nobody_is_first_of_none(void **state)
{
    (void)state;
    model m;
    begin(&m);
    check(&m);
    insert(&m, 7);
    check(&m);
    take_out(&m, 0);
    check(&m);
    insert(&m, 7); /* a rank may come again once it is free */
    check(&m);
    end(&m);
}

static void test_first_in_first_out(void **state)
{
    (void)state;
    model m;
    begin(&m);
    uint64_t rank = 0;
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < 9; i++)
            insert(&m, rank++);
        check(&m);
        for (int i = 0; i < 5; i++) {
            take_out(&m, 0);
            check(&m);
        }
    }
    end(&m);
}

static void test_leaving_from_the_middle(void **state)
{
    (void)state;
    model m;
    begin(&m);
    uint64_t rank = 0;
    for (int step = 0; step < STEPS; step++) {
        /* it swings between empty and full */
        uint64_t likely = step / 1000 % 2 ? 3 : 7;
        if (m.n == 0 || (m.n < MODEL_MAX && draw(&m, 10) < likely))
            insert(&m, rank++);
        else
            take_out(&m, draw(&m, m.n));
        if (m.n > 0)
            wq_order_set_ready(m.nodes[draw(&m, m.n)], (int)draw(&m, 2));
        check(&m);
    }
    end(&m);
}

static void test_any_order_of_arrival(void **state)
{
    (void)state;
    model m;
    begin(&m);
    for (uint64_t i = 0; i < MODEL_MAX; i++) {
        insert(&m, i * 73 % 199 * 1000 + i); /* all different, in no order */
        check(&m);
    }
    end(&m);
    for (uint64_t i = 0; i < MODEL_MAX; i++)
        insert(&m, UINT64_MAX - i);
    check(&m);
    end(&m);
}

static size_t depth_of(const wq_order_node *node)
{
    size_t depth = 0;
    for (; node->parent != NULL; node = node->parent)
        depth++;
    return depth;
}

/* What makes a position cheap: whoever is asked about is near the top, although arrivals in order
 * would make a plain tree a list. */
static void test_the_tree_stays_flat(void **state)
{
    (void)state;
    wq_order order = {.random = 1};
    wq_order_node *nodes = calloc(MANY, sizeof *nodes);
    assert_non_null(nodes);
    for (size_t i = 0; i < MANY; i++)
        wq_order_insert(&order, &nodes[i], i, 1);
    size_t deepest = 0;
    for (size_t i = 0; i < MANY; i++) {
        size_t depth = depth_of(&nodes[i]);
        deepest = depth > deepest ? depth : deepest;
    }
    assert_true(deepest < 100); /* 17.6 would be a perfect one; 40 to 50 are usual */
    for (size_t i = 0; i < MANY; i += 2)
        wq_order_remove(&order, &nodes[i]);
    for (size_t i = 1; i < MANY; i += 2)
        assert_int_equal(wq_order_position(&nodes[i]), i / 2);
    for (size_t i = 1; i < MANY; i += 2) {
        assert_ptr_equal(wq_order_first(&order), &nodes[i]);
        wq_order_remove(&order, &nodes[i]);
    }
    assert_null(wq_order_first(&order));
    free(nodes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nobody_is_first_of_none), cmocka_unit_test(test_first_in_first_out),
        cmocka_unit_test(test_leaving_from_the_middle), cmocka_unit_test(test_any_order_of_arrival),
        cmocka_unit_test(test_the_tree_stays_flat),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

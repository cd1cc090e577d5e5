/* test_tables.c - texts are found while they are in the table, and only then: against a plain list.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "workqueue/util/tables.h"

enum { LEN = 17, ALL = 5000, STEPS = 200000, MANY = 200000 };

static uint64_t draw(uint64_t *random)
{
    *random = *random * 6364136223846793005U + 1442695040888963407U;
    return *random >> 20;
}

/* Hexadecimal digits, as ids and keys are; `alike`: their first eight are the same. */
static char *new_text(unsigned number, int alike)
{
    char *text = malloc(LEN);
    uint64_t random = number * 0x9e3779b97f4a7c15;
    assert_non_null(text);
    snprintf(text, LEN, "%08x%08x", alike ? 7U : (unsigned)draw(&random), number);
    return text;
}

static void free_all(char **texts, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free(texts[i]);
    free(texts);
}

static char **new_texts(size_t n, int alike)
{
    char **texts = calloc(n, sizeof *texts);
    assert_non_null(texts);
    for (unsigned i = 0; i < n; i++)
        texts[i] = new_text(i, alike);
    return texts;
}

static void come_and_go(size_t n, int alike)
{
    wq_table table = {.len = LEN, .secret = 0x1234567890abcdef};
    char **texts = new_texts(n, alike), *in = calloc(n, 1);
    uint64_t random = 1;
    for (unsigned step = 0; step < STEPS; step++) {
        size_t i = draw(&random) % n, j = draw(&random) % n;
        if (in[i])
            assert_int_equal(wq_table_remove(&table, texts[i]), 0);
        else
            assert_int_equal(wq_table_add(&table, texts[i]), 0);
        in[i] ^= 1;
        char copy[LEN];
        memcpy(copy, texts[j], LEN);
        assert_ptr_equal(wq_table_find(&table, copy), in[j] ? texts[j] : NULL);
        assert_int_equal(wq_table_remove(&table, copy), -1); /* equal, but not the one */
    }
    for (size_t i = 0; i < n; i++)
        assert_int_equal(wq_table_remove(&table, texts[i]), in[i] ? 0 : -1);
    assert_int_equal(table.n, 0);
    wq_table_clear(&table);
    free(in);
    free_all(texts, n);
}

static void test_against_a_list(void **state)
{
    (void)state;
    come_and_go(ALL, 0);
    come_and_go(7, 0);
}

/* C19: whoever chooses what digests are of can make them begin alike. In one slot, this takes
 * minutes. */
static void test_c19_texts_that_begin_alike_are_spread(void **state)
{
    (void)state;
    wq_table table = {.len = LEN, .secret = 0x1234567890abcdef};
    char **texts = new_texts(MANY, 1);
    const clock_t begin = clock();
    for (size_t i = 0; i < MANY; i++)
        assert_int_equal(wq_table_add(&table, texts[i]), 0);
    for (size_t i = 0; i < MANY; i++)
        assert_ptr_equal(wq_table_find(&table, texts[i]), texts[i]);
    assert_true(clock() - begin < 10 * CLOCKS_PER_SEC);
    wq_table_clear(&table);
    free_all(texts, MANY);
    come_and_go(60, 1);
}

static void test_empty(void **state)
{
    (void)state;
    wq_table table = {.len = LEN};
    assert_null(wq_table_find(&table, "0123456789abcdef"));
    assert_int_equal(wq_table_remove(&table, "0123456789abcdef"), -1);
    wq_table_clear(&table);
}

/* As small as it was, once they have gone. */
static void test_memory_comes_back(void **state)
{
    (void)state;
    wq_table table = {.len = LEN, .secret = 99};
    char **texts = new_texts(MANY, 0);
    for (size_t i = 0; i < MANY; i++)
        assert_int_equal(wq_table_add(&table, texts[i]), 0);
    assert_true(table.size <= 4 * (size_t)MANY);
    for (size_t i = 0; i < MANY; i++)
        assert_ptr_equal(wq_table_find(&table, texts[i]), texts[i]);
    for (size_t i = 10; i < MANY; i++)
        assert_int_equal(wq_table_remove(&table, texts[i]), 0);
    assert_true(table.size <= 128);
    for (size_t i = 0; i < MANY; i++)
        assert_ptr_equal(wq_table_find(&table, texts[i]), i < 10 ? texts[i] : NULL);
    wq_table_clear(&table);
    free_all(texts, MANY);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_a_list),
        cmocka_unit_test(test_c19_texts_that_begin_alike_are_spread),
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_memory_comes_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

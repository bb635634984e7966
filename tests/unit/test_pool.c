/* Pools below the receives that use them: ids and blocks as they grow, limits,
 * holders, joining, and life beyond the port's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "lib/port.h"

static struct proa_pool *open_pool(
	struct proa_port **port, uint32_t size, uint32_t count, uint32_t limit)
{
	struct proa_pool_options options = { .buffer_size = size, .count = count, .limit = limit };
	struct proa_pool *pool;

	assert_int_equal(proa_port_open(NULL, port), 0);
	assert_int_equal(proa_run_once(*port, 0), 0); /* from here on it is this thread's */
	assert_int_equal(proa_pool_open(*port, &options, &pool), 0);
	return pool;
}

static struct proa_pool_stats stats_of(const struct proa_pool *pool)
{
	struct proa_pool_stats stats;

	proa_pool_stats(pool, &stats);
	return stats;
}

/* Growth in odd steps leaves gaps in the ids; each must find its own buffer. */
static void grows_to_its_limit(void **state)
{
	enum { LIMIT = 333 };
	struct proa_buffer *taken[LIMIT];
	struct proa_port *port;
	struct proa_pool *pool = open_pool(&port, 100, 5, LIMIT);

	(void)state;
	for (int i = 0; i < LIMIT; i++) {
		taken[i] = proa_pool_take(pool);
		assert_non_null(taken[i]);
		assert_ptr_equal(pool_buffer(pool, pool_id(taken[i])), taken[i]);
		assert_int_equal(taken[i]->size, 100);
		assert_int_equal(taken[i]->length, 0);
		memset(taken[i]->data, i, 100);
	}
	assert_null(proa_pool_take(pool));
	assert_int_equal(stats_of(pool).lent, LIMIT);
	assert_int_equal(stats_of(pool).free, 0);
	for (int i = 0; i < LIMIT; i++) {
		assert_int_equal(taken[i]->data[0], (unsigned char)i);
		assert_int_equal(taken[i]->data[99], (unsigned char)i);
		proa_give_back(taken[i]);
	}
	assert_int_equal(stats_of(pool).lent, 0);
	assert_int_equal(stats_of(pool).free, LIMIT);
	assert_int_equal(stats_of(pool).lent_peak, LIMIT);
	proa_pool_close(pool);
	assert_int_equal(proa_port_close(port), 0);
}

static void holders_and_joins(void **state)
{
	struct proa_port *port;
	struct proa_pool *pool = open_pool(&port, 16, 2, 2);
	struct proa_buffer *one = proa_pool_take(pool), *two = proa_pool_take(pool);

	(void)state;
	proa_hold(one);
	proa_give_back(one);
	assert_int_equal(stats_of(pool).lent, 2);
	memcpy(one->data, "0123456789", 10);
	one->length = 10;
	memcpy(two->data, "abcdefghijkl", 12);
	two->length = 12;
	one->data += 4; /* consumed: the gap closes */
	one->length -= 4;
	assert_int_equal(proa_join(one, two), 10);
	assert_int_equal(one->length, 16);
	assert_memory_equal(one->data, "456789abcdefghij", 16);
	assert_int_equal(two->length, 2);
	assert_memory_equal(two->data, "kl", 2);
	proa_give_back(one);
	proa_give_back(two);
	proa_give_back(NULL);
	assert_int_equal(stats_of(pool).lent, 0);
	/* What was moved forward begins at its start again. */
	one = proa_pool_take(pool);
	two = proa_pool_take(pool);
	memset(one->data, 1, one->size);
	memset(two->data, 2, two->size);
	assert_int_equal(one->data[15], 1);
	proa_give_back(one);
	proa_give_back(two);
	proa_pool_close(pool);
	proa_port_close(port);
}

static void outlives_its_port(void **state)
{
	struct proa_port *port;
	struct proa_pool *pool = open_pool(&port, 64, 2, 2);
	struct proa_buffer *buffer = proa_pool_take(pool);

	(void)state;
	assert_int_equal(proa_port_close(port), 0);
	memset(buffer->data, 7, 64);
	proa_pool_close(pool);
	assert_int_equal(buffer->data[63], 7);
	proa_give_back(buffer); /* with this one the memory goes: the sanitizers look */
}

static void bad_options(void **state)
{
	struct proa_pool_options options = { .limit = 65537 };
	struct proa_port *port;
	struct proa_pool *pool;

	(void)state;
	assert_int_equal(proa_port_open(NULL, &port), 0);
	assert_int_equal(proa_pool_open(port, &options, &pool), PROA_EINVAL);
	assert_null(pool);
	options = (struct proa_pool_options) { .per_handle = 65536 };
	assert_int_equal(proa_pool_open(port, &options, &pool), PROA_EINVAL);
	options = (struct proa_pool_options) { .count = 100, .limit = 3 };
	assert_int_equal(proa_pool_open(port, &options, &pool), 0);
	assert_int_equal(stats_of(pool).free, 3);
	proa_pool_close(pool);
	proa_pool_close(NULL);
	proa_port_close(port);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(grows_to_its_limit),
		cmocka_unit_test(holders_and_joins),
		cmocka_unit_test(outlives_its_port),
		cmocka_unit_test(bad_options),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

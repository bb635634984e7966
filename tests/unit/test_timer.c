/* lib/timer.c against a plain model: an array in which the next timer is looked
 * for from end to end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if !defined(_WIN32)
#	include <sys/mman.h>
#	include <sys/resource.h>
#endif

#include <cmocka.h>

#include <proa/proa.h>

#include "lib/timer.h"

static uint64_t seed;

static uint64_t draw(uint64_t below)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (seed >> 11) % below;
}

static struct proa_op *make_ops(size_t count)
{
	struct proa_op *ops = malloc(count * sizeof *ops);

	assert_non_null(ops);
	for (size_t i = 0; i < count; i++)
		proa_op_init(&ops[i], NULL, NULL);
	return ops;
}

/* ---- the model ----------------------------------------------------------------- */

struct model {
	struct timers timers;
	struct proa_op *ops;
	int64_t *due;
	uint64_t *order; /* 0: not armed */
	size_t count, armed;
	uint64_t clock;
};

static void model_begin(struct model *model, size_t count)
{
	*model = (struct model) { .count = count };
	model->ops = make_ops(count);
	model->due = calloc(count, sizeof *model->due);
	model->order = calloc(count, sizeof *model->order);
	assert_true(model->due != NULL && model->order != NULL);
}

static void model_end(struct model *model)
{
	timers_free(&model->timers);
	free(model->ops);
	free(model->due);
	free(model->order);
}

static void model_arm(struct model *model, size_t i, int64_t due)
{
	assert_int_equal(timer_arm(&model->timers, &model->ops[i], due), 0);
	model->armed += model->order[i] == 0;
	model->due[i] = due;
	model->order[i] = ++model->clock;
}

static void model_disarm(struct model *model, size_t i)
{
	timer_disarm(&model->timers, &model->ops[i]);
	model->armed -= model->order[i] != 0;
	model->order[i] = 0;
}

/* Which is next; count: none. */
static size_t model_first(const struct model *model)
{
	size_t best = model->count;

	for (size_t i = 0; i < model->count; i++) {
		if (model->order[i] == 0)
			continue;
		if (best == model->count || model->due[i] < model->due[best] ||
			(model->due[i] == model->due[best] && model->order[i] < model->order[best]))
			best = i;
	}
	return best;
}

/* What is due at `now`, or nothing, on both sides. */
static bool model_take(struct model *model, int64_t now)
{
	size_t first = model_first(model);
	int64_t due = -1;
	struct proa_op *op = timer_take(&model->timers, now, &due);

	if (first == model->count || model->due[first] > now) {
		assert_null(op);
		return false;
	}
	assert_ptr_equal(op, &model->ops[first]);
	assert_int_equal(due, model->due[first]);
	assert_int_equal(op->timer_, 0);
	model->armed--;
	model->order[first] = 0;
	return true;
}

static void model_check(const struct model *model)
{
	const struct timers *timers = &model->timers;
	size_t first = model_first(model);

	assert_int_equal(timers->count, model->armed);
	assert_true(
		timer_next(timers) == (first == model->count ? PROA_FOREVER : model->due[first]));
	for (size_t i = 0; i < model->count; i++) {
		assert_int_equal(model->ops[i].timer_ != 0, model->order[i] != 0);
		assert_true(timer_due(timers, &model->ops[i]) ==
			    (model->order[i] == 0 ? PROA_FOREVER : model->due[i]));
	}
}

/* ---- cases --------------------------------------------------------------------- */

static void empty(void **state)
{
	struct timers timers = { 0 };
	struct proa_op op;
	int64_t due = 7;

	(void)state;
	proa_op_init(&op, NULL, NULL);
	assert_true(timer_next(&timers) == PROA_FOREVER);
	assert_true(timer_due(&timers, &op) == PROA_FOREVER);
	assert_null(timer_take(&timers, INT64_MAX, &due));
	assert_int_equal(due, 7);
	timer_disarm(&timers, &op);
	assert_int_equal(op.timer_, 0);
	timers_free(&timers);
}

static void one(void **state)
{
	struct timers timers = { 0 };
	struct proa_op op;
	int64_t due = 0;

	(void)state;
	proa_op_init(&op, NULL, NULL);
	assert_int_equal(timer_arm(&timers, &op, 100), 0);
	assert_int_not_equal(op.timer_, 0);
	assert_int_equal(timer_next(&timers), 100);
	assert_null(timer_take(&timers, 99, &due));
	assert_ptr_equal(timer_take(&timers, 100, &due), &op);
	assert_int_equal(due, 100);
	assert_int_equal(op.timer_, 0);
	assert_true(timer_next(&timers) == PROA_FOREVER);
	/* ... and again, moved and cancelled */
	assert_int_equal(timer_arm(&timers, &op, 5), 0);
	assert_int_equal(timer_arm(&timers, &op, -5), 0);
	assert_int_equal(timers.count, 1);
	assert_int_equal(timer_due(&timers, &op), -5);
	timer_disarm(&timers, &op);
	timer_disarm(&timers, &op);
	assert_int_equal(timers.count, 0);
	timers_free(&timers);
	assert_null(timers.keys);
	timers_free(&timers);
}

static void extremes(void **state)
{
	static const int64_t dues[] = { INT64_MAX, 0, INT64_MIN, 1, -1, INT64_MAX - 1 };
	static const int order[] = { 2, 4, 1, 3, 5, 0 };
	struct timers timers = { 0 };
	struct proa_op *ops = make_ops(6);
	int64_t due;

	(void)state;
	for (int i = 0; i < 6; i++)
		assert_int_equal(timer_arm(&timers, &ops[i], dues[i]), 0);
	for (int i = 0; i < 6; i++) {
		assert_ptr_equal(timer_take(&timers, INT64_MAX, &due), &ops[order[i]]);
		assert_true(due == dues[order[i]]);
	}
	timers_free(&timers);
	free(ops);
}

/* Equal due times come in the order of arming, in heaps of every size. */
static void equal_in_order(void **state)
{
	(void)state;
	for (size_t count = 1; count < 200; count++) {
		struct timers timers = { 0 };
		struct proa_op *ops = make_ops(count);
		int64_t due;

		for (size_t i = 0; i < count; i++)
			assert_int_equal(timer_arm(&timers, &ops[i], 42), 0);
		for (size_t i = 0; i < count; i++)
			assert_ptr_equal(timer_take(&timers, 42, &due), &ops[i]);
		assert_null(timer_take(&timers, 42, &due));
		timers_free(&timers);
		free(ops);
	}
}

/* A timer that is moved, be it to where it was, comes after its equals. */
static void moved_is_last(void **state)
{
	struct timers timers = { 0 };
	struct proa_op *ops = make_ops(10);
	int64_t due;

	(void)state;
	for (int i = 0; i < 10; i++)
		assert_int_equal(timer_arm(&timers, &ops[i], i < 5 ? 1 : 2), 0);
	assert_int_equal(timer_arm(&timers, &ops[0], 1), 0); /* 1 2 3 4 0 */
	assert_int_equal(timer_arm(&timers, &ops[7], 1), 0); /* 1 2 3 4 0 7 */
	assert_int_equal(timer_arm(&timers, &ops[2], 2), 0); /* 1 3 4 0 7, 5 6 8 9 2 */
	for (int i = 0; i < 10; i++) {
		static const int order[] = { 1, 3, 4, 0, 7, 5, 6, 8, 9, 2 };

		assert_ptr_equal(timer_take(&timers, 2, &due), &ops[order[i]]);
		assert_int_equal(due, i < 5 ? 1 : 2);
	}
	timers_free(&timers);
	free(ops);
}

/* Every place of a heap of every small size is cancelled or moved once. */
static void every_place(void **state)
{
	(void)state;
	for (size_t count = 1; count <= 24; count++) {
		for (size_t victim = 0; victim < count; victim++) {
			for (int what = 0; what < 3; what++) {
				struct model model;

				model_begin(&model, count);
				seed = count * 1000 + victim * 10 + 1;
				for (size_t i = 0; i < count; i++)
					model_arm(&model, i, (int64_t)draw(12));
				if (what == 0)
					model_disarm(&model, victim);
				else
					model_arm(&model, victim, what == 1 ? -1 : 13);
				model_check(&model);
				while (model_take(&model, 13))
					;
				assert_int_equal(model.armed, 0);
				model_end(&model);
			}
		}
	}
}

/* Random programs; few due times, so that many are equal. */
static void random_programs(void **state)
{
	(void)state;
	for (uint64_t program = 1; program <= 60; program++) {
		struct model model;
		uint64_t range;
		int64_t now = 0;

		seed = program * UINT64_C(0x9e3779b97f4a7c15);
		model_begin(&model, 1 + draw(300));
		range = 1 + draw(program % 2 ? 10 : 100000);
		for (int step = 0; step < 2000; step++) {
			size_t i = draw(model.count);

			switch (draw(8)) {
			case 0:
				now += (int64_t)draw(range / 4 + 1);
				while (model_take(&model, now))
					;
				break;
			case 1:
			case 2:
				model_disarm(&model, i);
				break;
			case 3:
				model_take(&model, now);
				break;
			default:
				model_arm(&model, i, now + (int64_t)draw(range));
				break;
			}
			if (step % 50 == 0)
				model_check(&model);
		}
		while (model_take(&model, INT64_MAX))
			;
		assert_int_equal(model.armed, 0);
		model_end(&model);
	}
}

/* A million: each one moved, each third cancelled; the rest come in order. */
static void million(void **state)
{
	enum { COUNT = 1000000 };
	struct timers timers = { 0 };
	struct proa_op *ops = make_ops(COUNT), *op, *last = NULL;
	int64_t due, before = INT64_MIN;
	size_t taken = 0;

	(void)state;
	seed = 42;
	for (size_t i = 0; i < COUNT; i++)
		assert_int_equal(timer_arm(&timers, &ops[i], (int64_t)draw(1000000000)), 0);
	assert_int_equal(timers.count, COUNT);
	for (size_t i = 0; i < COUNT; i++)
		assert_int_equal(timer_arm(&timers, &ops[i], (int64_t)draw(1000)), 0);
	assert_int_equal(timers.count, COUNT);
	for (size_t i = 0; i < COUNT; i += 3)
		timer_disarm(&timers, &ops[i]);
	while ((op = timer_take(&timers, 1000, &due)) != NULL) {
		/* Moved in the order of the array: among equals that is theirs. */
		assert_true(due > before || (due == before && op > last));
		assert_int_not_equal((op - ops) % 3, 0);
		before = due;
		last = op;
		taken++;
	}
	assert_int_equal(taken, COUNT - (COUNT + 2) / 3);
	timers_free(&timers);
	free(ops);
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#	define SANITIZED 1
#elif defined(__has_feature)
#	if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || \
		__has_feature(memory_sanitizer)
#		define SANITIZED 1
#	endif
#endif

#if defined(_WIN32)

static void no_memory(void **state)
{
	(void)state;
	print_message("skipped: no limit of memory can be lifted again here\n");
	skip();
}

#else

static bool limit_holds(const struct rlimit *tight, const struct rlimit *before)
{
	void *memory;

	assert_int_equal(setrlimit(RLIMIT_AS, tight), 0);
	memory = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_int_equal(setrlimit(RLIMIT_AS, before), 0);
	return memory == MAP_FAILED || (munmap(memory, 4096), false);
}

/* No memory: an error, and all is as it was. */
static void no_memory(void **state)
{
	enum { COUNT = 1 << 19 };
	struct rlimit before, tight;
	struct timers timers = { 0 };
	struct proa_op *ops, late;
	uint32_t count;
	int error = 0;
	int64_t due;

	(void)state;
#	ifdef SANITIZED
	skip(); /* its shadow memory does not fit a limit */
#	endif
	if (getenv("LD_PRELOAD") != NULL && strstr(getenv("LD_PRELOAD"), "vgpreload") != NULL)
		skip(); /* valgrind's own memory does not, either */
	ops = make_ops(COUNT);
	proa_op_init(&late, NULL, NULL);
	assert_int_equal(getrlimit(RLIMIT_AS, &before), 0);
	tight = before;
	tight.rlim_cur = 0; /* what is mapped stays; nothing more comes */
	if (!limit_holds(&tight, &before)) {
		print_message("no limit of address space is kept here (qemu-user keeps none)\n");
		skip();
	}
	for (count = 0; count < COUNT && error == 0; count++) {
		/* Up to here it grows; from the next growth on it can't. */
		if (count == 100000)
			assert_int_equal(setrlimit(RLIMIT_AS, &tight), 0);
		error = timer_arm(&timers, &ops[count], (int64_t)count);
	}
	assert_int_equal(setrlimit(RLIMIT_AS, &before), 0);
	assert_int_equal(error, PROA_ENOMEM);
	count--;
	assert_int_equal(timers.count, count);
	assert_int_equal(ops[count].timer_, 0);
	assert_true(timer_due(&timers, &ops[count]) == PROA_FOREVER);
	/* Moving needs none, and with memory it goes on. */
	assert_int_equal(timer_arm(&timers, &ops[5], -1), 0);
	assert_int_equal(timer_arm(&timers, &late, -2), 0);
	assert_ptr_equal(timer_take(&timers, 0, &due), &late);
	assert_ptr_equal(timer_take(&timers, 0, &due), &ops[5]);
	assert_ptr_equal(timer_take(&timers, 0, &due), &ops[0]);
	timers_free(&timers);
	free(ops);
}

#endif

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(empty),
		cmocka_unit_test(one),
		cmocka_unit_test(extremes),
		cmocka_unit_test(equal_in_order),
		cmocka_unit_test(moved_is_last),
		cmocka_unit_test(every_place),
		cmocka_unit_test(random_programs),
		cmocka_unit_test(no_memory),
		cmocka_unit_test(million),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

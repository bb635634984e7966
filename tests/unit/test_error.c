/* lib/error.c: names and texts of codes, the system's values, misuse. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <proa/proa.h>

static void names(void **state)
{
	(void)state;
	assert_string_equal(proa_error_name(PROA_ECANCELED), "ECANCELED");
	assert_string_equal(proa_error_name(PROA_EAGAIN), "EAGAIN");
	assert_string_equal(proa_error_name(PROA_ESHUTDOWN), "ESHUTDOWN");
	assert_string_equal(proa_error_name(PROA_ENONAME), "ENONAME");
	assert_string_equal(proa_error_name(0), "unknown");
	assert_string_equal(proa_error_name(125), "unknown");
	assert_string_equal(proa_error_name(-99999), "unknown");
	assert_string_equal(proa_error_name(INT32_MIN), "unknown");
}

static void texts(void **state)
{
	(void)state;
	assert_string_equal(proa_error_text(PROA_ETIMEDOUT), "timed out");
	assert_string_equal(proa_error_text(-99999), "unknown error");
	assert_string_equal(proa_error_text(0), "no error");
	for (int code = -200; code < 0; code++) {
		const char *text = proa_error_text(code);

		assert_non_null(text);
		assert_int_not_equal(text[strlen(text) - 1], '.');
		/* What has a name has a text of its own. */
		assert_int_equal(strcmp(proa_error_name(code), "unknown") == 0,
			strcmp(text, "unknown error") == 0);
	}
}

static void system_values(void **state)
{
	(void)state;
	assert_int_equal(proa_error_from_system(0), 0);
	assert_int_equal(proa_error_from_system(ENOENT), PROA_ENOENT);
	assert_int_equal(proa_error_from_system(ECONNREFUSED), PROA_ECONNREFUSED);
	assert_int_equal(proa_error_from_system(EWOULDBLOCK), PROA_EAGAIN);
	assert_int_equal(proa_error_from_system(ENOTSUP), PROA_EOPNOTSUPP);
	assert_int_equal(proa_error_from_system(ENFILE), PROA_EMFILE);
	assert_int_equal(proa_error_from_system(ENOBUFS), PROA_ENOMEM);
	assert_int_equal(proa_error_from_system(ESHUTDOWN), PROA_EPIPE);
	assert_int_equal(proa_error_from_system(99999), PROA_EIO);
	assert_int_equal(proa_error_from_system((unsigned long)-1), PROA_EIO);
}

/* Whatever errno may be, it is an error of ours with a name; and on Linux the
 * numbers are errno's own. */
static void every_value(void **state)
{
	(void)state;
	for (unsigned long value = 1; value < 200; value++) {
		int code = proa_error_from_system(value);

		assert_true(code < 0);
		assert_string_not_equal(proa_error_name(code), "unknown");
#if defined(__linux__) && defined(__GLIBC__)
		if (code == -(int)value)
			assert_string_equal(proa_error_name(code), strerrorname_np((int)value));
		else
			assert_true(code == PROA_EIO || value == ENFILE || value == ENOBUFS ||
				    value == ESHUTDOWN);
#endif
	}
}

static const char *told;
static const struct proa_op *told_of;

static void remember(const char *what, const struct proa_op *op)
{
	told = what;
	told_of = op;
}

static void handler_may_return(void **state)
{
	struct proa_op op;

	(void)state;
	proa_on_misuse(remember);
	proa_misuse("something", NULL);
	assert_string_equal(told, "something");
	assert_null(told_of);

	proa_op_init(&op, NULL, NULL);
	proa_prep_timer(&op, 1);
	op.state_ = 1;
	proa_prep_timer(&op, 1);
	assert_string_equal(told, "an op was prepared while in flight");
	assert_ptr_equal(told_of, &op);
	proa_on_misuse(NULL);
}

/* What the default handler writes, in a child which it must kill. */
static void default_writes(const struct proa_op *op, char *text, size_t size)
{
	int ends[2], status;
	ssize_t got;
	pid_t child;

	assert_int_equal(pipe(ends), 0);
	child = fork();
	if (child == 0) {
		dup2(ends[1], 2);
		proa_on_misuse(remember);
		proa_on_misuse(NULL);
		proa_misuse("bad thing", op);
		_exit(0);
	}
	close(ends[1]);
	got = read(ends[0], text, size - 1);
	assert_true(got > 0);
	text[got] = '\0';
	close(ends[0]);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGABRT);
}

static void default_aborts(void **state)
{
	char text[256], expected[256];
	struct proa_op op;

	(void)state;
	proa_op_init(&op, NULL, NULL);
	op.kind_ = PROA_OP_CHILD;
	default_writes(&op, text, sizeof text);
	snprintf(expected, sizeof expected, "proa: misuse: bad thing (op %p, kind child)\n",
		(void *)&op);
	assert_string_equal(text, expected);

	op.kind_ = 200;
	default_writes(&op, text, sizeof text);
	assert_non_null(strstr(text, "kind unknown"));

	default_writes(NULL, text, sizeof text);
	assert_string_equal(text, "proa: misuse: bad thing\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names),
		cmocka_unit_test(texts),
		cmocka_unit_test(system_values),
		cmocka_unit_test(every_value),
		cmocka_unit_test(handler_may_return),
		cmocka_unit_test(default_aborts),
	};

	return cmocka_run_group_tests_name("error", tests, NULL, NULL);
}

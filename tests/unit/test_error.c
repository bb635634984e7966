/* lib/error.c: names and texts of codes, the system's values, misuse. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(_WIN32)
#	include <fcntl.h>
#	include <io.h>
#else
#	include <sys/wait.h>
#	include <unistd.h>
#endif

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

#if defined(_WIN32)

/* A few of each kind; numbers of their headers, which are the system's interface. */
static void system_values(void **state)
{
	static const struct {
		unsigned long system;
		int ours;
	} pairs[] = {
		{ 0, 0 },
		{ 2, PROA_ENOENT }, /* ERROR_FILE_NOT_FOUND */
		{ 3, PROA_ENOENT }, /* ERROR_PATH_NOT_FOUND */
		{ 5, PROA_EACCES }, /* ERROR_ACCESS_DENIED */
		{ 6, PROA_EBADF }, /* ERROR_INVALID_HANDLE */
		{ 8, PROA_ENOMEM }, /* ERROR_NOT_ENOUGH_MEMORY */
		{ 17, PROA_EXDEV }, /* ERROR_NOT_SAME_DEVICE */
		{ 32, PROA_EBUSY }, /* ERROR_SHARING_VIOLATION */
		{ 64, PROA_ECONNRESET }, /* ERROR_NETNAME_DELETED */
		{ 80, PROA_EEXIST }, /* ERROR_FILE_EXISTS */
		{ 87, PROA_EINVAL }, /* ERROR_INVALID_PARAMETER */
		{ 109, PROA_EPIPE }, /* ERROR_BROKEN_PIPE */
		{ 112, PROA_ENOSPC }, /* ERROR_DISK_FULL */
		{ 121, PROA_ETIMEDOUT }, /* ERROR_SEM_TIMEOUT */
		{ 145, PROA_ENOTEMPTY }, /* ERROR_DIR_NOT_EMPTY */
		{ 193, PROA_ENOEXEC }, /* ERROR_BAD_EXE_FORMAT */
		{ 234, PROA_EMSGSIZE }, /* ERROR_MORE_DATA */
		{ 995, PROA_ECANCELED }, /* ERROR_OPERATION_ABORTED */
		{ 1225, PROA_ECONNREFUSED }, /* ERROR_CONNECTION_REFUSED */
		{ 1236, PROA_ECONNABORTED }, /* ERROR_CONNECTION_ABORTED */
		{ 1450, PROA_ENOMEM }, /* ERROR_NO_SYSTEM_RESOURCES */
		{ 10035, PROA_EAGAIN }, /* WSAEWOULDBLOCK */
		{ 10038, PROA_ENOTSOCK }, /* WSAENOTSOCK */
		{ 10048, PROA_EADDRINUSE }, /* WSAEADDRINUSE */
		{ 10054, PROA_ECONNRESET }, /* WSAECONNRESET */
		{ 10055, PROA_ENOMEM }, /* WSAENOBUFS */
		{ 10057, PROA_ENOTCONN }, /* WSAENOTCONN */
		{ 10058, PROA_EPIPE }, /* WSAESHUTDOWN */
		{ 10060, PROA_ETIMEDOUT }, /* WSAETIMEDOUT */
		{ 10061, PROA_ECONNREFUSED }, /* WSAECONNREFUSED */
		{ 11001, PROA_ENONAME }, /* WSAHOST_NOT_FOUND */
		{ 0xc0000008, PROA_EBADF }, /* STATUS_INVALID_HANDLE */
		{ 0xc0000022, PROA_EACCES }, /* STATUS_ACCESS_DENIED */
		{ 0xc00000b5, PROA_ETIMEDOUT }, /* STATUS_IO_TIMEOUT */
		{ 0xc00000ba, PROA_EISDIR }, /* STATUS_FILE_IS_A_DIRECTORY */
		{ 0xc0000120, PROA_ECANCELED }, /* STATUS_CANCELLED */
		{ 0xc000014b, PROA_EPIPE }, /* STATUS_PIPE_BROKEN */
		{ 0xc000020d, PROA_ECONNRESET }, /* STATUS_CONNECTION_RESET */
		{ 0xc0000236, PROA_ECONNREFUSED }, /* STATUS_CONNECTION_REFUSED */
		{ 0x80000005, PROA_EMSGSIZE }, /* STATUS_BUFFER_OVERFLOW */
		{ 0x80070005, PROA_EACCES }, /* E_ACCESSDENIED */
		{ 9999, PROA_EIO },
		{ 99999, PROA_EIO },
		{ 0xc0ffffff, PROA_EIO },
		{ 0xffffffff, PROA_EIO },
	};

	(void)state;
	for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
		int code = proa_error_from_system(pairs[i].system);

		if (code != pairs[i].ours)
			print_error("%lu gives %s\n", pairs[i].system, proa_error_name(code));
		assert_int_equal(code, pairs[i].ours);
	}
}

/* Whatever it may be, it is an error of ours with a name; and not all are EIO. */
static void every_value(void **state)
{
	static const unsigned long bases[] = { 1, 0xc0000000, 0x80000000 };
	unsigned known = 0;

	(void)state;
	for (size_t base = 0; base < sizeof bases / sizeof bases[0]; base++)
		for (unsigned long value = bases[base]; value < bases[base] + 12000; value++) {
			int code = proa_error_from_system(value);

			assert_true(code < 0);
			assert_string_not_equal(proa_error_name(code), "unknown");
			known += code != PROA_EIO;
		}
	assert_true(known > 200);
}

#else

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
#	if defined(__linux__) && defined(__GLIBC__)
		if (code == -(int)value)
			assert_string_equal(proa_error_name(code), strerrorname_np((int)value));
		else
			assert_true(code == PROA_EIO || value == ENFILE || value == ENOBUFS ||
				    value == ESHUTDOWN);
#	endif
	}
}

#endif

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

#if defined(_WIN32)

static jmp_buf aborted;

static void on_abort(int number)
{
	(void)number;
	longjmp(aborted, 1);
}

/* What the default handler writes before it aborts, which we don't let it. */
static void default_writes(const struct proa_op *op, char *text, size_t size)
{
	int ends[2], saved = _dup(2), got;

	assert_int_equal(_pipe(ends, 4096, _O_BINARY | _O_NOINHERIT), 0);
	fflush(stderr);
	assert_int_equal(_dup2(ends[1], 2), 0);
	proa_on_misuse(remember);
	proa_on_misuse(NULL);
	signal(SIGABRT, on_abort);
	if (setjmp(aborted) == 0) {
		proa_misuse("bad thing", op);
		fprintf(stderr, "still here");
	}
	fflush(stderr);
	_dup2(saved, 2);
	_close(saved);
	_close(ends[1]);
	got = _read(ends[0], text, (unsigned)size - 1);
	assert_true(got > 0);
	_close(ends[0]);
	if (text[got - 2] == '\r') /* stderr is a text */
		strcpy(text + got - 2, "\n");
	else
		text[got] = '\0';
}

#else

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
	if (getenv("TEST_QEMU_USER") != NULL) /* which adds a line of its own */
		text[strcspn(text, "\n") + 1] = '\0';
	close(ends[0]);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGABRT);
}

#endif

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

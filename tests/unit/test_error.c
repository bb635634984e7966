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
#	define WIN32_NO_STATUS /* or windows.h defines a few of ntstatus.h's names */
#	include <winsock2.h>
#	include <windows.h>
#	undef WIN32_NO_STATUS
#	include <winternl.h>
#	include <ntstatus.h>
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

#	define MEANINGS_MOST   12
#	define RIGHTS_REQUIRED 740 /* ERROR_ELEVATION_REQUIRED, which older headers lack */
#	define QUOTA_EXCEEDED  1295 /* ERROR_DISK_QUOTA_EXCEEDED, likewise */

/* Win32's and Winsock's codes, all that mean more than EIO. */
static const struct meaning {
	int ours;
	unsigned long codes[MEANINGS_MOST];
} meanings[] = {
	{ PROA_E2BIG, { ERROR_BAD_ENVIRONMENT } },
	{ PROA_EACCES, { ERROR_ACCESS_DENIED, ERROR_NETWORK_ACCESS_DENIED, ERROR_CANNOT_MAKE,
			       ERROR_NOT_AUTHENTICATED, WSAEACCES } },
	{ PROA_EADDRINUSE, { ERROR_DUP_NAME, ERROR_ADDRESS_ALREADY_ASSOCIATED, WSAEADDRINUSE } },
	{ PROA_EADDRNOTAVAIL, { ERROR_ADDRESS_NOT_ASSOCIATED, WSAEADDRNOTAVAIL } },
	{ PROA_EAFNOSUPPORT, { WSAEAFNOSUPPORT } },
	{ PROA_EAGAIN,
		{ ERROR_NO_PROC_SLOTS, ERROR_RETRY, WSAEWOULDBLOCK, WSAEPROCLIM, WSATRY_AGAIN } },
	{ PROA_EALREADY, { WSAEALREADY } },
	{ PROA_EBADF, { ERROR_INVALID_HANDLE, ERROR_INVALID_TARGET_HANDLE,
			      ERROR_DIRECT_ACCESS_HANDLE, WSAEBADF } },
	{ PROA_EBUSY, { ERROR_CURRENT_DIRECTORY, ERROR_SHARING_VIOLATION, ERROR_LOCK_VIOLATION,
			      ERROR_NETWORK_BUSY, ERROR_DRIVE_LOCKED, ERROR_CHILD_NOT_COMPLETE,
			      ERROR_PATH_BUSY, ERROR_BUSY, ERROR_PIPE_BUSY, ERROR_DELETE_PENDING,
			      ERROR_USER_MAPPED_FILE } },
	{ PROA_ECANCELED, { ERROR_OPERATION_ABORTED, ERROR_CANCELLED, ERROR_REQUEST_ABORTED,
				  WSAECANCELLED, WSA_E_CANCELLED } },
	{ PROA_ECHILD, { ERROR_WAIT_NO_CHILDREN } },
	{ PROA_ECONNABORTED, { ERROR_CONNECTION_ABORTED, WSAECONNABORTED } },
	{ PROA_ECONNREFUSED, { ERROR_CONNECTION_REFUSED, ERROR_PORT_UNREACHABLE, WSAECONNREFUSED,
				     WSAEREFUSED } },
	{ PROA_ECONNRESET, { ERROR_NETNAME_DELETED, WSAECONNRESET } },
	{ PROA_EDEADLK, { ERROR_POSSIBLE_DEADLOCK } },
	{ PROA_EDESTADDRREQ, { WSAEDESTADDRREQ } },
	{ PROA_EDQUOT, { QUOTA_EXCEEDED, WSAEUSERS, WSAEDQUOT } },
	{ PROA_EEXIST, { ERROR_FILE_EXISTS, ERROR_ALREADY_EXISTS } },
	{ PROA_EFAULT, { ERROR_INVALID_BLOCK, ERROR_INVALID_ADDRESS, ERROR_NOACCESS, WSAEFAULT } },
	{ PROA_EFBIG, { ERROR_FILE_TOO_LARGE } },
	{ PROA_EHOSTDOWN, { ERROR_REM_NOT_LIST, ERROR_HOST_DOWN, WSAEHOSTDOWN } },
	{ PROA_EHOSTUNREACH, { ERROR_HOST_UNREACHABLE, WSAEHOSTUNREACH } },
	{ PROA_EILSEQ, { ERROR_NO_UNICODE_TRANSLATION } },
	{ PROA_EINPROGRESS, { ERROR_IO_INCOMPLETE, ERROR_IO_PENDING, WSAEINPROGRESS } },
	{ PROA_EINTR, { WSAEINTR } },
	{ PROA_EINVAL, { ERROR_INVALID_ACCESS, ERROR_INVALID_DATA, ERROR_BAD_LENGTH,
			       ERROR_INVALID_PARAMETER, ERROR_INVALID_LEVEL, ERROR_NEGATIVE_SEEK,
			       ERROR_DIR_NOT_ROOT, ERROR_BAD_PIPE, ERROR_NOT_A_REPARSE_POINT,
			       WSAEINVAL } },
	{ PROA_EISCONN, { ERROR_PIPE_CONNECTED, ERROR_CONNECTION_ACTIVE, WSAEISCONN } },
	{ PROA_ELOOP, { ERROR_CANT_RESOLVE_FILENAME, WSAELOOP } },
	{ PROA_EMFILE, { ERROR_TOO_MANY_OPEN_FILES, WSAEMFILE } },
	{ PROA_EMLINK, { ERROR_TOO_MANY_LINKS } },
	{ PROA_EMSGSIZE, { ERROR_MORE_DATA, WSAEMSGSIZE } },
	{ PROA_ENAMETOOLONG,
		{ ERROR_BUFFER_OVERFLOW, ERROR_FILENAME_EXCED_RANGE, WSAENAMETOOLONG } },
	{ PROA_ENETDOWN, { WSAENETDOWN, WSASYSNOTREADY, WSANOTINITIALISED } },
	{ PROA_ENETRESET, { WSAENETRESET } },
	{ PROA_ENETUNREACH, { ERROR_NETWORK_UNREACHABLE, WSAENETUNREACH } },
	{ PROA_ENODEV, { ERROR_INVALID_DRIVE, ERROR_BAD_UNIT, ERROR_DEV_NOT_EXIST,
			       ERROR_SERIAL_NO_DEVICE, ERROR_DEVICE_NOT_CONNECTED } },
	{ PROA_ENOENT, { ERROR_FILE_NOT_FOUND, ERROR_PATH_NOT_FOUND, ERROR_BAD_NETPATH,
			       ERROR_BAD_NET_NAME, ERROR_INVALID_NAME, ERROR_MOD_NOT_FOUND,
			       ERROR_BAD_PATHNAME, ERROR_NOT_FOUND } },
	{ PROA_ENOEXEC,
		{ ERROR_BAD_FORMAT, ERROR_BAD_EXE_FORMAT, ERROR_EXE_MACHINE_TYPE_MISMATCH } },
	{ PROA_ENOMEM, { ERROR_NOT_ENOUGH_MEMORY, ERROR_OUTOFMEMORY, ERROR_STACK_OVERFLOW,
			       ERROR_NO_SYSTEM_RESOURCES, ERROR_NONPAGED_SYSTEM_RESOURCES,
			       ERROR_PAGED_SYSTEM_RESOURCES, ERROR_WORKING_SET_QUOTA,
			       ERROR_COMMITMENT_LIMIT, ERROR_NOT_ENOUGH_QUOTA, WSAENOBUFS } },
	{ PROA_ENONAME,
		{ WSASERVICE_NOT_FOUND, WSATYPE_NOT_FOUND, WSAHOST_NOT_FOUND, WSANO_DATA } },
	{ PROA_ENOPROTOOPT, { WSAENOPROTOOPT } },
	{ PROA_ENOSPC, { ERROR_HANDLE_DISK_FULL, ERROR_DISK_FULL } },
	{ PROA_ENOSYS, { ERROR_INVALID_FUNCTION, ERROR_CALL_NOT_IMPLEMENTED, ERROR_PROC_NOT_FOUND,
			       WSAVERNOTSUPPORTED } },
	{ PROA_ENOTCONN, { ERROR_PIPE_LISTENING, ERROR_CONNECTION_INVALID, WSAENOTCONN } },
	{ PROA_ENOTDIR, { ERROR_DIRECTORY } },
	{ PROA_ENOTEMPTY, { ERROR_DIR_NOT_EMPTY, WSAENOTEMPTY } },
	{ PROA_ENOTSOCK, { WSAENOTSOCK } },
	{ PROA_ENXIO, { ERROR_NOT_READY } },
	{ PROA_EOPNOTSUPP, { ERROR_NOT_SUPPORTED, WSAEOPNOTSUPP } },
	{ PROA_EPERM, { RIGHTS_REQUIRED, ERROR_NO_TOKEN, ERROR_PRIVILEGE_NOT_HELD } },
	{ PROA_EPFNOSUPPORT, { WSAEPFNOSUPPORT } },
	{ PROA_EPIPE, { ERROR_BROKEN_PIPE, ERROR_NO_DATA, ERROR_PIPE_NOT_CONNECTED,
			      ERROR_GRACEFUL_DISCONNECT, WSAESHUTDOWN, WSAEDISCON } },
	{ PROA_EPROTONOSUPPORT, { ERROR_PROTOCOL_UNREACHABLE, WSAEPROTONOSUPPORT } },
	{ PROA_EPROTOTYPE, { WSAEPROTOTYPE } },
	{ PROA_ERANGE, { ERROR_INSUFFICIENT_BUFFER } },
	{ PROA_EROFS, { ERROR_WRITE_PROTECT } },
	{ PROA_ESOCKTNOSUPPORT, { WSAESOCKTNOSUPPORT } },
	{ PROA_ESPIPE, { ERROR_SEEK_ON_DEVICE } },
	{ PROA_ESTALE, { ERROR_FILE_INVALID, WSAESTALE } },
	{ PROA_ETIMEDOUT, { ERROR_SEM_TIMEOUT, WAIT_TIMEOUT, ERROR_TIMEOUT, WSAETIMEDOUT } },
	{ PROA_EXDEV, { ERROR_NOT_SAME_DEVICE } },
};

static int meaning_of(unsigned long code)
{
	for (size_t i = 0; i < sizeof meanings / sizeof meanings[0]; i++)
		for (int k = 0; k < MEANINGS_MOST && meanings[i].codes[k] != 0; k++)
			if (meanings[i].codes[k] == code)
				return meanings[i].ours;
	return PROA_EIO;
}

static void every_code(void **state)
{
	(void)state;
	for (unsigned long code = 1; code < 0x10000; code++) {
		int ours = proa_error_from_system(code);

		assert_string_not_equal(proa_error_name(ours), "unknown");
		if (ours != meaning_of(code))
			print_error("%lu gives %s\n", code, proa_error_name(ours));
		assert_int_equal(ours, meaning_of(code));
		/* As COM wraps it. */
		assert_int_equal(proa_error_from_system(0x80070000 | code), ours);
	}
}

/* One thing has two names, one for files and drivers and one for sockets. */
static void win32_is_winsock(void **state)
{
	static const unsigned long pairs[][2] = {
		{ ERROR_ACCESS_DENIED, WSAEACCES },
		{ ERROR_NOT_AUTHENTICATED, WSAEACCES },
		{ ERROR_INVALID_HANDLE, WSAEBADF },
		{ ERROR_INVALID_PARAMETER, WSAEINVAL },
		{ ERROR_NOACCESS, WSAEFAULT },
		{ ERROR_TOO_MANY_OPEN_FILES, WSAEMFILE },
		{ ERROR_NOT_SUPPORTED, WSAEOPNOTSUPP },
		{ ERROR_IO_PENDING, WSAEINPROGRESS },
		{ ERROR_RETRY, WSAEWOULDBLOCK },
		{ ERROR_NO_PROC_SLOTS, WSAEPROCLIM },
		{ ERROR_NO_SYSTEM_RESOURCES, WSAENOBUFS },
		{ ERROR_WORKING_SET_QUOTA, WSAENOBUFS },
		{ ERROR_NOT_ENOUGH_QUOTA, WSAENOBUFS },
		{ ERROR_OPERATION_ABORTED, WSAECANCELLED },
		{ ERROR_CANCELLED, WSA_E_CANCELLED },
		{ ERROR_MORE_DATA, WSAEMSGSIZE },
		{ ERROR_ADDRESS_ALREADY_ASSOCIATED, WSAEADDRINUSE },
		{ ERROR_DUP_NAME, WSAEADDRINUSE },
		{ ERROR_ADDRESS_NOT_ASSOCIATED, WSAEADDRNOTAVAIL },
		{ ERROR_NETNAME_DELETED, WSAECONNRESET },
		{ ERROR_CONNECTION_ABORTED, WSAECONNABORTED },
		{ ERROR_CONNECTION_REFUSED, WSAECONNREFUSED },
		{ ERROR_PORT_UNREACHABLE, WSAECONNREFUSED },
		{ ERROR_CONNECTION_ACTIVE, WSAEISCONN },
		{ ERROR_CONNECTION_INVALID, WSAENOTCONN },
		{ ERROR_GRACEFUL_DISCONNECT, WSAEDISCON },
		{ ERROR_NO_DATA, WSAESHUTDOWN },
		{ ERROR_NETWORK_UNREACHABLE, WSAENETUNREACH },
		{ ERROR_HOST_UNREACHABLE, WSAEHOSTUNREACH },
		{ ERROR_HOST_DOWN, WSAEHOSTDOWN },
		{ ERROR_PROTOCOL_UNREACHABLE, WSAEPROTONOSUPPORT },
		{ ERROR_SEM_TIMEOUT, WSAETIMEDOUT },
		{ ERROR_DIR_NOT_EMPTY, WSAENOTEMPTY },
		{ ERROR_FILENAME_EXCED_RANGE, WSAENAMETOOLONG },
		{ ERROR_CANT_RESOLVE_FILENAME, WSAELOOP },
		{ ERROR_FILE_INVALID, WSAESTALE },
		{ QUOTA_EXCEEDED, WSAEDQUOT },
	};

	(void)state;
	for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
		int first = proa_error_from_system(pairs[i][0]);
		int second = proa_error_from_system(pairs[i][1]);

		if (first != second)
			print_error("%lu gives %s, %lu %s\n", pairs[i][0], proa_error_name(first),
				pairs[i][1], proa_error_name(second));
		assert_int_equal(first, second);
		assert_int_not_equal(first, PROA_EIO);
	}
}

/* Where an NTSTATUS means something else than the code of Win32's that the system makes of it. */
static const struct {
	NTSTATUS status;
	int ours;
} apart[] = {
	/* Of sockets' drivers, as Winsock names it: Win32 has one code for several, or none of
	 * ours. */
	{ STATUS_OBJECT_TYPE_MISMATCH, PROA_ENOTSOCK }, /* WSAENOTSOCK; a bad handle */
	{ STATUS_BUFFER_TOO_SMALL, PROA_EMSGSIZE }, /* the message is longer */
	{ STATUS_BAD_NETWORK_PATH, PROA_ENETUNREACH }, /* WSAENETUNREACH; a path of a share's */
	{ STATUS_PROTOCOL_UNREACHABLE, PROA_ENETUNREACH }, /* WSAENETUNREACH */
	{ STATUS_LOCAL_DISCONNECT, PROA_ECONNABORTED }, /* WSAECONNABORTED; a reset */
	{ STATUS_TRANSACTION_ABORTED, PROA_ECONNABORTED }, /* WSAECONNABORTED; none */
	{ STATUS_LINK_FAILED, PROA_ECONNRESET }, /* WSAECONNRESET; none */
	{ STATUS_LINK_TIMEOUT, PROA_ETIMEDOUT }, /* WSAETIMEDOUT; none */
	{ STATUS_INVALID_CONNECTION, PROA_ENOTCONN }, /* WSAENOTCONN; none */
	{ STATUS_ADDRESS_CLOSED, PROA_ENOTCONN }, /* it was ours; a reset */
	{ STATUS_REMOTE_RESOURCES, PROA_ENOMEM }, /* WSAENOBUFS; a host that is down */
	{ STATUS_INVALID_ADDRESS, PROA_EADDRNOTAVAIL }, /* WSAEADDRNOTAVAIL; none */
	{ STATUS_INVALID_ADDRESS_COMPONENT, PROA_EADDRNOTAVAIL }, /* the same */
	{ STATUS_TOO_MANY_ADDRESSES, PROA_EADDRINUSE }, /* WSAEADDRINUSE; none */
	{ STATUS_HOPLIMIT_EXCEEDED, PROA_ENETRESET }, /* WSAENETRESET; none */
	{ STATUS_INVALID_NETWORK_RESPONSE, PROA_EPROTO }, /* none of either */
	/* Of files: Win32 says "access denied" of all that can't be had. */
	{ STATUS_FILE_IS_A_DIRECTORY, PROA_EISDIR },
	{ STATUS_DELETE_PENDING, PROA_EBUSY }, /* as ERROR_DELETE_PENDING */
	{ STATUS_FILE_DELETED, PROA_ESTALE },
	/* Of any driver. */
	{ STATUS_NO_SUCH_DEVICE, PROA_ENODEV }, /* Win32's is none of ours */
	{ STATUS_INVALID_DEVICE_REQUEST, PROA_EOPNOTSUPP }, /* not that there is no such call */
};

#	define STATUSES 79

static void every_status(void **state)
{
	static const unsigned long bases[] = { 0xc0000000, 0x80000000 };
	size_t known = 0, excepted = 0;

	(void)state;
	for (size_t base = 0; base < 2; base++)
		for (unsigned long status = bases[base]; status < bases[base] + 0x10000; status++) {
			int ours = proa_error_from_system(status);
			int theirs =
				proa_error_from_system(RtlNtStatusToDosError((NTSTATUS)status));
			size_t i = 0;

			assert_string_not_equal(proa_error_name(ours), "unknown");
			while (i < sizeof apart / sizeof apart[0] &&
				(unsigned long)apart[i].status != status)
				i++;
			known += ours != PROA_EIO;
			if (i < sizeof apart / sizeof apart[0]) {
				excepted++;
				assert_int_equal(ours, apart[i].ours);
				assert_int_not_equal(ours, theirs);
			} else if (ours != PROA_EIO) {
				if (ours != theirs)
					print_error("%lx gives %s, and not %s\n", status,
						proa_error_name(ours), proa_error_name(theirs));
				assert_int_equal(ours, theirs);
			}
		}
	assert_int_equal(known, STATUSES);
	assert_int_equal(excepted, sizeof apart / sizeof apart[0]);
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
#if defined(_WIN32)
		cmocka_unit_test(every_code),
		cmocka_unit_test(win32_is_winsock),
		cmocka_unit_test(every_status),
#else
		cmocka_unit_test(every_value),
#endif
		cmocka_unit_test(handler_may_return),
		cmocka_unit_test(default_aborts),
	};

	return cmocka_run_group_tests_name("error", tests, NULL, NULL);
}

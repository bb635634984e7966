/* sendfile(2) of macOS and of FreeBSD, as their manual pages have it, over Linux's: to
 * sockets alone, whole or -1; how much went is told beside, with EAGAIN and EINTR,
 * too. Now and then a call is interrupted after a part, or before it. */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
/* the tests' own */
#include <sys/uio.h>
#undef sendfile

#define INTERRUPTED_EACH 7 /* calls */

static atomic_uint calls;

/* 0, or an error of errno, as the call returns it; *sent is counted up. */
static int send_part(int file, int to, off_t from, off_t length, off_t *sent)
{
	unsigned call = atomic_fetch_add(&calls, 1);
	bool interrupted = call % INTERRUPTED_EACH == 0;
	off_t least = interrupted ? (call % 2 == 0 ? length / 2 : 0) : length;

	while (*sent < least) {
		ssize_t n = sendfile(to, file, &from, (size_t)(least - *sent));

		if (n < 0)
			return errno;
		if (n == 0)
			return 0; /* the file's end */
		*sent += n;
	}
	return interrupted ? EINTR : 0;
}

static int answer(int error)
{
	errno = error;
	return error == 0 ? 0 : -1;
}

static int check_socket(int to)
{
	struct stat status;

	if (fstat(to, &status) < 0)
		return EBADF;
	return S_ISSOCK(status.st_mode) ? 0 : ENOTSOCK;
}

/* A count of 0 asks for all up to the file's end. */
static off_t asked(off_t length, off_t from, const struct stat *status)
{
	return length != 0 ? length : status->st_size > from ? status->st_size - from : 0;
}

/* The count is written in any case (xnu, bsd/kern/uipc_syscalls.c, sendfile()). */
int darwin_sendfile(int file, int to, off_t from, off_t *length, struct sf_hdtr *headers, int flags)
{
	struct stat status = { 0 };
	off_t sent = 0;
	int error;

	(void)headers, (void)flags;
	if (fstat(file, &status) < 0)
		error = EBADF;
	else if (!S_ISREG(status.st_mode))
		error = ENOTSUP;
	else
		error = check_socket(to);
	if (error == 0)
		error = send_part(file, to, from, asked(*length, from, &status), &sent);
	*length = sent;
	return answer(error);
}

/* Where the file can't be had, the count is left as it was (FreeBSD,
 * sys/kern/kern_sendfile.c, sendfile()). */
int freebsd_sendfile(int file, int to, off_t from, size_t length, struct sf_hdtr *headers,
	off_t *sent, int flags)
{
	struct stat status;
	int error;

	(void)headers, (void)flags;
	if (fstat(file, &status) < 0 || (fcntl(file, F_GETFL) & O_ACCMODE) == O_WRONLY)
		return answer(EBADF);
	*sent = 0;
	error = S_ISREG(status.st_mode) ? check_socket(to) : EINVAL;
	if (error == 0)
		error = send_part(file, to, from, asked((off_t)length, from, &status), sent);
	return answer(error);
}

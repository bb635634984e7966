/* <sys/uio.h> as it is on macOS or FreeBSD: with their sendfile(2), over Linux's.
 * Never installed; which of the two is what the library is told to have found. */
#ifndef PROA_TESTS_KQUEUE_SYS_UIO_H
#define PROA_TESTS_KQUEUE_SYS_UIO_H

#include_next <sys/uio.h>
#include <sys/types.h>

struct sf_hdtr;

int darwin_sendfile(
	int file, int to, off_t from, off_t *length, struct sf_hdtr *headers, int flags);
int freebsd_sendfile(int file, int to, off_t from, size_t length, struct sf_hdtr *headers,
	off_t *sent, int flags);

#ifdef PROA_HAVE_SENDFILE_DARWIN
#	define sendfile darwin_sendfile
#elif defined PROA_HAVE_SENDFILE_FREEBSD
#	define sendfile freebsd_sendfile
#endif

#endif

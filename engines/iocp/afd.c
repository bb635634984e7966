/* Polls: IOCTL_AFD_POLL, which select() itself is made of. It is no documented
 * interface, but one that libuv and others have relied on since Windows XP: the
 * driver takes a list of sockets and the events of interest, and completes as any
 * overlapped call does. It is made on a socket of the port's own, which need have
 * nothing to do with the polled one, so that polls tie nothing. */
#include "engines/iocp/iocp.h"

#include <ntstatus.h>
#include <string.h>

#define IOCTL_AFD_POLL 0x00012024u

#define AFD_RECEIVE      0x0001u
#define AFD_SEND         0x0004u
#define AFD_DISCONNECT   0x0008u /* the peer's end */
#define AFD_ABORT        0x0010u
#define AFD_LOCAL_CLOSE  0x0020u
#define AFD_ACCEPT       0x0080u
#define AFD_CONNECT_FAIL 0x0100u

#define AFD_FAILURES (AFD_ABORT | AFD_LOCAL_CLOSE | AFD_CONNECT_FAIL)

#ifndef SIO_BASE_HANDLE
#	define SIO_BASE_HANDLE 0x48000022u
#endif

static int helper_open(struct iocp *iocp)
{
	int fd = windows_socket(AF_INET, SOCK_DGRAM), error;

	if (fd < 0)
		fd = windows_socket(AF_INET6, SOCK_DGRAM);
	if (fd < 0)
		return fd;
	if (CreateIoCompletionPort(windows_handle_of(fd), iocp->port, KEY_CALL, 0) == NULL) {
		error = windows_error();
		closesocket(windows_socket_of(fd));
		return error;
	}
	iocp->helper = fd;
	return 0;
}

/* The driver knows the base provider's handles alone. NULL: no socket. */
static HANDLE base_of(int fd)
{
	SOCKET base = INVALID_SOCKET;
	DWORD bytes;

	if (WSAIoctl(windows_socket_of(fd), SIO_BASE_HANDLE, NULL, 0, &base, sizeof base, &bytes,
		    NULL, NULL) == 0)
		return (HANDLE)base;
	return windows_is_socket(fd) ? windows_handle_of(fd) : NULL;
}

static ULONG events_of(const struct proa_op *op)
{
	short events = attempt_events(op);

	return AFD_FAILURES | ((events & POLLIN) ? AFD_RECEIVE | AFD_DISCONNECT | AFD_ACCEPT : 0u) |
	       ((events & POLLOUT) ? AFD_SEND : 0u);
}

/* What is no socket. A file is ready always; one that is asked for again and again is
 * told of by a packet of our own, so that others have their turn. */
static int32_t start_other(struct proa_port *port, struct proa_op *op, int fd)
{
	struct iocp *iocp = iocp_of(port);
	int32_t result = windows_poll_other(op, fd);
	struct large *large;

	if (result < 0 || op->kind_ != PROA_OP_POLL_MULTI)
		return result;
	large = (struct large *)request_take(iocp, op, REQUEST_POLL, fd, true);
	if (large == NULL)
		return PROA_ENOMEM;
	memset(&large->is.poll, 0, sizeof large->is.poll);
	large->is.poll.count = 1;
	large->is.poll.events = AFD_RECEIVE | AFD_SEND;
	result = request_post(iocp, &large->request, KEY_CALL);
	if (result != STEP_STARTED)
		request_put(iocp, &large->request);
	return result;
}

int32_t start_poll(struct proa_port *port, struct proa_op *op, int fd, enum request_kind kind)
{
	struct iocp *iocp = iocp_of(port);
	HANDLE base = base_of(fd);
	struct afd_poll *poll;
	struct large *large;
	NTSTATUS status;
	int error;

	port->stats.system_calls += 2;
	if (base == NULL)
		return start_other(port, op, fd);
	if (iocp->helper < 0 && (error = helper_open(iocp)) < 0)
		return error;
	large = (struct large *)request_take(iocp, op, kind, iocp->helper, true);
	if (large == NULL)
		return PROA_ENOMEM;
	poll = &large->is.poll;
	memset(poll, 0, sizeof *poll);
	poll->timeout.QuadPart = INT64_MAX;
	poll->count = 1;
	poll->handle = base;
	poll->events = events_of(op);
	/* As calls of Win32 leave it: what says so is asked for again where a cancel has
	 * missed it. */
	large->request.overlapped.Internal = (ULONG_PTR)(ULONG)STATUS_PENDING;
	/* An OVERLAPPED begins with an IO_STATUS_BLOCK; given as the context too it
	 * is what the packet names. */
	status = NtDeviceIoControlFile(windows_handle_of(iocp->helper), NULL, NULL,
		&large->request.overlapped, (PIO_STATUS_BLOCK)&large->request.overlapped,
		IOCTL_AFD_POLL, poll, sizeof *poll, poll, sizeof *poll);
	/* Without the mode that spares packets success sends one as well. */
	if (!NT_ERROR(status)) {
		iocp->outstanding++;
		return STEP_STARTED;
	}
	request_put(iocp, &large->request);
	return status == STATUS_OBJECT_TYPE_MISMATCH ? start_other(port, op, fd)
						     : system_code((unsigned long)status);
}

int32_t poll_result(const struct proa_op *op, const struct large *large, NTSTATUS status)
{
	ULONG events = large->is.poll.events;
	uint32_t result = 0;

	if (!NT_SUCCESS(status))
		return system_code((unsigned long)status);
	if (large->is.poll.count == 0)
		return PROA_EAGAIN; /* its time ran out: that is in some 29,000 years */
	if (events & AFD_LOCAL_CLOSE)
		return PROA_EBADF;
	if (events & (AFD_RECEIVE | AFD_DISCONNECT | AFD_ACCEPT | AFD_FAILURES))
		result |= PROA_READABLE;
	if (events & (AFD_SEND | AFD_FAILURES))
		result |= PROA_WRITABLE;
	result &= op->flags_;
	return (int32_t)(result | ((events & AFD_FAILURES) ? PROA_HANGUP : 0u));
}

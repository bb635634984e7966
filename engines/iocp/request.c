/* Requests and acceptors: lists of free ones, which grow and never shrink; and
 * what follows a call that was made. */
#include "engines/iocp/iocp.h"

#include <ntstatus.h>
#include <stdlib.h>
#include <string.h>

#define SMALL_BLOCK    64
#define LARGE_BLOCK    16
#define ACCEPTOR_BLOCK 4

/* All memory of these is kept until the port's end: the kernel may still write to
 * what it was lent. */
struct block {
	struct block *next;
	union {
		struct request small[SMALL_BLOCK];
		struct large large[LARGE_BLOCK];
		struct acceptor acceptors[ACCEPTOR_BLOCK];
	} are;
};

static struct block *block_new(struct iocp *iocp)
{
	struct block *block = calloc(1, sizeof *block);

	if (block == NULL)
		return NULL;
	block->next = iocp->blocks;
	iocp->blocks = block;
	return block;
}

void blocks_free(struct iocp *iocp)
{
	struct block *block, *next;

	for (block = iocp->blocks; block != NULL; block = next) {
		next = block->next;
		free(block);
	}
}

static bool more_requests(struct iocp *iocp, bool large)
{
	struct block *block = block_new(iocp);

	if (block == NULL)
		return false;
	for (int i = 0; large && i < LARGE_BLOCK; i++) {
		block->are.large[i].request.marks = MARK_LARGE;
		request_put(iocp, &block->are.large[i].request);
	}
	for (int i = 0; !large && i < SMALL_BLOCK; i++)
		request_put(iocp, &block->are.small[i]);
	return true;
}

struct request *request_take(
	struct iocp *iocp, struct proa_op *op, enum request_kind kind, int fd, bool large)
{
	struct request **list = large ? &iocp->large : &iocp->small, *request;

	if (*list == NULL && !more_requests(iocp, large))
		return NULL;
	request = *list;
	*list = request->next;
	memset(&request->overlapped, 0, sizeof request->overlapped);
	request->op = op;
	request->kind = (uint8_t)kind;
	request->fd = fd;
	request->flags = 0;
	if (kind != REQUEST_ACCEPT) /* an acceptor is its op's */
		flight(op)->is.engine = request;
	return request;
}

static void unlist_missed(struct iocp *iocp, struct request *request)
{
	struct request **link;

	for (link = &iocp->missed; *link != request;)
		link = &(*link)->next;
	*link = request->next;
	request->marks &= (uint8_t)~MARK_MISSED;
}

void request_put(struct iocp *iocp, struct request *request)
{
	struct request **list = (request->marks & MARK_LARGE) ? &iocp->large : &iocp->small;

	if (request->marks & MARK_MISSED)
		unlist_missed(iocp, request);
	if (request->marks & MARK_BYTES)
		free(((struct large *)request)->is.bytes);
	request->marks &= MARK_LARGE;
	request->op = NULL;
	request->next = *list;
	*list = request;
}

struct acceptor *acceptor_take(struct iocp *iocp)
{
	struct acceptor *acceptor;
	struct block *block;

	if (iocp->acceptors == NULL) {
		block = block_new(iocp);
		if (block == NULL)
			return NULL;
		for (int i = 0; i < ACCEPTOR_BLOCK; i++)
			acceptor_put(iocp, &block->are.acceptors[i]);
	}
	acceptor = iocp->acceptors;
	iocp->acceptors = acceptor->next;
	memset(acceptor, 0, sizeof *acceptor);
	return acceptor;
}

void acceptor_put(struct iocp *iocp, struct acceptor *acceptor)
{
	acceptor->op = NULL;
	acceptor->next = iocp->acceptors;
	iocp->acceptors = acceptor;
}

int32_t request_post(struct iocp *iocp, struct request *request, ULONG_PTR key)
{
	if (!PostQueuedCompletionStatus(
		    iocp->port, (DWORD)request->overlapped.InternalHigh, key, &request->overlapped))
		return windows_error();
	iocp->outstanding++;
	return STEP_STARTED;
}

/* What is not found has ended, most often: its packet is on the way. But a call that
 * is just being carried on is not found either (so under Wine), and nothing tells the
 * two apart. To ask twice does no harm. */
static bool cancel_misses(struct proa_port *port, struct request *request)
{
	port->stats.system_calls++;
	return !CancelIoEx(windows_handle_of(request->fd), &request->overlapped) &&
	       GetLastError() == ERROR_NOT_FOUND &&
	       (NTSTATUS)request->overlapped.Internal == STATUS_PENDING;
}

void request_cancel(struct proa_port *port, struct request *request)
{
	struct iocp *iocp = iocp_of(port);

	if (!cancel_misses(port, request) || (request->marks & MARK_MISSED))
		return;
	request->marks |= MARK_MISSED;
	request->next = iocp->missed;
	iocp->missed = request;
}

void requests_cancel_again(struct proa_port *port)
{
	struct request **link = &iocp_of(port)->missed, *request;

	while ((request = *link) != NULL) {
		if (cancel_misses(port, request)) {
			link = &request->next;
		} else {
			request->marks &= (uint8_t)~MARK_MISSED;
			*link = request->next;
		}
	}
}

/* What the system lacks while much is in flight, and has again when some of it has
 * ended. */
static bool is_want(const struct iocp *iocp, DWORD code)
{
	return iocp->outstanding > 0 &&
	       (code == WSAENOBUFS || code == ERROR_NO_SYSTEM_RESOURCES ||
		       code == ERROR_WORKING_SET_QUOTA || code == ERROR_NOT_ENOUGH_QUOTA ||
		       code == ERROR_INVALID_USER_BUFFER);
}

/* A call that fails at once sends no packet, with one exception: that a message was
 * longer than it might be is a warning to the kernel, and some drivers' warnings send
 * one (Winsock's fast path for datagrams differs there; Wine's do, of sends, too).
 * So a packet of our own goes behind it: whichever comes first counts, and with
 * ours it is certain that no other will come. */
static int32_t request_failed(
	struct iocp *iocp, const struct handle *handle, struct request *request, DWORD code)
{
	const struct proa_op *op;

	if (is_want(iocp, code)) {
		request->kind = REQUEST_AGAIN;
		if (request_post(iocp, request, KEY_CALL) == STEP_STARTED)
			return STEP_STARTED;
	}
	if (code == ERROR_MORE_DATA || code == WSAEMSGSIZE) {
		request->marks |= MARK_DOUBTFUL;
		if (request_post(iocp, request, KEY_BARRIER) == STEP_STARTED)
			return STEP_STARTED;
		request->op = NULL; /* never used again: its packet might come */
		return PROA_ENOMEM;
	}
	op = request->op;
	request_put(iocp, request);
	if (handle->type == HANDLE_FILE || handle->type == HANDLE_PIPE)
		return file_failed(op, code);
	if (code == WSAECONNRESET && handle->type == HANDLE_DATAGRAM)
		return PROA_ECONNREFUSED; /* nobody has the port that it is connected to */
	return system_code(code);
}

int32_t request_made(struct proa_port *port, struct handle *handle, struct request *request,
	DWORD code, DWORD bytes)
{
	struct iocp *iocp = iocp_of(port);
	int32_t result;

	port->stats.system_calls++;
	if (LIKELY(code == NO_ERROR && (handle->engine & I_SKIPS))) {
		result = iocp_finish(port, request, 0, bytes);
		request_put(iocp, request);
		return result;
	}
	if (code != NO_ERROR && code != ERROR_IO_PENDING)
		return request_failed(iocp, handle, request, code);
	iocp->outstanding++;
	return STEP_STARTED;
}

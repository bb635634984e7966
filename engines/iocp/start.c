/* From op to call: sockets. And back: what the end of a call means for its op. */
#include "engines/iocp/iocp.h"

#include <ntstatus.h>
#include <string.h>

#define SLICES_MOST 64

/* A call is over when all of its bytes are: where limits in time are counted from
 * progress, each part has to be seen, so the parts are small there. */
#define PART       (1u << 20)
#define PART_TIMED (64u * 1024)

/* Several sends are one call up to this. */
#define TOGETHER_MOST (64u * 1024)

/* Receives served at once, one after the other, before others have their turn. */
#define RUN_MOST 16

/* ---- the completion port ---------------------------------------------------------- */

/* Packets for what ended at once can be done without only where the handle is the
 * kernel's own: a layered provider without XP1_IFS_HANDLES sends its own packets
 * (Microsoft's KB 2568167). Not for datagrams: for one that is cut the call
 * fails, and whether a packet follows differs. Not for listeners: a connection
 * that is there already is one of many calls'. */
static void spare_packets(int fd, struct handle *handle)
{
	WSAPROTOCOL_INFOW info;
	int length = sizeof info;
	BOOL listens = FALSE;

	if (getsockopt(windows_socket_of(fd), SOL_SOCKET, SO_PROTOCOL_INFOW, (char *)&info,
		    &length) != 0 ||
		(info.dwServiceFlags1 & XP1_IFS_HANDLES) == 0)
		return;
	handle->engine |= I_IFS;
	length = sizeof listens;
	if (handle->type == HANDLE_DATAGRAM ||
		getsockopt(windows_socket_of(fd), SOL_SOCKET, SO_ACCEPTCONN, (char *)&listens,
			&length) != 0 ||
		listens)
		return;
	if (SetFileCompletionNotificationModes(windows_handle_of(fd),
		    FILE_SKIP_COMPLETION_PORT_ON_SUCCESS | FILE_SKIP_SET_EVENT_ON_HANDLE))
		handle->engine |= I_SKIPS;
}

/* The mode can't be taken back, and whoever opened the handle may have set it: to wait
 * for a packet then would be to wait for ever. */
static bool spares_packets(int fd)
{
	IO_STATUS_BLOCK io;
	ULONG modes = 0;

	/* 41: FileIoCompletionNotificationInformation, of Windows Vista and later. */
	return NtQueryInformationFile(windows_handle_of(fd), &io, &modes, sizeof modes,
		       (FILE_INFORMATION_CLASS)41) >= 0 &&
	       (modes & FILE_SKIP_COMPLETION_PORT_ON_SUCCESS) != 0;
}

static bool is_socket(const struct handle *handle)
{
	/* A dial's socket has no type yet. */
	return handle->type == HANDLE_TCP || handle->type == HANDLE_STREAM ||
	       handle->type == HANDLE_DATAGRAM || (handle->state & HANDLE_PRIVATE);
}

/* What was made elsewhere is told of refusals, and they would end a receive that
 * has nothing to do with them; but one that is connected wants to know. */
static void settle_refusals(int fd, const struct handle *handle)
{
	struct sockaddr_storage peer;
	int length = sizeof peer;

	if (handle->type == HANDLE_DATAGRAM && (handle->state & HANDLE_OURS) == 0 &&
		getpeername(windows_socket_of(fd), (struct sockaddr *)&peer, &length) != 0)
		windows_tell_refusals(fd, false);
}

int32_t iocp_tie(struct proa_port *port, int fd, struct handle *handle)
{
	DWORD code;

	if (LIKELY(handle->engine & I_TIED))
		return 0;
	port->stats.system_calls++;
	if (CreateIoCompletionPort(windows_handle_of(fd), iocp_of(port)->port, KEY_CALL, 0) ==
		NULL) {
		code = GetLastError();
		/* Not opened to overlap, or another completion port's. */
		if (code != ERROR_INVALID_PARAMETER && is_socket(handle))
			return system_code(code);
		handle->engine |= I_TIED | (is_socket(handle) ? I_DIRECT : I_SYNC);
		return 0;
	}
	handle->engine |= I_TIED;
	if (is_socket(handle)) {
		settle_refusals(fd, handle);
		spare_packets(fd, handle);
	} else if (SetFileCompletionNotificationModes(windows_handle_of(fd),
			   FILE_SKIP_COMPLETION_PORT_ON_SUCCESS | FILE_SKIP_SET_EVENT_ON_HANDLE)) {
		handle->engine |= I_SKIPS;
	}
	if ((handle->engine & I_SKIPS) == 0 && (handle->state & HANDLE_OURS) == 0 &&
		spares_packets(fd))
		handle->engine |= I_SKIPS;
	return 0;
}

/* ---- by readiness --------------------------------------------------------------------- */

/* Tries, and polls if it has to wait. */
static int32_t start_direct(struct proa_port *port, struct proa_op *op, uint32_t *flags)
{
	int32_t result = attempt(port, op, false, flags);

	if (result == STEP_LATER)
		return PROA_EAGAIN;
	return result == PROA_EAGAIN ? start_poll(port, op, attempt_descriptor(op), REQUEST_TRY)
				     : result;
}

/* ---- receiving ---------------------------------------------------------------------- */

static DWORD winsock_code(int result)
{
	return result == 0 ? NO_ERROR : (DWORD)WSAGetLastError();
}

static int32_t receive(struct proa_port *port, struct proa_op *op, struct handle *handle,
	struct proa_slice *slices, size_t count, enum request_kind kind)
{
	struct request *request = request_take(iocp_of(port), op, kind, op->handle_, false);
	DWORD code, n = 0;

	if (request == NULL)
		return PROA_ENOMEM;
	code = winsock_code(WSARecv(windows_socket_of(op->handle_), (WSABUF *)slices, (DWORD)count,
		&n, &request->flags, &request->overlapped, NULL));
	return request_made(port, handle, request, code, n);
}

static int32_t start_recv(struct proa_port *port, struct proa_op *op, struct handle *handle)
{
	size_t moved = (size_t)flight(op)->moved;
	struct proa_slice slice = { .data = (char *)op->buffer_ + moved,
		.length = (uint32_t)(op->length_ - moved) };
	struct proa_message *message = op->buffer_;

	if (op->kind_ == PROA_OP_RECVMSG)
		return receive(port, op, handle, message->slices, message->slice_count, REQUEST_OP);
	return receive(port, op, handle, &slice, 1, REQUEST_OP);
}

/* 0 or an error. */
static int receive_message(
	struct iocp *iocp, int fd, const struct handle *handle, LPFN_WSARECVMSG *call)
{
	static const GUID which = WSAID_WSARECVMSG;
	void *function;
	int error = 0;

	*call = iocp->receive;
	if (*call == NULL || (handle->engine & I_IFS) == 0) {
		error = windows_extension(fd, &which, &function);
		*call = (LPFN_WSARECVMSG)function;
	}
	if (handle->engine & I_IFS)
		iocp->receive = *call;
	return error;
}

static int32_t start_recvmsg(struct proa_port *port, struct proa_op *op, struct handle *handle)
{
	LPFN_WSARECVMSG call;
	int error = receive_message(iocp_of(port), op->handle_, handle, &call);
	struct proa_message *message = op->buffer_;
	struct request *request;
	WSAMSG *m;
	DWORD code, n = 0;

	if (error < 0)
		return error;
	request = request_take(iocp_of(port), op, REQUEST_OP, op->handle_, true);
	if (request == NULL)
		return PROA_ENOMEM;
	m = &((struct large *)request)->is.message;
	memset(m, 0, sizeof *m);
	m->name = &message->peer.to.any;
	m->namelen = sizeof message->peer.to;
	m->lpBuffers = (WSABUF *)message->slices;
	m->dwBufferCount = (DWORD)message->slice_count;
	m->Control.buf = message->control;
	m->Control.len = (ULONG)message->control_length;
	code = winsock_code(
		call(windows_socket_of(op->handle_), m, &n, &request->overlapped, NULL));
	return request_made(port, handle, request, code, n);
}

static bool has_control(const struct proa_message *message)
{
	return message->control != NULL && message->control_length > 0;
}

static int32_t start_datagram_recv(
	struct proa_port *port, struct proa_op *op, struct handle *handle)
{
	struct proa_message *message = op->buffer_;
	struct proa_slice slice = { .data = op->buffer_, .length = (uint32_t)op->length_ },
			  *slices = &slice;
	struct proa_address *from = NULL;
	struct request *request;
	size_t count = 1;
	DWORD code, n = 0;

	if (op->kind_ == PROA_OP_RECVMSG && has_control(message))
		return start_recvmsg(port, op, handle);
	if (op->kind_ == PROA_OP_RECVMSG) {
		slices = message->slices;
		count = message->slice_count;
		from = &message->peer;
	} else if (op->kind_ == PROA_OP_RECVFROM) {
		from = (struct proa_address *)(uintptr_t)op->argument_;
	}
	request = request_take(iocp_of(port), op, REQUEST_OP, op->handle_, false);
	if (request == NULL)
		return PROA_ENOMEM;
	request->from_length = sizeof from->to;
	code = winsock_code(WSARecvFrom(windows_socket_of(op->handle_), (WSABUF *)slices,
		(DWORD)count, &n, &request->flags, from == NULL ? NULL : &from->to.any,
		from == NULL ? NULL : &request->from_length, &request->overlapped, NULL));
	return request_made(port, handle, request, code, n);
}

/* A nudge: its turn comes when others have had theirs. */
static int32_t start_later(struct proa_port *port, struct proa_op *op)
{
	struct request *request = request_take(iocp_of(port), op, REQUEST_WAIT, op->handle_, false);
	int32_t result;

	if (request == NULL)
		return PROA_ENOMEM;
	result = request_post(iocp_of(port), request, KEY_CALL);
	if (result != STEP_STARTED)
		request_put(iocp_of(port), request);
	return result;
}

int32_t iocp_lend(
	struct proa_port *port, struct proa_op *op, struct handle *handle, uint32_t *flags)
{
	if (handle->type == HANDLE_PIPE)
		return lend_from_pipe(port, op, flags);
	return attempt_lent(port, op, handle, true, flags);
}

/* While it waits it holds no buffer: a receive of no bytes ends when there is
 * something, or the stream has. Datagrams would be cut by one: they are polled
 * for. */
static int32_t start_lent(
	struct proa_port *port, struct proa_op *op, struct handle *handle, uint32_t *flags)
{
	static char nowhere;
	struct proa_slice nothing = { .data = &nowhere, .length = 0 };
	struct iocp *iocp = iocp_of(port);
	int32_t result;

	if (iocp->running != op)
		iocp->run = 0;
	iocp->running = op;
	if (++iocp->run > RUN_MOST) {
		iocp->run = 0;
		return start_later(port, op);
	}
	if (handle->type == HANDLE_DATAGRAM)
		return start_direct(port, op, flags);
	do {
		result = receive(port, op, handle, &nothing, 1, REQUEST_WAIT);
		if (result == 0)
			result = attempt_lent(port, op, handle, true, flags);
		else if (result == PROA_EAGAIN)
			return PROA_EIO; /* no answer to an overlapped call */
	} while (result == PROA_EAGAIN);
	return result;
}

/* ---- sending --------------------------------------------------------------------------- */

/* Not more than `most` bytes of them. The number of slices. */
static int cut_slices(struct proa_slice *slices, int count, uint32_t most)
{
	for (int i = 0; i < count; i++) {
		if (slices[i].length >= most) {
			slices[i].length = most;
			return i + 1;
		}
		most -= slices[i].length;
	}
	return count;
}

static uint32_t part_of(const struct proa_op *op, const struct handle *handle)
{
	return op->timeout_ != PROA_FOREVER || (handle->state & HANDLE_FLUSHING) ? PART_TIMED
										 : PART;
}

/* How many of the bytes that were gathered go in one call: they end together, so a
 * large send is not to keep small ones before it from being told of. */
static uint64_t bytes_together(const struct proa_op *head)
{
	uint64_t sum = op_length(head) - flight(head)->moved, left;
	const struct proa_op *op;

	for (op = flight(head)->next; op != head && (op->options_ & OPT_GATHERED);
		op = flight(op)->next) {
		left = op_length(op) - flight(op)->moved;
		if (sum + left > TOGETHER_MOST)
			break;
		sum += left;
	}
	return sum;
}

static int32_t start_send(struct proa_port *port, struct proa_op *op, struct handle *handle)
{
	struct proa_slice slices[SLICES_MOST];
	struct request *request;
	size_t bytes;
	bool more;
	DWORD code, n = 0;
	int count;

	if (op->kind_ == PROA_OP_SENDMSG && has_control(op->buffer_))
		return PROA_EOPNOTSUPP; /* streams carry none here */
	request = request_take(iocp_of(port), op, REQUEST_OP, op->handle_, false);
	if (request == NULL)
		return PROA_ENOMEM;
	count = lane_gather(port, op, slices, SLICES_MOST, &bytes, &more);
	if (bytes > TOGETHER_MOST) {
		bytes = (size_t)bytes_together(op);
		count = cut_slices(slices, count,
			bytes < part_of(op, handle) ? (uint32_t)bytes : part_of(op, handle));
	}
	code = winsock_code(WSASend(windows_socket_of(op->handle_), (WSABUF *)slices, (DWORD)count,
		&n, 0, &request->overlapped, NULL));
	return request_made(port, handle, request, code, n);
}

static int32_t send_message(struct proa_port *port, struct proa_op *op, struct handle *handle)
{
	struct request *request = request_take(iocp_of(port), op, REQUEST_OP, op->handle_, true);
	struct proa_message *message = op->buffer_;
	WSAMSG *m;
	DWORD code, n = 0;

	if (request == NULL)
		return PROA_ENOMEM;
	m = &((struct large *)request)->is.message;
	memset(m, 0, sizeof *m);
	if (message->peer.length > 0) {
		m->name = &message->peer.to.any;
		m->namelen = (INT)message->peer.length;
	}
	m->lpBuffers = (WSABUF *)message->slices;
	m->dwBufferCount = (DWORD)message->slice_count;
	m->Control.buf = message->control;
	m->Control.len = (ULONG)message->control_length;
	code = winsock_code(
		WSASendMsg(windows_socket_of(op->handle_), m, 0, &n, &request->overlapped, NULL));
	return request_made(port, handle, request, code, n);
}

static int32_t start_datagram_send(
	struct proa_port *port, struct proa_op *op, struct handle *handle)
{
	struct proa_message *message = op->buffer_;
	struct proa_slice slice = { .data = op->buffer_, .length = (uint32_t)op->length_ },
			  *slices = &slice;
	const struct proa_address *to = NULL;
	struct request *request;
	size_t count = 1;
	DWORD code, n = 0;

	if (op->kind_ == PROA_OP_SENDMSG && has_control(message))
		return send_message(port, op, handle);
	if (op->kind_ == PROA_OP_SENDMSG) {
		slices = message->slices;
		count = message->slice_count;
		to = message->peer.length > 0 ? &message->peer : NULL;
	} else if (op->kind_ == PROA_OP_SENDV) {
		slices = op->buffer_;
		count = op->length_;
	} else if (op->kind_ == PROA_OP_SENDTO) {
		to = (const struct proa_address *)(uintptr_t)op->argument_;
	}
	request = request_take(iocp_of(port), op, REQUEST_OP, op->handle_, false);
	if (request == NULL)
		return PROA_ENOMEM;
	code = winsock_code(WSASendTo(windows_socket_of(op->handle_), (WSABUF *)slices,
		(DWORD)count, &n, 0, to == NULL ? NULL : &to->to.any,
		to == NULL ? 0 : (int)to->length, &request->overlapped, NULL));
	return request_made(port, handle, request, code, n);
}

/* ---- connecting ---------------------------------------------------------------------------- */

/* ConnectEx() takes bound sockets alone. One that is bound says so by an error. */
static int32_t bind_any(int fd, int family)
{
	struct sockaddr_storage any;
	int length = family == AF_INET ? (int)sizeof(struct sockaddr_in)
				       : (int)sizeof(struct sockaddr_in6);

	memset(&any, 0, sizeof any);
	any.ss_family = (ADDRESS_FAMILY)family;
	if (bind(windows_socket_of(fd), (struct sockaddr *)&any, length) == 0 ||
		WSAGetLastError() == WSAEINVAL)
		return 0;
	return windows_socket_error();
}

static LPFN_CONNECTEX connect_function(struct iocp *iocp, int fd, const struct handle *handle)
{
	static const GUID which = WSAID_CONNECTEX;
	LPFN_CONNECTEX call = iocp->connect;
	void *function;

	if (call == NULL || (handle->engine & I_IFS) == 0)
		call = windows_extension(fd, &which, &function) == 0 ? (LPFN_CONNECTEX)function
								     : NULL;
	if (handle->engine & I_IFS)
		iocp->connect = call;
	return call;
}

static int32_t start_connect(
	struct proa_port *port, struct proa_op *op, struct handle *handle, uint32_t *flags)
{
	const struct proa_address *to = op->buffer_;
	int fd = attempt_descriptor(op), family = to->to.any.sa_family;
	LPFN_CONNECTEX call;
	struct request *request;
	int32_t error;
	BOOL good;

	if (handle->type == HANDLE_DATAGRAM || (family != AF_INET && family != AF_INET6))
		return start_direct(port, op, flags);
	if (!windows_is_whole(to))
		return PROA_EINVAL;
	call = connect_function(iocp_of(port), fd, handle);
	if (call == NULL)
		return start_direct(port, op, flags);
	error = bind_any(fd, family);
	if (error < 0)
		return error;
	request = request_take(iocp_of(port), op, REQUEST_OP, fd, false);
	if (request == NULL)
		return PROA_ENOMEM;
	good = call(windows_socket_of(fd), &to->to.any, (int)to->length, NULL, 0, NULL,
		&request->overlapped);
	return request_made(port, handle, request, good ? NO_ERROR : (DWORD)WSAGetLastError(), 0);
}

/* ---- the end of a call ------------------------------------------------------------------------ */

static void fill_sender(struct proa_op *op, struct request *request)
{
	struct proa_message *message = op->buffer_;
	struct proa_address *from;

	if (op->kind_ == PROA_OP_RECVFROM) {
		from = (struct proa_address *)(uintptr_t)op->argument_;
		if (from != NULL)
			from->length = (uint32_t)request->from_length;
	} else if (op->kind_ == PROA_OP_RECVMSG && (request->marks & MARK_LARGE)) {
		const WSAMSG *m = &((struct large *)request)->is.message;

		message->peer.length = (uint32_t)m->namelen;
		message->control_length = m->Control.len;
	} else if (op->kind_ == PROA_OP_RECVMSG) {
		message->peer.length = (uint32_t)request->from_length;
		message->control_length = 0;
	}
}

static int32_t finish_datagram(
	struct proa_op *op, struct request *request, NTSTATUS status, uint32_t bytes)
{
	bool cut = status == STATUS_BUFFER_OVERFLOW;

	/* So says the driver of a datagram that came back from where nobody is. */
	if (status == STATUS_CONNECTION_RESET || status == STATUS_REMOTE_DISCONNECT)
		return PROA_ECONNREFUSED;
	if (NT_ERROR(status))
		return system_code((unsigned long)status);
	fill_sender(op, request);
	if (op->kind_ == PROA_OP_RECVMSG && (request->marks & MARK_LARGE))
		cut |= (((struct large *)request)->is.message.dwFlags & MSG_TRUNC) != 0;
	/* Of what was cut all the room is full, be it told or not. */
	flight(op)->moved = cut && op_receives(op) ? op_length(op) : bytes;
	return cut ? PROA_EMSGSIZE : (int32_t)bytes;
}

/* What the socket is told of its connection, so that shutdown(), getpeername() and
 * others know of it. */
static int32_t finish_connect(struct request *request, NTSTATUS status)
{
	if (!NT_SUCCESS(status))
		return system_code((unsigned long)status);
	return setsockopt(windows_socket_of(request->fd), SOL_SOCKET, SO_UPDATE_CONNECT_CONTEXT,
		       NULL, 0) == 0
		       ? 0
		       : windows_socket_error();
}

static int32_t finish_stream(struct proa_op *op, NTSTATUS status, uint32_t bytes)
{
	struct proa_message *message = op->buffer_;

	if (!NT_SUCCESS(status)) /* what was cancelled may have moved bytes */
		return bytes > 0 && status == STATUS_CANCELLED ? (int32_t)bytes
							       : system_code((unsigned long)status);
	if (op->kind_ == PROA_OP_RECVFROM && op->argument_ != 0)
		((struct proa_address *)(uintptr_t)op->argument_)->length = 0;
	if (op->kind_ == PROA_OP_RECVMSG)
		message->peer.length = message->control_length = 0;
	return (int32_t)bytes;
}

int32_t iocp_finish(
	struct proa_port *port, struct request *request, NTSTATUS status, uint32_t bytes)
{
	struct proa_op *op = request->op;
	const struct handle *handle = handle_find(port, request->fd);
	int32_t result;

	if (request->kind == REQUEST_WAIT)
		result = NT_SUCCESS(status) ? 0 : system_code((unsigned long)status);
	else if (op_connects(op))
		result = finish_connect(request, status);
	else if (handle->type == HANDLE_FILE || handle->type == HANDLE_PIPE)
		result = finish_file(op, status, bytes);
	else if (handle->type == HANDLE_DATAGRAM)
		result = finish_datagram(op, request, status, bytes);
	else
		result = finish_stream(op, status, bytes);
	return result;
}

/* ---- what the seam calls ------------------------------------------------------------------------ */

static int32_t start_stream(
	struct proa_port *port, struct proa_op *op, struct handle *handle, uint32_t *flags)
{
	switch (op->kind_) {
	case PROA_OP_RECV:
	case PROA_OP_RECVFROM:
	case PROA_OP_RECVMSG:
		return start_recv(port, op, handle);
	case PROA_OP_RECV_LENT:
	case PROA_OP_RECV_MULTI:
		return start_lent(port, op, handle, flags);
	case PROA_OP_SEND:
	case PROA_OP_SENDV:
	case PROA_OP_SENDTO:
	case PROA_OP_SENDMSG:
		if (op_length(op) == flight(op)->moved)
			return 0;
		return start_send(port, op, handle);
	case PROA_OP_SENDFILE:
		return start_sendfile(port, op, handle);
	case PROA_OP_ACCEPT:
	case PROA_OP_ACCEPT_MULTI:
		return start_accept(port, op, handle);
	default: /* shutdown: it takes effect at once */
		return start_direct(port, op, flags);
	}
}

static int32_t start_datagram(
	struct proa_port *port, struct proa_op *op, struct handle *handle, uint32_t *flags)
{
	switch (op->kind_) {
	case PROA_OP_RECV:
	case PROA_OP_RECVFROM:
	case PROA_OP_RECVMSG:
		return start_datagram_recv(port, op, handle);
	case PROA_OP_RECV_LENT:
	case PROA_OP_RECV_MULTI:
		return start_lent(port, op, handle, flags);
	case PROA_OP_SEND:
	case PROA_OP_SENDV:
	case PROA_OP_SENDTO:
	case PROA_OP_SENDMSG:
		return start_datagram_send(port, op, handle);
	default:
		return start_direct(port, op, flags);
	}
}

/* What is no stream, used as one. */
static int32_t start_odd(struct proa_port *port, struct proa_op *op, uint32_t *flags)
{
	if (op_connects(op) || op->kind_ == PROA_OP_SHUTDOWN)
		return start_direct(port, op, flags); /* which says what is wrong with that */
	if (op->kind_ == PROA_OP_ACCEPT || op->kind_ == PROA_OP_ACCEPT_MULTI)
		return PROA_ENOTSOCK;
	return STEP_TO_WORKER;
}

int32_t iocp_start(struct proa_port *port, struct proa_op *op, uint32_t *flags)
{
	struct handle *handle;
	int32_t error;
	int fd;

	op->options_ &= (uint16_t)~I_CANCELLED;
	if (op->kind_ == PROA_OP_POLL || op->kind_ == PROA_OP_POLL_MULTI)
		return start_poll(port, op, op->handle_, REQUEST_POLL);
	if (op->kind_ == PROA_OP_OPEN || (op->kind_ > PROA_OP_WRITEV && op->kind_ <= PROA_OP_MKDIR))
		return STEP_TO_WORKER;
	fd = attempt_descriptor(op);
	handle = handle_find(port, fd);
	if (handle->type == HANDLE_FILE && (op->kind_ < PROA_OP_READ || op->kind_ > PROA_OP_WRITEV))
		return start_odd(port, op, flags);
	error = iocp_tie(port, fd, handle);
	if (error < 0)
		return error;
	if (op_connects(op) && (handle->engine & I_DIRECT) == 0)
		return start_connect(port, op, handle, flags);
	if (handle->type == HANDLE_FILE)
		return start_file(port, op, handle);
	if (handle->type == HANDLE_PIPE &&
		(op->kind_ == PROA_OP_ACCEPT || op->kind_ == PROA_OP_ACCEPT_MULTI))
		return PROA_ENOTSOCK;
	if (handle->type == HANDLE_PIPE && op->kind_ != PROA_OP_SHUTDOWN)
		return start_pipe(port, op, handle, flags);
	/* The system has no overlapped call that leaves the data where it is
	 * (WSARecv(): MSG_PEEK is for calls that don't overlap). */
	if ((handle->engine & I_DIRECT) || (op_receives(op) && (op->flags_ & PROA_PEEK)))
		return start_direct(port, op, flags);
	if (handle->type == HANDLE_DATAGRAM)
		return start_datagram(port, op, handle, flags);
	return start_stream(port, op, handle, flags);
}

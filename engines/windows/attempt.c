/* Single tries of what readiness drives, for the emulation: calls that never
 * block. A socket is put into non-blocking mode at its first try, for Winsock has
 * no flag for a single call (and the mode is no matter to those who overlap).
 * Pipes are asked whether there is something to read; writes to them, consoles and
 * all else that is no socket go to a worker. */
#include "engines/windows/windows.h"

#include <string.h>

#define SLICES_MOST 64
#define COPY_CHUNK  (64u * 1024)

/* In options_: connect() has been called. */
#define OPT_CONNECTING 0x0800u

static int32_t failed(void)
{
	return windows_socket_error();
}

static bool is_socket(const struct handle *handle)
{
	return handle->type == HANDLE_TCP || handle->type == HANDLE_STREAM ||
	       handle->type == HANDLE_DATAGRAM;
}

/* 0 or an error. */
static inline int never_block(struct handle *handle, int fd)
{
	int error;

	if (LIKELY((handle->state & HANDLE_BLOCKING) == 0))
		return 0;
	error = windows_unblock(fd);
	if (error == 0)
		handle->state &= (uint8_t)~HANDLE_BLOCKING;
	return error;
}

/* WSAPoll() of before Windows 10 2004 does not report a connect that failed:
 * select() does, in its third set. */
static bool is_ready(struct proa_port *port, int fd, short events)
{
	struct timeval now = { 0, 0 };
	fd_set in, out, except;

	FD_ZERO(&in);
	FD_ZERO(&out);
	FD_ZERO(&except);
	if (events & POLLIN)
		FD_SET(windows_socket_of(fd), &in);
	if (events & POLLOUT)
		FD_SET(windows_socket_of(fd), &out);
	FD_SET(windows_socket_of(fd), &except);
	port->stats.system_calls++;
	return select(0, &in, &out, &except, &now) > 0;
}

/* ---- receiving -------------------------------------------------------------------- */

static int32_t read_some(struct proa_port *port, int fd, void *buffer, size_t length, int flags)
{
	int n;

	port->stats.system_calls++;
	n = recv(windows_socket_of(fd), buffer, (int)length, flags);
	return n < 0 ? failed() : n;
}

/* How many bytes a pipe has; 0 at its end, PROA_EAGAIN, or STEP_TO_WORKER. */
static int32_t ask_pipe(struct proa_port *port, int fd)
{
	DWORD there = 0;

	port->stats.system_calls++;
	if (PeekNamedPipe(windows_handle_of(fd), NULL, 0, NULL, &there, NULL))
		return there == 0 ? PROA_EAGAIN : there > INT32_MAX ? INT32_MAX : (int32_t)there;
	/* Its other end is gone; or it is no pipe, but a console. */
	return GetLastError() == ERROR_BROKEN_PIPE || GetLastError() == ERROR_PIPE_NOT_CONNECTED
		       ? 0
		       : STEP_TO_WORKER;
}

/* From a pipe what is there, which does not block. */
static int32_t read_pipe(struct proa_port *port, int fd, void *buffer, size_t length)
{
	HANDLE pipe = windows_handle_of(fd);
	OVERLAPPED overlapped = { 0 };
	int32_t there = ask_pipe(port, fd);
	DWORD n = 0;

	if (there <= 0)
		return there;
	port->stats.system_calls++;
	/* The file's own event tells of the end: an event for each try would be two
	 * more calls, and there is never more than one on its way. */
	if (!ReadFile(pipe, buffer, (size_t)there < length ? (DWORD)there : (DWORD)length, &n,
		    &overlapped) &&
		GetLastError() != ERROR_IO_PENDING && GetLastError() != ERROR_MORE_DATA)
		return GetLastError() == ERROR_BROKEN_PIPE ? 0 : windows_error();
	/* A worker's write may have woken us: then it is not over yet. */
	while (!GetOverlappedResult(pipe, &overlapped, &n, TRUE)) {
		if (GetLastError() == ERROR_MORE_DATA)
			break; /* of the message: it comes next */
		if (GetLastError() != ERROR_IO_INCOMPLETE)
			return windows_error();
	}
	return (int32_t)n;
}

/* One datagram; *cut if it was longer than there was room for. The system fills
 * the room before it says so. */
static int32_t read_datagram(struct proa_port *port, int fd, const struct proa_slice *slices,
	size_t count, struct sockaddr *from, int *from_length, bool peek, bool *cut)
{
	DWORD n = 0, flags = peek ? MSG_PEEK : 0;
	size_t room = 0;

	*cut = false;
	port->stats.system_calls++;
	if (WSARecvFrom(windows_socket_of(fd), (WSABUF *)(uintptr_t)slices, (DWORD)count, &n,
		    &flags, from, from_length, NULL, NULL) == 0) {
		*cut = (flags & MSG_PARTIAL) != 0;
		return (int32_t)n;
	}
	/* Who sends to a port that nobody has is told so by the next receive. */
	if (WSAGetLastError() == WSAECONNRESET)
		return PROA_ECONNREFUSED;
	if (WSAGetLastError() != WSAEMSGSIZE)
		return failed();
	for (size_t i = 0; i < count; i++)
		room += slices[i].length;
	*cut = true;
	return (int32_t)room;
}

static int32_t try_datagram(
	struct proa_port *port, struct proa_op *op, int fd, struct proa_address *from)
{
	struct proa_slice slice = { .data = op->buffer_, .length = (uint32_t)op->length_ };
	int length = sizeof from->to;
	bool cut;
	int32_t n = read_datagram(port, fd, &slice, 1, from == NULL ? NULL : &from->to.any,
		from == NULL ? NULL : &length, (op->flags_ & PROA_PEEK) != 0, &cut);

	if (n < 0)
		return n;
	if (from != NULL)
		from->length = (uint32_t)length;
	flight(op)->moved = (uint64_t)n;
	return cut ? PROA_EMSGSIZE : n;
}

static int32_t try_recv(struct proa_port *port, struct proa_op *op, const struct handle *handle)
{
	size_t moved = (size_t)flight(op)->moved;
	int fd = op->handle_;

	if (op->kind_ == PROA_OP_RECVFROM)
		return try_datagram(port, op, fd, (struct proa_address *)(uintptr_t)op->argument_);
	if (handle->type == HANDLE_DATAGRAM)
		return try_datagram(port, op, fd, NULL);
	return read_some(port, fd, (char *)op->buffer_ + moved, op->length_ - moved,
		(op->flags_ & PROA_PEEK) ? MSG_PEEK : 0);
}

/* WSARecvMsg() is for datagrams alone, and a function of the provider's. */
static int32_t recv_control(
	struct proa_port *port, struct proa_op *op, struct proa_message *message, bool *cut)
{
	static const GUID which = WSAID_WSARECVMSG;
	void *function;
	int error = windows_extension(op->handle_, &which, &function);
	LPFN_WSARECVMSG call = (LPFN_WSARECVMSG)function;
	WSAMSG m = {
		.name = &message->peer.to.any,
		.namelen = sizeof message->peer.to,
		.lpBuffers = (WSABUF *)message->slices,
		.dwBufferCount = (DWORD)message->slice_count,
		.Control = { .len = (ULONG)message->control_length, .buf = message->control },
		.dwFlags = (op->flags_ & PROA_PEEK) ? MSG_PEEK : 0,
	};
	DWORD n = 0;

	if (error < 0)
		return error;
	port->stats.system_calls++;
	error = call(windows_socket_of(op->handle_), &m, &n, NULL, NULL);
	*cut = error != 0 && WSAGetLastError() == WSAEMSGSIZE;
	if (error != 0 && !*cut)
		return WSAGetLastError() == WSAECONNRESET ? PROA_ECONNREFUSED : failed();
	if (*cut)
		n = (DWORD)op_length(op);
	*cut = *cut || (m.dwFlags & MSG_TRUNC) != 0;
	message->peer.length = (uint32_t)m.namelen;
	message->control_length = m.Control.len;
	return (int32_t)n;
}

static int32_t try_recvmsg(struct proa_port *port, struct proa_op *op, const struct handle *handle)
{
	struct proa_message *message = op->buffer_;
	int length = sizeof message->peer.to;
	bool datagram = handle->type == HANDLE_DATAGRAM, cut;
	int32_t n;

	if (datagram && message->control != NULL && message->control_length > 0) {
		n = recv_control(port, op, message, &cut);
	} else {
		n = read_datagram(port, op->handle_, message->slices, message->slice_count,
			datagram ? &message->peer.to.any : NULL, datagram ? &length : NULL,
			(op->flags_ & PROA_PEEK) != 0, &cut);
		if (n >= 0) {
			message->peer.length = datagram ? (uint32_t)length : 0;
			message->control_length = 0;
		}
	}
	if (n < 0)
		return n;
	flight(op)->moved = (uint64_t)n;
	return cut ? PROA_EMSGSIZE : n;
}

int32_t attempt_lent(struct proa_port *port, struct proa_op *op, struct handle *handle, bool told,
	uint32_t *flags)
{
	struct proa_pool *pool = op->buffer_;
	struct proa_buffer *buffer;
	struct proa_slice slice;
	int length = POOL_ADDRESS_ROOM;
	bool cut = false;
	int32_t n;

	/* Waiting takes no buffer, and makes no pool grow. */
	if (is_socket(handle)) {
		n = never_block(handle, op->handle_);
		if (n < 0)
			return n;
		if (!told && pool_is_empty(pool) && !is_ready(port, op->handle_, POLLIN))
			return PROA_EAGAIN;
	} else {
		n = handle->type == HANDLE_PIPE ? ask_pipe(port, op->handle_) : STEP_TO_WORKER;
		if (n <= 0) /* a worker can't take the buffer */
			return n == STEP_TO_WORKER ? PROA_EOPNOTSUPP : n;
	}
	buffer = pool_take_free(pool);
	if (buffer == NULL)
		return STEP_NO_BUFFER;
	if (handle->type == HANDLE_DATAGRAM) {
		struct sockaddr *from = (struct sockaddr *)(buffer->data - POOL_ADDRESS_ROOM);

		slice.data = buffer->data;
		slice.length = buffer->size;
		n = read_datagram(port, op->handle_, &slice, 1, from, &length, false, &cut);
		if ((n >= 0 || cut) && length > 0)
			pool_set_sender(buffer, (size_t)length);
	} else if (is_socket(handle)) {
		n = read_some(port, op->handle_, buffer->data, buffer->size, 0);
	} else {
		n = read_pipe(port, op->handle_, buffer->data, buffer->size);
	}
	if (n < 0 || (n == 0 && handle->type != HANDLE_DATAGRAM)) {
		pool_put_free(pool, buffer);
		return n;
	}
	buffer->length = (uint32_t)n;
	*flags = LENT_FLAGS(pool_id(buffer));
	return cut ? PROA_EMSGSIZE : n;
}

/* ---- sending ------------------------------------------------------------------------ */

/* A non-blocking send of Winsock takes any length while its buffer has room: what
 * one try offers is bounded, or a send to a stuck peer would be done at once. */
#define SEND_MOST (64u * 1024)

static int32_t write_some(struct proa_port *port, int fd, struct proa_slice *slices, size_t count)
{
	DWORD n = 0;
	size_t bytes = 0;

	for (size_t i = 0; i < count; i++) {
		bytes += slices[i].length;
		if (bytes <= SEND_MOST)
			continue;
		slices[i].length -= (uint32_t)(bytes - SEND_MOST);
		count = i + 1;
	}
	port->stats.system_calls++;
	if (WSASend(windows_socket_of(fd), (WSABUF *)slices, (DWORD)count, &n, 0, NULL, NULL) != 0)
		return failed();
	return (int32_t)n;
}

int32_t attempt_lone_send(struct proa_port *port, struct proa_op *op, struct handle *handle)
{
	int n = never_block(handle, op->handle_);

	if (n < 0)
		return n;
	port->stats.system_calls++;
	n = send(windows_socket_of(op->handle_), op->buffer_,
		op->length_ < SEND_MOST ? (int)op->length_ : (int)SEND_MOST, 0);
	return n < 0 ? failed() : n;
}

static int32_t send_datagram(struct proa_port *port, int fd, const struct proa_slice *slices,
	size_t count, const struct proa_address *to)
{
	DWORD n = 0;

	port->stats.system_calls++;
	if (WSASendTo(windows_socket_of(fd), (WSABUF *)(uintptr_t)slices, (DWORD)count, &n, 0,
		    to == NULL ? NULL : &to->to.any, to == NULL ? 0 : (int)to->length, NULL,
		    NULL) != 0)
		return failed();
	return (int32_t)n;
}

static int32_t try_send(struct proa_port *port, struct proa_op *op, const struct handle *handle)
{
	struct proa_slice slices[SLICES_MOST];
	const struct proa_address *to = NULL;
	size_t bytes;
	bool more;
	int count;

	if (handle->type == HANDLE_DATAGRAM) {
		if (op->kind_ == PROA_OP_SENDV)
			return send_datagram(port, op->handle_, op->buffer_, op->length_, NULL);
		if (op->kind_ == PROA_OP_SENDTO)
			to = (const struct proa_address *)(uintptr_t)op->argument_;
		slices[0].data = op->buffer_;
		slices[0].length = (uint32_t)op->length_;
		return send_datagram(port, op->handle_, slices, 1, to);
	}
	count = lane_gather(port, op, slices, SLICES_MOST, &bytes, &more);
	return count == 0 ? 0 : write_some(port, op->handle_, slices, (size_t)count);
}

static int32_t send_control(struct proa_port *port, struct proa_op *op)
{
	struct proa_message *message = op->buffer_;
	WSAMSG m = {
		.name = message->peer.length > 0 ? &message->peer.to.any : NULL,
		.namelen = (int)message->peer.length,
		.lpBuffers = (WSABUF *)message->slices,
		.dwBufferCount = (DWORD)message->slice_count,
		.Control = { .len = (ULONG)message->control_length, .buf = message->control },
	};
	DWORD n = 0;

	port->stats.system_calls++;
	if (WSASendMsg(windows_socket_of(op->handle_), &m, 0, &n, NULL, NULL) != 0)
		return failed();
	return (int32_t)n;
}

static int32_t try_sendmsg(struct proa_port *port, struct proa_op *op, const struct handle *handle)
{
	struct proa_message *message = op->buffer_;
	struct proa_slice slices[SLICES_MOST];
	size_t bytes;
	bool more;
	int count;

	if (handle->type == HANDLE_DATAGRAM) {
		if (message->control != NULL && message->control_length > 0)
			return send_control(port, op);
		return send_datagram(port, op->handle_, message->slices, message->slice_count,
			message->peer.length > 0 ? &message->peer : NULL);
	}
	if (message->control != NULL && message->control_length > 0)
		return PROA_EOPNOTSUPP; /* streams carry none here */
	count = lane_gather(port, op, slices, SLICES_MOST, &bytes, &more);
	return count == 0 ? 0 : write_some(port, op->handle_, slices, (size_t)count);
}

/* A worker reads a part of the file, so that it is in the cache when it is read
 * here; op->length_, which has no other use, says how far. */
static int32_t try_sendfile(struct proa_port *port, struct proa_op *op)
{
	const struct proa_range *range = op->buffer_;
	uint64_t moved = flight(op)->moved, left = range->length - moved;
	char bytes[COPY_CHUNK];
	struct proa_slice slice = { .data = bytes };
	int32_t n;

	if (left == 0)
		return 0;
	if (moved >= op->length_) {
		op->length_ = (size_t)(moved + PROA_WARM_BYTES);
		op->flags_ |= PROA_WARM_;
		return STEP_TO_WORKER;
	}
	n = windows_read_at((int)range->file, range->offset + moved, bytes,
		left < COPY_CHUNK ? (uint32_t)left : COPY_CHUNK);
	if (n <= 0)
		return n < 0 ? n : PROA_EIO; /* the file is shorter */
	slice.length = (uint32_t)n;
	return write_some(port, op->handle_, &slice, 1);
}

/* ---- connections --------------------------------------------------------------------- */

static int32_t try_accept(struct proa_port *port, struct proa_op *op)
{
	struct proa_address *peer = op->kind_ == PROA_OP_ACCEPT ? op->buffer_ : NULL;
	int length = sizeof peer->to, error;
	SOCKET s;

	port->stats.system_calls++;
	s = accept(windows_socket_of(op->handle_), peer == NULL ? NULL : &peer->to.any,
		peer == NULL ? NULL : &length);
	if (s == INVALID_SOCKET) /* the peer may be gone by now: that is no matter */
		return WSAGetLastError() == WSAECONNRESET ? PROA_ECONNABORTED : failed();
	SetHandleInformation((HANDLE)s, HANDLE_FLAG_INHERIT, 0);
	error = windows_unblock(windows_fd(s));
	if (error < 0) {
		closesocket(s);
		return error;
	}
	if (peer != NULL)
		peer->length = (uint32_t)length;
	return windows_fd(s);
}

static int32_t try_connect(
	struct proa_port *port, struct proa_op *op, struct handle *handle, bool told)
{
	const struct proa_address *to = op->buffer_;
	int fd = attempt_descriptor(op), error = 0, length = sizeof error;

	port->stats.system_calls++;
	if ((op->options_ & OPT_CONNECTING) == 0) {
		if (!windows_is_whole(to))
			return PROA_EINVAL;
		if (op->kind_ == PROA_OP_CONNECT && handle->type == HANDLE_DATAGRAM)
			windows_tell_refusals(fd, true);
		if (connect(windows_socket_of(fd), &to->to.any, (int)to->length) == 0)
			return 0;
		if (WSAGetLastError() != WSAEWOULDBLOCK)
			return failed();
		op->options_ |= OPT_CONNECTING;
		return PROA_EAGAIN;
	}
	if (!told && !is_ready(port, fd, POLLOUT))
		return PROA_EAGAIN;
	if (getsockopt(windows_socket_of(fd), SOL_SOCKET, SO_ERROR, (char *)&error, &length) != 0)
		return failed();
	if (error != 0)
		return system_code((unsigned long)error);
	return is_ready(port, fd, POLLOUT) ? 0 : PROA_EAGAIN;
}

static int32_t try_shutdown(struct proa_port *port, struct proa_op *op)
{
	port->stats.system_calls++;
	return shutdown(windows_socket_of(op->handle_), SD_SEND) == 0 ? 0 : failed();
}

/* ---- readiness itself ------------------------------------------------------------------ */

/* POLLHUP is no more than the peer's end: what poll(2) calls POLLRDHUP. */
int32_t attempt_poll_result(short revents)
{
	return (int32_t)(((revents & (POLLIN | POLLHUP)) ? PROA_READABLE : 0u) |
			 ((revents & POLLOUT) ? PROA_WRITABLE : 0u) |
			 ((revents & POLLERR) ? PROA_HANGUP : 0u));
}

int32_t windows_poll_other(const struct proa_op *op, int fd)
{
	enum handle_type type;
	bool blocking;
	int error = system_classify(fd, &type, &blocking);

	if (error < 0)
		return error;
	/* A file has no end that would be told. */
	if (type != HANDLE_FILE || (op->flags_ & (PROA_READABLE | PROA_WRITABLE)) == 0)
		return PROA_EOPNOTSUPP;
	return (int32_t)(op->flags_ & (PROA_READABLE | PROA_WRITABLE));
}

static int32_t try_poll(struct proa_port *port, struct proa_op *op)
{
	WSAPOLLFD p = { .fd = windows_socket_of(op->handle_), .events = attempt_events(op) };
	short given;

	port->stats.system_calls++;
	if (WSAPoll(&p, 1, 0) < 0) {
		if (WSAGetLastError() != WSAENOTSOCK)
			return failed();
		p.revents = POLLNVAL;
	}
	if (p.revents & POLLNVAL)
		return windows_poll_other(op, op->handle_);
	given = p.revents;
	if ((p.events & POLLIN) == 0)
		given &= (short)~POLLHUP;
	/* See is_ready(). */
	if (given == 0 && (p.events & POLLOUT) && is_ready(port, op->handle_, POLLOUT)) {
		int error = 0, length = sizeof error;

		getsockopt(p.fd, SOL_SOCKET, SO_ERROR, (char *)&error, &length);
		given = error != 0 ? POLLOUT | POLLERR : POLLOUT;
	}
	return given == 0 ? PROA_EAGAIN : attempt_poll_result(given);
}

/* ---- what an engine calls ---------------------------------------------------------------- */

int attempt_descriptor(const struct proa_op *op)
{
	return op->kind_ == PROA_OP_DIAL ? attempt_private(op) : op->handle_;
}

short attempt_events(const struct proa_op *op)
{
	switch (op->kind_) {
	case PROA_OP_POLL:
	case PROA_OP_POLL_MULTI:
		return (short)(((op->flags_ & PROA_READABLE) ? POLLIN : 0) |
			       ((op->flags_ & PROA_WRITABLE) ? POLLOUT : 0));
	case PROA_OP_ACCEPT:
	case PROA_OP_ACCEPT_MULTI:
		return POLLIN;
	default:
		return op_receives(op) ? POLLIN : POLLOUT;
	}
}

/* For a dial: lib/ sees to children by child_begin(). */
int attempt_prepare(struct proa_port *port, struct proa_op *op)
{
	const struct proa_address *to = op->buffer_;
	struct handle *handle;
	int fd, error;

	port->stats.system_calls++;
	fd = windows_socket(to->to.any.sa_family, SOCK_STREAM);
	if (fd < 0)
		return fd;
	error = handle_get(port, fd, &handle);
	if (error < 0) {
		port->stats.system_calls++;
		closesocket(windows_socket_of(fd));
		return error;
	}
	if (handle->state != 0 || handle->engine != 0)
		handle_forget(port, fd, handle);
	handle->state = HANDLE_PRIVATE;
	handle->sends = op;
	op->length_ = (size_t)fd + 1;
	return 0;
}

void attempt_finish(struct proa_port *port, struct proa_op *op, int32_t result)
{
	int fd = attempt_private(op);
	struct handle *handle = handle_find(port, fd);

	op->length_ = 0;
	handle->sends = NULL;
	if (op->kind_ == PROA_OP_DIAL && result == 0)
		return; /* handle_adopt() takes it from here */
	handle_forget(port, fd, handle);
	port->stats.system_calls++;
	closesocket(windows_socket_of(fd));
}

static int32_t attempt_socket(struct proa_port *port, struct proa_op *op, struct handle *handle)
{
	switch (op->kind_) {
	case PROA_OP_RECV:
	case PROA_OP_RECVFROM:
		return try_recv(port, op, handle);
	case PROA_OP_RECVMSG:
		return try_recvmsg(port, op, handle);
	case PROA_OP_SEND:
	case PROA_OP_SENDV:
	case PROA_OP_SENDTO:
		return try_send(port, op, handle);
	case PROA_OP_SENDMSG:
		return try_sendmsg(port, op, handle);
	case PROA_OP_SENDFILE:
		return try_sendfile(port, op);
	case PROA_OP_SHUTDOWN:
		return try_shutdown(port, op);
	default:
		return try_accept(port, op);
	}
}

int32_t attempt(struct proa_port *port, struct proa_op *op, bool told, uint32_t *flags)
{
	struct handle *handle = handle_find(port, op->handle_);
	int error;

	if (op->kind_ == PROA_OP_RECV_LENT || op->kind_ == PROA_OP_RECV_MULTI)
		return attempt_lent(port, op, handle, told, flags);
	if (op->kind_ == PROA_OP_POLL || op->kind_ == PROA_OP_POLL_MULTI)
		return try_poll(port, op);
	if (op->kind_ == PROA_OP_DIAL)
		return try_connect(port, op, handle, told);
	if (handle->type == HANDLE_PIPE && op->kind_ == PROA_OP_RECV)
		return read_pipe(port, op->handle_, (char *)op->buffer_ + flight(op)->moved,
			op->length_ - (size_t)flight(op)->moved);
	if (!is_socket(handle))
		return op->kind_ == PROA_OP_ACCEPT || op->kind_ == PROA_OP_ACCEPT_MULTI
			       ? PROA_ENOTSOCK
			       : STEP_TO_WORKER;
	error = never_block(handle, op->handle_);
	if (error < 0)
		return error;
	if (op->kind_ == PROA_OP_CONNECT)
		return try_connect(port, op, handle, told);
	return attempt_socket(port, op, handle);
}

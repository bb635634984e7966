/* Single tries of what readiness drives: one system call that never blocks,
 * whatever the descriptor's own flags say. O_NONBLOCK belongs to the open file,
 * which other processes may share, so it is not set on what others made:
 * sockets are asked with MSG_DONTWAIT, all else is polled first.
 *
 * The emulated engines live on this; io_uring uses it for what it lacks. */
#include "engines/unix/unix.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <unistd.h>
#ifdef PROA_HAVE_SENDFILE_LINUX
#	include <sys/sendfile.h>
#elif defined PROA_HAVE_SENDFILE_DARWIN || defined PROA_HAVE_SENDFILE_FREEBSD
#	include <sys/uio.h>
#endif

#define SLICES_MOST    64
#define SENDFILE_CHUNK PROA_WARM_BYTES
#define COPY_CHUNK     (16u * 1024)

/* In options_: connect(2) has been called. */
#define OPT_CONNECTING 0x0800u

/* What some systems lack; see docs/design/kqueue.md. */
#ifdef PROA_HAVE_MSG_NOSIGNAL
#	define SEND_QUIET MSG_NOSIGNAL
#else
#	define SEND_QUIET 0 /* SO_NOSIGPIPE on our own sockets; SIGPIPE is ignored */
#endif
#ifdef PROA_HAVE_MSG_CMSG_CLOEXEC
#	define RECEIVE_CLOEXEC MSG_CMSG_CLOEXEC
#else
#	define RECEIVE_CLOEXEC 0 /* close_received_on_exec() */
#endif
#ifdef MSG_MORE
#	define SEND_MORE MSG_MORE
#else
#	define SEND_MORE 0 /* a hint, no more */
#endif

static int32_t failed(void)
{
	return errno == EAGAIN ? PROA_EAGAIN : unix_error(errno);
}

/* Above 0: it is. 0: it is not, and errno says EAGAIN. Below: who knows; errno says
 * why. */
static int look(struct proa_port *port, struct pollfd *p)
{
	int n;

	do {
		port->stats.system_calls++;
		n = poll(p, 1, 0);
	} while (n < 0 && errno == EINTR);
	if (n == 0)
		errno = EAGAIN;
	return n;
}

static int is_ready(struct proa_port *port, int fd, short events)
{
	struct pollfd p = { .fd = fd, .events = events };

	return look(port, &p);
}

static bool is_socket(const struct handle *handle)
{
	return handle->type == HANDLE_TCP || handle->type == HANDLE_STREAM ||
	       handle->type == HANDLE_DATAGRAM;
}

#ifdef PROA_SEND_WAITS
/* Darwin's sends heed the file's own O_NONBLOCK, and not MSG_DONTWAIT (xnu,
 * bsd/kern/uipc_socket.c, sosendcheck()). There the flag is set for the time of
 * the call: the file's former flags, or -1 if it need not be. */
static int send_begin(const struct handle *handle, int fd)
{
	int flags = -1;

	if (handle->state & HANDLE_BLOCKING) {
		flags = fcntl(fd, F_GETFL);
		fcntl(fd, F_SETFL, flags | O_NONBLOCK);
	}
	return flags;
}

static void send_end(int fd, int flags)
{
	int saved = errno;

	if (flags >= 0)
		fcntl(fd, F_SETFL, flags);
	errno = saved;
}
#else
static inline int send_begin(const struct handle *handle, int fd)
{
	(void)handle;
	(void)fd;
	return -1;
}

static inline void send_end(int fd, int flags)
{
	(void)fd;
	(void)flags;
}
#endif

/* ---- receiving -------------------------------------------------------------------- */

static ssize_t read_some(struct proa_port *port, const struct handle *handle, int fd, void *buffer,
	size_t length, int flags)
{
	ssize_t n;

	do {
		port->stats.system_calls++;
		if (is_socket(handle)) {
			n = recv(fd, buffer, length, MSG_DONTWAIT | flags);
		} else {
			/* Asked again even when the system has just said so: another op may
			 * have taken since what was there. */
			if ((handle->state & HANDLE_BLOCKING) && is_ready(port, fd, POLLIN) <= 0)
				return -1;
			n = read(fd, buffer, length);
		}
	} while (n < 0 && errno == EINTR);
	/* The other end of a pseudo-terminal is gone: that is its end. */
	if (n < 0 && errno == EIO && handle->type == HANDLE_PIPE)
		n = 0;
	return n;
}

#ifndef PROA_HAVE_MSG_CMSG_CLOEXEC
/* Not at once with the receipt: another thread may fork in between, which can't
 * be helped there. */
static void close_received_on_exec(struct msghdr *message)
{
	for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part != NULL;
		part = CMSG_NXTHDR(message, part)) {
		size_t bytes = part->cmsg_len - CMSG_LEN(0);

		if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t at = 0; at + sizeof(int) <= bytes; at += sizeof(int)) {
			int fd;

			memcpy(&fd, CMSG_DATA(part) + at, sizeof fd);
			fcntl(fd, F_SETFD, FD_CLOEXEC);
		}
	}
}
#else
static inline void close_received_on_exec(struct msghdr *message)
{
	(void)message;
}
#endif

/* One datagram; *cut if it was longer than there was room for. */
static ssize_t read_datagram(
	struct proa_port *port, int fd, struct msghdr *message, int flags, bool *cut)
{
	ssize_t n;

	do {
		port->stats.system_calls++;
		n = recvmsg(fd, message, MSG_DONTWAIT | RECEIVE_CLOEXEC | flags);
	} while (n < 0 && errno == EINTR);
	if (n >= 0 && message->msg_controllen > 0)
		close_received_on_exec(message);
	*cut = n >= 0 && (message->msg_flags & MSG_TRUNC) != 0;
	return n;
}

static int32_t try_datagram(
	struct proa_port *port, struct proa_op *op, int fd, struct proa_address *from)
{
	struct iovec slice = { .iov_base = op->buffer_, .iov_len = op->length_ };
	struct msghdr message = { .msg_iov = &slice, .msg_iovlen = 1 };
	bool cut;
	ssize_t n;

	if (from != NULL) {
		message.msg_name = &from->to;
		message.msg_namelen = sizeof from->to;
	}
	n = read_datagram(port, fd, &message, (op->flags_ & PROA_PEEK) ? MSG_PEEK : 0, &cut);
	if (n < 0)
		return failed();
	if (from != NULL)
		from->length = message.msg_namelen;
	flight(op)->moved = (uint64_t)n;
	return cut ? PROA_EMSGSIZE : (int32_t)n;
}

static int32_t try_recv(struct proa_port *port, struct proa_op *op, const struct handle *handle)
{
	size_t moved = (size_t)flight(op)->moved;
	int fd = op->handle_;
	ssize_t n;

	if (op->kind_ == PROA_OP_RECVFROM)
		return try_datagram(port, op, fd, (struct proa_address *)(uintptr_t)op->argument_);
	if (handle->type == HANDLE_DATAGRAM)
		return try_datagram(port, op, fd, NULL);
	n = read_some(port, handle, fd, (char *)op->buffer_ + moved, op->length_ - moved,
		(op->flags_ & PROA_PEEK) ? MSG_PEEK : 0);
	return n < 0 ? failed() : (int32_t)n;
}

static int32_t try_recvmsg(struct proa_port *port, struct proa_op *op)
{
	struct proa_message *message = op->buffer_;
	struct msghdr m = {
		.msg_name = &message->peer.to,
		.msg_namelen = sizeof message->peer.to,
		.msg_iov = (struct iovec *)message->slices,
		.msg_iovlen = message->slice_count,
		.msg_control = message->control,
		.msg_controllen = message->control_length,
	};
	bool cut;
	ssize_t n =
		read_datagram(port, op->handle_, &m, (op->flags_ & PROA_PEEK) ? MSG_PEEK : 0, &cut);

	if (n < 0)
		return failed();
	message->peer.length = m.msg_namelen;
	message->control_length = m.msg_controllen;
	flight(op)->moved = (uint64_t)n;
	return cut ? PROA_EMSGSIZE : (int32_t)n;
}

int32_t attempt_lent(struct proa_port *port, struct proa_op *op, struct handle *handle, bool told,
	uint32_t *flags)
{
	struct proa_pool *pool = op->buffer_;
	struct proa_buffer *buffer;
	struct msghdr message = { 0 };
	struct iovec slice;
	bool cut = false;
	ssize_t n;

	/* Waiting takes no buffer, and makes no pool grow. */
	if (!told && pool_is_empty(pool) && is_ready(port, op->handle_, POLLIN) <= 0)
		return failed();
	buffer = pool_take_free(pool);
	if (buffer == NULL)
		return STEP_NO_BUFFER;
	if (handle->type == HANDLE_DATAGRAM) {
		slice.iov_base = buffer->data;
		slice.iov_len = buffer->size;
		message.msg_iov = &slice;
		message.msg_iovlen = 1;
		message.msg_name = buffer->data - POOL_ADDRESS_ROOM;
		message.msg_namelen = POOL_ADDRESS_ROOM;
		n = read_datagram(port, op->handle_, &message, 0, &cut);
		if (n >= 0)
			pool_set_sender(buffer, message.msg_namelen);
	} else {
		n = read_some(port, handle, op->handle_, buffer->data, buffer->size, 0);
	}
	if (n < 0 || (n == 0 && handle->type != HANDLE_DATAGRAM)) {
		int32_t result = n < 0 ? failed() : 0;

		pool_put_free(pool, buffer);
		return result;
	}
	buffer->length = (uint32_t)n;
	*flags = LENT_FLAGS(pool_id(buffer));
	return cut ? PROA_EMSGSIZE : (int32_t)n;
}

/* ---- sending ------------------------------------------------------------------------ */

static ssize_t write_some(struct proa_port *port, const struct handle *handle, int fd,
	struct iovec *slices, int count, bool more)
{
	struct msghdr message = { .msg_iov = slices, .msg_iovlen = (size_t)count };
	ssize_t n;

	do {
		port->stats.system_calls++;
		if (is_socket(handle)) {
			int flags = MSG_DONTWAIT | SEND_QUIET | (more ? SEND_MORE : 0);
			int before = send_begin(handle, fd);

			n = count == 1 ? send(fd, slices[0].iov_base, slices[0].iov_len, flags)
				       : sendmsg(fd, &message, flags);
			send_end(fd, before);
		} else if (handle->state & HANDLE_BLOCKING) {
			/* A writable pipe takes PIPE_BUF bytes without blocking. */
			if (is_ready(port, fd, POLLOUT) <= 0)
				return -1;
			n = write(fd, slices[0].iov_base,
				slices[0].iov_len < PIPE_BUF ? slices[0].iov_len : PIPE_BUF);
		} else {
			n = count == 1 ? write(fd, slices[0].iov_base, slices[0].iov_len)
				       : writev(fd, slices, count);
		}
	} while (n < 0 && errno == EINTR);
	return n;
}

int32_t attempt_lone_send(struct proa_port *port, struct proa_op *op, struct handle *handle)
{
	int before = send_begin(handle, op->handle_);
	ssize_t n;

	(void)handle;
	do {
		port->stats.system_calls++;
		n = send(op->handle_, op->buffer_, op->length_, MSG_DONTWAIT | SEND_QUIET);
	} while (n < 0 && errno == EINTR);
	send_end(op->handle_, before);
	return n < 0 ? failed() : (int32_t)n;
}

/* A datagram finds the interface's queue full, or (on the BSDs) a UNIX peer's buffer:
 * ENOBUFS, and no event tells when there is room: send(2) of FreeBSD and of macOS.
 * Linux says it for want of memory. */
static int32_t send_message(
	struct proa_port *port, const struct handle *handle, int fd, const struct msghdr *message)
{
	int before = send_begin(handle, fd);
	ssize_t n;

	do {
		port->stats.system_calls++;
		n = sendmsg(fd, message, MSG_DONTWAIT | SEND_QUIET);
	} while (n < 0 && errno == EINTR);
	send_end(fd, before);
	if (n < 0 && errno == ENOBUFS && handle->type == HANDLE_DATAGRAM)
		return STEP_LATER;
	return n < 0 ? failed() : (int32_t)n;
}

static int32_t try_send(struct proa_port *port, struct proa_op *op, const struct handle *handle)
{
	struct iovec slices[SLICES_MOST];
	size_t bytes;
	bool more;
	int count;
	ssize_t n;

	if (handle->type == HANDLE_DATAGRAM) {
		struct msghdr message = { .msg_iov = slices };

		if (op->kind_ == PROA_OP_SENDV) {
			message.msg_iov = op->buffer_;
			message.msg_iovlen = op->length_;
		} else {
			slices[0].iov_base = op->buffer_;
			slices[0].iov_len = op->length_;
			message.msg_iovlen = 1;
		}
		if (op->kind_ == PROA_OP_SENDTO && op->argument_ != 0) {
			const struct proa_address *to =
				(const struct proa_address *)(uintptr_t)op->argument_;

			message.msg_name = (void *)(uintptr_t)&to->to;
			message.msg_namelen = to->length;
		}
		return send_message(port, handle, op->handle_, &message);
	}
	count = lane_gather(port, op, (struct proa_slice *)slices, SLICES_MOST, &bytes, &more);
	if (count == 0)
		return 0;
	n = write_some(port, handle, op->handle_, slices, count, more);
	if (n < 0 && errno == EAGAIN)
		return PROA_EAGAIN;
	return n < 0 ? failed() : (int32_t)n;
}

static int32_t try_sendmsg(struct proa_port *port, struct proa_op *op, const struct handle *handle)
{
	struct proa_message *message = op->buffer_;
	struct iovec slices[SLICES_MOST];
	struct msghdr m = { .msg_iov = slices };
	size_t bytes;
	bool more;

	if (handle->type == HANDLE_DATAGRAM) {
		m.msg_iov = (struct iovec *)message->slices;
		m.msg_iovlen = message->slice_count;
	} else {
		m.msg_iovlen = (size_t)lane_gather(
			port, op, (struct proa_slice *)slices, SLICES_MOST, &bytes, &more);
		if (m.msg_iovlen == 0)
			return 0;
	}
	if (message->peer.length > 0) {
		m.msg_name = &message->peer.to;
		m.msg_namelen = message->peer.length;
	}
	if (flight(op)->moved == 0) { /* the control data went with the first byte */
		m.msg_control = message->control;
		m.msg_controllen = message->control_length;
	}
	return send_message(port, handle, op->handle_, &m);
}

/* For descriptors that block, and those that sendfile(2) does not take. */
static ssize_t copy_some(struct proa_port *port, const struct handle *handle, int fd, int file,
	off_t from, size_t length)
{
	char bytes[COPY_CHUNK];
	struct iovec slice = { .iov_base = bytes };
	ssize_t n = pread(file, bytes, length < sizeof bytes ? length : sizeof bytes, from);

	if (n <= 0)
		return n;
	slice.iov_len = (size_t)n;
	return write_some(port, handle, fd, &slice, 1, false);
}

/* sendfile(2), of which every system has its own. EINVAL: not for these two. */
static ssize_t send_from_file(int fd, int file, off_t from, size_t length)
{
#if defined PROA_HAVE_SENDFILE_LINUX
	return sendfile(fd, file, &from, length);
#elif defined PROA_HAVE_SENDFILE_DARWIN || defined PROA_HAVE_SENDFILE_FREEBSD
	/* Both say how much went, also when they fail with EAGAIN or EINTR: sendfile(2)
	 * of macOS and of FreeBSD. Of another failure the count says nothing: FreeBSD
	 * does not write it where the file can't be had (sys/kern/kern_sendfile.c,
	 * sendfile()). A count of 0 would mean "to the end of the file". */
#	ifdef PROA_HAVE_SENDFILE_DARWIN
	off_t sent = (off_t)length;
	int result = sendfile(file, fd, from, &sent, NULL, 0);
#	else
	off_t sent = 0;
	int result = sendfile(file, fd, from, length, NULL, &sent, 0);
#	endif

	if (result == 0 || ((errno == EAGAIN || errno == EINTR) && sent > 0))
		return (ssize_t)sent;
	/* To a pipe, or from what is no regular file. */
	if (errno == ENOTSOCK || errno == ENOTSUP || errno == EOPNOTSUPP)
		errno = EINVAL;
	return -1;
#else
	(void)fd, (void)file, (void)from, (void)length;
	errno = EINVAL;
	return -1;
#endif
}

static int32_t try_sendfile(struct proa_port *port, struct proa_op *op, const struct handle *handle)
{
	const struct proa_range *range = op->buffer_;
	uint64_t moved = flight(op)->moved, left = range->length - moved;
	off_t from = (off_t)(range->offset + moved);
	size_t chunk = left < SENDFILE_CHUNK ? (size_t)left : SENDFILE_CHUNK;
	ssize_t n;

	if (left == 0)
		return 0;
	/* A page that is not in memory would block the port: a worker reads it. */
	if (!file_is_warm(range->file, (uint64_t)from, chunk)) {
		op->flags_ |= PROA_WARM_;
		return STEP_TO_WORKER;
	}
	do {
		port->stats.system_calls++;
		if (handle->state & HANDLE_BLOCKING) {
			n = copy_some(port, handle, op->handle_, range->file, from, chunk);
		} else {
			n = send_from_file(op->handle_, range->file, from, chunk);
			if (n < 0 && errno == EINVAL)
				n = copy_some(port, handle, op->handle_, range->file, from, chunk);
		}
	} while (n < 0 && errno == EINTR);
	if (n == 0)
		return PROA_EIO; /* the file is shorter */
	return n < 0 ? failed() : (int32_t)n;
}

/* ---- connections ---------------------------------------------------------------------- */

/* No connection ever comes to what does not listen: 0, or what accept(2) says of it. */
static int32_t accept_refusal(int fd)
{
	socklen_t length = sizeof(int);
	int listens = 0, type = 0;

	if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &length) < 0)
		return errno == ENOTSOCK ? PROA_ENOTSOCK : 0;
	if (listens || getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) < 0)
		return 0;
	return type == SOCK_DGRAM ? PROA_EOPNOTSUPP : PROA_EINVAL;
}

static int32_t try_accept(struct proa_port *port, struct proa_op *op, const struct handle *handle)
{
	struct proa_address *peer = op->kind_ == PROA_OP_ACCEPT ? op->buffer_ : NULL;
	socklen_t length = sizeof peer->to;
	int32_t result, refusal;
	int fd;

	if ((handle->state & HANDLE_BLOCKING) && is_ready(port, op->handle_, POLLIN) <= 0) {
		result = failed();
		refusal = accept_refusal(op->handle_);
		return refusal < 0 ? refusal : result;
	}
	port->stats.system_calls++;
	fd = unix_accept(
		op->handle_, peer == NULL ? NULL : &peer->to.any, peer == NULL ? NULL : &length);
	if (fd < 0)
		return failed();
	if (peer != NULL)
		peer->length = length;
	return fd;
}

static int connect_now(int fd, const struct proa_address *to, bool blocking)
{
	int flags = 0, result, error;

	/* connect(2) has no flag of its own. The socket of one who connects is
	 * hardly shared yet; it is as it was when this returns. */
	if (blocking) {
		flags = fcntl(fd, F_GETFL);
		fcntl(fd, F_SETFL, flags | O_NONBLOCK);
	}
	result = connect(fd, &to->to.any, to->length);
	error = errno;
	if (blocking)
		fcntl(fd, F_SETFL, flags);
	errno = error;
	return result;
}

static int32_t try_connect(
	struct proa_port *port, struct proa_op *op, const struct handle *handle, bool told)
{
	const struct proa_address *to = op->buffer_;
	int fd = attempt_descriptor(op), error = 0;
	socklen_t length = sizeof error;

	port->stats.system_calls++;
	if ((op->options_ & OPT_CONNECTING) == 0) {
		bool blocking = op->kind_ == PROA_OP_CONNECT && (handle->state & HANDLE_BLOCKING);

		if (connect_now(fd, to, blocking) == 0)
			return 0;
		if (errno == EAGAIN)
			return STEP_LATER; /* a UNIX listener's backlog is full */
		if (errno != EINPROGRESS && errno != EINTR)
			return failed();
		op->options_ |= OPT_CONNECTING;
		return PROA_EAGAIN;
	}
	if (!told && is_ready(port, fd, POLLOUT) <= 0)
		return failed();
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0)
		return failed();
	if (error != 0)
		return unix_error(error);
	/* The call that finds it connected also settles it: without, the next
	 * connect(2) of the program would succeed. */
	do
		error = connect(fd, &to->to.any, to->length);
	while (error < 0 && errno == EINTR);
	if (error == 0 || errno == EISCONN)
		return 0;
	return errno == EALREADY || errno == EINPROGRESS ? PROA_EAGAIN : failed();
}

static int32_t try_shutdown(struct proa_port *port, struct proa_op *op)
{
	port->stats.system_calls++;
	return shutdown(op->handle_, SHUT_WR) == 0 ? 0 : failed();
}

/* ---- readiness itself -------------------------------------------------------------------- */

int32_t attempt_poll_result(short revents)
{
	return (int32_t)(((revents & (POLLIN | POLLRDHUP)) ? PROA_READABLE : 0u) |
			 ((revents & POLLOUT) ? PROA_WRITABLE : 0u) |
			 ((revents & (POLLHUP | POLLERR)) ? PROA_HANGUP : 0u));
}

static int32_t try_poll(struct proa_port *port, struct proa_op *op)
{
	struct pollfd p = { .fd = op->handle_, .events = attempt_events(op) };

	if (look(port, &p) <= 0)
		return failed();
	return (p.revents & POLLNVAL) ? PROA_EBADF : attempt_poll_result(p.revents);
}

static int32_t try_child(struct proa_port *port, struct proa_op *op)
{
	port->stats.system_calls++;
	return unix_reap((proa_process)op->argument_, op->buffer_, attempt_private(op));
}

/* ---- what an engine calls ------------------------------------------------------------------- */

int attempt_descriptor(const struct proa_op *op)
{
	return op->kind_ == PROA_OP_DIAL || op->kind_ == PROA_OP_CHILD ? attempt_private(op)
								       : op->handle_;
}

short attempt_events(const struct proa_op *op)
{
	switch (op->kind_) {
	case PROA_OP_POLL:
	case PROA_OP_POLL_MULTI:
		return (short)(((op->flags_ & PROA_READABLE) ? POLLIN | POLLRDHUP : 0) |
			       ((op->flags_ & PROA_WRITABLE) ? POLLOUT : 0));
	case PROA_OP_ACCEPT:
	case PROA_OP_ACCEPT_MULTI:
	case PROA_OP_CHILD:
		return POLLIN;
	default:
		return op_receives(op) ? POLLIN : POLLOUT;
	}
}

static int private_prepare(struct proa_port *port, struct proa_op *op, int fd)
{
	struct handle *handle;
	int error;

	if (fd < 0)
		return fd;
	error = handle_get(port, fd, &handle);
	if (error < 0) {
		port->stats.system_calls++;
		close(fd);
		return error;
	}
	if (handle->state != 0 || handle->engine != 0)
		handle_forget(port, fd, handle);
	handle->state = HANDLE_PRIVATE;
	handle->sends = op;
	op->length_ = (size_t)fd + 1;
	return 0;
}

int attempt_prepare(struct proa_port *port, struct proa_op *op)
{
	const struct proa_address *to = op->buffer_;

	port->stats.system_calls++;
	if (op->kind_ == PROA_OP_DIAL)
		return private_prepare(port, op, unix_socket(to->to.any.sa_family, SOCK_STREAM));
	return private_prepare(port, op, unix_child_open((proa_process)op->argument_));
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
	if (op->kind_ == PROA_OP_CHILD)
		unix_child_close(fd);
	else
		close(fd);
}

int32_t attempt(struct proa_port *port, struct proa_op *op, bool told, uint32_t *flags)
{
	struct handle *handle = handle_find(port, op->handle_);

	switch (op->kind_) {
	case PROA_OP_RECV:
	case PROA_OP_RECVFROM:
		return try_recv(port, op, handle);
	case PROA_OP_RECVMSG:
		return try_recvmsg(port, op);
	case PROA_OP_RECV_LENT:
	case PROA_OP_RECV_MULTI:
		return attempt_lent(port, op, handle, told, flags);
	case PROA_OP_SEND:
	case PROA_OP_SENDV:
	case PROA_OP_SENDTO:
		return try_send(port, op, handle);
	case PROA_OP_SENDMSG:
		return try_sendmsg(port, op, handle);
	case PROA_OP_SENDFILE:
		return try_sendfile(port, op, handle);
	case PROA_OP_SHUTDOWN:
		return try_shutdown(port, op);
	case PROA_OP_ACCEPT:
	case PROA_OP_ACCEPT_MULTI:
		return try_accept(port, op, handle);
	case PROA_OP_CONNECT:
	case PROA_OP_DIAL:
		return try_connect(port, op, handle, told);
	case PROA_OP_CHILD:
		return try_child(port, op);
	default:
		return try_poll(port, op);
	}
}

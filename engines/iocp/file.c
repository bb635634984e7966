/* Files and pipes that were opened to overlap; the others go to workers. And
 * sendfile, of TransmitFile(). */
#include "engines/iocp/iocp.h"

#include <ntstatus.h>
#include <stdlib.h>

#include "engines/windows/file.h"

#define PART       (16u << 20) /* of a file, in one call */
#define PIPE_PART  (64u * 1024) /* a pipe's call tells of no progress until all is done */
#define COPY_PART  (64u * 1024)
#define SEND_PART  (1u << 20)
#define SEND_TIMED (64u * 1024) /* ... where limits in time wait for progress */

static uint32_t at_most(uint64_t length, uint32_t most)
{
	return length < most ? (uint32_t)length : most;
}

/* ---- the calls ---------------------------------------------------------------------- */

static bool is_read(const struct proa_op *op)
{
	return op->kind_ == PROA_OP_READ || op->kind_ == PROA_OP_READV || op_receives(op);
}

/* The writer of a pipe has gone: that is its end. */
int32_t file_failed(const struct proa_op *op, DWORD code)
{
	if (is_read(op) && (code == ERROR_BROKEN_PIPE || code == ERROR_PIPE_NOT_CONNECTED ||
				   code == ERROR_NO_DATA))
		return 0;
	return file_error(op->handle_, code);
}

/* A part of a pipe's message is a warning: the rest comes with the next. */
int32_t finish_file(const struct proa_op *op, NTSTATUS status, uint32_t bytes)
{
	if (!NT_ERROR(status) || (bytes > 0 && status == STATUS_CANCELLED))
		return (int32_t)bytes;
	return file_failed(op, RtlNtStatusToDosError(status));
}

static int32_t transfer(struct proa_port *port, struct proa_op *op, struct handle *handle,
	struct request *request, void *bytes, uint32_t length, bool writing)
{
	HANDLE file = windows_handle_of(op->handle_);
	DWORD n = 0;
	BOOL good = writing ? WriteFile(file, bytes, length, &n, &request->overlapped)
			    : ReadFile(file, bytes, length, &n, &request->overlapped);

	return request_made(port, handle, request, good ? NO_ERROR : GetLastError(), n);
}

/* ---- files -------------------------------------------------------------------------- */

/* One slice in a call: those that take several want whole pages (ReadFileScatter()). */
int32_t start_file(struct proa_port *port, struct proa_op *op, struct handle *handle)
{
	struct proa_slice slice;
	struct request *request;
	uint64_t offset;
	size_t bytes;
	bool more;

	if (handle->engine & I_SYNC)
		return STEP_TO_WORKER;
	offset = op->argument_ + flight(op)->moved;
	if (op->argument_ > INT64_MAX - 0x7fffffff)
		return PROA_EINVAL;
	if (lane_gather(port, op, &slice, 1, &bytes, &more) == 0)
		return 0;
	request = request_take(iocp_of(port), op, REQUEST_OP, op->handle_, false);
	if (request == NULL)
		return PROA_ENOMEM;
	request->overlapped.Offset = (DWORD)offset;
	request->overlapped.OffsetHigh = (DWORD)(offset >> 32);
	return transfer(port, op, handle, request, slice.data, at_most(slice.length, PART),
		op->kind_ == PROA_OP_WRITE || op->kind_ == PROA_OP_WRITEV);
}

/* ---- pipes --------------------------------------------------------------------------- */

/* How much is there; 0: nothing yet. An error: the end, or no end of it to read. */
static int32_t pipe_holds(const struct proa_op *op, DWORD *bytes)
{
	return PeekNamedPipe(windows_handle_of(op->handle_), NULL, 0, NULL, bytes, NULL)
		       ? 0
		       : file_error(op->handle_, GetLastError());
}

/* Reads what is there already, without a packet: the lowest bit of its event says
 * that the completion port is not to be told (GetQueuedCompletionStatus()). */
static int32_t read_now(struct iocp *iocp, const struct proa_op *op, void *bytes, DWORD length)
{
	HANDLE pipe = windows_handle_of(op->handle_);
	OVERLAPPED overlapped = { .Internal = 0 };
	DWORD done = 0, code = NO_ERROR;

	if (iocp->event == NULL && (iocp->event = CreateEventW(NULL, TRUE, FALSE, NULL)) == NULL)
		return windows_error();
	overlapped.hEvent = (HANDLE)((uintptr_t)iocp->event | 1);
	if (!ReadFile(pipe, bytes, length, NULL, &overlapped))
		code = GetLastError();
	if (code == ERROR_IO_PENDING)
		WaitForSingleObject(iocp->event, INFINITE);
	else if (code != NO_ERROR && code != ERROR_MORE_DATA)
		return file_failed(op, code);
	if (!GetOverlappedResult(pipe, &overlapped, &done, FALSE) &&
		GetLastError() != ERROR_MORE_DATA)
		return file_failed(op, GetLastError());
	return (int32_t)(done > 0 ? done : (DWORD)overlapped.InternalHigh);
}

/* A read of no bytes has ended: into a buffer, then. What is there comes at once. */
int32_t lend_from_pipe(struct proa_port *port, struct proa_op *op, uint32_t *flags)
{
	struct proa_pool *pool = op->buffer_;
	struct proa_buffer *buffer;
	DWORD bytes = 0;
	int32_t result = pipe_holds(op, &bytes);

	port->stats.system_calls++;
	if (result == 0 && bytes == 0)
		return PROA_EAGAIN;
	if (result < 0)
		return result == PROA_EPIPE ? 0 : result;
	buffer = pool_take_free(pool);
	if (buffer == NULL)
		return STEP_NO_BUFFER;
	port->stats.system_calls++;
	result = read_now(iocp_of(port), op, buffer->data, at_most(bytes, buffer->size));
	if (result <= 0) {
		pool_put_free(pool, buffer);
		return result;
	}
	buffer->length = (uint32_t)result;
	*flags = LENT_FLAGS(pool_id(buffer));
	return result;
}

static int32_t start_pipe_lent(
	struct proa_port *port, struct proa_op *op, struct handle *handle, uint32_t *flags)
{
	static char nowhere;
	struct request *request;
	int32_t result;

	do {
		request = request_take(iocp_of(port), op, REQUEST_WAIT, op->handle_, false);
		if (request == NULL)
			return PROA_ENOMEM;
		result = transfer(port, op, handle, request, &nowhere, 0, false);
		if (result == 0)
			result = lend_from_pipe(port, op, flags);
	} while (result == PROA_EAGAIN);
	return result;
}

/* A worker waits, without a buffer; then one reads into a buffer. Here no call is made
 * on the pipe: it would wait for those of workers, as all do on a pipe that does not
 * overlap. */
static int32_t start_sync_lent(struct proa_op *op)
{
	struct proa_buffer *buffer;

	if ((op->options_ & I_TOLD) == 0) {
		op->options_ |= I_TOLD;
		op->length_ = 0;
		return STEP_TO_WORKER;
	}
	op->options_ &= (uint16_t)~I_TOLD;
	buffer = pool_take_free(op->buffer_);
	if (buffer == NULL)
		return STEP_NO_BUFFER;
	op->length_ = (size_t)(uintptr_t)buffer;
	return STEP_TO_WORKER;
}

static int32_t pipe_move(struct proa_port *port, struct proa_op *op, struct handle *handle,
	struct proa_slice slice, bool writing)
{
	struct request *request = request_take(iocp_of(port), op, REQUEST_OP, op->handle_, false);

	if (request == NULL)
		return PROA_ENOMEM;
	return transfer(port, op, handle, request, slice.data,
		at_most(slice.length, writing ? PIPE_PART : PART), writing);
}

int32_t start_pipe(
	struct proa_port *port, struct proa_op *op, struct handle *handle, uint32_t *flags)
{
	size_t bytes, moved = (size_t)flight(op)->moved;
	struct proa_slice slice;
	bool more;

	if (handle->engine & I_SYNC)
		return op_lends(op) ? start_sync_lent(op) : STEP_TO_WORKER;
	switch (op->kind_) {
	case PROA_OP_RECV:
		slice.data = (char *)op->buffer_ + moved;
		slice.length = (uint32_t)(op->length_ - moved);
		return pipe_move(port, op, handle, slice, false);
	case PROA_OP_RECV_LENT:
	case PROA_OP_RECV_MULTI:
		return start_pipe_lent(port, op, handle, flags);
	case PROA_OP_SEND:
	case PROA_OP_SENDV:
		if (lane_gather(port, op, &slice, 1, &bytes, &more) == 0)
			return 0;
		return pipe_move(port, op, handle, slice, true);
	case PROA_OP_SENDFILE:
		return start_sendfile(port, op, handle);
	default:
		return PROA_ENOTSOCK;
	}
}

/* ---- sendfile ---------------------------------------------------------------------------- */

/* 0 or an error. */
static int transmit_function(
	struct iocp *iocp, int fd, const struct handle *handle, LPFN_TRANSMITFILE *call)
{
	static const GUID which = WSAID_TRANSMITFILE;
	void *function;
	int error = 0;

	*call = iocp->transmit;
	if (*call == NULL || (handle->engine & I_IFS) == 0) {
		error = windows_extension(fd, &which, &function);
		*call = (LPFN_TRANSMITFILE)function;
	}
	if (handle->engine & I_IFS)
		iocp->transmit = *call;
	return error;
}

/* Pipes have no call for it: what is read here is written as a send is. The bytes
 * go with their request. */
static int32_t copy_part(struct proa_port *port, struct proa_op *op, struct handle *handle,
	uint64_t from, uint32_t length)
{
	const struct proa_range *range = op->buffer_;
	struct request *request = request_take(iocp_of(port), op, REQUEST_OP, op->handle_, true);
	struct large *large = (struct large *)request;
	int32_t n;

	if (request == NULL)
		return PROA_ENOMEM;
	large->is.bytes = malloc(length);
	request->marks |= MARK_BYTES;
	n = large->is.bytes == NULL
		    ? PROA_ENOMEM
		    : windows_read_at((int)range->file, from, large->is.bytes, length);
	if (n <= 0) {
		request_put(iocp_of(port), request);
		return n;
	}
	return transfer(port, op, handle, request, large->is.bytes, (uint32_t)n, true);
}

static int32_t transmit(struct proa_port *port, struct proa_op *op, struct handle *handle,
	uint64_t from, uint32_t length)
{
	const struct proa_range *range = op->buffer_;
	LPFN_TRANSMITFILE call;
	int error = transmit_function(iocp_of(port), op->handle_, handle, &call);
	struct request *request;
	BOOL good;

	if (error < 0)
		return error;
	request = request_take(iocp_of(port), op, REQUEST_OP, op->handle_, false);
	if (request == NULL)
		return PROA_ENOMEM;
	request->overlapped.Offset = (DWORD)from;
	request->overlapped.OffsetHigh = (DWORD)(from >> 32);
	good = call(windows_socket_of(op->handle_), windows_handle_of((int)range->file), length, 0,
		&request->overlapped, NULL, 0);
	/* Where a packet follows, it may have been taken, and the request with it. */
	return request_made(port, handle, request, good ? NO_ERROR : (DWORD)WSAGetLastError(),
		good && (handle->engine & I_SKIPS) ? (DWORD)request->overlapped.InternalHigh : 0);
}

/* The file is asked for its size before each part: past its end TransmitFile()
 * would send what there is and call that all of it. */
int32_t start_sendfile(struct proa_port *port, struct proa_op *op, struct handle *handle)
{
	const struct proa_range *range = op->buffer_;
	uint64_t moved = flight(op)->moved, left = range->length - moved,
		 from = range->offset + moved, there;
	LARGE_INTEGER size;

	if (left == 0)
		return 0;
	port->stats.system_calls++;
	if (!GetFileSizeEx(windows_handle_of((int)range->file), &size))
		return file_error(range->file, GetLastError());
	if (from >= (uint64_t)size.QuadPart)
		return PROA_EIO;
	there = (uint64_t)size.QuadPart - from;
	left = left < there ? left : there;
	if (handle->type == HANDLE_PIPE)
		return copy_part(port, op, handle, from, at_most(left, COPY_PART));
	return transmit(port, op, handle, from,
		at_most(left, op->timeout_ != PROA_FOREVER || (handle->state & HANDLE_FLUSHING)
				      ? SEND_TIMED
				      : SEND_PART));
}

/* Files, pipes and consoles as streams, for worker threads: receives, sends, sendfile.
 *
 * An overlapped file has no position that the system moves; the one that
 * SetFilePointerEx() keeps is moved by us, so that receives and sends read and write on
 * as they do elsewhere. */
#include "engines/windows/file.h"
#include "engines/windows/transfer.h"

/* Room for copies, on the stack of a worker. */
#define FILE_ROOM (32u * 1024)

/* The file's own position; 0 for what has none. */
static int position_get(HANDLE file, uint64_t *position)
{
	const LARGE_INTEGER zero = { .QuadPart = 0 };
	LARGE_INTEGER now;

	*position = 0;
	if (!file_has_places(file))
		return 0;
	if (!SetFilePointerEx(file, zero, &now, FILE_CURRENT))
		return windows_error();
	*position = (uint64_t)now.QuadPart;
	return 0;
}

/* A handle without the right to write at a place is at the end after each write. */
static void position_move(HANDLE file, uint64_t position, uint64_t moved)
{
	LARGE_INTEGER to;

	if (!file_has_places(file) || moved == 0)
		return;
	to.QuadPart = (LONGLONG)(position + moved);
	SetFilePointerEx(file, to, NULL, FILE_BEGIN);
}

static int32_t stream_run(struct proa_op *op, bool vector, bool writing, bool whole, bool stay)
{
	const HANDLE file = windows_handle_of(op->handle_);
	uint64_t before = flight(op)->moved, start;
	struct transfer transfer;
	struct waiter waiter;
	int32_t result;

	result = transfer_init(&transfer, op, vector, stay);
	if (result < 0)
		return result;
	transfer.writing = writing;
	transfer.whole = whole;
	if (!transfer.placed) {
		waiter_begin(&waiter, op);
		transfer.waiter = &waiter;
	}
	result = position_get(file, &start);
	if (result == 0) {
		transfer.offset =
			start - before; /* transfer_run() counts from the op's beginning */
		result = transfer_run(op, &transfer);
		if (!stay)
			position_move(file, start, flight(op)->moved - before);
	}
	if (transfer.waiter != NULL)
		waiter_end(&waiter);
	transfer_close(&transfer);
	return result;
}

/* Without an offset a pipe has nothing to go back to. */
int32_t file_receive(struct proa_op *op)
{
	bool peek = (op->flags_ & PROA_PEEK) != 0;

	if (peek && GetFileType(windows_handle_of(op->handle_)) != FILE_TYPE_DISK)
		return PROA_ESPIPE;
	return stream_run(op, false, false, (op->flags_ & PROA_ALL) != 0, peek);
}

/* A read of no bytes ends when there is something, or the writer has gone. A write of
 * none ends it too: so it looks. */
static int32_t wait_readable(const struct transfer *transfer)
{
	char nowhere;
	DWORD there = 0;
	int32_t result;

	do {
		result = transfer_once(transfer, &nowhere, 0, 0);
		if (result < 0)
			return result;
		if (!PeekNamedPipe(transfer->file, NULL, 0, NULL, &there, NULL))
			return GetLastError() == ERROR_BROKEN_PIPE
				       ? 0
				       : file_error(windows_file(transfer->file), GetLastError());
	} while (there == 0);
	return FILE_READABLE;
}

/* See FILE_READABLE. */
int32_t file_receive_lent(struct proa_op *op)
{
	struct proa_buffer *buffer = (struct proa_buffer *)(uintptr_t)op->length_;
	struct transfer transfer = { .file = windows_handle_of(op->handle_) };
	struct waiter waiter;
	int32_t result;

	if (GetFileType(transfer.file) != FILE_TYPE_PIPE)
		return PROA_EOPNOTSUPP; /* nothing tells of a console's bytes */
	result = transfer_open(&transfer, false);
	if (result < 0)
		return result;
	waiter_begin(&waiter, op);
	transfer.waiter = &waiter;
	result = buffer == NULL ? wait_readable(&transfer)
				: transfer_once(&transfer, buffer->data, buffer->size, 0);
	waiter_end(&waiter);
	transfer_close(&transfer);
	return result;
}

int32_t file_send(struct proa_op *op, bool vector)
{
	return stream_run(op, vector, true, (op->flags_ & PROA_SOME) == 0, false);
}

/* Through memory of ours. Bytes copied, 0 at the end of the source, or an error. What
 * was read but not written stays unread: the next call reads it again. */
static int32_t copy_once(
	const struct transfer *from, const struct transfer *to, uint64_t done, uint64_t length)
{
	char room[FILE_ROOM];
	int32_t got = transfer_once(from, room,
		length < sizeof room ? (uint32_t)length : sizeof room, from->offset + done);

	return got > 0 ? transfer_once(to, room, (uint32_t)got, to->offset) : got;
}

static int32_t copy_all(struct proa_op *op, const struct transfer *from, struct transfer *to)
{
	const struct proa_range *range = op->buffer_;
	uint64_t *moved = &flight(op)->moved;

	while (*moved < range->length) {
		int32_t done = copy_once(from, to, *moved, range->length - *moved);

		if (done < 0)
			return done;
		if (done == 0) /* the file is shorter */
			return PROA_EIO;
		*moved += (uint32_t)done;
		position_move(to->file, to->offset, (uint32_t)done);
		to->offset += (uint32_t)done;
	}
	return *moved < INT32_MAX ? (int32_t)*moved : INT32_MAX;
}

static int32_t send_opened(struct proa_op *op, struct transfer *from, struct transfer *to)
{
	struct waiter waiter;
	int32_t result = position_get(to->file, &to->offset);

	if (result < 0)
		return result;
	if (!to->placed) {
		waiter_begin(&waiter, op);
		to->waiter = &waiter;
	}
	result = copy_all(op, from, to);
	if (to->waiter != NULL)
		waiter_end(&waiter);
	return result;
}

int32_t file_send_range(struct proa_op *op)
{
	const struct proa_range *range = op->buffer_;
	struct transfer from = { .file = windows_handle_of((int)range->file), .placed = true };
	struct transfer to = { .file = windows_handle_of(op->handle_), .writing = true };
	int32_t result;

	if (range->offset > INT64_MAX || range->length > INT64_MAX - range->offset)
		return PROA_EINVAL;
	result = file_check_place((int)range->file, 0);
	if (result < 0)
		return result;
	from.offset = range->offset;
	to.placed = file_has_places(to.file);
	result = transfer_open(&from, true);
	if (result < 0)
		return result;
	result = transfer_open(&to, false);
	if (result == 0) {
		result = send_opened(op, &from, &to);
		transfer_close(&to);
	}
	transfer_close(&from);
	return result;
}

/* The part of the file that comes next, for a sendfile to what is no file: read, so
 * that it is in the system's cache. */
int32_t file_warm(const struct proa_op *op)
{
	const struct proa_range *range = op->buffer_;
	struct transfer from = { .file = windows_handle_of((int)range->file), .placed = true };
	uint64_t offset = range->offset + flight(op)->moved;
	uint64_t left = range->length - flight(op)->moved;
	char room[FILE_ROOM];
	int32_t got = file_check_place((int)range->file, 0);

	if (got == 0 && (offset > INT64_MAX || left > INT64_MAX - offset))
		got = PROA_EINVAL;
	if (got < 0)
		return got;
	got = transfer_open(&from, true);
	if (got < 0)
		return got;
	if (left > PROA_WARM_BYTES)
		left = PROA_WARM_BYTES; /* what is sent before a worker is asked again */
	while (left > 0) {
		got = transfer_once(
			&from, room, left < sizeof room ? (uint32_t)left : sizeof room, offset);
		if (got <= 0)
			break;
		offset += (uint32_t)got;
		left -= (uint32_t)got;
	}
	transfer_close(&from);
	return got < 0 ? got : FILE_WARMED;
}

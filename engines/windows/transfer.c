/* Bytes of files, pipes and consoles by single calls of the system's, for worker
 * threads, which wait for the end of each.
 *
 * Files are opened for overlapped access, so that a completion port can have them.
 * Here each call waits for its own end by an event, whose lowest bit keeps the
 * packet off the port (GetQueuedCompletionStatus()). */
#include "engines/windows/transfer.h"

#include <string.h>

#include "engines/windows/file.h"
#include <winternl.h> /* after windows.h */
#include "lib/thread.h"
#include "lib/workers.h"

/* What one call moves to or from a pipe: it tells of no progress until all is done. */
#define PIPE_PART (16u * 1024)

/* ---- waits that may have no end --------------------------------------------------- */

static struct waiter *waiters;
static thread_mutex waiters_lock = THREAD_MUTEX;

/* The op may have been cancelled since a worker took it: it would not be found here. */
void waiter_begin(struct waiter *waiter, const struct proa_op *op)
{
	memset(waiter, 0, sizeof *waiter);
	waiter->op = op;
	waiter->file = windows_handle_of(op->handle_);
	waiter->thread = OpenThread(THREAD_TERMINATE, FALSE, GetCurrentThreadId());
	mutex_lock(&waiters_lock);
	waiter->next = waiters;
	waiters = waiter;
	waiter->interrupted = (op->options_ & OPT_CANCEL) != 0;
	mutex_unlock(&waiters_lock);
	if (op->port != NULL)
		workers_wait(op->port, true);
}

void waiter_end(struct waiter *waiter)
{
	struct waiter **link;

	mutex_lock(&waiters_lock);
	for (link = &waiters; *link != waiter;)
		link = &(*link)->next;
	*link = waiter->next;
	mutex_unlock(&waiters_lock);
	if (waiter->thread != NULL)
		CloseHandle(waiter->thread);
	if (waiter->op->port != NULL)
		workers_wait(waiter->op->port, false);
}

/* False: it is not to begin another call. */
static bool waiter_enter(struct waiter *waiter, OVERLAPPED *overlapped)
{
	bool on;

	if (waiter == NULL)
		return true;
	mutex_lock(&waiters_lock);
	on = !waiter->interrupted;
	waiter->overlapped = on ? overlapped : NULL;
	mutex_unlock(&waiters_lock);
	return on;
}

static void waiter_leave(struct waiter *waiter)
{
	if (waiter == NULL)
		return;
	mutex_lock(&waiters_lock);
	waiter->overlapped = NULL;
	mutex_unlock(&waiters_lock);
}

/* True: the op's worker is in a call that could not be cancelled: it is about to make
 * it, or has just returned. */
static bool interrupt(const struct proa_op *op)
{
	struct waiter *waiter;
	bool missed = false;

	mutex_lock(&waiters_lock);
	for (waiter = waiters; waiter != NULL && waiter->op != op;)
		waiter = waiter->next;
	if (waiter != NULL) {
		waiter->interrupted = true;
		missed = waiter->overlapped != NULL &&
			 (waiter->thread == NULL || !CancelSynchronousIo(waiter->thread)) &&
			 !CancelIoEx(waiter->file, waiter->overlapped);
	}
	mutex_unlock(&waiters_lock);
	return missed;
}

void file_interrupt(const struct proa_op *op)
{
	for (int i = 0; i < 100 && interrupt(op); i++)
		Sleep(1);
}

/* ---- single calls ------------------------------------------------------------------ */

/* A handle that others have opened, most often: it has a position, which every access
 * moves, at an offset or not. */
static bool is_synchronous(HANDLE file)
{
	IO_STATUS_BLOCK io;
	ULONG mode = 0;

	/* 16: FileModeInformation; the flags are FILE_SYNCHRONOUS_IO_ALERT and _NONALERT. */
	return NtQueryInformationFile(file, &io, &mode, sizeof mode, (FILE_INFORMATION_CLASS)16) >=
		       0 &&
	       (mode & 0x30) != 0;
}

int transfer_open(struct transfer *transfer, bool apart)
{
	const LARGE_INTEGER here = { .QuadPart = 0 };

	transfer->event = CreateEventW(NULL, TRUE, FALSE, NULL);
	if (transfer->event == NULL)
		return PROA_ENOMEM;
	if (!apart || !transfer->placed || !is_synchronous(transfer->file))
		return 0;
	transfer->reopened =
		file_reopen(transfer->file, file_access(transfer->file), FILE_FLAG_OVERLAPPED);
	if (transfer->reopened != NULL)
		transfer->file = transfer->reopened;
	else
		transfer->keeps =
			SetFilePointerEx(transfer->file, here, &transfer->position, FILE_CURRENT);
	return 0;
}

void transfer_close(const struct transfer *transfer)
{
	if (transfer->keeps)
		SetFilePointerEx(transfer->file, transfer->position, NULL, FILE_BEGIN);
	if (transfer->reopened != NULL)
		CloseHandle(transfer->reopened);
	CloseHandle(transfer->event);
}

int32_t transfer_once(
	const struct transfer *transfer, void *bytes, uint32_t length, uint64_t offset)
{
	OVERLAPPED overlapped;
	DWORD done = 0, code;
	BOOL good;

	memset(&overlapped, 0, sizeof overlapped);
	if (transfer->placed) {
		overlapped.Offset = (DWORD)offset;
		overlapped.OffsetHigh = (DWORD)(offset >> 32);
	}
	overlapped.hEvent = (HANDLE)((uintptr_t)transfer->event | 1);
	if (!waiter_enter(transfer->waiter, &overlapped))
		return PROA_ECANCELED;
	good = transfer->writing ? WriteFile(transfer->file, bytes, length, NULL, &overlapped)
				 : ReadFile(transfer->file, bytes, length, NULL, &overlapped);
	if (good || GetLastError() == ERROR_IO_PENDING) {
		if (!good)
			WaitForSingleObject(transfer->event, INFINITE);
		good = GetOverlappedResult(transfer->file, &overlapped, &done, FALSE);
	}
	code = good ? NO_ERROR : GetLastError();
	waiter_leave(transfer->waiter);
	if (good)
		return (int32_t)done;
	/* A part of a pipe's message: the rest comes next. Or what went before the cancel. */
	if (code == ERROR_MORE_DATA ||
		(code == ERROR_OPERATION_ABORTED && overlapped.InternalHigh > 0))
		return (int32_t)overlapped.InternalHigh;
	if (code == ERROR_BROKEN_PIPE && !transfer->writing)
		return 0;
	return file_error(windows_file(transfer->file), code);
}

/* The buffer after the first `skip` bytes. */
static struct proa_slice slice_after(const struct transfer *transfer, uint64_t skip)
{
	const struct proa_slice *slice = transfer->slices;
	struct proa_slice rest;

	while (skip >= slice->length) {
		skip -= slice->length;
		slice++;
	}
	rest.data = (char *)slice->data + skip;
	rest.length = slice->length - (uint32_t)skip;
	return rest;
}

/* The bytes after the first `skip`, as many as there is room for. */
static uint32_t gather(const struct transfer *transfer, uint64_t skip, char *room, uint32_t size)
{
	const struct proa_slice *slice = transfer->slices;
	uint32_t done = 0, n;

	for (size_t i = 0; i < transfer->count && done < size; i++, slice++) {
		if (skip >= slice->length) {
			skip -= slice->length;
			continue;
		}
		n = slice->length - (uint32_t)skip;
		if (n > size - done)
			n = size - done;
		memcpy(room + done, (char *)slice->data + skip, n);
		done += n;
		skip = 0;
	}
	return done;
}

/* One call for what comes after the first `moved` bytes. To a pipe small slices go
 * together, and large ones by parts. */
static int32_t move_next(const struct transfer *transfer, uint64_t moved)
{
	struct proa_slice rest = slice_after(transfer, moved);
	char room[PIPE_PART];

	if (transfer->placed)
		return transfer_once(transfer, rest.data, rest.length, transfer->offset + moved);
	if (transfer->writing && transfer->count > 1 && rest.length < PIPE_PART) {
		rest.length = gather(transfer, moved, room, sizeof room);
		rest.data = room;
	}
	return transfer_once(
		transfer, rest.data, rest.length < PIPE_PART ? rest.length : PIPE_PART, 0);
}

int32_t transfer_run(struct proa_op *op, const struct transfer *transfer)
{
	uint64_t *moved = &flight(op)->moved;

	while (*moved < transfer->total) {
		int32_t done = move_next(transfer, *moved);

		if (done < 0)
			return done;
		if (done == 0 && transfer->writing)
			return PROA_EIO;
		if (done == 0)
			break;
		*moved += (uint32_t)done;
		if (!transfer->whole)
			break;
	}
	return (int32_t)*moved;
}

int transfer_init(struct transfer *transfer, const struct proa_op *op, bool vector, bool apart)
{
	memset(transfer, 0, sizeof *transfer);
	transfer->file = windows_handle_of(op->handle_);
	transfer->placed = file_has_places(transfer->file);
	transfer->whole = true;
	transfer->slices = op->buffer_;
	transfer->count = op->length_;
	if (!vector) {
		if (op->length_ > FILE_MOST)
			return PROA_EINVAL;
		transfer->single.data = op->buffer_;
		transfer->single.length = (uint32_t)op->length_;
		transfer->slices = &transfer->single;
		transfer->count = 1;
	}
	for (size_t i = 0; i < transfer->count; i++) {
		if (transfer->slices[i].length > FILE_MOST - transfer->total)
			return PROA_EINVAL;
		transfer->total += transfer->slices[i].length;
	}
	return transfer_open(transfer, apart);
}

int32_t transfer_at_offset(struct proa_op *op, bool vector, bool writing)
{
	struct transfer transfer;
	int32_t result = file_check_place(op->handle_, op->argument_);

	if (result == 0)
		result = transfer_init(&transfer, op, vector, true);
	if (result < 0)
		return result;
	transfer.offset = op->argument_;
	transfer.writing = writing;
	result = transfer_run(op, &transfer);
	transfer_close(&transfer);
	return result;
}

int32_t windows_read_at(int file, uint64_t offset, void *buffer, uint32_t length)
{
	struct transfer transfer = { .file = windows_handle_of(file), .placed = true };
	int32_t result = file_check_place(file, offset);

	if (result < 0)
		return result;
	result = transfer_open(&transfer, true);
	if (result < 0)
		return result;
	result = transfer_once(&transfer, buffer, length < FILE_MOST ? length : FILE_MOST, offset);
	transfer_close(&transfer);
	return result;
}

/* Operations on files, for worker threads: each done here and now, by whatever calls
 * it takes.
 *
 * Files are opened for overlapped access, so that a completion port can have them.
 * Here each call waits for its own end by an event, whose lowest bit keeps the
 * packet off the port (GetQueuedCompletionStatus()). An overlapped file has no
 * position that the system moves; the one that SetFilePointerEx() keeps is moved by
 * us, so that receives and sends read and write on as they do elsewhere. */
#include "engines/windows/file.h"

#include <stdlib.h>
#include <string.h>
#include <wchar.h>

#include "engines/windows/path.h"
#include "engines/windows/windows.h"
#include <winternl.h> /* after windows.h */
#include "lib/thread.h"
#include "lib/workers.h"

/* The most that one operation moves (rule 7). */
#define FILE_MOST 0x7ffff000u
/* Room for copies, on the stack of a worker. */
#define FILE_ROOM (32u * 1024)
/* What one call moves to or from a pipe: it tells of no progress until all is done. */
#define PIPE_PART (16u * 1024)

/* Nobody is kept from what we have open: as on other systems. */
#define SHARE_ALL (FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE)

/* POSIX's file types and permissions, of which the C runtime here knows a part. */
#define MODE_FIFO      0010000u
#define MODE_CHARACTER 0020000u
#define MODE_DIRECTORY 0040000u
#define MODE_REGULAR   0100000u
#define MODE_SOCKET    0140000u

/* Of Windows 10 1607 and 1809, which older headers lack. */
#define DISPOSITION_INFO_EX ((FILE_INFO_BY_HANDLE_CLASS)21)
#define RENAME_INFO_EX      ((FILE_INFO_BY_HANDLE_CLASS)22)
#ifndef FILE_DISPOSITION_FLAG_IGNORE_READONLY_ATTRIBUTE
#	define FILE_DISPOSITION_FLAG_IGNORE_READONLY_ATTRIBUTE 0x10
#endif

static bool is_directory(HANDLE file)
{
	BY_HANDLE_FILE_INFORMATION facts;

	return GetFileType(file) == FILE_TYPE_DISK && GetFileInformationByHandle(file, &facts) &&
	       (facts.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY) != 0;
}

/* ---- opening ---------------------------------------------------------------------- */

static int open_check(uint32_t how)
{
	const uint32_t all = PROA_OPEN_READ | PROA_OPEN_WRITE | PROA_OPEN_CREATE |
			     PROA_OPEN_EXCLUSIVE | PROA_OPEN_TRUNCATE | PROA_OPEN_APPEND |
			     PROA_OPEN_DIRECTORY;
	const uint32_t writing = PROA_OPEN_TRUNCATE | PROA_OPEN_APPEND;

	if ((how & ~all) != 0 ||
		(how & (PROA_OPEN_READ | PROA_OPEN_WRITE | PROA_OPEN_DIRECTORY)) == 0 ||
		((how & writing) != 0 && (how & PROA_OPEN_WRITE) == 0) ||
		((how & PROA_OPEN_EXCLUSIVE) != 0 && (how & PROA_OPEN_CREATE) == 0) ||
		((how & PROA_OPEN_CREATE) != 0 && (how & PROA_OPEN_DIRECTORY) != 0))
		return PROA_EINVAL;
	return 0;
}

/* With the right to append but not to write, the system itself puts each write at
 * the end, whatever its offset: CreateFile(), FILE_APPEND_DATA. */
static DWORD open_access(uint32_t how)
{
	DWORD access = 0;

	if ((how & PROA_OPEN_WRITE) == 0 || (how & PROA_OPEN_READ) != 0)
		access |= FILE_GENERIC_READ;
	if ((how & PROA_OPEN_WRITE) != 0)
		access |= FILE_GENERIC_WRITE;
	if ((how & PROA_OPEN_APPEND) != 0)
		access &= ~(DWORD)FILE_WRITE_DATA;
	return access;
}

/* Why the system says that there is no such path: POSIX tells a part of it that is
 * a file from one that is missing. `path` is overwritten. */
static int missing_error(WCHAR *path)
{
	for (size_t length = wcslen(path); length > 0; length--) {
		DWORD attributes;

		if (path[length] != L'\\' && path[length] != L'/')
			continue;
		path[length] = L'\0';
		attributes = GetFileAttributesW(path);
		if (attributes == INVALID_FILE_ATTRIBUTES)
			continue;
		return (attributes & FILE_ATTRIBUTE_DIRECTORY) != 0 ? PROA_ENOENT : PROA_ENOTDIR;
	}
	return PROA_ENOENT;
}

/* After a call for `path` that failed; overwrites it. */
static int path_error(WCHAR *path)
{
	DWORD code = GetLastError();

	return code == ERROR_PATH_NOT_FOUND ? missing_error(path) : proa_error_from_system(code);
}

static int set_size(HANDLE file, uint64_t size)
{
	FILE_END_OF_FILE_INFO end;

	end.EndOfFile.QuadPart = (LONGLONG)size;
	return SetFileInformationByHandle(file, FileEndOfFileInfo, &end, sizeof end)
		       ? 0
		       : windows_error();
}

/* Empties a file that has been opened; the handle need not have the right to (one
 * that appends has not). Attributes and further streams stay, as CREATE_ALWAYS and
 * TRUNCATE_EXISTING would not have it. */
static int empty_file(const WCHAR *path, HANDLE opened, bool appends)
{
	HANDLE file = opened;
	int error;

	if (appends) {
		file = CreateFileW(path, FILE_WRITE_DATA | SYNCHRONIZE, SHARE_ALL, NULL,
			OPEN_EXISTING, 0, NULL);
		if (file == INVALID_HANDLE_VALUE)
			return windows_error();
	}
	error = set_size(file, 0);
	if (appends)
		CloseHandle(file);
	return error;
}

/* What is there to be opened is not always what was meant. */
static int opened_check(const WCHAR *path, HANDLE file, uint32_t how)
{
	bool directory = is_directory(file);

	if (!directory && (how & PROA_OPEN_DIRECTORY) != 0)
		return PROA_ENOTDIR;
	if (directory && (how & PROA_OPEN_WRITE) != 0)
		return PROA_EISDIR;
	if ((how & PROA_OPEN_TRUNCATE) != 0 && GetFileType(file) == FILE_TYPE_DISK)
		return empty_file(path, file, (how & PROA_OPEN_APPEND) != 0);
	return 0;
}

/* FILE_FLAG_BACKUP_SEMANTICS lets directories be opened. */
static int32_t open_wide(WCHAR *path, uint32_t how, uint64_t permissions)
{
	DWORD flags = FILE_FLAG_OVERLAPPED | FILE_FLAG_BACKUP_SEMANTICS;
	DWORD disposition = (how & PROA_OPEN_EXCLUSIVE) != 0 ? CREATE_NEW
			    : (how & PROA_OPEN_CREATE) != 0  ? OPEN_ALWAYS
							     : OPEN_EXISTING;
	HANDLE file;
	int error;

	if ((how & PROA_OPEN_CREATE) != 0 && (permissions & 0222) == 0)
		flags |= FILE_ATTRIBUTE_READONLY;
	file = CreateFileW(path, open_access(how), SHARE_ALL, NULL, disposition, flags, NULL);
	if (file == INVALID_HANDLE_VALUE)
		return path_error(path);
	error = opened_check(path, file, how);
	if (error == 0)
		return windows_file(file);
	CloseHandle(file);
	return error;
}

static int32_t open_file(const struct proa_op *op)
{
	int32_t result = open_check(op->flags_);
	WCHAR *path;

	if (result == 0)
		result = wide_path(op->buffer_, &path);
	if (result < 0)
		return result;
	result = open_wide(path, op->flags_, op->argument_);
	free(path);
	return result;
}

/* ---- reading and writing ------------------------------------------------------------ */

int file_error(int file, unsigned long code)
{
	switch (code) {
	case ERROR_HANDLE_EOF:
		return 0;
	case ERROR_INVALID_FUNCTION:
	case ERROR_INVALID_PARAMETER:
		return is_directory(windows_handle_of(file)) ? PROA_EISDIR : PROA_EINVAL;
	case ERROR_ACCESS_DENIED: /* the handle's own rights */
		return is_directory(windows_handle_of(file)) ? PROA_EISDIR : PROA_EBADF;
	case ERROR_INVALID_USER_BUFFER: /* too much in flight at once */
		return PROA_ENOMEM;
	default:
		return proa_error_from_system(code);
	}
}

int file_check_place(int file, uint64_t offset)
{
	HANDLE handle = windows_handle_of(file);
	DWORD mode;

	if (offset > INT64_MAX - FILE_MOST)
		return PROA_EINVAL;
	SetLastError(NO_ERROR);
	switch (GetFileType(handle)) {
	case FILE_TYPE_DISK:
		return 0;
	case FILE_TYPE_CHAR: /* NUL takes any place */
		return GetConsoleMode(handle, &mode) ? PROA_ESPIPE : 0;
	case FILE_TYPE_PIPE: /* a socket, too */
		return PROA_ESPIPE;
	default:
		return GetLastError() != NO_ERROR ? windows_error() : PROA_ESPIPE;
	}
}

/* ---- waits that may have no end --------------------------------------------------- */

/* A worker in a call on a pipe or a console, whose peer may never come to it: what has
 * been begun is waited for, but not that long. */
struct waiter {
	struct waiter *next;
	const struct proa_op *op;
	HANDLE thread, file;
	OVERLAPPED *overlapped; /* of the call that it is in; NULL: in none */
	bool interrupted;
};

static struct waiter *waiters;
static thread_mutex waiters_lock = THREAD_MUTEX;

/* The op may have been cancelled since a worker took it: it would not be found here. */
static void waiter_begin(struct waiter *waiter, const struct proa_op *op)
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

static void waiter_end(struct waiter *waiter)
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

static bool has_places(HANDLE file)
{
	return GetFileType(file) == FILE_TYPE_DISK;
}

/* The same file with other rights; NULL: none. */
static HANDLE reopen(HANDLE file, DWORD access, DWORD flags)
{
	HANDLE again = ReOpenFile(file, access, SHARE_ALL, flags);

	return again == INVALID_HANDLE_VALUE ? NULL : again;
}

/* What the handle may do. */
static DWORD access_of(HANDLE file)
{
	IO_STATUS_BLOCK io;
	DWORD access = 0;

	/* 8: FileAccessInformation, which winternl.h does not name. */
	if (NtQueryInformationFile(file, &io, &access, sizeof access, (FILE_INFORMATION_CLASS)8) <
		0)
		return 0;
	return access;
}

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

/* Where an operation's bytes are to come from or go to. */
struct transfer {
	HANDLE file;
	HANDLE event;
	struct waiter *waiter; /* NULL: the system will not let it wait for ever */
	HANDLE reopened; /* what `file` is; NULL: somebody else's */
	bool keeps; /* `position` is to be the file's at the end */
	LARGE_INTEGER position;
	bool placed; /* has places: to all else an offset must be 0 (OVERLAPPED) */
	const struct proa_slice *slices;
	size_t count;
	struct proa_slice single; /* what `slices` is when there is but one buffer */
	uint64_t total;
	uint64_t offset;
	bool writing;
	bool whole; /* false: one call is enough */
};

/* Readies what calls need, but `file` and `placed`, which are set. Accesses at an offset
 * (`apart`) leave the file's own position alone, as pread(2) does: they are made through
 * a handle of their own where they would move it; where there can be none, it is put
 * back. 0 or PROA_ENOMEM. */
static int transfer_open(struct transfer *transfer, bool apart)
{
	const LARGE_INTEGER here = { .QuadPart = 0 };

	transfer->event = CreateEventW(NULL, TRUE, FALSE, NULL);
	if (transfer->event == NULL)
		return PROA_ENOMEM;
	if (!apart || !transfer->placed || !is_synchronous(transfer->file))
		return 0;
	transfer->reopened =
		reopen(transfer->file, access_of(transfer->file), FILE_FLAG_OVERLAPPED);
	if (transfer->reopened != NULL)
		transfer->file = transfer->reopened;
	else
		transfer->keeps =
			SetFilePointerEx(transfer->file, here, &transfer->position, FILE_CURRENT);
	return 0;
}

static void transfer_close(const struct transfer *transfer)
{
	if (transfer->keeps)
		SetFilePointerEx(transfer->file, transfer->position, NULL, FILE_BEGIN);
	if (transfer->reopened != NULL)
		CloseHandle(transfer->reopened);
	CloseHandle(transfer->event);
}

/* One call of the system's. Bytes moved, 0 at the end, or an error. */
static int32_t move_once(
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
		return move_once(transfer, rest.data, rest.length, transfer->offset + moved);
	if (transfer->writing && transfer->count > 1 && rest.length < PIPE_PART) {
		rest.length = gather(transfer, moved, room, sizeof room);
		rest.data = room;
	}
	return move_once(transfer, rest.data, rest.length < PIPE_PART ? rest.length : PIPE_PART, 0);
}

/* As often as the operation demands. A write of nothing that is no error would go
 * on for ever. */
static int32_t transfer_run(struct proa_op *op, const struct transfer *transfer)
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

/* Describes what `op` moves. 0, or PROA_EINVAL for more than an operation can move:
 * to do a part of it in silence would be neither all nor an error. */
static int transfer_init(
	struct transfer *transfer, const struct proa_op *op, bool vector, bool apart)
{
	memset(transfer, 0, sizeof *transfer);
	transfer->file = windows_handle_of(op->handle_);
	transfer->placed = has_places(transfer->file);
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

static int32_t transfer_at_offset(struct proa_op *op, bool vector, bool writing)
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
	result = move_once(&transfer, buffer, length < FILE_MOST ? length : FILE_MOST, offset);
	transfer_close(&transfer);
	return result;
}

/* ---- files as streams --------------------------------------------------------------- */

/* The file's own position; 0 for what has none. */
static int position_get(HANDLE file, uint64_t *position)
{
	const LARGE_INTEGER zero = { .QuadPart = 0 };
	LARGE_INTEGER now;

	*position = 0;
	if (!has_places(file))
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

	if (!has_places(file) || moved == 0)
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
static int32_t receive(struct proa_op *op)
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
		result = move_once(transfer, &nowhere, 0, 0);
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
static int32_t receive_lent(struct proa_op *op)
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
				: move_once(&transfer, buffer->data, buffer->size, 0);
	waiter_end(&waiter);
	transfer_close(&transfer);
	return result;
}

static int32_t send_all(struct proa_op *op, bool vector)
{
	return stream_run(op, vector, true, (op->flags_ & PROA_SOME) == 0, false);
}

/* Through memory of ours. Bytes copied, 0 at the end of the source, or an error. What
 * was read but not written stays unread: the next call reads it again. */
static int32_t copy_once(
	const struct transfer *from, const struct transfer *to, uint64_t done, uint64_t length)
{
	char room[FILE_ROOM];
	int32_t got = move_once(from, room, length < sizeof room ? (uint32_t)length : sizeof room,
		from->offset + done);

	return got > 0 ? move_once(to, room, (uint32_t)got, to->offset) : got;
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

static int32_t send_file(struct proa_op *op)
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
	to.placed = has_places(to.file);
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
static int32_t warm_next(const struct proa_op *op)
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
		got = move_once(
			&from, room, left < sizeof room ? (uint32_t)left : sizeof room, offset);
		if (got <= 0)
			break;
		offset += (uint32_t)got;
		left -= (uint32_t)got;
	}
	transfer_close(&from);
	return got < 0 ? got : FILE_WARMED;
}

/* ---- attributes ------------------------------------------------------------------------ */

/* For what only files have: 0, PROA_EBADF, or PROA_EINVAL. */
static int must_be_file(HANDLE file)
{
	SetLastError(NO_ERROR);
	if (GetFileType(file) == FILE_TYPE_DISK)
		return 0;
	return GetLastError() == ERROR_INVALID_HANDLE ? PROA_EBADF : PROA_EINVAL;
}

/* FlushFileBuffers() wants the right to write, which fsync(2) does not; of a pipe it
 * would wait for the peer to read. There is no call for PROA_DATA_ONLY. */
static int32_t sync_file(const struct proa_op *op)
{
	HANDLE file = windows_handle_of(op->handle_), again;
	int32_t result = must_be_file(file);

	if (result < 0 || FlushFileBuffers(file))
		return result;
	if (GetLastError() != ERROR_ACCESS_DENIED)
		return windows_error();
	again = reopen(file, GENERIC_WRITE, 0);
	if (again == NULL)
		return PROA_EACCES;
	if (!FlushFileBuffers(again))
		result = windows_error();
	CloseHandle(again);
	return result;
}

/* A handle that appends may cut, too, though for the system it lacks the right. */
static int32_t truncate_file(const struct proa_op *op)
{
	HANDLE file = windows_handle_of(op->handle_), again;
	int32_t result = must_be_file(file);
	DWORD access;

	if (result < 0)
		return result;
	access = access_of(file);
	if (op->argument_ > INT64_MAX || (access & (FILE_WRITE_DATA | FILE_APPEND_DATA)) == 0 ||
		is_directory(file))
		return PROA_EINVAL;
	if ((access & FILE_WRITE_DATA) != 0)
		return set_size(file, op->argument_);
	again = reopen(file, FILE_WRITE_DATA | SYNCHRONIZE, 0);
	if (again == NULL)
		return windows_error();
	result = set_size(again, op->argument_);
	CloseHandle(again);
	return result;
}

/* Of 100 ns since 1601, as ns since 1970; what is outside that time is at its edge.
 * File systems that lack an instant give 0. */
static int64_t instant(int64_t time)
{
	const int64_t epoch = INT64_C(116444736000000000), most = INT64_MAX / 100;

	if (time == 0 || time - epoch < -most)
		return 0;
	return time - epoch > most ? INT64_MAX : (time - epoch) * 100;
}

/* Windows knows of one permission, whether it may be written. */
static int stat_disk(HANDLE file, struct proa_stat *out)
{
	BY_HANDLE_FILE_INFORMATION facts;
	FILE_BASIC_INFO times;

	if (!GetFileInformationByHandle(file, &facts) ||
		!GetFileInformationByHandleEx(file, FileBasicInfo, &times, sizeof times))
		return windows_error();
	out->size = (uint64_t)facts.nFileSizeHigh << 32 | facts.nFileSizeLow;
	out->inode = (uint64_t)facts.nFileIndexHigh << 32 | facts.nFileIndexLow;
	out->device = facts.dwVolumeSerialNumber;
	out->links = facts.nNumberOfLinks;
	out->modified = instant(times.LastWriteTime.QuadPart);
	out->changed = instant(times.ChangeTime.QuadPart);
	out->accessed = instant(times.LastAccessTime.QuadPart);
	if ((facts.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY) != 0)
		out->mode = MODE_DIRECTORY | 0777u;
	else if ((facts.dwFileAttributes & FILE_ATTRIBUTE_READONLY) != 0)
		out->mode = MODE_REGULAR | 0444u;
	else
		out->mode = MODE_REGULAR | 0666u;
	return 0;
}

static int stat_fill(HANDLE file, struct proa_stat *out)
{
	memset(out, 0, sizeof *out);
	SetLastError(NO_ERROR);
	switch (GetFileType(file)) {
	case FILE_TYPE_DISK:
		return stat_disk(file, out);
	case FILE_TYPE_PIPE:
		out->mode =
			(windows_is_socket(windows_file(file)) ? MODE_SOCKET : MODE_FIFO) | 0666u;
		break;
	case FILE_TYPE_CHAR:
		out->mode = MODE_CHARACTER | 0666u;
		break;
	default:
		return GetLastError() != NO_ERROR ? windows_error() : PROA_EINVAL;
	}
	out->links = 1;
	return 0;
}

/* The attributes are there to be read even where others keep us from the bytes. */
static int32_t stat_path(const struct proa_op *op)
{
	WCHAR *path;
	HANDLE file;
	int error = wide_path(op->buffer_, &path);

	if (error < 0)
		return error;
	file = CreateFileW(path, FILE_READ_ATTRIBUTES, SHARE_ALL, NULL, OPEN_EXISTING,
		FILE_FLAG_BACKUP_SEMANTICS, NULL);
	if (file == INVALID_HANDLE_VALUE) {
		error = path_error(path);
	} else {
		error = stat_fill(file, (struct proa_stat *)(uintptr_t)op->argument_);
		CloseHandle(file);
	}
	free(path);
	return error;
}

/* ---- names ------------------------------------------------------------------------------ */

/* Did the call fail for the system, or its file system, does not know of it? */
static bool is_unknown_call(DWORD code)
{
	return code == ERROR_INVALID_PARAMETER || code == ERROR_INVALID_FUNCTION ||
	       code == ERROR_NOT_SUPPORTED || code == ERROR_CALL_NOT_IMPLEMENTED ||
	       code == ERROR_INVALID_LEVEL;
}

/* Before Windows 10 1607, and on file systems that can't do better: the name goes
 * with the last handle, and a file that is for reading alone has to be written to
 * first. */
static int unlink_old(HANDLE file)
{
	FILE_DISPOSITION_INFO gone = { .DeleteFile = TRUE };
	FILE_BASIC_INFO basic = { .FileAttributes = FILE_ATTRIBUTE_NORMAL };

	if (SetFileInformationByHandle(file, FileDispositionInfo, &gone, sizeof gone))
		return 0;
	if (GetLastError() != ERROR_ACCESS_DENIED ||
		!SetFileInformationByHandle(file, FileBasicInfo, &basic, sizeof basic))
		return windows_error();
	return SetFileInformationByHandle(file, FileDispositionInfo, &gone, sizeof gone)
		       ? 0
		       : windows_error();
}

/* POSIX semantics: the name goes at once, whoever has the file open, and the right
 * that counts is the folder's. */
static int unlink_opened(HANDLE file)
{
	struct {
		DWORD flags; /* of FILE_DISPOSITION_INFO_EX */
	} gone = { FILE_DISPOSITION_FLAG_DELETE | FILE_DISPOSITION_FLAG_POSIX_SEMANTICS |
		   FILE_DISPOSITION_FLAG_IGNORE_READONLY_ATTRIBUTE };
	BY_HANDLE_FILE_INFORMATION facts;

	if (!GetFileInformationByHandle(file, &facts))
		return windows_error();
	/* A link to a directory is no directory. */
	if ((facts.dwFileAttributes & (FILE_ATTRIBUTE_DIRECTORY | FILE_ATTRIBUTE_REPARSE_POINT)) ==
		FILE_ATTRIBUTE_DIRECTORY)
		return PROA_EISDIR;
	if (SetFileInformationByHandle(file, DISPOSITION_INFO_EX, &gone, sizeof gone))
		return 0;
	return is_unknown_call(GetLastError()) ? unlink_old(file) : windows_error();
}

static int32_t unlink_file(const struct proa_op *op)
{
	const DWORD flags = FILE_FLAG_OPEN_REPARSE_POINT | FILE_FLAG_BACKUP_SEMANTICS;
	const DWORD access = DELETE | SYNCHRONIZE | FILE_READ_ATTRIBUTES;
	WCHAR *path;
	HANDLE file;
	int error = wide_path(op->buffer_, &path);

	if (error < 0)
		return error;
	file = CreateFileW(
		path, access | FILE_WRITE_ATTRIBUTES, SHARE_ALL, NULL, OPEN_EXISTING, flags, NULL);
	if (file == INVALID_HANDLE_VALUE && GetLastError() == ERROR_ACCESS_DENIED)
		file = CreateFileW(path, access, SHARE_ALL, NULL, OPEN_EXISTING, flags, NULL);
	if (file == INVALID_HANDLE_VALUE) {
		error = path_error(path);
	} else {
		error = unlink_opened(file);
		CloseHandle(file);
	}
	free(path);
	return error;
}

/* At once for everybody, and over a file that somebody has open: Windows 10 1607. False
 * with GetLastError() else. */
static bool rename_posix(const WCHAR *from, const WCHAR *to, bool replace)
{
	/* The flags of FileRenameInfoEx have the place of ReplaceIfExists. */
	const DWORD flags = FILE_RENAME_FLAG_POSIX_SEMANTICS |
			    (replace ? FILE_RENAME_FLAG_REPLACE_IF_EXISTS : 0);
	size_t length = wcslen(to) * sizeof *to;
	size_t size = sizeof(FILE_RENAME_INFO) + length;
	FILE_RENAME_INFO *info = calloc(1, size);
	DWORD code = ERROR_NOT_ENOUGH_MEMORY;
	HANDLE file;
	bool done = false;

	if (info != NULL) {
		memcpy(info, &flags, sizeof flags);
		info->FileNameLength = (DWORD)length;
		memcpy(info->FileName, to, length);
		file = CreateFileW(from, DELETE | SYNCHRONIZE | FILE_READ_ATTRIBUTES, SHARE_ALL,
			NULL, OPEN_EXISTING,
			FILE_FLAG_OPEN_REPARSE_POINT | FILE_FLAG_BACKUP_SEMANTICS, NULL);
		done = file != INVALID_HANDLE_VALUE &&
		       SetFileInformationByHandle(file, RENAME_INFO_EX, info, (DWORD)size);
		code = GetLastError();
		if (file != INVALID_HANDLE_VALUE)
			CloseHandle(file);
		free(info);
	}
	SetLastError(code);
	return done;
}

/* To copy is no rename: no MOVEFILE_COPY_ALLOWED. */
static bool rename_any(const WCHAR *from, const WCHAR *to, bool replace)
{
	return rename_posix(from, to, replace) ||
	       (is_unknown_call(GetLastError()) &&
		       MoveFileExW(from, to, replace ? MOVEFILE_REPLACE_EXISTING : 0));
}

/* What POSIX says where the system refused: a directory takes the place of an empty one
 * alone, and neither that of a file nor the other way round. */
static int rename_refused(WCHAR *from, WCHAR *to, DWORD code)
{
	DWORD source = GetFileAttributesW(from), target = GetFileAttributesW(to);

	if (source == INVALID_FILE_ATTRIBUTES)
		return code == ERROR_PATH_NOT_FOUND ? missing_error(from) : PROA_ENOENT;
	if (target == INVALID_FILE_ATTRIBUTES)
		return code == ERROR_PATH_NOT_FOUND ? missing_error(to)
						    : proa_error_from_system(code);
	source &= FILE_ATTRIBUTE_DIRECTORY;
	target &= FILE_ATTRIBUTE_DIRECTORY;
	if (source != target)
		return source == 0 ? PROA_EISDIR : PROA_ENOTDIR;
	if (source == 0 || (code != ERROR_ACCESS_DENIED && code != ERROR_ALREADY_EXISTS))
		return proa_error_from_system(code);
	if (!RemoveDirectoryW(to) || !rename_any(from, to, false))
		return windows_error();
	return 0;
}

/* Directories replace nothing by themselves: what they may is for rename_refused() to
 * say. */
static int32_t rename_file(const struct proa_op *op)
{
	WCHAR *from = NULL, *to = NULL;
	int error = wide_path(op->buffer_, &from);

	if (error == 0)
		error = wide_path((const char *)(uintptr_t)op->argument_, &to);
	if (error == 0) {
		DWORD attributes = GetFileAttributesW(from);
		bool replace = attributes != INVALID_FILE_ATTRIBUTES &&
			       (attributes & FILE_ATTRIBUTE_DIRECTORY) == 0;

		if (!rename_any(from, to, replace))
			error = rename_refused(from, to, GetLastError());
	}
	free(from);
	free(to);
	return error;
}

/* A directory gets the rights of the one that it is in: permissions have no meaning. */
static int32_t make_directory(const struct proa_op *op)
{
	WCHAR *path;
	int error = wide_path(op->buffer_, &path);

	if (error < 0)
		return error;
	if (!CreateDirectoryW(path, NULL))
		error = path_error(path);
	free(path);
	return error;
}

/* ---- what workers call -------------------------------------------------------------------- */

int32_t file_run(struct proa_op *op)
{
	switch ((enum proa_kind)op->kind_) {
	case PROA_OP_OPEN:
		return open_file(op);
	case PROA_OP_READ:
	case PROA_OP_READV:
		return transfer_at_offset(op, op->kind_ == PROA_OP_READV, false);
	case PROA_OP_WRITE:
	case PROA_OP_WRITEV:
		return transfer_at_offset(op, op->kind_ == PROA_OP_WRITEV, true);
	case PROA_OP_RECV:
		return receive(op);
	case PROA_OP_RECV_LENT:
	case PROA_OP_RECV_MULTI:
		return receive_lent(op);
	case PROA_OP_SEND:
	case PROA_OP_SENDV:
		return send_all(op, op->kind_ == PROA_OP_SENDV);
	case PROA_OP_SENDFILE:
		return (op->flags_ & PROA_WARM_) != 0 ? warm_next(op) : send_file(op);
	case PROA_OP_SYNC:
		return sync_file(op);
	case PROA_OP_STAT:
		return stat_path(op);
	case PROA_OP_FSTAT:
		return stat_fill(windows_handle_of(op->handle_), op->buffer_);
	case PROA_OP_TRUNCATE:
		return truncate_file(op);
	case PROA_OP_RENAME:
		return rename_file(op);
	case PROA_OP_UNLINK:
		return unlink_file(op);
	case PROA_OP_MKDIR:
		return make_directory(op);
	default:
		return PROA_EOPNOTSUPP; /* of sockets, or of no file */
	}
}

/* The system does not tell what lies in its cache. */
int32_t file_try(struct proa_op *op)
{
	(void)op;
	return STEP_TO_WORKER;
}

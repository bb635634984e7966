/* Operations on files, for worker threads: which function serves which op, and what an
 * open file is asked and told as a whole. What goes by names is in name.c; bytes are
 * moved by transfer.c and stream.c. */
#include "engines/windows/file.h"

#include <string.h>

#include "engines/windows/transfer.h"
#include <winternl.h> /* after windows.h */

/* POSIX's file types and permissions, of which the C runtime here knows a part. */
#define MODE_FIFO      0010000u
#define MODE_CHARACTER 0020000u
#define MODE_DIRECTORY 0040000u
#define MODE_REGULAR   0100000u
#define MODE_SOCKET    0140000u

/* ---- what others ask, too -------------------------------------------------------------- */

bool file_is_directory(HANDLE file)
{
	BY_HANDLE_FILE_INFORMATION facts;

	return GetFileType(file) == FILE_TYPE_DISK && GetFileInformationByHandle(file, &facts) &&
	       (facts.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY) != 0;
}

bool file_has_places(HANDLE file)
{
	return GetFileType(file) == FILE_TYPE_DISK;
}

HANDLE file_reopen(HANDLE file, DWORD access, DWORD flags)
{
	HANDLE again = ReOpenFile(file, access, SHARE_ALL, flags);

	return again == INVALID_HANDLE_VALUE ? NULL : again;
}

DWORD file_access(HANDLE file)
{
	IO_STATUS_BLOCK io;
	DWORD access = 0;

	/* 8: FileAccessInformation, which winternl.h does not name. */
	if (NtQueryInformationFile(file, &io, &access, sizeof access, (FILE_INFORMATION_CLASS)8) <
		0)
		return 0;
	return access;
}

int file_set_size(HANDLE file, uint64_t size)
{
	FILE_END_OF_FILE_INFO end;

	end.EndOfFile.QuadPart = (LONGLONG)size;
	return SetFileInformationByHandle(file, FileEndOfFileInfo, &end, sizeof end)
		       ? 0
		       : windows_error();
}

int file_error(int file, unsigned long code)
{
	switch (code) {
	case ERROR_HANDLE_EOF:
		return 0;
	case ERROR_INVALID_FUNCTION:
	case ERROR_INVALID_PARAMETER:
		return file_is_directory(windows_handle_of(file)) ? PROA_EISDIR : PROA_EINVAL;
	case ERROR_ACCESS_DENIED: /* the handle's own rights */
		return file_is_directory(windows_handle_of(file)) ? PROA_EISDIR : PROA_EBADF;
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
	again = file_reopen(file, GENERIC_WRITE, 0);
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
	access = file_access(file);
	if (op->argument_ > INT64_MAX || (access & (FILE_WRITE_DATA | FILE_APPEND_DATA)) == 0 ||
		file_is_directory(file))
		return PROA_EINVAL;
	if ((access & FILE_WRITE_DATA) != 0)
		return file_set_size(file, op->argument_);
	again = file_reopen(file, FILE_WRITE_DATA | SYNCHRONIZE, 0);
	if (again == NULL)
		return windows_error();
	result = file_set_size(again, op->argument_);
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

int file_stat(HANDLE file, struct proa_stat *out)
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

/* ---- what workers call -------------------------------------------------------------------- */

int32_t file_run(struct proa_op *op)
{
	switch ((enum proa_kind)op->kind_) {
	case PROA_OP_OPEN:
		return name_open(op);
	case PROA_OP_READ:
	case PROA_OP_READV:
		return transfer_at_offset(op, op->kind_ == PROA_OP_READV, false);
	case PROA_OP_WRITE:
	case PROA_OP_WRITEV:
		return transfer_at_offset(op, op->kind_ == PROA_OP_WRITEV, true);
	case PROA_OP_RECV:
		return file_receive(op);
	case PROA_OP_RECV_LENT:
	case PROA_OP_RECV_MULTI:
		return file_receive_lent(op);
	case PROA_OP_SEND:
	case PROA_OP_SENDV:
		return file_send(op, op->kind_ == PROA_OP_SENDV);
	case PROA_OP_SENDFILE:
		return (op->flags_ & PROA_WARM_) != 0 ? file_warm(op) : file_send_range(op);
	case PROA_OP_SYNC:
		return sync_file(op);
	case PROA_OP_STAT:
		return name_stat(op);
	case PROA_OP_FSTAT:
		return file_stat(windows_handle_of(op->handle_), op->buffer_);
	case PROA_OP_TRUNCATE:
		return truncate_file(op);
	case PROA_OP_RENAME:
		return name_rename(op);
	case PROA_OP_UNLINK:
		return name_unlink(op);
	case PROA_OP_MKDIR:
		return name_make_folder(op);
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

/* Files by their names: opening, attributes, new names, removal, folders. */
#include "engines/windows/file.h"

#include <stdlib.h>
#include <string.h>
#include <wchar.h>

#include "engines/windows/path.h"
#include "engines/windows/windows.h"

/* Of Windows 10 1607 and 1809, which older headers lack. */
#define DISPOSITION_INFO_EX ((FILE_INFO_BY_HANDLE_CLASS)21)
#define RENAME_INFO_EX      ((FILE_INFO_BY_HANDLE_CLASS)22)
#ifndef FILE_DISPOSITION_FLAG_IGNORE_READONLY_ATTRIBUTE
#	define FILE_DISPOSITION_FLAG_IGNORE_READONLY_ATTRIBUTE 0x10
#endif

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
	error = file_set_size(file, 0);
	if (appends)
		CloseHandle(file);
	return error;
}

/* What is there to be opened is not always what was meant. */
static int opened_check(const WCHAR *path, HANDLE file, uint32_t how)
{
	bool directory = file_is_directory(file);

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

int32_t name_open(const struct proa_op *op)
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

/* ---- attributes ------------------------------------------------------------------------ */

/* The attributes are there to be read even where others keep us from the bytes. */
int32_t name_stat(const struct proa_op *op)
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
		error = file_stat(file, (struct proa_stat *)(uintptr_t)op->argument_);
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

int32_t name_unlink(const struct proa_op *op)
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

/* Its attributes, where they can be had. 0, or an error that is not that nothing has the
 * name. */
static int look_at(const WCHAR *path, DWORD *attributes)
{
	int error;

	*attributes = GetFileAttributesW(path);
	if (*attributes != INVALID_FILE_ATTRIBUTES)
		return 0;
	error = windows_error();
	return error == PROA_ENOENT ? 0 : error;
}

/* What POSIX says where the system refused: a directory takes the place of an empty one
 * alone, and neither that of a file nor the other way round. */
static int rename_refused(WCHAR *from, WCHAR *to, DWORD code)
{
	DWORD source, target;
	int error = look_at(from, &source);

	if (error == 0)
		error = look_at(to, &target);
	if (error < 0)
		return error;
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
int32_t name_rename(const struct proa_op *op)
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
int32_t name_make_folder(const struct proa_op *op)
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

/* Pipes between us and a child: named ones, for those of CreatePipe() can't
 * overlap. */
#include "engines/windows/windows.h"

#include <stdio.h>

/* As much as a pipe holds on Linux. */
#define PIPE_ROOM 65536u
#define NAME_ROOM 96
/* Names that others have taken, before we give up. */
#define NAME_TRIES 16

/* No one else can know the name, but it may be there: from a process of the same
 * number that has ended, while its child lives. */
static void pipe_name(WCHAR *name)
{
	static atomic_uint count;
	LARGE_INTEGER tick;

	QueryPerformanceCounter(&tick);
	_snwprintf(name, NAME_ROOM, L"\\\\.\\pipe\\proa-%lx-%x-%llx", GetCurrentProcessId(),
		atomic_fetch_add(&count, 1), (unsigned long long)tick.QuadPart);
	name[NAME_ROOM - 1] = L'\0';
}

/* Our end: the only instance that there can be, for this machine alone. */
static HANDLE open_ours(bool reading, WCHAR *name)
{
	const DWORD access = (reading ? PIPE_ACCESS_INBOUND : PIPE_ACCESS_OUTBOUND) |
			     FILE_FLAG_OVERLAPPED | FILE_FLAG_FIRST_PIPE_INSTANCE;
	const DWORD mode =
		PIPE_TYPE_BYTE | PIPE_READMODE_BYTE | PIPE_WAIT | PIPE_REJECT_REMOTE_CLIENTS;
	HANDLE ours = INVALID_HANDLE_VALUE;

	for (int i = 0; i < NAME_TRIES && ours == INVALID_HANDLE_VALUE; i++) {
		pipe_name(name);
		ours = CreateNamedPipeW(name, access, mode, 1, PIPE_ROOM, PIPE_ROOM, 0, NULL);
		if (ours == INVALID_HANDLE_VALUE && GetLastError() != ERROR_ACCESS_DENIED &&
			GetLastError() != ERROR_PIPE_BUSY)
			break;
	}
	return ours;
}

/* The child's: plain and inheritable. Its rights for attributes are what
 * SetNamedPipeHandleState() and the C runtime want. */
static HANDLE open_theirs(bool reading, const WCHAR *name)
{
	SECURITY_ATTRIBUTES inherit = { sizeof inherit, NULL, TRUE };
	const DWORD access = reading ? GENERIC_WRITE | FILE_READ_ATTRIBUTES
				     : GENERIC_READ | FILE_WRITE_ATTRIBUTES;

	return CreateFileW(name, access, 0, &inherit, OPEN_EXISTING, 0, NULL);
}

int proa_pipe(struct proa_port *port, int reading, proa_handle *ours, proa_handle *theirs)
{
	WCHAR name[NAME_ROOM];
	HANDLE mine, childs;
	int error;

	if (!port_visit(port))
		return PROA_EINVAL;
	mine = open_ours(reading != 0, name);
	if (mine == INVALID_HANDLE_VALUE)
		return windows_error();
	/* The end that is opened by its name is connected at once: no
	 * ConnectNamedPipe() is needed. */
	childs = open_theirs(reading != 0, name);
	if (childs == INVALID_HANDLE_VALUE) {
		error = windows_error();
		CloseHandle(mine);
		return error;
	}
	error = handle_adopt(port, windows_file(mine), HANDLE_PIPE, true);
	if (error < 0) {
		CloseHandle(childs);
		return error;
	}
	*ours = windows_file(mine);
	*theirs = windows_file(childs);
	return 0;
}

/* The calls of the library on Windows that can fail, one by one: what each may
 * plausibly answer, and how it is made to be short. A fault comes in the call's place,
 * so that it has no effect.
 *
 * What is begun can also end with an error later: the call says that it is pending, and
 * a packet of ours takes its failure to the completion port. Not made is what would tell
 * of a call that never was: that something is pending where nobody gets a packet, or
 * that an overlapped send was short. */
#define WIN32_NO_STATUS /* or windows.h defines a few of ntstatus.h's names */
#include <winsock2.h>
#include <ws2tcpip.h>
#include <mswsock.h>
#include <windows.h>
#undef WIN32_NO_STATUS
#include <winternl.h>
#include <ntstatus.h>

#include <errno.h>
#include <process.h>
#include <stdlib.h>
#include <string.h>

#include "fault.h"

#define SITE(name, ...)                      \
	FAULT_SITE(site, name, __VA_ARGS__); \
	int how = fault_here(&site)

/* Handles are multiples of four. What none was made of has failed. */
static HANDLE kept(HANDLE made)
{
	if (made != NULL && made != INVALID_HANDLE_VALUE)
		faults_descriptor((int)((uintptr_t)made / 4));
	return made;
}

BOOL WINAPI faulty_CloseHandle(HANDLE handle);
BOOL WINAPI faulty_CloseHandle(HANDLE handle)
{
	faults_descriptor_gone((int)((uintptr_t)handle / 4));
	return CloseHandle(handle);
}

/* One call. FAILED is what it then returns. */
#define CALL_OF(type, failure, name, parameters, arguments, ...) \
	type WINAPI faulty_##name parameters;                    \
	type WINAPI faulty_##name parameters                     \
	{                                                        \
		SITE(#name, __VA_ARGS__);                        \
		if (how == 0)                                    \
			return name arguments;                   \
		SetLastError((DWORD)how);                        \
		return failure;                                  \
	}
/* As CALL_OF, of what the library keeps to itself. */
#define CALL_KEPT(failure, name, parameters, arguments, ...) \
	HANDLE WINAPI faulty_##name parameters;              \
	HANDLE WINAPI faulty_##name parameters               \
	{                                                    \
		SITE(#name, __VA_ARGS__);                    \
		if (how == 0)                                \
			return kept(name arguments);         \
		SetLastError((DWORD)how);                    \
		return failure;                              \
	}
#define CALL_BOOL(name, parameters, arguments, ...) \
	CALL_OF(BOOL, FALSE, name, parameters, arguments, __VA_ARGS__)
#define CALL_INT(name, parameters, arguments, ...) \
	CALL_OF(int, SOCKET_ERROR, name, parameters, arguments, __VA_ARGS__)
#define CALL_HANDLE(name, parameters, arguments, ...) \
	CALL_OF(HANDLE, INVALID_HANDLE_VALUE, name, parameters, arguments, __VA_ARGS__)

/* ---- what ends later ----------------------------------------------------------------- */

/* Whose packets go to which completion port: by handle, which is a multiple of four. */
static _Atomic(HANDLE) ports[1 << 14];

static _Atomic(HANDLE) *port_of(HANDLE handle)
{
	return &ports[(uintptr_t)handle / 4 % (sizeof ports / sizeof ports[0])];
}

static bool is_packet(const OVERLAPPED *overlapped)
{
	return overlapped != NULL && ((uintptr_t)overlapped->hEvent & 1) == 0;
}

/* False: it can't, for nobody would be told. */
static bool ends_later(HANDLE handle, OVERLAPPED *overlapped, int how)
{
	HANDLE port = atomic_load(port_of(handle));

	if (how >= FAULT_SHORT || port == NULL || !is_packet(overlapped))
		return false;
	overlapped->Internal = (ULONG_PTR)(ULONG)how;
	overlapped->InternalHigh = 0;
	if (!PostQueuedCompletionStatus(port, 0, 0, overlapped))
		return false;
	SetLastError(ERROR_IO_PENDING);
	return true;
}

/* Does the call fail, now or later? */
static bool fails(HANDLE handle, OVERLAPPED *overlapped, int how)
{
	DWORD before = GetLastError();

	if (how > 0)
		SetLastError((DWORD)how);
	else if (!ends_later(handle, overlapped, how))
		SetLastError(before);
	else
		return true;
	return how > 0;
}

HANDLE WINAPI faulty_CreateIoCompletionPort(HANDLE file, HANDLE port, ULONG_PTR key, DWORD threads);
HANDLE WINAPI faulty_CreateIoCompletionPort(HANDLE file, HANDLE port, ULONG_PTR key, DWORD threads)
{
	SITE("CreateIoCompletionPort", ERROR_NO_SYSTEM_RESOURCES, ERROR_NOT_ENOUGH_MEMORY);
	HANDLE made;

	if (how != 0) {
		SetLastError((DWORD)how);
		return NULL;
	}
	made = CreateIoCompletionPort(file, port, key, threads);
	if (made != NULL && file != INVALID_HANDLE_VALUE)
		atomic_store(port_of(file), made);
	return port == NULL ? kept(made) : made;
}

CALL_BOOL(PostQueuedCompletionStatus,
	(HANDLE port, DWORD bytes, ULONG_PTR key, LPOVERLAPPED overlapped),
	(port, bytes, key, overlapped), ERROR_NO_SYSTEM_RESOURCES)
/* A wait may end too soon. */
CALL_BOOL(GetQueuedCompletionStatusEx,
	(HANDLE port, LPOVERLAPPED_ENTRY entries, ULONG room, PULONG count, DWORD ms,
		BOOL alertable),
	(port, entries, room, count, ms, alertable), WAIT_TIMEOUT)
CALL_BOOL(SetFileCompletionNotificationModes, (HANDLE file, UCHAR modes), (file, modes),
	ERROR_NOT_SUPPORTED)
CALL_BOOL(CancelIoEx, (HANDLE file, LPOVERLAPPED overlapped), (file, overlapped), ERROR_NOT_FOUND)
CALL_BOOL(CancelSynchronousIo, (HANDLE thread), (thread), ERROR_NOT_FOUND)

/* The NTSTATUS of want of memory, at once or later; or nobody's cancel. */
NTSTATUS WINAPI faulty_NtDeviceIoControlFile(HANDLE file, HANDLE event, PIO_APC_ROUTINE routine,
	PVOID context, PIO_STATUS_BLOCK io, ULONG code, PVOID in, ULONG in_size, PVOID out,
	ULONG out_size);
NTSTATUS WINAPI faulty_NtDeviceIoControlFile(HANDLE file, HANDLE event, PIO_APC_ROUTINE routine,
	PVOID context, PIO_STATUS_BLOCK io, ULONG code, PVOID in, ULONG in_size, PVOID out,
	ULONG out_size)
{
	SITE("NtDeviceIoControlFile", ERROR_NO_SYSTEM_RESOURCES, (int)STATUS_INSUFFICIENT_RESOURCES,
		(int)STATUS_CANCELLED);

	if (how > 0)
		return STATUS_INSUFFICIENT_RESOURCES;
	if (ends_later(file, context, how))
		return STATUS_PENDING;
	return NtDeviceIoControlFile(
		file, event, routine, context, io, code, in, in_size, out, out_size);
}

/* How a handle was opened is known to the system without asking a driver. */
#define FILE_NOTIFICATION_MODES 41

NTSTATUS WINAPI faulty_NtQueryInformationFile(
	HANDLE file, PIO_STATUS_BLOCK io, PVOID out, ULONG size, FILE_INFORMATION_CLASS which);
NTSTATUS WINAPI faulty_NtQueryInformationFile(
	HANDLE file, PIO_STATUS_BLOCK io, PVOID out, ULONG size, FILE_INFORMATION_CLASS which)
{
	FAULT_SITE(site, "NtQueryInformationFile", ERROR_NO_SYSTEM_RESOURCES);
	int how = (int)which == FILE_NOTIFICATION_MODES ? fault_here(&site) : 0;

	return how != 0 ? STATUS_INSUFFICIENT_RESOURCES
			: NtQueryInformationFile(file, io, out, size, which);
}

/* ---- being short --------------------------------------------------------------------- */

static DWORD cut(const struct fault_site *site, DWORD length)
{
	return length < 2 ? length : 1 + fault_number(site, length - 1);
}

static bool is_stream(SOCKET s)
{
	int type = 0, length = sizeof type;

	return getsockopt(s, SOL_SOCKET, SO_TYPE, (char *)&type, &length) == 0 &&
	       type == SOCK_STREAM;
}

/* The first slice, and that cut. */
static WSABUF *cut_slices(
	const struct fault_site *site, WSABUF *slices, DWORD *count, WSABUF *first)
{
	*first = slices[0];
	first->len = cut(site, first->len);
	*count = 1;
	return first;
}

/* ---- sockets ------------------------------------------------------------------------- */

CALL_OF(SOCKET, INVALID_SOCKET, WSASocketW,
	(int family, int type, int protocol, LPWSAPROTOCOL_INFOW info, GROUP group, DWORD flags),
	(family, type, protocol, info, group, flags), WSAEMFILE, WSAENOBUFS)
CALL_INT(bind, (SOCKET s, const struct sockaddr *to, int length), (s, to, length), WSAEADDRINUSE,
	WSAENOBUFS)
CALL_INT(listen, (SOCKET s, int backlog), (s, backlog), WSAEADDRINUSE, WSAENOBUFS, WSAEMFILE)
CALL_INT(shutdown, (SOCKET s, int how_far), (s, how_far), WSAENOTCONN, WSAENOBUFS)
CALL_INT(ioctlsocket, (SOCKET s, long command, u_long *value), (s, command, value), WSAENOBUFS)
CALL_INT(setsockopt, (SOCKET s, int level, int name, const char *value, int length),
	(s, level, name, value, length), WSAENOBUFS)
CALL_INT(getsockopt, (SOCKET s, int level, int name, char *value, int *length),
	(s, level, name, value, length), WSAENOBUFS)
CALL_INT(getsockname, (SOCKET s, struct sockaddr *name, int *length), (s, name, length), WSAENOBUFS)
CALL_INT(getpeername, (SOCKET s, struct sockaddr *name, int *length), (s, name, length), WSAENOBUFS,
	WSAENOTCONN)
CALL_INT(connect, (SOCKET s, const struct sockaddr *to, int length), (s, to, length),
	WSAECONNREFUSED, WSAENETUNREACH, WSAETIMEDOUT, WSAENOBUFS)
CALL_OF(SOCKET, INVALID_SOCKET, accept, (SOCKET s, struct sockaddr *from, int *length),
	(s, from, length), WSAEMFILE, WSAENOBUFS, WSAECONNRESET)
CALL_INT(WSAPoll, (LPWSAPOLLFD entries, ULONG count, INT ms), (entries, count, ms), WSAENOBUFS)
CALL_INT(select, (int ignored, fd_set *in, fd_set *out, fd_set *except, const PTIMEVAL limit),
	(ignored, in, out, except, limit), WSAENOBUFS)
CALL_INT(WSASendMsg,
	(SOCKET s, LPWSAMSG message, DWORD flags, LPDWORD moved, LPWSAOVERLAPPED overlapped,
		LPWSAOVERLAPPED_COMPLETION_ROUTINE routine),
	(s, message, flags, moved, overlapped, routine), WSAENOBUFS, WSAEHOSTUNREACH)

int WINAPI faulty_WSAStartup(WORD version, LPWSADATA data);
int WINAPI faulty_WSAStartup(WORD version, LPWSADATA data)
{
	SITE("WSAStartup", WSASYSNOTREADY);

	return how != 0 ? how : WSAStartup(version, data);
}

/* A wake-up is sent and received in these lengths; its connection can't be reset. */
#define WAKE_WRITTEN 1
#define WAKE_READ    64

int WINAPI faulty_recv(SOCKET s, char *to, int length, int flags);
int WINAPI faulty_recv(SOCKET s, char *to, int length, int flags)
{
	FAULT_SITE(site, "recv", FAULT_SHORT, WSAECONNRESET, WSAENOBUFS, WSAETIMEDOUT);
	FAULT_SITE(drain, "recv_wake", WSAENOBUFS);
	int how = fault_here(length == WAKE_READ ? &drain : &site);

	if (how == FAULT_SHORT)
		length = (int)cut(&site, (DWORD)length);
	return fails(NULL, NULL, how) ? SOCKET_ERROR : recv(s, to, length, flags);
}

int WINAPI faulty_send(SOCKET s, const char *from, int length, int flags);
int WINAPI faulty_send(SOCKET s, const char *from, int length, int flags)
{
	FAULT_SITE(site, "send", FAULT_SHORT, WSAECONNRESET, WSAENOBUFS, WSAECONNABORTED);
	FAULT_SITE(wake, "send_wake", WSAENOBUFS);
	int how = fault_here(length == WAKE_WRITTEN ? &wake : &site);

	if (how == FAULT_SHORT)
		length = (int)cut(&site, (DWORD)length);
	return fails(NULL, NULL, how) ? SOCKET_ERROR : send(s, from, length, flags);
}

int WINAPI faulty_WSARecv(SOCKET s, LPWSABUF slices, DWORD count, LPDWORD moved, LPDWORD flags,
	LPWSAOVERLAPPED overlapped, LPWSAOVERLAPPED_COMPLETION_ROUTINE routine);
int WINAPI faulty_WSARecv(SOCKET s, LPWSABUF slices, DWORD count, LPDWORD moved, LPDWORD flags,
	LPWSAOVERLAPPED overlapped, LPWSAOVERLAPPED_COMPLETION_ROUTINE routine)
{
	SITE("WSARecv", FAULT_SHORT, WSAECONNRESET, WSAENOBUFS, (int)STATUS_CONNECTION_RESET,
		(int)STATUS_INSUFFICIENT_RESOURCES, (int)STATUS_CANCELLED);
	WSABUF first;

	if (how == FAULT_SHORT && count > 0 && is_stream(s))
		slices = cut_slices(&site, slices, &count, &first);
	if (fails((HANDLE)s, overlapped, how))
		return SOCKET_ERROR;
	return WSARecv(s, slices, count, moved, flags, overlapped, routine);
}

int WINAPI faulty_WSASend(SOCKET s, LPWSABUF slices, DWORD count, LPDWORD moved, DWORD flags,
	LPWSAOVERLAPPED overlapped, LPWSAOVERLAPPED_COMPLETION_ROUTINE routine);
int WINAPI faulty_WSASend(SOCKET s, LPWSABUF slices, DWORD count, LPDWORD moved, DWORD flags,
	LPWSAOVERLAPPED overlapped, LPWSAOVERLAPPED_COMPLETION_ROUTINE routine)
{
	SITE("WSASend", FAULT_SHORT, WSAECONNRESET, WSAENOBUFS, (int)STATUS_CONNECTION_RESET,
		(int)STATUS_INSUFFICIENT_RESOURCES, (int)STATUS_CANCELLED);
	WSABUF first;

	if (how == FAULT_SHORT && count > 0 && overlapped == NULL && is_stream(s))
		slices = cut_slices(&site, slices, &count, &first);
	if (fails((HANDLE)s, overlapped, how))
		return SOCKET_ERROR;
	return WSASend(s, slices, count, moved, flags, overlapped, routine);
}

int WINAPI faulty_WSARecvFrom(SOCKET s, LPWSABUF slices, DWORD count, LPDWORD moved, LPDWORD flags,
	struct sockaddr *from, LPINT length, LPWSAOVERLAPPED overlapped,
	LPWSAOVERLAPPED_COMPLETION_ROUTINE routine);
int WINAPI faulty_WSARecvFrom(SOCKET s, LPWSABUF slices, DWORD count, LPDWORD moved, LPDWORD flags,
	struct sockaddr *from, LPINT length, LPWSAOVERLAPPED overlapped,
	LPWSAOVERLAPPED_COMPLETION_ROUTINE routine)
{
	SITE("WSARecvFrom", WSAENOBUFS, (int)STATUS_INSUFFICIENT_RESOURCES, (int)STATUS_CANCELLED);

	if (fails((HANDLE)s, overlapped, how))
		return SOCKET_ERROR;
	return WSARecvFrom(s, slices, count, moved, flags, from, length, overlapped, routine);
}

int WINAPI faulty_WSASendTo(SOCKET s, LPWSABUF slices, DWORD count, LPDWORD moved, DWORD flags,
	const struct sockaddr *to, int length, LPWSAOVERLAPPED overlapped,
	LPWSAOVERLAPPED_COMPLETION_ROUTINE routine);
int WINAPI faulty_WSASendTo(SOCKET s, LPWSABUF slices, DWORD count, LPDWORD moved, DWORD flags,
	const struct sockaddr *to, int length, LPWSAOVERLAPPED overlapped,
	LPWSAOVERLAPPED_COMPLETION_ROUTINE routine)
{
	SITE("WSASendTo", WSAENOBUFS, WSAEHOSTUNREACH, (int)STATUS_INSUFFICIENT_RESOURCES,
		(int)STATUS_CANCELLED);

	if (fails((HANDLE)s, overlapped, how))
		return SOCKET_ERROR;
	return WSASendTo(s, slices, count, moved, flags, to, length, overlapped, routine);
}

/* ---- extension functions: the provider's own, with ours in front ---------------------- */

static LPFN_ACCEPTEX real_accept;
static LPFN_CONNECTEX real_connect;
static LPFN_TRANSMITFILE real_transmit;
static LPFN_WSARECVMSG real_receive;

static BOOL WINAPI faulty_accept_ex(SOCKET listener, SOCKET s, PVOID out, DWORD data, DWORD local,
	DWORD remote, LPDWORD moved, LPOVERLAPPED overlapped)
{
	SITE("AcceptEx", WSAENOBUFS, WSAEMFILE, WSAECONNRESET, (int)STATUS_CONNECTION_RESET,
		(int)STATUS_INSUFFICIENT_RESOURCES, (int)STATUS_CANCELLED);

	if (fails((HANDLE)listener, overlapped, how))
		return FALSE;
	return real_accept(listener, s, out, data, local, remote, moved, overlapped);
}

static BOOL WINAPI faulty_connect_ex(SOCKET s, const struct sockaddr *to, int length, PVOID from,
	DWORD count, LPDWORD moved, LPOVERLAPPED overlapped)
{
	SITE("ConnectEx", WSAECONNREFUSED, WSAENETUNREACH, WSAENOBUFS,
		(int)STATUS_CONNECTION_REFUSED, (int)STATUS_IO_TIMEOUT, (int)STATUS_CANCELLED);

	if (fails((HANDLE)s, overlapped, how))
		return FALSE;
	return real_connect(s, to, length, from, count, moved, overlapped);
}

static BOOL WINAPI faulty_transmit(SOCKET s, HANDLE file, DWORD length, DWORD part,
	LPOVERLAPPED overlapped, LPTRANSMIT_FILE_BUFFERS around, DWORD flags)
{
	SITE("TransmitFile", WSAECONNRESET, WSAENOBUFS, (int)STATUS_CONNECTION_RESET,
		(int)STATUS_INSUFFICIENT_RESOURCES, (int)STATUS_CANCELLED);

	if (fails((HANDLE)s, overlapped, how))
		return FALSE;
	return real_transmit(s, file, length, part, overlapped, around, flags);
}

static INT WINAPI faulty_receive(SOCKET s, LPWSAMSG message, LPDWORD moved,
	LPWSAOVERLAPPED overlapped, LPWSAOVERLAPPED_COMPLETION_ROUTINE routine)
{
	SITE("WSARecvMsg", WSAENOBUFS, (int)STATUS_INSUFFICIENT_RESOURCES, (int)STATUS_CANCELLED);

	if (fails((HANDLE)s, overlapped, how))
		return SOCKET_ERROR;
	return real_receive(s, message, moved, overlapped, routine);
}

static bool same(const GUID *asked, const GUID *known)
{
	return memcmp(asked, known, sizeof *asked) == 0;
}

static void put_in_front(const GUID *which, void **function)
{
	static const GUID accept = WSAID_ACCEPTEX, connect = WSAID_CONNECTEX,
			  transmit = WSAID_TRANSMITFILE, receive = WSAID_WSARECVMSG;

	if (same(which, &accept)) {
		real_accept = (LPFN_ACCEPTEX)*function;
		*function = (void *)faulty_accept_ex;
	} else if (same(which, &connect)) {
		real_connect = (LPFN_CONNECTEX)*function;
		*function = (void *)faulty_connect_ex;
	} else if (same(which, &transmit)) {
		real_transmit = (LPFN_TRANSMITFILE)*function;
		*function = (void *)faulty_transmit;
	} else if (same(which, &receive)) {
		real_receive = (LPFN_WSARECVMSG)*function;
		*function = (void *)faulty_receive;
	}
}

int WINAPI faulty_WSAIoctl(SOCKET s, DWORD code, LPVOID in, DWORD in_size, LPVOID out,
	DWORD out_size, LPDWORD moved, LPWSAOVERLAPPED overlapped,
	LPWSAOVERLAPPED_COMPLETION_ROUTINE routine);
int WINAPI faulty_WSAIoctl(SOCKET s, DWORD code, LPVOID in, DWORD in_size, LPVOID out,
	DWORD out_size, LPDWORD moved, LPWSAOVERLAPPED overlapped,
	LPWSAOVERLAPPED_COMPLETION_ROUTINE routine)
{
	SITE("WSAIoctl", WSAENOBUFS, WSAEOPNOTSUPP);
	int result;

	if (fails(NULL, NULL, how))
		return SOCKET_ERROR;
	result = WSAIoctl(s, code, in, in_size, out, out_size, moved, overlapped, routine);
	if (result == 0 && code == SIO_GET_EXTENSION_FUNCTION_POINTER)
		put_in_front(in, out);
	return result;
}

/* ---- files and pipes ------------------------------------------------------------------ */

CALL_HANDLE(CreateFileW,
	(LPCWSTR path, DWORD access, DWORD share, LPSECURITY_ATTRIBUTES security, DWORD how_so,
		DWORD flags, HANDLE like),
	(path, access, share, security, how_so, flags, like), ERROR_TOO_MANY_OPEN_FILES,
	ERROR_ACCESS_DENIED, ERROR_SHARING_VIOLATION, ERROR_NOT_ENOUGH_MEMORY)
CALL_KEPT(INVALID_HANDLE_VALUE, ReOpenFile, (HANDLE file, DWORD access, DWORD share, DWORD flags),
	(file, access, share, flags), ERROR_TOO_MANY_OPEN_FILES, ERROR_NOT_ENOUGH_MEMORY)
CALL_HANDLE(CreateNamedPipeW,
	(LPCWSTR name, DWORD access, DWORD mode, DWORD most, DWORD out, DWORD in, DWORD ms,
		LPSECURITY_ATTRIBUTES security),
	(name, access, mode, most, out, in, ms, security), ERROR_PIPE_BUSY, ERROR_ACCESS_DENIED,
	ERROR_NOT_ENOUGH_MEMORY)
CALL_BOOL(CreateDirectoryW, (LPCWSTR path, LPSECURITY_ATTRIBUTES security), (path, security),
	ERROR_DISK_FULL, ERROR_WRITE_PROTECT)
CALL_BOOL(RemoveDirectoryW, (LPCWSTR path), (path), ERROR_WRITE_PROTECT)
CALL_BOOL(MoveFileExW, (LPCWSTR from, LPCWSTR to, DWORD flags), (from, to, flags), ERROR_DISK_FULL,
	ERROR_WRITE_PROTECT)
CALL_BOOL(FlushFileBuffers, (HANDLE file), (file), ERROR_DISK_FULL, ERROR_IO_DEVICE)
CALL_BOOL(GetFileInformationByHandle, (HANDLE file, LPBY_HANDLE_FILE_INFORMATION out), (file, out),
	ERROR_IO_DEVICE)
CALL_BOOL(GetFileInformationByHandleEx,
	(HANDLE file, FILE_INFO_BY_HANDLE_CLASS which, LPVOID out, DWORD size),
	(file, which, out, size), ERROR_IO_DEVICE)
CALL_BOOL(SetFileInformationByHandle,
	(HANDLE file, FILE_INFO_BY_HANDLE_CLASS which, LPVOID in, DWORD size),
	(file, which, in, size), ERROR_DISK_FULL, ERROR_WRITE_PROTECT)
CALL_BOOL(GetFileSizeEx, (HANDLE file, PLARGE_INTEGER size), (file, size), ERROR_IO_DEVICE)
CALL_OF(DWORD, INVALID_FILE_ATTRIBUTES, GetFileAttributesW, (LPCWSTR path), (path),
	ERROR_ACCESS_DENIED)
CALL_OF(DWORD, 0, GetFullPathNameW, (LPCWSTR path, DWORD room, LPWSTR out, LPWSTR *last),
	(path, room, out, last), ERROR_NOT_ENOUGH_MEMORY)
CALL_BOOL(PeekNamedPipe,
	(HANDLE pipe, LPVOID to, DWORD room, LPDWORD moved, LPDWORD there, LPDWORD left),
	(pipe, to, room, moved, there, left), ERROR_NO_SYSTEM_RESOURCES)
CALL_KEPT(NULL, CreateEventW, (LPSECURITY_ATTRIBUTES security, BOOL manual, BOOL set, LPCWSTR name),
	(security, manual, set, name), ERROR_NOT_ENOUGH_MEMORY, ERROR_NO_SYSTEM_RESOURCES)

BOOL WINAPI faulty_DuplicateHandle(HANDLE theirs, HANDLE from, HANDLE ours, LPHANDLE out,
	DWORD access, BOOL inherit, DWORD options);
BOOL WINAPI faulty_DuplicateHandle(HANDLE theirs, HANDLE from, HANDLE ours, LPHANDLE out,
	DWORD access, BOOL inherit, DWORD options)
{
	SITE("DuplicateHandle", ERROR_NO_SYSTEM_RESOURCES);

	if (fails(NULL, NULL, how) ||
		!DuplicateHandle(theirs, from, ours, out, access, inherit, options))
		return FALSE;
	kept(*out);
	return TRUE;
}

/* A position is but a number that the system keeps: what is right can be set. */
BOOL WINAPI faulty_SetFilePointerEx(HANDLE file, LARGE_INTEGER to, PLARGE_INTEGER now, DWORD from);
BOOL WINAPI faulty_SetFilePointerEx(HANDLE file, LARGE_INTEGER to, PLARGE_INTEGER now, DWORD from)
{
	FAULT_SITE(site, "SetFilePointerEx", ERROR_IO_DEVICE);
	int how = from == FILE_BEGIN ? 0 : fault_here(&site);

	if (how == 0)
		return SetFilePointerEx(file, to, now, from);
	SetLastError((DWORD)how);
	return FALSE;
}

/* A disk's read is short at the file's end alone, its write only if there is no more
 * room; a pipe's may always be. */
static bool may_stop(HANDLE file)
{
	return GetFileType(file) == FILE_TYPE_PIPE;
}

BOOL WINAPI faulty_ReadFile(
	HANDLE file, LPVOID to, DWORD length, LPDWORD moved, LPOVERLAPPED overlapped);
BOOL WINAPI faulty_ReadFile(
	HANDLE file, LPVOID to, DWORD length, LPDWORD moved, LPOVERLAPPED overlapped)
{
	SITE("ReadFile", FAULT_SHORT, ERROR_NO_SYSTEM_RESOURCES, ERROR_IO_DEVICE,
		(int)STATUS_INSUFFICIENT_RESOURCES, (int)STATUS_CANCELLED);

	if (how == FAULT_SHORT && may_stop(file))
		length = cut(&site, length);
	if (fails(file, overlapped, how))
		return FALSE;
	return ReadFile(file, to, length, moved, overlapped);
}

BOOL WINAPI faulty_WriteFile(
	HANDLE file, LPCVOID from, DWORD length, LPDWORD moved, LPOVERLAPPED overlapped);
BOOL WINAPI faulty_WriteFile(
	HANDLE file, LPCVOID from, DWORD length, LPDWORD moved, LPOVERLAPPED overlapped)
{
	SITE("WriteFile", FAULT_SHORT, ERROR_NO_SYSTEM_RESOURCES, ERROR_DISK_FULL, ERROR_NO_DATA,
		(int)STATUS_DISK_FULL, (int)STATUS_CANCELLED);

	if (how == FAULT_SHORT)
		length = cut(&site, length);
	if (fails(file, overlapped, how))
		return FALSE;
	return WriteFile(file, from, length, moved, overlapped);
}

/* It tells how a call has ended, and there is no end before that. */
BOOL WINAPI faulty_GetOverlappedResult(
	HANDLE file, LPOVERLAPPED overlapped, LPDWORD moved, BOOL waits);
BOOL WINAPI faulty_GetOverlappedResult(
	HANDLE file, LPOVERLAPPED overlapped, LPDWORD moved, BOOL waits)
{
	SITE("GetOverlappedResult", ERROR_IO_DEVICE, ERROR_NO_SYSTEM_RESOURCES);
	BOOL good = GetOverlappedResult(file, overlapped, moved, waits);

	if (!good || how == 0)
		return good;
	SetLastError((DWORD)how);
	return FALSE;
}

/* ---- processes, threads, modules -------------------------------------------------------- */

CALL_BOOL(CreateProcessW,
	(LPCWSTR program, LPWSTR line, LPSECURITY_ATTRIBUTES process, LPSECURITY_ATTRIBUTES thread,
		BOOL inherit, DWORD flags, LPVOID environment, LPCWSTR directory,
		LPSTARTUPINFOW start, LPPROCESS_INFORMATION out),
	(program, line, process, thread, inherit, flags, environment, directory, start, out),
	ERROR_FILE_NOT_FOUND, ERROR_ACCESS_DENIED, ERROR_NOT_ENOUGH_MEMORY, ERROR_BAD_EXE_FORMAT)

/* Without a list it tells but how large one is. */
BOOL WINAPI faulty_InitializeProcThreadAttributeList(
	LPPROC_THREAD_ATTRIBUTE_LIST list, DWORD count, DWORD flags, PSIZE_T size);
BOOL WINAPI faulty_InitializeProcThreadAttributeList(
	LPPROC_THREAD_ATTRIBUTE_LIST list, DWORD count, DWORD flags, PSIZE_T size)
{
	FAULT_SITE(site, "InitializeProcThreadAttributeList", ERROR_NOT_ENOUGH_MEMORY);
	int how = list == NULL ? 0 : fault_here(&site);

	if (how == 0)
		return InitializeProcThreadAttributeList(list, count, flags, size);
	SetLastError((DWORD)how);
	return FALSE;
}

CALL_BOOL(UpdateProcThreadAttribute,
	(LPPROC_THREAD_ATTRIBUTE_LIST list, DWORD flags, DWORD_PTR which, PVOID value, SIZE_T size,
		PVOID before, PSIZE_T room),
	(list, flags, which, value, size, before, room), ERROR_NOT_ENOUGH_MEMORY)
CALL_BOOL(TerminateProcess, (HANDLE process, UINT code), (process, code), ERROR_ACCESS_DENIED)
CALL_KEPT(NULL, OpenThread, (DWORD access, BOOL inherit, DWORD id), (access, inherit, id),
	ERROR_NOT_ENOUGH_MEMORY)
CALL_BOOL(RegisterWaitForSingleObject,
	(PHANDLE out, HANDLE what, WAITORTIMERCALLBACK call, PVOID argument, ULONG ms, ULONG flags),
	(out, what, call, argument, ms, flags), ERROR_NOT_ENOUGH_MEMORY)
CALL_BOOL(SetConsoleCtrlHandler, (PHANDLER_ROUTINE handler, BOOL add), (handler, add),
	ERROR_NOT_ENOUGH_MEMORY)
CALL_BOOL(GetModuleHandleExW, (DWORD flags, LPCWSTR name, HMODULE *out), (flags, name, out),
	ERROR_NOT_ENOUGH_MEMORY)
CALL_OF(FARPROC, NULL, GetProcAddress, (HMODULE module, LPCSTR name), (module, name),
	ERROR_PROC_NOT_FOUND)

uintptr_t faulty__beginthreadex(void *security, unsigned stack, _beginthreadex_proc_type run,
	void *argument, unsigned flags, unsigned *id);
uintptr_t faulty__beginthreadex(void *security, unsigned stack, _beginthreadex_proc_type run,
	void *argument, unsigned flags, unsigned *id)
{
	SITE("_beginthreadex", ERROR_NO_PROC_SLOTS);

	if (how == 0)
		return (uintptr_t)kept(
			(HANDLE)_beginthreadex(security, stack, run, argument, flags, id));
	errno = EAGAIN;
	return 0;
}

/* ---- memory, and names ------------------------------------------------------------------ */

static void *noted(void *block)
{
	if (block == NULL)
		errno = ENOMEM;
	else
		faults_block(1);
	return block;
}

void *faulty_malloc(size_t size);
void *faulty_malloc(size_t size)
{
	SITE("malloc", FAULT_NO_MEMORY);

	return noted(how != 0 ? NULL : malloc(size));
}

void *faulty_calloc(size_t count, size_t size);
void *faulty_calloc(size_t count, size_t size)
{
	SITE("calloc", FAULT_NO_MEMORY);

	return noted(how != 0 ? NULL : calloc(count, size));
}

void *faulty_realloc(void *from, size_t size);
void *faulty_realloc(void *from, size_t size)
{
	SITE("realloc", FAULT_NO_MEMORY);
	void *block = how != 0 ? NULL : realloc(from, size);

	return from == NULL ? noted(block) : block;
}

void faulty_free(void *block);
void faulty_free(void *block)
{
	if (block != NULL)
		faults_block(-1);
	free(block);
}

int WINAPI faulty_getaddrinfo(
	const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **out);
int WINAPI faulty_getaddrinfo(
	const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **out)
{
	SITE("getaddrinfo", WSATRY_AGAIN, FAULT_NO_MEMORY, WSANO_RECOVERY);
	int code = how != 0 ? how : getaddrinfo(host, service, hints, out);

	if (code == 0)
		faults_block(1);
	return code;
}

void WINAPI faulty_freeaddrinfo(struct addrinfo *found);
void WINAPI faulty_freeaddrinfo(struct addrinfo *found)
{
	faults_block(-1);
	freeaddrinfo(found);
}

/* The system's errors as ours: GetLastError()'s, Winsock's, which are numbers of
 * the same space from 10000 on, and the NTSTATUS that an OVERLAPPED holds.
 *
 * One number can mean different things to different calls; here is what it means
 * to most. Callers deal with the rest before they ask (ERROR_BROKEN_PIPE is the
 * end of a stream to who reads; ERROR_ACCESS_DENIED may be a directory). */
#define WIN32_NO_STATUS /* or windows.h defines a few of ntstatus.h's names */
#include <winsock2.h>
#include <windows.h>
#undef WIN32_NO_STATUS
#include <winternl.h> /* NTSTATUS, which WIN32_LEAN_AND_MEAN leaves out */
#include <ntstatus.h>

#include <proa/error.h>

/* Older headers lack them. */
#ifndef ERROR_ELEVATION_REQUIRED
#	define ERROR_ELEVATION_REQUIRED 740L
#endif
#ifndef ERROR_DISK_QUOTA_EXCEEDED
#	define ERROR_DISK_QUOTA_EXCEEDED 1295L
#endif

/* From winerror.h. What others have open or locked is busy: the C runtime makes
 * EACCES of it, and a program would look for a right that it lacks. */
#define WIN32_ERRORS(X)                                 \
	X(ERROR_INVALID_FUNCTION, ENOSYS)               \
	X(ERROR_FILE_NOT_FOUND, ENOENT)                 \
	X(ERROR_PATH_NOT_FOUND, ENOENT)                 \
	X(ERROR_TOO_MANY_OPEN_FILES, EMFILE)            \
	X(ERROR_ACCESS_DENIED, EACCES)                  \
	X(ERROR_INVALID_HANDLE, EBADF)                  \
	X(ERROR_NOT_ENOUGH_MEMORY, ENOMEM)              \
	X(ERROR_INVALID_BLOCK, EFAULT)                  \
	X(ERROR_BAD_ENVIRONMENT, E2BIG)                 \
	X(ERROR_BAD_FORMAT, ENOEXEC)                    \
	X(ERROR_INVALID_ACCESS, EINVAL)                 \
	X(ERROR_INVALID_DATA, EINVAL)                   \
	X(ERROR_OUTOFMEMORY, ENOMEM)                    \
	X(ERROR_INVALID_DRIVE, ENODEV)                  \
	X(ERROR_CURRENT_DIRECTORY, EBUSY)               \
	X(ERROR_NOT_SAME_DEVICE, EXDEV)                 \
	X(ERROR_WRITE_PROTECT, EROFS)                   \
	X(ERROR_BAD_UNIT, ENODEV)                       \
	X(ERROR_NOT_READY, ENXIO)                       \
	X(ERROR_BAD_COMMAND, EIO)                       \
	X(ERROR_BAD_LENGTH, EINVAL)                     \
	X(ERROR_GEN_FAILURE, EIO)                       \
	X(ERROR_SHARING_VIOLATION, EBUSY)               \
	X(ERROR_LOCK_VIOLATION, EBUSY)                  \
	X(ERROR_HANDLE_DISK_FULL, ENOSPC)               \
	X(ERROR_NOT_SUPPORTED, EOPNOTSUPP)              \
	X(ERROR_REM_NOT_LIST, EHOSTDOWN)                \
	X(ERROR_DUP_NAME, EADDRINUSE)                   \
	X(ERROR_BAD_NETPATH, ENOENT)                    \
	X(ERROR_NETWORK_BUSY, EBUSY)                    \
	X(ERROR_DEV_NOT_EXIST, ENODEV)                  \
	X(ERROR_UNEXP_NET_ERR, EIO)                     \
	X(ERROR_NETNAME_DELETED, ECONNRESET)            \
	X(ERROR_NETWORK_ACCESS_DENIED, EACCES)          \
	X(ERROR_BAD_NET_NAME, ENOENT)                   \
	X(ERROR_FILE_EXISTS, EEXIST)                    \
	X(ERROR_CANNOT_MAKE, EACCES)                    \
	X(ERROR_INVALID_PARAMETER, EINVAL)              \
	X(ERROR_NO_PROC_SLOTS, EAGAIN)                  \
	X(ERROR_DRIVE_LOCKED, EBUSY)                    \
	X(ERROR_BROKEN_PIPE, EPIPE)                     \
	X(ERROR_OPEN_FAILED, EIO)                       \
	X(ERROR_BUFFER_OVERFLOW, ENAMETOOLONG)          \
	X(ERROR_DISK_FULL, ENOSPC)                      \
	X(ERROR_INVALID_TARGET_HANDLE, EBADF)           \
	X(ERROR_CALL_NOT_IMPLEMENTED, ENOSYS)           \
	X(ERROR_SEM_TIMEOUT, ETIMEDOUT)                 \
	X(ERROR_INSUFFICIENT_BUFFER, ERANGE)            \
	X(ERROR_INVALID_NAME, ENOENT)                   \
	X(ERROR_INVALID_LEVEL, EINVAL)                  \
	X(ERROR_MOD_NOT_FOUND, ENOENT)                  \
	X(ERROR_PROC_NOT_FOUND, ENOSYS)                 \
	X(ERROR_WAIT_NO_CHILDREN, ECHILD)               \
	X(ERROR_CHILD_NOT_COMPLETE, EBUSY)              \
	X(ERROR_DIRECT_ACCESS_HANDLE, EBADF)            \
	X(ERROR_NEGATIVE_SEEK, EINVAL)                  \
	X(ERROR_SEEK_ON_DEVICE, ESPIPE)                 \
	X(ERROR_DIR_NOT_ROOT, EINVAL)                   \
	X(ERROR_DIR_NOT_EMPTY, ENOTEMPTY)               \
	X(ERROR_PATH_BUSY, EBUSY)                       \
	X(ERROR_BAD_PATHNAME, ENOENT)                   \
	X(ERROR_BUSY, EBUSY)                            \
	X(ERROR_ALREADY_EXISTS, EEXIST)                 \
	X(ERROR_BAD_EXE_FORMAT, ENOEXEC)                \
	X(ERROR_EXE_MACHINE_TYPE_MISMATCH, ENOEXEC)     \
	X(ERROR_FILENAME_EXCED_RANGE, ENAMETOOLONG)     \
	X(ERROR_FILE_TOO_LARGE, EFBIG)                  \
	X(ERROR_BAD_PIPE, EINVAL)                       \
	X(ERROR_PIPE_BUSY, EBUSY)                       \
	X(ERROR_NO_DATA, EPIPE)                         \
	X(ERROR_PIPE_NOT_CONNECTED, EPIPE)              \
	X(ERROR_MORE_DATA, EMSGSIZE)                    \
	X(WAIT_TIMEOUT, ETIMEDOUT)                      \
	X(ERROR_DIRECTORY, ENOTDIR)                     \
	X(ERROR_INVALID_ADDRESS, EFAULT)                \
	X(ERROR_PIPE_CONNECTED, EISCONN)                \
	X(ERROR_PIPE_LISTENING, ENOTCONN)               \
	X(ERROR_ELEVATION_REQUIRED, EPERM)              \
	X(ERROR_OPERATION_ABORTED, ECANCELED)           \
	X(ERROR_IO_INCOMPLETE, EINPROGRESS)             \
	X(ERROR_IO_PENDING, EINPROGRESS)                \
	X(ERROR_NOACCESS, EFAULT)                       \
	X(ERROR_STACK_OVERFLOW, ENOMEM)                 \
	X(ERROR_FILE_INVALID, ESTALE)                   \
	X(ERROR_NO_TOKEN, EPERM)                        \
	X(ERROR_IO_DEVICE, EIO)                         \
	X(ERROR_SERIAL_NO_DEVICE, ENODEV)               \
	X(ERROR_POSSIBLE_DEADLOCK, EDEADLK)             \
	X(ERROR_TOO_MANY_LINKS, EMLINK)                 \
	X(ERROR_NO_UNICODE_TRANSLATION, EILSEQ)         \
	X(ERROR_DEVICE_NOT_CONNECTED, ENODEV)           \
	X(ERROR_NOT_FOUND, ENOENT)                      \
	X(ERROR_CANCELLED, ECANCELED)                   \
	X(ERROR_CONNECTION_REFUSED, ECONNREFUSED)       \
	X(ERROR_GRACEFUL_DISCONNECT, EPIPE)             \
	X(ERROR_ADDRESS_ALREADY_ASSOCIATED, EADDRINUSE) \
	X(ERROR_ADDRESS_NOT_ASSOCIATED, EADDRNOTAVAIL)  \
	X(ERROR_CONNECTION_INVALID, ENOTCONN)           \
	X(ERROR_CONNECTION_ACTIVE, EISCONN)             \
	X(ERROR_NETWORK_UNREACHABLE, ENETUNREACH)       \
	X(ERROR_HOST_UNREACHABLE, EHOSTUNREACH)         \
	X(ERROR_PROTOCOL_UNREACHABLE, EPROTONOSUPPORT)  \
	X(ERROR_PORT_UNREACHABLE, ECONNREFUSED)         \
	X(ERROR_REQUEST_ABORTED, ECANCELED)             \
	X(ERROR_CONNECTION_ABORTED, ECONNABORTED)       \
	X(ERROR_RETRY, EAGAIN)                          \
	X(ERROR_NOT_AUTHENTICATED, EACCES)              \
	X(ERROR_HOST_DOWN, EHOSTDOWN)                   \
	X(ERROR_PRIVILEGE_NOT_HELD, EPERM)              \
	X(ERROR_DISK_QUOTA_EXCEEDED, EDQUOT)            \
	X(ERROR_TIMEOUT, ETIMEDOUT)                     \
	X(ERROR_NO_SYSTEM_RESOURCES, ENOMEM)            \
	X(ERROR_NONPAGED_SYSTEM_RESOURCES, ENOMEM)      \
	X(ERROR_PAGED_SYSTEM_RESOURCES, ENOMEM)         \
	X(ERROR_WORKING_SET_QUOTA, ENOMEM)              \
	X(ERROR_COMMITMENT_LIMIT, ENOMEM)               \
	X(ERROR_NOT_ENOUGH_QUOTA, ENOMEM)               \
	X(ERROR_CANT_RESOLVE_FILENAME, ELOOP)           \
	X(ERROR_NOT_A_REPARSE_POINT, EINVAL)            \
	X(ERROR_INVALID_REPARSE_DATA, EIO)              \
	X(ERROR_DELETE_PENDING, EBUSY)                  \
	X(ERROR_USER_MAPPED_FILE, EBUSY)

/* From winsock2.h. WSAESHUTDOWN is a socket's; our own number of that name says
 * that the port is shut. WSA_INVALID_HANDLE and its like are Win32's numbers. */
#define WINSOCK_ERRORS(X)                      \
	X(WSAEINTR, EINTR)                     \
	X(WSAEBADF, EBADF)                     \
	X(WSAEACCES, EACCES)                   \
	X(WSAEFAULT, EFAULT)                   \
	X(WSAEINVAL, EINVAL)                   \
	X(WSAEMFILE, EMFILE)                   \
	X(WSAEWOULDBLOCK, EAGAIN)              \
	X(WSAEINPROGRESS, EINPROGRESS)         \
	X(WSAEALREADY, EALREADY)               \
	X(WSAENOTSOCK, ENOTSOCK)               \
	X(WSAEDESTADDRREQ, EDESTADDRREQ)       \
	X(WSAEMSGSIZE, EMSGSIZE)               \
	X(WSAEPROTOTYPE, EPROTOTYPE)           \
	X(WSAENOPROTOOPT, ENOPROTOOPT)         \
	X(WSAEPROTONOSUPPORT, EPROTONOSUPPORT) \
	X(WSAESOCKTNOSUPPORT, ESOCKTNOSUPPORT) \
	X(WSAEOPNOTSUPP, EOPNOTSUPP)           \
	X(WSAEPFNOSUPPORT, EPFNOSUPPORT)       \
	X(WSAEAFNOSUPPORT, EAFNOSUPPORT)       \
	X(WSAEADDRINUSE, EADDRINUSE)           \
	X(WSAEADDRNOTAVAIL, EADDRNOTAVAIL)     \
	X(WSAENETDOWN, ENETDOWN)               \
	X(WSAENETUNREACH, ENETUNREACH)         \
	X(WSAENETRESET, ENETRESET)             \
	X(WSAECONNABORTED, ECONNABORTED)       \
	X(WSAECONNRESET, ECONNRESET)           \
	X(WSAENOBUFS, ENOMEM)                  \
	X(WSAEISCONN, EISCONN)                 \
	X(WSAENOTCONN, ENOTCONN)               \
	X(WSAESHUTDOWN, EPIPE)                 \
	X(WSAETIMEDOUT, ETIMEDOUT)             \
	X(WSAECONNREFUSED, ECONNREFUSED)       \
	X(WSAELOOP, ELOOP)                     \
	X(WSAENAMETOOLONG, ENAMETOOLONG)       \
	X(WSAEHOSTDOWN, EHOSTDOWN)             \
	X(WSAEHOSTUNREACH, EHOSTUNREACH)       \
	X(WSAENOTEMPTY, ENOTEMPTY)             \
	X(WSAEPROCLIM, EAGAIN)                 \
	X(WSAEUSERS, EDQUOT)                   \
	X(WSAEDQUOT, EDQUOT)                   \
	X(WSAESTALE, ESTALE)                   \
	X(WSASYSNOTREADY, ENETDOWN)            \
	X(WSAVERNOTSUPPORTED, ENOSYS)          \
	X(WSANOTINITIALISED, ENETDOWN)         \
	X(WSAEDISCON, EPIPE)                   \
	X(WSAECANCELLED, ECANCELED)            \
	X(WSASERVICE_NOT_FOUND, ENONAME)       \
	X(WSATYPE_NOT_FOUND, ENONAME)          \
	X(WSA_E_CANCELLED, ECANCELED)          \
	X(WSAEREFUSED, ECONNREFUSED)           \
	X(WSAHOST_NOT_FOUND, ENONAME)          \
	X(WSATRY_AGAIN, EAGAIN)                \
	X(WSANO_DATA, ENONAME)

/* From ntstatus.h. A connection that the peer reset is one of five, by what the
 * driver was doing. */
#define NTSTATUS_ERRORS(X)                                 \
	X(STATUS_BUFFER_OVERFLOW, EMSGSIZE)                \
	X(STATUS_NOT_IMPLEMENTED, ENOSYS)                  \
	X(STATUS_INVALID_INFO_CLASS, EINVAL)               \
	X(STATUS_ACCESS_VIOLATION, EFAULT)                 \
	X(STATUS_INVALID_HANDLE, EBADF)                    \
	X(STATUS_INVALID_PARAMETER, EINVAL)                \
	X(STATUS_NO_SUCH_DEVICE, ENODEV)                   \
	X(STATUS_NO_SUCH_FILE, ENOENT)                     \
	X(STATUS_INVALID_DEVICE_REQUEST, EOPNOTSUPP)       \
	X(STATUS_NO_MEMORY, ENOMEM)                        \
	X(STATUS_ACCESS_DENIED, EACCES)                    \
	X(STATUS_BUFFER_TOO_SMALL, EMSGSIZE)               \
	X(STATUS_OBJECT_TYPE_MISMATCH, ENOTSOCK)           \
	X(STATUS_OBJECT_NAME_INVALID, ENOENT)              \
	X(STATUS_OBJECT_NAME_NOT_FOUND, ENOENT)            \
	X(STATUS_OBJECT_NAME_COLLISION, EEXIST)            \
	X(STATUS_OBJECT_PATH_NOT_FOUND, ENOENT)            \
	X(STATUS_SHARING_VIOLATION, EBUSY)                 \
	X(STATUS_FILE_LOCK_CONFLICT, EBUSY)                \
	X(STATUS_DELETE_PENDING, EBUSY)                    \
	X(STATUS_QUOTA_EXCEEDED, ENOMEM)                   \
	X(STATUS_PRIVILEGE_NOT_HELD, EPERM)                \
	X(STATUS_DISK_FULL, ENOSPC)                        \
	X(STATUS_INSUFFICIENT_RESOURCES, ENOMEM)           \
	X(STATUS_DEVICE_NOT_CONNECTED, ENODEV)             \
	X(STATUS_MEDIA_WRITE_PROTECTED, EROFS)             \
	X(STATUS_FILE_IS_A_DIRECTORY, EISDIR)              \
	X(STATUS_NOT_SUPPORTED, EOPNOTSUPP)                \
	X(STATUS_INVALID_NETWORK_RESPONSE, EPROTO)         \
	X(STATUS_BAD_NETWORK_PATH, ENETUNREACH)            \
	X(STATUS_NETWORK_BUSY, EBUSY)                      \
	X(STATUS_NETWORK_NAME_DELETED, ECONNRESET)         \
	X(STATUS_NOT_SAME_DEVICE, EXDEV)                   \
	X(STATUS_DIRECTORY_NOT_EMPTY, ENOTEMPTY)           \
	X(STATUS_NOT_A_DIRECTORY, ENOTDIR)                 \
	X(STATUS_NAME_TOO_LONG, ENAMETOOLONG)              \
	X(STATUS_TOO_MANY_OPENED_FILES, EMFILE)            \
	X(STATUS_CANCELLED, ECANCELED)                     \
	X(STATUS_CANNOT_DELETE, EACCES)                    \
	X(STATUS_FILE_DELETED, ESTALE)                     \
	X(STATUS_FILE_CLOSED, EBADF)                       \
	X(STATUS_PIPE_NOT_AVAILABLE, EBUSY)                \
	X(STATUS_PIPE_BUSY, EBUSY)                         \
	X(STATUS_PIPE_DISCONNECTED, EPIPE)                 \
	X(STATUS_PIPE_CLOSING, EPIPE)                      \
	X(STATUS_PIPE_CONNECTED, EISCONN)                  \
	X(STATUS_PIPE_LISTENING, ENOTCONN)                 \
	X(STATUS_PIPE_BROKEN, EPIPE)                       \
	X(STATUS_IO_TIMEOUT, ETIMEDOUT)                    \
	X(STATUS_TOO_MANY_LINKS, EMLINK)                   \
	X(STATUS_LOCAL_DISCONNECT, ECONNABORTED)           \
	X(STATUS_REMOTE_DISCONNECT, ECONNRESET)            \
	X(STATUS_REMOTE_RESOURCES, ENOMEM)                 \
	X(STATUS_LINK_FAILED, ECONNRESET)                  \
	X(STATUS_LINK_TIMEOUT, ETIMEDOUT)                  \
	X(STATUS_INVALID_CONNECTION, ENOTCONN)             \
	X(STATUS_INVALID_ADDRESS, EADDRNOTAVAIL)           \
	X(STATUS_INVALID_ADDRESS_COMPONENT, EADDRNOTAVAIL) \
	X(STATUS_ADDRESS_ALREADY_EXISTS, EADDRINUSE)       \
	X(STATUS_ADDRESS_CLOSED, ENOTCONN)                 \
	X(STATUS_CONNECTION_DISCONNECTED, ECONNRESET)      \
	X(STATUS_CONNECTION_RESET, ECONNRESET)             \
	X(STATUS_TRANSACTION_ABORTED, ECONNABORTED)        \
	X(STATUS_CONNECTION_REFUSED, ECONNREFUSED)         \
	X(STATUS_GRACEFUL_DISCONNECT, EPIPE)               \
	X(STATUS_ADDRESS_ALREADY_ASSOCIATED, EADDRINUSE)   \
	X(STATUS_ADDRESS_NOT_ASSOCIATED, EADDRNOTAVAIL)    \
	X(STATUS_CONNECTION_INVALID, ENOTCONN)             \
	X(STATUS_CONNECTION_ACTIVE, EISCONN)               \
	X(STATUS_NETWORK_UNREACHABLE, ENETUNREACH)         \
	X(STATUS_HOST_UNREACHABLE, EHOSTUNREACH)           \
	X(STATUS_PROTOCOL_UNREACHABLE, ENETUNREACH)        \
	X(STATUS_PORT_UNREACHABLE, ECONNREFUSED)           \
	X(STATUS_REQUEST_ABORTED, ECANCELED)               \
	X(STATUS_CONNECTION_ABORTED, ECONNABORTED)         \
	X(STATUS_TOO_MANY_ADDRESSES, EADDRINUSE)           \
	X(STATUS_HOST_DOWN, EHOSTDOWN)                     \
	X(STATUS_HOPLIMIT_EXCEEDED, ENETRESET)             \
	X(STATUS_DISK_QUOTA_EXCEEDED, EDQUOT)

static int from_status(unsigned long value)
{
#define CODE(name, ours)          \
	case (unsigned long)name: \
		return PROA_##ours;
	switch (value) {
		NTSTATUS_ERRORS(CODE)
	}
#undef CODE
	return PROA_EIO;
}

static int from_win32(unsigned long value)
{
#define CODE(name, ours) \
	case name:       \
		return PROA_##ours;
	switch (value) {
	case NO_ERROR:
		return 0;
		WIN32_ERRORS(CODE)
		WINSOCK_ERRORS(CODE)
	}
#undef CODE
	return PROA_EIO;
}

/* An NTSTATUS that is no success has its top bit set; of the other two none has. An
 * HRESULT of a Win32 code, as COM and the shell wrap it, is taken out of its wrap. */
int proa_error_from_system(unsigned long value)
{
	if ((value & 0xffff0000ul) == 0x80070000ul)
		value &= 0xfffful;
	return (value & 0x80000000ul) != 0 ? from_status(value) : from_win32(value);
}

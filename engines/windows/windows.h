/* What engines share on Windows: sockets and handles as ints, single calls. */
#ifndef PROA_ENGINES_WINDOWS_H
#define PROA_ENGINES_WINDOWS_H

#include <winsock2.h>
#include <ws2tcpip.h>
#include <mswsock.h>
#include <windows.h>

#include "engines/attempt.h"

/* 32 bits of a handle are significant, on 64-bit Windows too, so that programs of
 * either kind may share them: they are cut, and extended by their sign. */
static inline SOCKET windows_socket_of(int fd)
{
	return (SOCKET)(intptr_t)fd;
}
static inline HANDLE windows_handle_of(int fd)
{
	return (HANDLE)(intptr_t)fd;
}
static inline int windows_fd(SOCKET s)
{
	return (int)(intptr_t)s;
}
static inline int windows_file(HANDLE handle)
{
	return (int)(intptr_t)handle;
}

/* Our code for what the last Winsock, or other, call left. */
static inline int windows_socket_error(void)
{
	return system_code((unsigned long)WSAGetLastError());
}
static inline int windows_error(void)
{
	return system_code(GetLastError());
}

/* socket.c: a new socket of a SOCK_* type, overlapped, non-blocking for those who
 * don't overlap, not inherited. A descriptor or an error. */
int windows_socket(int family, int type);
bool windows_is_socket(int fd);
/* Puts it into non-blocking mode, which is no matter to overlapped calls. 0 or an error. */
int windows_unblock(int fd);
/* Two ends of a TCP connection to ourselves. 0 or an error. */
int windows_pair(int ends[2]);
/* Whether a datagram socket that nothing listens to for is told so. One that is
 * connected wants to know; for others it would be an error without an address. */
void windows_tell_refusals(int fd, bool tell);
/* A function of the socket provider's, such as ConnectEx, in *function. 0 or an error:
 * PROA_EOPNOTSUPP if it is not there. */
int windows_extension(int fd, const GUID *which, void **function);

/* Is an address of the internet as long as it should be? For others Winsock has
 * several words. */
static inline bool windows_is_whole(const struct proa_address *address)
{
	switch (address->to.any.sa_family) {
	case AF_INET:
		return address->length >= sizeof(struct sockaddr_in);
	case AF_INET6:
		return address->length >= sizeof(struct sockaddr_in6);
	default:
		return true;
	}
}

/* attempt.c: a poll of what is no socket: files never block; pipes and consoles have no
 * driver that tells of them. */
int32_t windows_poll_other(const struct proa_op *op, int fd);

/* transfer.c: reads from `offset` on, be the handle overlapped or not: bytes, 0 at the
 * end of the file, or an error. Blocks. */
int32_t windows_read_at(int file, uint64_t offset, void *buffer, uint32_t length);

#endif

/* Control data of datagrams, as tests need it: the address that one came to, or is to
 * be sent from (IP_PKTINFO). */
#ifndef PROA_TESTS_CONTROL_H
#define PROA_TESTS_CONTROL_H

#include <string.h>

#include "posix.h"

#ifdef _WIN32
#	include <mswsock.h>
#	define cmsghdr    _WSACMSGHDR
#	define CMSG_DATA  WSA_CMSG_DATA
#	define CMSG_LEN   WSA_CMSG_LEN
#	define CMSG_SPACE WSA_CMSG_SPACE
#endif

union control {
	struct cmsghdr header;
	char room[CMSG_SPACE(sizeof(struct in_pktinfo))];
};

/* 0, or the socket can't tell. */
static inline int control_ask(int fd)
{
	const int yes = 1;

	return setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &yes, sizeof yes);
}

/* From the loopback address. The length. */
static inline size_t control_fill(union control *control)
{
	struct in_pktinfo info;

	memset(&info, 0, sizeof info);
	memset(control, 0, sizeof *control);
#ifdef _WIN32
	info.ipi_addr.s_addr = htonl(INADDR_LOOPBACK);
#else
	info.ipi_spec_dst.s_addr = htonl(INADDR_LOOPBACK);
#endif
	control->header.cmsg_level = IPPROTO_IP;
	control->header.cmsg_type = IP_PKTINFO;
	control->header.cmsg_len = CMSG_LEN(sizeof info);
	memcpy(CMSG_DATA(&control->header), &info, sizeof info);
	return sizeof *control;
}

/* Does it say that the datagram came to the loopback address? */
static inline bool control_tells(const union control *control, size_t length)
{
	struct in_pktinfo info;

	if (length < CMSG_LEN(sizeof info) || control->header.cmsg_level != IPPROTO_IP ||
		control->header.cmsg_type != IP_PKTINFO)
		return false;
	memcpy(&info, CMSG_DATA((struct cmsghdr *)(uintptr_t)&control->header), sizeof info);
	return info.ipi_addr.s_addr == htonl(INADDR_LOOPBACK);
}

#endif

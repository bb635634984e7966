/* What every measured program needs: the listening socket, the pattern that
 * the load checks, the limit of descriptors. Nothing here is on a hot path. */
#ifndef PROA_BENCH_PEER_H
#define PROA_BENCH_PEER_H

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <proa/proa.h>

/* A prime: every message of a stream has other bytes. */
#define PATTERN_PERIOD 65521u

static inline void pattern_fill(unsigned char *to, size_t length)
{
	uint64_t x = 0x9e3779b97f4a7c15u;

	for (size_t i = 0; i < length; i++) {
		if (i >= PATTERN_PERIOD) {
			to[i] = to[i - PATTERN_PERIOD];
			continue;
		}
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		to[i] = (unsigned char)(x >> 33);
	}
}

/* The same congestion control on both ends whatever the system's default: one
 * that paces its sends halves bulk throughput on loopback, and hides what the
 * servers differ in. */
static inline void peer_congestion(proa_handle sock)
{
#if defined(TCP_CONGESTION)
	const char *name = getenv("TCP_CC");

	if (name == NULL)
		name = "cubic";
	setsockopt(sock, IPPROTO_TCP, TCP_CONGESTION, name, (socklen_t)strlen(name));
#else
	(void)sock;
#endif
}

/* A listener on a port of loopback (0: any). Accepted sockets inherit both of
 * its options. */
static inline int peer_listen(struct proa_port *port, unsigned number, proa_handle *out)
{
	struct proa_listen_options options = { .no_delay = 1 };
	char where[32];
	int error;

	snprintf(where, sizeof where, "127.0.0.1:%u", number);
	error = proa_listen(port, where, &options, out);
	if (error == 0)
		peer_congestion(*out);
	return error;
}

static inline void peer_descriptors(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

/* Says why and ends, if `error` is one. */
static inline void peer_check(const char *what, int error)
{
	if (error < 0) {
		fprintf(stderr, "%s: %s\n", what, proa_error_text(error));
		exit(1);
	}
}

static inline struct proa_port *peer_open(void)
{
	struct proa_port *port;

	if (proa_port_open(NULL, &port) < 0) {
		fprintf(stderr, "port: %s\n", proa_port_open_why());
		exit(1);
	}
	return port;
}

#endif

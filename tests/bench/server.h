/* The process that serves: forked, on core 0, with a line by which it is asked
 * what it has used so far. On Windows it is a thread. */
#ifndef PROA_BENCH_SERVER_H
#define PROA_BENCH_SERVER_H

#include <netinet/in.h>

#include "bench.h"

enum server_kind { SERVER_ECHO, SERVER_BULK, SERVER_BULK_FILE };

struct server {
#ifdef _WIN32
	pthread_t thread;
#else
	pid_t process;
#endif
	int line;
	struct sockaddr_in address;
};

/* What the server has used since it began. */
struct server_usage {
	int64_t cpu;
	uint64_t calls;
};

/* 0, or -1 with the reason in `result`. */
int server_start(struct server *server, enum server_kind kind, const struct bench_options *options,
	const char *engine, struct bench_result *result);
int server_usage(struct server *server, struct server_usage *out);
/* Ends it. If it did not end well `result` says so, unless it says something already. */
void server_stop(struct server *server, struct bench_result *result);

#endif

/* What the three network loads share: a plain epoll client, not over proa, so
 * that the server's cost alone is seen; the window in which is measured. */
#ifndef PROA_BENCH_CLIENT_H
#define PROA_BENCH_CLIENT_H

#include <sys/epoll.h>

#include "server.h"

#define CLIENT_EVENTS 256
/* Received at once, and sent at once, at most. */
#define CLIENT_PIECE (256u << 10)

struct client {
	const struct bench_options *options;
	struct server server;
	int epoll;
	struct epoll_event events[CLIENT_EVENTS];
	unsigned char *pattern; /* the period and a piece more, so that any piece is in one run */
	unsigned char *piece;
	struct bench_result *result;

	/* the window */
	bool open;
	int64_t opens, closes, opened, own_cpu, progress;
	struct server_usage before;
	uint64_t operations, bytes;
	struct histogram latency;
};

/* Starts server and client. 0, or -1 with the reason in `result`. */
int client_start(struct client *client, enum server_kind kind, const struct bench_options *options,
	const char *engine, struct bench_result *result);
/* Connects the `index`th socket; it does not block afterwards. With `wait` the
 * connection is there. -1: failed, and said so. */
int client_connect(struct client *client, unsigned index, bool wait, void *data);
/* Waits for events; their number, or -1 when the window is over or it failed. */
int client_wait(struct client *client);
/* One operation done: `bytes` of it, begun at `began`. */
void client_done(struct client *client, int64_t now, int64_t began);
bool client_check(struct client *client, const unsigned char *bytes, size_t length, uint64_t at);
/* Ends both, and fills the result in. */
void client_stop(struct client *client);

#endif

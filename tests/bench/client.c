/* The load's common part. */
#include "client.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "peers/peer.h"

/* Warmed up so long before the window opens; and given up after so long
 * without any progress. */
#define WARM_UP  INT64_C(150000000)
#define PATIENCE INT64_C(10000000000)

/* From how many addresses we connect: each has its own range of ports, of
 * which closed connections hold some for a minute. */
#define SOURCES 200

int client_start(struct client *client, enum server_kind kind, const struct bench_options *options,
	const char *engine, struct bench_result *result)
{
	memset(client, 0, sizeof *client);
	bench_clear(result);
	client->options = options;
	client->result = result;
	peer_descriptors();
	if (server_start(&client->server, kind, options, engine, result) != 0)
		return -1;
	bench_pin(1, options->same_core);
	client->pattern = malloc(PATTERN_PERIOD + CLIENT_PIECE);
	client->piece = malloc(CLIENT_PIECE);
	client->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (client->pattern == NULL || client->piece == NULL || client->epoll < 0) {
		bench_fail(result, "the load could not start: %s", strerror(errno));
		client_stop(client);
		return -1;
	}
	pattern_fill(client->pattern, PATTERN_PERIOD + CLIENT_PIECE);
	client->progress = measure_now();
	client->opens = client->progress + WARM_UP;
	return 0;
}

static int connect_socket(struct client *client, int sock, unsigned index, bool wait)
{
	struct sockaddr_in source = { .sin_family = AF_INET };
	int one = 1;

	setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	setsockopt(sock, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
	peer_congestion(sock);
	source.sin_addr.s_addr = htonl(INADDR_LOOPBACK + index % SOURCES);
	if (bind(sock, (struct sockaddr *)&source, sizeof source) != 0)
		return -1;
	if (!wait && fcntl(sock, F_SETFL, O_NONBLOCK) != 0)
		return -1;
	if (connect(sock, (struct sockaddr *)&client->server.address,
		    sizeof client->server.address) != 0 &&
		errno != EINPROGRESS)
		return -1;
	return wait ? fcntl(sock, F_SETFL, O_NONBLOCK) : 0;
}

int client_connect(struct client *client, unsigned index, bool wait, void *data)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET };
	int sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	event.data.ptr = data;
	if (sock >= 0 && connect_socket(client, sock, index, wait) == 0 &&
		epoll_ctl(client->epoll, EPOLL_CTL_ADD, sock, &event) == 0)
		return sock;
	bench_fail(client->result, "connect: %s", strerror(errno));
	if (sock >= 0)
		close(sock);
	return -1;
}

static int window_open(struct client *client)
{
	if (server_usage(&client->server, &client->before) != 0)
		return -1;
	client->open = true;
	client->operations = client->bytes = 0;
	histogram_clear(&client->latency);
	client->own_cpu = measure_cpu();
	client->opened = measure_now();
	client->closes = client->opened + (int64_t)(client->options->seconds * 1e9);
	return 0;
}

static void window_close(struct client *client)
{
	struct bench_result *result = client->result;
	double wall = (double)(measure_now() - client->opened);
	double count = (double)client->operations;
	struct server_usage after;

	result->client = (double)(measure_cpu() - client->own_cpu) / wall;
	if (server_usage(&client->server, &after) != 0) {
		bench_fail(result, "the server does not answer");
		return;
	}
	result->rate = count * 1e9 / wall;
	result->bytes = (double)client->bytes * 1e9 / wall;
	result->cpu = (double)(after.cpu - client->before.cpu) / count;
	result->calls = (double)(after.calls - client->before.calls) / count;
	bench_latency(result, &client->latency);
}

int client_wait(struct client *client)
{
	int count = epoll_wait(client->epoll, client->events, CLIENT_EVENTS, 100);
	int64_t now = measure_now();

	if (client->result->error[0] != '\0')
		return -1;
	if (!client->open && now >= client->opens && window_open(client) != 0) {
		bench_fail(client->result, "the server does not answer");
		return -1;
	}
	/* A slow machine gets the time that one operation takes. */
	if (client->open && now >= client->closes && client->operations > 0) {
		window_close(client);
		return -1;
	}
	if (now - client->progress > PATIENCE) {
		bench_fail(client->result, "stalled: no progress for ten seconds");
		return -1;
	}
	return count < 0 ? 0 : count;
}

void client_done(struct client *client, int64_t now, int64_t began)
{
	client->progress = now;
	client->operations++;
	histogram_add(&client->latency, now - began);
}

bool client_check(struct client *client, const unsigned char *bytes, size_t length, uint64_t at)
{
	if (memcmp(bytes, client->pattern + at % PATTERN_PERIOD, length) == 0)
		return true;
	bench_fail(client->result, "WRONG BYTES near %llu of a stream", (unsigned long long)at);
	return false;
}

void client_stop(struct client *client)
{
	if (client->epoll >= 0)
		close(client->epoll);
	free(client->pattern);
	free(client->piece);
	server_stop(&client->server, client->result);
}

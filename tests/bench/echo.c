/* echo: messages of --size bytes, --pipeline of them outstanding on each of
 * --connections connections. Every byte that comes back is checked. */
#include "client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "peers/peer.h"

/* Each connection walks the same endless pattern, from a start of its own. */
struct connection {
	int sock;
	unsigned oldest; /* of the times in `began` */
	uint64_t start, received, sent, unsent;
	int64_t *began;
};

static bool connection_send(struct client *client, struct connection *connection)
{
	while (connection->unsent > 0) {
		uint64_t at = (connection->start + connection->sent) % PATTERN_PERIOD;
		size_t length =
			connection->unsent < CLIENT_PIECE ? connection->unsent : CLIENT_PIECE;
		ssize_t done = send(connection->sock, client->pattern + at, length, MSG_NOSIGNAL);

		if (done < 0 && errno == EAGAIN)
			return true; /* an edge will tell */
		if (done < 0) {
			bench_fail(client->result, "send: %s", strerror(errno));
			return false;
		}
		connection->sent += (uint64_t)done;
		connection->unsent -= (uint64_t)done;
	}
	return true;
}

/* Counts the messages that `length` more bytes complete; each earns the next. */
static void connection_count(struct client *client, struct connection *connection, size_t length)
{
	size_t size = client->options->size;
	uint64_t done = (connection->received % size + length) / size;
	int64_t now = measure_now();

	connection->received += length;
	client->bytes += length;
	for (uint64_t i = 0; i < done; i++) {
		int64_t *began = &connection->began[connection->oldest];

		client_done(client, now, *began);
		*began = now;
		connection->oldest = (connection->oldest + 1) % client->options->pipeline;
	}
	connection->unsent += done * size;
}

static bool connection_receive(struct client *client, struct connection *connection)
{
	for (;;) {
		ssize_t got = recv(connection->sock, client->piece, CLIENT_PIECE, 0);

		if (got < 0 && errno == EAGAIN)
			return true;
		if (got <= 0) {
			bench_fail(client->result, "receive: %s",
				got < 0 ? strerror(errno) : "closed early");
			return false;
		}
		if (connection->received + (size_t)got > connection->sent) {
			bench_fail(client->result, "more came back than was sent");
			return false;
		}
		if (!client_check(client, client->piece, (size_t)got,
			    connection->start + connection->received))
			return false;
		connection_count(client, connection, (size_t)got);
		if ((size_t)got < CLIENT_PIECE)
			return true; /* drained: later bytes are a new edge */
	}
}

static bool connections_open(struct client *client, struct connection *connections, int64_t *began)
{
	const struct bench_options *options = client->options;

	for (unsigned i = 0; i < options->connections; i++) {
		struct connection *connection = &connections[i];

		connection->began = began + (size_t)i * options->pipeline;
		connection->start = (uint64_t)i * 7919;
		connection->sock = client_connect(client, i, true, connection);
		if (connection->sock < 0)
			return false;
	}
	for (unsigned i = 0; i < options->connections; i++) {
		int64_t now = measure_now();

		for (unsigned k = 0; k < options->pipeline; k++)
			connections[i].began[k] = now;
		connections[i].unsent = (uint64_t)options->pipeline * options->size;
		if (!connection_send(client, &connections[i]))
			return false;
	}
	return true;
}

static void connections_close(struct connection *connections, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		if (connections[i].sock > 0)
			close(connections[i].sock);
}

static void echo_load(struct client *client)
{
	const struct bench_options *options = client->options;
	struct connection *connections = calloc(options->connections, sizeof *connections);
	int64_t *began = calloc((size_t)options->connections * options->pipeline, sizeof *began);
	int count = 0;

	if (connections == NULL || began == NULL)
		bench_fail(client->result, "no memory for the load");
	else if (connections_open(client, connections, began))
		while ((count = client_wait(client)) >= 0)
			for (int i = 0; i < count; i++) {
				struct connection *connection = client->events[i].data.ptr;

				if (!connection_receive(client, connection) ||
					!connection_send(client, connection))
					break;
			}
	if (connections != NULL)
		connections_close(connections, options->connections);
	free(connections);
	free(began);
}

void bench_echo(const struct bench_options *options, const char *engine)
{
	static struct client client;
	struct bench_result result;
	char work[WORK_TEXT];

	if (options->size >= 1024 && options->size % 1024 == 0)
		snprintf(work, sizeof work, "echo %u KiB, %u connections", options->size / 1024,
			options->connections);
	else
		snprintf(work, sizeof work, "echo %u B, %u connections", options->size,
			options->connections);
	if (options->pipeline > 1)
		snprintf(work + strlen(work), sizeof work - strlen(work), ", %u in flight",
			options->pipeline);
	report_running(work, engine);
	if (client_start(&client, SERVER_ECHO, options, engine, &result) == 0) {
		echo_load(&client);
		client_stop(&client);
	}
	report_add(work, engine, &result);
}

/* stream: replies of --size bytes to requests of sixteen, one outstanding on
 * each of --connections connections; with --sendfile from a file. */
#include "client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "peers/bulk_server.h"

struct stream {
	int sock;
	uint64_t received; /* of the reply that is coming */
	int64_t began;
};

static bool stream_ask(struct client *client, struct stream *stream)
{
	static const char request[BULK_REQUEST];

	stream->received = 0;
	stream->began = measure_now();
	if (send(stream->sock, request, sizeof request, MSG_NOSIGNAL) == (ssize_t)sizeof request)
		return true;
	bench_fail(client->result, "send: %s", strerror(errno));
	return false;
}

/* One piece, so that no stream keeps the others waiting; the event is
 * level-triggered for that reason. */
static bool stream_receive(struct client *client, struct stream *stream)
{
	uint64_t left = client->options->size - stream->received;
	ssize_t got =
		recv(stream->sock, client->piece, left < CLIENT_PIECE ? left : CLIENT_PIECE, 0);

	if (got < 0 && errno == EAGAIN)
		return true;
	if (got <= 0) {
		bench_fail(
			client->result, "receive: %s", got < 0 ? strerror(errno) : "closed early");
		return false;
	}
	if (!client_check(client, client->piece, (size_t)got, stream->received))
		return false;
	stream->received += (uint64_t)got;
	client->bytes += (uint64_t)got;
	if (stream->received < client->options->size)
		return true;
	client_done(client, measure_now(), stream->began);
	return stream_ask(client, stream);
}

static bool streams_open(struct client *client, struct stream *streams)
{
	for (unsigned i = 0; i < client->options->connections; i++) {
		struct epoll_event event = { .events = EPOLLIN, .data.ptr = &streams[i] };

		streams[i].sock = client_connect(client, i, true, &streams[i]);
		if (streams[i].sock < 0 || !stream_ask(client, &streams[i]))
			return false;
		epoll_ctl(client->epoll, EPOLL_CTL_MOD, streams[i].sock, &event);
	}
	return true;
}

static void stream_load(struct client *client)
{
	unsigned connections = client->options->connections;
	struct stream *streams = calloc(connections, sizeof *streams);
	int count = 0;

	if (streams == NULL)
		bench_fail(client->result, "no memory for the load");
	else if (streams_open(client, streams))
		while ((count = client_wait(client)) >= 0)
			for (int i = 0; i < count; i++)
				if (!stream_receive(client, client->events[i].data.ptr))
					break;
	for (unsigned i = 0; streams != NULL && i < connections; i++)
		if (streams[i].sock > 0)
			close(streams[i].sock);
	free(streams);
}

void bench_stream(const struct bench_options *options, const char *engine)
{
	static struct client client;
	struct bench_result result;
	char work[WORK_TEXT];

	snprintf(work, sizeof work, "stream %u KiB%s, %u connections", options->size / 1024,
		options->sendfile ? " from a file" : "", options->connections);
	report_running(work, engine);
	if (client_start(&client, options->sendfile ? SERVER_BULK_FILE : SERVER_BULK, options,
		    engine, &result) == 0) {
		stream_load(&client);
		client_stop(&client);
	}
	report_add(work, engine, &result);
}

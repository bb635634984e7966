/* churn: connect, one message of --size bytes there and back, close;
 * --connections of them at a time. */
#include "client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "peers/peer.h"

struct visit {
	int sock;
	bool sent;
	uint64_t start, received;
	int64_t began;
};

static uint64_t visits; /* so far: each has other bytes and another source */

static bool visit_begin(struct client *client, struct visit *visit)
{
	visits++;
	visit->sent = false;
	visit->received = 0;
	visit->start = visits * 61;
	visit->began = measure_now();
	visit->sock = client_connect(client, (unsigned)visits, false, visit);
	return visit->sock >= 0;
}

static bool visit_send(struct client *client, struct visit *visit)
{
	const unsigned char *from = client->pattern + visit->start % PATTERN_PERIOD;
	size_t size = client->options->size;
	int error = 0;
	socklen_t length = sizeof error;

	getsockopt(visit->sock, SOL_SOCKET, SO_ERROR, &error, &length);
	if (error == 0 && send(visit->sock, from, size, MSG_NOSIGNAL) == (ssize_t)size) {
		visit->sent = true;
		return true;
	}
	bench_fail(client->result, "connect: %s", strerror(error != 0 ? error : errno));
	return false;
}

static bool visit_receive(struct client *client, struct visit *visit)
{
	size_t size = client->options->size;
	ssize_t got = recv(visit->sock, client->piece, size - visit->received, 0);

	if (got < 0 && errno == EAGAIN)
		return true;
	if (got <= 0) {
		bench_fail(
			client->result, "receive: %s", got < 0 ? strerror(errno) : "closed early");
		return false;
	}
	if (!client_check(client, client->piece, (size_t)got, visit->start + visit->received))
		return false;
	visit->received += (uint64_t)got;
	client->bytes += (uint64_t)got;
	if (visit->received < size)
		return true;
	close(visit->sock);
	visit->sock = -1;
	client_done(client, measure_now(), visit->began);
	return visit_begin(client, visit);
}

static bool visit_event(struct client *client, struct visit *visit, uint32_t events)
{
	if (!visit->sent)
		return (events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) == 0 ||
		       visit_send(client, visit);
	return visit_receive(client, visit);
}

static void churn_load(struct client *client)
{
	unsigned many = client->options->connections, begun = 0;
	struct visit *all = calloc(many, sizeof *all);
	bool good = all != NULL;
	int count = 0;

	if (!good)
		bench_fail(client->result, "no memory for the load");
	while (good && begun < many)
		good = visit_begin(client, &all[begun++]);
	while (good && (count = client_wait(client)) >= 0)
		for (int i = 0; good && i < count; i++)
			good = visit_event(
				client, client->events[i].data.ptr, client->events[i].events);
	for (unsigned i = 0; i < begun; i++)
		if (all[i].sock >= 0)
			close(all[i].sock);
	free(all);
}

void bench_churn(const struct bench_options *options, const char *engine)
{
	static struct client client;
	struct bench_result result;
	char work[WORK_TEXT];

	snprintf(work, sizeof work, "churn %u B, %u connections", options->size,
		options->connections);
	report_running(work, engine);
	bench_clear(&result);
	if (options->size > CLIENT_PIECE)
		bench_fail(&result, "--size is at most %u here", CLIENT_PIECE);
	else if (client_start(&client, SERVER_ECHO, options, engine, &result) == 0) {
		churn_load(&client);
		client_stop(&client);
	}
	report_add(work, engine, &result);
}

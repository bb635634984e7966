/* The serving process: the echo or the bulk server on one port, and an answer
 * to each byte that comes down the line. Only the public API, so that what is
 * measured is what a program gets. */
#include "server.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "peers/bulk_server.h"
#include "peers/echo_server.h"

/* The first thing that comes up the line. */
struct hello {
	uint16_t number;
	char error[ERROR_TEXT];
};

struct line {
	struct proa_op op;
	proa_handle handle;
	char asked;
	struct server_usage usage;
};

static void line_asked(struct proa_op *op, const struct proa_completion *c);

static void line_answered(struct proa_op *op, const struct proa_completion *c)
{
	struct line *line = op->data;

	if (c->result < 0) {
		proa_stop(op->port);
		return;
	}
	proa_prep_recv(op, line->handle, &line->asked, 1, 0);
	proa_submit(op, line_asked);
}

static void line_asked(struct proa_op *op, const struct proa_completion *c)
{
	struct line *line = op->data;
	struct proa_port_stats stats;

	if (c->result <= 0) { /* the load is done with us */
		proa_stop(op->port);
		return;
	}
	proa_port_stats(op->port, &stats);
	line->usage.calls = stats.system_calls;
	line->usage.cpu = measure_cpu();
	proa_prep_send(op, line->handle, &line->usage, sizeof line->usage, 0);
	proa_submit(op, line_answered);
}

/* Opens the port and the listener; `hello` tells of it. */
static struct proa_port *serve_open(const char *engine, proa_handle *listener, struct hello *hello)
{
	struct proa_port_options options = { .engine = engine };
	struct proa_port *port = NULL;
	struct proa_address address;
	int error;

	if (proa_port_open(&options, &port) < 0) {
		snprintf(hello->error, sizeof hello->error, "%s", proa_port_open_why());
		return NULL;
	}
	error = peer_listen(port, 0, listener);
	if (error == 0)
		error = proa_local_address(*listener, &address);
	if (error < 0) {
		snprintf(hello->error, sizeof hello->error, "listen: %s", proa_error_text(error));
		proa_port_close(port);
		return NULL;
	}
	hello->number = ntohs(((struct sockaddr_in *)(void *)&address.to.storage)->sin_port);
	return port;
}

static int serve(
	enum server_kind kind, const struct bench_options *options, const char *engine, int handle)
{
	static struct line line;
	static struct echo_server echo;
	static struct bulk_server bulk;
	struct hello hello = { 0 };
	struct proa_port *port;
	proa_handle listener;
	int error = 0;

	memset(&line, 0, sizeof line);
	memset(&echo, 0, sizeof echo);
	memset(&bulk, 0, sizeof bulk);
	port = serve_open(engine, &listener, &hello);
	if (port != NULL && kind == SERVER_ECHO)
		error = echo_serve(&echo, port, listener, options->size);
	else if (port != NULL)
		error = bulk_serve(&bulk, port, listener, options->size, kind == SERVER_BULK_FILE);
	if (error < 0)
		snprintf(hello.error, sizeof hello.error, "pool: %s", proa_error_text(error));
	if (write(handle, &hello, sizeof hello) != (ssize_t)sizeof hello || hello.error[0] != '\0')
		return 0; /* the load has been told, or is gone */
	proa_op_init(&line.op, port, &line);
	line.handle = handle;
	proa_prep_recv(&line.op, handle, &line.asked, 1, 0);
	proa_submit(&line.op, line_asked);
	proa_run(port);
	return proa_port_close(port) == 0 ? 0 : 1;
}

/* All `length` of it: MSG_WAITALL is not kept everywhere. */
static bool line_read(int line, void *to, size_t length)
{
	size_t done = 0;

	while (done < length) {
		ssize_t n = recv(line, (char *)to + done, length - done, 0);

		if (n <= 0)
			return false;
		done += (size_t)n;
	}
	return true;
}

#ifdef _WIN32

struct start {
	enum server_kind kind;
	const struct bench_options *options;
	const char *engine;
	int line;
};

static void *server_thread(void *argument)
{
	struct start *start = argument;
	int code = serve(start->kind, start->options, start->engine, start->line);

	free(start);
	return (void *)(intptr_t)code;
}

static int server_launch(struct server *server, enum server_kind kind,
	const struct bench_options *options, const char *engine, struct bench_result *result)
{
	struct start *start = malloc(sizeof *start);
	int ends[2];

	if (start == NULL || posix_pair(ends) != 0) {
		bench_fail(result, "no line to the server");
		free(start);
		return -1;
	}
	*start = (struct start) { kind, options, engine, ends[1] };
	server->line = ends[0];
	if (pthread_create(&server->thread, NULL, server_thread, start) == 0)
		return 0;
	bench_fail(result, "no thread for the server");
	close(ends[0]);
	close(ends[1]);
	free(start);
	return -1;
}

static void server_end(struct server *server, char *text, size_t size)
{
	void *code;

	pthread_join(server->thread, &code);
	text[0] = '\0';
	if (code != NULL)
		snprintf(text, size, "the server failed");
}

#else

static int server_launch(struct server *server, enum server_kind kind,
	const struct bench_options *options, const char *engine, struct bench_result *result)
{
	int ends[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
		bench_fail(result, "socketpair: %s", strerror(errno));
		return -1;
	}
	fflush(NULL);
	server->process = fork();
	if (server->process == 0) {
		close(ends[0]);
		bench_pin(0, options->same_core);
		_exit(serve(kind, options, engine, ends[1]));
	}
	close(ends[1]);
	server->line = ends[0];
	if (server->process >= 0)
		return 0;
	bench_fail(result, "fork: %s", strerror(errno));
	close(ends[0]);
	return -1;
}

static void server_end(struct server *server, char *text, size_t size)
{
	bench_reap(server->process, text, size);
}

#endif

int server_start(struct server *server, enum server_kind kind, const struct bench_options *options,
	const char *engine, struct bench_result *result)
{
	struct hello hello;

	bench_cores();
	if (server_launch(server, kind, options, engine, result) != 0)
		return -1;
	if (!line_read(server->line, &hello, sizeof hello)) {
		server_stop(server, result);
		return -1;
	}
	if (hello.error[0] != '\0') {
		bench_fail(result, "%s", hello.error);
		server_stop(server, result);
		return -1;
	}
	memset(&server->address, 0, sizeof server->address);
	server->address.sin_family = AF_INET;
	server->address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	server->address.sin_port = htons(hello.number);
	return 0;
}

int server_usage(struct server *server, struct server_usage *out)
{
	if (send(server->line, "?", 1, MSG_NOSIGNAL) != 1)
		return -1;
	return line_read(server->line, out, sizeof *out) ? 0 : -1;
}

void server_stop(struct server *server, struct bench_result *result)
{
	char ended[ERROR_TEXT];

	close(server->line);
	server_end(server, ended, sizeof ended);
	if (ended[0] != '\0')
		bench_fail(result, "%s", ended);
	else if (result->error[0] == '\0' && result->rate != result->rate)
		bench_fail(result, "the server ended before the load");
}

/* Load on whatever kernel, and whatever network, this runs on: connections that are
 * echoed by a server of the library's, with every byte looked at, there and back. Then
 * says which engine it was, and what of the kernel the engine took: after the fact, for
 * some is decided by trying.
 *
 * usage: load [CONNECTIONS [BYTES [SECONDS]]]
 * PROA_ENGINE names the engine. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <proa/proa.h>

#include "lib/port.h"
#ifdef PROA_HAVE_URING
#	include "engines/uring/uring.h"
#endif
#include "peers/echo_server.h"

#define PIECE 8192 /* bytes a send, of which two are under way */

struct client {
	struct proa_op sending, receiving;
	proa_handle handle;
	uint64_t sent, received;
	unsigned char piece[PIECE];
};

static uint64_t wanted = 256 << 10;
static int alive, failed, bytes_wrong;
static uint64_t echoed;
static struct proa_address server;
static unsigned char pattern[PATTERN_PERIOD + PIECE];

static void complain(const struct client *client, const char *what, int32_t result)
{
	printf("FAILED %s at byte %llu: %s\n", what, (unsigned long long)client->received,
		result < 0 ? proa_error_text(result) : "ended early");
	failed++;
}

static void closed(struct proa_op *op, const struct proa_completion *c)
{
	struct proa_port *port = op->port;

	(void)c;
	free(op->data);
	if (--alive == 0)
		proa_stop(port);
}

static void end(struct client *client)
{
	proa_prep_close(&client->receiving, client->handle, 0);
	proa_submit(&client->receiving, closed);
}

static void sent(struct proa_op *op, const struct proa_completion *c);

static void send_next(struct client *client)
{
	uint64_t left = wanted - client->sent;

	if (left == 0) {
		proa_prep_shutdown(&client->sending, client->handle);
		proa_submit(&client->sending, NULL);
		return;
	}
	proa_prep_send(&client->sending, client->handle, pattern + client->sent % PATTERN_PERIOD,
		left < PIECE ? left : PIECE, 0);
	proa_submit(&client->sending, sent);
}

static void sent(struct proa_op *op, const struct proa_completion *c)
{
	struct client *client = op->data;

	if (c->result <= 0) {
		complain(client, "send", c->result);
		return;
	}
	client->sent += (uint64_t)c->result;
	send_next(client);
}

static void received(struct proa_op *op, const struct proa_completion *c)
{
	struct client *client = op->data;

	if (c->result <= 0) {
		if (c->result < 0 || client->received != wanted)
			complain(client, "receive", c->result);
		end(client);
		return;
	}
	if (memcmp(client->piece, pattern + client->received % PATTERN_PERIOD, (size_t)c->result) !=
		0) {
		printf("FAILED wrong bytes after %llu\n", (unsigned long long)client->received);
		bytes_wrong++;
	}
	client->received += (uint64_t)c->result;
	echoed += (uint64_t)c->result;
	proa_prep_recv(op, client->handle, client->piece, PIECE, 0);
	proa_submit(op, received);
}

static void connected(struct proa_op *op, const struct proa_completion *c)
{
	struct client *client = op->data;

	if (c->result < 0) {
		complain(client, "connect", c->result);
		closed(op, c);
		return;
	}
	client->handle = c->result;
	proa_op_init(&client->sending, op->port, client);
	send_next(client);
	proa_prep_recv(op, client->handle, client->piece, PIECE, 0);
	proa_submit(op, received);
}

static void begin(struct proa_op *op, const struct proa_completion *c)
{
	(void)c;
	proa_prep_dial(op, &server, 0);
	proa_submit(op, connected);
}

/* Posts from another thread, so that the port is woken up: a way of its own. */
static void *begin_all(void *argument)
{
	struct proa_port *port = argument;
	struct timespec pause = { .tv_nsec = 20000000 };

	for (int i = 0, count = alive; i < count; i++) {
		struct client *client = calloc(1, sizeof *client);

		if (client == NULL)
			exit(1);
		proa_op_init(&client->receiving, port, client);
		proa_post(port, &client->receiving, 0, begin);
		if (i < 3) /* let it fall asleep */
			nanosleep(&pause, NULL);
	}
	return NULL;
}

static void out_of_time(struct proa_op *op, const struct proa_completion *c)
{
	(void)c;
	printf("FAILED out of time: %d connections are left\n", alive);
	failed++;
	proa_stop(op->port);
}

static void tell_features(const struct proa_port *port)
{
	printf("@ engine %s", proa_engine_name(port));
#ifdef PROA_HAVE_URING
	static const char *const names[] = { "defer", "ext_arg", "buffers", "multishot", "files",
		"register", "poll_multishot" };
	static const unsigned bits[] = { CAN_DEFER, CAN_EXT_ARG, CAN_BUFFERS, CAN_MULTI, CAN_FILES,
		CAN_REGISTER, CAN_POLL_MULTI };

	if (strcmp(proa_engine_name(port), "io_uring") == 0) {
		for (size_t i = 0; i < sizeof bits / sizeof *bits; i++)
			if (uring_of(port)->can & bits[i])
				printf(" %s", names[i]);
		if (uring_of(port)->supported >> KERNEL_OP_FTRUNCATE & 1)
			printf(" ftruncate");
		if (uring_of(port)->ring.features & IORING_FEAT_NO_IOWAIT)
			printf(" no_iowait");
		if (!proa_supports(port, PROA_NATIVE_RECV_MULTI) !=
			!(uring_of(port)->can & CAN_MULTI)) {
			printf("\nFAILED proa_supports() says otherwise");
			failed++;
		}
	}
#endif
	printf("\n");
	if (proa_engine_why(port)[0] != '\0')
		printf("because: %s\n", proa_engine_why(port));
}

int main(int argc, char **argv)
{
	int count = argc > 1 ? atoi(argv[1]) : 16, seconds = argc > 3 ? atoi(argv[3]) : 120;
	struct proa_port *port = peer_open();
	struct echo_server echo;
	struct proa_op limit;
	proa_handle listener;
	pthread_t thread;

	if (argc > 2)
		wanted = strtoull(argv[2], NULL, 10);
	pattern_fill(pattern, sizeof pattern);
	peer_check("listen", proa_listen(port, "127.0.0.1:0", NULL, &listener));
	peer_check("address", proa_local_address(listener, &server));
	peer_check("server", echo_serve(&echo, port, listener, PIECE));
	proa_op_init(&limit, port, NULL);
	proa_prep_timer(&limit, seconds * PROA_SECOND);
	proa_submit(&limit, out_of_time);
	alive = count;
	if (pthread_create(&thread, NULL, begin_all, port) != 0)
		return 1;
	proa_run(port); /* until it is stopped */
	pthread_join(thread, NULL);
	if (echoed != wanted * (uint64_t)count || bytes_wrong > 0)
		failed++;
	printf("%d connections, %llu of %llu bytes came back\n", count, (unsigned long long)echoed,
		(unsigned long long)(wanted * (uint64_t)count));
	tell_features(port);
	printf("%d passed, %d failed\n", failed == 0, failed);
	return failed > 0;
}

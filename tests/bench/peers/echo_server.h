/* The echo server that is measured: every byte goes back from the very buffer
 * it came in, sent by the buffer's own op. A connection is one op and its
 * handle; nothing is allocated but at accept. */
#ifndef PROA_BENCH_ECHO_SERVER_H
#define PROA_BENCH_ECHO_SERVER_H

#include "peer.h"

/* All buffers together stay within a second-level cache; a message must fit
 * into one, or it costs several turns. */
#define ECHO_POOL_BYTES   (1u << 20)
#define ECHO_SMALL_BUFFER 2048u
#define ECHO_LARGE_BUFFER 65536u
#define ECHO_LARGE        4096u

struct echo_client {
	struct proa_op receiving; /* closes, too, when it has received all */
	proa_handle handle;
};

struct echo_server {
	struct proa_op accepting;
	struct proa_pool *pool;
};

static inline void echo_closed(struct proa_op *op, const struct proa_completion *c)
{
	(void)c;
	free(op->data);
}

static inline void echo_sent(struct proa_op *op, const struct proa_completion *c)
{
	struct echo_client *client = op->data;

	proa_give_back((struct proa_buffer *)op);
	if (c->result < 0)
		proa_cancel(&client->receiving); /* whose end closes */
}

static inline void echo_received(struct proa_op *op, const struct proa_completion *c)
{
	struct echo_client *client = op->data;
	struct proa_buffer *buffer;

	if (c->result > 0) {
		buffer = proa_lent(c);
		buffer->op.data = client;
		proa_prep_send(&buffer->op, client->handle, buffer->data, buffer->length, 0);
		proa_submit(&buffer->op, echo_sent);
		return;
	}
	proa_prep_close(op, client->handle, c->result == 0 ? PROA_FLUSH : 0);
	proa_op_timeout(op, 5 * PROA_SECOND);
	proa_submit(op, echo_closed);
}

static inline void echo_accepted(struct proa_op *op, const struct proa_completion *c)
{
	struct echo_server *server = op->data;
	struct echo_client *client;

	if (c->result < 0)
		return;
	client = malloc(sizeof *client);
	if (client == NULL) {
		proa_discard(op->port, c->result);
		return;
	}
	proa_op_init(&client->receiving, op->port, client);
	client->handle = c->result;
	proa_prep_recv_multi(&client->receiving, client->handle, server->pool, 0);
	proa_submit(&client->receiving, echo_received);
}

/* Serves `listener`, for messages of about `size` bytes. 0 or an error. */
static inline int echo_serve(
	struct echo_server *server, struct proa_port *port, proa_handle listener, size_t size)
{
	struct proa_pool_options options = { .buffer_size = ECHO_SMALL_BUFFER };
	int error;

	if (size >= ECHO_LARGE)
		options.buffer_size = ECHO_LARGE_BUFFER;
	options.count = ECHO_POOL_BYTES / options.buffer_size;
	error = proa_pool_open(port, &options, &server->pool);
	if (error < 0)
		return error;
	proa_op_init(&server->accepting, port, server);
	proa_prep_accept_multi(&server->accepting, listener, 0);
	proa_submit(&server->accepting, echo_accepted);
	return 0;
}

#endif

/* The server of large payloads that is measured: each sixteen bytes of request
 * earn a reply of fixed size, sent from one piece of memory, or by sendfile
 * from a file in memory. */
#ifndef PROA_BENCH_BULK_SERVER_H
#define PROA_BENCH_BULK_SERVER_H

#include <sys/mman.h>
#include <unistd.h>

#include "peer.h"

#define BULK_REQUEST 16u

struct bulk_server {
	struct proa_op accepting;
	struct proa_pool *pool;
	unsigned char *memory;
	struct proa_range range; /* what sendfile sends; no file: send from memory */
};

struct bulk_client {
	struct proa_op receiving, sending;
	struct bulk_server *server;
	proa_handle handle;
	size_t partial; /* bytes of a request that has not come in full */
	size_t owed; /* replies, the one being sent included */
	int ended;
};

static inline void bulk_closed(struct proa_op *op, const struct proa_completion *c)
{
	(void)c;
	free(op->data);
}

static inline void bulk_sent(struct proa_op *op, const struct proa_completion *c);

static inline void bulk_reply(struct bulk_client *client)
{
	struct bulk_server *server = client->server;

	if (server->range.file != PROA_NO_HANDLE)
		proa_prep_sendfile(&client->sending, client->handle, &server->range, 0);
	else
		proa_prep_send(
			&client->sending, client->handle, server->memory, server->range.length, 0);
	proa_submit(&client->sending, bulk_sent);
}

static inline void bulk_sent(struct proa_op *op, const struct proa_completion *c)
{
	struct bulk_client *client = op->data;

	if (client->ended)
		return;
	client->owed--;
	if (c->result < 0)
		proa_cancel(&client->receiving); /* whose end closes */
	else if (client->owed > 0)
		bulk_reply(client);
}

static inline void bulk_received(struct proa_op *op, const struct proa_completion *c)
{
	struct bulk_client *client = op->data;
	size_t waiting = client->owed;

	if (c->result > 0) {
		proa_give_back(proa_lent(c));
		client->partial += (size_t)c->result;
		client->owed += client->partial / BULK_REQUEST;
		client->partial %= BULK_REQUEST;
		if (waiting == 0 && client->owed > 0)
			bulk_reply(client);
		return;
	}
	client->ended = 1;
	proa_prep_close(op, client->handle, 0);
	proa_submit(op, bulk_closed);
}

static inline void bulk_accepted(struct proa_op *op, const struct proa_completion *c)
{
	struct bulk_client *client;

	if (c->result < 0)
		return;
	client = calloc(1, sizeof *client);
	if (client == NULL) {
		proa_discard(op->port, c->result);
		return;
	}
	proa_op_init(&client->receiving, op->port, client);
	proa_op_init(&client->sending, op->port, client);
	client->server = op->data;
	client->handle = c->result;
	proa_prep_recv_multi(&client->receiving, client->handle, client->server->pool, 0);
	proa_submit(&client->receiving, bulk_received);
}

/* The replies' bytes, in a file that lives in memory. */
static inline int bulk_file(struct bulk_server *server, size_t size)
{
	server->range.file = memfd_create("bulk", MFD_CLOEXEC);
	if (server->range.file < 0 || ftruncate(server->range.file, (off_t)size) != 0)
		return PROA_ENOMEM;
	server->memory =
		mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, server->range.file, 0);
	return server->memory == MAP_FAILED ? PROA_ENOMEM : 0;
}

/* Serves `listener` with replies of `size` bytes. 0 or an error. */
static inline int bulk_serve(struct bulk_server *server, struct proa_port *port,
	proa_handle listener, size_t size, int from_file)
{
	struct proa_pool_options options = { .buffer_size = 256, .count = 256 };
	int error = 0;

	server->range = (struct proa_range) { .file = PROA_NO_HANDLE, .length = size };
	if (from_file)
		error = bulk_file(server, size);
	else if ((server->memory = malloc(size)) == NULL)
		error = PROA_ENOMEM;
	if (error == 0)
		error = proa_pool_open(port, &options, &server->pool);
	if (error < 0)
		return error;
	pattern_fill(server->memory, size);
	proa_op_init(&server->accepting, port, server);
	proa_prep_accept_multi(&server->accepting, listener, 0);
	proa_submit(&server->accepting, bulk_accepted);
	return 0;
}

#endif

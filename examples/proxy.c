/* TCP proxy, LISTEN TARGET, with no queue and no copy of its own. A buffer that was received
 * is given back when it has been sent: a slow reader stops its writer. SIGTERM ends it. */
#include <proa/proa.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

/* One direction. Its op receives, and at the end shuts the other side down. */
struct flow {
	struct proa_op op;
	struct pair *pair;
	proa_handle from, to;
};

struct pair {
	struct flow up, down;
	struct proa_op server, client; /* dials and closes it; closes it */
	int ended;
};

static struct proa_pool *pool;
static struct proa_address target;

static void on_closed(struct proa_op *op, const struct proa_completion *c)
{
	(void)c;
	free(op->data);
}

/* Closes the server's side, then the client's, and frees when that completes:
 * each close lets the other ops of its handle end first. */
static void hang_up(struct pair *pair)
{
	if (proa_op_pending(&pair->client))
		return;
	proa_prep_close(&pair->client, pair->up.from, 0);
	if (pair->up.to == PROA_NO_HANDLE) {
		proa_submit(&pair->client, on_closed);
		return;
	}
	proa_prep_close(&pair->server, pair->up.to, 0);
	proa_link(&pair->server, &pair->client, on_closed);
	proa_submit(&pair->server, NULL);
}

static void on_sent(struct proa_op *op, const struct proa_completion *c)
{
	struct flow *flow = op->data;

	proa_give_back((struct proa_buffer *)op); /* with that the receive may go on */
	if (c->result < 0)
		hang_up(flow->pair);
}

static void on_shutdown(struct proa_op *op, const struct proa_completion *c)
{
	struct flow *flow = op->data;

	if (c->result < 0 || ++flow->pair->ended == 2)
		hang_up(flow->pair);
}

/* The end of one direction is passed on behind its sends; the other goes on. */
static void on_received(struct proa_op *op, const struct proa_completion *c)
{
	struct flow *flow = op->data;
	struct proa_buffer *buffer = proa_lent(c);

	if (proa_op_pending(&flow->pair->client)) {
		proa_give_back(buffer); /* it hangs up: `to` may be another's by now */
	} else if (buffer != NULL) {
		buffer->op.data = flow;
		proa_prep_send(&buffer->op, flow->to, buffer->data, buffer->length, 0);
		proa_submit(&buffer->op, on_sent);
	} else if (c->result == 0) {
		proa_prep_shutdown(op, flow->to);
		proa_submit(op, on_shutdown);
	} else {
		hang_up(flow->pair);
	}
}

static void pump(struct flow *flow, struct pair *pair, proa_handle from, proa_handle to)
{
	*flow = (struct flow) { .pair = pair, .from = from, .to = to };
	proa_op_init(&flow->op, pair->server.port, flow);
	proa_prep_recv_multi(&flow->op, from, pool, 0);
	proa_submit(&flow->op, on_received);
}

static void on_dialed(struct proa_op *op, const struct proa_completion *c)
{
	struct pair *pair = op->data;

	if (c->result < 0) {
		hang_up(pair);
		return;
	}
	pump(&pair->up, pair, pair->up.from, c->result);
	pump(&pair->down, pair, c->result, pair->up.from);
}

static void on_accepted(struct proa_op *op, const struct proa_completion *c)
{
	struct pair *pair = c->result < 0 ? NULL : calloc(1, sizeof *pair);

	if (pair == NULL) {
		proa_discard(op->port, c->result); /* if there is one */
		return;
	}
	pair->up.from = c->result;
	pair->up.to = PROA_NO_HANDLE;
	proa_op_init(&pair->client, op->port, pair);
	proa_op_init(&pair->server, op->port, pair);
	proa_prep_dial(&pair->server, &target, 0);
	proa_op_timeout(&pair->server, 10 * PROA_SECOND);
	proa_submit(&pair->server, on_dialed);
}

static void on_signal(struct proa_op *op, const struct proa_completion *c)
{
	if (c->result > 0)
		proa_stop(op->port);
}

int main(int argc, char **argv)
{
	struct proa_pool_options lend = { .per_handle = 4 }; /* lent at once, then it waits */
	struct proa_op accepting, terminate;
	struct proa_port *port;
	proa_handle listener;

	if (argc != 3 || proa_address_parse(&target, argv[2]) < 0 ||
		proa_port_open(NULL, &port) < 0 || proa_pool_open(port, &lend, &pool) < 0 ||
		proa_listen(port, argv[1], NULL, &listener) < 0) {
		fprintf(stderr, "usage: %s LISTEN TARGET, two addresses that work\n", argv[0]);
		return 1;
	}
	proa_op_init(&accepting, port, NULL);
	proa_prep_accept_multi(&accepting, listener, 0);
	proa_submit(&accepting, on_accepted);
	proa_op_init(&terminate, port, NULL);
	proa_prep_signal(&terminate, SIGTERM);
	proa_submit(&terminate, on_signal);
	proa_run(port);
	proa_port_close(port); /* ends every pair in its own callbacks */
	proa_pool_close(pool);
	return 0;
}

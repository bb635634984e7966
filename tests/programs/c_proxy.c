/* TCP proxy: back-pressure, half-close, one idle timeout over both sides. Takes
 * the address to listen at and the one to connect to. */
#include <proa/proa.h>
#include <stdlib.h>

#define IDLE (60 * PROA_SECOND)

struct flow { /* one direction */
	struct proa_op receiving, ending;
	struct proxy *proxy;
	proa_handle from, to;
	int ended;
};

struct proxy {
	struct flow up, down;
	struct proa_op dialing, idle, closing[2];
};

static struct proa_pool *pool;
static struct proa_address target;

static void on_closed(struct proa_op *op, const struct proa_completion *c)
{
	(void)c;
	free(op->data);
}

static int hangs_up(const struct proxy *proxy)
{
	return proa_op_pending(&proxy->closing[1]);
}

/* The timer and the dial are the client handle's, whose close comes last. */
static void hang_up(struct proxy *proxy)
{
	struct proa_op *first = &proxy->closing[0], *last = &proxy->closing[1];

	if (hangs_up(proxy))
		return;
	proa_prep_close(last, proxy->up.from, 0);
	if (proxy->up.to == PROA_NO_HANDLE) {
		proa_submit(last, on_closed);
		return;
	}
	proa_prep_close(first, proxy->up.to, 0);
	proa_link(first, last, on_closed);
	proa_submit(first, NULL);
}

static void on_idle(struct proa_op *op, const struct proa_completion *c)
{
	(void)c;
	hang_up(op->data);
}

static void on_sent(struct proa_op *op, const struct proa_completion *c)
{
	struct flow *flow = op->data;

	proa_give_back((struct proa_buffer *)op); /* lets the other side go on */
	if (c->result < 0)
		hang_up(flow->proxy);
	else
		proa_timer_move(&flow->proxy->idle, IDLE);
}

static void on_ended(struct proa_op *op, const struct proa_completion *c)
{
	struct flow *flow = op->data;

	flow->ended = 1;
	if (c->result < 0 || (flow->proxy->up.ended && flow->proxy->down.ended))
		hang_up(flow->proxy);
}

static void on_received(struct proa_op *op, const struct proa_completion *c)
{
	struct flow *flow = op->data;
	struct proa_buffer *buffer;

	if (hangs_up(flow->proxy)) {
		proa_give_back(proa_lent(c)); /* `to` may be another's by now */
	} else if (c->result < 0) {
		hang_up(flow->proxy);
	} else if (c->result == 0) {
		proa_prep_shutdown(&flow->ending, flow->to); /* after the sends */
		proa_submit(&flow->ending, on_ended);
	} else {
		buffer = proa_lent(c);
		buffer->op.data = flow;
		proa_prep_send(&buffer->op, flow->to, buffer->data, buffer->length, 0);
		proa_submit(&buffer->op, on_sent);
		proa_timer_move(&flow->proxy->idle, IDLE);
	}
}

static void pump(struct proa_port *port, struct flow *flow, struct proxy *proxy, proa_handle from,
	proa_handle to)
{
	*flow = (struct flow) { .proxy = proxy, .from = from, .to = to };
	proa_op_init(&flow->receiving, port, flow);
	proa_op_init(&flow->ending, port, flow);
	proa_prep_recv_multi(&flow->receiving, from, pool, 0);
	proa_submit(&flow->receiving, on_received);
}

static void on_dialed(struct proa_op *op, const struct proa_completion *c)
{
	struct proxy *proxy = op->data;

	if (c->result < 0) {
		hang_up(proxy);
		return;
	}
	proxy->up.to = c->result; /* the client's close waits for us: no race */
	if (hangs_up(proxy)) {
		proa_discard(op->port, c->result);
		return;
	}
	pump(op->port, &proxy->up, proxy, proxy->up.from, proxy->up.to);
	pump(op->port, &proxy->down, proxy, proxy->up.to, proxy->up.from);
}

static void on_accepted(struct proa_op *op, const struct proa_completion *c)
{
	struct proxy *proxy;

	if (c->result < 0)
		return;
	proxy = calloc(1, sizeof *proxy);
	if (proxy == NULL) {
		proa_discard(op->port, c->result);
		return;
	}
	proa_op_init(&proxy->dialing, op->port, proxy);
	proa_op_init(&proxy->idle, op->port, proxy);
	proa_op_init(&proxy->closing[0], op->port, proxy);
	proa_op_init(&proxy->closing[1], op->port, proxy);
	proxy->up.from = c->result;
	proxy->up.to = PROA_NO_HANDLE;
	proa_prep_dial(&proxy->dialing, &target, 0);
	proa_op_timeout(&proxy->dialing, 10 * PROA_SECOND);
	proa_op_with(&proxy->dialing, c->result);
	proa_submit(&proxy->dialing, on_dialed);
	proa_prep_timer(&proxy->idle, IDLE);
	proa_op_with(&proxy->idle, c->result);
	proa_submit(&proxy->idle, on_idle);
}

int main(int argc, char **argv)
{
	struct proa_pool_options lend = { .per_handle = 4 };
	struct proa_op accepting;
	struct proa_port *port;
	proa_handle listener;

	if (argc != 3 || proa_address_parse(&target, argv[2]) < 0 ||
		proa_port_open(NULL, &port) < 0)
		return 1;
	if (proa_pool_open(port, &lend, &pool) < 0 ||
		proa_listen(port, argv[1], NULL, &listener) < 0)
		return 1;
	proa_op_init(&accepting, port, NULL);
	proa_prep_accept_multi(&accepting, listener, 0);
	proa_submit(&accepting, on_accepted);
	proa_run(port);
	proa_port_close(port);
	return 0;
}

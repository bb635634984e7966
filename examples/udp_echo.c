/* UDP echo server: many receives in flight, each slot answers with its own op.
 * SIGINT and SIGTERM end it.
 *
 *   udp_echo [ADDRESS]             127.0.0.1:7000 if none is given; port 0: any */
#include <proa/proa.h>
#include <signal.h>
#include <stdio.h>

#define SLOTS 64
#define SIZE  2048

static struct slot {
	struct proa_op op;
	struct proa_address peer;
	char bytes[SIZE];
} slots[SLOTS];

static proa_handle sock;

static void on_received(struct proa_op *op, const struct proa_completion *c);

static void receive(struct slot *slot)
{
	proa_prep_recvfrom(&slot->op, sock, slot->bytes, sizeof slot->bytes, &slot->peer, 0);
	proa_submit(&slot->op, on_received);
}

/* A datagram that could not be sent is lost, as datagrams may be. */
static void on_sent(struct proa_op *op, const struct proa_completion *c)
{
	if (c->result != PROA_ECANCELED)
		receive(op->data);
}

/* A datagram of no bytes is one like others. One longer than the buffer gives
 * PROA_EMSGSIZE, and proa_op_count() bytes of it are there: not echoed. */
static void on_received(struct proa_op *op, const struct proa_completion *c)
{
	struct slot *slot = op->data;

	if (c->result >= 0) {
		proa_prep_sendto(op, sock, slot->bytes, (size_t)c->result, &slot->peer, 0);
		proa_submit(op, on_sent);
	} else if (c->result != PROA_ECANCELED) {
		receive(slot); /* also after a peer's "port unreachable" */
	}
}

static void on_signal(struct proa_op *op, const struct proa_completion *c)
{
	if (c->result > 0)
		proa_stop(op->port);
}

static void stop_on(struct proa_port *port, struct proa_op *op, int number)
{
	proa_op_init(op, port, NULL);
	proa_prep_signal(op, number);
	proa_op_background(op); /* does not keep proa_run() going */
	proa_submit(op, on_signal);
}

static void say_where(void)
{
	struct proa_address address;
	char text[PROA_ADDRESS_TEXT];

	if (proa_local_address(sock, &address) < 0 ||
		proa_address_text(&address, text, sizeof text) < 0)
		return;
	printf("listening on %s\n", text);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	const char *where = argc > 1 ? argv[1] : "127.0.0.1:7000";
	struct proa_listen_options datagram = { .type = PROA_DATAGRAM };
	struct proa_op interrupt, terminate;
	struct proa_port *port;
	int error;

	if (proa_port_open(NULL, &port) < 0) {
		fprintf(stderr, "udp: %s\n", proa_port_open_why());
		return 1;
	}
	error = proa_listen(port, where, &datagram, &sock);
	if (error < 0) {
		fprintf(stderr, "udp: %s: %s\n", where, proa_error_text(error));
		proa_port_close(port);
		return 1;
	}
	stop_on(port, &interrupt, SIGINT);
	stop_on(port, &terminate, SIGTERM);
	say_where();
	for (int i = 0; i < SLOTS; i++) {
		proa_op_init(&slots[i].op, port, &slots[i]);
		receive(&slots[i]);
	}
	proa_run(port);
	proa_port_close(port);
	return 0;
}

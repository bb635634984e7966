/* UDP server: 256 receives in flight, each slot answers with its own op.
 * Takes the address to bind. */
#include <proa/proa.h>

#define SLOTS 256

struct slot {
	struct proa_op op;
	struct proa_address peer;
	unsigned char packet[512];
};

static struct slot slots[SLOTS];
static proa_handle sock;

static void on_sent(struct proa_op *op, const struct proa_completion *c);

static void on_query(struct proa_op *op, const struct proa_completion *c)
{
	struct slot *slot = op->data;

	if (c->result == PROA_ECANCELED)
		return;
	if (c->result < 12) { /* also EMSGSIZE, or a peer's ICMP */
		on_sent(op, c);
		return;
	}
	slot->packet[2] |= 0x80; /* an answer: server failure */
	slot->packet[3] = 2;
	proa_prep_sendto(op, sock, slot->packet, (size_t)c->result, &slot->peer, 0);
	proa_submit(op, on_sent);
}

static void on_sent(struct proa_op *op, const struct proa_completion *c)
{
	struct slot *slot = op->data;

	if (c->result == PROA_ECANCELED)
		return;
	proa_prep_recvfrom(op, sock, slot->packet, sizeof slot->packet, &slot->peer, 0);
	proa_submit(op, on_query);
}

int main(int argc, char **argv)
{
	struct proa_listen_options datagram = { .type = PROA_DATAGRAM };
	struct proa_port *port;

	if (proa_port_open(NULL, &port) < 0 ||
		proa_listen(port, argc > 1 ? argv[1] : "0.0.0.0:5353", &datagram, &sock) < 0)
		return 1;
	for (int i = 0; i < SLOTS; i++) {
		proa_op_init(&slots[i].op, port, &slots[i]);
		proa_prep_recvfrom(&slots[i].op, sock, slots[i].packet, sizeof slots[i].packet,
			&slots[i].peer, 0);
		proa_submit(&slots[i].op, on_query);
	}
	proa_run(port);
	proa_port_close(port);
	return 0;
}

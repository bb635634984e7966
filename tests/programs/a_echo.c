/* Echo server, dispatched. Takes the address to listen at. */
#include <proa/proa.h>
#include <stdlib.h>

struct client {
	struct proa_op op;
	proa_handle sock;
	char buf[4096];
};

static void on_received(struct proa_op *op, const struct proa_completion *c);

static void on_closed(struct proa_op *op, const struct proa_completion *c)
{
	(void)c;
	free(op->data);
}

static void hang_up(struct client *client)
{
	proa_prep_close(&client->op, client->sock, 0);
	proa_submit(&client->op, on_closed);
}

static void on_sent(struct proa_op *op, const struct proa_completion *c)
{
	struct client *client = op->data;

	if (c->result < 0) {
		hang_up(client);
		return;
	}
	proa_prep_recv(op, client->sock, client->buf, sizeof client->buf, 0);
	proa_submit(op, on_received);
}

static void on_received(struct proa_op *op, const struct proa_completion *c)
{
	struct client *client = op->data;

	if (c->result <= 0) {
		hang_up(client);
		return;
	}
	proa_prep_send(op, client->sock, client->buf, (size_t)c->result, 0);
	proa_submit(op, on_sent);
}

static void on_accepted(struct proa_op *op, const struct proa_completion *c)
{
	struct client *client;

	if (c->result < 0)
		return;
	client = calloc(1, sizeof *client);
	if (client == NULL) {
		proa_discard(op->port, c->result);
		return;
	}
	proa_op_init(&client->op, op->port, client);
	client->sock = c->result;
	proa_prep_recv(&client->op, client->sock, client->buf, sizeof client->buf, 0);
	proa_submit(&client->op, on_received);
}

int main(int argc, char **argv)
{
	struct proa_op accepting;
	struct proa_port *port;
	proa_handle listener;

	if (proa_port_open(NULL, &port) < 0 ||
		proa_listen(port, argc > 1 ? argv[1] : "0.0.0.0:7000", NULL, &listener) < 0)
		return 1;
	proa_op_init(&accepting, port, NULL);
	proa_prep_accept_multi(&accepting, listener, 0);
	proa_submit(&accepting, on_accepted);
	proa_run(port);
	proa_port_close(port);
	return 0;
}

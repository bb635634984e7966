/* Echo server, dispatched: each completion calls the function its op was
 * submitted with. SIGINT and SIGTERM end it.
 *
 *   echo_dispatch [ADDRESS]        127.0.0.1:7000 if none is given; port 0: any */
#include <proa/proa.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

struct client {
	struct proa_op op; /* one in flight at a time: receive, send, close */
	proa_handle sock;
	char bytes[4096];
};

static void on_received(struct proa_op *op, const struct proa_completion *c);

/* A close completes last: nothing of the library names the client any more. */
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

static void receive(struct client *client)
{
	proa_prep_recv(&client->op, client->sock, client->bytes, sizeof client->bytes, 0);
	proa_op_timeout(&client->op, 60 * PROA_SECOND);
	proa_submit(&client->op, on_received);
}

/* All bytes were taken, or the send failed: there is no third case. */
static void on_sent(struct proa_op *op, const struct proa_completion *c)
{
	struct client *client = op->data;

	if (c->result < 0)
		hang_up(client);
	else
		receive(client);
}

/* 0 is the end of the stream; less than 0 an error, PROA_ETIMEDOUT among them. */
static void on_received(struct proa_op *op, const struct proa_completion *c)
{
	struct client *client = op->data;

	if (c->result <= 0) {
		hang_up(client);
		return;
	}
	proa_prep_send(op, client->sock, client->bytes, (size_t)c->result, 0);
	proa_submit(op, on_sent);
}

/* A pause for want of descriptors comes here as an error with PROA_MORE: the
 * accept goes on by itself. */
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
	receive(client);
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

static void say_where(proa_handle listener)
{
	struct proa_address address;
	char text[PROA_ADDRESS_TEXT];

	if (proa_local_address(listener, &address) < 0 ||
		proa_address_text(&address, text, sizeof text) < 0)
		return;
	printf("listening on %s\n", text);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	const char *where = argc > 1 ? argv[1] : "127.0.0.1:7000";
	struct proa_op accepting, interrupt, terminate;
	struct proa_port *port;
	proa_handle listener;
	int error;

	if (proa_port_open(NULL, &port) < 0) {
		fprintf(stderr, "echo: %s\n", proa_port_open_why());
		return 1;
	}
	error = proa_listen(port, where, NULL, &listener);
	if (error < 0) {
		fprintf(stderr, "echo: %s: %s\n", where, proa_error_text(error));
		proa_port_close(port);
		return 1;
	}
	stop_on(port, &interrupt, SIGINT);
	stop_on(port, &terminate, SIGTERM);
	say_where(listener);
	proa_op_init(&accepting, port, NULL);
	proa_prep_accept_multi(&accepting, listener, 0);
	proa_submit(&accepting, on_accepted);
	proa_run(port);
	/* Ends what is in flight: each client's receive or send fails, and its
	 * callback closes and frees, as ever. */
	proa_port_close(port);
	return 0;
}

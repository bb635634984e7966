/* Echo server, dequeued: one loop takes batches of completions and looks at
 * what each op was doing, as programs for I/O completion ports do. SIGINT and
 * SIGTERM end it.
 *
 *   echo_dequeue [ADDRESS]         127.0.0.1:7000 if none is given; port 0: any */
#include <proa/proa.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

enum doing { ACCEPTING, RECEIVING, SENDING, CLOSING, AWAITING_SIGNAL };

/* What the op's `data` points at: the completion key and the OVERLAPPED in one. */
struct conn {
	struct proa_op op;
	enum doing doing;
	proa_handle sock;
	char bytes[4096];
};

static void conn_receive(struct conn *conn)
{
	conn->doing = RECEIVING;
	proa_prep_recv(&conn->op, conn->sock, conn->bytes, sizeof conn->bytes, 0);
	proa_op_timeout(&conn->op, 60 * PROA_SECOND);
	proa_submit(&conn->op, NULL);
}

static void conn_send(struct conn *conn, size_t length)
{
	conn->doing = SENDING;
	proa_prep_send(&conn->op, conn->sock, conn->bytes, length, 0);
	proa_submit(&conn->op, NULL);
}

static void conn_close(struct conn *conn)
{
	conn->doing = CLOSING;
	proa_prep_close(&conn->op, conn->sock, 0);
	proa_submit(&conn->op, NULL);
}

static void conn_open(struct proa_port *port, proa_handle sock)
{
	struct conn *conn = calloc(1, sizeof *conn);

	if (conn == NULL) {
		proa_discard(port, sock);
		return;
	}
	proa_op_init(&conn->op, port, conn);
	conn->sock = sock;
	conn_receive(conn);
}

static void serve(struct proa_port *port, struct conn *conn, const struct proa_completion *c)
{
	switch (conn->doing) {
	case ACCEPTING:
		if (c->result >= 0)
			conn_open(port, c->result);
		break;
	case RECEIVING:
		if (c->result > 0)
			conn_send(conn, (size_t)c->result);
		else
			conn_close(conn); /* end of stream, or an error */
		break;
	case SENDING:
		if (c->result >= 0)
			conn_receive(conn);
		else
			conn_close(conn);
		break;
	case CLOSING: /* completes last: no other entry of the batch is this conn's */
		free(conn);
		break;
	case AWAITING_SIGNAL:
		if (c->result > 0)
			proa_port_shut(port); /* cancels all; proa_wait() says when it is empty */
		break;
	}
}

static void await_signal(struct proa_port *port, struct conn *conn, int number)
{
	conn->doing = AWAITING_SIGNAL;
	proa_op_init(&conn->op, port, conn);
	proa_prep_signal(&conn->op, number);
	proa_submit(&conn->op, NULL);
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
	static struct conn accepting = { .doing = ACCEPTING }, interrupt, terminate;
	struct proa_completion done[64];
	struct proa_port *port;
	int n, error;

	if (proa_port_open(NULL, &port) < 0) {
		fprintf(stderr, "echo: %s\n", proa_port_open_why());
		return 1;
	}
	error = proa_listen(port, where, NULL, &accepting.sock);
	if (error < 0) {
		fprintf(stderr, "echo: %s: %s\n", where, proa_error_text(error));
		proa_port_close(port);
		return 1;
	}
	await_signal(port, &interrupt, SIGINT);
	await_signal(port, &terminate, SIGTERM);
	say_where(accepting.sock);
	proa_op_init(&accepting.op, port, &accepting);
	proa_prep_accept_multi(&accepting.op, accepting.sock, 0);
	proa_submit(&accepting.op, NULL);
	while ((n = proa_wait(port, done, 64, PROA_FOREVER)) >= 0)
		for (int i = 0; i < n; i++)
			serve(port, done[i].op->data, &done[i]);
	proa_port_close(port);
	return n == PROA_ESHUTDOWN ? 0 : 1;
}

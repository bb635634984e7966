/* The IOCP server: worker threads on one shared port; SIGTERM stops accepting,
 * gives the connections ten seconds, then ends the rest. Takes the address to listen at. */
#include <proa/proa.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

enum role { ACCEPTING, RECEIVING, SENDING, CLOSING, QUIT_SIGNAL, GRACE };

/* One op in flight at a time: no lock, no strand, no count. */
struct conn {
	struct proa_op op;
	enum role role;
	proa_handle handle;
	char buf[4096];
};

static struct conn accepting = { .role = ACCEPTING }, quit = { .role = QUIT_SIGNAL },
		   grace = { .role = GRACE };

static void start(struct conn *conn, enum role role, int32_t n)
{
	conn->role = role;
	if (role == RECEIVING)
		proa_prep_recv(&conn->op, conn->handle, conn->buf, sizeof conn->buf, 0);
	else if (role == SENDING)
		proa_prep_send(&conn->op, conn->handle, conn->buf, (size_t)n, 0);
	else
		proa_prep_close(&conn->op, conn->handle, 0);
	proa_submit(&conn->op, NULL); /* from here another worker may have it */
}

static void serve(struct proa_port *port, struct conn *conn, const struct proa_completion *c)
{
	struct conn *made;

	switch (conn->role) {
	case ACCEPTING:
		if (c->result < 0)
			break;
		made = calloc(1, sizeof *made);
		if (made == NULL) {
			proa_discard(port, c->result);
			break;
		}
		proa_op_init(&made->op, port, made);
		made->handle = c->result;
		start(made, RECEIVING, 0);
		break;
	case RECEIVING:
		start(conn, c->result > 0 ? SENDING : CLOSING, c->result);
		break;
	case SENDING:
		start(conn, c->result > 0 ? RECEIVING : CLOSING, 0);
		break;
	case CLOSING:
		free(conn);
		break;
	case QUIT_SIGNAL:
		proa_cancel(&accepting.op);
		if (c->flags & PROA_MORE) {
			proa_cancel(&quit.op);
			proa_prep_timer(&grace.op, 10 * PROA_SECOND);
			proa_submit(&grace.op, NULL);
		}
		break;
	case GRACE:
		proa_port_shut(port);
		break;
	}
}

static void *work(void *port)
{
	struct proa_completion done[64];
	int n;

	while ((n = proa_wait(port, done, 64, PROA_FOREVER)) >= 0)
		for (int i = 0; i < n; i++)
			serve(port, done[i].op->data, &done[i]);
	return NULL;
}

int main(int argc, char **argv)
{
	struct proa_port_options options = { .mode = PROA_SHARED };
	struct proa_port *port;
	pthread_t workers[8];

	if (proa_port_open(&options, &port) < 0 ||
		proa_listen(port, argc > 1 ? argv[1] : "0.0.0.0:7000", NULL, &accepting.handle) < 0)
		return 1;
	proa_op_init(&accepting.op, port, &accepting);
	proa_op_init(&quit.op, port, &quit);
	proa_op_init(&grace.op, port, &grace);
	proa_prep_accept_multi(&accepting.op, accepting.handle, 0);
	proa_submit(&accepting.op, NULL);
	proa_prep_signal(&quit.op, SIGTERM);
	proa_submit(&quit.op, NULL);
	for (int i = 0; i < 8; i++)
		pthread_create(&workers[i], NULL, work, port);
	for (int i = 0; i < 8; i++)
		pthread_join(workers[i], NULL);
	proa_port_close(port);
	return 0;
}

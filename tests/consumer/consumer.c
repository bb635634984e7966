/* A program as a user has it: outside the tree, built by what pkg-config says.
 * Sends a word through a pair of sockets, and prints it with the engine's name. */
#include <proa/proa.h>

#include <stdio.h>

static char word[16];

static void on_received(struct proa_op *op, const struct proa_completion *c)
{
	(void)op;
	if (c->result > 0)
		printf("%s by %s\n", word, proa_engine_name(op->port));
}

int main(void)
{
	struct proa_op send, receive;
	struct proa_port *port;
	proa_handle pair[2];

	if (proa_port_open(NULL, &port) < 0 || proa_pair(port, pair) < 0)
		return 1;
	proa_op_init(&receive, port, NULL);
	proa_prep_recv(&receive, pair[0], word, sizeof(word) - 1, 0);
	proa_submit(&receive, on_received);
	proa_op_init(&send, port, NULL);
	proa_prep_send(&send, pair[1], "delivered", 9, 0);
	proa_submit(&send, NULL);
	proa_run(port);
	proa_discard(port, pair[0]);
	proa_discard(port, pair[1]);
	return proa_port_close(port) != 0;
}

/* TCP client: looks a name up, tries its addresses in turn, sends a line, and
 * prints all that comes back. One deadline holds for the whole.
 *
 *   tcp_client HOST SERVICE TEXT [SECONDS] */
#include <proa/proa.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROOM 8

struct client {
	struct proa_op op; /* look up, dial, receive, close: one after another */
	struct proa_op sender; /* the line, while `op` receives */
	struct proa_op ender; /* the end of our direction, behind the line */
	struct proa_query query;
	struct proa_address found[ROOM];
	int count, next;
	int64_t deadline;
	proa_handle sock;
	char *line;
	char bytes[4096];
	int error;
};

static void on_received(struct proa_op *op, const struct proa_completion *c);

static void receive(struct client *client)
{
	proa_prep_recv(&client->op, client->sock, client->bytes, sizeof client->bytes, 0);
	proa_op_deadline(&client->op, client->deadline);
	proa_submit(&client->op, on_received);
}

/* The close needs no callback here: the client lives as long as main(). */
static void on_received(struct proa_op *op, const struct proa_completion *c)
{
	struct client *client = op->data;

	if (c->result > 0) {
		fwrite(client->bytes, 1, (size_t)c->result, stdout);
		receive(client);
		return;
	}
	client->error = c->result;
	proa_prep_close(op, client->sock, 0);
	proa_submit(op, NULL);
}

/* Send and shutdown keep their order, so both may be in flight at once. If they
 * fail, so does the receive, which reports it. */
static void talk(struct client *client)
{
	proa_prep_send(&client->sender, client->sock, client->line, strlen(client->line), 0);
	proa_submit(&client->sender, NULL);
	proa_prep_shutdown(&client->ender, client->sock);
	proa_submit(&client->ender, NULL);
	receive(client);
}

static void on_dialed(struct proa_op *op, const struct proa_completion *c);

static void dial(struct client *client)
{
	proa_prep_dial(&client->op, &client->found[client->next++], 0);
	proa_op_deadline(&client->op, client->deadline);
	proa_submit(&client->op, on_dialed);
}

/* After a dial that failed there is nothing to close. */
static void on_dialed(struct proa_op *op, const struct proa_completion *c)
{
	struct client *client = op->data;

	if (c->result >= 0) {
		client->sock = c->result;
		talk(client);
	} else if (c->result != PROA_ETIMEDOUT && client->next < client->count) {
		dial(client);
	} else {
		client->error = c->result;
	}
}

static void on_resolved(struct proa_op *op, const struct proa_completion *c)
{
	struct client *client = op->data;

	if (c->result < 0) {
		client->error = c->result;
		return;
	}
	client->count = c->result < ROOM ? c->result : ROOM;
	dial(client);
}

int main(int argc, char **argv)
{
	static struct client client;
	struct proa_port *port;
	double seconds = argc > 4 ? atof(argv[4]) : 10;

	if (argc < 4 || argc > 5 || !(seconds > 0 && seconds < 86400)) {
		fprintf(stderr, "usage: %s HOST SERVICE TEXT [SECONDS]\n", argv[0]);
		return 2;
	}
	if (proa_port_open(NULL, &port) < 0) {
		fprintf(stderr, "client: %s\n", proa_port_open_why());
		return 1;
	}
	client.line = malloc(strlen(argv[3]) + 2);
	if (client.line == NULL)
		return 1;
	strcat(strcpy(client.line, argv[3]), "\n");
	client.query.host = argv[1];
	client.query.service = argv[2];
	client.query.found = client.found;
	client.query.room = ROOM;
	client.deadline = proa_now(port) + (int64_t)(seconds * PROA_SECOND);
	proa_op_init(&client.op, port, &client);
	proa_op_init(&client.sender, port, &client);
	proa_op_init(&client.ender, port, &client);
	proa_prep_resolve(&client.op, &client.query);
	proa_op_deadline(&client.op, client.deadline);
	proa_submit(&client.op, on_resolved);
	proa_run(port); /* returns when nothing is in flight */
	proa_port_close(port);
	free(client.line);
	if (client.error < 0)
		fprintf(stderr, "client: %s\n", proa_error_text(client.error));
	return client.error < 0;
}

/* File copy, 16 reads and writes in flight. Takes the two paths. */
#include <proa/proa.h>
#include <stdio.h>

#define SLOTS 16
#define SIZE  (256 * 1024)

static struct slot {
	struct proa_op op;
	uint64_t at;
	char buf[SIZE];
} slots[SLOTS];

static proa_handle in, out;
static uint64_t next;
static int error;

static void on_read(struct proa_op *op, const struct proa_completion *c);

static void read_next(struct slot *slot)
{
	slot->at = next;
	next += SIZE;
	proa_prep_read(&slot->op, in, slot->buf, SIZE, slot->at);
	proa_submit(&slot->op, on_read);
}

static void fail(struct proa_port *port, int code)
{
	if (code < 0 && error == 0) {
		error = code;
		proa_cancel_all(port);
	}
}

static void on_written(struct proa_op *op, const struct proa_completion *c)
{
	if (c->result < 0)
		fail(op->port, c->result);
	else if (error == 0 && c->result == SIZE)
		read_next(op->data);
}

static void on_read(struct proa_op *op, const struct proa_completion *c)
{
	struct slot *slot = op->data;

	if (c->result > 0 && error == 0) {
		proa_prep_write(op, out, slot->buf, (size_t)c->result, slot->at);
		proa_submit(op, on_written);
	} else {
		fail(op->port, c->result);
	}
}

static void on_opened(struct proa_op *op, const struct proa_completion *c)
{
	if (c->result < 0)
		error = c->result;
	else
		*(proa_handle *)op->data = c->result;
}

int main(int argc, char **argv)
{
	struct proa_op open[2];
	struct proa_port *port;

	if (argc != 3 || proa_port_open(NULL, &port) < 0)
		return 1;
	proa_op_init(&open[0], port, &in);
	proa_op_init(&open[1], port, &out);
	proa_prep_open(&open[0], argv[1], PROA_OPEN_READ, 0);
	proa_submit(&open[0], on_opened);
	proa_prep_open(
		&open[1], argv[2], PROA_OPEN_WRITE | PROA_OPEN_CREATE | PROA_OPEN_TRUNCATE, 0644);
	proa_submit(&open[1], on_opened);
	proa_run(port);
	for (int i = 0; error == 0 && i < SLOTS; i++) {
		proa_op_init(&slots[i].op, port, &slots[i]);
		read_next(&slots[i]);
	}
	proa_run(port);
	proa_port_close(port);
	if (error < 0)
		fprintf(stderr, "copy: %s\n", proa_error_text(error));
	return error < 0;
}

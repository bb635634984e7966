/* File copy: several reads and writes in flight, then one sync. Where the
 * system has no completion for files, the port's worker threads do the calls.
 *
 *   file_copy FROM TO */
#include <proa/proa.h>
#include <stdio.h>

#define SLOTS 8
#define SIZE  (128 * 1024)

static struct slot {
	struct proa_op op;
	uint64_t at;
	char bytes[SIZE];
} slots[SLOTS];

static struct proa_op opening_from, opening_to, ending, closing;
static proa_handle from = PROA_NO_HANDLE, to = PROA_NO_HANDLE;
static uint64_t next;
static int error;

/* The first error ends it: cancelled ops come back with PROA_ECANCELED. */
static void fail(struct proa_port *port, int code)
{
	if (error == 0) {
		error = code;
		proa_cancel_all(port);
	}
}

static void on_read(struct proa_op *op, const struct proa_completion *c);

static void read_next(struct slot *slot)
{
	slot->at = next;
	next += SIZE;
	proa_prep_read(&slot->op, from, slot->bytes, SIZE, slot->at);
	proa_submit(&slot->op, on_read);
}

/* A short one was the last of the file. */
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

	if (c->result < 0) {
		fail(op->port, c->result);
	} else if (c->result > 0 && error == 0) {
		proa_prep_write(op, to, slot->bytes, (size_t)c->result, slot->at);
		proa_submit(op, on_written);
	}
}

static void on_opened(struct proa_op *op, const struct proa_completion *c)
{
	if (c->result < 0)
		fail(op->port, c->result);
	else
		*(proa_handle *)op->data = c->result;
}

static void on_ended(struct proa_op *op, const struct proa_completion *c)
{
	if (c->result < 0)
		fail(op->port, c->result);
}

/* proa_run() returns when nothing is in flight: one call for each step. */
static void copy(struct proa_port *port, const char *from_path, const char *to_path)
{
	proa_op_init(&opening_from, port, &from);
	proa_prep_open(&opening_from, from_path, PROA_OPEN_READ, 0);
	proa_submit(&opening_from, on_opened);
	proa_run(port);
	if (error < 0)
		return;
	proa_op_init(&opening_to, port, &to);
	proa_prep_open(&opening_to, to_path,
		PROA_OPEN_WRITE | PROA_OPEN_CREATE | PROA_OPEN_TRUNCATE, 0644);
	proa_submit(&opening_to, on_opened);
	proa_run(port);
	for (int i = 0; error == 0 && i < SLOTS; i++) {
		proa_op_init(&slots[i].op, port, &slots[i]);
		read_next(&slots[i]);
	}
	proa_run(port);
}

/* Sync, then close: a close runs even when the op before it in a chain fails. */
static void finish(struct proa_port *port)
{
	proa_op_init(&ending, port, NULL);
	proa_op_init(&closing, port, NULL);
	if (from != PROA_NO_HANDLE) {
		proa_prep_close(&closing, from, 0);
		proa_submit(&closing, NULL);
		proa_run(port);
	}
	if (to == PROA_NO_HANDLE)
		return;
	proa_prep_sync(&ending, to, PROA_DATA_ONLY);
	proa_prep_close(&closing, to, 0);
	proa_link(&ending, &closing, on_ended);
	proa_submit(&ending, on_ended);
	proa_run(port);
}

int main(int argc, char **argv)
{
	struct proa_port *port;

	if (argc != 3) {
		fprintf(stderr, "usage: %s FROM TO\n", argv[0]);
		return 2;
	}
	if (proa_port_open(NULL, &port) < 0) {
		fprintf(stderr, "copy: %s\n", proa_port_open_why());
		return 1;
	}
	copy(port, argv[1], argv[2]);
	finish(port);
	proa_port_close(port);
	if (error < 0)
		fprintf(stderr, "copy: %s\n", proa_error_text(error));
	return error < 0;
}

/* The reader of random blocks that is measured: as many reads in flight as
 * asked for, each starting the next when it completes. Every block of the file
 * begins with its own offset, which is checked. */
#ifndef PROA_BENCH_FILE_READER_H
#define PROA_BENCH_FILE_READER_H

#include "../measure.h"
#include "peer.h"

#define FILE_BLOCK 4096u

struct file_reader;

struct file_slot {
	struct proa_op op;
	struct file_reader *reader;
	uint64_t *block;
	uint64_t offset;
	int64_t began;
};

struct file_reader {
	struct proa_port *port;
	proa_handle file;
	uint64_t blocks, seed, operations;
	int64_t until;
	int error;
	struct histogram latency;
	struct file_slot *slots;
	unsigned char *memory;
};

static inline void file_read_done(struct proa_op *op, const struct proa_completion *c);

static inline void file_read_next(struct file_slot *slot)
{
	struct file_reader *reader = slot->reader;

	slot->offset = measure_random(&reader->seed) % reader->blocks * FILE_BLOCK;
	slot->began = measure_now();
	proa_prep_read(&slot->op, reader->file, slot->block, FILE_BLOCK, slot->offset);
	proa_submit(&slot->op, file_read_done);
}

static inline void file_read_done(struct proa_op *op, const struct proa_completion *c)
{
	struct file_slot *slot = op->data;
	struct file_reader *reader = slot->reader;
	int64_t now = measure_now();

	if (c->result != (int32_t)FILE_BLOCK || slot->block[0] != slot->offset) {
		reader->error = c->result < 0 ? c->result : PROA_EIO;
		return;
	}
	reader->operations++;
	histogram_add(&reader->latency, now - slot->began);
	if (now < reader->until && reader->error == 0)
		file_read_next(slot);
}

/* Reads for `ns`, `depth` at once, from a file of `size` bytes. 0 or an error. */
static inline int file_read(struct file_reader *reader, struct proa_port *port, proa_handle file,
	uint64_t size, unsigned depth, int64_t ns)
{
	memset(reader, 0, sizeof *reader);
	reader->port = port;
	reader->file = file;
	reader->blocks = size / FILE_BLOCK;
	reader->seed = 88172645463325252u;
	reader->slots = calloc(depth, sizeof *reader->slots);
	/* Aligned as direct reads want it. */
	if (posix_memalign((void **)&reader->memory, FILE_BLOCK, (size_t)depth * FILE_BLOCK) != 0)
		reader->memory = NULL;
	if (reader->slots == NULL || reader->memory == NULL || reader->blocks == 0) {
		reader->error = reader->blocks == 0 ? PROA_EINVAL : PROA_ENOMEM;
		depth = 0;
	}
	reader->until = measure_now() + ns;
	for (unsigned i = 0; i < depth; i++) {
		struct file_slot *slot = &reader->slots[i];

		proa_op_init(&slot->op, port, slot);
		slot->reader = reader;
		slot->block = (uint64_t *)(void *)(reader->memory + (size_t)i * FILE_BLOCK);
		file_read_next(slot);
	}
	if (depth > 0)
		proa_run(port);
	free(reader->slots);
	free(reader->memory);
	return reader->error;
}

#endif

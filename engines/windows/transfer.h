/* Bytes moved by a worker: the system's calls, and how a wait on a peer is ended. */
#ifndef PROA_ENGINES_WINDOWS_TRANSFER_H
#define PROA_ENGINES_WINDOWS_TRANSFER_H

#include "engines/windows/windows.h"

/* The most that one operation moves (rule 7). */
#define FILE_MOST 0x7ffff000u

/* A worker in a call on a pipe or a console, whose peer may never come to it: what has
 * been begun is waited for, but not that long. */
struct waiter {
	struct waiter *next;
	const struct proa_op *op;
	HANDLE thread, file;
	OVERLAPPED *overlapped; /* of the call that it is in; NULL: in none */
	bool interrupted;
};

/* From here to there the worker may be waiting for a peer, and file_interrupt() ends it. */
void waiter_begin(struct waiter *waiter, const struct proa_op *op);
void waiter_end(struct waiter *waiter);

/* Where an operation's bytes are to come from or go to. */
struct transfer {
	HANDLE file;
	HANDLE event;
	struct waiter *waiter; /* NULL: the system will not let it wait for ever */
	HANDLE reopened; /* what `file` is; NULL: somebody else's */
	bool keeps; /* `position` is to be the file's at the end */
	LARGE_INTEGER position;
	bool placed; /* has places: to all else an offset must be 0 (OVERLAPPED) */
	const struct proa_slice *slices;
	size_t count;
	struct proa_slice single; /* what `slices` is when there is but one buffer */
	uint64_t total;
	uint64_t offset;
	bool writing;
	bool whole; /* false: one call is enough */
};

/* Describes what `op` moves. 0, or PROA_EINVAL for more than an operation can move:
 * to do a part of it in silence would be neither all nor an error. */
int transfer_init(struct transfer *transfer, const struct proa_op *op, bool vector, bool apart);
/* Readies what calls need, but `file` and `placed`, which are set. Accesses at an offset
 * (`apart`) leave the file's own position alone, as pread(2) does: they are made through
 * a handle of their own where they would move it; where there can be none, it is put
 * back. 0 or PROA_ENOMEM. */
int transfer_open(struct transfer *transfer, bool apart);
void transfer_close(const struct transfer *transfer);
/* One call of the system's. Bytes moved, 0 at the end, or an error. */
int32_t transfer_once(
	const struct transfer *transfer, void *bytes, uint32_t length, uint64_t offset);
/* As often as the operation demands. A write of nothing that is no error would go
 * on for ever. */
int32_t transfer_run(struct proa_op *op, const struct transfer *transfer);
int32_t transfer_at_offset(struct proa_op *op, bool vector, bool writing);

#endif

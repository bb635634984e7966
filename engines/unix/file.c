/* Operations on files, done by plain system calls: on worker threads, where
 * they may block, and as a first try on the port's own thread, where only what
 * lies in the page cache is taken.
 *
 * Each goes on from flight(op)->moved, so that a worker finishes what the try
 * began. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>
#ifdef __linux__
#	include <sys/sysmacros.h>
#endif
#ifdef PROA_HAVE_SENDFILE_LINUX
#	include <sys/sendfile.h>
#endif
#ifndef PROA_HAVE_RWF_NOWAIT
#	include <sys/mman.h>
#endif

#include "engines/unix/unix.h"

/* The most that one operation moves (rule 7), and one system call takes. */
#define FILE_MOST 0x7ffff000u
/* The most that is copied on the port's own thread: some tens of microseconds. */
#define FILE_TRY_MOST (256u * 1024)
/* Slices handed to the system at once; far below any IOV_MAX. */
#define FILE_SLICES 64
/* Room for copies, on the stack of a worker. */
#define FILE_ROOM (16u * 1024)
/* How much is read ahead of a sendfile at once. */
#define FILE_WARM_MOST (1024u * 1024)
/* Places where file_is_warm() looks, but the last byte. */
#define FILE_PROBES 8

/* Where an operation's bytes are to come from or go to. */
struct transfer {
	const struct proa_slice *slices;
	size_t count;
	struct proa_slice single; /* what `slices` is when there is but one buffer */
	uint64_t total;
	bool at_offset; /* else at the file's own position */
	uint64_t offset;
	bool writing;
	bool waiting; /* false: only what needs no wait */
	bool whole; /* false: one call is enough */
};

_Static_assert(sizeof(struct proa_slice) == sizeof(struct iovec) &&
		       offsetof(struct proa_slice, data) == offsetof(struct iovec, iov_base) &&
		       offsetof(struct proa_slice, length) == offsetof(struct iovec, iov_len),
	"a slice is an iovec");

int file_open_flags(uint32_t how)
{
	const uint32_t all = PROA_OPEN_READ | PROA_OPEN_WRITE | PROA_OPEN_CREATE |
			     PROA_OPEN_EXCLUSIVE | PROA_OPEN_TRUNCATE | PROA_OPEN_APPEND |
			     PROA_OPEN_DIRECTORY;
	const uint32_t writing = PROA_OPEN_TRUNCATE | PROA_OPEN_APPEND;
	int flags = O_CLOEXEC;

	if ((how & ~all) != 0 ||
		(how & (PROA_OPEN_READ | PROA_OPEN_WRITE | PROA_OPEN_DIRECTORY)) == 0 ||
		((how & writing) != 0 && (how & PROA_OPEN_WRITE) == 0) ||
		((how & PROA_OPEN_EXCLUSIVE) != 0 && (how & PROA_OPEN_CREATE) == 0))
		return PROA_EINVAL;
	if ((how & PROA_OPEN_WRITE) != 0)
		flags |= (how & PROA_OPEN_READ) != 0 ? O_RDWR : O_WRONLY;
	else
		flags |= O_RDONLY;
	flags |= (how & PROA_OPEN_CREATE) != 0 ? O_CREAT : 0;
	flags |= (how & PROA_OPEN_EXCLUSIVE) != 0 ? O_EXCL : 0;
	flags |= (how & PROA_OPEN_TRUNCATE) != 0 ? O_TRUNC : 0;
	flags |= (how & PROA_OPEN_APPEND) != 0 ? O_APPEND : 0;
	flags |= (how & PROA_OPEN_DIRECTORY) != 0 ? O_DIRECTORY : 0;
	return flags;
}

static bool is_always_ready(const struct stat *status)
{
	return S_ISREG(status->st_mode) || S_ISDIR(status->st_mode) || S_ISBLK(status->st_mode);
}

static int open_retried(const char *path, int flags, mode_t mode)
{
	int fd;

	do
		fd = open(path, flags, mode);
	while (fd < 0 && errno == EINTR);
	return fd;
}

/* Always with O_NONBLOCK: a FIFO without a peer, or a serial line without a
 * carrier, would hold the worker for ever. So a FIFO opened for reading is
 * there at once and is at its end until a writer comes; opened for writing
 * without a reader it is ENXIO; both at once (Linux) never fails nor ends.
 * Regular files drop the flag again: it says nothing to read(2), but io_uring
 * of older kernels (5.10) takes it as a wish not to wait for the disk. */
static int32_t open_file(const struct proa_op *op)
{
	int flags = file_open_flags(op->flags_);
	mode_t mode = (mode_t)op->argument_;
	struct stat status;
	int fd, code;

	if (flags < 0)
		return flags;
	fd = open_retried(op->buffer_, flags | O_NONBLOCK, mode);
	/* A lease on the file, which its holder has to give up first: fcntl(2). */
	if (fd < 0 && errno == EAGAIN && stat(op->buffer_, &status) == 0 && S_ISREG(status.st_mode))
		fd = open_retried(op->buffer_, flags, mode);
	if (fd < 0)
		return unix_error(errno);
	if (fstat(fd, &status) == 0 &&
		(!is_always_ready(&status) || fcntl(fd, F_SETFL, flags & O_APPEND) == 0))
		return fd;
	code = unix_error(errno);
	close(fd);
	return code;
}

/* Fills `room` with what comes after the first `skip` bytes. */
static int remaining(const struct transfer *transfer, uint64_t skip, struct iovec *room)
{
	int used = 0;

	for (size_t i = 0; i < transfer->count && used < FILE_SLICES; i++) {
		const struct proa_slice *slice = &transfer->slices[i];

		if (skip >= slice->length) {
			skip -= slice->length;
			continue;
		}
		room[used].iov_base = (char *)slice->data + skip;
		room[used].iov_len = slice->length - (size_t)skip;
		used++;
		skip = 0;
	}
	return used;
}

/* A read that does not wait: EAGAIN if it would have to. */
static ssize_t read_cached(int fd, const struct iovec *room, int used, off_t offset)
{
#ifdef PROA_HAVE_RWF_NOWAIT
	return preadv2(fd, room, used, offset, RWF_NOWAIT); /* Linux 4.14 */
#else
	(void)fd, (void)room, (void)used, (void)offset;
	errno = EOPNOTSUPP;
	return -1;
#endif
}

/* macOS before 11 has neither preadv() nor pwritev() (its SDK's <sys/uio.h>: "macos(11.0)"):
 * one slice a call then, and who repeats it goes on where it was short. */
static ssize_t transfer_at(int fd, bool writing, const struct iovec *room, int used, off_t offset)
{
#ifdef PROA_HAVE_PREADV
	return writing ? pwritev(fd, room, used, offset) : preadv(fd, room, used, offset);
#else
	(void)used;
	return writing ? pwrite(fd, room[0].iov_base, room[0].iov_len, offset)
		       : pread(fd, room[0].iov_base, room[0].iov_len, offset);
#endif
}

/* One system call. */
static ssize_t transfer_once(int fd, const struct transfer *transfer, uint64_t moved)
{
	struct iovec room[FILE_SLICES];
	int used = remaining(transfer, moved, room);
	off_t offset = (off_t)(transfer->offset + moved);

	if (!transfer->waiting)
		return read_cached(fd, room, used, transfer->at_offset ? offset : -1);
	if (transfer->at_offset)
		return transfer_at(fd, transfer->writing, room, used, offset);
	return transfer->writing ? writev(fd, room, used) : readv(fd, room, used);
}

/* Repeats it as the operation demands. A write of nothing that is no error
 * would go on for ever: POSIX does not rule it out. */
static int32_t transfer_run(struct proa_op *op, const struct transfer *transfer)
{
	uint64_t *moved = &flight(op)->moved;

	while (*moved < transfer->total) {
		ssize_t done = transfer_once(op->handle_, transfer, *moved);

		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return !transfer->waiting ? STEP_TO_WORKER : unix_error(errno);
		if (done == 0 && transfer->writing)
			return PROA_EIO;
		if (done == 0)
			break;
		*moved += (uint64_t)done;
		if (!transfer->whole)
			break;
	}
	return (int32_t)*moved;
}

/* Describes what `op` moves. 0, or PROA_EINVAL for more than an operation can
 * move: to do a part of it in silence would be neither all nor an error. */
static int transfer_init(struct transfer *transfer, const struct proa_op *op, bool vector)
{
	memset(transfer, 0, sizeof *transfer);
	transfer->waiting = true;
	transfer->whole = true;
	transfer->slices = op->buffer_;
	transfer->count = op->length_;
	if (!vector) {
		transfer->single.data = op->buffer_;
		transfer->single.length = op->length_;
		transfer->slices = &transfer->single;
		transfer->count = 1;
	}
	for (size_t i = 0; i < transfer->count; i++) {
		if (transfer->slices[i].length > FILE_MOST - transfer->total)
			return PROA_EINVAL;
		transfer->total += transfer->slices[i].length;
	}
	return 0;
}

static int32_t transfer_at_offset(struct proa_op *op, bool vector, bool writing, bool waiting)
{
	struct transfer transfer;
	int code = transfer_init(&transfer, op, vector);

	/* (off_t)-1 is "the file's own position" to preadv2(). */
	if (code < 0 || op->argument_ > INT64_MAX - FILE_MOST)
		return PROA_EINVAL;
	transfer.at_offset = true;
	transfer.offset = op->argument_;
	transfer.writing = writing;
	transfer.waiting = waiting;
	if (!waiting && transfer.total > FILE_TRY_MOST)
		return STEP_TO_WORKER;
	return transfer_run(op, &transfer);
}

/* A receive from a file, at the file's position. */
static int32_t receive(struct proa_op *op, bool waiting)
{
	struct transfer transfer;
	int code = transfer_init(&transfer, op, false);

	if (code < 0)
		return code;
	transfer.waiting = waiting;
	transfer.whole = (op->flags_ & PROA_ALL) != 0;
	if (!waiting && transfer.total > FILE_TRY_MOST)
		return STEP_TO_WORKER;
	return transfer_run(op, &transfer);
}

static int32_t send_all(struct proa_op *op, bool vector)
{
	struct transfer transfer;
	int code = transfer_init(&transfer, op, vector);

	if (code < 0)
		return code;
	transfer.writing = true;
	transfer.whole = (op->flags_ & PROA_SOME) == 0;
	return transfer_run(op, &transfer);
}

/* Through memory of ours: what always works. Bytes copied, 0 at the end of the
 * source, -1 with errno. Those that were read but not written stay unread: the
 * next call reads them again. */
static ssize_t copy_through(int target, int source, uint64_t offset, uint64_t length)
{
	char room[FILE_ROOM];
	ssize_t got = pread(
		source, room, length < sizeof room ? (size_t)length : sizeof room, (off_t)offset);

	return got > 0 ? write(target, room, (size_t)got) : got;
}

/* sendfile() does not take every pair of files (a target opened to append, a
 * source without a page cache): EINVAL then, before anything was moved. */
static ssize_t copy_once(int target, int source, uint64_t offset, uint64_t length)
{
#ifdef PROA_HAVE_SENDFILE_LINUX
	/* The others' send to sockets alone. */
	off_t from = (off_t)offset;
	ssize_t done =
		sendfile(target, source, &from, length < FILE_MOST ? (size_t)length : FILE_MOST);

	if (done >= 0 || (errno != EINVAL && errno != ENOSYS))
		return done;
#endif
	return copy_through(target, source, offset, length);
}

static int32_t send_file(struct proa_op *op)
{
	const struct proa_range *range = op->buffer_;
	uint64_t *moved = &flight(op)->moved;

	if (range->offset > INT64_MAX || range->length > INT64_MAX - range->offset)
		return PROA_EINVAL;
	while (*moved < range->length) {
		ssize_t done = copy_once(
			op->handle_, range->file, range->offset + *moved, range->length - *moved);

		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return unix_error(errno);
		if (done == 0) /* the file is shorter */
			return PROA_EIO;
		*moved += (uint64_t)done;
	}
	return *moved < INT32_MAX ? (int32_t)*moved : INT32_MAX;
}

/* The part of the file that comes next, for a sendfile to what is no file. */
static int32_t warm_next(const struct proa_op *op)
{
	const struct proa_range *range = op->buffer_;
	uint64_t left = range->length - flight(op)->moved;
	int code = file_warm(range->file, range->offset + flight(op)->moved,
		left < FILE_WARM_MOST ? (size_t)left : FILE_WARM_MOST);

	return code < 0 ? code : FILE_WARMED;
}

static int32_t sync_file(const struct proa_op *op)
{
	int code;

	do {
#ifdef __APPLE__
		/* fsync(2) there leaves the data in the drive's cache, as its manual page
		 * says. */
		code = fcntl(op->handle_, F_FULLFSYNC);
#else
		code = (op->flags_ & PROA_DATA_ONLY) != 0 ? fdatasync(op->handle_)
							  : fsync(op->handle_);
#endif
	} while (code < 0 && errno == EINTR);
	return code < 0 ? unix_error(errno) : 0;
}

static int64_t instant(int64_t seconds, int64_t nanoseconds)
{
	return seconds * PROA_SECOND + nanoseconds;
}

static void stat_fill(struct proa_stat *out, const struct stat *status)
{
	memset(out, 0, sizeof *out);
	out->size = (uint64_t)status->st_size;
	out->inode = status->st_ino;
	out->device = status->st_dev;
	out->mode = status->st_mode;
	out->links = (uint32_t)status->st_nlink;
#ifdef __APPLE__
	out->modified = instant(status->st_mtimespec.tv_sec, status->st_mtimespec.tv_nsec);
	out->changed = instant(status->st_ctimespec.tv_sec, status->st_ctimespec.tv_nsec);
	out->accessed = instant(status->st_atimespec.tv_sec, status->st_atimespec.tv_nsec);
#else
	out->modified = instant(status->st_mtim.tv_sec, status->st_mtim.tv_nsec);
	out->changed = instant(status->st_ctim.tv_sec, status->st_ctim.tv_nsec);
	out->accessed = instant(status->st_atim.tv_sec, status->st_atim.tv_nsec);
#endif
}

#ifdef __linux__
_Static_assert(sizeof(struct statx) <= sizeof(struct proa_stat), "statx has room to arrive");
_Static_assert(_Alignof(struct statx) <= _Alignof(struct proa_stat), "and lies well there");

void stat_fill_from_statx(struct proa_stat *out)
{
	const struct statx status = *stat_statx(out);

	memset(out, 0, sizeof *out);
	out->size = status.stx_size;
	out->inode = status.stx_ino;
	out->device = makedev(status.stx_dev_major, status.stx_dev_minor);
	out->mode = status.stx_mode;
	out->links = status.stx_nlink;
	out->modified = instant(status.stx_mtime.tv_sec, status.stx_mtime.tv_nsec);
	out->changed = instant(status.stx_ctime.tv_sec, status.stx_ctime.tv_nsec);
	out->accessed = instant(status.stx_atime.tv_sec, status.stx_atime.tv_nsec);
}
#endif

static int32_t stat_path(const struct proa_op *op)
{
	struct stat status;

	if (stat(op->buffer_, &status) < 0)
		return unix_error(errno);
	stat_fill((struct proa_stat *)(uintptr_t)op->argument_, &status);
	return 0;
}

static int32_t stat_handle(const struct proa_op *op)
{
	struct stat status;

	if (fstat(op->handle_, &status) < 0)
		return unix_error(errno);
	stat_fill(op->buffer_, &status);
	return 0;
}

static int32_t truncate_file(const struct proa_op *op)
{
	int code;

	if (op->argument_ > INT64_MAX)
		return PROA_EINVAL;
	do
		code = ftruncate(op->handle_, (off_t)op->argument_);
	while (code < 0 && errno == EINTR);
	return code < 0 ? unix_error(errno) : 0;
}

static int32_t result_of(int returned)
{
	return returned < 0 ? unix_error(errno) : 0;
}

int32_t file_run(struct proa_op *op)
{
	switch ((enum proa_kind)op->kind_) {
	case PROA_OP_OPEN:
		return open_file(op);
	case PROA_OP_READ:
	case PROA_OP_READV:
		return transfer_at_offset(op, op->kind_ == PROA_OP_READV, false, true);
	case PROA_OP_WRITE:
	case PROA_OP_WRITEV:
		return transfer_at_offset(op, op->kind_ == PROA_OP_WRITEV, true, true);
	case PROA_OP_RECV:
		return receive(op, true);
	case PROA_OP_SEND:
	case PROA_OP_SENDV:
		return send_all(op, op->kind_ == PROA_OP_SENDV);
	case PROA_OP_SENDFILE:
		return (op->flags_ & PROA_WARM_) != 0 ? warm_next(op) : send_file(op);
	case PROA_OP_SYNC:
		return sync_file(op);
	case PROA_OP_STAT:
		return stat_path(op);
	case PROA_OP_FSTAT:
		return stat_handle(op);
	case PROA_OP_TRUNCATE:
		return truncate_file(op);
	case PROA_OP_RENAME:
		return result_of(rename(op->buffer_, (const char *)(uintptr_t)op->argument_));
	case PROA_OP_UNLINK:
		return result_of(unlink(op->buffer_));
	case PROA_OP_MKDIR:
		return result_of(mkdir(op->buffer_, (mode_t)op->argument_));
	default:
		return PROA_EOPNOTSUPP; /* of sockets, or of no file */
	}
}

int32_t file_try(struct proa_op *op)
{
	switch ((enum proa_kind)op->kind_) {
	case PROA_OP_READ:
	case PROA_OP_READV:
		return transfer_at_offset(op, op->kind_ == PROA_OP_READV, false, false);
	case PROA_OP_RECV:
		return receive(op, false);
	default:
		return STEP_TO_WORKER;
	}
}

int file_warm(proa_handle file, uint64_t offset, size_t length)
{
	char room[FILE_ROOM];

	if (offset > INT64_MAX || length > INT64_MAX - offset)
		return PROA_EINVAL;
#if defined PROA_HAVE_FADVISE
	/* Lets the disk have it in one piece; only the reads wait for it. */
	posix_fadvise(file, (off_t)offset, (off_t)length, POSIX_FADV_WILLNEED);
#elif defined F_RDADVISE
	struct radvisory part = { (off_t)offset, length < INT_MAX ? (int)length : INT_MAX };

	fcntl(file, F_RDADVISE, &part); /* fcntl(2), macOS */
#endif
	while (length > 0) {
		ssize_t got = pread(
			file, room, length < sizeof room ? length : sizeof room, (off_t)offset);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return unix_error(errno);
		if (got == 0)
			break;
		offset += (uint64_t)got;
		length -= (size_t)got;
	}
	return 0;
}

#ifdef PROA_HAVE_RWF_NOWAIT
/* Would a read of this byte wait? Errors are for the real read to report. */
static bool byte_is_warm(int fd, uint64_t offset)
{
	char byte;
	struct iovec room = { &byte, 1 };

	return read_cached(fd, &room, 1, (off_t)offset) >= 0 || errno != EAGAIN;
}

bool file_is_warm(proa_handle file, uint64_t offset, size_t length)
{
	if (length == 0 || offset > INT64_MAX || length > INT64_MAX - offset)
		return true;
	for (unsigned i = 0; i < FILE_PROBES; i++)
		if (!byte_is_warm(file, offset + (uint64_t)(length / FILE_PROBES) * i))
			return false;
	return byte_is_warm(file, offset + length - 1);
}
#else
#	ifdef __linux__
typedef unsigned char page_state;
#	else
typedef char page_state;
#	endif

/* How much mincore(2) is asked for at once, in pages. */
#	define PAGES_MOST 64

/* Without reads that don't wait: what mincore(2) says of a mapping. Where the file
 * can't be mapped there is nothing to wait for, or no way to know. */
static bool pages_are_warm(int fd, off_t from, size_t pages, size_t page)
{
	page_state states[PAGES_MOST];
	void *map = mmap(NULL, pages * page, PROT_READ, MAP_SHARED, fd, from);
	bool warm = true;

	if (map == MAP_FAILED)
		return true;
	if (mincore(map, pages * page, states) == 0)
		for (size_t i = 0; i < pages && warm; i++)
			warm = (states[i] & 1) != 0;
	munmap(map, pages * page);
	return warm;
}

bool file_is_warm(proa_handle file, uint64_t offset, size_t length)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), pages;
	struct stat status;
	uint64_t end, from;

	if (length == 0 || offset > INT64_MAX || length > INT64_MAX - offset ||
		fstat(file, &status) < 0 || !S_ISREG(status.st_mode))
		return true;
	/* What lies behind the file's end is never there, and never waited for. */
	end = offset + length < (uint64_t)status.st_size ? offset + length
							 : (uint64_t)status.st_size;
	for (from = offset / page * page; from < end; from += pages * page) {
		pages = (size_t)((end - from + page - 1) / page);
		if (pages > PAGES_MOST)
			pages = PAGES_MOST;
		if (!pages_are_warm(file, (off_t)from, pages, page))
			return false;
	}
	return true;
}
#endif

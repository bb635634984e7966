/* Rule 26 for files (with 7 and 8): whole reads and writes, true errors, and a
 * port that never blocks on them; files where a stream is asked for. */
#include "harness.h"
#include "posix.h"

#include <stdatomic.h>

#ifndef _WIN32
#	include <sys/mount.h>
#endif

#define MIB (1024u * 1024u)
/* The most one op moves. */
#define MOST       0x7ffff000u
#define READ_WRITE (PROA_OPEN_READ | PROA_OPEN_WRITE)

static unsigned char *pattern(size_t length)
{
	unsigned char *bytes = malloc(length);

	CHECK(bytes != NULL);
	fill_bytes(bytes, length, 0);
	return bytes;
}

/* A file with the first `length` bytes of the pattern; its path. */
static const char *make_file(const char *name, size_t length)
{
	const char *path = test_path(name);
	unsigned char *bytes = pattern(length + 1);
	int fd = CHECK_SYSTEM(open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600));

	peer_write(fd, bytes, length);
	close(fd);
	free(bytes);
	return path;
}

static int32_t try_open(struct proa_port *port, const char *path, uint32_t how)
{
	struct record record;

	record_init(&record, port);
	proa_prep_open(&record.op, path, how, 0644);
	return record_run(&record);
}

static proa_handle open_file(struct proa_port *port, const char *path, uint32_t how)
{
	int32_t result = try_open(port, path, how);

	if (result < 0)
		test_fail(__FILE__, __LINE__, "%s: %s", path, proa_error_name(result));
	return result;
}

static int32_t write_at(
	struct proa_port *port, proa_handle file, const void *bytes, size_t length, uint64_t offset)
{
	struct record record;

	record_init(&record, port);
	proa_prep_write(&record.op, file, bytes, length, offset);
	if (record_run(&record) >= 0)
		CHECK_INT(proa_op_count(&record.op), record.last);
	return record.last;
}

static int32_t read_at(
	struct proa_port *port, proa_handle file, void *bytes, size_t length, uint64_t offset)
{
	struct record record;

	record_init(&record, port);
	proa_prep_read(&record.op, file, bytes, length, offset);
	if (record_run(&record) >= 0)
		CHECK_INT(proa_op_count(&record.op), record.last);
	return record.last;
}

static void test_umask(void)
{
#ifndef _WIN32
	umask(022);
#endif
}

/* Permissions, under the umask: of which Windows knows read-only alone. */
static void check_mode(mode_t mode, mode_t expected)
{
#ifdef _WIN32
	CHECK((mode & S_IWUSR) == (expected & S_IWUSR));
#else
	CHECK_INT(mode & 07777, expected);
#endif
}

/* ---- Opening ---- */

TEST(26, "open", flags_of_open)
{
	struct proa_port *port = test_port();
	const char *path = test_path("new");
	struct stat status;
	struct record record;
	proa_handle file;
	char room[8];

	test_umask();
	CHECK_INT(try_open(port, path, PROA_OPEN_READ), PROA_ENOENT);
	CHECK_INT(try_open(port, "", PROA_OPEN_READ), PROA_ENOENT);
	record_init(&record, port);
	proa_prep_open(&record.op, path, READ_WRITE | PROA_OPEN_CREATE, 0666);
	file = record_run(&record);
	CHECK(file >= 0);
	CHECK_SYSTEM(stat(path, &status));
	check_mode(status.st_mode, 0644);
	CHECK_INT(write_at(port, file, "abcdef", 6, 0), 6);
	close_handle(port, file);
	/* Created again it is what it was, and exclusively it is not. */
	file = open_file(port, path, PROA_OPEN_READ | PROA_OPEN_CREATE);
	CHECK_INT(read_at(port, file, room, 8, 0), 6);
	CHECK(write_at(port, file, "x", 1, 0) == PROA_EBADF);
	close_handle(port, file);
	CHECK_INT(try_open(port, path, PROA_OPEN_WRITE | PROA_OPEN_CREATE | PROA_OPEN_EXCLUSIVE),
		PROA_EEXIST);
	file = open_file(port, path, PROA_OPEN_WRITE | PROA_OPEN_TRUNCATE);
	CHECK_SYSTEM(stat(path, &status));
	CHECK_INT(status.st_size, 0);
	CHECK(read_at(port, file, room, 8, 0) == PROA_EBADF);
	close_handle(port, file);
	CHECK_INT(try_open(port, path, PROA_OPEN_READ | PROA_OPEN_DIRECTORY), PROA_ENOTDIR);
	CHECK_INT(try_open(port, test_path("new/inside"), PROA_OPEN_READ), PROA_ENOTDIR);
	test_close(port);
}

TEST(26, "open", folders)
{
	struct proa_port *port = test_port();
	proa_handle folder;
	char room[8];

	CHECK_INT(try_open(port, test_folder(), PROA_OPEN_WRITE), PROA_EISDIR);
	CHECK_INT(try_open(port, test_folder(), READ_WRITE), PROA_EISDIR);
	folder = open_file(port, test_folder(), PROA_OPEN_READ | PROA_OPEN_DIRECTORY);
	CHECK_INT(read_at(port, folder, room, 8, 0), PROA_EISDIR);
	close_handle(port, folder);
	test_close(port);
}

TEST(26, "open", cancelled_open_leaves_nothing)
{
	enum { OPENS = 100 };
	struct proa_port *port = test_port();
	const char *path = make_file("file", 10);
	struct record opens[OPENS];
	int before, won = 0;

	record_init(&opens[0], port);
	proa_prep_open(&opens[0].op, path, PROA_OPEN_READ, 0);
	close_handle(port, record_run(&opens[0]));
	before = descriptors_open();
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < OPENS; i++) {
			record_init(&opens[i], port);
			proa_prep_open(&opens[i].op, path, PROA_OPEN_READ, 0);
			record_submit(&opens[i]);
		}
		for (int i = 0; i < round; i++)
			CHECK(proa_run_once(port, 0) >= 0);
		for (int i = 0; i < OPENS; i++)
			proa_cancel(&opens[i].op);
		for (int i = 0; i < OPENS; i++) {
			RUN_UNTIL(port, opens[i].finals == 1);
			if (opens[i].last < 0) {
				CHECK_INT(opens[i].last, PROA_ECANCELED);
				continue;
			}
			won++;
			close_handle(port, opens[i].last);
		}
		CHECK_INT(descriptors_open(), before);
	}
	printf("%d opens won\n", won);
	test_close(port);
}

/* ---- Reading and writing ---- */

TEST_SLOW(26, "whole transfers", large_write_and_read)
{
	const size_t length = 64 * MIB;
	unsigned char *bytes = pattern(length);
	struct proa_port *port = test_port();
	proa_handle file = open_file(port, test_path("large"), READ_WRITE | PROA_OPEN_CREATE);

	CHECK_INT(write_at(port, file, bytes, length, 0), length);
	memset(bytes, 0, length);
	CHECK_INT(read_at(port, file, bytes, length, 0), length);
	CHECK_BYTES(bytes, length, 0);
	/* Short at the end alone. */
	memset(bytes, 0, length);
	CHECK_INT(read_at(port, file, bytes, length, length - 12345), 12345);
	CHECK_BYTES(bytes, 12345, length - 12345);
	CHECK_INT(read_at(port, file, bytes, 100, length), 0);
	CHECK_INT(read_at(port, file, bytes, 100, length * 5), 0);
	CHECK_INT(read_at(port, file, bytes, 0, 10), 0);
	CHECK_INT(write_at(port, file, bytes, 0, 10), 0);
	close_handle(port, file);
	test_close(port);
	free(bytes);
}

#ifndef F_SETLEASE
NOT_HERE(26, "open", open_waits_for_a_lease, "no leases here")
#else
/* Its holder is told by a signal, and gives it up in its own time. */
TEST(26, "open", open_waits_for_a_lease)
{
	struct proa_port *port = test_port();
	struct record open_;
	int file = CHECK_SYSTEM(open(test_path("file"), O_RDONLY | O_CREAT | O_CLOEXEC, 0600));

	signal(SIGIO, SIG_IGN);
	if (fcntl(file, F_SETLEASE, F_RDLCK) < 0)
		SKIP("no leases on this file system");
	record_init(&open_, port);
	proa_prep_open(&open_.op, test_path("file"), PROA_OPEN_WRITE, 0);
	record_submit(&open_);
	run_for(port, 50 * PROA_MILLISECOND);
	CHECK_INT(open_.finals, 0);
	CHECK_SYSTEM(fcntl(file, F_SETLEASE, F_UNLCK));
	RUN_UNTIL(port, open_.finals == 1);
	CHECK(open_.last >= 0);
	close_handle(port, open_.last);
	close(file);
	test_close(port);
}
#endif

TEST(26, "whole transfers", offsets_of_64_bits)
{
	const uint64_t far = (UINT64_C(5) << 30) + 3;
	struct proa_port *port = test_port();
	proa_handle file = open_file(port, test_path("far"), READ_WRITE | PROA_OPEN_CREATE);
	struct proa_stat stat;
	struct record record;
	char room[8];

	CHECK_INT(write_at(port, file, "abc", 3, far), 3);
	CHECK_INT(read_at(port, file, room, 8, far), 3);
	CHECK(memcmp(room, "abc", 3) == 0);
	CHECK_INT(read_at(port, file, room, 8, far - 5), 8);
	CHECK(memcmp(room, "\0\0\0\0\0abc", 8) == 0);
	record_init(&record, port);
	proa_prep_fstat(&record.op, file, &stat);
	CHECK_INT(record_run(&record), 0);
	CHECK_INT(stat.size, far + 3);
	close_handle(port, file);
	test_close(port);
}

TEST(26, "whole transfers", vectors)
{
	enum { SLICES = 3000 };
	unsigned char *bytes = pattern(SLICES * 7);
	struct proa_slice slices[SLICES];
	struct proa_port *port = test_port();
	proa_handle file = open_file(port, test_path("vectors"), READ_WRITE | PROA_OPEN_CREATE);
	struct record record;

	/* More slices than one system call takes, some of them empty. */
	for (size_t i = 0; i < SLICES; i++)
		slices[i] = (struct proa_slice)SLICE(bytes + i * 7, i % 10 == 5 ? 0 : 7);
	record_init(&record, port);
	proa_prep_writev(&record.op, file, slices, SLICES, 100);
	CHECK_INT(record_run(&record), SLICES * 7 * 9 / 10);
	memset(bytes, 0, SLICES * 7);
	for (size_t i = 0; i < SLICES; i++)
		slices[i].length = i % 10 == 5 ? 0 : 7;
	proa_prep_readv(&record.op, file, slices, SLICES, 100);
	CHECK_INT(record_run(&record), SLICES * 7 * 9 / 10);
	for (size_t i = 0; i < SLICES; i++)
		if (slices[i].length > 0)
			CHECK_BYTES(bytes + i * 7, 7, i * 7);
	/* Short at the end of the file. */
	proa_prep_readv(&record.op, file, slices, SLICES, 100 + 7 * 9);
	CHECK_INT(record_run(&record), SLICES * 7 * 9 / 10 - 7 * 9);
	proa_prep_readv(&record.op, file, slices, SLICES, 1000000);
	CHECK_INT(record_run(&record), 0);
	proa_prep_writev(&record.op, file, slices, 0, 0);
	CHECK_INT(record_run(&record), 0);
	close_handle(port, file);
	test_close(port);
	free(bytes);
}

/* Reads under way when the file is cut end all the same: whole, or short where it ended at
 * that moment. Those that come after know the new end. */
TEST(8, "files", reads_of_a_file_that_shrinks)
{
	enum { PIECES = 32 };
	const size_t piece = MIB / 2, cut = 5 * MIB + 777;
	const char *path = make_file("file", PIECES * piece);
	unsigned char *got = calloc(PIECES, piece);
	struct proa_port *port = test_port();
	struct record reads[PIECES];
	proa_handle file = open_file(port, path, PROA_OPEN_READ);

	CHECK(got != NULL);
	for (size_t i = 0; i < PIECES; i++)
		record_init(&reads[i], port);
	for (int again = 0; again < 2; again++) {
		for (size_t i = 0; i < PIECES; i++) {
			proa_prep_read(&reads[i].op, file, got + i * piece, piece, i * piece);
			record_submit(&reads[i]);
		}
		if (!again)
			CHECK_SYSTEM(truncate(path, (off_t)cut));
		for (size_t i = 0; i < PIECES; i++) {
			size_t at = i * piece, left = at < cut ? cut - at : 0;
			size_t least = left < piece ? left : piece;
			size_t most = again ? least : piece;

			RUN_UNTIL(port, reads[i].finals == 1);
			CHECK(reads[i].last >= (int32_t)least && reads[i].last <= (int32_t)most);
			CHECK_INT(proa_op_count(&reads[i].op), reads[i].last);
			CHECK_BYTES(got + at, least, at);
			record_init(&reads[i], port);
		}
	}
	close_handle(port, file);
	test_close(port);
	free(got);
}

/* Cuts a file and extends it again, on and on. */
struct cutter {
	int fd;
	off_t cut, whole;
	atomic_uint cuts;
	atomic_bool enough;
};

static void *cut_and_extend(void *argument)
{
	struct cutter *cutter = argument;

	while (!atomic_load(&cutter->enough)) {
		CHECK_SYSTEM(ftruncate(cutter->fd, cutter->cut));
		CHECK_SYSTEM(ftruncate(cutter->fd, cutter->whole));
		atomic_fetch_add(&cutter->cuts, 1);
	}
	return NULL;
}

/* Beside a thread that does so: reads are whole, or short at an end that was there, and
 * give what has been in the file: behind the cut its bytes, or the zeroes of a new end. */
TEST(8, "files", reads_while_a_file_shrinks_and_grows)
{
	enum { PIECES = 16, ROUNDS = 4 };
	const size_t piece = MIB / 2, cut = 2 * MIB + MIB / 2 + 777;
	const char *path = make_file("file", PIECES * piece);
	unsigned char *got = calloc(PIECES, piece), *bytes = pattern(PIECES * piece);
	struct cutter cutter = { .cut = (off_t)cut, .whole = (off_t)(PIECES * piece) };
	int64_t until = test_clock() + 10 * PROA_SECOND * test_factor();
	struct proa_port *port = test_port();
	struct record reads[PIECES];
	proa_handle file = open_file(port, path, PROA_OPEN_READ);
	pthread_t thread;

	CHECK(got != NULL);
	cutter.fd = CHECK_SYSTEM(open(path, O_WRONLY | O_CLOEXEC));
	CHECK_INT(pthread_create(&thread, NULL, cut_and_extend, &cutter), 0);
	for (int round = 0; round < ROUNDS || atomic_load(&cutter.cuts) < ROUNDS; round++) {
		CHECK(test_clock() < until);
		for (size_t i = 0; i < PIECES; i++) {
			record_init(&reads[i], port);
			proa_prep_read(&reads[i].op, file, got + i * piece, piece, i * piece);
			record_submit(&reads[i]);
		}
		for (size_t i = 0; i < PIECES; i++) {
			size_t at = i * piece, left = at < cut ? cut - at : 0;
			size_t least = left < piece ? left : piece, n;

			RUN_UNTIL(port, reads[i].finals == 1);
			CHECK(reads[i].last >= (int32_t)least && reads[i].last <= (int32_t)piece);
			CHECK_INT(proa_op_count(&reads[i].op), reads[i].last);
			CHECK_BYTES(got + at, least, at);
			for (n = least; n < (size_t)reads[i].last; n++)
				if (got[at + n] != 0 && got[at + n] != bytes[at + n])
					break;
			CHECK_INT(n, reads[i].last);
		}
	}
	atomic_store(&cutter.enough, true);
	CHECK_INT(pthread_join(thread, NULL), 0);
	close(cutter.fd);
	close_handle(port, file);
	test_close(port);
	free(bytes);
	free(got);
}

TEST(26, "several at once", thousand_reads_and_writes)
{
	enum { PIECES = 1000, LENGTH = 997 };
	unsigned char *bytes = pattern(PIECES * LENGTH), *got = calloc(PIECES, LENGTH);
	struct record *ops = calloc(PIECES, sizeof(*ops));
	struct proa_port *port = test_port();
	proa_handle file = open_file(port, test_path("pieces"), READ_WRITE | PROA_OPEN_CREATE);

	CHECK(got != NULL && ops != NULL);
	for (size_t i = 0; i < PIECES; i++) {
		size_t at = i * 389 % PIECES; /* in no order */

		record_init(&ops[i], port);
		proa_prep_write(&ops[i].op, file, bytes + at * LENGTH, LENGTH, at * LENGTH);
		record_submit(&ops[i]);
	}
	for (size_t i = 0; i < PIECES; i++) {
		RUN_UNTIL(port, ops[i].finals == 1);
		CHECK_INT(ops[i].last, LENGTH);
	}
	for (size_t i = 0; i < PIECES; i++) {
		proa_prep_read(&ops[i].op, file, got + i * LENGTH, LENGTH, i * LENGTH);
		record_submit(&ops[i]);
	}
	for (size_t i = 0; i < PIECES; i++) {
		RUN_UNTIL(port, ops[i].finals == 1);
		CHECK_INT(ops[i].last, LENGTH);
	}
	CHECK_BYTES(got, PIECES * LENGTH, 0);
	close_handle(port, file);
	test_close(port);
	free(ops);
	free(got);
	free(bytes);
}

TEST(26, "append", writes_go_to_the_end)
{
	struct proa_port *port = test_port();
	const char *path = make_file("log", 10);
	proa_handle file = open_file(port, path, PROA_OPEN_WRITE | PROA_OPEN_APPEND);
	unsigned char room[32];
	struct record record;
	int fd;

	/* Whatever the offset says: Linux's own rule, on every engine. */
	fill_bytes(room, 16, 10);
	CHECK_INT(write_at(port, file, room, 6, 0), 6);
	CHECK_INT(write_at(port, file, room + 6, 5, 3), 5);
	record_init(&record, port);
	proa_prep_send(&record.op, file, room + 11, 5, 0);
	CHECK_INT(record_run(&record), 5);
	close_handle(port, file);
	fd = CHECK_SYSTEM(open(path, O_RDONLY | O_CLOEXEC));
	CHECK_INT(read(fd, room, sizeof(room)), 26);
	CHECK_BYTES(room, 26, 0);
	close(fd);
	test_close(port);
}

#ifdef _WIN32
NOT_HERE(26, "whole transfers", odd_files, "no /proc and no /dev on Windows")
#else

/* Files that give less than they are asked for, and devices. */
TEST(26, "whole transfers", odd_files)
{
	struct proa_port *port = test_port();
	unsigned char *bytes = malloc(MIB), *again = malloc(MIB);
	proa_handle file = open_file(port, "/proc/self/smaps", PROA_OPEN_READ);
	int32_t n = read_at(port, file, bytes, MIB, 0);
	ssize_t total = 0, piece;
	int fd;

	CHECK(bytes != NULL && again != NULL);
	/* smaps comes a page at a time: in full nevertheless. */
	fd = CHECK_SYSTEM(open("/proc/self/smaps", O_RDONLY | O_CLOEXEC));
	while ((piece = read(fd, again + total, MIB - (size_t)total)) > 0)
		total += piece;
	close(fd);
	CHECK(n > 4096 && n > total / 2);
	close_handle(port, file);
	file = open_file(port, "/dev/zero", PROA_OPEN_READ);
	memset(bytes, 1, MIB);
	CHECK_INT(read_at(port, file, bytes, MIB, 0), MIB);
	for (size_t i = 0; i < MIB; i++)
		if (bytes[i] != 0)
			test_fail(__FILE__, __LINE__, "byte %zu is not 0", i);
	close_handle(port, file);
	file = open_file(port, "/dev/null", READ_WRITE);
	CHECK_INT(read_at(port, file, bytes, MIB, 0), 0);
	CHECK_INT(write_at(port, file, bytes, MIB, 0), MIB);
	close_handle(port, file);
	test_close(port);
	free(bytes);
	free(again);
}

#endif

/* ---- What fails ---- */

#ifdef _WIN32
NOT_HERE(26, "errors", device_without_room,
	"no device without room, no small mount and no limit of file sizes on Windows")
NOT_HERE(26, "errors", file_system_gets_full,
	"no device without room, no small mount and no limit of file sizes on Windows")
NOT_HERE(26, "errors", limit_of_file_size,
	"no device without room, no small mount and no limit of file sizes on Windows")
#else

TEST(26, "errors", device_without_room)
{
	struct proa_port *port = test_port();
	proa_handle file = open_file(port, "/dev/full", PROA_OPEN_WRITE);
	struct record record;

	record_init(&record, port);
	proa_prep_write(&record.op, file, "abc", 3, 0);
	CHECK_INT(record_run(&record), PROA_ENOSPC);
	CHECK_INT(proa_op_count(&record.op), 0);
	proa_prep_send(&record.op, file, "abc", 3, 0);
	CHECK_INT(record_run(&record), PROA_ENOSPC);
	close_handle(port, file);
	test_close(port);
}

TEST(26, "errors", file_system_gets_full)
{
	unsigned char *bytes = pattern(MIB);
	const char *folder = test_path("small");
	struct proa_port *port;
	struct record record;
	proa_handle file;
	uint64_t count;

	CHECK_SYSTEM(mkdir(folder, 0700));
	/* A mount of this process's own, which goes with it. */
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
		mount("proa", folder, "tmpfs", 0, "size=128k") < 0)
		SKIP("no mounts here: %s", strerror(errno));
	port = test_port();
	file = open_file(port, test_path("small/file"), READ_WRITE | PROA_OPEN_CREATE);
	record_init(&record, port);
	proa_prep_write(&record.op, file, bytes, MIB, 0);
	CHECK_INT(record_run(&record), PROA_ENOSPC);
	count = proa_op_count(&record.op);
	CHECK(count > 0 && count <= 128 * 1024);
	memset(bytes, 0, MIB);
	CHECK_INT(read_at(port, file, bytes, MIB, 0), count);
	CHECK_BYTES(bytes, count, 0);
	close_handle(port, file);
	test_close(port);
	CHECK_SYSTEM(umount(folder));
	free(bytes);
}

TEST(26, "errors", limit_of_file_size)
{
	unsigned char *bytes = pattern(200000);
	struct rlimit before, limit;
	struct proa_port *port = test_port();
	proa_handle file = open_file(port, test_path("limited"), READ_WRITE | PROA_OPEN_CREATE);
	struct record record;
	struct proa_slice slices[2] = { SLICE(bytes, 50000), SLICE(bytes + 50000, 150000) };

	signal(SIGXFSZ, SIG_IGN);
	CHECK_SYSTEM(getrlimit(RLIMIT_FSIZE, &before));
	limit = before;
	limit.rlim_cur = 100000;
	CHECK_SYSTEM(setrlimit(RLIMIT_FSIZE, &limit));
	record_init(&record, port);
	proa_prep_write(&record.op, file, bytes, 200000, 0);
	record_run(&record);
	CHECK_INT(record.last, PROA_EFBIG);
	CHECK_INT(proa_op_count(&record.op), 100000);
	proa_prep_writev(&record.op, file, slices, 2, 10000);
	CHECK_INT(record_run(&record), PROA_EFBIG);
	CHECK_INT(proa_op_count(&record.op), 90000);
	proa_prep_write(&record.op, file, bytes, 10, 100000);
	CHECK_INT(record_run(&record), PROA_EFBIG);
	CHECK_INT(proa_op_count(&record.op), 0);
	CHECK_SYSTEM(setrlimit(RLIMIT_FSIZE, &before));
	close_handle(port, file);
	test_close(port);
	free(bytes);
}

#endif

TEST(26, "bad input", files)
{
	struct proa_port *port = test_port();
	const char *path = make_file("file", 10);
	proa_handle file = open_file(port, path, READ_WRITE);
	struct ends pipe = pipe_ends(false), sockets = pair_ends();
	struct proa_slice slices[2] = { SLICE(NULL, MOST), SLICE(NULL, 1) };
	char room[16] = "", long_name[8000];
	struct proa_stat stat;
	struct record record;

	record_init(&record, port);
	CHECK_INT(read_at(port, file, room, (size_t)MOST + 1, 0), PROA_EINVAL);
	CHECK_INT(read_at(port, file, room, SIZE_MAX, 0), PROA_EINVAL);
	CHECK_INT(write_at(port, file, room, (size_t)MOST + 1, 0), PROA_EINVAL);
	proa_prep_writev(&record.op, file, slices, 2, 0);
	CHECK_INT(record_run(&record), PROA_EINVAL);
	proa_prep_readv(&record.op, file, slices, 2, 0);
	CHECK_INT(record_run(&record), PROA_EINVAL);
	CHECK_INT(read_at(port, file, room, 8, UINT64_C(1) << 63), PROA_EINVAL);
	CHECK_INT(read_at(port, file, room, 8, UINT64_MAX), PROA_EINVAL);
	CHECK_INT(write_at(port, file, room, 8, UINT64_MAX), PROA_EINVAL);
	CHECK_INT(write_at(port, file, room, 0, UINT64_MAX), PROA_EINVAL);
	proa_prep_readv(&record.op, file, slices, 1, UINT64_MAX);
	CHECK_INT(record_run(&record), PROA_EINVAL);
	proa_prep_accept(&record.op, file, NULL, 0);
	CHECK_INT(record_run(&record), PROA_ENOTSOCK);
	CHECK(write_at(port, file, room, 8, INT64_MAX - 3) < 0);
	CHECK(write_at(port, file, NULL, 8, 0) < 0);
	CHECK(read_at(port, file, NULL, 8, 0) < 0);
	/* What has no places. */
	CHECK(read_at(port, pipe.ours, room, 8, 3) < 0);
	CHECK(read_at(port, sockets.ours, room, 8, 3) < 0);
	proa_prep_truncate(&record.op, sockets.ours, 5);
	CHECK_INT(record_run(&record), PROA_EINVAL);
	proa_prep_truncate(&record.op, file, UINT64_MAX);
	CHECK_INT(record_run(&record), PROA_EINVAL);
	proa_prep_sync(&record.op, pipe.ours, 0);
	CHECK_INT(record_run(&record), PROA_EINVAL);
	memset(long_name, 'a', sizeof(long_name) - 1);
	long_name[sizeof(long_name) - 1] = '\0';
	CHECK(try_open(port, long_name, PROA_OPEN_READ) < 0);
	proa_prep_stat(&record.op, long_name, &stat);
	CHECK(record_run(&record) < 0);
	/* None of it did anything. */
	CHECK_INT(read_at(port, file, room, 16, 0), 10);
	CHECK_BYTES(room, 10, 0);
	close_handle(port, file);
	close_handle(port, pipe.ours);
	close_handle(port, sockets.ours);
	close(pipe.peer);
	close(sockets.peer);
	test_close(port);
}

/* ---- Names and sizes ---- */

TEST(26, "names", stat_tells_what_the_system_does)
{
	struct proa_port *port = test_port();
	const char *path = make_file("file", 4321);
	proa_handle file = open_file(port, path, PROA_OPEN_READ);
	struct record record;
	struct proa_stat stats[2];
	struct stat status;

	CHECK_SYSTEM(link(path, test_path("second")));
	CHECK_SYSTEM(chmod(path, 0640));
	CHECK_SYSTEM(stat(path, &status));
	record_init(&record, port);
	memset(stats, 0xee, sizeof(stats));
	proa_prep_stat(&record.op, path, &stats[0]);
	CHECK_INT(record_run(&record), 0);
	proa_prep_fstat(&record.op, file, &stats[1]);
	CHECK_INT(record_run(&record), 0);
	for (int i = 0; i < 2; i++) {
		CHECK_INT(stats[i].size, 4321);
		CHECK_INT(stats[i].links, 2);
		CHECK_INT(stats[i].modified / PROA_SECOND, status.st_mtime);
		CHECK_INT(stats[i].inode, stats[0].inode);
		CHECK_INT(stats[i].device, stats[0].device);
#ifdef _WIN32
		/* The C library there knows neither, and no fraction of a second. */
		CHECK(S_ISREG(stats[i].mode));
#else
		CHECK_INT(stats[i].inode, status.st_ino);
		CHECK_INT(stats[i].device, status.st_dev);
		CHECK_INT(stats[i].mode, status.st_mode);
		CHECK_INT(stats[i].modified,
			status.st_mtim.tv_sec * PROA_SECOND + status.st_mtim.tv_nsec);
		CHECK_INT(stats[i].changed,
			status.st_ctim.tv_sec * PROA_SECOND + status.st_ctim.tv_nsec);
		CHECK_INT(stats[i].accessed,
			status.st_atim.tv_sec * PROA_SECOND + status.st_atim.tv_nsec);
#endif
	}
	proa_prep_stat(&record.op, test_folder(), &stats[0]);
	CHECK_INT(record_run(&record), 0);
	CHECK(S_ISDIR(stats[0].mode));
	proa_prep_stat(&record.op, test_path("nothing"), &stats[0]);
	CHECK_INT(record_run(&record), PROA_ENOENT);
	close_handle(port, file);
	test_close(port);
}

TEST(26, "names", truncate_and_sync)
{
	struct proa_port *port = test_port();
	const char *path = make_file("file", 1000);
	proa_handle file = open_file(port, path, READ_WRITE), plain;
	struct record record;
	unsigned char room[32];
	struct stat status;

	record_init(&record, port);
	proa_prep_truncate(&record.op, file, 10);
	CHECK_INT(record_run(&record), 0);
	CHECK_SYSTEM(stat(path, &status));
	CHECK_INT(status.st_size, 10);
	proa_prep_truncate(&record.op, file, 20);
	CHECK_INT(record_run(&record), 0);
	CHECK_INT(read_at(port, file, room, 32, 0), 20);
	CHECK_BYTES(room, 10, 0);
	CHECK(memcmp(room + 10, "\0\0\0\0\0\0\0\0\0\0", 10) == 0);
	proa_prep_sync(&record.op, file, 0);
	CHECK_INT(record_run(&record), 0);
	proa_prep_sync(&record.op, file, PROA_DATA_ONLY);
	CHECK_INT(record_run(&record), 0);
	plain = open_file(port, path, PROA_OPEN_READ);
	proa_prep_truncate(&record.op, plain, 5);
	CHECK(record_run(&record) == PROA_EINVAL || record.last == PROA_EBADF);
	close_handle(port, plain);
	close_handle(port, file);
	test_close(port);
}

TEST(26, "names", folders_and_renames)
{
	struct proa_port *port = test_port();
	const char *file = make_file("file", 10), *folder = test_path("folder");
	const char *inside = test_path("folder/inside"), *gone = test_path("gone");
	struct record record;
	struct stat status;

	test_umask();
	record_init(&record, port);
	proa_prep_mkdir(&record.op, folder, 0777);
	CHECK_INT(record_run(&record), 0);
	CHECK_SYSTEM(stat(folder, &status));
	CHECK(S_ISDIR(status.st_mode));
	check_mode(status.st_mode, 0755);
	proa_prep_mkdir(&record.op, folder, 0777);
	CHECK_INT(record_run(&record), PROA_EEXIST);
	proa_prep_mkdir(&record.op, test_path("no/such"), 0777);
	CHECK_INT(record_run(&record), PROA_ENOENT);
	proa_prep_rename(&record.op, file, inside);
	CHECK_INT(record_run(&record), 0);
	CHECK(stat(file, &status) < 0 && errno == ENOENT);
	CHECK_SYSTEM(stat(inside, &status));
	CHECK_INT(status.st_size, 10);
	/* Over what is there: atomically the new. */
	make_file("file", 20);
	proa_prep_rename(&record.op, file, inside);
	CHECK_INT(record_run(&record), 0);
	CHECK_SYSTEM(stat(inside, &status));
	CHECK_INT(status.st_size, 20);
	proa_prep_rename(&record.op, gone, file);
	CHECK_INT(record_run(&record), PROA_ENOENT);
	proa_prep_rename(&record.op, inside, folder);
	CHECK(record_run(&record) < 0);
	proa_prep_unlink(&record.op, folder);
	CHECK(record_run(&record) == PROA_EISDIR || record.last == PROA_EPERM);
	proa_prep_unlink(&record.op, inside);
	CHECK_INT(record_run(&record), 0);
	CHECK(stat(inside, &status) < 0 && errno == ENOENT);
	proa_prep_unlink(&record.op, inside);
	CHECK_INT(record_run(&record), PROA_ENOENT);
	test_close(port);
}

/* ---- sendfile ---- */

TEST_SLOW(8, "sendfile", larger_than_every_buffer)
{
	const size_t length = 5 * MIB, from = 4097, count = 5 * MIB - 10000;
	struct proa_port *port = test_port();
	const char *path = make_file("file", length);

	FOR_STREAMS(maker)
	{
		struct ends ends = maker->make(true);
		struct peer_reader reader = { .fd = ends.peer, .from = from };
		int file = CHECK_SYSTEM(open(path, O_RDONLY | O_CLOEXEC));
		struct proa_range range = { file, from, count }, none = { file, 7, 0 };
		struct record send, empty;

		printf("%s\n", maker->name);
		CHECK_INT(lseek(file, 77, SEEK_SET), 77);
		record_init(&send, port);
		record_init(&empty, port);
		proa_prep_sendfile(&send.op, ends.ours, &range, 0);
		record_submit(&send);
		proa_prep_sendfile(&empty.op, ends.ours, &none, 0);
		record_submit(&empty);
		run_quiet(port);
		CHECK_INT(send.finals, 0);
		peer_reader_start(&reader);
		RUN_UNTIL(port, send.finals == 1 && empty.finals == 1);
		CHECK_INT(send.last, count);
		CHECK_INT(proa_op_count(&send.op), count);
		CHECK_INT(empty.last, 0);
		/* The file's own position is not touched. */
		CHECK_INT(lseek(file, 0, SEEK_CUR), 77);
		close_handle(port, ends.ours);
		peer_reader_join(&reader);
		CHECK_INT(reader.total, count);
		CHECK_INT(reader.wrong, UINT64_MAX);
		close(ends.peer);
		close(file);
	}
	test_close(port);
}

TEST(8, "sendfile", file_that_is_shorter)
{
	struct proa_port *port = test_port();
	const char *path = make_file("file", 10000);

	FOR_STREAMS(maker)
	{
		struct ends ends = maker->make(true);
		int file = CHECK_SYSTEM(open(path, O_RDONLY | O_CLOEXEC));
		struct proa_range range = { file, 1000, 10000 }, beyond = { file, 20000, 10 };
		struct record send, behind, far;
		unsigned char room[10000];

		printf("%s\n", maker->name);
		record_init(&send, port);
		record_init(&behind, port);
		record_init(&far, port);
		proa_prep_sendfile(&send.op, ends.ours, &range, 0);
		record_submit(&send);
		proa_prep_send(&behind.op, ends.ours, "behind", 6, 0);
		record_submit(&behind);
		RUN_UNTIL(port, send.finals == 1 && behind.finals == 1);
		CHECK_INT(send.last, PROA_EIO);
		CHECK_INT(proa_op_count(&send.op), 9000);
		/* A torn stream, as with any failed send. */
		CHECK_INT(behind.last, PROA_ECANCELED);
		proa_prep_sendfile(&far.op, ends.ours, &beyond, 0);
		CHECK_INT(record_run(&far), PROA_EIO);
		CHECK_INT(proa_op_count(&far.op), 0);
		proa_prep_send(&behind.op, ends.ours, "behind", 6, 0);
		CHECK_INT(record_run(&behind), 6);
		peer_read(ends.peer, room, 9000);
		CHECK_BYTES(room, 9000, 1000);
		peer_read(ends.peer, room, 6);
		CHECK(memcmp(room, "behind", 6) == 0);
		close_handle(port, ends.ours);
		close(ends.peer);
		close(file);
	}
	test_close(port);
}

TEST(8, "sendfile", file_that_shrinks)
{
	const size_t length = 32 * MIB;
	struct proa_port *port = test_port();

	FOR_PLAIN_STREAMS(maker)
	{
		const char *path = make_file("file", length);
		struct ends ends = maker->make(true);
		struct peer_reader reader = { .fd = ends.peer };
		int file = CHECK_SYSTEM(open(path, O_RDONLY | O_CLOEXEC));
		struct proa_range range = { file, 0, length };
		struct record send;
		uint64_t count;

		printf("%s\n", maker->name);
		record_init(&send, port);
		proa_prep_sendfile(&send.op, ends.ours, &range, 0);
		record_submit(&send);
		run_quiet(port);
		CHECK_INT(send.finals, 0);
		CHECK_SYSTEM(truncate(path, 20 * MIB));
		peer_reader_start(&reader);
		RUN_UNTIL(port, send.finals == 1);
		CHECK_INT(send.last, PROA_EIO);
		count = proa_op_count(&send.op);
		CHECK_INT(count, 20 * MIB);
		close_handle(port, ends.ours);
		peer_reader_join(&reader);
		CHECK_INT(reader.total, count);
		CHECK_INT(reader.wrong, UINT64_MAX);
		close(ends.peer);
		close(file);
	}
	test_close(port);
}

TEST(8, "sendfile", ended_half_way)
{
	const size_t length = 32 * MIB;
	struct proa_port *port = test_port();
	const char *path = make_file("file", length);

	FOR_STREAMS(maker)
	{
		struct ends ends = maker->make(true);
		int file = CHECK_SYSTEM(open(path, O_RDONLY | O_CLOEXEC));
		struct proa_range range = { file, 0, length };
		struct record send, behind;
		unsigned char *room = malloc(length);
		uint64_t count;

		printf("%s\n", maker->name);
		shrink_buffers(&ends);
		record_init(&send, port);
		record_init(&behind, port);
		proa_prep_sendfile(&send.op, ends.ours, &range, 0);
		record_submit(&send);
		proa_prep_send(&behind.op, ends.ours, "x", 1, 0);
		record_submit(&behind);
		run_quiet(port);
		peer_read_running(port, ends.peer, room, 3000);
		run_quiet(port);
		proa_cancel(&send.op);
		RUN_UNTIL(port, send.finals == 1 && behind.finals == 1);
		CHECK_INT(send.last, PROA_ECANCELED);
		CHECK_INT(behind.last, PROA_ECANCELED);
		count = proa_op_count(&send.op);
		CHECK(count >= 3000 && count < length);
		close_handle(port, ends.ours);
		/* The file, ours to close, is free when the op has ended. */
		close(file);
		peer_read(ends.peer, room + 3000, count - 3000);
		CHECK_BYTES(room, count, 0);
		CHECK_INT(read(ends.peer, room, 1), 0);
		close(ends.peer);
		free(room);
	}
	test_close(port);
}

static void *discard_all(void *argument)
{
	uint64_t *total = argument;
	int fd = (int)*total;
	ssize_t n;

	*total = 0;
#ifdef _WIN32
	char *room = malloc(MIB);

	while ((n = recv(fd, room, MIB, 0)) > 0)
		*total += (uint64_t)n;
	free(room);
#else
	/* MSG_TRUNC: TCP throws the bytes away without copying them. */
	while ((n = recv(fd, NULL, 64 * MIB, MSG_TRUNC)) > 0)
		*total += (uint64_t)n;
#endif
	return NULL;
}

/* sendfile alone has no limit: its result stops at INT32_MAX, its count does
 * not. */
TEST_SLOW(7, "counts", sendfile_of_more_than_an_int)
{
	const uint64_t length = (UINT64_C(1) << 31) + 12345;
	struct proa_port *port = test_port();
	struct ends ends = tcp_ends();
	int file = CHECK_SYSTEM(open(test_folder(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
	struct proa_range range = { file, 5, length - 5 };
	uint64_t total = (uint64_t)ends.peer;
	struct record send;
	pthread_t thread;

	if (ftruncate(file, (off_t)length) < 0)
		SKIP("no files of 2 GiB here: %s", strerror(errno));
	record_init(&send, port);
	CHECK_INT(pthread_create(&thread, NULL, discard_all, &total), 0);
	proa_prep_sendfile(&send.op, ends.ours, &range, 0);
	record_submit(&send);
	RUN_UNTIL_WITHIN(port, send.finals == 1, 50 * PROA_SECOND);
	if (send.last == PROA_ENOSPC) /* tmpfs, before Linux 6.1 at the latest */
		SKIP("holes that are sent take room here, and there are no 2 GiB of it");
	CHECK_INT(send.last, INT32_MAX);
	CHECK_INT(proa_op_count(&send.op), length - 5);
	close_handle(port, ends.ours);
	CHECK_INT(pthread_join(thread, NULL), 0);
	CHECK_INT(total, length - 5);
	close(ends.peer);
	close(file);
	test_close(port);
}

TEST(26, "bad input", sendfile_of_what_is_no_file)
{
	struct proa_port *port = test_port();
	struct ends ends = pair_ends(), pipe = pipe_ends(false);
	struct proa_range range = { pipe.ours, 0, 10 }, folder = { -1, 0, 10 };
	struct record record;

	record_init(&record, port);
	peer_write(pipe.peer, "0123456789", 10);
	proa_prep_sendfile(&record.op, ends.ours, &range, 0);
	CHECK(record_run(&record) < 0);
	CHECK_INT(proa_op_count(&record.op), 0);
	folder.file = CHECK_SYSTEM(open(test_folder(), O_RDONLY | O_CLOEXEC));
	proa_prep_sendfile(&record.op, ends.ours, &folder, 0);
	CHECK(record_run(&record) < 0);
	proa_prep_send(&record.op, ends.ours, "x", 1, 0);
	CHECK_INT(record_run(&record), 1);
	close(folder.file);
	close_handle(port, ends.ours);
	close(ends.peer);
	close(pipe.ours);
	close(pipe.peer);
	test_close(port);
}

/* ---- Files where a stream is asked for ---- */

TEST(8, "files as streams", receives_read_on)
{
	struct proa_port *port = test_port();
	const char *path = make_file("file", 1000000);
	proa_handle file = open_file(port, path, PROA_OPEN_READ);
	unsigned char *bytes = malloc(1000000);
	struct record receives[10];
	size_t at = 0;

	CHECK(bytes != NULL);
	/* At the file's own position, in order of submission. */
	for (int i = 0; i < 10; i++) {
		record_init(&receives[i], port);
		proa_prep_recv(&receives[i].op, file, bytes + i * 90001, 90001, PROA_ALL);
		record_submit(&receives[i]);
	}
	for (int i = 0; i < 10; i++) {
		RUN_UNTIL(port, receives[i].finals == 1);
		CHECK_INT(receives[i].last, 90001);
		CHECK_BYTES(bytes + i * 90001, 90001, at);
		at += 90001;
	}
	proa_prep_recv(&receives[0].op, file, bytes, 1000000, PROA_ALL);
	CHECK_INT(record_run(&receives[0]), 1000000 - at);
	CHECK_BYTES(bytes, 1000000 - at, at);
	proa_prep_recv(&receives[0].op, file, bytes, 100, 0);
	CHECK_INT(record_run(&receives[0]), 0);
	close_handle(port, file);
	test_close(port);
	free(bytes);
}

TEST(8, "files as streams", sends_write_on)
{
	enum { SENDS = 50 };
	unsigned char *bytes = pattern(SENDS * 10007 + 30000);
	struct proa_port *port = test_port();
	const char *path = test_path("written"), *source = make_file("source", 20000);
	proa_handle file = open_file(port, path, PROA_OPEN_WRITE | PROA_OPEN_CREATE);
	struct proa_slice slices[2] = { SLICE(bytes + 20000, 5000), SLICE(bytes + 25000, 5000) };
	struct proa_range range = { -1, 0, 20000 };
	struct record sends[SENDS + 2];
	int fd;

	range.file = CHECK_SYSTEM(open(source, O_RDONLY | O_CLOEXEC));
	for (int i = 0; i < SENDS + 2; i++)
		record_init(&sends[i], port);
	proa_prep_sendfile(&sends[0].op, file, &range, 0);
	proa_prep_sendv(&sends[1].op, file, slices, 2, 0);
	for (int i = 0; i < SENDS; i++)
		proa_prep_send(&sends[i + 2].op, file, bytes + 30000 + i * 10007, 10007, 0);
	for (int i = 0; i < SENDS + 2; i++)
		record_submit(&sends[i]);
	for (int i = 0; i < SENDS + 2; i++) {
		RUN_UNTIL(port, sends[i].finals == 1);
		CHECK_INT(sends[i].last, i == 0 ? 20000 : i == 1 ? 10000 : 10007);
		CHECK(i == 0 || sends[i].order > sends[i - 1].order);
	}
	close_handle(port, file);
	fd = CHECK_SYSTEM(open(path, O_RDONLY | O_CLOEXEC));
	CHECK_INT(peer_read_pattern(fd, 0), SENDS * 10007 + 30000);
	close(fd);
	close(range.file);
	test_close(port);
	free(bytes);
}

/* ---- Rule 26: nothing blocks the port ---- */

static int count_threads(void)
{
	DIR *folder = opendir("/proc/self/task");
	struct dirent *entry;
	int count = 0;

	CHECK(folder != NULL);
	while ((entry = readdir(folder)) != NULL)
		count += entry->d_name[0] != '.';
	closedir(folder);
	return count;
}

#ifdef _WIN32
NOT_HERE(26, "workers", fifos_open_at_once, "no FIFOs with names in folders on Windows")
#else

/* A FIFO may keep open(2) waiting for ever: not here. */
TEST(26, "workers", fifos_open_at_once)
{
	struct proa_port *port = test_port();
	const char *path = test_path("fifo");
	struct record record;
	proa_handle handle;
	char room[8];
	int peer;

	CHECK_SYSTEM(mkfifo(path, 0600));
	handle = open_file(port, path, PROA_OPEN_READ);
	peer = CHECK_SYSTEM(open(path, O_WRONLY | O_CLOEXEC));
	record_init(&record, port);
	proa_prep_recv(&record.op, handle, room, 8, 0);
	record_submit(&record);
	run_quiet(port);
	CHECK_INT(record.finals, 0);
	peer_write(peer, "abc", 3);
	RUN_UNTIL(port, record.finals == 1);
	CHECK_INT(record.last, 3);
	close_handle(port, handle);
	/* With nobody to read there is nothing to write to. */
	close(peer);
	CHECK(try_open(port, path, PROA_OPEN_WRITE) < 0);
	test_close(port);
}

#endif

#define JOBS 30

/* A job that waits until somebody closes the other end of a pipe. */
static atomic_int jobs_begun;

static int32_t wait_for_end(void *argument)
{
	char byte;

	atomic_fetch_add(&jobs_begun, 1);
	return (int32_t)read(*(int *)argument, &byte, 1) + 7;
}

/* Threads that are stuck hold up files alone, and those not for ever. */
TEST(26, "workers", stuck_jobs)
{
	struct proa_port *port = test_port();
	const char *path = make_file("file", 1000);
	struct record jobs[JOBS], tick, receive, open_op;
	struct ends ends = pair_ends();
	int pair[2], dropped = 0;
	int64_t since = test_clock();
	char room[8];

	CHECK_SYSTEM(pipe2(pair, O_CLOEXEC));
	atomic_store(&jobs_begun, 0);
	for (int i = 0; i < JOBS; i++) {
		record_init(&jobs[i], port);
		proa_prep_work(&jobs[i].op, wait_for_end, &pair[0]);
		record_submit(&jobs[i]);
	}
	record_init(&tick, port);
	proa_prep_interval(&tick.op, 0, PROA_MILLISECOND);
	record_submit(&tick);
	record_init(&open_op, port);
	proa_prep_open(&open_op.op, path, PROA_OPEN_READ, 0);
	record_submit(&open_op);
	record_init(&receive, port);
	proa_prep_recv(&receive.op, ends.ours, room, 8, 0);
	record_submit(&receive);
	RUN_UNTIL(port, tick.count >= 50);
	CHECK(test_clock() - since < 2 * PROA_SECOND * test_factor());
	peer_write(ends.peer, "abc", 3);
	RUN_UNTIL(port, receive.finals == 1);
	RUN_UNTIL(port, atomic_load(&jobs_begun) == 4);
	/* Four of ours, the kernel's four, and ourselves. */
	CHECK(count_threads() <= 9);
	for (int i = 0; i < JOBS; i++) {
		CHECK_INT(jobs[i].finals, 0);
		proa_cancel(&jobs[i].op);
	}
	run_for(port, 50 * PROA_MILLISECOND);
	for (int i = 0; i < JOBS; i++) {
		dropped += (int)jobs[i].finals;
		if (jobs[i].finals == 1)
			CHECK_INT(jobs[i].last, PROA_ECANCELED);
	}
	/* Those begun are waited for, and tell what really happened. */
	CHECK_INT(dropped, JOBS - 4);
	close(pair[1]);
	for (int i = 0; i < JOBS; i++) {
		RUN_UNTIL(port, jobs[i].finals == 1);
		CHECK(jobs[i].last == 7 || jobs[i].last == PROA_ECANCELED);
		dropped -= jobs[i].last == PROA_ECANCELED;
	}
	CHECK_INT(dropped, 0);
	RUN_UNTIL(port, open_op.finals == 1);
	close_handle(port, open_op.last);
	close_handle(port, ends.ours);
	close(ends.peer);
	close(pair[0]);
	test_close(port);
}

TEST(26, "workers", port_ends_with_file_operations_in_flight)
{
	enum { READS = 200 };
	unsigned char *rooms = malloc(READS * 65536);
	const char *path = make_file("file", MIB);
	struct record reads[READS];

	CHECK(rooms != NULL);
	for (int turns = 0; turns < 3; turns++) {
		struct proa_port *port = test_port();
		proa_handle file = open_file(port, path, PROA_OPEN_READ);

		for (int i = 0; i < READS; i++) {
			record_init(&reads[i], port);
			proa_prep_read(&reads[i].op, file, rooms + i * 65536, 65536,
				(uint64_t)(i % 16) * 65536);
			record_submit(&reads[i]);
		}
		for (int i = 0; i < turns; i++)
			CHECK(proa_run_once(port, 0) >= 0);
		test_close(port);
		for (int i = 0; i < READS; i++) {
			CHECK_INT(reads[i].finals, 1);
			CHECK(reads[i].last == 65536 || reads[i].last == PROA_ECANCELED);
			if (reads[i].last > 0)
				CHECK_BYTES(rooms + i * 65536, 65536, (i % 16) * 65536);
		}
		close(file);
	}
	free(rooms);
}

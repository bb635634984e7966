/* engines/unix/file.c, spawn.c and child.c: operations on files as worker
 * threads run them, and processes. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#	include <linux/filter.h>
#	include <linux/seccomp.h>
#	include <sys/prctl.h>
#	include <sys/syscall.h>
#endif

#include <cmocka.h>

#include <proa/proa.h>

#include "engines/unix/unix.h"

#define PATH  "test_file.data"
#define OTHER "test_file.other"

static struct proa_op op;

/* Runs what has been prepared, from its beginning. */
static int32_t run(void)
{
	flight(&op)->moved = 0;
	return file_run(&op);
}

static int32_t try(void)
{
	flight(&op)->moved = 0;
	return file_try(&op);
}

static uint64_t moved(void)
{
	return flight(&op)->moved;
}

static int32_t run_open(const char *path, uint32_t how)
{
	proa_prep_open(&op, path, how, 0640);
	return run();
}

/* A new, empty file. */
static int fresh(void)
{
	int fd = run_open(
		PATH, PROA_OPEN_READ | PROA_OPEN_WRITE | PROA_OPEN_CREATE | PROA_OPEN_TRUNCATE);

	assert_true(fd >= 0);
	return fd;
}

static int clean(void **state)
{
	(void)state;
	proa_op_init(&op, NULL, NULL);
	unlink(PATH);
	unlink(OTHER);
	return 0;
}

static void opens(void **state)
{
	struct stat status;
	int fd;

	(void)state;
	umask(022);
	assert_int_equal(run_open(PATH, PROA_OPEN_READ), PROA_ENOENT);
	fd = fresh();
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	assert_int_equal(fcntl(fd, F_GETFL) & (O_ACCMODE | O_NONBLOCK | O_APPEND), O_RDWR);
	assert_int_equal(fstat(fd, &status), 0);
	assert_int_equal(status.st_mode & 07777, 0640);
	close(fd);
	assert_int_equal(run_open(PATH, PROA_OPEN_WRITE | PROA_OPEN_CREATE | PROA_OPEN_EXCLUSIVE),
		PROA_EEXIST);
	assert_int_equal(run_open(PATH, PROA_OPEN_DIRECTORY), PROA_ENOTDIR);
	assert_int_equal(run_open(".", PROA_OPEN_WRITE), PROA_EISDIR);
	fd = run_open(".", PROA_OPEN_DIRECTORY);
	assert_true(fd >= 0);
	close(fd);
	fd = run_open(PATH, PROA_OPEN_WRITE | PROA_OPEN_APPEND);
	assert_true(fd >= 0);
	assert_int_equal(
		fcntl(fd, F_GETFL) & (O_ACCMODE | O_NONBLOCK | O_APPEND), O_WRONLY | O_APPEND);
	close(fd);
}

static void open_refuses(void **state)
{
	(void)state;
	assert_int_equal(run_open(PATH, 0), PROA_EINVAL);
	assert_int_equal(run_open(PATH, PROA_OPEN_CREATE), PROA_EINVAL);
	assert_int_equal(run_open(PATH, PROA_OPEN_READ | PROA_OPEN_TRUNCATE), PROA_EINVAL);
	assert_int_equal(run_open(PATH, PROA_OPEN_READ | PROA_OPEN_APPEND), PROA_EINVAL);
	assert_int_equal(run_open(PATH, PROA_OPEN_READ | PROA_OPEN_EXCLUSIVE), PROA_EINVAL);
	assert_int_equal(run_open(PATH, PROA_OPEN_READ | 0x8000), PROA_EINVAL);
	assert_int_equal(access(PATH, F_OK), -1);
}

/* Without a peer, and without waiting for one. */
static void opens_fifo(void **state)
{
	int fd;

	(void)state;
	assert_int_equal(mkfifo(PATH, 0600), 0);
	assert_int_equal(run_open(PATH, PROA_OPEN_WRITE), PROA_ENXIO);
	fd = run_open(PATH, PROA_OPEN_READ);
	assert_true(fd >= 0);
	assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
	close(fd);
}

static void reads_and_writes(void **state)
{
	char room[16];
	int fd = fresh();

	(void)state;
	proa_prep_write(&op, fd, "0123456789", 10, 5);
	assert_int_equal(run(), 10);
	assert_int_equal(moved(), 10);
	proa_prep_read(&op, fd, room, 4, 7);
	assert_int_equal(run(), 4);
	assert_memory_equal(room, "2345", 4);
	/* Short at the end, 0 behind it. */
	proa_prep_read(&op, fd, room, sizeof room, 10);
	assert_int_equal(run(), 5);
	assert_int_equal(moved(), 5);
	proa_prep_read(&op, fd, room, sizeof room, 15);
	assert_int_equal(run(), 0);
	proa_prep_read(&op, fd, room, sizeof room, 1000);
	assert_int_equal(run(), 0);
	/* Nothing asked for, nothing done. */
	proa_prep_read(&op, fd, NULL, 0, 0);
	assert_int_equal(run(), 0);
	proa_prep_write(&op, fd, NULL, 0, 0);
	assert_int_equal(run(), 0);
	/* The position has not moved. */
	assert_int_equal(lseek(fd, 0, SEEK_CUR), 0);
	close(fd);
}

static void read_errors(void **state)
{
	char room[16];
	int fd = fresh(), ends[2];

	(void)state;
	proa_prep_read(&op, -1, room, 1, 0);
	assert_int_equal(run(), PROA_EBADF);
	proa_prep_read(&op, fd, room, 1, UINT64_MAX);
	assert_int_equal(run(), PROA_EINVAL);
	assert_int_equal(try(), PROA_EINVAL);
	proa_prep_read(&op, fd, room, (size_t)0x7ffff001, 0);
	assert_int_equal(run(), PROA_EINVAL);
	close(fd);
	fd = open(".", O_RDONLY);
	proa_prep_read(&op, fd, room, 1, 0);
	assert_int_equal(run(), PROA_EISDIR);
	close(fd);
	assert_int_equal(pipe(ends), 0);
	proa_prep_read(&op, ends[0], room, 1, 0);
	assert_int_equal(run(), PROA_ESPIPE);
	close(ends[0]);
	close(ends[1]);
	proa_prep_accept(&op, fd, NULL, 0);
	assert_int_equal(run(), PROA_EOPNOTSUPP);
}

/* More slices than one system call takes, with empty ones among them. */
static void vectors(void **state)
{
	struct proa_slice slices[200];
	unsigned char out[200 * 3], in[sizeof out];
	int fd = fresh();
	size_t at = 0;

	(void)state;
	for (size_t i = 0; i < sizeof out; i++)
		out[i] = (unsigned char)(i * 7);
	for (size_t i = 0; i < 200; i++) {
		slices[i].data = out + at;
		slices[i].length = i % 4;
		at += i % 4;
	}
	proa_prep_writev(&op, fd, slices, 200, 3);
	assert_int_equal(run(), at);
	for (size_t i = 0; i < 200; i++)
		slices[i].data = in + ((unsigned char *)slices[i].data - out);
	memset(in, 0, sizeof in);
	proa_prep_readv(&op, fd, slices, 200, 3);
	assert_int_equal(run(), at);
	assert_memory_equal(in, out, at);
	proa_prep_readv(&op, fd, slices, 200, 4);
	assert_int_equal(run(), at - 1);
	assert_memory_equal(in, out + 1, at - 1);
	proa_prep_readv(&op, fd, NULL, 0, 0);
	assert_int_equal(run(), 0);
	slices[0].length = 0x7fffffff;
	proa_prep_readv(&op, fd, slices, 200, 0);
	assert_int_equal(run(), PROA_EINVAL);
	close(fd);
}

/* A file that may have 10 bytes takes 10 of 16, and the op says so. */
static void full_device(void **state)
{
	struct rlimit before, limit;
	struct proa_slice slices[2] = { { "01234567", 8 }, { "89abcdef", 8 } };
	int fd = fresh();

	(void)state;
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
	limit = before;
	limit.rlim_cur = 10;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
	proa_prep_write(&op, fd, "0123456789abcdef", 16, 0);
	assert_int_equal(run(), PROA_EFBIG);
	assert_int_equal(moved(), 10);
	proa_prep_writev(&op, fd, slices, 2, 0);
	assert_int_equal(run(), PROA_EFBIG);
	assert_int_equal(moved(), 10);
	proa_prep_sendv(&op, fd, slices, 2, 0);
	assert_int_equal(run(), PROA_EFBIG);
	assert_int_equal(moved(), 10);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
	close(fd);
#ifdef __linux__
	fd = open("/dev/full", O_WRONLY);
	proa_prep_write(&op, fd, "x", 1, 0);
	assert_int_equal(run(), PROA_ENOSPC);
	assert_int_equal(moved(), 0);
	close(fd);
#endif
}

/* Sends and receives go by the file's own position. */
static void streams(void **state)
{
	struct proa_slice slices[2] = { { "34", 2 }, { "567", 3 } };
	char room[16];
	int fd = fresh();

	(void)state;
	proa_prep_send(&op, fd, "012", 3, 0);
	assert_int_equal(run(), 3);
	proa_prep_sendv(&op, fd, slices, 2, 0);
	assert_int_equal(run(), 5);
	proa_prep_send(&op, fd, "89", 2, PROA_SOME | PROA_CORK);
	assert_int_equal(run(), 2);
	proa_prep_recv(&op, fd, room, sizeof room, 0);
	assert_int_equal(run(), 0);
	lseek(fd, 0, SEEK_SET);
	proa_prep_recv(&op, fd, room, 4, 0);
	assert_int_equal(run(), 4);
	assert_memory_equal(room, "0123", 4);
	proa_prep_recv(&op, fd, room, sizeof room, PROA_ALL);
	assert_int_equal(run(), 6);
	assert_memory_equal(room, "456789", 6);
	assert_int_equal(lseek(fd, 0, SEEK_CUR), 10);
	close(fd);
}

/* From a pipe that is filled bit by bit: PROA_ALL waits for all of it, and the
 * signals in between interrupt nothing. */
static volatile sig_atomic_t ticks;

static void on_tick(int number)
{
	(void)number;
	ticks++;
}

static void whole_in_spite_of_signals(void **state)
{
	const struct timespec pause = { 0, 20 * 1000 * 1000 };
	const struct itimerval often = { { 0, 3000 }, { 0, 3000 } }, never = { { 0, 0 }, { 0, 0 } };
	struct sigaction action = { .sa_handler = on_tick };
	char room[16];
	int ends[2];
	pid_t child;

	(void)state;
	assert_int_equal(pipe(ends), 0);
	child = fork();
	if (child == 0) {
		for (int i = 0; i < 4; i++) {
			nanosleep(&pause, NULL);
			if (write(ends[1], "abc", 3) != 3)
				_exit(1);
		}
		_exit(0);
	}
	close(ends[1]);
	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &often, NULL);
	proa_prep_recv(&op, ends[0], room, 10, PROA_ALL);
	assert_int_equal(run(), 10);
	proa_prep_recv(&op, ends[0], room, 10, PROA_ALL);
	assert_int_equal(run(), 2);
	setitimer(ITIMER_REAL, &never, NULL);
	/* A last one may still be on its way (valgrind hands them over late). */
	signal(SIGALRM, SIG_IGN);
	assert_true(ticks > 0);
	close(ends[0]);
	while (waitpid(child, NULL, 0) < 0)
		assert_int_equal(errno, EINTR);
}

static void sends_file(void **state)
{
	static unsigned char out[100 * 1000], in[sizeof out];
	struct proa_range range = { .offset = 10, .length = sizeof out - 10 };
	int source = fresh(), target, end = (int)sizeof out;

	(void)state;
	for (size_t i = 0; i < sizeof out; i++)
		out[i] = (unsigned char)(i * 31 >> 3);
	assert_int_equal(pwrite(source, out, sizeof out, 0), end);
	range.file = source;
	/* sendfile(2) refuses the second kind of target, to which we copy. */
	for (unsigned append = 0; append <= PROA_OPEN_APPEND; append += PROA_OPEN_APPEND) {
		target = run_open(OTHER, PROA_OPEN_READ | PROA_OPEN_WRITE | PROA_OPEN_CREATE |
						 PROA_OPEN_TRUNCATE | append);
		assert_true(target >= 0);
		range.length = sizeof out - 10;
		proa_prep_sendfile(&op, target, &range, 0);
		assert_int_equal(run(), end - 10);
		assert_int_equal(moved(), end - 10);
		assert_int_equal(pread(target, in, sizeof in, 0), end - 10);
		assert_memory_equal(in, out + 10, sizeof out - 10);
		assert_int_equal(lseek(source, 0, SEEK_CUR), 0);
		assert_int_equal(lseek(target, 0, SEEK_CUR), end - 10);
		range.length = sizeof out;
		proa_prep_sendfile(&op, target, &range, 0);
		assert_int_equal(run(), PROA_EIO);
		assert_int_equal(moved(), end - 10);
		range.length = 0;
		proa_prep_sendfile(&op, target, &range, 0);
		assert_int_equal(run(), 0);
		close(target);
	}
	close(source);
}

static void stats(void **state)
{
	struct proa_stat by_path, by_handle;
	struct stat status;
	int fd = fresh();

	(void)state;
	assert_int_equal(write(fd, "12345", 5), 5);
	proa_prep_stat(&op, PATH, &by_path);
	assert_int_equal(run(), 0);
	proa_prep_fstat(&op, fd, &by_handle);
	assert_int_equal(run(), 0);
	assert_memory_equal(&by_path, &by_handle, sizeof by_path);
	assert_int_equal(fstat(fd, &status), 0);
	assert_int_equal(by_path.size, 5);
	assert_int_equal(by_path.inode, status.st_ino);
	assert_int_equal(by_path.device, status.st_dev);
	assert_int_equal(by_path.mode, status.st_mode);
	assert_int_equal(by_path.links, 1);
	assert_int_equal(by_path.modified / PROA_SECOND, status.st_mtime);
#ifdef __linux__
	assert_int_equal(by_path.modified % PROA_SECOND, status.st_mtim.tv_nsec);
	/* The same by way of statx(2), for all but the time of the last access. */
	assert_int_equal(statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, stat_statx(&by_path)), 0);
	stat_fill_from_statx(&by_path);
	assert_memory_equal(&by_path, &by_handle, sizeof by_path);
#endif
	proa_prep_stat(&op, "test_file.not", &by_path);
	assert_int_equal(run(), PROA_ENOENT);
	proa_prep_fstat(&op, -1, &by_path);
	assert_int_equal(run(), PROA_EBADF);
	close(fd);
}

static void names(void **state)
{
	struct stat status;
	int fd = fresh();

	(void)state;
	proa_prep_truncate(&op, fd, 1234);
	assert_int_equal(run(), 0);
	assert_int_equal(fstat(fd, &status), 0);
	assert_int_equal(status.st_size, 1234);
	proa_prep_truncate(&op, fd, UINT64_MAX);
	assert_int_equal(run(), PROA_EINVAL);
	proa_prep_sync(&op, fd, 0);
	assert_int_equal(run(), 0);
	proa_prep_sync(&op, fd, PROA_DATA_ONLY);
	assert_int_equal(run(), 0);
	proa_prep_sync(&op, -1, 0);
	assert_int_equal(run(), PROA_EBADF);
	proa_prep_rename(&op, PATH, OTHER);
	assert_int_equal(run(), 0);
	proa_prep_rename(&op, PATH, OTHER);
	assert_int_equal(run(), PROA_ENOENT);
	proa_prep_unlink(&op, OTHER);
	assert_int_equal(run(), 0);
	assert_int_equal(run(), PROA_ENOENT);
	proa_prep_mkdir(&op, OTHER, 0700);
	assert_int_equal(run(), 0);
	assert_int_equal(run(), PROA_EEXIST);
	assert_int_equal(rmdir(OTHER), 0);
	close(fd);
}

/* The first try: what is cached at once, all else is a worker's. */
static void tries(void **state)
{
	static char room[512 * 1024];
	struct proa_slice slice = { room, 100 };
	int fd = fresh();
	int32_t result;

	(void)state;
	assert_int_equal(ftruncate(fd, sizeof room), 0);
	proa_prep_read(&op, fd, room, 1000, 0);
	assert_int_equal(run(), 1000);
	result = try(); /* STEP_TO_WORKER where the file system can't tell */
	if (result != STEP_TO_WORKER) {
		assert_int_equal(result, 1000);
		assert_int_equal(moved(), 1000);
		proa_prep_readv(&op, fd, &slice, 1, 50);
		assert_int_equal(try(), 100);
		proa_prep_recv(&op, fd, room, 100, 0);
		assert_int_equal(try(), 100);
		assert_int_equal(lseek(fd, 0, SEEK_CUR), 100);
	}
	proa_prep_read(&op, fd, room, 0, 0);
	assert_int_equal(try(), 0);
	proa_prep_read(&op, fd, room, sizeof room, 0); /* too much to copy here */
	assert_int_equal(try(), STEP_TO_WORKER);
	assert_int_equal(moved(), 0);
	proa_prep_write(&op, fd, room, 10, 0);
	assert_int_equal(try(), STEP_TO_WORKER);
	proa_prep_unlink(&op, PATH);
	assert_int_equal(try(), STEP_TO_WORKER);
	close(fd);
}

/* A worker finishes what the try began. */
static void goes_on(void **state)
{
	char room[10] = "ab";
	int fd = fresh();

	(void)state;
	assert_int_equal(pwrite(fd, "abcdefghij", 10, 0), 10);
	proa_prep_read(&op, fd, room, sizeof room, 0);
	flight(&op)->moved = 2;
	assert_int_equal(file_run(&op), 10);
	assert_memory_equal(room, "abcdefghij", 10);
	close(fd);
}

static void warms(void **state)
{
	static char room[1000 * 1000];
	int fd = fresh(), ends[2];

	(void)state;
	assert_int_equal(write(fd, room, sizeof room), (int)sizeof room);
	assert_int_equal(fsync(fd), 0);
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	/* It may be cold now, or not (tmpfs), but is warm afterwards. */
	assert_int_equal(file_warm(fd, 100, sizeof room - 100), 0);
	assert_true(file_is_warm(fd, 100, sizeof room - 100));
	assert_int_equal(file_warm(fd, 100, 10 * sizeof room), 0);
	assert_true(file_is_warm(fd, 0, 0));
	assert_int_equal(file_warm(fd, UINT64_MAX, 1), PROA_EINVAL);
	assert_true(file_is_warm(fd, UINT64_MAX, 1));
	close(fd);
	assert_int_equal(file_warm(-1, 0, 1), PROA_EBADF);
	assert_int_equal(pipe(ends), 0);
	assert_int_equal(file_warm(ends[0], 0, 1), PROA_ESPIPE);
	assert_true(file_is_warm(ends[0], 0, 1));
	close(ends[0]);
	close(ends[1]);
}

/* What a worker does for a sendfile to a socket: nothing goes out. */
static void warms_for_sendfile(void **state)
{
	struct proa_range range = { .offset = 5, .length = 1000 };

	(void)state;
	range.file = fresh();
	assert_int_equal(ftruncate(range.file, 2000), 0);
	proa_prep_sendfile(&op, -1, &range, PROA_WARM_);
	assert_int_equal(run(), FILE_WARMED);
	assert_int_equal(moved(), 0);
	close(range.file);
	assert_int_equal(run(), PROA_EBADF);
}

/* Waits for the child, for ten seconds at most. */
static struct proa_exit reap(proa_process process)
{
	const struct timespec pause = { 0, 1000 * 1000 };
	struct proa_exit how = { 999, 999 };
	int code = PROA_EAGAIN;

	for (int i = 0; i < 10000 && (code = unix_reap(process, &how, -1)) == PROA_EAGAIN; i++)
		nanosleep(&pause, NULL);
	assert_int_equal(code, 0);
	return how;
}

/* Starts "sh -c script" with what `command` says besides; how it ended. */
static struct proa_exit shell(struct proa_command command, const char *script)
{
	const char *const arguments[] = { "sh", "-c", script, NULL };
	proa_process process;

	command.arguments = arguments;
	assert_int_equal(proa_spawn(&command, &process), 0);
	return reap(process);
}

static void expect_code(struct proa_command command, const char *script, uint32_t code)
{
	struct proa_exit how = shell(command, script);

	assert_int_equal(how.signal, 0);
	assert_int_equal(how.code, code);
}

static void spawns(void **state)
{
	const struct proa_command plain = { .arguments = NULL };
	const char *const environment[] = { "COLOUR=blue", NULL };

	(void)state;
	expect_code(plain, "exit 0", 0);
	expect_code(plain, "exit 7", 7);
	setenv("COLOUR", "red", 1);
	expect_code(plain, "[ $COLOUR = red ]", 0);
	expect_code((struct proa_command) { .environment = environment },
		"[ $COLOUR = blue ] && [ -z \"$HOME\" ]", 0);
	expect_code((struct proa_command) { .directory = "/" }, "[ \"$(pwd)\" = / ]", 0);
}

static int spawn_code(const char *program, const char *directory)
{
	const char *const arguments[] = { program, NULL };
	struct proa_command command = { .arguments = arguments, .directory = directory };
	proa_process process = -1;
	int code = proa_spawn(&command, &process);

	if (code < 0)
		assert_int_equal(process, -1);
	else
		reap(process);
	return code;
}

static void spawn_errors(void **state)
{
	struct proa_command command = { .arguments = NULL };
	const char *const arguments[] = { "true", NULL };
	proa_handle standard[3] = { 0, 1, 9999 };
	proa_process process;
	int fd = fresh();

	(void)state;
	assert_int_equal(proa_spawn(&command, &process), PROA_EINVAL);
	assert_int_equal(proa_spawn_sized(&command, 0, &process), PROA_EINVAL);
	assert_int_equal(spawn_code(NULL, NULL), PROA_EINVAL);
	assert_int_equal(spawn_code("", NULL), PROA_ENOENT);
	assert_int_equal(spawn_code("test-file-no-such-program", NULL), PROA_ENOENT);
	assert_int_equal(spawn_code("/no/such/program", NULL), PROA_ENOENT);
	assert_int_equal(spawn_code("true", "/no/such/folder"), PROA_ENOENT);
	assert_int_equal(spawn_code("/", NULL), PROA_EACCES);
	assert_int_equal(spawn_code("./" PATH, NULL), PROA_EACCES);
	assert_int_equal(write(fd, "neither", 7), 7);
	assert_int_equal(fchmod(fd, 0700), 0);
	close(fd);
	assert_int_equal(spawn_code("./" PATH, NULL), PROA_ENOEXEC);
	command.arguments = arguments;
	command.standard = standard;
	assert_int_equal(proa_spawn(&command, &process), PROA_EBADF);
	standard[2] = PROA_NO_HANDLE;
	assert_int_equal(proa_spawn(&command, &process), PROA_EBADF);
	command.standard = NULL;
	command.pass_count = 1;
	assert_int_equal(proa_spawn(&command, &process), PROA_EINVAL);
	/* None of them has left a zombie. */
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
	assert_int_equal(errno, ECHILD);
}

/* The folders of PATH in turn: an empty one is the current folder, one without
 * the program is passed over, one that has it without permission, too. */
static void searches_path(void **state)
{
	char *before = strdup(getenv("PATH")), path[4096];
	int fd = open(OTHER, O_CREAT | O_WRONLY, 0700);

	(void)state;
	assert_int_equal(write(fd, "#!/bin/sh\nexit 5\n", 17), 17);
	close(fd);
	assert_int_equal(spawn_code(OTHER, NULL), PROA_ENOENT);
	snprintf(path, sizeof path, "/nowhere::%s", before);
	setenv("PATH", path, 1);
	assert_int_equal(spawn_code(OTHER, NULL), 0);
	snprintf(path, sizeof path, "%s:", before);
	setenv("PATH", path, 1);
	assert_int_equal(spawn_code(OTHER, NULL), 0);
	assert_int_equal(chmod(OTHER, 0600), 0);
	assert_int_equal(spawn_code(OTHER, NULL), PROA_EACCES);
	setenv("PATH", "", 1);
	assert_int_equal(chmod(OTHER, 0700), 0);
	assert_int_equal(spawn_code(OTHER, NULL), 0);
	unsetenv("PATH");
	assert_int_equal(spawn_code("true", NULL), 0);
	setenv("PATH", before, 1);
	free(before);
}

/* Reads what is in a pipe whose writers have gone. */
static void expect_text(int fd, const char *expected)
{
	char text[64];
	ssize_t got = read(fd, text, sizeof text - 1);

	assert_true(got >= 0);
	text[got] = '\0';
	assert_string_equal(text, expected);
	close(fd);
}

static void hands_over(void **state)
{
	struct proa_command command = { .pass_count = 2 };
	proa_handle standard[3] = { 0, 0, 0 }, pass[2];
	int ends[4][2];

	(void)state;
	for (int i = 0; i < 4; i++)
		assert_int_equal(unix_pipe(ends[i]), 0);
	standard[1] = ends[0][1];
	standard[2] = ends[1][1];
	pass[0] = ends[2][1];
	pass[1] = ends[3][1];
	command.standard = standard;
	command.pass = pass;
	expect_code(command, "echo out; echo err >&2; echo three >&3; echo four >&4", 0);
	for (int i = 0; i < 4; i++)
		close(ends[i][1]);
	expect_text(ends[0][0], "out\n");
	expect_text(ends[1][0], "err\n");
	expect_text(ends[2][0], "three\n");
	expect_text(ends[3][0], "four\n");
}

/* In a child of its own, whose low numbers we may dispose of: descriptors that
 * change places, one that goes to two places, and one that is there already. */
static int change_places(void)
{
	struct proa_command command = { .pass_count = 3 };
	proa_handle standard[3] = { 0, 2, 1 };
	const proa_handle pass[3] = { 4, 3, 5 };
	const char *const arguments[] = { "sh", "-c",
		"echo 1; echo 2 >&2; echo 3 >&3; echo 4 >&4; echo 5 >&5", NULL };
	proa_process process;
	char byte[3], *expected = "2143";
	int ends[6][2];

	command.arguments = arguments;
	command.standard = standard;
	command.pass = pass;
	for (int i = 1; i < 6; i++)
		if (unix_pipe(ends[i]) < 0 ||
			(ends[i][0] = fcntl(ends[i][0], F_DUPFD_CLOEXEC, 100)) < 0 ||
			(ends[i][1] = fcntl(ends[i][1], F_DUPFD_CLOEXEC, 100)) < 0)
			return 1;
	for (int i = 1; i < 6; i++)
		if (dup3(ends[i][1], i, i == 5 ? O_CLOEXEC : 0) < 0)
			return 2;
	if (proa_spawn(&command, &process) < 0)
		return 3;
	reap(process);
	/* Pipe 1 has what the child wrote to 2, and so on. */
	for (int i = 1; i < 5; i++)
		if (read(ends[i][0], byte, 3) != 2 || byte[0] != expected[i - 1])
			return 3 + i;
	return read(ends[5][0], byte, 3) == 2 && byte[0] == '5' ? 0 : 8;
}

/* Without standard input: the child has none either. */
static int inherits_nothing(void)
{
	const char *const arguments[] = { "sh", "-c", "[ ! -e /proc/self/fd/0 ]", NULL };
	struct proa_command command = { .arguments = arguments };
	proa_process process;

	close(0);
	if (proa_spawn(&command, &process) < 0)
		return 1;
	return (int)reap(process).code;
}

static void in_child(int (*part)(void))
{
	pid_t child = fork();
	int status;

	if (child == 0)
		_exit(part());
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
}

static void clashing_numbers(void **state)
{
	(void)state;
	in_child(change_places);
#ifdef __linux__
	in_child(inherits_nothing);
#endif
}

#ifdef __linux__
/* Descriptors that we left inheritable. */
static int leaves_behind(void)
{
	const char *const arguments[] = { "sh", "-c",
		"[ -e /proc/self/fd/3 ] && [ ! -e /proc/self/fd/30 ] && [ ! -e /proc/self/fd/900 ]",
		NULL };
	const proa_handle pass[1] = { 900 };
	struct proa_command command = { .arguments = arguments, .pass = pass, .pass_count = 1 };
	proa_process process;

	if (dup2(0, 30) < 0 || dup2(0, 900) < 0)
		return 1;
	if (proa_spawn(&command, &process) < 0)
		return 2;
	return (int)reap(process).code;
}

/* The same where close_range(2) does not exist. */
static int leaves_behind_old(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 436 /* close_range everywhere */, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof code / sizeof code[0], code };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_SECCOMP, 2, &program) < 0)
		return leaves_behind(); /* no filters here: nothing more to learn */
	if (syscall(436, 1000u, 1000u, 0u) == 0)
		return 3;
	return leaves_behind();
}

static void others_stay_behind(void **state)
{
	(void)state;
	in_child(leaves_behind);
	in_child(leaves_behind_old);
}
#endif

/* Neither our mask nor our handlers reach the child; what is ignored does. */
static void signals_are_fresh(void **state)
{
	const struct proa_command plain = { .arguments = NULL };
	struct sigaction action = { .sa_handler = on_tick }, before;
	sigset_t blocked, mask;

	(void)state;
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGUSR1);
	sigprocmask(SIG_BLOCK, &blocked, &mask);
	sigaction(SIGUSR2, &action, &before);
	assert_int_equal(shell(plain, "kill -USR1 $$; exit 3").signal, SIGUSR1);
	assert_int_equal(shell(plain, "kill -USR2 $$; exit 3").signal, SIGUSR2);
	action.sa_handler = SIG_IGN;
	sigaction(SIGUSR2, &action, NULL);
	expect_code(plain, "kill -USR2 $$; exit 3", 3);
	/* Ours are as they were. */
	sigaction(SIGUSR2, &before, &action);
	assert_ptr_equal(action.sa_handler, SIG_IGN);
	sigprocmask(SIG_SETMASK, &mask, &blocked);
	assert_int_equal(sigismember(&blocked, SIGUSR1), 1);
	assert_int_equal(sigismember(&blocked, SIGUSR2), 0);
}

static void kills(void **state)
{
	const char *const arguments[] = { "sleep", "100", NULL };
	const struct proa_command command = { .arguments = arguments };
	struct pollfd ended = { .events = POLLIN };
	struct proa_exit how;
	proa_process process;

	(void)state;
	assert_int_equal(proa_spawn(&command, &process), 0);
	assert_int_equal(unix_reap(process, &how, -1), PROA_EAGAIN);
	ended.fd = unix_child_open(process);
	assert_true(ended.fd >= 0);
	assert_int_equal(fcntl(ended.fd, F_GETFD), FD_CLOEXEC);
	assert_int_equal(poll(&ended, 1, 0), 0);
	assert_int_equal(unix_reap(process, &how, ended.fd), PROA_EAGAIN);
	assert_int_equal(proa_kill(process, 0), 0);
	assert_int_equal(proa_kill(process, 12345), PROA_EINVAL);
	assert_int_equal(proa_kill(process, SIGKILL), 0);
	assert_int_equal(poll(&ended, 1, 10000), 1);
	unix_child_close(ended.fd);
	how = reap(process);
	assert_int_equal(how.signal, SIGKILL);
	assert_int_equal(how.code, 0);
	assert_int_equal(unix_reap(process, NULL, -1), PROA_ECHILD);
	assert_int_equal(proa_kill(process, SIGTERM), PROA_ESRCH);
	/* 0 and -1 would hit us, and everybody. */
	assert_int_equal(proa_kill(0, 0), PROA_EINVAL);
	assert_int_equal(proa_kill(-1, 0), PROA_EINVAL);
	assert_int_equal(unix_reap(-1, &how, -1), PROA_EINVAL);
	assert_int_equal(unix_child_open(-1), PROA_EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(opens, clean, clean),
		cmocka_unit_test_setup_teardown(open_refuses, clean, clean),
		cmocka_unit_test_setup_teardown(opens_fifo, clean, clean),
		cmocka_unit_test_setup_teardown(reads_and_writes, clean, clean),
		cmocka_unit_test_setup_teardown(read_errors, clean, clean),
		cmocka_unit_test_setup_teardown(vectors, clean, clean),
		cmocka_unit_test_setup_teardown(full_device, clean, clean),
		cmocka_unit_test_setup_teardown(streams, clean, clean),
		cmocka_unit_test_setup_teardown(whole_in_spite_of_signals, clean, clean),
		cmocka_unit_test_setup_teardown(sends_file, clean, clean),
		cmocka_unit_test_setup_teardown(stats, clean, clean),
		cmocka_unit_test_setup_teardown(names, clean, clean),
		cmocka_unit_test_setup_teardown(tries, clean, clean),
		cmocka_unit_test_setup_teardown(goes_on, clean, clean),
		cmocka_unit_test_setup_teardown(warms, clean, clean),
		cmocka_unit_test_setup_teardown(warms_for_sendfile, clean, clean),
		cmocka_unit_test_setup_teardown(spawns, clean, clean),
		cmocka_unit_test_setup_teardown(spawn_errors, clean, clean),
		cmocka_unit_test_setup_teardown(searches_path, clean, clean),
		cmocka_unit_test_setup_teardown(hands_over, clean, clean),
		cmocka_unit_test_setup_teardown(clashing_numbers, clean, clean),
#ifdef __linux__
		cmocka_unit_test_setup_teardown(others_stay_behind, clean, clean),
#endif
		cmocka_unit_test_setup_teardown(signals_are_fresh, clean, clean),
		cmocka_unit_test_setup_teardown(kills, clean, clean),
	};

	return cmocka_run_group_tests_name("file", tests, NULL, NULL);
}

/* Runs the conformance tests: each in a forked process, on every engine, with
 * a limit in time and a count of descriptors; and the helpers tests share. */
#include "harness.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

#define RULES     29
#define AT_ONCE   2 /* tests of one engine that run at the same time */
#define EXIT_SKIP 77
#define FD_MOST   1024 /* descriptors of a test that the leak check can tell apart */
#define PROFILES  16

/* What a test's process tells the parent, in memory they share. */
struct report {
	_Atomic(const char *) file; /* the last check that passed, in its process */
	char where[64]; /* ... and its name, for the parent */
	atomic_int line;
	char reason[512]; /* of a skip, or why an engine is not there */
	char folder[128];
};

struct running {
	struct test *test; /* NULL: a free place */
	pid_t pid;
	int output; /* memfd with its stdout and stderr */
	int64_t until;
	bool late;
	struct report *report;
};

struct cell {
	int passed, failed, skipped;
};

struct profile {
	const char *name;
	bool missing;
	struct cell rules[RULES + 1];
};

static struct test *tests, **tests_end = &tests;
static struct profile profiles[PROFILES];
static int profile_count;
static const char *current_profile = "";
static struct report *report; /* in a test: its own */
static struct report *reports; /* in memory that other programs can have, too */
static int report_memory;
static bool verbose;
static int factor = 1;
static int passed, failed, skipped;

/* ---- Registration and checks ---- */

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash != NULL ? slash + 1 : path;
}

void test_register(struct test *test)
{
	test->file = base_name(test->file);
	*tests_end = test;
	tests_end = &test->next;
}

void test_passed_line(const char *file, int line)
{
	/* A check inside a helper says less than the test's own before it. */
	if (strcmp(base_name(file), "harness.c") == 0)
		return;
	if (atomic_load_explicit(&report->file, memory_order_relaxed) != file) {
		snprintf(report->where, sizeof(report->where), "%s", base_name(file));
		atomic_store_explicit(&report->file, file, memory_order_relaxed);
	}
	atomic_store_explicit(&report->line, line, memory_order_relaxed);
}

void test_fail(const char *file, int line, const char *format, ...)
{
	va_list arguments;

	fflush(stdout);
	fprintf(stderr, "%s:%d: ", base_name(file), line);
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputc('\n', stderr);
	fflush(stderr);
	_exit(1);
}

void test_skip(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(report->reason, sizeof(report->reason), format, arguments);
	va_end(arguments);
	fflush(NULL);
	_exit(EXIT_SKIP);
}

static const char *value_name(long long value)
{
	return value < 0 && value > INT32_MIN ? proa_error_name((int)value) : "";
}

void test_int(const char *file, int line, const char *text, long long actual, long long expected)
{
	if (actual != expected)
		test_fail(file, line, "%s is %lld %s, not %lld %s", text, actual,
			value_name(actual), expected, value_name(expected));
	test_passed_line(file, line);
}

int test_system(const char *file, int line, const char *text, long long value)
{
	int error = errno;

	if (value < 0)
		test_fail(file, line, "%s: %s", text, strerror(error));
	test_passed_line(file, line);
	return (int)value;
}

/* ---- Ports and time ---- */

const char *test_profile(void)
{
	return current_profile;
}

const char *test_engine(void)
{
	if (strncmp(current_profile, "io_uring", 8) == 0)
		return "io_uring";
	return strcmp(current_profile, "kqueue-plain") == 0 ? "kqueue" : current_profile;
}

int test_factor(void)
{
	return factor;
}

struct proa_port *test_port_with(const struct proa_port_options *options)
{
	struct proa_port *port = NULL;

	CHECK_INT(proa_port_open(options, &port), 0);
	CHECK(port != NULL);
	if (strcmp(proa_engine_name(port), test_engine()) != 0)
		test_fail(__FILE__, __LINE__, "the engine is %s, not %s", proa_engine_name(port),
			test_engine());
	return port;
}

struct proa_port *test_port(void)
{
	return test_port_with(NULL);
}

void test_close(struct proa_port *port)
{
	CHECK_INT(proa_port_close(port), 0);
}

void close_handle(struct proa_port *port, proa_handle handle)
{
	struct record record;

	record_init(&record, port);
	proa_prep_close(&record.op, handle, 0);
	CHECK_INT(record_run(&record), 0);
}

int64_t test_clock(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * PROA_SECOND + now.tv_nsec;
}

int64_t test_cpu(void)
{
	struct timespec used;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
	return used.tv_sec * PROA_SECOND + used.tv_nsec;
}

void test_sleep(int64_t ns)
{
	struct timespec wait = { ns / PROA_SECOND, ns % PROA_SECOND };

	while (nanosleep(&wait, &wait) < 0 && errno == EINTR)
		;
}

void test_turn(
	struct proa_port *port, int64_t until, const char *file, int line, const char *condition)
{
	int n = proa_run_once(port, 5 * PROA_MILLISECOND);

	if (n < 0)
		test_fail(file, line, "the run ended with %s before: %s", proa_error_name(n),
			condition);
	if (n == 0 && test_clock() > until)
		test_fail(file, line, "waited in vain for: %s", condition);
}

void run_for(struct proa_port *port, int64_t ns)
{
	int64_t until = test_clock() + ns, left;

	while ((left = until - test_clock()) > 0)
		CHECK(proa_run_once(port, left) >= 0);
}

void run_quiet(struct proa_port *port)
{
	int n;

	while ((n = proa_run_once(port, 30 * PROA_MILLISECOND)) > 0)
		;
	CHECK_INT(n, 0);
}

/* ---- Recorder ---- */

static uint64_t finals_seen;

void record_init(struct record *record, struct proa_port *port)
{
	memset(record, 0, sizeof(*record));
	proa_op_init(&record->op, port, record);
}

uint64_t recorded_finals(void)
{
	return finals_seen;
}

static void record_lent(struct record *record, const struct proa_completion *c)
{
	struct proa_buffer *buffer = proa_lent(c);

	if ((c->flags & PROA_LENT) == 0) {
		CHECK(buffer == NULL);
		return;
	}
	CHECK(buffer != NULL);
	CHECK(!proa_op_pending(&buffer->op));
	CHECK(buffer->op.port == c->op->port);
	CHECK(c->result < 0 || buffer->length == (uint32_t)c->result);
	CHECK(buffer->length <= buffer->size);
	if (record->then != NULL)
		return;
	CHECK(record->count < RECORD_KEPT);
	record->lent[record->count] = buffer;
}

void recorded(struct proa_op *op, const struct proa_completion *c)
{
	struct record *record = op->data;
	bool final = (c->flags & PROA_MORE) == 0;

	CHECK(c->op == op);
	CHECK_INT(record->finals, 0);
	CHECK_INT(proa_op_pending(op) != 0, !final);
	record_lent(record, c);
	if (record->count < RECORD_KEPT) {
		record->results[record->count] = c->result;
		record->flags[record->count] = c->flags;
	}
	record->count++;
	record->last = c->result;
	if (final) {
		record->finals = 1;
		record->order = ++finals_seen;
	}
	if (record->then != NULL)
		record->then(record, c);
}

uint64_t record_submit(struct record *record)
{
	uint64_t ticket;

	record->count = record->finals = 0;
	record->last = 0;
	record->order = 0;
	ticket = proa_submit(&record->op, recorded);
	CHECK(ticket != 0);
	return ticket;
}

int32_t record_run(struct record *record)
{
	struct proa_port *port = record->op.port;

	record_submit(record);
	CHECK_INT(record->finals, 0);
	RUN_UNTIL(port, record->finals == 1);
	return record->last;
}

/* ---- Bytes ---- */

/* splitmix64's finaliser: eight bytes of the pattern. */
static uint64_t pattern_word(uint64_t index)
{
	uint64_t z = (index + 1) * UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

void fill_bytes(void *buffer, size_t length, uint64_t at)
{
	unsigned char *bytes = buffer;
	uint64_t word = pattern_word(at >> 3);

	for (size_t i = 0; i < length; i++, at++) {
		if ((at & 7) == 0)
			word = pattern_word(at >> 3);
		bytes[i] = (unsigned char)(word >> (8 * (at & 7)));
	}
}

size_t wrong_byte(const void *buffer, size_t length, uint64_t at)
{
	const unsigned char *bytes = buffer;
	uint64_t word = pattern_word(at >> 3);

	for (size_t i = 0; i < length; i++, at++) {
		if ((at & 7) == 0)
			word = pattern_word(at >> 3);
		if (bytes[i] != (unsigned char)(word >> (8 * (at & 7))))
			return i;
	}
	return length;
}

/* ---- Ends of streams ---- */

int tcp_listener(int backlog, struct proa_address *address)
{
	struct sockaddr_in here = { .sin_family = AF_INET };
	int fd = CHECK_SYSTEM(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));

	here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	CHECK_SYSTEM(bind(fd, (struct sockaddr *)&here, sizeof(here)));
	CHECK_SYSTEM(listen(fd, backlog));
	if (address != NULL) {
		socklen_t length = sizeof(address->to);

		memset(address, 0, sizeof(*address));
		CHECK_SYSTEM(getsockname(fd, &address->to.any, &length));
		address->length = length;
	}
	return fd;
}

int tcp_connect_to(const struct proa_address *address)
{
	int fd = CHECK_SYSTEM(socket(address->to.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0));

	CHECK_SYSTEM(connect(fd, &address->to.any, address->length));
	return fd;
}

static proa_handle unblocked(int fd)
{
	CHECK_SYSTEM(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK));
	return fd;
}

static struct ends tcp_blocking(bool sending)
{
	struct proa_address address;
	int listener = tcp_listener(1, &address);
	struct ends ends;

	(void)sending;
	ends.peer = tcp_connect_to(&address);
	ends.ours = CHECK_SYSTEM(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
	close(listener);
	return ends;
}

struct ends unix_ends_of(int type)
{
	int pair[2];

	CHECK_SYSTEM(socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, pair));
	return (struct ends) { .ours = pair[0], .peer = pair[1] };
}

static struct ends unix_blocking(bool sending)
{
	(void)sending;
	return unix_ends_of(SOCK_STREAM);
}

static struct ends pipe_blocking(bool sending)
{
	int pair[2];

	CHECK_SYSTEM(pipe2(pair, O_CLOEXEC));
	return (struct ends) { .ours = pair[sending], .peer = pair[!sending] };
}

static struct ends tcp_plain(bool sending)
{
	struct ends ends = tcp_blocking(sending);

	ends.ours = unblocked(ends.ours);
	return ends;
}

static struct ends unix_plain(bool sending)
{
	struct ends ends = unix_blocking(sending);

	ends.ours = unblocked(ends.ours);
	return ends;
}

struct ends pipe_ends(bool sending)
{
	struct ends ends = pipe_blocking(sending);

	ends.ours = unblocked(ends.ours);
	return ends;
}

struct ends tcp_ends(void)
{
	return tcp_plain(false);
}

struct ends unix_ends(void)
{
	return unix_plain(false);
}

const struct stream_maker stream_makers[STREAM_MAKERS] = {
	{ "tcp", true, true, false, tcp_plain },
	{ "unix", true, true, false, unix_plain },
	{ "pipe", false, false, false, pipe_ends },
	{ "blocking tcp", true, true, true, tcp_blocking },
	{ "blocking unix", true, true, true, unix_blocking },
	{ "blocking pipe", false, false, true, pipe_blocking },
};

void reset_on_close(int socket)
{
	struct linger now = { .l_onoff = 1, .l_linger = 0 };

	CHECK_SYSTEM(setsockopt(socket, SOL_SOCKET, SO_LINGER, &now, sizeof(now)));
}

void shrink_buffers(const struct ends *ends)
{
	/* Less room for received bytes than a segment of loopback's, 64 KiB, makes
	 * TCP crawl from timer to timer. A pipe has neither option; its least is
	 * a page. */
	int least = 4096, segment = 65536;

	if (setsockopt(ends->ours, SOL_SOCKET, SO_SNDBUF, &least, sizeof(least)) < 0)
		CHECK_SYSTEM(fcntl(ends->ours, F_SETPIPE_SZ, least));
	else
		CHECK_SYSTEM(
			setsockopt(ends->peer, SOL_SOCKET, SO_RCVBUF, &segment, sizeof(segment)));
}

/* ---- Peers ---- */

void peer_write(int fd, const void *buffer, size_t length)
{
	const char *bytes = buffer;

	while (length > 0) {
		ssize_t n = CHECK_SYSTEM(write(fd, bytes, length));

		bytes += n;
		length -= (size_t)n;
	}
}

void peer_read(int fd, void *buffer, size_t length)
{
	char *bytes = buffer;

	while (length > 0) {
		ssize_t n = CHECK_SYSTEM(read(fd, bytes, length));

		CHECK(n > 0);
		bytes += n;
		length -= (size_t)n;
	}
}

ssize_t peer_drain(int fd, void *buffer, size_t room)
{
	int flags = CHECK_SYSTEM(fcntl(fd, F_GETFL));
	size_t got = 0;
	ssize_t n = -1;

	CHECK_SYSTEM(fcntl(fd, F_SETFL, flags | O_NONBLOCK));
	while (got < room && (n = read(fd, (char *)buffer + got, room - got)) > 0)
		got += (size_t)n;
	CHECK_SYSTEM(fcntl(fd, F_SETFL, flags));
	return got == 0 && n == 0 ? -1 : (ssize_t)got;
}

uint64_t peer_read_pattern(int fd, uint64_t at)
{
	struct peer_reader reader = { .fd = fd, .from = at };

	peer_reader_start(&reader);
	peer_reader_join(&reader);
	CHECK_INT(reader.wrong, UINT64_MAX);
	return reader.total;
}

#define PIECE 65536

static void *read_on(void *argument)
{
	struct peer_reader *reader = argument;
	size_t piece = reader->piece != 0 ? reader->piece : PIECE, room;
	char *buffer = malloc(piece);
	ssize_t n;

	CHECK(buffer != NULL);
	while (reader->limit == 0 || reader->total < reader->limit) {
		room = piece;
		if (reader->limit != 0 && room > reader->limit - reader->total)
			room = reader->limit - reader->total;
		if (reader->pause > 0)
			test_sleep(reader->pause);
		n = read(reader->fd, buffer, room);
		if (n <= 0) {
			reader->error = n < 0 ? errno : 0;
			break;
		}
		if (reader->wrong == UINT64_MAX) {
			size_t wrong = wrong_byte(buffer, (size_t)n, reader->from + reader->total);

			if (wrong < (size_t)n)
				reader->wrong = reader->total + wrong;
		}
		reader->total += (uint64_t)n;
	}
	free(buffer);
	return NULL;
}

void peer_reader_start(struct peer_reader *reader)
{
	pthread_t thread;

	reader->total = 0;
	reader->wrong = UINT64_MAX;
	reader->error = 0;
	CHECK_INT(pthread_create(&thread, NULL, read_on, reader), 0);
	reader->thread = (unsigned long)thread;
}

void peer_reader_join(struct peer_reader *reader)
{
	CHECK_INT(pthread_join((pthread_t)reader->thread, NULL), 0);
}

static void *write_on(void *argument)
{
	struct peer_writer *writer = argument;
	size_t piece = writer->piece != 0 ? writer->piece : PIECE, length;
	uint64_t at = 0;
	char *buffer = malloc(piece);
	sigset_t pipe_signal;
	ssize_t n;

	CHECK(buffer != NULL);
	sigemptyset(&pipe_signal);
	sigaddset(&pipe_signal, SIGPIPE);
	pthread_sigmask(SIG_BLOCK, &pipe_signal, NULL);
	while (at < writer->total) {
		length = writer->total - at < piece ? (size_t)(writer->total - at) : piece;
		fill_bytes(buffer, length, at);
		n = write(writer->fd, buffer, length);
		if (n < 0) {
			writer->error = errno;
			break;
		}
		at += (uint64_t)n;
		if (writer->pause > 0)
			test_sleep(writer->pause);
	}
	if (writer->ends)
		close(writer->fd);
	free(buffer);
	return NULL;
}

void peer_writer_start(struct peer_writer *writer)
{
	pthread_t thread;

	writer->error = 0;
	CHECK_INT(pthread_create(&thread, NULL, write_on, writer), 0);
	writer->thread = (unsigned long)thread;
}

void peer_writer_join(struct peer_writer *writer)
{
	CHECK_INT(pthread_join((pthread_t)writer->thread, NULL), 0);
}

/* ---- Descriptors and folders ---- */

/* Marks each open descriptor but the one that reads the folder; their number. */
static int list_descriptors(bool *open)
{
	DIR *folder = opendir("/proc/self/fd");
	struct dirent *entry;
	int count = 0, fd;

	CHECK(folder != NULL);
	while ((entry = readdir(folder)) != NULL) {
		fd = atoi(entry->d_name);
		if (entry->d_name[0] == '.' || fd == dirfd(folder))
			continue;
		if (open != NULL && fd < FD_MOST)
			open[fd] = true;
		count++;
	}
	closedir(folder);
	return count;
}

int descriptors_open(void)
{
	return list_descriptors(NULL);
}

static void check_leaks(const bool *before, int count)
{
	bool after[FD_MOST] = { false };
	int now = list_descriptors(after);
	char path[64], target[256];

	if (now == count)
		return;
	for (int fd = 0; fd < FD_MOST; fd++) {
		ssize_t n;

		if (before[fd] == after[fd])
			continue;
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		n = readlink(path, target, sizeof(target) - 1);
		target[n > 0 ? n : 0] = '\0';
		fprintf(stderr, "descriptor %d %s %s\n", fd,
			after[fd] ? "was left open:" : "was closed", target);
	}
	test_fail(__FILE__, __LINE__, "%d descriptors were open before the test, %d are now", count,
		now);
}

const char *test_folder(void)
{
	const char *base = getenv("TMPDIR");

	if (report->folder[0] == '\0') {
		snprintf(report->folder, sizeof(report->folder), "%s/proa-test-XXXXXX",
			base != NULL ? base : "/tmp");
		CHECK(mkdtemp(report->folder) != NULL);
	}
	return report->folder;
}

const char *test_path(const char *name)
{
	static char paths[8][512];
	static unsigned next;
	char *path = paths[next++ % 8];

	snprintf(path, sizeof(paths[0]), "%s/%s", test_folder(), name);
	return path;
}

static int remove_entry(const char *path, const struct stat *status, int kind, struct FTW *place)
{
	(void)status;
	(void)kind;
	(void)place;
	return remove(path);
}

static void remove_folder(struct report *of)
{
	if (of->folder[0] != '\0')
		nftw(of->folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
	of->folder[0] = '\0';
}

/* ---- Running ---- */

static void choose_engine(const struct profile *profile)
{
	current_profile = profile->name;
	setenv("PROA_ENGINE", test_engine(), 1);
	if (strcmp(profile->name, "io_uring-basic") == 0)
		setenv("PROA_URING_OFF", "all", 1);
	else if (strncmp(profile->name, "io_uring-no-", 12) == 0) /* one feature off */
		setenv("PROA_URING_OFF", profile->name + 12, 1);
	else
		unsetenv("PROA_URING_OFF");
}

/* In the child of fork(): what every test's process begins with. */
static void become_test(const struct profile *profile, struct report *own, int output)
{
	sigset_t none;

	setpgid(0, 0);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	report = own;
	dup2(output, STDOUT_FILENO);
	dup2(output, STDERR_FILENO);
	close(output);
	setvbuf(stdout, NULL, _IONBF, 0);
	choose_engine(profile);
}

static void run_test(const struct test *test)
{
	bool before[FD_MOST] = { false };
	int count;

	/* libc and sanitizers open what they keep before the first count. */
	test_clock();
	count = list_descriptors(before);
	test->run();
	check_leaks(before, count);
	fflush(NULL);
	exit(0);
}

/* Where this profile's engine is in a build of its own (kqueue, on Linux) the
 * tests are in another program: ours with the profile's name behind. In a forked
 * child: becomes it, for one test (NULL: to probe the engine). Returns if there is
 * no such program. */
static void become_other(
	const struct profile *profile, const struct report *own, const struct test *test)
{
	char program[512], memory[16], place[16];
	ssize_t n = readlink("/proc/self/exe", program, sizeof(program) - 64);

	if (n < 0)
		return;
	snprintf(program + n, sizeof(program) - (size_t)n, "-%s", profile->name);
	if (access(program, X_OK) < 0)
		return;
	snprintf(memory, sizeof(memory), "%d", report_memory);
	snprintf(place, sizeof(place), "%d", (int)(own - reports));
	execl(program, program, "--one", memory, place, profile->name,
		test != NULL ? test->name : "", (char *)NULL);
	_exit(127);
}

static void probe_here(const struct profile *profile, struct report *own)
{
	struct proa_port *port;

	choose_engine(profile);
	if (proa_port_open(NULL, &port) < 0)
		snprintf(own->reason, sizeof(own->reason), "%s", proa_port_open_why());
	else if (strcmp(proa_engine_name(port), test_engine()) != 0)
		snprintf(own->reason, sizeof(own->reason), "a port opens with %s instead",
			proa_engine_name(port));
	_exit(own->reason[0] != '\0');
}

/* Is the engine there at all? Its reason, if not, in `own->reason`. */
static void probe(const struct profile *profile, struct report *own)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		become_other(profile, own, NULL);
		probe_here(profile, own);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		snprintf(own->reason, sizeof(own->reason), "%s", strerror(errno));
	else if (!WIFEXITED(status))
		snprintf(own->reason, sizeof(own->reason), "opening a port ended by signal %d",
			WTERMSIG(status));
	else if (WEXITSTATUS(status) != 0 && own->reason[0] == '\0')
		snprintf(
			own->reason, sizeof(own->reason), "opening a port failed without a reason");
}

static void start(struct running *place, const struct profile *profile, struct test *test)
{
	fflush(NULL);
	memset(place->report, 0, sizeof(*place->report));
	place->test = test;
	place->late = false;
	place->output = memfd_create("output", MFD_CLOEXEC);
	place->until = test_clock() + test->seconds * PROA_SECOND * factor;
	place->pid = fork();
	if (place->pid == 0) {
		become_test(profile, place->report, place->output);
		become_other(profile, place->report, test);
		close(report_memory);
		run_test(test);
	}
	if (place->pid < 0) {
		perror("fork");
		exit(2);
	}
	setpgid(place->pid, place->pid); /* as the child does: whoever is first */
}

static void show_output(int fd)
{
	char buffer[4096];
	off_t at = 0;
	ssize_t n;

	while ((n = pread(fd, buffer, sizeof(buffer), at)) > 0) {
		fwrite(buffer, 1, (size_t)n, stdout);
		at += n;
	}
}

static void show_line(const char *what, const struct profile *profile, const struct test *test)
{
	printf("%-7s %-14s rule %d (%s) %s", what, profile->name, test->rule, test->clause,
		test->name);
}

static void show_failure(const struct running *place, const struct profile *profile, int status)
{
	show_line("FAILED", profile, place->test);
	if (place->late)
		printf(": out of time");
	else if (WIFSIGNALED(status))
		printf(": signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
	else
		printf(": exit %d", WEXITSTATUS(status));
	if (place->report->where[0] != '\0')
		printf("; the last check that held: %s:%d", place->report->where,
			atomic_load(&place->report->line));
	printf("\n");
	show_output(place->output);
}

static void settle(struct running *place, struct profile *profile, int status)
{
	struct cell *cell = &profile->rules[place->test->rule];

	if (!place->late && WIFEXITED(status) && WEXITSTATUS(status) == 0) {
		cell->passed++;
		passed++;
		if (verbose) {
			show_line("ok", profile, place->test);
			printf("\n");
		}
	} else if (!place->late && WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SKIP) {
		cell->skipped++;
		skipped++;
		show_line("SKIPPED", profile, place->test);
		printf(": %s\n", place->report->reason);
	} else {
		cell->failed++;
		failed++;
		show_failure(place, profile, status);
	}
	fflush(stdout);
	remove_folder(place->report);
	close(place->output);
	place->test = NULL;
}

/* Ends what has run too long; takes in what has ended. True if a place is free. */
static bool look_after(struct running *places, struct profile *profile)
{
	bool room = false;

	for (int i = 0; i < AT_ONCE; i++) {
		struct running *place = &places[i];
		siginfo_t info = { 0 };
		int status;

		if (place->test != NULL && test_clock() > place->until) {
			place->late = true;
			kill(-place->pid, SIGKILL);
		}
		if (place->test != NULL &&
			waitid(P_PID, (id_t)place->pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
			info.si_pid == place->pid) {
			/* Its own children go too; the group is ours until it is reaped. */
			kill(-place->pid, SIGKILL);
			waitpid(place->pid, &status, 0);
			settle(place, profile, status);
		}
		room |= place->test == NULL;
	}
	return room;
}

static bool busy(const struct running *places)
{
	for (int i = 0; i < AT_ONCE; i++)
		if (places[i].test != NULL)
			return true;
	return false;
}

static void wait_for_child(void)
{
	struct timespec most = { 0, 100 * 1000 * 1000 };
	sigset_t child;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigtimedwait(&child, NULL, &most);
}

static bool chosen(const struct test *test, char **filters)
{
	char rule[16];

	snprintf(rule, sizeof(rule), "%d", test->rule);
	if (*filters == NULL)
		return true;
	for (; *filters != NULL; filters++)
		if (strcmp(*filters, rule) == 0 || strstr(test->name, *filters) != NULL ||
			strstr(test->file, *filters) != NULL)
			return true;
	return false;
}

static void run_profile(struct profile *profile, struct running *places, char **filters)
{
	struct report *own = places[0].report;

	memset(own, 0, sizeof(*own));
	probe(profile, own);
	if (own->reason[0] != '\0') {
		printf("SKIPPED %-14s not available here: %s\n", profile->name, own->reason);
		profile->missing = true;
		skipped++;
		return;
	}
	for (struct test *test = tests; test != NULL; test = test->next) {
		if (!chosen(test, filters))
			continue;
		while (!look_after(places, profile))
			wait_for_child();
		for (int i = 0; i < AT_ONCE; i++)
			if (places[i].test == NULL) {
				start(&places[i], profile, test);
				break;
			}
	}
	while (look_after(places, profile), busy(places))
		wait_for_child();
}

/* ---- What is shown ---- */

static void print_cell(FILE *out, const struct cell *cell)
{
	char text[32];
	int n;

	if (cell->passed + cell->failed + cell->skipped == 0) {
		fprintf(out, " %6s", "-");
		return;
	}
	n = snprintf(text, sizeof(text), "%d", cell->passed);
	if (cell->failed > 0)
		n += snprintf(text + n, sizeof(text) - (size_t)n, "F%d", cell->failed);
	if (cell->skipped > 0)
		snprintf(text + n, sizeof(text) - (size_t)n, "S%d", cell->skipped);
	fprintf(out, " %6s", text);
}

static void print_matrix(FILE *out)
{
	bool used[RULES + 1] = { false };

	for (struct test *test = tests; test != NULL; test = test->next)
		used[test->rule] = true;
	fprintf(out, "%-16s", "rule");
	for (int rule = 1; rule <= RULES; rule++)
		if (used[rule])
			fprintf(out, " %6d", rule);
	fprintf(out, "\n");
	for (int i = 0; i < profile_count; i++) {
		fprintf(out, "%-16s", profiles[i].name);
		if (profiles[i].missing)
			fprintf(out, " not available here");
		for (int rule = 1; rule <= RULES && !profiles[i].missing; rule++)
			if (used[rule])
				print_cell(out, &profiles[i].rules[rule]);
		fprintf(out, "\n");
	}
	fprintf(out, "Tests passed; F: failed, S: skipped.\n");
}

static void list_tests(char **filters)
{
	for (struct test *test = tests; test != NULL; test = test->next)
		if (chosen(test, filters))
			printf("rule %2d  %-28s %-44s %s\n", test->rule, test->clause, test->name,
				test->file);
}

/* By rule, then as they were registered; false if two have one name. */
static bool sort_tests(void)
{
	struct test *sorted = NULL, **end = &sorted, *next;

	for (int rule = 0; rule <= RULES; rule++)
		for (struct test **at = &tests; *at != NULL;) {
			if ((*at)->rule != rule) {
				at = &(*at)->next;
				continue;
			}
			next = *at;
			*at = next->next;
			next->next = NULL;
			*end = next;
			end = &next->next;
		}
	if (tests != NULL) {
		fprintf(stderr, "%s: there is no rule %d\n", tests->name, tests->rule);
		return false;
	}
	tests = sorted;
	for (struct test *one = tests; one != NULL; one = one->next)
		for (next = one->next; next != NULL; next = next->next)
			if (strcmp(one->name, next->name) == 0) {
				fprintf(stderr, "two tests are called %s\n", one->name);
				return false;
			}
	return true;
}

static void add_profile(const char *name)
{
	if (profile_count < PROFILES)
		profiles[profile_count++].name = name;
}

static int usage(const char *program)
{
	fprintf(stderr,
		"usage: %s [-v] [--engine NAME]... [--list] [--matrix FILE] "
		"[--seconds-factor N] [filter...]\n"
		"A filter is a rule's number, or a part of a test's or file's name.\n",
		program);
	return 2;
}

struct wishes {
	bool list;
	const char *matrix;
	char **filters;
};

static bool read_wishes(int argc, char **argv, struct wishes *wishes)
{
	int i;

	for (i = 1; i < argc && argv[i][0] == '-'; i++) {
		if (strcmp(argv[i], "-v") == 0)
			verbose = true;
		else if (strcmp(argv[i], "--list") == 0)
			wishes->list = true;
		else if (i + 1 < argc && strcmp(argv[i], "--engine") == 0)
			add_profile(argv[++i]);
		else if (i + 1 < argc && strcmp(argv[i], "--matrix") == 0)
			wishes->matrix = argv[++i];
		else if (i + 1 < argc && strcmp(argv[i], "--seconds-factor") == 0)
			factor = atoi(argv[++i]);
		else
			return false;
	}
	wishes->filters = argv + i;
	return factor >= 1;
}

static bool map_reports(void)
{
	reports = mmap(NULL, AT_ONCE * sizeof(*reports), PROT_READ | PROT_WRITE, MAP_SHARED,
		report_memory, 0);
	return reports != MAP_FAILED;
}

/* What become_other() has started: never returns. */
static int run_one(char **arguments)
{
	struct profile profile = { .name = arguments[2] };
	struct test *test = tests;

	report_memory = atoi(arguments[0]);
	if (!map_reports())
		return 2;
	close(report_memory);
	report = &reports[atoi(arguments[1])];
	choose_engine(&profile);
	if (arguments[3][0] == '\0')
		probe_here(&profile, report);
	setvbuf(stdout, NULL, _IONBF, 0);
	while (test != NULL && strcmp(test->name, arguments[3]) != 0)
		test = test->next;
	if (test != NULL)
		run_test(test);
	return 2;
}

static void prepare_places(struct running *places)
{
	sigset_t child;

	report_memory = memfd_create("reports", 0);
	if (report_memory < 0 || ftruncate(report_memory, AT_ONCE * sizeof(*reports)) < 0 ||
		!map_reports()) {
		perror("memory for reports");
		exit(2);
	}
	for (int i = 0; i < AT_ONCE; i++)
		places[i].report = &reports[i];
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child, NULL);
}

int main(int argc, char **argv)
{
	static const char *const usual[] = { "io_uring", "io_uring-basic", "epoll", "poll",
		"select", "kqueue", "kqueue-plain" };
	struct running places[AT_ONCE] = { 0 };
	struct wishes wishes = { 0 };
	FILE *matrix;

	if (getenv("TEST_TIME_FACTOR") != NULL)
		factor = atoi(getenv("TEST_TIME_FACTOR"));
	if (argc == 6 && strcmp(argv[1], "--one") == 0)
		return run_one(argv + 2);
	if (!read_wishes(argc, argv, &wishes))
		return usage(argv[0]);
	if (!sort_tests())
		return 2;
	if (wishes.list) {
		list_tests(wishes.filters);
		return 0;
	}
	if (profile_count == 0)
		for (size_t i = 0; i < sizeof(usual) / sizeof(usual[0]); i++)
			add_profile(usual[i]);
	prepare_places(places);
	for (int i = 0; i < profile_count; i++)
		run_profile(&profiles[i], places, wishes.filters);
	print_matrix(stdout);
	if (wishes.matrix != NULL) {
		matrix = fopen(wishes.matrix, "w");
		if (matrix == NULL || (print_matrix(matrix), fclose(matrix)) != 0) {
			perror(wishes.matrix);
			return 2;
		}
	}
	printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
	return failed > 0;
}

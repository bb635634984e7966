/* The helpers that tests share: checks, ports, a recorder of completions, ends of
 * streams, and peers on threads. runner.c runs the tests. */
#include "harness.h"
#include "posix.h"
#include "runner.h"

#include <stdarg.h>

struct report *report;
const char *current_profile = "";
int time_factor = 1;
void (*test_astray)(void);
volatile sig_atomic_t time_is_up;

const char *base_name(const char *path)
{
	const char *end = path;

	for (; *path != '\0'; path++)
		if (*path == '/' || *path == '\\')
			end = path + 1;
	return end;
}

/* ---- Checks ---- */

static _Noreturn void test_end(int code)
{
	report->ended = true;
	process_exit(code);
}

static atomic_flag naming = ATOMIC_FLAG_INIT;

void test_passed_line(const char *file, int line)
{
	/* A check inside a helper says less than the test's own before it. */
	if (strcmp(base_name(file), "harness.c") == 0)
		return;
	if (atomic_load_explicit(&report->file, memory_order_relaxed) != (uintptr_t)file) {
		/* Peers are threads: one that finds another at it leaves it at that. */
		if (!atomic_flag_test_and_set(&naming)) {
			snprintf(report->where, sizeof(report->where), "%s", base_name(file));
			atomic_store_explicit(&report->file, (uintptr_t)file, memory_order_relaxed);
			atomic_flag_clear(&naming);
		}
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
	if (test_astray != NULL)
		test_astray();
	test_end(EXIT_FAILED);
}

void test_skip(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(report->reason, sizeof(report->reason), format, arguments);
	va_end(arguments);
	fflush(NULL);
	test_end(EXIT_SKIP);
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
	if (strcmp(current_profile, "any") == 0)
		return "";
	return strncmp(current_profile, "kqueue", 6) == 0 ? "kqueue" : current_profile;
}

bool test_engine_is(const char *name)
{
	return test_engine()[0] == '\0' || strcmp(name, test_engine()) == 0;
}

int test_factor(void)
{
	return time_factor;
}

unsigned test_many(unsigned count)
{
	return time_factor < 5 ? count : count / (unsigned)time_factor;
}

struct proa_port *test_port_with(const struct proa_port_options *options)
{
	struct proa_port *port = NULL;

	CHECK_INT(proa_port_open(options, &port), 0);
	CHECK(port != NULL);
	if (!test_engine_is(proa_engine_name(port)))
		test_fail(__FILE__, __LINE__, "the engine is %s, not %s", proa_engine_name(port),
			test_engine());
	return port;
}

struct proa_port *test_port(void)
{
	return test_port_with(NULL);
}

void test_close_lending(struct proa_port *port)
{
	CHECK_INT(proa_port_close(port), 0);
}

void test_close(struct proa_port *port)
{
	struct proa_port_stats stats;

	proa_port_stats(port, &stats);
	CHECK_INT(stats.lent, 0);
	test_close_lending(port);
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

bool test_on_wine(void)
{
#ifdef _WIN32
	return posix_is_wine();
#else
	return false;
#endif
}

#ifdef _WIN32
/* As a port is told of a child: Winsock has an event for each thread that calls it. */
static void CALLBACK hear_of_event(void *argument, BOOLEAN late)
{
	int *pair = argument;

	(void)late;
	if (pair != NULL)
		send(pair[0], "", 1, 0);
}

/* The system's own thread pool, by which ends of children are told. It ends its threads
 * when they have had nothing to do for some seconds, and with them go handles that
 * were counted: so it has something to wait for as long as the process is there. */
static void warm_up_waits(int *pair)
{
	HANDLE never = CreateEventA(NULL, TRUE, FALSE, NULL);
	HANDLE now = CreateEventA(NULL, TRUE, TRUE, NULL), wait;
	char byte;

	CHECK(never != NULL && now != NULL);
	CHECK(RegisterWaitForSingleObject(&wait, never, hear_of_event, NULL, INFINITE,
		WT_EXECUTEONLYONCE | WT_EXECUTEINWAITTHREAD));
	CHECK(RegisterWaitForSingleObject(&wait, now, hear_of_event, pair, INFINITE,
		WT_EXECUTEONLYONCE | WT_EXECUTEINWAITTHREAD));
	CHECK_INT(recv(pair[1], &byte, 1, 0), 1);
	UnregisterWaitEx(wait, INVALID_HANDLE_VALUE);
	CloseHandle(now);
}
#endif

#ifndef _WIN32
/* The list of who has which descriptor stays. It is in parts of 4,096, of which tests need
 * the first few. */
static void warm_up_owners(struct proa_port *port, int fd)
{
	int copies[4], count = 0;

	while (count < 4 && (copies[count] = fcntl(fd, F_DUPFD_CLOEXEC, count * 4096)) >= 0)
		CHECK_INT(proa_attach(port, copies[count++]), 0);
	while (count > 0)
		CHECK_INT(proa_discard(port, copies[--count]), 0);
}
#endif

void test_warm_up(void)
{
	struct proa_port *port;
	int pair[2];

	/* Winsock, the engine and the thread library keep handles of their own from
	 * the first use on, and ours its list of who has which handle. */
	test_clock();
#ifdef _WIN32
	CHECK_SYSTEM(posix_pair(pair));
	warm_up_waits(pair);
	CHECK_INT(proa_port_open(NULL, &port), 0);
	CHECK_INT(proa_attach(port, pair[0]), 0);
#else
	CHECK_SYSTEM(pipe2(pair, O_CLOEXEC));
	CHECK_INT(proa_port_open(NULL, &port), 0);
	warm_up_owners(port, pair[0]);
#endif
	test_close(port);
	close(pair[0]);
	close(pair[1]);
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
	if (n == 0 && (time_is_up || test_clock() > until))
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

static _Atomic uint64_t finals_seen; /* tests with several threads have a port in each */

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

struct proa_buffer *lent_of(const struct record *record, unsigned which)
{
	CHECK(record->count > which && record->lent[which] != NULL);
	return record->lent[which];
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
	int pair[2] = { -1, -1 };

	SKIP_WITHOUT_UNIX_SOCKETS();
	(void)type;
	CHECK_SYSTEM(socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, pair));
	return (struct ends) { .ours = pair[0], .peer = pair[1] };
}

#ifdef _WIN32
#	define PAIR_NAME "connected tcp"

/* TCP whose `ours` is the end that connected. */
static struct ends pair_blocking(bool sending)
{
	int pair[2];

	(void)sending;
	CHECK_SYSTEM(posix_pair(pair));
	return (struct ends) { .ours = pair[0], .peer = pair[1] };
}
#else
#	define PAIR_NAME "unix"

static struct ends pair_blocking(bool sending)
{
	(void)sending;
	return unix_ends_of(SOCK_STREAM);
}
#endif

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

static struct ends pair_plain(bool sending)
{
	struct ends ends = pair_blocking(sending);

	ends.ours = unblocked(ends.ours);
	return ends;
}

#ifdef _WIN32
/* What does not wait is what overlaps. */
struct ends pipe_ends(bool sending)
{
	int pair[2];

	CHECK_SYSTEM(posix_pipe_overlapped(pair, sending));
	return (struct ends) { .ours = pair[sending], .peer = pair[!sending] };
}
#else
struct ends pipe_ends(bool sending)
{
	struct ends ends = pipe_blocking(sending);

	ends.ours = unblocked(ends.ours);
	return ends;
}
#endif

struct ends tcp_ends(void)
{
	return tcp_plain(false);
}

struct ends pair_ends(void)
{
	return pair_plain(false);
}

const struct stream_maker stream_makers[STREAM_MAKERS] = {
	{ "tcp", true, true, false, tcp_plain },
	{ PAIR_NAME, true, true, false, pair_plain },
	{ "pipe", false, false, false, pipe_ends },
	{ "blocking tcp", true, true, true, tcp_blocking },
	{ "blocking " PAIR_NAME, true, true, true, pair_blocking },
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

void peer_read_running(struct proa_port *port, int fd, void *buffer, size_t length)
{
	int64_t until = test_clock() + 10 * PROA_SECOND * test_factor();
	size_t got = 0;
	ssize_t n;

	while (got < length) {
		CHECK(test_clock() < until);
		n = peer_drain(fd, (char *)buffer + got, length - got);
		CHECK(n >= 0);
		got += (size_t)n;
		if (got < length)
			CHECK(proa_run_once(port, PROA_MILLISECOND) >= 0);
	}
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
	reader->thread = (uintptr_t)thread;
}

void peer_reader_join(struct peer_reader *reader)
{
	CHECK_INT(pthread_join((pthread_t)reader->thread, NULL), 0);
}

/* To a stream whose other end may have gone. */
static void block_pipe_signal(void)
{
#ifndef _WIN32
	sigset_t pipe_signal;

	sigemptyset(&pipe_signal);
	sigaddset(&pipe_signal, SIGPIPE);
	pthread_sigmask(SIG_BLOCK, &pipe_signal, NULL);
#endif
}

static void *write_on(void *argument)
{
	struct peer_writer *writer = argument;
	size_t piece = writer->piece != 0 ? writer->piece : PIECE, length;
	uint64_t at = 0;
	char *buffer = malloc(piece);
	ssize_t n;

	CHECK(buffer != NULL);
	block_pipe_signal();
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
	writer->thread = (uintptr_t)thread;
}

void peer_writer_join(struct peer_writer *writer)
{
	CHECK_INT(pthread_join((pthread_t)writer->thread, NULL), 0);
}

/* ---- Folders ---- */

const char *test_folder(void)
{
	const char *base = getenv("TMPDIR");

#ifdef _WIN32
	if (base == NULL || base[0] == '/')
		base = getenv("TEMP");
#endif
	if (report->folder[0] == '\0') {
		snprintf(report->folder, sizeof(report->folder), "%s/proa-test-XXXXXX",
			base != NULL ? base : "/tmp");
		CHECK(mkdtemp(report->folder) != NULL);
	}
	return report->folder;
}

const char *test_path(const char *name)
{
	static char paths[8][1024];
	static unsigned next;
	char *path = paths[next++ % 8];

	snprintf(path, sizeof(paths[0]), "%s/%s", test_folder(), name);
	return path;
}

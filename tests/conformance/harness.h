/* What every conformance test stands on: registration, checks, a recorder of
 * completions, and ends of streams to play the peer with.
 *
 * A test runs in a process of its own, on one engine, chosen through the
 * environment. It may end at any CHECK that fails; it must close its ports and
 * descriptors, which the harness counts. */
#ifndef PROA_TESTS_CONFORMANCE_HARNESS_H
#define PROA_TESTS_CONFORMANCE_HARNESS_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#include <proa/proa.h>

/* ---- Registration ---- */

struct test {
	int rule;
	const char *clause, *name, *file;
	int seconds; /* wall-clock limit */
	bool cold; /* runs once more before, as the first thing of its process */
	void (*run)(void);
	struct test *next;
};

void test_register(struct test *test);

#define TEST_AS(rule_, clause_, name_, seconds_, cold_)                                        \
	static void test_##name_(void);                                                        \
	__attribute__((constructor)) static void register_##name_(void)                        \
	{                                                                                      \
		static struct test test = { rule_, clause_, #name_, __FILE__, seconds_, cold_, \
			test_##name_, NULL };                                                  \
		test_register(&test);                                                          \
	}                                                                                      \
	static void test_##name_(void)
#define TEST_WITHIN(rule, clause, name, seconds) TEST_AS(rule, clause, name, seconds, false)

/* TEST(8, "short sends", send_is_whole) { body }: `name` is unique among all files. */
#define TEST(rule, clause, name)      TEST_WITHIN(rule, clause, name, 20)
#define TEST_SLOW(rule, clause, name) TEST_WITHIN(rule, clause, name, 60)
/* Of what is done once in a process: first where nothing is ready for it yet. */
#define TEST_COLD(rule, clause, name) TEST_AS(rule, clause, name, 20, true)

/* ---- Checks: the first that fails ends the test ---- */

#ifdef __MINGW_PRINTF_FORMAT
#	define TEST_PRINTF(at, first) __attribute__((format(__MINGW_PRINTF_FORMAT, at, first)))
#else
#	define TEST_PRINTF(at, first) __attribute__((format(printf, at, first)))
#endif
void test_passed_line(const char *file, int line);
_Noreturn TEST_PRINTF(3, 4) void test_fail(const char *file, int line, const char *format, ...);
_Noreturn TEST_PRINTF(1, 2) void test_skip(const char *format, ...);
void test_int(const char *file, int line, const char *text, long long actual, long long expected);

/* Where the library is made to fail on purpose, a check that fails says nothing of it: the
 * test is ended by this, which does not return in the test's own process. */
extern void (*test_astray)(void);
/* The test has had its time: it waits for nothing any more. */
extern volatile sig_atomic_t time_is_up;

#define CHECK(condition)                                                         \
	do {                                                                     \
		if (condition)                                                   \
			test_passed_line(__FILE__, __LINE__);                    \
		else                                                             \
			test_fail(__FILE__, __LINE__, "not so: %s", #condition); \
	} while (0)

/* Prints both values, by name where they are error codes. */
#define CHECK_INT(actual, expected) \
	test_int(__FILE__, __LINE__, #actual, (long long)(actual), (long long)(expected))

/* For set-up calls of the system: the value, which must not be negative. */
#define CHECK_SYSTEM(call) test_system(__FILE__, __LINE__, #call, (long long)(call))
int test_system(const char *file, int line, const char *text, long long value);

#define SKIP(...) test_skip(__VA_ARGS__)
/* A test that has no meaning on this system, and why. */
#define NOT_HERE(rule, clause, name, ...) \
	TEST(rule, clause, name)          \
	{                                 \
		SKIP(__VA_ARGS__);        \
	}
#ifdef _WIN32
#	define SKIP_WITHOUT_UNIX_SOCKETS() \
		SKIP("proa makes no UNIX sockets on Windows, by decision: see windows.md")
#else
#	define SKIP_WITHOUT_UNIX_SOCKETS() ((void)0)
#endif
/* What wine does otherwise than Windows: the test runs on Windows itself. */
#define SKIP_ON_WINE(...)                       \
	do {                                    \
		if (test_on_wine())             \
			test_skip(__VA_ARGS__); \
	} while (0)
bool test_on_wine(void);
/* More than a connection takes while its peer does not read: Linux lets 4 MiB wait to be
 * sent and some more wait to be read, and Winsock can't be told to keep less. */
#define STUFFING (16u << 20)
#define SKIP_WITHOUT_RESETS()                                                           \
	do {                                                                            \
		if (test_on_wine() && strcmp(test_engine(), "iocp") != 0)               \
			test_skip("wine's WSAPoll() and select() take the word of a "   \
				  "reset away from the receive that would tell of it"); \
	} while (0)

/* ---- Ports ---- */

/* "io_uring", "io_uring-basic", "epoll", ...: the profile under test. */
const char *test_profile(void);
/* The engine's name as proa_engine_name() gives it. */
const char *test_engine(void);
/* May the engine of a port be this one? With the profile "any" a port takes what it
 * gets: for tests of what happens where the better ones can't always be had. */
bool test_engine_is(const char *name);
/* How many times longer than usual things may take (valgrind, sanitizers). */
int test_factor(void);
/* So many of what a rule gives a number of; fewer in builds that are slow by themselves,
 * whose factor is 5 or more. A machine that is only busy, as CI's, does them all. */
unsigned test_many(unsigned count);

/* A port of the profile's engine; checks that it is that engine. */
struct proa_port *test_port(void);
struct proa_port *test_port_with(const struct proa_port_options *options);
/* proa_port_close() with a check, and with none of its buffers lent. */
void test_close(struct proa_port *port);
/* The same for a test that gives buffers back past the port's end. */
void test_close_lending(struct proa_port *port);

/* Closes a handle by an op and runs until that has completed with 0. */
void close_handle(struct proa_port *port, proa_handle handle);

/* Dispatches until `condition` holds; fails after ten seconds (times factor).
 * The condition is looked at again every few milliseconds, also when the port
 * has nothing to do: peers may be threads. */
#define RUN_UNTIL(port, condition) RUN_UNTIL_WITHIN(port, condition, 10 * PROA_SECOND)
#define RUN_UNTIL_WITHIN(port, condition, ns)                                    \
	do {                                                                     \
		int64_t until_ = test_clock() + (ns)*test_factor();              \
		while (!(condition))                                             \
			test_turn(port, until_, __FILE__, __LINE__, #condition); \
		test_passed_line(__FILE__, __LINE__);                            \
	} while (0)
void test_turn(
	struct proa_port *port, int64_t until, const char *file, int line, const char *condition);
/* Dispatches for that long, whatever happens. */
void run_for(struct proa_port *port, int64_t ns);
/* Dispatches until a while has passed in which nothing completed. */
void run_quiet(struct proa_port *port);

/* CLOCK_MONOTONIC, and this process's CPU time, in ns. */
int64_t test_clock(void);
int64_t test_cpu(void);
void test_sleep(int64_t ns);
/* Makes the system and the engine open what they keep open. */
void test_warm_up(void);

/* ---- Recorder ---- */

#define RECORD_KEPT 16

/* An op, and what its completions said. */
struct record {
	struct proa_op op;
	int32_t results[RECORD_KEPT]; /* of the first ones */
	uint32_t flags[RECORD_KEPT];
	struct proa_buffer *lent[RECORD_KEPT];
	unsigned count; /* completions since record_submit() */
	unsigned finals; /* 0 or 1: anything else ends the test */
	int32_t last; /* the latest result */
	uint64_t order; /* place among all final completions, from 1 */
	/* If set, is called in `recorded` after the noting. Lent buffers are then
	 * its business; else they are kept in `lent`. */
	void (*then)(struct record *record, const struct proa_completion *completion);
	void *data; /* the test's */
	uint64_t number;
};

/* Zeroes it and readies the op, with op.data = the record. */
void record_init(struct record *record, struct proa_port *port);
/* The callback: finds the record by op->data, so other ops may borrow it. It
 * checks that nothing follows a final completion, and what is pending. */
void recorded(struct proa_op *op, const struct proa_completion *completion);
/* Forgets what was noted, and submits the prepared op. */
uint64_t record_submit(struct record *record);
/* As above, and runs until its final completion: the result. */
int32_t record_run(struct record *record);
/* The buffer that its completion of that number lends. */
struct proa_buffer *lent_of(const struct record *record, unsigned which);
/* How many final completions `recorded` has seen in all. */
uint64_t recorded_finals(void);

/* ---- Bytes ---- */

/* A pattern in which each place has its own byte, with no short period. */
void fill_bytes(void *buffer, size_t length, uint64_t at);
/* The index of the first byte that differs from the pattern, or `length`. */
size_t wrong_byte(const void *buffer, size_t length, uint64_t at);
#define CHECK_BYTES(buffer, length, at) CHECK_INT(wrong_byte((buffer), (length), (at)), (length))

/* A struct proa_slice's initializer: the systems differ in its order. */
#define SLICE(bytes, count)                        \
	{                                          \
		.data = (bytes), .length = (count) \
	}

/* ---- Peers ---- */

/* Ends of a connected stream: `ours` for the library, `peer` a plain blocking
 * descriptor for the test. */
struct ends {
	proa_handle ours;
	int peer;
};

struct stream_maker {
	const char *name;
	bool duplex; /* both directions; else only the one asked for */
	bool socket; /* knows shutdown and peek */
	bool blocking; /* `ours` comes without O_NONBLOCK */
	/* `sending`: which way `ours` has to work if there is only one. */
	struct ends (*make)(bool sending);
};

/* TCP, UNIX (on Windows TCP the other way round) and pipe, then the same with blocking descriptors. */
extern const struct stream_maker stream_makers[];
#define STREAM_MAKERS 6
#define PLAIN_MAKERS  3 /* the first ones: those that don't block */
#define FOR_STREAMS(maker)                                     \
	for (const struct stream_maker *maker = stream_makers; \
		maker < stream_makers + STREAM_MAKERS; maker++)
/* Windows polls sockets alone. */
#ifdef _WIN32
#	define CAN_POLL(maker) ((maker)->socket)
#else
#	define CAN_POLL(maker) true
#endif
#define FOR_POLLED_STREAMS(maker) FOR_STREAMS(maker) if (CAN_POLL(maker))
#define FOR_PLAIN_STREAMS(maker)                               \
	for (const struct stream_maker *maker = stream_makers; \
		maker < stream_makers + PLAIN_MAKERS; maker++)

struct ends tcp_ends(void);
/* Any duplex stream that is cheap to make: UNIX sockets, where there are some. */
struct ends pair_ends(void);
struct ends pipe_ends(bool sending);
/* UNIX sockets of another type: SOCK_DGRAM, SOCK_SEQPACKET. */
struct ends unix_ends_of(int type);
/* A listening TCP socket on loopback, plain and blocking; its address. */
int tcp_listener(int backlog, struct proa_address *address);
/* A plain blocking TCP connection to it. */
int tcp_connect_to(const struct proa_address *address);
/* Makes a close of the peer send a reset. */
void reset_on_close(int socket);
/* Small buffers: less than 200,000 bytes fill them. */
void shrink_buffers(const struct ends *ends);

/* Whole transfers on a plain descriptor. */
void peer_write(int fd, const void *buffer, size_t length);
/* Reads exactly so many. */
void peer_read(int fd, void *buffer, size_t length);
/* The same while the port runs: a worker may have to move first what is read here. */
void peer_read_running(struct proa_port *port, int fd, void *buffer, size_t length);
/* All that can be had without waiting; its length. -1: end of stream at once. */
ssize_t peer_drain(int fd, void *buffer, size_t room);
/* Reads to the end of stream and checks the pattern from `at`: bytes read. */
uint64_t peer_read_pattern(int fd, uint64_t at);

/* A thread that reads to the end of stream (or an error), checking the pattern. */
struct peer_reader {
	int fd;
	int64_t pause; /* before each read */
	size_t piece; /* most to read at once; 0: 64 KiB */
	uint64_t limit; /* stops after so many bytes; 0: none */
	uint64_t from; /* where in the pattern the first byte is */
	uint64_t total; /* read so far (valid after join) */
	uint64_t wrong; /* first place that was not the pattern, or UINT64_MAX */
	int error; /* errno that ended it, or 0 */
	uintptr_t thread;
};
void peer_reader_start(struct peer_reader *reader);
void peer_reader_join(struct peer_reader *reader);

/* A thread that writes `total` bytes of the pattern in pieces. */
struct peer_writer {
	int fd;
	int64_t pause; /* between pieces */
	size_t piece; /* 0: 64 KiB */
	uint64_t total;
	bool ends; /* closes fd when done */
	int error;
	uintptr_t thread;
};
void peer_writer_start(struct peer_writer *writer);
void peer_writer_join(struct peer_writer *writer);

/* How many descriptors this process has open. */
/* ---- Processes ---- */

/* Starts a process that does what it is told: "sleep 0.1; exit 7". */
proa_process act(const char *script);
/* Waits for it, as its parent: `signal` has ended it (on Windows, something has). */
void expect_killed(proa_process process, int signal);
/* Waits for it, as its parent: it has ended by itself, and well. */
void expect_ended(proa_process process);
/* Waits for it, as its parent: abort() has ended it. */
void expect_aborted(proa_process process);
/* As the system has it: no links, and from the root on. */
bool whole_path(const char *path, char *out, size_t size);
/* On Windows: this program, which acts by `--act SCRIPT`. */
const char *test_program(void);
/* It has been waited for already: nobody can do so again. */
void expect_reaped(proa_process process);

/* ---- Descriptors and folders ---- */

int descriptors_open(void);
/* A fresh folder's path, removed with all in it after the test. */
const char *test_folder(void);
/* `folder`/`name` in a static buffer of one of eight. */
const char *test_path(const char *name);

#endif

/* Rules 17 and 18: how handles end, and whose they are. */
#include "harness.h"
#include "posix.h"

#ifndef _WIN32
#	include <termios.h>
#endif

#define MIB (1024u * 1024u)

static bool is_open(int fd)
{
#ifdef _WIN32
	/* The number may be an event's or a thread's by now: those have no type of file. */
	if (GetFileType((HANDLE)(intptr_t)fd) == FILE_TYPE_UNKNOWN)
		return false;
#endif
	return fcntl(fd, F_GETFD) >= 0;
}

/* A TCP address whose connects hang: its listener's queue is full. */
struct hole {
	int listener, fillers[4];
	struct proa_address address;
};

static void dig_hole(struct hole *hole)
{
	hole->listener = tcp_listener(0, &hole->address);
	for (int i = 0; i < 4; i++) {
		hole->fillers[i] = CHECK_SYSTEM(
			socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
		connect(hole->fillers[i], &hole->address.to.any, hole->address.length);
	}
	test_sleep(20 * PROA_MILLISECOND);
}

static void fill_hole(struct hole *hole)
{
	for (int i = 0; i < 4; i++)
		close(hole->fillers[i]);
	close(hole->listener);
}

static void check_works(struct proa_port *port, const struct ends *ends)
{
	struct record record;
	char byte = 0;

	record_init(&record, port);
	proa_prep_recv(&record.op, ends->ours, &byte, 1, 0);
	record_submit(&record);
	CHECK(proa_run_once(port, 0) >= 0);
	CHECK_INT(record.last, 0);
	CHECK_INT(record.finals, 0);
	peer_write(ends->peer, "x", 1);
	RUN_UNTIL(port, record.finals == 1);
	CHECK_INT(record.last, 1);
	CHECK_INT(byte, 'x');
}

/* ---- Rule 17: close completes last ---- */

enum { BUSY_OPS = 12 };

/* One of everything that can wait on a socket and beside it. */
static void busy_start(struct record *ops, struct proa_port *port, const struct ends *ends,
	struct hole *hole, unsigned char *room, const unsigned char *bytes)
{
	static struct proa_slice slice;

	for (int i = 0; i < BUSY_OPS; i++)
		record_init(&ops[i], port);
	slice = (struct proa_slice)SLICE((void *)(uintptr_t)bytes, 1000);
	proa_prep_recv(&ops[0].op, ends->ours, room, 10, 0);
	proa_prep_recv(&ops[1].op, ends->ours, room + 10, 10, PROA_ALL);
	proa_prep_send(&ops[2].op, ends->ours, bytes, 8 * MIB, 0);
	proa_prep_send(&ops[3].op, ends->ours, bytes, 10, 0);
	proa_prep_sendv(&ops[4].op, ends->ours, &slice, 1, 0);
	proa_prep_shutdown(&ops[5].op, ends->ours);
	proa_prep_poll(&ops[6].op, ends->ours, PROA_READABLE);
	proa_prep_poll_multi(&ops[7].op, ends->ours, PROA_READABLE);
	proa_prep_timer(&ops[8].op, 100 * PROA_SECOND);
	proa_prep_interval(&ops[9].op, 100 * PROA_SECOND, PROA_SECOND);
	proa_prep_dial(&ops[10].op, &hole->address, 0);
	proa_prep_recv(&ops[11].op, ends->ours, room + 20, 10, PROA_PEEK);
	for (int i = 8; i < 11; i++)
		proa_op_with(&ops[i].op, ends->ours);
	for (int i = 0; i < BUSY_OPS; i++)
		record_submit(&ops[i]);
}

TEST(17, "completes last", with_all_kinds_in_flight)
{
	unsigned char *bytes = calloc(8, MIB), room[32];
	struct proa_port *port = test_port();
	struct hole hole;
	int before = 0;

	CHECK(bytes != NULL);
	dig_hole(&hole);
	for (int round = 0; round < 8; round++) {
		struct ends ends = round & 1 ? tcp_ends() : pair_ends();
		struct record ops[BUSY_OPS], closing, behind[5], again;
		struct proa_stat stat;

		busy_start(ops, port, &ends, &hole, room, bytes);
		if (round & 2)
			run_quiet(port);
		record_init(&closing, port);
		proa_prep_close(&closing.op, ends.ours, 0);
		record_submit(&closing);
		/* Behind it nothing is done any more: not even by timers. */
		for (int i = 0; i < 5; i++)
			record_init(&behind[i], port);
		proa_prep_recv(&behind[0].op, ends.ours, room, 10, 0);
		proa_prep_send(&behind[1].op, ends.ours, bytes, 10, 0);
		proa_prep_fstat(&behind[2].op, ends.ours, &stat);
		proa_prep_timer(&behind[3].op, 0);
		proa_op_with(&behind[3].op, ends.ours);
		proa_prep_shutdown(&behind[4].op, ends.ours);
		for (int i = 0; i < 5; i++)
			record_submit(&behind[i]);
		record_init(&again, port);
		proa_prep_close(&again.op, ends.ours, 0);
		record_submit(&again);
		CHECK_INT(closing.finals, 0);
		RUN_UNTIL(port, closing.finals == 1);
		CHECK_INT(closing.last, 0);
		for (int i = 0; i < BUSY_OPS; i++) {
			CHECK_INT(ops[i].finals, 1);
			CHECK_INT(ops[i].count, 1);
			CHECK_INT(ops[i].last, PROA_ECANCELED);
			CHECK(ops[i].order < closing.order);
		}
		for (int i = 0; i < 5; i++) {
			CHECK_INT(behind[i].finals, 1);
			CHECK_INT(behind[i].last, PROA_EBADF);
			CHECK(behind[i].order < closing.order);
		}
		CHECK_INT(again.finals, 1);
		CHECK_INT(again.last, PROA_EBADF);
		CHECK(again.order < closing.order);
		CHECK(!is_open(ends.ours));
		close(ends.peer);
		/* An engine may keep what the first round needed. */
		before = round == 0 ? descriptors_open() : before;
		CHECK_INT(descriptors_open(), before);
	}
	fill_hole(&hole);
	test_close(port);
	free(bytes);
}

/* All ops of a connection in one block of memory that the close's callback
 * frees: whatever the library touches later, a sanitizer sees. */
struct client {
	struct record receive, send, poll, timer, closing;
	struct ends ends;
	unsigned char room[8];
};

static int clients_freed;

static void free_client(struct record *record, const struct proa_completion *c)
{
	struct client *client = record->data;

	CHECK_INT(c->result, 0);
	CHECK_INT(client->receive.finals, 1);
	CHECK_INT(client->send.finals, 1);
	CHECK_INT(client->poll.finals, 1);
	CHECK_INT(client->timer.finals, 1);
	close(client->ends.peer);
	memset(client, 0xdd, sizeof(*client));
	free(client);
	clients_freed++;
}

static void close_client(struct record *record, const struct proa_completion *c)
{
	struct client *client = record->data;

	(void)c;
	if (proa_op_pending(&client->closing.op))
		return;
	proa_prep_close(&client->closing.op, client->ends.ours, 0);
	record_submit(&client->closing);
}

static void start_client(struct proa_port *port, const struct stream_maker *maker,
	const unsigned char *bytes, unsigned what)
{
	struct client *client = malloc(sizeof(*client));

	CHECK(client != NULL);
	record_init(&client->receive, port);
	record_init(&client->send, port);
	record_init(&client->poll, port);
	record_init(&client->timer, port);
	record_init(&client->closing, port);
	client->receive.data = client->send.data = client->poll.data = client->timer.data =
		client->closing.data = client;
	client->receive.then = client->send.then = client->poll.then = client->timer.then =
		close_client;
	client->closing.then = free_client;
	client->ends = maker->make(true);
	shrink_buffers(&client->ends);
	proa_prep_recv(&client->receive.op, client->ends.ours, client->room, 8, PROA_ALL);
	proa_prep_send(&client->send.op, client->ends.ours, bytes, MIB, 0);
	proa_prep_poll_multi(&client->poll.op, client->ends.ours, PROA_READABLE);
	/* The first to end closes all: which one that is differs. */
	proa_prep_timer(&client->timer.op, (what % 7) * PROA_MILLISECOND);
	proa_op_with(&client->timer.op, client->ends.ours);
	record_submit(&client->receive);
	record_submit(&client->send);
	record_submit(&client->poll);
	record_submit(&client->timer);
	if (what % 3 == 0)
		peer_write(client->ends.peer, "12345678", 8);
	if (what % 5 == 0)
		CHECK_SYSTEM(shutdown(client->ends.peer, SHUT_RDWR));
}

TEST(17, "completes last", all_memory_is_freed_there)
{
	enum { CLIENTS = 300 };
	unsigned char *bytes = calloc(1, MIB);
	struct proa_port *port = test_port();

	for (unsigned i = 0; i < CLIENTS; i++) {
		/* TCP and UNIX, blocking or not. */
		start_client(port, &stream_makers[i % 2 + i / 2 % 2 * PLAIN_MAKERS], bytes, i);
		if (i % 10 == 0)
			CHECK(proa_run_once(port, 0) >= 0);
	}
	RUN_UNTIL(port, clients_freed == CLIENTS);
	CHECK_INT(proa_in_flight(port), 0);
	test_close(port);
	free(bytes);
}

TEST(17, "completes last", file_operations)
{
	enum { READS = 20 };
	const size_t length = 4 * MIB;
	unsigned char *bytes = malloc(READS * length);
	struct proa_port *port = test_port();
	struct record reads[READS], record;
	const char *path = test_path("file");
	proa_handle file;

	CHECK(bytes != NULL);
	fill_bytes(bytes, length, 0);
	record_init(&record, port);
	proa_prep_open(&record.op, path, PROA_OPEN_READ | PROA_OPEN_WRITE | PROA_OPEN_CREATE, 0600);
	file = record_run(&record);
	CHECK(file >= 0);
	proa_prep_write(&record.op, file, bytes, length, 0);
	CHECK_INT(record_run(&record), length);
	for (int i = 0; i < READS; i++) {
		record_init(&reads[i], port);
		proa_prep_read(&reads[i].op, file, bytes + (size_t)i * length, length, 0);
		record_submit(&reads[i]);
	}
	CHECK(proa_run_once(port, 0) >= 0);
	proa_prep_close(&record.op, file, 0);
	CHECK_INT(record_run(&record), 0);
	for (int i = 0; i < READS; i++) {
		CHECK_INT(reads[i].finals, 1);
		CHECK(reads[i].order < record.order);
		CHECK(reads[i].last == (int32_t)length || reads[i].last == PROA_ECANCELED);
		if (reads[i].last > 0)
			CHECK_BYTES(bytes + (size_t)i * length, length, 0);
	}
	CHECK(!is_open(file));
	test_close(port);
	free(bytes);
}

/* ---- Rule 17: numbers ---- */

static struct {
	struct ends old, fresh;
	struct record receive, poll;
	unsigned char room[16];
	int reused;
} reuse;

/* In the close's own callback the number is free: it is taken again, and ops
 * started on it, before the port looks at the system again. */
static void reuse_number(struct record *record, const struct proa_completion *c)
{
	struct proa_port *port = record->op.port;

	CHECK_INT(c->result, 0);
	CHECK(!is_open(reuse.old.ours));
	reuse.fresh = pair_ends();
	reuse.reused += reuse.fresh.ours == reuse.old.ours;
	record_init(&reuse.receive, port);
	record_init(&reuse.poll, port);
	proa_prep_recv(&reuse.receive.op, reuse.fresh.ours, reuse.room, sizeof(reuse.room), 0);
	record_submit(&reuse.receive);
	proa_prep_poll_multi(&reuse.poll.op, reuse.fresh.ours, PROA_READABLE);
	record_submit(&reuse.poll);
}

TEST(17, "reused numbers", no_event_of_an_older_life)
{
	enum { ROUNDS = 60 };
	struct proa_port *port = test_port();

	for (int round = 0; round < ROUNDS; round++) {
		struct record ops[3], closing;
		unsigned char room[32];

		reuse.old = round % 3 == 0 ? tcp_ends() : pair_ends();
		for (int i = 0; i < 3; i++)
			record_init(&ops[i], port);
		proa_prep_recv(&ops[0].op, reuse.old.ours, room, 4, PROA_ALL);
		record_submit(&ops[0]);
		proa_prep_poll_multi(&ops[1].op, reuse.old.ours, PROA_READABLE);
		record_submit(&ops[1]);
		proa_prep_recv(&ops[2].op, reuse.old.ours, room + 16, 4, 0);
		record_submit(&ops[2]);
		if (round & 1)
			CHECK(proa_run_once(port, 0) >= 0);
		/* Events are on their way when it closes. */
		peer_write(reuse.old.peer, "old data", 8);
		if (round & 2)
			close(reuse.old.peer);
		record_init(&closing, port);
		closing.then = reuse_number;
		proa_prep_close(&closing.op, reuse.old.ours, 0);
		record_submit(&closing);
		RUN_UNTIL(port, closing.finals == 1);
		if ((round & 2) == 0) {
			/* The old peer may not reach the new life. */
			signal(SIGPIPE, SIG_IGN);
			(void)!write(reuse.old.peer, "old data", 8);
			close(reuse.old.peer);
		}
		run_quiet(port);
		CHECK_INT(reuse.receive.count, 0);
		CHECK_INT(reuse.poll.count, 0);
		peer_write(reuse.fresh.peer, "fresh", 5);
		RUN_UNTIL(port, reuse.receive.finals == 1);
		CHECK_INT(reuse.receive.last, 5);
		CHECK(memcmp(reuse.room, "fresh", 5) == 0);
		close_handle(port, reuse.fresh.ours);
		CHECK_INT(reuse.poll.finals, 1);
		close(reuse.fresh.peer);
	}
	CHECK(reuse.reused > ROUNDS / 2);
	test_close(port);
}

#ifdef _WIN32
NOT_HERE(17, "reused numbers", two_numbers_of_one_socket, "a socket has no dup() on Windows")
#else

/* Two numbers of one socket: the end of one is not the end of the other, nor
 * does anything of it stay behind. */
TEST(17, "reused numbers", two_numbers_of_one_socket)
{
	struct proa_port *port = test_port();

	FOR_STREAMS(maker)
	{
		for (int way = 0; way < 4; way++) {
			struct ends ends = maker->make(false), fresh;
			int twin = CHECK_SYSTEM(fcntl(ends.ours, F_DUPFD_CLOEXEC, 0));
			struct record one, other;
			char room[8];
			int64_t cpu;

			printf("%s, way %d\n", maker->name, way);
			record_init(&one, port);
			record_init(&other, port);
			proa_prep_recv(&one.op, ends.ours, room, 4, 0);
			record_submit(&one);
			run_quiet(port);
			proa_cancel(&one.op);
			RUN_UNTIL(port, one.finals == 1);
			if (way == 0) {
				close_handle(port, ends.ours);
			} else if (way == 1) {
				CHECK_INT(proa_discard(port, ends.ours), 0);
			} else if (way == 2) {
				CHECK_INT(proa_release(port, ends.ours), 0);
				close(ends.ours);
			} else {
				CHECK_INT(proa_detach(port, ends.ours), 0);
				close(ends.ours);
			}
			CHECK(!is_open(ends.ours));
			/* The data that now comes wakes nobody for nothing. */
			peer_write(ends.peer, "abc", 3);
			cpu = test_cpu();
			run_for(port, 60 * PROA_MILLISECOND);
			CHECK(test_cpu() - cpu < 40 * PROA_MILLISECOND * test_factor());
			fresh = pair_ends();
			check_works(port, &fresh);
			proa_prep_recv(&other.op, twin, room, sizeof(room), 0);
			CHECK_INT(record_run(&other), 3);
			close_handle(port, twin);
			close_handle(port, fresh.ours);
			close(fresh.peer);
			close(ends.peer);
		}
	}
	test_close(port);
}

#endif

TEST(17, "bad input", closes_of_nothing)
{
	struct proa_port *port = test_port();
	struct ends ends = pair_ends();
	struct record record;

	record_init(&record, port);
	proa_prep_close(&record.op, PROA_NO_HANDLE, 0);
	CHECK_INT(record_run(&record), PROA_EBADF);
	proa_prep_close(&record.op, 12345, 0);
	CHECK_INT(record_run(&record), PROA_EBADF);
	proa_prep_close(&record.op, INT32_MAX, PROA_FLUSH);
	CHECK_INT(record_run(&record), PROA_EBADF);
	proa_prep_close(&record.op, -12345, 0);
	CHECK_INT(record_run(&record), PROA_EBADF);
	close_handle(port, ends.ours);
	proa_prep_close(&record.op, ends.ours, 0);
	CHECK_INT(record_run(&record), PROA_EBADF);
	close(ends.peer);
	test_close(port);
}

TEST(17, "bad input", ops_on_what_is_not_open)
{
	static const proa_handle bad[] = { PROA_NO_HANDLE, -7, 4321, INT32_MAX };
	struct proa_port *port = test_port();
	struct proa_range range = { 4321, 0, 10 };
	struct proa_address address = { 0 };
	struct ends ends = pair_ends();
	struct proa_pool *pool;
	char room[8] = "";
	struct proa_slice slice = SLICE(room, 8);
	struct proa_message message = { .slices = &slice, .slice_count = 1 };
	struct proa_stat stat;

	CHECK_INT(proa_pool_open(port, NULL, &pool), 0);
	CHECK_INT(proa_address_parse(&address, "127.0.0.1:9"), 0);
	for (int i = 0; i < 4; i++) {
		struct record ops[19];

		for (int j = 0; j < 19; j++)
			record_init(&ops[j], port);
		proa_prep_recv(&ops[0].op, bad[i], room, 8, 0);
		proa_prep_send(&ops[1].op, bad[i], room, 8, 0);
		proa_prep_sendv(&ops[2].op, bad[i], &slice, 1, 0);
		proa_prep_recv_multi(&ops[3].op, bad[i], pool, 0);
		proa_prep_recv_lent(&ops[4].op, bad[i], pool, 0);
		proa_prep_sendto(&ops[5].op, bad[i], room, 8, &address, 0);
		proa_prep_recvfrom(&ops[6].op, bad[i], room, 8, &address, 0);
		proa_prep_sendmsg(&ops[7].op, bad[i], &message, 0);
		proa_prep_recvmsg(&ops[8].op, bad[i], &message, 0);
		proa_prep_shutdown(&ops[9].op, bad[i]);
		proa_prep_connect(&ops[10].op, bad[i], &address, 0);
		proa_prep_poll(&ops[11].op, bad[i], PROA_READABLE);
		proa_prep_poll_multi(&ops[12].op, bad[i], PROA_READABLE);
		proa_prep_read(&ops[13].op, bad[i], room, 8, 0);
		proa_prep_write(&ops[14].op, bad[i], room, 8, 0);
		proa_prep_sync(&ops[15].op, bad[i], 0);
		proa_prep_fstat(&ops[16].op, bad[i], &stat);
		proa_prep_truncate(&ops[17].op, bad[i], 0);
		range.file = bad[i];
		proa_prep_sendfile(&ops[18].op, ends.ours, &range, 0);
		for (int j = 0; j < 19; j++)
			if (record_run(&ops[j]) != PROA_EBADF || ops[j].count != 1)
				test_fail(__FILE__, __LINE__, "op %d on handle %d: %s, %u", j,
					(int)bad[i], proa_error_name(ops[j].last), ops[j].count);
		CHECK(proa_attach(port, bad[i]) == PROA_EBADF);
		CHECK(proa_discard(port, bad[i]) == PROA_EBADF);
	}
	/* The handle that was to send knows nothing of it. */
	check_works(port, &ends);
	close_handle(port, ends.ours);
	close(ends.peer);
	proa_pool_close(pool);
	test_close(port);
}

TEST(17, "bad input", ops_on_the_wrong_kind_of_handle)
{
	struct proa_port *port = test_port();
	struct proa_address address;
	struct ends pipe = pipe_ends(false);
	proa_handle listener, lone;
	struct record record;
	char room[8] = "";

	signal(SIGPIPE, SIG_IGN);
	CHECK_INT(proa_listen(port, "127.0.0.1:0", NULL, &listener), 0);
	CHECK_INT(proa_local_address(listener, &address), 0);
	CHECK_INT(proa_socket(port, &address, PROA_STREAM, &lone), 0);
	record_init(&record, port);
	proa_prep_recv(&record.op, lone, room, 8, 0);
	CHECK_INT(record_run(&record), PROA_ENOTCONN);
	proa_prep_shutdown(&record.op, lone);
	CHECK_INT(record_run(&record), PROA_ENOTCONN);
	proa_prep_shutdown(&record.op, pipe.ours);
	CHECK(record_run(&record) < 0);
	proa_prep_send(&record.op, pipe.ours, room, 8, 0); /* the read end */
	CHECK(record_run(&record) < 0);
	proa_prep_connect(&record.op, pipe.ours, &address, 0);
	CHECK(record_run(&record) < 0);
	proa_prep_recvfrom(&record.op, pipe.ours, room, 8, NULL, 0);
	CHECK(record_run(&record) < 0);
	close_handle(port, pipe.ours);
	close_handle(port, listener);
	close_handle(port, lone);
	close(pipe.peer);
	test_close(port);
}

TEST(17, "bad input", without_a_connection)
{
	struct proa_port *port = test_port();
	struct proa_address address;
	proa_handle listener, lone;
	struct record record;
	char room[8] = "";

	SKIP_ON_WINE("wine lets a receive from a listener wait, and takes EPIPE for ECONNRESET");
	signal(SIGPIPE, SIG_IGN);
	CHECK_INT(proa_listen(port, "127.0.0.1:0", NULL, &listener), 0);
	CHECK_INT(proa_local_address(listener, &address), 0);
	CHECK_INT(proa_socket(port, &address, PROA_STREAM, &lone), 0);
	record_init(&record, port);
	proa_prep_recv(&record.op, listener, room, 8, 0);
	CHECK_INT(record_run(&record), PROA_ENOTCONN);
	proa_prep_send(&record.op, lone, room, 8, 0);
	CHECK(record_run(&record) == PROA_EPIPE || record.last == PROA_ENOTCONN);
	close_handle(port, listener);
	close_handle(port, lone);
	test_close(port);
}

/* ---- Rule 17: flush ---- */

TEST_SLOW(17, "flush", sends_go_out_first)
{
	const size_t length = 2 * MIB;
	unsigned char *bytes = malloc(3 * length);
	struct proa_port *port = test_port();

	CHECK(bytes != NULL);
	fill_bytes(bytes, 3 * length, 0);
	FOR_STREAMS(maker)
	{
		struct ends ends = maker->make(true);
		struct peer_reader reader = {
			.fd = ends.peer, .piece = 40000, .pause = 100 * PROA_MICROSECOND
		};
		struct record sends[3], receive, closing, behind;
		char room[8];

		printf("%s\n", maker->name);
		record_init(&receive, port);
		record_init(&closing, port);
		record_init(&behind, port);
		for (size_t i = 0; i < 3; i++) {
			record_init(&sends[i], port);
			proa_prep_send(&sends[i].op, ends.ours, bytes + i * length, length, 0);
			record_submit(&sends[i]);
		}
		if (maker->duplex) {
			proa_prep_recv(&receive.op, ends.ours, room, 8, 0);
			record_submit(&receive);
		}
		proa_prep_close(&closing.op, ends.ours, PROA_FLUSH);
		record_submit(&closing);
		proa_prep_send(&behind.op, ends.ours, bytes, 10, 0);
		record_submit(&behind);
		run_quiet(port);
		/* The sends alone keep it open. */
		CHECK_INT(closing.finals, 0);
		CHECK_INT(sends[2].finals, 0);
		CHECK_INT(behind.last, PROA_EBADF);
		if (maker->duplex)
			CHECK_INT(receive.last, PROA_ECANCELED);
		peer_reader_start(&reader);
		RUN_UNTIL(port, closing.finals == 1);
		CHECK_INT(closing.last, 0);
		for (int i = 0; i < 3; i++) {
			CHECK_INT(sends[i].finals, 1);
			CHECK_INT(sends[i].last, length);
			CHECK(sends[i].order < closing.order);
		}
		CHECK(!is_open(ends.ours));
		peer_reader_join(&reader);
		CHECK_INT(reader.total, 3 * length);
		CHECK_INT(reader.wrong, UINT64_MAX);
		CHECK_INT(reader.error, 0);
		close(ends.peer);
	}
	test_close(port);
	free(bytes);
}

enum {
	FLUSH_TIMEOUT,
	FLUSH_DEADLINE,
	FLUSH_CANCEL,
	FLUSH_CANCEL_ALL,
	FLUSH_BROKEN,
	FLUSH_SHUT,
	FLUSH_WAYS
};

/* A flush that can't end: something else ends it, and the handle is closed. */
static void end_flush(const struct stream_maker *maker, int way, const unsigned char *bytes)
{
	struct proa_port *port = test_port();
	struct ends ends = maker->make(true);
	struct record sends[2], closing;
	int64_t since = test_clock(), limit = 80 * PROA_MILLISECOND * test_factor();

	for (int i = 0; i < 2; i++) {
		record_init(&sends[i], port);
		proa_prep_send(&sends[i].op, ends.ours, bytes, 8 * MIB, 0);
		record_submit(&sends[i]);
	}
	record_init(&closing, port);
	proa_prep_close(&closing.op, ends.ours, PROA_FLUSH);
	if (way == FLUSH_TIMEOUT)
		proa_op_timeout(&closing.op, limit);
	if (way == FLUSH_DEADLINE)
		proa_op_deadline(&closing.op, since + limit);
	record_submit(&closing);
	run_for(port, 40 * PROA_MILLISECOND);
	/* On a machine that is slow the limit may be behind us already. */
	if (way > FLUSH_DEADLINE || test_clock() - since < limit) {
		CHECK_INT(closing.finals, 0);
		CHECK_INT(sends[0].finals, 0);
	}
	if (way == FLUSH_CANCEL)
		proa_cancel(&closing.op);
	if (way == FLUSH_CANCEL_ALL)
		proa_cancel_all(port);
	if (way == FLUSH_BROKEN)
		close(ends.peer);
	if (way == FLUSH_SHUT)
		proa_port_shut(port);
	RUN_UNTIL(port, closing.finals == 1);
	/* The flush failed, the close did not. */
	CHECK(closing.last == 0 || (closing.last == PROA_ETIMEDOUT && way <= FLUSH_DEADLINE));
	CHECK(way > FLUSH_DEADLINE || test_clock() - since >= limit);
	CHECK(test_clock() - since < 2 * PROA_SECOND * test_factor());
	CHECK(sends[0].last < 0);
	CHECK(sends[0].order < sends[1].order && sends[1].order < closing.order);
	CHECK(proa_op_count(&sends[0].op) > 0 && proa_op_count(&sends[0].op) < 8 * MIB);
	CHECK_INT(sends[1].last, PROA_ECANCELED);
	CHECK_INT(proa_op_count(&sends[1].op), 0);
	CHECK(!is_open(ends.ours));
	if (way != FLUSH_BROKEN)
		close(ends.peer);
	test_close(port);
}

TEST(17, "flush", flush_comes_to_an_end)
{
	unsigned char *bytes = calloc(8, MIB);

	CHECK(bytes != NULL);
	signal(SIGPIPE, SIG_IGN);
	FOR_PLAIN_STREAMS(maker)
	for (int way = 0; way < FLUSH_WAYS; way++) {
		printf("%s, way %d\n", maker->name, way);
		end_flush(maker, way, bytes);
	}
	free(bytes);
}

TEST(17, "flush", flush_timeout_counts_from_progress)
{
	enum { SENDS = 48 };
	const size_t length = 65536;
	unsigned char *bytes = calloc(1, length);
	struct proa_port *port = test_port();
	struct ends ends = pair_ends();
	struct peer_reader reader = {
		.fd = ends.peer, .piece = 65536, .pause = 10 * PROA_MILLISECOND
	};
	struct record sends[SENDS], closing;

	/* The whole takes about half a second, none of the sends near 200 ms. */
	CHECK(bytes != NULL);
	for (int i = 0; i < SENDS; i++) {
		record_init(&sends[i], port);
		proa_prep_send(&sends[i].op, ends.ours, bytes, length, 0);
		record_submit(&sends[i]);
	}
	record_init(&closing, port);
	proa_prep_close(&closing.op, ends.ours, PROA_FLUSH);
	proa_op_timeout(&closing.op, 200 * PROA_MILLISECOND * test_factor());
	record_submit(&closing);
	peer_reader_start(&reader);
	RUN_UNTIL(port, closing.finals == 1);
	for (int i = 0; i < SENDS; i++)
		CHECK_INT(sends[i].last, length);
	CHECK_INT(closing.last, 0);
	peer_reader_join(&reader);
	CHECK_INT(reader.total, SENDS * length);
	close(ends.peer);
	test_close(port);
	free(bytes);
}

/* Datagrams that wait for room go out first, too; cancel and time end that. */
TEST(17, "flush", flush_of_datagrams)
{
	SKIP_WITHOUT_UNIX_SOCKETS();
	struct proa_port *port = test_port();

	for (int way = 0; way < 4; way++) {
		struct ends ends = unix_ends_of(SOCK_DGRAM);
		struct record sends[2], receive, closing;
		char bytes[8];

		while (send(ends.ours, "filled", 6, MSG_DONTWAIT) > 0)
			;
		for (int i = 0; i < 2; i++) {
			record_init(&sends[i], port);
			proa_prep_send(&sends[i].op, ends.ours, "more", 4, 0);
			record_submit(&sends[i]);
		}
		record_init(&receive, port);
		proa_prep_recv(&receive.op, ends.ours, bytes, sizeof(bytes), 0);
		record_submit(&receive);
		run_quiet(port);
		record_init(&closing, port);
		proa_prep_close(&closing.op, ends.ours, PROA_FLUSH);
		if (way == 1)
			proa_op_timeout(&closing.op, 50 * PROA_MILLISECOND);
		record_submit(&closing);
		run_for(port, 20 * PROA_MILLISECOND);
		CHECK_INT(receive.last, PROA_ECANCELED);
		if (way != 1)
			CHECK_INT(sends[0].finals + sends[1].finals + closing.finals, 0);
		if (way == 0)
			while (closing.finals == 0) {
				if (recv(ends.peer, bytes, sizeof(bytes), MSG_DONTWAIT) < 0)
					CHECK_INT(errno, EAGAIN);
				run_for(port, PROA_MILLISECOND);
			}
		else if (way == 2)
			proa_cancel_handle(port, ends.ours);
		else if (way == 3)
			proa_cancel(&closing.op);
		RUN_UNTIL(port, closing.finals == 1);
		CHECK_INT(closing.last, 0);
		for (int i = 0; i < 2; i++) {
			CHECK_INT(sends[i].last, way == 0 ? 4 : PROA_ECANCELED);
			CHECK(sends[i].order < closing.order);
		}
		close(ends.peer);
	}
	test_close(port);
}

TEST(17, "completes last", close_can_not_be_cancelled)
{
	struct proa_port *port = test_port();

	for (int way = 0; way < 5; way++) {
		struct ends ends = pair_ends();
		struct record receive, closing;
		uint64_t ticket;
		char room[8];

		record_init(&receive, port);
		record_init(&closing, port);
		proa_prep_recv(&receive.op, ends.ours, room, 8, 0);
		record_submit(&receive);
		CHECK(proa_run_once(port, 0) >= 0);
		proa_prep_close(&closing.op, ends.ours, 0);
		if (way == 4)
			proa_op_deadline(&closing.op, 1);
		ticket = record_submit(&closing);
		if (way == 0)
			proa_cancel(&closing.op);
		if (way == 1)
			proa_cancel_ticket(port, ticket);
		if (way == 2)
			proa_cancel_handle(port, ends.ours);
		if (way == 3)
			proa_cancel_all(port);
		RUN_UNTIL(port, closing.finals == 1);
		CHECK_INT(closing.last, 0);
		CHECK_INT(receive.last, PROA_ECANCELED);
		CHECK(receive.order < closing.order);
		CHECK(!is_open(ends.ours));
		close(ends.peer);
	}
	test_close(port);
}

static unsigned refused_before, refused_after;
static bool was_closed;

static void count_refused(struct proa_op *op, const struct proa_completion *c)
{
	(void)op;
	CHECK_INT(c->result, PROA_EBADF);
	++*(was_closed ? &refused_after : &refused_before);
}

static void note_closed(struct record *record, const struct proa_completion *c)
{
	(void)record;
	(void)c;
	was_closed = true;
}

/* However many are submitted behind it: no count of theirs begins again at 0. */
TEST(17, "completes last", close_comes_after_65536_others)
{
	enum { MANY = 65536 };
	struct proa_port *port = test_port();
	struct proa_op *ops = calloc(MANY, sizeof *ops);
	struct ends ends = pair_ends();
	struct record closing;

	CHECK(ops != NULL);
	record_init(&closing, port);
	closing.then = note_closed;
	proa_prep_close(&closing.op, ends.ours, 0);
	record_submit(&closing);
	for (int i = 0; i < MANY; i++) {
		proa_op_init(&ops[i], port, NULL);
		proa_prep_send(&ops[i], ends.ours, "x", 1, 0);
		proa_submit(&ops[i], count_refused);
	}
	CHECK_INT(proa_run(port), 0);
	CHECK_INT(closing.last, 0);
	CHECK_INT(refused_before, MANY);
	CHECK_INT(refused_after, 0);
	free(ops);
	close(ends.peer);
	test_close(port);
}

/* A chain would have closed the handle later: now it finds it closed. */
TEST(17, "completes last", close_overtakes_that_of_a_chain)
{
	struct proa_port *port = test_port();

	for (int way = 0; way < 3; way++) {
		struct ends ends = pair_ends();
		struct record timer, linked, last, closing;

		record_init(&timer, port);
		record_init(&linked, port);
		record_init(&last, port);
		record_init(&closing, port);
		proa_prep_timer(&timer.op, way == 0 ? 0 : 20 * PROA_MILLISECOND);
		proa_prep_close(&linked.op, ends.ours, 0);
		proa_prep_timer(&last.op, 0);
		proa_link(&timer.op, &linked.op, recorded);
		if (way == 2)
			proa_link(&linked.op, &last.op, recorded);
		record_submit(&timer);
		proa_prep_close(&closing.op, ends.ours, 0);
		record_submit(&closing);
		CHECK_INT(proa_run(port), 0);
		CHECK_INT(timer.last, 0);
		CHECK_INT(linked.last, PROA_EBADF);
		CHECK_INT(closing.last, 0);
		CHECK(linked.order < closing.order);
		CHECK_INT(last.last, way == 2 ? PROA_ECANCELED : 0);
		CHECK_INT(
			timer.count + linked.count + last.count + closing.count, way == 2 ? 4 : 3);
		CHECK(!is_open(ends.ours));
		close(ends.peer);
	}
	test_close(port);
}

/* A close of nothing that waits in a chain is nobody's, and is not asked to end. */
TEST(17, "bad input", linked_close_of_nothing)
{
	struct proa_port *port = test_port();
	struct record timer, linked;

	for (int way = 0; way < 2; way++) {
		record_init(&timer, port);
		record_init(&linked, port);
		proa_prep_timer(&timer.op, PROA_MILLISECOND);
		proa_prep_close(&linked.op, PROA_NO_HANDLE, 0);
		proa_link(&timer.op, &linked.op, recorded);
		record_submit(&timer);
		if (way == 0)
			proa_cancel(&linked.op);
		else
			proa_cancel_all(port);
		CHECK_INT(proa_run(port), 0);
		CHECK_INT(timer.last, way == 0 ? 0 : PROA_ECANCELED);
		CHECK_INT(linked.last, PROA_EBADF);
		CHECK_INT(timer.count + linked.count, 2);
	}
	test_close(port);
}

TEST(17, "completes last", close_runs_on_a_shut_port)
{
	struct proa_port *port = test_port();
	struct ends ends = tcp_ends();
	struct record receive, closing, late;
	char room[8];

	record_init(&receive, port);
	record_init(&closing, port);
	record_init(&late, port);
	proa_prep_recv(&receive.op, ends.ours, room, 8, 0);
	record_submit(&receive);
	CHECK(proa_run_once(port, 0) >= 0);
	proa_port_shut(port);
	proa_prep_send(&late.op, ends.ours, "x", 1, 0);
	record_submit(&late);
	proa_prep_close(&closing.op, ends.ours, 0);
	record_submit(&closing);
	CHECK_INT(proa_run(port), PROA_ESHUTDOWN);
	CHECK_INT(receive.last, PROA_ECANCELED);
	CHECK_INT(late.last, PROA_ECANCELED);
	CHECK_INT(closing.last, 0);
	CHECK(receive.order < closing.order && late.order < closing.order);
	CHECK(!is_open(ends.ours));
	close(ends.peer);
	test_close(port);
}

/* ---- Rule 17: what is made a handle's own ---- */

/* Polls, timers and signals, too, tell nothing more once the close is submitted: not
 * even what was queued before. */
TEST(17, "final completions alone", nothing_more_behind_a_close)
{
	struct proa_port *port = test_port();
	struct ends ends = tcp_ends();
	struct record poll, interval, close_;
	struct proa_completion c;

	record_init(&poll, port);
	record_init(&interval, port);
	record_init(&close_, port);
	proa_prep_poll_multi(&poll.op, ends.ours, PROA_WRITABLE);
	record_submit(&poll);
	proa_prep_interval(&interval.op, 0, PROA_MILLISECOND);
	proa_op_with(&interval.op, ends.ours);
	record_submit(&interval);
	for (int i = 0; i < 5; i++) { /* more is ready than is taken */
		test_sleep(2 * PROA_MILLISECOND);
		CHECK_INT(proa_wait(port, &c, 1, PROA_SECOND), 1);
		CHECK(c.flags & PROA_MORE);
	}
	proa_prep_close(&close_.op, ends.ours, 0);
	record_submit(&close_);
	do {
		CHECK_INT(proa_wait(port, &c, 1, PROA_SECOND), 1);
		CHECK_INT(c.flags & PROA_MORE, 0);
	} while (c.op != &close_.op);
	CHECK(!proa_op_pending(&poll.op) && !proa_op_pending(&interval.op));
	close(ends.peer);
	test_close(port);
}

TEST(17, "ops of a handle", they_work_as_ever)
{
	struct proa_port *port = test_port();
	struct ends ends = pair_ends();
	struct proa_address address;
	int listener = tcp_listener(5, &address);
	struct record timer, dial, interval;

	CHECK_INT(proa_attach(port, ends.ours), 0);
	record_init(&timer, port);
	record_init(&dial, port);
	record_init(&interval, port);
	proa_prep_timer(&timer.op, 10 * PROA_MILLISECOND);
	proa_op_with(&timer.op, ends.ours);
	record_submit(&timer);
	proa_prep_dial(&dial.op, &address, 0);
	proa_op_with(&dial.op, ends.ours);
	record_submit(&dial);
	proa_prep_interval(&interval.op, 0, 5 * PROA_MILLISECOND);
	proa_op_with(&interval.op, ends.ours);
	record_submit(&interval);
	RUN_UNTIL(port, timer.finals == 1 && dial.finals == 1 && interval.count >= 3);
	CHECK_INT(timer.last, 0);
	CHECK(dial.last >= 0);
	close_handle(port, dial.last);
	CHECK_INT(interval.finals, 0);
	close_handle(port, ends.ours);
	CHECK_INT(interval.finals, 1);
	CHECK_INT(interval.last, PROA_ECANCELED);
	close(listener);
	close(ends.peer);
	test_close(port);
}

static struct {
	struct ends ends;
	struct record dial, timer, closing;
} owned;

static void close_owner(struct record *record, const struct proa_completion *c)
{
	(void)c;
	if (owned.closing.op.port != NULL)
		return;
	record_init(&owned.closing, record->op.port);
	proa_prep_close(&owned.closing.op, owned.ends.ours, 0);
	record_submit(&owned.closing);
}

/* A dial that has won, but whose completion was still to come when its handle
 * closed: nobody hears of the socket, so the library closes it. */
TEST(17, "ops of a handle", won_dial_is_closed)
{
	struct proa_port *port = test_port();
	struct proa_address address;
	int listener = tcp_listener(50, &address), before;

	run_quiet(port);
	before = descriptors_open();
	for (int round = 0; round < 30; round++) {
		struct record timer;

		memset(&owned, 0, sizeof(owned));
		owned.ends = pair_ends();
		CHECK_INT(proa_attach(port, owned.ends.ours), 0);
		record_init(&owned.dial, port);
		record_init(&owned.timer, port);
		record_init(&timer, port);
		owned.dial.then = owned.timer.then = close_owner;
		timer.then = close_owner;
		proa_prep_timer(&timer.op, round % 4 * 20 * PROA_MICROSECOND);
		record_submit(&timer);
		proa_prep_dial(&owned.dial.op, &address, 0);
		proa_op_with(&owned.dial.op, owned.ends.ours);
		record_submit(&owned.dial);
		RUN_UNTIL(port, owned.closing.finals == 1 && timer.finals == 1);
		CHECK_INT(owned.dial.finals, 1);
		CHECK(owned.dial.order < owned.closing.order);
		if (owned.dial.last >= 0)
			close_handle(port, owned.dial.last);
		else
			CHECK_INT(owned.dial.last, PROA_ECANCELED);
		close(owned.ends.peer);
		CHECK_INT(descriptors_open(), before);
	}
	close(listener);
	test_close(port);
}

/* The same with a program that dequeues: the dial's completion is in the port,
 * with another's, when the owner closes. It may come with its socket or
 * without: nobody else may have it. */
TEST(17, "ops of a handle", won_dial_is_closed_unseen)
{
	struct proa_port *port = test_port();
	struct proa_address address;
	int listener = tcp_listener(50, &address), before, peer;
	struct record dial, closing;
	struct proa_completion first;
	struct ends ends, other;
	char byte;

	CHECK_SYSTEM(fcntl(listener, F_SETFL, O_NONBLOCK));
	run_quiet(port);
	before = descriptors_open();
	for (int round = 0; round < 10; round++) {
		struct record receive;

		ends = pair_ends();
		other = pair_ends();
		CHECK_INT(proa_attach(port, ends.ours), 0);
		record_init(&receive, port);
		record_init(&dial, port);
		record_init(&closing, port);
		proa_prep_recv(&receive.op, other.ours, &byte, 1, 0);
		record_submit(&receive);
		proa_prep_dial(&dial.op, &address, 0);
		proa_op_with(&dial.op, ends.ours);
		record_submit(&dial);
		peer_write(other.peer, "x", 1);
		while (proa_wait(port, &first, 1, PROA_SECOND) == 0)
			;
		proa_dispatch(&first);
		proa_prep_close(&closing.op, ends.ours, 0);
		record_submit(&closing);
		RUN_UNTIL(port, closing.finals == 1 && receive.finals == 1);
		CHECK_INT(dial.finals, 1);
		CHECK(dial.order < closing.order);
		if (dial.last >= 0)
			close_handle(port, dial.last);
		else
			CHECK_INT(dial.last, PROA_ECANCELED);
		peer = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		if (peer >= 0) {
			CHECK(read(peer, &byte, 1) <= 0);
			close(peer);
		}
		close_handle(port, other.ours);
		close(other.peer);
		close(ends.peer);
		CHECK_INT(descriptors_open(), before);
	}
	close(listener);
	test_close(port);
}

/* ---- Rule 17: the port's end leaves handles open ---- */

TEST(17, "end of the port", handles_stay_open)
{
	struct proa_port *port = test_port();
	struct ends ends = tcp_ends();
	struct record receive;
	char room[8];

	check_works(port, &ends);
	record_init(&receive, port);
	proa_prep_recv(&receive.op, ends.ours, room, 8, 0);
	record_submit(&receive);
	test_close(port);
	CHECK_INT(receive.finals, 1);
	CHECK_INT(receive.last, PROA_ECANCELED);
	CHECK(is_open(ends.ours));
	/* Untied: another port may have it. */
	port = test_port();
	check_works(port, &ends);
	close_handle(port, ends.ours);
	close(ends.peer);
	test_close(port);
}

/* ---- Rule 18: ties ---- */

TEST(18, "ties", first_op_ties)
{
	struct proa_port *port = test_port(), *other = test_port();

	FOR_STREAMS(maker)
	{
		struct ends ends = maker->make(false);
		struct record mine, theirs;
		char room[8];

		printf("%s\n", maker->name);
		record_init(&mine, port);
		record_init(&theirs, other);
		peer_write(ends.peer, "abcdef", 6);
		proa_prep_recv(&mine.op, ends.ours, room, 3, 0);
		CHECK_INT(record_run(&mine), 3);
		proa_prep_recv(&theirs.op, ends.ours, room, 3, 0);
		CHECK_INT(record_run(&theirs), PROA_EINVAL);
		CHECK(proa_attach(other, ends.ours) < 0);
		/* The close is an op like any other there: nothing happens. */
		proa_prep_close(&theirs.op, ends.ours, 0);
		CHECK_INT(record_run(&theirs), PROA_EINVAL);
		CHECK(is_open(ends.ours));
		CHECK(proa_discard(other, ends.ours) < 0);
		CHECK(is_open(ends.ours));
		proa_prep_recv(&mine.op, ends.ours, room, 8, 0);
		CHECK_INT(record_run(&mine), 3);
		close_handle(port, ends.ours);
		close(ends.peer);
	}
	test_close(other);
	test_close(port);
}

TEST(18, "ties", attach_ties_and_detach_unties)
{
	struct proa_port *port = test_port(), *other = test_port();

	FOR_STREAMS(maker)
	{
		struct ends ends = maker->make(false);
		struct record mine, theirs;
		char room[8];

		printf("%s\n", maker->name);
		record_init(&mine, port);
		record_init(&theirs, other);
		CHECK_INT(proa_attach(port, ends.ours), 0);
		CHECK_INT(proa_attach(port, ends.ours), 0);
		proa_prep_recv(&theirs.op, ends.ours, room, 3, 0);
		CHECK_INT(record_run(&theirs), PROA_EINVAL);
		proa_prep_recv(&mine.op, ends.ours, room, 3, 0);
		record_submit(&mine);
		CHECK(proa_run_once(port, 0) >= 0);
		CHECK_INT(proa_detach(port, ends.ours), PROA_EBUSY);
		CHECK_INT(proa_discard(port, ends.ours), PROA_EBUSY);
		peer_write(ends.peer, "abc", 3);
		RUN_UNTIL(port, mine.finals == 1);
		CHECK_INT(mine.last, 3);
		for (int i = 0; i < 3; i++) {
			CHECK_INT(proa_detach(port, ends.ours), 0);
			CHECK_INT(proa_attach(other, ends.ours), 0);
			check_works(other, &ends);
			CHECK_INT(proa_detach(other, ends.ours), 0);
			/* Without an attach: the first op does. */
			check_works(port, &ends);
		}
		/* The port that it left hears nothing of it any more. */
		CHECK_INT(proa_detach(port, ends.ours), 0);
		peer_write(ends.peer, "abc", 3);
		run_quiet(port);
		close_handle(other, ends.ours);
		CHECK(!is_open(ends.ours));
		close(ends.peer);
	}
	test_close(other);
	test_close(port);
}

/* A file is always ready, on every engine, however often one asks. */
TEST(18, "ties", polls_of_files)
{
	struct proa_port *port = test_port();
	int file = CHECK_SYSTEM(open(test_path("file"), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
	struct record poll;

#ifdef _WIN32
	if (strcmp(test_engine(), "iocp") != 0) {
		close(file);
		test_close(port);
		SKIP("WSAPoll() and select() know sockets alone");
	}
#endif
	record_init(&poll, port);
	proa_prep_poll(&poll.op, file, PROA_READABLE | PROA_WRITABLE);
	CHECK_INT(record_run(&poll), PROA_READABLE | PROA_WRITABLE);
	proa_prep_poll_multi(&poll.op, file, PROA_READABLE);
	record_submit(&poll);
	RUN_UNTIL(port, poll.count >= 3);
	CHECK_INT(poll.last, PROA_READABLE);
	CHECK_INT(poll.finals, 0);
	proa_cancel(&poll.op);
	RUN_UNTIL(port, poll.finals == 1);
	CHECK_INT(poll.last, PROA_ECANCELED);
	close(file);
	test_close(port);
}

/* PROA_HANGUP need not be asked for, and may be all that is. */
TEST(18, "ties", polls_for_the_end_alone)
{
	struct proa_port *port = test_port();

	for (int multi = 0; multi < 2; multi++) {
		struct ends ends = tcp_ends();
		struct record poll;
		int64_t used = test_cpu();

		record_init(&poll, port);
		if (multi)
			proa_prep_poll_multi(&poll.op, ends.ours, PROA_HANGUP);
		else
			proa_prep_poll(&poll.op, ends.ours, PROA_HANGUP);
		record_submit(&poll);
		peer_write(ends.peer, "there is data", 13);
		run_for(port, 100 * PROA_MILLISECOND);
		CHECK_INT(poll.count, 0);
		CHECK(test_cpu() - used < 60 * PROA_MILLISECOND * test_factor());
		close(ends.peer);
		run_quiet(port);
		CHECK_INT(poll.count, 0); /* one direction is left */
#ifdef _WIN32
		test_skip("that both directions have ended no poll tells here: failures alone");
#endif
		CHECK_SYSTEM(shutdown(ends.ours, SHUT_WR));
		RUN_UNTIL(port, poll.count > 0);
		CHECK_INT(poll.results[0], PROA_HANGUP);
		proa_cancel(&poll.op);
		RUN_UNTIL(port, poll.finals == 1);
		close_handle(port, ends.ours);
	}
	test_close(port);
}

TEST(18, "ties", polls_tie_nothing)
{
	struct proa_port *port = test_port(), *other = test_port();

	FOR_POLLED_STREAMS(maker)
	{
		struct ends ends = maker->make(false);
		struct record mine, theirs, receive;
		char room[8];

		printf("%s\n", maker->name);
		record_init(&mine, port);
		record_init(&theirs, other);
		record_init(&receive, other);
		proa_prep_poll(&mine.op, ends.ours, PROA_READABLE);
		record_submit(&mine);
		run_quiet(port);
		proa_prep_recv(&receive.op, ends.ours, room, 3, 0);
		record_submit(&receive);
		proa_prep_poll(&theirs.op, ends.ours, PROA_READABLE);
		record_submit(&theirs);
		CHECK(proa_run_once(other, 0) >= 0);
		/* More than the receive takes, so that the polls see some. */
		peer_write(ends.peer, "abcdef", 6);
		RUN_UNTIL(port, mine.finals == 1);
		CHECK(mine.last > 0 && (mine.last & PROA_READABLE) != 0);
		RUN_UNTIL(other, receive.finals == 1 && theirs.finals == 1);
		CHECK_INT(receive.last, 3);
		/* A tied handle can be polled from elsewhere, too. */
		peer_write(ends.peer, "abc", 3);
		proa_prep_poll(&mine.op, ends.ours, PROA_READABLE);
		CHECK((record_run(&mine) & PROA_READABLE) != 0);
		proa_prep_recv(&receive.op, ends.ours, room, 8, 0);
		CHECK_INT(record_run(&receive), 6);
		close_handle(other, ends.ours);
		close(ends.peer);
	}
	test_close(other);
	test_close(port);
}

TEST(18, "discard", closes_what_is_idle)
{
	struct proa_port *port = test_port();

	FOR_STREAMS(maker)
	{
		for (int used = 0; used < 3; used++) {
			struct ends ends = maker->make(false);
			struct record poll;

			if (used == 1)
				check_works(port, &ends);
			if (used == 2 && CAN_POLL(maker)) {
				record_init(&poll, port);
				proa_prep_poll(&poll.op, ends.ours, PROA_READABLE);
				record_submit(&poll);
				CHECK(proa_run_once(port, 0) >= 0);
				CHECK_INT(proa_discard(port, ends.ours), PROA_EBUSY);
				proa_cancel(&poll.op);
				RUN_UNTIL(port, poll.finals == 1);
			}
			CHECK_INT(proa_discard(port, ends.ours), 0);
			CHECK(!is_open(ends.ours));
			CHECK_INT(proa_discard(port, ends.ours), PROA_EBADF);
			close(ends.peer);
		}
	}
	test_close(port);
}

/* It is misuse to close a descriptor behind the library's back with an op in flight; an
 * engine that is told of it tells the op, and with none does it harm others. */
TEST(18, "closed behind the library's back", others_go_on)
{
	struct proa_port *port = test_port();
	struct ends ends = pair_ends(), others = pair_ends();
	struct record lost, receive;
	char bytes[2];

	record_init(&lost, port);
	record_init(&receive, port);
	proa_prep_recv(&lost.op, ends.ours, &bytes[0], 1, 0);
	record_submit(&lost);
	run_quiet(port);
	close(ends.ours);
	for (int i = 0; i < 3; i++) {
		proa_prep_recv(&receive.op, others.ours, &bytes[1], 1, 0);
		record_submit(&receive);
		run_for(port, PROA_MILLISECOND);
		peer_write(others.peer, "x", 1);
		RUN_UNTIL(port, receive.finals == 1);
		CHECK_INT(receive.last, 1);
		record_init(&receive, port);
	}
	proa_cancel(&lost.op);
	RUN_UNTIL(port, lost.finals == 1);
	CHECK(lost.last < 0);
	CHECK_INT(lost.count, 1);
	close(ends.peer);
	close_handle(port, others.ours);
	close(others.peer);
	test_close(port);
}

/* ---- Rule 18: release ---- */

/* A connected pair of which our end has this number, which is free; or, where numbers
 * can't be chosen and it does not come again, another. */
#ifdef _WIN32
static struct ends pair_ends_at(int number)
{
	enum { TRIES = 20 };
	struct ends made[TRIES], found = { -1, -1 };
	int count = 0;

	/* Free ones are used again, mostly. */
	while (count < TRIES && found.ours == -1) {
		made[count] = pair_ends();
		if (made[count].ours == number)
			found = made[count];
		else if (made[count].peer == number)
			found = (struct ends) { number, (int)made[count].ours };
		else
			count++;
	}
	while (count-- > 0) {
		close(made[count].ours);
		close(made[count].peer);
	}
	if (found.ours != -1)
		return found;
	printf("the system has not given %d again: another number\n", number);
	return pair_ends();
}
#else
static struct ends pair_ends_at(int number)
{
	struct ends ends = pair_ends(), swapped = { ends.peer, ends.ours };

	if (ends.peer == number)
		return swapped;
	if (ends.ours != number) {
		CHECK_INT(dup3(ends.ours, number, O_CLOEXEC), number);
		close(ends.ours);
		ends.ours = number;
	}
	return ends;
}
#endif

TEST(18, "release", kernel_holds_nothing_afterwards)
{
	unsigned char *bytes = calloc(8, MIB);
	struct proa_port *port = test_port();

	CHECK(bytes != NULL);
	FOR_STREAMS(maker)
	{
		for (int turns = 0; turns < 2; turns++) {
			struct ends ends = maker->make(true), fresh;
			struct record ops[4];
			char room[8] = "-------";

			printf("%s\n", maker->name);
			for (int i = 0; i < 4; i++)
				record_init(&ops[i], port);
			proa_prep_recv(&ops[0].op, ends.ours, room, 8, 0);
			if (maker->duplex)
				record_submit(&ops[0]);
			proa_prep_send(&ops[1].op, ends.ours, bytes, 8 * MIB, 0);
			record_submit(&ops[1]);
			proa_prep_send(&ops[2].op, ends.ours, bytes, 10, 0);
			record_submit(&ops[2]);
			proa_prep_poll(&ops[3].op, ends.ours, PROA_READABLE);
			if (maker->duplex)
				record_submit(&ops[3]);
			if (turns == 1)
				run_quiet(port);
			CHECK_INT(proa_release(port, ends.ours), 0);
			close(ends.ours);
			/* Nobody else holds it: the peer sees the end at once. */
			if (!maker->socket) {
				CHECK(peer_drain(ends.peer, bytes, 8 * MIB) != 0);
				CHECK_INT(peer_drain(ends.peer, bytes, 8 * MIB), -1);
			}
			fresh = pair_ends_at(ends.ours);
			check_works(port, &fresh);
			for (int i = 0; i < 4; i++) {
				if ((i == 0 || i == 3) && !maker->duplex)
					continue;
				RUN_UNTIL(port, ops[i].finals == 1);
				CHECK_INT(ops[i].last, PROA_ECANCELED);
			}
			CHECK(memcmp(room, "-------", 8) == 0);
			close_handle(port, fresh.ours);
			close(fresh.peer);
			close(ends.peer);
		}
	}
	test_close(port);
	free(bytes);
}

TEST(18, "release", idle_handles_and_what_had_come)
{
	struct proa_port *port = test_port();
	struct ends ends = pair_ends();
	struct record record;
	char room[8];

	check_works(port, &ends);
	CHECK_INT(proa_release(port, ends.ours), 0);
	check_works(port, &ends);
	record_init(&record, port);
	proa_prep_recv(&record.op, ends.ours, room, 8, 0);
	record_submit(&record);
	CHECK(proa_run_once(port, 0) >= 0);
	peer_write(ends.peer, "abc", 3);
	CHECK_INT(proa_release(port, ends.ours), 0);
	RUN_UNTIL(port, record.finals == 1);
	/* What the receive took it reports, else it is still there. */
	if (record.last == PROA_ECANCELED)
		CHECK_INT(read(ends.ours, room, 8), 3);
	else
		CHECK_INT(record.last, 3);
	CHECK(memcmp(room, "abc", 3) == 0);
	close(ends.ours);
	close(ends.peer);
	test_close(port);
}

/* Completions that others wait behind, which are ready and not handed over. */
static void post_some(struct proa_port *port, struct proa_op *posts, unsigned count)
{
	struct proa_completion c;

	for (unsigned i = 0; i < count; i++) {
		proa_op_init(&posts[i], port, NULL);
		proa_post(port, &posts[i], 0, NULL);
	}
	CHECK_INT(proa_wait(port, &c, 1, PROA_SECOND), 1);
	CHECK(c.op == &posts[0]);
}

/* What was received before is handed over, whatever the next of its number does. */
TEST(18, "release", what_was_lent_is_the_released_ones)
{
	struct proa_port *port = test_port();
	struct proa_pool_options options = { .buffer_size = 4, .count = 4, .limit = 4 };
	struct proa_op posts[60];
	struct ends old = pair_ends(), fresh;
	struct proa_pool_stats stats;
	struct proa_completion c;
	struct proa_pool *pool;
	struct record recv;

	CHECK_INT(proa_pool_open(port, &options, &pool), 0);
	record_init(&recv, port);
	peer_write(old.peer, "abcd", 4);
	post_some(port, posts, 60);
	proa_prep_recv_lent(&recv.op, old.ours, pool, 0);
	record_submit(&recv);
	do {
		CHECK_INT(proa_wait(port, &c, 1, PROA_SECOND), 1);
		CHECK(c.op != &recv.op);
		test_sleep(PROA_MILLISECOND);
		proa_pool_stats(pool, &stats);
	} while (stats.lent == 0);
	CHECK_INT(proa_release(port, old.ours), 0);
	close(old.ours);
	fresh = pair_ends_at(old.ours);
	close_handle(port, fresh.ours);
	RUN_UNTIL(port, recv.finals == 1);
	CHECK_INT(recv.last, 4);
	CHECK(recv.lent[0] != NULL);
	CHECK(memcmp(lent_of(&recv, 0)->data, "abcd", 4) == 0);
	proa_give_back(recv.lent[0]);
	close(fresh.peer);
	close(old.peer);
	proa_pool_close(pool);
	test_close(port);
}

/* To learn that a send to the released one failed mends nothing on the next. */
TEST(18, "release", failed_sends_are_the_released_ones)
{
	struct proa_port *port = test_port();
	struct proa_op posts[60];
	struct ends old = pair_ends(), fresh;
	struct proa_completion c;
	struct record sends[3];

	for (int i = 0; i < 3; i++)
		record_init(&sends[i], port);
	post_some(port, posts, 60);
	for (int i = 0; i < 2; i++) {
		CHECK_SYSTEM(shutdown(i == 0 ? old.ours : fresh.ours, SHUT_WR));
		proa_prep_send(&sends[i].op, i == 0 ? old.ours : fresh.ours, "x", 1, 0);
		record_submit(&sends[i]);
		for (int turns = 0; turns < 10; turns++) {
			CHECK_INT(proa_wait(port, &c, 1, PROA_SECOND), 1);
			CHECK(c.op != &sends[0].op);
			test_sleep(PROA_MILLISECOND);
		}
		if (i > 0)
			break;
		CHECK_INT(proa_release(port, old.ours), 0);
		close(old.ours);
		fresh = pair_ends_at(old.ours);
	}
	do
		CHECK_INT(proa_wait(port, &c, 1, PROA_SECOND), 1);
	while (c.op != &sends[0].op);
	CHECK(c.result < 0);
	/* The program has not been told of the second: the stream is torn. */
	proa_prep_send(&sends[2].op, fresh.ours, "y", 1, 0);
	record_submit(&sends[2]);
	RUN_UNTIL(port, sends[1].finals + sends[2].finals == 2);
	CHECK(sends[1].last < 0 && sends[1].last != PROA_ECANCELED);
	CHECK_INT(sends[2].last, PROA_ECANCELED);
	close_handle(port, fresh.ours);
	close(fresh.peer);
	close(old.peer);
	test_close(port);
}

/* A close can't be cancelled: a handle that a chain is to close is not to be had. */
TEST(18, "release", handle_that_a_chain_closes)
{
	struct proa_port *port = test_port();
	struct ends ends = pair_ends();
	struct record timer, close_;

	record_init(&timer, port);
	record_init(&close_, port);
	proa_prep_timer(&timer.op, 50 * PROA_MILLISECOND);
	proa_prep_close(&close_.op, ends.ours, 0);
	proa_link(&timer.op, &close_.op, recorded);
	record_submit(&timer);
	CHECK_INT(proa_release(port, ends.ours), PROA_EBUSY);
	RUN_UNTIL(port, close_.finals == 1);
	CHECK_INT(timer.last, 0);
	CHECK_INT(close_.last, 0);
	close(ends.peer);
	test_close(port);
}

/* ---- Rule 18: flags of shared descriptors; blocking ones ---- */

TEST(18, "flags", inherited_flags_stay)
{
	struct proa_port *port = test_port();

	FOR_STREAMS(maker)
	{
		struct ends in = maker->make(false), out = maker->make(true);
		int twins[2] = { dup(in.ours), dup(out.ours) };
		int before[2] = { fcntl(in.ours, F_GETFL), fcntl(out.ours, F_GETFL) };
		struct record record;

		printf("%s\n", maker->name);
		CHECK_INT((before[0] & O_NONBLOCK) == 0, maker->blocking);
		CHECK_INT(proa_attach(port, in.ours), 0);
		CHECK_INT(fcntl(twins[0], F_GETFL), before[0]);
		check_works(port, &in);
		record_init(&record, port);
		proa_prep_send(&record.op, out.ours, "abc", 3, 0);
		CHECK_INT(record_run(&record), 3);
		CHECK_INT(fcntl(twins[0], F_GETFL), before[0]);
		CHECK_INT(fcntl(twins[1], F_GETFL), before[1]);
		CHECK_INT(proa_detach(port, in.ours), 0);
		CHECK_INT(fcntl(twins[0], F_GETFL), before[0]);
		close_handle(port, out.ours);
		CHECK_INT(fcntl(twins[1], F_GETFL), before[1]);
		close(in.ours);
		close(twins[0]);
		close(twins[1]);
		close(in.peer);
		close(out.peer);
	}
	test_close(port);
}

/* While ops wait on a blocking descriptor a 1 ms timer must go on ticking. */
static void check_ticking(struct proa_port *port, struct record *tick)
{
	unsigned count = tick->count;
	int64_t since = test_clock();

	RUN_UNTIL_WITHIN(port, tick->count >= count + 20, 5 * PROA_SECOND);
	CHECK(test_clock() - since < 2 * PROA_SECOND * test_factor());
}

static void start_ticking(struct record *tick, struct proa_port *port)
{
	record_init(tick, port);
	proa_prep_interval(&tick->op, 0, PROA_MILLISECOND);
	record_submit(tick);
}

TEST(18, "blocking descriptors", never_block_the_port)
{
	const size_t length = STUFFING;
	unsigned char *bytes = malloc(length), *got = malloc(length);
	struct proa_port *port = test_port();
	struct record tick;

	CHECK(bytes != NULL && got != NULL);
	fill_bytes(bytes, length, 0);
	start_ticking(&tick, port);
	FOR_STREAMS(maker)
	{
		struct ends in = maker->make(false), out = maker->make(true);
		struct peer_reader reader = { .fd = out.peer };
		struct record receive, send, multi;
		struct proa_pool *pool;
		char room[100];

		if (!maker->blocking) {
			close(in.ours);
			close(in.peer);
			close(out.ours);
			close(out.peer);
			continue;
		}
		printf("%s\n", maker->name);
		CHECK_INT(proa_pool_open(port, NULL, &pool), 0);
		record_init(&receive, port);
		record_init(&send, port);
		record_init(&multi, port);
		proa_prep_recv(&receive.op, in.ours, room, sizeof(room), PROA_ALL);
		record_submit(&receive);
		proa_prep_send(&send.op, out.ours, bytes, length, 0);
		record_submit(&send);
		check_ticking(port, &tick);
		CHECK_INT(receive.finals + send.finals, 0);
		/* Less than it wants: it may not sit down in a read for more. */
		peer_write(in.peer, bytes, 30);
		check_ticking(port, &tick);
		CHECK_INT(receive.finals, 0);
		peer_write(in.peer, bytes + 30, 70);
		RUN_UNTIL(port, receive.finals == 1);
		CHECK_INT(receive.last, 100);
		CHECK_BYTES(room, 100, 0);
		proa_prep_recv_multi(&multi.op, in.ours, pool, 0);
		record_submit(&multi);
		check_ticking(port, &tick);
		peer_write(in.peer, "abc", 3);
		RUN_UNTIL(port, multi.count == 1);
		check_ticking(port, &tick);
		/* A page of room is not room for all of it. */
		peer_read(out.peer, got, 5000);
		CHECK_BYTES(got, 5000, 0);
		check_ticking(port, &tick);
		CHECK_INT(send.finals, 0);
		reader.from = 5000;
		peer_reader_start(&reader);
		RUN_UNTIL(port, send.finals == 1);
		CHECK_INT(send.last, length);
		proa_give_back(multi.lent[0]);
		close_handle(port, out.ours);
		close_handle(port, in.ours);
		peer_reader_join(&reader);
		CHECK_INT(reader.total, length - 5000);
		CHECK_INT(reader.wrong, UINT64_MAX);
		close(in.peer);
		close(out.peer);
		proa_pool_close(pool);
	}
	test_close(port);
	free(bytes);
	free(got);
}

/* Cancel and close of what waits on a blocking descriptor take no longer. */
TEST(18, "blocking descriptors", waits_on_them_end)
{
	unsigned char *bytes = calloc(1, STUFFING);
	struct proa_port *port = test_port();

	CHECK(bytes != NULL);
	FOR_STREAMS(maker)
	{
		struct ends in = maker->make(false), out = maker->make(true);
		struct record receive, send;
		int64_t since;
		char room[8];

		record_init(&receive, port);
		record_init(&send, port);
		proa_prep_recv(&receive.op, in.ours, room, sizeof(room), 0);
		record_submit(&receive);
		proa_prep_send(&send.op, out.ours, bytes, STUFFING, 0);
		record_submit(&send);
		run_quiet(port);
		since = test_clock();
		proa_cancel(&receive.op);
		proa_cancel(&send.op);
		RUN_UNTIL(port, receive.finals == 1 && send.finals == 1);
		CHECK_INT(receive.last, PROA_ECANCELED);
		CHECK_INT(send.last, PROA_ECANCELED);
		proa_prep_recv(&receive.op, in.ours, room, sizeof(room), 0);
		record_submit(&receive);
		proa_prep_send(&send.op, out.ours, bytes, STUFFING, 0);
		record_submit(&send);
		CHECK(proa_run_once(port, 0) >= 0);
		close_handle(port, in.ours);
		close_handle(port, out.ours);
		CHECK_INT(receive.last, PROA_ECANCELED);
		CHECK_INT(send.last, PROA_ECANCELED);
		CHECK(test_clock() - since < PROA_SECOND * test_factor());
		close(in.peer);
		close(out.peer);
	}
	test_close(port);
	free(bytes);
}

#ifdef _WIN32
NOT_HERE(18, "blocking descriptors", terminal, "a console of the test's own would need a window")
#else

/* A terminal, blocking as a shell leaves it. */
TEST(18, "blocking descriptors", terminal)
{
	struct proa_port *port = test_port();
	struct record tick, receive, send;
	struct termios raw;
	char room[16];
	int master = posix_openpt(O_RDWR | O_NOCTTY), slave;

	if (master < 0 || grantpt(master) < 0 || unlockpt(master) < 0)
		SKIP("no pseudo-terminals here: %s", strerror(errno));
	slave = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (slave < 0)
		SKIP("no pseudo-terminals here: %s", strerror(errno));
	CHECK_SYSTEM(tcgetattr(slave, &raw));
	cfmakeraw(&raw);
	CHECK_SYSTEM(tcsetattr(slave, TCSANOW, &raw));
	start_ticking(&tick, port);
	record_init(&receive, port);
	record_init(&send, port);
	for (int i = 0; i < 2; i++) {
		proa_prep_recv(&receive.op, slave, room, sizeof(room), 0);
		record_submit(&receive);
		check_ticking(port, &tick);
		CHECK_INT(receive.finals, 0);
		peer_write(master, "typed\n", 6);
		RUN_UNTIL(port, receive.finals == 1);
		CHECK_INT(receive.last, 6);
		CHECK(memcmp(room, "typed\n", 6) == 0);
		proa_prep_send(&send.op, slave, "shown", 5, 0);
		CHECK_INT(record_run(&send), 5);
		peer_read(master, room, 5);
		CHECK(memcmp(room, "shown", 5) == 0);
	}
	CHECK_INT(fcntl(slave, F_GETFL) & O_NONBLOCK, 0);
	proa_prep_recv(&receive.op, slave, room, sizeof(room), 0);
	record_submit(&receive);
	check_ticking(port, &tick);
	close_handle(port, slave);
	CHECK_INT(receive.last, PROA_ECANCELED);
	close(master);
	test_close(port);
}

#endif

TEST(18, "made here", pairs_and_pipes)
{
	struct proa_port *port = test_port();
	struct record send, receive;
	proa_handle pair[2], ours, theirs;
	char room[8];

	CHECK_INT(proa_pair(port, pair), 0);
	record_init(&send, port);
	record_init(&receive, port);
	for (int i = 0; i < 2; i++) {
		proa_prep_recv(&receive.op, pair[!i], room, 8, 0);
		record_submit(&receive);
		proa_prep_send(&send.op, pair[i], "abc", 3, 0);
		CHECK_INT(record_run(&send), 3);
		RUN_UNTIL(port, receive.finals == 1);
		CHECK_INT(receive.last, 3);
	}
	close_handle(port, pair[0]);
	proa_prep_recv(&receive.op, pair[1], room, 8, 0);
	CHECK_INT(record_run(&receive), 0);
	close_handle(port, pair[1]);
	/* The child's end is plain and inheritable, ours is not. */
	CHECK_INT(proa_pipe(port, 1, &ours, &theirs), 0);
	CHECK_INT(fcntl(theirs, F_GETFL) & O_NONBLOCK, 0);
	CHECK_INT(fcntl(theirs, F_GETFD) & FD_CLOEXEC, 0);
	CHECK_INT(fcntl(ours, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	peer_write(theirs, "abc", 3);
	proa_prep_recv(&receive.op, ours, room, 8, 0);
	CHECK_INT(record_run(&receive), 3);
	close(theirs);
	proa_prep_recv(&receive.op, ours, room, 8, 0);
	CHECK_INT(record_run(&receive), 0);
	close_handle(port, ours);
	CHECK_INT(proa_pipe(port, 0, &ours, &theirs), 0);
	proa_prep_send(&send.op, ours, "defg", 4, 0);
	CHECK_INT(record_run(&send), 4);
	peer_read(theirs, room, 4);
	close_handle(port, ours);
	CHECK_INT(read(theirs, room, 1), 0);
	close(theirs);
	test_close(port);
}

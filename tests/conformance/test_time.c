/* Rules 15 and 20: limits in time on any op, and timers. A test here allows a
 * slow machine to be late by as much as it likes, and never to be early. */
#include "harness.h"
#include "posix.h"

#define MS    PROA_MILLISECOND
#define NEVER (1000 * PROA_SECOND)

static int64_t scaled(int64_t ns)
{
	return ns * test_factor();
}

/* ---- Rule 15: no progress ---- */

static void expect_time_out(
	struct proa_port *port, struct record *record, int64_t start, int64_t ns)
{
	RUN_UNTIL(port, record->finals == 1);
	CHECK_INT(record->last, PROA_ETIMEDOUT);
	CHECK(test_clock() - start >= ns);
}

TEST(15, "timeout", timeout_is_never_early)
{
	struct proa_port *port = test_port();
	struct ends ends = pair_ends();
	struct record records[20];
	int64_t start[20];
	char byte;

	for (int i = 0; i < 20; i++) {
		record_init(&records[i], port);
		proa_prep_poll(&records[i].op, ends.ours, PROA_READABLE);
		proa_op_timeout(&records[i].op, (20 - i) * 3 * MS);
		start[i] = test_clock();
		record_submit(&records[i]);
	}
	for (int i = 19; i >= 0; i--)
		expect_time_out(port, &records[i], start[i], (20 - i) * 3 * MS);
	/* A prep forgets it. */
	proa_prep_recv(&records[0].op, ends.ours, &byte, 1, 0);
	record_submit(&records[0]);
	run_for(port, 80 * MS);
	CHECK_INT(records[0].count, 0);
	peer_write(ends.peer, "x", 1);
	RUN_UNTIL(port, records[0].finals == 1);
	CHECK_INT(records[0].last, 1);
	close(ends.peer);
	close_handle(port, ends.ours);
	test_close(port);
}

/* An engine that looks again now and then makes no progress by it. */
TEST(15, "timeout", poll_of_a_stuck_stream_times_out)
{
	struct proa_port *port = test_port();

	for (int multi = 0; multi < 2; multi++) {
		struct ends ends = pair_ends();
		struct record fill, record;
		static char bytes[8 << 20];

		record_init(&fill, port);
		record_init(&record, port);
		proa_prep_send(&fill.op, ends.ours, bytes, sizeof(bytes), 0);
		record_submit(&fill);
		CHECK_SYSTEM(shutdown(ends.peer, SHUT_WR));
		run_quiet(port);
		CHECK_INT(fill.finals, 0);
		if (multi)
			proa_prep_poll_multi(&record.op, ends.ours, PROA_WRITABLE);
		else
			proa_prep_poll(&record.op, ends.ours, PROA_WRITABLE);
		proa_op_timeout(&record.op, 50 * MS);
		record_submit(&record);
		expect_time_out(port, &record, test_clock(), 0);
		CHECK_INT(proa_op_count(&record.op), 0);
		close_handle(port, ends.ours);
		CHECK_INT(fill.finals, 1);
		close(ends.peer);
	}
	test_close(port);
}

TEST(15, "zero and what lies in the past", limits_that_have_passed_already)
{
	struct proa_port *port = test_port();
	struct ends ends = pair_ends();
	struct record record;
	char byte;

	record_init(&record, port);
	for (int way = 0; way < 5; way++) {
		proa_prep_recv(&record.op, ends.ours, &byte, 1, 0);
		if (way < 2)
			proa_op_timeout(&record.op, way == 0 ? 0 : -5 * PROA_SECOND);
		else if (way < 4)
			proa_op_deadline(&record.op, way == 2 ? test_clock() - PROA_SECOND : 0);
		else
			proa_op_deadline(&record.op, INT64_MIN);
		CHECK_INT(record_run(&record), PROA_ETIMEDOUT);
	}
	/* The far future is no overflow. */
	for (int way = 0; way < 4; way++) {
		proa_prep_recv(&record.op, ends.ours, &byte, 1, 0);
		if (way < 2)
			proa_op_timeout(&record.op, PROA_FOREVER - way);
		else
			proa_op_deadline(&record.op, PROA_FOREVER - (way - 2));
		record_submit(&record);
		run_for(port, 5 * MS);
		CHECK_INT(record.count, 0);
		peer_write(ends.peer, "x", 1);
		RUN_UNTIL(port, record.finals == 1);
		CHECK_INT(record.last, 1);
	}
	close(ends.peer);
	close_handle(port, ends.ours);
	test_close(port);
}

/* Writes `count` bytes of the pattern, one each 20 ms. */
static void trickle(struct proa_port *port, int fd, unsigned count)
{
	unsigned char byte;

	for (unsigned i = 0; i < count; i++) {
		fill_bytes(&byte, 1, i);
		peer_write(fd, &byte, 1);
		run_for(port, 20 * MS);
	}
}

TEST(15, "progress restarts it", progress_restarts_a_receive)
{
	struct proa_port *port = test_port();
	struct ends ends = tcp_ends();
	struct record record;
	unsigned char bytes[64];
	int64_t limit = scaled(800 * MS), start;

	record_init(&record, port);
	proa_prep_recv(&record.op, ends.ours, bytes, 50, PROA_ALL);
	proa_op_timeout(&record.op, limit);
	record_submit(&record);
	trickle(port, ends.peer, 49);
	CHECK_INT(record.count, 0);
	peer_write(ends.peer, "x", 1);
	RUN_UNTIL(port, record.finals == 1);
	CHECK_INT(record.last, 50);
	CHECK_BYTES(bytes, 49, 0);
	/* Then it stops: the bytes taken are the caller's. */
	proa_prep_recv(&record.op, ends.ours, bytes, 30, PROA_ALL);
	proa_op_timeout(&record.op, limit);
	start = test_clock();
	record_submit(&record);
	trickle(port, ends.peer, 5);
	RUN_UNTIL(port, record.finals == 1);
	CHECK_INT(record.last, PROA_ETIMEDOUT);
	CHECK(test_clock() - start >= 4 * 20 * MS + limit);
	CHECK_INT(proa_op_count(&record.op), 5);
	CHECK_BYTES(bytes, 5, 0);
	close(ends.peer);
	close_handle(port, ends.ours);
	test_close(port);
}

static void give_back_each(struct record *record, const struct proa_completion *c)
{
	struct proa_buffer *buffer = proa_lent(c);

	if (buffer != NULL) {
		CHECK_BYTES(buffer->data, buffer->length, record->number);
		record->number += buffer->length;
		proa_give_back(buffer);
	}
}

TEST(15, "progress restarts it", progress_restarts_a_multishot_receive)
{
	struct proa_port *port = test_port();
	struct ends ends = tcp_ends();
	struct proa_pool *pool;
	struct record record;
	int64_t limit = scaled(800 * MS), start = test_clock();

	CHECK_INT(proa_pool_open(port, NULL, &pool), 0);
	record_init(&record, port);
	record.then = give_back_each;
	proa_prep_recv_multi(&record.op, ends.ours, pool, 0);
	proa_op_timeout(&record.op, limit);
	record_submit(&record);
	trickle(port, ends.peer, 50);
	CHECK_INT(record.finals, 0);
	CHECK_INT(record.number, 50);
	/* 49 pauses went before the last byte. */
	expect_time_out(port, &record, start, 49 * 20 * MS + limit);
	close(ends.peer);
	close_handle(port, ends.ours);
	proa_pool_close(pool);
	test_close(port);
}

TEST(15, "progress restarts it", progress_restarts_a_send)
{
	enum { TOTAL = 2 << 20 };
	struct proa_port *port = test_port();
	struct ends ends = pair_ends();
	struct peer_reader reader = { .fd = ends.peer, .piece = 64 << 10, .pause = 50 * MS };
	unsigned char *bytes = malloc(TOTAL);
	struct record record;

	CHECK(bytes != NULL);
	fill_bytes(bytes, TOTAL, 0);
	record_init(&record, port);
	proa_prep_send(&record.op, ends.ours, bytes, TOTAL, 0);
	proa_op_timeout(&record.op, scaled(1000 * MS));
	peer_reader_start(&reader);
	CHECK_INT(record_run(&record), TOTAL);
	close_handle(port, ends.ours);
	peer_reader_join(&reader);
	CHECK_INT(reader.total, TOTAL);
	CHECK_INT(reader.wrong, UINT64_MAX);
	close(ends.peer);
	free(bytes);
	test_close(port);
}

/* A send that goes out in part together with the one before it has made progress. */
TEST(15, "progress restarts it", progress_restarts_a_send_behind_another)
{
	enum { TOTAL = STUFFING };
	struct proa_port *port = test_port();
	struct ends ends = pair_ends();
	int64_t limit = scaled(1000 * MS);
	struct record first, second;
	struct peer_reader reader = { .fd = ends.peer };
	static char bytes[TOTAL];

	shrink_buffers(&ends);
	while (send(ends.ours, bytes, 4096, MSG_DONTWAIT) > 0)
		;
	record_init(&first, port);
	record_init(&second, port);
	proa_prep_send(&first.op, ends.ours, bytes, 1000, 0);
	record_submit(&first);
	proa_prep_send(&second.op, ends.ours, bytes, TOTAL, 0);
	proa_op_timeout(&second.op, limit);
	record_submit(&second);
	run_for(port, limit / 4);
#ifdef _WIN32
	if (first.finals != 0)
		test_skip("Winsock takes a send for which it has no room");
#endif
	while (first.finals == 0) {
		CHECK(peer_drain(ends.peer, bytes, TOTAL) >= 0);
		run_for(port, MS);
	}
	run_for(port, limit * 8 / 10);
	CHECK_INT(second.finals, 0);
	peer_reader_start(&reader);
	RUN_UNTIL(port, second.finals == 1);
	CHECK_INT(second.last, TOTAL);
	close_handle(port, ends.ours);
	peer_reader_join(&reader);
	close(ends.peer);
	test_close(port);
}

TEST(15, "each completion restarts it", completions_restart_a_multishot_accept)
{
	struct proa_port *port = test_port();
	struct proa_address address;
	proa_handle listener = tcp_listener(16, &address);
	int64_t limit = scaled(600 * MS), start = 0;
	struct record record;
	int callers[8];

	record_init(&record, port);
	proa_prep_accept_multi(&record.op, listener, 0);
	proa_op_timeout(&record.op, limit);
	record_submit(&record);
	for (int i = 0; i < 8; i++) {
		run_for(port, 100 * MS);
		CHECK_INT(record.finals, 0);
		start = test_clock();
		callers[i] = tcp_connect_to(&address);
		RUN_UNTIL(port, record.count == (unsigned)i + 1);
	}
	expect_time_out(port, &record, start, limit);
	for (int i = 0; i < 8; i++) {
		CHECK_INT(proa_discard(port, record.results[i]), 0);
		close(callers[i]);
	}
	close_handle(port, listener);
	test_close(port);
}

static struct proa_buffer *kept;

static void keep_lent(struct record *record, const struct proa_completion *c)
{
	(void)record;
	if (proa_lent(c) != NULL) {
		CHECK(kept == NULL);
		kept = proa_lent(c);
	}
}

TEST(15, "paused while we hold the pool's share", timeout_pauses_at_the_share)
{
	struct proa_pool_options options = { .buffer_size = 64, .count = 4, .per_handle = 1 };
	struct proa_port *port = test_port();
	struct ends ends = pair_ends();
	struct proa_pool *pool;
	struct record record;
	int64_t limit = scaled(150 * MS), start;

	CHECK_INT(proa_pool_open(port, &options, &pool), 0);
	record_init(&record, port);
	record.then = keep_lent;
	proa_prep_recv_multi(&record.op, ends.ours, pool, 0);
	proa_op_timeout(&record.op, limit);
	record_submit(&record);
	peer_write(ends.peer, "abc", 3);
	RUN_UNTIL(port, kept != NULL || record.finals == 1);
	CHECK_INT(record.finals, 0);
	run_for(port, limit + 100 * MS);
	CHECK_INT(record.finals, 0);
	start = test_clock();
	proa_give_back(kept);
	expect_time_out(port, &record, start, limit);
	proa_pool_close(pool);
	close(ends.peer);
	close_handle(port, ends.ours);
	test_close(port);
}

/* ---- Rule 15: deadlines, both, and changes in flight ---- */

TEST(15, "deadline: progress or not", progress_does_not_move_a_deadline)
{
	struct proa_port *port = test_port();
	struct ends ends = tcp_ends();
	struct record record;
	unsigned char bytes[256];
	int64_t when = test_clock() + 200 * MS;
	unsigned char byte;
	unsigned sent = 0;

	record_init(&record, port);
	proa_prep_recv(&record.op, ends.ours, bytes, sizeof(bytes), PROA_ALL);
	proa_op_deadline(&record.op, when);
	record_submit(&record);
	for (; record.finals == 0 && sent < sizeof(bytes) - 1; sent++) {
		fill_bytes(&byte, 1, sent);
		peer_write(ends.peer, &byte, 1);
		run_for(port, 10 * MS);
	}
	RUN_UNTIL(port, record.finals == 1);
	CHECK_INT(record.last, PROA_ETIMEDOUT);
	CHECK(test_clock() >= when);
	CHECK(proa_op_count(&record.op) > 0 && proa_op_count(&record.op) <= sent);
	CHECK_BYTES(bytes, proa_op_count(&record.op), 0);
	/* What it had not taken is there for the next. */
	if (proa_op_count(&record.op) < sent) {
		uint64_t at = proa_op_count(&record.op);

		proa_prep_recv(&record.op, ends.ours, bytes, sent - at, PROA_ALL);
		CHECK_INT(record_run(&record), sent - at);
		CHECK_BYTES(bytes, sent - at, at);
	}
	close(ends.peer);
	close_handle(port, ends.ours);
	test_close(port);
}

TEST(15, "deadline: progress or not", deadline_of_a_multishot_receive)
{
	struct proa_port *port = test_port();
	struct ends ends = pair_ends();
	struct proa_pool *pool;
	struct record record;
	int64_t when = test_clock() + 150 * MS;
	unsigned char byte;

	CHECK_INT(proa_pool_open(port, NULL, &pool), 0);
	record_init(&record, port);
	record.then = give_back_each;
	proa_prep_recv_multi(&record.op, ends.ours, pool, 0);
	proa_op_deadline(&record.op, when);
	record_submit(&record);
	for (unsigned sent = 0; record.finals == 0 && sent < 3000; sent++) {
		fill_bytes(&byte, 1, sent);
		peer_write(ends.peer, &byte, 1);
		run_for(port, 5 * MS);
	}
	CHECK_INT(record.finals, 1);
	CHECK_INT(record.last, PROA_ETIMEDOUT);
	CHECK(test_clock() >= when);
	CHECK(record.number > 0);
	close(ends.peer);
	close_handle(port, ends.ours);
	proa_pool_close(pool);
	test_close(port);
}

TEST(15, "both may be set", the_earlier_limit_counts)
{
	struct proa_port *port = test_port();
	struct ends ends = pair_ends();
	struct record record;
	int64_t start;
	char byte;

	record_init(&record, port);
	for (int way = 0; way < 2; way++) {
		start = test_clock();
		proa_prep_recv(&record.op, ends.ours, &byte, 1, 0);
		proa_op_timeout(&record.op, way == 0 ? 30 * MS : NEVER);
		proa_op_deadline(&record.op, start + (way == 0 ? NEVER : 30 * MS));
		record_submit(&record);
		expect_time_out(port, &record, start, 30 * MS);
	}
	/* Whichever is set last does not put out the other. */
	start = test_clock();
	proa_prep_recv(&record.op, ends.ours, &byte, 1, 0);
	proa_op_deadline(&record.op, start + 30 * MS);
	proa_op_timeout(&record.op, NEVER);
	record_submit(&record);
	expect_time_out(port, &record, start, 30 * MS);
	close(ends.peer);
	close_handle(port, ends.ours);
	test_close(port);
}

/* Sets one of the two limits to `ns` from now. */
static void set_limit(struct proa_op *op, bool deadline, int64_t ns)
{
	if (deadline)
		proa_op_deadline(op, ns == PROA_FOREVER ? ns : test_clock() + ns);
	else
		proa_op_timeout(op, ns);
}

static void change_limits(struct proa_port *port, bool deadline)
{
	struct ends ends = pair_ends();
	struct record record;
	int64_t start;
	char byte;

	record_init(&record, port);
	/* Set where there was none. */
	proa_prep_recv(&record.op, ends.ours, &byte, 1, 0);
	record_submit(&record);
	run_for(port, 5 * MS);
	start = test_clock();
	set_limit(&record.op, deadline, 20 * MS);
	expect_time_out(port, &record, start, 20 * MS);
	/* Extended. */
	start = test_clock();
	proa_prep_recv(&record.op, ends.ours, &byte, 1, 0);
	set_limit(&record.op, deadline, scaled(300 * MS));
	record_submit(&record);
	run_for(port, 5 * MS);
	set_limit(&record.op, deadline, scaled(400 * MS));
	expect_time_out(port, &record, start, scaled(400 * MS));
	/* Shortened. */
	proa_prep_recv(&record.op, ends.ours, &byte, 1, 0);
	set_limit(&record.op, deadline, NEVER);
	record_submit(&record);
	run_for(port, 5 * MS);
	start = test_clock();
	set_limit(&record.op, deadline, 20 * MS);
	expect_time_out(port, &record, start, 20 * MS);
	/* Removed, and not there again when it ends. */
	proa_prep_recv(&record.op, ends.ours, &byte, 1, 0);
	set_limit(&record.op, deadline, scaled(100 * MS));
	record_submit(&record);
	set_limit(&record.op, deadline, PROA_FOREVER);
	run_for(port, scaled(150 * MS));
	CHECK_INT(record.count, 0);
	peer_write(ends.peer, "x", 1);
	RUN_UNTIL(port, record.finals == 1);
	CHECK_INT(record.last, 1);
	/* Changed before it has been given to the system at all. */
	proa_prep_recv(&record.op, ends.ours, &byte, 1, 0);
	record_submit(&record);
	set_limit(&record.op, deadline, 0);
	RUN_UNTIL(port, record.finals == 1);
	CHECK_INT(record.last, PROA_ETIMEDOUT);
	close(ends.peer);
	close_handle(port, ends.ours);
}

TEST(15, "changed in flight", timeout_changed_in_flight)
{
	struct proa_port *port = test_port();

	change_limits(port, false);
	test_close(port);
}

TEST(15, "changed in flight", deadline_changed_in_flight)
{
	struct proa_port *port = test_port();

	change_limits(port, true);
	test_close(port);
}

/* To move the one limit gives no time on the other. */
TEST(15, "changed in flight", moved_deadline_leaves_the_timeout)
{
	struct proa_port *port = test_port();
	struct ends ends = pair_ends();
	int64_t start = test_clock(), limit = scaled(100 * MS);
	struct record record;
	char byte;

	record_init(&record, port);
	proa_prep_recv(&record.op, ends.ours, &byte, 1, 0);
	proa_op_timeout(&record.op, limit);
	record_submit(&record);
	while (record.finals == 0 && test_clock() - start < 20 * limit) {
		proa_op_deadline(&record.op, test_clock() + NEVER);
		run_for(port, limit / 4);
	}
	CHECK_INT(record.finals, 1);
	CHECK_INT(record.last, PROA_ETIMEDOUT);
	CHECK(test_clock() - start >= limit);
	proa_prep_recv(&record.op, ends.ours, &byte, 1, 0);
	proa_op_timeout(&record.op, NEVER);
	record_submit(&record);
	proa_op_deadline(&record.op, test_clock() + 10 * MS);
	RUN_UNTIL(port, record.finals == 1);
	CHECK_INT(record.last, PROA_ETIMEDOUT);
	close_handle(port, ends.ours);
	close(ends.peer);
	test_close(port);
}

TEST(15, "changed in flight", limits_of_a_dial_changed_in_flight)
{
	struct proa_port *port = test_port();
	struct proa_address address;
	int listener = tcp_listener(0, &address), callers[3];
	struct record record;

	/* A full listener answers no more: Linux drops the SYN. */
	for (int i = 0; i < 3; i++) {
		callers[i] = CHECK_SYSTEM(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
		(void)connect(callers[i], &address.to.any, address.length);
	}
	test_sleep(2 * MS);
	record_init(&record, port);
	for (int way = 0; way < 4; way++) {
		int64_t start = test_clock(), ns = scaled(250 * MS);

		proa_prep_dial(&record.op, &address, 0);
		proa_op_timeout(&record.op, scaled(100 * MS));
		if (way == 3)
			proa_op_timeout(&record.op, PROA_FOREVER);
		record_submit(&record);
		if (way == 0) /* a longer one takes the place of the first */
			proa_op_timeout(&record.op, ns);
		if (way == 1) { /* none at all, but an instant */
			proa_op_timeout(&record.op, PROA_FOREVER);
			proa_op_deadline(&record.op, start + ns);
		}
		if (way == 2) { /* an instant put out leaves the other one alone */
			ns = scaled(100 * MS);
			proa_op_deadline(&record.op, start + NEVER);
			proa_op_deadline(&record.op, PROA_FOREVER);
		}
		if (way == 3)
			proa_op_timeout(&record.op, ns);
		expect_time_out(port, &record, start, ns);
	}
	for (int i = 0; i < 3; i++)
		close(callers[i]);
	close(listener);
	test_close(port);
}

TEST(15, "its true result if that won", limits_race_with_data)
{
	enum { TOTAL = 6000 };
	struct peer_writer writer = { .total = TOTAL, .piece = 4, .pause = 30000, .ends = true };
	struct proa_port *port = test_port();
	struct ends ends = pair_ends();
	unsigned late = 0, round;
	struct record record;
	unsigned char bytes[16];
	uint64_t at = 0;

	writer.fd = ends.peer;
	peer_writer_start(&writer);
	record_init(&record, port);
	for (round = 0;; round++) {
		bool all = round % 2;

		proa_prep_recv(&record.op, ends.ours, bytes, 16, all ? PROA_ALL : 0);
		set_limit(&record.op, round % 4 < 2, (int64_t)(round % 60) * PROA_MICROSECOND);
		record_submit(&record);
		RUN_UNTIL(port, record.finals == 1);
		CHECK_BYTES(bytes, proa_op_count(&record.op), at);
		at += proa_op_count(&record.op);
		if (record.last == 0)
			break;
		if (record.last < 0) {
			CHECK_INT(record.last, PROA_ETIMEDOUT);
			CHECK(all || proa_op_count(&record.op) == 0);
			late++;
		}
	}
	peer_writer_join(&writer);
	CHECK_INT(at, TOTAL);
	printf("%u rounds, %u timed out\n", round, late);
	CHECK(late > 0);
	close_handle(port, ends.ours);
	test_close(port);
}

TEST(15, "past it the op is cancelled", limits_on_timers_and_intervals)
{
	struct proa_port *port = test_port();
	struct record timer, interval;
	int64_t start = test_clock();

	record_init(&timer, port);
	record_init(&interval, port);
	proa_prep_timer(&timer.op, NEVER);
	proa_op_deadline(&timer.op, start + 20 * MS);
	record_submit(&timer);
	/* Ticks are progress; the instant is not moved by them. */
	proa_prep_interval(&interval.op, 10 * MS, 10 * MS);
	proa_op_timeout(&interval.op, scaled(1200 * MS));
	proa_op_deadline(&interval.op, start + scaled(1500 * MS));
	record_submit(&interval);
	expect_time_out(port, &timer, start, 20 * MS);
	expect_time_out(port, &interval, start, scaled(1500 * MS));
	CHECK(interval.count > 1);
	test_close(port);
}

/* ---- Rule 20: timers ---- */

struct due {
	struct proa_op op;
	int64_t when; /* not before this, whatever the clock */
	unsigned fired;
};

static unsigned due_count;

static void due_done(struct proa_op *op, const struct proa_completion *c)
{
	struct due *due = op->data;

	CHECK_INT(c->result, 0);
	CHECK(test_clock() >= due->when);
	CHECK(proa_now(op->port) >= due->when);
	CHECK(proa_now(op->port) <= test_clock());
	due->fired++;
	due_count++;
}

TEST(20, "never early", random_timers_are_never_early)
{
	struct proa_port *port = test_port();
	enum { COUNT = 1000 };
	struct due *dues = calloc(COUNT, sizeof(*dues));
	unsigned seed = 4711;

	CHECK(dues != NULL);
	for (int i = 0; i < COUNT; i++) {
		int64_t ns =
			(int64_t)(rand_r(&seed) % 300000) * PROA_MICROSECOND + rand_r(&seed) % 1000;

		proa_op_init(&dues[i].op, port, &dues[i]);
		dues[i].when = test_clock() + ns;
		if (i % 2)
			proa_prep_timer(&dues[i].op, ns);
		else
			proa_prep_timer_at(&dues[i].op, dues[i].when);
		proa_submit(&dues[i].op, due_done);
	}
	CHECK_INT(proa_run(port), 0);
	for (int i = 0; i < COUNT; i++)
		CHECK_INT(dues[i].fired, 1);
	free(dues);
	test_close(port);
}

static struct due late_due;

static void submit_late(struct record *record, const struct proa_completion *c)
{
	(void)c;
	/* The batch's time is old by now: it must not shorten the timer. */
	test_sleep(30 * MS);
	proa_op_init(&late_due.op, record->op.port, &late_due);
	proa_prep_timer(&late_due.op, 20 * MS);
	late_due.when = test_clock() + 20 * MS;
	proa_submit(&late_due.op, due_done);
}

TEST(20, "never early", timer_counts_from_its_submit)
{
	struct proa_port *port = test_port();
	struct record record;

	record_init(&record, port);
	record.then = submit_late;
	proa_prep_timer(&record.op, MS);
	record_submit(&record);
	CHECK_INT(proa_run(port), 0);
	CHECK_INT(late_due.fired, 1);
	test_close(port);
}

TEST(20, "in the order of due time, then of submission", timers_fire_in_order)
{
	struct proa_port *port = test_port();
	enum { COUNT = 2000 };
	struct due *dues = calloc(COUNT, sizeof(*dues));
	struct proa_completion taken[64];
	int64_t base = test_clock() + 20 * MS, before = 0;
	struct due *last = NULL;
	unsigned seed = 99;
	int n, seen = 0;

	CHECK(dues != NULL);
	/* Many share an instant; a third lies in the past already. */
	for (int i = 0; i < COUNT; i++) {
		proa_op_init(&dues[i].op, port, &dues[i]);
		dues[i].when = base + (int64_t)(rand_r(&seed) % 90 - 30) * MS;
		proa_prep_timer_at(&dues[i].op, dues[i].when);
		proa_submit(&dues[i].op, NULL);
	}
	while (seen < COUNT) {
		n = proa_wait(port, taken, 64, 10 * PROA_SECOND);
		CHECK(n > 0);
		for (int i = 0; i < n; i++, seen++) {
			struct due *due = taken[i].op->data;

			CHECK_INT(taken[i].result, 0);
			CHECK(due->when >= before);
			CHECK(due->when > before || last == NULL || due > last);
			before = due->when;
			last = due;
		}
	}
	free(dues);
	test_close(port);
}

TEST(20, "at once", timers_of_no_time)
{
	struct proa_port *port = test_port();
	static const int64_t durations[] = { 0, -1, -NEVER, INT64_MIN };
	struct record record;

	record_init(&record, port);
	for (unsigned i = 0; i < sizeof(durations) / sizeof(durations[0]); i++) {
		int64_t start = test_clock();

		proa_prep_timer(&record.op, durations[i]);
		CHECK_INT(record_run(&record), 0);
		proa_prep_timer_at(&record.op, durations[i]);
		CHECK_INT(record_run(&record), 0);
		proa_prep_timer_at(&record.op, start);
		CHECK_INT(record_run(&record), 0);
		CHECK(test_clock() - start < scaled(5 * PROA_SECOND));
	}
	/* One turn that does not wait is enough. */
	proa_prep_timer(&record.op, 0);
	record_submit(&record);
	CHECK_INT(proa_run_once(port, 0), 1);
	CHECK_INT(record.finals, 1);
	/* And the end of time does not come. */
	for (int way = 0; way < 4; way++) {
		if (way < 2)
			proa_prep_timer(&record.op, PROA_FOREVER - way);
		else
			proa_prep_timer_at(&record.op, PROA_FOREVER - (way - 2));
		record_submit(&record);
		run_for(port, 5 * MS);
		CHECK_INT(record.count, 0);
		proa_cancel(&record.op);
		RUN_UNTIL(port, record.finals == 1);
		CHECK_INT(record.last, PROA_ECANCELED);
	}
	test_close(port);
}

static uint64_t cancelled_timers;

static void count_cancelled(struct proa_op *op, const struct proa_completion *c)
{
	(void)op;
	CHECK_INT(c->result, PROA_ECANCELED);
	cancelled_timers++;
}

TEST_SLOW(20, "1,000,000 timers", million_timers_armed_and_cancelled)
{
	struct proa_port *port = test_port();
	unsigned count = test_many(1000000), seed = 1;
	struct proa_op *ops = calloc(count, sizeof(*ops));

	if (ops == NULL)
		SKIP("no memory for a million ops");
	for (unsigned i = 0; i < count; i++) {
		proa_op_init(&ops[i], port, NULL);
		proa_prep_timer(&ops[i], NEVER + rand_r(&seed) * MS);
		proa_submit(&ops[i], count_cancelled);
	}
	CHECK_INT(proa_in_flight(port), count);
	/* Half one by one from the middle, the rest at once. */
	for (unsigned i = 0; i < count; i += 2)
		proa_cancel(&ops[(i + count / 2) % count]);
	RUN_UNTIL(port, cancelled_timers == (count + 1) / 2);
	proa_cancel_all(port);
	CHECK_INT(proa_run(port), 0);
	CHECK_INT(cancelled_timers, count);
	free(ops);
	test_close(port);
}

/* Runs until a record that is in flight has ended. */
static int32_t rest(struct proa_port *port, struct record *record)
{
	RUN_UNTIL(port, record->finals == 1);
	return record->last;
}

TEST(20, "moving a timer", timer_moved)
{
	struct proa_port *port = test_port();
	struct record record;
	int64_t start;

	record_init(&record, port);
	CHECK_INT(proa_timer_move(&record.op, MS), PROA_ENOENT);
	proa_prep_timer(&record.op, scaled(400 * MS));
	CHECK_INT(proa_timer_move(&record.op, MS), PROA_ENOENT);
	record_submit(&record);
	/* Later, ... */
	run_for(port, MS);
	start = test_clock();
	CHECK_INT(proa_timer_move(&record.op, scaled(500 * MS)), 0);
	CHECK_INT(rest(port, &record), 0);
	CHECK(test_clock() - start >= scaled(500 * MS));
	CHECK_INT(proa_timer_move(&record.op, MS), PROA_ENOENT);
	run_quiet(port);
	CHECK_INT(record.count, 1);
	/* ... sooner, ... */
	proa_prep_timer(&record.op, NEVER);
	record_submit(&record);
	start = test_clock();
	CHECK_INT(proa_timer_move(&record.op, 20 * MS), 0);
	CHECK_INT(rest(port, &record), 0);
	CHECK(test_clock() - start >= 20 * MS);
	/* ... at once, and of the other kind. */
	proa_prep_timer_at(&record.op, PROA_FOREVER);
	record_submit(&record);
	CHECK_INT(proa_timer_move(&record.op, -1), 0);
	CHECK_INT(rest(port, &record), 0);
	CHECK_INT(record.count, 1);
	/* It has ended, though its callback is still to come. */
	proa_prep_timer(&record.op, NEVER);
	record_submit(&record);
	proa_cancel(&record.op);
	CHECK_INT(proa_timer_move(&record.op, NEVER), PROA_ENOENT);
	CHECK_INT(rest(port, &record), PROA_ECANCELED);
	test_close(port);
}

TEST(20, "moving a timer", timer_moved_many_times)
{
	struct proa_port *port = test_port();
	enum { COUNT = 300 };
	struct due *dues = calloc(COUNT, sizeof(*dues));
	unsigned seed = 5;

	CHECK(dues != NULL);
	for (int i = 0; i < COUNT; i++) {
		proa_op_init(&dues[i].op, port, &dues[i]);
		proa_prep_timer(&dues[i].op, NEVER);
		proa_submit(&dues[i].op, due_done);
	}
	/* The heap must stay one, however its places are changed. */
	for (int i = 0; i < 20000; i++) {
		struct due *due = &dues[rand_r(&seed) % COUNT];
		int64_t ns = (int64_t)(rand_r(&seed) % 1000) * MS;

		CHECK_INT(proa_timer_move(&due->op, NEVER + ns), 0);
	}
	for (int i = 0; i < COUNT; i++) {
		int64_t ns = (int64_t)(rand_r(&seed) % 100) * MS;

		dues[i].when = test_clock() + ns;
		CHECK_INT(proa_timer_move(&dues[i].op, ns), 0);
	}
	CHECK_INT(proa_run(port), 0);
	for (int i = 0; i < COUNT; i++)
		CHECK_INT(dues[i].fired, 1);
	free(dues);
	test_close(port);
}

/* ---- Rule 20: intervals ---- */

#define PERIOD (10 * MS)

static struct {
	int64_t earliest, latest; /* bounds of the instant of its submit */
	int64_t passed; /* sum of all results */
	unsigned ticks, missed;
} beat;

static void check_beat(struct record *record, const struct proa_completion *c)
{
	int64_t now = proa_now(record->op.port);

	if ((c->flags & PROA_MORE) == 0)
		return;
	CHECK(c->result >= 1);
	beat.passed += c->result;
	beat.missed += (unsigned)c->result - 1;
	/* No drift: as many as the clock says since the first, to a tick. */
	CHECK(beat.passed <= (now - beat.earliest) / PERIOD);
	CHECK(beat.passed >= (now - beat.latest) / PERIOD);
	if (++beat.ticks == 10 || beat.ticks == 20)
		test_sleep(6 * PERIOD + PERIOD / 2);
	else
		test_sleep(PERIOD / 3);
}

TEST(20, "intervals don't drift and count missed ticks", interval_keeps_time)
{
	struct proa_port *port = test_port();
	struct record record;

	record_init(&record, port);
	record.then = check_beat;
	proa_prep_interval(&record.op, PERIOD, PERIOD);
	beat.earliest = test_clock();
	record_submit(&record);
	beat.latest = test_clock();
	RUN_UNTIL(port, beat.ticks >= 40);
	CHECK(beat.missed >= 10);
	proa_cancel(&record.op);
	RUN_UNTIL(port, record.finals == 1);
	CHECK_INT(record.last, PROA_ECANCELED);
	test_close(port);
}

TEST(20, "an interval's first tick", interval_starts_with_its_first)
{
	struct proa_port *port = test_port();
	struct record record;
	int64_t start = test_clock();

	record_init(&record, port);
	proa_prep_interval(&record.op, scaled(50 * MS), NEVER);
	record_submit(&record);
	RUN_UNTIL(port, record.count == 1);
	CHECK(test_clock() - start >= scaled(50 * MS));
	CHECK_INT(record.results[0], 1);
	CHECK_INT(record.flags[0], PROA_MORE);
	CHECK(proa_op_pending(&record.op));
	/* Moving it moves its next tick; the period stays. */
	start = test_clock();
	CHECK_INT(proa_timer_move(&record.op, 20 * MS), 0);
	RUN_UNTIL(port, record.count == 2);
	CHECK(test_clock() - start >= 20 * MS);
	run_for(port, 50 * MS);
	CHECK_INT(record.count, 2);
	proa_cancel(&record.op);
	RUN_UNTIL(port, record.finals == 1);
	CHECK_INT(proa_timer_move(&record.op, 0), PROA_ENOENT);
	/* A period of nothing would tick for ever. */
	proa_prep_interval(&record.op, 0, 0);
	CHECK_INT(record_run(&record), PROA_EINVAL);
	proa_prep_interval(&record.op, MS, -MS);
	CHECK_INT(record_run(&record), PROA_EINVAL);
	/* A first of nothing ticks at once. */
	proa_prep_interval(&record.op, 0, NEVER);
	record_submit(&record);
	CHECK_INT(proa_run_once(port, 0), 1);
	CHECK_INT(record.count, 1);
	proa_cancel(&record.op);
	RUN_UNTIL(port, record.finals == 1);
	test_close(port);
}

static void stop_self(struct record *record, const struct proa_completion *c)
{
	if ((c->flags & PROA_MORE) && record->count == 3)
		proa_cancel(&record->op);
}

/* What does not fit 32 bits is a long time, and what is past is at once. */
TEST(20, "an interval's first tick", interval_starts_after_seconds)
{
	struct proa_port *port = test_port();
	struct record late, past;

	record_init(&late, port);
	record_init(&past, port);
	proa_prep_interval(&late.op, (INT64_C(1) << 34) + 1, MS);
	record_submit(&late);
	proa_prep_interval(&past.op, -1, NEVER);
	record_submit(&past);
	RUN_UNTIL(port, past.count == 1);
	run_for(port, 50 * MS);
	CHECK_INT(late.count, 0);
	CHECK_INT(past.count, 1);
	proa_cancel_all(port);
	CHECK_INT(proa_run(port), 0);
	test_close(port);
}

TEST(20, "intervals end when cancelled", interval_cancelled_in_its_callback)
{
	struct proa_port *port = test_port();
	struct record record;

	record_init(&record, port);
	record.then = stop_self;
	proa_prep_interval(&record.op, MS, MS);
	record_submit(&record);
	CHECK_INT(proa_run(port), 0);
	CHECK_INT(record.last, PROA_ECANCELED);
	CHECK(record.count >= 4);
	run_quiet(port);
	CHECK_INT(record.finals, 1);
	test_close(port);
}

/* ---- Rule 20: the clock, and waiting ---- */

static int64_t batch_now[2];

static void note_now(struct record *record, const struct proa_completion *c)
{
	(void)c;
	batch_now[record->number] = proa_now(record->op.port);
	test_sleep(5 * MS);
	CHECK_INT(proa_now(record->op.port), batch_now[record->number]);
}

TEST(20, "proa_now is the batch's", now_belongs_to_the_batch)
{
	struct proa_port *port = test_port();
	struct record records[2];
	int64_t before = test_clock();

	for (unsigned i = 0; i < 2; i++) {
		record_init(&records[i], port);
		records[i].then = note_now;
		records[i].number = i;
		proa_post(port, &records[i].op, 0, recorded);
	}
	CHECK_INT(proa_run_once(port, PROA_SECOND), 2);
	CHECK_INT(batch_now[0], batch_now[1]);
	CHECK(batch_now[0] >= before && batch_now[0] <= test_clock());
	before = test_clock();
	run_for(port, MS);
	CHECK(proa_now(port) >= before);
	test_close(port);
}

TEST(20, "waits round up", waits_round_up)
{
	struct proa_port *port = test_port();
	struct proa_completion c;

	for (int i = 1; i <= 20; i++) {
		int64_t ns = i * 350 * PROA_MICROSECOND, start = test_clock();

		CHECK_INT(proa_wait(port, &c, 1, ns), 0);
		CHECK(test_clock() - start >= ns);
		start = test_clock();
		CHECK_INT(proa_run_once(port, ns), 0);
		CHECK(test_clock() - start >= ns);
	}
	CHECK_INT(proa_wait(port, &c, 1, -1), 0);
	CHECK_INT(proa_run_once(port, INT64_MIN), 0);
	test_close(port);
}

TEST(20, "waits round up", waiting_does_not_spin)
{
	struct proa_port *port = test_port();
	struct record records[2];
	int64_t used;

	/* A wait in whole milliseconds must not end in a busy loop. */
	for (int i = 0; i < 2; i++)
		record_init(&records[i], port);
	proa_prep_timer(&records[0].op, 300 * MS + 777 * PROA_MICROSECOND);
	proa_prep_interval(&records[1].op, 1900 * PROA_MICROSECOND, 1900 * PROA_MICROSECOND);
	proa_op_background(&records[1].op);
	record_submit(&records[0]);
	record_submit(&records[1]);
	used = test_cpu();
	CHECK_INT(proa_run(port), 0);
	used = test_cpu() - used;
	CHECK_INT(records[0].last, 0);
	printf("%lld us of CPU\n", (long long)(used / 1000));
	CHECK(used < scaled(100 * MS));
	test_close(port);
}

/* Rules 11 and 12: buffers that receives lend, and datagrams. */
#include "harness.h"
#include "control.h"
#include "posix.h"

static struct proa_pool *open_pool(
	struct proa_port *port, uint32_t size, uint32_t count, uint32_t limit, uint32_t share)
{
	struct proa_pool_options options = {
		.buffer_size = size, .count = count, .limit = limit, .per_handle = share
	};
	struct proa_pool *pool = NULL;

	CHECK_INT(proa_pool_open(port, &options, &pool), 0);
	CHECK(pool != NULL);
	return pool;
}

static uint64_t pool_lent(const struct proa_pool *pool)
{
	struct proa_pool_stats stats;

	proa_pool_stats(pool, &stats);
	return stats.lent;
}

static void start_multi(struct record *record, proa_handle handle, struct proa_pool *pool)
{
	proa_prep_recv_multi(&record->op, handle, pool, 0);
	record_submit(record);
}

static void start_lent(struct record *record, proa_handle handle, struct proa_pool *pool)
{
	proa_prep_recv_lent(&record->op, handle, pool, 0);
	record_submit(record);
}

static void cancel_and_wait(struct record *record)
{
	proa_cancel(&record->op);
	RUN_UNTIL(record->op.port, record->finals == 1);
	CHECK_INT(record->last, PROA_ECANCELED);
}

static void close_ends(struct proa_port *port, const struct ends *ends)
{
	close_handle(port, ends->ours);
	close(ends->peer);
}

/* The process sleeps while nothing can be done. */
static void check_idle(struct proa_port *port, int64_t ns)
{
	int64_t cpu = test_cpu();

	run_for(port, ns);
	CHECK(test_cpu() - cpu < ns / 4 + 20 * PROA_MILLISECOND * test_factor());
}

/* ---- Rule 11: what is lent ---- */

TEST(11, "lending", multishot_lends_until_the_end)
{
	struct proa_port *port = test_port();

	FOR_STREAMS(maker)
	{
		struct proa_pool *pool = open_pool(port, 100, 4, 0, 0);
		struct ends ends = maker->make(false);
		struct record record;

		printf("%s\n", maker->name);
		record_init(&record, port);
		start_multi(&record, ends.ours, pool);
		for (unsigned i = 0; i < 3; i++) {
			peer_write(ends.peer, &"abcdef"[i], 3);
			RUN_UNTIL(port, record.count == i + 1);
			CHECK_INT(record.results[i], 3);
			CHECK((record.flags[i] & (PROA_MORE | PROA_LENT)) ==
				(PROA_MORE | PROA_LENT));
			CHECK(lent_of(&record, i)->size >= 100);
			CHECK_INT(pool_lent(pool), i + 1);
		}
		close(ends.peer);
		RUN_UNTIL(port, record.finals == 1);
		CHECK_INT(record.count, 4);
		CHECK_INT(record.last, 0);
		CHECK_INT(record.flags[3] & (PROA_MORE | PROA_LENT), 0);
		/* Each keeps its bytes for as long as it is held. */
		for (unsigned i = 0; i < 3; i++) {
			CHECK(memcmp(lent_of(&record, i)->data, &"abcdef"[i], 3) == 0);
			proa_give_back(record.lent[i]);
		}
		proa_give_back(NULL);
		CHECK_INT(pool_lent(pool), 0);
		close_handle(port, ends.ours);
		proa_pool_close(pool);
	}
	proa_pool_close(NULL);
	test_close(port);
}

TEST(11, "lending", single_receives_lend_in_order)
{
	enum { RECEIVES = 5 };
	struct proa_port *port = test_port();

	FOR_STREAMS(maker)
	{
		struct proa_pool *pool = open_pool(port, 4, 8, 8, 8);
		struct ends ends = maker->make(false);
		struct record receives[RECEIVES];

		printf("%s\n", maker->name);
		for (int i = 0; i < RECEIVES; i++) {
			record_init(&receives[i], port);
			start_lent(&receives[i], ends.ours, pool);
		}
		run_quiet(port);
		CHECK_INT(pool_lent(pool), 0);
		peer_write(ends.peer, "0123456789abcdef", 16);
		close(ends.peer);
		RUN_UNTIL(port, receives[RECEIVES - 1].finals == 1);
		for (int i = 0; i < RECEIVES; i++) {
			CHECK_INT(receives[i].count, 1);
			if (i == 4) {
				CHECK_INT(receives[i].last, 0);
				CHECK_INT(receives[i].flags[0] & PROA_LENT, 0);
				break;
			}
			CHECK_INT(receives[i].last, 4);
			CHECK((receives[i].flags[0] & PROA_LENT) != 0);
			CHECK(memcmp(lent_of(&receives[i], 0)->data, &"0123456789abcdef"[4 * i],
				      4) == 0);
			proa_give_back(receives[i].lent[0]);
		}
		close_handle(port, ends.ours);
		CHECK_INT(pool_lent(pool), 0);
		proa_pool_close(pool);
	}
	test_close(port);
}

TEST(11, "lending", waiting_holds_no_buffer)
{
	enum { IDLE = 100 };
	struct proa_port *port = test_port();
	struct proa_pool *pool = open_pool(port, 4096, 1, 1, 0);
	struct ends ends[IDLE];
	struct record records[IDLE];

	for (int i = 0; i < IDLE; i++) {
		ends[i] = stream_makers[i % PLAIN_MAKERS].make(false);
		record_init(&records[i], port);
		if (i & 1)
			start_lent(&records[i], ends[i].ours, pool);
		else
			start_multi(&records[i], ends[i].ours, pool);
	}
	check_idle(port, 100 * PROA_MILLISECOND);
	CHECK_INT(pool_lent(pool), 0);
	for (int i = 0; i < IDLE; i++)
		CHECK_INT(records[i].count, 0);
	/* The one buffer serves them all, one after the other. */
	for (int i = IDLE - 1; i >= 0; i--) {
		peer_write(ends[i].peer, "x", 1);
		RUN_UNTIL(port, records[i].count == 1);
		CHECK_INT(records[i].results[0], 1);
		CHECK_INT(pool_lent(pool), 1);
		proa_give_back(records[i].lent[0]);
	}
	for (int i = 0; i < IDLE; i++)
		close_ends(port, &ends[i]);
	proa_pool_close(pool);
	test_close(port);
}

TEST(11, "lending", taken_by_hand_of_a_new_port)
{
	struct proa_port *port = test_port();
	struct proa_pool *pool = open_pool(port, 1000, 2, 2, 0);
	struct proa_buffer *taken = proa_pool_take(pool);

	/* Once the port has its thread, what that gives back is back at once. */
	CHECK(taken != NULL);
	CHECK_INT(proa_run_once(port, 0), 0);
	proa_give_back(taken);
	CHECK_INT(pool_lent(pool), 0);
	proa_pool_close(pool);
	test_close(port);
}

TEST(11, "lending", taken_by_hand)
{
	struct proa_port *port = test_port();
	struct proa_pool *pool = open_pool(port, 1000, 2, 6, 0);
	struct ends ends = pair_ends();
	struct proa_buffer *taken[6];
	struct record record, send;

	record_init(&record, port);
	record_init(&send, port);
	start_multi(&record, ends.ours, pool);
	run_quiet(port);
	/* A receive that waits has none of them: all six are to be had. */
	for (int i = 0; i < 6; i++) {
		taken[i] = proa_pool_take(pool);
		CHECK(taken[i] != NULL);
		CHECK(taken[i]->size >= 1000);
		CHECK(taken[i]->op.port == port);
		CHECK(!proa_op_pending(&taken[i]->op));
		fill_bytes(taken[i]->data, 1000, (uint64_t)i * 1000);
	}
	CHECK_INT(pool_lent(pool), 6);
	CHECK(proa_pool_take(pool) == NULL);
	for (int i = 0; i < 6; i++)
		CHECK_BYTES(taken[i]->data, 1000, (uint64_t)i * 1000);
	/* ... and it waits for one to come back. */
	peer_write(ends.peer, "abc", 3);
	run_quiet(port);
	CHECK_INT(record.count, 0);
	taken[0]->length = 1000;
	taken[0]->op.data = &send;
	proa_prep_send(&taken[0]->op, ends.ours, taken[0]->data, 1000, 0);
	proa_submit(&taken[0]->op, recorded);
	RUN_UNTIL(port, send.finals == 1);
	CHECK_INT(send.last, 1000);
	proa_give_back(taken[0]);
	RUN_UNTIL(port, record.count == 1);
	proa_give_back(record.lent[0]);
	for (int i = 1; i < 6; i++)
		proa_give_back(taken[i]);
	CHECK_INT(pool_lent(pool), 0);
	close_ends(port, &ends);
	proa_pool_close(pool);
	test_close(port);
}

/* More receives than the system has room to tell of, and what they have not used is
 * taken by hand: no buffer has two owners. */
TEST(11, "lending", taken_by_hand_from_under_receives)
{
	enum { MANY = 64 };
	struct proa_port_options options = { .entries = 8 };
	struct proa_port *port = test_port_with(&options);
	struct proa_pool *pool = open_pool(port, 16, MANY, MANY, 0);
	struct proa_buffer *taken[MANY];
	struct ends ends[MANY], pipe = pipe_ends(false);
	struct record records[MANY], piped;
	unsigned count = 0, got = 0;

	for (int i = 0; i < MANY; i++) {
		ends[i] = pair_ends();
		peer_write(ends[i].peer, &i, sizeof i);
		record_init(&records[i], port);
		start_lent(&records[i], ends[i].ours, pool);
	}
	for (; count < MANY && (taken[count] = proa_pool_take(pool)) != NULL; count++)
		memset(taken[count]->data, 0xee, 16);
	/* One that takes its buffer itself waits like the others. */
	peer_write(pipe.peer, "x", 1);
	record_init(&piped, port);
	start_lent(&piped, pipe.ours, pool);
	run_quiet(port);
	for (int i = 0; i < MANY; i++)
		got += records[i].finals;
	got += piped.finals;
	CHECK_INT(got + count, MANY);
	for (unsigned i = 0; i < count; i++) {
		for (int at = 0; at < 16; at++)
			CHECK_INT(taken[i]->data[at], 0xee);
		proa_give_back(taken[i]);
	}
	for (int i = 0; i < MANY; i++) {
		RUN_UNTIL(port, records[i].finals == 1);
		CHECK_INT(records[i].last, (int)sizeof i);
		CHECK(memcmp(lent_of(&records[i], 0)->data, &i, sizeof i) == 0);
		proa_give_back(records[i].lent[0]);
		close_ends(port, &ends[i]);
	}
	RUN_UNTIL(port, piped.finals == 1);
	CHECK_INT(piped.last, 1);
	proa_give_back(piped.lent[0]);
	close_ends(port, &pipe);
	CHECK_INT(pool_lent(pool), 0);
	proa_pool_close(pool);
	test_close(port);
}

TEST(11, "lending", pool_grows_to_its_limit)
{
	struct proa_port *port = test_port();
	struct proa_pool *pool = open_pool(port, 10, 2, 8, 100);
	struct proa_pool_stats stats;
	struct ends ends = pair_ends();
	struct record record;

	record_init(&record, port);
	start_multi(&record, ends.ours, pool);
	peer_write(ends.peer,
		"0000000000111111111122222222223333333333444444444455555555556666666666"
		"777777777788888888889999999999",
		100);
	RUN_UNTIL(port, record.count == 8);
	run_quiet(port);
	CHECK_INT(record.count, 8);
	proa_pool_stats(pool, &stats);
	CHECK_INT(stats.lent, 8);
	CHECK_INT(stats.free, 0);
	CHECK_INT(stats.lent_peak, 8);
	CHECK(stats.waits > 0);
	proa_give_back(record.lent[3]);
	RUN_UNTIL(port, record.count == 9);
	run_quiet(port);
	CHECK_INT(record.count, 9);
	proa_give_back(record.lent[0]);
	RUN_UNTIL(port, record.count == 10);
	for (unsigned i = 0; i < 10; i++) {
		CHECK_INT(record.results[i], 10);
		if (i != 0 && i != 3) {
			CHECK_INT(lent_of(&record, i)->data[9], '0' + (int)i);
			proa_give_back(record.lent[i]);
		}
	}
	CHECK_INT(pool_lent(pool), 0);
	close_ends(port, &ends);
	proa_pool_close(pool);
	test_close(port);
}

TEST(11, "lending", held_buffers_need_more_give_backs)
{
	struct proa_port *port = test_port();
	struct proa_pool *pool = open_pool(port, 10, 1, 1, 0);
	struct ends ends = pair_ends();
	struct record record;

	record_init(&record, port);
	start_multi(&record, ends.ours, pool);
	peer_write(ends.peer, "0123456789abc", 13);
	RUN_UNTIL(port, record.count == 1);
	CHECK_INT(record.results[0], 10);
	proa_hold(record.lent[0]);
	proa_hold(record.lent[0]);
	proa_give_back(record.lent[0]);
	proa_give_back(record.lent[0]);
	run_quiet(port);
	CHECK_INT(record.count, 1);
	CHECK_INT(pool_lent(pool), 1);
	CHECK(memcmp(lent_of(&record, 0)->data, "0123456789", 10) == 0);
	proa_give_back(record.lent[0]);
	RUN_UNTIL(port, record.count == 2);
	CHECK_INT(record.results[1], 3);
	CHECK(memcmp(lent_of(&record, 1)->data, "abc", 3) == 0);
	proa_give_back(record.lent[1]);
	CHECK_INT(pool_lent(pool), 0);
	close_ends(port, &ends);
	proa_pool_close(pool);
	test_close(port);
}

TEST(11, "lending", buffers_joined)
{
	struct proa_port *port = test_port();
	struct proa_pool *pool = open_pool(port, 100, 2, 2, 0);
	struct proa_buffer *into = proa_pool_take(pool), *from = proa_pool_take(pool);
	const unsigned char *start;

	CHECK(into != NULL && from != NULL);
	start = into->data;
	CHECK_INT(into->size, from->size);
	fill_bytes(into->data, 60, 0);
	into->length = 60;
	/* Forty consumed: the gap at the front is closed first. */
	into->data += 40;
	into->length -= 40;
	fill_bytes(from->data, 100, 60);
	from->length = 100;
	CHECK_INT(proa_join(into, from), into->size - 20 < 100 ? into->size - 20 : 100);
	CHECK(into->data == start);
	CHECK_INT(into->length + from->length, 120);
	CHECK_BYTES(into->data, into->length, 40);
	CHECK_BYTES(from->data, from->length, 40 + into->length);
	/* Full: nothing moves. */
	if (into->length == into->size) {
		CHECK_INT(proa_join(into, from), 0);
		CHECK_BYTES(from->data, from->length, 40 + into->length);
	}
	into->data += into->length;
	into->length = 0;
	from->length = 5;
	CHECK_INT(proa_join(into, from), 5);
	CHECK(into->data == start);
	CHECK_INT(into->length, 5);
	CHECK_INT(from->length, 0);
	CHECK_INT(proa_join(into, from), 0);
	proa_give_back(into);
	proa_give_back(from);
	proa_pool_close(pool);
	test_close(port);
}

/* What was consumed by moving `data` along does not stay consumed. */
TEST(11, "lending", returned_buffers_are_whole_again)
{
	struct proa_port *port = test_port();
	struct proa_pool *pool = open_pool(port, 64, 1, 1, 0);
	struct ends ends = pair_ends();
	unsigned char bytes[64];
	struct record record;

	fill_bytes(bytes, sizeof(bytes), 0);
	record_init(&record, port);
	start_multi(&record, ends.ours, pool);
	for (unsigned i = 0; i < 10; i++) {
		peer_write(ends.peer, bytes, sizeof(bytes));
		RUN_UNTIL(port, record.count == i + 1);
		CHECK_INT(record.results[i], 64);
		CHECK_BYTES(lent_of(&record, i)->data, 64, 0);
		CHECK(lent_of(&record, i)->size >= 64);
		lent_of(&record, i)->data += 60;
		lent_of(&record, i)->length = 0;
		proa_give_back(record.lent[i]);
	}
	close_ends(port, &ends);
	proa_pool_close(pool);
	test_close(port);
}

/* ---- Rule 11: the forwarding program that this is all for ---- */

struct echo {
	struct record receive;
	proa_handle to;
	struct proa_pool *pool;
	uint64_t sent, wrong;
};

static void echo_sent(struct proa_op *op, const struct proa_completion *c)
{
	struct echo *echo = op->data;
	struct proa_buffer *buffer = (struct proa_buffer *)op;

	CHECK_INT(c->result, buffer->length);
	echo->sent += (uint64_t)c->result;
	proa_give_back(buffer);
}

static void echo_on(struct record *record, const struct proa_completion *c)
{
	struct echo *echo = record->data;
	struct proa_buffer *buffer = proa_lent(c);

	if (buffer == NULL)
		return;
	buffer->op.data = echo;
	proa_prep_send(&buffer->op, echo->to, buffer->data, buffer->length, 0);
	proa_submit(&buffer->op, echo_sent);
}

TEST_SLOW(11, "forwarding", four_megabytes_through_few_buffers)
{
	const uint64_t total = 4 << 20;
	struct proa_port *port = test_port();

	FOR_STREAMS(maker)
	{
		struct ends in = maker->make(false), out = maker->make(true);
		struct peer_writer writer = { .fd = in.peer, .total = total, .ends = true };
		struct peer_reader reader = { .fd = out.peer };
		struct echo echo = { .to = out.ours };

		printf("%s\n", maker->name);
		echo.pool = open_pool(port, 4096, 4, 8, 3);
		record_init(&echo.receive, port);
		echo.receive.then = echo_on;
		echo.receive.data = &echo;
		peer_reader_start(&reader);
		peer_writer_start(&writer);
		start_multi(&echo.receive, in.ours, echo.pool);
		RUN_UNTIL(port, echo.receive.finals == 1 && echo.sent == total);
		CHECK_INT(echo.receive.last, 0);
		CHECK_INT(pool_lent(echo.pool), 0);
		close_handle(port, out.ours);
		close_handle(port, in.ours);
		peer_writer_join(&writer);
		peer_reader_join(&reader);
		CHECK_INT(reader.total, total);
		CHECK_INT(reader.wrong, UINT64_MAX);
		close(out.peer);
		proa_pool_close(echo.pool);
	}
	test_close(port);
}

/* ---- Rule 11: an empty pool ---- */

TEST(11, "empty pool", paused_receives_resume_in_order)
{
	enum { HANDLES = 8 };
	struct proa_port *port = test_port();

	for (int multi = 0; multi < 2; multi++) {
		struct proa_pool *pool = open_pool(port, 100, 2, 2, 0);
		struct ends ends[HANDLES];
		struct record records[HANDLES];
		int64_t cpu;

		for (int i = 0; i < HANDLES; i++) {
			ends[i] = stream_makers[i % PLAIN_MAKERS].make(false);
			record_init(&records[i], port);
			if (multi)
				start_multi(&records[i], ends[i].ours, pool);
			else
				start_lent(&records[i], ends[i].ours, pool);
		}
		run_quiet(port);
		for (int i = 0; i < HANDLES; i++) {
			peer_write(ends[i].peer, "abc", 3);
			run_quiet(port);
			CHECK_INT(records[i].count, i < 2);
		}
		/* Data is there, and no buffer: nobody spins. */
		cpu = test_cpu();
		run_for(port, 200 * PROA_MILLISECOND);
		CHECK(test_cpu() - cpu < 70 * PROA_MILLISECOND * test_factor());
		for (int i = 0; i < HANDLES; i++) {
			for (int j = 0; j < HANDLES; j++)
				CHECK_INT(records[j].count, j < i + 2 && j < HANDLES);
			CHECK_INT(records[i].results[0], 3);
			proa_give_back(records[i].lent[0]);
			run_quiet(port);
		}
		for (int i = 0; i < HANDLES; i++)
			close_ends(port, &ends[i]);
		CHECK_INT(pool_lent(pool), 0);
		proa_pool_close(pool);
	}
	test_close(port);
}

/* Of a pool of one buffer none is missing afterwards, be the end waited for or there. */
TEST(11, "end of a stream", ends_leave_the_buffers)
{
	struct proa_port *port = test_port();
	struct proa_pool *pool = open_pool(port, 100, 1, 1, 0);
	struct proa_buffer *taken;

	for (int there = 0; there < 2; there++)
		FOR_STREAMS(maker)
		{
			struct ends ends = maker->make(false);
			struct record record;

			printf("%s\n", maker->name);
			record_init(&record, port);
			if (there)
				close(ends.peer);
			start_lent(&record, ends.ours, pool);
			if (!there) {
				run_quiet(port);
				close(ends.peer);
			}
			RUN_UNTIL(port, record.finals == 1);
			CHECK_INT(record.last, 0);
			taken = proa_pool_take(pool);
			CHECK(taken != NULL);
			proa_give_back(taken);
			close_handle(port, ends.ours);
		}
	proa_pool_close(pool);
	test_close(port);
}

TEST(11, "empty pool", idle_handles_wait_without_a_buffer)
{
	enum { HANDLES = 12 };
	struct proa_port *port = test_port();
	struct proa_pool *pool = open_pool(port, 100, 1, 1, 0);
	struct proa_buffer *taken = proa_pool_take(pool);
	struct ends ends[HANDLES];
	struct record records[HANDLES];

	CHECK(taken != NULL);
	for (int i = 0; i < HANDLES; i++) {
		ends[i] = stream_makers[i % STREAM_MAKERS].make(false);
		record_init(&records[i], port);
		if (i < HANDLES / 2)
			start_multi(&records[i], ends[i].ours, pool);
		else
			start_lent(&records[i], ends[i].ours, pool);
	}
	check_idle(port, 200 * PROA_MILLISECOND);
	/* The end of a stream needs no buffer to be told of. */
	close(ends[HANDLES - 1].peer);
	run_quiet(port);
	CHECK(records[HANDLES - 1].finals == 0 || records[HANDLES - 1].last == 0);
	proa_give_back(taken);
	RUN_UNTIL(port, records[HANDLES - 1].finals == 1);
	CHECK_INT(records[HANDLES - 1].last, 0);
	check_idle(port, 100 * PROA_MILLISECOND);
	for (int i = 0; i < HANDLES - 1; i++) {
		CHECK_INT(records[i].count, 0);
		peer_write(ends[i].peer, "x", 1);
		RUN_UNTIL(port, records[i].count == 1);
		CHECK_INT(records[i].results[0], 1);
		proa_give_back(records[i].lent[0]);
	}
	for (int i = 0; i < HANDLES; i++) {
		close_handle(port, ends[i].ours);
		if (i < HANDLES - 1)
			close(ends[i].peer);
	}
	proa_pool_close(pool);
	test_close(port);
}

/* Those at the front of the queue need not take what is given back: the one
 * whose data is there gets it. */
TEST(11, "empty pool", a_buffer_goes_where_data_is)
{
	enum { HANDLES = 40 };
	struct proa_port *port = test_port();
	struct proa_pool *pool = open_pool(port, 100, 1, 1, 0);
	struct proa_buffer *taken = proa_pool_take(pool);
	struct ends ends[HANDLES];
	struct record records[HANDLES];

	for (int i = 0; i < HANDLES; i++) {
		ends[i] = pair_ends();
		record_init(&records[i], port);
		start_multi(&records[i], ends[i].ours, pool);
	}
	run_quiet(port);
	for (int i = HANDLES - 1; i >= 0; i -= 13)
		peer_write(ends[i].peer, "x", 1);
	run_quiet(port);
	proa_give_back(taken);
	for (int i = 0; i < 4; i++) {
		struct proa_buffer *got = NULL;

		RUN_UNTIL(port, pool_lent(pool) == 1);
		run_quiet(port);
		for (int j = 0; j < HANDLES; j++) {
			if (records[j].count == 0)
				continue;
			CHECK_INT(records[j].count, 1);
			CHECK_INT((HANDLES - 1 - j) % 13, 0);
			if (records[j].lent[0] != NULL && records[j].number == 0) {
				CHECK(got == NULL);
				got = records[j].lent[0];
				records[j].number = 1;
			}
		}
		CHECK(got != NULL);
		proa_give_back(got);
	}
	run_quiet(port);
	CHECK_INT(pool_lent(pool), 0);
	for (int i = 0; i < HANDLES; i++)
		close_ends(port, &ends[i]);
	proa_pool_close(pool);
	test_close(port);
}

#ifdef _WIN32
NOT_HERE(4, "the stack", paused_receives_that_end_in_a_row, "the stack's size is the program's")
#else
#	include <sys/resource.h>

/* Each that goes on finds the end, and passes the buffer on: not from within itself. */
TEST(4, "the stack", paused_receives_that_end_in_a_row)
{
	enum { HANDLES = 2000 };
	struct rlimit stack = { 200 << 10, 200 << 10 };
	struct proa_port *port = test_port();
	struct proa_pool *pool = open_pool(port, 64, 1, 1, 0);
	struct proa_buffer *taken = proa_pool_take(pool);
	struct ends *ends = calloc(HANDLES, sizeof *ends);
	struct record *records = calloc(HANDLES, sizeof *records);
	struct proa_pool_stats stats;

	CHECK(taken != NULL && ends != NULL && records != NULL);
	if (strcmp(test_engine(), "select") == 0 && getenv("TEST_QEMU_USER") != NULL)
		SKIP("qemu-user's select() takes 1024 descriptors");
	for (int i = 0; i < HANDLES; i++) {
		ends[i] = pair_ends();
		record_init(&records[i], port);
		start_lent(&records[i], ends[i].ours, pool);
		close(ends[i].peer);
	}
	do {
		CHECK(proa_run_once(port, PROA_MILLISECOND) >= 0);
		proa_pool_stats(pool, &stats);
	} while (stats.waits < HANDLES);
	CHECK_SYSTEM(setrlimit(RLIMIT_STACK, &stack));
	proa_give_back(taken);
	for (int i = 0; i < HANDLES; i++) {
		RUN_UNTIL(port, records[i].finals == 1);
		CHECK_INT(records[i].last, 0);
		close_handle(port, ends[i].ours);
	}
	proa_pool_close(pool);
	free(ends);
	free(records);
	test_close(port);
}
#endif

static uint64_t crowd_bytes, crowd_wrong;
static struct proa_buffer *crowd_held[64];
static unsigned crowd_count;

static void crowd_received(struct record *record, const struct proa_completion *c)
{
	struct proa_buffer *buffer = proa_lent(c);

	if (buffer == NULL) {
		crowd_wrong++;
		return;
	}
	crowd_wrong += c->result != 8 || memcmp(buffer->data, &record->number, 8) != 0;
	crowd_bytes += (uint64_t)c->result;
	CHECK(crowd_count < 64);
	crowd_held[crowd_count++] = buffer;
}

/* 1,600 receives with data and sixteen buffers: each give-back costs what it
 * must, not a visit to all that wait. */
TEST_SLOW(11, "empty pool", sixteen_hundred_paused_receives)
{
	enum { HANDLES = 1600, BUFFERS = 16 };
	struct proa_port *port = test_port();
	struct proa_pool *pool = open_pool(port, 64, BUFFERS, BUFFERS, 0);
	struct ends *ends = calloc(HANDLES, sizeof(*ends));
	struct record *records = calloc(HANDLES, sizeof(*records));
	struct proa_port_stats before, after;
	int64_t cpu;

	if (strcmp(test_engine(), "select") == 0 && getenv("TEST_QEMU_USER") != NULL)
		SKIP("the select(2) of qemu-user ends a program with descriptors above 1,023");
	CHECK(ends != NULL && records != NULL);
	for (int i = 0; i < HANDLES; i++) {
		ends[i] = pair_ends();
		record_init(&records[i], port);
		records[i].number = (uint64_t)i * 7919;
		records[i].then = crowd_received;
		start_multi(&records[i], ends[i].ours, pool);
	}
	run_quiet(port);
	for (int i = 0; i < HANDLES; i++)
		peer_write(ends[i].peer, &records[i].number, 8);
	RUN_UNTIL(port, crowd_count == BUFFERS);
	run_quiet(port);
	CHECK_INT(crowd_count, BUFFERS);
	proa_port_stats(port, &before);
	cpu = test_cpu();
	while (crowd_bytes < HANDLES * 8 || crowd_count > 0) {
		uint64_t bytes = crowd_bytes;

		CHECK(crowd_count > 0);
		proa_give_back(crowd_held[--crowd_count]);
		if (bytes < HANDLES * 8)
			RUN_UNTIL(port, crowd_bytes == bytes + 8 || bytes == HANDLES * 8);
	}
	cpu = test_cpu() - cpu;
	proa_port_stats(port, &after);
	printf("%lld ms of processor time, %llu system calls\n",
		(long long)(cpu / PROA_MILLISECOND),
		(unsigned long long)(after.system_calls - before.system_calls));
	CHECK_INT(crowd_wrong, 0);
	CHECK_INT(pool_lent(pool), 0);
	CHECK(after.system_calls - before.system_calls < 20 * HANDLES);
	for (int i = 0; i < HANDLES; i++) {
		CHECK_INT(records[i].count, 1);
		records[i].then = NULL;
		close_ends(port, &ends[i]);
	}
	proa_pool_close(pool);
	test_close(port);
	free(ends);
	free(records);
}

TEST(11, "empty pool", paused_receives_end)
{
	struct proa_port *port = test_port();
	struct proa_pool *pool = open_pool(port, 100, 1, 1, 0);
	struct proa_buffer *taken = proa_pool_take(pool);
	struct ends ends[5];
	struct record records[5];

	for (int i = 0; i < 5; i++) {
		ends[i] = stream_makers[i % PLAIN_MAKERS].make(false);
		record_init(&records[i], port);
		start_multi(&records[i], ends[i].ours, pool);
		peer_write(ends[i].peer, "abc", 3);
		run_quiet(port); /* they pause in this order */
	}
	/* An empty pool pauses a timeout, never a deadline. */
	proa_op_deadline(&records[1].op, proa_now(port) + 60 * PROA_MILLISECOND);
	proa_op_timeout(&records[3].op, 50 * PROA_MILLISECOND);
	run_for(port, 150 * PROA_MILLISECOND);
	CHECK_INT(records[1].finals, 1);
	CHECK_INT(records[1].last, PROA_ETIMEDOUT);
	CHECK_INT(records[3].finals, 0);
	cancel_and_wait(&records[0]);
	close_handle(port, ends[2].ours);
	CHECK_INT(records[2].finals, 1);
	CHECK_INT(records[2].last, PROA_ECANCELED);
	proa_give_back(taken);
	RUN_UNTIL(port, records[3].count == 1);
	CHECK_INT(records[3].results[0], 3);
	CHECK_INT(records[4].count, 0);
	proa_give_back(records[3].lent[0]);
	RUN_UNTIL(port, records[4].count == 1);
	proa_give_back(records[4].lent[0]);
	/* With a buffer free again the timeout counts again. */
	RUN_UNTIL(port, records[3].finals == 1);
	CHECK_INT(records[3].last, PROA_ETIMEDOUT);
	/* The data of those that ended is still there. */
	start_lent(&records[0], ends[0].ours, pool);
	RUN_UNTIL(port, records[0].finals == 1);
	CHECK_INT(records[0].last, 3);
	proa_give_back(records[0].lent[0]);
	for (int i = 0; i < 5; i++) {
		if (i != 2)
			close_handle(port, ends[i].ours);
		close(ends[i].peer);
	}
	CHECK_INT(pool_lent(pool), 0);
	proa_pool_close(pool);
	test_close(port);
}

/* ---- Rule 11: a handle's share ---- */

TEST(11, "share", slow_consumer_stops_alone)
{
	struct proa_port *port = test_port();

	FOR_PLAIN_STREAMS(maker)
	{
		struct proa_pool *pool = open_pool(port, 10, 4, 64, 2);
		struct ends slow = maker->make(false), quick = maker->make(false);
		struct record held, run;

		printf("%s\n", maker->name);
		record_init(&held, port);
		record_init(&run, port);
		start_multi(&held, slow.ours, pool);
		start_multi(&run, quick.ours, pool);
		peer_write(slow.peer, "0000000000111111111122222222223333333333", 40);
		RUN_UNTIL(port, held.count == 2);
		for (int i = 0; i < 500; i++) {
			peer_write(quick.peer, "abc", 3);
			RUN_UNTIL(port, run.count == 1);
			CHECK_INT(run.last, 3);
			proa_give_back(run.lent[0]);
			run.count = 0;
		}
		CHECK_INT(held.count, 2);
		CHECK_INT(pool_lent(pool), 2);
		check_idle(port, 100 * PROA_MILLISECOND);
		proa_give_back(held.lent[1]);
		RUN_UNTIL(port, held.count == 3);
		run_quiet(port);
		CHECK_INT(held.count, 3);
		proa_give_back(held.lent[0]);
		proa_give_back(held.lent[2]);
		RUN_UNTIL(port, held.count == 4);
		CHECK_INT(lent_of(&held, 3)->data[0], '3');
		proa_give_back(held.lent[3]);
		close_ends(port, &slow);
		close_ends(port, &quick);
		CHECK_INT(pool_lent(pool), 0);
		proa_pool_close(pool);
	}
	test_close(port);
}

TEST(11, "share", single_receives_have_a_share_too)
{
	struct proa_port *port = test_port();
	struct proa_pool *pool = open_pool(port, 4, 16, 16, 2);
	struct ends ends = pair_ends();
	struct record receives[4];

	for (int i = 0; i < 4; i++) {
		record_init(&receives[i], port);
		start_lent(&receives[i], ends.ours, pool);
	}
	peer_write(ends.peer, "000011112222", 12);
	RUN_UNTIL(port, receives[1].finals == 1);
	run_quiet(port);
	CHECK_INT(receives[2].finals, 0);
	CHECK_INT(pool_lent(pool), 2);
	proa_give_back(receives[0].lent[0]);
	RUN_UNTIL(port, receives[2].finals == 1);
	CHECK(memcmp(lent_of(&receives[2], 0)->data, "2222", 4) == 0);
	cancel_and_wait(&receives[3]);
	proa_give_back(receives[1].lent[0]);
	proa_give_back(receives[2].lent[0]);
	close_ends(port, &ends);
	proa_pool_close(pool);
	test_close(port);
}

/* More than there are addresses for is too much memory, and no less than was asked. */
TEST(11, "bad input", buffers_of_a_gigabyte)
{
	struct proa_pool_options options = { .buffer_size = 1u << 30, .count = 8 };
	struct proa_port *port = test_port();
	struct proa_pool *pool;
	struct proa_buffer *buffer;
	int error = proa_pool_open(port, &options, &pool);

	if (error == 0) {
		buffer = proa_pool_take(pool);
		CHECK_INT(buffer->size, 1u << 30);
		buffer->data[buffer->size - 1] = 1;
		proa_give_back(buffer);
		proa_pool_close(pool);
	} else {
		CHECK_INT(error, PROA_ENOMEM);
	}
	options.buffer_size++;
	CHECK_INT(proa_pool_open(port, &options, &pool), PROA_EINVAL);
	test_close(port);
}

/* A pool of another port is refused, and those behind go on. */
TEST(11, "bad input", pool_of_another_port)
{
	struct proa_port *port = test_port(), *other = test_port();
	struct proa_pool *pool = open_pool(other, 16, 4, 4, 2);
	struct ends ends = pair_ends();
	struct record before, lent, behind;
	char first[2], second[2];

	record_init(&before, port);
	record_init(&lent, port);
	record_init(&behind, port);
	proa_prep_recv(&before.op, ends.ours, first, 2, 0);
	record_submit(&before);
	start_lent(&lent, ends.ours, pool);
	proa_prep_recv(&behind.op, ends.ours, second, 2, 0);
	record_submit(&behind);
	peer_write(ends.peer, "ab", 2);
	RUN_UNTIL(port, before.finals == 1 && lent.finals == 1);
	CHECK_INT(lent.last, PROA_EINVAL);
	peer_write(ends.peer, "cd", 2);
	RUN_UNTIL(port, behind.finals == 1);
	CHECK_INT(behind.last, 2);
	CHECK(memcmp(second, "cd", 2) == 0);
	close_ends(port, &ends);
	proa_pool_close(pool);
	test_close(port);
	test_close(other);
}

/* What is lent from all pools counts, and each receive has its own pool's bound. */
TEST(11, "share", two_pools_of_one_handle)
{
	struct proa_port *port = test_port();
	struct proa_pool *wide = open_pool(port, 1, 8, 8, 3), *narrow = open_pool(port, 1, 8, 8, 1);
	struct ends ends = pair_ends();
	struct record one, receives[3];

	record_init(&one, port);
	start_lent(&one, ends.ours, narrow);
	peer_write(ends.peer, "0123", 4);
	RUN_UNTIL(port, one.finals == 1);
	for (int i = 0; i < 3; i++) {
		record_init(&receives[i], port);
		start_lent(&receives[i], ends.ours, wide);
	}
	RUN_UNTIL(port, receives[1].finals == 1);
	run_quiet(port);
	CHECK_INT(receives[2].finals, 0);
	proa_give_back(one.lent[0]);
	RUN_UNTIL(port, receives[2].finals == 1);
	for (int i = 0; i < 3; i++)
		proa_give_back(receives[i].lent[0]);
	close_ends(port, &ends);
	proa_pool_close(wide);
	proa_pool_close(narrow);
	test_close(port);
}

/* Those of a pool that was closed count no more, whenever they are given back. */
TEST(11, "share", a_share_ends_with_its_pool)
{
	struct proa_port *port = test_port();

	for (int waits = 0; waits < 2; waits++) {
		struct proa_pool *old = open_pool(port, 4, 8, 8, 1);
		struct proa_pool *pool = open_pool(port, 4, 8, 8, 1);
		struct ends ends = pair_ends();
		struct proa_port_stats stats;
		struct record first, second;

		record_init(&first, port);
		record_init(&second, port);
		start_lent(&first, ends.ours, old);
		peer_write(ends.peer, "01234567", 8);
		RUN_UNTIL(port, first.finals == 1);
		CHECK_INT(first.last, 4);
		if (waits) {
			start_lent(&second, ends.ours, pool);
			run_quiet(port);
			CHECK_INT(second.count, 0);
		}
		proa_pool_close(old);
		proa_port_stats(port, &stats);
		CHECK_INT(stats.lent, pool_lent(pool)); /* it may have gone on */
		if (!waits)
			start_lent(&second, ends.ours, pool);
		RUN_UNTIL(port, second.finals == 1);
		CHECK_INT(second.last, 4);
		CHECK(memcmp(lent_of(&first, 0)->data, "0123", 4) == 0);
		proa_give_back(first.lent[0]);
		proa_port_stats(port, &stats);
		CHECK_INT(stats.lent, 1);
		proa_give_back(second.lent[0]);
		CHECK_INT(pool_lent(pool), 0);
		close_ends(port, &ends);
		proa_pool_close(pool);
	}
	test_close(port);
}

/* Buffers of a handle that was closed count for no later handle of its number. */
TEST(11, "share", a_share_is_of_one_life)
{
	struct proa_port *port = test_port();
	struct proa_pool *pool = open_pool(port, 10, 8, 8, 1);
	struct ends old = pair_ends(), fresh;
	struct record first, second;

	record_init(&first, port);
	record_init(&second, port);
	start_multi(&first, old.ours, pool);
	peer_write(old.peer, "0123456789", 10);
	RUN_UNTIL(port, first.count == 1);
	close_handle(port, old.ours);
	fresh = pair_ends();
	CHECK_INT(fresh.ours, old.ours);
	start_multi(&second, fresh.ours, pool);
	peer_write(fresh.peer, "abcdefghijklmnopqrst", 20);
	RUN_UNTIL(port, second.count == 1);
	proa_give_back(first.lent[0]);
	run_quiet(port);
	CHECK_INT(second.count, 1);
	proa_give_back(second.lent[0]);
	RUN_UNTIL(port, second.count == 2);
	proa_give_back(second.lent[1]);
	close_handle(port, fresh.ours);
	CHECK_INT(pool_lent(pool), 0);
	close(old.peer);
	close(fresh.peer);
	proa_pool_close(pool);
	test_close(port);
}

TEST(11, "share", pause_stops_the_timeout)
{
	struct proa_port *port = test_port();

	for (int waiting_data = 0; waiting_data < 2; waiting_data++) {
		struct proa_pool *pool = open_pool(port, 10, 4, 4, 1);
		struct ends ends = pair_ends();
		struct record record;
		unsigned expected = waiting_data ? 2 : 1;
		int64_t since;

		record_init(&record, port);
		proa_prep_recv_multi(&record.op, ends.ours, pool, 0);
		proa_op_timeout(&record.op, 60 * PROA_MILLISECOND);
		record_submit(&record);
		peer_write(ends.peer, "0123456789abcdefghij", waiting_data ? 20 : 10);
		RUN_UNTIL(port, record.count == 1);
		run_for(port, 200 * PROA_MILLISECOND);
		CHECK_INT(record.count, 1);
		since = test_clock();
		proa_give_back(record.lent[0]);
		if (waiting_data) {
			RUN_UNTIL(port, record.count == 2);
			CHECK_INT(record.results[1], 10);
			run_for(port, 100 * PROA_MILLISECOND);
			CHECK_INT(record.count, 2);
			since = test_clock();
			proa_give_back(record.lent[1]);
		}
		RUN_UNTIL(port, record.finals == 1);
		CHECK_INT(record.count, expected + 1);
		CHECK_INT(record.last, PROA_ETIMEDOUT);
		CHECK(test_clock() - since >= 60 * PROA_MILLISECOND);
		close_ends(port, &ends);
		CHECK_INT(pool_lent(pool), 0);
		proa_pool_close(pool);
	}
	test_close(port);
}

static void burst_received(struct record *record, const struct proa_completion *c)
{
	struct proa_buffer *buffer = proa_lent(c), **held = record->data;

	if (buffer == NULL)
		return;
	CHECK_BYTES(buffer->data, buffer->length, record->number);
	record->number += buffer->length;
	if (held == NULL) {
		proa_give_back(buffer);
		return;
	}
	for (int i = 0; i < 4; i++)
		if (held[i] == NULL) {
			held[i] = buffer;
			return;
		}
	test_fail(__FILE__, __LINE__, "more is lent than its share");
}

/* More messages at once than the system has room to tell of: where it receives on by
 * itself it gives up, while it is being asked to stop. */
TEST(11, "share", more_at_once_than_there_is_room_for)
{
	struct proa_port_options options = { .entries = 8 };
	struct proa_port *port = test_port_with(&options);
	struct proa_pool *pool = open_pool(port, 16, 64, 1024, 4);
	struct proa_buffer *held[4] = { NULL };
	struct ends ends = pair_ends();
	struct record record;
	unsigned char bytes[16 * 400];

	fill_bytes(bytes, sizeof bytes, 0);
	record_init(&record, port);
	record.then = burst_received;
	peer_write(ends.peer, bytes, sizeof bytes);
	proa_prep_recv_multi(&record.op, ends.ours, pool, 0);
	proa_op_timeout(&record.op, 10 * PROA_SECOND);
	record_submit(&record);
	RUN_UNTIL(port, record.number == sizeof bytes);
	/* Its share still holds, */
	record.data = held;
	record.number = 0;
	peer_write(ends.peer, bytes, 16 * 100);
	RUN_UNTIL(port, held[3] != NULL);
	run_quiet(port);
	record.data = NULL;
	for (int i = 0; i < 4; i++)
		proa_give_back(held[i]);
	RUN_UNTIL(port, record.number == 16 * 100);
	/* and its limit in time. */
	proa_op_timeout(&record.op, 20 * PROA_MILLISECOND);
	RUN_UNTIL(port, record.finals == 1);
	CHECK_INT(record.last, PROA_ETIMEDOUT);
	close_ends(port, &ends);
	CHECK_INT(pool_lent(pool), 0);
	proa_pool_close(pool);
	test_close(port);
}

/* Many handles at their share and an empty pool at once, in random order:
 * every byte arrives, once, in order. */
static struct proa_buffer *storm_held[64];
static unsigned storm_count;

static void storm_received(struct record *record, const struct proa_completion *c)
{
	struct proa_buffer *buffer = proa_lent(c);

	if (buffer == NULL)
		return;
	CHECK_BYTES(buffer->data, buffer->length, record->number);
	record->number += buffer->length;
	CHECK(storm_count < 64);
	storm_held[storm_count++] = buffer;
}

static void storm_stuck(const struct proa_pool *pool, const struct record *records, int count)
{
	struct proa_pool_stats stats;

	proa_pool_stats(pool, &stats);
	printf("%d lent, %d free, %u held\n", (int)stats.lent, (int)stats.free, storm_count);
	for (int i = 0; i < count; i++)
		printf("%s: %d bytes, %u final\n", stream_makers[i % STREAM_MAKERS].name,
			(int)records[i].number, records[i].finals);
	test_fail(__FILE__, __LINE__, "no more comes");
}

TEST_SLOW(11, "share", random_give_backs_lose_nothing)
{
	enum { HANDLES = 12, TOTAL = 40000 };
	struct proa_port *port = test_port();
	struct proa_pool *pool = open_pool(port, 512, 2, 10, 3);
	struct ends ends[HANDLES];
	struct record records[HANDLES];
	struct peer_writer writers[HANDLES];
	unsigned seed = 3, ended = 0;
	int64_t until = test_clock() + 10 * PROA_SECOND * test_factor();

	for (int i = 0; i < HANDLES; i++) {
		ends[i] = stream_makers[i % STREAM_MAKERS].make(false);
		record_init(&records[i], port);
		records[i].then = storm_received;
		start_multi(&records[i], ends[i].ours, pool);
		writers[i] = (struct peer_writer) {
			.fd = ends[i].peer, .piece = 700, .total = TOTAL, .ends = true
		};
		peer_writer_start(&writers[i]);
	}
	while (ended < HANDLES || storm_count > 0) {
		CHECK(proa_run_once(port, storm_count > 0 ? 0 : PROA_MILLISECOND) >= 0);
		CHECK(pool_lent(pool) <= 10);
		if (test_clock() > until)
			storm_stuck(pool, records, HANDLES);
		for (int n = rand_r(&seed) % 4; n > 0 && storm_count > 0; n--) {
			unsigned at = (unsigned)rand_r(&seed) % storm_count;

			proa_give_back(storm_held[at]);
			storm_held[at] = storm_held[--storm_count];
		}
		ended = 0;
		for (int i = 0; i < HANDLES; i++)
			ended += records[i].finals;
	}
	for (int i = 0; i < HANDLES; i++) {
		CHECK_INT(records[i].last, 0);
		CHECK_INT(records[i].number, TOTAL);
		peer_writer_join(&writers[i]);
		close_handle(port, ends[i].ours);
	}
	CHECK_INT(pool_lent(pool), 0);
	proa_pool_close(pool);
	test_close(port);
}

/* ---- Rule 11: giving back from elsewhere and later ---- */

static void *give_back_later(void *buffer)
{
	test_sleep(50 * PROA_MILLISECOND);
	proa_give_back(buffer);
	return NULL;
}

TEST(11, "give-back", from_another_thread)
{
	struct proa_port *port = test_port();

	for (int share = 1; share <= 2; share++) {
		/* Paused by its share, then by the empty pool. */
		struct proa_pool *pool =
			open_pool(port, 10, 2, share == 1 ? 2 : 1, (uint32_t)share);
		struct ends ends = pair_ends();
		struct record record;
		pthread_t thread;
		int64_t began;

		record_init(&record, port);
		start_multi(&record, ends.ours, pool);
		peer_write(ends.peer, "0123456789abcdefghij", 20);
		RUN_UNTIL(port, record.count == 1);
		run_quiet(port);
		CHECK_INT(record.count, 1);
		CHECK_INT(pthread_create(&thread, NULL, give_back_later, record.lent[0]), 0);
		began = test_clock();
		while (record.count < 2 && test_clock() < began + 5 * PROA_SECOND)
			CHECK(proa_run_once(port, 10 * PROA_SECOND) >= 0);
		/* The give-back itself must end the wait. */
		CHECK_INT(record.count, 2);
		CHECK(test_clock() - began < 5 * PROA_SECOND);
		CHECK_INT(pthread_join(thread, NULL), 0);
		proa_give_back(record.lent[1]);
		close_ends(port, &ends);
		CHECK_INT(pool_lent(pool), 0);
		proa_pool_close(pool);
	}
	test_close(port);
}

static struct {
	pthread_mutex_t lock;
	struct proa_buffer *buffers[64];
	unsigned count;
	bool ends;
} returning = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void *give_back_all(void *unused)
{
	struct proa_buffer *buffer;
	bool ends;

	(void)unused;
	do {
		pthread_mutex_lock(&returning.lock);
		buffer = returning.count > 0 ? returning.buffers[--returning.count] : NULL;
		ends = returning.ends;
		pthread_mutex_unlock(&returning.lock);
		if (buffer != NULL)
			proa_give_back(buffer);
		else
			test_sleep(20 * PROA_MICROSECOND);
	} while (buffer != NULL || !ends);
	return NULL;
}

static void hand_to_thread(struct record *record, const struct proa_completion *c)
{
	struct proa_buffer *buffer = proa_lent(c);

	if (buffer == NULL)
		return;
	CHECK_BYTES(buffer->data, buffer->length, record->number);
	record->number += buffer->length;
	pthread_mutex_lock(&returning.lock);
	returning.buffers[returning.count++] = buffer;
	pthread_mutex_unlock(&returning.lock);
}

TEST_SLOW(11, "give-back", threads_return_while_receives_run)
{
	enum { THREADS = 3 };
	struct proa_port *port = test_port();
	struct proa_pool *pool = open_pool(port, 100, 3, 7, 5);
	struct ends ends = pair_ends();
	struct peer_writer writer = { .fd = ends.peer, .total = 1 << 20, .ends = true };
	struct record record;
	pthread_t threads[THREADS];

	for (int i = 0; i < THREADS; i++)
		CHECK_INT(pthread_create(&threads[i], NULL, give_back_all, NULL), 0);
	record_init(&record, port);
	record.then = hand_to_thread;
	start_multi(&record, ends.ours, pool);
	peer_writer_start(&writer);
	RUN_UNTIL_WITHIN(port, record.finals == 1, 30 * PROA_SECOND);
	CHECK_INT(record.last, 0);
	CHECK_INT(record.number, 1 << 20);
	peer_writer_join(&writer);
	pthread_mutex_lock(&returning.lock);
	returning.ends = true;
	pthread_mutex_unlock(&returning.lock);
	for (int i = 0; i < THREADS; i++)
		CHECK_INT(pthread_join(threads[i], NULL), 0);
	CHECK(proa_run_once(port, 0) >= 0);
	CHECK_INT(pool_lent(pool), 0);
	close_handle(port, ends.ours);
	proa_pool_close(pool);
	test_close(port);
}

TEST(11, "give-back", after_the_ports_end)
{
	for (int order = 0; order < 4; order++) {
		struct proa_port *port = test_port();
		struct proa_pool *pool = open_pool(port, 10, 2, 4, 0);
		struct ends ends = pair_ends();
		struct proa_buffer *taken;
		struct record record;
		pthread_t thread;

		record_init(&record, port);
		start_multi(&record, ends.ours, pool);
		peer_write(ends.peer, "0123456789abc", 13);
		RUN_UNTIL(port, record.count == 2);
		taken = proa_pool_take(pool);
		CHECK(taken != NULL);
		close_handle(port, ends.ours);
		CHECK_INT(record.last, PROA_ECANCELED);
		if (order == 0)
			proa_pool_close(pool);
		test_close_lending(port);
		CHECK(memcmp(lent_of(&record, 0)->data, "0123456789", 10) == 0);
		CHECK(memcmp(lent_of(&record, 1)->data, "abc", 3) == 0);
		proa_give_back(record.lent[0]);
		if (order == 1)
			proa_pool_close(pool);
		proa_give_back(record.lent[1]);
		if (order == 2)
			proa_pool_close(pool);
		memset(taken->data, 'x', 10);
		CHECK_INT(pthread_create(&thread, NULL, give_back_later, taken), 0);
		CHECK_INT(pthread_join(thread, NULL), 0);
		if (order == 3)
			proa_pool_close(pool);
		close(ends.peer);
	}
}

/* A port that ends with receives in flight and buffers undelivered. */
TEST(11, "give-back", port_closed_over_lent_buffers)
{
	for (int turns = 0; turns < 3; turns++) {
		struct proa_port *port = test_port();
		struct proa_pool *pool = open_pool(port, 10, 2, 8, 0);
		struct ends ends[6];
		struct record records[6];

		for (int i = 0; i < 6; i++) {
			ends[i] = pair_ends();
			record_init(&records[i], port);
			if (i & 1)
				start_multi(&records[i], ends[i].ours, pool);
			else
				start_lent(&records[i], ends[i].ours, pool);
		}
		CHECK(proa_run_once(port, 0) >= 0);
		for (int i = 0; i < 6; i++)
			peer_write(ends[i].peer, "0123456789abcdefghij", 20);
		for (int i = 0; i < turns; i++)
			CHECK(proa_run_once(port, 0) >= 0);
		test_close_lending(port);
		for (int i = 0; i < 6; i++) {
			CHECK_INT(records[i].finals, 1);
			for (unsigned j = 0; j < records[i].count && j < RECORD_KEPT; j++)
				proa_give_back(records[i].lent[j]);
			/* Handles stay open, and ours to close. */
			close(ends[i].ours);
			close(ends[i].peer);
		}
		CHECK_INT(pool_lent(pool), 0);
		proa_pool_close(pool);
	}
}

/* ---- Rules 11, 14 and 17: ends lose no buffer and no data ---- */

static void storm_cancel_received(struct record *record, const struct proa_completion *c)
{
	struct proa_buffer *buffer = proa_lent(c);

	if (buffer == NULL) {
		CHECK((c->flags & PROA_MORE) == 0);
		return;
	}
	CHECK_BYTES(buffer->data, buffer->length, record->number);
	record->number += buffer->length;
	proa_give_back(buffer);
}

TEST_SLOW(11, "ends", cancelled_lent_receives_lose_no_data)
{
	struct proa_port *port = test_port();

	FOR_PLAIN_STREAMS(maker)
	{
		struct proa_pool *pool = open_pool(port, 64, 2, 4, 2);
		struct ends ends = maker->make(false);
		struct peer_writer writer = { .fd = ends.peer,
			.piece = 100,
			.pause = 20 * PROA_MICROSECOND,
			.total = 100000,
			.ends = true };
		struct record record;
		unsigned seed = 5;

		printf("%s\n", maker->name);
		record_init(&record, port);
		record.then = storm_cancel_received;
		peer_writer_start(&writer);
		do {
			if (rand_r(&seed) % 3 == 0)
				start_lent(&record, ends.ours, pool);
			else
				start_multi(&record, ends.ours, pool);
			for (int turns = rand_r(&seed) % 4; turns > 0; turns--)
				CHECK(proa_run_once(port, 50 * PROA_MICROSECOND) >= 0);
			proa_cancel(&record.op);
			RUN_UNTIL(port, record.finals == 1);
			CHECK(record.last >= 0 || record.last == PROA_ECANCELED);
			CHECK_INT(pool_lent(pool), 0);
		} while (record.number < writer.total);
		peer_writer_join(&writer);
		CHECK_INT(record.number, writer.total);
		close_handle(port, ends.ours);
		proa_pool_close(pool);
	}
	test_close(port);
}

static struct {
	struct record *other;
	proa_handle handle;
	struct record closing;
	bool asked;
	int lent_after;
} closer;

/* The first to receive closes the other, whose data is there as well. */
static void close_the_other(struct record *record, const struct proa_completion *c)
{
	struct record *both = record->data;
	struct proa_buffer *buffer = proa_lent(c);

	if (closer.asked && record == closer.other && buffer != NULL)
		closer.lent_after++;
	if (buffer != NULL)
		proa_give_back(buffer);
	if (closer.asked || buffer == NULL)
		return;
	closer.asked = true;
	closer.other = &both[record == &both[0]];
	closer.handle = (proa_handle)closer.other->number;
	record_init(&closer.closing, record->op.port);
	proa_prep_close(&closer.closing.op, closer.handle, 0);
	record_submit(&closer.closing);
}

TEST(11, "ends", close_returns_what_was_not_handed_over)
{
	struct proa_port *port = test_port();

	for (int round = 0; round < 40; round++) {
		const struct stream_maker *maker = &stream_makers[round % PLAIN_MAKERS];
		struct proa_pool *pool = open_pool(port, 10, 4, 8, 8);
		struct ends ends[2];
		struct record records[2];
		proa_handle left;

		memset(&closer, 0, sizeof(closer));
		for (int i = 0; i < 2; i++) {
			ends[i] = maker->make(false);
			record_init(&records[i], port);
			records[i].then = close_the_other;
			records[i].data = records;
			records[i].number = (uint64_t)ends[i].ours;
			if (round & 1)
				start_multi(&records[i], ends[i].ours, pool);
			else
				start_lent(&records[i], ends[i].ours, pool);
		}
		CHECK(proa_run_once(port, 0) >= 0);
		for (int i = 0; i < 2; i++)
			peer_write(ends[(round / 2 + i) & 1].peer, "0123456789abcdefghij", 20);
		RUN_UNTIL(port, closer.closing.finals == 1);
		CHECK_INT(closer.closing.last, 0);
		CHECK_INT(closer.lent_after, 0);
		CHECK_INT(closer.other->finals, 1);
		CHECK(closer.other->order < closer.closing.order);
		left = closer.other == &records[0] ? ends[1].ours : ends[0].ours;
		run_quiet(port);
		CHECK_INT(pool_lent(pool), 0);
		close_handle(port, left);
		CHECK_INT(pool_lent(pool), 0);
		close(ends[0].peer);
		close(ends[1].peer);
		proa_pool_close(pool);
	}
	test_close(port);
}

/* Data comes, and before the port looks again the handle is closed. */
TEST(11, "ends", close_returns_what_was_on_its_way)
{
	struct proa_port *port = test_port();

	FOR_STREAMS(maker)
	{
		for (int multi = 0; multi < 2; multi++) {
			struct proa_pool *pool = open_pool(port, 10, 4, 8, 8);
			struct ends ends = maker->make(false);
			struct record record;

			record_init(&record, port);
			if (multi)
				start_multi(&record, ends.ours, pool);
			else
				start_lent(&record, ends.ours, pool);
			CHECK_INT(proa_run_once(port, 0), 0);
			peer_write(ends.peer, "0123456789abcdefghij", 20);
			close_handle(port, ends.ours);
			CHECK_INT(record.count, 1);
			CHECK_INT(record.last, PROA_ECANCELED);
			CHECK_INT(record.flags[0] & PROA_LENT, 0);
			CHECK_INT(pool_lent(pool), 0);
			close(ends.peer);
			proa_pool_close(pool);
		}
	}
	test_close(port);
}

/* The same with a program that dequeues: one completion is taken, the others,
 * which may be in the port already, are never seen. */
TEST(11, "ends", close_returns_what_was_not_dequeued)
{
	struct proa_port *port = test_port();

	FOR_STREAMS(maker)
	{
		struct proa_pool *pool = open_pool(port, 10, 8, 8, 8);
		struct ends ends = maker->make(false);
		struct record record, closing;
		struct proa_completion first = { 0 };
		int n;

		printf("%s\n", maker->name);
		record_init(&record, port);
		record_init(&closing, port);
		start_multi(&record, ends.ours, pool);
		CHECK_INT(proa_wait(port, &first, 1, 0), 0);
		peer_write(ends.peer, "0123456789abcdefghijABCDEFGHIJ", 30);
		while ((n = proa_wait(port, &first, 1, PROA_SECOND)) == 0)
			;
		CHECK_INT(n, 1);
		proa_dispatch(&first);
		CHECK_INT(record.count, 1);
		CHECK(memcmp(lent_of(&record, 0)->data, "0123456789", 10) == 0);
		proa_prep_close(&closing.op, ends.ours, 0);
		record_submit(&closing);
		RUN_UNTIL(port, closing.finals == 1);
		CHECK_INT(closing.last, 0);
		CHECK_INT(record.count, 2);
		CHECK_INT(record.finals, 1);
		CHECK_INT(record.last, PROA_ECANCELED);
		CHECK(record.order < closing.order);
		CHECK_INT(pool_lent(pool), 1);
		proa_give_back(record.lent[0]);
		CHECK_INT(pool_lent(pool), 0);
		close(ends.peer);
		proa_pool_close(pool);
	}
	test_close(port);
}

/* What had come in beyond the share is handed over then, and after it the stream's own
 * end: it had come to it before it was asked to end. */
TEST(11, "ends", ended_receive_at_its_share_ends)
{
	for (int way = 0; way < 3; way++) {
		struct proa_port *port = test_port();
		struct proa_pool *pool = open_pool(port, 16, 64, 1024, 1);
		struct ends ends = pair_ends();
		struct record record;
		unsigned char bytes[64];
		size_t got = 0;

		fill_bytes(bytes, sizeof bytes, 0);
		peer_write(ends.peer, bytes, sizeof bytes);
		close(ends.peer);
		record_init(&record, port);
		start_multi(&record, ends.ours, pool);
		RUN_UNTIL(port, record.count == 1);
		run_quiet(port);
		CHECK_INT(record.count, 1);
		if (way == 0)
			proa_cancel(&record.op);
		else if (way == 1)
			proa_op_deadline(&record.op, 1);
		else
			test_close_lending(port);
		if (way < 2)
			RUN_UNTIL(port, record.finals == 1);
		CHECK_INT(record.finals, 1);
		for (unsigned i = 0; i < record.count - 1; i++) {
			CHECK_BYTES(lent_of(&record, i)->data, lent_of(&record, i)->length, got);
			got += lent_of(&record, i)->length;
			proa_give_back(record.lent[i]);
		}
		/* It had all, or the rest is still in the stream. */
		if (record.last == 0)
			CHECK_INT(got, sizeof bytes);
		else
			CHECK_INT(record.last, way == 1 ? PROA_ETIMEDOUT : PROA_ECANCELED);
		if (way < 2)
			close_handle(port, ends.ours);
		else
			close(ends.ours);
		CHECK_INT(pool_lent(pool), 0);
		proa_pool_close(pool);
		if (way < 2)
			test_close(port);
	}
}

TEST(11, "ends", reset_ends_a_multishot)
{
	struct proa_port *port = test_port();
	struct proa_pool *pool = open_pool(port, 100, 4, 4, 0);
	struct ends ends = tcp_ends();
	struct record record;

	SKIP_WITHOUT_RESETS();
	record_init(&record, port);
	start_multi(&record, ends.ours, pool);
	peer_write(ends.peer, "abc", 3);
	RUN_UNTIL(port, record.count == 1);
	reset_on_close(ends.peer);
	close(ends.peer);
	RUN_UNTIL(port, record.finals == 1);
	CHECK_INT(record.count, 2);
	CHECK_INT(record.last, PROA_ECONNRESET);
	CHECK_INT(record.flags[1] & PROA_LENT, 0);
	proa_give_back(record.lent[0]);
	CHECK_INT(pool_lent(pool), 0);
	close_handle(port, ends.ours);
	proa_pool_close(pool);
	test_close(port);
}

/* ---- Rule 12: datagrams ---- */

/* A plain UDP socket on loopback, bound, and its address. */
static int udp_peer(int family, struct proa_address *address)
{
	int fd = CHECK_SYSTEM(socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	struct sockaddr_in four = { .sin_family = AF_INET };
	struct sockaddr_in6 six = { .sin6_family = AF_INET6 };
	socklen_t length = sizeof(address->to);

	four.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	six.sin6_addr = in6addr_loopback;
	if (family == AF_INET)
		CHECK_SYSTEM(bind(fd, (struct sockaddr *)&four, sizeof(four)));
	else if (bind(fd, (struct sockaddr *)&six, sizeof(six)) < 0)
		SKIP("no IPv6 loopback here: %s", strerror(errno));
	memset(address, 0, sizeof(*address));
	CHECK_SYSTEM(getsockname(fd, &address->to.any, &length));
	address->length = length;
	return fd;
}

static proa_handle udp_ours(struct proa_port *port, const char *where, struct proa_address *address)
{
	struct proa_listen_options options = { .type = PROA_DATAGRAM };
	proa_handle handle;

	CHECK_INT(proa_listen(port, where, &options, &handle), 0);
	CHECK_INT(proa_local_address(handle, address), 0);
	return handle;
}

static void udp_send(int fd, const void *bytes, size_t length, const struct proa_address *to)
{
	CHECK_INT(sendto(fd, bytes, length, 0, &to->to.any, to->length), (ssize_t)length);
}

static bool same_address(const struct proa_address *a, const struct proa_address *b)
{
	char left[PROA_ADDRESS_TEXT], right[PROA_ADDRESS_TEXT];

	CHECK(proa_address_text(a, left, sizeof(left)) > 0);
	CHECK(proa_address_text(b, right, sizeof(right)) > 0);
	if (strcmp(left, right) != 0)
		printf("%s is not %s\n", left, right);
	return strcmp(left, right) == 0;
}

static void datagrams_with_senders(int family, const char *where)
{
	struct proa_port *port = test_port();
	struct proa_address here, there, from;
	proa_handle ours = udp_ours(port, where, &here);
	int peer = udp_peer(family, &there);
	char bytes[32];
	struct record record;

	record_init(&record, port);
	memset(&from, 0xee, sizeof(from));
	proa_prep_recvfrom(&record.op, ours, bytes, sizeof(bytes), &from, 0);
	record_submit(&record);
	run_quiet(port);
	CHECK_INT(record.finals, 0);
	udp_send(peer, "hello", 5, &here);
	RUN_UNTIL(port, record.finals == 1);
	CHECK_INT(record.last, 5);
	CHECK(memcmp(bytes, "hello", 5) == 0);
	CHECK(same_address(&from, &there));
	proa_prep_sendto(&record.op, ours, "answer", 6, &from, 0);
	CHECK_INT(record_run(&record), 6);
	CHECK_INT(recv(peer, bytes, sizeof(bytes), 0), 6);
	CHECK(memcmp(bytes, "answer", 6) == 0);
	/* Who does not ask for the sender need not be told. */
	udp_send(peer, "again", 5, &here);
	proa_prep_recvfrom(&record.op, ours, bytes, sizeof(bytes), NULL, 0);
	CHECK_INT(record_run(&record), 5);
	close_handle(port, ours);
	close(peer);
	test_close(port);
}

TEST(12, "senders", udp_v4)
{
	datagrams_with_senders(AF_INET, "127.0.0.1:0");
}

TEST(12, "senders", udp_v6)
{
	datagrams_with_senders(AF_INET6, "[::1]:0");
}

TEST(12, "senders", lent_datagram_knows_its_sender)
{
	struct proa_port *port = test_port();
	struct proa_pool *pool = open_pool(port, 100, 8, 8, 8);
	struct proa_address here, there[2], from;
	proa_handle ours = udp_ours(port, "127.0.0.1:0", &here);
	int peers[2] = { udp_peer(AF_INET, &there[0]), udp_peer(AF_INET, &there[1]) };
	struct record record;

	record_init(&record, port);
	start_multi(&record, ours, pool);
	for (unsigned i = 0; i < 6; i++) {
		udp_send(peers[i % 2], &"abcdefgh"[i], 3, &here);
		RUN_UNTIL(port, record.count == i + 1);
		CHECK_INT(record.results[i], 3);
		CHECK((record.flags[i] & (PROA_MORE | PROA_LENT)) == (PROA_MORE | PROA_LENT));
	}
	for (unsigned i = 0; i < 6; i++) {
		memset(&from, 0, sizeof(from));
		CHECK_INT(proa_lent_from(record.lent[i], &from), 0);
		CHECK(same_address(&from, &there[i % 2]));
		CHECK(memcmp(lent_of(&record, i)->data, &"abcdefgh"[i], 3) == 0);
		proa_give_back(record.lent[i]);
	}
	cancel_and_wait(&record);
	CHECK_INT(pool_lent(pool), 0);
	close_handle(port, ours);
	close(peers[0]);
	close(peers[1]);
	proa_pool_close(pool);
	test_close(port);
}

TEST(12, "senders", unix_datagrams)
{
	struct proa_port *port = test_port();
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	struct proa_address here, there, from;
	char where[256], bytes[16];
	struct record record;
	proa_handle ours;
	int peer = CHECK_SYSTEM(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));

	snprintf(where, sizeof(where), "unix:%s", test_path("ours"));
	ours = udp_ours(port, where, &here);
	snprintf(name.sun_path, sizeof(name.sun_path), "%s", test_path("peer"));
	CHECK_SYSTEM(bind(peer, (struct sockaddr *)&name, sizeof(name)));
	snprintf(where, sizeof(where), "unix:%s", test_path("peer"));
	CHECK_INT(proa_address_parse(&there, where), 0);
	record_init(&record, port);
	proa_prep_recvfrom(&record.op, ours, bytes, sizeof(bytes), &from, 0);
	record_submit(&record);
	udp_send(peer, "hello", 5, &here);
	RUN_UNTIL(port, record.finals == 1);
	CHECK_INT(record.last, 5);
	CHECK(same_address(&from, &there));
	proa_prep_sendto(&record.op, ours, "back", 4, &there, 0);
	CHECK_INT(record_run(&record), 4);
	CHECK_INT(recv(peer, bytes, sizeof(bytes), 0), 4);
	close_handle(port, ours);
	close(peer);
	test_close(port);
}

/* Addresses of UNIX sockets differ in length: what is answered to has to be exact. */
TEST(12, "senders", lent_unix_datagrams)
{
	SKIP_WITHOUT_UNIX_SOCKETS();
	struct proa_port *port = test_port();
	struct proa_pool *pool = open_pool(port, 100, 8, 8, 8);
	struct proa_address here, there, from;
	char where[256], bytes[16];
	struct record record;
	proa_handle ours;
	int peer, nameless = CHECK_SYSTEM(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));

	snprintf(where, sizeof(where), "unix:%s", test_path("ours"));
	ours = udp_ours(port, where, &here);
	record_init(&record, port);
	for (int abstract = 0; abstract < 2; abstract++) {
		peer = CHECK_SYSTEM(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
		if (abstract)
			snprintf(where, sizeof(where), "unix:@proa-test-%d", (int)getpid());
		else
			snprintf(where, sizeof(where), "unix:%s", test_path("peer"));
		if (proa_address_parse(&there, where) < 0 ||
			bind(peer, &there.to.any, there.length) < 0)
			SKIP("no abstract names here");
		start_lent(&record, ours, pool);
		udp_send(peer, "hello", 5, &here);
		RUN_UNTIL(port, record.finals == 1);
		CHECK_INT(record.last, 5);
		CHECK_INT(proa_lent_from(record.lent[0], &from), 0);
		CHECK(same_address(&from, &there));
		proa_give_back(record.lent[0]);
		proa_prep_sendto(&record.op, ours, "back", 4, &from, 0);
		CHECK_INT(record_run(&record), 4);
		CHECK_INT(recv(peer, bytes, sizeof(bytes), 0), 4);
		close(peer);
	}
	start_lent(&record, ours, pool);
	udp_send(nameless, "who", 3, &here);
	RUN_UNTIL(port, record.finals == 1);
	CHECK_INT(record.last, 3);
	CHECK_INT(proa_lent_from(record.lent[0], &from), PROA_EINVAL);
	proa_give_back(record.lent[0]);
	close_handle(port, ours);
	close(nameless);
	proa_pool_close(pool);
	test_close(port);
}

TEST(12, "zero length", empty_datagrams_end_nothing)
{
	struct proa_port *port = test_port();
	struct proa_pool *pool = open_pool(port, 100, 8, 8, 8);
	struct proa_address here, there, from;
	proa_handle ours = udp_ours(port, "127.0.0.1:0", &here);
	int peer = udp_peer(AF_INET, &there);
	char bytes[8];
	struct record record;

	record_init(&record, port);
	for (int i = 0; i < 2; i++) {
		udp_send(peer, "", 0, &here);
		proa_prep_recvfrom(&record.op, ours, bytes, sizeof(bytes), &from, 0);
		CHECK_INT(record_run(&record), 0);
		CHECK(same_address(&from, &there));
	}
	udp_send(peer, "", 0, &here);
	proa_prep_recv(&record.op, ours, bytes, sizeof(bytes), 0);
	CHECK_INT(record_run(&record), 0);
	start_multi(&record, ours, pool);
	for (unsigned i = 0; i < 4; i++) {
		udp_send(peer, "x", i & 1, &here);
		RUN_UNTIL(port, record.count == i + 1);
		CHECK_INT(record.results[i], i & 1);
		CHECK((record.flags[i] & PROA_MORE) != 0);
		/* It is a datagram like any other: it has a sender. */
		CHECK((record.flags[i] & PROA_LENT) != 0);
		CHECK_INT(proa_lent_from(record.lent[i], &from), 0);
		CHECK(same_address(&from, &there));
		proa_give_back(record.lent[i]);
	}
	cancel_and_wait(&record);
	CHECK_INT(pool_lent(pool), 0);
	/* ... and outwards. */
	proa_prep_sendto(&record.op, ours, NULL, 0, &there, 0);
	CHECK_INT(record_run(&record), 0);
	proa_prep_sendto(&record.op, ours, "x", 1, &there, 0);
	CHECK_INT(record_run(&record), 1);
	CHECK_INT(recv(peer, bytes, sizeof(bytes), 0), 0);
	CHECK_INT(recv(peer, bytes, sizeof(bytes), 0), 1);
	close_handle(port, ours);
	close(peer);
	proa_pool_close(pool);
	test_close(port);
}

/* Of a connection that keeps messages apart an empty one is one, as long as it lasts. */
TEST(12, "zero length", end_of_a_connection_of_messages)
{
	SKIP_WITHOUT_UNIX_SOCKETS();
	struct proa_port *port = test_port();
	struct proa_pool *pool = open_pool(port, 100, 8, 8, 8);
	struct ends ends = unix_ends_of(SOCK_SEQPACKET);
	struct record record;

	record_init(&record, port);
	start_multi(&record, ends.ours, pool);
	CHECK_SYSTEM(send(ends.peer, "one", 3, 0));
	CHECK_SYSTEM(send(ends.peer, "", 0, 0));
	run_quiet(port);
	CHECK_SYSTEM(send(ends.peer, "two", 3, 0));
	close(ends.peer);
	RUN_UNTIL(port, record.finals == 1);
	CHECK_INT(record.count, 4);
	CHECK_INT(record.results[0], 3);
	CHECK_INT(record.results[1], 0);
	CHECK(record.flags[1] & PROA_MORE);
	CHECK_INT(record.results[2], 3);
	CHECK_INT(record.last, 0);
	CHECK_INT(pool_lent(pool), 3);
	for (int i = 0; i < 3; i++)
		proa_give_back(record.lent[i]);
	start_lent(&record, ends.ours, pool);
	RUN_UNTIL(port, record.finals == 1);
	CHECK_INT(record.last, 0);
	CHECK_INT(record.flags[0] & PROA_LENT, 0);
	close_handle(port, ends.ours);
	proa_pool_close(pool);
	test_close(port);
}

TEST(12, "zero length", empty_datagram_breaks_no_chain)
{
	struct proa_port *port = test_port();
	struct proa_pool *pool = open_pool(port, 100, 8, 8, 8);
	struct proa_address here, there;
	proa_handle ours = udp_ours(port, "127.0.0.1:0", &here);
	int peer = udp_peer(AF_INET, &there);
	struct record records[3];
	char bytes[8];

	for (int i = 0; i < 3; i++)
		record_init(&records[i], port);
	proa_prep_recv(&records[0].op, ours, bytes, sizeof(bytes), PROA_ALL);
	proa_prep_recv_lent(&records[1].op, ours, pool, 0);
	proa_prep_timer(&records[2].op, 0);
	proa_link(&records[0].op, &records[1].op, recorded);
	proa_link(&records[1].op, &records[2].op, recorded);
	record_submit(&records[0]);
	udp_send(peer, "", 0, &here);
	udp_send(peer, "", 0, &here);
	RUN_UNTIL(port, records[2].finals == 1);
	for (int i = 0; i < 3; i++)
		CHECK_INT(records[i].last, 0);
	proa_give_back(records[1].lent[0]);
	close_handle(port, ours);
	close(peer);
	proa_pool_close(pool);
	test_close(port);
}

TEST(12, "cut", datagram_longer_than_the_buffer)
{
	struct proa_port *port = test_port();
	struct proa_address here, there, from;
	proa_handle ours = udp_ours(port, "127.0.0.1:0", &here);
	int peer = udp_peer(AF_INET, &there);
	struct proa_slice slices[2];
	struct proa_message message = { .slices = slices, .slice_count = 2 };
	char bytes[16] = "";
	struct record record;

	record_init(&record, port);
	udp_send(peer, "0123456789", 10, &here);
	proa_prep_recvfrom(&record.op, ours, bytes, 4, &from, 0);
	CHECK_INT(record_run(&record), PROA_EMSGSIZE);
	CHECK_INT(proa_op_count(&record.op), 4);
	CHECK(memcmp(bytes, "0123\0", 5) == 0);
	CHECK(same_address(&from, &there));
	udp_send(peer, "abcdefghij", 10, &here);
	proa_prep_recv(&record.op, ours, bytes, 9, 0);
	CHECK_INT(record_run(&record), PROA_EMSGSIZE);
	CHECK_INT(proa_op_count(&record.op), 9);
	CHECK(memcmp(bytes, "abcdefghi\0", 10) == 0);
	slices[0] = (struct proa_slice)SLICE(bytes, 2);
	slices[1] = (struct proa_slice)SLICE(bytes + 8, 3);
	udp_send(peer, "0123456789", 10, &here);
	proa_prep_recvmsg(&record.op, ours, &message, 0);
	CHECK_INT(record_run(&record), PROA_EMSGSIZE);
	CHECK_INT(proa_op_count(&record.op), 5);
	CHECK(memcmp(bytes, "01cdefgh234", 11) == 0);
	CHECK(same_address(&message.peer, &there));
	/* What was cut off is gone: the next is the next. An exact fit is whole. */
	udp_send(peer, "0123456789", 10, &here);
	proa_prep_recvfrom(&record.op, ours, bytes, 10, NULL, 0);
	CHECK_INT(record_run(&record), 10);
	close_handle(port, ours);
	close(peer);
	test_close(port);
}

TEST(12, "cut", lent_datagram_longer_than_the_buffer)
{
	struct proa_port *port = test_port();
	struct proa_pool *pool = open_pool(port, 16, 8, 8, 8);
	struct proa_address here, there, from;
	proa_handle ours = udp_ours(port, "127.0.0.1:0", &here);
	int peer = udp_peer(AF_INET, &there);
	unsigned char bytes[4000];
	struct record record;

	fill_bytes(bytes, sizeof(bytes), 0);
	record_init(&record, port);
	start_multi(&record, ours, pool);
	udp_send(peer, bytes, sizeof(bytes), &here);
	RUN_UNTIL(port, record.count == 1);
	CHECK_INT(record.results[0], PROA_EMSGSIZE);
	CHECK((record.flags[0] & PROA_MORE) != 0);
	/* As much as there was room for, and who sent it. */
	CHECK((record.flags[0] & PROA_LENT) != 0);
	CHECK(lent_of(&record, 0)->length >= 16 &&
		lent_of(&record, 0)->length <= lent_of(&record, 0)->size);
	CHECK_BYTES(lent_of(&record, 0)->data, lent_of(&record, 0)->length, 0);
	CHECK_INT(proa_lent_from(record.lent[0], &from), 0);
	CHECK(same_address(&from, &there));
	proa_give_back(record.lent[0]);
	/* It goes on. */
	udp_send(peer, bytes, 16, &here);
	RUN_UNTIL(port, record.count == 2);
	CHECK_INT(record.results[1], 16);
	CHECK_BYTES(lent_of(&record, 1)->data, 16, 0);
	proa_give_back(record.lent[1]);
	cancel_and_wait(&record);
	CHECK_INT(pool_lent(pool), 0);
	close_handle(port, ours);
	close(peer);
	proa_pool_close(pool);
	test_close(port);
}

/* Where there are many buffers an engine may leave the choice of one to the kernel. */
TEST(12, "lending", datagrams_of_a_large_pool)
{
	static const size_t lengths[] = { 30, 0, 100, 300, 0, 64, 1 };
	enum { COUNT = sizeof(lengths) / sizeof(lengths[0]) };
	struct proa_port *port = test_port();
	struct proa_pool *pool = open_pool(port, 100, 16, 4000, 200);
	struct proa_address here, there, from;
	proa_handle ours = udp_ours(port, "127.0.0.1:0", &here);
	int peer = udp_peer(AF_INET, &there);
	unsigned char bytes[300];
	struct record record, single;

	fill_bytes(bytes, sizeof(bytes), 0);
	record_init(&record, port);
	record_init(&single, port);
	for (int several = 0; several < 2; several++) {
		start_multi(&record, ours, pool);
		run_quiet(port);
		for (unsigned i = 0; i < COUNT; i++) {
			udp_send(peer, bytes, lengths[i], &here);
			if (!several)
				RUN_UNTIL(port, record.count == i + 1);
		}
		RUN_UNTIL(port, record.count == COUNT);
		for (unsigned i = 0; i < COUNT; i++) {
			size_t length = lengths[i] > 100 ? 100 : lengths[i];

			CHECK_INT(record.results[i],
				lengths[i] > 100 ? PROA_EMSGSIZE : (int)lengths[i]);
			CHECK((record.flags[i] & (PROA_MORE | PROA_LENT)) ==
				(PROA_MORE | PROA_LENT));
			CHECK_INT(lent_of(&record, i)->length, length);
			CHECK_BYTES(lent_of(&record, i)->data, length, 0);
			CHECK_INT(proa_lent_from(record.lent[i], &from), 0);
			CHECK(same_address(&from, &there));
			proa_give_back(record.lent[i]);
		}
		cancel_and_wait(&record);
		/* One alone, which waits or finds it there. */
		for (int waits = 0; waits < 2; waits++) {
			proa_prep_recv_lent(&single.op, ours, pool, 0);
			if (waits)
				record_submit(&single);
			run_quiet(port);
			udp_send(peer, bytes, 77, &here);
			if (!waits)
				record_submit(&single);
			RUN_UNTIL(port, single.finals == 1);
			CHECK_INT(single.last, 77);
			CHECK_BYTES(lent_of(&single, 0)->data, 77, 0);
			proa_give_back(single.lent[0]);
		}
	}
	CHECK_INT(pool_lent(pool), 0);
	/* What waits when the handle is closed. */
	start_multi(&record, ours, pool);
	run_quiet(port);
	close_handle(port, ours);
	CHECK_INT(record.finals, 1);
	CHECK_INT(pool_lent(pool), 0);
	close(peer);
	proa_pool_close(pool);
	test_close(port);
}

TEST(12, "lending", datagrams_pause_on_an_empty_pool)
{
	struct proa_port *port = test_port();
	struct proa_pool *pool = open_pool(port, 100, 2, 2, 1);
	struct proa_address here, there;
	proa_handle ours = udp_ours(port, "127.0.0.1:0", &here);
	int peer = udp_peer(AF_INET, &there);
	struct record record;

	record_init(&record, port);
	start_multi(&record, ours, pool);
	for (int i = 0; i < 8; i++)
		udp_send(peer, &"01234567"[i], 1, &here);
	for (unsigned i = 0; i < 8; i++) {
		RUN_UNTIL(port, record.count == i + 1);
		run_quiet(port);
		CHECK_INT(record.count, i + 1);
		CHECK_INT(record.results[i], 1);
		CHECK_INT(lent_of(&record, i)->data[0], '0' + i);
		proa_give_back(record.lent[i]);
	}
	cancel_and_wait(&record);
	close_handle(port, ours);
	close(peer);
	CHECK_INT(pool_lent(pool), 0);
	proa_pool_close(pool);
	test_close(port);
}

/* Sends that wait on a stream may go out as one; messages never do. */
static void messages_kept_apart(struct proa_port *port, int type)
{
	enum { MESSAGES = 600 };
	struct ends ends = unix_ends_of(type);
	struct record *sends = calloc(MESSAGES, sizeof(*sends));
	bool seen[MESSAGES] = { false };
	int32_t numbers[MESSAGES];
	char got[64];

	CHECK(sends != NULL);
	for (int i = 0; i < MESSAGES; i++) {
		record_init(&sends[i], port);
		numbers[i] = i;
		proa_prep_send(&sends[i].op, ends.ours, &numbers[i], sizeof(numbers[i]), 0);
		record_submit(&sends[i]);
	}
	/* Far more than the peer's queue holds: the rest waits for room. */
	run_quiet(port);
	for (int i = 0; i < MESSAGES; i++) {
		int32_t value = 0;
		ssize_t n;

		while ((n = recv(ends.peer, got, sizeof(got), MSG_DONTWAIT)) < 0) {
			CHECK_INT(errno, EAGAIN);
			CHECK(proa_run_once(port, PROA_MILLISECOND) >= 0);
		}
		CHECK_INT(n, 4);
		memcpy(&value, got, 4);
		CHECK(value >= 0 && value < MESSAGES && !seen[value]);
		seen[value] = true;
	}
	for (int number = 0; number < MESSAGES; number++) {
		RUN_UNTIL(port, sends[number].finals == 1);
		CHECK_INT(sends[number].last, 4);
	}
	close_handle(port, ends.ours);
	close(ends.peer);
	free(sends);
}

/* Datagrams have no lane, but a handle's share is the same: of receives in flight
 * together, and of one that comes when it is all lent. */
TEST(12, "lending", datagrams_have_a_share_too)
{
	SKIP_WITHOUT_UNIX_SOCKETS();
	struct proa_port *port = test_port(), *other = test_port();
	struct proa_pool *pool = open_pool(port, 16, 8, 8, 2);
	struct proa_pool *strange = open_pool(other, 16, 8, 8, 2);
	struct ends ends = unix_ends_of(SOCK_DGRAM);
	struct record receives[5];

	for (int i = 0; i < 4; i++) {
		record_init(&receives[i], port);
		start_lent(&receives[i], ends.ours, pool);
	}
	for (int i = 0; i < 5; i++)
		peer_write(ends.peer, &"01234"[i], 1);
	run_quiet(port);
	CHECK_INT(pool_lent(pool), 2);
	record_init(&receives[4], port);
	start_lent(&receives[4], ends.ours, pool);
	run_quiet(port);
	CHECK_INT(pool_lent(pool), 2);
	for (int given = 0; given < 5; given++)
		for (int i = 0; i < 5; i++)
			if (receives[i].lent[0] != NULL) {
				proa_give_back(receives[i].lent[0]);
				receives[i].lent[0] = NULL;
				run_quiet(port);
				CHECK(pool_lent(pool) <= 2);
			}
	for (int i = 0; i < 5; i++) {
		CHECK_INT(receives[i].finals, 1);
		CHECK_INT(receives[i].last, 1);
	}
	CHECK_INT(pool_lent(pool), 0);
	/* What waits for its share with a datagram delivers it when cancelled. */
	for (int i = 0; i < 4; i++)
		start_lent(&receives[i], ends.ours, pool);
	for (int i = 0; i < 4; i++)
		peer_write(ends.peer, "x", 1);
	run_quiet(port);
	proa_cancel_handle(port, ends.ours);
	for (int i = 0; i < 4; i++) {
		RUN_UNTIL(port, receives[i].finals == 1);
		if (receives[i].last == 1)
			proa_give_back(receives[i].lent[0]);
		else
			CHECK_INT(receives[i].last, PROA_ECANCELED);
	}
	start_lent(&receives[0], ends.ours, strange);
	RUN_UNTIL(port, receives[0].finals == 1);
	CHECK_INT(receives[0].last, PROA_EINVAL);
	close_ends(port, &ends);
	proa_pool_close(pool);
	proa_pool_close(strange);
	test_close(port);
	test_close(other);
}

/* Who waits for a buffer does not wait for one that stands at its share; and of those
 * that do, all go on, for each may be cancelled. */
TEST(12, "lending", datagrams_at_their_share_hold_nobody_up)
{
	SKIP_WITHOUT_UNIX_SOCKETS();
	struct proa_port *port = test_port();
	struct proa_pool *pool = open_pool(port, 16, 2, 2, 1);
	struct ends ends = unix_ends_of(SOCK_DGRAM), stream = pair_ends();
	struct proa_buffer *taken = proa_pool_take(pool);
	struct record first, waiting[2], other;

	record_init(&first, port);
	record_init(&other, port);
	start_lent(&first, ends.ours, pool);
	for (int i = 0; i < 2; i++) {
		record_init(&waiting[i], port);
		start_lent(&waiting[i], ends.ours, pool);
	}
	peer_write(ends.peer, "a", 1);
	peer_write(ends.peer, "b", 1);
	run_quiet(port); /* one is lent: the others find none */
	CHECK_INT(pool_lent(pool), 2);
	start_lent(&other, stream.ours, pool);
	peer_write(stream.peer, "s", 1);
	run_quiet(port);
	CHECK_INT(other.finals, 0);
	proa_give_back(taken); /* of no use to those at their share */
	run_quiet(port);
	if (other.finals == 0) /* else one holds the datagram that it has */
		CHECK_INT(first.finals + waiting[0].finals + waiting[1].finals, 1);
	for (int i = -1; i < 2; i++) {
		struct record *record = i < 0 ? &first : &waiting[i];

		if (record->finals == 0)
			continue;
		proa_give_back(record->lent[0]);
		record->lent[0] = NULL;
		break;
	}
	run_quiet(port);
	CHECK_INT(other.finals, 1);
	proa_give_back(other.lent[0]);
	run_quiet(port);
	for (int i = -1; i < 2; i++) {
		struct record *record = i < 0 ? &first : &waiting[i];

		if (record->lent[0] != NULL)
			proa_give_back(record->lent[0]);
		record->lent[0] = NULL;
	}
	run_quiet(port);
	CHECK_INT(first.finals + waiting[0].finals + waiting[1].finals, 2);
	close_ends(port, &ends);
	close_ends(port, &stream);
	proa_pool_close(pool);
	test_close(port);
}

/* Nor does one whose datagram another has taken meanwhile. */
TEST(12, "lending", datagrams_that_are_gone_hold_nobody_up)
{
	SKIP_WITHOUT_UNIX_SOCKETS();
	struct proa_port *port = test_port();
	struct proa_pool *pool = open_pool(port, 16, 1, 1, 1);
	struct ends ends = unix_ends_of(SOCK_DGRAM), stream = pair_ends();
	struct proa_buffer *taken = proa_pool_take(pool);
	struct record datagram, other;
	char byte;

	record_init(&datagram, port);
	record_init(&other, port);
	start_lent(&datagram, ends.ours, pool);
	peer_write(ends.peer, "x", 1);
	run_quiet(port);
	CHECK_INT(recv(ends.ours, &byte, 1, MSG_DONTWAIT), 1);
	start_lent(&other, stream.ours, pool);
	peer_write(stream.peer, "s", 1);
	run_quiet(port);
	CHECK_INT(datagram.finals + other.finals, 0);
	proa_give_back(taken);
	RUN_UNTIL(port, other.finals == 1);
	CHECK_INT(other.last, 1);
	proa_give_back(other.lent[0]);
	cancel_and_wait(&datagram);
	close_ends(port, &ends);
	close_ends(port, &stream);
	proa_pool_close(pool);
	test_close(port);
}

TEST(12, "boundaries", messages_are_never_gathered)
{
	struct proa_port *port = test_port();

	messages_kept_apart(port, SOCK_DGRAM);
	messages_kept_apart(port, SOCK_SEQPACKET);
	test_close(port);
}

TEST(12, "several at once", many_receives_in_flight)
{
	enum { RECEIVES = 60 };
	struct proa_port *port = test_port();
	struct proa_address here, there, from[RECEIVES];
	proa_handle ours = udp_ours(port, "127.0.0.1:0", &here);
	int peer = udp_peer(AF_INET, &there);
	struct record records[RECEIVES];
	int32_t values[RECEIVES], finals = 0;
	bool seen[RECEIVES] = { false };

	for (int i = 0; i < RECEIVES; i++) {
		record_init(&records[i], port);
		proa_prep_recvfrom(
			&records[i].op, ours, &values[i], sizeof(values[i]), &from[i], 0);
		record_submit(&records[i]);
	}
	run_quiet(port);
	for (int32_t i = 0; i < RECEIVES / 2; i++)
		udp_send(peer, &i, sizeof(i), &here);
	run_quiet(port);
	/* One each, and the rest goes on waiting. */
	for (int i = 0; i < RECEIVES; i++)
		finals += (int32_t)records[i].finals;
	CHECK_INT(finals, RECEIVES / 2);
	for (int32_t i = RECEIVES / 2; i < RECEIVES; i++)
		udp_send(peer, &i, sizeof(i), &here);
	for (int i = 0; i < RECEIVES; i++) {
		RUN_UNTIL(port, records[i].finals == 1);
		CHECK_INT(records[i].last, 4);
		CHECK(values[i] >= 0 && values[i] < RECEIVES && !seen[values[i]]);
		seen[values[i]] = true;
		CHECK(same_address(&from[i], &there));
	}
	close_handle(port, ours);
	close(peer);
	test_close(port);
}

/* A datagram that can't be sent says nothing about the next. */
TEST(12, "several at once", failed_send_leaves_the_others)
{
	static unsigned char bytes[70000];
	struct proa_port *port = test_port();
	struct proa_address here, there;
	proa_handle ours = udp_ours(port, "127.0.0.1:0", &here);
	int peer = udp_peer(AF_INET, &there);
	struct record sends[3];

	for (int i = 0; i < 3; i++) {
		record_init(&sends[i], port);
		proa_prep_sendto(&sends[i].op, ours, bytes, i == 1 ? sizeof(bytes) : 5, &there, 0);
		record_submit(&sends[i]);
	}
	for (int i = 0; i < 3; i++) {
		RUN_UNTIL(port, sends[i].finals == 1);
		CHECK_INT(sends[i].last, i == 1 ? PROA_EMSGSIZE : 5);
	}
	CHECK_INT(recv(peer, bytes, sizeof(bytes), 0), 5);
	CHECK_INT(recv(peer, bytes, sizeof(bytes), 0), 5);
	close_handle(port, ours);
	close(peer);
	test_close(port);
}

TEST(12, "connected", connected_datagram_socket)
{
	struct proa_port *port = test_port();
	struct proa_address there, here;
	int peer = udp_peer(AF_INET, &there);
	proa_handle ours;
	char bytes[8];
	struct record record;

	record_init(&record, port);
	CHECK_INT(proa_socket(port, &there, PROA_DATAGRAM, &ours), 0);
	proa_prep_connect(&record.op, ours, &there, 0);
	CHECK_INT(record_run(&record), 0);
	proa_prep_send(&record.op, ours, "abc", 3, 0);
	CHECK_INT(record_run(&record), 3);
	CHECK_INT(recv(peer, bytes, sizeof(bytes), 0), 3);
	CHECK_INT(proa_local_address(ours, &here), 0);
	udp_send(peer, "defg", 4, &here);
	proa_prep_recv(&record.op, ours, bytes, sizeof(bytes), 0);
	CHECK_INT(record_run(&record), 4);
	close(peer);
	close_handle(port, ours);
	test_close(port);
}

/* A datagram socket has no connection: to connect it again is to choose another. */
TEST(12, "connected", datagram_socket_connects_again)
{
	struct proa_port *port = test_port();
	struct proa_address there[2];
	int peers[2] = { udp_peer(AF_INET, &there[0]), udp_peer(AF_INET, &there[1]) };
	proa_handle ours;
	char bytes[8];
	struct record record;

	record_init(&record, port);
	CHECK_INT(proa_socket(port, &there[0], PROA_DATAGRAM, &ours), 0);
	for (int i = 0; i < 2; i++) {
		proa_prep_connect(&record.op, ours, &there[i], 0);
		CHECK_INT(record_run(&record), 0);
		proa_prep_send(&record.op, ours, "abc", 3, 0);
		CHECK_INT(record_run(&record), 3);
		CHECK_INT(recv(peers[i], bytes, sizeof(bytes), 0), 3);
		close(peers[i]);
	}
	close_handle(port, ours);
	test_close(port);
}

/* Nobody there any more: the refusal comes as a completion. */
TEST(12, "connected", connected_datagram_socket_is_refused)
{
	struct proa_port *port = test_port();
	struct proa_address there;
	int peer = udp_peer(AF_INET, &there);
	proa_handle ours;
	char bytes[8];
	struct record record;

	SKIP_ON_WINE("wine passes no word on that a port is unreachable");
	record_init(&record, port);
	CHECK_INT(proa_socket(port, &there, PROA_DATAGRAM, &ours), 0);
	proa_prep_connect(&record.op, ours, &there, 0);
	CHECK_INT(record_run(&record), 0);
	close(peer);
	proa_prep_send(&record.op, ours, "abc", 3, 0);
	CHECK_INT(record_run(&record), 3);
	proa_prep_recv(&record.op, ours, bytes, sizeof(bytes), 0);
	CHECK_INT(record_run(&record), PROA_ECONNREFUSED);
	close_handle(port, ours);
	test_close(port);
}

/* Ops that take several steps are for streams: nothing is sent, or taken, in part. */
TEST(12, "boundaries", datagrams_have_no_parts)
{
	struct proa_port *port = test_port();
	struct proa_address here, there;
	proa_handle ours = udp_ours(port, "127.0.0.1:0", &here);
	int peer = udp_peer(AF_INET, &there);
	int file = CHECK_SYSTEM(open(test_path("range"), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
	struct proa_range range = { file, 0, 3 };
	char bytes[8];
	struct proa_slice slice = SLICE(bytes, sizeof(bytes));
	struct proa_message message = { .slices = &slice, .slice_count = 1 };
	struct record record;

	peer_write(file, "abc", 3);
	record_init(&record, port);
	proa_prep_connect(&record.op, ours, &there, 0);
	CHECK_INT(record_run(&record), 0);
	udp_send(peer, "one", 3, &here);
	for (int empty = 0; empty < 2; empty++) {
		range.length = empty ? 0 : 3;
		proa_prep_sendfile(&record.op, ours, &range, 0);
		CHECK_INT(record_run(&record), PROA_EINVAL);
		CHECK_INT(proa_op_count(&record.op), 0);
	}
	proa_prep_recvfrom(&record.op, ours, bytes, sizeof(bytes), NULL, PROA_ALL);
	CHECK_INT(record_run(&record), PROA_EINVAL);
	proa_prep_recvmsg(&record.op, ours, &message, PROA_ALL);
	CHECK_INT(record_run(&record), PROA_EINVAL);
	/* Nothing went out, nothing was taken. */
	proa_prep_recv(&record.op, ours, bytes, sizeof(bytes), PROA_ALL);
	CHECK_INT(record_run(&record), 3);
	proa_prep_send(&record.op, ours, "last", 4, 0);
	CHECK_INT(record_run(&record), 4);
	CHECK_INT(recv(peer, bytes, sizeof(bytes), 0), 4);
	CHECK(memcmp(bytes, "last", 4) == 0);
	close(file);
	close_handle(port, ours);
	close(peer);
	test_close(port);
}

/* ---- Rule 12: messages with descriptors ---- */

#ifdef _WIN32
NOT_HERE(12, "messages", descriptors_pass, "no handle goes with a message on Windows")

#	define RIGHTS 0

union rights {
	char room[64];
};

static size_t put_descriptors(union rights *rights, const int *fds, size_t count)
{
	(void)rights;
	(void)fds;
	(void)count;
	return 0;
}

static ssize_t receive_counting(int fd, void *buffer, size_t length, int *count)
{
	(void)count;
	return recv(fd, buffer, length, MSG_DONTWAIT);
}
#else

#	define RIGHTS 1

union rights {
	struct cmsghdr header;
	char room[CMSG_SPACE(2 * sizeof(int))];
};

static size_t put_descriptors(union rights *rights, const int *fds, size_t count)
{
	memset(rights, 0, sizeof(*rights));
	rights->header.cmsg_level = SOL_SOCKET;
	rights->header.cmsg_type = SCM_RIGHTS;
	rights->header.cmsg_len = CMSG_LEN(count * sizeof(int));
	memcpy(CMSG_DATA(&rights->header), fds, count * sizeof(int));
	return CMSG_SPACE(count * sizeof(int));
}

/* The descriptors that came with a message, which must be `count`. */
static void get_descriptors(const struct proa_message *message, int *fds, size_t count)
{
	const struct cmsghdr *header = message->control;

	CHECK(message->control_length >= CMSG_LEN(count * sizeof(int)));
	CHECK_INT(header->cmsg_level, SOL_SOCKET);
	CHECK_INT(header->cmsg_type, SCM_RIGHTS);
	CHECK_INT(header->cmsg_len, CMSG_LEN(count * sizeof(int)));
	memcpy(fds, CMSG_DATA(header), count * sizeof(int));
}

static void pass_descriptors(struct proa_port *port, int type)
{
	struct ends ends = unix_ends_of(type), passed = pipe_ends(false);
	char left[] = "abc", right[] = "defg", in[4], rest[16];
	struct proa_slice out_slices[2] = { SLICE(left, 3), SLICE(right, 4) };
	struct proa_slice in_slices[2] = { SLICE(in, 4), SLICE(rest, 16) };
	union rights out_rights, in_rights;
	struct proa_message out = { .slices = out_slices, .slice_count = 2 };
	struct proa_message into = { .slices = in_slices, .slice_count = 2 };
	int fds[2] = { passed.peer, passed.ours }, came[2];
	struct record sending, receiving;

	record_init(&sending, port);
	record_init(&receiving, port);
	out.control = &out_rights;
	out.control_length = put_descriptors(&out_rights, fds, 2);
	into.control = &in_rights;
	into.control_length = sizeof(in_rights);
	proa_prep_recvmsg(&receiving.op, ends.peer, &into, 0);
	record_submit(&receiving);
	run_quiet(port);
	proa_prep_sendmsg(&sending.op, ends.ours, &out, 0);
	CHECK_INT(record_run(&sending), 7);
	RUN_UNTIL(port, receiving.finals == 1);
	CHECK_INT(receiving.last, 7);
	CHECK(memcmp(in, "abcd", 4) == 0 && memcmp(rest, "efg", 3) == 0);
	get_descriptors(&into, came, 2);
	peer_write(came[0], "through", 7);
	CHECK_INT(read(came[1], rest, sizeof(rest)), 7);
	/* The next message brings none. */
	out.control = NULL;
	out.control_length = 0;
	into.control_length = sizeof(in_rights);
	proa_prep_sendmsg(&sending.op, ends.ours, &out, 0);
	CHECK_INT(record_run(&sending), 7);
	proa_prep_recvmsg(&receiving.op, ends.peer, &into, 0);
	CHECK_INT(record_run(&receiving), 7);
	CHECK_INT(into.control_length, 0);
	close(came[0]);
	close(came[1]);
	close(passed.ours);
	close(passed.peer);
	close_handle(port, ends.ours);
	close_handle(port, ends.peer);
}

TEST(12, "messages", descriptors_pass)
{
	struct proa_port *port = test_port();

	pass_descriptors(port, SOCK_DGRAM);
	pass_descriptors(port, SOCK_SEQPACKET);
	pass_descriptors(port, SOCK_STREAM);
	test_close(port);
}

/* How many descriptors came with the bytes that a plain receive took. */
static int count_descriptors(struct msghdr *header)
{
	int count = 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c != NULL; c = CMSG_NXTHDR(header, c)) {
		int fds[8];
		int n = (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));

		CHECK_INT(c->cmsg_type, SCM_RIGHTS);
		CHECK(n <= 8);
		memcpy(fds, CMSG_DATA(c), (size_t)n * sizeof(int));
		for (int i = 0; i < n; i++)
			close(fds[i]);
		count += n;
	}
	return count;
}

static ssize_t receive_counting(int fd, void *buffer, size_t length, int *count)
{
	struct iovec into = { buffer, length };
	union rights room;
	struct msghdr header = { .msg_iov = &into,
		.msg_iovlen = 1,
		.msg_control = &room,
		.msg_controllen = sizeof(room) };
	ssize_t n = recvmsg(fd, &header, MSG_DONTWAIT);

	if (n > 0)
		*count += count_descriptors(&header);
	return n;
}

#endif

/* On a stream a message is a send: whole, in the lane, and its descriptors go
 * with its first bytes, once. */
TEST(12, "messages", long_message_on_a_stream)
{
	const size_t length = 1 << 20;
	struct proa_port *port = test_port();
	struct ends ends = pair_ends();
	unsigned char *bytes = malloc(length + 20), *got = malloc(length + 20);
	struct proa_slice slices[2];
	union rights rights;
	struct proa_message message = { .slices = slices, .slice_count = 2 };
	struct record sends[3];
	int fds[1] = { ends.peer }, descriptors = 0;
	size_t at = 0;

	CHECK(bytes != NULL && got != NULL);
	fill_bytes(bytes, length + 20, 0);
	slices[0] = (struct proa_slice)SLICE(bytes + 10, length / 3);
	slices[1] = (struct proa_slice)SLICE(bytes + 10 + length / 3, length - length / 3);
	message.control = RIGHTS ? &rights : NULL;
	message.control_length = put_descriptors(&rights, fds, 1);
	for (int i = 0; i < 3; i++)
		record_init(&sends[i], port);
	shrink_buffers(&ends);
	proa_prep_send(&sends[0].op, ends.ours, bytes, 10, 0);
	record_submit(&sends[0]);
	proa_prep_sendmsg(&sends[1].op, ends.ours, &message, 0);
	record_submit(&sends[1]);
	proa_prep_send(&sends[2].op, ends.ours, bytes + 10 + length, 10, 0);
	record_submit(&sends[2]);
	while (at < length + 20) {
		ssize_t n = receive_counting(ends.peer, got + at, length + 20 - at, &descriptors);

		if (n < 0) {
			CHECK_INT(errno, EAGAIN);
			CHECK(proa_run_once(port, PROA_MILLISECOND) >= 0);
			continue;
		}
		CHECK(n > 0);
		at += (size_t)n;
	}
	for (int i = 0; i < 3; i++)
		RUN_UNTIL(port, sends[i].finals == 1);
	CHECK_INT(sends[0].last, 10);
	CHECK_INT(sends[1].last, length);
	CHECK_INT(proa_op_count(&sends[1].op), length);
	CHECK_INT(sends[2].last, 10);
	CHECK_INT(descriptors, RIGHTS);
	CHECK_BYTES(got, length + 20, 0);
	close_handle(port, ends.ours);
	close(ends.peer);
	test_close(port);
	free(bytes);
	free(got);
}

/* What sendmsg(2) says to an address on a connected stream is not lost on the way. */
TEST(12, "messages", message_on_a_stream_with_an_address)
{
	SKIP_WITHOUT_UNIX_SOCKETS();
	struct proa_port *port = test_port();
	struct ends ends = unix_ends_of(SOCK_STREAM);
	struct proa_slice slice = SLICE("abc", 3);
	struct proa_message message = { .slices = &slice, .slice_count = 1 };
	struct record record;

	record_init(&record, port);
	CHECK_INT(proa_address_parse(&message.peer, "unix:/nobody/is/here"), 0);
	proa_prep_sendmsg(&record.op, ends.ours, &message, 0);
	CHECK_INT(record_run(&record), PROA_EISCONN);
	message.peer.length = 0;
	proa_prep_sendmsg(&record.op, ends.ours, &message, 0);
	CHECK_INT(record_run(&record), 3);
	close_ends(port, &ends);
	test_close(port);
}

TEST(12, "messages", message_knows_its_sender)
{
	struct proa_port *port = test_port();
	struct proa_address here, there;
	proa_handle ours = udp_ours(port, "127.0.0.1:0", &here);
	int peer = udp_peer(AF_INET, &there);
	char bytes[10];
	struct proa_slice slice = SLICE(bytes, sizeof(bytes));
	struct proa_message message = { .slices = &slice, .slice_count = 1 };
	struct record record;

	record_init(&record, port);
	proa_prep_recvmsg(&record.op, ours, &message, 0);
	record_submit(&record);
	udp_send(peer, "abc", 3, &here);
	RUN_UNTIL(port, record.finals == 1);
	CHECK_INT(record.last, 3);
	CHECK(same_address(&message.peer, &there));
	slice.length = 3;
	proa_prep_sendmsg(&record.op, ours, &message, 0);
	CHECK_INT(record_run(&record), 3);
	CHECK_INT(recv(peer, bytes, sizeof(bytes), 0), 3);
	close_handle(port, ours);
	close(peer);
	test_close(port);
}

TEST(12, "messages", datagrams_carry_control_data)
{
	struct proa_port *port = test_port();
	struct proa_address here, there;
	proa_handle ours = udp_ours(port, "127.0.0.1:0", &here);
	int peer = udp_peer(AF_INET, &there);
	char bytes[10];
	struct proa_slice slice = SLICE(bytes, sizeof(bytes));
	union control control;
	struct proa_message message = { .slices = &slice, .slice_count = 1, .control = &control };
	struct record record;

	if (getenv("TEST_QEMU_USER") != NULL)
		SKIP("qemu-user does not translate IP_PKTINFO");
	CHECK_SYSTEM(control_ask((int)ours));
	record_init(&record, port);
	/* The first waits; what the second is for is there; the third is cut. */
	for (int i = 0; i < 3; i++) {
		memset(&control, 0, sizeof(control));
		message.control_length = sizeof(control);
		proa_prep_recvmsg(&record.op, ours, &message, 0);
		if (i > 0)
			udp_send(peer, "abcdefghijkl", i == 2 ? 12 : 3, &here);
		record_submit(&record);
		if (i == 0)
			udp_send(peer, "abc", 3, &here);
		RUN_UNTIL(port, record.finals == 1);
		CHECK_INT(record.last, i == 2 ? PROA_EMSGSIZE : 3);
		CHECK_INT(proa_op_count(&record.op), i == 2 ? 10 : 3);
		CHECK_INT(memcmp(bytes, "abcdefghij", i == 2 ? 10 : 3), 0);
		CHECK(same_address(&message.peer, &there));
		CHECK(control_tells(&control, message.control_length));
	}
	slice.length = 3;
	message.control_length = control_fill(&control);
	proa_prep_sendmsg(&record.op, ours, &message, 0);
	CHECK_INT(record_run(&record), 3);
	CHECK_INT(recv(peer, bytes, sizeof(bytes), 0), 3);
	close_handle(port, ours);
	close(peer);
	test_close(port);
}

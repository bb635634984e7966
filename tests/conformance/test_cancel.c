/* Rules 14 and 27: cancelling is a request that loses nothing, and chains of
 * linked ops. (That every kind of op ends once when cancelled: test_ops.c.) */
#include "harness.h"
#include "posix.h"

#include <stdatomic.h>

#define SHORT (20 * PROA_MILLISECOND)
#define NEVER (1000 * PROA_SECOND)

/* ---- Rule 14: what cancel does not do ---- */

static void cancel_self(struct record *record, const struct proa_completion *c)
{
	(void)c;
	proa_cancel(&record->op);
}

TEST(14, "nothing happens to an idle op", cancel_of_an_idle_op)
{
	struct proa_port *port = test_port();
	struct record record;

	record_init(&record, port);
	proa_cancel(&record.op);
	proa_prep_timer(&record.op, PROA_MILLISECOND);
	proa_cancel(&record.op);
	run_quiet(port);
	CHECK_INT(record.count, 0);
	/* No mark is left that would end it now. */
	CHECK_INT(record_run(&record), 0);
	proa_cancel(&record.op);
	run_quiet(port);
	CHECK_INT(record.count, 1);
	record.then = cancel_self;
	proa_prep_timer(&record.op, PROA_MILLISECOND);
	CHECK_INT(record_run(&record), 0);
	proa_prep_timer(&record.op, PROA_MILLISECOND);
	CHECK_INT(record_run(&record), 0);
	CHECK_INT(proa_in_flight(port), 0);
	test_close(port);
}

TEST(14, "nothing happens to an idle op", cancel_leaves_no_mark_behind)
{
	struct proa_port *port = test_port();
	struct ends ends = pair_ends();
	struct record record;
	char bytes[4];

	record_init(&record, port);
	for (int i = 0; i < 20; i++) {
		proa_prep_recv(&record.op, ends.ours, bytes, 4, 0);
		record_submit(&record);
		if (i % 2)
			run_for(port, PROA_MILLISECOND);
		proa_cancel(&record.op);
		RUN_UNTIL(port, record.finals == 1);
		CHECK_INT(record.last, PROA_ECANCELED);
		/* Without a new prep, and with one. */
		if (i % 4 < 2)
			proa_prep_recv(&record.op, ends.ours, bytes, 4, 0);
		record_submit(&record);
		peer_write(ends.peer, "ab", 2);
		RUN_UNTIL(port, record.finals == 1);
		CHECK_INT(record.last, 2);
	}
	close(ends.peer);
	close_handle(port, ends.ours);
	test_close(port);
}

TEST(14, "by handle, and of all", cancel_handle_spares_other_handles)
{
	struct proa_port *port = test_port();
	struct ends one = pair_ends(), two = pair_ends();
	struct record first[3], second, timer, tied;
	char bytes[4];

	for (int i = 0; i < 3; i++) {
		record_init(&first[i], port);
		if (i < 2)
			proa_prep_recv(&first[i].op, one.ours, bytes, 4, 0);
		else
			proa_prep_poll_multi(&first[i].op, one.ours, PROA_READABLE);
		record_submit(&first[i]);
	}
	record_init(&second, port);
	record_init(&timer, port);
	record_init(&tied, port);
	proa_prep_recv(&second.op, two.ours, bytes, 4, 0);
	record_submit(&second);
	proa_prep_timer(&timer.op, 3 * SHORT);
	record_submit(&timer);
	proa_prep_timer(&tied.op, NEVER);
	proa_op_with(&tied.op, one.ours);
	record_submit(&tied);
	run_for(port, PROA_MILLISECOND);
	proa_cancel_handle(port, one.ours);
	proa_cancel_handle(port, one.ours);
	RUN_UNTIL(port, first[0].finals + first[1].finals + first[2].finals + tied.finals == 4);
	for (int i = 0; i < 3; i++)
		CHECK_INT(first[i].last, PROA_ECANCELED);
	CHECK_INT(tied.last, PROA_ECANCELED);
	CHECK_INT(second.count, 0);
	/* The handle works on, and strange handles are no matter. */
	proa_cancel_handle(port, -1);
	proa_cancel_handle(port, 903);
	proa_cancel_handle(port, 70000);
	peer_write(one.peer, "ab", 2);
	proa_prep_recv(&first[0].op, one.ours, bytes, 4, 0);
	CHECK_INT(record_run(&first[0]), 2);
	RUN_UNTIL(port, timer.finals == 1);
	CHECK_INT(timer.last, 0);
	CHECK_INT(second.count, 0);
	proa_cancel_all(port);
	RUN_UNTIL(port, second.finals == 1);
	CHECK_INT(second.last, PROA_ECANCELED);
	close(one.peer);
	close(two.peer);
	close_handle(port, one.ours);
	close_handle(port, two.ours);
	test_close(port);
}

static unsigned char megabytes[STUFFING];

TEST(14, "a close can't be cancelled", cancel_ends_the_flush_not_the_close)
{
	struct proa_port *port = test_port();

	for (int way = 0; way < 5; way++) {
		struct ends ends = pair_ends();
		struct record send, closing;
		uint64_t ticket;

		record_init(&send, port);
		record_init(&closing, port);
		proa_prep_send(&send.op, ends.ours, megabytes, sizeof(megabytes), 0);
		record_submit(&send);
		proa_prep_close(&closing.op, ends.ours, PROA_FLUSH);
		ticket = record_submit(&closing);
		run_for(port, 5 * PROA_MILLISECOND);
		CHECK_INT(send.count + closing.count, 0);
		if (way == 0)
			proa_cancel(&closing.op);
		else if (way == 1)
			proa_cancel_ticket(port, ticket);
		else if (way == 2)
			proa_cancel_handle(port, ends.ours);
		else if (way == 3)
			proa_cancel_all(port);
		else
			proa_op_timeout(&closing.op, PROA_MILLISECOND);
		RUN_UNTIL(port, closing.finals == 1);
		CHECK_INT(closing.last, 0);
		CHECK_INT(send.last, PROA_ECANCELED);
		CHECK(send.order < closing.order);
		CHECK_INT(fcntl(ends.ours, F_GETFD), -1);
		CHECK_INT(peer_drain(ends.peer, megabytes, sizeof(megabytes)),
			proa_op_count(&send.op));
		close(ends.peer);
	}
	test_close(port);
}

/* ---- Rule 14: tickets ---- */

TEST(14, "tickets are never 0 and never reused", tickets_are_unique)
{
	struct proa_port *port = test_port();
	enum { COUNT = 3000 };
	uint64_t *tickets = calloc(COUNT, sizeof(*tickets));
	struct record records[3];

	CHECK(tickets != NULL);
	for (int i = 0; i < 3; i++)
		record_init(&records[i], port);
	for (int i = 0; i < COUNT; i += 3) {
		for (int j = 0; j < 3; j++) {
			proa_prep_timer(&records[j].op, j == 2 ? NEVER : 0);
			tickets[i + j] = record_submit(&records[j]);
		}
		proa_cancel(&records[2].op);
		CHECK_INT(proa_run(port), 0);
	}
	for (int i = 0; i < COUNT; i++) {
		CHECK(tickets[i] != 0);
		for (int j = 0; j < i; j++)
			if (tickets[i] == tickets[j])
				test_fail(__FILE__, __LINE__, "tickets %d and %d are one", j, i);
	}
	/* None of them cancels what is in flight now. */
	proa_prep_timer(&records[0].op, SHORT);
	record_submit(&records[0]);
	for (int i = 0; i < COUNT; i++)
		proa_cancel_ticket(port, tickets[i]);
	proa_cancel_ticket(port, 0);
	proa_cancel_ticket(port, UINT64_MAX);
	proa_cancel_ticket(port, UINT64_C(1) << 63);
	CHECK_INT(proa_run(port), 0);
	CHECK_INT(records[0].last, 0);
	free(tickets);
	test_close(port);
}

static void unmap_op(struct proa_op *op, const struct proa_completion *c)
{
	(void)c;
	CHECK_SYSTEM(munmap(op, sizeof(*op)));
}

static struct proa_op *mapped_op(struct proa_port *port)
{
	struct proa_op *op =
		mmap(NULL, sizeof(*op), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(op != MAP_FAILED);
	proa_op_init(op, port, NULL);
	return op;
}

TEST(14, "a ticket never touches the op", ticket_outlives_the_op)
{
	struct proa_port *port = test_port();
	struct ends ends = pair_ends();
	uint64_t tickets[4];
	char byte;

	for (int round = 0; round < 50; round++) {
		struct proa_op *ops[4];

		for (int i = 0; i < 4; i++)
			ops[i] = mapped_op(port);
		proa_prep_timer(ops[0], 0);
		proa_prep_recv(ops[1], ends.ours, &byte, 1, 0);
		proa_prep_recv(ops[2], -1, &byte, 1, 0);
		proa_prep_poll(ops[3], ends.ours, PROA_WRITABLE);
		for (int i = 0; i < 4; i++)
			tickets[i] = proa_submit(ops[i], unmap_op);
		peer_write(ends.peer, "x", 1);
		CHECK_INT(proa_run(port), 0);
		for (int i = 0; i < 4; i++)
			proa_cancel_ticket(port, tickets[i]);
		run_for(port, PROA_MILLISECOND / 2);
	}
	close(ends.peer);
	close_handle(port, ends.ours);
	test_close(port);
}

TEST(14, "a ticket never touches the op", ticket_spares_the_next_submission)
{
	struct proa_port *port = test_port();
	struct ends ends = pair_ends();
	struct record record;
	uint64_t stale;
	char byte;

	record_init(&record, port);
	peer_write(ends.peer, "a", 1);
	proa_prep_recv(&record.op, ends.ours, &byte, 1, 0);
	stale = record_submit(&record);
	RUN_UNTIL(port, record.finals == 1);
	proa_prep_recv(&record.op, ends.ours, &byte, 1, 0);
	CHECK(record_submit(&record) != stale);
	proa_cancel_ticket(port, stale);
	run_for(port, SHORT);
	CHECK_INT(record.count, 0);
	peer_write(ends.peer, "b", 1);
	RUN_UNTIL(port, record.finals == 1);
	CHECK_INT(record.last, 1);
	close(ends.peer);
	close_handle(port, ends.ours);
	test_close(port);
}

/* ---- Rule 14: races ---- */

#define RACES 1500

/* Receives and cancels against a peer who writes all the while; what each
 * receive got must be the stream without a gap. */
static void race_receives(struct proa_port *port, uint32_t flags)
{
	enum { TOTAL = 3 * RACES };
	struct peer_writer writer = { .total = TOTAL, .piece = 3, .pause = 30000, .ends = true };
	struct ends ends = pair_ends();
	unsigned cancelled = 0;
	struct record record;
	uint64_t at = 0;
	unsigned char bytes[8];
	unsigned round = 0;

	writer.fd = ends.peer;
	record_init(&record, port);
	for (;; round++) {
		/* The first are cancelled for sure; a peer who is fast leaves no other to be. */
		if (round == 8)
			peer_writer_start(&writer);
		proa_prep_recv(&record.op, ends.ours, bytes, flags & PROA_ALL ? 7 : 8, flags);
		record_submit(&record);
		if (round % 3 == 1)
			run_for(port, (int64_t)(round % 50) * PROA_MICROSECOND);
		if (round < 8 || round % 8 != 0)
			proa_cancel(&record.op);
		RUN_UNTIL(port, record.finals == 1);
		CHECK_INT(record.count, 1);
		CHECK_BYTES(bytes, proa_op_count(&record.op), at);
		at += proa_op_count(&record.op);
		if (record.last == PROA_ECANCELED) {
			CHECK((flags & PROA_ALL) || proa_op_count(&record.op) == 0);
			cancelled++;
			continue;
		}
		CHECK_INT(record.last, proa_op_count(&record.op));
		if (record.last == 0)
			break;
	}
	peer_writer_join(&writer);
	CHECK_INT(at, TOTAL);
	printf("%u rounds, %u cancelled\n", round, cancelled);
	CHECK(cancelled >= 8);
	close_handle(port, ends.ours);
}

TEST(14, "a cancelled receive loses no data", cancel_races_with_receives)
{
	struct proa_port *port = test_port();

	race_receives(port, 0);
	race_receives(port, PROA_ALL);
	test_close(port);
}

TEST(14, "a cancelled receive loses no data", bytes_arrive_in_the_next_receive)
{
	struct proa_port *port = test_port();
	struct ends ends = tcp_ends();
	struct record record;
	char bytes[8];

	/* The bytes come after the cancel, before it was served; and before it. */
	for (int way = 0; way < 40; way++) {
		record_init(&record, port);
		proa_prep_recv(&record.op, ends.ours, bytes, 8, 0);
		record_submit(&record);
		if (way % 4 < 2)
			run_for(port, PROA_MILLISECOND);
		if (way % 2)
			peer_write(ends.peer, "abc", 3);
		proa_cancel(&record.op);
		if (way % 2 == 0)
			peer_write(ends.peer, "abc", 3);
		RUN_UNTIL(port, record.finals == 1);
		if (record.last != 3) {
			CHECK_INT(record.last, PROA_ECANCELED);
			proa_prep_recv(&record.op, ends.ours, bytes, 3, PROA_ALL);
			CHECK_INT(record_run(&record), 3);
		}
		CHECK(memcmp(bytes, "abc", 3) == 0);
	}
	close(ends.peer);
	close_handle(port, ends.ours);
	test_close(port);
}

struct lent_stream {
	uint64_t at;
	bool ended;
};

static void check_lent(struct record *record, const struct proa_completion *c)
{
	struct lent_stream *stream = record->data;
	struct proa_buffer *buffer = proa_lent(c);

	if (buffer != NULL) {
		CHECK_BYTES(buffer->data, buffer->length, stream->at);
		stream->at += buffer->length;
		proa_give_back(buffer);
	}
	if ((c->flags & PROA_MORE) == 0) {
		CHECK(buffer == NULL || record->op.kind_ == PROA_OP_RECV_LENT);
		stream->ended = c->result == 0;
	}
}

static void race_lent(struct proa_port *port, bool multi)
{
	enum { TOTAL = 3 * RACES };
	struct peer_writer writer = { .total = TOTAL, .piece = 3, .pause = 30000, .ends = true };
	struct proa_pool_options options = { .buffer_size = 64, .count = 4 };
	struct lent_stream stream = { 0, false };
	struct ends ends = tcp_ends();
	struct proa_pool *pool;
	struct record record;

	CHECK_INT(proa_pool_open(port, &options, &pool), 0);
	writer.fd = ends.peer;
	peer_writer_start(&writer);
	record_init(&record, port);
	record.then = check_lent;
	record.data = &stream;
	for (unsigned round = 0; !stream.ended; round++) {
		if (multi)
			proa_prep_recv_multi(&record.op, ends.ours, pool, 0);
		else
			proa_prep_recv_lent(&record.op, ends.ours, pool, 0);
		record_submit(&record);
		if (round % 2)
			run_for(port, (int64_t)(round % 100) * PROA_MICROSECOND);
		proa_cancel(&record.op);
		RUN_UNTIL(port, record.finals == 1);
		if (record.last < 0)
			CHECK_INT(record.last, PROA_ECANCELED);
		if (!stream.ended && stream.at == TOTAL)
			test_sleep(PROA_MILLISECOND);
	}
	peer_writer_join(&writer);
	CHECK_INT(stream.at, TOTAL);
	close_handle(port, ends.ours);
	proa_pool_close(pool);
}

TEST(14, "a cancelled receive loses no buffer", cancel_races_with_lent_receives)
{
	struct proa_port *port = test_port();

	race_lent(port, false);
	race_lent(port, true);
	test_close(port);
}

struct callers {
	struct proa_address address;
	int count, made[400];
};

static void *call_often(void *argument)
{
	struct callers *callers = argument;

	for (int i = 0; i < callers->count; i++) {
		callers->made[i] = tcp_connect_to(&callers->address);
		if (i % 8 == 0)
			test_sleep(100 * PROA_MICROSECOND);
	}
	return NULL;
}

static int accepted_handles[400], accepted_count;

static void keep_accepted(struct record *record, const struct proa_completion *c)
{
	(void)record;
	if (c->result >= 0) {
		CHECK(accepted_count < 400);
		accepted_handles[accepted_count++] = c->result;
	}
}

/* Accepts that are cancelled all the time, until each caller has been found. */
static void race_accepts(struct proa_port *port, bool multi)
{
	struct callers callers = { .count = 300 };
	proa_handle listener = tcp_listener(400, &callers.address);
	struct record record;
	pthread_t thread;
	bool *found = calloc(65536, sizeof(*found));

	CHECK(found != NULL);
	accepted_count = 0;
	CHECK_INT(pthread_create(&thread, NULL, call_often, &callers), 0);
	record_init(&record, port);
	record.then = keep_accepted;
	for (unsigned round = 0; accepted_count < callers.count; round++) {
		if (multi)
			proa_prep_accept_multi(&record.op, listener, 0);
		else
			proa_prep_accept(&record.op, listener, NULL, 0);
		record_submit(&record);
		if (round % 4)
			run_for(port, (int64_t)(round % 64) * PROA_MICROSECOND);
		proa_cancel(&record.op);
		/* A lost socket shows as a caller who is never found. */
		RUN_UNTIL(port, record.finals == 1);
		if (record.last < 0)
			CHECK_INT(record.last, PROA_ECANCELED);
	}
	CHECK_INT(pthread_join(thread, NULL), 0);
	for (int i = 0; i < callers.count; i++) {
		struct proa_address peer;
		uint16_t number;

		CHECK_INT(proa_peer_address(accepted_handles[i], &peer), 0);
		memcpy(&number, peer.to.any.sa_data, sizeof(number)); /* its port */
		CHECK(!found[number]);
		found[number] = true;
		close(callers.made[i]);
		CHECK_INT(proa_discard(port, accepted_handles[i]), 0);
	}
	free(found);
	close_handle(port, listener);
}

TEST(14, "a cancelled accept loses no socket", cancel_races_with_accepts)
{
	struct proa_port *port = test_port();

	race_accepts(port, false);
	race_accepts(port, true);
	test_close(port);
}

static struct record after_cancel;

static void note_undelivered(struct record *record, const struct proa_completion *c)
{
	/* What was taken before the cancel is handed over before the final. */
	if (c->flags & PROA_MORE) {
		CHECK(c->result >= 0);
		CHECK_INT(proa_discard(record->op.port, c->result), 0);
		record->number++;
	}
	if (record->count == 1)
		proa_cancel(&record->op);
}

TEST(14, "a completion with a socket comes first", cancel_inside_a_multishot_callback)
{
	struct proa_port *port = test_port();
	struct callers callers = { .count = 50 };
	proa_handle listener = tcp_listener(100, &callers.address);
	unsigned rest = 0;

	call_often(&callers);
	record_init(&after_cancel, port);
	after_cancel.then = note_undelivered;
	proa_prep_accept_multi(&after_cancel.op, listener, 0);
	CHECK_INT(record_run(&after_cancel), PROA_ECANCELED);
	CHECK(after_cancel.number >= 1);
	/* The rest are still with the listener, each of them. */
	after_cancel.then = NULL;
	for (rest = (unsigned)after_cancel.number; rest < 50; rest++) {
		proa_prep_accept(&after_cancel.op, listener, NULL, 0);
		CHECK(record_run(&after_cancel) >= 0);
		CHECK_INT(proa_discard(port, after_cancel.last), 0);
	}
	proa_prep_accept(&after_cancel.op, listener, NULL, 0);
	proa_op_timeout(&after_cancel.op, SHORT);
	CHECK_INT(record_run(&after_cancel), PROA_ETIMEDOUT);
	for (int i = 0; i < 50; i++)
		close(callers.made[i]);
	close_handle(port, listener);
	test_close(port);
}

TEST(14, "in the backlog", cancel_in_the_backlog)
{
	struct proa_port_options options = { .entries = 4 };
	struct proa_port *port = test_port_with(&options);
	enum { COUNT = 2000 };
	struct ends ends = pair_ends();
	struct record *records = calloc(COUNT, sizeof(*records));
	unsigned cancelled = 0;

	CHECK(records != NULL);
	for (int i = 0; i < COUNT; i++) {
		record_init(&records[i], port);
		proa_prep_poll(&records[i].op, ends.ours, PROA_READABLE);
		record_submit(&records[i]);
	}
	for (int i = 0; i < COUNT; i += 2)
		proa_cancel(&records[i].op);
	RUN_UNTIL(port, proa_in_flight(port) == COUNT / 2);
	peer_write(ends.peer, "x", 1);
	CHECK_INT(proa_run(port), 0);
	for (int i = 0; i < COUNT; i++) {
		CHECK_INT(records[i].count, 1);
		CHECK_INT(records[i].last, i % 2 ? (int)PROA_READABLE : PROA_ECANCELED);
		cancelled += records[i].last == PROA_ECANCELED;
	}
	CHECK_INT(cancelled, COUNT / 2);
	free(records);
	close(ends.peer);
	close_handle(port, ends.ours);
	test_close(port);
}

TEST(14, "in the lane", cancel_in_the_receive_lane)
{
	struct proa_port *port = test_port();
	struct ends ends = tcp_ends();
	struct record records[5];
	char bytes[5] = "-----";

	for (int i = 0; i < 5; i++) {
		record_init(&records[i], port);
		proa_prep_recv(&records[i].op, ends.ours, &bytes[i], 1, 0);
		record_submit(&records[i]);
	}
	/* The head, one in the middle and the last; the others are not touched. */
	proa_cancel(&records[2].op);
	proa_cancel(&records[4].op);
	proa_cancel(&records[0].op);
	RUN_UNTIL(port, records[0].finals + records[2].finals + records[4].finals == 3);
	CHECK_INT(records[1].count + records[3].count, 0);
	peer_write(ends.peer, "bd", 2);
	CHECK_INT(proa_run(port), 0);
	for (int i = 0; i < 5; i++)
		CHECK_INT(records[i].last, i % 2 ? 1 : PROA_ECANCELED);
	CHECK(memcmp(bytes, "-b-d-", 5) == 0);
	close(ends.peer);
	close_handle(port, ends.ours);
	test_close(port);
}

/* ---- Rule 27 ---- */

static void link_timers(struct record *records, int count, struct proa_port *port, int64_t ns)
{
	for (int i = 0; i < count; i++) {
		record_init(&records[i], port);
		proa_prep_timer(&records[i].op, ns);
	}
	for (int i = 0; i + 1 < count; i++)
		proa_link(&records[i].op, &records[i + 1].op, recorded);
}

static void check_in_order(const struct record *records, int count)
{
	for (int i = 0; i < count; i++) {
		CHECK_INT(records[i].count, 1);
		CHECK(i == 0 || records[i].order == records[i - 1].order + 1);
	}
}

TEST(27, "the next starts when this one is done", chain_runs_one_after_another)
{
	struct proa_port *port = test_port();
	struct record records[5];
	int64_t start;

	link_timers(records, 5, port, 10 * PROA_MILLISECOND);
	for (int i = 0; i < 5; i++)
		CHECK(!proa_op_pending(&records[i].op));
	start = test_clock();
	record_submit(&records[0]);
	for (int i = 0; i < 5; i++)
		CHECK(proa_op_pending(&records[i].op));
	CHECK_INT(proa_in_flight(port), 5);
	CHECK_INT(proa_run(port), 0);
	CHECK(test_clock() - start >= 50 * PROA_MILLISECOND);
	check_in_order(records, 5);
	for (int i = 0; i < 5; i++)
		CHECK_INT(records[i].last, 0);
	/* A prep takes the link away. */
	proa_prep_timer(&records[0].op, 0);
	record_submit(&records[0]);
	CHECK_INT(proa_in_flight(port), 1);
	CHECK_INT(proa_run(port), 0);
	CHECK_INT(records[1].count, 1);
	test_close(port);
}

TEST(27, "else the rest is cancelled, in order", failure_cancels_the_rest)
{
	struct proa_port *port = test_port();
	struct ends ends = pair_ends();
	char byte;

	/* By an error, a cancel, time, and a linked op that fails itself. */
	for (int way = 0; way < 5; way++) {
		struct record records[5];
		int broken = way == 3 ? 2 : 0;

		link_timers(records, 5, port, PROA_MILLISECOND);
		proa_prep_recv(
			&records[broken].op, way == 0 || way == 3 ? -1 : ends.ours, &byte, 1, 0);
		proa_link(&records[broken].op, &records[broken + 1].op, recorded);
		if (way == 2)
			proa_op_timeout(&records[0].op, SHORT);
		if (way == 4)
			proa_op_deadline(&records[0].op, test_clock() + SHORT);
		record_submit(&records[0]);
		if (way == 1) {
			run_for(port, PROA_MILLISECOND);
			proa_cancel(&records[0].op);
		}
		CHECK_INT(proa_run(port), 0);
		check_in_order(records, 5);
		for (int i = 0; i < broken; i++)
			CHECK_INT(records[i].last, 0);
		CHECK_INT(records[broken].last, way == 1               ? PROA_ECANCELED
						: way == 2 || way == 4 ? PROA_ETIMEDOUT
								       : PROA_EBADF);
		for (int i = broken + 1; i < 5; i++)
			CHECK_INT(records[i].last, PROA_ECANCELED);
	}
	close(ends.peer);
	close_handle(port, ends.ours);
	test_close(port);
}

/* Of so many bytes, `told` come: with PROA_ALL, or without. */
static void chain_behind_receive(const struct stream_maker *maker, struct proa_port *port,
	uint32_t flags, size_t told, int32_t next)
{
	struct ends ends = maker->make(false);
	struct record recv, timer;
	char bytes[8];

	record_init(&recv, port);
	record_init(&timer, port);
	proa_prep_recv(&recv.op, ends.ours, bytes, 8, flags);
	proa_prep_timer(&timer.op, 0);
	proa_link(&recv.op, &timer.op, recorded);
	record_submit(&recv);
	if (told > 0)
		peer_write(ends.peer, "abcdefgh", told);
	if (flags != 0 && told < 8) {
		run_for(port, PROA_MILLISECOND);
		CHECK_INT(recv.count + timer.count, 0);
	}
	if (flags != 0 || told == 0)
		close(ends.peer);
	CHECK_INT(proa_run(port), 0);
	CHECK_INT(recv.last, told);
	CHECK_INT(timer.last, next);
	CHECK_INT(recv.count + timer.count, 2);
	CHECK(recv.order < timer.order);
	if (flags == 0 && told != 0)
		close(ends.peer);
	close_handle(port, ends.ours);
}

TEST(27, "all that it was asked", short_receive_breaks_the_chain)
{
	struct proa_port *port = test_port();

	FOR_STREAMS(maker)
	{
		printf("%s\n", maker->name);
		for (size_t told = 2; told < 8; told++)
			chain_behind_receive(maker, port, PROA_ALL, told, PROA_ECANCELED);
		chain_behind_receive(maker, port, PROA_ALL, 8, 0);
		/* Without PROA_ALL some bytes are all that was asked. */
		for (size_t told = 1; told <= 8; told++)
			chain_behind_receive(maker, port, 0, told, 0);
		/* The end of the stream is none of what was asked. */
		chain_behind_receive(maker, port, 0, 0, PROA_ECANCELED);
	}
	test_close(port);
}

TEST(27, "a close runs all the same", close_in_a_broken_chain)
{
	struct proa_port *port = test_port();
	char byte;

	for (int way = 0; way < 4; way++) {
		struct ends ends = pair_ends();
		struct record recv, timer, closing, last;

		record_init(&recv, port);
		record_init(&timer, port);
		record_init(&closing, port);
		record_init(&last, port);
		proa_prep_recv(&recv.op, way == 0 ? -1 : ends.ours, &byte, 1, 0);
		proa_prep_timer(&timer.op, 0);
		proa_prep_close(&closing.op, ends.ours, 0);
		proa_prep_timer(&last.op, 0);
		proa_link(&recv.op, &timer.op, recorded);
		proa_link(&timer.op, &closing.op, recorded);
		proa_link(&closing.op, &last.op, recorded);
		record_submit(&recv);
		if (way == 1)
			proa_cancel(&recv.op);
		if (way == 2)
			proa_cancel_all(port);
		if (way == 3)
			proa_port_shut(port);
		CHECK_INT(proa_run(port), way == 3 ? PROA_ESHUTDOWN : 0);
		CHECK_INT(recv.last, way == 0 ? PROA_EBADF : PROA_ECANCELED);
		CHECK_INT(timer.last, PROA_ECANCELED);
		CHECK_INT(closing.last, 0);
		CHECK_INT(last.last, PROA_ECANCELED);
		CHECK_INT(recv.count + timer.count + closing.count + last.count, 4);
		CHECK(recv.order < timer.order && timer.order < closing.order);
		CHECK(closing.order < last.order);
		CHECK_INT(fcntl(ends.ours, F_GETFD), -1);
		close(ends.peer);
	}
	test_close(port);
}

TEST(27, "cancel in the middle", cancel_of_a_waiting_link)
{
	struct proa_port *port = test_port();
	struct record records[5];

	link_timers(records, 5, port, 500 * PROA_MILLISECOND);
	record_submit(&records[0]);
	run_for(port, PROA_MILLISECOND);
	proa_cancel(&records[2].op);
	/* It need not wait for those before it, which go on. */
	RUN_UNTIL(port, records[4].finals == 1);
	CHECK_INT(records[0].count, 0);
	CHECK_INT(proa_run(port), 0);
	for (int i = 0; i < 5; i++) {
		CHECK_INT(records[i].count, 1);
		CHECK_INT(records[i].last, i < 2 ? 0 : PROA_ECANCELED);
	}
	CHECK(records[2].order < records[3].order && records[3].order < records[4].order);
	CHECK(records[0].order < records[1].order);
	test_close(port);
}

static struct record *ahead_of_me;

static void begin_after(struct record *record, const struct proa_completion *c)
{
	(void)c;
	CHECK_INT(ahead_of_me->finals, 1);
	CHECK_INT(record->last, 5);
}

TEST(27, "ops of different handles", chain_over_handles)
{
	struct proa_port *port = test_port();
	struct ends one = tcp_ends(), two = pair_ends();
	struct record recv, send, shut;
	char bytes[8] = "", answer[8] = "";

	record_init(&recv, port);
	record_init(&send, port);
	record_init(&shut, port);
	ahead_of_me = &recv;
	send.then = begin_after;
	/* What the first fills, the second sends. */
	proa_prep_recv(&recv.op, one.ours, bytes, 5, PROA_ALL);
	proa_prep_send(&send.op, two.ours, bytes, 5, 0);
	proa_prep_shutdown(&shut.op, two.ours);
	proa_link(&recv.op, &send.op, recorded);
	proa_link(&send.op, &shut.op, recorded);
	record_submit(&recv);
	run_for(port, PROA_MILLISECOND);
	CHECK_INT(peer_drain(two.peer, answer, sizeof(answer)), 0);
	peer_write(one.peer, "hel", 3);
	run_for(port, PROA_MILLISECOND);
	CHECK_INT(peer_drain(two.peer, answer, sizeof(answer)), 0);
	peer_write(one.peer, "lo", 2);
	CHECK_INT(proa_run(port), 0);
	CHECK_INT(shut.last, 0);
	peer_read(two.peer, answer, 5);
	CHECK(memcmp(answer, "hello", 5) == 0);
	CHECK_INT(read(two.peer, answer, 1), 0);
	close(one.peer);
	close(two.peer);
	close_handle(port, one.ours);
	close_handle(port, two.ours);
	test_close(port);
}

TEST(27, "timer, send, close", chain_of_timer_send_close)
{
	struct proa_port *port = test_port();
	struct ends ends = tcp_ends();
	struct peer_reader reader = { .fd = ends.peer };
	struct record timer, send, closing, recv;
	int64_t start = test_clock();
	char byte;

	fill_bytes(megabytes, sizeof(megabytes), 0);
	record_init(&timer, port);
	record_init(&send, port);
	record_init(&closing, port);
	record_init(&recv, port);
	proa_prep_timer(&timer.op, SHORT);
	proa_prep_send(&send.op, ends.ours, megabytes, sizeof(megabytes), 0);
	proa_prep_close(&closing.op, ends.ours, 0);
	proa_link(&timer.op, &send.op, recorded);
	proa_link(&send.op, &closing.op, recorded);
	record_submit(&timer);
	/* The close is not yet at work: the handle takes other ops. */
	proa_prep_recv(&recv.op, ends.ours, &byte, 1, 0);
	record_submit(&recv);
	run_for(port, 5 * PROA_MILLISECOND);
	if (test_clock() - start < SHORT) /* a slow machine may have come to the close */
		CHECK_INT(recv.count, 0);
	peer_reader_start(&reader);
	CHECK_INT(proa_run(port), 0);
	CHECK(test_clock() - start >= SHORT);
	CHECK_INT(timer.last, 0);
	CHECK_INT(send.last, sizeof(megabytes));
	CHECK_INT(closing.last, 0);
	CHECK_INT(recv.last, PROA_ECANCELED);
	CHECK(timer.order < send.order && send.order < closing.order);
	CHECK(recv.order < closing.order && recv.order > send.order);
	peer_reader_join(&reader);
	CHECK_INT(reader.total, sizeof(megabytes));
	CHECK_INT(reader.wrong, UINT64_MAX);
	close(ends.peer);
	test_close(port);
}

TEST(27, "limits count from the op's own start", linked_timeout_counts_from_its_start)
{
	struct proa_port *port = test_port();
	struct ends ends = pair_ends();
	struct record timer, recv;
	int64_t start = test_clock();
	char byte;

	record_init(&timer, port);
	record_init(&recv, port);
	proa_prep_timer(&timer.op, 5 * SHORT);
	proa_prep_recv(&recv.op, ends.ours, &byte, 1, 0);
	proa_op_timeout(&recv.op, 2 * SHORT);
	proa_link(&timer.op, &recv.op, recorded);
	record_submit(&timer);
	CHECK_INT(proa_run(port), 0);
	CHECK_INT(timer.last, 0);
	CHECK_INT(recv.last, PROA_ETIMEDOUT);
	CHECK(test_clock() - start >= 7 * SHORT);
	close(ends.peer);
	close_handle(port, ends.ours);
	test_close(port);
}

static struct record again[3];

static void chain_again(struct record *record, const struct proa_completion *c)
{
	struct proa_port *port = record->op.port;

	CHECK_INT(c->result, 0);
	if (++record->number >= 100)
		return;
	for (int i = 0; i < 3; i++) {
		proa_prep_timer(&again[i].op, 0);
		again[i].count = again[i].finals = 0;
	}
	CHECK_INT(proa_in_flight(port), 0);
	proa_link(&again[0].op, &again[1].op, recorded);
	proa_link(&again[1].op, &again[2].op, recorded);
	record_submit(&again[0]);
}

TEST(27, "a chain again", chain_resubmitted_by_its_last)
{
	struct proa_port *port = test_port();

	link_timers(again, 3, port, 0);
	again[2].then = chain_again;
	record_submit(&again[0]);
	CHECK_INT(proa_run(port), 0);
	CHECK_INT(again[2].number, 100);
	test_close(port);
}

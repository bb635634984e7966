/* What went wrong in other libraries, by the numbers of libevent's tracker: each a
 * test that must hold on every engine. Aborted connections (664) are in
 * test_accept.c, connections_that_are_gone. */
#include "harness.h"
#include "posix.h"

#include <stdatomic.h>

#define MS PROA_MILLISECOND

/* 470: the limit of a send that has ended strikes nobody later. */
TEST(15, "regression: write time-out while idle", no_write_timeout_while_idle)
{
	struct proa_port *port = test_port();
	struct ends ends = tcp_ends();
	struct record send, receive;
	char got[3], again[3], sent[6];

	record_init(&send, port);
	record_init(&receive, port);
	proa_prep_send(&send.op, ends.ours, "abc", 3, 0);
	proa_op_timeout(&send.op, 30 * MS);
	proa_prep_recv(&receive.op, ends.ours, got, 3, 0);
	record_submit(&receive);
	CHECK_INT(record_run(&send), 3);
	run_for(port, 100 * MS);
	CHECK_INT(send.count, 1);
	CHECK_INT(receive.count, 0);
	/* Nor the op itself, which does something else by then. */
	CHECK_INT(record_run(&send), 3);
	proa_op_timeout(&send.op, PROA_FOREVER);
	proa_prep_recv(&send.op, ends.ours, again, 3, 0);
	record_submit(&send);
	run_for(port, 100 * MS);
	CHECK_INT(send.count, 0);
	CHECK_INT(receive.count, 0);
	peer_write(ends.peer, "def", 3);
	RUN_UNTIL(port, receive.finals == 1);
	CHECK_INT(receive.last, 3);
	peer_write(ends.peer, "ghi", 3);
	RUN_UNTIL(port, send.finals == 1);
	CHECK_INT(send.last, 3);
	peer_read(ends.peer, sent, 6);
	CHECK(memcmp(sent, "abcabc", 6) == 0);
	close_handle(port, ends.ours);
	close(ends.peer);
	test_close(port);
}

/* What became of answers on a connection that has gone: those behind one that failed
 * had no bytes out. */
static void check_answers(const struct record *answers, int count)
{
	bool torn = false;

	for (int i = 0; i < count; i++) {
		CHECK_INT(answers[i].finals, 1);
		CHECK(!torn || answers[i].last < 0);
		torn = torn || answers[i].last < 0;
	}
}

/* 957: many requests in one piece, answered while the client has already gone, by an
 * end or a reset, or does not read and is closed while answers queue. */
TEST(17, "regression: pipelined requests", pipelined_and_gone)
{
	enum { ENDS, RESETS, STAYS, WAYS };
	enum { ANSWERS = 300, LENGTH = 100000 };
	struct proa_port *port = test_port();
	static struct record answers[ANSWERS];
	static char request[ANSWERS * 10], got[ANSWERS * 10], answer[LENGTH];

	memset(request, 'r', sizeof(request));
	for (int round = 0; round < 3 * WAYS; round++) {
		int way = round % WAYS;
		struct ends ends = tcp_ends();
		struct record receive;

		shrink_buffers(&ends);
		record_init(&receive, port);
		peer_write(ends.peer, request, sizeof(request));
		proa_prep_recv(&receive.op, ends.ours, got, sizeof(got), PROA_ALL);
		CHECK_INT(record_run(&receive), sizeof(got));
		if (way == RESETS)
			reset_on_close(ends.peer);
		if (way != STAYS)
			close(ends.peer);
		for (int i = 0; i < ANSWERS; i++) {
			record_init(&answers[i], port);
			proa_prep_send(&answers[i].op, ends.ours, answer, LENGTH, 0);
			record_submit(&answers[i]);
		}
		if (way == STAYS)
			CHECK(proa_run_once(port, 0) >= 0);
		close_handle(port, ends.ours);
		check_answers(answers, ANSWERS);
		CHECK(answers[ANSWERS - 1].last < 0);
		if (way == STAYS)
			close(ends.peer);
	}
	test_close(port);
}

/* 1174: a client sends as its first act, before anything was received. */
TEST(16, "regression: a client that can't send", client_sends_at_once)
{
	struct proa_port *port = test_port();
	struct proa_address address;
	int listener = tcp_listener(5, &address), peer;
	struct record record;
	proa_handle handle;
	char got[5];

	record_init(&record, port);
	proa_prep_dial(&record.op, &address, 0);
	handle = record_run(&record);
	CHECK(handle >= 0);
	proa_prep_send(&record.op, handle, "first", 5, 0);
	CHECK_INT(record_run(&record), 5);
	peer = CHECK_SYSTEM(accept(listener, NULL, NULL));
	peer_read(peer, got, 5);
	CHECK(memcmp(got, "first", 5) == 0);
	close_handle(port, handle);
	close(peer);
	close(listener);
	test_close(port);
}

/* 728: what was sent before an orderly end is received before that end. */
TEST(8, "regression: lost data", data_before_the_end)
{
	enum { LENGTH = 100000 };
	struct proa_port *port = test_port();
	unsigned char *bytes = malloc(LENGTH);

	CHECK(bytes != NULL);
	for (int round = 0; round < 20; round++) {
		struct ends ends = tcp_ends();
		struct peer_writer writer = { .fd = ends.peer, .total = LENGTH, .ends = true };
		struct record record;
		size_t at = 0;

		peer_writer_start(&writer);
		record_init(&record, port);
		do {
			proa_prep_recv(&record.op, ends.ours, bytes + at, LENGTH - at, 0);
			if (at == LENGTH)
				proa_prep_recv(&record.op, ends.ours, bytes, 1, 0);
			CHECK(record_run(&record) >= 0);
			at += (size_t)record.last;
		} while (record.last > 0);
		peer_writer_join(&writer);
		CHECK_INT(at, LENGTH);
		CHECK_BYTES(bytes, LENGTH, 0);
		close_handle(port, ends.ours);
	}
	free(bytes);
	test_close(port);
}

/* 257, 663: a listener's end leaves nothing behind of accepts in flight. */
TEST(13, "regression: listener leaks", listeners_come_and_go)
{
	struct proa_port *port = test_port();
	int before = 0;

	for (int round = 0; round < 30; round++) {
		struct record accepts[3];
		proa_handle listener;

		CHECK_INT(proa_listen(port, "127.0.0.1:0", NULL, &listener), 0);
		for (int i = 0; i < 3; i++) {
			record_init(&accepts[i], port);
			if (i == 0)
				proa_prep_accept_multi(&accepts[i].op, listener, 0);
			else
				proa_prep_accept(&accepts[i].op, listener, NULL, 0);
			record_submit(&accepts[i]);
		}
		CHECK(proa_run_once(port, 0) >= 0);
		close_handle(port, listener);
		for (int i = 0; i < 3; i++)
			CHECK_INT(accepts[i].last, PROA_ECANCELED);
		if (round == 0)
			before = descriptors_open();
	}
	CHECK_INT(descriptors_open(), before);
	test_close(port);
}

#define TOGETHER 8

static struct {
	atomic_int arrived;
	proa_handle handles[TOGETHER]; /* one of each thread's */
} together;

/* Until all have come here for the `time`th time. */
static void meet(int time)
{
	atomic_fetch_add(&together.arrived, 1);
	while (atomic_load(&together.arrived) < time * TOGETHER)
		if (time > 1)
			test_sleep(MS);
}

static int32_t nothing_much(void *argument)
{
	(void)argument;
	return 3;
}

/* Each prepares what a process prepares once: sockets, threads, look-ups, the list of
 * who has which handle. */
static void *run_at_once(void *argument)
{
	struct proa_address found, here;
	struct proa_query query = { .host = "127.0.0.1", .found = &found, .room = 1 };
	struct record timer, posted, job, look_up, dial;
	struct record *const all[] = { &timer, &posted, &job, &look_up, &dial };
	int me = (int)(intptr_t)argument;
	struct proa_port *port;
	proa_handle listener;

	meet(1);
	port = test_port();
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		record_init(all[i], port);
	CHECK_INT(proa_listen(port, "127.0.0.1:0", NULL, &listener), 0);
	CHECK_INT(proa_local_address(listener, &here), 0);
	proa_prep_dial(&dial.op, &here, 0);
	proa_prep_work(&job.op, nothing_much, NULL);
	proa_prep_resolve(&look_up.op, &query);
	proa_prep_timer(&timer.op, MS);
	proa_post(port, &posted.op, 5, recorded);
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		if (all[i] != &posted)
			proa_submit(&all[i]->op, recorded);
	CHECK_INT(proa_run(port), 0);
	CHECK(dial.last >= 0);
	CHECK_INT(job.last, 3);
	CHECK_INT(look_up.last, 1);
	CHECK_INT(timer.last, 0);
	CHECK_INT(posted.last, 5);
	/* All know whose handles are whose. */
	together.handles[me] = dial.last;
	meet(2);
	CHECK_INT(proa_attach(port, together.handles[(me + 1) % TOGETHER]), PROA_EINVAL);
	meet(3);
	close_handle(port, dial.last);
	close_handle(port, listener);
	test_close(port);
	return NULL;
}

/* Crashes at the start of threads: the first ports of a process, all at once. */
TEST_COLD(22, "regression: threads that start together", first_ports_at_once)
{
	pthread_t threads[TOGETHER];

	atomic_store(&together.arrived, 0);
	for (int i = 0; i < TOGETHER; i++)
		CHECK_INT(pthread_create(&threads[i], NULL, run_at_once, (void *)(intptr_t)i), 0);
	for (int i = 0; i < TOGETHER; i++)
		CHECK_INT(pthread_join(threads[i], NULL), 0);
}

#define CONNECTIONS 5000

/* What the accept brought. */
struct crowd {
	struct record accept;
	proa_handle handles[CONNECTIONS];
	int count;
};

static void note_one_more(struct record *record, const struct proa_completion *c)
{
	struct crowd *crowd = record->data;

	if (record->finals > 0)
		return;
	CHECK(c->result >= 0 && crowd->count < CONNECTIONS);
	crowd->handles[crowd->count++] = c->result;
}

/* Connects plain sockets, while an accept that goes on takes what comes. */
static void crowd_gather(struct crowd *crowd, struct proa_port *port, int *peers)
{
	struct proa_address address;
	proa_handle listener;

	CHECK_INT(proa_listen(port, "127.0.0.1:0", NULL, &listener), 0);
	CHECK_INT(proa_local_address(listener, &address), 0);
	record_init(&crowd->accept, port);
	crowd->accept.then = note_one_more;
	crowd->accept.data = crowd;
	proa_prep_accept_multi(&crowd->accept.op, listener, 0);
	record_submit(&crowd->accept);
	for (int i = 0; i < CONNECTIONS; i++) {
		peers[i] = tcp_connect_to(&address);
		/* No more wait than any backlog has room for. */
		if (i % 50 == 49)
			RUN_UNTIL(port, crowd->count == i + 1);
	}
	close_handle(port, listener);
	CHECK_INT(crowd->accept.finals, 1);
}

/* Each can be heard while all are open. Which is whose, its bytes say. */
TEST_WITHIN(10, "5,000 connections at once", five_thousand_connections, 120)
{
	struct proa_port *port = test_port();
	struct crowd *crowd = calloc(1, sizeof(*crowd));
	struct record *receives = calloc(CONNECTIONS, sizeof(*receives));
	int *peers = calloc(CONNECTIONS, sizeof(*peers));
	int32_t *numbers = calloc(CONNECTIONS, sizeof(*numbers));
	bool *heard = calloc(CONNECTIONS, sizeof(*heard));

	CHECK(crowd != NULL && receives != NULL && peers != NULL && numbers != NULL &&
		heard != NULL);
	crowd_gather(crowd, port, peers);
	for (int i = 0; i < CONNECTIONS; i++) {
		record_init(&receives[i], port);
		proa_prep_recv(&receives[i].op, crowd->handles[i], &numbers[i], sizeof(numbers[i]),
			PROA_ALL);
		record_submit(&receives[i]);
	}
	CHECK(proa_run_once(port, 0) >= 0);
	for (int32_t i = 0; i < CONNECTIONS; i++)
		peer_write(peers[i], &i, sizeof(i));
	RUN_UNTIL_WITHIN(port, proa_in_flight(port) == 0, 60 * PROA_SECOND);
	for (int i = 0; i < CONNECTIONS; i++) {
		CHECK_INT(receives[i].last, sizeof(numbers[i]));
		CHECK(numbers[i] >= 0 && numbers[i] < CONNECTIONS && !heard[numbers[i]]);
		heard[numbers[i]] = true;
		close(peers[i]);
		CHECK_INT(proa_discard(port, crowd->handles[i]), 0);
	}
	test_close(port);
	free(crowd);
	free(receives);
	free(peers);
	free(numbers);
	free(heard);
}

/* Rules 19, 21, 22, 24, 25 and 29: the life of a port, fairness, what other
 * threads and signal handlers may do, how runs end, forks, and the choice of
 * an engine. */
#include "harness.h"
#include "posix.h"

#include <stdatomic.h>
#ifdef __linux__
#	include <linux/filter.h>
#	include <linux/seccomp.h>
#	include <sys/prctl.h>
#	include <sys/syscall.h>
#	include <sys/utsname.h>
#endif

#define MS    PROA_MILLISECOND
#define NEVER (1000 * PROA_SECOND)

static struct record *records_make(struct proa_port *port, unsigned count)
{
	struct record *records = calloc(count, sizeof(*records));

	CHECK(records != NULL);
	for (unsigned i = 0; i < count; i++)
		record_init(&records[i], port);
	return records;
}

/* ---- Rule 19: shut ---- */

static void expect_shut(struct proa_port *port)
{
	struct proa_completion c;

	for (int i = 0; i < 2; i++) {
		CHECK_INT(proa_run(port), PROA_ESHUTDOWN);
		CHECK_INT(proa_run_once(port, PROA_FOREVER), PROA_ESHUTDOWN);
		CHECK_INT(proa_run_once(port, 0), PROA_ESHUTDOWN);
		CHECK_INT(proa_wait(port, &c, 1, PROA_FOREVER), PROA_ESHUTDOWN);
		CHECK_INT(proa_wait(port, &c, 1, 0), PROA_ESHUTDOWN);
	}
}

TEST(19, "shut cancels what is in flight and what follows", shut_port)
{
	struct proa_port *port = test_port();
	struct ends ends = pair_ends();
	struct record *records = records_make(port, 6);
	char byte;

	proa_prep_recv(&records[0].op, ends.ours, &byte, 1, 0);
	record_submit(&records[0]);
	proa_prep_timer(&records[1].op, NEVER);
	proa_op_background(&records[1].op);
	record_submit(&records[1]);
	run_for(port, MS);
	proa_port_shut(port);
	proa_port_shut(port);
	/* Submitted on a shut port, though all of it could be done. */
	proa_prep_send(&records[2].op, ends.ours, "x", 1, 0);
	record_submit(&records[2]);
	proa_prep_timer(&records[3].op, 0);
	record_submit(&records[3]);
	proa_post(port, &records[4].op, 7, recorded);
	CHECK_INT(proa_run(port), PROA_ESHUTDOWN);
	for (int i = 0; i < 5; i++) {
		CHECK_INT(records[i].count, 1);
		CHECK_INT(records[i].last, PROA_ECANCELED);
	}
	expect_shut(port);
	/* A close runs, and what is submitted or posted now has its end too. */
	proa_prep_close(&records[0].op, ends.ours, 0);
	record_submit(&records[0]);
	proa_prep_timer(&records[1].op, 0);
	record_submit(&records[1]);
	records[2].count = records[2].finals = 0;
	proa_post(port, &records[2].op, 7, recorded);
	CHECK_INT(proa_run(port), PROA_ESHUTDOWN);
	CHECK_INT(records[0].last, 0);
	CHECK_INT(fcntl(ends.ours, F_GETFD), -1);
	CHECK_INT(records[1].last, PROA_ECANCELED);
	CHECK_INT(records[2].last, PROA_ECANCELED);
	CHECK_INT(records[0].finals + records[1].finals + records[2].finals, 3);
	expect_shut(port);
	close(ends.peer);
	free(records);
	test_close(port);
}

static void *shut_later(void *port)
{
	test_sleep(20 * MS);
	proa_port_shut(port);
	return NULL;
}

TEST(19, "shut from any thread", shut_from_another_thread)
{
	for (int way = 0; way < 3; way++) {
		struct proa_port *port = test_port();
		struct proa_completion c;
		struct proa_op op;
		pthread_t thread;
		int n = 1;

		proa_op_init(&op, port, NULL);
		proa_prep_timer(&op, NEVER);
		if (way != 2) /* an empty port waits as well */
			proa_submit(&op, NULL);
		CHECK_INT(pthread_create(&thread, NULL, shut_later, port), 0);
		if (way == 0) {
			n = proa_run(port);
		} else {
			if (way == 1) {
				CHECK_INT(proa_wait(port, &c, 1, PROA_FOREVER), 1);
				CHECK_INT(c.result, PROA_ECANCELED);
			}
			n = proa_wait(port, &c, 1, PROA_FOREVER);
		}
		CHECK_INT(n, PROA_ESHUTDOWN);
		CHECK_INT(pthread_join(thread, NULL), 0);
		test_close(port);
	}
}

static unsigned drained, drained_wrong;

static void drain_one(struct proa_op *op, const struct proa_completion *c)
{
	CHECK(!proa_op_pending(op));
	drained_wrong += c->result != PROA_ECANCELED;
	drained++;
}

/* Thousands of ops of many kinds, none of which ends by itself. */
static struct proa_op *crowd(
	struct proa_port *port, struct ends *ends, unsigned pairs, unsigned count)
{
	struct proa_op *ops = calloc(count, sizeof(*ops));
	static char bytes[8];

	CHECK(ops != NULL);
	for (unsigned i = 0; i < pairs; i++)
		ends[i] = pair_ends();
	for (unsigned i = 0; i < count; i++) {
		proa_handle handle = ends[i / 4 % pairs].ours;

		proa_op_init(&ops[i], port, NULL);
		if (i % 4 == 0)
			proa_prep_recv(&ops[i], handle, bytes, 1, 0);
		else if (i % 4 == 1)
			proa_prep_poll(&ops[i], handle, PROA_READABLE);
		else if (i % 4 == 2)
			proa_prep_timer(&ops[i], NEVER);
		else
			proa_prep_poll_multi(&ops[i], handle, PROA_READABLE);
		proa_submit(&ops[i], drain_one);
	}
	return ops;
}

TEST(19, "with thousands of ops in flight", shut_and_close_with_a_crowd)
{
	enum { PAIRS = 100, COUNT = 8000 };
	struct ends ends[PAIRS];

	for (int way = 0; way < 4; way++) {
		struct proa_port *port = test_port();
		struct proa_op *ops = crowd(port, ends, PAIRS, COUNT);
		int64_t start;

		drained = drained_wrong = 0;
		if (way % 2)
			run_for(port, 10 * MS);
		start = test_clock();
		if (way < 2) {
			proa_port_shut(port);
			CHECK_INT(proa_run(port), PROA_ESHUTDOWN);
			CHECK_INT(drained, COUNT);
		}
		test_close(port);
		CHECK_INT(drained, COUNT);
		CHECK_INT(drained_wrong, 0);
		CHECK(test_clock() - start < 5 * PROA_SECOND * test_factor());
		free(ops);
		for (int i = 0; i < PAIRS; i++) {
			CHECK_SYSTEM(close(ends[i].ours));
			close(ends[i].peer);
		}
	}
}

static void shut_inside(struct record *record, const struct proa_completion *c)
{
	(void)c;
	proa_port_shut(record->op.port);
}

TEST(19, "shut in a callback", shut_inside_a_callback)
{
	struct proa_port *port = test_port();
	struct record *records = records_make(port, 3);

	records[0].then = shut_inside;
	proa_post(port, &records[0].op, 0, recorded);
	proa_post(port, &records[1].op, 0, recorded);
	proa_prep_timer(&records[2].op, NEVER);
	record_submit(&records[2]);
	CHECK_INT(proa_run(port), PROA_ESHUTDOWN);
	for (int i = 0; i < 3; i++)
		CHECK_INT(records[i].count, 1);
	CHECK_INT(records[2].last, PROA_ECANCELED);
	free(records);
	test_close(port);
}

/* A callback at the end may start things still: they end like the others. */
static void submit_more(struct record *record, const struct proa_completion *c)
{
	CHECK_INT(c->result, PROA_ECANCELED);
	if (record->number-- > 0) {
		proa_prep_timer(&record->op, 0);
		record_submit(record);
	}
}

TEST(19, "close dispatches what remains", port_close_dispatches_the_rest)
{
	struct proa_port *port = test_port();
	struct record *records = records_make(port, 4);
	struct proa_op silent;

	proa_op_init(&silent, port, NULL);
	proa_prep_timer(&silent, NEVER);
	proa_submit(&silent, NULL);
	proa_prep_timer(&records[0].op, NEVER);
	record_submit(&records[0]);
	proa_post(port, &records[1].op, 5, recorded);
	records[2].then = submit_more;
	records[2].number = 10;
	proa_prep_timer(&records[2].op, NEVER);
	record_submit(&records[2]);
	proa_prep_recv(&records[3].op, -1, NULL, 0, 0);
	record_submit(&records[3]);
	test_close(port);
	CHECK_INT(records[0].last, PROA_ECANCELED);
	CHECK_INT(records[1].count, 1);
	CHECK_INT(records[2].number, UINT64_MAX);
	CHECK_INT(records[3].count, 1);
	for (int i = 0; i < 4; i++)
		CHECK(!proa_op_pending(&records[i].op));
	CHECK(!proa_op_pending(&silent));
	CHECK_INT(proa_port_close(NULL), 0);
	free(records);
}

TEST(19, "handles stay open", port_close_leaves_handles_open)
{
	struct proa_port *one = test_port(), *two = test_port();
	proa_handle pair[2];
	struct record record;
	char byte;

	CHECK_INT(proa_pair(one, pair), 0);
	record_init(&record, one);
	proa_prep_recv(&record.op, pair[0], &byte, 1, 0);
	record_submit(&record);
	run_for(one, MS);
	test_close(one);
	CHECK_INT(record.last, PROA_ECANCELED);
	CHECK_INT(write(pair[1], "a", 1), 1);
	record_init(&record, two);
	CHECK_INT(proa_attach(two, pair[0]), 0);
	proa_prep_recv(&record.op, pair[0], &byte, 1, 0);
	CHECK_INT(record_run(&record), 1);
	CHECK(byte == 'a');
	close_handle(two, pair[0]);
	close_handle(two, pair[1]);
	test_close(two);
}

/* The harness counts descriptors: a socket that is dropped shows. */
static void discard_accepted(struct record *record, const struct proa_completion *c)
{
	if (c->result >= 0) {
		CHECK_INT(proa_discard(record->op.port, c->result), 0);
		record->number++;
	}
}

TEST(19, "nothing is lost at the end", accepted_sockets_at_the_end)
{
	for (int way = 0; way < 4; way++) {
		struct proa_port *port = test_port();
		struct proa_address address;
		proa_handle listener = tcp_listener(16, &address);
		struct record record;
		int callers[6];

		record_init(&record, port);
		record.then = discard_accepted;
		proa_prep_accept_multi(&record.op, listener, 0);
		proa_submit(&record.op, way < 2 ? recorded : NULL);
		if (way % 2)
			CHECK_INT(proa_run_once(port, MS), 0);
		for (int i = 0; i < 6; i++)
			callers[i] = tcp_connect_to(&address);
		/* Taken by the system, not handed over: or perhaps not taken. */
		test_sleep(2 * MS);
		test_close(port);
		CHECK_INT(record.finals, way < 2);
		close(listener);
		for (int i = 0; i < 6; i++)
			close(callers[i]);
	}
}

static atomic_int jobs_begun, jobs_ended;

static int32_t slow_job(void *argument)
{
	(void)argument;
	atomic_fetch_add(&jobs_begun, 1);
	test_sleep(100 * MS);
	return atomic_fetch_add(&jobs_ended, 1) + 1;
}

/* Nobody can close what nobody was told of. */
TEST(19, "nothing is lost at the end", opened_handles_at_the_end)
{
	struct proa_port *port = test_port();
	struct proa_address address;
	int listener = tcp_listener(16, &address);
	struct record dial, open_, beside;
	struct proa_completion c;

	record_init(&dial, port);
	record_init(&open_, port);
	record_init(&beside, port);
	proa_prep_dial(&dial.op, &address, 0);
	proa_submit(&dial.op, NULL);
	proa_prep_open(&open_.op, test_path("file"), PROA_OPEN_WRITE | PROA_OPEN_CREATE, 0600);
	proa_submit(&open_.op, NULL);
	/* Both have ended, and are not dequeued. */
	for (int i = 0; i < 20; i++) {
		proa_prep_timer(&beside.op, 0);
		proa_submit(&beside.op, NULL);
		test_sleep(2 * MS);
		if (proa_wait(port, &c, 1, PROA_SECOND) != 1 || c.op != &beside.op)
			break;
	}
	CHECK(c.op == &dial.op || c.op == &open_.op);
	CHECK(c.result >= 0);
	CHECK_INT(proa_discard(port, c.result), 0);
	test_sleep(20 * MS);
	CHECK_INT(proa_port_close(port), 0);
	close(listener); /* the harness counts what is open */
}

TEST(19, "jobs that have begun are waited for", port_close_waits_for_jobs)
{
	struct proa_port_options options = { .workers = 2 };
	struct proa_port *port = test_port_with(&options);
	struct record *records = records_make(port, 10);
	int ran = 0;

	for (int i = 0; i < 10; i++) {
		proa_prep_work(&records[i].op, slow_job, NULL);
		record_submit(&records[i]);
	}
	while (atomic_load(&jobs_begun) < 2)
		run_for(port, MS);
	test_close(port);
	for (int i = 0; i < 10; i++) {
		CHECK_INT(records[i].count, 1);
		if (records[i].last > 0)
			ran++;
		else
			CHECK_INT(records[i].last, PROA_ECANCELED);
	}
	CHECK_INT(atomic_load(&jobs_begun), ran);
	CHECK_INT(atomic_load(&jobs_ended), ran);
	CHECK(ran >= 2 && ran < 10);
	free(records);
}

static void *use_port(void *argument)
{
	struct record record;

	record_init(&record, argument);
	proa_prep_timer(&record.op, MS);
	CHECK_INT(record_run(&record), 0);
	return NULL;
}

TEST(19, "close when the port's thread has ended", port_close_from_another_thread)
{
	struct proa_port *port = test_port();
	pthread_t thread;

	CHECK_INT(pthread_create(&thread, NULL, use_port, port), 0);
	CHECK_INT(pthread_join(thread, NULL), 0);
	test_close(port);
}

struct estate {
	struct proa_port *port;
	struct ends ends[3];
	struct record records[6];
	char bytes[16];
};

/* Leaves ops behind that the system has, and some that it has not been told of. */
static void *leave_ops(void *argument)
{
	struct estate *estate = argument;

	for (int i = 0; i < 6; i++)
		record_init(&estate->records[i], estate->port);
	proa_prep_recv(&estate->records[0].op, estate->ends[0].ours, estate->bytes, 4, 0);
	proa_prep_poll(&estate->records[1].op, estate->ends[1].ours, PROA_READABLE);
	proa_prep_timer(&estate->records[2].op, NEVER);
	for (int i = 0; i < 3; i++)
		record_submit(&estate->records[i]);
	CHECK_INT(proa_run_once(estate->port, 0), 0);
	proa_prep_recv(&estate->records[3].op, estate->ends[2].ours, estate->bytes + 4, 4, 0);
	proa_prep_recv(&estate->records[4].op, estate->ends[0].ours, estate->bytes + 8, 4, 0);
	proa_prep_poll(&estate->records[5].op, estate->ends[2].ours, PROA_READABLE);
	for (int i = 3; i < 6; i++)
		record_submit(&estate->records[i]);
	return NULL;
}

static void *close_port(void *argument)
{
	test_close(argument);
	return NULL;
}

static void ops_of_another_thread(bool closed_by_a_third)
{
	static struct estate estate;
	pthread_t thread;

	estate.port = test_port();
	for (int i = 0; i < 3; i++)
		estate.ends[i] = pair_ends();
	CHECK_INT(pthread_create(&thread, NULL, leave_ops, &estate), 0);
	CHECK_INT(pthread_join(thread, NULL), 0);
	if (closed_by_a_third) {
		CHECK_INT(pthread_create(&thread, NULL, close_port, estate.port), 0);
		CHECK_INT(pthread_join(thread, NULL), 0);
	} else {
		test_close(estate.port);
	}
	for (int i = 0; i < 6; i++) {
		CHECK_INT(estate.records[i].finals, 1);
		CHECK_INT(estate.records[i].last, PROA_ECANCELED);
	}
	for (int i = 0; i < 3; i++) {
		close(estate.ends[i].ours);
		close(estate.ends[i].peer);
	}
}

TEST(19, "close when the port's thread has ended", port_closed_with_the_ops_of_another_thread)
{
	ops_of_another_thread(false);
}

/* It may have been given the stack of the one that has ended, and all that is there. */
TEST(19, "close when the port's thread has ended", port_closed_by_the_next_thread)
{
	ops_of_another_thread(true);
}

/* ---- Rule 21 ---- */

static atomic_bool busy_stop;

/* Fills a socket, and empties it, as fast as it can. */
static void *flood(void *argument)
{
	int fd = *(int *)argument;
	static char bytes[16384];
	struct pollfd poller = { .fd = fd };

	CHECK_SYSTEM(fcntl(fd, F_SETFL, O_NONBLOCK));
	while (!atomic_load(&busy_stop)) {
		poller.events = POLLIN | POLLOUT;
		poll(&poller, 1, 10);
		if (poller.revents & POLLIN)
			(void)!read(fd, bytes, sizeof(bytes));
		if (poller.revents & POLLOUT)
			(void)!write(fd, bytes, sizeof(bytes));
		if (poller.revents & (POLLERR | POLLHUP))
			break;
	}
	return NULL;
}

struct hog {
	struct proa_op op;
	proa_handle handle;
	struct proa_pool *pool;
	char bytes[16384];
	uint64_t rounds;
};

static bool hogs_stop;

static void hog_post(struct proa_op *op, const struct proa_completion *c)
{
	struct hog *hog = op->data;

	(void)c;
	hog->rounds++;
	if (!hogs_stop)
		proa_post(op->port, op, 0, hog_post);
}

static void hog_timer(struct proa_op *op, const struct proa_completion *c)
{
	struct hog *hog = op->data;

	(void)c;
	hog->rounds++;
	if (!hogs_stop) {
		proa_prep_timer(op, 0);
		proa_submit(op, hog_timer);
	}
}

static void hog_error(struct proa_op *op, const struct proa_completion *c)
{
	struct hog *hog = op->data;

	CHECK_INT(c->result, PROA_EBADF);
	hog->rounds++;
	if (!hogs_stop) {
		proa_prep_recv(op, -1, hog->bytes, 1, 0);
		proa_submit(op, hog_error);
	}
}

static void hog_poll(struct proa_op *op, const struct proa_completion *c)
{
	struct hog *hog = op->data;

	(void)c;
	hog->rounds++;
	if (!hogs_stop) {
		proa_prep_poll(op, hog->handle, PROA_WRITABLE);
		proa_submit(op, hog_poll);
	}
}

static void hog_sent(struct proa_op *op, const struct proa_completion *c);

static void hog_received(struct proa_op *op, const struct proa_completion *c)
{
	struct hog *hog = op->data;

	hog->rounds++;
	if (!hogs_stop && c->result > 0) {
		proa_prep_send(op, hog->handle, hog->bytes, (size_t)c->result, 0);
		proa_submit(op, hog_sent);
	}
}

static void hog_sent(struct proa_op *op, const struct proa_completion *c)
{
	struct hog *hog = op->data;

	if (!hogs_stop && c->result > 0) {
		proa_prep_recv(op, hog->handle, hog->bytes, sizeof(hog->bytes), 0);
		proa_submit(op, hog_received);
	}
}

static void hog_lent(struct proa_op *op, const struct proa_completion *c)
{
	struct hog *hog = op->data;

	(void)op;
	hog->rounds++;
	proa_give_back(proa_lent(c));
}

static void hog_ready(struct proa_op *op, const struct proa_completion *c)
{
	struct hog *hog = op->data;

	(void)c;
	(void)op;
	hog->rounds++;
}

enum busy { BUSY_POST, BUSY_TIMER, BUSY_ERROR, BUSY_POLL, BUSY_ECHO, BUSY_MULTI, BUSY_LEVEL };

static void hog_start(struct hog *hog, struct proa_port *port, enum busy kind)
{
	proa_op_init(&hog->op, port, hog);
	switch (kind) {
	case BUSY_POST:
		proa_post(port, &hog->op, 0, hog_post);
		break;
	case BUSY_TIMER:
		proa_prep_timer(&hog->op, 0);
		proa_submit(&hog->op, hog_timer);
		break;
	case BUSY_ERROR:
		proa_prep_recv(&hog->op, -1, hog->bytes, 1, 0);
		proa_submit(&hog->op, hog_error);
		break;
	case BUSY_POLL:
		proa_prep_poll(&hog->op, hog->handle, PROA_WRITABLE);
		proa_submit(&hog->op, hog_poll);
		break;
	case BUSY_ECHO:
		proa_prep_recv(&hog->op, hog->handle, hog->bytes, sizeof(hog->bytes), 0);
		proa_submit(&hog->op, hog_received);
		break;
	case BUSY_MULTI:
		CHECK_INT(proa_pool_open(port, NULL, &hog->pool), 0);
		proa_prep_recv_multi(&hog->op, hog->handle, hog->pool, 0);
		proa_submit(&hog->op, hog_lent);
		break;
	case BUSY_LEVEL:
		proa_prep_poll_multi(&hog->op, hog->handle, PROA_WRITABLE);
		proa_submit(&hog->op, hog_ready);
		break;
	}
}

static void *post_later(void *argument)
{
	struct record *record = argument;

	test_sleep(20 * MS);
	proa_post(record->op.port, &record->op, 3, recorded);
	return NULL;
}

/* While one op is busy for ever, a timer, a post of another thread and another
 * handle's traffic are all served. */
static void beside(enum busy kind)
{
	struct proa_port *port = test_port();
	struct ends loud = pair_ends(), quiet = pair_ends();
	struct record timer, post, recv;
	static struct hog hog;
	pthread_t flooder, poster;
	char byte;

	hog.handle = loud.ours;
	record_init(&timer, port);
	record_init(&post, port);
	record_init(&recv, port);
	CHECK_INT(pthread_create(&flooder, NULL, flood, &loud.peer), 0);
	hog_start(&hog, port, kind);
	proa_prep_timer(&timer.op, 20 * MS);
	record_submit(&timer);
	CHECK_INT(pthread_create(&poster, NULL, post_later, &post), 0);
	for (int i = 0; i < 50; i++) {
		proa_prep_recv(&recv.op, quiet.ours, &byte, 1, 0);
		record_submit(&recv);
		peer_write(quiet.peer, "x", 1);
		RUN_UNTIL(port, recv.finals == 1);
		CHECK_INT(recv.last, 1);
	}
	RUN_UNTIL(port, timer.finals == 1 && post.finals == 1);
	CHECK_INT(post.last, 3);
	RUN_UNTIL(port, hog.rounds > 10); /* nor does it suffer */
	hogs_stop = true;
	atomic_store(&busy_stop, true);
	CHECK_INT(pthread_join(flooder, NULL), 0);
	CHECK_INT(pthread_join(poster, NULL), 0);
	proa_cancel_all(port);
	CHECK_INT(proa_run(port), 0);
	proa_pool_close(hog.pool);
	close_handle(port, loud.ours);
	close_handle(port, quiet.ours);
	close(loud.peer);
	close(quiet.peer);
	test_close(port);
}

TEST(21, "an op that posts itself", fair_beside_posts)
{
	beside(BUSY_POST);
}

TEST(21, "a timer of no time", fair_beside_timers)
{
	beside(BUSY_TIMER);
}

TEST(21, "an op that fails at once", fair_beside_errors)
{
	beside(BUSY_ERROR);
}

TEST(21, "an op that is ready at once", fair_beside_polls)
{
	beside(BUSY_POLL);
}

TEST(21, "a busy echo", fair_beside_an_echo)
{
	beside(BUSY_ECHO);
}

TEST(21, "a busy multishot receive", fair_beside_a_multishot_receive)
{
	beside(BUSY_MULTI);
}

TEST(21, "a level-triggered poll", fair_beside_a_level_poll)
{
	beside(BUSY_LEVEL);
}

static void stop_run(struct record *record, const struct proa_completion *c)
{
	(void)c;
	proa_stop(record->op.port);
}

TEST(21, "proa_run as well", run_is_fair_too)
{
	struct proa_port *port = test_port();
	static struct hog posts, timers;
	struct record timer;

	record_init(&timer, port);
	hog_start(&posts, port, BUSY_POST);
	hog_start(&timers, port, BUSY_TIMER);
	timer.then = stop_run;
	proa_prep_timer(&timer.op, 20 * MS);
	record_submit(&timer);
	CHECK_INT(proa_run(port), PROA_ECANCELED);
	CHECK_INT(timer.finals, 1);
	hogs_stop = true;
	CHECK_INT(proa_run(port), 0);
	test_close(port);
}

TEST(21, "a loud handle's share is bounded", fair_among_many_handles)
{
	enum { QUIET = 30 };
	struct proa_port *port = test_port();
	struct ends loud = tcp_ends(), quiet[QUIET];
	struct record *records = records_make(port, QUIET);
	static struct hog hog;
	pthread_t flooder;
	char byte;

	hog.handle = loud.ours;
	CHECK_INT(pthread_create(&flooder, NULL, flood, &loud.peer), 0);
	hog_start(&hog, port, BUSY_MULTI);
	for (int i = 0; i < QUIET; i++)
		quiet[i] = pair_ends();
	for (int round = 0; round < 20; round++) {
		for (int i = 0; i < QUIET; i++) {
			proa_prep_recv(&records[i].op, quiet[i].ours, &byte, 1, 0);
			record_submit(&records[i]);
			peer_write(quiet[i].peer, "x", 1);
		}
		for (int i = 0; i < QUIET; i++)
			RUN_UNTIL(port, records[i].finals == 1);
	}
	atomic_store(&busy_stop, true);
	CHECK_INT(pthread_join(flooder, NULL), 0);
	proa_cancel_all(port);
	CHECK_INT(proa_run(port), 0);
	proa_pool_close(hog.pool);
	for (int i = 0; i < QUIET; i++) {
		close_handle(port, quiet[i].ours);
		close(quiet[i].peer);
	}
	close_handle(port, loud.ours);
	close(loud.peer);
	free(records);
	test_close(port);
}

/* Eight pairs that play a byte to and fro. */
static void ping(struct record *record, const struct proa_completion *c)
{
	static char byte;

	CHECK_INT(c->result, 1);
	if (record->number-- == 0)
		return;
	if (record->number % 2)
		proa_prep_send(&record->op, *(proa_handle *)record->data, &byte, 1, 0);
	else
		proa_prep_recv(&record->op, *(proa_handle *)record->data, &byte, 1, 0);
	record_submit(record);
}

TEST(21, "one system call a turn", turns_cost_one_system_call)
{
	struct proa_port *port = test_port();
	struct proa_port_stats before, after;
	struct record *records = records_make(port, 16);
	proa_handle handles[16];
	uint64_t turns = 0, calls, most;
	/* There a submit is a call of its own, and a turn one more. */
	bool iocp = strcmp(test_profile(), "iocp") == 0;
	char byte;

	if (!iocp && strcmp(test_profile(), "io_uring") != 0)
		SKIP("readiness, and old kernels, take more calls");
	for (int i = 0; i < 16; i += 2)
		CHECK_INT(proa_pair(port, &handles[i]), 0);
	for (int i = 0; i < 16; i++) {
		records[i].then = ping;
		records[i].data = &handles[i];
		records[i].number = 4000;
		if (i % 2)
			proa_prep_recv(&records[i].op, handles[i], &byte, 1, 0);
		else
			proa_prep_send(&records[i].op, handles[i], "x", 1, 0);
		if (i % 2 == 0)
			records[i].number++;
	}
	proa_port_stats(port, &before);
	for (int i = 0; i < 16; i++)
		record_submit(&records[i]);
	proa_port_stats(port, &after);
	if (!iocp)
		CHECK_INT(after.system_calls, before.system_calls); /* submits make none */
	before = after;
	while (turns < (iocp ? 300 : 1500)) {
		CHECK(proa_run_once(port, PROA_SECOND) > 0);
		turns++;
	}
	proa_port_stats(port, &after);
	calls = after.system_calls - before.system_calls;
	most = turns + (iocp ? after.submitted - before.submitted : 0);
	printf("%llu system calls in %llu turns\n", (unsigned long long)calls,
		(unsigned long long)turns);
	/* A few turns wait again, having been woken for nothing to hand over. */
	CHECK(calls <= most + turns / 20);
	proa_cancel_all(port);
	for (int i = 0; i < 16; i++)
		records[i].then = NULL;
	CHECK_INT(proa_run(port), 0);
	for (int i = 0; i < 16; i++)
		close_handle(port, handles[i]);
	free(records);
	test_close(port);
}

TEST(21, "statistics", statistics_are_plausible)
{
	struct proa_port_options options = { .entries = 4 };
	struct proa_port *port = test_port_with(&options);
	struct proa_port_stats stats;
	struct record *records = records_make(port, 100);
	struct ends ends = pair_ends();
	uint64_t part[2] = { 77, 77 };

	proa_port_stats(port, &stats);
	CHECK_INT(stats.submitted, 0);
	CHECK_INT(stats.completed, 0);
	for (int i = 0; i < 90; i++) {
		proa_prep_poll(&records[i].op, ends.ours, PROA_WRITABLE);
		record_submit(&records[i]);
	}
	for (int i = 90; i < 100; i++)
		proa_post(port, &records[i].op, 0, recorded);
	CHECK_INT(proa_in_flight(port), 100);
	CHECK_INT(proa_run(port), 0);
	proa_port_stats(port, &stats);
	CHECK_INT(stats.submitted, 90);
	CHECK_INT(stats.completed, 100);
	CHECK_INT(stats.posts, 10);
	CHECK_INT(stats.backlog, 0);
	CHECK(stats.backlog_peak <= 90);
	CHECK(stats.system_calls > 0);
	CHECK_INT(stats.lent, 0);
	/* An older program's struct is filled as far as it goes. */
	proa_port_stats_sized(port, (struct proa_port_stats *)(void *)part, sizeof(part[0]));
	CHECK_INT(part[0], 90);
	CHECK_INT(part[1], 77);
	free(records);
	close(ends.peer);
	close_handle(port, ends.ours);
	test_close(port);
}

TEST(21, "statistics", closes_are_counted)
{
	enum { COUNT = 32 };
	struct proa_port *port = test_port();
	struct proa_port_stats before, after;
	struct record *records = records_make(port, COUNT);
	proa_handle handles[COUNT + 2];

	for (int i = 0; i < COUNT + 2; i += 2)
		CHECK_INT(proa_pair(port, &handles[i]), 0);
	proa_port_stats(port, &before);
	CHECK_INT(proa_discard(port, handles[COUNT]), 0);
	CHECK_INT(proa_discard(port, handles[COUNT + 1]), 0);
	proa_port_stats(port, &after);
	CHECK_INT(after.system_calls - before.system_calls, 2);
	for (int i = 0; i < COUNT; i++) {
		proa_prep_close(&records[i].op, handles[i], 0);
		record_submit(&records[i]);
	}
	CHECK_INT(proa_run(port), 0);
	for (int i = 0; i < COUNT; i++)
		CHECK_INT(records[i].last, 0);
	proa_port_stats(port, &before);
	/* And not many more: they end in one turn. */
	CHECK(before.system_calls - after.system_calls >= COUNT);
	CHECK(before.system_calls - after.system_calls < 2 * COUNT);
	free(records);
	test_close(port);
}

/* ---- Rule 22 ---- */

#define POSTERS 8

struct poster {
	struct proa_port *port;
	struct proa_op *ops;
	int32_t count, seen;
	pthread_t thread;
};

static void posted_in_order(struct proa_op *op, const struct proa_completion *c)
{
	struct poster *poster = op->data;

	CHECK(!proa_op_pending(op));
	CHECK_INT(c->flags, 0);
	CHECK_INT(c->result, poster->seen);
	CHECK(op == &poster->ops[poster->seen]);
	CHECK(op->port == poster->port);
	poster->seen++;
}

static void *post_all(void *argument)
{
	struct poster *poster = argument;

	for (int32_t i = 0; i < poster->count; i++)
		proa_post(poster->port, &poster->ops[i], i, posted_in_order);
	return NULL;
}

TEST_SLOW(22, "posts from 8 threads", posts_from_many_threads)
{
	struct proa_port *port = test_port(), *other = test_port();
	struct poster posters[POSTERS];
	int32_t each = (int32_t)test_many(100000);
	struct proa_port_stats stats;
	struct record timer;
	unsigned total = 0;

	for (int i = 0; i < POSTERS; i++) {
		posters[i] = (struct poster) { .port = port, .count = each };
		posters[i].ops = calloc((size_t)each, sizeof(struct proa_op));
		CHECK(posters[i].ops != NULL);
		for (int32_t j = 0; j < each; j++) /* another's ops come, too */
			proa_op_init(&posters[i].ops[j], i % 2 ? other : port, &posters[i]);
	}
	/* Keeps the run from ending between two posts. */
	record_init(&timer, port);
	proa_prep_timer(&timer.op, NEVER);
	record_submit(&timer);
	for (int i = 0; i < POSTERS; i++)
		CHECK_INT(pthread_create(&posters[i].thread, NULL, post_all, &posters[i]), 0);
	while (total < POSTERS * (unsigned)each) {
		int n = proa_run_once(port, 10 * PROA_SECOND);

		CHECK(n > 0);
		total += (unsigned)n;
	}
	for (int i = 0; i < POSTERS; i++) {
		CHECK_INT(pthread_join(posters[i].thread, NULL), 0);
		CHECK_INT(posters[i].seen, each);
		free(posters[i].ops);
	}
	proa_port_stats(port, &stats);
	CHECK_INT(stats.posts, POSTERS * (unsigned)each);
	proa_cancel_all(port);
	CHECK_INT(proa_run(port), 0);
	test_close(port);
	test_close(other);
}

static void *post_slowly(void *argument)
{
	struct poster *poster = argument;

	for (int32_t i = 0; i < poster->count; i++) {
		proa_post(poster->port, &poster->ops[i], i, posted_in_order);
		if (i % 3 == 0)
			test_sleep((i % 7) * 20 * PROA_MICROSECOND);
	}
	return NULL;
}

TEST(22, "no wake is lost", each_post_wakes_a_sleeper)
{
	struct proa_port *port = test_port();
	struct poster poster = { .port = port, .count = 5000 };

	poster.ops = calloc((size_t)poster.count, sizeof(struct proa_op));
	CHECK(poster.ops != NULL);
	for (int32_t i = 0; i < poster.count; i++)
		proa_op_init(&poster.ops[i], port, &poster);
	CHECK_INT(pthread_create(&poster.thread, NULL, post_slowly, &poster), 0);
	while (poster.seen < poster.count)
		CHECK(proa_run_once(port, 10 * PROA_SECOND) > 0);
	CHECK_INT(pthread_join(poster.thread, NULL), 0);
	free(poster.ops);
	test_close(port);
}

/* How many writes this thread has made, by the kernel's own account; -1: it
 * keeps none. */
static long long writes_made(void)
{
	FILE *file = NULL;
	long long count = -1;
	char line[128];

#ifndef _WIN32 /* wine would show what its own server gets */
	file = fopen("/proc/thread-self/io", "re");
#endif
	while (file != NULL && fgets(line, sizeof(line), file) != NULL)
		if (sscanf(line, "syscw: %lld", &count) == 1)
			break;
	if (file != NULL)
		fclose(file);
	return count;
}

static void *post_and_count(void *argument)
{
	long long before = writes_made();

	post_all(argument);
	CHECK(writes_made() - before <= 1);
	return NULL;
}

TEST(22, "wakes are coalesced", posts_coalesce_wakes)
{
	struct proa_port *port = test_port();
	struct poster poster = { .port = port, .count = 5000 };

	if (writes_made() < 0)
		SKIP("the kernel does not count calls");
	poster.ops = calloc((size_t)poster.count, sizeof(struct proa_op));
	CHECK(poster.ops != NULL);
	for (int32_t i = 0; i < poster.count; i++)
		proa_op_init(&poster.ops[i], port, &poster);
	CHECK_INT(proa_run_once(port, 0), 0);
	/* Nobody sleeps, so nobody is woken more than once. */
	CHECK_INT(pthread_create(&poster.thread, NULL, post_and_count, &poster), 0);
	CHECK_INT(pthread_join(poster.thread, NULL), 0);
	CHECK_INT(proa_run(port), 0);
	CHECK_INT(poster.seen, poster.count);
	free(poster.ops);
	test_close(port);
}

static int pong_count;

static void pong(struct proa_op *op, const struct proa_completion *c)
{
	struct proa_port *const *ports = op->data;

	pong_count++;
	if (c->result > 0)
		proa_post(ports[(c->result + 1) % 2], op, c->result - 1, pong);
	else
		proa_stop(op->port);
}

static void *run_port(void *port)
{
	struct record timer;

	record_init(&timer, port);
	proa_prep_timer(&timer.op, NEVER);
	record_submit(&timer);
	CHECK_INT(proa_run(port), PROA_ESHUTDOWN);
	CHECK_INT(timer.last, PROA_ECANCELED);
	return NULL;
}

TEST(22, "an op travels between ports", op_posted_to_and_fro)
{
	struct proa_port *ports[2] = { test_port(), test_port() };
	struct record timer;
	struct proa_op op;
	pthread_t thread;

	CHECK_INT(pthread_create(&thread, NULL, run_port, ports[1]), 0);
	record_init(&timer, ports[0]);
	proa_prep_timer(&timer.op, NEVER);
	record_submit(&timer);
	proa_op_init(&op, ports[0], ports);
	/* Odd ones there, even ones here: the last is 0. */
	proa_post(ports[1], &op, 20001, pong);
	CHECK_INT(proa_run(ports[0]), PROA_ECANCELED);
	CHECK_INT(pong_count, 20002);
	CHECK(op.port == ports[0]);
	proa_port_shut(ports[1]);
	CHECK_INT(pthread_join(thread, NULL), 0);
	test_close(ports[0]);
	test_close(ports[1]);
}

static bool post_returned;

static void posted_later(struct record *record, const struct proa_completion *c)
{
	(void)record;
	(void)c;
	CHECK(post_returned);
}

static void post_from_callback(struct record *record, const struct proa_completion *c)
{
	struct record *later = record->data;

	(void)c;
	post_returned = false;
	proa_post(record->op.port, &later->op, -77, recorded);
	CHECK(proa_op_pending(&later->op));
	post_returned = true;
}

TEST(22, "from its own thread it means later", post_from_own_thread)
{
	struct proa_port *port = test_port();
	struct record *records = records_make(port, 2);

	records[0].then = post_from_callback;
	records[0].data = &records[1];
	records[1].then = posted_later;
	proa_post(port, &records[0].op, INT32_MAX, recorded);
	CHECK_INT(proa_in_flight(port), 1);
	CHECK_INT(proa_run(port), 0);
	CHECK_INT(records[0].last, INT32_MAX);
	CHECK_INT(records[1].last, -77); /* any result, as it was given */
	CHECK_INT(records[1].count, 1);
	free(records);
	test_close(port);
}

struct waker {
	struct proa_port *port;
	void (*act)(struct proa_port *port);
	int64_t delay;
};

static void *act_later(void *argument)
{
	struct waker *waker = argument;

	test_sleep(waker->delay);
	waker->act(waker->port);
	return NULL;
}

static void act_beside(struct waker *waker, pthread_t *thread)
{
	CHECK_INT(pthread_create(thread, NULL, act_later, waker), 0);
}

TEST(22, "wake", wake_from_another_thread)
{
	struct proa_port *port = test_port();
	struct waker waker = { port, proa_wake, 0 };
	struct proa_completion c;
	pthread_t thread;

	for (int i = 0; i < 40; i++) {
		int64_t start = test_clock();

		waker.delay = i % 4 * 300 * PROA_MICROSECOND;
		act_beside(&waker, &thread);
		CHECK_INT(i % 2 ? proa_run_once(port, 15 * PROA_SECOND)
				: proa_wait(port, &c, 1, 15 * PROA_SECOND),
			0);
		CHECK(test_clock() - start < 10 * PROA_SECOND);
		CHECK_INT(pthread_join(thread, NULL), 0);
	}
	/* With nobody waiting, the next one returns. */
	proa_wake(port);
	CHECK_INT(proa_wait(port, &c, 1, 15 * PROA_SECOND), 0);
	/* One wake is one return. */
	CHECK_INT(proa_wait(port, &c, 1, 20 * MS), 0);
	test_close(port);
}

#ifdef _WIN32
NOT_HERE(22, "wake", wake_from_a_signal_handler,
	"no signal handler runs on a thread of ours on Windows")
#else

static struct proa_port *signal_port;

static void wake_in_handler(int number)
{
	(void)number;
	proa_wake(signal_port);
}

TEST(22, "wake", wake_from_a_signal_handler)
{
	struct sigaction action = { .sa_handler = wake_in_handler };
	struct itimerval soon = { { 0, 0 }, { 0, 20000 } };
	struct proa_completion c;
	int64_t start;

	signal_port = test_port();
	CHECK_SYSTEM(sigaction(SIGALRM, &action, NULL));
	for (int i = 0; i < 5; i++) {
		CHECK_SYSTEM(setitimer(ITIMER_REAL, &soon, NULL));
		start = test_clock();
		CHECK_INT(proa_wait(signal_port, &c, 1, 15 * PROA_SECOND), 0);
		CHECK(test_clock() - start < 10 * PROA_SECOND);
	}
	test_close(signal_port);
}

#endif

static struct proa_buffer *lent_buffer;

static void *give_back_later(void *argument)
{
	(void)argument;
	test_sleep(20 * MS);
	proa_give_back(lent_buffer);
	return NULL;
}

static void keep_lent(struct record *record, const struct proa_completion *c)
{
	struct proa_buffer *buffer = proa_lent(c);

	if (buffer == NULL)
		return;
	if (record->count == 1)
		lent_buffer = buffer;
	else
		proa_give_back(buffer);
}

TEST(22, "give-back from any thread", give_back_from_another_thread)
{
	struct proa_pool_options options = { .buffer_size = 8, .count = 1, .limit = 1 };
	struct proa_port *port = test_port();
	struct ends ends = pair_ends();
	struct proa_pool *pool;
	struct record record;
	pthread_t thread;

	CHECK_INT(proa_pool_open(port, &options, &pool), 0);
	record_init(&record, port);
	record.then = keep_lent;
	proa_prep_recv_multi(&record.op, ends.ours, pool, 0);
	record_submit(&record);
	peer_write(ends.peer, "0123456789", 10);
	RUN_UNTIL(port, record.count == 1);
	CHECK_INT(pthread_create(&thread, NULL, give_back_later, NULL), 0);
	/* It resumes the receive of a port that is asleep. */
	CHECK_INT(proa_run_once(port, 15 * PROA_SECOND), 1);
	CHECK_INT(record.count, 2);
	CHECK_INT(pthread_join(thread, NULL), 0);
	proa_cancel(&record.op);
	RUN_UNTIL(port, record.finals == 1);
	proa_pool_close(pool);
	close(ends.peer);
	close_handle(port, ends.ours);
	test_close(port);
}

static void *own_port(void *argument)
{
	struct record record;
	char byte;

	record_init(&record, ((struct waker *)argument)->port);
	proa_prep_recv(&record.op, (proa_handle)((struct waker *)argument)->delay, &byte, 1, 0);
	CHECK_INT(record_run(&record), 1);
	proa_prep_close(&record.op, (proa_handle)((struct waker *)argument)->delay, 0);
	CHECK_INT(record_run(&record), 0);
	return NULL;
}

TEST(22, "whose a local port is", port_opened_here_and_run_there)
{
	struct waker both = { .port = test_port() };
	struct ends ends = pair_ends();
	pthread_t thread;

	/* Opening it and asking it things doesn't make it ours. */
	CHECK(proa_engine_name(both.port) != NULL);
	CHECK_INT(proa_in_flight(both.port), 0);
	both.delay = ends.ours;
	CHECK_INT(pthread_create(&thread, NULL, own_port, &both), 0);
	peer_write(ends.peer, "x", 1);
	CHECK_INT(pthread_join(thread, NULL), 0);
	close(ends.peer);
	test_close(both.port);
}

/* ---- Rule 24 ---- */

TEST(24, "run returns 0 when nothing is left", run_ends_with_the_last_op)
{
	struct proa_port *port = test_port();
	struct record *records = records_make(port, 3);
	struct proa_completion c;

	CHECK_INT(proa_run(port), 0);
	CHECK_INT(proa_run_once(port, 0), 0);
	CHECK_INT(proa_wait(port, &c, 1, 0), 0);
	for (int i = 0; i < 3; i++) {
		proa_prep_timer(&records[i].op, i * 10 * MS);
		record_submit(&records[i]);
	}
	CHECK_INT(proa_run(port), 0);
	CHECK_INT(records[0].finals + records[1].finals + records[2].finals, 3);
	CHECK_INT(proa_run(port), 0);
	free(records);
	test_close(port);
}

TEST(24, "background ops do not count", run_ends_with_background_ops)
{
	struct proa_port *port = test_port();
	struct record *records = records_make(port, 5);
	struct ends ends = pair_ends();

	proa_prep_timer(&records[0].op, NEVER);
	proa_op_background(&records[0].op);
	record_submit(&records[0]);
	proa_prep_interval(&records[1].op, MS, MS);
	proa_op_background(&records[1].op);
	record_submit(&records[1]);
	proa_prep_signal(&records[2].op, SIGTERM);
	proa_op_background(&records[2].op);
	record_submit(&records[2]);
	proa_prep_poll(&records[4].op, ends.ours, PROA_READABLE);
	proa_op_background(&records[4].op);
	record_submit(&records[4]);
	CHECK_INT(proa_run(port), 0);
	CHECK_INT(proa_in_flight(port), 4);
	CHECK_INT(records[1].finals, 0);
	/* They are served while another op keeps it running. */
	proa_prep_timer(&records[3].op, 60 * MS);
	record_submit(&records[3]);
	CHECK_INT(proa_run(port), 0);
	CHECK_INT(records[3].finals, 1);
	CHECK(records[1].count > 0);
	CHECK_INT(proa_in_flight(port), 4);
	for (int i = 0; i < 5; i++)
		if (i != 3)
			CHECK(proa_op_pending(&records[i].op));
	/* A prep takes the mark away. */
	proa_cancel(&records[0].op);
	RUN_UNTIL(port, records[0].finals == 1);
	proa_prep_timer(&records[0].op, 20 * MS);
	record_submit(&records[0]);
	CHECK_INT(proa_run(port), 0);
	CHECK_INT(records[0].last, 0);
	proa_cancel_all(port);
	RUN_UNTIL(port, proa_in_flight(port) == 0);
	CHECK_INT(proa_run(port), 0);
	free(records);
	close(ends.peer);
	close_handle(port, ends.ours);
	test_close(port);
}

TEST(24, "stop", stop_before_and_during_a_run)
{
	struct proa_port *port = test_port();
	struct waker waker = { port, proa_stop, 20 * MS };
	struct record *records = records_make(port, 2);
	pthread_t thread;

	/* Before: the next one returns at once, and only that. */
	proa_prep_timer(&records[0].op, 100 * MS);
	record_submit(&records[0]);
	proa_stop(port);
	CHECK_INT(proa_run(port), PROA_ECANCELED);
	CHECK_INT(records[0].count, 0);
	CHECK_INT(proa_run(port), 0);
	CHECK_INT(records[0].finals, 1);
	/* In a callback: nothing is lost. */
	records[0].then = stop_run;
	records[0].count = records[0].finals = 0;
	proa_post(port, &records[0].op, 0, recorded);
	proa_post(port, &records[1].op, 0, recorded);
	CHECK_INT(proa_run(port), PROA_ECANCELED);
	CHECK_INT(records[0].finals, 1);
	CHECK_INT(proa_run(port), 0);
	CHECK_INT(records[1].finals, 1);
	/* From another thread, asleep in it. */
	proa_prep_timer(&records[1].op, NEVER);
	record_submit(&records[1]);
	act_beside(&waker, &thread);
	CHECK_INT(proa_run(port), PROA_ECANCELED);
	CHECK_INT(pthread_join(thread, NULL), 0);
	CHECK_INT(records[1].count, 0);
	CHECK_INT(proa_in_flight(port), 1);
	/* Even when nothing is in flight. */
	proa_cancel_all(port);
	CHECK_INT(proa_run(port), 0);
	proa_stop(port);
	CHECK_INT(proa_run(port), PROA_ECANCELED);
	CHECK_INT(proa_run(port), 0);
	free(records);
	test_close(port);
}

/* It means runs: a wait neither ends by it nor keeps looking whether it has. */
TEST(24, "stop", stop_means_no_wait)
{
	struct proa_port *port = test_port();
	struct proa_completion c;
	int64_t used;

	proa_stop(port);
	used = test_cpu();
	CHECK_INT(proa_wait(port, &c, 1, 300 * MS), 0);
	used = test_cpu() - used;
	printf("%lld us of CPU\n", (long long)(used / 1000));
	CHECK(used < 30 * MS * test_factor());
	CHECK_INT(proa_run(port), PROA_ECANCELED);
	test_close(port);
}

TEST(24, "run_once", run_once_dispatches_one_batch)
{
	struct proa_port *port = test_port();
	struct record *records = records_make(port, 5);
	int64_t start = test_clock();

	/* It waits though nothing is in flight. */
	CHECK_INT(proa_run_once(port, 20 * MS), 0);
	CHECK(test_clock() - start >= 20 * MS);
	for (int i = 0; i < 5; i++)
		proa_post(port, &records[i].op, i, recorded);
	CHECK_INT(proa_run_once(port, NEVER), 5);
	CHECK_INT(proa_run_once(port, 0), 0);
	proa_prep_timer(&records[0].op, 400 * MS);
	record_submit(&records[0]);
	CHECK_INT(proa_run_once(port, 0), 0);
	CHECK_INT(proa_run_once(port, MS), 0);
	CHECK_INT(proa_run_once(port, PROA_FOREVER), 1);
	CHECK_INT(records[0].finals, 1);
	free(records);
	test_close(port);
}

#ifdef _WIN32
NOT_HERE(24, "never EINTR", wait_goes_on_after_signals, "no signal interrupts a wait on Windows")
#else

static atomic_int alarms;

static void on_alarm(int number)
{
	(void)number;
	atomic_fetch_add(&alarms, 1);
}

TEST(24, "never EINTR", wait_goes_on_after_signals)
{
	struct itimerval often = { { 0, 2000 }, { 0, 2000 } }, never = { { 0, 0 }, { 0, 0 } };
	struct sigaction action = { .sa_handler = on_alarm };
	struct proa_port *port = test_port();
	struct proa_completion c;
	struct record record;
	int64_t start;

	CHECK_SYSTEM(sigaction(SIGALRM, &action, NULL));
	CHECK_SYSTEM(setitimer(ITIMER_REAL, &often, NULL));
	start = test_clock();
	CHECK_INT(proa_wait(port, &c, 1, 100 * MS), 0);
	CHECK(test_clock() - start >= 100 * MS);
	start = test_clock();
	CHECK_INT(proa_run_once(port, 100 * MS), 0);
	CHECK(test_clock() - start >= 100 * MS);
	record_init(&record, port);
	proa_prep_timer(&record.op, 100 * MS);
	record_submit(&record);
	CHECK_INT(proa_run(port), 0);
	CHECK_INT(record.last, 0);
	CHECK_SYSTEM(setitimer(ITIMER_REAL, &never, NULL));
	CHECK(atomic_load(&alarms) > 10);
	test_close(port);
}

#endif

/* ---- Rule 24: in another loop ---- */

static bool readable(proa_handle fd, int ms)
{
	struct pollfd poller = { .fd = fd, .events = POLLIN };

	CHECK_SYSTEM(poll(&poller, 1, ms));
	return poller.revents != 0;
}

/* The outer loop: turns only when the descriptor says so. */
#define LOOP_UNTIL(port, fd, condition)                             \
	do {                                                        \
		while (!(condition)) {                              \
			CHECK(readable(fd, 10000 * test_factor())); \
			CHECK(proa_run_once(port, 0) >= 0);         \
		}                                                   \
	} while (0)

/* Says nothing more when there is nothing more. A report or two may be late: on Linux 6.1
 * an eventfd that is written to because of another's write is so after a while (RCU). */
static void expect_quiet(struct proa_port *port, proa_handle fd)
{
	int late = 0;

	while (readable(fd, 20)) {
		CHECK_INT(proa_run_once(port, 0), 0);
		CHECK(++late <= 2);
	}
}

TEST(24, "a port in another loop", descriptor_in_another_loop)
{
	struct proa_port *port = test_port();
	proa_handle fd = proa_port_descriptor(port);
	struct record *records = records_make(port, 4);
	struct ends ends = pair_ends();
	struct waker waker = { port, proa_wake, 20 * MS };
	pthread_t thread;
	int64_t start;
	char byte;

	if (fd == PROA_NO_HANDLE)
		SKIP("this engine has no descriptor");
	CHECK_INT(proa_port_descriptor(port), fd);
	CHECK_INT(proa_run_once(port, 0), 0);
	CHECK(!readable(fd, 20));
	for (int round = 0; round < 3; round++) {
		/* What is submitted outside, and is done at once; or fails. */
		proa_prep_timer(&records[0].op, 0);
		record_submit(&records[0]);
		LOOP_UNTIL(port, fd, records[0].finals == 1);
		proa_prep_send(&records[0].op, ends.ours, "a", 1, 0);
		record_submit(&records[0]);
		LOOP_UNTIL(port, fd, records[0].finals == 1);
		proa_prep_recv(&records[0].op, -1, &byte, 1, 0);
		record_submit(&records[0]);
		LOOP_UNTIL(port, fd, records[0].finals == 1);
		/* What comes from the system. */
		proa_prep_recv(&records[0].op, ends.ours, &byte, 1, 0);
		record_submit(&records[0]);
		while (readable(fd, 20))
			CHECK_INT(proa_run_once(port, 0), 0);
		peer_write(ends.peer, "x", 1);
		LOOP_UNTIL(port, fd, records[0].finals == 1);
		CHECK_INT(records[0].last, 1);
		/* Timers, armed outside: not early, and no spinning meanwhile. */
		start = test_clock();
		proa_prep_timer(&records[0].op, 50 * MS);
		record_submit(&records[0]);
		LOOP_UNTIL(port, fd, records[0].finals == 1);
		CHECK(test_clock() - start >= 50 * MS);
		/* A cancel made outside. */
		proa_prep_timer(&records[0].op, NEVER);
		record_submit(&records[0]);
		CHECK_INT(proa_run_once(port, 0), 0);
		proa_cancel(&records[0].op);
		LOOP_UNTIL(port, fd, records[0].finals == 1);
		CHECK_INT(records[0].last, PROA_ECANCELED);
		/* Posts: of this thread, and of another. */
		records[1].count = records[1].finals = 0;
		proa_post(port, &records[1].op, 3, recorded);
		LOOP_UNTIL(port, fd, records[1].finals == 1);
		records[1].count = records[1].finals = 0;
		CHECK_INT(pthread_create(&thread, NULL, post_later, &records[1]), 0);
		LOOP_UNTIL(port, fd, records[1].finals == 1);
		CHECK_INT(pthread_join(thread, NULL), 0);
		while (proa_run_once(port, 0) > 0)
			;
		expect_quiet(port, fd);
	}
	act_beside(&waker, &thread);
	CHECK(readable(fd, 10000));
	CHECK_INT(pthread_join(thread, NULL), 0);
	CHECK_INT(proa_run_once(port, 0), 0);
	expect_quiet(port, fd);
	waker.act = proa_port_shut;
	act_beside(&waker, &thread);
	CHECK(readable(fd, 10000));
	CHECK_INT(pthread_join(thread, NULL), 0);
	CHECK_INT(proa_run_once(port, 0), PROA_ESHUTDOWN);
	free(records);
	close(ends.peer);
	close(ends.ours);
	test_close(port);
}

static unsigned loop_rounds;

static void loop_again(struct record *record, const struct proa_completion *c)
{
	static char byte;

	CHECK_INT(c->result, 1);
	loop_rounds++;
	if (record->number-- > 0) {
		if (record->number % 2)
			proa_prep_recv(&record->op, *(proa_handle *)record->data, &byte, 1, 0);
		else
			proa_prep_send(&record->op, *(proa_handle *)record->data, &byte, 1, 0);
		record_submit(record);
	}
}

TEST(24, "a port in another loop", descriptor_misses_nothing)
{
	struct proa_port *port = test_port();
	proa_handle fd = proa_port_descriptor(port), handles[2];
	struct record *records = records_make(port, 2);

	if (fd == PROA_NO_HANDLE)
		SKIP("this engine has no descriptor");
	CHECK_INT(proa_pair(port, handles), 0);
	for (int i = 0; i < 2; i++) {
		records[i].then = loop_again;
		records[i].data = &handles[i];
		records[i].number = 3000 + (unsigned)i;
		recorded(&records[i].op, &(struct proa_completion) { &records[i].op, 1, 0 });
	}
	LOOP_UNTIL(port, fd, proa_in_flight(port) == 0);
	CHECK_INT(loop_rounds, 6003);
	close_handle(port, handles[0]);
	close_handle(port, handles[1]);
	free(records);
	test_close(port);
}

static void begin_a_timer(struct record *record, const struct proa_completion *c)
{
	struct record *next = record->data;

	(void)c;
	proa_prep_timer(&next->op, 5 * MS);
	record_submit(next);
}

static int32_t no_job(void *argument)
{
	(void)argument;
	return 0;
}

/* Work that comes of calls outside of a run, and begins nothing that the system tells of. */
TEST(24, "a port in another loop", descriptor_tells_of_what_is_done_outside)
{
	struct proa_pool_options options = {
		.buffer_size = 4, .count = 1, .limit = 1, .per_handle = 1
	};
	struct proa_port *port = test_port();
	proa_handle fd = proa_port_descriptor(port), handles[2];
	struct record *records = records_make(port, 3);
	struct proa_pool *pools[2];
	struct proa_completion c;
	char byte;
	int n;

	if (fd == PROA_NO_HANDLE)
		SKIP("this engine has no descriptor");
	/* A callback that proa_dispatch() calls submits. */
	records[0].then = begin_a_timer;
	records[0].data = &records[1];
	proa_prep_timer(&records[0].op, 0);
	record_submit(&records[0]);
	do {
		CHECK(readable(fd, 10000 * test_factor()));
		n = proa_wait(port, &c, 1, 0);
		CHECK(n >= 0);
	} while (n == 0);
	proa_dispatch(&c);
	LOOP_UNTIL(port, fd, records[1].finals == 1);
	records[0].then = NULL;
	/* A job behind a close begins when the close is handed over. */
	CHECK_INT(proa_pair(port, handles), 0);
	proa_prep_close(&records[0].op, handles[0], 0);
	proa_prep_work(&records[1].op, no_job, NULL);
	proa_link(&records[0].op, &records[1].op, recorded);
	records[1].count = records[1].finals = 0;
	record_submit(&records[0]);
	LOOP_UNTIL(port, fd, records[1].finals == 1);
	close_handle(port, handles[1]);
	/* A buffer comes back, and a pool is closed, that receives wait for. */
	for (int i = 0; i < 2; i++)
		CHECK_INT(proa_pool_open(port, &options, &pools[i]), 0);
	CHECK_INT(proa_pair(port, handles), 0);
	proa_prep_send(&records[2].op, handles[1], "0123456789ab", 12, 0);
	CHECK_INT(record_run(&records[2]), 12);
	proa_prep_recv_multi(&records[0].op, handles[0], pools[0], 0);
	record_submit(&records[0]);
	LOOP_UNTIL(port, fd, records[0].count == 1);
	proa_give_back(records[0].lent[0]);
	LOOP_UNTIL(port, fd, records[0].count == 2);
	proa_cancel(&records[0].op);
	LOOP_UNTIL(port, fd, records[0].finals == 1);
	proa_prep_recv_lent(&records[1].op, handles[0], pools[1], 0);
	record_submit(&records[1]);
	while (readable(fd, 20))
		CHECK_INT(proa_run_once(port, 0), 0);
	proa_pool_close(pools[0]);
	LOOP_UNTIL(port, fd, records[1].finals == 1);
	CHECK_INT(records[1].last, 4);
	proa_give_back(records[0].lent[1]);
	proa_give_back(records[1].lent[0]);
	proa_pool_close(pools[1]);
	/* What was in flight on a handle that is released. */
	proa_prep_recv(&records[0].op, handles[0], &byte, 1, 0);
	record_submit(&records[0]);
	while (readable(fd, 20))
		CHECK_INT(proa_run_once(port, 0), 0);
	CHECK_INT(proa_release(port, handles[0]), 0);
	LOOP_UNTIL(port, fd, records[0].finals == 1);
	CHECK_INT(records[0].last, PROA_ECANCELED);
	CHECK_INT(proa_discard(port, handles[0]), 0);
	CHECK_INT(proa_discard(port, handles[1]), 0);
	free(records);
	test_close(port);
}

#ifdef _WIN32
NOT_HERE(25, "the child starts afresh", fork_and_start_afresh, "no fork on Windows")
NOT_HERE(25, "the child abandons the port", fork_and_abandon, "no fork on Windows")
NOT_HERE(25, "the child abandons the port", crowded_fork_without_descriptors, "no fork on Windows")
NOT_HERE(25, "nothing else is allowed", fork_and_misuse, "no fork on Windows")
NOT_HERE(25, "many forks", fork_of_a_fork, "no fork on Windows")
NOT_HERE(25, "the child starts afresh", fork_with_a_chain_behind_a_close, "no fork on Windows")
NOT_HERE(25, "the child starts afresh", fork_without_descriptors, "no fork on Windows")
NOT_HERE(25, "each is told of", fork_and_free, "no fork on Windows")
NOT_HERE(25, "the child starts afresh", fork_with_lent_buffers, "no fork on Windows")
NOT_HERE(25, "the child starts afresh", fork_before_the_handing_over, "no fork on Windows")
#else

static int64_t scaled_ms(int64_t ms)
{
	return ms * MS * test_factor();
}

/* ---- Rule 25 ---- */

static int wait_for(pid_t pid)
{
	int status;

	CHECK_SYSTEM(waitpid(pid, &status, 0));
	return status;
}

struct heard {
	struct proa_op *ops[32];
	unsigned count;
};

static void hear(struct proa_op *op, void *data)
{
	struct heard *heard = data;

	CHECK(!proa_op_pending(op));
	for (unsigned i = 0; i < heard->count; i++)
		CHECK(heard->ops[i] != op);
	CHECK(heard->count < 32);
	heard->ops[heard->count++] = op;
}

static unsigned char fork_bytes[4 << 20];

/* Ops of all sorts in flight, when a fork comes. */
struct household {
	struct proa_port *port;
	struct proa_pool *pool;
	struct proa_buffer *held;
	struct ends one, two, three, four;
	struct record records[16];
	unsigned count;
	char bytes[16];
};

static struct proa_op *household_next(struct household *house)
{
	CHECK(house->count < 16);
	record_init(&house->records[house->count], house->port);
	return &house->records[house->count++].op;
}

static void household_begin(struct household *house)
{
	struct proa_port_options options = { .workers = 1 };
	struct proa_op *first, *next;

	memset(house, 0, sizeof(*house));
	house->port = test_port_with(&options);
	house->one = pair_ends();
	house->two = tcp_ends();
	house->three = pair_ends();
	house->four = pair_ends();
	CHECK_INT(proa_pool_open(house->port, NULL, &house->pool), 0);
	house->held = proa_pool_take(house->pool);
	proa_prep_recv(household_next(house), house->one.ours, house->bytes, 4, 0);
	proa_prep_recv(household_next(house), house->one.ours, house->bytes + 4, 4, 0);
	proa_prep_poll(household_next(house), house->four.ours, PROA_READABLE);
	proa_prep_recv_multi(household_next(house), house->two.ours, house->pool, 0);
	proa_prep_send(household_next(house), house->three.ours, fork_bytes, sizeof(fork_bytes), 0);
	proa_prep_send(household_next(house), house->three.ours, "x", 1, 0);
	proa_prep_timer(household_next(house), scaled_ms(150));
	proa_prep_work(household_next(house), slow_job, NULL);
	proa_prep_work(household_next(house), slow_job, NULL);
	for (unsigned i = 0; i < house->count; i++)
		record_submit(&house->records[i]);
	first = household_next(house);
	next = household_next(house);
	proa_prep_timer(first, scaled_ms(150));
	proa_prep_timer(next, 0);
	proa_link(first, next, recorded);
	proa_submit(first, recorded);
	proa_post(house->port, household_next(house), 9, recorded);
}

/* In the parent: all goes its way. */
static void household_end(struct household *house)
{
	struct peer_reader reader = { .fd = house->three.peer, .limit = sizeof(fork_bytes) + 1 };

	peer_reader_start(&reader);
	peer_write(house->one.peer, "abcdefgh", 8);
	peer_write(house->two.peer, "ijkl", 4);
	peer_write(house->four.peer, "m", 1);
	RUN_UNTIL(house->port, proa_in_flight(house->port) == 1);
	peer_reader_join(&reader);
	CHECK_INT(reader.total, sizeof(fork_bytes) + 1);
	CHECK(memcmp(house->bytes, "abcdefgh", 8) == 0);
	for (unsigned i = 0; i < house->count; i++)
		if (i != 3) {
			CHECK_INT(house->records[i].count, 1);
			CHECK(house->records[i].last >= 0);
		}
	CHECK_INT(house->records[3].count, 1); /* the multishot receive */
	CHECK_INT(house->records[3].last, 4);
	proa_give_back(house->records[3].lent[0]);
	proa_give_back(house->held);
	proa_cancel_all(house->port);
	CHECK_INT(proa_run(house->port), 0);
	close_handle(house->port, house->one.ours);
	close_handle(house->port, house->two.ours);
	close_handle(house->port, house->three.ours);
	close_handle(house->port, house->four.ours);
	close(house->one.peer);
	close(house->two.peer);
	close(house->three.peer);
	close(house->four.peer);
	proa_pool_close(house->pool);
	test_close(house->port);
}

/* In the child: afresh. */
static _Noreturn void child_starts_afresh(struct household *house)
{
	struct heard heard = { .count = 0 };
	struct proa_port_stats stats;
	struct record record;
	struct ends ends;
	char byte;

	CHECK_INT(proa_port_after_fork(house->port, hear, &heard), 0);
	CHECK_INT(heard.count, house->count);
	/* What the program holds it still holds. */
	proa_port_stats(house->port, &stats);
	CHECK_INT(stats.lent, 1);
	proa_give_back(house->held);
	CHECK_INT(proa_in_flight(house->port), 0);
	for (unsigned i = 0; i < house->count; i++)
		CHECK(!proa_op_pending(&house->records[i].op));
	CHECK(test_engine_is(proa_engine_name(house->port)));
	CHECK_INT(proa_run(house->port), 0);
	run_for(house->port, 30 * MS);
	ends = pair_ends();
	record_init(&record, house->port);
	proa_prep_timer(&record.op, 5 * MS);
	CHECK_INT(record_run(&record), 0);
	peer_write(ends.peer, "q", 1);
	proa_prep_recv(&record.op, ends.ours, &byte, 1, 0);
	CHECK_INT(record_run(&record), 1);
	/* ThreadSanitizer allows a forked child no threads, and AddressSanitizer's
	 * allocator may have been left locked by one of the parent's. */
#	if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
	proa_prep_work(&record.op, slow_job, NULL);
	CHECK(record_run(&record) > 0);
#	endif
	proa_post(house->port, &record.op, 4, recorded);
	record.count = record.finals = 0;
	RUN_UNTIL(house->port, record.finals == 1);
	/* Ops that were in flight take a new life, on handles they knew. */
	proa_prep_poll(&house->records[0].op, house->one.ours, PROA_WRITABLE);
	CHECK_INT(record_run(&house->records[0]), PROA_WRITABLE);
	close_handle(house->port, ends.ours);
	close_handle(house->port, house->one.ours);
	test_close(house->port);
	for (unsigned i = 1; i < house->count; i++)
		CHECK_INT(house->records[i].count, 0);
	_exit(0);
}

TEST(25, "the child starts afresh", fork_and_start_afresh)
{
	static struct household house;

	for (int later = 0; later < 2; later++) {
		pid_t pid;

		household_begin(&house);
		if (later) /* the post and more are done; then all is with the system */
			while (house.records[11].finals == 0)
				CHECK(proa_run_once(house.port, MS) >= 0);
		if (later)
			house.count--;
		pid = CHECK_SYSTEM(fork());
		if (pid == 0)
			child_starts_afresh(&house);
		CHECK_INT(wait_for(pid), 0);
		household_end(&house);
	}
}

TEST(25, "the child abandons the port", fork_and_abandon)
{
	static struct household house;
	pid_t pid;

	household_begin(&house);
	run_for(house.port, MS);
	pid = CHECK_SYSTEM(fork());
	if (pid == 0) {
		struct proa_port *fresh;

		proa_port_abandon(house.port);
		fresh = test_port();
		test_close(fresh);
		_exit(0);
	}
	CHECK_INT(wait_for(pid), 0);
	household_end(&house);
}

/* Where the child can't start afresh it can still let go. */
TEST(25, "the child abandons the port", crowded_fork_without_descriptors)
{
	static struct household house;
	pid_t pid;

	household_begin(&house);
	run_for(house.port, MS);
	pid = CHECK_SYSTEM(fork());
	if (pid == 0) {
		const struct rlimit none = { 0, 0 };
		struct proa_port *fresh;

		CHECK_SYSTEM(setrlimit(RLIMIT_NOFILE, &none));
		CHECK_INT(proa_port_after_fork(house.port, NULL, NULL), PROA_EMFILE);
		proa_port_abandon(house.port);
		CHECK_INT(proa_port_open(NULL, &fresh), PROA_EMFILE);
		_exit(0);
	}
	CHECK_INT(wait_for(pid), 0);
	household_end(&house);
}

static _Noreturn void child_misuses(struct proa_port *port, int way)
{
	struct rlimit none = { 0, 0 };
	struct proa_completion c;
	struct proa_op op;

	setrlimit(RLIMIT_CORE, &none);
	proa_op_init(&op, port, NULL);
	proa_prep_timer(&op, 0);
	if (way == 0)
		proa_submit(&op, NULL);
	else if (way == 1)
		proa_run(port);
	else
		proa_wait(port, &c, 1, 0);
	_exit(0);
}

TEST(25, "nothing else is allowed", fork_and_misuse)
{
	struct proa_port *port = test_port();
	struct record record;
	pid_t pid;

	record_init(&record, port);
	proa_prep_timer(&record.op, 50 * MS);
	record_submit(&record);
	for (int way = 0; way < 3; way++) {
		int status;

		pid = CHECK_SYSTEM(fork());
		if (pid == 0)
			child_misuses(port, way);
		status = wait_for(pid);
		CHECK(WIFSIGNALED(status));
		CHECK_INT(WTERMSIG(status), SIGABRT);
	}
	CHECK_INT(proa_run(port), 0);
	CHECK_INT(record.last, 0);
	test_close(port);
}

/* An op that is linked behind a close waits on no list of its handle's. */
TEST(25, "the child starts afresh", fork_with_a_chain_behind_a_close)
{
	struct proa_port *port = test_port();
	struct ends ends = pair_ends();
	struct record closing, timer, send_, last;
	struct heard heard = { .count = 0 };
	pid_t pid;

	record_init(&closing, port);
	record_init(&timer, port);
	record_init(&send_, port);
	record_init(&last, port);
	proa_prep_close(&closing.op, ends.ours, 0);
	record_submit(&closing);
	proa_prep_timer(&timer.op, NEVER);
	proa_prep_send(&send_.op, ends.ours, "x", 1, 0);
	proa_prep_timer(&last.op, 0);
	proa_link(&timer.op, &send_.op, recorded);
	proa_link(&send_.op, &last.op, recorded);
	record_submit(&timer);
	pid = CHECK_SYSTEM(fork());
	if (pid == 0) {
		CHECK_INT(proa_port_after_fork(port, hear, &heard), 0);
		CHECK_INT(heard.count, 4);
		CHECK(!proa_op_pending(&send_.op) && !proa_op_pending(&last.op));
		test_close(port);
		_exit(0);
	}
	CHECK_INT(wait_for(pid), 0);
	proa_cancel(&timer.op);
	RUN_UNTIL(port, last.finals == 1 && closing.finals == 1);
	close(ends.peer);
	test_close(port);
}

static unsigned char rubbish;

static void hear_and_free(struct proa_op *op, void *data)
{
	hear(op, data);
	memset(op, rubbish, sizeof *op);
}

/* The program may free what it is told of. */
TEST(25, "each is told of", fork_and_free)
{
	struct proa_port *port = test_port();
	struct ends ends[3];
	struct record recv, send_, closings[2], posts[2];
	struct heard heard = { .count = 0 };
	struct proa_completion c;
	char byte;
	pid_t pid;

	for (int i = 0; i < 3; i++)
		ends[i] = pair_ends();
	for (int i = 0; i < 2; i++) {
		record_init(&closings[i], port);
		record_init(&posts[i], port);
	}
	record_init(&recv, port);
	record_init(&send_, port);
	/* One is linked that is on a list which comes first; */
	proa_prep_recv(&recv.op, ends[1].ours, &byte, 1, 0);
	proa_prep_send(&send_.op, ends[0].ours, "x", 1, 0);
	proa_link(&recv.op, &send_.op, recorded);
	record_submit(&recv);
	/* and of three that have ended one is handed over. */
	for (int i = 0; i < 2; i++)
		proa_post(port, &posts[i].op, 0, recorded);
	proa_prep_close(&closings[0].op, ends[2].ours, 0);
	record_submit(&closings[0]);
	CHECK_INT(proa_wait(port, &c, 1, PROA_SECOND), 1);
	for (int way = 0; way < 2; way++) {
		rubbish = way == 0 ? 0 : 0x5a;
		pid = CHECK_SYSTEM(fork());
		if (pid == 0) {
			CHECK_INT(proa_port_after_fork(port, hear_and_free, &heard), 0);
			CHECK_INT(heard.count, 4);
			test_close(port);
			_exit(0);
		}
		CHECK_INT(wait_for(pid), 0);
	}
	proa_cancel(&recv.op);
	CHECK_INT(proa_run(port), 0);
	for (int i = 0; i < 3; i++) {
		if (i < 2)
			close_handle(port, ends[i].ours);
		close(ends[i].peer);
	}
	test_close(port);
}

static uint64_t pool_lent_here(const struct proa_pool *pool)
{
	struct proa_pool_stats stats;

	proa_pool_stats(pool, &stats);
	return stats.lent;
}

/* Completions that others have to wait behind, which are ready and not handed over. */
static void post_before(struct proa_port *port, struct proa_op *posts, unsigned count)
{
	struct proa_completion c;

	for (unsigned i = 0; i < count; i++) {
		proa_op_init(&posts[i], port, NULL);
		proa_post(port, &posts[i], 0, NULL);
	}
	CHECK_INT(proa_wait(port, &c, 1, PROA_SECOND), 1);
	CHECK(c.op == &posts[0]);
}

static void *give_back_here(void *buffer)
{
	proa_give_back(buffer);
	return NULL;
}

/* What the program holds it keeps; what it does not, whoever had it, is free. */
TEST(25, "the child starts afresh", fork_with_lent_buffers)
{
	struct proa_pool_options options = { .buffer_size = 4, .count = 3, .limit = 3 };
	struct proa_port *port = test_port();
	struct proa_pool *pool;
	struct proa_buffer *held, *returned;
	struct proa_completion c;
	struct proa_port_stats stats;
	struct proa_op posts[40];
	struct record recv;
	struct ends ends = pair_ends();
	pthread_t thread;
	pid_t pid;

	CHECK_INT(proa_pool_open(port, &options, &pool), 0);
	record_init(&recv, port);
	/* One is lent with a completion that is not handed over, */
	peer_write(ends.peer, "abcd", 4);
	post_before(port, posts, 40);
	proa_prep_recv_lent(&recv.op, ends.ours, pool, 0);
	record_submit(&recv);
	while (pool_lent_here(pool) == 0) {
		CHECK_INT(proa_wait(port, &c, 1, PROA_SECOND), 1);
		CHECK(c.op != &recv.op);
		test_sleep(MS);
	}
	/* one given back by another thread, and one held. */
	held = proa_pool_take(pool);
	returned = proa_pool_take(pool);
	CHECK(held != NULL && returned != NULL);
	CHECK_INT(pthread_create(&thread, NULL, give_back_here, returned), 0);
	CHECK_INT(pthread_join(thread, NULL), 0);
	pid = CHECK_SYSTEM(fork());
	if (pid == 0) {
		struct proa_buffer *taken[2];

		CHECK_INT(proa_port_after_fork(port, NULL, NULL), 0);
		proa_port_stats(port, &stats);
		CHECK_INT(stats.lent, 1);
		for (int i = 0; i < 2; i++)
			CHECK((taken[i] = proa_pool_take(pool)) != NULL);
		CHECK(proa_pool_take(pool) == NULL);
		for (int i = 0; i < 2; i++)
			proa_give_back(taken[i]);
		proa_give_back(held);
		proa_port_stats(port, &stats);
		CHECK_INT(stats.lent, 0);
		proa_pool_close(pool);
		test_close(port);
		_exit(0);
	}
	CHECK_INT(wait_for(pid), 0);
	RUN_UNTIL(port, recv.finals == 1);
	CHECK_INT(recv.last, 4);
	proa_give_back(recv.lent[0]);
	proa_give_back(held);
	close_handle(port, ends.ours);
	close(ends.peer);
	proa_pool_close(pool);
	test_close(port);
}

/* A connection that nobody was told of is the parent's alone, and so is one that is being
 * made. */
TEST(25, "the child starts afresh", fork_before_the_handing_over)
{
	struct proa_port *port = test_port();
	struct proa_address address;
	int listener = tcp_listener(4, &address), peer, before, open_now;
	struct proa_completion c;
	struct proa_address full;
	int crowded = tcp_listener(0, &full), callers[3];
	struct proa_op posts[40];
	struct record accept_, dial;
	pid_t pid;

	record_init(&accept_, port);
	record_init(&dial, port);
	peer = tcp_connect_to(&address);
	post_before(port, posts, 40);
	before = descriptors_open();
	proa_prep_accept(&accept_.op, listener, NULL, 0);
	record_submit(&accept_);
	while ((open_now = descriptors_open()) == before) {
		CHECK_INT(proa_wait(port, &c, 1, PROA_SECOND), 1);
		CHECK(c.op != &accept_.op);
		test_sleep(MS);
	}
	for (int i = 0; i < 3; i++) { /* a full listener answers no more */
		callers[i] = CHECK_SYSTEM(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
		(void)connect(callers[i], &full.to.any, full.length);
	}
	open_now = descriptors_open();
	proa_prep_dial(&dial.op, &full, 0);
	record_submit(&dial);
	pid = CHECK_SYSTEM(fork());
	if (pid == 0) {
		CHECK_INT(proa_port_after_fork(port, NULL, NULL), 0);
		CHECK_INT(descriptors_open(), open_now - 1);
		test_close(port);
		_exit(0);
	}
	CHECK_INT(wait_for(pid), 0);
	RUN_UNTIL(port, accept_.finals == 1);
	close_handle(port, accept_.last);
	proa_cancel(&dial.op);
	RUN_UNTIL(port, dial.finals == 1);
	close_handle(port, listener);
	for (int i = 0; i < 3; i++)
		close(callers[i]);
	close(crowded);
	close(peer);
	test_close(port);
}

/* A child that has no descriptors left may try once more, or give up. */
TEST(25, "the child starts afresh", fork_without_descriptors)
{
	struct proa_port *port = test_port();
	struct heard heard = { .count = 0 };
	struct proa_pool *pool;
	struct record record;
	pid_t pid;

	record_init(&record, port);
	CHECK_INT(proa_pool_open(port, NULL, &pool), 0);
	proa_prep_timer(&record.op, NEVER);
	record_submit(&record);
	for (int again = 0; again < 2; again++) {
		pid = CHECK_SYSTEM(fork());
		if (pid == 0) {
			struct rlimit before, none;

			CHECK_SYSTEM(getrlimit(RLIMIT_NOFILE, &before));
			none = before;
			none.rlim_cur = 0;
			CHECK_SYSTEM(setrlimit(RLIMIT_NOFILE, &none));
			CHECK_INT(proa_port_after_fork(port, hear, &heard), PROA_EMFILE);
			CHECK_INT(heard.count, 1);
			CHECK_SYSTEM(setrlimit(RLIMIT_NOFILE, &before));
			if (again) {
				CHECK_INT(proa_port_after_fork(port, hear, &heard), 0);
				CHECK_INT(heard.count, 1);
				proa_prep_timer(&record.op, 0);
				CHECK_INT(record_run(&record), 0);
				proa_give_back(proa_pool_take(pool));
				proa_pool_close(pool);
				test_close(port);
			} else {
				proa_port_abandon(port);
				proa_pool_close(pool);
			}
			_exit(0);
		}
		CHECK_INT(wait_for(pid), 0);
	}
	proa_timer_move(&record.op, 0);
	RUN_UNTIL(port, record.finals == 1);
	proa_pool_close(pool);
	test_close(port);
}

TEST(25, "many forks", fork_of_a_fork)
{
	struct proa_port *port = test_port();
	struct record record;
	pid_t pid;

	record_init(&record, port);
	proa_prep_timer(&record.op, NEVER);
	record_submit(&record);
	pid = CHECK_SYSTEM(fork());
	if (pid == 0) {
		CHECK_INT(proa_port_after_fork(port, NULL, NULL), 0);
		record_init(&record, port);
		proa_prep_timer(&record.op, NEVER);
		record_submit(&record);
		pid = CHECK_SYSTEM(fork());
		if (pid == 0) {
			CHECK_INT(proa_port_after_fork(port, NULL, NULL), 0);
			proa_prep_timer(&record.op, 0);
			CHECK_INT(record_run(&record), 0);
			test_close(port);
			_exit(0);
		}
		CHECK_INT(wait_for(pid), 0);
		proa_timer_move(&record.op, 0);
		RUN_UNTIL(port, record.finals == 1);
		test_close(port);
		_exit(0);
	}
	CHECK_INT(wait_for(pid), 0);
	proa_timer_move(&record.op, MS);
	CHECK_INT(proa_run(port), 0);
	CHECK_INT(record.last, 0);
	test_close(port);
}

#endif

/* ---- Rule 29, and what proa_port_open() is given ---- */

static void expect_no_port(const struct proa_port_options *options, int error)
{
	struct proa_port *port = NULL;
	int result = proa_port_open(options, &port);

	if (error != 0)
		CHECK_INT(result, error);
	CHECK(result < 0);
	CHECK(strlen(proa_port_open_why()) > 5);
	printf("%s\n", proa_port_open_why());
}

TEST(29, "bad options", open_with_bad_options)
{
	struct proa_port_options options = { .engine = "steam" };

	expect_no_port(&options, 0);
	CHECK(strstr(proa_port_open_why(), "steam") != NULL);
	options = (struct proa_port_options) { .mode = (enum proa_port_mode)7 };
	expect_no_port(&options, PROA_EINVAL);
	options = (struct proa_port_options) { .entries = UINT32_MAX };
	expect_no_port(&options, PROA_EINVAL);
	CHECK(strstr(proa_port_open_why(), "4294967295") != NULL);
	CHECK(strstr(proa_port_open_why(), "32768") != NULL);
	options = (struct proa_port_options) { .entries = 32769 };
	expect_no_port(&options, PROA_EINVAL);
	CHECK(strstr(proa_port_open_why(), "32769") != NULL);
	setenv("PROA_ENGINE", "donkey", 1);
	expect_no_port(NULL, 0);
	CHECK(strstr(proa_port_open_why(), "donkey") != NULL);
}

TEST(23, "shared ports", shared_ports_are_refused)
{
	struct proa_port_options options = { .mode = PROA_SHARED };

	expect_no_port(&options, PROA_ENOSYS);
	SKIP("no shared ports in this version: they answer PROA_ENOSYS, and that was checked");
}

TEST(29, "options of another size", open_with_options_of_another_size)
{
	struct {
		struct proa_port_options options;
		uint64_t later[4];
	} longer = { .options = { .workers = 2 } };
	const char *engine = test_engine();
	struct proa_port *port;

	/* An older program's, a newer one's, and a newer one that wants more. */
	CHECK_INT(proa_port_open_sized((const struct proa_port_options *)(const void *)&engine,
			  sizeof(engine), &port),
		0);
	CHECK(test_engine_is(proa_engine_name(port)));
	test_close(port);
	CHECK_INT(proa_port_open_sized(&longer.options, sizeof(longer), &port), 0);
	test_close(port);
	longer.later[3] = 1;
	CHECK_INT(proa_port_open_sized(&longer.options, sizeof(longer), &port), PROA_EINVAL);
	CHECK(strlen(proa_port_open_why()) > 5);
}

static int sized_port(struct proa_port *port, const void *options, size_t size)
{
	struct proa_port *other = NULL;
	int code = proa_port_open_sized(options, size, &other);

	(void)port;
	if (code == 0)
		test_close(other);
	else
		CHECK(other == NULL && strlen(proa_port_open_why()) > 5);
	return code;
}

static int sized_pool(struct proa_port *port, const void *options, size_t size)
{
	struct proa_pool *pool = NULL;
	int code = proa_pool_open_sized(port, options, size, &pool);

	proa_pool_close(pool);
	return code;
}

static int sized_listen(struct proa_port *port, const void *options, size_t size)
{
	proa_handle listener;
	int code = proa_listen_sized(port, "127.0.0.1:0", options, size, &listener);

	if (code == 0)
		CHECK_INT(proa_discard(port, listener), 0);
	return code;
}

static int sized_spawn(struct proa_port *port, const void *options, size_t size)
{
	proa_process process;

	(void)port;
	return proa_spawn_sized(options, size, &process);
}

TEST(29, "options of another size", all_options_of_another_size)
{
	static const char *const nothing[] = { "/no/such/program", NULL };
	static const struct proa_command command = { .arguments = nothing };
	static const struct {
		int (*call)(struct proa_port *port, const void *options, size_t size);
		size_t size, least; /* of the first member */
		int accepted;
	} all[] = {
		{ sized_port, sizeof(struct proa_port_options), sizeof(char *), 0 },
		{ sized_pool, sizeof(struct proa_pool_options), sizeof(uint32_t), 0 },
		{ sized_listen, sizeof(struct proa_listen_options), sizeof(uint32_t), 0 },
		{ sized_spawn, sizeof(struct proa_command), sizeof(char *), PROA_ENOENT },
	};
	struct proa_port *port = test_port();
	uint64_t options[32];

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		memset(options, 0, sizeof(options));
		if (all[i].call == sized_spawn)
			memcpy(options, &command, sizeof(command));
		CHECK_INT(all[i].call(port, options, 0), PROA_EINVAL);
		CHECK_INT(all[i].call(port, options, 3), PROA_EINVAL);
		CHECK_INT(all[i].call(port, options, all[i].size - 1), PROA_EINVAL);
		CHECK_INT(all[i].call(port, options, all[i].size + 1), PROA_EINVAL);
		/* An older program's, ours, and a newer one's, which may not want more. */
		CHECK_INT(all[i].call(port, options, all[i].least), all[i].accepted);
		CHECK_INT(all[i].call(port, options, all[i].size), all[i].accepted);
		CHECK_INT(all[i].call(port, options, all[i].size + 32), all[i].accepted);
		((unsigned char *)options)[all[i].size + 31] = 1;
		CHECK_INT(all[i].call(port, options, all[i].size + 32), PROA_EINVAL);
	}
	test_close(port);
}

/* Calls of a size are to leave zeros behind what they count, and what is behind
 * all that alone. */
static void expect_filled(const uint64_t *bytes, size_t counted, size_t size)
{
	const unsigned char *at = (const unsigned char *)bytes;

	for (size_t i = counted; i < size; i++)
		CHECK_INT(at[i], 0);
	for (size_t i = size; i < 32 * sizeof(uint64_t); i++)
		CHECK_INT(at[i], 0x77);
	CHECK(counted == 0 || (bytes[0] >= 1 && bytes[0] < 100));
}

TEST(29, "options of another size", all_counters_of_another_size)
{
	const size_t one = sizeof(uint64_t);
	const size_t sizes[] = { 0, 1, one, one + 3, 3 * one, 30 * one };
	struct proa_port *port = test_port();
	struct proa_pool *pool;
	struct record timer;
	struct proa_buffer *taken;
	uint64_t bytes[32];
	size_t counted;

	record_init(&timer, port);
	proa_prep_timer(&timer.op, 0);
	CHECK_INT(record_run(&timer), 0);
	CHECK_INT(proa_pool_open(port, NULL, &pool), 0);
	taken = proa_pool_take(pool);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		memset(bytes, 0x77, sizeof(bytes));
		proa_port_stats_sized(port, (struct proa_port_stats *)(void *)bytes, sizes[i]);
		counted = sizes[i] - sizes[i] % one;
		expect_filled(bytes,
			counted < sizeof(struct proa_port_stats) ? counted
								 : sizeof(struct proa_port_stats),
			sizes[i]);
		memset(bytes, 0x77, sizeof(bytes));
		proa_pool_stats_sized(pool, (struct proa_pool_stats *)(void *)bytes, sizes[i]);
		expect_filled(bytes,
			counted < sizeof(struct proa_pool_stats) ? counted
								 : sizeof(struct proa_pool_stats),
			sizes[i]);
	}
	proa_give_back(taken);
	proa_pool_close(pool);
	test_close(port);
}

TEST(29, "entries are a hint", open_with_few_and_many_entries)
{
	static const uint32_t sizes[] = { 1, 3, 1000, 4096, 32768 };

	for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct proa_port_options options = { .entries = sizes[i] };
		struct proa_port *port = test_port_with(&options);
		struct record *records = records_make(port, 50);

		for (int j = 0; j < 50; j++) {
			proa_prep_timer(&records[j].op, MS);
			record_submit(&records[j]);
		}
		CHECK_INT(proa_run(port), 0);
		for (int j = 0; j < 50; j++)
			CHECK_INT(records[j].finals, 1);
		free(records);
		test_close(port);
	}
}

TEST(29, "many ports", many_ports_at_once)
{
	enum { COUNT = 40 };
	struct proa_port *ports[COUNT];
	struct record records[COUNT];

	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < COUNT; i++) {
			ports[i] = test_port();
			record_init(&records[i], ports[i]);
			proa_prep_timer(&records[i].op, MS);
			record_submit(&records[i]);
		}
		for (int i = 0; i < COUNT; i++) {
			CHECK_INT(proa_run(ports[i]), 0);
			CHECK_INT(records[i].finals, 1);
		}
		for (int i = COUNT; i-- > 0;)
			test_close(ports[i]);
	}
}

/* Is it compiled in, whether it works or not? */
static bool in_this_build(const char *name)
{
	struct proa_port_options options = { .engine = name };
	struct proa_port *port = NULL;
	int error = proa_port_open(&options, &port);

	if (error == 0)
		test_close(port);
	return error == 0 || strstr(proa_port_open_why(), "not part of this build") == NULL;
}

/* The system's own way: what a port gets where io_uring is not. */
static const char *system_engine(void)
{
	static const char *const own[] = { "epoll", "kqueue", "iocp" };

	for (size_t i = 0; i < sizeof(own) / sizeof(own[0]); i++)
		if (in_this_build(own[i]))
			return own[i];
	return "poll";
}

static void expect_engine(const char *name)
{
	struct proa_port_options options = { .engine = name };
	struct proa_port *port = NULL;
	struct proa_port_stats stats;
	struct record record;

	CHECK_INT(proa_port_open(&options, &port), 0);
	if (name != NULL)
		CHECK(strcmp(proa_engine_name(port), name) == 0);
	CHECK(proa_engine_why(port) != NULL);
	proa_port_stats(port, &stats);
	CHECK_INT(stats.passed_over > 0, proa_engine_why(port)[0] != '\0');
	CHECK(name == NULL || stats.passed_over == 0);
	record_init(&record, port);
	proa_prep_timer(&record.op, MS);
	CHECK_INT(record_run(&record), 0);
	test_close(port);
}

TEST(29, "an option names another", option_goes_before_the_environment)
{
	setenv("PROA_ENGINE", "donkey", 1);
	expect_engine("poll");
	expect_engine(system_engine());
	setenv("PROA_ENGINE", "poll", 1);
	expect_engine("select");
	unsetenv("PROA_ENGINE");
	unsetenv("PROA_URING_OFF");
	expect_engine(NULL);
}

TEST(29, "what is native", supports_answers_for_all_numbers)
{
	struct proa_port *port = test_port();

	for (int i = 1; i <= 4; i++)
		CHECK((proa_supports(port, (enum proa_feature)i) & ~1) == 0);
	CHECK_INT(proa_supports(port, (enum proa_feature)0), 0);
	CHECK_INT(proa_supports(port, (enum proa_feature)31), 0);
	CHECK_INT(proa_supports(port, (enum proa_feature)1000), 0);
	test_close(port);
}

#ifndef __linux__
NOT_HERE(3, "one error path", waits_that_fail_are_told,
	"by seccomp filters; Windows: tests/unit/test_windows.c")
NOT_HERE(3, "one error path", io_uring_forbidden_before_its_first_turn, "io_uring is Linux's")
NOT_HERE(3, "one error path", io_uring_forbidden_at_work, "io_uring is Linux's")
NOT_HERE(3, "one error path", io_uring_entries_forbidden_at_work, "io_uring is Linux's")
NOT_HERE(3, "one error path", waits_that_failed_go_on,
	"by a limit of descriptors; Windows: tests/unit/test_windows.c")
NOT_HERE(29, "an engine that can't work", io_uring_forbidden_eperm,
	"no such limits but on Linux: seccomp filters, a count of locked memory and handles")
NOT_HERE(29, "an engine that can't work", io_uring_forbidden_enosys,
	"no such limits but on Linux: seccomp filters, a count of locked memory and handles")
NOT_HERE(29, "an engine that can't work", io_uring_out_of_memory,
	"no such limits but on Linux: seccomp filters, a count of locked memory and handles")
NOT_HERE(29, "an engine that can't work", epoll_forbidden_too,
	"no such limits but on Linux: seccomp filters, a count of locked memory and handles")
NOT_HERE(29, "an engine that can't work", io_uring_register_forbidden,
	"no such limits but on Linux: seccomp filters, a count of locked memory and handles")
NOT_HERE(29, "little memory to lock", open_with_little_locked_memory,
	"no such limits but on Linux: seccomp filters, a count of locked memory and handles")
NOT_HERE(29, "no descriptors left", open_without_descriptors,
	"no such limits but on Linux: seccomp filters, a count of locked memory and handles")
#else

/* From here on these system calls fail with `error`. */
static void forbid(const int *calls, int count, int error)
{
	struct sock_filter filter[32] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
	};
	struct sock_fprog program = { .filter = filter };
	unsigned n = 1;

	for (int i = 0; i < count; i++) {
		filter[n++] = (struct sock_filter)BPF_JUMP(
			BPF_JMP | BPF_JEQ | BPF_K, (unsigned)calls[i], 0, 1);
		filter[n++] = (struct sock_filter)BPF_STMT(
			BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ((unsigned)error & SECCOMP_RET_DATA));
	}
	filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	program.len = (unsigned short)n;
	CHECK_SYSTEM(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
		SKIP("seccomp filters are not available: %s", strerror(errno));
}

/* What readiness is waited for by. */
static const int waiting_calls[] = {
#	ifdef SYS_poll
	SYS_poll,
#	endif
	SYS_ppoll,
#	ifdef SYS_ppoll_time64
	SYS_ppoll_time64,
#	endif
	SYS_pselect6,
#	ifdef SYS_pselect6_time64
	SYS_pselect6_time64,
#	endif
#	ifdef SYS_epoll_wait
	SYS_epoll_wait,
#	endif
	SYS_epoll_pwait,
#	ifdef SYS_epoll_pwait2
	SYS_epoll_pwait2,
#	endif
	SYS_io_uring_enter,
};

static bool linux_is(int major, int minor)
{
	struct utsname names;
	int a = 0, b = 0;

	CHECK_SYSTEM(uname(&names));
	CHECK_INT(sscanf(names.release, "%d.%d", &a, &b), 2);
	return a > major || (a == major && b >= minor);
}

/* Does io_uring work on what it has on the port's own entries alone? */
static bool defers(void)
{
	const char *off = getenv("PROA_URING_OFF");

	return linux_is(6, 1) &&
	       (off == NULL || (strcmp(off, "all") != 0 && strcmp(off, "defer") != 0 &&
				       strcmp(off, "coop") != 0 && strcmp(off, "ext_arg") != 0));
}

/* An engine that waits by a call which always fails has to say so to those who wait, and
 * is not to spin. */
TEST(3, "one error path", waits_that_fail_are_told)
{
	struct proa_port *port = test_port();
	/* Before, requests that io_uring has can't be stopped without an entry: they end
	 * by themselves. */
	bool told = strcmp(proa_engine_name(port), "io_uring") != 0 || linux_is(6, 0);
	struct ends ends = tcp_ends();
	struct record receive;
	int64_t since, cpu;
	char byte;

	record_init(&receive, port);
	proa_prep_recv(&receive.op, ends.ours, &byte, 1, 0);
	record_submit(&receive);
	CHECK(proa_run_once(port, 0) >= 0);
	forbid(waiting_calls, sizeof(waiting_calls) / sizeof(waiting_calls[0]), ENOMEM);
	since = test_clock();
	cpu = test_cpu();
	if (!told)
		peer_write(ends.peer, "x", 1);
	RUN_UNTIL(port, receive.finals == 1);
	CHECK_INT(receive.last, told ? PROA_ENOMEM : 1);
	/* Not at the first time: want passes. */
	CHECK(!told || test_clock() - since > PROA_SECOND / 2);
	CHECK(test_cpu() - cpu < PROA_SECOND / 4 * test_factor());
	close_handle(port, ends.ours);
	close(ends.peer);
	test_close(port);
}

/* io_uring's calls are forbidden when the port is open, and with `begun` at work. What the
 * kernel has can't be stopped if `stays`; it ends by itself. The rest is told of it, and
 * closing the port returns. */
static void forbidden_later(const int *calls, int count, bool begun, bool stays)
{
	struct proa_port *port = test_port();
	struct ends ends[3] = { tcp_ends(), tcp_ends(), pipe_ends(false) };
	struct record receive, lent, watch, timer, later;
	struct proa_pool *pool;
	char byte;

	if (strcmp(proa_engine_name(port), "io_uring") != 0)
		SKIP("%s needs none of these calls", proa_engine_name(port));
	CHECK_INT(proa_pool_open(port, NULL, &pool), 0);
	record_init(&receive, port);
	record_init(&lent, port);
	record_init(&watch, port);
	record_init(&timer, port);
	record_init(&later, port);
	proa_prep_recv(&receive.op, ends[0].ours, &byte, 1, 0);
	record_submit(&receive);
	proa_prep_recv_lent(&lent.op, ends[1].ours, pool, 0);
	record_submit(&lent);
	proa_prep_poll(&watch.op, ends[2].ours, PROA_READABLE);
	record_submit(&watch);
	if (begun)
		CHECK(proa_run_once(port, 0) >= 0);
	forbid(calls, count, EPERM);
	proa_prep_timer(&timer.op, MS);
	record_submit(&timer);
	RUN_UNTIL(port, timer.finals == 1);
	CHECK_INT(timer.last, 0);
	if (!stays)
		RUN_UNTIL(port, receive.finals + lent.finals + watch.finals == 3);
	proa_prep_recv(&later.op, ends[0].ours, &byte, 1, 0);
	record_submit(&later);
	for (int i = 0; i < 3 && stays; i++)
		peer_write(ends[i].peer, "x", 1);
	RUN_UNTIL(port, receive.finals + lent.finals + watch.finals == 3);
	CHECK_INT(receive.last, stays ? 1 : PROA_EPERM);
	CHECK_INT(lent.last, stays ? 1 : PROA_EPERM);
	CHECK_INT(watch.last, stays ? (int)PROA_READABLE : PROA_EPERM);
	RUN_UNTIL(port, later.finals == 1);
	CHECK_INT(later.last, PROA_EPERM);
	proa_give_back(lent.lent[0]);
	/* What is waited for by this is the port's end. */
	proa_prep_recv(&later.op, ends[1].ours, &byte, 1, 0);
	record_submit(&later);
	test_close(port);
	CHECK_INT(later.finals, 1);
	proa_pool_close(pool);
	for (int i = 0; i < 3; i++) {
		close(ends[i].ours);
		close(ends[i].peer);
	}
}

/* A ring that may not be used before it is enabled. */
TEST(3, "one error path", io_uring_forbidden_before_its_first_turn)
{
	static const int calls[] = { SYS_io_uring_register };

	if (!defers())
		SKIP("a ring that need not be enabled needs none of these calls");
	forbidden_later(calls, 1, false, false);
}

/* Nothing can be asked of the kernel any more. */
TEST(3, "one error path", io_uring_forbidden_at_work)
{
	static const int calls[] = { SYS_io_uring_setup, SYS_io_uring_enter,
		SYS_io_uring_register };

	forbidden_later(calls, 3, true, !defers());
}

TEST(3, "one error path", io_uring_entries_forbidden_at_work)
{
	static const int calls[] = { SYS_io_uring_enter };

	forbidden_later(calls, 1, true, !linux_is(6, 0));
}

/* poll(2) takes no more entries than there may be descriptors. It does again. */
TEST(3, "one error path", waits_that_failed_go_on)
{
	enum { COUNT = 3 };
	struct proa_port *port = test_port();
	bool refused = strcmp(proa_engine_name(port), "poll") == 0;
	struct rlimit before, tight;
	struct ends ends[COUNT];
	struct record receives[COUNT];
	char bytes[COUNT];

	for (int i = 0; i < COUNT; i++) {
		ends[i] = tcp_ends();
		record_init(&receives[i], port);
		proa_prep_recv(&receives[i].op, ends[i].ours, &bytes[i], 1, 0);
		record_submit(&receives[i]);
	}
	CHECK_SYSTEM(getrlimit(RLIMIT_NOFILE, &before));
	tight = before;
	tight.rlim_cur = 2;
	CHECK_SYSTEM(setrlimit(RLIMIT_NOFILE, &tight));
	for (int i = 0; i < COUNT && refused; i++) {
		RUN_UNTIL(port, receives[i].finals == 1);
		CHECK_INT(receives[i].last, PROA_EINVAL);
	}
	CHECK_SYSTEM(setrlimit(RLIMIT_NOFILE, &before));
	for (int i = 0; i < COUNT; i++) {
		if (refused)
			record_submit(&receives[i]);
		CHECK(proa_run_once(port, 0) >= 0);
		CHECK_INT(receives[i].finals, 0);
		peer_write(ends[i].peer, "x", 1);
		RUN_UNTIL(port, receives[i].finals == 1);
		CHECK_INT(receives[i].last, 1);
		close_handle(port, ends[i].ours);
		close(ends[i].peer);
	}
	test_close(port);
}

/* The port works: a timer, a receive that finds its byte there, and one that waits. */
static void expect_works(struct proa_port *port)
{
	struct record record;
	struct ends ends = pair_ends();
	char byte;

	record_init(&record, port);
	proa_prep_timer(&record.op, MS);
	CHECK_INT(record_run(&record), 0);
	peer_write(ends.peer, "x", 1);
	proa_prep_recv(&record.op, ends.ours, &byte, 1, 0);
	CHECK_INT(record_run(&record), 1);
	proa_prep_recv(&record.op, ends.ours, &byte, 1, 0);
	record_submit(&record);
	run_for(port, MS);
	CHECK_INT(record.finals, 0);
	peer_write(ends.peer, "y", 1);
	while (record.finals == 0)
		CHECK_SYSTEM(proa_run_once(port, PROA_FOREVER));
	CHECK(record.last == 1 && byte == 'y');
	close(ends.peer);
	close_handle(port, ends.ours);
}

/* `error`, by its name, is why the `better` engines were passed over. */
static void expect_fallback(const char *name, const char *error, unsigned better)
{
	struct proa_port *port = NULL;
	struct proa_port_stats stats;

	unsetenv("PROA_ENGINE");
	CHECK_INT(proa_port_open(NULL, &port), 0);
	printf("%s: %s\n", proa_engine_name(port), proa_engine_why(port));
	CHECK(strcmp(proa_engine_name(port), name) == 0);
	if (in_this_build("io_uring"))
		CHECK(strstr(proa_engine_why(port), "io_uring") != NULL);
	CHECK(better == 0 || strstr(proa_engine_why(port), error) != NULL);
	proa_port_stats(port, &stats);
	CHECK_INT(stats.passed_over, better);
	expect_works(port);
	test_close(port);
}

static void without_io_uring(int error, const char *name)
{
	static const int setup[] = { SYS_io_uring_setup };

	forbid(setup, 1, error);
	setenv("PROA_ENGINE", "io_uring", 1);
	expect_no_port(NULL, 0);
	CHECK(strstr(proa_port_open_why(), "io_uring") != NULL);
	CHECK(!in_this_build("io_uring") || strstr(proa_port_open_why(), name) != NULL);
	expect_fallback(system_engine(), name, in_this_build("io_uring"));
}

TEST(29, "an engine that can't work", io_uring_forbidden_eperm)
{
	without_io_uring(EPERM, "EPERM");
}

TEST(29, "an engine that can't work", io_uring_forbidden_enosys)
{
	without_io_uring(ENOSYS, "ENOSYS");
}

TEST(29, "an engine that can't work", io_uring_out_of_memory)
{
	without_io_uring(ENOMEM, "ENOMEM");
}

TEST(29, "an engine that can't work", epoll_forbidden_too)
{
	static const int calls[] = {
		SYS_io_uring_setup,
		SYS_epoll_create1,
#	if defined(SYS_epoll_create)
		SYS_epoll_create,
#	endif
	};

	forbid(calls, sizeof(calls) / sizeof(calls[0]), EPERM);
	/* The tests' own kqueue has an epoll in it. */
	expect_fallback("poll", "EPERM",
		0u + in_this_build("io_uring") + in_this_build("epoll") + in_this_build("kqueue"));
	setenv("PROA_ENGINE", "epoll", 1);
	expect_no_port(NULL, 0);
	CHECK(strstr(proa_port_open_why(), "epoll") != NULL);
	CHECK(!in_this_build("epoll") || strstr(proa_port_open_why(), "EPERM") != NULL);
}

#	ifdef SYS_epoll_pwait2
/* Linux before 5.11: its wait knows milliseconds, and must not be early. */
TEST(20, "never early", timers_without_the_exact_wait)
{
	static const int calls[] = { SYS_epoll_pwait2 };
	struct proa_port *port;
	struct record record;
	int64_t since;

	forbid(calls, 1, ENOSYS);
	port = test_port();
	record_init(&record, port);
	for (int us = 100; us < 4000; us += 700) {
		since = test_clock();
		proa_prep_timer(&record.op, us * INT64_C(1000));
		CHECK_INT(record_run(&record), 0);
		CHECK(test_clock() - since >= us * INT64_C(1000));
	}
	test_close(port);
}
#	endif

/* Some sandboxes let a ring be made, and nothing be registered with it. */
TEST(29, "an engine that can't work", io_uring_register_forbidden)
{
	static const int calls[] = { SYS_io_uring_register };
	struct proa_port *port = NULL;

	forbid(calls, 1, EPERM);
	unsetenv("PROA_ENGINE");
	CHECK_INT(proa_port_open(NULL, &port), 0);
	expect_works(port);
	test_close(port);
}

TEST(29, "little memory to lock", open_with_little_locked_memory)
{
	struct rlimit little;
	struct proa_port *port = NULL;

	/* Kernels before 5.12 count rings against it: then another is taken. */
	CHECK_SYSTEM(getrlimit(RLIMIT_MEMLOCK, &little));
	if (little.rlim_max > 4096) /* else it is less already */
		little.rlim_max = 4096;
	little.rlim_cur = little.rlim_max;
	CHECK_SYSTEM(setrlimit(RLIMIT_MEMLOCK, &little));
	unsetenv("PROA_ENGINE");
	CHECK_INT(proa_port_open(NULL, &port), 0);
	expect_works(port);
	test_close(port);
}

TEST(29, "no descriptors left", open_without_descriptors)
{
	struct rlimit before, few;
	struct proa_port *port = NULL;
	int free_one = CHECK_SYSTEM(dup(0)), opened = descriptors_open(), result;

	close(free_one);
	CHECK_SYSTEM(getrlimit(RLIMIT_NOFILE, &before));
	/* From none on upwards, until it succeeds: nothing may leak on the way. */
	for (int room = 0; room < 40; room++) {
		few = before;
		few.rlim_cur = (rlim_t)(free_one + room);
		CHECK_SYSTEM(setrlimit(RLIMIT_NOFILE, &few));
		result = proa_port_open(NULL, &port);
		CHECK_SYSTEM(setrlimit(RLIMIT_NOFILE, &before));
		if (result == 0)
			test_close(port);
		else
			CHECK(strlen(proa_port_open_why()) > 5);
		CHECK(room > 0 || result < 0);
		CHECK_INT(descriptors_open(), opened - 1);
	}
	CHECK_INT(result, 0);
}

#endif

/* Rules 1 to 7: what holds for every operation, whatever it does. Ownership,
 * one final completion, errors and misuse, no callback inside a call, what is
 * pending when, back-pressure, and counts. */
#include "blocks.h"
#include "harness.h"
#include "posix.h"

#include <setjmp.h>
#include <stdatomic.h>

#define SHORT (20 * PROA_MILLISECOND)
#define NEVER (1000 * PROA_SECOND)

static bool allocations_are_counted(void)
{
	unsigned long before = blocks_asked();
	void *volatile memory = malloc(100);

	free(memory);
	return blocks_asked() == before + 1;
}

/* ---- Rule 1 ---- */

TEST(1, "port and data survive every prep", prep_keeps_port_and_data)
{
	struct proa_port *port = test_port();
	struct proa_address address = { 0 };
	struct proa_message message = { 0 };
	struct proa_range range = { 0 };
	struct proa_query query = { 0 };
	struct proa_stat status;
	struct proa_exit end;
	struct proa_op op;
	int mark;

	CHECK(sizeof(struct proa_op) <= 128);
	CHECK(sizeof(struct proa_completion) <= 32);
	memset(&op, 0xa5, sizeof(op));
	proa_op_init(&op, port, &mark);
	CHECK(!proa_op_pending(&op));
#define KEEPS(call)                                                                  \
	do {                                                                         \
		call;                                                                \
		CHECK(op.port == port && op.data == &mark && !proa_op_pending(&op)); \
	} while (0)
	KEEPS(proa_prep_accept(&op, 0, &address, 0));
	KEEPS(proa_prep_accept_multi(&op, 0, 0));
	KEEPS(proa_prep_dial(&op, &address, 0));
	KEEPS(proa_prep_connect(&op, 0, &address, 0));
	KEEPS(proa_prep_recv(&op, 0, &mark, 1, 0));
	KEEPS(proa_prep_recv_lent(&op, 0, NULL, 0));
	KEEPS(proa_prep_recv_multi(&op, 0, NULL, 0));
	KEEPS(proa_prep_send(&op, 0, &mark, 1, 0));
	KEEPS(proa_prep_sendv(&op, 0, NULL, 0, 0));
	KEEPS(proa_prep_sendfile(&op, 0, &range, 0));
	KEEPS(proa_prep_recvfrom(&op, 0, &mark, 1, &address, 0));
	KEEPS(proa_prep_sendto(&op, 0, &mark, 1, &address, 0));
	KEEPS(proa_prep_recvmsg(&op, 0, &message, 0));
	KEEPS(proa_prep_sendmsg(&op, 0, &message, 0));
	KEEPS(proa_prep_shutdown(&op, 0));
	KEEPS(proa_prep_close(&op, 0, 0));
	KEEPS(proa_prep_poll(&op, 0, PROA_READABLE));
	KEEPS(proa_prep_poll_multi(&op, 0, PROA_READABLE));
	KEEPS(proa_prep_open(&op, "/", PROA_OPEN_READ, 0));
	KEEPS(proa_prep_read(&op, 0, &mark, 1, 0));
	KEEPS(proa_prep_write(&op, 0, &mark, 1, 0));
	KEEPS(proa_prep_sync(&op, 0, 0));
	KEEPS(proa_prep_stat(&op, "/", &status));
	KEEPS(proa_prep_timer(&op, 1));
	KEEPS(proa_prep_timer_at(&op, 1));
	KEEPS(proa_prep_interval(&op, 1, 1));
	KEEPS(proa_prep_work(&op, NULL, NULL));
	KEEPS(proa_prep_resolve(&op, &query));
	KEEPS(proa_prep_signal(&op, SIGTERM));
	KEEPS(proa_prep_child(&op, 1, &end));
#undef KEEPS
	test_close(port);
}

/* An op on pages of its own, which its callback unmaps as its first act: the
 * library can't touch it afterwards and live. */
struct paged {
	struct proa_op op;
	struct proa_address address;
	char bytes[64];
};

static unsigned paged_ended;
static int32_t paged_result;

static void unmap_done(struct proa_op *op, const struct proa_completion *c)
{
	int32_t result = c->result;

	CHECK(!proa_op_pending(op));
	CHECK_SYSTEM(munmap(op->data, sizeof(struct paged)));
	paged_result = result;
	paged_ended++;
}

static struct paged *paged_make(struct proa_port *port)
{
	struct paged *paged = mmap(
		NULL, sizeof(*paged), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(paged != MAP_FAILED);
	proa_op_init(&paged->op, port, paged);
	return paged;
}

static void paged_expect(struct proa_port *port, struct paged *paged, int32_t result)
{
	unsigned before = paged_ended;

	if (paged != NULL)
		proa_submit(&paged->op, unmap_done);
	RUN_UNTIL(port, paged_ended == before + 1);
	CHECK_INT(paged_result, result);
}

static int32_t seven(void *argument)
{
	(void)argument;
	return 7;
}

TEST(1, "free as the callback's first act", op_is_the_callers_in_its_callback)
{
	struct proa_port *port = test_port();
	struct ends ends = pair_ends();
	struct paged *paged;

	paged = paged_make(port);
	proa_prep_timer(&paged->op, PROA_MILLISECOND);
	paged_expect(port, paged, 0);

	paged = paged_make(port);
	proa_post(port, &paged->op, 5, unmap_done);
	paged_expect(port, NULL, 5);

	paged = paged_make(port);
	proa_prep_work(&paged->op, seven, NULL);
	paged_expect(port, paged, 7);

	paged = paged_make(port);
	proa_prep_send(&paged->op, ends.ours, paged->bytes, 9, 0);
	paged_expect(port, paged, 9);

	peer_write(ends.peer, "abc", 3);
	paged = paged_make(port);
	proa_prep_poll(&paged->op, ends.ours, PROA_READABLE);
	paged_expect(port, paged, PROA_READABLE);

	paged = paged_make(port);
	proa_prep_recv(&paged->op, ends.ours, paged->bytes, 9, 0);
	paged_expect(port, paged, 3);

	paged = paged_make(port);
	proa_prep_recv(&paged->op, ends.ours, paged->bytes, 9, 0);
	proa_op_timeout(&paged->op, SHORT);
	paged_expect(port, paged, PROA_ETIMEDOUT);

	paged = paged_make(port);
	proa_prep_recv(&paged->op, ends.ours, paged->bytes, 9, 0);
	proa_submit(&paged->op, unmap_done);
	run_for(port, SHORT);
	proa_cancel(&paged->op);
	paged_expect(port, NULL, PROA_ECANCELED);

	paged = paged_make(port);
	proa_prep_recv(&paged->op, -1, paged->bytes, 9, 0);
	paged_expect(port, paged, PROA_EBADF);

	paged = paged_make(port);
	proa_prep_close(&paged->op, ends.ours, 0);
	paged_expect(port, paged, 0);
	close(ends.peer);
	test_close(port);
}

TEST(1, "free as the callback's first act", chained_ops_are_freed_one_by_one)
{
	struct proa_port *port = test_port();

	for (int broken = 0; broken < 2; broken++) {
		struct paged *first = paged_make(port), *second = paged_make(port);
		struct paged *third = paged_make(port);

		paged_ended = 0;
		proa_prep_timer(&first->op, broken ? NEVER : 0);
		proa_prep_timer(&second->op, PROA_MILLISECOND);
		proa_prep_timer(&third->op, 0);
		proa_link(&first->op, &second->op, unmap_done);
		proa_link(&second->op, &third->op, unmap_done);
		proa_submit(&first->op, unmap_done);
		if (broken)
			proa_cancel(&first->op);
		RUN_UNTIL(port, paged_ended == 3);
		CHECK_INT(paged_result, broken ? PROA_ECANCELED : 0);
	}
	test_close(port);
}

/* One op that goes from sending to receiving, in its own callback. */
struct echo {
	struct record record;
	proa_handle handle;
	unsigned rounds, most;
	bool sending;
	unsigned char byte;
};

static void echo_step(struct echo *echo)
{
	if (echo->sending)
		proa_prep_send(&echo->record.op, echo->handle, &echo->byte, 1, 0);
	else
		proa_prep_recv(&echo->record.op, echo->handle, &echo->byte, 1, 0);
	record_submit(&echo->record);
}

static void echo_on(struct record *record, const struct proa_completion *c)
{
	struct echo *echo = record->data;

	CHECK_INT(c->result, 1);
	echo->sending = !echo->sending;
	if (++echo->rounds < echo->most)
		echo_step(echo);
}

static void echo_begin(
	struct echo *echo, struct proa_port *port, proa_handle handle, bool sends, unsigned rounds)
{
	memset(echo, 0, sizeof(*echo));
	record_init(&echo->record, port);
	echo->record.then = echo_on;
	echo->record.data = echo;
	echo->handle = handle;
	echo->sending = sends;
	echo->most = rounds;
	echo_step(echo);
}

/* Two ends that play one byte to and fro until each has had `rounds` steps. */
static void echo_start(struct echo echo[2], struct proa_port *port, unsigned rounds)
{
	static proa_handle handles[2];
	static bool made;

	if (!made)
		CHECK_INT(proa_pair(port, handles), 0);
	made = true;
	for (int i = 0; i < 2; i++)
		echo_begin(&echo[i], port, handles[i], i == 0, rounds);
}

static void echo_close(struct echo echo[2], struct proa_port *port)
{
	close_handle(port, echo[0].handle);
	close_handle(port, echo[1].handle);
}

/* A server as most are: what it receives goes back from the very buffer that was lent. */
struct mirror {
	struct proa_op receiving;
	struct proa_pool *pool;
	proa_handle ours, visitors;
	unsigned returned;
};

static void mirror_sent(struct proa_op *op, const struct proa_completion *c)
{
	struct mirror *mirror = op->data;

	CHECK_INT(c->result, 1);
	mirror->returned++;
	proa_give_back((struct proa_buffer *)op);
}

static void mirror_received(struct proa_op *op, const struct proa_completion *c)
{
	struct mirror *mirror = op->data;
	struct proa_buffer *buffer = proa_lent(c);

	if (buffer == NULL) {
		CHECK_INT(c->result, 0);
		CHECK_INT(c->flags, 0);
		return;
	}
	buffer->op.data = mirror;
	proa_prep_send(&buffer->op, mirror->ours, buffer->data, buffer->length, 0);
	proa_submit(&buffer->op, mirror_sent);
}

/* Its receive stays in flight from round to round, and keeps none of them from ending. */
static void mirror_start(struct mirror *mirror, struct proa_port *port)
{
	/* So many that io_uring is given all of them, and one request for all receives. */
	struct proa_pool_options options = { .buffer_size = 64, .count = 1024 };
	proa_handle handles[2];

	memset(mirror, 0, sizeof(*mirror));
	CHECK_INT(proa_pair(port, handles), 0);
	mirror->ours = handles[0];
	mirror->visitors = handles[1];
	CHECK_INT(proa_pool_open(port, &options, &mirror->pool), 0);
	proa_op_init(&mirror->receiving, port, mirror);
	proa_prep_recv_multi(&mirror->receiving, mirror->ours, mirror->pool, 0);
	proa_op_background(&mirror->receiving);
	proa_submit(&mirror->receiving, mirror_received);
}

static void mirror_close(struct mirror *mirror, struct proa_port *port)
{
	close_handle(port, mirror->visitors);
	RUN_UNTIL(port, !proa_op_pending(&mirror->receiving));
	close_handle(port, mirror->ours);
	proa_pool_close(mirror->pool);
}

static void repost(struct record *record, const struct proa_completion *c)
{
	if (c->result > 0)
		proa_post(record->op.port, &record->op, c->result - 1, recorded);
	record->finals = 0;
}

static void retime(struct record *record, const struct proa_completion *c)
{
	CHECK_INT(c->result, 0);
	if (record->number-- > 0) {
		proa_prep_timer(&record->op, 0);
		proa_op_deadline(&record->op, PROA_FOREVER);
		record_submit(record);
	}
}

/* A round of everything that small programs do; returns when all has ended. */
static void churn(struct proa_port *port, struct mirror *mirror, unsigned rounds)
{
	static struct record posted, timed;
	struct echo echo[2], visitor;
	unsigned returned = mirror->returned;

	echo_start(echo, port, rounds);
	echo_begin(&visitor, port, mirror->visitors, true, rounds);
	record_init(&posted, port);
	posted.then = repost;
	proa_post(port, &posted.op, (int32_t)rounds, recorded);
	record_init(&timed, port);
	timed.then = retime;
	timed.number = rounds;
	proa_prep_timer(&timed.op, 0);
	record_submit(&timed);
	CHECK_INT(proa_run(port), 0);
	CHECK_INT(echo[0].rounds, rounds);
	CHECK_INT(echo[1].rounds, rounds);
	CHECK_INT(visitor.rounds, rounds);
	CHECK_INT(mirror->returned - returned, rounds / 2);
	CHECK(proa_op_pending(&mirror->receiving));
	CHECK(!proa_op_pending(&posted.op) && !proa_op_pending(&timed.op));
}

TEST(1, "submitting allocates nothing", submit_allocates_nothing)
{
	struct proa_port *port = test_port();
	struct mirror mirror;
	struct echo echo[2];
	unsigned long before;

	if (!allocations_are_counted())
		SKIP("allocations are not counted where sanitizers have allocators of their own");
	mirror_start(&mirror, port);
	churn(port, &mirror, 1000);
	before = blocks_asked();
	churn(port, &mirror, 2 * test_many(test_on_wine() ? 1000 : 10000)); /* slow there */
	CHECK_INT(blocks_asked() - before, 0);
	mirror_close(&mirror, port);
	echo_start(echo, port, 1);
	CHECK_INT(proa_run(port), 0);
	echo_close(echo, port);
	test_close(port);
}

/* ---- Rule 2: every kind of op, brought to its end in every way ---- */

enum ending {
	BY_CANCEL,
	BY_CANCEL_AGAIN,
	BY_TICKET,
	BY_CANCEL_HANDLE,
	BY_CANCEL_ALL,
	BY_TIMEOUT,
	BY_DEADLINE,
	BY_CLOSE,
	BY_SHUT,
	BY_PORT_CLOSE
};

struct stage {
	struct proa_port *port;
	struct record target, ahead, closing;
	proa_handle handle; /* the target's */
	int others[8], other_count;
	struct proa_pool *pool;
	struct proa_buffer *taken;
	struct proa_address address;
	struct proa_message message;
	struct proa_slice slice;
	struct proa_exit end;
	proa_process child;
	unsigned char bytes[64];
};

static unsigned char blocking_bytes[STUFFING];
static atomic_bool job_ran;

static void stage_keep(struct stage *stage, int fd)
{
	stage->others[stage->other_count++] = fd;
}

static void stage_ends(struct stage *stage, struct ends ends)
{
	stage->handle = ends.ours;
	stage_keep(stage, ends.peer);
}

static void stage_pool(struct stage *stage)
{
	struct proa_pool_options options = { .buffer_size = 64, .count = 1, .limit = 1 };

	stage_ends(stage, pair_ends());
	CHECK_INT(proa_pool_open(stage->port, &options, &stage->pool), 0);
}

static void set_recv(struct stage *stage)
{
	stage_ends(stage, pair_ends());
	proa_prep_recv(&stage->target.op, stage->handle, stage->bytes, 64, 0);
}

static void set_recv_all(struct stage *stage)
{
	set_recv(stage);
	proa_prep_recv(&stage->target.op, stage->handle, stage->bytes, 64, PROA_ALL);
}

static void set_recv_pipe(struct stage *stage)
{
	stage_ends(stage, pipe_ends(false));
	proa_prep_recv(&stage->target.op, stage->handle, stage->bytes, 64, 0);
}

static void set_recv_behind(struct stage *stage)
{
	stage_ends(stage, tcp_ends());
	proa_prep_recv(&stage->ahead.op, stage->handle, stage->bytes, 1, 0);
	record_submit(&stage->ahead);
	proa_prep_recv(&stage->target.op, stage->handle, stage->bytes, 1, 0);
}

static void set_recv_lent(struct stage *stage)
{
	stage_pool(stage);
	proa_prep_recv_lent(&stage->target.op, stage->handle, stage->pool, 0);
}

static void set_recv_multi(struct stage *stage)
{
	stage_pool(stage);
	proa_prep_recv_multi(&stage->target.op, stage->handle, stage->pool, 0);
}

/* Data is there, and no buffer. */
static void set_recv_paused(struct stage *stage)
{
	stage_pool(stage);
	stage->taken = proa_pool_take(stage->pool);
	CHECK(stage->taken != NULL);
	peer_write(stage->others[0], "abc", 3);
	proa_prep_recv_multi(&stage->target.op, stage->handle, stage->pool, 0);
}

static void set_accept(struct stage *stage)
{
	stage->handle = tcp_listener(1, &stage->address);
	proa_prep_accept(&stage->target.op, stage->handle, &stage->address, 0);
}

static void set_accept_multi(struct stage *stage)
{
	stage->handle = tcp_listener(1, &stage->address);
	proa_prep_accept_multi(&stage->target.op, stage->handle, 0);
}

static void set_poll(struct stage *stage)
{
	stage_ends(stage, pair_ends());
	proa_prep_poll(&stage->target.op, stage->handle, PROA_READABLE);
}

static void set_poll_multi(struct stage *stage)
{
	stage_ends(stage, pair_ends());
	proa_prep_poll_multi(&stage->target.op, stage->handle, PROA_READABLE);
}

static void set_send(struct stage *stage)
{
	stage_ends(stage, pair_ends());
	proa_prep_send(&stage->target.op, stage->handle, blocking_bytes, sizeof(blocking_bytes), 0);
}

static void set_send_pipe(struct stage *stage)
{
	stage_ends(stage, pipe_ends(true));
	proa_prep_send(&stage->target.op, stage->handle, blocking_bytes, sizeof(blocking_bytes), 0);
}

static void blocked_send(struct stage *stage)
{
	stage_ends(stage, pair_ends());
	proa_prep_send(&stage->ahead.op, stage->handle, blocking_bytes, sizeof(blocking_bytes), 0);
	record_submit(&stage->ahead);
}

static void set_send_behind(struct stage *stage)
{
	blocked_send(stage);
	proa_prep_send(&stage->target.op, stage->handle, stage->bytes, 64, 0);
}

static void set_shutdown_behind(struct stage *stage)
{
	blocked_send(stage);
	proa_prep_shutdown(&stage->target.op, stage->handle);
}

static int datagram_socket(void)
{
	struct sockaddr_in here = { .sin_family = AF_INET };
	int fd = CHECK_SYSTEM(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));

	here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	CHECK_SYSTEM(bind(fd, (struct sockaddr *)&here, sizeof(here)));
	return fd;
}

static void set_recvfrom(struct stage *stage)
{
	struct ends ends = { .ours = datagram_socket(), .peer = datagram_socket() };

	stage_ends(stage, ends);
	proa_prep_recvfrom(&stage->target.op, stage->handle, stage->bytes, 64, &stage->address, 0);
}

static void set_recvmsg(struct stage *stage)
{
	stage_ends(stage, pair_ends());
	stage->slice = (struct proa_slice)SLICE(stage->bytes, 64);
	stage->message.slices = &stage->slice;
	stage->message.slice_count = 1;
	proa_prep_recvmsg(&stage->target.op, stage->handle, &stage->message, 0);
}

/* A listener whose queue is full answers no more: Linux drops the SYN. */
static void full_listener(struct stage *stage)
{
	stage_keep(stage, tcp_listener(0, &stage->address));
	for (int i = 0; i < 3; i++) {
		int fd = CHECK_SYSTEM(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));

		if (connect(fd, &stage->address.to.any, stage->address.length) < 0)
			CHECK_INT(errno, EINPROGRESS);
		stage_keep(stage, fd);
	}
	test_sleep(2 * PROA_MILLISECOND);
}

static void set_connect(struct stage *stage)
{
	full_listener(stage);
	CHECK_INT(proa_socket(stage->port, &stage->address, PROA_STREAM, &stage->handle), 0);
	proa_prep_connect(&stage->target.op, stage->handle, &stage->address, 0);
}

static void set_dial(struct stage *stage)
{
	full_listener(stage);
	stage_ends(stage, pair_ends());
	proa_prep_dial(&stage->target.op, &stage->address, 0);
	proa_op_with(&stage->target.op, stage->handle);
}

static void set_timer(struct stage *stage)
{
	stage_ends(stage, pair_ends());
	proa_prep_timer(&stage->target.op, NEVER);
	proa_op_with(&stage->target.op, stage->handle);
}

static void set_timer_at(struct stage *stage)
{
	stage_ends(stage, pair_ends());
	proa_prep_timer_at(&stage->target.op, PROA_FOREVER);
	proa_op_with(&stage->target.op, stage->handle);
}

static void set_interval(struct stage *stage)
{
	stage_ends(stage, pair_ends());
	proa_prep_interval(&stage->target.op, NEVER, 1);
	proa_op_with(&stage->target.op, stage->handle);
}

static atomic_bool job_may_end;

/* A port that ends waits for it: a second, then. */
static int32_t sleep_job(void *argument)
{
	(void)argument;
	for (int i = 0; i < 1000 && !atomic_load(&job_may_end); i++)
		test_sleep(PROA_MILLISECOND);
	return 1;
}

static int32_t mark_job(void *argument)
{
	(void)argument;
	atomic_store(&job_ran, true);
	return 1;
}

/* The port's one worker is busy. */
static void set_job(struct stage *stage)
{
	stage_ends(stage, pair_ends());
	proa_prep_work(&stage->ahead.op, sleep_job, NULL);
	record_submit(&stage->ahead);
	proa_prep_work(&stage->target.op, mark_job, NULL);
	proa_op_with(&stage->target.op, stage->handle);
}

static void set_signal(struct stage *stage)
{
	stage_ends(stage, pair_ends());
	proa_prep_signal(&stage->target.op, SIGTERM);
	proa_op_with(&stage->target.op, stage->handle);
}

static void set_child(struct stage *stage)
{
	stage_ends(stage, pair_ends());
	stage->child = act("exec sleep 100");
	proa_prep_child(&stage->target.op, stage->child, &stage->end);
	proa_op_with(&stage->target.op, stage->handle);
}

/* Waits for another op of its chain. */
static void set_linked(struct stage *stage)
{
	stage_ends(stage, pair_ends());
	proa_prep_timer(&stage->ahead.op, NEVER);
	proa_prep_recv(&stage->target.op, stage->handle, stage->bytes, 64, 0);
	proa_link(&stage->ahead.op, &stage->target.op, recorded);
	record_submit(&stage->ahead);
}

static const struct kind {
	const char *name;
	void (*set)(struct stage *stage);
	bool untimed; /* its timeout does not run now */
} kinds[] = {
	{ "recv", set_recv, false },
	{ "recv all", set_recv_all, false },
	{ "recv from a pipe", set_recv_pipe, false },
	{ "recv behind another", set_recv_behind, false },
	{ "recv_lent", set_recv_lent, false },
	{ "recv_multi", set_recv_multi, false },
	{ "recv_multi without a buffer", set_recv_paused, true },
	{ "accept", set_accept, false },
	{ "accept_multi", set_accept_multi, false },
	{ "poll", set_poll, false },
	{ "poll_multi", set_poll_multi, false },
	{ "send", set_send, false },
	{ "send to a pipe", set_send_pipe, false },
	{ "send behind another", set_send_behind, false },
	{ "shutdown behind a send", set_shutdown_behind, false },
	{ "recvfrom", set_recvfrom, false },
	{ "recvmsg", set_recvmsg, false },
	{ "connect", set_connect, false },
	{ "dial", set_dial, false },
	{ "timer", set_timer, false },
	{ "timer_at", set_timer_at, false },
	{ "interval", set_interval, false },
	{ "job in the queue", set_job, false },
	{ "signal", set_signal, false },
	{ "child", set_child, false },
	{ "linked", set_linked, true },
};
#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

static void stage_open(struct stage *stage, const struct kind *kind)
{
	struct proa_port_options options = { .workers = 1 };

	memset(stage, 0, sizeof(*stage));
	atomic_store(&job_ran, false);
	atomic_store(&job_may_end, false);
	stage->port = test_port_with(&options);
	stage->handle = PROA_NO_HANDLE;
	record_init(&stage->target, stage->port);
	record_init(&stage->ahead, stage->port);
	record_init(&stage->closing, stage->port);
	kind->set(stage);
}

static void stage_strike(struct stage *stage, enum ending ending, uint64_t ticket)
{
	switch (ending) {
	case BY_CANCEL_AGAIN:
		proa_cancel(&stage->target.op);
		proa_cancel(&stage->target.op);
		proa_cancel_ticket(stage->port, ticket);
		/* fall through */
	case BY_CANCEL:
		proa_cancel(&stage->target.op);
		break;
	case BY_TICKET:
		proa_cancel_ticket(stage->port, ticket);
		break;
	case BY_CANCEL_HANDLE:
		proa_cancel_handle(stage->port, stage->handle);
		break;
	case BY_CANCEL_ALL:
		proa_cancel_all(stage->port);
		break;
	case BY_CLOSE:
		proa_prep_close(&stage->closing.op, stage->handle, 0);
		record_submit(&stage->closing);
		break;
	case BY_SHUT:
		proa_port_shut(stage->port);
		break;
	case BY_TIMEOUT:
	case BY_DEADLINE:
	case BY_PORT_CLOSE:
		break;
	}
	CHECK_INT(stage->target.count, 0);
}

static void stage_clear(struct stage *stage, enum ending ending)
{
	if (ending != BY_PORT_CLOSE) {
		if (ending != BY_SHUT) {
			proa_cancel_all(stage->port);
			RUN_UNTIL(stage->port, proa_in_flight(stage->port) == 0);
		}
		CHECK_INT(stage->target.finals, 1);
		test_close_lending(stage->port);
	}
	proa_give_back(stage->taken);
	proa_pool_close(stage->pool);
	if (ending != BY_CLOSE)
		CHECK_SYSTEM(close(stage->handle));
	for (int i = 0; i < stage->other_count; i++)
		CHECK_SYSTEM(close(stage->others[i]));
	if (stage->child != 0) {
		/* It runs still, and nobody has reaped it. */
		CHECK_INT(proa_kill(stage->child, SIGKILL), 0);
		expect_killed(stage->child, SIGKILL);
	}
}

static void stage_play(const struct kind *kind, enum ending ending, bool at_once)
{
	bool timed = ending == BY_TIMEOUT || ending == BY_DEADLINE;
	static struct stage stage;
	uint64_t ticket = 0;

	printf("%s, %s\n", kind->name, at_once ? "at once" : "later");
	stage_open(&stage, kind);
	if (ending == BY_TIMEOUT)
		proa_op_timeout(&stage.target.op, SHORT);
	if (ending == BY_DEADLINE)
		proa_op_deadline(&stage.target.op, test_clock() + SHORT);
	if (kind->set != set_linked) {
		ticket = record_submit(&stage.target);
	}
	CHECK(proa_op_pending(&stage.target.op));
	if (!at_once)
		run_for(stage.port, 3 * PROA_MILLISECOND);
	CHECK_INT(stage.target.count, 0);
	stage_strike(&stage, ending, ticket);
	if (ending == BY_PORT_CLOSE)
		test_close_lending(stage.port);
	else if (ending == BY_SHUT)
		CHECK_INT(proa_run(stage.port), PROA_ESHUTDOWN);
	else
		RUN_UNTIL(stage.port, stage.target.finals == 1);
	CHECK_INT(stage.target.count, 1);
	CHECK_INT(stage.target.last, timed ? PROA_ETIMEDOUT : PROA_ECANCELED);
	CHECK_INT(stage.target.flags[0], 0);
	if (ending == BY_CLOSE) {
		RUN_UNTIL(stage.port, stage.closing.finals == 1);
		CHECK_INT(stage.closing.last, 0);
		CHECK(stage.closing.order > stage.target.order);
	}
	if (ending != BY_PORT_CLOSE && ending != BY_SHUT)
		run_for(stage.port, PROA_MILLISECOND);
	CHECK(!atomic_load(&job_ran));
	atomic_store(&job_may_end, true);
	stage_clear(&stage, ending);
	CHECK_INT(stage.target.count, 1);
}

static void play_all(enum ending ending)
{
	for (unsigned i = 0; i < KINDS; i++) {
		const struct kind *kind = &kinds[i];

		/* A linked op has no ticket; a limit counts from its start. */
		if (kind->set == set_linked &&
			(ending == BY_TICKET || ending == BY_DEADLINE || ending == BY_CANCEL_AGAIN))
			continue;
		if (kind->untimed && ending == BY_TIMEOUT)
			continue;
		stage_play(kind, ending, true);
		if (ending != BY_TIMEOUT && ending != BY_DEADLINE)
			stage_play(kind, ending, false);
	}
}

TEST(2, "one final completion: cancel", every_kind_ends_once_by_cancel)
{
	play_all(BY_CANCEL);
}

TEST(2, "one final completion: cancel", every_kind_ends_once_by_many_cancels)
{
	play_all(BY_CANCEL_AGAIN);
}

TEST(2, "one final completion: cancel", every_kind_ends_once_by_ticket)
{
	play_all(BY_TICKET);
}

TEST(2, "one final completion: cancel", every_kind_ends_once_by_handle)
{
	play_all(BY_CANCEL_HANDLE);
}

TEST(2, "one final completion: cancel", every_kind_ends_once_by_cancel_all)
{
	play_all(BY_CANCEL_ALL);
}

TEST(2, "one final completion: time", every_kind_ends_once_by_timeout)
{
	play_all(BY_TIMEOUT);
}

TEST(2, "one final completion: time", every_kind_ends_once_by_deadline)
{
	play_all(BY_DEADLINE);
}

TEST(2, "one final completion: handle closed", every_kind_ends_once_by_close)
{
	play_all(BY_CLOSE);
}

TEST(2, "one final completion: port shut", every_kind_ends_once_by_shut)
{
	play_all(BY_SHUT);
}

TEST(2, "one final completion: port closed", every_kind_ends_once_by_port_close)
{
	play_all(BY_PORT_CLOSE);
}

TEST(2, "one final completion: success", success_completes_once)
{
	struct proa_port *port = test_port();
	struct ends ends = tcp_ends();
	struct record send, recv, timer, ended;
	char bytes[8];

	record_init(&send, port);
	record_init(&recv, port);
	record_init(&timer, port);
	record_init(&ended, port);
	proa_prep_recv(&recv.op, ends.ours, bytes, sizeof(bytes), 0);
	record_submit(&recv);
	proa_prep_send(&send.op, ends.ours, "x", 1, 0);
	record_submit(&send);
	proa_prep_timer(&timer.op, 0);
	record_submit(&timer);
	peer_write(ends.peer, "ab", 2);
	RUN_UNTIL(port, send.finals + recv.finals + timer.finals == 3);
	/* What comes late must not find an op that is done. */
	proa_cancel(&recv.op);
	proa_cancel(&send.op);
	proa_cancel(&timer.op);
	peer_write(ends.peer, "c", 1);
	run_quiet(port);
	CHECK_INT(send.count + recv.count + timer.count, 3);
	CHECK_INT(recv.last, 2);
	proa_prep_recv(&ended.op, ends.ours, bytes, sizeof(bytes), 0);
	CHECK_INT(record_run(&ended), 1);
	CHECK_SYSTEM(shutdown(ends.peer, SHUT_WR));
	proa_prep_recv(&ended.op, ends.ours, bytes, sizeof(bytes), 0);
	CHECK_INT(record_run(&ended), 0);
	run_quiet(port);
	CHECK_INT(ended.count, 1);
	close(ends.peer);
	close_handle(port, ends.ours);
	test_close(port);
}

TEST(2, "one final completion: taken by proa_wait", wait_takes_each_final_once)
{
	struct proa_port *port = test_port();
	struct ends ends = pair_ends();
	struct proa_completion taken[16];
	struct proa_op ops[8];
	unsigned seen[8] = { 0 };
	char bytes[8];
	int n, total = 0;

	for (int i = 0; i < 8; i++) {
		proa_op_init(&ops[i], port, &seen[i]);
		if (i < 4)
			proa_prep_recv(&ops[i], ends.ours, &bytes[i], 1, 0);
		else
			proa_prep_timer(&ops[i], i < 6 ? 0 : NEVER);
		proa_submit(&ops[i], NULL);
	}
	peer_write(ends.peer, "ab", 2);
	proa_cancel(&ops[3]);
	proa_cancel(&ops[7]);
	while ((n = proa_wait(port, taken, 16, 50 * PROA_MILLISECOND)) > 0)
		for (int i = 0; i < n; i++, total++) {
			CHECK_INT(taken[i].flags, 0);
			CHECK_INT(++*(unsigned *)taken[i].op->data, 1);
		}
	CHECK_INT(n, 0);
	CHECK_INT(total, 6);
	CHECK(!seen[2] && !seen[6]);
	CHECK_INT(proa_in_flight(port), 2);
	test_close(port);
	close(ends.ours);
	close(ends.peer);
}

/* ---- Rule 3 ---- */

static void bad_prep(struct proa_op *op, int kind, proa_handle handle, struct proa_pool *pool)
{
	static struct proa_address address = { .length = sizeof(struct sockaddr_storage) };
	static struct proa_slice slice;
	static struct proa_message message;
	static struct proa_stat status;
	static struct proa_range range;
	static char bytes[8];

	slice = (struct proa_slice)SLICE(bytes, sizeof(bytes));
	message = (struct proa_message) { .slices = &slice, .slice_count = 1 };
	range = (struct proa_range) { .file = handle, .length = 1 };
	switch (kind) {
#define CASE(number, call) \
	case number:       \
		call;      \
		break
		CASE(0, proa_prep_recv(op, handle, bytes, 8, 0));
		CASE(1, proa_prep_recv(op, handle, bytes, 8, PROA_ALL));
		CASE(2, proa_prep_recv_lent(op, handle, pool, 0));
		CASE(3, proa_prep_recv_multi(op, handle, pool, 0));
		CASE(4, proa_prep_send(op, handle, bytes, 8, 0));
		CASE(5, proa_prep_sendv(op, handle, &slice, 1, 0));
		CASE(6, proa_prep_sendfile(op, handle, &range, 0));
		CASE(7, proa_prep_shutdown(op, handle));
		CASE(8, proa_prep_accept(op, handle, NULL, 0));
		CASE(9, proa_prep_accept_multi(op, handle, 0));
		CASE(10, proa_prep_connect(op, handle, &address, 0));
		CASE(11, proa_prep_recvfrom(op, handle, bytes, 8, &address, 0));
		CASE(12, proa_prep_sendto(op, handle, bytes, 8, &address, 0));
		CASE(13, proa_prep_recvmsg(op, handle, &message, 0));
		CASE(14, proa_prep_sendmsg(op, handle, &message, 0));
		CASE(15, proa_prep_poll(op, handle, PROA_READABLE));
		CASE(16, proa_prep_poll_multi(op, handle, PROA_READABLE));
		CASE(17, proa_prep_read(op, handle, bytes, 8, 0));
		CASE(18, proa_prep_readv(op, handle, &slice, 1, 0));
		CASE(19, proa_prep_write(op, handle, bytes, 8, 0));
		CASE(20, proa_prep_writev(op, handle, &slice, 1, 0));
		CASE(21, proa_prep_sync(op, handle, 0));
		CASE(22, proa_prep_fstat(op, handle, &status));
		CASE(23, proa_prep_truncate(op, handle, 0));
		CASE(24, proa_prep_close(op, handle, 0));
#undef CASE
	}
}
#define BAD_PREPS 25

TEST(3, "bad handles are completions", bad_handles_complete_with_ebadf)
{
	struct proa_port *port = test_port();
	struct ends closed = pair_ends();
	const proa_handle handles[] = { -1, -77, 903, 70000, INT_MAX, closed.ours };
	struct proa_pool *pool;
	struct record record;

	/* One that the port has known, and one that it never has. */
	record_init(&record, port);
	close_handle(port, closed.ours);
	close(closed.peer);
	CHECK_INT(proa_pool_open(port, NULL, &pool), 0);
	for (unsigned i = 0; i < sizeof(handles) / sizeof(handles[0]); i++)
		for (int kind = 0; kind < BAD_PREPS; kind++) {
			printf("prep %d of handle %d\n", kind, (int)handles[i]);
			bad_prep(&record.op, kind, handles[i], pool);
			CHECK_INT(record_run(&record), PROA_EBADF);
			CHECK_INT(record.flags[0], 0);
			CHECK_INT(proa_op_count(&record.op), 0);
		}
	CHECK_INT(proa_in_flight(port), 0);
	proa_pool_close(pool);
	test_close(port);
}

TEST(3, "bad handles are completions", set_up_calls_return_codes)
{
	struct proa_port *port = test_port();
	struct proa_address address;
	proa_handle handle = 77;
	struct ends ends = pair_ends();
	struct record record;

	CHECK_INT(proa_attach(port, -1), PROA_EBADF);
	CHECK_INT(proa_attach(port, 903), PROA_EBADF);
	CHECK_INT(proa_discard(port, -1), PROA_EBADF);
	CHECK_INT(proa_peer_address(-1, &address), PROA_EBADF);
	CHECK_INT(proa_address_parse(&address, "nonsense"), PROA_EINVAL);
	CHECK_INT(proa_listen(port, "nonsense", NULL, &handle), PROA_EINVAL);
	record_init(&record, port);
	CHECK_INT(proa_attach(port, ends.ours), 0);
	proa_prep_poll(&record.op, ends.ours, PROA_READABLE);
	record_submit(&record);
	CHECK_INT(proa_discard(port, ends.ours), PROA_EBUSY);
	CHECK_INT(proa_detach(port, ends.ours), PROA_EBUSY);
	proa_cancel(&record.op);
	RUN_UNTIL(port, record.finals == 1);
	CHECK_INT(proa_detach(port, ends.ours), 0);
	CHECK_INT(proa_attach(port, ends.ours), 0);
	CHECK_INT(proa_discard(port, ends.ours), 0);
	close(ends.peer);
	test_close(port);
}

TEST(3, "the names are the same everywhere", error_names_and_texts)
{
	static const int codes[] = { PROA_EPERM, PROA_ENOENT, PROA_EINTR, PROA_EIO, PROA_EBADF,
		PROA_EAGAIN, PROA_ENOMEM, PROA_EACCES, PROA_EBUSY, PROA_EEXIST, PROA_ENOTDIR,
		PROA_EISDIR, PROA_EINVAL, PROA_EMFILE, PROA_EFBIG, PROA_ENOSPC, PROA_EPIPE,
		PROA_ENOSYS, PROA_EMSGSIZE, PROA_EADDRINUSE, PROA_ENETUNREACH, PROA_ECONNABORTED,
		PROA_ECONNRESET, PROA_ENOTCONN, PROA_ESHUTDOWN, PROA_ETIMEDOUT, PROA_ECONNREFUSED,
		PROA_EHOSTUNREACH, PROA_ECANCELED, PROA_ENONAME };

	for (unsigned i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
		const char *text = proa_error_text(codes[i]);

		CHECK(proa_error_name(codes[i])[0] == 'E');
		CHECK(text[0] != '\0' && text[strlen(text) - 1] != '.');
		for (unsigned j = 0; j < i; j++)
			CHECK(strcmp(proa_error_name(codes[i]), proa_error_name(codes[j])) != 0);
	}
	CHECK(strcmp(proa_error_name(PROA_ECANCELED), "ECANCELED") == 0);
	CHECK(strcmp(proa_error_name(PROA_ENONAME), "ENONAME") == 0);
	CHECK(strcmp(proa_error_name(-3999), "unknown") == 0);
	CHECK(strcmp(proa_error_name(INT_MIN), "unknown") == 0);
	CHECK(proa_error_text(-3999) != NULL && proa_error_text(5) != NULL);
#ifdef _WIN32
	CHECK_INT(proa_error_from_system(WSAECONNRESET), PROA_ECONNRESET);
	CHECK_INT(proa_error_from_system(WSAEWOULDBLOCK), PROA_EAGAIN);
	CHECK_INT(proa_error_from_system(WSAETIMEDOUT), PROA_ETIMEDOUT);
	CHECK_INT(proa_error_from_system(ERROR_NETNAME_DELETED), PROA_ECONNRESET);
#else
	CHECK_INT(proa_error_from_system(ECONNRESET), PROA_ECONNRESET);
	CHECK_INT(proa_error_from_system(EWOULDBLOCK), PROA_EAGAIN);
	CHECK_INT(proa_error_from_system(ETIMEDOUT), PROA_ETIMEDOUT);
#endif
	CHECK(proa_error_from_system(99999) < 0);
}

/* Misuse ends in a jump out of the library, so that a test can go on. */
static _Thread_local jmp_buf misuse_exit;
static _Thread_local char misuse_text[256];
static _Thread_local const struct proa_op *misused;

static void on_misuse(const char *what, const struct proa_op *op)
{
	snprintf(misuse_text, sizeof(misuse_text), "%s", what);
	misused = op;
	longjmp(misuse_exit, 1);
}

static bool is_misuse(void (*try)(void *argument), void *argument)
{
	misuse_text[0] = '\0';
	misused = NULL;
	proa_on_misuse(on_misuse);
	if (setjmp(misuse_exit) == 0)
		try(argument);
	proa_on_misuse(NULL);
	return misuse_text[0] != '\0';
}

static void act_prep(void *op)
{
	proa_prep_recv(op, 0, NULL, 0, 0);
}

static void act_submit(void *op)
{
	proa_submit(op, recorded);
}

static void act_post(void *argument)
{
	struct proa_op *op = argument;

	proa_post(op->port, op, 3, recorded);
}

static void act_give_back(void *buffer)
{
	proa_give_back(buffer);
}

static void act_run(void *port)
{
	proa_run(port);
}

static void act_run_once(void *port)
{
	proa_run_once(port, 0);
}

static void act_wait(void *port)
{
	struct proa_completion c;

	proa_wait(port, &c, 1, 0);
}

static void act_cancel(void *op)
{
	proa_cancel(op);
}

static void act_cancel_all(void *port)
{
	proa_cancel_all(port);
}

static void act_cancel_handle(void *port)
{
	proa_cancel_handle(port, 0);
}

static void act_move(void *op)
{
	proa_timer_move(op, 0);
}

TEST(3, "misuse: prep, submit, post in flight", misuse_of_an_op_in_flight)
{
	struct proa_port *port = test_port();
	struct proa_op image;
	struct record record;
	int64_t start = test_clock();

	record_init(&record, port);
	proa_prep_timer(&record.op, SHORT);
	record_submit(&record);
	image = record.op;
	CHECK(is_misuse(act_prep, &record.op));
	CHECK(misused == &record.op);
	/* It checks before it overwrites. */
	CHECK(memcmp(&image, &record.op, sizeof(image)) == 0);
	CHECK(is_misuse(act_submit, &record.op));
	CHECK(misused == &record.op);
	CHECK(is_misuse(act_post, &record.op));
	CHECK(memcmp(&image, &record.op, sizeof(image)) == 0);
	RUN_UNTIL(port, record.finals == 1);
	CHECK_INT(record.last, 0);
	CHECK(test_clock() >= start + SHORT);
	run_quiet(port);
	CHECK_INT(record.count, 1);
	CHECK_INT(proa_in_flight(port), 0);
	/* An op whose completion is ready but not handed over is in flight. */
	proa_post(port, &record.op, 0, recorded);
	CHECK(is_misuse(act_prep, &record.op));
	CHECK(is_misuse(act_submit, &record.op));
	record.finals = 0;
	RUN_UNTIL(port, record.finals == 1);
	test_close(port);
}

static unsigned misuses;

static void count_misuse(const char *what, const struct proa_op *op)
{
	(void)what;
	(void)op;
	misuses++;
}

/* A handler may return: the op in flight is as it was. */
TEST(3, "misuse: prep, submit, post in flight", misuse_leaves_the_op_alone)
{
	struct proa_port *port = test_port();
	struct ends ends = pair_ends();
	struct record record;
	char byte = 0;

	record_init(&record, port);
	proa_prep_recv(&record.op, ends.ours, &byte, 1, 0);
	record_submit(&record);
	proa_on_misuse(count_misuse);
	proa_prep_timer(&record.op, 0);
	proa_prep_close(&record.op, ends.peer, 0);
	CHECK_INT(proa_submit(&record.op, NULL), 0);
	proa_post(port, &record.op, 7, NULL);
	CHECK_INT(misuses, 4);
	proa_on_misuse(NULL);
	run_quiet(port);
	CHECK_INT(record.finals, 0);
	peer_write(ends.peer, "x", 1);
	RUN_UNTIL(port, record.finals == 1);
	CHECK_INT(record.last, 1);
	CHECK_INT(byte, 'x');
	close_handle(port, ends.ours);
	close(ends.peer);
	test_close(port);
}

TEST(3, "misuse: an op that was not readied", misuse_of_an_op_without_a_port)
{
	struct proa_op op;

	memset(&op, 0, sizeof(op));
	proa_prep_timer(&op, 0);
	CHECK(is_misuse(act_submit, &op));
	CHECK(misused == &op);
}

TEST(3, "misuse: free of an op in flight", misuse_of_a_buffer_in_flight)
{
	struct proa_port *port = test_port();
	struct proa_buffer *buffer;
	struct proa_pool *pool;
	struct record record;

	CHECK_INT(proa_pool_open(port, NULL, &pool), 0);
	buffer = proa_pool_take(pool);
	CHECK(buffer != NULL);
	record_init(&record, port);
	buffer->op.data = &record;
	proa_prep_timer(&buffer->op, SHORT);
	proa_submit(&buffer->op, recorded);
	CHECK(is_misuse(act_give_back, buffer));
	RUN_UNTIL(port, record.finals == 1);
	proa_give_back(buffer);
	proa_pool_close(pool);
	test_close(port);
}

static void act_attach(void *argument)
{
	proa_attach(argument, 0);
}

static void act_detach(void *argument)
{
	proa_detach(argument, 0);
}

static void act_discard(void *argument)
{
	proa_discard(argument, 0);
}

static void act_pair(void *argument)
{
	proa_handle ends[2];

	proa_pair(argument, ends);
}

static void act_listen(void *argument)
{
	proa_handle listener;

	proa_listen(argument, "127.0.0.1:0", NULL, &listener);
}

static void act_open_pool(void *argument)
{
	struct proa_pool *pool;

	proa_pool_open(argument, NULL, &pool);
}

static void act_take(void *argument)
{
	proa_pool_take(argument);
}

static void act_close_pool(void *argument)
{
	proa_pool_close(argument);
}

TEST(3, "misuse: the end of a pool in use", misuse_of_a_pool_in_use)
{
	struct proa_port *port = test_port();
	struct ends ends = tcp_ends();
	struct proa_pool *pool, *unused;
	struct record record;

	CHECK_INT(proa_pool_open(port, NULL, &pool), 0);
	CHECK_INT(proa_pool_open(port, NULL, &unused), 0);
	record_init(&record, port);
	proa_prep_recv_multi(&record.op, ends.ours, pool, 0);
	record_submit(&record);
	run_quiet(port);
#ifdef NDEBUG
	test_skip("without assertions a receive that waits for data is not looked for");
#endif
	CHECK(is_misuse(act_close_pool, pool));
	CHECK(misused == &record.op);
	proa_pool_close(unused);
	close_handle(port, ends.ours);
	CHECK_INT(record.last, PROA_ECANCELED);
	proa_pool_close(pool);
	close(ends.peer);
	test_close(port);
}

struct trespass {
	struct proa_port *port;
	struct record *record;
	struct proa_pool *pool;
	int caught;
};

static void *trespass(void *argument)
{
	struct trespass *trespass = argument;
	struct record own;

	record_init(&own, trespass->port);
	proa_prep_timer(&own.op, 0);
	trespass->caught += is_misuse(act_submit, &own.op);
	trespass->caught += is_misuse(act_cancel, &trespass->record->op);
	trespass->caught += is_misuse(act_move, &trespass->record->op);
	trespass->caught += is_misuse(act_cancel_all, trespass->port);
	trespass->caught += is_misuse(act_cancel_handle, trespass->port);
	trespass->caught += is_misuse(act_run, trespass->port);
	trespass->caught += is_misuse(act_run_once, trespass->port);
	trespass->caught += is_misuse(act_wait, trespass->port);
	trespass->caught += is_misuse(act_attach, trespass->port);
	trespass->caught += is_misuse(act_detach, trespass->port);
	trespass->caught += is_misuse(act_discard, trespass->port);
	trespass->caught += is_misuse(act_pair, trespass->port);
	trespass->caught += is_misuse(act_listen, trespass->port);
	trespass->caught += is_misuse(act_open_pool, trespass->port);
	trespass->caught += is_misuse(act_take, trespass->pool);
	trespass->caught += is_misuse(act_close_pool, trespass->pool);
	CHECK(!proa_op_pending(&own.op));
	return NULL;
}

TEST(3, "misuse: another thread", misuse_by_a_second_thread)
{
	struct proa_port *port = test_port();
	struct trespass other = { .port = port };
	struct record record;
	pthread_t thread;

	record_init(&record, port);
	other.record = &record;
	CHECK_INT(proa_pool_open(port, NULL, &other.pool), 0);
	proa_prep_timer(&record.op, 100 * PROA_MILLISECOND);
	record_submit(&record);
	CHECK_INT(pthread_create(&thread, NULL, trespass, &other), 0);
	CHECK_INT(pthread_join(thread, NULL), 0);
	CHECK_INT(other.caught, 16);
	RUN_UNTIL(port, record.finals == 1);
	CHECK_INT(record.last, 0);
	CHECK_INT(proa_in_flight(port), 0);
	proa_pool_close(other.pool);
	test_close(port);
}

/* Starts a program that misuses a port, and takes its stderr. */
#ifdef _WIN32
static proa_process misuse_start(int output)
{
	const char *const words[] = { test_program(), "--act", "misuse", NULL };
	const proa_handle standard[3] = { output, output, output };
	struct proa_command command = { .arguments = words, .standard = standard };
	proa_process process = 0;

	CHECK_INT(proa_spawn(&command, &process), 0);
	return process;
}
#else
static _Noreturn void misuse_child(int output)
{
	struct rlimit none = { 0, 0 };
	struct proa_port *port = NULL;
	struct record record;

	setrlimit(RLIMIT_CORE, &none);
	dup2(output, STDERR_FILENO);
	if (proa_port_open(NULL, &port) < 0)
		_exit(3);
	record_init(&record, port);
	proa_prep_timer(&record.op, NEVER);
	proa_submit(&record.op, recorded);
	proa_prep_timer(&record.op, 0);
	_exit(4);
}

static proa_process misuse_start(int output)
{
	pid_t pid = CHECK_SYSTEM(fork());

	if (pid == 0)
		misuse_child(output);
	return pid;
}
#endif

TEST(3, "misuse says what and aborts", misuse_aborts_by_default)
{
	char text[1024] = "";
	int output[2];
	size_t length = 0;
	ssize_t n;
	proa_process process;

	CHECK_SYSTEM(pipe2(output, 0));
	process = misuse_start(output[1]);
	close(output[1]);
	while (length < sizeof(text) - 1 &&
		(n = read(output[0], text + length, sizeof(text) - 1 - length)) > 0)
		length += (size_t)n;
	close(output[0]);
	expect_aborted(process);
	CHECK(strstr(text, "in flight") != NULL);
}

/* ---- Rule 4 ---- */

static int callback_depth, callbacks;
static bool in_a_call;

static void not_inline(struct record *record, const struct proa_completion *c)
{
	(void)record;
	(void)c;
	CHECK(!in_a_call);
	CHECK_INT(callback_depth, 0);
	callbacks++;
}

#define QUIETLY(call)                          \
	do {                                   \
		int before_ = callbacks;       \
		in_a_call = true;              \
		call;                          \
		in_a_call = false;             \
		CHECK_INT(callbacks, before_); \
	} while (0)

static void watched_init(struct record *record, struct proa_port *port)
{
	record_init(record, port);
	record->then = not_inline;
}

TEST(4, "no callback in submit, cancel, post", calls_do_not_call_back)
{
	struct proa_port *port = test_port();
	struct ends ends = pair_ends();
	struct record records[12];
	struct proa_completion taken[4];
	char bytes[8];
	uint64_t ticket;

	for (int i = 0; i < 12; i++)
		watched_init(&records[i], port);
	/* All of these could be done at once. */
	peer_write(ends.peer, "abcd", 4);
	proa_prep_recv(&records[0].op, ends.ours, bytes, 4, 0);
	QUIETLY(record_submit(&records[0]));
	proa_prep_send(&records[1].op, ends.ours, "x", 1, 0);
	QUIETLY(record_submit(&records[1]));
	proa_prep_timer(&records[2].op, 0);
	QUIETLY(record_submit(&records[2]));
	proa_prep_recv(&records[3].op, -1, bytes, 4, 0);
	QUIETLY(record_submit(&records[3]));
	proa_prep_poll(&records[4].op, ends.ours, PROA_WRITABLE);
	QUIETLY(record_submit(&records[4]));
	QUIETLY(proa_post(port, &records[5].op, 0, recorded));
	proa_prep_timer(&records[6].op, NEVER);
	QUIETLY(record_submit(&records[6]));
	QUIETLY(proa_cancel(&records[6].op));
	proa_prep_timer(&records[7].op, NEVER);
	QUIETLY(ticket = record_submit(&records[7]));
	QUIETLY(proa_cancel_ticket(port, ticket));
	proa_prep_recv(&records[8].op, ends.ours, bytes, 4, 0);
	QUIETLY(record_submit(&records[8]));
	QUIETLY(proa_cancel_handle(port, ends.ours));
	proa_prep_timer(&records[9].op, NEVER);
	QUIETLY(record_submit(&records[9]));
	QUIETLY(proa_op_timeout(&records[9].op, 0));
	QUIETLY(proa_cancel_all(port));
	proa_prep_close(&records[10].op, ends.ours, 0);
	QUIETLY(record_submit(&records[10]));
	proa_prep_timer(&records[11].op, NEVER);
	QUIETLY(record_submit(&records[11]));
	QUIETLY(proa_timer_move(&records[11].op, 0));
	/* proa_wait() hands over, and calls nobody. */
	QUIETLY(CHECK(proa_wait(port, taken, 1, PROA_SECOND) == 1));
	QUIETLY(proa_wake(port));
	QUIETLY(proa_port_shut(port));
	proa_dispatch(&taken[0]);
	CHECK_INT(proa_run(port), PROA_ESHUTDOWN);
	for (int i = 0; i < 12; i++)
		CHECK_INT(records[i].count, 1);
	close(ends.peer);
	test_close(port);
}

static struct proa_buffer *held;

static void hold_lent(struct record *record, const struct proa_completion *c)
{
	not_inline(record, c);
	if (c->flags & PROA_LENT)
		held = proa_lent(c);
}

TEST(4, "no callback in give-back", give_back_does_not_call_back)
{
	struct proa_pool_options options = { .buffer_size = 16, .count = 1, .limit = 1 };
	struct proa_port *port = test_port();
	struct ends ends = pair_ends();
	struct proa_pool *pool;
	struct record record;

	CHECK_INT(proa_pool_open(port, &options, &pool), 0);
	watched_init(&record, port);
	record.then = hold_lent;
	proa_prep_recv_multi(&record.op, ends.ours, pool, 0);
	record_submit(&record);
	for (int i = 0; i < 20; i++) {
		struct proa_buffer *buffer;

		peer_write(ends.peer, "0123456789abcdef0123456789abcdef", 32);
		RUN_UNTIL(port, held != NULL);
		run_for(port, PROA_MILLISECOND);
		buffer = held;
		held = NULL;
		QUIETLY(proa_give_back(buffer));
		RUN_UNTIL(port, held != NULL);
		buffer = held;
		held = NULL;
		QUIETLY(proa_give_back(buffer));
	}
	proa_cancel(&record.op);
	RUN_UNTIL(port, record.finals == 1);
	proa_pool_close(pool);
	close(ends.peer);
	close_handle(port, ends.ours);
	test_close(port);
}

static void nested(struct record *record, const struct proa_completion *c)
{
	static struct record later[4];
	struct proa_port *port = record->op.port;

	not_inline(record, c);
	callback_depth++;
	for (int i = 0; i < 4; i++)
		watched_init(&later[i], port);
	proa_post(port, &later[0].op, 0, recorded);
	proa_prep_timer(&later[1].op, 0);
	record_submit(&later[1]);
	proa_prep_timer(&later[2].op, NEVER);
	record_submit(&later[2]);
	proa_cancel(&later[2].op);
	proa_prep_close(&later[3].op, (proa_handle)record->number, 0);
	record_submit(&later[3]);
	callback_depth--;
}

TEST(4, "no callback inside a callback", callbacks_do_not_nest)
{
	struct proa_port *port = test_port();
	struct ends ends = pair_ends();
	struct record record;

	watched_init(&record, port);
	record.then = nested;
	record.number = (uint64_t)ends.ours;
	proa_post(port, &record.op, 0, recorded);
	CHECK_INT(proa_run(port), 0);
	CHECK_INT(callbacks, 5);
	close(ends.peer);
	test_close(port);
}

/* The stack at a callback: it must not wander. */
static uintptr_t stack_low = UINTPTR_MAX, stack_high;

static void note_stack(void)
{
	uintptr_t here = (uintptr_t)__builtin_frame_address(0);

	if (here < stack_low)
		stack_low = here;
	if (here > stack_high)
		stack_high = here;
}

static void repost_deep(struct proa_op *op, const struct proa_completion *c)
{
	note_stack();
	if (c->result > 0)
		proa_post(op->port, op, c->result - 1, repost_deep);
}

static uint64_t deep_rounds;

static void retime_deep(struct proa_op *op, const struct proa_completion *c)
{
	note_stack();
	CHECK_INT(c->result, 0);
	if (deep_rounds-- > 0) {
		proa_prep_timer(op, 0);
		proa_submit(op, retime_deep);
	}
}

static void fail_deep(struct proa_op *op, const struct proa_completion *c)
{
	note_stack();
	CHECK_INT(c->result, PROA_EBADF);
	if (deep_rounds-- > 0) {
		proa_prep_send(op, -1, "", 1, 0);
		proa_submit(op, fail_deep);
	}
}

/* Each wait asks the system, which on wine is another process. */
static int rounds_less(void)
{
	return test_factor() * (test_on_wine() ? 10 : 1);
}

TEST_SLOW(4, "the stack does not grow", stack_stays_level)
{
	struct proa_port *port = test_port();
	struct proa_op posted, timed, failing;

	proa_op_init(&posted, port, NULL);
	proa_op_init(&timed, port, NULL);
	proa_op_init(&failing, port, NULL);
	proa_post(port, &posted, 1000000 / rounds_less(), repost_deep);
	CHECK_INT(proa_run(port), 0);
	deep_rounds = 200000 / (unsigned)rounds_less();
	proa_prep_timer(&timed, 0);
	proa_submit(&timed, retime_deep);
	CHECK_INT(proa_run(port), 0);
	deep_rounds = 200000 / (unsigned)rounds_less();
	proa_prep_send(&failing, -1, "", 1, 0);
	proa_submit(&failing, fail_deep);
	CHECK_INT(proa_run(port), 0);
	CHECK(stack_high >= stack_low);
	CHECK(stack_high - stack_low < 4096);
	test_close(port);
}

static unsigned long_count;
static int32_t long_expected;

static void count_done(struct proa_op *op, const struct proa_completion *c)
{
	(void)op;
	note_stack();
	CHECK_INT(c->result, long_expected);
	long_count++;
}

#define LONG 100000

static struct proa_op *many_ops(struct proa_port *port, unsigned count)
{
	struct proa_op *ops = calloc(count, sizeof(*ops));

	CHECK(ops != NULL);
	for (unsigned i = 0; i < count; i++)
		proa_op_init(&ops[i], port, NULL);
	return ops;
}

TEST_SLOW(4, "the stack does not grow", long_chains_do_not_recurse)
{
	struct proa_port *port = test_port();
	struct proa_op *ops = many_ops(port, LONG);

	/* Broken at its first op, the whole chain ends; then in good order. */
	for (int broken = 0; broken < 2; broken++) {
		for (unsigned i = 0; i < LONG; i++)
			proa_prep_timer(&ops[i], broken ? NEVER : 0);
		for (unsigned i = 0; i + 1 < LONG; i++)
			proa_link(&ops[i], &ops[i + 1], count_done);
		long_expected = broken ? PROA_ECANCELED : 0;
		long_count = 0;
		proa_submit(&ops[0], count_done);
		CHECK_INT(proa_in_flight(port), LONG);
		if (broken)
			proa_cancel(&ops[0]);
		CHECK_INT(proa_run(port), 0);
		CHECK_INT(long_count, LONG);
	}
	CHECK(stack_high - stack_low < 4096);
	free(ops);
	test_close(port);
}

TEST_SLOW(4, "the stack does not grow", long_lanes_do_not_recurse)
{
	struct proa_port *port = test_port();
	struct proa_op *ops = many_ops(port, LONG);
	struct ends ends = pair_ends();
	char byte;

	long_expected = PROA_ECANCELED;
	for (unsigned i = 0; i < LONG; i++) {
		if (i == 0)
			proa_prep_send(
				&ops[i], ends.ours, blocking_bytes, sizeof(blocking_bytes), 0);
		else if (i < LONG / 2)
			proa_prep_send(&ops[i], ends.ours, "x", 1, 0);
		else
			proa_prep_recv(&ops[i], ends.ours, &byte, 1, 0);
		proa_submit(&ops[i], count_done);
	}
	run_for(port, SHORT);
	CHECK_INT(long_count, 0);
	proa_cancel(&ops[0]);
	RUN_UNTIL(port, long_count == LONG / 2);
	proa_cancel_handle(port, ends.ours);
	CHECK_INT(proa_run(port), 0);
	CHECK_INT(long_count, LONG);
	CHECK(stack_high - stack_low < 4096);
	free(ops);
	close(ends.peer);
	close_handle(port, ends.ours);
	test_close(port);
}

/* ---- Rule 5 ---- */

static struct record pair_ops[2];

static void look_at_other(struct record *record, const struct proa_completion *c)
{
	struct record *other = record == &pair_ops[0] ? &pair_ops[1] : &pair_ops[0];

	(void)c;
	CHECK(!proa_op_pending(&record->op));
	/* Both were posted before the run: the later one is ready by now. */
	CHECK_INT(proa_op_pending(&other->op) != 0, other->count == 0);
}

TEST(5, "pending until its own callback", pending_under_run)
{
	struct proa_port *port = test_port();

	for (int way = 0; way < 3; way++) {
		for (int i = 0; i < 2; i++) {
			record_init(&pair_ops[i], port);
			pair_ops[i].then = look_at_other;
			if (way == 0)
				proa_post(port, &pair_ops[i].op, 0, recorded);
			if (way == 1)
				proa_prep_timer(&pair_ops[i].op, 0);
			if (way == 2)
				proa_prep_recv(&pair_ops[i].op, -1, NULL, 0, 0);
			if (way != 0)
				record_submit(&pair_ops[i]);
			CHECK(proa_op_pending(&pair_ops[i].op));
		}
		CHECK_INT(proa_in_flight(port), 2);
		CHECK_INT(proa_run(port), 0);
		CHECK_INT(pair_ops[0].count + pair_ops[1].count, 2);
		CHECK_INT(proa_in_flight(port), 0);
	}
	test_close(port);
}

/* The first one's callback ends the second in some way that is allowed, while
 * its completion is perhaps already in the same batch. */
static void strike_other(struct record *record, const struct proa_completion *c)
{
	(void)c;
	if (pair_ops[1].count == 0) {
		CHECK(proa_op_pending(&pair_ops[1].op));
		if (record->number == 0)
			proa_cancel(&pair_ops[1].op);
		else
			proa_cancel_all(record->op.port);
	}
}

TEST(5, "pending until its own callback", cancel_of_one_in_the_same_batch)
{
	struct proa_port *port = test_port();
	struct ends ends[2] = { pair_ends(), pair_ends() };
	char bytes[2][4];

	for (int round = 0; round < 20; round++) {
		for (int i = 0; i < 2; i++) {
			record_init(&pair_ops[i], port);
			proa_prep_recv(&pair_ops[i].op, ends[i].ours, bytes[i], 4, 0);
			record_submit(&pair_ops[i]);
		}
		pair_ops[0].then = strike_other;
		pair_ops[0].number = (uint64_t)round & 1;
		run_for(port, PROA_MILLISECOND);
		peer_write(ends[0].peer, "ab", 2);
		peer_write(ends[1].peer, "cd", 2);
		CHECK_INT(proa_run(port), 0);
		CHECK_INT(pair_ops[0].count + pair_ops[1].count, 2);
		CHECK_INT(pair_ops[0].last, 2);
		if (pair_ops[1].last != 2) { /* then the bytes are there still */
			CHECK_INT(pair_ops[1].last, PROA_ECANCELED);
			proa_prep_recv(&pair_ops[1].op, ends[1].ours, bytes[1], 4, 0);
			CHECK_INT(record_run(&pair_ops[1]), 2);
		}
		CHECK(memcmp(bytes[1], "cd", 2) == 0);
	}
	for (int i = 0; i < 2; i++) {
		close(ends[i].peer);
		close_handle(port, ends[i].ours);
	}
	test_close(port);
}

TEST(5, "proa_wait hands a batch over", wait_hands_over_a_batch)
{
	struct proa_port *port = test_port();
	struct proa_completion taken[16];
	struct record records[10];
	int got = 0, n;

	for (int i = 0; i < 10; i++) {
		record_init(&records[i], port);
		proa_post(port, &records[i].op, 100 + i, NULL);
	}
	n = proa_wait(port, taken, 3, PROA_SECOND);
	CHECK_INT(n, 3);
	CHECK_INT(proa_in_flight(port), 7);
	for (int i = 0; i < 10; i++)
		CHECK_INT(proa_op_pending(&records[i].op) != 0, i >= 3);
	for (got = 0; got < 10;) {
		for (int i = 0; i < n; i++, got++) {
			CHECK(taken[i].op == &records[got].op);
			CHECK_INT(taken[i].result, 100 + got);
			CHECK(!proa_op_pending(taken[i].op));
			memset(&records[got], 0xee, sizeof(records[got]));
		}
		if (got < 10) {
			n = proa_wait(port, taken, 16, PROA_SECOND);
			CHECK(n > 0);
		}
	}
	CHECK_INT(proa_wait(port, taken, 16, 0), 0);
	CHECK_INT(proa_wait(port, taken, 0, 0), PROA_EINVAL);
	test_close(port);
}

TEST(5, "proa_dispatch in a dequeue loop", dispatch_mixes_with_wait)
{
	struct proa_port *port = test_port();
	struct proa_completion taken[8];
	struct record with[4], without[4];
	int seen = 0, n;

	for (int i = 0; i < 4; i++) {
		record_init(&with[i], port);
		record_init(&without[i], port);
		proa_prep_timer(&with[i].op, i * PROA_MILLISECOND);
		record_submit(&with[i]);
		proa_prep_timer(&without[i].op, i * PROA_MILLISECOND);
		proa_submit(&without[i].op, NULL);
	}
	while (seen < 8) {
		n = proa_wait(port, taken, 8, 10 * PROA_SECOND);
		CHECK(n > 0);
		for (int i = 0; i < n; i++, seen++) {
			struct record *record = taken[i].op->data;

			CHECK_INT(record->count, 0);
			proa_dispatch(&taken[i]);
			CHECK_INT(record->count, record < &with[4] && record >= &with[0]);
		}
	}
	/* What has no callback is dropped by a run, and no longer pending. */
	proa_prep_timer(&without[0].op, 0);
	proa_submit(&without[0].op, NULL);
	CHECK_INT(proa_run(port), 0);
	CHECK(!proa_op_pending(&without[0].op));
	test_close(port);
}

static void run_inside(struct record *record, const struct proa_completion *c)
{
	struct proa_port *port = record->op.port;

	(void)c;
	CHECK_INT(proa_run(port), PROA_EBUSY);
	CHECK_INT(proa_run_once(port, 0), PROA_EBUSY);
	CHECK_INT(proa_port_close(port), PROA_EBUSY);
}

TEST(5, "EBUSY inside a callback", run_and_close_inside_a_callback)
{
	struct proa_port *port = test_port();
	struct proa_completion c;
	struct record record, other;

	record_init(&record, port);
	record_init(&other, port);
	record.then = run_inside;
	proa_prep_timer(&other.op, SHORT);
	record_submit(&other);
	proa_post(port, &record.op, 0, recorded);
	CHECK_INT(proa_run(port), 0);
	/* Nothing has happened: no shut, no cancel. */
	CHECK_INT(other.last, 0);
	CHECK_INT(other.count, 1);
	record.finals = 0;
	proa_post(port, &record.op, 0, recorded);
	CHECK_INT(proa_wait(port, &c, 1, PROA_SECOND), 1);
	proa_dispatch(&c);
	CHECK_INT(record.count, 2);
	CHECK_INT(proa_run(port), 0);
	test_close(port);
}

static struct proa_port *other_port;

static void run_other(struct record *record, const struct proa_completion *c)
{
	static struct record inner;

	(void)record;
	(void)c;
	record_init(&inner, other_port);
	proa_prep_timer(&inner.op, 0);
	record_submit(&inner);
	CHECK_INT(proa_run(other_port), 0);
	CHECK_INT(inner.count, 1);
	CHECK_INT(proa_port_close(other_port), 0);
}

TEST(5, "EBUSY inside a callback", another_port_may_run_inside)
{
	struct proa_port *port = test_port();
	struct record record;

	other_port = test_port();
	record_init(&record, port);
	record.then = run_other;
	proa_post(port, &record.op, 0, recorded);
	CHECK_INT(proa_run(port), 0);
	CHECK_INT(record.count, 1);
	test_close(port);
}

/* ---- Rule 6 ---- */

static unsigned in_order;

static void ordered_done(struct proa_op *op, const struct proa_completion *c)
{
	CHECK_INT(c->result, 1);
	CHECK_INT((uintptr_t)op->data, in_order);
	in_order++;
}

TEST_SLOW(6, "100,000 ops at once", many_receives_on_one_handle)
{
	struct proa_port *port = test_port();
	struct proa_op *ops = many_ops(port, LONG);
	struct peer_writer writer = { .total = LONG };
	struct ends ends = pair_ends();
	unsigned char *bytes = malloc(LONG);

	CHECK(bytes != NULL);
	for (unsigned i = 0; i < LONG; i++) {
		ops[i].data = (void *)(uintptr_t)i;
		proa_prep_recv(&ops[i], ends.ours, &bytes[i], 1, 0);
		proa_submit(&ops[i], ordered_done);
	}
	CHECK_INT(proa_in_flight(port), LONG);
	writer.fd = ends.peer;
	peer_writer_start(&writer);
	CHECK_INT(proa_run(port), 0);
	peer_writer_join(&writer);
	CHECK_INT(in_order, LONG);
	CHECK_BYTES(bytes, LONG, 0);
	free(bytes);
	free(ops);
	close(ends.peer);
	close_handle(port, ends.ours);
	test_close(port);
}

TEST_SLOW(6, "100,000 ops at once", many_ops_of_many_kinds)
{
	struct proa_port_options options = { .entries = 8 };
	struct proa_port *port = test_port_with(&options);
	struct proa_op *ops = many_ops(port, LONG);
	struct ends ends = pair_ends();
	int file = CHECK_SYSTEM(open("/dev/zero", O_RDONLY | O_CLOEXEC));
	int null = CHECK_SYSTEM(open("/dev/null", O_WRONLY | O_CLOEXEC));
	static char zeros[LONG]; /* a place each: workers read at the same time */
	char byte = 1;

	/* More than any ring holds, before the port has run once. */
	for (unsigned i = 0; i < LONG; i++) {
		switch (i % 5) {
		case 0:
			proa_prep_poll(&ops[i], ends.ours, PROA_WRITABLE);
			break;
		case 1:
			proa_prep_timer(&ops[i], (int64_t)(i % 50) * PROA_MILLISECOND);
			break;
		case 2:
			proa_prep_read(&ops[i], file, &zeros[i], 1, 0);
			break;
		case 3:
			proa_prep_write(&ops[i], null, &byte, 1, 0);
			break;
		case 4:
			proa_prep_poll(&ops[i], ends.peer, PROA_WRITABLE);
			break;
		}
		proa_submit(&ops[i], NULL);
	}
	CHECK_INT(proa_in_flight(port), LONG);
	for (unsigned seen = 0; seen < LONG;) {
		struct proa_completion taken[256];
		int n = proa_wait(port, taken, 256, 20 * PROA_SECOND);

		CHECK(n > 0);
		for (int i = 0; i < n; i++, seen++) {
			unsigned kind = (unsigned)(taken[i].op - ops) % 5;

			CHECK_INT(taken[i].result, kind == 1       ? 0
						   : kind % 4 == 0 ? (int)PROA_WRITABLE
								   : 1);
		}
	}
	CHECK_INT(proa_in_flight(port), 0);
	free(ops);
	test_close(port);
	close(ends.ours);
	close(ends.peer);
	close(file);
	close(null);
}

TEST_SLOW(6, "the backlog keeps the order", sends_in_the_backlog_keep_order)
{
	struct proa_port_options options = { .entries = 4 };
	struct proa_port *port = test_port_with(&options);
	enum { HANDLES = 20, EACH = 2000 };
	struct proa_op *ops = many_ops(port, HANDLES * EACH);
	struct ends ends[HANDLES];
	struct peer_reader readers[HANDLES];
	unsigned char *bytes = malloc(EACH);

	CHECK(bytes != NULL);
	fill_bytes(bytes, EACH, 0);
	for (int i = 0; i < HANDLES; i++) {
		ends[i] = i % 2 ? pair_ends() : tcp_ends();
		readers[i] = (struct peer_reader) { .fd = ends[i].peer };
		peer_reader_start(&readers[i]);
	}
	long_expected = 1;
	for (int j = 0; j < EACH; j++)
		for (int i = 0; i < HANDLES; i++) {
			struct proa_op *op = &ops[i * EACH + j];

			proa_prep_send(op, ends[i].ours, &bytes[j], 1, 0);
			proa_submit(op, count_done);
		}
	CHECK_INT(proa_run(port), 0);
	CHECK_INT(long_count, HANDLES * EACH);
	for (int i = 0; i < HANDLES; i++) {
		close_handle(port, ends[i].ours);
		peer_reader_join(&readers[i]);
		CHECK_INT(readers[i].wrong, UINT64_MAX);
		CHECK_INT(readers[i].total, EACH);
		close(ends[i].peer);
	}
	free(bytes);
	free(ops);
	test_close(port);
}

TEST(6, "max_inflight gives EAGAIN", max_inflight_is_a_completion)
{
	struct proa_port_options options = { .max_inflight = 4 };
	struct proa_port *port = test_port_with(&options);
	struct record records[7];

	for (int i = 0; i < 7; i++) {
		record_init(&records[i], port);
		proa_prep_timer(&records[i].op, SHORT);
		record_submit(&records[i]);
		CHECK_INT(records[i].count, 0);
	}
	CHECK_INT(proa_run(port), 0);
	for (int i = 0; i < 7; i++) {
		CHECK_INT(records[i].count, 1);
		CHECK_INT(records[i].last, i < 4 ? 0 : PROA_EAGAIN);
		CHECK(i < 4 || records[i].order <= 3);
	}
	/* There is room again. */
	for (int i = 3; i < 7; i++)
		record_submit(&records[i]);
	CHECK_INT(proa_run(port), 0);
	for (int i = 3; i < 7; i++)
		CHECK_INT(records[i].last, 0);
	test_close(port);
}

#ifdef _WIN32
NOT_HERE(6, "EINTR is the engine's business", interrupted_transfer_goes_on,
	"no signal interrupts a call on Windows")
#else

static void on_alarm(int number)
{
	(void)number;
}

TEST(6, "EINTR is the engine's business", interrupted_transfer_goes_on)
{
	enum { TOTAL = 32 << 20 };
	struct itimerval often = { { 0, 700 }, { 0, 700 } }, never = { { 0, 0 }, { 0, 0 } };
	struct sigaction action = { .sa_handler = on_alarm };
	struct proa_port *port = test_port();
	struct ends ends = tcp_ends();
	struct peer_reader reader = { .fd = ends.peer };
	unsigned char *bytes = malloc(TOTAL);
	struct record send, timer;
	sigset_t alarm_only;

	CHECK(bytes != NULL);
	fill_bytes(bytes, TOTAL, 0);
	sigemptyset(&alarm_only);
	sigaddset(&alarm_only, SIGALRM);
	CHECK_SYSTEM(sigaction(SIGALRM, &action, NULL));
	pthread_sigmask(SIG_BLOCK, &alarm_only, NULL);
	peer_reader_start(&reader);
	pthread_sigmask(SIG_UNBLOCK, &alarm_only, NULL);
	CHECK_SYSTEM(setitimer(ITIMER_REAL, &often, NULL));
	record_init(&send, port);
	record_init(&timer, port);
	proa_prep_send(&send.op, ends.ours, bytes, TOTAL, 0);
	record_submit(&send);
	proa_prep_timer(&timer.op, 100 * PROA_MILLISECOND);
	record_submit(&timer);
	CHECK_INT(proa_run(port), 0);
	CHECK_SYSTEM(setitimer(ITIMER_REAL, &never, NULL));
	CHECK_INT(send.last, TOTAL);
	CHECK_INT(timer.last, 0);
	close_handle(port, ends.ours);
	peer_reader_join(&reader);
	CHECK_INT(reader.total, TOTAL);
	CHECK_INT(reader.wrong, UINT64_MAX);
	close(ends.peer);
	free(bytes);
	test_close(port);
}

#endif

/* ---- Rule 7 ---- */

TEST(7, "the count after failure", count_after_a_failed_send)
{
	struct proa_port *port = test_port();

	/* Ended by time, by cancel, and by the peer's end. */
	for (int way = 0; way < 3; way++) {
		struct ends ends = pair_ends();
		struct record record;
		uint64_t count;

		fill_bytes(blocking_bytes, sizeof(blocking_bytes), 0);
		record_init(&record, port);
		proa_prep_send(&record.op, ends.ours, blocking_bytes, sizeof(blocking_bytes), 0);
		if (way == 0)
			proa_op_timeout(&record.op, SHORT);
		record_submit(&record);
		run_for(port, 5 * PROA_MILLISECOND);
		if (way == 1)
			proa_cancel(&record.op);
		if (way == 2)
			close(ends.peer);
		RUN_UNTIL(port, record.finals == 1);
		if (way == 0)
			CHECK_INT(record.last, PROA_ETIMEDOUT);
		else if (way == 1)
			CHECK_INT(record.last, PROA_ECANCELED);
		else
			CHECK(record.last == PROA_EPIPE || record.last == PROA_ECONNRESET);
		count = proa_op_count(&record.op);
		CHECK(count > 0 && count < sizeof(blocking_bytes));
		close_handle(port, ends.ours);
		CHECK_INT(proa_op_count(&record.op), count);
		if (way != 2) {
			CHECK_INT(peer_read_pattern(ends.peer, 0), count);
			close(ends.peer);
		}
	}
	test_close(port);
}

TEST(7, "the count after failure", count_after_a_failed_receive)
{
	struct proa_port *port = test_port();

	for (int way = 0; way < 2; way++) {
		struct ends ends = tcp_ends();
		struct record record;
		char bytes[64];

		record_init(&record, port);
		proa_prep_recv(&record.op, ends.ours, bytes, sizeof(bytes), PROA_ALL);
		if (way == 0)
			proa_op_timeout(&record.op, 400 * PROA_MILLISECOND);
		record_submit(&record);
		peer_write(ends.peer, "hello", 5);
		run_for(port, SHORT);
		CHECK_INT(record.count, 0);
		if (way == 1)
			proa_cancel(&record.op);
		RUN_UNTIL(port, record.finals == 1);
		CHECK_INT(record.last, way == 0 ? PROA_ETIMEDOUT : PROA_ECANCELED);
		CHECK_INT(proa_op_count(&record.op), 5);
		CHECK(memcmp(bytes, "hello", 5) == 0);
		close(ends.peer);
		close_handle(port, ends.ours);
	}
	test_close(port);
}

TEST(7, "the count on success", count_equals_the_result)
{
	struct proa_port *port = test_port();
	struct ends ends = pair_ends();
	struct proa_slice slices[2] = { SLICE((void *)"abc", 3), SLICE((void *)"defg", 4) };
	struct record record;
	char bytes[16];

	record_init(&record, port);
	proa_prep_sendv(&record.op, ends.ours, slices, 2, 0);
	CHECK_INT(record_run(&record), 7);
	CHECK_INT(proa_op_count(&record.op), 7);
	peer_write(ends.peer, "12345", 5);
	proa_prep_recv(&record.op, ends.ours, bytes, sizeof(bytes), 0);
	CHECK_INT(record_run(&record), 5);
	CHECK_INT(proa_op_count(&record.op), 5);
	proa_prep_timer(&record.op, 0);
	CHECK_INT(record_run(&record), 0);
	CHECK_INT(proa_op_count(&record.op), 0);
	close(ends.peer);
	close_handle(port, ends.ours);
	test_close(port);
}

static void count_nothing(struct record *record, const struct proa_completion *c)
{
	CHECK_INT(proa_op_count(&record->op), 0);
	if (c->flags & PROA_MORE)
		proa_cancel(&record->op);
}

/* What moves no bytes says so while it goes on, too, whatever limits it in time. */
TEST(7, "the count on success", no_bytes_are_counted_where_none_move)
{
	struct proa_port *port = test_port();
	struct ends ends = pair_ends();
	struct record record;

	peer_write(ends.peer, "x", 1);
	for (int way = 0; way < 3; way++) {
		record_init(&record, port);
		record.then = count_nothing;
		if (way == 0)
			proa_prep_interval(&record.op, PROA_MILLISECOND, PROA_MILLISECOND);
		else if (way == 1)
			proa_prep_poll_multi(&record.op, ends.ours, PROA_READABLE);
		else
			proa_prep_poll(&record.op, ends.ours, PROA_READABLE);
		if (way > 0)
			proa_op_timeout(&record.op, 10 * PROA_SECOND);
		record_submit(&record);
		CHECK_INT(proa_op_count(&record.op), 0);
		RUN_UNTIL(port, record.finals == 1);
		CHECK(record.count > (way < 2));
	}
	close_handle(port, ends.ours);
	close(ends.peer);
	test_close(port);
}

TEST(7, "at most 0x7ffff000 bytes", one_op_moves_two_gigabytes_at_most)
{
	struct proa_port *port = test_port();
	size_t huge = (size_t)3 << 30, most = 0x7ffff000;
	void *zeros =
		mmap(NULL, huge, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	int null = CHECK_SYSTEM(open("/dev/null", O_WRONLY | O_CLOEXEC));
	struct record record;

	if (zeros == MAP_FAILED)
		SKIP("no address space for 3 GiB");
#if defined(SANITIZED)
	SKIP("a sanitizer looks at each byte of a write");
#endif
	record_init(&record, port);
	proa_prep_write(&record.op, null, zeros, most, 0);
	CHECK_INT(record_run(&record), most);
	CHECK_INT(proa_op_count(&record.op), most);
	/* More can't be all of it, and is never a short success. */
	proa_prep_write(&record.op, null, zeros, most + 1, 0);
	CHECK_INT(record_run(&record), PROA_EINVAL);
	CHECK_INT(proa_op_count(&record.op), 0);
	proa_prep_write(&record.op, null, zeros, huge, 0);
	CHECK_INT(record_run(&record), PROA_EINVAL);
	munmap(zeros, huge);
	close_handle(port, null);
	test_close(port);
}

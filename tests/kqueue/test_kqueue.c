/* What the kqueue engine does with its queue, and what the tests' own kqueue does
 * as kqueue(2) says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
/* before it, as it asks */
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/event.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engines/engine.h"

static const struct timespec at_once = { 0, 0 };
static struct proa_port *port;
static int queue; /* the port's */

static int set_up(void **state)
{
	struct proa_port_options options = { .engine = "kqueue" };

	(void)state;
	if (proa_port_open(&options, &port) < 0)
		return -1;
	queue = port->engine->descriptor(port);
	/* What wakes it up is registered, too. */
	return proa_run_once(port, 0);
}

static int tear_down(void **state)
{
	(void)state;
	return proa_port_close(port);
}

struct note {
	struct proa_op op;
	int32_t result;
	int count;
	char bytes[16];
};

static void noted(struct proa_op *op, const struct proa_completion *c)
{
	struct note *note = op->data;

	note->result = c->result;
	note->count++;
}

static void receive(struct note *note, proa_handle from)
{
	proa_op_init(&note->op, port, note);
	note->count = 0;
	proa_prep_recv(&note->op, from, note->bytes, sizeof note->bytes, 0);
	proa_submit(&note->op, noted);
}

static void send_byte(struct note *note, proa_handle to)
{
	proa_op_init(&note->op, port, note);
	note->count = 0;
	proa_prep_send(&note->op, to, "x", 1, 0);
	proa_submit(&note->op, noted);
}

static void close_both(proa_handle ends[2])
{
	struct note notes[2];

	for (int i = 0; i < 2; i++) {
		proa_op_init(&notes[i].op, port, &notes[i]);
		notes[i].count = 0;
		proa_prep_close(&notes[i].op, ends[i], 0);
		proa_submit(&notes[i].op, noted);
	}
	while (notes[0].count + notes[1].count < 2)
		assert_true(proa_run_once(port, PROA_SECOND) >= 0);
}

static void a_turn_is_one_call_and_registers_once(void **state)
{
	enum { PAIRS = 20, ROUNDS = 50 };
	proa_handle ends[PAIRS][2];
	struct note in[PAIRS], out[PAIRS];
	unsigned long before, first, registered = 0, turns = 0;

	(void)state;
	for (int i = 0; i < PAIRS; i++)
		assert_int_equal(proa_pair(port, ends[i]), 0);
	before = kqueue_calls();
	first = kqueue_changes();
	for (int round = 0; round < ROUNDS; round++) {
		int done = 0;

		for (int i = 0; i < PAIRS; i++)
			receive(&in[i], ends[i][0]);
		for (int i = 0; i < PAIRS; i++)
			send_byte(&out[i], ends[i][1]);
		for (; done < 2 * PAIRS; turns++) {
			int n = proa_run_once(port, PROA_SECOND);

			assert_true(n > 0);
			done += n;
		}
		if (round == 0)
			registered = kqueue_changes();
	}
	/* For the descriptor's life, in the round that first had to wait. */
	assert_true(registered - first >= PAIRS);
	assert_int_equal(kqueue_changes(), registered);
	/* Registrations go along: all of them in one of those calls. */
	assert_true(kqueue_calls() - before <= turns);
	for (int i = 0; i < PAIRS; i++)
		close_both(ends[i]);
}

static void more_changes_than_a_call_takes(void **state)
{
	enum { PAIRS = 300 };
	static proa_handle ends[PAIRS][2];
	static struct note in[2 * PAIRS], out[2 * PAIRS];
	struct rlimit limit;
	int done = 0;

	(void)state;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	if (limit.rlim_cur < 2 * PAIRS + 100)
		skip();
	for (int i = 0; i < PAIRS; i++) {
		assert_int_equal(proa_pair(port, ends[i]), 0);
		receive(&in[2 * i], ends[i][0]);
		receive(&in[2 * i + 1], ends[i][1]);
	}
	assert_int_equal(proa_run_once(port, 0), 0);
	for (int i = 0; i < PAIRS; i++) {
		send_byte(&out[2 * i], ends[i][0]);
		send_byte(&out[2 * i + 1], ends[i][1]);
	}
	while (done < 4 * PAIRS) {
		int n = proa_run_once(port, PROA_SECOND);

		assert_true(n > 0);
		done += n;
	}
	for (int i = 0; i < 2 * PAIRS; i++)
		assert_int_equal(in[i].result, 1);
	for (int i = 0; i < PAIRS; i++)
		close_both(ends[i]);
}

static void a_refusal_reaches_its_op(void **state)
{
	proa_handle refused[2], taken[2];
	struct note lost, next, well, out;

	(void)state;
	assert_int_equal(proa_pair(port, refused), 0);
	assert_int_equal(proa_pair(port, taken), 0);
	receive(&lost, refused[0]);
	receive(&next, refused[0]); /* behind it in the lane */
	receive(&well, taken[0]);
	kqueue_refuse(1, ENOMEM);
	while (lost.count == 0)
		assert_true(proa_run_once(port, PROA_SECOND) >= 0);
	assert_int_equal(lost.result, PROA_ENOMEM);
	assert_int_equal(well.count, 0);
	/* It was a passing want: the next is registered anew, and served. */
	send_byte(&out, refused[1]);
	while (next.count == 0)
		assert_true(proa_run_once(port, PROA_SECOND) > 0);
	assert_int_equal(next.result, 1);
	send_byte(&out, taken[1]);
	while (well.count == 0)
		assert_true(proa_run_once(port, PROA_SECOND) > 0);
	assert_int_equal(well.result, 1);
	close_both(refused);
	close_both(taken);
}

/* Whoever waits for data on the same handle is not told. */
static void a_refusal_to_send_reaches_its_op(void **state)
{
	static char room[65536];
	proa_handle ends[2];
	static struct note in, lost, behind, next;

	(void)state;
	assert_int_equal(proa_pair(port, ends), 0);
	receive(&in, ends[0]);
	assert_int_equal(proa_run_once(port, 0), 0);
	while (write(ends[0], room, sizeof room) > 0)
		;
	assert_int_equal(errno, EAGAIN);
	send_byte(&lost, ends[0]);
	send_byte(&behind, ends[0]);
	kqueue_refuse(1, ENOMEM);
	while (lost.count + behind.count < 2)
		assert_true(proa_run_once(port, PROA_SECOND) > 0);
	assert_int_equal(lost.result, PROA_ENOMEM);
	assert_int_equal(behind.result, PROA_ECANCELED);
	assert_int_equal(in.count, 0);
	/* Registered anew, and told when there is room. */
	send_byte(&next, ends[0]);
	assert_int_equal(proa_run_once(port, 0), 0);
	while (read(ends[1], room, sizeof room) > 0)
		;
	while (next.count == 0)
		assert_true(proa_run_once(port, PROA_SECOND) > 0);
	assert_int_equal(next.result, 1);
	assert_int_equal(write(ends[1], "y", 1), 1);
	while (in.count == 0)
		assert_true(proa_run_once(port, PROA_SECOND) > 0);
	assert_int_equal(in.result, 1);
	close_both(ends);
}

/* Handed over while ops are still submitted, so that the answers have to be kept. */
static void refusals_among_more_changes_than_a_call_takes(void **state)
{
	enum { PAIRS = 300, FIRST = 3 };
	static proa_handle ends[PAIRS][2];
	static struct note in[PAIRS], next[PAIRS], out[PAIRS];
	struct rlimit limit;
	unsigned long before;
	int refused = 0, done = 0;

	(void)state;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	if (limit.rlim_cur < 2 * PAIRS + 100)
		skip();
	for (int i = 0; i < PAIRS; i++)
		assert_int_equal(proa_pair(port, ends[i]), 0);
	before = kqueue_calls();
	kqueue_refuse(FIRST, ENOMEM);
	for (int i = 0; i < PAIRS; i++)
		receive(&in[i], ends[i][0]);
	assert_true(kqueue_calls() > before);
	/* One of the rest, too, which goes with the wait. */
	kqueue_refuse(1, ENOMEM);
	for (int turn = 0; turn < 5 && refused < FIRST + 1; turn++) {
		int n = proa_run_once(port, PROA_SECOND);

		assert_true(n >= 0);
		refused += n;
	}
	assert_int_equal(refused, FIRST + 1);
	for (int i = 0; i < PAIRS; i++) {
		if (in[i].count > 0) {
			assert_int_equal(in[i].result, PROA_ENOMEM);
			assert_true(i < FIRST || --refused == FIRST);
			receive(&next[i], ends[i][0]);
		}
		send_byte(&out[i], ends[i][1]);
	}
	while (done < 2 * PAIRS) {
		int n = proa_run_once(port, PROA_SECOND);

		assert_true(n > 0);
		done += n;
	}
	assert_int_equal(refused, FIRST);
	for (int i = 0; i < PAIRS; i++) {
		assert_int_equal((in[i].result == PROA_ENOMEM ? next : in)[i].result, 1);
		close_both(ends[i]);
	}
}

static void registrations_go_with_the_handle(void **state)
{
	int least = kqueue_registered(queue);
	proa_handle ends[2];
	struct note in;

	(void)state;
	assert_int_equal(proa_pair(port, ends), 0);
	receive(&in, ends[0]);
	/* Not handed over yet: the number must not be registered later. */
	close_both(ends);
	assert_int_equal(proa_run_once(port, 0), 0);
	assert_int_equal(kqueue_registered(queue), least);

	assert_int_equal(proa_pair(port, ends), 0);
	receive(&in, ends[0]);
	assert_int_equal(proa_run_once(port, 0), 0);
	assert_true(kqueue_registered(queue) > least);
	/* The kernel holds nothing of it, and it is open. */
	assert_int_equal(proa_release(port, ends[0]), 0);
	assert_int_equal(kqueue_registered(queue), least);
	assert_int_equal(close(ends[0]), 0);
	assert_int_equal(proa_release(port, ends[1]), 0);
	assert_int_equal(close(ends[1]), 0);
	while (in.count == 0)
		assert_true(proa_run_once(port, PROA_SECOND) >= 0);
	assert_int_equal(in.result, PROA_ECANCELED);
}

static void data_comes_before_the_end(void **state)
{
	proa_handle ends[2];
	struct note in;
	char all[40];
	int got = 0;

	(void)state;
	assert_int_equal(proa_pair(port, ends), 0);
	receive(&in, ends[0]);
	assert_int_equal(proa_run_once(port, 0), 0);
	memset(all, 'a', sizeof all);
	assert_int_equal(write(ends[1], all, sizeof all), sizeof all);
	assert_int_equal(proa_release(port, ends[1]), 0);
	assert_int_equal(close(ends[1]), 0);
	do {
		while (in.count == 0)
			assert_true(proa_run_once(port, PROA_SECOND) > 0);
		got += in.result;
		if (in.result > 0)
			receive(&in, ends[0]);
	} while (in.count == 0);
	assert_int_equal(in.result, 0);
	assert_int_equal(got, sizeof all);
	assert_int_equal(proa_release(port, ends[0]), 0);
	assert_int_equal(close(ends[0]), 0);
}

static void a_child_that_has_ended_already(void **state)
{
	const char *const arguments[] = { "true", NULL };
	const struct proa_command command = { .arguments = arguments };
	proa_process process;
	struct proa_exit how = { 9, 9 };
	struct note end = { .count = 0 };
	siginfo_t info;

	(void)state;
	assert_int_equal(proa_spawn(&command, &process), 0);
	/* EVFILT_PROC is refused with ESRCH then. */
	assert_int_equal(waitid(P_PID, (id_t)process, &info, WEXITED | WNOWAIT), 0);
	proa_op_init(&end.op, port, &end);
	proa_prep_child(&end.op, process, &how);
	proa_submit(&end.op, noted);
	while (end.count == 0)
		assert_true(proa_run_once(port, PROA_SECOND) > 0);
	assert_int_equal(end.result, 0);
	assert_int_equal(how.code, 0);
}

/* It can't be registered, which is no error of the send's: write(2) says what is. */
static void a_pipe_without_a_reader(void **state)
{
	static char room[65536];
	static struct note out;
	int pipe_ends[2];

	(void)state;
	assert_int_equal(pipe2(pipe_ends, O_NONBLOCK | O_CLOEXEC), 0);
	while (write(pipe_ends[1], room, sizeof room) > 0)
		;
	send_byte(&out, pipe_ends[1]);
	/* Before the change is handed over. */
	close(pipe_ends[0]);
	while (out.count == 0)
		assert_true(proa_run_once(port, PROA_SECOND) > 0);
	assert_int_equal(out.result, PROA_EPIPE);
	assert_int_equal(proa_release(port, pipe_ends[1]), 0);
	close(pipe_ends[1]);
}

/* FreeBSD's sendfile leaves its count as it was then: it must not be told as sent. */
static void a_file_that_can_not_be_had(void **state)
{
	proa_handle ends[2];
	struct note lost = { .count = 0 }, out;
	struct proa_range range = { -1, 0, 10 };

	(void)state;
	assert_int_equal(proa_pair(port, ends), 0);
	range.file = open("/dev/null", O_WRONLY | O_CLOEXEC);
	assert_true(range.file >= 0);
	for (int round = 0; round < 2; round++) {
		proa_op_init(&lost.op, port, &lost);
		lost.count = 0;
		proa_prep_sendfile(&lost.op, ends[0], &range, 0);
		proa_submit(&lost.op, noted);
		while (lost.count == 0)
			assert_true(proa_run_once(port, PROA_SECOND) > 0);
		assert_int_equal(lost.result, PROA_EBADF);
		assert_int_equal(proa_op_count(&lost.op), 0);
		if (round == 0)
			close(range.file);
	}
	send_byte(&out, ends[0]);
	while (out.count == 0)
		assert_true(proa_run_once(port, PROA_SECOND) > 0);
	assert_int_equal(out.result, 1);
	close_both(ends);
}

/* ---- the tests' kqueue ----------------------------------------------------------- */

static void answers_as_documented(void **state)
{
	struct kevent changes[2], events[2];
	int own = kqueue(), pipe_ends[2];

	(void)state;
	assert_true(own >= 0);
	assert_int_equal(pipe(pipe_ends), 0);
	EV_SET(&changes[0], 9999, EVFILT_READ, EV_ADD, 0, 0, NULL);
	/* Without room for the answer the call fails. */
	assert_int_equal(kevent(own, changes, 1, NULL, 0, NULL), -1);
	assert_int_equal(errno, EBADF);
	assert_int_equal(kevent(own, changes, 1, events, 1, &at_once), 1);
	assert_true(events[0].flags & EV_ERROR);
	assert_int_equal(events[0].data, EBADF);
	EV_SET(&changes[0], (uintptr_t)pipe_ends[0], EVFILT_READ, EV_DELETE, 0, 0, NULL);
	assert_int_equal(kevent(own, changes, 1, events, 1, &at_once), 1);
	assert_int_equal(events[0].data, ENOENT);
	/* EV_CLEAR: told once; ONESHOT: gone then. */
	EV_SET(&changes[0], (uintptr_t)pipe_ends[0], EVFILT_READ, EV_ADD | EV_CLEAR, 0, 0, &own);
	assert_int_equal(write(pipe_ends[1], "abc", 3), 3);
	assert_int_equal(kevent(own, changes, 1, events, 2, &at_once), 1);
	assert_int_equal(events[0].data, 3);
	assert_ptr_equal(events[0].udata, &own);
	assert_int_equal(kevent(own, NULL, 0, events, 2, &at_once), 0);
	EV_SET(&changes[0], (uintptr_t)pipe_ends[0], EVFILT_READ, EV_ADD | EV_ONESHOT, 0, 0, NULL);
	assert_int_equal(kevent(own, changes, 1, events, 2, &at_once), 1);
	assert_int_equal(kqueue_registered(own), 0);
	/* "Automatically deleted on the last close of the descriptor." */
	EV_SET(&changes[0], (uintptr_t)pipe_ends[0], EVFILT_READ, EV_ADD, 0, 0, NULL);
	assert_int_equal(kevent(own, changes, 1, NULL, 0, NULL), 0);
	assert_int_equal(kqueue_registered(own), 1);
	assert_int_equal(close(pipe_ends[0]), 0);
	assert_int_equal(kqueue_registered(own), 0);
	/* A pipe that nobody reads can't be registered for writing. */
	EV_SET(&changes[0], (uintptr_t)pipe_ends[1], EVFILT_WRITE, EV_ADD, 0, 0, NULL);
	assert_int_equal(kevent(own, changes, 1, NULL, 0, NULL), -1);
	assert_int_equal(errno, NO_READER);
	close(pipe_ends[1]);
	close(own);
}

static void is_not_inherited(void **state)
{
	int own = kqueue(), status;
	pid_t child;

	(void)state;
	child = fork();
	if (child == 0)
		_exit(fcntl(own, F_GETFD) < 0 && kqueue_registered(own) < 0 ? 0 : 1);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	close(own);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			a_turn_is_one_call_and_registers_once, set_up, tear_down),
		cmocka_unit_test_setup_teardown(more_changes_than_a_call_takes, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_refusal_reaches_its_op, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			a_refusal_to_send_reaches_its_op, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			refusals_among_more_changes_than_a_call_takes, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			registrations_go_with_the_handle, set_up, tear_down),
		cmocka_unit_test_setup_teardown(data_comes_before_the_end, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_child_that_has_ended_already, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_pipe_without_a_reader, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_file_that_can_not_be_had, set_up, tear_down),
		cmocka_unit_test(answers_as_documented),
		cmocka_unit_test(is_not_inherited),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

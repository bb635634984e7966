/* Engines from below the seam: which one a port gets where little can be had, epoll's
 * register, and pools' buffers that io_uring gives back. */
#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include <proa/proa.h>

#include "emu/reactor.h"
#ifdef PROA_HAVE_URING
#	include "engines/uring/uring.h"
#endif

/* ---- which one ------------------------------------------------------------------------ */

static void absent_engines_are_known(void **state)
{
	const struct proa_port_options windows = { .engine = "iocp" }, none = { .engine = "ten" };
	struct proa_port *port;

	(void)state;
	assert_int_equal(proa_port_open(&windows, &port), PROA_ENOSYS);
	assert_non_null(strstr(proa_port_open_why(), "not part of this build"));
	assert_int_equal(proa_port_open(&none, &port), PROA_EINVAL);
	assert_non_null(strstr(proa_port_open_why(), "there is no engine"));
}

/* Without a descriptor to be had none works, and each says why. */
static void no_engine_works(void **state)
{
	struct rlimit usual, none;
	struct proa_port *port;
	int error;

	(void)state;
	assert_int_equal(proa_port_open(NULL, &port), 0); /* what the process opens once */
	assert_int_equal(proa_port_close(port), 0);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &usual), 0);
	none = usual;
	none.rlim_cur = 0;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	error = proa_port_open(NULL, &port);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &usual), 0);
	assert_int_equal(error, PROA_EMFILE);
	assert_non_null(strstr(proa_port_open_why(), "no engine works here"));
	assert_non_null(strstr(proa_port_open_why(), "poll"));
	assert_int_equal(proa_port_open(NULL, &port), 0);
	assert_int_equal(proa_port_close(port), 0);
}

/* ---- epoll ------------------------------------------------------------------------------ */

#ifdef PROA_HAVE_EPOLL

extern const struct reactor epoll_reactor;

/* What emu believes to be registered may not be so: closed, and opened anew, elsewhere. */
static void epoll_register_is_mended(void **state)
{
	struct reactor_event events[REACTOR_EVENTS];
	char why[64] = "";
	void *world;
	int ends[2];

	(void)state;
	assert_int_equal(epoll_reactor.open(&world, why, sizeof why), 0);
	assert_int_equal(pipe(ends), 0);
	/* Not there, and to be taken out. */
	assert_int_equal(epoll_reactor.set(world, ends[1], 1, POLLOUT, 0, false), 0);
	/* There already, and to be put in: with the new generation. */
	assert_int_equal(epoll_reactor.set(world, ends[1], 2, 0, POLLIN, false), 0);
	assert_int_equal(epoll_reactor.set(world, ends[1], 3, 0, POLLOUT, false), 0);
	assert_int_equal(epoll_reactor.wait(world, 0, events), 1);
	assert_int_equal(events[0].fd, ends[1]);
	assert_int_equal(events[0].generation, 3);
	assert_int_equal(events[0].events, POLLOUT);
	/* Gone, and to be changed: only where it was looked at is it put in again. */
	assert_int_equal(epoll_reactor.set(world, ends[1], 3, POLLOUT, 0, false), 0);
	assert_int_equal(epoll_reactor.set(world, ends[1], 4, POLLIN, POLLOUT, false), PROA_ENOENT);
	assert_int_equal(epoll_reactor.set(world, ends[1], 4, POLLIN, POLLOUT, true), 0);
	assert_int_equal(epoll_reactor.wait(world, 0, events), 1);
	assert_int_equal(events[0].generation, 4);
	epoll_reactor.close(world);
	close(ends[0]);
	close(ends[1]);
}

#endif

/* ---- io_uring's buffers ------------------------------------------------------------------ */

#ifdef PROA_HAVE_URING

#	define BUFFERS 4
#	define BYTES   16

/* The linker leads these through here (--wrap). */
int __real_io_uring_register_buf_ring(
	struct io_uring *ring, struct io_uring_buf_reg *reg, unsigned flags);
int __wrap_io_uring_register_buf_ring(
	struct io_uring *ring, struct io_uring_buf_reg *reg, unsigned flags);
int __real_io_uring_unregister_buf_ring(struct io_uring *ring, int group);
int __wrap_io_uring_unregister_buf_ring(struct io_uring *ring, int group);

static bool rings_refused, rings_kept;
static int rings; /* registered */

int __wrap_io_uring_register_buf_ring(
	struct io_uring *ring, struct io_uring_buf_reg *reg, unsigned flags)
{
	int error = rings_refused ? -ENOMEM : __real_io_uring_register_buf_ring(ring, reg, flags);

	rings += error == 0;
	return error;
}

int __wrap_io_uring_unregister_buf_ring(struct io_uring *ring, int group)
{
	int error = rings_kept ? -EINVAL : __real_io_uring_unregister_buf_ring(ring, group);

	rings -= error == 0;
	return error;
}

static struct {
	struct proa_port *port;
	struct proa_pool *pool;
	proa_handle ends[2];
	struct proa_op receive;
	size_t bytes;
	int32_t last;
} world;

static void received(struct proa_op *op, const struct proa_completion *c)
{
	struct proa_buffer *buffer = proa_lent(c);

	(void)op;
	if (buffer != NULL) {
		for (uint32_t i = 0; i < buffer->length; i++)
			assert_int_equal(buffer->data[i], 'a' + (world.bytes + i) % 26);
		world.bytes += buffer->length;
		proa_give_back(buffer);
	}
	world.last = c->result;
}

static void send_bytes(size_t from, size_t length)
{
	char bytes[BYTES * BUFFERS * 2];

	assert_true(length <= sizeof bytes);
	for (size_t i = 0; i < length; i++)
		bytes[i] = (char)('a' + (from + i) % 26);
	assert_int_equal(write((int)world.ends[1], bytes, length), (ssize_t)length);
}

/* Until so much has come. */
static void receive_bytes(size_t all)
{
	for (int i = 0; i < 1000 && world.bytes < all; i++)
		assert_true(proa_run_once(world.port, 10 * PROA_MILLISECOND) >= 0);
	assert_int_equal(world.bytes, all);
}

static int takes_all(struct proa_buffer **taken)
{
	int count = 0;

	while (count < BUFFERS && (taken[count] = proa_pool_take(world.pool)) != NULL)
		count++;
	return count;
}

static void gives_back(struct proa_buffer **taken, int count)
{
	while (count > 0)
		proa_give_back(taken[--count]);
}

/* A receive that lends waits, and all of the pool's buffers are the kernel's. False: there
 * is no such thing here. */
static bool world_open(void)
{
	const struct proa_port_options options = { .engine = "io_uring" };
	const struct proa_pool_options few = {
		.buffer_size = BYTES, .count = BUFFERS, .limit = BUFFERS
	};
	int error;

	memset(&world, 0, sizeof world);
	setenv("PROA_URING_OFF", "defer", 1); /* completions come while nobody asks for them */
	error = proa_port_open(&options, &world.port);
	unsetenv("PROA_URING_OFF");
	if (error < 0) {
		print_message("not shown: %s\n", proa_port_open_why());
		return false;
	}
	assert_int_equal(proa_pool_open(world.port, &few, &world.pool), 0);
	assert_int_equal(proa_pair(world.port, world.ends), 0);
	proa_op_init(&world.receive, world.port, NULL);
	return true;
}

static bool world_receives(void)
{
	proa_prep_recv_multi(&world.receive, world.ends[0], world.pool, 0);
	proa_submit(&world.receive, received);
	assert_true(proa_run_once(world.port, 0) >= 0);
	return rings > 0;
}

static void world_close(void)
{
	if (world.port == NULL)
		return;
	proa_cancel(&world.receive);
	assert_int_equal(proa_run(world.port), 0);
	assert_int_equal(world.last, PROA_ECANCELED);
	proa_discard(world.port, world.ends[0]);
	proa_discard(world.port, world.ends[1]);
	proa_pool_close(world.pool);
	assert_int_equal(proa_port_close(world.port), 0);
	assert_int_equal(rings, 0);
}

/* Whoever takes buffers from a pool gets those that the kernel has not used; what it has
 * received comes all the same. Then the pool is the kernel's again, or, where that is
 * refused, goes by readiness. */
static void buffers_come_back(void **state)
{
	struct proa_buffer *taken[BUFFERS];

	(void)state;
	for (int refused = 0; refused < 2; refused++) {
		if (!world_open())
			return;
		if (!world_receives()) {
			print_message("not shown: a kernel without rings of buffers\n");
		} else {
			send_bytes(0, BYTES); /* into a buffer, and nobody is told yet */
			rings_refused = refused == 1;
			assert_int_equal(takes_all(taken), BUFFERS - 1);
			rings_refused = false;
			receive_bytes(BYTES);
			gives_back(taken, BUFFERS - 1);
			assert_int_equal(rings, 1 - refused);
			send_bytes(BYTES, 2 * BYTES * BUFFERS);
			receive_bytes(BYTES + 2 * BYTES * BUFFERS);
		}
		world_close();
	}
}

/* Where the kernel does not let go of them nobody gets them, and it receives on. */
static void buffers_that_are_kept(void **state)
{
	struct proa_buffer *taken[BUFFERS];

	(void)state;
	if (!world_open())
		return;
	if (world_receives()) {
		rings_kept = true;
		assert_int_equal(takes_all(taken), 0);
		rings_kept = false;
		send_bytes(0, 2 * BYTES * BUFFERS);
		receive_bytes(2 * BYTES * BUFFERS);
	}
	world_close();
}

/* Groups have numbers, and when all are given away pools go by readiness. */
static void groups_run_out(void **state)
{
	struct uring *uring;

	(void)state;
	if (!world_open())
		return;
	uring = uring_of(world.port);
	memset(uring->groups, 0xff, sizeof uring->groups);
	assert_false(world_receives());
	send_bytes(0, 2 * BYTES * BUFFERS);
	receive_bytes(2 * BYTES * BUFFERS);
	world_close();
}

#endif

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(absent_engines_are_known),
		cmocka_unit_test(no_engine_works),
#ifdef PROA_HAVE_EPOLL
		cmocka_unit_test(epoll_register_is_mended),
#endif
#ifdef PROA_HAVE_URING
		cmocka_unit_test(buffers_come_back),
		cmocka_unit_test(buffers_that_are_kept),
		cmocka_unit_test(groups_run_out),
#endif
	};

	unsetenv("PROA_ENGINE");
	return cmocka_run_group_tests(tests, NULL, NULL);
}

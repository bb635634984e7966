/* Want of memory, descriptors and more: a scene with ops of every kind is played again
 * and again, and each time another call that could be refused is. Whatever is refused,
 * every op has one final completion, with a result or a reason, and when the port has
 * been closed all is given back.
 *
 * The calls are the linker's --wrap of those that the library makes; descriptors run out
 * by a limit of the process, at each number of them. (fcntl64 and mmap64 are what libc calls
 * the ones for large files.) */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef PROA_HAVE_KQUEUE
#	include <sys/event.h>
#endif

#include <proa/proa.h>

/* ---- refusals -------------------------------------------------------------------- */

enum kind { MEMORY, OPTIONS, QUEUE, RING, ENTRIES, THREADS, KINDS };
static const char *const kind_names[] = { "memory", "options of descriptors", "the queue",
	"the ring's buffers", "the ring's entries", "threads" };

#define IN_A_ROW 60 /* entries into the ring: to the end nothing would move */

static struct {
	enum kind kind;
	bool lasting; /* all from then on, for as long as the scene lasts */
	_Atomic(int) left; /* calls of the kind until one is refused; 0: none will be */
	_Atomic(int) calls;
	_Atomic(bool) armed;
} refusal;

extern int coverage_is_written __attribute__((weak)); /* tests/coverage/dump.c */

static bool refused(enum kind kind)
{
	int calls;

	if (!atomic_load(&refusal.armed) || refusal.kind != kind)
		return false;
	if (&coverage_is_written != NULL && coverage_is_written)
		return false;
	calls = atomic_fetch_add(&refusal.calls, 1) + 1;
	if (kind == ENTRIES && refusal.lasting)
		return calls >= refusal.left && calls < refusal.left + IN_A_ROW;
	if (refusal.lasting && atomic_load(&refusal.left) <= 1)
		return true;
	return atomic_fetch_sub(&refusal.left, 1) == 1;
}

#define REFUSES(kind, type, name, parameters, arguments, answer, code) \
	type __real_##name parameters;                                 \
	type __wrap_##name parameters;                                 \
	type __wrap_##name parameters                                  \
	{                                                              \
		if (refused(kind)) {                                   \
			errno = code;                                  \
			return answer;                                 \
		}                                                      \
		return __real_##name arguments;                        \
	}

REFUSES(MEMORY, void *, malloc, (size_t size), (size), NULL, ENOMEM)
REFUSES(MEMORY, void *, calloc, (size_t count, size_t size), (count, size), NULL, ENOMEM)
REFUSES(MEMORY, void *, realloc, (void *old, size_t size), (old, size), NULL, ENOMEM)
REFUSES(OPTIONS, int, fcntl64, (int fd, int command, long argument), (fd, command, argument), -1,
	EINVAL)
REFUSES(OPTIONS, int, setsockopt,
	(int fd, int level, int option, const void *value, socklen_t length),
	(fd, level, option, value, length), -1, ENOPROTOOPT)
REFUSES(QUEUE, int, epoll_ctl, (int fd, int how, int which, struct epoll_event *event),
	(fd, how, which, event), -1, ENOMEM)
#ifdef PROA_HAVE_KQUEUE
REFUSES(QUEUE, int, kevent,
	(int fd, const struct kevent *changes, int count, struct kevent *events, int room,
		const struct timespec *limit),
	(fd, changes, count, events, room, limit), -1, ENOMEM)
#endif
REFUSES(RING, int, io_uring_register_buf_ring, (void *ring, void *reg, unsigned flags),
	(ring, reg, flags), -ENOMEM, ENOMEM)
REFUSES(RING, void *, mmap64, (void *at, size_t size, int access, int flags, int fd, off_t offset),
	(at, size, access, flags, fd, offset), MAP_FAILED, ENOMEM)
REFUSES(ENTRIES, int, io_uring_enter2,
	(unsigned fd, unsigned submit, unsigned wait, unsigned flags, sigset_t *set, size_t size),
	(fd, submit, wait, flags, set, size), -EBUSY, EBUSY)
REFUSES(THREADS, int, pthread_create,
	(pthread_t * thread, const pthread_attr_t *how, void *(*run)(void *), void *argument),
	(thread, how, run, argument), EAGAIN, EAGAIN)

/* ---- the scene ------------------------------------------------------------------- */

#define OPS_MOST 700

struct act {
	struct proa_op op;
	const char *what;
	int finals;
};

static struct {
	struct proa_port *port;
	struct proa_pool *pool;
	struct act acts[OPS_MOST];
	int count;
	char bytes[4096];
	struct proa_address found[2], address, from;
	struct proa_query query;
	struct proa_message message;
	struct proa_slice slices[2];
	struct proa_range range;
	struct proa_exit end;
	struct proa_stat stat;
} now;

static int failures;

static void complain(const char *what, long long value)
{
	failures++;
	fprintf(stderr, "  %s, call %d of %s refused: %s %lld\n", getenv("PROA_ENGINE"),
		refusal.calls, kind_names[refusal.kind], what, value);
}

static void done(struct proa_op *op, const struct proa_completion *c)
{
	struct act *act = op->data;
	struct proa_buffer *lent = proa_lent(c);

	proa_give_back(lent);
	if ((c->flags & PROA_MORE) == 0 && ++act->finals > 1)
		complain(act->what, act->finals);
	/* What is accepted, dialled or opened is closed with the scene. */
	if (c->result >= 0 && (act->what[0] == 'a' || act->what[0] == 'd' || act->what[0] == 'o'))
		proa_discard(now.port, c->result);
}

static struct proa_op *act(const char *what)
{
	struct act *one = &now.acts[now.count++];

	one->what = what;
	one->finals = 0;
	proa_op_init(&one->op, now.port, one);
	return &one->op;
}

static void submit(struct proa_op *op)
{
	proa_submit(op, done);
}

static int32_t job(void *argument)
{
	(void)argument;
	return 7;
}

static void streams(const proa_handle ends[2])
{
	struct proa_op *op;

	proa_prep_recv_multi(op = act("recv_multi"), ends[0], now.pool, 0);
	submit(op);
	proa_prep_recv(op = act("recv"), ends[1], now.bytes, 100, 0);
	submit(op);
	for (int i = 0; i < 30; i++) {
		if (i % 3 == 0)
			proa_prep_sendv(op = act("sendv"), ends[1], now.slices, 2, 0);
		else
			proa_prep_send(op = act("send"), ends[1], now.bytes, 200, 0);
		submit(op);
	}
	proa_prep_poll(op = act("poll"), ends[0], PROA_READABLE);
	proa_op_timeout(op, PROA_SECOND);
	submit(op);
	now.message.slices = now.slices;
	now.message.slice_count = 2;
	proa_prep_sendmsg(op = act("sendmsg"), ends[0], &now.message, 0);
	submit(op);
}

static void datagrams(proa_handle sock)
{
	struct proa_op *op;

	proa_prep_recvfrom(op = act("recvfrom"), sock, now.bytes, 50, &now.from, 0);
	submit(op);
	proa_prep_recv_lent(op = act("recv_lent"), sock, now.pool, 0);
	submit(op);
	for (int i = 0; i < 3; i++) {
		proa_prep_sendto(op = act("sendto"), sock, now.bytes, 40, &now.address, 0);
		submit(op);
	}
}

static void connections(void)
{
	struct proa_listen_options options = { .no_delay = 1, .reuse_port = 1 };
	proa_handle listener, sock;
	struct proa_op *op;

	if (proa_listen(now.port, "127.0.0.1:0", &options, &listener) < 0)
		return;
	if (proa_local_address(listener, &now.address) == 0) {
		proa_prep_accept_multi(op = act("accept_multi"), listener, 0);
		submit(op);
		proa_prep_dial(op = act("dial"), &now.address, 0);
		submit(op);
		if (proa_socket(now.port, &now.address, PROA_STREAM, &sock) == 0) {
			proa_prep_connect(op = act("connect"), sock, &now.address, 0);
			submit(op);
			proa_prep_close(op = act("close"), sock, 0);
			submit(op);
		}
	}
	for (int i = 0; i < 15; i++)
		proa_run_once(now.port, PROA_MILLISECOND);
	proa_prep_close(op = act("close"), listener, 0);
	submit(op);
}

static void tasks(void)
{
	static const char *const arguments[] = { "true", NULL };
	struct proa_command command = { .arguments = arguments };
	proa_process process = 0;
	struct proa_op *op;

	for (int i = 0; i < 300; i++) {
		proa_prep_timer(op = act("timer"), i % 2 == 0 ? 1000 : 5 * PROA_MILLISECOND);
		submit(op);
	}
	for (int i = 0; i < 3; i++) {
		proa_prep_work(op = act("job"), job, NULL);
		submit(op);
	}
	now.query.host = "127.0.0.1";
	now.query.found = now.found;
	now.query.room = 2;
	proa_prep_resolve(op = act("resolve"), &now.query);
	submit(op);
	proa_prep_signal(op = act("signal"), SIGUSR1);
	submit(op);
	proa_prep_open(op = act("open"), "/dev/null", PROA_OPEN_READ, 0);
	submit(op);
	proa_prep_stat(op = act("stat"), "/", &now.stat);
	submit(op);
	for (int i = 0; i < 20; i++)
		proa_post(now.port, act("post"), i, done);
	if (proa_spawn(&command, &process) == 0) {
		proa_prep_child(op = act("child"), process, &now.end);
		submit(op);
	}
}

static void close_act(proa_handle handle)
{
	struct proa_op *op = act("close");

	proa_prep_close(op, handle, 0);
	submit(op);
}

static void run_out(void)
{
	int turns = 0;

	for (int i = 0; i < 15; i++)
		proa_run_once(now.port, PROA_MILLISECOND);
	proa_cancel_all(now.port);
	while (proa_in_flight(now.port) > 0 && turns++ < 2000)
		proa_run_once(now.port, 5 * PROA_MILLISECOND);
	for (int i = 0; i < now.count; i++)
		if (now.acts[i].finals != 1)
			complain(now.acts[i].what, now.acts[i].finals);
}

static void play(const char *engine)
{
	struct proa_port_options options = { .engine = engine, .entries = 4, .workers = 2 };
	struct proa_pool_options pool = { .buffer_size = 64, .count = 2, .limit = 300 };
	struct proa_listen_options datagram = { .type = PROA_DATAGRAM };
	proa_handle pair[2] = { PROA_NO_HANDLE, PROA_NO_HANDLE }, sock = PROA_NO_HANDLE,
		    ours = PROA_NO_HANDLE, theirs = -1;
	int error;

	now.count = 0;
	now.pool = NULL;
	now.slices[0].data = now.slices[1].data = now.bytes;
	now.slices[0].length = now.slices[1].length = 100;
	error = proa_port_open(&options, &now.port);
	if (error < 0) {
		if (strlen(proa_port_open_why()) < 3)
			complain("a port does not say why it can't be opened", error);
		return;
	}
	if (proa_pool_open(now.port, &pool, &now.pool) == 0 && proa_pair(now.port, pair) == 0)
		streams(pair);
	proa_port_descriptor(now.port);
	if (now.pool != NULL && proa_listen(now.port, "127.0.0.1:0", &datagram, &sock) == 0 &&
		proa_local_address(sock, &now.address) == 0)
		datagrams(sock);
	if (proa_pipe(now.port, true, &ours, &theirs) == 0) {
		struct proa_op *op = act("recv of a pipe");

		proa_prep_recv(op, ours, now.bytes, 10, 0);
		submit(op);
	}
	tasks();
	connections();
	run_out();
	if (pair[0] != PROA_NO_HANDLE) {
		close_act(pair[0]);
		close_act(pair[1]);
	}
	if (sock != PROA_NO_HANDLE)
		close_act(sock);
	if (ours != PROA_NO_HANDLE) {
		close_act(ours);
		close(theirs);
	}
	run_out();
	proa_pool_close(now.pool);
	error = proa_port_close(now.port);
	if (error != 0)
		complain("the port's close gives", error);
}

/* ---- all refusals ---------------------------------------------------------------- */

static int open_descriptors(void)
{
	int count = 0;

	for (int fd = 0; fd < 200; fd++)
		count += __real_fcntl64(fd, F_GETFD, 0) >= 0;
	return count;
}

/* Each call of the kind is refused once; false if there is none of that number. */
static bool refuse(const char *engine, enum kind kind, bool lasting, int number)
{
	int before = open_descriptors();
	bool reached;

	refusal.kind = kind;
	refusal.lasting = lasting;
	atomic_store(&refusal.left, number);
	atomic_store(&refusal.calls, 0);
	atomic_store(&refusal.armed, true);
	play(engine);
	atomic_store(&refusal.armed, false);
	reached = atomic_load(&refusal.calls) >= number;
	if (open_descriptors() != before)
		complain("descriptors that stay open", open_descriptors() - before);
	return reached;
}

static void run_short(const char *engine)
{
	struct rlimit usual, few;
	int before = open_descriptors();

	getrlimit(RLIMIT_NOFILE, &usual);
	for (int more = 0; more < 24; more++) {
		few = usual;
		few.rlim_cur = (rlim_t)(before + more);
		setrlimit(RLIMIT_NOFILE, &few);
		play(engine);
		setrlimit(RLIMIT_NOFILE, &usual);
		if (open_descriptors() != before)
			complain("descriptors that stay open", open_descriptors() - before);
	}
}

/* ---- memory that is short for a moment ---------------------------------------------- */

#define POSTS 260 /* more than the port has room for from the start */

static void shortage(bool begins)
{
	refusal.kind = MEMORY;
	refusal.lasting = true;
	atomic_store(&refusal.left, 1);
	atomic_store(&refusal.calls, 0);
	atomic_store(&refusal.armed, begins);
}

/* From here on there is no room for completions that are not final. */
static void fill(struct proa_op *posts)
{
	struct proa_completion c;

	for (int i = 0; i < POSTS; i++) {
		proa_op_init(&posts[i], now.port, NULL);
		proa_post(now.port, &posts[i], 0, NULL);
	}
	shortage(true);
	if (proa_wait(now.port, &c, 1, 0) != 1)
		complain("no post is handed over", 0);
}

/* Takes what comes until `op` has had `wanted` completions; how many it had. */
static int taken_of(const struct proa_op *op, int wanted, int32_t *last)
{
	struct proa_completion c;
	int count = 0;

	for (int turns = 0; turns < POSTS + 500 && count < wanted; turns++) {
		if (proa_wait(now.port, &c, 1, PROA_MILLISECOND) <= 0 || c.op != op)
			continue;
		count++;
		*last = c.result;
		proa_give_back(proa_lent(&c));
	}
	return count;
}

/* Whatever comes first then is told of later: a signal, bytes, a connection. */
static void short_for_a_moment(const char *engine)
{
	static struct proa_op posts[3][POSTS], ops[3];
	struct proa_port_options options = { .engine = engine };
	struct proa_pool_options sizes = { .buffer_size = 4, .count = 4, .limit = 4 };
	struct proa_completion c;
	struct proa_pool *pool;
	proa_handle pair[2], listener, accepted;
	int32_t last = 0;
	struct proa_op *op = ops;
	int caller, count;

	if (proa_port_open(&options, &now.port) < 0)
		return;
	for (int i = 0; i < 3; i++)
		proa_op_init(&ops[i], now.port, NULL);
	proa_prep_signal(op, SIGUSR1);
	proa_submit(op, NULL);
	fill(posts[op - ops]);
	raise(SIGUSR1);
	proa_wait(now.port, &c, 1, 0);
	shortage(false);
	count = taken_of(op, 1, &last);
	if (count != 1 || last != SIGUSR1)
		complain("a signal is told of so many times:", count);
	proa_cancel_all(now.port);
	taken_of(op, 1, &last);

	if (proa_pool_open(now.port, &sizes, &pool) < 0 || proa_pair(now.port, pair) < 0 ||
		write(pair[1], "12345678", 8) != 8)
		complain("no pool, or no pair", 0);
	proa_prep_recv_multi(++op, pair[0], pool, 0);
	fill(posts[op - ops]);
	proa_submit(op, NULL);
	shortage(false);
	count = taken_of(op, 2, &last);
	if (count != 2 || last != 4)
		complain("of two buffers' worth come:", count);
	proa_cancel_all(now.port);
	taken_of(op, 1, &last);
	proa_discard(now.port, pair[0]);
	proa_discard(now.port, pair[1]);
	proa_pool_close(pool);

	if (proa_listen(now.port, "127.0.0.1:0", NULL, &listener) < 0 ||
		proa_local_address(listener, &now.address) < 0)
		complain("no listener", 0);
	caller = socket(now.address.to.any.sa_family, SOCK_STREAM, 0);
	if (connect(caller, &now.address.to.any, now.address.length) < 0)
		complain("no connection", errno);
	proa_prep_accept_multi(++op, listener, 0);
	fill(posts[op - ops]);
	proa_submit(op, NULL);
	shortage(false);
	accepted = PROA_NO_HANDLE;
	count = taken_of(op, 1, &accepted);
	if (count != 1 || accepted < 0)
		complain("connections that are handed over:", count);
	proa_cancel_all(now.port);
	taken_of(op, 1, &last);
	proa_discard(now.port, accepted);
	close(caller);
	proa_discard(now.port, listener);
	proa_port_close(now.port);
}

/* ---- a ring that takes no more, for a moment -------------------------------------- */

static void full_ring(bool begins, bool lasting, int number)
{
	refusal.kind = ENTRIES;
	refusal.lasting = lasting;
	atomic_store(&refusal.left, number);
	atomic_store(&refusal.calls, 0);
	atomic_store(&refusal.armed, begins);
}

static void *post_later(void *op)
{
	usleep(50000);
	proa_post(now.port, op, 0, NULL);
	return NULL;
}

#define ENDS 8 /* as many as the ring takes */

/* No request is left when the port's wake-up is to be watched again: each receive that
 * goes on has taken one. */
static void full_when_woken(void)
{
	static struct proa_op ops[ENDS], posts[2];
	proa_handle ends[ENDS][2];
	struct proa_completion c;
	pthread_t thread;
	int64_t start;

	proa_port_descriptor(now.port);
	for (int i = 0; i < ENDS; i++) {
		if (proa_pair(now.port, ends[i]) < 0)
			complain("no pair", 0);
		proa_op_init(&ops[i], now.port, NULL);
		proa_prep_recv(&ops[i], ends[i][0], now.bytes + i * 2, 2, PROA_ALL);
		proa_submit(&ops[i], NULL);
	}
	for (int i = 0; i < 2; i++)
		proa_op_init(&posts[i], now.port, NULL);
	while (proa_wait(now.port, &c, 1, PROA_MILLISECOND) != 0)
		;
	for (int i = 0; i < ENDS; i++)
		if (write(ends[i][1], "x", 1) != 1)
			complain("a byte is not written", i);
	proa_post(now.port, &posts[0], 0, NULL);
	full_ring(true, false, 2);
	if (proa_wait(now.port, &c, 1, 0) != 1 || c.op != &posts[0])
		complain("a post is not handed over", 0);
	full_ring(false, false, 0);
	while (proa_wait(now.port, &c, 1, PROA_MILLISECOND) != 0)
		;
	pthread_create(&thread, NULL, post_later, &posts[1]);
	start = proa_now(now.port);
	if (proa_wait(now.port, &c, 1, 2 * PROA_SECOND) != 1 || c.op != &posts[1] ||
		proa_now(now.port) - start > 1900 * PROA_MILLISECOND)
		complain("a post does not wake the port", 0);
	pthread_join(thread, NULL);
	proa_cancel_all(now.port);
	for (int i = 0; i < ENDS; i++) {
		proa_release(now.port, ends[i][0]);
		proa_discard(now.port, ends[i][0]);
		proa_discard(now.port, ends[i][1]);
	}
	while (proa_wait(now.port, &c, 1, 0) > 0)
		;
}

/* A send whose bytes another would take along, which finds no request to wait with. */
static void full_when_sending(void)
{
	static struct proa_op ops[ENDS], sends[2];
	proa_handle ends[ENDS][2], ours;
	struct proa_completion c;
	int theirs, turns = 0;

	if (proa_pipe(now.port, false, &ours, &theirs) < 0)
		complain("no pipe", 0);
	while (write(ours, now.bytes, sizeof now.bytes) > 0)
		;
	full_ring(true, true, 1);
	for (int i = 0; i < ENDS; i++) {
		if (proa_pair(now.port, ends[i]) < 0)
			complain("no pair", 0);
		proa_op_init(&ops[i], now.port, NULL);
		proa_prep_recv(&ops[i], ends[i][0], now.bytes, 2, 0);
		proa_submit(&ops[i], NULL);
	}
	for (int i = 0; i < 2; i++) {
		proa_op_init(&sends[i], now.port, NULL);
		proa_prep_send(&sends[i], ours, now.bytes, 10, 0);
		proa_submit(&sends[i], NULL);
	}
	proa_wait(now.port, &c, 1, 0);
	proa_cancel(&sends[1]);
	full_ring(false, true, 0);
	while (proa_op_pending(&sends[1]) && turns++ < 50)
		proa_wait(now.port, &c, 1, 10 * PROA_MILLISECOND);
	if (turns >= 50)
		complain("a cancelled send waits for the pipe", 0);
	if (!proa_op_pending(&sends[0]))
		complain("a send has ended that was not cancelled", 0);
	for (int i = 0; i < ENDS; i++) {
		proa_release(now.port, ends[i][0]);
		proa_discard(now.port, ends[i][0]);
		proa_discard(now.port, ends[i][1]);
	}
	proa_release(now.port, ours);
	proa_discard(now.port, ours);
	close(theirs);
	while (proa_wait(now.port, &c, 1, 0) > 0)
		;
}

static void full_for_a_moment(const char *engine)
{
	struct proa_port_options options = { .engine = engine, .entries = ENDS };

	for (int basic = 0; basic < 2; basic++) {
		if (basic)
			setenv("PROA_URING_OFF", "all", 1);
		if (proa_port_open(&options, &now.port) == 0) {
			full_when_sending();
			full_when_woken();
			proa_port_close(now.port);
		}
		unsetenv("PROA_URING_OFF");
	}
}

/* As the first thing that a process does: a connection is made, and there is no memory to
 * know it by. What the engine knew of its number is nothing to the next. */
static void dial_without_memory(const char *engine)
{
	struct proa_port_options options = { .engine = engine };
	struct sockaddr_in any = { .sin_family = AF_INET };
	int listener = socket(AF_INET, SOCK_STREAM, 0), count = 0;
	struct proa_completion c;
	proa_handle pair[2];
	struct proa_op op;
	int32_t last = 0;

	if (proa_port_open(&options, &now.port) < 0)
		return;
	any.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (bind(listener, (struct sockaddr *)&any, sizeof any) < 0 || listen(listener, 5) < 0 ||
		proa_local_address(listener, &now.address) < 0)
		complain("no listener", errno);
	proa_op_init(&op, now.port, NULL);
	proa_prep_dial(&op, &now.address, 0);
	proa_submit(&op, NULL);
	while (count == 0) {
		shortage(true);
		count = proa_wait(now.port, &c, 1, 2 * PROA_MILLISECOND);
		shortage(false);
	}
	if (count == 1 && c.result >= 0)
		proa_discard(now.port, c.result);
	if (proa_pair(now.port, pair) < 0)
		complain("no pair", 0);
	proa_prep_recv(&op, pair[0], now.bytes, 10, 0);
	proa_submit(&op, NULL);
	proa_wait(now.port, &c, 1, 5 * PROA_MILLISECOND);
	if (write(pair[1], "1", 1) != 1 || taken_of(&op, 1, &last) != 1 || last != 1)
		complain("a receive behind a dial gives", last);
	proa_discard(now.port, pair[0]);
	proa_discard(now.port, pair[1]);
	proa_port_close(now.port);
	close(listener);
}

static void dial_in_a_process_of_its_own(const char *engine)
{
	int status = 0;
	pid_t pid;

	setenv("PROA_ENGINE", engine, 1);
	pid = fork();
	if (pid == 0) {
		dial_without_memory(engine);
		_exit(failures > 0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) < 0 || status != 0)
		complain("a dial without memory gives", status);
}

int main(int argc, char **argv)
{
#ifdef PROA_HAVE_KQUEUE
	static const char *const engines[] = { "kqueue" };
#else
	static const char *const engines[] = { "io_uring", "epoll", "poll", "select" };
#endif
	int passed = 0, failed = 0, before;

	signal(SIGPIPE, SIG_IGN);
	for (size_t i = 0; i < sizeof(engines) / sizeof(engines[0]); i++)
		dial_in_a_process_of_its_own(engines[i]);
	printf("%-8s a dial without memory: %d failures\n", "all", failures);
	passed += failures == 0;
	failed += failures != 0;
	for (size_t i = 0; i < sizeof(engines) / sizeof(engines[0]); i++) {
		if (argc > 1 && strcmp(argv[1], engines[i]) != 0)
			continue;
		setenv("PROA_ENGINE", engines[i], 1);
		before = failures;
		short_for_a_moment(engines[i]);
		full_for_a_moment(engines[i]);
		printf("%-8s memory, the ring, for a moment: %d failures\n", engines[i],
			failures - before);
		passed += failures == before;
		failed += failures != before;
		refusal.kind = KINDS;
		play(engines[i]); /* what the process opens once */
		for (int kind = 0; kind < KINDS * 2; kind++) {
			int n = 1;

			before = failures;
			while (n < 400 &&
				refuse(engines[i], (enum kind)(kind / 2), kind % 2 == 1, n))
				n += kind % 2 == 1 && n > 20 ? 7 : 1;
			if (n == 1) /* the engine makes none of them */
				continue;
			printf("%-8s %s%s: %d refused, %d failures\n", engines[i],
				kind_names[kind / 2], kind % 2 == 1 ? ", from then on" : "", n - 1,
				failures - before);
			fflush(stdout);
			passed += failures == before;
			failed += failures != before;
		}
		before = failures;
		run_short(engines[i]);
		printf("%-8s descriptors: %d failures\n", engines[i], failures - before);
		passed += failures == before;
		failed += failures != before;
	}
	printf("%d passed, %d failed, 0 skipped\n", passed, failed);
	return failed > 0;
}

/* Programs whose every result is determined: what is submitted together is left alone
 * until it has ended, and nothing has a limit in time. So there is one right result for
 * each op, which a few numbers of a model tell, and all engines have to give it. */
#include "posix.h"

#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "random/random.h"

#define ROOM      16384 /* bytes that one direction may hold: no send waits */
#define PIECE     1500
#define TOGETHER  6
#define FILE_ROOM 8192
#define SECONDS   20

/* One direction. Its byte i is always the same. */
struct way {
	proa_handle from, to;
	unsigned id;
	uint64_t sent, read;
	bool is_shut, has_ended;
};

enum kind { PAIR, PIPE };

struct place {
	enum kind kind;
	proa_handle ends[2];
	struct way ways[2]; /* a pipe has the first alone */
};

struct piece {
	struct proa_op op;
	const char *what;
	int32_t result;
	uint32_t flags;
	struct proa_buffer *lent;
	bool ended;
	unsigned char bytes[PIECE];
};

static struct {
	const unsigned char *at, *end;
	struct proa_port *port;
	struct proa_pool *pool;
	struct place places[3];
	struct piece pieces[TOGETHER];
	unsigned ways;
	int sides[2]; /* datagrams */
	int file;
	unsigned char content[FILE_ROOM];
	uint64_t size;
	struct outcome *log;
	size_t logged;
	unsigned ended;
} now;

/* ---- bytes, and what they stand for --------------------------------------------- */

static unsigned next(unsigned below)
{
	unsigned value = 0;

	for (unsigned most = 1; most < below && now.at != now.end; most <<= 8)
		value = value << 8 | *now.at++;
	return value % below;
}

static unsigned char byte_of(const struct way *way, uint64_t at)
{
	return (unsigned char)mix(way->id * UINT64_C(1000003) + at);
}

static uint64_t digest(const unsigned char *bytes, size_t length)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < length; i++)
		sum = mix(sum ^ bytes[i]);
	return sum;
}

/* ---- running ---------------------------------------------------------------------- */

static void done(struct proa_op *op, const struct proa_completion *c)
{
	struct piece *piece = op->data;

	HOLDS(!piece->ended, "%s has a second completion", piece->what);
	piece->result = c->result;
	piece->flags = c->flags & (PROA_MORE | PROA_LENT);
	if (c->flags & PROA_LENT)
		piece->lent = proa_lent(c);
	if ((c->flags & PROA_MORE) == 0) {
		piece->ended = true;
		now.ended++;
	}
}

static struct piece *piece_new(unsigned i, const char *what)
{
	struct piece *piece = &now.pieces[i];

	proa_op_init(&piece->op, now.port, piece);
	piece->what = what;
	piece->ended = false;
	piece->lent = NULL;
	return piece;
}

/* Until all of the first `count` pieces have ended. */
static void run_all(unsigned count)
{
	int64_t until = clock_ns() + SECONDS * PROA_SECOND;

	while (now.ended < count) {
		int n = proa_run_once(now.port, 100 * PROA_MILLISECOND);

		HOLDS(n >= 0, "a turn gives %s", proa_error_name(n));
		for (unsigned i = 0; i < count && clock_ns() > until; i++)
			if (!now.pieces[i].ended)
				hangs("%s does not end", now.pieces[i].what);
	}
	now.ended = 0;
}

static void expect(const struct piece *piece, int32_t result, const unsigned char *bytes)
{
	struct outcome outcome = { piece->what, piece->result, piece->flags,
		proa_op_count(&piece->op), 0 };

	if (bytes != NULL && piece->result > 0)
		outcome.digest = digest(bytes, (size_t)piece->result);
	HOLDS(piece->result == result, "%s gives %d, and not %d", piece->what, piece->result,
		result);
	if (now.logged < OUTCOMES_MOST)
		now.log[now.logged++] = outcome;
}

static void submit(struct piece *piece)
{
	proa_submit(&piece->op, done);
}

/* ---- what the system makes ------------------------------------------------------------ */

#ifdef _WIN32

#	define POLLS_SOCKETS_ALONE true

/* UDP, each connected to the other. */
static bool datagrams_pair(int pair[2])
{
	struct sockaddr_in names[2] = { { .sin_family = AF_INET }, { .sin_family = AF_INET } };
	socklen_t length = sizeof(names[0]);
	bool made = true;

	for (int i = 0; i < 2; i++) {
		names[i].sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		pair[i] = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
		made = made && pair[i] != -1 &&
		       bind(pair[i], (struct sockaddr *)&names[i], length) == 0 &&
		       getsockname(pair[i], (struct sockaddr *)&names[i], &length) == 0;
	}
	for (int i = 0; i < 2; i++)
		made = made && connect(pair[i], (struct sockaddr *)&names[1 - i], length) == 0;
	return made;
}

static int file_unnamed(void)
{
	return posix_memfd();
}

/* A send over TCP ends when the system has the bytes, and the peer has them later. Each result
 * is determined once they are there. (Of a pipe, or of UNIX sockets, they are there at once.) */
static void await_arrival(const struct way *way)
{
	const struct timespec pause = { 0, PROA_MILLISECOND };
	int64_t until = clock_ns() + SECONDS * PROA_SECOND;
	u_long there = 0;

	while (ioctlsocket((SOCKET)way->to, (long)FIONREAD, &there) == 0 &&
		there < way->sent - way->read) {
		HOLDS(clock_ns() < until, "of %llu bytes that were sent %lu have come",
			(unsigned long long)(way->sent - way->read), there);
		nanosleep(&pause, NULL);
	}
}

#else

#	define POLLS_SOCKETS_ALONE false

static bool datagrams_pair(int pair[2])
{
	return socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair) == 0;
}

static int file_unnamed(void)
{
	char path[] = "/tmp/proa-fuzz-XXXXXX";
	int file = mkostemp(path, O_CLOEXEC);

	return file < 0 || unlink(path) < 0 ? -1 : file;
}

static void await_arrival(const struct way *way)
{
	(void)way;
}

#endif

/* ---- streams ------------------------------------------------------------------------ */

static void place_open(struct place *place, enum kind kind)
{
	int fds[2];
	unsigned way = PIPE_WAYS > 2 ? now.ways / 2 % PIPE_WAYS : 0;

	HOLDS((kind == PAIR ? stream_pair(fds, true) : stream_pipe(fds, way)) == 0,
		"no descriptors: %s", strerror(errno));
	/* A pipe's first end is the one to read from. */
	place->kind = kind;
	place->ends[0] = fds[kind == PIPE];
	place->ends[1] = fds[kind != PIPE];
	for (int i = 0; i < 2; i++)
		place->ways[i] = (struct way) {
			.from = place->ends[i], .to = place->ends[1 - i], .id = now.ways++
		};
}

static void place_close(struct place *place)
{
	for (unsigned i = 0; i < 2; i++) {
		struct piece *piece = piece_new(i, "close");

		proa_prep_close(&piece->op, place->ends[i], 0);
		submit(piece);
	}
	run_all(2);
	for (unsigned i = 0; i < 2; i++)
		expect(&now.pieces[i], 0, NULL);
}

static struct way *way_any(void)
{
	struct place *place = &now.places[next(3)];

	return &place->ways[place->kind == PIPE ? 0 : next(2)];
}

static bool is_pipe(const struct way *way)
{
	return now.places[2].ways == way;
}

/* Several sends at once, of two kinds; some in a chain. */
static void send_some(struct way *way)
{
	unsigned count = 1 + next(TOGETHER - 1);
	int32_t expected[TOGETHER];
	struct proa_slice slices[TOGETHER][2];
	bool links = next(4) == 0;

	for (unsigned i = 0; i < count; i++) {
		size_t length = 1 + next(PIECE);
		bool vector = next(3) == 0;
		struct piece *piece = piece_new(i, vector ? "sendv" : "send");

		if (way->sent + length > way->read + ROOM)
			length = 1;
		for (size_t k = 0; k < length; k++)
			piece->bytes[k] = byte_of(way, way->sent + k);
		slices[i][0] = (struct proa_slice) { .data = piece->bytes, .length = length / 2 };
		slices[i][1] = (struct proa_slice) { .data = piece->bytes + length / 2,
			.length = length - length / 2 };
		if (vector)
			proa_prep_sendv(&piece->op, way->from, slices[i], 2, 0);
		else
			proa_prep_send(&piece->op, way->from, piece->bytes, length, 0);
		expected[i] = (int32_t)length;
		if (way->is_shut)
			expected[i] = i == 0 ? PROA_EPIPE : PROA_ECANCELED;
		else
			way->sent += length;
		if (links && i > 0)
			proa_link(&now.pieces[i - 1].op, &piece->op, done);
	}
	submit(&now.pieces[0]);
	for (unsigned i = 1; i < count && !links; i++)
		submit(&now.pieces[i]);
	run_all(count);
	for (unsigned i = 0; i < count; i++)
		expect(&now.pieces[i], expected[i], NULL);
	await_arrival(way);
}

static void check_bytes(
	struct way *way, const struct piece *piece, const unsigned char *bytes, uint32_t flags)
{
	for (int32_t i = 0; i < piece->result; i++)
		HOLDS(bytes[i] == byte_of(way, way->read + (uint64_t)i),
			"%s: byte %d is not the one that was sent", piece->what, i);
	if (piece->result > 0 && (flags & PROA_PEEK) == 0)
		way->read += (uint64_t)piece->result;
}

/* What a receive of `length` bytes gives, or PROA_ECANCELED: it waits. */
static int32_t receive_expected(const struct way *way, size_t length, bool all)
{
	uint64_t there = way->sent - way->read;

	if (there >= length || (there > 0 && !all) || way->is_shut)
		return (int32_t)(there < length ? there : length);
	return PROA_ECANCELED;
}

static void receive_one(struct way *way)
{
	static const uint32_t ways[] = { 0, PROA_ALL, PROA_PEEK, 0 };
	uint32_t flags = ways[next(4)];
	size_t length = 1 + next(PIECE);
	struct piece *piece;
	int32_t expected;

	if (is_pipe(way) && flags == PROA_PEEK)
		flags = 0;
	expected = receive_expected(way, length, flags == PROA_ALL);
	/* One that waits with some of its bytes would take them along. */
	if (expected == PROA_ECANCELED && way->sent > way->read)
		return;
	piece = piece_new(0, flags == PROA_ALL    ? "recv of all"
			     : flags == PROA_PEEK ? "peek"
						  : "recv");
	proa_prep_recv(&piece->op, way->to, piece->bytes, length, flags);
	submit(piece);
	if (expected == PROA_ECANCELED) {
		proa_run_once(now.port, 0);
		proa_cancel(&piece->op);
	}
	run_all(1);
	expect(piece, expected, piece->bytes);
	check_bytes(way, piece, piece->bytes, flags);
}

static void receive_lent(struct way *way)
{
	struct piece *piece = piece_new(0, "recv_lent");
	int32_t expected = receive_expected(way, 256, false);

	proa_prep_recv_lent(&piece->op, way->to, now.pool, 0);
	submit(piece);
	if (expected == PROA_ECANCELED)
		proa_cancel(&piece->op);
	run_all(1);
	HOLDS((piece->lent != NULL) == (expected > 0), "a receive of %d lends %s", expected,
		piece->lent != NULL ? "a buffer" : "nothing");
	expect(piece, expected, piece->lent != NULL ? piece->lent->data : NULL);
	if (piece->lent != NULL) {
		check_bytes(way, piece, piece->lent->data, 0);
		proa_give_back(piece->lent);
	}
}

static void shut_one(struct way *way, const struct place *place)
{
	struct piece *piece = piece_new(0, "shutdown");

	if (place->kind == PIPE)
		return;
	proa_prep_shutdown(&piece->op, way->from);
	submit(piece);
	run_all(1);
	expect(piece, 0, NULL);
	way->is_shut = true;
}

static void poll_one(const struct way *way)
{
	struct piece *piece = piece_new(0, "poll");
	bool there = way->sent > way->read || way->is_shut;
	bool lacks = POLLS_SOCKETS_ALONE && is_pipe(way);

	proa_prep_poll(&piece->op, way->to, PROA_READABLE);
	submit(piece);
	if (!there && !lacks) {
		proa_run_once(now.port, 0);
		proa_cancel(&piece->op);
	}
	run_all(1);
	if (there && !lacks) /* a hang-up may be told beside it */
		piece->result &= PROA_READABLE;
	expect(piece,
		lacks   ? PROA_EOPNOTSUPP
		: there ? (int32_t)PROA_READABLE
			: PROA_ECANCELED,
		NULL);
}

/* ---- the rest ----------------------------------------------------------------------- */

/* A datagram and its receive, with more or less room than it needs. */
static void datagram(void)
{
	struct piece *sent = piece_new(0, "sendto"), *got = piece_new(1, "recvfrom");
	unsigned from = next(2);
	size_t length = next(PIECE), room = 1 + next(PIECE);
	bool cut = room < length;

	for (size_t i = 0; i < length; i++)
		sent->bytes[i] = (unsigned char)(i * 7 + length);
	proa_prep_sendto(&sent->op, now.sides[from], sent->bytes, length, NULL, 0);
	proa_prep_recvfrom(&got->op, now.sides[1 - from], got->bytes, room, NULL, 0);
	if (next(2) == 0) {
		submit(got);
		submit(sent);
	} else {
		submit(sent);
		submit(got);
	}
	run_all(2);
	expect(sent, (int32_t)length, NULL);
	expect(got, cut ? PROA_EMSGSIZE : (int32_t)length, got->bytes);
	HOLDS(memcmp(sent->bytes, got->bytes, cut ? room : length) == 0, "a datagram has changed");
}

static void file_write(void)
{
	struct piece *piece = piece_new(0, "write");
	size_t length = 1 + next(PIECE);
	uint64_t offset = next(FILE_ROOM - PIECE);

	for (size_t i = 0; i < length; i++)
		piece->bytes[i] = (unsigned char)(i + offset + now.logged);
	proa_prep_write(&piece->op, now.file, piece->bytes, length, offset);
	submit(piece);
	run_all(1);
	expect(piece, (int32_t)length, NULL);
	memcpy(now.content + offset, piece->bytes, length);
	if (offset + length > now.size)
		now.size = offset + length;
}

static void file_read(void)
{
	struct piece *piece = piece_new(0, "read");
	size_t length = 1 + next(PIECE);
	uint64_t offset = next(FILE_ROOM), there = offset < now.size ? now.size - offset : 0;
	int32_t expected = (int32_t)(there < length ? there : length);

	proa_prep_read(&piece->op, now.file, piece->bytes, length, offset);
	submit(piece);
	run_all(1);
	expect(piece, expected, piece->bytes);
	HOLDS(memcmp(piece->bytes, now.content + offset, (size_t)expected) == 0,
		"a read gives other bytes than were written");
}

static int32_t job(void *argument)
{
	return *(int32_t *)argument;
}

/* A chain: a timer, a job that may fail, and a post of the chain's own port. */
static void chain(void)
{
	static int32_t value;
	struct piece *timer = piece_new(0, "timer"), *work = piece_new(1, "job"),
		     *last = piece_new(2, "timer behind the job");

	value = next(2) == 0 ? (int32_t)next(1000) : PROA_EIO;
	proa_prep_timer(&timer->op, (int64_t)next(100));
	proa_prep_work(&work->op, job, &value);
	proa_prep_timer(&last->op, 0);
	proa_link(&timer->op, &work->op, done);
	proa_link(&work->op, &last->op, done);
	submit(timer);
	run_all(3);
	expect(timer, 0, NULL);
	expect(work, value, NULL);
	expect(last, value < 0 ? PROA_ECANCELED : 0, NULL);
}

static void post(void)
{
	unsigned count = 1 + next(TOGETHER);

	for (unsigned i = 0; i < count; i++)
		proa_post(now.port, &piece_new(i, "post")->op, (int32_t)(i + 5), done);
	run_all(count);
	for (unsigned i = 0; i < count; i++)
		expect(&now.pieces[i], (int32_t)(i + 5), NULL);
}

static void step(void)
{
	unsigned what = next(32);
	struct place *place = &now.places[next(3)];
	struct way *way = way_any();

	if (what < 9)
		send_some(way);
	else if (what < 15)
		receive_one(way);
	else if (what < 20)
		receive_lent(way);
	else if (what == 20)
		shut_one(&place->ways[next(2)], place);
	else if (what == 21)
		poll_one(way);
	else if (what < 24)
		datagram();
	else if (what < 26)
		file_write();
	else if (what < 28)
		file_read();
	else if (what == 28)
		chain();
	else if (what < 31)
		post();
	else {
		place_close(place);
		place_open(place, place->kind);
	}
}

size_t determined_run(const char *engine, const unsigned char *bytes, size_t length,
	const char *replay, struct outcome *log)
{
	struct proa_pool_options options = { .buffer_size = 256, .count = 2, .limit = 4 };
	int n;

	memset(&now, 0, sizeof(now));
	world_begin(&(struct world) { .engine = engine, .replay = replay });
	now.at = bytes;
	now.end = bytes + length;
	now.log = log;
	now.file = file_unnamed();
	HOLDS(now.file != -1, "no file: %s", strerror(errno));
	HOLDS(datagrams_pair(now.sides), "no datagrams: %s", strerror(errno));
	n = proa_port_open(NULL, &now.port);
	HOLDS(n == 0, "no port: %s", proa_port_open_why());
	n = proa_pool_open(now.port, &options, &now.pool);
	HOLDS(n == 0, "no pool");
	for (unsigned i = 0; i < 3; i++)
		place_open(&now.places[i], i < 2 ? PAIR : PIPE);
	while (now.at != now.end)
		step();
	for (unsigned i = 0; i < 3; i++)
		place_close(&now.places[i]);
	proa_release(now.port, now.file);
	proa_release(now.port, now.sides[0]);
	proa_release(now.port, now.sides[1]);
	close(now.file);
	close(now.sides[0]);
	close(now.sides[1]);
	proa_pool_close(now.pool);
	n = proa_port_close(now.port);
	HOLDS(n == 0, "the port's close gives %d", n);
	return now.logged;
}

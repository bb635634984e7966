/* Streams: sends, receives and ends of both directions of many pairs, and the
 * model of the bytes between them.
 *
 * A send's bytes are those of the channel's pattern from the place where the
 * send stands if all before it are taken. When one fails after `count` bytes,
 * the next place is right behind those; all that were queued behind it must end
 * without a byte. So whatever happens, the reader must see the pattern. */
#include "posix.h"
#include "random.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ENDS_MOST  96
#define ALIVE_MOST 12

static struct end ends[ENDS_MOST];
static struct channel channels[ENDS_MOST];
static unsigned end_count, channel_count;

proa_handle end_handle_of_task(const struct task *task)
{
	return task->end != NULL ? task->end->handle : PROA_NO_HANDLE;
}

bool end_gone(const struct end *end)
{
	return end->is_closing || end->may_close || end->is_closed;
}

unsigned streams_alive(void)
{
	unsigned alive = 0;

	for (unsigned i = 0; i < end_count; i++)
		alive += !end_gone(&ends[i]);
	return alive;
}

struct end *end_any(void)
{
	for (unsigned tries = 0; end_count > 0 && tries < 20; tries++) {
		struct end *end = &ends[choose(end_count)];

		if (!end_gone(end))
			return end;
	}
	return NULL;
}

/* What wine does otherwise than Windows is let pass, where it is known. */
static bool on_wine(void)
{
#ifdef _WIN32
	return posix_is_wine();
#else
	return false;
#endif
}

/* ---- making pairs ----------------------------------------------------------- */

static struct channel *channel_new(struct end *from, struct end *to, bool exact)
{
	struct channel *channel = &channels[channel_count];
	uint64_t *words;

	channel->id = channel_count++;
	channel->from = from;
	channel->to = to;
	channel->is_exact = exact;
	channel->file = -1;
	words = malloc(CHANNEL_MOST);
	if (words == NULL)
		abort();
	for (uint64_t i = 0; i < CHANNEL_MOST / sizeof(*words); i++)
		words[i] = mix(mix(world.seed + channel->id) + i);
	channel->pattern = (unsigned char *)words;
	from->out = channel;
	to->in = channel;
	return channel;
}

void stream_adopt(proa_handle one, proa_handle other, bool is_socket, bool duplex, bool exact)
{
	struct end *a = &ends[end_count], *b = &ends[end_count + 1];

	end_count += 2;
	a->handle = one;
	b->handle = other;
	a->peer = b;
	b->peer = a;
	a->is_socket = b->is_socket = is_socket;
	channel_new(a, b, exact);
	if (duplex)
		channel_new(b, a, exact);
	trace("a pair: %lld, %lld%s", (long long)one, (long long)other, is_socket ? "" : " (pipe)");
}

/* What was sent into a window that is taken back is dropped, and TCP crawls from timer to
 * timer: there is always room for a segment of loopback's, 64 KiB. */
static void make_small(int socket)
{
	int least = 4096, segment = 65536;

	setsockopt(socket, SOL_SOCKET, SO_SNDBUF, &least, sizeof(least));
	setsockopt(socket, SOL_SOCKET, SO_RCVBUF, &segment, sizeof(segment));
}

int stream_pair(int pair[2], bool blocks)
{
#ifdef _WIN32
	int error = posix_pair(pair);

	for (int i = 0; i < 2 && error == 0 && !blocks; i++)
		error = fcntl(pair[i], F_SETFL, O_NONBLOCK);
	return error;
#else
	return socketpair(
		AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | (blocks ? 0 : SOCK_NONBLOCK), 0, pair);
#endif
}

int stream_pipe(int pair[2], unsigned way)
{
#ifdef _WIN32
	return way == 2 ? pipe2(pair, 0) : posix_pipe_overlapped(pair, (int)way);
#else
	return pipe2(pair, O_CLOEXEC | (way == 0 ? 0 : O_NONBLOCK));
#endif
}

/* Whose first op ties it; it may block. */
static void foreign_pair(proa_handle out[2])
{
	int pair[2];

	HOLDS(stream_pair(pair, !chance(50)) == 0, "a pair of sockets: %s", strerror(errno));
	out[0] = pair[0];
	out[1] = pair[1];
}

static void foreign_pipe(proa_handle out[2])
{
	int pair[2];
	unsigned way = PIPE_WAYS > 2 ? (unsigned)choose(PIPE_WAYS) : chance(50);

	HOLDS(stream_pipe(pair, way) == 0, "a pipe: %s", strerror(errno));
	out[0] = pair[1];
	out[1] = pair[0];
}

static void open_sockets(void)
{
	proa_handle pair[2];
	bool exact = true;
	int error;

	if (chance(50)) {
		error = proa_pair(world.port, pair);
		HOLDS(error == 0, "proa_pair() gives %s", proa_error_name(error));
	} else {
		foreign_pair(pair);
	}
	if (chance(40))
		make_small((int)(chance(50) ? pair[0] : pair[1]));
#ifdef _WIN32
	exact = false; /* of TCP: a close with something unread is a reset */
#endif
	stream_adopt(pair[0], pair[1], true, true, exact);
}

static void open_pipe(void)
{
	proa_handle pair[2];
	int error;

	if (chance(50)) {
		error = proa_pipe(world.port, 0, &pair[0], &pair[1]);
		HOLDS(error == 0, "proa_pipe() gives %s", proa_error_name(error));
	} else {
		foreign_pipe(pair);
	}
	if (chance(40))
		fcntl((int)pair[0], F_SETPIPE_SZ, 4096);
	stream_adopt(pair[0], pair[1], false, false, true);
}

static void open_tcp(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	socklen_t length = sizeof(address);
	int listener = socket(AF_INET, SOCK_STREAM, 0), one, other;

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	one = socket(AF_INET, SOCK_STREAM, 0);
	HOLDS(listener >= 0 && one >= 0 &&
			bind(listener, (struct sockaddr *)&address, length) == 0 &&
			listen(listener, 1) == 0 &&
			getsockname(listener, (struct sockaddr *)&address, &length) == 0 &&
			connect(one, (struct sockaddr *)&address, length) == 0,
		"a TCP pair: %s", strerror(errno));
	other = accept(listener, NULL, NULL);
	HOLDS(other >= 0, "accept: %s", strerror(errno));
	close(listener);
	if (chance(40))
		make_small(chance(50) ? one : other);
	stream_adopt(one, other, true, true, false);
}

static void open_one(void)
{
	unsigned what = (unsigned)choose(100);

	if (what < 40)
		open_sockets();
	else if (what < 60)
		open_pipe();
	else
		open_tcp();
}

bool streams_have_room(void)
{
	return end_count + 16 <= ENDS_MOST && channel_count + 16 <= ENDS_MOST &&
	       streams_alive() < ALIVE_MOST;
}

void stream_open(void)
{
	unsigned pairs = 2 + (unsigned)choose(3);

	memset(ends, 0, sizeof(ends));
	memset(channels, 0, sizeof(channels));
	end_count = channel_count = 0;
	while (pairs-- > 0)
		open_one();
}

static void open_more(void)
{
	if (streams_have_room() && (streams_alive() < 4 || chance(3)))
		open_one();
}

/* ---- the send lane ---------------------------------------------------------- */

/* The oldest task in flight that stands before `task` in its lane. */
static struct task *lane_before(const struct task *task)
{
	struct task *other;

	FOR_TASKS(other)
	if (other->channel == task->channel && other->is_send == task->is_send &&
		other->is_receive == task->is_receive && other->serial < task->serial &&
		!other->is_doomed)
		return other;
	return NULL;
}

static unsigned lane_length(const struct channel *channel, bool sends)
{
	struct task *other;
	unsigned count = 0;

	FOR_TASKS(other)
	count += other->channel == channel && (sends ? other->is_send : other->is_receive);
	return count;
}

bool channel_is_idle(const struct channel *channel)
{
	return channel->owner == NULL && lane_length(channel, true) == 0;
}

/* It has failed: what is queued behind it must fail, having sent nothing. */
static void lane_doom(const struct task *task)
{
	struct task *other;

	FOR_TASKS(other)
	if (other->channel == task->channel && other->is_send && other->serial > task->serial &&
		!other->is_after_close)
		other->is_doomed = true;
}

static void judge_sent(struct task *task, int32_t result, uint64_t count)
{
	struct channel *channel = task->channel;

	HOLDS(!task->is_doomed, "#%llu %s has sent behind one that failed",
		(unsigned long long)task->serial, task->what);
	HOLDS(lane_before(task) == NULL, "#%llu %s has overtaken #%llu in its lane",
		(unsigned long long)task->serial, task->what,
		(unsigned long long)lane_before(task)->serial);
	HOLDS(!channel->is_shut || task->length == 0, "#%llu %s has sent after a shutdown",
		(unsigned long long)task->serial, task->what);
	HOLDS(count == (uint64_t)result, "#%llu %s gives %d, but its count is %llu",
		(unsigned long long)task->serial, task->what, result, (unsigned long long)count);
	if (task->flags & PROA_SOME) {
		HOLDS(result > 0 && (size_t)result <= task->length, "a short send of %zu gives %d",
			task->length, result);
		channel->next = task->start + count;
	} else {
		HOLDS((size_t)result == task->length, "#%llu %s of %zu bytes gives %d",
			(unsigned long long)task->serial, task->what, task->length, result);
	}
}

static void judge_unsent(struct task *task, int32_t result, uint64_t count)
{
	if (task->is_doomed) {
		HOLDS(count == 0, "#%llu %s was queued behind a failure and sent %llu bytes",
			(unsigned long long)task->serial, task->what, (unsigned long long)count);
		HOLDS(result == PROA_ECANCELED || result == PROA_ETIMEDOUT,
			"#%llu %s was queued behind a failure and gives %s",
			(unsigned long long)task->serial, task->what, proa_error_name(result));
		return;
	}
	HOLDS(count == 0 || count < task->length, "#%llu %s sent all %zu bytes and gives %s",
		(unsigned long long)task->serial, task->what, task->length,
		proa_error_name(result));
	HOLDS(count == 0 || lane_before(task) == NULL,
		"#%llu %s has sent %llu bytes before #%llu had ended",
		(unsigned long long)task->serial, task->what, (unsigned long long)count,
		(unsigned long long)lane_before(task)->serial);
	if (task->is_after_close) {
		HOLDS(count == 0, "#%llu %s behind a close has sent",
			(unsigned long long)task->serial, task->what);
		return;
	}
	task->channel->next = task->start + count;
	lane_doom(task);
}

/* A chain has the channel until none of its sends is in flight: the last may be
 * cancelled before the others have begun. */
static void release_channel(const struct task *task)
{
	struct channel *channel = task->channel;
	struct task *other;

	if (channel->owner != task)
		return;
	channel->owner = NULL;
	FOR_TASKS(other)
	if (other != task && other->channel == channel && other->is_send && other->is_linked)
		channel->owner = other;
}

static void judge_send(struct task *task, const struct proa_completion *c)
{
	uint64_t count = proa_op_count(task->op);

	HOLDS(c->flags == 0, "a send's completion is marked %x", c->flags);
	if (c->result >= 0)
		judge_sent(task, c->result, count);
	else
		judge_unsent(task, c->result, count);
	release_channel(task);
	if (task->buffer != NULL)
		lend_untake(task->pool, task->buffer);
}

static void judge_shutdown(struct task *task, const struct proa_completion *c)
{
	if (c->result >= 0) {
		HOLDS(c->result == 0, "a shutdown gives %d", c->result);
		HOLDS(!task->is_doomed, "a shutdown took effect behind a send that failed");
		HOLDS(lane_before(task) == NULL, "a shutdown has overtaken #%llu",
			(unsigned long long)lane_before(task)->serial);
		task->channel->is_shut = true;
	} else if (!task->is_doomed && !task->is_after_close) {
		task->channel->next = task->start;
		lane_doom(task);
	}
	release_channel(task);
}

/* Cuts the task's bytes into up to five slices, some of them empty. */
static void send_sliced(struct task *task, unsigned char *bytes)
{
	size_t count = 1 + (size_t)choose(5), done = 0;

	task->slices = calloc(count, sizeof(*task->slices));
	if (task->slices == NULL)
		abort();
	for (size_t i = 0; i < count; i++) {
		size_t piece = i + 1 == count ? task->length - done
					      : (size_t)choose(task->length - done + 1);

		task->slices[i].data = bytes + done;
		task->slices[i].length = piece;
		done += piece;
	}
	task->what = "sendv";
	proa_prep_sendv(task->op, task->end->handle, task->slices, count, task->flags);
}

static void send_from_file(struct task *task)
{
	struct channel *channel = task->channel;

	if (channel->file < 0) {
		channel->file = memfd_create("pattern", MFD_CLOEXEC);
		HOLDS(channel->file >= 0 && write(channel->file, channel->pattern, CHANNEL_MOST) ==
						    CHANNEL_MOST,
			"a file for sendfile: %s", strerror(errno));
	}
	task->range = malloc(sizeof(*task->range));
	if (task->range == NULL)
		abort();
	*task->range = (struct proa_range) { channel->file, task->start, task->length };
	task->what = "sendfile";
	proa_prep_sendfile(task->op, task->end->handle, task->range, task->flags);
}

/* From a buffer of a pool, by the buffer's own op. */
static bool send_from_buffer(struct task *task)
{
	struct proa_buffer *buffer = lend_take(&task->pool);

	if (buffer == NULL)
		return false;
	if (task->length > buffer->size)
		task->length = buffer->size;
	memcpy(buffer->data, task->channel->pattern + task->start, task->length);
	buffer->length = (uint32_t)task->length;
	task_use_buffer(task, buffer);
	task->what = "send of a buffer";
	proa_prep_send(task->op, task->end->handle, buffer->data, task->length, task->flags);
	return true;
}

static void send_prepare(struct task *task)
{
	unsigned kind = (unsigned)choose(100);

	if (kind < 15 && task->length > 0) {
		send_from_file(task);
		return;
	}
	if (kind < 25 && task->length > 0 && send_from_buffer(task))
		return;
	/* In memory of its own, which is scribbled on when it has been sent. */
	task->bytes = malloc(task->length + 1);
	if (task->bytes == NULL)
		abort();
	memcpy(task->bytes, task->channel->pattern + task->start, task->length);
	if (kind < 45)
		send_sliced(task, task->bytes);
	else
		proa_prep_send(task->op, task->end->handle, task->bytes, task->length, task->flags);
}

struct task *send_task(struct end *end, size_t length)
{
	struct channel *channel = end->out;
	struct task *task;

	if (length > CHANNEL_MOST - channel->next)
		length = (size_t)(CHANNEL_MOST - channel->next);
	task = task_new("send", judge_send, end);
	task->channel = channel;
	task->is_send = true;
	task->start = channel->next;
	task->length = length;
	if (end->is_socket && chance(8))
		task->flags = PROA_CORK;
	if (length > 0 && chance(4) && channel_is_idle(channel)) {
		task->flags = PROA_SOME;
		channel->owner = task;
	}
	send_prepare(task);
	if (!end->is_closing)
		channel->next += task->length;
	return task;
}

static size_t some_length(void)
{
	unsigned what = (unsigned)choose(100);

	if (what < 2)
		return 0;
	if (what < 45)
		return 1 + (size_t)choose(100);
	return 1 + (size_t)choose(what < 90 ? 6000 : 60000);
}

void stream_send(struct end *end)
{
	struct task *task;

	open_more();
	if (end->out == NULL)
		end = end->peer;
	if (end_gone(end) || end->out->owner != NULL || end->out->next == CHANNEL_MOST)
		return;
	task = send_task(end, some_length());
	task_limit(task);
	task_submit(task);
}

struct task *shutdown_task(struct end *end)
{
	struct task *task = task_new("shutdown", judge_shutdown, end);

	task->channel = end->out;
	task->is_send = true;
	task->start = end->out->next;
	proa_prep_shutdown(task->op, end->handle);
	if (!end->is_closing)
		end->out->shut_asked = true;
	return task;
}

void stream_shutdown(struct end *end)
{
	if (end->out == NULL || end->out->owner != NULL || !end->is_socket)
		return;
	task_submit(shutdown_task(end));
}

/* ---- the receive lane ------------------------------------------------------- */

static void check_bytes(struct task *task, const unsigned char *bytes, uint64_t length)
{
	struct channel *channel = task->channel;
	uint64_t i = 0;

	/* A close takes lent bytes back that were on their way, and leaves a gap. */
	if (length == 0 || end_gone(task->end))
		return;
	HOLDS(lane_before(task) == NULL, "#%llu %s has got bytes before #%llu",
		(unsigned long long)task->serial, task->what,
		(unsigned long long)lane_before(task)->serial);
	HOLDS(!channel->has_ended, "#%llu %s gets bytes after the end of the stream",
		(unsigned long long)task->serial, task->what);
	HOLDS(channel->read + length <= channel->next,
		"#%llu %s: %llu bytes have come, and %llu have been sent at most",
		(unsigned long long)task->serial, task->what,
		(unsigned long long)(channel->read + length), (unsigned long long)channel->next);
	while (i < length && bytes[i] == channel->pattern[channel->read + i])
		i++;
	HOLDS(i == length, "#%llu %s: byte %llu of the stream (%llu of %llu here) is wrong",
		(unsigned long long)task->serial, task->what,
		(unsigned long long)(channel->read + i), (unsigned long long)i,
		(unsigned long long)length);
	if ((task->flags & PROA_PEEK) == 0)
		channel->read += length;
}

/* End of stream, or an error that is the connection's. */
static void judge_end(struct task *task, int32_t result)
{
	struct channel *channel = task->channel;

	if (result == 0) {
		HOLDS(channel->shut_asked || end_gone(channel->from) || channel->has_ended,
			"#%llu %s: the end of a stream that nobody has ended",
			(unsigned long long)task->serial, task->what);
		HOLDS(lane_before(task) == NULL, "#%llu %s has got the end of stream before #%llu",
			(unsigned long long)task->serial, task->what,
			(unsigned long long)lane_before(task)->serial);
		if (!channel->has_ended)
			channel->ended_well = !end_gone(channel->to) &&
					      (channel->is_exact || !end_gone(channel->from));
		channel->has_ended = true;
	} else if (result == PROA_EPIPE || result == PROA_ECONNRESET || result == PROA_ENOTCONN) {
		/* Wine may tell a receive of a reset before the bytes that came ahead of
		 * it: they are there for the next. Windows drops them. */
		channel->has_ended = !system_fails() && !on_wine();
	}
}

static void judge_lent(struct task *task, const struct proa_completion *c)
{
	struct proa_buffer *buffer = proa_lent(c);

	HOLDS(buffer != NULL, "a completion is marked as lending, and lends nothing");
	HOLDS(c->result > 0 && buffer->length == (uint32_t)c->result &&
			buffer->length <= buffer->size && buffer->size == task->pool->size,
		"a lent buffer of %u has %u bytes, and the result is %d", buffer->size,
		buffer->length, c->result);
	HOLDS(!task->end->is_closing, "#%llu %s lends a buffer while its handle closes",
		(unsigned long long)task->serial, task->what);
	check_bytes(task, buffer->data, buffer->length);
	lend_hold(task->pool, buffer, task->end,
		task->is_cancelled || task->earliest != PROA_FOREVER || world.is_shut);
}

static void judge_receive_lent(struct task *task, const struct proa_completion *c)
{
	bool is_multi = task->number != 0, is_final = (c->flags & PROA_MORE) == 0;

	if (c->flags & PROA_LENT) {
		HOLDS(is_multi != is_final, "#%llu %s lends in the wrong kind of completion",
			(unsigned long long)task->serial, task->what);
		judge_lent(task, c);
		return;
	}
	HOLDS(proa_lent(c) == NULL, "proa_lent() gives a buffer that is not lent");
	HOLDS(is_final && c->result <= 0, "#%llu %s gives %d without a buffer",
		(unsigned long long)task->serial, task->what, c->result);
	judge_end(task, c->result);
}

static void judge_receive(struct task *task, const struct proa_completion *c)
{
	uint64_t count = proa_op_count(task->op);

	HOLDS(c->flags == 0, "a receive's completion is marked %x", c->flags);
	HOLDS(c->result < 0 || count == (uint64_t)c->result, "#%llu %s gives %d and counts %llu",
		(unsigned long long)task->serial, task->what, c->result, (unsigned long long)count);
	HOLDS(count <= task->length, "#%llu %s has room for %zu bytes and counts %llu",
		(unsigned long long)task->serial, task->what, task->length,
		(unsigned long long)count);
	check_bytes(task, task->bytes, count);
	if ((task->flags & PROA_ALL) && c->result > 0 && (size_t)c->result < task->length)
		judge_end(task, 0);
	else
		judge_end(task, c->result);
}

static void receive_prepare_lent(struct task *task, bool multi)
{
	task->pool = pool_any();
	task->judge = judge_receive_lent;
	task->number = multi;
	task->what = multi ? "recv_multi" : "recv_lent";
	if (multi)
		proa_prep_recv_multi(task->op, task->end->handle, task->pool->pool, 0);
	else
		proa_prep_recv_lent(task->op, task->end->handle, task->pool->pool, 0);
}

struct task *receive_task(struct end *end)
{
	struct task *task = task_new("recv", judge_receive, end);
	unsigned kind = (unsigned)choose(100);

	task->channel = end->in;
	task->is_receive = true;
	if (kind < 40) {
		receive_prepare_lent(task, kind < 15);
		return task;
	}
	task->length = 1 + (size_t)choose(chance(50) ? 200 : 20000);
	task->bytes = calloc(1, task->length);
	if (task->bytes == NULL)
		abort();
	if (kind < 55) {
		task->flags = PROA_ALL;
		task->what = "recv of all";
	} else if (kind < 60 && end->is_socket) {
		task->flags = PROA_PEEK;
		task->what = "peek";
	}
	proa_prep_recv(task->op, end->handle, task->bytes, task->length, task->flags);
	return task;
}

void stream_receive(struct end *end)
{
	struct task *task;

	if (end->in == NULL)
		end = end->peer;
	if (end_gone(end) || lane_length(end->in, false) > 6)
		return;
	task = receive_task(end);
	task_limit(task);
	task_submit(task);
}

/* ---- polls, cancels, closes --------------------------------------------------- */

static void judge_poll(struct task *task, const struct proa_completion *c)
{
	uint32_t events = task->flags | PROA_HANGUP;

	HOLDS(c->flags == 0, "a poll's completion is marked %x", c->flags);
	if (c->result >= 0)
		HOLDS(c->result > 0 && ((uint32_t)c->result & ~events) == 0,
			"a poll for %x gives %x", task->flags, (unsigned)c->result);
}

void stream_poll(struct end *end)
{
	struct task *task;

#ifdef _WIN32
	if (!end->is_socket)
		return; /* Windows polls sockets alone */
#endif
	task = task_new("poll", judge_poll, end);
	task->flags = chance(50) ? PROA_READABLE : PROA_WRITABLE;
	proa_prep_poll(task->op, end->handle, task->flags);
	task_limit(task);
	task_submit(task);
}

void cancel_end(struct end *end)
{
	struct task *task;

	trace("cancel all on %lld", (long long)end->handle);
	FOR_TASKS(task)
	if (task->end == end && !task->is_unstoppable)
		task->is_cancelled = true;
	world.in_call = true;
	proa_cancel_handle(world.port, end->handle);
	world.in_call = false;
}

static void judge_close(struct task *task, const struct proa_completion *c)
{
	struct end *end = task->end;

	HOLDS(c->flags == 0 && c->result == 0, "a close of %lld gives %d", (long long)end->handle,
		c->result);
	HOLDS(end->busy == 0, "the close of %lld has completed before %u other ops of it",
		(long long)end->handle, end->busy);
	end->is_closing = true;
	end->is_closed = true;
}

struct task *close_task(struct end *end, uint32_t flags)
{
	struct task *task =
		task_new(flags & PROA_FLUSH ? "flushing close" : "close", judge_close, end);

	task->is_close = true;
	proa_prep_close(task->op, end->handle, flags);
	return task;
}

/* What is submitted behind a close has to fail, and before it. At once: later
 * the number might be another's. */
static void submit_behind(struct end *end)
{
	unsigned what = (unsigned)choose(3);

	if (what == 0 && end->out != NULL && end->out->next < CHANNEL_MOST)
		task_submit(send_task(end, 1 + (size_t)choose(1000)));
	else if (what == 1 && end->in != NULL)
		task_submit(receive_task(end));
	else
		stream_poll(end);
}

void end_close(struct end *end, uint32_t flags, int64_t timeout)
{
	struct task *task;

	if (end_gone(end))
		return;
	task = close_task(end, flags);
	if (timeout != PROA_FOREVER)
		proa_op_timeout(task->op, timeout);
	end->is_closing = true;
	end->is_flushing = flags != 0 && timeout == PROA_FOREVER;
	task_submit(task);
	if (!world.is_winding_down && chance(30))
		submit_behind(end);
}

/* ---- the end ------------------------------------------------------------------ */

/* Reads what is left, one receive at a time. */
static void finish_reading(struct end *end)
{
	struct task *task;

	if (end->in == NULL || end->in->has_ended || lane_length(end->in, false) > 0)
		return;
	task = task_new("last recv", judge_receive, end);
	task->channel = end->in;
	task->is_receive = true;
	task->length = 16384;
	task->bytes = calloc(1, task->length);
	if (task->bytes == NULL)
		abort();
	proa_prep_recv(task->op, end->handle, task->bytes, task->length, 0);
	task_submit(task);
}

static void finish_writing(struct end *end)
{
	struct channel *channel = end->out;

	if (channel == NULL || channel->is_shut || channel->owner != NULL ||
		lane_length(channel, true) > 0 || !end->is_socket)
		return;
	/* It can't be shut when the other end is gone. */
	if (channel->shut_asked && end_gone(end->peer))
		channel->is_shut = true;
	else
		task_submit(shutdown_task(end));
}

static bool is_finished(const struct end *end)
{
	if (end->in != NULL && !end->in->has_ended)
		return false;
	if (end->out == NULL)
		return true;
	return lane_length(end->out, true) == 0 && (end->out->is_shut || !end->is_socket) &&
	       end->out->owner == NULL;
}

/* Under wine 8 a TransmitFile() that waits for room never ends when the peer closes. */
static void help_wine(struct end *end)
{
	struct task *task;

	if (!end->peer->is_closed || !on_wine() || strcmp(world.engine, "iocp") != 0)
		return;
	FOR_TASKS(task)
	if (task->end == end && task->is_send && task->range != NULL &&
		clock_ns() - task->submitted > 2 * PROA_SECOND) {
		cancel_end(end);
		return;
	}
}

bool streams_finish(void)
{
	bool goes_on = false;

	for (unsigned i = 0; i < end_count; i++) {
		struct end *end = &ends[i];

		if (end->is_closed)
			continue;
		goes_on = true;
		if (end_gone(end))
			continue;
		help_wine(end);
		finish_reading(end);
		finish_writing(end);
		if (is_finished(end))
			end_close(end, chance(30) ? PROA_FLUSH : 0, PROA_FOREVER);
	}
	return goes_on;
}

void streams_tell(void)
{
	for (unsigned i = 0; i < end_count; i++) {
		const struct end *end = &ends[i];

		if (end->is_closed)
			continue;
		fprintf(stderr, "  end %lld, other end %lld%s:%s%s%s", (long long)end->handle,
			(long long)end->peer->handle, end->peer->is_closed ? " (closed)" : "",
			end->is_closing ? " closing," : "", end->may_close ? " may close," : "",
			end->in != NULL && end->in->has_ended ? " has read all," : "");
		if (end->out != NULL)
			fprintf(stderr, " %llu sent, %llu read%s%s%s",
				(unsigned long long)end->out->next,
				(unsigned long long)end->out->read,
				end->out->shut_asked ? ", shut asked" : "",
				end->out->is_shut ? ", shut" : "",
				end->out->owner != NULL ? ", owned" : "");
		fprintf(stderr, "\n");
	}
}

void streams_close(void)
{
	for (unsigned i = 0; i < end_count; i++)
		end_close(&ends[i], chance(30) ? PROA_FLUSH : 0,
			(int64_t)choose(20 * PROA_MILLISECOND));
}

void streams_check(void)
{
	for (unsigned i = 0; i < channel_count; i++) {
		struct channel *channel = &channels[i];

		HOLDS(channel->read <= channel->next, "more was read than sent");
		if (channel->ended_well)
			HOLDS(channel->read == channel->next,
				"channel %lld to %lld: %llu bytes were sent, and the end came after %llu",
				(long long)channel->from->handle, (long long)channel->to->handle,
				(unsigned long long)channel->next,
				(unsigned long long)channel->read);
		free(channel->pattern);
		if (channel->file >= 0)
			close(channel->file);
	}
	for (unsigned i = 0; i < end_count; i++)
		if (!ends[i].is_closed)
			close(ends[i].handle);
}

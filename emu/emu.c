/* The emulation: readiness turned into completions.
 *
 * An op that starts is tried at once if its handle is believed ready in its
 * direction. If it has to wait it stays where lib/ has it, on its handle's
 * lists, and the descriptor is registered; when the backend reports the
 * descriptor, the lists are served in order. What is believed follows from what
 * was seen: EAGAIN, or on TCP a short read, ends "ready"; an event begins it. A
 * short read says nothing once the peer's end, an error or urgent data was
 * reported: data and FIN that came together give no second event. */
#include "engines/attempt.h"
#include "emu/reactor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef PROA_HAVE_KQUEUE
#	include <sys/types.h>
/* after it, on some systems */
#	include <sys/event.h>
#endif

/* Bits of handle->engine. */
#define EMU_IN        0x01u /* registered */
#define EMU_OUT       0x02u
#define EMU_NO_IN     0x04u /* believed not ready */
#define EMU_NO_OUT    0x08u
#define EMU_UNTRUSTED 0x10u /* short reads prove nothing */
#define EMU_HOT       0x20u /* on the list of those to be served again */
#define EMU_ASKED     0x40u /* on the list of those to be asked now and then */
#define EMU_END       0x80u /* registered for its end alone */
#define EMU_SET       (EMU_IN | EMU_OUT | EMU_END)

/* One handle's share of a turn. */
#define SHARE 16
/* Events served by a turn: so few that what they receive is still in the cache
 * when the program sends it on. With 256, an echo of 16 KiB costs a fifth more. */
#define RUN       16
#define RUN_BYTES (16u * 1024)

#define IN_EVENTS  (POLLIN | POLLPRI | POLLRDHUP)
#define OUT_EVENTS (POLLOUT)

/* Between looks at what can't be waited for: pipes on Windows, and room for datagrams
 * where the system has said ENOBUFS. Doubled each time that nothing was there. */
#define ASK_FIRST PROA_MILLISECOND
#define ASK_MOST  (16 * PROA_MILLISECOND)

/* A backend's wait may fail for a while (want of memory, say), and is tried again. Then
 * all that wait for it are told. */
#define FAILS_MOST PROA_SECOND
#define FAILS_NAP  (10 * PROA_MILLISECOND)

struct hot {
	int fd;
	uint8_t generation;
};

struct hot_list {
	struct hot *hot;
	uint32_t count, room;
};

struct world {
	const struct reactor *reactor;
	void *backend;
	struct hot_list hot, asked;
	bool unlisted; /* no memory for `hot`: whoever waits is to be served */
	int64_t ask; /* the present interval */
	bool asking; /* it is on its way through `asked` */
	int64_t fails; /* since when the wait has failed; 0: it does not */
	/* What the last wait brought, of which [next, count) is still to be served. */
	int next, count;
	size_t received; /* by this turn */
	struct reactor_event events[REACTOR_EVENTS];
};

static struct world *world_of(struct proa_port *port)
{
	return port->world;
}

static short registered(const struct handle *handle)
{
	return (short)(((handle->engine & EMU_IN) ? IN_EVENTS : 0) |
		       ((handle->engine & EMU_OUT) ? OUT_EVENTS : 0) |
		       ((handle->engine & EMU_END) ? POLLHUP : 0));
}

/* Sees to it that the backend reports `fd` in the directions of `bits`. */
static int32_t enroll(struct proa_port *port, int fd, struct handle *handle, uint8_t bits)
{
	struct world *world = world_of(port);
	uint8_t after = handle->engine | bits;
	/* What others made they may have closed, and the number be another's:
	 * the backend's entry went with it, unseen. */
	bool check =
		(handle->state & (HANDLE_OURS | HANDLE_PRIVATE)) == 0 && (handle->engine & EMU_SET);
	short before = registered(handle);
	int error;

	if (after == handle->engine && !check)
		return 0;
	handle->engine = after;
	if (world->reactor->blind)
		handle->engine |= EMU_UNTRUSTED;
	if (world->reactor->flush == NULL)
		port->stats.system_calls++;
	error = world->reactor->set(
		world->backend, fd, handle->generation, before, registered(handle), check);
	if (error < 0)
		handle->engine &= (uint8_t)~bits;
	return error;
}

/* `bit` says that the handle is on the list. False: no memory. */
static bool enlist(struct hot_list *list, int fd, struct handle *handle, uint8_t bit)
{
	struct hot *hot;
	uint32_t room;

	if (handle->engine & bit)
		return true;
	if (list->count == list->room) {
		room = list->room == 0 ? 64 : list->room * 2;
		hot = realloc(list->hot, room * sizeof *hot);
		if (hot == NULL)
			return false;
		list->hot = hot;
		list->room = room;
	}
	handle->engine |= bit;
	list->hot[list->count].fd = fd;
	list->hot[list->count++].generation = handle->generation;
	return true;
}

static void make_hot(struct proa_port *port, int fd, struct handle *handle)
{
	/* No other event need come. */
	if (!enlist(&world_of(port)->hot, fd, handle, EMU_HOT))
		world_of(port)->unlisted = true;
}

static uint8_t direction(short events)
{
	return (uint8_t)(((events & POLLIN) ? EMU_IN : 0) | ((events & POLLOUT) ? EMU_OUT : 0));
}

#define UNREADY(bits) ((uint8_t)((bits) << 2)) /* EMU_IN to EMU_NO_IN, and so on */

/* What an op waits for: of polls that ask for no direction, the end of both. */
static uint8_t op_direction(const struct proa_op *op)
{
	unsigned kind = op_kinds[op->kind_];
	uint8_t bits;

	if (kind & (K_RECV | K_SEND))
		return (kind & K_RECV) ? EMU_IN : EMU_OUT;
	bits = direction(attempt_events(op));
	return bits == 0 ? EMU_END : bits;
}

/* What a successful try says of the handle. */
static void learn(const struct proa_op *op, struct handle *handle, int32_t result)
{
	size_t wanted;

	if (handle->type != HANDLE_TCP || (handle->engine & EMU_UNTRUSTED) || result <= 0)
		return;
	if (op->kind_ == PROA_OP_RECV && (op->flags_ & PROA_PEEK) == 0)
		wanted = op->length_ - (size_t)flight(op)->moved;
	else if (op->kind_ == PROA_OP_RECV_LENT || op->kind_ == PROA_OP_RECV_MULTI)
		wanted = pool_buffer_size(op->buffer_);
	else
		return;
	if ((size_t)result < wanted)
		handle->engine |= EMU_NO_IN;
}

static int32_t emu_try(struct proa_port *port, struct proa_op *op, struct handle *handle, bool told,
	uint32_t *flags)
{
	int32_t result = attempt(port, op, told, flags);

	if (result == PROA_EAGAIN)
		handle->engine |= UNREADY(op_direction(op));
	else
		learn(op, handle, result);
	return result;
}

static bool is_file_kind(const struct proa_op *op, const struct handle *handle)
{
	if (op->kind_ >= PROA_OP_OPEN && op->kind_ <= PROA_OP_MKDIR)
		return true;
	return handle != NULL && handle->type == HANDLE_FILE && (op_sends(op) || op_receives(op)) &&
	       op->kind_ != PROA_OP_SHUTDOWN;
}

static bool is_multi(const struct proa_op *op)
{
	return op->kind_ == PROA_OP_ACCEPT_MULTI || op->kind_ == PROA_OP_RECV_MULTI ||
	       op->kind_ == PROA_OP_POLL_MULTI;
}

static bool is_poll(const struct proa_op *op)
{
	return op->kind_ == PROA_OP_POLL || op->kind_ == PROA_OP_POLL_MULTI;
}

/* Backends may refuse what is always ready, such as files. A poll of it needs no word
 * of theirs: it is served again in the next turn. */
static bool is_ready_anyway(struct proa_port *port, struct proa_op *op, struct handle *handle)
{
	uint32_t flags = 0;

	if (!is_poll(op) || attempt(port, op, false, &flags) < 0)
		return false;
	make_hot(port, op->handle_, handle);
	return true;
}

/* Nothing will tell of it: it is tried again, and again. */
static int32_t ask_later(struct proa_port *port, int fd, struct handle *handle)
{
	struct world *world = world_of(port);
	int64_t due;

	if (!enlist(&world->asked, fd, handle, EMU_ASKED))
		return PROA_ENOMEM;
	if (!world->asking)
		world->ask = ASK_FIRST;
	due = later(clock_now(), world->ask);
	if (due < port->turn_due)
		port->turn_due = due;
	return STEP_STARTED;
}

/* A try said that nothing will tell when to try again. */
static int32_t try_later(struct proa_port *port, struct proa_op *op, struct handle *handle)
{
	if (!op_sends(op))
		return PROA_EAGAIN; /* a connect: it is paused */
	handle->engine |= EMU_NO_OUT;
	return ask_later(port, op->handle_, handle);
}

/* Lets it wait for the system's word. */
static int32_t emu_wait_for(struct proa_port *port, struct proa_op *op, struct handle *handle)
{
	struct world *world = world_of(port);
	uint8_t bits;
	int32_t error;

	if (UNLIKELY(world->reactor->sockets_only && handle->type == HANDLE_PIPE))
		return ask_later(port, op->handle_, handle);
	if (UNLIKELY(handle->engine & EMU_ASKED) && op_sends(op))
		return STEP_STARTED; /* behind one that is asked for */
	bits = op_direction(op);
	if (UNLIKELY(bits == EMU_END)) {
		if (world->reactor->no_end) {
			op_retry_later(port, op);
			return STEP_STARTED;
		}
		/* A registration in any direction reports it, and edges cost little. */
		if (world->reactor->edge)
			bits = EMU_IN | EMU_OUT;
	}
	error = enroll(port, attempt_descriptor(op), handle, bits);
	return error < 0 && !is_ready_anyway(port, op, handle) ? error : STEP_STARTED;
}

static int32_t emu_start(struct proa_port *port, struct proa_op *op, uint32_t *flags)
{
	struct handle *handle = handle_find(port, op->handle_);
	int32_t result = PROA_EAGAIN;
	uint8_t bits;
	int fd;

	/* Most of all that starts: see proa_submit(). */
	if (LIKELY(op->kind_ == PROA_OP_SEND && (handle->engine & EMU_NO_OUT) == 0 &&
		    attempt_is_lone_send(op, handle))) {
		result = attempt_lone_send(port, op, handle);
		if (LIKELY(result != PROA_EAGAIN))
			return result;
		handle->engine |= EMU_NO_OUT;
		return emu_wait_for(port, op, handle);
	}
	if (is_file_kind(op, handle)) {
		result = file_try(op);
		*flags = STEP_IS_FINAL;
		return result;
	}
	fd = attempt_descriptor(op);
	handle = handle_find(port, fd);
	bits = op_direction(op);
	if (is_poll(op) || (handle->engine & UNREADY(bits)) == 0)
		result = emu_try(port, op, handle, false, flags);
	if (result == STEP_LATER)
		return try_later(port, op, handle);
	if (result == PROA_EAGAIN)
		return emu_wait_for(port, op, handle);
	if (is_multi(op) && result >= 0 &&
		(op->kind_ != PROA_OP_RECV_MULTI || (*flags & PROA_LENT))) {
		/* More may be there: but its turn is over. */
		*flags |= PROA_MORE;
		make_hot(port, fd, handle);
		op_stepped(port, op, result, *flags);
		*flags = 0; /* of what follows: an error carries nothing */
		return op->state_ == OP_ACTIVE ? emu_wait_for(port, op, handle) : STEP_STARTED;
	}
	return result;
}

static void emu_cancel(struct proa_port *port, struct proa_op *op)
{
	op_stepped(port, op, PROA_ECANCELED, 0);
}

/* One direction of a handle being served. */
struct service {
	int share;
	bool told; /* the next try is the first since the system's word */
};

/* Tries one waiting op, a multishot one as long as it gives and may. False:
 * nothing more is to be had in its direction. */
static bool serve_op(struct proa_port *port, int fd, struct handle *handle, struct proa_op *op,
	struct service *service)
{
	uint8_t unready = UNREADY(op_direction(op));
	uint32_t flags = 0;
	int32_t result;

	while (op->state_ == OP_ACTIVE) {
		if (service->share == 0 || !port_has_room(port)) {
			make_hot(port, fd, handle);
			return false;
		}
		service->share--;
		flags = 0;
		result = emu_try(port, op, handle, service->told, &flags);
		service->told = false;
		if (result == PROA_EAGAIN)
			return is_poll(op);
		if (result == STEP_TO_WORKER) {
			op_to_worker(port, op);
			return true;
		}
		if (result == STEP_LATER)
			result = try_later(port, op, handle);
		if (result == STEP_STARTED)
			return false;
		if (op->kind_ == PROA_OP_POLL_MULTI && result >= 0) {
			/* Level-triggered: asked again in the next turn. */
			make_hot(port, fd, handle);
			op_stepped(port, op, result, PROA_MORE);
			return true;
		}
		if (!is_multi(op) || result < 0 ||
			(op->kind_ == PROA_OP_RECV_MULTI && (flags & PROA_LENT) == 0)) {
			if (!is_multi(op) || (flags & PROA_LENT) == 0) {
				op_stepped(port, op, result, flags);
				return (handle->engine & unready) == 0;
			}
		}
		op_stepped(port, op, result, flags | PROA_MORE);
		if (handle->engine & unready)
			return false;
	}
	return true;
}

/* The same for the commonest of them. */
static void serve_recv_multi(struct proa_port *port, int fd, struct handle *handle,
	struct proa_op *op, struct service *service)
{
	uint32_t flags;
	int32_t result;

	while (op->state_ == OP_ACTIVE && (handle->engine & EMU_NO_IN) == 0) {
		if (service->share-- == 0 || !port_has_room(port)) {
			make_hot(port, fd, handle);
			return;
		}
		flags = 0;
		result = attempt_lent(port, op, handle, service->told, &flags);
		service->told = false;
		if (result == PROA_EAGAIN) {
			handle->engine |= EMU_NO_IN;
			return;
		}
		learn(op, handle, result);
		if (LIKELY(flags & PROA_LENT)) {
			world_of(port)->received += (uint32_t)result;
			flags |= PROA_MORE;
		}
		op_stepped(port, op, result, flags);
	}
}

/* Serves a list's ops that wait in the direction of `bits`, oldest first. */
static void serve_list(struct proa_port *port, int fd, struct handle *handle, struct proa_op **list,
	uint8_t bits, struct service *service)
{
	struct cursor at = { .next = *list, .outer = port->cursors };
	struct proa_op *op;
	bool last;

	if (at.next == NULL)
		return;
	at.last = flight(at.next)->prev;
	port->cursors = &at;
	while ((op = at.next) != NULL) {
		last = op == at.last;
		at.next = last ? NULL : flight(op)->next;
		if (op->state_ == OP_ACTIVE && attempt_descriptor(op) == fd &&
			(op_direction(op) & bits) && !serve_op(port, fd, handle, op, service))
			break;
		if (last)
			break;
	}
	port->cursors = at.outer;
}

static bool waits(const struct proa_op *op, uint8_t bits)
{
	return op != NULL && op->state_ == OP_ACTIVE && (op_direction(op) & bits) != 0;
}

/* A backend without edges reports what nobody waits for again and again: it is
 * told what is waited for after each event. */
static void narrow(struct proa_port *port, int fd, struct handle *handle)
{
	struct world *world = world_of(port);
	short before = registered(handle);
	uint8_t bits = 0;
	struct proa_op *op = handle->others;

	if (waits(handle->recvs, EMU_IN))
		bits |= EMU_IN;
	if (waits(handle->sends, EMU_OUT) ||
		((handle->state & HANDLE_PRIVATE) && waits(handle->sends, EMU_IN)))
		bits |= (handle->state & HANDLE_PRIVATE) ? op_direction(handle->sends) : EMU_OUT;
	while (op != NULL && (bits & (EMU_IN | EMU_OUT)) != (EMU_IN | EMU_OUT)) {
		/* To a send that is asked for, it is no news that there is room. */
		if (op->state_ == OP_ACTIVE && attempt_descriptor(op) == fd &&
			!is_file_kind(op, handle) &&
			!((handle->engine & EMU_ASKED) && op_sends(op)))
			bits |= op_direction(op);
		op = flight(op)->next == handle->others ? NULL : flight(op)->next;
	}
	handle->engine = (uint8_t)((handle->engine & ~EMU_SET) | bits);
	if (registered(handle) != before) {
		port->stats.system_calls++;
		world->reactor->set(
			world->backend, fd, handle->generation, before, registered(handle), false);
	}
}

/* `again`: not on an event's account, but on its own. */
static void serve(struct proa_port *port, int fd, struct handle *handle, bool again)
{
	struct service service = { .share = SHARE, .told = !again };
	uint8_t generation = handle->generation;

	if (handle->state & HANDLE_PRIVATE) {
		struct proa_op *op = handle->sends;

		if (op != NULL && op->state_ == OP_ACTIVE)
			serve_op(port, fd, handle, op, &service);
	} else {
		if ((handle->engine & EMU_NO_IN) == 0 || again) {
			if (LIKELY(handle->recvs != NULL && handle->recvs->state_ == OP_ACTIVE &&
				    handle->recvs->kind_ == PROA_OP_RECV_MULTI))
				serve_recv_multi(port, fd, handle, handle->recvs, &service);
			else if (waits(handle->recvs, EMU_IN))
				serve_op(port, fd, handle, handle->recvs, &service);
			if (UNLIKELY(handle->others != NULL))
				serve_list(port, fd, handle, &handle->others, EMU_IN | EMU_END,
					&service);
		}
		service.share = SHARE;
		service.told = !again;
		if ((handle->engine & EMU_NO_OUT) == 0 || again) {
			if (waits(handle->sends, EMU_OUT))
				serve_op(port, fd, handle, handle->sends, &service);
			if (UNLIKELY(handle->others != NULL))
				serve_list(port, fd, handle, &handle->others, EMU_OUT, &service);
		}
	}
	if (!world_of(port)->reactor->edge && handle->generation == generation &&
		(handle->engine & EMU_SET))
		narrow(port, fd, handle);
}

/* Ends those of its others that wait in the direction of `bits`. */
static void refuse_list(
	struct proa_port *port, int fd, struct handle *handle, uint8_t bits, int32_t error)
{
	struct cursor at = { .next = handle->others, .outer = port->cursors };
	struct proa_op *op;
	bool last;

	if (at.next == NULL)
		return;
	at.last = flight(at.next)->prev;
	port->cursors = &at;
	while ((op = at.next) != NULL) {
		last = op == at.last;
		at.next = last ? NULL : flight(op)->next;
		if (waits(op, bits) && attempt_descriptor(op) == fd &&
			!is_ready_anyway(port, op, handle))
			op_stepped(port, op, error, 0);
		if (last)
			break;
	}
	port->cursors = at.outer;
}

/* The backend does not report `fd` in the directions of `bits`: who waits for it would
 * wait in vain. */
static void refuse(
	struct proa_port *port, int fd, struct handle *handle, uint8_t bits, int32_t error)
{
	handle->engine &= (uint8_t)~bits;
	if (handle->state & HANDLE_PRIVATE) {
		if (waits(handle->sends, bits))
			op_stepped(port, handle->sends, error, 0);
		return;
	}
	if (waits(handle->recvs, EMU_IN & bits))
		op_stepped(port, handle->recvs, error, 0);
	if (waits(handle->sends, EMU_OUT & bits))
		op_stepped(port, handle->sends, error, 0);
	refuse_list(port, fd, handle, bits, error);
}

/* What waits is told of an error of the wait itself. The port's own wake-up stays. */
static void refuse_all(struct proa_port *port, struct world *world, int32_t error)
{
	struct handle *handle;

	for (int fd = handle_next(port, -1); fd >= 0; fd = handle_next(port, fd)) {
		handle = handle_find(port, fd);
		if ((handle->engine & EMU_SET) == 0)
			continue;
		world->reactor->set(
			world->backend, fd, handle->generation, registered(handle), 0, true);
		refuse(port, fd, handle, handle->engine & EMU_SET, error);
	}
}

static void wait_failed(struct proa_port *port, struct world *world, int32_t error, int64_t timeout)
{
	int64_t now = clock_now();

	if (world->fails == 0)
		world->fails = now;
	if (now - world->fails > FAILS_MOST) {
		world->fails = 0;
		refuse_all(port, world, error);
	} else if (timeout > 0) { /* not more often than now and then: it would spin */
		system_nap(timeout < FAILS_NAP ? timeout : FAILS_NAP);
	}
}

static void reported(struct proa_port *port, const struct reactor_event *event)
{
	struct handle *handle = handle_find(port, event->fd);

	if (event->fd == port->wake_handle) {
		if (UNLIKELY(event->refused != 0)) /* want of memory: asked again */
			world_of(port)->reactor->set(
				world_of(port)->backend, event->fd, 0, 0, POLLIN, false);
		port_wake_drain(port);
		return;
	}
	if (handle == NULL || handle->generation != event->generation)
		return;
	if (UNLIKELY(event->refused != 0)) {
		refuse(port, event->fd, handle, direction(event->events), -(int32_t)event->refused);
		return;
	}
	if (event->events & (POLLIN | POLLPRI | POLLRDHUP | POLLHUP | POLLERR | POLLNVAL))
		handle->engine &= (uint8_t)~EMU_NO_IN;
	if (event->events & (POLLOUT | POLLHUP | POLLERR | POLLNVAL))
		handle->engine &= (uint8_t)~EMU_NO_OUT;
	if (event->events & (POLLPRI | POLLRDHUP | POLLHUP | POLLERR))
		handle->engine |= EMU_UNTRUSTED;
	serve(port, event->fd, handle, false);
}

/* Does an op wait that nothing will tell of? */
static bool is_asked_for(const struct handle *handle)
{
	const struct proa_op *op = handle->others;

	if (handle->type == HANDLE_PIPE)
		return handle->recvs != NULL || op != NULL;
	for (; op != NULL; op = flight(op)->next == handle->others ? NULL : flight(op)->next)
		if (op->state_ == OP_ACTIVE && op_sends(op))
			return true;
	return false;
}

/* Those whose share of an earlier turn did not suffice. */
static void serve_hot(struct proa_port *port, struct hot_list *list, uint32_t count, uint8_t bit)
{
	struct handle *handle;
	struct hot hot;
	uint32_t i;

	for (i = 0; i < count; i++) {
		hot = list->hot[i];
		handle = handle_find(port, hot.fd);
		if (handle->generation != hot.generation)
			continue;
		handle->engine &= (uint8_t)~bit;
		if (bit == EMU_ASKED)
			handle->engine &= (uint8_t) ~(EMU_NO_IN | EMU_NO_OUT);
		serve(port, hot.fd, handle, true);
		/* While somebody waits it is asked again. */
		if (bit == EMU_ASKED && handle->generation == hot.generation &&
			is_asked_for(handle) && !enlist(list, hot.fd, handle, bit))
			make_hot(port, hot.fd, handle);
	}
	/* Those that came meanwhile are for the next turn. */
	memmove(list->hot, list->hot + count, (list->count - count) * sizeof *list->hot);
	list->count -= count;
}

/* Which ones is not known. */
static void serve_unlisted(struct proa_port *port, struct world *world)
{
	struct handle *handle;

	world->unlisted = false;
	for (int fd = handle_next(port, -1); fd >= 0; fd = handle_next(port, fd)) {
		handle = handle_find(port, fd);
		if ((handle->engine & EMU_HOT) == 0)
			serve(port, fd, handle, true);
	}
}

/* Nothing tells of these. */
static void ask(struct proa_port *port, struct world *world)
{
	uint64_t before = port->stats.completed;

	world->asking = true;
	serve_hot(port, &world->asked, world->asked.count, EMU_ASKED);
	world->asking = false;
	if (port->stats.completed != before)
		world->ask = ASK_FIRST;
	else if (world->ask < ASK_MOST)
		world->ask *= 2;
	port->turn_due = world->asked.count == 0 ? PROA_FOREVER : later(clock_now(), world->ask);
}

static void look(struct proa_port *port, struct world *world, int64_t timeout)
{
	const struct handle *handle;

	port->stats.system_calls++;
	world->next = 0;
	world->count = world->reactor->wait(world->backend, timeout, world->events);
	if (UNLIKELY(world->count < 0)) {
		int32_t error = world->count;

		world->count = 0;
		wait_failed(port, world, error, timeout);
		return;
	}
	world->fails = 0;
	if (world->reactor->edge)
		return; /* they say whose they are */
	for (int i = 0; i < world->count; i++) {
		handle = handle_find(port, world->events[i].fd);
		if (handle != NULL)
			world->events[i].generation = handle->generation;
	}
}

static void emu_turn(struct proa_port *port, int64_t timeout)
{
	struct world *world = world_of(port);
	uint32_t hot = world->hot.count;
	bool unlisted = world->unlisted;
	int until;

	if (world->next == world->count)
		look(port, world, hot > 0 || unlisted ? 0 : timeout);
	if (hot > 0)
		serve_hot(port, &world->hot, hot, EMU_HOT);
	if (UNLIKELY(unlisted))
		serve_unlisted(port, world);
	if (UNLIKELY(world->asked.count > 0) && port->turn_due <= clock_now())
		ask(port, world);
	do {
		until = world->count - world->next > RUN ? world->next + RUN : world->count;
		world->received = 0;
		while (world->next < until && world->received < RUN_BYTES)
			reported(port, &world->events[world->next++]);
	} while (world->next < world->count && ready_empty(&port->ready));
	/* In another loop's hands: its next look does not come through here. */
	if (UNLIKELY(port->external) && world->reactor->flush != NULL &&
		world->reactor->flush(world->backend))
		port_kick(port);
}

static void emu_forget(struct proa_port *port, proa_handle fd, struct handle *handle)
{
	struct world *world = world_of(port);

	/* epoll drops a file that is closed by itself, if nobody shares it; poll
	 * knows nothing of closing. */
	bool certain = world->reactor->edge && (handle->state & HANDLE_OURS) &&
		       (handle->state & HANDLE_CLOSING);

	if (world->reactor->closing != NULL &&
		(handle->state & (HANDLE_CLOSING | HANDLE_PRIVATE))) {
		world->reactor->closing(world->backend, fd);
	} else if (!certain && (handle->engine & EMU_SET)) {
		port->stats.system_calls++;
		world->reactor->set(
			world->backend, fd, handle->generation, registered(handle), 0, true);
	}
	handle->engine = 0;
}

static int emu_descriptor(struct proa_port *port)
{
	struct world *world = world_of(port);

	return world->reactor->descriptor(world->backend);
}

static void emu_close(struct proa_port *port)
{
	struct world *world = world_of(port);

	world->reactor->close(world->backend);
	free(world->hot.hot);
	free(world->asked.hot);
	free(world);
	port->world = NULL;
}

static void emu_abandon(struct proa_port *port)
{
	struct world *world = world_of(port);

	if (world->reactor->abandon != NULL)
		world->reactor->abandon(world->backend);
	else
		world->reactor->close(world->backend);
	free(world->hot.hot);
	free(world->asked.hot);
	free(world);
	port->world = NULL;
}

#if defined PROA_HAVE_KQUEUE && defined EVFILT_USER
static void emu_wake(struct proa_port *port)
{
	struct world *world = world_of(port);

	world->reactor->wake(world->backend);
}
#else
#	define emu_wake NULL
#endif

static int emu_open(struct proa_port *port, const struct reactor *reactor, char *why, size_t size)
{
	struct world *world = calloc(1, sizeof *world);
	int error;

	if (world == NULL) {
		snprintf(why, size, "no memory");
		return PROA_ENOMEM;
	}
	world->reactor = reactor;
	error = reactor->open(&world->backend, why, size);
	if (error < 0) {
		free(world);
		return error;
	}
	if (reactor->wake == NULL)
		error = reactor->set(world->backend, port->wake_handle, 0, 0, POLLIN, false);
	if (error < 0) {
		snprintf(why, size, "its wake-up descriptor was refused: %s",
			proa_error_text(error));
		reactor->close(world->backend);
		free(world);
		return error;
	}
	port->world = world;
	port->features = 0;
	return 0;
}

#define EMULATED(backend, wake_)                                                 \
	static int backend##_engine_open(struct proa_port *port,                 \
		const struct proa_port_options *options, char *why, size_t size) \
	{                                                                        \
		(void)options;                                                   \
		return emu_open(port, &backend##_reactor, why, size);            \
	}                                                                        \
	const struct engine backend##_engine = {                                 \
		.name = #backend,                                                \
		.open = backend##_engine_open,                                   \
		.close = emu_close,                                              \
		.abandon = emu_abandon,                                          \
		.start = emu_start,                                              \
		.cancel = emu_cancel,                                            \
		.forget = emu_forget,                                            \
		.turn = emu_turn,                                                \
		.wake = wake_,                                                   \
		.descriptor = emu_descriptor,                                    \
	}

#ifdef PROA_HAVE_EPOLL
EMULATED(epoll, NULL);
#endif
#ifdef PROA_HAVE_KQUEUE
EMULATED(kqueue, emu_wake);
#endif
EMULATED(poll, NULL);
EMULATED(select, NULL);

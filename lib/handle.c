/* Handles: the table of entries, ties to the port, and the order of ending:
 * a handle's ops first, then the descriptor, then its close's completion. */
#include "lib/port.h"

#include <stdlib.h>
#include <string.h>

#include "engines/engine.h"
#include "engines/system.h"
#include "lib/thread.h"

/* ---- which port a descriptor is tied to, in the whole process -------------- */

/* A descriptor has one port at a time, as a socket has one completion port for
 * life on Windows. Chunks are never freed, so that reading needs no lock. */
#define OWNER_CHUNK  4096
#define OWNER_CHUNKS 4096

static _Atomic(_Atomic(struct proa_port *) *) owners[OWNER_CHUNKS];
static thread_mutex owners_lock = THREAD_MUTEX;

static _Atomic(struct proa_port *) *owner_of(proa_handle fd)
{
	size_t at = (size_t)(unsigned)handle_index(fd), chunk = at / OWNER_CHUNK;
	_Atomic(struct proa_port *) *entries;

	if (chunk >= OWNER_CHUNKS)
		return NULL;
	entries = atomic_load_explicit(&owners[chunk], memory_order_acquire);
	if (entries == NULL) {
		mutex_lock(&owners_lock);
		entries = atomic_load_explicit(&owners[chunk], memory_order_relaxed);
		if (entries == NULL) {
			entries = calloc(OWNER_CHUNK, sizeof *entries);
			atomic_store_explicit(&owners[chunk], entries, memory_order_release);
		}
		mutex_unlock(&owners_lock);
	}
	return entries == NULL ? NULL : &entries[at % OWNER_CHUNK];
}

static bool owned_by_another(struct proa_port *port, proa_handle fd)
{
	_Atomic(struct proa_port *) *owner = fd < 0 ? NULL : owner_of(fd);
	struct proa_port *other = owner == NULL ? NULL : atomic_load(owner);

	return other != NULL && other != port;
}

static void untie(struct proa_port *port, proa_handle fd)
{
	_Atomic(struct proa_port *) *owner = owner_of(fd);

	if (owner != NULL)
		atomic_compare_exchange_strong(owner, &(struct proa_port *) { port }, NULL);
}

/* ---- the table --------------------------------------------------------------- */

int handle_get(struct proa_port *port, proa_handle fd, struct handle **out)
{
	struct handle_table *table = &port->handles;
	size_t at = (size_t)(unsigned)handle_index(fd), chunk = at / HANDLE_CHUNK, count;
	struct handle **chunks;

	if (fd < 0)
		return PROA_EBADF;
	if (chunk >= table->count) {
		count = table->count == 0 ? 4 : table->count * 2;
		while (count <= chunk)
			count *= 2;
		chunks = realloc(table->chunks, count * sizeof *chunks);
		if (chunks == NULL)
			return PROA_ENOMEM;
		memset(chunks + table->count, 0, (count - table->count) * sizeof *chunks);
		table->chunks = chunks;
		table->count = count;
	}
	if (table->chunks[chunk] == NULL) {
		table->chunks[chunk] = calloc(HANDLE_CHUNK, sizeof **table->chunks);
		if (table->chunks[chunk] == NULL)
			return PROA_ENOMEM;
	}
	*out = &table->chunks[chunk][at % HANDLE_CHUNK];
	return 0;
}

int handle_next(const struct proa_port *port, int fd)
{
	size_t most = port->handles.count * HANDLE_CHUNK;
	size_t at = (size_t)(unsigned)(handle_index(fd) + 1);

	while (at < most) {
		struct handle *chunk = port->handles.chunks[at / HANDLE_CHUNK], *handle;

		if (chunk == NULL) {
			at = (at / HANDLE_CHUNK + 1) * HANDLE_CHUNK;
			continue;
		}
		handle = &chunk[at % HANDLE_CHUNK];
		if ((handle->state & HANDLE_TIED) || !handle_idle(handle))
			return handle_numbered((int)at);
		at++;
	}
	return -1;
}

void handles_free(struct proa_port *port)
{
	int fd;

	for (fd = handle_next(port, -1); fd >= 0; fd = handle_next(port, fd))
		untie(port, fd);
	for (size_t i = 0; i < port->handles.count; i++)
		free(port->handles.chunks[i]);
	free(port->handles.chunks);
	memset(&port->handles, 0, sizeof port->handles);
}

/* ---- ties ---------------------------------------------------------------------- */

static int take_ownership(struct proa_port *port, proa_handle fd)
{
	_Atomic(struct proa_port *) *owner = owner_of(fd);
	struct proa_port *other = NULL;

	if (owner == NULL)
		return PROA_ENOMEM;
	if (atomic_compare_exchange_strong(owner, &other, port) || other == port)
		return 0;
	return PROA_EINVAL;
}

static int tie_foreign(struct proa_port *port, proa_handle fd, struct handle *handle)
{
	enum handle_type type;
	unsigned tears;
	bool blocking;
	int error;

	error = system_classify(fd, &type, &blocking);
	if (error == 0)
		error = take_ownership(port, fd);
	if (error < 0)
		return error;
	handle->type = (uint8_t)type & 7u;
	handle->state = (uint8_t)(HANDLE_TIED | (blocking ? HANDLE_BLOCKING : 0));
	if (UNLIKELY(port->strays)) {
		tears = ready_tears(&port->ready, fd);
		handle->tears = (tears < TEARS_MOST ? tears : TEARS_MOST) & TEARS_MOST;
	}
	return 0;
}

int handle_reclassify(proa_handle fd, struct handle *handle)
{
	enum handle_type type;
	bool blocking;
	int error = system_classify(fd, &type, &blocking);

	if (error < 0)
		return error;
	handle->type = (uint8_t)type & 7u;
	handle->state =
		(uint8_t)((handle->state & ~HANDLE_BLOCKING) | (blocking ? HANDLE_BLOCKING : 0));
	return 0;
}

int handle_tie(struct proa_port *port, proa_handle fd, struct handle **out)
{
	int error;

	*out = handle_find(port, fd);
	if (LIKELY(*out != NULL && ((*out)->state & HANDLE_TIED)))
		return 0;
	error = handle_get(port, fd, out);
	return error < 0 ? error : tie_foreign(port, fd, *out);
}

int handle_adopt(struct proa_port *port, proa_handle fd, enum handle_type type, bool nonblocking)
{
	_Atomic(struct proa_port *) *owner = owner_of(fd);
	struct handle *handle;
	int error = handle_get(port, fd, &handle);

	if (owner == NULL)
		error = PROA_ENOMEM;
	if (error < 0) {
		handle = handle_find(port, fd);
		if (handle != NULL) { /* a dial's, which the engine may know */
			if (handle->state & HANDLE_PRIVATE)
				handle->sends = NULL;
			handle_forget(port, fd, handle);
		}
		handle_close(port, fd, type);
		return error;
	}
	/* A number that the kernel gives out is nobody's, whatever was noted:
	 * its last owner closed it without telling us. But what the engine knows
	 * of a socket that was dialled holds on. */
	if (handle->state & HANDLE_PRIVATE)
		handle->sends = NULL;
	else if (handle->state != 0 || handle->engine != 0)
		handle_forget(port, fd, handle);
	atomic_store_explicit(owner, port, memory_order_release);
	handle->type = (uint8_t)type & 7u;
	handle->state = (uint8_t)(HANDLE_TIED | HANDLE_OURS | (nonblocking ? 0 : HANDLE_BLOCKING));
	return 0;
}

int32_t handle_close(struct proa_port *port, proa_handle fd, enum handle_type type)
{
	port->stats.system_calls++;
	return system_close(fd, type);
}

void handle_forget(struct proa_port *port, proa_handle fd, struct handle *handle)
{
	port->engine->forget(port, fd, handle);
	if (handle->state & HANDLE_TIED)
		untie(port, fd);
	handle->type = HANDLE_UNKNOWN;
	handle->tears = 0;
	handle->state = 0;
	handle->engine = 0;
	handle->lent = 0;
	handle->generation++;
}

int proa_attach(struct proa_port *port, proa_handle fd)
{
	struct handle *handle;

	return port_visit(port) ? handle_tie(port, fd, &handle) : PROA_EINVAL;
}

/* What is queued stays as it is, and takes no part in what will have the number. */
static void disown(struct proa_port *port, proa_handle fd, struct handle *handle)
{
	if (handle->undelivered > 0 || handle->tears > 0)
		ready_disown(&port->ready, fd);
	handle->undelivered = 0;
}

int proa_detach(struct proa_port *port, proa_handle fd)
{
	struct handle *handle = handle_find(port, fd);

	if (!port_visit(port))
		return PROA_EINVAL;
	if (handle == NULL || (handle->state & HANDLE_TIED) == 0)
		return PROA_EBADF;
	if (!handle_idle(handle) || handle->undelivered > 0)
		return PROA_EBUSY;
	disown(port, fd, handle);
	handle_forget(port, fd, handle);
	return 0;
}

int proa_discard(struct proa_port *port, proa_handle fd)
{
	struct handle *handle = handle_find(port, fd);
	enum handle_type type = HANDLE_UNKNOWN;

	if (!port_visit(port))
		return PROA_EINVAL;
	if (handle != NULL && !handle_idle(handle))
		return PROA_EBUSY;
	if (owned_by_another(port, fd))
		return PROA_EINVAL;
	if (handle != NULL && handle->undelivered > 0)
		ready_purge(port, fd);
	if (handle != NULL) {
		if (handle->state & HANDLE_TIED)
			type = (enum handle_type)handle->type;
		handle->state |= HANDLE_CLOSING;
		disown(port, fd, handle);
		handle_forget(port, fd, handle);
	}
	if (handle_close(port, fd, type) < 0)
		return PROA_EBADF;
	if (port->starved > 0)
		accepts_resume(port);
	port_touched(port);
	return 0;
}

/* ---- the end of a handle --------------------------------------------------------- */

/* The close in flight, which is behind all others. */
static struct proa_op *closing_op(const struct handle *handle)
{
	return flight(handle->others)->prev;
}

static bool has_sends(const struct handle *handle)
{
	const struct proa_op *op = handle->others;

	if (handle->sends != NULL)
		return true;
	while (op != NULL && !op_is_flushed(op))
		op = flight(op)->next == handle->others ? NULL : flight(op)->next;
	return op != NULL;
}

void handle_close_begin(struct proa_port *port, struct proa_op *close)
{
	proa_handle fd = close->handle_;
	struct handle *handle = handle_find(port, fd);

	handle->state |= HANDLE_CLOSING;
	if ((close->flags_ & PROA_FLUSH) && !port->shut && (handle->state & HANDLE_PRIVATE) == 0 &&
		has_sends(handle))
		handle->state |= HANDLE_FLUSHING;
	/* Recvs before others: a multishot receive may wait for a linked op. */
	op_cancel_list(port, &handle->recvs, OPT_NO_MORE);
	op_cancel_list(port, &handle->others, OPT_NO_MORE);
	if ((handle->state & HANDLE_FLUSHING) == 0)
		op_cancel_list(port, &handle->sends, OPT_NO_MORE);
	/* After that, so that no paused receive goes on with what comes back. */
	if (handle->undelivered > 0)
		ready_purge(port, fd);
	close->state_ = OP_CLOSING; /* not before: to cancel it would end the flush */
	handle_settle(port, handle);
}

/* The close is queued once nothing else is left of the handle. The descriptor
 * itself goes when the completion is handed over, and no sooner: until then its
 * number can't be another's, and what is submitted to it fails. */
void handle_settle(struct proa_port *port, struct handle *handle)
{
	struct proa_op *close;

	if ((handle->state & HANDLE_CLOSING) == 0 || handle->sends != NULL || handle->recvs != NULL)
		return;
	close = closing_op(handle);
	if (close != handle->others || close->state_ != OP_CLOSING)
		return;
	if (close->timer_ != 0)
		timer_disarm(&port->timers, close);
	port_complete(port, close, 0, 0);
}

/* A close's turn has come. False: completions of ops that were submitted behind
 * it are queued after it, so it goes to the end once more. */
bool handle_close_take(struct proa_port *port, struct proa_completion *c)
{
	struct proa_op *close = c->op, *next = close->next_;
	proa_handle fd = close->handle_;
	struct handle *handle = handle_find(port, fd);
	enum handle_type type = (enum handle_type)handle->type;

	if (handle->undelivered > 0) {
		handle->undelivered = 0;
		port->stats.completed--;
		port_complete(port, close, 0, 0);
		return false;
	}
	list_remove(&handle->others, close);
	handle_forget(port, fd, handle);
	c->result = handle_close(port, fd, type);
	close->handle_ = PROA_NO_HANDLE;
	close->next_ = NULL;
	if (next != NULL)
		chain_on(port, next, (close->options_ & OPT_BROKEN) == 0);
	if (port->starved > 0)
		accepts_resume(port);
	return true;
}

/* Is there a close in a chain that has yet to come to it? */
static bool close_is_linked(const struct handle *handle)
{
	const struct proa_op *op = handle->others;

	if (op == NULL)
		return false;
	do {
		if (op->kind_ == PROA_OP_CLOSE)
			return true;
		op = flight(op)->next;
	} while (op != handle->others);
	return false;
}

int proa_release(struct proa_port *port, proa_handle fd)
{
	struct handle *handle = handle_find(port, fd);

	if (!port_enter(port, NULL))
		return PROA_EINVAL;
	if (handle == NULL || ((handle->state & HANDLE_TIED) == 0 && handle_idle(handle)))
		return system_is_open(fd) ? 0 : PROA_EBADF;
	if ((handle->state & HANDLE_CLOSING) || close_is_linked(handle))
		return PROA_EBUSY;
	while (!handle_idle(handle)) {
		op_cancel_list(port, &handle->sends, OPT_NO_MORE);
		op_cancel_list(port, &handle->recvs, OPT_NO_MORE);
		op_cancel_list(port, &handle->others, OPT_NO_MORE);
		if (handle_idle(handle))
			break;
		port_wait_quietly(port);
	}
	disown(port, fd, handle);
	handle_forget(port, fd, handle);
	port_touched(port);
	return 0;
}

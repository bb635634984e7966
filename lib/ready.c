/* Completions on their way to the program: one queue, in order. Normally a ring
 * that doubles when it is full. When memory for that can't be had, final
 * completions are chained through their own ops, so that none is ever lost;
 * others are refused, and stay with the engine until there is room. */
#include "lib/port.h"

#include <stdlib.h>
#include <string.h>

#define READY_FIRST 256u

static bool ready_grow(struct ready *ready)
{
	uint32_t room = ready->ring == NULL ? 0 : ready->mask + 1, i,
		 count = ready->ring == NULL ? 0 : ready->tail - ready->head;
	uint32_t more = room == 0 ? READY_FIRST : room * 2;
	struct proa_completion *ring;

	if (room > (UINT32_MAX >> 2) / sizeof *ring)
		return false;
	ring = malloc(more * sizeof *ring);
	if (ring == NULL)
		return false;
	for (i = 0; i < count; i++)
		ring[i] = ready->ring[(ready->head + i) & ready->mask];
	free(ready->ring);
	ready->ring = ring;
	ready->mask = more - 1;
	ready->head = 0;
	ready->tail = count;
	return true;
}

/* Room in the ring for one more, which what is spilt must not be behind. */
bool ready_reserve(struct ready *ready)
{
	if (ready->spilt != NULL)
		return false;
	if (ready->ring != NULL && ready->tail - ready->head <= ready->mask)
		return true;
	return ready_grow(ready);
}

/* What is spilt has its result where its links were. But a close stays on its handle's
 * list until it is handed over, and its result is known then: see handle_close_take(). */
static bool is_listed(const struct proa_op *op)
{
	return op->kind_ == PROA_OP_CLOSE && op->handle_ >= 0;
}

/* False only for a completion that is not final, when there is no room. */
bool ready_push(struct ready *ready, struct proa_op *op, int32_t result, uint32_t flags)
{
	struct proa_completion *c;

	if (UNLIKELY(ready->spilt != NULL || ready->tail - ready->head > ready->mask ||
		     ready->ring == NULL)) {
		if (!ready_reserve(ready)) {
			if (flags & PROA_MORE)
				return false;
			if (!is_listed(op)) {
				flight(op)->prev = (struct proa_op *)(intptr_t)result;
				flight(op)->next = (struct proa_op *)((uintptr_t)flags);
			}
			flight(op)->is.behind = NULL;
			if (ready->spilt == NULL)
				ready->spilt_end = &ready->spilt;
			*ready->spilt_end = op;
			ready->spilt_end = &flight(op)->is.behind;
			ready->spilt_count++;
			return true;
		}
	}
	c = &ready->ring[ready->tail++ & ready->mask];
	c->op = op;
	c->result = result;
	c->flags = flags;
	return true;
}

bool ready_pop_spilt(struct ready *ready, struct proa_completion *out)
{
	struct proa_op *op = ready->spilt;

	if (op == NULL)
		return false;
	out->op = op;
	out->result = is_listed(op) ? 0 : (int32_t)(intptr_t)flight(op)->prev;
	out->flags = is_listed(op) ? 0 : (uint32_t)(uintptr_t)flight(op)->next;
	ready->spilt = flight(op)->is.behind;
	ready->spilt_count--;
	return true;
}

void ready_free(struct ready *ready)
{
	free(ready->ring);
	memset(ready, 0, sizeof *ready);
}

/* Two UDP sockets that send to each other. Each datagram says which one it is:
 * each must come at most once, whole or marked as cut, and in the end all that
 * were sent must have come (loopback loses none of so few). With RANDOM_LOSSY the
 * network loses and doubles some: most must come, as they were sent. */
#include "posix.h"
#include "random.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DATAGRAMS_MOST 2048
#define UNREAD_MOST    30
#define LENGTH_MOST    1400
#define HEADER         8

/* With RANDOM_LOSSY: what has not come for so long counts as lost, so that others are sent;
 * and of so many that were sent, more than half must have come. */
#define LOST_AFTER (500 * PROA_MILLISECOND)
#define LOSSY_FEW  20

enum fate { UNSENT, SENDING, SENT, LOST, COME };

static struct side {
	proa_handle handle;
	struct proa_address address;
	char name[PROA_ADDRESS_TEXT];
	/* what it has sent */
	uint32_t count;
	unsigned char fates[DATAGRAMS_MOST];
	unsigned short_sent[HEADER], short_come[HEADER], short_sending[HEADER];
	unsigned sending;
	unsigned lost, arrived; /* of those with a header */
	int64_t latest; /* when one of them was sent, or came */
	/* what it receives */
	unsigned receiving;
	bool has_multi, is_closing, is_closed;
	bool was_awaited; /* it closed when nothing more was to come */
} sides[2];

static struct side *other_side(const struct side *side)
{
	return side == &sides[0] ? &sides[1] : &sides[0];
}

/* How many of its datagrams may still come. */
static unsigned unread(const struct side *side)
{
	unsigned count = 0;

	for (uint32_t i = 0; i < side->count; i++)
		count += side->fates[i] == SENDING || side->fates[i] == SENT;
	for (unsigned i = 0; i < HEADER; i++)
		count += side->short_sending[i] + side->short_sent[i] - side->short_come[i];
	return count;
}

/* Does the network lose datagrams, and double them? */
static bool is_lossy(void)
{
	return getenv("RANDOM_LOSSY") != NULL;
}

static bool is_quiet(const struct side *side)
{
	return !is_lossy() || clock_ns() - side->latest >= LOST_AFTER;
}

/* Nothing has come for long: what was sent is not waited for. It may come all the same. */
static void forget_lost(struct side *side)
{
	if (!is_lossy() || !is_quiet(side))
		return;
	for (uint32_t i = 0; i < side->count; i++)
		if (side->fates[i] == SENT) {
			side->fates[i] = LOST;
			side->lost++;
		}
	for (unsigned i = 0; i < HEADER; i++)
		if (side->short_come[i] < side->short_sent[i])
			side->short_come[i] = side->short_sent[i];
}

/* ---- sends ------------------------------------------------------------------ */

static unsigned char datagram_byte(uint32_t id, size_t at)
{
	return (unsigned char)mix(id * UINT64_C(4099) + at);
}

static void judge_sendto(struct task *task, const struct proa_completion *c)
{
	struct side *side = &sides[task->number & 1];
	uint32_t id = (uint32_t)(task->number >> 1);

	HOLDS(c->flags == 0, "a datagram's completion is marked %x", c->flags);
	HOLDS(c->result < 0 || (size_t)c->result == task->length,
		"a datagram of %zu bytes was sent: %d", task->length, c->result);
	side->sending--;
	if (task->length < HEADER) {
		side->short_sending[task->length]--;
		side->short_sent[task->length] += c->result >= 0;
		return;
	}
	if (c->result < 0) {
		HOLDS(side->fates[id] == SENDING, "datagram %u has come, its send gives %s", id,
			proa_error_name(c->result));
		side->fates[id] = UNSENT;
	} else if (side->fates[id] == SENDING) {
		side->fates[id] = SENT;
	}
}

static void send_one(struct side *side)
{
	static const int32_t refusals[] = { PROA_ECONNREFUSED, 0 };
	struct side *other = other_side(side);
	struct task *task;
	uint32_t id = side->count, length;

	forget_lost(side);
	if (side->count == DATAGRAMS_MOST || unread(side) >= UNREAD_MOST)
		return;
	side->latest = clock_ns();
	task = task_new("sendto", judge_sendto, NULL);
	task->length =
		chance(10) ? (size_t)choose(HEADER) : HEADER + (size_t)choose(LENGTH_MOST - HEADER);
	task->may_fail = refusals;
	task->number = (uint64_t)id << 1 | (uint64_t)(side - sides);
	task->bytes = malloc(task->length + 1);
	if (task->bytes == NULL)
		abort();
	for (size_t i = 0; i < task->length; i++)
		task->bytes[i] = datagram_byte(id, i);
	side->sending++;
	if (task->length < HEADER) {
		memset(task->bytes, (int)task->length, task->length);
		side->short_sending[task->length]++;
	} else {
		length = (uint32_t)task->length;
		memcpy(task->bytes, &id, sizeof(id));
		memcpy(task->bytes + 4, &length, sizeof(length));
		side->fates[side->count++] = SENDING;
	}
	trace("datagram %u of side %d", task->length < HEADER ? 0 : id, (int)(side - sides));
	proa_prep_sendto(task->op, side->handle, task->bytes, task->length, &other->address, 0);
	task_limit(task);
	task_submit(task);
}

/* ---- receives --------------------------------------------------------------- */

static void check_sender(const struct side *from, const struct proa_address *address)
{
	char text[PROA_ADDRESS_TEXT];

	HOLDS(proa_address_text(address, text, sizeof(text)) > 0 && strcmp(text, from->name) == 0,
		"a datagram from %s says that it is from %s", from->name, text);
}

/* `length` bytes of a datagram are there, all of it but if it was cut. */
static void come(struct side *from, const unsigned char *bytes, size_t length, bool cut)
{
	uint32_t id, whole;

	if (length < HEADER) {
		if (cut)
			return; /* nobody knows which one */
		if (!is_lossy() || from->short_come[length] <
					   from->short_sent[length] + from->short_sending[length])
			from->short_come[length]++;
		HOLDS(from->short_come[length] > 0 &&
				from->short_come[length] <=
					from->short_sent[length] + from->short_sending[length],
			"more datagrams of %zu bytes have come than were sent", length);
		for (size_t i = 0; i < length; i++)
			HOLDS(bytes[i] == length, "a short datagram is not as it was sent");
		return;
	}
	memcpy(&id, bytes, sizeof(id));
	memcpy(&whole, bytes + 4, sizeof(whole));
	HOLDS(id < from->count, "a datagram that was never sent");
	HOLDS(from->fates[id] == SENDING || from->fates[id] == SENT ||
			(is_lossy() && from->fates[id] != UNSENT),
		"datagram %u has come although it was %s", id,
		from->fates[id] == COME ? "here before" : "not sent");
	HOLDS(cut ? whole > length : whole == length, "datagram %u of %u bytes comes with %zu", id,
		whole, length);
	for (size_t i = HEADER; i < length; i++)
		HOLDS(bytes[i] == datagram_byte(id, i), "byte %zu of datagram %u is wrong", i, id);
	from->arrived += from->fates[id] != COME;
	from->fates[id] = COME;
	from->latest = clock_ns();
}

static void judge_recvfrom(struct task *task, const struct proa_completion *c)
{
	struct side *side = &sides[task->number], *from = other_side(side);
	bool cut = c->result == PROA_EMSGSIZE;

	HOLDS(c->flags == 0, "a datagram's completion is marked %x", c->flags);
	side->receiving--;
	if (c->result < 0 && !cut)
		return;
	if (cut)
		HOLDS(proa_op_count(task->op) == task->length,
			"a cut datagram counts %llu bytes for room of %zu",
			(unsigned long long)proa_op_count(task->op), task->length);
	check_sender(from, task->extra);
	come(from, task->bytes, cut ? task->length : (size_t)c->result, cut);
}

static void judge_recv_multi(struct task *task, const struct proa_completion *c)
{
	struct side *side = &sides[task->number], *from = other_side(side);
	struct proa_buffer *buffer = proa_lent(c);
	struct proa_address sender;

	HOLDS((buffer != NULL) == ((c->flags & PROA_LENT) != 0),
		"PROA_LENT and proa_lent() differ");
	if ((c->flags & PROA_MORE) == 0) {
		HOLDS(c->result < 0 && buffer == NULL, "a datagram receive ends with %d",
			c->result);
		side->has_multi = false;
		return;
	}
	HOLDS(c->result >= 0, "a datagram receive goes on with %s", proa_error_name(c->result));
	HOLDS(!side->is_closing, "a datagram comes while its handle closes");
	if (buffer == NULL) {
		come(from, NULL, (size_t)c->result, false);
		return;
	}
	HOLDS(buffer->length == (uint32_t)c->result, "a lent datagram of %d bytes has length %u",
		c->result, buffer->length);
	HOLDS(proa_lent_from(buffer, &sender) == 0, "a lent datagram does not know its sender");
	check_sender(from, &sender);
	come(from, buffer->data, buffer->length, false);
	lend_hold(task->pool, buffer, NULL, false);
}

static void receive_by_multi(struct side *side)
{
	struct pool_model *pool = pool_any();
	struct task *task;

	if (side->has_multi || pool->size < LENGTH_MOST)
		return;
	side->has_multi = true;
	task = task_new("recv_multi of datagrams", judge_recv_multi, NULL);
	task->number = (uint64_t)(side - sides);
	task->pool = pool;
	trace("datagrams for side %d", (int)(side - sides));
	proa_prep_recv_multi(task->op, side->handle, pool->pool, 0);
	task_limit(task);
	task_submit(task);
}

static void receive_one(struct side *side, bool whole)
{
	static const int32_t may_fail[] = { PROA_EMSGSIZE, PROA_ECONNREFUSED, 0 };
	struct task *task = task_new("recvfrom", judge_recvfrom, NULL);

	side->receiving++;
	task->may_fail = may_fail;
	task->number = (uint64_t)(side - sides);
	task->length = whole || chance(80) ? 2000 : HEADER + (size_t)choose(100);
	task->bytes = malloc(task->length);
	task->extra = calloc(1, sizeof(struct proa_address));
	if (task->bytes == NULL || task->extra == NULL)
		abort();
	trace("a datagram for side %d", (int)(side - sides));
	proa_prep_recvfrom(task->op, side->handle, task->bytes, task->length, task->extra, 0);
	if (!whole)
		task_limit(task);
	task_submit(task);
}

void datagrams_open(void)
{
	struct proa_listen_options options = { .type = PROA_DATAGRAM };
	int error;

	memset(sides, 0, sizeof(sides));
	for (unsigned i = 0; i < 2; i++) {
		struct side *side = &sides[i];

		error = proa_listen(world.port, "127.0.0.1:0", &options, &side->handle);
		HOLDS(error == 0, "proa_listen() for datagrams gives %s", proa_error_name(error));
		error = proa_local_address(side->handle, &side->address);
		HOLDS(error == 0, "proa_local_address() gives %s", proa_error_name(error));
		proa_address_text(&side->address, side->name, sizeof(side->name));
	}
}

void datagram_step(void)
{
	struct side *side = &sides[choose(2)];

	if (side->is_closing)
		return;
	if (chance(55))
		send_one(side);
	else if (chance(20))
		receive_by_multi(side);
	else if (side->receiving < 10)
		receive_one(side, false);
}

/* ---- the end ---------------------------------------------------------------- */

static void judge_close(struct task *task, const struct proa_completion *c)
{
	struct side *side = &sides[task->number];

	HOLDS(c->result == 0, "a datagram socket's close gives %d", c->result);
	HOLDS(side->receiving == 0 && side->sending == 0 && !side->has_multi,
		"the close of %lld has completed before other ops of it", (long long)side->handle);
	side->is_closed = true;
}

static void close_side(struct side *side)
{
	struct task *other, *task = task_new("close of datagrams", judge_close, NULL);

	side->is_closing = true;
	FOR_TASKS(other)
	if (((other->judge == judge_recvfrom || other->judge == judge_recv_multi) &&
		    side == &sides[other->number]) ||
		(other->judge == judge_sendto && side == &sides[other->number & 1]))
		other->is_cancelled = true;
	task->number = (uint64_t)(side - sides);
	task->is_close = true;
	proa_prep_close(task->op, side->handle, 0);
	task_submit(task);
}

bool datagrams_finish(void)
{
	bool goes_on = false;

	for (unsigned i = 0; i < 2; i++) {
		struct side *side = &sides[i], *from = other_side(side);

		goes_on = goes_on || !side->is_closed;
		if (side->is_closing)
			continue;
		forget_lost(from);
		forget_lost(side);
		if (side->sending == 0 && from->sending == 0 && unread(from) == 0 &&
			unread(side) == 0 && is_quiet(side) && is_quiet(from)) {
			side->was_awaited = true;
			close_side(side);
		} else if (side->receiving == 0) {
			receive_one(side, true);
		}
	}
	return goes_on;
}

void datagrams_close(void)
{
	for (unsigned i = 0; i < 2; i++)
		if (!sides[i].is_closing)
			close_side(&sides[i]);
}

void datagrams_tell(void)
{
	for (unsigned i = 0; i < 2; i++) {
		const struct side *side = &sides[i];

		for (uint32_t id = 0; id < side->count; id++)
			if (side->fates[id] == SENDING || side->fates[id] == SENT)
				fprintf(stderr, "  datagram %u of side %u has not come\n", id, i);
		for (unsigned j = 0; j < HEADER; j++)
			if (side->short_sending[j] + side->short_sent[j] > side->short_come[j])
				fprintf(stderr,
					"  a datagram of %u bytes of side %u has not come\n", j, i);
	}
}

void datagrams_check(void)
{
	for (unsigned i = 0; i < 2; i++) {
		const struct side *side = &sides[i];

		HOLDS(side->lost < LOSSY_FEW || !sides[1 - i].was_awaited ||
				side->arrived > side->lost,
			"of the datagrams of side %u %u are lost, and %u have come", i, side->lost,
			side->arrived);
		if (!side->is_closed)
			close(side->handle);
	}
}

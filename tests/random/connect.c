/* A listener, and connections made to it by ops. The two ends of a connection
 * are found by their addresses, and become a pair of streams. */
#include "posix.h"
#include "random.h"

#include <stdlib.h>
#include <string.h>

#define HALVES_MOST 64

static proa_handle listener = PROA_NO_HANDLE;
static struct proa_address address;
static bool accepts_many, is_closing, is_closed;
static unsigned accepting, connecting;

/* An end whose other end has not been heard of. */
static struct half {
	proa_handle handle;
	bool is_dialed;
	char name[PROA_ADDRESS_TEXT]; /* the dialing end's address */
} halves[HALVES_MOST];
static unsigned half_count;

static void match(proa_handle handle, bool is_dialed)
{
	struct half half = { handle, is_dialed, "" };
	struct proa_address name;
	int error;

	error = is_dialed ? proa_local_address(handle, &name) : proa_peer_address(handle, &name);
	if (error == PROA_ENOTCONN && !is_dialed) {
		/* Reset already: a dial that was cancelled. */
		proa_discard(world.port, handle);
		return;
	}
	HOLDS(error == 0 && proa_address_text(&name, half.name, sizeof(half.name)) > 0,
		"the address of a new connection: %s", proa_error_name(error));
	for (unsigned i = 0; i < half_count; i++) {
		if (strcmp(halves[i].name, half.name) != 0)
			continue;
		HOLDS(halves[i].is_dialed != is_dialed, "%s is there twice", half.name);
		stream_adopt(handle, halves[i].handle, true, true, false);
		halves[i] = halves[--half_count];
		return;
	}
	HOLDS(half_count < HALVES_MOST, "connections have but one end");
	halves[half_count++] = half;
}

/* ---- accepts ---------------------------------------------------------------- */

static void judge_accept(struct task *task, const struct proa_completion *c)
{
	bool is_final = (c->flags & PROA_MORE) == 0;

	HOLDS((c->flags & PROA_LENT) == 0, "an accept's completion is marked %x", c->flags);
	if (is_final)
		accepting--;
	if (c->result < 0) {
		HOLDS(is_final || system_fails(), "accepts give %s", proa_error_name(c->result));
		return;
	}
	HOLDS(is_final == !accepts_many, "an accepted handle in the wrong kind of completion");
	HOLDS(!is_closing || world.is_shut, "a listener that closes hands over a connection");
	if (task->extra != NULL) {
		const struct proa_address *peer = task->extra;
		char text[PROA_ADDRESS_TEXT];

		HOLDS(proa_address_text(peer, text, sizeof(text)) > 0 &&
				strncmp(text, "127.0.0.1:", 10) == 0,
			"an accept's peer is of family %d", peer->to.any.sa_family);
	}
	match(c->result, false);
}

static void accept_more(void)
{
	struct task *task;

	if (accepting > 0 && (accepts_many || accepting > 2 || chance(70)))
		return;
	accepting++;
	task = task_new(accepts_many ? "accept_multi" : "accept", judge_accept, NULL);
	if (accepts_many) {
		proa_prep_accept_multi(task->op, listener, chance(30) ? PROA_DETACHED : 0);
	} else {
		if (chance(50))
			task->extra = calloc(1, sizeof(struct proa_address));
		proa_prep_accept(task->op, listener, task->extra, chance(30) ? PROA_DETACHED : 0);
	}
	task_submit(task);
}

void listener_open(void)
{
	int error = proa_listen(world.port, "127.0.0.1:0", NULL, &listener);

	is_closing = is_closed = false;
	accepting = connecting = half_count = 0;
	HOLDS(error == 0, "proa_listen() gives %s", proa_error_name(error));
	error = proa_local_address(listener, &address);
	HOLDS(error == 0, "proa_local_address() gives %s", proa_error_name(error));
	accepts_many = chance(50);
}

/* ---- dials ------------------------------------------------------------------ */

/* For handles that stand outside the model of streams. */
static void judge_closing(struct task *task, const struct proa_completion *c)
{
	(void)task;
	HOLDS(c->result == 0, "a close gives %d", c->result);
}

static void close_outsider(proa_handle handle)
{
	struct task *task = task_new("close of an outsider", judge_closing, NULL);

	task->is_close = true;
	proa_prep_close(task->op, handle, 0);
	task_submit(task);
}

static void judge_dial(struct task *task, const struct proa_completion *c)
{
	(void)task;
	connecting--;
	HOLDS(c->flags == 0, "a dial's completion is marked %x", c->flags);
	if (c->result >= 0)
		match(c->result, true);
}

static void judge_connect(struct task *task, const struct proa_completion *c)
{
	connecting--;
	HOLDS(c->flags == 0 && c->result <= 0, "a connect gives %d", c->result);
	if (c->result == 0)
		match((proa_handle)task->number, true);
	else
		close_outsider((proa_handle)task->number);
}

void connect_one(void)
{
	static const int32_t refusals[] = { PROA_ECONNREFUSED, PROA_ECONNRESET, 0 };
	struct task *task;
	proa_handle handle;
	unsigned tries = 0;
	int error;

	if (is_closing)
		return;
	accept_more();
	if (connecting > 3 || !streams_have_room())
		return;
	connecting++;
	if (chance(60)) {
		task = task_new("dial", judge_dial, NULL);
		proa_prep_dial(task->op, &address, 0);
	} else {
		do
			error = proa_socket(world.port, &address, PROA_STREAM, &handle);
		while (asks_again(error, &tries));
		HOLDS(error == 0, "proa_socket() gives %s", proa_error_name(error));
		task = task_new("connect", judge_connect, NULL);
		task->number = (uint64_t)handle;
		proa_prep_connect(task->op, handle, &address, 0);
	}
	task->may_fail = refusals;
	task_limit(task);
	task_submit(task);
}

/* ---- the end ---------------------------------------------------------------- */

static void judge_listener_close(struct task *task, const struct proa_completion *c)
{
	(void)task;
	HOLDS(c->result == 0, "a listener's close gives %d", c->result);
	HOLDS(accepting == 0, "a listener's close has completed before %u accepts", accepting);
	is_closed = true;
}

static void close_listener(void)
{
	struct task *other, *task = task_new("close of the listener", judge_listener_close, NULL);

	is_closing = true;
	FOR_TASKS(other)
	if (other->judge == judge_accept)
		other->is_cancelled = true;
	task->is_close = true;
	proa_prep_close(task->op, listener, 0);
	task_submit(task);
}

static void close_halves(void)
{
	while (half_count > 0)
		close_outsider(halves[--half_count].handle);
}

static bool is_waiting_for_accept(void)
{
	for (unsigned i = 0; i < half_count; i++)
		if (halves[i].is_dialed)
			return true;
	return connecting > 0;
}

bool listener_finish(void)
{
	if (is_closed) {
		close_halves();
		return false;
	}
	if (is_closing)
		return true;
	if (is_waiting_for_accept())
		accept_more();
	else
		close_listener();
	return true;
}

void listener_close(void)
{
	if (!is_closing)
		close_listener();
	if (connecting == 0)
		close_halves();
}

void listener_check(void)
{
	while (half_count > 0)
		close(halves[--half_count].handle);
	if (!is_closed)
		close(listener);
}

/* The randomized test: a seeded program of operations of every kind, and a
 * plain model that says which completions are right.
 *
 * One process runs one seed on one engine, with one world. Every operation is a
 * task; the model is told when it is submitted and judges each completion. What
 * is decided by a race (did the cancel win?) is judged by the set of results
 * that are allowed. Only the public API is used. */
#ifndef PROA_TESTS_RANDOM_H
#define PROA_TESTS_RANDOM_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <proa/proa.h>

struct channel;
struct end;
struct pool_model;
struct task;

/* ---- world.c: the driver, tasks, and what holds for every operation ---- */

typedef void judge_fn(struct task *task, const struct proa_completion *completion);

/* One operation, from its submit to its final completion. */
struct task {
	struct proa_op own;
	struct proa_op *op; /* &own, or that of a buffer */
	const char *what;
	uint64_t serial; /* order of submission */
	judge_fn *judge; /* called for each completion, after the general checks */
	struct task *previous, *next;

	/* What was done to it, so what it may report. */
	bool is_cancelled;
	bool is_doomed; /* a send ahead of it in its lane has failed */
	bool is_after_close; /* submitted on a handle that closes */
	bool is_close, is_unstoppable;
	int64_t submitted; /* clock, before submit */
	int64_t earliest; /* when it may time out; PROA_FOREVER: it may not */
	uint64_t ticket;
	const int32_t *may_fail; /* further errors, ended by 0; may be NULL */

	/* Its chain. */
	struct task *before, *then;
	bool is_linked, before_ended, before_failed, before_revoked;
	bool (*did_all)(const struct task *task, int32_t result);

	/* Where it works. */
	struct end *end;
	struct channel *channel;
	bool is_send, is_receive;
	uint64_t start; /* in the channel, or the file */
	size_t length;
	uint32_t flags;

	/* What it names, to be scribbled on and freed at its end. */
	unsigned char *bytes;
	struct proa_slice *slices;
	struct proa_range *range;
	struct proa_buffer *buffer;
	struct pool_model *pool;
	void *extra; /* freed as well */
	int64_t due, period;
	uint64_t number, seen;
};

struct world {
	struct proa_port *port;
	const char *engine;
	/* Where choices come from: these bytes, if there are any, and then `random`. */
	const unsigned char *bytes, *bytes_end;
	const char *replay; /* how to see it again; a failure aborts, then */
	uint64_t seed, random, serial;
	int64_t ends_by;
	int64_t came; /* when the last completion did */
	bool verbose, is_shut, is_winding_down;
	bool in_call; /* inside a call that must not call back */
	bool in_batch; /* dispatching what proa_wait() gave */
	unsigned depth;
	unsigned in_flight;
	unsigned foreign; /* posts that a worker thread will make, or has made */
	uint64_t completions;
	uint64_t last_post; /* serial of the latest that came */
	struct task tasks; /* head of the ring of those in flight */
};

extern struct world world;

void world_begin(const struct world *how);
int64_t clock_ns(void);
uint64_t mix(uint64_t value);
uint64_t choose(uint64_t below); /* 0 .. below - 1 */
bool chance(unsigned percent);
/* With the faults of tests/fault (RANDOM_FAULTS is set) the system's errors have no
 * reason that the model could know, and no end of a stream follows from them. */
bool system_fails(void);
/* Of what a program can't do without: is it asked for once more, after `error`? */
bool asks_again(int error, unsigned *tries);
#define EXIT_HANGS 4 /* of a process whose program does not come to an end */
#ifdef __MINGW_PRINTF_FORMAT
#	define RANDOM_PRINTF __MINGW_PRINTF_FORMAT
#else
#	define RANDOM_PRINTF printf
#endif
__attribute__((format(RANDOM_PRINTF, 1, 2))) void trace(const char *format, ...);
_Noreturn __attribute__((format(RANDOM_PRINTF, 1, 2))) void broken(const char *format, ...);
/* The same of what does not come to an end, for which wine may be to blame. */
_Noreturn __attribute__((format(RANDOM_PRINTF, 1, 2))) void hangs(const char *format, ...);
#ifdef _WIN32
/* One that nobody handles says where it was, and its process has ended by its own word. */
void exceptions_tell(void);
#endif
#define HOLDS(condition, ...)                \
	do {                                 \
		if (!(condition))            \
			broken(__VA_ARGS__); \
	} while (0)

struct task *task_new(const char *what, judge_fn *judge, struct end *end);
/* Puts the op of a buffer in the place of the task's own. */
void task_use_buffer(struct task *task, struct proa_buffer *buffer);
/* Random limits in time, sometimes. */
void task_limit(struct task *task);
void task_submit(struct task *task);
/* `task` and then `next`, when `task` has done all that it was asked. */
void task_link(struct task *task, struct task *next);
void task_post(struct task *task, int32_t value);
/* A worker thread will post it. */
void task_expect_post(struct task *task);
void task_forget_post(struct task *task);
void task_done(struct proa_op *op, const struct proa_completion *completion);
void cancel_task(struct task *task);
#define FOR_TASKS(task) \
	for ((task) = world.tasks.next; (task) != &world.tasks; (task) = (task)->next)

/* Runs one seed to its end; the exit status. */
int run_seed(const char *engine, uint64_t seed, unsigned steps, bool verbose);
/* The same with bytes that say what to choose, for as long as there are any. Can be
 * called again and again. */
void run_bytes(const char *engine, const unsigned char *bytes, size_t length, const char *replay,
	bool verbose);

/* ---- stream.c: pairs of ends, and the bytes between them ---- */

#define CHANNEL_MOST (256 * 1024)

/* One direction of a stream. Its byte i is always the same, so each byte that
 * comes out tells whether it is the right one. */
struct channel {
	unsigned id;
	struct end *from, *to;
	unsigned char *pattern;
	int file; /* holds the pattern, for sendfile; -1: not made yet */
	uint64_t next, read; /* places of the next byte to send and to come */
	bool is_exact; /* whatever was taken arrives: no reset can destroy it */
	bool shut_asked, is_shut;
	bool has_ended; /* end of stream, or an error, was read */
	bool ended_well; /* ... end of stream, while the writer's end was open */
	struct task *owner; /* a chain or short send: no other sends meanwhile */
};

struct end {
	proa_handle handle;
	struct end *peer;
	struct channel *in, *out;
	bool is_socket;
	bool is_closing; /* its close has been submitted */
	bool may_close; /* ... as part of a chain, which may have come to it */
	bool is_closed;
	bool is_flushing; /* its close lets the sends go first, whatever it takes */
	unsigned busy; /* tasks in flight, but its close */
	unsigned held; /* lent buffers */
};

void stream_open(void);
/* Two ends of a stream that the library has not made: UNIX sockets, or TCP on Windows. 0, or
 * -1 and errno. */
int stream_pair(int pair[2], bool blocks);
/* A pipe, likewise, whose first end is the one to read from. */
#ifdef _WIN32
#	define PIPE_WAYS 3 /* that end overlaps, or the other, or none */
#else
#	define PIPE_WAYS 2 /* it blocks, or it does not */
#endif
int stream_pipe(int pair[2], unsigned way);
/* Takes a connected pair over; `exact` as in struct channel. */
void stream_adopt(proa_handle one, proa_handle other, bool is_socket, bool duplex, bool exact);
struct end *end_any(void); /* one that nobody closes, or NULL */
bool end_gone(const struct end *end);
unsigned streams_alive(void);
/* For one more pair, whatever is on its way. */
bool streams_have_room(void);
/* No send of the channel is in flight, nor will be. */
bool channel_is_idle(const struct channel *channel);
void stream_send(struct end *end);
void stream_receive(struct end *end);
void stream_shutdown(struct end *end);
void stream_poll(struct end *end);
struct task *send_task(struct end *end, size_t length);
struct task *receive_task(struct end *end);
struct task *shutdown_task(struct end *end);
void end_close(struct end *end, uint32_t flags, int64_t timeout);
struct task *close_task(struct end *end, uint32_t flags);
void cancel_end(struct end *end);
/* One step of an orderly end; false when all streams are closed. */
bool streams_finish(void);
void streams_close(void);
/* After the port's end: the last checks, and what is still open is closed. */
void streams_check(void);
proa_handle end_handle_of_task(const struct task *task);

/* ---- lend.c: pools, and buffers held ---- */

struct pool_model {
	struct proa_pool *pool;
	uint32_t size, limit, per_handle;
	unsigned held;
};

void pools_open(void);
struct pool_model *pool_any(void);
/* A completion lent `buffer`: holds it for a random while. `was_ended`: the end of
 * the receive has been asked for. */
void lend_hold(
	struct pool_model *pool, struct proa_buffer *buffer, struct end *end, bool was_ended);
/* A buffer to send from, or NULL. */
struct proa_buffer *lend_take(struct pool_model **pool);
void lend_untake(struct pool_model *pool, struct proa_buffer *buffer);
void lend_give_back_one(void);
void lend_give_back_all(void);
/* Nothing is lent any more: so say the pools. */
void pools_check(void);
void pools_close(void);

/* ---- connect.c: a listener, and connections made by ops ---- */

void listener_open(void);
void connect_one(void);
/* Keeps an accept in flight, and closes what the model can't match; false when
 * all is closed. */
bool listener_finish(void);
void listener_close(void);
void listener_check(void);

/* ---- datagram.c ---- */

void datagrams_open(void);
void datagram_step(void);
bool datagrams_finish(void);
void datagrams_close(void);
void datagrams_check(void);
void streams_tell(void); /* how far each end is */
void datagrams_tell(void);
void tell_in_flight(void); /* what is, when it hangs */

/* ---- file.c ---- */

void files_open(void);
void file_step(void);
/* A write, a sync and a read of the same bytes, to be linked; the number, or 0. */
unsigned file_chain(struct task **out);
void files_check(void);

/* ---- various.c: timers, posts, jobs, chains ---- */

void timer_step(void);
void post_step(void);
void work_step(void);
void chain_step(void);
/* A job gives it back. */
void work_give_back(struct proa_buffer *buffer);
/* Cancels what would not end by itself. */
void various_finish(void);

#endif

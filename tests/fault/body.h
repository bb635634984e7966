/* Bodies: small programs over the library that run while a call of it fails, and the
 * judge of what they are told.
 *
 * What a body submits goes by tasks. Each has exactly one final completion, and an
 * error in it must be plausible for the fault; without a hard fault there is none.
 * What is not so ends the process by wrong(). */
#ifndef PROA_TESTS_FAULT_BODY_H
#define PROA_TESTS_FAULT_BODY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <proa/proa.h>

struct task;
typedef void then_fn(struct task *task, const struct proa_completion *c);

struct task {
	struct proa_op op;
	then_fn *then;
	bool flying;
	/* the body's */
	proa_handle handle;
	unsigned char *bytes;
	size_t length;
	uint64_t at;
	int step;
	void *more;
};

struct body {
	const char *name;
	void (*run)(void); /* NULL: not here, ... */
	const char *lacks; /* ... because */
};
extern const struct body bodies[];
extern const unsigned body_count;

extern struct proa_port *port;

/* The judge: `how` is the fault's errno, 0 for none (or one that must not be seen),
 * -1 for any. */
void judge_begin(int how);
_Noreturn __attribute__((format(printf, 1, 2))) void wrong(const char *format, ...);
/* An error of any call: true, and noted, if it is one; it has to be plausible. */
bool erred(const char *what, int code);
/* Of a stream that ended too soon, or a datagram that was lost: as much as an error. */
void cut_off(const char *what);
/* Something has erred since judge_begin(). */
bool has_erred(void);

/* Opens `port`; false: it could not be. */
bool body_open(const struct proa_port_options *options);
/* Runs until nothing is in flight, closes what is owned, and the port; judges. */
void body_close(void);
void body_run(void);
/* A handle that body_close() is to close. */
void own(proa_handle handle);
void disown(proa_handle handle);

/* A task, readied; of which there are enough. */
struct task *task_new(void);
/* Submits the prepared op. `then` NULL: an error makes the body give up. */
uint64_t task_go(struct task *task, then_fn *then);
/* Links the prepared op of `next` behind `task`'s. */
void task_link(struct task *task, struct task *next, then_fn *next_then);
/* Ops that are no task's own: lent buffers'. */
void op_go(struct proa_op *op, proa_done_fn *done);
bool op_done(const char *what, const struct proa_completion *c);
/* For `then`: false if the result is an error (ECANCELED is fine if `cancels`), which
 * makes the body give up: cancel all and submit no more. */
bool task_fine(struct task *task, const struct proa_completion *c, bool cancels);
bool given_up(void);
void give_up(void);
/* Closes by an op, with `flags`. */
void close_by_op(proa_handle handle, uint32_t flags);

/* The pattern that all bytes follow. */
void fill(void *bytes, size_t length, uint64_t at);
void check_bytes(const char *what, const void *bytes, size_t length, uint64_t at);
/* A folder of the process's own. */
const char *scratch_path(const char *name);

#endif

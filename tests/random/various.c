/* Timers, posts and jobs; and chains of these with sends, receives and files. */
#include "posix.h"
#include "random.h"

#include <stdatomic.h>
#include <stdlib.h>

#define POST_VALUE(number) ((int32_t)((number) % 1000000))

/* ---- timers ------------------------------------------------------------------- */

/* One at an instant, neither moved nor limited since; `number` is the clock right
 * after its submit. */
static bool is_ordered(const struct task *task)
{
	return task->number != 0 && task->earliest == PROA_FOREVER;
}

/* Timers at an instant end in the order of their instants: none that was armed
 * before this one could fire, and is due before it, may still be in flight. */
static void check_order(const struct task *task)
{
	struct task *other;

	if (!is_ordered(task))
		return;
	FOR_TASKS(other)
	{
		if (other == task || other->judge != task->judge || !is_ordered(other) ||
			(int64_t)other->number >= task->due)
			continue;
		HOLDS(other->due > task->due ||
				(other->due == task->due && other->serial > task->serial),
			"timer #%llu has fired before #%llu, which was due %lld ns earlier",
			(unsigned long long)task->serial, (unsigned long long)other->serial,
			(long long)(task->due - other->due));
	}
}

static void judge_timer(struct task *task, const struct proa_completion *c)
{
	int64_t now = clock_ns();

	HOLDS(c->flags == 0 && c->result <= 0, "a timer gives %d", c->result);
	if (c->result < 0)
		return;
	HOLDS(now >= task->due, "timer #%llu has fired %lld ns early",
		(unsigned long long)task->serial, (long long)(task->due - now));
	check_order(task);
}

static void judge_interval(struct task *task, const struct proa_completion *c)
{
	int64_t now = clock_ns();

	if ((c->flags & PROA_MORE) == 0) {
		HOLDS(c->result < 0, "an interval ends with %d", c->result);
		return;
	}
	HOLDS(c->result >= 1, "an interval ticks with %d", c->result);
	task->due += (c->result - 1) * task->period;
	HOLDS(now >= task->due, "a tick of #%llu comes %lld ns early",
		(unsigned long long)task->serial, (long long)(task->due - now));
	task->due += task->period;
	if (++task->seen >= task->number)
		cancel_task(task);
}

static struct task *timer_task(void)
{
	int64_t ns = (int64_t)choose(chance(70) ? 2 * PROA_MILLISECOND : 10 * PROA_MILLISECOND);
	struct task *task = task_new("timer", judge_timer, NULL);

	task->due = clock_ns() + ns;
	proa_prep_timer(task->op, ns);
	return task;
}

static void start_timer_at(void)
{
	struct task *task = task_new("timer_at", judge_timer, NULL);

	task->due = clock_ns() + (int64_t)choose(8 * PROA_MILLISECOND) - PROA_MILLISECOND;
	if (chance(30))
		task->due -= task->due % PROA_MILLISECOND; /* some at the same instant */
	proa_prep_timer_at(task->op, task->due);
	task_submit(task);
	task->number = (uint64_t)clock_ns();
}

static void start_interval(void)
{
	int64_t first = (int64_t)choose(4 * PROA_MILLISECOND);
	struct task *task = task_new("interval", judge_interval, NULL);

	task->period = PROA_MILLISECOND + (int64_t)choose(4 * PROA_MILLISECOND);
	task->number = 1 + choose(6);
	task->due = clock_ns() + first;
	proa_prep_interval(task->op, first, task->period);
	if (chance(30))
		proa_op_background(task->op);
	task_limit(task);
	task_submit(task);
}

static void move_timer(void)
{
	int64_t ns = (int64_t)choose(5 * PROA_MILLISECOND), due;
	struct task *task;
	int error;

	FOR_TASKS(task)
	{
		if (task->judge != judge_timer || task->is_linked || chance(50))
			continue;
		due = clock_ns() + ns;
		error = proa_timer_move(task->op, ns);
		trace("move #%llu: %d", (unsigned long long)task->serial, error);
		HOLDS(error == 0 || error == PROA_ENOENT, "proa_timer_move() gives %d", error);
		if (error == 0) {
			task->due = due;
			task->number = 0;
		}
		return;
	}
}

/* The handle has to be the port's, and a foreign one may not have had an op. */
static void make_of_handle(struct task *task, struct end *end, const char *what)
{
	unsigned tries = 0;
	int error;

	do
		error = proa_attach(world.port, end->handle);
	while (asks_again(error, &tries));
	HOLDS(error == 0, "proa_attach() gives %s", proa_error_name(error));
	proa_op_with(task->op, end->handle);
	task->end = end;
	task->what = what;
}

void timer_step(void)
{
	unsigned what = (unsigned)choose(100);
	struct end *end;
	struct task *task;

	if (what < 20) {
		start_timer_at();
	} else if (what < 35) {
		start_interval();
	} else if (what < 50) {
		move_timer();
	} else {
		task = timer_task();
		end = chance(20) ? end_any() : NULL;
		if (end != NULL)
			make_of_handle(task, end, "timer of a handle");
		task_limit(task);
		task_submit(task);
	}
}

void various_finish(void)
{
	struct task *task;

	FOR_TASKS(task)
	if (task->judge == judge_interval && !task->is_cancelled)
		cancel_task(task);
}

/* ---- posts -------------------------------------------------------------------- */

static void judge_post(struct task *task, const struct proa_completion *c)
{
	HOLDS(c->flags == 0, "a post is marked %x", c->flags);
	HOLDS(c->result == POST_VALUE(task->number) ||
			(world.is_shut && c->result == PROA_ECANCELED),
		"%d was posted, and %d comes", POST_VALUE(task->number), c->result);
	HOLDS(task->serial > world.last_post, "post #%llu comes after #%llu",
		(unsigned long long)task->serial, (unsigned long long)world.last_post);
	world.last_post = task->serial;
}

void post_step(void)
{
	unsigned count = 1 + (unsigned)choose(3);
	struct task *task;

	while (count-- > 0) {
		task = task_new("post", judge_post, NULL);
		task->number = choose(1000000);
		task_post(task, POST_VALUE(task->number));
	}
}

static void judge_foreign_post(struct task *task, const struct proa_completion *c)
{
	world.foreign--;
	HOLDS(c->result == POST_VALUE(task->number) ||
			(world.is_shut && c->result == PROA_ECANCELED),
		"a thread posted %d, and %d comes", POST_VALUE(task->number), c->result);
}

/* ---- jobs --------------------------------------------------------------------- */

struct job {
	atomic_int runs;
	int32_t value;
	int64_t sleep;
	struct proa_port *port;
	struct task *post; /* to be posted, or NULL */
	struct proa_buffer *buffer; /* to be given back, or NULL */
};

/* On a worker's thread. */
static int32_t run_job(void *argument)
{
	struct job *job = argument;
	struct timespec sleep = { 0, job->sleep };

	atomic_fetch_add(&job->runs, 1);
	if (job->sleep > 0)
		nanosleep(&sleep, NULL);
	if (job->post != NULL)
		proa_post(job->port, job->post->op, POST_VALUE(job->post->number), task_done);
	if (job->buffer != NULL)
		proa_give_back(job->buffer);
	return job->value;
}

static void judge_work(struct task *task, const struct proa_completion *c)
{
	struct job *job = task->extra;
	int runs = atomic_load(&job->runs);

	HOLDS(c->flags == 0, "a job's completion is marked %x", c->flags);
	if (c->result >= 0) {
		HOLDS(runs == 1 && c->result == job->value,
			"a job gives %d and not %d, having run %d "
			"times",
			c->result, job->value, runs);
		return;
	}
	HOLDS(runs == 0, "a job has run, and reports %s", proa_error_name(c->result));
	if (job->post != NULL)
		task_forget_post(job->post);
	if (job->buffer != NULL)
		proa_give_back(job->buffer);
}

static struct task *work_task(struct job **out)
{
	struct task *task = task_new("job", judge_work, NULL);
	struct job *job = calloc(1, sizeof(*job));

	if (job == NULL)
		abort();
	job->port = world.port;
	job->value = (int32_t)choose(INT32_MAX);
	job->sleep = chance(30) ? (int64_t)choose(PROA_MILLISECOND) : 0;
	task->extra = job;
	proa_prep_work(task->op, run_job, job);
	*out = job;
	return task;
}

void work_give_back(struct proa_buffer *buffer)
{
	struct job *job;
	struct task *task = work_task(&job);

	task->what = "job that gives back";
	job->buffer = buffer;
	task_submit(task);
}

void work_step(void)
{
	struct job *job;
	struct task *task = work_task(&job);
	struct end *end = chance(15) ? end_any() : NULL;

	if (end != NULL) {
		make_of_handle(task, end, "job of a handle");
	} else if (chance(40)) {
		job->post = task_new("post by a thread", judge_foreign_post, NULL);
		job->post->number = choose(1000000);
		task_expect_post(job->post);
	}
	task_limit(task);
	task_submit(task);
}

/* ---- chains ------------------------------------------------------------------- */

#define CHAIN_MOST 8

struct chain {
	struct task *tasks[CHAIN_MOST];
	unsigned count;
};

static void chain_add(struct chain *chain, struct task *task)
{
	chain->tasks[chain->count++] = task;
}

static void chain_wait(struct chain *chain)
{
	struct job *job;

	chain_add(chain, chance(60) ? timer_task() : work_task(&job));
}

static void chain_start(struct chain *chain)
{
	int64_t ns;

	for (unsigned i = 0; i < chain->count; i++) {
		struct task *task = chain->tasks[i];

		/* A linked op's time counts from its own start. */
		if (!task->is_close && chance(8)) {
			ns = (int64_t)choose(5 * PROA_MILLISECOND);
			task->earliest = clock_ns() + ns;
			proa_op_timeout(task->op, ns);
		}
	}
	for (unsigned i = 0; i + 1 < chain->count; i++)
		task_link(chain->tasks[i], chain->tasks[i + 1]);
	task_submit(chain->tasks[0]);
}

/* Sends that start late: nobody else may send on the channel until the last has
 * ended, for the model must know the place of each. */
static void chain_sends(struct chain *chain, struct end *end)
{
	struct channel *channel = end->out;
	unsigned count = 1 + (unsigned)choose(3);

	channel->owner = chain->count > 0 ? chain->tasks[0] : (struct task *)chain;
	while (count-- > 0 && channel->next < CHANNEL_MOST) {
		chain_add(chain, send_task(end, 1 + (size_t)choose(3000)));
		if (chance(30) && chain->count + 2 < CHAIN_MOST && count > 0)
			chain_wait(chain);
	}
	if (end->is_socket && chance(10) && chain->count < CHAIN_MOST)
		chain_add(chain, shutdown_task(end));
	channel->owner = NULL;
	for (unsigned i = chain->count; i-- > 0 && channel->owner == NULL;)
		if (chain->tasks[i]->channel == channel && chain->tasks[i]->is_send)
			channel->owner = chain->tasks[i];
}

static void chain_streams(struct chain *chain)
{
	struct end *end = end_any(), *reader = end_any();
	bool closes = chance(12) && streams_alive() > 4;

	if (end == NULL || end->out == NULL || !channel_is_idle(end->out))
		return;
	if (chance(30) && reader != NULL && reader->in != NULL && reader != end)
		chain_add(chain, receive_task(reader));
	else if (chance(50))
		chain_wait(chain);
	/* A multishot op is no link of a chain. */
	if (chain->count > 0 && chain->tasks[0]->is_receive && chain->tasks[0]->number != 0) {
		task_submit(chain->tasks[0]);
		chain->count = 0;
	}
	chain_sends(chain, end);
	if (closes && chain->count < CHAIN_MOST) {
		chain_add(chain, close_task(end, 0));
		end->may_close = true;
	}
}

void chain_step(void)
{
	struct chain chain = { .count = 0 };
	unsigned what = (unsigned)choose(100), count;
	struct end *end;

	if (what < 25) {
		for (count = 2 + (unsigned)choose(4); count > 0; count--)
			chain_wait(&chain);
	} else if (what < 45) {
		if (chance(50))
			chain_wait(&chain);
		chain.count += file_chain(chain.tasks + chain.count);
	} else if (what < 95) {
		chain_streams(&chain);
	} else if (streams_alive() > 4 && (end = end_any()) != NULL) {
		chain_wait(&chain);
		chain_add(&chain, close_task(end, 0));
		end->may_close = true;
	}
	if (chain.count > 0)
		chain_start(&chain);
}

/* Files: reads and writes of one whose content is known, none of which overlaps
 * a write in flight; and a script of the operations by name, one at a time. */
#include "posix.h"
#include "random.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_SIZE 65536

static int file = -1;
static unsigned char content[FILE_SIZE];
static char folder[256];

static const char *temporary(void)
{
	const char *base = getenv("TMPDIR");

	return base != NULL ? base : "/tmp";
}

/* ---- reads and writes --------------------------------------------------------- */

static void judge_read(struct task *task, const struct proa_completion *c)
{
	size_t there = task->start >= FILE_SIZE ? 0 : FILE_SIZE - (size_t)task->start;

	HOLDS(c->flags == 0, "a read's completion is marked %x", c->flags);
	if (c->result < 0)
		return;
	if (there > task->length)
		there = task->length;
	HOLDS((size_t)c->result == there && proa_op_count(task->op) == there,
		"a read of %zu bytes at %llu gives %d", task->length,
		(unsigned long long)task->start, c->result);
	HOLDS(there == 0 || memcmp(task->bytes, content + task->start, there) == 0,
		"a read of %zu bytes at %llu gives other bytes than were written", task->length,
		(unsigned long long)task->start);
}

static void judge_write(struct task *task, const struct proa_completion *c)
{
	uint64_t count = proa_op_count(task->op);

	HOLDS(c->flags == 0, "a write's completion is marked %x", c->flags);
	HOLDS(c->result < 0 ? count <= task->length
			    : (size_t)c->result == task->length && count == task->length,
		"a write of %zu bytes gives %d and counts %llu", task->length, c->result,
		(unsigned long long)count);
	memcpy(content + task->start, task->bytes, count);
}

static void judge_sync(struct task *task, const struct proa_completion *c)
{
	(void)task;
	HOLDS(c->flags == 0 && c->result <= 0, "a sync gives %d", c->result);
}

static void judge_fstat(struct task *task, const struct proa_completion *c)
{
	const struct proa_stat *stat = task->extra;

	HOLDS(c->flags == 0 && c->result <= 0, "an fstat gives %d", c->result);
	if (c->result == 0)
		HOLDS(stat->size == FILE_SIZE && (stat->mode & S_IFMT) == S_IFREG,
			"an fstat says %llu bytes, mode %o", (unsigned long long)stat->size,
			stat->mode);
}

static bool overlaps(uint64_t start, size_t length, bool writes)
{
	struct task *task;

	FOR_TASKS(task)
	if ((task->judge == judge_write || (writes && task->judge == judge_read)) &&
		task->start < start + length && start < task->start + task->length)
		return true;
	return false;
}

/* Two slices with the same bytes as one. */
static struct proa_slice *sliced(struct task *task)
{
	size_t first = (size_t)choose(task->length + 1);

	task->slices = calloc(2, sizeof(*task->slices));
	if (task->slices == NULL)
		abort();
	task->slices[0].data = task->bytes;
	task->slices[0].length = first;
	task->slices[1].data = task->bytes + first;
	task->slices[1].length = task->length - first;
	return task->slices;
}

static struct task *transfer_task(bool writes, uint64_t start, size_t length)
{
	struct task *task =
		task_new(writes ? "write" : "read", writes ? judge_write : judge_read, NULL);

	task->start = start;
	task->length = length;
	task->bytes = malloc(length);
	if (task->bytes == NULL)
		abort();
	for (size_t i = 0; i < length; i++)
		task->bytes[i] = writes ? (unsigned char)mix(world.serial + i) : 0;
	if (chance(30) && writes)
		proa_prep_writev(task->op, file, sliced(task), 2, start);
	else if (writes)
		proa_prep_write(task->op, file, task->bytes, length, start);
	else if (chance(30))
		proa_prep_readv(task->op, file, sliced(task), 2, start);
	else
		proa_prep_read(task->op, file, task->bytes, length, start);
	return task;
}

static struct task *sync_task(void)
{
	struct task *task = task_new("sync", judge_sync, NULL);

	proa_prep_sync(task->op, file, chance(50) ? PROA_DATA_ONLY : 0);
	return task;
}

static struct task *fstat_task(void)
{
	struct task *task = task_new("fstat", judge_fstat, NULL);

	task->extra = calloc(1, sizeof(struct proa_stat));
	if (task->extra == NULL)
		abort();
	proa_prep_fstat(task->op, file, task->extra);
	return task;
}

/* A place that no write in flight (nor, to write, any read) touches. */
static bool find_place(bool writes, uint64_t *start, size_t *length)
{
	for (unsigned tries = 0; tries < 10; tries++) {
		*length = 1 + (size_t)choose(8000);
		*start = choose(writes ? FILE_SIZE - *length : FILE_SIZE + 100);
		if (!overlaps(*start, *length, writes))
			return true;
	}
	return false;
}

unsigned file_chain(struct task **out)
{
	uint64_t start;
	size_t length;

	if (!find_place(true, &start, &length))
		return 0;
	out[0] = transfer_task(true, start, length);
	out[1] = sync_task();
	out[2] = transfer_task(false, start, length);
	return 3;
}

/* ---- a script of names ---------------------------------------------------------- */

#define WRITTEN 1000
#define LEFT    700

enum step {
	MAKE_FOLDER,
	OPEN,
	WRITE,
	SYNC,
	TRUNCATE,
	FSTAT,
	RENAME,
	STAT,
	READ,
	CLOSE,
	UNLINK,
	STAT_GONE,
	STEPS
};

static struct {
	enum step step;
	bool is_running;
	proa_handle handle;
	char place[300], before[310], after[310];
	unsigned char bytes[WRITTEN];
	struct proa_stat stat;
} script;

static void script_step(void);

static int32_t script_expected(void)
{
	switch (script.step) {
	case WRITE:
		return WRITTEN;
	case READ:
		return LEFT;
	case STAT_GONE:
		return PROA_ENOENT;
	default:
		return 0;
	}
}

static void script_check(int32_t result)
{
	if (script.step == OPEN) {
		HOLDS(result >= 0, "an open gives %s", proa_error_name(result));
		script.handle = result;
		return;
	}
	HOLDS(result == script_expected(), "step %d of the script of names gives %d", script.step,
		result);
	if (script.step == FSTAT || script.step == STAT)
		HOLDS(script.stat.size == LEFT, "a file of %d bytes has size %llu", LEFT,
			(unsigned long long)script.stat.size);
	for (size_t i = 0; script.step == READ && i < LEFT; i++)
		HOLDS(script.bytes[i] == (unsigned char)mix(world.seed + i), "a read gives other "
									     "bytes");
	if (script.step == CLOSE)
		script.handle = PROA_NO_HANDLE;
}

/* What was cancelled has not begun, and what the system has refused is not done: it can
 * be done again. */
static bool script_repeats(int32_t result)
{
	return result == PROA_ECANCELED || result == PROA_ETIMEDOUT ||
	       (result < 0 && result != script_expected() && system_fails());
}

static void judge_script(struct task *task, const struct proa_completion *c)
{
	(void)task;
	script.is_running = false;
	if (world.is_shut && c->result == PROA_ECANCELED)
		return;
	if (!script_repeats(c->result)) {
		script_check(c->result);
		script.step++;
	}
	if (world.is_winding_down && !world.is_shut)
		script_step();
}

static void script_prepare(struct proa_op *op)
{
	switch (script.step) {
	case MAKE_FOLDER:
		proa_prep_mkdir(op, script.place, 0700);
		break;
	case OPEN:
		proa_prep_open(op, script.before,
			PROA_OPEN_CREATE | PROA_OPEN_EXCLUSIVE | PROA_OPEN_READ | PROA_OPEN_WRITE,
			0600);
		break;
	case WRITE:
		for (size_t i = 0; i < WRITTEN; i++)
			script.bytes[i] = (unsigned char)mix(world.seed + i);
		proa_prep_write(op, script.handle, script.bytes, WRITTEN, 0);
		break;
	case SYNC:
		proa_prep_sync(op, script.handle, 0);
		break;
	case TRUNCATE:
		proa_prep_truncate(op, script.handle, LEFT);
		break;
	case FSTAT:
		proa_prep_fstat(op, script.handle, &script.stat);
		break;
	case RENAME:
		proa_prep_rename(op, script.before, script.after);
		break;
	case STAT:
	case STAT_GONE:
		memset(&script.stat, 0, sizeof(script.stat));
		proa_prep_stat(op, script.after, &script.stat);
		break;
	case READ:
		memset(script.bytes, 0, sizeof(script.bytes));
		proa_prep_read(op, script.handle, script.bytes, WRITTEN, 0);
		break;
	case CLOSE:
		proa_prep_close(op, script.handle, 0);
		break;
	case UNLINK:
		proa_prep_unlink(op, script.after);
		break;
	case STEPS:
		break;
	}
}

static void script_step(void)
{
	static const char *const names[] = { "mkdir", "open", "write", "sync", "truncate", "fstat",
		"rename", "stat", "read", "close", "unlink", "stat" };
	static const int32_t is_gone[] = { PROA_ENOENT, 0 };
	struct task *task;

	if (script.is_running || (script.step == STEPS && world.is_winding_down))
		return;
	if (script.step == STEPS) {
		rmdir(script.place);
		script.step = MAKE_FOLDER;
	}
	task = task_new(names[script.step], judge_script, NULL);
	script_prepare(task->op);
	if (script.step == STAT_GONE)
		task->may_fail = is_gone;
	if (script.step == CLOSE)
		task->is_close = true;
	else if (!world.is_winding_down)
		task_limit(task);
	script.is_running = true;
	task_submit(task);
}

/* ---- all of it ------------------------------------------------------------------ */

void files_open(void)
{
	char path[300];

	memset(&script, 0, sizeof(script));
	script.step = STEPS;
	script.handle = PROA_NO_HANDLE;
	snprintf(folder, sizeof(folder), "%.200s/proa-random-XXXXXX", temporary());
	HOLDS(mkdtemp(folder) != NULL, "%s: %s", folder, strerror(errno));
	snprintf(path, sizeof(path), "%s/file", folder);
	file = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	for (size_t i = 0; i < FILE_SIZE; i++)
		content[i] = (unsigned char)mix(i);
	HOLDS(file >= 0 && write(file, content, FILE_SIZE) == FILE_SIZE && unlink(path) == 0,
		"%s: %s", path, strerror(errno));
	snprintf(script.place, sizeof(script.place), "%s/d", folder);
	snprintf(script.before, sizeof(script.before), "%s/before", script.place);
	snprintf(script.after, sizeof(script.after), "%s/after", script.place);
}

void file_step(void)
{
	unsigned what = (unsigned)choose(100);
	struct task *task;
	bool writes = what < 40;
	uint64_t start;
	size_t length;

	if (what >= 85) {
		script_step();
		return;
	}
	if (what >= 80)
		task = what >= 83 ? sync_task() : fstat_task();
	else if (find_place(writes, &start, &length))
		task = transfer_task(writes, start, length);
	else
		return;
	task_limit(task);
	task_submit(task);
}

void files_check(void)
{
	unsigned char *found = malloc(FILE_SIZE);

	HOLDS(found != NULL && pread(file, found, FILE_SIZE, 0) == FILE_SIZE &&
			memcmp(found, content, FILE_SIZE) == 0,
		"the file has other bytes than its writes reported");
	free(found);
	close(file);
	if (script.handle != PROA_NO_HANDLE)
		close(script.handle);
	unlink(script.before);
	unlink(script.after);
	rmdir(script.place);
	rmdir(folder);
}

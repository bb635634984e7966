/* Bodies of files, time, threads, processes, signals and forks. */
#include "body.h"
#include "bodies.h"
#include "fault.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "posix.h"

#ifdef _WIN32
#	include "engines/windows/signal.h"
#else
#	include <sys/resource.h>
#	include <termios.h>
#endif

#define FILE_BYTES 300000

static struct {
	unsigned char out[FILE_BYTES], in[FILE_BYTES + 10];
	struct proa_slice slices[2];
	struct proa_stat stat;
	struct proa_range range;
	char path[200], path2[200], folder[200];
	proa_handle file, ends[2];
	unsigned step;
} f;

/* ---- files: one step after another -------------------------------------------------------- */

static void file_next(struct task *task, const struct proa_completion *c);

static void file_prepare(struct proa_op *op, unsigned step)
{
	switch (step) {
	case 0:
		proa_prep_open(op, f.path,
			PROA_OPEN_READ | PROA_OPEN_WRITE | PROA_OPEN_CREATE | PROA_OPEN_TRUNCATE,
			0600);
		break;
	case 1:
		proa_prep_write(op, f.file, f.out, FILE_BYTES / 2, 0);
		break;
	case 2:
		f.slices[0] =
			(struct proa_slice) { .data = f.out + FILE_BYTES / 2, .length = 1000 };
		f.slices[1] = (struct proa_slice) { .data = f.out + FILE_BYTES / 2 + 1000,
			.length = FILE_BYTES / 2 - 1000 };
		proa_prep_writev(op, f.file, f.slices, 2, FILE_BYTES / 2);
		break;
	case 3:
		proa_prep_sync(op, f.file, 0);
		break;
	case 4:
		proa_prep_sync(op, f.file, PROA_DATA_ONLY);
		break;
	case 5:
		proa_prep_fstat(op, f.file, &f.stat);
		break;
	case 6:
		proa_prep_stat(op, f.path, &f.stat);
		break;
	case 7:
		proa_prep_read(op, f.file, f.in, sizeof f.in, 0);
		break;
	case 8:
		f.slices[0] = (struct proa_slice) { .data = f.in, .length = 777 };
		f.slices[1] = (struct proa_slice) { .data = f.in + 777, .length = 100000 };
		proa_prep_readv(op, f.file, f.slices, 2, 0);
		break;
	case 9:
		proa_prep_recv(op, f.file, f.in, 2500, 0);
		break;
	case 10:
		proa_prep_recv(op, f.file, f.in, 5000, PROA_ALL);
		break;
	case 11:
		proa_prep_truncate(op, f.file, FILE_BYTES - 1);
		break;
	case 12:
		proa_prep_rename(op, f.path, f.path2);
		break;
	case 13:
		proa_prep_mkdir(op, f.folder, 0700);
		break;
	default:
		proa_prep_unlink(op, f.path2);
		break;
	}
}

#define FILE_STEPS 15

static void file_check(unsigned step, int32_t result)
{
	static const int32_t wanted[FILE_STEPS] = { [1] = FILE_BYTES / 2,
		[2] = FILE_BYTES / 2,
		[7] = FILE_BYTES,
		[8] = 100777,
		[9] = 2500,
		[10] = 5000 };
	static uint64_t position;
	uint64_t at = 0;

	if (step > 0 && result != wanted[step] && !(step == 9 && result > 0))
		wrong("step %u of files gave %d", step, result);
	if (step == 9)
		position = (uint64_t)result; /* it may be short; the next goes on from there */
	if (step == 10)
		at = position;
	if (step >= 7 && step <= 10)
		check_bytes("a file", f.in, (size_t)result, at);
	if ((step == 5 || step == 6) && f.stat.size != FILE_BYTES)
		wrong("stat says %llu bytes", (unsigned long long)f.stat.size);
}

static void file_next(struct task *task, const struct proa_completion *c)
{
	if (!task_fine(task, c, true))
		return;
	file_check(f.step, c->result);
	if (f.step == 0) {
		f.file = c->result;
		own(f.file);
	}
	memset(f.in, 0, sizeof f.in);
	if (given_up() || ++f.step == FILE_STEPS)
		return;
	file_prepare(&task->op, f.step);
	task_go(task, file_next);
}

static void files_clean(void)
{
	unlink(f.path);
	unlink(f.path2);
	rmdir(f.folder);
}

static void files_name(void)
{
	snprintf(f.path, sizeof f.path, "%s", scratch_path("one"));
	snprintf(f.path2, sizeof f.path2, "%s", scratch_path("two"));
	snprintf(f.folder, sizeof f.folder, "%s", scratch_path("folder"));
	files_clean();
	fill(f.out, sizeof f.out, 0);
}

void body_files(void)
{
	struct task *task;

	files_name();
	if (body_open(NULL)) {
		f.step = 0;
		task = task_new();
		file_prepare(&task->op, 0);
		task_go(task, file_next);
		body_close();
	}
	files_clean();
}

/* ---- what the other bodies don't come to -------------------------------------------------- */

static struct {
	char from[400], to[200];
	int socket, pipe[2];
	struct proa_address address;
	unsigned char bytes[2][10];
} edge;

/* Longer than Windows' calls take as it is. */
static void long_path(char *out, size_t size, const char *path)
{
	const char *last = strrchr(path, '/');
	size_t n = (size_t)snprintf(out, size, "%.*s", (int)(last - path), path);

	while (n < 300)
		n += (size_t)snprintf(out + n, size - n, "/.");
	snprintf(out + n, size - n, "%s", last);
}

/* A folder takes the place of an empty one. */
static void edge_renamed(struct task *task, const struct proa_completion *c)
{
	task_fine(task, c, true);
	rmdir(edge.to);
}

static void edge_rename(void)
{
	struct task *task = task_new();

	snprintf(edge.to, sizeof edge.to, "%s", scratch_path("edge-to"));
	long_path(edge.from, sizeof edge.from, scratch_path("edge-from"));
	rmdir(edge.to);
	rmdir(edge.from);
	if (mkdir(scratch_path("edge-from"), 0700) < 0 || mkdir(edge.to, 0700) < 0)
		wrong("folders");
	proa_prep_rename(&task->op, edge.from, edge.to);
	task_go(task, edge_renamed);
	body_run();
	rmdir(scratch_path("edge-from"));
	rmdir(edge.to);
}

static void edge_late(struct task *task, const struct proa_completion *c)
{
	if (c->result != PROA_ETIMEDOUT)
		task_fine(task, c, true);
}

/* A receive that waits for a pipe's peer, and is cancelled there. */
static void edge_wait(void)
{
	struct task *reader = task_new();

	proa_prep_recv(&reader->op, edge.pipe[0], edge.bytes[0], sizeof edge.bytes[0], 0);
	proa_op_timeout(&reader->op, 30 * PROA_MILLISECOND);
	task_go(reader, edge_late);
	body_run();
}

static void edge_came(struct task *task, const struct proa_completion *c)
{
	if (task_fine(task, c, true))
		check_bytes("to itself", edge.bytes[0], (size_t)c->result, 0);
}

/* A datagram socket that was made elsewhere, and its own peer. */
static void edge_datagram(void)
{
	struct task *receiver = task_new(), *sender = task_new();

	fill(edge.bytes[1], sizeof edge.bytes[1], 0);
	if (erred("proa_local_address", proa_local_address(edge.socket, &edge.address)))
		return;
	if (connect(edge.socket, &edge.address.to.any, edge.address.length) < 0)
		wrong("connect");
	erred("proa_peer_address", proa_peer_address(edge.socket, &edge.address));
	proa_prep_sendto(&sender->op, edge.socket, edge.bytes[1], sizeof edge.bytes[1], NULL, 0);
	task_go(sender, NULL);
	body_run();
	if (has_erred())
		return;
	proa_prep_recvfrom(
		&receiver->op, edge.socket, edge.bytes[0], sizeof edge.bytes[0], &edge.address, 0);
	task_go(receiver, edge_came);
	body_run();
}

void body_edges(void)
{
	const struct sockaddr_in any = { .sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK) };

	edge.socket = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (edge.socket < 0 || bind(edge.socket, (const void *)&any, sizeof any) < 0 ||
		pipe2(edge.pipe, O_CLOEXEC) < 0)
		wrong("a socket and a pipe");
	if (!body_open(NULL)) {
		close(edge.socket);
		close(edge.pipe[0]);
		close(edge.pipe[1]);
		return;
	}
	own(edge.socket);
	own(edge.pipe[0]);
	own(edge.pipe[1]);
	edge_rename();
	if (!given_up())
		edge_wait();
	if (!given_up())
		edge_datagram();
	body_close();
}

/* ---- sendfile, to a socket, a pipe and a file ---------------------------------------------- */

static void sent_file_read(struct task *task, const struct proa_completion *c)
{
	if (!task_fine(task, c, true))
		return;
	check_bytes("sendfile", f.in, (size_t)c->result, f.range.offset);
	if ((uint64_t)c->result != f.range.length)
		cut_off("sendfile");
}

static void send_a_file(proa_handle to, proa_handle from)
{
	struct task *task = task_new();

	memset(f.in, 0, sizeof f.in);
	proa_prep_recv(&task->op, from, f.in, f.range.length, PROA_ALL);
	task_go(task, sent_file_read);
	task = task_new();
	proa_prep_sendfile(&task->op, to, &f.range, 0);
	task_go(task, NULL);
	body_run();
}

void body_sendfile(void)
{
	int file, target, ends[2];
	struct task *task;

	files_name();
	file = open(f.path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	target = open(f.path2, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (file < 0 || target < 0 || write(file, f.out, sizeof f.out) != sizeof f.out ||
		pipe2(ends, O_CLOEXEC) < 0)
		wrong("files");
	f.range = (struct proa_range) { .file = file, .offset = 10, .length = FILE_BYTES - 100 };
	if (body_open(NULL)) {
		own(target);
		own(ends[0]);
		own(ends[1]);
		if (!erred("proa_pair", proa_pair(port, f.ends))) {
			own(f.ends[0]);
			own(f.ends[1]);
			send_a_file(f.ends[1], f.ends[0]);
			if (!given_up())
				send_a_file(ends[1], ends[0]);
			task = task_new();
			proa_prep_sendfile(&task->op, target, &f.range, 0);
			task_go(task, NULL);
		}
		body_close();
	} else {
		close(target);
		close(ends[0]);
		close(ends[1]);
	}
	close(file);
	files_clean();
}

/* ---- chains ---------------------------------------------------------------------------------- */

static void chain_opened(struct task *task, const struct proa_completion *c)
{
	struct task *chain[5];

	if (!task_fine(task, c, true))
		return;
	f.file = c->result;
	own(f.file);
	if (given_up())
		return;
	for (int i = 0; i < 5; i++)
		chain[i] = task_new();
	proa_prep_write(&chain[0]->op, f.file, f.out, 5000, 0);
	proa_prep_timer(&chain[1]->op, PROA_MILLISECOND);
	proa_prep_sync(&chain[2]->op, f.file, PROA_DATA_ONLY);
	proa_prep_read(&chain[3]->op, f.file, f.in, 5000, 0);
	proa_prep_close(&chain[4]->op, f.file, 0);
	disown(f.file);
	for (int i = 4; i > 0; i--)
		task_link(chain[i - 1], chain[i], NULL);
	task_go(chain[0], NULL);
}

void body_chains(void)
{
	struct task *task;

	files_name();
	if (body_open(NULL)) {
		task = task_new();
		file_prepare(&task->op, 0);
		task_go(task, chain_opened);
		body_run();
		if (!has_erred())
			check_bytes("a chain", f.in, 5000, 0);
		body_close();
	}
	files_clean();
}

/* ---- time and posts -------------------------------------------------------------------------- */

static unsigned ticks, posted;

static void ticked(struct task *task, const struct proa_completion *c)
{
	if (!task_fine(task, c, true))
		return;
	ticks++;
	if (ticks >= 3)
		proa_cancel(&task->op);
}

static void late(struct task *task, const struct proa_completion *c)
{
	if (c->result != PROA_ETIMEDOUT)
		task_fine(task, c, true);
}

static void got_post(struct proa_op *op, const struct proa_completion *c)
{
	(void)op;
	posted++;
	if (c->result != 7 && c->result != PROA_ECANCELED)
		wrong("a post gave %d", c->result);
}

static struct proa_op posts[300];

static void *post_all(void *unused)
{
	(void)unused;
	for (int i = 0; i < 300; i++)
		proa_post(port, &posts[i], 7, got_post);
	return NULL;
}

void body_timers(void)
{
	struct task *task;
	proa_handle ends[2];
	pthread_t thread;

	if (!body_open(NULL))
		return;
	ticks = posted = 0;
	for (int i = 0; i < 300; i++)
		proa_op_init(&posts[i], port, NULL);
	task = task_new();
	proa_prep_interval(&task->op, 0, PROA_MILLISECOND);
	task_go(task, ticked);
	for (int i = 0; i < 40; i++) {
		task = task_new();
		proa_prep_timer(&task->op, (i % 7) * 300 * PROA_MICROSECOND);
		task_go(task, NULL);
	}
	if (!erred("proa_pair", proa_pair(port, ends))) {
		own(ends[0]);
		own(ends[1]);
		task = task_new();
		proa_prep_recv(&task->op, ends[0], f.in, 1, 0);
		proa_op_timeout(&task->op, 2 * PROA_MILLISECOND);
		task_go(task, late);
	}
	if (pthread_create(&thread, NULL, post_all, NULL) != 0)
		wrong("no thread");
	body_run();
	pthread_join(thread, NULL);
	body_close();
	if (posted != 300)
		wrong("%u of 300 posts came", posted);
}

/* ---- worker threads --------------------------------------------------------------------------- */

static int32_t job(void *argument)
{
	return *(int32_t *)argument;
}

static void worked(struct task *task, const struct proa_completion *c)
{
	if (task_fine(task, c, true) && c->result != 5)
		wrong("a job gave %d", c->result);
}

void body_jobs(void)
{
	static int32_t five = 5;
	struct task *task = NULL;

	if (!body_open(NULL))
		return;
	for (int i = 0; i < 20; i++) {
		task = task_new();
		proa_prep_work(&task->op, job, &five);
		task_go(task, worked);
	}
	proa_cancel(&task->op);
	body_close();
}

/* ---- names -------------------------------------------------------------------------------------- */

static struct proa_address found[8];
static const struct proa_query queries[] = {
	{ "127.0.0.1", "80", found, 4 },
	{ "localhost", NULL, found + 4, 4 },
	{ "::1", "443", found, 4 },
};

void body_resolve(void)
{
	struct task *task = NULL;

	if (!body_open(NULL))
		return;
	for (size_t i = 0; i < sizeof queries / sizeof queries[0]; i++) {
		task = task_new();
		proa_prep_resolve(&task->op, &queries[i]);
		task_go(task, NULL);
	}
	proa_cancel(&task->op);
	body_close();
}

/* ---- children ------------------------------------------------------------------------------------- */

static struct {
	proa_process process;
	struct proa_exit end;
	char text[16];
	bool reaped;
	unsigned length;
} child;

static void child_ended(struct task *task, const struct proa_completion *c)
{
	if (!task_fine(task, c, true))
		return;
	child.reaped = true;
	if (child.end.code != 7 || child.end.signal != 0)
		wrong("the child ended with %u, %d", child.end.code, child.end.signal);
}

static void child_said(struct task *task, const struct proa_completion *c)
{
	if (!task_fine(task, c, true))
		return;
	if (c->result != 6 || memcmp(child.text, "hello\n", 6) != 0)
		wrong("the child said something else");
}

/* Where the second is named for the first of the child's own, one has to make way. */
static void child_start(proa_handle ours, proa_handle theirs, bool overlaps)
{
#ifdef _WIN32
	static char program[MAX_PATH];
	static const char *const arguments[] = { program, "--act", NULL };
#else
	static const char *const arguments[] = { "sh", "-c", "echo hello; exit 7", NULL };
#endif
	const proa_handle standard[] = { overlaps ? 1 : theirs, theirs, theirs };
	const struct proa_command command = {
		.arguments = arguments,
		.directory = "/",
		.standard = standard,
#ifndef _WIN32 /* there it is PROA_ENOSYS */
		.pass = &theirs,
		.pass_count = 1,
#endif
	};
	struct task *task;
	int code;

#ifdef _WIN32
	GetModuleFileNameA(NULL, program, sizeof program);
#endif
	code = proa_spawn(&command, &child.process);
	if (erred("proa_spawn", code))
		return;
	erred("proa_kill", proa_kill(child.process, 0));
	task = task_new();
	proa_prep_recv(&task->op, ours, child.text, sizeof child.text, PROA_ALL);
	task_go(task, child_said);
	task = task_new();
	proa_prep_child(&task->op, child.process, &child.end);
	task_go(task, child_ended);
}

#ifdef _WIN32

/* To be reaped is to have the handle closed. */
static void reap(void)
{
	DWORD flags;

	if (child.process <= 0 || child.reaped)
		return;
	if (GetHandleInformation((HANDLE)child.process, &flags)) {
		WaitForSingleObject((HANDLE)child.process, INFINITE);
		CloseHandle((HANDLE)child.process);
	} else if (!has_erred()) {
		wrong("a child that nobody reaped is not there");
	}
}

#else

static void reap(void)
{
	int status;

	if (child.process > 0 && !child.reaped && waitpid((pid_t)child.process, &status, 0) < 0 &&
		!has_erred())
		wrong("a child that nobody reaped is not there");
	if (waitpid(-1, &status, WNOHANG) != -1)
		wrong("a child was left behind");
}

#endif

static void run_child(bool overlaps)
{
	proa_handle ours, theirs;

	memset(&child, 0, sizeof child);
	if (!body_open(NULL))
		return;
	if (!erred("proa_pipe", proa_pipe(port, 1, &ours, &theirs))) {
		own(ours);
		child_start(ours, theirs, overlaps);
		close(theirs);
	}
	body_close();
	reap();
}

void body_processes(void)
{
	run_child(false);
}

/* ---- the end of a child, by us ---------------------------------------------------------------------- */

#ifdef _WIN32
#	define KILLED_BY 15

/* One that does nothing, for it does not begin. */
static proa_process idler_start(void)
{
	STARTUPINFOA start = { .cb = sizeof start };
	PROCESS_INFORMATION made;
	char program[MAX_PATH];

	GetModuleFileNameA(NULL, program, sizeof program);
	if (!CreateProcessA(
		    program, NULL, NULL, NULL, FALSE, CREATE_SUSPENDED, NULL, NULL, &start, &made))
		wrong("no process");
	CloseHandle(made.hThread);
	return (proa_process)made.hProcess;
}

static void idler_end(proa_process process)
{
	TerminateProcess((HANDLE)process, 1);
}
#else
#	define KILLED_BY SIGTERM

static proa_process idler_start(void)
{
	pid_t pid = fork();

	if (pid < 0)
		wrong("no process");
	if (pid == 0) {
		signal(SIGTERM, SIG_DFL);
		for (;;)
			pause();
	}
	return pid;
}

static void idler_end(proa_process process)
{
	kill((pid_t)process, SIGKILL);
}
#endif

static void idler_ended(struct task *task, const struct proa_completion *c)
{
	if (!task_fine(task, c, true))
		return;
	child.reaped = true;
	if (child.end.signal != KILLED_BY && !has_erred())
		wrong("a child that was killed ended with %u, %d", child.end.code,
			child.end.signal);
}

void body_kill(void)
{
	struct task *task;

	memset(&child, 0, sizeof child);
	if (!body_open(NULL))
		return;
	child.process = idler_start();
	task = task_new();
	proa_prep_child(&task->op, child.process, &child.end);
	task_go(task, idler_ended);
	if (erred("proa_kill", proa_kill(child.process, KILLED_BY)))
		idler_end(child.process);
	body_close();
	reap();
}

/* ---- signals ------------------------------------------------------------------------------------------ */

#ifdef _WIN32
#	define SIGNAL 21 /* SIGBREAK */
#else
#	define SIGNAL SIGUSR1
#endif

static void signalled(struct task *task, const struct proa_completion *c)
{
	if (!task_fine(task, c, true))
		return;
	if (c->result != SIGNAL)
		wrong("signal %d", c->result);
	proa_cancel(&task->op);
}

#ifdef _WIN32

static void signals_ignore(void)
{
}

/* There may be no console: as the system would, on a thread of its own. */
static void *console_event(void *unused)
{
	(void)unused;
	windows_console_event(CTRL_BREAK_EVENT);
	return NULL;
}

static void signal_raise(void)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, console_event, NULL) != 0)
		wrong("no thread");
	pthread_join(thread, NULL);
}

static void signals_check(void)
{
	if (windows_console_event(CTRL_BREAK_EVENT))
		wrong("a signal is told to somebody who is gone");
}

#else

static void signals_ignore(void)
{
	signal(SIGNAL, SIG_IGN);
}

static void signal_raise(void)
{
	raise(SIGNAL);
}

static void signals_check(void)
{
	struct sigaction now;

	if (sigaction(SIGNAL, NULL, &now) < 0 || now.sa_handler != SIG_IGN)
		erred("the signal's disposition", PROA_EINVAL);
}

#endif

void body_signals(void)
{
	struct task *task;

	signals_ignore();
	if (!body_open(NULL))
		return;
	for (int i = 0; i < 2; i++) {
		task = task_new();
		proa_prep_signal(&task->op, SIGNAL);
		task_go(task, signalled);
	}
	proa_run_once(port, 0);
	if (has_erred())
		give_up();
	signal_raise();
	body_close();
	signals_check();
}

#ifndef _WIN32 /* main.c says why */

/* ---- fork ------------------------------------------------------------------------------------------- */

static unsigned idle_ops;

static void made_idle(struct proa_op *op, void *data)
{
	(void)op;
	(void)data;
	idle_ops++;
}

static void nothing(struct proa_op *op, const struct proa_completion *c)
{
	op_done("a timer", c);
	(void)op;
}

/* In the child: afresh, a little work, and the end. */
static int forked(bool afresh)
{
	struct proa_op op;

	if (!afresh) {
		proa_port_abandon(port);
		return 0;
	}
	if (erred("proa_port_after_fork", proa_port_after_fork(port, made_idle, NULL))) {
		proa_port_abandon(port);
		return 0;
	}
	if (idle_ops != 4)
		wrong("%u ops became idle", idle_ops);
	proa_op_init(&op, port, NULL);
	proa_prep_timer(&op, 1000);
	op_go(&op, nothing);
	body_run();
	return proa_port_close(port) == 0 ? 0 : 3;
}

static void fork_once(bool afresh)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		alarm(8);
		_exit(forked(afresh));
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		wrong("fork");
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		wrong("the forked child ended with %x", status);
}

void body_fork(void)
{
	struct proa_pool *pool = NULL;
	struct task *task;
	proa_handle ends[2];

	idle_ops = 0;
	if (!body_open(NULL))
		return;
	if (!erred("proa_pair", proa_pair(port, ends))) {
		own(ends[0]);
		own(ends[1]);
		if (!erred("proa_pool_open", proa_pool_open(port, NULL, &pool))) {
			task = task_new();
			proa_prep_recv_multi(&task->op, ends[0], pool, 0);
			task_go(task, NULL);
			task = task_new();
			proa_prep_poll(&task->op, ends[1], PROA_READABLE);
			task_go(task, NULL);
			task = task_new();
			proa_prep_timer(&task->op, 3600 * PROA_SECOND);
			task_go(task, NULL);
			task = task_new();
			proa_prep_signal(&task->op, SIGUSR2);
			task_go(task, NULL);
			proa_run_once(port, 0);
			if (!has_erred()) {
				fork_once(true);
				fork_once(false);
			}
			proa_cancel_all(port);
		}
	}
	body_close();
	proa_pool_close(pool);
}

/* ---- in another loop ---------------------------------------------------------------------------------- */

static bool outer_done;

static void outer_received(struct task *task, const struct proa_completion *c)
{
	if (task_fine(task, c, true))
		check_bytes("in another loop", f.in, (size_t)c->result, 0);
	outer_done = true;
}

void body_outer_loop(void)
{
	proa_handle ends[2], descriptor;
	struct task *task;

	fill(f.out, 1000, 0);
	if (!body_open(NULL))
		return;
	outer_done = false;
	descriptor = proa_port_descriptor(port);
	if (descriptor != PROA_NO_HANDLE && !erred("proa_pair", proa_pair(port, ends))) {
		own(ends[0]);
		own(ends[1]);
		task = task_new();
		proa_prep_recv(&task->op, ends[0], f.in, 1000, PROA_ALL);
		task_go(task, outer_received);
		task = task_new();
		proa_prep_timer(&task->op, 2 * PROA_MILLISECOND);
		task_go(task, NULL);
		task = task_new();
		proa_prep_send(&task->op, ends[1], f.out, 1000, 0);
		task_go(task, NULL);
		while (proa_in_flight(port) > 0) {
			struct pollfd p = { .fd = descriptor, .events = POLLIN };

			if (poll(&p, 1, 5000) != 1)
				wrong("the port's descriptor does not become readable");
			proa_run_once(port, 0);
		}
		if (!outer_done)
			wrong("in another loop nothing was received");
	}
	body_close();
}

/* ---- files by their own positions ------------------------------------------------------------------------ */

#	define AHEAD 3000

static void position_next(struct task *task, const struct proa_completion *c);

static void position_prepare(struct task *task)
{
	switch (f.step) {
	case 0:
		file_prepare(&task->op, 0);
		break;
	case 1:
		proa_prep_send(&task->op, f.file, f.out, FILE_BYTES, 0);
		break;
	case 2: /* for a position at the beginning */
		proa_prep_open(&task->op, f.path, PROA_OPEN_READ, 0);
		break;
	default:
		proa_prep_recv(&task->op, f.file, f.in, FILE_BYTES, PROA_ALL);
		break;
	}
	task_go(task, position_next);
}

static void position_next(struct task *task, const struct proa_completion *c)
{
	if (!task_fine(task, c, true))
		return;
	if (f.step == 0 || f.step == 2) {
		f.file = c->result;
		own(f.file);
	} else if (f.step > 2) {
		check_bytes("a file by its position", f.in, (size_t)c->result, 0);
	}
	if (f.step % 2 == 1 && c->result != FILE_BYTES)
		wrong("step %u of positions gave %d", f.step, c->result);
	memset(f.in, 0, sizeof f.in);
	if (!given_up() && ++f.step < 4)
		position_prepare(task);
}

void body_positions(void)
{
	files_name();
	if (body_open(NULL)) {
		f.step = 0;
		position_prepare(task_new());
		body_close();
	}
	files_clean();
}

/* ---- sends that queue before a pipe ------------------------------------------------------------------------ */

#	define PIPED 20000

static void piped(struct task *task, const struct proa_completion *c)
{
	if (!task_fine(task, c, true))
		return;
	check_bytes("a pipe", f.in, (size_t)c->result, 0);
	if (c->result != 6 * PIPED)
		cut_off("a pipe");
}

void body_gathers(void)
{
	proa_handle ours, theirs;
	struct task *task;

	fill(f.out, sizeof f.out, 0);
	if (!body_open(NULL))
		return;
	if (!erred("proa_pipe", proa_pipe(port, 0, &ours, &theirs))) {
		own(ours);
		own(theirs);
		for (int i = 0; i < 6; i++) {
			task = task_new();
			proa_prep_send(&task->op, ours, f.out + i * PIPED, PIPED, 0);
			task_go(task, NULL);
		}
		proa_run_once(port, 0);
		if (!has_erred()) {
			task = task_new();
			proa_prep_recv(&task->op, theirs, f.in, 6 * PIPED, PROA_ALL);
			task_go(task, piped);
		} else {
			give_up();
		}
	}
	body_close();
}

/* ---- a terminal -------------------------------------------------------------------------------------------------- */

static void typed(struct task *task, const struct proa_completion *c)
{
	if (task_fine(task, c, true))
		check_bytes("a terminal", f.in, (size_t)c->result, 0);
}

/* What is typed is there before anybody asks, so that a read never waits. */
static void terminal_read(void)
{
	int keyboard = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC), screen;
	struct task *task = task_new();
	struct termios how;

	if (keyboard < 0 || grantpt(keyboard) < 0 || unlockpt(keyboard) < 0)
		wrong("no terminal");
	screen = open(ptsname(keyboard), O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (screen < 0 || tcgetattr(screen, &how) < 0)
		wrong("no terminal");
	cfmakeraw(&how);
	if (tcsetattr(screen, TCSANOW, &how) < 0 || write(keyboard, f.out, 5) != 5)
		wrong("no terminal");
	own(screen);
	proa_prep_recv(&task->op, screen, f.in, sizeof f.in, 0);
	task_go(task, typed);
	body_run();
	close(keyboard);
}

void body_terminal(void)
{
	fill(f.out, 5, 0);
	if (!body_open(NULL))
		return;
	terminal_read();
	/* Without a descriptor to ask by whether it can be waited for. */
	faults_force("epoll_create1", EMFILE, 0);
	faults_force("kqueue", EMFILE, 0);
	if (!given_up())
		terminal_read();
	body_close();
}

/* ---- packets, and their end ---------------------------------------------------------------------------------------- */

static unsigned packets;

static void packet_came(struct task *task, const struct proa_completion *c)
{
	struct proa_buffer *buffer = proa_lent(c);

	if (buffer != NULL) {
		check_bytes("a packet", buffer->data, buffer->length, 0);
		packets += buffer->length > 0;
		if (buffer->length == 0)
			cut_off("packets"); /* the end was taken for one, once */
		proa_give_back(buffer);
	}
	if ((c->flags & PROA_MORE) == 0 && task_fine(task, c, true) && packets != 2)
		cut_off("packets");
}

void body_packets(void)
{
	struct proa_pool *pool = NULL;
	struct task *task;
	int ends[2];

	packets = 0;
	fill(f.out, 100, 0);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0 ||
		write(ends[1], f.out, 100) != 100 || write(ends[1], f.out, 50) != 50)
		wrong("packets");
	close(ends[1]);
	if (!body_open(NULL)) {
		close(ends[0]);
		return;
	}
	own(ends[0]);
	if (!erred("proa_pool_open", proa_pool_open(port, NULL, &pool))) {
		task = task_new();
		proa_prep_recv_multi(&task->op, ends[0], pool, 0);
		task_go(task, packet_came);
	}
	body_close();
	proa_pool_close(pool);
}

/* ---- what is called in the stead of other calls -------------------------------------------------------------------- */

void body_overlaps(void)
{
	run_child(true);
}

/* Children where there are no descriptors of theirs, and no call closes many; then without
 * a list of what is open, either. */
void body_older(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur > 1024) {
		limit.rlim_cur = 1024; /* each is looked at */
		setrlimit(RLIMIT_NOFILE, &limit);
	}
	faults_force("pidfd_open", ENOSYS, 0);
	faults_force("close_range", ENOSYS, 0);
	faults_force("epoll_pwait2", ENOSYS, 0);
	run_child(false);
	faults_force("getdents64", EIO, 0);
	if (!has_erred())
		run_child(false);
}

/* A file that has to come from the disk first. */
void body_cold(void)
{
	faults_force("preadv2", EAGAIN, 1);
	body_sendfile();
}

#endif

/* Bodies of streams, datagrams and pools. */
#include "body.h"
#include "bodies.h"

#include <stdio.h>
#include <string.h>

#include "control.h"
#include "posix.h"

/* Two ends of a stream of the program's own, that block. */
static void pair_open(int ends[2])
{
#ifdef _WIN32
	if (posix_pair(ends) < 0)
#else
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
#endif
		wrong("a pair of sockets");
}

/* ---- an echo over TCP --------------------------------------------------------------- */

#define CLIENTS    3
#define ECHO_BYTES 120000

static struct {
	proa_handle listener;
	struct proa_pool *pool;
	struct proa_address address;
	unsigned left; /* clients */
	unsigned char sent[ECHO_BYTES], got[CLIENTS][ECHO_BYTES + 1];
} echo;

/* A gap in what comes back would be taken for wrong bytes: after a failed send no
 * other. */
static void echoed(struct proa_op *op, const struct proa_completion *c)
{
	struct proa_buffer *buffer =
		(struct proa_buffer *)(void *)((char *)op - offsetof(struct proa_buffer, op));
	struct task *task = op->data;

	if (!op_done("echo", c)) {
		task->step = 1;
		proa_cancel(&task->op);
	}
	proa_give_back(buffer);
}

static void served(struct task *task, const struct proa_completion *c)
{
	struct proa_buffer *buffer = proa_lent(c);

	if (buffer != NULL && task->step == 1) {
		proa_give_back(buffer);
	} else if (buffer != NULL) {
		proa_op_init(&buffer->op, port, task);
		proa_prep_send(&buffer->op, task->handle, buffer->data, buffer->length, 0);
		op_go(&buffer->op, echoed);
	}
	if (c->flags & PROA_MORE)
		return;
	if (c->result < 0)
		erred("recv_multi", c->result);
	close_by_op(task->handle, c->result == 0 ? PROA_FLUSH : 0);
}

static void stop_listening(void)
{
	if (echo.listener != PROA_NO_HANDLE)
		close_by_op(echo.listener, 0);
	echo.listener = PROA_NO_HANDLE;
}

static void accepted(struct task *task, const struct proa_completion *c)
{
	struct task *server;

	(void)task;
	if (c->result < 0) {
		if (c->result != PROA_ECANCELED)
			erred("accept_multi", c->result);
		if ((c->flags & PROA_MORE) == 0 && c->result != PROA_ECANCELED)
			stop_listening();
		return;
	}
	server = task_new();
	server->handle = c->result;
	own(c->result);
	proa_prep_recv_multi(&server->op, server->handle, echo.pool, 0);
	task_go(server, served);
}

static void client_ended(struct task *task)
{
	if (task->handle != PROA_NO_HANDLE)
		close_by_op(task->handle, 0);
	task->handle = PROA_NO_HANDLE;
	if (--echo.left == 0)
		stop_listening();
}

static void client_sent(struct task *task, const struct proa_completion *c)
{
	struct task *client = task->more;

	if (erred("send", c->result)) {
		client->step = 1; /* nothing would come of waiting */
		proa_cancel(&client->op);
	}
}

static void client_received(struct task *task, const struct proa_completion *c)
{
	if (c->result > 0) {
		check_bytes("echo", task->bytes + task->at, (size_t)c->result, task->at);
		task->at += (uint64_t)c->result;
		if (task->step == 1) {
			client_ended(task);
			return;
		}
		proa_prep_recv(&task->op, task->handle, task->bytes + task->at,
			ECHO_BYTES + 1 - (size_t)task->at, 0);
		task_go(task, client_received);
		return;
	}
	if (c->result < 0)
		erred("recv", c->result);
	else if (task->at != ECHO_BYTES)
		cut_off("echo");
	client_ended(task);
}

static void dialled(struct task *task, const struct proa_completion *c)
{
	static const size_t ends[] = { 0, 64, 40000, ECHO_BYTES };
	static const int pieces = 3;
	struct task *sender;

	if (erred("dial", c->result)) {
		client_ended(task);
		return;
	}
	task->handle = c->result;
	own(c->result);
	for (int i = 0; i < pieces; i++) {
		sender = task_new();
		sender->more = task;
		proa_prep_send(&sender->op, task->handle, echo.sent + ends[i],
			ends[i + 1] - ends[i], i == 0 ? PROA_CORK : 0);
		task_go(sender, client_sent);
	}
	sender = task_new();
	sender->more = task;
	proa_prep_shutdown(&sender->op, task->handle);
	task_go(sender, client_sent);
	proa_prep_recv(&task->op, task->handle, task->bytes, ECHO_BYTES + 1, 0);
	task_go(task, client_received);
}

static bool echo_listen(void)
{
	if (erred("proa_listen", proa_listen(port, "127.0.0.1:0", NULL, &echo.listener)))
		return false;
	own(echo.listener);
	return !erred("proa_local_address", proa_local_address(echo.listener, &echo.address));
}

static void run_echo(const struct proa_pool_options *pool)
{
	struct task *task;

	fill(echo.sent, ECHO_BYTES, 0);
	if (!body_open(NULL))
		return;
	echo.pool = NULL;
	if (echo_listen() && !erred("proa_pool_open", proa_pool_open(port, pool, &echo.pool))) {
		echo.left = CLIENTS;
		task = task_new();
		proa_prep_accept_multi(&task->op, echo.listener, 0);
		task_go(task, accepted);
		for (int i = 0; i < CLIENTS; i++) {
			task = task_new();
			task->bytes = echo.got[i];
			proa_prep_dial(&task->op, &echo.address, 0);
			task_go(task, dialled);
		}
	}
	body_close();
	proa_pool_close(echo.pool);
}

void body_echo(void)
{
	run_echo(NULL);
}

/* The same where buffers are short: receives pause, and handles hold their share. */
void body_echo_small_pool(void)
{
	const struct proa_pool_options few = {
		.buffer_size = 3000, .count = 1, .limit = 3, .per_handle = 2
	};

	run_echo(&few);
}

/* ---- connect, accept, messages: over UNIX sockets, with a descriptor; where there are
 * none, over TCP -------------------------------------------------------------------------- */

#define LETTER 90000

static struct {
	unsigned char sent[LETTER], got[LETTER];
	struct proa_address to, from;
	struct proa_slice slices[3], room[1];
	struct proa_message out, in;
#ifndef _WIN32
	_Alignas(struct cmsghdr) char out_control[CMSG_SPACE(sizeof(int))];
	_Alignas(struct cmsghdr) char in_control[CMSG_SPACE(sizeof(int))];
	int passed;
#endif
	bool told;
} mail;

#ifdef _WIN32

static void mail_passed(struct task *task, const struct proa_completion *c)
{
	if (!task_fine(task, c, true))
		return;
	check_bytes("message", mail.got, (size_t)c->result, 0);
	mail.told = true;
}

static void mail_room(struct proa_message *in)
{
	(void)in; /* for no control: streams carry none */
}

static void mail_attach(struct proa_message *out)
{
	(void)out;
}

static int mail_listen(proa_handle *listener)
{
	int error = proa_listen(port, "127.0.0.1:0", NULL, listener);

	if (error < 0)
		return error;
	own(*listener);
	return proa_local_address(*listener, &mail.to);
}

static void mail_end(void)
{
}

#else

static void mail_passed(struct task *task, const struct proa_completion *c)
{
	struct cmsghdr *header = (struct cmsghdr *)(void *)mail.in_control;
	int fd;

	if (!task_fine(task, c, true))
		return;
	check_bytes("message", mail.got, (size_t)c->result, 0);
	if (mail.in.control_length >= CMSG_LEN(sizeof fd) && header->cmsg_type == SCM_RIGHTS) {
		memcpy(&fd, CMSG_DATA(header), sizeof fd);
		close(fd);
		mail.told = true;
	} else {
		cut_off("the descriptor that was passed");
	}
}

static void mail_room(struct proa_message *in)
{
	in->control = mail.in_control;
	in->control_length = sizeof mail.in_control;
}

static void mail_attach(struct proa_message *out)
{
	struct cmsghdr *header = (struct cmsghdr *)(void *)mail.out_control;

	memset(mail.out_control, 0, sizeof mail.out_control);
	header->cmsg_len = CMSG_LEN(sizeof(int));
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	memcpy(CMSG_DATA(header), &mail.passed, sizeof mail.passed);
	out->control = mail.out_control;
	out->control_length = CMSG_LEN(sizeof(int));
}

static int mail_listen(proa_handle *listener)
{
	char where[200];
	int error;

	snprintf(where, sizeof where, "unix:%s", scratch_path("mail"));
	unlink(where + 5);
	if (proa_address_parse(&mail.to, where) < 0)
		wrong("an address");
	mail.passed = dup(2);
	error = proa_listen(port, where, NULL, listener);
	if (error == 0)
		own(*listener);
	return error;
}

static void mail_end(void)
{
	close(mail.passed);
	unlink(scratch_path("mail"));
}

#endif

static void mail_received(struct task *task, const struct proa_completion *c)
{
	struct proa_message *in = &mail.in;

	if (!task_fine(task, c, true) || given_up())
		return;
	check_bytes("letter", mail.got, (size_t)c->result, 0);
	if (c->result != LETTER) {
		cut_off("letter");
		return;
	}
	memset(in, 0, sizeof *in);
	mail.room[0] = (struct proa_slice) { .data = mail.got, .length = LETTER };
	in->slices = mail.room;
	in->slice_count = 1;
	mail_room(in);
	proa_prep_recvmsg(&task->op, task->handle, in, 0);
	task_go(task, mail_passed);
}

static void mail_peeked(struct task *task, const struct proa_completion *c)
{
	if (!task_fine(task, c, true) || given_up())
		return;
	check_bytes("peek", mail.got, (size_t)c->result, 0);
	proa_prep_recv(&task->op, task->handle, mail.got, LETTER, PROA_ALL);
	task_go(task, mail_received);
}

static void mail_accepted(struct task *task, const struct proa_completion *c)
{
	if (!task_fine(task, c, true))
		return;
	task->handle = c->result;
	own(c->result);
	if (given_up())
		return;
	proa_prep_recv(&task->op, task->handle, mail.got, 10, PROA_PEEK);
	task_go(task, mail_peeked);
}

static void mail_prepare_message(void)
{
	memset(&mail.out, 0, sizeof mail.out);
	mail.out.slices = mail.slices;
	mail.out.slice_count = 1;
	mail_attach(&mail.out);
}

static void mail_connected(struct task *task, const struct proa_completion *c)
{
	proa_handle to = task->handle;

	if (!task_fine(task, c, true) || given_up())
		return;
	for (size_t i = 0; i < 3; i++)
		mail.slices[i] = (struct proa_slice) { .data = mail.sent + i * (LETTER / 3),
			.length = LETTER / 3 };
	proa_prep_sendv(&task->op, to, mail.slices, 3, 0);
	proa_op_timeout(&task->op, 20 * PROA_SECOND);
	task_go(task, NULL);
	task = task_new();
	mail_prepare_message();
	proa_prep_sendmsg(&task->op, to, &mail.out, 0);
	task_go(task, NULL);
}

void body_mail(void)
{
	struct task *server, *client;
	proa_handle listener;

	fill(mail.sent, LETTER, 0);
	mail.told = false;
	if (!body_open(NULL))
		return;
	if (!erred("proa_listen", mail_listen(&listener))) {
		server = task_new();
		proa_prep_accept(&server->op, listener, &mail.from, 0);
		task_go(server, mail_accepted);
		client = task_new();
		if (erred("proa_socket",
			    proa_socket(port, &mail.to, PROA_STREAM, &client->handle))) {
			give_up();
		} else {
			own(client->handle);
			proa_prep_connect(&client->op, client->handle, &mail.to, 0);
			task_go(client, mail_connected);
		}
	}
	body_close();
	mail_end();
	if (!has_erred() && !mail.told)
		wrong("the mail did not come");
}

/* ---- datagrams ----------------------------------------------------------------------- */

#define LETTERS 6

static struct {
	struct proa_pool *pool;
	struct proa_address to, from;
	unsigned char out[LETTERS][100], in[100];
	unsigned left;
	proa_handle sockets[2];
} post;

static void post_came(void)
{
	if (--post.left == 0)
		proa_cancel_handle(port, post.sockets[1]);
}

/* One that could not be sent, or was lost on its way in, is not waited for. */
static void post_lost(const char *what, int code)
{
	if (erred(what, code))
		give_up();
}

static void post_lent(struct task *task, const struct proa_completion *c)
{
	struct proa_buffer *buffer = proa_lent(c);
	struct proa_address from;

	(void)task;
	if (buffer != NULL) {
		check_bytes("datagram", buffer->data, buffer->length, 0);
		if (proa_lent_from(buffer, &from) < 0)
			wrong("a lent datagram of nobody");
		proa_give_back(buffer);
		post_came();
	} else if (c->result != PROA_ECANCELED) {
		post_lost("recv_multi", c->result);
	}
}

static void post_got(struct task *task, const struct proa_completion *c)
{
	if (c->result == PROA_ECANCELED)
		return;
	if (c->result < 0) {
		post_lost("recvfrom", c->result);
		return;
	}
	check_bytes("datagram", post.in, (size_t)c->result, 0);
	post_came();
	if (given_up() || post.left == 0)
		return;
	proa_prep_recv_multi(&task->op, post.sockets[1], post.pool, 0);
	task_go(task, post_lent);
}

static bool post_open(void)
{
	const struct proa_listen_options datagrams = { .type = PROA_DATAGRAM };
	const struct proa_pool_options few = { .buffer_size = 512, .count = 2, .limit = 2048 };

	for (int i = 0; i < 2; i++) {
		if (erred("proa_listen",
			    proa_listen(port, "127.0.0.1:0", &datagrams, &post.sockets[i])))
			return false;
		own(post.sockets[i]);
	}
	return !erred("proa_local_address", proa_local_address(post.sockets[1], &post.to)) &&
	       !erred("proa_pool_open", proa_pool_open(port, &few, &post.pool));
}

void body_datagrams(void)
{
	struct task *task;

	post.pool = NULL;
	if (!body_open(NULL))
		return;
	if (post_open()) {
		post.left = LETTERS;
		task = task_new();
		proa_prep_recvfrom(
			&task->op, post.sockets[1], post.in, sizeof post.in, &post.from, 0);
		task_go(task, post_got);
		for (int i = 0; i < LETTERS; i++) {
			fill(post.out[i], sizeof post.out[i], 0);
			task = task_new();
			proa_prep_sendto(&task->op, post.sockets[0], post.out[i],
				sizeof post.out[i] - (size_t)i * 20, &post.to, 0);
			task_go(task, NULL);
		}
	}
	body_close();
	proa_pool_close(post.pool);
}

/* ---- datagrams with control data ------------------------------------------------------ */

static union control control_out, control_in;
static struct {
	struct proa_slice sent, room;
	struct proa_message to, from;
	unsigned char bytes[2][64];
} note;

static void note_came(struct task *task, const struct proa_completion *c)
{
	if (!task_fine(task, c, true))
		return;
	check_bytes("a note", note.bytes[1], (size_t)c->result, 0);
	if (c->result != sizeof note.bytes[0])
		wrong("a note of %d bytes", c->result);
	if (!control_tells(&control_in, note.from.control_length))
		wrong("a note that does not say where it came to");
}

/* The first waits for it; for the second it is there already. */
static void note_pass(proa_handle from, proa_handle to, bool waits)
{
	struct task *receiver = task_new(), *sender = task_new();

	memset(&control_in, 0, sizeof control_in);
	note.room = (struct proa_slice) { .data = note.bytes[1], .length = sizeof note.bytes[1] };
	note.from = (struct proa_message) { .slices = &note.room,
		.slice_count = 1,
		.control = &control_in,
		.control_length = sizeof control_in };
	note.sent = (struct proa_slice) { .data = note.bytes[0], .length = sizeof note.bytes[0] };
	note.to.slices = &note.sent;
	note.to.slice_count = 1;
	note.to.control = &control_out;
	note.to.control_length = control_fill(&control_out);
	proa_prep_recvmsg(&receiver->op, to, &note.from, 0);
	proa_prep_sendmsg(&sender->op, from, &note.to, 0);
	if (waits)
		task_go(receiver, note_came);
	task_go(sender, NULL);
	if (!waits)
		body_run();
	if (!waits && !given_up())
		task_go(receiver, note_came);
	body_run();
}

void body_control(void)
{
	fill(note.bytes[0], sizeof note.bytes[0], 0);
	post.pool = NULL;
	if (!body_open(NULL))
		return;
	if (post_open()) {
		if (control_ask((int)post.sockets[1]) < 0)
			wrong("a socket that can't tell where datagrams come to");
		note.to.peer = post.to;
		note_pass(post.sockets[0], post.sockets[1], true);
		if (!given_up())
			note_pass(post.sockets[0], post.sockets[1], false);
	}
	body_close();
	proa_pool_close(post.pool);
}

/* ---- a close that flushes; blocking descriptors of the program's own -------------------- */

#define CHUNK  30000
#define CHUNKS 8

static struct {
	unsigned char out[CHUNK * CHUNKS], in[CHUNK];
	bool ended;
} flush;

static void flush_read(struct task *task, const struct proa_completion *c)
{
	if (c->result == PROA_ECANCELED)
		return;
	if (c->result <= 0) {
		if (erred("recv", c->result))
			give_up();
		if (c->result == 0 && task->at != sizeof flush.out)
			cut_off("flushed");
		flush.ended = true;
		return;
	}
	check_bytes("flushed", flush.in, (size_t)c->result, task->at);
	task->at += (uint64_t)c->result;
	if (given_up())
		return;
	proa_prep_recv(&task->op, task->handle, flush.in, sizeof flush.in, 0);
	task_go(task, flush_read);
}

/* From `ends[1]` to `ends[0]`, closing with what is still to be sent. */
static void run_flush(const proa_handle *ends)
{
	struct task *task = task_new();

	flush.ended = false;
	task->handle = ends[0];
	proa_prep_recv(&task->op, ends[0], flush.in, sizeof flush.in, 0);
	task_go(task, flush_read);
	for (size_t i = 0; i < CHUNKS; i++) {
		task = task_new();
		proa_prep_send(&task->op, ends[1], flush.out + i * CHUNK, CHUNK, 0);
		task_go(task, NULL);
	}
	close_by_op(ends[1], PROA_FLUSH);
	body_run();
	if (!flush.ended && !given_up())
		cut_off("the flush");
}

void body_flush(void)
{
	proa_handle ends[2];

	fill(flush.out, sizeof flush.out, 0);
	if (!body_open(NULL))
		return;
	if (!erred("proa_pair", proa_pair(port, ends))) {
		own(ends[0]);
		own(ends[1]);
		run_flush(ends);
	}
	body_close();
}

static void run_foreign(int *ends)
{
	const proa_handle handles[2] = { ends[0], ends[1] };

	fill(flush.out, sizeof flush.out, 0);
	if (!body_open(NULL)) {
		close(ends[0]);
		close(ends[1]);
		return;
	}
	own(handles[0]);
	own(handles[1]);
	run_flush(handles);
	body_close();
}

void body_foreign_sockets(void)
{
	int ends[2];

	pair_open(ends);
	run_foreign(ends);
}

void body_foreign_pipe(void)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC) < 0)
		wrong("pipe2");
	run_foreign(ends);
}

/* ---- lent one by one, by hand, and back from another thread ------------------------------ */

static struct {
	struct proa_pool *pool;
	proa_handle ends[2];
	unsigned got;
	unsigned char out[4][700];
} loan;

static void *give_back_afar(void *buffer)
{
	proa_give_back(buffer);
	return NULL;
}

static void loan_came(struct task *task, const struct proa_completion *c)
{
	struct proa_buffer *buffer = proa_lent(c);
	pthread_t thread;

	if (buffer == NULL) {
		if (c->result == 0)
			cut_off("a loan");
		else
			task_fine(task, c, true);
		return;
	}
	check_bytes("a loan", buffer->data, buffer->length, loan.got);
	loan.got += buffer->length;
	if (pthread_create(&thread, NULL, give_back_afar, buffer) != 0)
		wrong("no thread");
	pthread_join(thread, NULL);
	if (given_up() || loan.got == sizeof loan.out)
		return;
	proa_prep_recv_lent(&task->op, loan.ends[0], loan.pool, 0);
	task_go(task, loan_came);
}

void body_loans(void)
{
	const struct proa_pool_options few = {
		.buffer_size = 500, .count = 1, .limit = 200, .per_handle = 1
	};
	struct proa_buffer *held[100];
	struct task *task;
	unsigned count = 0;

	fill(loan.out, sizeof loan.out, 0);
	loan.pool = NULL;
	loan.got = 0;
	if (!body_open(NULL))
		return;
	if (!erred("proa_pair", proa_pair(port, loan.ends))) {
		own(loan.ends[0]);
		own(loan.ends[1]);
		if (!erred("proa_pool_open", proa_pool_open(port, &few, &loan.pool))) {
			while (count < 100 && (held[count] = proa_pool_take(loan.pool)) != NULL)
				count++;
			if (count < 100)
				erred("proa_pool_take", PROA_ENOMEM);
			task = task_new();
			proa_prep_recv_lent(&task->op, loan.ends[0], loan.pool, 0);
			task_go(task, loan_came);
			for (int i = 0; i < 4; i++) {
				task = task_new();
				proa_prep_send(&task->op, loan.ends[1], loan.out[i],
					sizeof loan.out[i], 0);
				task_go(task, NULL);
			}
			while (count > 0)
				proa_give_back(held[--count]);
		}
	}
	body_close();
	proa_pool_close(loan.pool);
}

/* ---- what is there before anybody asks ----------------------------------------------------- */

static unsigned late_bytes, late_connections;

static void late_lent(struct task *task, const struct proa_completion *c)
{
	struct proa_buffer *buffer = proa_lent(c);

	if (buffer != NULL) {
		check_bytes("late", buffer->data, buffer->length, late_bytes);
		late_bytes += buffer->length;
		proa_give_back(buffer);
	}
	if (c->flags & PROA_MORE)
		return;
	if (task_fine(task, c, true) && late_bytes != sizeof loan.out)
		cut_off("late");
}

static void late_accepted(struct task *task, const struct proa_completion *c)
{
	if (c->result >= 0) {
		own(c->result);
		late_connections++;
		proa_cancel(&task->op);
	} else if ((c->flags & PROA_MORE) == 0) {
		task_fine(task, c, true);
	} else {
		erred("accept_multi", c->result);
#ifdef _WIN32
		proa_cancel(&task->op); /* the connection may have gone with that */
#endif
	}
}

/* A client of the test's own; its connection waits to be accepted. */
static int late_client(proa_handle listener)
{
	struct proa_address to;
	int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (client < 0)
		wrong("socket");
	if (!erred("proa_local_address", proa_local_address(listener, &to)) &&
		connect(client, &to.to.any, to.length) < 0)
		wrong("connect");
	return client;
}

static void late_receive(void)
{
	struct task *task;

	for (int i = 0; i < 4; i++) {
		task = task_new();
		proa_prep_send(&task->op, loan.ends[1], loan.out[i], sizeof loan.out[i], 0);
		task_go(task, NULL);
	}
	task = task_new();
	proa_prep_shutdown(&task->op, loan.ends[1]);
	task_go(task, NULL);
	body_run();
	if (given_up())
		return;
	task = task_new();
	proa_prep_recv_multi(&task->op, loan.ends[0], loan.pool, 0);
	task_go(task, late_lent);
	body_run();
}

void body_late(void)
{
	const struct proa_pool_options few = { .buffer_size = 500, .count = 4, .limit = 200 };
	proa_handle listener;
	struct task *task;
	int client;

	fill(loan.out, sizeof loan.out, 0);
	loan.pool = NULL;
	late_bytes = late_connections = 0;
	if (!body_open(NULL))
		return;
	if (!erred("proa_pair", proa_pair(port, loan.ends))) {
		own(loan.ends[0]);
		own(loan.ends[1]);
		if (!erred("proa_pool_open", proa_pool_open(port, &few, &loan.pool)))
			late_receive();
	}
	if (!erred("proa_listen", proa_listen(port, "127.0.0.1:0", NULL, &listener))) {
		own(listener);
		client = late_client(listener);
		if (!has_erred()) {
			task = task_new();
			proa_prep_accept_multi(&task->op, listener, 0);
			task_go(task, late_accepted);
			body_run();
			if (late_connections != 1)
				cut_off("a connection");
		}
		close(client);
	}
	body_close();
	proa_pool_close(loan.pool);
}

/* ---- many at once: what grows, grows ------------------------------------------------------- */

#define PAIRS 50

static unsigned char one_byte;

void body_many(void)
{
	proa_handle ends[2];
	struct task *task;
	int high, pair[2];

	if (!body_open(NULL))
		return;
	pair_open(pair);
	ends[1] = pair[1];
#ifdef _WIN32
	high = pair[0]; /* handles have the numbers that the system gives them */
#else
	/* A descriptor beyond the first chunks of the tables. */
	high = fcntl(pair[0], F_DUPFD_CLOEXEC, 9000);
	close(pair[0]);
#endif
	if (high < 0)
		wrong("a high descriptor");
	own(high);
	own(ends[1]);
	task = task_new();
	proa_prep_recv(&task->op, high, &one_byte, 1, 0);
	task_go(task, NULL);
	for (int i = 0; i < PAIRS; i++) {
		if (i > 0) {
			if (erred("proa_pair", proa_pair(port, ends)))
				break;
			own(ends[0]);
			own(ends[1]);
			task = task_new();
			proa_prep_recv(&task->op, ends[0], &one_byte, 1, 0);
			proa_op_timeout(&task->op, 20 * PROA_SECOND);
			task_go(task, NULL);
		}
		task = task_new();
		proa_prep_poll(&task->op, ends[1], PROA_WRITABLE);
		task_go(task, NULL);
		task = task_new();
		proa_prep_send(&task->op, ends[1], "", 1, 0);
		task_go(task, NULL);
	}
	for (int i = 0; i < 400; i++) {
		task = task_new();
		proa_prep_timer(&task->op, 1000);
		task_go(task, NULL);
	}
	if (has_erred())
		give_up();
	body_close();
}

/* ---- cancels ------------------------------------------------------------------------------- */

static void cancelled(struct task *task, const struct proa_completion *c)
{
	if (c->flags & PROA_LENT)
		proa_give_back(proa_lent(c));
	else if (c->result != PROA_EBADF)
		task_fine(task, c, true);
}

static void start_waiting(struct task **waiting, proa_handle a, proa_handle b, proa_handle listener,
	struct proa_pool *pool)
{
	for (int i = 0; i < 8; i++)
		waiting[i] = task_new();
	proa_prep_recv(&waiting[0]->op, a, &one_byte, 1, 0);
	proa_prep_recv(&waiting[1]->op, a, &one_byte, 1, 0);
	proa_prep_poll(&waiting[2]->op, a, PROA_READABLE);
	proa_prep_recv_multi(&waiting[3]->op, b, pool, 0);
	proa_prep_accept_multi(&waiting[4]->op, listener, 0);
	proa_prep_timer(&waiting[5]->op, 3600 * PROA_SECOND);
	proa_prep_interval(&waiting[6]->op, 3600 * PROA_SECOND, PROA_SECOND);
	proa_prep_poll_multi(&waiting[7]->op, b, PROA_READABLE);
	proa_op_deadline(&waiting[7]->op, proa_now(port) + 3600 * PROA_SECOND);
	for (int i = 0; i < 8; i++)
		task_go(waiting[i], cancelled);
}

static void storm(proa_handle *ends, proa_handle listener, struct proa_pool *pool)
{
	struct task *waiting[8], *task;

	for (int round = 0; round < 6; round++) {
		start_waiting(waiting, ends[0], ends[1], listener, pool);
		if (round % 2 == 1)
			proa_run_once(port, 0);
		switch (round) {
		case 0:
		case 1:
			for (int i = 0; i < 8; i++)
				proa_cancel(&waiting[i]->op);
			break;
		case 2:
		case 3:
			proa_cancel_handle(port, ends[0]);
			proa_cancel_handle(port, ends[1]);
			proa_cancel_all(port);
			break;
		default:
			task = task_new();
			proa_prep_timer(&task->op, 0);
			proa_cancel_ticket(port, task_go(task, NULL));
			erred("proa_release", proa_release(port, ends[0]));
			erred("proa_release", proa_release(port, ends[1]));
			proa_cancel_all(port);
			break;
		}
		body_run();
	}
}

void body_cancels(void)
{
	struct proa_pool *pool = NULL;
	proa_handle ends[2], listener;

	if (!body_open(NULL))
		return;
	if (!erred("proa_pair", proa_pair(port, ends))) {
		own(ends[0]);
		own(ends[1]);
		if (!erred("proa_listen", proa_listen(port, "[::1]:0", NULL, &listener))) {
			own(listener);
			if (!erred("proa_pool_open", proa_pool_open(port, NULL, &pool)))
				storm(ends, listener, pool);
		}
	}
	body_close();
	proa_pool_close(pool);
}

/* The IOCP engine: packets, as the completion port gives them, turned into steps. */
#include "engines/iocp/iocp.h"

#include <ntstatus.h>
#include <stdio.h>
#include <stdlib.h>

/* Packets taken in by one turn: so few that what they receive is still in the cache
 * when the program sends it on. */
#define TURN_MOST 64

/* Between tries to cancel what could not be found. */
#define CANCEL_AGAIN PROA_MILLISECOND

/* How long the end of a port waits for packets whose ops have ended. */
#define LATE_MOST_MS 5000

/* ---- packets ------------------------------------------------------------------------ */

/* Does somebody wait for it to end? */
static bool is_to_end(const struct proa_op *op)
{
	return (op->options_ & (OPT_CANCEL | I_CANCELLED)) != 0;
}

/* The handle's driver, or the end of the thread that made the call, cancelled it;
 * we did not: it is made again. */
static bool is_unasked(const struct proa_op *op, NTSTATUS status, uint32_t bytes)
{
	return status == STATUS_CANCELLED && bytes == 0 && !is_to_end(op);
}

/* Wine ends a send that waits when the socket tells of a hang-up, though there is no
 * error: nothing was sent. */
static bool took_nothing(const struct proa_op *op, NTSTATUS status, uint32_t bytes)
{
	return bytes == 0 && NT_SUCCESS(status) && op_sends(op) &&
	       flight(op)->moved < op_length(op);
}

/* A second call finds out what is. Nothing twice is an error: see lane_sent(). */
static bool asks_again(struct proa_op *op, NTSTATUS status, uint32_t bytes)
{
	bool before = (op->options_ & I_NOTHING) != 0;

	if (!op_sends(op))
		return false;
	op->options_ &= (uint16_t)~I_NOTHING;
	if (before || is_to_end(op) || !took_nothing(op, status, bytes))
		return false;
	op->options_ |= I_NOTHING;
	return true;
}

/* A receive that lends: there is something, or the stream has ended. */
static void wait_completed(struct proa_port *port, struct proa_op *op, NTSTATUS status)
{
	struct handle *handle = handle_find(port, op->handle_);
	uint32_t flags = 0;
	int32_t result;

	if (is_to_end(op)) { /* what is there stays there */
		op_stepped(port, op, PROA_ECANCELED, 0);
		return;
	}
	if (NT_SUCCESS(status)) {
		result = iocp_lend(port, op, handle, &flags);
		if (result == PROA_EAGAIN) {
			op_start(port, op);
			return;
		}
	} else if (handle->type == HANDLE_PIPE) {
		result = finish_file(op, status, 0);
	} else {
		result = system_code((unsigned long)status);
	}
	op_stepped(port, op, result, flags);
}

static void try_completed(struct proa_port *port, struct proa_op *op, NTSTATUS status)
{
	uint32_t flags = 0;
	int32_t result;

	if (NT_SUCCESS(status))
		result = attempt(port, op, true, &flags);
	else
		result = system_code((unsigned long)status);
	if (result == PROA_EAGAIN && is_to_end(op))
		result = PROA_ECANCELED;
	if (result == PROA_EAGAIN || result == STEP_LATER)
		result = start_poll(port, op, attempt_descriptor(op), REQUEST_TRY);
	if (result == STEP_TO_WORKER)
		op_to_worker(port, op);
	else if (result != STEP_STARTED)
		op_stepped(port, op, result, flags);
}

static void poll_completed(struct proa_port *port, struct proa_op *op, int32_t result)
{
	if (result == PROA_EAGAIN && !is_to_end(op)) {
		op_start(port, op);
		return;
	}
	op_stepped(port, op, result == PROA_EAGAIN ? PROA_ECANCELED : result, 0);
}

/* The request has done its part. One whose own packet may have been ours, or may
 * still come, waits for the packet that is certain. */
static void retire(struct iocp *iocp, struct request *request, ULONG_PTR key)
{
	if ((request->marks & MARK_DOUBTFUL) && key != KEY_BARRIER) {
		request->marks |= MARK_DONE;
		request->op = NULL;
	} else {
		request_put(iocp, request);
	}
}

static void call_completed(struct proa_port *port, struct request *request, NTSTATUS status,
	uint32_t bytes, ULONG_PTR key)
{
	struct proa_op *op = request->op;
	enum request_kind kind = (enum request_kind)request->kind;
	bool again = is_unasked(op, status, bytes) ||
		     (kind == REQUEST_OP && asks_again(op, status, bytes));
	int32_t result = 0;

	if (kind == REQUEST_POLL && !again)
		result = poll_result(op, (struct large *)request, status);
	else if (kind == REQUEST_OP && !again)
		result = iocp_finish(port, request, status, bytes);
	if (kind == REQUEST_OP && is_to_end(op) && took_nothing(op, status, bytes))
		result = PROA_ECANCELED;
	retire(iocp_of(port), request, key);
	if (kind == REQUEST_AGAIN && is_to_end(op))
		op_stepped(port, op, PROA_ECANCELED, 0);
	else if (again || kind == REQUEST_AGAIN)
		op_start(port, op);
	else if (kind == REQUEST_WAIT)
		wait_completed(port, op, status);
	else if (kind == REQUEST_TRY)
		try_completed(port, op, status);
	else if (kind == REQUEST_POLL)
		poll_completed(port, op, result);
	else
		op_stepped(port, op, result, 0);
}

static void packet(struct proa_port *port, const OVERLAPPED_ENTRY *entry)
{
	struct request *request = (struct request *)(void *)entry->lpOverlapped;
	struct iocp *iocp = iocp_of(port);
	NTSTATUS status;

	if (entry->lpCompletionKey == KEY_WAKE) {
		InterlockedExchange(&iocp->woken, 0);
		return;
	}
	/* What another has posted, or begun, on a handle that is tied to us. */
	if (request == NULL)
		return;
	if ((request->marks & MARK_DOUBTFUL) == 0 || entry->lpCompletionKey == KEY_BARRIER)
		iocp->outstanding--;
	if (request->kind == REQUEST_ACCEPT) {
		accept_completed(
			port, (struct large *)request, (NTSTATUS)request->overlapped.Internal);
		return;
	}
	if (request->op == NULL) { /* the barrier behind a packet that did come */
		retire(iocp, request, entry->lpCompletionKey);
		return;
	}
	status = entry->lpCompletionKey == KEY_BARRIER ? STATUS_BUFFER_OVERFLOW
						       : (NTSTATUS)request->overlapped.Internal;
	call_completed(port, request, status, (uint32_t)request->overlapped.InternalHigh,
		entry->lpCompletionKey);
}

/* Milliseconds, rounded up: a wait that is too short would be one more turn. */
static DWORD in_milliseconds(int64_t ns)
{
	int64_t ms;

	if (ns == PROA_FOREVER)
		return INFINITE;
	ms = ns / PROA_MILLISECOND + (ns % PROA_MILLISECOND > 0);
	return ms > INT32_MAX ? INT32_MAX : (DWORD)ms;
}

static void iocp_turn(struct proa_port *port, int64_t timeout)
{
	struct iocp *iocp = iocp_of(port);
	OVERLAPPED_ENTRY entries[TURN_MOST];
	ULONG count = 0;

	port->stats.system_calls++;
	iocp->running = NULL;
	if (UNLIKELY(iocp->missed != NULL)) {
		requests_cancel_again(port);
		if (iocp->missed != NULL && timeout > CANCEL_AGAIN)
			timeout = CANCEL_AGAIN;
	}
	if (!GetQueuedCompletionStatusEx(
		    iocp->port, entries, TURN_MOST, &count, in_milliseconds(timeout), FALSE)) {
		/* For want of memory, which the kernel takes for that many: it passes. */
		if (GetLastError() != WAIT_TIMEOUT && timeout > 0)
			Sleep(1);
		return;
	}
	for (ULONG i = 0; i < count; i++)
		packet(port, &entries[i]);
	if (iocp->dirty != NULL)
		accepts_replenish(port);
}

/* ---- what else the seam calls ----------------------------------------------------------- */

static void iocp_cancel(struct proa_port *port, struct proa_op *op)
{
	struct request *request = flight(op)->is.engine;

	if (op->options_ & I_CANCELLED)
		return;
	op->options_ |= I_CANCELLED;
	if ((op->kind_ == PROA_OP_ACCEPT || op->kind_ == PROA_OP_ACCEPT_MULTI) &&
		(handle_find(port, op->handle_)->engine & I_DIRECT) == 0) {
		accept_cancel(port, op);
		return;
	}
	request_cancel(port, request);
}

/* At most one packet: each takes memory that is never paged out. The port looks at
 * what woke it after it has taken the packet, so one says as much as many. */
static void iocp_wake(struct proa_port *port)
{
	struct iocp *iocp = iocp_of(port);

	if (InterlockedExchange(&iocp->woken, 1) != 0)
		return;
	/* Memory may be short for the moment; a wake-up must not be lost. */
	while (!PostQueuedCompletionStatus(iocp->port, 0, KEY_WAKE, NULL))
		Sleep(1);
}

/* The kernel holds nothing of a handle but calls, and those have ended. */
static void iocp_forget(struct proa_port *port, proa_handle fd, struct handle *handle)
{
	(void)handle;
	if (UNLIKELY(iocp_of(port)->unadopted != NULL))
		accepts_forget(iocp_of(port), (int)fd);
}

static int iocp_descriptor(struct proa_port *port)
{
	(void)port; /* a completion port is nothing that others could wait for */
	return -1;
}

/* The program's word, else the environment's, of which is passed over what is no number
 * in the range that has a meaning. */
static unsigned accepts_least(const struct proa_port_options *options)
{
	const char *text = system_variable("PROA_ACCEPTS");
	unsigned long asked = text == NULL ? 0 : strtoul(text, NULL, 10);

	if (options->accepts > 0)
		return options->accepts < ACCEPTS_MOST ? options->accepts : ACCEPTS_MOST;
	return asked >= 1 && asked <= ACCEPTS_MOST ? (unsigned)asked : ACCEPTS_LEAST;
}

static int iocp_open(
	struct proa_port *port, const struct proa_port_options *options, char *why, size_t size)
{
	struct iocp *iocp = calloc(1, sizeof *iocp);
	int error;

	if (iocp == NULL) {
		snprintf(why, size, "no memory");
		return PROA_ENOMEM;
	}
	iocp->helper = -1;
	iocp->accepts_least = accepts_least(options);
	iocp->port = CreateIoCompletionPort(INVALID_HANDLE_VALUE, NULL, 0, 1);
	if (iocp->port == NULL) {
		error = windows_error();
		snprintf(why, size, "CreateIoCompletionPort: %s", proa_error_text(error));
		free(iocp);
		return error;
	}
	port->world = iocp;
	port->features = 1u << PROA_NATIVE_FILES | 1u << PROA_NATIVE_SENDFILE;
	return 0;
}

/* The packets of what has ended already: barriers. Their memory may not go before. */
static bool drain(struct iocp *iocp)
{
	OVERLAPPED_ENTRY entries[TURN_MOST];
	ULONGLONG until = GetTickCount64() + LATE_MOST_MS;
	struct request *request;
	ULONG count;

	while (iocp->outstanding > 0 && GetTickCount64() < until) {
		/* A wait that ran out may say that it filled an entry. */
		if (!GetQueuedCompletionStatusEx(
			    iocp->port, entries, TURN_MOST, &count, 100, FALSE))
			continue;
		for (ULONG i = 0; i < count; i++) {
			request = (struct request *)(void *)entries[i].lpOverlapped;
			if (request != NULL && ((request->marks & MARK_DOUBTFUL) == 0 ||
						       entries[i].lpCompletionKey == KEY_BARRIER))
				iocp->outstanding--;
		}
	}
	return iocp->outstanding == 0;
}

static void iocp_close(struct proa_port *port)
{
	struct iocp *iocp = iocp_of(port);

	if (iocp->helper >= 0)
		closesocket(windows_socket_of(iocp->helper));
	accepts_forget(iocp, -1);
	/* Rather lost than written to after they have been freed. */
	if (drain(iocp))
		blocks_free(iocp);
	if (iocp->event != NULL)
		CloseHandle(iocp->event);
	CloseHandle(iocp->port);
	free(iocp);
	port->world = NULL;
}

const struct engine iocp_engine = {
	.name = "iocp",
	.open = iocp_open,
	.close = iocp_close,
	.abandon = iocp_close, /* there are no forks */
	.start = iocp_start,
	.cancel = iocp_cancel,
	.forget = iocp_forget,
	.turn = iocp_turn,
	.wake = iocp_wake,
	.descriptor = iocp_descriptor,
};

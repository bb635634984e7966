/* Accepts: AcceptEx() with sockets made ahead. A multishot accept keeps several
 * calls in flight, more of them while connections come faster than they are made
 * up for. */
#include "engines/iocp/iocp.h"

#include <string.h>

/* 0 or an error. */
static int load(struct iocp *iocp, int fd)
{
	static const GUID accept = WSAID_ACCEPTEX, addresses = WSAID_GETACCEPTEXSOCKADDRS;
	void *function;
	int error = 0;

	/* Listeners are of the base provider, or of a layer that passes these on. */
	if (iocp->accept == NULL) {
		error = windows_extension(fd, &accept, &function);
		iocp->accept = (LPFN_ACCEPTEX)function;
	}
	if (error == 0 && iocp->addresses == NULL) {
		error = windows_extension(fd, &addresses, &function);
		iocp->addresses = (LPFN_GETACCEPTEXSOCKADDRS)function;
	}
	return error;
}

/* What its connections take from a listener. */
static int32_t describe(struct acceptor *acceptor, int fd)
{
	struct sockaddr_storage at;
	int length = sizeof at;
	BOOL no_delay = FALSE, listens = FALSE;

	/* Wine waits for connections to what does not listen. */
	length = sizeof listens;
	if (getsockopt(windows_socket_of(fd), SOL_SOCKET, SO_ACCEPTCONN, (char *)&listens,
		    &length) != 0)
		return windows_socket_error();
	if (!listens)
		return PROA_EINVAL;
	length = sizeof at;
	if (getsockname(windows_socket_of(fd), (struct sockaddr *)&at, &length) != 0)
		return windows_socket_error();
	acceptor->family = at.ss_family;
	length = sizeof no_delay;
	acceptor->no_delay = getsockopt(windows_socket_of(fd), IPPROTO_TCP, TCP_NODELAY,
				     (char *)&no_delay, &length) == 0 &&
			     no_delay;
	return 0;
}

static void forget_request(struct acceptor *acceptor, const struct large *large)
{
	struct large *last = acceptor->requests[--acceptor->count];

	acceptor->requests[large->is.accept.place] = last;
	last->is.accept.place = large->is.accept.place;
}

/* One more call: 0 or an error. */
static int32_t post_one(struct proa_port *port, struct acceptor *acceptor)
{
	struct proa_op *op = acceptor->op;
	struct iocp *iocp = iocp_of(port);
	int fd = windows_socket(acceptor->family, SOCK_STREAM);
	struct large *large;
	DWORD bytes, code;

	port->stats.system_calls += 2;
	if (fd < 0)
		return fd;
	large = (struct large *)request_take(iocp, op, REQUEST_ACCEPT, op->handle_, true);
	if (large == NULL) {
		closesocket(windows_socket_of(fd));
		return PROA_ENOMEM;
	}
	large->is.accept.acceptor = acceptor;
	large->is.accept.fd = fd;
	large->is.accept.place = acceptor->count;
	acceptor->requests[acceptor->count++] = large;
	code = iocp->accept(windows_socket_of(op->handle_), windows_socket_of(fd),
		       large->is.accept.addresses, 0, ACCEPT_ADDRESS, ACCEPT_ADDRESS, &bytes,
		       &large->request.overlapped)
		       ? NO_ERROR
		       : (DWORD)WSAGetLastError();
	if (code == NO_ERROR && (handle_find(port, op->handle_)->engine & I_SKIPS)) {
		/* It began to listen after it had been tied: a packet of our own. */
		code = request_post(iocp, &large->request, KEY_CALL) == STEP_STARTED ? NO_ERROR
										     : WSAENOBUFS;
	} else if (code == NO_ERROR || code == ERROR_IO_PENDING) {
		iocp->outstanding++;
		code = NO_ERROR;
	}
	if (code == NO_ERROR)
		return 0;
	closesocket(windows_socket_of(fd));
	forget_request(acceptor, large);
	request_put(iocp, &large->request);
	return code == WSAECONNRESET ? PROA_ECONNABORTED : system_code(code);
}

/* As many as there should be. 0, or an error if not one is in flight. */
static int32_t post_all(struct proa_port *port, struct acceptor *acceptor)
{
	int32_t error = 0;

	while (acceptor->count < acceptor->target && error == 0)
		error = post_one(port, acceptor);
	return acceptor->count > 0 ? 0 : error;
}

/* ---- a call's end ------------------------------------------------------------------- */

static void cancel_all(struct proa_port *port, struct acceptor *acceptor)
{
	for (unsigned i = 0; i < acceptor->count; i++)
		request_cancel(port, &acceptor->requests[i]->request);
}

void accept_cancel(struct proa_port *port, struct proa_op *op)
{
	struct acceptor *acceptor = flight(op)->is.engine;

	acceptor->error = PROA_ECANCELED;
	cancel_all(port, acceptor);
}

static void mark_dirty(struct iocp *iocp, struct acceptor *acceptor)
{
	if (acceptor->dirty)
		return;
	acceptor->dirty = true;
	acceptor->next = iocp->dirty;
	iocp->dirty = acceptor;
}

/* The op has ended, or will with what its caller reports. */
static void acceptor_end(struct iocp *iocp, struct acceptor *acceptor)
{
	acceptor->op = NULL;
	if (!acceptor->dirty)
		acceptor_put(iocp, acceptor);
}

static void fill_peer(struct iocp *iocp, const struct proa_op *op, struct large *large)
{
	struct proa_address *peer = op->kind_ == PROA_OP_ACCEPT ? op->buffer_ : NULL;
	struct sockaddr *ours, *theirs;
	INT our_length, their_length;

	if (peer == NULL)
		return;
	iocp->addresses(large->is.accept.addresses, 0, ACCEPT_ADDRESS, ACCEPT_ADDRESS, &ours,
		&our_length, &theirs, &their_length);
	peer->length = (uint32_t)their_length;
	memcpy(&peer->to, theirs, (size_t)their_length);
}

/* Of the system's memory: it passes, and the connection is still there. */
static bool is_want(int32_t error)
{
	return error == PROA_ENOMEM || error == PROA_EMFILE;
}

/* A connection: its socket, told whose it is; or an error. The socket is gone then, but
 * if it was for a want: see keep(). */
static int32_t adopt(struct proa_port *port, const struct acceptor *acceptor, struct large *large)
{
	SOCKET listener = windows_socket_of(large->request.fd);
	SOCKET s = windows_socket_of(large->is.accept.fd);
	const BOOL yes = TRUE;
	int32_t error;

	port->stats.system_calls++;
	if (setsockopt(s, SOL_SOCKET, SO_UPDATE_ACCEPT_CONTEXT, (const char *)&listener,
		    sizeof listener) != 0) {
		error = windows_socket_error();
		if (!is_want(error))
			closesocket(s);
		return error == PROA_ENOTCONN ? PROA_ECONNABORTED : error;
	}
	if (acceptor->no_delay)
		setsockopt(s, IPPROTO_TCP, TCP_NODELAY, (const char *)&yes, sizeof yes);
	fill_peer(iocp_of(port), acceptor->op, large);
	return large->is.accept.fd;
}

/* After adopt(): one that waits for memory is the listener's next accept's. */
static void keep(struct iocp *iocp, struct large *large, int32_t result)
{
	if (is_want(result)) {
		large->request.op = NULL;
		large->is.accept.next = iocp->unadopted;
		iocp->unadopted = large;
	} else {
		request_put(iocp, &large->request);
	}
}

/* One of the listener's, taken off; NULL: none. */
static struct large *kept_of(struct iocp *iocp, int listener)
{
	struct large **link = &iocp->unadopted, *large;

	while (*link != NULL && listener != -1 && (*link)->request.fd != listener)
		link = &(*link)->is.accept.next;
	large = *link;
	if (large != NULL)
		*link = large->is.accept.next;
	return large;
}

void accepts_forget(struct iocp *iocp, int listener)
{
	struct large *large;

	while ((large = kept_of(iocp, listener)) != NULL) {
		closesocket(windows_socket_of(large->is.accept.fd));
		request_put(iocp, &large->request);
	}
}

/* Was it the connection that failed, so that the listener may go on? */
static bool is_connections(int32_t error)
{
	return error == PROA_ECONNRESET || error == PROA_ECONNABORTED || error == PROA_ENOTCONN ||
	       error == PROA_ETIMEDOUT || error == PROA_EHOSTUNREACH || error == PROA_ENETUNREACH ||
	       error == PROA_ECANCELED;
}

static void single_completed(struct proa_port *port, struct acceptor *acceptor, int32_t result)
{
	struct proa_op *op = acceptor->op;

	/* lib/ goes on after this one. A cancel that nobody asked for (its thread
	 * ended) is no end either. */
	if (result < 0 && is_connections(result))
		result = acceptor->error < 0 ? acceptor->error : PROA_ECONNABORTED;
	acceptor_end(iocp_of(port), acceptor);
	op_stepped(port, op, result, 0);
}

static void multi_completed(struct proa_port *port, struct acceptor *acceptor, int32_t result)
{
	struct proa_op *op = acceptor->op;

	if (result < 0 && !is_connections(result) && acceptor->error == 0) {
		acceptor->error = result;
		cancel_all(port, acceptor);
	}
	acceptor->taken++;
	if (result >= 0)
		op_stepped(port, op, result, PROA_MORE);
	if (acceptor->error == 0) {
		mark_dirty(iocp_of(port), acceptor);
	} else if (acceptor->count == 0) {
		result = acceptor->error;
		acceptor_end(iocp_of(port), acceptor);
		op_stepped(port, op, result, 0);
	}
}

void accept_completed(struct proa_port *port, struct large *large, NTSTATUS status)
{
	struct acceptor *acceptor = large->is.accept.acceptor;
	int32_t result;

	if (NT_SUCCESS(status)) {
		result = adopt(port, acceptor, large);
	} else {
		closesocket(windows_socket_of(large->is.accept.fd));
		result = system_code((unsigned long)status);
	}
	forget_request(acceptor, large);
	keep(iocp_of(port), large, NT_SUCCESS(status) ? result : 0);
	if (acceptor->op->kind_ == PROA_OP_ACCEPT_MULTI)
		multi_completed(port, acceptor, result);
	else
		single_completed(port, acceptor, result);
}

/* ---- what the seam calls ----------------------------------------------------------------- */

int32_t start_accept(struct proa_port *port, struct proa_op *op, struct handle *handle)
{
	struct iocp *iocp = iocp_of(port);
	struct acceptor *acceptor;
	struct large *large;
	int32_t error = load(iocp, op->handle_);

	(void)handle;
	if (error < 0)
		return error;
	acceptor = acceptor_take(iocp);
	if (acceptor == NULL)
		return PROA_ENOMEM;
	acceptor->op = op;
	acceptor->target = op->kind_ == PROA_OP_ACCEPT_MULTI ? iocp->accepts_least : 1;
	flight(op)->is.engine = acceptor;
	error = describe(acceptor, op->handle_);
	large = error == 0 ? kept_of(iocp, op->handle_) : NULL;
	if (large != NULL) {
		error = adopt(port, acceptor, large);
		keep(iocp, large, error);
	} else if (error == 0) {
		error = post_all(port, acceptor);
		if (error == 0)
			return STEP_STARTED;
	}
	acceptor_put(iocp, acceptor);
	return error;
}

/* ---- after a turn --------------------------------------------------------------------- */

/* Twice as many where half of them, or more, were used up by one turn; one fewer
 * where few were. */
static void adapt(const struct iocp *iocp, struct acceptor *acceptor)
{
	if (acceptor->taken * 2 >= acceptor->target && acceptor->target < ACCEPTS_MOST)
		acceptor->target =
			acceptor->target < ACCEPTS_MOST / 2 ? acceptor->target * 2 : ACCEPTS_MOST;
	else if (acceptor->taken * 8 < acceptor->target && acceptor->target > iocp->accepts_least)
		acceptor->target--;
	acceptor->taken = 0;
}

void accepts_replenish(struct proa_port *port)
{
	struct iocp *iocp = iocp_of(port);
	struct acceptor *acceptor;
	struct proa_op *op;
	int32_t error;

	while ((acceptor = iocp->dirty) != NULL) {
		iocp->dirty = acceptor->next;
		acceptor->dirty = false;
		op = acceptor->op;
		if (op == NULL) {
			acceptor_put(iocp, acceptor);
			continue;
		}
		adapt(iocp, acceptor);
		error = acceptor->error < 0 ? acceptor->error : post_all(port, acceptor);
		if (error == 0 || acceptor->count > 0)
			continue;
		acceptor_end(iocp, acceptor);
		op_stepped(port, op, error, 0);
	}
}

/* What the files of the IOCP engine share.
 *
 * Every call in flight has a request: the OVERLAPPED that the kernel writes to, and
 * whose it is. Requests are the engine's and go back to its lists when their packet
 * has been taken, so an op's memory is never written to after its end, and a packet
 * that comes late finds memory that is still there.
 *
 * Here one thread makes the calls and takes the packets. Shared ports take a packet
 * before the call that it is of has returned: so a request is the op's
 * (flight()->is.engine) before the call, and neither is touched after a call that
 * said "pending". */
#ifndef PROA_ENGINES_IOCP_IOCP_H
#define PROA_ENGINES_IOCP_IOCP_H

#include "engines/windows/windows.h"

#include <winternl.h>

/* Bits of handle->engine. */
#define I_TIED   0x01u /* the port has been told of it, or it can't be */
#define I_SKIPS  0x02u /* what ends at once sends no packet */
#define I_SYNC   0x04u /* a file or pipe that can't overlap: workers */
#define I_DIRECT 0x08u /* a socket that can't: by readiness */
#define I_IFS    0x10u /* a socket of the base provider */

/* In op->options_; 0x0800 is attempt.c's. */
#define I_CANCELLED 0x1000u /* the kernel has been asked to end it */
#define I_TOLD      0x2000u /* lent receives: a worker waits, or has waited, for data */
#define I_NOTHING   0x4000u /* sends: the last call took nothing */

enum request_kind {
	REQUEST_OP, /* the op's own call */
	REQUEST_WAIT, /* a receive of no bytes, or a nudge: start the op again, told */
	REQUEST_TRY, /* a poll: then a try */
	REQUEST_POLL, /* a poll op's */
	REQUEST_ACCEPT,
	REQUEST_AGAIN, /* memory was short: start the op again */
};

/* In request->marks. */
#define MARK_LARGE    0x01u
#define MARK_DOUBTFUL 0x02u /* its own packet may come; ours comes for certain, behind it */
#define MARK_DONE     0x04u /* ... and it came */
#define MARK_BYTES    0x08u /* large->is.bytes is its own */
#define MARK_MISSED   0x10u /* in iocp->missed */

struct request {
	OVERLAPPED overlapped; /* first: packets name it */
	struct proa_op *op; /* NULL: nobody waits for it any more */
	struct request *next; /* free, or in iocp->missed */
	int fd; /* whose call it is */
	uint8_t kind, marks;
	/* Out parameters of WSARecvFrom() and WSARecv(): they live as long as the
	 * OVERLAPPED. */
	INT from_length;
	DWORD flags;
};

/* IOCTL_AFD_POLL takes this and gives it back: known from the sources of those who
 * poll so (libuv, Wine), not from the SDK. */
struct afd_poll {
	LARGE_INTEGER timeout;
	ULONG count;
	ULONG exclusive;
	HANDLE handle;
	ULONG events;
	NTSTATUS status;
};

#define ACCEPT_ADDRESS ((DWORD)sizeof(SOCKADDR_STORAGE) + 16) /* as AcceptEx() has it */

struct acceptor;

struct large {
	struct request request;
	union {
		struct {
			struct acceptor *acceptor;
			struct large *next; /* in iocp->unadopted */
			int fd; /* the connection's socket to be */
			unsigned place; /* in acceptor->requests */
			unsigned char addresses[2 * ACCEPT_ADDRESS];
		} accept;
		struct afd_poll poll;
		WSAMSG message;
		void *bytes; /* a copy's, on the heap */
	} is;
};

#define ACCEPTS_MOST 64
/* Calls of a multishot accept to begin with, and at the least, where neither the port's
 * options nor PROA_ACCEPTS say how many. */
#define ACCEPTS_LEAST 4

/* An accept op: calls that wait for connections, each with a socket made ahead. */
struct acceptor {
	struct proa_op *op; /* NULL: it has ended */
	struct acceptor *next; /* free, or to be looked after at the turn's end */
	unsigned count, target; /* calls in flight, and how many there should be */
	unsigned taken; /* connections of this turn */
	int family;
	int32_t error; /* why it ends; 0: it goes on */
	bool dirty, no_delay;
	struct large *requests[ACCEPTS_MOST];
};

struct block;

struct iocp {
	HANDLE port;
	volatile LONG woken; /* a wake packet is on its way */
	int helper; /* a socket of ours that polls are made on; -1: not yet */
	HANDLE event; /* for reads that need no packet; NULL: not yet */
	size_t outstanding; /* requests whose packets are still to come */
	struct request *small, *large; /* free */
	struct acceptor *acceptors;
	struct block *blocks;
	unsigned accepts_least;
	struct acceptor *dirty;
	struct large *unadopted; /* connections that wait for memory: see adopt() */
	struct request *missed; /* what CancelIoEx() did not find: asked again */
	const struct proa_op *running; /* has been served at once `run` times in a row */
	unsigned run;
	LPFN_CONNECTEX connect;
	LPFN_ACCEPTEX accept;
	LPFN_GETACCEPTEXSOCKADDRS addresses;
	LPFN_TRANSMITFILE transmit;
	LPFN_WSARECVMSG receive;
};

static inline struct iocp *iocp_of(const struct proa_port *port)
{
	return port->world;
}

/* What a packet's key says. */
#define KEY_CALL    0u /* a call has ended */
#define KEY_WAKE    1u
#define KEY_BARRIER 2u /* posted behind a packet that may, or may not, have come */

/* request.c */
struct request *request_take(
	struct iocp *iocp, struct proa_op *op, enum request_kind kind, int fd, bool large);
void request_put(struct iocp *iocp, struct request *request);
struct acceptor *acceptor_take(struct iocp *iocp);
void acceptor_put(struct iocp *iocp, struct acceptor *acceptor);
void blocks_free(struct iocp *iocp);
/* Posts a packet of our own for a request, whose OVERLAPPED tells the rest. */
int32_t request_post(struct iocp *iocp, struct request *request, ULONG_PTR key);
/* Asks the kernel to end the request's call. */
void request_cancel(struct proa_port *port, struct request *request);
/* Asks again for those that it did not find, and that have not ended since. */
void requests_cancel_again(struct proa_port *port);
/* A call was made for `request`, and said `code` (0: done, with `bytes`). Its packet
 * is awaited, or it is finished: STEP_STARTED or a result. */
int32_t request_made(struct proa_port *port, struct handle *handle, struct request *request,
	DWORD code, DWORD bytes);

/* start.c */
int32_t iocp_start(struct proa_port *port, struct proa_op *op, uint32_t *flags);
/* Ties the handle to the completion port, once. 0 or an error. */
int32_t iocp_tie(struct proa_port *port, int fd, struct handle *handle);
/* What the end of an op's own call means, as NTSTATUS; fills what the op names. */
int32_t iocp_finish(
	struct proa_port *port, struct request *request, NTSTATUS status, uint32_t bytes);
/* A lent receive whose data is there. */
int32_t iocp_lend(
	struct proa_port *port, struct proa_op *op, struct handle *handle, uint32_t *flags);

/* file.c */
int32_t start_file(struct proa_port *port, struct proa_op *op, struct handle *handle);
int32_t start_pipe(
	struct proa_port *port, struct proa_op *op, struct handle *handle, uint32_t *flags);
int32_t lend_from_pipe(struct proa_port *port, struct proa_op *op, uint32_t *flags);
int32_t start_sendfile(struct proa_port *port, struct proa_op *op, struct handle *handle);
/* What a call on a file or pipe, made for the op, means when it fails with a code of
 * Win32's: an error, or 0 for an end. */
int32_t file_failed(const struct proa_op *op, DWORD code);
int32_t finish_file(const struct proa_op *op, NTSTATUS status, uint32_t bytes);

/* accept.c */
int32_t start_accept(struct proa_port *port, struct proa_op *op, struct handle *handle);
void accept_completed(struct proa_port *port, struct large *large, NTSTATUS status);
void accept_cancel(struct proa_port *port, struct proa_op *op);
/* Makes the calls that are missing after a turn. */
void accepts_replenish(struct proa_port *port);
/* Closes connections of `listener`, or (-1) of all, that nobody will come for. */
void accepts_forget(struct iocp *iocp, int listener);

/* afd.c */
/* Polls `fd` for an op: STEP_STARTED or an error. */
int32_t start_poll(struct proa_port *port, struct proa_op *op, int fd, enum request_kind kind);
/* A poll op's result. */
int32_t poll_result(const struct proa_op *op, const struct large *large, NTSTATUS status);

#endif

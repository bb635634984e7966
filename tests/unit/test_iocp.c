/* engines/iocp: what its packets are, seen at the completion port itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <malloc.h>
#define WIN32_NO_STATUS /* or windows.h defines a few of ntstatus.h's names */
#include <winsock2.h>
#include <windows.h>
#undef WIN32_NO_STATUS
#include <ntstatus.h>

#include <cmocka.h>

#include <proa/proa.h>

#include "engines/iocp/iocp.h"
#include "lib/thread.h"

static struct proa_port *open_port(void)
{
	struct proa_port *port;

	assert_int_equal(proa_port_open(NULL, &port), 0);
	assert_string_equal(proa_engine_name(port), "iocp");
	return port;
}

/* The packets that lie in the port, taken out; how many of them were wakes. */
static int take_packets(struct proa_port *port, int *wakes)
{
	OVERLAPPED_ENTRY entries[64];
	ULONG count;
	int all = 0;

	*wakes = 0;
	while (GetQueuedCompletionStatusEx(iocp_of(port)->port, entries, 64, &count, 50, FALSE)) {
		all += (int)count;
		for (ULONG i = 0; i < count; i++)
			*wakes += entries[i].lpCompletionKey == KEY_WAKE;
	}
	return all;
}

NTSTATUS NTAPI NtQueryIoCompletion(HANDLE port, int class, void *out, ULONG size, ULONG *length);

/* How many packets lie in the port; they stay there. */
static LONG packets_in(const struct proa_port *port)
{
	LONG depth = -1;

	/* 0: IoCompletionBasicInformation. */
	assert_true(NtQueryIoCompletion(iocp_of(port)->port, 0, &depth, sizeof depth, NULL) >= 0);
	return depth;
}

#define POSTS 1000

struct poster {
	struct proa_port *port;
	struct proa_op ops[POSTS];
};

static unsigned __stdcall post_all(void *argument)
{
	struct poster *poster = argument;

	for (int i = 0; i < POSTS; i++)
		proa_post(poster->port, &poster->ops[i], i, NULL);
	for (int i = 0; i < POSTS; i++)
		proa_wake(poster->port);
	return 0;
}

/* A port that is asleep, as far as other threads know: see port_notify(). */
static void wakes_are_one_packet(void **state)
{
	struct poster *poster = calloc(1, sizeof *poster);
	int wakes, packets;
	thread_id thread;

	(void)state;
	poster->port = open_port();
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < POSTS; i++)
			proa_op_init(&poster->ops[i], poster->port, NULL);
		for (int i = 0; i < 5; i++)
			iocp_engine.wake(poster->port);
		assert_int_equal(thread_start(&thread, post_all, poster), 0);
		thread_join(thread);
		packets = take_packets(poster->port, &wakes);
		assert_int_equal(wakes, 1);
		assert_int_equal(packets, 1);
		/* As the engine does when it takes one: the next wake is a packet again. */
		InterlockedExchange(&iocp_of(poster->port)->woken, 0);
		assert_int_equal(proa_run(poster->port), 0);
	}
	proa_port_close(poster->port);
	free(poster);
}

static void runs(struct proa_port *port, const struct proa_op *op)
{
	for (int i = 0; i < 200 && proa_op_pending(op); i++)
		assert_true(proa_run_once(port, 50 * PROA_MILLISECOND) >= 0);
	assert_false(proa_op_pending(op));
}

static int32_t result;

static void note(struct proa_op *op, const struct proa_completion *c)
{
	(void)op;
	result = c->result;
}

static void discard(struct proa_op *op, const struct proa_completion *c)
{
	if (c->result >= 0)
		proa_discard(op->port, c->result);
}

static void give_back(struct proa_op *op, const struct proa_completion *c)
{
	(void)op;
	proa_give_back(proa_lent(c));
}

static int32_t run(struct proa_port *port, struct proa_op *op)
{
	proa_submit(op, note);
	runs(port, op);
	return result;
}

/* Every call that was made is accounted for when its op has ended: also those whose
 * packet is in doubt (a datagram that was cut, or too long to go), and those that were
 * cancelled. Else the port's end would wait, and give up its memory. */
static void every_packet_is_counted(void **state)
{
	static char bytes[70000];
	struct proa_port *port = open_port();
	struct iocp *iocp = iocp_of(port);
	struct proa_address here;
	proa_handle fd, pair[2];
	ULONGLONG before;
	struct proa_op op;

	(void)state;
	proa_op_init(&op, port, NULL);
	assert_int_equal(proa_address_parse(&here, "127.0.0.1:0"), 0);
	assert_int_equal(proa_listen(port, "127.0.0.1:0",
				 &(struct proa_listen_options) { .type = PROA_DATAGRAM }, &fd),
		0);
	assert_int_equal(proa_local_address(fd, &here), 0);
	for (int i = 0; i < 20; i++) {
		proa_prep_sendto(&op, fd, bytes, sizeof bytes, &here, 0);
		assert_int_equal(run(port, &op), PROA_EMSGSIZE);
		proa_prep_sendto(&op, fd, bytes, 100, &here, 0);
		assert_int_equal(run(port, &op), 100);
		proa_prep_recv(&op, fd, bytes, 10, 0);
		assert_int_equal(run(port, &op), PROA_EMSGSIZE);
	}
	assert_int_equal(proa_pair(port, pair), 0);
	for (int i = 0; i < 20; i++) {
		proa_prep_recv(&op, pair[0], bytes, 10, 0);
		proa_submit(&op, note);
		proa_run_once(port, 0);
		proa_cancel(&op);
		runs(port, &op);
		assert_int_equal(result, PROA_ECANCELED);
	}
	for (int i = 0; i < 20 && iocp->outstanding > 0; i++)
		proa_run_once(port, 10 * PROA_MILLISECOND);
	assert_int_equal(iocp->outstanding, 0);
	proa_discard(port, fd);
	proa_discard(port, pair[0]);
	proa_discard(port, pair[1]);
	before = GetTickCount64();
	assert_int_equal(proa_port_close(port), 0);
	assert_true(GetTickCount64() - before < 4000);
}

static void visit(const struct proa_address *address)
{
	SOCKET client = socket(AF_INET, SOCK_STREAM, 0);

	assert_int_equal(connect(client, &address->to.any, (int)address->length), 0);
	closesocket(client);
}

/* How many calls an accept that goes on has in flight, with `value` in the environment
 * and `asked` in the options; after `clients` have come at once; and after `later` one
 * by one. */
static unsigned calls_in_flight(const char *value, uint32_t asked, int clients, int later)
{
	const struct proa_port_options options = { .engine = "iocp", .accepts = asked };
	struct proa_port *port;
	struct proa_address address;
	struct acceptor *acceptor;
	proa_handle listener;
	struct proa_op op;
	unsigned count;

	_putenv_s("PROA_ACCEPTS", value == NULL ? "" : value);
	assert_int_equal(proa_port_open(&options, &port), 0);
	assert_int_equal(proa_listen(port, "127.0.0.1:0", NULL, &listener), 0);
	assert_int_equal(proa_local_address(listener, &address), 0);
	proa_op_init(&op, port, NULL);
	proa_prep_accept_multi(&op, listener, 0);
	proa_submit(&op, discard);
	assert_true(proa_run_once(port, 0) >= 0);
	acceptor = flight(&op)->is.engine;
	for (int i = 0; i < clients; i++)
		visit(&address);
	while (clients > 0) { /* a turn is to find all that the calls in flight can bring */
		int most = clients < (int)acceptor->count ? clients : (int)acceptor->count;

		for (int i = 0; i < 5000 && packets_in(port) < most; i++)
			Sleep(1);
		assert_int_equal(proa_run_once(port, 0), most);
		clients -= most;
	}
	for (int i = 0; i < later; i++) {
		visit(&address);
		assert_int_equal(proa_run_once(port, 10 * PROA_SECOND), 1);
	}
	count = acceptor->count;
	proa_cancel(&op);
	runs(port, &op);
	proa_discard(port, listener);
	assert_int_equal(proa_port_close(port), 0);
	return count;
}

static void accepts_in_flight(void **state)
{
	(void)state;
	assert_int_equal(calls_in_flight(NULL, 0, 0, 0), 4);
	assert_int_equal(calls_in_flight("1", 0, 0, 0), 1);
	assert_int_equal(calls_in_flight("40", 0, 0, 0), 40);
	assert_int_equal(calls_in_flight("65", 0, 0, 0), 4);
	assert_int_equal(calls_in_flight("many", 0, 0, 0), 4);
	/* The options' word counts more. */
	assert_int_equal(calls_in_flight(NULL, 1, 0, 0), 1);
	assert_int_equal(calls_in_flight("40", 7, 0, 0), 7);
	assert_int_equal(calls_in_flight(NULL, UINT32_MAX, 0, 0), ACCEPTS_MOST);
	/* 4, 8 and 16 are used up, of 32 two. */
	assert_int_equal(calls_in_flight(NULL, 0, 30, 0), 31);
	/* One in a turn is few, but not one of eight; and it ends where it began. */
	assert_int_equal(calls_in_flight(NULL, 0, 30, 80), 8);
	assert_int_equal(calls_in_flight("20", 0, 30, 80), 20);
	_putenv_s("PROA_ACCEPTS", "");
}

/* A socket of the program's, which has said that success sends no packet: of datagrams
 * the engine would not. */
static void spared_by_others(void **state)
{
	struct proa_port *port = open_port();
	struct sockaddr_in here = { .sin_family = AF_INET };
	int length = sizeof here;
	char bytes[8];
	struct proa_op op;
	SOCKET s = WSASocketW(AF_INET, SOCK_DGRAM, 0, NULL, 0, WSA_FLAG_OVERLAPPED);

	(void)state;
	here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	assert_int_equal(bind(s, (struct sockaddr *)&here, sizeof here), 0);
	assert_int_equal(getsockname(s, (struct sockaddr *)&here, &length), 0);
	assert_true(SetFileCompletionNotificationModes(
		(HANDLE)s, FILE_SKIP_COMPLETION_PORT_ON_SUCCESS));
	proa_op_init(&op, port, NULL);
	assert_int_equal(sendto(s, "abc", 3, 0, (struct sockaddr *)&here, sizeof here), 3);
	Sleep(20);
	proa_prep_recv(&op, (proa_handle)s, bytes, sizeof bytes, 0);
	assert_int_equal(run(port, &op), 3);
	proa_discard(port, (proa_handle)s);
	assert_int_equal(proa_port_close(port), 0);
}

/* Pieces of memory that are in use, of the C runtime's heap. */
static size_t pieces_in_use(void)
{
	HANDLE heap = (HANDLE)_get_heap_handle();
	PROCESS_HEAP_ENTRY entry = { .lpData = NULL };
	size_t count = 0;

	assert_true(HeapLock(heap));
	while (HeapWalk(heap, &entry))
		count += (entry.wFlags & PROCESS_HEAP_ENTRY_BUSY) != 0;
	HeapUnlock(heap);
	return count;
}

/* A port with something of each kind of request, ended or cancelled. */
static void live_and_die(void)
{
	static char bytes[100000];
	struct proa_port *port = open_port();
	struct proa_pool_options small = { .buffer_size = 100, .count = 4 };
	struct proa_address address;
	struct proa_pool *pool;
	proa_handle pair[2], listener, dialed, pipes[2];
	struct proa_op multi, accept, op, lent;

	proa_op_init(&multi, port, NULL);
	proa_op_init(&accept, port, NULL);
	proa_op_init(&op, port, NULL);
	proa_op_init(&lent, port, NULL);
	assert_int_equal(proa_pool_open(port, &small, &pool), 0);
	assert_int_equal(proa_pair(port, pair), 0);
	assert_int_equal(proa_pipe(port, 0, &pipes[0], &pipes[1]), 0);
	assert_int_equal(proa_listen(port, "127.0.0.1:0", NULL, &listener), 0);
	assert_int_equal(proa_local_address(listener, &address), 0);
	proa_prep_accept_multi(&accept, listener, 0);
	proa_submit(&accept, discard);
	proa_prep_recv_multi(&multi, pair[0], pool, 0);
	proa_submit(&multi, give_back);
	proa_prep_recv_lent(&lent, pipes[0], pool, 0);
	proa_submit(&lent, give_back);
	proa_prep_dial(&op, &address, 0);
	dialed = run(port, &op);
	assert_true(dialed >= 0);
	proa_prep_send(&op, pair[1], bytes, sizeof bytes, 0);
	assert_int_equal(run(port, &op), sizeof bytes);
	proa_prep_poll(&op, pair[0], PROA_WRITABLE);
	assert_true(run(port, &op) > 0);
	proa_cancel_all(port);
	assert_int_equal(proa_run(port), 0);
	proa_discard(port, dialed);
	proa_discard(port, listener);
	for (int i = 0; i < 2; i++) {
		proa_discard(port, pair[i]);
		proa_discard(port, pipes[i]);
	}
	assert_int_equal(proa_port_close(port), 0);
	proa_pool_close(pool);
}

/* Ports leave neither memory nor handles behind. */
static void nothing_is_left(void **state)
{
	size_t before;
	DWORD handles = 0, now = 0;

	(void)state;
	for (int i = 0; i < 5; i++) /* what is made once in a process */
		live_and_die();
	before = pieces_in_use();
	assert_true(before > 0);
	GetProcessHandleCount(GetCurrentProcess(), &handles);
	for (int i = 0; i < 20; i++)
		live_and_die();
	assert_int_equal(pieces_in_use(), before);
	GetProcessHandleCount(GetCurrentProcess(), &now);
	assert_int_equal(now, handles);
}

/* ---- the system's calls, in our hands --------------------------------------------------- */

/* The linker leads these through here (--wrap): DLLs' functions are called by pointers of
 * these names. */
extern int(WSAAPI *__real___imp_setsockopt)(
	SOCKET s, int level, int name, const char *value, int length);
extern BOOL(WINAPI *__real___imp_GetQueuedCompletionStatusEx)(HANDLE port,
	LPOVERLAPPED_ENTRY entries, ULONG room, PULONG count, DWORD ms, BOOL alertable);

extern int(WSAAPI *__real___imp_WSASend)(SOCKET s, LPWSABUF slices, DWORD count, LPDWORD sent,
	DWORD flags, LPWSAOVERLAPPED overlapped, LPWSAOVERLAPPED_COMPLETION_ROUTINE routine);

extern int(WSAAPI *__real___imp_WSARecv)(SOCKET s, LPWSABUF slices, DWORD count, LPDWORD got,
	LPDWORD flags, LPWSAOVERLAPPED overlapped, LPWSAOVERLAPPED_COMPLETION_ROUTINE routine);

extern int(WSAAPI *__real___imp_getsockopt)(
	SOCKET s, int level, int name, char *value, int *length);
extern int(WSAAPI *__real___imp_WSAIoctl)(SOCKET s, DWORD code, LPVOID in, DWORD in_size,
	LPVOID out, DWORD out_size, LPDWORD bytes, LPWSAOVERLAPPED overlapped,
	LPWSAOVERLAPPED_COMPLETION_ROUTINE routine);
extern BOOL(WINAPI *__real___imp_ReadFile)(
	HANDLE file, LPVOID bytes, DWORD length, LPDWORD moved, LPOVERLAPPED overlapped);
extern BOOL(WINAPI *__real___imp_WriteFile)(
	HANDLE file, LPCVOID bytes, DWORD length, LPDWORD moved, LPOVERLAPPED overlapped);
extern HANDLE(WINAPI *__real___imp_CreateIoCompletionPort)(
	HANDLE file, HANDLE port, ULONG_PTR key, DWORD threads);
extern BOOL(WINAPI *__real___imp_PostQueuedCompletionStatus)(
	HANDLE port, DWORD bytes, ULONG_PTR key, LPOVERLAPPED overlapped);
extern SOCKET(WSAAPI *__real___imp_WSASocketW)(
	int family, int type, int protocol, LPWSAPROTOCOL_INFOW info, GROUP group, DWORD flags);

static int updates_failing; /* of SO_UPDATE_ACCEPT_CONTEXT: so many fail */
static int waits_failing, waits;
static int ports_failing, posts_failing, sockets_failing; /* so many fail */

/* Sockets that were told of their connection: the last, and whose it was said to be. */
static struct told {
	int count;
	SOCKET s, listener;
} told_of_accept, told_of_connect;

static int WSAAPI maybe_setsockopt(SOCKET s, int level, int name, const char *value, int length)
{
	if (level == SOL_SOCKET && name == SO_UPDATE_ACCEPT_CONTEXT && updates_failing > 0) {
		updates_failing--;
		WSASetLastError(WSAENOBUFS);
		return SOCKET_ERROR;
	}
	if (level == SOL_SOCKET && name == SO_UPDATE_ACCEPT_CONTEXT) {
		told_of_accept.count++;
		told_of_accept.s = s;
		told_of_accept.listener =
			length == sizeof(SOCKET) ? *(const SOCKET *)(const void *)value : 0;
	} else if (level == SOL_SOCKET && name == SO_UPDATE_CONNECT_CONTEXT) {
		told_of_connect.count++;
		told_of_connect.s = s;
	}
	return __real___imp_setsockopt(s, level, name, value, length);
}

static bool layered; /* sockets are of a provider whose handles are not the kernel's */

static int WSAAPI maybe_getsockopt(SOCKET s, int level, int name, char *value, int *length)
{
	int answer = __real___imp_getsockopt(s, level, name, value, length);

	if (layered && answer == 0 && level == SOL_SOCKET && name == SO_PROTOCOL_INFOW)
		((WSAPROTOCOL_INFOW *)(void *)value)->dwServiceFlags1 &= ~(DWORD)XP1_IFS_HANDLES;
	return answer;
}

#ifndef SIO_BASE_HANDLE
#	define SIO_BASE_HANDLE 0x48000022u
#endif

static bool tells_no_base; /* SIO_BASE_HANDLE: of what is no socket Windows doesn't either */

static int WSAAPI maybe_ioctl(SOCKET s, DWORD code, LPVOID in, DWORD in_size, LPVOID out,
	DWORD out_size, LPDWORD bytes, LPWSAOVERLAPPED overlapped,
	LPWSAOVERLAPPED_COMPLETION_ROUTINE routine)
{
	if (!tells_no_base || code != SIO_BASE_HANDLE)
		return __real___imp_WSAIoctl(
			s, code, in, in_size, out, out_size, bytes, overlapped, routine);
	WSASetLastError(WSAEOPNOTSUPP);
	return SOCKET_ERROR;
}

int(WSAAPI *__wrap___imp_WSAIoctl)(SOCKET s, DWORD code, LPVOID in, DWORD in_size, LPVOID out,
	DWORD out_size, LPDWORD bytes, LPWSAOVERLAPPED overlapped,
	LPWSAOVERLAPPED_COMPLETION_ROUTINE routine) = maybe_ioctl;

static BOOL WINAPI maybe_wait(
	HANDLE port, LPOVERLAPPED_ENTRY entries, ULONG room, PULONG count, DWORD ms, BOOL alertable)
{
	waits++;
	if (waits_failing == 0)
		return __real___imp_GetQueuedCompletionStatusEx(
			port, entries, room, count, ms, alertable);
	SetLastError(ERROR_NO_SYSTEM_RESOURCES);
	return FALSE;
}

static bool seals_next; /* the next call of those below: see seal() */
static OVERLAPPED *sealed;
static struct request seal_keeps;

/* A call that says "pending", or that success sends a packet, may have had its packet taken,
 * and its request used anew, before it has returned: nobody may look at the request then. So
 * it is put out of reach, until the port takes the packet. */
static void seal(OVERLAPPED *overlapped)
{
	DWORD before;

	seals_next = false;
	sealed = overlapped;
	seal_keeps = *(struct request *)(void *)overlapped;
	if (!VirtualProtect(overlapped, sizeof seal_keeps, PAGE_NOACCESS, &before))
		abort();
}

/* Seals a call that ended with so many bytes. */
static void seal_ended(OVERLAPPED *overlapped, size_t bytes)
{
	overlapped->Internal = 0;
	overlapped->InternalHigh = bytes;
	seal(overlapped);
}

/* A request of the port's, its next one, in a page of its own, as seal() wants it. It is
 * freed after the port. */
static struct request *lone_request(struct proa_port *port)
{
	struct iocp *iocp = iocp_of(port);
	struct request *request =
		VirtualAlloc(NULL, sizeof *request, MEM_COMMIT | MEM_RESERVE, PAGE_READWRITE);

	assert_non_null(request);
	request->next = iocp->small;
	iocp->small = request;
	seals_next = true;
	return request;
}

/* The packet of the sealed call is the port's to take. */
static void unseal(struct proa_port *port)
{
	DWORD before;

	assert_non_null(sealed);
	assert_true(VirtualProtect(sealed, sizeof seal_keeps, PAGE_READWRITE, &before));
	*(struct request *)(void *)sealed = seal_keeps;
	assert_true(PostQueuedCompletionStatus(
		iocp_of(port)->port, (DWORD)sealed->InternalHigh, KEY_CALL, sealed));
	sealed = NULL;
}

static int sends_made;

static int WSAAPI maybe_send(SOCKET s, LPWSABUF slices, DWORD count, LPDWORD sent, DWORD flags,
	LPWSAOVERLAPPED overlapped, LPWSAOVERLAPPED_COMPLETION_ROUTINE routine)
{
	sends_made++;
	if (!seals_next)
		return __real___imp_WSASend(s, slices, count, sent, flags, overlapped, routine);
	seal_ended(overlapped, (size_t)send(s, slices->buf, (int)slices->len, 0));
	WSASetLastError(WSA_IO_PENDING);
	return SOCKET_ERROR;
}

static HANDLE early_port; /* of a receive whose packet is taken inside the call */
static SOCKET early_peer;

static int WSAAPI maybe_receive(SOCKET s, LPWSABUF slices, DWORD count, LPDWORD got, LPDWORD flags,
	LPWSAOVERLAPPED overlapped, LPWSAOVERLAPPED_COMPLETION_ROUTINE routine)
{
	int answer = __real___imp_WSARecv(s, slices, count, got, flags, overlapped, routine);
	OVERLAPPED_ENTRY entry;
	ULONG packets = 0;

	if (!seals_next)
		return answer;
	send(early_peer, "early", 5, 0);
	if (!__real___imp_GetQueuedCompletionStatusEx(
		    early_port, &entry, 1, &packets, 10000, FALSE) ||
		entry.lpOverlapped != overlapped)
		abort();
	seal(overlapped);
	WSASetLastError(WSA_IO_PENDING);
	return SOCKET_ERROR;
}

/* As iocp->transmit. */
static BOOL WINAPI sealing_transmit(SOCKET s, HANDLE file, DWORD length, DWORD part,
	LPOVERLAPPED overlapped, LPTRANSMIT_FILE_BUFFERS buffers, DWORD flags)
{
	(void)s;
	(void)file;
	(void)part;
	(void)buffers;
	(void)flags;
	seal_ended(overlapped, length);
	return TRUE;
}

/* Files whose calls end at once, and send no packet: of FILE_BYTES bytes, of which a call
 * moves FILE_STEP at most. Or, where it is sealed, a packet follows. */
#define FILE_BYTES 10
#define FILE_STEP  4

static bool files_inline;
static char inline_bytes[FILE_BYTES];
static int inline_calls;

static BOOL move_inline(
	char *to, const char *from, DWORD length, LPDWORD moved, LPOVERLAPPED overlapped)
{
	DWORD n = length < FILE_STEP ? length : FILE_STEP;

	inline_calls++;
	if (overlapped->Offset >= FILE_BYTES) {
		SetLastError(ERROR_HANDLE_EOF);
		return FALSE;
	}
	if (n > FILE_BYTES - overlapped->Offset)
		n = FILE_BYTES - overlapped->Offset;
	memcpy(to, from, n);
	if (seals_next) {
		seal_ended(overlapped, n);
		return TRUE;
	}
	*moved = n;
	overlapped->Internal = 0;
	overlapped->InternalHigh = n;
	return TRUE;
}

static BOOL WINAPI maybe_read(
	HANDLE file, LPVOID bytes, DWORD length, LPDWORD moved, LPOVERLAPPED overlapped)
{
	if (!files_inline)
		return __real___imp_ReadFile(file, bytes, length, moved, overlapped);
	return move_inline(bytes, inline_bytes + overlapped->Offset, length, moved, overlapped);
}

static BOOL WINAPI maybe_write(
	HANDLE file, LPCVOID bytes, DWORD length, LPDWORD moved, LPOVERLAPPED overlapped)
{
	if (!files_inline)
		return __real___imp_WriteFile(file, bytes, length, moved, overlapped);
	return move_inline(inline_bytes + overlapped->Offset, bytes, length, moved, overlapped);
}

BOOL(WINAPI *__wrap___imp_ReadFile)
(HANDLE file, LPVOID bytes, DWORD length, LPDWORD moved, LPOVERLAPPED overlapped) = maybe_read;
BOOL(WINAPI *__wrap___imp_WriteFile)
(HANDLE file, LPCVOID bytes, DWORD length, LPDWORD moved, LPOVERLAPPED overlapped) = maybe_write;
int(WSAAPI *__wrap___imp_WSARecv)(SOCKET s, LPWSABUF slices, DWORD count, LPDWORD got,
	LPDWORD flags, LPWSAOVERLAPPED overlapped,
	LPWSAOVERLAPPED_COMPLETION_ROUTINE routine) = maybe_receive;
int(WSAAPI *__wrap___imp_WSASend)(SOCKET s, LPWSABUF slices, DWORD count, LPDWORD sent, DWORD flags,
	LPWSAOVERLAPPED overlapped, LPWSAOVERLAPPED_COMPLETION_ROUTINE routine) = maybe_send;
int(WSAAPI *__wrap___imp_getsockopt)(
	SOCKET s, int level, int name, char *value, int *length) = maybe_getsockopt;
static HANDLE WINAPI maybe_port(HANDLE file, HANDLE port, ULONG_PTR key, DWORD threads)
{
	if (ports_failing == 0)
		return __real___imp_CreateIoCompletionPort(file, port, key, threads);
	ports_failing--;
	SetLastError(ERROR_NOT_ENOUGH_MEMORY);
	return NULL;
}

static BOOL WINAPI maybe_post(HANDLE port, DWORD bytes, ULONG_PTR key, LPOVERLAPPED overlapped)
{
	if (posts_failing == 0)
		return __real___imp_PostQueuedCompletionStatus(port, bytes, key, overlapped);
	posts_failing--;
	SetLastError(ERROR_NO_SYSTEM_RESOURCES);
	return FALSE;
}

static SOCKET WSAAPI maybe_socket(
	int family, int type, int protocol, LPWSAPROTOCOL_INFOW info, GROUP group, DWORD flags)
{
	if (sockets_failing == 0)
		return __real___imp_WSASocketW(family, type, protocol, info, group, flags);
	sockets_failing--;
	WSASetLastError(WSAEAFNOSUPPORT);
	return INVALID_SOCKET;
}

HANDLE(WINAPI *__wrap___imp_CreateIoCompletionPort)
(HANDLE file, HANDLE port, ULONG_PTR key, DWORD threads) = maybe_port;
BOOL(WINAPI *__wrap___imp_PostQueuedCompletionStatus)
(HANDLE port, DWORD bytes, ULONG_PTR key, LPOVERLAPPED overlapped) = maybe_post;
SOCKET(WSAAPI *__wrap___imp_WSASocketW)
(int family, int type, int protocol, LPWSAPROTOCOL_INFOW info, GROUP group,
	DWORD flags) = maybe_socket;
int(WSAAPI *__wrap___imp_setsockopt)(
	SOCKET s, int level, int name, const char *value, int length) = maybe_setsockopt;
BOOL(WINAPI *__wrap___imp_GetQueuedCompletionStatusEx)
(HANDLE port, LPOVERLAPPED_ENTRY entries, ULONG room, PULONG count, DWORD ms,
	BOOL alertable) = maybe_wait;

/* ---- calls and packets, counted ---------------------------------------------------------- */

static int ended;

static void count_end(struct proa_op *op, const struct proa_completion *c)
{
	(void)op;
	assert_int_equal(c->result, 1);
	ended++;
}

#define PEERS 30

/* One wait takes all packets that are there. */
static void waits_take_many(void **state)
{
	struct proa_port *port = open_port();
	proa_handle pairs[PEERS][2];
	struct proa_op ops[PEERS];
	char bytes[PEERS];

	(void)state;
	for (int i = 0; i < PEERS; i++) {
		assert_int_equal(proa_pair(port, pairs[i]), 0);
		proa_op_init(&ops[i], port, NULL);
		proa_prep_recv(&ops[i], pairs[i][0], &bytes[i], 1, 0);
		proa_submit(&ops[i], count_end);
	}
	assert_int_equal(proa_run_once(port, 0), 0);
	for (int i = 0; i < PEERS; i++)
		assert_int_equal(send((SOCKET)pairs[i][1], "x", 1, 0), 1);
	for (int i = 0; i < 500 && packets_in(port) < PEERS; i++)
		Sleep(10);
	assert_int_equal(packets_in(port), PEERS);
	ended = waits = 0;
	assert_int_equal(proa_run_once(port, PROA_SECOND), PEERS);
	assert_int_equal(waits, 1);
	assert_int_equal(ended, PEERS);
	for (int i = 0; i < PEERS; i++) {
		proa_discard(port, pairs[i][0]);
		proa_discard(port, pairs[i][1]);
	}
	assert_int_equal(proa_port_close(port), 0);
}

/* What ends at once has no packet to come: neither one that is waited for, nor one that
 * nobody waits for. */
static void ends_at_once_without_packets(void **state)
{
	struct proa_port *port = open_port();
	struct proa_op send_op, receive_op;
	proa_handle pair[2];
	char byte;

	(void)state;
	assert_int_equal(proa_pair(port, pair), 0);
	proa_op_init(&send_op, port, NULL);
	proa_op_init(&receive_op, port, NULL);
	for (int i = 0; i < 3; i++) {
		proa_prep_send(&send_op, pair[0], "x", 1, 0);
		proa_submit(&send_op, count_end);
		assert_int_equal(iocp_of(port)->outstanding, 0);
		for (int k = 0; k < 500 && recv((SOCKET)pair[1], &byte, 1, MSG_PEEK) < 0; k++)
			Sleep(10);
		proa_prep_recv(&receive_op, pair[1], &byte, 1, 0);
		proa_submit(&receive_op, count_end);
		assert_int_equal(iocp_of(port)->outstanding, 0);
		assert_int_equal(packets_in(port), 0);
		ended = 0;
		assert_int_equal(proa_run_once(port, 0), 2);
		assert_int_equal(ended, 2);
	}
	proa_discard(port, pair[0]);
	proa_discard(port, pair[1]);
	assert_int_equal(proa_port_close(port), 0);
}

#define SMALL_ONES  10
#define SMALL_BYTES 1000
#define LARGE_BYTES 100000

/* These come from the other end while the port works. */
static void expect_bytes(struct proa_port *port, proa_handle end, const char *expected, int length)
{
	static char got[LARGE_BYTES];
	int n;

	while (length > 0) {
		assert_true(proa_run_once(port, PROA_MILLISECOND) >= 0);
		n = recv((SOCKET)end, got, length, 0);
		if (n < 0 && WSAGetLastError() == WSAEWOULDBLOCK)
			continue;
		assert_true(n > 0);
		assert_memory_equal(got, expected, n);
		expected += n;
		length -= n;
	}
}

/* Sends behind one that waits: the calls that are made for all of them. The large one, if
 * there is one, is the last. */
static int calls_for_sends(bool large)
{
	static char bytes[LARGE_BYTES];
	struct proa_port *port = open_port();
	struct proa_op ops[SMALL_ONES + 2];
	struct request *lone;
	proa_handle pair[2];
	int count = SMALL_ONES + 1 + large;

	assert_int_equal(proa_pair(port, pair), 0);
	for (int i = 0; i < LARGE_BYTES; i++)
		bytes[i] = (char)(i % 251);
	for (int i = 0; i < count; i++)
		proa_op_init(&ops[i], port, NULL);
	lone = lone_request(port);
	sends_made = 0;
	proa_prep_send(&ops[0], pair[0], "x", 1, 0);
	for (int i = 0; i < SMALL_ONES; i++)
		proa_prep_send(&ops[1 + i], pair[0], bytes + i * SMALL_BYTES, SMALL_BYTES, 0);
	if (large)
		proa_prep_send(&ops[count - 1], pair[0], bytes, LARGE_BYTES, 0);
	for (int i = 0; i < count; i++)
		proa_submit(&ops[i], note);
	assert_int_equal(sends_made, 1);
	unseal(port);
	expect_bytes(port, pair[1], "x", 1);
	expect_bytes(port, pair[1], bytes, SMALL_ONES * SMALL_BYTES);
	if (large)
		expect_bytes(port, pair[1], bytes, LARGE_BYTES);
	assert_int_equal(proa_run(port), 0);
	for (int i = 0; i < count; i++)
		assert_false(proa_op_pending(&ops[i]));
	proa_discard(port, pair[0]);
	proa_discard(port, pair[1]);
	assert_int_equal(proa_port_close(port), 0);
	VirtualFree(lone, 0, MEM_RELEASE);
	return sends_made;
}

/* Small sends go together, and a large one behind them by itself. */
static void small_sends_are_one_call(void **state)
{
	(void)state;
	assert_int_equal(calls_for_sends(false), 2);
	assert_int_equal(calls_for_sends(true), 3);
}

/* ---- calls whose packet comes first ------------------------------------------------------ */

/* Submits the op, whose call is sealed; nothing looks at the request before its packet has
 * come. What the op gives. */
static int32_t run_sealed(struct proa_port *port, struct proa_op *op)
{
	struct request *lone = lone_request(port);

	proa_submit(op, note);
	assert_ptr_equal(sealed, lone);
	assert_int_equal(proa_run_once(port, 0), 0);
	assert_true(proa_op_pending(op));
	unseal(port);
	runs(port, op);
	/* It is the port's first free one again: another must not be put before it. */
	assert_ptr_equal(iocp_of(port)->small, lone);
	iocp_of(port)->small = lone->next;
	VirtualFree(lone, 0, MEM_RELEASE);
	return result;
}

static proa_handle temporary_file(DWORD flags)
{
	char path[MAX_PATH], folder[MAX_PATH];
	HANDLE file;

	GetTempPathA(sizeof folder, folder);
	assert_true(GetTempFileNameA(folder, "iocp", 0, path) != 0);
	file = CreateFileA(path, GENERIC_READ | GENERIC_WRITE, 0, NULL, CREATE_ALWAYS,
		FILE_FLAG_DELETE_ON_CLOSE | flags, NULL);
	assert_true(file != INVALID_HANDLE_VALUE);
	return (proa_handle)file;
}

static void calls_let_go_of_their_request(void **state)
{
	struct proa_port *port = open_port();
	struct proa_range range = { .offset = 0, .length = 6 };
	proa_handle pair[2], file;
	char bytes[8];
	struct proa_op op;
	DWORD written;

	(void)state;
	assert_int_equal(proa_pair(port, pair), 0);
	proa_op_init(&op, port, NULL);
	early_port = iocp_of(port)->port;
	early_peer = (SOCKET)pair[1];
	proa_prep_recv(&op, pair[0], bytes, sizeof bytes, 0);
	assert_int_equal(run_sealed(port, &op), 5);
	assert_memory_equal(bytes, "early", 5);
	proa_prep_send(&op, pair[0], "send", 4, 0);
	assert_int_equal(run_sealed(port, &op), 4);

	/* Where success sends a packet, it is as good as "pending". */
	file = temporary_file(0);
	assert_true(WriteFile((HANDLE)file, "123456", 6, &written, NULL));
	range.file = file;
	handle_find(port, (int)pair[0])->engine |= I_IFS; /* whose function is kept */
	handle_find(port, (int)pair[0])->engine &= (uint8_t)~I_SKIPS;
	iocp_of(port)->transmit = sealing_transmit;
	proa_prep_sendfile(&op, pair[0], &range, 0);
	assert_int_equal(run_sealed(port, &op), 6);
	proa_discard(port, file);
	proa_discard(port, pair[0]);
	proa_discard(port, pair[1]);
	assert_int_equal(proa_port_close(port), 0);
}

/* On Windows what the cache has is read, and most is written, inside the call; Wine's calls
 * always say "pending". */
static void files_end_at_once(void **state)
{
	struct proa_port *port = open_port();
	char one[3], two[FILE_BYTES];
	struct proa_slice slices[] = { { 3, one }, { 5, two } };
	proa_handle file = temporary_file(FILE_FLAG_OVERLAPPED);
	struct proa_op op;

	(void)state;
	proa_op_init(&op, port, NULL);
	proa_prep_write(&op, file, "", 0, 0); /* ties the file */
	assert_int_equal(run(port, &op), 0);
	assert_true(handle_find(port, (int)file)->engine & I_SKIPS);
	files_inline = true;
	inline_calls = 0;
	proa_prep_write(&op, file, "0123456789", 10, 0);
	assert_int_equal(run(port, &op), 10);
	assert_int_equal(inline_calls, 3);
	assert_memory_equal(inline_bytes, "0123456789", 10);
	/* What is there; no more. */
	proa_prep_read(&op, file, two, 3, 1);
	assert_int_equal(run(port, &op), 3);
	assert_memory_equal(two, "123", 3);
	proa_prep_readv(&op, file, slices, 2, 0);
	assert_int_equal(run(port, &op), 8);
	assert_memory_equal(one, "012", 3);
	assert_memory_equal(two, "34567", 5);
	/* The file's end, after a part and at once. */
	proa_prep_read(&op, file, two, FILE_BYTES, 3);
	assert_int_equal(run(port, &op), 7);
	proa_prep_read(&op, file, two, FILE_BYTES, FILE_BYTES);
	assert_int_equal(run(port, &op), 0);
	assert_int_equal(iocp_of(port)->outstanding, 0);
	assert_int_equal(packets_in(port), 0);
	/* A file whose ends do send their packets. */
	handle_find(port, (int)file)->engine &= (uint8_t)~I_SKIPS;
	proa_prep_read(&op, file, two, 2, 8);
	assert_int_equal(run_sealed(port, &op), 2);
	assert_memory_equal(two, "89", 2);
	proa_prep_write(&op, file, "ab", 2, 8);
	assert_int_equal(run_sealed(port, &op), 2);
	assert_memory_equal(inline_bytes, "01234567ab", 10);
	files_inline = false;
	assert_int_equal(iocp_of(port)->outstanding, 0);
	proa_discard(port, file);
	assert_int_equal(proa_port_close(port), 0);
}

/* ---- accepts and connects ----------------------------------------------------------------- */

#define CLIENTS 3

struct guests {
	struct proa_address address;
	SOCKET clients[CLIENTS];
	proa_handle accepted[CLIENTS], listener;
	int count, wants;
};

static void note_guest(struct proa_op *op, const struct proa_completion *c)
{
	struct guests *guests = op->data;

	if (c->result >= 0)
		guests->accepted[guests->count++] = c->result;
	else if (c->result == PROA_ENOMEM)
		guests->wants++;
	else
		result = c->result;
}

static void invite(struct proa_port *port, struct guests *guests)
{
	memset(guests, 0, sizeof *guests);
	assert_int_equal(proa_listen(port, "127.0.0.1:0", NULL, &guests->listener), 0);
	assert_int_equal(proa_local_address(guests->listener, &guests->address), 0);
	for (int i = 0; i < CLIENTS; i++) {
		guests->clients[i] = socket(AF_INET, SOCK_STREAM, 0);
		assert_int_equal(connect(guests->clients[i], &guests->address.to.any,
					 (int)guests->address.length),
			0);
		assert_int_equal(send(guests->clients[i], "hello", 5, 0), 5);
	}
}

static void part(struct proa_port *port, struct guests *guests)
{
	for (int i = 0; i < CLIENTS; i++)
		closesocket(guests->clients[i]);
	for (int i = 0; i < guests->count; i++)
		proa_discard(port, guests->accepted[i]);
}

/* A connection that the system can't tell its socket of, for want of memory, is not lost:
 * the want is told, and the connection comes when it has passed. */
static void accepts_survive_want(void **state)
{
	struct proa_port *port = open_port();
	struct guests guests;
	struct proa_op accept, receive;
	char bytes[8];

	(void)state;
	invite(port, &guests);
	proa_op_init(&accept, port, &guests);
	proa_op_init(&receive, port, NULL);
	updates_failing = 2;
	proa_prep_accept_multi(&accept, guests.listener, 0);
	proa_submit(&accept, note_guest);
	for (int i = 0; i < 100 && guests.count < CLIENTS; i++)
		assert_true(proa_run_once(port, 50 * PROA_MILLISECOND) >= 0);
	assert_int_equal(guests.count, CLIENTS);
	assert_true(guests.wants > 0);
	assert_true(proa_op_pending(&accept));
	for (int i = 0; i < CLIENTS; i++) {
		proa_prep_recv(&receive, guests.accepted[i], bytes, sizeof bytes, 0);
		assert_int_equal(run(port, &receive), 5);
	}
	proa_cancel(&accept);
	runs(port, &accept);
	proa_discard(port, guests.listener);
	part(port, &guests);
	assert_int_equal(proa_port_close(port), 0);
}

static void single_accepts_survive_want(void **state)
{
	struct proa_port *port = open_port();
	struct guests guests;
	struct proa_address peer;
	struct sockaddr_in first;
	int length = sizeof first;
	struct proa_op accept;
	int32_t one;

	(void)state;
	invite(port, &guests);
	proa_op_init(&accept, port, NULL);
	updates_failing = 1;
	proa_prep_accept(&accept, guests.listener, NULL, 0);
	assert_int_equal(run(port, &accept), PROA_ENOMEM);
	assert_int_equal(getsockname(guests.clients[0], (struct sockaddr *)&first, &length), 0);
	proa_prep_accept(&accept, guests.listener, &peer, 0);
	one = run(port, &accept);
	assert_true(one >= 0);
	assert_int_equal(((struct sockaddr_in *)&peer.to.any)->sin_port, first.sin_port);
	proa_discard(port, one);
	/* Of one that nobody comes for any more the client hears. */
	updates_failing = 1;
	proa_prep_accept(&accept, guests.listener, NULL, 0);
	assert_int_equal(run(port, &accept), PROA_ENOMEM);
	assert_non_null(iocp_of(port)->unadopted);
	proa_discard(port, guests.listener);
	assert_null(iocp_of(port)->unadopted);
	assert_true(recv(guests.clients[1], (char *)&first, 1, 0) <= 0);
	part(port, &guests);
	assert_int_equal(proa_port_close(port), 0);
}

/* On Windows a socket from AcceptEx() or ConnectEx() knows of no connection, for shutdown()
 * or getpeername(), before it has been told. Wine's know of it anyhow: so the calls that tell
 * them are looked at. */
static void sockets_are_told_of_their_connection(void **state)
{
	struct proa_port *port = open_port();
	struct guests guests;
	struct proa_op op, accept;
	SOCKET plain;
	int32_t one;

	(void)state;
	invite(port, &guests);
	proa_op_init(&op, port, NULL);
	proa_op_init(&accept, port, &guests);
	memset(&told_of_accept, 0, sizeof told_of_accept);
	proa_prep_accept(&op, guests.listener, NULL, 0);
	one = run(port, &op);
	assert_true(one >= 0);
	assert_int_equal(told_of_accept.count, 1);
	assert_int_equal(told_of_accept.s, one);
	assert_int_equal(told_of_accept.listener, guests.listener);
	proa_discard(port, one);

	proa_prep_accept_multi(&accept, guests.listener, 0);
	proa_submit(&accept, note_guest);
	for (int want = 1; want < CLIENTS; want++) {
		for (int i = 0; i < 100 && guests.count < want; i++)
			assert_true(proa_run_once(port, 50 * PROA_MILLISECOND) >= 0);
		assert_true(guests.count >= want);
	}
	assert_int_equal(told_of_accept.count, CLIENTS);
	assert_int_equal(told_of_accept.s, guests.accepted[guests.count - 1]);
	assert_int_equal(told_of_accept.listener, guests.listener);
	proa_cancel(&accept);
	runs(port, &accept);

	memset(&told_of_connect, 0, sizeof told_of_connect);
	proa_prep_dial(&op, &guests.address, 0);
	one = run(port, &op);
	assert_true(one >= 0);
	assert_int_equal(told_of_connect.count, 1);
	assert_int_equal(told_of_connect.s, one);
	proa_discard(port, one);
	plain = WSASocketW(AF_INET, SOCK_STREAM, 0, NULL, 0, WSA_FLAG_OVERLAPPED);
	proa_prep_connect(&op, (proa_handle)plain, &guests.address, 0);
	assert_int_equal(run(port, &op), 0);
	assert_int_equal(told_of_connect.count, 2);
	assert_int_equal(told_of_connect.s, plain);
	proa_discard(port, (proa_handle)plain);
	/* Of one that failed there is nothing to be told. */
	proa_discard(port, guests.listener);
	proa_prep_dial(&op, &guests.address, 0);
	assert_int_equal(run(port, &op), PROA_ECONNREFUSED);
	assert_int_equal(told_of_connect.count, 2);
	part(port, &guests);
	assert_int_equal(proa_port_close(port), 0);
}

/* The op is submitted, and its packet is to come, even if the call has ended at once. */
static int32_t run_by_packet(struct proa_port *port, struct proa_op *op)
{
	proa_submit(op, note);
	assert_true(proa_op_pending(op));
	assert_int_equal(iocp_of(port)->outstanding, 1);
	runs(port, op);
	assert_int_equal(iocp_of(port)->outstanding, 0);
	return result;
}

/* Such a provider sends its own packets, and has functions of its own. */
static void layered_sockets(void **state)
{
	struct proa_port *port = open_port();
	struct proa_op accept, op;
	struct proa_address address;
	proa_handle listener, ends[2], mail;
	char bytes[8], control[64];
	struct proa_slice slice = { sizeof bytes, bytes };
	struct proa_message message = { .slices = &slice, .slice_count = 1, .control = control };

	(void)state;
	layered = true;
	proa_op_init(&accept, port, NULL);
	proa_op_init(&op, port, NULL);
	assert_int_equal(proa_listen(port, "127.0.0.1:0", NULL, &listener), 0);
	assert_int_equal(proa_local_address(listener, &address), 0);
	for (int i = 0; i < 2; i++) {
		proa_prep_dial(&op, &address, 0);
		ends[0] = run(port, &op);
		assert_true(ends[0] >= 0);
		proa_prep_accept(&accept, listener, NULL, 0);
		ends[1] = run(port, &accept);
		assert_true(ends[1] >= 0);
		for (int k = 0; k < 2; k++) { /* there and back */
			proa_prep_send(&op, ends[k], "echo", 4, 0);
			assert_int_equal(run_by_packet(port, &op), 4);
			memset(bytes, 0, sizeof bytes);
			proa_prep_recv(&op, ends[!k], bytes, sizeof bytes, 0);
			assert_int_equal(run_by_packet(port, &op), 4);
			assert_memory_equal(bytes, "echo", 4);
			assert_int_equal(handle_find(port, (int)ends[k])->engine, I_TIED);
		}
		proa_discard(port, ends[0]);
		proa_discard(port, ends[1]);
	}
	assert_int_equal(proa_listen(port, "127.0.0.1:0",
				 &(struct proa_listen_options) { .type = PROA_DATAGRAM }, &mail),
		0);
	assert_int_equal(proa_local_address(mail, &address), 0);
	for (int i = 0; i < 2; i++) {
		proa_prep_sendto(&op, mail, "mail", 4, &address, 0);
		assert_int_equal(run_by_packet(port, &op), 4);
		message.control_length = sizeof control;
		proa_prep_recvmsg(&op, mail, &message, 0);
		assert_int_equal(run_by_packet(port, &op), 4);
	}
	assert_true(iocp_of(port)->connect == NULL);
	assert_true(iocp_of(port)->receive == NULL);
	layered = false;
	proa_discard(port, mail);
	proa_discard(port, listener);
	assert_int_equal(proa_port_close(port), 0);
}

/* What the driver is asked of: where the provider does not tell, the socket itself, and for
 * what is no socket nothing. */
static void polls_without_a_base(void **state)
{
	struct proa_port *port = open_port();
	proa_handle pair[2];
	struct proa_op op;
	HANDLE pipe[2];
	SOCKET six;

	(void)state;
	assert_int_equal(proa_pair(port, pair), 0);
	assert_true(CreatePipe(&pipe[0], &pipe[1], NULL, 0));
	proa_op_init(&op, port, NULL);
	tells_no_base = true;
	proa_prep_poll(&op, (proa_handle)pipe[0], PROA_READABLE);
	assert_int_equal(run(port, &op), PROA_EOPNOTSUPP);
	assert_int_equal(iocp_of(port)->helper, -1);
	proa_prep_poll(&op, pair[0], PROA_WRITABLE);
	sockets_failing = 1; /* no IPv4 */
	six = socket(AF_INET6, SOCK_DGRAM, 0);
	if (six == INVALID_SOCKET)
		print_message("not shown: polls by IPv6, which is not here\n");
	assert_int_equal(
		run(port, &op), six == INVALID_SOCKET ? PROA_EAFNOSUPPORT : (int32_t)PROA_WRITABLE);
	closesocket(six);
	assert_int_equal(sockets_failing, 0);
	proa_prep_poll(&op, pair[0], PROA_WRITABLE);
	assert_int_equal(run(port, &op), PROA_WRITABLE);
	tells_no_base = false;
	CloseHandle(pipe[0]);
	CloseHandle(pipe[1]);
	proa_discard(port, pair[0]);
	proa_discard(port, pair[1]);
	assert_int_equal(proa_port_close(port), 0);
}

/* The wait that takes memory may be refused it: then the port looks again, but does not
 * spin. */
static void waits_that_fail_are_made_again(void **state)
{
	struct proa_port *port = open_port();
	struct proa_op timer;

	(void)state;
	proa_op_init(&timer, port, NULL);
	proa_prep_timer(&timer, 100 * PROA_MILLISECOND);
	waits_failing = 1;
	waits = 0;
	assert_int_equal(run(port, &timer), 0);
	assert_in_range(waits, 1, 200);
	waits_failing = 0;
	proa_prep_timer(&timer, PROA_MILLISECOND);
	assert_int_equal(run(port, &timer), 0);
	assert_int_equal(proa_port_close(port), 0);
}

/* Without a completion port there is no iocp, and it says why. */
static void ports_that_fail_say_why(void **state)
{
	const struct proa_port_options options = { .engine = "iocp" };
	struct proa_port *port;

	(void)state;
	ports_failing = 1;
	assert_int_equal(proa_port_open(&options, &port), PROA_ENOMEM);
	assert_int_equal(ports_failing, 0);
	assert_non_null(strstr(proa_port_open_why(), "CreateIoCompletionPort"));
}

static int32_t poll_writable(struct proa_port *port, struct proa_op *op, proa_handle fd)
{
	proa_prep_poll(op, fd, PROA_WRITABLE);
	return run(port, op);
}

/* The socket that polls are made on: any family's will do, and without one the poll ends. */
static void polls_need_a_socket(void **state)
{
	struct proa_port *port = open_port();
	proa_handle pair[2];
	struct proa_op op;

	(void)state;
	assert_int_equal(proa_pair(port, pair), 0);
	proa_op_init(&op, port, NULL);
	sockets_failing = 2;
	assert_int_equal(poll_writable(port, &op, pair[0]), PROA_EAFNOSUPPORT);
	assert_int_equal(sockets_failing, 0);
	ports_failing = 1;
	assert_int_equal(poll_writable(port, &op, pair[0]), PROA_ENOMEM);
	assert_int_equal(ports_failing, 0);
	assert_int_equal(iocp_of(port)->helper, -1);
	sockets_failing = 1; /* no IPv4 */
	assert_int_equal(poll_writable(port, &op, pair[0]), PROA_WRITABLE);
	assert_int_equal(sockets_failing, 0);
	assert_int_equal(poll_writable(port, &op, pair[1]), PROA_WRITABLE);
	proa_discard(port, pair[0]);
	proa_discard(port, pair[1]);
	assert_int_equal(proa_port_close(port), 0);
}

/* What the driver says that polls can't be made to come to here. */
static void polls_that_end_oddly(void **state)
{
	struct large large = { 0 };
	struct proa_op op = { .kind_ = PROA_OP_POLL, .flags_ = PROA_READABLE };

	(void)state;
	assert_int_equal(poll_result(&op, &large, STATUS_INSUFFICIENT_RESOURCES), PROA_ENOMEM);
	assert_int_equal(poll_result(&op, &large, 0), PROA_EAGAIN);
	large.is.poll.count = 1;
	large.is.poll.events = 0x20; /* AFD_LOCAL_CLOSE */
	assert_int_equal(poll_result(&op, &large, 0), PROA_EBADF);
	large.is.poll.events = 0x10; /* AFD_ABORT */
	assert_int_equal(poll_result(&op, &large, 0), PROA_READABLE | PROA_HANGUP);
}

/* What a receive waited for may be gone when its packet is taken, for somebody else had the
 * socket as well: it waits for more. */
static void what_had_come_is_gone(void **state)
{
	struct proa_port *port = open_port();
	struct proa_pool *pool;
	struct proa_op op;
	proa_handle pair[2];
	char byte;

	(void)state;
	assert_int_equal(proa_pair(port, pair), 0);
	assert_int_equal(proa_pool_open(port, NULL, &pool), 0);
	proa_op_init(&op, port, NULL);
	for (int lends = 0; lends < 2; lends++) {
		if (lends)
			proa_prep_recv_lent(&op, pair[1], pool, 0);
		else
			proa_prep_recv(&op, pair[1], &byte, 1, PROA_PEEK);
		result = 0;
		proa_submit(&op, lends ? give_back : note);
		assert_int_equal(proa_run_once(port, 0), 0);
		assert_int_equal(send((SOCKET)pair[0], "x", 1, 0), 1);
		for (int k = 0; k < 500 && packets_in(port) == 0; k++)
			Sleep(10);
		assert_int_equal(recv((SOCKET)pair[1], &byte, 1, 0), 1);
		assert_int_equal(proa_run_once(port, 50 * PROA_MILLISECOND), 0);
		assert_true(proa_op_pending(&op));
		assert_int_equal(send((SOCKET)pair[0], "y", 1, 0), 1);
		runs(port, &op);
		if (!lends) {
			assert_int_equal(result, 1);
			assert_int_equal(byte, 'y');
			assert_int_equal(recv((SOCKET)pair[1], &byte, 1, 0), 1);
		}
	}
	proa_discard(port, pair[0]);
	proa_discard(port, pair[1]);
	proa_pool_close(pool);
	assert_int_equal(proa_port_close(port), 0);
}

/* What is still out when nothing is in flight any more is taken out of the port before the
 * memory goes that it names. */
static void late_packets_are_waited_for(void **state)
{
	static struct request late, doubtful = { .marks = MARK_DOUBTFUL };
	struct proa_port *port = open_port();
	HANDLE kernel = iocp_of(port)->port;
	ULONGLONG before = GetTickCount64();

	(void)state;
	iocp_of(port)->outstanding = 2;
	assert_true(PostQueuedCompletionStatus(kernel, 0, KEY_CALL, &late.overlapped));
	assert_true(PostQueuedCompletionStatus(kernel, 0, KEY_CALL, &doubtful.overlapped));
	assert_true(PostQueuedCompletionStatus(kernel, 0, KEY_BARRIER, &doubtful.overlapped));
	assert_true(PostQueuedCompletionStatus(kernel, 0, KEY_WAKE, NULL));
	assert_int_equal(proa_port_close(port), 0);
	assert_true(GetTickCount64() - before < 4000);
}

/* Packets of our own may be refused for want of memory: a poll's is told, a wake-up is
 * sent again. */
static void packets_that_fail(void **state)
{
	struct proa_port *port = open_port();
	struct iocp *iocp = iocp_of(port);
	char path[MAX_PATH], folder[MAX_PATH];
	struct proa_op op;
	int wakes;
	HANDLE file;

	(void)state;
	GetTempPathA(sizeof folder, folder);
	assert_int_not_equal(GetTempFileNameA(folder, "poll", 0, path), 0);
	file = CreateFileA(path, GENERIC_READ | GENERIC_WRITE, 0, NULL, OPEN_EXISTING,
		FILE_FLAG_OVERLAPPED | FILE_FLAG_DELETE_ON_CLOSE, NULL);
	assert_ptr_not_equal(file, INVALID_HANDLE_VALUE);
	proa_op_init(&op, port, NULL);
	posts_failing = 1;
	proa_prep_poll_multi(&op, (proa_handle)file, PROA_READABLE);
	assert_int_equal(run(port, &op), PROA_ENOMEM);
	assert_int_equal(posts_failing, 0);
	assert_int_equal(iocp->outstanding, 0);
	proa_discard(port, (proa_handle)file);
	posts_failing = 2;
	iocp_engine.wake(port);
	assert_int_equal(posts_failing, 0);
	assert_int_equal(take_packets(port, &wakes), 1);
	assert_int_equal(wakes, 1);
	assert_int_equal(proa_port_close(port), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(wakes_are_one_packet),
		cmocka_unit_test(every_packet_is_counted),
		cmocka_unit_test(accepts_in_flight),
		cmocka_unit_test(spared_by_others),
		cmocka_unit_test(nothing_is_left),
		cmocka_unit_test(waits_take_many),
		cmocka_unit_test(ends_at_once_without_packets),
		cmocka_unit_test(small_sends_are_one_call),
		cmocka_unit_test(calls_let_go_of_their_request),
		cmocka_unit_test(files_end_at_once),
		cmocka_unit_test(accepts_survive_want),
		cmocka_unit_test(single_accepts_survive_want),
		cmocka_unit_test(sockets_are_told_of_their_connection),
		cmocka_unit_test(layered_sockets),
		cmocka_unit_test(polls_without_a_base),
		cmocka_unit_test(waits_that_fail_are_made_again),
		cmocka_unit_test(ports_that_fail_say_why),
		cmocka_unit_test(polls_need_a_socket),
		cmocka_unit_test(polls_that_end_oddly),
		cmocka_unit_test(what_had_come_is_gone),
		cmocka_unit_test(late_packets_are_waited_for),
		cmocka_unit_test(packets_that_fail),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* An echo server on Windows' completion ports alone: what docs/book/3-from-iocp.md
 * compares ours with. tests/examples.py runs it, so that the chapter tells no tales.
 *
 *   raw_iocp [PORT]         7000 if none is given */
#include <winsock2.h>
#include <ws2tcpip.h>
#include <mswsock.h>
#include <stdio.h>
#include <stdlib.h>

enum doing { ACCEPTING, RECEIVING, SENDING };

/* The OVERLAPPED comes first: its address is the struct's. */
struct conn {
	OVERLAPPED overlapped;
	enum doing doing;
	SOCKET sock;
	DWORD length, sent;
	char bytes[4096];
};

static HANDLE port;
static SOCKET listener;
static LPFN_ACCEPTEX accept_ex;

static void conn_close(struct conn *conn)
{
	/* Nothing else may be in flight, or it would complete into freed memory. */
	closesocket(conn->sock);
	free(conn);
}

static void conn_receive(struct conn *conn)
{
	WSABUF room = { sizeof conn->bytes, conn->bytes };
	DWORD flags = 0;

	conn->doing = RECEIVING;
	memset(&conn->overlapped, 0, sizeof conn->overlapped);
	if (WSARecv(conn->sock, &room, 1, NULL, &flags, &conn->overlapped, NULL) != 0 &&
		WSAGetLastError() != WSA_IO_PENDING)
		conn_close(conn);
}

static void conn_send(struct conn *conn)
{
	WSABUF rest = { conn->length - conn->sent, conn->bytes + conn->sent };

	conn->doing = SENDING;
	memset(&conn->overlapped, 0, sizeof conn->overlapped);
	if (WSASend(conn->sock, &rest, 1, NULL, 0, &conn->overlapped, NULL) != 0 &&
		WSAGetLastError() != WSA_IO_PENDING)
		conn_close(conn);
}

/* AcceptEx wants the new socket beforehand, and room for both addresses. */
static void accept_next(void)
{
	struct conn *conn = calloc(1, sizeof *conn);
	const DWORD room = sizeof(struct sockaddr_storage) + 16;
	DWORD got;

	if (conn == NULL)
		abort();
	conn->doing = ACCEPTING;
	conn->sock = WSASocketW(AF_INET, SOCK_STREAM, IPPROTO_TCP, NULL, 0, WSA_FLAG_OVERLAPPED);
	if (conn->sock == INVALID_SOCKET || (!accept_ex(listener, conn->sock, conn->bytes, 0, room,
						     room, &got, &conn->overlapped) &&
						    WSAGetLastError() != ERROR_IO_PENDING))
		abort(); /* a server that lives would wait and try again */
}

static void accepted(struct conn *conn)
{
	accept_next();
	if (setsockopt(conn->sock, SOL_SOCKET, SO_UPDATE_ACCEPT_CONTEXT, (char *)&listener,
		    sizeof listener) != 0 ||
		CreateIoCompletionPort((HANDLE)conn->sock, port, 0, 0) == NULL)
		conn_close(conn);
	else
		conn_receive(conn);
}

static void serve(struct conn *conn, BOOL ok, DWORD bytes)
{
	switch (conn->doing) {
	case ACCEPTING:
		if (ok) {
			accepted(conn);
		} else { /* a client that was gone already */
			accept_next();
			conn_close(conn);
		}
		break;
	case RECEIVING:
		conn->length = bytes;
		conn->sent = 0;
		if (ok && bytes > 0)
			conn_send(conn);
		else
			conn_close(conn);
		break;
	case SENDING:
		conn->sent += bytes;
		if (!ok)
			conn_close(conn);
		else if (conn->sent < conn->length)
			conn_send(conn);
		else
			conn_receive(conn);
		break;
	}
}

int main(int argc, char **argv)
{
	struct sockaddr_in where = { .sin_family = AF_INET };
	GUID which = WSAID_ACCEPTEX;
	WSADATA data;
	DWORD bytes;

	if (WSAStartup(MAKEWORD(2, 2), &data) != 0)
		return 1;
	where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	where.sin_port = htons((u_short)(argc > 1 ? atoi(argv[1]) : 7000));
	port = CreateIoCompletionPort(INVALID_HANDLE_VALUE, NULL, 0, 1);
	listener = WSASocketW(AF_INET, SOCK_STREAM, IPPROTO_TCP, NULL, 0, WSA_FLAG_OVERLAPPED);
	if (port == NULL || listener == INVALID_SOCKET ||
		bind(listener, (struct sockaddr *)&where, sizeof where) != 0 ||
		listen(listener, SOMAXCONN) != 0 ||
		CreateIoCompletionPort((HANDLE)listener, port, 0, 0) == NULL ||
		WSAIoctl(listener, SIO_GET_EXTENSION_FUNCTION_POINTER, &which, sizeof which,
			&accept_ex, sizeof accept_ex, &bytes, NULL, NULL) != 0) {
		fprintf(stderr, "raw_iocp: error %d\n", WSAGetLastError());
		return 1;
	}
	accept_next();
	for (;;) {
		OVERLAPPED *overlapped = NULL;
		ULONG_PTR key;
		BOOL ok = GetQueuedCompletionStatus(port, &bytes, &key, &overlapped, INFINITE);

		if (overlapped == NULL)
			return 1;
		serve((struct conn *)overlapped, ok, bytes);
	}
}

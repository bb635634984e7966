/* lib/address.c and engines/unix/socket.c: addresses as text, the sockets that
 * are made from them, and what stands behind a descriptor. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#ifdef __linux__
#	include <sys/epoll.h>
#	include <sys/eventfd.h>
#	include <sys/timerfd.h>
#endif

#include <cmocka.h>

#include <proa/proa.h>

#include "engines/unix/unix.h"

#define UNIX_PATH_ROOM sizeof(((struct sockaddr_un *)0)->sun_path)

static void both_ways(void **state)
{
	static const char *const good[] = {
		"1.2.3.4:80",
		"0.0.0.0:0",
		"255.255.255.255:65535",
		"[::]:0",
		"[::1]:80",
		"[2001:db8::5:6]:443",
		"[::ffff:1.2.3.4]:80",
		"[fe80::1%77777]:80",
		"unix:/run/some.socket",
		"unix:relative",
		"unix:./@name",
		"unix:/with:colon",
#ifdef __linux__
		"unix:@abstract",
		"unix:@with:colon",
#endif
	};
	char text[PROA_ADDRESS_TEXT];
	struct proa_address address;

	(void)state;
	for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
		assert_int_equal(proa_address_parse(&address, good[i]), 0);
		assert_int_equal(proa_address_text(&address, text, sizeof text), strlen(good[i]));
		assert_string_equal(text, good[i]);
	}
}

static void refused(void **state)
{
	static const char *const bad[] = {
		"",
		":",
		":80",
		"1.2.3.4",
		"1.2.3.4:",
		"1.2.3.4:65536",
		"1.2.3.4:-1",
		"1.2.3.4:+1",
		"1.2.3.4: 80",
		" 1.2.3.4:80",
		"1.2.3.4:80 ",
		"1.2.3.4:080",
		"1.2.3.4:99999999999999999999",
		"1.2.3:80",
		"1.2.3.4.5:80",
		"1.2.3.256:80",
		"01.2.3.4:80",
		"0x1.2.3.4:80",
		"localhost:80",
		"*:80",
		"::1:80",
		"[::1]",
		"[::1]80",
		"[::1:80",
		"::1]:80",
		"[]:80",
		"[:80",
		"[::1]]:80",
		"[1.2.3.4]:80",
		"[::1]:65536",
		"[:::1]:80",
		"[::1::2]:80",
		"[fe80::1%]:80",
		"[fe80::1%nosuchinterface]:80",
		"[fe80::1%0]:80",
		"[fe80::1%4294967296]:80",
		"[%lo]:80",
		"unix:",
		"unix",
		"UNIX:/a",
		"tcp:1.2.3.4:80",
#ifdef __linux__
		"unix:@",
#endif
	};
	struct proa_address address, before;

	(void)state;
	memset(&address, 0x5a, sizeof address);
	before = address;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		if (proa_address_parse(&address, bad[i]) != PROA_EINVAL)
			fail_msg("\"%s\" was taken", bad[i]);
		assert_memory_equal(&address, &before, sizeof address);
	}
}

static void internet_fields(void **state)
{
	struct proa_address address;
	const struct sockaddr_in *four = (const struct sockaddr_in *)&address.to.storage;
	const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)&address.to.storage;

	(void)state;
	assert_int_equal(proa_address_parse(&address, "1.2.3.4:258"), 0);
	assert_int_equal(address.length, sizeof *four);
	assert_int_equal(four->sin_family, AF_INET);
	assert_int_equal(ntohs(four->sin_port), 258);
	assert_int_equal(ntohl(four->sin_addr.s_addr), 0x01020304);

	assert_int_equal(proa_address_parse(&address, "[::1]:258"), 0);
	assert_int_equal(address.length, sizeof *six);
	assert_int_equal(six->sin6_family, AF_INET6);
	assert_int_equal(ntohs(six->sin6_port), 258);
	assert_int_equal(six->sin6_scope_id, 0);
	assert_true(IN6_IS_ADDR_LOOPBACK(&six->sin6_addr));
}

static void zones(void **state)
{
	char name[IF_NAMESIZE], text[PROA_ADDRESS_TEXT], expected[PROA_ADDRESS_TEXT];
	struct proa_address address;
	const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)&address.to.storage;

	(void)state;
	if (if_indextoname(1, name) == NULL)
		skip();
	snprintf(expected, sizeof expected, "[fe80::1%%%s]:80", name);
	assert_int_equal(proa_address_parse(&address, expected), 0);
	assert_int_equal(six->sin6_scope_id, 1);
	assert_true(proa_address_text(&address, text, sizeof text) > 0);
	assert_string_equal(text, expected);
	/* By number it is the same. */
	assert_int_equal(proa_address_parse(&address, "[fe80::1%1]:80"), 0);
	assert_true(proa_address_text(&address, text, sizeof text) > 0);
	assert_string_equal(text, expected);
}

static void unix_lengths(void **state)
{
	char where[5 + UNIX_PATH_ROOM + 2] = "unix:", text[PROA_ADDRESS_TEXT];
	struct proa_address address;
	struct sockaddr_un *to = (struct sockaddr_un *)&address.to.storage;

	(void)state;
	memset(where + 5, 'a', UNIX_PATH_ROOM);
	where[5 + UNIX_PATH_ROOM] = '\0';
	assert_int_equal(proa_address_parse(&address, where), PROA_EINVAL);
	where[5 + UNIX_PATH_ROOM - 1] = '\0';
	assert_int_equal(proa_address_parse(&address, where), 0);
	assert_int_equal(address.length, sizeof(struct sockaddr_un));

	/* What only the kernel makes: a path that fills its room, without a NUL. */
	to->sun_path[UNIX_PATH_ROOM - 1] = 'a';
	address.length = sizeof(struct sockaddr_un) + 1;
	assert_int_equal(proa_address_text(&address, text, sizeof text), 5 + UNIX_PATH_ROOM);

	/* An unnamed one: of socketpair() and clients. */
	address.length = offsetof(struct sockaddr_un, sun_path);
	assert_int_equal(proa_address_text(&address, text, sizeof text), 5);
	assert_string_equal(text, "unix:");
#ifdef __linux__
	assert_int_equal(proa_address_parse(&address, "unix:@ab"), 0);
	assert_int_equal(address.length, offsetof(struct sockaddr_un, sun_path) + 3);
	to->sun_path[2] = '\0';
	assert_int_equal(proa_address_text(&address, text, sizeof text), 8);
	assert_string_equal(text, "unix:@a@");
#endif
}

static void text_errors(void **state)
{
	char text[PROA_ADDRESS_TEXT];
	struct proa_address address;

	(void)state;
	assert_int_equal(proa_address_parse(&address, "1.2.3.4:80"), 0);
	assert_int_equal(proa_address_text(&address, text, 11), 10);
	assert_int_equal(proa_address_text(&address, text, 10), PROA_EINVAL);
	assert_int_equal(proa_address_text(&address, text, 0), PROA_EINVAL);
	address.length = 4;
	assert_int_equal(proa_address_text(&address, text, sizeof text), PROA_EINVAL);
	address.length = 0;
	assert_int_equal(proa_address_text(&address, text, sizeof text), PROA_EINVAL);
	address.length = sizeof address.to;
	address.to.any.sa_family = 0xff;
	assert_int_equal(proa_address_text(&address, text, sizeof text), PROA_EINVAL);
}

static void sizes_of_options(void **state)
{
	struct {
		uint32_t first, second;
	} ours, newer = { 1, 2 };

	(void)state;
	assert_int_equal(sized_copy(&ours, 4, 4, &newer, sizeof newer), PROA_EINVAL);
	newer.second = 0;
	assert_int_equal(sized_copy(&ours, 4, 4, &newer, sizeof newer), 0);
	assert_int_equal(ours.first, 1);
	newer.second = 2;
	assert_int_equal(sized_copy(&ours, sizeof ours, 4, &newer, 4), 0);
	assert_int_equal(ours.second, 0);
	assert_int_equal(sized_copy(&ours, sizeof ours, 4, NULL, sizeof ours), 0);
	assert_int_equal(ours.first, 0);
	assert_int_equal(sized_copy(&ours, sizeof ours, 4, &newer, 0), PROA_EINVAL);
	assert_int_equal(sized_copy(&ours, sizeof ours, 4, &newer, 6), PROA_EINVAL);
}

/* What system_classify() says of `fd`, which it closes. */
static void expect_type(int fd, enum handle_type expected, bool expected_blocking)
{
	enum handle_type type = HANDLE_UNKNOWN;
	bool blocking = !expected_blocking;

	assert_true(fd >= 0);
	assert_int_equal(system_classify(fd, &type, &blocking), 0);
	assert_int_equal(type, expected);
	assert_int_equal(blocking, expected_blocking);
	close(fd);
}

static void types(void **state)
{
	enum handle_type type;
	int ends[2];
	bool blocking;

	(void)state;
	expect_type(unix_socket(AF_INET, SOCK_STREAM), HANDLE_TCP, false);
	expect_type(unix_socket(AF_INET, SOCK_DGRAM), HANDLE_DATAGRAM, false);
	expect_type(unix_socket(AF_UNIX, SOCK_SEQPACKET), HANDLE_DATAGRAM, false);
	expect_type(socket(AF_UNIX, SOCK_STREAM, 0), HANDLE_STREAM, true);
	assert_int_equal(unix_pipe(ends), 0);
	assert_int_equal(fcntl(ends[0], F_GETFD), FD_CLOEXEC);
	assert_int_equal(fcntl(ends[1], F_GETFD), FD_CLOEXEC);
	expect_type(ends[0], HANDLE_PIPE, true);
	expect_type(ends[1], HANDLE_PIPE, true);
	expect_type(open(".", O_RDONLY), HANDLE_FILE, true);
	expect_type(fileno(tmpfile()), HANDLE_FILE, true);
	assert_int_equal(system_classify(-1, &type, &blocking), PROA_EBADF);
	assert_int_equal(system_classify(100000, &type, &blocking), PROA_EBADF);
}

#ifdef __linux__
static void types_of_devices(void **state)
{
	(void)state;
	expect_type(open("/dev/null", O_RDWR), HANDLE_FILE, true);
	expect_type(open("/dev/zero", O_RDONLY | O_NONBLOCK), HANDLE_FILE, false);
	expect_type(open("/dev/full", O_WRONLY), HANDLE_FILE, true);
	expect_type(open("/dev/urandom", O_RDONLY), HANDLE_FILE, true);
	expect_type(open("/proc/self/maps", O_RDONLY), HANDLE_FILE, true);
	expect_type(posix_openpt(O_RDWR | O_NOCTTY), HANDLE_PIPE, true);
	expect_type(eventfd(0, EFD_NONBLOCK), HANDLE_PIPE, false);
	expect_type(timerfd_create(CLOCK_MONOTONIC, 0), HANDLE_PIPE, true);
	expect_type(epoll_create1(0), HANDLE_PIPE, true);
#	ifdef PROA_HAVE_PIDFD
	expect_type(unix_child_open(getpid()), HANDLE_PIPE, true);
#	endif
}
#endif

static struct proa_port *port;

static int open_port(void **state)
{
	(void)state;
	return proa_port_open(NULL, &port);
}

static int close_port(void **state)
{
	(void)state;
	return proa_port_close(port);
}

static int option_of(int fd, int level, int option)
{
	socklen_t length = sizeof(int);
	int value = -1;

	assert_int_equal(getsockopt(fd, level, option, &value, &length), 0);
	return value;
}

/* A plain, blocking connection to `listener`. */
static int connect_to(proa_handle listener)
{
	struct proa_address address;
	int fd;

	assert_int_equal(proa_local_address(listener, &address), 0);
	fd = socket(address.to.any.sa_family, SOCK_STREAM, 0);
	assert_int_equal(connect(fd, &address.to.any, address.length), 0);
	return fd;
}

static void listens(void **state)
{
	struct proa_listen_options options = { .no_delay = 1 };
	struct proa_address here, there;
	struct pollfd ready = { .events = POLLIN };
	proa_handle listener = PROA_NO_HANDLE;
	int client, accepted;

	(void)state;
	assert_int_equal(proa_listen(port, "127.0.0.1:0", &options, &listener), 0);
	assert_int_equal(fcntl(listener, F_GETFD), FD_CLOEXEC);
	assert_true(fcntl(listener, F_GETFL) & O_NONBLOCK);
	assert_true(option_of(listener, SOL_SOCKET, SO_REUSEADDR));
	assert_true(option_of(listener, SOL_SOCKET, SO_ACCEPTCONN));
	client = connect_to(listener);
	ready.fd = listener;
	assert_int_equal(poll(&ready, 1, 5000), 1);
	accepted = accept(listener, NULL, NULL);
	assert_true(accepted >= 0);
	assert_true(option_of(accepted, IPPROTO_TCP, TCP_NODELAY));
	assert_int_equal(proa_local_address(client, &here), 0);
	assert_int_equal(proa_peer_address(accepted, &there), 0);
	assert_int_equal(here.length, there.length);
	assert_memory_equal(&here.to, &there.to, here.length);
	assert_int_equal(proa_peer_address(listener, &there), PROA_ENOTCONN);
	assert_int_equal(proa_local_address(-1, &there), PROA_EBADF);
	close(client);
	close(accepted);
	assert_int_equal(proa_discard(port, listener), 0);
}

static void listen_errors(void **state)
{
	struct proa_listen_options options = { .type = (enum proa_socket_type)7 };
	struct proa_address address;
	char where[PROA_ADDRESS_TEXT];
	proa_handle first, second = PROA_NO_HANDLE;

	(void)state;
	assert_int_equal(proa_listen(port, "127.0.0.1:0", &options, &second), PROA_EINVAL);
	assert_int_equal(proa_listen(port, "nowhere", NULL, &second), PROA_EINVAL);
	assert_int_equal(proa_listen(port, "192.0.2.1:0", NULL, &second), PROA_EADDRNOTAVAIL);
	assert_int_equal(proa_listen_sized(port, "127.0.0.1:0", NULL, 0, &second), PROA_EINVAL);
	assert_int_equal(proa_listen(port, "127.0.0.1:0", NULL, &first), 0);
	assert_int_equal(proa_local_address(first, &address), 0);
	assert_true(proa_address_text(&address, where, sizeof where) > 0);
	assert_int_equal(proa_listen(port, where, NULL, &second), PROA_EADDRINUSE);
	assert_int_equal(second, PROA_NO_HANDLE);
	assert_int_equal(proa_discard(port, first), 0);
}

static void shares_port(void **state)
{
	struct proa_listen_options options = { .reuse_port = 1, .backlog = 5 };
	struct proa_address address;
	char where[PROA_ADDRESS_TEXT];
	proa_handle first, second;

	(void)state;
	for (int type = PROA_STREAM; type <= PROA_DATAGRAM; type++) {
		options.type = (enum proa_socket_type)type;
		assert_int_equal(proa_listen(port, "127.0.0.1:0", &options, &first), 0);
		assert_int_equal(proa_local_address(first, &address), 0);
		assert_true(proa_address_text(&address, where, sizeof where) > 0);
		assert_int_equal(proa_listen(port, where, &options, &second), 0);
		assert_int_equal(proa_discard(port, first), 0);
		assert_int_equal(proa_discard(port, second), 0);
	}
}

static void only_v6(void **state)
{
	struct proa_listen_options options = { .only_v6 = 1 };
	proa_handle listener;
	int code = proa_listen(port, "[::]:0", &options, &listener);

	(void)state;
	if (code == PROA_EAFNOSUPPORT || code == PROA_EADDRNOTAVAIL)
		skip();
	assert_int_equal(code, 0);
	assert_int_equal(option_of(listener, IPPROTO_IPV6, IPV6_V6ONLY), 1);
	assert_int_equal(proa_discard(port, listener), 0);
	assert_int_equal(proa_listen(port, "[::]:0", NULL, &listener), 0);
	assert_int_equal(option_of(listener, IPPROTO_IPV6, IPV6_V6ONLY), 0);
	assert_int_equal(proa_discard(port, listener), 0);
}

static void listens_on_path(void **state)
{
	static const char path[] = "test_address.socket", where[] = "unix:test_address.socket";
	struct proa_listen_options options = { .reuse_port = 1 };
	proa_handle listener;
	struct stat status;

	(void)state;
	unlink(path);
	assert_int_equal(proa_listen(port, where, &options, &listener), PROA_EOPNOTSUPP);
	assert_int_equal(proa_listen(port, where, NULL, &listener), 0);
	close(connect_to(listener));
	assert_int_equal(proa_discard(port, listener), 0);
	/* The file stays, and is not ours to remove. */
	assert_int_equal(proa_listen(port, where, NULL, &listener), PROA_EADDRINUSE);
	assert_int_equal(lstat(path, &status), 0);
	assert_int_equal(unlink(path), 0);
	options = (struct proa_listen_options) { .type = PROA_DATAGRAM };
	assert_int_equal(proa_listen(port, where, &options, &listener), 0);
	assert_int_equal(option_of(listener, SOL_SOCKET, SO_TYPE), SOCK_DGRAM);
	assert_int_equal(proa_discard(port, listener), 0);
	assert_int_equal(unlink(path), 0);
}

static void makes_sockets(void **state)
{
	struct proa_address address;
	proa_handle made;

	(void)state;
	assert_int_equal(proa_address_parse(&address, "127.0.0.1:1"), 0);
	assert_int_equal(proa_socket(port, &address, PROA_DATAGRAM, &made), 0);
	assert_int_equal(option_of(made, SOL_SOCKET, SO_TYPE), SOCK_DGRAM);
	assert_int_equal(proa_discard(port, made), 0);
	assert_int_equal(proa_socket(port, &address, PROA_STREAM, &made), 0);
	assert_int_equal(option_of(made, SOL_SOCKET, SO_TYPE), SOCK_STREAM);
	assert_int_equal(proa_discard(port, made), 0);
	assert_int_equal(proa_socket(port, &address, (enum proa_socket_type)2, &made), PROA_EINVAL);
}

static void makes_pairs(void **state)
{
	proa_handle ends[2];
	char byte = 'x';

	(void)state;
	assert_int_equal(proa_pair(port, ends), 0);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(fcntl(ends[i], F_GETFD), FD_CLOEXEC);
		assert_true(fcntl(ends[i], F_GETFL) & O_NONBLOCK);
		assert_int_equal(write(ends[i], "y", 1), 1);
		assert_int_equal(read(ends[1 - i], &byte, 1), 1);
		assert_int_equal(byte, 'y');
	}
	assert_int_equal(proa_discard(port, ends[0]), 0);
	assert_int_equal(proa_discard(port, ends[1]), 0);
}

static void makes_pipes(void **state)
{
	proa_handle ours, theirs;

	(void)state;
	for (int reading = 0; reading < 2; reading++) {
		assert_int_equal(proa_pipe(port, reading, &ours, &theirs), 0);
		assert_int_equal(fcntl(ours, F_GETFL) & O_ACCMODE, reading ? O_RDONLY : O_WRONLY);
		assert_int_equal(fcntl(theirs, F_GETFL) & O_ACCMODE, reading ? O_WRONLY : O_RDONLY);
		assert_true(fcntl(ours, F_GETFL) & O_NONBLOCK);
		assert_false(fcntl(theirs, F_GETFL) & O_NONBLOCK);
		assert_int_equal(fcntl(ours, F_GETFD), FD_CLOEXEC);
		assert_int_equal(fcntl(theirs, F_GETFD), 0);
		close(theirs);
		assert_int_equal(proa_discard(port, ours), 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(both_ways),
		cmocka_unit_test(refused),
		cmocka_unit_test(internet_fields),
		cmocka_unit_test(zones),
		cmocka_unit_test(unix_lengths),
		cmocka_unit_test(text_errors),
		cmocka_unit_test(sizes_of_options),
		cmocka_unit_test(types),
#ifdef __linux__
		cmocka_unit_test(types_of_devices),
#endif
		cmocka_unit_test(listens),
		cmocka_unit_test(listen_errors),
		cmocka_unit_test(shares_port),
		cmocka_unit_test(only_v6),
		cmocka_unit_test(listens_on_path),
		cmocka_unit_test(makes_sockets),
		cmocka_unit_test(makes_pairs),
		cmocka_unit_test(makes_pipes),
	};

	return cmocka_run_group_tests_name("address", tests, open_port, close_port);
}

/* Rules 13 and 16: accepting survives want, connecting fails cleanly. */
#include "harness.h"
#include "posix.h"

/* What a UNIX socket that is not there gives. */
#ifdef _WIN32
#	define NO_UNIX_SOCKET PROA_EAFNOSUPPORT
#else
#	define NO_UNIX_SOCKET PROA_ENOENT
#endif

static proa_handle listen_here(struct proa_port *port, struct proa_address *address)
{
	proa_handle listener;

	CHECK_INT(proa_listen(port, "127.0.0.1:0", NULL, &listener), 0);
	CHECK_INT(proa_local_address(listener, address), 0);
	return listener;
}

static bool same_address(const struct proa_address *a, const struct proa_address *b)
{
	char left[PROA_ADDRESS_TEXT], right[PROA_ADDRESS_TEXT];

	CHECK(proa_address_text(a, left, sizeof(left)) > 0);
	CHECK(proa_address_text(b, right, sizeof(right)) > 0);
	return strcmp(left, right) == 0;
}

/* The two are ends of one connection. */
static void check_connected(struct proa_port *port, proa_handle ours, int peer)
{
	struct record record;
	char byte;

	record_init(&record, port);
	proa_prep_send(&record.op, ours, "x", 1, 0);
	CHECK_INT(record_run(&record), 1);
	CHECK_INT(read(peer, &byte, 1), 1);
	peer_write(peer, "y", 1);
	proa_prep_recv(&record.op, ours, &byte, 1, 0);
	CHECK_INT(record_run(&record), 1);
	CHECK_INT(byte, 'y');
}

/* What a multishot accept brought. */
#define ACCEPTED_MOST 512

struct accepting {
	struct record record;
	proa_handle handles[ACCEPTED_MOST];
	int count;
	int errors; /* PROA_MORE with an error */
	int32_t error;
};

static void note_accepted(struct record *record, const struct proa_completion *c)
{
	struct accepting *accepting = record->data;

	if (c->result >= 0) {
		CHECK(accepting->count < ACCEPTED_MOST);
		accepting->handles[accepting->count++] = c->result;
	} else if (record->finals == 0) {
		accepting->errors++;
		accepting->error = c->result;
	}
}

static void accepting_init(struct accepting *accepting, struct proa_port *port)
{
	memset(accepting, 0, sizeof(*accepting));
	record_init(&accepting->record, port);
	accepting->record.then = note_accepted;
	accepting->record.data = accepting;
}

static void accepting_start(struct accepting *accepting, proa_handle listener)
{
	proa_prep_accept_multi(&accepting->record.op, listener, 0);
	record_submit(&accepting->record);
}

static void accepting_end(struct accepting *accepting)
{
	proa_cancel(&accepting->record.op);
	RUN_UNTIL(accepting->record.op.port, accepting->record.finals == 1);
	CHECK_INT(accepting->record.last, PROA_ECANCELED);
}

static void accepting_close(struct accepting *accepting)
{
	for (int i = 0; i < accepting->count; i++)
		close_handle(accepting->record.op.port, accepting->handles[i]);
	accepting->count = 0;
}

/* ---- Rule 13 ---- */

TEST(13, "multishot", accepts_until_cancelled)
{
	enum { CLIENTS = 150 };
	struct proa_port *port = test_port();
	struct proa_address address;
	proa_handle listener = listen_here(port, &address);
	struct accepting accepting;
	int clients[CLIENTS];

	accepting_init(&accepting, port);
	accepting_start(&accepting, listener);
	for (int i = 0; i < CLIENTS; i++) {
		clients[i] = tcp_connect_to(&address);
		if (i % 50 == 49)
			RUN_UNTIL(port, accepting.count == i + 1);
	}
	run_quiet(port);
	CHECK_INT(accepting.count, CLIENTS);
	CHECK_INT(accepting.errors, 0);
	CHECK_INT(accepting.record.finals, 0);
	accepting_end(&accepting);
	/* Loopback's accept queue is in order. */
	for (int i = 0; i < CLIENTS; i += 7)
		check_connected(port, accepting.handles[i], clients[i]);
	accepting_close(&accepting);
	for (int i = 0; i < CLIENTS; i++)
		close(clients[i]);
	close_handle(port, listener);
	test_close(port);
}

TEST(13, "single", peers_address)
{
	enum { CLIENTS = 5 };
	struct proa_port *port = test_port();
	struct proa_address address, theirs, peers[CLIENTS];
	proa_handle listener = listen_here(port, &address);
	struct record accepts[CLIENTS];
	int clients[CLIENTS];
	bool seen[CLIENTS] = { false };

	/* All in flight before anybody comes: each gets one. */
	for (int i = 0; i < CLIENTS; i++) {
		record_init(&accepts[i], port);
		memset(&peers[i], 0xee, sizeof(peers[i]));
		proa_prep_accept(&accepts[i].op, listener, i == 2 ? NULL : &peers[i], 0);
		record_submit(&accepts[i]);
	}
	run_quiet(port);
	for (int i = 0; i < CLIENTS; i++)
		clients[i] = tcp_connect_to(&address);
	for (int i = 0; i < CLIENTS; i++) {
		RUN_UNTIL(port, accepts[i].finals == 1);
		CHECK(accepts[i].last >= 0);
		CHECK_INT(proa_peer_address(accepts[i].last, &theirs), 0);
		if (i != 2)
			CHECK(same_address(&theirs, &peers[i]));
		for (int j = 0; j < CLIENTS; j++) {
			struct proa_address own;

			CHECK_INT(proa_local_address(clients[j], &own), 0);
			if (!same_address(&own, &theirs))
				continue;
			CHECK(!seen[j]);
			seen[j] = true;
			check_connected(port, accepts[i].last, clients[j]);
		}
	}
	for (int i = 0; i < CLIENTS; i++) {
		CHECK(seen[i]);
		close_handle(port, accepts[i].last);
		close(clients[i]);
	}
	close_handle(port, listener);
	test_close(port);
}

TEST(13, "unix", unix_listener)
{
	struct proa_port *port = test_port();
	struct proa_address address, peer;
	char where[256];
	proa_handle listener;
	struct record record;
	int client;

	SKIP_WITHOUT_UNIX_SOCKETS();
	snprintf(where, sizeof(where), "unix:%s", test_path("listener"));
	CHECK_INT(proa_listen(port, where, NULL, &listener), 0);
	CHECK_INT(proa_address_parse(&address, where), 0);
	client = tcp_connect_to(&address);
	record_init(&record, port);
	proa_prep_accept(&record.op, listener, &peer, 0);
	CHECK(record_run(&record) >= 0);
	CHECK_INT(peer.to.any.sa_family, AF_UNIX);
	check_connected(port, record.last, client);
	close_handle(port, record.last);
	close(client);
	close_handle(port, listener);
	test_close(port);
}

/* ---- Rule 13: the other family ---- */

/* Ends the test where the system has no IPv6, or not on loopback. */
static void need_ipv6(void)
{
	struct proa_address loopback;
	int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int bound = -1;

	CHECK_INT(proa_address_parse(&loopback, "[::1]:0"), 0);
	if (fd >= 0) {
		bound = bind(fd, &loopback.to.any, loopback.length);
		close(fd);
	}
	if (bound < 0)
		SKIP("no IPv6 on loopback: %s", strerror(errno));
}

static unsigned port_number(const struct proa_address *address)
{
	const void *to = &address->to;

	return ntohs(address->to.any.sa_family == AF_INET6
			     ? ((const struct sockaddr_in6 *)to)->sin6_port
			     : ((const struct sockaddr_in *)to)->sin_port);
}

/* Three bytes from one to the other. */
static void send_three(struct proa_port *port, proa_handle from, proa_handle to, const char *bytes)
{
	struct record send, receive;
	char room[4] = "---";

	record_init(&send, port);
	record_init(&receive, port);
	proa_prep_recv(&receive.op, to, room, 3, PROA_ALL);
	record_submit(&receive);
	proa_prep_send(&send.op, from, bytes, 3, 0);
	CHECK_INT(record_run(&send), 3);
	RUN_UNTIL(port, receive.finals == 1);
	CHECK_INT(receive.last, 3);
	CHECK(memcmp(room, bytes, 3) == 0);
}

/* The two are ends of one connection: by their addresses, and by their bytes. */
static void check_ends(struct proa_port *port, proa_handle client, proa_handle server)
{
	struct proa_address clients, servers;

	CHECK_INT(proa_local_address(client, &clients), 0);
	CHECK_INT(proa_peer_address(server, &servers), 0);
	CHECK(same_address(&clients, &servers));
	CHECK_INT(proa_peer_address(client, &clients), 0);
	CHECK_INT(proa_local_address(server, &servers), 0);
	CHECK(same_address(&clients, &servers));
	send_three(port, client, server, "abc");
	send_three(port, server, client, "xyz");
}

TEST(13, "IPv6", ipv6_listener)
{
	enum { CLIENTS = 3 };
	struct proa_port *port = test_port();
	struct proa_address address, peer, own;
	struct accepting accepting;
	struct record accept, dial;
	proa_handle listener, clients[CLIENTS];

	need_ipv6();
	CHECK_INT(proa_listen(port, "[::1]:0", NULL, &listener), 0);
	CHECK_INT(proa_local_address(listener, &address), 0);
	CHECK_INT(address.to.any.sa_family, AF_INET6);
	record_init(&accept, port);
	record_init(&dial, port);
	proa_prep_accept(&accept.op, listener, &peer, 0);
	record_submit(&accept);
	proa_prep_dial(&dial.op, &address, 0);
	CHECK(record_run(&dial) >= 0);
	RUN_UNTIL(port, accept.finals == 1);
	CHECK(accept.last >= 0);
	CHECK_INT(proa_local_address(dial.last, &own), 0);
	CHECK_INT(peer.to.any.sa_family, AF_INET6);
	CHECK(same_address(&peer, &own));
	check_ends(port, dial.last, accept.last);
	close_handle(port, dial.last);
	close_handle(port, accept.last);

	accepting_init(&accepting, port);
	accepting_start(&accepting, listener);
	for (int i = 0; i < CLIENTS; i++) {
		CHECK_INT(proa_socket(port, &address, PROA_STREAM, &clients[i]), 0);
		proa_prep_connect(&dial.op, clients[i], &address, 0);
		CHECK_INT(record_run(&dial), 0);
		RUN_UNTIL(port, accepting.count == i + 1);
	}
	for (int i = 0; i < CLIENTS; i++) {
		check_ends(port, clients[i], accepting.handles[i]);
		close_handle(port, clients[i]);
	}
	CHECK_INT(accepting.errors, 0);
	accepting_end(&accepting);
	accepting_close(&accepting);
	close_handle(port, listener);
	test_close(port);
}

/* A listener of all addresses takes those of IPv4 too, as "[::ffff:127.0.0.1]", unless it
 * is of IPv6 only. (Its number may be somebody else's in IPv4 then: who was reached tells.) */
TEST(13, "IPv6", ipv4_at_an_ipv6_listener)
{
	struct proa_port *port = test_port();

	need_ipv6();
	for (int only = 0; only < 2; only++) {
		struct proa_listen_options options = { .only_v6 = (uint8_t)only };
		struct proa_address address, peer, own;
		struct record accept, dial, second;
		char text[PROA_ADDRESS_TEXT], mapped[sizeof(text)];
		proa_handle listener;
		unsigned number;

		CHECK_INT(proa_listen(port, "[::]:0", &options, &listener), 0);
		CHECK_INT(proa_local_address(listener, &address), 0);
		number = port_number(&address);
		record_init(&accept, port);
		record_init(&dial, port);
		record_init(&second, port);
		proa_prep_accept(&accept.op, listener, &peer, 0);
		record_submit(&accept);
		snprintf(text, sizeof(text), "127.0.0.1:%u", number);
		CHECK_INT(proa_address_parse(&address, text), 0);
		proa_prep_dial(&dial.op, &address, 0);
		record_run(&dial);
		snprintf(text, sizeof(text), "[::1]:%u", number);
		CHECK_INT(proa_address_parse(&address, text), 0);
		if (only) {
			proa_prep_dial(&second.op, &address, 0);
			CHECK(record_run(&second) >= 0);
		} else {
			CHECK(dial.last >= 0);
		}
		RUN_UNTIL(port, accept.finals == 1);
		CHECK(accept.last >= 0);
		CHECK_INT(peer.to.any.sa_family, AF_INET6);
		if (only) {
			check_ends(port, second.last, accept.last);
			close_handle(port, second.last);
		} else {
			CHECK_INT(proa_local_address(dial.last, &own), 0);
			snprintf(
				mapped, sizeof(mapped), "[::ffff:127.0.0.1]:%u", port_number(&own));
			CHECK(proa_address_text(&peer, text, sizeof(text)) > 0);
			CHECK(strcmp(text, mapped) == 0);
			send_three(port, dial.last, accept.last, "abc");
			send_three(port, accept.last, dial.last, "xyz");
		}
		if (dial.last >= 0)
			close_handle(port, dial.last);
		close_handle(port, accept.last);
		close_handle(port, listener);
	}
	test_close(port);
}

TEST(13, "multishot", two_on_one_listener)
{
	enum { CLIENTS = 60 };
	struct proa_port *port = test_port();
	struct proa_address address;
	proa_handle listener = listen_here(port, &address);
	struct accepting first, second;
	int clients[CLIENTS];

	accepting_init(&first, port);
	accepting_init(&second, port);
	accepting_start(&first, listener);
	accepting_start(&second, listener);
	for (int i = 0; i < CLIENTS; i++) {
		clients[i] = tcp_connect_to(&address);
		CHECK(proa_run_once(port, 0) >= 0);
	}
	RUN_UNTIL(port, first.count + second.count == CLIENTS);
	/* One ends, the other takes all. */
	accepting_end(&first);
	for (int i = 0; i < 5; i++)
		close(tcp_connect_to(&address));
	RUN_UNTIL(port, first.count + second.count == CLIENTS + 5);
	accepting_end(&second);
	accepting_close(&first);
	accepting_close(&second);
	for (int i = 0; i < CLIENTS; i++)
		close(clients[i]);
	close_handle(port, listener);
	test_close(port);
}

/* How many calls wait ahead is a hint, which most engines have no use for. */
TEST(13, "multishot", accepts_posted_ahead)
{
	static const uint32_t asked[] = { 1, 9, UINT32_MAX };
	enum { CLIENTS = 20 };

	for (unsigned i = 0; i < sizeof(asked) / sizeof(asked[0]); i++) {
		const struct proa_port_options options = { .accepts = asked[i] };
		struct proa_port *port = test_port_with(&options);
		struct proa_address address;
		proa_handle listener = listen_here(port, &address);
		struct accepting accepting;
		int clients[CLIENTS];

		accepting_init(&accepting, port);
		accepting_start(&accepting, listener);
		for (int j = 0; j < CLIENTS; j++)
			clients[j] = tcp_connect_to(&address);
		RUN_UNTIL(port, accepting.count == CLIENTS);
		CHECK_INT(accepting.errors, 0);
		accepting_end(&accepting);
		for (int j = 0; j < CLIENTS; j++)
			close(clients[j]);
		accepting_close(&accepting);
		close_handle(port, listener);
		test_close(port);
	}
}

/* Of several whose client has reset them, the last lives: its socket. */
static int last_that_lives(const struct proa_address *address)
{
	for (int i = 0; i < 20; i++) {
		int client = tcp_connect_to(address);

		reset_on_close(client);
		close(client);
	}
	return tcp_connect_to(address);
}

/* Linux hands out reset connections, other systems skip them; neither is an error, and
 * the living one is there. */
TEST(13, "aborted", connections_that_are_gone)
{
	struct proa_port *port = test_port();
	struct proa_address address;
	proa_handle listener = listen_here(port, &address);
	struct accepting accepting;
	int last = last_that_lives(&address);

	accepting_init(&accepting, port);
	accepting_start(&accepting, listener);
	RUN_UNTIL(port, accepting.count >= 1);
	run_quiet(port);
	CHECK_INT(accepting.errors, 0);
	CHECK_INT(accepting.record.finals, 0);
	check_connected(port, accepting.handles[accepting.count - 1], last);
	accepting_end(&accepting);
	accepting_close(&accepting);
	close(last);
	close_handle(port, listener);
	test_close(port);
}

/* Which of a listener's connections is this one's? */
static bool is_connection_of(proa_handle ours, int peer)
{
	struct proa_address theirs, its;
	socklen_t length = sizeof(its.to);

	CHECK_SYSTEM(getsockname(peer, &its.to.any, &length));
	its.length = length;
	return proa_peer_address(ours, &theirs) == 0 && same_address(&theirs, &its);
}

TEST(13, "aborted", single_accepts_of_what_is_gone)
{
	struct proa_port *port = test_port();
	struct proa_address address;
	proa_handle listener = listen_here(port, &address);
	int last = last_that_lives(&address);
	struct record accept;
	bool living = false;

	record_init(&accept, port);
	while (!living) {
		proa_prep_accept(&accept.op, listener, NULL, 0);
		CHECK(record_run(&accept) >= 0);
		living = is_connection_of(accept.last, last);
		if (living)
			check_connected(port, accept.last, last);
		close_handle(port, accept.last);
	}
	close(last);
	close_handle(port, listener);
	test_close(port);
}

/* ---- Rule 13: want of descriptors ---- */

#ifdef _WIN32
#	define NO_LIMIT                                                               \
		"Windows sets a process no limit of handles to run into; tests/fault " \
		"has AcceptEx() and WSASocketW() fail for want of them"
NOT_HERE(13, "want of descriptors", pauses_and_resumes, NO_LIMIT)
NOT_HERE(13, "want of descriptors", paused_accept_ends, NO_LIMIT)
NOT_HERE(13, "want of descriptors", single_accept, NO_LIMIT)
NOT_HERE(13, "want of descriptors", dial_without_descriptors, NO_LIMIT)
#else

#	define PADS 2048
#	define EASE 2 /* pads there are at least */

struct want {
	int pads[PADS];
	int count;
	struct rlimit before;
};

/* Leaves exactly `spare` descriptors to be had. */
static void make_want(struct want *want, int spare)
{
	struct rlimit tight;
	int highest = CHECK_SYSTEM(dup(STDERR_FILENO));

	close(highest);
	for (int fd = 0; fd < 1024; fd++)
		if (fcntl(fd, F_GETFD) >= 0 && fd > highest)
			highest = fd;
	CHECK_SYSTEM(getrlimit(RLIMIT_NOFILE, &want->before));
	tight = want->before;
	tight.rlim_cur = (rlim_t)(highest + 1 + spare + EASE);
	CHECK_SYSTEM(setrlimit(RLIMIT_NOFILE, &tight));
	for (want->count = 0; want->count < PADS; want->count++) {
		want->pads[want->count] = dup(STDERR_FILENO);
		if (want->pads[want->count] < 0)
			break;
	}
	CHECK(want->count < PADS && errno == EMFILE);
	for (int i = 0; i < spare; i++)
		close(want->pads[--want->count]);
}

/* Closes `count` of our descriptors behind the library's back. */
static void ease_want(struct want *want, int count)
{
	while (count-- > 0 && want->count > 0)
		close(want->pads[--want->count]);
}

static void end_want(struct want *want)
{
	ease_want(want, want->count);
	CHECK_SYSTEM(setrlimit(RLIMIT_NOFILE, &want->before));
}

TEST_SLOW(13, "want of descriptors", pauses_and_resumes)
{
	enum { CLIENTS = 12 };
	struct proa_port *port = test_port();
	struct proa_address address;
	proa_handle listener = listen_here(port, &address);
	struct accepting accepting;
	struct want want;
	int clients[CLIENTS];
	int64_t cpu, since;

	for (int i = 0; i < CLIENTS; i++)
		clients[i] = tcp_connect_to(&address);
	run_quiet(port); /* whatever the port makes when it first runs */
	accepting_init(&accepting, port);
	make_want(&want, 3);
	accepting_start(&accepting, listener);
	RUN_UNTIL(port, accepting.errors == 1);
	CHECK_INT(accepting.error, PROA_EMFILE);
	CHECK_INT(accepting.count, 3);
	/* Long enough for the back-off to have grown to a second: it tried seven
	 * or eight times, said nothing more, and slept. */
	cpu = test_cpu();
	run_for(port, 1400 * PROA_MILLISECOND);
	CHECK_INT(accepting.errors, 1);
	CHECK_INT(accepting.count, 3);
	CHECK_INT(accepting.record.finals, 0);
	CHECK(test_cpu() - cpu < 200 * PROA_MILLISECOND * test_factor());
	/* The library closes a handle: at once, not at the next try. */
	since = test_clock();
	close_handle(port, accepting.handles[--accepting.count]);
	RUN_UNTIL(port, accepting.count == 3);
	CHECK(test_clock() - since < 400 * PROA_MILLISECOND * test_factor());
	RUN_UNTIL(port, accepting.errors == 2);
	run_for(port, 300 * PROA_MILLISECOND);
	CHECK_INT(accepting.errors, 2);
	CHECK_INT(accepting.count, 3);
	/* Descriptors come free elsewhere: by itself, within a try or two. */
	ease_want(&want, EASE);
	RUN_UNTIL_WITHIN(port, accepting.count == 3 + EASE, 3 * PROA_SECOND);
	end_want(&want);
	RUN_UNTIL_WITHIN(port, accepting.count == CLIENTS - 1, 3 * PROA_SECOND);
	CHECK(accepting.errors <= 3);
	run_quiet(port);
	CHECK_INT(accepting.count, CLIENTS - 1);
	check_connected(port, accepting.handles[CLIENTS - 2], clients[CLIENTS - 1]);
	accepting_end(&accepting);
	accepting_close(&accepting);
	for (int i = 0; i < CLIENTS; i++)
		close(clients[i]);
	close_handle(port, listener);
	test_close(port);
}

TEST(13, "want of descriptors", paused_accept_ends)
{
	struct proa_port *port = test_port();

	for (int way = 0; way < 4; way++) {
		struct proa_address address;
		proa_handle listener = listen_here(port, &address);
		struct accepting accepting;
		struct want want;
		int client = tcp_connect_to(&address);

		run_quiet(port);
		accepting_init(&accepting, port);
		make_want(&want, 0);
		accepting_start(&accepting, listener);
		RUN_UNTIL(port, accepting.errors == 1);
		if (way == 0) {
			accepting_end(&accepting);
		} else if (way == 1) {
			proa_op_deadline(
				&accepting.record.op, test_clock() + 30 * PROA_MILLISECOND);
			RUN_UNTIL(port, accepting.record.finals == 1);
			CHECK_INT(accepting.record.last, PROA_ETIMEDOUT);
		} else if (way == 2) {
			/* By then it looks again each second, which is no progress. */
			proa_op_timeout(&accepting.record.op, 1500 * PROA_MILLISECOND);
			RUN_UNTIL(port, accepting.record.finals == 1);
			CHECK_INT(accepting.record.last, PROA_ETIMEDOUT);
		}
		close_handle(port, listener);
		CHECK_INT(accepting.record.finals, 1);
		CHECK_INT(accepting.errors, 1);
		CHECK_INT(accepting.count, 0);
		end_want(&want);
		close(client);
	}
	test_close(port);
}

/* A single accept reports the want, and loses nothing. */
TEST(13, "want of descriptors", single_accept)
{
	struct proa_port *port = test_port();
	struct proa_address address;
	proa_handle listener = listen_here(port, &address);
	int client = tcp_connect_to(&address);
	struct record record;
	struct want want;

	run_quiet(port);
	record_init(&record, port);
	make_want(&want, 0);
	proa_prep_accept(&record.op, listener, NULL, 0);
	CHECK_INT(record_run(&record), PROA_EMFILE);
	end_want(&want);
	proa_prep_accept(&record.op, listener, NULL, 0);
	CHECK(record_run(&record) >= 0);
	check_connected(port, record.last, client);
	close_handle(port, record.last);
	close(client);
	close_handle(port, listener);
	test_close(port);
}

TEST(13, "want of descriptors", dial_without_descriptors)
{
	struct proa_port *port = test_port();
	struct proa_address address;
	int listener = tcp_listener(5, &address);
	struct record record;
	struct want want;

	run_quiet(port);
	record_init(&record, port);
	make_want(&want, 0);
	proa_prep_dial(&record.op, &address, 0);
	CHECK_INT(record_run(&record), PROA_EMFILE);
	end_want(&want);
	proa_prep_dial(&record.op, &address, 0);
	CHECK(record_run(&record) >= 0);
	close_handle(port, record.last);
	close(listener);
	test_close(port);
}

#endif

/* ---- Rules 13 and 18: whose port an accepted handle is ---- */

TEST(13, "detached", accepted_for_another_port)
{
	struct proa_port *port = test_port(), *other = test_port();
	struct proa_address address;
	proa_handle listener = listen_here(port, &address);

	for (int detached = 0; detached < 2; detached++) {
		for (int multi = 0; multi < 2; multi++) {
			int client = tcp_connect_to(&address);
			uint32_t flags = detached ? PROA_DETACHED : 0;
			struct record accept, elsewhere;
			proa_handle handle;

			record_init(&accept, port);
			record_init(&elsewhere, other);
			if (multi)
				proa_prep_accept_multi(&accept.op, listener, flags);
			else
				proa_prep_accept(&accept.op, listener, NULL, flags);
			record_submit(&accept);
			RUN_UNTIL(port, accept.count == 1);
			handle = accept.results[0];
			CHECK(handle >= 0);
			if (multi) {
				proa_cancel(&accept.op);
				RUN_UNTIL(port, accept.finals == 1);
			}
			if (detached) {
				check_connected(other, handle, client);
				close_handle(other, handle);
			} else {
				proa_prep_send(&elsewhere.op, handle, "x", 1, 0);
				CHECK_INT(record_run(&elsewhere), PROA_EINVAL);
				check_connected(port, handle, client);
				close_handle(port, handle);
			}
			close(client);
		}
	}
	close_handle(port, listener);
	test_close(other);
	test_close(port);
}

/* ---- Rules 13, 14 and 17: no socket is lost ---- */

TEST_SLOW(13, "cancel", cancel_never_loses_a_socket)
{
	enum { ROUNDS = 300 };
	struct proa_port *port = test_port();
	struct proa_address address;
	proa_handle listener = listen_here(port, &address);
	struct accepting accepting;
	int clients[ROUNDS], made = 0;
	unsigned seed = 9;

	accepting_init(&accepting, port);
	for (int round = 0; round < ROUNDS; round++) {
		if (rand_r(&seed) % 2)
			proa_prep_accept_multi(&accepting.record.op, listener, 0);
		else
			proa_prep_accept(&accepting.record.op, listener, NULL, 0);
		record_submit(&accepting.record);
		for (int turns = rand_r(&seed) % 3; turns > 0; turns--)
			CHECK(proa_run_once(port, 0) >= 0);
		if (rand_r(&seed) % 4 != 0)
			clients[made++] = tcp_connect_to(&address);
		for (int turns = rand_r(&seed) % 2; turns > 0; turns--)
			CHECK(proa_run_once(port, 0) >= 0);
		proa_cancel(&accepting.record.op);
		RUN_UNTIL(port, accepting.record.finals == 1);
	}
	accepting_start(&accepting, listener);
	RUN_UNTIL(port, accepting.count == made);
	run_quiet(port);
	CHECK_INT(accepting.count, made);
	accepting_end(&accepting);
	for (int i = 0; i < made; i++)
		check_connected(port, accepting.handles[i], clients[i]);
	accepting_close(&accepting);
	for (int i = 0; i < made; i++)
		close(clients[i]);
	close_handle(port, listener);
	test_close(port);
}

/* Two listeners have connections waiting; the first accept's callback closes
 * the other listener, whose sockets may have been taken in already. */
static struct {
	struct accepting accepting[2];
	proa_handle listeners[2];
	struct record closing;
	int closed;
} pair;

static void close_other_listener(struct record *record, const struct proa_completion *c)
{
	int self = record == &pair.accepting[1].record;

	if (c->result < 0)
		return;
	if (pair.closed >= 0)
		CHECK_INT(pair.closed, !self);
	note_accepted(record, c);
	if (pair.closed >= 0)
		return;
	pair.closed = !self;
	record_init(&pair.closing, record->op.port);
	proa_prep_close(&pair.closing.op, pair.listeners[!self], 0);
	record_submit(&pair.closing);
}

TEST(13, "close", sockets_not_handed_over_are_closed)
{
	enum { CLIENTS = 6 };
	struct proa_port *port = test_port();

	for (int round = 0; round < 20; round++) {
		struct proa_address addresses[2];
		int clients[2][CLIENTS], before = descriptors_open(), left;
		char byte;

		pair.closed = -1;
		for (int i = 0; i < 2; i++) {
			pair.listeners[i] = listen_here(port, &addresses[i]);
			accepting_init(&pair.accepting[i], port);
			pair.accepting[i].record.then = close_other_listener;
			accepting_start(&pair.accepting[i], pair.listeners[i]);
		}
		CHECK(proa_run_once(port, 0) >= 0);
		for (int i = 0; i < CLIENTS; i++) {
			clients[round & 1][i] = tcp_connect_to(&addresses[round & 1]);
			clients[!(round & 1)][i] = tcp_connect_to(&addresses[!(round & 1)]);
		}
		RUN_UNTIL(port, pair.closed >= 0 && pair.closing.finals == 1);
		left = !pair.closed;
		CHECK_INT(pair.closing.last, 0);
		CHECK_INT(pair.accepting[pair.closed].record.finals, 1);
		CHECK_INT(pair.accepting[pair.closed].count, 0);
		RUN_UNTIL(port, pair.accepting[left].count == CLIENTS);
		/* Those of the closed listener see an end, not a silence. */
		for (int i = 0; i < CLIENTS; i++)
			CHECK(read(clients[pair.closed][i], &byte, 1) <= 0);
		accepting_end(&pair.accepting[left]);
		accepting_close(&pair.accepting[left]);
		close_handle(port, pair.listeners[left]);
		for (int i = 0; i < CLIENTS; i++) {
			close(clients[0][i]);
			close(clients[1][i]);
		}
		CHECK_INT(descriptors_open(), before);
	}
	test_close(port);
}

/* Clients come, and before the port looks again its listener is closed: what
 * the kernel has accepted meanwhile is nobody's. */
TEST(13, "close", sockets_on_their_way_are_closed)
{
	enum { CLIENTS = 4 };
	struct proa_port *port = test_port();

	for (int multi = 0; multi < 2; multi++) {
		struct proa_address address;
		proa_handle listener = listen_here(port, &address);
		struct accepting accepting;
		int clients[CLIENTS], before = descriptors_open();
		char byte;

		accepting_init(&accepting, port);
		if (multi)
			proa_prep_accept_multi(&accepting.record.op, listener, 0);
		else
			proa_prep_accept(&accepting.record.op, listener, NULL, 0);
		record_submit(&accepting.record);
		CHECK_INT(proa_run_once(port, 0), 0);
		for (int i = 0; i < CLIENTS; i++)
			clients[i] = tcp_connect_to(&address);
		close_handle(port, listener);
		CHECK_INT(accepting.count, 0);
		CHECK_INT(accepting.record.count, 1);
		CHECK_INT(accepting.record.last, PROA_ECANCELED);
		for (int i = 0; i < CLIENTS; i++) {
			CHECK(read(clients[i], &byte, 1) <= 0);
			close(clients[i]);
		}
		CHECK_INT(descriptors_open(), before - 1);
	}
	test_close(port);
}

/* A program that dequeues takes one of several, and closes the listener. */
TEST(13, "close", sockets_not_dequeued_are_closed)
{
	enum { CLIENTS = 8 };
	struct proa_port *port = test_port();

	for (int round = 0; round < 5; round++) {
		struct proa_address address;
		proa_handle listener = listen_here(port, &address);
		struct accepting accepting;
		struct proa_completion first;
		int clients[CLIENTS], n, before = descriptors_open();
		char byte;

		accepting_init(&accepting, port);
		accepting_start(&accepting, listener);
		CHECK_INT(proa_wait(port, &first, 1, 0), 0);
		for (int i = 0; i < CLIENTS; i++)
			clients[i] = tcp_connect_to(&address);
		while ((n = proa_wait(port, &first, 1, PROA_SECOND)) == 0)
			;
		CHECK_INT(n, 1);
		proa_dispatch(&first);
		CHECK_INT(accepting.count, 1);
		close_handle(port, listener);
		CHECK_INT(accepting.count, 1);
		CHECK_INT(accepting.record.finals, 1);
		check_connected(port, accepting.handles[0], clients[0]);
		accepting_close(&accepting);
		for (int i = 0; i < CLIENTS; i++) {
			CHECK(i == 0 || read(clients[i], &byte, 1) <= 0);
			close(clients[i]);
		}
		CHECK_INT(descriptors_open(), before - 1);
	}
	test_close(port);
}

TEST(13, "close", port_closed_while_accepting)
{
	for (int turns = 0; turns < 3; turns++) {
		struct proa_port *port = test_port();
		struct proa_address address;
		proa_handle listener = listen_here(port, &address);
		struct accepting accepting;
		int clients[5];

		accepting_init(&accepting, port);
		accepting_start(&accepting, listener);
		CHECK(proa_run_once(port, 0) >= 0);
		for (int i = 0; i < 5; i++)
			clients[i] = tcp_connect_to(&address);
		if (turns == 2)
			CHECK(proa_run_once(port, 0) >= 0);
		if (turns >= 1)
			proa_port_shut(port);
		test_close(port);
		CHECK_INT(accepting.record.finals, 1);
		CHECK(accepting.record.last < 0);
		/* What was handed over is ours; nothing else is left (the harness
		 * counts). */
		for (int i = 0; i < accepting.count; i++)
			close(accepting.handles[i]);
		close(listener);
		for (int i = 0; i < 5; i++)
			close(clients[i]);
	}
}

TEST(13, "bad input", accept_on_what_does_not_listen)
{
	struct proa_port *port = test_port();
	struct ends ends = tcp_ends(), pipe = pipe_ends(false);
	struct record record;

	record_init(&record, port);
	proa_prep_accept(&record.op, ends.ours, NULL, 0);
	CHECK_INT(record_run(&record), PROA_EINVAL);
	proa_prep_accept_multi(&record.op, ends.ours, 0);
	CHECK_INT(record_run(&record), PROA_EINVAL);
	CHECK_INT(record.count, 1);
	proa_prep_accept(&record.op, pipe.ours, NULL, 0);
	CHECK(record_run(&record) < 0);
	proa_prep_accept_multi(&record.op, pipe.ours, 0);
	CHECK(record_run(&record) < 0);
	CHECK_INT(record.count, 1);
	proa_prep_accept(&record.op, 1000, NULL, 0);
	CHECK_INT(record_run(&record), PROA_EBADF);
	proa_prep_accept_multi(&record.op, PROA_NO_HANDLE, 0);
	CHECK_INT(record_run(&record), PROA_EBADF);
	close_handle(port, ends.ours);
	close_handle(port, pipe.ours);
	close(ends.peer);
	close(pipe.peer);
	test_close(port);
}

TEST(13, "bad input", listening_fails_at_once)
{
	struct proa_port *port = test_port();
	struct proa_listen_options shared = { .reuse_port = 1 };
	struct proa_address address;
	proa_handle listener, again = 12345;
	char text[PROA_ADDRESS_TEXT];
	int before = descriptors_open();

	CHECK_INT(proa_listen(port, "nonsense", NULL, &again), PROA_EINVAL);
	CHECK_INT(proa_listen(port, "127.0.0.1", NULL, &again), PROA_EINVAL);
	CHECK_INT(proa_listen(port, "unix:/no/such/folder/socket", NULL, &again), NO_UNIX_SOCKET);
	CHECK_INT(descriptors_open(), before);
	listener = listen_here(port, &address);
	CHECK(proa_address_text(&address, text, sizeof(text)) > 0);
	CHECK_INT(proa_listen(port, text, NULL, &again), PROA_EADDRINUSE);
	CHECK_INT(descriptors_open(), before + 1);
	close_handle(port, listener);
	/* Free again at once, and shared on request. */
#ifdef _WIN32
	CHECK_INT(proa_listen(port, text, &shared, &again), PROA_EOPNOTSUPP);
	CHECK_INT(proa_listen(port, text, NULL, &listener), 0);
#else
	CHECK_INT(proa_listen(port, text, &shared, &listener), 0);
	CHECK_INT(proa_listen(port, text, &shared, &again), 0);
	close_handle(port, again);
#endif
	close_handle(port, listener);
	test_close(port);
}

/* Nothing ever comes to what does not listen: an accept says so, and does not wait. */
TEST(13, "not a listener", accepts_of_what_does_not_listen)
{
	struct proa_port *port = test_port();
	struct proa_listen_options datagrams = { .type = PROA_DATAGRAM };
	struct record record;
	proa_handle udp;

	record_init(&record, port);
	CHECK_INT(proa_listen(port, "127.0.0.1:0", &datagrams, &udp), 0);
	for (int multi = 0; multi < 2; multi++) {
		FOR_STREAMS(maker)
		{
			struct ends ends = maker->make(false);

			if (multi)
				proa_prep_accept_multi(&record.op, ends.ours, 0);
			else
				proa_prep_accept(&record.op, ends.ours, NULL, 0);
			CHECK_INT(record_run(&record), maker->socket ? PROA_EINVAL : PROA_ENOTSOCK);
			CHECK_INT(record.count, 1);
			close_handle(port, ends.ours);
			close(ends.peer);
		}
		if (multi)
			proa_prep_accept_multi(&record.op, udp, 0);
		else
			proa_prep_accept(&record.op, udp, NULL, 0);
		CHECK_INT(record_run(&record), PROA_EOPNOTSUPP);
	}
	close_handle(port, udp);
	test_close(port);
}

/* ---- Rule 16: connects ---- */

/* A listener whose queue is full: Linux drops further SYNs, so that a connect
 * to it hangs as one to a silent host does. */
struct hole {
	int listener, fillers[4];
	struct proa_address address;
};

static void dig_hole(struct hole *hole)
{
	hole->listener = tcp_listener(0, &hole->address);
	for (int i = 0; i < 4; i++) {
		int fd = CHECK_SYSTEM(
			socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));

		connect(fd, &hole->address.to.any, hole->address.length);
		hole->fillers[i] = fd;
	}
	test_sleep(20 * PROA_MILLISECOND);
}

static void fill_hole(struct hole *hole)
{
	for (int i = 0; i < 4; i++)
		close(hole->fillers[i]);
	close(hole->listener);
}

/* An address where nobody listens. */
static void refusing(struct proa_address *address)
{
	close(tcp_listener(1, address));
}

/* Good for close alone: nothing works, nothing hangs. */
static void check_dead(struct proa_port *port, proa_handle handle, const struct proa_address *to)
{
	struct record record;
	char byte;

	record_init(&record, port);
	proa_prep_send(&record.op, handle, "x", 1, 0);
	CHECK(record_run(&record) < 0);
	proa_prep_recv(&record.op, handle, &byte, 1, 0);
	CHECK(record_run(&record) < 0);
	proa_prep_connect(&record.op, handle, to, 0);
	CHECK_INT(record_run(&record), PROA_EISCONN);
	proa_prep_shutdown(&record.op, handle);
	CHECK(record_run(&record) < 0);
	close_handle(port, handle);
}

static proa_handle socket_like(struct proa_port *port, const struct proa_address *like)
{
	proa_handle handle;

	CHECK_INT(proa_socket(port, like, PROA_STREAM, &handle), 0);
	return handle;
}

TEST(16, "connect", connects)
{
	struct proa_port *port = test_port();
	struct proa_address address;
	int listener = tcp_listener(5, &address), peer;
	proa_handle handle = socket_like(port, &address);
	struct record record;

	record_init(&record, port);
	proa_prep_connect(&record.op, handle, &address, 0);
	CHECK_INT(record_run(&record), 0);
	peer = CHECK_SYSTEM(accept(listener, NULL, NULL));
	check_connected(port, handle, peer);
	/* Once is enough; and the mistake does not hurt the connection. */
	proa_prep_connect(&record.op, handle, &address, 0);
	CHECK_INT(record_run(&record), PROA_EISCONN);
	check_connected(port, handle, peer);
	close(peer);
	close(listener);
	close_handle(port, handle);
	test_close(port);
}

/* Submitted together: what comes of the second does not hang on how far the first is. */
TEST(16, "connect once", two_connects_at_once)
{
	struct proa_port *port = test_port();
	struct proa_address address, nowhere;
	int listener = tcp_listener(5, &address), peer;
	struct record records[3];
	proa_handle handle;

	refusing(&nowhere);
	for (int way = 0; way < 3; way++) {
		handle = socket_like(port, &address);
		for (int i = 0; i < 3; i++) {
			record_init(&records[i], port);
			proa_prep_connect(&records[i].op, handle,
				(way == 1) == (i == 0) ? &nowhere : &address, 0);
		}
		for (int i = 0; i < (way == 2 ? 3 : 2); i++)
			record_submit(&records[i]);
		for (int i = 0; i < (way == 2 ? 3 : 2); i++)
			RUN_UNTIL(port, records[i].finals == 1);
		CHECK_INT(records[0].last, way == 1 ? PROA_ECONNREFUSED : 0);
		CHECK_INT(records[1].last, PROA_EISCONN);
		if (way == 2)
			CHECK_INT(records[2].last, PROA_EISCONN);
		if (way == 1) {
			check_dead(port, handle, &address);
			continue;
		}
		peer = CHECK_SYSTEM(accept(listener, NULL, NULL));
		check_connected(port, handle, peer);
		close(peer);
		close_handle(port, handle);
	}
	close(listener);
	test_close(port);
}

/* Makes room: the fillers, too, still try to come in. */
static bool drained(int listener)
{
	int fd;

	while ((fd = accept(listener, NULL, NULL)) >= 0)
		close(fd);
	return true;
}

/* The first is still under way: the second neither waits for it nor ends it. */
TEST_SLOW(16, "connect once", connect_behind_one_that_hangs)
{
	struct proa_port *port = test_port();
	struct record first, second;
	struct hole hole;
	proa_handle handle;

	dig_hole(&hole);
	handle = socket_like(port, &hole.address);
	record_init(&first, port);
	record_init(&second, port);
	proa_prep_connect(&first.op, handle, &hole.address, 0);
	record_submit(&first);
	run_for(port, 30 * PROA_MILLISECOND);
	CHECK_INT(first.finals, 0);
	for (int i = 0; i < 2; i++) {
		proa_prep_connect(&second.op, handle, &hole.address, 0);
		CHECK_INT(record_run(&second), PROA_EISCONN);
		CHECK_INT(first.finals, 0);
	}
	CHECK_SYSTEM(fcntl(hole.listener, F_SETFL, O_NONBLOCK));
	/* The next SYN, a second after the first, gets through. */
	RUN_UNTIL(port, drained(hole.listener) && first.finals == 1);
	CHECK_INT(first.last, 0);
	proa_prep_send(&first.op, handle, "x", 1, 0);
	CHECK_INT(record_run(&first), 1);
	close_handle(port, handle);
	fill_hole(&hole);
	test_close(port);
}

/* A chain's later connect is not under way, and does not keep the first from being. */
TEST(16, "connect once", connect_in_a_chain)
{
	struct proa_port *port = test_port();
	struct proa_address address;
	int listener = tcp_listener(5, &address);
	proa_handle handle = socket_like(port, &address);
	struct record records[3];

	for (int i = 0; i < 3; i++)
		record_init(&records[i], port);
	proa_prep_timer(&records[0].op, 20 * PROA_MILLISECOND);
	proa_prep_connect(&records[1].op, handle, &address, 0);
	proa_link(&records[0].op, &records[1].op, recorded);
	record_submit(&records[0]);
	proa_prep_connect(&records[2].op, handle, &address, 0);
	CHECK_INT(record_run(&records[2]), 0);
	RUN_UNTIL(port, records[1].finals == 1);
	CHECK_INT(records[1].last, PROA_EISCONN);
	close(listener);
	close_handle(port, handle);
	test_close(port);
}

TEST(16, "connect", refused)
{
	struct proa_port *port = test_port();
	struct proa_address address;
	proa_handle handle;
	struct record record;
	int listener;

	refusing(&address);
	handle = socket_like(port, &address);
	record_init(&record, port);
	proa_prep_connect(&record.op, handle, &address, 0);
	CHECK_INT(record_run(&record), PROA_ECONNREFUSED);
	/* Even when it would work now. */
	listener = CHECK_SYSTEM(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
	if (bind(listener, &address.to.any, address.length) == 0)
		CHECK_SYSTEM(listen(listener, 5));
	check_dead(port, handle, &address);
	close(listener);
	test_close(port);
}

TEST_SLOW(16, "connect", given_up)
{
	struct proa_port *port = test_port();
	int64_t patience = 100 * PROA_MILLISECOND * test_factor();

	for (int way = 0; way < 3; way++) {
		struct hole hole;
		proa_handle handle;
		struct record record;
		int64_t since, took;

		dig_hole(&hole);
		handle = socket_like(port, &hole.address);
		record_init(&record, port);
		proa_prep_connect(&record.op, handle, &hole.address, 0);
		if (way == 0)
			proa_op_timeout(&record.op, patience);
		if (way == 1)
			proa_op_deadline(&record.op, test_clock() + patience);
		since = test_clock();
		record_submit(&record);
		run_for(port, 60 * PROA_MILLISECOND);
		CHECK_INT(record.finals, 0);
		if (way == 2)
			proa_cancel(&record.op);
		RUN_UNTIL(port, record.finals == 1);
		took = test_clock() - since;
		CHECK_INT(record.last, way == 2 ? PROA_ECANCELED : PROA_ETIMEDOUT);
		CHECK(way == 2 || took >= patience - 5 * PROA_MILLISECOND);
		CHECK(took < PROA_SECOND * test_factor());
		/* Now there is room, and Linux's next SYN (a second later at
		 * most) would connect the socket after all. */
		CHECK_SYSTEM(fcntl(hole.listener, F_SETFL, O_NONBLOCK));
		drained(hole.listener);
		if (way == 2)
			run_for(port, 1200 * PROA_MILLISECOND);
		check_dead(port, handle, &hole.address);
		fill_hole(&hole);
	}
	test_close(port);
}

TEST(16, "dial", dials)
{
	enum { DIALS = 50 };
	struct proa_port *port = test_port();
	struct proa_address address, local, theirs;
	int listener = tcp_listener(DIALS, &address), peers[DIALS];
	struct record dials[DIALS];

	for (int i = 0; i < DIALS; i++) {
		record_init(&dials[i], port);
		proa_prep_dial(&dials[i].op, &address, 0);
		record_submit(&dials[i]);
	}
	for (int i = 0; i < DIALS; i++)
		peers[i] = CHECK_SYSTEM(
			(proa_run_once(port, 5 * PROA_MILLISECOND), accept(listener, NULL, NULL)));
	for (int i = 0; i < DIALS; i++) {
		bool found = false;

		RUN_UNTIL(port, dials[i].finals == 1);
		CHECK(dials[i].last >= 0);
		CHECK_INT(proa_local_address(dials[i].last, &local), 0);
		for (int j = 0; j < DIALS && !found; j++) {
			CHECK_INT(proa_peer_address(peers[j], &theirs), 0);
			found = same_address(&local, &theirs);
			if (found)
				check_connected(port, dials[i].last, peers[j]);
		}
		CHECK(found);
	}
	for (int i = 0; i < DIALS; i++) {
		close_handle(port, dials[i].last);
		close(peers[i]);
	}
	close(listener);
	test_close(port);
}

TEST(16, "dial", failed_dial_leaves_nothing)
{
	struct proa_port *port = test_port();
	struct proa_address address, odd = { .length = sizeof(struct sockaddr) };
	char where[256];
	struct record record;
	int before;

	record_init(&record, port);
	refusing(&address);
	run_quiet(port);
	before = descriptors_open();
	for (int i = 0; i < 20; i++) {
		proa_prep_dial(&record.op, &address, 0);
		CHECK_INT(record_run(&record), PROA_ECONNREFUSED);
		CHECK_INT(descriptors_open(), before);
	}
	snprintf(where, sizeof(where), "unix:%s", test_path("nobody"));
	CHECK_INT(proa_address_parse(&address, where), 0);
	proa_prep_dial(&record.op, &address, 0);
	CHECK_INT(record_run(&record), NO_UNIX_SOCKET);
	odd.to.any.sa_family = 250; /* no such family */
	proa_prep_dial(&record.op, &odd, 0);
	CHECK(record_run(&record) < 0);
	odd.to.any.sa_family = AF_INET;
	odd.length = 3;
	proa_prep_dial(&record.op, &odd, 0);
	CHECK_INT(record_run(&record), PROA_EINVAL);
	CHECK_INT(descriptors_open(), before);
	test_close(port);
}

TEST(16, "dial", dial_given_up)
{
	struct proa_port *port = test_port();
	struct hole hole;
	struct record record;
	int before;

	dig_hole(&hole);
	record_init(&record, port);
	run_quiet(port);
	before = descriptors_open();
	for (int way = 0; way < 4; way++) {
		int64_t since = test_clock();

		proa_prep_dial(&record.op, &hole.address, 0);
		if (way == 0)
			proa_op_timeout(&record.op, 50 * PROA_MILLISECOND);
		if (way == 1)
			proa_op_deadline(&record.op, since + 50 * PROA_MILLISECOND);
		record_submit(&record);
		if (way == 2)
			run_for(port, 30 * PROA_MILLISECOND);
		if (way >= 2)
			proa_cancel(&record.op);
		RUN_UNTIL(port, record.finals == 1);
		CHECK_INT(record.last, way < 2 ? PROA_ETIMEDOUT : PROA_ECANCELED);
		CHECK(test_clock() - since < PROA_SECOND * test_factor());
		CHECK_INT(descriptors_open(), before);
	}
	fill_hole(&hole);
	test_close(port);
}

/* A listening UNIX socket, where there are some. */
static int local_listener(int backlog, struct proa_address *address)
{
#ifdef _WIN32
	return tcp_listener(backlog, address);
#else
	char where[256];
	int listener;

	snprintf(where, sizeof(where), "unix:%s", test_path("listener"));
	CHECK_INT(proa_address_parse(address, where), 0);
	listener = CHECK_SYSTEM(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
	CHECK_SYSTEM(bind(listener, &address->to.any, address->length));
	CHECK_SYSTEM(listen(listener, backlog));
	return listener;
#endif
}

/* Whoever wins: a handle that works, or nothing at all. */
TEST_SLOW(16, "dial", cancels_race_with_dials)
{
	struct proa_port *port = test_port();
	struct proa_address address, local;
	int listeners[2] = { tcp_listener(1000, &address), 0 }, before, won = 0;
	proa_handle handle;
	unsigned seed = 21;

	listeners[1] = local_listener(1000, &local);
	run_quiet(port);
	before = descriptors_open();
	for (int round = 0; round < 400; round++) {
		struct record record;

		record_init(&record, port);
		proa_prep_dial(&record.op, round & 1 ? &address : &local, 0);
		record_submit(&record);
		for (int turns = rand_r(&seed) % 3; turns > 0; turns--)
			CHECK(proa_run_once(port, 0) >= 0);
		proa_cancel(&record.op);
		RUN_UNTIL(port, record.finals == 1);
		handle = record.last;
		if (handle < 0) {
			CHECK_INT(handle, PROA_ECANCELED);
		} else {
			won++;
			proa_prep_send(&record.op, handle, "x", 1, 0);
			CHECK_INT(record_run(&record), 1);
			close_handle(port, handle);
		}
		CHECK_INT(descriptors_open(), before);
	}
	printf("%d of 400 dials won\n", won);
	close(listeners[0]);
	close(listeners[1]);
	test_close(port);
}

/* A UNIX listener with a full queue answers EAGAIN, and no readiness ever tells
 * of room: that is the library's business (rule 6), not the program's. */
TEST(16, "dial", full_unix_listener)
{
	struct proa_port *port = test_port();
	struct proa_address address;
	char where[256];
	int listener, fillers[8], count = 0, peers[8];
	struct record record;

	SKIP_WITHOUT_UNIX_SOCKETS();
	snprintf(where, sizeof(where), "unix:%s", test_path("listener"));
	CHECK_INT(proa_address_parse(&address, where), 0);
	listener = CHECK_SYSTEM(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
	CHECK_SYSTEM(bind(listener, &address.to.any, address.length));
	CHECK_SYSTEM(listen(listener, 1));
	for (count = 0; count < 8; count++) {
		fillers[count] = CHECK_SYSTEM(
			socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
		if (connect(fillers[count], &address.to.any, address.length) < 0)
			break;
	}
	CHECK(count < 8 && errno == EAGAIN);
	close(fillers[count]);
	record_init(&record, port);
	proa_prep_dial(&record.op, &address, 0);
	record_submit(&record);
	run_for(port, 50 * PROA_MILLISECOND);
	CHECK_INT(record.finals, 0);
	for (int i = 0; i < count; i++)
		peers[i] = CHECK_SYSTEM(accept(listener, NULL, NULL));
	RUN_UNTIL(port, record.finals == 1);
	CHECK(record.last >= 0);
	peers[count] = CHECK_SYSTEM(accept(listener, NULL, NULL));
	check_connected(port, record.last, peers[count]);
	close_handle(port, record.last);
	for (int i = 0; i < count; i++)
		close(fillers[i]);
	for (int i = 0; i <= count; i++)
		close(peers[i]);
	/* Cancelled while it waits for room. */
	for (count = 0; count < 8; count++) {
		fillers[count] = CHECK_SYSTEM(
			socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
		if (connect(fillers[count], &address.to.any, address.length) < 0)
			break;
	}
	proa_prep_dial(&record.op, &address, 0);
	record_submit(&record);
	run_for(port, 30 * PROA_MILLISECOND);
	proa_cancel(&record.op);
	RUN_UNTIL(port, record.finals == 1);
	CHECK_INT(record.last, PROA_ECANCELED);
	for (int i = 0; i <= count; i++)
		close(fillers[i]);
	close(listener);
	test_close(port);
}

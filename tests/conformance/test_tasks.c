/* Rules 26 (jobs and look-ups) and 28: what is neither stream nor file. Jobs
 * on worker threads, names, signals, processes. */
#include "harness.h"
#include "posix.h"

#include <stdatomic.h>
#ifndef _WIN32
#	include <sys/mount.h>
#endif

#define MS    PROA_MILLISECOND
#define NEVER (1000 * PROA_SECOND)

static struct record *records_make(struct proa_port *port, unsigned count)
{
	struct record *records = calloc(count, sizeof(*records));

	CHECK(records != NULL);
	for (unsigned i = 0; i < count; i++)
		record_init(&records[i], port);
	return records;
}

static struct proa_port *port_with_workers(uint32_t workers)
{
	struct proa_port_options options = { .workers = workers };

	return test_port_with(&options);
}

/* ---- Rule 26: jobs ---- */

static int32_t give(void *argument)
{
	return *(int32_t *)argument;
}

TEST(26, "a job's return value is the result", job_results)
{
	static int32_t values[] = { 0, 1, -1, INT32_MAX, INT32_MIN, PROA_ECANCELED, PROA_EAGAIN,
		INT32_MIN + 1, INT32_MIN + 2, 0x8000 };
	struct proa_port *port = test_port();
	struct record record;

	/* Values that mean something inside the library among them. */
	record_init(&record, port);
	for (unsigned i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
		proa_prep_work(&record.op, give, &values[i]);
		CHECK_INT(record_run(&record), values[i]);
		CHECK_INT(record.flags[0], 0);
		CHECK_INT(record.count, 1);
	}
	test_close(port);
}

static atomic_int running, running_most, finished;

static int32_t overlap(void *argument)
{
	int now = atomic_fetch_add(&running, 1) + 1, most = atomic_load(&running_most);

	(void)argument;
	while (now > most && !atomic_compare_exchange_weak(&running_most, &most, now))
		;
	test_sleep(10 * MS);
	atomic_fetch_sub(&running, 1);
	return atomic_fetch_add(&finished, 1);
}

TEST(26, "a bounded pool", more_jobs_than_workers)
{
	struct proa_port *port = port_with_workers(3);
	struct record *records = records_make(port, 40);

	for (int i = 0; i < 40; i++) {
		proa_prep_work(&records[i].op, overlap, NULL);
		record_submit(&records[i]);
	}
	CHECK_INT(proa_run(port), 0);
	for (int i = 0; i < 40; i++) {
		CHECK_INT(records[i].count, 1);
		CHECK(records[i].last >= 0);
	}
	CHECK_INT(atomic_load(&finished), 40);
	CHECK(atomic_load(&running_most) <= 3);
	CHECK(atomic_load(&running_most) >= 2);
	free(records);
	test_close(port);
}

static int order_seen;

static int32_t note_order(void *argument)
{
	CHECK_INT((intptr_t)argument, order_seen);
	return order_seen++;
}

TEST(26, "in order, with one worker", jobs_begin_in_order)
{
	struct proa_port *port = port_with_workers(1);
	enum { COUNT = 2000 };
	struct record *records = records_make(port, COUNT);

	for (int i = 0; i < COUNT; i++) {
		proa_prep_work(&records[i].op, note_order, (void *)(intptr_t)i);
		record_submit(&records[i]);
	}
	CHECK_INT(proa_run(port), 0);
	for (int i = 0; i < COUNT; i++)
		CHECK_INT(records[i].last, i);
	free(records);
	test_close(port);
}

static atomic_bool job_open, job_begun, job_ended;

static int32_t gated(void *argument)
{
	(void)argument;
	atomic_store(&job_begun, true);
	while (!atomic_load(&job_open))
		test_sleep(MS);
	atomic_store(&job_ended, true);
	return 42;
}

static void gate_shut(void)
{
	atomic_store(&job_open, false);
	atomic_store(&job_begun, false);
	atomic_store(&job_ended, false);
}

static void note_job_ended(struct record *record, const struct proa_completion *c)
{
	(void)record;
	(void)c;
	CHECK(atomic_load(&job_ended));
}

TEST(26, "nothing blocks the port's thread", port_runs_while_a_job_does)
{
	struct proa_port *port = port_with_workers(1);
	struct record job, timer;

	record_init(&job, port);
	record_init(&timer, port);
	gate_shut();
	proa_prep_work(&job.op, gated, NULL);
	record_submit(&job);
	for (int i = 0; i < 10; i++) {
		proa_prep_timer(&timer.op, MS);
		CHECK_INT(record_run(&timer), 0);
	}
	CHECK_INT(job.count, 0);
	atomic_store(&job_open, true);
	/* A sleeping port is woken by the job's end. */
	CHECK_INT(proa_run_once(port, 15 * PROA_SECOND), 1);
	CHECK_INT(job.last, 42);
	test_close(port);
}

TEST(26, "a job begun is waited for", job_begun_is_waited_for)
{
	struct proa_port *port = port_with_workers(1);
	struct record job, closing;

	record_init(&job, port);
	record_init(&closing, port);
	job.then = note_job_ended;
	for (int way = 0; way < 5; way++) {
		struct ends ends = pair_ends();

		gate_shut();
		proa_prep_work(&job.op, gated, NULL);
		CHECK_INT(proa_attach(port, ends.ours), 0);
		proa_op_with(&job.op, ends.ours);
		record_submit(&job);
		RUN_UNTIL(port, atomic_load(&job_begun));
		if (way == 1)
			proa_op_timeout(&job.op, 5 * MS);
		if (way == 0)
			proa_cancel(&job.op);
		if (way == 2)
			proa_cancel_all(port);
		proa_prep_close(&closing.op, ends.ours, 0);
		if (way == 3)
			record_submit(&closing);
		if (way == 4)
			proa_cancel_handle(port, ends.ours);
		run_for(port, 30 * MS);
		/* The job still uses what it was given: nobody may free it. */
		CHECK_INT(job.count, 0);
		CHECK(proa_op_pending(&job.op));
		CHECK_INT(closing.count, 0);
		atomic_store(&job_open, true);
		RUN_UNTIL(port, job.finals == 1);
		if (way != 1 || job.last != PROA_ETIMEDOUT)
			CHECK_INT(job.last, 42);
		if (way != 3)
			record_submit(&closing);
		RUN_UNTIL(port, closing.finals == 1);
		CHECK_INT(closing.last, 0);
		CHECK(closing.order > job.order);
		CHECK_INT(job.count, 1);
		record_init(&closing, port);
		close(ends.peer);
	}
	test_close(port);
}

static atomic_int dropped_ran;

static int32_t must_not_run(void *argument)
{
	(void)argument;
	return atomic_fetch_add(&dropped_ran, 1);
}

TEST(26, "a job not begun is dropped", jobs_in_the_queue_are_dropped)
{
	struct proa_port *port = port_with_workers(2);
	struct record *records = records_make(port, 12);

	gate_shut();
	for (int i = 0; i < 12; i++) {
		proa_prep_work(&records[i].op, i < 2 ? gated : must_not_run, NULL);
		if (i >= 10)
			proa_op_timeout(&records[i].op, 20 * MS);
		record_submit(&records[i]);
	}
	RUN_UNTIL(port, atomic_load(&job_begun));
	run_for(port, 5 * MS);
	/* From the middle, the front and the end; at once, not when a worker is free. */
	proa_cancel(&records[6].op);
	proa_cancel(&records[2].op);
	proa_cancel(&records[9].op);
	RUN_UNTIL(port, records[6].finals + records[2].finals + records[9].finals == 3);
	RUN_UNTIL(port, records[10].finals + records[11].finals == 2);
	for (int i = 3; i < 9; i++)
		proa_cancel(&records[i].op);
	RUN_UNTIL(port, proa_in_flight(port) == 2);
	atomic_store(&job_open, true);
	CHECK_INT(proa_run(port), 0);
	for (int i = 0; i < 12; i++) {
		CHECK_INT(records[i].count, 1);
		CHECK_INT(records[i].last, i < 2 ? 42 : i < 10 ? PROA_ECANCELED : PROA_ETIMEDOUT);
	}
	CHECK_INT(atomic_load(&dropped_ran), 0);
	free(records);
	test_close(port);
}

TEST(26, "cancel races with workers", jobs_race_with_cancels)
{
	struct proa_port *port = port_with_workers(2);
	struct record *records = records_make(port, 8);
	int ran = 0, given = 0;

	for (int round = 0; round < 500; round++) {
		for (int i = 0; i < 8; i++) {
			proa_prep_work(&records[i].op, must_not_run, NULL);
			record_submit(&records[i]);
		}
		for (int i = 0; i < 8; i++)
			if ((round + i) % 3 != 0)
				proa_cancel(&records[(i * 5) % 8].op);
		CHECK_INT(proa_run(port), 0);
		for (int i = 0; i < 8; i++) {
			CHECK_INT(records[i].count, 1);
			given += records[i].last >= 0;
			CHECK(records[i].last >= 0 || records[i].last == PROA_ECANCELED);
		}
	}
	/* A job that ran says so, and one that was cancelled did not run. */
	ran = atomic_load(&dropped_ran);
	CHECK_INT(given, ran);
	free(records);
	test_close(port);
}

static pthread_t port_thread;

static int32_t look_around(void *argument)
{
	(void)argument;
	CHECK(!pthread_equal(pthread_self(), port_thread));
#ifdef _WIN32
	return 1; /* a signal is a thread of its own there */
#else
	sigset_t blocked;

	pthread_sigmask(SIG_BLOCK, NULL, &blocked);
	return sigismember(&blocked, SIGUSR1) && sigismember(&blocked, SIGTERM) &&
	       sigismember(&blocked, SIGALRM);
#endif
}

static int32_t post_from_job(void *argument)
{
	struct record *record = argument;

	proa_post(record->op.port, &record->op, 11, recorded);
	return 12;
}

TEST(26, "workers", jobs_run_on_threads_of_their_own)
{
	struct proa_port *port = test_port();
	struct record job, posted;

	record_init(&job, port);
	record_init(&posted, port);
	port_thread = pthread_self();
	proa_prep_work(&job.op, look_around, NULL);
	CHECK_INT(record_run(&job), 1); /* signals are not theirs */
	proa_prep_work(&job.op, post_from_job, &posted);
	record_submit(&job);
	CHECK_INT(proa_run(port), 0);
	CHECK_INT(job.last, 12);
	CHECK_INT(posted.last, 11);
	test_close(port);
}

/* ---- Rule 26: names ---- */

#define ROOM 8

struct lookup {
	struct record record;
	struct proa_query query;
	struct proa_address found[ROOM + 1];
};

static void lookup_prep(struct lookup *lookup, struct proa_port *port, const char *host,
	const char *service, uint32_t room)
{
	record_init(&lookup->record, port);
	memset(lookup->found, 0x5a, sizeof(lookup->found));
	lookup->query = (struct proa_query) { host, service, lookup->found, room };
	proa_prep_resolve(&lookup->record.op, &lookup->query);
	proa_op_timeout(&lookup->record.op, 8 * PROA_SECOND);
}

static int32_t lookup_run(struct lookup *lookup)
{
	struct proa_address untouched;
	int32_t found = record_run(&lookup->record);

	memset(&untouched, 0x5a, sizeof(untouched));
	CHECK_INT(lookup->record.count, 1);
	CHECK(memcmp(&lookup->found[lookup->query.room], &untouched, sizeof(untouched)) == 0);
	for (int32_t i = 0; i < found && i < (int32_t)lookup->query.room; i++) {
		const struct proa_address *address = &lookup->found[i];

		CHECK(address->length >= sizeof(struct sockaddr_in));
		CHECK(address->length <= sizeof(address->to));
		CHECK(address->to.any.sa_family == AF_INET ||
			address->to.any.sa_family == AF_INET6);
	}
	return found;
}

static void check_address(const struct proa_address *address, const char *expected)
{
	char text[PROA_ADDRESS_TEXT];

	CHECK(proa_address_text(address, text, sizeof(text)) > 0);
	if (strcmp(text, expected) != 0)
		test_fail(__FILE__, __LINE__, "%s is not %s", text, expected);
}

TEST(26, "look-ups", resolve_names_and_numbers)
{
	struct proa_port *port = test_port();
	static struct lookup lookup;
	int32_t found;

	lookup_prep(&lookup, port, "127.0.0.1", "8080", ROOM);
	CHECK_INT(lookup_run(&lookup), 1);
	check_address(&lookup.found[0], "127.0.0.1:8080");
	lookup_prep(&lookup, port, "::1", "80", ROOM);
	found = lookup_run(&lookup);
	if (found >= 0) { /* a machine may do without */
		CHECK_INT(found, 1);
		check_address(&lookup.found[0], "[::1]:80");
	}
	lookup_prep(&lookup, port, "localhost", "80", ROOM);
	found = lookup_run(&lookup);
	CHECK(found >= 1);
	for (int i = 0; i < found; i++)
		if (lookup.found[i].to.any.sa_family == AF_INET)
			check_address(&lookup.found[i], "127.0.0.1:80");
	/* Either may be left out. */
	lookup_prep(&lookup, port, "127.0.0.1", NULL, ROOM);
	CHECK_INT(lookup_run(&lookup), 1);
	check_address(&lookup.found[0], "127.0.0.1:0");
	lookup_prep(&lookup, port, NULL, "8081", ROOM);
	CHECK(lookup_run(&lookup) >= 1);
	lookup_prep(&lookup, port, NULL, NULL, ROOM);
	CHECK(lookup_run(&lookup) < 0);
	/* Room for one alone. */
	lookup_prep(&lookup, port, NULL, "8081", 1);
	CHECK_INT(lookup_run(&lookup), 1);
	test_close(port);
}

TEST(26, "look-ups", resolve_of_what_is_not_there)
{
	struct proa_port *port = test_port();
	static struct lookup lookup;

	lookup_prep(&lookup, port, "127.0.0.1", "no-such-service", ROOM);
	CHECK_INT(lookup_run(&lookup), PROA_ENONAME);
	lookup_prep(&lookup, port, "256.256.256.256.invalid", "80", ROOM);
	/* Without a network the answer may be another error, or time. */
	CHECK(lookup_run(&lookup) < 0);
	lookup_prep(&lookup, port, "", "80", ROOM);
	CHECK(lookup_run(&lookup) < 0);
	test_close(port);
}

TEST(26, "look-ups", many_lookups_at_once)
{
	struct proa_port *port = test_port();
	enum { COUNT = 60 };
	struct lookup *lookups = calloc(COUNT, sizeof(*lookups));

	CHECK(lookups != NULL);
	for (int round = 0; round < 5; round++) {
		for (int i = 0; i < COUNT; i++) {
			lookup_prep(&lookups[i], port, i % 2 ? "localhost" : "127.0.0.1", "80", 1);
			record_submit(&lookups[i].record);
		}
		for (int i = 0; i < COUNT; i++)
			if (i % 3 == round % 3)
				proa_cancel(&lookups[i].record.op);
		CHECK_INT(proa_run(port), 0);
		for (int i = 0; i < COUNT; i++) {
			CHECK_INT(lookups[i].record.count, 1);
			if (lookups[i].record.last != 1) {
				CHECK_INT(lookups[i].record.last, PROA_ECANCELED);
				CHECK_INT(i % 3, round % 3);
			}
		}
	}
	free(lookups);
	test_close(port);
}

#ifdef _WIN32
NOT_HERE(26, "a look-up that is stuck is abandoned", stuck_lookups_are_abandoned,
	"no mount in which a name server could be played")
#else

/* A name server that does not answer: a UDP socket in the place of port 53, by
 * a resolv.conf of our own in a mount namespace of our own. -1: not possible. */
static int stuck_resolver(void)
{
	/* Of our own, for several tests may run at once. */
	unsigned number = (unsigned)getpid(), low = (number & 0x7f) + 1, high = number >> 7 & 0xff;
	struct sockaddr_in here = { .sin_family = AF_INET, .sin_port = htons(53) };
	char text[128], address[32];
	static const char order[] = "hosts: files dns\n";
	const char *conf = test_path("resolv.conf"), *nsswitch = test_path("nsswitch.conf");
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), file;

	snprintf(address, sizeof(address), "127.77.%u.%u", high, low);
	snprintf(text, sizeof(text), "nameserver %s\noptions timeout:20 attempts:1\n", address);
	inet_pton(AF_INET, address, &here.sin_addr);
	if (bind(fd, (struct sockaddr *)&here, sizeof(here)) < 0 || unshare(CLONE_NEWNS) < 0)
		goto failed;
	file = CHECK_SYSTEM(open(conf, O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
	peer_write(file, text, strlen(text));
	close(file);
	file = CHECK_SYSTEM(open(nsswitch, O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
	peer_write(file, order, sizeof(order) - 1);
	close(file);
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
		mount(conf, "/etc/resolv.conf", NULL, MS_BIND, NULL) < 0)
		goto failed;
	(void)mount(nsswitch, "/etc/nsswitch.conf", NULL, MS_BIND, NULL);
	return fd;
failed:
	close(fd);
	return -1;
}

/* Answers all that was asked with "no such name", until nobody waits for it:
 * the resolver's threads hold sockets till then. */
static void answer_all(int fd, int descriptors)
{
	int64_t until = test_clock() + 10 * PROA_SECOND;
	unsigned char packet[512];

	while (descriptors_open() > descriptors && test_clock() < until) {
		struct sockaddr_in from;
		socklen_t length = sizeof(from);
		ssize_t n =
			recvfrom(fd, packet, sizeof(packet), 0, (struct sockaddr *)&from, &length);

		if (n < 12) {
			test_sleep(MS);
			continue;
		}
		packet[2] = 0x81;
		packet[3] = 0x83;
		sendto(fd, packet, (size_t)n, 0, (struct sockaddr *)&from, length);
	}
	CHECK_INT(descriptors_open(), descriptors);
}

TEST_WITHIN(26, "a look-up that is stuck is abandoned", stuck_lookups_are_abandoned, 40)
{
	int descriptors = descriptors_open(), server = stuck_resolver();
	static struct lookup lookups[20], numeric;
	struct proa_port *port;
	struct pollfd asked = { .fd = server, .events = POLLIN };
	int64_t start;

	if (server < 0)
		SKIP("no name server can be played here: %s", strerror(errno));
	port = test_port();
	for (int i = 0; i < 20; i++) {
		lookup_prep(&lookups[i], port, "stuck.example.org", "80", ROOM);
		if (i == 1)
			proa_op_timeout(&lookups[i].record.op, 30 * MS);
		if (i == 2)
			proa_op_deadline(&lookups[i].record.op, test_clock() + 30 * MS);
		record_submit(&lookups[i].record);
	}
	if (poll(&asked, 1, 5000) != 1)
		SKIP("names are not looked up by the name server here");
	run_for(port, 60 * MS);
	CHECK_INT(lookups[0].record.count, 0);
	CHECK_INT(lookups[1].record.last, PROA_ETIMEDOUT);
	CHECK_INT(lookups[2].record.last, PROA_ETIMEDOUT);
	start = test_clock();
	for (int i = 0; i < 10; i++)
		proa_cancel(&lookups[i].record.op);
	RUN_UNTIL(port, proa_in_flight(port) == 10);
	CHECK_INT(lookups[0].record.last, PROA_ECANCELED);
	/* Its own strings and room may go: the library works on a copy. */
	memset(&lookups[0], 0xee, sizeof(lookups[0]));
	/* The port does not wait for them either. */
	test_close(port);
	CHECK(test_clock() - start < 5 * PROA_SECOND * test_factor());
	for (int i = 10; i < 20; i++) {
		CHECK_INT(lookups[i].record.count, 1);
		CHECK_INT(lookups[i].record.last, PROA_ECANCELED);
	}
	/* They get their answers with nobody there, and others work as before. */
	answer_all(server, descriptors + 1);
	port = test_port();
	lookup_prep(&numeric, port, "127.0.0.1", "80", ROOM);
	CHECK_INT(lookup_run(&numeric), 1);
	test_close(port);
	close(server);
}

#endif

#ifdef _WIN32
NOT_HERE(28, "each delivery, until cancelled", signals_are_told,
	"no kill() to send them; console events: tests/unit/test_windows.c")
NOT_HERE(28, "at least one for each pending signal", signals_coalesce,
	"no kill() to send them; console events: tests/unit/test_windows.c")
NOT_HERE(28, "a sleeping port is woken", signal_wakes_a_sleeper,
	"no kill() to send them; console events: tests/unit/test_windows.c")
NOT_HERE(28, "the old action comes back", signal_action_is_restored,
	"no kill() to send them; console events: tests/unit/test_windows.c")
NOT_HERE(28, "two ports for one signal", signal_on_two_ports,
	"no kill() to send them; console events: tests/unit/test_windows.c")
NOT_HERE(28, "two ops for one signal", signal_of_two_ops, "no kill() to send them")
NOT_HERE(28, "a forked child", signals_stay_with_the_parent, "no fork on Windows")
NOT_HERE(28, "a forked child", children_stay_with_the_parent, "no fork on Windows")
NOT_HERE(28, "signals that can't be", signals_that_can_not_be_told,
	"no kill() to send them; console events: tests/unit/test_windows.c")
#else

/* ---- Rule 28: signals ---- */

TEST(28, "each delivery, until cancelled", signals_are_told)
{
	static const int numbers[] = { SIGUSR1, SIGUSR2, SIGHUP, SIGTERM, SIGINT, SIGCHLD,
		SIGWINCH };
	struct proa_port *port = test_port();
	struct record record;

	record_init(&record, port);
	for (unsigned i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
		proa_prep_signal(&record.op, numbers[i]);
		record_submit(&record);
		run_for(port, MS);
		for (unsigned j = 1; j <= 3; j++) {
			CHECK_SYSTEM(kill(getpid(), numbers[i]));
			RUN_UNTIL(port, record.count == j);
			CHECK_INT(record.last, numbers[i]);
			CHECK_INT(record.flags[j - 1], PROA_MORE);
		}
		run_for(port, 2 * MS);
		CHECK_INT(record.count, 3);
		proa_cancel(&record.op);
		RUN_UNTIL(port, record.finals == 1);
		CHECK_INT(record.last, PROA_ECANCELED);
	}
	/* The first and the last of the real-time ones. */
	for (int number = SIGRTMIN; number <= SIGRTMAX; number += SIGRTMAX - SIGRTMIN) {
		proa_prep_signal(&record.op, number);
		record_submit(&record);
		CHECK_SYSTEM(kill(getpid(), number));
		RUN_UNTIL(port, record.count == 1);
		CHECK_INT(record.last, number);
		proa_cancel(&record.op);
		RUN_UNTIL(port, record.finals == 1);
	}
	test_close(port);
}

TEST(28, "at least one for each pending signal", signals_coalesce)
{
	struct proa_port *port = test_port();
	struct record *records = records_make(port, 2);

	for (int i = 0; i < 2; i++) {
		proa_prep_signal(&records[i].op, i ? SIGUSR2 : SIGUSR1);
		record_submit(&records[i]);
	}
	run_for(port, MS);
	for (int round = 0; round < 50; round++) {
		unsigned before[2] = { records[0].count, records[1].count };

		for (int i = 0; i < 20; i++) {
			CHECK_SYSTEM(kill(getpid(), SIGUSR1));
			CHECK_SYSTEM(kill(getpid(), SIGUSR2));
		}
		RUN_UNTIL(port, records[0].count > before[0] && records[1].count > before[1]);
	}
	CHECK(records[0].count <= 1000);
	CHECK_INT(records[0].finals + records[1].finals, 0);
	proa_cancel_all(port);
	CHECK_INT(proa_run(port), 0);
	CHECK_INT(records[0].last, PROA_ECANCELED);
	free(records);
	test_close(port);
}

static void *kill_later(void *argument)
{
	(void)argument;
	test_sleep(20 * MS);
	kill(getpid(), SIGUSR1);
	return NULL;
}

TEST(28, "a sleeping port is woken", signal_wakes_a_sleeper)
{
	struct proa_port *port = test_port();
	struct record record;
	pthread_t thread;

	record_init(&record, port);
	proa_prep_signal(&record.op, SIGUSR1);
	record_submit(&record);
	for (unsigned i = 1; i <= 3; i++) {
		CHECK_INT(pthread_create(&thread, NULL, kill_later, NULL), 0);
		CHECK_INT(proa_run_once(port, 15 * PROA_SECOND), 1);
		CHECK_INT(record.count, i);
		CHECK_INT(pthread_join(thread, NULL), 0);
	}
	proa_cancel(&record.op);
	CHECK_INT(proa_run(port), 0);
	test_close(port);
}

static atomic_int handler_calls;

static void count_signal(int number)
{
	(void)number;
	atomic_fetch_add(&handler_calls, 1);
}

TEST(28, "the old action comes back", signal_action_is_restored)
{
	struct sigaction action = { .sa_handler = count_signal, .sa_flags = SA_RESTART }, now;
	struct proa_port *port = test_port();
	struct record *records = records_make(port, 2);

	CHECK_SYSTEM(sigaction(SIGUSR2, &action, NULL));
	for (int i = 0; i < 2; i++) {
		proa_prep_signal(&records[i].op, SIGUSR2);
		record_submit(&records[i]);
	}
	CHECK_SYSTEM(kill(getpid(), SIGUSR2));
	RUN_UNTIL(port, records[0].count + records[1].count == 2);
	CHECK_INT(atomic_load(&handler_calls), 0);
	/* The end of one leaves it to the other. */
	proa_cancel(&records[0].op);
	RUN_UNTIL(port, records[0].finals == 1);
	CHECK_SYSTEM(kill(getpid(), SIGUSR2));
	RUN_UNTIL(port, records[1].count == 2);
	CHECK_INT(atomic_load(&handler_calls), 0);
	proa_cancel(&records[1].op);
	RUN_UNTIL(port, records[1].finals == 1);
	CHECK_SYSTEM(sigaction(SIGUSR2, NULL, &now));
	CHECK(now.sa_handler == count_signal);
	CHECK_SYSTEM(kill(getpid(), SIGUSR2));
	CHECK_INT(atomic_load(&handler_calls), 1);
	/* The default action, and the port's end as well as the op's. */
	proa_prep_signal(&records[0].op, SIGUSR1);
	record_submit(&records[0]);
	CHECK_SYSTEM(kill(getpid(), SIGUSR1));
	RUN_UNTIL(port, records[0].count == 1);
	test_close(port);
	CHECK_SYSTEM(sigaction(SIGUSR1, NULL, &now));
	CHECK(now.sa_handler == SIG_DFL);
	free(records);
}

TEST(28, "two ports for one signal", signal_on_two_ports)
{
	struct proa_port *ports[2] = { test_port(), test_port() };
	struct record records[2];

	for (int i = 0; i < 2; i++) {
		record_init(&records[i], ports[i]);
		proa_prep_signal(&records[i].op, SIGUSR1);
		record_submit(&records[i]);
		run_for(ports[i], MS);
	}
	for (unsigned i = 1; i <= 3; i++) {
		CHECK_SYSTEM(kill(getpid(), SIGUSR1));
		RUN_UNTIL(ports[1], records[1].count == i);
		RUN_UNTIL(ports[0], records[0].count == i);
	}
	test_close(ports[0]);
	CHECK_INT(records[0].finals, 1);
	CHECK_SYSTEM(kill(getpid(), SIGUSR1));
	RUN_UNTIL(ports[1], records[1].count == 4);
	test_close(ports[1]);
	CHECK_INT(records[1].finals, 1);
}

TEST(28, "two ops for one signal", signal_of_two_ops)
{
	struct proa_port *port = test_port();
	struct record *records = records_make(port, 2);

	for (int i = 0; i < 2; i++) {
		proa_prep_signal(&records[i].op, SIGSEGV);
		record_submit(&records[i]);
	}
	/* One that is sent is not one that the program's own fault has raised. */
	CHECK_SYSTEM(kill(getpid(), SIGSEGV));
	RUN_UNTIL(port, records[0].count == 1 && records[1].count == 1);
	proa_cancel(&records[1].op);
	RUN_UNTIL(port, records[1].finals == 1);
	CHECK_SYSTEM(kill(getpid(), SIGSEGV));
	RUN_UNTIL(port, records[0].count == 2);
	CHECK_INT(records[1].count, 2);
	proa_cancel(&records[0].op);
	RUN_UNTIL(port, records[0].finals == 1);
	free(records);
	test_close(port);
}

TEST(28, "a forked child", signals_stay_with_the_parent)
{
	struct proa_port *port = test_port();
	struct record record;
	int status;
	pid_t pid;

	record_init(&record, port);
	proa_prep_signal(&record.op, SIGUSR1);
	record_submit(&record);
	run_for(port, MS);
	pid = CHECK_SYSTEM(fork());
	if (pid == 0) {
		struct sigaction action;
		sigset_t blocked;

		/* As if the port had never been. */
		sigaction(SIGUSR1, NULL, &action);
		sigprocmask(SIG_SETMASK, NULL, &blocked);
		_exit(action.sa_handler != SIG_DFL || sigismember(&blocked, SIGUSR1));
	}
	CHECK_SYSTEM(waitpid(pid, &status, 0));
	CHECK_INT(status, 0);
	CHECK_INT(record.count, 0);
	CHECK_SYSTEM(kill(getpid(), SIGUSR1));
	RUN_UNTIL(port, record.count == 1);
	CHECK_INT(record.last, SIGUSR1);
	proa_cancel(&record.op);
	RUN_UNTIL(port, record.finals == 1);
	test_close(port);
}

TEST(28, "a forked child", children_stay_with_the_parent)
{
	struct proa_port *port = test_port();
	struct record record;
	struct proa_exit end;
	proa_process process = act("sleep 0.2; exit 3");
	int status;
	pid_t pid;

	record_init(&record, port);
	proa_prep_child(&record.op, process, &end);
	record_submit(&record);
	run_for(port, MS);
	pid = CHECK_SYSTEM(fork());
	if (pid == 0) /* the other is no child of this one's */
		_exit(waitpid((pid_t)process, NULL, WNOHANG) >= 0);
	CHECK_SYSTEM(waitpid(pid, &status, 0));
	CHECK_INT(status, 0);
	RUN_UNTIL(port, record.finals == 1);
	CHECK_INT(record.last, 0);
	CHECK_INT(end.code, 3);
	test_close(port);
}

TEST(28, "signals that can't be", signals_that_can_not_be_told)
{
	static const int numbers[] = { 0, -1, 65, 999, INT_MAX, SIGKILL, SIGSTOP,
		32 /* libc's own */ };
	struct proa_port *port = test_port();
	struct record record;

	record_init(&record, port);
	for (unsigned i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
		proa_prep_signal(&record.op, numbers[i]);
		CHECK_INT(record_run(&record), PROA_EINVAL);
	}
	test_close(port);
}

#endif

TEST(28, "50 children at once", many_children)
{
	struct proa_port *port = test_port();
	enum { COUNT = 50 };
	struct record *records = records_make(port, COUNT);
	struct proa_exit ends[COUNT];
	proa_process processes[COUNT];

	for (int i = 0; i < COUNT; i++) {
		char script[64];

		snprintf(script, sizeof(script), i % 2 ? "exit %d" : "sleep 0.1; exit %d", i);
		processes[i] = act(script);
		proa_prep_child(&records[i].op, processes[i], &ends[i]);
		record_submit(&records[i]);
	}
	CHECK_INT(proa_run(port), 0);
	for (int i = 0; i < COUNT; i++) {
		CHECK_INT(records[i].count, 1);
		CHECK_INT(records[i].last, 0);
		CHECK_INT(ends[i].code, i);
		CHECK_INT(ends[i].signal, 0);
		expect_reaped(processes[i]);
	}
	free(records);
	test_close(port);
}

/* ---- Rule 28: processes ---- */

TEST(28, "child exit: code and signal", child_exit_is_told)
{
	struct proa_port *port = test_port();
	struct record record;
	struct proa_exit end;

	record_init(&record, port);
	for (int before = 0; before < 2; before++) {
		proa_process process = act("exit 7");

		memset(&end, 0xee, sizeof(end));
		if (before) /* it has ended when the op is submitted */
			test_sleep(50 * MS);
		proa_prep_child(&record.op, process, &end);
		CHECK_INT(record_run(&record), 0);
		CHECK_INT(end.code, 7);
		CHECK_INT(end.signal, 0);
		CHECK_INT(record.count, 1);
		expect_reaped(process);
		process = act("exec sleep 100");
		memset(&end, 0xee, sizeof(end));
		proa_prep_child(&record.op, process, &end);
		if (before) {
			CHECK_INT(proa_kill(process, SIGKILL), 0);
			test_sleep(50 * MS);
			record_submit(&record);
		} else {
			record_submit(&record);
			run_for(port, 5 * MS);
#ifdef SIGSTOP /* a stopped child has not ended */
			CHECK_INT(proa_kill(process, SIGSTOP), 0);
			run_for(port, 20 * MS);
			CHECK_INT(record.count, 0);
#endif
			CHECK_INT(proa_kill(process, SIGKILL), 0);
		}
		RUN_UNTIL(port, record.finals == 1);
		CHECK_INT(record.last, 0);
		CHECK_INT(end.signal, SIGKILL);
		expect_reaped(process);
		run_quiet(port);
		CHECK_INT(record.count, 1);
	}
	test_close(port);
}

TEST(28, "cancel leaves the child", child_op_cancelled)
{
	struct proa_port *port = test_port();
	struct record record;
	struct proa_exit end;
	proa_process process = act("exec sleep 100");

	record_init(&record, port);
	for (int i = 0; i < 3; i++) {
		proa_prep_child(&record.op, process, &end);
		if (i == 1)
			proa_op_timeout(&record.op, 10 * MS);
		record_submit(&record);
		if (i != 1) {
			if (i == 0)
				run_for(port, MS);
			proa_cancel(&record.op);
		}
		RUN_UNTIL(port, record.finals == 1);
		CHECK_INT(record.last, i == 1 ? PROA_ETIMEDOUT : PROA_ECANCELED);
	}
	CHECK_INT(proa_kill(process, SIGTERM), 0);
	/* Its end waits for whoever asks. */
	test_sleep(30 * MS);
	proa_prep_child(&record.op, process, &end);
	CHECK_INT(record_run(&record), 0);
	CHECK_INT(end.signal, SIGTERM);
	expect_reaped(process);
	test_close(port);
}

TEST(28, "what is no child", child_op_on_strangers)
{
	/* INT_MAX is to wine what -1 is to Windows: a name of this very process. */
	const proa_process strangers[] = { 0, -1, 1, 4194304, test_on_wine() ? -2 : INT_MAX };
	struct proa_port *port = test_port();
	proa_process process = act("exec sleep 100");
	struct record record, again;
	struct proa_exit end;

	record_init(&record, port);
	record_init(&again, port);
	for (unsigned i = 0; i < sizeof(strangers) / sizeof(strangers[0]); i++) {
		proa_prep_child(&record.op, strangers[i], &end);
		CHECK(record_run(&record) < 0);
		CHECK(record.last != PROA_ECANCELED);
	}
	/* Asked about by two ops, it ends once: each has its one completion. */
	proa_prep_child(&record.op, process, &end);
	record_submit(&record);
	proa_prep_child(&again.op, process, &end);
	record_submit(&again);
	run_for(port, MS);
	CHECK_INT(proa_kill(process, SIGKILL), 0);
	CHECK_INT(proa_run(port), 0);
	CHECK_INT(record.count + again.count, 2);
	CHECK(record.last == 0 || again.last == 0);
	/* And one that was reaped behind our back. */
	process = act("exit 0");
	expect_ended(process);
	proa_prep_child(&record.op, process, &end);
	CHECK(record_run(&record) < 0);
	CHECK(proa_kill(process, SIGTERM) < 0);
	test_close(port);
}

/* ---- Rule 28: starting processes ---- */

/* Runs a command to its end: its exit code, and in `text` what it wrote. */
static unsigned run_command(
	struct proa_port *port, struct proa_command *command, char *text, size_t size)
{
	proa_handle ours, theirs, standard[3];
	struct record record;
	struct proa_exit end;
	proa_process process;
	int32_t got;

	CHECK_INT(proa_pipe(port, 1, &ours, &theirs), 0);
	standard[0] = standard[1] = standard[2] = theirs;
#ifndef _WIN32 /* where a test's process has no input of its own */
	standard[0] = 0;
#endif
	if (command->standard == NULL)
		command->standard = standard;
	CHECK_INT(proa_spawn(command, &process), 0);
	CHECK_INT(proa_discard(port, theirs), 0);
	record_init(&record, port);
	proa_prep_recv(&record.op, ours, text, size - 1, PROA_ALL);
	got = record_run(&record);
	CHECK(got >= 0);
	text[got] = '\0';
	proa_prep_child(&record.op, process, &end);
	CHECK_INT(record_run(&record), 0);
	CHECK_INT(end.signal, 0);
	close_handle(port, ours);
	if (command->standard == standard)
		command->standard = NULL;
	return end.code;
}

/* Reads a plain descriptor to its end. */
static size_t peer_drain_to_end(int fd, char *text, size_t size)
{
	size_t got = 0;
	ssize_t n;

	while (got < size && (n = CHECK_SYSTEM(read(fd, text + got, size - got))) > 0)
		got += (size_t)n;
	return got;
}

static void check_text(const char *text, const char *expected)
{
	if (strcmp(text, expected) != 0)
		test_fail(__FILE__, __LINE__, "\"%s\" is not \"%s\"", text, expected);
}

/* Programs that tell what they were given. */
#ifdef _WIN32
#	define PROGRAM_OF_WORDS test_program(), "--show-words"
#	define PROGRAM_OF_PLACE test_program(), "--show-place"
#	define PROGRAM_OF_NINE  test_program(), "--act", "exit 9"
#	define NO_PROGRAM       PROA_ENOEXEC
#else
#	define PROGRAM_OF_WORDS "printf", "<%s>"
#	define PROGRAM_OF_PLACE "/bin/sh", "-c", "echo \"$ONE-$TWO-$HOME\"; pwd -P"
#	define PROGRAM_OF_NINE  "/bin/sh", "-c", "exit 9"
#	define NO_PROGRAM       PROA_EACCES
#endif

TEST(28, "spawn: arguments and PATH", spawn_passes_arguments)
{
	const char *const words[] = { PROGRAM_OF_WORDS, "one two", "", "*", "\"$X\"", NULL };
	const char *const absolute[] = { PROGRAM_OF_NINE, NULL };
	struct proa_command command = { .arguments = words };
	struct proa_port *port = test_port();
	char text[256];

	CHECK_INT(run_command(port, &command, text, sizeof(text)), 0);
	check_text(text, "<one two><><*><\"$X\">");
	command.arguments = absolute;
	CHECK_INT(run_command(port, &command, text, sizeof(text)), 9);
	check_text(text, "");
	test_close(port);
}

TEST(28, "spawn: environment and directory", spawn_sets_environment_and_directory)
{
	const char *const show[] = { PROGRAM_OF_PLACE, NULL };
	static const char *const environment[] = { "ONE=1", "TWO=zwei", NULL };
	struct proa_command command = { .arguments = show };
	struct proa_port *port = test_port();
	char text[1024], expected[1024], folder[512], before[512];

	CHECK(whole_path(test_folder(), folder, sizeof(folder)));
	CHECK(getcwd(before, sizeof(before)) != NULL);
	command.environment = environment;
	command.directory = folder;
	CHECK_INT(run_command(port, &command, text, sizeof(text)), 0);
	snprintf(expected, sizeof(expected), "1-zwei-\n%s\n", folder);
	check_text(text, expected);
	/* Ours, when nothing is said. */
	setenv("ONE", "eins", 1);
	unsetenv("TWO");
	setenv("HOME", "/h", 1);
	command.environment = NULL;
	command.directory = NULL;
	CHECK_INT(run_command(port, &command, text, sizeof(text)), 0);
	snprintf(expected, sizeof(expected), "eins--/h\n%s\n", before);
	check_text(text, expected);
	CHECK(getcwd(folder, sizeof(folder)) != NULL && strcmp(folder, before) == 0);
	test_close(port);
}

TEST(28, "spawn: errors, exec's own included", spawn_failures)
{
	static const char *const missing[] = { "no-such-program-here", NULL };
	const char *const some[] = { PROGRAM_OF_NINE, NULL };
	static const char *const missing_path[] = { "/no/such/program", NULL };
	static const char *const none[] = { NULL };
	const char *plain[] = { test_path("plain"), NULL };
	struct proa_command command = { .arguments = missing };
	proa_process process = 77;
	int file, descriptors;

	descriptors = descriptors_open();
	CHECK_INT(proa_spawn(&command, &process), PROA_ENOENT);
	command.arguments = missing_path;
	CHECK_INT(proa_spawn(&command, &process), PROA_ENOENT);
	file = CHECK_SYSTEM(open(plain[0], O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
	close(file);
	command.arguments = plain;
	CHECK_INT(proa_spawn(&command, &process), NO_PROGRAM);
	command.arguments = none;
	CHECK_INT(proa_spawn(&command, &process), PROA_EINVAL);
	command.arguments = NULL;
	CHECK_INT(proa_spawn(&command, &process), PROA_EINVAL);
	command.arguments = some;
	command.directory = "/no/such/folder";
	CHECK_INT(proa_spawn(&command, &process), PROA_ENOENT);
	/* No zombie, no descriptor, and errors for the call alone. */
#ifndef _WIN32
	CHECK_INT(waitpid(-1, NULL, WNOHANG), -1);
	CHECK_INT(errno, ECHILD);
#endif
	CHECK_INT(descriptors_open(), descriptors);
}

#ifdef _WIN32
NOT_HERE(28, "spawn: descriptors stay behind", spawn_leaves_descriptors_behind,
	"by /proc; Windows: tests/unit/test_windows.c, others_stay_behind")
NOT_HERE(28, "spawn: pass[] becomes 3, 4, ...", spawn_passes_descriptors,
	"no handle has a number of its own choice on Windows: proa_spawn() says PROA_ENOSYS, "
	"tests/unit/test_windows.c")
#else

TEST(28, "spawn: descriptors stay behind", spawn_leaves_descriptors_behind)
{
	/* Without a pattern, which would open the folder. */
	static const char script[] = "i=0; while [ $i -lt 800 ]; do "
				     "[ -e /proc/$$/fd/$i ] && echo $i; i=$((i+1)); done; exit 0";
	static const char *const list[] = { "/bin/sh", "-c", script, NULL };
	struct proa_command command = { .arguments = list };
	struct proa_port *port = test_port();
	struct ends ends = pair_ends();
	char text[1024];
	int open_ones[3];

	/* Without close-on-exec, in the midst and far out. */
	open_ones[0] = CHECK_SYSTEM(dup(0));
	open_ones[1] = CHECK_SYSTEM(dup2(0, 200));
	open_ones[2] = CHECK_SYSTEM(dup2(0, 700));
	CHECK_INT(run_command(port, &command, text, sizeof(text)), 0);
	check_text(text, "0\n1\n2\n");
	for (int i = 0; i < 3; i++)
		close(open_ones[i]);
	close(ends.ours);
	close(ends.peer);
	test_close(port);
}

/* Spawns a shell that reads 3, 4 and 5; what it read, in `text`. */
static void read_passed(const int *pass, uint32_t count, char *text)
{
	static const char *const words[] = { "/bin/sh", "-c",
		"cat <&3; cat <&4; if [ -e /proc/self/fd/5 ]; then cat <&5; fi", NULL };
	int ends[2], standard[3] = { 0, 0, 2 }, status;
	struct proa_command command = {
		.arguments = words, .standard = standard, .pass = pass, .pass_count = count
	};
	proa_process process;

	CHECK_SYSTEM(pipe2(ends, O_CLOEXEC));
	standard[1] = ends[1];
	CHECK_INT(proa_spawn(&command, &process), 0);
	close(ends[1]);
	CHECK_INT(peer_drain_to_end(ends[0], text, 16), count);
	close(ends[0]);
	CHECK_SYSTEM(waitpid((pid_t)process, &status, 0));
	CHECK_INT(status, 0);
}

/* A pipe's reading end, as descriptor `number`, with one byte in it. */
static void byte_pipe(int number, char byte)
{
	int ends[2];

	CHECK_SYSTEM(pipe2(ends, O_CLOEXEC));
	peer_write(ends[1], &byte, 1);
	close(ends[1]);
	if (ends[0] != number) {
		CHECK_SYSTEM(dup3(ends[0], number, O_CLOEXEC));
		close(ends[0]);
	}
}

TEST(28, "spawn: pass[] becomes 3, 4, ...", spawn_passes_descriptors)
{
	static const int orders[6][3] = { { 0, 1, 2 }, { 0, 2, 1 }, { 1, 0, 2 }, { 1, 2, 0 },
		{ 2, 0, 1 }, { 2, 1, 0 } };
	/* Far away; the very numbers, in each other's way; and half of each. */
	static const int bases[] = { 300, 3, 4 };
	char text[16];
	int saved[4];

	/* Whatever has these numbers gets them back. */
	for (int i = 0; i < 4; i++)
		saved[i] = fcntl(3 + i, F_DUPFD_CLOEXEC, 100);
	for (int base = 0; base < 3; base++)
		for (int way = 0; way < 6; way++) {
			int pass[3];

			for (int i = 0; i < 3; i++) {
				byte_pipe(bases[base] + i, "abc"[i]);
				pass[i] = bases[base] + orders[way][i];
			}
			read_passed(pass, 3, text);
			for (int i = 0; i < 3; i++) {
				CHECK(text[i] == "abc"[orders[way][i]]);
				close(bases[base] + i);
			}
		}
	/* Two are two: the third of ours does not come along. */
	for (int i = 0; i < 3; i++)
		byte_pipe(3 + i, "abc"[i]);
	read_passed((const int[]) { 4, 3 }, 2, text);
	CHECK(text[0] == 'b' && text[1] == 'a');
	for (int i = 0; i < 3; i++)
		close(3 + i);
	for (int i = 0; i < 4; i++)
		if (saved[i] >= 0) {
			CHECK_SYSTEM(dup3(saved[i], 3 + i, O_CLOEXEC));
			close(saved[i]);
		}
}

#endif

TEST(28, "spawn: the standard three", spawn_swaps_standard_descriptors)
{
#ifdef _WIN32
	const char *const words[] = { test_program(), "--act", "print out; error err; cat", NULL };
#else
	static const char *const words[] = { "/bin/sh", "-c", "echo out; echo err >&2; cat", NULL };
#endif
	struct proa_command command = { .arguments = words };
	proa_handle standard[3];
	int in[2], out[2], error[2];
	char text[32];
	proa_process process;

	CHECK_SYSTEM(pipe2(in, O_CLOEXEC));
	CHECK_SYSTEM(pipe2(out, O_CLOEXEC));
	CHECK_SYSTEM(pipe2(error, O_CLOEXEC));
	standard[0] = in[0];
	standard[1] = out[1];
	standard[2] = error[1];
	command.standard = standard;
	CHECK_INT(proa_spawn(&command, &process), 0);
	peer_write(in[1], "in\n", 3);
	close(in[0]);
	close(in[1]);
	close(out[1]);
	close(error[1]);
	CHECK_INT(peer_drain_to_end(out[0], text, sizeof(text)), 7);
	CHECK(memcmp(text, "out\nin\n", 7) == 0);
	CHECK_INT(peer_drain_to_end(error[0], text, sizeof(text)), 4);
	CHECK(memcmp(text, "err\n", 4) == 0);
	close(out[0]);
	close(error[0]);
	expect_ended(process);
}

TEST(28, "kill", kill_failures)
{
	proa_process process = act("exec sleep 100");

	CHECK(proa_kill(-1, 0) < 0);
	CHECK(proa_kill(0, 0) < 0);
	CHECK(proa_kill(process, 999) < 0);
	CHECK_INT(proa_kill(process, 0), 0);
	CHECK_INT(proa_kill(process, SIGKILL), 0);
	expect_killed(process, SIGKILL);
	CHECK(proa_kill(process, 0) < 0);
}

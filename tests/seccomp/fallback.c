/* To be run where io_uring is refused: the port that opens is another engine's,
 * says why, and works; to insist on io_uring gives an error that says why.
 *
 * usage: fallback [EPERM|ENOSYS], the reason that is to be given; EPERM unless said. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <proa/proa.h>

static int passed, failed;
static const char *reason = "EPERM";

static void check(int holds, const char *what)
{
	passed += holds;
	failed += !holds;
	if (!holds)
		printf("FAILED %s\n", what);
}

static void took(struct proa_op *op, const struct proa_completion *c)
{
	*(int32_t *)op->data = c->result;
}

static void check_works(struct proa_port *port)
{
	struct proa_op send, receive;
	int32_t sent = -1, received = -1;
	proa_handle pair[2];
	char bytes[8] = "";

	check(proa_pair(port, pair) == 0, "proa_pair()");
	proa_op_init(&receive, port, &received);
	proa_op_init(&send, port, &sent);
	proa_prep_recv(&receive, pair[0], bytes, sizeof(bytes), 0);
	proa_submit(&receive, took);
	proa_prep_send(&send, pair[1], "five", 5, 0);
	proa_submit(&send, took);
	check(proa_run(port) == 0, "proa_run()");
	check(sent == 5 && received == 5 && strcmp(bytes, "five") == 0,
		"five bytes through a pair");
	proa_discard(port, pair[0]);
	proa_discard(port, pair[1]);
}

static void check_default(void)
{
	struct proa_port *port = NULL;
	struct proa_port_stats stats;

	unsetenv("PROA_ENGINE");
	check(proa_port_open(NULL, &port) == 0, "a port opens");
	if (port == NULL)
		return;
	printf("%s: %s\n", proa_engine_name(port), proa_engine_why(port));
	check(strcmp(proa_engine_name(port), "io_uring") != 0, "its engine is not io_uring");
	check(strstr(proa_engine_why(port), "io_uring") != NULL, "it says what io_uring lacks");
	check(strstr(proa_engine_why(port), reason) != NULL, "it says by which error");
	proa_port_stats(port, &stats);
	check(stats.passed_over == 1, "the statistics count one engine passed over");
	check_works(port);
	proa_port_close(port);
}

static void check_insisted(void)
{
	struct proa_port_options options = { .engine = "io_uring" };
	struct proa_port *port = NULL;

	check(proa_port_open(&options, &port) < 0 && port == NULL, "io_uring is refused");
	printf("io_uring: %s\n", proa_port_open_why());
	check(strstr(proa_port_open_why(), "io_uring") != NULL &&
			strstr(proa_port_open_why(), reason) != NULL,
		"the refusal says why");
}

int main(int argc, char **argv)
{
	if (argc > 1)
		reason = argv[1];
	check_default();
	check_insisted();
	printf("%d passed, %d failed\n", passed, failed);
	return failed > 0;
}

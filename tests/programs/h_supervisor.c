/* Keeps commands running: their output is passed on, they are started again
 * after a second; SIGTERM ends them, SIGKILL five seconds later. */
#include <proa/proa.h>
#include <signal.h>
#include <stdio.h>

struct service {
	struct proa_op waiting, reading, delay;
	const char *const *arguments;
	proa_process process;
	struct proa_exit how;
	char line[4096];
	proa_handle output;
	int alive;
};

static struct service services[16];
static int count, ending;
static struct proa_op terminating, killing;

static void start(struct service *service);

static void on_output(struct proa_op *op, const struct proa_completion *c)
{
	struct service *service = op->data;

	if (c->result > 0) {
		printf("[%s] %.*s", service->arguments[0], (int)c->result, service->line);
		proa_prep_recv(op, service->output, service->line, sizeof service->line, 0);
		proa_submit(op, on_output);
	} else {
		proa_prep_close(op, service->output, 0);
		proa_submit(op, NULL);
	}
}

static void on_delay(struct proa_op *op, const struct proa_completion *c)
{
	struct service *service = op->data;

	if (c->result < 0 || ending)
		return;
	if (proa_op_pending(&service->reading)) { /* a grandchild holds the pipe */
		proa_cancel(&service->reading);
		proa_prep_timer(op, PROA_SECOND);
		proa_submit(op, on_delay);
		return;
	}
	start(service);
}

static void on_exit(struct proa_op *op, const struct proa_completion *c)
{
	struct service *service = op->data;

	service->alive = c->result < 0;
	printf("%s: code %u signal %d\n", service->arguments[0], service->how.code,
		service->how.signal);
	if (!ending) {
		proa_prep_timer(&service->delay, PROA_SECOND);
		proa_submit(&service->delay, on_delay);
	}
}

static void start(struct service *service)
{
	proa_handle ends[3] = { 0, 1, 2 };
	struct proa_command command = { .arguments = service->arguments, .standard = ends };

	if (proa_pipe(service->delay.port, 1, &service->output, &ends[1]) < 0)
		return;
	service->alive = proa_spawn(&command, &service->process) == 0;
	proa_discard(service->delay.port, ends[1]);
	proa_prep_recv(&service->reading, service->output, service->line, sizeof service->line, 0);
	proa_submit(&service->reading, on_output);
	if (service->alive) {
		proa_prep_child(&service->waiting, service->process, &service->how);
		proa_submit(&service->waiting, on_exit);
	}
}

static void on_kill(struct proa_op *op, const struct proa_completion *c)
{
	(void)op;
	for (int i = 0; c->result == 0 && i < count; i++)
		if (services[i].alive)
			proa_kill(services[i].process, SIGKILL);
}

static void on_term(struct proa_op *op, const struct proa_completion *c)
{
	(void)op;
	if (c->result < 0 || ending++)
		return;
	for (int i = 0; i < count; i++)
		if (services[i].alive)
			proa_kill(services[i].process, SIGTERM);
	proa_prep_timer(&killing, 5 * PROA_SECOND);
	proa_op_background(&killing); /* all gone sooner: we are, too */
	proa_submit(&killing, on_kill);
}

int main(void)
{
	static const char *const commands[][4] = { { "sleep", "5", NULL },
		{ "sh", "-c", "date; sleep 2", NULL } };
	struct proa_port *port;

	if (proa_port_open(NULL, &port) < 0)
		return 1;
	proa_op_init(&killing, port, NULL);
	proa_op_init(&terminating, port, NULL);
	proa_prep_signal(&terminating, SIGTERM);
	proa_op_background(&terminating);
	proa_submit(&terminating, on_term);
	for (; count < 2; count++) {
		struct service *service = &services[count];

		service->arguments = commands[count];
		proa_op_init(&service->waiting, port, service);
		proa_op_init(&service->reading, port, service);
		proa_op_init(&service->delay, port, service);
		start(service);
	}
	proa_run(port);
	proa_port_close(port);
	return 0;
}

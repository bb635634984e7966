/* Which engine a port gets: the one that was named, or the first that works. */
#include "engines/engine.h"

#include <stdio.h>
#include <string.h>

#include "engines/system.h"

static const struct engine *const engines[] = {
#ifdef PROA_HAVE_IOCP
	&iocp_engine,
#endif
#ifdef PROA_HAVE_URING
	&uring_engine,
#endif
#ifdef PROA_HAVE_EPOLL
	&epoll_engine,
#endif
#ifdef PROA_HAVE_KQUEUE
	&kqueue_engine,
#endif
	&poll_engine,
	&select_engine,
};
#define ENGINES (sizeof engines / sizeof engines[0])

/* Known here or elsewhere: names that deserve a better answer than "unknown". */
static const char *const absent[] = {
#ifndef PROA_HAVE_URING
	"io_uring",
#endif
#ifndef PROA_HAVE_EPOLL
	"epoll",
#endif
#ifndef PROA_HAVE_KQUEUE
	"kqueue",
#endif
#ifndef PROA_HAVE_IOCP
	"iocp",
#endif
};

static int engine_open(struct proa_port *port, const struct engine *engine,
	const struct proa_port_options *options, char *why, size_t size)
{
	int error;

	port->engine = engine;
	if (engine->wake == NULL && port->wake_handle < 0) {
		error = system_wake_open(&port->wake_handle, &port->wake_write);
		if (error < 0) {
			snprintf(why, size, "no descriptor to wake up by: %s",
				proa_error_text(error));
			return error;
		}
	}
	return engine->open(port, options, why, size);
}

static int choose_named(struct proa_port *port, const struct proa_port_options *options,
	const char *name, char *why, size_t size)
{
	char reason[256] = "";
	int error;

	for (size_t i = 0; i < ENGINES; i++) {
		if (strcmp(engines[i]->name, name) != 0)
			continue;
		error = engine_open(port, engines[i], options, reason, sizeof reason);
		if (error < 0)
			snprintf(why, size, "the engine %s does not work here: %s", name, reason);
		return error;
	}
	for (size_t i = 0; i < sizeof absent / sizeof absent[0]; i++)
		if (strcmp(absent[i], name) == 0) {
			snprintf(why, size, "the engine %s is not part of this build", name);
			return PROA_ENOSYS;
		}
	snprintf(why, size, "there is no engine of the name \"%.64s\"; there are", name);
	for (size_t i = 0; i < ENGINES; i++) {
		size_t at = strlen(why);

		snprintf(why + at, size - at, " %s", engines[i]->name);
	}
	return PROA_EINVAL;
}

/* All but select, which is there to be asked for. */
static int choose_best(
	struct proa_port *port, const struct proa_port_options *options, char *why, size_t size)
{
	char reason[200];
	int error = PROA_ENOSYS;
	size_t at;

	for (size_t i = 0; i < ENGINES - 1; i++) {
		reason[0] = '\0';
		error = engine_open(port, engines[i], options, reason, sizeof reason);
		if (error == 0)
			return 0;
		port->stats.passed_over++;
		at = strlen(port->why);
		snprintf(port->why + at, sizeof port->why - at, "%s%s: %s", at == 0 ? "" : "; ",
			engines[i]->name, reason);
	}
	snprintf(why, size, "no engine works here: %s", port->why);
	return error;
}

int engine_choose(
	struct proa_port *port, const struct proa_port_options *options, char *why, size_t size)
{
	const char *name = options->engine;

	if (name == NULL)
		name = system_variable("PROA_ENGINE");
	if (name != NULL && name[0] != '\0')
		return choose_named(port, options, name, why, size);
	return choose_best(port, options, why, size);
}

/* What Windows has of signals: the events of the console, told on a thread that the
 * system makes for each. So a lock will do, which the handler takes as anybody.
 *
 * The handler stays once it is installed, and returns FALSE where nobody listens: the
 * system may hold a lock of its own while it calls handlers, and to remove ours under
 * our lock would wait for it. The library is pinned for that. */
#include "engines/windows/signal.h"
#include "engines/windows/windows.h"

#include "lib/thread.h"

/* Numbers of the C runtime's <signal.h>, which has no SIGHUP, and not everywhere
 * SIGBREAK. */
#define NUMBER_HANGUP    1
#define NUMBER_INTERRUPT 2
#define NUMBER_TERMINATE 15
#define NUMBER_BREAK     21
#define NUMBER_LAST      21

#define BIT(number) (UINT64_C(1) << ((number)-1))

static struct proa_op *listeners[NUMBER_LAST + 1]; /* through flight()->is.behind */
static thread_mutex lock = THREAD_MUTEX; /* of the table */
static thread_mutex install_lock = THREAD_MUTEX;
static bool installed;

/* ---- the handler -------------------------------------------------------------------- */

/* The signals that an event stands for. */
static uint64_t signals_of(DWORD event)
{
	switch (event) {
	case CTRL_C_EVENT:
		return BIT(NUMBER_INTERRUPT);
	case CTRL_BREAK_EVENT:
		return BIT(NUMBER_BREAK);
	case CTRL_CLOSE_EVENT:
		return BIT(NUMBER_TERMINATE) | BIT(NUMBER_HANGUP);
	case CTRL_LOGOFF_EVENT:
	case CTRL_SHUTDOWN_EVENT:
		return BIT(NUMBER_TERMINATE);
	default:
		return 0;
	}
}

/* Is anybody told? A port can't go while its ops are in the table and the lock is
 * held. */
static bool tell(uint64_t which)
{
	bool told = false;

	mutex_lock(&lock);
	for (int number = 1; number <= NUMBER_LAST; number++) {
		if ((which & BIT(number)) == 0)
			continue;
		for (struct proa_op *op = listeners[number]; op != NULL;
			op = flight(op)->is.behind) {
			atomic_fetch_or(&op->port->signalled, BIT(number));
			port_notify(op->port);
			told = true;
		}
	}
	mutex_unlock(&lock);
	return told;
}

/* After the last three events the process ends as soon as the handler returns, be it
 * handled or not: HandlerRoutine(). The program gets what time the system gives, some
 * seconds, or until it ends by itself. */
BOOL WINAPI windows_console_event(DWORD event)
{
	if (!tell(signals_of(event)))
		return FALSE;
	if (event != CTRL_C_EVENT && event != CTRL_BREAK_EVENT)
		Sleep(INFINITE);
	return TRUE;
}

/* 0 or an error; then the next op tries again. */
static int install(void)
{
	HMODULE ours;
	int error = 0;

	mutex_lock(&install_lock);
	if (!installed && (!GetModuleHandleExW(GET_MODULE_HANDLE_EX_FLAG_PIN |
						       GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS,
				   (const WCHAR *)(const void *)&lock, &ours) ||
				  !SetConsoleCtrlHandler(windows_console_event, TRUE)))
		error = windows_error();
	installed = error == 0;
	mutex_unlock(&install_lock);
	return error;
}

/* ---- ops ------------------------------------------------------------------------------ */

static bool exists(uint64_t number)
{
	return number == NUMBER_HANGUP || number == NUMBER_INTERRUPT ||
	       number == NUMBER_TERMINATE || number == NUMBER_BREAK;
}

int signal_begin(struct proa_port *port, struct proa_op *op)
{
	struct proa_op **link;
	int error;

	(void)port;
	if (!exists(op->argument_))
		return PROA_EINVAL;
	error = install();
	if (error < 0)
		return error;
	flight(op)->is.behind = NULL;
	mutex_lock(&lock);
	for (link = &listeners[op->argument_]; *link != NULL;)
		link = &flight(*link)->is.behind;
	*link = op;
	mutex_unlock(&lock);
	return 0;
}

/* Takes out the op that `link` points to. True if a signal has come for it that has
 * not been told yet. The lock is held. */
static bool remove_listener(int number, struct proa_op **link)
{
	struct proa_op *op = *link, *other;
	struct proa_port *port = op->port;
	bool untold = (atomic_load(&port->signalled) & BIT(number)) != 0;

	*link = flight(op)->is.behind;
	for (other = listeners[number]; other != NULL && other->port != port;)
		other = flight(other)->is.behind;
	if (other == NULL) /* no op is left that the bit is meant for */
		atomic_fetch_and(&port->signalled, ~BIT(number));
	return untold;
}

void signal_end(struct proa_port *port, struct proa_op *op)
{
	int number = (int)op->argument_;
	struct proa_op **link;
	bool untold = false;

	mutex_lock(&lock);
	for (link = &listeners[number]; *link != NULL && *link != op;)
		link = &flight(*link)->is.behind;
	if (*link != NULL)
		untold = remove_listener(number, link);
	mutex_unlock(&lock);
	/* What has come is told before the end: no signal is swallowed. */
	if (untold)
		op_stepped(port, op, number, PROA_MORE);
}

void signals_deliver(struct proa_port *port, uint64_t which)
{
	/* The lock keeps other ports' ops where they are; op_stepped() queues completions,
	 * and ends none. */
	mutex_lock(&lock);
	for (int number = 1; number <= NUMBER_LAST; number++) {
		if ((which & BIT(number)) == 0)
			continue;
		for (struct proa_op *op = listeners[number]; op != NULL; op = flight(op)->is.behind)
			if (op->port == port)
				op_stepped(port, op, number, PROA_MORE);
	}
	mutex_unlock(&lock);
}

void signals_forget(struct proa_port *port)
{
	struct proa_op **link;

	mutex_lock(&lock);
	for (int number = 1; number <= NUMBER_LAST; number++)
		for (link = &listeners[number]; *link != NULL;)
			if ((*link)->port == port)
				remove_listener(number, link);
			else
				link = &flight(*link)->is.behind;
	mutex_unlock(&lock);
}

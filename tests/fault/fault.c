/* Which call fails: the plan, the counts, and what PROA_FAULT says. */
#include "fault.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#ifdef _WIN32
#	define WIN32_NO_STATUS /* or windows.h defines a few of ntstatus.h's names */
#	include <winsock2.h>
#	include <windows.h>
#	undef WIN32_NO_STATUS
#	include <winternl.h>
#	include <ntstatus.h>
#endif

#define SITES_MOST  256
#define IN_A_ROW    60
#define FORCED_MOST 4

/* What is made again, as often as it comes: EINTR; and on Windows the end of a call that
 * nobody has asked to end. */
#ifdef _WIN32
#	define FAULT_INTERRUPTED ((int)STATUS_CANCELLED)
#else
#	define FAULT_INTERRUPTED EINTR
#endif

static struct fault_plan plan;
static atomic_bool armed, counting;
static atomic_uint come, site_count;
static atomic_long blocks;
static struct fault_site *sites[SITES_MOST];
static bool told;
static struct {
	const char *name;
	int how;
	unsigned times; /* 0: always */
	atomic_uint come;
} forced[FORCED_MOST];

static const struct {
	int how;
	const char *name;
} ways[] = {
#define WAY(name)           \
	{                   \
		name, #name \
	}
#define LATER(name)              \
	{                        \
		(int)name, #name \
	}
	{ FAULT_SHORT, "short" },
	{ FAULT_ANY, "any" },
#ifdef _WIN32
	WAY(ERROR_FILE_NOT_FOUND),
	WAY(ERROR_TOO_MANY_OPEN_FILES),
	WAY(ERROR_ACCESS_DENIED),
	WAY(ERROR_NOT_ENOUGH_MEMORY),
	WAY(ERROR_BAD_EXE_FORMAT),
	WAY(ERROR_SHARING_VIOLATION),
	WAY(ERROR_NOT_SUPPORTED),
	WAY(ERROR_INVALID_PARAMETER),
	WAY(ERROR_NO_PROC_SLOTS),
	WAY(ERROR_BROKEN_PIPE),
	WAY(ERROR_DISK_FULL),
	WAY(ERROR_PROC_NOT_FOUND),
	WAY(ERROR_PIPE_BUSY),
	WAY(ERROR_NOT_FOUND),
	WAY(ERROR_IO_DEVICE),
	WAY(ERROR_NO_SYSTEM_RESOURCES),
	WAY(ERROR_WRITE_PROTECT),
	WAY(ERROR_NO_DATA),
	WAY(WAIT_TIMEOUT),
	WAY(WSAEMFILE),
	WAY(WSAEADDRINUSE),
	WAY(WSAENETUNREACH),
	WAY(WSAECONNABORTED),
	WAY(WSAECONNRESET),
	WAY(WSAENOBUFS),
	WAY(WSAENOTCONN),
	WAY(WSAETIMEDOUT),
	WAY(WSAECONNREFUSED),
	WAY(WSAEHOSTUNREACH),
	WAY(WSASYSNOTREADY),
	WAY(WSATRY_AGAIN),
	WAY(WSANO_RECOVERY),
	WAY(WSAEOPNOTSUPP),
	LATER(STATUS_CANCELLED),
	LATER(STATUS_CONNECTION_RESET),
	LATER(STATUS_CONNECTION_REFUSED),
	LATER(STATUS_INSUFFICIENT_RESOURCES),
	LATER(STATUS_IO_TIMEOUT),
	LATER(STATUS_PIPE_BROKEN),
	LATER(STATUS_DISK_FULL),
#else
	WAY(EACCES), WAY(EADDRINUSE), WAY(EAGAIN), WAY(EALREADY), WAY(EBADF), WAY(EBUSY),
	WAY(ECHILD), WAY(ECONNABORTED), WAY(ECONNREFUSED), WAY(ECONNRESET), WAY(EHOSTUNREACH),
	WAY(EINTR), WAY(EINVAL), WAY(EIO), WAY(EISDIR), WAY(EMFILE), WAY(ENFILE), WAY(ENETDOWN),
	WAY(ENETUNREACH), WAY(ENOBUFS), WAY(ENOENT), WAY(ENOEXEC), WAY(ENOMEM), WAY(ENOSPC),
	WAY(ENOSYS), WAY(ENOTCONN), WAY(EOPNOTSUPP), WAY(EPERM), WAY(EPIPE), WAY(EROFS), WAY(ESRCH),
	WAY(ETIME), WAY(ETIMEDOUT), WAY(ENOTDIR), WAY(EDQUOT), WAY(ECANCELED)
#endif
#undef WAY
#undef LATER
};

const char *fault_way(int how)
{
	for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++)
		if (ways[i].how == how)
			return ways[i].name;
	return "?";
}

static int way_named(const char *name)
{
	for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++)
		if (strcmp(ways[i].name, name) == 0)
			return ways[i].how;
	return 0;
}

bool faults_is_soft(const char *name, int how)
{
	static const char *const soft[] = {
#ifdef _WIN32
		"CancelIoEx:ERROR_NOT_FOUND", "CancelSynchronousIo:ERROR_NOT_FOUND",
		"CreateNamedPipeW:ERROR_PIPE_BUSY", "CreateNamedPipeW:ERROR_ACCESS_DENIED",
		"GetQueuedCompletionStatusEx:WAIT_TIMEOUT",
		"SetFileCompletionNotificationModes:ERROR_NOT_SUPPORTED",
		"GetProcAddress:ERROR_PROC_NOT_FOUND", "accept:WSAECONNRESET",
		"AcceptEx:WSAECONNRESET", "AcceptEx:STATUS_CONNECTION_RESET"
#else
		"enter:EAGAIN", "enter:EBUSY", "enter:ENOMEM", "uring_cancel:EALREADY",
		"uring_wake:ENOMEM", "preadv2:EAGAIN", "preadv2:EOPNOTSUPP", "sendfile:EINVAL",
		"accept4:ECONNABORTED", "accept:ECONNABORTED", "uring_accept:ECONNABORTED",
		"register_ring_fd:ENOMEM", "register_buf_ring:ENOMEM", "epoll_pwait2:ENOSYS",
		"pidfd_open:ENOSYS", "pidfd_open:EPERM", "get_probe_ring:ENOMEM",
		"close_range:ENOSYS", "uring_read:EAGAIN", "uring_readv:EAGAIN",
		"uring_write:EAGAIN", "uring_writev:EAGAIN", "uring_openat:EAGAIN",
		"uring_send:EAGAIN", "uring_sendmsg:EAGAIN", "sendto:ENOBUFS",
		"uring_sendto:ENOBUFS", "uring_sendto:EAGAIN"
#endif
	};
	char text[64];

	if (how == FAULT_INTERRUPTED || how == FAULT_SHORT)
		return true;
	snprintf(text, sizeof text, "%s:%s", name, fault_way(how));
	for (size_t i = 0; i < sizeof soft / sizeof soft[0]; i++)
		if (strcmp(soft[i], text) == 0)
			return true;
	return false;
}

bool faults_parse(struct fault_plan *out, const char *text)
{
	const char *colon = text == NULL ? NULL : strchr(text, ':'), *word;
	char *rest;

	memset(out, 0, sizeof *out);
	if (text == NULL || text[0] == '\0')
		return false;
	if (colon != NULL) {
		snprintf(out->name, sizeof out->name, "%.*s", (int)(colon - text), text);
		out->nth = (unsigned)strtoul(colon + 1, &rest, 10);
		out->lasting = *rest == '+';
		word = strchr(colon + 1, ':');
		out->how = word == NULL ? FAULT_NO_MEMORY : way_named(word + 1);
		return out->nth > 0 && out->how != 0;
	}
	word = strstr(text, "seed=");
	out->seed = word == NULL ? 1 : strtoull(word + 5, NULL, 0);
	word = strstr(text, "rate=");
	out->rate = word == NULL ? 100 : (unsigned)strtoul(word + 5, NULL, 0);
	out->soft = strstr(text, "soft") != NULL;
	out->whole = strstr(text, "whole") != NULL;
	word = strstr(text, "only=");
	if (word != NULL)
		snprintf(out->only, sizeof out->only, "+%.*s+", (int)strcspn(word + 5, ","),
			word + 5);
	return true;
}

void faults_tell(const struct fault_plan *what, char *text, size_t size)
{
	if (what->nth > 0)
		snprintf(text, size, "%s:%u%s:%s", what->name, what->nth, what->lasting ? "+" : "",
			fault_way(what->how));
	else
		snprintf(text, size, "seed=%llu,rate=%u%s%s", (unsigned long long)what->seed,
			what->rate, what->soft ? ",soft" : "", what->whole ? ",whole" : "");
}

/* A mixer of bits (the finalizer of splitmix64). */
static uint64_t mixed(uint64_t x)
{
	x += UINT64_C(0x9e3779b97f4a7c15);
	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

/* By the site's own count: threads that call elsewhere change nothing. */
static uint64_t rolled(const struct fault_site *site, unsigned number, unsigned salt)
{
	uint64_t x = plan.seed * 31 + salt;

	for (const char *c = site->name; *c != '\0'; c++)
		x = x * 131 + (unsigned char)*c;
	return mixed(x ^ (uint64_t)number << 32);
}

unsigned fault_number(const struct fault_site *site, unsigned most)
{
	return most == 0 ? 0 : (unsigned)(rolled(site, atomic_load(&site->calls), 3) % most);
}

static void enlist(struct fault_site *site)
{
	unsigned at;

	if (atomic_exchange(&site->listed, true))
		return;
	at = atomic_fetch_add(&site_count, 1);
	if (at < SITES_MOST)
		sites[at] = site;
}

static bool is_chosen(const char *name)
{
	const char *at = plan.only[0] == '\0' ? NULL : strstr(plan.only, name);
	size_t length = strlen(name);

	if (plan.only[0] == '\0')
		return true;
	while (at != NULL && (at[-1] != '+' || at[length] != '+'))
		at = strstr(at + 1, name);
	return at != NULL;
}

/* One of the ways that there are this time. */
static int any_way(const struct fault_site *site, unsigned number, bool hard)
{
	int possible[FAULT_WAYS], count = 0;

	for (const int *way = site->ways; *way != 0; way++)
		if (((hard && !plan.soft) || faults_is_soft(site->name, *way)) &&
			!(plan.whole && *way == FAULT_SHORT))
			possible[count++] = *way;
	return count == 0 ? 0 : possible[rolled(site, number, 2) % (unsigned)count];
}

static int by_seed(const struct fault_site *site, unsigned number, bool hard)
{
	if (rolled(site, number, 1) % 10000 >= plan.rate || !is_chosen(site->name))
		return 0;
	return any_way(site, number, hard);
}

/* Whole, for other threads tell as well. */
static void tell(const struct fault_site *site, unsigned number, int how)
{
	char line[96];

	snprintf(line, sizeof line, "fault: %s:%u:%s\n", site->name, number, fault_way(how));
	fputs(line, stderr);
}

/* By count. What the library tries again would never end. */
static bool is_due(const struct fault_site *site, unsigned number)
{
	if (strcmp(site->name, plan.name) != 0)
		return false;
	if (!plan.lasting)
		return number == plan.nth;
	return number >= plan.nth &&
	       (number - plan.nth < IN_A_ROW || !faults_is_soft(plan.name, plan.how));
}

static int forced_how(const struct fault_site *site)
{
	for (int i = 0; i < FORCED_MOST && forced[i].name != NULL; i++)
		if (strcmp(forced[i].name, site->name) == 0)
			return forced[i].times == 0 || atomic_fetch_add(&forced[i].come, 1) <
							       forced[i].times
				       ? forced[i].how
				       : 0;
	return 0;
}

int fault_here_if(struct fault_site *site, bool hard)
{
	unsigned number;
	int how = 0;

	if (!atomic_load(&counting))
		return 0;
	enlist(site);
	number = atomic_fetch_add(&site->calls, 1) + 1;
	how = forced_how(site);
	if (how != 0 || !atomic_load(&armed))
		return how;
	if (plan.nth == 0)
		how = by_seed(site, number, hard);
	else if (is_due(site, number) && plan.how == FAULT_ANY)
		how = any_way(site, number, hard);
	else if (is_due(site, number) && (hard || faults_is_soft(site->name, plan.how)))
		how = plan.how;
	if (how != 0) {
		atomic_fetch_add(&come, 1);
		if (told)
			tell(site, number, how);
	}
	return how;
}

int fault_here(struct fault_site *site)
{
	return fault_here_if(site, true);
}

void faults_begin(const struct fault_plan *what)
{
	for (unsigned i = 0; i < atomic_load(&site_count) && i < SITES_MOST; i++)
		atomic_store(&sites[i]->calls, 0);
	atomic_store(&come, 0);
	if (what != NULL)
		plan = *what;
	atomic_store(&counting, true);
	atomic_store(&armed, what != NULL);
}

void faults_end(void)
{
	atomic_store(&armed, false);
	atomic_store(&counting, false);
	memset(forced, 0, sizeof forced);
}

void faults_force(const char *name, int how, unsigned times)
{
	for (int i = 0; i < FORCED_MOST; i++)
		if (forced[i].name == NULL || strcmp(forced[i].name, name) == 0) {
			forced[i].how = how;
			forced[i].times = times;
			atomic_store(&forced[i].come, 0);
			forced[i].name = name;
			return;
		}
	abort();
}

unsigned faults_come(void)
{
	return atomic_load(&come);
}

unsigned faults_sites(struct fault_site **out, unsigned most)
{
	unsigned count = atomic_load(&site_count);

	for (unsigned i = 0; i < count && i < most && i < SITES_MOST; i++)
		out[i] = sites[i];
	return count < most ? count : most;
}

#ifdef _WIN32

/* The linker puts what has a name with a $ in order, by what is behind it. */
FAULT_LISTED("a", first_listed, NULL);
FAULT_LISTED("z", last_listed, NULL);

unsigned faults_all(struct fault_site **out, unsigned most)
{
	unsigned count = 0;

	for (struct fault_site *const *at = &first_listed; at < &last_listed && count < most; at++)
		if (*at != NULL)
			out[count++] = *at;
	return count;
}

#else

/* The linker's names for the section's ends. */
extern struct fault_site *__start_fault_sites[], *__stop_fault_sites[];

unsigned faults_all(struct fault_site **out, unsigned most)
{
	unsigned count = 0;

	for (struct fault_site **at = __start_fault_sites; at < __stop_fault_sites && count < most;
		at++)
		out[count++] = *at;
	return count;
}

#endif

long faults_blocks(void)
{
	return atomic_load(&blocks);
}

void faults_block(int more)
{
	atomic_fetch_add(&blocks, more);
}

#define DESCRIPTORS_MOST 65536

static atomic_bool kept[DESCRIPTORS_MOST];
static atomic_int kept_count;

int faults_descriptors(void)
{
	return atomic_load(&kept_count);
}

int faults_descriptor(int fd)
{
	if (fd >= 0 && fd < DESCRIPTORS_MOST && !atomic_exchange(&kept[fd], true))
		atomic_fetch_add(&kept_count, 1);
	return fd;
}

void faults_descriptor_gone(int fd)
{
	if (fd >= 0 && fd < DESCRIPTORS_MOST && atomic_exchange(&kept[fd], false))
		atomic_fetch_sub(&kept_count, 1);
}

/* Programs that know nothing of faults have them from the environment. */
__attribute__((constructor)) static void from_environment(void)
{
	struct fault_plan wanted;

	told = getenv("PROA_FAULT_TELL") != NULL;
	if (faults_parse(&wanted, getenv("PROA_FAULT")))
		faults_begin(&wanted);
}

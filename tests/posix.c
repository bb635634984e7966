/* POSIX's calls for the tests, over Winsock and Win32: see posix.h. */
#include "posix.h"

#ifdef _WIN32

#	include <stdarg.h>
#	include <stdio.h>
#	include <string.h>

#	undef signal
#	undef clock_gettime
#	undef nanosleep
#	undef socket
#	undef bind
#	undef listen
#	undef accept
#	undef connect
#	undef getsockname
#	undef getpeername
#	undef getsockopt
#	undef setsockopt
#	undef recv
#	undef send
#	undef recvfrom
#	undef sendto
#	undef shutdown

/* ---- errno ---- */

static int code_of(DWORD code)
{
	static const struct {
		DWORD code;
		int error;
	} known[] = {
		{ WSAEWOULDBLOCK, EAGAIN },
		{ WSAECONNRESET, ECONNRESET },
		{ WSAENETRESET, ECONNRESET },
		{ WSAECONNABORTED, ECONNRESET }, /* a write after the peer's reset */
		{ WSAECONNREFUSED, ECONNREFUSED },
		{ WSAENOTCONN, ENOTCONN },
		{ WSAESHUTDOWN, EPIPE },
		{ WSAEADDRINUSE, EADDRINUSE },
		{ WSAEADDRNOTAVAIL, EADDRNOTAVAIL },
		{ WSAENOTSOCK, ENOTSOCK },
		{ WSAEINVAL, EINVAL },
		{ WSAETIMEDOUT, ETIMEDOUT },
		{ WSAEMSGSIZE, EMSGSIZE },
		{ WSAEMFILE, EMFILE },
		{ WSAEAFNOSUPPORT, EAFNOSUPPORT },
		{ ERROR_FILE_NOT_FOUND, ENOENT },
		{ ERROR_PATH_NOT_FOUND, ENOENT },
		{ ERROR_ALREADY_EXISTS, EEXIST },
		{ ERROR_FILE_EXISTS, EEXIST },
		{ ERROR_ACCESS_DENIED, EACCES },
		{ ERROR_INVALID_HANDLE, EBADF },
		{ ERROR_NO_DATA, EPIPE },
		{ ERROR_BROKEN_PIPE, EPIPE },
	};

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (known[i].code == code)
			return known[i].error;
	return EIO;
}

static int failed(void)
{
	errno = code_of(GetLastError());
	return -1;
}

static int socket_result(int result)
{
	if (result != SOCKET_ERROR)
		return result;
	errno = code_of((DWORD)WSAGetLastError());
	return -1;
}

/* ---- Descriptors ---- */

static SOCKET socket_of(int fd)
{
	return (SOCKET)(intptr_t)fd;
}

static HANDLE handle_of(int fd)
{
	return (HANDLE)(intptr_t)fd;
}

static int numbered(HANDLE handle)
{
	return handle == INVALID_HANDLE_VALUE ? failed() : (int)(intptr_t)handle;
}

static void begin_winsock(void)
{
	static bool begun;
	WSADATA data;

	if (!begun)
		begun = WSAStartup(MAKEWORD(2, 2), &data) == 0;
}

static bool is_socket(int fd)
{
	int type, length = sizeof(type);

	begin_winsock();
	return getsockopt(socket_of(fd), SOL_SOCKET, SO_TYPE, (char *)&type, &length) == 0;
}

/* Winsock does not tell whether a socket blocks: remembered for those that were
 * asked here. Handles are small multiples of four. */
static unsigned char unblocked[1 << 16];

static unsigned char *mode_of(int fd)
{
	return &unblocked[(unsigned)fd / 4 % sizeof(unblocked)];
}

bool (*posix_gives_up)(void);

/* Before what would block: false where it is given up. */
static bool may_block(int fd, short events)
{
	WSAPOLLFD one = { .fd = socket_of(fd), .events = events };

	if (posix_gives_up == NULL || *mode_of(fd) != 0)
		return true;
	while (WSAPoll(&one, 1, 20) == 0)
		if (posix_gives_up()) {
			errno = EINTR;
			return false;
		}
	return true;
}

bool posix_is_wine(void)
{
	return GetProcAddress(GetModuleHandleA("ntdll.dll"), "wine_get_version") != NULL;
}

/* A file of the folder `path` that goes with its descriptor. */
static int open_unnamed(const char *path)
{
	static LONG number;
	char name[MAX_PATH];

	snprintf(name, sizeof(name), "%s/unnamed-%lu-%ld", path, GetCurrentProcessId(),
		InterlockedIncrement(&number));
	return numbered(CreateFileA(name, GENERIC_READ | GENERIC_WRITE | DELETE,
		FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, NULL, CREATE_NEW,
		FILE_ATTRIBUTE_TEMPORARY | FILE_FLAG_DELETE_ON_CLOSE, NULL));
}

int posix_open(const char *path, int flags, ...)
{
	DWORD access = GENERIC_READ, how = OPEN_EXISTING;

	if ((flags & O_TMPFILE) != 0)
		return open_unnamed(path);
	if ((flags & (O_WRONLY | O_RDWR)) != 0)
		access = flags & O_RDWR ? GENERIC_READ | GENERIC_WRITE : GENERIC_WRITE;
	if ((flags & O_APPEND) != 0)
		access = (access & ~(DWORD)GENERIC_WRITE) | FILE_APPEND_DATA | SYNCHRONIZE;
	if ((flags & O_CREAT) != 0)
		how = flags & O_EXCL ? CREATE_NEW : flags & O_TRUNC ? CREATE_ALWAYS : OPEN_ALWAYS;
	else if ((flags & O_TRUNC) != 0)
		how = TRUNCATE_EXISTING;
	return numbered(CreateFileA(strcmp(path, "/dev/null") == 0 ? "NUL" : path, access,
		FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, NULL, how,
		FILE_ATTRIBUTE_NORMAL | FILE_FLAG_BACKUP_SEMANTICS, NULL));
}

int posix_close(int fd)
{
	if (fd == -1) {
		errno = EBADF;
		return -1;
	}
	if (is_socket(fd)) {
		*mode_of(fd) = 0;
		return socket_result(closesocket(socket_of(fd)));
	}
	return CloseHandle(handle_of(fd)) ? 0 : failed();
}

/* At a place, or at the file's own if that is negative. */
static ssize_t transfer(int fd, void *buffer, size_t length, off64_t at, bool writes)
{
	OVERLAPPED place = { .Offset = (DWORD)at, .OffsetHigh = (DWORD)(at >> 32) };
	DWORD n = 0, size = length > 0x40000000 ? 0x40000000 : (DWORD)length, code;
	OVERLAPPED *where = at < 0 ? NULL : &place;

	if (writes ? WriteFile(handle_of(fd), buffer, size, &n, where)
		   : ReadFile(handle_of(fd), buffer, size, &n, where))
		return n;
	code = GetLastError();
	if (!writes && (code == ERROR_BROKEN_PIPE || code == ERROR_HANDLE_EOF ||
			       code == ERROR_PIPE_NOT_CONNECTED))
		return 0;
	errno = code_of(code);
	return -1;
}

/* What a pipe has to read now, so that a read of no more does not wait. */
static ssize_t read_pipe_now(int fd, void *buffer, size_t length)
{
	DWORD there = 0;

	if (!PeekNamedPipe(handle_of(fd), NULL, 0, NULL, &there, NULL)) {
		if (GetLastError() == ERROR_BROKEN_PIPE)
			return 0;
		return failed();
	}
	if (there == 0) {
		errno = EAGAIN;
		return -1;
	}
	return transfer(fd, buffer, length < there ? length : there, -1, false);
}

ssize_t posix_read(int fd, void *buffer, size_t length)
{
	DWORD there = 0;

	if (is_socket(fd))
		return posix_recv(fd, buffer, length, 0);
	if (GetFileType(handle_of(fd)) != FILE_TYPE_PIPE)
		return transfer(fd, buffer, length, -1, false);
	if (*mode_of(fd))
		return read_pipe_now(fd, buffer, length);
	while (posix_gives_up != NULL &&
		PeekNamedPipe(handle_of(fd), NULL, 0, NULL, &there, NULL) && there == 0) {
		if (posix_gives_up()) {
			errno = EINTR;
			return -1;
		}
		Sleep(5);
	}
	return transfer(fd, buffer, length, -1, false);
}

ssize_t posix_write(int fd, const void *buffer, size_t length)
{
	if (is_socket(fd))
		return posix_send(fd, buffer, length, 0);
	return transfer(fd, (void *)(uintptr_t)buffer, length, -1, true);
}

ssize_t posix_pread(int fd, void *buffer, size_t length, off64_t at)
{
	return transfer(fd, buffer, length, at, false);
}

ssize_t posix_pwrite(int fd, const void *buffer, size_t length, off64_t at)
{
	return transfer(fd, (void *)(uintptr_t)buffer, length, at, true);
}

off64_t posix_lseek(int fd, off64_t at, int whence)
{
	LARGE_INTEGER to = { .QuadPart = at }, now;

	return SetFilePointerEx(handle_of(fd), to, &now, (DWORD)whence) ? now.QuadPart : failed();
}

int posix_ftruncate(int fd, off64_t length)
{
	FILE_END_OF_FILE_INFO end = { .EndOfFile.QuadPart = length };

	return SetFileInformationByHandle(handle_of(fd), FileEndOfFileInfo, &end, sizeof(end))
		       ? 0
		       : failed();
}

static int set_mode(int fd, int flags)
{
	u_long on = (flags & O_NONBLOCK) != 0;

	if (is_socket(fd) && ioctlsocket(socket_of(fd), (long)FIONBIO, &on) != 0)
		return socket_result(SOCKET_ERROR);
	*mode_of(fd) = (unsigned char)on;
	return 0;
}

int posix_fcntl(int fd, int command, ...)
{
	va_list arguments;
	int value;
	DWORD flags;

	va_start(arguments, command);
	value = command == F_SETFL || command == F_SETFD ? va_arg(arguments, int) : 0;
	va_end(arguments);
	switch (command) {
	case F_GETFD:
		if (!GetHandleInformation(handle_of(fd), &flags)) {
			errno = EBADF;
			return -1;
		}
		return flags & HANDLE_FLAG_INHERIT ? 0 : FD_CLOEXEC;
	case F_SETFD:
		return SetHandleInformation(handle_of(fd), HANDLE_FLAG_INHERIT,
			       value & FD_CLOEXEC ? 0 : HANDLE_FLAG_INHERIT)
			       ? 0
			       : failed();
	case F_GETFL:
		return O_RDWR | (*mode_of(fd) ? O_NONBLOCK : 0);
	case F_SETFL:
		return set_mode(fd, value);
	default: /* F_SETPIPE_SZ: a pipe's room is set when it is made */
		return 0;
	}
}

int posix_dup(int fd)
{
	HANDLE copy;

	if (is_socket(fd))
		posix_lacks("a socket has no dup on Windows that the library could take");
	return DuplicateHandle(GetCurrentProcess(), handle_of(fd), GetCurrentProcess(), &copy, 0,
		       FALSE, DUPLICATE_SAME_ACCESS)
		       ? numbered(copy)
		       : failed();
}

#	define PIPE_ROOM 65536

int posix_pipe(int pair[2])
{
	HANDLE ends[2];

	if (!CreatePipe(&ends[0], &ends[1], NULL, PIPE_ROOM))
		return failed();
	pair[0] = (int)(intptr_t)ends[0];
	pair[1] = (int)(intptr_t)ends[1];
	*mode_of(pair[0]) = *mode_of(pair[1]) = 0; /* their numbers may have been others' */
	return 0;
}

int posix_pipe_overlapped(int pair[2], int ours)
{
	static LONG number;
	HANDLE here, there;
	char name[64];

	snprintf(name, sizeof(name), "\\\\.\\pipe\\proa-test-%lu-%ld", GetCurrentProcessId(),
		InterlockedIncrement(&number));
	here = CreateNamedPipeA(name,
		(ours ? PIPE_ACCESS_OUTBOUND : PIPE_ACCESS_INBOUND) | FILE_FLAG_OVERLAPPED |
			FILE_FLAG_FIRST_PIPE_INSTANCE,
		PIPE_TYPE_BYTE | PIPE_WAIT | PIPE_REJECT_REMOTE_CLIENTS, 1, PIPE_ROOM, PIPE_ROOM, 0,
		NULL);
	if (here == INVALID_HANDLE_VALUE)
		return failed();
	there = CreateFileA(name,
		ours ? GENERIC_READ | FILE_WRITE_ATTRIBUTES : GENERIC_WRITE | FILE_READ_ATTRIBUTES,
		0, NULL, OPEN_EXISTING, 0, NULL);
	if (there == INVALID_HANDLE_VALUE) {
		failed();
		CloseHandle(here);
		return -1;
	}
	pair[ours] = (int)(intptr_t)here;
	pair[!ours] = (int)(intptr_t)there;
	*mode_of(pair[0]) = *mode_of(pair[1]) = 0; /* their numbers may have been others' */
	return 0;
}

int posix_mkdir(const char *path)
{
	return CreateDirectoryA(path, NULL) ? 0 : failed();
}

char *posix_mkdtemp(char *pattern)
{
	static LONG number;
	char *place = pattern + strlen(pattern) - 6;

	for (int i = 0; i < 1000; i++) {
		snprintf(place, 7, "%06lx",
			(GetCurrentProcessId() * 64 + (DWORD)InterlockedIncrement(&number)) &
				0xffffff);
		if (CreateDirectoryA(pattern, NULL))
			return pattern;
		if (GetLastError() != ERROR_ALREADY_EXISTS)
			break;
	}
	failed();
	return NULL;
}

int posix_setenv(const char *name, const char *value)
{
	return _putenv_s(name, value) == 0 ? 0 : -1;
}

int posix_unsetenv(const char *name)
{
	return _putenv_s(name, "") == 0 ? 0 : -1;
}

posix_handler posix_signal(int number, posix_handler what)
{
	return number == SIGPIPE ? SIG_DFL : signal(number, what);
}

int posix_unlink(const char *path)
{
	return DeleteFileA(path) ? 0 : failed();
}

int posix_memfd(void)
{
	char folder[MAX_PATH];

	return GetTempPathA(sizeof(folder), folder) == 0 ? failed() : open_unnamed(folder);
}

#	define HANDLES_GAP 512 /* so many free numbers in a row are the end */

int posix_list_handles(bool *open, int most)
{
	int count = 0;
	DWORD flags;

	for (int i = 1, free = 0; free < HANDLES_GAP; i++, free++) {
		if (!GetHandleInformation((HANDLE)(intptr_t)(i * 4), &flags))
			continue;
		free = 0;
		count++;
		if (open != NULL && i < most)
			open[i] = true;
	}
	return count;
}

int posix_handles(void)
{
	return posix_list_handles(NULL, 0);
}

int posix_link(const char *from, const char *to)
{
	return CreateHardLinkA(to, from, NULL) ? 0 : failed();
}

/* Park and Miller's: the tests want variety, no quality. */
int posix_rand_r(unsigned *seed)
{
	*seed = (unsigned)((uint64_t)(*seed % 0x7fffffff + 1) * 48271 % 0x7fffffff);
	return (int)(*seed & RAND_MAX);
}

/* ---- Sockets ---- */

int posix_socket(int family, int type, int protocol)
{
	SOCKET fd;
	int plain = type & ~(SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (family == AF_UNIX)
		posix_lacks("no UNIX sockets: the tests' layer over Winsock makes none");
	begin_winsock();
	fd = WSASocketW(family, plain, protocol, NULL, 0,
		WSA_FLAG_OVERLAPPED | (type & SOCK_CLOEXEC ? WSA_FLAG_NO_HANDLE_INHERIT : 0));
	if (fd == INVALID_SOCKET)
		return socket_result(SOCKET_ERROR);
	*mode_of((int)fd) = 0;
	if ((type & SOCK_NONBLOCK) != 0)
		set_mode((int)fd, O_NONBLOCK);
	return (int)fd;
}

int posix_bind(int fd, const struct sockaddr *to, socklen_t length)
{
	return socket_result(bind(socket_of(fd), to, length));
}

int posix_listen(int fd, int backlog)
{
	return socket_result(listen(socket_of(fd), backlog));
}

int posix_accept(int fd, struct sockaddr *from, socklen_t *length, int flags)
{
	SOCKET made;

	if (!may_block(fd, POLLRDNORM))
		return -1;
	made = accept(socket_of(fd), from, length);
	if (made == INVALID_SOCKET)
		return socket_result(SOCKET_ERROR);
	/* It has the listener's mode, which accept4() does not pass on. */
	set_mode((int)made, flags & SOCK_NONBLOCK ? O_NONBLOCK : 0);
	SetHandleInformation((HANDLE)made, HANDLE_FLAG_INHERIT, 0);
	return (int)made;
}

int posix_connect(int fd, const struct sockaddr *to, socklen_t length)
{
	if (connect(socket_of(fd), to, length) == 0)
		return 0;
	if (WSAGetLastError() == WSAEWOULDBLOCK) {
		errno = EINPROGRESS;
		return -1;
	}
	return socket_result(SOCKET_ERROR);
}

int posix_getsockname(int fd, struct sockaddr *name, socklen_t *length)
{
	return socket_result(getsockname(socket_of(fd), name, length));
}

int posix_getpeername(int fd, struct sockaddr *name, socklen_t *length)
{
	return socket_result(getpeername(socket_of(fd), name, length));
}

int posix_getsockopt(int fd, int level, int name, void *value, socklen_t *length)
{
	return socket_result(getsockopt(socket_of(fd), level, name, value, length));
}

int posix_setsockopt(int fd, int level, int name, const void *value, socklen_t length)
{
	/* SO_REUSEADDR of Unix is what every socket has here; under its own name it
	 * would let others take the address. */
	if (level == SOL_SOCKET && name == SO_REUSEADDR)
		return 0;
	return socket_result(setsockopt(socket_of(fd), level, name, value, length));
}

static bool would_wait(int fd, int flags, short events)
{
	WSAPOLLFD one = { .fd = socket_of(fd), .events = events };

	return (flags & MSG_DONTWAIT) != 0 && WSAPoll(&one, 1, 0) == 0;
}

ssize_t posix_recv(int fd, void *buffer, size_t length, int flags)
{
	if (would_wait(fd, flags, POLLRDNORM)) {
		errno = EAGAIN;
		return -1;
	}
	if (!may_block(fd, POLLRDNORM))
		return -1;
	return socket_result(recv(socket_of(fd), buffer, (int)length, flags & ~MSG_DONTWAIT));
}

ssize_t posix_send(int fd, const void *buffer, size_t length, int flags)
{
	if (would_wait(fd, flags, POLLWRNORM)) {
		errno = EAGAIN;
		return -1;
	}
	if (!may_block(fd, POLLWRNORM))
		return -1;
	return socket_result(send(socket_of(fd), buffer, (int)length, flags & ~MSG_DONTWAIT));
}

ssize_t posix_recvfrom(
	int fd, void *buffer, size_t length, int flags, struct sockaddr *from, socklen_t *size)
{
	if (would_wait(fd, flags, POLLRDNORM)) {
		errno = EAGAIN;
		return -1;
	}
	if (!may_block(fd, POLLRDNORM))
		return -1;
	return socket_result(
		recvfrom(socket_of(fd), buffer, (int)length, flags & ~MSG_DONTWAIT, from, size));
}

ssize_t posix_sendto(int fd, const void *buffer, size_t length, int flags,
	const struct sockaddr *to, socklen_t size)
{
	return socket_result(
		sendto(socket_of(fd), buffer, (int)length, flags & ~MSG_DONTWAIT, to, size));
}

int posix_shutdown(int fd, int how)
{
	return socket_result(shutdown(socket_of(fd), how));
}

int posix_pair(int pair[2])
{
	struct sockaddr_in here = { .sin_family = AF_INET };
	int listener = posix_socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
	socklen_t length = sizeof(here);

	here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (listener == -1 || posix_bind(listener, (struct sockaddr *)&here, length) < 0 ||
		posix_listen(listener, 1) < 0 ||
		posix_getsockname(listener, (struct sockaddr *)&here, &length) < 0)
		return -1;
	pair[0] = posix_socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (pair[0] == -1 || posix_connect(pair[0], (struct sockaddr *)&here, length) < 0)
		return -1;
	pair[1] = posix_accept(listener, NULL, NULL, 0);
	posix_close(listener);
	if (pair[1] == -1)
		return -1;
	for (int i = 0; i < 2; i++)
		posix_setsockopt(pair[i], IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	return 0;
}

int posix_socketpair(int pair[2])
{
	pair[0] = pair[1] = -1;
	posix_lacks("no UNIX sockets: the tests' layer over Winsock makes none");
}

int posix_poll(struct pollfd *fds, unsigned long count, int ms)
{
	int result;

	if (posix_gives_up == NULL || ms >= 0)
		return socket_result(WSAPoll(fds, count, ms));
	while ((result = WSAPoll(fds, count, 20)) == 0)
		if (posix_gives_up()) {
			errno = EINTR;
			return -1;
		}
	return socket_result(result);
}

/* ---- Threads and time ---- */

struct beginning {
	void *(*run)(void *argument);
	void *argument;
};

static DWORD WINAPI begin(void *argument)
{
	struct beginning begun = *(struct beginning *)argument;

	free(argument);
	begun.run(begun.argument);
	return 0;
}

int posix_thread_create(posix_thread *out, void *(*run)(void *argument), void *argument)
{
	struct beginning *beginning = malloc(sizeof(*beginning));
	HANDLE thread;

	if (beginning == NULL)
		return ENOMEM;
	*beginning = (struct beginning) { run, argument };
	thread = CreateThread(NULL, 0, begin, beginning, 0, NULL);
	if (thread == NULL) {
		free(beginning);
		return EAGAIN;
	}
	*out = (posix_thread)thread;
	return 0;
}

int posix_thread_join(posix_thread thread, void **result)
{
	if (result != NULL)
		*result = NULL;
	if (WaitForSingleObject((HANDLE)thread, INFINITE) != WAIT_OBJECT_0)
		return EINVAL;
	CloseHandle((HANDLE)thread);
	return 0;
}

int posix_clock(int which, struct timespec *out)
{
	FILETIME made, ended, kernel, user;
	LARGE_INTEGER now, second;
	uint64_t units;

	if (which == CLOCK_PROCESS_CPUTIME_ID) {
		if (!GetProcessTimes(GetCurrentProcess(), &made, &ended, &kernel, &user))
			return failed();
		units = ((uint64_t)kernel.dwHighDateTime << 32) + kernel.dwLowDateTime +
			((uint64_t)user.dwHighDateTime << 32) + user.dwLowDateTime;
		out->tv_sec = (time_t)(units / 10000000);
		out->tv_nsec = (long)(units % 10000000 * 100);
		return 0;
	}
	QueryPerformanceCounter(&now);
	QueryPerformanceFrequency(&second);
	out->tv_sec = (time_t)(now.QuadPart / second.QuadPart);
	out->tv_nsec = (long)(now.QuadPart % second.QuadPart * 1000000000 / second.QuadPart);
	return 0;
}

/* Not less than was asked for; a tick of the system's more. */
int posix_nanosleep(const struct timespec *time)
{
	Sleep((DWORD)(time->tv_sec * 1000 + (time->tv_nsec + 999999) / 1000000));
	return 0;
}

/* ---- Memory ---- */

static DWORD access_of(int access)
{
	return access == PROT_NONE   ? PAGE_NOACCESS
	       : access & PROT_WRITE ? PAGE_READWRITE
				     : PAGE_READONLY;
}

void *posix_map(size_t length, int access, int flags)
{
	/* Untouched pages cost address space alone, but reading them needs a commit. */
	DWORD how = MEM_RESERVE | MEM_COMMIT;
	void *at = VirtualAlloc(NULL, length, how, access_of(access));

	(void)flags;
	if (at != NULL)
		return at;
	failed();
	return MAP_FAILED;
}

int posix_unmap(void *at)
{
	return VirtualFree(at, 0, MEM_RELEASE) ? 0 : failed();
}

int posix_protect(void *at, size_t length, int access)
{
	DWORD before;

	return VirtualProtect(at, length, access_of(access), &before) ? 0 : failed();
}

#else

/* ISO C wants something in each file. */
typedef int posix_is_the_systems_own;

#endif

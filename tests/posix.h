/* The system's calls with which tests play the peer, under POSIX's names. On Unix
 * they are the system's own. On Windows they are a thin layer over Winsock and
 * Win32, just as wide as the tests are: descriptors are SOCKETs and HANDLEs as the
 * library takes them, and errno is set. What has no likeness there (fork, UNIX
 * sockets, signals) ends the test by posix_lacks(). */
#ifndef PROA_TESTS_POSIX_H
#define PROA_TESTS_POSIX_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>

#ifndef _WIN32

#	include <arpa/inet.h>
#	include <dirent.h>
#	include <netinet/in.h>
#	include <netinet/tcp.h>
#	include <poll.h>
#	include <pthread.h>
#	include <sched.h>
#	include <sys/mman.h>
#	include <sys/resource.h>
#	include <sys/socket.h>
#	include <sys/time.h>
#	include <sys/un.h>
#	include <sys/wait.h>
#	include <unistd.h>

#else

#	include <winsock2.h>
#	include <ws2tcpip.h>
#	include <windows.h>
#	include <dirent.h>
#	include <io.h>
#	include <process.h>
#	include <sched.h>
#	include <stdbool.h>
#	include <stdint.h>
#	include <unistd.h>

/* Called where Windows has nothing like it: ends the test, saying so. */
_Noreturn void posix_lacks(const char *what);
/* Is this wine? Some things that Windows does, it does not. */
bool posix_is_wine(void);
/* Where it is set, what blocks asks it now and then, and fails with EINTR if it says so. */
extern bool (*posix_gives_up)(void);

/* ---- Descriptors ---- */

#	define O_CLOEXEC    0
#	define O_NOCTTY     0
#	define O_NONBLOCK   0x4000000
#	define FD_CLOEXEC   1
#	define F_GETFD      1
#	define F_SETFD      2
#	define F_GETFL      3
#	define F_SETFL      4
#	define F_SETPIPE_SZ 5

int posix_open(const char *path, int flags, ...);
int posix_close(int fd);
ssize_t posix_read(int fd, void *buffer, size_t length);
ssize_t posix_write(int fd, const void *buffer, size_t length);
ssize_t posix_pread(int fd, void *buffer, size_t length, off64_t at);
ssize_t posix_pwrite(int fd, const void *buffer, size_t length, off64_t at);
off64_t posix_lseek(int fd, off64_t at, int whence);
int posix_ftruncate(int fd, off64_t length);
int posix_fcntl(int fd, int command, ...);
int posix_dup(int fd);
int posix_pipe(int pair[2]);
/* A pipe whose end `ours` (0: that which reads, 1: that which writes) overlaps. */
int posix_pipe_overlapped(int pair[2], int ours);
int posix_mkdir(const char *path);
char *posix_mkdtemp(char *pattern);
int posix_setenv(const char *name, const char *value);
int posix_unsetenv(const char *name);

#	undef lseek /* which 64 bits of offsets name otherwise */
#	undef ftruncate
#	define open(...)                 posix_open(__VA_ARGS__)
#	define close(fd)                 posix_close(fd)
#	define read(fd, buffer, n)       posix_read(fd, buffer, n)
#	define write(fd, buffer, n)      posix_write(fd, buffer, n)
#	define pread(fd, buffer, n, at)  posix_pread(fd, buffer, n, at)
#	define pwrite(fd, buffer, n, at) posix_pwrite(fd, buffer, n, at)
#	define lseek(fd, at, whence)     posix_lseek(fd, at, whence)
#	define ftruncate(fd, n)          posix_ftruncate(fd, n)
#	define fcntl(...)                posix_fcntl(__VA_ARGS__)
#	define dup(fd)                   posix_dup(fd)
#	define pipe2(pair, flags)        posix_pipe(pair)
#	define mkdir(path, mode)         posix_mkdir(path)
#	define mkdtemp(pattern)          posix_mkdtemp(pattern)
#	define setenv(name, value, over) posix_setenv(name, value)
#	define unsetenv(name)            posix_unsetenv(name)

/* ---- Sockets ---- */

#	define SOCK_CLOEXEC  0x10000000
#	define SOCK_NONBLOCK 0x20000000
#	define MSG_NOSIGNAL  0
#	define MSG_DONTWAIT  0x40000000
#	define SHUT_RD       SD_RECEIVE
#	define SHUT_WR       SD_SEND
#	define SHUT_RDWR     SD_BOTH

int posix_socket(int family, int type, int protocol);
int posix_bind(int fd, const struct sockaddr *to, socklen_t length);
int posix_listen(int fd, int backlog);
int posix_accept(int fd, struct sockaddr *from, socklen_t *length, int flags);
int posix_connect(int fd, const struct sockaddr *to, socklen_t length);
int posix_getsockname(int fd, struct sockaddr *name, socklen_t *length);
int posix_getpeername(int fd, struct sockaddr *name, socklen_t *length);
int posix_getsockopt(int fd, int level, int name, void *value, socklen_t *length);
int posix_setsockopt(int fd, int level, int name, const void *value, socklen_t length);
ssize_t posix_recv(int fd, void *buffer, size_t length, int flags);
ssize_t posix_send(int fd, const void *buffer, size_t length, int flags);
ssize_t posix_recvfrom(
	int fd, void *buffer, size_t length, int flags, struct sockaddr *from, socklen_t *size);
ssize_t posix_sendto(int fd, const void *buffer, size_t length, int flags,
	const struct sockaddr *to, socklen_t size);
int posix_shutdown(int fd, int how);
/* Two ends of a TCP connection to ourselves. */
int posix_pair(int pair[2]);
/* UNIX sockets: there are none, which ends the test. */
int posix_socketpair(int pair[2]);

#	define socket(family, type, protocol)           posix_socket(family, type, protocol)
#	define bind(fd, to, n)                          posix_bind(fd, to, n)
#	define listen(fd, backlog)                      posix_listen(fd, backlog)
#	define accept(fd, from, n)                      posix_accept(fd, from, n, 0)
#	define accept4(fd, from, n, flags)              posix_accept(fd, from, n, flags)
#	define connect(fd, to, n)                       posix_connect(fd, to, n)
#	define getsockname(fd, name, n)                 posix_getsockname(fd, name, n)
#	define getpeername(fd, name, n)                 posix_getpeername(fd, name, n)
#	define getsockopt(fd, level, name, to, n)       posix_getsockopt(fd, level, name, to, n)
#	define setsockopt(fd, level, name, of, n)       posix_setsockopt(fd, level, name, of, n)
#	define recv(fd, buffer, n, flags)               posix_recv(fd, buffer, n, flags)
#	define send(fd, buffer, n, flags)               posix_send(fd, buffer, n, flags)
#	define recvfrom(fd, buffer, n, f, from, s)      posix_recvfrom(fd, buffer, n, f, from, s)
#	define sendto(fd, buffer, n, f, to, s)          posix_sendto(fd, buffer, n, f, to, s)
#	define shutdown(fd, how)                        posix_shutdown(fd, how)
#	define socketpair(family, type, protocol, pair) posix_socketpair(pair)

struct sockaddr_un {
	ADDRESS_FAMILY sun_family;
	char sun_path[108];
};

int posix_poll(struct pollfd *fds, unsigned long count, int ms);
#	define poll(fds, count, ms)                     posix_poll(fds, count, ms)

/* ---- Threads and time ---- */

/* Not mingw-w64's own, whose threads keep handles after they have been joined. */
typedef uintptr_t posix_thread;
typedef SRWLOCK posix_mutex;

int posix_thread_create(posix_thread *out, void *(*run)(void *argument), void *argument);
int posix_thread_join(posix_thread thread, void **result);
int posix_clock(int which, struct timespec *out);
int posix_nanosleep(const struct timespec *time);

#	define pthread_t                               posix_thread
#	define pthread_mutex_t                         posix_mutex
#	define PTHREAD_MUTEX_INITIALIZER               SRWLOCK_INIT
#	define pthread_create(out, how, run, argument) posix_thread_create(out, run, argument)
#	define pthread_join(thread, result)            posix_thread_join(thread, result)
#	define pthread_self()                          ((posix_thread)GetCurrentThreadId())
#	define pthread_equal(one, other)               ((one) == (other))
#	define pthread_mutex_init(mutex, how)          InitializeSRWLock(mutex)
#	define pthread_mutex_destroy(mutex)            0
#	define pthread_mutex_lock(mutex)               AcquireSRWLockExclusive(mutex)
#	define pthread_mutex_unlock(mutex)             ReleaseSRWLockExclusive(mutex)
#	define clock_gettime(which, out)               posix_clock(which, out)
#	define nanosleep(time, left)                   posix_nanosleep(time)

/* ---- Memory ---- */

#	define PROT_NONE                              0
#	define PROT_READ                              1
#	define PROT_WRITE                             2
#	define MAP_PRIVATE                            1
#	define MAP_ANONYMOUS                          2
#	define MAP_NORESERVE                          4
#	define MAP_FAILED                             ((void *)-1)

void *posix_map(size_t length, int access, int flags);
int posix_unmap(void *at);
int posix_protect(void *at, size_t length, int access);
#	define mmap(at, n, access, flags, fd, offset) posix_map(n, access, flags)
#	define munmap(at, n)                          posix_unmap(at)
#	define mprotect(at, n, access)                posix_protect(at, n, access)

/* ---- The rest ---- */

int posix_rand_r(unsigned *seed);
int posix_unlink(const char *path);
int posix_memfd(void);
/* How many handles are open: by asking for each, since wine does not tell. */
int posix_handles(void);
/* Which handles are: `open[i]` for 4 * i. Their number. */
int posix_list_handles(bool *open, int most);
int posix_link(const char *from, const char *to);
#	define rand_r(seed)                           posix_rand_r(seed)
#	define link(from, to)                         posix_link(from, to)
#	define unlink(path)                           posix_unlink(path)
#	define memfd_create(name, flags)              posix_memfd()
#	define O_TMPFILE                              0x8000000
#	define SIGPIPE                                13
#	define SIGKILL                                9

typedef void (*posix_handler)(int number);
/* No SIGPIPE is ever sent: to ignore it is done. */
posix_handler posix_signal(int number, posix_handler what);
#	define signal(number, what)                   posix_signal(number, what)

/* Words of 16-bit times that windef.h defines away. */
#	undef near
#	undef far
#	undef small

#endif
#endif

/* Runs a command where the three calls of io_uring answer ENOSYS, as kernels
 * without it do, or EPERM, as containers and kernel.io_uring_disabled do.
 *
 * usage: without-io-uring ENOSYS|EPERM COMMAND [ARGUMENT]... */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Their numbers are the same, and successive, wherever Linux has them. */
_Static_assert(__NR_io_uring_enter == __NR_io_uring_setup + 1 &&
		       __NR_io_uring_register == __NR_io_uring_setup + 2,
	"three successive calls");

static int refuse(unsigned error)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, __NR_io_uring_setup, 0, 2),
		BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, __NR_io_uring_register, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (error & SECCOMP_RET_DATA)),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(filter) / sizeof(filter[0]), filter };

	/* Without root a filter needs this promise: see seccomp(2). */
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
		return -1;
	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

int main(int argc, char **argv)
{
	unsigned error = argc > 1 && strcmp(argv[1], "EPERM") == 0 ? EPERM : ENOSYS;

	if (argc < 3 || (error == ENOSYS && strcmp(argv[1], "ENOSYS") != 0)) {
		fprintf(stderr, "usage: %s ENOSYS|EPERM COMMAND [ARGUMENT]...\n", argv[0]);
		return 2;
	}
	if (refuse(error) != 0) {
		/* What Meson takes as skipped. */
		printf("no seccomp filter can be set here: %s\n", strerror(errno));
		return 77;
	}
	execvp(argv[2], argv + 2);
	perror(argv[2]);
	return 127;
}

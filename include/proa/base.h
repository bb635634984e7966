/* The types that every other header uses: handle, operation, completion. */
#ifndef PROA_BASE_H
#define PROA_BASE_H

#include <stddef.h>
#include <stdint.h>

/* Marks what the library exports: functions alone, which a program on Windows calls by
 * the DLL's import library as it calls those of the static one. */
#if defined(_WIN32) && defined(PROA_BUILD)
#	define PROA_API __declspec(dllexport)
#else
#	define PROA_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* A descriptor on Unix; a SOCKET or HANDLE, cast, on Windows. Any non-negative
 * `result` that stands for a handle converts to it as it is. */
#if defined(_WIN32)
typedef intptr_t proa_handle;
#else
typedef int proa_handle;
#endif

/* No handle: what a handle variable holds before and after its life. */
#define PROA_NO_HANDLE ((proa_handle)-1)

struct proa_port;
struct proa_pool;
struct proa_op;

/* What became of an operation. 16 bytes on 64-bit systems. It is valid while the
 * callback runs, or as long as the caller's array. */
struct proa_completion {
	struct proa_op *op; /* the one that was submitted or posted */
	int32_t result; /* >= 0: bytes, a new handle, or 0. < 0: enum proa_error */
	uint32_t flags; /* PROA_MORE, PROA_LENT; other bits are the library's */
};

/* A completion's mark: not the final one, the op goes on. */
#define PROA_MORE 0x01u
/* A completion's mark: proa_lent() gives a buffer, to give back. */
#define PROA_LENT 0x02u

/* Called by proa_run(), proa_run_once(), proa_dispatch() and proa_port_close() for
 * each completion of an op submitted with it, on the thread that calls them and
 * never inside submit, cancel, post or give-back. With a final completion the op is
 * the caller's again when it begins: `op` may be prepared, submitted or freed here. */
typedef void proa_done_fn(struct proa_op *op, const struct proa_completion *c);

/* One operation, embedded in the caller's own struct; proa_op_init() readies it.
 * From submit to its final completion it belongs to the library, and so does all
 * that it names. Members that end in _ are the library's: 128 bytes at most in all. */
struct proa_op {
	struct proa_port *port; /* where it is submitted; survives every prep */
	void *data; /* the caller's own; survives every prep */
	proa_done_fn *done_;
	uint8_t kind_, state_; /* enum proa_kind; 0: idle */
	uint16_t options_;
	uint32_t flags_;
	void *buffer_;
	size_t length_;
	uint64_t argument_;
	int64_t timeout_, deadline_;
	uint64_t lane_; /* ticket, or strand */
	struct proa_op *next_; /* link */
	int32_t handle_; /* on Windows, too, 32 bits of a handle count */
	uint32_t timer_; /* place in the timer heap, 0: none */
	uint64_t room_[4]; /* lists, bytes moved, the engine's word */
};

/* A run of bytes for vectored operations: laid out as the system's own struct iovec
 * (readv(2)) or WSABUF. The array must live as long as the op. */
struct proa_slice {
#if defined(_WIN32)
	uint32_t length;
	void *data;
#else
	void *data; /* the first byte */
	size_t length; /* their number */
#endif
};

/* One microsecond: durations and instants are int64_t nanoseconds. */
#define PROA_MICROSECOND INT64_C(1000)
/* One millisecond in nanoseconds. */
#define PROA_MILLISECOND INT64_C(1000000)
/* One second in nanoseconds. */
#define PROA_SECOND INT64_C(1000000000)
/* No limit in time. */
#define PROA_FOREVER INT64_MAX

#ifdef __cplusplus
}
#endif
#endif

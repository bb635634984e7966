/* What Debian 12's headers (Linux 6.1, liburing 2.3) lack of io_uring, with the
 * kernel version that brought it. All of it is used only after it was found to
 * work. */
#ifndef PROA_ENGINES_URING_KERNEL_H
#define PROA_ENGINES_URING_KERNEL_H

#include <liburing.h>

/* linux/io_uring.h's enum names can't be asked for by the preprocessor; these
 * are the numbers of the ABI. */
#define KERNEL_OP_SEND_ZC   47 /* 6.0 */
#define KERNEL_OP_FTRUNCATE 55 /* 6.9 */

#ifndef IORING_SETUP_SINGLE_ISSUER
#	define IORING_SETUP_SINGLE_ISSUER (1u << 12) /* 6.0 */
#endif
#ifndef IORING_SETUP_DEFER_TASKRUN
#	define IORING_SETUP_DEFER_TASKRUN (1u << 13) /* 6.1 */
#endif
#ifndef IORING_ENTER_NO_IOWAIT
#	define IORING_ENTER_NO_IOWAIT (1u << 7) /* 6.14 */
#endif
#ifndef IORING_FEAT_NO_IOWAIT
#	define IORING_FEAT_NO_IOWAIT (1u << 17) /* 6.14 */
#endif

#endif

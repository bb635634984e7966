/* What the benchmarks want of <netinet/tcp.h>, on Windows. */
#include "like_posix.h"

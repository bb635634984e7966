/* What the benchmarks want of <sys/epoll.h>, on Windows. */
#include "like_posix.h"

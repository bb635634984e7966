/* What the benchmarks want of <sys/socket.h>, on Windows. */
#include "like_posix.h"

/* What the benchmarks want of <netinet/in.h>, on Windows. */
#include "like_posix.h"

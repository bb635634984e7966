/* What the benchmarks want of <sys/resource.h>, on Windows. */
#include "like_posix.h"

/* What the benchmarks want of <sys/mman.h>, on Windows. */
#include "like_posix.h"

/* What the benchmarks want of <pthread.h>, on Windows. */
#include "like_posix.h"

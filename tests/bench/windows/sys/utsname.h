/* What the benchmarks want of <sys/utsname.h>, on Windows. */
#include "like_posix.h"

/* What of hard.c is the system's own: hard_unix.c and hard_windows.c. */
#ifndef PROA_TESTS_FAULT_HARD_H
#define PROA_TESTS_FAULT_HARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runner.h"

/* Memory that the runner and the tests' processes both have: an array, of zeros. NULL:
 * none. It is made once. */
void *common_make(int count, size_t size);
/* Which element the process has to do with that is started next. */
void common_choose(int which);
/* In a test's process: that element. */
void *common_mine(void);

/* In a test's process, on the test's own thread: once `after` has passed, `tell` is
 * called again and again, and what this thread waits in is interrupted. `tell` runs in a
 * signal handler, or on another thread. */
void lateness_begin(int64_t after, void (*tell)(void));

/* Is it the end that a signal makes which the test has raised itself? The library may have
 * been refused to take it. */
bool ended_by_own_signal(const struct ending *ending);

#endif

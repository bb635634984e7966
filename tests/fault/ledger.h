/* What a conformance test has of the library, noted behind its back: its ports, pools,
 * lent buffers, and which of its ops are in flight. With it a test that a fault has led
 * astray can be ended in order, and be judged by what must hold all the same. */
#ifndef PROA_TESTS_FAULT_LEDGER_H
#define PROA_TESTS_FAULT_LEDGER_H

/* A test begins, on this thread. `broken` is told, at most once, of what must never be;
 * it does not return. `waiting` is called before each call of the test's own thread that
 * waits, and need not return. */
void ledger_begin(void (*broken)(const char *what), void (*waiting)(void));

/* Ends the wait that the test's thread is in, most of the time: to be called again and
 * again. In a signal handler of that thread's, or on another thread. */
void ledger_wake(void);

/* Nothing of the test runs from here on: closes its ports, gives back, closes its pools.
 * Looks whether all ops have ended. From ledger_begin()'s thread, at any depth: out of a
 * callback, too, which is not returned to. False: a port is another thread's, or has a job
 * under way, and so can't be closed. */
bool ledger_end(void);

/* Is this the test's own thread, and in none of the library's calls? */
bool ledger_is_outside(void);

#endif

/* What the runner, the helpers and the processes of tests have in common. */
#ifndef PROA_TESTS_CONFORMANCE_RUNNER_H
#define PROA_TESTS_CONFORMANCE_RUNNER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define EXIT_FAILED 1
#define EXIT_SKIP   77

/* What a test's process tells the runner, in memory they share. */
struct report {
	atomic_uintptr_t file; /* the last check that passed, in its own process: its file, */
	char where[64]; /* ... that file's name, for the runner, */
	atomic_int line;
	atomic_bool ended; /* the test came to an end of its own: no crash */
	char reason[512]; /* of a skip, or why an engine is not there */
	char folder[512];
};

extern struct report *report; /* in a test: its own */
extern const char *current_profile;
extern int time_factor;

const char *base_name(const char *path);

/* A test's process: the system's side (process_unix.c, or tests/windows/process.c). */
struct process {
	struct report *report; /* for as long as the runner lives */
	intptr_t id; /* pid, or HANDLE */
	intptr_t group; /* HANDLE of a job: it and its children */
	intptr_t shared; /* HANDLE of the memory that the report is in */
	intptr_t output; /* descriptor or HANDLE with its stdout and stderr */
};

/* How one ended. */
struct ending {
	int code; /* exit code, or -1: it crashed, or was killed */
	char text[64]; /* in words */
};

/* Before anything else in main(). In a process that is a test's own it does not
 * return but calls `body` with a test's name (NULL: probe for the engine). */
void process_main(int argc, char **argv, void (*body)(const char *name));
/* Reports for `count` of them; once. */
void process_prepare(struct process *all, int count);
/* Runs `body` of process_main() in a process of its own, with the current profile. */
void process_start(struct process *process, const char *name);
/* True once it has ended: its children are gone then, too. */
bool process_ended(struct process *process, struct ending *ending);
void process_kill(struct process *process);
/* Waits until one may have ended, 100 ms at most. */
void process_wait(const struct process *all, int count);
/* Copies its output to stdout. */
void process_show(const struct process *process);
/* Closes what the runner holds of it, and removes its folder. */
void process_forget(struct process *process);

/* Ends this process at once, without what exit() would run. */
_Noreturn void process_exit(int code);

/* Open descriptors: their number, and a note of them to compare with. */
struct descriptors;
int descriptors_note(struct descriptors **out);
int descriptors_all(void);
/* Writes to stderr what differs from the note. */
void descriptors_differ(const struct descriptors *note);

#endif

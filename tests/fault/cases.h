/* The processes in which cases run: cases_unix.c forks one for each case; on Windows
 * one runs case after case until one fails. */
#ifndef PROA_TESTS_FAULT_CASES_H
#define PROA_TESTS_FAULT_CASES_H

#include "body.h"
#include "fault.h"

#define SITES_MOST 128
#define SLOTS      2
#define SECONDS    10 /* for a case */

struct profile {
	const char *name, *engine, *off;
};
extern const struct profile *profile;
/* For files; the runner's, and known to the processes of cases. */
extern char folder[160];

enum case_kind {
	CASE_COUNTS, /* no fault: what is called, and what is left */
	CASE_FAULT,
	CASE_FIRST, /* a fault in the first run of a process */
	CASE_NONE, /* no more: the process ends by itself, as coverage wants it */
};

/* What a process has found. */
struct left {
	long blocks;
	int descriptors;
};
struct counted {
	struct left left;
	unsigned come;
	unsigned site_count;
	struct {
		char name[40];
		int ways[FAULT_WAYS + 1];
		unsigned calls; /* of a process's first run */
		unsigned again; /* of one that follows; where that makes no difference, the same */
	} sites[SITES_MOST];
};

struct slot {
	const struct body *body;
	struct fault_plan plan;
	struct counted *counted; /* shared with the process */
	enum case_kind kind;
	bool busy, again;
	struct process *process;
};
/* What is left without a fault. */
extern struct left expected;

/* main.c: the body, with a fault (NULL: none; its calls are noted), and what came. */
void case_run(const struct body *body, const struct fault_plan *plan, struct counted *counted);
void case_note(struct counted *counted);
const struct body *body_named(const char *name);
const struct profile *profile_named(const char *name);

/* 0, or what it says, of a process of its own if the runner must not use the library. */
int process_probe(int (*probe)(void));
/* Does nothing but for processes that are started to run cases; those never return. */
void process_main(int argc, char **argv);
void process_folder(void);
void process_prepare(struct slot *slots);
void process_start(struct slot *slot, enum case_kind kind);
/* Waits for one that is busy: `how` is empty, or says how it failed. */
struct slot *process_wait(struct slot *slots, char *how, size_t size);
/* No more cases of this body. */
void process_rest(struct slot *slots);
/* May a case that hung have hung for the system's own reasons? */
bool process_may_hang(void);
/* Prints what the slot's process has said. */
void process_show(const struct slot *slot);
/* Ends this process, whatever its threads do. */
_Noreturn void process_fail(void);

#endif

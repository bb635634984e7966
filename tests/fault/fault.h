/* Faults: the library's system calls and allocations, made to fail on purpose.
 *
 * The library's object code is linked as it is, but for the names that it calls:
 * redirect.sh renames recv to faulty_recv, and so on, for each faulty_ function of
 * calls.c and uring.c (of calls_windows.c on Windows). What the tests themselves call
 * stays the system's. */
#ifndef PROA_TESTS_FAULT_H
#define PROA_TESTS_FAULT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* In place of an errno: the call is made, and moves less than it was asked to. On
 * Windows a way is a code of Win32's or Winsock's; or an NTSTATUS, with which what was
 * begun ends later. */
#define FAULT_SHORT (-1)
/* In a plan by count: one of the call's ways, by its number. */
#define FAULT_ANY (-2)
/* What failed allocations say. */
#ifdef _WIN32
#	define FAULT_NO_MEMORY 8 /* ERROR_NOT_ENOUGH_MEMORY */
#else
#	define FAULT_NO_MEMORY 12 /* ENOMEM */
#endif

/* A call that may fail: one for each faulty_ function, and for each kind of request
 * of io_uring's. `ways` are what it may plausibly answer, 0 at the end. */
#define FAULT_WAYS 6
struct fault_site {
	const char *name;
	int ways[FAULT_WAYS + 1];
	atomic_uint calls; /* since faults_begin() */
	atomic_bool listed;
};

/* Does this call fail? 0: no; an errno; or FAULT_SHORT. Safe in signal handlers. */
int fault_here(struct fault_site *site);
/* The same, for a call of which some ways are out of the question this time: what
 * FAULT_SOFT leaves. */
int fault_here_if(struct fault_site *site, bool hard);
/* Some number below `most`, by the plan's seed and this call's number. */
unsigned fault_number(const struct fault_site *site, unsigned most);

/* What is to fail. By count: the `nth` call (from 1) of the site `name`, in the way
 * `how`; `lasting`: and all that follow (of what a caller must not notice, a row). By seed: each call with a chance of `rate` in 10,000, in one of its ways;
 * `soft`: in such ways alone as a caller must not notice: EINTR, short, and what
 * faults_is_soft() knows more; `whole`: not short, which some tests would notice;
 * `only`: at these sites, as in "recv+send"; empty: all. */
struct fault_plan {
	char name[40];
	unsigned nth;
	int how;
	uint64_t seed;
	unsigned rate;
	bool soft, whole, lasting;
	char only[320];
};

/* "recv:3:ECONNRESET", "malloc:3+:ENOMEM", "send:1:short", "send:2:any", "seed=17,rate=50",
 * "seed=17,rate=50,soft,whole",
 * "seed=17,rate=50,only=recv+send".
 * False: no plan. */
bool faults_parse(struct fault_plan *plan, const char *text);
void faults_tell(const struct fault_plan *plan, char *text, size_t size);
bool faults_is_soft(const char *name, int how);
const char *fault_way(int how);

/* Faults come from here (NULL: none, calls are counted alone) to faults_end(). */
void faults_begin(const struct fault_plan *plan);
void faults_end(void);
/* Until then the next calls of a site fail so (`times` of them; 0: all), which is none of the
 * plan's faults: for what is called in its stead. */
void faults_force(const char *name, int how, unsigned times);
/* How many have come since faults_begin(). */
unsigned faults_come(void);

/* The sites that have been called since the process began. */
unsigned faults_sites(struct fault_site **out, unsigned most);
/* All that there are, called or not: the linker lists them. */
unsigned faults_all(struct fault_site **out, unsigned most);
#ifdef _WIN32
#	define FAULT_LISTED(place, name, at)        \
		static struct fault_site *const name \
			__attribute__((section(".fault$" place), used)) = at
#else
#	define FAULT_LISTED(place, name, at) \
		static struct fault_site *name __attribute__((section("fault_sites"), used)) = at
#endif
#define FAULT_SITE(variable, its_name, ...)                                          \
	static struct fault_site variable = { its_name, { __VA_ARGS__ }, 0, false }; \
	FAULT_LISTED("m", variable##_listed, &variable)
/* Blocks that the library has not freed. */
long faults_blocks(void);
void faults_block(int more);
/* Descriptors that the library keeps to itself (rings, wake-ups, a child's): how many
 * are open. What was made (below 0: it was not), and is handed on; what is closed. */
int faults_descriptors(void);
int faults_descriptor(int fd);
void faults_descriptor_gone(int fd);

#endif

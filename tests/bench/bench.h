/* What the parts of proa-bench share: options, results, the separate process
 * that is measured, the report. */
#ifndef PROA_BENCH_BENCH_H
#define PROA_BENCH_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef _WIN32
#	include "like_posix.h" /* before others ask for clocks and calls */
#endif
#include "measure.h"

#define ENGINES_MOST 8
#define WORK_TEXT    64
#define ERROR_TEXT   160

struct bench_options {
	const char *engines[ENGINES_MOST]; /* NULL-ended */
	double seconds;
	unsigned rounds, connections, size, pipeline, depth, timers, file_megabytes;
	bool direct, sendfile, quick, same_core;
	const char *json, *directory;
};

/* One measurement. NAN where a figure has no meaning. */
struct bench_result {
	double rate; /* operations a second */
	double cpu; /* ns an operation, of the process measured */
	double calls; /* system calls an operation */
	double p50, p99, p999, most; /* latency, ns */
	double bytes; /* bytes a second */
	double client; /* how busy the load was, 0 to 1 */
	char error[ERROR_TEXT]; /* why there is none; "" if there is */
};

/* A benchmark runs once on one engine and reports one or more results. */
typedef void bench_fn(const struct bench_options *options, const char *engine);
bench_fn bench_echo, bench_stream, bench_churn, bench_file, bench_timers, bench_post;

/* common.c */
void bench_clear(struct bench_result *result);
void bench_fail(struct bench_result *result, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
void bench_latency(struct bench_result *result, const struct histogram *latency);
/* Puts the calling process or thread on a core of the two that are used: 0 is
 * for what is measured, 1 for the load. Without two, or with `same`: one. */
void bench_pin(unsigned which, bool same);
unsigned bench_cores(void);
/* Runs `measure` in a process of its own on core 0. If that dies the result says so. */
typedef void bench_apart_fn(const struct bench_options *options, const char *engine,
	struct bench_result *results, void *argument);
void bench_apart(bench_apart_fn *measure, const struct bench_options *options, const char *engine,
	struct bench_result *results, unsigned count, void *argument);
/* How a process ended, as text; waits for it up to five seconds, then kills it. */
void bench_reap(pid_t process, char *text, size_t size);

/* report.c: collects, shows that there is progress, prints at the end. */
void report_expect(unsigned runs);
void report_running(const char *what, const char *engine);
void report_add(const char *work, const char *engine, const struct bench_result *result);
void report_table(void);
int report_json(const char *path);
bool report_failed(void); /* some result is an error */

#endif

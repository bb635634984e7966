/* What the fuzzer and the program that plays its inputs again have in common. */
#ifndef PROA_TESTS_FUZZ_H
#define PROA_TESTS_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A program of bytes on every engine there is, or on the one that is named; aborts if
 * an engine breaks a rule, or two differ in what is determined. */
extern bool fuzz_verbose; /* traces the random programs */
extern const char *fuzz_program; /* that replays what has failed */
void fuzz_one(const unsigned char *bytes, size_t length, const char *only);

/* One of them: a program whose every result is determined. Its results, each with what
 * came along, go into `log`; their number. */
struct outcome {
	const char *what;
	int32_t result;
	uint32_t flags;
	uint64_t count, digest;
};
#define OUTCOMES_MOST 4096
size_t determined_run(const char *engine, const unsigned char *bytes, size_t length,
	const char *replay, struct outcome *log);

#endif

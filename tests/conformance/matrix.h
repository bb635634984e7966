/* What came of all tests: profiles down, the contract's rules across. Runs can be
 * written to files, and the files of several runs be joined. */
#ifndef PROA_TESTS_CONFORMANCE_MATRIX_H
#define PROA_TESTS_CONFORMANCE_MATRIX_H

#include <stdbool.h>
#include <stdio.h>

#define RULES 29

enum outcome { PASSED, FAILED, SKIPPED };

/* Profiles are shown in the order in which they are first named. */
void matrix_add(const char *profile, int rule, enum outcome outcome);
void matrix_skip(const char *profile, int rule, const char *test, const char *reason);
/* The profile can't be tried here. */
void matrix_missing(const char *profile, const char *reason);
/* Not all rules were asked for: which, and why these. */
void matrix_partial(const char *profile, const char *reason);
/* From here on what is added goes by this name instead of the profile's. */
void matrix_rename(const char *name);

void matrix_print(FILE *out);
/* Tells of each rule that nobody has tried on a profile that could be: their number. */
int matrix_holes(FILE *out);
/* What matrix_read() understands; false if it can't be written. */
bool matrix_write(const char *path);
bool matrix_read(const char *path);

#endif

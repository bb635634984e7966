/* The table of profiles and rules, and why cells of it are not full. */
#include "matrix.h"

#include <stdlib.h>
#include <string.h>

#define PROFILES 32
#define SKIPS    4096
#define LINE     1024

/* Engines of two systems may have one name. */
#ifdef _WIN32
#	define SYSTEM "Windows "
#else
#	define SYSTEM ""
#endif

struct profile {
	char name[64], missing[512], partial[256];
	int cells[RULES + 1][3]; /* by outcome */
};

struct skip {
	const struct profile *profile;
	int rule;
	char *test, *reason;
	bool shown;
};

static struct profile profiles[PROFILES];
static int profile_count;
static const char *renamed; /* NULL: profiles have names of their own */
static struct skip skips[SKIPS];
static int skip_count;

/* ---- Taking in ---- */

static struct profile *profile_called(const char *name)
{
	for (int i = 0; i < profile_count; i++)
		if (strcmp(profiles[i].name, name) == 0)
			return &profiles[i];
	if (profile_count == PROFILES) {
		fprintf(stderr, "more than %d profiles\n", PROFILES);
		exit(2);
	}
	snprintf(profiles[profile_count].name, sizeof(profiles[0].name), "%s", name);
	return &profiles[profile_count++];
}

static struct profile *profile_here(const char *name)
{
	char full[sizeof(profiles[0].name)];

	snprintf(full, sizeof(full), "%s%s", SYSTEM, renamed != NULL ? renamed : name);
	return profile_called(full);
}

static char *copied(const char *text)
{
	char *copy = strdup(text);

	if (copy == NULL)
		abort();
	copy[strcspn(copy, "\t\r\n")] = '\0'; /* one field of a file */
	return copy;
}

static void add_skip(const struct profile *profile, int rule, const char *test, const char *reason)
{
	if (skip_count == SKIPS) {
		fprintf(stderr, "more than %d skipped tests\n", SKIPS);
		exit(2);
	}
	skips[skip_count++] = (struct skip) { profile, rule, copied(test), copied(reason), false };
}

void matrix_add(const char *profile, int rule, enum outcome outcome)
{
	profile_here(profile)->cells[rule][outcome]++;
}

void matrix_skip(const char *profile, int rule, const char *test, const char *reason)
{
	matrix_add(profile, rule, SKIPPED);
	add_skip(profile_here(profile), rule, test, reason);
}

void matrix_missing(const char *profile, const char *reason)
{
	struct profile *one = profile_here(profile);

	snprintf(one->missing, sizeof(one->missing), "%s", reason);
}

void matrix_partial(const char *profile, const char *reason)
{
	struct profile *one = profile_here(profile);

	snprintf(one->partial, sizeof(one->partial), "%s", reason);
}

void matrix_rename(const char *name)
{
	renamed = name;
}

/* ---- Files ---- */

bool matrix_write(const char *path)
{
	FILE *file = fopen(path, "w");

	if (file == NULL)
		return false;
	for (const struct profile *one = profiles; one < profiles + profile_count; one++) {
		fprintf(file, "profile\t%s\t%s\n", one->name, one->missing);
		fprintf(file, "partial\t%s\t%s\n", one->name, one->partial);
		for (int rule = 1; rule <= RULES; rule++)
			fprintf(file, "cell\t%s\t%d\t%d\t%d\t%d\n", one->name, rule,
				one->cells[rule][PASSED], one->cells[rule][FAILED],
				one->cells[rule][SKIPPED]);
	}
	for (const struct skip *skip = skips; skip < skips + skip_count; skip++)
		fprintf(file, "skip\t%s\t%d\t%s\t%s\n", skip->profile->name, skip->rule, skip->test,
			skip->reason);
	return fclose(file) == 0;
}

/* Cuts a line at its tabs: the number of fields. */
static int cut(char *line, char **fields, int most)
{
	int count = 0;

	line[strcspn(line, "\r\n")] = '\0';
	while (count < most) {
		fields[count++] = line;
		line = strchr(line, '\t');
		if (line == NULL)
			break;
		*line++ = '\0';
	}
	return count;
}

static bool take_line(char *line)
{
	char *fields[6];
	int count = cut(line, fields, 6), rule = count > 3 ? atoi(fields[2]) : 1;
	struct profile *profile;

	if (count < 3 || rule < 1 || rule > RULES)
		return false;
	profile = profile_called(fields[1]);
	if (count == 3 && strcmp(fields[0], "profile") == 0)
		snprintf(profile->missing, sizeof(profile->missing), "%s", fields[2]);
	else if (count == 3 && strcmp(fields[0], "partial") == 0)
		snprintf(profile->partial, sizeof(profile->partial), "%s", fields[2]);
	else if (count == 5 && strcmp(fields[0], "skip") == 0)
		add_skip(profile, rule, fields[3], fields[4]);
	else if (count == 6 && strcmp(fields[0], "cell") == 0)
		for (int outcome = PASSED; outcome <= SKIPPED; outcome++)
			profile->cells[rule][outcome] += atoi(fields[3 + outcome]);
	else
		return false;
	return true;
}

bool matrix_read(const char *path)
{
	char line[LINE];
	FILE *file = fopen(path, "r");
	bool good = file != NULL;

	while (good && fgets(line, sizeof(line), file) != NULL)
		good = take_line(line);
	if (file != NULL)
		fclose(file);
	return good;
}

/* ---- Showing ---- */

/* The text of a cell, and its length: "12", "12F1", "11S1", "-". */
static int cell_text(const struct profile *profile, int rule, char *text, size_t size)
{
	const int *cell = profile->cells[rule];
	int n;

	if (cell[PASSED] + cell[FAILED] + cell[SKIPPED] == 0)
		return snprintf(text, size, "-");
	n = snprintf(text, size, "%d", cell[PASSED]);
	if (cell[FAILED] > 0)
		n += snprintf(text + n, size - (size_t)n, "F%d", cell[FAILED]);
	if (cell[SKIPPED] > 0)
		n += snprintf(text + n, size - (size_t)n, "S%d", cell[SKIPPED]);
	return n;
}

static void print_table(FILE *out)
{
	int widths[RULES + 1], first = 4;
	char text[48];

	for (int rule = 1; rule <= RULES; rule++) {
		widths[rule] = rule > 9 ? 2 : 1;
		for (const struct profile *one = profiles; one < profiles + profile_count; one++) {
			int width = cell_text(one, rule, text, sizeof(text));

			if (width > widths[rule])
				widths[rule] = width;
		}
	}
	for (const struct profile *one = profiles; one < profiles + profile_count; one++)
		if ((int)strlen(one->name) > first)
			first = (int)strlen(one->name);
	fprintf(out, "%-*s", first, "rule");
	for (int rule = 1; rule <= RULES; rule++)
		fprintf(out, " %*d", widths[rule], rule);
	fprintf(out, "\n");
	for (const struct profile *one = profiles; one < profiles + profile_count; one++) {
		fprintf(out, "%-*s", first, one->name);
		for (int rule = 1; rule <= RULES; rule++) {
			cell_text(one, rule, text, sizeof(text));
			fprintf(out, " %*s", widths[rule], text);
		}
		fprintf(out, "\n");
	}
}

/* All tests that were skipped for the same reason, each with its profiles. */
static void print_reason(FILE *out, struct skip *first)
{
	const char *separator;

	fprintf(out, "  %s\n", first->reason);
	for (struct skip *skip = first; skip < skips + skip_count; skip++) {
		if (skip->shown || strcmp(skip->reason, first->reason) != 0)
			continue;
		separator = "";
		fprintf(out, "    rule %d, %s:", skip->rule, skip->test);
		for (struct skip *same = skip; same < skips + skip_count; same++)
			if (!same->shown && strcmp(same->test, skip->test) == 0 &&
				strcmp(same->reason, skip->reason) == 0) {
				same->shown = true;
				fprintf(out, "%s %s", separator, same->profile->name);
				separator = ",";
			}
		fprintf(out, "\n");
	}
}

int matrix_holes(FILE *out)
{
	int holes = 0;

	for (const struct profile *one = profiles; one < profiles + profile_count; one++)
		for (int rule = 1; rule <= RULES; rule++) {
			const int *cell = one->cells[rule];

			if (one->missing[0] != '\0' ||
				cell[PASSED] + cell[FAILED] + cell[SKIPPED] > 0)
				continue;
			fprintf(out, "FAILED  %-14s rule %d has no test\n", one->name, rule);
			holes++;
		}
	return holes;
}

/* All profiles of which a part was asked for, for the same reason. */
static void print_partial(FILE *out, const struct profile *first)
{
	const char *separator = "  ";

	for (const struct profile *one = profiles; one < first; one++)
		if (strcmp(one->partial, first->partial) == 0)
			return;
	for (const struct profile *one = first; one < profiles + profile_count; one++)
		if (strcmp(one->partial, first->partial) == 0) {
			fprintf(out, "%s%s", separator, one->name);
			separator = ", ";
		}
	fprintf(out, ": %s\n", first->partial);
}

void matrix_print(FILE *out)
{
	bool any = false;

	print_table(out);
	fprintf(out, "Tests passed; F: failed, S: skipped, -: not among the tests asked for.\n");
	for (const struct profile *one = profiles; one < profiles + profile_count; one++)
		if (one->partial[0] != '\0')
			print_partial(out, one);
	for (const struct profile *one = profiles; one < profiles + profile_count; one++)
		if (one->missing[0] != '\0')
			fprintf(out, "%s is not available here: %s\n", one->name, one->missing);
	for (struct skip *skip = skips; skip < skips + skip_count; skip++)
		skip->shown = false;
	for (struct skip *skip = skips; skip < skips + skip_count; skip++)
		if (!skip->shown) {
			if (!any)
				fprintf(out, "Skipped, and why:\n");
			any = true;
			print_reason(out, skip);
		}
}

/* What was measured: medians over rounds, as a table for people or JSON for
 * programs; and a line that shows how far we are. */
#include "bench.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#define LINES_MOST  512
#define ROUNDS_MOST 64

struct line {
	char work[WORK_TEXT];
	const char *engine;
	unsigned rounds;
	char error[ERROR_TEXT];
	double *figures[ROUNDS_MOST]; /* FIGURES of them a round */
};

/* The figures of a result, in the order of the columns. */
enum { RATE, CPU, CALLS, P50, P99, P999, MOST, BYTES, CLIENT, FIGURES };
static const char *const figure_names[FIGURES] = { "operations_per_second", "cpu_ns",
	"system_calls", "p50_ns", "p99_ns", "p99_9_ns", "max_ns", "bytes_per_second", "load_busy" };

static struct line lines[LINES_MOST];
static unsigned line_count, expected, run_count;
static int64_t shown;
static bool on_screen;

void report_expect(unsigned runs)
{
	expected = runs;
}

/* On a terminal one line that is written over; else a line every few seconds. */
void report_running(const char *what, const char *engine)
{
	int64_t now = measure_now();

	run_count++;
	if (isatty(STDERR_FILENO)) {
		fprintf(stderr, "\r\033[K[%u/%u] %s: %s", run_count, expected, what, engine);
		on_screen = true;
	} else if (now - shown > INT64_C(5000000000)) {
		fprintf(stderr, "[%u/%u] %s: %s\n", run_count, expected, what, engine);
		shown = now;
	}
	fflush(stderr);
}

static struct line *line_find(const char *work, const char *engine)
{
	struct line *line;

	for (unsigned i = 0; i < line_count; i++)
		if (strcmp(lines[i].work, work) == 0 && strcmp(lines[i].engine, engine) == 0)
			return &lines[i];
	if (line_count == LINES_MOST)
		return NULL;
	line = &lines[line_count++];
	snprintf(line->work, sizeof line->work, "%s", work);
	line->engine = engine;
	return line;
}

void report_add(const char *work, const char *engine, const struct bench_result *result)
{
	const double figures[FIGURES] = { result->rate, result->cpu, result->calls, result->p50,
		result->p99, result->p999, result->most, result->bytes, result->client };
	struct line *line = line_find(work, engine);

	if (line == NULL)
		return;
	if (result->error[0] != '\0') {
		snprintf(line->error, sizeof line->error, "%s", result->error);
		return;
	}
	if (line->rounds == ROUNDS_MOST)
		return;
	line->figures[line->rounds] = malloc(sizeof figures);
	if (line->figures[line->rounds] != NULL)
		memcpy(line->figures[line->rounds++], figures, sizeof figures);
}

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* The median over rounds; of the greatest latency the greatest. */
static double line_figure(const struct line *line, int which)
{
	double values[ROUNDS_MOST];
	unsigned count = 0;

	for (unsigned i = 0; i < line->rounds; i++)
		if (!isnan(line->figures[i][which]))
			values[count++] = line->figures[i][which];
	if (count == 0)
		return NAN;
	qsort(values, count, sizeof *values, by_size);
	if (which == MOST)
		return values[count - 1];
	return count % 2 != 0 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

/* Three digits and a unit. */
static void text_scaled(
	char *text, size_t size, double value, double step, const char *const *units)
{
	while (value >= 999.5 && units[1] != NULL) {
		value /= step;
		units++;
	}
	snprintf(text, size, "%.*f%s", value < 9.995 ? 2 : value < 99.95 ? 1 : 0, value, *units);
}

static void text_figure(char *text, size_t size, int which, double value)
{
	static const char *const times[] = { " ns", " us", " ms", " s", NULL };
	static const char *const counts[] = { "", " k", " M", " G", NULL };

	if (isnan(value))
		snprintf(text, size, "-");
	else if (which == CALLS)
		snprintf(text, size, "%.3f", value);
	else if (which == CLIENT)
		snprintf(text, size, "%.0f%%", value * 100);
	else if (which == RATE || which == BYTES)
		text_scaled(text, size, value, 1000, counts);
	else
		text_scaled(text, size, value, 1000, times);
}

/* All engines of one work beneath each other. */
static void table_work(const char *work, int width)
{
	for (unsigned i = 0; i < line_count; i++) {
		const struct line *line = &lines[i];

		if (strcmp(line->work, work) != 0)
			continue;
		printf("%-*s %-9s", width, line->work, line->engine);
		for (int k = 0; k < FIGURES && line->error[0] == '\0'; k++) {
			char text[32];

			text_figure(text, sizeof text, k, line_figure(line, k));
			printf(" %8s", text);
		}
		if (line->error[0] != '\0')
			printf("  FAILED: %s", line->error);
		printf("\n");
	}
}

void report_table(void)
{
	struct utsname system;
	int width = 4;

	for (unsigned i = 0; i < line_count; i++)
		if ((int)strlen(lines[i].work) > width)
			width = (int)strlen(lines[i].work);
	if (on_screen)
		fprintf(stderr, "\r\033[K");
	uname(&system);
	printf("%s %s, %u cores; CPU and calls are the server's, for one operation\n",
		system.sysname, system.release, bench_cores());
	printf("%-*s %-9s %8s %8s %8s %8s %8s %8s %8s %8s %8s\n", width, "work", "engine", "ops/s",
		"CPU", "calls", "p50", "p99", "p99.9", "max", "bytes/s", "load");
	for (unsigned i = 0; i < line_count; i++) {
		bool seen = false;

		for (unsigned k = 0; k < i; k++)
			seen = seen || strcmp(lines[k].work, lines[i].work) == 0;
		if (!seen)
			table_work(lines[i].work, width);
	}
}

bool report_failed(void)
{
	for (unsigned i = 0; i < line_count; i++)
		if (lines[i].error[0] != '\0')
			return true;
	return false;
}

/* A string in JSON: our texts have no other bytes than these to be escaped. */
static void json_text(FILE *to, const char *text)
{
	fputc('"', to);
	for (; *text != '\0'; text++) {
		if (*text == '"' || *text == '\\')
			fputc('\\', to);
		if ((unsigned char)*text >= ' ')
			fputc(*text, to);
	}
	fputc('"', to);
}

static void json_line(FILE *to, const struct line *line)
{
	fprintf(to, "    {\"work\": ");
	json_text(to, line->work);
	fprintf(to, ", \"engine\": ");
	json_text(to, line->engine);
	if (line->error[0] != '\0') {
		fprintf(to, ", \"error\": ");
		json_text(to, line->error);
	}
	fprintf(to, ", \"rounds\": %u", line->rounds);
	for (int k = 0; k < FIGURES; k++) {
		double value = line_figure(line, k);

		if (!isnan(value))
			fprintf(to, ", \"%s\": %.6g", figure_names[k], value);
	}
	fprintf(to, "}");
}

int report_json(const char *path)
{
	FILE *to = strcmp(path, "-") == 0 ? stdout : fopen(path, "w");
	struct utsname system;
	int error;

	if (to == NULL) {
		perror(path);
		return -1;
	}
	uname(&system);
	fprintf(to, "{\n  \"system\": ");
	json_text(to, system.sysname);
	fprintf(to, ",\n  \"release\": ");
	json_text(to, system.release);
	fprintf(to, ",\n  \"cores\": %u,\n  \"results\": [\n", bench_cores());
	for (unsigned i = 0; i < line_count; i++) {
		json_line(to, &lines[i]);
		fprintf(to, i + 1 < line_count ? ",\n" : "\n");
	}
	fprintf(to, "  ]\n}\n");
	error = fflush(to) != 0 || ferror(to);
	if (to != stdout)
		error |= fclose(to) != 0;
	if (error)
		perror(path);
	return error ? -1 : 0;
}

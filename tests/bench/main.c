/* proa-bench: measures the engines that work on this machine. */
#include "bench.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <proa/proa.h>

#ifdef _WIN32
static const char *const known_engines[] = { "iocp", "poll", "select", NULL };
#else
static const char *const known_engines[] = { "io_uring", "epoll", "poll", "select", NULL };
#endif

struct benchmark {
	const char *name;
	bench_fn *run;
	unsigned connections, size; /* unless said otherwise */
	const char *help;
};
static const struct benchmark benchmarks[] = {
	{ "echo", bench_echo, 50, 64,
		"messages there and back (--connections, --size, --pipeline)" },
	{ "stream", bench_stream, 8, 1 << 20,
		"large replies to small requests (--connections, --size, --sendfile)" },
	{ "churn", bench_churn, 50, 64, "connect, one message, close (--connections, --size)" },
	{ "file", bench_file, 0, 0,
		"random reads of 4 KiB (--depth, --direct, --file-size, --directory)" },
	{ "timers", bench_timers, 0, 0, "arm, move, cancel, fire; how late (--timers)" },
	{ "post", bench_post, 0, 0, "from thread to thread: flood and ping-pong" },
};
#define BENCHMARKS (sizeof benchmarks / sizeof *benchmarks)

/* What `all` runs. Zero: the default. */
struct part {
	const char *name;
	unsigned connections, size, pipeline, depth;
	bool direct, sendfile, quick; /* quick: with --quick, too */
};
static const struct part parts[] = {
	{ .name = "echo", .quick = true },
	{ .name = "echo", .connections = 500 },
	{ .name = "echo", .pipeline = 16 },
	{ .name = "echo", .size = 16384, .quick = true },
	{ .name = "stream", .quick = true },
	{ .name = "stream", .sendfile = true },
	{ .name = "churn", .quick = true },
	{ .name = "file", .depth = 1 },
	{ .name = "file", .depth = 32, .quick = true },
	{ .name = "file", .depth = 32, .direct = true },
	{ .name = "timers", .quick = true },
	{ .name = "post", .quick = true },
};
#define PARTS (sizeof parts / sizeof *parts)

static int usage(FILE *to)
{
	fprintf(to,
		"usage: proa-bench [BENCHMARK] [options]\n\n"
		"  all      a small set of each of these (the default; --quick: a smaller one)\n");
	for (size_t i = 0; i < BENCHMARKS; i++)
		fprintf(to, "  %-8s %s\n", benchmarks[i].name, benchmarks[i].help);
	fprintf(to,
		"\n"
		"  --engine NAME       that one; may be repeated (all that work here)\n"
		"  --seconds S         how long each measurement lasts (1)\n"
		"  --rounds N          medians over so many, engines in turn (1)\n"
		"  --connections N     at once\n"
		"  --size BYTES        of a message or a reply\n"
		"  --pipeline N        messages in flight on a connection (1)\n"
		"  --depth N           reads in flight (32)\n"
		"  --timers N          how many (1000000)\n"
		"  --direct            reads past the page cache\n"
		"  --sendfile          replies from a file\n"
		"  --file-size MIB     of the file that is read (256)\n"
		"  --directory DIR     where it is made (TMPDIR, or /tmp)\n"
		"  --same-core         server and load on one core\n"
		"  --json FILE         the results, too, as JSON (\"-\": instead of the table)\n");
	return to == stdout ? 0 : 2;
}

enum {
	ENGINE = 256,
	SECONDS,
	DIRECTORY,
	JSON,
	HELP,
	NUMBERS = 512, /* and an index into `numbers` */
	FLAGS = 1024 /* and an index into `flags` */
};
static const struct number {
	size_t place; /* an unsigned in struct bench_options */
	unsigned most;
} numbers[] = {
	{ offsetof(struct bench_options, rounds), 64 },
	{ offsetof(struct bench_options, connections), 100000 },
	{ offsetof(struct bench_options, size), 1u << 30 },
	{ offsetof(struct bench_options, pipeline), 4096 },
	{ offsetof(struct bench_options, depth), 65536 },
	{ offsetof(struct bench_options, timers), 100000000 },
	{ offsetof(struct bench_options, file_megabytes), 1u << 20 },
};
static const size_t flags[] = {
	offsetof(struct bench_options, direct),
	offsetof(struct bench_options, sendfile),
	offsetof(struct bench_options, same_core),
	offsetof(struct bench_options, quick),
};
static const struct option long_options[] = {
	{ "engine", required_argument, NULL, ENGINE },
	{ "seconds", required_argument, NULL, SECONDS },
	{ "directory", required_argument, NULL, DIRECTORY },
	{ "json", required_argument, NULL, JSON },
	{ "help", no_argument, NULL, HELP },
	{ "rounds", required_argument, NULL, NUMBERS },
	{ "connections", required_argument, NULL, NUMBERS + 1 },
	{ "size", required_argument, NULL, NUMBERS + 2 },
	{ "pipeline", required_argument, NULL, NUMBERS + 3 },
	{ "depth", required_argument, NULL, NUMBERS + 4 },
	{ "timers", required_argument, NULL, NUMBERS + 5 },
	{ "file-size", required_argument, NULL, NUMBERS + 6 },
	{ "direct", no_argument, NULL, FLAGS },
	{ "sendfile", no_argument, NULL, FLAGS + 1 },
	{ "same-core", no_argument, NULL, FLAGS + 2 },
	{ "quick", no_argument, NULL, FLAGS + 3 },
	{ NULL, 0, NULL, 0 },
};

static void bad(const char *what, const char *value)
{
	fprintf(stderr, "proa-bench: %s: %s\n", what, value);
	exit(2);
}

static unsigned number_read(const char *text, unsigned most)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);

	if (*text < '0' || *text > '9' || *end != '\0' || value < 1 || value > most)
		bad("not a number that makes sense here", text);
	return (unsigned)value;
}

static void engine_add(struct bench_options *options, const char *name)
{
	size_t count = 0;

	while (options->engines[count] != NULL)
		count++;
	if (count + 1 == ENGINES_MOST)
		bad("too many engines", name);
	options->engines[count] = name;
}

static void take(struct bench_options *options, int which, const char *value)
{
	char *base = (char *)options;

	if (which >= FLAGS) {
		*(bool *)(void *)(base + flags[which - FLAGS]) = true;
	} else if (which >= NUMBERS) {
		const struct number *asked = &numbers[which - NUMBERS];

		*(unsigned *)(void *)(base + asked->place) = number_read(value, asked->most);
	} else if (which == ENGINE) {
		engine_add(options, value);
	} else if (which == SECONDS) {
		options->seconds = strtod(value, NULL);
		if (!(options->seconds > 0 && options->seconds <= 600))
			bad("not a time that makes sense here", value);
	} else if (which == DIRECTORY) {
		options->directory = value;
	} else if (which == JSON) {
		options->json = value;
	} else {
		exit(usage(which == HELP ? stdout : stderr));
	}
}

/* Those that can be opened here; the others are named with the reason. */
static void engines_find(struct bench_options *options)
{
	const char *wanted[ENGINES_MOST] = { NULL };
	const char *const *names = options->engines[0] != NULL ? wanted : known_engines;

	memcpy(wanted, options->engines, sizeof wanted);
	memset(options->engines, 0, sizeof options->engines);
	for (; *names != NULL; names++) {
		struct proa_port_options how = { .engine = *names };
		struct proa_port *port;

		if (proa_port_open(&how, &port) == 0) {
			proa_port_close(port);
			engine_add(options, *names);
		} else {
			fprintf(stderr, "%s does not work here: %s\n", *names,
				proa_port_open_why());
		}
	}
}

static const struct benchmark *benchmark_find(const char *name)
{
	for (size_t i = 0; i < BENCHMARKS; i++)
		if (strcmp(benchmarks[i].name, name) == 0)
			return &benchmarks[i];
	return NULL;
}

static void run(const struct benchmark *benchmark, struct bench_options options)
{
	if (options.connections == 0)
		options.connections = benchmark->connections;
	if (options.size == 0)
		options.size = benchmark->size;
	if (options.pipeline == 0)
		options.pipeline = 1;
	if (options.depth == 0)
		options.depth = 32;
	for (int i = 0; options.engines[i] != NULL; i++)
		benchmark->run(&options, options.engines[i]);
}

static void run_part(const struct part *part, struct bench_options options)
{
	options.connections = part->connections;
	options.size = part->size;
	options.pipeline = part->pipeline;
	options.depth = part->depth;
	options.direct = part->direct;
	options.sendfile = part->sendfile;
	run(benchmark_find(part->name), options);
}

/* One round of `all`; or, with nothing to run it on, how many runs that is. */
static unsigned all(const struct bench_options *options, bool count_only)
{
	unsigned runs = 0;

	for (size_t i = 0; i < PARTS; i++) {
		if (options->quick && !parts[i].quick)
			continue;
		runs += strcmp(parts[i].name, "post") == 0 ? 2 : 1;
		if (!count_only)
			run_part(&parts[i], *options);
	}
	return runs;
}

static void defaults(struct bench_options *options)
{
	const char *directory = getenv("TMPDIR");

	if (options->rounds == 0)
		options->rounds = 1;
	if (options->seconds == 0)
		options->seconds = options->quick ? 0.3 : 1;
	if (options->timers == 0)
		options->timers = options->quick ? 200000 : 1000000;
	if (options->file_megabytes == 0)
		options->file_megabytes = options->quick ? 64 : 256;
	if (options->directory == NULL)
		options->directory = directory != NULL ? directory : "/tmp";
}

int main(int argc, char **argv)
{
	struct bench_options options = { .rounds = 0 };
	const struct benchmark *one = NULL; /* all */
	unsigned engines = 0, runs;
	int which;

	while ((which = getopt_long(argc, argv, "", long_options, NULL)) != -1)
		take(&options, which, optarg);
	if (optind + 1 < argc)
		return usage(stderr);
	if (optind < argc && strcmp(argv[optind], "all") != 0 &&
		(one = benchmark_find(argv[optind])) == NULL)
		return usage(stderr);
	defaults(&options);
	engines_find(&options);
	while (options.engines[engines] != NULL)
		engines++;
	if (engines == 0)
		return 1;
	runs = one == NULL ? all(&options, true) : one->run == bench_post ? 2 : 1;
	report_expect(runs * engines * options.rounds);
	for (unsigned i = 0; i < options.rounds; i++) {
		if (one != NULL)
			run(one, options);
		else
			all(&options, false);
	}
	if (options.json == NULL || strcmp(options.json, "-") != 0)
		report_table();
	if (options.json != NULL && report_json(options.json) != 0)
		return 1;
	return report_failed() ? 1 : 0;
}

/* file: random reads of 4 KiB, --depth in flight, from a file that is made for
 * it; with --direct past the page cache. */
#include "bench.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "peers/file_reader.h"

#define PIECE_BLOCKS 256u

struct source {
	int cached, direct; /* two descriptors of it; direct is -1 if the system refuses */
	uint64_t size;
	char error[ERROR_TEXT];
};

/* Every block begins with its own offset; the rest can't be compressed. */
static bool source_fill(struct source *source)
{
	static unsigned char piece[PIECE_BLOCKS * FILE_BLOCK];
	uint64_t seed = 88172645463325252u, words[FILE_BLOCK / 8];

	for (size_t i = 0; i < FILE_BLOCK / 8; i++)
		words[i] = measure_random(&seed);
	for (uint64_t at = 0; at < source->size; at += sizeof piece) {
		for (size_t i = 0; i < PIECE_BLOCKS; i++) {
			words[0] = at + i * FILE_BLOCK;
			memcpy(piece + i * FILE_BLOCK, words, FILE_BLOCK);
		}
		if (pwrite(source->cached, piece, sizeof piece, (off_t)at) != (ssize_t)sizeof piece)
			return false;
	}
	return fsync(source->cached) == 0;
}

/* Made at first use and already without a name: it goes when we do. */
static struct source *source_get(const struct bench_options *options)
{
	static struct source source = { .cached = -1, .direct = -1 };
	char path[512];

	if (source.cached >= 0 || source.error[0] != '\0')
		return &source;
	source.size = (uint64_t)options->file_megabytes << 20;
	snprintf(path, sizeof path, "%s/proa-bench-XXXXXX", options->directory);
	source.cached = mkostemp(path, O_CLOEXEC);
	if (source.cached >= 0) {
		source.direct = open(path, O_RDONLY | O_CLOEXEC | O_DIRECT);
		unlink(path);
	}
	if (source.cached < 0 || !source_fill(&source))
		snprintf(source.error, sizeof source.error, "no file of %u MiB in %s: %s",
			options->file_megabytes, options->directory, strerror(errno));
	return &source;
}

static void file_measure(const struct bench_options *options, const char *engine,
	struct bench_result *result, void *argument)
{
	static struct file_reader reader;
	struct proa_port_options how = { .engine = engine };
	const struct source *source = argument;
	struct proa_port_stats before, after;
	struct proa_port *port;
	int64_t cpu, wall;
	int error;

	if (proa_port_open(&how, &port) < 0) {
		bench_fail(result, "%s", proa_port_open_why());
		return;
	}
	proa_port_stats(port, &before);
	cpu = measure_cpu();
	wall = measure_now();
	error = file_read(&reader, port, options->direct ? source->direct : source->cached,
		source->size, options->depth, (int64_t)(options->seconds * 1e9));
	cpu = measure_cpu() - cpu;
	wall = measure_now() - wall;
	proa_port_stats(port, &after);
	if (error < 0) {
		bench_fail(result, "read: %s", proa_error_text(error));
	} else if (reader.operations > 0) {
		double count = (double)reader.operations;

		result->rate = count * 1e9 / (double)wall;
		result->bytes = result->rate * FILE_BLOCK;
		result->cpu = (double)cpu / count;
		result->calls = (double)(after.system_calls - before.system_calls) / count;
		bench_latency(result, &reader.latency);
	}
	proa_port_close(port);
}

void bench_file(const struct bench_options *options, const char *engine)
{
	struct source *source;
	struct bench_result result;
	char work[WORK_TEXT];

	snprintf(work, sizeof work, "file 4 KiB reads%s, %u in flight",
		options->direct ? ", direct" : "", options->depth);
	report_running(work, engine);
	bench_clear(&result);
	source = source_get(options);
	if (source->error[0] != '\0')
		bench_fail(&result, "%s", source->error);
	else if (options->direct && source->direct < 0) {
		fprintf(stderr, "%s takes no direct reads: left out\n", options->directory);
		return;
	} else
		bench_apart(file_measure, options, engine, &result, 1, source);
	report_add(work, engine, &result);
}

/* Clocks and a histogram of latencies: what every measuring program here needs.
 * Header only, so that each program in peers/ is one source file. */
#ifndef PROA_BENCH_MEASURE_H
#define PROA_BENCH_MEASURE_H

#include <stdint.h>
#include <string.h>
#include <time.h>

static inline int64_t measure_clock(clockid_t clock)
{
	struct timespec t = { 0, 0 };

	clock_gettime(clock, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Wall time that never jumps, and the CPU time of this process: all its
 * threads, the kernel's work for them included. Both in ns. */
static inline int64_t measure_now(void)
{
	return measure_clock(CLOCK_MONOTONIC);
}
static inline int64_t measure_cpu(void)
{
	return measure_clock(CLOCK_PROCESS_CPUTIME_ID);
}

/* xorshift64: fast, and the same sequence in every run. */
static inline uint64_t measure_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* Counts by size: 64 linear steps in each power of two, so that a value read
 * back is wrong by less than 1.6 %. */
#define HISTOGRAM_STEPS   64
#define HISTOGRAM_OCTAVES 44

struct histogram {
	uint64_t total, max;
	uint64_t counts[HISTOGRAM_STEPS * HISTOGRAM_OCTAVES];
};

static inline void histogram_clear(struct histogram *histogram)
{
	memset(histogram, 0, sizeof *histogram);
}

static inline void histogram_add(struct histogram *histogram, int64_t ns)
{
	uint64_t value = ns > 0 ? (uint64_t)ns : 0;
	size_t place = (size_t)value;

	if (value >= HISTOGRAM_STEPS) {
		unsigned shift = 57u - (unsigned)__builtin_clzll(value);

		place = shift * HISTOGRAM_STEPS + (size_t)(value >> shift);
	}
	if (place >= HISTOGRAM_STEPS * HISTOGRAM_OCTAVES)
		place = HISTOGRAM_STEPS * HISTOGRAM_OCTAVES - 1;
	histogram->counts[place]++;
	histogram->total++;
	if (value > histogram->max)
		histogram->max = value;
}

/* The value, in ns, that `share` (0 to 1) of all are at or below. */
static inline double histogram_share(const struct histogram *histogram, double share)
{
	uint64_t wanted = (uint64_t)(share * (double)histogram->total), seen = 0;

	for (size_t i = 0; i < HISTOGRAM_STEPS * HISTOGRAM_OCTAVES; i++) {
		seen += histogram->counts[i];
		if (seen > wanted) {
			size_t shift = i / HISTOGRAM_STEPS;

			if (shift < 2)
				return (double)i;
			return (double)((uint64_t)(HISTOGRAM_STEPS + i % HISTOGRAM_STEPS)
					<< (shift - 1));
		}
	}
	return (double)histogram->max;
}

#endif

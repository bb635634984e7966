/* file_proa FILE DEPTH SECONDS direct|buffered: random reads of 4 KiB, for
 * comparisons. Each block of FILE begins with its own offset, eight bytes in
 * the machine's order. */
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "file_reader.h"

int main(int argc, char **argv)
{
	static struct file_reader reader;
	struct proa_port *port;
	struct stat about;
	int64_t cpu, wall;
	int file;

	if (argc < 5) {
		fprintf(stderr, "usage: %s FILE DEPTH SECONDS direct|buffered\n", argv[0]);
		return 2;
	}
	port = peer_open();
	file = open(argv[1], O_RDONLY | O_CLOEXEC | (argv[4][0] == 'd' ? O_DIRECT : 0));
	if (file < 0 || fstat(file, &about) != 0) {
		perror(argv[1]);
		return 1;
	}
	cpu = measure_cpu();
	wall = measure_now();
	peer_check("read", file_read(&reader, port, file, (uint64_t)about.st_size,
				   (unsigned)strtoul(argv[2], NULL, 10),
				   (int64_t)(strtod(argv[3], NULL) * 1e9)));
	cpu = measure_cpu() - cpu;
	wall = measure_now() - wall;
	printf("who=%s qd=%s iops=%.0f cpu_us_per_op=%.3f p50_us=%.1f p99_us=%.1f\n",
		proa_engine_name(port), argv[2], (double)reader.operations * 1e9 / (double)wall,
		(double)cpu / 1e3 / (double)reader.operations,
		histogram_share(&reader.latency, 0.5) / 1e3,
		histogram_share(&reader.latency, 0.99) / 1e3);
	proa_port_close(port);
	return 0;
}

/* Prints the engine that a port gets, and whether the program runs with more rights than
 * whoever started it: see run.sh. */
#include <stdio.h>
#include <unistd.h>

#include <proa/proa.h>

int main(void)
{
	struct proa_port *port;

	if (proa_port_open(NULL, &port) < 0) {
		printf("%s\n", proa_port_open_why());
		return 1;
	}
	printf("%s %s\n", proa_engine_name(port), geteuid() != getuid() ? "set-uid" : "plain");
	proa_port_close(port);
	return 0;
}

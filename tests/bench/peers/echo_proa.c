/* echo_proa PORT [SIZE]: the echo server by itself, for comparisons with servers
 * over other libraries. SIZE is about how long a message is. */
#include "echo_server.h"

int main(int argc, char **argv)
{
	struct echo_server server;
	struct proa_port *port;
	proa_handle listener;

	if (argc < 2) {
		fprintf(stderr, "usage: %s PORT [SIZE]\n", argv[0]);
		return 2;
	}
	peer_descriptors();
	port = peer_open();
	peer_check("listen", peer_listen(port, (unsigned)strtoul(argv[1], NULL, 10), &listener));
	peer_check("pool", echo_serve(&server, port, listener,
				   argc > 2 ? (size_t)strtoull(argv[2], NULL, 10) : 64));
	proa_run(port);
	proa_port_close(port);
	proa_pool_close(server.pool);
	return 0;
}

/* bulk_proa PORT [SIZE]: replies of SIZE bytes (1 MiB) to requests of 16, for
 * comparisons. With BULK_SENDFILE in the environment, from a file in memory. */
#include "bulk_server.h"

int main(int argc, char **argv)
{
	struct bulk_server server;
	struct proa_port *port;
	proa_handle listener;

	if (argc < 2) {
		fprintf(stderr, "usage: %s PORT [SIZE]\n", argv[0]);
		return 2;
	}
	peer_descriptors();
	port = peer_open();
	peer_check("listen", peer_listen(port, (unsigned)strtoul(argv[1], NULL, 10), &listener));
	peer_check("pool", bulk_serve(&server, port, listener,
				   argc > 2 ? (size_t)strtoull(argv[2], NULL, 10) : 1u << 20,
				   getenv("BULK_SENDFILE") != NULL));
	proa_run(port);
	proa_port_close(port);
	proa_pool_close(server.pool);
	return 0;
}

/* What j_tls.c offers: one TLS connection that echoes. */
#ifndef J_TLS_H
#define J_TLS_H

#include <openssl/ssl.h>
#include <proa/proa.h>

/* Takes the accepted socket over; it is closed when the peer ends or fails. */
void tls_start(struct proa_port *port, struct proa_pool *pool, SSL_CTX *context, proa_handle sock);

#endif

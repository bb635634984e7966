/* A TLS connection over memory BIOs, server side, that echoes. The
 * certificate and the listener are j_tls_main.c's. */
#include <proa/proa.h>
#include <openssl/ssl.h>
#include <stdlib.h>

#include "j_tls.h"

struct tls {
	struct proa_op receiving, sending, closing;
	proa_handle sock;
	SSL *ssl;
	BIO *in, *out;
	struct proa_pool *pool;
	char cipher[16384];
};

static void on_received(struct proa_op *op, const struct proa_completion *c);
static void on_sent(struct proa_op *op, const struct proa_completion *c);

static void on_closed(struct proa_op *op, const struct proa_completion *c)
{
	struct tls *tls = op->data;

	(void)c;
	SSL_free(tls->ssl);
	free(tls);
}

static void hang_up(struct tls *tls)
{
	if (proa_op_pending(&tls->closing))
		return;
	proa_prep_close(&tls->closing, tls->sock, PROA_FLUSH); /* alerts go out */
	proa_op_timeout(&tls->closing, 5 * PROA_SECOND);
	proa_submit(&tls->closing, on_closed);
}

static void flush(struct tls *tls)
{
	int n;

	if (proa_op_pending(&tls->closing) || proa_op_pending(&tls->sending))
		return;
	n = BIO_read(tls->out, tls->cipher, sizeof tls->cipher);
	if (n > 0) {
		proa_prep_send(&tls->sending, tls->sock, tls->cipher, (size_t)n, 0);
		proa_op_timeout(&tls->sending, 30 * PROA_SECOND);
		proa_submit(&tls->sending, on_sent);
	} else if (!proa_op_pending(&tls->receiving)) { /* read on when all is out */
		proa_prep_recv_lent(&tls->receiving, tls->sock, tls->pool, 0);
		proa_submit(&tls->receiving, on_received);
	}
}

static void on_sent(struct proa_op *op, const struct proa_completion *c)
{
	if (c->result < 0)
		hang_up(op->data);
	else
		flush(op->data);
}

static void on_received(struct proa_op *op, const struct proa_completion *c)
{
	struct tls *tls = op->data;
	struct proa_buffer *buffer = proa_lent(c);
	char plain[16384];
	int n, error;

	if (c->result <= 0) { /* 0 without close_notify: cut short */
		hang_up(tls);
		return;
	}
	BIO_write(tls->in, buffer->data, (int)buffer->length);
	proa_give_back(buffer);
	while ((n = SSL_read(tls->ssl, plain, sizeof plain)) > 0) /* shakes hands too */
		SSL_write(tls->ssl, plain, n);
	error = SSL_get_error(tls->ssl, n);
	if (error == SSL_ERROR_ZERO_RETURN)
		SSL_shutdown(tls->ssl);
	flush(tls);
	if (error != SSL_ERROR_WANT_READ)
		hang_up(tls);
}

void tls_start(struct proa_port *port, struct proa_pool *pool, SSL_CTX *context, proa_handle sock)
{
	struct tls *tls = calloc(1, sizeof *tls);

	if (tls == NULL || (tls->ssl = SSL_new(context)) == NULL) {
		free(tls);
		proa_discard(port, sock);
		return;
	}
	proa_op_init(&tls->receiving, port, tls);
	proa_op_init(&tls->sending, port, tls);
	proa_op_init(&tls->closing, port, tls);
	tls->sock = sock;
	tls->pool = pool;
	tls->in = BIO_new(BIO_s_mem());
	tls->out = BIO_new(BIO_s_mem());
	SSL_set_bio(tls->ssl, tls->in, tls->out);
	SSL_set_accept_state(tls->ssl);
	flush(tls); /* nothing to send yet: receives */
}

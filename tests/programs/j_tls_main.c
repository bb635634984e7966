/* The server around j_tls.c: a certificate of its own, made at start, a
 * listener, and an end by SIGTERM. Takes the address to listen at. */
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <proa/proa.h>
#include <signal.h>
#include <stdio.h>

#include "j_tls.h"

static struct proa_pool *pool;

/* Self-signed, good for an hour: nothing but this run trusts it. */
static X509 *certificate_make(EVP_PKEY *key)
{
	X509 *certificate = X509_new();
	X509_NAME *name;

	if (certificate == NULL)
		return NULL;
	name = X509_get_subject_name(certificate);
	if (X509_set_version(certificate, 2) && /* 2 means version 3 */
		ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1) &&
		X509_gmtime_adj(X509_getm_notBefore(certificate), -60) != NULL &&
		X509_gmtime_adj(X509_getm_notAfter(certificate), 3600) != NULL &&
		X509_NAME_add_entry_by_txt(
			name, "CN", MBSTRING_ASC, (const unsigned char *)"localhost", -1, -1, 0) &&
		X509_set_issuer_name(certificate, name) && X509_set_pubkey(certificate, key) &&
		X509_sign(certificate, key, EVP_sha256()) > 0)
		return certificate;
	X509_free(certificate);
	return NULL;
}

static SSL_CTX *context_make(void)
{
	SSL_CTX *context = SSL_CTX_new(TLS_server_method());
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *certificate = key == NULL ? NULL : certificate_make(key);
	int good = context != NULL && certificate != NULL &&
		   SSL_CTX_use_certificate(context, certificate) == 1 &&
		   SSL_CTX_use_PrivateKey(context, key) == 1;

	X509_free(certificate);
	EVP_PKEY_free(key);
	if (good)
		return context;
	SSL_CTX_free(context);
	return NULL;
}

static void on_accepted(struct proa_op *op, const struct proa_completion *c)
{
	if (c->result >= 0)
		tls_start(op->port, pool, op->data, c->result);
}

static void on_signal(struct proa_op *op, const struct proa_completion *c)
{
	if (c->result >= 0)
		proa_stop(op->port);
}

int main(int argc, char **argv)
{
	struct proa_op accepting, terminating;
	SSL_CTX *context = context_make();
	struct proa_port *port;
	proa_handle listener;

	if (argc != 2 || context == NULL || proa_port_open(NULL, &port) < 0)
		return 1;
	if (proa_pool_open(port, NULL, &pool) < 0 ||
		proa_listen(port, argv[1], NULL, &listener) < 0)
		return 1;
	proa_op_init(&accepting, port, context);
	proa_prep_accept_multi(&accepting, listener, 0);
	proa_submit(&accepting, on_accepted);
	proa_op_init(&terminating, port, NULL);
	proa_prep_signal(&terminating, SIGTERM);
	proa_op_background(&terminating);
	proa_submit(&terminating, on_signal);
	proa_run(port);
	proa_port_close(port); /* hangs up what is left: pool and context go after it */
	proa_pool_close(pool);
	SSL_CTX_free(context);
	return 0;
}

/* Socket addresses as text and back, and whose address a socket has.
 *
 * The text is canonical: numbers alone (RFC 5952 for IPv6, RFC 4007 for its
 * zones), a port without leading zeros. */
#ifdef _WIN32
#	include <winsock2.h>
#	include <ws2tcpip.h>
#	include <iphlpapi.h>
#	include <netioapi.h>
#	include <afunix.h>
#else
#	include <arpa/inet.h>
#	include <errno.h>
#	include <net/if.h>
#	include <netinet/in.h>
#	include <sys/socket.h>
#	include <sys/un.h>
#endif
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include <proa/proa.h>

#ifdef _WIN32
#	define SOCKET_OF(handle) ((SOCKET)(handle))
#else
#	define SOCKET_OF(handle) (handle)
#endif

#define UNIX_PREFIX        "unix:"
#define UNIX_PREFIX_LENGTH (sizeof UNIX_PREFIX - 1)
#define UNIX_PATH_OFFSET   offsetof(struct sockaddr_un, sun_path)
#define UNIX_PATH_ROOM     sizeof(((struct sockaddr_un *)0)->sun_path)

_Static_assert(sizeof(struct sockaddr_un) <= sizeof(struct sockaddr_storage), "any path fits");
_Static_assert(UNIX_PREFIX_LENGTH + 2 + UNIX_PATH_ROOM + 1 <= PROA_ADDRESS_TEXT, "its text, too");

/* Digits alone, without leading zeros, `most` at most. */
static bool parse_number(const char *text, uint64_t most, uint64_t *out)
{
	uint64_t value = 0;

	if (*text == '\0' || (text[0] == '0' && text[1] != '\0'))
		return false;
	for (; *text != '\0'; text++) {
		if (*text < '0' || *text > '9')
			return false;
		value = value * 10 + (uint64_t)(*text - '0');
		if (value > most)
			return false;
	}
	*out = value;
	return true;
}

static int parse_unix(struct proa_address *out, const char *path)
{
	struct sockaddr_un *to = (struct sockaddr_un *)&out->to.storage;
	size_t length = strlen(path);

	/* One byte is for the NUL: Linux does without, other systems may not. */
	if (length == 0 || length >= UNIX_PATH_ROOM)
		return PROA_EINVAL;
	to->sun_family = AF_UNIX;
	memcpy(to->sun_path, path, length);
	out->length = (uint32_t)(UNIX_PATH_OFFSET + length + 1);
#ifdef __linux__
	/* unix(7): an abstract name begins with a NUL, and the address's length
	 * says where it ends. A file named @name is unix:./@name. */
	if (path[0] == '@') {
		if (length == 1)
			return PROA_EINVAL;
		to->sun_path[0] = '\0';
		out->length--;
	}
#endif
	return 0;
}

/* An interface's name goes before a number: names may consist of digits. */
static bool parse_zone(const char *zone, uint32_t *out)
{
	uint64_t number;

	*out = if_nametoindex(zone);
	if (*out != 0)
		return true;
	if (!parse_number(zone, UINT32_MAX, &number) || number == 0)
		return false;
	*out = (uint32_t)number;
	return true;
}

static int parse_ipv6(struct proa_address *out, char *host, uint16_t port)
{
	struct sockaddr_in6 *to = (struct sockaddr_in6 *)&out->to.storage;
	char *zone = strchr(host, '%');
	uint32_t number = 0;

	if (zone != NULL) {
		*zone++ = '\0';
		if (!parse_zone(zone, &number))
			return PROA_EINVAL;
	}
	to->sin6_scope_id = number;
	to->sin6_family = AF_INET6;
	to->sin6_port = port;
	out->length = sizeof *to;
	return inet_pton(AF_INET6, host, &to->sin6_addr) == 1 ? 0 : PROA_EINVAL;
}

static int parse_ipv4(struct proa_address *out, const char *host, uint16_t port)
{
	struct sockaddr_in *to = (struct sockaddr_in *)&out->to.storage;

	to->sin_family = AF_INET;
	to->sin_port = port;
	out->length = sizeof *to;
	return inet_pton(AF_INET, host, &to->sin_addr) == 1 ? 0 : PROA_EINVAL;
}

static int parse_internet(struct proa_address *out, const char *text)
{
	char host[INET6_ADDRSTRLEN + IF_NAMESIZE];
	const char *colon = strrchr(text, ':');
	bool bracket = text[0] == '[';
	const char *end;
	uint64_t port;
	size_t length;

	if (colon == NULL || !parse_number(colon + 1, UINT16_MAX, &port))
		return PROA_EINVAL;
	end = colon;
	if (bracket) {
		if (end[-1] != ']') /* there is the opening one before the colon */
			return PROA_EINVAL;
		end--;
		text++;
	}
	length = (size_t)(end - text);
	if (length >= sizeof host)
		return PROA_EINVAL;
	memcpy(host, text, length);
	host[length] = '\0';
	return bracket ? parse_ipv6(out, host, htons((uint16_t)port))
		       : parse_ipv4(out, host, htons((uint16_t)port));
}

int proa_address_parse(struct proa_address *out, const char *text)
{
	struct proa_address address;
	int code;

	memset(&address, 0, sizeof address);
	if (strncmp(text, UNIX_PREFIX, UNIX_PREFIX_LENGTH) == 0)
		code = parse_unix(&address, text + UNIX_PREFIX_LENGTH);
	else
		code = parse_internet(&address, text);
	if (code == 0)
		*out = address;
	return code;
}

/* Abstract names may hold NULs, which text can't: those become '@', as in
 * /proc/net/unix. All else parses back to the same address. */
static size_t text_unix(const struct proa_address *address, char text[PROA_ADDRESS_TEXT])
{
	const struct sockaddr_un *to = (const struct sockaddr_un *)&address->to.storage;
	size_t length = address->length > UNIX_PATH_OFFSET ? address->length - UNIX_PATH_OFFSET : 0;
	char *at = text + UNIX_PREFIX_LENGTH;
	bool abstract = false;

	/* Linux counts a NUL that lies behind a full sun_path: unix(7), BUGS. */
	if (length > UNIX_PATH_ROOM)
		length = UNIX_PATH_ROOM;
#ifdef __linux__
	abstract = length > 0 && to->sun_path[0] == '\0';
#endif
	if (!abstract)
		length = strnlen(to->sun_path, length);
	memcpy(text, UNIX_PREFIX, UNIX_PREFIX_LENGTH);
	if (!abstract && length > 0 && to->sun_path[0] == '@') {
		*at++ = '.';
		*at++ = '/';
	}
	for (size_t i = 0; i < length; i++)
		*at++ = to->sun_path[i] != '\0' ? to->sun_path[i] : '@';
	*at = '\0';
	return (size_t)(at - text);
}

static size_t text_ipv6(const struct sockaddr_in6 *to, char text[PROA_ADDRESS_TEXT])
{
	char host[INET6_ADDRSTRLEN], zone[IF_NAMESIZE + 1] = "";

	inet_ntop(AF_INET6, &to->sin6_addr, host, sizeof host);
	if (to->sin6_scope_id != 0) {
		zone[0] = '%';
#ifdef _WIN32 /* where zones are written as numbers */
		snprintf(zone + 1, IF_NAMESIZE, "%u", (unsigned)to->sin6_scope_id);
#else
		if (if_indextoname(to->sin6_scope_id, zone + 1) == NULL)
			snprintf(zone + 1, IF_NAMESIZE, "%u", (unsigned)to->sin6_scope_id);
#endif
	}
	return (size_t)snprintf(
		text, PROA_ADDRESS_TEXT, "[%s%s]:%u", host, zone, (unsigned)ntohs(to->sin6_port));
}

static size_t text_ipv4(const struct sockaddr_in *to, char text[PROA_ADDRESS_TEXT])
{
	char host[INET_ADDRSTRLEN];

	inet_ntop(AF_INET, &to->sin_addr, host, sizeof host);
	return (size_t)snprintf(
		text, PROA_ADDRESS_TEXT, "%s:%u", host, (unsigned)ntohs(to->sin_port));
}

int proa_address_text(const struct proa_address *address, char *text, size_t size)
{
	const struct sockaddr_storage *to = &address->to.storage;
	char all[PROA_ADDRESS_TEXT];
	size_t length;

	if (address->length < UNIX_PATH_OFFSET)
		return PROA_EINVAL;
	if (to->ss_family == AF_UNIX)
		length = text_unix(address, all);
	else if (to->ss_family == AF_INET6 && address->length >= sizeof(struct sockaddr_in6))
		length = text_ipv6((const struct sockaddr_in6 *)to, all);
	else if (to->ss_family == AF_INET && address->length >= sizeof(struct sockaddr_in))
		length = text_ipv4((const struct sockaddr_in *)to, all);
	else
		return PROA_EINVAL;
	if (length >= size)
		return PROA_EINVAL;
	memcpy(text, all, length + 1);
	return (int)length;
}

static int address_error(proa_handle handle)
{
#ifdef _WIN32
	int code = WSAGetLastError();
	DWORD flags;

	/* Winsock says so of what is not open, too. Negative numbers are pseudo-handles. */
	if (code == WSAENOTSOCK &&
		(handle < 0 || !GetHandleInformation((HANDLE)(intptr_t)handle, &flags)))
		return PROA_EBADF;
	return proa_error_from_system((unsigned long)code);
#else
	(void)handle;
	return proa_error_from_system((unsigned long)errno);
#endif
}

static int ask_address(proa_handle handle, bool peer, struct proa_address *out)
{
	struct proa_address address;
	socklen_t length = sizeof address.to.storage;
	int code;

	memset(&address, 0, sizeof address);
	code = peer ? getpeername(SOCKET_OF(handle), &address.to.any, &length)
		    : getsockname(SOCKET_OF(handle), &address.to.any, &length);
	if (code < 0)
		return address_error(handle);
	if ((size_t)length > sizeof address.to.storage)
		length = sizeof address.to.storage;
	address.length = (uint32_t)length;
	*out = address;
	return 0;
}

int proa_peer_address(proa_handle handle, struct proa_address *out)
{
	return ask_address(handle, true, out);
}

int proa_local_address(proa_handle handle, struct proa_address *out)
{
	return ask_address(handle, false, out);
}

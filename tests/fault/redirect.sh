#!/bin/sh
# The library's object code, calling faulty_recv where it called recv, and so on for
# each faulty_ function there is. Nothing is compiled anew: what is tested is the
# code that is shipped. A call that is neither redirected nor known to be harmless is
# an error, so that none is forgotten.
#
# usage: redirect.sh OUT LIBRARY WRAPPERS...
set -eu
out=$1 library=$2
shift 2
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

nm "$@" | sed -n 's/^[0-9a-f]* T faulty_\([a-z0-9_]*\)$/\1/p' | LC_ALL=C sort -u >"$scratch/faulty"
ld -r --whole-archive "$library" -o "$scratch/all.o"
# Files of 64 bits go by names with 64 in them.
nm -u "$scratch/all.o" | awk '{ plain = $2; sub(/64/, "", plain); sub(/v2$/, "2", plain); print plain, $2 }' |
	LC_ALL=C sort >"$scratch/called"
LC_ALL=C join "$scratch/called" "$scratch/faulty" | awk '{ print $2, "faulty_" $1 }' >"$scratch/names"
objcopy --redefine-syms="$scratch/names" "$scratch/all.o" "$out"

# Those that can't fail, or whose failing nobody looks at: pure functions, locks, clocks,
# masks and naps; what frees; what is asked of addresses and names; what a ring that is
# forbidden is asked for. What begins with __ is the compiler's and libc's own, by name: a
# checked call of libc's (__recv_chk) is one that can fail.
harmless='_exit abort strtoul bcmp
	mem(chr|cmp|cpy|move|set) str(chr|cmp|cspn|len|ncmp|nlen|rchr|spn|tol|toul)
	s?n?printf fprintf vsnprintf stderr environ getenv secure_getenv
	clock_gettime gettimeofday nanosleep sysconf htons htonl ntohs ntohl gnu_dev_makedev
	if_indextoname if_nametoindex inet_ntop inet_pton
	io_uring_register io_uring_register_sync_cancel
	(open|read|close)dir(64)?
	pthread_(attr_destroy|attr_setdetachstate|attr_setstacksize) pthread_cond_(broadcast|destroy|signal|timedwait|wait)
	pthread_(equal|join|once|self|sigmask) pthread_mutex_(destroy|lock|trylock|unlock)
	sig(addset|emptyset|fillset|procmask) timerfd_settime getuid geteuid getgid getegid
	_GLOBAL_OFFSET_TABLE_ __assert_fail __cmsg_nxthdr __errno_location ___?tls_get_addr __stack_chk_fail
	__isoc(99|23)_(sscanf|strtol|strtoul)
	__(memcpy|memmove|memset|snprintf|vsnprintf|fprintf|strcpy|strcat|strncpy|fdelt)_chk
	__(gcov|asan|tsan|ubsan|sanitizer)_.* __start_fault_sites __stop_fault_sites'
nm -u "$out" | awk '{ print $2 }' | grep -v '^faulty_' >"$scratch/left" || true
# shellcheck disable=SC2086 # words are meant
printf '%s\n' $harmless | grep -vxE -f - "$scratch/left" >"$scratch/forgotten" || true
if [ -s "$scratch/forgotten" ]; then
	echo "redirect.sh: calls of the library's that can't be made to fail:" >&2
	cat "$scratch/forgotten" >&2
	rm -f "$out"
	exit 1
fi

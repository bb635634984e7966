#!/bin/sh
# Installs the library into a scratch prefix and builds programs against it, as a
# user would: C and C++, shared and static, the README's first program, and what others
# are compared with.
#
# usage: run.sh [SOURCE]
set -u
source=$(cd "${1:-$(dirname "$0")/../..}" && pwd) || exit 2
here=$source/tests/consumer
scratch=$(mktemp -d) || exit 2
trap 'rm -rf "$scratch"' EXIT
trap 'exit 1' HUP INT TERM
passed=0 failed=0 skipped=0

check() { # check NAME COMMAND...
	name=$1
	shift
	if "$@" >"$scratch/log" 2>&1; then
		passed=$((passed + 1))
		echo "ok      $name"
	else
		failed=$((failed + 1))
		echo "FAILED  $name: $*"
		cat "$scratch/log"
	fi
}

skip() {
	skipped=$((skipped + 1))
	echo "SKIPPED $1: $2"
}

install_library() {
	meson setup "$scratch/build" "$source" --prefix "$scratch/prefix" --libdir lib \
		--buildtype debugoptimized -Dtests=false -Dbench=false -Dexamples=false &&
		ninja -C "$scratch/build" && meson install -C "$scratch/build"
}

flags() { # flags [--static]
	pkg-config "$@" --cflags --libs proa
}

export PKG_CONFIG_PATH="$scratch/prefix/lib/pkgconfig"
warnings='-Wall -Wextra -Wshadow -Werror'

c_shared() {
	# shellcheck disable=SC2046,SC2086 # words are meant
	${CC:-cc} -std=c11 $warnings -o "$scratch/shared" "$here/consumer.c" $(flags) &&
		LD_LIBRARY_PATH=$scratch/prefix/lib "$scratch/shared" | grep '^delivered by '
}

c_static() {
	# glibc warns that static programs need its shared parts for look-ups.
	# shellcheck disable=SC2046,SC2086
	${CC:-cc} -static -std=c11 $warnings -o "$scratch/static" "$here/consumer.c" \
		$(flags --static) && "$scratch/static" | grep '^delivered by '
}

cxx_shared() {
	# shellcheck disable=SC2046,SC2086
	${CXX:-c++} -std=c++11 $warnings -Wpedantic -o "$scratch/cxx" "$here/consumer.cpp" $(flags) &&
		LD_LIBRARY_PATH=$scratch/prefix/lib "$scratch/cxx" | grep '^delivered in C++'
}

# Each header can be included first, and alone.
headers_alone() {
	for header in "$scratch"/prefix/include/proa/*.h; do
		echo "#include <proa/${header##*/}>" >"$scratch/header.c"
		# shellcheck disable=SC2046,SC2086
		${CC:-cc} -std=c11 -pedantic $warnings -fsyntax-only \
			$(pkg-config --cflags proa) "$scratch/header.c" || return 1
	done
}

exports_its_own() {
	nm -D --defined-only "$scratch/prefix/lib/libproa.so" | awk '
		$2 == "A" { next } # the name of the symbol version
		{ sub(/@.*/, "", $3); n++ }
		$3 !~ /^proa_/ { print "exports " $3; bad = 1 }
		END { exit bad || n == 0 }'
}

readme_program() {
	awk '/^```c$/ { on = 1; next } /^```/ && on { exit } on' "$source/README.md" \
		>"$scratch/readme.c"
	[ -s "$scratch/readme.c" ] || return 1
	# shellcheck disable=SC2046,SC2086
	${CC:-cc} -Wall -Wextra -o "$scratch/readme" "$scratch/readme.c" $(flags)
}

# By the line that tests/bench/peers/README.md prints, from a folder that holds no more
# than what it says they need.
bench_peers() (
	peers=$source/tests/bench/peers
	line=$(sed -n 's/^    cc \(.*echo_proa\.c .*\)$/\1/p' "$peers/README.md")
	[ -n "$line" ] && mkdir "$scratch/peers" && cp "$peers"/*.[ch] "$scratch/peers" &&
		cd "$scratch/peers" || exit 1
	for server in echo bulk; do
		eval "${CC:-cc} $warnings $(echo "$line" | sed "s/echo_proa/${server}_proa/g")" || exit 1
	done
)

check 'install into a prefix' install_library
check 'pkg-config knows proa' pkg-config --exists proa
check 'C, shared' c_shared
if [ -n "$(find /usr/lib /usr/local/lib -name liburing.a 2>/dev/null | head -n 1)" ]; then
	check 'C, static' c_static
else
	skip 'C, static' 'there is no liburing.a'
fi
if command -v "${CXX:-c++}" >/dev/null; then
	check 'C++, shared' cxx_shared
else
	skip 'C++, shared' 'there is no C++ compiler'
fi
check 'each header alone' headers_alone
check 'exported names' exports_its_own
if reason=$("$source/tests/windows/msvc.sh" --can); then
	check "MSVC's rules" "$source/tests/windows/msvc.sh"
else
	skip "MSVC's rules" "$reason"
fi
check 'peers of the bench' bench_peers
if [ -f "$source/README.md" ]; then
	check "the README's first program" readme_program
else
	skip "the README's first program" 'there is no README.md'
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]

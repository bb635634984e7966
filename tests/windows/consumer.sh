#!/bin/sh
# A program as a user has it, on Windows: against an install of the build, by what
# pkg-config says, with the DLL and with the static library. And what the DLL exports.
#
# usage: consumer.sh BUILD; wine64 has to be in PATH, with a prefix that is made
set -u
source=$(cd "$(dirname "$0")/../.." && pwd) || exit 2
build=$(cd "${1:?}" && pwd) || exit 2
tools=x86_64-w64-mingw32-
scratch=$(mktemp -d) || exit 2
trap 'rm -rf "$scratch"' EXIT
trap 'exit 1' HUP INT TERM
passed=0 failed=0

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

install_library() {
	DESTDIR=$scratch meson install -C "$build" --no-rebuild &&
		bin=$(dirname "$(find "$scratch" -name libproa-0.dll)") &&
		lib=$(dirname "$(find "$scratch" -name libproa.dll.a)") &&
		[ -f "$bin/libproa-0.dll" ] && [ -f "$lib/libproa.a" ]
}

flags() { # flags [--static]
	PKG_CONFIG_PATH="$lib/pkgconfig" PKG_CONFIG_SYSROOT_DIR="$scratch" \
		pkg-config "$@" --cflags --libs proa
}

# What counts coverage, if the build does, comes behind the libraries.
compile() { # compile PROGRAM OPTION...
	program=$1
	shift
	${tools}gcc -std=c11 -Wall -Wextra -Wshadow -Werror -o "$program" \
		"$source/tests/consumer/consumer.c" "$@" -lgcov
}

run() { # run PROGRAM
	"$source/tests/windows/again" wine64 "$1"
}

uses_dll() { # uses_dll PROGRAM
	${tools}objdump -p "$1" | grep 'DLL Name: libproa-0.dll'
}

# The DLL lies in the program's own folder.
shared() {
	# shellcheck disable=SC2046 # words are meant
	compile "$bin/shared.exe" $(flags) && uses_dll "$bin/shared.exe" &&
		run "$bin/shared.exe" >"$scratch/said" && grep '^delivered by iocp' "$scratch/said"
}

static() {
	mkdir "$scratch/alone" || return 1
	# shellcheck disable=SC2046
	compile "$scratch/alone/static.exe" -static $(flags --static) || return 1
	uses_dll "$scratch/alone/static.exe" && return 1
	run "$scratch/alone/static.exe" >"$scratch/said" && grep '^delivered by iocp' "$scratch/said"
}

# What the headers mark, by name.
declared() {
	echo '#include <proa/proa.h>' | ${tools}gcc -E -P -DPROA_BUILD -I "$source/include" - |
		tr '\n' ' ' | tr ';' '\n' |
		sed -n '/dllexport/{s/.*dllexport)) *//; s/(.*//; s/.*[ *]//p}' | sort -u
}

# The same names in the DLL and in its import library, and no others.
exports() {
	declared >"$scratch/declared"
	[ -s "$scratch/declared" ] || return 1
	${tools}objdump -p "$bin/libproa-0.dll" |
		sed -n '/^\[Ordinal\/Name Pointer\] Table/,/^$/s/^\t\[ *[0-9]*\] //p' | sort -u >"$scratch/dll"
	${tools}nm "$lib/libproa.dll.a" | awk '$2 == "T" { print $3 }' | sort -u >"$scratch/import"
	diff "$scratch/declared" "$scratch/dll" && diff "$scratch/declared" "$scratch/import"
}

check 'install' install_library
check 'C, by the DLL' shared
check 'C, static' static
check 'exported names' exports
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]

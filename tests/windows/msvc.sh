#!/bin/sh
# The library and its headers by MSVC's rules, as far as they can be seen without it:
# clang reads them for its target, without GNU's words, over mingw-w64's headers of
# Windows. The public headers are read as C11 and C++17, each alone.
#
# usage: msvc.sh [--can]; --can: only says why not, if so
set -u
cd "$(dirname "$0")/../.." || exit 2
headers=/usr/x86_64-w64-mingw32/include
command -v clang >/dev/null || { echo 'there is no clang'; exit 1; }
[ -f $headers/winsock2.h ] || { echo "there are no headers of Windows: $headers"; exit 1; }
[ "${1:-}" = --can ] && exit
scratch=$(mktemp -d) || exit 2
trap 'rm -rf "$scratch"' EXIT

# For this target mingw-w64 puts words behind declarations that belong before them, and
# vectors of clang's own headers are not MSVC's.
cat >"$scratch/first.h" <<'END_OF_FIRST'
#define __X86INTRIN_H
#define __IMMINTRIN_H
#define __EMMINTRIN_H
#include <_mingw.h>
#undef __MINGW_ATTRIB_NORETURN
#define __MINGW_ATTRIB_NORETURN
#undef __MINGW_ATTRIB_DEPRECATED
#define __MINGW_ATTRIB_DEPRECATED
END_OF_FIRST

reads() { # reads OPTION...: is there nothing to say?
	clang --target=x86_64-pc-windows-msvc -fms-extensions -fms-compatibility -U__clang__ \
		-Wall -Wextra -Wshadow -pedantic -Wgnu -Werror -fsyntax-only \
		-isystem $headers -include "$scratch/first.h" -Iinclude "$@"
}

for header in include/proa/*.h; do
	echo "#include <proa/${header##*/}>" >"$scratch/alone.c"
	cp "$scratch/alone.c" "$scratch/alone.cpp"
	reads -std=c11 "$scratch/alone.c" || exit 1
	reads -std=c++17 -Wno-shadow "$scratch/alone.cpp" || exit 1
done
reads -std=c11 -I. -D_WIN32_WINNT=0x0A00 -DWIN32_LEAN_AND_MEAN -DNOMINMAX \
	-D_CRT_SECURE_NO_WARNINGS -DPROA_HAVE_IOCP -DPROA_BUILD \
	lib/*.c engines/windows/*.c engines/iocp/*.c emu/emu.c emu/w*.c

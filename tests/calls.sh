#!/bin/sh
# Holds the pages that map native calls to ops to the sources: each call that tests/fault
# can make fail stands in the table under "By native call", and each file that a row
# names makes one of the row's calls. Prints what does not hold.
#
# usage: calls.sh (from anywhere)
set -u
cd "$(dirname "$0")/.." || exit 2

# The calls in front of which a file of tests/fault has a function of its own; not
# those of memory, nor what has a name for a part of a call.
calls_of() { # calls_of SOURCE
	grep -v '^#define\|\\$' "$1" | tr '\n\t' '  ' |
		grep -oE '\bCALL[A-Z_]*\( *([A-Za-z_]+, *([A-Za-z_0-9-]+, *)?)?[A-Za-z0-9_]+, *\(|\bfaulty_[A-Za-z0-9_]+\(|SITE(_OF)?\(([a-z_]+, )?"[A-Za-z_0-9]+"|= \{ "[A-Za-z_0-9]+"' |
		sed -E 's/, *\($//; s/\($//; s/^faulty_//; s/^.*[ ,("]([A-Za-z0-9_]+)"?$/\1/' | sort -u |
		grep -vxE 'malloc|calloc|realloc|free|freeaddrinfo|CloseHandle|.*_(ex|wake|set|init|atfork)|receive|transmit|dupfd|syscall'
}

table_of() { # table_of PAGE: its rows
	sed -n '/^## By native call/,/^## /p' "$1" | grep '^| `'
}

# shellcheck disable=SC2016 # the pages' own marks, not a shell's
check() { # check SOURCE PAGE
	rows=$(table_of "$2")
	found=$(calls_of "$1")
	[ "$(echo "$found" | wc -l)" -ge 30 ] || echo "$1: its calls are not recognized any more"
	for call in $found; do
		echo "$rows" | cut -d '|' -f 2 | grep -qE "\`$call\`" ||
			echo "$2: no row for $call, which $1 makes fail"
	done
	echo "$rows" | while IFS='|' read -r _ calls _ files _; do
		made=$(echo "$calls" | grep -oE '`[A-Za-z0-9_]+`' | tr -d '\140' | paste -s -d '|')
		for file in $(echo "$files" | grep -oE '`[a-z/_]+\.[ch]`' | tr -d '\140'); do
			case $file in
			lib/* | emu/*) ;;
			*) file=engines/$file ;;
			esac
			grep -qiE "$made" "$file" || echo "$2: $file makes no call of $made"
		done
	done
}

check tests/fault/calls_windows.c docs/design/windows.md
check tests/fault/calls.c docs/design/kqueue.md

#!/bin/sh
# What a tool can check of the house style: layout by clang-format, a purpose in
# each file's first comment, no marks of unfinished work, no mess of blanks. Long
# functions are told of, and fail nothing; examples have to stay short. Works in a
# checkout and in a plain folder.
#
# usage: style.sh (from anywhere)
set -u
cd "$(dirname "$0")/.." || exit 2
scratch=$(mktemp -d) || exit 2
trap 'rm -rf "$scratch"' EXIT
trap 'exit 1' HUP INT TERM
passed=0 failed=0 skipped=0

# All files of the project, by extension.
if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
	git ls-files --cached --others --exclude-standard
else
	find . -name '.*' ! -name . -prune -o -name 'build*' -type d -prune -o -type f -print |
		sed 's,^\./,,'
fi | sort -u | while read -r file; do
	if [ -f "$file" ]; then
		echo "$file"
	fi
done >"$scratch/all"
grep -E '\.(c|h|cpp)$' "$scratch/all" >"$scratch/c"
grep -E '\.(c|h|cpp|sh|py|build|md)$|^bootstrap$|^\.ci/run$' "$scratch/all" >"$scratch/text"

over() { # over LIST COMMAND...: the command with all files of the list
	list=$1
	shift
	tr '\n' '\0' <"$list" | xargs -0 -r "$@"
}

# A check prints what is wrong, one a line; nothing if all is well.
check() { # check NAME COMMAND...
	name=$1
	shift
	"$@" >"$scratch/found" 2>&1
	if [ -s "$scratch/found" ]; then
		failed=$((failed + 1))
		echo "FAILED  $name"
		head -n 40 "$scratch/found"
	else
		passed=$((passed + 1))
		echo "ok      $name"
	fi
}

layout() {
	# shellcheck disable=SC2016 # the inner shell's
	tr '\n' '\0' <"$scratch/c" | xargs -0 -r -n 1 -P 2 sh -c \
		'clang-format "$0" | cmp -s - "$0" || echo "$0: clang-format would change it"'
}

begins_with_comment() {
	over "$scratch/c" awk 'FNR == 1 && !/^\/\*/ && !/^\/\// { print FILENAME ":1: no comment that says the purpose" }'
}

unfinished() {
	# In two pieces, or this file would be found.
	over "$scratch/text" grep -nE '\b(TO''DO|FIX''ME|XX''X)\b'
}

blanks() {
	over "$scratch/text" awk '
		/\r$/ { print FILENAME ":" FNR ": a carriage return" }
		/[ \t]$/ && FILENAME !~ /\.md$/ { print FILENAME ":" FNR ": blanks at the end of the line" }
		/^ +\t/ { print FILENAME ":" FNR ": a tab after spaces" }'
	over "$scratch/c" awk '/^        / { print FILENAME ":" FNR ": spaces where a tab belongs" }'
	while read -r file; do
		if [ -s "$file" ] && [ -n "$(tail -c 1 "$file")" ]; then
			echo "$file: the last line does not end"
		fi
	done <"$scratch/text"
}

# The README says how long they are.
long_examples() {
	grep '^examples/.*\.c$' "$scratch/c" | while read -r file; do
		lines=$(wc -l <"$file")
		[ "$lines" -lt 150 ] || echo "$file: $lines lines, not under 150"
	done
}

long_functions() {
	over "$scratch/c" awk '
		/^{/ { begin = FNR }
		/^}/ && begin {
			if (FNR - begin > 80)
				print "note: " FILENAME ":" begin ": a function of " FNR - begin " lines"
			begin = 0
		}'
}

if command -v clang-format >/dev/null; then
	check 'layout (clang-format)' layout
else
	skipped=$((skipped + 1))
	echo 'SKIPPED layout: there is no clang-format'
fi
check 'each C file says its purpose first' begins_with_comment
check 'no marks of unfinished work' unfinished
check 'blanks' blanks
check 'examples are under 150 lines' long_examples
check 'native calls are on their pages' tests/calls.sh
long_functions
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]

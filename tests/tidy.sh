#!/bin/sh
# The library under clang-tidy, with the checks of .clang-tidy. Two files at a time.
#
# usage: tidy.sh BUILD-FOLDER
set -u
build=${1:?a build folder}
cd "$(dirname "$0")/.." || exit 2
scratch=$(mktemp -d) || exit 2
trap 'rm -rf "$scratch"' EXIT
trap 'exit 1' HUP INT TERM
if ! command -v clang-tidy >/dev/null; then
	echo 'SKIPPED clang-tidy: it is not there'
	echo '0 passed, 0 failed, 1 skipped'
	exit 77
fi
# Those that this build has compiled.
for file in lib/*.c emu/*.c engines/*/*.c; do
	if grep -q "\"file\": \"[^\"]*$file\"" "$build/compile_commands.json"; then
		echo "$file"
	fi
done >"$scratch/files"
# shellcheck disable=SC2016 # the inner shell's
tr '\n' '\0' <"$scratch/files" | xargs -0 -r -n 1 -P 2 sh -c '
	if clang-tidy -p "$0" --quiet "$2" >"$1/$$.log" 2>/dev/null; then
		echo "$2" >>"$1/passed"
	else
		echo "$2" >>"$1/failed"
		cat "$1/$$.log"
	fi' "$build" "$scratch"
count() { if [ -f "$1" ]; then wc -l <"$1"; else echo 0; fi; }
failed=$(count "$scratch/failed")
echo "$(count "$scratch/passed") passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ]

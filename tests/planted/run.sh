#!/bin/sh
# Engines with a bug planted in each: the tests must find every one. The tests that
# are named here, and the random programs, fail with the bug and pass without it.
#
# usage: run.sh BUILD-FOLDER [wine64]
# With wine64 the build is one for Windows, and what is broken is iocp: the named tests
# alone have to find that, for a process takes wine long.
set -u
build=${1:?a build folder} wine=${2-}
exe=${wine:+.exe}
scratch=$(mktemp -d) || exit 2
trap 'rm -rf "$scratch"' EXIT
trap 'exit 1' HUP INT TERM
# What hangs, as most of these do, is given up sooner: programs here, tests below.
export RANDOM_SECONDS=3
passed=0 failed=0 skipped=0

pass() { passed=$((passed + 1)) && echo "ok      $*"; }
fail() { failed=$((failed + 1)) && echo "FAILED  $*"; }

# The tests that have to find it, by a filter of the conformance program.
tests_for() {
	case $1 in
	*lost-completion) echo cancel_in_the_receive_lane ;;
	iocp-reordered-send) echo sends_of_all_kinds_and_shutdown ;; # few sends wait there
	*reordered-send) echo thousand_sends_of_odd_sizes ;;
	io_uring-leaked-buffer) echo idle_handles_wait_without_a_buffer ;;
	*leaked-buffer) echo ends_leave_the_buffers ;;
	esac
}

# Seed after seed until one fails: a bug that hangs a program takes its whole time.
seeds() { # seeds MOST PROGRAM ENGINE
	seed=0
	while [ "$seed" -lt "$1" ]; do
		seed=$((seed + 1))
		TEST_TIME_FACTOR=1 "$2" --engine "$3" --seed "$seed" --count 1 || return
	done
}

# How a run has ended, from its last line: "passed" if something was tested and all
# of it passed, "failed" if some test failed; else "broken", as a build that is none.
verdict() {
	"$@" >"$scratch/log" 2>&1
	awk '/^[0-9]+ passed, [0-9]+ failed/ { p = $1; f = $3 }
		END { print (f > 0) ? "failed" : (p > 0) ? "passed" : "broken" }' "$scratch/log"
}

expect() { # expect VERDICT TITLE COMMAND...
	wanted=$1 title=$2
	shift 2
	got=$(verdict "$@")
	if [ "$got" = "$wanted" ]; then
		pass "$title: $got"
	else
		fail "$title: $got, and not $wanted"
		tail -n 30 "$scratch/log"
	fi
}

look_for() { # look_for NAME ENGINE
	name=$1 engine=$2 tests=$(tests_for "$1")
	programs=tests/planted/conformance-$name$exe
	[ -n "$wine" ] || programs="$programs tests/planted/random-$name"
	# shellcheck disable=SC2086 # words are meant
	if ! ninja -C "$build" $programs >"$scratch/ninja" 2>&1; then
		tail -n 30 "$scratch/ninja"
		fail "$name: does not build"
		return
	fi
	# shellcheck disable=SC2086 # words are meant
	expect passed "$name: $engine without it, $tests" \
		$wine "$build/tests/conformance$exe" --engine "$engine" $tests
	# shellcheck disable=SC2086
	expect failed "$name: $engine, $tests" env TEST_TIME_FACTOR=1 \
		$wine "$build/tests/planted/conformance-$name$exe" --engine "$engine" $tests
	[ -n "$wine" ] || expect failed "$name: $engine, random programs" \
		seeds 10 "$build/tests/planted/random-$name" "$engine"
}

if ! command -v patch >/dev/null || ! command -v ninja >/dev/null; then
	echo 'SKIPPED planted bugs: there is no patch, or no ninja'
	skipped=1
else
	for bug in lost-completion reordered-send leaked-buffer; do
		if [ -n "$wine" ]; then
			look_for "iocp-$bug" iocp
			continue
		fi
		look_for "emulation-$bug" epoll
		if grep -q "conformance-io_uring-$bug" "$build/build.ninja"; then
			look_for "io_uring-$bug" io_uring
		fi
	done
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]

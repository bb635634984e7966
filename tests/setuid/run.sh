#!/bin/sh
# What the environment says of engines does not count in a set-uid program: whoever starts
# one must not choose what it does. A copy that is nobody's is started by root.
#
# usage: run.sh PROGRAM
set -u
program=$1
passed=0 failed=0

skip() { # skip REASON: what Meson takes as skipped
	echo "skipped: $1"
	echo '0 passed, 0 failed, 1 skipped'
	exit 77
}

check() { # check NAME GOT WANTED...: GOT is one of them
	name=$1 got=$2
	shift 2
	for wanted; do
		[ "$got" != "$wanted" ] || {
			passed=$((passed + 1))
			echo "ok      $name: $got"
			return
		}
	done
	failed=$((failed + 1))
	echo "FAILED  $name: $got"
}

[ "$(id -u)" -eq 0 ] || skip 'this is not root, which alone may give files away'
scratch=$(mktemp -d) || exit 2
trap 'rm -rf "$scratch"' EXIT
chmod 755 "$scratch"
cp "$program" "$scratch/program" && chown nobody "$scratch/program" &&
	chmod 4755 "$scratch/program" || exit 2

usual=$(env -u PROA_ENGINE "$scratch/program")
case $usual in
*' plain') skip 'set-uid has no effect here: nosuid, or no new privileges' ;;
esac
check 'a plain program' "$(PROA_ENGINE=select "$program")" 'select plain'
check 'a set-uid program' "$(PROA_ENGINE=select "$scratch/program")" "$usual"
check 'a name that is none' "$(PROA_ENGINE=donkey "$scratch/program")" "$usual"
check 'its usual engine' "$usual" 'io_uring set-uid' 'epoll set-uid' 'poll set-uid'
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]

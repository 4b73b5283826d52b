#!/bin/sh
# Gets what the benchmarks compare xdptcp with: the BPF object of the kernel's selftest xdp_synproxy,
# compiled into a cache from Debian's package linux-source-6.12 (a download of 150 MB), and the tools that
# make the rules of netfilter's SYNPROXY. It is the work of others, under their own licences: nothing of it
# is in this repository. Prints the object's path on stdout; says nothing else when nothing is missing.
set -eu

exec 3>&1 >&2 # stdout is for the path alone
package=linux-source-6.12
cache=${XDG_CACHE_HOME:-$HOME/.cache}/xdptcp/rivals
object=$cache/xdp_synproxy.o
work=$(mktemp -d)
finish() {
	code=$?
	rm -rf "$work"
	[ $code = 0 ] || echo "$0: can't get the benchmarks' rivals, for the reason above; without them: make bench RIVAL= or make bench-flood RIVAL="
	exit $code
}
trap finish EXIT

# quietly COMMAND: what it says is shown if it fails.
quietly() {
	"$@" >"$work/log" 2>&1 || { cat "$work/log"; return 1; }
}

missing=
# need: each line of stdin is a file that shows that a package is there, and the package.
need() {
	while read -r file name; do
		[ -e "$file" ] || missing="$missing $name"
	done
}
# nftables has a service, which its installation neither starts nor enables.
need <<EOL
/usr/sbin/nft nftables
/usr/sbin/ip6tables-restore iptables
EOL
[ -e "$object" ] || need <<EOL
/usr/bin/clang-19 clang-19
/usr/sbin/bpftool bpftool
/usr/include/bpf/bpf_helpers.h libbpf-dev
/usr/include/linux/bpf.h linux-libc-dev
/usr/bin/xz xz-utils
EOL
if [ -n "$missing" ]; then
	if [ "$(id -u)" != 0 ]; then
		echo "missing packages:$missing; install them with: sudo $0"
		exit 1
	fi
	echo "installing:$missing"
	export DEBIAN_FRONTEND=noninteractive
	quietly apt-get update -qq
	# shellcheck disable=SC2086 # the list is meant to be split
	quietly apt-get install -y -qq --no-install-recommends $missing
fi

if [ ! -e "$object" ]; then
	if [ ! -r /sys/kernel/btf/vmlinux ]; then
		echo "no /sys/kernel/btf/vmlinux: the kernel needs CONFIG_DEBUG_INFO_BTF"
		exit 1
	fi
	echo "downloading $package"
	cd "$work"
	if ! apt-get download -qq -o APT::Sandbox::User=root $package >log 2>&1; then
		[ "$(id -u)" != 0 ] || quietly apt-get update -qq
		quietly apt-get download -qq -o APT::Sandbox::User=root $package
	fi
	echo "compiling xdp_synproxy of $(basename "$package"_*.deb .deb)"
	selftests=$package/tools/testing/selftests/bpf
	dpkg --fsys-tarfile "$package"_*.deb | tar -xO ./usr/src/$package.tar.xz |
		tar -xJ $selftests/progs/xdp_synproxy_kern.c $selftests/progs/bpf_compiler.h
	/usr/sbin/bpftool btf dump file /sys/kernel/btf/vmlinux format c >vmlinux.h
	mkdir -p "$cache"
	quietly clang-19 -target bpf -O2 -g -mcpu=v3 -Wno-compare-distinct-pointer-types -fdebug-compilation-dir=. \
		-I . -I $selftests/progs -idirafter "/usr/include/$(uname -m)-linux-gnu" -c $selftests/progs/xdp_synproxy_kern.c -o "$object.new"
	mv "$object.new" "$object"
fi
echo "$object" >&3

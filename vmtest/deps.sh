#!/bin/sh
# Installs what the tests need and this machine lacks: Debian 12 packages. Says nothing when
# nothing is missing.
set -eu

missing=
# Each line: a file that shows the package is there, and the package.
while read -r file package; do
	[ -e "$file" ] || missing="$missing $package"
done <<EOF
/usr/bin/clang-19 clang-19
/usr/bin/clang-format-19 clang-format-19
/usr/bin/llvm-strip-19 llvm-19
/usr/include/bpf/bpf_helpers.h libbpf-dev
/usr/include/linux/bpf.h linux-libc-dev
/usr/bin/gcc gcc
/usr/include/stdlib.h libc6-dev
/usr/bin/curl curl
/usr/bin/qemu-system-x86_64 qemu-system-x86
/bin/busybox busybox-static
/bin/cpio cpio
/usr/bin/xz xz-utils
/usr/bin/git git
/usr/bin/ss iproute2
/usr/sbin/bpftool bpftool
/sbin/ethtool ethtool
/usr/bin/wrk wrk
/usr/bin/tshark tshark
EOF

# Of nginx the program alone, with what it links to: its package would start a web server on this machine,
# and again at every boot.
nginx=/usr/local/lib/xdptcp-vmtest
unpack=
if [ ! -e /usr/sbin/nginx ] && [ ! -e $nginx/usr/sbin/nginx ]; then
	unpack=nginx
	missing="$missing libpcre2-8-0 libssl3 zlib1g libcrypt1"
fi
[ -z "$missing" ] && exit 0

if [ "$(id -u)" != 0 ]; then
	echo "missing packages:$missing; install them with: sudo $0" >&2
	exit 1
fi
echo "installing:$missing${unpack:+, and the program of $unpack in $nginx}"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
debs=$(mktemp -d)
trap 'rm -rf "$log" "$debs"' EXIT
# shellcheck disable=SC2086 # the list is meant to be split
install_missing() {
	apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing || return
	[ -z "$unpack" ] ||
		{ cd "$debs" && apt-get download -qq -o APT::Sandbox::User=root "$unpack" && dpkg -x "$debs"/*.deb $nginx; }
}
if ! (install_missing) >"$log" 2>&1; then
	cat "$log" >&2
	exit 1
fi

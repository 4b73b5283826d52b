#!/bin/sh
# Boots Debian's 6.1 and 6.12 kernels in QEMU and runs the packet tests of the XDP program there: each
# kernel's own verifier and JIT must take it. Kernels are downloaded as packages and unpacked into a
# cache; nothing is installed. Emulation, no KVM: a boot and the tests take about a minute.
#
#   vmtest/kernels.sh [-run PATTERN]      a pattern as of go test
set -eu

pattern=.
[ "${1:-}" = -run ] && pattern=$2
if [ "$(uname -m)" != x86_64 ]; then
	echo "vmtest/kernels.sh: runs on x86_64 alone; this is $(uname -m)" >&2
	exit "${CI:+1}"
fi
cd "$(dirname "$0")/.."
cache=${XDG_CACHE_HOME:-$HOME/.cache}/xdptcp/kernels
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$cache"

# newest SERIES: the name of the newest package with a kernel of this series.
newest() {
	apt-cache search --names-only "^linux-image-$1\\.[0-9.]+[0-9.+a-z-]*-amd64-unsigned\$" |
		awk '{ print $1 }' | grep -v -e -rt- -e -cloud- | sort -V | tail -1
}

# kernel PACKAGE: downloads and unpacks it, once.
kernel() {
	[ -d "$cache/$1" ] && return
	echo "downloading $1"
	(cd "$work" && apt-get download -qq "$1" 2>"$work/apt.log") || { cat "$work/apt.log" >&2; exit 1; }
	dpkg -x "$work/$1"_*.deb "$cache/$1.new"
	mv "$cache/$1.new" "$cache/$1"
}

# module PACKAGE PATH: a module's file, unpacked, in the initramfs.
module() {
	found=$(find "$cache/$1/lib/modules" -path "*/kernel/$2.ko*" | head -1)
	case $found in
	*.xz) xz -dc "$found" >"$root/$(basename "$2").ko" ;;
	*) cp "$found" "$root/" ;;
	esac
}

CGO_ENABLED=0 go test -c -o "$work/bpf.test" ./bpf
failed=0
for series in 6.1 6.12; do
	package=$(newest "$series")
	if [ -z "$package" ]; then
		apt-get update -qq
		package=$(newest "$series")
	fi
	[ -n "$package" ] || { echo "no package with a kernel $series: is this Debian 12 with its updates and backports?" >&2; exit 1; }
	kernel "$package"
	root=$work/root
	rm -rf "$root"
	mkdir -p "$root/bin" "$root/proc" "$root/sys" "$root/dev" "$root/tmp" "$root/src"
	cp /bin/busybox "$work/bpf.test" "$root/bin/"
	cp -r bpf/*.h bpf/*.c bpf/testdata "$root/src/"
	module "$package" drivers/net/veth
	cat >"$root/init" <<-EOF2
		#!/bin/busybox sh
		/bin/busybox --install -s /bin
		mount -t proc proc /proc
		mount -t sysfs sys /sys
		mount -t devtmpfs dev /dev
		mount -t tmpfs tmp /tmp
		insmod /veth.ko
		ip link set lo up
		cd /src
		CI=true PATH=/bin HOME=/tmp bpf.test -test.v -fuzz.frames 50000 -twin.handshakes 5000 -test.run '$pattern'
		echo "guest exit \$?"
		poweroff -f
	EOF2
	chmod +x "$root/init"
	(cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/initramfs"
	log=$work/$series.log
	timeout 600 qemu-system-x86_64 -accel tcg,thread=multi -cpu max -m 2G -smp 2 -nographic -no-reboot \
		-kernel "$cache/$package"/boot/vmlinuz-* -initrd "$work/initramfs" \
		-append "console=ttyS0 panic=-1 quiet" </dev/null 2>&1 | tr -d '\r' >"$log" || true
	verdict=ok
	grep -q '^guest exit 0$' "$log" || verdict=FAILED
	grep -q -e 'RIP:' -e 'Call Trace' -e 'Kernel panic' "$log" && verdict=FAILED
	passed=$(grep -c -e '^--- PASS' "$log" || true)
	skipped=$(grep -c -e '^--- SKIP' "$log" || true)
	echo "kernel $(ls "$cache/$package/lib/modules"): $verdict, $passed tests passed, $skipped skipped"
	grep -h -o 'verifier: .*' "$log" | sed 's/^/  /' || true
	grep -A1 -e '^--- SKIP' "$log" | sed 's/^/  /' || true
	if [ $verdict != ok ]; then
		failed=1
		grep -B10 -e '--- FAIL' -e 'panic' -e 'RIP:' "$log" | head -60 || tail -40 "$log"
	fi
done
exit $failed

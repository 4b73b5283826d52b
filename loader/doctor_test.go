// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/xdptcp/xdptcp/bpf"
	"github.com/xdptcp/xdptcp/vmtest/lab"
)

// healthy is a server with a good network card: no check has anything to say, but for the firewall's.
func healthy() *facts {
	return &facts{
		kernelFacts: kernelFacts{
			lockFreely: true, memlock: 8 << 20, release: "6.12.3", version: 6<<16 | 12<<8 | 3, cpus: 8, possibleCPUs: 8,
			memAvailable: 16 << 30, bpffs: true, jit: true,
		},
		linkFacts: linkFacts{
			name: "eth0", encap: "ether", mac: "02:00:5e:00:53:01", up: true, carrier: true, mtu: 1500, addrs: 2, driver: "ice",
			channels: ethtoolChannels{maxCombined: 16, combined: 8}, queues: 8,
			lro: off, gro: on, rxChecksum: on, rxVLAN: off,
			features: xdpFeatures{act: actBasic | actRedirect | actXmit | actZeroCopy, zcMaxSegs: 8},
		},
	}
}

func TestAHealthyServerHasNothingToMend(t *testing.T) {
	d := healthy().diagnose()
	for _, c := range d.Checks {
		if c.Verdict != OK && c.Name != "firewall" {
			t.Errorf("%+v", c)
		}
	}
	if d.Verdict() != Note || d.Mode != Native || !d.ZeroCopy || d.Interface != "eth0" || d.Driver != "ice" || d.Kernel != "6.12.3" {
		t.Errorf("%+v", d)
	}
}

func TestEveryCheckSaysWhatIsWrongAndWhatMendsIt(t *testing.T) {
	missing := fmt.Errorf("the helper X: %w", ebpf.ErrNotSupported)
	for _, c := range []struct {
		what    string
		change  func(*facts)
		name    string
		verdict Verdict
		found   string
		command string
		mode    Mode // of the diagnosis
	}{
		{"no privilege", func(f *facts) { f.missing = []string{"CAP_NET_RAW", "CAP_BPF"} },
			"privilege", Fail, "missing CAP_NET_RAW, CAP_BPF", "sudo xdptcp attach eth0", ""},
		{"an old kernel", func(f *facts) { f.release, f.version = "5.15.0", 5<<16|15<<8 },
			"kernel", Warn, "5.15.0", "", Native},
		{"the oldest kernel that will do", func(f *facts) { f.release, f.version = "6.1.0", 6<<16|1<<8 },
			"kernel", OK, "6.1.0", "", Native},
		{"a kernel without a helper", func(f *facts) { f.program = missing },
			"program", Fail, "not for this kernel: the helper X", "", ""},
		{"a verifier that refuses", func(f *facts) { f.program = &ebpf.VerifierError{Cause: unix.EACCES} },
			"program", Fail, "verifier refuses", "", ""},
		{"a program that can't be tried without privilege", func(f *facts) { f.program, f.missing = unix.EPERM, []string{"CAP_BPF"} },
			"program", Note, "can't be looked at (operation not permitted)", "", ""},
		{"an interpreter", func(f *facts) { f.jit = false },
			"jit", Warn, "off", "sysctl -w net.core.bpf_jit_enable=1", Native},
		{"an interpreter that can't be seen", func(f *facts) { f.jit, f.program = false, unix.EPERM },
			"jit", Note, "can't be looked at", "", ""},
		{"no AF_XDP", func(f *facts) { f.afxdp = ebpf.ErrNotSupported },
			"af-xdp", Fail, "CONFIG_XDP_SOCKETS", "", ""},
		{"AF_XDP that is refused", func(f *facts) { f.afxdp = unix.EPERM },
			"af-xdp", Fail, "a socket is refused: operation not permitted", "", ""},
		{"AF_XDP that can't be tried without privilege", func(f *facts) { f.afxdp, f.missing = unix.EPERM, []string{"CAP_NET_RAW"} },
			"af-xdp", Note, "can't be looked at", "", ""},
		{"too little locked memory", func(f *facts) { f.lockFreely = false },
			"memlock", Fail, "limit 8 MiB, needed 96 MiB", "ulimit -l unlimited", ""},
		{"enough locked memory", func(f *facts) { f.lockFreely, f.memlock = false, 96<<20 },
			"memlock", OK, "limit 96 MiB, needed 96 MiB", "", Native},
		{"unlimited locked memory", func(f *facts) { f.lockFreely, f.memlock = false, unix.RLIM_INFINITY },
			"memlock", OK, "no limit", "", Native},
		{"too little memory", func(f *facts) { f.memAvailable = 150 << 20 },
			"memory", Fail, "about 58 MiB, AF_XDP buffers 96 MiB, 150 MiB available", "xdptcp attach eth0 --flows 32768", ""},
		{"little memory", func(f *facts) { f.memAvailable = 300 << 20 },
			"memory", Warn, "300 MiB available", "xdptcp attach eth0 --flows 32768", Native},
		{"unknown memory", func(f *facts) { f.memAvailable = 0 },
			"memory", Note, "not known", "free -m", Native},
		{"no bpffs", func(f *facts) { f.bpffs = false },
			"bpffs", Note, "not mounted at /sys/fs/bpf", "mount -t bpf bpf /sys/fs/bpf", Native},
		{"no tcx", func(f *facts) { f.tcxErr = ebpf.ErrNotSupported },
			"tcx", Note, "not in this kernel (Linux 6.6)", "", Native},
		{"tcx that can't be asked", func(f *facts) { f.tcxErr = unix.EPERM },
			"tcx", Note, "can't be looked at", "", Native},
		{"no request sockets", func(f *facts) { f.reqsk = ebpf.ErrNotSupported },
			"reqsk", Note, "bpf_sk_assign_tcp_reqsk, Linux 6.9", "", Native},
		{"no live frames", func(f *facts) { f.liveFrames = ebpf.ErrNotSupported },
			"live-frames", Note, "Linux 5.18", "", Native},

		{"the loopback", func(f *facts) { f.encap = "loopback" },
			"link", Fail, `of type "loopback", not Ethernet`, "ip -brief link", ""},
		{"an interface that is down", func(f *facts) { f.up, f.carrier = false, false },
			"link", Fail, "down", "ip link set eth0 up", ""},
		{"no carrier", func(f *facts) { f.carrier = false },
			"link", Warn, "without carrier", "ethtool eth0", Native},
		{"no addresses", func(f *facts) { f.addrs = 0 },
			"addresses", Warn, "none", "ip addr add ADDR/BITS dev eth0", Native},
		{"a foreign program", func(f *facts) { f.xdp = &xdpFacts{id: 7, name: "theirs", mode: "native"} },
			"xdp", Fail, `native program id 7, name "theirs"`, "ip link set eth0 xdp off", ""},
		{"a foreign generic program", func(f *facts) { f.xdp = &xdpFacts{id: 7, name: "theirs", mode: "generic"} },
			"xdp", Fail, "generic program", "ip link set eth0 xdpgeneric off", ""},
		{"a foreign program held by a link", func(f *facts) { f.xdp = &xdpFacts{id: 7, name: "theirs", mode: "native", linkID: 3} },
			"xdp", Fail, "program id 7", "bpftool link detach id 3", ""},
		{"an xdptcp", func(f *facts) { f.xdp = &xdpFacts{id: 7, name: "xdptcp", mode: "native", linkID: 3} },
			"xdp", Note, "program id 7", "xdptcp status eth0", Native},
		{"an xdptcp in generic mode", func(f *facts) { f.xdp = &xdpFacts{id: 7, name: "xdptcp", mode: "generic"} },
			"xdp", Warn, "generic program id 7", "xdptcp status eth0", Native},
		{"a driver without XDP", func(f *facts) { f.driver, f.features.act = "macvlan", 0 },
			"native", Warn, "driver macvlan: none", "", Generic},
		{"a driver without redirect", func(f *facts) { f.features.act = actBasic },
			"native", Warn, "driver ice: basic", "", Generic},
		{"a veth whose peer has more queues", func(f *facts) { f.driver, f.features.act, f.peer.xdp, f.channels.maxRx = "veth", 0, true, 4 },
			"native", Warn, "driver veth: none as it is", "ethtool -L eth0 rx 4", Generic},
		{"a kernel that doesn't tell", func(f *facts) { f.features = xdpFeatures{err: ebpf.ErrNotSupported} },
			"native", Note, "Linux 6.3", "", Auto},
		{"a driver without zero-copy", func(f *facts) { f.features.act &^= actZeroCopy },
			"zero-copy", Note, "not in this driver", "", Native},
		{"zero-copy that can't be asked", func(f *facts) { f.features = xdpFeatures{err: unix.EPERM} },
			"zero-copy", Note, "can't be looked at", "", Auto},
		{"a veth whose peer has no program", func(f *facts) { f.driver = "veth" },
			"veth-peer", Warn, "without an XDP program", "xdptcp attach eth0 --mode generic", Native},
		{"a veth whose peer is out of sight", func(f *facts) { f.driver, f.peer.err = "veth", unix.EPERM },
			"veth-peer", Note, "can't be looked at", "xdptcp attach eth0 --mode generic", Native},
		{"a veth whose peer has a program", func(f *facts) { f.driver, f.peer.xdp = "veth", true },
			"veth-peer", OK, "has an XDP program", "", Native},
		{"too many queues", func(f *facts) { f.queues, f.channels.combined, f.channels.maxCombined = 300, 300, 512 },
			"queues", Fail, "300 RX, 300 TX of 512 combined; 8 CPUs", "ethtool -L eth0 combined 256", ""},
		{"as many queues as there may be", func(f *facts) { f.queues, f.channels.combined, f.channels.maxCombined = 256, 256, 512 },
			"queues", OK, "256 RX", "", Native},
		{"too many RX queues", func(f *facts) { f.queues, f.channels = 300, ethtoolChannels{rx: 300, maxRx: 300, tx: 1} },
			"queues", Fail, "300 RX, 1 TX of 300 rx", "ethtool -L eth0 rx 256", ""},
		{"fewer queues than CPUs", func(f *facts) { f.queues, f.channels.combined = 2, 2 },
			"queues", Note, "2 RX", "ethtool -L eth0 combined 8", Native},
		{"a driver with fewer queues than CPUs", func(f *facts) { f.queues, f.channels = 4, ethtoolChannels{combined: 4, maxCombined: 4} },
			"queues", Note, "4 RX", "", Native},
		{"a driver that doesn't tell its queues", func(f *facts) { f.queues, f.channels = 1, ethtoolChannels{} },
			"queues", Note, "1 RX, TX not told; 8 CPUs", "", Native},
		{"an MTU above the buffer", func(f *facts) { f.mtu = 3819 },
			"mtu", Fail, "3819, above the AF_XDP buffer", "ip link set eth0 mtu 1500", ""},
		{"an MTU above native XDP's", func(f *facts) { f.mtu = 3507 },
			"mtu", Warn, "3507, above native XDP's 3506", "ip link set eth0 mtu 1500", Generic},
		{"an MTU that only some drivers take", func(f *facts) { f.mtu = 3506 },
			"mtu", Note, "3506, which some drivers refuse", "ip link set eth0 mtu 1500", Auto},
		{"the same on veth", func(f *facts) { f.mtu, f.driver, f.peer.xdp = 3506, "veth", true },
			"mtu", OK, "3506", "", Native},
		{"LRO", func(f *facts) { f.lro = on },
			"lro", Warn, "on", "ethtool -K eth0 lro off", Auto},
		{"GRO in generic mode", func(f *facts) { f.features.act = 0 },
			"gro", Note, "on", "ethtool -K eth0 gro off", Generic},
		{"no GRO in generic mode", func(f *facts) { f.features.act, f.gro = 0, off },
			"gro", OK, "off", "", Generic},
		{"no RX checksums", func(f *facts) { f.rxChecksum = off },
			"rx-checksum", Note, "off", "ethtool -K eth0 rx on", Native},
		{"a driver that doesn't tell of checksums", func(f *facts) { f.rxChecksum = untold },
			"rx-checksum", OK, "not told by the driver", "", Native},
		{"VLAN tags stripped", func(f *facts) { f.rxVLAN = on },
			"rx-vlan", Note, "on", "ethtool -K eth0 rxvlan off", Native},
		{"VLAN tags stripped that somebody needs", func(f *facts) { f.rxVLAN, f.vlans = on, []string{"eth0.7", "eth0.8"} },
			"rx-vlan", Warn, "on; VLAN devices eth0.7, eth0.8", "ethtool -K eth0 rxvlan off", Native},
		{"VLAN tags not stripped", func(f *facts) { f.vlans = []string{"eth0.7"} },
			"rx-vlan", OK, "off; VLAN devices eth0.7", "", Native},
		{"a slave of a bond", func(f *facts) { f.master, f.masterKind = "bond0", "bond" },
			"master", Warn, "bond0, a bond", "xdptcp attach bond0", Native},
		{"a port of a bridge", func(f *facts) { f.master, f.masterKind = "br0", "bridge" },
			"master", Warn, "br0, a bridge", "xdptcp attach br0", Native},
		{"a member of a VRF", func(f *facts) { f.master, f.masterKind = "blue", "vrf" },
			"master", Note, "blue, a vrf", "", Native},
		{"programs on tc", func(f *facts) { f.tcx, f.clsact = []string{"a"}, []string{"b"} },
			"tc", Note, "a, b", "bpftool net show dev eth0", Native},
		{"tc that can't be asked", func(f *facts) { f.tcxErr = unix.EPERM },
			"tc", Note, "can't be looked at", "", Native},
	} {
		t.Run(c.what, func(t *testing.T) {
			f := healthy()
			c.change(f)
			d := f.diagnose()
			i := slices.IndexFunc(d.Checks, func(k Check) bool { return k.Name == c.name })
			if i < 0 {
				t.Fatalf("no check %q", c.name)
			}
			got := d.Checks[i]
			if got.Verdict != c.verdict || !strings.Contains(got.Found, c.found) || got.Command != c.command {
				t.Errorf("%+v, want %s, %q, command %q", got, c.verdict, c.found, c.command)
			}
			if got.Why == "" || strings.HasSuffix(got.Why, ".") || strings.Contains(got.Found+got.Why, "\n") {
				t.Errorf("why: %q", got.Why)
			}
			if d.Mode != c.mode {
				t.Errorf("mode %q, want %q", d.Mode, c.mode)
			}
			if d.ZeroCopy && d.Mode != Native {
				t.Errorf("zero-copy in mode %q", d.Mode)
			}
		})
	}
}

func TestTheDiagnosisIsAsBadAsItsWorstCheck(t *testing.T) {
	f := healthy()
	f.bpffs = false // note
	for _, c := range []struct {
		change func()
		want   Verdict
		names  []string
	}{
		{func() {}, Note, []string{"bpffs", "firewall"}},
		{func() { f.jit = false }, Warn, []string{"jit"}},
		{func() { f.lro = on }, Warn, []string{"jit", "lro"}},
		{func() { f.up = false }, Fail, []string{"link"}},
	} {
		c.change()
		d := f.diagnose()
		if d.Verdict() != c.want || !slices.Equal(d.Named(c.want), c.names) {
			t.Errorf("%s by %v, want %s by %v", d.Verdict(), d.Named(d.Verdict()), c.want, c.names)
		}
	}
	if d := (&Diagnosis{Checks: []Check{{Verdict: OK}}}); d.Verdict() != OK {
		t.Errorf("%s, want ok", d.Verdict())
	}
}

func TestTheEstimateOfTheFlowTablesIsWhatTheKernelCharges(t *testing.T) {
	lab.Need(t)
	spec, err := bpf.Load()
	if err != nil {
		t.Fatal(err)
	}
	for _, flows := range []int{1000, DefaultFlows} {
		sum := uint64(0)
		for _, table := range []string{"flows4", "flows6"} {
			spec.Maps[table].MaxEntries = uint32(flows)
			m, err := ebpf.NewMap(spec.Maps[table])
			if err != nil {
				t.Fatal(err)
			}
			info, err := m.Info()
			if err := errors.Join(err, m.Close()); err != nil {
				t.Fatal(err)
			}
			charged, ok := info.Memlock()
			if !ok {
				t.Skip("this kernel does not tell")
			}
			sum += charged
		}
		got, err := flowTableBytes(flows, ebpf.MustPossibleCPU())
		if err != nil {
			t.Fatal(err)
		}
		if got < sum*98/100-16<<10 || got > sum*102/100 {
			t.Errorf("%d flows: estimated %d bytes, the kernel charges %d", flows, got, sum)
		}
	}
}

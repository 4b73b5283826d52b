// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"strings"

	"github.com/xdptcp/xdptcp/bpf"
)

func checkLink(f *facts) Check {
	c := Check{Name: "link", Why: "frames must be Ethernet, and must arrive"}
	switch {
	case f.encap != "ether" || f.mac == "":
		return c.is(Fail, fmt.Sprintf("of type %q, not Ethernet", f.encap), "ip -brief link")
	case !f.up:
		return c.is(Fail, "down", fmt.Sprintf("ip link set %s up", f.name))
	case !f.carrier:
		return c.is(Warn, "up, without carrier", "ethtool "+f.name)
	}
	return c.is(OK, "Ethernet, up, "+f.mac, "")
}

func checkAddresses(f *facts) Check {
	c := Check{Name: "addresses", Why: "a service without ADDR is on the interface's own addresses"}
	if f.addrs == 0 {
		return c.is(Warn, "none", fmt.Sprintf("ip addr add ADDR/BITS dev %s", f.name))
	}
	return c.is(OK, fmt.Sprintf("%d", f.addrs), "")
}

// checkOccupied: an interface has room for one program.
func checkOccupied(f *facts) Check {
	c := Check{Name: "xdp", Why: "xdptcp does not take the place of another program"}
	if f.xdp == nil {
		return c.is(OK, "no program on it", "")
	}
	found := fmt.Sprintf("%s program id %d, name %q", f.xdp.mode, f.xdp.id, f.xdp.name)
	if f.xdp.name == programName {
		c.Why = "it is xdptcp that is there already, and a second is refused"
		v := Note
		if f.xdp.mode == string(Generic) {
			v = Warn
		}
		return c.is(v, found, "xdptcp status "+f.name)
	}
	if f.xdp.linkID != 0 { // ip link can't take off what a bpf_link holds
		return c.is(Fail, found, fmt.Sprintf("bpftool link detach id %d", f.xdp.linkID))
	}
	kind := "xdp"
	if f.xdp.mode == string(Generic) {
		kind = "xdpgeneric"
	}
	return c.is(Fail, found, fmt.Sprintf("ip link set %s %s off", f.name, kind))
}

func checkNative(f *facts) Check {
	c := Check{Name: "native", Why: "generic mode works on what the kernel has made an skb of, at a fraction of the speed"}
	driver := "driver " + f.driver
	if f.driver == "" {
		driver = "a driver without name"
	}
	switch {
	case absent(f.features.err):
		return c.is(Note, driver+": this kernel doesn't tell (Linux 6.3 does), attach tries", "")
	case f.features.err != nil:
		return c.unasked(f.features.err)
	case f.hasNative():
		return c.is(OK, fmt.Sprintf("%s: %s", driver, f.features.act), "")
	case f.driver == "veth":
		c.Why = "veth has it if this end has as many RX queues as the peer has TX queues"
		return c.is(Warn, driver+": none as it is", fmt.Sprintf("ethtool -L %s rx %d", f.name, max(f.channels.maxRx, 1)))
	}
	return c.is(Warn, fmt.Sprintf("%s: %s", driver, f.features.act), "")
}

func checkZeroCopy(f *facts) Check {
	c := Check{Name: "zero-copy", Why: "without it the kernel copies each frame to and from user space"}
	switch {
	case f.features.err != nil:
		return c.unasked(f.features.err)
	case f.features.act&actZeroCopy == 0:
		return c.is(Note, "not in this driver", "")
	}
	found := "in this driver"
	if f.features.zcMaxSegs > 1 {
		found += fmt.Sprintf(", frames of up to %d fragments", f.features.zcMaxSegs)
	}
	return c.is(OK, found, "")
}

// checkPeer: what XDP_TX sends on veth needs a receive loop at the other end, which only a program
// there sets up. Generic XDP sends by the ordinary way.
func checkPeer(f *facts) Check {
	if f.driver != "veth" {
		return Check{}
	}
	c := Check{Name: "veth-peer", Why: "the other end must have an XDP program too (XDP_PASS will do), or native mode's SYN/ACKs are lost"}
	generic := fmt.Sprintf("xdptcp attach %s --mode generic", f.name)
	switch {
	case f.peer.err != nil:
		c = c.unasked(f.peer.err)
		c.Command = generic
		return c
	case !f.peer.xdp:
		return c.is(Warn, "without an XDP program", generic)
	}
	return c.is(OK, "has an XDP program", "")
}

func checkQueues(f *facts) Check {
	c := Check{Name: "queues", Why: "each RX queue is one shard, the work of one CPU at a time"}
	kind, possible := "rx", f.channels.maxRx
	if f.channels.maxCombined > 0 {
		kind, possible = "combined", f.channels.maxCombined
	}
	set := func(n int) string { return fmt.Sprintf("ethtool -L %s %s %d", f.name, kind, n) }
	told := "TX not told"
	if possible > 0 {
		told = fmt.Sprintf("%d TX of %d %s", f.channels.tx+f.channels.combined, possible, kind)
	}
	found := fmt.Sprintf("%d RX, %s; %d CPUs", f.queues, told, f.cpus)
	switch want := min(f.cpus, int(possible)); {
	case f.queues > bpf.MaxQueues:
		c.Why = fmt.Sprintf("xdptcp serves at most %d RX queues", bpf.MaxQueues)
		return c.is(Fail, found, set(bpf.MaxQueues))
	case f.queues < want:
		return c.is(Note, found, set(want))
	case f.queues < f.cpus:
		return c.is(Note, found, "")
	}
	return c.is(OK, found, "")
}

// The sizes that native XDP has room for when a frame lies in one page, as it does for xdptcp: 4096
// bytes without headroom (256), struct skb_shared_info (320) and the Ethernet header. It is veth's limit;
// others' are lower, some by much, but none is below the MTU of plain Ethernet.
const (
	nativeMTU = 4096 - 256 - 320 - 14
	plainMTU  = 1500
)

func checkMTU(f *facts) Check {
	c := Check{Name: "mtu", Why: "a frame must fit in an AF_XDP buffer, and in one page for native XDP"}
	found := fmt.Sprint(f.mtu)
	lower := fmt.Sprintf("ip link set %s mtu %d", f.name, plainMTU)
	if _, err := f.frameSize(); err != nil {
		return c.is(Fail, found+", above the AF_XDP buffer", lower)
	}
	switch {
	case f.mtu > nativeMTU:
		return c.is(Warn, fmt.Sprintf("%s, above native XDP's %d", found, nativeMTU), lower)
	case f.mtu > plainMTU && f.driver != "veth":
		return c.is(Note, found+", which some drivers refuse for native XDP", lower)
	}
	return c.is(OK, found, "")
}

func checkLRO(f *facts) Check {
	c := Check{Name: "lro", Why: "most drivers refuse native XDP while they merge segments"}
	if f.lro == on {
		return c.is(Warn, f.lro.String(), fmt.Sprintf("ethtool -K %s lro off", f.name))
	}
	return c.is(OK, f.lro.String(), "")
}

func checkGRO(f *facts) Check {
	c := Check{Name: "gro", Why: "in generic mode, frames that GRO has merged are too large for AF_XDP and lost"}
	if f.gro == on && f.mode() == Generic {
		return c.is(Note, f.gro.String(), fmt.Sprintf("ethtool -K %s gro off", f.name))
	}
	return c.is(OK, f.gro.String(), "")
}

func checkRxChecksum(f *facts) Check {
	c := Check{Name: "rx-checksum", Why: "without it the kernel sums by itself what passes to it; xdptcp always does"}
	if f.rxChecksum == off {
		return c.is(Note, f.rxChecksum.String(), fmt.Sprintf("ethtool -K %s rx on", f.name))
	}
	return c.is(OK, f.rxChecksum.String(), "")
}

func checkVLAN(f *facts) Check {
	c := Check{Name: "rx-vlan", Why: "XDP does not see a VLAN tag that the hardware has stripped"}
	found := f.rxVLAN.String()
	if len(f.vlans) > 0 {
		found += "; VLAN devices " + strings.Join(f.vlans, ", ")
	}
	stop := fmt.Sprintf("ethtool -K %s rxvlan off", f.name)
	switch {
	case f.rxVLAN == on && len(f.vlans) > 0:
		return c.is(Warn, found, stop)
	case f.rxVLAN == on:
		return c.is(Note, found, stop)
	}
	return c.is(OK, found, "")
}

func checkMaster(f *facts) Check {
	c := Check{Name: "master", Why: "addresses and services are the master's, where an interface has one"}
	found := fmt.Sprintf("%s, a %s", f.master, f.masterKind)
	switch f.masterKind {
	case "":
		return c.is(OK, "none", "")
	case "bond", "team":
		c.Why = "what is attached to one slave misses what comes by the others"
		return c.is(Warn, found, "xdptcp attach "+f.master)
	case "bridge":
		c.Why = "what crosses the port is in transit, or for the bridge's own address"
		return c.is(Warn, found, "xdptcp attach "+f.master)
	}
	return c.is(Note, found, "")
}

func checkTC(f *facts) Check {
	c := Check{Name: "tc", Why: "programs on tc ingress don't see what XDP takes"}
	programs := append(append([]string(nil), f.tcx...), f.clsact...)
	switch {
	case len(programs) > 0:
		return c.is(Note, strings.Join(programs, ", "), "bpftool net show dev "+f.name)
	case f.tcxErr != nil && !absent(f.tcxErr):
		return c.unasked(f.tcxErr)
	}
	return c.is(OK, "no programs on ingress", "")
}

// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// linkFacts are what holds for one interface.
type linkFacts struct {
	name     string
	encap    string // "ether" for Ethernet
	mac      string
	up       bool
	carrier  bool
	mtu      int
	addrs    int
	driver   string
	channels ethtoolChannels // all zero if the driver doesn't tell
	queues   int             // RX queues in use

	lro, gro, rxChecksum, rxVLAN setting

	vlans      []string // VLAN devices on top
	master     string   // "" is none
	masterKind string   // "bond", "bridge", …

	xdp      *xdpFacts // nil: no program
	tcx      []string  // names of programs on tcx ingress
	tcxErr   error     // answer: tcx
	clsact   []string  // names of programs on clsact's ingress
	features xdpFeatures
	peer     vethPeer // meaningful for veth
}

// xdpFacts are of the program that is on the interface already.
type xdpFacts struct {
	id     uint32
	name   string // "?" if it can't be read
	mode   string // "native", "generic", "offloaded", "multi"
	linkID uint32 // 0: not held by a bpf_link, or not seen
}

// vethPeer is the other end of a veth pair.
type vethPeer struct {
	err error // it can't be looked at, and why
	xdp bool  // it has an XDP program, in the driver
}

// readLink asks about an interface of the calling thread's network namespace.
func readLink(name string) (linkFacts, error) {
	dev, err := netlink.LinkByName(name)
	if err != nil {
		var missing netlink.LinkNotFoundError
		if errors.As(err, &missing) {
			return linkFacts{}, fmt.Errorf("no such interface: %q (there are: %s)", name, interfaceNames())
		}
		return linkFacts{}, fmt.Errorf("interface %q: %w", name, err)
	}
	attrs := dev.Attrs()
	l := linkFacts{
		name: name, encap: attrs.EncapType, mac: attrs.HardwareAddr.String(), mtu: attrs.MTU,
		up: attrs.RawFlags&unix.IFF_UP != 0, carrier: attrs.RawFlags&unix.IFF_LOWER_UP != 0,
	}
	if addrs, err := netlink.AddrList(dev, netlink.FAMILY_ALL); err == nil {
		l.addrs = len(addrs)
	}
	l.readEthtool()
	if l.queues == 0 {
		l.queues = max(1, attrs.NumRxQueues)
	}
	l.readNeighbours(attrs)
	if attrs.Xdp != nil && attrs.Xdp.Attached {
		l.xdp = readXDP(attrs.Xdp)
	}
	l.readTC(dev)
	l.features = readXDPFeatures(attrs.Index)
	if l.driver == "veth" {
		l.peer = readPeer(attrs)
	}
	return l, nil
}

// readEthtool asks the driver. What it doesn't say stays zero.
func (l *linkFacts) readEthtool() {
	l.driver, l.queues = ethtool(l.name)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	l.channels, _ = getChannels(fd, l.name)
	if flags, err := getValue(fd, l.name, unix.ETHTOOL_GFLAGS); err == nil {
		l.lro, l.rxVLAN = settingOf(flags&flagLRO != 0), settingOf(flags&flagRxVLAN != 0)
	}
	if gro, err := getValue(fd, l.name, unix.ETHTOOL_GGRO); err == nil {
		l.gro = settingOf(gro != 0)
	}
	if sums, err := getValue(fd, l.name, unix.ETHTOOL_GRXCSUM); err == nil {
		l.rxChecksum = settingOf(sums != 0)
	}
}

// readNeighbours finds what is stacked on the interface, and what it is a part of.
func (l *linkFacts) readNeighbours(attrs *netlink.LinkAttrs) {
	links, err := netlink.LinkList()
	if err != nil {
		return
	}
	for _, other := range links {
		o := other.Attrs()
		// A parent in another namespace has an index of that namespace.
		if other.Type() == "vlan" && o.ParentIndex == attrs.Index && o.NetNsID == -1 {
			l.vlans = append(l.vlans, o.Name)
		}
		if o.Index == attrs.MasterIndex {
			l.master, l.masterKind = o.Name, other.Type()
		}
	}
}

func readXDP(xdp *netlink.LinkXdp) *xdpFacts {
	x := &xdpFacts{id: xdp.ProgId, name: programNameOf(xdp.ProgId)}
	switch xdp.AttachMode {
	case nl.XDP_ATTACHED_DRV:
		x.mode = string(Native)
	case nl.XDP_ATTACHED_SKB:
		x.mode = string(Generic)
	case nl.XDP_ATTACHED_HW:
		x.mode = "offloaded"
	default:
		x.mode = "multi"
	}
	it := new(link.Iterator)
	defer it.Close()
	for it.Next() {
		if info, err := it.Link.Info(); err == nil && info.Type == link.XDPType && info.Program == ebpf.ProgramID(xdp.ProgId) {
			x.linkID = uint32(info.ID)
		}
	}
	return x
}

// programNameOf is the name of a loaded program; "?" if it can't be read.
func programNameOf(id uint32) string {
	p, err := ebpf.NewProgramFromID(ebpf.ProgramID(id))
	if err != nil {
		return "?"
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return "?"
	}
	return info.Name
}

// readTC lists the BPF programs that run on ingress after XDP.
func (l *linkFacts) readTC(dev netlink.Link) {
	programs, err := link.QueryPrograms(link.QueryOptions{Target: dev.Attrs().Index, Attach: ebpf.AttachTCXIngress})
	switch {
	case errors.Is(err, unix.EINVAL): // it does not know the attach type
		l.tcxErr = ebpf.ErrNotSupported
	case err != nil:
		l.tcxErr = err
	default:
		for _, p := range programs.Programs {
			l.tcx = append(l.tcx, programNameOf(uint32(p.ID)))
		}
	}
	filters, err := netlink.FilterList(dev, netlink.HANDLE_MIN_INGRESS)
	if err != nil {
		return // no clsact
	}
	for _, f := range filters {
		if b, ok := f.(*netlink.BpfFilter); ok {
			l.clsact = append(l.clsact, b.Name)
		}
	}
}

// readPeer looks at the other end of a veth pair, which may be in another network namespace.
func readPeer(attrs *netlink.LinkAttrs) vethPeer {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(attrs.ParentIndex)
	req.AddData(msg)
	if nsid := int32(attrs.NetNsID); nsid >= 0 {
		req.AddData(nl.NewRtAttr(unix.IFLA_TARGET_NETNSID, nl.Uint32Attr(uint32(nsid))))
	}
	answers, err := req.Execute(unix.NETLINK_ROUTE, 0)
	if err != nil {
		return vethPeer{err: err}
	}
	if len(answers) != 1 {
		return vethPeer{err: fmt.Errorf("%d answers to RTM_GETLINK", len(answers))}
	}
	peer, err := netlink.LinkDeserialize(nil, answers[0])
	if err != nil {
		return vethPeer{err: err}
	}
	xdp := peer.Attrs().Xdp
	return vethPeer{xdp: xdp != nil && xdp.Attached && xdp.AttachMode != nl.XDP_ATTACHED_SKB}
}

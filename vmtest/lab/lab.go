// SPDX-License-Identifier: Apache-2.0

// Package lab makes a network to try things on: two network namespaces, a
// server's and a client's, joined by a veth pair.
//
//	 the process that calls New
//	┌──────────────────────┬──────────────────────┐
//	│ namespace "server"   │ namespace "client"   │
//	│                      │                      │
//	│   srv0 ──────────── veth ──────────── cli0  │
//	│   192.0.2.1/24       │   192.0.2.2/24       │
//	│   2001:db8::1/64     │   2001:db8::2/64     │
//	│   02:00:5e:00:53:01  │   02:00:5e:00:53:02  │
//	│   default via .2     │   XDP_PASS on cli0   │
//	└──────────────────────┴──────────────────────┘
//
// A lab is used through its two hosts:
//
//	l, err := lab.New(lab.Options{})
//	if err != nil { … }
//	defer l.Close()
//	ln, err := l.Server.Listen("tcp", "192.0.2.1:80")
//	c, err := l.Client.Dial(ctx, "tcp", "192.0.2.1:80")
//
// The namespaces have no name and no mount: they are kept by file descriptors
// and threads of this process only. So the kernel takes a lab away, veth pair
// and all, with the process that made it, however that ends. Nothing shows in
// the host's own namespace at any time, and any number of labs, with the same
// addresses in each, may exist at once.
//
// When New returns the pair is usable at once: both carriers are up, the IPv6
// addresses are past duplicate address detection, and each end has a permanent
// neighbour entry for the other, so the first frame on the wire is the caller's.
//
// Of the veth driver one must know two things. Frames that XDP_TX sends to the
// client arrive only if the client's end has an XDP program too, hence the
// XDP_PASS there. And a kernel peer leaves only the pseudo-header's checksum in
// its segments (the "hardware" is to do the rest) unless its offloads are turned
// off: see [Host.Offload].
package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrClosed is wrapped by the errors of a lab that has been closed.
var ErrClosed = errors.New("the lab is closed")

// Options say what New makes. The zero value is a good lab.
type Options struct {
	// Queues is the number of receive and of transmit queues at each end of the
	// pair: 1 to 256. 0 means 1.
	Queues int

	// MTU of both ends in bytes, without the Ethernet header: 1280 (the least for
	// IPv6) to 65535. 0 means the driver's, 1500.
	MTU int

	// PlainClient leaves the XDP_PASS program off the client's end. What the
	// server sends by XDP_TX is then lost on the way: for tests of just that.
	PlainClient bool
}

// Lab is two hosts joined by a wire. Its methods may be called from any
// goroutine.
type Lab struct {
	// Server has 192.0.2.1 and 2001:db8::1 on srv0, and routes everything that it
	// has no other route for (spoofed sources, say) to the client.
	Server *Host
	// Client has 192.0.2.2 and 2001:db8::2 on cli0.
	Client *Host

	pass     link.Link // XDP_PASS at the client's end: lost as soon as nobody holds it
	closing  sync.Once
	closeErr error
}

// New makes a lab. It needs CAP_NET_ADMIN, CAP_SYS_ADMIN (for the namespaces)
// and CAP_BPF: see [Available], and [Need] for tests. Close it when done.
func New(o Options) (_ *Lab, err error) {
	if o.Queues == 0 {
		o.Queues = 1
	}
	if o.Queues < 1 || o.Queues > 256 {
		return nil, fmt.Errorf("make a lab: %d queues asked for: give 1 to 256", o.Queues)
	}
	if o.MTU != 0 && (o.MTU < 1280 || o.MTU > 65535) {
		return nil, fmt.Errorf("make a lab: MTU %d asked for: give 1280 (IPv6 needs it) to 65535", o.MTU)
	}

	l := new(Lab)
	defer func() {
		if err != nil {
			err = fmt.Errorf("make a lab: %w", errors.Join(err, l.Close()))
		}
	}()

	l.Server, err = newHost("server", "srv0", 1)
	if err != nil {
		return nil, err
	}
	l.Client, err = newHost("client", "cli0", 2)
	if err != nil {
		return nil, err
	}
	if err := l.plug(o); err != nil {
		return nil, err
	}
	for _, end := range []struct{ h, peer *Host }{{l.Server, l.Client}, {l.Client, l.Server}} {
		if err := end.h.Do(func() error { return end.h.configure(end.peer) }); err != nil {
			return nil, err
		}
	}
	if !o.PlainClient {
		if l.pass, err = l.Client.attachPass(); err != nil {
			return nil, err
		}
	}
	for _, h := range []*Host{l.Server, l.Client} {
		if err := h.Do(h.waitReady); err != nil {
			return nil, err
		}
		if h.made, err = h.Offloads(); err != nil {
			return nil, err
		}
	}
	// IPv6 wants the carrier before it takes a route, so this comes last.
	return l, l.Server.Do(func() error { return l.Server.routeTo(l.Client) })
}

// plug makes the veth pair, each end in its own namespace from the start.
func (l *Lab) plug(o Options) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = l.Server.Iface
	attrs.HardwareAddr = l.Server.MAC
	attrs.MTU = o.MTU
	attrs.NumTxQueues, attrs.NumRxQueues = o.Queues, o.Queues

	veth := netlink.NewVeth(attrs)
	veth.PeerName = l.Client.Iface
	veth.PeerHardwareAddr = l.Client.MAC
	veth.PeerNamespace = netlink.NsFd(l.Client.NS())
	veth.PeerMTU = uint32(o.MTU)
	veth.PeerNumTxQueues, veth.PeerNumRxQueues = uint32(o.Queues), uint32(o.Queues)

	err := l.Server.Do(func() error { return netlink.LinkAdd(veth) })
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("add the veth pair %s–%s: %w; load the module (modprobe veth) or use a kernel with CONFIG_VETH", l.Server.Iface, l.Client.Iface, err)
	case err != nil:
		return fmt.Errorf("add the veth pair %s–%s with %d queues, MTU %d: %w%s", l.Server.Iface, l.Client.Iface, o.Queues, o.MTU, err, advice(err))
	}
	return nil
}

// Close kills the processes that the hosts' Commands started, ends the captures,
// takes the veth pair away and lets go of the namespaces. The kernel destroys a
// namespace once nothing holds it any more: sockets from Dial and Listen, and
// programs entered by way of NSPath, do so until they are closed. Calling Close
// again does nothing and returns the same.
func (l *Lab) Close() error {
	l.closing.Do(func() { l.closeErr = l.close() })
	return l.closeErr
}

func (l *Lab) close() error {
	var errs []error
	if l.pass != nil {
		if err := l.pass.Close(); err != nil {
			errs = append(errs, fmt.Errorf("detach XDP_PASS from %s: %w", l.Client.Iface, err))
		}
	}
	for _, h := range []*Host{l.Client, l.Server} {
		if h != nil {
			errs = append(errs, h.stop())
		}
	}
	if l.Server != nil {
		// The pair would go with the namespaces anyway, but a socket that somebody
		// left open would keep it; deleting one end takes both.
		if err := l.Server.home.do(func() error { return unplug(l.Server.Iface) }); err != nil {
			errs = append(errs, err)
		}
	}
	for _, h := range []*Host{l.Client, l.Server} {
		if h != nil {
			errs = append(errs, h.home.leave())
		}
	}
	return errors.Join(errs...)
}

// unplug deletes the interface name in the calling thread's namespace; that it
// is not there is no error.
func unplug(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		if _, absent := errors.AsType[netlink.LinkNotFoundError](err); absent {
			return nil
		}
		return fmt.Errorf("look %s up to delete it: %w", name, err)
	}
	if err := netlink.LinkDel(l); err != nil {
		return fmt.Errorf("delete the veth pair at %s: %w", name, err)
	}
	return nil
}

// newHost makes the namespace of the host whose addresses end in id.
func newHost(name, iface string, id byte) (*Host, error) {
	home, err := newHome()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	h := &Host{
		Name:     name,
		Iface:    iface,
		MAC:      net.HardwareAddr{0x02, 0x00, 0x5e, 0x00, 0x53, id},
		Addr4:    netip.AddrFrom4([4]byte{192, 0, 2, id}),
		Addr6:    netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 15: id}),
		home:     home,
		cmds:     make(map[*Cmd]struct{}),
		groups:   make(map[int]struct{}),
		captures: make(map[*Capture]struct{}),
	}
	// Before there is an interface, so that it is born with them.
	if err := h.Do(h.quiet); err != nil {
		return nil, errors.Join(err, home.leave())
	}
	return h, nil
}

// quiet keeps the host from talking unasked and from dropping what has an
// unusual source. It runs inside.
func (h *Host) quiet() error {
	for _, conf := range []string{"all", "default"} {
		for _, s := range [][2]string{
			{"ipv6.conf." + conf + ".disable_ipv6", "0"},
			{"ipv6.conf." + conf + ".accept_dad", "0"},
			{"ipv6.conf." + conf + ".dad_transmits", "0"},
			{"ipv6.conf." + conf + ".router_solicitations", "0"},
			{"ipv6.conf." + conf + ".accept_ra", "0"},
			{"ipv4.conf." + conf + ".rp_filter", "0"},
		} {
			if err := writeSysctl("net."+s[0], s[1]); err != nil {
				return fmt.Errorf("%s: %w", h.Name, err)
			}
		}
	}
	// No link-local address: all it does here is announce itself. Kernels that
	// can't be told so are a little noisier, and that is all.
	_ = writeSysctl("net.ipv6.conf.default.addr_gen_mode", "1")
	// Multicast groups are reported as MLDv1 does: once as they are joined, which
	// is over when the address is ready, and once more at random within this many
	// milliseconds, eleven days. MLDv2 would send a few ticks after New returned.
	_ = writeSysctl("net.ipv6.conf.default.force_mld_version", "1")
	_ = writeSysctl("net.ipv6.conf.default.mldv1_unsolicited_report_interval", "1000000000")
	return nil
}

// configure brings the host's interfaces up with its addresses and the peer's
// neighbour entries. It runs inside.
func (h *Host) configure(peer *Host) error {
	fail := func(what string, err error) error {
		return fmt.Errorf("%s: %s: %w%s", h.Name, what, err, advice(err))
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return fail("bring lo up", err)
	}
	dev, err := netlink.LinkByName(h.Iface)
	if err != nil {
		return fail("look "+h.Iface+" up", err)
	}
	h.IfIndex = dev.Attrs().Index
	h.MAC = dev.Attrs().HardwareAddr

	for _, a := range []struct {
		ip    netip.Addr
		bits  int
		flags int
	}{{h.Addr4, 24, 0}, {h.Addr6, 64, unix.IFA_F_NODAD}} {
		n := &net.IPNet{IP: a.ip.AsSlice(), Mask: net.CIDRMask(a.bits, a.ip.BitLen())}
		if err := netlink.AddrAdd(dev, &netlink.Addr{IPNet: n, Flags: a.flags}); err != nil {
			return fail("add the address "+n.String()+" to "+h.Iface, err)
		}
	}
	if err := netlink.LinkSetUp(dev); err != nil {
		return fail("bring "+h.Iface+" up", err)
	}
	for _, ip := range []netip.Addr{peer.Addr4, peer.Addr6} {
		if err := netlink.NeighSet(&netlink.Neigh{
			LinkIndex:    h.IfIndex,
			State:        netlink.NUD_PERMANENT,
			IP:           ip.AsSlice(),
			HardwareAddr: peer.MAC,
		}); err != nil {
			return fail("add the neighbour "+ip.String()+" on "+h.Iface, err)
		}
	}
	return nil
}

// routeTo sends what the host has no route for to gw. It runs inside.
func (h *Host) routeTo(gw *Host) error {
	for _, ip := range []netip.Addr{gw.Addr4, gw.Addr6} {
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: h.IfIndex, Gw: ip.AsSlice()}); err != nil {
			return fmt.Errorf("%s: add the default route by %s: %w", h.Name, ip, err)
		}
	}
	return nil
}

// readyWithin bounds the wait for the carrier. It takes a millisecond or two.
const readyWithin = 5 * time.Second

// waitReady returns when the carrier is up and no address is tentative. It runs
// inside.
func (h *Host) waitReady() error {
	for start := time.Now(); ; time.Sleep(time.Millisecond) {
		dev, err := netlink.LinkByIndex(h.IfIndex)
		if err != nil {
			return fmt.Errorf("%s: look %s up: %w", h.Name, h.Iface, err)
		}
		addrs, err := netlink.AddrList(dev, netlink.FAMILY_V6)
		if err != nil {
			return fmt.Errorf("%s: list the addresses of %s: %w", h.Name, h.Iface, err)
		}
		tentative := false
		for _, a := range addrs {
			tentative = tentative || a.Flags&unix.IFA_F_TENTATIVE != 0
		}
		state := dev.Attrs().OperState
		if state == netlink.OperUp && !tentative {
			return nil
		}
		if time.Since(start) > readyWithin {
			return fmt.Errorf("%s: wait for %s: after %v its link is %s and an IPv6 address tentative: %t; is the machine overloaded?",
				h.Name, h.Iface, readyWithin, state, tentative)
		}
	}
}

// advice says what to do about err, or nothing.
func advice(err error) string {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return "; run as root, or with CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_NET_RAW and CAP_BPF"
	}
	return ""
}

// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/xdptcp/xdptcp/bpf"
)

// addresses keep XDP's tables in step with the host's own addresses, those of all interfaces of the
// network namespace: a packet for an address of lo, or of a VLAN device, is the host's too, whatever
// interface it comes in by.
//
// The kernel's notifications only say when to look; what is there is then read as a whole. So it does not
// matter if one of them is lost. A port is held (see heldPorts) on an address before it is served there.
type addresses struct {
	services []Service
	fixed    []netip.Addr // that services name
	takeover bool
	before   []Service // of xdptcps that are there: one whose place we take, those on other interfaces
	ifindex  int
	log      *slog.Logger

	events *nl.NetlinkSocket
	route  *netlink.Handle
	ns     netns.NsHandle

	held     heldPorts
	locals   locals
	prefixes trie
	wide     bool
	served   map[netip.Addr]uint64 // services, by address; none: all of its ports are the kernel's
	warned   map[string]bool

	mu  sync.Mutex
	own map[netip.Addr]bool

	stop    context.CancelFunc // nil: not followed yet
	running sync.WaitGroup
}

// retryEvery is how often addresses are read without a notification: for those that could not be served
// when they came.
const retryEvery = 10 * time.Second

// openAddresses reads the host's addresses, in the network namespace of the calling thread, and holds the
// services' ports on them, unless they are to be taken over, or are held by an xdptcp that is there before.
func openAddresses(services, before []Service, dev *netdev, takeover bool, log *slog.Logger) (_ *addresses, err error) {
	a := &addresses{
		services: services, before: before, takeover: takeover, ifindex: dev.index, log: log, ns: netns.None(), wide: wide(services),
		held:   heldPorts{ifindex: dev.index, replacing: len(before) > 0, sockets: map[netip.AddrPort]int{}},
		served: map[netip.Addr]uint64{}, warned: map[string]bool{},
	}
	defer func() {
		if err != nil {
			a.close()
		}
	}()
	for _, s := range services {
		if s.Prefix.IsSingleIP() && !slices.Contains(a.fixed, s.Prefix.Addr()) {
			a.fixed = append(a.fixed, s.Prefix.Addr())
		}
	}
	if a.ns, err = netns.Get(); err != nil {
		return nil, fmt.Errorf("opening the network namespace: %w", err)
	}
	if a.route, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	// First the subscription, then the reading: nothing is missed in between.
	if a.events, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR); err != nil {
		return nil, fmt.Errorf("netlink: subscribing to address changes: %w", err)
	}
	for whole := false; !whole; { // not whole: they changed meanwhile
		if whole, err = a.read(); err != nil {
			return nil, err
		}
	}
	for addr := range a.all() {
		for _, s := range a.list(a.wanted(addr)) {
			if err := a.hold(addr, s); err != nil {
				return nil, err
			}
		}
	}
	return a, nil
}

// read takes the host's addresses from the kernel. Whole says that the list is what the host had at one
// moment; otherwise they changed meanwhile, and what was known before stays in the list.
func (a *addresses) read() (whole bool, err error) {
	list, err := a.route.AddrList(nil, netlink.FAMILY_ALL)
	whole = !errors.Is(err, netlink.ErrDumpInterrupted)
	if err != nil && whole {
		return false, fmt.Errorf("reading the host's addresses: %w", err)
	}
	own := map[netip.Addr]bool{}
	if !whole {
		maps.Copy(own, a.own)
	}
	for _, l := range list {
		ip, ok := netip.AddrFromSlice(l.IP)
		ip = ip.Unmap()
		switch {
		case !ok || ip.IsLoopback():
			continue
		case l.Flags&unix.IFA_F_DADFAILED != 0: // another host has it
			continue
		case ip.Is6() && ip.IsLinkLocalUnicast() && l.LinkIndex != a.ifindex: // of another link
			continue
		}
		own[ip] = true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.own = own
	return whole, nil
}

// Own are the host's own addresses.
func (a *addresses) Own() []netip.Addr {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.SortedFunc(maps.Keys(a.own), netip.Addr.Compare)
}

// all are the addresses that may have services: own ones, and fixed ones.
func (a *addresses) all() map[netip.Addr]bool {
	all := maps.Clone(a.own)
	for _, addr := range a.fixed {
		all[addr] = true
	}
	return all
}

// wanted are the services that belong on an address.
func (a *addresses) wanted(addr netip.Addr) uint64 {
	return servicesOn(a.services, hostPrefix(addr), a.own[addr])
}

// list is a set of services, with the number of each.
func (a *addresses) list(set uint64) map[int]Service {
	list := map[int]Service{}
	for i, s := range a.services {
		if set>>i&1 != 0 {
			list[i] = s
		}
	}
	return list
}

func (a *addresses) hold(addr netip.Addr, s Service) error {
	if a.takeover || s.Action == ActionKernel { // whose port the kernel's listener has
		return nil
	}
	err := a.held.hold(netip.AddrPortFrom(addr, s.Port))
	if taken := (errTaken{}); errors.As(err, &taken) && a.servedBefore(addr, s.Port) {
		return nil
	}
	return err
}

// servedBefore says whether the daemon before serves a port on an address: whoever holds it, its packets are ours already.
func (a *addresses) servedBefore(addr netip.Addr, port uint16) bool {
	set := servicesOn(a.before, hostPrefix(addr), a.own[addr])
	for i, s := range a.before {
		if set>>i&1 != 0 && s.Port == port {
			return true
		}
	}
	return false
}

// serve fills the maps.
func (a *addresses) serve(m *bpf.Objects) error {
	a.locals.map4, a.locals.map6 = m.Locals4, m.Locals6
	a.prefixes = trie{m.Prefixes4, m.Prefixes6}
	if err := putPrefixes(a.services, a.prefixes); err != nil {
		return err
	}
	for addr := range a.all() {
		if wanted := a.wanted(addr); wanted != 0 {
			if err := a.put(addr, wanted); err != nil {
				return fmt.Errorf("%w; give fewer addresses with ADDR:PORT", err)
			}
		}
	}
	ports := map[uint16]uint64{}
	for i, s := range a.services {
		ports[s.Port] |= 1 << i
	}
	for port, set := range ports { // last: they lead to the addresses
		if err := m.Ports.Put(uint32(netPort(port)), set); err != nil {
			return fmt.Errorf("map ports: %w", err)
		}
	}
	return nil
}

// start follows the host's addresses, from the moment that they were read. The ports that a daemon before has held are free
// now: they are held like all others.
func (a *addresses) start() {
	a.before = nil
	ctx, stop := context.WithCancel(context.Background())
	a.stop = stop
	changed := make(chan struct{}, 1)
	changed <- struct{}{}
	a.running.Go(func() { a.listen(ctx, changed) })
	a.running.Go(func() { a.follow(ctx, changed) })
}

// listen turns notifications into a flag.
func (a *addresses) listen(ctx context.Context, changed chan<- struct{}) {
	for ctx.Err() == nil {
		_, _, err := a.events.Receive()
		if err != nil && !errors.Is(err, unix.ENOBUFS) { // which says that some were lost
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
				a.log.Warn("netlink: notifications of address changes; they are read every 10 s", "err", err)
			}
		}
		select {
		case changed <- struct{}{}:
		default: // told already
		}
	}
}

func (a *addresses) follow(ctx context.Context, changed <-chan struct{}) {
	leave, err := enter(a.ns)
	if err != nil {
		a.log.Error("addresses that come or go are not noticed: entering the network namespace", "err", err)
		return
	}
	defer leave()
	retry := time.NewTicker(retryEvery)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-retry.C:
		}
		for whole := false; !whole && ctx.Err() == nil; {
			if whole, err = a.read(); err != nil {
				a.warnOnce("read", "the host's addresses could not be read; those served stay", "err", err)
				break
			}
			a.update()
		}
	}
}

// enter brings the calling goroutine into a network namespace, mostly the one that it is in.
func enter(ns netns.NsHandle) (leave func(), err error) {
	runtime.LockOSThread()
	here, err := netns.Get()
	if err == nil && !here.Equal(ns) {
		err = netns.Set(ns)
	}
	if err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	return func() {
		if netns.Set(here) == nil { // otherwise the thread ends with the goroutine
			runtime.UnlockOSThread()
		}
		_ = here.Close()
	}, nil
}

// update brings the tables in step with what was read.
func (a *addresses) update() {
	all := a.all()
	for addr := range a.served {
		if !all[addr] || a.wanted(addr) == 0 {
			a.report(addr, a.drop(addr))
		}
	}
	for addr := range all {
		wanted := a.wanted(addr)
		if wanted == 0 {
			continue
		}
		free := wanted
		for i, s := range a.list(wanted) {
			if err := a.hold(addr, s); err != nil {
				a.warnOnce(addr.String()+s.Where(), "an address of the host is not served", "addr", addr, "service", s.String(), "because", err)
				free &^= 1 << i
			} else {
				delete(a.warned, addr.String()+s.Where())
			}
		}
		if before, known := a.served[addr]; !known || before != free {
			a.report(addr, a.put(addr, free))
		}
	}
}

// report logs what became of a change.
func (a *addresses) report(addr netip.Addr, err error) {
	if err != nil {
		a.warnOnce(addr.String(), "the table of local addresses could not be changed", "addr", addr, "because", err)
		return
	}
	delete(a.warned, addr.String())
	var list []string
	for _, s := range a.list(a.served[addr]) {
		list = append(list, s.String())
	}
	a.log.Info("an address of the host changed", "addr", addr, "services", list)
}

// warnOnce logs what would otherwise be logged at every try.
func (a *addresses) warnOnce(what, msg string, args ...any) {
	if !a.warned[what] {
		a.warned[what] = true
		a.log.Warn(msg, args...)
	}
}

// put gives an address its services. One that has none of those of the prefix that it is in is hidden there
// by a longer prefix, its own.
func (a *addresses) put(addr netip.Addr, services uint64) error {
	if a.wide && services == 0 {
		if err := a.prefixes.put(hostPrefix(addr), uint64(0)); err != nil {
			return err
		}
	}
	if err := a.locals.put(addr, services); err != nil {
		return err
	}
	if a.wide && services != 0 {
		if err := a.prefixes.drop(hostPrefix(addr)); err != nil {
			return err
		}
	}
	a.released(addr, a.served[addr]&^services)
	a.served[addr] = services
	return nil
}

// drop makes an address one like all others.
func (a *addresses) drop(addr netip.Addr) error {
	if err := a.locals.put(addr, 0); err != nil {
		return err
	}
	if a.wide {
		if err := a.prefixes.drop(hostPrefix(addr)); err != nil {
			return err
		}
	}
	a.released(addr, a.served[addr])
	delete(a.served, addr)
	return nil
}

// released gives back the ports of services that are not on an address any more.
func (a *addresses) released(addr netip.Addr, services uint64) {
	for _, s := range a.list(services) {
		a.held.release(netip.AddrPortFrom(addr, s.Port))
	}
}

func (a *addresses) close() {
	if a.stop != nil {
		a.stop()
	}
	if a.events != nil {
		a.events.Close()
	}
	a.running.Wait()
	if a.route != nil {
		a.route.Close()
	}
	if a.ns.IsOpen() {
		_ = a.ns.Close()
	}
	for at := range a.held.sockets {
		a.held.release(at)
	}
}

// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"

	"github.com/xdptcp/xdptcp/bpf"
)

// ErrNotAttached says that there is no xdptcp on the interface.
var ErrNotAttached = errors.New("not attached")

// A foreignError says that an XDP program of somebody else is on the interface.
type foreignError struct {
	iface string
	id    uint32
	name  string
}

func (e *foreignError) Error() string {
	return fmt.Sprintf("interface %q has an XDP program of somebody else (id %d, name %q): xdptcp does not take its place; if nobody needs it: ip link set %s xdp off",
		e.iface, e.id, e.name, e.iface)
}

// An attached is an xdptcp that is on an interface, found by way of the kernel: interface, program, maps,
// link. That works from every mount namespace and for every daemon, dead ones included; the pin only keeps
// all of it alive.
type attached struct {
	iface   string
	mode    Mode
	info    *ebpf.ProgramInfo
	id      ebpf.ProgramID
	maps    map[string]*ebpf.Map
	control bpf.Control // as it was when read
	living  bool        // watch has seen a daemon renew its lease
}

// findAttached reads what is on an interface: ErrNotAttached if it has no XDP program, a *foreignError if that is
// not ours.
func findAttached(attrs *netlink.LinkAttrs) (_ *attached, err error) {
	if attrs.Xdp == nil || !attrs.Xdp.Attached {
		return nil, ErrNotAttached
	}
	a := &attached{iface: attrs.Name, mode: Native, id: ebpf.ProgramID(attrs.Xdp.ProgId), maps: map[string]*ebpf.Map{}}
	if attrs.Xdp.AttachMode == nl.XDP_ATTACHED_SKB {
		a.mode = Generic
	}
	prog, err := ebpf.NewProgramFromID(a.id)
	if err != nil {
		return nil, fmt.Errorf("XDP program id %d: %w (root may look)", a.id, err)
	}
	defer prog.Close()
	if a.info, err = prog.Info(); err != nil {
		return nil, fmt.Errorf("XDP program id %d: %w", a.id, err)
	}
	if a.info.Name != programName {
		return nil, &foreignError{iface: attrs.Name, id: attrs.Xdp.ProgId, name: a.info.Name}
	}
	defer func() {
		if err != nil {
			a.close()
		}
	}()
	ids, _ := a.info.MapIDs()
	for _, id := range ids {
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			return nil, fmt.Errorf("map id %d: %w", id, err)
		}
		info, err := m.Info()
		if err != nil {
			_ = m.Close() // the first error is the one to tell
			return nil, fmt.Errorf("map id %d: %w", id, err)
		}
		a.maps[info.Name] = m
	}
	if a.maps["controls"] == nil {
		return nil, fmt.Errorf("interface %q has an xdptcp of a version that this one does not know: stop it first", a.iface)
	}
	a.control, err = readControl(a.maps["controls"])
	return a, err
}

// findAttachedTo is findAttached for an index in the calling thread's network namespace.
func findAttachedTo(ifindex int) (*attached, error) {
	l, err := netlink.LinkByIndex(ifindex)
	if err != nil {
		return nil, fmt.Errorf("interface with index %d: %w", ifindex, err)
	}
	return findAttached(l.Attrs())
}

// alive says whether the lease held when it was read.
func (a *attached) alive() bool { return leaseAge(a.control.Lease) <= 0 }

// watch waits until the lease is renewed, or has run out: a daemon that was killed this moment is known as dead.
func (a *attached) watch() error {
	for seen := a.control.Lease; a.alive() && a.control.Lease == seen; time.Sleep(leaseEvery / 10) {
		var err error
		if a.control, err = readControl(a.maps["controls"]); err != nil {
			return err
		}
		a.living = a.control.Lease > seen
	}
	return nil
}

// deadFor is how long ago that ended; 0: it has not, or there never was one.
func (a *attached) deadFor() time.Duration {
	if a.control.Lease == 0 {
		return 0
	}
	return max(0, leaseAge(a.control.Lease))
}

// armed says whether the i-th service is.
func (a *attached) armed(i int) bool { return a.control.Armed>>i&1 != 0 }

// bpfLink finds what ties the program to the interface. Links of other network namespaces may have the same index, but not the program.
func (a *attached) bpfLink(ifindex int) (link.Link, error) {
	var it link.Iterator
	defer it.Close()
	for it.Next() {
		info, err := it.Link.Info()
		if err != nil {
			continue // of a kind that does not say, or just gone
		}
		if info.Type == link.XDPType && info.Program == a.id && info.XDP().Ifindex == uint32(ifindex) {
			return it.Take(), nil
		}
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("looking for the BPF link on %q: %w", a.iface, err)
	}
	return nil, fmt.Errorf("the XDP program on %q has no BPF link: take it off with: ip link set %s xdp off", a.iface, a.iface)
}

// handoffLink finds what ties the tcx program of kernel services to the interface, if there is one: it counts in
// the same map.
func (a *attached) handoffLink(ifindex int) (link.Link, error) {
	counters := a.maps["counters"]
	if counters == nil {
		return nil, nil
	}
	info, err := counters.Info()
	if err != nil {
		return nil, fmt.Errorf("map counters: %w", err)
	}
	id, _ := info.ID()
	var it link.Iterator
	defer it.Close()
	for it.Next() {
		info, err := it.Link.Info()
		if err != nil || info.Type != link.TCXType || info.TCX().Ifindex != uint32(ifindex) {
			continue
		}
		prog, err := ebpf.NewProgramFromID(info.Program)
		if err != nil {
			continue // just gone
		}
		about, err := prog.Info()
		_ = prog.Close() // only closes a file descriptor
		if err != nil {
			continue
		}
		if maps, _ := about.MapIDs(); slices.Contains(maps, id) {
			return it.Take(), nil
		}
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("looking for the tcx program on %q: %w", a.iface, err)
	}
	return nil, nil
}

func (a *attached) close() {
	for _, m := range a.maps {
		_ = m.Close() // only closes file descriptors
	}
}

// A hold is an attached xdptcp that this process is about to replace or to detach.
type hold struct {
	*attached
	shared *controlBlock
	link   link.Link
	tcx    link.Link // nil: it has no kernel services
	keep   *lease    // nil: not kept alive
}

// take gets hold of what is attached.
func (a *attached) take(ifindex int) (_ *hold, err error) {
	h := &hold{attached: a}
	if h.shared, err = openControl(a.maps["controls"]); err != nil {
		return nil, err
	}
	if h.link, err = a.bpfLink(ifindex); err != nil {
		_ = h.shared.close() // nothing was written
		return nil, err
	}
	if h.tcx, err = a.handoffLink(ifindex); err != nil {
		_ = h.link.Close() // these only close file descriptors
		_ = h.shared.close()
		return nil, err
	}
	return h, nil
}

// detachHandoff takes the tcx program off, unless it was taken over.
func (h *hold) detachHandoff() error {
	if h.tcx == nil {
		return nil
	}
	if err := h.tcx.Detach(); err != nil {
		return fmt.Errorf("interface %q: detaching the tcx program: %w", h.iface, err)
	}
	return nil
}

// dismiss ends the daemon that has it. If that one is alive, its lease is renewed here from now on, so that XDP goes on
// while it closes its connections.
func (h *hold) dismiss(owner uint64, pid int) {
	h.shared.dismiss(owner, pid)
	if h.living {
		h.keep = &lease{control: h.shared, owner: owner}
		h.keep.start()
	}
}

// held are the services whose ports its daemon holds; nil has none.
func (h *hold) held() (list []Service) {
	if h == nil {
		return nil
	}
	return h.parsedServices()
}

// parsedServices are its services; none if it is of another version: then their ports are found to be taken.
func (a *attached) parsedServices() (list []Service) {
	texts, err := a.services()
	if err != nil {
		return nil
	}
	for _, text := range texts {
		if s, err := ParseService(text); err == nil {
			list = append(list, s)
		}
	}
	return list
}

// servicesBeside are those of xdptcps on other interfaces of the calling thread's network namespace. The host's own addresses
// are the same for all of them, and each holds the ports.
func servicesBeside(ifindex int) (list []Service) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil // who is there is found by the ports that it holds
	}
	for _, l := range links {
		if l.Attrs().Index == ifindex {
			continue
		}
		if a, err := findAttached(l.Attrs()); err == nil {
			list = append(list, a.parsedServices()...)
			a.close()
		}
	}
	return list
}

// release lets go of it, as it is.
func (h *hold) release() {
	if h.keep != nil {
		h.keep.end()
	}
	if h.link != nil {
		_ = h.link.Close() // only closes a file descriptor
	}
	if h.tcx != nil {
		_ = h.tcx.Close()
	}
	_ = h.shared.close() // nothing is left that could be lost
	h.close()
}

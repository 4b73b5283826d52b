// SPDX-License-Identifier: Apache-2.0

package userspace

import (
	"fmt"
	"net/netip"
)

// A place is what a listener listens on. The zero prefix stands for all addresses.
type place struct {
	prefix netip.Prefix
	port   uint16
}

func (p place) String() string {
	if !p.prefix.IsValid() {
		return fmt.Sprintf(":%d", p.port)
	}
	return fmt.Sprintf("[%v]:%d", p.prefix, p.port)
}

// Listen takes the connections to a port: those to one address, or with the zero Addr those to any
// address that no other listener has taken. The XDP side decides which packets come at all.
func (e *Engine) Listen(addr netip.AddrPort) (*Listener, error) {
	a := addr.Addr().Unmap()
	return e.listen(place{netip.PrefixFrom(a, a.BitLen()), addr.Port()})
}

// ListenPrefix takes the connections to a port on all addresses of a prefix, but for those that a listener
// with a longer one has taken.
func (e *Engine) ListenPrefix(prefix netip.Prefix, port uint16) (*Listener, error) {
	if !prefix.IsValid() {
		return nil, fmt.Errorf("listen on port %d: the prefix is not valid", port)
	}
	return e.listen(place{prefix.Masked(), port})
}

func (e *Engine) listen(at place) (*Listener, error) {
	if at.port == 0 {
		return nil, fmt.Errorf("listen %v: no port given", at)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, taken := e.listeners[at]; taken {
		return nil, fmt.Errorf("listen %v: another listener of this engine has it", at)
	}
	l := newListener(e, at, e.cfg.Backlog)
	e.listeners[at] = l
	return l, nil
}

// listener finds who takes the connections to an address and port: who has the longest prefix. nil: nobody.
func (e *Engine) listener(local netip.AddrPort) *Listener {
	e.mu.RLock()
	defer e.mu.RUnlock()
	addr, port := local.Addr(), local.Port()
	if l := e.listeners[place{netip.PrefixFrom(addr, addr.BitLen()), port}]; l != nil {
		return l
	}
	best := e.listeners[place{port: port}]
	for at, l := range e.listeners {
		if at.port == port && at.prefix.Contains(addr) && (best == nil || at.prefix.Bits() > best.place.prefix.Bits()) {
			best = l
		}
	}
	return best
}

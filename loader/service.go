// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/xdptcp/xdptcp/bpf"
)

// A Service is a port that is ours.
type Service struct {
	// Prefix holds the addresses it is on, whether the host has them or not. The zero Prefix stands for
	// the host's own addresses, as they come and go.
	Prefix netip.Prefix
	Port   uint16
	Action string
}

// ParseService reads [ADDR|PREFIX]:PORT=ACTION. What is IPv6 is in brackets, or not: the last colon
// before "=" ends it.
func ParseService(s string) (Service, error) {
	where, action, ok := strings.Cut(s, "=")
	if !ok || action == "" {
		return Service{}, fmt.Errorf("%q: no action: want [ADDR|PREFIX]:PORT=ACTION, such as :8080=http", s)
	}
	colon := strings.LastIndexByte(where, ':')
	if colon < 0 {
		return Service{}, fmt.Errorf("%q: no port: want [ADDR|PREFIX]:PORT=ACTION, such as :8080=http", s)
	}
	port, err := strconv.ParseUint(where[colon+1:], 10, 16)
	if err != nil || port == 0 {
		return Service{}, fmt.Errorf("%q: port %q is not a number from 1 to 65535", s, where[colon+1:])
	}
	svc := Service{Port: uint16(port), Action: action}
	host := where[:colon]
	if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		host = host[1 : len(host)-1]
	}
	if host == "" {
		return svc, nil
	}
	if svc.Prefix, err = parsePrefix(host); err != nil {
		return Service{}, fmt.Errorf("%q: %w", s, err)
	}
	switch {
	case svc.Prefix.Bits() == 0:
		return Service{}, fmt.Errorf("%q: every address of the world is too many: name the prefixes that reach this host", s)
	case svc.Prefix.Addr().IsUnspecified():
		return Service{}, fmt.Errorf("%q: leave the address out to mean all of the host's own", s)
	case svc.Prefix.Addr().IsMulticast():
		return Service{}, fmt.Errorf("%q: TCP has no multicast", s)
	}
	return svc, nil
}

// parsePrefix reads an address or a prefix. An address is the prefix that holds nothing else.
func parsePrefix(text string) (netip.Prefix, error) {
	if !strings.Contains(text, "/") {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return netip.Prefix{}, fmt.Errorf("%q is not an IP address", text)
		}
		if addr.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("the zone %q is not needed: the interface is given", addr.Zone())
		}
		return hostPrefix(addr.Unmap()), nil
	}
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		return netip.Prefix{}, fmt.Errorf("%q is neither an IP address nor a prefix", text)
	case p.Addr().Is4In6():
		return netip.Prefix{}, fmt.Errorf("%q: write IPv4 prefixes as IPv4", text)
	case p != p.Masked():
		return netip.Prefix{}, fmt.Errorf("%q has bits set behind its first %d: %s would be right", text, p.Bits(), p.Masked())
	}
	return p, nil
}

func hostPrefix(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// String is the form that ParseService reads.
func (s Service) String() string { return s.Where() + "=" + s.Action }

// Where is String without the action.
func (s Service) Where() string {
	switch {
	case !s.Prefix.IsValid():
		return fmt.Sprintf(":%d", s.Port)
	case s.Prefix.IsSingleIP():
		return netip.AddrPortFrom(s.Prefix.Addr(), s.Port).String()
	case s.Prefix.Addr().Is4():
		return fmt.Sprintf("%s:%d", s.Prefix, s.Port)
	}
	return fmt.Sprintf("[%s]:%d", s.Prefix, s.Port)
}

// servicesOn is the set of services, as bits, that those who connect to an address in p find there:
// for each port the one on the longest prefix that contains p. Own says that p is an address of the host.
func servicesOn(services []Service, p netip.Prefix, own bool) (set uint64) {
	longest := map[uint16]int{} // by port: the service's number
	for i, s := range services {
		if s.Prefix.IsValid() {
			if s.Prefix.Bits() > p.Bits() || !s.Prefix.Contains(p.Addr()) {
				continue
			}
		} else if !own {
			continue
		}
		if other, ok := longest[s.Port]; !ok || services[other].Prefix.Bits() < s.Prefix.Bits() {
			longest[s.Port] = i
		}
	}
	for _, i := range longest {
		set |= 1 << i
	}
	return set
}

// CheckServices says whether the services can stand beside each other.
func CheckServices(services []Service) error {
	if len(services) == 0 {
		return fmt.Errorf("no service: nothing to listen on")
	}
	if len(services) > bpf.MaxServices {
		return fmt.Errorf("%d services: at most %d", len(services), bpf.MaxServices)
	}
	for i, a := range services {
		if p := a.Prefix; p != p.Masked() || p.Addr().Is4In6() {
			return fmt.Errorf("%v: want a prefix without bits behind its length, and IPv4 as IPv4", p)
		}
		for _, b := range services[:i] {
			if a.Port == b.Port && (a.Prefix == b.Prefix || !a.Prefix.IsValid() || !b.Prefix.IsValid()) {
				return fmt.Errorf("port %d is given twice: %s and %s", a.Port, b, a)
			}
		}
	}
	return nil
}

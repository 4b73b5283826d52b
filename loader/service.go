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
	// Addr is the address it is on. The zero Addr stands for the interface's own addresses.
	Addr   netip.Addr
	Port   uint16
	Action string
}

// ParseService reads [ADDR]:PORT=ACTION. IPv6 addresses are in brackets, or not: the last colon
// before "=" ends the address.
func ParseService(s string) (Service, error) {
	where, action, ok := strings.Cut(s, "=")
	if !ok || action == "" {
		return Service{}, fmt.Errorf("%q: no action: want [ADDR]:PORT=ACTION, such as :8080=http", s)
	}
	colon := strings.LastIndexByte(where, ':')
	if colon < 0 {
		return Service{}, fmt.Errorf("%q: no port: want [ADDR]:PORT=ACTION, such as :8080=http", s)
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
	addr, err := netip.ParseAddr(host)
	switch {
	case err != nil:
		return Service{}, fmt.Errorf("%q: %q is not an IP address", s, host)
	case addr.Zone() != "":
		return Service{}, fmt.Errorf("%q: the zone %q is not needed: the interface is given", s, addr.Zone())
	case addr.IsUnspecified():
		return Service{}, fmt.Errorf("%q: leave the address out to mean all of the interface's own", s)
	case addr.IsMulticast():
		return Service{}, fmt.Errorf("%q: TCP has no multicast", s)
	}
	svc.Addr = addr.Unmap()
	return svc, nil
}

// String is the form that ParseService reads.
func (s Service) String() string { return s.Where() + "=" + s.Action }

// Where is String without the action.
func (s Service) Where() string {
	if !s.Addr.IsValid() {
		return fmt.Sprintf(":%d", s.Port)
	}
	return netip.AddrPortFrom(s.Addr, s.Port).String()
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
		for _, b := range services[:i] {
			if a.Port == b.Port && (a.Addr == b.Addr || !a.Addr.IsValid() || !b.Addr.IsValid()) {
				return fmt.Errorf("port %d is given twice: %s and %s", a.Port, b, a)
			}
		}
	}
	return nil
}

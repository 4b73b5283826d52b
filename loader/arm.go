// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
)

// An Arming is what Arm did to one service.
type Arming struct {
	Service string // [ADDR]:PORT=ACTION
	Changed bool   // it was not so before
}

// Arm lets XDP answer the SYNs of services of the xdptcp on an interface, or, with armed false, leaves them to the kernel.
// No ports mean all services. Connections that exist go on.
func Arm(name string, ports []uint16, armed bool) (list []Arming, err error) {
	link, err := findLink(name)
	if err != nil {
		return nil, err
	}
	if err := checkPrivilege(); err != nil {
		return nil, err
	}
	at, err := placeOf(link.Attrs().Index)
	if err != nil {
		return nil, err
	}
	lock, err := lockPlace(at, name) // or a program that is just being replaced would be armed
	if err != nil {
		return nil, err
	}
	defer lock.release()
	a, err := findAttachedTo(at.index)
	if errors.Is(err, ErrNotAttached) {
		return nil, fmt.Errorf("%w to %s", err, name)
	}
	if err != nil {
		return nil, err
	}
	defer a.close()
	services, err := a.services()
	if err != nil {
		return nil, fmt.Errorf("interface %q: %w", name, err)
	}
	bits, err := serviceBits(services, ports)
	if err != nil {
		return nil, fmt.Errorf("interface %q: %w", name, err)
	}
	control, err := openControl(a.maps["controls"])
	if err != nil {
		return nil, err
	}
	var before uint64
	if armed {
		before = atomic.OrUint64(&control.Armed, bits)
	} else {
		before = atomic.AndUint64(&control.Armed, ^bits)
	}
	for i, svc := range services {
		if bits>>i&1 != 0 {
			list = append(list, Arming{Service: svc, Changed: before>>i&1 != 0 != armed})
		}
	}
	return list, control.close()
}

// serviceBits are the bits of the services on some ports; no ports: all.
func serviceBits(services []string, ports []uint16) (bits uint64, err error) {
	if len(ports) == 0 {
		return ^uint64(0), nil
	}
	found := map[uint16]bool{}
	for i, text := range services {
		svc, err := ParseService(text)
		if err != nil {
			return 0, err
		}
		if slices.Contains(ports, svc.Port) {
			bits |= 1 << i
			found[svc.Port] = true
		}
	}
	for _, port := range ports {
		if !found[port] {
			return 0, fmt.Errorf("no service on port %d: there are %s", port, strings.Join(services, " "))
		}
	}
	return bits, nil
}

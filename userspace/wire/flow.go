// SPDX-License-Identifier: Apache-2.0

package wire

import "net/netip"

// Flow names one connection from the server's point of view: Remote is the client, Local is us. It is
// comparable, a map key. IPv4 addresses are in the 4-in-6 mapped form (::ffff:a.b.c.d, RFC 4291, 2.5.5.2).
type Flow struct {
	Remote, Local         [16]byte
	RemotePort, LocalPort uint16
}

// mappedPrefix are the twelve bytes in front of an IPv4 address in its mapped form.
var mappedPrefix = [12]byte{10: 0xff, 11: 0xff}

// IsIPv4 reports whether the flow's addresses are mapped IPv4 addresses.
func (f Flow) IsIPv4() bool { return [12]byte(f.Local[:12]) == mappedPrefix }

// RemoteAddr is the client's address and port, IPv4 in its plain form.
func (f Flow) RemoteAddr() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(f.Remote).Unmap(), f.RemotePort)
}

// LocalAddr is our address and port, IPv4 in its plain form.
func (f Flow) LocalAddr() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(f.Local).Unmap(), f.LocalPort)
}

// String shows the flow as "remote > local".
func (f Flow) String() string {
	return f.RemoteAddr().String() + " > " + f.LocalAddr().String()
}

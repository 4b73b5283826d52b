// SPDX-License-Identifier: Apache-2.0

package flood

import (
	"encoding/binary"
	"net/netip"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

// The first of the flood's source addresses: flood.c.
var (
	source4 = netip.MustParseAddr("198.18.0.0")
	source6 = netip.MustParseAddr("2001:db8:f000::")
)

// The options of a Linux client's SYN: MSS 1460, SACK permitted, timestamps, NOP, window scale 7.
var synOptions = []byte{2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7}

// template is a SYN of the first source address to the server, with port 0 and sequence number 0. The
// checksums are right.
func template(l *lab.Lab, v6 bool, port uint16) []byte {
	tcp := make([]byte, 20, 40)
	binary.BigEndian.PutUint16(tcp[2:], port)
	tcp[12], tcp[13] = 40/4<<4, 0x02 // data offset, SYN
	binary.BigEndian.PutUint16(tcp[14:], 64240)
	tcp = append(tcp, synOptions...)

	frame := append(append([]byte(nil), l.Server.MAC...), l.Client.MAC...)
	src, dst := source4, l.Server.Addr4
	if v6 {
		src, dst = source6, l.Server.Addr6
	}
	addrs := append(src.AsSlice(), dst.AsSlice()...)
	binary.BigEndian.PutUint16(tcp[16:], ^onesSum(addrs, []byte{0, 6, 0, 40}, tcp))
	if v6 {
		ip := []byte{0x60, 0, 0, 0, 0, 40, 6, 64}
		frame = append(append(append(frame, 0x86, 0xdd), ip...), addrs...)
	} else {
		ip := []byte{0x45, 0, 0, 60, 0, 0, 0x40, 0, 64, 6, 0, 0} // don't fragment, TTL 64
		binary.BigEndian.PutUint16(ip[10:], ^onesSum(ip, addrs))
		frame = append(append(append(frame, 0x08, 0x00), ip...), addrs...)
	}
	return append(frame, tcp...)
}

// onesSum is the one's complement sum (RFC 1071) of slices of even length.
func onesSum(slices ...[]byte) uint16 {
	sum := uint32(0)
	for _, b := range slices {
		for ; len(b) > 0; b = b[2:] {
			sum += uint32(binary.BigEndian.Uint16(b))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

// A sender puts raw frames on the wire.
type sender struct {
	fd   int
	host *lab.Host
}

func newSender(t *testing.T, h *lab.Host) *sender {
	t.Helper()
	s := &sender{fd: -1, host: h}
	t.Cleanup(func() {
		if s.fd >= 0 {
			unix.Close(s.fd)
		}
	})
	if err := h.Do(func() (err error) {
		if s.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		// Straight to the driver: past the queue, and past a tcx program.
		if err := unix.SetsockoptInt(s.fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err != nil {
			return err
		}
		return unix.Bind(s.fd, &unix.SockaddrLinklayer{Ifindex: h.IfIndex})
	}); err != nil {
		t.Fatalf("raw socket on %s: %v", h.Iface, err)
	}
	return s
}

func (s *sender) send(frame []byte) error {
	for {
		_, err := unix.Write(s.fd, frame)
		if err != unix.EINTR && err != unix.ENOBUFS {
			return err
		}
	}
}

// raw says what is in a frame that is made by hand.
type raw struct {
	to       net.HardwareAddr
	from     net.HardwareAddr
	src, dst netip.AddrPort
	seq, ack uint32
	flags    byte
	options  []byte // a multiple of 4
	payload  []byte
	padded   bool     // with options of IPv4 or an extension header of IPv6 that mean nothing
	vlan     []uint16 // tag control information, the outermost first
}

// The options of a Linux SYN; the timestamp's value is at 8.
var synOptions = []byte{2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7}

// timestampOption is NOP NOP timestamps.
func timestampOption(val, ecr uint32) []byte {
	b := []byte{1, 1, 8, 10}
	b = binary.BigEndian.AppendUint32(b, val)
	return binary.BigEndian.AppendUint32(b, ecr)
}

// frame makes the bytes, all checksums right.
func (r raw) frame() []byte {
	tcp := binary.BigEndian.AppendUint16(nil, r.src.Port())
	tcp = binary.BigEndian.AppendUint16(tcp, r.dst.Port())
	tcp = binary.BigEndian.AppendUint32(tcp, r.seq)
	tcp = binary.BigEndian.AppendUint32(tcp, r.ack)
	tcp = append(tcp, byte(20+len(r.options))<<2, r.flags, 0xff, 0xff, 0, 0, 0, 0)
	tcp = append(append(tcp, r.options...), r.payload...)
	src, dst := r.src.Addr(), r.dst.Addr()
	binary.BigEndian.PutUint16(tcp[16:], ^sum16(pseudoHeader(src, dst, 6, len(tcp)), tcp))
	b := append(append([]byte{}, r.to...), r.from...)
	for _, tag := range r.vlan {
		b = binary.BigEndian.AppendUint16(append(b, 0x81, 0x00), tag)
	}
	if src.Is4() {
		ip := []byte{0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0}
		ip = append(append(ip, src.AsSlice()...), dst.AsSlice()...)
		if r.padded {
			ip[0]++
			ip = append(ip, 1, 1, 1, 0) // NOP, NOP, NOP, END
		}
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+len(tcp)))
		binary.BigEndian.PutUint16(ip[10:], ^sum16(ip))
		b = append(append(b, 0x08, 0x00), ip...)
	} else {
		ip := []byte{0x60, 0, 0, 0, byte(len(tcp) >> 8), byte(len(tcp)), 6, 64}
		ip = append(append(ip, src.AsSlice()...), dst.AsSlice()...)
		if r.padded {
			ip[6] = 60                              // destination options
			ip = append(ip, 6, 0, 1, 4, 0, 0, 0, 0) // PadN
			binary.BigEndian.PutUint16(ip[4:], uint16(8+len(tcp)))
		}
		b = append(append(b, 0x86, 0xdd), ip...)
	}
	return append(b, tcp...)
}

// spoofed is a source address that nobody has (RFC 2544 for IPv4, RFC 5180 for IPv6), with a port.
func spoofed(v4 bool, i int) netip.AddrPort {
	port := uint16(1024 + i%60000)
	if v4 {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18 + byte(i>>16&1), byte(i >> 8), byte(i)}), port)
	}
	a := netip.MustParseAddr("2001:2::").As16()
	a[5] = byte(i) // of many networks: what goes to one may be limited
	binary.BigEndian.PutUint32(a[12:], uint32(i))
	return netip.AddrPortFrom(netip.AddrFrom16(a), port)
}

// sendAll sends one frame for each of 0 … n-1.
func (s *sender) sendAll(n int, f func(i int) raw) error {
	for i := range n {
		if err := s.send(f(i).frame()); err != nil {
			return fmt.Errorf("frame %d: %w", i, err)
		}
	}
	return nil
}

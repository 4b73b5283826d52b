// SPDX-License-Identifier: Apache-2.0

package afxdp

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// A burst is a frame with more payload than fits one packet. The kernel cuts it into segments of which each has the headers
// of the first, but for sequence number, length, checksum, PSH and FIN (GSO): in the device if that can, and otherwise just in
// front of it. It goes out by a packet socket, because AF_XDP takes no such frames.
//
// Copy mode sends the TX ring's frames one by one, and each costs an skb, a run through the driver, and a softirq for
// whoever is behind it on this host. What the kernel cuts itself passes the driver as one list.
type burster struct {
	fd  int
	buf []byte // virtioHeader bytes, then the frame
}

// MaxBurst is the longest burst, with its headers: what fits IP's length field behind an Ethernet header.
const MaxBurst = 14 + 65535

// struct virtio_net_hdr (linux/virtio_net.h), in the machine's byte order.
const (
	virtioHeader      = 10
	virtioNeedsCsum   = 1
	virtioGSOTCPv4    = 1
	virtioGSOTCPv6    = 4
	tcpChecksumOffset = 16
)

// A Burst tells the kernel how to cut one.
type Burst struct {
	Len     int // of the frame, headers included
	Headers int // their length
	TCP     int // where the TCP header starts; its checksum field holds the pseudo-header's sum
	MSS     int // payload of each segment but the last
	IPv6    bool
}

// open makes the packet socket. It receives nothing: its protocol is 0.
func (b *burster) open(ifindex int) (err error) {
	if b.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
		return fmt.Errorf("socket(AF_PACKET): %w", err)
	}
	if err = unix.SetsockoptInt(b.fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
		return fmt.Errorf("setsockopt(PACKET_VNET_HDR): %w", err)
	}
	if err = unix.Bind(b.fd, &unix.SockaddrLinklayer{Ifindex: ifindex}); err != nil {
		return fmt.Errorf("bind(AF_PACKET): %w", err)
	}
	// The default is good for one burst or two.
	const room = 4 << 20
	if unix.SetsockoptInt(b.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, room) != nil {
		_ = unix.SetsockoptInt(b.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, room)
	}
	b.buf = make([]byte, virtioHeader+MaxBurst)
	return nil
}

func (b *burster) close() error {
	if b.fd < 0 {
		return nil
	}
	fd := b.fd
	b.fd, b.buf = -1, nil
	return unix.Close(fd)
}

// Burst returns the memory for a burst, MaxBurst bytes; nil if this socket sends none: without Config.Bursts, and in zero-copy
// mode, where the TX ring is the faster way, and what is on it would be overtaken.
func (s *Socket) Burst() []byte {
	if s.burst.buf == nil {
		return nil
	}
	return s.burst.buf[virtioHeader:]
}

// TransmitBurst sends what was written to Burst, behind what is on the TX ring. segments is how many it will be. After an
// error nothing of it was sent; it is EAGAIN if the TX ring is not empty and would be overtaken.
func (s *Socket) TransmitBurst(b Burst, segments int) error {
	if err := s.Flush(); err != nil {
		return err
	}
	if s.flushing.taken() || s.tx.pending() > 0 {
		return unix.EAGAIN
	}
	head := s.burst.buf[:virtioHeader]
	head[0], head[1] = virtioNeedsCsum, virtioGSOTCPv4
	if b.IPv6 {
		head[1] = virtioGSOTCPv6
	}
	binary.NativeEndian.PutUint16(head[2:], uint16(b.Headers))
	binary.NativeEndian.PutUint16(head[4:], uint16(b.MSS))
	binary.NativeEndian.PutUint16(head[6:], uint16(b.TCP))
	binary.NativeEndian.PutUint16(head[8:], tcpChecksumOffset)
	if _, err := unix.Write(s.burst.fd, s.burst.buf[:virtioHeader+b.Len]); err != nil {
		return fmt.Errorf("afxdp: send a burst: %w", err)
	}
	s.counters.txBursts.Add(1)
	s.counters.txFrames.Add(uint64(segments))
	s.counters.txBytes.Add(uint64(b.Len + (segments-1)*b.Headers))
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Packet is one frame that a Capture saw.
type Packet struct {
	Time     time.Time // when the kernel had it
	Data     []byte    // from the Ethernet header on, VLAN tag included; the receiver's to keep
	Length   int       // of the frame on the wire; more than len(Data) if cut to SnapLen
	Outgoing bool      // sent by the host; otherwise received by it

	// PartialChecksum: the sender left the TCP or UDP checksum to its interface,
	// and there is only the pseudo-header's sum in the frame.
	PartialChecksum bool
}

// CaptureOptions say how much a Capture keeps. The zero value is good.
type CaptureOptions struct {
	// Buffer is the number of frames that wait for their reader; more are dropped,
	// and counted. 0 means 4096.
	Buffer int
	// SnapLen is the number of bytes kept of a frame. 0 means all.
	SnapLen int
}

// Capture is a tap at a host's interface: all frames that its kernel sends and
// receives there. What an XDP program takes off the interface, or sends from it,
// does not pass the host's own tap; it is seen by the other end's.
type Capture struct {
	host    *Host
	sock    *os.File
	snap    int
	packets chan Packet
	dropped atomic.Uint64

	closing sync.Once
	done    chan struct{}
	err     error // why it ended, if not by Close
}

// Capture starts to capture: frames from its return on are seen. Close it.
func (h *Host) Capture(o CaptureOptions) (*Capture, error) {
	if o.Buffer == 0 {
		o.Buffer = 4096
	}
	if o.SnapLen == 0 {
		o.SnapLen = maxFrame
	}
	if o.Buffer < 0 || o.SnapLen < 0 {
		return nil, fmt.Errorf("%s: capture on %s: buffer %d, snap length %d: give positive numbers, or 0 for the defaults", h.Name, h.Iface, o.Buffer, o.SnapLen)
	}
	c := &Capture{
		host:    h,
		snap:    min(o.SnapLen, maxFrame),
		packets: make(chan Packet, o.Buffer),
		done:    make(chan struct{}),
	}
	var fd int
	if err := h.Do(func() (err error) { fd, err = openTap(h.IfIndex); return err }); err != nil {
		return nil, fmt.Errorf("%s: capture on %s: %w%s", h.Name, h.Iface, err, advice(err))
	}
	c.sock = os.NewFile(uintptr(fd), "capture on "+h.Iface)
	raw, err := c.sock.SyscallConn()
	if err == nil {
		h.mu.Lock()
		if h.closed {
			err = ErrClosed
		} else {
			h.captures[c] = struct{}{}
		}
		h.mu.Unlock()
	}
	if err != nil {
		c.sock.Close()
		return nil, fmt.Errorf("%s: capture on %s: %w", h.Name, h.Iface, err)
	}
	go c.read(raw)
	return c, nil
}

// Packets returns the channel of the frames, in the order of the tap (in which
// the stamps of two that passed on different CPUs at once may be swapped). It is
// closed after Close, when all that was captured before has been put there.
func (c *Capture) Packets() <-chan Packet { return c.packets }

// Dropped returns how many frames were lost because nobody read fast enough. The
// kernel's own losses are added at Close.
func (c *Capture) Dropped() uint64 { return c.dropped.Load() }

// Close ends the capture. What the tap saw before is still in Packets. It
// returns the error that ended the capture before its time, if one did.
func (c *Capture) Close() error {
	c.closing.Do(func() {
		_ = c.sock.SetReadDeadline(time.Unix(1, 0)) // wakes the reader; the socket is non-blocking
		<-c.done
		_ = c.sock.Close()
		c.host.mu.Lock()
		delete(c.host.captures, c)
		c.host.mu.Unlock()
	})
	<-c.done
	return c.err
}

// maxFrame: the largest that a veth pair carries, a super-segment of 64 KB with
// its Ethernet header, and room for a tag.
const maxFrame = 1 << 17

// openTap opens a packet socket on the interface. It runs inside.
func openTap(ifindex int) (_ int, err error) {
	// Protocol 0: deaf until it is bound, or it would hear every interface.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket(AF_PACKET): %w", err)
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	// As much as the kernel gives: FORCE wants CAP_NET_ADMIN in the first user
	// namespace, and a small buffer only drops sooner.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
		return -1, fmt.Errorf("setsockopt(SO_TIMESTAMPNS): %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1); err != nil {
		return -1, fmt.Errorf("setsockopt(PACKET_AUXDATA): %w", err)
	}
	if err := awaitStamps(); err != nil {
		return -1, err
	}
	all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL)) // htons
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: ifindex}); err != nil {
		return -1, fmt.Errorf("bind: %w", err)
	}
	return fd, nil
}

// read is the capture's goroutine.
func (c *Capture) read(raw syscall.RawConn) {
	defer close(c.done)
	defer close(c.packets)
	r := reader{buf: make([]byte, maxFrame), oob: make([]byte, 256)}
	for {
		var p Packet
		var err error
		wait := raw.Read(func(fd uintptr) bool {
			p, err = r.next(int(fd), c.snap)
			return err != unix.EAGAIN
		})
		switch {
		case errors.Is(wait, os.ErrDeadlineExceeded): // Close
			c.drain(raw, &r)
			return
		case wait != nil:
			c.err = fmt.Errorf("%s: capture on %s: %w", c.host.Name, c.host.Iface, wait)
			return
		case err == unix.ENETDOWN, err == unix.EINTR:
			// The interface is down, for now or for good: Close is still to come.
		case err != nil:
			c.err = fmt.Errorf("%s: capture on %s: recvmsg: %w", c.host.Name, c.host.Iface, err)
			return
		default:
			c.put(p)
		}
	}
}

// drain takes what the kernel has already queued, and its count of losses.
func (c *Capture) drain(raw syscall.RawConn, r *reader) {
	_ = raw.Control(func(fd uintptr) {
		// A filter that takes nothing, so that there is an end to it.
		none := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0}
		if err := unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &none}); err != nil {
			c.err = fmt.Errorf("%s: end the capture on %s: setsockopt(SO_ATTACH_FILTER): %w", c.host.Name, c.host.Iface, err)
			return
		}
		for {
			p, err := r.next(int(fd), c.snap)
			if err == unix.EINTR || err == unix.ENETDOWN {
				continue
			}
			if err != nil {
				break
			}
			c.put(p)
		}
		if s, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			c.dropped.Add(uint64(s.Drops))
		}
	})
}

func (c *Capture) put(p Packet) {
	select {
	case c.packets <- p:
	default:
		c.dropped.Add(1)
	}
}

// A reader turns messages of a packet socket into Packets.
type reader struct {
	buf, oob []byte
}

// next receives one frame, or fails with EAGAIN.
func (r *reader) next(fd, snap int) (Packet, error) {
	n, oobn, _, from, err := unix.Recvmsg(fd, r.buf, r.oob, unix.MSG_DONTWAIT|unix.MSG_TRUNC)
	if err != nil {
		return Packet{}, err
	}
	p := Packet{Length: n}
	if ll, ok := from.(*unix.SockaddrLinklayer); ok {
		p.Outgoing = ll.Pkttype == unix.PACKET_OUTGOING
	}
	frame := r.buf[:min(n, len(r.buf))]
	msgs, err := unix.ParseSocketControlMessage(r.oob[:oobn])
	if err != nil {
		return Packet{}, fmt.Errorf("parse the control messages: %w", err)
	}
	var tag []byte
	for _, m := range msgs {
		switch {
		case m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_TIMESTAMPNS:
			p.Time = timespec(m.Data)
		case m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA && len(m.Data) >= 20:
			// struct tpacket_auxdata: status, len, snaplen, mac, net, vlan_tci, vlan_tpid
			status := binary.NativeEndian.Uint32(m.Data)
			p.PartialChecksum = status&unix.TP_STATUS_CSUMNOTREADY != 0
			if status&unix.TP_STATUS_VLAN_VALID != 0 {
				tpid := uint16(unix.ETH_P_8021Q)
				if status&unix.TP_STATUS_VLAN_TPID_VALID != 0 {
					tpid = binary.NativeEndian.Uint16(m.Data[18:])
				}
				tag = binary.BigEndian.AppendUint16(tag, tpid)
				tag = binary.BigEndian.AppendUint16(tag, binary.NativeEndian.Uint16(m.Data[16:]))
			}
		}
	}
	if p.Time.IsZero() {
		p.Time = time.Now()
	}
	const macs = 12 // the kernel takes the tag from behind them, and here it goes back
	if len(frame) < macs {
		tag = nil
	}
	p.Length += len(tag)
	p.Data = make([]byte, 0, min(snap, len(frame)+len(tag)))
	if tag != nil {
		p.Data = appendUpTo(p.Data, frame[:macs])
		p.Data = appendUpTo(p.Data, tag)
		frame = frame[macs:]
	}
	p.Data = appendUpTo(p.Data, frame)
	return p, nil
}

// appendUpTo appends what b has room for.
func appendUpTo(b, more []byte) []byte {
	return append(b, more[:min(len(more), cap(b)-len(b))]...)
}

// timespec reads a struct timespec: two native longs.
func timespec(b []byte) time.Time {
	switch len(b) {
	case 16:
		return time.Unix(int64(binary.NativeEndian.Uint64(b)), int64(binary.NativeEndian.Uint64(b[8:])))
	case 8:
		return time.Unix(int64(int32(binary.NativeEndian.Uint32(b))), int64(binary.NativeEndian.Uint32(b[4:])))
	}
	return time.Time{}
}

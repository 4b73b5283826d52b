// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const ( // TCP flags
	syn = 0x02
	ack = 0x10
)

// tcpOf returns the IP header and the TCP segment of a frame without VLAN tag, IP
// options or extension headers, cut to the length that IP gives; nil if there is none.
func tcpOf(frame []byte) (ip, tcp []byte) {
	if len(frame) < 14+20+20 {
		return nil, nil
	}
	b := frame[14:]
	switch binary.BigEndian.Uint16(frame[12:]) {
	case unix.ETH_P_IP:
		if b[9] == unix.IPPROTO_TCP {
			return b[:20], b[20:binary.BigEndian.Uint16(b[2:])]
		}
	case unix.ETH_P_IPV6:
		if b[6] == unix.IPPROTO_TCP {
			return b[:40], b[40 : 40+int(binary.BigEndian.Uint16(b[4:]))]
		}
	}
	return nil, nil
}

// sum is the Internet checksum of the segment and its pseudo-header: 0 if the
// segment's own is complete and right.
func sum(ip, tcp []byte) uint16 {
	addrs := ip[12:20]
	if ip[0]>>4 == 6 {
		addrs = ip[8:40]
	}
	all := bytes.Clone(addrs)
	all = binary.BigEndian.AppendUint32(all, uint32(len(tcp)))
	all = binary.BigEndian.AppendUint32(all, unix.IPPROTO_TCP)
	all = append(all, tcp...)
	if len(all)%2 == 1 {
		all = append(all, 0)
	}
	var s uint32
	for ; len(all) > 0; all = all[2:] {
		s += uint32(binary.BigEndian.Uint16(all))
	}
	for s > 0xffff {
		s = s&0xffff + s>>16
	}
	return ^uint16(s)
}

func all(t *testing.T, c *Capture) []Packet {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	var ps []Packet
	for p := range c.Packets() {
		ps = append(ps, p)
	}
	return ps
}

func TestTheClientsCaptureSeesItsSYNLeaveAndTheSYNACKArrive(t *testing.T) {
	l := ForTest(t, Options{})
	start := time.Now()
	c, err := l.Client.Capture(CaptureOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ask(t, l.Client, echo(t, l.Server, l.Server.Addr4, "hi"))
	ask(t, l.Client, echo(t, l.Server, l.Server.Addr6, "hi"))

	var ladder []string
	last := start
	for _, p := range all(t, c) {
		ip, tcp := tcpOf(p.Data)
		if tcp == nil {
			t.Errorf("a frame that is no TCP: %x", p.Data)
			continue
		}
		if p.Length != len(p.Data) {
			t.Errorf("length %d, %d bytes of data", p.Length, len(p.Data))
		}
		from, to := l.Server.MAC, l.Client.MAC
		if p.Outgoing {
			from, to = to, from
		}
		if !bytes.Equal(p.Data[:6], to) || !bytes.Equal(p.Data[6:12], from) {
			t.Errorf("outgoing %t: from %x to %x", p.Outgoing, p.Data[6:12], p.Data[:6])
		}
		way := map[bool]string{true: "out", false: "in"}[p.Outgoing]
		family := map[byte]string{4: "4 ", 6: "6 "}[ip[0]>>4]
		var step string
		switch tcp[13] &^ 0xc0 {
		case syn:
			step = " SYN"
		case syn | ack:
			step = " SYN/ACK"
		default:
			continue
		}
		ladder = append(ladder, family+way+step)
		// Each of these is caused by the one before.
		if p.Time.Before(last) || p.Time.After(time.Now()) {
			t.Errorf("%s captured at %v, not between %v and now", ladder, p.Time, last)
		}
		last = p.Time
	}
	want := []string{"4 out SYN", "4 in SYN/ACK", "6 out SYN", "6 in SYN/ACK"}
	if len(ladder) != len(want) {
		t.Fatalf("saw %q, want %q", ladder, want)
	}
	for i := range want {
		if ladder[i] != want[i] {
			t.Fatalf("saw %q, want %q", ladder, want)
		}
	}
	if c.Dropped() != 0 {
		t.Errorf("dropped %d", c.Dropped())
	}
}

func TestAFullCaptureDropsAndCounts(t *testing.T) {
	l := ForTest(t, Options{})
	c, err := l.Client.Capture(CaptureOptions{Buffer: 2, SnapLen: 60})
	if err != nil {
		t.Fatal(err)
	}
	ask(t, l.Client, echo(t, l.Server, l.Server.Addr4, "hi"))
	ps := all(t, c)
	if len(ps) != 2 || c.Dropped() < 4 {
		t.Errorf("kept %d, dropped %d; want 2 and the rest of a connection", len(ps), c.Dropped())
	}
	for _, p := range ps {
		if len(p.Data) != 60 || p.Length != 74 {
			t.Errorf("%d bytes of %d, want 60 of 74 (a SYN)", len(p.Data), p.Length)
		}
	}
}

func TestCapturePutsTheVLANTagBack(t *testing.T) {
	l := ForTest(t, Options{})
	c, err := l.Client.Capture(CaptureOptions{})
	if err != nil {
		t.Fatal(err)
	}
	frame := append(append([]byte(nil), l.Client.MAC...), l.Server.MAC...)
	frame = append(frame, 0x81, 0x00, 0x60, 0x07) // 802.1Q, priority 3, VLAN 7
	frame = append(frame, 0x88, 0xb5)             // local experimental EtherType
	frame = append(frame, bytes.Repeat([]byte{0xa5}, 46)...)
	err = l.Server.Do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: l.Server.IfIndex})
	})
	if err != nil {
		t.Fatal(err)
	}
	ps := all(t, c)
	if len(ps) != 1 || !bytes.Equal(ps[0].Data, frame) || ps[0].Length != len(frame) {
		t.Errorf("captured %+v, want %x", ps, frame)
	}
}

// transfer sends n bytes from the server to the client and returns what the
// client's capture saw of it.
func transfer(t *testing.T, l *Lab, host string, n int) []Packet {
	t.Helper()
	c, err := l.Client.Capture(CaptureOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := l.Server.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		s, err := ln.Accept()
		if err != nil {
			return
		}
		defer s.Close()
		s.Write(bytes.Repeat([]byte("odd"), n/3))
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s, err := l.Client.Dial(ctx, "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.SetDeadline(time.Now().Add(10 * time.Second))
	if got, err := io.Copy(io.Discard, s); err != nil || int(got) != n/3*3 {
		t.Fatalf("received %d bytes: %v", got, err)
	}
	return all(t, c)
}

func TestOffloadOffMakesFramesRealOnTheWire(t *testing.T) {
	l := ForTest(t, Options{})
	made := map[string]Offloads{}
	for _, h := range []*Host{l.Server, l.Client} {
		o, err := h.Offloads()
		if err != nil {
			t.Fatal(err)
		}
		made[h.Name] = o
	}
	if !made["server"].TxChecksum {
		t.Fatalf("the kernel made veth without checksum offload: %+v; this test knows no such kernel", made)
	}

	for _, on := range []bool{true, false, true} {
		for _, h := range []*Host{l.Server, l.Client} {
			if err := h.Offload(on); err != nil {
				t.Fatal(err)
			}
			want := Offloads{}
			if on {
				want = made[h.Name]
			}
			if got, err := h.Offloads(); err != nil || got != want {
				t.Errorf("Offload(%t): %s has %+v (%v), want %+v", on, h.Name, got, err, want)
			}
		}
		for _, host := range []string{l.Server.Addr4.String(), l.Server.Addr6.String()} {
			var arrived, whole, partial, long int
			for _, p := range transfer(t, l, host, 300_000) {
				ip, tcp := tcpOf(p.Data)
				if tcp == nil || p.Outgoing {
					continue
				}
				arrived++
				if sum(ip, tcp) == 0 {
					whole++
				}
				if p.PartialChecksum {
					partial++
				}
				if p.Length > 1514 {
					long++
				}
			}
			t.Logf("offload %t, %s: %d frames arrived, %d with a whole checksum, %d partial, %d longer than the MTU", on, host, arrived, whole, partial, long)
			if on && (whole == arrived || partial == 0) {
				t.Errorf("offload on, %s: of %d frames %d have a whole checksum and %d are marked partial", host, arrived, whole, partial)
			}
			if !on && (whole != arrived || partial != 0 || long != 0 || arrived < 200) {
				t.Errorf("offload off, %s: of %d frames %d have a whole checksum, %d are marked partial, %d are too long", host, arrived, whole, partial, long)
			}
		}
	}
}

func TestSetOffloadsSetsEach(t *testing.T) {
	l := ForTest(t, Options{PlainClient: true})
	for _, want := range []Offloads{
		{TxChecksum: true},
		{GSO: true},
		{GRO: true},
		{TxChecksum: true, GSO: true, TSO: true},
		{},
		{TxChecksum: true, GSO: true, TSO: true, GRO: true},
	} {
		if err := l.Server.SetOffloads(want); err != nil {
			t.Error(err)
			continue
		}
		if got, err := l.Server.Offloads(); err != nil || got != want {
			t.Errorf("got %+v (%v), want %+v", got, err, want)
		}
	}
	// TSO needs the checksum: the driver can't follow, and that is said.
	if err := l.Server.SetOffloads(Offloads{TSO: true}); err == nil {
		t.Error("TSO without tx checksum was accepted")
	}
}

func TestWhatTheDriverFixesIsSaid(t *testing.T) {
	l := ForTest(t, Options{})
	o, err := l.Server.Offloads()
	if err != nil {
		t.Fatal(err)
	}
	o.TSO = !o.TSO
	if err := l.Server.SetOffloads(o); err == nil || !strings.Contains(err.Error(), "server: TSO of srv0") || !strings.Contains(err.Error(), "XDP") {
		t.Errorf("TSO to %t with XDP at the other end: %v", o.TSO, err)
	}
}

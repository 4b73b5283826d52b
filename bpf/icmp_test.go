// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"slices"
	"testing"
)

// An icmpError quotes a segment.
type icmpError struct {
	v4, v6 byte // types
	code   byte
	sent   func(family, *segment) // changes what is quoted
	cut    int                    // bytes of the quote, beyond its IP header; 0: all
	outer  func(family, *segment) // changes the packet that the error is in
}

// frame is the error as a router on the way sends it.
func (e icmpError) frame(f family) []byte {
	sent := segment{src: f.server, dst: f.established, ttl: 60, fragment: dontFragment, seq: 0x10000001, flags: ack, payload: []byte("payload")}
	if e.sent != nil {
		e.sent(f, &sent)
	}
	b, at, tcp := sent.build()
	quote := b[at:]
	if e.cut > 0 {
		quote = quote[:tcp-at+e.cut]
	}
	outer := f.segment(0, nil)
	if e.outer != nil {
		e.outer(f, &outer)
	}
	kind, proto, field := e.v4, byte(1), 9
	if f.ipLen == 40 {
		kind, proto, field = e.v6, 58, 6
	}
	icmp := slices.Concat([]byte{kind, e.code, 0, 0, 0, 0, 5, 0}, quote)
	b, at, tcp = outer.build()
	ip := b[at:tcp]
	if f.ipLen == 20 {
		ip[field] = proto
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+len(icmp)))
		setIP4Checksum(ip)
		binary.BigEndian.PutUint16(icmp[2:], ^sum16(icmp))
	} else {
		if len(outer.extensions) == 0 {
			ip[field] = proto
		} else {
			ip[len(ip)-8] = proto
		}
		binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-40+len(icmp)))
		pseudo := pseudoHeader(outer.src.Addr(), outer.dst.Addr(), len(icmp))
		pseudo[33] = proto
		binary.BigEndian.PutUint16(icmp[2:], ^sum16(pseudo, icmp))
	}
	return slices.Concat(b[:tcp], icmp)
}

// Errors that quote a flow are redirected; whatever is nearly one is the kernel's.
func TestICMPTable(t *testing.T) {
	p := load(t, options{shared: true})
	for _, f := range families {
		p.establish(f.flow())
	}
	tooBig := icmpError{v4: 3, v6: 2, code: 4}
	kind := func(v4, v6, code byte) func(family) []byte {
		return icmpError{v4: v4, v6: v6, code: code}.frame
	}
	sent := func(change func(family, *segment)) func(family) []byte {
		e := tooBig
		e.sent = change
		return e.frame
	}
	outer := func(change func(family, *segment)) func(family) []byte {
		e := tooBig
		e.outer = change
		return e.frame
	}
	cut := func(n int) func(family) []byte {
		e := tooBig
		e.cut = n
		return e.frame
	}
	// setQuote writes in the quote.
	setQuote := func(at int, v ...byte) change {
		return func(f family, b []byte) []byte { copy(b[ethLen+f.ipLen+8+at:], v); return b }
	}
	p.table(t, []row{
		{name: "a packet was too big", frame: tooBig.frame, want: RedirectICMP},
		{name: "the host is unreachable", frame: kind(3, 1, 1), want: RedirectICMP},
		{name: "administratively prohibited", frame: kind(3, 1, 13), want: RedirectICMP},
		{name: "the time is exceeded", frame: kind(11, 3, 0), want: RedirectICMP},
		{name: "a parameter problem", frame: kind(12, 4, 0), want: RedirectICMP},
		{name: "any code", frame: kind(3, 1, 255), want: RedirectICMP},
		{name: "the first 8 bytes of TCP are enough", frame: cut(8), want: RedirectICMP},
		{name: "IPv4 options in the quote", only: "IPv4", frame: sent(func(_ family, s *segment) { s.ipOptions = recordRoute }), want: RedirectICMP},
		{name: "the most IPv4 options in the quote", only: "IPv4", frame: sent(func(_ family, s *segment) { s.ipOptions = make([]byte, 40) }), want: RedirectICMP},
		{name: "IPv4 options in front", only: "IPv4", frame: outer(func(_ family, s *segment) { s.ipOptions = routerAlert }), want: RedirectICMP},
		{name: "a flow label in the quote", frame: sent(func(_ family, s *segment) { s.label = 0xfffff }), want: RedirectICMP},
		{name: "a hop count run down in the quote", frame: sent(func(_ family, s *segment) { s.ttl = 0 }), want: RedirectICMP},
		{name: "from whomever", frame: outer(func(f family, s *segment) { s.src = f.other }), want: RedirectICMP},
		{name: "padding behind the quote", frame: tooBig.frame, raw: padTo60, want: RedirectICMP},

		{name: "an echo", frame: kind(8, 128, 0), want: PassNotTCP},
		{name: "an echo's reply", frame: kind(0, 129, 0), want: PassNotTCP},
		{name: "a redirect", frame: kind(5, 137, 1), want: PassNotTCP},
		{name: "a source quench, or a type reserved", frame: kind(4, 0, 0), want: PassNotTCP},
		{name: "a timestamp, or a type without name", frame: kind(13, 5, 0), want: PassNotTCP},
		{name: "a router's advertisement", frame: kind(9, 134, 0), want: PassNotTCP},
		{name: "the other family's type", frame: kind(2, 11, 0), want: PassNotTCP},
		{name: "the highest type", frame: kind(255, 255, 0), want: PassNotTCP},
		{name: "another client", frame: sent(func(f family, s *segment) { s.dst = f.client }), want: PassNotTCP},
		{name: "another port of the client", frame: sent(func(_ family, s *segment) { s.dst = next(s.dst) }), want: PassNotTCP},
		{name: "another server", frame: sent(func(f family, s *segment) { s.src = f.other }), want: PassNotTCP},
		{name: "another port of the server", frame: sent(func(_ family, s *segment) { s.src = next(s.src) }), want: PassNotTCP},
		{name: "the other direction", frame: sent(func(_ family, s *segment) { s.src, s.dst = s.dst, s.src }), want: PassNotTCP},
		{name: "addresses of the other direction", frame: tooBig.frame, raw: swapQuoted, want: PassNotTCP},
		{name: "7 bytes of TCP", frame: cut(7), want: PassNotTCP},
		{name: "the ports alone", frame: cut(4), want: PassNotTCP},
		{name: "one byte of TCP", frame: cut(1), want: PassNotTCP},
		{name: "UDP in the quote", frame: tooBig.frame, raw: func(f family, b []byte) []byte {
			return setQuote(map[int]int{20: 9, 40: 6}[f.ipLen], 17)(f, b)
		}, want: PassNotTCP},
		{name: "an extension header in the quote", only: "IPv6", frame: sent(func(_ family, s *segment) { s.extensions = []extension{destination} }), want: PassNotTCP},
		{name: "an extension header in front", only: "IPv6", frame: outer(func(_ family, s *segment) { s.extensions = []extension{hopByHop} }), want: PassNotTCP},
		{name: "IP version 0 in the quote", frame: tooBig.frame, raw: func(f family, b []byte) []byte {
			return setQuote(0, map[int]byte{20: 5, 40: 0}[f.ipLen])(f, b)
		}, want: PassNotTCP},
		{name: "a header of four words in the quote", only: "IPv4", frame: tooBig.frame, raw: setQuote(0, 0x44), want: PassNotTCP},
		{name: "options in the quote that it does not have", only: "IPv4", frame: cut(8), raw: setQuote(0, 0x46), want: PassNotTCP},
		{name: "a header of four words in front", only: "IPv4", frame: tooBig.frame, raw: setIP(0, 0x44), want: PassNotTCP},
		{name: "IP version 0 in front", frame: tooBig.frame, raw: func(f family, b []byte) []byte {
			return setIP(0, map[int]byte{20: 5, 40: 0}[f.ipLen])(f, b)
		}, want: PassNotTCP},
		{name: "an error in its first fragment", only: "IPv4", frame: outer(func(_ family, s *segment) { s.fragment = moreFragments }), want: PassNotTCP},
		{name: "an error's later fragment", only: "IPv4", frame: outer(func(_ family, s *segment) { s.fragment = 5 }), want: PassNotTCP},
		{name: "an error in a fragment", only: "IPv6", frame: outer(func(_ family, s *segment) { s.extensions = []extension{fragmented} }), want: PassFragment},
		{name: "for another MAC address", frame: outer(func(_ family, s *segment) { s.to = clientMAC }), want: PassNotTCP},
		{name: "a broadcast frame", frame: outer(func(_ family, s *segment) { s.to = [6]byte{255, 255, 255, 255, 255, 255} }), want: PassNotTCP},
	})
}

// swapQuoted exchanges the quote's addresses, and not the ports.
func swapQuoted(f family, b []byte) []byte {
	at := map[int]int{20: 12, 40: 8}[f.ipLen]
	addrs := b[ethLen+f.ipLen+8+at:]
	n := len(f.server.Addr().AsSlice())
	swapped := slices.Concat(addrs[n:2*n], addrs[:n])
	copy(addrs, swapped)
	return b
}

// Cut short anywhere before the quote's first 8 bytes of TCP, an error is the kernel's.
func TestTruncatedICMP(t *testing.T) {
	p := load(t, options{shared: true})
	for _, f := range families {
		p.establish(f.flow())
		whole := icmpError{v4: 3, v6: 2, code: 4}.frame(f)
		least := ethLen + f.ipLen + 8 + f.ipLen + 8
		for n := ethLen; n <= len(whole); n++ {
			want := RedirectICMP
			switch {
			case n < ethLen+2*4:
				want = PassNotTCP
			case n < ethLen+f.ipLen:
				want = PassBadIP
			case n < least:
				want = PassNotTCP
			}
			if r, err := p.play(whole[:n:n], make([]byte, 512)); err != nil || r.reason != want {
				t.Errorf("%s cut to %d bytes: %s, want %s (%v)", f.name, n, reasonNames[r.reason], reasonNames[want], err)
			}
		}
	}
}

// With the lease, ICMP goes back to the kernel; without a socket it is dropped as the flow's segments are.
func TestICMPNeedsAnEngine(t *testing.T) {
	for _, c := range []struct {
		name     string
		lease    uint64
		noSocket bool
		want     Reason
	}{
		{"the lease has run out", 1, false, PassNotTCP},
		{"no socket", 1 << 60, true, DropNoSocket},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := load(t, options{shared: true, noSocket: c.noSocket})
			for _, f := range families {
				p.establish(f.flow())
			}
			control := testControl()
			control.Lease = c.lease
			p.setControl(control)
			p.table(t, []row{{name: "an error", frame: icmpError{v4: 3, v6: 2}.frame, want: c.want}})
		})
	}
}

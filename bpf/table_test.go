// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// The packet tables, by theme: link_test.go, ip4_test.go, ip6_test.go, tcp_test.go, synack_test.go,
// flow_test.go, icmp_test.go, control_test.go. Each row is one packet and what must become of it; it is
// tried in IPv4 and IPv6, without a VLAN tag, with one and with two, and the model must say the same.
type row struct {
	name    string
	only    string                 // "IPv4" or "IPv6"
	edit    func(family, *segment) // changes the SYN that Linux sends
	raw     change                 // changes its frame, before there are tags
	frame   func(family) []byte    // instead of that SYN
	want    Reason
	options string // of the SYN/ACK, MSS being "mss"; empty: what Linux gets
	record  bool   // a segment of the family's flow, with its record in front
}

const linuxGets = "mss sack ts nop ws=7"

// A change is made to a frame that is built already.
type change = func(f family, b []byte) []byte

var taggings = []struct {
	name string
	tags []tag
}{
	{"untagged", nil},
	{"one tag", []tag{{typeVLAN, 5<<13 | 1<<12 | 100}}},
	{"two tags", []tag{{typeQinQ, 3<<13 | 4094}, {typeVLAN, 7<<13 | 1}}},
}

// withTags puts tags into a frame.
func withTags(frame []byte, tags []tag) []byte {
	var b []byte
	for _, t := range tags {
		b = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, t.tpid), t.tci)
	}
	return slices.Insert(frame, 12, b...)
}

// table tries all rows.
func (p *program) table(t *testing.T, rows []row) {
	t.Helper()
	names := map[string]bool{}
	for _, c := range rows {
		if names[c.name+c.only] {
			t.Fatalf("there are two rows %q", c.name)
		}
		names[c.name+c.only] = true
		for _, f := range families {
			if c.only != "" && c.only != f.name {
				continue
			}
			for _, tagging := range taggings {
				t.Run(strings.Join([]string{c.name, f.name, tagging.name}, "/"), func(t *testing.T) {
					p.with(t).row(c, f, tagging.tags)
				})
			}
		}
	}
}

func (p *program) row(c row, f family, tags []tag) {
	p.tb.Helper()
	s := f.syn(linuxOptions(1460, 7))
	if c.edit != nil {
		c.edit(f, &s)
	}
	in := s.frame()
	if c.frame != nil {
		in = c.frame(f)
	}
	if c.raw != nil {
		in = c.raw(f, in)
	}
	s.tags = tags
	in = withTags(in, tags)
	r, err := p.play(in, make([]byte, 4096))
	if err != nil {
		p.tb.Errorf("%v\nframe %x", err, in)
	}
	if len(tags) == 2 && p.world.kernel != 0 { // a service of the kernel: it can't be handed over
		c.want = PassTwoTags
	}
	if r.reason != c.want {
		p.tb.Fatalf("%s, want %s\nframe %x", reasonNames[r.reason], reasonNames[c.want], in)
	}
	p.seed(f, in, c.want)
	defer func() { must(p.tb, p.forgetNew()) }()
	switch r.verdict {
	case xdpPass, xdpRedirect:
		if !bytes.Equal(r.frame, in) {
			p.tb.Fatalf("the frame changed:\n in %x\nout %x", in, r.frame)
		}
		var want []byte
		if c.record || c.want == RedirectOpened {
			want = record(p.world.flows[flow{s.src, s.dst}])
		}
		if !bytes.Equal(r.meta, want) {
			p.tb.Fatalf("in front of the frame is %x, want %x", r.meta, want)
		}
	case xdpTx:
		if c.want == TxReset {
			checkReset(p.tb, s, r)
			return
		}
		if c.options == "" {
			c.options = linuxGets
		}
		checkSynAck(p.tb, f, s, r, c.options)
		// As long as it must be, and padded only where Ethernet would do it.
		if want := max(ethLen+4*len(tags)+f.ipLen+tcpLen+optionsLen(c.options), min(len(in), 60)); len(r.frame) != want {
			p.tb.Errorf("the SYN has %d bytes, the reply %d, want %d", len(in), len(r.frame), want)
		}
	}
}

// optionsLen is how long the options are that decode puts in these words.
func optionsLen(text string) (n int) {
	for word := range strings.FieldsSeq(text) {
		name, _, _ := strings.Cut(word, "=")
		n += map[string]int{"nop": 1, "mss": 4, "ws": 3, "sack": 2, "ts": 10}[name]
	}
	return n
}

// checkReply judges a reply to s in all that a SYN/ACK and a RST have in common.
func checkReply(t testing.TB, s segment, r result) packet {
	t.Helper()
	p, err := decode(r.frame)
	if err != nil {
		t.Fatalf("the reply is malformed: %v\n%x", err, r.frame)
	}
	if len(r.meta) != 0 {
		t.Errorf("the reply has metadata in front: %x", r.meta)
	}
	if p.to != s.from || p.from != s.to {
		t.Errorf("MAC addresses: from %x to %x", p.from, p.to)
	}
	if !slices.Equal(p.tags, s.tags) {
		t.Errorf("tags %x, want %x", p.tags, s.tags)
	}
	if p.src != s.dst || p.dst != s.src {
		t.Errorf("from %v to %v, want from %v to %v", p.src, p.dst, s.dst, s.src)
	}
	fragment := uint16(dontFragment)
	if s.src.Addr().Is6() {
		fragment = 0
	}
	if p.ttl != 64 || p.tos != 0 || p.id != 0 || p.label != 0 || p.fragment != fragment || len(p.ipOptions) != 0 {
		t.Errorf("IP header: ttl %d tos %d id %d flow label %d fragment field %#x options %x", p.ttl, p.tos, p.id, p.label, p.fragment, p.ipOptions)
	}
	if len(p.payload) != 0 || p.urgent != 0 {
		t.Errorf("%d bytes of data, urgent pointer %d", len(p.payload), p.urgent)
	}
	return p
}

// checkSynAck judges a SYN/ACK in all that does not depend on the cookie.
func checkSynAck(t testing.TB, f family, s segment, r result, want string) packet {
	t.Helper()
	p := checkReply(t, s, r)
	if p.ack != s.seq+1 {
		t.Errorf("acknowledges %#x, want %#x", p.ack, s.seq+1)
	}
	// ECN is granted (RFC 3168, 6.1.1) where the cookie has room for it: in timestamps.
	flags := byte(syn | ack)
	if s.flags&(ece|cwr) == ece|cwr && s.tos&3 == 0 && strings.Contains(want, "ts") {
		flags |= ece
	}
	if p.flags != flags || p.window != 65535 {
		t.Errorf("flags %#x, want %#x; window %d", p.flags, flags, p.window)
	}
	want = fmt.Sprintf("mss=%d", f.ourMSS) + want[len("mss"):]
	if p.text != want {
		t.Errorf("options %q, want %q", p.text, want)
	}
	if strings.Contains(want, "ts") && p.tsecr != clientTSVal {
		t.Errorf("TSecr %#x is not the SYN's TSval", p.tsecr)
	}
	return p
}

// checkReset judges the answer to a bad ACK: RFC 9293, 3.10.7.1.
func checkReset(t testing.TB, s segment, r result) {
	t.Helper()
	p := checkReply(t, s, r)
	if p.seq != s.ack || p.ack != 0 || p.flags != rst || p.window != 0 || p.text != "" {
		t.Errorf("seq %#x ack %#x flags %#x window %d options %q, want seq %#x and RST alone", p.seq, p.ack, p.flags, p.window, p.text, s.ack)
	}
}

// setByte writes at an offset from the start of the frame; setIP and setTCP from these headers.
func setByte(at int, v ...byte) change {
	return func(_ family, b []byte) []byte { copy(b[at:], v); return b }
}

func setIP(at int, v ...byte) change {
	return func(f family, b []byte) []byte {
		copy(b[ethLen+at:], v)
		if f.ipLen == 20 {
			setIP4Checksum(b[ethLen:])
		}
		return b
	}
}

// setTCP keeps the checksum right.
func setTCP(at int, v ...byte) change {
	return func(f family, b []byte) []byte {
		tcp := b[ethLen+f.ipLen:]
		copy(tcp[at:], v)
		tcp[16], tcp[17] = 0, 0
		sum := sum16(pseudoHeader(f.client.Addr(), f.server.Addr(), len(tcp)), tcp)
		binary.BigEndian.PutUint16(tcp[16:], ^sum)
		return b
	}
}

func flipTCP(at int) change {
	return func(f family, b []byte) []byte { b[ethLen+f.ipLen+at] ^= 0x10; return b }
}

func padTo60(_ family, b []byte) []byte {
	return append(b, make([]byte, max(0, 60-len(b)))...)
}

// partialChecksum is what a peer on this host sends: the sum of the pseudo-header, not complemented.
func partialChecksum(f family, b []byte) []byte {
	tcp := len(b) - ethLen - f.ipLen
	sum := sum16(pseudoHeader(f.client.Addr(), f.server.Addr(), tcp))
	binary.BigEndian.PutUint16(b[ethLen+f.ipLen+16:], sum)
	return b
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/xdptcp/xdptcp/userspace/wire"
	"github.com/xdptcp/xdptcp/vmtest/lab"
)

// rung is one segment, as the client's tap saw it.
type rung struct {
	time       time.Time
	fromClient bool
	seg        wire.Segment
	flow       wire.Flow // as the server sees it
}

// rungs are the TCP segments among the packets.
func rungs(packets []lab.Packet) []rung {
	var list []rung
	for _, p := range packets {
		var w wire.Packet
		if wire.Parse(p.Data, &w) != nil {
			continue
		}
		r := rung{time: p.Time, fromClient: p.Outgoing, seg: w.Segment, flow: w.Flow}
		if !p.Outgoing {
			r.flow = wire.Flow{Remote: w.Flow.Local, Local: w.Flow.Remote, RemotePort: w.Flow.LocalPort, LocalPort: w.Flow.RemotePort}
		}
		list = append(list, r)
	}
	return list
}

// writeLadder draws a connection: the client on the left, on the wire what the tap saw, with the
// sequence numbers as they were, xdptcp on the right, with who answered and how long it took.
// answeredBy is what xdptcp says of that: "xdp" or "engine".
func writeLadder(out io.Writer, packets []lab.Packet, answeredBy string) error {
	list := rungs(packets)
	p := printer{out: out}
	if len(list) == 0 {
		p.printf("  (the tap saw no TCP segment)\n")
		return p.err
	}
	const row = "%9s  %-15s │ %s │ %s\n"
	const width = 52 // of the wire
	flow := list[0].flow
	p.printf("  client %v, xdptcp %v\n\n", flow.RemoteAddr(), flow.LocalAddr())
	p.printf(row, "", "client", pad("wire", width), "xdptcp")
	n := narrator{answeredBy: answeredBy}
	for _, r := range list {
		at := "+" + r.time.Sub(list[0].time).Round(time.Microsecond).String()
		client, server := n.say(r)
		text := describeSegment(&r.seg)
		if r.fromClient {
			text += " " + strings.Repeat("─", max(1, width-len(text)-3)) + "►"
		} else {
			text = "◄" + strings.Repeat("─", max(1, width-len(text)-3)) + " " + text
		}
		p.printf(row, at, client, pad(text, width), server)
	}
	return p.err
}

// pad fills with spaces to n characters.
func pad(s string, n int) string {
	return s + strings.Repeat(" ", max(0, n-utf8.RuneCountInString(s)))
}

func describeSegment(s *wire.Segment) string {
	text := fmt.Sprintf("%s seq %d", s.Flags, s.Seq)
	if s.Flags.Has(wire.ACK) {
		text += fmt.Sprintf(" ack %d", s.Ack)
	}
	if s.PayloadLen > 0 {
		text += fmt.Sprintf(" %d B", s.PayloadLen)
	}
	return text
}

// narrator says what each segment of a connection means to either side.
type narrator struct {
	answeredBy  string
	syn, synack *rung
	opened      bool
}

func (n *narrator) say(r rung) (client, server string) {
	s := &r.seg
	switch {
	case s.Flags.Has(wire.RST):
		return "", "reset"
	case s.Flags.Has(wire.SYN) && r.fromClient:
		n.syn = &r
		return "picks its ISN", ""
	case s.Flags.Has(wire.SYN):
		n.synack = &r
		if n.syn == nil {
			return "", n.answerer() + ": cookie as ISN"
		}
		return "", fmt.Sprintf("%s: cookie as ISN, %v after the SYN", n.answerer(), r.time.Sub(n.syn.time).Round(time.Microsecond))
	case r.fromClient && !n.opened && n.synack != nil && s.Ack == n.synack.seg.Seq+1:
		n.opened = true
		return "is connected", "XDP: cookie valid, flow opened"
	case r.fromClient && s.PayloadLen > 0:
		return "sends data", ""
	case r.fromClient && s.Flags.Has(wire.FIN):
		return "closes", ""
	case r.fromClient:
		return "", ""
	case s.PayloadLen > 0:
		return "", "engine: data, the ACK rides on it"
	case s.Flags.Has(wire.FIN):
		return "", "engine: closes, a FIN takes a number"
	}
	return "", "engine: ACK"
}

func (n *narrator) answerer() string {
	if n.answeredBy == "xdp" {
		return "XDP"
	}
	return n.answeredBy
}

// printer keeps the first error of many prints.
type printer struct {
	out io.Writer
	err error
}

func (p *printer) printf(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.out, format, args...)
	}
}

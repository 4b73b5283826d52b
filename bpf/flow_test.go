// SPDX-License-Identifier: Apache-2.0

package bpf

import "testing"

// Segments of a flow that exists. The record goes along while the client acknowledges no more than our SYN.
func TestFlowTable(t *testing.T) {
	p := load(t, options{shared: true})
	for _, f := range families {
		p.establish(f.flow())
	}
	first := func(flags byte, payload string) func(family, *segment) { // acknowledges our SYN alone
		return func(f family, s *segment) {
			segmentOf(flags)(f, s)
			s.ack, s.payload = p.world.flows[f.flow()].Iss+1, []byte(payload)
		}
	}
	then := func(flags byte, change func(family, *segment)) func(family, *segment) {
		return func(f family, s *segment) {
			segmentOf(flags)(f, s)
			if change != nil {
				change(f, s)
			}
		}
	}
	p.table(t, []row{
		{name: "the final ACK again", edit: first(ack, ""), want: RedirectSegment, record: true},
		{name: "the first data", edit: first(ack|psh, "GET /"), want: RedirectSegment, record: true},
		{name: "a FIN before any data of ours", edit: first(ack|fin, ""), want: RedirectSegment, record: true},
		{name: "a SYN/ACK with that number", edit: first(syn|ack, ""), want: RedirectSegment, record: true},
		{name: "a RST with that number", edit: first(rst|ack, ""), want: RedirectSegment, record: true},
		{name: "a SYN with that number", edit: first(syn, ""), want: RedirectSyn},
		{name: "no flags with that number", edit: first(0, ""), want: DropBadFlags},

		{name: "an ACK", edit: then(ack, nil), want: RedirectSegment},
		{name: "an ACK of one byte", edit: then(ack, func(f family, s *segment) { s.ack = p.world.flows[f.flow()].Iss + 2 }), want: RedirectSegment},
		{name: "an ACK of nothing", edit: then(ack, func(f family, s *segment) { s.ack = p.world.flows[f.flow()].Iss }), want: RedirectSegment},
		{name: "data", edit: then(ack|psh, func(_ family, s *segment) { s.payload = make([]byte, 1400) }), want: RedirectSegment},
		{name: "timestamps", edit: then(ack, func(_ family, s *segment) { s.options = append([]byte{1, 1}, optTS(1, 2)...) }), want: RedirectSegment},
		{name: "SACK blocks", edit: then(ack, func(_ family, s *segment) { s.options = []byte{1, 1, 5, 10, 1, 2, 3, 4, 5, 6, 7, 8} }), want: RedirectSegment},
		{name: "a FIN", edit: then(ack|fin, nil), want: RedirectSegment},
		{name: "a RST", edit: then(rst, nil), want: RedirectSegment},
		{name: "a RST with FIN", edit: then(rst|fin, nil), want: RedirectSegment},
		{name: "a SYN/ACK", edit: then(syn|ack, nil), want: RedirectSegment},
		{name: "a SYN", edit: then(syn, nil), want: RedirectSyn},
		{name: "a SYN with ECN bits", edit: then(syn|ece|cwr, nil), want: RedirectSyn},
		{name: "ECN bits", edit: then(ack|ece, func(_ family, s *segment) { s.tos = 3 }), want: RedirectSegment},
		{name: "padding", edit: then(ack, nil), raw: padTo60, want: RedirectSegment},

		{name: "a SYN with FIN", edit: then(syn|fin, nil), want: DropBadFlags},
		{name: "Xmas", edit: then(fin|psh|urg, nil), want: DropBadFlags},
		{name: "a FIN without ACK", edit: then(fin, nil), want: DropBadFlags},
		{name: "a bad data offset", edit: then(ack, nil), raw: setTCP(12, 6<<4), want: DropBadTCP},
		{name: "a wrong checksum is the engine's business", edit: then(ack, nil), raw: flipTCP(16), want: RedirectSegment},
		{name: "IPv4 options and extension headers", edit: then(ack, func(_ family, s *segment) {
			s.ipOptions, s.extensions = ip4Timestamp, []extension{hopByHop, destination}
		}), want: RedirectSegment},
		{name: "a source route", only: "IPv4", edit: then(ack, func(_ family, s *segment) { s.ipOptions = looseRoute }), want: PassIPOptions},
		{name: "a routing header on its way", only: "IPv6", edit: then(ack, func(_ family, s *segment) { s.extensions = []extension{onItsWay} }), want: PassIPOptions},
		{name: "a fragment", only: "IPv4", edit: then(ack, func(_ family, s *segment) { s.fragment = moreFragments }), want: PassFragment},
		{name: "a fragment", only: "IPv6", edit: then(ack, func(_ family, s *segment) { s.extensions = []extension{fragmented} }), want: PassFragment},
		{name: "for another MAC address", edit: then(ack, func(_ family, s *segment) { s.to = clientMAC }), want: PassOtherHost},

		{name: "another port of the client", edit: then(rst, func(_ family, s *segment) { s.src = next(s.src) }), want: DropNoFlow},
		{name: "another client", edit: then(rst, func(f family, s *segment) { s.src = f.client }), want: DropNoFlow},
		{name: "another service", edit: then(rst, func(f family, s *segment) { s.dst = f.other }), want: DropNoFlow},
	})
}

// The sketch in front of the table: its counters go up with the flows; where there are too many for
// one, the next is refused as if the table were full.
func TestSketch(t *testing.T) {
	p := load(t, options{shared: true})
	most := int(define(t, "flows.h", "SKETCH_MAX"))
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			p := p.with(t)
			a, _ := p.finalAck(t, f, linuxOptions(1460, 7), 7000)
			b, _ := p.finalAck(t, f, linuxOptions(1460, 7), 7001)
			p.countFlow(a, int32(most))
			p.expect(a.frame(), DropTableFull)
			if _, found := p.flow(a); found || p.sketched() != most {
				t.Errorf("flow opened: %v, and %d are counted instead of %d", found, p.sketched(), most)
			}
			p.open(t, testKeys(), b) // has another counter
			p.countFlow(a, -1)
			p.open(t, testKeys(), a)
			if n := p.sketched(); n != most+1 {
				t.Errorf("%d flows are counted, want %d", n, most+1)
			}
			p.countFlow(a, 1-int32(most))
			must(t, p.forget(flow{a.src, a.dst}))
			must(t, p.forget(flow{b.src, b.dst}))
			if n := p.sketched(); n != 0 {
				t.Errorf("%d flows are counted, and none is left", n)
			}
			p.expect(a.frame(), RedirectOpened)
			must(t, p.forget(flow{a.src, a.dst}))
		})
	}
}

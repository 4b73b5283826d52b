// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
)

// segmentOf is a segment of the family's flow that acknowledges our data.
func segmentOf(flags byte) func(family, *segment) {
	return func(f family, s *segment) {
		s.src, s.flags, s.ack, s.options = f.established, flags, 0x10000001+99, nil
	}
}

// finalAckOf turns a SYN into the ACK with the right cookie, without timestamps, under these keys.
func finalAckOf(k *CookieKeys) func(family, *segment) {
	return func(f family, s *segment) {
		o := Offer{MSS: 1460, WScale: 8, SACK: true, Remote: s.src, Local: s.dst}
		iss, _, _ := MakeCookie(k, o, s.seq, ticks())
		s.flags, s.seq, s.ack, s.options = ack, s.seq+1, iss+1, nil
	}
}

// What the daemon's state and the operator's choices change; what they don't.
func TestControlTable(t *testing.T) {
	stray := func(_ family, s *segment) { s.flags, s.ack = ack, 0x12345679+1 }
	expired := func(_ family, s *segment) { s.flags, s.ack = ack, 0x1234567a+1 }
	noFlags := func(_ family, s *segment) { s.flags = 0 }
	noService := func(f family, s *segment) { s.dst = f.closed() }
	strict := testKeys()
	strict.Strict = 1
	for _, c := range []struct {
		name     string
		spec     map[string]any
		noSocket bool
		prepare  func(*program)
		rows     []row
	}{
		{
			name: "the lease has run out",
			prepare: func(p *program) {
				c := testControl()
				c.Lease = clock() - 1
				p.setControl(c)
			},
			rows: []row{
				{name: "a SYN", want: PassNoLease},
				{name: "a valid final ACK", edit: finalAckOf(testKeys()), want: PassNoLease},
				{name: "a segment of a flow", edit: segmentOf(ack), want: PassNoLease},
				{name: "a stray ACK", edit: stray, want: PassNoLease},
				{name: "a bad TCP header", raw: setTCP(12, 0), want: PassNoLease},
				{name: "bad flags", edit: noFlags, want: PassNoLease},
				{name: "a bad source", edit: func(_ family, s *segment) { s.src = netip.AddrPortFrom(s.dst.Addr(), 1) }, want: PassNoLease},
				{name: "a port of no service", edit: noService, want: PassNoService},
				{name: "a broken IP header", raw: setIP(0, 0), want: PassBadIP},
			},
		},
		{
			name: "the lease has run out, and the service outlives it",
			spec: map[string]any{"cfg_outlive": uint64(1 << 3)},
			prepare: func(p *program) {
				c := testControl()
				c.Lease = clock() - 1
				p.setControl(c)
			},
			rows: []row{
				{name: "a SYN", want: TxSynAck},
				{name: "a segment of a flow", edit: segmentOf(ack), want: RedirectSegment},
				{name: "another service", edit: func(f family, s *segment) { s.dst = f.other }, want: PassNoLease},
			},
		},
		{
			name: "the lease runs for a minute",
			prepare: func(p *program) {
				c := testControl()
				c.Lease = clock() + 60_000
				p.setControl(c)
			},
			rows: []row{
				{name: "a SYN", want: TxSynAck},
				{name: "a segment of a flow", edit: segmentOf(ack), want: RedirectSegment},
			},
		},
		{
			name: "the service is disarmed",
			prepare: func(p *program) {
				c := testControl()
				c.Armed = 1 << 63
				p.setControl(c)
			},
			rows: []row{
				{name: "a SYN", want: PassDisarmed},
				{name: "a SYN with a bad checksum", raw: flipTCP(16), want: PassDisarmed},
				{name: "a SYN of another service", edit: func(f family, s *segment) { s.dst = f.other }, want: TxSynAck},
				{name: "a segment of a flow", edit: segmentOf(ack), want: RedirectSegment},
				{name: "a SYN on a flow", edit: segmentOf(syn), want: RedirectSyn},
				{name: "a final ACK of a handshake that has begun", edit: finalAckOf(testKeys()), want: RedirectOpened},
				{name: "a stray ACK", edit: stray, want: PassDisarmed},
				{name: "a RST of no flow", edit: func(_ family, s *segment) { s.flags = rst }, want: PassDisarmed},
				{name: "bad flags", edit: noFlags, want: DropBadFlags},
			},
		},
		{
			name: "cookies are strict",
			prepare: func(p *program) {
				p.setKeys(strict)
			},
			rows: []row{
				{name: "Linux and Android lose nothing", want: TxSynAck},
				{name: "Windows loses window scale and SACK", edit: func(_ family, s *segment) { s.options = windowsOptions(1460, 8) }, want: TxSynAck, options: "mss"},
				{name: "SACK alone is declined", edit: func(_ family, s *segment) { s.options = optSACK }, want: TxSynAck, options: "mss"},
				{name: "timestamps alone", edit: func(_ family, s *segment) { s.options = optTS(clientTSVal, 0) }, want: TxSynAck, options: "mss nop nop ts"},
				{name: "the ACK of a strict cookie", edit: finalAckOf(strict), want: RedirectOpened},
				{name: "the ACK of a cookie with options from before", edit: func(f family, s *segment) {
					s.src = next(s.src)
					finalAckOf(testKeys())(f, s)
				}, want: DropBadCookie},
			},
		},
		{
			name: "bad ACKs are reset",
			spec: map[string]any{"cfg_reset": true},
			rows: []row{
				{name: "a stray ACK", edit: stray, want: TxReset},
				{name: "data that are nobody's", edit: func(f family, s *segment) { stray(f, s); s.payload = make([]byte, 700) }, want: TxReset},
				{name: "a stray FIN", edit: func(f family, s *segment) { stray(f, s); s.flags |= fin }, want: TxReset},
				{name: "an ACK without options", edit: func(f family, s *segment) { stray(f, s); s.options = nil }, want: TxReset},
				{name: "a padded ACK", edit: func(f family, s *segment) { stray(f, s); s.options = nil }, raw: padTo60, want: TxReset},
				{name: "an ACK with an unused key", edit: expired, want: TxReset},
				{name: "IP options and extension headers do not come back", edit: func(f family, s *segment) {
					stray(f, s)
					s.ipOptions, s.extensions = recordRoute, []extension{hopByHop}
				}, want: TxReset},
				{name: "a RST is never answered", edit: func(f family, s *segment) { stray(f, s); s.flags = rst | ack }, want: DropNoFlow},
				{name: "nor is a SYN/ACK", edit: func(f family, s *segment) { stray(f, s); s.flags = syn | ack }, want: DropNoFlow},
				{name: "nor are bad flags", edit: noFlags, want: DropBadFlags},
				{name: "a SYN is answered as ever", want: TxSynAck},
			},
		},
		{
			name: "no socket serves the queue", noSocket: true,
			rows: []row{
				{name: "a SYN is answered: there may be one in time", want: TxSynAck},
				{name: "a valid final ACK", edit: finalAckOf(testKeys()), want: DropNoSocket},
				{name: "a segment of a flow", edit: segmentOf(ack), want: DropNoSocket},
				{name: "a SYN on a flow", edit: segmentOf(syn), want: DropNoSocket},
				{name: "a stray ACK", edit: stray, want: DropBadCookie},
			},
		},
		{
			name: "there are lists",
			spec: map[string]any{"cfg_lists": true},
			prepare: func(p *program) {
				for _, f := range families {
					p.list(netip.PrefixFrom(f.client.Addr(), f.client.Addr().BitLen()), ListDeny)
				}
			},
			rows: []row{
				{name: "a SYN of who is denied", want: DropDenied},
				{name: "his valid final ACK", edit: finalAckOf(testKeys()), want: DropDenied},
				{name: "his stray ACK", edit: stray, want: DropBadCookie},
				{name: "a SYN of somebody else", edit: func(_ family, s *segment) { s.src = netip.AddrPortFrom(s.src.Addr().Next(), 9) }, want: TxSynAck},
				{name: "a flow that exists is not asked", edit: segmentOf(ack), want: RedirectSegment},
			},
		},
		{
			name: "a service on a prefix",
			spec: map[string]any{"cfg_prefixes": true},
			prepare: func(p *program) {
				for _, f := range families {
					all, _ := f.server.Addr().Prefix(f.server.Addr().BitLen() - 8)
					p.servePrefix(all, 1<<3)
				}
			},
			rows: []row{
				{name: "an address in it", edit: func(_ family, s *segment) {
					s.dst = netip.AddrPortFrom(s.dst.Addr().Next().Next().Next(), 443)
				}, want: TxSynAck},
				{name: "an address in it that serves something else", edit: func(f family, s *segment) {
					s.dst = netip.AddrPortFrom(f.other.Addr(), 443)
				}, want: PassNotLocal},
				{name: "an address beside it", edit: func(f family, s *segment) {
					s.dst = netip.AddrPortFrom(f.client.Addr(), 443)
				}, want: PassNotLocal},
			},
		},
		{
			name: "the kernel's service",
			spec: map[string]any{"cfg_kernel": uint64(1 << 3)},
			rows: []row{
				{name: "a SYN", want: TxSynAck},
				{name: "a stray ACK", edit: stray, want: DropBadCookie},
				{name: "a flow of the engine's table is none of the kernel's", edit: segmentOf(rst), want: DropNoFlow},
			},
		},
		{
			name: "the kernel's service, disarmed",
			spec: map[string]any{"cfg_kernel": uint64(1 << 3)},
			prepare: func(p *program) {
				c := testControl()
				c.Armed = 0
				p.setControl(c)
			},
			rows: []row{
				{name: "a SYN", want: PassDisarmed},
				{name: "a valid final ACK", edit: finalAckOf(testKeys()), want: PassDisarmed},
				{name: "a RST", edit: segmentOf(rst), want: PassDisarmed},
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := load(t, options{shared: true, noSocket: c.noSocket, spec: func(s *ebpf.CollectionSpec) {
				for name, v := range c.spec {
					must(t, s.Variables[name].Set(v))
				}
			}})
			for _, f := range families {
				p.establish(f.flow())
			}
			if c.prepare != nil {
				c.prepare(p)
			}
			p.table(t, c.rows)
		})
	}
}

// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// The model: what must become of a frame, said a second time, in Go, for reading. It follows the meaning
// of the reasons (types.h) and the RFCs, rule by rule in the order in which they apply; how the program
// gets there (fast paths, words instead of bytes, the verifier's wishes) it doesn't know. It shares
// with it the Go twin of the cookie (cookie.go), which has tests of its own.
//
// Beyond it are: what the kernel's sockets know, rates (limits.h), and tables that are full.

// A world is everything besides the frame that a verdict depends on.
type world struct {
	mac        [6]byte
	mss4, mss6 uint16
	wscale     byte
	window     uint16
	partial    bool   // a pseudo-header's sum alone passes for a checksum
	reset      bool   // bad ACKs are answered with RST
	kernel     uint64 // services that the kernel serves
	kernelWS   byte   // the window scale that they offer
	kernelOpts uint8  // Handshake…: the options that they may grant
	outlive    uint64 // services that need no lease
	allowOnly  bool
	lists      map[netip.Prefix]uint32 // nil: everybody may connect
	ports      map[uint16]uint64
	addrs      map[netip.Addr]uint64
	prefixes   map[netip.Prefix]uint64
	control    Control
	keys       CookieKeys
	socket     bool // an engine listens to the queue
	flows      map[flow]Handshake
}

type flow struct{ remote, local netip.AddrPort }

// An outcome is what becomes of a frame.
type outcome struct {
	reason Reason
	frame  []byte // as it leaves, by whatever way; of a dropped one nobody asks
	record []byte // in front of it
	opened *Handshake
}

// A view is a frame with its parts found.
type view struct {
	frame    []byte
	kind     uint16 // EtherType, behind the tags
	link     int    // bytes of Ethernet header and tags
	ip       []byte // from the IP header to the end of the frame
	tcp      []byte // from the TCP header to the end of the segment
	flow     flow
	services uint64
}

const (
	unjudged   = Reason(255)  // no rule has applied yet
	isICMP     = Reason(254)  // and the rules of ICMP do
	shortest   = ethLen + 2*4 // below there is no TCP, whatever the frame is
	extHeaders = 6            // extension headers that are looked behind
	extBytes   = 511          // how far behind the IPv6 header's start TCP may begin
)

// judge says what becomes of a frame; now is CLOCK_MONOTONIC in nanoseconds.
func (w *world) judge(frame []byte, now uint64) outcome {
	v, why := w.look(frame)
	switch why {
	case unjudged:
		return w.ours(v, now)
	case isICMP:
		return w.icmp(v, now)
	}
	return outcome{reason: why, frame: frame}
}

// look finds the parts of a frame, until one says that it is not ours.
func (w *world) look(frame []byte) (*view, Reason) {
	if len(frame) < shortest {
		return nil, PassNotTCP
	}
	v := &view{frame: frame, kind: be16(frame[12:]), link: ethLen}
	for range 2 { // tags; a third one is a protocol that isn't ours
		if v.kind == typeVLAN || v.kind == typeQinQ {
			v.link += 4
			v.kind = be16(frame[v.link-2:])
		}
	}
	v.ip = frame[v.link:]
	switch v.kind {
	case typeIP4:
		return v, w.ip4(v)
	case typeIP6:
		return v, w.ip6(v)
	}
	return v, PassNotTCP
}

// RFC 791, 3.1
func (w *world) ip4(v *view) Reason {
	ip := v.ip
	if len(ip) < 20 {
		return PassBadIP
	}
	if ip[9] != 6 {
		if ip[9] == 1 {
			return isICMP
		}
		return PassNotTCP
	}
	if be16(ip[6:])&0x3fff != 0 { // more fragments, or an offset
		return PassFragment
	}
	header := int(ip[0]&15) * 4
	if ip[0]>>4 != 4 || header < 20 || len(ip) < header+tcpLen {
		return PassBadIP
	}
	if why := w.whose(v, ip[12:16], ip[16:20], ip[header:]); why != unjudged {
		return why
	}
	total := int(be16(ip[2:]))
	if total < header+tcpLen || total > len(ip) || sum16(ip[:header]) != 0xffff {
		return PassBadIP
	}
	v.tcp = ip[header:total]
	for o := ip[20:header]; len(o) > 0 && o[0] != 0; {
		if o[0] == 1 {
			o = o[1:]
			continue
		}
		if len(o) < 2 || o[1] < 2 || int(o[1]) > len(o) {
			return PassBadIP
		}
		if o[0] == 131 || o[0] == 137 { // loose and strict source route
			return PassIPOptions
		}
		o = o[o[1]:]
	}
	return unjudged
}

// RFC 8200, 3 and 4
func (w *world) ip6(v *view) Reason {
	ip := v.ip
	if len(ip) < 40 {
		return PassBadIP
	}
	if ip[6] == 58 {
		return isICMP
	}
	header, next := 40, ip[6]
	for seen := 0; next != 6; seen++ {
		switch {
		case next == 44:
			return PassFragment
		case next != 0 && next != 43 && next != 60: // neither hop-by-hop, routing nor destination options
			return PassNotTCP
		case len(ip) < header+4:
			return PassBadIP
		case next == 43 && ip[header+3] != 0: // segments left
			return PassIPOptions
		case seen == extHeaders:
			return PassNotTCP
		}
		next, header = ip[header], header+8*(int(ip[header+1])+1)
	}
	if header > extBytes {
		return PassNotTCP
	}
	if len(ip) < header+tcpLen {
		return PassBadIP
	}
	if why := w.whose(v, ip[8:24], ip[24:40], ip[header:]); why != unjudged {
		return why
	}
	total := 40 + int(be16(ip[4:]))
	if ip[0]>>4 != 6 || total < header+tcpLen || total > len(ip) {
		return PassBadIP
	}
	v.tcp = ip[header:total]
	return unjudged
}

// whose asks for whom a segment is: the port first, since nearly all packets of a host leave there.
func (w *world) whose(v *view, src, dst, tcp []byte) Reason {
	v.flow = flow{remote: addrPort(src, tcp[0:]), local: addrPort(dst, tcp[2:])}
	if v.services = w.ports[v.flow.local.Port()]; v.services == 0 {
		return PassNoService
	}
	if [6]byte(v.frame) != w.mac {
		return PassOtherHost
	}
	here := w.addrs[v.flow.local.Addr()]
	if here == 0 {
		here, _ = longestMatch(w.prefixes, v.flow.local.Addr())
	}
	if v.services &= here; v.services == 0 {
		return PassNotLocal
	}
	return unjudged
}

// ours judges a segment for one of our services.
func (w *world) ours(v *view, now uint64) outcome {
	give := func(why Reason) outcome { return outcome{reason: why, frame: v.frame} }
	if now>>TickShift > w.control.Lease && v.services&w.outlive == 0 {
		return give(PassNoLease)
	}
	header, flags := int(v.tcp[12]>>4)*4, v.tcp[13]
	if header < tcpLen || header > len(v.tcp) {
		return give(DropBadTCP)
	}
	if flags&syn != 0 && flags&(fin|rst) != 0 || flags&(syn|ack|rst) == 0 {
		return give(DropBadFlags)
	}
	armed, kernel := v.services&w.control.Armed != 0, v.services&w.kernel != 0
	if kernel && v.link > ethLen+4 {
		return give(PassTwoTags)
	}
	if kernel && !armed {
		return give(PassDisarmed)
	}
	if h, known := w.flows[v.flow]; known && !kernel {
		return w.known(v, h)
	}
	switch flags & (syn | ack | rst) {
	case syn:
		if !armed {
			return give(PassDisarmed)
		}
		return w.syn(v, now)
	case ack:
		h, why := w.finalAck(v, now)
		if why != RedirectOpened && !armed {
			return give(PassDisarmed)
		}
		if why != RedirectOpened {
			return w.refuse(v, why)
		}
		if kernel {
			return outcome{reason: PassHandedOver, frame: v.frame, record: record(h)}
		}
		o := w.engine(v, RedirectOpened, record(h))
		o.opened = &h
		return o
	}
	if !armed { // of a connection whose SYN was the kernel's
		return give(PassDisarmed)
	}
	return give(DropNoFlow)
}

// engine hands a frame to the engine, if there is one.
func (w *world) engine(v *view, why Reason, record []byte) outcome {
	if !w.socket {
		return outcome{reason: DropNoSocket}
	}
	return outcome{reason: why, frame: v.frame, record: record}
}

// known judges a segment of a flow that exists. The record goes along as long as the client
// acknowledges no more than our SYN.
func (w *world) known(v *view, h Handshake) outcome {
	if v.tcp[13]&(syn|ack|rst) == syn {
		return w.engine(v, RedirectSyn, nil)
	}
	if be32(v.tcp[8:]) == h.Iss+1 {
		return w.engine(v, RedirectSegment, record(h))
	}
	return w.engine(v, RedirectSegment, nil)
}

func (w *world) syn(v *view, now uint64) outcome {
	remote := v.flow.remote.Addr()
	if why := w.unwelcome(v); why != unjudged {
		return outcome{reason: why}
	}
	if !w.checksumOK(v) {
		return outcome{reason: DropBadChecksum}
	}
	o := w.offer(v)
	if o.MSS == 0 { // RFC 9293, 3.7.1
		o.MSS = 1220
		if remote.Is4() {
			o.MSS = 536
		}
	}
	o.ECN = v.tcp[13]&(ece|cwr) == ece|cwr && !v.speaksECN()
	wscale := w.wscale
	if v.services&w.kernel != 0 {
		o.ECN = o.ECN && w.kernelOpts&HandshakeECN != 0
		wscale = w.kernelWS
		o.SACK = o.SACK && w.kernelOpts&HandshakeSACK != 0
		o.Timestamps = o.Timestamps && w.kernelOpts&HandshakeTimestamps != 0
		if w.kernelOpts&HandshakeWScale == 0 {
			o.WScale = -1
		}
	}
	irs := be32(v.tcp[4:])
	iss, tsval, granted := MakeCookie(&w.keys, o, irs, w.clock(v, now))
	mss := w.mss6
	if remote.Is4() {
		mss = w.mss4
	}
	options := optMSS(mss)
	switch {
	case granted.Timestamps && granted.SACK:
		options = slices.Concat(options, optSACK, optTS(tsval, granted.TSVal))
	case granted.Timestamps:
		options = slices.Concat(options, nop, nop, optTS(tsval, granted.TSVal))
	case granted.SACK:
		options = slices.Concat(options, nop, nop, optSACK)
	}
	if granted.WScale >= 0 {
		options = slices.Concat(options, nop, optWS(wscale))
	}
	flags := byte(syn | ack)
	if granted.ECN {
		flags |= ece // RFC 3168, 6.1.1
	}
	return outcome{reason: TxSynAck, frame: reply(v, segment{
		seq: iss, ack: irs + 1, flags: flags, window: w.window, options: options,
	})}
}

// speaksECN says whether the IP header has a codepoint of ECN: RFC 3168, 5.
func (v *view) speaksECN() bool {
	if v.kind == typeIP4 {
		return v.ip[1]&3 != 0
	}
	return v.ip[1]>>4&3 != 0
}

// clock is what a service's timestamps count: ticks, or milliseconds where the kernel goes on with them.
func (w *world) clock(v *view, now uint64) uint32 {
	if v.services&w.kernel != 0 {
		return uint32(now / 1e6)
	}
	return uint32(now >> TickShift)
}

func (w *world) finalAck(v *view, now uint64) (Handshake, Reason) {
	o := w.offer(v)
	h, why := CheckCookie(&w.keys, o, be32(v.tcp[8:])-1, be32(v.tcp[4:])-1, w.clock(v, now))
	switch {
	case why != RedirectOpened:
		return h, why
	case !w.checksumOK(v):
		return h, DropBadChecksum
	case w.denied(v.flow.remote.Addr()):
		return h, DropDenied
	}
	return h, RedirectOpened
}

// refuse drops an ACK that proves nothing, or resets the connection that its sender thinks it has:
// RFC 9293, 3.10.7.1.
func (w *world) refuse(v *view, why Reason) outcome {
	if w.reset && (why == DropBadCookie || why == DropBadTimestamp || why == DropExpiredKey) && w.unwelcome(v) == unjudged {
		return outcome{reason: TxReset, frame: reply(v, segment{seq: be32(v.tcp[8:]), flags: rst})}
	}
	return outcome{reason: why}
}

// reply is a segment back to where v came from, by the same VLANs, with IP headers of its own. A frame
// that was padded stays so, with what it was padded with.
func reply(v *view, s segment) []byte {
	s.to, s.from = [6]byte(v.frame[6:]), [6]byte(v.frame)
	for at := 12; at < v.link-2; at += 4 {
		s.tags = append(s.tags, tag{be16(v.frame[at:]), be16(v.frame[at+2:])})
	}
	s.src, s.dst = v.flow.local, v.flow.remote
	s.ttl, s.fragment = 64, dontFragment
	b := s.frame()
	if least := min(len(v.frame), 60); len(b) < least {
		b = append(b, v.frame[len(b):least]...)
	}
	return b
}

// offer reads the TCP options: RFC 9293, 3.1; RFC 7323; RFC 2018. A length that can't be ends them.
func (w *world) offer(v *view) Offer {
	o := Offer{WScale: -1, Remote: v.flow.remote, Local: v.flow.local}
	for b := v.tcp[tcpLen : int(v.tcp[12]>>4)*4]; len(b) > 0 && b[0] != 0; {
		if b[0] == 1 {
			b = b[1:]
			continue
		}
		if len(b) < 2 || b[1] < 2 || int(b[1]) > len(b) {
			break
		}
		switch [2]byte(b) {
		case [2]byte{2, 4}:
			o.MSS = be16(b[2:])
		case [2]byte{3, 3}:
			o.WScale = int8(min(b[2], 14))
		case [2]byte{4, 2}:
			o.SACK = true
		case [2]byte{8, 10}:
			o.Timestamps, o.TSVal, o.TSEcr = true, be32(b[2:]), be32(b[6:])
		}
		b = b[b[1]:]
	}
	return o
}

// checksumOK judges the TCP checksum of a segment without data; data are the engine's.
func (w *world) checksumOK(v *view) bool {
	if len(v.tcp) > int(v.tcp[12]>>4)*4 {
		return true
	}
	pseudo := pseudoHeader(v.flow.remote.Addr(), v.flow.local.Addr(), len(v.tcp))
	return sum16(pseudo, v.tcp) == 0xffff || w.partial && be16(v.tcp[16:]) == sum16(pseudo)
}

// unwelcome is why a source gets no answer, whatever it sent.
func (w *world) unwelcome(v *view) Reason {
	remote := v.flow.remote.Addr()
	switch {
	case unanswerable(remote):
		return DropBadSource
	case remote == v.flow.local.Addr():
		return DropLand
	case w.denied(remote):
		return DropDenied
	}
	return unjudged
}

// unanswerable sources: RFC 1122, 3.2.1.3; RFC 6890; RFC 4291, 2.5 and 2.7.
func unanswerable(a netip.Addr) bool {
	if a.Is4() {
		first := a.As4()[0]
		return first == 0 || first >= 224 || a.IsLoopback()
	}
	return a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.Is4In6()
}

func (w *world) denied(a netip.Addr) bool {
	if w.lists == nil {
		return false
	}
	listed, found := longestMatch(w.lists, a)
	if !found {
		return w.allowOnly
	}
	return listed != ListAllow
}

// icmp judges ICMP: an error that quotes a segment that we sent on a flow goes to the engine (RFC 5927).
func (w *world) icmp(v *view, now uint64) outcome {
	quoted := quoted6
	if v.kind == typeIP4 {
		quoted = quoted4
	}
	f, ok := quoted(v.ip)
	if _, known := w.flows[f]; !ok || !known || [6]byte(v.frame) != w.mac || now>>TickShift > w.control.Lease {
		return outcome{reason: PassNotTCP, frame: v.frame}
	}
	return w.engine(v, RedirectICMP, nil)
}

// quoted4 finds the flow of a segment that an error quotes, of which there must be 8 bytes: RFC 792.
func quoted4(ip []byte) (f flow, ok bool) {
	icmp, ok := behindIP4(ip)
	if !ok || be16(ip[6:])&0x3fff != 0 {
		return f, false
	}
	switch icmp[0] {
	case 3, 11, 12: // destination unreachable, time exceeded, parameter problem
	default:
		return f, false
	}
	quote := icmp[8:]
	tcp, ok := behindIP4(quote)
	if !ok || quote[9] != 6 {
		return f, false
	}
	return flow{local: addrPort(quote[12:16], tcp[0:]), remote: addrPort(quote[16:20], tcp[2:])}, true
}

// behindIP4 is what follows an IPv4 header, if that is 8 bytes or more.
func behindIP4(ip []byte) (rest []byte, ok bool) {
	if len(ip) < 20 {
		return nil, false
	}
	header := int(ip[0]&15) * 4
	if ip[0]>>4 != 4 || header < 20 || len(ip) < header+8 {
		return nil, false
	}
	return ip[header:], true
}

// quoted6 is the same for ICMPv6, whose error types are below 128 (RFC 4443, 2.1); these four exist.
func quoted6(ip []byte) (f flow, ok bool) {
	if len(ip) < 40+8+40+8 || ip[0]>>4 != 6 || ip[40] < 1 || ip[40] > 4 {
		return f, false
	}
	quote := ip[48:]
	if quote[0]>>4 != 6 || quote[6] != 6 {
		return f, false
	}
	return flow{local: addrPort(quote[8:24], quote[40:]), remote: addrPort(quote[24:40], quote[42:])}, true
}

func longestMatch[V any](table map[netip.Prefix]V, a netip.Addr) (v V, found bool) {
	best := -1
	for p, value := range table {
		if p.Contains(a) && p.Bits() > best {
			best, v = p.Bits(), value
		}
	}
	return v, best >= 0
}

func addrPort(addr, port []byte) netip.AddrPort {
	a, _ := netip.AddrFromSlice(addr)
	return netip.AddrPortFrom(a, be16(port))
}

func be16(b []byte) uint16 { return binary.BigEndian.Uint16(b) }
func be32(b []byte) uint32 { return binary.BigEndian.Uint32(b) }

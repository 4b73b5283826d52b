// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
)

// play gives a frame to the program and to the model. What they don't agree on is the error.
func (p *program) play(frame, out []byte) (result, error) {
	before := p.mem.counters()
	first := coarse()
	r, err := testRun(p.Xdptcp.FD(), frame, xdpMD{DataEnd: uint32(len(frame))}, out)
	last := coarse()
	if err != nil {
		return r, err
	}
	after := p.mem.counters()
	r.reason = Reason(ReasonCount)
	counted := uint64(0)
	for i := range after {
		if after[i] != before[i] {
			counted += after[i] - before[i]
			r.reason = Reason(i)
		}
	}
	if counted != 1 {
		return r, fmt.Errorf("counted %d times", counted)
	}
	if verdict, _ := ReasonLabels(r.reason); verdict != verdictNames[r.verdict] {
		return r, fmt.Errorf("verdict %s, counted as %s", verdictNames[r.verdict], reasonNames[r.reason])
	}
	var h Handshake
	if r.reason == RedirectOpened || r.reason == DropNoSocket {
		if f := p.opens(frame); f.local.IsValid() { // not so for an ICMP error
			key, table := p.flowKey(f.remote, f.local)
			_ = table.Lookup(key, &h)
		}
	}
	// The clock may have ticked meanwhile.
	var want outcome
	for now := first; ; now = min(now+tickingTime, last) {
		want = p.world.judge(frame, now)
		if err = want.differs(r, h); err == nil || now == last {
			break
		}
	}
	if err == nil && want.opened != nil {
		p.world.flows[p.opens(frame)] = h
	}
	return r, err
}

// tickingTime is short enough that no clock of the model ticks twice in it, in nanoseconds.
const tickingTime = 500_000

// opens is the flow that a segment is of.
func (p *program) opens(frame []byte) flow {
	v, _ := p.world.look(frame)
	return v.flow
}

// differs tells how the program's result, and what is in the flow table after it, is another.
func (o outcome) differs(r result, h Handshake) error {
	switch {
	case o.reason != r.reason:
		return fmt.Errorf("%s, the model says %s", reasonNames[r.reason], reasonNames[o.reason])
	case o.opened != nil && *o.opened != h:
		return fmt.Errorf("flow table: %x, the model says %x", record(h), record(*o.opened))
	case r.verdict == xdpDrop:
		return nil
	case !bytes.Equal(r.frame, o.frame):
		return fmt.Errorf("%s:\n    leaves as %x\nthe model says %x", reasonNames[r.reason], r.frame, o.frame)
	case !bytes.Equal(r.meta, o.record):
		return fmt.Errorf("%s: record %x, the model says %x", reasonNames[r.reason], r.meta, o.record)
	}
	return nil
}

// A theatre is the programs that frames are played to: with the usual constants, with all others, and with
// an allow list and without an engine.
type theatre [3]*program

func newTheatre(tb testing.TB) (t theatre) {
	tb.Helper()
	set := func(values map[string]any) func(*ebpf.CollectionSpec) {
		return func(s *ebpf.CollectionSpec) {
			for name, v := range values {
				must(tb, s.Variables[name].Set(v))
			}
		}
	}
	t[0] = load(tb, options{shared: true})
	t[1] = load(tb, options{shared: true, spec: set(map[string]any{
		"cfg_mss4": uint16(8960), "cfg_mss6": uint16(8940), "cfg_wscale": uint8(11), "cfg_window": uint16(12345),
		"cfg_partial_checksums": false, "cfg_reset": true, "cfg_lists": true, "cfg_prefixes": true,
		"cfg_kernel": uint64(1 << 63), "cfg_outlive": uint64(1 << 63),
		"cfg_kernel_wscale": uint8(10), "cfg_kernel_options": HandshakeWScale | HandshakeTimestamps | HandshakeECN,
	})})
	t[2] = load(tb, options{shared: true, noSocket: true, spec: set(map[string]any{
		"cfg_lists": true, "cfg_allow_only": true, "cfg_outlive": uint64(1 << 3),
	})})
	for _, f := range families {
		client, _ := f.client.Addr().Prefix(8 * len(f.client.Addr().AsSlice()) * 3 / 4)
		t[1].list(client, ListDeny)
		t[1].list(netip.PrefixFrom(f.client.Addr(), f.client.Addr().BitLen()), ListAllow)
		t[2].list(client, ListAllow)
		here, _ := f.server.Addr().Prefix(f.server.Addr().BitLen() - 4)
		t[1].servePrefix(here, 1<<3)
	}
	for _, p := range t {
		for _, f := range families {
			p.establish(f.flow())
		}
	}
	return t
}

// list puts a prefix of sources on the lists.
func (p *program) list(prefix netip.Prefix, what uint32) {
	p.tb.Helper()
	p.world.lists[prefix] = what
	must(p.tb, p.prefixTable(prefix, p.Lists4, p.Lists6).Put(prefixKey(prefix), what))
}

// servePrefix makes all addresses of a prefix local, for these services.
func (p *program) servePrefix(prefix netip.Prefix, services uint64) {
	p.tb.Helper()
	p.world.prefixes[prefix] = services
	must(p.tb, p.prefixTable(prefix, p.Prefixes4, p.Prefixes6).Put(prefixKey(prefix), services))
}

func (p *program) prefixTable(prefix netip.Prefix, v4, v6 *ebpf.Map) *ebpf.Map {
	if prefix.Addr().Is4() {
		return v4
	}
	return v6
}

func prefixKey(prefix netip.Prefix) any {
	b := prefix.Addr().AsSlice()
	if len(b) == 4 {
		return Prefix4{Len: uint32(prefix.Bits()), Addr: binary.NativeEndian.Uint32(b)}
	}
	k := Prefix6{Len: uint32(prefix.Bits())}
	for i := range k.Addr {
		k.Addr[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return k
}

// establish makes a flow exist, whose client has acknowledged nothing yet.
func (p *program) establish(f flow) {
	p.tb.Helper()
	h := Handshake{Magic: HandshakeMagic, Iss: 0x1000_0000, Irs: 0x2000_0000, Mss: 1460, SndWscale: 7, Flags: HandshakeWScale}
	key, table := p.flowKey(f.remote, f.local)
	must(p.tb, table.Put(key, h))
	p.countFlow(segment{src: f.remote, dst: f.local}, 1)
	p.world.flows[f] = h
}

// A state is what changes from frame to frame besides the frame: of fuzzing, the second input.
type state uint16

const (
	whichProgram  state = 3
	leaseOver     state = 1 << 2
	disarmed      state = 1 << 3
	strictCookies state = 1 << 4
	leaseEnds     state = 1 << 8
	// What is wrong with a frame hides what is behind it, so these are put right.
	rightIPSum  state = 1 << 5
	rightCookie state = 1 << 6
	rightTCPSum state = 1 << 7
)

// set brings a program into a state, and a frame.
func (t theatre) set(s state, frame []byte) *program {
	p := t[min(int(s&whichProgram), len(t)-1)]
	w := p.world
	w.control.Lease, w.control.Armed = math.MaxUint64, math.MaxUint64
	if s&leaseOver != 0 {
		w.control.Lease = 0
	}
	if s&leaseEnds != 0 { // with this tick
		w.control.Lease = coarse()
	}
	if s&disarmed != 0 {
		w.control.Armed = 1 << 63
	}
	w.keys.Strict = uint64(s & strictCookies)
	p.mem.setControl(w.control)
	p.mem.setKeys(w.keys)
	w.repair(frame, s)
	return p
}

// repair puts right what the state says.
func (w *world) repair(frame []byte, s state) {
	v, _ := w.look(frame)
	if v == nil {
		return
	}
	if s&rightIPSum != 0 && v.kind == typeIP4 && len(v.ip) >= 20 {
		setIP4Checksum(v.ip)
		v, _ = w.look(frame)
	}
	if v.tcp == nil {
		return
	}
	header := int(v.tcp[12]>>4) * 4
	// To the twin, an IPv4-mapped address is the IPv4 address; the program makes no cookies for it.
	if s&rightCookie != 0 && header >= tcpLen && header <= len(v.tcp) && !v.flow.remote.Addr().Is4In6() {
		o := w.offer(v)
		o.MSS, o.WScale, o.SACK = 1460, 7, true
		iss, tsval, _ := MakeCookie(&w.keys, o, be32(v.tcp[4:])-1, ticks())
		binary.BigEndian.PutUint32(v.tcp[8:], iss+1)
		if at := bytes.Index(v.tcp[tcpLen:header], []byte{8, 10}); at >= 0 && at+10 <= header-tcpLen {
			binary.BigEndian.PutUint32(v.tcp[tcpLen+at+6:], tsval)
		}
	}
	if s&rightTCPSum != 0 {
		v.tcp[16], v.tcp[17] = 0, 0
		sum := sum16(pseudoHeader(v.flow.remote.Addr(), v.flow.local.Addr(), len(v.tcp)), v.tcp)
		binary.BigEndian.PutUint16(v.tcp[16:], ^sum)
	}
}

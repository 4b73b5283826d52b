// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// ticks is the program's clock: the coarse monotonic one.
func ticks() uint32 { return uint32(clock()) }

func clock() uint64 { return coarse() >> TickShift }

// coarse is CLOCK_MONOTONIC_COARSE in nanoseconds.
func coarse() uint64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &ts); err != nil {
		panic(err)
	}
	return uint64(ts.Nano())
}

// finalAck sends a SYN from a client's port and makes the ACK that a client answers the SYN/ACK with.
func (p *program) finalAck(t testing.TB, f family, options []byte, port uint16) (final segment, synack packet) {
	t.Helper()
	s := f.syn(options)
	s.src = netip.AddrPortFrom(s.src.Addr(), port)
	r := p.runUncounted(s.frame(), xdpMD{})
	if r.verdict != xdpTx {
		t.Fatalf("the SYN was not answered: %s", verdictNames[r.verdict])
	}
	synack, err := decode(r.frame)
	if err != nil {
		t.Fatal(err)
	}
	return answer(synack, s.seq+1), synack
}

// answer is the ACK of a SYN/ACK, with timestamps if it has some.
func answer(synack packet, seq uint32) segment {
	a := segment{
		to: synack.from, from: synack.to, tags: synack.tags, src: synack.dst, dst: synack.src,
		seq: seq, ack: synack.seq + 1, flags: ack,
	}
	if synack.tsval != 0 {
		a.options = slices.Concat(nop, nop, optTS(clientTSVal+5, synack.tsval))
	}
	return a
}

// offer is what the twin wants to know of a final ACK.
func offerOf(a segment) Offer {
	o := Offer{Remote: a.src, Local: a.dst}
	if len(a.options) == 12 {
		o.Timestamps, o.TSEcr = true, binary.BigEndian.Uint32(a.options[8:])
	}
	return o
}

// record is the twin's Handshake as it lies in front of the frame.
func record(h Handshake) []byte {
	b := binary.NativeEndian.AppendUint32(nil, h.Magic)
	for _, v := range []uint32{h.Iss, h.Irs, h.TsOffset, h.RttTicks} {
		b = binary.NativeEndian.AppendUint32(b, v)
	}
	b = binary.NativeEndian.AppendUint16(b, h.Mss)
	return append(b, h.SndWscale, h.Flags)
}

// checkRecord compares the record in front of a frame with the twin's, taken at a tick from first
// to last, and returns the twin's.
func checkRecord(t testing.TB, k *CookieKeys, a segment, meta []byte, first, last uint32) Handshake {
	t.Helper()
	var h Handshake
	var why Reason
	for now := first; now != last+1; now++ {
		if h, why = CheckCookie(k, offerOf(a), a.ack-1, a.seq-1, now); bytes.Equal(meta, record(h)) {
			return h
		}
	}
	t.Fatalf("record %x, the twin's: %x (%s)", meta, record(h), reasonNames[why])
	return h
}

// flow reads the flow of a segment from its table.
func (p *program) flow(a segment) (h Handshake, found bool) {
	key, table := p.flowKey(a.src, a.dst)
	return h, table.Lookup(key, &h) == nil
}

func (p *program) flowKey(remote, local netip.AddrPort) (key any, table *ebpf.Map) {
	rport, lport := uint16(portKey(remote.Port())), uint16(portKey(local.Port()))
	if remote.Addr().Is4() {
		return Flow4{
			Remote: binary.NativeEndian.Uint32(remote.Addr().AsSlice()), RemotePort: rport,
			Local: binary.NativeEndian.Uint32(local.Addr().AsSlice()), LocalPort: lport,
		}, p.Flows4
	}
	k := Flow6{RemotePort: rport, LocalPort: lport}
	for i := range 4 {
		k.Remote[i] = binary.NativeEndian.Uint32(remote.Addr().AsSlice()[4*i:])
		k.Local[i] = binary.NativeEndian.Uint32(local.Addr().AsSlice()[4*i:])
	}
	return k, p.Flows6
}

// open sends a final ACK that must open a flow, and checks record and flow table.
func (p *program) open(t testing.TB, k *CookieKeys, a segment) Handshake {
	t.Helper()
	if _, found := p.flow(a); found {
		t.Fatal("the flow exists before its final ACK")
	}
	in := a.frame()
	first := ticks()
	r := p.expect(in, RedirectOpened)
	h := checkRecord(t, k, a, r.meta, first, ticks())
	if !bytes.Equal(r.frame, in) {
		t.Fatalf("the frame changed on its way to the engine:\n in %x\nout %x", in, r.frame)
	}
	if got, found := p.flow(a); !found || got != h {
		t.Fatalf("flow table: %+v (%v), want %+v", got, found, h)
	}
	return h
}

// What a SYN offers comes back in the record of the final ACK, rounded down as cookie.h says.
func TestHandshakeCarriesOptions(t *testing.T) {
	type want struct {
		mss    uint16
		wscale uint8
		flags  uint8
	}
	const all = HandshakeWScale | HandshakeSACK | HandshakeTimestamps
	type row struct {
		name    string
		options []byte
		want    want
	}
	rows := []row{
		{"no options: the family's default MSS", nil, want{0, 0, 0}},
		{"MSS 0 counts as absent", optMSS(0), want{0, 0, 0}},
		{"an MSS option of the wrong length counts as absent", slices.Concat([]byte{2, 3, 9}, nop), want{0, 0, 0}},
		{"an MSS option that is too long counts as absent", []byte{2, 5, 5, 0xb4, 0, 1, 1, 1}, want{0, 0, 0}},
		{"a window scale of the wrong length counts as absent", slices.Concat([]byte{3, 4, 7, 7}, optTS(clientTSVal, 0)), want{0, 0, HandshakeTimestamps}},
		{"of an option given twice, the last counts", slices.Concat(optMSS(536), optMSS(1460)), want{1460, 0, 0}},
		{"SACK alone", slices.Concat(optMSS(1460), optSACK), want{1460, 0, HandshakeSACK}},
		{"timestamps alone", slices.Concat(optMSS(1460), optTS(clientTSVal, 0)), want{1460, 0, HandshakeTimestamps}},
		{"SACK and timestamps", slices.Concat(optMSS(1460), optSACK, optTS(clientTSVal, 0)), want{1460, 0, HandshakeSACK | HandshakeTimestamps}},
		{"window scale alone", slices.Concat(optMSS(1460), nop, optWS(8)), want{1460, 8, HandshakeWScale}},
		{"macOS", macOptions(1460, 6), want{1460, 6, all}},
		{"window scale 15 is taken as 14, Linux layout", linuxOptions(1460, 15), want{1460, 14, all}},
		{"window scale 255 is taken as 14, Linux layout", linuxOptions(1460, 255), want{1460, 14, all}},
		{"window scale 15 is taken as 14, another layout", macOptions(1460, 15), want{1460, 14, all}},
		{"window scale 15 without timestamps", windowsOptions(1460, 15), want{1460, 8, HandshakeWScale | HandshakeSACK}},
	}
	for _, m := range []struct{ offered, want uint16 }{
		{1, 64}, {64, 64}, {535, 64}, {536, 536}, {1219, 536}, {1220, 1220}, {1359, 1220}, {1360, 1360}, {1399, 1360},
		{1400, 1400}, {1439, 1400}, {1440, 1440}, {1459, 1440}, {1460, 1460}, {8959, 1460}, {8960, 8960}, {65535, 8960},
	} {
		rows = append(rows,
			row{fmt.Sprintf("MSS %d with timestamps", m.offered), linuxOptions(m.offered, 7), want{m.want, 7, all}},
			row{fmt.Sprintf("MSS %d without timestamps", m.offered), windowsOptions(m.offered, 8), want{m.want, 8, HandshakeWScale | HandshakeSACK}})
	}
	for scale := range byte(15) {
		rows = append(rows, row{fmt.Sprintf("window scale %d with timestamps", scale), linuxOptions(1460, scale), want{1460, scale, all}})
		w := want{1460, []uint8{0, 0, 2, 2, 2, 2, 6, 6, 8, 8, 8, 8, 8, 8, 8}[scale], HandshakeSACK}
		if w.wscale > 0 {
			w.flags |= HandshakeWScale
		}
		rows = append(rows, row{fmt.Sprintf("window scale %d without timestamps", scale), windowsOptions(1460, scale), w})
	}

	p := load(t, options{})
	for _, f := range families {
		for i, row := range rows {
			t.Run(f.name+"/"+row.name, func(t *testing.T) {
				p := p.with(t)
				if row.want.mss == 0 {
					row.want.mss = f.defaultMSS
				}
				a, synack := p.finalAck(t, f, row.options, uint16(2000+i))
				before := ticks()
				h := p.open(t, testKeys(), a)
				if got := (want{h.Mss, h.SndWscale, h.Flags}); got != row.want {
					t.Errorf("record %+v, want %+v", got, row.want)
				}
				if h.Iss != synack.seq || h.Irs != a.seq-1 || h.Magic != 0x58545631 {
					t.Errorf("record %+v, want iss %#x, irs %#x", h, synack.seq, a.seq-1)
				}
				// What was granted is what the SYN/ACK said.
				if ws := bytes.Contains([]byte(synack.text), []byte("ws=")); ws != (h.Flags&HandshakeWScale != 0) {
					t.Errorf("SYN/ACK %q, record %+v", synack.text, h)
				}
				if h.Flags&HandshakeTimestamps == 0 {
					if h.TsOffset != 0 || h.RttTicks != 0 {
						t.Errorf("no timestamps, but %+v", h)
					}
					return
				}
				// The engine goes on with ts_offset + clock: never behind the SYN/ACK's TSval.
				if ahead := int32(h.TsOffset + before - synack.tsval); ahead < 0 || ahead > 1000 {
					t.Errorf("the clock is %d ticks ahead of the SYN/ACK's TSval", ahead)
				}
				if h.RttTicks > 1000 {
					t.Errorf("the handshake took %d ticks", h.RttTicks)
				}
			})
		}
	}
}

// ECN comes back with the timestamps, beside every window scale, and is not made up.
func TestHandshakeCarriesECN(t *testing.T) {
	p := load(t, options{})
	port := uint16(3000)
	for _, f := range families {
		for _, c := range []struct {
			name    string
			options func(scale byte) []byte
			flags   byte
			want    bool
		}{
			{"offered", func(scale byte) []byte { return linuxOptions(1460, scale) }, syn | ece | cwr, true},
			{"offered in another layout", func(scale byte) []byte { return macOptions(1460, scale) }, syn | ece | cwr, true},
			{"offered without timestamps", func(scale byte) []byte { return windowsOptions(1460, scale) }, syn | ece | cwr, false},
			{"not offered", func(scale byte) []byte { return linuxOptions(1460, scale) }, syn, false},
		} {
			for scale := range byte(15) {
				s := f.syn(c.options(scale))
				port++
				s.src, s.flags = netip.AddrPortFrom(s.src.Addr(), port), c.flags
				synack, err := decode(p.expect(s.frame(), TxSynAck).frame)
				must(t, err)
				if granted := synack.flags&ece != 0; granted != c.want || synack.flags&cwr != 0 {
					t.Errorf("%s, %s, window scale %d: the SYN/ACK's flags are %#x", f.name, c.name, scale, synack.flags)
				}
				h := p.open(t, testKeys(), answer(synack, s.seq+1))
				if got := h.Flags&HandshakeECN != 0; got != c.want {
					t.Errorf("%s, %s, window scale %d: %+v", f.name, c.name, scale, h)
				}
			}
		}
	}
}

// Segments that open a flow, and what the same client may send once it exists.
func TestFinalAck(t *testing.T) {
	p := load(t, options{shared: true})
	k := testKeys()
	port := uint16(10000)
	for _, f := range tagged() {
		for _, kind := range []struct {
			name    string
			options []byte
		}{{"with timestamps", linuxOptions(1460, 7)}, {"without timestamps", windowsOptions(1460, 8)}} {
			begin := func(t *testing.T) (*program, segment) {
				port++
				p := p.with(t)
				a, _ := p.finalAck(t, f, kind.options, port)
				return p, a
			}
			t.Run(f.name+" "+kind.name, func(t *testing.T) {
				for _, c := range []struct {
					name string
					edit func(*segment)
				}{
					{"a bare ACK", func(*segment) {}},
					{"the first data, when the ACK was lost", func(s *segment) { s.payload, s.flags = []byte("GET / HTTP/1.1\r\n\r\n"), ack|psh }},
					{"data and FIN", func(s *segment) { s.payload, s.flags = []byte("bye"), ack|psh|fin }},
					{"FIN alone", func(s *segment) { s.flags |= fin }},
					{"ECN bits", func(s *segment) { s.flags |= ece | cwr }},
				} {
					t.Run(c.name+" opens the flow", func(t *testing.T) {
						p, a := begin(t)
						c.edit(&a)
						p.open(t, k, a)
					})
				}
				t.Run("a padded ACK opens the flow", func(t *testing.T) {
					p, a := begin(t)
					in := append(a.frame(), 1, 2, 3, 4, 5, 6)
					r := p.expect(in, RedirectOpened)
					checkRecord(t, k, a, r.meta, ticks()-1000, ticks())
					if !bytes.Equal(r.frame, in) {
						t.Error("the frame changed")
					}
				})
				t.Run("a wrong checksum on data is the engine's business", func(t *testing.T) {
					p, a := begin(t)
					a.payload = []byte("data")
					in, _, at := a.build()
					in[at+16] ^= 1
					p.expect(in, RedirectOpened)
				})
				t.Run("IP options and extension headers do not matter", func(t *testing.T) {
					p, a := begin(t)
					a.ipOptions, a.extensions = recordRoute, []extension{hopByHop, destination}
					p.open(t, k, a)
				})
				t.Run("a partial checksum opens the flow", func(t *testing.T) {
					p, a := begin(t)
					in, _, at := a.build()
					tcp := in[at:]
					binary.BigEndian.PutUint16(tcp[16:], sum16(pseudoHeader(a.src.Addr(), a.dst.Addr(), len(tcp))))
					p.expect(in, RedirectOpened)
				})
				t.Run("timestamps in another layout open the flow", func(t *testing.T) {
					if kind.name == "without timestamps" {
						t.Skip("has none")
					}
					p, a := begin(t)
					other := a
					other.options = slices.Concat(a.options[2:], nop, nop)
					r := p.expect(other.frame(), RedirectOpened)
					checkRecord(t, k, a, r.meta, ticks()-1000, ticks())
				})
				t.Run("a known flow", func(t *testing.T) {
					p, a := begin(t)
					h := p.open(t, k, a)
					for _, c := range []struct {
						name   string
						edit   func(*segment)
						reason Reason
						record bool
					}{
						{"the same ACK again comes with the record", func(*segment) {}, RedirectSegment, true},
						{"data of the first flight comes with the record", func(s *segment) { s.seq += 2000; s.payload = []byte("data") }, RedirectSegment, true},
						{"an ACK of our data comes without", func(s *segment) { s.ack += 100 }, RedirectSegment, false},
						{"one byte acknowledged is enough", func(s *segment) { s.ack++ }, RedirectSegment, false},
						{"data and an ACK of data", func(s *segment) { s.ack += 5; s.payload = []byte("data") }, RedirectSegment, false},
						{"a wrong ACK is the engine's business", func(s *segment) { s.ack -= 7 }, RedirectSegment, false},
						{"so is a wrong checksum on data", func(s *segment) { s.ack += 9; s.payload = []byte{1} }, RedirectSegment, false},
						{"a FIN", func(s *segment) { s.ack += 5; s.flags |= fin }, RedirectSegment, false},
						{"a RST", func(s *segment) { s.ack = 0; s.flags = rst }, RedirectSegment, false},
						{"a SYN/ACK", func(s *segment) { s.ack += 5; s.flags |= syn }, RedirectSegment, false},
						{"no flags at all", func(s *segment) { s.ack += 5; s.flags = 0 }, DropBadFlags, false},
						{"a bare FIN", func(s *segment) { s.ack += 5; s.flags = fin }, DropBadFlags, false},
						{"the same SYN again", func(s *segment) { s.seq--; s.flags = syn; s.options = kind.options }, RedirectSyn, false},
						{"another SYN", func(s *segment) { s.seq += 12345; s.ack = 0; s.flags = syn; s.options = nil }, RedirectSyn, false},
						{"a SYN that acknowledges by accident", func(s *segment) { s.flags = syn }, RedirectSyn, false},
						{"a SYN with FIN is still refused", func(s *segment) { s.flags = syn | fin }, DropBadFlags, false},
					} {
						t.Run(c.name, func(t *testing.T) {
							s := a
							c.edit(&s)
							in := s.frame()
							r := p.with(t).expect(in, c.reason)
							var meta []byte
							if c.record {
								meta = record(h)
							}
							if !bytes.Equal(r.meta, meta) {
								t.Errorf("record %x, want %x", r.meta, meta)
							}
							if r.verdict == xdpRedirect && !bytes.Equal(r.frame, in) {
								t.Errorf("the frame changed:\n in %x\nout %x", in, r.frame)
							}
						})
					}
				})
				t.Run("a deleted flow can be opened again", func(t *testing.T) {
					p, a := begin(t)
					p.open(t, k, a)
					key, table := p.flowKey(a.src, a.dst)
					must(t, table.Delete(key))
					p.open(t, k, a)
				})
			})
		}
	}
}

func TestFinalAckRefused(t *testing.T) {
	p := load(t, options{shared: true})
	port := uint16(20000)
	tsecr := func(change uint32) func(*segment) {
		return func(s *segment) {
			binary.BigEndian.PutUint32(s.options[8:], binary.BigEndian.Uint32(s.options[8:])+change)
		}
	}
	onPort := func(a netip.AddrPort, d uint16) netip.AddrPort { return netip.AddrPortFrom(a.Addr(), a.Port()+d) }
	type refusal struct {
		name       string
		timestamps bool // only with them
		edit       func(*segment)
		reason     Reason
	}
	refusals := []refusal{
		{"the client's number is one too high", false, func(s *segment) { s.seq++ }, DropBadCookie},
		{"the client's number is one too low", false, func(s *segment) { s.seq-- }, DropBadCookie},
		{"another client's address", false, func(s *segment) { s.src = netip.AddrPortFrom(s.src.Addr().Next(), s.src.Port()) }, DropBadCookie},
		{"another client's port", false, func(s *segment) { s.src = onPort(s.src, 1) }, DropBadCookie},
		{"another server's address and port", false, func(s *segment) {
			s.dst = families[0].other
			if s.src.Addr().Is6() {
				s.dst = families[1].other
			}
		}, DropBadCookie},
		{"an acknowledgment of zero", false, func(s *segment) { s.ack = 1 }, DropBadCookie},
		{"a key generation that is not in use", false, func(s *segment) { s.ack = (s.ack-1)&^3 + 2 + 1 }, DropExpiredKey},
		{"another generation that is not in use", false, func(s *segment) { s.ack = (s.ack-1)&^3 + 3 + 1 }, DropExpiredKey},
		{"the other generation in use", false, func(s *segment) { s.ack = (s.ack-1)&^3 + 0 + 1 }, DropBadCookie},
		{"the timestamps were stripped", true, func(s *segment) { s.options = nil }, DropBadCookie},
		{"the echoed timestamp is ahead of the clock", true, tsecr(10_000), DropBadTimestamp},
		{"the echoed timestamp is a million ticks ahead", true, tsecr(1_000_000), DropBadTimestamp},
		{"the echoed timestamp is far off", true, tsecr(1 << 31), DropBadTimestamp},
		{"the echoed timestamp is zero", true, func(s *segment) { clear(s.options[8:]) }, DropBadTimestamp},
		{"the echoed timestamp is too old", true, tsecr(1<<32 - CookieLifeTicks), DropBadTimestamp},
		{"timestamps appear from nowhere", false, func(s *segment) { s.options = slices.Concat(nop, nop, optTS(1, 2)) }, DropBadCookie},
		{"SYN and ACK", false, func(s *segment) { s.flags |= syn }, DropNoFlow},
		{"RST and ACK", false, func(s *segment) { s.flags |= rst }, DropNoFlow},
		{"no ACK flag", false, func(s *segment) { s.flags = psh }, DropBadFlags},
		{"a RST without ACK", false, func(s *segment) { s.flags = rst }, DropNoFlow},
	}
	for bit := 8; bit < 32; bit++ {
		refusals = append(refusals, refusal{fmt.Sprintf("bit %d of the cookie is wrong", bit), false,
			func(s *segment) { s.ack = (s.ack - 1) ^ 1<<bit + 1 }, DropBadCookie})
	}
	for _, f := range tagged() {
		for _, kind := range []struct {
			name    string
			options []byte
		}{{"with timestamps", linuxOptions(1460, 7)}, {"without timestamps", windowsOptions(1460, 8)}} {
			t.Run(f.name+" "+kind.name, func(t *testing.T) {
				for _, c := range refusals {
					if c.timestamps && kind.name == "without timestamps" ||
						c.name == "timestamps appear from nowhere" && kind.name == "with timestamps" {
						continue
					}
					t.Run(c.name, func(t *testing.T) {
						p := p.with(t)
						port++
						a, _ := p.finalAck(t, f, kind.options, port)
						bad := a
						bad.options = slices.Clone(a.options)
						c.edit(&bad)
						p.expect(bad.frame(), c.reason)
						if _, found := p.flow(bad); found {
							t.Error("a refused ACK left a flow")
						}
						p.open(t, testKeys(), a) // the right one still does
					})
				}
				t.Run("a wrong checksum", func(t *testing.T) {
					p := p.with(t)
					port++
					a, _ := p.finalAck(t, f, kind.options, port)
					bad, _, at := a.build()
					bad[at+15] ^= 4
					p.expect(bad, DropBadChecksum)
					if _, found := p.flow(a); found {
						t.Error("a refused ACK left a flow")
					}
				})
			})
		}
	}
}

// A cookie that was made long ago, by the twin: age is in ticks.
func TestCookieAge(t *testing.T) {
	p := load(t, options{})
	k := testKeys()
	port := uint16(1)
	for _, f := range families {
		for _, c := range []struct {
			age    uint32
			reason Reason
		}{
			{0, RedirectOpened}, {1, RedirectOpened}, {1000, RedirectOpened}, {CookieLifeTicks - 1000, RedirectOpened},
			{CookieLifeTicks, DropBadTimestamp}, {CookieLifeTicks + 1, DropBadTimestamp}, {1 << 20, DropBadTimestamp},
			{1 << 31, DropBadTimestamp}, {1<<32 - 1100, DropBadTimestamp},
		} {
			t.Run(fmt.Sprintf("%s, %d ticks old", f.name, int32(c.age)), func(t *testing.T) {
				p := p.with(t)
				port++
				s := f.syn(nil)
				s.src = netip.AddrPortFrom(s.src.Addr(), port)
				o := Offer{MSS: 1460, WScale: 7, SACK: true, Timestamps: true, Remote: s.src, Local: s.dst}
				iss, tsval, _ := MakeCookie(k, o, s.seq, ticks()-c.age)
				synack := packet{segment: segment{src: s.dst, dst: s.src, to: clientMAC, from: serverMAC, seq: iss}, tsval: tsval}
				a := answer(synack, s.seq+1)
				if c.reason != RedirectOpened {
					p.expect(a.frame(), c.reason)
					return
				}
				if h := p.open(t, k, a); h.RttTicks < c.age || h.RttTicks > c.age+100 || h.SndWscale != 7 {
					t.Errorf("record %+v, want an RTT of %d ticks", h, c.age)
				}
			})
		}
	}
}

// Keys rotate: a cookie lives as long as its generation is valid.
func TestKeyRotation(t *testing.T) {
	p := load(t, options{})
	for _, f := range families {
		for generation := range uint32(4) {
			for i, options := range [][]byte{linuxOptions(1460, 7), windowsOptions(1460, 8)} {
				t.Run(fmt.Sprintf("%s, generation %d, SYN %d", f.name, generation, i), func(t *testing.T) {
					p := p.with(t)
					port := uint16(3000 + 100*generation + 10*uint32(i))
					k := testKeys()
					k.Current, k.Valid = generation, 1<<generation
					p.setKeys(k)
					now, synack := p.finalAck(t, f, options, port)
					if synack.seq&3 != generation {
						t.Fatalf("the cookie %#x names generation %d", synack.seq, synack.seq&3)
					}
					p.open(t, k, now)

					before, _ := p.finalAck(t, f, options, port+1)
					late, _ := p.finalAck(t, f, options, port+2)
					k.Current, k.Valid = (generation+1)%4, 1<<generation|1<<((generation+1)%4)
					p.setKeys(k)
					p.open(t, k, before)
					next, synack := p.finalAck(t, f, options, port+3)
					if synack.seq&3 != k.Current {
						t.Fatalf("the cookie %#x names generation %d, not %d", synack.seq, synack.seq&3, k.Current)
					}
					p.open(t, k, next)

					k.Valid = 1 << k.Current
					p.setKeys(k)
					p.expect(late.frame(), DropExpiredKey)

					k.Valid |= 1 << generation // still named, but by another key
					k.Key[generation].K1++
					p.setKeys(k)
					p.expect(late.frame(), DropBadCookie)
				})
			}
		}
	}
}

// A full table refuses; what a flow leaves, another gets.
func TestTableFull(t *testing.T) {
	p := load(t, options{spec: func(s *ebpf.CollectionSpec) {
		s.Maps["flows4"].MaxEntries, s.Maps["flows6"].MaxEntries = 3, 3
	}})
	k := testKeys()
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			p := p.with(t)
			var open []segment
			for i := range 3 {
				a, _ := p.finalAck(t, f, linuxOptions(1460, 7), uint16(5000+i))
				p.open(t, k, a)
				open = append(open, a)
			}
			a, _ := p.finalAck(t, f, linuxOptions(1460, 7), 6000)
			p.expect(a.frame(), DropTableFull)
			p.expect(open[0].frame(), RedirectSegment)
			key, table := p.flowKey(open[1].src, open[1].dst)
			must(t, table.Delete(key))
			p.open(t, k, a)
		})
	}
}

// Where no engine has a socket, its packets are dropped: the client sends them again.
func TestNoSocket(t *testing.T) {
	p := load(t, options{noSocket: true})
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			p := p.with(t)
			a, _ := p.finalAck(t, f, linuxOptions(1460, 7), 5000)
			p.expect(a.frame(), DropNoSocket)
			p.expect(a.frame(), DropNoSocket) // now a known flow
			a.ack += 100
			p.expect(a.frame(), DropNoSocket)
			a.flags = syn
			p.expect(a.frame(), DropNoSocket)
		})
	}
}

// The kernel bounds an XDP frame's metadata. A frame that comes with so much that the record has no
// room is dropped; the client sends again.
func TestNoRoomForRecord(t *testing.T) {
	p := load(t, options{})
	a, _ := p.finalAck(t, families[0], linuxOptions(1460, 7), 5000)
	const already = 208 // of 216: 256 bytes of headroom less the kernel's struct xdp_frame
	before := p.counters()
	frame := slices.Concat(make([]byte, already), a.frame())
	md := xdpMD{Data: already, DataEnd: uint32(len(frame))}
	r, err := testRun(p.Xdptcp.FD(), frame, md, make([]byte, len(frame)+512))
	if errors.Is(err, unix.EINVAL) {
		t.Skip("this kernel's test runs take no more than 32 bytes of metadata")
	}
	must(t, err)
	if r.verdict != xdpDrop {
		t.Errorf("verdict %s", verdictNames[r.verdict])
	}
	if after := p.counters(); after[DropNoRoom] != before[DropNoRoom]+1 {
		t.Errorf("counters %v, were %v", after, before)
	}
}

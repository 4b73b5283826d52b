// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
)

// TCP options: what a SYN offers, and what the SYN/ACK grants.
func TestSynAckTable(t *testing.T) {
	p := load(t, options{shared: true})
	with := func(options ...[]byte) func(family, *segment) {
		return func(_ family, s *segment) { s.options = slices.Concat(options...) }
	}
	p.table(t, []row{
		{name: "Linux and Android get everything", want: TxSynAck, options: linuxGets},
		{name: "Windows keeps window scale and SACK without timestamps", edit: with(windowsOptions(1460, 8)), want: TxSynAck, options: "mss nop nop sack nop ws=7"},
		{name: "macOS and iOS get everything", edit: with(macOptions(1460, 6)), want: TxSynAck, options: linuxGets},
		{name: "a bare SYN learns our MSS", edit: with(), want: TxSynAck, options: "mss"},
		{name: "MSS alone is answered by MSS alone", edit: with(optMSS(1460)), want: TxSynAck, options: "mss"},
		{name: "timestamps without SACK", edit: with(optMSS(1460), nop, nop, optTS(clientTSVal, 0)), want: TxSynAck, options: "mss nop nop ts"},
		{name: "timestamps and window scale without SACK", edit: with(optTS(clientTSVal, 0), nop, nop, optWS(2), nop, optMSS(1400)), want: TxSynAck, options: "mss nop nop ts nop ws=7"},
		{name: "SACK alone", edit: with(optMSS(1460), nop, nop, optSACK), want: TxSynAck, options: "mss nop nop sack"},
		{name: "SACK without MSS", edit: with(optSACK), want: TxSynAck, options: "mss nop nop sack"},
		{name: "window scale alone", edit: with(nop, optWS(7)), want: TxSynAck, options: "mss nop ws=7"},
		{name: "timestamps alone", edit: with(optTS(clientTSVal, 0)), want: TxSynAck, options: "mss nop nop ts"},
		{name: "timestamps without MSS", edit: with(optTS(clientTSVal, 0), optSACK), want: TxSynAck, options: "mss sack ts"},
		{name: "the TSecr of a SYN means nothing", edit: with(optMSS(1460), optSACK, optTS(clientTSVal, 99), nop, optWS(7)), want: TxSynAck},
		{name: "MSS 0", edit: with(linuxOptions(0, 7)), want: TxSynAck},
		{name: "MSS 65535", edit: with(linuxOptions(65535, 7)), want: TxSynAck},

		{name: "MPTCP's MP_CAPABLE is not echoed", edit: with(linuxOptions(1460, 7), []byte{30, 12, 0, 0x81, 1, 2, 3, 4, 5, 6, 7, 8}), want: TxSynAck},
		{name: "MPTCP's MP_JOIN is not echoed", edit: with(linuxOptions(1460, 7), []byte{30, 12, 0x10, 1, 1, 2, 3, 4, 5, 6, 7, 8}), want: TxSynAck},
		{name: "SMC is not echoed", edit: with(linuxOptions(1460, 7), []byte{254, 6, 0xe2, 0xd4, 0xc3, 0xd9}, nop, nop), want: TxSynAck},
		{name: "an experiment of kind 253 is not echoed", edit: with(linuxOptions(1460, 7), []byte{253, 4, 0xf9, 0x89}), want: TxSynAck},
		{name: "a fast open cookie is not echoed", edit: with([]byte{34, 10, 1, 2, 3, 4, 5, 6, 7, 8}, nop, nop, linuxOptions(1460, 7)), want: TxSynAck},
		{name: "a request for a fast open cookie is not answered", edit: with(linuxOptions(1460, 7), []byte{34, 2}, nop, nop), want: TxSynAck},
		{name: "MD5 is not echoed", edit: with([]byte{19, 18}, make([]byte, 16), optMSS(1460)), want: TxSynAck, options: "mss"},
		{name: "TCP-AO is not echoed", edit: with(optMSS(1460), []byte{29, 16, 1, 1}, make([]byte, 12)), want: TxSynAck, options: "mss"},
		{name: "the user timeout is not echoed", edit: with(optMSS(1460), []byte{28, 4, 0x80, 10}), want: TxSynAck, options: "mss"},
		{name: "SACK blocks on a SYN mean nothing", edit: with(optMSS(1460), nop, nop, []byte{5, 10, 1, 2, 3, 4, 5, 6, 7, 8}), want: TxSynAck, options: "mss"},
		{name: "an unknown kind of two bytes", edit: with([]byte{77, 2}, optMSS(1460), optSACK), want: TxSynAck, options: "mss nop nop sack"},
		{name: "an unknown kind of forty bytes", edit: with([]byte{77, 40}, make([]byte, 38)), want: TxSynAck, options: "mss"},
		{name: "an option inside an unknown one means nothing", edit: with([]byte{77, 6}, []byte{4, 2, 4, 2}, optMSS(1460), nop, nop), want: TxSynAck, options: "mss"},

		{name: "forty bytes of NOPs", edit: with(bytes.Repeat(nop, 40)), want: TxSynAck, options: "mss"},
		{name: "an option behind 38 NOPs", edit: with(bytes.Repeat(nop, 38), optSACK), want: TxSynAck, options: "mss nop nop sack"},
		{name: "timestamps as the last of the most", edit: with(bytes.Repeat(nop, 30), optTS(clientTSVal, 0)), want: TxSynAck, options: "mss nop nop ts"},
		{name: "options end at END", edit: with(optMSS(1460), end, optSACK, nop, optTS(clientTSVal, 0)), want: TxSynAck, options: "mss"},
		{name: "END first", edit: with(end, optSACK, nop), want: TxSynAck, options: "mss"},
		{name: "an option given twice", edit: with(optMSS(1460), optSACK, optSACK, optWS(7), optWS(7), nop, nop), want: TxSynAck, options: "mss nop nop sack nop ws=7"},

		{name: "a length of zero ends the options", edit: with(optMSS(1460), nop, nop, optSACK, []byte{3, 0, 7, 1}, optTS(clientTSVal, 0)), want: TxSynAck, options: "mss nop nop sack"},
		{name: "a length of one ends the options", edit: with(optMSS(1460), []byte{5, 1}, optSACK), want: TxSynAck, options: "mss"},
		{name: "a length beyond the header ends the options", edit: with(optMSS(1460), optSACK, []byte{8, 10, 1, 2, 3, 4}), want: TxSynAck, options: "mss nop nop sack"},
		{name: "a length just beyond the header ends the options", edit: with(optMSS(1460), nop, nop, nop, optTS(clientTSVal, 0)[:9]), want: TxSynAck, options: "mss"},
		{name: "a length of 255 ends the options", edit: with(optMSS(1460), []byte{77, 255}, optSACK), want: TxSynAck, options: "mss"},
		{name: "a kind without length at the end", edit: with(optMSS(1460), nop, nop, nop, []byte{3}), want: TxSynAck, options: "mss"},
		{name: "known kinds of the wrong length count as unknown", edit: with([]byte{2, 3, 9}, []byte{3, 4, 7, 7}, []byte{4, 3, 1}, []byte{8, 9, 1, 2, 3, 4, 5, 6, 7}, nop), want: TxSynAck, options: "mss"},
		{name: "almost the Linux layout: 11 instead of 10 for the timestamps' length", edit: with(optMSS(1460), optSACK, []byte{8, 11, 1, 2, 3, 4, 5, 6, 7, 8, 9}, optWS(7)), want: TxSynAck, options: "mss nop nop sack nop ws=7"},
		{name: "almost the Linux layout: no window scale", edit: with(optMSS(1460), optSACK, optTS(clientTSVal, 0), nop, nop, nop, nop), want: TxSynAck, options: "mss sack ts"},
		{name: "almost the Linux layout: END for NOP", edit: with(optMSS(1460), optSACK, optTS(clientTSVal, 0), end, optWS(7)), want: TxSynAck, options: "mss sack ts"},

		{name: "window scale 15 is no reason to refuse", edit: with(linuxOptions(1460, 15)), want: TxSynAck},
		{name: "window scale 255 in another layout", edit: with(macOptions(1460, 255)), want: TxSynAck},
		{name: "window scale 0 with timestamps is an offer", edit: with(linuxOptions(1460, 0)), want: TxSynAck},
		{name: "window scale 0 without timestamps is declined", edit: with(windowsOptions(1460, 0)), want: TxSynAck, options: "mss nop nop sack"},
		{name: "window scale 1 without timestamps is declined", edit: with(windowsOptions(1460, 1)), want: TxSynAck, options: "mss nop nop sack"},
		{name: "window scale 2 without timestamps is granted", edit: with(windowsOptions(1460, 2)), want: TxSynAck, options: "mss nop nop sack nop ws=7"},

		{name: "data in a SYN is not acknowledged", edit: func(_ family, s *segment) { s.payload = make([]byte, 100) }, want: TxSynAck},
		{name: "a SYN of 1400 bytes", edit: func(_ family, s *segment) { s.payload = make([]byte, 1340) }, want: TxSynAck},
		{name: "data in a SYN is not read as options", edit: func(_ family, s *segment) { s.options, s.payload = nil, linuxOptions(1460, 7) }, want: TxSynAck, options: "mss"},
		{name: "the acknowledgment field of a SYN means nothing", edit: func(_ family, s *segment) { s.ack = 0xdeadbeef }, want: TxSynAck},
		{name: "the client's ISN may be the last number", edit: func(_ family, s *segment) { s.seq = 0xffffffff }, want: TxSynAck},
		{name: "the client's ISN may be zero", edit: func(_ family, s *segment) { s.seq = 0 }, want: TxSynAck},
	})
}

// What the loader configures arrives in the SYN/ACK.
func TestSynAckIsConfigurable(t *testing.T) {
	p := load(t, options{spec: func(s *ebpf.CollectionSpec) {
		must(t, s.Variables["cfg_mss4"].Set(uint16(8960)))
		must(t, s.Variables["cfg_mss6"].Set(uint16(8940)))
		must(t, s.Variables["cfg_wscale"].Set(uint8(11)))
		must(t, s.Variables["cfg_window"].Set(uint16(12345)))
	}})
	for _, f := range families {
		r := p.expect(f.syn(linuxOptions(1460, 7)).frame(), TxSynAck)
		got, err := decode(r.frame)
		must(t, err)
		want := fmt.Sprintf("mss=%d sack ts nop ws=11", 8980-f.ipLen)
		if got.text != want || got.window != 12345 {
			t.Errorf("%s: %q, window %d, want %q, 12345", f.name, got.text, got.window, want)
		}
	}
}

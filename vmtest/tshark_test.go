// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

// A finding is what tshark makes of one frame: the last part of a field's name below tcp.analysis, or one of those below.
type finding string

const (
	badChecksum finding = "bad checksum"
	malformed   finding = "malformed" // an error by tshark's experts, in any header
)

// analysis are the fields of tcp.analysis that tell of a segment which need not have been sent, or got lost, or found no room.
// Not among them: window_update, which is every receiver's daily work.
var analysis = []finding{
	"retransmission", "fast_retransmission", "spurious_retransmission", "out_of_order", "lost_segment", "ack_lost_segment",
	"duplicate_ack", "window_full", "zero_window", "zero_window_probe", "zero_window_probe_ack", "keep_alive", "keep_alive_ack",
	"reused_ports",
}

// What is expected where it is not nothing.
var (
	// A sender that outruns its receiver fills the window, and is told to stop. It can't before it has sent a window's worth.
	outrun = []finding{"window_full", "zero_window", "zero_window_probe", "zero_window_probe_ack", "keep_alive", "keep_alive_ack"}
	// Tests say so: a wire that loses frames, or lets some overtake others. The tap is beside it: of a loss it sees the gap or the repetition.
	lossy = []finding{"retransmission", "fast_retransmission", "spurious_retransmission", "out_of_order", "lost_segment", "ack_lost_segment", "duplicate_ack"}
)

// stalled is what a busy machine brings into any connection, however well both ends behave: one does not get the CPU for
// some milliseconds, and the other probes for the tail that it takes for lost (RFC 8985, 7). Few are forgiven, see judge.
// Connections from before the recording send keep-alives meanwhile, which acknowledge what it has not seen.
var stalled = []finding{"retransmission", "spurious_retransmission", "duplicate_ack", "ack_lost_segment", "keep_alive", "keep_alive_ack"}

// A judged frame has findings.
type judged struct {
	number   int // of the frame in the recording, from 1
	findings []finding
}

// tshark has every frame judged, and returns those with findings, expected or not, and a line about each frame.
func tshark(packets []lab.Packet) (list []judged, lines []string, err error) {
	fields := []string{"frame.number", "_ws.col.Info", "ip.checksum.status", "tcp.checksum.status", "_ws.expert.severity", "icmp.type", "icmpv6.type"}
	for _, f := range analysis {
		fields = append(fields, "tcp.analysis."+string(f))
	}
	args := []string{"-n", "-r", "-", "-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE", "-T", "fields", "-E", "separator=/t"}
	// What rides on TCP is other tests' business, and slow.
	args = append(args, "-o", "tcp.desegment_tcp_streams:FALSE", "-d", "tcp.port==1-65535,data")
	for _, f := range fields {
		args = append(args, "-e", f)
	}
	cmd := exec.Command("tshark", args...)
	// Nobody's own settings.
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME=/nonexistent", "HOME=/nonexistent", "WIRESHARK_CONFIG_DIR=/nonexistent")
	var in, complaint bytes.Buffer
	writePcap(&in, packets)
	cmd.Stdin, cmd.Stderr = &in, &complaint
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		return nil, nil, fmt.Errorf("%w: make deps installs it", err)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("tshark: %w: %s", err, &complaint)
	}
	for line := range strings.Lines(string(out)) {
		col := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(col) != len(fields) {
			return nil, nil, fmt.Errorf("tshark: %d columns, want %d: %q", len(col), len(fields), line)
		}
		n, err := strconv.Atoi(col[0])
		if err != nil {
			return nil, nil, fmt.Errorf("tshark: %q: %w", line, err)
		}
		lines = append(lines, fmt.Sprintf("%6d %s", n, col[1]))
		j := judged{number: n}
		const good, bad, severe = "1", "0", "8388608" // checksum states, and expert severities, of Wireshark's sources
		if col[3] == bad && !strings.Contains(col[4], severe) {
			// Only a warning: a sum of 0xffff, which means the same as 0. In one of 65,536 segments Linux writes it so
			// (skb_checksum_help).
			col[3] = good
		}
		if col[5]+col[6] != "" {
			col[3], col[4] = "", "" // the sum in a segment that an ICMP error quotes is as its sender had it
		}
		outer, _, _ := strings.Cut(col[2], ",") // of the IP headers, if an error quotes another
		if ip, tcp := outer, col[3]; ip != "" && ip != good || tcp != "" && tcp != good {
			j.findings = append(j.findings, badChecksum)
		} else if strings.Contains(col[4], severe) {
			j.findings = append(j.findings, malformed)
		}
		for i, f := range analysis {
			if col[7+i] != "" {
				j.findings = append(j.findings, f)
			}
		}
		if len(j.findings) > 0 {
			list = append(list, j)
		}
	}
	if len(lines) != len(packets) {
		return nil, nil, fmt.Errorf("tshark read %d of %d frames: %s", len(lines), len(packets), &complaint)
	}
	return list, lines, nil
}

// judge fails the test if tshark finds what is not expected.
func judge(t *testing.T, packets []lab.Packet, expected []finding) {
	t.Helper()
	list, lines, err := tshark(packets)
	if err != nil {
		t.Error(err)
		return
	}
	const firstWindow = 65535
	total := 0
	for _, p := range packets {
		total += p.Length
	}
	if total > firstWindow {
		expected = slices.Concat(expected, outrun)
	}
	// As much as a ring of the pair holds: on a busy machine its receiver may come too late for more, and not every loss is counted.
	const ring = 256 * 1514
	if total > ring {
		expected = slices.Concat(expected, lossy)
	}
	for _, complaint := range verdict(list, lines, expected) {
		t.Error(complaint)
	}
}

// verdict is what there is to complain of: the first few frames, each among its neighbours.
func verdict(list []judged, lines []string, expected []finding) (complaints []string) {
	const most, context = 5, 4
	forgiven := 2 + len(lines)/100 // a stall is two: the repetition and its answer
	for _, j := range list {
		rest := slices.DeleteFunc(slices.Clone(j.findings), func(f finding) bool { return slices.Contains(expected, f) })
		grave := slices.ContainsFunc(rest, func(f finding) bool { return !slices.Contains(stalled, f) })
		if len(rest) == 0 {
			continue
		}
		if forgiven--; !grave && forgiven >= 0 {
			continue
		}
		if len(complaints) == most {
			return append(complaints, "tshark: and more")
		}
		complaints = append(complaints, fmt.Sprintf("tshark: frame %d: %v; in its place:\n%s", j.number, rest,
			strings.Join(lines[max(0, j.number-1-context):min(len(lines), j.number+context)], "\n")))
	}
	return complaints
}

// writePcap writes frames in the format of libpcap, with nanoseconds. A checksum that a kernel has left to its
// interface is finished, as an interface would do it. (What XDP and AF_XDP send is never marked so.)
func writePcap(w *bytes.Buffer, packets []lab.Packet) {
	const maxFrame, ethernet = 1 << 18, 1
	le := binary.LittleEndian
	b := le.AppendUint32(nil, 0xa1b23c4d)
	b = le.AppendUint16(b, 2)
	b = le.AppendUint16(b, 4)
	b = le.AppendUint64(b, 0)
	b = le.AppendUint32(b, maxFrame)
	w.Write(le.AppendUint32(b, ethernet))
	for _, p := range packets {
		frame := p.Data
		if p.PartialChecksum {
			frame = finishChecksum(frame)
		}
		b := le.AppendUint32(nil, uint32(p.Time.Unix()))
		b = le.AppendUint32(b, uint32(p.Time.Nanosecond()))
		b = le.AppendUint32(b, uint32(len(frame)))
		w.Write(le.AppendUint32(b, uint32(p.Length)))
		w.Write(frame)
	}
}

// finishChecksum returns a copy of a frame with its TCP checksum in full; of what is not TCP, the frame itself.
func finishChecksum(frame []byte) []byte {
	frame = bytes.Clone(frame)
	ip := frame[14:]
	for at := 12; len(frame) > at+4 && frame[at] == 0x81 && frame[at+1] == 0; at += 4 { // VLAN tags
		ip = ip[4:]
	}
	var src, dst netip.Addr
	var tcp []byte
	switch {
	case len(ip) >= 40 && ip[0]>>4 == 4 && ip[9] == 6:
		src, dst = netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))
		tcp = ip[int(ip[0]&15)*4 : binary.BigEndian.Uint16(ip[2:])]
	case len(ip) >= 60 && ip[0]>>4 == 6 && ip[6] == 6:
		src, dst = netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40]))
		tcp = ip[40 : 40+int(binary.BigEndian.Uint16(ip[4:]))]
	default:
		return frame
	}
	binary.BigEndian.PutUint16(tcp[16:], 0)
	binary.BigEndian.PutUint16(tcp[16:], ^sum16(pseudoHeader(src, dst, 6, len(tcp)), tcp))
	return frame
}

// The judge is judged: a connection that is as it should be, and what may be wrong with it.
func TestTsharkFindsWhatIsWrongWithAConnection(t *testing.T) {
	t.Parallel()
	lab.Need(t)
	client, server := netip.MustParseAddrPort("192.0.2.2:40000"), netip.MustParseAddrPort("192.0.2.1:8080")
	type step struct {
		up       bool
		seq, ack uint32
		flags    byte
		n        int // bytes of payload
	}
	good := []step{
		{true, 500, 0, flagSYN, 0}, {false, 900, 501, flagSYN | flagACK, 0}, {true, 501, 901, flagACK, 0},
		{true, 501, 901, flagACK | flagPSH, 10}, {false, 901, 511, flagACK, 1000}, {false, 1901, 511, flagACK, 1000}, {true, 511, 2901, flagACK, 0},
		{true, 511, 2901, flagFIN | flagACK, 0}, {false, 2901, 512, flagFIN | flagACK, 0}, {true, 512, 2902, flagACK, 0},
	}
	for _, c := range []struct {
		name   string
		change func([]step) []step
		spoil  func(frame []byte) // the frame of the server's first data
		want   []finding          // sorted
	}{
		{"nothing", nil, nil, nil},
		{"a segment sent again", func(s []step) []step { return slices.Insert(s, 5, s[4]) }, nil, []finding{"retransmission"}},
		{"one sent again and again", func(s []step) []step { return slices.Insert(s, 5, s[4], s[4], s[4]) }, nil, []finding{"retransmission"}},
		{"a segment that is not there", func(s []step) []step { return slices.Delete(s, 4, 5) }, nil, []finding{"ack_lost_segment", "lost_segment"}},
		{"an acknowledgment of what is not there", func(s []step) []step { return slices.Delete(s, 3, 4) }, nil, []finding{"ack_lost_segment", "lost_segment"}},
		{"two segments in the wrong order", func(s []step) []step { s[4], s[5] = s[5], s[4]; return s }, nil, []finding{"lost_segment", "out_of_order"}},
		{"an acknowledgment said twice", func(s []step) []step { return slices.Insert(s, 6, s[6]) }, nil, []finding{"duplicate_ack"}},
		{"a wrong byte", nil, func(b []byte) { b[60] ^= 1 }, []finding{badChecksum}},
		{"a sum of zero, written as all ones", nil, allOnes, nil},
		{"a wrong TTL", nil, func(b []byte) { b[22]-- }, []finding{badChecksum}},
		{"a TCP header that is too short", nil, func(b []byte) { b[46] = 0x40 }, []finding{"ack_lost_segment", malformed, "out_of_order"}},
	} {
		steps := slices.Clone(good)
		if c.change != nil {
			steps = c.change(steps)
		}
		var packets []lab.Packet
		for i, s := range steps {
			r := raw{to: make([]byte, 6), from: make([]byte, 6), src: client, dst: server, seq: s.seq, ack: s.ack, flags: s.flags, payload: make([]byte, s.n)}
			if !s.up {
				r.src, r.dst = server, client
			}
			frame := r.frame()
			if i == 4 && c.spoil != nil {
				c.spoil(frame)
			}
			packets = append(packets, lab.Packet{Time: time.Unix(1, int64(i)*10_000_000), Data: frame, Length: len(frame), Outgoing: s.up})
		}
		list, lines, err := tshark(packets)
		if err != nil {
			t.Fatal(err)
		}
		var got []finding
		for _, j := range list {
			got = append(got, j.findings...)
		}
		slices.Sort(got)
		if got = slices.Compact(got); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
		forgiven := len(list) <= 2 && !slices.ContainsFunc(got, func(f finding) bool { return !slices.Contains(stalled, f) })
		if n := len(verdict(list, lines, nil)); (n == 0) != forgiven {
			t.Errorf("%s: %d complaints", c.name, n)
		}
		if n := len(verdict(list, lines, c.want)); n > 0 {
			t.Errorf("%s: %d complaints of what is expected", c.name, n)
		}
	}
}

// allOnes gives a frame a payload with which its checksum is 0xffff: the two bytes that were zero make up for it.
func allOnes(frame []byte) {
	was := binary.BigEndian.Uint16(frame[50:])
	binary.BigEndian.PutUint16(frame[54:], was) // what the sum lacks without the field
	binary.BigEndian.PutUint16(frame[50:], 0xffff)
}

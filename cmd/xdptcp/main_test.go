// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/xdptcp/xdptcp/userspace/wire"
	"github.com/xdptcp/xdptcp/vmtest/lab"
)

// What needs an interface is tested end to end, in vmtest.

func TestBadUsageGetsOneSentenceAndExitCode2(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"frob", `unknown command "frob"`},
		{"attach", "argument missing"},
		{"attach a b", `"b" is too much`},
		{"attach nosuch0 --frob", "unknown flag: --frob"},
		{"attach nosuch0 --mode fast", `--mode "fast": want auto, native or generic`},
		{"attach nosuch0 --listen 8080", `--listen "8080": no action`},
		{"attach nosuch0 --listen :8080=frob", `unknown action "frob": there are `},
		{"attach nosuch0 --listen :0=http", `port "0"`},
		{"attach nosuch0 --listen :80=http --listen :80=echo", "port 80 is given twice"},
		{"attach nosuch0 --flows 0", "--flows 0"},
		{"attach nosuch0 --key-rotation 10ms", "--key-rotation 10ms: want at least 1s"},
		{"attach nosuch0 --key-rotation often", "--key-rotation"},
		{"attach nosuch0 --keys k --key-rotation 1m", "--keys and --key-rotation exclude each other"},
		{"attach nosuch0 --keys k --key-rotation 0", "--keys and --key-rotation exclude each other"},
		{"attach nosuch0 --keys=", "--keys '': want the name of a key file"},
		{"keys frob", `unknown command "frob": see xdptcp keys --help`},
		{"keys generate", "argument missing: usage: xdptcp keys generate FILE"},
		{"keys add a b", `"b" is too much`},
		{"keys activate a", "argument missing: usage: xdptcp keys activate FILE GEN"},
		{"keys activate a one", `generation "one": want a number`},
		{"keys drop a", "argument missing"},
		{"keys drop a -", `generation "-": want a number`},
		{"keys list", "argument missing"},
		{"detach", "argument missing"},
		{"detach a b", `"b" is too much`},
		{"arm", "argument missing"},
		{"disarm nosuch0 http", `port "http" is not a number from 1 to 65535`},
		{"arm nosuch0 0", `port "0"`},
		{"status a b", `"b" is too much`},
		{"doctor", "argument missing"},
		{"doctor a b", `"b" is too much`},
		{"doctor a --frob", "unknown flag: --frob"},
		{"status --log-level loud", `--log-level "loud"`},
		{"status --log-format xml", `--log-format "xml"`},
		{"demo now", `"now" is too much`},
		{"version now", `"now" is too much`},
		{"bench frob", `no such benchmark: "frob": there is flood`},
		{"bench flood nosuch0", `"nosuch0" is too much`},
		{"bench flood --duration 0s", "--duration 0s: want more than nothing"},
		{"bench flood --duration 61s", "at most 1m0s"},
		{"bench flood --rounds 0", "--rounds 0"},
		{"bench flood --rates 1M,fast", `rate "fast"`},
		{"bench flood --rates 101M", `rate "101M"`},
		{"bench flood --rival nginx", `rival "nginx": there are kernel, synproxy and xdp_synproxy=FILE`},
		{"bench flood --rival kernel=FILE", `rival "kernel=FILE": kernel takes no file`},
		{"bench flood --rival kernel --rival xdp_synproxy", `rival "xdp_synproxy": want xdp_synproxy=FILE`},
		{"bench flood --rival kernel,synproxy,kernel", "--rival: kernel is given twice"},
	} {
		var stdout, stderr bytes.Buffer
		code := run(context.Background(), strings.Fields(c.args), &stdout, &stderr)
		if code != exitUsage || !strings.Contains(stderr.String(), c.want) || strings.Count(stderr.String(), "\n") != 1 || stdout.Len() != 0 {
			t.Errorf("xdptcp %s: code %d, stderr %q, stdout %q; want code 2 and one line with %q", c.args, code, &stderr, &stdout, c.want)
		}
	}
}

func TestAnInterfaceThatIsNotThereIsNamedTogetherWithThoseThatAre(t *testing.T) {
	for _, verb := range []string{"attach", "detach", "arm", "disarm", "status", "doctor"} {
		var stdout, stderr bytes.Buffer
		code := run(context.Background(), []string{verb, "nosuch0"}, &stdout, &stderr)
		if code != exitError || !strings.Contains(stderr.String(), `no such interface: "nosuch0" (there are: lo`) {
			t.Errorf("%s: code %d, %q", verb, code, &stderr)
		}
	}
}

// What is flooded is the command's own business: it must stay impossible to aim it.
func TestNoFlagOfTheFloodNamesAnInterfaceOrAnAddress(t *testing.T) {
	flags := regexp.MustCompile(`--[a-z0-9-]+`).FindAllString(newBenchFlood(&env{}).LocalFlags().FlagUsages(), -1)
	if want := []string{"--6", "--duration", "--json", "--rates", "--rival", "--rounds"}; !slices.Equal(flags, want) {
		t.Errorf("the flags are %v, known to be harmless are %v", flags, want)
	}
}

func TestVersionPrintsOneLine(t *testing.T) {
	var stdout, stderr bytes.Buffer
	if code := run(context.Background(), []string{"version"}, &stdout, &stderr); code != exitOK ||
		!strings.HasPrefix(stdout.String(), "xdptcp ") || strings.Count(stdout.String(), "\n") != 1 {
		t.Errorf("code %d, %q", code, &stdout)
	}
}

func TestTheLadderShowsTheNumbersOfTheWireAndWhoAnswered(t *testing.T) {
	client := wire.Flow{
		Remote: [16]byte{10: 0xff, 11: 0xff, 12: 192, 13: 0, 14: 2, 15: 2}, Local: [16]byte{10: 0xff, 11: 0xff, 12: 192, 13: 0, 14: 2, 15: 1},
		RemotePort: 40000, LocalPort: 8080,
	}
	start := time.Unix(0, 0)
	packet := func(at time.Duration, fromClient bool, flags wire.Flags, seq, ack uint32, n int) lab.Packet {
		return lab.Packet{Time: start.Add(at), Outgoing: fromClient, Data: frame(t, client, fromClient, flags, seq, ack, n)}
	}
	var out bytes.Buffer
	err := writeLadder(&out, []lab.Packet{
		packet(0, true, wire.SYN, 500, 0, 0),
		{Time: start, Data: []byte("not TCP")},
		packet(20*time.Microsecond, false, wire.SYN|wire.ACK, 9000, 501, 0),
		packet(30*time.Microsecond, true, wire.ACK, 501, 9001, 0),
		packet(40*time.Microsecond, true, wire.ACK|wire.PSH, 501, 9001, 10),
		packet(50*time.Microsecond, false, wire.ACK|wire.PSH, 9001, 511, 5),
	}, "xdp")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	for i, want := range []string{
		"client 192.0.2.2:40000, xdptcp 192.0.2.1:8080", "", "xdptcp",
		"SYN seq 500 ──", "SYN|ACK seq 9000 ack 501  │ XDP: cookie as ISN, 20µs after the SYN",
		"ACK seq 501 ack 9001 ──", "PSH|ACK seq 501 ack 9001 10 B ──", "PSH|ACK seq 9001 ack 511 5 B  │ engine: data, the ACK rides on it",
	} {
		if i >= len(lines) || !strings.Contains(lines[i], want) {
			t.Errorf("line %d has no %q:\n%s", i, want, &out)
		}
	}
	if !strings.Contains(lines[5], "XDP: cookie valid, flow opened") {
		t.Errorf("the final ACK is not told apart: %s", lines[5])
	}
}

// frame is a segment of the flow as it looks on the wire.
func frame(t *testing.T, flow wire.Flow, fromClient bool, flags wire.Flags, seq, ack uint32, n int) []byte {
	if fromClient {
		flow = wire.Flow{Remote: flow.Local, Local: flow.Remote, RemotePort: flow.LocalPort, LocalPort: flow.RemotePort}
	}
	in := make([]byte, 54) // a frame that the one we want is a reply to
	in[12], in[14], in[17], in[23], in[46] = 8, 0x45, 40, 6, 0x50
	copy(in[26:], flow.Remote[12:])
	copy(in[30:], flow.Local[12:])
	in[34], in[35] = byte(flow.RemotePort>>8), byte(flow.RemotePort)
	in[36], in[37] = byte(flow.LocalPort>>8), byte(flow.LocalPort)
	var p wire.Packet
	if err := wire.Parse(in, &p); err != nil {
		t.Fatal(err)
	}
	template := wire.NewTemplate(&p)
	s := wire.Segment{Flags: flags, Seq: seq, Ack: ack, PayloadLen: n, WScale: -1}
	out := make([]byte, 200)
	return out[:template.Marshal(out, &s)]
}

func TestListeningSocketsAreFoundByPort(t *testing.T) {
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:24B8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 41 1 0 100 0 0 10 0
   1: 0100007F:24B8 0100007F:D431 01 00000000:00000000 00:00000000 00000000     0        0 42 1 0 20 0 0 10 -1
   2: 00000000:24B9 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 43 1 0 100 0 0 10 0
cut short: 24B8 0A
`
	if got := listening(table, 9400); len(got) != 1 || got[0] != "41" {
		t.Errorf("listening on port 9400: %q, want 41", got)
	}
}

// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

// The ways a frame can take to xdptcp: what the peer leaves to hardware, how the program is attached,
// how many queues there are, how long frames may be.
func TestEveryKindOfPathCarriesTransfersBothWays(t *testing.T) {
	for _, p := range []struct {
		name     string
		lab      lab.Options
		offloads bool
		args     []string
		mode     string
		queues   int
		bursts   bool // the server's offloads are off, too, so that it leaves the cutting to the kernel
	}{
		{"the client leaves checksums and cutting to hardware", lab.Options{}, true, nil, "native", 1, false},
		{"the client finishes every frame itself", lab.Options{}, false, nil, "native", 1, false},
		{"generic mode", lab.Options{}, false, []string{"--mode", "generic"}, "generic", 1, false},
		{"four queues", lab.Options{Queues: 4}, true, nil, "native", 4, false},
		{"MTU 1280", lab.Options{MTU: 1280}, false, nil, "native", 1, false},
		{"bulk in bursts", lab.Options{}, false, nil, "native", 1, true},
		{"bulk in bursts, four queues", lab.Options{Queues: 4}, false, nil, "native", 4, true},
		{"bulk in bursts, generic mode", lab.Options{}, false, []string{"--mode", "generic"}, "generic", 1, true},
		{"MTU 3498", lab.Options{MTU: 3498}, false, nil, "native", 1, false},
	} {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			l := lab.ForTest(t, p.lab)
			if !p.offloads {
				if err := l.Client.Offload(false); err != nil {
					t.Fatal(err)
				}
			}
			if p.bursts {
				if err := l.Server.Offload(false); err != nil {
					t.Fatal(err)
				}
			}
			d := attach(t, l, append([]string{"--listen", ":8080=http", "--listen", ":8081=echo"}, p.args...)...)
			if want := fmt.Sprintf("mode=%s queues=%d zero-copy=false ", p.mode, p.queues); !strings.Contains(d.ready, want) {
				t.Errorf("ready line %q, want %q in it", d.ready, want)
			}
			partial := 0
			for _, f := range families(l) {
				tap := record(t, l)
				client := httpClient(t, l, patience)
				if err := download(client, f, 3_000_000); err != nil {
					t.Errorf("%s: %v", f.name, err)
				}
				if err := upload(client, f, payload(2, 3_000_000)); err != nil {
					t.Errorf("%s: %v", f.name, err)
				}
				client.CloseIdleConnections()
				tr := tap.rest()
				tr.checkServer(t)
				for _, s := range tr {
					if s.partial {
						partial++
					}
				}
				if err := all(40, 40, func(i int) error { return echoOnce(l, f, i) }); err != nil {
					t.Errorf("%s: %v", f.name, err)
				}
			}
			if (partial > 0) != p.offloads {
				t.Errorf("%d frames of the client had a partial checksum: this is not the path it claims to be", partial)
			}
			s := d.eventually("all over", func(s samples) bool { return s.open() == 0 })
			if s.closed("clean") != s.opened() {
				t.Errorf("%v of %v connections ended cleanly", s.closed("clean"), s.opened())
			}
			bursts := 0.0
			for q := range p.queues {
				bursts += s[fmt.Sprintf(`xdptcp_queue_syscalls_total{call="tx_burst",queue="%d"}`, q)]
			}
			if (bursts > 0) != p.bursts {
				t.Errorf("%v bursts were sent", bursts)
			}
			busy := 0
			for q := range p.queues {
				if s[fmt.Sprintf(`xdptcp_queue_frames_total{direction="in",queue="%d"}`, q)] > 0 {
					busy++
				}
			}
			if busy < min(2, p.queues) {
				t.Errorf("%d of %d queues had frames", busy, p.queues)
			}
			if p.mode == "generic" {
				expectGeneric(t, d)
			}
		})
	}
}

func echoOnce(l *lab.Lab, f family, i int) error {
	c, err := dialTo(l, f.addr(8081))
	if err != nil {
		return err
	}
	defer c.Close()
	return echo(c, payload(uint64(i), 20_000+i))
}

func expectGeneric(t *testing.T, d *daemon) {
	t.Helper()
	r, code := d.statusJSON()
	if i := r.Interfaces[0]; code != 4 || i.Mode != "generic" || !i.Degraded {
		t.Errorf("status --json: exit code %d, mode %q, degraded %t; want 4, generic, true", code, i.Mode, i.Degraded)
	}
	stdout, _, code := run(t, d.lab.Server, "status", d.lab.Server.Iface)
	if code != 4 || !strings.Contains(stdout, "generic (degraded") {
		t.Errorf("status: exit code %d, want 4, and to read that it is degraded:\n%s", code, stdout)
	}
	if !strings.Contains(d.metricsText(), `mode="generic"`) {
		t.Error("the metrics don't say that the mode is generic")
	}
}

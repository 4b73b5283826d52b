// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"fmt"
	"net"
	"testing"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

// Connections on four queues, and then the client's card has one alone: all their frames come where three of four never came
// before, and later again elsewhere.
func TestFlowsGoOnWhenTheyMoveToOtherQueues(t *testing.T) {
	t.Parallel()
	const queues, n, size = 4, 48, 40_000
	l := lab.ForTest(t, lab.Options{Queues: queues})
	d := attach(t, l, "--listen", ":8080=echo")
	fams := families(l)
	conns := make([]*net.TCPConn, n)
	if err := all(n, n, func(i int) (err error) {
		conns[i], err = dialTo(l, fams[i%2].addr(8080))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	everyoneSpeaks := func(seed uint64) {
		t.Helper()
		if err := all(n, n, func(i int) error { return echo(conns[i], payload(seed+uint64(i), size)) }); err != nil {
			t.Fatal(err)
		}
	}
	everyoneSpeaks(0)
	s := d.scrape()
	for q := range queues {
		if s[fmt.Sprintf(`xdptcp_queue_frames_total{direction="in",queue="%d"}`, q)] == 0 {
			t.Errorf("nothing came on queue %d", q)
		}
	}
	const strays = `xdptcp_stray_frames_total{outcome="handed_over"}`
	for i, senders := range []string{"1", "3", "4"} {
		before := d.scrape()
		if stdout, stderr, code := finish(t, l.Client.Command("ethtool", "-L", l.Client.Iface, "tx", senders)); code != 0 {
			t.Fatalf("ethtool -L tx %s: %s%s", senders, stdout, stderr)
		}
		everyoneSpeaks(uint64(1000 * (i + 1)))
		after := d.scrape()
		t.Logf("%s queues: %v frames on another queue than their connection's", senders, after[strays]-before[strays])
		if senders == "1" && after[strays] == before[strays] {
			t.Error("no frame came on another queue than its connection's")
		}
	}
	if s := d.scrape(); s.opened() != n || s.open() != n {
		t.Errorf("%v connections opened and %v open, want %d", s.opened(), s.open(), n)
	}
}

// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

func TestStatusTellsWhatIsAttachedAndAgreesWithTheMetrics(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	for _, args := range [][]string{{"status"}, {"status", "srv0"}} {
		refused(t, l.Server.Command(product, args...), 3, "not attached")
	}
	start := time.Now()
	d := attach(t, l, "--listen", ":8080=http", "--listen", "[2001:db8::1]:8081=echo", "--flows", "5000")
	client := httpClient(t, l, patience)
	for _, f := range families(l) {
		if _, err := fetch(client, f.url("/bytes?n=100000")); err != nil {
			t.Fatal(err)
		}
	}
	client.CloseIdleConnections()
	d.eventually("quiet", func(s samples) bool { return s.open() == 0 })

	id := xdpProgram(t, l.Server)
	before := d.scrape()
	r, code := d.statusJSON()
	i := r.Interfaces[0]
	if code != 0 || i.Interface != "srv0" || i.Mode != "native" || i.Degraded || i.ProgramID != id || i.Queues != 1 || i.FlowCapacity != 5000 ||
		!slices.Equal(i.Services, []string{":8080=http", "[2001:db8::1]:8081=echo"}) {
		t.Errorf("status --json: exit code %d, %+v", code, i)
	}
	if i.Loaded.Before(start.Add(-2*time.Second)) || i.Loaded.After(time.Now()) {
		t.Errorf("loaded at %v, attached between %v and now", i.Loaded, start)
	}
	n := 0
	for verdict, reasons := range i.Packets {
		for reason, packets := range reasons {
			n++
			if metric := before.packets(verdict, reason); metric != float64(packets) {
				t.Errorf("packets %s %s: status has %d, metrics %v", verdict, reason, packets, metric)
			}
		}
	}
	if n < 20 || i.Packets["tx"]["synack"] != 2 || i.Packets["redirect"]["opened"] != 2 {
		t.Errorf("packets: %v", i.Packets)
	}
	for _, args := range [][]string{{"status"}, {"status", "srv0"}} {
		stdout, stderr, code := run(t, l.Server, args...)
		if code != 0 || stderr != "" {
			t.Errorf("%v: exit code %d, stderr %q", args, code, stderr)
		}
		for _, want := range []string{"interface", "srv0", "native", ":8080=http [2001:db8::1]:8081=echo", fmt.Sprintf("id %d", id), "tx synack"} {
			if !strings.Contains(stdout, want) {
				t.Errorf("%v: want %q in it:\n%s", args, want, stdout)
			}
		}
	}
	// It looks, and touches nothing.
	after := d.scrape()
	for name, v := range before {
		if strings.HasPrefix(name, "xdptcp_packets") || strings.HasPrefix(name, "xdptcp_segments") || strings.HasPrefix(name, "xdptcp_conn") {
			if after[name] != v {
				t.Errorf("%s was %v and is %v after status", name, v, after[name])
			}
		}
	}
	if got := xdpProgram(t, l.Server); got != id {
		t.Errorf("XDP program %d is attached, was %d", got, id)
	}
	if _, err := fetch(client, families(l)[0].url("/")); err != nil {
		t.Error(err)
	}
	d.stop()
	refused(t, l.Server.Command(product, "status", "srv0"), 3, "srv0")
}

func TestMetricsCountWhatWasDone(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	d := attach(t, l)
	const each = 30
	for _, f := range families(l) {
		if err := all(each, 8, func(int) error {
			client := httpClient(t, l, patience)
			defer client.CloseIdleConnections()
			return download(client, f, 5000)
		}); err != nil {
			t.Fatal(err)
		}
	}
	s := d.eventually("all closed", func(s samples) bool { return s.open() == 0 })
	for name, want := range map[string]float64{
		"xdptcp_up": 1, "xdptcp_queues": 1,
		`xdptcp_synacks_total{by="xdp"}`:                                     2 * each,
		"xdptcp_handshakes_completed_total":                                  2 * each,
		"xdptcp_connections_opened_total":                                    2 * each,
		`xdptcp_connections_closed_total{how="clean"}`:                       2 * each,
		`xdptcp_connections_closed_total{how="reset"}`:                       0,
		"xdptcp_handshake_duration_seconds":                                  2 * each,
		`xdptcp_packets_total{reason="synack",verdict="tx"}`:                 2 * each,
		`xdptcp_handshakes_refused_total{by="xdp",reason="bad_cookie"}`:      0,
		`xdptcp_bad_frames_total{reason="checksum"}`:                         0,
		`xdptcp_queue_dropped_frames_total{queue="0",reason="rx_ring_full"}`: 0,
	} {
		if got, there := s[name]; got != want || !there {
			t.Errorf("%s = %v, want %v", name, got, want)
		}
	}
	if out := s[`xdptcp_payload_bytes_total{direction="out"}`]; out < 2*each*5000 || out > 2*each*6000 {
		t.Errorf("%v bytes of payload went out for %d answers of 5000", out, 2*each)
	}
	problems, err := promlint.New(strings.NewReader(d.metricsText())).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "xdptcp_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

func TestVersionSaysSomething(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	stdout, stderr, code := run(t, l.Server, "version")
	if code != 0 || stderr != "" || !strings.HasPrefix(stdout, "xdptcp ") {
		t.Errorf("version: exit code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
}

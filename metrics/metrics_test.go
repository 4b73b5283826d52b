// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/xdptcp/xdptcp/bpf"
	"github.com/xdptcp/xdptcp/userspace"
	"github.com/xdptcp/xdptcp/userspace/afxdp"
)

type fakeSource struct {
	reasons [bpf.ReasonCount]uint64
	err     error
	engine  userspace.Stats
	sockets []afxdp.Stats
	keys    Keys
	lists   *Lists
	about   About
}

func (f *fakeSource) Reasons() ([bpf.ReasonCount]uint64, error) { return f.reasons, f.err }
func (f *fakeSource) Engine() userspace.Stats                   { return f.engine }
func (f *fakeSource) Sockets() []afxdp.Stats                    { return f.sockets }
func (f *fakeSource) Keys() Keys                                { return f.keys }
func (f *fakeSource) About() About                              { return f.about }

func (f *fakeSource) Lists() (Lists, bool) {
	if f.lists == nil {
		return Lists{}, false
	}
	return *f.lists, true
}

func newFakeSource() *fakeSource {
	return &fakeSource{
		sockets: make([]afxdp.Stats, 2),
		lists:   &Lists{},
		about: About{Interface: "eth0", Mode: "native", Queues: 2, ZeroCopy: true, Version: "v1.2.3",
			FlowCapacity: 262144, Armed: map[string]bool{":80=http": true, ":7=echo": false}},
	}
}

// expect compares the exported series of some metrics, without their HELP and TYPE.
func expect(t *testing.T, src Source, want string, names ...string) {
	t.Helper()
	if got := series(t, NewCollector(src), names...); got != strings.TrimSpace(want) {
		t.Errorf("exported\n%s\nwant\n%s", got, strings.TrimSpace(want))
	}
}

// series scrapes some metrics, or all if none are named.
func series(t *testing.T, c prometheus.Collector, names ...string) string {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	if err := reg.Register(c); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	promhttp.HandlerFor(reg, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	if w.Code != http.StatusOK {
		t.Fatal(w.Body.String())
	}
	var lines []string
	wanted := len(names) == 0
	for line := range strings.Lines(w.Body.String()) {
		line = strings.TrimSpace(line)
		if typ, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, _, _ := strings.Cut(typ, " ")
			wanted = len(names) == 0 || slices.Contains(names, name)
		}
		if wanted && !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}

func TestEachReasonIsExportedFromTheStart(t *testing.T) {
	got := series(t, NewCollector(newFakeSource()), "xdptcp_packets_total")
	for r := range bpf.ReasonCount {
		verdict, reason := bpf.ReasonLabels(bpf.Reason(r))
		want := `xdptcp_packets_total{interface="eth0",reason="` + reason + `",verdict="` + verdict + `"} 0`
		if !strings.Contains(got, want) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	if n := strings.Count(got, "\n") + 1; n != bpf.ReasonCount {
		t.Errorf("%d series, want one for each of %d reasons", n, bpf.ReasonCount)
	}
}

func TestListsOfClientsAreExportedWhereThereAreSome(t *testing.T) {
	src := newFakeSource()
	src.lists = &Lists{Allowed: 3, Denied: 1000000, Failures: 2}
	names := []string{"xdptcp_list_entries", "xdptcp_list_failures_total"}
	expect(t, src, `
xdptcp_list_entries{interface="eth0",list="allow"} 3
xdptcp_list_entries{interface="eth0",list="deny"} 1e+06
xdptcp_list_failures_total{interface="eth0"} 2
`, names...)
	src.lists = nil
	expect(t, src, "", names...)
}

func TestHandshakesComeFromTheSameReadingAsPackets(t *testing.T) {
	src := newFakeSource()
	src.reasons[bpf.TxSynAck] = 1000
	src.reasons[bpf.RedirectOpened] = 900
	src.reasons[bpf.DropBadCookie] = 40
	src.reasons[bpf.DropNoFlow] = 7
	src.engine.SynAcks = 3
	src.engine.RefusedBacklog = 5
	src.engine.RefusedListener = 2
	expect(t, src, `
xdptcp_handshakes_completed_total{interface="eth0"} 900
xdptcp_synacks_total{by="engine",interface="eth0"} 3
xdptcp_synacks_total{by="xdp",interface="eth0"} 1000
`, "xdptcp_handshakes_completed_total", "xdptcp_synacks_total")
	got := series(t, NewCollector(src), "xdptcp_handshakes_refused_total")
	for _, want := range []string{
		`xdptcp_handshakes_refused_total{by="xdp",interface="eth0",reason="bad_cookie"} 40`,
		`xdptcp_handshakes_refused_total{by="xdp",interface="eth0",reason="table_full"} 0`,
		`xdptcp_handshakes_refused_total{by="engine",interface="eth0",reason="backlog_full"} 5`,
		`xdptcp_handshakes_refused_total{by="engine",interface="eth0",reason="no_listener"} 2`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	if strings.Contains(got, "no_flow") {
		t.Error("a stray RST or FIN counts as a refused handshake")
	}
}

func TestHandshakeDurationIsACumulativeHistogramInSeconds(t *testing.T) {
	src := newFakeSource()
	src.engine.HandshakeRTT[0] = 10                     // under 8.4 ms
	src.engine.HandshakeRTT[2] = 4                      // under 33.6 ms
	src.engine.HandshakeRTT[userspace.RTTBuckets-1] = 1 // beyond all bounds
	src.engine.HandshakeRTTTicks = 1 << 20              // 1099.5 s
	got := series(t, NewCollector(src), "xdptcp_handshake_duration_seconds")
	for _, want := range []string{
		`xdptcp_handshake_duration_seconds_bucket{interface="eth0",le="0.008388608"} 10`,
		`xdptcp_handshake_duration_seconds_bucket{interface="eth0",le="0.016777216"} 10`,
		`xdptcp_handshake_duration_seconds_bucket{interface="eth0",le="0.033554432"} 14`,
		`xdptcp_handshake_duration_seconds_bucket{interface="eth0",le="17.179869184"} 14`,
		`xdptcp_handshake_duration_seconds_bucket{interface="eth0",le="+Inf"} 15`,
		`xdptcp_handshake_duration_seconds_sum{interface="eth0"} 1099.511627776`,
		`xdptcp_handshake_duration_seconds_count{interface="eth0"} 15`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	if n := strings.Count(got, "_bucket{"); n != userspace.RTTBuckets {
		t.Errorf("%d buckets, want %d", n, userspace.RTTBuckets)
	}
	if upper := (8 * tick << (userspace.RTTBuckets - 2)).Seconds(); math.Abs(upper-17.18) > 0.01 {
		t.Errorf("highest bound %v s", upper)
	}
}

func TestKeysAreToldByGenerationAndAge(t *testing.T) {
	src := newFakeSource()
	src.keys = Keys{Generation: 3, Accepted: 2, Age: 90 * time.Second, Loads: 5, Failures: 1}
	expect(t, src, `
xdptcp_cookie_key_age_seconds{interface="eth0"} 90
xdptcp_cookie_key_failures_total{interface="eth0"} 1
xdptcp_cookie_key_generation{interface="eth0"} 3
xdptcp_cookie_keys_accepted{interface="eth0"} 2
xdptcp_key_file_loads_total{interface="eth0"} 5
`, "xdptcp_cookie_key_generation", "xdptcp_cookie_keys_accepted", "xdptcp_cookie_key_age_seconds",
		"xdptcp_key_file_loads_total", "xdptcp_cookie_key_failures_total")
}

func TestConnectionsSegmentsAndErrors(t *testing.T) {
	src := newFakeSource()
	src.engine = userspace.Stats{
		Open: 1, Waiting: 2, Opened: 3, ClosedClean: 4, ClosedReset: 5, ClosedTimeout: 6, ClosedAborted: 7,
		NoConnection: 8, Swept: 9, SegmentsIn: 10, SegmentsOut: 11, BytesIn: 12, BytesOut: 13, PureAcksOut: 14,
		ResetsOut: 15, Retransmits: 16, BadFrames: 17, BadChecksums: 18, TxNoChunk: 19, TxErrors: 20,
		Strays: 25, StraysLost: 4, BufferBytes: 22, MemoryRefused: 23, LeftAlone: 24, SendBufferFull: 41, ReceiveBufferFull: 42, OutOfOrderRefused: 43,
		ICMPUnreachable: 31, ICMPTooBig: 32, ICMPTimeExceeded: 33, ICMPParameterProblem: 34,
		ICMPBadChecksum: 35, ICMPNoConnection: 36, ICMPBadSequence: 37, ICMPBadMTU: 38,
	}
	expect(t, src, `
xdptcp_bad_frames_total{interface="eth0",reason="checksum"} 18
xdptcp_bad_frames_total{interface="eth0",reason="malformed"} 17
xdptcp_buffer_bytes{interface="eth0"} 22
xdptcp_buffer_refusals_total{interface="eth0"} 23
xdptcp_connection_buffer_full_total{buffer="out_of_order",interface="eth0"} 43
xdptcp_connection_buffer_full_total{buffer="receive",interface="eth0"} 42
xdptcp_connection_buffer_full_total{buffer="send",interface="eth0"} 41
xdptcp_connections{interface="eth0",state="open"} 1
xdptcp_connections{interface="eth0",state="waiting"} 2
xdptcp_connections_closed_total{how="aborted",interface="eth0"} 7
xdptcp_connections_closed_total{how="clean",interface="eth0"} 4
xdptcp_connections_closed_total{how="reset",interface="eth0"} 5
xdptcp_connections_closed_total{how="timeout",interface="eth0"} 6
xdptcp_connections_opened_total{interface="eth0"} 3
xdptcp_flows_swept_total{interface="eth0"} 9
xdptcp_icmp_errors_refused_total{interface="eth0",reason="checksum"} 35
xdptcp_icmp_errors_refused_total{interface="eth0",reason="mtu"} 38
xdptcp_icmp_errors_refused_total{interface="eth0",reason="no_connection"} 36
xdptcp_icmp_errors_refused_total{interface="eth0",reason="sequence"} 37
xdptcp_icmp_errors_total{interface="eth0",kind="parameter_problem"} 34
xdptcp_icmp_errors_total{interface="eth0",kind="time_exceeded"} 33
xdptcp_icmp_errors_total{interface="eth0",kind="too_big"} 32
xdptcp_icmp_errors_total{interface="eth0",kind="unreachable"} 31
xdptcp_payload_bytes_total{direction="in",interface="eth0"} 12
xdptcp_payload_bytes_total{direction="out",interface="eth0"} 13
xdptcp_pure_acks_total{interface="eth0"} 14
xdptcp_resets_sent_total{interface="eth0"} 15
xdptcp_retransmitted_segments_total{interface="eth0"} 16
xdptcp_segments_left_to_successor_total{interface="eth0"} 24
xdptcp_segments_total{direction="in",interface="eth0"} 10
xdptcp_segments_total{direction="out",interface="eth0"} 11
xdptcp_segments_without_connection_total{interface="eth0"} 8
xdptcp_stray_frames_total{interface="eth0",outcome="handed_over"} 21
xdptcp_stray_frames_total{interface="eth0",outcome="lost"} 4
xdptcp_transmit_errors_total{interface="eth0"} 20
xdptcp_transmit_stalls_total{interface="eth0"} 19
`, "xdptcp_bad_frames_total", "xdptcp_buffer_bytes", "xdptcp_buffer_refusals_total", "xdptcp_connection_buffer_full_total", "xdptcp_stray_frames_total", "xdptcp_connections", "xdptcp_connections_closed_total",
		"xdptcp_connections_opened_total", "xdptcp_flows_swept_total", "xdptcp_icmp_errors_total",
		"xdptcp_icmp_errors_refused_total", "xdptcp_segments_left_to_successor_total", "xdptcp_payload_bytes_total",
		"xdptcp_pure_acks_total", "xdptcp_resets_sent_total", "xdptcp_retransmitted_segments_total",
		"xdptcp_segments_total", "xdptcp_segments_without_connection_total", "xdptcp_transmit_errors_total",
		"xdptcp_transmit_stalls_total")
}

func TestSocketsAreExportedByQueue(t *testing.T) {
	src := newFakeSource()
	src.sockets = []afxdp.Stats{{}, {
		RxFrames: 1, RxBytes: 2, TxFrames: 3, TxBytes: 4, TxKicks: 5, RxWakeups: 6, Polls: 7,
		RxDropped: 8, RxInvalidDescs: 9, TxInvalidDescs: 10, RxRingFull: 11, FillRingEmpty: 12, TxRingEmpty: 13, TxBursts: 14,
	}}
	var queue1 []string
	for line := range strings.Lines(series(t, NewCollector(src))) {
		if strings.Contains(line, `queue="1"`) {
			queue1 = append(queue1, strings.TrimSpace(strings.ReplaceAll(line, `interface="eth0",`, "")))
		}
	}
	want := `
xdptcp_queue_bytes_total{direction="in",queue="1"} 2
xdptcp_queue_bytes_total{direction="out",queue="1"} 4
xdptcp_queue_dropped_frames_total{queue="1",reason="other"} 8
xdptcp_queue_dropped_frames_total{queue="1",reason="rx_ring_full"} 11
xdptcp_queue_frames_total{direction="in",queue="1"} 1
xdptcp_queue_frames_total{direction="out",queue="1"} 3
xdptcp_queue_invalid_descriptors_total{queue="1",ring="fill"} 9
xdptcp_queue_invalid_descriptors_total{queue="1",ring="tx"} 10
xdptcp_queue_ring_empty_total{queue="1",ring="fill"} 12
xdptcp_queue_ring_empty_total{queue="1",ring="tx"} 13
xdptcp_queue_syscalls_total{call="poll",queue="1"} 7
xdptcp_queue_syscalls_total{call="rx_wakeup",queue="1"} 6
xdptcp_queue_syscalls_total{call="tx_burst",queue="1"} 14
xdptcp_queue_syscalls_total{call="tx_kick",queue="1"} 5`
	if got := strings.Join(queue1, "\n"); got != strings.TrimSpace(want) {
		t.Errorf("exported\n%s\nwant%s", got, want)
	}
}

func TestUnreadableCountersAreMissingAndNotZero(t *testing.T) {
	src := newFakeSource()
	src.err = errors.New("map is gone")
	src.engine.SynAcks = 3
	var logged bytes.Buffer
	c := newCollector(src, slog.New(slog.NewTextHandler(&logged, nil)))
	got := series(t, c)
	for _, name := range []string{"xdptcp_packets_total", "xdptcp_handshakes_completed_total", `by="xdp"`} {
		if strings.Contains(got, name) {
			t.Errorf("%s is exported though it could not be read", name)
		}
	}
	for _, want := range []string{`xdptcp_up{interface="eth0"} 0`, `xdptcp_synacks_total{by="engine",interface="eth0"} 3`} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s", want)
		}
	}
	if !strings.Contains(logged.String(), "map is gone") {
		t.Errorf("log %q does not have the error", logged.String())
	}
	src.err = nil
	expect(t, src, `xdptcp_up{interface="eth0"} 1`, "xdptcp_up")
}

func TestAboutIsInTheLabels(t *testing.T) {
	expect(t, newFakeSource(), `
xdptcp_flow_table_capacity{interface="eth0"} 262144
xdptcp_info{interface="eth0",mode="native",version="v1.2.3",zero_copy="true"} 1
xdptcp_queues{interface="eth0"} 2
`, "xdptcp_info", "xdptcp_queues", "xdptcp_flow_table_capacity")
}

func TestWhetherPacketsComeAtAllIsExported(t *testing.T) {
	src := newFakeSource()
	for _, lease := range []string{"0", "1"} {
		src.about.Lease = lease == "1"
		expect(t, src, `
xdptcp_lease_held{interface="eth0"} `+lease+`
xdptcp_service_armed{interface="eth0",service=":7=echo"} 0
xdptcp_service_armed{interface="eth0",service=":80=http"} 1
`, "xdptcp_lease_held", "xdptcp_service_armed")
	}
}

func TestEachMetricIsLintCleanAndExplained(t *testing.T) {
	problems, err := testutil.CollectAndLint(NewCollector(newFakeSource()))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	for _, f := range families {
		if len(f.help) < 40 || !strings.HasSuffix(f.help, ".") {
			t.Errorf("xdptcp_%s: help %q does not say what to do", f.name, f.help)
		}
	}
}

func TestTwoInterfacesShareARegistry(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	for _, name := range []string{"eth0", "eth1"} {
		src := newFakeSource()
		src.about.Interface = name
		if err := Register(reg, src); err != nil {
			t.Fatal(err)
		}
	}
	if err := Register(reg, newFakeSource()); err == nil {
		t.Error("the same interface was registered twice")
	}
	if _, err := reg.Gather(); err != nil {
		t.Error(err)
	}
}

func TestHandlerServesMetricsAndAnIndex(t *testing.T) {
	srv := httptest.NewServer(Handler(newFakeSource(), slog.New(slog.DiscardHandler)))
	defer srv.Close()
	for _, tt := range []struct {
		method, path string
		status       int
		contains     string
	}{
		{"GET", "/", 200, `href="/metrics"`},
		{"GET", "/metrics", 200, `xdptcp_up{interface="eth0"} 1`},
		{"GET", "/metrics", 200, "go_goroutines"},
		{"GET", "/metrics", 200, "process_start_time_seconds"},
		{"HEAD", "/metrics", 200, ""},
		{"POST", "/metrics", 405, ""},
		{"GET", "/else", 404, ""},
	} {
		req, err := http.NewRequestWithContext(t.Context(), tt.method, srv.URL+tt.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != tt.status || !strings.Contains(string(body), tt.contains) {
			t.Errorf("%s %s: %s, want %d with %q:\n%.500s", tt.method, tt.path, resp.Status, tt.status, tt.contains, body)
		}
	}
}

func BenchmarkScrape(b *testing.B) {
	reg := prometheus.NewRegistry()
	if err := Register(reg, newFakeSource()); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := reg.Gather(); err != nil {
			b.Fatal(err)
		}
	}
}

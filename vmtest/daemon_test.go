// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"golang.org/x/sys/unix"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

// patience is how long anything may take that should be quick. It is only ever waited for in full by
// a test that fails, so it allows for a busy machine and the race detector.
const patience = 20 * time.Second

// A daemon is a running `xdptcp attach` on the server's interface of a lab.
type daemon struct {
	t      *testing.T
	lab    *lab.Lab
	cmd    *lab.Cmd
	ready  string // the ready line
	stderr *lab.Output
	exited chan struct{}

	mayComplain bool // errors in its log are part of the test
}

// attach runs `xdptcp attach srv0` with more arguments, and returns when it is ready. At the test's
// end it is stopped, and must then end well. It pins in pinDir, unless the arguments say otherwise.
func attach(t *testing.T, l *lab.Lab, args ...string) *daemon {
	t.Helper()
	d := &daemon{t: t, lab: l, stderr: new(lab.Output), exited: make(chan struct{})}
	d.cmd = l.Server.Command(product, append([]string{"attach", l.Server.Iface, "--pin", pinDir}, args...)...)
	d.run()
	return d
}

// run starts the daemon's command, and returns when it is ready.
func (d *daemon) run() {
	t := d.t
	t.Helper()
	d.cmd.Stderr = d.stderr
	stdout, err := d.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.stop)
	lines := make(chan string, 16)
	go func() {
		scan := bufio.NewScanner(stdout)
		for scan.Scan() {
			lines <- scan.Text()
		}
		close(lines)
		_ = d.cmd.Wait() // exitCode has it
		close(d.exited)
	}()
	select {
	case line := <-lines:
		if !strings.HasPrefix(line, "ready ") {
			t.Fatalf("first line on stdout: %q, want one that starts with \"ready \"; stderr:\n%s", line, d.stderr)
		}
		d.ready = line
	case <-time.After(patience):
		t.Fatalf("not ready after %v; stderr:\n%s", patience, d.stderr)
	}
	go func() {
		for line := range lines {
			t.Errorf("a line on stdout after the ready line: %q", line)
		}
	}()
}

func (d *daemon) running() bool {
	select {
	case <-d.exited:
		return false
	default:
		return true
	}
}

// signal sends a signal and waits for the end. It returns the exit code, -1 after death by signal.
func (d *daemon) signal(s os.Signal) int {
	d.t.Helper()
	if err := d.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		d.t.Errorf("%v: %v", s, err)
	}
	select {
	case <-d.exited:
	case <-time.After(patience):
		d.t.Fatalf("still there %v after %v; stderr:\n%s", patience, s, d.stderr)
	}
	return d.cmd.ProcessState.ExitCode()
}

// stop ends the daemon as an operator would, unless a test has done so already.
func (d *daemon) stop() {
	d.t.Helper()
	if d.running() {
		if code := d.signal(unix.SIGTERM); code != 0 {
			d.t.Errorf("exit code %d after SIGTERM, want 0", code)
		}
	}
	log := d.stderr.String()
	if strings.Contains(log, "level=ERROR") && !d.mayComplain || strings.Contains(log, "DATA RACE") || strings.Contains(log, "panic:") {
		d.t.Errorf("the daemon complains:\n%s", log)
	} else if d.t.Failed() && log != "" {
		d.t.Logf("the daemon's log:\n%s", log)
	}
}

// samples are metrics' values, by name and labels (without interface): `xdptcp_synacks_total{by="xdp"}`.
type samples map[string]float64

// scrape fetches the metrics from inside the server's namespace.
func (d *daemon) scrape() samples {
	d.t.Helper()
	s, err := parseSamples(d.metricsText(), d.lab.Server.Iface)
	if err != nil {
		d.t.Fatal(err)
	}
	return s
}

func (d *daemon) metricsText() string {
	d.t.Helper()
	client := &http.Client{Transport: &http.Transport{DialContext: d.lab.Server.Dial, DisableKeepAlives: true}, Timeout: patience}
	resp, err := client.Get("http://127.0.0.1:9400/metrics")
	if err != nil {
		d.t.Fatalf("scrape: %v", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		d.t.Fatalf("scrape: %s, %v", resp.Status, err)
	}
	return string(body)
}

// parseSamples reads the exposition format.
func parseSamples(text, iface string) (samples, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		return nil, err
	}
	s := samples{}
	for name, f := range families {
		for _, m := range f.Metric {
			labels := map[string]string{}
			for _, l := range m.Label {
				labels[l.GetName()] = l.GetValue()
			}
			if strings.HasPrefix(name, "xdptcp_") && labels["interface"] != iface {
				return nil, errors.New(name + ": no label interface=" + iface)
			}
			delete(labels, "interface")
			s[sampleName(name, labels)] = sampleValue(m)
		}
	}
	return s, nil
}

func sampleName(name string, labels map[string]string) string {
	if len(labels) == 0 {
		return name
	}
	var list []string
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		list = append(list, k+`="`+labels[k]+`"`)
	}
	return name + "{" + strings.Join(list, ",") + "}"
}

func sampleValue(m *dto.Metric) float64 {
	switch {
	case m.Counter != nil:
		return m.Counter.GetValue()
	case m.Gauge != nil:
		return m.Gauge.GetValue()
	case m.Histogram != nil:
		return float64(m.Histogram.GetSampleCount())
	}
	return 0
}

// packets is how many packets XDP counted for a reason.
func (s samples) packets(verdict, reason string) float64 {
	return s[`xdptcp_packets_total{reason="`+reason+`",verdict="`+verdict+`"}`]
}

func (s samples) closed(how string) float64 {
	return s[`xdptcp_connections_closed_total{how="`+how+`"}`]
}
func (s samples) open() float64   { return s[`xdptcp_connections{state="open"}`] }
func (s samples) opened() float64 { return s["xdptcp_connections_opened_total"] }

// eventually waits until the metrics are as they should be in the end.
func (d *daemon) eventually(what string, ok func(samples) bool) samples {
	d.t.Helper()
	for start := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		s := d.scrape()
		if ok(s) {
			return s
		}
		if time.Since(start) > patience {
			d.t.Fatalf("after %v still not: %s; open %v, opened %v, clean %v, reset %v, aborted %v, timeout %v", patience, what,
				s.open(), s.opened(), s.closed("clean"), s.closed("reset"), s.closed("aborted"), s.closed("timeout"))
		}
	}
}

// report is the form of `status --json`, written down here anew: it is an interface.
type report struct {
	Interfaces []struct {
		Interface    string                       `json:"interface"`
		Mode         string                       `json:"mode"`
		Degraded     bool                         `json:"degraded"`
		ProgramID    uint32                       `json:"program_id"`
		Loaded       time.Time                    `json:"loaded"`
		Queues       int                          `json:"queues"`
		Services     []string                     `json:"services"`
		FlowCapacity int                          `json:"flow_capacity"`
		Packets      map[string]map[string]uint64 `json:"packets"`
		Armed        []string                     `json:"armed"`
		Pin          string                       `json:"pin"`
		Daemon       struct {
			PID     int     `json:"pid"`
			Alive   bool    `json:"alive"`
			DeadFor float64 `json:"dead_for"`
		} `json:"daemon"`
		Shield   string `json:"shield"`
		ShieldUp bool   `json:"shield_up"`
	} `json:"interfaces"`
}

// run runs the binary on a host and returns what it printed, and its exit code.
func run(t *testing.T, h *lab.Host, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	return finish(t, h.Command(product, args...))
}

func finish(t *testing.T, c *lab.Cmd) (stdout, stderr string, code int) {
	t.Helper()
	var out, complaint lab.Output
	c.Stdout, c.Stderr = &out, &complaint
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- c.Wait() }()
	select {
	case err := <-done:
		if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
	case <-time.After(2 * patience):
		_ = c.Process.Kill()
		t.Fatalf("%v: still running after %v; stdout:\n%s\nstderr:\n%s", c.Args, 2*patience, &out, &complaint)
	}
	return out.String(), complaint.String(), c.ProcessState.ExitCode()
}

// statusJSON is what `xdptcp status --json` says, and its exit code.
func (d *daemon) statusJSON() (r report, code int) {
	d.t.Helper()
	stdout, stderr, code := run(d.t, d.lab.Server, "status", "--json", "--pin", pinDir)
	if stderr != "" {
		d.t.Errorf("status --json: on stderr: %s", stderr)
	}
	decoder := json.NewDecoder(strings.NewReader(stdout))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&r); err != nil {
		d.t.Fatalf("status --json: %v:\n%s", err, stdout)
	}
	if len(r.Interfaces) != 1 {
		d.t.Fatalf("status --json: %d interfaces, want 1:\n%s", len(r.Interfaces), stdout)
	}
	return r, code
}

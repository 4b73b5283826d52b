// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/xdptcp/xdptcp/vmtest/flood"
	"github.com/xdptcp/xdptcp/vmtest/lab"
)

// benchFlood runs `xdptcp bench flood --json`.
func benchFlood(t *testing.T, args ...string) (report flood.Report) {
	t.Helper()
	c := exec.Command(product, append([]string{"bench", "flood", "--json"}, args...)...)
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	if err := c.Run(); err != nil {
		t.Fatalf("%v: %v; stderr:\n%s", c.Args, err, &stderr)
	}
	decoder := json.NewDecoder(&stdout)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&report); err != nil {
		t.Fatal(err)
	}
	return report
}

func TestTheFloodBenchmarkAccountsForEverySYN(t *testing.T) {
	lab.Need(t) // and not parallel: it would starve the others
	for _, c := range []struct {
		family string
		args   []string
	}{
		{"ipv4", []string{"--rates", "0,20k", "--rival", "kernel"}},
		{"ipv6", []string{"--rates", "20k", "--6"}},
	} {
		t.Run(c.family, func(t *testing.T) {
			r := benchFlood(t, append(c.args, "--duration", "100ms", "--rounds", "1")...)
			if r.Family != c.family || r.Rounds != 1 || r.CPUs < 1 || r.Kernel == "" {
				t.Errorf("the head of the report is wrong: %+v", r)
			}
			for _, a := range r.Answered {
				if len(a.Measured) != 1 || a.Measured[0].Fate.Answered == 0 || a.PerSecond == 0 || a.PerCPUSecond == 0 {
					t.Errorf("%s answered nothing: %+v", a.Server, a)
					continue
				}
				f := a.Measured[0].Fate
				if a.Server != flood.Kernel && (f.Unanswered != 0 || f.Strange != 0) { // the kernel may answer a SYN again
					t.Errorf("%s: SYNs that are not accounted for: %+v", a.Server, f)
				}
				if f.Sent != uint64(int64(f.Answered+f.LostToServer+f.LostToClient+f.Strange)+f.Unanswered) {
					t.Errorf("%s: the sum is wrong: %+v", a.Server, f)
				}
			}
			for _, l := range r.Legit {
				m := l.Measured[0]
				if m.Connections+m.Late == 0 || m.Failed > 0 && m.Failure == "" {
					t.Errorf("%s, flood %v: %+v", l.Server, l.Flood, m)
				}
				if flooded := l.Flood > 0; flooded != (m.Flood.Sent > 0) || flooded != (m.Flood.Answered > 0) {
					t.Errorf("%s, flood %v: %+v", l.Server, l.Flood, m.Flood)
				}
			}
			if servers := map[string]int{"ipv4": 3, "ipv6": 2}[c.family]; len(r.Answered) != servers || len(r.Legit) != 2*(servers-1)-(3-servers) {
				t.Errorf("%d servers answered, %d served clients", len(r.Answered), len(r.Legit))
			}
		})
	}
}

func TestNothingIsLeftOfAFloodThatIsKilled(t *testing.T) {
	lab.Need(t) // and not parallel: it would starve the others
	for _, stage := range []string{"answered: round 1 of 2, xdptcp", "connections: round 1 of 2, xdptcp, flood max"} {
		c := exec.Command(product, "bench", "flood", "--duration", "300ms", "--rounds", "2", "--rates", "max")
		stderr, err := c.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Process.Kill() }) // it has ended, unless the test has failed
		lines := bufio.NewScanner(stderr)
		for lines.Scan() && lines.Text() != stage {
		}
		var left remains
		for start := time.Now(); ; time.Sleep(time.Millisecond) {
			left = remainsOf(t, c.Process.Pid)
			if len(left.children) == 1 && received(left.children[0]) > 1000 {
				break
			}
			if time.Since(start) > patience {
				t.Fatalf("%s: no flood", stage)
			}
		}
		if err := c.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = c.Wait() // killed
		if len(left.programs) < 5 || len(left.namespaces) != 2 {
			t.Errorf("%s: before the end there were %+v", stage, left)
		}
		for start := time.Now(); left.any(); time.Sleep(10 * time.Millisecond) {
			if time.Since(start) > patience {
				t.Fatalf("%s: %v after its death there is left: %+v", stage, patience, left)
			}
		}
	}
}

// received is how many frames a server has got.
func received(pid int) (frames int) {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", pid)) // of the process's namespace
	_, line, _ := strings.Cut(string(text), "srv0:")
	var octets int
	_, _ = fmt.Sscan(line, &octets, &frames) // none, before there is a line
	return frames
}

// remains are what a process has that could outlive it.
type remains struct {
	children   []int
	programs   []ebpf.ProgramID // its own, and its children's
	namespaces []string         // network namespaces that this process is not in
}

func remainsOf(t *testing.T, pid int) (r remains) {
	t.Helper()
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid)) // the only error is a bad pattern
	for _, list := range lists {
		text, _ := os.ReadFile(list) // a thread that has ended has none
		for _, field := range strings.Fields(string(text)) {
			if child, err := strconv.Atoi(field); err == nil {
				r.children = append(r.children, child)
			}
		}
	}
	for _, p := range append(slices.Clone(r.children), pid) {
		for _, ns := range namespacesOf(p) {
			if ns != own && !slices.Contains(r.namespaces, ns) {
				r.namespaces = append(r.namespaces, ns)
			}
		}
		infos, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", p))
		for _, info := range infos {
			text, _ := os.ReadFile(info)
			_, after, _ := strings.Cut(string(text), "prog_id:")
			var id ebpf.ProgramID
			if _, err := fmt.Sscan(after, &id); err == nil && !slices.Contains(r.programs, id) {
				r.programs = append(r.programs, id)
			}
		}
	}
	return r
}

// namespacesOf are the network namespaces that the threads of a process are in.
func namespacesOf(pid int) (list []string) {
	paths, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/ns/net", pid))
	for _, path := range paths {
		if ns, err := os.Readlink(path); err == nil {
			list = append(list, ns)
		}
	}
	return list
}

// any drops what is gone, and says whether something is still there.
func (r *remains) any() bool {
	r.children = slices.DeleteFunc(r.children, func(pid int) bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) })
	r.programs = slices.DeleteFunc(r.programs, func(id ebpf.ProgramID) bool {
		p, err := ebpf.NewProgramFromID(id)
		if err == nil {
			p.Close()
		}
		return errors.Is(err, os.ErrNotExist)
	})
	var inUse []string
	pids, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range pids {
		if pid, err := strconv.Atoi(filepath.Base(p)); err == nil {
			inUse = append(inUse, namespacesOf(pid)...)
		}
	}
	r.namespaces = slices.DeleteFunc(r.namespaces, func(ns string) bool { return !slices.Contains(inUse, ns) })
	return len(r.children)+len(r.programs)+len(r.namespaces) > 0
}

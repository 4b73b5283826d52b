// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// TB is what Need and ForTest use of testing.TB. It is written out here so that
// a program with a lab in it (xdptcp demo) does not link package testing.
type TB interface {
	Helper()
	Skipf(format string, args ...any)
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
	Cleanup(func())
}

// Available returns nil if this process can have labs on this machine, and
// otherwise an error that says what is missing. It makes one to find out, the
// first time.
func Available() error { return available() }

var available = sync.OnceValue(func() error {
	if err := capable(); err != nil {
		return err
	}
	l, err := New(Options{})
	if err != nil {
		return err
	}
	return l.Close()
})

// Need skips the test if there can be no lab here, and says why. With CI=true in
// the environment it fails instead: there, nothing is skipped.
func Need(tb TB) {
	tb.Helper()
	need(tb, Available())
}

func need(tb TB, missing error) {
	tb.Helper()
	if missing == nil {
		return
	}
	if os.Getenv("CI") == "true" {
		tb.Fatalf("this test needs a lab, and with CI=true it is not skipped: %v", missing)
		return
	}
	tb.Skipf("this test needs a lab: %v", missing)
}

// ForTest is Need, then New, with Close when the test ends.
func ForTest(tb TB, o Options) *Lab {
	tb.Helper()
	Need(tb)
	l, err := New(o)
	if err != nil {
		tb.Fatalf("%v", err)
		return nil
	}
	tb.Cleanup(func() {
		if err := l.Close(); err != nil {
			tb.Errorf("close the lab: %v", err)
		}
	})
	return l
}

// capable returns an error that names the capabilities which the process lacks.
func capable() error {
	status, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return fmt.Errorf("read this process's capabilities: %w; is /proc mounted?", err)
	}
	lacks, err := missingCaps(string(status))
	if err != nil {
		return fmt.Errorf("read this process's capabilities: %w", err)
	}
	if len(lacks) > 0 {
		return fmt.Errorf("this process (user %d) lacks %s; run as root", os.Geteuid(), strings.Join(lacks, ", "))
	}
	return nil
}

// missingCaps reads the effective set of a /proc/…/status.
func missingCaps(status string) ([]string, error) {
	for line := range strings.Lines(status) {
		hex, ok := strings.CutPrefix(line, "CapEff:")
		if !ok {
			continue
		}
		set, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
		if err != nil {
			return nil, err
		}
		has := func(c int) bool { return set&(1<<c) != 0 }
		var lacks []string
		for _, c := range []struct {
			name string
			bit  int
		}{
			{"CAP_NET_ADMIN", unix.CAP_NET_ADMIN}, // veth, addresses, XDP
			{"CAP_NET_RAW", unix.CAP_NET_RAW},     // captures
			{"CAP_SYS_ADMIN", unix.CAP_SYS_ADMIN}, // namespaces
		} {
			if !has(c.bit) {
				lacks = append(lacks, c.name)
			}
		}
		// CAP_SYS_ADMIN implies CAP_BPF, for old programs' sake.
		if !has(unix.CAP_BPF) && !has(unix.CAP_SYS_ADMIN) {
			lacks = append(lacks, "CAP_BPF")
		}
		return lacks, nil
	}
	return nil, errors.New("no CapEff line")
}

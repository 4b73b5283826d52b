// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
)

// A fakeTB notes what it is told and, unlike testing.T, goes on.
type fakeTB struct{ said []string }

func (f *fakeTB) Helper()        {}
func (f *fakeTB) Cleanup(func()) {}
func (f *fakeTB) Skipf(s string, a ...any) {
	f.said = append(f.said, "skip: "+fmt.Sprintf(s, a...))
}
func (f *fakeTB) Fatalf(s string, a ...any) {
	f.said = append(f.said, "fatal: "+fmt.Sprintf(s, a...))
}
func (f *fakeTB) Errorf(s string, a ...any) {
	f.said = append(f.said, "error: "+fmt.Sprintf(s, a...))
}

var _ TB = (testing.TB)(nil)

func TestWithoutALabATestIsSkippedButFailsInCI(t *testing.T) {
	missing := errors.New("this process lacks CAP_NET_ADMIN")
	for _, tc := range []struct {
		ci      string
		missing error
		want    string
	}{
		{"", nil, ""},
		{"true", nil, ""},
		{"", missing, "skip: this test needs a lab: this process lacks CAP_NET_ADMIN"},
		{"false", missing, "skip: this test needs a lab: this process lacks CAP_NET_ADMIN"},
		{"true", missing, "fatal: this test needs a lab, and with CI=true it is not skipped: this process lacks CAP_NET_ADMIN"},
	} {
		t.Setenv("CI", tc.ci)
		var tb fakeTB
		need(&tb, tc.missing)
		if got := strings.Join(tb.said, "; "); got != tc.want {
			t.Errorf("CI=%q, missing %v: said %q, want %q", tc.ci, tc.missing, got, tc.want)
		}
	}
}

func TestMissingCapabilitiesAreNamed(t *testing.T) {
	for _, tc := range []struct{ status, want string }{
		{"Name:\tx\nCapEff:\t000001ffffffffff\nSeccomp:\t0\n", "[]"},
		{"CapEff:\t0000000000000000\n", "[CAP_NET_ADMIN CAP_NET_RAW CAP_SYS_ADMIN CAP_BPF]"},
		{"CapEff:\t0000000000203000\n", "[]"},              // CAP_SYS_ADMIN, in place of CAP_BPF
		{"CapEff:\t0000008000003000\n", "[CAP_SYS_ADMIN]"}, // CAP_BPF, no namespaces
	} {
		got, err := missingCaps(tc.status)
		if err != nil || fmt.Sprint(got) != tc.want {
			t.Errorf("%q: %v (%v), want %s", tc.status, got, err, tc.want)
		}
	}
	for _, status := range []string{"", "CapEff:\tzz\n"} {
		if _, err := missingCaps(status); err == nil {
			t.Errorf("%q was understood", status)
		}
	}
}

func TestThePackageDoesNotLinkTesting(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		need(t, fmt.Errorf("go list: %w", err))
	}
	for p := range strings.Lines(string(out)) {
		if strings.TrimSpace(p) == "testing" {
			t.Error("the package imports testing: a program with a lab in it would have its flags")
		}
	}
}

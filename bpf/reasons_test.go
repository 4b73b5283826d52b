// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// frozenReasons are the numbers that scripts and dashboards keep. A line may be added at the end;
// none may change.
var frozenReasons = []struct {
	number        Reason
	verdict, name string
}{
	{0, "pass", "not_tcp"},
	{1, "pass", "no_service"},
	{2, "pass", "not_local"},
	{3, "pass", "other_host"},
	{4, "pass", "fragment"},
	{5, "pass", "ip_options"},
	{6, "pass", "bad_ip"},
	{7, "pass", "no_socket"},
	{8, "tx", "synack"},
	{9, "redirect", "opened"},
	{10, "redirect", "segment"},
	{11, "redirect", "syn"},
	{12, "drop", "bad_tcp"},
	{13, "drop", "bad_flags"},
	{14, "drop", "bad_source"},
	{15, "drop", "bad_checksum"},
	{16, "drop", "bad_cookie"},
	{17, "drop", "bad_timestamp"},
	{18, "drop", "expired_key"},
	{19, "drop", "no_flow"},
	{20, "drop", "table_full"},
	{21, "drop", "no_room"},
	{22, "pass", "no_lease"},
	{23, "pass", "disarmed"},
	{24, "pass", "peace"},
	{25, "pass", "kernel_flow"},
	{26, "pass", "handed_over"},
	{27, "redirect", "icmp"},
	{28, "redirect", "synack"},
	{29, "tx", "reset"},
	{30, "drop", "land"},
	{31, "drop", "denied"},
	{32, "drop", "reply_cap"},
	{33, "drop", "rate_limited"},
	{34, "drop", "no_route"},
	{35, "drop", "no_socket"},
	{36, "pass", "no_listener"},
	{37, "pass", "not_assigned"},
	{38, "pass", "two_tags"},
}

func TestReasonsAreFrozen(t *testing.T) {
	if len(frozenReasons) != ReasonCount {
		t.Fatalf("%d reasons are frozen, there are %d: add the new ones here", len(frozenReasons), ReasonCount)
	}
	seen := map[string]bool{}
	for i, r := range frozenReasons {
		if r.number != Reason(i) {
			t.Errorf("line %d of the test's own table has number %d", i, r.number)
		}
		verdict, name := ReasonLabels(r.number)
		if verdict != r.verdict || name != r.name {
			t.Errorf("reason %d is %s %s, was %s %s", i, verdict, name, r.verdict, r.name)
		}
		if !slices.Contains(verdictNames, verdict) {
			t.Errorf("reason %d: %q is no verdict", i, verdict)
		}
		if seen[verdict+name] {
			t.Errorf("reason %d has a name that another has: %s %s", i, verdict, name)
		}
		seen[verdict+name] = true
	}
}

// header is the text of a C file of this folder.
func header(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	must(t, err)
	return string(b)
}

// The names of reasons.go are those of the enum in types.h, number by number.
func TestReasonsAreThoseOfTypesH(t *testing.T) {
	_, enum, _ := strings.Cut(header(t, "types.h"), "enum reason {")
	enum, _, _ = strings.Cut(enum, "REASON_COUNT")
	found := regexp.MustCompile(`(?m)^\t([A-Z0-9_]+)\s*=\s*(\d+),`).FindAllStringSubmatch(enum, -1)
	if len(found) != ReasonCount {
		t.Fatalf("found %d reasons in types.h, want %d", len(found), ReasonCount)
	}
	for _, m := range found {
		number, err := strconv.Atoi(m[2])
		must(t, err)
		if number >= ReasonCount || reasonNames[number] != m[1] {
			t.Errorf("%s is %d in types.h, and that is another reason here", m[1], number)
		}
	}
}

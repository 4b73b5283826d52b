// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/xdptcp/xdptcp/bpf"
)

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestAListIsReadLineByLine(t *testing.T) {
	list, err := parseList(strings.NewReader("# who may\n\n 192.0.2.1 # the office\n2001:db8::/32\r\n192.0.2.0/24\n::ffff:192.0.2.1\n192.0.2.1/32"), bpf.ListAllow)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range list {
		got = append(got, e.prefix.String())
	}
	if want := []string{"192.0.2.0/24", "192.0.2.1/32", "2001:db8::/32"}; !slices.Equal(got, want) {
		t.Errorf("read %v, want %v", got, want)
	}
}

func TestAMistakeInAListIsNamedWithFileAndLine(t *testing.T) {
	dir := t.TempDir()
	allow, deny := filepath.Join(dir, "allow"), filepath.Join(dir, "deny")
	for _, c := range []struct{ allow, deny, want string }{
		{"192.0.2.1\n\n192.0.2.300\n", "", "allow:3: \"192.0.2.300\" is not an IP address"},
		{"192.0.2.1/24\n", "", "allow:1: \"192.0.2.1/24\" has bits set behind its first 24: 192.0.2.0/24 would be right"},
		{"", "example.org\n", "deny:1: \"example.org\" is not"},
		{"", "192.0.2.0/99", "deny:1: "},
		{"", "fe80::1%eth0", "deny:1: the zone"},
		{"# a comment\n192.0.2.0/24\n", "198.51.100.0/24\n192.0.2.0/24\n", "192.0.2.0/24 is allowed and denied: " + allow + ":2, " + deny + ":2"},
		{"192.0.2.1\n" + strings.Repeat("x", 100_000), "", "allow:2: bufio.Scanner: token too long"},
	} {
		writeFile(t, allow, c.allow)
		writeFile(t, deny, c.deny)
		if _, err := openLists(allow, deny, slog.Default()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q, %q: %v; want a refusal with %q", c.allow, c.deny, err, c.want)
		}
	}
	if _, err := openLists(filepath.Join(dir, "missing"), "", slog.Default()); err == nil || !strings.Contains(err.Error(), "missing: no such file") {
		t.Errorf("a missing file: %v", err)
	}
	if l, err := openLists("", "", slog.Default()); l != nil || err != nil {
		t.Errorf("without lists: %v, %v", l, err)
	}
}

// listed loads a program that serves 192.0.2.1 and 2001:db8::1, with these lists.
func listed(t *testing.T, allow, deny string) (*lists, *bpf.Objects) {
	t.Helper()
	l, err := openLists(allow, deny, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	constants := map[string]any{}
	l.constants(constants)
	objects := loadProgram(t, constants)
	if err := objects.Ports.Put(uint32(netPort(80)), uint64(1)); err != nil {
		t.Fatal(err)
	}
	table := locals{map4: objects.Locals4, map6: objects.Locals6}
	for _, a := range []string{"192.0.2.1", "2001:db8::1"} {
		if err := table.put(netip.MustParseAddr(a), 1); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.serve(objects); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	return l, objects
}

// lets says whether the program answers a client's SYN, and checks that denied says the same.
func lets(t *testing.T, l *lists, objects *bpf.Objects, client string) bool {
	t.Helper()
	from := netip.MustParseAddr(client)
	to := netip.MustParseAddrPort("192.0.2.1:80")
	if from.Is6() {
		to = netip.MustParseAddrPort("[2001:db8::1]:80")
	}
	v := synMeets(t, objects, from, to)
	if v != xdpTX && v != xdpDrop {
		t.Fatalf("a SYN of %s: verdict %d", client, v)
	}
	if l != nil && l.denied(from) != (v == xdpDrop) {
		t.Errorf("%s: XDP's verdict is %d, denied says %t", client, v, l.denied(from))
	}
	return v == xdpTX
}

func TestTheLongestMatchDecidesBetweenAllowAndDeny(t *testing.T) {
	dir := t.TempDir()
	allow, deny := filepath.Join(dir, "allow"), filepath.Join(dir, "deny")
	writeFile(t, allow, "198.51.100.0/24\n198.51.100.7\n2001:db8:1::/48\n")
	writeFile(t, deny, "198.51.100.0/25\n2001:db8:1:2::/64\n203.0.113.0/24\n")
	for _, c := range []struct {
		allow, deny string
		want        map[string]bool
	}{
		{allow, deny, map[string]bool{
			"198.51.100.7": true, "198.51.100.8": false, "198.51.100.200": true, "198.51.101.1": false, "203.0.113.1": false,
			"2001:db8:1::1": true, "2001:db8:1:2::1": false, "2001:db8:2::1": false,
		}},
		{"", deny, map[string]bool{
			"198.51.100.7": false, "198.51.100.200": true, "198.51.101.1": true, "203.0.113.1": false,
			"2001:db8:1::1": true, "2001:db8:1:2::1": false, "2001:db8:2::1": true,
		}},
		{allow, "", map[string]bool{
			"198.51.100.8": true, "198.51.101.1": false, "2001:db8:1:2::1": true, "2001:db8:2::1": false,
		}},
		{"", "", map[string]bool{"203.0.113.1": true, "2001:db8:1:2::1": true}},
	} {
		l, objects := listed(t, c.allow, c.deny)
		for client, want := range c.want {
			if got := lets(t, l, objects, client); got != want {
				t.Errorf("allow %q, deny %q: %s may connect: %t, want %t", c.allow, c.deny, client, got, want)
			}
		}
	}
}

// until waits for what must become true soon.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for start := time.Now(); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Since(start) > 20*time.Second {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

func TestAListIsFollowedAndABadOneLeavesTheOldOne(t *testing.T) {
	deny := filepath.Join(t.TempDir(), "deny")
	writeFile(t, deny, "198.51.100.0/24\n203.0.113.1\n")
	l, objects := listed(t, "", deny)
	aborted := make(chan [2]bool, 10)
	f := func(denied func(netip.Addr) bool) {
		aborted <- [2]bool{denied(netip.MustParseAddr("198.51.100.1")), denied(netip.MustParseAddr("::ffff:203.0.113.2"))}
	}
	l.changed.Store(&f)

	// Replaced, as editors do.
	writeFile(t, deny+".new", "203.0.113.1\n203.0.113.2 # another size\n")
	if err := os.Rename(deny+".new", deny); err != nil {
		t.Fatal(err)
	}
	if got := <-aborted; got != [2]bool{false, true} {
		t.Errorf("the engine is told that 198.51.100.1, 203.0.113.2 are denied: %v, want false, true", got)
	}
	for client, want := range map[string]bool{"198.51.100.1": true, "203.0.113.1": false, "203.0.113.2": false} {
		if lets(t, nil, objects, client) != want {
			t.Errorf("after the change: %s may connect: %t", client, !want)
		}
	}
	if s := l.status.Load(); s.Denied != 2 || s.Allowed != 0 || s.Failures != 0 {
		t.Errorf("status %+v", s)
	}

	for i, text := range []string{"203.0.113.1\noops\n", ""} {
		if text == "" {
			if err := os.Remove(deny); err != nil {
				t.Fatal(err)
			}
		} else {
			writeFile(t, deny, text)
		}
		until(t, "the failure counted", func() bool { return l.status.Load().Failures == uint64(i+1) })
		time.Sleep(2500 * time.Millisecond) // counted once, not at each look
		if s := l.status.Load(); s.Failures != uint64(i+1) || s.Denied != 2 {
			t.Errorf("status %+v", s)
		}
		if lets(t, nil, objects, "203.0.113.2") {
			t.Error("a bad list let somebody in")
		}
	}

	writeFile(t, deny, "198.51.100.0/24\n")
	<-aborted
	for client, want := range map[string]bool{"198.51.100.1": false, "203.0.113.1": true, "203.0.113.2": true} {
		if lets(t, nil, objects, client) != want {
			t.Errorf("after it is good again: %s may connect: %t", client, !want)
		}
	}
}

// A prefix that moves from one list to the other, and the ones beside it, is never without a listing.
func TestNobodyIsWithoutHisListingWhileListsChange(t *testing.T) {
	dir := t.TempDir()
	allow := filepath.Join(dir, "allow")
	text := func(odd int) string {
		var b strings.Builder
		for i := range 3000 {
			fmt.Fprintf(&b, "10.0.%d.%d\n", i>>7, i&127<<1|odd)
		}
		return b.String() + "198.51.100.1\n"
	}
	writeFile(t, allow, text(0))
	l, objects := listed(t, allow, "")
	l.close() // driven from here
	done := make(chan error)
	go func() {
		for i := range 20 {
			if err := os.WriteFile(allow, []byte(text(i%2)), 0o600); err != nil {
				done <- err
				return
			}
			if err := l.reload(); err != nil {
				done <- err
				return
			}
		}
		close(done)
	}()
	for {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			if !lets(t, l, objects, "10.0.0.1") || lets(t, l, objects, "10.0.0.2") {
				t.Error("the maps are not what the last list says")
			}
			return
		default:
		}
		if !lets(t, nil, objects, "198.51.100.1") {
			t.Fatal("who is on both the old and the new list was kept out")
		}
	}
}

func TestAPrefixCanMoveFromOneListToTheOther(t *testing.T) {
	dir := t.TempDir()
	allow, deny := filepath.Join(dir, "allow"), filepath.Join(dir, "deny")
	writeFile(t, allow, "198.51.100.0/24\n2001:db8:1::/48\n")
	writeFile(t, deny, "")
	l, objects := listed(t, allow, deny)
	l.close() // driven from here
	for _, may := range []bool{true, false, true} {
		for _, client := range []string{"198.51.100.1", "2001:db8:1::1"} {
			if lets(t, l, objects, client) != may {
				t.Errorf("%s may connect: %t, want %t", client, !may, may)
			}
		}
		if err := os.Rename(allow, dir+"/x"); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.Rename(deny, allow), os.Rename(dir+"/x", deny), l.reload()); err != nil {
			t.Fatal(err)
		}
	}
}

// What a failure left half done is put right by the next try.
func TestAHalfAppliedListIsPutRight(t *testing.T) {
	deny := filepath.Join(t.TempDir(), "deny")
	writeFile(t, deny, "198.51.100.1\n198.51.100.2\n")
	l, objects := listed(t, "", deny)
	l.close() // driven from here
	// Maps of another kind refuse the change.
	real4 := l.tries.map4
	l.tries.map4 = objects.Counters
	writeFile(t, deny, "198.51.100.2\n198.51.100.3\n198.51.100.4\n")
	if err := l.reload(); err == nil || !l.again {
		t.Fatalf("the failure went unnoticed: %v", err)
	}
	l.tries.map4 = real4
	// As if half of it had been done.
	if err := l.tries.put(netip.MustParsePrefix("198.51.100.3/32"), bpf.ListDeny); err != nil {
		t.Fatal(err)
	}
	writeFile(t, deny, "198.51.100.2\n198.51.100.4\n")
	if err := l.reload(); err != nil || l.again {
		t.Fatal(err)
	}
	for client, want := range map[string]bool{"198.51.100.1": true, "198.51.100.2": false, "198.51.100.3": true, "198.51.100.4": false} {
		if lets(t, l, objects, client) != want {
			t.Errorf("%s may connect: %t", client, !want)
		}
	}
}

func TestAMillionLinesAreTakenAndOneMoreIsNot(t *testing.T) {
	deny := filepath.Join(t.TempDir(), "deny")
	var b strings.Builder
	for i := range maxListLines {
		fmt.Fprintf(&b, "%d.%d.%d.%d\n", 20+i>>16, i>>8&255, i&255, i%7)
	}
	writeFile(t, deny, b.String())
	start := time.Now()
	l, objects := listed(t, "", deny)
	t.Logf("a million lines read and in the map after %v", time.Since(start))
	for client, want := range map[string]bool{"20.0.0.0": false, "20.0.0.1": true, "20.0.1.1": false} {
		if lets(t, l, objects, client) != want {
			t.Errorf("%s may connect: %t", client, !want)
		}
	}
	writeFile(t, deny, b.String()+"1.2.3.4\n")
	if _, err := openLists("", deny, slog.Default()); err == nil || !strings.Contains(err.Error(), "deny:1000001: more than 1000000") {
		t.Errorf("a million and one: %v", err)
	}
}

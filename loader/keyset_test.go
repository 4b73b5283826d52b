// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"testing"

	"github.com/xdptcp/xdptcp/bpf"
)

// testSet has keys that are easy to recognize: generation 1 active, 2 accepted.
func testSet() (s KeySet) {
	s.keys.Valid, s.keys.Current = 0b0110, 1
	s.keys.Key[1] = bpf.SiphashKey{K0: 0x0706050403020100, K1: 0x0f0e0d0c0b0a0908}
	s.keys.Key[2] = bpf.SiphashKey{K0: 0x1716151413121110, K1: 0x1f1e1d1c1b1a1918}
	s.keys.Timestamp = bpf.SiphashKey{K0: 0xa7a6a5a4a3a2a1a0, K1: 0xafaeadacabaaa9a8}
	return s
}

func uses(s KeySet) string {
	var list []string
	for _, k := range s.Keys() {
		list = append(list, fmt.Sprintf("%d %s", k.Generation, k.Use))
	}
	return strings.Join(list, ", ")
}

func TestAKeyIsAddedThenActivatedThenTheOldOneDropped(t *testing.T) {
	s := generated(t)
	timestamp, seen := s.TimestampFingerprint(), map[string]bool{}
	for _, want := range []struct {
		generation             int
		added, active, dropped string
	}{
		{1, "0 active, 1 accepted", "0 accepted, 1 active", "1 active"},
		{2, "1 active, 2 accepted", "1 accepted, 2 active", "2 active"},
		{3, "2 active, 3 accepted", "2 accepted, 3 active", "3 active"},
		{0, "0 accepted, 3 active", "0 active, 3 accepted", "0 active"},
		{1, "0 active, 1 accepted", "0 accepted, 1 active", "1 active"},
	} {
		old := s.Active()
		seen[s.Keys()[0].Fingerprint] = true
		added, generation, err := s.Add()
		if err != nil || generation != want.generation || uses(added) != want.added {
			t.Fatalf("add: %d, %v, %v; want %d, %s", generation, added, err, want.generation, want.added)
		}
		active, err := added.Activate(generation)
		if err != nil || uses(active) != want.active {
			t.Fatalf("activate: %v, %v; want %s", active, err, want.active)
		}
		dropped, err := active.Drop(old)
		if err != nil || uses(dropped) != want.dropped {
			t.Fatalf("drop: %v, %v; want %s", dropped, err, want.dropped)
		}
		if uses(added) != want.added || uses(active) != want.active {
			t.Error("what a set was made from has changed with it")
		}
		if f := dropped.Keys()[0].Fingerprint; seen[f] {
			t.Errorf("the new key %s is an old one", f)
		}
		if dropped.keys.Key[old] != (bpf.SiphashKey{}) || dropped.TimestampFingerprint() != timestamp {
			t.Error("the dropped key is still there, or the timestamp key has changed")
		}
		s = dropped
	}
}

func TestThreeKeysAreTheMostAndTheFreeGenerationIsTheNext(t *testing.T) {
	s := generated(t)
	var err error
	for _, want := range []int{1, 2} {
		var got int
		if s, got, err = s.Add(); err != nil || got != want {
			t.Fatalf("generation %d, %v; want %d", got, err, want)
		}
	}
	if _, _, err = s.Add(); err == nil || !strings.Contains(err.Error(), "drop an old one first") || !strings.Contains(err.Error(), "0 (active), 1, 2") {
		t.Errorf("a fourth key: %v", err)
	}
	// The one dropped last is not the one made next: cookies of it may be on their way.
	if s, err = s.Drop(1); err != nil {
		t.Fatal(err)
	}
	if s, err = s.Activate(2); err != nil {
		t.Fatal(err)
	}
	if _, got, err := s.Add(); err != nil || got != 3 {
		t.Errorf("generation %d, %v; want 3", got, err)
	}
}

func TestWhatCannotBeDoneToKeysIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(KeySet) (KeySet, error)
		want string
	}{
		"activate what is not there":  {func(s KeySet) (KeySet, error) { return s.Activate(0) }, "generation 0 has no key: there are 1 (active), 2"},
		"activate what cannot be":     {func(s KeySet) (KeySet, error) { return s.Activate(4) }, "generation 4 has no key"},
		"activate a negative number":  {func(s KeySet) (KeySet, error) { return s.Activate(-1) }, "generation -1 has no key"},
		"activate what is active":     {func(s KeySet) (KeySet, error) { return s.Activate(1) }, "generation 1 is active already"},
		"drop what is active":         {func(s KeySet) (KeySet, error) { return s.Drop(1) }, "generation 1 is active: activate another one first"},
		"drop what is not there":      {func(s KeySet) (KeySet, error) { return s.Drop(3) }, "generation 3 has no key"},
		"drop what cannot be":         {func(s KeySet) (KeySet, error) { return s.Drop(1 << 20) }, "has no key"},
		"drop with a negative number": {func(s KeySet) (KeySet, error) { return s.Drop(-1) }, "has no key"},
	} {
		if _, err := c.do(testSet()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestFingerprintsTellKeysApartAndAreStable(t *testing.T) {
	// Operators compare them across versions: sha256("xdptcp fingerprint of a cookie key\0" + key).
	if got, want := testSet().String(), "1 active 1ee48ff9, 2 accepted 85f2b2fc, timestamp 8a5ec6c5"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// However a set is printed, its keys do not show.
func TestAPrintedSetShowsNoKeys(t *testing.T) {
	s := testSet()
	var out bytes.Buffer
	fmt.Fprintf(&out, "%v %+v %#v %s %d %x %v %+v", s, s, s, s, s, s, []KeySet{s}, struct{ S KeySet }{s})
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "keys", s, "more", []KeySet{s})
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "keys", s, "more", []KeySet{s})
	if !strings.Contains(out.String(), s.Keys()[0].Fingerprint) {
		t.Error("no fingerprint in it: the test is blind")
	}
	for _, k := range append(s.keys.Key[1:3:3], s.keys.Timestamp) {
		for _, half := range []uint64{k.K0, k.K1} {
			for _, form := range []string{fmt.Sprintf("%x", half), fmt.Sprint(half), fmt.Sprintf("%x", keyBytes(bpf.SiphashKey{K0: half})[:8])} {
				if regexp.MustCompile("(?i)" + form).MatchString(out.String()) {
					t.Errorf("it shows %s:\n%s", form, &out)
				}
			}
		}
	}
}

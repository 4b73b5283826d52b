// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/xdptcp/xdptcp/bpf"
)

var offer = bpf.Offer{
	MSS: 1460, WScale: 7, SACK: true,
	Remote: netip.MustParseAddrPort("198.18.0.1:40000"), Local: netip.MustParseAddrPort("192.0.2.1:80"),
}

// verdict is what XDP says of a cookie under the keys.
func verdict(k *bpf.CookieKeys, iss uint32) bpf.Reason {
	_, why := bpf.CheckCookie(k, offer, iss, 500, 0)
	return why
}

func TestACookieLivesThroughOneRotationAndNotThroughTwo(t *testing.T) {
	k, err := newKeyring(func(*bpf.CookieKeys) error { return nil }, generated(t))
	if err != nil {
		t.Fatal(err)
	}
	for range 6 { // more than there are generations
		iss, _, _ := bpf.MakeCookie(k.current.Load(), offer, 500, 0)
		for rotations, want := range []bpf.Reason{bpf.RedirectOpened, bpf.RedirectOpened, bpf.DropExpiredKey} {
			if got := verdict(k.current.Load(), iss); got != want {
				t.Errorf("after %d rotations: %v, want %v", rotations, got, want)
			}
			if err := k.rotate(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestNoReaderMeetsAHalfWrittenKeyThatIsInUse(t *testing.T) {
	var written []bpf.CookieKeys
	k, err := newKeyring(func(c *bpf.CookieKeys) error { written = append(written, *c); return nil }, generated(t))
	if err != nil {
		t.Fatal(err)
	}
	for range 9 {
		if err := k.rotate(); err != nil {
			t.Fatal(err)
		}
	}
	checkWrites(t, written)
	for i, now := range written {
		if now.Timestamp != written[0].Timestamp {
			t.Errorf("write %d changes the timestamp key: timestamps would jump", i)
		}
	}
}

// generated are new keys, as the first of a keyring.
func generated(t *testing.T) KeySet {
	t.Helper()
	s, err := GenerateKeys()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// checkWrites checks that XDP could look at any moment: it may see any mixture of two writes in a row.
func checkWrites(t *testing.T, written []bpf.CookieKeys) {
	t.Helper()
	for i, now := range written {
		if now.Valid>>now.Current&1 == 0 {
			t.Errorf("write %d: the current generation %d is not valid (%b)", i, now.Current, now.Valid)
		}
		if n := bits.OnesCount32(now.Valid); n > maxKeys || now.Valid>>len(now.Key) != 0 {
			t.Errorf("write %d: %b is valid, and no place is left for the next key", i, now.Valid)
		}
		for g := range now.Key {
			if now.Valid>>g&1 != 0 && now.Key[g] == (bpf.SiphashKey{}) {
				t.Errorf("write %d: generation %d is valid and has no key", i, g)
			}
			if i > 0 && now.Key[g] != written[i-1].Key[g] && (written[i-1].Valid|now.Valid)>>g&1 != 0 {
				t.Errorf("write %d changes the key of generation %d while cookies may name it", i, g)
			}
		}
	}
}

// Any file may follow any other: not only what add, activate and drop lead to.
func TestNoReaderMeetsAHalfWrittenKeyWhateverFileFollowsWhich(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	secrets := make([]bpf.SiphashKey, 6) // few, so that keys stay, move and come back
	for i := range secrets {
		secrets[i] = bpf.SiphashKey{K0: uint64(i + 1), K1: uint64(i + 1)}
	}
	someFile := func() (s KeySet) {
		random.Shuffle(len(secrets), func(i, j int) { secrets[i], secrets[j] = secrets[j], secrets[i] })
		s.keys.Timestamp = secrets[5]
		generations := random.Perm(len(s.keys.Key))[:1+random.IntN(maxKeys)]
		for i, g := range generations {
			s.keys.Key[g] = secrets[i]
			s.keys.Valid |= 1 << g
		}
		s.keys.Current = uint32(generations[0])
		return s
	}
	synctest.Test(t, func(t *testing.T) {
		var written []bpf.CookieKeys
		k, err := newKeyring(func(c *bpf.CookieKeys) error { written = append(written, *c); return nil }, someFile())
		if err != nil {
			t.Fatal(err)
		}
		inPlace, spared := 0, 0
		for range 5000 {
			n, file, start := len(written), someFile(), time.Now()
			before := *k.current.Load()
			if err := k.replace(file); err != nil {
				t.Fatal(err)
			}
			checkWrites(t, written[n-1:])
			if took, want := time.Since(start), time.Duration(len(written)-n-1)*settleTime; took != want {
				t.Errorf("%d writes within %v, want %v: a run of the program may see two of them happen", len(written)-n, took, want)
			}
			now := k.current.Load()
			if now.Current != file.keys.Current || now.Valid != file.keys.Valid || now.Timestamp != file.keys.Timestamp {
				t.Errorf("the keys are %v, the file has %v", KeySet{*now}, file)
			}
			for g := range now.Key {
				if file.has(g) && now.Key[g] != file.keys.Key[g] {
					t.Errorf("generation %d has another key than the file", g)
				}
			}
			for i, w := range written[n : len(written)-1] { // on the way
				active := int(w.Current)
				switch {
				case w.Key[active] == before.Key[before.Current]: // nothing is in use but the keys of before
				case file.has(active) && w.Key[active] == file.keys.Key[active]:
					if want := file.Active(); active != want && w.Valid>>want&1 != 0 && w.Key[want] == file.keys.Key[want] {
						t.Errorf("write %d makes SYN/ACKs with generation %d, though the active one is ready", i, active)
					}
				case slices.Contains(secrets, w.Key[active]):
					t.Errorf("write %d makes SYN/ACKs with an old key in generation %d", i, active)
				default:
					spared++
				}
				for g := range w.Key {
					ofFile, ofBefore := file.has(g) && w.Key[g] == file.keys.Key[g], before.Valid>>g&1 != 0 && w.Key[g] == before.Key[g]
					if w.Valid>>g&1 != 0 && !ofFile && g != active && (i > 0 || !ofBefore) {
						t.Errorf("write %d accepts generation %d with a key that is not in the file", i, g)
					}
				}
			}
			if len(written)-n > 2 {
				inPlace++
			}
			if t.Failed() {
				t.Fatalf("from %v to %v:\n%v", KeySet{before}, file, written[n-1:])
			}
		}
		if inPlace < 100 || spared < 10 {
			t.Errorf("keys changed in their place %d times, all of them %d times: the test is blind", inPlace, spared)
		}
	})
}

// The steps by which a fleet changes its key.
func TestACookieOutlivesTheActivationOfANewKeyAndNotItsOwnDrop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := generated(t)
		a, err := newKeyring(func(*bpf.CookieKeys) error { return nil }, s)
		if err != nil {
			t.Fatal(err)
		}
		b, err := newKeyring(func(*bpf.CookieKeys) error { return nil }, s)
		if err != nil {
			t.Fatal(err)
		}
		old := s.Active()
		for range 6 { // more than there are generations
			cookie := func(k *keyring) uint32 {
				iss, _, _ := bpf.MakeCookie(k.current.Load(), offer, 500, 0)
				return iss
			}
			begun := cookie(a)
			step := func(name string, next KeySet, err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
				s = next
				for _, host := range []*keyring{a, b} { // one is always first
					if err := host.replace(s); err != nil {
						t.Fatal(err)
					}
					for _, made := range []*keyring{a, b} {
						for _, checked := range []*keyring{a, b} {
							if got := verdict(checked.current.Load(), cookie(made)); got != bpf.RedirectOpened {
								t.Errorf("%s: a cookie of one host is refused by the other: %v", name, got)
							}
						}
					}
				}
			}
			next, generation, err := s.Add()
			step("add", next, err)
			next, err = s.Activate(generation)
			step("activate", next, err)
			if got := verdict(b.current.Load(), begun); got != bpf.RedirectOpened {
				t.Errorf("after activate: a cookie of the key before: %v", got)
			}
			next, err = s.Drop(old)
			step("drop", next, err)
			if got := verdict(b.current.Load(), begun); got != bpf.DropExpiredKey {
				t.Errorf("after drop: a cookie of the dropped key: %v", got)
			}
			old = generation
		}
	})
}

func TestKeysRotateByTheClockAndOutliveAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var broken atomic.Bool
		k, err := newKeyring(func(*bpf.CookieKeys) error {
			if broken.Load() {
				return errors.New("no")
			}
			return nil
		}, generated(t))
		if err != nil {
			t.Fatal(err)
		}
		var failures atomic.Int32
		go k.run(t.Context(), time.Minute, func(error) { failures.Add(1) })
		at := func(after time.Duration, generation uint32) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			if got := k.current.Load().Current; got != generation {
				t.Errorf("generation %d, want %d", got, generation)
			}
		}
		at(59*time.Second, 0)
		at(2*time.Second, 1)
		broken.Store(true)
		at(time.Minute, 1)
		broken.Store(false)
		at(time.Minute, 2)
		if n := failures.Load(); n != 1 {
			t.Errorf("%d failures told, want 1", n)
		}
		if got, want := k.status(), (KeyStatus{Generation: 2, Accepted: 2, Age: time.Second, Failures: 1}); got != want {
			t.Errorf("status %+v, want %+v", got, want)
		}
	})
}

func TestRotationEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, err := newKeyring(func(*bpf.CookieKeys) error { return nil }, generated(t))
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		stop()
		k.run(ctx, time.Minute, func(err error) { t.Error(err) }) // or the test would never end
	})
}

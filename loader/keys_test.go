// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"net/netip"
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
	k, err := newKeyring(func(*bpf.CookieKeys) error { return nil })
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
	k, err := newKeyring(func(c *bpf.CookieKeys) error { written = append(written, *c); return nil })
	if err != nil {
		t.Fatal(err)
	}
	for range 9 {
		if err := k.rotate(); err != nil {
			t.Fatal(err)
		}
	}
	for i, now := range written[1:] {
		before := written[i]
		for g := range now.Key {
			inUse := (before.Valid|now.Valid)>>g&1 != 0
			if now.Key[g] != before.Key[g] && inUse {
				t.Errorf("write %d changes the key of generation %d while cookies may name it", i+1, g)
			}
		}
		if now.Valid>>now.Current&1 == 0 {
			t.Errorf("write %d: the current generation %d is not valid (%b)", i+1, now.Current, now.Valid)
		}
		if now.Timestamp != before.Timestamp {
			t.Errorf("write %d changes the timestamp key: timestamps would jump", i+1)
		}
	}
}

func TestKeysRotateByTheClockAndOutliveAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var broken atomic.Bool
		k, err := newKeyring(func(*bpf.CookieKeys) error {
			if broken.Load() {
				return errors.New("no")
			}
			return nil
		})
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
	})
}

func TestRotationEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, err := newKeyring(func(*bpf.CookieKeys) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		stop()
		k.run(ctx, time.Minute, func(err error) { t.Error(err) }) // or the test would never end
	})
}

// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"math/bits"
	"sync/atomic"
	"time"

	"github.com/xdptcp/xdptcp/bpf"
)

// DefaultKeyRotation is how often the cookie's key changes: a cookie without timestamps is accepted for
// one to two such periods.
const DefaultKeyRotation = time.Minute

// keyring holds the cookie's keys. They are never logged.
type keyring struct {
	put     func(*bpf.CookieKeys) error // into XDP's map
	current atomic.Pointer[bpf.CookieKeys]
	since   atomic.Pointer[time.Time] // when the current generation got its key

	loads, failures atomic.Uint64 // see KeyStatus
}

// newKeyring puts the first keys into the map.
func newKeyring(put func(*bpf.CookieKeys) error, first KeySet) (*keyring, error) {
	k := &keyring{put: put}
	return k, k.publish(&first.keys)
}

func newKey() (bpf.SiphashKey, error) {
	var random [2]uint64
	if err := binary.Read(rand.Reader, binary.NativeEndian, &random); err != nil {
		return bpf.SiphashKey{}, fmt.Errorf("random key: %w", err)
	}
	return bpf.SiphashKey{K0: random[0], K1: random[1]}, nil
}

// rotate makes a new current key; the one before stays valid, older ones expire. XDP may read the map
// in the middle of a write, so the new key is written first, where nobody looks at it, and only then
// named. The timestamp key stays: see cookie.h.
func (k *keyring) rotate() error {
	keys := *k.current.Load()
	next := (keys.Current + 1) % uint32(len(keys.Key))
	var err error
	if keys.Key[next], err = newKey(); err != nil {
		return err
	}
	keys.Valid = 1 << keys.Current
	if err := k.publish(&keys); err != nil {
		return err
	}
	named := keys
	named.Current = next
	named.Valid |= 1 << next
	return k.publish(&named)
}

// inherit goes on with the keys of another program. How strict this one is stays its own.
func (k *keyring) inherit(keys *bpf.CookieKeys) error {
	keys.Strict = k.current.Load().Strict
	return k.publish(keys)
}

// settleTime is how long replace lets a write lie before the next. A run of the XDP program takes less
// than a microsecond, so each sees at most one of the writes happen.
const settleTime = 10 * time.Millisecond

// replace makes the keys of a key file those in use, whatever was before.
func (k *keyring) replace(file KeySet) error {
	spare, err := newKey()
	if err != nil {
		return err
	}
	for i, keys := range transition(*k.current.Load(), file.keys, spare) {
		if i > 0 {
			time.Sleep(settleTime)
		}
		if err := k.publish(&keys); err != nil {
			return err
		}
	}
	return nil
}

// transition lists the writes that lead from one set of keys to another. XDP may read the map in the
// middle of each, and so see any mixture of what was before and after it; so no write changes a key
// that is accepted or in use before or after that write. The timestamp key is the exception: it has no
// second place. A handshake that meets its change fails, as do all that are under way then.
func transition(from, to bpf.CookieKeys, spare bpf.SiphashKey) []bpf.CookieKeys {
	// Keys that belong where nobody looks can be written at once.
	first := from
	var ready uint32 // generations of `to` whose key is in its place
	for g := range to.Key {
		bit := uint32(1) << g
		if to.Valid&bit != 0 && from.Valid&bit == 0 {
			first.Key[g] = to.Key[g]
		}
		if to.Valid&bit != 0 && first.Key[g] == to.Key[g] {
			ready |= bit
		}
	}
	if ready == to.Valid {
		return []bpf.CookieKeys{first, final(first, to)}
	}
	// The others are in use under another key: they are taken out of use before they are written.
	// Meanwhile SYN/ACKs are made with one that is ready, or, if none is, with a spare key in a
	// generation that is free.
	retired := first
	retired.Valid = ready
	switch {
	case ready>>to.Current&1 != 0:
		retired.Current = to.Current
	case ready != 0:
		retired.Current = uint32(bits.TrailingZeros32(ready))
	default:
		retired.Current = uint32(bits.TrailingZeros32(^from.Valid))
		retired.Valid = 1 << retired.Current
		first.Key[retired.Current] = spare
		retired.Key = first.Key
	}
	written := retired
	for g := range to.Key {
		if to.Valid>>g&1 != 0 && ready>>g&1 == 0 {
			written.Key[g] = to.Key[g]
		}
	}
	return []bpf.CookieKeys{first, retired, written, final(written, to)}
}

// final is `to`, but for the bytes of generations that have no key in it: they stay as they are.
func final(last, to bpf.CookieKeys) bpf.CookieKeys {
	last.Current, last.Valid, last.Timestamp = to.Current, to.Valid, to.Timestamp
	return last
}

func (k *keyring) publish(keys *bpf.CookieKeys) error {
	if err := k.put(keys); err != nil {
		return fmt.Errorf("map keys: %w", err)
	}
	before := k.current.Swap(keys)
	if before == nil || before.Current != keys.Current || before.Key[before.Current] != keys.Key[keys.Current] {
		now := time.Now()
		k.since.Store(&now)
	}
	return nil
}

// run rotates until ctx ends. After a failure the old keys go on, and the next turn tries again.
func (k *keyring) run(ctx context.Context, every time.Duration, failed func(error)) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if err := k.rotate(); err != nil {
				k.failures.Add(1)
				failed(err)
			}
		}
	}
}

// KeyStatus is what may be told of the cookie's keys.
type KeyStatus struct {
	Generation int           // of the key that SYN/ACKs are made with
	Accepted   int           // keys whose cookies are accepted
	Age        time.Duration // how long this process has used that key
	Loads      uint64        // times that the key file changed, and was taken
	Failures   uint64        // times that it was refused, or that a rotation failed
}

func (k *keyring) status() KeyStatus {
	keys := k.current.Load()
	return KeyStatus{
		Generation: int(keys.Current), Accepted: bits.OnesCount32(keys.Valid), Age: time.Since(*k.since.Load()),
		Loads: k.loads.Load(), Failures: k.failures.Load(),
	}
}

// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
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
}

// newKeyring makes the first keys and puts them into the map.
func newKeyring(put func(*bpf.CookieKeys) error) (*keyring, error) {
	k := &keyring{put: put}
	keys := &bpf.CookieKeys{Valid: 1}
	var err error
	if keys.Key[0], err = newKey(); err != nil {
		return nil, err
	}
	if keys.Timestamp, err = newKey(); err != nil {
		return nil, err
	}
	return k, k.publish(keys)
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

func (k *keyring) publish(keys *bpf.CookieKeys) error {
	if err := k.put(keys); err != nil {
		return fmt.Errorf("map keys: %w", err)
	}
	k.current.Store(keys)
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
				failed(err)
			}
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"strings"

	"github.com/xdptcp/xdptcp/bpf"
)

// maxKeys is how many of the generations may have a key at a time: the previous one, the one in use
// and the next. The one left over is where a key can be written while nobody looks.
const maxKeys = 3

// A KeySet is what the hosts of a fleet share: the timestamp key, and by generation one to three keys,
// all accepted, one of them active: SYN/ACKs are made with it. It is a value, and what changes it
// returns another. Printed, it shows fingerprints and never keys.
type KeySet struct{ keys bpf.CookieKeys }

// A KeyInfo is what may be told of a key.
type KeyInfo struct {
	Generation  int
	Use         string // "active": SYN/ACKs are made with it; "accepted": it is accepted only
	Fingerprint string // 8 hex digits
}

// GenerateKeys makes a timestamp key, and one key, active.
func GenerateKeys() (KeySet, error) {
	var s KeySet
	var err error
	if s.keys.Timestamp, err = newKey(); err != nil {
		return KeySet{}, err
	}
	if s.keys.Key[0], err = newKey(); err != nil {
		return KeySet{}, err
	}
	s.keys.Valid = 1
	return s, nil
}

// Add makes a key in the next free generation after the active one. It is accepted but not used, so
// that it can be given to every host before anybody uses it.
func (s KeySet) Add() (KeySet, int, error) {
	if bits.OnesCount32(s.keys.Valid) >= maxKeys {
		return KeySet{}, 0, fmt.Errorf("there are %d keys already, the most that hosts accept at a time (%s): drop an old one first", maxKeys, s.generations())
	}
	generation := s.Active()
	for s.has(generation) {
		generation = (generation + 1) % len(s.keys.Key)
	}
	var err error
	if s.keys.Key[generation], err = newKey(); err != nil {
		return KeySet{}, 0, err
	}
	s.keys.Valid |= 1 << generation
	return s, generation, nil
}

// Activate makes the key of a generation the one that SYN/ACKs are made with.
func (s KeySet) Activate(generation int) (KeySet, error) {
	switch {
	case !s.has(generation):
		return KeySet{}, s.noKey(generation)
	case generation == s.Active():
		return KeySet{}, fmt.Errorf("generation %d is active already", generation)
	}
	s.keys.Current = uint32(generation)
	return s, nil
}

// Drop takes the key of a generation away: its cookies are refused from then on.
func (s KeySet) Drop(generation int) (KeySet, error) {
	switch {
	case !s.has(generation):
		return KeySet{}, s.noKey(generation)
	case generation == s.Active():
		return KeySet{}, fmt.Errorf("generation %d is active: activate another one first", generation)
	}
	s.keys.Valid &^= 1 << generation
	s.keys.Key[generation] = bpf.SiphashKey{}
	return s, nil
}

// Active is the generation that SYN/ACKs are made with.
func (s KeySet) Active() int { return int(s.keys.Current) }

// Keys are the keys, by generation.
func (s KeySet) Keys() (list []KeyInfo) {
	for g := range s.keys.Key {
		if !s.has(g) {
			continue
		}
		k := KeyInfo{Generation: g, Use: "accepted", Fingerprint: fingerprint(s.keys.Key[g])}
		if g == s.Active() {
			k.Use = "active"
		}
		list = append(list, k)
	}
	return list
}

// TimestampFingerprint is the timestamp key's: 8 hex digits.
func (s KeySet) TimestampFingerprint() string { return fingerprint(s.keys.Timestamp) }

// String shows generations and fingerprints.
func (s KeySet) String() string {
	var list []string
	for _, k := range s.Keys() {
		list = append(list, fmt.Sprintf("%d %s %s", k.Generation, k.Use, k.Fingerprint))
	}
	return strings.Join(append(list, "timestamp "+s.TimestampFingerprint()), ", ")
}

// Format is String for every verb: %d or %#v would show the keys without it.
func (s KeySet) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

func (s KeySet) has(generation int) bool {
	return generation >= 0 && generation < len(s.keys.Key) && s.keys.Valid>>generation&1 != 0
}

func (s KeySet) noKey(generation int) error {
	return fmt.Errorf("generation %d has no key: there are %s", generation, s.generations())
}

func (s KeySet) generations() string {
	var list []string
	for _, k := range s.Keys() {
		text := fmt.Sprint(k.Generation)
		if k.Generation == s.Active() {
			text += " (active)"
		}
		list = append(list, text)
	}
	return strings.Join(list, ", ")
}

// fingerprint names a key without telling it: the key has 128 random bits, of which nobody can search
// for those with this hash.
func fingerprint(k bpf.SiphashKey) string {
	hash := sha256.Sum256(append([]byte("xdptcp fingerprint of a cookie key\x00"), keyBytes(k)...))
	return hex.EncodeToString(hash[:4])
}

// keyBytes are a key's 16 bytes as in SipHash's definition, the same on every machine.
func keyBytes(k bpf.SiphashKey) []byte {
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, k.K0), k.K1)
}

// keyHexDigits is the length of a key in a key file.
const keyHexDigits = 32

// parseKey is the inverse of keyBytes in hex. Its errors do not repeat what they were given.
func parseKey(text string) (bpf.SiphashKey, error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(text) != keyHexDigits || strings.ToLower(text) != text {
		return bpf.SiphashKey{}, fmt.Errorf("a key is %d lower-case hex digits", keyHexDigits)
	}
	k := bpf.SiphashKey{K0: binary.LittleEndian.Uint64(b), K1: binary.LittleEndian.Uint64(b[8:])}
	if k == (bpf.SiphashKey{}) {
		return k, errors.New("a key of zeros is no secret")
	}
	return k, nil
}

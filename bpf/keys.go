// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"encoding/binary"
)

// CookieKeys is the one value of the `keys` map. XDP has the keys in another form, the state that
// SipHash starts from: MarshalBinary and UnmarshalBinary translate, and ebpf.Map calls them.
type CookieKeys struct {
	Current   uint32        // generation that SYN/ACKs are made with
	Valid     uint32        // bit set of generations that ACKs may name
	Strict    uint64        // nonzero: more MAC and fewer options without timestamps, see cookie.h
	Clock     uint64        // ticks to add to CLOCK_MONOTONIC: hosts with the same keys share their time
	Key       [4]SiphashKey // by generation
	Timestamp SiphashKey    // never rotated
}

// SiphashKey is one 128-bit key, in the two words that SipHash takes it in.
type SiphashKey struct{ K0, K1 uint64 }

// SipHash's constants: "somepseudorandomlygeneratedbytes".
const (
	sip0, sip1 = 0x736f6d6570736575, 0x646f72616e646f6d
	sip2, sip3 = 0x6c7967656e657261, 0x7465646279746573
)

// state is what SipHash starts from.
func (k *SiphashKey) state() objectSipstate {
	return objectSipstate{V0: k.K0 ^ sip0, V1: k.K1 ^ sip1, V2: k.K0 ^ sip2, V3: k.K1 ^ sip3}
}

// MarshalBinary writes the keys as XDP reads them.
func (k *CookieKeys) MarshalBinary() ([]byte, error) {
	o := objectCookieKeys{
		Current: k.Current, Valid: k.Valid, Strict: k.Strict, Clock: k.Clock, Timestamp: k.Timestamp.state(),
	}
	for i := range k.Key {
		o.Key[i] = k.Key[i].state()
	}
	return binary.Append(nil, binary.NativeEndian, &o)
}

// UnmarshalBinary is the inverse of MarshalBinary.
func (k *CookieKeys) UnmarshalBinary(b []byte) error {
	var o objectCookieKeys
	if err := binary.Read(bytes.NewReader(b), binary.NativeEndian, &o); err != nil {
		return err
	}
	key := func(s objectSipstate) SiphashKey { return SiphashKey{K0: s.V0 ^ sip0, K1: s.V1 ^ sip1} }
	*k = CookieKeys{Current: o.Current, Valid: o.Valid, Strict: o.Strict, Clock: o.Clock, Timestamp: key(o.Timestamp)}
	for i := range k.Key {
		k.Key[i] = key(o.Key[i])
	}
	return nil
}

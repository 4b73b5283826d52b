// SPDX-License-Identifier: Apache-2.0

package userspace

import (
	"crypto/rand"
	"encoding/binary"
	"iter"
	"math/bits"

	"github.com/xdptcp/xdptcp/userspace/wire"
)

// A connTable finds a shard's connection by its flow. The map's key is a hash of it, since the flow itself is in the
// connection: that takes 20 to 39 bytes for each where map[wire.Flow] would take 56 to 112, and costs some 5 ns more.
type connTable struct {
	hash     *flowHash
	conns    map[uint64]*Conn
	collided map[wire.Flow]*Conn // those whose hash another one had: hardly ever any
}

func newConnTable(h *flowHash) connTable {
	return connTable{hash: h, conns: make(map[uint64]*Conn), collided: make(map[wire.Flow]*Conn)}
}

func (t *connTable) len() int { return len(t.conns) + len(t.collided) }

// get gives the connection of a flow; nil if there is none.
func (t *connTable) get(f *wire.Flow) *Conn {
	if c := t.conns[t.hash.of(f)]; c != nil && c.template.Replies(f) {
		return c
	}
	if len(t.collided) == 0 {
		return nil
	}
	return t.collided[*f]
}

// add puts in a connection whose flow has none.
func (t *connTable) add(c *Conn) {
	f := c.flow()
	hash := t.hash.of(&f)
	if t.conns[hash] == nil {
		t.conns[hash] = c
	} else {
		t.collided[f] = c
	}
}

// remove takes a connection out, and says whether it was there.
func (t *connTable) remove(c *Conn) bool {
	f := c.flow()
	if t.get(&f) != c {
		return false
	}
	if hash := t.hash.of(&f); t.conns[hash] == c {
		delete(t.conns, hash)
	} else {
		delete(t.collided, f)
	}
	return true
}

// all gives every connection. The one that was given last may be removed, none may be added.
func (t *connTable) all() iter.Seq[*Conn] {
	return func(yield func(*Conn) bool) {
		for _, c := range t.conns {
			if !yield(c) {
				return
			}
		}
		for _, c := range t.collided {
			if !yield(c) {
				return
			}
		}
	}
}

// A flowHash is a keyed hash of flows: multiplications of 64 by 64 bits, folded. A client chooses its ports, and with IPv6
// most of its address; not knowing the keys, nor ever seeing a hash, it can't make flows collide. It costs 7 ns, where
// hash/maphash takes 26 to 36.
type flowHash [5]uint64

func newFlowHash() *flowHash {
	h := new(flowHash)
	var b [8 * len(h)]byte
	_, _ = rand.Read(b[:]) // never fails
	for i := range h {
		h[i] = binary.NativeEndian.Uint64(b[8*i:])
	}
	return h
}

func (h *flowHash) of(f *wire.Flow) uint64 {
	word := binary.NativeEndian.Uint64
	remote := fold(word(f.Remote[:])^h[0], word(f.Remote[8:])^h[1])
	local := fold(word(f.Local[:])^h[2], word(f.Local[8:])^h[3])
	ports := uint64(f.RemotePort)<<16 | uint64(f.LocalPort)
	return fold(remote^ports^h[4], local^h[0])
}

func fold(a, b uint64) uint64 {
	high, low := bits.Mul64(a, b)
	return high ^ low
}

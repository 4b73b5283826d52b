// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/xdptcp/xdptcp/bpf"
)

// trie is a pair of LPM maps, one for each IP version.
type trie struct{ map4, map6 *ebpf.Map }

// lpm is a prefix as an LPM map's key, and its map.
func (t trie) lpm(p netip.Prefix) (*ebpf.Map, any) {
	if p.Addr().Is4() {
		return t.map4, prefix4(p)
	}
	return t.map6, prefix6(p)
}

func (t trie) put(p netip.Prefix, value any) error {
	m, key := t.lpm(p)
	if err := m.Put(key, value); err != nil {
		return fmt.Errorf("LPM map: %v: %w", p, err)
	}
	return nil
}

// drop takes a prefix out; that it is not there is no error.
func (t trie) drop(p netip.Prefix) error {
	m, key := t.lpm(p)
	if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("LPM map: %v: %w", p, err)
	}
	return nil
}

func prefix4(p netip.Prefix) bpf.Prefix4 {
	return bpf.Prefix4{Len: uint32(p.Bits()), Addr: words(p.Addr())[0]}
}

func prefix6(p netip.Prefix) bpf.Prefix6 {
	return bpf.Prefix6{Len: uint32(p.Bits()), Addr: [4]uint32(words(p.Addr()))}
}

// wide says whether services are on more than single addresses: XDP then asks the LPM maps, too.
func wide(services []Service) bool {
	for _, s := range services {
		if s.Prefix.IsValid() && !s.Prefix.IsSingleIP() {
			return true
		}
	}
	return false
}

// putPrefixes enters the services' prefixes. XDP asks for the longest one only, so each says all that is
// served in it, what shorter ones serve there included.
func putPrefixes(services []Service, t trie) error {
	for _, s := range services {
		if !s.Prefix.IsValid() || s.Prefix.IsSingleIP() {
			continue
		}
		if err := t.put(s.Prefix, servicesOn(services, s.Prefix, false)); err != nil {
			return err
		}
	}
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"

	"github.com/xdptcp/xdptcp/bpf"
)

// lists say who may connect: the files, and XDP's maps lists4 and lists6, which follow them. A nil *lists
// lets everybody.
type lists struct {
	allow, deny string // names of files; "": none
	log         *slog.Logger

	tries trie
	is    []listing   // what the maps hold, sorted
	seen  [2]identity // of the files that it came from, or that were refused
	again bool        // the maps could not be changed: try again

	status  atomic.Pointer[ListStatus]
	changed atomic.Pointer[func(denied func(netip.Addr) bool)]

	stop    context.CancelFunc // nil: not followed yet
	running sync.WaitGroup
}

// ListStatus is what may be told of the lists of clients.
type ListStatus struct {
	Given    bool   // a list was given at all
	Allowed  int    // prefixes on the allow list
	Denied   int    // prefixes on the deny list
	Failures uint64 // times that they changed, and could not be taken
}

// listEvery is how often the files are looked at.
const listEvery = time.Second

// openLists reads the files, if there are any.
func openLists(allow, deny string, log *slog.Logger) (*lists, error) {
	if allow == "" && deny == "" {
		return nil, nil
	}
	l := &lists{allow: allow, deny: deny, log: log, seen: [2]identity{identify(allow), identify(deny)}}
	var allowed int
	var err error
	if l.is, allowed, err = readLists(allow, deny); err != nil {
		return nil, err
	}
	l.status.Store(&ListStatus{Given: true, Allowed: allowed, Denied: len(l.is) - allowed})
	return l, nil
}

// constants are the XDP program's.
func (l *lists) constants(c map[string]any) {
	c["cfg_lists"] = l != nil
	c["cfg_allow_only"] = l != nil && l.allow != ""
}

// listRoom is how many prefixes each map must hold: two full lists, and while they are exchanged twice as many.
// They take no memory before they are used.
const listRoom = 4 * maxListLines

// serve fills the maps, and from then on follows the files.
func (l *lists) serve(m *bpf.Objects) error {
	if l == nil {
		return nil
	}
	l.tries = trie{m.Lists4, m.Lists6}
	if err := l.tries.putAll(l.is); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	l.stop = stop
	l.running.Go(func() { l.follow(ctx) })
	return nil
}

func (l *lists) follow(ctx context.Context) {
	ticker := time.NewTicker(listEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := [2]identity{identify(l.allow), identify(l.deny)}
		if now == l.seen && !l.again {
			continue
		}
		l.seen = now
		logged := l.again
		if err := l.reload(); err != nil {
			status := *l.status.Load()
			status.Failures++
			l.status.Store(&status)
			if !logged {
				l.log.Warn("the lists of clients changed, and could not be taken; the old ones stay", "err", err)
			}
		}
	}
}

// reload brings the maps in step with the files.
func (l *lists) reload() error {
	l.again = false
	wanted, allowed, err := readLists(l.allow, l.deny)
	if err != nil {
		return err
	}
	if err := l.apply(wanted); err != nil {
		l.again = true
		return err
	}
	status := *l.status.Load()
	status.Allowed, status.Denied = allowed, len(wanted)-allowed
	l.status.Store(&status)
	l.log.Info("the lists of clients were read again", "allowed", status.Allowed, "denied", status.Denied)
	if f := l.changed.Load(); f != nil {
		(*f)(l.denied)
	}
	return nil
}

// apply changes the maps to what is wanted: first what comes or changes, then what goes, so that nobody is
// without his listing in between.
func (l *lists) apply(wanted []listing) error {
	var come, gone []listing
	for was, is := range pairs(l.is, wanted) {
		switch {
		case is == nil:
			gone = append(gone, *was)
		case was == nil || was.says != is.says:
			come = append(come, *is)
		}
	}
	err := l.tries.putAll(come)
	if err == nil {
		err = l.tries.dropAll(gone)
	}
	if err != nil {
		// Any of them may be in the maps now: next time all that are wanted are written, and all that
		// are not are taken out.
		l.is = slices.Concat(l.is, come)
		slices.SortStableFunc(l.is, byPrefix)
		l.is = slices.CompactFunc(l.is, func(a, b listing) bool { return a.prefix == b.prefix })
		for i := range l.is {
			l.is[i].says = 0
		}
		return err
	}
	l.is = wanted
	return nil
}

// pairs walks two sorted lists, giving those of the same prefix together; nil stands for one that is missing.
func pairs(a, b []listing) iter.Seq2[*listing, *listing] {
	return func(yield func(*listing, *listing) bool) {
		for len(a) > 0 || len(b) > 0 {
			var x, y *listing
			order := -1
			switch {
			case len(a) == 0:
				order = 1
			case len(b) > 0:
				order = byPrefix(a[0], b[0])
			}
			if order <= 0 {
				x, a = &a[0], a[1:]
			}
			if order >= 0 {
				y, b = &b[0], b[1:]
			}
			if !yield(x, y) {
				return
			}
		}
	}
}

// denied is what XDP says of a client.
func (l *lists) denied(addr netip.Addr) bool {
	m, key := l.tries.lpm(hostPrefix(addr.Unmap()))
	var says uint32
	if err := m.Lookup(key, &says); err != nil {
		return l.allow != "" // not listed
	}
	return says != bpf.ListAllow
}

func (l *lists) close() {
	if l != nil && l.stop != nil {
		l.stop()
		l.running.Wait()
	}
}

// Lists tells of the lists of clients.
func (r *Responder) Lists() ListStatus {
	if r.lists == nil {
		return ListStatus{}
	}
	return *r.lists.status.Load()
}

// OnListsChanged has f called after each change of the lists, with a function that says of an address
// whether it may not connect any more: the engine is to end its connections. It is called on the
// goroutine that follows the files, one call at a time.
func (r *Responder) OnListsChanged(f func(denied func(netip.Addr) bool)) {
	if r.lists != nil {
		r.lists.changed.Store(&f)
	}
}

// listBatch is how many prefixes are given to the kernel at once.
const listBatch = 4096

// putAll enters listings.
func (t trie) putAll(list []listing) error {
	return t.inBatches(list, func(m *ebpf.Map, keys any, says []uint32) error {
		_, err := m.BatchUpdate(keys, says, nil)
		return err
	}, func(e listing) error { return t.put(e.prefix, e.says) })
}

// dropAll takes listings out. One that is not there ends a batch, so it is done singly then.
func (t trie) dropAll(list []listing) error {
	return t.inBatches(list, func(m *ebpf.Map, keys any, _ []uint32) error {
		_, err := m.BatchDelete(keys, nil)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return ebpf.ErrNotSupported
		}
		return err
	}, func(e listing) error { return t.drop(e.prefix) })
}

// inBatches does something with listings, each IP version in its map, and one by one where the kernel can't
// do many at once.
func (t trie) inBatches(list []listing, many func(*ebpf.Map, any, []uint32) error, one func(listing) error) error {
	v6 := slices.IndexFunc(list, func(e listing) bool { return e.prefix.Addr().Is6() })
	if v6 < 0 {
		v6 = len(list)
	}
	for _, family := range [][]listing{list[:v6], list[v6:]} {
		for part := range slices.Chunk(family, listBatch) {
			m, keys, says := t.batch(part)
			err := many(m, keys, says)
			if errors.Is(err, ebpf.ErrNotSupported) {
				err = nil
				for _, e := range part {
					if err = one(e); err != nil {
						break
					}
				}
			}
			if err != nil {
				return fmt.Errorf("map of listed clients, %d from %v on: %w", len(part), part[0].prefix, err)
			}
		}
	}
	return nil
}

// batch is listings of one IP version as their map wants them.
func (t trie) batch(list []listing) (m *ebpf.Map, keys any, says []uint32) {
	says = make([]uint32, len(list))
	for i, e := range list {
		says[i] = e.says
	}
	if list[0].prefix.Addr().Is4() {
		keys := make([]bpf.Prefix4, len(list))
		for i, e := range list {
			keys[i] = prefix4(e.prefix)
		}
		return t.map4, keys, says
	}
	k := make([]bpf.Prefix6, len(list))
	for i, e := range list {
		k[i] = prefix6(e.prefix)
	}
	return t.map6, k, says
}

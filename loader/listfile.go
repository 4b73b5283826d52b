// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/xdptcp/xdptcp/bpf"
)

// maxListLines is how many lines a list may have.
const maxListLines = 1_000_000

// A listing is one line of a list.
type listing struct {
	prefix netip.Prefix
	says   uint32 // bpf.ListAllow, bpf.ListDeny; 0: not known, see apply
	line   int32
}

// byPrefix orders listings: IPv4 first, then by address, shorter prefixes first.
func byPrefix(a, b listing) int {
	return cmp.Or(a.prefix.Addr().Compare(b.prefix.Addr()), cmp.Compare(a.prefix.Bits(), b.prefix.Bits()))
}

// readListFile reads a list, sorted, each prefix once. No name: an empty one.
func readListFile(name string, says uint32) ([]listing, error) {
	if name == "" {
		return nil, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("list of clients: %w", err)
	}
	defer f.Close()
	list, err := parseList(f, says)
	if err != nil {
		return nil, fmt.Errorf("list of clients: %s:%w", name, err)
	}
	return list, nil
}

// parseList reads one address or prefix a line. What follows "#" is a comment.
func parseList(r io.Reader, says uint32) ([]listing, error) {
	var list []listing
	lines := bufio.NewScanner(r)
	n := int32(0)
	for lines.Scan() {
		n++
		text, _, _ := strings.Cut(lines.Text(), "#")
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		p, err := parsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("%d: %w", n, err)
		}
		if len(list) == maxListLines {
			return nil, fmt.Errorf("%d: more than %d addresses and prefixes", n, maxListLines)
		}
		list = append(list, listing{p, says, n})
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%d: %w", n+1, err)
	}
	slices.SortFunc(list, byPrefix)
	return slices.CompactFunc(list, func(a, b listing) bool { return a.prefix == b.prefix }), nil
}

// readLists reads both lists as one. A prefix can't be on both.
func readLists(allow, deny string) (both []listing, allowed int, err error) {
	a, err := readListFile(allow, bpf.ListAllow)
	if err != nil {
		return nil, 0, err
	}
	d, err := readListFile(deny, bpf.ListDeny)
	if err != nil {
		return nil, 0, err
	}
	both = slices.Concat(a, d)
	slices.SortFunc(both, byPrefix)
	for i := 1; i < len(both); i++ {
		x, y := both[i-1], both[i]
		if x.prefix != y.prefix {
			continue
		}
		if x.says == bpf.ListDeny {
			x, y = y, x
		}
		return nil, 0, fmt.Errorf("%v is allowed and denied: %s:%d, %s:%d", x.prefix, allow, x.line, deny, y.line)
	}
	return both, len(a), nil
}

// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

var writeCorpus = flag.Bool("corpus", false, "write FuzzVerdict's corpus from the packet tables")

// seed writes a frame of the packet tables into FuzzVerdict's corpus: the first for each reason and family,
// with no tag, one or two in turns. To write it anew:
//
//	rm -r bpf/testdata/fuzz && go test ./bpf -run 'Table$' -corpus
func (p *program) seed(f family, frame []byte, why Reason) {
	if !*writeCorpus {
		return
	}
	_, name := ReasonLabels(why)
	v, _ := p.world.look(frame)
	tags := 0
	if v != nil {
		tags = (v.link - ethLen) / 4
	}
	s := state(0)
	switch why {
	case PassNoLease:
		s = leaseOver
	case PassDisarmed:
		s = disarmed
	case RedirectOpened:
		s = rightCookie | rightTCPSum
	case TxReset, DropDenied:
		s = 1
	case DropNoSocket:
		s = 2 | rightCookie | rightTCPSum
	}
	dir := "testdata/fuzz/FuzzVerdict"
	must(p.tb, os.MkdirAll(dir, 0o755))
	if tags != (int(why)+f.ipLen/20)%3 {
		return
	}
	path := filepath.Join(dir, fmt.Sprintf("%s-%s", name, strings.ToLower(f.name)))
	text := fmt.Sprintf("go test fuzz v1\n[]byte(%q)\nuint16(%d)\n", frame, s)
	if _, err := os.Stat(path); os.IsNotExist(err) { // the first of its kind
		must(p.tb, os.WriteFile(path, []byte(text), 0o644))
	}
}

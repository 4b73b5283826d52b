// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"

	"github.com/xdptcp/xdptcp/bpf"
)

// writeCounters prints the counters that are not zero as lines of tab-separated cells.
func writeCounters(w io.Writer, reasons [bpf.ReasonCount]uint64) {
	any := false
	for i, n := range reasons {
		if n == 0 {
			continue
		}
		verdict, reason := bpf.ReasonLabels(bpf.Reason(i))
		fmt.Fprintf(w, "packets\t%s %s\t%d\n", verdict, reason, n)
		any = true
	}
	if !any {
		fmt.Fprintf(w, "packets\tnone yet\n")
	}
}

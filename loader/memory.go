// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"

	"github.com/cilium/ebpf"
)

// FlowMemory is what the kernel says that the flow tables, and the sketch in front of them, take, in bytes.
func (r *Responder) FlowMemory() (bytes uint64, err error) {
	for name, m := range map[string]*ebpf.Map{
		"flows4": r.objects.Flows4, "flows6": r.objects.Flows6, "sketch": r.objects.Sketch,
	} {
		info, err := m.Info()
		if err != nil {
			return 0, fmt.Errorf("map %s: %w", name, err)
		}
		n, _ := info.Memlock()
		bytes += n
	}
	return bytes, nil
}

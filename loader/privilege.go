// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// needed are the capabilities without which nothing can be attached.
var needed = []struct {
	bit  uint
	name string
}{
	{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"},
	{unix.CAP_NET_RAW, "CAP_NET_RAW"},
	{unix.CAP_BPF, "CAP_BPF"},
}

// checkPrivilege names what the calling thread lacks.
func checkPrivilege() error {
	var data [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("reading this process's capabilities: %w", err)
	}
	effective := uint64(data[1].Effective)<<32 | uint64(data[0].Effective)
	if effective>>unix.CAP_SYS_ADMIN&1 != 0 { // contains CAP_BPF
		effective |= 1 << unix.CAP_BPF
	}
	var missing []string
	for _, c := range needed {
		if effective>>c.bit&1 == 0 {
			missing = append(missing, c.name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("run as root: attaching needs %s", strings.Join(missing, ", "))
	}
	return nil
}

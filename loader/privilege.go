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
	effective, err := capabilities()
	if err != nil {
		return err
	}
	if missing := effective.missing(); len(missing) > 0 {
		return fmt.Errorf("run as root: attaching needs %s", strings.Join(missing, ", "))
	}
	return nil
}

// capSet is a set of capabilities, by their numbers.
type capSet uint64

func (s capSet) has(bit uint) bool { return s>>bit&1 != 0 }

// capabilities are the calling thread's effective ones.
func capabilities() (capSet, error) {
	var data [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&header, &data[0]); err != nil {
		return 0, fmt.Errorf("reading this process's capabilities: %w", err)
	}
	return capSet(data[1].Effective)<<32 | capSet(data[0].Effective), nil
}

// missing names those of the needed that are not in the set.
func (s capSet) missing() (names []string) {
	if s.has(unix.CAP_SYS_ADMIN) { // contains CAP_BPF
		s |= 1 << unix.CAP_BPF
	}
	for _, c := range needed {
		if !s.has(c.bit) {
			names = append(names, c.name)
		}
	}
	return names
}

// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"

	"github.com/cilium/ebpf"
)

// facts are all that the doctor's checks look at: what the kernel says of itself, and of an interface.
type facts struct {
	kernelFacts
	linkFacts
}

// gatherFacts asks the kernel. Nothing is changed: what is loaded to see whether it can be is closed
// again. What can't be asked is in the facts as such; an error means that there is no such interface.
func gatherFacts(name string) (*facts, error) {
	link, err := readLink(name)
	if err != nil {
		return nil, err
	}
	return &facts{kernelFacts: readKernel(), linkFacts: link}, nil
}

// absent says whether an answer means that the kernel does not have what was asked for. Any other
// error means that it could not be asked.
func absent(answer error) bool { return errors.Is(answer, ebpf.ErrNotSupported) }

// A setting of an interface is on, off, or not told by its driver.
type setting int

const (
	untold setting = iota
	off
	on
)

func (s setting) String() string { return [...]string{"not told by the driver", "off", "on"}[s] }

func settingOf(isOn bool) setting {
	if isOn {
		return on
	}
	return off
}
